/* The ring and the thread of sound on the host (sink.h).
 *
 * The thread sleeps until the ring holds what the latency says, or that long has passed since something came (a short
 * beep); then it writes until the ring is empty. That is where a guest that stopped playing and one that came late
 * meet: both begin with a filled ring again. */
#include "aud/sink.h"
#include "base/thread.h"

#include <pthread.h>
#include <time.h>

enum { PIECE = 256, ONE = 1 << 16, MOST_SHIFT = ONE / 500, MEAN_OF = 32 };

struct aud_sink {
    pthread_t thread;
    pthread_mutex_t lock; /* covers what follows */
    pthread_cond_t more;
    bool quit, gone, primed;
    uint32_t cap, head, fill, target; /* frames */
    int16_t (*ring)[2];               /* owned */
    /* Only the pushing side. */
    int64_t mean; /* of fill, 8 bits behind the point */
    uint32_t at;  /* resampling: place between prev and the next frame */
    int16_t prev[2];
    unsigned latency_ms;
    aud_sink_fn *write; /* constant */
    void *priv;         /* borrowed */
};

static void deadline(struct timespec *t, clockid_t clock, unsigned ms)
{
    clock_gettime(clock, t);
    t->tv_nsec += (long)ms % 1000 * 1000000;
    t->tv_sec += ms / 1000 + t->tv_nsec / 1000000000;
    t->tv_nsec %= 1000000000;
}

/* Until there is enough to begin with. */
static void wait_primed(struct aud_sink *s)
{
    struct timespec t;

    while (!s->quit && !s->fill)
        pthread_cond_wait(&s->more, &s->lock);
    deadline(&t, CLOCK_MONOTONIC, s->latency_ms);
    while (!s->quit && s->fill < s->target && !pthread_cond_timedwait(&s->more, &s->lock, &t))
        ;
    s->primed = true;
}

static void *sink_main(void *opaque)
{
    struct aud_sink *s = opaque;

    pthread_setname_np(pthread_self(), "sound");
    pthread_mutex_lock(&s->lock);
    while (!s->gone) {
        int16_t piece[PIECE][2];
        uint32_t n;
        bool ok;

        if (!s->primed)
            wait_primed(s);
        if (!s->fill && s->quit)
            break;
        n = s->fill < PIECE ? s->fill : PIECE;
        if (n > s->cap - s->head)
            n = s->cap - s->head;
        memcpy(piece, s->ring + s->head, n * sizeof *piece);
        s->head = (s->head + n) % s->cap;
        s->fill -= n;
        if (!s->fill)
            s->primed = false;
        pthread_mutex_unlock(&s->lock);
        ok = s->write(s->priv, piece[0], n);
        pthread_mutex_lock(&s->lock);
        s->gone |= !ok;
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

struct aud_sink *aud_sink_new(uint32_t rate, unsigned latency_ms, aud_sink_fn *write, void *priv, struct err **errp)
{
    struct aud_sink *s = xnew(struct aud_sink);
    pthread_condattr_t a;
    int r;

    s->cap = rate / 2 + 1;
    s->target = rate * latency_ms / 1000;
    s->mean = (int64_t)s->target << 8;
    s->latency_ms = latency_ms;
    s->write = write;
    s->priv = priv;
    s->ring = xcalloc(s->cap, sizeof *s->ring);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&s->more, &a);
    pthread_condattr_destroy(&a);
    r = thread_start(&s->thread, sink_main, s);
    if (!r)
        return s;
    err_set_errno(errp, r, "cannot start a thread");
    free(s->ring);
    free(s);
    return NULL;
}

static void put(struct aud_sink *s, const int16_t f[2])
{
    int16_t *to;

    if (s->fill == s->cap) /* the host takes nothing: this is lost */
        return;
    to = s->ring[(s->head + s->fill++) % s->cap];
    to[0] = f[0];
    to[1] = f[1];
}

/* Frames in for one frame out: more when the ring is too full. */
static uint32_t step_now(struct aud_sink *s)
{
    int64_t off;

    s->mean += (((int64_t)s->fill << 8) - s->mean) / MEAN_OF;
    off = ((s->mean >> 8) - s->target) * MOST_SHIFT / s->target;
    return (uint32_t)(ONE + (off > MOST_SHIFT ? MOST_SHIFT : off < -MOST_SHIFT ? -MOST_SHIFT : off));
}

void aud_sink_push(struct aud_sink *s, const int16_t *frames, size_t nr)
{
    uint32_t step;

    pthread_mutex_lock(&s->lock);
    step = step_now(s);
    for (size_t k = 0; k < nr; k++) {
        const int16_t *f = frames + 2 * k;

        for (; s->at < ONE; s->at += step) {
            int16_t out[2];

            for (unsigned i = 0; i < 2; i++)
                out[i] = (int16_t)(s->prev[i] + ((int64_t)f[i] - s->prev[i]) * s->at / ONE);
            put(s, out);
        }
        s->at -= ONE;
        s->prev[0] = f[0];
        s->prev[1] = f[1];
    }
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
}

bool aud_sink_free(struct aud_sink *s)
{
    struct timespec t;

    pthread_mutex_lock(&s->lock);
    s->quit = true;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
    deadline(&t, CLOCK_REALTIME, 500);
    if (pthread_timedjoin_np(s->thread, NULL, &t)) { /* known to thread sanitizers, its sibling with a clock is not */
        pthread_detach(s->thread);
        return false;
    }
    pthread_cond_destroy(&s->more);
    pthread_mutex_destroy(&s->lock);
    free(s->ring);
    free(s);
    return true;
}
