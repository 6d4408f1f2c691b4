/* Parallel NOR flash with the Intel/Sharp extended command set (class "cfi.pflash01").
 *
 * Promise: contents start as the block back end's (erased, 0xff, without one) and every completed program or erase
 * reaches it in order; a read-only back end makes programs and erases fail with the data sheet's status bits. Reads
 * come straight from memory while the chip is in array mode. Follows Intel 28F640J5 (command set 0001h) and JEDEC
 * JEP137/JESD68 (CFI query). One 8-bit chip on the bus. Odd choice: after Clear Status the ready bit (SR.7) stays 0
 * until a program or erase finishes; OVMF's probe tells flash from ROM and RAM by that value. Left out: block locking
 * (accepted, never enforced), protection registers, suspend, timing. */
#include "base/bytes.h"
#include "base/iov.h"
#include "blk/blk.h"
#include "dev/dev.h"

enum { /* command user interface */
       CMD_READ_ARRAY = 0xff,
       CMD_READ_ID = 0x90,
       CMD_QUERY = 0x98,
       CMD_READ_STATUS = 0x70,
       CMD_CLEAR_STATUS = 0x50,
       CMD_PROGRAM = 0x40,
       CMD_PROGRAM_ALT = 0x10,
       CMD_ERASE = 0x20,
       CMD_CONFIRM = 0xd0,
       CMD_WRITE_BUFFER = 0xe8,
       CMD_LOCK = 0x60,
};
enum { SR_READY = 0x80, SR_ERASE_ERR = 0x20, SR_PROGRAM_ERR = 0x10 };
enum { ID_MANUFACTURER = 0x89, ID_DEVICE = 0x18, BUFFER_LOG2 = 11, BUFFER_LEN = 1 << BUFFER_LOG2, CFI_LEN = 0x34 };
enum { PFLASH_MAX_SIZE = 256 << 20, DISK_ALIGN = 512 };

struct pflash {
    struct dev dev;            /* first */
    struct blk *blk;           /* property drive; NULL: contents vanish with the machine */
    uint32_t nr_blocks, width; /* properties */
    uint64_t sector_len;
    char *name;                 /* property: name of the RAM block */
    bool secure;                /* property: writes only through mmio 1 (the SMM view) */
    struct mem_region flash;    /* mmio 0: takes commands (plain ROM when secure) */
    struct mem_region smm_view; /* mmio 1 when secure: the same array, with commands, every access a callback */
    bool readonly;
    uint8_t cmd, cycle, status;         /* current command; which of its bus cycles comes next */
    uint32_t buf_off, buf_len, buf_got; /* write buffer: start in the array, bytes announced and received */
    uint8_t buf[BUFFER_LEN];
    uint8_t cfi[CFI_LEN];
    /* Write-back: one request in flight; what changed meanwhile waits as a range. */
    uint64_t dirty_lo, dirty_hi;
    bool writing, failed;
    struct iovec wv;
    uint8_t *wbuf; /* owned: snapshot being written */
};

static uint8_t *pf_array(struct pflash *f)
{
    return mem_region_ptr(&f->flash);
}

/* ---- write-back ---- */

static void pf_write_next(struct pflash *f);

static void pf_written(void *opaque, int ret)
{
    struct pflash *f = opaque;

    free(f->wbuf);
    f->wbuf = NULL;
    f->writing = false;
    if (ret < 0 && !f->failed) {
        f->failed = true;
        warn_report("flash: cannot write '%s': %s", blk_id(f->blk), strerror(-ret));
    }
    pf_write_next(f);
}

static void pf_write_next(struct pflash *f)
{
    uint64_t lo = align_down(f->dirty_lo, DISK_ALIGN);
    uint64_t hi = min_u64(align_up(f->dirty_hi, DISK_ALIGN), f->flash.size);
    struct iov q;

    if (f->writing || f->dirty_lo >= f->dirty_hi)
        return;
    f->dirty_lo = UINT64_MAX;
    f->dirty_hi = 0;
    f->wbuf = xmalloc(hi - lo);
    memcpy(f->wbuf, pf_array(f) + lo, hi - lo);
    f->wv = (struct iovec){f->wbuf, hi - lo};
    iov_init_ext(&q, &f->wv, 1);
    f->writing = true;
    blk_aio_write(f->blk, lo, &q, 0, pf_written, f);
}

static void pf_changed(struct pflash *f, uint64_t off, uint64_t len)
{
    mem_ram_written(f->flash.ram, off, len);
    if (!f->blk)
        return;
    f->dirty_lo = min_u64(f->dirty_lo, off);
    f->dirty_hi = max_u64(f->dirty_hi, off + len);
    pf_write_next(f);
}

/* ---- command interface ---- */

static void pf_array_mode(struct pflash *f)
{
    f->cmd = CMD_READ_ARRAY;
    f->cycle = 0;
    if (!f->secure)
        mem_region_set_romd(&f->flash, true);
}

/* Programming clears bits only; a set bit needs an erase. */
static void pf_program(struct pflash *f, uint64_t off, const uint8_t *data, uint64_t len)
{
    uint8_t *p = pf_array(f) + off;

    f->status |= SR_READY;
    if (f->readonly || off > f->flash.size || len > f->flash.size - off) {
        f->status |= SR_PROGRAM_ERR;
        return;
    }
    for (uint64_t i = 0; i < len; i++)
        p[i] &= data[i];
    pf_changed(f, off, len);
}

static void pf_erase(struct pflash *f, uint64_t off)
{
    uint64_t base = off - off % f->sector_len;

    f->status |= SR_READY;
    if (f->readonly) {
        f->status |= SR_ERASE_ERR;
        return;
    }
    memset(pf_array(f) + base, 0xff, f->sector_len);
    pf_changed(f, base, f->sector_len);
}

static uint8_t pf_id(gpa_t off)
{
    switch (off & 0xff) {
    case 0:
        return ID_MANUFACTURER;
    case 1:
        return ID_DEVICE;
    default:
        return 0; /* block lock state: unlocked */
    }
}

static uint8_t pf_read_byte(struct pflash *f, gpa_t off)
{
    switch (f->cmd) {
    case CMD_READ_ID:
        return pf_id(off);
    case CMD_QUERY:
        return (off & 0xff) < CFI_LEN ? f->cfi[off & 0xff] : 0;
    case CMD_READ_ARRAY:
        return pf_array(f)[off];
    case CMD_WRITE_BUFFER: /* extended status: the buffer is free */
        return f->cycle <= 1 ? SR_READY : f->status;
    default:
        return f->status;
    }
}

static uint64_t pf_read(void *opaque, gpa_t off, unsigned size)
{
    struct pflash *f = opaque;
    uint64_t v = 0;

    for (unsigned i = 0; i < size; i++)
        v |= (uint64_t)pf_read_byte(f, off + i) << (8 * i);
    return v;
}

/* First bus cycle of a command. */
static void pf_command(struct pflash *f, uint8_t cmd)
{
    switch (cmd) {
    case CMD_CLEAR_STATUS:
        f->status = 0;
        pf_array_mode(f);
        return;
    case CMD_READ_ID:
    case CMD_QUERY:
    case CMD_READ_STATUS:
        f->cycle = 0;
        break;
    case CMD_PROGRAM:
    case CMD_PROGRAM_ALT:
    case CMD_ERASE:
    case CMD_LOCK:
        f->cycle = 1;
        break;
    case CMD_WRITE_BUFFER:
        f->status |= SR_READY;
        f->cycle = 1;
        break;
    default:
        log_guest("flash: unknown command %#x\n", cmd);
        FALLTHROUGH;
    case 0x00:
    case CMD_READ_ARRAY:
        pf_array_mode(f);
        return;
    }
    f->cmd = cmd;
    if (!f->secure)
        mem_region_set_romd(&f->flash, false);
}

static void pf_to_status(struct pflash *f)
{
    f->cmd = CMD_READ_STATUS;
    f->cycle = 0;
}

/* Write to Buffer: count, then the data, then Confirm. All addresses lie in one block. */
static void pf_buffer_cycle(struct pflash *f, gpa_t off, uint64_t val, unsigned size)
{
    switch (f->cycle) {
    case 1: /* word count - 1 */
        f->buf_len = (uint32_t)((val & 0xffff) + 1);
        f->buf_got = 0;
        f->buf_off = UINT32_MAX;
        memset(f->buf, 0xff, sizeof f->buf);
        f->cycle = f->buf_len <= BUFFER_LEN ? 2 : 4;
        break;
    case 2:
        if (f->buf_off == UINT32_MAX)
            f->buf_off = (uint32_t)(off - off % BUFFER_LEN);
        for (unsigned i = 0; i < size; i++, f->buf_got++)
            if (off + i >= f->buf_off && off + i - f->buf_off < BUFFER_LEN)
                f->buf[off + i - f->buf_off] = (uint8_t)(val >> (8 * i));
        if (f->buf_got >= f->buf_len)
            f->cycle = 3;
        break;
    case 3:
        if ((uint8_t)val == CMD_CONFIRM)
            pf_program(f, f->buf_off, f->buf, min_u64(BUFFER_LEN, f->flash.size - f->buf_off));
        else
            f->status |= SR_PROGRAM_ERR | SR_ERASE_ERR;
        pf_to_status(f);
        break;
    default: /* a count beyond the buffer */
        f->status |= SR_PROGRAM_ERR | SR_ERASE_ERR;
        pf_to_status(f);
        break;
    }
}

static void pf_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct pflash *f = opaque;
    uint8_t data[8];

    if (!f->cycle) {
        pf_command(f, (uint8_t)val);
        return;
    }
    switch (f->cmd) {
    case CMD_PROGRAM:
    case CMD_PROGRAM_ALT:
        put_le64(data, val);
        pf_program(f, off, data, size);
        pf_to_status(f);
        break;
    case CMD_ERASE:
        if ((uint8_t)val == CMD_CONFIRM)
            pf_erase(f, off);
        else
            f->status |= SR_READY | SR_ERASE_ERR | SR_PROGRAM_ERR;
        pf_to_status(f);
        break;
    case CMD_LOCK: /* set, clear or lock down: nothing to protect */
        f->status |= SR_READY;
        pf_to_status(f);
        break;
    default:
        pf_buffer_cycle(f, off, val, size);
        break;
    }
}

/* A secure chip outside SMM: an array that cannot be written. */
static uint64_t pf_locked_read(void *opaque, gpa_t off, unsigned size)
{
    return get_le(pf_array(opaque) + off, size);
}

static void pf_locked_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    log_guest("flash: write outside SMM at %#" PRIx64 " ignored\n", off);
}

static const struct mem_ops pf_ops = {.read = pf_read,
                                      .write = pf_write,
                                      .valid_min = 1,
                                      .valid_max = 8,
                                      .impl_min = 1,
                                      .impl_max = 4,
                                      .unaligned = true};
static const struct mem_ops pf_locked_ops = {.read = pf_locked_read,
                                             .write = pf_locked_write,
                                             .valid_min = 1,
                                             .valid_max = 8,
                                             .impl_min = 1,
                                             .impl_max = 4,
                                             .unaligned = true};

/* ---- life cycle ---- */

/* JESD68.01 table: identification, voltages and times, geometry with one uniform erase region. */
static void pf_build_cfi(struct pflash *f)
{
    static const uint8_t head[] = {'Q',  'R', 'Y', 0x01, 0x00, 0x31, 0x00, 0,    0,    0,    0,   0x45,
                                   0x55, 0,   0,   0x07, 0x07, 0x0a, 0x00, 0x04, 0x04, 0x04, 0x00};
    unsigned log2_size = 0;

    while ((UINT64_C(1) << log2_size) < f->flash.size)
        log2_size++;
    memcpy(f->cfi + 0x10, head, sizeof head);
    f->cfi[0x27] = (uint8_t)log2_size;
    put_le16(f->cfi + 0x28, 0x0002); /* x8/x16 capable interface */
    put_le16(f->cfi + 0x2a, BUFFER_LOG2);
    f->cfi[0x2c] = 1;
    put_le16(f->cfi + 0x2d, (uint16_t)(f->nr_blocks - 1));
    put_le16(f->cfi + 0x2f, (uint16_t)(f->sector_len >> 8));
    memcpy(f->cfi + 0x31, "PRI", 3);
}

static bool pf_load(struct pflash *f, struct err **errp)
{
    int r;

    memset(pf_array(f), 0xff, f->flash.size);
    f->readonly = f->blk && blk_readonly(f->blk);
    if (!f->blk)
        return true;
    if (blk_size(f->blk) < f->flash.size)
        return err_set(errp, "flash '%s' needs %" PRIu64 " bytes, its image has %" PRIu64, f->name ? f->name : "pflash",
                       f->flash.size, blk_size(f->blk));
    r = blk_read(f->blk, 0, pf_array(f), f->flash.size);
    return r >= 0 || err_set_errno(errp, -r, "cannot read flash image '%s'", blk_id(f->blk));
}

static bool pf_realize(struct dev *d, struct err **errp)
{
    struct pflash *f = (struct pflash *)d;
    struct mem_sys *s = dev_machine(d)->mem_sys;
    const char *name = f->name ? f->name : "pflash";
    uint64_t size;

    if (!f->sector_len || !f->nr_blocks || f->width != 1)
        return err_set(errp, "flash '%s': num-blocks and sector-length must be given and width must be 1", name);
    if (!mul_ok_u64(f->nr_blocks, f->sector_len, &size) || size > PFLASH_MAX_SIZE || size % 4096)
        return err_set(errp, "flash '%s': %u blocks of %" PRIu64 " bytes are out of range", name, f->nr_blocks,
                       f->sector_len);
    if (f->blk && !blk_set_share_rw(f->blk, false, errp))
        return false;
    if (!mem_region_init_romd(&f->flash, s, f->secure ? &pf_locked_ops : &pf_ops, f, name, size, errp))
        return false;
    dev_add_mmio(d, &f->flash);
    if (f->secure) {
        mem_region_init_io(&f->smm_view, s, &pf_ops, f, name, size);
        dev_add_mmio(d, &f->smm_view);
    }
    f->dirty_lo = UINT64_MAX;
    pf_build_cfi(f);
    return pf_load(f, errp);
}

static void pf_reset(struct dev *d)
{
    struct pflash *f = (struct pflash *)d;

    f->status = 0;
    pf_array_mode(f);
}

static void pf_unrealize(struct dev *d)
{
    struct pflash *f = (struct pflash *)d;

    if (f->blk)
        blk_drain(f->blk);
    if (f->secure)
        mem_region_free(&f->smm_view);
    mem_region_free(&f->flash);
}

static bool pf_post_load(void *obj, struct err **errp)
{
    struct pflash *f = obj;

    if (f->cycle > 4 || (f->cycle == 3 && f->buf_off == UINT32_MAX) || f->buf_len > 0x10000 ||
        (f->buf_off != UINT32_MAX && f->buf_off >= f->flash.size))
        return false;
    if (!f->secure)
        mem_region_set_romd(&f->flash, f->cmd == CMD_READ_ARRAY);
    return true;
}

static const struct state_field pf_fields[] = {STATE_U8(struct pflash, cmd),      STATE_U8(struct pflash, cycle),
                                               STATE_U8(struct pflash, status),   STATE_U32(struct pflash, buf_off),
                                               STATE_U32(struct pflash, buf_len), STATE_U32(struct pflash, buf_got),
                                               STATE_BYTES(struct pflash, buf),   STATE_END};
static const struct state_desc pf_state = {
    .name = "cfi.pflash01", .version = 1, .fields = pf_fields, .post_load = pf_post_load};
static const struct prop pf_props[] = {
    PROP_BLK("drive", struct pflash, blk),
    PROP("num-blocks", u32, struct pflash, nr_blocks),
    PROP("sector-length", u64, struct pflash, sector_len),
    PROP("width", u32, struct pflash, width, .dflt = "1"),
    PROP("name", str, struct pflash, name),
    PROP("secure", bool, struct pflash, secure, .help = "take writes only from System Management Mode"),
    PROP_END,
};
static const struct dev_class pf_class = {.name = "cfi.pflash01",
                                          .desc = "Intel command set parallel flash",
                                          .size = sizeof(struct pflash),
                                          .props = pf_props,
                                          .category = DEV_CAT_STORAGE,
                                          .board_only = true,
                                          .realize = pf_realize,
                                          .unrealize = pf_unrealize,
                                          .reset = pf_reset,
                                          .state_desc = &pf_state};
DEV_REGISTER(pf_class)
