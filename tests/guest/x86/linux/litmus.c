/* litmus [ROUNDS [page]]: what x86 promises to several processors, tried out: two to four threads, each on a processor
 * of its own, run a few memory accesses at the same time, over and over at fresh places; an outcome that the memory
 * model forbids must never be seen. Then atomicity: locked operations of every kind and alignment from all threads,
 * whose sum must come out.
 *
 * The model is the total store order of the manuals (Intel SDM 3A 9.2, AMD APM 2 7.2): stores are seen in order, loads
 * are done in order, only a later load may pass an earlier store, all agree on the order of stores. */
#define _GNU_SOURCE
#include "t.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_T = 4, CELLS = 512, LINE = 64 };

/* One place per round of a batch: variables on lines of their own, results of each thread. */
struct cell {
    _Alignas(LINE) volatile uint64_t x;
    _Alignas(LINE) volatile uint64_t y;
    _Alignas(LINE) volatile uint64_t z;
    _Alignas(LINE) uint8_t block[LINE];
    _Alignas(LINE) uint64_t r[MAX_T][2];
};

struct test {
    const char *name;
    int threads;
    void (*run)(struct cell *c, int who);
    bool (*bad)(const struct cell *c); /* forbidden */
};

#define ST(v, n) __asm__ volatile("movq %1, %0" : "=m"(v) : "r"((uint64_t)(n)) : "memory")
#define LD(r, v) __asm__ volatile("movq %1, %0" : "=r"(r) : "m"(v) : "memory")
#define MFENCE() __asm__ volatile("mfence" : : : "memory")
#define XCHG(v, n)                                                                                                     \
    do {                                                                                                               \
        uint64_t n_ = (n);                                                                                             \
        __asm__ volatile("xchgq %0, %1" : "+m"(v), "+r"(n_) : : "memory");                                             \
    } while (0)
#define LOCKED() __asm__ volatile("lock orq $0, (%%rsp)" : : : "memory", "cc")

static void sb_fence(struct cell *c, int who)
{
    if (!who) {
        ST(c->x, 1);
        MFENCE();
        LD(c->r[0][0], c->y);
    } else {
        ST(c->y, 1);
        MFENCE();
        LD(c->r[1][0], c->x);
    }
}
static void sb_xchg(struct cell *c, int who)
{
    if (!who) {
        XCHG(c->x, 1);
        LD(c->r[0][0], c->y);
    } else {
        XCHG(c->y, 1);
        LD(c->r[1][0], c->x);
    }
}
static void sb_lock(struct cell *c, int who)
{
    if (!who) {
        ST(c->x, 1);
        LOCKED();
        LD(c->r[0][0], c->y);
    } else {
        ST(c->y, 1);
        LOCKED();
        LD(c->r[1][0], c->x);
    }
}
static void sb_plain(struct cell *c, int who)
{
    if (!who) {
        ST(c->x, 1);
        LD(c->r[0][0], c->y);
    } else {
        ST(c->y, 1);
        LD(c->r[1][0], c->x);
    }
}
static bool both_zero(const struct cell *c)
{
    return !c->r[0][0] && !c->r[1][0];
}

static void mp(struct cell *c, int who)
{
    if (!who) {
        ST(c->x, 1);
        ST(c->y, 1);
    } else {
        LD(c->r[1][0], c->y);
        LD(c->r[1][1], c->x);
    }
}
static bool flag_without_data(const struct cell *c)
{
    return c->r[1][0] && !c->r[1][1];
}

/* The data goes out by a string instruction, which must be over when the next store is seen. */
static void mp_string(struct cell *c, int who)
{
    if (!who) {
        void *d = c->block;
        size_t n = LINE;

        __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(1) : "memory");
        ST(c->y, 1);
    } else {
        uint8_t last;

        LD(c->r[1][0], c->y);
        __asm__ volatile("movb %1, %0" : "=q"(last) : "m"(c->block[LINE - 1]) : "memory");
        c->r[1][1] = last;
    }
}

/* The same with the flag read by a locked operation and the data by a 16-byte load. */
static void mp_wide(struct cell *c, int who)
{
    if (!who) {
        __asm__ volatile("movq %1, %%xmm0; movdqa %%xmm0, %0" : "=m"(c->block) : "r"(1L) : "memory", "xmm0");
        XCHG(c->y, 1);
    } else {
        uint64_t f = 0, v;

        __asm__ volatile("lock xaddq %0, %1" : "+r"(f), "+m"(c->y) : : "memory", "cc");
        __asm__ volatile("movdqa %1, %%xmm0; movq %%xmm0, %0" : "=r"(v) : "m"(c->block) : "memory", "xmm0");
        c->r[1][0] = f;
        c->r[1][1] = v;
    }
}

static void lb(struct cell *c, int who)
{
    if (!who) {
        LD(c->r[0][0], c->x);
        ST(c->y, 1);
    } else {
        LD(c->r[1][0], c->y);
        ST(c->x, 1);
    }
}
static bool both_one(const struct cell *c)
{
    return c->r[0][0] && c->r[1][0];
}

static void two_writes(struct cell *c, int who)
{
    if (!who) {
        ST(c->x, 1);
        ST(c->y, 2);
    } else {
        ST(c->y, 1);
        ST(c->x, 2);
    }
}
static bool firsts_last(const struct cell *c)
{
    return c->x == 1 && c->y == 1;
}

static void coherence(struct cell *c, int who)
{
    if (!who) {
        ST(c->x, 1);
    } else {
        LD(c->r[1][0], c->x);
        LD(c->r[1][1], c->x);
    }
}
static bool new_then_old(const struct cell *c)
{
    return c->r[1][0] && !c->r[1][1];
}

static void iriw(struct cell *c, int who)
{
    switch (who) {
    case 0:
        ST(c->x, 1);
        break;
    case 1:
        ST(c->y, 1);
        break;
    case 2:
        LD(c->r[2][0], c->x);
        LD(c->r[2][1], c->y);
        break;
    default:
        LD(c->r[3][0], c->y);
        LD(c->r[3][1], c->x);
    }
}
static bool disagree(const struct cell *c)
{
    return c->r[2][0] && !c->r[2][1] && c->r[3][0] && !c->r[3][1];
}

/* Write to read causality. */
static void wrc(struct cell *c, int who)
{
    if (who == 0) {
        ST(c->x, 1);
    } else if (who == 1) {
        LD(c->r[1][0], c->x);
        ST(c->y, c->r[1][0]);
    } else {
        LD(c->r[2][0], c->y);
        LD(c->r[2][1], c->x);
    }
}
static bool effect_without_cause(const struct cell *c)
{
    return c->r[2][0] && !c->r[2][1];
}

static const struct test tests[] = {{"store buffering, MFENCE", 2, sb_fence, both_zero},
                                    {"store buffering, XCHG", 2, sb_xchg, both_zero},
                                    {"store buffering, LOCK OR", 2, sb_lock, both_zero},
                                    {"message passing", 2, mp, flag_without_data},
                                    {"message passing, REP STOSB", 2, mp_string, flag_without_data},
                                    {"message passing, MOVDQA and XADD", 2, mp_wide, flag_without_data},
                                    {"load buffering", 2, lb, both_one},
                                    {"two writes each", 2, two_writes, firsts_last},
                                    {"coherence of reads", 2, coherence, new_then_old},
                                    {"causality", 3, wrc, effect_without_cause},
                                    {"independent reads of independent writes", 4, iriw, disagree},
                                    {"store buffering without a fence (allowed)", 2, sb_plain, NULL}};

/* ---- the frame ---- */

static struct cell *cells;
static const struct test *volatile current;
static atomic_uint arrived, round_nr;
static volatile bool stop;
static int nr_threads;
static unsigned nr_cpus;
static unsigned gap; /* idle loops between two rounds, different for each thread: the race must meet */

static void barrier(unsigned *seen)
{
    unsigned want = *seen + 1;

    *seen = want;
    if (atomic_fetch_add(&arrived, 1) + 1 == (unsigned)nr_threads) {
        atomic_store(&arrived, 0);
        atomic_store(&round_nr, want);
    } else {
        for (unsigned n = 0; atomic_load(&round_nr) != want; n++)
            if (n > 500)
                sched_yield();
    }
}

static void pin(int who)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((unsigned)who % nr_cpus, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static atomic_uint pace[CELLS]; /* threads that have come to the cell */

static void *racer(void *arg)
{
    int who = (int)(intptr_t)arg;
    unsigned seen = 0;

    pin(who);
    for (;;) {
        barrier(&seen);
        if (stop)
            return NULL;
        for (int i = 0; i < CELLS; i++) {
            const struct test *t = current;

            if (who < t->threads) {
                atomic_fetch_add(&pace[i], 1);
                for (unsigned n = 0; (int)atomic_load(&pace[i]) < t->threads && n < 200; n++)
                    __asm__ volatile("pause");
                for (volatile unsigned n = (gap >> (who * 3)) & 7; n; n--)
                    ;
                t->run(&cells[i], who);
            }
        }
        barrier(&seen);
    }
}

static void run_litmus(unsigned batches)
{
    pthread_t th[MAX_T];
    unsigned seen = 0;
    uint64_t s = 1;

    nr_threads = MAX_T + 1;
    for (int i = 0; i < MAX_T; i++)
        t_must(!pthread_create(&th[i], NULL, racer, (void *)(intptr_t)i));
    for (unsigned k = 0; k < sizeof tests / sizeof *tests; k++) {
        unsigned bad = 0, differ = 0;

        current = &tests[k];
        for (unsigned b = 0; b < batches; b++) {
            memset(cells, 0, CELLS * sizeof *cells);
            for (int i = 0; i < CELLS; i++)
                atomic_store(&pace[i], 0);
            gap = (unsigned)t_rnd(&s);
            barrier(&seen);
            barrier(&seen);
            for (int i = 0; i < CELLS; i++) {
                bad += tests[k].bad && tests[k].bad(&cells[i]);
                differ += memcmp(cells[i].r, cells[0].r, sizeof cells[i].r) != 0;
            }
        }
        claim(!bad, tests[k].name, "%u forbidden outcomes in %u rounds", bad, batches * CELLS);
        printf("     (%u rounds unlike the first of their batch)\n", differ);
    }
    stop = true;
    barrier(&seen);
    for (int i = 0; i < MAX_T; i++)
        pthread_join(th[i], NULL);
}

/* ---- sums ---- */

struct sum {
    uint8_t *at; /* shared operand */
    unsigned kind, count;
    int who;
    uint64_t lost; /* things that must not be seen */
};
enum {
    INC64,
    ADD32,
    XADD16,
    INC8_LANES,
    SUB64,
    CX8,
    CX16,
    CAS64,
    BITS,
    XOR64,
    XCHG_LOCK,
    ADC64,
    TEAR8,
    TEAR16,
    NR_KINDS
};
static const char *const kind_name[] = {"LOCK INC, 8 bytes",
                                        "LOCK ADD, 4 bytes",
                                        "LOCK XADD, 2 bytes",
                                        "LOCK INC, a byte each beside the others",
                                        "LOCK SUB, 8 bytes",
                                        "LOCK CMPXCHG8B",
                                        "LOCK CMPXCHG16B",
                                        "LOCK CMPXCHG, 8 bytes",
                                        "LOCK BTS, BTR and BTC",
                                        "LOCK XOR, 8 bytes",
                                        "XCHG as a lock",
                                        "LOCK ADC, 8 bytes",
                                        "aligned 8 bytes are whole",
                                        "aligned 16 bytes are whole"};

static bool cas16(uint64_t *p, uint64_t old[2], uint64_t lo, uint64_t hi)
{
    bool ok;

    __asm__ volatile("lock cmpxchg16b %1; sete %0"
                     : "=q"(ok), "+m"(*(__int128 *)(void *)p), "+a"(old[0]), "+d"(old[1])
                     : "b"(lo), "c"(hi)
                     : "memory", "cc");
    return ok;
}

static void one_op(struct sum *s, unsigned i)
{
    uint8_t *p = s->at;
    uint64_t v, old[2];
    uint32_t a, d;
    bool ok;

    switch (s->kind) {
    case INC64:
        __asm__ volatile("lock incq (%0)" : : "r"(p) : "memory", "cc");
        break;
    case ADD32:
        __asm__ volatile("lock addl $1, (%0)" : : "r"(p) : "memory", "cc");
        break;
    case XADD16:
        v = 1;
        __asm__ volatile("lock xaddw %w0, (%1)" : "+r"(v) : "r"(p) : "memory", "cc");
        break;
    case INC8_LANES:
        __asm__ volatile("lock incb (%0)" : : "r"(p + s->who) : "memory", "cc");
        break;
    case SUB64:
        __asm__ volatile("lock subq $-1, (%0)" : : "r"(p) : "memory", "cc");
        break;
    case ADC64:
        __asm__ volatile("stc; lock adcq $0, (%0)" : : "r"(p) : "memory", "cc");
        break;
    case CX8:
        do {
            memcpy(&v, p, 8);
            a = (uint32_t)v;
            d = (uint32_t)(v >> 32);
            __asm__ volatile("lock cmpxchg8b (%3); sete %0"
                             : "=q"(ok), "+a"(a), "+d"(d)
                             : "r"(p), "b"((uint32_t)(v + 1)), "c"((uint32_t)((v + 1) >> 32))
                             : "memory", "cc");
        } while (!ok);
        break;
    case CX16:
        old[0] = old[1] = 0;
        while (!cas16((uint64_t *)(void *)p, old, old[0] + 1, ~(old[0] + 1)))
            ;
        s->lost += old[1] != (old[0] ? ~old[0] : old[1]);
        break;
    case CAS64:
        v = *(volatile uint64_t *)(void *)p;
        for (;;) {
            uint64_t was = v;

            __asm__ volatile("lock cmpxchgq %2, (%1)" : "+a"(v) : "r"(p), "r"(was + 1) : "memory", "cc");
            if (v == was)
                break;
        }
        break;
    case BITS: {
        uint64_t bit = (unsigned)s->who * 13 + 3;

        if (i % 3 == 0)
            __asm__ volatile("lock btsq %2, (%1); setc %0" : "=q"(ok) : "r"(p), "r"(bit) : "memory", "cc");
        else if (i % 3 == 1)
            __asm__ volatile("lock btrq %2, (%1); setnc %0" : "=q"(ok) : "r"(p), "r"(bit) : "memory", "cc");
        else
            __asm__ volatile("lock btcq %2, (%1); setc %0; lock btcq %2, (%1)"
                             : "=q"(ok)
                             : "r"(p), "r"(bit)
                             : "memory", "cc");
        s->lost += ok;
        break;
    }
    case XOR64:
        v = UINT64_C(0x1001001001) << s->who;
        __asm__ volatile("lock xorq %1, (%0)" : : "r"(p), "r"(v) : "memory", "cc");
        break;
    case XCHG_LOCK: /* byte 0 is the lock, an 8-byte counter follows */
        for (unsigned n = 0;; n++) {
            uint8_t t = 1;

            __asm__ volatile("xchgb %0, (%1)" : "+q"(t) : "r"(p) : "memory");
            if (!t)
                break;
            if (n > 200)
                sched_yield();
        }
        memcpy(&v, p + 8, 8);
        v++;
        memcpy(p + 8, &v, 8);
        __asm__ volatile("movb $0, (%0)" : : "r"(p) : "memory");
        break;
    case TEAR8:
        if (s->who & 1) {
            v = *(volatile uint64_t *)(void *)p;
            s->lost += (uint32_t)v != (uint32_t)(v >> 32);
        } else {
            *(volatile uint64_t *)(void *)p = (i & 0xffff) * UINT64_C(0x100000001);
        }
        break;
    case TEAR16:
        if (s->who & 1) {
            __asm__ volatile("movdqa (%2), %%xmm0; movq %%xmm0, %0; psrldq $8, %%xmm0; movq %%xmm0, %1"
                             : "=r"(old[0]), "=r"(old[1])
                             : "r"(p)
                             : "memory", "xmm0");
            s->lost += old[0] != old[1];
        } else {
            __asm__ volatile("movq %1, %%xmm0; punpcklqdq %%xmm0, %%xmm0; movdqa %%xmm0, (%0)"
                             :
                             : "r"(p), "r"((uint64_t)i)
                             : "memory", "xmm0");
        }
        break;
    }
}

static void *adder(void *arg)
{
    struct sum *s = arg;
    unsigned seen = 0;

    pin(s->who);
    barrier(&seen);
    for (unsigned i = 0; i < s->count; i++)
        one_op(s, i);
    return NULL;
}

static uint64_t value_of(const uint8_t *p, unsigned kind)
{
    uint64_t v = 0;
    unsigned size = kind == ADD32 ? 4 : kind == XADD16 ? 2 : 8;

    memcpy(&v, p + (kind == XCHG_LOCK ? 8 : 0), size);
    return v;
}

static void run_sum(uint8_t *at, const char *where, unsigned kind, unsigned count)
{
    struct sum s[MAX_T];
    pthread_t th[MAX_T];
    uint64_t want = (uint64_t)count * MAX_T, got, lost = 0;
    char name[96];

    memset(at, 0, 24);
    nr_threads = MAX_T;
    atomic_store(&arrived, 0);
    atomic_store(&round_nr, 0);
    if (kind == CX16)
        memset(at + 8, 0xff, 8);
    for (int i = 0; i < MAX_T; i++) {
        s[i] = (struct sum){.at = at, .kind = kind, .count = count, .who = i};
        t_must(!pthread_create(&th[i], NULL, adder, &s[i]));
    }
    for (int i = 0; i < MAX_T; i++) {
        pthread_join(th[i], NULL);
        lost += s[i].lost;
    }
    got = value_of(at, kind);
    switch (kind) {
    case ADD32:
        want = (uint32_t)want;
        break;
    case XADD16:
        want = (uint16_t)want;
        break;
    case INC8_LANES:
        want = (uint8_t)count * UINT64_C(0x01010101);
        break;
    case BITS:
        for (want = 0; (count - 1) % 3 == 0 && want == 0;)
            for (int i = 0; i < MAX_T; i++)
                want |= UINT64_C(1) << (i * 13 + 3);
        break;
    case XOR64:
        for (int i = want = 0; i < MAX_T; i++)
            want ^= count & 1 ? UINT64_C(0x1001001001) << i : 0;
        break;
    case TEAR8:
    case TEAR16:
        want = got;
        break;
    }
    snprintf(name, sizeof name, "%s, %s", kind_name[kind], where);
    claim(got == want && !lost, name, "%#llx, expected %#llx; %llu impossible values", (unsigned long long)got,
          (unsigned long long)want, (unsigned long long)lost);
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 20000;
    bool pages = argc > 2 && strcmp(argv[2], "page") == 0;
    uint8_t *mem = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    nr_cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    cells = aligned_alloc(4096, CELLS * sizeof *cells);
    t_must(cells && mem != MAP_FAILED);
    printf("%u processors\n", nr_cpus);
    if (!pages)
        run_litmus((rounds + CELLS - 1) / CELLS);
    for (unsigned k = 0; k < NR_KINDS; k++) {
        if (!pages)
            run_sum(mem + 64, "aligned", k, rounds);
        if (k == CX16 || k >= TEAR8)
            continue;
        if (pages)
            run_sum(mem + 4096 - 1, "across a page", k, rounds / 4 | 1);
        else
            run_sum(mem + 64 * 3 - 3, "across a cache line", k, rounds / 4 | 1);
    }
    return t_end();
}
