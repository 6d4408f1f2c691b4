/* Bochs VBE extension registers (DISPI interface, version 0xB0C5): mode, bank, virtual screen and panning. Every value
 * the guest writes is cut to what the video memory holds, so that drawing can rely on it. */
#include "base/bytes.h"
#include "hw/display/vga.h"

static unsigned pixel_bits(unsigned bpp)
{
    return bpp == 15 ? 16 : bpp;
}

uint32_t vbe_pitch(const struct vga *v)
{
    return (uint32_t)v->vbe[VBE_VIRT_WIDTH] * pixel_bits(v->vbe[VBE_BPP]) / 8;
}

static bool good_bpp(unsigned bpp)
{
    return bpp == 4 || bpp == 8 || bpp == 15 || bpp == 16 || bpp == 24 || bpp == 32;
}

/* Makes width, virtual size and offsets fit the memory. */
static void fixup(struct vga *v)
{
    uint16_t *r = v->vbe;
    uint32_t bits, pitch, rows;

    if (!good_bpp(r[VBE_BPP]))
        r[VBE_BPP] = 8;
    bits = pixel_bits(r[VBE_BPP]);
    r[VBE_XRES] = (uint16_t)max_u64(8, min_u64(r[VBE_XRES] & ~7u, VBE_MAX_XRES));
    while (r[VBE_XRES] * bits / 8 > v->size)
        r[VBE_XRES] = (uint16_t)(r[VBE_XRES] / 2 & ~7u);
    r[VBE_VIRT_WIDTH] = (uint16_t)max_u64(r[VBE_VIRT_WIDTH] & ~7u, r[VBE_XRES]);
    if (r[VBE_VIRT_WIDTH] * bits / 8 > v->size)
        r[VBE_VIRT_WIDTH] = r[VBE_XRES];
    pitch = vbe_pitch(v);
    rows = v->size / pitch;
    r[VBE_YRES] = (uint16_t)max_u64(1, min_u64(r[VBE_YRES], min_u64(rows, VBE_MAX_YRES)));
    r[VBE_VIRT_HEIGHT] = (uint16_t)min_u64(rows, 0xffff);
    /* X may go past the virtual width: drivers give any start address as (x, y), and lines run into each other. */
    if ((uint64_t)r[VBE_X_OFFSET] * bits / 8 + (uint64_t)(r[VBE_Y_OFFSET] + r[VBE_YRES]) * pitch > v->size)
        r[VBE_X_OFFSET] = 0;
    if (r[VBE_Y_OFFSET] > rows - r[VBE_YRES])
        r[VBE_Y_OFFSET] = (uint16_t)(rows - r[VBE_YRES]);
}

uint16_t vbe_read(struct vga *v, unsigned index)
{
    if (index == VBE_MEM_64K)
        return (uint16_t)(v->size >> 16);
    if (index >= VBE_NR)
        return 0;
    if (v->vbe[VBE_ENABLE] & VBE_GETCAPS) {
        if (index == VBE_XRES)
            return VBE_MAX_XRES;
        if (index == VBE_YRES)
            return VBE_MAX_YRES;
        if (index == VBE_BPP)
            return 32;
    }
    return v->vbe[index];
}

static void set_dac_width(struct vga *v, bool wide)
{
    if (wide == !!(v->vbe[VBE_ENABLE] & VBE_8BIT_DAC))
        return;
    for (unsigned i = 0; i < sizeof v->palette; i++)
        v->palette[i] = wide ? (uint8_t)(v->palette[i] << 2) : v->palette[i] >> 2;
}

static void set_enable(struct vga *v, uint16_t val)
{
    bool was = vbe_on(v);

    set_dac_width(v, val & VBE_8BIT_DAC);
    v->vbe[VBE_ENABLE] = val & (VBE_ENABLED | VBE_GETCAPS | VBE_8BIT_DAC | VBE_LFB | VBE_NOCLEAR);
    if (val & VBE_ENABLED && !was) {
        v->vbe[VBE_VIRT_WIDTH] = v->vbe[VBE_XRES];
        v->vbe[VBE_X_OFFSET] = v->vbe[VBE_Y_OFFSET] = v->vbe[VBE_BANK] = 0;
        fixup(v);
        if (!(val & VBE_NOCLEAR)) {
            uint64_t len = min_u64((uint64_t)vbe_pitch(v) * v->vbe[VBE_YRES], v->size);

            memset(v->mem, 0, len);
            mem_ram_written(v->vram.ram, 0, len);
        }
    } else if (!(val & VBE_ENABLED)) {
        v->vbe[VBE_BANK] = 0;
    }
}

void vbe_write(struct vga *v, unsigned index, uint16_t val)
{
    switch (index) {
    case VBE_ID:
        if (val >= VBE_ID_FIRST && val <= VBE_ID_LAST)
            v->vbe[VBE_ID] = val;
        return;
    case VBE_ENABLE:
        set_enable(v, val);
        break;
    case VBE_BANK:
        v->vbe[VBE_BANK] = (uint16_t)(val & ((v->size >> 16) - 1));
        break;
    case VBE_XRES:
    case VBE_YRES:
    case VBE_BPP:
    case VBE_VIRT_WIDTH:
    case VBE_X_OFFSET:
    case VBE_Y_OFFSET:
        v->vbe[index] = val;
        if (vbe_on(v))
            fixup(v);
        break;
    default:
        return;
    }
    vga_window_update(v);
    v->draw.full = true;
}
