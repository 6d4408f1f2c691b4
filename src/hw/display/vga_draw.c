/* From registers and video memory to pixels: text, planar 16-colour, CGA 4-colour, 256-colour and VBE linear modes.
 *
 * An update first works out the picture (struct frame), then draws the lines or cells whose memory changed since the
 * last update; register changes redraw everything. Double-scanned modes are shown once per memory line (mode 13h is
 * 320x200). Text never blinks here: cursor and blinking cells are drawn lit, so that a screendump is repeatable. Leaves
 * out panning within text cells and the overscan border. */
#include "base/bytes.h"
#include "hw/display/vga.h"

enum { MODE_BLANK, MODE_TEXT, MODE_PLANAR, MODE_CGA4, MODE_256, MODE_VBE };
enum { CELL_CURSOR = 1 << 16, CELL_NONE = 0xffffffff };

struct frame {
    int mode, width, height;
    unsigned bpp;                        /* VBE */
    uint32_t start;                      /* first address: CRTC units of 4 bytes, or bytes for VBE */
    uint32_t pitch;                      /* per memory line, same unit */
    unsigned repeat;                     /* scan lines per row of the surface */
    unsigned cell_w, cell_h, cols, rows; /* text */
    uint32_t color[256];
};

/* ---- colours ---- */

static uint32_t dac_color(const struct vga *v, unsigned i)
{
    const uint8_t *p = v->palette + (i & v->dac_mask) * 3;

    if (v->vbe[VBE_ENABLE] & VBE_8BIT_DAC)
        return (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
    /* 6 bits become 8 by repeating the top ones, so that 63 is full brightness */
    return (uint32_t)(p[0] << 2 | p[0] >> 4) << 16 | (uint32_t)(p[1] << 2 | p[1] >> 4) << 8 |
           (uint32_t)(p[2] << 2 | p[2] >> 4);
}

static void colors_16(const struct vga *v, struct frame *f)
{
    for (unsigned i = 0; i < 16; i++) {
        unsigned c = v->ar[i & v->ar[AR_PLANE_ENABLE]];

        if (v->ar[AR_MODE] & 0x80)
            c = (c & 0x0f) | (v->ar[AR_COLOR_SELECT] & 3u) << 4;
        f->color[i] = dac_color(v, (c & 0x3f) | (v->ar[AR_COLOR_SELECT] & 0xcu) << 4);
    }
}

/* ---- geometry ---- */

static unsigned scan_lines(const struct vga *v)
{
    return v->cr[CR_VDISP_END] + ((v->cr[CR_OVERFLOW] & 2u) << 7) + ((v->cr[CR_OVERFLOW] & 0x40u) << 3) + 1;
}

static uint32_t crtc_start(const struct vga *v)
{
    return (uint32_t)v->cr[CR_START_HI] << 8 | v->cr[CR_START_LO];
}

static void frame_text(const struct vga *v, struct frame *f)
{
    f->mode = MODE_TEXT;
    f->cell_w = v->sr[SR_CLOCK] & 1 ? 8 : 9;
    f->cell_h = (v->cr[CR_MAX_SCAN] & 0x1f) + 1u;
    f->cols = v->cr[CR_HDISP_END] + 1u;
    if (v->cr[CR_MAX_SCAN] & 0x80)
        f->rows = scan_lines(v) / 2 / f->cell_h;
    else
        f->rows = scan_lines(v) / f->cell_h;
    if (!f->rows)
        f->rows = 1;
    f->start = crtc_start(v);
    f->pitch = v->cr[CR_OFFSET] * 2u;
    f->width = (int)(f->cols * f->cell_w);
    f->height = (int)(f->rows * f->cell_h);
    colors_16(v, f);
}

/* Row-scan bits in the address (CGA and Hercules layouts): every scan line is a memory line of its own. */
static bool row_scan_addressing(const struct vga *v)
{
    return (v->cr[CR_MODE] & 3) != 3;
}

static void frame_graphics(const struct vga *v, struct frame *f)
{
    unsigned shift = v->gr[GR_MODE] >> 5 & 3, chars = v->cr[CR_HDISP_END] + 1u;

    f->repeat = v->cr[CR_MAX_SCAN] & 0x80 ? 2 : 1;
    if (!row_scan_addressing(v))
        f->repeat *= (v->cr[CR_MAX_SCAN] & 0x1f) + 1u;
    f->height = (int)(scan_lines(v) / f->repeat);
    if (!f->height)
        f->height = 1;
    f->start = crtc_start(v);
    f->pitch = v->cr[CR_OFFSET] * 2u;
    f->mode = shift >= 2 ? MODE_256 : shift == 1 ? MODE_CGA4 : MODE_PLANAR;
    f->width = (int)(chars * (f->mode == MODE_256 ? 4 : 8));
    if (f->mode == MODE_256)
        for (unsigned i = 0; i < 256; i++)
            f->color[i] = dac_color(v, i);
    else
        colors_16(v, f);
}

static void frame_vbe(const struct vga *v, struct frame *f)
{
    f->mode = MODE_VBE;
    f->bpp = v->vbe[VBE_BPP];
    f->width = v->vbe[VBE_XRES];
    f->height = v->vbe[VBE_YRES];
    f->pitch = vbe_pitch(v);
    f->start = v->vbe[VBE_Y_OFFSET] * f->pitch + v->vbe[VBE_X_OFFSET] * (f->bpp == 15 ? 16u : f->bpp) / 8;
    f->repeat = 1;
    if (f->bpp == 4)
        colors_16(v, f);
    else
        for (unsigned i = 0; i < 256; i++)
            f->color[i] = dac_color(v, i);
}

static void frame_of(const struct vga *v, struct frame *f)
{
    memset(f, 0, sizeof *f);
    f->repeat = 1;
    if (vbe_on(v))
        frame_vbe(v, f);
    else if (!(v->ar_index & 0x20) || v->sr[SR_CLOCK] & 0x20)
        f->mode = MODE_BLANK; /* palette access by the CPU, or screen off */
    else if (v->gr[GR_MISC] & 1)
        frame_graphics(v, f);
    else
        frame_text(v, f);
}

/* ---- text ---- */

static uint32_t cell_at(const struct vga *v, const struct frame *f, unsigned col, unsigned row)
{
    const uint8_t *p = v->mem + (((f->start + row * f->pitch + col) & 0xffff) * 4 & (v->size - 1));

    return p[0] | (uint32_t)p[1] << 8;
}

static uint32_t cursor_cell(const struct vga *v)
{
    if (v->cr[CR_CURSOR_START] & 0x20)
        return CELL_NONE;
    return (uint32_t)v->cr[CR_CURSOR_HI] << 8 | v->cr[CR_CURSOR_LO];
}

/* Plane 2 offset of a character map (SR3): three bits, the high one apart from the others. */
static uint32_t font_at(const struct vga *v, bool second)
{
    unsigned s = v->sr[SR_CHAR_MAP], low = second ? s >> 2 & 3 : s & 3, high = second ? s >> 5 & 1 : s >> 4 & 1;

    return low * 0x4000u + high * 0x2000u;
}

static void draw_cell(const struct vga *v, const struct frame *f, struct ui_surface *s, unsigned col, unsigned row,
                      uint32_t cell)
{
    unsigned ch = cell & 0xff, attr = cell >> 8 & 0xff, cs = v->cr[CR_CURSOR_START] & 0x1f,
             ce = v->cr[CR_CURSOR_END] & 0x1f;
    bool two_fonts = font_at(v, true) != font_at(v, false), wide = v->ar[AR_MODE] & 4 && (ch & 0xe0) == 0xc0;
    uint32_t font = font_at(v, attr & 8 && two_fonts) + ch * 32;
    uint32_t fg = f->color[attr & (two_fonts ? 7 : 15)], bg = f->color[attr >> 4 & (v->ar[AR_MODE] & 8 ? 7 : 15)];
    bool underline = (attr & 7) == 1 && v->ar[AR_MODE] & 2;

    for (unsigned y = 0; y < f->cell_h; y++) {
        unsigned bits = v->mem[((font + y) * 4 + 2) & (v->size - 1)];
        uint8_t *out = s->data + (size_t)(row * f->cell_h + y) * (size_t)s->stride + (size_t)(col * f->cell_w) * 4;

        bits = bits << 1 | (wide ? bits & 1 : 0); /* nine dots */
        if ((cell & CELL_CURSOR && y >= cs && y <= ce) || (underline && y == (v->cr[CR_UNDERLINE] & 0x1f)))
            bits = 0x1ff;
        for (unsigned x = 0; x < f->cell_w; x++, out += 4) {
            uint32_t px = bits >> (8 - x) & 1 ? fg : bg;

            memcpy(out, &px, 4);
        }
    }
}

static void draw_text(struct vga *v, const struct frame *f, struct ui_surface *s)
{
    uint32_t cursor = cursor_cell(v);
    unsigned n = f->cols * f->rows;

    if (n != v->draw.nr_cells) {
        free(v->draw.cells);
        v->draw.cells = xcalloc(n, sizeof *v->draw.cells);
        v->draw.nr_cells = n;
        v->draw.full = true;
    }
    for (unsigned row = 0, i = 0; row < f->rows; row++) {
        unsigned first = f->cols, last = 0;

        for (unsigned col = 0; col < f->cols; col++, i++) {
            uint32_t c = cell_at(v, f, col, row);

            if (((f->start + row * f->pitch + col) & 0xffff) == cursor)
                c |= CELL_CURSOR;
            if (c == v->draw.cells[i] && !v->draw.full)
                continue;
            v->draw.cells[i] = c;
            draw_cell(v, f, s, col, row, c);
            first = first < col ? first : col;
            last = col;
        }
        if (first < f->cols)
            ui_dirty(v->con, (int)(first * f->cell_w), (int)(row * f->cell_h), (int)((last - first + 1) * f->cell_w),
                     (int)f->cell_h);
    }
}

/* ---- lines of pixels: out[0..width) ---- */

/* Address (unit: 4 bytes) of a line of the surface in the non-VBE graphics modes. */
static uint32_t line_address(const struct vga *v, const struct frame *f, unsigned y)
{
    unsigned rows = (v->cr[CR_MAX_SCAN] & 0x1f) + 1u, scan = y * f->repeat;
    unsigned split = v->cr[CR_LINE_COMPARE] + ((v->cr[CR_OVERFLOW] & 0x10u) << 4) + ((v->cr[CR_MAX_SCAN] & 0x40u) << 3);
    uint32_t addr = f->start, line = y;
    bool word = !(v->cr[CR_MODE] & 0x40);

    if (scan > split) { /* below the split the picture starts again at address 0 */
        addr = 0;
        line = (scan - split - 1) / f->repeat;
    }
    if (!row_scan_addressing(v))
        return addr + line * f->pitch;
    addr += line / rows * f->pitch;
    if (!(v->cr[CR_MODE] & 1) && line % rows & 1)
        addr ^= word ? 0x1000 : 0x2000;
    if (!(v->cr[CR_MODE] & 2) && line % rows & 2)
        addr ^= word ? 0x2000 : 0x4000;
    return addr;
}

static const uint8_t *unit_at(const struct vga *v, uint32_t addr, uint32_t wrap)
{
    return v->mem + ((size_t)(addr & wrap) * 4 & (v->size - 1));
}

static void line_planar(const struct vga *v, const struct frame *f, uint32_t addr, uint32_t wrap, unsigned pan,
                        uint32_t *out)
{
    for (int x = -(int)pan; x < f->width; x += 8, addr++) {
        const uint8_t *p = unit_at(v, addr, wrap);

        for (int b = 7, i = x; b >= 0; b--, i++)
            if (i >= 0 && i < f->width)
                out[i] = f->color[(p[0] >> b & 1) | (p[1] >> b & 1) << 1 | (p[2] >> b & 1) << 2 | (p[3] >> b & 1) << 3];
    }
}

/* Planes 0 and 2 give the first four pixels of a unit, two bits each; 1 and 3 the others. */
static void line_cga4(const struct vga *v, const struct frame *f, uint32_t addr, uint32_t *out)
{
    for (int x = 0; x + 8 <= f->width; x += 8, addr++) {
        const uint8_t *p = unit_at(v, addr, 0xffff);

        for (int i = 0; i < 8; i++) {
            int plane = i >> 2, shift = 6 - 2 * (i & 3);

            out[x + i] = f->color[(p[plane] >> shift & 3) | (p[plane + 2] >> shift & 3) << 2];
        }
    }
}

static void line_256(const struct vga *v, const struct frame *f, uint32_t addr, unsigned pan, uint32_t *out)
{
    for (int x = -(int)pan; x < f->width; x += 4, addr++) {
        const uint8_t *p = unit_at(v, addr, 0xffff);

        for (int i = 0; i < 4; i++)
            if (x + i >= 0 && x + i < f->width)
                out[x + i] = f->color[p[i]];
    }
}

static void line_vbe(const struct vga *v, const struct frame *f, uint32_t at, uint32_t *out)
{
    const uint8_t *p = v->mem + at;

    for (int x = 0; x < f->width; x++) {
        uint32_t c;

        switch (f->bpp) {
        case 8:
            out[x] = f->color[p[x]];
            break;
        case 15:
            c = get_le16(p + x * 2);
            out[x] = (c >> 10 & 31) * 255 / 31 << 16 | (c >> 5 & 31) * 255 / 31 << 8 | (c & 31) * 255 / 31;
            break;
        case 16:
            c = get_le16(p + x * 2);
            out[x] = (c >> 11 & 31) * 255 / 31 << 16 | (c >> 5 & 63) * 255 / 63 << 8 | (c & 31) * 255 / 31;
            break;
        case 24:
            out[x] = p[x * 3] | (uint32_t)p[x * 3 + 1] << 8 | (uint32_t)p[x * 3 + 2] << 16;
            break;
        default:
            out[x] = get_le32(p + x * 4) & 0xffffff;
            break;
        }
    }
}

static void draw_line(const struct vga *v, const struct frame *f, unsigned y, uint32_t *out)
{
    unsigned pan = v->ar[AR_PAN] & 7;

    switch (f->mode) {
    case MODE_PLANAR:
        line_planar(v, f, line_address(v, f, y), 0xffff, pan, out);
        break;
    case MODE_CGA4:
        line_cga4(v, f, line_address(v, f, y), out);
        break;
    case MODE_256:
        line_256(v, f, line_address(v, f, y), pan >> 1, out);
        break;
    default:
        if (f->bpp == 4)
            line_planar(v, f, (f->start + y * f->pitch) / 4, 0xffffffff, 0, out);
        else
            line_vbe(v, f, f->start + y * f->pitch, out);
        break;
    }
}

/* ---- what changed ---- */

/* Collects the dirty pages of the whole video memory: neighbouring lines share pages, so flags are read once. */
static void collect_pages(struct vga *v)
{
    for (uint32_t p = 0; p < v->size >> 12; p++)
        v->draw.pages[p] = mem_ram_test_clear(v->vram.ram, (uint64_t)p << 12, 4096, MEM_DIRTY_VGA);
}

static bool line_changed(const struct vga *v, const struct frame *f, unsigned y)
{
    uint32_t at, len;

    if (f->mode == MODE_VBE) {
        at = f->start + y * f->pitch;
        len = f->pitch;
    } else {
        at = (line_address(v, f, y) & 0xffff) * 4;
        len = (f->pitch + 1) * 4;
    }
    for (uint32_t p = at >> 12; p <= (at + len - 1) >> 12; p++)
        if (v->draw.pages[p & ((v->size >> 12) - 1)])
            return true;
    return false;
}

static void draw_graphics(struct vga *v, const struct frame *f, struct ui_surface *s)
{
    bool shared = !s->owned; /* the surface is the video memory itself */
    int first = -1;

    for (int y = 0; y <= f->height; y++) {
        bool changed = y < f->height && (v->draw.full || line_changed(v, f, (unsigned)y));

        if (changed && !shared)
            draw_line(v, f, (unsigned)y, (uint32_t *)(void *)(s->data + (size_t)y * (size_t)s->stride));
        if (changed && first < 0)
            first = y;
        if (!changed && first >= 0) {
            ui_dirty(v->con, 0, first, f->width, y - first);
            first = -1;
        }
    }
}

/* A 32-bit VBE mode has the surface's own format: share the memory instead of copying it. */
static struct ui_surface *prepare_surface(struct vga *v, const struct frame *f)
{
    struct ui_surface *s = ui_console_surface(v->con);
    uint8_t *direct = f->mode == MODE_VBE && f->bpp == 32 ? v->mem + f->start : NULL;

    if (s && s->width == f->width && s->height == f->height &&
        (direct ? s->data == direct && s->stride == (int)f->pitch : s->owned))
        return s;
    v->draw.full = true;
    return ui_console_resize(v->con, f->width, f->height, direct, (int)f->pitch);
}

static void draw_blank(struct vga *v)
{
    struct ui_surface *s = ui_console_surface(v->con);

    if (!s || !s->owned)
        s = ui_console_resize(v->con, s ? s->width : 640, s ? s->height : 480, NULL, 0);
    else if (v->draw.mode == MODE_BLANK)
        return;
    if (!s)
        return;
    memset(s->data, 0, (size_t)s->stride * (size_t)s->height);
    ui_dirty(v->con, 0, 0, s->width, s->height);
}

void vga_update(void *opaque)
{
    struct vga *v = opaque;
    struct ui_surface *s;
    struct frame f;

    if (v->draw_more && v->draw_more(v, v->opaque))
        return;
    frame_of(v, &f);
    if (f.mode == MODE_BLANK) {
        draw_blank(v);
        v->draw.mode = MODE_BLANK;
        v->draw.full = true;
        return;
    }
    if (f.mode != v->draw.mode)
        v->draw.full = true;
    v->draw.mode = f.mode;
    s = prepare_surface(v, &f);
    if (!s)
        return;
    collect_pages(v);
    if (f.mode == MODE_TEXT)
        draw_text(v, &f, s);
    else
        draw_graphics(v, &f, s);
    v->draw.full = false;
}

void vga_invalidate(void *opaque)
{
    ((struct vga *)opaque)->draw.full = true;
}
