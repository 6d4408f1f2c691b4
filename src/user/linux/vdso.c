/* The vDSO of guests whose host has none for them: an ELF shared object of one page, made when the program is loaded.
 * After the System V ABI (chapters 4 and 5), vdso(7) for names and versions, and the symbol versioning of the Linux
 * Standard Base.
 *
 * A function is an instruction that calls the system with a number of our own; the translator answers from the host's
 * vDSO, so that no kernel is entered and neither filters, tracers nor -strace see it, as with the kernel's own. Left
 * out: unwind tables, section headers, __kernel_vsyscall (i386 programs use int 0x80). */
#include "user/linux/vdso.h"
#include "base/bytes.h"
#include "user/linux/thread.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FN = 16, TEXT = 0x800, SONAME_LEN = 16, NR_PHDR = 3 };
static const char soname[SONAME_LEN] = "linux-vdso.so.1";

/* ---- the image ---- */

struct out {
    uint8_t *page;
    bool wide; /* ELF class 64 */
};

static void put_word(struct out *o, unsigned *at, uint64_t v)
{
    if (o->wide)
        put_le64(o->page + *at, v);
    else
        put_le32(o->page + *at, (uint32_t)v);
    *at += o->wide ? 8 : 4;
}

static void put_half(struct out *o, unsigned *at, unsigned v)
{
    put_le16(o->page + *at, (uint16_t)v);
    *at += 2;
}

static void put_32(struct out *o, unsigned *at, uint32_t v)
{
    put_le32(o->page + *at, v);
    *at += 4;
}

uint32_t lx_vdso_entry(const struct lx_vdso *v)
{
    return v->fn[0].call == LX_VDSO_VSYSCALL ? TEXT : 0;
}

static void put_header(struct out *o, uint32_t entry)
{
    unsigned at = EI_NIDENT;

    memcpy(o->page, ELFMAG, SELFMAG);
    o->page[EI_CLASS] = o->wide ? ELFCLASS64 : ELFCLASS32;
    o->page[EI_DATA] = ELFDATA2LSB;
    o->page[EI_VERSION] = EV_CURRENT;
    put_half(o, &at, ET_DYN);
    put_half(o, &at, lx_proc.arch->elf_machine);
    put_32(o, &at, EV_CURRENT);
    put_word(o, &at, entry);
    put_word(o, &at, o->wide ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr));
    put_word(o, &at, 0);
    put_32(o, &at, lx_proc.arch->elf_flags);
    put_half(o, &at, o->wide ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr));
    put_half(o, &at, o->wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr));
    put_half(o, &at, entry ? NR_PHDR : NR_PHDR - 1);
    put_half(o, &at, o->wide ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr));
}

static void put_phdr(struct out *o, unsigned i, uint32_t type, uint32_t flags, unsigned off, unsigned len,
                     unsigned align)
{
    unsigned at = o->wide ? sizeof(Elf64_Ehdr) + i * sizeof(Elf64_Phdr) : sizeof(Elf32_Ehdr) + i * sizeof(Elf32_Phdr);

    put_32(o, &at, type);
    if (o->wide)
        put_32(o, &at, flags);
    put_word(o, &at, off);
    put_word(o, &at, off);
    put_word(o, &at, off);
    put_word(o, &at, len);
    put_word(o, &at, len);
    if (!o->wide)
        put_32(o, &at, flags);
    put_word(o, &at, align);
}

static void put_symbol(struct out *o, unsigned at, unsigned name, unsigned value, unsigned size)
{
    put_32(o, &at, name);
    if (!o->wide) {
        put_32(o, &at, value);
        put_32(o, &at, size);
    }
    put_half(o, &at, (STB_GLOBAL << 4 | STT_FUNC)); /* and st_other */
    put_half(o, &at, 1);                            /* defined: any section */
    if (o->wide) {
        put_word(o, &at, value);
        put_word(o, &at, size);
    }
}

static uint32_t elf_hash(const char *name)
{
    uint32_t h = 0;

    for (; *name; name++) {
        h = (h << 4) + (unsigned char)*name;
        h ^= h >> 24 & 0xf0;
        h &= 0x0fffffff;
    }
    return h;
}

/* Two versions: the file's own name and the one all functions have. */
static void put_verdef(struct out *o, unsigned at, unsigned file, unsigned version, const char *version_text)
{
    for (unsigned i = 1; i <= 2; i++) {
        put_half(o, &at, VER_DEF_CURRENT);
        put_half(o, &at, i == 1 ? VER_FLG_BASE : 0);
        put_half(o, &at, i);
        put_half(o, &at, 1);
        put_32(o, &at, elf_hash(i == 1 ? soname : version_text));
        put_32(o, &at, sizeof(Elf64_Verdef));
        put_32(o, &at, i == 1 ? sizeof(Elf64_Verdef) + sizeof(Elf64_Verdaux) : 0);
        put_32(o, &at, i == 1 ? file : version);
        put_32(o, &at, 0);
    }
}

/* .eh_frame_hdr and .eh_frame at `at` for the entry of i386: the caller's address on top of the stack all through. */
static unsigned put_unwind(struct out *o, unsigned at, unsigned len)
{
    static const uint8_t cie[] = {1,
                                  'z',
                                  'R',
                                  0,
                                  1,
                                  0x7c /* -4 */,
                                  8,
                                  1,
                                  0x1b,
                                  /* def_cfa esp + 4 */ 0x0c,
                                  4,
                                  4,
                                  /* eip at cfa - 4 */ 0x88,
                                  1,
                                  0,
                                  0};
    unsigned hdr = at, frame = hdr + 20, fde = frame + 8 + sizeof cie;

    put_32(o, &at, 0x3b031b01);
    put_32(o, &at, frame - at);
    put_32(o, &at, 1);
    put_32(o, &at, TEXT - hdr);
    put_32(o, &at, fde - hdr);
    put_32(o, &at, 4 + sizeof cie);
    put_32(o, &at, 0);
    memcpy(o->page + at, cie, sizeof cie);
    at += sizeof cie;
    put_32(o, &at, 16);
    put_32(o, &at, at - frame);
    put_32(o, &at, TEXT - at);
    put_32(o, &at, len);
    put_32(o, &at, 0); /* no data, no instructions */
    put_32(o, &at, 0); /* the end */
    put_phdr(o, 2, PT_GNU_EH_FRAME, PF_R, hdr, 20, 4);
    return at;
}

void lx_vdso_fill(const struct lx_vdso *v, uint8_t page[LX_VDSO_SIZE])
{
    struct out o = {.page = page, .wide = lx_proc.arch->elf_class == ELFCLASS64};
    unsigned nr = 0, syms, size = o.wide ? sizeof(Elf64_Sym) : sizeof(Elf32_Sym), str, text = TEXT, at;
    unsigned hash, versym, verdef, strings, file, version, dyn;

    memset(page, 0, LX_VDSO_SIZE);
    while (v->fn[nr].name)
        nr++;
    assert(nr <= MAX_FN);
    put_header(&o, lx_vdso_entry(v));
    syms =
        o.wide ? sizeof(Elf64_Ehdr) + NR_PHDR * sizeof(Elf64_Phdr) : sizeof(Elf32_Ehdr) + NR_PHDR * sizeof(Elf32_Phdr);
    at = hash = syms + (nr + 1) * size;
    /* One bucket: a chain of all symbols. */
    put_32(&o, &at, 1);
    put_32(&o, &at, nr + 1);
    put_32(&o, &at, nr ? 1 : 0);
    put_32(&o, &at, 0);
    for (unsigned i = 1; i <= nr; i++)
        put_32(&o, &at, i < nr ? i + 1 : 0);
    versym = at;
    put_half(&o, &at, 0);
    for (unsigned i = 0; i < nr; i++)
        put_half(&o, &at, 2);
    verdef = align_up(at, 8);
    strings = verdef + 2 * (sizeof(Elf64_Verdef) + sizeof(Elf64_Verdaux));
    str = strings + 1;
    for (unsigned i = 0; i < nr; i++) {
        unsigned len = v->code(page + text, v->fn[i].call), n = (unsigned)strlen(v->fn[i].name) + 1;

        memcpy(page + str, v->fn[i].name, n);
        put_symbol(&o, syms + (i + 1) * size, str - strings, text, len);
        str += n;
        text = align_up(text + len, 16);
    }
    if (lx_vdso_entry(v))
        text = put_unwind(&o, text, 3);
    file = str - strings;
    memcpy(page + str, soname, sizeof soname);
    str += sizeof soname;
    version = str - strings;
    memcpy(page + str, v->version, strlen(v->version) + 1);
    str += (unsigned)strlen(v->version) + 1;
    put_verdef(&o, verdef, file, version, v->version);
    at = dyn = align_up(str, 8);
    for (unsigned i = 0; i < 9; i++) {
        const uint64_t d[9][2] = {{DT_SONAME, file},         {DT_HASH, hash},     {DT_STRTAB, strings},
                                  {DT_STRSZ, str - strings}, {DT_SYMTAB, syms},   {DT_SYMENT, size},
                                  {DT_VERSYM, versym},       {DT_VERDEF, verdef}, {DT_VERDEFNUM, 2}};

        put_word(&o, &at, d[i][0]);
        put_word(&o, &at, d[i][1]);
    }
    at += o.wide ? 16 : 8; /* DT_NULL */
    assert(at <= TEXT && text <= LX_VDSO_SIZE);
    put_phdr(&o, 0, PT_LOAD, PF_R | PF_X, 0, LX_VDSO_SIZE, LX_VDSO_SIZE);
    put_phdr(&o, 1, PT_DYNAMIC, PF_R, dyn, at - dyn, 8);
}

/* ---- what its functions do ---- */

static bool put_pair(uint64_t to, int64_t a, int64_t b, bool wide)
{
    int64_t v[2] = {a, b};
    int32_t w[2] = {(int32_t)a, (int32_t)b};

    return lx_put(to, wide ? (void *)v : (void *)w, wide ? sizeof v : sizeof w);
}

static int64_t clock_call(unsigned call, const uint64_t a[6])
{
    bool wide = call == LX_VDSO_GETTIME64 || !lx_is32();
    struct timespec ts;
    int r = call == LX_VDSO_GETRES ? clock_getres((clockid_t)a[0], &ts) : clock_gettime((clockid_t)a[0], &ts);

    if (r < 0)
        return -errno;
    if (call == LX_VDSO_GETRES && !a[1])
        return 0;
    return put_pair(a[1], ts.tv_sec, ts.tv_nsec, wide) ? 0 : -EFAULT;
}

static int64_t timeofday(const uint64_t a[6])
{
    struct timezone tz = {0};
    struct timeval tv;

    if (a[1] ? syscall(SYS_gettimeofday, &tv, &tz) < 0 : gettimeofday(&tv, NULL) < 0)
        return -errno;
    if (a[0] && !put_pair(a[0], tv.tv_sec, tv.tv_usec, !lx_is32()))
        return -EFAULT;
    return !a[1] || lx_put(a[1], &tz, sizeof tz) ? 0 : -EFAULT;
}

static int64_t cpu_node(const uint64_t a[6])
{
    unsigned cpu, node;

    if (getcpu(&cpu, &node) < 0)
        return -errno;
    return (!a[0] || lx_put(a[0], &cpu, 4)) && (!a[1] || lx_put(a[1], &node, 4)) ? 0 : -EFAULT;
}

static int64_t time_call(const uint64_t a[6])
{
    int64_t now = (int64_t)time(NULL);

    return a[0] && !lx_put_word(a[0], (uint64_t)now) ? -EFAULT : now;
}

static int64_t answer(unsigned call, const uint64_t a[6])
{
    switch (call) {
    case LX_VDSO_GETTIME:
    case LX_VDSO_GETTIME64:
    case LX_VDSO_GETRES:
        return clock_call(call, a);
    case LX_VDSO_TIMEOFDAY:
        return timeofday(a);
    case LX_VDSO_TIME:
        return time_call(a);
    default:
        return cpu_node(a);
    }
}

bool lx_vdso_syscall(uint64_t nr, uint64_t pc, const uint64_t a[6], int64_t *ret)
{
    unsigned call = (unsigned)(nr - LX_VDSO_NR);

    if (nr - LX_VDSO_NR >= LX_VDSO_CALLS || !lx_proc.vdso || pc - lx_proc.vdso >= LX_VDSO_SIZE)
        return false;
    *ret = answer(call, a);
    if (unlikely(*ret == -EFAULT) && lx_rt_written_any(lx_proc.rt)) /* a page watched for code */
        *ret = answer(call, a);
    return true;
}
