/* virtio over PCI: registers of VIRTIO 1.2 section 4.1, with the legacy (0.9.5) and the modern (1.x) interface.
 *
 * A device is one struct: { struct virtio_pci pci; struct virtio_xxx body; } where the body starts with struct
 * virtio_dev. Its classes are built by VIRTIO_PCI_CLASSES: NAME (transitional unless it sits behind a PCIe port),
 * NAME-transitional and NAME-non-transitional. */
#ifndef HW_VIRTIO_VIRTIO_PCI_H
#define HW_VIRTIO_VIRTIO_PCI_H

#include "hw/pci/pci.h"
#include "hw/virtio/virtio.h"

enum virtio_pci_kind { VPCI_GENERIC, VPCI_TRANSITIONAL, VPCI_MODERN };

struct virtio_pci {
    struct pci_dev pci;    /* first */
    struct virtio_dev *vd; /* borrowed: the body behind this struct */
    struct mem_region legacy, modern, common, isr, device, notify;
    int disable_legacy;                                           /* property, enum onoffauto */
    bool disable_modern, ioeventfd, page_per_vq, modern_pio, ats; /* properties */
    uint32_t vectors; /* property; UINT32_MAX = as many as the device has use for */
    bool has_legacy, has_modern;
    uint32_t notify_mult;
    uint8_t cfg_cap; /* offset of the PCI configuration access capability */
    uint32_t dfselect, gfselect;
    uint32_t guest_low; /* first half of the features the modern driver writes */
    uint32_t guest_high;
};

struct virtio_pci_class {
    struct pci_class;
    const struct virtio_type *type;
    enum virtio_pci_kind kind;
    size_t body_off;
    uint16_t legacy_id; /* PCI device id of the transitional device; 0 = has none */
    /* MSI-X vectors by default, for the queues that exist after realize; NULL: one each and one for configuration. */
    unsigned (*nr_vectors)(struct virtio_dev *vd);
};

#define VIRTIO_PCI_PROPS(S)                                                                                            \
    PROP("disable-legacy", onoffauto, S, pci.disable_legacy, .dflt = "auto"),                                          \
        PROP("disable-modern", bool, S, pci.disable_modern, .dflt = "off"),                                            \
        PROP("ioeventfd", bool, S, pci.ioeventfd, .dflt = "on"),                                                       \
        PROP("vectors", u32, S, pci.vectors, .dflt = "4294967295"),                                                    \
        PROP("page-per-vq", bool, S, pci.page_per_vq, .dflt = "off"),                                                  \
        PROP("modern-pio-notify", bool, S, pci.modern_pio, .dflt = "off"),                                             \
        PROP("ats", bool, S, pci.ats, .dflt = "off")

bool virtio_pci_realize(struct dev *d, struct err **errp);
void virtio_pci_unrealize(struct dev *d);
void virtio_pci_reset(struct dev *d);
uint32_t virtio_pci_cfg_read(struct pci_dev *d, unsigned off, unsigned size);
void virtio_pci_cfg_write(struct pci_dev *d, unsigned off, uint32_t val, unsigned size);
extern const struct state_desc
    virtio_pci_state; /* the function and the transport's registers (struct virtio_pci), without the body */

#define VIRTIO_PCI_CLASS_(var, nm, knd, S, body, typ, ...)                                                             \
    static const struct virtio_pci_class var = {.name = nm,                                                            \
                                                .parent = "virtio-pci",                                                \
                                                .size = sizeof(S),                                                     \
                                                .more_props = pci_props,                                               \
                                                .bus_type = "PCI",                                                     \
                                                .hotplug = true,                                                       \
                                                .realize = virtio_pci_realize,                                         \
                                                .unrealize = virtio_pci_unrealize,                                     \
                                                .reset = virtio_pci_reset,                                             \
                                                .cfg_read = virtio_pci_cfg_read,                                       \
                                                .cfg_write = virtio_pci_cfg_write,                                     \
                                                .vendor_id = 0x1af4,                                                   \
                                                .type = &(typ),                                                        \
                                                .kind = knd,                                                           \
                                                .body_off = offsetof(S, body),                                         \
                                                __VA_ARGS__};                                                          \
    PCI_REGISTER(var)
/* ident: a C name; nm: "virtio-blk-pci" without "-pci" is nmbase; the rest are further class fields (.props, .aliases).
 */
#define VIRTIO_PCI_CLASSES(ident, nm, alias_list, S, body, typ, ...)                                                   \
    VIRTIO_PCI_CLASS_(ident##_cls, nm, VPCI_GENERIC, S, body, typ, .aliases = alias_list, __VA_ARGS__)                 \
    VIRTIO_PCI_CLASS_(ident##_trans_cls, nm "-transitional", VPCI_TRANSITIONAL, S, body, typ, __VA_ARGS__)             \
    VIRTIO_PCI_CLASS_(ident##_modern_cls, nm "-non-transitional", VPCI_MODERN, S, body, typ, __VA_ARGS__)

#endif
