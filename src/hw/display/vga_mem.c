/* The window at 0xa0000: how an address finds its plane and what the graphics controller does to a byte on its way
 * (IBM reference, graphics controller: write modes 0-3, read modes 0-1). In chain-4 the data path is bypassed. */
#include "base/bytes.h"
#include "hw/display/vga.h"

/* The window as GR6 places it: offset from its start, or false when addr is outside. */
static bool in_window(const struct vga *v, uint32_t *addr)
{
    switch (v->gr[GR_MISC] >> 2 & 3) {
    case 0:
        return true;
    case 1:
        return *addr < 0x10000;
    case 2:
        *addr -= 0x10000;
        return *addr < 0x8000;
    default:
        *addr -= 0x18000;
        return *addr < 0x8000;
    }
}

static bool odd_even(const struct vga *v)
{
    return !(v->sr[SR_MEM_MODE] & SR4_SEQUENTIAL) && v->gr[GR_MODE] & 0x10;
}

static uint32_t bank(const struct vga *v)
{
    return vbe_on(v) ? (uint32_t)v->vbe[VBE_BANK] << 16 : 0;
}

static bool is_linear(const struct vga *v)
{
    return (vbe_on(v) && v->vbe[VBE_BPP] > 4) || v->sr[SR_MEM_MODE] & SR4_CHAIN4;
}

uint8_t vga_mem_read(struct vga *v, uint32_t addr)
{
    const uint8_t *p;
    uint32_t off;
    unsigned plane = v->gr[GR_READ_MAP] & 3;

    if (!in_window(v, &addr))
        return 0xff;
    if (is_linear(v))
        return v->mem[(addr + bank(v)) & (v->size - 1)];
    off = addr + bank(v);
    if (odd_even(v)) {
        plane = (plane & 2) | (addr & 1);
        off >>= 1;
    }
    p = v->mem + ((off * 4) & (v->size - 1));
    memcpy(v->latch, p, 4);
    if (!(v->gr[GR_MODE] & 8))
        return p[plane];
    /* Read mode 1: one bit per pixel that matches the compare colour in the planes that count. */
    uint8_t differs = 0;

    for (unsigned i = 0; i < 4; i++)
        if (v->gr[GR_DONT_CARE] >> i & 1)
            differs |= p[i] ^ (v->gr[GR_COMPARE] >> i & 1 ? 0xff : 0);
    return (uint8_t)~differs;
}

static uint8_t rotate(const struct vga *v, uint8_t val)
{
    unsigned n = v->gr[GR_ROTATE] & 7;

    return (uint8_t)(val >> n | val << (8 - n));
}

/* The logical unit and the bit mask: what one plane becomes. */
static uint8_t combine(const struct vga *v, uint8_t val, uint8_t latch, uint8_t mask)
{
    switch (v->gr[GR_ROTATE] >> 3 & 3) {
    case 1:
        val &= latch;
        break;
    case 2:
        val |= latch;
        break;
    case 3:
        val ^= latch;
        break;
    default:
        break;
    }
    return (uint8_t)((val & mask) | (latch & ~mask));
}

static uint8_t plane_value(const struct vga *v, unsigned plane, uint8_t val)
{
    uint8_t mask = v->gr[GR_BIT_MASK], set = v->gr[GR_SET_RESET] >> plane & 1 ? 0xff : 0;

    switch (v->gr[GR_MODE] & 3) {
    case 0:
        val = v->gr[GR_ENABLE_SR] >> plane & 1 ? set : rotate(v, val);
        break;
    case 1:
        return v->latch[plane];
    case 2:
        val = val >> plane & 1 ? 0xff : 0;
        break;
    default:
        mask &= rotate(v, val);
        val = set;
        break;
    }
    return combine(v, val, v->latch[plane], mask);
}

void vga_mem_write(struct vga *v, uint32_t addr, uint8_t val)
{
    uint32_t off;
    unsigned planes = v->sr[SR_MAP_MASK];

    if (!in_window(v, &addr))
        return;
    if (is_linear(v)) {
        off = (addr + bank(v)) & (v->size - 1);
        if (!vbe_on(v) && !(planes >> (addr & 3) & 1))
            return;
        v->mem[off] = val;
        mem_ram_written(v->vram.ram, off, 1);
        return;
    }
    off = addr + bank(v);
    if (odd_even(v)) {
        planes &= addr & 1 ? 0xa : 0x5;
        off >>= 1;
    }
    off = (off * 4) & (v->size - 1);
    for (unsigned i = 0; i < 4; i++)
        if (planes >> i & 1)
            v->mem[off + i] = plane_value(v, i, val);
    if (planes & 4 && !(v->gr[GR_MISC] & 1))
        v->draw.full = true; /* a font in plane 2 may have changed */
    mem_ram_written(v->vram.ram, off, 4);
}

/* In linear modes with all planes open the window is plain memory: map it so, and spare the guest a call per byte. */
void vga_window_update(struct vga *v)
{
    bool on = is_linear(v) && (vbe_on(v) || v->sr[SR_MAP_MASK] == 0xf) && (v->gr[GR_MISC] >> 2 & 3) < 2;

    if (!v->linear.parent)
        return;
    if (on)
        mem_region_set_alias_off(&v->linear, bank(v) & (v->size - 1));
    if (on != v->linear_on)
        mem_region_set_enabled(&v->linear, on);
    v->linear_on = on;
}
