/* Regions, spaces and accesses. */
#include "base/bytes.h"
#include "base/log.h"
#include "base/str.h"
#include "mem/mem_int.h"

#include <stdatomic.h>

/* ---- the tree ---- */

struct mem_sys *mem_sys_new(struct run *r)
{
    struct mem_sys *s = xnew(struct mem_sys);

    s->run = r;
    list_init(&s->spaces);
    list_init(&s->rams);
    return s;
}

void mem_sys_free(struct mem_sys *s)
{
    while (!list_empty(&s->rams)) {
        struct mem_ram *m = list_first(&s->rams, struct mem_ram, link);

        m->refs = 1;
        mem_ram_unref(m);
    }
    free(s);
}

static void init(struct mem_region *r, struct mem_sys *s, const char *name, uint64_t size, enum mem_kind kind)
{
    *r = (struct mem_region){.name = name, .kind = kind, .size = size, .enabled = true, .sys = s};
    list_init(&r->subs);
    list_init(&r->sib);
}

void mem_region_init(struct mem_region *r, struct mem_sys *s, const char *name, uint64_t size)
{
    init(r, s, name, size, MEM_CONTAINER);
}

static bool init_block(struct mem_region *r, struct mem_sys *s, const char *name, uint64_t size, enum mem_kind kind,
                       struct err **errp)
{
    init(r, s, name, size, kind);
    r->ram = mem_ram_new(s, name, size, errp);
    return r->ram != NULL;
}

bool mem_region_init_ram(struct mem_region *r, struct mem_sys *s, const char *name, uint64_t size, struct err **errp)
{
    return init_block(r, s, name, size, MEM_RAM, errp);
}

void mem_region_init_ram_from(struct mem_region *r, struct mem_sys *s, const char *name, struct mem_ram *ram)
{
    init(r, s, name, ram->size, MEM_RAM);
    mem_ram_ref(ram);
    r->ram = ram;
}

bool mem_region_init_rom(struct mem_region *r, struct mem_sys *s, const char *name, uint64_t size, struct err **errp)
{
    return init_block(r, s, name, size, MEM_ROM, errp);
}

bool mem_region_init_romd(struct mem_region *r, struct mem_sys *s, const struct mem_ops *ops, void *opaque,
                          const char *name, uint64_t size, struct err **errp)
{
    if (!init_block(r, s, name, size, MEM_ROMD, errp))
        return false;
    r->ops = ops;
    r->opaque = opaque;
    r->romd = true;
    return true;
}

void mem_region_init_io(struct mem_region *r, struct mem_sys *s, const struct mem_ops *ops, void *opaque,
                        const char *name, uint64_t size)
{
    init(r, s, name, size, MEM_IO);
    r->ops = ops;
    r->opaque = opaque;
}

void mem_region_init_alias(struct mem_region *r, struct mem_sys *s, const char *name, struct mem_region *target,
                           uint64_t off, uint64_t size)
{
    init(r, s, name, size, MEM_ALIAS);
    r->target = target;
    r->target_off = off;
}

void mem_region_free(struct mem_region *r)
{
    if (r->parent)
        mem_region_del(r);
    mem_ram_unref(r->ram);
    r->ram = NULL;
}

static void reap(struct mem_space *as)
{
    if (as->readers)
        return; /* the next commit tries again */
    while (as->graveyard) {
        struct mem_view *v = as->graveyard;

        as->graveyard = v->next;
        mem_view_free(v);
    }
}

static void space_rebuild(struct mem_space *as)
{
    struct mem_view *now = mem_view_build(as->root), *old = as->view;
    struct mem_listener *l, *tmp;

    if (old && mem_view_equal(old, now)) {
        mem_view_free(now);
        return;
    }
    as->view = now;
    if (old) {
        old->next = as->graveyard;
        as->graveyard = old;
    }
    reap(as);
    list_each_safe (l, tmp, &as->listeners, link)
        l->fn(l->opaque);
}

void mem_begin(struct mem_sys *s)
{
    s->depth++;
}

void mem_commit(struct mem_sys *s)
{
    struct mem_space *as;

    assert(s->depth);
    if (--s->depth || !s->dirty)
        return;
    s->dirty = false;
    list_each (as, &s->spaces, link)
        space_rebuild(as);
}

void mem_touch(struct mem_sys *s)
{
    s->dirty = true;
    mem_begin(s);
    mem_commit(s);
}

/* Siblings are kept by falling priority; of equals the newest comes first. */
void mem_region_add_prio(struct mem_region *parent, gpa_t off, struct mem_region *sub, int prio)
{
    struct mem_region *it;

    assert(!sub->parent && parent->kind == MEM_CONTAINER);
    sub->parent = parent;
    sub->addr = off;
    sub->prio = prio;
    list_each (it, &parent->subs, sib)
        if (it->prio <= prio)
            break;
    list_add(&it->sib, &sub->sib);
    mem_touch(parent->sys);
}

void mem_region_add(struct mem_region *parent, gpa_t off, struct mem_region *sub)
{
    mem_region_add_prio(parent, off, sub, 0);
}

void mem_region_del(struct mem_region *sub)
{
    if (!sub->parent)
        return;
    list_del(&sub->sib);
    sub->parent = NULL;
    mem_touch(sub->sys);
}

static void drop_within(struct mem_region *r, uintptr_t base, size_t size)
{
    struct mem_region *sub, *tmp;

    list_each_safe (sub, tmp, &r->subs, sib) {
        if ((uintptr_t)sub - base < size)
            mem_region_del(sub);
        else if (sub->kind == MEM_CONTAINER)
            drop_within(sub, base, size);
    }
}

void mem_region_drop_within(struct mem_region *root, const void *base, size_t size)
{
    mem_begin(root->sys);
    drop_within(root, (uintptr_t)base, size);
    mem_commit(root->sys);
}

#define SETTER(fn, type, field)                                                                                        \
    void fn(struct mem_region *r, type v)                                                                              \
    {                                                                                                                  \
        if (r->field == v)                                                                                             \
            return;                                                                                                    \
        r->field = v;                                                                                                  \
        mem_touch(r->sys);                                                                                             \
    }
SETTER(mem_region_set_enabled, bool, enabled)
SETTER(mem_region_set_addr, gpa_t, addr)
SETTER(mem_region_set_size, uint64_t, size)
SETTER(mem_region_set_alias_off, uint64_t, target_off)
SETTER(mem_region_set_readonly, bool, readonly)
SETTER(mem_region_set_romd, bool, romd)
SETTER(mem_region_set_dirty_log, uint8_t, dirty_log)

/* ---- spaces ---- */

struct mem_space *mem_space_new(struct mem_sys *s, const char *name, struct mem_region *root)
{
    struct mem_space *as = xnew(struct mem_space);

    as->name = xstrdup(name);
    as->sys = s;
    as->root = root;
    list_init(&as->listeners);
    list_add(&s->spaces, &as->link);
    as->view = mem_view_build(root);
    return as;
}

void mem_space_free(struct mem_space *as)
{
    if (!as)
        return;
    list_del(&as->link);
    as->readers = 0;
    reap(as);
    mem_view_free(as->view);
    while (!list_empty(&as->listeners)) {
        struct mem_listener *l = list_first(&as->listeners, struct mem_listener, link);

        list_del(&l->link);
        free(l);
    }
    free(as->name);
    free(as);
}

bool mem_find(struct mem_space *as, gpa_t addr, struct mem_section *out)
{
    const struct mem_section *s;

    atomic_fetch_add(&as->readers, 1);
    s = mem_view_find(as->view, addr);
    if (s)
        *out = *s;
    atomic_fetch_sub(&as->readers, 1);
    return s != NULL;
}

void mem_space_each(struct mem_space *as, void (*fn)(const struct mem_section *s, void *opaque), void *opaque)
{
    struct mem_view *v;

    atomic_fetch_add(&as->readers, 1);
    v = as->view;
    for (unsigned i = 0; i < v->nr; i++)
        fn(&v->s[i], opaque);
    atomic_fetch_sub(&as->readers, 1);
}

void mem_space_listen(struct mem_space *as, mem_changed_fn *fn, void *opaque)
{
    struct mem_listener *l = xnew(struct mem_listener);

    l->fn = fn;
    l->opaque = opaque;
    list_add(&as->listeners, &l->link);
}

void mem_space_unlisten(struct mem_space *as, mem_changed_fn *fn, void *opaque)
{
    struct mem_listener *l, *tmp;

    list_each_safe (l, tmp, &as->listeners, link)
        if (l->fn == fn && l->opaque == opaque) {
            list_del(&l->link);
            free(l);
        }
}

/* ---- device accesses ---- */

/* Devices whose callbacks run on this thread, innermost last: none of them is entered a second time. */
enum { MAX_NEST = 16 };
static _Thread_local void *active[MAX_NEST];
static _Thread_local unsigned nr_active;

static bool enter(struct mem_region *r)
{
    if (r->ops->flags & MEM_UNLOCKED)
        return true;
    if (nr_active == MAX_NEST)
        return false;
    for (unsigned i = 0; i < nr_active; i++)
        if (active[i] == r->opaque && r->opaque) {
            log_guest("%s: access from the device's own DMA refused", r->name);
            return false;
        }
    active[nr_active++] = r->opaque;
    return true;
}

static void leave(struct mem_region *r)
{
    if (!(r->ops->flags & MEM_UNLOCKED))
        nr_active--;
}

static uint64_t ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (UINT64_C(1) << (size * 8)) - 1;
}

static unsigned swap_shift(bool big, unsigned done, unsigned part, unsigned size)
{
    return 8 * (big ? size - done - part : done);
}

/* The widest aligned piece the device takes at off, at most left bytes. */
static unsigned piece(const struct mem_ops *o, gpa_t off, unsigned left)
{
    unsigned max = o->impl_max ? o->impl_max : 4, n = left > max ? max : left;

    while (!is_pow2(n))
        n--;
    while (!o->unaligned && (off & (n - 1)))
        n /= 2;
    return n;
}

static uint64_t io_read(struct mem_region *r, gpa_t off, unsigned size)
{
    const struct mem_ops *o = r->ops;
    unsigned min = o->impl_min ? o->impl_min : 1;
    uint64_t v = 0;

    if (!o->read)
        return ones(size);
    if (size < min) {
        gpa_t base = off & ~(gpa_t)(min - 1);

        return o->read(r->opaque, base, min) >> (8 * (off - base)) & ones(size);
    }
    for (unsigned done = 0; done < size;) {
        unsigned n = piece(o, off + done, size - done);

        v |= (o->read(r->opaque, off + done, n) & ones(n)) << swap_shift(o->big, done, n, size);
        done += n;
    }
    return v;
}

static void io_write(struct mem_region *r, gpa_t off, uint64_t val, unsigned size)
{
    const struct mem_ops *o = r->ops;
    unsigned min = o->impl_min ? o->impl_min : 1;

    if (!o->write)
        return;
    if (size < min) { /* the device sees one wide write with the other bytes zero, as on a bus without byte enables */
        gpa_t base = off & ~(gpa_t)(min - 1);

        o->write(r->opaque, base, (val & ones(size)) << (8 * (off - base)), min);
        return;
    }
    for (unsigned done = 0; done < size;) {
        unsigned n = piece(o, off + done, size - done);

        o->write(r->opaque, off + done, val >> swap_shift(o->big, done, n, size) & ones(n), n);
        done += n;
    }
}

static bool size_valid(const struct mem_ops *o, unsigned size)
{
    return size >= (o->valid_min ? o->valid_min : 1) && size <= (o->valid_max ? o->valid_max : 8);
}

/* One access of at most 8 bytes that lies in the section. */
static enum mem_result section_io(struct mem_space *as, const struct mem_section *s, gpa_t addr, unsigned size,
                                  uint64_t *val, bool write)
{
    struct mem_region *r = s->region;
    gpa_t off = s->region_off + (addr - s->start);
    struct run_scope lock = {NULL};

    if (!write)
        *val = ones(size);
    if (!r->ops)
        return MEM_OK; /* a write to ROM */
    if (!size_valid(r->ops, size)) {
        log_guest("%s: %u-byte %s at %#" PRIx64 " is not a valid access", r->name, size, write ? "write" : "read", off);
        return MEM_DENIED;
    }
    if (!(r->ops->flags & MEM_UNLOCKED))
        lock = run_scope_enter(as->sys->run);
    if (!enter(r)) {
        run_scope_leave(&lock);
        return MEM_DENIED;
    }
    if (write)
        io_write(r, off, *val, size);
    else
        *val = io_read(r, off, size);
    leave(r);
    run_scope_leave(&lock);
    return MEM_OK;
}

/* ---- accesses ---- */

static unsigned chunk(gpa_t addr, uint64_t len)
{
    unsigned n = len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;

    while (addr & (n - 1))
        n /= 2;
    return n;
}

enum mem_result mem_read(struct mem_space *as, gpa_t addr, void *buf, uint64_t len)
{
    enum mem_result res = MEM_OK;
    uint8_t *p = buf;

    while (len) {
        struct mem_section s;
        uint64_t n;

        if (!mem_find(as, addr, &s)) {
            *p = 0xff;
            n = 1;
            res |= MEM_UNMAPPED;
        } else if (s.host) {
            n = min_u64(len, s.len - (addr - s.start));
            memcpy(p, s.host + (addr - s.start), n);
        } else {
            uint64_t v;

            n = chunk(addr, min_u64(len, s.len - (addr - s.start)));
            while (s.region->ops && n > 1 && !size_valid(s.region->ops, (unsigned)n) && n > s.region->ops->valid_max)
                n /= 2;
            res |= section_io(as, &s, addr, (unsigned)n, &v, false);
            put_le(p, v, (unsigned)n);
        }
        p += n;
        addr += n;
        len -= n;
    }
    return res;
}

enum mem_result mem_write(struct mem_space *as, gpa_t addr, const void *buf, uint64_t len)
{
    enum mem_result res = MEM_OK;
    const uint8_t *p = buf;

    while (len) {
        struct mem_section s;
        uint64_t n;

        if (!mem_find(as, addr, &s)) {
            n = 1;
            res |= MEM_UNMAPPED;
        } else if (s.host && !s.readonly) {
            n = min_u64(len, s.len - (addr - s.start));
            memcpy(s.host + (addr - s.start), p, n);
            mem_ram_written(s.ram, s.ram_off + (addr - s.start), n);
        } else {
            uint64_t v;

            n = chunk(addr, min_u64(len, s.len - (addr - s.start)));
            while (s.region->ops && n > 1 && !size_valid(s.region->ops, (unsigned)n) && n > s.region->ops->valid_max)
                n /= 2;
            v = get_le(p, (unsigned)n);
            res |= section_io(as, &s, addr, (unsigned)n, &v, true);
        }
        p += n;
        addr += n;
        len -= n;
    }
    return res;
}

enum mem_result mem_load(struct mem_space *as, gpa_t addr, unsigned size, uint64_t *val)
{
    struct mem_section s;
    uint8_t buf[8];
    enum mem_result res;

    if (mem_find(as, addr, &s) && s.len - (addr - s.start) >= size) {
        if (!s.host)
            return section_io(as, &s, addr, size, val, false);
        *val = get_le(s.host + (addr - s.start), size);
        return MEM_OK;
    }
    res = mem_read(as, addr, buf, size);
    *val = get_le(buf, size);
    return res;
}

enum mem_result mem_store(struct mem_space *as, gpa_t addr, unsigned size, uint64_t val)
{
    struct mem_section s;
    uint8_t buf[8];

    if (mem_find(as, addr, &s) && s.len - (addr - s.start) >= size) {
        if (!s.host || s.readonly)
            return section_io(as, &s, addr, size, &val, true);
        put_le(s.host + (addr - s.start), val, size);
        mem_ram_written(s.ram, s.ram_off + (addr - s.start), size);
        return MEM_OK;
    }
    put_le(buf, val, size);
    return mem_write(as, addr, buf, size);
}

enum mem_result mem_set(struct mem_space *as, gpa_t addr, int byte, uint64_t len)
{
    uint8_t buf[4096];
    enum mem_result res = MEM_OK;

    memset(buf, byte, sizeof buf);
    while (len) {
        uint64_t n = min_u64(len, sizeof buf);

        res |= mem_write(as, addr, buf, n);
        addr += n;
        len -= n;
    }
    return res;
}

void *mem_map(struct mem_space *as, gpa_t addr, uint64_t *len, bool is_write)
{
    struct mem_section s;

    if (!mem_find(as, addr, &s) || !s.host || (is_write && s.readonly))
        return NULL;
    *len = min_u64(*len, s.len - (addr - s.start));
    return s.host + (addr - s.start);
}

void mem_unmap(struct mem_space *as, void *host, uint64_t len, bool is_write, uint64_t touched)
{
    struct mem_ram *m;

    if (!is_write || !touched)
        return;
    list_each (m, &as->sys->rams, link)
        if ((uint8_t *)host >= m->host && (uint8_t *)host < m->host + m->size) {
            mem_ram_written(m, (uint64_t)((uint8_t *)host - m->host), touched);
            return;
        }
}

/* ---- `info mtree` ---- */

static const char *kind_name(const struct mem_region *r)
{
    switch (r->kind) {
    case MEM_RAM:
        return r->readonly ? "rom" : "ram";
    case MEM_ROM:
        return "rom";
    case MEM_ROMD:
        return "romd";
    case MEM_ALIAS:
        return "alias";
    default:
        return "i/o";
    }
}

static void dump_region(struct strbuf *b, struct mem_region *r, uint64_t base, int depth)
{
    struct mem_region *sub;

    str_addf(b, "%*s%016" PRIx64 "-%016" PRIx64 " (prio %d, %s): %s", depth * 2, "", base, base + (r->size - 1),
             r->prio, r->kind == MEM_CONTAINER ? "container" : kind_name(r), r->name);
    if (r->kind == MEM_ALIAS)
        str_addf(b, " @%s %016" PRIx64, r->target->name, r->target_off);
    str_add(b, r->enabled ? "\n" : " [disabled]\n");
    list_each (sub, &r->subs, sib)
        dump_region(b, sub, base + sub->addr, depth + 1);
}

static void dump_section(const struct mem_section *s, void *opaque)
{
    str_addf(opaque, "  %016" PRIx64 "-%016" PRIx64 " (prio %d, %s): %s @%016" PRIx64 "\n", s->start,
             s->start + (s->len - 1), s->region->prio, s->readonly && s->host ? "rom" : kind_name(s->region),
             s->region->name, s->region_off);
}

char *mem_space_dump(struct mem_space *as, bool flat)
{
    struct strbuf b = {0};

    if (flat) {
        str_addf(&b, "FlatView of %s\n", as->name);
        mem_space_each(as, dump_section, &b);
    } else {
        str_addf(&b, "address-space: %s\n", as->name);
        dump_region(&b, as->root, 0, 1);
    }
    return str_take(&b);
}
