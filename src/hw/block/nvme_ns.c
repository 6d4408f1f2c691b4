/* NVMe namespaces: what they say of themselves, their commands, and the device nvme-ns. NVM Express base specification
 * 1.4, 5.15 and chapter 6.
 *
 * A namespace has one LBA format, without metadata. The drive's error policy decides between failing a command and
 * keeping it until the machine goes on; a kept command is run again from its start. */
#include "base/str.h"
#include "hw/block/nvme_int.h"

enum { OP_FLUSH = 0x00, OP_WRITE = 0x01, OP_READ = 0x02, OP_COMPARE = 0x05, OP_WRITE_ZEROES = 0x08, OP_DSM = 0x09 };
enum { FUA = 1 << 30, PRINFO = 15 << 26, DEAC = 1 << 25, DSM_DEALLOCATE = 4, RANGE_SIZE = 16, RANGES_MAX = 256 };
#define ALL_NS UINT32_C(0xffffffff)

struct nvme_ns_dev {
    struct dev dev; /* first */
    struct nvme_ns ns;
    int32_t bootindex; /* property */
};

/* ---- commands ---- */

static uint16_t failure(const struct nvme_req *r)
{
    return r->is_read ? SC_READ_ERROR : SC_WRITE_FAULT;
}

static bool equal(const struct nvme_req *r)
{
    const uint8_t *p = r->aux;
    bool same = true;

    for (unsigned i = 0; i < r->data.nr && same; p += r->data.v[i++].iov_len)
        same = !memcmp(r->data.v[i].iov_base, p, r->data.v[i].iov_len);
    return same;
}

static void account(struct nvme_req *r)
{
    if (r->cmd[0] == OP_READ || r->cmd[0] == OP_COMPARE) {
        r->ns->reads++;
        r->ns->units_read += r->len / 512;
    } else if (r->cmd[0] == OP_WRITE) {
        r->ns->writes++;
        r->ns->units_written += r->len / 512;
    }
}

static void done(void *opaque, int ret)
{
    struct nvme_req *r = opaque;
    uint16_t s = SC_SUCCESS;

    if (ret < 0 && !r->error)
        r->error = ret;
    if (--r->left)
        return;
    if (r->error && !r->n->dropping && !r->sq->deleter) {
        switch (blk_error_action(r->ns->blk, r->is_read, -r->error)) {
        case BLK_POLICY_STOP:
            nvme_req_keep(r);
            return;
        case BLK_POLICY_IGNORE:
            r->error = 0;
            break;
        case BLK_POLICY_REPORT:
            break;
        }
    }
    if (r->error)
        s = failure(r);
    else if (r->cmd[0] == OP_COMPARE && !equal(r))
        s = SC_COMPARE | SC_DNR;
    if (!s)
        account(r);
    nvme_req_end(r, s);
}

/* Start and number of blocks of the commands that have them. */
static uint16_t take_range(struct nvme_req *r)
{
    uint64_t slba = get_le64(r->cmd + 40), nlb = (nvme_dw(r, 12) & 0xffff) + UINT64_C(1), all = nvme_ns_blocks(r->ns);

    if (nvme_dw(r, 12) & PRINFO)
        return SC_INVALID_FIELD | SC_DNR;
    if (slba > all || nlb > all - slba)
        return SC_LBA_RANGE | SC_DNR;
    r->off = slba * r->ns->log_bs;
    r->len = nlb * r->ns->log_bs;
    return SC_SUCCESS;
}

static uint16_t read_write(struct nvme_req *r, bool write)
{
    uint16_t s = take_range(r);

    if (s || (s = nvme_data_map(r, r->len, !write)))
        return s;
    r->left = 1;
    if (write)
        blk_aio_write(r->ns->blk, r->off, &r->data, nvme_dw(r, 12) & FUA ? BLK_FUA : 0, done, r);
    else
        blk_aio_read(r->ns->blk, r->off, &r->data, 0, done, r);
    return SC_PENDING;
}

static uint16_t compare(struct nvme_req *r)
{
    uint16_t s = take_range(r);
    struct iov q;

    if (s || (s = nvme_data_map(r, r->len, false)))
        return s;
    r->aux = try_alloc(1, r->len);
    if (!r->aux)
        return SC_INTERNAL;
    r->aux_v = (struct iovec){r->aux, r->len};
    iov_init_ext(&q, &r->aux_v, 1);
    r->left = 1;
    blk_aio_read(r->ns->blk, r->off, &q, 0, done, r);
    return SC_PENDING;
}

static uint16_t write_zeroes(struct nvme_req *r)
{
    uint32_t dw12 = nvme_dw(r, 12);
    uint16_t s = take_range(r);

    if (s)
        return s;
    r->left = 1;
    blk_aio_zero(r->ns->blk, r->off, r->len, (dw12 & DEAC ? BLK_MAY_UNMAP : 0) | (dw12 & FUA ? BLK_FUA : 0), done, r);
    return SC_PENDING;
}

static uint16_t flush_one(struct nvme_req *r)
{
    r->left = 1;
    blk_aio_flush(r->ns->blk, done, r);
    return SC_PENDING;
}

static uint16_t flush_all(struct nvme_req *r)
{
    r->left = 1;
    for (unsigned i = 1; i <= NVME_NS_MAX; i++)
        if (r->n->ns[i]) {
            r->ns = r->n->ns[i];
            r->left++;
            blk_aio_flush(r->ns->blk, done, r);
        }
    if (!--r->left)
        return SC_SUCCESS;
    return SC_PENDING;
}

static uint16_t dataset_management(struct nvme_req *r)
{
    unsigned nr = (nvme_dw(r, 10) & 0xff) + 1;
    uint64_t all = nvme_ns_blocks(r->ns);
    uint8_t list[RANGES_MAX * RANGE_SIZE];
    uint16_t s;

    if (!(nvme_dw(r, 11) & DSM_DEALLOCATE)) /* the rest are hints */
        return SC_SUCCESS;
    if ((s = nvme_data_map(r, nr * RANGE_SIZE, false)) || (s = nvme_data_get(r, list, nr * RANGE_SIZE)))
        return s;
    for (unsigned i = 0; i < nr; i++) {
        uint64_t slba = get_le64(list + i * RANGE_SIZE + 8), nlb = get_le32(list + i * RANGE_SIZE + 4);

        if (slba > all || nlb > all - slba)
            return SC_LBA_RANGE | SC_DNR;
    }
    r->left = 1;
    for (unsigned i = 0; i < nr; i++) {
        uint64_t slba = get_le64(list + i * RANGE_SIZE + 8), nlb = get_le32(list + i * RANGE_SIZE + 4);

        if (!nlb)
            continue;
        r->left++;
        blk_aio_discard(r->ns->blk, slba * r->ns->log_bs, nlb * r->ns->log_bs, done, r);
    }
    return --r->left ? SC_PENDING : SC_SUCCESS;
}

uint16_t nvme_io(struct nvme_req *r)
{
    uint32_t nsid = nvme_dw(r, 1);
    uint8_t op = r->cmd[0];

    r->error = 0;
    r->is_read = op == OP_READ || op == OP_COMPARE;
    if (op == OP_FLUSH && nsid == ALL_NS)
        return flush_all(r);
    if (!nsid || nsid > NVME_NS_MAX)
        return SC_INVALID_NS | SC_DNR;
    r->ns = r->n->ns[nsid];
    if (!r->ns)
        return SC_INVALID_FIELD | SC_DNR;
    if ((op == OP_WRITE || op == OP_WRITE_ZEROES || op == OP_DSM) && blk_readonly(r->ns->blk))
        return SC_READ_ONLY | SC_DNR;
    switch (op) {
    case OP_FLUSH:
        return flush_one(r);
    case OP_WRITE:
    case OP_READ:
        return read_write(r, op == OP_WRITE);
    case OP_COMPARE:
        return compare(r);
    case OP_WRITE_ZEROES:
        return write_zeroes(r);
    case OP_DSM:
        return dataset_management(r);
    default:
        log_guest("nvme: command %#x", op);
        return SC_INVALID_OPCODE | SC_DNR;
    }
}

/* ---- identify ---- */

static unsigned log2_of(uint64_t v)
{
    return 63u - (unsigned)__builtin_clzll(v);
}

void nvme_ns_identify(const struct nvme_ns *ns, uint8_t *id)
{
    uint64_t n = nvme_ns_blocks(ns), gran = ns->discard_gran ? ns->discard_gran : 4096;

    put_le64(id, n);
    put_le64(id + 8, n);
    put_le64(id + 16, n);
    id[24] = 1 << 4; /* preferred sizes below are valid */
    id[99] = blk_readonly(ns->blk);
    put_le16(id + 64, (uint16_t)(ns->phys_bs / ns->log_bs - 1));
    put_le16(id + 66, (uint16_t)(ns->phys_bs / ns->log_bs - 1));
    put_le16(id + 68, (uint16_t)(max_u64(gran / ns->log_bs, 1) - 1));
    put_le16(id + 70, (uint16_t)(max_u64(gran / ns->log_bs, 1) - 1));
    put_le16(id + 72, ns->opt_io ? (uint16_t)(ns->opt_io / ns->log_bs - 1) : 0);
    memcpy(id + 104, ns->nguid, 16);
    put_be64(id + 120, ns->eui64);
    id[130] = (uint8_t)log2_of(ns->log_bs);
}

static uint8_t *descriptor(uint8_t *p, uint8_t type, uint8_t len)
{
    p[0] = type;
    p[1] = len;
    return p + 4;
}

void nvme_ns_descriptors(const struct nvme_ns *ns, uint8_t *p)
{
    if (ns->eui64) {
        put_be64(descriptor(p, 1, 8), ns->eui64);
        p += 12;
    }
    if (ns->has_nguid) {
        memcpy(descriptor(p, 2, 16), ns->nguid, 16);
        p += 20;
    }
    memcpy(descriptor(p, 3, 16), ns->uuid_bytes, 16);
}

/* ---- life ---- */

/* 32 hexadecimal digits; dashes in between are skipped. */
static bool parse_id(const char *text, uint8_t *out)
{
    unsigned nr = 0;

    memset(out, 0, 16);
    for (; *text; text++) {
        int v = *text >= '0' && *text <= '9'   ? *text - '0'
                : *text >= 'a' && *text <= 'f' ? *text - 'a' + 10
                : *text >= 'A' && *text <= 'F' ? *text - 'A' + 10
                                               : -1;

        if (*text == '-')
            continue;
        if (v < 0 || nr == 32)
            return false;
        out[nr / 2] |= (uint8_t)(nr % 2 ? v : v << 4);
        nr++;
    }
    return nr == 32;
}

/* The same for the same serial number and namespace, so that a guest knows its disk again. */
static void make_uuid(const struct nvme *n, struct nvme_ns *ns)
{
    uint64_t h[2] = {UINT64_C(0xcbf29ce484222325) ^ ns->nsid, UINT64_C(0x9ae16a3b2f90404f) ^ ns->nsid};

    for (const char *p = n->serial; *p; p++)
        for (unsigned i = 0; i < 2; i++)
            h[i] = (h[i] ^ (uint8_t)*p) * (UINT64_C(0x100000001b3) + 2 * i);
    put_le64(ns->uuid_bytes, h[0]);
    put_le64(ns->uuid_bytes + 8, h[1]);
    ns->uuid_bytes[6] = (ns->uuid_bytes[6] & 0x0f) | 0x80;
    ns->uuid_bytes[8] = (ns->uuid_bytes[8] & 0x3f) | 0x80;
}

static bool check_ids(const struct nvme *n, struct nvme_ns *ns, const char *cls, struct err **errp)
{
    bool automatic = !ns->uuid || !strcmp(ns->uuid, "auto");

    if (!automatic && !parse_id(ns->uuid, ns->uuid_bytes))
        return err_set(errp, "%s: uuid '%s' is not a UUID", cls, ns->uuid);
    if (automatic)
        make_uuid(n, ns);
    ns->has_nguid = ns->nguid_text != NULL;
    if (ns->has_nguid && !parse_id(ns->nguid_text, ns->nguid))
        return err_set(errp, "%s: nguid '%s' is not 32 hexadecimal digits", cls, ns->nguid_text);
    return true;
}

static bool check_sizes(struct nvme_ns *ns, const char *cls, struct err **errp)
{
    if (ns->log_bs < 512 || ns->log_bs > 65536 || !is_pow2(ns->log_bs))
        return err_set(errp, "%s: logical_block_size=%" PRIu64 " must be a power of two between 512 and 65536", cls,
                       ns->log_bs);
    if (!ns->phys_bs)
        ns->phys_bs = ns->log_bs;
    if (!is_pow2(ns->phys_bs) || ns->phys_bs < ns->log_bs || ns->phys_bs > 2 * MIB)
        return err_set(errp, "%s: physical_block_size=%" PRIu64 " must be a power of two of at least the logical one",
                       cls, ns->phys_bs);
    if (ns->min_io % ns->log_bs || ns->opt_io % ns->log_bs || ns->discard_gran % ns->log_bs)
        return err_set(errp,
                       "%s: min_io_size, opt_io_size and discard_granularity must be multiples of "
                       "logical_block_size",
                       cls);
    return true;
}

static void changed(struct nvme *n, uint32_t nsid)
{
    unsigned i = 0;

    while (i < n->nr_changed && n->changed_ns[i] != nsid)
        i++;
    if (i == n->nr_changed && n->nr_changed < NVME_NS_MAX)
        n->changed_ns[n->nr_changed++] = nsid;
    if (n->feat_events & 0x100)
        nvme_event(n, AE_NOTICE, AE_NS_CHANGED, LOG_CHANGED_NS);
}

static void resized(void *opaque)
{
    struct nvme_ns *ns = opaque;

    changed(ns->n, ns->nsid);
}
static const struct blk_dev_ops ns_blk_ops = {.resized = resized};

static bool place(struct nvme *n, struct nvme_ns *ns, const char *cls, struct err **errp)
{
    if (!ns->nsid)
        for (ns->nsid = 1; ns->nsid <= NVME_NS_MAX && n->ns[ns->nsid]; ns->nsid++)
            ;
    if (ns->nsid > NVME_NS_MAX)
        return err_set(errp, "%s: nsid must be between 1 and %d", cls, NVME_NS_MAX);
    if (n->ns[ns->nsid])
        return err_set(errp, "%s: nsid %u of this controller is already used", cls, ns->nsid);
    return true;
}

bool nvme_ns_attach(struct nvme *n, struct nvme_ns *ns, const char *cls, struct err **errp)
{
    if (!ns->blk)
        return err_set(errp, "%s: the drive property is not set; give drive=ID of a -drive or -blockdev", cls);
    if (!blk_has_medium(ns->blk))
        return err_set(errp, "%s: drive '%s' is empty, this device needs a medium", cls, blk_id(ns->blk));
    if (!place(n, ns, cls, errp) || !check_sizes(ns, cls, errp) || !check_ids(n, ns, cls, errp) ||
        !blk_set_share_rw(ns->blk, ns->share_rw, errp))
        return false;
    if (ns->write_cache != OOA_AUTO)
        blk_set_write_cache(ns->blk, ns->write_cache == OOA_ON);
    ns->n = n;
    n->ns[ns->nsid] = ns;
    blk_set_dev_ops(ns->blk, &ns_blk_ops, ns);
    changed(n, ns->nsid);
    return true;
}

void nvme_ns_detach(struct nvme_ns *ns)
{
    struct nvme *n = ns->n;
    struct nvme_req *r, *tmp;

    n->ns[ns->nsid] = NULL; /* nothing new starts */
    blk_drain(ns->blk);
    list_each_safe (r, tmp, &n->stopped, link)
        if (r->ns == ns) {
            list_del(&r->link);
            nvme_req_end(r, SC_INVALID_NS | SC_DNR);
        }
    blk_set_dev_ops(ns->blk, NULL, NULL);
    ns->n = NULL;
    changed(n, ns->nsid);
}

static bool pre_save(void *opaque, struct err **errp)
{
    struct nvme_ns *ns = opaque;

    ns->saved_wce = ns->blk && blk_write_cache(ns->blk);
    return true;
}

static bool post_load(void *opaque, struct err **errp)
{
    struct nvme_ns *ns = opaque;

    if (ns->blk)
        blk_set_write_cache(ns->blk, ns->saved_wce);
    return true;
}
static const struct state_field ns_fields[] = {
    STATE_BOOL(struct nvme_ns, saved_wce),    STATE_U64(struct nvme_ns, units_read),
    STATE_U64(struct nvme_ns, units_written), STATE_U64(struct nvme_ns, reads),
    STATE_U64(struct nvme_ns, writes),        STATE_END,
};
const struct state_desc nvme_ns_state = {
    .name = "nvme-namespace", .version = 1, .fields = ns_fields, .pre_save = pre_save, .post_load = post_load};

/* ---- the device ---- */

static bool ns_realize(struct dev *d, struct err **errp)
{
    struct nvme_ns_dev *s = container_of(d, struct nvme_ns_dev, dev);
    struct nvme *n = container_of(d->bus, struct nvme, bus);

    s->ns.dev = d;
    return nvme_ns_attach(n, &s->ns, "nvme-ns", errp);
}

static void ns_unrealize(struct dev *d)
{
    nvme_ns_detach(&container_of(d, struct nvme_ns_dev, dev)->ns);
}

static char *ns_fw_path(struct dev *d)
{
    return xasprintf("namespace@%x,0", container_of(d, struct nvme_ns_dev, dev)->ns.nsid);
}

static char *ns_dev_path(struct dev *d)
{
    return xasprintf("ns%u", container_of(d, struct nvme_ns_dev, dev)->ns.nsid);
}
const struct bus_class nvme_bus_class = {.type = "nvme-bus", .fw_path = ns_fw_path, .dev_path = ns_dev_path};

static const struct prop ns_props[] = {
    NVME_NS_PROPS(struct nvme_ns_dev, ns),
    PROP("nsid", u32, struct nvme_ns_dev, ns.nsid, .dflt = "0"),
    PROP("uuid", str, struct nvme_ns_dev, ns.uuid),
    PROP("nguid", str, struct nvme_ns_dev, ns.nguid_text),
    PROP("eui64", u64, struct nvme_ns_dev, ns.eui64, .dflt = "0"),
    PROP("bootindex", i32, struct nvme_ns_dev, bootindex, .dflt = "-1"),
    PROP_END,
};
static const struct state_field ns_dev_fields[] = {STATE_STRUCT(struct nvme_ns_dev, ns, nvme_ns_state), STATE_END};
static const struct state_desc ns_dev_state = {.name = "nvme-ns", .version = 1, .fields = ns_dev_fields};
static const struct dev_class nvme_ns_class = {.name = "nvme-ns",
                                               .parent = "device",
                                               .desc = "NVM Express namespace",
                                               .size = sizeof(struct nvme_ns_dev),
                                               .props = ns_props,
                                               .bus_type = "nvme-bus",
                                               .hotplug = true,
                                               .category = DEV_CAT_STORAGE,
                                               .realize = ns_realize,
                                               .unrealize = ns_unrealize,
                                               .state_desc = &ns_dev_state};
DEV_REGISTER(nvme_ns_class)
