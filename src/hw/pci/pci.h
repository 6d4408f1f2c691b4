/* PCI and PCI Express functions, as device models see them.
 *
 * A function embeds struct pci_dev first, its class embeds struct pci_class first. realize() of the class declares
 * BARs, capabilities and MSI-X vectors; the core owns configuration space, BAR decoding, INTx routing, MSI and MSI-X.
 * Machine lock held in every call unless noted. Sources: PCI Local Bus 3.0, PCI Express Base 4.0. */
#ifndef HW_PCI_PCI_H
#define HW_PCI_PCI_H

#include "dev/dev.h"

enum { PCI_BARS = 6, PCI_ROM_BAR = 6, PCI_CFG_SIZE = 256, PCIE_CFG_SIZE = 4096 };
/* Type 0 header, names as in the specification. */
enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION_ID = 0x08,
    PCI_CLASS_PROG = 0x09,
    PCI_CLASS_DEVICE = 0x0a,
    PCI_CACHE_LINE_SIZE = 0x0c,
    PCI_LATENCY_TIMER = 0x0d,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BIST = 0x0f,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR_ID = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
    PCI_ROM_ADDRESS = 0x30,
    PCI_CAPABILITY_LIST = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
    PCI_PRIMARY_BUS = 0x18,
    PCI_SECONDARY_BUS = 0x19,
    PCI_SUBORDINATE_BUS = 0x1a,
};
enum { PCI_COMMAND_IO = 1, PCI_COMMAND_MEMORY = 2, PCI_COMMAND_MASTER = 4, PCI_COMMAND_INTX_DISABLE = 0x400 };
enum { PCI_STATUS_INTERRUPT = 8, PCI_STATUS_CAP_LIST = 0x10 };
enum { PCI_BAR_IO = 1, PCI_BAR_MEM = 0, PCI_BAR_MEM64 = 4, PCI_BAR_PREFETCH = 8 };
enum {
    PCI_CAP_PM = 1,
    PCI_CAP_MSI = 5,
    PCI_CAP_VENDOR = 9,
    PCI_CAP_EXP = 0x10,
    PCI_CAP_MSIX = 0x11,
    PCI_CAP_SATA = 0x12
};
#define PCI_DEVFN(dev, fn) ((uint8_t)(((dev) << 3) | (fn)))

struct pci_dev;
struct pci_bus;

struct pci_class {
    struct dev_class;
    uint16_t vendor_id, device_id, subsystem_vendor_id, subsystem_id; /* subsystem 0: 1af4:1100 */
    uint8_t revision, prog_if;
    uint16_t class_id;   /* base class << 8 | subclass */
    bool is_bridge;      /* type 1 header */
    bool is_express;     /* prefers a PCIe bus; 4 KiB of configuration space there */
    const char *romfile; /* default option ROM (searched in the firmware folders), may be NULL */
    /* NULL: pci_default_*; overriding functions call the default for what they do not handle. */
    uint32_t (*cfg_read)(struct pci_dev *d, unsigned off, unsigned size);
    void (*cfg_write)(struct pci_dev *d, unsigned off, uint32_t val, unsigned size);
};

struct pci_dev {
    struct dev dev;  /* first */
    uint8_t *config; /* owned: PCIE_CFG_SIZE bytes, current values */
    uint32_t config_len;
    uint8_t *wmask, *w1cmask;  /* writable bits; write-one-to-clear bits */
    int32_t addr;              /* property addr=slot[.fn] as devfn; -1 = first free slot */
    uint8_t devfn, pin;        /* pin: what pci_set_pin said */
    bool multifunction;        /* property */
    struct mem_region *bar[7]; /* borrowed; [6] is the ROM */
    uint8_t bar_type[7];
    gpa_t bar_addr[7]; /* where it is decoded now, or UINT64_MAX */
    struct mem_region rom;
    char *romfile;             /* property; "" = none */
    int32_t rombar, bootindex; /* properties; bootindex -1 = none */
    int intx_level;
    struct pci_msi *msi; /* private to hw/pci */
    struct pci_msix *msix;
    struct mem_region bm_root, bm_alias; /* what it may DMA to: follows the bus-master bit */
    struct mem_space *dma;               /* its DMA address space */
    uint8_t exp_cap;                     /* offset of the PCIe capability, 0 = conventional */
    int intx_out;          /* what counts at the router: intx_level unless the command register masks it */
    struct pci_bus *child; /* bridges: the secondary bus */
    uint16_t cap_end;      /* first byte behind the last capability placed */
    uint16_t ext_cap_last, ext_cap_end;
};
static inline const struct pci_class *pci_class(const struct pci_dev *d)
{
    return (const struct pci_class *)d->dev.obj.cls;
}
extern const struct prop
    pci_props[]; /* addr, multifunction, romfile, rombar, bootindex: set as .more_props of every PCI class */
#define PCI_REGISTER(cls_) OBJ_REGISTER_AS(cls_, pci)
extern const struct state_desc
    pci_dev_state; /* STATE_STRUCT(struct x, pci, pci_dev_state) in the state of every PCI class */

/* In realize. `type` is PCI_BAR_*; the size of the region must be a power of two (>= 16, IO >= 4). */
void pci_add_bar(struct pci_dev *d, unsigned n, unsigned type, struct mem_region *r);
/* Appends a capability of `size` bytes (including the 2-byte header) at a free place, or at `at` when not 0. Returns
 * its offset, 0 when there is no room. Bytes are zero and read-only until config/wmask are set. */
uint8_t pci_add_cap(struct pci_dev *d, uint8_t id, uint8_t at, uint8_t size);
/* PCIe capability for an endpoint; type as in the Device/Port Type field (0 endpoint, 4 root port, 9 integrated). */
void pcie_add_exp_cap(struct pci_dev *d, uint8_t port_type);
void pci_set_pin(struct pci_dev *d, unsigned pin); /* 1 = INTA# ... */
bool pci_add_msi(struct pci_dev *d, unsigned nr_vectors, struct err **errp);
/* Table and PBA live in BAR `bar` at the given offsets: the core adds a region of its own when bar is not yet used; a
 * BAR that is already there must be a container region (put your registers into it as a sub-region). */
bool pci_add_msix(struct pci_dev *d, unsigned nr, unsigned bar, uint32_t table_off, uint32_t pba_off,
                  struct err **errp);
bool pci_msix_enabled(const struct pci_dev *d);
bool pci_msi_enabled(const struct pci_dev *d);
void pci_msix_notify(struct pci_dev *d, unsigned vector); /* any thread */
void pci_msi_notify(struct pci_dev *d, unsigned vector);
void pci_set_intx(struct pci_dev *d, int level);
/* MSI when enabled, else INTx. */
void pci_default_reset(struct pci_dev *d); /* config registers; called by the bus before the class's reset */
uint32_t pci_default_cfg_read(struct pci_dev *d, unsigned off, unsigned size);
void pci_default_cfg_write(struct pci_dev *d, unsigned off, uint32_t val, unsigned size);

/* DMA through the bus-master gate; result as mem_read/mem_write. */
static inline enum mem_result pci_dma_read(struct pci_dev *d, gpa_t addr, void *buf, uint64_t len)
{
    return mem_read(d->dma, addr, buf, len);
}
static inline enum mem_result pci_dma_write(struct pci_dev *d, gpa_t addr, const void *buf, uint64_t len)
{
    return mem_write(d->dma, addr, buf, len);
}

/* A bus. Host bridges and bridges embed one. */
struct pci_bus {
    struct bus bus; /* first; type "PCI" */
    bool express;
    uint8_t nr;                  /* bus number as configured */
    struct pci_dev *slot[256];   /* by devfn */
    struct mem_region *mem, *io; /* where BARs are mapped */
    uint8_t devfn_min;
    struct pci_bus *parent; /* NULL at the root */
    /* Root only: INTx of (devfn, pin 0..3) -> input n of the interrupt router, and the router itself. */
    int (*map_irq)(struct pci_bus *b, uint8_t devfn, int pin);
    irq_fn *set_irq;
    void *irq_opaque;
    int irq_count[128]; /* level of each router input: functions asserting it */
    struct list child_buses, sib;
    const char *const *rom_dirs; /* root only: where option ROM files are searched, NULL-terminated, borrowed */
    /* Root only: the reset control register at port CF9h, which lies inside CONFADD but answers byte accesses. */
    uint8_t (*cf9_read)(void *opaque);
    void (*cf9_write)(void *opaque, uint8_t val);
    void *cf9_opaque;
    bool single_slot; /* behind a PCIe port: device 0 only */
    uint32_t hp_nr;   /* number of the bus for ACPI hot-plug */
    /* Hot-plug controller of this bus, NULL = none: told of devices that arrived while the machine runs; asked to let
     * one go. */
    void (*hp_plugged)(void *opaque, struct pci_dev *d);
    bool (*hp_unplug)(void *opaque, struct pci_dev *d, struct err **errp);
    void *hp_opaque;
};
void pci_bus_init(struct pci_bus *b, struct dev *owner, const char *name, struct mem_region *mem, struct mem_region *io,
                  uint8_t devfn_min, bool express);
static inline struct pci_bus *pci_dev_bus(const struct pci_dev *d)
{
    return (struct pci_bus *)d->dev.bus;
}
void pci_bus_fini(struct pci_bus *b);
/* The inputs of the router, of a root bus: STATE_STRUCT(struct host, bus, pci_root_state). */
extern const struct state_desc pci_root_state;
/* The router's wiring changed: map_irq gives other answers now. */
void pci_bus_remap_irqs(struct pci_bus *root);
/* Calls fn for every function below b, bus by bus. */
void pci_each(struct pci_bus *b, void (*fn)(struct pci_dev *d, void *opaque), void *opaque);
struct pci_dev *pci_find(struct pci_bus *root, uint8_t bus_nr, uint8_t devfn);
/* Configuration cycles from a host bridge (0xcf8/0xcfc, MMCONFIG); absent functions read all ones. */
uint32_t pci_cfg_read(struct pci_bus *root, uint8_t bus_nr, uint8_t devfn, unsigned off, unsigned size);
void pci_cfg_write(struct pci_bus *root, uint8_t bus_nr, uint8_t devfn, unsigned off, uint32_t val, unsigned size);
/* Creates, places at devfn (-1 any) and realizes: for boards. */
struct pci_dev *pci_create(struct machine *m, struct pci_bus *b, int devfn, const char *cls, const char *id,
                           struct err **errp);

#endif
