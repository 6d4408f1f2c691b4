/* Realtek RTL8139C+ fast Ethernet.
 *
 * Source: RTL8139C(L)+ data sheet 1.6 (registers 5.x, C+ descriptors 8.x, EEPROM 6.1). Registers are bytes of one file,
 * so accesses of any size work; what a write starts is looked up by the bytes it covered. Modelled: the four-buffer
 * transmitter and the receive ring of the 8139, the descriptor rings of C+ mode with checksum and segmentation offload
 * and VLAN tags, the timer, the EEPROM. Left out: wake-up, CSTSCHG, tally counter dump (the command completes at once
 * with zeros), early receive. */
#include "hw/net/cksum.h"
#include "hw/net/eeprom93.h"
#include "hw/pci/pci.h"
#include "net/net.h"

enum {
    IDR0 = 0x00,
    MAR0 = 0x08,
    TSD0 = 0x10,
    DTCCR = 0x10,
    TSAD0 = 0x20,
    TNPDS = 0x20,
    THPDS = 0x28,
    RBSTART = 0x30,
    ERBCR = 0x34,
    ERSR = 0x36,
    CR = 0x37,
    CAPR = 0x38,
    CBR = 0x3a,
    IMR = 0x3c,
    ISR = 0x3e,
    TCR = 0x40,
    RCR = 0x44,
    TCTR = 0x48,
    MPC = 0x4c,
    CR9346 = 0x50,
    CONFIG0 = 0x51,
    CONFIG1 = 0x52,
    TIMERINT = 0x54,
    MSR = 0x58,
    CONFIG3 = 0x59,
    CONFIG4 = 0x5a,
    MULINT = 0x5c,
    RERID = 0x5e,
    TSAD = 0x60,
    BMCR = 0x62,
    BMSR = 0x64,
    ANAR = 0x66,
    ANLPAR = 0x68,
    ANER = 0x6a,
    DIS = 0x6c,
    FCSC = 0x6e,
    NWAYTR = 0x70,
    REC = 0x72,
    CSCR = 0x74,
    CONFIG5 = 0xd8,
    TPPOLL = 0xd9,
    CPCR = 0xe0,
    RDSAR = 0xe4,
    MTPS = 0xec,
    REGS = 0x100,
};
enum { CR_BUFE = 1, CR_TE = 4, CR_RE = 8, CR_RST = 0x10 };
enum {
    INT_ROK = 1,
    INT_TOK = 4,
    INT_TER = 8,
    INT_RXOVW = 0x10,
    INT_LINKCHG = 0x20,
    INT_FOVW = 0x40,
    INT_TDU = 0x80,
    INT_TIMEOUT = 0x4000
};
enum { TSD_SIZE = 0x1fff, TSD_OWN = 0x2000, TSD_TOK = 0x8000 };
#define TCR_HWVERID 0x74800000u
enum { TCR_LBK = 3 << 17 };
enum { RCR_AAP = 1, RCR_APM = 2, RCR_AM = 4, RCR_AB = 8, RCR_WRAP = 0x80 };
enum { CPCR_TX = 1, CPCR_RX = 2, CPCR_RXCSUM = 0x20, CPCR_RXVLAN = 0x40 };
enum { RX_ROK = 1, RX_BAR = 0x2000, RX_PAM = 0x4000, RX_MAR = 0x8000 };
#define D_OWN (1u << 31)
#define D_EOR (1u << 30)
#define D_FS  (1u << 29)
#define D_LS  (1u << 28)
enum { TD_LGSEN = 1 << 27, TD_IPCS = 1 << 18, TD_UDPCS = 1 << 17, TD_TCPCS = 1 << 16, TD_TAGC = 1 << 17 };
enum {
    RD_MAR = 1 << 27,
    RD_PAM = 1 << 26,
    RD_BAR = 1 << 25,
    RD_PID_IP = 3 << 17,
    RD_PID_UDP = 2 << 17,
    RD_PID_TCP = 1 << 17,
    RD_IPF = 1 << 16,
    RD_UDPF = 1 << 15,
    RD_TCPF = 1 << 14,
    RD_TAVA = 1 << 16,
    RD_SIZE = 0x1fff
};
enum { MSR_LINKB = 4 };
enum { EE_DO = 1, EE_DI = 2, EE_SK = 4, EE_CS = 8, EE_MODE = 0xc0, EE_PROGRAM = 0x80, EE_CONFIG = 0xc0 };
enum { DESC = 16, MAX_RX = 4096, TX_MAX = 0x10000 + 256, MIN_FRAME = 60, FCS = 4, RING_MAX = 64 };
enum { TIMER_HZ = 33000000, TOTAL_MAX = 2048 };

struct rtl8139 {
    struct pci_dev pci; /* first */
    struct mem_region io, mmio;
    struct net_nic nic; /* properties mac, netdev */
    uint8_t r[REGS];
    struct eeprom93 ee;
    uint32_t rx_at, tx_at;    /* C+ ring positions */
    uint8_t *tx_buf;          /* owned: TX_MAX bytes */
    uint32_t tx_len, tx_size; /* tx_size: TX_MAX */
    bool tx_open, tx_bad, in_dma;
    int64_t timer_base; /* guest time when TCTR was 0 */
    struct clk_timer timer;
    struct ev_bh tx_bh;
    uint8_t tx_go; /* bit n: buffer n; bit 4: C+ ring */
    struct machine_hook state_hook;
};

static uint16_t r16(const struct rtl8139 *s, unsigned off)
{
    return get_le16(s->r + off);
}
static uint32_t r32(const struct rtl8139 *s, unsigned off)
{
    return get_le32(s->r + off);
}

/* ---- interrupts and timer ---- */

static void irq_update(struct rtl8139 *s)
{
    pci_set_intx(&s->pci, (r16(s, ISR) & r16(s, IMR)) != 0);
}

static void irq_cause(struct rtl8139 *s, unsigned bits)
{
    put_le16(s->r + ISR, r16(s, ISR) | bits);
    irq_update(s);
}

static uint32_t tctr(struct rtl8139 *s)
{
    int64_t ns = clk_now(dev_vclk(&s->pci.dev)) - s->timer_base;

    return (uint32_t)(ns / 1000 * (TIMER_HZ / 1000) / 1000);
}

static void timer_arm(struct rtl8139 *s)
{
    uint32_t target = r32(s, TIMERINT), left = target - tctr(s);

    if (!target)
        clk_timer_cancel(&s->timer);
    else
        clk_timer_set(&s->timer,
                      clk_now(dev_vclk(&s->pci.dev)) + (int64_t)(left ? left : 1) * 1000 / (TIMER_HZ / 1000000) + 1);
}

static void timer_fire(void *opaque)
{
    struct rtl8139 *s = opaque;

    irq_cause(s, INT_TIMEOUT);
}

/* ---- filter ---- */

static uint32_t crc32_be(const uint8_t *p, size_t n)
{
    uint32_t crc = UINT32_MAX;

    for (size_t i = 0; i < n; i++)
        for (unsigned b = 0; b < 8; b++) {
            uint32_t bit = (crc >> 31) ^ (p[i] >> b & 1);
            crc = crc << 1 ^ (bit ? 0x04c11db7 : 0);
        }
    return crc;
}

/* Receive status bits when the frame is wanted (RX_ROK and how it matched), else 0. */
static unsigned wanted(struct rtl8139 *s, const uint8_t *f)
{
    static const uint8_t bcast[6] = {255, 255, 255, 255, 255, 255};
    uint32_t rcr = r32(s, RCR);

    if (!memcmp(f, bcast, 6))
        return rcr & (RCR_AB | RCR_AAP) ? RX_ROK | RX_BAR : 0;
    if (f[0] & 1) {
        unsigned h = crc32_be(f, 6) >> 26;
        bool hit = s->r[MAR0 + h / 8] >> (h % 8) & 1;
        return (rcr & RCR_AAP) || ((rcr & RCR_AM) && hit) ? RX_ROK | RX_MAR : 0;
    }
    if (!memcmp(f, s->r + IDR0, 6))
        return rcr & (RCR_APM | RCR_AAP) ? RX_ROK | RX_PAM : 0;
    return rcr & RCR_AAP ? RX_ROK : 0;
}

/* ---- receive: the 8139's ring ---- */

static uint32_t ring_size(struct rtl8139 *s)
{
    return 8192u << (r32(s, RCR) >> 11 & 3);
}

/* Bytes between the card's write pointer and the driver's read pointer (which it keeps 16 behind). */
static uint32_t ring_room(struct rtl8139 *s)
{
    uint32_t size = ring_size(s), used = (r16(s, CBR) - (uint16_t)(r16(s, CAPR) + 16)) & (size - 1);

    return size - used;
}

static void ring_put(struct rtl8139 *s, uint32_t *at, const uint8_t *p, size_t n)
{
    uint32_t size = ring_size(s);
    bool wrap = !(r32(s, RCR) & RCR_WRAP) || size == 65536;
    size_t first = wrap && *at + n > size ? size - *at : n;

    pci_dma_write(&s->pci, r32(s, RBSTART) + (gpa_t)*at, p, first);
    if (first < n)
        pci_dma_write(&s->pci, r32(s, RBSTART), p + first, n - first);
    *at += n;
    if (*at >= size)
        *at = wrap ? *at - size : *at % size;
}

static bool rx_ring(struct rtl8139 *s, const uint8_t *f, size_t len, unsigned status)
{
    uint32_t at = r16(s, CBR) & (ring_size(s) - 1), need = (4 + len + FCS + 3) & ~3u;
    uint8_t head[4], whole[MAX_RX + 16] = {0};

    if (need >= ring_room(s)) {
        put_le32(s->r + MPC, (r32(s, MPC) + 1) & 0xffffff);
        irq_cause(s, INT_RXOVW);
        return false;
    }
    put_le16(head, status);
    put_le16(head + 2, len + FCS);
    memcpy(whole, head, 4);
    memcpy(whole + 4, f, len);
    ring_put(s, &at, whole, need);
    put_le16(s->r + CBR, at);
    s->r[CR] &= ~CR_BUFE;
    return true;
}

/* ---- receive: C+ descriptors ---- */

static uint32_t rx_flags(struct rtl8139 *s, const uint8_t *f, size_t len)
{
    struct cksum_found c;
    uint32_t v = 0;

    if (!(r16(s, CPCR) & CPCR_RXCSUM))
        return 0;
    cksum_inspect(f, len, &c);
    if (!c.ipv4)
        return 0;
    v = c.l4 ? (c.udp ? RD_PID_UDP : RD_PID_TCP) : RD_PID_IP;
    v |= c.ip_ok ? 0 : RD_IPF;
    if (c.l4 && !c.l4_ok)
        v |= c.udp ? RD_UDPF : RD_TCPF;
    return v;
}

static gpa_t rx_desc(struct rtl8139 *s)
{
    return (get_le64(s->r + RDSAR) & ~UINT64_C(0xff)) + (gpa_t)s->rx_at * DESC;
}

static bool rx_cplus(struct rtl8139 *s, uint8_t *f, size_t len, unsigned status)
{
    uint8_t d[DESC];
    uint32_t w0, tag = 0, flags = rx_flags(s, f, len);

    pci_dma_read(&s->pci, rx_desc(s), d, DESC);
    w0 = get_le32(d);
    if (!(w0 & D_OWN)) {
        put_le32(s->r + MPC, (r32(s, MPC) + 1) & 0xffffff);
        irq_cause(s, INT_RXOVW);
        return false;
    }
    if ((r16(s, CPCR) & CPCR_RXVLAN) && get_be16(f + 12) == 0x8100) {
        tag = RD_TAVA | get_le16(f + 14);
        memmove(f + 12, f + 16, len - 16);
        len -= 4;
    }
    memset(f + len, 0, FCS);
    if (len + FCS > (w0 & RD_SIZE)) {
        irq_cause(s, INT_RXOVW); /* the driver's buffer is too small: frames do not span descriptors here */
        return true;
    }
    pci_dma_write(&s->pci, get_le64(d + 8), f, len + FCS);
    put_le32(d + 4, tag);
    pci_dma_write(&s->pci, rx_desc(s) + 4, d + 4, 4);
    put_le32(d, (w0 & D_EOR) | D_FS | D_LS | flags | (status & RX_BAR ? RD_BAR : 0) | (status & RX_PAM ? RD_PAM : 0) |
                    (status & RX_MAR ? RD_MAR : 0) | (uint32_t)(len + FCS));
    pci_dma_write(&s->pci, rx_desc(s), d, 4);
    s->rx_at = (w0 & D_EOR) || s->rx_at + 1 >= RING_MAX ? 0 : s->rx_at + 1;
    return true;
}

static bool running(struct rtl8139 *s)
{
    struct machine *m = dev_machine(&s->pci.dev);

    return (m->stepped || machine_running(m)) && (s->pci.config[PCI_COMMAND] & PCI_COMMAND_MASTER);
}

static bool rtl_can_receive(void *opaque)
{
    struct rtl8139 *s = opaque;

    return (s->r[CR] & CR_RE) && running(s);
}

static size_t rtl_receive(void *opaque, const struct iov *frame)
{
    struct rtl8139 *s = opaque;
    uint8_t f[MAX_RX + 16] = {0};
    bool ok, was = s->in_dma;
    size_t len = frame->len;
    unsigned status;

    if (len > MAX_RX - FCS || len < 14)
        return frame->len;
    if (!rtl_can_receive(s))
        return 0;
    iov_to_buf(frame, 0, f, len);
    if (!(status = wanted(s, f)))
        return frame->len;
    if (len < MIN_FRAME)
        len = MIN_FRAME;
    s->in_dma = true;
    ok = r16(s, CPCR) & CPCR_RX ? rx_cplus(s, f, len, status) : rx_ring(s, f, len, status);
    s->in_dma = was;
    if (!ok)
        return 0;
    irq_cause(s, INT_ROK);
    return frame->len;
}

/* ---- transmit ---- */

static void tx_wire(struct rtl8139 *s, const uint8_t *f, size_t len, int tag)
{
    struct iovec v[3];
    struct iov q;
    uint8_t t[4];
    unsigned n = 0;

    if (len < 14)
        return;
    if (tag >= 0) {
        put_be16(t, 0x8100);
        put_be16(t + 2, tag);
        v[n++] = (struct iovec){(void *)(uintptr_t)f, 12};
        v[n++] = (struct iovec){t, 4};
        v[n++] = (struct iovec){(void *)(uintptr_t)(f + 12), len - 12};
    } else {
        v[n++] = (struct iovec){(void *)(uintptr_t)f, len};
    }
    iov_init_ext(&q, v, n);
    if ((r32(s, TCR) & TCR_LBK) == TCR_LBK)
        rtl_receive(s, &q);
    else
        net_send(s->nic.peer, &q);
}

/* Buffer n of the old transmitter. */
static void tx_buffer(struct rtl8139 *s, unsigned n)
{
    uint8_t *tsd = s->r + TSD0 + 4 * n;
    uint32_t len = get_le32(tsd) & TSD_SIZE;

    if (!(s->r[CR] & CR_TE) || len > TOTAL_MAX)
        return;
    pci_dma_read(&s->pci, r32(s, TSAD0 + 4 * n), s->tx_buf, len);
    tx_wire(s, s->tx_buf, len, -1);
    put_le32(tsd, get_le32(tsd) | TSD_OWN | TSD_TOK);
    irq_cause(s, INT_TOK);
}

/* Checksums the descriptor asked for, on an IPv4 frame. */
static void tx_sums(uint8_t *f, size_t len, uint32_t opt)
{
    uint8_t *ip = f + 14;

    if (len < 34 || get_be16(f + 12) != 0x0800 || ip[0] >> 4 != 4)
        return;
    size_t hl = (ip[0] & 15) * 4u, total = min_u64(get_be16(ip + 2), len - 14);
    if (hl < 20 || total < hl)
        return;
    if (opt & TD_IPCS) {
        put_be16(ip + 10, 0);
        put_be16(ip + 10, cksum_fold(cksum_add(0, ip, hl)));
    }
    size_t l4 = total - hl, at = ip[9] == 6 && (opt & TD_TCPCS) ? 16 : ip[9] == 17 && (opt & TD_UDPCS) ? 6 : 0;
    if (!at || l4 < at + 2)
        return;
    put_be16(ip + hl + at, 0);
    put_be16(ip + hl + at, cksum_fold(cksum_pseudo4(ip, l4) + cksum_add(0, ip + hl, l4)));
}

static void tx_segments(struct rtl8139 *s, unsigned mss, int tag)
{
    uint8_t *f = s->tx_buf, *ip = f + 14, *seg;
    size_t len = s->tx_len, hl, th, hdr, done = 0;
    unsigned nr = 0;

    if (len < 54 || get_be16(f + 12) != 0x0800 || ip[9] != 6 || !mss)
        return;
    hl = (ip[0] & 15) * 4u;
    if (hl < 20 || 14 + hl + 20 > len)
        return;
    th = (ip[hl + 12] >> 4) * 4u;
    hdr = 14 + hl + th;
    if (th < 20 || hdr >= len || !(seg = try_alloc(1, hdr + mss)))
        return;
    for (; done < len - hdr; nr++) {
        size_t n = min_u64(mss, len - hdr - done);
        uint8_t *sip = seg + 14, *tcp = sip + hl;
        memcpy(seg, f, hdr);
        memcpy(seg + hdr, f + hdr + done, n);
        put_be16(sip + 2, hl + th + n);
        put_be16(sip + 4, get_be16(ip + 4) + nr);
        put_be32(tcp + 4, get_be32(tcp + 4) + done);
        done += n;
        if (done < len - hdr)
            tcp[13] &= ~0x09;
        tx_sums(seg, hdr + n, TD_IPCS | TD_TCPCS);
        tx_wire(s, seg, hdr + n, tag);
    }
    free(seg);
}

static void tx_cplus_frame(struct rtl8139 *s, uint32_t w0, uint32_t w1)
{
    int tag = w1 & TD_TAGC ? __builtin_bswap16(w1 & 0xffff) : -1;

    if (s->tx_bad || !s->tx_len)
        return;
    if (w0 & TD_LGSEN) {
        tx_segments(s, w0 >> 16 & 0x7ff, tag);
        return;
    }
    tx_sums(s->tx_buf, s->tx_len, w0);
    tx_wire(s, s->tx_buf, s->tx_len, tag);
}

/* One descriptor of the normal-priority ring; false when the card does not own it. */
static bool tx_cplus_one(struct rtl8139 *s)
{
    gpa_t at = (get_le64(s->r + TNPDS) & ~UINT64_C(0xff)) + (gpa_t)s->tx_at * DESC;
    uint8_t d[DESC];
    uint32_t w0, len;

    pci_dma_read(&s->pci, at, d, DESC);
    w0 = get_le32(d);
    if (!(w0 & D_OWN))
        return false;
    if ((w0 & D_FS) || !s->tx_open) {
        s->tx_open = true;
        s->tx_bad = false;
        s->tx_len = 0;
    }
    len = w0 & 0xffff;
    if (len > TX_MAX - s->tx_len) {
        s->tx_bad = true;
    } else {
        pci_dma_read(&s->pci, get_le64(d + 8), s->tx_buf + s->tx_len, len);
        s->tx_len += len;
    }
    put_le32(d, w0 & ~(D_OWN | TD_LGSEN));
    pci_dma_write(&s->pci, at, d, 4);
    s->tx_at = (w0 & D_EOR) || s->tx_at + 1 >= RING_MAX ? 0 : s->tx_at + 1;
    if (w0 & D_LS) {
        tx_cplus_frame(s, w0, get_le32(d + 4));
        s->tx_open = false;
    }
    return true;
}

static void tx_run(void *opaque)
{
    struct rtl8139 *s = opaque;
    uint8_t go = s->tx_go;
    unsigned n = 0;

    if (!running(s))
        return;
    s->tx_go = 0;
    s->in_dma = true;
    for (unsigned i = 0; i < 4; i++)
        if (go >> i & 1)
            tx_buffer(s, i);
    if ((go & 0x10) && (s->r[CR] & CR_TE) && (r16(s, CPCR) & CPCR_TX))
        while (n < RING_MAX && tx_cplus_one(s))
            n++;
    s->in_dma = false;
    if (go & 0x10) {
        s->r[TPPOLL] &= ~0xc0;
        irq_cause(s, n ? INT_TOK | INT_TDU : INT_TDU);
    }
    if (n == RING_MAX) { /* there may be more */
        s->tx_go |= 0x10;
        ev_bh_schedule(&s->tx_bh);
    }
}

/* ---- registers ---- */

static void link_show(struct rtl8139 *s, bool up)
{
    if (up)
        s->r[MSR] &= ~MSR_LINKB;
    else
        s->r[MSR] |= MSR_LINKB;
    put_le16(s->r + BMSR, up ? 0x782d : 0x7809);
    put_le16(s->r + ANLPAR, up ? 0x45e1 : 0);
    put_le16(s->r + CSCR, up ? 0x0740 : 0);
}

static bool cable(const struct rtl8139 *s)
{
    return s->nic.peer && !s->nic.peer->link_down && !(s->nic.peer->peer && s->nic.peer->peer->link_down);
}

/* CR.RST: what the driver set up goes, identity and EEPROM settings stay. */
static void soft_reset(struct rtl8139 *s)
{
    uint8_t id[6];

    memcpy(id, s->r + IDR0, 6);
    ev_bh_cancel(&s->tx_bh);
    clk_timer_cancel(&s->timer);
    memset(s->r, 0, sizeof s->r);
    memcpy(s->r + IDR0, id, 6);
    for (unsigned i = 0; i < 4; i++)
        put_le32(s->r + TSD0 + 4 * i, TSD_OWN);
    put_le16(s->r + CAPR, 0xfff0);
    s->r[CR] = CR_BUFE;
    put_le32(s->r + TCR, TCR_HWVERID);
    s->r[CONFIG1] = 0x0c; /* registers in memory and I/O space */
    s->r[CONFIG3] = 0x01;
    s->r[MSR] = 0x10;
    put_le16(s->r + BMCR, 0x1100);
    put_le16(s->r + ANAR, 0x05e1);
    put_le16(s->r + ANER, 0x0001);
    s->rx_at = s->tx_at = s->tx_len = 0;
    s->tx_open = s->tx_bad = false;
    s->tx_go = 0;
    s->timer_base = clk_now(dev_vclk(&s->pci.dev));
    link_show(s, cable(s));
    irq_update(s);
}

/* Bits of a byte that software may change. */
static uint8_t writable(const struct rtl8139 *s, unsigned off)
{
    bool config = (s->r[CR9346] & EE_MODE) == EE_CONFIG;

    switch (off) {
    case ERBCR:
    case ERBCR + 1:
    case ERSR:
    case CBR:
    case CBR + 1:
    case CONFIG0:
    case RERID:
    case TSAD:
    case TSAD + 1:
    case BMSR:
    case BMSR + 1:
    case ANLPAR:
    case ANLPAR + 1:
    case ANER:
    case ANER + 1:
    case DIS:
    case FCSC:
    case MPC + 3:
        return 0;
    case CR:
        return CR_TE | CR_RE;
    case CONFIG1:
    case CONFIG1 + 1:
    case CONFIG3:
    case CONFIG4:
    case CONFIG5:
        return config ? 0xff : 0;
    case MSR:
        return 0xc0;
    case TCR + 2: /* the version sits in bits 22, 23 and 26 to 30 */
        return 0x3f;
    case TCR + 3:
        return 0x83;
    case BMCR + 1:
        return 0x31;
    case CR9346:
        return 0xff & ~EE_DO;
    default:
        return 0xff;
    }
}

static bool covers(unsigned off, unsigned size, unsigned byte)
{
    return byte >= off && byte < off + size;
}

/* C+ descriptors are given back in memory alone. What every driver writes around that are the interrupt registers, so
 * those are when a frame that met a full ring is tried again. */
static bool gives_back(const struct rtl8139 *s, unsigned off, unsigned size)
{
    return (r16(s, CPCR) & CPCR_RX) && off < ISR + 2 && off + size > IMR;
}

/* What the bytes just written set going. */
static void wrote(struct rtl8139 *s, unsigned off, unsigned size)
{
    bool cplus = r16(s, CPCR) & CPCR_TX;

    for (unsigned i = 0; i < 4 && !cplus; i++)
        if (covers(off, size, TSD0 + 4 * i + 1) && !(r32(s, TSD0 + 4 * i) & TSD_OWN)) {
            s->tx_go |= 1u << i;
            ev_bh_schedule(&s->tx_bh);
        }
    if (cplus && covers(off, size, DTCCR))
        s->r[DTCCR] &= ~0x08; /* dump of the tally counters: done */
    if (covers(off, size, TPPOLL) && (s->r[TPPOLL] & 0xc0)) {
        s->tx_go |= 0x10;
        ev_bh_schedule(&s->tx_bh);
    }
    if (covers(off, size, CAPR + 1)) {
        if (ring_room(s) == ring_size(s))
            s->r[CR] |= CR_BUFE;
        net_flush(s->nic.peer);
    }
    if (covers(off, size, TNPDS) || covers(off, size, TNPDS + 4))
        s->tx_at = cplus ? 0 : s->tx_at;
    if (covers(off, size, RDSAR))
        s->rx_at = 0;
    if (covers(off, size, CR) || covers(off, size, RCR) || gives_back(s, off, size))
        net_flush(s->nic.peer);
    if (covers(off, size, CR9346) && (s->r[CR9346] & EE_MODE) == EE_PROGRAM)
        eeprom93_write(&s->ee, s->r[CR9346] & EE_CS, s->r[CR9346] & EE_SK, s->r[CR9346] & EE_DI);
    if (covers(off, size, TCTR)) {
        s->timer_base = clk_now(dev_vclk(&s->pci.dev));
        timer_arm(s);
    }
    if (covers(off, size, TIMERINT + 3) || covers(off, size, TIMERINT))
        timer_arm(s);
    irq_update(s);
}

static void rtl_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct rtl8139 *s = opaque;

    if (s->in_dma || off + size > REGS)
        return;
    for (unsigned i = 0; i < size; i++) {
        unsigned at = off + i;
        uint8_t v = val >> (8 * i), m = writable(s, at);

        if (at == CR && (v & CR_RST)) {
            soft_reset(s);
            return;
        }
        if (at == ISR || at == ISR + 1) /* write 1 to clear */
            s->r[at] &= ~v;
        else if (at >= MPC && at < MPC + 4)
            put_le32(s->r + MPC, 0);
        else
            s->r[at] = (s->r[at] & ~m) | (v & m);
    }
    wrote(s, off, size);
}

static uint8_t read_byte(struct rtl8139 *s, unsigned off)
{
    if (off >= TCTR && off < TCTR + 4)
        return tctr(s) >> (8 * (off - TCTR));
    if (off == CR9346 && (s->r[CR9346] & EE_MODE) == EE_PROGRAM)
        return (s->r[off] & ~EE_DO) | (eeprom93_out(&s->ee) ? EE_DO : 0);
    if (off == TSAD || off == TSAD + 1) { /* OWN, TABT, TUN, TOK of the four buffers */
        uint16_t v = 0;
        for (unsigned i = 0; i < 4; i++) {
            uint32_t t = r32(s, TSD0 + 4 * i);
            v |= (t & TSD_OWN ? 1u << i : 0) | (t & TSD_TOK ? 0x1000u << i : 0);
        }
        return v >> (8 * (off - TSAD));
    }
    return s->r[off];
}

static uint64_t rtl_read(void *opaque, gpa_t off, unsigned size)
{
    struct rtl8139 *s = opaque;
    uint64_t v = 0;

    if (s->in_dma || off + size > REGS)
        return 0;
    for (unsigned i = 0; i < size; i++)
        v |= (uint64_t)read_byte(s, off + i) << (8 * i);
    return v;
}
static const struct mem_ops rtl_ops = {.read = rtl_read,
                                       .write = rtl_write,
                                       .valid_min = 1,
                                       .valid_max = 4,
                                       .impl_min = 1,
                                       .impl_max = 4,
                                       .unaligned = true};

/* ---- life ---- */

static void rtl_link_changed(void *opaque, bool up)
{
    struct rtl8139 *s = opaque;

    link_show(s, up);
    irq_cause(s, INT_LINKCHG);
}
static const struct net_ops rtl_net_ops = {
    .type = "nic", .receive = rtl_receive, .can_receive = rtl_can_receive, .link_changed = rtl_link_changed};

static void eeprom_fill(struct rtl8139 *s)
{
    uint16_t *w = s->ee.word;

    w[0] = 0x8129;
    w[1] = get_le16(s->pci.config + PCI_VENDOR_ID);
    w[2] = get_le16(s->pci.config + PCI_DEVICE_ID);
    w[3] = get_le16(s->pci.config + PCI_SUBSYSTEM_VENDOR_ID);
    w[4] = get_le16(s->pci.config + PCI_SUBSYSTEM_ID);
    for (unsigned i = 0; i < 3; i++)
        w[7 + i] = get_le16(s->nic.mac.a + 2 * i);
}

static void state_changed(void *opaque)
{
    struct rtl8139 *s = opaque;

    if (!running(s))
        return;
    if (s->tx_go)
        ev_bh_schedule(&s->tx_bh);
    net_flush(s->nic.peer);
}

static bool rtl_realize(struct dev *d, struct err **errp)
{
    struct rtl8139 *s = container_of(d, struct rtl8139, pci.dev);
    struct machine *m = dev_machine(d);

    if (!net_nic_init(&s->nic, m, &rtl_net_ops, s, d->obj.cls->name, d->id, errp))
        return false;
    s->tx_buf = xcalloc(1, TX_MAX);
    s->tx_size = TX_MAX;
    pci_set_pin(&s->pci, 1);
    mem_region_init_io(&s->io, m->mem_sys, &rtl_ops, s, "rtl8139-io", REGS);
    mem_region_init_io(&s->mmio, m->mem_sys, &rtl_ops, s, "rtl8139-mem", REGS);
    pci_add_bar(&s->pci, 0, PCI_BAR_IO, &s->io);
    pci_add_bar(&s->pci, 1, PCI_BAR_MEM, &s->mmio);
    eeprom_fill(s);
    ev_bh_init(&s->tx_bh, m->run->loop, tx_run, s);
    clk_timer_init(&s->timer, m->run->virt, timer_fire, s);
    s->state_hook = (struct machine_hook){.fn = state_changed, .opaque = s};
    machine_on_state(m, &s->state_hook);
    return true;
}

static void rtl_unrealize(struct dev *d)
{
    struct rtl8139 *s = container_of(d, struct rtl8139, pci.dev);

    machine_hook_del(&s->state_hook);
    ev_bh_cancel(&s->tx_bh);
    clk_timer_cancel(&s->timer);
    net_nic_fini(&s->nic);
    free(s->tx_buf);
    s->tx_buf = NULL;
}

static void rtl_reset(struct dev *d)
{
    struct rtl8139 *s = container_of(d, struct rtl8139, pci.dev);

    memcpy(s->r + IDR0, s->nic.mac.a, 6);
    eeprom93_write(&s->ee, false, false, false);
    soft_reset(s);
}

static const struct prop rtl_props[] = {NET_NIC_PROPS(struct rtl8139, nic), PROP_END};
static const struct state_field rtl_fields[] = {STATE_STRUCT(struct rtl8139, pci, pci_dev_state),
                                                STATE_BYTES(struct rtl8139, r),
                                                STATE_U32(struct rtl8139, rx_at),
                                                STATE_U32(struct rtl8139, tx_at),
                                                STATE_I64(struct rtl8139, timer_base),
                                                STATE_TIMER(struct rtl8139, timer),
                                                STATE_U8(struct rtl8139, tx_go),
                                                STATE_VARBYTES(struct rtl8139, tx_buf, tx_size),
                                                STATE_U32(struct rtl8139, tx_len),
                                                STATE_BOOL(struct rtl8139, tx_open),
                                                STATE_BOOL(struct rtl8139, tx_bad),
                                                EEPROM93_STATE(struct rtl8139, ee),
                                                STATE_END};
static bool rtl_post_load(void *opaque, struct err **errp)
{
    struct rtl8139 *s = opaque;

    return s->rx_at < RING_MAX && s->tx_at < RING_MAX && s->tx_len <= TX_MAX && eeprom93_ok(&s->ee) &&
           state_time_ok(s->timer_base);
}
static const struct state_desc rtl_state = {
    .name = "rtl8139", .version = 1, .fields = rtl_fields, .post_load = rtl_post_load};
static const struct pci_class rtl8139_class = {.name = "rtl8139",
                                               .parent = "pci-device",
                                               .desc = "Realtek RTL8139C+ fast Ethernet",
                                               .size = sizeof(struct rtl8139),
                                               .props = rtl_props,
                                               .more_props = pci_props,
                                               .bus_type = "PCI",
                                               .category = DEV_CAT_NETWORK,
                                               .hotplug = true,
                                               .realize = rtl_realize,
                                               .unrealize = rtl_unrealize,
                                               .reset = rtl_reset,
                                               .state_desc = &rtl_state,
                                               .vendor_id = 0x10ec,
                                               .device_id = 0x8139,
                                               .revision = 0x20,
                                               .class_id = 0x0200,
                                               .romfile = "efi-rtl8139.rom"};
PCI_REGISTER(rtl8139_class)
