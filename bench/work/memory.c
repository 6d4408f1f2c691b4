/* Memory: pointer chasing in the first-level cache and far outside it, copies, fills, the string instructions, the C
 * library's string functions, atomic additions. */
#include "micro.h"

#include <string.h>

enum { BUF = 1 << 20 };
static uint8_t src[BUF] __attribute__((aligned(4096))), dst[BUF] __attribute__((aligned(4096)));

/* A cycle through `nr` places `step` pointers apart, in an order that no prefetcher knows. */
static void **ring(void **mem, size_t nr, size_t step)
{
    static uint32_t order[1 << 20];
    uint64_t s = 5;

    for (size_t i = 0; i < nr; i++)
        order[i] = (uint32_t)i;
    for (size_t i = nr - 1; i; i--) {
        size_t j = mix(&s) % i;
        uint32_t t = order[i];

        order[i] = order[j];
        order[j] = t;
    }
    for (size_t i = 0; i < nr; i++)
        mem[order[i] * step] = &mem[order[(i + 1) % nr] * step];
    return mem;
}

static uint64_t chase_through(void **p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        p = *p;
    HIDE(p);
    return p != NULL;
}

static uint64_t chase_l1(uint64_t n)
{
    static void *mem[2048] __attribute__((aligned(4096))); /* 16 KiB, four pages */
    static int made;

    if (!made)
        ring(mem, 256, 8);
    made = 1;
    return chase_through(mem, n);
}

/* Twenty-four pages, one line each. */
static uint64_t chase_pages(uint64_t n)
{
    static void *mem[512 * 24] __attribute__((aligned(4096)));
    static int made;

    if (!made)
        ring(mem, 24, 520);
    made = 1;
    return chase_through(mem, n);
}

static uint64_t chase_64m(uint64_t n)
{
    static void *mem[8 << 20] __attribute__((aligned(4096)));
    static int made;

    if (!made)
        ring(mem, 1 << 20, 8);
    made = 1;
    return chase_through(mem, n);
}

/* Units of all that follow are bytes. */
static uint64_t copy_of(uint64_t n, size_t size)
{
    for (uint64_t done = 0; done < n; done += size) {
        memcpy(dst, src, size);
        __asm__ volatile("" : : "r"(dst), "r"(src) : "memory");
    }
    return dst[size / 2];
}

static uint64_t memcpy_small(uint64_t n)
{
    return copy_of(n, 48);
}
static uint64_t memcpy_4k(uint64_t n)
{
    return copy_of(n, 4096);
}
static uint64_t memcpy_1m(uint64_t n)
{
    return copy_of(n, BUF);
}

static uint64_t memset_16k(uint64_t n)
{
    for (uint64_t done = 0; done < n; done += 16384) {
        memset(dst, (int)(done >> 14), 16384);
        __asm__ volatile("" : : "r"(dst) : "memory");
    }
    return dst[77] != 0;
}

#ifdef __x86_64__
static uint64_t rep_movsb(uint64_t n)
{
    for (uint64_t done = 0; done < n; done += 8192) {
        void *d = dst + 64, *s = src + 3;
        size_t c = 8192;

        __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(c) : : "memory");
    }
    return dst[100];
}

static uint64_t rep_stosq(uint64_t n)
{
    for (uint64_t done = 0; done < n; done += 8192) {
        void *d = dst;
        size_t c = 1024;

        __asm__ volatile("rep stosq" : "+D"(d), "+c"(c) : "a"(0x0101010101010101) : "memory");
    }
    return dst[100];
}

/* Short runs: what a kernel's small copies look like. */
static uint64_t rep_movsq_64(uint64_t n)
{
    for (uint64_t done = 0; done < n; done += 64) {
        void *d = dst + (done & 0x3fc0), *s = src + (done & 0x1fc0);
        size_t c = 8;

        __asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(c) : : "memory");
    }
    return dst[100];
}

static uint64_t repne_scasb(uint64_t n)
{
    uint64_t v = 0;

    memset(dst, 1, 4096);
    dst[4095] = 0;
    for (uint64_t done = 0; done < n; done += 4096) {
        void *d = dst;
        size_t c = (size_t)-1;

        __asm__ volatile("repne scasb" : "+D"(d), "+c"(c) : "a"(0) : "memory", "cc");
        v += ~c;
    }
    return v;
}

#endif

static uint64_t strlen_4k(uint64_t n)
{
    size_t (*volatile fn)(const char *) = strlen;
    uint64_t v = 0;

    memset(dst, 'x', 4096);
    dst[4095] = 0;
    for (uint64_t done = 0; done < n; done += 4096)
        v += fn((char *)dst);
    return v;
}

static uint64_t strcmp_64(uint64_t n)
{
    int (*volatile fn)(const char *, const char *) = strcmp;
    uint64_t v = 0;

    memset(dst, 'x', 63);
    memset(src, 'x', 63);
    dst[63] = src[63] = 0;
    for (uint64_t done = 0; done < n; done += 64)
        v += fn((char *)dst, (char *)src) == 0;
    memset(src, 0, 64);
    return v;
}

/* A word at a time through a loop the compiler does not recognise: loads and stores, nothing else. */
static uint64_t stream(uint64_t n)
{
    uint64_t *a = (uint64_t *)(void *)src, *b = (uint64_t *)(void *)dst, v = 0;

    for (uint64_t done = 0; done < n; done += 8192)
        for (unsigned i = 0; i < 1024; i++) {
            uint64_t x = a[i] + done;

            HIDE(x);
            b[i] = x;
            v ^= x;
        }
    return v;
}

/* A unit is one operation. */
static uint64_t atomic_add(uint64_t n)
{
    static uint64_t cell;
    uint64_t v = 0;

    cell = 0;
    for (uint64_t i = 0; i < n; i++)
        v += __atomic_fetch_add(&cell, i, __ATOMIC_SEQ_CST);
    return v;
}

static uint64_t atomic_cas(uint64_t n)
{
    static uint64_t cell;
    uint64_t want = 0;

    cell = 0;
    for (uint64_t i = 0; i < n; i++) {
        __atomic_compare_exchange_n(&cell, &want, want * 3 + i, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        want = cell;
    }
    return cell;
}

const struct work works_mem[] = {{"chase_l1", "chase", chase_l1, 1, 0, NULL},
                                 {"chase_24pages", "mem", chase_pages, 1, 0, NULL},
                                 {"chase_64m", "mem", chase_64m, 1, 0, NULL},
                                 {"stream", "mem", stream, 8192, 81920, NULL},
                                 {"atomic_add", "mem", atomic_add, 1, 1000, NULL},
                                 {"atomic_cas", "mem", atomic_cas, 1, 1000, NULL},
                                 {"memcpy_48", "bulk", memcpy_small, 48, 0, NULL},
                                 {"memcpy_4k", "bulk", memcpy_4k, 4096, 0, NULL},
                                 {"memcpy_1m", "bulk", memcpy_1m, BUF, 0, NULL},
                                 {"memset_16k", "bulk", memset_16k, 16384, 0, NULL},
#ifdef __x86_64__
                                 {"rep_movsb", "bulk", rep_movsb, 8192, 8192, NULL},
                                 {"rep_movsq_64", "bulk", rep_movsq_64, 64, 8192, NULL},
                                 {"rep_stosq", "bulk", rep_stosq, 8192, 8192, NULL},
                                 {"repne_scasb", "bulk", repne_scasb, 4096, 4096, NULL},
#endif
                                 {"strlen_4k", "bulk", strlen_4k, 4096, 4096, NULL},
                                 {"strcmp_64", "bulk", strcmp_64, 64, 64, NULL},
                                 {NULL, NULL, NULL, 0, 0, NULL}};
