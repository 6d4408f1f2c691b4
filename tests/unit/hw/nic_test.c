/* e1000 and rtl8139 by their registers, with a counter at the other end of the cable. */
#include "unit.h"

#include "hw/net/cksum.h"
#include "hw/net/e1000_regs.h"
#include "hw/pci_bare.h"

struct far_end {
    unsigned frames;
    uint8_t last[2048], all[8][2048];
    size_t len, lens[8];
};
static size_t far_receive(void *opaque, const struct iov *f)
{
    struct far_end *s = opaque;

    s->len = iov_to_buf(f, 0, s->last, sizeof s->last);
    if (s->frames < 8) {
        s->lens[s->frames] = s->len;
        memcpy(s->all[s->frames], s->last, s->len);
    }
    s->frames++;
    return f->len;
}
static const struct net_ops far_ops = {.type = "far", .receive = far_receive};

struct nic {
    struct bare *b;
    struct pci_dev *d;
    struct far_end fe;
    struct net_peer *far;
};

static void start(struct nic *n, const char *dev, unsigned bar)
{
    memset(n, 0, sizeof *n);
    n->b = bare_new();
    n->far = net_peer_new(n->b->net, "n0", &far_ops, &n->fe);
    n->d = bare_device(n->b, dev);
    bare_start(n->b);
    bare_map(n->d, bar, BARE_MMIO);
}
static uint32_t rd(struct nic *n, unsigned off)
{
    return mem_ld(n->b->m->mem, BARE_MMIO + off, 4);
}
static void wr(struct nic *n, unsigned off, uint32_t v)
{
    mem_store(n->b->m->mem, BARE_MMIO + off, 4, v);
}
static unsigned rdn(struct nic *n, unsigned off, unsigned size)
{
    return mem_ld(n->b->m->mem, BARE_MMIO + off, size);
}
static void wrn(struct nic *n, unsigned off, unsigned size, unsigned v)
{
    mem_store(n->b->m->mem, BARE_MMIO + off, size, v);
}

/* ---- e1000 ---- */

enum { TXR = 0x10000, RXR = 0x11000, BUF = 0x20000, RBUF = 0x30000 };

static uint16_t microwire(struct nic *n, unsigned addr)
{
    uint32_t cmd = 6u << 6 | addr;
    uint16_t v = 0;

    wr(n, EECD, EECD_CS | EECD_REQ);
    for (int i = 8; i >= 0; i--) {
        uint32_t di = cmd >> i & 1 ? EECD_DI : 0;
        wr(n, EECD, EECD_CS | di);
        wr(n, EECD, EECD_CS | di | EECD_SK);
        wr(n, EECD, EECD_CS | di);
    }
    for (int i = 0; i < 16; i++) {
        wr(n, EECD, EECD_CS | EECD_SK);
        v = v << 1 | !!(rd(n, EECD) & EECD_DO);
        wr(n, EECD, EECD_CS);
    }
    wr(n, EECD, 0);
    return v;
}

/* proves: F-NET-24 */
static void e1000_eeprom_holds_the_address_and_a_good_checksum(void **state)
{
    struct nic n;
    uint16_t sum = 0;

    start(&n, "e1000,netdev=n0,mac=52:54:00:01:02:03", 0);
    for (unsigned i = 0; i < 64; i++) {
        wr(&n, EERD, i << 8 | EERD_START);
        assert_true(rd(&n, EERD) & EERD_DONE);
        uint16_t w = rd(&n, EERD) >> 16;
        assert_int_equal(microwire(&n, i), w);
        sum += w;
        if (i == 0)
            assert_int_equal(w, 0x5452);
        if (i == 2)
            assert_int_equal(w, 0x0302);
    }
    assert_int_equal(sum, 0xbaba);
    assert_int_equal(rd(&n, RA), 0x01005452);
    assert_int_equal(rd(&n, RA + 4), 0x80000302);
    bare_free(n.b);
}

static uint16_t phy(struct nic *n, unsigned reg)
{
    wr(n, MDIC, MDIC_OP_READ | 1 << 21 | reg << 16);
    assert_true(rd(n, MDIC) & MDIC_R);
    return rd(n, MDIC);
}

static void e1000_negotiates_and_reports_the_link(void **state)
{
    struct nic n;

    start(&n, "e1000,netdev=n0", 0);
    assert_int_equal(phy(&n, PHY_ID1), 0x0141);
    assert_true(phy(&n, PHY_BMSR) & BMSR_LINK);
    wr(&n, IMS, INT_LSC);
    wr(&n, MDIC, MDIC_OP_WRITE | 1 << 21 | PHY_BMCR << 16 | BMCR_AN_ENABLE | BMCR_RESTART_AN);
    assert_false(rd(&n, STATUS) & STATUS_LU);
    assert_int_equal(n.b->irq, 1);
    assert_true(rd(&n, ICR) & INT_LSC);
    assert_int_equal(n.b->irq, 0);
    for (int i = 0; i < 100 && !(rd(&n, STATUS) & STATUS_LU); i++)
        ev_loop_turn(n.b->run->loop, 20 * NS_PER_MS);
    assert_true(phy(&n, PHY_BMSR) & BMSR_AN_DONE);
    net_set_link(n.far, false);
    assert_false(rd(&n, STATUS) & STATUS_LU);
    bare_free(n.b);
}

static void e1000_tx_ring(struct nic *n)
{
    wr(n, TDBAL, TXR);
    wr(n, TDLEN, 128);
    wr(n, TDH, 0);
    wr(n, TDT, 0);
    wr(n, TCTL, TCTL_EN | TCTL_PSP);
}

static void e1000_sends_and_sums(void **state)
{
    struct nic n;
    uint8_t *d;

    start(&n, "e1000,netdev=n0", 0);
    e1000_tx_ring(&n);
    memset(n.b->mem + BUF, 0x11, 100);
    d = n.b->mem + TXR;
    memset(d, 0, 32);
    put_le64(d, BUF);
    put_le16(d + 8, 40);
    d[11] = 0; /* first half: no end of packet */
    put_le64(d + 16, BUF + 40);
    put_le16(d + 24, 60);
    d[26] = 50; /* CSO */
    d[27] = TXD_EOP | TXD_RS | TXD_IC;
    d[29] = 60; /* CSS */
    wr(&n, IMS, INT_TXDW);
    wr(&n, TDT, 2);
    bare_turns(n.b, 2);
    assert_int_equal(n.fe.frames, 1);
    assert_int_equal(n.fe.len, 100);
    assert_int_equal(d[28] & 1, 1);
    assert_int_equal(rd(&n, TDH), 2);
    assert_int_equal(n.b->irq, 1);
    assert_int_equal(rd(&n, GPTC), 1);
    assert_int_equal(rd(&n, GPTC), 0); /* cleared by reading */
    bare_free(n.b);
}

static void e1000_asked_sum_goes_where_the_descriptor_says(void **state)
{
    struct nic n;
    uint8_t *d;

    start(&n, "e1000,netdev=n0", 0);
    e1000_tx_ring(&n);
    for (unsigned i = 0; i < 100; i++)
        n.b->mem[BUF + i] = i;
    put_be16(n.b->mem + BUF + 50, 0);
    d = n.b->mem + TXR;
    memset(d, 0, 16);
    put_le64(d, BUF);
    put_le16(d + 8, 100);
    d[10] = 50;
    d[11] = TXD_EOP | TXD_IC;
    d[13] = 34;
    wr(&n, TDT, 1);
    bare_turns(n.b, 2);
    assert_int_equal(cksum_fold(cksum_add(0, n.fe.last + 34, 66)), 0);
    bare_free(n.b);
}

/* A 14+20+20 byte header and 2500 bytes of TCP payload, MSS 1000: three valid segments. */
static void e1000_segments_tcp(void **state)
{
    struct nic n;
    uint8_t *d, *f;
    uint32_t next = 1000;

    start(&n, "e1000,netdev=n0", 0);
    e1000_tx_ring(&n);
    f = n.b->mem + BUF;
    memset(f, 0, 54);
    memset(f + 54, 0x5a, 2500);
    put_be16(f + 12, 0x0800);
    f[14] = 0x45;
    put_be16(f + 18, 7);
    f[22] = 64;
    f[23] = 6;
    put_be32(f + 26, 0x0a00020f);
    put_be32(f + 30, 0x0a000202);
    put_be32(f + 38, 1000);
    f[46] = 5 << 4;
    f[47] = 0x19; /* ACK PSH FIN */
    put_be16(f + 50, ~cksum_fold(cksum_pseudo4(f + 14, 0)));
    d = n.b->mem + TXR;
    memset(d, 0, 32);
    d[0] = 14;
    d[1] = 24;
    put_le16(d + 2, 33);
    d[4] = 34;
    d[5] = 50;
    put_le32(d + 8, 2500 | (uint32_t)(TXD_DEXT | TXD_TSE | TXC_IP | TXC_TCP | TXD_RS) << 24);
    d[13] = 54;
    put_le16(d + 14, 1000);
    put_le64(d + 16, BUF);
    put_le32(d + 24, 2554 | 1 << 20 | (uint32_t)(TXD_DEXT | TXD_TSE | TXD_EOP | TXD_RS) << 24);
    d[29] = POPTS_IXSM | POPTS_TXSM;
    wr(&n, TDT, 2);
    bare_turns(n.b, 2);
    assert_int_equal(n.fe.frames, 3);
    for (unsigned i = 0; i < 3; i++) {
        struct cksum_found c;
        uint8_t *s = n.fe.all[i];
        assert_int_equal(n.fe.lens[i], i < 2 ? 1054 : 554);
        cksum_inspect(s, n.fe.lens[i], &c);
        assert_true(c.ipv4 && c.ip_ok && c.l4 && c.l4_ok);
        assert_int_equal(get_be32(s + 38), next);
        next += 1000;
        assert_int_equal(get_be16(s + 18), 7 + i);
        assert_int_equal(s[47], i < 2 ? 0x10 : 0x19);
    }
    bare_free(n.b);
}

/* proves: F-NET-24 */
static void e1000_receives_what_it_should(void **state)
{
    struct nic n;
    uint8_t frame[100] = {0}, *d;

    start(&n, "e1000,netdev=n0,mac=52:54:00:01:02:03", 0);
    d = n.b->mem + RXR;
    for (unsigned i = 0; i < 8; i++) {
        memset(d + 16 * i, 0, 16);
        put_le64(d + 16 * i, RBUF + 4096 * i);
    }
    wr(&n, RDBAL, RXR);
    wr(&n, RDLEN, 128);
    wr(&n, RDH, 0);
    wr(&n, RDT, 2);
    wr(&n, IMS, INT_RXT0);
    memcpy(frame, "\x52\x54\x00\x01\x02\x03", 6);
    net_send_buf(n.far, frame, 100); /* waits: the receiver is off */
    wr(&n, RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC);
    assert_int_equal(d[12], RXD_DD | RXD_EOP | RXD_IXSM);
    assert_int_equal(get_le16(d + 8), 100);
    assert_memory_equal(n.b->mem + RBUF, frame, 100);
    assert_int_equal(n.b->irq, 1);
    rd(&n, ICR);
    frame[5] = 9; /* someone else's */
    net_send_buf(n.far, frame, 100);
    assert_int_equal(d[16 + 12], 0);
    memset(frame, 0xff, 6);
    net_send_buf(n.far, frame, 20); /* broadcast, padded */
    assert_int_equal(get_le16(d + 16 + 8), 60);
    net_send_buf(n.far, frame, 100); /* the ring is empty: waits */
    assert_int_equal(rd(&n, RDH), 2);
    wr(&n, RDT, 4);
    assert_int_equal(rd(&n, RDH), 3);
    assert_int_equal(rd(&n, GPRC), 3);
    bare_free(n.b);
}

static void e1000_survives_nonsense_rings(void **state)
{
    static const uint32_t bal[] = {TXR, 0xfffffff0, 0xe0000000}, len[] = {0, 128, 0xfff80}, idx[] = {0, 7, 0xffff};
    struct nic n;
    uint8_t frame[100];

    start(&n, "e1000,netdev=n0", 0);
    memset(frame, 0xff, sizeof frame);
    memset(n.b->mem + TXR, 0xff, 128);
    for (unsigned i = 0; i < 81; i++) {
        wr(&n, TCTL, TCTL_EN);
        wr(&n, RCTL, RCTL_EN | RCTL_UPE | RCTL_BAM);
        for (unsigned tx = 0; tx < 2; tx++) {
            unsigned base = tx ? TDBAL : RDBAL;
            wr(&n, base, bal[i % 3]);
            wr(&n, base + 8, len[i / 3 % 3]);
            wr(&n, base + 0x10, idx[i / 9 % 3]);
            wr(&n, base + 0x18, idx[i / 27 % 3]);
        }
        net_send_buf(n.far, frame, 100);
        bare_turns(n.b, 1);
        wr(&n, CTRL, CTRL_RST);
    }
    bare_free(n.b);
}

/* ---- rtl8139 ---- */

static uint16_t rtl_eeprom(struct nic *n, unsigned addr)
{
    unsigned cmd = 6u << 6 | addr;
    uint16_t v = 0;

    wrn(n, 0x50, 1, 0x80);
    wrn(n, 0x50, 1, 0x88);
    for (int i = 8; i >= 0; i--) {
        unsigned di = cmd >> i & 1 ? 2 : 0;
        wrn(n, 0x50, 1, 0x88 | di);
        wrn(n, 0x50, 1, 0x8c | di);
    }
    wrn(n, 0x50, 1, 0x88);
    for (int i = 0; i < 16; i++) {
        wrn(n, 0x50, 1, 0x8c);
        v = v << 1 | (rdn(n, 0x50, 1) & 1);
        wrn(n, 0x50, 1, 0x88);
    }
    wrn(n, 0x50, 1, 0);
    return v;
}

/* proves: F-NET-25, S131 */
static void rtl8139_old_mode_sends_and_receives(void **state)
{
    struct nic n;
    uint8_t frame[100] = {0};

    start(&n, "rtl8139,netdev=n0,mac=52:54:00:01:02:03", 1);
    assert_int_equal(rtl_eeprom(&n, 0), 0x8129);
    assert_int_equal(rtl_eeprom(&n, 7), 0x5452);
    assert_int_equal(rdn(&n, 0x00, 4), 0x01005452);
    wrn(&n, 0x37, 1, 0x10);
    assert_int_equal(rdn(&n, 0x37, 1), 1); /* reset done, buffer empty */
    wr(&n, 0x30, RBUF);
    wrn(&n, 0x3c, 2, 5);
    wrn(&n, 0x37, 1, 0x0c);
    wr(&n, 0x44, 0x8e); /* WRAP AB AM APM, 8 KiB */
    memset(n.b->mem + BUF, 0x22, 80);
    wr(&n, 0x20, BUF);
    wr(&n, 0x10, 80);
    bare_turns(n.b, 2);
    assert_int_equal(n.fe.len, 80);
    assert_int_equal(rd(&n, 0x10) & 0xa000, 0xa000);
    assert_int_equal(rdn(&n, 0x3e, 2), 4);
    assert_int_equal(n.b->irq, 1);
    wrn(&n, 0x3e, 2, 4);
    assert_int_equal(n.b->irq, 0);
    memcpy(frame, "\x52\x54\x00\x01\x02\x03", 6);
    for (unsigned i = 0; i < 200; i++) { /* many times around the ring */
        unsigned at = rdn(&n, 0x3a, 2);
        frame[99] = i;
        net_send_buf(n.far, frame, 100);
        assert_int_equal(rdn(&n, 0x37, 1) & 1, 0);
        assert_int_equal(get_le16(n.b->mem + RBUF + at), 0x4001);
        assert_int_equal(get_le16(n.b->mem + RBUF + at + 2), 104);
        assert_int_equal(n.b->mem[RBUF + at + 4 + 99], i & 0xff);
        at = (at + 104 + 4 + 3) & ~3u;
        wrn(&n, 0x38, 2, (at - 16) & 0xffff);
        assert_int_equal(rdn(&n, 0x37, 1) & 1, 1);
        wrn(&n, 0x3e, 2, 0xffff);
    }
    frame[5] = 9;
    net_send_buf(n.far, frame, 100);
    assert_int_equal(rdn(&n, 0x37, 1) & 1, 1);
    bare_free(n.b);
}

static void rtl8139_cplus_mode_uses_descriptors(void **state)
{
    struct nic n;
    uint8_t frame[100] = {0}, *t, *r;

    start(&n, "rtl8139,netdev=n0,mac=52:54:00:01:02:03", 1);
    t = n.b->mem + TXR;
    r = n.b->mem + RXR;
    memset(t, 0, 64);
    memset(r, 0, 64);
    put_le32(t, 0xf0000000u | 100); /* OWN EOR FS LS */
    put_le64(t + 8, BUF);
    put_le32(r, 0x80000000u | 2048);
    put_le64(r + 8, RBUF);
    put_le32(r + 16, 0xc0000000u | 2048);
    put_le64(r + 24, RBUF + 4096);
    wrn(&n, 0xe0, 2, 3);
    wrn(&n, 0x37, 1, 0x0c);
    wr(&n, 0x20, TXR);
    wr(&n, 0x24, 0);
    wr(&n, 0xe4, RXR);
    wr(&n, 0xe8, 0);
    wr(&n, 0x44, 0x0e);
    wrn(&n, 0xd9, 1, 0x40);
    bare_turns(n.b, 2);
    assert_int_equal(n.fe.len, 100);
    assert_int_equal(get_le32(t) >> 31, 0);
    memset(frame, 0xff, 6);
    for (unsigned i = 0; i < 2; i++)
        net_send_buf(n.far, frame, 100);
    assert_int_equal(get_le32(r), 0x32000000u | 104); /* FS LS BAR */
    assert_int_equal(get_le32(r + 16), 0x72000000u | 104);
    for (unsigned i = 0; i < 2; i++) { /* none left: both wait */
        frame[99] = 0x70 + i;
        net_send_buf(n.far, frame, 100);
    }
    assert_int_equal(rdn(&n, 0x3e, 2) & 0x10, 0x10);
    wrn(&n, 0x3e, 2, 0xffff);
    assert_int_equal(rdn(&n, 0x3e, 2) & 0x11, 0x10); /* still without a descriptor */
    put_le32(r, 0x80000000u | 2048);
    wrn(&n, 0x3c, 2, 0x11); /* as a driver ends a poll: a descriptor given back, then the mask */
    assert_int_equal(get_le32(r), 0x32000000u | 104);
    assert_int_equal(n.b->mem[RBUF + 99], 0x70);
    assert_int_equal(n.b->irq, 1);
    put_le32(r + 16, 0xc0000000u | 2048);
    wrn(&n, 0x3e, 2, 0xffff); /* or before its acknowledgement */
    assert_int_equal(get_le32(r + 16), 0x72000000u | 104);
    assert_int_equal(n.b->mem[RBUF + 4096 + 99], 0x71);
    wrn(&n, 0x3e, 2, 0xffff);
    assert_int_equal(n.b->irq, 0);
    bare_free(n.b);
}

UNIT_MAIN(cmocka_unit_test(e1000_eeprom_holds_the_address_and_a_good_checksum),
          cmocka_unit_test(e1000_negotiates_and_reports_the_link), cmocka_unit_test(e1000_sends_and_sums),
          cmocka_unit_test(e1000_asked_sum_goes_where_the_descriptor_says), cmocka_unit_test(e1000_segments_tcp),
          cmocka_unit_test(e1000_receives_what_it_should), cmocka_unit_test(e1000_survives_nonsense_rings),
          cmocka_unit_test(rtl8139_old_mode_sends_and_receives), cmocka_unit_test(rtl8139_cplus_mode_uses_descriptors))
