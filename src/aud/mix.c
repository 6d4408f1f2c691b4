/* Voices: conversion of formats and rates, gains, and the sum of what an audiodev's voices play.
 *
 * Inside, a sample has 24 bits and a sign. Rates are converted by straight lines between frames: simple, exact where
 * they are equal, and enough for speech and effects; tones near half the lower rate come out with images.
 * An audiodev's time is counted in its own frames. A running voice has come as far as `pos`; all frames before the
 * least `pos` are complete and go to the driver. Who falls MIX_RING frames behind another is not waited for. */
#include "aud/aud_int.h"
#include "base/bytes.h"

enum {
    MIX_BITS = 24,
    MIX_MAX = (1 << (MIX_BITS - 1)) - 1,
    MIX_MIN = -(1 << (MIX_BITS - 1)),
    CHUNK = 512,
    READ_AT_ONCE = 16
};

unsigned aud_sample_bytes(enum aud_sample s)
{
    return s <= AUD_S8 ? 1 : s <= AUD_S16 ? 2 : 4;
}

static int32_t clip(int64_t v)
{
    return v > MIX_MAX ? MIX_MAX : v < MIX_MIN ? MIX_MIN : (int32_t)v;
}

static int32_t from_float(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof f);
    if (!(f > -1.0f)) /* also what is no number */
        return f <= -1.0f ? MIX_MIN : 0;
    return f >= 1.0f ? MIX_MAX : (int32_t)(f * (float)(1 << (MIX_BITS - 1)));
}

static int32_t get_sample(const uint8_t *p, enum aud_sample s)
{
    switch (s) {
    case AUD_U8:
        return (*p - 0x80) * (1 << 16);
    case AUD_S8:
        return (int8_t)*p * (1 << 16);
    case AUD_U16:
        return (get_le16(p) - 0x8000) * (1 << 8);
    case AUD_S16:
        return (int16_t)get_le16(p) * (1 << 8);
    case AUD_U32:
        return (int32_t)(get_le32(p) ^ 0x80000000u) >> 8;
    case AUD_S32:
        return (int32_t)get_le32(p) >> 8;
    default:
        return from_float(get_le32(p));
    }
}

static void put_sample(uint8_t *p, enum aud_sample s, int32_t v)
{
    float f = (float)v / (float)(1 << (MIX_BITS - 1));
    uint32_t bits;

    switch (s) {
    case AUD_U8:
    case AUD_S8:
        *p = (uint8_t)((v >> 16) ^ (s == AUD_U8 ? 0x80 : 0));
        break;
    case AUD_U16:
    case AUD_S16:
        put_le16(p, (uint16_t)((v >> 8) ^ (s == AUD_U16 ? 0x8000 : 0)));
        break;
    case AUD_U32:
    case AUD_S32:
        put_le32(p, (uint32_t)v << 8 ^ (s == AUD_U32 ? 0x80000000u : 0));
        break;
    default:
        memcpy(&bits, &f, sizeof bits);
        put_le32(p, bits);
    }
}

/* ---- the sum ---- */

static void play(struct aud_dev *d, uint64_t end)
{
    uint8_t out[CHUNK * 2 * 4];
    unsigned size = aud_sample_bytes(d->fmt.sample);

    while (d->played < end) {
        size_t n = min_u64(end - d->played, CHUNK);
        uint8_t *p = out;

        for (size_t i = 0; i < n; i++) {
            int32_t *f = d->mix[(d->played + i) % MIX_RING];

            if (d->fmt.channels == 1) {
                put_sample(p, d->fmt.sample, clip(((int64_t)f[0] + f[1]) / 2));
                p += size;
            } else {
                put_sample(p, d->fmt.sample, clip(f[0]));
                put_sample(p + size, d->fmt.sample, clip(f[1]));
                p += 2 * size;
            }
            f[0] = f[1] = 0;
        }
        if (d->drv->play)
            d->drv->play(d, out, n);
        d->played += n;
    }
}

/* As far as every running voice has come; when none runs, as far as the one that came furthest. */
static void play_ready(struct aud_dev *d)
{
    uint64_t least = UINT64_MAX, most = d->played;
    struct aud_voice *v;

    list_each (v, &d->voices, link) {
        if (v->dir != AUD_OUT)
            continue;
        if (v->running)
            least = min_u64(least, v->pos);
        most = max_u64(most, v->pos);
    }
    play(d, min_u64(least, most));
}

static void add_frame(struct aud_voice *v, const int32_t f[2])
{
    struct aud_dev *d = v->dev;
    int32_t *sum;

    if (v->pos < d->played)
        v->pos = d->played;
    if (v->pos - d->played >= MIX_RING)
        play(d, v->pos - MIX_RING / 2);
    sum = d->mix[v->pos++ % MIX_RING];
    for (unsigned i = 0; i < 2; i++) /* 256 times the range of one voice */
        sum[i] = (int32_t)max_i64(min_i64((int64_t)sum[i] + f[i], INT32_MAX), INT32_MIN);
}

/* ---- voices ---- */

static void add_resampled(struct aud_voice *v, const int32_t f[2])
{
    uint64_t step = ((uint64_t)v->fmt.rate << 32) / v->dev->fmt.rate;

    while (!(v->at >> 32)) {
        int32_t out[2];

        for (unsigned i = 0; i < 2; i++) {
            int64_t diff = (int64_t)f[i] - v->prev[i];

            out[i] = v->prev[i] + (int32_t)(diff * (int64_t)(v->at >> 16) / 65536);
        }
        add_frame(v, out);
        v->at += step;
    }
    v->at -= UINT64_C(1) << 32;
    v->prev[0] = f[0];
    v->prev[1] = f[1];
}

void aud_write(struct aud_voice *v, const void *frames, size_t nr)
{
    const uint8_t *p = frames;
    unsigned size = aud_sample_bytes(v->fmt.sample), whole = aud_frame_bytes(&v->fmt);

    if (!v->running || !v->dev)
        return;
    for (size_t k = 0; k < nr; k++, p += whole) {
        int32_t f[2];

        f[0] = get_sample(p, v->fmt.sample);
        f[1] = v->fmt.channels > 1 ? get_sample(p + size, v->fmt.sample) : f[0];
        for (unsigned i = 0; i < 2; i++)
            f[i] = (int32_t)(((int64_t)f[i] * v->gain[i]) >> 16);
        if (v->fmt.rate == v->dev->fmt.rate)
            add_frame(v, f);
        else
            add_resampled(v, f);
    }
    play_ready(v->dev);
}

/* ---- recording: frame n of what the driver gave lies at n % MIX_RING ---- */

_Static_assert((uint64_t)READ_AT_ONCE *(AUD_MAX_RATE / AUD_MIN_RATE) < MIX_RING, "what is asked for fits the ring");

/* Makes the frames before `end` known. */
static void record(struct aud_dev *d, uint64_t end)
{
    uint8_t in[CHUNK * 2 * 4];
    unsigned size = aud_sample_bytes(d->fmt.sample), second = d->fmt.channels > 1 ? size : 0;

    while (d->recorded < end) {
        size_t n = min_u64(end - d->recorded, CHUNK);
        const uint8_t *p = in;

        d->drv->record(d, in, n);
        for (size_t i = 0; i < n; i++, p += size + second) {
            int32_t *f = d->rec[d->recorded++ % MIX_RING];

            f[0] = get_sample(p, d->fmt.sample);
            f[1] = get_sample(p + second, d->fmt.sample);
        }
    }
}

static void next_recorded(struct aud_voice *v)
{
    struct aud_dev *d = v->dev;

    if (d->recorded - v->pos > MIX_RING) /* it is too far behind the others */
        v->pos = d->recorded;
    v->prev[0] = v->next[0];
    v->prev[1] = v->next[1];
    memcpy(v->next, d->rec[v->pos++ % MIX_RING], sizeof v->next);
}

static void read_frame(struct aud_voice *v, int32_t f[2], uint64_t step)
{
    for (unsigned i = 0; i < 2; i++)
        f[i] = v->prev[i] + (int32_t)(((int64_t)v->next[i] - v->prev[i]) * (int64_t)(v->at >> 16) / 65536);
    for (v->at += step; v->at >> 32; v->at -= UINT64_C(1) << 32)
        next_recorded(v);
}

void aud_read(struct aud_voice *v, void *frames, size_t nr)
{
    unsigned size = aud_sample_bytes(v->fmt.sample);
    bool heard = v->running && v->dev && v->dev->listening;
    uint64_t step = heard ? ((uint64_t)v->dev->fmt.rate << 32) / v->fmt.rate : 0;
    uint8_t *p = frames;

    for (size_t k = 0; k < nr; k++) {
        int32_t f[2] = {0};

        if (heard) {
            if (k % READ_AT_ONCE == 0) /* at the largest step that is less than the ring holds */
                record(v->dev, v->pos + ((v->at + step * min_u64(nr - k, READ_AT_ONCE)) >> 32));
            read_frame(v, f, step);
        }
        for (unsigned c = 0; c < v->fmt.channels; c++, p += size)
            put_sample(p, v->fmt.sample, c < 2 ? f[c] : 0);
    }
}

/* Whether anybody records has changed. */
static void set_listening(struct aud_dev *d)
{
    struct aud_voice *v;
    bool on = false;

    list_each (v, &d->voices, link)
        on |= v->dir == AUD_IN && v->running;
    if (!d->drv->listen || on == d->listening)
        return;
    if (!d->rec)
        d->rec = xcalloc(MIX_RING, sizeof *d->rec);
    d->drv->listen(d, on);
    d->listening = on;
}

void aud_start(struct aud_voice *v, const struct aud_fmt *f)
{
    struct aud_fmt in = *f;

    in.rate = (uint32_t)max_u64(min_u64(in.rate, AUD_MAX_RATE), AUD_MIN_RATE);
    in.channels = (uint8_t)max_u64(min_u64(in.channels, AUD_MAX_CHANNELS), 1);
    if (v->running && in.rate == v->fmt.rate && in.channels == v->fmt.channels && in.sample == v->fmt.sample)
        return;
    v->fmt = in;
    v->at = 0;
    v->prev[0] = v->prev[1] = v->next[0] = v->next[1] = 0;
    if (!v->running && v->dev)
        v->pos = v->dir == AUD_OUT ? v->dev->played : v->dev->recorded;
    v->running = true;
    if (v->dev && v->dir == AUD_IN)
        set_listening(v->dev);
}

void aud_stop(struct aud_voice *v)
{
    if (!v->running)
        return;
    v->running = false;
    if (v->dev && v->dir == AUD_IN)
        set_listening(v->dev);
    else if (v->dev)
        play_ready(v->dev);
}

void aud_close(struct aud_voice *v)
{
    if (!v)
        return;
    aud_stop(v);
    if (v->dev)
        list_del(&v->link);
    free(v);
}

void aud_gain(struct aud_voice *v, uint32_t left, uint32_t right)
{
    v->gain[0] = (uint32_t)min_u64(left, 16 << 16);
    v->gain[1] = (uint32_t)min_u64(right, 16 << 16);
}

uint32_t aud_attenuate(unsigned n, unsigned step_cb)
{
    uint64_t g = UINT64_C(65536) << 16;

    /* A quarter of a decibel is a factor of 0.971628. */
    for (unsigned quarters = n * step_cb / 25; quarters && g; quarters--)
        g = g * 63677 >> 16;
    return (uint32_t)((g + 0x8000) >> 16);
}

/* ---- pace ---- */

uint32_t aud_pace_due(struct aud_pace *p, uint32_t rate, int64_t now)
{
    uint64_t frames;

    /* Whole seconds do not change what a frame's time is. */
    p->base += (int64_t)(p->done / rate) * NS_PER_SEC;
    p->done %= rate;
    if (now <= p->base)
        return 0;
    if (now - p->base > 2 * NS_PER_SEC) /* nobody asked for a long time: go on from here */
        *p = (struct aud_pace){now - NS_PER_SEC / AUD_LATE, 0};
    frames = (uint64_t)(now - p->base) * rate / NS_PER_SEC;
    if (frames <= p->done)
        return 0;
    if (frames - p->done > rate / AUD_LATE)
        p->done = frames - rate / AUD_LATE;
    return (uint32_t)(frames - p->done);
}

int64_t aud_pace_when(const struct aud_pace *p, uint32_t rate, uint32_t nr)
{
    return p->base + (int64_t)(((p->done + nr) * NS_PER_SEC + rate - 1) / rate);
}
