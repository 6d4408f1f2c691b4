/* RAM blocks: host memory, per-page flags, the code-write hook. */
#include "mem/mem_int.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { PAGE = 4096, DIRTY_ALL = MEM_DIRTY_VGA | MEM_DIRTY_MIGRATE };

uint64_t mem_fd_page_size(int fd)
{
    struct statfs fs;

    return fd >= 0 && !fstatfs(fd, &fs) && fs.f_type == HUGETLBFS_MAGIC ? (uint64_t)fs.f_bsize : PAGE;
}

/* Huge pages are set aside here or not at all: without that, one too few ends the program when the guest touches it. */
static void *map_host(const char *name, uint64_t len, int prot, int fd, uint64_t off, bool shared, struct err **errp)
{
    bool huge = mem_fd_page_size(fd) > PAGE;
    int flags = shared && fd >= 0 ? MAP_SHARED : MAP_PRIVATE | (huge ? 0 : MAP_NORESERVE);
    void *host = mmap(NULL, len, prot, flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, (off_t)off);

    if (host != MAP_FAILED)
        return host;
    err_set_errno(errp, errno, "memory block '%s': cannot map %" PRIu64 " MiB%s", name, len >> 20,
                  huge ? " of huge pages" : "");
    err_hint(errp, huge ? "Let the host set more of them aside (vm.nr_hugepages), or ask for less memory with -m."
                        : "Ask for less memory with -m.");
    return NULL;
}

static struct mem_ram *ram_new(struct mem_sys *s, const char *name, uint64_t size, int fd, uint64_t off, bool shared,
                               bool readonly, struct err **errp)
{
    int prot = readonly ? PROT_READ : PROT_READ | PROT_WRITE;
    uint64_t len = align_up(size, PAGE);
    struct mem_ram *m;
    void *host;

    if (!size || len < size || len > SIZE_MAX / 2) {
        err_set(errp, "memory block '%s': a size of %" PRIu64 " bytes is not possible", name, size);
        return NULL;
    }
    host = map_host(name, len, prot, fd, off, shared, errp);
    if (!host)
        return NULL;
    if (fd < 0)
        madvise(host, len, MADV_HUGEPAGE);
    m = xnew(struct mem_ram);
    m->page = try_alloc(len / PAGE, 1);
    if (!m->page) {
        munmap(host, len);
        free(m);
        err_set(errp, "memory block '%s': no memory for its page flags", name);
        return NULL;
    }
    m->host = host;
    m->size = len;
    m->fd = fd;
    m->fd_off = off;
    m->shared = shared;
    m->host_ro = readonly;
    m->name = xstrdup(name);
    m->sys = s;
    m->refs = 1;
    m->id = s->next_page;
    s->next_page += len / PAGE + 1;
    list_add(&s->rams, &m->link);
    return m;
}

struct mem_ram *mem_ram_new(struct mem_sys *s, const char *name, uint64_t size, struct err **errp)
{
    return ram_new(s, name, size, -1, 0, false, false, errp);
}

struct mem_ram *mem_ram_new_fd(struct mem_sys *s, const char *name, uint64_t size, int fd, uint64_t off, bool shared,
                               bool readonly, struct err **errp)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    struct mem_ram *m;

    if (own < 0) {
        err_set_errno(errp, errno, "memory block '%s': cannot keep its file", name);
        return NULL;
    }
    m = ram_new(s, name, size, own, off, shared, readonly, errp);
    if (!m)
        close(own);
    return m;
}

void mem_ram_ref(struct mem_ram *m)
{
    m->refs++;
}

void mem_ram_unref(struct mem_ram *m)
{
    if (!m || --m->refs)
        return;
    list_del(&m->link);
    munmap(m->host, m->size);
    if (m->fd >= 0)
        close(m->fd);
    free((void *)m->page);
    free(m->name);
    free(m);
}

/* True when nobody holds anything made from the page any more. */
static bool tell_code_hooks(struct mem_ram *m, uint64_t off, uint64_t len)
{
    struct mem_sys *s = m->sys;
    bool clear = true;

    for (unsigned i = 0; i < s->nr_code_hooks; i++)
        clear &= s->code_hook[i].fn(s->code_hook[i].opaque, m, off, len);
    return clear;
}

static void page_written(struct mem_ram *m, uint64_t page, uint64_t off, uint64_t len)
{
    uint8_t f = m->page[page];

    if ((f & DIRTY_ALL) != DIRTY_ALL)
        atomic_fetch_or_explicit(&m->page[page], DIRTY_ALL, memory_order_relaxed);
    if (unlikely(f & MEM_PAGE_CODE)) {
        unsigned marks = m->sys->code_marks;

        if (!tell_code_hooks(m, off, len))
            return;
        atomic_fetch_and(&m->page[page], (uint8_t)~MEM_PAGE_CODE);
        if (m->sys->code_marks != marks) { /* somebody may just have read code here: writes went unseen since */
            mem_ram_mark_code(m, page * PAGE);
            tell_code_hooks(m, page * PAGE, PAGE);
        }
    }
}

void mem_ram_written(struct mem_ram *m, uint64_t off, uint64_t len)
{
    while (len) {
        uint64_t n = min_u64(len, PAGE - (off & (PAGE - 1)));

        page_written(m, off / PAGE, off, n);
        off += n;
        len -= n;
    }
}

bool mem_ram_test_clear(struct mem_ram *m, uint64_t off, uint64_t len, uint8_t bits)
{
    uint64_t first = off / PAGE, last = (off + len - 1) / PAGE;
    bool any = false;

    for (uint64_t p = first; len && p <= last; p++)
        if (m->page[p] & bits)
            any |= (atomic_fetch_and(&m->page[p], (uint8_t)~bits) & bits) != 0;
    return any;
}

void mem_ram_each(struct mem_sys *s, void (*fn)(struct mem_ram *m, void *opaque), void *opaque)
{
    struct mem_ram *m, *tmp;

    list_each_safe (m, tmp, &s->rams, link)
        fn(m, opaque);
}

void mem_add_code_hook(struct mem_sys *s, mem_code_fn *fn, void *opaque)
{
    assert(s->nr_code_hooks < ARRAY_LEN(s->code_hook));
    s->code_hook[s->nr_code_hooks].fn = fn;
    s->code_hook[s->nr_code_hooks++].opaque = opaque;
}

void mem_add_mark_hook(struct mem_sys *s, mem_mark_fn *fn, void *opaque)
{
    assert(s->nr_mark_hooks < ARRAY_LEN(s->mark_hook));
    s->mark_hook[s->nr_mark_hooks].fn = fn;
    s->mark_hook[s->nr_mark_hooks++].opaque = opaque;
}

bool mem_ram_mark_code(struct mem_ram *m, uint64_t off)
{
    struct mem_sys *s = m->sys;
    uint8_t was;

    s->code_marks++;
    if (m->page[off / PAGE] & MEM_PAGE_CODE)
        return false;
    was = atomic_fetch_or(&m->page[off / PAGE], MEM_PAGE_CODE);
    if (was & MEM_PAGE_CODE)
        return false;
    if (!(was & MEM_PAGE_WCACHE))
        return true;
    atomic_fetch_and(&m->page[off / PAGE], (uint8_t)~MEM_PAGE_WCACHE);
    for (unsigned i = 0; i < s->nr_mark_hooks; i++)
        s->mark_hook[i].fn(s->mark_hook[i].opaque, m, off);
    return true;
}
