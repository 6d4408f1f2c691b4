/* What the files of hw/pci share. */
#ifndef HW_PCI_PCI_INT_H
#define HW_PCI_PCI_INT_H

#include "hw/pci/pci.h"

unsigned pci_config_size(const struct pci_dev *d);
/* Sends one message through the function's DMA gate. */
void pci_msi_send(struct pci_dev *d, uint64_t addr, uint32_t data);
/* After configuration bytes [off, off + size) changed. */
void pci_msi_cfg_written(struct pci_dev *d, unsigned off, unsigned size);
void pci_msi_reset(struct pci_dev *d);
extern const struct state_desc pci_msix_state; /* of a struct pci_msix */
void pci_msi_free(struct pci_dev *d);
/* Re-evaluates what BARs decode. */
void pci_update_bars(struct pci_dev *d);
/* Loads the option ROM file named by property or class into d->rom. */
bool pci_rom_load(struct pci_dev *d, struct err **errp);

#endif
