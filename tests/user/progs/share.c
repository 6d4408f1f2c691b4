/* Processes that share memory and are no threads: clone with CLONE_VM, alone and with what else may be shared. The
 * children have the C library's data of their parent, so they make plain system calls. */
#include "said.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { STACK = 65536, ROUNDS = 20000 };
static char stack[2][STACK] __attribute__((aligned(16)));
static volatile int seen, got, fd = -1;
static _Atomic int sum, word;
static volatile pid_t its_pid, its_parent;
static char **args;

static long raw(long nr, long a, long b, long c)
{
    long r = syscall(nr, a, b, c, 0, 0, 0);

    return r;
}

static int writes(void *a)
{
    its_pid = raw(SYS_getpid, 0, 0, 0);
    its_parent = raw(SYS_getppid, 0, 0, 0);
    seen = (int)(long)a;
    for (int i = 0; i < ROUNDS; i++)
        sum++;
    return 7;
}

static int end(pid_t pid, int how)
{
    int st = -1;

    if (waitpid(pid, &st, how) != pid)
        return -1;
    return WIFEXITED(st) ? WEXITSTATUS(st) : 1000 + WTERMSIG(st);
}

static void plain(void)
{
    pid_t pid = clone(writes, stack[0] + STACK, CLONE_VM | SIGCHLD, (void *)41);

    for (int i = 0; i < ROUNDS; i++)
        sum++;
    printf("end %d\n", end(pid, 0));
    printf("seen %d sum %d pid %d parent %d\n", seen, (int)sum, its_pid == pid, its_parent == getpid());
    pid = clone(writes, stack[0] + STACK, CLONE_VM, (void *)42);
    SAY(waitpid(pid, NULL, 0));
    printf("end %d", end(pid, __WCLONE));
    printf(" seen %d\n", seen);
}

static void on_usr(int sig)
{
    got += raw(SYS_getpid, 0, 0, 0) == its_pid ? 1 : 100;
}

/* What it does to the table of files and of signals is the parent's too, or not. */
static int changes(void *a)
{
    struct sigaction s = {.sa_handler = on_usr};

    its_pid = raw(SYS_getpid, 0, 0, 0);
    fd = (int)raw(SYS_dup, 1, 0, 0);
    sigaction(SIGUSR1, &s, NULL);
    raw(SYS_kill, its_pid, SIGUSR1, 0);
    raw(SYS_chdir, (long)"/", 0, 0);
    return got;
}

static void tables(unsigned flags)
{
    struct sigaction s = {.sa_handler = SIG_DFL}, old;
    char here[PATH_MAX];
    pid_t pid;

    got = 0;
    sigaction(SIGUSR1, &s, NULL);
    pid = clone(changes, stack[0] + STACK, CLONE_VM | flags | SIGCHLD, NULL);
    printf("handled %d\n", end(pid, 0));
    sigaction(SIGUSR1, NULL, &old);
    printf("handler %d\n", old.sa_handler == on_usr);
    SAY(fcntl(fd, F_GETFD));
    printf("at root %d\n", !strcmp(getcwd(here, sizeof here), "/"));
    if (flags & CLONE_FILES)
        close(fd);
}

static int spins(void *a)
{
    word = 2;
    for (;;)
        sum++;
}

/* Killed while it runs, or wherever it is: the kernel clears the word and wakes who waits. */
static void killed(int n)
{
    struct timespec second = {20, 0};
    int bad = 0;

    for (int i = 0; i < n; i++) {
        pid_t tid = -1, pid;

        word = 1;
        pid = clone(spins, stack[0] + STACK, CLONE_VM | CLONE_CHILD_CLEARTID | CLONE_PARENT_SETTID | SIGCHLD, NULL,
                    &tid, NULL, &word);
        while (n == 1 && word == 1)
            ;
        bad += tid != pid;
        kill(pid, SIGKILL);
        for (int v; (v = word) && !bad;)
            bad += syscall(SYS_futex, &word, FUTEX_WAIT, v, &second, NULL, 0) < 0 && errno == ETIMEDOUT;
        bad += end(pid, 0) != 1000 + SIGKILL;
    }
    printf("killed %d bad %d\n", n, bad);
}

static int executes(void *a)
{
    raw(SYS_execve, (long)args[0], (long)(char *[]){args[0], "again", NULL}, (long)environ);
    return 1;
}

static int second_thread(void *a)
{
    seen = raw(SYS_getpid, 0, 0, 0) == its_pid;
    word = 5;
    return 0;
}

/* A thread of its own, which ends before it; a child of its own. */
static int makes(void *a)
{
    int st = 0;
    pid_t pid;

    its_pid = raw(SYS_getpid, 0, 0, 0);
    clone(second_thread, stack[1] + STACK,
          CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, NULL);
    while (word != 5)
        raw(SYS_sched_yield, 0, 0, 0);
    pid = clone(writes, stack[1] + STACK, SIGCHLD, NULL);
    raw(SYS_wait4, pid, (long)&st, 0);
    return WEXITSTATUS(st);
}

static int dies(void *a)
{
    *(volatile int *)8 = 1;
    return 1;
}

/* Code made and run while another process runs in the same memory. */
static int many(void)
{
    int bad = 0;

    for (int i = 0; i < 30; i++) {
        pid_t a, b;

        sum = 0;
        a = clone(writes, stack[0] + STACK, CLONE_VM | SIGCHLD, NULL);
        b = clone(writes, stack[1] + STACK, CLONE_VM | CLONE_FILES | CLONE_SIGHAND | SIGCHLD, NULL);
        bad += end(a, 0) != 7;
        bad += end(b, 0) != 7;
        bad += sum != 2 * ROUNDS;
    }
    return bad;
}

int main(int argc, char **argv)
{
    pid_t pid;

    args = argv;
    if (argc > 1)
        return !strcmp(argv[1], "again") ? 23 : 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    SAY(clone(writes, stack[0] + STACK, CLONE_SIGHAND | SIGCHLD, NULL));
    plain();
    tables(0);
    tables(CLONE_FILES);
    tables(CLONE_SIGHAND);
    killed(1);
    killed(25);
    pid = clone(executes, stack[0] + STACK, CLONE_VM | SIGCHLD, NULL);
    printf("executed %d\n", end(pid, 0));
    word = 0;
    pid = clone(makes, stack[0] + STACK, CLONE_VM | SIGCHLD, NULL);
    printf("made %d", end(pid, 0));
    printf(" %d\n", seen);
    pid = clone(dies, stack[0] + STACK, CLONE_VM | SIGCHLD, NULL);
    printf("died %d\n", end(pid, 0));
    printf("many %d\n", many());
    tables(CLONE_FS);
    return 0;
}
