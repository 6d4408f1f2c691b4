/* The VGA core shared by the adapters that contain one: registers, planar memory, Bochs VBE extensions, drawing.
 *
 * An adapter embeds struct vga, calls vga_init in realize, maps its regions, forwards reset. Sources: IBM VGA Technical
 * Reference (PS/2 Hardware Interface, 1992) for registers; Bochs VBE DISPI 0xB0C5 for the extension.
 *
 * Memory layout: the four planes are interleaved, byte offset o of plane p is vram[o * 4 + p]. Chain-4 address a is
 * vram[a], so that the linear framebuffer, mode 13h and planar modes agree. */
#ifndef HW_DISPLAY_VGA_H
#define HW_DISPLAY_VGA_H

#include "dev/dev.h"
#include "ui/ui.h"

enum { /* CRT controller registers, as in the reference */
       CR_HTOTAL = 0x00,
       CR_HDISP_END = 0x01,
       CR_OVERFLOW = 0x07,
       CR_PRESET_ROW = 0x08,
       CR_MAX_SCAN = 0x09,
       CR_CURSOR_START = 0x0a,
       CR_CURSOR_END = 0x0b,
       CR_START_HI = 0x0c,
       CR_START_LO = 0x0d,
       CR_CURSOR_HI = 0x0e,
       CR_CURSOR_LO = 0x0f,
       CR_VSYNC_END = 0x11,
       CR_VDISP_END = 0x12,
       CR_OFFSET = 0x13,
       CR_UNDERLINE = 0x14,
       CR_MODE = 0x17,
       CR_LINE_COMPARE = 0x18,
};
enum { SR_RESET, SR_CLOCK, SR_MAP_MASK, SR_CHAR_MAP, SR_MEM_MODE, SR_NR = 8 };
enum {
    GR_SET_RESET,
    GR_ENABLE_SR,
    GR_COMPARE,
    GR_ROTATE,
    GR_READ_MAP,
    GR_MODE,
    GR_MISC,
    GR_DONT_CARE,
    GR_BIT_MASK,
    GR_NR = 16
};
enum { AR_MODE = 0x10, AR_OVERSCAN, AR_PLANE_ENABLE, AR_PAN, AR_COLOR_SELECT, AR_NR = 21 };
enum { SR4_EXT_MEM = 2, SR4_SEQUENTIAL = 4, SR4_CHAIN4 = 8 };

enum { /* DISPI registers by index */
       VBE_ID,
       VBE_XRES,
       VBE_YRES,
       VBE_BPP,
       VBE_ENABLE,
       VBE_BANK,
       VBE_VIRT_WIDTH,
       VBE_VIRT_HEIGHT,
       VBE_X_OFFSET,
       VBE_Y_OFFSET,
       VBE_NR,
       VBE_MEM_64K = 10,
};
enum { VBE_ENABLED = 1, VBE_GETCAPS = 2, VBE_8BIT_DAC = 0x20, VBE_LFB = 0x40, VBE_NOCLEAR = 0x80 };
enum { VBE_MAX_XRES = 16000, VBE_MAX_YRES = 12000, VBE_ID_FIRST = 0xb0c0, VBE_ID_LAST = 0xb0c5 };

struct vga_draw { /* what is on the surface, to tell what changed */
    int mode, width, height, bpp;
    uint32_t *cells; /* owned: text cells as last drawn */
    unsigned nr_cells;
    uint8_t *pages; /* owned: one flag per 4 KiB of video memory, dirty in this update */
    bool full;      /* redraw everything */
};
struct vga {
    struct machine *m;        /* borrowed */
    struct ui_console *con;   /* owned */
    struct mem_region vram;   /* linear framebuffer */
    struct mem_region window; /* 0xa0000, 128 KiB through the planar logic */
    struct mem_region linear; /* 0xa0000, 64 KiB straight into vram while the mode is linear */
    struct mem_region io_mono, io_mono_st, io_vga, io_color, io_color_st, io_vbe;
    uint8_t *mem;  /* vram's bytes */
    uint32_t size; /* of vram, a power of two */
    bool linear_on;
    /* Guest-visible registers; see vga_state. */
    uint8_t misc, fcr, st01;
    uint8_t sr_index, sr[SR_NR], gr_index, gr[GR_NR], cr_index, cr[256];
    uint8_t ar_index, ar[AR_NR];
    bool ar_data; /* the flip-flop of 3c0: next write is data */
    uint8_t dac_mask, dac_state, dac_read, dac_write, dac_sub, dac_latch[3], palette[768];
    uint8_t latch[4];
    uint16_t vbe_index, vbe[VBE_NR];
    struct vga_draw draw;
    /* Adapters with more registers (Cirrus) look first; NULL = plain VGA. */
    bool (*draw_more)(struct vga *v, void *opaque);
    void *opaque;
};
extern const struct state_desc vga_state;

/* Makes the video memory (mib MiB, 1..256, rounded up to a power of two), regions and console; name is that of the
 * console. Maps nothing. */
bool vga_init(struct vga *v, struct dev *d, const char *name, unsigned mib, struct err **errp);
void vga_free(struct vga *v);
void vga_reset(struct vga *v);
/* Legacy decoding: 0xa0000 and the ports 3b0-3df, and 1ce-1d1 for VBE. */
void vga_map_legacy(struct vga *v, struct dev *d);
uint8_t vga_port_read(struct vga *v, unsigned port); /* 0x3b0..0x3df */
void vga_port_write(struct vga *v, unsigned port, uint8_t val);
uint16_t vbe_read(struct vga *v, unsigned index);
void vbe_write(struct vga *v, unsigned index, uint16_t val);
uint32_t vbe_pitch(const struct vga *v); /* bytes of vram per scan line */
static inline bool vbe_on(const struct vga *v)
{
    return v->vbe[VBE_ENABLE] & VBE_ENABLED;
}
/* Planar window accesses; addr is an offset into the 128 KiB at 0xa0000. */
uint8_t vga_mem_read(struct vga *v, uint32_t addr);
void vga_mem_write(struct vga *v, uint32_t addr, uint8_t val);
void vga_window_update(struct vga *v); /* after a register that decides between planar and linear changed */
void vga_update(void *opaque);         /* ui_console_ops.update: draws what changed */
void vga_invalidate(void *opaque);

/* EDID 1.4 block for a monitor that prefers width x height; out has 128 bytes. */
struct edid_info {
    const char *name;
    unsigned width, height, max_width, max_height, refresh_mhz;
};
void edid_make(const struct edid_info *e, uint8_t out[128]);

#endif
