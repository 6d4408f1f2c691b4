/* Signals that arrive anywhere: in loops of two instructions, string instructions, PUSHF and POPF, indirect calls and
 * recursion; each computes what it does without them, and no pushed flags show a trap flag. With an
 * argument: a thread that spins while another makes more code than a translator keeps. Prints sums that any x86 prints.
 */
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile unsigned ticks;

static void on_tick(int sig)
{
    ticks++;
}

static uint64_t tight(uint64_t n)
{
    uint32_t sum = 0, i = (uint32_t)n;

    __asm__ volatile("1: add %1, %0\n dec %1\n jnz 1b" : "+r"(sum), "+r"(i));
    return sum;
}

static uint64_t flags(uint64_t n)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n; i++) {
        uintptr_t f;

        __asm__ volatile("cmp %1, %2\n pushf\n pop %0\n" : "=r"(f) : "r"((uintptr_t)i & 3), "r"((uintptr_t)2));
        sum = sum * 31 + (f & 0xdc5);
        __asm__ volatile("push %1\n popf\n pushf\n pop %0" : "=r"(f) : "r"((uintptr_t)0x202 | (i & 1)));
        sum = sum * 31 + (f & 0xdc5);
    }
    return sum;
}

static uint64_t strings(uint64_t n)
{
    static uint8_t a[70000], b[70000];
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n; i++) {
        void *d = b, *s = a;
        uintptr_t c = sizeof a;

        a[i % sizeof a] = (uint8_t)i;
        __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(c)::"memory");
        sum = sum * 31 + b[i % sizeof b] + (uintptr_t)((uint8_t *)d - b);
    }
    return sum;
}

static uint64_t f0(uint64_t x)
{
    return x * 3 + 1;
}
static uint64_t f1(uint64_t x)
{
    return x ^ x >> 7;
}
static uint64_t fib(uint64_t n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}
static uint64_t calls(uint64_t n)
{
    static uint64_t (*volatile f[])(uint64_t) = {f0, f1};
    uint64_t x = 1;

    for (uint64_t i = 0; i < n; i++)
        x = f[x & 1](x);
    return x + fib(n % 20 + 10);
}

static const struct {
    const char *name;
    uint64_t (*run)(uint64_t);
    uint64_t n;
} work[] = {{"tight", tight, 2000000}, {"flags", flags, 20000}, {"strings", strings, 300}, {"calls", calls, 50000}};

static void storm(unsigned w)
{
    uint64_t want = work[w].run(work[w].n), wrong = 0;
    unsigned until = ticks + 300, runs;

    for (runs = 0; ticks < until && runs < 100000; runs++)
        wrong += work[w].run(work[w].n) != want;
    printf("%s %llx, wrong %llu, %s\n", work[w].name, (unsigned long long)want, (unsigned long long)wrong,
           ticks >= until ? "all ticks" : "ticks lost");
}

static volatile uint32_t stop;

static void *spin(void *arg)
{
    __asm__ volatile("1: cmpl $0, %0\n je 1b" ::"m"(stop));
    return NULL;
}

/* PUSH and POP of a register in turn, which take a translator eight times their room, and a RET each 128 bytes. */
static void much_code(void)
{
    enum { ROOM = 20 << 20, FN = 128 };
    uint8_t *p = mmap(NULL, ROOM, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    for (size_t i = 0; i < ROOM; i++)
        p[i] = i % FN >= FN - 2 ? 0xc3 : i & 1 ? 0x58 : 0x50;
    for (size_t i = 0; i < ROOM; i += FN)
        ((void (*)(void))(p + i))();
}

int main(int argc, char **argv)
{
    struct itimerval every = {{0, 700}, {0, 700}}, off = {{0, 0}, {0, 0}};
    struct sigaction sa = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    pthread_t t;

    if (argc > 1) {
        pthread_create(&t, NULL, spin, NULL);
        much_code();
        stop = 1;
        pthread_join(t, NULL);
        puts("joined");
        return 0;
    }
    sigaction(SIGALRM, &sa, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    for (unsigned w = 0; w < sizeof work / sizeof *work; w++)
        storm(w);
    setitimer(ITIMER_REAL, &off, NULL);
    return 0;
}
