/* Threads: mutexes, atomics, condition variables, thread-local data, many short ones. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 8, ROUNDS = 20000 };
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t c = PTHREAD_COND_INITIALIZER;
static long plain, turn;
static _Atomic long atom;
static __thread long mine;

static void *count(void *arg)
{
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&m);
        plain++;
        pthread_mutex_unlock(&m);
        atom++;
        mine++;
    }
    return (void *)mine;
}
static void *relay(void *arg)
{
    long me = (long)arg;

    for (int i = 0; i < 100; i++) {
        pthread_mutex_lock(&m);
        while (turn % N != me)
            pthread_cond_wait(&c, &m);
        turn++;
        pthread_cond_broadcast(&c);
        pthread_mutex_unlock(&m);
    }
    return NULL;
}
static void *nothing(void *arg)
{
    return arg;
}
int main(void)
{
    pthread_t t[N];
    void *r;
    long sum = 0;

    for (long i = 0; i < N; i++)
        pthread_create(&t[i], NULL, count, NULL);
    for (int i = 0; i < N; i++) {
        pthread_join(t[i], &r);
        sum += (long)r;
    }
    printf("%ld %ld %ld\n", plain, (long)atom, sum);
    for (long i = 0; i < N; i++)
        pthread_create(&t[i], NULL, relay, (void *)i);
    for (int i = 0; i < N; i++)
        pthread_join(t[i], NULL);
    printf("%ld\n", turn);
    for (int i = 0; i < 200; i++) {
        pthread_create(&t[0], NULL, nothing, (void *)(long)i);
        pthread_join(t[0], &r);
        sum += (long)r;
    }
    printf("%ld\n", sum);
    return 0;
}
