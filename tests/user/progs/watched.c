/* Threads come and go while a debugger watches what they write. */
#include <pthread.h>
#include <stdio.h>

enum { ROUNDS = 3, THREADS = 8, HITS = 3 };

volatile long hits;

static void *worker(void *arg)
{
    for (int i = 0; i < HITS; i++)
        __sync_fetch_and_add(&hits, 1);
    return arg;
}

int main(void)
{
    pthread_t t[THREADS];

    for (int r = 0; r < ROUNDS; r++) {
        for (int i = 0; i < THREADS; i++)
            pthread_create(&t[i], NULL, worker, NULL);
        for (int i = 0; i < THREADS; i++)
            pthread_join(t[i], NULL);
    }
    printf("hits %ld\n", hits);
    return 0;
}
