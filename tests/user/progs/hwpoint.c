/* A tracer's break- and watchpoints by debug registers: x86 and AArch64. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int watched, other;

__attribute__((noinline)) static void called(int n)
{
    other = n;
    watched = n + 1;
}

static void child(void)
{
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    for (int i = 0; i < 6; i++)
        called(i);
    _exit(9);
}

#if defined(__aarch64__)
struct hw {
    uint32_t info, pad;
    struct {
        uint64_t addr;
        uint32_t ctrl, pad;
    } reg[4];
};

static long set(pid_t pid, int note, uint64_t addr, uint32_t ctrl)
{
    struct hw h = {0};
    struct iovec v = {&h, sizeof h};

    if (ptrace(PTRACE_GETREGSET, pid, note, &v) < 0 || (h.info & 0xff) < 2 || h.info >> 8 != 6)
        return -1;
    h.reg[0].addr = addr;
    h.reg[0].ctrl = ctrl;
    v.iov_len = 8 + 16;
    return ptrace(PTRACE_SETREGSET, pid, note, &v);
}

static long watch(pid_t pid, volatile void *p)
{
    uint64_t at = (uintptr_t)p;

    return set(pid, NT_ARM_HW_WATCH, at & ~7ull, 0xfu << (at & 7) << 5 | 2 << 3 | 2 << 1 | 1);
}

static long reads(pid_t pid, volatile void *p)
{
    uint64_t at = (uintptr_t)p;

    return set(pid, NT_ARM_HW_WATCH, at & ~7ull, 0xfu << (at & 7) << 5 | 1 << 3 | 2 << 1 | 1);
}

static long stop_at(pid_t pid, void *p)
{
    return set(pid, NT_ARM_HW_WATCH, 0, 0) ? -1 : set(pid, NT_ARM_HW_BREAK, (uintptr_t)p, 0xf << 5 | 2 << 1 | 1);
}

static int status(pid_t pid, siginfo_t *i, volatile void *p)
{
    return i->si_addr == p;
}
#elif defined(__i386__) || defined(__x86_64__)
static long dr(pid_t pid, int n, unsigned long v)
{
    return ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg) + n * sizeof(long), v);
}

static long watch(pid_t pid, volatile void *p)
{
    return dr(pid, 0, (uintptr_t)p) ? -1 : dr(pid, 7, 1 | 1 << 16 | 3 << 18);
}

static long reads(pid_t pid, volatile void *p)
{
    return -1;
}

static long stop_at(pid_t pid, void *p)
{
    return dr(pid, 7, 0) || dr(pid, 1, (uintptr_t)p) ? -1 : dr(pid, 7, 1 << 2);
}

static int status(pid_t pid, siginfo_t *i, volatile void *p)
{
    unsigned long v = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, u_debugreg) + 6 * sizeof(long), 0);

    dr(pid, 6, 0);
    return p == (void *)called ? (v & 15) == 2 : (v & 15) == 1;
}
#endif

static void stopped(pid_t pid, volatile void *p)
{
    siginfo_t i = {0};
    int s;

    ptrace(PTRACE_CONT, pid, 0, 0);
    if (waitpid(pid, &s, 0) != pid || !WIFSTOPPED(s)) {
        printf("ended %x\n", s);
        return;
    }
    ptrace(PTRACE_GETSIGINFO, pid, 0, &i);
    printf("signal %d code %d met %d watched %d other %d\n", WSTOPSIG(s), i.si_code, status(pid, &i, p),
           (int)ptrace(PTRACE_PEEKDATA, pid, &watched, 0), (int)ptrace(PTRACE_PEEKDATA, pid, &other, 0));
}

int main(void)
{
    pid_t pid = fork();
    int s;

    if (!pid)
        child();
    waitpid(pid, &s, 0);
    if (watch(pid, &watched)) {
        printf("none: %d\n", errno);
        kill(pid, SIGKILL);
        return 0;
    }
    stopped(pid, &watched);
    stopped(pid, &watched);
    printf("reads %ld\n", reads(pid, &watched));
    printf("stop_at %ld\n", stop_at(pid, called));
    stopped(pid, called);
    stopped(pid, NULL);
    return 0;
}
