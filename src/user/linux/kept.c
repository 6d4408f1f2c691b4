/* See kept.h.
 *
 * File: header; a table of nr_slots (a power of two) entries { u64 tag, u32 offset, u32 0 }, found by the tag's hash
 * and then the next ones; records, each aligned to 8 bytes: struct rec; (nr_insn + 1) pairs of u16 offsets; struct
 * rec_link each; struct rec_rel each; guest bytes; host code. Of the bytes a block only looked at it has a sum. All in
 * the host's byte order: the name depends on the host's CPU. */
#include "user/linux/kept.h"
#include "base/str.h"
#include "user/linux/guard.h"
#include "user/linux/map.h"

#include <cpuid.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    PAGE = 4096,
    MAX_UNITS = 256,
    MAX_FILE = 48 << 20,
    MAX_RECS = 1 << 17,
    MIN_NEW = 48,
    MIN_FIRST = 8,
    BYTES_A_REC = 448, /* about */
    MAX_REL = 512
};
enum { STALE_LOCK_S = 60, DEFAULT_MIB = 512, PROBES = 64 };
#define MAGIC       UINT64_C(0x0131305445504b59)
#define PLACE_BASE  UINT64_C(0x7a0000000000)
#define PLACE_SLOT  UINT64_C(65536)
#define PLACE_SLOTS (UINT64_C(1) << 18)

struct head {
    uint64_t magic, key, id;
    uint32_t nr_slots, nr_recs;
    uint64_t size;
};
struct slot {
    uint64_t tag;
    uint32_t off, zero;
};
struct rec {
    uint32_t size, sum; /* sum: of all behind it */
    uint64_t pc, peek_sum;
    uint32_t mode, code_len, guest_len, entry;
    uint16_t nr_insn, nr_links, nr_rel, peek_first, peek_last, zero;
    int32_t peek_by;
};
struct rec_link {
    uint32_t at, stub, poll, mode_or, inner, zero;
    uint64_t target, poll_pc;
};
struct rec_rel {
    uint16_t at;
    uint8_t kind, zero;
    uint32_t n; /* CODE: target's offset in the arena; LINK: n; HOST: offset in this program */
};
struct note {     /* jit_block.keep */
    uint64_t sum; /* of the guest bytes it was made from */
    uint16_t nr_rel;
    struct jit_rel rel[];
};
struct unit {
    uint64_t start, end, id;
    const uint8_t *file; /* mapped; NULL: none */
    uint64_t size;
    bool looked;
};
struct lx_kept {
    char dir[PATH_MAX - 64];
    uint64_t key, seed, limit;
    struct unit unit[MAX_UNITS];
    unsigned nr_units, last;
    uint32_t first_new, generation; /* blocks before first_new of that generation are another process's to keep */
};
extern const char __executable_start[], _end[];

static uint64_t hash(const void *p, size_t n, uint64_t h)
{
    const uint8_t *b = p;
    uint64_t w;

    for (; n >= 8; n -= 8, b += 8) {
        memcpy(&w, b, 8);
        h = (h ^ w) * UINT64_C(0x9fb21c651e98df25);
        h ^= h >> 32;
    }
    for (w = n; n; n--)
        w = w << 8 | b[n - 1];
    h = (h ^ w) * UINT64_C(0xd6e8feb86659fd93);
    return h ^ h >> 29;
}

static uint64_t hash_word(uint64_t w, uint64_t h)
{
    return hash(&w, sizeof w, h);
}

/* ---- where, and for whom ---- */

static int find_build_id(struct dl_phdr_info *info, size_t size, void *arg)
{
    uint64_t *h = arg;

    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        const uint8_t *n = (const uint8_t *)(uintptr_t)(info->dlpi_addr + p->p_vaddr), *end = n + p->p_memsz;

        while (p->p_type == PT_NOTE && end - n > 12) {
            uint32_t w[3];
            uint64_t len;

            memcpy(w, n, sizeof w);
            len = 12 + align_up(w[0], 4) + align_up(w[1], 4);
            if (len > (uint64_t)(end - n))
                break;
            if (w[2] == NT_GNU_BUILD_ID && w[0] == 4)
                *h = hash(n + 16, w[1], 1);
            n += len;
        }
    }
    return 1; /* the program comes first */
}

/* 0: this program has no build id. */
static uint64_t make_key(const char *what)
{
    static const unsigned leaf[][2] = {{1, 0}, {7, 0}, {7, 1}, {0xd, 0}, {0xd, 1}, {0x80000001, 0}};
    uint64_t h = 0;
    unsigned r[4];

    dl_iterate_phdr(find_build_id, &h);
    if (!h)
        return 0;
    for (unsigned i = 0; i < ARRAY_LEN(leaf); i++) {
        if (!__get_cpuid_count(leaf[i][0], leaf[i][1], &r[0], &r[1], &r[2], &r[3]))
            continue;
        if (leaf[i][0] == 1)
            r[1] = 0; /* which processor this is */
        if (leaf[i][0] == 0xd)
            r[1] = 0; /* size of what is switched on now */
        h = hash(r, sizeof r, h);
    }
    h = hash(what, strlen(what), h);
    return h ? h : 1;
}

static bool trusted(const struct stat *st)
{
    return st->st_uid == geteuid() && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

static bool folder(const char *path, bool make)
{
    struct stat st;

    if (make)
        mkdir(path, 0700);
    return !stat(path, &st) && S_ISDIR(st.st_mode) && trusted(&st);
}

static bool find_folder(struct lx_kept *k)
{
    const char *v = getenv("LYREBIRD_TCACHE"), *home = getenv("HOME");
    char up[sizeof k->dir];

    if (v && v[0] == '/') {
        snprintf(k->dir, sizeof k->dir, "%s", v);
        return folder(k->dir, true);
    }
    if (v && *v)
        return false; /* "off" */
    v = getenv("XDG_CACHE_HOME");
    if (v && v[0] == '/')
        snprintf(up, sizeof up, "%s", v);
    else if (home && home[0] == '/' && home[1])
        snprintf(up, sizeof up, "%s/.cache", home);
    else
        return false;
    if (strlen(up) > sizeof k->dir - 16)
        return false;
    snprintf(k->dir, sizeof k->dir, "%.*s/lyrebird", (int)(sizeof k->dir - 16), up);
    return folder(k->dir, false) || (mkdir(up, 0700), folder(k->dir, true));
}

static int open_trusted(const char *path, struct stat *st)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

    if (fd < 0)
        return -1;
    if (fstat(fd, st) < 0 || !S_ISREG(st->st_mode) || !trusted(st)) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool read_seed(struct lx_kept *k, const char *path)
{
    struct stat st;
    int fd = open_trusted(path, &st);
    bool ok = fd >= 0 && read(fd, &k->seed, sizeof k->seed) == sizeof k->seed;

    if (fd >= 0)
        close(fd);
    return ok;
}

static bool find_seed(struct lx_kept *k)
{
    char path[PATH_MAX], tmp[PATH_MAX];
    int fd;
    bool ok;

    snprintf(path, sizeof path, "%s/seed", k->dir);
    if (read_seed(k, path))
        return true;
    snprintf(tmp, sizeof tmp, "%s/seed.%d", k->dir, (int)getpid());
    fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    ok = getrandom(&k->seed, sizeof k->seed, 0) == sizeof k->seed &&
         write(fd, &k->seed, sizeof k->seed) == sizeof k->seed;
    close(fd);
    if (ok && link(tmp, path) < 0) /* another was first */
        ok = read_seed(k, path);
    unlink(tmp);
    return ok;
}

struct lx_kept *lx_kept_open(const char *what)
{
    const char *mib = getenv("LYREBIRD_TCACHE_MIB");
    uint64_t n = DEFAULT_MIB;
    struct lx_kept *k;

    if (getauxval(AT_SECURE) || geteuid() != getuid())
        return NULL;
    k = try_alloc(1, sizeof *k);
    if (!k)
        return NULL;
    memset(k, 0, sizeof *k);
    if (mib && (!str_to_u64(mib, &n) || n > 1 << 20))
        n = DEFAULT_MIB;
    k->limit = n << 20;
    k->key = make_key(what);
    if (!k->key || !k->limit || !find_folder(k) || !find_seed(k)) {
        free(k);
        return NULL;
    }
    return k;
}

uint64_t lx_kept_place(const struct lx_kept *k, uint64_t len)
{
    uint64_t h;

    if (!k || len > PLACE_SLOT * PLACE_SLOTS)
        return 0;
    h = hash_word(len, k->seed);
    return PLACE_BASE + (k->seed % 1024) * (PLACE_SLOT * PLACE_SLOTS) % (UINT64_C(1) << 42) +
           h % PLACE_SLOTS * PLACE_SLOT;
}

/* ---- units ---- */

void lx_kept_mapped(struct lx_rt *rt, uint64_t start, uint64_t len, int fd, uint64_t off)
{
    struct lx_kept *k = rt->kept;
    uint8_t page[PAGE];
    struct stat st;
    struct unit *u;
    ssize_t n;

    if (!k || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (n = pread(fd, page, sizeof page, 0)) <= 0)
        return;
    pthread_mutex_lock(&rt->cache.lock);
    if (k->nr_units < MAX_UNITS) {
        u = &k->unit[k->nr_units];
        *u = (struct unit){.start = start, .end = start + len};
        u->id = hash_word((uint64_t)st.st_size, hash_word(off, hash_word(start, hash(page, (size_t)n, k->key))));
        k->last = k->nr_units++;
    }
    pthread_mutex_unlock(&rt->cache.lock);
}

static struct unit *unit_of(struct lx_kept *k, uint64_t pc)
{
    struct unit *u = &k->unit[k->last];

    if (!k->nr_units)
        return NULL;
    if (pc >= u->start && pc < u->end)
        return u;
    for (unsigned i = k->nr_units; i-- > 0;) /* the newest mapping of a place is the one that holds */
        if (pc >= k->unit[i].start && pc < k->unit[i].end) {
            k->last = i;
            return &k->unit[i];
        }
    return NULL;
}

static void unit_path(const struct lx_kept *k, const struct unit *u, char *path)
{
    snprintf(path, PATH_MAX, "%s/%016" PRIx64, k->dir, u->id);
}

static bool head_ok(const struct lx_kept *k, const struct unit *u, const struct head *h, uint64_t size)
{
    return h->magic == MAGIC && h->key == k->key && h->id == u->id && h->size == size && is_pow2(h->nr_slots) &&
           h->nr_slots <= 2 * MAX_RECS && sizeof *h + (uint64_t)h->nr_slots * sizeof(struct slot) <= size;
}

/* The unit's file, looked for once. */
static void look(const struct lx_kept *k, struct unit *u)
{
    char path[PATH_MAX];
    struct head h;
    struct stat st;
    int fd;

    u->looked = true;
    unit_path(k, u, path);
    fd = open_trusted(path, &st);
    if (fd < 0)
        return;
    if (st.st_size >= (off_t)sizeof h && st.st_size <= MAX_FILE && pread(fd, &h, sizeof h, 0) == sizeof h &&
        head_ok(k, u, &h, (uint64_t)st.st_size)) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);

        if (p != MAP_FAILED) {
            u->file = p;
            u->size = (uint64_t)st.st_size;
        }
    }
    close(fd);
}

/* ---- records ---- */

struct parts {
    const uint8_t *map, *links, *rels, *guest, *code;
};

/* The record at p of at most room bytes: its parts, every length checked. */
static bool split(const uint8_t *p, uint64_t room, struct rec *r, struct parts *s)
{
    uint64_t at = sizeof *r;

    if (room < sizeof *r)
        return false;
    memcpy(r, p, sizeof *r);
    if (r->size > room || r->size < sizeof *r || r->nr_insn > JIT_BLOCK_TOP_INSN || r->nr_links > JIT_BLOCK_MAX_LINKS ||
        r->nr_rel > MAX_REL || r->code_len > JIT_BLOCK_ROOM || r->guest_len > 2 * PAGE || !r->guest_len ||
        r->peek_last >= PAGE || r->peek_first > r->peek_last || r->entry >= r->code_len)
        return false;
    s->map = p + at;
    at += align_up(4u * (r->nr_insn + 1u), 8);
    s->links = p + at;
    at += r->nr_links * sizeof(struct rec_link);
    s->rels = p + at;
    at += r->nr_rel * sizeof(struct rec_rel);
    s->guest = p + at;
    at += align_up(r->guest_len, 8);
    s->code = p + at;
    at += align_up(r->code_len, 8);
    return at == r->size;
}

static uint32_t rec_sum(const uint8_t *p, uint32_t size)
{
    return (uint32_t)hash(p + 8, size - 8, MAGIC);
}

static uint64_t tag_of(uint64_t pc, unsigned mode)
{
    return hash_word(pc, mode) | 1;
}

static bool take_links(const struct rec *r, const struct parts *s, struct jit_block_out *out)
{
    for (unsigned i = 0; i < r->nr_links; i++) {
        struct rec_link l;

        memcpy(&l, s->links + i * sizeof l, sizeof l);
        if (l.at + 4ull > r->code_len || (!l.stub && l.at < 2) || (l.stub >= r->code_len && l.stub != JIT_STUB_CALL) ||
            l.poll >= r->code_len || l.inner >= r->code_len || l.mode_or > UINT16_MAX ||
            (l.poll && l.poll_pc != l.target && l.poll_pc - r->pc >= r->guest_len))
            return false;
        out->link[i] = (struct jit_link_out){.at = l.at,
                                             .stub = l.stub,
                                             .poll = l.poll,
                                             .target = l.target,
                                             .poll_pc = l.poll_pc,
                                             .inner = l.inner,
                                             .mode_or = l.mode_or};
    }
    out->nr_links = r->nr_links;
    return true;
}

static bool relocate(const struct jit_cache *c, const struct rec *r, const struct parts *s, uint8_t *code,
                     const uint8_t *run, uint32_t first_link)
{
    for (unsigned i = 0; i < r->nr_rel; i++) {
        struct rec_rel l;

        memcpy(&l, s->rels + i * sizeof l, sizeof l);
        if (l.at + (l.kind == JIT_REL_HOST ? 8ull : 4ull) > r->code_len)
            return false;
        if (l.kind == JIT_REL_CODE && l.n < c->arena.keep)
            put_le32(code + l.at, (uint32_t)(c->arena.x + l.n - (run + l.at + 4)));
        else if (l.kind == JIT_REL_LINK && l.n < r->nr_links)
            put_le32(code + l.at, first_link + l.n);
        else if (l.kind == JIT_REL_HOST && l.n < (size_t)(_end - __executable_start))
            put_le64(code + l.at, (uintptr_t)__executable_start + l.n);
        else
            return false;
    }
    return true;
}

struct find {
    struct lx_rt *rt;
    const struct unit *u;
    uint64_t pc;
    unsigned mode;
    uint32_t first_link;
    size_t avail;
    struct jit_buf *b;
    struct jit_block_out *out;
    bool found;
};

static const void *guest_at(const struct lx_rt *rt, uint64_t pc)
{
    return (const void *)(uintptr_t)(pc & ~rt->front->pc_bits);
}

static uint64_t peek_page(uint64_t pc, int32_t by)
{
    return align_down(pc, PAGE) + (uint64_t)(int64_t)by * PAGE;
}

/* Of what the block looked at beyond its own bytes; one page only. */
static uint64_t peek_sum(uint64_t pc, int32_t by, unsigned first, unsigned last)
{
    return last ? hash((const void *)(uintptr_t)(peek_page(pc, by) + first), last - first + 1u, 0) : 0;
}

/* May the block at pc look there? Another page must be the same file's. */
static bool may_peek(struct lx_rt *rt, const struct unit *u, uint64_t pc, int32_t by)
{
    uint64_t page = peek_page(pc, by);

    return !by || (page >= u->start && page < u->end && lx_rt_reach(rt, page, true));
}

/* The record's code into the buffer, which lies as the one it was made in did (jit_cache_begin). False: not for this
 * place, or damaged. */
static bool take(const struct find *f, const uint8_t *p, uint64_t room)
{
    struct jit_block_out *out = f->out;
    struct jit_buf *b = f->b;
    uint64_t pc = f->pc;
    struct parts s;
    struct rec r;

    if (!split(p, room, &r, &s) || r.pc != pc || r.mode != f->mode || r.guest_len > f->avail ||
        rec_sum(p, r.size) != r.sum || memcmp(guest_at(f->rt, pc), s.guest, r.guest_len) ||
        !may_peek(f->rt, f->u, pc, r.peek_by) || peek_sum(pc, r.peek_by, r.peek_first, r.peek_last) != r.peek_sum)
        return false;
    *out = (struct jit_block_out){.entry = r.entry,
                                  .len = r.code_len,
                                  .guest_len = r.guest_len,
                                  .tail_no = pc / PAGE + 1,
                                  .peek_by = r.peek_by,
                                  .peek_first = r.peek_first,
                                  .peek_last = r.peek_last,
                                  .nr_insn = r.nr_insn};
    for (unsigned i = 0; i <= r.nr_insn; i++) {
        out->host_off[i] = get_le16(s.map + 4 * i);
        out->guest_off[i] = get_le16(s.map + 4 * i + 2);
    }
    memcpy(b->p, s.code, r.code_len);
    if (!take_links(&r, &s, out) || !relocate(&f->rt->cache, &r, &s, b->p, b->p + b->delta, f->first_link))
        return false;
    b->p += r.code_len;
    return true;
}

static void find(void *arg)
{
    struct find *f = arg;
    const struct unit *u = f->u;
    uint64_t tag = tag_of(f->pc, f->mode), first;
    struct head h;

    memcpy(&h, u->file, sizeof h);
    if (!head_ok(f->rt->kept, u, &h, u->size))
        return;
    first = sizeof h + (uint64_t)h.nr_slots * sizeof(struct slot);
    for (uint64_t i = tag >> 1, n = 0; n < PROBES; n++, i++) {
        struct slot s;

        memcpy(&s, u->file + sizeof h + (i & (h.nr_slots - 1)) * sizeof s, sizeof s);
        if (!s.tag)
            return;
        if (s.tag == tag && s.off >= first && s.off < u->size) {
            f->found = take(f, u->file + s.off, u->size - s.off);
            return;
        }
    }
}

bool lx_kept_find(struct lx_rt *rt, uint64_t pc, unsigned mode, size_t avail, uint32_t first_link, struct jit_buf *b,
                  struct jit_block_out *out)
{
    struct find f = {.rt = rt, .pc = pc, .mode = mode, .first_link = first_link, .avail = avail, .b = b, .out = out};
    struct unit *u = rt->kept ? unit_of(rt->kept, pc) : NULL;

    f.u = u;
    if (u && !u->looked)
        look(rt->kept, u);
    if (!u || !u->file)
        return false;
    if (lx_guarded(find, &f))
        return f.found;
    u->file = NULL; /* cut short under us, or the guest's bytes are gone: translating will tell */
    return false;
}

void lx_kept_note(struct lx_rt *rt, struct jit_block *blk, const struct jit_buf *b)
{
    struct note *n;

    if (!rt->kept || !blk->host || b->rel_lost || !b->rel || !unit_of(rt->kept, blk->pc))
        return;
    n = try_alloc(1, sizeof *n + b->nr_rel * sizeof b->rel[0]);
    if (!n)
        return;
    n->sum = hash(guest_at(rt, blk->pc), blk->guest_len, 0);
    n->nr_rel = (uint16_t)b->nr_rel;
    memcpy(n->rel, b->rel, b->nr_rel * sizeof b->rel[0]);
    blk->keep = n;
}

void lx_kept_forked(struct lx_rt *rt)
{
    if (!rt->kept)
        return;
    rt->kept->first_new = rt->cache.nr_order;
    rt->kept->generation = rt->cache.generation;
}

/* ---- writing ---- */

struct out {
    uint8_t *p; /* owned */
    size_t len, cap;
    struct index {
        uint64_t tag;
        uint32_t off;
    } * index; /* owned, MAX_RECS */
    uint32_t nr;
    bool full;
};

static void put(struct out *o, const void *p, size_t n)
{
    size_t pad = align_up(n, 8);

    if (o->full || o->len + pad > MAX_FILE - (8 << 20)) {
        o->full = true;
        return;
    }
    if (o->len + pad > o->cap) {
        uint8_t *q = realloc(o->p, (o->len + pad) * 2);

        if (!q) {
            o->full = true;
            return;
        }
        o->p = q;
        o->cap = (o->len + pad) * 2;
    }
    memset(o->p + o->len + n, 0, pad - n);
    memcpy(o->p + o->len, p, n);
    o->len += pad;
}

static void enter_index(struct out *o, const struct rec *r, size_t at)
{
    if (o->full || o->nr == MAX_RECS) {
        o->len = at;
        return;
    }
    o->index[o->nr++] = (struct index){tag_of(r->pc, r->mode), (uint32_t)at};
}

static void put_links(struct out *o, struct jit_cache *c, const struct jit_block *b)
{
    for (uint32_t i = 0; i < b->nr_links; i++) {
        const struct jit_link *l = jit_cache_link(c, b->first_link + i);
        struct rec_link r = {.at = l->at,
                             .stub = l->stub,
                             .poll = l->poll,
                             .mode_or = l->mode_or,
                             .inner = l->inner,
                             .target = l->target,
                             .poll_pc = jit_link_poll_pc(b, l)};

        put(o, &r, sizeof r);
    }
}

static bool put_rels(struct out *o, const struct jit_cache *c, const struct jit_block *b, const struct note *n)
{
    for (unsigned i = 0; i < n->nr_rel; i++) {
        const struct jit_rel *l = &n->rel[i];
        struct rec_rel r = {.at = l->at, .kind = l->kind, .n = l->n};
        const uint8_t *at = b->host + l->at;

        if (l->kind == JIT_REL_CODE)
            r.n = (uint32_t)(at + 4 + (int32_t)get_le32(at) - c->arena.x);
        else if (l->kind == JIT_REL_HOST)
            r.n = (uint32_t)(get_le64(at) - (uintptr_t)__executable_start);
        if ((l->kind == JIT_REL_CODE && r.n >= c->arena.keep) ||
            (l->kind == JIT_REL_HOST && r.n >= (size_t)(_end - __executable_start)))
            return false;
        put(o, &r, sizeof r);
    }
    return true;
}

/* An address in this program that no relocation names: such code cannot be kept. */
static bool host_inside(const struct jit_block *b, const struct note *n)
{
    uint64_t lo = (uintptr_t)__executable_start, len = (uint64_t)(_end - __executable_start);

    for (uint32_t at = 0; at + 8 <= b->len; at++) {
        bool known = false;

        if (get_le64(b->host + at) - lo >= len)
            continue;
        for (unsigned i = 0; i < n->nr_rel && !known; i++)
            known = n->rel[i].kind == JIT_REL_HOST && n->rel[i].at == at;
        if (!known)
            return true;
    }
    return false;
}

struct add {
    struct out *o;
    struct lx_rt *rt;
    const struct jit_block *b;
};

static void add_block(void *arg)
{
    struct add *a = arg;
    const struct jit_block *b = a->b;
    const struct note *n = b->keep;
    const struct jit_span *peek = &b->span[JIT_SPAN_PEEK];
    const void *guest = guest_at(a->rt, b->pc);
    struct out *o = a->o;
    size_t at = o->len;
    struct rec r = {.pc = b->pc,
                    .mode = b->mode,
                    .code_len = b->len,
                    .guest_len = b->guest_len,
                    .entry = b->entry,
                    .nr_insn = b->nr_insn,
                    .nr_links = (uint16_t)b->nr_links,
                    .nr_rel = n->nr_rel,
                    .peek_by = b->peek_by,
                    .peek_first = peek->used ? peek->first : 0,
                    .peek_last = peek->used ? peek->last : 0};

    if (host_inside(b, n) || hash(guest, b->guest_len, 0) != n->sum)
        return;
    r.peek_sum = peek_sum(b->pc, r.peek_by, r.peek_first, r.peek_last);
    put(o, &r, sizeof r);
    put(o, b->map, 4u * (b->nr_insn + 1u));
    put_links(o, &a->rt->cache, b);
    if (!put_rels(o, &a->rt->cache, b, n))
        o->full = true;
    put(o, guest, b->guest_len);
    put(o, b->host, b->len);
    if (o->full)
        return;
    r.size = (uint32_t)(o->len - at);
    memcpy(o->p + at, &r, sizeof r);
    r.sum = rec_sum(o->p + at, r.size);
    memcpy(o->p + at, &r, sizeof r);
    enter_index(o, &r, at);
}

/* The records of the file as it is now; those that were made anew come after them and win. */
static void add_old(struct out *o, const struct lx_kept *k, struct unit *u)
{
    struct unit now = {.start = u->start, .end = u->end, .id = u->id};
    struct head h;
    uint64_t at;

    look(k, &now);
    if (!now.file)
        return;
    memcpy(&h, now.file, sizeof h);
    at = sizeof h + (uint64_t)h.nr_slots * sizeof(struct slot);
    for (uint32_t i = 0; i < h.nr_recs && at < now.size; i++) {
        struct parts s;
        struct rec r;
        size_t to = o->len;

        if (!split(now.file + at, now.size - at, &r, &s) || rec_sum(now.file + at, r.size) != r.sum)
            break;
        put(o, now.file + at, r.size);
        enter_index(o, &r, to);
        at += r.size;
    }
    munmap((void *)(uintptr_t)now.file, now.size);
}

static bool write_all(int fd, const void *p, size_t n)
{
    const uint8_t *b = p;

    while (n) {
        ssize_t w = write(fd, b, n);

        if (w <= 0)
            return false;
        b += w;
        n -= (size_t)w;
    }
    return true;
}

static bool write_file(const struct lx_kept *k, const struct unit *u, const struct out *o, int fd)
{
    uint32_t slots = 64, used = 0;
    struct slot *table;
    struct head h;
    uint64_t first;
    bool ok;

    while (slots < o->nr * 2)
        slots *= 2;
    table = try_alloc(slots, sizeof *table);
    if (!table)
        return false;
    first = sizeof h + (uint64_t)slots * sizeof *table;
    for (uint32_t i = 0; i < o->nr; i++) {
        uint64_t at = o->index[i].tag >> 1, n = 0;

        while (n < PROBES && table[at & (slots - 1)].tag && table[at & (slots - 1)].tag != o->index[i].tag) {
            at++;
            n++;
        }
        if (n < PROBES)
            table[at & (slots - 1)] = (struct slot){.tag = o->index[i].tag, .off = (uint32_t)first + o->index[i].off};
        used++;
    }
    h = (struct head){
        .magic = MAGIC, .key = k->key, .id = u->id, .nr_slots = slots, .nr_recs = used, .size = first + o->len};
    ok = write_all(fd, &h, sizeof h) && write_all(fd, table, slots * sizeof *table) && write_all(fd, o->p, o->len);
    free(table);
    return ok;
}

static int open_new(const char *path)
{
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, fd = open(path, flags, 0600);
    struct timespec now;
    struct stat st;

    if (fd >= 0 || errno != EEXIST || lstat(path, &st) < 0)
        return fd;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec - st.st_mtime < STALE_LOCK_S)
        return -1; /* another process is at it */
    unlink(path);
    return open(path, flags, 0600);
}

/* A block that is this process's to keep in unit u. */
static bool new_in(const struct lx_kept *k, const struct unit *u, const struct jit_block *b)
{
    return b->keep && !b->dead && b->pc >= u->start && b->pc < u->end;
}

static void save_unit(struct lx_rt *rt, struct unit *u, uint32_t from)
{
    struct lx_kept *k = rt->kept;
    char path[PATH_MAX], tmp[PATH_MAX];
    struct out o = {0};
    bool ok = false;
    int fd;

    unit_path(k, u, path);
    snprintf(tmp, sizeof tmp, "%.*s.new", PATH_MAX - 8, path);
    fd = open_new(tmp);
    if (fd < 0)
        return;
    o.index = try_alloc(MAX_RECS, sizeof *o.index);
    if (o.index) {
        struct add a = {&o, rt, NULL};

        add_old(&o, k, u);
        for (uint32_t i = from; i < rt->cache.nr_order && !o.full; i++) {
            a.b = rt->cache.order[i];
            if (new_in(k, u, a.b) && !lx_guarded(add_block, &a))
                break;
        }
        ok = o.nr && write_file(k, u, &o, fd);
    }
    close(fd);
    if (!ok || rename(tmp, path) < 0)
        unlink(tmp);
    free(o.index);
    free(o.p);
}

struct old {
    char name[32];
    int64_t when;
    uint64_t size;
};

static int by_age(const void *a, const void *b)
{
    const struct old *x = a, *y = b;

    return x->when < y->when ? -1 : x->when > y->when;
}

/* The oldest files go when all are more than the limit. */
static void bound_folder(const struct lx_kept *k)
{
    struct old *v = NULL;
    size_t n = 0, cap = 0;
    uint64_t sum = 0;
    struct dirent *e;
    DIR *d = opendir(k->dir);

    while (d && (e = readdir(d))) {
        struct stat st;

        if (strlen(e->d_name) < 16 || strlen(e->d_name) > 20 ||
            fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (n == cap) {
            cap = cap ? cap * 2 : 256;
            v = xrealloc(v, cap * sizeof *v);
        }
        snprintf(v[n].name, sizeof v[n].name, "%.20s", e->d_name);
        v[n].when = st.st_mtime;
        v[n].size = (uint64_t)st.st_blocks * 512;
        sum += v[n++].size;
    }
    if (sum > k->limit)
        qsort(v, n, sizeof *v, by_age);
    for (size_t i = 0; i < n && sum > k->limit; i++) {
        unlinkat(dirfd(d), v[i].name, 0);
        sum -= v[i].size;
    }
    if (d)
        closedir(d);
    free(v);
}

/* A file is written whole, so that n new records in a large one cost much and are worth little to the next process:
 * they are written always when they are a 32nd of it, else as often as they are a part of that. A full one stays. */
static bool worth_writing(const struct unit *u, unsigned n)
{
    uint64_t recs = u->size / BYTES_A_REC;
    struct timespec now;

    if (!u->file)
        return n >= MIN_FIRST;
    if (n < MIN_NEW || u->size > MAX_FILE - MAX_FILE / 16)
        return false;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_nsec / 64 % (recs + 1) < (uint64_t)n * 32;
}

void lx_kept_save(struct lx_rt *rt)
{
    struct lx_kept *k = rt->kept;
    struct jit_cache *c = &rt->cache;
    unsigned count[MAX_UNITS] = {0};
    bool any = false;
    uint32_t from;

    if (!k)
        return;
    pthread_mutex_lock(&c->lock);
    from = k->generation == c->generation ? k->first_new : 0;
    for (uint32_t i = from; i < c->nr_order; i++) {
        struct unit *u = c->order[i]->keep && !c->order[i]->dead ? unit_of(k, c->order[i]->pc) : NULL;

        if (u)
            count[u - k->unit]++;
    }
    for (unsigned i = 0; i < k->nr_units; i++)
        if (worth_writing(&k->unit[i], count[i])) {
            save_unit(rt, &k->unit[i], from);
            any = true;
        }
    if (any)
        bound_folder(k);
    k->first_new = c->nr_order; /* exec may yet fail */
    k->generation = c->generation;
    pthread_mutex_unlock(&c->lock);
}
