/* How processors reach PCI configuration space: mechanism #1 ports and the PCIe window. For host bridges. */
#ifndef HW_PCI_HOST_H
#define HW_PCI_HOST_H

#include "hw/pci/pci.h"

/* CONFADD/CONFDATA at 0xcf8/0xcfc. 0xcf9 passes through to whoever decodes it. */
struct pci_conf_ports {
    struct pci_bus *root; /* borrowed */
    uint32_t confadd;
    struct mem_region addr, data;
};
void pci_conf_ports_init(struct pci_conf_ports *p, struct dev *owner, struct pci_bus *root); /* maps the ports */
void pci_conf_ports_fini(struct pci_conf_ports *p);

/* ECAM: 1 MiB per bus. Not mapped until pcie_mmcfg_set. */
struct pcie_mmcfg {
    struct pci_bus *root;   /* borrowed */
    struct mem_region *mem; /* borrowed: where it is mapped */
    struct mem_region win;
    uint64_t base, size; /* size 0 = off */
};
void pcie_mmcfg_init(struct pcie_mmcfg *w, struct dev *owner, struct pci_bus *root, struct mem_region *mem);
void pcie_mmcfg_set(struct pcie_mmcfg *w, uint64_t base, uint64_t size);

#endif
