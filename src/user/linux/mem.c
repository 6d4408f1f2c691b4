/* Address-space calls: mmap, munmap, mprotect, mremap, remap_file_pages, brk, shmat.
 *
 * 64-bit guests: the host chooses where; 32-bit guests: we choose below 4 GiB. The host's mappings never carry
 * PROT_EXEC (guest code is translated), and lack PROT_WRITE where code is watched (run.c). The heap is a mapping of
 * ours behind the program: the host's brk is never moved. */
#include "base/util.h"
#include "user/linux/kept.h"
#include "user/linux/map.h"
#include "user/linux/syscalls.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, PROT_RWX = PROT_READ | PROT_WRITE | PROT_EXEC };
extern const char __executable_start[], _end[];

static int host_prot(int prot)
{
    return (prot & (PROT_READ | PROT_WRITE)) | (prot & (PROT_EXEC | PROT_WRITE) ? PROT_READ : 0);
}

static uint64_t task_end(void)
{
    return lx_is32() ? lx_task_end32() : LX_TASK_MAX - PAGE;
}

/* The guest may not put anything over this program. */
static bool ours(uint64_t addr, uint64_t len)
{
    return addr < (uintptr_t)_end && addr + len > (uintptr_t)__executable_start;
}

/* End of what the guest has mapped without a hole from start on, at most end; start itself: it is a hole. */
static uint64_t mapped_end(uint64_t start, uint64_t end)
{
    struct lx_map m;

    while (start < end && lx_map_next(start, &m) && m.start <= start)
        start = min_u64(m.end, end);
    return start;
}

/* Begin of the first thing the guest has mapped from start on, at most end. */
static uint64_t hole_end(uint64_t start, uint64_t end)
{
    struct lx_map m;

    return lx_map_next(start, &m) ? max_u64(start, min_u64(m.start, end)) : end;
}

static void release_holes(uint64_t start, uint64_t end)
{
    for (uint64_t next; start < end; start = mapped_end(next, end)) {
        next = hole_end(start, end);
        if (next > start)
            munmap((void *)(uintptr_t)start, next - start);
    }
}

/* Before something is put at a fixed place: takes what the guest has not mapped there, so that nothing of this program
 * (its heap, its code cache) is replaced. False, and nothing taken, when something of it is there. */
static bool take_holes(uint64_t start, uint64_t end)
{
    for (uint64_t at = mapped_end(start, end), next; at < end; at = mapped_end(next, end)) {
        void *p;

        next = hole_end(at, end);
        p = mmap((void *)(uintptr_t)at, next - at, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (p == MAP_FAILED) {
            release_holes(start, at);
            return false;
        }
    }
    return true;
}

static bool any_code(uint64_t start, uint64_t end)
{
    struct lx_map m;

    while (start < end && lx_map_next(start, &m) && m.start < end) {
        if (m.prot & PROT_EXEC)
            return true;
        start = m.end;
    }
    return false;
}

static void changed(uint64_t start, uint64_t len)
{
    uint64_t from, at, to;
    struct lx_map m;

    if (any_code(start, start + len))
        lx_rt_unmapped(lx_proc.rt, start, len);
    if (!lx_map_files_run()) /* programs have a file mapped thousands of times */
        return;
    for (uint64_t p = start; p < start + len && lx_map_next(p, &m) && m.start < start + len; p = m.end)
        for (from = 0; m.ino && lx_map_alias(max_u64(p, m.start), min_u64(m.end, start + len), &from, &at, &to);)
            if (any_code(at, to))
                lx_rt_unmapped(lx_proc.rt, at, to - at);
}

/* Where a mapping without MAP_FIXED goes for a 32-bit guest; 0 = no room. */
static uint64_t place32(uint64_t hint, uint64_t len)
{
    struct lx_map m;

    hint &= ~UINT64_C(PAGE - 1);
    if (hint >= 0x10000 && hint + len <= task_end() && (!lx_map_next(hint, &m) || m.start >= hint + len))
        return hint;
    hint = lx_map_hole(0x10000, lx_proc.mmap_hi, len, PAGE);
    return hint ? hint : lx_map_hole(0x10000, task_end(), len, PAGE);
}

static int64_t host_mmap(uint64_t addr, uint64_t len, int prot, int flags, int fd, uint64_t off)
{
    void *p = mmap((void *)(uintptr_t)addr, len, host_prot(prot), flags, fd, (off_t)off);

    return p == MAP_FAILED ? -errno : (int64_t)(uintptr_t)p;
}

static int64_t mmap32(uint64_t addr, uint64_t len, int prot, int flags, int fd, uint64_t off)
{
    int64_t r = -ENOMEM;

    if (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE))
        return addr + len > task_end() ? -ENOMEM : host_mmap(addr, len, prot, flags, fd, off);
    for (unsigned tries = 0; tries < 64; tries++) {
        uint64_t at = place32(addr, len);

        if (!at)
            return -ENOMEM;
        r = host_mmap(at, len, prot, flags | MAP_FIXED_NOREPLACE, fd, off);
        if (r != -EEXIST)
            return r;
        lx_map_add(at, at + PAGE, PROT_NONE, false, LX_MAP_PLAIN); /* the host's own: do not try there again */
        addr = 0;
    }
    return -ENOMEM;
}

/* A library, or the room the dynamic linker reserves for one, goes where it went the last time (kept.h). */
static int64_t place64(uint64_t addr, uint64_t len, int prot, int flags, int fd, uint64_t off)
{
    bool room = !addr && !off && !(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) && (flags & MAP_TYPE) == MAP_PRIVATE &&
                (flags & MAP_ANONYMOUS ? prot == PROT_NONE : !(prot & PROT_WRITE));
    uint64_t at = room ? lx_kept_place(lx_proc.rt->kept, len) : 0;
    int64_t r;

    if (at) {
        r = host_mmap(at, len, prot, flags | MAP_FIXED_NOREPLACE, fd, off);
        if (r >= 0)
            return r;
    }
    return host_mmap(addr, len, prot, flags, fd, off);
}

static int64_t map_held(uint64_t addr, uint64_t len, int prot, int flags, int fd, uint64_t off)
{
    uint64_t size = align_up(len, PAGE);
    bool taken = false;
    struct stat st;
    int64_t r;

    if (!len || size < len || size > task_end())
        return !len ? -EINVAL : -ENOMEM;
    if (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) {
        if (addr & (PAGE - 1))
            return -EINVAL;
        if (addr > task_end() - size || ours(addr, size))
            return flags & MAP_FIXED_NOREPLACE ? -EEXIST : -ENOMEM;
        taken = !(flags & MAP_FIXED_NOREPLACE);
        if (taken && !take_holes(addr, addr + size))
            return -ENOMEM;
    }
    flags &= ~(MAP_GROWSDOWN | MAP_32BIT | MAP_LOCKED);
    if (lx_is32())
        r = mmap32(addr, len, prot, flags, fd, off);
    else
        r = place64(addr, len, prot, flags, fd, off);
    if (r < 0 && taken)
        release_holes(addr, addr + size);
    if (r < 0)
        return r;
    changed((uint64_t)r, size);
    lx_map_add((uint64_t)r, (uint64_t)r + size, prot & PROT_RWX, (flags & MAP_TYPE) != MAP_PRIVATE, LX_MAP_PLAIN);
    if (!(flags & MAP_ANONYMOUS) && (flags & MAP_TYPE) != MAP_PRIVATE && !fstat(fd, &st)) {
        lx_map_set_file((uint64_t)r, (uint64_t)r + size, st.st_dev, st.st_ino, off);
        changed((uint64_t)r, size);
    }
    if (prot & PROT_EXEC && !(flags & MAP_ANONYMOUS) && (flags & MAP_TYPE) == MAP_PRIVATE)
        lx_kept_mapped(lx_proc.rt, (uint64_t)r, size, fd, off);
    return r;
}

static int64_t mmap_held(const uint64_t *a)
{
    int flags = (int)a[3];
    int64_t r;

    if (a[5] & (PAGE - 1))
        return -EINVAL;
    if (flags & MAP_32BIT && !(flags & MAP_FIXED) && !lx_is32()) {
        uint64_t at = lx_map_hole(0x10000, UINT64_C(1) << 31, align_up(a[1], PAGE), PAGE);

        r = at ? map_held(at, a[1], (int)a[2], (flags & ~MAP_32BIT) | MAP_FIXED_NOREPLACE, (int)a[4], a[5]) : -ENOMEM;
        if (r >= 0)
            return r;
    }
    return map_held(a[0], a[1], (int)a[2], flags, (int)a[4], a[5]);
}

/* Only what the guest has mapped: what else is in the range is this program's. */
static int64_t munmap_held(const uint64_t *a)
{
    uint64_t len = align_up(a[1], PAGE), end = a[0] + len;

    if (a[0] & (PAGE - 1) || !len || len < a[1] || a[0] > task_end() + PAGE || len > task_end() + PAGE - a[0])
        return -EINVAL;
    if (ours(a[0], len))
        return -EINVAL;
    changed(a[0], len);
    for (uint64_t at = hole_end(a[0], end), next; at < end; at = hole_end(next, end)) {
        next = mapped_end(at, end);
        if (munmap((void *)(uintptr_t)at, next - at) < 0)
            return -errno;
        lx_map_del(at, next);
    }
    return 0;
}

static int64_t mprotect_held(const uint64_t *a)
{
    uint64_t len = align_up(a[1], PAGE), end;
    int prot = (int)a[2];
    bool code;

    if (a[0] & (PAGE - 1) || prot & ~(PROT_RWX | PROT_GROWSDOWN | 8 /* PROT_SEM */))
        return -EINVAL;
    if (!len)
        return 0;
    if (len < a[1] || a[0] > task_end() || len > task_end() + PAGE - a[0])
        return -ENOMEM;
    end = mapped_end(a[0], a[0] + len); /* as the kernel: up to the first hole */
    code = any_code(a[0], end);
    changed(a[0], end - a[0]);
    if (end > a[0] && mprotect((void *)(uintptr_t)a[0], end - a[0], host_prot(prot)) < 0)
        return -errno;
    lx_map_protect(a[0], end, prot & PROT_RWX);
    if (code) /* what others translated meanwhile */
        lx_rt_unmapped(lx_proc.rt, a[0], end - a[0]);
    if (prot & PROT_WRITE) /* what was translated elsewhere when this could not be written */
        changed(a[0], end - a[0]);
    return end == a[0] + len ? 0 : -ENOMEM;
}

static int64_t mremap_held(const uint64_t *a)
{
    uint64_t old = a[0], osize = align_up(a[1], PAGE), nsize = align_up(a[2], PAGE), to = a[4];
    int flags = (int)a[3];
    struct lx_map m;
    int64_t r;
    void *p;

    if (old & (PAGE - 1) || !nsize || nsize < a[2] || nsize > task_end())
        return -EINVAL;
    if (!lx_map_next(old, &m) || m.start > old || osize > task_end() || mapped_end(old, old + osize) < old + osize)
        return -EFAULT;
    if (flags & MREMAP_FIXED && (to & (PAGE - 1) || to > task_end() - nsize || ours(to, nsize)))
        return -EINVAL;
    if (flags & MREMAP_FIXED && !take_holes(to, to + nsize))
        return -ENOMEM;
    changed(old, max_u64(osize, PAGE));
    if (flags & MREMAP_FIXED)
        changed(to, nsize);
    if (lx_is32() && flags & MREMAP_MAYMOVE && !(flags & MREMAP_FIXED) && nsize > osize) {
        p = mremap((void *)(uintptr_t)old, osize, nsize, 0);
        if (p == MAP_FAILED) {
            to = place32(0, nsize);
            if (!to)
                return -ENOMEM;
            p = mremap((void *)(uintptr_t)old, osize, nsize, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(uintptr_t)to);
        }
    } else {
        p = mremap((void *)(uintptr_t)old, a[1], a[2], flags, (void *)(uintptr_t)to);
    }
    if (p == MAP_FAILED) {
        r = -errno;
        if (flags & MREMAP_FIXED)
            release_holes(to, to + nsize);
        return r;
    }
    r = (int64_t)(uintptr_t)p;
    if (!(flags & 4 /* MREMAP_DONTUNMAP */) && osize)
        lx_map_del(old, old + osize);
    lx_map_add((uint64_t)r, (uint64_t)r + nsize, m.prot, m.shared, LX_MAP_PLAIN);
    if (m.ino)
        lx_map_set_file((uint64_t)r, (uint64_t)r + nsize, m.dev, m.ino, m.off + (old - m.start));
    return r;
}

/* Another part of the file a shared mapping shows, in its place. */
static int64_t remap_held(const uint64_t *a)
{
    uint64_t start = align_down(a[0], PAGE), len = align_down(a[1], PAGE);
    struct lx_map m, next;

    if (!len || start > task_end() || len > task_end() - start || !lx_map_next(start, &m) || m.start > start ||
        !m.shared)
        return -EINVAL;
    for (uint64_t p = start; p < start + len; p = next.end)
        if (!lx_map_next(p, &next) || next.start > p || next.prot != m.prot || !next.shared)
            return -EINVAL;
    changed(start, len);
    mprotect((void *)(uintptr_t)start, len, host_prot(m.prot)); /* pages watched for code are as the others again */
    if (syscall(SYS_remap_file_pages, start, len, a[2], a[3], a[4]) < 0)
        return -errno;
    if (m.ino)
        lx_map_set_file(start, start + len, m.dev, m.ino, a[3] * PAGE);
    changed(start, len);
    return 0;
}

int64_t lx_sys_madvise(struct lx_thread *t, const uint64_t *a)
{
    uint64_t len = align_up(a[1], PAGE), end = a[0] + len;
    int64_t r = 0;

    if (len < a[1] || a[0] > task_end() || len > task_end() + PAGE - a[0])
        return len < a[1] ? -EINVAL : -ENOMEM;
    switch ((int)a[2]) {
    case MADV_DONTNEED:
    case MADV_REMOVE:
    case MADV_FREE:
        changed(a[0], len);
        break;
    default:
        break;
    }
    if (!len || a[0] & (PAGE - 1) || mapped_end(a[0], end) == end)
        return madvise((void *)(uintptr_t)a[0], a[1], (int)a[2]) < 0 ? -errno : 0;
    for (uint64_t at = hole_end(a[0], end), next; at < end && !r; at = hole_end(next, end)) {
        next = mapped_end(at, end);
        if (madvise((void *)(uintptr_t)at, next - at, (int)a[2]) < 0)
            r = -errno;
    }
    return r ? r : -ENOMEM; /* as the kernel: everything but the holes */
}

static int64_t brk_held(const uint64_t *a)
{
    struct lx_proc *p = &lx_proc;
    uint64_t want = a[0], top = align_up(want, PAGE);

    if (want < p->brk_start || want > p->brk_max)
        goto out;
    if (top > p->brk_mapped) {
        void *m = mmap((void *)(uintptr_t)p->brk_mapped, top - p->brk_mapped, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

        if (m == MAP_FAILED || (uintptr_t)m != p->brk_mapped)
            goto out;
    } else if (top < p->brk_mapped) {
        munmap((void *)(uintptr_t)top, p->brk_mapped - top);
        lx_map_del(top, p->brk_mapped);
    }
    p->brk_mapped = top;
    p->brk = want;
    if (top > p->brk_start)
        lx_map_add(p->brk_start, top, PROT_READ | PROT_WRITE, false, LX_MAP_HEAP);
out:
    return (int64_t)p->brk;
}

/* What shmat has put where: neighbours are one mapping in map.h, and shmdt does not say how long its is. */
static struct shm_place {
    uint64_t at, len;
} * attached; /* owned; under lx_proc.space */
static size_t nr_attached;

static struct shm_place *attached_at(uint64_t at)
{
    for (size_t i = 0; i < nr_attached; i++)
        if (attached[i].at == at)
            return &attached[i];
    return NULL;
}

static void note_attached(uint64_t at, uint64_t len)
{
    struct shm_place *p = attached_at(at);

    if (!p) {
        attached = xrealloc(attached, (nr_attached + 1) * sizeof *attached);
        p = &attached[nr_attached++];
    }
    *p = (struct shm_place){at, len};
}

static int64_t shmat_held(const uint64_t *a)
{
    struct shmid_ds ds;
    uint64_t at = a[1], len;
    int flags = (int)a[2];
    int64_t r;
    void *p;

    if (shmctl((int)a[0], IPC_STAT, &ds) < 0)
        return -errno;
    len = align_up(ds.shm_segsz, PAGE);
    if (lx_is32() && !at) {
        at = place32(0, len);
        if (!at)
            return -ENOMEM;
    }
    if (at && flags & SHM_REMAP) {
        if (at & (PAGE - 1) || at > task_end() || len > task_end() - at || !take_holes(at, at + len))
            return -EINVAL;
        changed(at, len);
    }
    p = shmat((int)a[0], (void *)(uintptr_t)at, flags & ~SHM_EXEC);
    if (p == (void *)-1) {
        r = -errno;
        if (at && flags & SHM_REMAP)
            release_holes(at, at + len);
        return r;
    }
    lx_map_add((uintptr_t)p, (uintptr_t)p + len, flags & SHM_RDONLY ? PROT_READ : PROT_READ | PROT_WRITE, true,
               LX_MAP_PLAIN);
    note_attached((uintptr_t)p, len);
    return (int64_t)(uintptr_t)p;
}

static int64_t shmdt_held(const uint64_t *a)
{
    struct shm_place *p = attached_at(a[0]);

    if (shmdt((void *)(uintptr_t)a[0]) < 0)
        return -errno;
    if (p) {
        lx_map_del(p->at, p->at + p->len);
        *p = attached[--nr_attached];
    }
    return 0;
}

/* ---- one at a time: what one thread unmaps another may be given at once, and the table must not forget that ---- */

static int64_t in_space(int64_t (*held)(const uint64_t *), const uint64_t *a)
{
    int64_t r;

    pthread_mutex_lock(&lx_proc.space);
    r = held(a);
    pthread_mutex_unlock(&lx_proc.space);
    return r;
}

int64_t lx_mmap(uint64_t addr, uint64_t len, int prot, int flags, int fd, uint64_t off)
{
    return in_space(mmap_held, (const uint64_t[]){addr, len, (uint64_t)prot, (uint64_t)flags, (uint64_t)fd, off});
}

int64_t lx_sys_mmap(struct lx_thread *t, const uint64_t *a)
{
    return in_space(mmap_held, a);
}

int64_t lx_sys_munmap(struct lx_thread *t, const uint64_t *a)
{
    return in_space(munmap_held, a);
}

int64_t lx_sys_mprotect(struct lx_thread *t, const uint64_t *a)
{
    return in_space(mprotect_held, a);
}

int64_t lx_sys_remap_file_pages(struct lx_thread *t, const uint64_t *a)
{
    return in_space(remap_held, a);
}

int64_t lx_sys_mremap(struct lx_thread *t, const uint64_t *a)
{
    return in_space(mremap_held, a);
}

int64_t lx_sys_brk(struct lx_thread *t, const uint64_t *a)
{
    return in_space(brk_held, a);
}

int64_t lx_sys_shmat(struct lx_thread *t, const uint64_t *a)
{
    return in_space(shmat_held, a);
}

int64_t lx_sys_shmdt(struct lx_thread *t, const uint64_t *a)
{
    return in_space(shmdt_held, a);
}

int64_t lx_sys_pkey_mprotect(struct lx_thread *t, const uint64_t *a)
{
    return (int)a[3] == -1 ? lx_sys_mprotect(t, a) : -EINVAL;
}

void lx_mem_killed(int id)
{
    if (lx_proc.space.__data.__owner == id)
        pthread_mutex_unlock(&lx_proc.space);
}

static bool map_helpers(struct err **errp)
{
    uint64_t at = lx_proc.arch->task_end;
    void *p = mmap((void *)(uintptr_t)at, PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    if (p == MAP_FAILED || (uintptr_t)p != at)
        return err_set_errno(errp, errno, "no room for the page the kernel shows at %#" PRIx64, at);
    lx_proc.arch->helper_fill(p);
    mprotect(p, PAGE, PROT_READ);
    lx_map_add(at, at + PAGE, PROT_READ | PROT_EXEC, false, LX_MAP_VDSO);
    return true;
}

bool lx_mem_init(struct err **errp)
{
    lx_proc.mmap_hi = min_u64(0xf7ffe000, lx_task_end32());
    if (!lx_proc.arch->helper_fill || lx_task_end32() < lx_proc.arch->task_end) /* -R: the page is not in the space */
        return true;
    return map_helpers(errp);
}
