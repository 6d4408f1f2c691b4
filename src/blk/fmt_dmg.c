/* Apple disk images (UDIF), reading only, after published descriptions of the "koly" trailer and the "mish" tables: the
 * trailer ends the file and names a property list, whose blkx entries hold, in base64, tables of chunks that are raw,
 * zero, zlib or bzip2. Left out: resource forks without a property list, ADC, LZFSE and LZMA chunks, encryption,
 * segments; each is refused by name. */
#include "base/str.h"
#include "blk/compress.h"
#include "blk/fmt_util.h"
#include <errno.h>

enum { KOLY = 512, MISH = 204, ENTRY = 40, MAX_PLIST = 32 << 20, MAX_CHUNK = 64 << 20, MAX_CHUNKS = 1 << 22 };
enum { C_ZERO = 0, C_RAW = 1, C_IGNORE = 2 };
#define C_ADC     0x80000004u
#define C_ZLIB    0x80000005u
#define C_BZIP2   0x80000006u
#define C_COMMENT 0x7ffffffeu
#define C_END     0xffffffffu

struct chunk {
    uint64_t start, len, off, clen; /* start, len: of the disk, in bytes */
    uint32_t type;
};
struct dmg {
    struct chunk *c; /* owned, in order of start */
    size_t nr, cap;
    uint8_t *cache; /* owned */
    size_t cached;  /* chunk in it + 1 */
    struct fibre_mutex lock;
};

static int dmg_probe(const uint8_t *b, size_t n, const char *filename)
{
    size_t len = filename ? strlen(filename) : 0;

    return len > 4 && !strcmp(filename + len - 4, ".dmg") ? 2 : 0;
}

static bool add_chunk(struct dmg *s, const struct chunk *c, struct err **errp)
{
    if (s->nr == MAX_CHUNKS)
        return err_set(errp, "dmg: too many chunks");
    if (s->nr == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 256;
        s->c = xrealloc(s->c, s->cap * sizeof *s->c);
    }
    s->c[s->nr++] = *c;
    return true;
}

static bool take_entry(struct blk_node *n, const uint8_t *e, uint64_t first, uint64_t fork, struct err **errp)
{
    struct dmg *s = n->priv;
    struct chunk c = {.type = get_be32(e)};
    uint64_t sector, count = get_be64(e + 16), end;

    if (c.type == C_COMMENT || c.type == C_END || !count)
        return true;
    if (c.type != C_ZERO && c.type != C_RAW && c.type != C_IGNORE && c.type != C_ZLIB && c.type != C_BZIP2)
        return err_set(errp, "dmg: chunks of type 0x%08x%s are not available", c.type, c.type == C_ADC ? " (ADC)" : "");
    if (!add_ok_u64(first, get_be64(e + 8), &sector) || !add_ok_u64(sector, count, &end) || end > INT64_MAX / 512)
        return err_set(errp, "dmg: a chunk lies outside any disk");
    c.start = sector * 512;
    c.len = count * 512;
    c.clen = get_be64(e + 32);
    if (!add_ok_u64(fork, get_be64(e + 24), &c.off) || c.off > INT64_MAX || c.clen > INT64_MAX)
        return err_set(errp, "dmg: a chunk's offset is out of range");
    if ((c.type == C_ZLIB || c.type == C_BZIP2) && (c.len > MAX_CHUNK || c.clen > MAX_CHUNK))
        return err_set(errp, "dmg: a compressed chunk is larger than %d MiB", MAX_CHUNK >> 20);
    if (c.type == C_RAW && c.clen < c.len)
        return err_set(errp, "dmg: a raw chunk is shorter than the sectors it stands for");
    n->size = max_u64(n->size, end * 512);
    return add_chunk(s, &c, errp);
}

static bool take_mish(struct blk_node *n, const uint8_t *m, size_t len, uint64_t fork, struct err **errp)
{
    uint32_t nr;

    if (len < MISH || memcmp(m, "mish", 4) != 0)
        return true; /* another kind of resource */
    nr = get_be32(m + 200);
    if (nr > (len - MISH) / ENTRY)
        return err_set(errp, "dmg: a table of chunks is cut short");
    for (uint32_t i = 0; i < nr; i++)
        if (!take_entry(n, m + MISH + (size_t)i * ENTRY, get_be64(m + 8), fork + get_be64(m + 24), errp))
            return false;
    return true;
}

static bool is_base64(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/';
}

static size_t decode(const char *p, const char *end, uint8_t *out)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t v = 0;
    unsigned bits = 0;
    size_t n = 0;

    for (; p < end; p++) {
        if (!is_base64(*p))
            continue;
        v = v << 6 | (uint32_t)(strchr(set, *p) - set);
        bits += 6;
        if (bits >= 8)
            out[n++] = (uint8_t)(v >> (bits -= 8));
    }
    return n;
}

/* Every <data> element of the list; those that hold a chunk table are taken. */
static bool take_plist(struct blk_node *n, const char *text, uint64_t fork, struct err **errp)
{
    const char *p = text;

    while ((p = strstr(p, "<data>"))) {
        const char *end = strstr(p, "</data>");
        uint8_t *m;
        size_t len;
        bool ok;

        if (!end)
            return err_set(errp, "dmg: the property list is cut short");
        m = xmalloc((size_t)(end - p));
        len = decode(p + 6, end, m);
        ok = take_mish(n, m, len, fork, errp);
        free(m);
        if (!ok)
            return false;
        p = end;
    }
    return true;
}

static int by_start(const void *a, const void *b)
{
    const struct chunk *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

static bool load_plist(struct blk_node *n, const uint8_t *k, struct err **errp)
{
    uint64_t off = get_be64(k + 0xd8), len = get_be64(k + 0xe0), size = n->file->node->size;
    char *text AUTOFREE = NULL;
    int r;

    if (!len)
        return err_set(errp, "dmg: images without a property list are not available");
    if (len > MAX_PLIST || off > size || len > size - off)
        return err_set(errp, "dmg: the property list is out of range");
    text = try_alloc(1, len + 1);
    if (!text)
        return err_set(errp, "dmg: no memory");
    r = blk_pread(n->file, off, text, len);
    if (r < 0)
        return err_set_errno(errp, -r, "dmg: cannot read the property list");
    return take_plist(n, text, get_be64(k + 0x18), errp);
}

static bool dmg_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct dmg *s = n->priv;
    uint64_t size = n->file->node->size, biggest = 0;
    uint8_t k[KOLY];
    int r = size < KOLY ? -EINVAL : blk_pread(n->file, size - KOLY, k, KOLY);

    fibre_mutex_init(&s->lock);
    n->open_flags &= ~(unsigned)BLK_O_RDWR;
    if (r < 0 || memcmp(k, "koly", 4) != 0)
        return err_set(errp, "dmg: the file has no trailer of a disk image");
    n->size = 0;
    if (!load_plist(n, k, errp))
        goto fail;
    qsort(s->c, s->nr, s->nr ? sizeof *s->c : 1, by_start);
    for (size_t i = 0; i < s->nr; i++) {
        if (i && s->c[i].start < s->c[i - 1].start + s->c[i - 1].len) {
            err_set(errp, "dmg: chunks overlap");
            goto fail;
        }
        if (s->c[i].type == C_ZLIB || s->c[i].type == C_BZIP2)
            biggest = max_u64(biggest, s->c[i].len);
    }
    s->cache = try_alloc(1, biggest + 1);
    if (s->cache)
        return true;
    err_set(errp, "dmg: no memory");
fail:
    free(s->c);
    return false;
}

static void dmg_close(struct blk_node *n)
{
    struct dmg *s = n->priv;

    free(s->c);
    free(s->cache);
}

/* The first chunk that ends beyond off; nr = none. */
static size_t find(const struct dmg *s, uint64_t off)
{
    size_t lo = 0, hi = s->nr;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (s->c[mid].start + s->c[mid].len <= off)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static int load(struct blk_node *n, size_t i)
{
    struct dmg *s = n->priv;
    const struct chunk *c = &s->c[i];
    uint8_t *src AUTOFREE = NULL;
    int r;

    if (s->cached == i + 1)
        return 0;
    src = try_alloc(1, c->clen + 1);
    if (!src)
        return -ENOMEM;
    s->cached = 0;
    r = blk_pread(n->file, c->off, src, c->clen);
    if (r >= 0)
        r = blk_decompress(n->set, c->type == C_ZLIB ? BLK_ZLIB : BLK_BZIP2, src, c->clen, s->cache, c->len);
    if (r >= 0)
        s->cached = i + 1;
    return r;
}

static int dmg_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                      unsigned flags)
{
    struct dmg *s = n->priv;
    int r = 0;

    fibre_mutex_lock(&s->lock);
    while (len && r >= 0) {
        size_t i = find(s, off);
        const struct chunk *c = i < s->nr ? &s->c[i] : NULL;
        bool in = c && c->start <= off;
        uint64_t part = in ? min_u64(len, c->start + c->len - off) : c ? min_u64(len, c->start - off) : len;

        if (!in || c->type == C_ZERO || c->type == C_IGNORE) {
            iov_set(q, qoff, 0, part);
        } else if (c->type == C_RAW) {
            r = blk_preadv(n->file, c->off + (off - c->start), part, q, qoff, 0);
        } else {
            r = load(n, i);
            if (r >= 0)
                iov_from_buf(q, qoff, s->cache + (off - c->start), part);
        }
        off += part;
        qoff += part;
        len -= part;
    }
    fibre_mutex_unlock(&s->lock);
    return r;
}

static const struct blk_driver drv_dmg = {.name = "dmg",
                                          .kind = BLK_FORMAT,
                                          .priv_size = sizeof(struct dmg),
                                          .probe = dmg_probe,
                                          .open = dmg_open,
                                          .close = dmg_close,
                                          .preadv = dmg_preadv};
BLK_REGISTER(drv_dmg)
