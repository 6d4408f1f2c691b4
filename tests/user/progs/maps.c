/* Threads that map, change rights and unmap at once: what one gives back another is given, and each finds its own as it
 * made it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { THREADS = 4, ROUNDS = 4000 };

static _Atomic unsigned failed;

static void *maps(void *arg)
{
    uint32_t seed = (uint32_t)(uintptr_t)arg;

    for (int i = 0; i < ROUNDS; i++) {
        size_t len = (size_t)(1 + (seed >> 8) % 16) << 14;
        uint8_t *p = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *q;

        seed = seed * 1103515245u + 12345u;
        if (p == MAP_FAILED || mprotect(p, len, PROT_READ | PROT_WRITE)) {
            failed++;
            continue;
        }
        memset(p, (uint8_t)seed, 64);
        p[len - 1] = 7;
        if (seed & 0x10000) {
            q = mremap(p, len, 2 * len, MREMAP_MAYMOVE);
            failed += q == MAP_FAILED;
            p = q == MAP_FAILED ? p : q;
            len = q == MAP_FAILED ? len : 2 * len;
        }
        failed += p[63] != (uint8_t)seed || munmap(p, len);
    }
    return NULL;
}

int main(void)
{
    pthread_t t[THREADS];

    for (uintptr_t i = 0; i < THREADS; i++)
        failed += pthread_create(&t[i], NULL, maps, (void *)(i + 1)) != 0;
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    printf("failed %u\n", failed);
    return 0;
}
