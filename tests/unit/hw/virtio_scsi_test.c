/* virtio-scsi with scsi-hd and scsi-cd, commands by hand. */
#include "unit.h"

#include "hw/scsi/scsi.h"
#include "hw/vio_guest.h"
#include <fcntl.h>
#include <unistd.h>

struct rig {
    struct bare *b;
    struct vio v;
    char path[32];
    gpa_t data;
    int64_t used;
    uint8_t status, response, sense[18];
    uint32_t residual;
};

static void start(struct rig *r, const char *more, const char *unit)
{
    struct err *e = NULL;
    char text[128];
    int fd;

    memset(r, 0, sizeof *r);
    strcpy(r->path, "/tmp/scsi-XXXXXX");
    fd = mkstemp(r->path);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    assert_int_equal(pwrite(fd, "block five", 10, 5 * 512), 10);
    close(fd);
    r->b = bare_new();
    snprintf(text, sizeof text, "file=%s,format=raw%s", r->path, more);
    struct opts *o = opts_parse(text, NULL, NULL);
    if (!blk_drive_add(r->b->blk, "d0", o, &e))
        fail_msg("%s", e->msg);
    opts_free(o);
    struct pci_dev *d = bare_device(r->b, "virtio-scsi-pci,id=s");
    o = opts_parse(unit, "driver", NULL);
    if (!dev_create(r->b->m, o, &e))
        fail_msg("%s", e->msg);
    opts_free(o);
    bare_start(r->b);
    vio_start(&r->v, r->b, d, VIRTIO_BIT(1) | VIRTIO_BIT(2));
}
static void stop(struct rig *r)
{
    unlink(r->path);
    bare_free(r->b);
}

/* One command to target 0; `out` or room for `in` bytes of data. */
static void cmd(struct rig *r, unsigned lun, const uint8_t *cdb, unsigned ncdb, const void *out, uint32_t nout,
                uint32_t nin)
{
    uint8_t req[51] = {1, 0, 0x40 | lun >> 8, lun};
    struct vio_part p[4] = {{.out = req, .len = 51}};
    unsigned n = 1, resp;

    memcpy(req + 19, cdb, ncdb);
    if (nout)
        p[n++] = (struct vio_part){.out = out, .len = nout};
    resp = n;
    p[n++] = (struct vio_part){.len = 108};
    if (nin)
        p[n++] = (struct vio_part){.len = nin};
    r->used = vio_do(&r->v, 2, p, n);
    assert_true(r->used >= 108);
    const uint8_t *a = r->b->mem + p[resp].at;
    r->residual = get_le32(a + 4);
    r->status = a[10];
    r->response = a[11];
    memcpy(r->sense, a + 12, 18);
    r->data = p[n - 1].at;
}
#define CMD(r, nin, ...)                                                                                               \
    do {                                                                                                               \
        const uint8_t c_[] = {__VA_ARGS__};                                                                            \
        cmd(r, 0, c_, sizeof c_, NULL, 0, nin);                                                                        \
    } while (0)

/* proves: F-DEV-05, F-VIO-02, F-STO-04, S267 */
static void a_disk_says_who_it_is_and_moves_data(void **state)
{
    struct rig r;
    uint8_t block[512] = "from the guest", back[512];

    start(&r, "", "scsi-hd,drive=d0,serial=S-42");
    CMD(&r, 0, 0x00); /* power-on attention comes first */
    assert_int_equal(r.status, 2);
    assert_int_equal(r.sense[2], 6);
    assert_int_equal(r.sense[12], 0x29);
    CMD(&r, 0, 0x00);
    assert_int_equal(r.status, 0);
    CMD(&r, 96, 0x12, 0, 0, 0, 96);
    assert_int_equal(r.b->mem[r.data], 0);
    assert_int_equal(r.residual, 60);
    assert_int_equal(r.used, 108 + 36);
    CMD(&r, 64, 0x12, 1, 0x80, 0, 64);
    assert_memory_equal(r.b->mem + r.data + 4, "S-42", 4);
    CMD(&r, 8, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(get_be32(r.b->mem + r.data), 2047);
    assert_int_equal(get_be32(r.b->mem + r.data + 4), 512);
    CMD(&r, 512, 0x28, 0, 0, 0, 0, 5, 0, 0, 1, 0);
    assert_string_equal((char *)r.b->mem + r.data, "block five");
    const uint8_t w16[] = {0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0};
    cmd(&r, 0, w16, 16, block, 512, 0);
    assert_int_equal(r.status, 0);
    CMD(&r, 0, 0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(r.status, 0);
    int fd = open(r.path, O_RDONLY);
    assert_int_equal(pread(fd, back, 512, 9 * 512), 512);
    assert_memory_equal(back, block, 512);
    const uint8_t um[] = {0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0},
                  list[24] = {0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1};
    cmd(&r, 0, um, 10, list, 24, 0);
    assert_int_equal(r.status, 0);
    const uint8_t ws[] = {0x93, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0};
    cmd(&r, 0, ws, 16, NULL, 0, 0);
    assert_int_equal(r.status, 0);
    assert_int_equal(pread(fd, back, 512, 5 * 512), 512);
    assert_int_equal(back[0], 0);
    close(fd);
    stop(&r);
}

static void what_is_wrong_is_said_in_sense_data(void **state)
{
    struct rig r;

    start(&r, ",readonly=on", "scsi-hd,drive=d0");
    CMD(&r, 0, 0x00);
    CMD(&r, 512, 0x28, 0, 0, 0, 8, 0, 0, 0, 1, 0); /* behind the end */
    assert_int_equal(r.status, 2);
    assert_int_equal(r.sense[2] << 16 | r.sense[12] << 8 | r.sense[13], SENSE_BAD_LBA);
    CMD(&r, 512, 0x88, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 1, 0, 0);
    assert_int_equal(r.sense[12], 0x21);
    const uint8_t w[] = {0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0};
    uint8_t block[512] = {0};
    cmd(&r, 0, w, 10, block, 512, 0);
    assert_int_equal(r.sense[2], 7); /* write protected */
    CMD(&r, 0, 0xc3);
    assert_int_equal(r.sense[2] << 16 | r.sense[12] << 8 | r.sense[13], SENSE_BAD_OPCODE);
    CMD(&r, 8, 0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0); /* no room for the block */
    assert_int_equal(r.status, 2);
    const uint8_t inq[] = {0x12, 0, 0, 0, 36, 0}, tur[] = {0};
    cmd(&r, 7, inq, 6, NULL, 0, 36); /* a unit that is not there */
    assert_int_equal(r.b->mem[r.data], 0x7f);
    cmd(&r, 7, tur, 1, NULL, 0, 0);
    assert_int_equal(r.sense[12], 0x25);
    stop(&r);
}

static void units_are_listed_and_other_targets_are_not_there(void **state)
{
    struct rig r;
    uint8_t req[51] = {1, 3, 0x40, 0};
    struct vio_part p[2] = {{.out = req, .len = 51}, {.len = 108}};

    start(&r, "", "scsi-hd,drive=d0,scsi-id=0,lun=4");
    const uint8_t rl[] = {0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0};
    cmd(&r, 0, rl, 12, NULL, 0, 64);
    assert_int_equal(get_be32(r.b->mem + r.data), 16);
    assert_int_equal(r.b->mem[r.data + 9], 4);
    assert_true(vio_do(&r.v, 2, p, 2) >= 108);
    assert_int_equal(r.b->mem[p[1].at + 11], 3); /* bad target */
    stop(&r);
}

/* proves: F-VIO-02 */
static void a_cd_is_read_only_and_may_be_ejected(void **state)
{
    struct rig r;

    start(&r, ",readonly=on", "scsi-cd,drive=d0");
    CMD(&r, 0, 0x00);
    CMD(&r, 36, 0x12, 0, 0, 0, 36, 0);
    assert_int_equal(r.b->mem[r.data], 5);
    assert_int_equal(r.b->mem[r.data + 1], 0x80);
    CMD(&r, 8, 0x25);
    assert_int_equal(get_be32(r.b->mem + r.data + 4), 2048);
    CMD(&r, 2048, 0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0);
    assert_string_equal((char *)r.b->mem + r.data + 512, "block five");
    CMD(&r, 64, 0x43, 0, 0, 0, 0, 0, 0, 0, 64, 0);
    assert_int_equal(get_be16(r.b->mem + r.data), 18);
    CMD(&r, 0, 0x1e, 0, 0, 0, 1, 0); /* locked */
    CMD(&r, 0, 0x1b, 0, 0, 0, 2, 0);
    assert_int_equal(r.sense[12], 0x53);
    CMD(&r, 0, 0x1e, 0, 0, 0, 0, 0);
    CMD(&r, 0, 0x1b, 0, 0, 0, 2, 0);
    assert_int_equal(r.status, 0);
    CMD(&r, 0, 0x00);
    if (r.sense[2] == 6)
        CMD(&r, 0, 0x00);
    assert_int_equal(r.sense[2], 2);
    assert_int_equal(r.sense[12], 0x3a);
    stop(&r);
}

static void task_management_answers(void **state)
{
    struct rig r;
    uint8_t tmf[24] = {0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0x40, 0};
    struct vio_part p[2] = {{.out = tmf, .len = 24}, {.len = 1}};

    start(&r, "", "scsi-hd,drive=d0");
    CMD(&r, 0, 0x00);
    CMD(&r, 0, 0x00);
    assert_int_equal(r.status, 0);
    assert_int_equal(vio_do(&r.v, 0, p, 2), 1);
    assert_int_equal(r.b->mem[p[1].at], 0);
    CMD(&r, 0, 0x00);
    assert_int_equal(r.sense[12], 0x29); /* the reset shows */
    tmf[9] = 7;
    assert_int_equal(vio_do(&r.v, 0, p, 2), 1);
    assert_int_equal(r.b->mem[p[1].at], 3);
    stop(&r);
}

/* Every opcode with plain and with all-ones fields: an answer each time, whatever it is. */
static void no_command_upsets_the_disk(void **state)
{
    struct rig r;
    uint8_t c[16], data[64];

    start(&r, "", "scsi-hd,drive=d0");
    memset(data, 0xff, sizeof data);
    for (unsigned op = 0; op < 256; op++)
        for (unsigned k = 0; k < 4; k++) {
            memset(c, k & 1 ? 0xff : 0, sizeof c);
            c[0] = op;
            cmd(&r, 0, c, 16, data, k & 2 ? 64 : 0, k & 2 ? 0 : 64);
            assert_int_equal(r.response, 0);
        }
    stop(&r);
}

UNIT_MAIN(cmocka_unit_test(a_disk_says_who_it_is_and_moves_data), cmocka_unit_test(what_is_wrong_is_said_in_sense_data),
          cmocka_unit_test(units_are_listed_and_other_targets_are_not_there),
          cmocka_unit_test(a_cd_is_read_only_and_may_be_ejected), cmocka_unit_test(task_management_answers),
          cmocka_unit_test(no_command_upsets_the_disk))
