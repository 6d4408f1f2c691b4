/* PCI configuration mechanism #1 (PCI Local Bus 3.0 chapter 3.2.2.3.2) and the enhanced window (PCIe Base 4.0 7.2.2).
 */
#include "hw/pci/host.h"

enum { CONFADD_ENABLE = 1u << 31 };

static uint64_t addr_read(void *opaque, gpa_t off, unsigned size)
{
    struct pci_conf_ports *p = opaque;

    if (size == 4)
        return p->confadd;
    return size == 1 && off == 1 && p->root->cf9_read ? p->root->cf9_read(p->root->cf9_opaque) : UINT32_MAX;
}
static void addr_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct pci_conf_ports *p = opaque;

    if (size == 4)
        p->confadd = (uint32_t)val;
    else if (size == 1 && off == 1 && p->root->cf9_write)
        p->root->cf9_write(p->root->cf9_opaque, (uint8_t)val);
    else
        log_guest("pci: %u-byte write to CONFADD is ignored", size);
}
/* Only a doubleword reaches the register; narrower accesses are ordinary I/O, which nothing but CF9h answers. */
static const struct mem_ops addr_ops = {
    .read = addr_read, .write = addr_write, .valid_min = 1, .valid_max = 4, .impl_min = 1, .impl_max = 4};

static uint64_t data_read(void *opaque, gpa_t off, unsigned size)
{
    struct pci_conf_ports *p = opaque;
    uint32_t a = p->confadd;

    if (!(a & CONFADD_ENABLE))
        return UINT32_MAX;
    return pci_cfg_read(p->root, (uint8_t)(a >> 16), (uint8_t)(a >> 8), (a & 0xfc) + (unsigned)off, size);
}
static void data_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct pci_conf_ports *p = opaque;
    uint32_t a = p->confadd;

    if (a & CONFADD_ENABLE)
        pci_cfg_write(p->root, (uint8_t)(a >> 16), (uint8_t)(a >> 8), (a & 0xfc) + (unsigned)off, (uint32_t)val, size);
}
static const struct mem_ops data_ops = {
    .read = data_read, .write = data_write, .valid_min = 1, .valid_max = 4, .impl_min = 1, .impl_max = 4};

void pci_conf_ports_init(struct pci_conf_ports *p, struct dev *owner, struct pci_bus *root)
{
    struct mem_sys *s = dev_machine(owner)->mem_sys;

    p->root = root;
    mem_region_init_io(&p->addr, s, &addr_ops, p, "pci-conf-idx", 4);
    mem_region_init_io(&p->data, s, &data_ops, p, "pci-conf-data", 4);
    dev_map_io(owner, &p->addr, 0xcf8);
    dev_map_io(owner, &p->data, 0xcfc);
}

void pci_conf_ports_fini(struct pci_conf_ports *p)
{
    mem_region_del(&p->addr);
    mem_region_del(&p->data);
}

static uint64_t win_read(void *opaque, gpa_t off, unsigned size)
{
    struct pcie_mmcfg *w = opaque;

    return pci_cfg_read(w->root, (uint8_t)(off >> 20), (uint8_t)(off >> 12), off & 0xfff, size);
}
static void win_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct pcie_mmcfg *w = opaque;

    pci_cfg_write(w->root, (uint8_t)(off >> 20), (uint8_t)(off >> 12), off & 0xfff, (uint32_t)val, size);
}
static const struct mem_ops win_ops = {
    .read = win_read, .write = win_write, .valid_min = 1, .valid_max = 8, .impl_min = 1, .impl_max = 4};

void pcie_mmcfg_init(struct pcie_mmcfg *w, struct dev *owner, struct pci_bus *root, struct mem_region *mem)
{
    w->root = root;
    w->mem = mem;
    mem_region_init_io(&w->win, dev_machine(owner)->mem_sys, &win_ops, w, "pcie-mmcfg", 256 * MIB);
}

void pcie_mmcfg_set(struct pcie_mmcfg *w, uint64_t base, uint64_t size)
{
    if (base == w->base && size == w->size)
        return;
    mem_begin(w->win.sys);
    if (w->size)
        mem_region_del(&w->win);
    w->base = base;
    w->size = size;
    if (size) {
        mem_region_set_size(&w->win, size);
        mem_region_add_prio(w->mem, base, &w->win, 2);
    }
    mem_commit(w->win.sys);
}
