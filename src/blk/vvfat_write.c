/* Writing to a folder disk (fat:rw:DIR). After Microsoft's "FAT: General Overview of On-Disk Format" 1.03.
 *
 * What the guest writes goes into an unnamed temporary file, sector by sector, beside the disk that was made from the
 * folder. At every flush, and a second after the last write (few guests flush), the disk is read as FAT: when it is in
 * order from the first sector to the last entry, what changed since the last time is done in the folder; when it is not
 * (a guest may pause half way through), the folder stays as it was, and the next time comes. What is left undone at the
 * end is told.
 *
 * Rules for the folder:
 *  R1. Nothing outside it is touched: names with "/", "." and ".." are no names, every component of a path is opened
 *      without following links, and what is not a plain file or folder (a link, a device) is never replaced.
 *  R2. A file is never changed in place: the new one is written beside it, synced, and renamed over it.
 *  R3. Folders are made first, then files written, then what is gone is removed: at any moment each file is there with
 *      the old or the new contents.
 *  R4. Before a file is replaced or removed, its bytes that the disk still takes from there move to the temporary file.
 *
 * Left out: attributes other than the time of change (hidden, read-only), a second FAT that differs (not in order).
 * While the machine runs nobody else should change the folder. */
#include "base/bytes.h"
#include "blk/blk_int.h"
#include "blk/vvfat.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DELETED = 0xe5, MAX_DIR_BYTES = 1 << 21, LFN_LAST = 0x40, LFN_MAX = 20, PIECE = 1 << 16 };

/* A file or folder as the disk has it. */
struct vnode {
    char *path; /* owned */
    bool is_dir;
    uint32_t size;
    uint32_t *chain; /* owned: nr clusters */
    uint32_t nr;
    time_t when;
    bool again; /* the folder does not have it as it should be: to be tried once more */
};
struct tree {
    struct vnode *v; /* owned; sorted by path once read */
    unsigned nr, cap;
};
struct vvfat_rw {
    int fd;                    /* owned: written sectors, at their place */
    uint64_t *written, *dirty; /* owned: bit per sector: in fd; since the last time the folder was brought up */
    uint64_t sectors;
    bool changed;
    struct fibre_mutex lock;
    struct clk *clk; /* borrowed; NULL in tools: they flush */
    struct clk_timer quiet;
    bool busy;          /* a fibre of the timer's is at work */
    struct blk_node *n; /* borrowed */
    struct tree cur;    /* what the folder has */
    char why[200];      /* of the last time it was not in order */
    unsigned trouble;   /* of the last time: what could not be done */
};

static bool bit_get(const uint64_t *b, uint64_t i)
{
    return b[i / 64] >> (i % 64) & 1;
}
static void bit_set(uint64_t *b, uint64_t i)
{
    b[i / 64] |= UINT64_C(1) << (i % 64);
}

static void tree_free(struct tree *t)
{
    for (unsigned i = 0; i < t->nr; i++) {
        free(t->v[i].path);
        free(t->v[i].chain);
    }
    free(t->v);
    *t = (struct tree){0};
}

/* ---- sectors ---- */

static int sector_read(struct vvfat *s, uint64_t sec, uint8_t *buf)
{
    if (!bit_get(s->rw->written, sec)) {
        vvfat_made_sector(s, sec, buf);
        return 0;
    }
    return pread(s->rw->fd, buf, SECT, (off_t)(sec * SECT)) == SECT ? 0 : -EIO;
}

static int sector_write(struct vvfat *s, uint64_t sec, const uint8_t *buf)
{
    ssize_t n = pwrite(s->rw->fd, buf, SECT, (off_t)(sec * SECT));

    if (n != SECT)
        return n < 0 ? -errno : -ENOSPC;
    bit_set(s->rw->written, sec);
    return 0;
}

static int cluster_read(struct vvfat *s, uint32_t c, uint8_t *buf)
{
    int r = 0;

    for (unsigned i = 0; i < s->spc && !r; i++)
        r = sector_read(s, vvfat_cluster_sector(s, c) + i, buf + i * SECT);
    return r;
}

/* ---- reading the disk as FAT ---- */

struct reader {
    struct vvfat *s;
    struct tree *t;
    uint8_t *fat;   /* owned */
    uint8_t *used;  /* owned: clusters that belong to somebody */
    const char *at; /* borrowed: the folder being read */
};

static bool wrong(struct reader *r, const char *fmt, ...) PRINTF_FMT(2, 3);
static bool wrong(struct reader *r, const char *fmt, ...)
{
    char *why = r->s->rw->why;
    size_t cap = sizeof r->s->rw->why;
    int n = r->at ? snprintf(why, cap, "folder '%.80s': ", r->at) : 0;
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why + n, cap - (size_t)n, fmt, ap);
    va_end(ap);
    return false;
}

static uint32_t fat_get(const struct reader *r, uint32_t c)
{
    if (r->s->bits == 32)
        return get_le32(r->fat + (size_t)c * 4) & 0x0fffffff;
    if (r->s->bits == 16)
        return get_le16(r->fat + (size_t)c * 2);
    uint16_t v = get_le16(r->fat + c * 3 / 2);
    return c & 1 ? v >> 4 : v & 0xfff;
}

static uint32_t end_mark(const struct reader *r)
{
    return r->s->bits == 32 ? 0x0ffffff8 : r->s->bits == 16 ? 0xfff8 : 0xff8;
}

/* The clusters from `first`; each may be somebody's only once. */
static bool follow(struct reader *r, uint32_t first, uint32_t **chain, uint32_t *nr)
{
    uint32_t cap = 0, last = (uint32_t)(r->s->clusters + 1);

    *chain = NULL;
    *nr = 0;
    for (uint32_t c = first; c < end_mark(r) || c < 2; c = fat_get(r, c)) {
        if (c < 2 || c > last)
            return wrong(r, "a chain leads to cluster %u", c);
        if (r->used[c / 8] >> (c % 8) & 1)
            return wrong(r, "cluster %u belongs to two", c);
        r->used[c / 8] |= (uint8_t)(1u << (c % 8));
        if (*nr == cap) {
            cap = cap * 2 + 8;
            *chain = xrealloc(*chain, cap * sizeof **chain);
        }
        (*chain)[(*nr)++] = c;
    }
    return true;
}

/* Boot sector and partition table are as they were made, but for the bits a driver keeps there; both FATs are alike. */
static bool frame_ok(struct reader *r)
{
    struct vvfat *s = r->s;
    unsigned fields = s->bits == 32 ? 52 : 36;
    uint8_t b[SECT], b2[SECT];
    uint64_t at = (uint64_t)s->part + s->reserved;

    if (s->part && (sector_read(s, 0, b) || memcmp(b + 446, s->mbr + 446, 66)))
        return wrong(r, "the partition table was changed");
    if (sector_read(s, s->part, b) || memcmp(b + 11, s->boot + 11, fields - 11) || get_le16(b + 510) != 0xaa55)
        return wrong(r, "the disk was formatted anew");
    for (uint32_t i = 0; i < s->fat_sectors; i++) {
        if (sector_read(s, at + i, b) || sector_read(s, at + s->fat_sectors + i, b2))
            return wrong(r, "it cannot be read");
        if (memcmp(b, b2, SECT))
            return wrong(r, "the two FATs differ");
        memcpy(r->fat + (size_t)i * SECT, b, SECT);
    }
    return true;
}

/* ---- names ---- */

struct lfn {
    uint16_t u[LFN_MAX * 13 + 1];
    unsigned want; /* the next part that must come, 0 = complete or none */
    bool some;
    uint8_t sum;
};

static uint8_t short_sum(const uint8_t *name)
{
    uint8_t sum = 0;

    for (int i = 0; i < 11; i++)
        sum = (uint8_t)(((sum & 1) << 7 | sum >> 1) + name[i]);
    return sum;
}

/* One part of a long name; parts that do not fit together are as if they were not there. */
static void lfn_take(struct lfn *l, const uint8_t *e)
{
    static const uint8_t at[13] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};
    unsigned k = e[0] & 0x3f;

    if (e[0] & LFN_LAST && k >= 1 && k <= LFN_MAX) {
        memset(l->u, 0, sizeof l->u);
        l->some = true;
        l->want = k;
        l->sum = e[13];
    }
    if (!l->some || !k || k != l->want || e[13] != l->sum) {
        l->some = false;
        return;
    }
    for (int i = 0; i < 13; i++)
        l->u[(k - 1) * 13 + (unsigned)i] = get_le16(e + at[i]);
    l->want = k - 1;
}

/* UTF-16 to UTF-8; false when it is none, or too long for a file name. */
static bool to_utf8(const uint16_t *u, char *out, size_t cap)
{
    size_t n = 0;

    for (; *u; u++) {
        uint32_t c = *u;

        if (c >= 0xd800 && c < 0xdc00 && u[1] >= 0xdc00 && u[1] < 0xe000)
            c = 0x10000 + ((c - 0xd800) << 10) + (*++u - 0xdc00u);
        if (n + 5 > cap || (c >= 0xd800 && c < 0xe000))
            return false;
        if (c < 0x80) {
            out[n++] = (char)c;
        } else if (c < 0x800) {
            out[n++] = (char)(0xc0 | c >> 6);
            out[n++] = (char)(0x80 | (c & 63));
        } else if (c < 0x10000) {
            out[n++] = (char)(0xe0 | c >> 12);
            out[n++] = (char)(0x80 | (c >> 6 & 63));
            out[n++] = (char)(0x80 | (c & 63));
        } else {
            out[n++] = (char)(0xf0 | c >> 18);
            out[n++] = (char)(0x80 | (c >> 12 & 63));
            out[n++] = (char)(0x80 | (c >> 6 & 63));
            out[n++] = (char)(0x80 | (c & 63));
        }
    }
    out[n] = 0;
    return n > 0;
}

static bool short_text(const uint8_t *e, char *out)
{
    size_t n = 0;

    for (int i = 0; i < 11; i++) {
        bool lower = e[12] & (i < 8 ? 8 : 16);
        uint8_t c = e[i];

        if (c == ' ') {
            if ((i < 8 && e[i + (i < 7)] != ' ' && i < 7) || (i >= 8 && i < 10 && e[i + 1] != ' '))
                return false; /* a blank within */
            continue;
        }
        if (c < 0x21 || c > 0x7e)
            return false;
        if (i >= 8 && (i == 8))
            out[n++] = '.';
        out[n++] = (char)(lower && c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    out[n] = 0;
    return n > 0 && out[0] != '.';
}

/* R1: a name that means one entry of its folder and nothing else. */
static bool name_ok(const char *name)
{
    if (!strcmp(name, ".") || !strcmp(name, "..") || strlen(name) > 255)
        return false;
    for (const char *p = name; *p; p++)
        if (*p == '/' || (unsigned char)*p < 0x20 || *p == 0x7f)
            return false;
    return *name != 0;
}

static time_t time_of(const uint8_t *e)
{
    unsigned t = get_le16(e + 22), d = get_le16(e + 24);
    struct tm tm = {.tm_year = 80 + (int)(d >> 9),
                    .tm_mon = (int)(d >> 5 & 15) - 1,
                    .tm_mday = (int)(d & 31),
                    .tm_hour = (int)(t >> 11),
                    .tm_min = (int)(t >> 5 & 63),
                    .tm_sec = (int)(t & 31) * 2};

    return timegm(&tm);
}

/* ---- directories ---- */

static bool dir_read(struct reader *r, unsigned self, unsigned depth);

static bool entry_take(struct reader *r, unsigned parent, const uint8_t *e, const struct lfn *l, unsigned depth)
{
    const char *base = r->t->v[parent].path;
    uint32_t first = get_le16(e + 26) | (r->s->bits == 32 ? (uint32_t)get_le16(e + 20) << 16 : 0);
    char name[800]; /* 255 units are at most 765 bytes; name_ok bounds what is used */
    struct vnode v = {.is_dir = e[11] & ATTR_DIR, .size = get_le32(e + 28), .when = time_of(e)};
    bool is_long = l->some && !l->want && l->sum == short_sum(e);
    uint64_t room;

    if (!(is_long ? to_utf8(l->u, name, sizeof name) : short_text(e, name)) || !name_ok(name))
        return wrong(r, "a name that cannot be a file's");
    if (r->t->nr >= MAX_NODES || depth > MAX_DEPTH)
        return wrong(r, "more than %d names or %d levels", MAX_NODES, MAX_DEPTH);
    if (first && !follow(r, first, &v.chain, &v.nr)) {
        free(v.chain);
        return false;
    }
    room = (uint64_t)v.nr * r->s->spc * SECT;
    if (v.is_dir ? !v.nr || room > MAX_DIR_BYTES : v.size > room) {
        free(v.chain);
        return wrong(r, "'%.60s' has %u clusters for %u bytes", name, v.nr, v.size);
    }
    if (v.is_dir)
        v.size = 0;
    v.path = *base ? xasprintf("%s/%s", base, name) : xstrdup(name);
    if (r->t->nr == r->t->cap) {
        r->t->cap = r->t->cap * 2 + 64;
        r->t->v = xrealloc(r->t->v, r->t->cap * sizeof *r->t->v);
    }
    r->t->v[r->t->nr++] = v;
    return !v.is_dir || dir_read(r, r->t->nr - 1, depth + 1);
}

static bool entries_read(struct reader *r, unsigned self, const uint8_t *b, size_t len, unsigned depth)
{
    struct lfn l = {0};

    for (size_t i = 0; i + 32 <= len && b[i]; i += 32) {
        const uint8_t *e = b + i;

        if (e[0] == DELETED) {
            l.some = false;
        } else if ((e[11] & 0x3f) == ATTR_LFN) {
            lfn_take(&l, e);
        } else {
            bool dots = !memcmp(e, ".          ", 11) || !memcmp(e, "..         ", 11);

            if (!(e[11] & ATTR_VOLUME) && !dots && !entry_take(r, self, e, &l, depth))
                return false;
            l.some = false;
        }
    }
    return true;
}

static bool dir_read(struct reader *r, unsigned self, unsigned depth)
{
    struct vvfat *s = r->s;
    struct vnode d = r->t->v[self]; /* the array may move */
    bool fixed = !self && s->bits != 32, ok;
    size_t unit = (size_t)s->spc * SECT, len = fixed ? (size_t)s->root_sectors * SECT : d.nr * unit;
    uint8_t *b AUTOFREE = try_alloc(1, len);
    uint64_t root = (uint64_t)s->part + s->reserved + 2 * (uint64_t)s->fat_sectors;
    const char *before = r->at;
    int e = b ? 0 : -ENOMEM;

    for (uint32_t i = 0; fixed && i < s->root_sectors && !e; i++)
        e = sector_read(s, root + i, b + i * SECT);
    for (uint32_t i = 0; !fixed && i < d.nr && !e; i++)
        e = cluster_read(s, d.chain[i], b + i * unit);
    r->at = d.path;
    ok = e ? wrong(r, "it cannot be read") : entries_read(r, self, b, len, depth);
    r->at = before;
    return ok;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct vnode *)a)->path, ((const struct vnode *)b)->path);
}
static int by_case(const void *a, const void *b)
{
    return strcasecmp((*(const struct vnode *const *)a)->path, (*(const struct vnode *const *)b)->path);
}

/* No two names of a folder that are the same to FAT. */
static bool names_differ(struct reader *r)
{
    const struct vnode **p AUTOFREE = xcalloc(r->t->nr + 1, sizeof *p);

    for (unsigned i = 0; i < r->t->nr; i++)
        p[i] = &r->t->v[i];
    qsort(p, r->t->nr, sizeof *p, by_case);
    for (unsigned i = 1; i < r->t->nr; i++)
        if (!strcasecmp(p[i - 1]->path, p[i]->path))
            return wrong(r, "the names '%.70s' and '%.70s' are the same to FAT", p[i - 1]->path, p[i]->path);
    return true;
}

/* The whole disk as a tree; false with rw->why when it is not in order. */
static bool disk_read(struct vvfat *s, struct tree *t)
{
    struct reader r = {.s = s, .t = t};
    struct vnode root = {.is_dir = true, .path = xstrdup("")};
    bool ok;

    r.fat = try_alloc(s->fat_sectors + 1, SECT); /* a 12-bit entry is read as two bytes */
    r.used = try_alloc(1, s->clusters / 8 + 2);
    *t = (struct tree){.v = xnew(struct vnode), .nr = 1, .cap = 1};
    if (r.used)
        memset(r.used, 0, s->clusters / 8 + 2);
    t->v[0] = root;
    ok = r.fat && r.used ? frame_ok(&r) : wrong(&r, "no memory");
    if (ok && s->bits == 32)
        ok = follow(&r, s->root_first, &t->v[0].chain, &t->v[0].nr);
    if (ok && (uint64_t)t->v[0].nr * s->spc * SECT > MAX_DIR_BYTES)
        ok = wrong(&r, "the top folder is too large");
    ok = ok && dir_read(&r, 0, 0) && names_differ(&r);
    free(r.fat);
    free(r.used);
    if (ok)
        qsort(t->v, t->nr, sizeof *t->v, by_path);
    else
        tree_free(t);
    return ok;
}

/* ---- the folder ---- */

/* The folder that holds `path`, opened without following a link; *leaf points into path. -1 with errno. */
static int open_parent(struct vvfat *s, const char *path, const char **leaf)
{
    int fd = fcntl(s->dirfd, F_DUPFD_CLOEXEC, 0);
    const char *slash;

    while (fd >= 0 && (slash = strchr(path, '/'))) {
        char part[256];
        int next;

        snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
        next = openat(fd, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        close(fd);
        fd = next;
        path = slash + 1;
    }
    *leaf = path;
    return fd;
}

static bool trouble(struct vvfat *s, const char *what, const char *path, int error)
{
    if (s->rw->trouble++ < 5)
        warn_report("fat: cannot %s '%s': %s", what, path, strerror(error));
    return false;
}

static bool make_folder(struct vvfat *s, const struct vnode *v)
{
    const char *leaf;
    int dir = open_parent(s, v->path, &leaf);
    struct stat st;
    bool ok = dir >= 0 && (!mkdirat(dir, leaf, 0777) || errno == EEXIST);

    if (ok && (fstatat(dir, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))) {
        errno = EEXIST;
        ok = false;
    }
    ok = ok && fsync(dir) == 0;
    if (!ok)
        trouble(s, "make folder", v->path, errno);
    if (dir >= 0)
        close(dir);
    return ok;
}

static int copy_out(struct vvfat *s, const struct vnode *v, int fd)
{
    uint32_t unit = s->spc * SECT;
    uint8_t *buf AUTOFREE = xmalloc(unit);

    for (uint64_t at = 0; at < v->size; at += unit) {
        size_t n = min_u64(unit, v->size - at);
        int r = cluster_read(s, v->chain[at / unit], buf);

        if (r)
            return r;
        if (write(fd, buf, n) != (ssize_t)n)
            return errno ? -errno : -ENOSPC;
    }
    return 0;
}

/* R2, in the folder `dir`. The file keeps the rights of the one it replaces. */
static int replace(struct vvfat *s, const struct vnode *v, int dir, const char *leaf)
{
    static const char tmp[] = ".lyrebird-fat-new";
    struct timespec when[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = v->when}};
    struct stat st;
    bool old = !fstatat(dir, leaf, &st, AT_SYMLINK_NOFOLLOW);
    int fd, r;

    if (old && !S_ISREG(st.st_mode))
        return -EEXIST; /* R1 */
    errno = 0;
    fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        return -errno;
    errno = 0;
    r = copy_out(s, v, fd);
    if (!r && old && fchmod(fd, st.st_mode & 0777) < 0)
        r = -errno;
    if (!r && (futimens(fd, when) < 0 || fsync(fd) < 0))
        r = -errno;
    close(fd);
    if (!r && renameat(dir, tmp, dir, leaf) < 0)
        r = -errno;
    if (r)
        unlinkat(dir, tmp, 0);
    else if (fsync(dir) < 0)
        r = -errno;
    return r;
}

static bool write_file(struct vvfat *s, const struct vnode *v)
{
    const char *leaf;
    int dir = open_parent(s, v->path, &leaf);
    int r = dir < 0 ? -errno : replace(s, v, dir, leaf);

    if (dir >= 0)
        close(dir);
    return !r || trouble(s, "write", v->path, -r);
}

static bool remove_one(struct vvfat *s, const struct vnode *v)
{
    const char *leaf;
    int dir = open_parent(s, v->path, &leaf);
    struct stat st;
    bool ok = dir >= 0;

    if (ok && fstatat(dir, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        ok = errno == ENOENT; /* somebody else did */
    } else if (ok && (v->is_dir ? !S_ISDIR(st.st_mode) : !S_ISREG(st.st_mode))) {
        errno = EEXIST;
        ok = false;
    } else if (ok) {
        ok = !unlinkat(dir, leaf, v->is_dir ? AT_REMOVEDIR : 0) && !fsync(dir);
    } else {
        ok = errno == ENOENT;
    }
    if (!ok)
        trouble(s, "remove", v->path, errno);
    if (dir >= 0)
        close(dir);
    return ok;
}

/* ---- bringing the folder up ---- */

static struct vnode *find(struct tree *t, const char *path)
{
    struct vnode key = {.path = (char *)(uintptr_t)path};

    return t->nr ? bsearch(&key, t->v, t->nr, sizeof *t->v, by_path) : NULL;
}

static bool clean(const struct vvfat *s, const struct vnode *v)
{
    for (uint32_t i = 0; i < v->nr; i++)
        for (uint32_t k = 0; k < s->spc; k++)
            if (bit_get(s->rw->dirty, vvfat_cluster_sector(s, v->chain[i]) + k))
                return false;
    return true;
}

/* The folder has this file already as the disk has it. */
static bool unchanged(const struct vvfat *s, const struct vnode *was, const struct vnode *v)
{
    return was && !was->again && was->is_dir == v->is_dir &&
           (v->is_dir || (was->size == v->size && was->nr == v->nr &&
                          !memcmp(v->chain ? v->chain : (uint32_t *)"", was->chain ? was->chain : (uint32_t *)"",
                                  v->nr * sizeof *v->chain) &&
                          clean(s, v)));
}

/* R4 */
static int keep_bytes(struct vvfat *s, const struct vnode *v)
{
    uint8_t buf[SECT];
    int r = 0;

    for (uint32_t i = 0; i < v->nr && !r; i++)
        for (uint32_t k = 0; k < s->spc && !r; k++) {
            uint64_t sec = vvfat_cluster_sector(s, v->chain[i]) + k;

            if (bit_get(s->rw->written, sec))
                continue;
            vvfat_made_sector(s, sec, buf);
            r = sector_write(s, sec, buf);
        }
    return r;
}

static int keep_all(struct vvfat *s, struct tree *now)
{
    struct tree *cur = &s->rw->cur;
    int r = 0;

    for (unsigned i = 0; i < cur->nr && !r; i++)
        if (!cur->v[i].is_dir) {
            struct vnode *v = find(now, cur->v[i].path);

            if (!v || !unchanged(s, &cur->v[i], v))
                r = keep_bytes(s, &cur->v[i]);
        }
    return r;
}

/* A file where a folder is to be, or the reverse, here or above. */
static bool in_the_way(struct tree *cur, struct tree *now, const char *path)
{
    char *p AUTOFREE = xstrdup(path);

    for (;;) {
        const struct vnode *was = find(cur, p), *v = find(now, p);
        char *slash = strrchr(p, '/');

        if (was && v && was->is_dir != v->is_dir)
            return true;
        if (!slash)
            return false;
        *slash = 0;
    }
}

static void make_way(struct vvfat *s, struct tree *now)
{
    struct tree *cur = &s->rw->cur;
    bool any = false;

    for (unsigned i = 0; i < now->nr && !any; i++) {
        const struct vnode *was = find(cur, now->v[i].path);

        any = was && was->is_dir != now->v[i].is_dir;
    }
    for (unsigned i = cur->nr; any && i-- > 0;)
        if (!cur->v[i].again && in_the_way(cur, now, cur->v[i].path))
            remove_one(s, &cur->v[i]);
}

/* R3. What fails is marked, and tried again the next time. */
static void apply(struct vvfat *s, struct tree *now)
{
    struct tree *cur = &s->rw->cur;

    make_way(s, now);
    for (unsigned i = 0; i < now->nr; i++) { /* in this order parents come first */
        struct vnode *v = &now->v[i], *was = find(cur, v->path);

        if (*v->path && v->is_dir && !unchanged(s, was, v))
            v->again = !make_folder(s, v);
    }
    for (unsigned i = 0; i < now->nr; i++) {
        struct vnode *v = &now->v[i], *was = find(cur, v->path);

        if (!v->is_dir && !unchanged(s, was, v))
            v->again = !write_file(s, v);
    }
    for (unsigned i = cur->nr; i-- > 0;) { /* and children here */
        struct vnode *v = &cur->v[i];

        if (!find(now, v->path) && !v->again)
            remove_one(s, v);
    }
}

static int bring_up(void *opaque)
{
    struct vvfat *s = ((struct blk_node *)opaque)->priv;
    struct vvfat_rw *rw = s->rw;
    struct tree now;
    int r;

    if (!disk_read(s, &now))
        return 0; /* not in order now: later */
    r = keep_all(s, &now);
    if (r) {
        tree_free(&now);
        return r;
    }
    rw->why[0] = 0;
    rw->trouble = 0;
    apply(s, &now);
    tree_free(&rw->cur);
    rw->cur = now;
    memset(rw->dirty, 0, (size_t)div_up(rw->sectors, 64) * 8);
    rw->changed = rw->trouble > 0;
    return rw->trouble ? -EIO : 0;
}

/* ---- requests ---- */

static int read_run(void *opaque)
{
    return vvfat_job_read(opaque, sector_read);
}

static void mark_written(struct vvfat_rw *rw, uint64_t off, uint64_t len)
{
    for (uint64_t sec = off / SECT; sec < (off + len) / SECT; sec++) {
        bit_set(rw->written, sec);
        bit_set(rw->dirty, sec);
    }
}

static int write_run(void *opaque)
{
    struct vvfat_job *j = opaque;
    struct vvfat_rw *rw = j->s->rw;
    uint8_t *buf AUTOFREE = xmalloc(PIECE);

    rw->changed = true;
    for (uint64_t at = 0, n; at < j->len; at += n) {
        ssize_t got;

        n = min_u64(PIECE, j->len - at);
        iov_to_buf(j->q, j->qoff + at, buf, n);
        got = pwrite(rw->fd, buf, n, (off_t)(j->off + at));
        if (got != (ssize_t)n)
            return got < 0 ? -errno : -ENOSPC;
        mark_written(rw, j->off + at, n);
    }
    return 0;
}

static int zero_run(void *opaque)
{
    struct vvfat_job *j = opaque;
    struct vvfat_rw *rw = j->s->rw;

    rw->changed = true;
    if (fallocate(rw->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)j->off, (off_t)j->len) < 0)
        return errno == EOPNOTSUPP ? -ENOTSUP : -errno;
    mark_written(rw, j->off, j->len);
    return 0;
}

/* One at a time: what is there may move to the temporary file meanwhile. */
static int one_at_a_time(struct blk_node *n, int (*fn)(void *), void *arg)
{
    struct vvfat_rw *rw = ((struct vvfat *)n->priv)->rw;
    int r;

    if (!fibre_self())
        return fn(arg);
    fibre_mutex_lock(&rw->lock);
    r = blk_offload(n->set, fn, arg);
    fibre_mutex_unlock(&rw->lock);
    return r;
}

static void bring_up_fibre(void *opaque)
{
    struct vvfat_rw *rw = opaque;

    if (rw->changed)
        one_at_a_time(rw->n, bring_up, rw->n);
    rw->busy = false;
}

static void quiet_now(void *opaque)
{
    struct vvfat_rw *rw = opaque;

    if (rw->busy)
        return;
    rw->busy = true;
    fibre_start(rw->n->set->loop, bring_up_fibre, rw);
}

static void written(struct vvfat_rw *rw)
{
    if (rw->clk)
        clk_timer_set(&rw->quiet, clk_now(rw->clk) + NS_PER_SEC);
}

int vvfat_rw_read(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct vvfat_job j = {n->priv, off, len, qoff, q};

    return one_at_a_time(n, read_run, &j);
}

int vvfat_rw_write(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct vvfat_job j = {n->priv, off, len, qoff, q};

    written(j.s->rw);
    return one_at_a_time(n, write_run, &j);
}

int vvfat_rw_zero(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct vvfat_job j = {n->priv, off, len, 0, NULL};

    written(j.s->rw);
    return one_at_a_time(n, zero_run, &j);
}

int vvfat_rw_flush(struct blk_node *n)
{
    if (!((struct vvfat *)n->priv)->rw->changed)
        return 0;
    return one_at_a_time(n, bring_up, n);
}

/* ---- life ---- */

static int temporary(void)
{
    const char *dir = getenv("TMPDIR");
    char *path AUTOFREE = xasprintf("%s/lyrebird-fat-XXXXXX", dir && *dir ? dir : "/var/tmp");
    int fd = mkostemp(path, O_CLOEXEC);

    if (fd >= 0)
        unlink(path);
    return fd;
}

bool vvfat_rw_new(struct blk_node *n, struct err **errp)
{
    struct vvfat *s = n->priv;
    struct vvfat_rw *rw = s->rw = xnew(struct vvfat_rw);
    uint64_t sectors = n->size / SECT;

    *rw =
        (struct vvfat_rw){.fd = temporary(), .sectors = sectors, .n = n, .clk = n->set->run ? n->set->run->real : NULL};
    if (rw->clk)
        clk_timer_init(&rw->quiet, rw->clk, quiet_now, rw);
    fibre_mutex_init(&rw->lock);
    if (rw->fd < 0 || ftruncate(rw->fd, (off_t)(sectors * SECT)) < 0)
        return err_set_errno(errp, errno, "fat: cannot make a temporary file for what is written");
    rw->written = try_alloc(div_up(sectors, 64), 8);
    rw->dirty = try_alloc(div_up(sectors, 64), 8);
    if (!rw->written || !rw->dirty)
        return err_set(errp, "no memory");
    memset(rw->written, 0, (size_t)div_up(sectors, 64) * 8);
    memset(rw->dirty, 0, (size_t)div_up(sectors, 64) * 8);
    if (disk_read(s, &rw->cur))
        return true;
    err_set(errp, "fat: the folder cannot be written through: %s", rw->why);
    err_hint(errp, "without 'rw:' it can be read");
    return false;
}

void vvfat_rw_free(struct vvfat *s)
{
    struct vvfat_rw *rw = s->rw;

    if (!rw)
        return;
    if (rw->clk)
        clk_timer_cancel(&rw->quiet);
    while (rw->busy)
        if (fibre_self())
            blk_sleep(rw->n->set, NS_PER_MS);
        else
            ev_loop_turn(rw->n->set->loop, NS_PER_MS);
    if (rw->changed && rw->cur.nr)
        warn_report("fat: the disk's last changes are not in the folder: %s",
                    *rw->why ? rw->why : "some could not be made");
    tree_free(&rw->cur);
    free(rw->written);
    free(rw->dirty);
    if (rw->fd >= 0)
        close(rw->fd);
    free(rw);
    s->rw = NULL;
}
