/* A folder of the host as a FAT disk: fat:[floppy:][12:|16:|32:]DIR, or driver=vvfat,dir=DIR.
 *
 * The folder is walked once, at open: boot sector, FAT and directories are made in memory, file contents are read from
 * the files themselves on demand, bounded by the size they had. A disk (FAT16 or FAT32) has a partition table and one
 * partition; a floppy (FAT12, 2.88 MB) has none. Names follow Microsoft's "FAT: General Overview of On-Disk
 * Format" 1.03, long names included. Symbolic links and devices are left out of the disk. fat:rw: takes writes
 * (vvfat_write.c); else the disk is read-only, and snapshot=on gives the guest a writable view. */
#include "base/bytes.h"
#include "blk/vvfat.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { ROOT_ENTRIES = 512, PART_START = 63 };

static const char *const vvfat_known[] = {"dir", "fat-type", "floppy", "label", "rw", "filename", NULL};

/* ---- names ---- */

static bool vvfat_parse(const char *name, struct opts *o, struct err **errp)
{
    const char *p = name + 4;

    for (;;) {
        if (str_starts(p, "floppy:")) {
            opts_replace(o, "floppy", "on");
            p += 7;
        } else if (str_starts(p, "12:") || str_starts(p, "16:") || str_starts(p, "32:")) {
            opts_replace(o, "fat-type", *p == '1' ? p[1] == '2' ? "12" : "16" : "32");
            p += 3;
        } else if (str_starts(p, "rw:")) {
            opts_replace(o, "rw", "on");
            p += 3;
        } else {
            break;
        }
    }
    if (!*p)
        return err_set(errp, "fat: names no folder");
    opts_replace(o, "dir", p);
    return true;
}

/* UTF-8 to UTF-16 units; the count, or -1. */
static int to_utf16(const char *s, uint16_t *out, int max)
{
    int n = 0;

    while (*s && n < max) {
        unsigned char c = (unsigned char)*s++;

        if (c < 0x80) {
            out[n++] = c;
        } else if (c >= 0xc2 && c < 0xe0 && (s[0] & 0xc0) == 0x80) {
            out[n++] = (uint16_t)((c & 31) << 6 | (s[0] & 63));
            s++;
        } else if (c >= 0xe0 && c < 0xf0 && (s[0] & 0xc0) == 0x80 && (s[1] & 0xc0) == 0x80) {
            out[n++] = (uint16_t)((c & 15) << 12 | (s[0] & 63) << 6 | (s[1] & 63));
            s += 2;
        } else if (c >= 0xf0 && c < 0xf5 && n + 1 < max && (s[0] & 0xc0) == 0x80 && (s[1] & 0xc0) == 0x80 &&
                   (s[2] & 0xc0) == 0x80) {
            uint32_t u = ((uint32_t)(c & 7) << 18 | (uint32_t)(s[0] & 63) << 12 | (uint32_t)(s[1] & 63) << 6 |
                          (uint32_t)(s[2] & 63)) -
                         0x10000;

            out[n++] = (uint16_t)(0xd800 | (u >> 10 & 0x3ff));
            out[n++] = (uint16_t)(0xdc00 | (u & 0x3ff));
            s += 3;
        } else {
            return -1;
        }
    }
    return *s ? -1 : n;
}

static int short_char(char c)
{
    if (c >= 'a' && c <= 'z')
        return c - 32;
    return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("$%'-_@~`!(){}^#&", c)) ? c : 0;
}

/* The 8.3 form; true when it says it all. */
static bool plain_short(const char *name, uint8_t *out)
{
    const char *dot = strrchr(name, '.');
    size_t base = dot ? (size_t)(dot - name) : strlen(name), ext = dot ? strlen(dot + 1) : 0;
    bool exact = base >= 1 && base <= 8 && ext <= 3 && !(dot && !ext);
    size_t k = 0;

    memset(out, ' ', 11);
    for (size_t i = 0; i < base && k < 8; i++) {
        int c = short_char(name[i]);

        exact &= c == name[i];
        if (c)
            out[k++] = (uint8_t)c;
    }
    for (size_t i = 0, e = 8; dot && i < ext && e < 11; i++) {
        int c = short_char(dot[1 + i]);

        exact &= c == dot[1 + i];
        if (c)
            out[e++] = (uint8_t)c;
    }
    if (!k)
        out[0] = '_';
    return exact;
}

static bool taken(const struct vvfat *s, unsigned parent, unsigned self, const uint8_t *name)
{
    for (unsigned i = 1; i < s->nr; i++)
        if (i != self && s->it[i].parent == parent && !memcmp(s->it[i].short_name, name, 11))
            return true;
    return false;
}

/* NAME~1 and so on until it is free. False: the short name is the whole name. */
static bool choose_short(struct vvfat *s, unsigned i, const char *name)
{
    uint8_t *n = s->it[i].short_name, base[11];
    char tail[12];

    if (plain_short(name, base) && !taken(s, s->it[i].parent, i, base)) {
        memcpy(n, base, 11);
        return false;
    }
    for (unsigned k = 1; k < 1000000; k++) {
        int len = snprintf(tail, sizeof tail, "~%u", k), at = 0;

        while (at < 8 - len && base[at] != ' ')
            at++;
        memcpy(n, base, 11);
        memset(n + at, ' ', (size_t)(8 - at));
        memcpy(n + at, tail, (size_t)len);
        if (!taken(s, s->it[i].parent, i, n))
            break;
    }
    return true;
}

/* ---- directories ---- */

static uint8_t *entry_new(struct item *d)
{
    if (d->size + 32 > d->cap) {
        d->cap = d->cap ? d->cap * 2 : 1024;
        d->bytes = xrealloc(d->bytes, d->cap);
        memset(d->bytes + d->size, 0, d->cap - d->size);
    }
    d->size += 32;
    return d->bytes + d->size - 32;
}

static void put_time(uint8_t *e, time_t t)
{
    struct tm tm;
    unsigned date, clock;

    gmtime_r(&t, &tm);
    if (tm.tm_year < 80)
        tm.tm_year = 80;
    date = (unsigned)((tm.tm_year - 80) << 9 | (tm.tm_mon + 1) << 5 | tm.tm_mday);
    clock = (unsigned)(tm.tm_hour << 11 | tm.tm_min << 5 | tm.tm_sec / 2);
    put_le16(e + 14, (uint16_t)clock);
    put_le16(e + 16, (uint16_t)date);
    put_le16(e + 18, (uint16_t)date);
    put_le16(e + 22, (uint16_t)clock);
    put_le16(e + 24, (uint16_t)date);
}

static void put_long(struct item *d, const char *name, const uint8_t *short_name)
{
    static const uint8_t at[13] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};
    uint16_t u[260];
    int n = to_utf16(name, u, 255), nr = (n + 12) / 13;
    uint8_t sum = 0;

    for (int i = 0; i < 11; i++)
        sum = (uint8_t)((sum & 1) << 7 | sum >> 1) + short_name[i];
    for (int k = nr; k >= 1; k--) {
        uint8_t *e = entry_new(d);

        e[0] = (uint8_t)(k | (k == nr ? 0x40 : 0));
        e[11] = ATTR_LFN;
        e[13] = sum;
        for (int c = 0; c < 13; c++) {
            int i = (k - 1) * 13 + c;

            put_le16(e + at[c], i < n ? u[i] : i == n ? 0 : 0xffff);
        }
    }
}

static void put_entry(struct item *d, const struct item *x, const uint8_t *name)
{
    uint8_t *e = entry_new(d);

    memcpy(e, name, 11);
    e[11] = x->is_dir ? ATTR_DIR : 0x20;
    put_time(e, x->when);
    put_le16(e + 20, (uint16_t)(x->first >> 16));
    put_le16(e + 26, (uint16_t)x->first);
    put_le32(e + 28, x->is_dir ? 0 : (uint32_t)x->size);
}

/* Directory contents need first clusters, and those need directory sizes: entries are counted, laid out, then written.
 */
static size_t entries_for(const char *name, bool with_long)
{
    uint16_t u[260];

    return 32 * (1 + (with_long ? (size_t)(to_utf16(name, u, 255) + 12) / 13 : 0));
}

static const char *leaf(const struct item *x)
{
    const char *slash = strrchr(x->path, '/');

    return slash ? slash + 1 : x->path;
}

/* ---- the walk ---- */

static unsigned item_add(struct vvfat *s, char *path, bool is_dir, uint64_t size, unsigned parent, time_t when)
{
    if (s->nr == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 64;
        s->it = xrealloc(s->it, s->cap * sizeof *s->it);
    }
    s->it[s->nr] = (struct item){.path = path, .is_dir = is_dir, .size = size, .parent = parent, .when = when};
    return s->nr++;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static bool walk(struct vvfat *s, unsigned self, unsigned depth, struct err **errp)
{
    char *base AUTOFREE = xstrdup(s->it[self].path);
    struct dirent **list;
    int n = scandirat(s->dirfd, *base ? base : ".", &list, NULL, by_name);
    bool ok = n >= 0 || err_set_errno(errp, errno, "fat: cannot read folder '%s'", base);

    for (int i = 0; i < n; i++) {
        const char *name = list[i]->d_name;
        char *path = *base ? xasprintf("%s/%s", base, name) : xstrdup(name);
        uint16_t u[260];
        struct stat st;

        if (!ok || !strcmp(name, ".") || !strcmp(name, "..") || to_utf16(name, u, 255) < 1 ||
            fstatat(s->dirfd, path, &st, AT_SYMLINK_NOFOLLOW) < 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))) {
            free(path);
        } else if (s->nr >= MAX_NODES || depth > MAX_DEPTH) {
            ok = err_set(errp, "fat: the folder holds too much (%d entries, %d levels at most)", MAX_NODES, MAX_DEPTH);
            free(path);
        } else if (S_ISREG(st.st_mode) && st.st_size > UINT32_MAX) {
            ok = err_set(errp, "fat: '%s' is too large for FAT (4 GiB at most)", path);
            free(path);
        } else {
            unsigned k = item_add(s, path, S_ISDIR(st.st_mode), S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0, self,
                                  st.st_mtime);

            if (s->it[k].is_dir)
                ok = walk(s, k, depth + 1, errp);
        }
        free(list[i]);
    }
    if (n >= 0)
        free(list);
    return ok;
}

/* ---- layout ---- */

static void fat_set(struct vvfat *s, uint32_t c, uint32_t v)
{
    if (s->bits == 32) {
        put_le32(s->fat + (size_t)c * 4, v & 0x0fffffff);
    } else if (s->bits == 16) {
        put_le16(s->fat + (size_t)c * 2, (uint16_t)v);
    } else {
        uint8_t *p = s->fat + c * 3 / 2;

        if (c & 1) {
            p[0] = (uint8_t)((p[0] & 0x0f) | (v & 0xf) << 4);
            p[1] = (uint8_t)(v >> 4);
        } else {
            p[0] = (uint8_t)v;
            p[1] = (uint8_t)((p[1] & 0xf0) | ((v >> 8) & 0xf));
        }
    }
}

static uint64_t clusters_of(const struct vvfat *s, uint64_t bytes)
{
    return div_up(bytes, (uint64_t)s->spc * SECT);
}

static bool plan(struct vvfat *s, bool auto_bits, struct err **errp)
{
    uint64_t need = 0, disk = UINT64_C(1024) * 16 * 63;

    s->spc = s->floppy ? 2 : s->bits == 32 ? 8 : 16;
    for (unsigned i = 0; i < s->nr; i++)
        need += clusters_of(s, s->it[i].size) + (s->it[i].is_dir && !s->it[i].size);
    if (auto_bits && s->bits == 16 && need > 60000) {
        s->bits = 32;
        return plan(s, false, errp);
    }
    s->part = s->floppy ? 0 : PART_START;
    s->reserved = s->bits == 32 ? 32 : 1;
    s->root_sectors = s->bits == 32 ? 0 : s->floppy ? 224 * 32 / SECT : ROOT_ENTRIES * 32 / SECT;
    if (s->floppy)
        disk = 5760;
    else if (s->bits == 32)
        disk = align_up(max_u64(disk, need * s->spc + need * s->spc / 8 + 70000 * UINT64_C(8)), 16 * 63);
    s->total = (uint32_t)(disk - s->part);
    s->clusters = (s->total - s->reserved - s->root_sectors) / s->spc;
    s->fat_sectors = (uint32_t)div_up((s->clusters + 2) * s->bits, 8 * SECT);
    s->clusters = (s->total - s->reserved - s->root_sectors - 2 * s->fat_sectors) / s->spc;
    if (s->bits == 16 && s->clusters > 65524)
        s->clusters = 65524;
    if (need > s->clusters || disk > UINT32_MAX)
        return err_set(errp, "fat: the folder does not fit: %" PRIu64 " of %" PRIu64 " clusters%s", need, s->clusters,
                       s->bits == 16 ? "; use fat:32:" : "");
    s->fat = try_alloc(s->fat_sectors, SECT);
    return s->fat || err_set(errp, "no memory");
}

static void chain(struct vvfat *s, struct item *x, uint32_t *next)
{
    x->nr = (uint32_t)clusters_of(s, x->size);
    if (x->is_dir && !x->nr)
        x->nr = 1;
    x->first = x->nr ? *next : 0;
    for (uint32_t k = 0; k < x->nr; k++)
        fat_set(s, *next + k, k + 1 < x->nr ? *next + k + 1 : 0x0fffffff);
    *next += x->nr;
}

static void write_dirs(struct vvfat *s)
{
    bool *with_long AUTOFREE = xcalloc(s->nr, sizeof *with_long);
    uint32_t next = 2;

    for (unsigned i = 1; i < s->nr; i++) {
        struct item *d = &s->it[s->it[i].parent];

        with_long[i] = choose_short(s, i, leaf(&s->it[i]));
        d->size += entries_for(leaf(&s->it[i]), with_long[i]);
    }
    for (unsigned i = 0; i < s->nr; i++) {
        struct item *x = &s->it[i];

        if (x->is_dir)
            x->size += i ? 64 : 32; /* "." and "..", or the label */
        if (i || s->bits == 32)
            chain(s, x, &next);
    }
    s->root_first = s->it[0].first;
    for (unsigned i = 0; i < s->nr; i++)
        if (s->it[i].is_dir)
            s->it[i].size = 0;
    memcpy(entry_new(&s->it[0]), s->label, 11);
    s->it[0].bytes[11] = ATTR_VOLUME;
    for (unsigned i = 1; i < s->nr; i++) {
        struct item *x = &s->it[i];
        struct item up = s->it[x->parent];

        if (!x->is_dir)
            continue;
        put_entry(x, x, (const uint8_t *)".          ");
        if (!x->parent)
            up.first = 0;
        put_entry(x, &up, (const uint8_t *)"..         ");
    }
    for (unsigned i = 1; i < s->nr; i++) {
        struct item *d = &s->it[s->it[i].parent];

        if (with_long[i])
            put_long(d, leaf(&s->it[i]), s->it[i].short_name);
        put_entry(d, &s->it[i], s->it[i].short_name);
    }
    fat_set(s, 0, s->floppy ? 0x0ffffff0 : 0x0ffffff8);
    fat_set(s, 1, 0x0fffffff);
}

static void write_boot(struct vvfat *s, uint64_t disk_sectors)
{
    uint8_t *b = s->boot;

    memcpy(b, "\xeb\x3c\x90LYREBIRD", 11);
    put_le16(b + 11, SECT);
    b[13] = (uint8_t)s->spc;
    put_le16(b + 14, (uint16_t)s->reserved);
    b[16] = 2;
    put_le16(b + 17, (uint16_t)(s->root_sectors * SECT / 32));
    put_le16(b + 19, s->total < 65536 ? (uint16_t)s->total : 0);
    b[21] = s->floppy ? 0xf0 : 0xf8;
    put_le16(b + 22, s->bits == 32 ? 0 : (uint16_t)s->fat_sectors);
    put_le16(b + 24, s->floppy ? 36 : 63);
    put_le16(b + 26, s->floppy ? 2 : 16);
    put_le32(b + 28, s->part);
    put_le32(b + 32, s->total < 65536 ? 0 : s->total);
    if (s->bits == 32) {
        b[1] = 0x58;
        put_le32(b + 36, s->fat_sectors);
        put_le32(b + 44, s->root_first);
        put_le16(b + 48, 1);
        put_le16(b + 50, 6);
        memcpy(s->info, "RRaA", 4);
        memcpy(s->info + 484, "rrAa", 4);
        put_le32(s->info + 488, UINT32_MAX);
        put_le32(s->info + 492, UINT32_MAX);
        put_le16(s->info + 510, 0xaa55);
    }
    b += s->bits == 32 ? 64 : 36;
    b[0] = s->floppy ? 0 : 0x80;
    b[2] = 0x29;
    put_le32(b + 3, 0xfabe1afd);
    memcpy(b + 7, s->label, 11);
    memcpy(b + 18, s->bits == 32 ? "FAT32   " : s->bits == 16 ? "FAT16   " : "FAT12   ", 8);
    put_le16(s->boot + 510, 0xaa55);
    if (!s->floppy) {
        uint8_t *p = s->mbr + 446;

        put_le32(s->mbr + 440, 0xbe1afdfa);
        p[0] = 0x80;
        p[1] = 1;
        p[2] = 1;
        p[4] = s->bits == 32 ? 0x0c : 0x06;
        memcpy(p + 5, "\x0f\xff\xff", 3);
        put_le32(p + 8, s->part);
        put_le32(p + 12, s->total);
        put_le16(s->mbr + 510, 0xaa55);
    }
    (void)disk_sectors;
}

static void vvfat_close(struct blk_node *n)
{
    struct vvfat *s = n->priv;

    for (unsigned i = 0; i < s->nr; i++) {
        free(s->it[i].path);
        free(s->it[i].bytes);
    }
    vvfat_rw_free(s);
    free(s->it);
    free(s->fat);
    if (s->dirfd >= 0)
        close(s->dirfd);
}

static bool build(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct vvfat *s = n->priv;
    const char *dir = opts_get(o, "dir"), *label = opts_get(o, "label");
    uint64_t bits = 0;
    bool rw = false;

    opts_get(o, "filename");
    if (!opts_bool(o, "floppy", &s->floppy, errp) || !opts_bool(o, "rw", &rw, errp) ||
        !opts_u64(o, "fat-type", &bits, errp))
        return false;
    if (!dir)
        return err_set(errp, "vvfat: the folder (dir=) is missing");
    if (bits && bits != 12 && bits != 16 && bits != 32)
        return err_set(errp, "Valid FAT types are only 12, 16 and 32");
    if ((bits == 12) != s->floppy && bits)
        return err_set(errp, s->floppy ? "a floppy is FAT12" : "FAT12 is for floppies: use fat:floppy:");
    s->bits = s->floppy ? 12 : bits ? (unsigned)bits : 16;
    snprintf(s->label, sizeof s->label, "%-11.11s", label ? label : "LYREBIRD");
    s->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dirfd < 0)
        return err_set_errno(errp, errno, "fat: cannot open folder '%s'", dir);
    item_add(s, xstrdup(""), true, 0, 0, 0);
    if (!walk(s, 0, 0, errp) || !plan(s, !bits, errp))
        return false;
    write_dirs(s);
    if (s->bits != 32 && s->it[0].size > (uint64_t)s->root_sectors * SECT)
        return err_set(errp, "fat: too many names in the top folder; use fat:32:");
    n->size = ((uint64_t)s->part + s->total) * SECT;
    write_boot(s, n->size / SECT);
    n->filename = xasprintf("fat:%s%s%s", rw ? "rw:" : "", s->floppy ? "floppy:" : s->bits == 32 ? "32:" : "", dir);
    if (!rw)
        n->open_flags &= ~(unsigned)BLK_O_RDWR;
    return !(n->open_flags & BLK_O_RDWR) || vvfat_rw_new(n, errp);
}

static bool vvfat_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct vvfat *s = n->priv;

    s->dirfd = -1;
    free(n->filename);
    n->filename = NULL;
    if (build(n, o, errp)) {
        n->request_align = SECT;
        return true;
    }
    vvfat_close(n);
    return false;
}

/* ---- reading ---- */

static void read_file(struct vvfat *s, const struct item *x, uint64_t off, uint8_t *buf)
{
    int fd = openat(s->dirfd, x->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t got = fd >= 0 ? pread(fd, buf, (size_t)min_u64(SECT, x->size - off), (off_t)off) : -1;

    if (got < 0)
        got = 0; /* the file went away: zeros */
    memset(buf + got, 0, SECT - (size_t)got);
    if (fd >= 0)
        close(fd);
}

const struct item *vvfat_item_at(const struct vvfat *s, uint32_t c)
{
    unsigned lo = 0, hi = s->nr;

    while (lo < hi) { /* first clusters rise with the index; empty files have none */
        unsigned mid = (lo + hi) / 2, m = mid;

        while (m < hi && !s->it[m].nr)
            m++;
        if (m == hi) {
            hi = mid;
            continue;
        }
        if (c < s->it[m].first)
            hi = mid;
        else if (c >= s->it[m].first + s->it[m].nr)
            lo = m + 1;
        else
            return &s->it[m];
    }
    return NULL;
}

static void from_bytes(const struct item *d, uint64_t off, uint8_t *buf)
{
    uint64_t n = off < d->size ? min_u64(SECT, d->size - off) : 0;

    if (n)
        memcpy(buf, d->bytes + off, n);
    memset(buf + n, 0, SECT - n);
}

void vvfat_made_sector(struct vvfat *s, uint64_t sec, uint8_t *buf)
{
    uint64_t rel;
    const struct item *x;

    memset(buf, 0, SECT);
    if (sec < s->part) {
        if (!sec)
            memcpy(buf, s->mbr, SECT);
        return;
    }
    rel = sec - s->part;
    if (rel < s->reserved) {
        if (rel == 0 || (rel == 6 && s->bits == 32))
            memcpy(buf, s->boot, SECT);
        else if (s->bits == 32 && (rel == 1 || rel == 7))
            memcpy(buf, s->info, SECT);
        return;
    }
    rel -= s->reserved;
    if (rel < 2 * (uint64_t)s->fat_sectors) {
        memcpy(buf, s->fat + rel % s->fat_sectors * SECT, SECT);
        return;
    }
    rel -= 2 * (uint64_t)s->fat_sectors;
    if (rel < s->root_sectors) {
        from_bytes(&s->it[0], rel * SECT, buf);
        return;
    }
    rel -= s->root_sectors;
    x = vvfat_item_at(s, (uint32_t)(2 + rel / s->spc));
    if (!x)
        return;
    rel = ((2 + rel / s->spc - x->first) * s->spc + rel % s->spc) * SECT;
    if (x->is_dir)
        from_bytes(x, rel, buf);
    else if (rel < x->size)
        read_file(s, x, rel, buf);
}

int vvfat_job_read(const struct vvfat_job *j, int (*sector)(struct vvfat *s, uint64_t sec, uint8_t *buf))
{
    uint8_t buf[SECT];
    int r = 0;

    for (uint64_t at = 0; at < j->len && !r; at += SECT) {
        r = sector(j->s, (j->off + at) / SECT, buf);
        iov_from_buf(j->q, j->qoff + at, buf, SECT);
    }
    return r;
}

static int made_sector(struct vvfat *s, uint64_t sec, uint8_t *buf)
{
    vvfat_made_sector(s, sec, buf);
    return 0;
}

static int read_run(void *opaque)
{
    return vvfat_job_read(opaque, made_sector);
}

static int vvfat_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                        unsigned flags)
{
    struct vvfat_job j = {n->priv, off, len, qoff, q};

    if (j.s->rw)
        return vvfat_rw_read(n, off, len, q, qoff);
    return blk_offload(n->set, read_run, &j);
}

static int vvfat_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                         unsigned flags)
{
    struct vvfat *s = n->priv;

    return s->rw ? vvfat_rw_write(n, off, len, q, qoff) : -EROFS;
}

static int vvfat_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct vvfat *s = n->priv;

    return s->rw ? vvfat_rw_zero(n, off, len) : -EROFS;
}

static int vvfat_flush(struct blk_node *n)
{
    struct vvfat *s = n->priv;

    return s->rw ? vvfat_rw_flush(n) : 0;
}

static uint64_t vvfat_allocated(struct blk_node *n)
{
    struct vvfat *s = n->priv;
    uint64_t sum = 0;

    for (unsigned i = 0; i < s->nr; i++)
        sum += s->it[i].size;
    return sum;
}

static const struct blk_driver drv_vvfat = {
    .name = "vvfat",
    .prefix = "fat",
    .kind = BLK_PROTOCOL,
    .priv_size = sizeof(struct vvfat),
    .known = vvfat_known,
    .parse_filename = vvfat_parse,
    .open = vvfat_open,
    .close = vvfat_close,
    .preadv = vvfat_preadv,
    .pwritev = vvfat_pwritev,
    .pwrite_zeroes = vvfat_zeroes,
    .flush = vvfat_flush,
    .allocated = vvfat_allocated,
};
BLK_REGISTER(drv_vvfat)
