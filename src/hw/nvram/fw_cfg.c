/* fw_cfg on x86 ports: selector at 0x510 (16 bits, write), data at 0x511 (8 bits, read), DMA address at 0x514
 * (big-endian).
 *
 * Promise: firmware sees an item as it was when selected; DMA requests end with the control word cleared or its error
 * bit set, whatever the guest asked. Items 0..0x1f have fixed meaning, 0x20.. are files named by the directory (0x19),
 * 0x8000.. belong to the architecture. The data port is read only: guests write through DMA, and only to items made
 * writable. Interface: the fw_cfg chapter of the firmware projects' documentation. Left out: data-port writes, MMIO
 * binding. */
#include "hw/nvram/fw_cfg.h"
#include "base/bytes.h"

enum {
    FW_IO_BASE = 0x510,
    FW_IO_LEN = 2,
    FW_DMA_BASE = 0x514,
    FW_DMA_LEN = 8,
    FW_FILES = 0x100,
    FW_NAME_LEN = 56,
    FW_DIR_ENTRY = 64,
    FW_KEYS = FW_CFG_FILE_FIRST + FW_FILES,
    FW_ARCH_KEYS = 0x10,
    FW_NO_ITEM = 0xffff,
    FW_ID_TRADITIONAL = 1,
    FW_ID_DMA = 2,
};
enum { DMA_ERROR = 1, DMA_READ = 2, DMA_SKIP = 4, DMA_SELECT = 8, DMA_WRITE = 16, DMA_REQ_LEN = 16 };

struct fw_item {
    uint8_t *data; /* owned unless borrowed is set */
    size_t len;
    bool borrowed;
    bool writable;
    char *name; /* owned; files only */
    void (*fill)(void *opaque);
    void (*written)(void *opaque);
    void *opaque;
};
struct fw_cfg {
    struct dev dev; /* first */
    struct fw_item item[FW_KEYS], arch[FW_ARCH_KEYS];
    unsigned nr_files;
    struct mem_region io, dma_io;
    uint32_t cur_key, cur_off;
    uint64_t dma_addr;
};

static struct fw_item *fw_item(struct fw_cfg *f, uint32_t key)
{
    unsigned n = key & 0x3fff;

    if (key & FW_CFG_ARCH_LOCAL)
        return n < FW_ARCH_KEYS ? &f->arch[n] : NULL;
    return n < FW_KEYS ? &f->item[n] : NULL;
}

static void fw_item_set(struct fw_item *it, void *data, size_t len)
{
    if (!it->borrowed)
        free(it->data);
    it->data = data;
    it->len = len;
    it->borrowed = false;
}

/* ---- host side ---- */

void fw_cfg_add_key_owned(struct fw_cfg *f, uint16_t key, void *data, size_t len)
{
    struct fw_item *it = fw_item(f, key);

    assert(it);
    fw_item_set(it, data, len);
}

void fw_cfg_add_key(struct fw_cfg *f, uint16_t key, const void *data, size_t len)
{
    uint8_t *copy = xmalloc(len ? len : 1);

    memcpy(copy, data, len);
    fw_cfg_add_key_owned(f, key, copy, len);
}

void fw_cfg_add_u16(struct fw_cfg *f, uint16_t key, uint16_t v)
{
    uint8_t b[2];

    put_le16(b, v);
    fw_cfg_add_key(f, key, b, sizeof b);
}

void fw_cfg_add_u32(struct fw_cfg *f, uint16_t key, uint32_t v)
{
    uint8_t b[4];

    put_le32(b, v);
    fw_cfg_add_key(f, key, b, sizeof b);
}

void fw_cfg_add_u64(struct fw_cfg *f, uint16_t key, uint64_t v)
{
    uint8_t b[8];

    put_le64(b, v);
    fw_cfg_add_key(f, key, b, sizeof b);
}

static struct fw_item *fw_file(struct fw_cfg *f, const char *name)
{
    for (unsigned i = 0; i < f->nr_files; i++)
        if (!strcmp(f->item[FW_CFG_FILE_FIRST + i].name, name))
            return &f->item[FW_CFG_FILE_FIRST + i];
    return NULL;
}

static struct fw_item *fw_file_get(struct fw_cfg *f, const char *name, struct err **errp)
{
    struct fw_item *it = fw_file(f, name);

    if (it)
        return it;
    if (strlen(name) >= FW_NAME_LEN || !*name) {
        err_set(errp, "fw_cfg: file name '%s' must have 1 to %d bytes", name, FW_NAME_LEN - 1);
        return NULL;
    }
    if (f->nr_files == FW_FILES) {
        err_set(errp, "fw_cfg: no room for file '%s': the limit is %d files", name, FW_FILES);
        return NULL;
    }
    it = &f->item[FW_CFG_FILE_FIRST + f->nr_files++];
    it->name = xstrdup(name);
    return it;
}

bool fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *data, size_t len, struct err **errp)
{
    struct fw_item *it = fw_file_get(f, name, errp);
    uint8_t *copy;

    if (!it)
        return false;
    if (len > UINT32_MAX || !(copy = malloc(len ? len : 1)))
        return err_set(errp, "fw_cfg: file '%s' of %zu bytes is too large", name, len);
    if (len)
        memcpy(copy, data, len);
    fw_item_set(it, copy, len);
    return true;
}

void fw_cfg_on_select(struct fw_cfg *f, const char *name, void (*fill)(void *opaque), void *opaque)
{
    struct fw_item *it = fw_file(f, name);

    assert(it);
    it->fill = fill;
    it->opaque = opaque;
}

bool fw_cfg_add_writable(struct fw_cfg *f, const char *name, void *data, size_t len, void (*written)(void *opaque),
                         void *opaque, struct err **errp)
{
    struct fw_item *it = fw_file_get(f, name, errp);

    if (!it)
        return false;
    fw_item_set(it, data, len);
    it->borrowed = it->writable = true;
    it->written = written;
    it->opaque = opaque;
    return true;
}

const void *fw_cfg_file(struct fw_cfg *f, const char *name, size_t *len)
{
    struct fw_item *it = fw_file(f, name);

    if (!it)
        return NULL;
    *len = it->len;
    return it->data;
}

/* ---- guest side ---- */

static int cmp_names(const void *a, const void *b)
{
    const struct fw_item *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

/* The directory: be32 count, then per file be32 size, be16 selector, 2 reserved bytes, name; sorted by name. */
static void fw_build_dir(struct fw_cfg *f)
{
    const struct fw_item *order[FW_FILES];
    size_t len = 4 + (size_t)f->nr_files * FW_DIR_ENTRY;
    uint8_t *dir = xcalloc(1, len);

    for (unsigned i = 0; i < f->nr_files; i++)
        order[i] = &f->item[FW_CFG_FILE_FIRST + i];
    qsort(order, f->nr_files, sizeof order[0], cmp_names);
    put_be32(dir, f->nr_files);
    for (unsigned i = 0; i < f->nr_files; i++) {
        uint8_t *e = dir + 4 + (size_t)i * FW_DIR_ENTRY;

        put_be32(e, (uint32_t)order[i]->len);
        put_be16(e + 4, (uint16_t)(order[i] - f->item));
        memcpy(e + 8, order[i]->name, strlen(order[i]->name));
    }
    fw_cfg_add_key_owned(f, FW_CFG_FILE_DIR, dir, len);
}

static void fw_select(struct fw_cfg *f, uint32_t key)
{
    struct fw_item *it = fw_item(f, key);

    f->cur_off = 0;
    f->cur_key = it ? key : FW_NO_ITEM;
    if (!it)
        return;
    if (key == FW_CFG_FILE_DIR)
        fw_build_dir(f);
    if (it->fill)
        it->fill(it->opaque);
}

static struct fw_item *fw_current(struct fw_cfg *f)
{
    return f->cur_key == FW_NO_ITEM ? NULL : fw_item(f, f->cur_key);
}

static uint64_t fw_io_read(void *opaque, gpa_t off, unsigned size)
{
    struct fw_cfg *f = opaque;
    struct fw_item *it = fw_current(f);

    if (!it || f->cur_off >= it->len)
        return 0;
    return it->data[f->cur_off++];
}

static void fw_io_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    if (off == 0 && size == 2)
        fw_select(opaque, (uint32_t)val);
    else
        log_guest("fw_cfg: %u-byte write to port %#x ignored\n", size, (unsigned)(FW_IO_BASE + off));
}

/* Copies what the item holds and zeroes the rest of the guest's buffer. */
static bool fw_dma_read(struct fw_cfg *f, struct fw_item *it, uint64_t addr, uint32_t len)
{
    struct mem_space *as = dev_machine(&f->dev)->mem;
    uint64_t have = it && f->cur_off < it->len ? min_u64(len, it->len - f->cur_off) : 0;

    if (have && mem_write(as, addr, it->data + f->cur_off, have) != MEM_OK)
        return false;
    f->cur_off += (uint32_t)have;
    return have == len || mem_set(as, addr + have, 0, len - have) == MEM_OK;
}

static bool fw_dma_write(struct fw_cfg *f, struct fw_item *it, uint64_t addr, uint32_t len)
{
    if (!it || !it->writable || f->cur_off > it->len || len > it->len - f->cur_off)
        return false;
    if (mem_read(dev_machine(&f->dev)->mem, addr, it->data + f->cur_off, len) != MEM_OK)
        return false;
    f->cur_off += len;
    if (it->written)
        it->written(it->opaque);
    return true;
}

static bool fw_dma_act(struct fw_cfg *f, uint32_t ctl, uint32_t len, uint64_t addr)
{
    struct fw_item *it;

    if (ctl & DMA_SELECT)
        fw_select(f, ctl >> 16);
    it = fw_current(f);
    if (ctl & DMA_READ)
        return fw_dma_read(f, it, addr, len);
    if (ctl & DMA_WRITE)
        return fw_dma_write(f, it, addr, len);
    if ((ctl & DMA_SKIP) && it)
        f->cur_off += (uint32_t)min_u64(len, UINT32_MAX - f->cur_off);
    return true;
}

static void fw_dma_run(struct fw_cfg *f)
{
    struct mem_space *as = dev_machine(&f->dev)->mem;
    uint64_t req = f->dma_addr;
    uint8_t b[DMA_REQ_LEN], done[4];

    f->dma_addr = 0;
    if (mem_read(as, req, b, sizeof b) != MEM_OK) {
        put_be32(done, DMA_ERROR);
    } else {
        bool ok = fw_dma_act(f, get_be32(b), get_be32(b + 4), get_be64(b + 8));

        put_be32(done, ok ? 0 : DMA_ERROR);
    }
    mem_write(as, req, done, sizeof done);
}

static uint64_t fw_dma_io_read(void *opaque, gpa_t off, unsigned size)
{
    static const uint8_t sig[FW_DMA_LEN] = {'Q', 'E', 'M', 'U', ' ', 'C', 'F', 'G'};

    return off + size <= sizeof sig ? get_le(sig + off, size) : 0;
}

static void fw_dma_io_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct fw_cfg *f = opaque;

    if (size == 8 && off == 0) {
        f->dma_addr = __builtin_bswap64(val);
        fw_dma_run(f);
    } else if (size == 4 && off == 0) {
        f->dma_addr = (uint64_t)__builtin_bswap32((uint32_t)val) << 32;
    } else if (size == 4 && off == 4) {
        f->dma_addr |= __builtin_bswap32((uint32_t)val);
        fw_dma_run(f);
    }
}

static const struct mem_ops fw_io_ops = {.read = fw_io_read,
                                         .write = fw_io_write,
                                         .valid_min = 1,
                                         .valid_max = 2,
                                         .impl_min = 1,
                                         .impl_max = 2,
                                         .unaligned = true};
static const struct mem_ops fw_dma_ops = {
    .read = fw_dma_io_read, .write = fw_dma_io_write, .valid_min = 1, .valid_max = 8, .impl_min = 1, .impl_max = 8};

/* ---- life cycle ---- */

static bool fw_realize(struct dev *d, struct err **errp)
{
    struct fw_cfg *f = (struct fw_cfg *)d;
    struct machine *m = dev_machine(d);

    mem_region_init_io(&f->io, m->mem_sys, &fw_io_ops, f, "fwcfg", FW_IO_LEN);
    mem_region_init_io(&f->dma_io, m->mem_sys, &fw_dma_ops, f, "fwcfg.dma", FW_DMA_LEN);
    dev_map_io(d, &f->io, FW_IO_BASE);
    dev_map_io(d, &f->dma_io, FW_DMA_BASE);
    fw_cfg_add_key(f, FW_CFG_SIGNATURE, "QEMU", 4);
    fw_cfg_add_u32(f, FW_CFG_ID, FW_ID_TRADITIONAL | FW_ID_DMA);
    return true;
}

static void fw_reset(struct dev *d)
{
    struct fw_cfg *f = (struct fw_cfg *)d;

    f->cur_key = FW_CFG_SIGNATURE;
    f->cur_off = 0;
    f->dma_addr = 0;
}

static void fw_free(struct obj *o)
{
    struct fw_cfg *f = (struct fw_cfg *)o;

    for (unsigned i = 0; i < FW_KEYS; i++) {
        fw_item_set(&f->item[i], NULL, 0);
        free(f->item[i].name);
    }
    for (unsigned i = 0; i < FW_ARCH_KEYS; i++)
        fw_item_set(&f->arch[i], NULL, 0);
}

static const struct state_field fw_state[] = {STATE_U32(struct fw_cfg, cur_key), STATE_U32(struct fw_cfg, cur_off),
                                              STATE_U64(struct fw_cfg, dma_addr), STATE_END};
static bool fw_loaded(void *obj, struct err **errp)
{
    struct fw_cfg *f = obj;

    if (f->cur_key > UINT16_MAX || !fw_item(f, (uint16_t)f->cur_key))
        f->cur_key = FW_NO_ITEM;
    return true;
}
static const struct state_desc fw_desc = {.name = "fw_cfg", .version = 1, .fields = fw_state, .post_load = fw_loaded};
static const struct dev_class fw_cfg_class = {.name = "fw_cfg_io",
                                              .desc = "Firmware configuration (ports 0x510-0x51b)",
                                              .size = sizeof(struct fw_cfg),
                                              .board_only = true,
                                              .realize = fw_realize,
                                              .reset = fw_reset,
                                              .free = fw_free,
                                              .state_desc = &fw_desc};
DEV_REGISTER(fw_cfg_class)

struct fw_cfg *fw_cfg_create_io(struct machine *m, struct err **errp)
{
    struct dev *d = dev_new(m, fw_cfg_class.name, errp);

    if (!d || !dev_realize(d, m->sysbus, NULL, errp))
        return NULL;
    return (struct fw_cfg *)d;
}

static void find_fw_cfg(struct dev *d, void *opaque)
{
    if (dev_class(d) == &fw_cfg_class)
        *(struct fw_cfg **)opaque = (struct fw_cfg *)d;
}

struct fw_cfg *fw_cfg_find(struct machine *m)
{
    struct fw_cfg *f = NULL;

    machine_each_dev(m, find_fw_cfg, &f);
    return f;
}
