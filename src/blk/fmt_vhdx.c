/* VHDX, after Microsoft's [MS-VHDX] 2.0: fixed and dynamic disks, with the log replayed when the file was not closed.
 *
 * Layout: file identifier at 0, two headers at 64 and 128 KiB (the one with the higher sequence number and a right
 * checksum counts), two region tables at 192 and 256 KiB, then log, block allocation table (BAT), metadata, payload
 * blocks on 1 MiB boundaries.
 *
 * Crash order. A file opened for writing gets, durably, a header with a new write identifier before its first change.
 *   V1  A payload block is written before its BAT entry: data, flush, then entry (as B1 of bat.h). New blocks lie at
 * the end. V2  The BAT entry of a block is one 8-byte word in one 4 KiB page; pages are changed through the log: the
 * entry with the new page is written and flushed, then the page in place and flushed; then the log is emptied by the
 * next header. V3  Headers are written alternately, the older one replaced, flushed between; one is always whole. Left
 * out: differencing disks (parent locators). */
#include "base/bytes.h"
#include "base/json.h"
#include "blk/fmt_util.h"
#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

enum {
    KB64 = 65536,
    PAGE = 4096,
    MAX_LOG = 64 << 20,
    LOOKS = 8,
    STATE_MASK = 7,
    NOT_PRESENT = 0,
    UNDEFINED = 1,
    ZERO = 2,
    UNMAPPED = 3,
    PRESENT = 6
};
#define MAX_BAT ((UINT64_C(64) << 20) / 8)

static const uint8_t guid_bat[16] = {0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
                                     0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08};
static const uint8_t guid_meta[16] = {0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
                                      0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e};
static const uint8_t guid_params[16] = {0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
                                        0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b};
static const uint8_t guid_size[16] = {0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48,
                                      0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8};
static const uint8_t guid_page83[16] = {0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45,
                                        0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46};
static const uint8_t guid_sector[16] = {0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
                                        0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f};
static const uint8_t guid_phys[16] = {0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44,
                                      0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56};

struct vhdx {
    uint8_t head[PAGE]; /* the current header */
    unsigned slot;      /* 0 or 1: where it lies */
    uint64_t bat_off, bat_len, log_off, log_len, meta_off, meta_len;
    uint64_t block, ratio, nr_bat;
    uint32_t sector;
    uint8_t *bat;                   /* owned: as in the file */
    uint8_t *dirty;                 /* owned: one byte per page */
    bool any_dirty, fixed, session; /* session: the header says we write */
    uint64_t end;                   /* where the next block goes */
    uint64_t log_seq;
    struct fibre_mutex lock;
};

/* CRC-32C, bit by bit from a table made on first need would be state; small enough to compute plainly. */
static uint32_t crc32c(const uint8_t *p, size_t n)
{
    uint32_t c = ~0u;

    while (n--) {
        c ^= *p++;
        for (int i = 0; i < 8; i++)
            c = c >> 1 ^ (0x82f63b78 & -(c & 1));
    }
    return ~c;
}

static bool sum_ok(uint8_t *b, size_t n)
{
    uint32_t want = get_le32(b + 4), got;

    put_le32(b + 4, 0);
    got = crc32c(b, n);
    put_le32(b + 4, want);
    return got == want;
}

static void sum_set(uint8_t *b, size_t n)
{
    put_le32(b + 4, 0);
    put_le32(b + 4, crc32c(b, n));
}

static void new_guid(uint8_t *g)
{
    if (getrandom(g, 16, 0) != 16)
        memset(g, 0x5a, 16);
    g[7] = (uint8_t)((g[7] & 0x0f) | 0x40);
    g[8] = (uint8_t)((g[8] & 0x3f) | 0x80);
}

static int vhdx_probe(const uint8_t *b, size_t n, const char *filename)
{
    return n >= 8 && !memcmp(b, "vhdxfile", 8) ? 100 : 0;
}

/* ---- headers ---- */

static bool read_headers(struct blk_node *n, struct err **errp)
{
    struct vhdx *s = n->priv;
    uint8_t h[2][PAGE];
    bool ok[2];

    for (int i = 0; i < 2; i++)
        ok[i] = blk_pread(n->file, (uint64_t)(i + 1) * KB64, h[i], PAGE) >= 0 && !memcmp(h[i], "head", 4) &&
                sum_ok(h[i], PAGE) && get_le16(h[i] + 66) == 1;
    if (!ok[0] && !ok[1])
        return err_set(errp, "vhdx: no valid header found");
    s->slot = ok[0] && (!ok[1] || get_le64(h[0] + 8) >= get_le64(h[1] + 8)) ? 0 : 1;
    memcpy(s->head, h[s->slot], PAGE);
    s->log_len = get_le32(s->head + 68);
    s->log_off = get_le64(s->head + 72);
    if (s->log_off & 0xfffff || s->log_len & 0xfffff || s->log_len > MAX_LOG || s->log_off < 1 << 20 ||
        s->log_off > INT64_MAX / 2)
        return err_set(errp, "vhdx: the log lies where it cannot be");
    return true;
}

/* V3. */
static int write_header(struct blk_node *n, bool new_file_guid)
{
    struct vhdx *s = n->priv;
    int r;

    put_le64(s->head + 8, get_le64(s->head + 8) + 1);
    if (new_file_guid)
        new_guid(s->head + 16);
    new_guid(s->head + 32);
    sum_set(s->head, PAGE);
    r = blk_pflush(n->file);
    if (r >= 0)
        r = blk_pwrite(n->file, (uint64_t)(2 - s->slot) * KB64, s->head, PAGE);
    if (r >= 0)
        r = blk_pflush(n->file);
    if (r >= 0)
        s->slot ^= 1;
    return r;
}

static bool log_empty(const struct vhdx *s)
{
    static const uint8_t zero[16];

    return !memcmp(s->head + 48, zero, 16);
}

/* ---- the log ---- */

struct entry {
    uint64_t at, len, seq, tail, descs; /* within the log */
    uint64_t file_len;
};

static int log_read(struct blk_node *n, uint64_t at, uint8_t *buf, uint64_t len)
{
    struct vhdx *s = n->priv;

    for (uint64_t done = 0; done < len; done += PAGE) {
        int r = blk_pread(n->file, s->log_off + (at + done) % s->log_len, buf + done, PAGE);

        if (r < 0)
            return r;
    }
    return 0;
}

/* Is there a whole, valid entry at `at`? Its pages in *buf (caller frees). *budget bounds the bytes looked at in all.
 */
static bool entry_at(struct blk_node *n, uint64_t at, struct entry *e, uint8_t **buf, uint64_t *budget)
{
    struct vhdx *s = n->priv;
    uint8_t h[PAGE], *b;
    uint64_t len, descs;

    *buf = NULL;
    if (log_read(n, at, h, PAGE) < 0 || memcmp(h, "loge", 4) != 0)
        return false;
    len = get_le32(h + 8);
    descs = get_le32(h + 24);
    if (!len || len % PAGE || len > s->log_len || memcmp(h + 32, s->head + 48, 16) != 0 || 64 + descs * 32 > len ||
        !get_le64(h + 16) || len > *budget)
        return false;
    *budget -= len;
    b = try_alloc(1, len);
    if (!b || log_read(n, at, b, len) < 0 || !sum_ok(b, len)) {
        free(b);
        return false;
    }
    *e = (struct entry){at, len, get_le64(b + 16), get_le32(b + 12), descs, get_le64(b + 48)};
    *buf = b;
    return true;
}

static int replay_entry(struct blk_node *n, const struct entry *e, uint8_t *b)
{
    uint64_t data = align_up(64 + e->descs * 32, PAGE);
    int r = 0;

    for (uint64_t i = 0; i < e->descs && r >= 0; i++) {
        uint8_t *d = b + 64 + i * 32;

        if (get_le64(d + 24) != e->seq || get_le64(d + 16) > INT64_MAX / 2)
            return -EINVAL;
        if (!memcmp(d, "zero", 4)) {
            r = get_le64(d + 8) > INT64_MAX / 2 ? -EINVAL
                                                : blk_pwrite_zeroes(n->file, get_le64(d + 16), get_le64(d + 8), 0);
        } else if (!memcmp(d, "desc", 4)) {
            uint8_t page[PAGE], *src = b + data;

            if (data + PAGE > e->len || memcmp(src, "data", 4) != 0 || get_le32(src + 4) != (uint32_t)(e->seq >> 32) ||
                get_le32(src + PAGE - 4) != (uint32_t)e->seq)
                return -EINVAL;
            memcpy(page, src, PAGE);
            memcpy(page, d + 8, 8);
            memcpy(page + PAGE - 4, d + 4, 4);
            r = blk_pwrite(n->file, get_le64(d + 16), page, PAGE);
            data += PAGE;
        } else {
            return -EINVAL;
        }
    }
    if (r >= 0 && e->file_len > n->file->node->size && e->file_len < INT64_MAX / 2)
        r = blk_node_truncate(n->file->node, e->file_len, BLK_PREALLOC_OFF, NULL);
    return r;
}

/* The entries of the log by the page they begin at (len 0: none there). NULL without memory. An entry is looked at
 * once, and all together for no more than LOOKS times the log: entries that claim to overlap each other cost no more.
 */
static struct entry *index_log(struct blk_node *n)
{
    struct vhdx *s = n->priv;
    uint64_t nr = s->log_len / PAGE, budget = LOOKS * s->log_len;
    struct entry *all = try_alloc(nr ? nr : 1, sizeof *all);

    for (uint64_t i = 0; all && i < nr; i++) {
        uint8_t *b;

        entry_at(n, i * PAGE, &all[i], &b, &budget);
        free(b);
    }
    return all;
}

/* The active sequence: the entries from some tail to the head, unbroken, ending in the highest sequence number. A
 * sequence ends where it no longer goes on, so only its last entry says where it has begun. Its length; 0 = none. */
static uint64_t active_sequence(const struct vhdx *s, const struct entry *all, uint64_t *tail)
{
    uint64_t nr = s->log_len / PAGE, best_seq = 0, best = 0;

    for (uint64_t i = 0; i < nr; i++) {
        const struct entry *last = &all[i], *e;
        uint64_t next = i, total = 0, pos;

        if (!last->len || last->seq <= best_seq || last->tail >= s->log_len || last->tail % PAGE)
            continue;
        next = (i + last->len / PAGE) % nr;
        if (all[next].len && all[next].seq == last->seq + 1)
            continue; /* not the last one */
        for (pos = last->tail / PAGE; total < s->log_len; pos = (pos + e->len / PAGE) % nr) {
            e = &all[pos];
            if (!e->len)
                break;
            total += e->len;
            if (pos == i || all[(pos + e->len / PAGE) % nr].seq != e->seq + 1)
                break;
        }
        if (pos != i || total > s->log_len)
            continue;
        best_seq = last->seq;
        best = total;
        *tail = last->tail;
    }
    return best;
}

static int replay_sequence(struct blk_node *n, uint64_t tail, uint64_t len, struct err **errp)
{
    struct vhdx *s = n->priv;
    uint64_t budget = s->log_len;
    int r = 0;

    for (uint64_t done = 0; done < len && r >= 0;) {
        struct entry e;
        uint8_t *b;

        if (!entry_at(n, (tail + done) % s->log_len, &e, &b, &budget)) {
            err_set(errp, "vhdx: the log changed while it was read");
            return -EINVAL;
        }
        r = replay_entry(n, &e, b);
        done += e.len;
        free(b);
    }
    if (r >= 0) {
        memset(s->head + 48, 0, 16);
        r = write_header(n, false);
    }
    if (r < 0)
        err_set_errno(errp, -r, "vhdx: the log could not be replayed");
    return r;
}

static bool replay(struct blk_node *n, struct err **errp)
{
    struct vhdx *s = n->priv;
    struct entry *all AUTOFREE = NULL;
    uint64_t tail = 0, len;

    if (log_empty(s))
        return true;
    all = index_log(n);
    len = all ? active_sequence(s, all, &tail) : 0;
    if (!len)
        return err_set(errp, "vhdx: the log is damaged: no complete sequence found");
    if (!(n->open_flags & BLK_O_RDWR)) {
        err_set(errp, "VHDX image file '%s' opened read-only, but contains a log that needs to be replayed",
                blk_node_filename(n->file->node));
        err_hint(errp, "To replay the log, run: qemu-img check -r all '%s'", blk_node_filename(n->file->node));
        return false;
    }
    return replay_sequence(n, tail, len, errp) >= 0;
}

/* V2: one entry holding the changed BAT pages, then the pages in place. */
static int log_pages(struct blk_node *n, const uint64_t *pages, unsigned nr)
{
    struct vhdx *s = n->priv;
    uint64_t head = align_up(64 + (uint64_t)nr * 32, PAGE), len = head + (uint64_t)nr * PAGE;
    uint8_t *b AUTOFREE = try_alloc(1, len);
    int r = 0;

    if (!b)
        return -ENOMEM;
    if (len > s->log_len)
        return -ENOSPC;
    memset(s->head + 48, 0, 16);
    new_guid(s->head + 48);
    s->log_seq++;
    memcpy(b, "loge", 4);
    put_le32(b + 8, (uint32_t)len);
    put_le32(b + 12, 0);
    put_le64(b + 16, s->log_seq);
    put_le32(b + 24, nr);
    memcpy(b + 32, s->head + 48, 16);
    put_le64(b + 48, n->file->node->size);
    put_le64(b + 56, n->file->node->size);
    for (unsigned i = 0; i < nr; i++) {
        uint8_t *d = b + 64 + (uint64_t)i * 32, *p = b + head + (uint64_t)i * PAGE;
        const uint8_t *src = s->bat + pages[i] * PAGE;

        memcpy(d, "desc", 4);
        memcpy(d + 4, src + PAGE - 4, 4);
        memcpy(d + 8, src, 8);
        put_le64(d + 16, s->bat_off + pages[i] * PAGE);
        put_le64(d + 24, s->log_seq);
        memcpy(p, "data", 4);
        put_le32(p + 4, (uint32_t)(s->log_seq >> 32));
        memcpy(p + 8, src + 8, PAGE - 12);
        put_le32(p + PAGE - 4, (uint32_t)s->log_seq);
    }
    sum_set(b, len);
    r = blk_pwrite(n->file, s->log_off, b, len);
    if (r >= 0)
        r = write_header(n, false); /* flushes data and log, then makes the log the current one, durably */
    for (unsigned i = 0; i < nr && r >= 0; i++)
        r = blk_pwrite(n->file, s->bat_off + pages[i] * PAGE, s->bat + pages[i] * PAGE, PAGE);
    if (r >= 0) {
        memset(s->head + 48, 0, 16); /* the pages are durable before the header that empties the log */
        r = write_header(n, false);
    }
    return r;
}

static int commit(struct blk_node *n)
{
    struct vhdx *s = n->priv;
    uint64_t pages[64];
    unsigned nr = 0;
    int r = 0;

    if (!s->any_dirty)
        return 0;
    for (uint64_t p = 0; p < s->bat_len / PAGE && r >= 0; p++) {
        if (s->dirty[p])
            pages[nr++] = p;
        if (nr == ARRAY_LEN(pages) || (nr && p + 1 == s->bat_len / PAGE)) {
            r = log_pages(n, pages, nr);
            nr = 0;
        }
    }
    if (r >= 0) {
        memset(s->dirty, 0, s->bat_len / PAGE);
        s->any_dirty = false;
    }
    return r;
}

/* ---- opening ---- */

static bool read_regions(struct blk_node *n, struct err **errp)
{
    struct vhdx *s = n->priv;
    uint8_t *t AUTOFREE = try_alloc(1, KB64);
    uint32_t nr;
    bool ok = false;

    if (!t)
        return err_set(errp, "no memory");
    for (int i = 0; i < 2 && !ok; i++)
        ok = blk_pread(n->file, (uint64_t)(i + 3) * KB64, t, KB64) >= 0 && !memcmp(t, "regi", 4) && sum_ok(t, KB64);
    nr = ok ? get_le32(t + 8) : 0;
    if (!ok || nr > 2047)
        return err_set(errp, "vhdx: no valid region table found");
    for (uint32_t i = 0; i < nr; i++) {
        const uint8_t *e = t + 16 + i * 32;
        uint64_t off = get_le64(e + 16), len = get_le32(e + 24);

        if (off & 0xfffff || len & 0xfffff || off < 1 << 20 || off > INT64_MAX / 2)
            return err_set(errp, "vhdx: a region lies where it cannot be");
        if (!memcmp(e, guid_bat, 16)) {
            s->bat_off = off;
            s->bat_len = len;
        } else if (!memcmp(e, guid_meta, 16)) {
            s->meta_off = off;
            s->meta_len = len;
        } else if (get_le32(e + 28) & 1) {
            return err_set(errp, "vhdx: the file needs a region this program does not know");
        }
    }
    return s->bat_off && s->meta_off ? true : err_set(errp, "vhdx: block table or metadata region is missing");
}

static bool read_metadata(struct blk_node *n, struct err **errp)
{
    struct vhdx *s = n->priv;
    uint8_t *t AUTOFREE = try_alloc(1, KB64), v[16];
    uint32_t nr;
    unsigned seen = 0;
    int r = t ? blk_pread(n->file, s->meta_off, t, KB64) : -ENOMEM;

    if (r < 0)
        return err_set_errno(errp, -r, "vhdx: cannot read the metadata");
    nr = get_le16(t + 10);
    if (memcmp(t, "metadata", 8) != 0 || nr > 2047)
        return err_set(errp, "vhdx: the metadata table is invalid");
    for (uint32_t i = 0; i < nr; i++) {
        const uint8_t *e = t + 32 + i * 32;
        uint32_t off = get_le32(e + 16), len = get_le32(e + 20);

        if (off < KB64 || off > s->meta_len || len > s->meta_len - off)
            return err_set(errp, "vhdx: a metadata item is out of range");
        memset(v, 0, sizeof v);
        if (len && blk_pread(n->file, s->meta_off + off, v, min_u64(len, 16)) < 0)
            return err_set(errp, "vhdx: cannot read a metadata item");
        if (!memcmp(e, guid_params, 16)) {
            s->block = get_le32(v);
            s->fixed = get_le32(v + 4) & 1;
            if (get_le32(v + 4) & 2)
                return err_set(errp, "vhdx: differencing disks are not available");
            seen |= 1;
        } else if (!memcmp(e, guid_size, 16)) {
            n->size = get_le64(v);
            seen |= 2;
        } else if (!memcmp(e, guid_sector, 16)) {
            s->sector = get_le32(v);
            seen |= 4;
        } else if (memcmp(e, guid_page83, 16) && memcmp(e, guid_phys, 16) && get_le32(e + 24) & 4) {
            return err_set(errp, "vhdx: the file needs a metadata item this program does not know");
        }
    }
    if (seen != 7)
        return err_set(errp, "vhdx: required metadata is missing");
    if (!is_pow2(s->block) || s->block < 1 << 20 || s->block > 256 << 20 || (s->sector != 512 && s->sector != 4096))
        return err_set(errp, "vhdx: block size %" PRIu64 " or sector size %u is out of range", s->block, s->sector);
    if (n->size > UINT64_C(64) << 40 || n->size % s->sector)
        return err_set(errp, "vhdx: disk size %" PRIu64 " is out of range", n->size);
    return true;
}

static bool read_bat(struct blk_node *n, struct err **errp)
{
    struct vhdx *s = n->priv;
    uint64_t blocks = div_up(n->size, s->block);
    int r;

    s->ratio = (UINT64_C(1) << 23) * s->sector / s->block;
    s->nr_bat = blocks ? blocks + (blocks - 1) / s->ratio : 0;
    if (s->nr_bat > MAX_BAT || s->nr_bat * 8 > s->bat_len)
        return err_set(errp, "vhdx: the block table is too small for the disk");
    s->bat = try_alloc(1, s->bat_len);
    s->dirty = try_alloc(1, s->bat_len / PAGE + 1);
    r = s->bat && s->dirty ? blk_pread(n->file, s->bat_off, s->bat, s->bat_len) : -ENOMEM;
    if (r < 0)
        return err_set_errno(errp, -r, "vhdx: cannot read the block table");
    s->end = align_up(n->file->node->size, 1 << 20);
    for (uint64_t i = 0; i < s->nr_bat; i++) {
        uint64_t e = get_le64(s->bat + i * 8), off = e & ~UINT64_C(0xfffff);

        if ((e & STATE_MASK) == PRESENT && (i + 1) % (s->ratio + 1) != 0) {
            if (off < 1 << 20 || off > INT64_MAX / 2 || (off < s->bat_off + s->bat_len && s->bat_off < off + s->block))
                return err_set(errp, "vhdx: block %" PRIu64 " lies where it cannot be", i);
            s->end = max_u64(s->end, off + s->block);
        }
    }
    return true;
}

static void vhdx_close(struct blk_node *n)
{
    struct vhdx *s = n->priv;

    free(s->bat);
    free(s->dirty);
}

static bool vhdx_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct vhdx *s = n->priv;
    uint8_t id[8];

    fibre_mutex_init(&s->lock);
    if (blk_pread(n->file, 0, id, 8) < 0 || memcmp(id, "vhdxfile", 8) != 0)
        return err_set(errp, "Image not in VHDX format");
    if (!read_headers(n, errp) || !replay(n, errp) || !read_regions(n, errp) || !read_metadata(n, errp) ||
        !read_bat(n, errp)) {
        vhdx_close(n);
        return false;
    }
    n->cluster_size = (uint32_t)s->block;
    n->zero_align = (uint32_t)s->block;
    return true;
}

/* ---- requests ---- */

static uint64_t bat_index(const struct vhdx *s, uint64_t block)
{
    return block + block / s->ratio;
}

static uint64_t host_of(const struct vhdx *s, uint64_t block)
{
    uint64_t e = get_le64(s->bat + bat_index(s, block) * 8);

    return (e & STATE_MASK) == PRESENT ? e & ~UINT64_C(0xfffff) : 0;
}

static uint64_t host_in(struct blk_node *n, uint64_t i)
{
    return host_of(n->priv, i);
}

static int vhdx_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                       unsigned flags)
{
    struct vhdx *s = n->priv;

    return blk_mapped_read(n, s->block, host_in, off, len, q, qoff);
}

static int begin_session(struct blk_node *n)
{
    struct vhdx *s = n->priv;
    int r = s->session ? 0 : write_header(n, true);

    if (r >= 0)
        s->session = true;
    return r;
}

static int new_block(struct blk_node *n, uint64_t block, uint64_t in, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct vhdx *s = n->priv;
    uint64_t at = max_u64(s->end, align_up(n->file->node->size, 1 << 20)), i = bat_index(s, block);
    int r = blk_pwritev(n->file, at + in, len, q, qoff, 0); /* the rest is beyond the end of the file: zeros */

    if (r >= 0 && n->file->node->size < at + s->block)
        r = blk_node_truncate(n->file->node, at + s->block, BLK_PREALLOC_OFF, NULL);
    if (r < 0)
        return r;
    s->end = at + s->block;
    put_le64(s->bat + i * 8, at | PRESENT);
    s->dirty[i * 8 / PAGE] = 1;
    s->any_dirty = true;
    return 0;
}

static int vhdx_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                        unsigned flags)
{
    struct vhdx *s = n->priv;

    while (len) {
        uint64_t in = off & (s->block - 1), part = min_u64(len, s->block - in),
                 host = s->session ? host_of(s, off / s->block) : 0;
        int r = 1;

        if (!host) {
            fibre_mutex_lock(&s->lock);
            r = begin_session(n);
            host = host_of(s, off / s->block);
            if (r >= 0)
                r = host ? 1 : new_block(n, off / s->block, in, part, q, qoff);
            fibre_mutex_unlock(&s->lock);
        }
        if (r == 1)
            r = blk_pwritev(n->file, host + in, part, q, qoff, 0);
        if (r < 0)
            return r;
        off += part;
        qoff += part;
        len -= part;
    }
    return 0;
}

static int vhdx_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct vhdx *s = n->priv;

    for (uint64_t at = off; at < off + len; at += s->block) {
        uint64_t host = host_of(s, at / s->block);
        int r = 0;

        if (host) {
            fibre_mutex_lock(&s->lock);
            r = begin_session(n);
            fibre_mutex_unlock(&s->lock);
            if (r >= 0)
                r = blk_pwrite_zeroes(n->file, host, min_u64(s->block, off + len - at), 0);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

static int vhdx_flush(struct blk_node *n)
{
    struct vhdx *s = n->priv;
    int r;

    fibre_mutex_lock(&s->lock);
    r = commit(n);
    fibre_mutex_unlock(&s->lock);
    return r;
}

static int vhdx_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
    struct vhdx *s = n->priv;

    return blk_mapped_status(n, s->block, host_in, off, len, e);
}

static int vhdx_check(struct blk_node *n, struct blk_check *c, unsigned fix)
{
    struct vhdx *s = n->priv;
    uint64_t mbs = div_up(n->file->node->size, 1 << 20);
    uint8_t *seen AUTOFREE = try_alloc(1, mbs + 1);

    if (!seen)
        return -ENOMEM;
    for (uint64_t b = 0; b * s->block < n->size; b++) {
        uint64_t host = host_of(s, b);

        c->total_clusters++;
        if (!host)
            continue;
        c->allocated_clusters++;
        if (host + s->block > n->file->node->size) {
            c->corruptions++;
            continue;
        }
        for (uint64_t m = host >> 20; m < (host + s->block) >> 20; m++) {
            c->corruptions += seen[m];
            seen[m] = 1;
        }
    }
    c->have_clusters = true;
    return 0;
}

/* ---- creation ---- */

static void region(uint8_t *e, const uint8_t *guid, uint64_t off, uint64_t len)
{
    memcpy(e, guid, 16);
    put_le64(e + 16, off);
    put_le32(e + 24, (uint32_t)len);
    put_le32(e + 28, 1);
}

static void item(uint8_t *t, unsigned i, const uint8_t *guid, uint32_t off, uint32_t len, uint32_t flags)
{
    uint8_t *e = t + 32 + i * 32;

    memcpy(e, guid, 16);
    put_le32(e + 16, KB64 + off);
    put_le32(e + 20, len);
    put_le32(e + 24, flags);
}

static int lay_out(struct blk_node *f, uint64_t size, uint64_t block, uint64_t log_len, bool fixed)
{
    uint64_t ratio = (UINT64_C(1) << 23) * 512 / block, blocks = div_up(size, block),
             nr = blocks ? blocks + (blocks - 1) / ratio : 0;
    uint64_t bat_len = max_u64(align_up(nr * 8, 1 << 20), 1 << 20), log = 1 << 20, bat = log + log_len,
             meta = bat + bat_len;
    uint64_t data = meta + (1 << 20);
    uint8_t *b AUTOFREE = try_alloc(1, KB64), v[48] = {0};
    int r;

    if (!b)
        return -ENOMEM;
    r = blk_node_truncate(f, data + (fixed ? blocks * block : 0), BLK_PREALLOC_OFF, NULL);
    put_le32(v, (uint32_t)block);
    put_le32(v + 4, fixed ? 1 : 0);
    put_le64(v + 8, size);
    new_guid(v + 16);
    put_le32(v + 32, 512);
    put_le32(v + 36, 4096);
    if (r >= 0)
        r = blk_node_pwrite(f, meta + KB64, v, sizeof v);
    memcpy(b, "metadata", 8);
    put_le16(b + 10, 5);
    item(b, 0, guid_params, 0, 8, 4);
    item(b, 1, guid_size, 8, 8, 6);
    item(b, 2, guid_page83, 16, 16, 6);
    item(b, 3, guid_sector, 32, 4, 6);
    item(b, 4, guid_phys, 36, 4, 6);
    if (r >= 0)
        r = blk_node_pwrite(f, meta, b, KB64);
    for (uint64_t i = 0; i < blocks && r >= 0 && fixed; i++) {
        uint8_t e[8];

        put_le64(e, (data + i * block) | PRESENT);
        r = blk_node_pwrite(f, bat + (i + i / ratio) * 8, e, 8);
    }
    memset(b, 0, KB64);
    memcpy(b, "regi", 4);
    put_le32(b + 8, 2);
    region(b + 16, guid_bat, bat, bat_len);
    region(b + 48, guid_meta, meta, 1 << 20);
    sum_set(b, KB64);
    for (int i = 0; i < 2 && r >= 0; i++)
        r = blk_node_pwrite(f, (uint64_t)(3 + i) * KB64, b, KB64);
    for (int i = 0; i < 2 && r >= 0; i++) {
        memset(b, 0, PAGE);
        memcpy(b, "head", 4);
        put_le64(b + 8, (uint64_t)i + 1);
        new_guid(b + 16);
        new_guid(b + 32);
        put_le16(b + 66, 1);
        put_le32(b + 68, (uint32_t)log_len);
        put_le64(b + 72, log);
        sum_set(b, PAGE);
        r = blk_node_pwrite(f, (uint64_t)(1 + i) * KB64, b, PAGE);
    }
    memset(b, 0, 64);
    memcpy(b, "vhdxfile", 8);
    for (int i = 0; i < 8; i++)
        b[8 + i * 2] = (uint8_t) "Lyrebird"[i];
    return r < 0 ? r : blk_node_pwrite(f, 0, b, 64);
}

static bool vhdx_create(struct blk_set *set, const char *filename, struct opts *o, struct err **errp)
{
    const char *type = opts_get(o, "subformat");
    uint64_t size = 0, block = 0, log = 1 << 20;
    bool fixed = type && !strcmp(type, "fixed"), zero = true;
    struct blk_node *f;
    int r;

    if (type && !fixed && strcmp(type, "dynamic") != 0)
        return err_set(errp, "Invalid parameter '%s'", type);
    if (!opts_size(o, "size", &size, errp) || !opts_size(o, "block_size", &block, errp) ||
        !opts_size(o, "log_size", &log, errp) || !opts_bool(o, "block_state_zero", &zero, errp))
        return false;
    size = align_up(size, 512);
    if (!block) /* larger disks get larger blocks */
        block = size > UINT64_C(32) << 40    ? 64 << 20
                : size > UINT64_C(100) << 30 ? 32 << 20
                : size > UINT64_C(1) << 30   ? 16 << 20
                                             : 8 << 20;
    if (!is_pow2(block) || block < 1 << 20 || block > 256 << 20)
        return err_set(errp, "Block size must be a power of two between 1 MiB and 256 MiB");
    if (!log || log & 0xfffff || log > MAX_LOG)
        return err_set(errp, "Log size must be a multiple of 1 MB");
    if (size > UINT64_C(64) << 40)
        return err_set(errp, "Image size too large; max of 64TB");
    f = blk_create_file(set, filename, 0, o, errp);
    if (!f)
        return false;
    r = lay_out(f, size, block, log, fixed);
    blk_node_unref(f);
    return r >= 0 || err_set_errno(errp, -r, "Error writing %s", filename);
}

static const struct blk_create_opt vhdx_create_opts[] = {
    {"block_size", "size", "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.", "0"},
    {"block_state_zero", "bool (on/off)",
     "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when using 'qemu-img "
     "convert' with subformat=dynamic.",
     NULL},
    {"log_size", "size", "Log size; min 1MB.", "1048576"},
    {"size", "size", "Virtual disk size", NULL},
    {"subformat", "str", "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.", NULL},
    {NULL},
};

static const struct blk_driver drv_vhdx = {
    .name = "vhdx",
    .kind = BLK_FORMAT,
    .priv_size = sizeof(struct vhdx),
    .probe = vhdx_probe,
    .open = vhdx_open,
    .close = vhdx_close,
    .preadv = vhdx_preadv,
    .pwritev = vhdx_pwritev,
    .pwrite_zeroes = vhdx_zeroes,
    .flush = vhdx_flush,
    .block_status = vhdx_status,
    .check = vhdx_check,
    .create = vhdx_create,
    .create_opts = vhdx_create_opts,
};
BLK_REGISTER(drv_vhdx)
