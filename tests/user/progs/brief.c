/* Threads that end at once, each with a robust mutex held: whoever makes them gets their ids, and the mutexes are found
 * orphaned. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t m;

static void *take(void *p)
{
    pthread_mutex_lock(&m);
    return NULL;
}

int main(void)
{
    pthread_mutexattr_t at;
    int orphans = 0, failed = 0;
    pthread_t t;

    for (int i = 0; i < 200; i++) {
        pthread_mutexattr_init(&at);
        pthread_mutexattr_setrobust(&at, PTHREAD_MUTEX_ROBUST);
        if (i & 1)
            pthread_mutexattr_setprotocol(&at, PTHREAD_PRIO_INHERIT);
        pthread_mutex_init(&m, &at);
        if (pthread_create(&t, NULL, take, NULL)) {
            failed++;
            continue;
        }
        pthread_join(t, NULL);
        orphans += pthread_mutex_lock(&m) == EOWNERDEAD;
        pthread_mutex_consistent(&m);
        pthread_mutex_unlock(&m);
    }
    printf("orphans %d failed %d, still thread 1: %d\n", orphans, failed, syscall(SYS_gettid) == getpid());
    return 0;
}
