/* Calls that nest far deeper than a translator can keep return addresses for: plain, by pointer, with a signal every
 * millisecond, in a thread, and frames that are left by longjmp and never returned from. Prints what any correct
 * machine prints. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/time.h>

static volatile unsigned ticks;
static jmp_buf away;
static volatile unsigned left;

static void on_tick(int sig)
{
    ticks++;
}

__attribute__((noinline)) static uint32_t plain(uint32_t n)
{
    uint32_t r = n ? plain(n - 1) * 3 + n : 1;

    __asm__ volatile("" : "+r"(r));
    return r;
}

static uint32_t by_pointer(uint32_t n);
static uint32_t (*volatile next)(uint32_t) = by_pointer;

__attribute__((noinline)) static uint32_t by_pointer(uint32_t n)
{
    uint32_t r = n ? next(n - 1) * 5 + n : 1;

    __asm__ volatile("" : "+r"(r));
    return r;
}

/* Never returned from: each round leaves the marks of its depth behind. */
__attribute__((noinline)) static uint32_t leave(uint32_t n)
{
    uint32_t r = 0;

    if (!n)
        longjmp(away, 1);
    r = leave(n - 1) + 1;
    __asm__ volatile("" : "+r"(r));
    return r;
}

static void *in_thread(void *arg)
{
    uint32_t *sum = arg;

    *sum = plain(40000) + by_pointer(40000);
    return NULL;
}

int main(void)
{
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    pthread_attr_t attr;
    pthread_t th;
    uint32_t sum = 0;

    for (uint32_t n = 1000; n <= 60000; n += 3937) /* over the edge by every possible rest */
        printf("plain %u: %u, by pointer %u\n", n, plain(n), by_pointer(n));
    setitimer(ITIMER_REAL, (signal(SIGALRM, on_tick), &often), NULL);
    for (unsigned i = 0; i < 40; i++)
        sum = sum * 7 + plain(50000 + i);
    for (unsigned i = 0; i < 20000; i++)
        if (!setjmp(away))
            leave(i % 13);
        else
            left++;
    sum += plain(100);
    setitimer(ITIMER_REAL, &never, NULL);
    printf("with signals: %u, left %u\n", sum, left);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 16u << 20);
    pthread_create(&th, &attr, in_thread, &sum);
    pthread_join(th, NULL);
    printf("thread: %u\n", sum);
    return 0;
}
