/* The floppy controller by its ports: reset, seeks, reading and writing by DMA and by the data register, errors, a
 * changed disk, and noise. */
#include "rig.h"

#include "blk/blk.h"
#include "hw/block/fdc.h"
#include <fcntl.h>
#include <unistd.h>

enum { DOR = 0x3f2, MSR = 0x3f4, FIFO = 0x3f5, DIR = 0x3f7, BUF = 0x8000 };

struct fix {
    struct rig *r;
    struct blk_set *set;
    struct blk *blk;
    char path[32];
    uint8_t res[10];
};

static void open_fix(struct fix *f, uint64_t size, const char *more)
{
    struct err *e = NULL;
    struct dev *d;
    struct opts *o;
    char *text;
    int fd;

    memset(f, 0, sizeof *f);
    strcpy(f->path, "/tmp/fdc-XXXXXX");
    fd = mkstemp(f->path);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(pwrite(fd, "sector twenty", 13, 20 * 512), 13);
    close(fd);
    f->r = rig_new();
    f->set = blk_set_new(f->r->run);
    blk_set_bind(f->set, f->r->m);
    text = xasprintf("file=%s,format=raw%s", f->path, more);
    o = opts_parse(text, NULL, NULL);
    f->blk = blk_drive_add(f->set, "d0", o, &e);
    assert_non_null(f->blk);
    opts_free(o);
    free(text);
    d = dev_new(f->r->m, "isa-fdc", &e);
    assert_true(dev_realize(d, &f->r->south.isa->bus, "fdc", &e));
    assert_true(dev_realize(dev_new(f->r->m, "floppy", &e), list_first(&d->buses, struct bus, sib), NULL, &e) || !e);
    o = opts_parse("floppy,bus=fdc.0,unit=1,drive=d0", "driver", &e);
    assert_non_null(dev_create(f->r->m, o, &e));
    opts_free(o);
    assert_int_equal(fdc_cmos_type(d, 1), size > 1474560 ? 5 : 4);
    machine_reset(f->r->m);
}

static void close_fix(struct fix *f)
{
    unlink(f->path);
    f->r->m->state = RS_PAUSED;
    machine_free(f->r->m);
    blk_set_free(f->set);
    run_free(f->r->run);
    free(f->r);
}

/* Guest time and the image's completions both go on. */
static void go(struct fix *f, unsigned n)
{
    while (n--) {
        step(f->r, 200000);
        ev_loop_turn(f->r->run->loop, NS_PER_MS / 10);
    }
}

static void send(struct fix *f, const uint8_t *p, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(inb(f->r, MSR) & 0xc0, 0x80);
        outb(f->r, FIFO, p[i]);
    }
}
#define SEND(f, ...)                                                                                                   \
    do {                                                                                                               \
        const uint8_t c_[] = {__VA_ARGS__};                                                                            \
        send(f, c_, sizeof c_);                                                                                        \
    } while (0)

/* Waits for the result and takes it; its length. */
static unsigned take_result(struct fix *f)
{
    unsigned n = 0;

    for (unsigned i = 0; i < 20000 && (inb(f->r, MSR) & 0xd0) != 0xd0; i++)
        go(f, 1);
    while ((inb(f->r, MSR) & 0xd0) == 0xd0 && n < sizeof f->res)
        f->res[n++] = inb(f->r, FIFO);
    return n;
}

static void program_dma(struct fix *f, uint16_t at, uint16_t len, bool to_memory)
{
    outb(f->r, 0x0a, 6);
    outb(f->r, 0x0c, 0);
    outb(f->r, 0x0b, to_memory ? 0x46 : 0x4a);
    outb(f->r, 0x04, (uint8_t)at), outb(f->r, 0x04, (uint8_t)(at >> 8));
    outb(f->r, 0x05, (uint8_t)(len - 1)), outb(f->r, 0x05, (uint8_t)((len - 1) >> 8));
    outb(f->r, 0x81, 0);
    outb(f->r, 0x0a, 2);
}

static void start(struct fix *f)
{
    outb(f->r, DOR, 0);
    outb(f->r, DOR, 0x2d);
    go(f, 2);
    for (unsigned i = 0; i < 4; i++) {
        SEND(f, 0x08);
        assert_int_equal(take_result(f), 2);
        assert_int_equal(f->res[0], 0xc0 | i);
    }
    SEND(f, 0x08);
    assert_int_equal(take_result(f), 1);
    assert_int_equal(f->res[0], 0x80);
    SEND(f, 3, 0xaf, 2);
    SEND(f, 0x07, 1);
    go(f, 2);
    SEND(f, 0x08);
    assert_int_equal(take_result(f), 2);
    assert_int_equal(f->res[0], 0x21);
    assert_int_equal(f->res[1], 0);
}

/* proves: F-MCH-02 */
static void sectors_move_by_dma(void **state)
{
    struct fix f;
    uint8_t buf[1024];
    int fd;

    open_fix(&f, 1474560, "");
    start(&f);
    program_dma(&f, BUF, 1024, true); /* sector 20 is head 1, sector 3 */
    SEND(&f, 0xe6, 5, 0, 1, 3, 2, 18, 0x1b, 0xff);
    assert_int_equal(take_result(&f), 7);
    assert_int_equal(f.res[0], 5);
    assert_int_equal(f.res[1], 0);
    assert_int_equal(f.res[5], 5);
    mem_read(f.r->m->mem, BUF, buf, 13);
    assert_memory_equal(buf, "sector twenty", 13);
    /* written across the heads */
    for (unsigned i = 0; i < sizeof buf; i++)
        buf[i] = (uint8_t)(i * 3 + i / 256);
    mem_write(f.r->m->mem, BUF, buf, sizeof buf);
    program_dma(&f, BUF, 1024, false);
    SEND(&f, 0xc5, 1, 0, 0, 18, 2, 18, 0x1b, 0xff);
    assert_int_equal(take_result(&f), 7);
    assert_int_equal(f.res[0] & 0xc0, 0);
    assert_int_equal(f.res[4], 1);
    assert_int_equal(f.res[5], 2);
    fd = open(f.path, O_RDONLY);
    memset(buf, 0, 512);
    assert_int_equal(pread(fd, buf, 512, 17 * 512), 512);
    assert_int_equal(buf[5], 15);
    assert_int_equal(pread(fd, buf, 512, 18 * 512), 512);
    assert_int_equal(buf[5], (uint8_t)(517 * 3 + 2));
    /* formatted: one sector of the second track's IDs by DMA */
    SEND(&f, 0x0f, 1, 1);
    go(&f, 2);
    SEND(&f, 0x08);
    take_result(&f);
    mem_write(f.r->m->mem, BUF, (const uint8_t[]){1, 0, 1, 2, 1, 0, 2, 2}, 8);
    program_dma(&f, BUF, 8, false);
    SEND(&f, 0x4d, 1, 2, 2, 0x54, 0xf6);
    assert_int_equal(take_result(&f), 7);
    assert_int_equal(f.res[0] & 0xc0, 0);
    assert_int_equal(pread(fd, buf, 1024, 36 * 512), 1024);
    assert_int_equal(buf[0], 0xf6);
    assert_int_equal(buf[1023], 0xf6);
    close(fd);
    close_fix(&f);
}

static void sectors_move_by_the_data_register(void **state)
{
    struct fix f;
    char back[14] = "";

    open_fix(&f, 1474560, "");
    start(&f);
    SEND(&f, 3, 0xaf, 3);
    SEND(&f, 0x46, 5, 0, 1, 3, 2, 3, 0x1b, 0xff);
    for (unsigned i = 0; i < 512; i++) {
        for (unsigned k = 0; k < 20000 && (inb(f.r, MSR) & 0xe0) != 0xe0; k++)
            go(&f, 1);
        uint8_t v = inb(f.r, FIFO);
        if (i < 13)
            back[i] = (char)v;
    }
    assert_string_equal(back, "sector twenty");
    assert_int_equal(take_result(&f), 7);
    assert_int_equal(f.res[1], 0x80); /* no terminal count without DMA: the end of the cylinder */
    close_fix(&f);
}

static void what_is_not_there_is_said(void **state)
{
    struct fix f;

    open_fix(&f, 1474560, ",readonly=on");
    start(&f);
    program_dma(&f, BUF, 512, true);
    SEND(&f, 0x46, 1, 0, 0, 19, 2, 19, 0x1b, 0xff); /* sector 19 of 18 */
    assert_int_equal(take_result(&f), 7);
    assert_int_equal(f.res[0] & 0xc0, 0x40);
    assert_int_equal(f.res[1], 4);
    SEND(&f, 0x46, 1, 3, 0, 1, 2, 18, 0x1b, 0xff); /* the head is elsewhere */
    assert_int_equal(take_result(&f), 7);
    assert_int_equal(f.res[2], 0x10);
    SEND(&f, 0x46, 0, 0, 0, 1, 2, 18, 0x1b, 0xff); /* an empty drive */
    assert_int_equal(take_result(&f), 7);
    assert_int_equal(f.res[1], 1);
    program_dma(&f, BUF, 512, false);
    SEND(&f, 0x45, 1, 0, 0, 1, 2, 18, 0x1b, 0xff);
    assert_int_equal(take_result(&f), 7);
    assert_int_equal(f.res[1], 2);
    SEND(&f, 4, 1);
    assert_int_equal(take_result(&f), 1);
    assert_int_equal(f.res[0] & 0x50, 0x50); /* write-protected, at track 0 */
    outb(f.r, DIR, 2);                       /* the wrong rate for the disk */
    SEND(&f, 0x4a, 1);
    assert_int_equal(take_result(&f), 7);
    assert_int_equal(f.res[1], 1);
    outb(f.r, DIR, 0);
    SEND(&f, 0x4a, 1);
    assert_int_equal(take_result(&f), 7);
    assert_int_equal(f.res[0] & 0xc0, 0);
    SEND(&f, 0x1f);
    assert_int_equal(take_result(&f), 1);
    assert_int_equal(f.res[0], 0x80);
    assert_int_equal(inb(f.r, DIR) & 0x80, 0);
    assert_true(blk_eject(f.blk, true, NULL));
    assert_int_equal(inb(f.r, DIR) & 0x80, 0x80);
    close_fix(&f);
}

static uint64_t seed = 88172645463325252;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void noise_is_survived(void **state)
{
    static const uint8_t ops[] = {0xe6, 0xc5, 0x46, 0x45, 0x4d, 0x07, 0x08, 0x0f, 0x03,
                                  0x56, 0x42, 0x4c, 0x8f, 0x13, 0x94, 0x0e, 0x4a};
    struct fix f;

    open_fix(&f, 1474560, "");
    for (unsigned i = 0; i < 30000; i++) {
        uint64_t what = rnd() % 20;

        if (what < 12)
            outb(f.r, FIFO, rnd() % 3 ? (uint8_t)(rnd() % 20) : rnd() % 2 ? ops[rnd() % sizeof ops] : (uint8_t)rnd());
        else if (what < 16)
            inb(f.r, (uint16_t)(0x3f0 + rnd() % 8));
        else if (what == 16)
            outb(f.r, (uint16_t)(0x3f0 + rnd() % 8), (uint8_t)rnd());
        else if (what == 17)
            program_dma(&f, (uint16_t)rnd(), (uint16_t)(rnd() % 2048 + 1), rnd() & 1);
        else if (what == 18)
            outb(f.r, DOR, 0x2d);
        else
            go(&f, 1);
    }
    outb(f.r, DIR, 0);
    start(&f);
    close_fix(&f);
}

UNIT_MAIN(cmocka_unit_test(sectors_move_by_dma), cmocka_unit_test(sectors_move_by_the_data_register),
          cmocka_unit_test(what_is_not_there_is_said), cmocka_unit_test(noise_is_survived))
