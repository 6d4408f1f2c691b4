/* Loading a program: ELF segments, interpreter, initial stack, auxiliary vector. After the System V ABI (chapters 4, 5)
 * and what Linux's execve leaves.
 *
 * Every number of the file is distrusted: headers are bounded, ranges checked for overflow, a bad one is an error
 * before anything of the guest's runs. Not here: a.out, FDPIC, per-segment huge pages. */
#include "base/bytes.h"
#include "base/str.h"
#include "user/linux/map.h"
#include "user/linux/thread.h"
#include "user/linux/vdso.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, MAX_PHDR = 256, MAX_ARGS = 1 << 20 };

struct seg {
    uint32_t type, flags;
    uint64_t off, vaddr, filesz, memsz, align;
};
struct image {
    const char *path;
    int fd;
    uint64_t file_size;
    unsigned type, machine, class_, nr;
    uint64_t entry, phoff;
    unsigned phentsize;
    struct seg seg[MAX_PHDR];
    uint64_t lo, hi; /* of all PT_LOAD, page-aligned */
    uint64_t bias;   /* address - vaddr */
    uint64_t phdr;   /* address of the program headers, 0 = not mapped */
    uint64_t end;    /* highest byte of data */
    char interp[PATH_MAX];
    bool exec_stack;
};

unsigned lx_elf_machine(const uint8_t *h, size_t n, unsigned *elf_class)
{
    if (n < 20 || memcmp(h, ELFMAG, SELFMAG) || h[EI_DATA] != ELFDATA2LSB || h[EI_VERSION] != EV_CURRENT ||
        (h[EI_CLASS] != ELFCLASS32 && h[EI_CLASS] != ELFCLASS64) ||
        (get_le16(h + 16) != ET_EXEC && get_le16(h + 16) != ET_DYN))
        return 0;
    *elf_class = h[EI_CLASS];
    return get_le16(h + 18);
}

static const char *machine_name(unsigned m, unsigned elf_class, bool big)
{
    switch (m) {
    case EM_X86_64:
        return "x86-64";
    case EM_386:
        return "i386";
    case EM_AARCH64:
        return "AArch64";
    case EM_ARM:
        return big ? "big-endian Arm" : "Arm";
    case EM_RISCV:
        return elf_class == ELFCLASS64 ? "RISC-V 64" : "RISC-V 32";
    case EM_PPC64:
        return big ? "PowerPC 64" : "PowerPC 64 (little-endian)";
    case EM_PPC:
        return "PowerPC";
    case EM_S390:
        return "S/390";
    case EM_MIPS:
        return "MIPS";
    case EM_SPARC:
    case EM_SPARCV9:
        return "SPARC";
    case EM_68K:
        return "68k";
    default:
        return NULL;
    }
}

static bool bad(const struct image *m, struct err **errp, const char *what)
{
    return err_set(errp, "%s: %s", m->path, what);
}

static bool read_at(const struct image *m, uint64_t off, void *buf, size_t n)
{
    return off <= m->file_size && n <= m->file_size - off && pread(m->fd, buf, n, (off_t)off) == (ssize_t)n;
}

static bool wrong_machine(const struct image *m, const uint8_t *h, struct err **errp)
{
    bool big = h[EI_DATA] == ELFDATA2MSB;
    unsigned n = big ? get_be16(h + 18) : get_le16(h + 18);
    const char *name = machine_name(n, h[EI_CLASS], big);
    const struct lx_arch *own = big ? NULL : lx_arch_of_elf(n, h[EI_CLASS]);
    char text[32];

    snprintf(text, sizeof text, "machine %u", n);
    err_set(errp, "%s is a program for %s, this translator runs programs for %s", m->path, name ? name : text,
            lx_proc.arch->name);
    if (own)
        err_hint(errp, "Start it with qemu-%s.", own->name);
    else
        err_hint(errp, "No translator for it is built.");
    return false;
}

static void read_seg(const struct image *m, const uint8_t *p, struct seg *s)
{
    if (m->class_ == ELFCLASS64)
        *s = (struct seg){get_le32(p),      get_le32(p + 4),  get_le64(p + 8), get_le64(p + 16),
                          get_le64(p + 32), get_le64(p + 40), get_le64(p + 48)};
    else
        *s = (struct seg){get_le32(p),      get_le32(p + 24), get_le32(p + 4), get_le32(p + 8),
                          get_le32(p + 16), get_le32(p + 20), get_le32(p + 28)};
}

static bool read_headers(struct image *m, struct err **errp)
{
    const struct lx_arch *a = lx_proc.arch;
    unsigned want = a->elf_class == ELFCLASS64 ? 56 : 32;
    uint8_t h[64] = {0}, p[56];
    struct stat st;

    if (fstat(m->fd, &st) < 0 || !S_ISREG(st.st_mode))
        return bad(m, errp, "not a regular file");
    m->file_size = (uint64_t)st.st_size;
    if (!read_at(m, 0, h, m->file_size < 64 ? (size_t)m->file_size : 64) || memcmp(h, ELFMAG, SELFMAG)) {
        bad(m, errp, "not a Linux program (no ELF file)");
        if (h[0] == 'M' && h[1] == 'Z')
            err_hint(errp, "It looks like a Windows program: those run in Wine, not here.");
        return false;
    }
    if (h[EI_CLASS] != a->elf_class || h[EI_DATA] != ELFDATA2LSB || get_le16(h + 18) != a->elf_machine)
        return wrong_machine(m, h, errp);
    if (m->file_size < (a->elf_class == ELFCLASS64 ? 64 : 52))
        return bad(m, errp, "the ELF header is cut short");
    m->class_ = a->elf_class;
    m->type = get_le16(h + 16);
    if (m->type != ET_EXEC && m->type != ET_DYN)
        return bad(m, errp, "not an executable ELF file");
    m->entry = m->class_ == ELFCLASS64 ? get_le64(h + 24) : get_le32(h + 24);
    m->phoff = m->class_ == ELFCLASS64 ? get_le64(h + 32) : get_le32(h + 28);
    m->phentsize = get_le16(h + (m->class_ == ELFCLASS64 ? 54 : 42));
    m->nr = get_le16(h + (m->class_ == ELFCLASS64 ? 56 : 44));
    if (m->phentsize != want || !m->nr || m->nr > MAX_PHDR)
        return bad(m, errp, "its program headers are out of range");
    for (unsigned i = 0; i < m->nr; i++) {
        if (!read_at(m, m->phoff + (uint64_t)i * want, p, want))
            return bad(m, errp, "its program headers are cut short");
        read_seg(m, p, &m->seg[i]);
    }
    return true;
}

static bool check_load(struct image *m, const struct seg *s, struct err **errp)
{
    uint64_t end, fend, max = m->class_ == ELFCLASS64 ? LX_TASK_MAX : UINT64_C(1) << 32;

    if (s->filesz > s->memsz || !add_ok_u64(s->vaddr, s->memsz, &end) || end > max ||
        !add_ok_u64(s->off, s->filesz, &fend) || ((s->vaddr ^ s->off) & (PAGE - 1)))
        return bad(m, errp, "a segment of it is out of range");
    if (s->filesz && fend > m->file_size)
        return bad(m, errp, "the file is shorter than its segments say");
    m->lo = min_u64(m->lo, align_down(s->vaddr, PAGE));
    m->hi = max_u64(m->hi, align_up(end, PAGE));
    m->end = max_u64(m->end, end);
    return true;
}

static bool check_segments(struct image *m, struct err **errp)
{
    m->lo = UINT64_MAX;
    for (unsigned i = 0; i < m->nr; i++) {
        const struct seg *s = &m->seg[i];

        if (s->type == PT_LOAD && s->memsz && !check_load(m, s, errp))
            return false;
        if (s->type == PT_GNU_STACK)
            m->exec_stack = s->flags & PF_X;
        if (s->type != PT_INTERP)
            continue;
        if (s->filesz < 2 || s->filesz >= sizeof m->interp || !read_at(m, s->off, m->interp, s->filesz) ||
            m->interp[s->filesz - 1])
            return bad(m, errp, "the name of its interpreter is malformed");
    }
    if (m->hi <= m->lo)
        return bad(m, errp, "it has nothing to load");
    return true;
}

static int seg_prot(const struct seg *s)
{
    return (s->flags & PF_R ? PROT_READ : 0) | (s->flags & PF_W ? PROT_WRITE : 0) |
           (s->flags & PF_X ? PROT_EXEC | PROT_READ : 0);
}

/* The part of a segment that the file gives, then zeros. */
static bool map_segment(const struct image *m, const struct seg *s)
{
    uint64_t at = m->bias + s->vaddr, first = align_down(at, PAGE), file_end = at + s->filesz,
             map_end = align_up(file_end, PAGE), end = align_up(at + s->memsz, PAGE);
    int prot = seg_prot(s);

    if (s->filesz &&
        lx_mmap(first, map_end - first, prot, MAP_PRIVATE | MAP_FIXED, m->fd, align_down(s->off, PAGE)) < 0)
        return false;
    if (!s->filesz)
        map_end = first;
    if (end > map_end && lx_mmap(map_end, end - map_end, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) < 0)
        return false;
    if (s->memsz > s->filesz && s->filesz && file_end & (PAGE - 1)) {
        uint64_t n = align_up(file_end, PAGE) - file_end; /* to the page's end: interpreters rely on it */

        if (!(prot & PROT_WRITE)) /* the kernel leaves the rest of the page as the file has it */
            return true;
        memset((void *)(uintptr_t)file_end, 0, n);
    }
    return true;
}

static bool place(struct image *m, bool main, struct err **errp)
{
    uint64_t len = m->hi - m->lo, align = PAGE;
    int64_t at;

    if (m->type == ET_EXEC) {
        at = lx_mmap(m->lo, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
        if (at < 0 || (uint64_t)at != m->lo) {
            err_set(errp, "%s: its addresses 0x%" PRIx64 " to 0x%" PRIx64 " are not free in this process", m->path,
                    m->lo, m->hi);
            err_hint(errp, "vm.mmap_min_addr may be above the program's first address.");
            return false;
        }
        m->bias = 0;
        return true;
    }
    for (unsigned i = 0; i < m->nr; i++)
        if (m->seg[i].type == PT_LOAD && is_pow2(m->seg[i].align) && m->seg[i].align <= 1 << 24)
            align = max_u64(align, m->seg[i].align);
    if (main && m->class_ == ELFCLASS64) { /* like the kernel: programs away from libraries, room for the heap behind */
        uint64_t want = lx_map_hole(UINT64_C(0x555555554000), UINT64_C(0x600000000000), len, align);

        at = lx_mmap(align_up(UINT64_C(0x555555554000), align), len, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (at < 0)
            at = lx_mmap(want, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    } else if (main) {
        /* As a kernel places it; with -R a third up what there is. */
        uint64_t base = lx_task_end32() >= UINT64_C(0x80000000) ? 0x56555000 : align_down(lx_task_end32() / 3, 1 << 16);

        at = lx_mmap(base, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    } else {
        at = lx_mmap(0, len + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at > 0) {
            uint64_t a = align_up((uint64_t)at, align);

            munmap((void *)(uintptr_t)at, len + align);
            lx_map_del((uint64_t)at, (uint64_t)at + len + align);
            at = lx_mmap(a, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        }
    }
    if (at < 0)
        return err_set_errno(errp, (int)-at, "%s: no room for the program", m->path);
    m->bias = (uint64_t)at - m->lo;
    return true;
}

static void note_ranges(const struct image *m)
{
    for (unsigned i = 0; i < m->nr; i++) {
        const struct seg *s = &m->seg[i];

        if (s->type != PT_LOAD)
            continue;
        if (s->flags & PF_X) {
            lx_proc.code_start = m->bias + s->vaddr;
            lx_proc.code_end = lx_proc.code_start + s->filesz;
        } else if (s->flags & PF_W) {
            lx_proc.data_start = m->bias + s->vaddr;
            lx_proc.data_end = lx_proc.data_start + s->filesz;
        }
    }
}

static bool load_image(struct image *m, bool main, struct err **errp)
{
    if (!read_headers(m, errp) || !check_segments(m, errp) || !place(m, main, errp))
        return false;
    for (unsigned i = 0; i < m->nr; i++) {
        const struct seg *s = &m->seg[i];

        if (s->type == PT_LOAD && s->memsz && !map_segment(m, s))
            return err_set_errno(errp, errno, "%s: cannot map a segment", m->path);
        if (s->type == PT_LOAD && s->off <= m->phoff && m->phoff + m->nr * m->phentsize <= s->off + s->filesz)
            m->phdr = m->bias + s->vaddr + (m->phoff - s->off);
        if (s->type == PT_PHDR)
            m->phdr = m->bias + s->vaddr;
    }
    m->entry += m->bias;
    return true;
}

/* ---- the interpreter ---- */

static int open_in_prefixes(const char *name, char *path, struct strbuf *tried)
{
    int fd;

    for (char **p = lx_proc.opt.prefix; p && *p; p++) {
        snprintf(path, PATH_MAX, "%s%s", *p, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            return fd;
        str_addf(tried, "%s%s", tried->len ? ", " : "", path);
    }
    return -1;
}

/* The root a program lies in when it is run from outside: /mnt/arm/usr/bin/ls -> /mnt/arm. */
static int open_in_own_root(const char *exe, const char *name, char *path, struct strbuf *tried)
{
    char dir[PATH_MAX];
    char *end;

    snprintf(dir, sizeof dir, "%s", exe);
    while ((end = strrchr(dir, '/')) && end != dir) {
        int fd;

        *end = 0;
        snprintf(path, PATH_MAX, "%.2000s%.2000s", dir, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            size_t n = 0;

            while (lx_proc.opt.prefix && lx_proc.opt.prefix[n])
                n++;
            lx_proc.opt.prefix = xrealloc(lx_proc.opt.prefix, (n + 2) * sizeof(char *));
            lx_proc.opt.prefix[n] = xstrdup(dir);
            lx_proc.opt.prefix[n + 1] = NULL;
            return fd;
        }
    }
    str_addf(tried, "%sthe folders above %s", tried->len ? ", " : "", exe);
    return -1;
}

static bool same_machine(int fd)
{
    uint8_t h[64];
    unsigned c = 0;

    return pread(fd, h, sizeof h, 0) == sizeof h && lx_elf_machine(h, sizeof h, &c) == lx_proc.arch->elf_machine &&
           c == lx_proc.arch->elf_class;
}

static bool open_interp(const struct image *prog, struct image *in, char *path, struct err **errp)
{
    CLEANUP(str_free) struct strbuf tried = {0};
    int fd = -1;

    if (lx_proc.opt.given_prefix)
        fd = open_in_prefixes(prog->interp, path, &tried);
    if (fd < 0) {
        snprintf(path, PATH_MAX, "%s", prog->interp);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && !same_machine(fd)) {
            close(fd);
            fd = -1;
        }
        str_addf(&tried, "%s%s", tried.len ? ", " : "", prog->interp);
    }
    if (fd < 0)
        fd = open_in_own_root(lx_proc.exe, prog->interp, path, &tried);
    if (fd < 0 && !lx_proc.opt.given_prefix)
        fd = open_in_prefixes(prog->interp, path, &tried);
    if (fd < 0) {
        err_set(errp, "%s needs the interpreter %s, which is not there (looked for %s)", prog->path, prog->interp,
                tried.s);
        err_hint(errp, "Install the C library for %s (Debian: libc6-%s-cross), or give the root of its system with -L.",
                 lx_proc.arch->name, lx_proc.arch->cross && lx_proc.arch->cross[0] ? lx_proc.arch->cross[0] : "<arch>");
        return false;
    }
    in->path = path;
    in->fd = fd;
    return true;
}

/* ---- the stack ---- */

struct stack {
    uint64_t sp;
    bool ok;
};

static uint64_t push_bytes(struct stack *s, const void *p, size_t n)
{
    if (s->sp - lx_proc.stack_lo < n + PAGE) {
        s->ok = false;
        return 0;
    }
    s->sp -= n;
    memcpy((void *)(uintptr_t)s->sp, p, n);
    return s->sp;
}

static size_t count(char **v)
{
    size_t n = 0;

    while (v[n])
        n++;
    return n;
}

static uint64_t *push_strings(struct stack *s, char **v, size_t n)
{
    uint64_t *at = xcalloc(n + 1, sizeof *at);

    for (size_t i = n; i-- > 0;)
        at[i] = push_bytes(s, v[i], strlen(v[i]) + 1);
    return at;
}

static bool make_stack(struct image *prog, struct err **errp)
{
    uint64_t size = 8 << 20, hi = 0;
    struct rlimit lim;
    int64_t at;

    if (lx_proc.opt.stack)
        size = lx_proc.opt.stack;
    else if (!getrlimit(RLIMIT_STACK, &lim) && lim.rlim_cur != RLIM_INFINITY)
        size = lim.rlim_cur;
    size = align_up(max_u64(min_u64(size, lx_is32() ? 64u << 20 : UINT64_C(1) << 30), 256 * 1024), PAGE);
    if (lx_is32())
        hi = lx_task_end32() - PAGE - size;
    at = lx_mmap(hi, size + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (at < 0)
        return err_set_errno(errp, (int)-at, "no room for a stack of %" PRIu64 " bytes", size);
    lx_proc.stack_lo = (uint64_t)at + PAGE;
    lx_proc.stack_hi = (uint64_t)at + PAGE + size;
    if (mprotect((void *)(uintptr_t)lx_proc.stack_lo, size,
                 PROT_READ | PROT_WRITE | (prog->exec_stack ? PROT_EXEC : 0)) < 0)
        return err_set_errno(errp, errno, "cannot make the stack accessible");
    lx_map_del((uint64_t)at, lx_proc.stack_lo);
    lx_map_add(lx_proc.stack_lo, lx_proc.stack_hi, PROT_READ | PROT_WRITE | (prog->exec_stack ? PROT_EXEC : 0), false,
               LX_MAP_STACK);
    return true;
}

struct aux {
    uint64_t v[64];
    unsigned n;
};

static void aux_add(struct aux *a, uint64_t key, uint64_t val)
{
    a->v[a->n++] = key;
    a->v[a->n++] = val;
}

static void fill_auxv(struct aux *a, const struct image *prog, uint64_t interp_base, uint64_t random, uint64_t platform,
                      uint64_t exe)
{
    const struct lx_arch *ar = lx_proc.arch;
    uint64_t hwcap = ar->hwcap, hwcap2 = ar->hwcap2, vdso = getauxval(AT_SYSINFO_EHDR);

    if (ar->hwcaps)
        ar->hwcaps(&hwcap, &hwcap2);
    if (!ar->host_vdso)
        vdso = lx_proc.vdso;
    if (!ar->host_vdso && vdso && lx_vdso_entry(ar->vdso))
        aux_add(a, AT_SYSINFO, vdso + lx_vdso_entry(ar->vdso));
    if (vdso)
        aux_add(a, AT_SYSINFO_EHDR, vdso);
    aux_add(a, AT_HWCAP, hwcap);
    aux_add(a, AT_PAGESZ, PAGE);
    aux_add(a, AT_CLKTCK, 100);
    aux_add(a, AT_PHDR, prog->phdr);
    aux_add(a, AT_PHENT, prog->phentsize);
    aux_add(a, AT_PHNUM, prog->nr);
    aux_add(a, AT_BASE, interp_base);
    aux_add(a, AT_FLAGS, 0);
    aux_add(a, AT_ENTRY, prog->entry);
    aux_add(a, AT_UID, getuid());
    aux_add(a, AT_EUID, geteuid());
    aux_add(a, AT_GID, getgid());
    aux_add(a, AT_EGID, getegid());
    aux_add(a, AT_SECURE, getauxval(AT_SECURE));
    aux_add(a, AT_RANDOM, random);
    aux_add(a, AT_HWCAP2, hwcap2);
    aux_add(a, AT_EXECFN, exe);
    if (ar->sigstack)
        aux_add(a, AT_MINSIGSTKSZ, ar->sigstack());
    if (platform)
        aux_add(a, AT_PLATFORM, platform);
    aux_add(a, AT_NULL, 0);
}

static void seed_random(uint8_t r[16])
{
    uint64_t s = 0;

    if (lx_proc.opt.seed && str_to_u64(lx_proc.opt.seed, &s)) {
        for (unsigned i = 0; i < 16; i++) {
            s = s * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            r[i] = (uint8_t)(s >> 56);
        }
        return;
    }
    if (getrandom(r, 16, 0) != 16)
        memset(r, 0x5a, 16);
}

static bool build_stack(const struct image *prog, uint64_t interp_base, char **argv, char **envp, uint64_t *sp,
                        struct err **errp)
{
    size_t argc = count(argv), envc = count(envp), w = lx_proc.arch->word, words;
    struct stack s = {.sp = lx_proc.stack_hi - 16, .ok = true};
    uint64_t *av, *ev, platform = 0, random, exe, at;
    uint8_t rnd[16];
    struct aux aux = {.n = 0};

    exe = push_bytes(&s, prog->path, strlen(prog->path) + 1);
    lx_proc.env_end = s.sp;
    ev = push_strings(&s, envp, envc);
    lx_proc.env_start = lx_proc.arg_end = s.sp;
    av = push_strings(&s, argv, argc);
    lx_proc.arg_start = s.sp;
    if (lx_proc.arch->platform)
        platform = push_bytes(&s, lx_proc.arch->platform, strlen(lx_proc.arch->platform) + 1);
    seed_random(rnd);
    s.sp &= ~UINT64_C(15);
    random = push_bytes(&s, rnd, sizeof rnd);
    fill_auxv(&aux, prog, interp_base, random, platform, exe);
    words = 1 + argc + 1 + envc + 1 + aux.n;
    if (!s.ok || argc > MAX_ARGS || envc > MAX_ARGS || s.sp - lx_proc.stack_lo < words * w + 2 * PAGE) {
        free(av);
        free(ev);
        return err_set(errp, "the arguments and the environment do not fit on the stack");
    }
    s.sp = (s.sp - words * w) & ~UINT64_C(15);
    *sp = at = s.sp;
#define PUT(val) (lx_put_word(at, (val)), at += w)
    PUT(argc);
    for (size_t i = 0; i < argc; i++)
        PUT(av[i]);
    PUT(0);
    for (size_t i = 0; i < envc; i++)
        PUT(ev[i]);
    PUT(0);
    lx_proc.auxv = at;
    for (unsigned i = 0; i < aux.n; i++)
        PUT(aux.v[i]);
    lx_proc.auxv_len = at - lx_proc.auxv;
#undef PUT
    free(av);
    free(ev);
    return true;
}

/* ---- all of it ---- */

static void start_brk(const struct image *prog)
{
    uint64_t end = align_up(prog->bias + prog->end, PAGE), span = lx_is32() ? 1u << 29 : UINT64_C(1) << 36;
    struct lx_map next;

    if (lx_map_next(end, &next) && next.start >= end)
        span = min_u64(span, next.start - end);
    lx_proc.brk_start = lx_proc.brk = lx_proc.brk_mapped = end;
    lx_proc.brk_max = end + span;
}

static void make_tramp(void)
{
    int64_t at;

    if (!lx_proc.arch->tramp_fill)
        return;
    at = lx_mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at < 0)
        return;
    lx_proc.tramp = (uint64_t)at;
    lx_proc.arch->tramp_fill((uint8_t *)(uintptr_t)at);
    mprotect((void *)(uintptr_t)at, PAGE, PROT_READ | PROT_EXEC);
    lx_map_add((uint64_t)at, (uint64_t)at + PAGE, PROT_READ | PROT_EXEC, false, LX_MAP_TRAMP);
}

uint64_t lx_tramp(void)
{
    return lx_proc.tramp;
}

/* The host's, where its code is the guest's, or one of ours. */
static void make_vdso(void)
{
    uint64_t v = getauxval(AT_SYSINFO_EHDR);
    int64_t at;

    if (lx_proc.arch->host_vdso && v)
        lx_map_add(v, v + 2 * PAGE, PROT_READ | PROT_EXEC, false, LX_MAP_VDSO);
    if (!lx_proc.arch->vdso)
        return;
    at = lx_mmap(0, LX_VDSO_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at < 0)
        return; /* programs do without */
    lx_vdso_fill(lx_proc.arch->vdso, (uint8_t *)(uintptr_t)at);
    mprotect((void *)(uintptr_t)at, LX_VDSO_SIZE, PROT_READ);
    lx_map_add((uint64_t)at, (uint64_t)at + LX_VDSO_SIZE, PROT_READ | PROT_EXEC, false, LX_MAP_VDSO);
    lx_proc.vdso = (uint64_t)at;
}

bool lx_load(const char *path, int fd, char **argv, char **envp, struct lx_image *out, struct err **errp)
{
    struct image *prog = xnew(struct image), *in = NULL;
    char *interp_path = xmalloc(PATH_MAX);
    uint64_t base = 0;
    bool ok;

    prog->path = path;
    prog->fd = fd;
    ok = load_image(prog, true, errp);
    if (ok)
        note_ranges(prog);
    if (ok && prog->interp[0]) {
        in = xnew(struct image);
        ok = open_interp(prog, in, interp_path, errp) && load_image(in, false, errp);
        base = in->bias;
        if (in->fd > 0)
            close(in->fd);
    }
    if (ok) {
        start_brk(prog);
        make_vdso();
        make_tramp();
        ok = make_stack(prog, errp) && build_stack(prog, base, argv, envp, &out->sp, errp);
        out->entry = in ? in->entry : prog->entry;
    }
    free(interp_path);
    free(prog);
    free(in);
    return ok;
}
