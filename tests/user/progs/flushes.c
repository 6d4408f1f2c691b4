/* Signals, faults, stores beside code and unmapping, a thread each, while another makes more code than a translator
 * keeps: where each was hit must be known though the code it ran is thrown away at that moment. Prints what any
 * processor prints. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* x ^= x << 3; what takes the argument and what returns it. */
#if defined(__x86_64__)
static const uint8_t head[] = {0x89, 0xf8}, step[] = {0x89, 0xc1, 0xc1, 0xe1, 3, 0x31, 0xc8}, tail[] = {0xc3};
#elif defined(__i386__)
static const uint8_t head[] = {0x8b, 0x44, 0x24, 4}, step[] = {0x89, 0xc1, 0xc1, 0xe1, 3, 0x31, 0xc8}, tail[] = {0xc3};
#elif defined(__aarch64__)
static const uint32_t head[] = {0xd503201f}, step[] = {0x4a000c00}, tail[] = {0xd65f03c0};
#elif defined(__arm__)
static const uint32_t head[] = {0xe1a00000}, step[] = {0xe0200180}, tail[] = {0xe12fff1e};
#else
static const uint32_t head[] = {0x00000013}, step[] = {0x0035159b, 0x00b54533}, tail[] = {0x00008067};
#endif
enum { ROOM = 8 << 20, FN = 256, STEPS = 16, PAGE = 4096 };
typedef uint32_t (*fn)(uint32_t);

static _Atomic int stop;
static _Atomic unsigned signals, faults, wrong;
static volatile uint32_t *guarded;

static void on_usr1(int sig)
{
    signals++;
}

static void on_segv(int sig, siginfo_t *i, void *context)
{
    if (i->si_addr != (void *)guarded)
        _exit(9);
    faults++;
    mprotect((void *)guarded, PAGE, PROT_READ | PROT_WRITE);
}

static uint8_t *put_code(uint8_t *p)
{
    uint8_t *start = p;

    p = (uint8_t *)memcpy(p, head, sizeof head) + sizeof head;
    for (int i = 0; i < STEPS; i++)
        p = (uint8_t *)memcpy(p, step, sizeof step) + sizeof step;
    memcpy(p, tail, sizeof tail);
    return start;
}

static uint32_t model(uint32_t x)
{
    for (int i = 0; i < STEPS; i++)
        x ^= x << 3;
    return x;
}

static fn code_at(uint8_t *p)
{
    return (fn)(uintptr_t)p;
}

__attribute__((noinline)) static uint32_t mix(uint32_t a, uint32_t b)
{
    return (a ^ b) * 0x9e3779b1u + (a >> 7);
}

static uint32_t work(uint32_t seed)
{
    for (uint32_t i = 0; i < 3000; i++)
        seed = i & 4 ? mix(seed, i) : seed + i;
    return seed;
}

static void *is_signalled(void *arg)
{
    uint32_t want = work(7);

    while (!stop)
        wrong += work(7) != want;
    return NULL;
}

static void *is_faulted(void *arg)
{
    uint32_t sum = 0, want = 0;
    unsigned n = 0;

    for (; !stop || n < 10; n++) {
        guarded[0] = n;
        mprotect((void *)guarded, PAGE, PROT_NONE);
        sum = sum * 31 + guarded[0];
        want = want * 31 + n;
        wrong += sum != want;
    }
    wrong += faults != n;
    return NULL;
}

static void *stores_beside_code(void *arg)
{
    uint8_t *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    volatile uint32_t *data = (volatile uint32_t *)(p + 2048);
    uint32_t sum = 0, want = 0;

    put_code(p);
    __builtin___clear_cache((char *)p, (char *)p + PAGE);
    for (uint32_t n = 0; !stop || n < 10; n++) {
        sum += code_at(p)(n);
        want += model(n);
        data[n % 64] = n;
        wrong += sum != want || data[n % 64] != n;
    }
    return NULL;
}

/* As large as makes a translator look for code by its own tables. */
static void *unmaps(void *arg)
{
    while (!stop) {
        uint8_t *p = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        *p = 1;
        munmap(p, 2 << 20);
    }
    return NULL;
}

static void *sends(void *to)
{
    while (!stop) {
        pthread_kill(*(pthread_t *)to, SIGUSR1);
        usleep(200);
    }
    return NULL;
}

/* In the kernel all the while. */
static void *waits(void *from)
{
    char c = 0;

    wrong += read(*(int *)from, &c, 1) != 1 || c != 'x';
    return NULL;
}

int main(int argc, char **argv)
{
    struct sigaction usr1 = {.sa_handler = on_usr1, .sa_flags = SA_RESTART},
                     segv = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO};
    uint8_t *much = mmap(NULL, ROOM, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int passes = argc > 1 ? atoi(argv[1]) : 2;
    pthread_t t[6];
    int fd[2];

    guarded = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaction(SIGUSR1, &usr1, NULL);
    sigaction(SIGSEGV, &segv, NULL);
    for (size_t i = 0; i < ROOM; i += FN)
        put_code(much + i);
    __builtin___clear_cache((char *)much, (char *)much + ROOM);
    pthread_create(&t[0], NULL, is_signalled, NULL);
    pthread_create(&t[1], NULL, is_faulted, NULL);
    pthread_create(&t[2], NULL, stores_beside_code, NULL);
    pthread_create(&t[3], NULL, unmaps, NULL);
    pthread_create(&t[4], NULL, sends, &t[0]);
    wrong += pipe(fd) != 0;
    pthread_create(&t[5], NULL, waits, &fd[0]);
    while (passes--)
        for (uint32_t i = 0; i < ROOM; i += FN)
            wrong += code_at(much + i)(i + 1) != model(i + 1);
    while (signals < 10)
        usleep(1000);
    stop = 1;
    wrong += write(fd[1], "x", 1) != 1;
    for (int i = 5; i >= 0; i--)
        pthread_join(t[i], NULL);
    printf("wrong %u, joined\n", wrong);
    return 0;
}
