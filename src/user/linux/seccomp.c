/* Seccomp for the guest, after Documentation/userspace-api/seccomp_filter.rst of the kernel and the classic BPF of
 * Documentation/networking/filter.rst.
 *
 * The host's own filters would see the translator's calls, so programs are interpreted here, before a call is made,
 * over the guest's number, architecture and arguments. A filter is never changed once it is installed and points to the
 * one before it; threads and children share the chain, an executed program gets it through a file (lx_seccomp_carry).
 * Filters stay until the process ends.
 *
 * Not here: listeners (SECCOMP_RET_USER_NOTIF answers ENOSYS as with none), SECCOMP_RET_TRACE (ENOSYS as without a
 * tracer), logging, and programs that are not the guest's: they are not executed under a filter (EPERM). */
#include "user/linux/seccomp.h"
#include "base/bytes.h"
#include "base/util.h"
#include "user/linux/direct.h"
#include "user/linux/syscalls.h"
#include "user/linux/sysnr.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_INSNS = 32768, PENALTY = 4, MODE_STRICT = 1, MODE_FILTER = 2, CODE_SECCOMP = 1, CARRY_MAGIC = 0x31636373 };

struct lx_seccomp {
    struct lx_seccomp *prev; /* the older one */
    unsigned total;          /* instructions in the chain, with the penalty for each filter */
    bool strict;             /* no filter: the strict mode */
    unsigned len;
    struct sock_filter insn[];
};

/* ---- classic BPF ---- */

static uint32_t alu(unsigned op, uint32_t a, uint32_t x)
{
    switch (op) {
    case BPF_ADD:
        return a + x;
    case BPF_SUB:
        return a - x;
    case BPF_MUL:
        return a * x;
    case BPF_DIV:
        return x ? a / x : 0;
    case BPF_AND:
        return a & x;
    case BPF_OR:
        return a | x;
    case BPF_XOR:
        return a ^ x;
    case BPF_LSH:
        return x < 32 ? a << x : 0;
    case BPF_RSH:
        return x < 32 ? a >> x : 0;
    default:
        return -a;
    }
}

static bool jumps(unsigned op, uint32_t a, uint32_t x)
{
    switch (op) {
    case BPF_JEQ:
        return a == x;
    case BPF_JGT:
        return a > x;
    case BPF_JGE:
        return a >= x;
    default:
        return a & x;
    }
}

/* The program was checked: jumps go forward and stay inside, and its last instruction returns. */
static uint32_t run(const struct lx_seccomp *f, const struct seccomp_data *data)
{
    uint32_t a = 0, x = 0, m[BPF_MEMWORDS] = {0};

    for (const struct sock_filter *i = f->insn;; i++) {
        uint32_t src = BPF_SRC(i->code) == BPF_X ? x : i->k;

        switch (BPF_CLASS(i->code)) {
        case BPF_LD:
            a = BPF_MODE(i->code) == BPF_IMM   ? i->k
                : BPF_MODE(i->code) == BPF_MEM ? m[i->k]
                : BPF_MODE(i->code) == BPF_LEN ? (uint32_t)sizeof *data
                                               : get_le32((const uint8_t *)data + i->k);
            break;
        case BPF_LDX:
            x = BPF_MODE(i->code) == BPF_IMM ? i->k : BPF_MODE(i->code) == BPF_MEM ? m[i->k] : (uint32_t)sizeof *data;
            break;
        case BPF_ST:
            m[i->k] = a;
            break;
        case BPF_STX:
            m[i->k] = x;
            break;
        case BPF_ALU:
            if (BPF_OP(i->code) == BPF_DIV && !src)
                return SECCOMP_RET_KILL_THREAD; /* as the kernel's interpreter: returns 0 */
            a = alu(BPF_OP(i->code), a, src);
            break;
        case BPF_JMP:
            i += BPF_OP(i->code) == BPF_JA ? i->k : jumps(BPF_OP(i->code), a, src) ? i->jt : i->jf;
            break;
        case BPF_RET:
            return BPF_RVAL(i->code) == BPF_A ? a : i->k;
        default: /* BPF_MISC */
            if (BPF_MISCOP(i->code) == BPF_TAX)
                x = a;
            else
                a = x;
        }
    }
}

static bool alu_good(const struct sock_filter *i)
{
    switch (BPF_OP(i->code)) {
    case BPF_ADD:
    case BPF_SUB:
    case BPF_MUL:
    case BPF_AND:
    case BPF_OR:
    case BPF_XOR:
        return true;
    case BPF_NEG:
        return BPF_SRC(i->code) == BPF_K;
    case BPF_DIV:
        return BPF_SRC(i->code) == BPF_X || i->k;
    case BPF_LSH:
    case BPF_RSH:
        return BPF_SRC(i->code) == BPF_X || i->k < 32;
    default:
        return false;
    }
}

static bool insn_good(const struct sock_filter *i, unsigned left)
{
    switch (i->code) {
    case BPF_LD | BPF_W | BPF_ABS:
        return i->k < sizeof(struct seccomp_data) && i->k % 4 == 0;
    case BPF_LD | BPF_W | BPF_LEN:
    case BPF_LDX | BPF_W | BPF_LEN:
    case BPF_LD | BPF_IMM:
    case BPF_LDX | BPF_IMM:
    case BPF_MISC | BPF_TAX:
    case BPF_MISC | BPF_TXA:
    case BPF_RET | BPF_K:
    case BPF_RET | BPF_A:
        return true;
    case BPF_LD | BPF_MEM:
    case BPF_LDX | BPF_MEM:
    case BPF_ST:
    case BPF_STX:
        return i->k < BPF_MEMWORDS;
    case BPF_JMP | BPF_JA:
        return i->k < left;
    default:
        if (BPF_CLASS(i->code) == BPF_ALU && !(i->code & ~0xff))
            return alu_good(i);
        return BPF_CLASS(i->code) == BPF_JMP && !(i->code & ~0xff) && BPF_OP(i->code) >= BPF_JEQ &&
               BPF_OP(i->code) <= BPF_JSET && i->jt < left && i->jf < left;
    }
}

static bool program_good(const struct sock_filter *insn, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (!insn_good(&insn[i], n - 1 - i))
            return false;
    return n && BPF_CLASS(insn[n - 1].code) == BPF_RET;
}

/* ---- what a filter says of a call ---- */

static uint32_t audit_arch(void)
{
    return lx_proc.arch->elf_machine | (lx_is32() ? 0u : 0x80000000u) | 0x40000000u;
}

/* The most severe answer of the chain; of equal ones the newest filter's. */
static uint32_t ask(const struct lx_seccomp *f, const struct seccomp_data *d)
{
    uint32_t r = SECCOMP_RET_ALLOW;

    for (; f; f = f->prev) {
        uint32_t v = run(f, d);

        if ((int32_t)(v & SECCOMP_RET_ACTION_FULL) < (int32_t)(r & SECCOMP_RET_ACTION_FULL))
            r = v;
    }
    return r;
}

static void trap(struct lx_thread *t, uint64_t nr, uint64_t pc, int data)
{
    siginfo_t info = {.si_signo = SIGSYS, .si_errno = data, .si_code = CODE_SECCOMP};

    info.si_call_addr = (void *)(uintptr_t)pc;
    info.si_syscall = (int)nr;
    info.si_arch = audit_arch();
    lx_signal_force_info(t, &info);
}

static bool strict_allows(uint64_t nr)
{
    for (const struct lx_sysnr *n = lx_proc.arch->sysnr; n->nr != 0xffff; n++)
        if (n->nr == nr)
            return n->id == LX_SYS_read || n->id == LX_SYS_write || n->id == LX_SYS_exit ||
                   n->id == LX_SYS_rt_sigreturn || n->id == LX_SYS_sigreturn;
    return false;
}

bool lx_seccomp_allows(struct lx_thread *t, uint64_t nr, const uint64_t a[6], int64_t *ret)
{
    const struct lx_seccomp *f = t->secc;
    uint64_t pc = lx_proc.arch->get(t->cpu, LX_PC) & ~lx_proc.arch->front->pc_bits;
    struct seccomp_data d = {.nr = (int)nr, .arch = audit_arch(), .instruction_pointer = pc};
    uint64_t status[6] = {SIGSYS};
    uint32_t v;

    if (f->strict) {
        if (!strict_allows(nr))
            lx_die_by(SIGKILL);
        return true;
    }
    for (unsigned i = 0; i < 6; i++)
        d.args[i] = lx_is32() ? (uint32_t)a[i] : a[i];
    v = ask(f, &d);
    switch (v & SECCOMP_RET_ACTION_FULL) {
    case SECCOMP_RET_ALLOW:
    case SECCOMP_RET_LOG:
        return true;
    case SECCOMP_RET_ERRNO:
        *ret = -(int64_t)min_u64(v & SECCOMP_RET_DATA, 4095);
        return false;
    case SECCOMP_RET_TRACE:
    case SECCOMP_RET_USER_NOTIF:
        *ret = -ENOSYS;
        return false;
    case SECCOMP_RET_TRAP:
        trap(t, nr, pc, (int)(v & SECCOMP_RET_DATA));
        *ret = -LX_NORESULT;
        return false;
    case SECCOMP_RET_KILL_THREAD:
        if (!lx_thread_alone(t)) {
            *ret = lx_sys_exit(t, status);
            return false;
        }
        lx_die_by(SIGSYS);
    default:
        lx_die_by(SIGSYS);
    }
}

/* ---- installing ---- */

static bool may_filter(void)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct c[2] = {0};

    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
        return true;
    return !syscall(SYS_capget, &h, c) && c[CAP_SYS_ADMIN / 32].effective & 1u << CAP_SYS_ADMIN % 32;
}

static struct lx_seccomp *chain(struct lx_seccomp *prev, const struct sock_filter *insn, unsigned n)
{
    struct lx_seccomp *f = try_alloc(1, sizeof *f + n * sizeof *insn);

    if (!f)
        return NULL;
    *f = (struct lx_seccomp){.prev = prev, .total = (prev ? prev->total : 0) + n + PENALTY, .len = n};
    memcpy(f->insn, insn, n * sizeof *insn);
    return f;
}

/* With lx_proc.lock held. 0, or the id of a thread whose filters are not among the caller's. */
static int off_the_chain_locked(const struct lx_thread *t)
{
    for (const struct lx_thread *o = lx_proc.threads; o; o = o->next) {
        const struct lx_seccomp *f = t->secc;

        while (f && f != o->secc)
            f = f->prev;
        if (f != o->secc && o->lodging == t->lodging)
            return o->tid;
    }
    return 0;
}

static int64_t install(struct lx_thread *t, struct lx_seccomp *f, unsigned flags)
{
    int other = 0;

    lx_direct_off();
    pthread_mutex_lock(&lx_proc.lock);
    if (flags & SECCOMP_FILTER_FLAG_TSYNC)
        other = off_the_chain_locked(t);
    if (!other) {
        for (struct lx_thread *o = lx_proc.threads; o && flags & SECCOMP_FILTER_FLAG_TSYNC; o = o->next)
            if (o->lodging == t->lodging)
                o->secc = f;
        t->secc = f;
    }
    pthread_mutex_unlock(&lx_proc.lock);
    if (!other)
        return 0;
    free(f);
    return flags & SECCOMP_FILTER_FLAG_TSYNC_ESRCH ? -ESRCH : other;
}

static int64_t set_filter(struct lx_thread *t, unsigned flags, uint64_t at)
{
    enum {
        KNOWN = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW |
                SECCOMP_FILTER_FLAG_TSYNC_ESRCH
    };
    struct sock_filter *insn;
    struct lx_seccomp *f = NULL;
    uint64_t prog;
    uint16_t n;
    int64_t r = -EFAULT;

    if (flags & ~(unsigned)KNOWN)
        return -EINVAL;
    if (!lx_get(&n, at, 2) || !lx_get_word(at + lx_proc.arch->word, &prog))
        return -EFAULT;
    if (!n || n > BPF_MAXINSNS)
        return -EINVAL;
    if (!may_filter())
        return -EACCES;
    if (t->secc && (t->secc->strict || t->secc->total + n > MAX_INSNS))
        return t->secc->strict ? -EINVAL : -ENOMEM;
    insn = try_alloc(n, sizeof *insn);
    if (!insn)
        return -ENOMEM;
    if (lx_get(insn, prog, n * sizeof *insn)) {
        r = program_good(insn, n) ? 0 : -EINVAL;
        f = r ? NULL : chain(t->secc, insn, n);
    }
    free(insn);
    return r ? r : f ? install(t, f, flags) : -ENOMEM;
}

static int64_t set_strict(struct lx_thread *t)
{
    struct lx_seccomp *f;

    if (t->secc)
        return t->secc->strict ? 0 : -EINVAL;
    f = xcalloc(1, sizeof *f);
    f->strict = true;
    lx_direct_off();
    t->secc = f;
    return 0;
}

static int64_t action_avail(uint64_t at)
{
    uint32_t v;

    if (!lx_get(&v, at, 4))
        return -EFAULT;
    switch (v) {
    case SECCOMP_RET_KILL_PROCESS:
    case SECCOMP_RET_KILL_THREAD:
    case SECCOMP_RET_TRAP:
    case SECCOMP_RET_ERRNO:
    case SECCOMP_RET_TRACE:
    case SECCOMP_RET_LOG:
    case SECCOMP_RET_ALLOW:
        return 0;
    default:
        return -EOPNOTSUPP;
    }
}

int64_t lx_sys_seccomp(struct lx_thread *t, const uint64_t *a)
{
    switch ((unsigned)a[0]) {
    case SECCOMP_SET_MODE_STRICT:
        return (unsigned)a[1] || a[2] ? -EINVAL : set_strict(t);
    case SECCOMP_SET_MODE_FILTER:
        return set_filter(t, (unsigned)a[1], a[2]);
    case SECCOMP_GET_ACTION_AVAIL:
        return (unsigned)a[1] ? -EINVAL : action_avail(a[2]);
    default:
        return -EINVAL;
    }
}

int64_t lx_seccomp_prctl(struct lx_thread *t, uint64_t mode, uint64_t prog)
{
    return mode == MODE_STRICT ? set_strict(t) : mode == MODE_FILTER ? set_filter(t, 0, prog) : -EINVAL;
}

/* ---- over execve: the magic, the number of filters, then each from the oldest on: its length, its instructions ----
 */

static bool write_all(int fd, const void *p, size_t n)
{
    return write(fd, p, n) == (ssize_t)n;
}

static bool write_chain(int fd, const struct lx_seccomp *f)
{
    uint32_t n = f ? f->len : 0;

    return !f || (write_chain(fd, f->prev) && write_all(fd, &n, 4) && write_all(fd, f->insn, n * sizeof f->insn[0]));
}

int lx_seccomp_carry(const struct lx_thread *t)
{
    uint32_t head[2] = {CARRY_MAGIC, 0};
    int fd, low, e;

    for (const struct lx_seccomp *f = t->secc; f; f = f->prev)
        head[1]++;
    if (!head[1])
        return -1;
    low = memfd_create("seccomp", MFD_CLOEXEC);
    fd = low < 0 ? -1 : fcntl(low, F_DUPFD, 3);
    e = errno;
    if (low >= 0)
        close(low);
    errno = e;
    if (fd < 0)
        return -errno - 1;
    if (write_all(fd, head, sizeof head) && write_chain(fd, t->secc) && !lseek(fd, 0, SEEK_SET))
        return fd;
    e = errno;
    close(fd);
    return -e - 1;
}

static bool read_filter(struct lx_thread *t, int fd, struct sock_filter *insn)
{
    struct lx_seccomp *f;
    uint32_t n;

    if (read(fd, &n, 4) != 4 || !n || n > BPF_MAXINSNS ||
        read(fd, insn, n * sizeof *insn) != (ssize_t)(n * sizeof *insn) || !program_good(insn, n))
        return false;
    f = chain(t->secc, insn, n);
    if (f)
        t->secc = f;
    return f;
}

bool lx_seccomp_take(struct lx_thread *t, int fd)
{
    struct sock_filter *insn = try_alloc(BPF_MAXINSNS, sizeof *insn);
    uint32_t head[2] = {0};
    bool ok = insn && read(fd, head, sizeof head) == sizeof head && head[0] == CARRY_MAGIC;

    for (uint32_t i = 0; ok && i < head[1]; i++)
        ok = read_filter(t, fd, insn);
    free(insn);
    close(fd);
    return ok;
}
