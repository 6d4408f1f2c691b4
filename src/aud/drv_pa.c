/* -audiodev pa,server=ADDRESS,out.name=SINK,in.name=SOURCE: plays through a PulseAudio server, or PipeWire's in its
 * place, and records while the guest does, by the simple interface of its library, which is loaded on demand. Without
 * server= it is the user's own. Two channels of 16 bits. out.latency or out.buffer-length (in microseconds) is how much
 * the server holds; the ring before it (sink.h) holds as much. */
#include "aud/aud_int.h"
#include "aud/sink.h"

#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

enum { PLAYBACK = 1, RECORD = 2, S16LE = 3, DEFAULT_US = 40000, MIN_US = 5000, MAX_US = 200000 };

/* As libpulse's binary interface has them. */
struct pa_spec {
    int format;
    uint32_t rate;
    uint8_t channels;
};
struct pa_attr {
    uint32_t maxlength, tlength, prebuf, minreq, fragsize; /* bytes; UINT32_MAX: as the server likes */
};
struct pa {
    void *lib, *stream;
    struct aud_sink *sink;  /* owned */
    char *server, *in_name; /* owned, may be NULL */
    unsigned rate, us;
    void *in_stream; /* while the guest records */
    struct aud_mic mic;
    void *(*open)(const char *server, const char *name, int direction, const char *device, const char *stream,
                  const struct pa_spec *spec, const void *map, const struct pa_attr *attr, int *error);
    void (*close)(void *stream);
    int (*write)(void *stream, const void *data, size_t bytes, int *error);
    int (*read)(void *stream, void *data, size_t bytes, int *error);
    const char *(*strerror)(int error);
};

static bool load(struct pa *p, struct err **errp)
{
    static const struct {
        const char *name;
        size_t off;
    } syms[] = {{"pa_simple_new", offsetof(struct pa, open)},
                {"pa_simple_free", offsetof(struct pa, close)},
                {"pa_simple_write", offsetof(struct pa, write)},
                {"pa_simple_read", offsetof(struct pa, read)},
                {"pa_strerror", offsetof(struct pa, strerror)}};

    p->lib = dlopen("libpulse-simple.so.0", RTLD_NOW | RTLD_NODELETE);
    if (!p->lib) {
        err_set(errp, "pa: its library cannot be loaded: %s", dlerror());
        err_hint(errp, "install the package libpulse0, or use -audiodev none");
        return false;
    }
    for (unsigned i = 0; i < ARRAY_LEN(syms); i++) {
        void *f = dlsym(p->lib, syms[i].name);

        if (!f)
            return err_set(errp, "pa: libpulse-simple has no %s", syms[i].name);
        memcpy((char *)p + syms[i].off, &f, sizeof f);
    }
    return true;
}

static bool pa_write(void *priv, const int16_t *frames, size_t nr)
{
    struct pa *p = priv;
    int e = 0;

    if (p->write(p->stream, frames, nr * 4, &e) >= 0)
        return true;
    warn_report("-audiodev pa: the server is gone (%s); there is no more sound", p->strerror(e));
    return false;
}

/* ---- recording ---- */

static bool mic_read(void *priv, int16_t *frames, size_t nr)
{
    struct pa *p = priv;
    int e = 0;

    return p->read(p->in_stream, frames, nr * 4, &e) >= 0;
}

static bool mic_open(void *priv, struct err **errp)
{
    struct pa *p = priv;
    struct pa_spec spec = {S16LE, p->rate, 2};
    struct pa_attr attr = {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, 0};
    int e = 0;

    attr.fragsize = (uint32_t)((uint64_t)p->rate * p->us / 1000000 * 4);
    p->in_stream = p->open(p->server, err_program(), RECORD, p->in_name, "record", &spec, NULL, &attr, &e);
    return p->in_stream || err_set(errp, "the server gives nothing to record: %s", p->strerror(e));
}

static void mic_close(void *priv)
{
    struct pa *p = priv;

    p->close(p->in_stream);
}

static void pa_listen(struct aud_dev *d, bool on)
{
    aud_mic_listen(&((struct pa *)d->priv)->mic, on);
}

static void pa_record(struct aud_dev *d, void *frames, size_t nr)
{
    aud_mic_record(&((struct pa *)d->priv)->mic, frames, nr);
}

/* ---- playing, and life ---- */

static void pa_play(struct aud_dev *d, const void *frames, size_t nr)
{
    aud_sink_push(((struct pa *)d->priv)->sink, frames, nr);
}

static void release(struct pa *p)
{
    aud_mic_listen(&p->mic, false);
    if ((p->sink && !aud_sink_free(p->sink)) || p->mic.hangs)
        return; /* the server does not answer: what its thread uses stays */
    if (p->stream)
        p->close(p->stream);
    if (p->lib)
        dlclose(p->lib);
    free(p->server);
    free(p->in_name);
    free(p);
}

static void pa_close(struct aud_dev *d)
{
    release(d->priv);
}

static bool options(struct opts *o, uint64_t *us, struct err **errp)
{
    uint64_t n = 0;

    opts_get(o, "in.stream-name");
    return opts_u64(o, "in.latency", &n, errp) && opts_u64(o, "out.buffer-length", us, errp) &&
           opts_u64(o, "out.latency", us, errp);
}

static bool pa_open(struct aud_dev *d, struct opts *o, struct err **errp)
{
    const char *server = opts_get(o, "server"), *sink = opts_get(o, "out.name"),
               *stream = opts_get(o, "out.stream-name");
    struct pa_spec spec = {S16LE, d->fmt.rate, 2};
    struct pa_attr attr = {UINT32_MAX, 0, UINT32_MAX, UINT32_MAX, UINT32_MAX};
    const char *in = opts_get(o, "in.name");
    struct pa *p = xnew(struct pa);
    uint64_t us = DEFAULT_US;
    int e = 0;

    p->server = server ? xstrdup(server) : NULL;
    p->in_name = in ? xstrdup(in) : NULL;
    d->fmt.channels = 2;
    d->fmt.sample = AUD_S16;
    if (!options(o, &us, errp) || !load(p, errp))
        goto fail;
    us = max_u64(min_u64(us ? us : DEFAULT_US, MAX_US), MIN_US);
    attr.tlength = (uint32_t)(d->fmt.rate * us / 1000000 * 4);
    p->stream = p->open(server, err_program(), PLAYBACK, sink, stream ? stream : d->id, &spec, NULL, &attr, &e);
    if (!p->stream) {
        err_set(errp, "pa: no sound server at %s%s%s: %s", server ? server : "the usual place", sink ? ", sink " : "",
                sink ? sink : "", p->strerror(e));
        err_hint(errp, "server=unix:/run/user/%u/pulse/native is that of the user; 'pactl info' shows the one in use",
                 (unsigned)getuid());
        goto fail;
    }
    p->rate = d->fmt.rate;
    p->us = (unsigned)us;
    p->mic = (struct aud_mic){.driver = "pa",
                              .rate = p->rate,
                              .latency_ms = p->us / 1000,
                              .open = mic_open,
                              .close = mic_close,
                              .read = mic_read,
                              .priv = p};
    p->sink = aud_sink_new(d->fmt.rate, (unsigned)us / 1000, pa_write, p, errp);
    if (!p->sink)
        goto fail;
    d->priv = p;
    return true;
fail:
    release(p);
    return false;
}

/* Asking a server that is not there would start one. */
static bool pa_present(void)
{
    const char *dir = getenv("XDG_RUNTIME_DIR");
    char path[256];

    if (getenv("PULSE_SERVER"))
        return true;
    return dir && snprintf(path, sizeof path, "%s/pulse/native", dir) < (int)sizeof path && !access(path, W_OK);
}

static const char *const pa_keys[] = {"server",  "out.name",       "out.stream-name", "out.latency",
                                      "in.name", "in.stream-name", "in.latency",      NULL};
static const struct aud_driver pa_driver = {.name = "pa",
                                            .desc = "a PulseAudio server, or PipeWire's",
                                            .keys = pa_keys,
                                            .rank = 2,
                                            .present = pa_present,
                                            .open = pa_open,
                                            .close = pa_close,
                                            .play = pa_play,
                                            .listen = pa_listen,
                                            .record = pa_record};
AUD_REGISTER(pa_driver)
