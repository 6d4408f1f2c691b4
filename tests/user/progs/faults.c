/* Faults: signal, code and address of each; the handler sees and edits the context. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf jb;
static char *page;
static volatile int mode;

static void on_fault(int s, siginfo_t *i, void *u)
{
    uintptr_t a = (uintptr_t)i->si_addr, p = (uintptr_t)page;

    printf("signal %d code %d at %s%ld\n", s, i->si_code, a - p < 8192 ? "page+" : "",
           a - p < 8192 ? (long)(a - p) : (long)(a < 65536 ? a : 0));
#if defined(__x86_64__)
    if (s == SIGFPE)
        printf("at the instruction: %d\n", a == (uintptr_t)((ucontext_t *)u)->uc_mcontext.gregs[REG_RIP]);
#endif
    fflush(stdout);
    if (mode == 1) {
        mprotect(page, 4096, PROT_READ | PROT_WRITE);
        return;
    }
    siglongjmp(jb, 1);
}
static int recurse(volatile char *p, int n)
{
    volatile char buf[1024];

    buf[0] = (char)n;
    return n > 1 << 30 ? *p : recurse(buf, n + 1) + buf[0];
}
int main(void)
{
    static char alt[65536];
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt};
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    volatile int zero = 0;
    volatile double d = 1;

    sigaltstack(&ss, NULL);
    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);
    sigaction(SIGFPE, &sa, NULL);
    sigaction(SIGILL, &sa, NULL);
    sigaction(SIGTRAP, &sa, NULL);
    page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!sigsetjmp(jb, 1))
        *(volatile int *)16 = 1;
    mprotect(page, 4096, PROT_READ);
    if (!sigsetjmp(jb, 1))
        page[100] = 1;
    mode = 1;
    page[200] = 42;
    printf("written %d\n", page[200]);
    mode = 0;
    munmap(page + 4096, 4096);
    if (!sigsetjmp(jb, 1))
        memset(page, 0, 4200);
#if defined(__x86_64__) || defined(__i386__)
    if (!sigsetjmp(jb, 1))
        printf("%d\n", 5 / zero);
    if (!sigsetjmp(jb, 1))
        __asm__ volatile("int3");
    if (!sigsetjmp(jb, 1))
        __asm__ volatile("hlt");
#endif
    if (!sigsetjmp(jb, 1))
        __builtin_trap();
    if (!sigsetjmp(jb, 1))
        ((void (*)(void))page)();
    for (uintptr_t low = 0xff0; low < 0x10000; low += 0x1008) /* objects at NULL, every page a program cannot have */
        if (!sigsetjmp(jb, 1))
            printf("%d\n", *(volatile char *)low);
    for (uintptr_t low = 0xfff0; low < 0x10000; low += 4)
        if (!sigsetjmp(jb, 1))
            printf("%d\n", *(volatile char *)low);
#if defined(__x86_64__)
    if (!sigsetjmp(jb, 1)) /* what the kernel has */
        printf("%d\n", *(volatile char *)0xffff800000f0f0f8);
#endif
    if (!sigsetjmp(jb, 1))
        recurse(NULL, 0);
    printf("end %g\n", d);
    return 0;
}
