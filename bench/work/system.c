/* What the kernel does: a system call that does nothing, a byte back and forth between two processes, a touched page of
 * fresh memory, a child that ends at once, a child that starts a program. */
#include "micro.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static uint64_t null_call(uint64_t n)
{
    uint64_t v = 0;

    for (uint64_t i = 0; i < n; i++)
        v += syscall(SYS_getppid) != 0;
    return v;
}

/* A unit is a round trip. */
static uint64_t ping_pong(uint64_t n)
{
    int to[2], from[2];
    char c = 'x';
    pid_t kid;

    must(pipe(to) == 0 && pipe(from) == 0, "pipe");
    kid = fork();
    must(kid >= 0, "fork");
    if (!kid) {
        close(to[1]);
        while (read(to[0], &c, 1) == 1)
            if (write(from[1], &c, 1) != 1)
                break;
        _exit(0);
    }
    for (uint64_t i = 0; i < n; i++)
        must(write(to[1], &c, 1) == 1 && read(from[0], &c, 1) == 1, "pipe");
    close(to[1]);
    close(to[0]);
    close(from[0]);
    close(from[1]);
    waitpid(kid, NULL, 0);
    return n;
}

/* A unit is one page touched for the first time; mapping and unmapping of 1024 at once included. */
static uint64_t page_fault(uint64_t n)
{
    uint64_t v = 0;

    for (uint64_t done = 0; done < n; done += 1024) {
        volatile uint8_t *p = mmap(NULL, 1024 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        must(p != MAP_FAILED, "mmap");
        madvise((void *)p, 1024 * 4096, MADV_NOHUGEPAGE);
        for (unsigned i = 0; i < 1024; i++)
            v += ++p[i * 4096];
        munmap((void *)p, 1024 * 4096);
    }
    return v;
}

/* MICRO_RUNNER: the program that runs this one, where the kernel does not know to call it. */
static void exec_self(void)
{
    char *runner = getenv("MICRO_RUNNER"), self[4096] = "";
    char *const plain[] = {"micro", "--nothing", NULL}, *const through[] = {runner, self, "--nothing", NULL};

    if (!runner)
        execv("/proc/self/exe", plain);
    else if (readlink("/proc/self/exe", self, sizeof self - 1) > 0)
        execv(runner, through);
}

static uint64_t spawn(uint64_t n, int with_exec)
{
    int status;

    for (uint64_t i = 0; i < n; i++) {
        pid_t kid = fork();

        must(kid >= 0, "fork");
        if (!kid) {
            if (with_exec)
                exec_self();
            _exit(with_exec);
        }
        must(waitpid(kid, &status, 0) == kid && status == 0, "child");
    }
    return n;
}

static uint64_t fork_wait(uint64_t n)
{
    return spawn(n, 0);
}
static uint64_t fork_exec(uint64_t n)
{
    return spawn(n, 1);
}

const struct work works_sys[] = {
    {"syscall", "syscall", null_call, 1, 0, NULL},         {"pingpong", "pingpong", ping_pong, 1, 0, NULL},
    {"pagefault", "pagefault", page_fault, 1024, 0, NULL}, {"fork_wait", "forkexec", fork_wait, 1, 0, NULL},
    {"fork_exec", "forkexec", fork_exec, 1, 0, NULL},      {NULL, NULL, NULL, 0, 0, NULL}};
