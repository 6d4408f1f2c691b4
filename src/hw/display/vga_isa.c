/* The standard VGA on the ISA bus: legacy decoding only, its linear framebuffer fixed at 0xe0000000. Its BIOS is not in
 * a PCI ROM: the board hands it to the firmware. */
#include "hw/display/vga.h"

enum { ISA_LFB = 0xe0000000u };

struct vga_isa {
    struct dev dev; /* first */
    struct vga vga;
    uint32_t vgamem_mb;
};

static bool realize(struct dev *d, struct err **errp)
{
    struct vga_isa *p = container_of(d, struct vga_isa, dev);

    if (!vga_init(&p->vga, d, "isa-vga", p->vgamem_mb, errp))
        return false;
    vga_map_legacy(&p->vga, d);
    mem_region_add_prio(&dev_machine(d)->sysmem, ISA_LFB, &p->vga.vram, 1);
    return true;
}

static void unrealize(struct dev *d)
{
    vga_free(&container_of(d, struct vga_isa, dev)->vga);
}

static void reset(struct dev *d)
{
    vga_reset(&container_of(d, struct vga_isa, dev)->vga);
}

static const struct prop props[] = {
    PROP("vgamem_mb", u32, struct vga_isa, vgamem_mb, .dflt = "8", .min = 1, .max = 256),
    PROP_END,
};
static const struct state_field fields[] = {STATE_STRUCT(struct vga_isa, vga, vga_state), STATE_END};
static const struct dev_class isa_vga_class = {
    .name = "isa-vga",
    .parent = "isa-device",
    .desc = "standard VGA on the ISA bus",
    .size = sizeof(struct vga_isa),
    .props = props,
    .bus_type = "ISA",
    .category = DEV_CAT_DISPLAY,
    .realize = realize,
    .unrealize = unrealize,
    .reset = reset,
    .state_version = 1,
    .state = fields,
};
DEV_REGISTER(isa_vga_class)
