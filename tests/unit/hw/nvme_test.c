/* The NVMe controller by hand: registers, admin commands, I/O by PRPs and SGLs, errors, and commands made of noise. */
#include "hw/pci_bare.h"

#include <fcntl.h>
#include <unistd.h>

enum { ASQ = 0x10000, ACQ = 0x11000, SQ1 = 0x12000, CQ1 = 0x13000, BUF = 0x20000, LIST = 0x30000, NSIZE = 1 << 20 };
enum { CC = 0x14, CSTS = 0x1c, AQA = 0x24, QS = 8 };

struct rig {
    struct bare *b;
    struct pci_dev *d;
    char path[32];
    unsigned tail[2], head[2];
    bool phase[2];
    uint32_t dw0;
    uint16_t cid;
};

static uint32_t rd(struct rig *r, unsigned reg)
{
    return (uint32_t)mem_ld(r->b->m->mem, BARE_MMIO + reg, 4);
}
static void wr(struct rig *r, unsigned reg, uint32_t v)
{
    mem_store(r->b->m->mem, BARE_MMIO + reg, 4, v);
}

static void enable(struct rig *r)
{
    wr(r, AQA, (QS - 1) << 16 | (QS - 1));
    wr(r, 0x28, ASQ);
    wr(r, 0x2c, 0);
    wr(r, 0x30, ACQ);
    wr(r, 0x34, 0);
    wr(r, CC, 4 << 20 | 6 << 16 | 1);
    memset(r->b->mem + ACQ, 0, 0x1000);
    memset(r->b->mem + CQ1, 0, 0x1000);
    memset(r->tail, 0, sizeof r->tail);
    memset(r->head, 0, sizeof r->head);
    r->phase[0] = r->phase[1] = true;
}

static void start(struct rig *r, const char *drive, const char *more)
{
    char text[160];
    struct err *e = NULL;
    struct opts *o;
    int fd;

    memset(r, 0, sizeof *r);
    strcpy(r->path, "/tmp/nvme-XXXXXX");
    fd = mkstemp(r->path);
    assert_int_equal(ftruncate(fd, NSIZE), 0);
    assert_int_equal(pwrite(fd, "block five", 10, 5 * 512), 10);
    close(fd);
    r->b = bare_new();
    snprintf(text, sizeof text, "file=%s,format=raw%s", r->path, drive);
    o = opts_parse(text, NULL, NULL);
    if (!blk_drive_add(r->b->blk, "d0", o, &e))
        fail_msg("%s", e->msg);
    opts_free(o);
    snprintf(text, sizeof text, "nvme,id=n,drive=d0,serial=S-77%s", more);
    bare_refuses(r->b, "nvme", "serial");
    bare_refuses(r->b, "nvme,serial=1,mdts=12", "mdts");
    bare_refuses(r->b, "nvme,serial=1,max_ioqpairs=500", "max_ioqpairs");
    r->d = bare_device(r->b, text);
    bare_start(r->b);
    bare_map(r->d, 0, BARE_MMIO);
    assert_int_equal(rd(r, 8), 0x00010400);
    enable(r);
    assert_int_equal(rd(r, CSTS), 1);
}

static void stop(struct rig *r)
{
    unlink(r->path);
    bare_free(r->b);
}

static void put(struct rig *r, unsigned q, const uint8_t *cmd)
{
    memcpy(r->b->mem + (q ? SQ1 : ASQ) + 64 * r->tail[q], cmd, 64);
    r->tail[q] = (r->tail[q] + 1) % QS;
}

static void ring(struct rig *r, unsigned q)
{
    wr(r, 0x1000 + 8 * q, r->tail[q]);
}

/* The next completion's status, -1 when none comes. */
static int reap(struct rig *r, unsigned q)
{
    uint8_t *e = r->b->mem + (q ? CQ1 : ACQ) + 16 * r->head[q];
    int64_t end = clk_now(r->b->run->real) + 2 * NS_PER_SEC;

    while ((e[14] & 1) != r->phase[q] && clk_now(r->b->run->real) < end)
        ev_loop_turn(r->b->run->loop, NS_PER_MS);
    if ((e[14] & 1) != r->phase[q])
        return -1;
    r->dw0 = get_le32(e);
    r->cid = get_le16(e + 12);
    r->head[q] = (r->head[q] + 1) % QS;
    if (!r->head[q])
        r->phase[q] = !r->phase[q];
    wr(r, 0x1004 + 8 * q, r->head[q]);
    return get_le16(e + 14) >> 1 & 0x7ff;
}

static int cmd(struct rig *r, unsigned q, unsigned op, uint32_t nsid, uint64_t prp1, uint64_t prp2, uint32_t dw10,
               uint32_t dw11, uint32_t dw12)
{
    uint8_t c[64] = {(uint8_t)op};

    put_le16(c + 2, (uint16_t)(0x100 + op));
    put_le32(c + 4, nsid);
    put_le64(c + 24, prp1);
    put_le64(c + 32, prp2);
    put_le32(c + 40, dw10);
    put_le32(c + 44, dw11);
    put_le32(c + 48, dw12);
    put(r, q, c);
    ring(r, q);
    return reap(r, q);
}

static void queues(struct rig *r)
{
    assert_int_equal(cmd(r, 0, 5, 0, CQ1, 0, (QS - 1) << 16 | 1, 3, 0), 0);
    assert_int_equal(cmd(r, 0, 1, 0, SQ1, 0, (QS - 1) << 16 | 1, 1 << 16 | 1, 0), 0);
}

/* proves: F-BLK-10, F-STO-02 */
static void it_says_what_it_is(void **state)
{
    struct rig r;
    uint8_t *p;

    start(&r, "", "");
    p = r.b->mem + BUF;
    assert_int_equal(cmd(&r, 0, 6, 0, BUF, 0, 1, 0, 0), 0);
    assert_memory_equal(p + 4, "S-77                ", 20);
    assert_int_equal(p[77], 7);
    assert_int_equal(cmd(&r, 0, 6, 1, BUF, 0, 0, 0, 0), 0);
    assert_int_equal(get_le64(p), NSIZE / 512);
    assert_int_equal(p[130], 9);
    assert_int_equal(cmd(&r, 0, 6, 0, BUF, 0, 2, 0, 0), 0);
    assert_int_equal(get_le32(p), 1);
    assert_int_equal(get_le32(p + 4), 0);
    assert_int_equal(cmd(&r, 0, 6, 1, BUF, 0, 3, 0, 0), 0);
    assert_int_equal(p[0], 3);
    assert_int_equal(cmd(&r, 0, 6, 0, BUF, 0, 0x77, 0, 0), 2);
    assert_int_equal(cmd(&r, 0, 2, 0xffffffff, BUF, 0, 127 << 16 | 2, 0, 0), 0);
    assert_int_equal(get_le16(p + 1), 323);
    assert_int_equal(cmd(&r, 0, 2, 0, BUF, 0, 127 << 16 | 0xc0, 0, 0), 0x109);
    assert_int_equal(cmd(&r, 0, 9, 0, 0, 0, 7, 7 << 16 | 7, 0), 0);
    assert_int_equal(r.dw0, 63 << 16 | 63);
    assert_int_equal(cmd(&r, 0, 10, 0, 0, 0, 6, 0, 0), 0);
    assert_int_equal(r.dw0, 1);
    assert_int_equal(cmd(&r, 0, 0x0d, 0, 0, 0, 0, 0, 0), 1); /* namespace management */
    stop(&r);
}

/* proves: F-BLK-10, F-STO-02 */
static void data_moves_by_prps_and_sgls(void **state)
{
    struct rig r;
    uint8_t *m, back[16384];
    int fd;

    start(&r, "", "");
    m = r.b->mem;
    queues(&r);
    assert_int_equal(cmd(&r, 1, 2, 1, BUF + 0x204, 0, 5, 0, 0), 0);
    assert_string_equal((char *)m + BUF + 0x204, "block five");
    /* four pages and a bit, through a list that begins at the end of a page and goes on in the next */
    for (unsigned i = 0; i < 16384; i++)
        m[BUF + 0x200 + i] = (uint8_t)(i * 7 + i / 256);
    put_le64(m + LIST + 0xff8, LIST + 0x1000);
    for (unsigned i = 0; i < 4; i++)
        put_le64(m + LIST + 0x1000 + 8 * i, BUF + 0x1000 * (i + 1));
    assert_int_equal(cmd(&r, 1, 1, 1, BUF + 0x200, LIST + 0xff8, 100, 0, 31 | 1 << 30), 0);
    fd = open(r.path, O_RDONLY);
    assert_int_equal(pread(fd, back, sizeof back, 51200), sizeof back);
    assert_memory_equal(back, m + BUF + 0x200, sizeof back);
    /* the same by SGL: one segment of two data blocks */
    memset(m + BUF, 0, 0x6000);
    memset(m + LIST, 0, 0x100);
    put_le64(m + LIST, BUF);
    put_le32(m + LIST + 8, 1000);
    put_le64(m + LIST + 16, BUF + 0x4000);
    put_le32(m + LIST + 24, 24);
    {
        uint8_t c[64] = {2, 1 << 6};

        put_le32(c + 4, 1);
        put_le64(c + 24, LIST);
        put_le32(c + 32, 32);
        c[39] = 3 << 4;
        put_le32(c + 40, 100);
        put_le32(c + 48, 1);
        put(&r, 1, c);
        ring(&r, 1);
        assert_int_equal(reap(&r, 1), 0);
        assert_memory_equal(m + BUF, back, 1000);
        assert_memory_equal(m + BUF + 0x4000, back + 1000, 24);
        put_le32(m + LIST + 24, 23); /* too little room */
        put(&r, 1, c);
        ring(&r, 1);
        assert_int_equal(reap(&r, 1), 0xf);
    }
    /* compare, zero, deallocate, flush */
    memcpy(m + BUF, back, 512);
    assert_int_equal(cmd(&r, 1, 5, 1, BUF, 0, 100, 0, 0), 0);
    m[BUF + 511] ^= 1;
    assert_int_equal(cmd(&r, 1, 5, 1, BUF, 0, 100, 0, 0), 0x285);
    assert_int_equal(cmd(&r, 1, 8, 1, 0, 0, 101, 0, 1), 0);
    assert_int_equal(pread(fd, back, 1024, 101 * 512), 1024);
    for (unsigned i = 0; i < 1024; i++)
        assert_int_equal(back[i], 0);
    put_le32(m + BUF + 4, 8);
    put_le64(m + BUF + 8, 104);
    assert_int_equal(cmd(&r, 1, 9, 1, BUF, 0, 0, 4, 0), 0);
    put_le64(m + BUF + 8, NSIZE / 512 - 7);
    assert_int_equal(cmd(&r, 1, 9, 1, BUF, 0, 0, 4, 0), 0x80);
    assert_int_equal(cmd(&r, 1, 0, 1, 0, 0, 0, 0, 0), 0);
    assert_int_equal(cmd(&r, 1, 0, 0xffffffff, 0, 0, 0, 0, 0), 0);
    close(fd);
    stop(&r);
}

/* proves: F-BLK-10 */
static void what_cannot_be_is_refused(void **state)
{
    struct rig r;

    start(&r, ",readonly=on", "");
    queues(&r);
    assert_int_equal(cmd(&r, 1, 2, 1, BUF, 0, NSIZE / 512, 0, 0), 0x80);
    assert_int_equal(cmd(&r, 1, 2, 1, BUF, 0, 0xffffffff, 0xffffffff, 0), 0x80);
    assert_int_equal(cmd(&r, 1, 2, 1, BUF, 0, 0, 0, 1024), 2); /* more than MDTS */
    assert_int_equal(cmd(&r, 1, 2, 1, BUF + 0x800, 0x11, 0, 0, 15), 0x13);
    assert_int_equal(cmd(&r, 1, 2, 1, 0xfffffffffffff000, 0, 0, 0, 7), 4);
    assert_int_equal(cmd(&r, 1, 2, 1, 0x7f0000000000, 0x7f0000001000, 0, 0, 15), 0);
    assert_int_equal(cmd(&r, 1, 2, 2, BUF, 0, 0, 0, 0), 2);
    assert_int_equal(cmd(&r, 1, 2, 0, BUF, 0, 0, 0, 0), 0xb);
    assert_int_equal(cmd(&r, 1, 1, 1, BUF, 0, 0, 0, 0), 0x182);
    assert_int_equal(cmd(&r, 1, 0x99, 1, 0, 0, 0, 0, 0), 1);
    assert_int_equal(cmd(&r, 0, 1, 0, SQ1, 0, (QS - 1) << 16 | 1, 1 << 16 | 1, 0), 0x101);
    assert_int_equal(cmd(&r, 0, 1, 0, SQ1, 0, (QS - 1) << 16 | 2, 9 << 16 | 1, 0), 0x100);
    assert_int_equal(cmd(&r, 0, 5, 0, CQ1, 0, 0xffffu << 16 | 2, 3, 0), 0x102);
    assert_int_equal(cmd(&r, 0, 5, 0, CQ1 + 8, 0, 7 << 16 | 2, 3, 0), 0x13);
    assert_int_equal(cmd(&r, 0, 5, 0, CQ1, 0, 7 << 16 | 65, 3, 0), 0x101);
    assert_int_equal(cmd(&r, 0, 5, 0, CQ1, 0, 7 << 16 | 2, 1 << 16 | 3, 0), 0x108);
    assert_int_equal(cmd(&r, 0, 4, 0, 0, 0, 1, 0, 0), 0x10c); /* its submission queue is there */
    assert_int_equal(cmd(&r, 0, 0, 0, 0, 0, 1, 0, 0), 0);
    assert_int_equal(cmd(&r, 0, 4, 0, 0, 0, 1, 0, 0), 0);
    bare_refuses(r.b, "nvme-ns,bus=n", "drive");
    stop(&r);
}

/* A doorbell that names nothing is an event; a full completion queue holds what is done, losing nothing. */
static void events_and_full_queues(void **state)
{
    struct rig r;
    uint8_t c[64] = {2};
    unsigned seen = 0;

    start(&r, "", "");
    memset(c, 0, sizeof c);
    c[0] = 0x0c;
    put_le16(c + 2, 0x77);
    put(&r, 0, c);
    ring(&r, 0);
    wr(&r, 0x1000 + 8 * 9, 3);
    assert_int_equal(reap(&r, 0), 0);
    assert_int_equal(r.cid, 0x77);
    assert_int_equal(r.dw0, 1 << 16);
    queues(&r);
    memset(c, 0, sizeof c);
    c[0] = 2;
    put_le32(c + 4, 1);
    put_le64(c + 24, BUF);
    for (unsigned round = 0; round < 3; round++) { /* 21 commands, nothing taken: room for 7 */
        for (unsigned i = 0; i < QS - 1; i++) {
            put_le16(c + 2, (uint16_t)(round * 7 + i));
            put(&r, 1, c);
        }
        ring(&r, 1);
        bare_turns(r.b, 20);
    }
    while (reap(&r, 1) == 0)
        seen++;
    assert_int_equal(seen, 21);
    stop(&r);
}

/* proves: F-BLK-10 */
static void it_can_be_reset_in_the_middle(void **state)
{
    struct rig r;
    uint8_t c[64] = {2};

    start(&r, "", "");
    for (unsigned round = 0; round < 20; round++) {
        queues(&r);
        put_le32(c + 4, 1);
        put_le64(c + 24, BUF);
        for (unsigned i = 0; i < 7; i++)
            put(&r, 1, c);
        ring(&r, 1);
        bare_turns(r.b, round % 3);
        wr(&r, CC, 0);
        for (unsigned i = 0; i < 1000 && rd(&r, CSTS) & 1; i++)
            bare_turns(r.b, 1);
        assert_int_equal(rd(&r, CSTS), 0);
        enable(&r);
        assert_int_equal(rd(&r, CSTS), 1);
    }
    wr(&r, CC, rd(&r, CC) | 1 << 14);
    for (unsigned i = 0; i < 5000 && (rd(&r, CSTS) & 0xc) == 4; i++)
        bare_turns(r.b, 1);
    assert_int_equal(rd(&r, CSTS) & 0xc, 8);
    wr(&r, CC, 0);
    wr(&r, CC, 0x7f1); /* a page size and a command set it does not have */
    assert_int_equal(rd(&r, CSTS) & 3, 2);
    stop(&r);
}

static uint64_t seed = 88172645463325252;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* A field of a command: small, an address of ours, near the top, or anything. */
static uint64_t field(void)
{
    switch (rnd() % 6) {
    case 0:
        return rnd() & 0xff;
    case 1:
        return BUF + (rnd() & 0x1ffff);
    case 2:
        return BUF + (rnd() & 0x1f000);
    case 3:
        return 0;
    case 4:
        return ~UINT64_C(0) - (rnd() & 0xffff);
    default:
        return rnd();
    }
}

/* Commands made of noise, shadow doorbells included, neither crash nor stop the controller from starting again. */
static void noise_is_survived(void **state)
{
    static const uint8_t admin[] = {0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 0x7c}, io[] = {0, 1, 2, 5, 8, 9};
    struct rig r;

    start(&r, "", ",max_ioqpairs=4");
    for (unsigned round = 0; round < 300; round++) {
        queues(&r);
        for (unsigned i = 0; i < 24; i++) {
            unsigned q = rnd() % 3 != 0;
            uint8_t c[64];

            for (unsigned k = 0; k < 64; k += 8)
                put_le64(c + k, field());
            for (unsigned k = 0; k < 512; k += 8)
                put_le64(r.b->mem + BUF + (rnd() & 0x1fff8), field());
            if (rnd() % 8)
                c[0] = q ? io[rnd() % sizeof io] : admin[rnd() % sizeof admin];
            c[1] = rnd() % 4 ? 0 : 1 << 6;
            if (rnd() % 4)
                put_le32(c + 4, 1);
            if (rnd() % 2) {
                put_le32(c + 40, rnd() % 2100);
                put_le32(c + 44, rnd() % 8);
                put_le32(c + 48, rnd() & 0x3f);
            }
            memcpy(r.b->mem + (q ? SQ1 : ASQ) + 64 * r.tail[q], c, 64);
            r.tail[q] = (r.tail[q] + 1) % QS;
            ring(&r, q);
            if (rnd() % 3 == 0)
                wr(&r, 0x1000 + 4 * (rnd() % 12), rnd() % 12);
            if (rnd() % 16 == 0)
                wr(&r, (unsigned)(rnd() % 16) * 4, (uint32_t)rnd());
            if (rnd() % 4 == 0)
                bare_turns(r.b, 1);
        }
        bare_turns(r.b, 3);
        wr(&r, CC, 0);
        for (unsigned i = 0; i < 1000 && rd(&r, CSTS) & 1; i++)
            bare_turns(r.b, 1);
        assert_int_equal(rd(&r, CSTS) & 1, 0);
        wr(&r, 0xc, 0);
        enable(&r);
    }
    assert_int_equal(rd(&r, CSTS) & 1, 1);
    assert_int_equal(cmd(&r, 0, 6, 0, BUF, 0, 1, 0, 0), 0);
    stop(&r);
}

UNIT_MAIN(cmocka_unit_test(it_says_what_it_is), cmocka_unit_test(data_moves_by_prps_and_sgls),
          cmocka_unit_test(what_cannot_be_is_refused), cmocka_unit_test(events_and_full_queues),
          cmocka_unit_test(it_can_be_reset_in_the_middle), cmocka_unit_test(noise_is_survived))
