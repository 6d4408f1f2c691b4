/* PCI IDE of the PIIX3 and PIIX4: two cables at the compatible ports, with a bus master each.
 *
 * Source: Intel 82371SB (PIIX3) data sheet, 2.4 and 4; Programming Interface for Bus Master IDE Controller 1.0.
 * The compatible ports are always decoded. Left out: timing registers have no effect. */
#include "hw/ide/ide.h"
#include "hw/isa/isa.h"
#include "hw/pci/pci.h"

enum { BMIC = 0, BMIS = 2, BMIDTP = 4, BM_SIZE = 8 };
enum { BMIC_START = 1, BMIC_TO_MEMORY = 8, BMIS_ACTIVE = 1, BMIS_ERROR = 2, BMIS_IRQ = 4, BMIS_CAPABLE = 0x60 };
enum { PRD_SIZE = 8, PRD_MAX = 8192 };
#define PRD_EOT 0x80000000u

struct piix_ide;
struct channel {
    struct ide_bus bus;
    struct piix_ide *ide; /* borrowed */
    struct mem_region cmd, ctl;
    struct irq_line *irq; /* borrowed */
    uint8_t bmic, bmis;
    uint32_t dtp;
    /* Where the engine is: next table entry, the piece in hand. */
    uint32_t prd, at, left;
    unsigned nr; /* entries read: a table that never ends is stopped */
    bool last;
};
struct piix_ide {
    struct pci_dev pci; /* first */
    struct mem_region bm;
    struct channel ch[2];
};

/* ---- bus master ---- */

static void engine_rewind(struct channel *c)
{
    c->prd = c->dtp;
    c->left = 0;
    c->nr = 0;
    c->last = false;
}

static bool next_prd(struct channel *c)
{
    uint8_t b[PRD_SIZE];

    if (c->last || c->nr++ >= PRD_MAX)
        return false;
    pci_dma_read(&c->ide->pci, c->prd, b, sizeof b);
    c->prd += PRD_SIZE;
    c->at = get_le32(b) & ~1u;
    c->left = get_le16(b + 4) & ~1u;
    if (!c->left)
        c->left = 65536;
    c->last = get_le32(b + 4) & PRD_EOT;
    return true;
}

static size_t dma_copy(void *opaque, uint8_t *buf, size_t len, bool to_guest)
{
    struct channel *c = opaque;
    size_t done = 0;

    while (done < len) {
        if (!c->left && !next_prd(c))
            break;
        size_t n = min_u64(len - done, c->left);
        if (to_guest)
            pci_dma_write(&c->ide->pci, c->at, buf + done, n);
        else
            pci_dma_read(&c->ide->pci, c->at, buf + done, n);
        c->at += n;
        c->left -= n;
        done += n;
    }
    return done;
}

static void dma_wait(void *opaque)
{
    struct channel *c = opaque;

    if (c->bmic & BMIC_START)
        ide_dma_go(&c->bus);
}

static void dma_done(void *opaque, bool ok)
{
    struct channel *c = opaque;

    c->bmis &= ~BMIS_ACTIVE;
    if (!ok)
        c->bmis |= BMIS_ERROR;
}

static void channel_irq(void *opaque, int level)
{
    struct channel *c = opaque;

    if (level)
        c->bmis |= BMIS_IRQ;
    irq_set(c->irq, level);
}
static const struct ide_ops piix_ops = {
    .irq = channel_irq, .dma_wait = dma_wait, .dma_copy = dma_copy, .dma_done = dma_done};

static uint64_t bm_read(void *opaque, gpa_t off, unsigned size)
{
    struct piix_ide *p = opaque;
    struct channel *c = &p->ch[off / BM_SIZE];

    switch (off % BM_SIZE) {
    case BMIC:
        return c->bmic;
    case BMIS:
        return c->bmis;
    case BMIDTP:
    case BMIDTP + 1:
    case BMIDTP + 2:
    case BMIDTP + 3:
        return c->dtp >> (8 * (off % 4)) & 0xff;
    default:
        return 0;
    }
}

static void bm_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct piix_ide *p = opaque;
    struct channel *c = &p->ch[off / BM_SIZE];
    unsigned shift = 8 * (off % 4);

    switch (off % BM_SIZE) {
    case BMIC:
        if ((val & BMIC_START) && !(c->bmic & BMIC_START)) {
            engine_rewind(c);
            c->bmis |= BMIS_ACTIVE;
        }
        if (!(val & BMIC_START))
            c->bmis &= ~BMIS_ACTIVE;
        c->bmic = val & (BMIC_START | BMIC_TO_MEMORY);
        if (c->bmic & BMIC_START)
            ide_dma_go(&c->bus);
        break;
    case BMIS:
        c->bmis = (c->bmis & ~BMIS_CAPABLE & ~(val & (BMIS_IRQ | BMIS_ERROR))) | (val & BMIS_CAPABLE);
        break;
    case BMIDTP:
    case BMIDTP + 1:
    case BMIDTP + 2:
    case BMIDTP + 3:
        c->dtp = ((c->dtp & ~(0xffu << shift)) | (uint32_t)val << shift) & ~3u;
        break;
    default:
        break;
    }
}
static const struct mem_ops bm_ops = {
    .read = bm_read, .write = bm_write, .valid_min = 1, .valid_max = 4, .impl_min = 1, .impl_max = 1};

/* ---- compatible ports ---- */

static uint64_t cmd_read(void *opaque, gpa_t off, unsigned size)
{
    struct channel *c = opaque;

    if (off)
        return ide_read(&c->bus, off);
    if (size == 1)
        return ide_data_read(&c->bus) & 0xff;
    uint32_t v = ide_data_read(&c->bus);
    return size == 4 ? v | (uint32_t)ide_data_read(&c->bus) << 16 : v;
}

static void cmd_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct channel *c = opaque;

    if (off) {
        ide_write(&c->bus, off, val);
        return;
    }
    ide_data_write(&c->bus, val);
    if (size == 4)
        ide_data_write(&c->bus, val >> 16);
}
static const struct mem_ops cmd_ops = {
    .read = cmd_read, .write = cmd_write, .valid_min = 1, .valid_max = 4, .impl_min = 1, .impl_max = 4};

static uint64_t ctl_read(void *opaque, gpa_t off, unsigned size)
{
    return ide_alt_status(&((struct channel *)opaque)->bus);
}
static void ctl_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    ide_control_write(&((struct channel *)opaque)->bus, val);
}
static const struct mem_ops ctl_ops = {.read = ctl_read, .write = ctl_write, .impl_min = 1, .impl_max = 1};

/* ---- life ---- */

static bool piix_realize(struct dev *d, struct err **errp)
{
    static const struct {
        uint16_t cmd, ctl;
        unsigned irq;
        const char *name;
    } place[2] = {{0x1f0, 0x3f6, 14, "ide.0"}, {0x170, 0x376, 15, "ide.1"}};
    struct piix_ide *p = container_of(d, struct piix_ide, pci.dev);
    struct machine *m = dev_machine(d);
    struct bus *isa = bus_find(m, NULL, "ISA", errp);

    if (!isa)
        return false;
    mem_region_init_io(&p->bm, m->mem_sys, &bm_ops, p, "piix-bmdma", 2 * BM_SIZE);
    pci_add_bar(&p->pci, 4, PCI_BAR_IO, &p->bm);
    memset(p->pci.wmask + 0x40, 0xff, 5);
    memset(p->pci.wmask + 0x48, 0xff, 4);
    for (unsigned i = 0; i < 2; i++) {
        struct channel *c = &p->ch[i];
        c->ide = p;
        c->irq = container_of(isa, struct isa_bus, bus)->irq[place[i].irq];
        ide_bus_init(&c->bus, d, d->id ? NULL : place[i].name, 2, &piix_ops, c);
        mem_region_init_io(&c->cmd, m->mem_sys, &cmd_ops, c, "ide-command", 8);
        mem_region_init_io(&c->ctl, m->mem_sys, &ctl_ops, c, "ide-control", 1);
        dev_map_io(d, &c->cmd, place[i].cmd);
        dev_map_io(d, &c->ctl, place[i].ctl);
    }
    return true;
}

static void piix_unrealize(struct dev *d)
{
    struct piix_ide *p = container_of(d, struct piix_ide, pci.dev);

    for (unsigned i = 0; i < 2; i++) {
        mem_region_del(&p->ch[i].cmd);
        mem_region_del(&p->ch[i].ctl);
        ide_bus_fini(&p->ch[i].bus);
    }
}

static void piix_reset(struct dev *d)
{
    struct piix_ide *p = container_of(d, struct piix_ide, pci.dev);

    for (unsigned i = 0; i < 2; i++) {
        struct channel *c = &p->ch[i];
        c->bmic = 0;
        c->bmis = 0;
        c->dtp = 0;
        engine_rewind(c);
        ide_bus_reset(&c->bus);
    }
    put_le16(p->pci.config + PCI_STATUS, 0x0280); /* medium timing, fast back-to-back */
}

static const struct state_field channel_fields[] = {STATE_U8(struct channel, bmic),
                                                    STATE_U8(struct channel, bmis),
                                                    STATE_U32(struct channel, dtp),
                                                    STATE_U32(struct channel, prd),
                                                    STATE_U32(struct channel, at),
                                                    STATE_U32(struct channel, left),
                                                    STATE_INT(struct channel, nr),
                                                    STATE_BOOL(struct channel, last),
                                                    STATE_STRUCT(struct channel, bus, ide_bus_state),
                                                    STATE_END};
static const struct state_desc channel_state = {.name = "ide-channel", .version = 1, .fields = channel_fields};
static const struct state_field piix_fields[] = {STATE_STRUCT(struct piix_ide, pci, pci_dev_state),
                                                 STATE_STRUCTS(struct piix_ide, ch, channel_state), STATE_END};
static const struct state_desc piix_state = {.name = "piix-ide", .version = 1, .fields = piix_fields};

#define PIIX_CLASS(var, nm, text, id)                                                                                  \
    static const struct pci_class var = {.name = nm,                                                                   \
                                         .parent = "pci-device",                                                       \
                                         .desc = text,                                                                 \
                                         .size = sizeof(struct piix_ide),                                              \
                                         .more_props = pci_props,                                                      \
                                         .bus_type = "PCI",                                                            \
                                         .category = DEV_CAT_STORAGE,                                                  \
                                         .board_only = true,                                                           \
                                         .realize = piix_realize,                                                      \
                                         .unrealize = piix_unrealize,                                                  \
                                         .reset = piix_reset,                                                          \
                                         .state_desc = &piix_state,                                                    \
                                         .vendor_id = 0x8086,                                                          \
                                         .device_id = id,                                                              \
                                         .class_id = 0x0101,                                                           \
                                         .prog_if = 0x80};                                                             \
    PCI_REGISTER(var)
PIIX_CLASS(piix3_ide_class, "piix3-ide", "PIIX3 IDE controller", 0x7010)
PIIX_CLASS(piix4_ide_class, "piix4-ide", "PIIX4 IDE controller", 0x7111)
