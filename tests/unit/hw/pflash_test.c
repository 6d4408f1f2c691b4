/* Command-set-1 flash: what OVMF does to it, and that the bytes reach the file.
 * proves: F-FW-03 */
#include "unit.h"

#include "base/bytes.h"
#include "blk/blk.h"
#include "dev/dev.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { SIZE = 64 << 10, SECTOR = 4096, BASE = 0x10000000 };

struct rig {
    struct run *run;
    struct machine *m;
    struct blk_set *set;
    struct blk *blk;
    struct dev *d;
    char path[64];
};

static struct rig *rig_new(const char *extra)
{
    struct rig *r = xnew(struct rig);
    uint8_t image[SIZE];
    struct opts *o;
    char *text;
    int fd;

    strcpy(r->path, "/tmp/pflash-XXXXXX");
    fd = mkstemp(r->path);
    memset(image, 0xff, sizeof image);
    memcpy(image, "flash", 5);
    assert_int_equal(write(fd, image, sizeof image), sizeof image);
    close(fd);
    r->run = run_new();
    r->m = machine_new(r->run);
    r->set = blk_set_new(r->run);
    blk_set_bind(r->set, r->m);
    text = xasprintf("file=%s,format=raw%s", r->path, extra);
    o = opts_parse(text, NULL, NULL);
    r->blk = blk_drive_add(r->set, "vars", o, NULL);
    assert_non_null(r->blk);
    opts_free(o);
    free(text);
    r->d = dev_new(r->m, "cfi.pflash01", NULL);
    dev_prop(r->d, "drive", "vars");
    dev_prop_u64(r->d, "num-blocks", SIZE / SECTOR);
    dev_prop_u64(r->d, "sector-length", SECTOR);
    assert_true(dev_realize(r->d, NULL, NULL, NULL));
    dev_map_mmio(r->d, 0, BASE);
    machine_reset(r->m);
    return r;
}

static void rig_free(struct rig *r)
{
    mem_region_del(r->d->mmio[0]);
    machine_free(r->m);
    blk_set_free(r->set);
    run_free(r->run);
    unlink(r->path);
    free(r);
}

static void wr(struct rig *r, unsigned off, uint8_t v)
{
    mem_store(r->m->mem, BASE + off, 1, v);
}

static uint8_t rd(struct rig *r, unsigned off)
{
    return (uint8_t)mem_ld(r->m->mem, BASE + off, 1);
}

static void program(struct rig *r, unsigned off, uint8_t v)
{
    wr(r, off, 0x10);
    wr(r, off, v);
}

static void firmware_tells_flash_from_rom_and_ram(void **state)
{
    struct rig *r = rig_new("");

    wr(r, 8, 0x50); /* Clear Status: RAM would read back 50h */
    assert_int_equal(rd(r, 8), 0xff);
    wr(r, 8, 0x70); /* Read Status: ROM would still read ffh */
    assert_int_equal(rd(r, 8), 0);
    wr(r, 8, 0xff);
    assert_int_equal(rd(r, 0), 'f');
    rig_free(r);
}

static void programming_clears_bits_and_erasing_sets_them(void **state)
{
    struct rig *r = rig_new("");

    program(r, 0x1000, 0xa5);
    assert_int_equal(rd(r, 0) & 0x80, 0x80);
    wr(r, 0, 0xff);
    assert_int_equal(rd(r, 0x1000), 0xa5);
    program(r, 0x1000, 0x5f);
    wr(r, 0, 0xff);
    assert_int_equal(rd(r, 0x1000), 0x05);
    wr(r, 0x1234, 0x20);
    wr(r, 0x1234, 0xd0);
    wr(r, 0, 0xff);
    assert_int_equal(rd(r, 0x1000), 0xff);
    assert_int_equal(rd(r, 0), 'f');
    rig_free(r);
}

static void a_buffered_write_lands_whole(void **state)
{
    struct rig *r = rig_new("");

    wr(r, 0x2000, 0xe8);
    assert_int_equal(rd(r, 0x2000) & 0x80, 0x80);
    wr(r, 0x2000, 3);
    for (unsigned i = 0; i < 4; i++)
        wr(r, 0x2000 + i, (uint8_t)(i + 1));
    wr(r, 0x2000, 0xd0);
    wr(r, 0, 0xff);
    assert_int_equal(mem_ld(r->m->mem, BASE + 0x2000, 4), 0x04030201);
    assert_int_equal(rd(r, 0x2004), 0xff);
    rig_free(r);
}

static void writes_reach_the_file(void **state)
{
    struct rig *r = rig_new("");
    uint8_t b[2] = {0};
    int fd;

    program(r, 0x3000, 0x12);
    program(r, 0x3001, 0x34);
    blk_drain(r->blk);
    blk_drain(r->blk); /* the second batch waited for the first */
    fd = open(r->path, O_RDONLY);
    assert_int_equal(pread(fd, b, 2, 0x3000), 2);
    close(fd);
    assert_int_equal(b[0], 0x12);
    assert_int_equal(b[1], 0x34);
    rig_free(r);
}

static void a_read_only_image_reports_errors(void **state)
{
    struct rig *r = rig_new(",readonly=on");

    program(r, 0x1000, 0);
    assert_int_equal(rd(r, 0) & 0x90, 0x90);
    wr(r, 0, 0x50);
    wr(r, 0, 0x20);
    wr(r, 0, 0xd0);
    assert_int_equal(rd(r, 0) & 0xa0, 0xa0);
    wr(r, 0, 0xff);
    assert_int_equal(rd(r, 0x1000), 0xff);
    assert_int_equal(rd(r, 0), 'f');
    rig_free(r);
}

static void the_query_table_says_what_it_is(void **state)
{
    struct rig *r = rig_new("");

    wr(r, 0x55, 0x98);
    assert_int_equal(rd(r, 0x10), 'Q');
    assert_int_equal(rd(r, 0x11), 'R');
    assert_int_equal(rd(r, 0x12), 'Y');
    assert_int_equal(rd(r, 0x13), 1);
    assert_int_equal(1u << rd(r, 0x27), SIZE);
    assert_int_equal(rd(r, 0x2d), SIZE / SECTOR - 1);
    wr(r, 0, 0x90);
    assert_int_equal(rd(r, 0), 0x89);
    wr(r, 0, 0xff);
    rig_free(r);
}

UNIT_MAIN(cmocka_unit_test(firmware_tells_flash_from_rom_and_ram),
          cmocka_unit_test(programming_clears_bits_and_erasing_sets_them),
          cmocka_unit_test(a_buffered_write_lands_whole), cmocka_unit_test(writes_reach_the_file),
          cmocka_unit_test(a_read_only_image_reports_errors), cmocka_unit_test(the_query_table_says_what_it_is))
