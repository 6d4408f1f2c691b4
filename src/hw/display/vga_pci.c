/* The standard PC display adapter on PCI: "VGA" (class 0300, legacy decoding and BIOS) and "secondary-vga" (class 0380,
 * neither). BAR 0 is the linear framebuffer, BAR 2 holds EDID (000), the ports 3c0-3df (400), the DISPI registers (500)
 * and an extension that says and sets the byte order of the framebuffer (600); only little endian is offered. */
#include "base/bytes.h"
#include "hw/display/vga.h"
#include "hw/pci/pci.h"

enum { BAR_FB = 0, BAR_MMIO = 2, MMIO_SIZE = 0x1000 };
enum { MMIO_EDID = 0x000, MMIO_PORTS = 0x400, MMIO_DISPI = 0x500, MMIO_EXT = 0x600 };
enum { CLASS_VGA = 0x0300, CLASS_DISPLAY_OTHER = 0x0380 };
enum { EXT_SIZE = 8, EXT_LITTLE = 0x1e1e1e1e };

struct vga_pci {
    struct pci_dev pci; /* first */
    struct vga vga;
    struct mem_region mmio;
    uint8_t edid[256];
    /* properties */
    uint32_t vgamem_mb, xres, yres, xmax, ymax, refresh;
    bool with_mmio, with_edid;
};

static uint64_t mmio_read(void *o, gpa_t off, unsigned size)
{
    struct vga_pci *p = o;

    if (off + size <= sizeof p->edid)
        return p->with_edid ? get_le(p->edid + off, size) : 0;
    if (off >= MMIO_PORTS && off < MMIO_PORTS + 0x20) {
        uint64_t v = vga_port_read(&p->vga, 0x3c0 + (unsigned)(off - MMIO_PORTS));

        return size == 2 ? v | (uint64_t)vga_port_read(&p->vga, 0x3c1 + (unsigned)(off - MMIO_PORTS)) << 8 : v;
    }
    if (off >= MMIO_DISPI && off < MMIO_DISPI + 0x16)
        return vbe_read(&p->vga, (unsigned)(off - MMIO_DISPI) / 2);
    if (off == MMIO_EXT)
        return EXT_SIZE;
    return off == MMIO_EXT + 4 ? EXT_LITTLE : 0;
}

static void mmio_write(void *o, gpa_t off, uint64_t val, unsigned size)
{
    struct vga_pci *p = o;

    if (off >= MMIO_PORTS && off < MMIO_PORTS + 0x20) {
        vga_port_write(&p->vga, 0x3c0 + (unsigned)(off - MMIO_PORTS), (uint8_t)val);
        if (size == 2)
            vga_port_write(&p->vga, 0x3c1 + (unsigned)(off - MMIO_PORTS), (uint8_t)(val >> 8));
    } else if (off >= MMIO_DISPI && off < MMIO_DISPI + 0x16) {
        vbe_write(&p->vga, (unsigned)(off - MMIO_DISPI) / 2, (uint16_t)val);
    } else {
        log_guest("vga: write of %#" PRIx64 " to MMIO offset %#" PRIx64, val, off);
    }
}
static const struct mem_ops mmio_ops = {
    .read = mmio_read, .write = mmio_write, .valid_min = 1, .valid_max = 4, .impl_min = 1, .impl_max = 4};

static bool realize(struct dev *d, struct err **errp)
{
    struct vga_pci *p = container_of(d, struct vga_pci, pci.dev);
    struct edid_info e = {.name = "Lyrebird",
                          .width = p->xres,
                          .height = p->yres,
                          .max_width = p->xmax ? p->xmax : 5120,
                          .max_height = p->ymax ? p->ymax : 2160,
                          .refresh_mhz = p->refresh ? p->refresh : 75000};

    if (p->xres < 8 || p->yres < 8 || p->xres > 4095 || p->yres > 4095)
        return err_set(errp, "%s: xres=%u,yres=%u is out of range (8 to 4095)", d->obj.cls->name, p->xres, p->yres);
    if (!vga_init(&p->vga, d, d->id ? d->id : d->obj.cls->name, p->vgamem_mb, errp))
        return false;
    pci_add_bar(&p->pci, BAR_FB, PCI_BAR_MEM | PCI_BAR_PREFETCH, &p->vga.vram);
    if (p->with_mmio) {
        edid_make(&e, p->edid);
        mem_region_init_io(&p->mmio, dev_machine(d)->mem_sys, &mmio_ops, p, "vga.mmio", MMIO_SIZE);
        pci_add_bar(&p->pci, BAR_MMIO, PCI_BAR_MEM, &p->mmio);
    }
    if (pci_class(&p->pci)->class_id == CLASS_VGA)
        vga_map_legacy(&p->vga, d);
    return true;
}

static void unrealize(struct dev *d)
{
    struct vga_pci *p = container_of(d, struct vga_pci, pci.dev);

    vga_free(&p->vga);
    if (p->with_mmio)
        mem_region_free(&p->mmio);
}

static void reset(struct dev *d)
{
    vga_reset(&container_of(d, struct vga_pci, pci.dev)->vga);
}

static const struct prop props[] = {
    PROP("vgamem_mb", u32, struct vga_pci, vgamem_mb, .dflt = "16", .min = 1, .max = 256),
    PROP("mmio", bool, struct vga_pci, with_mmio, .dflt = "on"),
    PROP("edid", bool, struct vga_pci, with_edid, .dflt = "on"),
    PROP("xres", u32, struct vga_pci, xres, .dflt = "1280"),
    PROP("yres", u32, struct vga_pci, yres, .dflt = "800"),
    PROP("xmax", u32, struct vga_pci, xmax, .dflt = "0"),
    PROP("ymax", u32, struct vga_pci, ymax, .dflt = "0"),
    PROP("refresh_rate", u32, struct vga_pci, refresh, .dflt = "0"),
    PROP_END,
};
static const struct state_field fields[] = {STATE_STRUCT(struct vga_pci, pci, pci_dev_state),
                                            STATE_STRUCT(struct vga_pci, vga, vga_state), STATE_END};

static const struct pci_class vga_pci_class = {
    .name = "VGA",
    .parent = "pci-device",
    .desc = "standard VGA with Bochs VBE extensions",
    .size = sizeof(struct vga_pci),
    .props = props,
    .more_props = pci_props,
    .bus_type = "PCI",
    .category = DEV_CAT_DISPLAY,
    .realize = realize,
    .unrealize = unrealize,
    .reset = reset,
    .state_version = 1,
    .state = fields,
    .vendor_id = 0x1234,
    .device_id = 0x1111,
    .revision = 2,
    .class_id = CLASS_VGA,
    .romfile = "vgabios-stdvga.bin",
};
PCI_REGISTER(vga_pci_class)

static const struct pci_class secondary_vga_class = {
    .name = "secondary-vga",
    .parent = "pci-device",
    .desc = "standard display without legacy decoding",
    .size = sizeof(struct vga_pci),
    .props = props,
    .more_props = pci_props,
    .bus_type = "PCI",
    .category = DEV_CAT_DISPLAY,
    .hotplug = true,
    .realize = realize,
    .unrealize = unrealize,
    .reset = reset,
    .state_version = 1,
    .state = fields,
    .vendor_id = 0x1234,
    .device_id = 0x1111,
    .revision = 2,
    .class_id = CLASS_DISPLAY_OTHER,
};
PCI_REGISTER(secondary_vga_class)
