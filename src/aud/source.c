/* The ring and the thread of what the host records (sink.h). Taking begins when the ring holds what the latency says,
 * and again so after it ran empty; with four times as much in it, it is cut back to that. Nothing is stretched. */
#include "aud/sink.h"
#include "base/thread.h"

#include <pthread.h>
#include <time.h>

enum { PIECE = 256, TOO_FULL = 4 };

struct aud_source {
    pthread_t thread;
    pthread_mutex_t lock; /* covers what follows */
    bool quit, primed;
    uint32_t cap, head, fill, target; /* frames */
    int16_t (*ring)[2];               /* owned */
    const struct aud_mic *mic;        /* borrowed */
};

static void put(struct aud_source *s, int16_t (*piece)[2], uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        memcpy(s->ring[(s->head + s->fill + i) % s->cap], piece[i], sizeof *piece);
    s->fill += n;
    if (s->fill > TOO_FULL * s->target) {
        s->head = (s->head + s->fill - s->target) % s->cap;
        s->fill = s->target;
    }
}

static void *source_main(void *opaque)
{
    struct aud_source *s = opaque;
    bool go = true;

    pthread_setname_np(pthread_self(), "microphone");
    while (go) {
        int16_t piece[PIECE][2];
        bool ok = s->mic->read(s->mic->priv, piece[0], PIECE);

        pthread_mutex_lock(&s->lock);
        if (ok)
            put(s, piece, PIECE);
        go = ok && !s->quit;
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

static struct aud_source *source_new(const struct aud_mic *m, struct err **errp)
{
    struct aud_source *s = xnew(struct aud_source);
    int r;

    s->target = (uint32_t)max_u64((uint64_t)m->rate * m->latency_ms / 1000, PIECE);
    s->cap = TOO_FULL * s->target + PIECE;
    s->mic = m;
    s->ring = xcalloc(s->cap, sizeof *s->ring);
    pthread_mutex_init(&s->lock, NULL);
    r = thread_start(&s->thread, source_main, s);
    if (!r)
        return s;
    err_set_errno(errp, r, "cannot start a thread");
    free(s->ring);
    free(s);
    return NULL;
}

static void pull(struct aud_source *s, int16_t *frames, size_t nr)
{
    uint32_t n;

    pthread_mutex_lock(&s->lock);
    s->primed = s->fill && (s->primed || s->fill >= s->target);
    n = s->primed ? (uint32_t)min_u64(nr, s->fill) : 0;
    for (uint32_t i = 0; i < n; i++)
        memcpy(frames + 2 * i, s->ring[(s->head + i) % s->cap], sizeof *s->ring);
    s->head = (s->head + n) % s->cap;
    s->fill -= n;
    pthread_mutex_unlock(&s->lock);
    memset(frames + 2 * n, 0, (nr - n) * sizeof *s->ring);
}

/* False: its thread hangs in the host, and is left there. */
static bool source_free(struct aud_source *s)
{
    struct timespec t;

    pthread_mutex_lock(&s->lock);
    s->quit = true;
    pthread_mutex_unlock(&s->lock);
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 250000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    if (pthread_timedjoin_np(s->thread, NULL, &t)) {
        pthread_detach(s->thread);
        return false;
    }
    pthread_mutex_destroy(&s->lock);
    free(s->ring);
    free(s);
    return true;
}

void aud_mic_listen(struct aud_mic *m, bool on)
{
    struct err *e = NULL;

    if (!on) {
        if (!m->source || m->hangs)
            return;
        m->hangs = !source_free(m->source);
        if (m->hangs) {
            m->failed = true;
            return;
        }
        m->source = NULL;
        m->close(m->priv);
        return;
    }
    if (m->failed)
        return;
    if (m->open(m->priv, &e) && !(m->source = source_new(m, &e)))
        m->close(m->priv);
    m->failed = !m->source;
    if (e)
        warn_report("-audiodev %s: %s; the guest records silence", m->driver, e->msg);
    err_free(e);
}

void aud_mic_record(struct aud_mic *m, int16_t *frames, size_t nr)
{
    if (m->source && !m->hangs)
        pull(m->source, frames, nr);
    else
        memset(frames, 0, nr * 2 * sizeof *frames);
}
