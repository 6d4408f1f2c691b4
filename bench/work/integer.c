/* Integer kernels: indirect calls, a threaded interpreter, sorting with and without a callback, sieve, bit-wise CRC,
 * hash rounds, wide multiplication, division, list walking with stores. */
#include "micro.h"

#include <stdlib.h>
#include <string.h>

/* ---- indirect calls ---- */

#define NOINLINE __attribute__((noinline))
static NOINLINE uint64_t f0(uint64_t x)
{
    return x + 3;
}
static NOINLINE uint64_t f1(uint64_t x)
{
    return x ^ (x >> 7);
}
static NOINLINE uint64_t f2(uint64_t x)
{
    return x * 5;
}
static NOINLINE uint64_t f3(uint64_t x)
{
    return x - (x >> 3);
}
static uint64_t (*volatile const targets[4])(uint64_t) = {f0, f1, f2, f3};

static uint64_t icall1(uint64_t n)
{
    uint64_t v = 1;

    for (uint64_t i = 0; i < n; i++)
        v = targets[0](v);
    return v;
}

static uint64_t icall4(uint64_t n)
{
    uint64_t v = 1;

    for (uint64_t i = 0; i < n; i++)
        v = targets[(i * 7 >> 2) & 3](v);
    return v;
}

/* ---- a threaded interpreter: a loop of a stack machine, 13 operations a round ---- */

static uint64_t interp(uint64_t n)
{
    enum { PUSH, LOADV, STOREV, ADD, XOR, SHR, DEC, JNZ, END };
    static const uint8_t prog[] = {LOADV, 0, PUSH, 17,    ADD, LOADV, 1,      XOR, STOREV, 0,   LOADV, 0,
                                   PUSH,  3, SHR,  LOADV, 1,   ADD,   STOREV, 1,   DEC,    JNZ, 0,     END};
    static const void *const op[] = {&&push, &&loadv, &&storev, &&add, &&xor, &&shr, &&dec, &&jnz, &&end};
    uint64_t stack[16], *sp = stack, var[4] = {1, 2, 3, 4}, left = n;
    const uint8_t *pc = prog;

#define NEXT goto *op[*pc++]
    NEXT;
push:
    *sp++ = *pc++;
    NEXT;
loadv:
    *sp++ = var[*pc++];
    NEXT;
storev:
    var[*pc++] = *--sp;
    NEXT;
add:
    sp--;
    sp[-1] += sp[0];
    NEXT;
    xor : sp--;
    sp[-1] ^= sp[0];
    NEXT;
shr:
    sp--;
    sp[-1] >>= sp[0] & 63;
    NEXT;
dec:
    left--;
    NEXT;
jnz:
    pc = left ? prog + *pc : pc + 1;
    NEXT;
end:
    return var[0] + var[1];
#undef NEXT
}

/* The same kind of program through a switch in a loop: one jump for all. */
static uint64_t interp_switch(uint64_t n)
{
    static const uint8_t prog[16] = {0, 1, 2, 3, 1, 4, 5, 0, 6, 2, 1, 3, 5, 4, 0, 2};
    uint64_t a = 1, b = 2, c = 3;

    for (uint64_t i = 0; i < n; i++) {
        unsigned op = prog[i & 15];

        HIDE(op);
        switch (op) {
        case 0:
            a += b;
            break;
        case 1:
            b ^= a >> 3;
            break;
        case 2:
            c += 0x1234567;
            break;
        case 3:
            a -= c;
            break;
        case 4:
            b += c << 2;
            break;
        case 5:
            c ^= b;
            break;
        case 6:
            a = a << 9 | a >> 55;
            break;
        default:
            c--;
            break;
        }
    }
    return a + b + c;
}

/* ---- sorting; a unit is one element of 4096 ---- */

enum { SORT_N = 4096 };
static uint32_t keys[SORT_N];

static void fill_keys(uint64_t seed)
{
    for (unsigned i = 0; i < SORT_N; i++)
        keys[i] = (uint32_t)mix(&seed);
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static uint64_t sort_callback(uint64_t n)
{
    uint64_t v = 0;

    for (uint64_t done = 0; done < n; done += SORT_N) {
        fill_keys(1);
        qsort(keys, SORT_N, sizeof *keys, compare);
        v += keys[done / SORT_N % SORT_N];
    }
    return v;
}

static void sift(uint32_t *a, unsigned at, unsigned nr)
{
    uint32_t v = a[at];

    for (unsigned kid; (kid = 2 * at + 1) < nr; at = kid) {
        if (kid + 1 < nr && a[kid + 1] > a[kid])
            kid++;
        if (a[kid] <= v)
            break;
        a[at] = a[kid];
    }
    a[at] = v;
}

static uint64_t sort_heap(uint64_t n)
{
    uint64_t v = 0;

    for (uint64_t done = 0; done < n; done += SORT_N) {
        fill_keys(2);
        for (unsigned i = SORT_N / 2; i--;)
            sift(keys, i, SORT_N);
        for (unsigned i = SORT_N; --i;) {
            uint32_t t = keys[0];

            keys[0] = keys[i];
            keys[i] = t;
            sift(keys, 0, i);
        }
        v += keys[done / SORT_N % SORT_N];
    }
    return v;
}

/* ---- a sieve of 64 Ki odd numbers; a unit is one number ---- */

static uint64_t sieve(uint64_t n)
{
    enum { N = 65536 };
    static uint8_t no[N];
    uint64_t found = 0;

    for (uint64_t done = 0; done < n; done += N) {
        memset(no, 0, sizeof no);
        for (unsigned i = 1; i < 182; i++)
            if (!no[i])
                for (unsigned j = 2 * i * (i + 1); j < N; j += 2 * i + 1)
                    no[j] = 1;
        for (unsigned i = 1; i < N; i++)
            found += !no[i];
    }
    return found;
}

/* ---- a byte of bit-wise CRC-32 ---- */

static uint64_t crc_bits(uint64_t n)
{
    uint32_t c = ~0u;

    for (uint64_t i = 0; i < n; i++) {
        c ^= (uint8_t)i;
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (0xedb88320u & -(c & 1));
    }
    return c;
}

static uint64_t crc_table(uint64_t n)
{
    static uint32_t t[256];
    uint32_t c = ~0u;

    for (unsigned i = 0; !t[1] && i < 256; i++) {
        uint32_t v = 255 - i;

        for (int k = 0; k < 8; k++)
            v = v >> 1 ^ (0xedb88320u & -(v & 1));
        t[255 - i] = v;
    }
    for (uint64_t i = 0; i < n; i++)
        c = c >> 8 ^ t[(uint8_t)(c ^ i)];
    return c;
}

/* ---- rounds of a hash like SHA-2: rotations, additions, choices ---- */

static inline uint32_t ror(uint32_t v, int n)
{
    return v >> n | v << (32 - n);
}

static uint64_t sha_like(uint64_t n)
{
    uint32_t a = 0x6a09e667, b = 0xbb67ae85, c = 0x3c6ef372, d = 0xa54ff53a, e = 0x510e527f, f = 0x9b05688c,
             g = 0x1f83d9ab, h = 0x5be0cd19;

    for (uint64_t i = 0; i < n; i++) {
        uint32_t t = h + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) + (uint32_t)i * 0x428a2f98u;
        uint32_t u = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));

        h = g, g = f, f = e, e = d + t, d = c, c = b, b = a, a = t + u;
    }
    return ((uint64_t)a << 32 | e) ^ ((uint64_t)b << 32 | f) ^ c ^ d ^ g ^ h;
}

#ifdef __SIZEOF_INT128__
static uint64_t mul_wide(uint64_t n)
{
    uint64_t a = 0x123456789abcdef1u, b = 1;

    for (uint64_t i = 0; i < n; i++) {
        unsigned __int128 p = (unsigned __int128)a * (b | 1);

        a = (uint64_t)p ^ (uint64_t)(p >> 64);
        b += 0x9e3779b97f4a7c15u;
    }
    return a;
}

#endif

static uint64_t div_wide(uint64_t n)
{
    uint64_t v = 1, d = 0x1234567;

    for (uint64_t i = 0; i < n; i++) {
        v += (0xfedcba9876543210u ^ i) / d;
        d = (d ^ (v & 0xffff)) | 1;
    }
    return v;
}

/* ---- a list in the first-level cache, walked with a store into each node ---- */

static uint64_t list_walk(uint64_t n)
{
    enum { NODES = 512 };
    static struct node {
        struct node *next;
        uint64_t val, pad[2];
    } list[NODES];
    struct node *p = list;

    for (unsigned i = 0; i < NODES; i++) {
        list[i].next = &list[(i * 173 + 91) % NODES];
        list[i].val = i;
    }
    for (uint64_t i = 0; i < n; i++) {
        p->val += i;
        p = p->next;
    }
    return p->val + list[7].val;
}

/* ---- a string hash and an open-addressed table: bytes, branches, random access in 64 KiB ---- */

static uint64_t hash_table(uint64_t n)
{
    enum { N = 4096 };
    static struct {
        uint32_t key, count;
    } t[N];
    uint64_t s = 7, hits = 0;

    memset(t, 0, sizeof t);
    for (uint64_t i = 0; i < n; i++) {
        uint32_t k = (uint32_t)(mix(&s) % 3000) + 1, h = k * 2654435761u;

        for (unsigned at = h >> 20;; at = (at + 1) % N) {
            if (t[at].key == k) {
                hits += ++t[at].count;
                break;
            }
            if (!t[at].key) {
                t[at].key = k;
                break;
            }
        }
    }
    return hits;
}

const struct work works_int[] = {{"icall1", "int", icall1, 1, 10000, NULL},
                                 {"icall4", "int", icall4, 1, 10000, NULL},
                                 {"interp", "int", interp, 1, 1000, NULL},
                                 {"switch", "int", interp_switch, 1, 10000, NULL},
                                 {"qsort", "int", sort_callback, SORT_N, SORT_N, NULL},
                                 {"heapsort", "int", sort_heap, SORT_N, SORT_N, NULL},
                                 {"sieve", "int", sieve, 65536, 65536, NULL},
                                 {"crc_bits", "int", crc_bits, 1, 10000, NULL},
                                 {"crc_table", "int", crc_table, 1, 10000, NULL},
                                 {"sha_like", "int", sha_like, 1, 10000, NULL},
#ifdef __SIZEOF_INT128__
                                 {"mul", "int", mul_wide, 1, 10000, NULL},
#endif
                                 {"div", "int", div_wide, 1, 10000, NULL},
                                 {"list", "int", list_walk, 1, 10000, NULL},
                                 {"hash", "int", hash_table, 1, 10000, NULL},
                                 {NULL, NULL, NULL, 0, 0, NULL}};
