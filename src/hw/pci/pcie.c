/* PCI Express capability and extended capabilities of an endpoint or port. PCI Express Base 4.0 chapters 7.5.3 and 7.6.
 *
 * Links report 2.5 GT/s x1 and always up; error reporting bits can be set by the guest and never fire. */
#include "hw/pci/pcie.h"
#include "base/bytes.h"
#include "hw/pci/pci_int.h"

void pcie_add_exp_cap(struct pci_dev *d, uint8_t type)
{
    uint8_t cap = pci_add_cap(d, PCI_CAP_EXP, 0, PCIE_CAP_LEN), *c = d->config + cap, *w = d->wmask + cap;
    bool integrated = type == PCIE_TYPE_RC_ENDPOINT;

    if (!cap)
        return;
    d->exp_cap = cap;
    put_le16(c + PCIE_FLAGS, (uint16_t)(2 | type << 4));
    put_le32(c + PCIE_DEVCAP, 0x8000); /* role-based error reporting */
    put_le16(w + PCIE_DEVCTL, 0x7fef & ~0x0310);
    put_le16(d->w1cmask + cap + PCIE_DEVSTA, 0xf);
    put_le32(c + PCIE_DEVCAP2, 0x10);
    put_le16(w + PCIE_DEVCTL2, 0x1f);
    if (integrated)
        return;
    put_le32(c + PCIE_LNKCAP, 1 | 1 << 4 | 1 << 10);
    put_le16(w + PCIE_LNKCTL, 0xcb);
    put_le16(c + PCIE_LNKSTA, 1 | 1 << 4);
    put_le32(c + PCIE_LNKCAP2, 1 << 1);
    put_le16(c + PCIE_LNKCTL2, 1);
    put_le16(w + PCIE_LNKCTL2, 0xf);
}
