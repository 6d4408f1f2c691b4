/* AHCI host adapter of the ICH9: six ports, native queueing. Source: Serial ATA AHCI 1.3.1; Serial ATA 2.6 (FIS
 * layouts).
 *
 * A port runs one plain command at a time through struct ide_bus and any number of queued ones by itself. Command
 * headers, tables and physical region entries are read once, when the command starts or its data moves; a list that is
 * too short ends the command with an error. Left out: port multipliers, hot-plug, staggered spin-up, enclosure
 * management, index-data pair. */
#include "hw/ide/ide.h"
#include "hw/pci/pci.h"

enum {
    CAP = 0x00,
    GHC = 0x04,
    IS = 0x08,
    PI = 0x0c,
    VS = 0x10,
    CAP2 = 0x24,
    PORTS = 0x100,
    PORT_SIZE = 0x80,
    ABAR_SIZE = 0x1000
};
enum {
    PxCLB = 0x00,
    PxCLBU = 0x04,
    PxFB = 0x08,
    PxFBU = 0x0c,
    PxIS = 0x10,
    PxIE = 0x14,
    PxCMD = 0x18,
    PxTFD = 0x20,
    PxSIG = 0x24,
    PxSSTS = 0x28,
    PxSCTL = 0x2c,
    PxSERR = 0x30,
    PxSACT = 0x34,
    PxCI = 0x38,
    PxSNTF = 0x3c,
    NR_REGS = 32
};
enum { GHC_HR = 1, GHC_IE = 2 };
#define GHC_AE (1u << 31)
enum { CMD_ST = 1, CMD_SUD = 2, CMD_POD = 4, CMD_CLO = 8, CMD_FRE = 0x10, CMD_FR = 1 << 14, CMD_CR = 1 << 15 };
enum { IS_DHRS = 1, IS_PSS = 2, IS_SDBS = 8, IS_PCS = 0x40, IS_TFES = 1 << 30 };
enum {
    NPORTS = 6,
    SLOTS = 32,
    FIS_H2D = 0x27,
    FIS_D2H = 0x34,
    FIS_PIO = 0x5f,
    FIS_SDB = 0xa1,
    RX_PIO = 0x20,
    RX_D2H = 0x40,
    RX_SDB = 0x58
};
enum { READ_FPDMA = 0x60, WRITE_FPDMA = 0x61, HEADER = 32, TABLE_PRDT = 0x80, PRD = 16, NO_SLOT = -1 };

struct ahci;
/* A place in a command's data: entries of its region table, then bytes of the entry in hand. */
struct cursor {
    gpa_t next, at;
    uint32_t entries, left;
};
struct port {
    struct ide_bus bus;
    struct ahci *a; /* borrowed */
    unsigned nr;
    uint32_t r[NR_REGS];
    int slot;     /* of the plain command under way */
    gpa_t header; /* of it */
    struct cursor cur;
    uint32_t moved;
    bool sent_sig; /* the first D2H FIS after a reset went out */
    uint32_t gen;
    struct ev_bh bh;
};
struct ahci {
    struct pci_dev pci; /* first */
    struct mem_region abar;
    uint32_t ghc, is;
    struct port port[NPORTS];
};
struct ncq { /* a queued command */
    struct port *p;
    uint32_t gen;
    unsigned tag;
    uint64_t lba;
    uint32_t left, chunk;
    bool to_guest, fua;
    struct cursor cur;
    uint8_t *buf; /* owned */
    struct iovec v;
    struct iov q;
};

static uint32_t *R(struct port *p, unsigned off)
{
    return &p->r[off / 4];
}

/* ---- interrupts ---- */

static void irq_update(struct ahci *a, bool event)
{
    bool on;

    for (unsigned i = 0; i < NPORTS; i++)
        if (*R(&a->port[i], PxIS) & *R(&a->port[i], PxIE))
            a->is |= 1u << i;
    on = a->is && (a->ghc & GHC_IE);
    if (pci_msi_enabled(&a->pci)) {
        if (on && event)
            pci_msi_notify(&a->pci, 0);
    } else {
        pci_set_intx(&a->pci, on);
    }
}

static void port_irq(struct port *p, uint32_t bits)
{
    *R(p, PxIS) |= bits;
    irq_update(p->a, true);
}

/* ---- FISes to the guest ---- */

static void fis_send(struct port *p, unsigned at, const uint8_t *fis, size_t len)
{
    gpa_t fb = (gpa_t)*R(p, PxFBU) << 32 | *R(p, PxFB);

    if (*R(p, PxCMD) & CMD_FRE)
        pci_dma_write(&p->a->pci, fb + at, fis, len);
}

static void fill_regs(struct port *p, uint8_t *f)
{
    const struct ide_unit *u = &p->bus.unit[0];

    f[1] = 0x40; /* interrupt */
    f[2] = u->status;
    f[3] = u->error;
    f[4] = u->lo[0];
    f[5] = u->mid[0];
    f[6] = u->hi[0];
    f[7] = p->bus.device;
    f[8] = u->lo[1];
    f[9] = u->mid[1];
    f[10] = u->hi[1];
    f[12] = u->count[0];
    f[13] = u->count[1];
}

static void send_d2h(struct port *p)
{
    uint8_t f[20] = {FIS_D2H};

    fill_regs(p, f);
    fis_send(p, RX_D2H, f, sizeof f);
}

static void send_pio(struct port *p)
{
    uint8_t f[20] = {FIS_PIO};

    fill_regs(p, f);
    f[1] = 0x60; /* to the guest */
    f[15] = p->bus.unit[0].status;
    put_le16(f + 16, p->moved);
    fis_send(p, RX_PIO, f, sizeof f);
}

static void set_tfd(struct port *p)
{
    *R(p, PxTFD) = p->bus.unit[0].status | (uint32_t)p->bus.unit[0].error << 8;
}

/* ---- data ---- */

static size_t cursor_copy(struct port *p, struct cursor *c, uint8_t *buf, size_t len, bool to_guest)
{
    struct pci_dev *d = &p->a->pci;
    size_t done = 0;

    while (done < len) {
        if (!c->left) {
            uint8_t e[PRD];
            if (!c->entries)
                break;
            c->entries--;
            pci_dma_read(d, c->next, e, sizeof e);
            c->next += PRD;
            c->at = get_le64(e);
            c->left = (get_le32(e + 12) & 0x3fffff) + 1;
        }
        size_t n = min_u64(len - done, c->left);
        if (to_guest)
            pci_dma_write(d, c->at, buf + done, n);
        else
            pci_dma_read(d, c->at, buf + done, n);
        c->at += n;
        c->left -= n;
        done += n;
    }
    return done;
}

static size_t dma_copy(void *opaque, uint8_t *buf, size_t len, bool to_guest)
{
    struct port *p = opaque;
    size_t n = cursor_copy(p, &p->cur, buf, len, to_guest);

    p->moved += n;
    return n;
}

static void dma_wait(void *opaque)
{
    ide_dma_go(&((struct port *)opaque)->bus);
}

static void no_line(void *opaque, int level)
{
}

/* A plain command has ended. */
static void cmd_done(void *opaque)
{
    struct port *p = opaque;
    bool bad = p->bus.unit[0].status & ST_ERR;
    uint8_t count[4];

    if (p->slot == NO_SLOT)
        return;
    put_le32(count, p->moved);
    pci_dma_write(&p->a->pci, p->header + 4, count, 4);
    set_tfd(p);
    if (p->bus.pio_in && !bad)
        send_pio(p);
    send_d2h(p);
    *R(p, PxCI) &= ~(1u << p->slot);
    p->slot = NO_SLOT;
    port_irq(p, IS_DHRS | (p->bus.pio_in && !bad ? IS_PSS : 0) | (bad ? IS_TFES : 0u));
    ev_bh_schedule(&p->bh);
}
static const struct ide_ops ahci_ops = {
    .irq = no_line, .dma_wait = dma_wait, .dma_copy = dma_copy, .fis = true, .done = cmd_done};

/* ---- queued commands ---- */

static void ncq_step(struct ncq *n);

static void ncq_end(struct ncq *n, uint8_t error)
{
    struct port *p = n->p;
    uint8_t f[8] = {FIS_SDB, 0x40, error ? ST_DRDY | ST_ERR : ST_DRDY, error};

    if (!error) {
        put_le32(f + 4, 1u << n->tag);
        *R(p, PxSACT) &= ~(1u << n->tag);
    } else {
        *R(p, PxTFD) = ST_DRDY | ST_ERR | (uint32_t)error << 8;
    }
    fis_send(p, RX_SDB, f, sizeof f);
    port_irq(p, IS_SDBS | (error ? IS_TFES : 0u));
    free(n->buf);
    free(n);
}

static void ncq_done(void *opaque, int ret)
{
    struct ncq *n = opaque;
    struct port *p = n->p;

    if (n->gen != p->gen) {
        free(n->buf);
        free(n);
        return;
    }
    if (ret < 0 && blk_error_action(p->bus.unit[0].dev->blk, n->to_guest, -ret) != BLK_POLICY_IGNORE) {
        ncq_end(n, ER_UNC);
        return;
    }
    size_t len = (size_t)n->chunk * IDE_SECTOR;
    if (n->to_guest && cursor_copy(p, &n->cur, n->buf, len, true) < len) {
        ncq_end(n, ER_ABRT);
        return;
    }
    n->lba += n->chunk;
    n->left -= n->chunk;
    if (n->left)
        ncq_step(n);
    else
        ncq_end(n, 0);
}

static void ncq_step(struct ncq *n)
{
    struct blk *blk = n->p->bus.unit[0].dev->blk;

    n->chunk = min_u64(n->left, IDE_CHUNK / IDE_SECTOR);
    size_t len = (size_t)n->chunk * IDE_SECTOR;
    n->v = (struct iovec){n->buf, len};
    iov_init_ext(&n->q, &n->v, 1);
    if (n->to_guest)
        blk_aio_read(blk, n->lba * IDE_SECTOR, &n->q, 0, ncq_done, n);
    else if (cursor_copy(n->p, &n->cur, n->buf, len, false) < len)
        ncq_end(n, ER_ABRT);
    else
        blk_aio_write(blk, n->lba * IDE_SECTOR, &n->q, n->fua ? BLK_FUA : 0, ncq_done, n);
}

static void ncq_start(struct port *p, const uint8_t *f, const struct cursor *c)
{
    struct ide_dev *d = p->bus.unit[0].dev;
    struct ncq *n = xnew(struct ncq);
    uint32_t count = f[3] | f[11] << 8;

    n->p = p;
    n->gen = p->gen;
    n->tag = f[12] >> 3;
    n->lba = get_le32(f + 8) & 0xffffff;
    n->lba = n->lba << 24 | (get_le32(f + 4) & 0xffffff);
    n->left = count ? count : 65536;
    n->to_guest = f[2] == READ_FPDMA;
    n->fua = f[7] & 0x80;
    n->cur = *c;
    n->buf = try_alloc(1, min_u64((uint64_t)n->left * IDE_SECTOR, IDE_CHUNK));
    if (!n->buf || !ide_range_ok(d, n->lba, n->left) || (!n->to_guest && blk_readonly(d->blk)))
        ncq_end(n, n->buf ? ER_IDNF | ER_ABRT : ER_ABRT);
    else
        ncq_step(n);
}

/* ---- commands ---- */

static uint32_t signature(struct port *p)
{
    const struct ide_unit *u = &p->bus.unit[0];

    return u->dev ? (uint32_t)u->hi[0] << 24 | (uint32_t)u->mid[0] << 16 | (uint32_t)u->lo[0] << 8 | u->count[0]
                  : UINT32_MAX;
}

static void port_forget(struct port *p)
{
    p->gen++; /* queued commands under way end unseen */
    p->slot = NO_SLOT;
    *R(p, PxCI) = *R(p, PxSACT) = 0;
}

static void port_reset(struct port *p)
{
    bool there = p->bus.unit[0].dev;

    port_forget(p);
    ide_bus_reset(&p->bus);
    p->sent_sig = false;
    *R(p, PxSSTS) = there ? 0x113 : 0;
    *R(p, PxSIG) = signature(p);
    *R(p, PxTFD) = 0x7f;
    *R(p, PxSERR) = 0;
    if (there) {
        p->bus.unit[0].status = p->bus.unit[0].dev->cd ? 0x10 : ST_DRDY | ST_DSC;
        set_tfd(p);
    }
}

/* The FIS with the signature, as soon as there is a place for it. */
static void send_signature(struct port *p)
{
    if (p->sent_sig || !p->bus.unit[0].dev || !(*R(p, PxCMD) & CMD_FRE))
        return;
    p->sent_sig = true;
    send_d2h(p);
    set_tfd(p);
    *R(p, PxSIG) = signature(p);
}

static void load_regs(struct port *p, const uint8_t *f)
{
    static const struct {
        uint8_t reg, high, low;
    } map[] = {{1, 11, 3}, {2, 13, 12}, {3, 8, 4}, {4, 9, 5}, {5, 10, 6}};

    for (unsigned i = 0; i < ARRAY_LEN(map); i++) {
        ide_write(&p->bus, map[i].reg, f[map[i].high]);
        ide_write(&p->bus, map[i].reg, f[map[i].low]);
    }
    ide_write(&p->bus, 6, f[7] & ~DEV_UNIT);
}

/* A control FIS: soft reset by setting and clearing SRST. */
static void control(struct port *p, const uint8_t *f, unsigned slot)
{
    bool was = p->bus.control & CTL_SRST;

    *R(p, PxCI) &= ~(1u << slot);
    ide_control_write(&p->bus, f[15]);
    if (was && !(f[15] & CTL_SRST)) {
        p->sent_sig = false;
        if (p->bus.unit[0].dev && p->bus.unit[0].dev->cd)
            p->bus.unit[0].status = 0x10;
        send_signature(p);
        port_irq(p, IS_DHRS);
    }
}

/* Starts the command of a slot. False: the port is busy with it. */
static bool slot_start(struct port *p, unsigned slot)
{
    struct pci_dev *d = &p->a->pci;
    gpa_t clb = (gpa_t)*R(p, PxCLBU) << 32 | *R(p, PxCLB), table;
    uint8_t h[HEADER], f[64 + 16];
    struct cursor c = {0};

    pci_dma_read(d, clb + slot * HEADER, h, sizeof h);
    table = get_le64(h + 8) & ~UINT64_C(0x7f);
    pci_dma_read(d, table, f, sizeof f);
    c.next = table + TABLE_PRDT;
    c.entries = get_le16(h + 2);
    if (f[0] != FIS_H2D) {
        log_guest("ahci: slot %u of port %u holds FIS type %#x", slot, p->nr, f[0]);
        *R(p, PxCI) &= ~(1u << slot);
        return true;
    }
    if (!(f[1] & 0x80)) {
        control(p, f, slot);
        return true;
    }
    if ((f[2] == READ_FPDMA || f[2] == WRITE_FPDMA) && !p->bus.unit[0].dev->cd) {
        *R(p, PxCI) &= ~(1u << slot); /* accepted */
        ncq_start(p, f, &c);
        return true;
    }
    p->slot = (int)slot;
    p->header = clb + slot * HEADER;
    p->cur = c;
    p->moved = 0;
    *R(p, PxTFD) |= ST_BSY;
    *R(p, PxCMD) = (*R(p, PxCMD) & ~0x1f00u) | slot << 8;
    load_regs(p, f);
    memcpy(p->bus.cdb, f + 64, sizeof p->bus.cdb);
    ide_write(&p->bus, 7, f[2]);
    return p->slot == NO_SLOT;
}

static void port_run(void *opaque)
{
    struct port *p = opaque;

    while (p->slot == NO_SLOT && (*R(p, PxCMD) & CMD_ST) && *R(p, PxCI) && p->bus.unit[0].dev)
        if (!slot_start(p, (unsigned)__builtin_ctz(*R(p, PxCI))))
            return;
}

/* ---- registers ---- */

static void cmd_write(struct port *p, uint32_t v)
{
    uint32_t old = *R(p, PxCMD),
             n = (v & ~(uint32_t)(CMD_CLO | CMD_FR | CMD_CR | 0x1f00)) | (old & 0x1f00) | CMD_SUD | CMD_POD;

    if (v & CMD_CLO)
        *R(p, PxTFD) &= ~(uint32_t)(ST_BSY | ST_DRQ);
    n |= (n & CMD_FRE ? CMD_FR : 0) | (n & CMD_ST ? CMD_CR : 0);
    *R(p, PxCMD) = n & 0x0fffffff;
    if (!(n & CMD_ST) && (old & CMD_ST)) {
        if (p->slot != NO_SLOT)
            ide_bus_reset(&p->bus);
        port_forget(p);
        *R(p, PxCMD) &= ~0x1f00u;
    }
    send_signature(p);
    ev_bh_schedule(&p->bh);
}

static void port_write(struct port *p, unsigned off, uint32_t v)
{
    switch (off) {
    case PxCLB:
        *R(p, off) = v & ~0x3ffu;
        break;
    case PxFB:
        *R(p, off) = v & ~0xffu;
        break;
    case PxCLBU:
    case PxFBU:
    case PxIE:
        *R(p, off) = v;
        irq_update(p->a, off == PxIE);
        break;
    case PxIS:
    case PxSERR:
    case PxSNTF:
        *R(p, off) &= ~v;
        irq_update(p->a, false);
        break;
    case PxCMD:
        cmd_write(p, v);
        break;
    case PxSCTL:
        if ((*R(p, off) & 15) == 1 && (v & 15) == 0) {
            port_reset(p);
            send_signature(p);
            if (p->bus.unit[0].dev)
                port_irq(p, IS_PCS);
        }
        *R(p, off) = v;
        break;
    case PxSACT:
        *R(p, off) |= v;
        break;
    case PxCI:
        if (*R(p, PxCMD) & CMD_ST)
            *R(p, off) |= v;
        ev_bh_schedule(&p->bh);
        break;
    default:
        break;
    }
}

static void ahci_hba_reset(struct ahci *a)
{
    a->ghc = GHC_AE;
    a->is = 0;
    for (unsigned i = 0; i < NPORTS; i++) {
        struct port *p = &a->port[i];
        ev_bh_cancel(&p->bh);
        memset(p->r, 0, sizeof p->r);
        *R(p, PxCMD) = CMD_SUD | CMD_POD;
        port_reset(p);
    }
    pci_set_intx(&a->pci, 0);
}

static uint64_t abar_read(void *opaque, gpa_t off, unsigned size)
{
    struct ahci *a = opaque;

    if (off >= PORTS) {
        unsigned n = (off - PORTS) / PORT_SIZE;
        return n < NPORTS ? *R(&a->port[n], (off - PORTS) % PORT_SIZE) : 0;
    }
    switch (off) {
    case CAP: /* ports, 32 slots, AHCI only, 1.5 Gbit/s, NCQ, 64-bit addresses */
        return (NPORTS - 1) | (SLOTS - 1) << 8 | 1 << 18 | 1 << 20 | 1 << 30 | UINT32_C(1) << 31;
    case GHC:
        return a->ghc;
    case IS:
        return a->is;
    case PI:
        return (1 << NPORTS) - 1;
    case VS:
        return 0x00010000;
    default:
        return 0;
    }
}

static void abar_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct ahci *a = opaque;
    uint32_t v = (uint32_t)val;

    if (off >= PORTS) {
        unsigned n = (off - PORTS) / PORT_SIZE;
        if (n < NPORTS)
            port_write(&a->port[n], (off - PORTS) % PORT_SIZE & ~3u, v);
    } else if (off == GHC) {
        if (v & GHC_HR) {
            ahci_hba_reset(a);
            return;
        }
        a->ghc = (v & GHC_IE) | GHC_AE;
        irq_update(a, true);
    } else if (off == IS) {
        a->is &= ~v;
        irq_update(a, false);
    }
}
static const struct mem_ops abar_ops = {.read = abar_read, .write = abar_write, .impl_min = 4, .impl_max = 4};

/* ---- life ---- */

static bool ahci_realize(struct dev *d, struct err **errp)
{
    struct ahci *a = container_of(d, struct ahci, pci.dev);
    struct machine *m = dev_machine(d);
    uint8_t cap;
    char name[8];

    pci_set_pin(&a->pci, 1);
    mem_region_init_io(&a->abar, m->mem_sys, &abar_ops, a, "ahci", ABAR_SIZE);
    pci_add_bar(&a->pci, 5, PCI_BAR_MEM, &a->abar);
    if (!pci_add_msi(&a->pci, 1, errp))
        return false;
    cap = pci_add_cap(&a->pci, PCI_CAP_SATA, 0, 8);
    if (cap)
        put_le32(a->pci.config + cap, (get_le32(a->pci.config + cap) & 0xffff) | 0x00100000);
    a->pci.config[0x90] = 0x40; /* address map: AHCI mode, six ports */
    for (unsigned i = 0; i < NPORTS; i++) {
        struct port *p = &a->port[i];
        p->a = a;
        p->nr = i;
        p->slot = NO_SLOT;
        name[0] = 0;
        if (!d->id)
            memcpy(name, (char[]){'i', 'd', 'e', '.', (char)('0' + i), 0}, 6);
        ide_bus_init(&p->bus, d, d->id ? NULL : name, 1, &ahci_ops, p);
        ev_bh_init(&p->bh, m->run->loop, port_run, p);
    }
    return true;
}

static void ahci_unrealize(struct dev *d)
{
    struct ahci *a = container_of(d, struct ahci, pci.dev);

    for (unsigned i = 0; i < NPORTS; i++) {
        a->port[i].gen++;
        ev_bh_cancel(&a->port[i].bh);
        ide_bus_fini(&a->port[i].bus);
    }
}

static void ahci_reset(struct dev *d)
{
    ahci_hba_reset(container_of(d, struct ahci, pci.dev));
}

static bool port_loaded(void *obj, struct err **errp)
{
    struct port *p = obj;

    if (p->slot != NO_SLOT && (p->slot < 0 || p->slot >= SLOTS))
        return false;
    if (p->cur.left > 0x400000 || (p->slot == NO_SLOT && p->bus.retry) || p->cur.entries > UINT16_MAX)
        return false;
    p->gen++;
    ev_bh_schedule(&p->bh);
    return true;
}
static const struct state_field port_fields[] = {STATE_ARRAY(struct port, r),
                                                 STATE_STRUCT(struct port, bus, ide_bus_state),
                                                 STATE_INT(struct port, slot),
                                                 STATE_U64(struct port, header),
                                                 STATE_U64(struct port, cur.next),
                                                 STATE_U64(struct port, cur.at),
                                                 STATE_U32(struct port, cur.entries),
                                                 STATE_U32(struct port, cur.left),
                                                 STATE_U32(struct port, moved),
                                                 STATE_BOOL(struct port, sent_sig),
                                                 STATE_END};
static const struct state_desc port_state = {
    .name = "ahci-port", .version = 1, .fields = port_fields, .post_load = port_loaded};
static const struct state_field ahci_fields[] = {STATE_STRUCT(struct ahci, pci, pci_dev_state),
                                                 STATE_U32(struct ahci, ghc), STATE_U32(struct ahci, is),
                                                 STATE_STRUCTS(struct ahci, port, port_state), STATE_END};
static const struct state_desc ahci_state = {.name = "ahci", .version = 1, .fields = ahci_fields};
static const char *const ahci_aliases[] = {"ahci", NULL};
static const struct pci_class ich9_ahci_class = {.name = "ich9-ahci",
                                                 .parent = "pci-device",
                                                 .aliases = ahci_aliases,
                                                 .desc = "ICH9 SATA controller (AHCI)",
                                                 .size = sizeof(struct ahci),
                                                 .more_props = pci_props,
                                                 .bus_type = "PCI",
                                                 .category = DEV_CAT_STORAGE,
                                                 .realize = ahci_realize,
                                                 .unrealize = ahci_unrealize,
                                                 .reset = ahci_reset,
                                                 .state_desc = &ahci_state,
                                                 .vendor_id = 0x8086,
                                                 .device_id = 0x2922,
                                                 .revision = 2,
                                                 .class_id = 0x0106,
                                                 .prog_if = 1};
PCI_REGISTER(ich9_ahci_class)
