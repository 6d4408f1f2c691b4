/* Loops without a jump back, only calls: a signal must come through all the same. The handler says how often it came
 * and, at the end, leaves by siglongjmp. */
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#ifdef __thumb__
#define SET(r) "add " r ", " r ", #1\n" /* stays in T32 */
#else
#define SET(r)
#endif

static sigjmp_buf out;
static volatile int came;

static void on_alarm(int sig)
{
    (void)sig;
    if (came < 5 && ++came == 5) /* one more may come before the timer stops */
        siglongjmp(out, 1);
}

static void call_direct(void)
{
#if defined __aarch64__
    __asm__ volatile("1: bl 1b" ::: "x30");
#elif defined __arm__
    __asm__ volatile("1: bl 1b" ::: "lr");
#elif defined __riscv
    __asm__ volatile("1: jal ra, 1b" ::: "ra");
#endif
}

static void call_indirect(void)
{
#if defined __aarch64__
    __asm__ volatile("adr x1, 1f\n1: blr x1" ::: "x1", "x30");
#elif defined __arm__
    __asm__ volatile("adr r1, 1f\n" SET("r1") ".balign 4\n1: blx r1" ::: "r1", "lr");
#elif defined __riscv
    __asm__ volatile("la a1, 1f\n1: jalr ra, 0(a1)" ::: "a1", "ra");
#endif
}

/* The link register is the target, too. */
static void call_link(void)
{
#if defined __aarch64__
    __asm__ volatile("1: adr x30, 1b\nblr x30" ::: "x30");
#elif defined __arm__
    __asm__ volatile(".balign 4\n1: adr lr, 1b\n" SET("lr") "blx lr" ::: "lr");
#elif defined __riscv
    __asm__ volatile("1: auipc ra, 0\njalr ra, 0(ra)" ::: "ra");
#endif
}

/* Deep enough to fill the shadow stack some times, with returns to all of it. */
static unsigned long __attribute__((noinline)) deep(unsigned long n)
{
    volatile unsigned long k = n;

    return n ? deep(k - 1) * 3 + k : 1;
}

int main(void)
{
    static void (*const ways[])(void) = {call_direct, call_indirect, call_link};
    struct sigaction a;
    struct itimerval every = {{0, 3000}, {0, 3000}}, never = {{0, 0}, {0, 0}};

    memset(&a, 0, sizeof a);
    a.sa_handler = on_alarm;
    sigaction(SIGALRM, &a, NULL);
    for (volatile unsigned i = 0; i < 3; i++) {
        came = 0;
        setitimer(ITIMER_REAL, &every, NULL);
        if (!sigsetjmp(out, 1))
            ways[i]();
        setitimer(ITIMER_REAL, &never, NULL);
        printf("way %u: out after %d\n", i, came);
    }
    printf("deep: %lx\n", deep(60000) & 0xffffffff);
    return 0;
}
