/* The guest's process and its threads, private to user/linux and its programs.
 *
 * There is one process per program, so the process is the one object in this room that is not passed around (lx_proc):
 * host signal handlers and fork need to find it. A thread is only touched by itself unless a field says otherwise.
 *
 * Signals. The host's disposition and mask follow the guest's (except that SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGTRAP
 * always come to us), so the kernel queues, picks threads and restarts calls. The handler keeps one signal per thread
 * and blocks all others until the run loop has built the guest's frame. */
#ifndef USER_LINUX_THREAD_H
#define USER_LINUX_THREAD_H

#include "user/linux/arch.h"
#include "user/linux/run.h"
#include "user/linux/trace.h"

#include <pthread.h>
#include <semaphore.h>

enum { LX_NSIG = 64, LX_ERESTART = 512, LX_NORESULT = 513 /* -LX_NORESULT: registers are set already */ };
enum {
    LX_SA_NOCLDSTOP = 1,
    LX_SA_SIGINFO = 4,
    LX_SA_RESTORER = 0x04000000,
    LX_SA_ONSTACK = 0x08000000,
    LX_SA_RESTART = 0x10000000,
    LX_SA_NODEFER = 0x40000000,
    LX_SA_RESETHAND = 0x80000000u
};
struct lx_action {
    uint64_t handler, flags, restorer, mask;
};
struct lx_actions { /* shared by the threads of a process; a vfork child has its own */
    pthread_mutex_t lock;
    bool gently; /* signals that end the process are taken by our handler: it dies where it holds no lock (share.c) */
    struct lx_action a[LX_NSIG + 1];
};
struct lx_opts {
    const char *argv0; /* -0 */
    char **prefix;     /* -L and the folders tried by themselves; NULL-terminated */
    const char *cpu;   /* -cpu */
    const char *uname; /* -r */
    bool strace, one_insn, perfmap, jitdump, count_blocks, given_prefix;
    uint64_t stack;     /* -s */
    uint64_t space;     /* -R: size of a 32-bit guest's address space; 0: what its kernel gives */
    unsigned cache_mib; /* -tb-size; 0: what is usual */
    unsigned gdb_port;  /* -g */
    const char *gdb_path;
    const char *seed;
    unsigned pagesize;
    const char *trace; /* how the tracer of the program before went on (trace.h); NULL: it was not traced */
    int seccomp_fd;    /* filters of the program before (seccomp.h); 0: none */
    const char *self;  /* how to start this program again */
    const char *log_items, *log_file;
};
struct lx_proc {
    const struct lx_arch *arch;
    struct lx_rt *rt;
    struct lx_opts opt;
    char *exe;   /* owned: absolute path of the guest's program */
    char **argv; /* owned: its arguments, for /proc/self/cmdline */
    uint64_t brk_start, brk, brk_mapped, brk_max;
    uint64_t stack_lo, stack_hi; /* the main thread's */
    uint64_t auxv, auxv_len;     /* in guest memory */
    uint64_t arg_start, arg_end, env_start, env_end;
    uint64_t tramp; /* page with signal trampolines; 0 = none */
    uint64_t vdso;  /* the shared object we made for it (vdso.h); 0 = none */
    uint64_t code_start, code_end, data_start, data_end;
    uint64_t mmap_hi;            /* 32-bit guests: mappings are placed below */
    struct lx_thread *threads;   /* all in this memory but vfork's children, under lock */
    struct lx_lodging *lodgings; /* share.c, under lock */
    pthread_mutex_t lock;
    pthread_mutex_t space; /* where it is free, the host's mappings and the table of map.h agree; brk too. After lock,
                              before rt's */
};
extern struct lx_proc lx_proc;

struct lx_thread {
    struct lx_cpu *cpu; /* owned */
    struct lx_actions *act;
    uint64_t mask;      /* bit n - 1 = signal n */
    uint64_t clear_tid; /* guest address, 0 = none */
    struct {
        uint64_t sp, size;
        uint32_t flags;
    } alt;
    _Atomic int pending; /* signal number in info; read by lx_safe_syscall */
    siginfo_t info;
    uint64_t pending_sync; /* SIGSEGV ... sent by others while blocked */
    siginfo_t sync_info[LX_NSIG + 1];
    uint64_t robust, robust_len;
    struct lx_seccomp *secc; /* the newest filter (seccomp.h); NULL: none. Others set it under lx_proc.lock */
    struct lx_trace trace;
    int tid;
    bool exiting;
    bool sharing;               /* of a process that runs in another's memory (share.c) */
    struct lx_lodging *lodging; /* borrowed: which one, unless it is vfork's child; NULL: the one whose memory it is */
    sem_t *started; /* while being created, and where its id goes: the thread may be gone before its maker looks */
    int *started_tid;
    uint64_t ptid, ctid;
    unsigned clone_flags;
    struct lx_thread *next;
};
extern _Thread_local struct lx_thread *lx_self;

/* ---- thread.c ---- */
/* Makes the first thread and runs the program whose entry and stack are given; does not return. */
NORETURN void lx_run_main(uint64_t entry, uint64_t sp, struct lx_cpu *cpu);
void lx_thread_loop(struct lx_thread *t);
NORETURN void lx_exit_process(int code);
void lx_thread_enlist(struct lx_thread *t);
void lx_thread_delist_locked(struct lx_thread *t); /* with lx_proc.lock held */
/* Its process has no other thread. */
bool lx_thread_alone(const struct lx_thread *t);

/* ---- share.c: processes that run in this one's memory ---- */
struct lx_clone {
    uint64_t flags, stack, ptid, ctid, tls, pidfd;
    int exit_signal;
};
/* CLONE_VM | CLONE_VFORK. The child's id or -errno; returns when it has executed a program or ended. */
int64_t lx_vfork(struct lx_thread *t, const struct lx_clone *c);
/* CLONE_VM without CLONE_THREAD. The child's id or -errno. */
int64_t lx_clone_sharing(struct lx_thread *t, const struct lx_clone *c);
/* It is a thread of ours that the guest has not made. */
bool lx_sharing_keeper(int tid);
/* SIGKILL for a process in this memory, taken where it holds no lock of ours; false: it is none, or cannot take it. */
bool lx_sharing_kill(pid_t pid);

/* ---- signal.c ---- */
void lx_signals_init(struct lx_thread *t);
void lx_signals_gently(struct lx_thread *t);  /* makes the host's dispositions follow act->gently */
void lx_signals_deliver(struct lx_thread *t); /* builds frames for what is pending */
void lx_signal_fault(struct lx_thread *t);    /* cpu->fault becomes a signal that cannot be ignored */
void lx_signal_force(struct lx_thread *t, int sig, int code, uint64_t addr);
/* A signal that cannot be ignored. */
void lx_signal_force_info(struct lx_thread *t, const siginfo_t *info);
void lx_signals_block(sigset_t *old);   /* the host's, but those that faults make */
void lx_host_mask(struct lx_thread *t); /* the host's mask from the guest's */
NORETURN void lx_die_by(int sig);
/* A system call that a signal interrupts before it starts is not made: -LX_ERESTART. Else the kernel's result. */
int64_t lx_safe_syscall(struct lx_thread *t, long nr, const uint64_t a[6]);

/* ---- elf.c ---- */
struct lx_image {
    uint64_t entry, sp;
};
/* Loads path (already found) and its interpreter and builds the stack. */
bool lx_load(const char *path, int fd, char **argv, char **envp, struct lx_image *out, struct err **errp);
/* Machine and class of an ELF file from its first 64 bytes; 0 = not one for Linux. */
unsigned lx_elf_machine(const uint8_t *head, size_t n, unsigned *elf_class);

/* ---- mem.c: address space calls, also used by the loader ---- */
int64_t lx_mmap(uint64_t addr, uint64_t len, int prot, int flags, int fd, uint64_t off);
bool lx_mem_init(struct err **errp);
/* A thread was ended from outside: gives back what it had locked. id: what it was to the C library's locks. */
void lx_mem_killed(int id);

/* ---- path.c ---- */
/* The host path for a guest's: a file of the same name under one of the prefixes when it is there, else path. buf holds
 * PATH_MAX. */
const char *lx_path(const char *path, char *buf);
/* Opens of /proc files that must show the guest: a file descriptor, or -1 when it is none of them (-errno - 1 ...). */
int lx_proc_open(const char *path, int flags, bool *ours);
int64_t lx_do_exec(struct lx_thread *t, int dirfd, const char *path, char **argv, char **envp, int flags);
/* Reads a NUL-terminated string; NULL with *e = EFAULT or ENAMETOOLONG. Caller frees. */
char *lx_get_str(uint64_t guest, size_t max, int *e);

/* ---- sys.c ---- */
void lx_syscall(struct lx_thread *t);
struct lx_sysrow {
    const char *name;
    const char *spec;
    int host;
    int64_t (*fn64)(struct lx_thread *, const uint64_t *);
    int64_t (*fn32)(struct lx_thread *, const uint64_t *);
    uint8_t how64, how32; /* enum lx_how */
};
enum lx_how { LX_HOW_RAW, LX_HOW_OWN, LX_HOW_W32, LX_HOW_NO, LX_HOW_OTHER };
extern const struct lx_sysrow lx_sysrows[];
/* ---- strace.c ---- */
void lx_strace_enter(struct lx_thread *t, const struct lx_sysrow *row, uint64_t nr, const uint64_t *a);
void lx_strace_leave(struct lx_thread *t, const struct lx_sysrow *row, const uint64_t *a, int64_t ret);
void lx_strace_signal(struct lx_thread *t, int sig, const siginfo_t *info);

static inline bool lx_is32(void)
{
    return lx_proc.arch->word == 4;
}
static inline uint64_t lx_task_end32(void)
{
    uint64_t end = lx_proc.arch->task_end ? lx_proc.arch->task_end : 0xffffe000;

    return lx_proc.opt.space && lx_proc.opt.space < end ? lx_proc.opt.space : end;
}
/* A word of the guest's. */
static inline bool lx_get_word(uint64_t at, uint64_t *v)
{
    *v = 0;
    return lx_get(v, at, lx_proc.arch->word);
}
static inline bool lx_put_word(uint64_t at, uint64_t v)
{
    return lx_put(at, &v, lx_proc.arch->word);
}

#endif
