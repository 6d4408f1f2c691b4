/* fw_cfg through its ports and DMA, as firmware uses it.
 * proves: F-FW-01 */
#include "unit.h"

#include "base/bytes.h"
#include "hw/nvram/fw_cfg.h"

enum {
    RAM_SIZE = 1 << 20,
    REQ = 0x1000,
    BUF = 0x2000,
    SELECT_READ = 0x0a,
    SELECT_WRITE = 0x18,
    SKIP = 0x04,
    READ = 0x02
};

struct rig {
    struct run *run;
    struct machine *m;
    struct mem_region ram;
    uint8_t *mem;
    struct fw_cfg *f;
};

static struct rig *rig_new(void)
{
    struct rig *r = xnew(struct rig);

    r->run = run_new();
    r->m = machine_new(r->run);
    mem_region_init_ram(&r->ram, r->m->mem_sys, "ram", RAM_SIZE, NULL);
    mem_region_add(&r->m->sysmem, 0, &r->ram);
    r->mem = mem_region_ptr(&r->ram);
    r->f = fw_cfg_create_io(r->m, NULL);
    assert_non_null(r->f);
    machine_reset(r->m);
    return r;
}

static void rig_free(struct rig *r)
{
    mem_region_del(&r->ram);
    mem_region_free(&r->ram);
    machine_free(r->m);
    run_free(r->run);
    free(r);
}

/* One DMA request; the control word afterwards. */
static uint32_t dma(struct rig *r, uint32_t control, uint32_t len, uint64_t addr)
{
    put_be32(r->mem + REQ, control);
    put_be32(r->mem + REQ + 4, len);
    put_be64(r->mem + REQ + 8, addr);
    mem_store(r->m->io, 0x514, 4, 0);
    mem_store(r->m->io, 0x518, 4, __builtin_bswap32(REQ));
    return get_be32(r->mem + REQ);
}

static void the_data_port_gives_the_signature_then_zeroes(void **state)
{
    struct rig *r = rig_new();
    char sig[5] = {0};

    mem_store(r->m->io, 0x510, 2, FW_CFG_SIGNATURE);
    for (unsigned i = 0; i < 4; i++)
        sig[i] = (char)mem_ld(r->m->io, 0x511, 1);
    assert_string_equal(sig, "QEMU");
    assert_int_equal(mem_ld(r->m->io, 0x511, 1), 0);
    mem_store(r->m->io, 0x510, 2, FW_CFG_ID);
    assert_int_equal(mem_ld(r->m->io, 0x511, 1), 3);
    assert_int_equal(mem_ld(r->m->io, 0x514, 4), 0x554d4551); /* "QEMU" as its bytes lie */
    rig_free(r);
}

static void the_directory_is_sorted_and_names_selectors(void **state)
{
    struct rig *r = rig_new();
    uint16_t sel;

    assert_true(fw_cfg_add_file(r->f, "zebra", "zz", 2, NULL));
    assert_true(fw_cfg_add_file(r->f, "etc/a", "hello", 5, NULL));
    assert_int_equal(dma(r, FW_CFG_FILE_DIR << 16 | SELECT_READ, 4 + 2 * 64, BUF), 0);
    assert_int_equal(get_be32(r->mem + BUF), 2);
    assert_string_equal((char *)r->mem + BUF + 4 + 8, "etc/a");
    assert_int_equal(get_be32(r->mem + BUF + 4), 5);
    assert_string_equal((char *)r->mem + BUF + 68 + 8, "zebra");
    sel = get_be16(r->mem + BUF + 4 + 4);
    assert_int_equal(dma(r, (uint32_t)sel << 16 | SELECT_READ, 8, BUF), 0);
    assert_memory_equal(r->mem + BUF, "hello\0\0\0", 8);
    rig_free(r);
}

static void skip_moves_on_and_never_wraps(void **state)
{
    struct rig *r = rig_new();

    fw_cfg_add_key(r->f, FW_CFG_CMDLINE_DATA, "abcdef", 6);
    assert_int_equal(dma(r, FW_CFG_CMDLINE_DATA << 16 | SELECT_READ, 1, BUF), 0);
    assert_int_equal(dma(r, SKIP, 2, 0), 0);
    assert_int_equal(dma(r, READ, 1, BUF), 0);
    assert_int_equal(r->mem[BUF], 'd');
    assert_int_equal(dma(r, SKIP, UINT32_MAX, 0), 0);
    assert_int_equal(dma(r, SKIP, 16, 0), 0);
    assert_int_equal(dma(r, READ, 1, BUF), 0);
    assert_int_equal(r->mem[BUF], 0);
    rig_free(r);
}

static void writes_stay_inside_writable_items(void **state)
{
    struct rig *r = rig_new();
    uint8_t store[8] = {0};
    size_t len;
    uint32_t key = FW_CFG_FILE_FIRST;

    assert_true(fw_cfg_add_writable(r->f, "etc/w", store, sizeof store, NULL, NULL, NULL));
    memcpy(r->mem + BUF, "12345678", 8);
    assert_int_equal(dma(r, key << 16 | SELECT_WRITE, 8, BUF), 0);
    assert_memory_equal(store, "12345678", 8);
    assert_int_equal(dma(r, key << 16 | SELECT_WRITE, 9, BUF), 1);
    assert_int_equal(dma(r, FW_CFG_ID << 16 | SELECT_WRITE, 1, BUF), 1);
    assert_int_equal(dma(r, 0x3fffu << 16 | SELECT_WRITE, 1, BUF), 1);
    assert_non_null(fw_cfg_file(r->f, "etc/w", &len));
    rig_free(r);
}

static void fill(void *opaque)
{
    struct rig *r = opaque;

    fw_cfg_add_file(r->f, "etc/late", "after", 5, NULL);
}

static void a_select_hook_makes_the_bytes_late(void **state)
{
    struct rig *r = rig_new();

    fw_cfg_add_file(r->f, "etc/late", "first", 5, NULL);
    fw_cfg_on_select(r->f, "etc/late", fill, r);
    assert_int_equal(dma(r, FW_CFG_FILE_FIRST << 16 | SELECT_READ, 5, BUF), 0);
    assert_memory_equal(r->mem + BUF, "after", 5);
    rig_free(r);
}

static void bad_names_are_refused(void **state)
{
    struct rig *r = rig_new();
    char name[60];
    struct err *e = NULL;

    memset(name, 'x', sizeof name);
    name[56] = 0;
    assert_false(fw_cfg_add_file(r->f, name, "", 0, &e));
    assert_non_null(e);
    err_free(e);
    name[55] = 0;
    assert_true(fw_cfg_add_file(r->f, name, "", 0, NULL));
    rig_free(r);
}

static void a_request_outside_memory_is_harmless(void **state)
{
    struct rig *r = rig_new();

    mem_store(r->m->io, 0x514, 4, 0xffffffff);
    mem_store(r->m->io, 0x518, 4, 0xf0ffffff);
    assert_int_equal(dma(r, FW_CFG_ID << 16 | SELECT_READ, 4, UINT64_C(0xfffffffffffffff0)), 1);
    rig_free(r);
}

UNIT_MAIN(cmocka_unit_test(the_data_port_gives_the_signature_then_zeroes),
          cmocka_unit_test(the_directory_is_sorted_and_names_selectors),
          cmocka_unit_test(skip_moves_on_and_never_wraps), cmocka_unit_test(writes_stay_inside_writable_items),
          cmocka_unit_test(a_select_hook_makes_the_bytes_late), cmocka_unit_test(bad_names_are_refused),
          cmocka_unit_test(a_request_outside_memory_is_harmless))
