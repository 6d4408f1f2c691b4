/* Message signalled interrupts: the MSI and MSI-X capabilities.
 *
 * PCI Local Bus 3.0 chapter 6.8. A message is a 32-bit write through the function's DMA gate, so a function that may
 * not master the bus sends none. MSI here is always 64-bit with per-vector masking. pci_msix_notify may run on any
 * thread: it reads table words that only guest writes change, and pending bits are atomic. */
#include "base/bytes.h"
#include "hw/pci/pci_int.h"

#include <stdatomic.h>

enum { MSI_CTRL = 2, MSI_ADDR = 4, MSI_DATA = 12, MSI_MASK = 16, MSI_PENDING = 20, MSI_SIZE = 24 };
enum { MSI_ENABLE = 1, MSI_64 = 0x80, MSI_MASKABLE = 0x100 };
enum { MSIX_CTRL = 2, MSIX_TABLE = 4, MSIX_PBA = 8, MSIX_SIZE = 12, MSIX_ENTRY = 16, MSIX_MAX = 2048 };
enum { MSIX_ENABLE = 0x8000, MSIX_FUNCTION_MASK = 0x4000, MSIX_VECTOR_MASKED = 1 };

struct pci_msi {
    uint8_t cap;
    unsigned nr;
};
struct pci_msix {
    struct pci_dev *d;
    uint8_t cap;
    unsigned nr;
    uint8_t *table;        /* owned: nr entries of 16 bytes, little-endian */
    _Atomic uint64_t *pba; /* owned */
    uint32_t table_len, pba_len;
    struct mem_region table_mr, pba_mr, own_bar;
};

void pci_msi_send(struct pci_dev *d, uint64_t addr, uint32_t data)
{
    mem_store(d->dma, addr, 4, data);
}

/* ---- MSI ---- */

bool pci_add_msi(struct pci_dev *d, unsigned nr, struct err **errp)
{
    uint8_t cap;
    unsigned log = 0;

    assert(is_pow2(nr) && nr <= 32);
    while (1u << log < nr)
        log++;
    cap = pci_add_cap(d, PCI_CAP_MSI, 0, MSI_SIZE);
    if (!cap)
        return err_set(errp, "%s: no room for the MSI capability", d->dev.obj.cls->name);
    d->msi = xnew(struct pci_msi);
    d->msi->cap = cap;
    d->msi->nr = nr;
    put_le16(d->config + cap + MSI_CTRL, (uint16_t)(log << 1 | MSI_64 | MSI_MASKABLE));
    put_le16(d->wmask + cap + MSI_CTRL, 0x71);
    put_le32(d->wmask + cap + MSI_ADDR, ~3u);
    put_le32(d->wmask + cap + MSI_ADDR + 4, ~0u);
    put_le16(d->wmask + cap + MSI_DATA, 0xffff);
    put_le32(d->wmask + cap + MSI_MASK, (uint32_t)((UINT64_C(1) << nr) - 1));
    return true;
}

bool pci_msi_enabled(const struct pci_dev *d)
{
    return d->msi && (d->config[d->msi->cap + MSI_CTRL] & MSI_ENABLE);
}

static void msi_send(struct pci_dev *d, unsigned vector)
{
    const uint8_t *c = d->config + d->msi->cap;
    unsigned log = c[MSI_CTRL] >> 4 & 7, granted;
    uint32_t data = get_le16(c + MSI_DATA);

    granted = 1u << (log > 5 ? 5 : log);
    pci_msi_send(d, get_le64(c + MSI_ADDR), (data & ~(granted - 1)) | (vector & (granted - 1)));
}

void pci_msi_notify(struct pci_dev *d, unsigned vector)
{
    uint8_t *c;

    if (!pci_msi_enabled(d))
        return;
    c = d->config + d->msi->cap;
    if (get_le32(c + MSI_MASK) >> (vector & 31) & 1)
        put_le32(c + MSI_PENDING, get_le32(c + MSI_PENDING) | 1u << (vector & 31));
    else
        msi_send(d, vector);
}

static void msi_flush(struct pci_dev *d)
{
    uint8_t *c = d->config + d->msi->cap;
    uint32_t ready = get_le32(c + MSI_PENDING) & ~get_le32(c + MSI_MASK);

    if (!ready || !pci_msi_enabled(d))
        return;
    put_le32(c + MSI_PENDING, get_le32(c + MSI_PENDING) & ~ready);
    for (unsigned v = 0; v < 32; v++)
        if (ready >> v & 1)
            msi_send(d, v);
}

/* ---- MSI-X ---- */

bool pci_msix_enabled(const struct pci_dev *d)
{
    return d->msix && (get_le16(d->config + d->msix->cap + MSIX_CTRL) & MSIX_ENABLE);
}

static bool msix_masked(const struct pci_dev *d, unsigned v)
{
    const struct pci_msix *x = d->msix;

    return (get_le16(d->config + x->cap + MSIX_CTRL) & MSIX_FUNCTION_MASK) ||
           (x->table[v * MSIX_ENTRY + 12] & MSIX_VECTOR_MASKED);
}

void pci_msix_notify(struct pci_dev *d, unsigned vector)
{
    const uint8_t *e;

    if (!pci_msix_enabled(d) || vector >= d->msix->nr)
        return;
    if (msix_masked(d, vector)) {
        atomic_fetch_or(&d->msix->pba[vector / 64], UINT64_C(1) << (vector % 64));
        return;
    }
    e = d->msix->table + vector * MSIX_ENTRY;
    pci_msi_send(d, get_le64(e), get_le32(e + 8));
}

/* Sends what became pending while it was masked. */
static void msix_flush(struct pci_dev *d, unsigned v)
{
    struct pci_msix *x = d->msix;
    uint64_t bit = UINT64_C(1) << (v % 64);

    if (!pci_msix_enabled(d) || msix_masked(d, v) || !(x->pba[v / 64] & bit))
        return;
    if (atomic_fetch_and(&x->pba[v / 64], ~bit) & bit)
        pci_msix_notify(d, v);
}

static uint64_t table_read(void *opaque, gpa_t off, unsigned size)
{
    struct pci_msix *x = opaque;

    return get_le(x->table + off, size);
}
static void table_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct pci_msix *x = opaque;

    put_le(x->table + off, val, size);
    if ((off & 15) == 12)
        x->table[off] &= MSIX_VECTOR_MASKED;
    msix_flush(x->d, (unsigned)(off / MSIX_ENTRY));
}
static const struct mem_ops table_ops = {
    .read = table_read, .write = table_write, .valid_min = 4, .valid_max = 8, .impl_min = 4, .impl_max = 4};

static uint64_t pba_read(void *opaque, gpa_t off, unsigned size)
{
    struct pci_msix *x = opaque;
    uint64_t w = x->pba[off / 8];

    return (w >> 8 * (off & 4)) & UINT32_MAX;
}
static void pba_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    log_guest("msix: write to the pending bits is ignored");
}
static const struct mem_ops pba_ops = {
    .read = pba_read, .write = pba_write, .valid_min = 4, .valid_max = 8, .impl_min = 4, .impl_max = 4};

static void msix_own_bar(struct pci_dev *d, struct pci_msix *x, unsigned bar, uint64_t end)
{
    uint64_t size = 4096;

    while (size < end)
        size *= 2;
    mem_region_init(&x->own_bar, dev_machine(&d->dev)->mem_sys, "msix", size);
    pci_add_bar(d, bar, PCI_BAR_MEM, &x->own_bar);
}

bool pci_add_msix(struct pci_dev *d, unsigned nr, unsigned bar, uint32_t table_off, uint32_t pba_off, struct err **errp)
{
    struct mem_sys *s = dev_machine(&d->dev)->mem_sys;
    struct pci_msix *x;
    uint64_t pba_len = div_up(nr, 64) * 8;
    uint8_t cap;

    assert(bar < PCI_BARS && !(table_off & 7) && !(pba_off & 7));
    if (!nr || nr > MSIX_MAX)
        return err_set(errp, "%s: %u MSI-X vectors are out of range (1 to %u)", d->dev.obj.cls->name, nr, MSIX_MAX);
    cap = pci_add_cap(d, PCI_CAP_MSIX, 0, MSIX_SIZE);
    if (!cap)
        return err_set(errp, "%s: no room for the MSI-X capability", d->dev.obj.cls->name);
    x = d->msix = xnew(struct pci_msix);
    x->d = d;
    x->cap = cap;
    x->nr = nr;
    x->table = xcalloc(nr, MSIX_ENTRY);
    x->pba = xcalloc(div_up(nr, 64), sizeof *x->pba);
    x->table_len = nr * MSIX_ENTRY;
    x->pba_len = (uint32_t)pba_len;
    put_le16(d->config + cap + MSIX_CTRL, (uint16_t)(nr - 1));
    put_le16(d->wmask + cap + MSIX_CTRL, MSIX_ENABLE | MSIX_FUNCTION_MASK);
    put_le32(d->config + cap + MSIX_TABLE, table_off | bar);
    put_le32(d->config + cap + MSIX_PBA, pba_off | bar);
    if (!d->bar[bar])
        msix_own_bar(d, x, bar, max_u64(table_off + (uint64_t)nr * MSIX_ENTRY, pba_off + pba_len));
    mem_region_init_io(&x->table_mr, s, &table_ops, x, "msix-table", (uint64_t)nr * MSIX_ENTRY);
    mem_region_init_io(&x->pba_mr, s, &pba_ops, x, "msix-pba", pba_len);
    mem_region_add_prio(d->bar[bar], table_off, &x->table_mr, 1);
    mem_region_add_prio(d->bar[bar], pba_off, &x->pba_mr, 1);
    pci_msi_reset(d);
    return true;
}

/* ---- for the core ---- */

void pci_msi_cfg_written(struct pci_dev *d, unsigned off, unsigned size)
{
    if (d->msi && off < d->msi->cap + MSI_SIZE && d->msi->cap < off + size)
        msi_flush(d);
    if (d->msix && off < d->msix->cap + 4u && d->msix->cap < off + size)
        for (unsigned v = 0; v < d->msix->nr; v++)
            msix_flush(d, v);
}

void pci_msi_reset(struct pci_dev *d)
{
    if (d->msi) {
        uint8_t *c = d->config + d->msi->cap;

        put_le16(c + MSI_CTRL, get_le16(c + MSI_CTRL) & (uint16_t)~0x71);
        memset(c + MSI_ADDR, 0, MSI_SIZE - MSI_ADDR);
    }
    if (d->msix) {
        struct pci_msix *x = d->msix;

        put_le16(d->config + x->cap + MSIX_CTRL, (uint16_t)(x->nr - 1));
        memset(x->table, 0, x->nr * MSIX_ENTRY);
        for (unsigned v = 0; v < x->nr; v++)
            x->table[v * MSIX_ENTRY + 12] = MSIX_VECTOR_MASKED;
        for (unsigned i = 0; i < div_up(x->nr, 64); i++)
            x->pba[i] = 0;
    }
}

static const struct state_field msix_fields[] = {STATE_VARBYTES(struct pci_msix, table, table_len),
                                                 STATE_VARBYTES(struct pci_msix, pba, pba_len), STATE_END};
const struct state_desc pci_msix_state = {.name = "msix", .version = 1, .fields = msix_fields};

void pci_msi_free(struct pci_dev *d)
{
    struct pci_msix *x = d->msix;

    free(d->msi);
    d->msi = NULL;
    if (!x)
        return;
    mem_region_del(&x->table_mr);
    mem_region_del(&x->pba_mr);
    mem_region_free(&x->table_mr);
    mem_region_free(&x->pba_mr);
    if (x->own_bar.size)
        mem_region_free(&x->own_bar);
    free(x->table);
    free((void *)x->pba);
    free(x);
    d->msix = NULL;
}
