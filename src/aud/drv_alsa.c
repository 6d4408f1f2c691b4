/* -audiodev alsa,out.dev=NAME,in.dev=NAME: plays on a sound device of ALSA ("default" unless named), and records from
 * one while the guest does, through its library, which is loaded on demand. out.buffer-length (in microseconds) is the
 * device's buffer; the ring before it (sink.h) holds as much. Two channels of 16 bits. out.try-poll, period-length and
 * threshold are accepted: a thread that may block has no use for them. */
#include "aud/aud_int.h"
#include "aud/sink.h"

#include <dlfcn.h>
#include <errno.h>

enum {
    PLAYBACK = 0,
    CAPTURE = 1,
    S16_LE = 2,
    RW_INTERLEAVED = 3,
    DEFAULT_US = 40000,
    MIN_US = 5000,
    MAX_US = 200000,
    TRIES = 8
};

typedef void alsa_error_fn(const char *file, int line, const char *function, int error, const char *fmt, ...);
struct alsa {
    void *lib, *pcm;
    struct aud_sink *sink; /* owned */
    char *name, *in_name;  /* owned: of the devices */
    unsigned rate, us;
    void *in_pcm; /* while the guest records */
    struct aud_mic mic;
    int (*open)(void **pcm, const char *name, int stream, int mode);
    int (*close)(void *pcm);
    int (*set_params)(void *pcm, int format, int access, unsigned channels, unsigned rate, int resample,
                      unsigned latency_us);
    long (*writei)(void *pcm, const void *frames, unsigned long nr);
    long (*readi)(void *pcm, void *frames, unsigned long nr);
    int (*start)(void *pcm);
    int (*recover)(void *pcm, int error, int silent);
    const char *(*strerror)(int error);
    int (*set_error_handler)(alsa_error_fn *fn);
};

/* Failures are told in our own words. */
static void quiet(const char *file, int line, const char *function, int error, const char *fmt, ...)
{
}

static bool load(struct alsa *a, struct err **errp)
{
    static const struct {
        const char *name;
        size_t off;
    } syms[] = {{"snd_pcm_open", offsetof(struct alsa, open)},
                {"snd_pcm_close", offsetof(struct alsa, close)},
                {"snd_pcm_set_params", offsetof(struct alsa, set_params)},
                {"snd_pcm_writei", offsetof(struct alsa, writei)},
                {"snd_pcm_readi", offsetof(struct alsa, readi)},
                {"snd_pcm_start", offsetof(struct alsa, start)},
                {"snd_pcm_recover", offsetof(struct alsa, recover)},
                {"snd_strerror", offsetof(struct alsa, strerror)},
                {"snd_lib_error_set_handler", offsetof(struct alsa, set_error_handler)}};

    a->lib = dlopen("libasound.so.2", RTLD_NOW | RTLD_NODELETE);
    if (!a->lib) {
        err_set(errp, "alsa: its library cannot be loaded: %s", dlerror());
        err_hint(errp, "install the package libasound2, or use -audiodev none");
        return false;
    }
    for (unsigned i = 0; i < ARRAY_LEN(syms); i++) {
        void *f = dlsym(a->lib, syms[i].name);

        if (!f)
            return err_set(errp, "alsa: libasound has no %s", syms[i].name);
        memcpy((char *)a + syms[i].off, &f, sizeof f);
    }
    a->set_error_handler(quiet);
    return true;
}

static bool alsa_write(void *priv, const int16_t *frames, size_t nr)
{
    struct alsa *a = priv;

    for (unsigned tries = 0; nr && tries < TRIES;) {
        long r = a->writei(a->pcm, frames, nr);

        if (r > 0) {
            frames += 2 * r;
            nr -= (size_t)r;
            tries = 0;
        } else {
            tries++; /* it ran dry, or the host slept: that is mended */
            if (r < 0 && (r = a->recover(a->pcm, (int)r, 1)) < 0) {
                warn_report("-audiodev alsa: '%s' stopped (%s); there is no more sound", a->name, a->strerror((int)r));
                return false;
            }
        }
    }
    return true;
}

/* ---- recording ---- */

/* What went wrong is mended a few times. */
static bool mic_read(void *priv, int16_t *frames, size_t nr)
{
    struct alsa *a = priv;

    for (unsigned tries = 0; nr; tries++) {
        long r = a->readi(a->in_pcm, frames, nr);

        if (r > 0) {
            frames += 2 * r;
            nr -= (size_t)r;
            tries = 0;
        } else if (tries == TRIES || (r < 0 && a->recover(a->in_pcm, (int)r, 1) < 0)) {
            return false;
        } else {
            a->start(a->in_pcm);
        }
    }
    return true;
}

static bool mic_open(void *priv, struct err **errp)
{
    struct alsa *a = priv;
    int r = a->open(&a->in_pcm, a->in_name, CAPTURE, 0);

    if (r < 0)
        return err_set(errp, "cannot open '%s' to record: %s", a->in_name, a->strerror(r));
    r = a->set_params(a->in_pcm, S16_LE, RW_INTERLEAVED, 2, a->rate, 1, a->us);
    if (r >= 0) {
        a->start(a->in_pcm);
        return true;
    }
    a->close(a->in_pcm);
    return err_set(errp, "'%s' does not record %u Hz, 16 bits, two channels: %s", a->in_name, a->rate, a->strerror(r));
}

static void mic_close(void *priv)
{
    struct alsa *a = priv;

    a->close(a->in_pcm);
}

static void alsa_listen(struct aud_dev *d, bool on)
{
    aud_mic_listen(&((struct alsa *)d->priv)->mic, on);
}

static void alsa_record(struct aud_dev *d, void *frames, size_t nr)
{
    aud_mic_record(&((struct alsa *)d->priv)->mic, frames, nr);
}

/* ---- playing, and life ---- */

static void alsa_play(struct aud_dev *d, const void *frames, size_t nr)
{
    aud_sink_push(((struct alsa *)d->priv)->sink, frames, nr);
}

static void release(struct alsa *a)
{
    aud_mic_listen(&a->mic, false);
    if ((a->sink && !aud_sink_free(a->sink)) || a->mic.hangs)
        return; /* the host does not answer: what its thread uses stays */
    if (a->pcm)
        a->close(a->pcm);
    if (a->lib)
        dlclose(a->lib);
    free(a->name);
    free(a->in_name);
    free(a);
}

static void alsa_close(struct aud_dev *d)
{
    release(d->priv);
}

/* Options of both directions; those that change nothing are checked for what they are. */
static bool options(struct alsa *a, struct opts *o, uint64_t *us, struct err **errp)
{
    const char *dev = opts_get(o, "out.dev"), *in = opts_get(o, "in.dev");
    uint64_t n = 0;
    bool b = false;

    a->name = xstrdup(dev && *dev ? dev : "default");
    a->in_name = xstrdup(in && *in ? in : "default");
    return opts_bool(o, "out.try-poll", &b, errp) && opts_bool(o, "in.try-poll", &b, errp) &&
           opts_u64(o, "out.period-length", &n, errp) && opts_u64(o, "in.period-length", &n, errp) &&
           opts_u64(o, "threshold", &n, errp) && opts_u64(o, "out.buffer-length", us, errp);
}

static bool alsa_open(struct aud_dev *d, struct opts *o, struct err **errp)
{
    struct alsa *a = xnew(struct alsa);
    uint64_t us = DEFAULT_US;
    int r;

    d->fmt.channels = 2;
    d->fmt.sample = AUD_S16;
    if (!options(a, o, &us, errp) || !load(a, errp))
        goto fail;
    us = max_u64(min_u64(us ? us : DEFAULT_US, MAX_US), MIN_US);
    r = a->open(&a->pcm, a->name, PLAYBACK, 0);
    if (r < 0) {
        a->pcm = NULL;
        err_set(errp, "alsa: cannot open the sound device '%s': %s", a->name, a->strerror(r));
        err_hint(errp, "aplay -L lists the devices; out.dev=NAME chooses one");
        goto fail;
    }
    r = a->set_params(a->pcm, S16_LE, RW_INTERLEAVED, 2, d->fmt.rate, 1, (unsigned)us);
    if (r < 0) {
        err_set(errp, "alsa: '%s' does not play %" PRIu32 " Hz, 16 bits, two channels: %s", a->name, d->fmt.rate,
                a->strerror(r));
        goto fail;
    }
    a->rate = d->fmt.rate;
    a->us = (unsigned)us;
    a->mic = (struct aud_mic){.driver = "alsa",
                              .rate = a->rate,
                              .latency_ms = a->us / 1000,
                              .open = mic_open,
                              .close = mic_close,
                              .read = mic_read,
                              .priv = a};
    a->sink = aud_sink_new(d->fmt.rate, (unsigned)us / 1000, alsa_write, a, errp);
    if (!a->sink)
        goto fail;
    d->priv = a;
    return true;
fail:
    release(a);
    return false;
}

static const char *const alsa_keys[] = {"out.dev",           "in.dev",           "out.try-poll", "in.try-poll",
                                        "out.period-length", "in.period-length", "threshold",    NULL};
static const struct aud_driver alsa_driver = {.name = "alsa",
                                              .desc = "a sound device of the host, through ALSA",
                                              .keys = alsa_keys,
                                              .rank = 1,
                                              .open = alsa_open,
                                              .close = alsa_close,
                                              .play = alsa_play,
                                              .listen = alsa_listen,
                                              .record = alsa_record};
AUD_REGISTER(alsa_driver)
