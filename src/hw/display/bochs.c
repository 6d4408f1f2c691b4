/* "bochs-display": the DISPI registers and a linear framebuffer on PCI (class 0380), with no VGA behind them: 32 bits
 * per pixel, drawn without a copy. BAR 0 is the framebuffer; BAR 2 holds EDID (000), DISPI (500) and byte order (600).
 */
#include "base/bytes.h"
#include "hw/display/vga.h"
#include "hw/pci/pci.h"

enum { MMIO_DISPI = 0x500, MMIO_EXT = 0x600, EXT_SIZE = 8, EXT_LITTLE = 0x1e1e1e1e };

struct bochs {
    struct pci_dev pci; /* first */
    struct ui_console *con;
    struct mem_region fb, mmio;
    uint8_t edid[256];
    uint16_t reg[VBE_NR];
    bool full;
    /* properties */
    uint64_t vgamem;
    uint32_t xres, yres;
    bool with_edid;
};

struct mode {
    int width, height;
    uint32_t stride;
    uint64_t start;
};

/* The mode when it is on and fits the memory. */
static bool mode_of(const struct bochs *b, struct mode *m)
{
    unsigned virt = b->reg[VBE_VIRT_WIDTH];

    m->width = b->reg[VBE_XRES];
    m->height = b->reg[VBE_YRES];
    m->stride = (virt > b->reg[VBE_XRES] ? virt : b->reg[VBE_XRES]) * 4u;
    m->start = (uint64_t)b->reg[VBE_Y_OFFSET] * m->stride + b->reg[VBE_X_OFFSET] * 4u;
    return b->reg[VBE_ENABLE] & VBE_ENABLED && b->reg[VBE_BPP] == 32 && m->width >= 64 && m->height >= 64 &&
           m->start + (uint64_t)m->stride * (unsigned)m->height <= b->fb.size;
}

static uint16_t dispi_read(const struct bochs *b, unsigned i)
{
    if (i == VBE_MEM_64K)
        return (uint16_t)(b->fb.size >> 16);
    if (b->reg[VBE_ENABLE] & VBE_GETCAPS && (i == VBE_XRES || i == VBE_YRES || i == VBE_BPP))
        return i == VBE_XRES ? VBE_MAX_XRES : i == VBE_YRES ? VBE_MAX_YRES : 32;
    return i < VBE_NR ? b->reg[i] : 0;
}

static uint64_t mmio_read(void *o, gpa_t off, unsigned size)
{
    struct bochs *b = o;

    if (off + size <= sizeof b->edid)
        return b->with_edid ? get_le(b->edid + off, size) : 0;
    if (off >= MMIO_DISPI && off < MMIO_DISPI + 0x16)
        return dispi_read(b, (unsigned)(off - MMIO_DISPI) / 2);
    if (off == MMIO_EXT)
        return EXT_SIZE;
    return off == MMIO_EXT + 4 ? EXT_LITTLE : 0;
}

static void mmio_write(void *o, gpa_t off, uint64_t val, unsigned size)
{
    struct bochs *b = o;
    unsigned i = (unsigned)(off - MMIO_DISPI) / 2;

    if (off < MMIO_DISPI || i >= VBE_NR || i == VBE_ID) {
        log_guest("bochs-display: write of %#" PRIx64 " to MMIO offset %#" PRIx64, val, off);
        return;
    }
    b->reg[i] = (uint16_t)val;
    b->full = true;
}
static const struct mem_ops mmio_ops = {
    .read = mmio_read, .write = mmio_write, .valid_min = 1, .valid_max = 4, .impl_min = 1, .impl_max = 4};

/* A black picture while there is no mode. */
static void draw_nothing(struct bochs *b)
{
    struct ui_surface *s = ui_console_surface(b->con);

    if (s && s->owned && !b->full)
        return;
    s = ui_console_resize(b->con, s ? s->width : 640, s ? s->height : 480, NULL, 0);
    if (s)
        ui_dirty(b->con, 0, 0, s->width, s->height);
    b->full = false;
}

static void update(void *o)
{
    struct bochs *b = o;
    struct ui_surface *s = ui_console_surface(b->con);
    uint8_t *mem = mem_region_ptr(&b->fb);
    struct mode m;

    if (!mode_of(b, &m)) {
        draw_nothing(b);
        return;
    }
    if (!s || s->width != m.width || s->height != m.height || s->data != mem + m.start || s->stride != (int)m.stride) {
        ui_console_resize(b->con, m.width, m.height, mem + m.start, (int)m.stride);
        b->full = true;
    }
    if (mem_ram_test_clear(b->fb.ram, m.start, (uint64_t)m.stride * (unsigned)m.height, MEM_DIRTY_VGA) || b->full)
        ui_dirty(b->con, 0, 0, m.width, m.height);
    b->full = false;
}

static void invalidate(void *o)
{
    ((struct bochs *)o)->full = true;
}
static const struct ui_console_ops console_ops = {.update = update, .invalidate = invalidate};

static bool realize(struct dev *d, struct err **errp)
{
    struct bochs *b = container_of(d, struct bochs, pci.dev);
    struct mem_sys *s = dev_machine(d)->mem_sys;
    struct edid_info e = {.name = "Lyrebird",
                          .width = b->xres,
                          .height = b->yres,
                          .max_width = 5120,
                          .max_height = 2160,
                          .refresh_mhz = 75000};
    uint64_t size = 4 * MIB;

    if (b->xres < 64 || b->yres < 64 || b->xres > 4095 || b->yres > 4095)
        return err_set(errp, "bochs-display: xres=%u,yres=%u is out of range (64 to 4095)", b->xres, b->yres);
    if (b->vgamem < 4 * MIB || b->vgamem > 256 * MIB)
        return err_set(errp, "bochs-display: vgamem is out of range (4M to 256M)");
    while (size < b->vgamem)
        size <<= 1;
    if (!mem_region_init_ram(&b->fb, s, "bochs-display-vram", size, errp))
        return false;
    mem_region_set_dirty_log(&b->fb, MEM_DIRTY_VGA);
    edid_make(&e, b->edid);
    mem_region_init_io(&b->mmio, s, &mmio_ops, b, "bochs-display-mmio", 0x1000);
    pci_add_bar(&b->pci, 0, PCI_BAR_MEM | PCI_BAR_PREFETCH, &b->fb);
    pci_add_bar(&b->pci, 2, PCI_BAR_MEM, &b->mmio);
    b->con = ui_console_new(dev_machine(d), d->id ? d->id : "bochs-display", &console_ops, b);
    return true;
}

static void unrealize(struct dev *d)
{
    struct bochs *b = container_of(d, struct bochs, pci.dev);

    ui_console_free(b->con);
    mem_region_free(&b->mmio);
    mem_region_free(&b->fb);
}

static void reset(struct dev *d)
{
    struct bochs *b = container_of(d, struct bochs, pci.dev);

    memset(b->reg, 0, sizeof b->reg);
    b->reg[VBE_ID] = VBE_ID_LAST;
    b->full = true;
}

static const struct prop props[] = {
    PROP("vgamem", size, struct bochs, vgamem, .dflt = "16M"),
    PROP("edid", bool, struct bochs, with_edid, .dflt = "on"),
    PROP("xres", u32, struct bochs, xres, .dflt = "1280"),
    PROP("yres", u32, struct bochs, yres, .dflt = "800"),
    PROP_END,
};
static const struct state_field fields[] = {STATE_STRUCT(struct bochs, pci, pci_dev_state),
                                            STATE_ARRAY(struct bochs, reg), STATE_END};
static bool post_load(void *obj, struct err **errp)
{
    ((struct bochs *)obj)->full = true;
    return true;
}
static const struct state_desc state = {
    .name = "bochs-display", .version = 1, .fields = fields, .post_load = post_load};
static const struct pci_class bochs_class = {
    .name = "bochs-display",
    .parent = "pci-device",
    .desc = "linear framebuffer with Bochs registers, no VGA",
    .size = sizeof(struct bochs),
    .props = props,
    .more_props = pci_props,
    .bus_type = "PCI",
    .category = DEV_CAT_DISPLAY,
    .hotplug = true,
    .realize = realize,
    .unrealize = unrealize,
    .reset = reset,
    .state_desc = &state,
    .vendor_id = 0x1234,
    .device_id = 0x1111,
    .revision = 2,
    .class_id = 0x0380,
    .is_express = true,
    .romfile = "vgabios-bochs-display.bin",
};
PCI_REGISTER(bochs_class)
