/* ATA and ATAPI by hand: the task file of a cable with a controller that copies to a plain buffer. */
#include "unit.h"

#include "hw/ide/ide.h"
#include "hw/pci_bare.h"
#include <fcntl.h>
#include <unistd.h>

struct cable {
    struct dev dev;
    struct ide_bus bus;
    int irq;
    uint8_t mem[64 * 1024]; /* what DMA reaches */
    size_t at;
    bool go;
};
static void cable_irq(void *opaque, int level)
{
    ((struct cable *)opaque)->irq = level;
}
static void cable_wait(void *opaque)
{
    ide_dma_go(&((struct cable *)opaque)->bus);
}
static size_t cable_copy(void *opaque, uint8_t *buf, size_t len, bool to_guest)
{
    struct cable *c = opaque;
    size_t n = min_u64(len, sizeof c->mem - c->at);

    if (to_guest)
        memcpy(c->mem + c->at, buf, n);
    else
        memcpy(buf, c->mem + c->at, n);
    c->at += n;
    return n;
}
static const struct ide_ops cable_ops = {.irq = cable_irq, .dma_wait = cable_wait, .dma_copy = cable_copy};
static bool cable_realize(struct dev *d, struct err **errp)
{
    struct cable *c = container_of(d, struct cable, dev);

    ide_bus_init(&c->bus, d, "ide.0", 2, &cable_ops, c);
    return true;
}
static void cable_unrealize(struct dev *d)
{
    ide_bus_fini(&container_of(d, struct cable, dev)->bus);
}
static const struct dev_class cable_class = {.name = "test-cable",
                                             .size = sizeof(struct cable),
                                             .realize = cable_realize,
                                             .unrealize = cable_unrealize,
                                             .board_only = true};
DEV_REGISTER(cable_class)

struct rig {
    struct bare *b;
    struct cable *c;
    char path[32];
};
static void start(struct rig *r, const char *more, const char *unit)
{
    struct err *e = NULL;
    char text[128];
    int fd;

    strcpy(r->path, "/tmp/ide-XXXXXX");
    fd = mkstemp(r->path);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    assert_int_equal(pwrite(fd, "sector nine", 11, 9 * 512), 11);
    close(fd);
    r->b = bare_new();
    snprintf(text, sizeof text, "file=%s,format=raw%s", r->path, more);
    struct opts *o = opts_parse(text, NULL, NULL);
    if (!blk_drive_add(r->b->blk, "d0", o, &e))
        fail_msg("%s", e->msg);
    opts_free(o);
    struct dev *d = dev_new(r->b->m, "test-cable", NULL);
    r->c = container_of(d, struct cable, dev);
    assert_true(dev_realize(d, NULL, NULL, NULL));
    o = opts_parse(unit, "driver", NULL);
    if (!dev_create(r->b->m, o, &e))
        fail_msg("%s", e->msg);
    opts_free(o);
    bare_start(r->b);
    ide_bus_reset(&r->c->bus);
}
static void stop(struct rig *r)
{
    unlink(r->path);
    bare_free(r->b);
}
static uint8_t wait_status(struct rig *r)
{
    int64_t end = clk_now(r->b->run->real) + 2 * NS_PER_SEC;

    while ((ide_alt_status(&r->c->bus) & ST_BSY) && clk_now(r->b->run->real) < end)
        ev_loop_turn(r->b->run->loop, NS_PER_MS);
    return ide_read(&r->c->bus, 7);
}
static void cmd(struct rig *r, uint8_t c, uint32_t lba, uint8_t count)
{
    ide_write(&r->c->bus, 2, count);
    ide_write(&r->c->bus, 3, lba);
    ide_write(&r->c->bus, 4, lba >> 8);
    ide_write(&r->c->bus, 5, lba >> 16);
    ide_write(&r->c->bus, 6, DEV_LBA | (lba >> 24 & 15));
    r->c->at = 0;
    ide_write(&r->c->bus, 7, c);
}
static void pull(struct rig *r, uint8_t *buf, size_t n)
{
    for (size_t i = 0; i < n; i += 2)
        put_le16(buf + i, ide_data_read(&r->c->bus));
}

/* proves: F-STO-01 */
static void a_disk_identifies_itself(void **state)
{
    struct rig r;
    uint8_t id[512], sum = 0;

    start(&r, "", "ide-hd,drive=d0,serial=AB");
    assert_int_equal(ide_read(&r.c->bus, 2) << 8 | ide_read(&r.c->bus, 3), 0x0101);
    assert_int_equal(ide_read(&r.c->bus, 4) << 8 | ide_read(&r.c->bus, 5), 0);
    cmd(&r, 0xec, 0, 0);
    assert_int_equal(r.c->irq, 1);
    assert_int_equal(wait_status(&r) & (ST_DRQ | ST_ERR), ST_DRQ);
    assert_int_equal(r.c->irq, 0);
    pull(&r, id, 512);
    assert_int_equal(wait_status(&r), ST_DRDY | ST_DSC);
    assert_memory_equal(id + 20, "BA  ", 4);
    assert_int_equal(get_le32(id + 120), 2048);
    for (unsigned i = 0; i < 512; i++)
        sum += id[i];
    assert_int_equal(sum, 0);
    stop(&r);
}

static void sectors_move_by_pio_and_by_dma(void **state)
{
    struct rig r;
    uint8_t b[1024], back[512];

    start(&r, "", "ide-hd,drive=d0");
    cmd(&r, 0x20, 8, 2); /* two sectors, an interrupt each */
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(wait_status(&r) & ST_DRQ, ST_DRQ);
        pull(&r, b + 512 * i, 512);
    }
    assert_int_equal(wait_status(&r), ST_DRDY | ST_DSC);
    assert_string_equal((char *)b + 512, "sector nine");
    cmd(&r, 0xc8, 9, 1);
    assert_int_equal(wait_status(&r), ST_DRDY | ST_DSC);
    assert_string_equal((char *)r.c->mem, "sector nine");
    memset(r.c->mem, 0, sizeof r.c->mem);
    strcpy((char *)r.c->mem, "by dma");
    cmd(&r, 0xca, 100, 1);
    assert_int_equal(wait_status(&r), ST_DRDY | ST_DSC);
    cmd(&r, 0x30, 101, 1);
    assert_int_equal(ide_alt_status(&r.c->bus) & ST_DRQ, ST_DRQ);
    for (unsigned i = 0; i < 256; i++)
        ide_data_write(&r.c->bus, 0x4242);
    assert_int_equal(wait_status(&r), ST_DRDY | ST_DSC);
    int fd = open(r.path, O_RDONLY);
    assert_int_equal(pread(fd, back, 512, 100 * 512), 512);
    assert_string_equal((char *)back, "by dma");
    assert_int_equal(pread(fd, back, 512, 101 * 512), 512);
    assert_int_equal(back[511], 0x42);
    close(fd);
    cmd(&r, 0xe7, 0, 0);
    assert_int_equal(wait_status(&r), ST_DRDY | ST_DSC);
    stop(&r);
}

static void bad_commands_end_in_an_error(void **state)
{
    struct rig r;

    start(&r, ",readonly=on", "ide-hd,drive=d0");
    cmd(&r, 0x20, 2047, 2); /* over the end */
    assert_int_equal(wait_status(&r) & ST_ERR, ST_ERR);
    assert_int_equal(ide_read(&r.c->bus, 1) & ER_IDNF, ER_IDNF);
    cmd(&r, 0x30, 0, 1); /* read-only */
    assert_int_equal(wait_status(&r) & ST_ERR, ST_ERR);
    cmd(&r, 0xa0, 0, 0); /* a disk takes no packets */
    assert_int_equal(wait_status(&r) & ST_ERR, ST_ERR);
    for (unsigned c = 0; c < 256; c++) { /* any opcode, then a reset brings it back */
        cmd(&r, c, 0xfffffff, 0xff);
        wait_status(&r);
        ide_control_write(&r.c->bus, CTL_SRST);
        ide_control_write(&r.c->bus, 0);
        assert_int_equal(ide_alt_status(&r.c->bus), ST_DRDY | ST_DSC);
    }
    stop(&r);
}

static void a_reset_in_flight_drops_the_command(void **state)
{
    struct rig r;

    start(&r, "", "ide-hd,drive=d0");
    for (unsigned i = 0; i < 50; i++) {
        cmd(&r, i & 1 ? 0x20 : 0xc8, 0, 64);
        ide_control_write(&r.c->bus, CTL_SRST);
        ide_control_write(&r.c->bus, 0);
    }
    bare_turns(r.b, 20);
    assert_int_equal(ide_alt_status(&r.c->bus), ST_DRDY | ST_DSC);
    cmd(&r, 0xc8, 9, 1);
    assert_int_equal(wait_status(&r), ST_DRDY | ST_DSC);
    assert_string_equal((char *)r.c->mem, "sector nine");
    stop(&r);
}

static void packet(struct rig *r, const uint8_t *cdb, unsigned limit)
{
    ide_write(&r->c->bus, 1, 0);
    ide_write(&r->c->bus, 4, limit);
    ide_write(&r->c->bus, 5, limit >> 8);
    ide_write(&r->c->bus, 7, 0xa0);
    assert_int_equal(ide_alt_status(&r->c->bus) & ST_DRQ, ST_DRQ);
    for (unsigned i = 0; i < 12; i += 2)
        ide_data_write(&r->c->bus, get_le16(cdb + i));
}

/* proves: F-STO-01 */
static void a_cd_answers_packets_in_blocks(void **state)
{
    struct rig r;
    const uint8_t tur[12] = {0}, sense[12] = {3, 0, 0, 0, 18}, rd[12] = {0x28, 0, 0, 0, 0, 2, 0, 0, 1},
                  bad[12] = {0x28, 0, 0xff};
    uint8_t b[2048];

    start(&r, ",readonly=on", "ide-cd,drive=d0");
    assert_int_equal(ide_read(&r.c->bus, 4), 0x14);
    assert_int_equal(ide_read(&r.c->bus, 5), 0xeb);
    packet(&r, tur, 0xfffe);
    assert_int_equal(wait_status(&r) & ST_ERR, 0);
    packet(&r, rd, 1000); /* three blocks of at most 1000 bytes */
    size_t got = 0;
    while (wait_status(&r) & ST_DRQ) {
        size_t n = ide_read(&r.c->bus, 4) | ide_read(&r.c->bus, 5) << 8;
        assert_true(n <= 1000 && got + n <= sizeof b);
        pull(&r, b + got, n);
        got += n;
    }
    assert_int_equal(got, 2048);
    assert_string_equal((char *)b + 512, "sector nine");
    packet(&r, bad, 0xfffe);
    if (wait_status(&r) & ST_ERR)
        assert_int_equal(ide_read(&r.c->bus, 1) >> 4, 5);
    packet(&r, sense, 0xfffe);
    assert_int_equal(wait_status(&r) & ST_DRQ, ST_DRQ);
    pull(&r, b, 18);
    assert_int_equal(b[0], 0x70);
    stop(&r);
}

UNIT_MAIN(cmocka_unit_test(a_disk_identifies_itself), cmocka_unit_test(sectors_move_by_pio_and_by_dma),
          cmocka_unit_test(bad_commands_end_in_an_error), cmocka_unit_test(a_reset_in_flight_drops_the_command),
          cmocka_unit_test(a_cd_answers_packets_in_blocks))
