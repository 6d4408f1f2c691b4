/* smc [ROUNDS [FILE]]: code that changes. The same processor writes and runs (at every distance, through the same
 * address and through another mapping, a string instruction over its own successor, the far half of an instruction on
 * two pages), another processor writes, the kernel writes (read() into code, from FILE with O_DIRECT: that is DMA),
 * mappings change under the code (mprotect, munmap and mmap, copy on write after fork), and a great many functions are
 * made, run once and replaced.
 *
 * What x86 promises (Intel SDM 3A 9.1.3, AMD APM 2 7.6): a store to code through the address it runs at is seen by the
 * next instruction; through another address, or on another processor, after a serialising instruction. */
#define _GNU_SOURCE
#include "t.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 4 };
static uint8_t *rwx;           /* PAGES pages, all rights */
static uint8_t *alias_w;       /* a second view of alias_x, written */
static const uint8_t *alias_x; /* executed */
typedef uint32_t (*fn)(void);

static void serialise(void)
{
    uint32_t a = 0, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

/* mov eax, v; ret */
static void put_fn(uint8_t *p, uint32_t v)
{
    p[0] = 0xb8;
    memcpy(p + 1, &v, 4);
    p[5] = 0xc3;
}

static uint32_t call(const void *p)
{
    return ((fn)(uintptr_t)p)();
}

/* A whole function replaced, at every place around a page's end. */
static void rewritten(unsigned rounds)
{
    unsigned bad = 0, runs = 0;

    for (unsigned off = PAGE - 80; off < PAGE + 16; off++)
        for (uint32_t v = 0; v < rounds / 96 + 2; v++, runs++) {
            put_fn(rwx + off, v * 77 + off);
            bad += call(rwx + off) != v * 77 + off;
        }
    claim(!bad, "function rewritten at every place around a page's end", "%u of %u wrong", bad, runs);
}

/* One byte of the immediate changed, after the function has run several times. */
static void immediate_bytes(void)
{
    unsigned bad = 0, runs = 0;

    for (unsigned off = PAGE - 12; off < PAGE + 4; off++)
        for (unsigned k = 0; k < 4; k++) {
            uint32_t want = 0x11223344;

            put_fn(rwx + off, want);
            for (unsigned i = 0; i < 40; i++, runs++) {
                bad += call(rwx + off) != want;
                rwx[off + 1 + k] = (uint8_t)i;
                want = (want & ~(0xffu << (8 * k))) | i << (8 * k);
                bad += call(rwx + off) != want;
            }
        }
    claim(!bad, "one byte of an immediate changed", "%u of %u wrong", bad, runs);
}

/* A store to an instruction `dist` bytes further on in the same straight line:
 * mov byte [rip+..], dil; nop * dist; mov eax, imm32 (its lowest byte is the target); ret */
static void ahead(void)
{
    unsigned bad = 0, runs = 0;

    for (unsigned start = PAGE - 96; start <= PAGE; start += 16)
        for (unsigned dist = 0; dist < 80; dist++) {
            uint8_t *p = rwx + start, *q = p;
            int32_t rel = (int32_t)dist + 1;

            memcpy(q, "\x40\x88\x3d", 3);
            memcpy(q + 3, &rel, 4);
            memset(q + 7, 0x90, dist);
            put_fn(q + 7 + dist, 0x5500);
            for (unsigned i = 0; i < 4; i++, runs++) {
                uint32_t got = ((uint32_t(*)(uint32_t))(uintptr_t)p)(i * 3 + 1);

                bad += got != 0x5500 + i * 3 + 1;
            }
        }
    claim(!bad, "store to an instruction further on in the same block", "%u of %u wrong", bad, runs);
}

/* The same in a loop that alters its own body each time round: dec edi; mov [rip+imm], dil; add eax, imm8; test; jnz */
static void own_loop(void)
{
    static const uint8_t code[] = {0x31, 0xc0,                   /* xor eax,eax */
                                   0x40, 0x88, 0x3d, 2, 0, 0, 0, /* 1: mov [rip+2],dil */
                                   0x83, 0xc0, 0,                /* add eax, imm8 */
                                   0xff, 0xcf,                   /* dec edi */
                                   0x75, 0xf2,                   /* jnz 1b */
                                   0xc3};
    unsigned bad = 0;

    for (unsigned off = PAGE - 24; off < PAGE + 8; off++) {
        memcpy(rwx + off, code, sizeof code);
        bad += ((uint32_t(*)(uint32_t))(uintptr_t)(rwx + off))(100) != 5050;
    }
    claim(!bad, "loop that alters its own body each time", "%u of 32 wrong", bad);
}

/* rep movsb writes the instructions behind itself. */
static void string_ahead(void)
{
    unsigned bad = 0;

    for (unsigned off = PAGE - 40; off < PAGE + 8; off++) {
        uint8_t patch[8], *p = rwx + off;
        static const uint8_t head[] = {0xf3, 0xa4}; /* rep movsb */
        uint32_t out;

        for (unsigned n = 0; n < 6; n++) {
            put_fn(patch, 0x1000 + n);
            memcpy(p, head, 2);
            put_fn(p + 2, 0xdead);
            {
                void *d = p + 2, *s = patch;
                size_t c = 6;

                __asm__ volatile("call *%4" : "=a"(out), "+D"(d), "+S"(s), "+c"(c) : "r"(p) : "memory", "cc");
            }
            bad += out != 0x1000 + n;
        }
    }
    claim(!bad, "REP MOVSB over the instruction behind it", "%u of 288 wrong", bad);
}

static void through_alias(unsigned rounds)
{
    unsigned bad = 0;

    for (unsigned i = 0; i < rounds; i++) {
        unsigned off = (i * 37) % (2 * PAGE - 8);

        put_fn(alias_w + off, i);
        serialise();
        bad += call(alias_x + off) != i;
        alias_w[off + 1] ^= 0x80;
        serialise();
        bad += call(alias_x + off) != (i ^ 0x80);
    }
    claim(!bad, "written through another mapping", "%u of %u wrong", bad, rounds * 2);
}

/* ---- other processors ---- */

static atomic_uint turn;
static volatile bool quit;
static atomic_uint wrong_seen;
static uint8_t *shared_fn;
static const uint8_t *shared_x;

static void pin(unsigned who)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(who % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
    sched_setaffinity(0, sizeof set, &set);
}

/* Runs each version the writer announces. */
static void *runner(void *arg)
{
    pin(1);
    (void)arg;
    for (;;) {
        unsigned t;

        while (!((t = atomic_load(&turn)) & 1))
            if (quit)
                return NULL;
        serialise();
        if (call(shared_x) != t)
            atomic_fetch_add(&wrong_seen, 1);
        atomic_store(&turn, t + 1);
    }
}

static void cross_announced(const char *name, uint8_t *w, const uint8_t *x, unsigned rounds)
{
    pthread_t th;

    shared_fn = w;
    shared_x = x;
    atomic_store(&turn, 0);
    atomic_store(&wrong_seen, 0);
    quit = false;
    t_must(!pthread_create(&th, NULL, runner, NULL));
    pin(0);
    for (unsigned i = 0; i < rounds; i++) {
        unsigned t = 2 * i + 1;

        put_fn(w, t);
        atomic_store(&turn, t);
        for (unsigned n = 0; atomic_load(&turn) == t; n++)
            if (n > 1000)
                sched_yield();
    }
    quit = true;
    pthread_join(th, NULL);
    claim(!atomic_load(&wrong_seen), name, "%u of %u wrong", atomic_load(&wrong_seen), rounds);
}

/* Runs all the time, unannounced: each value must be one that was written, never older than one seen before, and the
 * last must come in time. */
static void *runner_free(void *arg)
{
    uint32_t last = 0;

    pin(1);
    (void)arg;
    while (!quit) {
        uint32_t v = call(shared_x);

        if (v < last)
            atomic_fetch_add(&wrong_seen, 1);
        last = v;
        atomic_store(&turn, v);
    }
    return NULL;
}

static void cross_free(unsigned rounds)
{
    pthread_t th;
    bool late = false;
    /* the immediate on a 4-byte boundary: one store, one change */
    uint8_t *p = rwx + 0x403;

    put_fn(p, 0);
    shared_fn = p;
    shared_x = p;
    atomic_store(&turn, 0);
    atomic_store(&wrong_seen, 0);
    quit = false;
    t_must(!pthread_create(&th, NULL, runner_free, NULL));
    pin(0);
    for (uint32_t i = 1; i <= rounds; i++) {
        __atomic_store_n((uint32_t *)(void *)(p + 1), i, __ATOMIC_SEQ_CST);
        if (i % 64 == 0)
            for (unsigned n = 0; atomic_load(&turn) != i; n++) {
                if (n > 100)
                    usleep(100);
                if (n > 50000) {
                    late = true;
                    break;
                }
            }
        if (late)
            break;
    }
    quit = true;
    pthread_join(th, NULL);
    claim(!late && !atomic_load(&wrong_seen), "another processor changes running code", "%u values went back, %s",
          atomic_load(&wrong_seen), late ? "the newest never came" : "the newest always came");
}

/* A loop of stores into a page that becomes code meanwhile: another processor starts to run there. The last store must
 * be seen. */
static void *storer(void *arg)
{
    (void)arg;
    pin(1);
    while (!quit) {
        unsigned t = atomic_load(&turn);
        uint32_t v = t, end = t + 20000;

        if (!(t & 1))
            continue;
        __asm__ volatile("1: movl %0, (%1)\n addl $1, %0\n cmpl %2, %0\n jne 1b\n"
                         : "+r"(v)
                         : "r"(shared_fn + 1), "r"(end)
                         : "memory", "cc");
        atomic_store(&turn, t + 1);
    }
    return NULL;
}

static void cross_loop(unsigned rounds)
{
    unsigned bad = 0;
    pthread_t th;

    atomic_store(&turn, 0);
    quit = false;
    t_must(!pthread_create(&th, NULL, storer, NULL));
    pin(0);
    for (unsigned i = 0; i < rounds; i++) {
        uint8_t *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        unsigned t = 2 * i + 1;

        t_must(p != MAP_FAILED);
        put_fn(p + 3, 0); /* its immediate is aligned */
        shared_fn = p + 3;
        atomic_store(&turn, t);
        for (volatile unsigned n = 0; n < 1000 + 50 * i; n++)
            ;
        for (unsigned n = 0; atomic_load(&turn) == t; n++) {
            call(p + 3);
            if (n > 1000)
                sched_yield();
        }
        serialise();
        bad += call(p + 3) != t + 19999;
        munmap(p, PAGE);
    }
    quit = true;
    pthread_join(th, NULL);
    claim(!bad, "a page becomes code while another processor's loop writes it", "%u of %u wrong", bad, rounds);
}

/* Two processors write and run functions of their own on the same page, side by side. */
static void *neighbour(void *arg)
{
    unsigned who = (unsigned)(uintptr_t)arg, bad = 0;
    uint8_t *p = rwx + 0x800 + who * 24;

    pin(who);
    for (unsigned i = 0; i < 4000; i++) {
        put_fn(p, i * 4 + who);
        bad += call(p) != i * 4 + who;
    }
    atomic_fetch_add(&wrong_seen, bad);
    return NULL;
}

static void neighbours(void)
{
    pthread_t th[4];

    atomic_store(&wrong_seen, 0);
    for (uintptr_t i = 0; i < 4; i++)
        t_must(!pthread_create(&th[i], NULL, neighbour, (void *)i));
    for (int i = 0; i < 4; i++)
        pthread_join(th[i], NULL);
    claim(!atomic_load(&wrong_seen), "four threads write and run on one page", "%u of 16000 wrong",
          atomic_load(&wrong_seen));
}

/* ---- mappings ---- */

static void remapped(unsigned rounds)
{
    unsigned bad = 0;
    int fd[2];

    for (int k = 0; k < 2; k++) {
        uint8_t b[16];

        fd[k] = memfd_create("code", 0);
        put_fn(b, 100 + (unsigned)k);
        t_must(fd[k] >= 0 && ftruncate(fd[k], PAGE) == 0 && pwrite(fd[k], b, 6, 0) == 6);
    }
    {
        uint8_t *p = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd[0], 0);

        t_must(p != MAP_FAILED);
        for (unsigned i = 0; i < rounds; i++) {
            bad += call(p) != 100 + (i & 1);
            t_must(mmap(p, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd[~i & 1], 0) == p);
        }
        munmap(p, PAGE);
    }
    close(fd[0]);
    close(fd[1]);
    claim(!bad, "another file mapped over running code", "%u of %u wrong", bad, rounds);
}

static void write_then_execute(unsigned rounds)
{
    unsigned bad = 0;
    uint8_t *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    t_must(p != MAP_FAILED);
    for (unsigned i = 0; i < rounds; i++) {
        put_fn(p + i % 64, i);
        t_must(mprotect(p, PAGE, PROT_READ | PROT_EXEC) == 0);
        bad += call(p + i % 64) != i;
        t_must(mprotect(p, PAGE, PROT_READ | PROT_WRITE) == 0);
    }
    munmap(p, PAGE);
    claim(!bad, "written, made executable, run, made writable", "%u of %u wrong", bad, rounds);
}

static void after_fork(void)
{
    unsigned bad = 0;

    for (unsigned i = 0; i < 40; i++) {
        uint8_t *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        pid_t kid;
        int status;

        t_must(p != MAP_FAILED);
        put_fn(p, 1000 + i);
        bad += call(p) != 1000 + i;
        kid = fork();
        t_must(kid >= 0);
        if (!kid) {
            bool ok = call(p) == 1000 + i;

            put_fn(p, 2000 + i);
            _exit(!(ok && call(p) == 2000 + i));
        }
        if (i & 1)
            put_fn(p, 3000 + i);
        bad += call(p) != (i & 1 ? 3000 : 1000) + i;
        t_must(waitpid(kid, &status, 0) == kid);
        bad += status != 0;
        bad += call(p) != (i & 1 ? 3000 : 1000) + i;
        munmap(p, PAGE);
    }
    claim(!bad, "code copied on write after fork", "%u of 40 wrong", bad);
}

static sigjmp_buf back;
static void on_segv(int sig)
{
    (void)sig;
    siglongjmp(back, 1);
}

static void rights_taken(void)
{
    volatile unsigned bad = 0;

    signal(SIGSEGV, on_segv);
    for (volatile unsigned i = 0; i < 200; i++) {
        volatile bool ran = false;

        t_must(mprotect(rwx, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
        put_fn(rwx, i);
        bad += call(rwx) != i;
        t_must(mprotect(rwx, PAGE, i & 1 ? PROT_READ : PROT_NONE) == 0);
        if (sigsetjmp(back, 1) == 0) {
            call(rwx);
            ran = true;
        }
        bad += ran;
    }
    t_must(mprotect(rwx, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
    signal(SIGSEGV, SIG_DFL);
    claim(!bad, "code whose right to run was taken away", "%u of 200 wrong", bad);
}

/* ---- the kernel writes ---- */

static void from_pipe(unsigned rounds)
{
    unsigned bad = 0;
    int fd[2];

    t_must(pipe(fd) == 0);
    for (unsigned i = 0; i < rounds; i++) {
        uint8_t b[6];

        put_fn(b, i);
        t_must(write(fd[1], b, 6) == 6 && read(fd[0], rwx + PAGE - 3, 6) == 6);
        bad += call(rwx + PAGE - 3) != i;
    }
    close(fd[0]);
    close(fd[1]);
    claim(!bad, "read() into code", "%u of %u wrong", bad, rounds);
}

/* Two blocks of the file hold different functions; they are read into the same page by turns. */
static void from_disk(const char *path)
{
    int fd = open(path, O_RDWR | O_DIRECT);
    uint8_t *b = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned bad = 0;

    if (fd < 0) {
        printf("     %s: %s: no DMA into code tried\n", path, strerror(errno));
        return;
    }
    for (unsigned i = 0; i < PAGE * 2 - 8; i += 8)
        put_fn(b + i, 7000 + i / PAGE);
    t_must(pwrite(fd, b, 2 * PAGE, 0) == 2 * PAGE);
    for (unsigned i = 0; i < 400; i++) {
        unsigned off = i * 8 % (PAGE - 8) & ~7u;

        t_must(pread(fd, rwx + PAGE, PAGE, (off_t)(i & 1) * PAGE) == PAGE);
        bad += call(rwx + PAGE + off) != 7000 + (i & 1);
    }
    close(fd);
    claim(!bad, "DMA into code", "%u of 400 wrong", bad);
}

/* ---- many ---- */

/* A run of random arithmetic on eax, and what it comes to. */
static uint32_t random_fn(uint64_t *s, uint8_t *p)
{
    uint32_t v = (uint32_t)t_rnd(s);
    unsigned n = (unsigned)(t_rnd(s) % 12);

    *p++ = 0xb8;
    memcpy(p, &v, 4);
    p += 4;
    while (n--) {
        uint32_t k = (uint32_t)t_rnd(s);

        switch (t_rnd(s) % 5) {
        case 0: /* add eax, k */
            *p++ = 0x05;
            v += k;
            break;
        case 1:
            *p++ = 0x35; /* xor */
            v ^= k;
            break;
        case 2:
            *p++ = 0x2d; /* sub */
            v -= k;
            break;
        case 3:
            *p++ = 0x0d; /* or */
            v |= k;
            break;
        default: /* jump over some bytes that are no code */
            *p++ = 0xeb;
            *p++ = 3;
            memcpy(p, "\x0f\x0b\xf4", 3);
            p += 3;
            continue;
        }
        memcpy(p, &k, 4);
        p += 4;
    }
    *p = 0xc3;
    return v;
}

static void many(unsigned rounds)
{
    enum { SIZE = 1 << 20, STEP = 80 };
    uint8_t *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned bad = 0;
    uint64_t s = 9;

    t_must(p != MAP_FAILED);
    for (unsigned i = 0; i < rounds; i++) {
        uint8_t *at = p + (t_rnd(&s) % ((SIZE - STEP) / STEP)) * STEP;
        uint32_t want = random_fn(&s, at);

        for (unsigned k = 0; k < 1 + (i & 3); k++)
            bad += call(at) != want;
    }
    munmap(p, SIZE);
    claim(!bad, "functions made, run and replaced", "%u wrong in %u", bad, rounds);
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 2000;
    int fd = memfd_create("alias", 0);

    rwx = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    t_must(rwx != MAP_FAILED && fd >= 0 && ftruncate(fd, 2 * PAGE) == 0);
    alias_w = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    alias_x = mmap(NULL, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    t_must(alias_w != MAP_FAILED && alias_x != MAP_FAILED);
    rewritten(rounds);
    immediate_bytes();
    ahead();
    own_loop();
    string_ahead();
    through_alias(rounds);
    cross_announced("another processor writes, announces", rwx + PAGE - 3, rwx + PAGE - 3, rounds);
    cross_announced("another processor writes through another mapping, announces", alias_w + PAGE - 2,
                    alias_x + PAGE - 2, rounds);
    cross_free(rounds);
    cross_loop(rounds / 8 + 4);
    neighbours();
    remapped(rounds / 4 + 4);
    write_then_execute(rounds / 4 + 4);
    after_fork();
    rights_taken();
    from_pipe(rounds / 4 + 4);
    if (argc > 2)
        from_disk(argv[2]);
    many(rounds * 10);
    return t_end();
}
