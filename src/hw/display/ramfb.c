/* "ramfb": a framebuffer in guest RAM that firmware describes through the writable fw_cfg file "etc/ramfb": 28 bytes,
 * big endian: address (8), fourcc (4), flags (4), width (4), height (4), stride (4). Pixels are copied at each update:
 * the guest's RAM is not tracked for this. Formats: XR24 and RG16 of <drm_fourcc.h>. */
#include "base/bytes.h"
#include "hw/nvram/fw_cfg.h"
#include "ui/ui.h"

enum { CFG_LEN = 28, MAX_EDGE = 8192 };
enum { FOURCC_XR24 = 0x34325258, FOURCC_AR24 = 0x34325241, FOURCC_RG16 = 0x36314752 };

struct ramfb {
    struct dev dev; /* first */
    struct ui_console *con;
    uint8_t cfg[CFG_LEN]; /* as the guest wrote it */
    uint64_t addr;
    uint32_t fourcc, width, height, stride; /* width 0: no picture */
};

/* The guest wrote the file: take what is sound. */
static void written(void *o)
{
    struct ramfb *r = o;
    uint32_t bytes;

    r->addr = get_be64(r->cfg);
    r->fourcc = get_be32(r->cfg + 8);
    r->width = get_be32(r->cfg + 16);
    r->height = get_be32(r->cfg + 20);
    r->stride = get_be32(r->cfg + 24);
    bytes = r->fourcc == FOURCC_RG16 ? 2 : 4;
    if (r->width < 16 || r->height < 16 || r->width > MAX_EDGE || r->height > MAX_EDGE ||
        (r->fourcc != FOURCC_XR24 && r->fourcc != FOURCC_AR24 && r->fourcc != FOURCC_RG16)) {
        log_guest("ramfb: mode %ux%u format %08x is not offered", r->width, r->height, r->fourcc);
        r->width = 0;
        return;
    }
    if (!r->stride)
        r->stride = r->width * bytes;
    if (r->stride < r->width * bytes || r->stride > MAX_EDGE * 4)
        r->width = 0;
}

static void copy_line(struct ramfb *r, unsigned y, uint32_t *out)
{
    gpa_t at = r->addr + (uint64_t)y * r->stride;
    uint8_t *px = (uint8_t *)out;

    if (r->fourcc != FOURCC_RG16) {
        mem_read(dev_machine(&r->dev)->mem, at, px, r->width * 4);
        for (unsigned x = 0; x < r->width; x++)
            out[x] = get_le32(px + x * 4) & 0xffffff;
        return;
    }
    mem_read(dev_machine(&r->dev)->mem, at, px, r->width * 2);
    for (unsigned x = r->width; x-- > 0;) { /* from the end: the line grows in place */
        uint32_t c = get_le16(px + x * 2);

        out[x] = (c >> 11 & 31) * 255 / 31 << 16 | (c >> 5 & 63) * 255 / 63 << 8 | (c & 31) * 255 / 31;
    }
}

static void update(void *o)
{
    struct ramfb *r = o;
    struct ui_surface *s = ui_console_surface(r->con);
    int w = r->width ? (int)r->width : 640, h = r->width ? (int)r->height : 480;

    if (!s || s->width != w || s->height != h)
        s = ui_console_resize(r->con, w, h, NULL, 0);
    if (!s || !r->width)
        return;
    for (int y = 0; y < h; y++)
        copy_line(r, (unsigned)y, (uint32_t *)(void *)(s->data + (size_t)y * (size_t)s->stride));
    ui_dirty(r->con, 0, 0, w, h);
}
static const struct ui_console_ops console_ops = {.update = update};

static bool realize(struct dev *d, struct err **errp)
{
    struct ramfb *r = container_of(d, struct ramfb, dev);
    struct fw_cfg *f = fw_cfg_find(dev_machine(d));

    if (!f)
        return err_set(errp, "ramfb: this machine has no fw_cfg device");
    if (!fw_cfg_add_writable(f, "etc/ramfb", r->cfg, CFG_LEN, written, r, errp))
        return false;
    r->con = ui_console_new(dev_machine(d), d->id ? d->id : "ramfb", &console_ops, r);
    return true;
}

static void unrealize(struct dev *d)
{
    ui_console_free(container_of(d, struct ramfb, dev)->con);
}

static void reset(struct dev *d)
{
    struct ramfb *r = container_of(d, struct ramfb, dev);

    memset(r->cfg, 0, sizeof r->cfg);
    r->width = 0;
}

static bool post_load(void *o, struct err **errp)
{
    written(o);
    return true;
}
static const struct state_field fields[] = {STATE_BYTES(struct ramfb, cfg), STATE_END};
static const struct state_desc state = {.name = "ramfb", .version = 1, .fields = fields, .post_load = post_load};
static const struct dev_class ramfb_class = {
    .name = "ramfb",
    .parent = "sys-bus-device",
    .desc = "framebuffer in guest RAM, set up through fw_cfg",
    .size = sizeof(struct ramfb),
    .category = DEV_CAT_DISPLAY,
    .realize = realize,
    .unrealize = unrealize,
    .reset = reset,
    .state_desc = &state,
};
DEV_REGISTER(ramfb_class)
