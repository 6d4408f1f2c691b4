/* Calls and returns: a deep recursion, a tree of calls over several hundred functions, mutual recursion with few
 * arguments kept in memory. */
#include "micro.h"

#define NOINLINE __attribute__((noinline))

static NOINLINE uint64_t fib_of(uint64_t n)
{
    return n < 2 ? n : fib_of(n - 1) + fib_of(n - 2);
}

/* A unit is one call: fib(20) makes 21891. */
static uint64_t fib(uint64_t n)
{
    uint64_t v = 0;

    for (uint64_t done = 0; done < n; done += 21891)
        v += fib_of(20);
    return v;
}

static NOINLINE uint64_t ack_of(uint64_t m, uint64_t n)
{
    return !m ? n + 1 : !n ? ack_of(m - 1, 1) : ack_of(m - 1, ack_of(m, n - 1));
}

/* A unit is one call: A(2, 60) makes 8 058 or so; what the compiler turns into loops is the same for all who run it. */
static uint64_t ackermann(uint64_t n)
{
    uint64_t v = 0;

    for (uint64_t done = 0; done < n; done += 8000)
        v += ack_of(2, 60);
    return v;
}

/* 256 leaves, 64 that call four of them, 16 that call four of those, and so on to one: 341 functions, 340 call sites,
 * each with work of its own. */
static volatile uint64_t salt = 1;

#define LEAF(n)                                                                                                        \
    static NOINLINE uint64_t t0_##n(uint64_t x)                                                                        \
    {                                                                                                                  \
        return x * 3 + 0x##n + salt;                                                                                   \
    }
#define NODE(l, k, n)                                                                                                  \
    static NOINLINE uint64_t t##l##_##n(uint64_t x)                                                                    \
    {                                                                                                                  \
        uint64_t v = t##k##_##n##0(x) + 0x##n;                                                                         \
                                                                                                                       \
        v ^= t##k##_##n##1(v);                                                                                         \
        v += t##k##_##n##2(x + v);                                                                                     \
        return v - t##k##_##n##3(v);                                                                                   \
    }
#define FOUR(M, n)    M(n##0) M(n##1) M(n##2) M(n##3)
#define SIXTEEN(M, n) FOUR(M, n##0) FOUR(M, n##1) FOUR(M, n##2) FOUR(M, n##3)
#define NODE1(n)      NODE(1, 0, n)
#define NODE2(n)      NODE(2, 1, n)
#define NODE3(n)      NODE(3, 2, n)
SIXTEEN(LEAF, 00)
SIXTEEN(LEAF, 01)
SIXTEEN(LEAF, 02)
SIXTEEN(LEAF, 03) SIXTEEN(LEAF, 10) SIXTEEN(LEAF, 11) SIXTEEN(LEAF, 12) SIXTEEN(LEAF, 13) SIXTEEN(LEAF, 20)
    SIXTEEN(LEAF, 21) SIXTEEN(LEAF, 22) SIXTEEN(LEAF, 23) SIXTEEN(LEAF, 30) SIXTEEN(LEAF, 31) SIXTEEN(LEAF, 32)
        SIXTEEN(LEAF, 33) SIXTEEN(NODE1, 0) SIXTEEN(NODE1, 1) SIXTEEN(NODE1, 2) SIXTEEN(NODE1, 3) FOUR(NODE2, 0)
            FOUR(NODE2, 1) FOUR(NODE2, 2) FOUR(NODE2, 3) NODE3(0) NODE3(1) NODE3(2) NODE3(3)

    /* A unit is one call of 341. */
    static uint64_t call_tree(uint64_t n)
{
    uint64_t v = 1;

    for (uint64_t done = 0; done < n; done += 340) {
        v += t3_0(v);
        v ^= t3_1(v);
        v += t3_2(v);
        v -= t3_3(v);
    }
    return v;
}

/* Calls through pointers in objects: four classes, a mixed array of 64. */
struct shape {
    uint64_t (*area)(const struct shape *s, uint64_t k);
    uint64_t a, b;
};
static NOINLINE uint64_t area0(const struct shape *s, uint64_t k)
{
    return s->a * s->b + k;
}
static NOINLINE uint64_t area1(const struct shape *s, uint64_t k)
{
    return s->a + s->b * k;
}
static NOINLINE uint64_t area2(const struct shape *s, uint64_t k)
{
    return (s->a ^ k) - s->b;
}
static NOINLINE uint64_t area3(const struct shape *s, uint64_t k)
{
    return s->a * k >> 3;
}

static uint64_t methods(uint64_t n)
{
    static struct shape shapes[64];
    uint64_t seed = 3, v = 0;

    for (unsigned i = 0; i < 64; i++) {
        uint64_t r = mix(&seed);

        shapes[i] = (struct shape){(r & 3) == 0   ? area0
                                   : (r & 3) == 1 ? area1
                                   : (r & 3) == 2 ? area2
                                                  : area3,
                                   r >> 8 & 0xff, r >> 16 & 0xff};
    }
    for (uint64_t i = 0; i < n; i++)
        v += shapes[i & 63].area(&shapes[i & 63], v & 0xff);
    return v;
}

const struct work works_call[] = {{"fib", "call", fib, 21891, 21891, NULL},
                                  {"ackermann", "call", ackermann, 8000, 8000, NULL},
                                  {"calltree", "call", call_tree, 340, 3400, NULL},
                                  {"methods", "call", methods, 1, 10000, NULL},
                                  {NULL, NULL, NULL, 0, 0, NULL}};
