/* The ring between the guest's pace and the host's. proves: F-AUD-08 */
#include "unit.h"

#include "aud/sink.h"
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

enum { RATE = 48000, LATENCY = 20, BLOCK = 240 };
struct host {
    atomic_uint frames; /* taken */
    atomic_bool hold;   /* write does not come back */
    unsigned rate;      /* of its clock; 0: takes all at once */
    int16_t last, worst;
};

static bool take(void *priv, const int16_t *frames, size_t nr)
{
    struct host *h = priv;

    while (h->hold)
        usleep(1000);
    for (size_t i = 0; i < nr; i++) { /* a ramp: its steps say whether frames are missing */
        int16_t step = (int16_t)(frames[2 * i] - h->last);

        h->worst = step > h->worst ? step : h->worst;
        h->last = frames[2 * i];
        assert(frames[2 * i] == frames[2 * i + 1]);
    }
    if (h->rate)
        usleep((unsigned)(nr * 1000000 / h->rate));
    h->frames += (unsigned)nr;
    return true;
}

static void push(struct aud_sink *s, int16_t *at, unsigned nr)
{
    int16_t f[2 * BLOCK];

    for (unsigned i = 0; i < nr; i++)
        f[2 * i] = f[2 * i + 1] = ++*at;
    aud_sink_push(s, f, nr);
}

static void what_is_pushed_is_written_to_the_end(void **state)
{
    struct host h = {0};
    struct aud_sink *s = aud_sink_new(RATE, LATENCY, take, &h, NULL);
    int16_t at = 0;

    for (unsigned i = 0; i < 40; i++)
        push(s, &at, BLOCK);
    assert_true(aud_sink_free(s));
    assert_in_range(h.frames, 40 * BLOCK * 997 / 1000, 40 * BLOCK * 1003 / 1000);
    assert_in_range(h.last, 40 * BLOCK - 3, 40 * BLOCK);
    assert_in_range(h.worst, 0, 2);
}

static void a_short_sound_is_heard_without_more_to_come(void **state)
{
    struct host h = {0};
    struct aud_sink *s = aud_sink_new(RATE, LATENCY, take, &h, NULL);
    int16_t at = 0;

    push(s, &at, BLOCK);
    for (unsigned i = 0; i < 200 && !h.frames; i++)
        usleep(10000);
    assert_in_range(h.frames, BLOCK - 2, BLOCK + 2);
    assert_true(aud_sink_free(s));
}

static void a_host_that_takes_nothing_stops_nobody(void **state)
{
    static struct host *h; /* both outlive the test, as the thread does */
    static struct aud_sink *s;
    struct timespec t0, t1;
    int16_t at = 0;

    h = xnew(struct host);
    h->hold = true;
    s = aud_sink_new(RATE, LATENCY, take, h, NULL);
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (unsigned i = 0; i < 1000; i++)
        push(s, &at, BLOCK);
    assert_false(aud_sink_free(s));
    clock_gettime(CLOCK_MONOTONIC, &t1);
    assert_in_range(t1.tv_sec - t0.tv_sec, 0, 3);
    h->hold = false; /* the thread ends by itself now; s and h stay */
    usleep(100000);
}

/* ---- the other way ---- */

struct voice {
    atomic_uint frames;
    atomic_bool hold;
    int16_t at;
    int opens, closes;
    bool refuse;
};
static bool mic_open(void *priv, struct err **errp)
{
    struct voice *v = priv;

    v->opens++;
    return !v->refuse || err_set(errp, "this is what a test wants to see");
}
static void mic_close(void *priv)
{
    ((struct voice *)priv)->closes++;
}
static bool mic_read(void *priv, int16_t *frames, size_t nr)
{
    struct voice *v = priv;

    while (v->hold)
        usleep(1000);
    for (size_t i = 0; i < nr; i++)
        frames[2 * i] = frames[2 * i + 1] = ++v->at;
    v->frames += (unsigned)nr;
    usleep((unsigned)(nr * 1000000 / RATE));
    return true;
}
static struct aud_mic mic_new(struct voice *v)
{
    return (struct aud_mic){.driver = "test",
                            .rate = RATE,
                            .latency_ms = LATENCY,
                            .open = mic_open,
                            .close = mic_close,
                            .read = mic_read,
                            .priv = v};
}

static void what_the_host_records_arrives_in_order(void **state)
{
    struct voice v = {0};
    struct aud_mic m = mic_new(&v);
    int16_t f[2 * BLOCK], last = 0;
    unsigned got = 0;

    aud_mic_record(&m, f, BLOCK);
    assert_int_equal(f[0], 0); /* nobody listens yet */
    aud_mic_listen(&m, true);
    for (unsigned i = 0; i < 60; i++) {
        aud_mic_record(&m, f, BLOCK);
        for (unsigned k = 0; k < BLOCK; k++)
            if (f[2 * k]) {
                assert_true(f[2 * k] > last && f[2 * k] == f[2 * k + 1]);
                last = f[2 * k];
                got++;
            }
        usleep(BLOCK * 1000000 / RATE);
    }
    aud_mic_listen(&m, false);
    assert_in_range(got, 20 * BLOCK, 60 * BLOCK);
    assert_int_equal(v.opens, 1);
    assert_int_equal(v.closes, 1);
}

static void a_microphone_that_is_not_there_or_hangs_is_silence(void **state)
{
    static struct voice v; /* both outlive the test, as the thread does */
    static struct aud_mic m;
    int16_t f[2 * BLOCK] = {1};

    m = mic_new(&v);
    v.refuse = true;
    for (unsigned i = 0; i < 3; i++) { /* asked once */
        aud_mic_listen(&m, true);
        aud_mic_record(&m, f, BLOCK);
        aud_mic_listen(&m, false);
    }
    assert_int_equal(f[0], 0);
    assert_int_equal(v.opens, 1);
    assert_int_equal(v.closes, 0);
    m = mic_new(&v);
    v.refuse = false;
    v.hold = true;
    aud_mic_listen(&m, true);
    aud_mic_record(&m, f, BLOCK);
    aud_mic_listen(&m, false);
    assert_true(m.hangs);
    assert_int_equal(v.closes, 0);
    v.hold = false;
    usleep(100000);
}

UNIT_MAIN(cmocka_unit_test(what_is_pushed_is_written_to_the_end),
          cmocka_unit_test(a_short_sound_is_heard_without_more_to_come),
          cmocka_unit_test(a_host_that_takes_nothing_stops_nobody),
          cmocka_unit_test(what_the_host_records_arrives_in_order),
          cmocka_unit_test(a_microphone_that_is_not_there_or_hangs_is_silence))
