/* VGA registers after the IBM PS/2 Hardware Interface Technical Reference (1992), video subsystem chapter:
 * miscellaneous output, sequencer, CRT controller, graphics and attribute controllers, 18-bit DAC (8 bits a channel on
 * request of VBE). Retrace bits follow the virtual clock at 60 frames a second of 525 lines. Leaves out: the light pen,
 * feature control beyond storing it, the vertical interrupt, and monitor sense other than a colour display. */
#include "hw/display/vga.h"
#include "base/bytes.h"
#include "run/clock.h"

enum { FRAME_NS = 16666667, FRAME_LINES = 525, FRAME_VISIBLE = 480 };
enum { ST01_DISPLAY_OFF = 1, ST01_VRETRACE = 8 };
enum { AR_INDEX_PAS = 0x20 };

static const uint8_t sr_mask[SR_NR] = {0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0, 0, 0xff};
static const uint8_t gr_mask[GR_NR] = {0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff};

/* Input status 1: where the beam is. */
static uint8_t status1(struct vga *v)
{
    int64_t in_frame = clk_now(v->m->run->virt) % FRAME_NS, line = in_frame * FRAME_LINES / FRAME_NS;
    int64_t in_line = in_frame * FRAME_LINES % FRAME_NS;

    if (line >= FRAME_VISIBLE)
        return ST01_VRETRACE | ST01_DISPLAY_OFF;
    return in_line > FRAME_NS / 5 * 4 ? ST01_DISPLAY_OFF : 0;
}

static void ar_write(struct vga *v, uint8_t val)
{
    unsigned i = v->ar_index & 0x1f;

    if (!v->ar_data) {
        if ((v->ar_index ^ val) & AR_INDEX_PAS)
            v->draw.full = true;
        v->ar_index = val & 0x3f;
    } else if (i < AR_NR) {
        v->ar[i] = i < AR_MODE        ? val & 0x3f
                   : i == AR_MODE     ? val & 0xef
                   : i == AR_OVERSCAN ? val
                                      : val & (i == AR_PLANE_ENABLE ? 0x3f : 0x0f);
        v->draw.full = true;
    }
    v->ar_data = !v->ar_data;
}

static void sr_write(struct vga *v, uint8_t val)
{
    unsigned i = v->sr_index;

    if (i >= SR_NR)
        return;
    val &= sr_mask[i];
    if (v->sr[i] == val)
        return;
    v->sr[i] = val;
    if (i == SR_CLOCK || i == SR_CHAR_MAP)
        v->draw.full = true;
    if (i == SR_MEM_MODE || i == SR_MAP_MASK)
        vga_window_update(v);
}

static void gr_write(struct vga *v, uint8_t val)
{
    unsigned i = v->gr_index;

    if (i >= GR_NR)
        return;
    val &= gr_mask[i];
    if (v->gr[i] == val)
        return;
    v->gr[i] = val;
    if (i == GR_MODE || i == GR_MISC) {
        v->draw.full = true;
        vga_window_update(v);
    }
}

static void cr_write(struct vga *v, uint8_t val)
{
    unsigned i = v->cr_index;

    if (i <= CR_OVERFLOW && v->cr[CR_VSYNC_END] & 0x80) { /* protected, but for line compare bit 8 */
        if (i == CR_OVERFLOW)
            v->cr[i] = (uint8_t)((v->cr[i] & ~0x10) | (val & 0x10));
        return;
    }
    if (i > CR_LINE_COMPARE || v->cr[i] == val)
        return;
    v->cr[i] = val;
    if (i < CR_CURSOR_START || i == CR_START_HI || i == CR_START_LO || i > CR_CURSOR_LO)
        v->draw.full = true;
}

static void dac_write(struct vga *v, uint8_t val)
{
    v->dac_latch[v->dac_sub++] = v->vbe[VBE_ENABLE] & VBE_8BIT_DAC ? val : val & 0x3f;
    if (v->dac_sub == 3) {
        memcpy(v->palette + v->dac_write * 3, v->dac_latch, 3);
        v->dac_sub = 0;
        v->dac_write++;
        v->draw.full = true;
    }
}

static uint8_t dac_read(struct vga *v)
{
    uint8_t val = v->palette[v->dac_read * 3 + v->dac_sub++];

    if (v->dac_sub == 3) {
        v->dac_sub = 0;
        v->dac_read++;
    }
    return val;
}

/* Of the two homes of the CRT controller, misc bit 0 leaves one. */
static bool port_absent(const struct vga *v, unsigned port)
{
    return v->misc & 1 ? port >= 0x3b0 && port <= 0x3bf : port >= 0x3d0 && port <= 0x3df;
}

uint8_t vga_port_read(struct vga *v, unsigned port)
{
    if (port_absent(v, port))
        return 0xff;
    switch (port) {
    case 0x3c0:
        return v->ar_data ? 0 : v->ar_index;
    case 0x3c1:
        return (v->ar_index & 0x1f) < AR_NR ? v->ar[v->ar_index & 0x1f] : 0;
    case 0x3c2:
        return 0x10; /* input status 0: sense says colour */
    case 0x3c4:
        return v->sr_index;
    case 0x3c5:
        return v->sr_index < SR_NR ? v->sr[v->sr_index] : 0;
    case 0x3c6:
        return v->dac_mask;
    case 0x3c7:
        return v->dac_state;
    case 0x3c8:
        return v->dac_write;
    case 0x3c9:
        return dac_read(v);
    case 0x3ca:
        return v->fcr;
    case 0x3cc:
        return v->misc;
    case 0x3ce:
        return v->gr_index;
    case 0x3cf:
        return v->gr_index < GR_NR ? v->gr[v->gr_index] : 0;
    case 0x3b4:
    case 0x3d4:
        return v->cr_index;
    case 0x3b5:
    case 0x3d5:
        return v->cr[v->cr_index];
    case 0x3ba:
    case 0x3da:
        v->ar_data = false;
        v->st01 = status1(v);
        return v->st01;
    default:
        return 0;
    }
}

void vga_port_write(struct vga *v, unsigned port, uint8_t val)
{
    if (port_absent(v, port))
        return;
    switch (port) {
    case 0x3c0:
        ar_write(v, val);
        break;
    case 0x3c2:
        v->misc = val & 0xef;
        break;
    case 0x3c4:
        v->sr_index = val & 0x07;
        break;
    case 0x3c5:
        sr_write(v, val);
        break;
    case 0x3c6:
        v->dac_mask = val;
        v->draw.full = true;
        break;
    case 0x3c7:
        v->dac_read = val;
        v->dac_sub = 0;
        v->dac_state = 3;
        break;
    case 0x3c8:
        v->dac_write = val;
        v->dac_sub = 0;
        v->dac_state = 0;
        break;
    case 0x3c9:
        dac_write(v, val);
        break;
    case 0x3ce:
        v->gr_index = val & 0x0f;
        break;
    case 0x3cf:
        gr_write(v, val);
        break;
    case 0x3b4:
    case 0x3d4:
        v->cr_index = val;
        break;
    case 0x3b5:
    case 0x3d5:
        cr_write(v, val);
        break;
    case 0x3ba:
    case 0x3da:
        v->fcr = val & 0x10;
        break;
    default:
        break;
    }
}

/* Regions of ports: each knows its first port by the region that is asked. A 16-bit access is two of 8 bits. */
#define PORT_OPS(name, base)                                                                                           \
    static uint64_t name##_read(void *o, gpa_t off, unsigned size)                                                     \
    {                                                                                                                  \
        return vga_port_read(o, (base) + (unsigned)off);                                                               \
    }                                                                                                                  \
    static void name##_write(void *o, gpa_t off, uint64_t val, unsigned size)                                          \
    {                                                                                                                  \
        vga_port_write(o, (base) + (unsigned)off, (uint8_t)val);                                                       \
    }                                                                                                                  \
    static const struct mem_ops name##_ops = {.read = name##_read,                                                     \
                                              .write = name##_write,                                                   \
                                              .valid_min = 1,                                                          \
                                              .valid_max = 4,                                                          \
                                              .impl_min = 1,                                                           \
                                              .impl_max = 1,                                                           \
                                              .unaligned = true};
PORT_OPS(io_mono, 0x3b4)
PORT_OPS(io_mono_st, 0x3ba)
PORT_OPS(io_vga, 0x3c0)
PORT_OPS(io_color, 0x3d4)
PORT_OPS(io_color_st, 0x3da)

static uint64_t io_vbe_read(void *o, gpa_t off, unsigned size)
{
    struct vga *v = o;

    return off == 0 ? v->vbe_index : vbe_read(v, v->vbe_index);
}
static void io_vbe_write(void *o, gpa_t off, uint64_t val, unsigned size)
{
    struct vga *v = o;

    if (off == 0)
        v->vbe_index = (uint16_t)val;
    else if (off <= 2)
        vbe_write(v, v->vbe_index, (uint16_t)val);
}
/* Index at 1ce; data at 1cf, as PC firmware has it, and at 1d0. */
static const struct mem_ops io_vbe_ops = {.read = io_vbe_read,
                                          .write = io_vbe_write,
                                          .valid_min = 1,
                                          .valid_max = 2,
                                          .impl_min = 1,
                                          .impl_max = 2,
                                          .unaligned = true};

static uint64_t window_read(void *o, gpa_t off, unsigned size)
{
    return vga_mem_read(o, (uint32_t)off);
}
static void window_write(void *o, gpa_t off, uint64_t val, unsigned size)
{
    vga_mem_write(o, (uint32_t)off, (uint8_t)val);
}
static const struct mem_ops window_ops = {.read = window_read,
                                          .write = window_write,
                                          .valid_min = 1,
                                          .valid_max = 8,
                                          .impl_min = 1,
                                          .impl_max = 1,
                                          .unaligned = true};

static const struct ui_console_ops console_ops = {.update = vga_update, .invalidate = vga_invalidate};

bool vga_init(struct vga *v, struct dev *d, const char *name, unsigned mib, struct err **errp)
{
    struct machine *m = dev_machine(d);
    struct mem_sys *s = m->mem_sys;

    if (mib < 1 || mib > 256)
        return err_set(errp, "%s: vgamem_mb=%u is out of range (1 to 256)", name, mib);
    v->m = m;
    v->size = 1u << 20;
    while (v->size < mib << 20)
        v->size <<= 1;
    if (!mem_region_init_ram(&v->vram, s, "vga.vram", v->size, errp))
        return false;
    v->mem = mem_region_ptr(&v->vram);
    mem_region_set_dirty_log(&v->vram, MEM_DIRTY_VGA);
    mem_region_init_io(&v->window, s, &window_ops, v, "vga-lowmem", 0x20000);
    mem_region_init_alias(&v->linear, s, "vga-bank", &v->vram, 0, 0x10000);
    mem_region_init_io(&v->io_mono, s, &io_mono_ops, v, "vga-crtc-mono", 2);
    mem_region_init_io(&v->io_mono_st, s, &io_mono_st_ops, v, "vga-status-mono", 1);
    mem_region_init_io(&v->io_vga, s, &io_vga_ops, v, "vga", 16);
    mem_region_init_io(&v->io_color, s, &io_color_ops, v, "vga-crtc", 2);
    mem_region_init_io(&v->io_color_st, s, &io_color_st_ops, v, "vga-status", 1);
    mem_region_init_io(&v->io_vbe, s, &io_vbe_ops, v, "vbe", 4);
    v->draw.pages = xcalloc(v->size >> 12, 1);
    v->con = ui_console_new(m, name, &console_ops, v);
    return true;
}

void vga_map_legacy(struct vga *v, struct dev *d)
{
    mem_region_add_prio(&v->m->sysmem, 0xa0000, &v->window, 1);
    mem_region_set_enabled(&v->linear, false);
    mem_region_add_prio(&v->m->sysmem, 0xa0000, &v->linear, 2);
    dev_map_io(d, &v->io_mono, 0x3b4);
    dev_map_io(d, &v->io_mono_st, 0x3ba);
    dev_map_io(d, &v->io_vga, 0x3c0);
    dev_map_io(d, &v->io_color, 0x3d4);
    dev_map_io(d, &v->io_color_st, 0x3da);
    dev_map_io(d, &v->io_vbe, 0x1ce);
}

void vga_free(struct vga *v)
{
    struct mem_region *r[] = {&v->linear,   &v->window,      &v->io_mono, &v->io_mono_st, &v->io_vga,
                              &v->io_color, &v->io_color_st, &v->io_vbe,  &v->vram};

    if (!v->con)
        return;
    ui_console_free(v->con);
    for (unsigned i = 0; i < ARRAY_LEN(r); i++) {
        if (r[i]->parent)
            mem_region_del(r[i]);
        mem_region_free(r[i]);
    }
    free(v->draw.cells);
    free(v->draw.pages);
    v->con = NULL;
}

void vga_reset(struct vga *v)
{
    v->misc = v->fcr = v->st01 = 0;
    v->sr_index = v->gr_index = v->cr_index = v->ar_index = 0;
    v->ar_data = false;
    memset(v->sr, 0, sizeof v->sr);
    memset(v->gr, 0, sizeof v->gr);
    memset(v->cr, 0, sizeof v->cr);
    memset(v->ar, 0, sizeof v->ar);
    memset(v->latch, 0, sizeof v->latch);
    memset(v->palette, 0, sizeof v->palette);
    v->dac_mask = 0xff;
    v->dac_state = v->dac_read = v->dac_write = v->dac_sub = 0;
    memset(v->vbe, 0, sizeof v->vbe);
    v->vbe[VBE_ID] = VBE_ID_LAST;
    v->vbe_index = 0;
    memset(v->mem, 0, v->size);
    mem_ram_written(v->vram.ram, 0, v->size);
    vga_window_update(v);
    v->draw.full = true;
}

static bool vga_post_load(void *obj, struct err **errp)
{
    struct vga *v = obj;

    v->sr_index &= 7;
    v->gr_index &= 15;
    if (v->dac_sub > 2)
        return false;
    vga_window_update(v);
    v->draw.full = true;
    return true;
}
static const struct state_field vga_fields[] = {STATE_U8(struct vga, misc),
                                                STATE_U8(struct vga, fcr),
                                                STATE_U8(struct vga, st01),
                                                STATE_U8(struct vga, sr_index),
                                                STATE_BYTES(struct vga, sr),
                                                STATE_U8(struct vga, gr_index),
                                                STATE_BYTES(struct vga, gr),
                                                STATE_U8(struct vga, cr_index),
                                                STATE_BYTES(struct vga, cr),
                                                STATE_U8(struct vga, ar_index),
                                                STATE_BYTES(struct vga, ar),
                                                STATE_BOOL(struct vga, ar_data),
                                                STATE_U8(struct vga, dac_mask),
                                                STATE_U8(struct vga, dac_state),
                                                STATE_U8(struct vga, dac_read),
                                                STATE_U8(struct vga, dac_write),
                                                STATE_U8(struct vga, dac_sub),
                                                STATE_BYTES(struct vga, dac_latch),
                                                STATE_BYTES(struct vga, palette),
                                                STATE_BYTES(struct vga, latch),
                                                STATE_U16(struct vga, vbe_index),
                                                STATE_ARRAY(struct vga, vbe),
                                                STATE_END};
const struct state_desc vga_state = {.name = "vga", .version = 1, .fields = vga_fields, .post_load = vga_post_load};
