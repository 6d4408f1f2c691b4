/* The SD host controller and a card by hand: identification, blocks through the port and by DMA, erasing, what is
 * refused, a card that cannot be written, and noise in every register. */
#include "hw/pci_bare.h"

#include <fcntl.h>
#include <unistd.h>

enum { SIZE = 1 << 20, BUF = 0x20000 };
enum { R1 = 0x1a, R1B = 0x1b, R2 = 0x09, R3 = 0x02, DATA = 0x20 };

struct rig {
    struct bare *b;
    struct pci_dev *d;
    char path[32];
    uint32_t rca;
};

static uint32_t rd(struct rig *r, unsigned reg, unsigned size)
{
    return (uint32_t)mem_ld(r->b->m->mem, BARE_MMIO + reg, size);
}
static void wr(struct rig *r, unsigned reg, uint32_t v, unsigned size)
{
    mem_store(r->b->m->mem, BARE_MMIO + reg, size, v);
}

static void start(struct rig *r, const char *more)
{
    char text[160];
    struct err *e = NULL;
    struct opts *o;
    int fd;

    memset(r, 0, sizeof *r);
    strcpy(r->path, "/tmp/sd-XXXXXX");
    fd = mkstemp(r->path);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    assert_int_equal(pwrite(fd, "block five", 10, 5 * 512), 10);
    close(fd);
    r->b = bare_new();
    snprintf(text, sizeof text, "file=%s,format=raw%s", r->path, more);
    o = opts_parse(text, NULL, NULL);
    if (!blk_drive_add(r->b->blk, "d0", o, &e))
        fail_msg("%s", e->msg);
    opts_free(o);
    r->d = bare_device(r->b, "sdhci-pci,id=h");
    bare_refuses(r->b, "sd-card", "drive");
    bare_device(r->b, "sd-card,drive=d0");
    bare_start(r->b);
    bare_map(r->d, 0, BARE_MMIO);
    assert_int_equal(rd(r, 0xfe, 2), 1);
    wr(r, 0x34, 0xffffffff, 4);
    wr(r, 0x38, 0xffffffff, 4);
    wr(r, 0x2c, 5, 2);
    assert_int_equal(rd(r, 0x2c, 2), 7);
}

static void stop(struct rig *r)
{
    bare_free(r->b);
    unlink(r->path);
}

/* Waits for these bits of the two status registers; gives all that were set, and clears them. */
static uint32_t wait_for(struct rig *r, uint32_t bits)
{
    int64_t end = clk_now(r->b->run->real) + 5 * NS_PER_SEC;
    uint32_t v;

    while (!((v = rd(r, 0x30, 4)) & (bits | 0xffff0000)) && clk_now(r->b->run->real) < end)
        ev_loop_turn(r->b->run->loop, NS_PER_MS);
    assert_int_equal(r->b->irq, v != 0);
    wr(r, 0x30, v, 4);
    assert_int_equal(r->b->irq, 0);
    return v;
}

/* The answer's lowest word; UINT32_MAX: there was none. */
static uint32_t cmd(struct rig *r, unsigned nr, uint32_t arg, unsigned flags, unsigned mode)
{
    wr(r, 0x08, arg, 4);
    wr(r, 0x0c, nr << 24 | flags << 16 | mode, 4);
    if (rd(r, 0x30, 4) >> 16) {
        wait_for(r, 0);
        return UINT32_MAX;
    }
    assert_int_equal(rd(r, 0x30, 2) & 1, 1);
    wr(r, 0x30, 1, 2);
    return rd(r, 0x10, 4);
}

static void identify(struct rig *r)
{
    cmd(r, 0, 0, 0, 0);
    assert_int_equal(cmd(r, 8, 0x1aa, R1, 0), 0x1aa);
    assert_int_equal(cmd(r, 5, 0, R3, 0), UINT32_MAX); /* no SDIO */
    cmd(r, 55, 0, R1, 0);
    assert_int_equal(cmd(r, 41, 0x40ff8000, R3, 0), 0xc0ff8000);
    cmd(r, 2, 0, R2, 0);
    assert_int_equal(rd(r, 0x1c, 4) & 0xffffff, 0xaa4c59);
    r->rca = cmd(r, 3, 0, R1, 0) & 0xffff0000;
    assert_true(r->rca != 0);
    cmd(r, 9, r->rca, R2, 0);
    assert_int_equal(rd(r, 0x14, 4) >> 8 & 0x3fffff, SIZE / (512 << 10) - 1); /* C_SIZE */
    assert_int_equal(cmd(r, 7, r->rca, R1B, 0) & 0xe00, 0x600);               /* was in stand-by */
    assert_int_equal(wait_for(r, 2) & 0xffff0002, 2);
    assert_int_equal(cmd(r, 13, r->rca, R1, 0) & 0xe00, 0x800); /* transfer state */
}

static void port_read(struct rig *r, uint8_t *buf, unsigned len)
{
    assert_int_equal(wait_for(r, 0x20) & 0xffff0020, 0x20);
    for (unsigned i = 0; i < len; i += 4)
        put_le32(buf + i, rd(r, 0x20, 4));
}

static void blocks_move_through_the_port(void **state)
{
    struct rig r;
    uint8_t buf[512], scr[8];

    start(&r, "");
    identify(&r);
    wr(&r, 0x04, 8, 2);
    cmd(&r, 55, r.rca, R1, 0);
    cmd(&r, 51, 0, R1 | DATA, 0x10);
    port_read(&r, scr, 8);
    assert_int_equal(scr[0] << 8 | scr[1], 0x0205);
    assert_int_equal(wait_for(&r, 2) & 2, 2);
    wr(&r, 0x04, 512, 2);
    cmd(&r, 17, 5, R1 | DATA, 0x10);
    port_read(&r, buf, 512);
    assert_memory_equal(buf, "block five", 10);
    assert_int_equal(wait_for(&r, 2) & 2, 2);
    assert_int_equal(rd(&r, 0x24, 4) & 0xf0002, 0xf0000); /* inserted, writable, idle */
    cmd(&r, 24, 7, R1 | DATA, 0);
    assert_int_equal(wait_for(&r, 0x10) & 0x10, 0x10);
    for (unsigned i = 0; i < 512; i += 4)
        wr(&r, 0x20, 0x01010101 * (i / 4), 4);
    assert_int_equal(wait_for(&r, 2) & 0xffff0002, 2);
    assert_int_equal(blk_read(blk_find(r.b->blk, "d0"), 7 * 512, buf, 512), 0);
    assert_int_equal(buf[511], 127);
    stop(&r);
}

/* 48 blocks from the middle of a page, so that the buffer boundary stops the transfer on its way. */
static void many_blocks_move_by_dma(void **state)
{
    struct rig r;
    uint8_t buf[48 * 512];
    uint32_t s, stops = 0;

    start(&r, "");
    identify(&r);
    for (unsigned i = 0; i < sizeof buf; i++)
        r.b->mem[BUF + 0x200 + i] = (uint8_t)(i * 7 + i / 512);
    for (int read = 0; read < 2; read++) {
        if (read)
            memset(r.b->mem + BUF, 0, 0x10000);
        wr(&r, 0x00, BUF + 0x200, 4);
        wr(&r, 0x04, 48 << 16 | 512, 4); /* boundary: 4 KiB */
        cmd(&r, read ? 18 : 25, 100, R1 | DATA, 0x27 | (read ? 0x10 : 0));
        while (!((s = wait_for(&r, 0xa)) & 2)) {
            assert_int_equal(s & 0xffff0008, 8);
            stops++;
            wr(&r, 0x00, rd(&r, 0x00, 4), 4);
        }
        assert_int_equal(s >> 16, 0);
        assert_int_equal(rd(&r, 0x06, 2), 0);
        assert_int_equal(cmd(&r, 13, r.rca, R1, 0) & 0xe00, 0x800); /* Auto CMD12 has ended it */
    }
    assert_int_equal(stops, 12);
    assert_int_equal(blk_read(blk_find(r.b->blk, "d0"), 100 * 512, buf, sizeof buf), 0);
    for (unsigned i = 0; i < sizeof buf; i++)
        assert_int_equal(buf[i], (uint8_t)(i * 7 + i / 512));
    assert_memory_equal(r.b->mem + BUF + 0x200, buf, sizeof buf);
    stop(&r);
}

static void blocks_are_erased(void **state)
{
    struct rig r;
    uint8_t buf[512], zero[512] = {0};

    start(&r, "");
    identify(&r);
    assert_int_equal(cmd(&r, 38, 0, R1B, 0) >> 28 & 1, 1); /* nothing was named */
    wait_for(&r, 2);
    cmd(&r, 32, 5, R1, 0);
    cmd(&r, 33, 5, R1, 0);
    cmd(&r, 38, 0, R1B, 0);
    assert_int_equal(wait_for(&r, 2) & 0xffff0002, 2);
    assert_int_equal(blk_read(blk_find(r.b->blk, "d0"), 5 * 512, buf, 512), 0);
    assert_memory_equal(buf, zero, 512);
    cmd(&r, 32, 9, R1, 0);
    cmd(&r, 33, SIZE / 512, R1, 0);
    assert_int_equal(cmd(&r, 38, 0, R1B, 0) >> 27 & 1, 1); /* past the end */
    stop(&r);
}

static void what_cannot_be_is_refused(void **state)
{
    struct rig r;

    start(&r, ",readonly=on");
    identify(&r);
    assert_int_equal(rd(&r, 0x24, 4) & 0x80000, 0);
    wr(&r, 0x04, 512, 2);
    cmd(&r, 24, 7, R1 | DATA, 0);
    assert_true(rd(&r, 0x10, 4) & 1u << 26); /* WP_VIOLATION */
    cmd(&r, 17, SIZE / 512, R1 | DATA, 0x10);
    assert_true(rd(&r, 0x10, 4) & 1u << 31); /* OUT_OF_RANGE */
    wr(&r, 0x30, 0xffffffff, 4);
    assert_int_equal(cmd(&r, 6, 0xffffff, R1, 0), UINT32_MAX);
    assert_true(cmd(&r, 13, r.rca, R1, 0) & 1u << 22); /* ILLEGAL_COMMAND, told once */
    assert_false(cmd(&r, 13, r.rca, R1, 0) & 1u << 22);
    /* a transfer past the end of the card stops there */
    wr(&r, 0x00, BUF, 4);
    wr(&r, 0x04, 8 << 16 | 7 << 12 | 512, 4);
    assert_int_equal(cmd(&r, 18, SIZE / 512 - 4, R1 | DATA, 0x37), UINT32_MAX);
    wr(&r, 0x2f, 4, 1);
    cmd(&r, 12, 0, R1B, 0);
    wait_for(&r, 2);
    stop(&r);
}

static void noise_is_survived(void **state)
{
    static const uint8_t hot[] = {0x00, 0x04, 0x06, 0x08, 0x0c, 0x0e, 0x20, 0x2c, 0x2f, 0x30, 0x03};
    uint64_t seed = 88172645463325252;
    struct rig r;

    start(&r, "");
    identify(&r);
    for (unsigned i = 0; i < 200000; i++) {
        unsigned size = 1u << (seed >> 20 & 1 ? 2 : seed >> 21 & 1), reg;
        uint32_t v;

        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        reg = (seed & 7 ? hot[seed >> 8 & 0xff ? (seed >> 8) % sizeof hot : 0] : (unsigned)(seed >> 8) & 0xff) &
              ~(size - 1);
        v = (uint32_t)(seed >> 32);
        if (reg == 0x0c && seed & 8) { /* a command that exists, with an argument that makes sense */
            static const uint8_t cmds[] = {0, 8, 55, 41, 2, 3, 7, 9, 13, 12, 17, 18, 24, 25, 32, 33, 38, 51, 13, 22};

            wr(&r, 0x04, (v & 15) << 16 | (v & 0x7000) | 512, 4);
            wr(&r, 0x08, seed & 16 ? r.rca | (v & 0xff) : v & 0x7ff, 4);
            wr(&r, 0x0c, (uint32_t)cmds[v % sizeof cmds] << 24 | (v & 0x23) << 16 | (v >> 8 & 0x37), 4);
        } else if (seed & 32) {
            wr(&r, reg, v, size);
        } else {
            rd(&r, reg, size);
        }
        if (i % 64 == 0)
            ev_loop_turn(r.b->run->loop, 0);
        if (i % 4096 == 0) { /* back to a card that works */
            wr(&r, 0x2f, 1, 1);
            bare_turns(r.b, 20);
            wr(&r, 0x34, 0xffffffff, 4);
            wr(&r, 0x38, 0xffffffff, 4);
            wr(&r, 0x30, 0xffffffff, 4);
            identify(&r);
        }
    }
    stop(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_move_through_the_port),
        cmocka_unit_test(many_blocks_move_by_dma),
        cmocka_unit_test(blocks_are_erased),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(noise_is_survived),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
