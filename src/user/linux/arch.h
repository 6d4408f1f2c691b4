/* What a guest architecture gives to user mode, and what user mode gives to it.
 *
 * One `struct lx_arch` per guest architecture, in user/linux/arch_<name>.c with LX_ARCH_REGISTER. It joins a CPU (in
 * guest/<arch>) to the generic process emulation: ELF loader, system calls, signals, threads. Adding one touches that
 * file, its syscall table and the build line.
 *
 * Memory: a guest address IS a host address (base 0). 64-bit guests get what mmap gives below 2^47; 32-bit guests live
 * in the low 4 GiB, which the process reserves before it loads anything. Front ends emit plain accesses; they may
 * fault, and the fault becomes the guest's signal (run.h). C code that touches guest memory uses lx_get, lx_put.
 *
 * Threads: each guest thread is a host thread with a CPU of its own. Everything here is called on the CPU's own thread
 * unless it says otherwise. Signal numbers, errno and most flags are the same on all guests; what differs is described
 * by the tables below.
 */
#ifndef USER_LINUX_ARCH_H
#define USER_LINUX_ARCH_H

#include "base/err.h"

#include <signal.h>

struct lx_thread; /* a thread of the guest's, thread.h */
struct lx_rt;     /* the process's translator, run.h */
struct lx_rt_thread;
struct lx_front;

/* Why run() came back. */
enum lx_stop {
    LX_STOP_SYSCALL, /* number and arguments are in their registers, pc is behind the instruction */
    LX_STOP_SIGNAL,  /* cpu->fault tells: pc is at the faulting instruction (behind it for traps that say so) */
    LX_STOP_KICK     /* lx_rt_kick, or nothing in particular: look at what is pending and run again */
};
struct lx_fault {
    int sig, code; /* as in siginfo: SIGSEGV with SEGV_MAPERR ... */
    uint64_t addr;
    uint64_t err, trap; /* what the guest's frame says besides, if its layout has a place for it */
};
/* First member of every architecture's CPU in user mode. */
struct lx_cpu {
    struct lx_thread *thread; /* borrowed; set by the generic part */
    struct lx_rt_thread *rt;  /* owned by the runtime */
    struct lx_fault fault;
};

enum lx_reg {
    LX_PC,
    LX_SP,
    LX_TLS,
    LX_SYSNO,
    LX_RET, /* first result register, raw */
    LX_ARG0,
    LX_ARG1,
    LX_ARG2,
    LX_ARG3,
    LX_ARG4,
    LX_ARG5
};

/* ---- layouts of structures, converted by description ---- */
/* One field: `size` bytes at guest offset `at` hold the field with number `field` of a family (LX_ST_* for stat ...).
 * A layout ends with size 0, whose `at` is the size of the whole. */
struct lx_field {
    uint16_t field, at;
    uint8_t size;
};
enum {
    LX_ST_DEV,
    LX_ST_INO,
    LX_ST_MODE,
    LX_ST_NLINK,
    LX_ST_UID,
    LX_ST_GID,
    LX_ST_RDEV,
    LX_ST_SIZE,
    LX_ST_BLKSIZE,
    LX_ST_BLOCKS,
    LX_ST_ATIME,
    LX_ST_ATIME_NS,
    LX_ST_MTIME,
    LX_ST_MTIME_NS,
    LX_ST_CTIME,
    LX_ST_CTIME_NS,
    LX_ST_INO32,
    LX_ST_NR
};
extern const struct lx_field lx_stat_generic64[]; /* asm-generic, 64-bit: AArch64, RISC-V */
extern const struct lx_field lx_stat_32[];        /* struct stat without large files: i386, Arm */

/* A guest's system call: which one it is. Names: LX_SYS_<name>, sysnr.h. nr 0xffff ends a table. */
struct lx_sysnr {
    uint16_t nr, id;
};
extern const struct lx_sysnr lx_sysnr_generic64[]; /* asm-generic numbers, 64-bit */

/* ---- signals ---- */
/* All that a frame holds besides registers. Guest struct sigaction and masks are converted before. */
struct lx_sigframe {
    int sig;
    const siginfo_t *info; /* host layout; lx_put_siginfo writes the guest's */
    uint64_t handler, restorer;
    uint64_t sa_flags; /* SA_SIGINFO, SA_RESTORER as the guest gave them */
    uint64_t mask;     /* to restore */
    uint64_t sp;       /* build below: the guest's sp or the top of its alternate stack */
    uint64_t alt_sp, alt_size;
    uint32_t alt_flags;
    bool on_alt; /* sp is the top of the alternate stack: no red zone below the old one */
};

struct lx_arch {
    const char *name;          /* "x86_64": qemu-x86_64 */
    const char *const *cross;  /* library folders to look in when no -L is given, NULL-terminated */
    const char *uname_machine; /* "x86_64" */
    const char *platform;      /* AT_PLATFORM; NULL = none */
    uint16_t elf_machine;
    uint8_t elf_class;          /* 1 = 32, 2 = 64 bits */
    uint8_t word;               /* 4 or 8: long and pointer */
    bool packed_epoll;          /* struct epoll_event without padding (x86-64) */
    bool pair_align;            /* 64-bit arguments of 32-bit calls start at an even register (Arm) */
    bool no_restorer;           /* struct sigaction has no sa_restorer (RISC-V) */
    bool tls_last;              /* clone(flags, stack, ptid, ctid, tls): x86-64; others have tls before ctid */
    bool host_vdso;             /* the host's vDSO is code of this architecture */
    const struct lx_vdso *vdso; /* else: the one we make (vdso.h); NULL: none */
    uint32_t elf_flags;         /* e_flags of it */
    uint32_t task_end;          /* 32-bit guests: nothing is mapped from here on; 0: 0xffffe000 */
    /* Code and data the kernel shows at task_end, one page: filled before the program is loaded. May be NULL. */
    void (*helper_fill)(uint8_t page[4096]);
    uint32_t o_direct, o_directory, o_nofollow, o_largefile; /* open flags that differ */
    const struct lx_sysnr *sysnr;
    const struct lx_field *stat, *stat64; /* stat64: NULL on 64-bit guests */
    const struct lx_front *front;         /* the translator's front end, run.h */
    uint64_t hwcap, hwcap2;               /* used when hwcaps is NULL */

    /* -cpu TEXT (NULL: the default); `help` is printed by the program from cpu_help. Called once before any cpu_new. */
    bool (*cpu_select)(const char *text, struct err **errp);
    char *(*cpu_help)(void);                                        /* caller frees; may be NULL */
    void (*hwcaps)(uint64_t *hwcap, uint64_t *hwcap2);              /* may be NULL */
    struct lx_cpu *(*cpu_new)(struct lx_rt *rt, struct err **errp); /* registers at zero, FPU as after exec */
    struct lx_cpu *(*cpu_clone)(const struct lx_cpu *from);         /* for clone(): all guest-visible state */
    void (*cpu_free)(struct lx_cpu *c);
    /* Runs until something is wanted. Host signals that matter are blocked or only kick meanwhile. */
    enum lx_stop (*run)(struct lx_cpu *c);
    void (*exec_state)(struct lx_cpu *c, uint64_t entry, uint64_t sp); /* registers as execve leaves them */

    uint64_t (*get)(const struct lx_cpu *c, enum lx_reg r);
    void (*set)(struct lx_cpu *c, enum lx_reg r, uint64_t v);
    /* Puts a result (or -errno) where the guest looks for it. */
    void (*sys_result)(struct lx_cpu *c, int64_t v);
    /* Makes the guest execute the call just made again: pc back by the instruction, number and first argument restored.
     * Called before sys_result. */
    void (*sys_restart)(struct lx_cpu *c);
    /* A call only this architecture has (arch_prctl, set_thread_area, riscv_flush_icache, cacheflush ...): true when
     * it was one; *ret is the result. May be NULL. */
    bool (*sys_own)(struct lx_cpu *c, uint64_t nr, const uint64_t arg[6], int64_t *ret);

    /* Saves the state and the extras in a frame in guest memory and makes the CPU enter the handler. False: the frame
     * cannot be written. */
    bool (*frame_push)(struct lx_cpu *c, const struct lx_sigframe *f);
    /* sigreturn and rt_sigreturn: registers from the frame at sp; the mask and the alternate stack (alt_size 0 and
     * alt_flags ~0: the frame has none) into *f. False: the frame is bad (SIGSEGV). */
    bool (*frame_pop)(struct lx_cpu *c, bool rt, struct lx_sigframe *f);

    /* Code for a page that signal handlers return through when the program gives no restorer; may be NULL. The page's
     * address is lx_tramp(). */
    void (*tramp_fill)(uint8_t page[4096]);
    void (*cpuinfo)(char *buf, size_t n, unsigned cpu); /* one processor's part of /proc/cpuinfo; NULL: the host's */
    /* For gdb: the target description and registers by number. reg_get returns the size, 0 = no such register. */
    const char *(*gdb_xml)(const char *annex);
    unsigned (*gdb_get)(struct lx_cpu *c, unsigned n, uint8_t *buf);
    unsigned (*gdb_set)(struct lx_cpu *c, unsigned n, const uint8_t *buf);
    unsigned gdb_regs; /* in the g packet */
    /* For ptrace: floating-point and vector registers, at most LX_FP_MAX bytes: x86 the XSAVE image, AArch64 and RISC-V
     * what NT_PRFPREG has, Arm what NT_ARM_VFP has. fp_get returns the size. */
    unsigned (*fp_get)(struct lx_cpu *c, uint8_t *image);
    void (*fp_set)(struct lx_cpu *c, uint8_t *image);
    uint64_t (*sigstack)(void); /* AT_MINSIGSTKSZ; NULL: none */
};
enum { LX_FP_MAX = 2816 };
void lx_arch_register(const struct lx_arch *a);
const struct lx_arch *lx_arch_find(const char *name);
const struct lx_arch *lx_arch_of_elf(unsigned machine, unsigned elf_class);
#define LX_ARCH_REGISTER(a)                                                                                            \
    __attribute__((constructor)) static void lx_register_##a(void)                                                     \
    {                                                                                                                  \
        lx_arch_register(&(a));                                                                                        \
    }

/* ---- what user mode gives ---- */
/* Copies between guest memory and ours; false: part of it is not mapped (nothing is raised). Any thread. */
bool lx_get(void *to, uint64_t guest, size_t n);
bool lx_put(uint64_t guest, const void *from, size_t n);
/* siginfo in the guest's layout (128 bytes) for a word size. */
void lx_siginfo_out(uint8_t out[128], const siginfo_t *info, unsigned word);
uint64_t lx_tramp(void);
/* Fills the fault and returns LX_STOP_SIGNAL. */
enum lx_stop lx_raise(struct lx_cpu *c, int sig, int code, uint64_t addr);

#endif
