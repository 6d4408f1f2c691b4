/* ptrace between emulated processes; see trace.c for how. Private to user/linux. */
#ifndef USER_LINUX_TRACE_H
#define USER_LINUX_TRACE_H

#include "base/str.h"

#include <signal.h>

struct lx_thread;

enum { LX_TRACE_GP = 512, LX_TRACE_FP = 2816 /* LX_FP_MAX */, LX_TRACE_CHANGED = 64, LX_TRACE_HW = 8 };
enum lx_trace_how { LX_TRACE_CONT, LX_TRACE_SYSCALL, LX_TRACE_STEP, LX_TRACE_LISTEN, LX_TRACE_DETACH };

/* A break- or watchpoint of the tracer's (trace_hw.c). */
struct lx_hw {
    uint64_t at, old; /* old: what was there */
    uint8_t len, slot;
    bool exec;
};

/* A tracee's side, in its thread. The tracer's translator reads and writes it while the tracee stands in a stop; both
 * are the same program, so the layout is the same. */
struct lx_trace {
    uint64_t size; /* of this structure: another version of ours is not traced */
    bool on, seized;
    bool group;     /* this stop is a group stop: it has no siginfo */
    bool in_stop;   /* towards its own signal handlers */
    bool fresh;     /* the system call that made it does not end in a stop */
    bool interrupt; /* PTRACE_INTERRUPT came */
    bool restart;   /* the system call just made was interrupted: made again if no handler runs */
    uint64_t restart_nr;
    uint32_t options;
    int status;     /* what wait() shows, from bit 8 on; 0: nothing, the tracer lets the signal pass */
    siginfo_t info; /* of this stop */
    uint64_t msg;   /* PTRACE_GETEVENTMSG */
    unsigned op;    /* PTRACE_SYSCALL_INFO_* */
    uint64_t nr, args[6], ip, sp;
    int64_t ret;
    uint64_t exe, auxv, auxv_len; /* where the tracee has them */
    uint32_t audit_arch, machine, word;
    uint32_t gp_len, fp_len;
    uint8_t gp[LX_TRACE_GP], fp[LX_TRACE_FP]; /* as the guest's user_regs_struct and arch.fp_get have them */
    bool gp_set, fp_set;
    int how, sig; /* how it goes on */
    struct lx_hw hw[LX_TRACE_HW];
    unsigned nr_hw;
    uint64_t hw_skip; /* the instruction it stands at after a stop: not met again */
    uint64_t dr[8];   /* x86: as the tracer wrote them, dr[6] what was met */
    uint64_t a64_break[LX_TRACE_HW / 2][2], a64_watch[LX_TRACE_HW / 2][2]; /* address, control */
    struct {
        uint64_t at, len;
    } changed[LX_TRACE_CHANGED]; /* memory the tracer wrote */
    unsigned nr_changed;         /* beyond the table: all of it */
};

/* ---- the tracee ---- */
/* A signal is about to be taken: the one to take instead, 0 for none. *info follows. */
int lx_trace_signal(struct lx_thread *t, int sig, siginfo_t *info);
/* The call just made (trace.restart_nr) is made again. */
void lx_trace_again(struct lx_thread *t);
void lx_trace_syscall(struct lx_thread *t, bool entry, uint64_t nr, const uint64_t *a, int64_t ret);
/* After fork, vfork or clone: in the parent (event PTRACE_EVENT_*), and in the child before it runs. */
void lx_trace_event(struct lx_thread *t, unsigned event, uint64_t msg);
void lx_trace_born(struct lx_thread *t, const struct lx_trace *parent, unsigned event);
unsigned lx_trace_clone_event(uint64_t flags, int exit_signal);
/* The program was executed by a traced one (option text of lx_trace_carry). */
void lx_trace_executed(struct lx_thread *t, const char *text);
char *lx_trace_carry(const struct lx_thread *t); /* NULL: not traced; caller frees */
/* After one instruction. */
void lx_trace_stepped(struct lx_thread *t);
/* Before an instruction, with debug registers set: true when one was met and reported. */
bool lx_trace_point(struct lx_thread *t);
/* In the host's handler of SIGTRAP: 0 = not from a tracer; -1 = ignore it; else the signal *info now is. */
int lx_trace_arrived(struct lx_thread *t, siginfo_t *info);
/* Sends a signal in that form to a thread of ours, traced or not: taken where it delivers signals. 0 or -errno. */
int64_t lx_trace_hand(pid_t tid, int sig);
/* The next host signal `sig` that this thread sends itself is to pass the tracer unseen. */
void lx_trace_die(struct lx_thread *t, int sig);
/* ---- the tracer ---- */
/* wait4 and waitid with stops that are not the guest's left out. */
int64_t lx_trace_wait(struct lx_thread *t, long nr, const uint64_t a[6]);
/* After a write the guest made to a file: it may have been a tracee's memory. */
/* What /proc/<pid>/exe or auxv of a tracee says, added to out; false: it is none of ours. */
bool lx_trace_proc(int pid, const char *what, struct strbuf *out);
/* ---- trace_hw.c: debug registers. The tracer: false when the offset or note names none; *r the call's result. ---- */
bool lx_trace_hw_peek(const struct lx_trace *tr, uint64_t off, uint64_t *v);
bool lx_trace_hw_poke(struct lx_trace *tr, uint64_t off, uint64_t v, int64_t *r);
bool lx_trace_hw_set(struct lx_trace *tr, unsigned note, uint64_t at, uint64_t *len, bool set, int64_t *r);
/* The tracee, after each stop: what they name as it is now is not news. */
void lx_trace_hw_begin(struct lx_thread *t);
/* Which were met, one bit a slot; *addr for siginfo. stepped: by a single step. */
unsigned lx_trace_hw_met(struct lx_thread *t, bool stepped, uint64_t *addr);
/* This process traces something. */
bool lx_tracing(void);
void lx_trace_wrote(int fd, uint64_t off, uint64_t len);

#endif
