/* Intel 82540EM (and 82544GC, 82545EM) gigabit Ethernet.
 *
 * Source: Intel PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual (317453).
 * Modelled: legacy, context and data transmit descriptors with checksum insertion, TCP/UDP segmentation and VLAN tags;
 * receive filtering, checksum results and VLAN removal; EEPROM by EECD and EERD; PHY with auto-negotiation; interrupt
 * throttling by ITR; statistics that clear on read.
 * Left out: the delay timers RDTR, RADV, TIDV, TADV (they act as 0), jumbo flow control, wake-up, early transmit,
 * flash. Odd choices: the four CRC bytes a guest that does not strip them sees are zero. */
#include "hw/net/cksum.h"
#include "hw/net/e1000_regs.h"
#include "hw/net/eeprom93.h"
#include "hw/pci/pci.h"
#include "net/net.h"

enum { BAR_MMIO = 0x20000, BAR_IO = 64, DESC = 16, TX_MAX = 0x10000 + 512, MIN_FRAME = 60, FCS = 4 };
enum { MAX_STD = 1518, MAX_LONG = 16384, AUTONEG_MS = 100 };

struct tx_ctx { /* the latest context descriptor */
    uint8_t ipcss, ipcso, tucss, tucso, hdr_len;
    uint16_t ipcse, tucse, mss;
    uint32_t paylen;
    bool tcp, ip;
};

struct e1000 {
    struct pci_dev pci; /* first */
    struct mem_region mmio, io;
    struct net_nic nic; /* properties mac, netdev */
    uint32_t reg[REGS_END / 4];
    uint16_t phy[32];
    uint32_t ioaddr;
    struct eeprom93 ee;
    struct { /* the frame being collected */
        uint32_t len;
        bool tse, vlan, sum_ip, sum_tu, bad, open;
        uint16_t tci;
        uint8_t cso, css;
        bool ic;
        struct tx_ctx ctx;
        uint8_t *buf;  /* owned: TX_MAX bytes */
        uint32_t size; /* TX_MAX */
    } tx;
    bool in_dma; /* our own transfer is under way: registers do not answer */
    struct ev_bh tx_bh;
    struct clk_timer autoneg, throttle;
    struct machine_hook state_hook;
};
struct e1000_class {
    struct pci_class;
    uint16_t phy_id2;
};

static uint32_t *R(struct e1000 *e, unsigned off)
{
    return &e->reg[off / 4];
}

/* ---- interrupts ---- */

static void irq_update(struct e1000 *e)
{
    if (*R(e, ICR) & *R(e, IMS)) {
        if (clk_timer_pending(&e->throttle))
            return; /* the timer looks again */
        if (*R(e, ITR) && !e->pci.intx_level)
            clk_timer_set(&e->throttle, clk_now(dev_vclk(&e->pci.dev)) + (int64_t)(*R(e, ITR) & 0xffff) * 256);
        pci_set_intx(&e->pci, 1);
    } else {
        pci_set_intx(&e->pci, 0);
    }
}

static void throttle_over(void *opaque)
{
    irq_update(opaque);
}

static void irq_cause(struct e1000 *e, uint32_t bits)
{
    *R(e, ICR) |= bits;
    irq_update(e);
}

/* ---- link and PHY ---- */

static void link_show(struct e1000 *e, bool up)
{
    bool was = *R(e, STATUS) & STATUS_LU;

    if (up) {
        *R(e, STATUS) |= STATUS_LU;
        e->phy[PHY_BMSR] |= BMSR_LINK | BMSR_AN_DONE;
        e->phy[PHY_ANLPAR] |= 0x4000;
        e->phy[M88_STATUS] |= M88_LINK;
    } else {
        *R(e, STATUS) &= ~(uint32_t)STATUS_LU;
        e->phy[PHY_BMSR] &= ~(BMSR_LINK | BMSR_AN_DONE);
        e->phy[PHY_ANLPAR] &= ~0x4000;
        e->phy[M88_STATUS] &= ~M88_LINK;
    }
    if (was != up)
        irq_cause(e, INT_LSC);
}

static bool cable(const struct e1000 *e)
{
    return e->nic.peer && !e->nic.peer->link_down && !(e->nic.peer->peer && e->nic.peer->peer->link_down);
}

static void autoneg_done(void *opaque)
{
    struct e1000 *e = opaque;

    if (cable(e)) {
        link_show(e, true);
        net_flush(e->nic.peer);
    }
}

static void autoneg_start(struct e1000 *e)
{
    link_show(e, false);
    e->phy[PHY_BMCR] &= ~BMCR_RESTART_AN;
    clk_timer_set(&e->autoneg, clk_now(dev_vclk(&e->pci.dev)) + AUTONEG_MS * NS_PER_MS);
}

static void phy_reset(struct e1000 *e)
{
    const struct e1000_class *c = (const struct e1000_class *)pci_class(&e->pci);

    memset(e->phy, 0, sizeof e->phy);
    e->phy[PHY_BMCR] = 0x1140;
    e->phy[PHY_BMSR] = 0x7949;
    e->phy[PHY_ID1] = 0x0141;
    e->phy[PHY_ID2] = c->phy_id2;
    e->phy[PHY_ANAR] = 0x0de1;
    e->phy[PHY_ANLPAR] = 0x81e1;
    e->phy[PHY_1000T_CTRL] = 0x0e00;
    e->phy[PHY_1000T_STATUS] = 0x3c00;
    e->phy[PHY_EXT_STATUS] = 0x3000;
    e->phy[M88_CTRL] = 0x0360;
    e->phy[M88_STATUS] = 0xa808; /* 1000 Mbit/s, full duplex, resolved */
    e->phy[M88_EXT_CTRL] = 0x0d60;
}

static void phy_write(struct e1000 *e, unsigned r, uint16_t v)
{
    switch (r) {
    case PHY_BMCR:
        e->phy[r] = v & ~(BMCR_RESET | BMCR_RESTART_AN);
        if (v & BMCR_RESET) {
            phy_reset(e);
            autoneg_start(e);
        } else if ((v & BMCR_AN_ENABLE) && (v & BMCR_RESTART_AN)) {
            autoneg_start(e);
        }
        break;
    case PHY_ANAR:
    case PHY_1000T_CTRL:
    case M88_CTRL:
    case M88_INT_ENABLE:
    case M88_EXT_CTRL:
    case M88_PAGE:
    case M88_PAGE + 1:
        e->phy[r] = v;
        break;
    default:
        log_guest("e1000: write to PHY register %u", r);
        break;
    }
}

static void mdic_write(struct e1000 *e, uint32_t v)
{
    unsigned r = v >> 16 & 31, addr = v >> 21 & 31;

    if (addr != 1)
        v |= MDIC_E;
    else if (v & MDIC_OP_READ)
        v = (v & 0xffff0000u) | e->phy[r];
    else if (v & MDIC_OP_WRITE)
        phy_write(e, r, v);
    *R(e, MDIC) = v | MDIC_R;
    if (v & MDIC_I)
        irq_cause(e, INT_MDAC);
}

/* ---- EEPROM: 64 words, Microwire ---- */

static void eeprom_fill(struct e1000 *e)
{
    const uint8_t *m = e->nic.mac.a;
    uint16_t sum = 0, *w = e->ee.word;

    memset(w, 0, sizeof e->ee.word);
    for (unsigned i = 0; i < 3; i++)
        w[i] = get_le16(m + 2 * i);
    w[0x03] = 0x0000;           /* compatibility */
    w[0x08] = w[0x09] = 0xffff; /* no board assembly number */
    w[0x0a] = 0x4408;           /* initialisation control 1 */
    w[0x0b] = get_le16(e->pci.config + PCI_SUBSYSTEM_ID);
    w[0x0c] = get_le16(e->pci.config + PCI_SUBSYSTEM_VENDOR_ID);
    w[0x0d] = get_le16(e->pci.config + PCI_DEVICE_ID);
    w[0x0e] = get_le16(e->pci.config + PCI_VENDOR_ID);
    w[0x0f] = 0x3040; /* initialisation control 2 */
    w[0x21] = 0x1008;
    w[0x24] = 0x1602;
    for (unsigned i = 0; i < EEPROM93_WORDS - 1; i++)
        sum += w[i];
    w[EEPROM93_WORDS - 1] = 0xbaba - sum; /* all words add up to 0xbaba */
}

static void eecd_write(struct e1000 *e, uint32_t v)
{
    *R(e, EECD) = v & (EECD_SK | EECD_CS | EECD_DI | EECD_FWE_DIS | 0x20 | EECD_REQ);
    eeprom93_write(&e->ee, v & EECD_CS, v & EECD_SK, v & EECD_DI);
}

static uint32_t eecd_read(struct e1000 *e)
{
    return *R(e, EECD) | EECD_PRES | (*R(e, EECD) & EECD_REQ ? EECD_GNT : 0) | (eeprom93_out(&e->ee) ? EECD_DO : 0);
}

static void eerd_write(struct e1000 *e, uint32_t v)
{
    unsigned a = v >> 8 & 0xff;

    *R(e, EERD) = v & 0xff00;
    if (v & EERD_START)
        *R(e, EERD) |= EERD_DONE | (a < EEPROM93_WORDS ? (uint32_t)e->ee.word[a] << 16 : 0);
}

/* ---- statistics ---- */

static void stat_add(struct e1000 *e, unsigned off, uint32_t n)
{
    uint32_t *r = R(e, off);

    *r = *r + n < *r ? UINT32_MAX : *r + n; /* sticks at the top */
}

static void stat_add64(struct e1000 *e, unsigned off, uint64_t n)
{
    uint64_t v = (uint64_t)*R(e, off + 4) << 32 | *R(e, off);

    v += n;
    *R(e, off) = v;
    *R(e, off + 4) = v >> 32;
}

static unsigned size_class(size_t len)
{
    return len <= 64 ? 0 : len < 128 ? 1 : len < 256 ? 2 : len < 512 ? 3 : len < 1024 ? 4 : 5;
}

static bool is_broadcast(const uint8_t *f)
{
    static const uint8_t bcast[6] = {255, 255, 255, 255, 255, 255};

    return !memcmp(f, bcast, 6);
}

/* ---- receive ---- */

static uint32_t ring_len(struct e1000 *e, unsigned len_reg)
{
    return *R(e, len_reg) / DESC;
}

static gpa_t ring_base(struct e1000 *e, unsigned bal)
{
    return (gpa_t)*R(e, bal + 4) << 32 | *R(e, bal);
}

static uint32_t rx_buf_size(struct e1000 *e)
{
    unsigned n = *R(e, RCTL) >> 16 & 3;

    if ((*R(e, RCTL) & RCTL_BSEX) && n)
        return 32768u >> n;
    return 2048u >> n;
}

/* Free descriptors between head and tail. */
static uint32_t rx_free(struct e1000 *e)
{
    uint32_t n = ring_len(e, RDLEN), h = *R(e, RDH), t = *R(e, RDT);

    if (!n || h >= n || t >= n)
        return 0;
    return t >= h ? t - h : n - h + t;
}

static bool running(struct e1000 *e)
{
    struct machine *m = dev_machine(&e->pci.dev);

    return (m->stepped || machine_running(m)) && (e->pci.config[PCI_COMMAND] & PCI_COMMAND_MASTER);
}

static bool e1000_can_receive(void *opaque)
{
    struct e1000 *e = opaque;

    return (*R(e, RCTL) & RCTL_EN) && (*R(e, STATUS) & STATUS_LU) && rx_free(e) && running(e);
}

static bool multicast_hit(struct e1000 *e, const uint8_t *f)
{
    static const uint8_t shift[4] = {4, 3, 2, 0};
    unsigned h = ((unsigned)f[5] << 8 | f[4]) >> shift[*R(e, RCTL) >> 12 & 3] & 0xfff;

    return *R(e, MTA + 4 * (h >> 5)) >> (h & 31) & 1;
}

static bool wanted(struct e1000 *e, const uint8_t *f)
{
    uint32_t rctl = *R(e, RCTL);

    if ((rctl & RCTL_VFE) && get_be16(f + 12) == (*R(e, VET) & 0xffff)) {
        unsigned vid = get_be16(f + 14) & 0xfff;
        if (!(*R(e, VFTA + 4 * (vid >> 5)) >> (vid & 31) & 1))
            return false;
    }
    if (is_broadcast(f) && (rctl & RCTL_BAM))
        return true;
    if (f[0] & 1 ? rctl & RCTL_MPE : rctl & RCTL_UPE)
        return true;
    for (unsigned i = 0; i < 16; i++) {
        uint32_t lo = *R(e, RA + 8 * i), hi = *R(e, RA + 8 * i + 4);
        if ((hi & RAH_AV) && get_le32(f) == lo && get_le16(f + 4) == (hi & 0xffff))
            return true;
    }
    return (f[0] & 1) && multicast_hit(e, f);
}

/* Status and error bytes of the checksum unit for this frame. */
static void rx_checksum(struct e1000 *e, const uint8_t *f, size_t len, uint8_t *st, uint8_t *err)
{
    struct cksum_found c;

    cksum_inspect(f, len, &c);
    if (c.ipv4 && (*R(e, RXCSUM) & RXCSUM_IPOFL)) {
        *st |= RXD_IPCS;
        *err |= c.ip_ok ? 0 : RXE_IPE;
    }
    if (c.l4 && (*R(e, RXCSUM) & RXCSUM_TUOFL)) {
        *st |= RXD_TCPCS;
        *err |= c.l4_ok ? 0 : RXE_TCPE;
    }
    if (!(*st & (RXD_IPCS | RXD_TCPCS)))
        *st |= RXD_IXSM;
}

struct rx_info {
    uint8_t status, errors;
    uint16_t csum, special;
};

/* Writes the frame over as many descriptors as it takes; the caller has checked that they exist. */
static void rx_store(struct e1000 *e, const uint8_t *f, size_t len, const struct rx_info *i)
{
    uint32_t bufsz = rx_buf_size(e), n = ring_len(e, RDLEN);
    size_t off = 0;

    while (off < len) {
        gpa_t at = ring_base(e, RDBAL) + (gpa_t)*R(e, RDH) * DESC;
        size_t part = min_u64(len - off, bufsz);
        uint8_t d[DESC];

        pci_dma_read(&e->pci, at, d, DESC);
        if (get_le64(d))
            pci_dma_write(&e->pci, get_le64(d), f + off, part);
        off += part;
        put_le16(d + 8, part);
        put_le16(d + 10, i->csum);
        d[12] = RXD_DD | i->status | (off == len ? RXD_EOP : 0);
        d[13] = i->errors;
        put_le16(d + 14, i->special);
        /* Everything but the status byte first: the driver polls that. */
        pci_dma_write(&e->pci, at + 8, d + 8, 4);
        pci_dma_write(&e->pci, at + 13, d + 13, 3);
        pci_dma_write(&e->pci, at + 12, d + 12, 1);
        *R(e, RDH) = *R(e, RDH) + 1 >= n ? 0 : *R(e, RDH) + 1;
    }
}

static void rx_count(struct e1000 *e, const uint8_t *f, size_t len)
{
    stat_add(e, TPR, 1);
    stat_add(e, GPRC, 1);
    stat_add(e, PRC64 + 4 * size_class(len), 1);
    stat_add64(e, GORCL, len);
    stat_add64(e, TORL, len);
    if (is_broadcast(f))
        stat_add(e, BPRC, 1);
    else if (f[0] & 1)
        stat_add(e, MPRC, 1);
}

static uint32_t rx_threshold(struct e1000 *e)
{
    return ring_len(e, RDLEN) >> ((*R(e, RCTL) >> 8 & 3) + 1);
}

/* f has room for MIN_FRAME + FCS bytes at least. */
static size_t rx_frame(struct e1000 *e, uint8_t *f, size_t len)
{
    struct rx_info i = {0};
    size_t taken = len;
    uint32_t bufsz = rx_buf_size(e), cause = INT_RXT0;

    if (len < MIN_FRAME) {
        memset(f + len, 0, MIN_FRAME - len);
        len = MIN_FRAME;
    }
    if (len + FCS > MAX_LONG || (len + FCS > MAX_STD + 4 && !(*R(e, RCTL) & RCTL_LPE))) {
        stat_add(e, ROC, 1);
        return taken;
    }
    if (!wanted(e, f))
        return taken;
    rx_checksum(e, f, len, &i.status, &i.errors);
    size_t pcss = *R(e, RXCSUM) & 0xff;
    i.csum = pcss < len ? __builtin_bswap16(cksum_fold(cksum_add(0, f + pcss, len - pcss))) : 0;
    if ((*R(e, CTRL) & CTRL_VME) && get_be16(f + 12) == (*R(e, VET) & 0xffff)) {
        i.special = get_be16(f + 14);
        i.status |= RXD_VP;
        memmove(f + 12, f + 16, len - 16);
        len -= 4;
    }
    if (!(*R(e, RCTL) & RCTL_SECRC)) {
        memset(f + len, 0, FCS);
        len += FCS;
    }
    if (div_up(len, bufsz) > rx_free(e)) {
        stat_add(e, RNBC, 1);
        irq_cause(e, INT_RXO);
        return 0;
    }
    bool was = e->in_dma; /* a loop-back frame comes from the transmitter */
    e->in_dma = true;
    rx_store(e, f, len, &i);
    e->in_dma = was;
    rx_count(e, f, len);
    if (rx_free(e) <= rx_threshold(e))
        cause |= INT_RXDMT0;
    irq_cause(e, cause);
    return taken;
}

static size_t e1000_receive(void *opaque, const struct iov *frame)
{
    struct e1000 *e = opaque;
    uint8_t f[MAX_LONG + 64];

    if (frame->len > MAX_LONG || frame->len < 14)
        return frame->len;
    if (!e1000_can_receive(e))
        return 0;
    return rx_frame(e, f, iov_to_buf(frame, 0, f, MAX_LONG));
}

static void e1000_link_changed(void *opaque, bool up)
{
    struct e1000 *e = opaque;

    if (!up)
        clk_timer_cancel(&e->autoneg);
    if (!up || !(e->phy[PHY_BMCR] & BMCR_AN_ENABLE))
        link_show(e, up);
    else
        autoneg_start(e);
}

/* ---- transmit ---- */

/* One's complement sum of [css, cse] (0 = to the end) into the two bytes at cso. */
static void put_sum(uint8_t *f, size_t len, unsigned cso, unsigned css, unsigned cse)
{
    if (cse && cse < len)
        len = cse + 1u;
    if (css >= len || cso + 2u > len)
        return;
    put_be16(f + cso, cksum_fold(cksum_add(0, f + css, len - css)));
}

static void tx_wire(struct e1000 *e, uint8_t *f, size_t len)
{
    struct iovec v[3];
    struct iov q;
    uint8_t tag[4];
    unsigned n = 0;

    if (e->tx.vlan && len >= 14) {
        put_be16(tag, *R(e, VET));
        put_be16(tag + 2, e->tx.tci);
        v[n++] = (struct iovec){f, 12};
        v[n++] = (struct iovec){tag, 4};
        v[n++] = (struct iovec){f + 12, len - 12};
    } else {
        v[n++] = (struct iovec){f, len};
    }
    iov_init_ext(&q, v, n);
    if ((e->phy[PHY_BMCR] & BMCR_LOOPBACK) || (*R(e, RCTL) & RCTL_LBM) == RCTL_LBM)
        e1000_receive(e, &q);
    else if (*R(e, STATUS) & STATUS_LU)
        net_send(e->nic.peer, &q);
    stat_add(e, TPT, 1);
    stat_add(e, GPTC, 1);
    stat_add(e, PTC64 + 4 * size_class(len), 1);
    stat_add64(e, GOTCL, len);
    stat_add64(e, TOTL, len);
    if (len >= 6 && is_broadcast(f))
        stat_add(e, BPTC, 1);
    else if (len && (f[0] & 1))
        stat_add(e, MPTC, 1);
}

/* Header fields of segment number nr, whose payload starts `done` bytes into the whole; the header is at f. */
static void tx_fix_header(struct e1000 *e, uint8_t *f, size_t len, unsigned nr, uint32_t done, bool last)
{
    const struct tx_ctx *c = &e->tx.ctx;

    if (c->ipcss + 20u > len || c->tucss + (c->tcp ? 20u : 8u) > len || c->tucso + 2u > len)
        return;
    if (c->ip) {
        put_be16(f + c->ipcss + 2, len - c->ipcss);
        put_be16(f + c->ipcss + 4, get_be16(f + c->ipcss + 4) + nr);
    } else {
        put_be16(f + c->ipcss + 4, len - c->ipcss - 40);
    }
    if (c->tcp) {
        put_be32(f + c->tucss + 4, get_be32(f + c->tucss + 4) + done);
        if (!last)
            f[c->tucss + 13] &= ~0x09; /* FIN and PSH belong to the last one */
    } else {
        put_be16(f + c->tucss + 4, len - c->tucss);
    }
    /* The driver's pseudo header sum lacks the length. */
    if (e->tx.sum_tu) {
        uint32_t s = get_be16(f + c->tucso) + (uint32_t)(len - c->tucss);
        put_be16(f + c->tucso, ~cksum_fold(s));
    }
}

static void tx_segments(struct e1000 *e)
{
    const struct tx_ctx *c = &e->tx.ctx;
    uint32_t hdr = c->hdr_len, total = e->tx.len, done = 0;
    uint8_t *f;
    unsigned nr = 0;

    if (!c->mss || hdr >= total || hdr > 255) {
        log_guest("e1000: segmentation of %u bytes with header %u and MSS %u", total, hdr, c->mss);
        return;
    }
    f = try_alloc(1, hdr + (size_t)c->mss);
    if (!f)
        return;
    while (done < total - hdr) {
        uint32_t n = min_u64(c->mss, total - hdr - done);
        memcpy(f, e->tx.buf, hdr);
        memcpy(f + hdr, e->tx.buf + hdr + done, n);
        tx_fix_header(e, f, hdr + n, nr++, done, done + n == total - hdr);
        if (e->tx.sum_tu)
            put_sum(f, hdr + n, c->tucso, c->tucss, c->tucse);
        if (e->tx.sum_ip)
            put_sum(f, hdr + n, c->ipcso, c->ipcss, c->ipcse);
        tx_wire(e, f, hdr + n);
        done += n;
    }
    stat_add(e, TSCTC, 1);
    free(f);
}

static void tx_frame(struct e1000 *e)
{
    const struct tx_ctx *c = &e->tx.ctx;

    if (e->tx.bad || !e->tx.len)
        return;
    if (e->tx.tse) {
        tx_segments(e);
        return;
    }
    if (e->tx.ic)
        put_sum(e->tx.buf, e->tx.len, e->tx.cso, e->tx.css, 0);
    if (e->tx.sum_tu)
        put_sum(e->tx.buf, e->tx.len, c->tucso, c->tucss, c->tucse);
    if (e->tx.sum_ip)
        put_sum(e->tx.buf, e->tx.len, c->ipcso, c->ipcss, c->ipcse);
    tx_wire(e, e->tx.buf, e->tx.len);
}

static void tx_context(struct e1000 *e, const uint8_t *d)
{
    struct tx_ctx *c = &e->tx.ctx;
    uint32_t w2 = get_le32(d + 8), w3 = get_le32(d + 12);

    c->ipcss = d[0];
    c->ipcso = d[1];
    c->ipcse = get_le16(d + 2);
    c->tucss = d[4];
    c->tucso = d[5];
    c->tucse = get_le16(d + 6);
    c->paylen = w2 & 0xfffff;
    c->tcp = w2 >> 24 & TXC_TCP;
    c->ip = w2 >> 24 & TXC_IP;
    c->hdr_len = w3 >> 8;
    c->mss = w3 >> 16;
}

/* Options are taken from the first descriptor of a frame. */
static void tx_begin(struct e1000 *e, const uint8_t *d, bool ext, uint8_t cmd)
{
    e->tx.open = true;
    e->tx.bad = false;
    e->tx.len = 0;
    e->tx.tse = ext && (cmd & TXD_TSE);
    e->tx.sum_ip = ext && (d[13] & POPTS_IXSM);
    e->tx.sum_tu = ext && (d[13] & POPTS_TXSM);
    e->tx.ic = !ext && (cmd & TXD_IC);
    e->tx.cso = d[10];
    e->tx.css = d[13];
    e->tx.vlan = false;
}

static void tx_data(struct e1000 *e, const uint8_t *d, bool ext)
{
    uint32_t w2 = get_le32(d + 8), len = ext ? w2 & 0xfffff : w2 & 0xffff;
    uint8_t cmd = w2 >> 24;

    if (!e->tx.open)
        tx_begin(e, d, ext, cmd);
    if ((cmd & TXD_VLE) && (*R(e, CTRL) & CTRL_VME)) {
        e->tx.vlan = true;
        e->tx.tci = get_le16(d + 14);
    }
    if (len > TX_MAX - e->tx.len) {
        if (!e->tx.bad)
            log_guest("e1000: frame longer than %d bytes dropped", TX_MAX);
        e->tx.bad = true;
    } else {
        pci_dma_read(&e->pci, get_le64(d), e->tx.buf + e->tx.len, len);
        e->tx.len += len;
    }
    if (!(cmd & TXD_EOP))
        return;
    tx_frame(e);
    e->tx.open = false;
}

/* Takes descriptors from head to tail, at most once around; the interrupt causes to raise. */
static uint32_t tx_ring(struct e1000 *e)
{
    uint32_t n = ring_len(e, TDLEN), cause = INT_TXQE;

    for (uint32_t i = 0; i < n && *R(e, TDH) != *R(e, TDT) && *R(e, TDH) < n; i++) {
        gpa_t at = ring_base(e, TDBAL) + (gpa_t)*R(e, TDH) * DESC;
        uint8_t d[DESC];

        pci_dma_read(&e->pci, at, d, DESC);
        uint8_t cmd = d[11];
        bool ext = cmd & TXD_DEXT;
        if (ext && !(d[10] >> 4))
            tx_context(e, d);
        else
            tx_data(e, d, ext);
        if (cmd & TXD_RS) {
            uint8_t st = d[12] | 1;
            pci_dma_write(&e->pci, at + 12, &st, 1);
            cause |= INT_TXDW;
        }
        *R(e, TDH) = *R(e, TDH) + 1 >= n ? 0 : *R(e, TDH) + 1;
    }
    return cause;
}

static void tx_run(void *opaque)
{
    struct e1000 *e = opaque;
    uint32_t cause;

    if (!(*R(e, TCTL) & TCTL_EN) || !running(e))
        return;
    e->in_dma = true;
    cause = tx_ring(e);
    e->in_dma = false;
    irq_cause(e, cause);
}

/* ---- registers ---- */

static void mac_reset(struct e1000 *e)
{
    uint32_t status = *R(e, STATUS) & STATUS_LU;

    clk_timer_cancel(&e->throttle);
    memset(e->reg, 0, sizeof e->reg);
    eeprom93_write(&e->ee, false, false, false);
    e->tx.open = false;
    e->tx.len = 0;
    memset(&e->tx.ctx, 0, sizeof e->tx.ctx);
    *R(e, CTRL) = 0x00140200 | CTRL_FD;
    *R(e, STATUS) = STATUS_FD | STATUS_SPEED_1000 | STATUS_ASDV_1000 | status;
    *R(e, PBA) = 0x00100030;
    *R(e, LEDCTL) = 0x07061302;
    *R(e, MANC) = 0x2000;
    *R(e, RA) = get_le32(e->nic.mac.a);
    *R(e, RA + 4) = get_le16(e->nic.mac.a + 4) | RAH_AV;
    pci_set_intx(&e->pci, 0);
}

static bool readable(unsigned off)
{
    static const uint16_t plain[] = {
        CTRL,  STATUS, EERD, CTRL_EXT, FLA,    MDIC, FCAL,  FCAH,   FCT,  VET,  ITR,   IMS,   RCTL,  FCTTV, TXCW,
        RXCW,  TCTL,   TIPG, AIFS,     LEDCTL, PBA,  FCRTL, FCRTH,  RDFH, RDFT, RDFHS, RDFTS, RDFPC, RDBAL, RDBAH,
        RDLEN, RDH,    RDT,  RDTR,     RXDCTL, RADV, RSRPD, TXDMAC, TDFH, TDFT, TDFHS, TDFTS, TDFPC, TDBAL, TDBAH,
        TDLEN, TDH,    TDT,  TIDV,     TXDCTL, TADV, TSPMT, RXCSUM, WUC,  WUFC, WUS,   MANC,  IPAV,
    };

    for (unsigned i = 0; i < ARRAY_LEN(plain); i++)
        if (plain[i] == off)
            return true;
    return (off >= MTA && off < RA_END) || (off >= VFTA && off < VFTA_END) || off >= WUPL;
}

static uint64_t reg_read(struct e1000 *e, unsigned off)
{
    uint32_t v;

    off &= ~3u;
    if (off >= STATS && off < STATS_END) {
        v = *R(e, off);
        *R(e, off) = 0; /* cleared on read */
        return v;
    }
    switch (off) {
    case ICR:
        v = *R(e, ICR);
        *R(e, ICR) = 0;
        irq_update(e);
        return v;
    case EECD:
        return eecd_read(e);
    default:
        if (off < REGS_END && readable(off))
            return *R(e, off);
        log_unimp("e1000: read of register %#x", off);
        return 0;
    }
}

static void ctrl_write(struct e1000 *e, uint32_t v)
{
    if (v & CTRL_PHY_RST) {
        phy_reset(e);
        autoneg_start(e);
    }
    if (v & CTRL_RST)
        mac_reset(e);
    else
        *R(e, CTRL) = v & ~CTRL_PHY_RST;
}

static void reg_write(struct e1000 *e, unsigned off, uint32_t v)
{
    off &= ~3u;
    switch (off) {
    case CTRL:
    case CTRL + 4: /* a shadow of the same register */
        ctrl_write(e, v);
        break;
    case EECD:
        eecd_write(e, v);
        break;
    case EERD:
        eerd_write(e, v);
        break;
    case MDIC:
        mdic_write(e, v);
        break;
    case ICR:
        *R(e, ICR) &= ~v;
        irq_update(e);
        break;
    case ICS:
        irq_cause(e, v);
        break;
    case IMS:
        *R(e, IMS) |= v;
        irq_update(e);
        break;
    case IMC:
        *R(e, IMS) &= ~v;
        irq_update(e);
        break;
    case RCTL:
        *R(e, RCTL) = v;
        net_flush(e->nic.peer);
        break;
    case RDBAL:
    case TDBAL:
        *R(e, off) = v & ~15u;
        break;
    case RDLEN:
    case TDLEN:
        *R(e, off) = v & 0xfff80;
        break;
    case RDH:
    case TDH:
        *R(e, off) = v & 0xffff;
        break;
    case RDT:
        *R(e, off) = v & 0xffff;
        net_flush(e->nic.peer);
        break;
    case TDT:
    case TCTL:
        *R(e, off) = off == TDT ? v & 0xffff : v;
        ev_bh_schedule(&e->tx_bh);
        break;
    case STATUS:
        break;
    default:
        if (off < REGS_END && readable(off))
            *R(e, off) = v;
        else
            log_unimp("e1000: write of %#x to register %#x", v, off);
        break;
    }
}

static uint64_t mmio_read(void *opaque, gpa_t off, unsigned size)
{
    struct e1000 *e = opaque;

    return e->in_dma ? 0 : reg_read(e, off);
}

static void mmio_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct e1000 *e = opaque;

    if (!e->in_dma)
        reg_write(e, off, val);
}
static const struct mem_ops mmio_ops = {.read = mmio_read, .write = mmio_write, .impl_min = 4, .impl_max = 4};

/* I/O window: an address register and a data register. */
static uint64_t io_read(void *opaque, gpa_t off, unsigned size)
{
    struct e1000 *e = opaque;

    if (off == 0)
        return e->ioaddr;
    return off == 4 && e->ioaddr < BAR_MMIO && !e->in_dma ? reg_read(e, e->ioaddr) : 0;
}

static void io_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct e1000 *e = opaque;

    if (off == 0)
        e->ioaddr = val;
    else if (off == 4 && e->ioaddr < BAR_MMIO && !e->in_dma)
        reg_write(e, e->ioaddr, val);
}
static const struct mem_ops io_ops = {.read = io_read, .write = io_write, .impl_min = 4, .impl_max = 4};

/* ---- life ---- */

static const struct net_ops e1000_net_ops = {
    .type = "nic", .receive = e1000_receive, .can_receive = e1000_can_receive, .link_changed = e1000_link_changed};

static void state_changed(void *opaque)
{
    struct e1000 *e = opaque;

    if (!running(e))
        return;
    ev_bh_schedule(&e->tx_bh);
    net_flush(e->nic.peer);
}

static bool e1000_realize(struct dev *d, struct err **errp)
{
    struct e1000 *e = container_of(d, struct e1000, pci.dev);
    struct machine *m = dev_machine(d);

    if (!net_nic_init(&e->nic, m, &e1000_net_ops, e, d->obj.cls->name, d->id, errp))
        return false;
    e->tx.buf = xcalloc(1, TX_MAX);
    e->tx.size = TX_MAX;
    pci_set_pin(&e->pci, 1);
    mem_region_init_io(&e->mmio, m->mem_sys, &mmio_ops, e, "e1000-mmio", BAR_MMIO);
    mem_region_init_io(&e->io, m->mem_sys, &io_ops, e, "e1000-io", BAR_IO);
    pci_add_bar(&e->pci, 0, PCI_BAR_MEM, &e->mmio);
    pci_add_bar(&e->pci, 1, PCI_BAR_IO, &e->io);
    eeprom_fill(e);
    ev_bh_init(&e->tx_bh, m->run->loop, tx_run, e);
    clk_timer_init(&e->autoneg, m->run->virt, autoneg_done, e);
    clk_timer_init(&e->throttle, m->run->virt, throttle_over, e);
    e->state_hook = (struct machine_hook){.fn = state_changed, .opaque = e};
    machine_on_state(m, &e->state_hook);
    return true;
}

static void e1000_unrealize(struct dev *d)
{
    struct e1000 *e = container_of(d, struct e1000, pci.dev);

    machine_hook_del(&e->state_hook);
    ev_bh_cancel(&e->tx_bh);
    clk_timer_cancel(&e->autoneg);
    clk_timer_cancel(&e->throttle);
    net_nic_fini(&e->nic);
    free(e->tx.buf);
    e->tx.buf = NULL;
}

static void e1000_reset(struct dev *d)
{
    struct e1000 *e = container_of(d, struct e1000, pci.dev);

    ev_bh_cancel(&e->tx_bh);
    clk_timer_cancel(&e->autoneg);
    *R(e, STATUS) = 0;
    mac_reset(e);
    phy_reset(e);
    if (cable(e)) { /* power-on negotiation is long over when software first looks */
        link_show(e, true);
        *R(e, ICR) = 0;
    }
}

static const struct prop e1000_props[] = {NET_NIC_PROPS(struct e1000, nic), PROP_END};
static const struct state_field tx_ctx_fields[] = {
    STATE_U8(struct tx_ctx, ipcss),  STATE_U8(struct tx_ctx, ipcso),   STATE_U8(struct tx_ctx, tucss),
    STATE_U8(struct tx_ctx, tucso),  STATE_U8(struct tx_ctx, hdr_len), STATE_U16(struct tx_ctx, ipcse),
    STATE_U16(struct tx_ctx, tucse), STATE_U16(struct tx_ctx, mss),    STATE_U32(struct tx_ctx, paylen),
    STATE_BOOL(struct tx_ctx, tcp),  STATE_BOOL(struct tx_ctx, ip),    STATE_END};
static const struct state_desc tx_ctx_state = {.name = "tx-context", .version = 1, .fields = tx_ctx_fields};
static const struct state_field e1000_fields[] = {STATE_STRUCT(struct e1000, pci, pci_dev_state),
                                                  STATE_ARRAY(struct e1000, reg),
                                                  STATE_ARRAY(struct e1000, phy),
                                                  STATE_U32(struct e1000, ioaddr),
                                                  STATE_STRUCT(struct e1000, tx.ctx, tx_ctx_state),
                                                  STATE_U32(struct e1000, tx.len),
                                                  STATE_BOOL(struct e1000, tx.tse),
                                                  STATE_BOOL(struct e1000, tx.vlan),
                                                  STATE_BOOL(struct e1000, tx.sum_ip),
                                                  STATE_BOOL(struct e1000, tx.sum_tu),
                                                  STATE_BOOL(struct e1000, tx.bad),
                                                  STATE_BOOL(struct e1000, tx.open),
                                                  STATE_U16(struct e1000, tx.tci),
                                                  STATE_U8(struct e1000, tx.cso),
                                                  STATE_U8(struct e1000, tx.css),
                                                  STATE_BOOL(struct e1000, tx.ic),
                                                  STATE_VARBYTES(struct e1000, tx.buf, tx.size),
                                                  EEPROM93_STATE(struct e1000, ee),
                                                  STATE_TIMER(struct e1000, autoneg),
                                                  STATE_TIMER(struct e1000, throttle),
                                                  STATE_END};
static bool e1000_loaded(void *obj, struct err **errp)
{
    struct e1000 *e = obj;

    return e->tx.len <= TX_MAX && eeprom93_ok(&e->ee);
}
static const struct state_desc e1000_state = {
    .name = "e1000", .version = 1, .fields = e1000_fields, .post_load = e1000_loaded};

#define E1000_CLASS(var, nm, alias_list, id, phyid, text)                                                              \
    static const struct e1000_class var = {.name = nm,                                                                 \
                                           .parent = "pci-device",                                                     \
                                           .aliases = alias_list,                                                      \
                                           .desc = text,                                                               \
                                           .size = sizeof(struct e1000),                                               \
                                           .props = e1000_props,                                                       \
                                           .more_props = pci_props,                                                    \
                                           .bus_type = "PCI",                                                          \
                                           .category = DEV_CAT_NETWORK,                                                \
                                           .hotplug = true,                                                            \
                                           .realize = e1000_realize,                                                   \
                                           .unrealize = e1000_unrealize,                                               \
                                           .reset = e1000_reset,                                                       \
                                           .state_desc = &e1000_state,                                                 \
                                           .vendor_id = 0x8086,                                                        \
                                           .device_id = id,                                                            \
                                           .revision = 3,                                                              \
                                           .class_id = 0x0200,                                                         \
                                           .romfile = "efi-e1000.rom",                                                 \
                                           .phy_id2 = phyid};                                                          \
    PCI_REGISTER(var)
static const char *const e1000_aliases[] = {"e1000-82540em", NULL};
E1000_CLASS(e1000_82540em, "e1000", e1000_aliases, 0x100e, 0x0c20, "Intel 82540EM gigabit Ethernet")
E1000_CLASS(e1000_82544gc, "e1000-82544gc", NULL, 0x1008, 0x0c30, "Intel 82544GC gigabit Ethernet")
E1000_CLASS(e1000_82545em, "e1000-82545em", NULL, 0x100f, 0x0c20, "Intel 82545EM gigabit Ethernet")
