/* The drives on an IDE cable: ide-hd and ide-cd, and how they describe themselves. Source: ATA/ATAPI-7, 6.16 and 6.17;
 * ACS-3. */
#include "hw/ide/ide.h"
#include "hw/scsi/scsi.h"

/* Text in IDENTIFY data: padded with blanks, the bytes of each word swapped. */
static void put_text(uint8_t *p, size_t n, const char *text)
{
    size_t len = strlen(text);

    for (size_t i = 0; i < n; i++)
        p[i ^ 1] = i < len ? text[i] : ' ';
}

static void word(uint8_t *id, unsigned n, uint16_t v)
{
    put_le16(id + 2 * n, v);
}

static void identify_common(struct ide_bus *b, struct ide_dev *d, uint8_t *id)
{
    AUTOFREE char *serial = d->serial ? xstrdup(d->serial) : xasprintf("QM%05d", d->unit + 1);

    put_text(id + 20, 20, serial);
    put_text(id + 46, 8, d->ver ? d->ver : "2.5+");
    put_text(id + 54, 40, d->model ? d->model : d->cd ? "QEMU DVD-ROM" : "QEMU HARDDISK");
    word(id, 49, 1 << 11 | 1 << 9 | 1 << 8); /* IORDY, LBA, DMA */
    word(id, 53, 7);                         /* words 54-58, 64-70, 88 are valid */
    word(id, 63, 0x07);                      /* multi-word DMA 0-2 */
    word(id, 64, 3);                         /* PIO 3 and 4 */
    for (unsigned w = 65; w <= 68; w++)
        word(id, w, 120);               /* cycle times */
    word(id, 80, 0xf0);                 /* ATA/ATAPI-4 to -7 */
    word(id, 88, 0x3f | 1 << 13);       /* Ultra DMA 0-5, 5 chosen */
    word(id, 93, 1 | 1 << 14 | 0x2000); /* 80-conductor cable */
    if (b->ops->fis) {
        word(id, 75, 31);         /* queue depth */
        word(id, 76, 1 << 8 | 6); /* NCQ, 1.5 and 3 Gbit/s */
        word(id, 93, 0);
    }
}

static void identify_disk(struct ide_bus *b, struct ide_unit *u, uint8_t *id)
{
    struct ide_dev *d = u->dev;
    uint64_t n = blk_size(d->blk) / IDE_SECTOR;
    unsigned exp = 0;

    word(id, 0, 0x0040);
    word(id, 1, d->cyls);
    word(id, 3, d->heads);
    word(id, 6, d->secs);
    word(id, 47, 0x8000 | IDE_MAX_MULT);
    word(id, 54, d->cyls);
    word(id, 55, d->heads);
    word(id, 56, d->secs);
    put_le32(id + 114, min_u64((uint64_t)d->cyls * d->heads * d->secs, UINT32_MAX));
    word(id, 59, u->mult ? 0x100 | u->mult : 0);
    put_le32(id + 120, min_u64(n, 0xfffffff));
    if (b->ops->fis) {
        word(id, 69, 1 << 14 | 1 << 5); /* TRIM is deterministic, reads zero */
        word(id, 105, 64);              /* at most this many blocks of ranges */
        word(id, 169, 1);               /* DATA SET MANAGEMENT has TRIM */
    }
    word(id, 82, 1 << 14 | 1 << 5 | 1);
    word(id, 83, 1 << 14 | 1 << 13 | 1 << 12 | 1 << 10);
    word(id, 84, 1 << 14 | 1 << 6 | (d->wwn ? 1 << 8 : 0));
    word(id, 85, 1 << 14 | (blk_write_cache(d->blk) ? 1 << 5 : 0) | 1);
    word(id, 86, 1 << 13 | 1 << 12 | 1 << 10);
    word(id, 87, 1 << 14 | 1 << 6 | (d->wwn ? 1 << 8 : 0));
    put_le64(id + 200, n);
    while (IDE_SECTOR << exp < d->phys_bs)
        exp++;
    word(id, 106, 1 << 14 | (exp ? 1 << 13 | exp : 0));
    for (unsigned i = 0; d->wwn && i < 4; i++)
        word(id, 108 + i, d->wwn >> (48 - 16 * i));
    word(id, 217, d->rotation);
}

static void identify_cd(uint8_t *id)
{
    word(id, 0, 2 << 14 | 5 << 8 | 1 << 7 | 2 << 5); /* packet device, CD-ROM, removable, quick DRQ, 12-byte packets */
    word(id, 62, 7);
    word(id, 82, 1 << 9 | 1 << 4);
    word(id, 83, 1 << 14);
    word(id, 84, 1 << 14);
    word(id, 85, 1 << 9 | 1 << 4);
    word(id, 87, 1 << 14);
}

void ide_identify(struct ide_bus *b, struct ide_unit *u, uint8_t *id)
{
    uint8_t sum = 0;

    memset(id, 0, 512);
    identify_common(b, u->dev, id);
    if (u->dev->cd) {
        identify_cd(id);
        if (b->ops->fis)
            word(id, 76, 6);
    } else {
        identify_disk(b, u, id);
    }
    id[510] = 0xa5;
    for (unsigned i = 0; i < 511; i++)
        sum += id[i];
    id[511] = -sum;
}

/* ---- the back end's news ---- */

static void resized(void *opaque)
{
    struct ide_dev *d = opaque;

    log_trace("ide: size of %s is now %" PRIu64, blk_id(d->blk), blk_size(d->blk));
}
static const struct blk_dev_ops hd_ops = {.resized = resized};

/* ---- life ---- */

static void guess_geometry(struct ide_dev *d)
{
    uint64_t n = blk_size(d->blk) / IDE_SECTOR;

    if (d->cyls && d->heads && d->secs)
        return;
    d->heads = 16;
    d->secs = 63;
    d->cyls = min_u64(max_u64(n / (16 * 63), 2), 16383);
}

static bool check_props(struct ide_dev *d, struct err **errp)
{
    const char *cls = d->dev.obj.cls->name;

    if (!d->blk && d->cd)
        d->blk = blk_attach_empty(blk_set_of(dev_machine(&d->dev)), &d->dev.obj);
    if (!d->blk)
        return err_set(errp, "%s: the drive property is not set; give drive=ID of a -drive or -blockdev", cls);
    if (!d->cd && !blk_has_medium(d->blk))
        return err_set(errp, "%s: drive '%s' is empty, this device needs a medium", cls, blk_id(d->blk));
    if (d->cd && blk_has_medium(d->blk) && !blk_readonly(d->blk))
        return err_set(errp, "%s: drive '%s' is writable; open it with readonly=on or media=cdrom", cls,
                       blk_id(d->blk));
    if (d->log_bs && d->log_bs != IDE_SECTOR && !d->cd)
        return err_set(errp, "%s: logical_block_size must be 512 for IDE", cls);
    if (d->phys_bs && (d->phys_bs < IDE_SECTOR || d->phys_bs > 1 << 20 || !is_pow2(d->phys_bs)))
        return err_set(errp, "%s: physical_block_size must be a power of two between 512 and 1048576", cls);
    if (d->serial && strlen(d->serial) > 20)
        return err_set(errp, "%s: serial '%s' is longer than 20 characters", cls, d->serial);
    if (d->model && strlen(d->model) > 40)
        return err_set(errp, "%s: model '%s' is longer than 40 characters", cls, d->model);
    if (d->cyls > 65535 || d->heads > 16 || d->secs > 255)
        return err_set(errp, "%s: geometry is at most cyls=65535,heads=16,secs=255", cls);
    return true;
}

static bool drive_realize(struct dev *dev, struct err **errp)
{
    struct ide_dev *d = container_of(dev, struct ide_dev, dev);

    d->cd = !strcmp(dev->obj.cls->name, "ide-cd");
    if (!check_props(d, errp))
        return false;
    if (!blk_set_share_rw(d->blk, d->share_rw, errp))
        return false;
    if (d->write_cache != OOA_AUTO)
        blk_set_write_cache(d->blk, d->write_cache == OOA_ON);
    if (d->cd) {
        d->scsi = scsi_cd_embed(dev_machine(dev), d->blk);
    } else {
        guess_geometry(d);
        blk_set_dev_ops(d->blk, &hd_ops, d);
    }
    ide_signature(&ide_bus_of(dev)->unit[d->unit]);
    return true;
}

static void drive_unrealize(struct dev *dev)
{
    struct ide_dev *d = container_of(dev, struct ide_dev, dev);

    blk_drain(d->blk);
    if (d->scsi)
        scsi_cd_release(d->scsi);
    else
        blk_set_dev_ops(d->blk, NULL, NULL);
    d->scsi = NULL;
}

#define DRIVE_PROPS                                                                                                    \
    PROP_BLK("drive", struct ide_dev, blk), PROP("unit", i32, struct ide_dev, unit, .dflt = "-1"),                     \
        PROP("serial", str, struct ide_dev, serial), PROP("model", str, struct ide_dev, model),                        \
        PROP("ver", str, struct ide_dev, ver), PROP("wwn", u64, struct ide_dev, wwn),                                  \
        PROP("logical_block_size", size, struct ide_dev, log_bs),                                                      \
        PROP("physical_block_size", size, struct ide_dev, phys_bs),                                                    \
        PROP("discard_granularity", size, struct ide_dev, discard_gran),                                               \
        PROP("share-rw", bool, struct ide_dev, share_rw, .dflt = "off"),                                               \
        PROP("write-cache", onoffauto, struct ide_dev, write_cache, .dflt = "auto"),                                   \
        PROP("bootindex", i32, struct ide_dev, bootindex, .dflt = "-1")
static const struct prop hd_props[] = {DRIVE_PROPS,
                                       PROP("cyls", u32, struct ide_dev, cyls),
                                       PROP("heads", u32, struct ide_dev, heads),
                                       PROP("secs", u32, struct ide_dev, secs),
                                       PROP("rotation_rate", u16, struct ide_dev, rotation, .dflt = "0"),
                                       PROP_END};
static const struct prop cd_props[] = {DRIVE_PROPS, PROP_END};
static const struct state_field drive_fields[] = {STATE_BYTES(struct ide_dev, sense),
                                                  STATE_BOOL(struct ide_dev, saved_wce),
                                                  STATE_PTR(struct ide_dev, scsi, scsi_disk_state), STATE_END};
static bool drive_pre_save(void *obj, struct err **errp)
{
    struct ide_dev *d = obj;

    d->saved_wce = blk_write_cache(d->blk);
    return true;
}
static bool drive_loaded(void *obj, struct err **errp)
{
    struct ide_dev *d = obj;

    if (!d->cd)
        blk_set_write_cache(d->blk, d->saved_wce);
    return true;
}
static const struct state_desc drive_state = {
    .name = "ide-drive", .version = 1, .fields = drive_fields, .pre_save = drive_pre_save, .post_load = drive_loaded};

static const char *const hd_aliases[] = {"ide-drive", NULL}; /* the name it had before CDs got one of their own */

#define DRIVE_CLASS(var, nm, text, al, p)                                                                              \
    static const struct dev_class var = {.name = nm,                                                                   \
                                         .aliases = al,                                                                \
                                         .parent = "ide-device",                                                       \
                                         .desc = text,                                                                 \
                                         .size = sizeof(struct ide_dev),                                               \
                                         .props = p,                                                                   \
                                         .bus_type = "IDE",                                                            \
                                         .category = DEV_CAT_STORAGE,                                                  \
                                         .realize = drive_realize,                                                     \
                                         .unrealize = drive_unrealize,                                                 \
                                         .state_desc = &drive_state};                                                  \
    DEV_REGISTER(var)
DRIVE_CLASS(ide_hd_class, "ide-hd", "virtual IDE disk", hd_aliases, hd_props)
DRIVE_CLASS(ide_cd_class, "ide-cd", "virtual IDE CD-ROM", NULL, cd_props)

static void CONSTRUCTOR ide_family(void)
{
    obj_register_family("ide-device", "device");
}
