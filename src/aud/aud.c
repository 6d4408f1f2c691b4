/* Audiodevs: making them from options, finding them, the property that names one. */
#include "aud/aud_int.h"
#include "base/str.h"

static const char *const sample_names[] = {"u8", "s8", "u16", "s16", "u32", "s32", "f32", NULL};
const char *const aud_common_keys[] = {"id",
                                       "timer-period",
                                       "in.mixing-engine",
                                       "in.fixed-settings",
                                       "in.frequency",
                                       "in.channels",
                                       "in.format",
                                       "in.voices",
                                       "in.buffer-length",
                                       "out.mixing-engine",
                                       "out.fixed-settings",
                                       "out.frequency",
                                       "out.channels",
                                       "out.format",
                                       "out.voices",
                                       "out.buffer-length",
                                       NULL};

/* ---- drivers ---- */

static struct aud_driver_reg *drivers; /* filled before main, in name order */

void aud_driver_register(struct aud_driver_reg *r)
{
    struct aud_driver_reg **at = &drivers;

    while (*at && strcmp((*at)->drv->name, r->drv->name) < 0)
        at = &(*at)->next;
    r->next = *at;
    *at = r;
}

const struct aud_driver *aud_driver_next(const struct aud_driver *prev)
{
    struct aud_driver_reg *r = drivers;

    if (!prev)
        return r ? r->drv : NULL;
    while (r && r->drv != prev)
        r = r->next;
    return r && r->next ? r->next->drv : NULL;
}

/* ---- the set ---- */

static const struct obj_class aud_set_class = {.name = "audio-set", .size = sizeof(struct aud_set)};

struct aud_set *aud_set_new(struct run *r)
{
    struct aud_set *s = (struct aud_set *)obj_new(&aud_set_class, NULL);

    s->run = r;
    list_init(&s->devs);
    return s;
}

void aud_set_free(struct aud_set *s)
{
    if (!s)
        return;
    while (!list_empty(&s->devs))
        aud_dev_free(list_first(&s->devs, struct aud_dev, link));
    if (s->obj.parent)
        obj_unparent(&s->obj);
    obj_unref(&s->obj);
}

void aud_set_bind(struct aud_set *s, void *machine_ctx)
{
    s->obj.ctx = machine_ctx;
    obj_put_beside(machine_ctx, "audiodevs", &s->obj);
}

struct aud_set *aud_set_of(void *machine_ctx)
{
    return (struct aud_set *)obj_beside(machine_ctx, "audiodevs", &aud_set_class);
}

struct aud_dev *aud_find(struct aud_set *s, const char *id)
{
    struct aud_dev *d;

    list_each (d, &s->devs, link)
        if (!strcmp(d->id, id))
            return d;
    return NULL;
}

const char *aud_dev_id(const struct aud_dev *d)
{
    return d->id;
}

/* ---- one audiodev ---- */

static const struct aud_driver *find_driver(const char *name, struct err **errp)
{
    static const char *const others[] = {"coreaudio", "dbus", "dsound", "jack", "oss",
                                         "pipewire",  "sdl",  "sndio",  "spice"};
    const struct aud_driver *d = NULL;
    struct strbuf all = {0};
    bool known = false;

    while ((d = aud_driver_next(d))) {
        if (!strcmp(d->name, name)) {
            str_free(&all);
            return d;
        }
        str_addf(&all, "%s%s", all.len ? ", " : "", d->name);
    }
    for (unsigned i = 0; i < ARRAY_LEN(others); i++)
        known |= !strcmp(others[i], name);
    if (known)
        err_set(errp, "audio driver '%s' is not built into this program", name);
    else
        err_set(errp, "unknown audio driver '%s'", name);
    err_hint(errp, "built in: %s; with none the guest's sound device works, and nobody hears it", all.s);
    str_free(&all);
    return NULL;
}

/* Numbers and switches that shape what the host does with sound. Those of mixing that cannot matter here are checked
 * and left at that. */
static bool direction(struct aud_fmt *f, struct opts *o, const char *dir, struct err **errp)
{
    struct opts *p = opts_sub(o, dir);
    uint64_t rate = f->rate, channels = f->channels, voices = 1, length = 0;
    bool engine = true, fixed = true, ok;
    const char *sample = opts_get(p, "format");
    struct opt *it;

    ok = opts_bool(p, "mixing-engine", &engine, errp) && opts_bool(p, "fixed-settings", &fixed, errp) &&
         opts_u64(p, "frequency", &rate, errp) && opts_u64(p, "channels", &channels, errp) &&
         opts_u64(p, "voices", &voices, errp) && opts_u64(p, "buffer-length", &length, errp);
    if (ok && (rate < AUD_MIN_RATE || rate > AUD_MAX_RATE))
        ok =
            err_set(errp, "%s.frequency=%" PRIu64 " is out of range (%d to %d)", dir, rate, AUD_MIN_RATE, AUD_MAX_RATE);
    if (ok && (channels < 1 || channels > 2))
        ok = err_set(errp, "%s.channels=%" PRIu64 " is out of range (1 or 2)", dir, channels);
    if (ok && sample) {
        int i = 0;

        while (sample_names[i] && strcmp(sample_names[i], sample))
            i++;
        if (!sample_names[i])
            ok = err_set(errp, "%s.format=%s is none of u8, s8, u16, s16, u32, s32, f32", dir, sample);
        else
            f->sample = (enum aud_sample)i;
    }
    if (ok) {
        f->rate = (uint32_t)rate;
        f->channels = (uint8_t)channels;
    }
    /* What nobody took stays for the driver and the final check. */
    list_each (it, &p->all, link)
        if (!it->used) {
            AUTOFREE char *key = xasprintf("%s.%s", dir, it->key);

            opts_set(o, key, it->val);
        }
    opts_free(p);
    return ok;
}

/* Every key the driver knows, for the nearest one in a message. */
static bool all_used(struct opts *o, const struct aud_driver *drv, struct err **errp)
{
    const char *known[64];
    unsigned n = 0;
    AUTOFREE char *what = xasprintf("audio driver '%s'", drv->name);

    for (unsigned i = 0; aud_common_keys[i]; i++)
        known[n++] = aud_common_keys[i];
    for (unsigned i = 0; drv->keys && drv->keys[i]; i++)
        known[n++] = drv->keys[i];
    assert(n < ARRAY_LEN(known));
    known[n] = NULL;
    return opts_done(o, what, known, errp);
}

static struct aud_dev *new_dev(struct aud_set *s, const char *id, const struct aud_driver *drv)
{
    struct aud_dev *d = xnew(struct aud_dev);

    d->id = xstrdup(id);
    d->drv = drv;
    d->set = s;
    d->fmt = (struct aud_fmt){44100, 2, AUD_S16};
    d->mix = xcalloc(MIX_RING, sizeof *d->mix);
    list_init(&d->voices);
    list_init(&d->link);
    return d;
}

static void drop(struct aud_dev *d)
{
    free(d->mix);
    free(d->rec);
    free(d->id);
    free(d);
}

struct aud_dev *aud_create(struct aud_set *s, struct opts *o, struct err **errp)
{
    const char *driver = opts_get(o, "driver"), *id = opts_get(o, "id");
    const struct aud_driver *drv = driver ? find_driver(driver, errp) : NULL;
    struct aud_fmt in = {44100, 2, AUD_S16};
    uint64_t period = 10000;
    struct aud_dev *d;

    if (!driver) {
        err_set(errp, "the audio driver is missing");
        err_hint(errp, "-audiodev help lists them");
    }
    if (!drv)
        return NULL;
    if (!id || !*id) {
        err_set(errp, "id= is missing");
        err_hint(errp, "give the back end a name, as in -audiodev %s,id=snd0, and -device ...,audiodev=snd0", driver);
        return NULL;
    }
    if (aud_find(s, id)) {
        err_set(errp, "there is an audio back end with id '%s' already", id);
        return NULL;
    }
    d = new_dev(s, id, drv);
    if (!opts_u64(o, "timer-period", &period, errp) || !direction(&d->fmt, o, "out", errp) ||
        !direction(&in, o, "in", errp) || (drv->open && !drv->open(d, o, errp)))
        goto fail;
    if (!all_used(o, drv, errp)) {
        if (drv->close)
            drv->close(d);
        goto fail;
    }
    list_add(&s->devs, &d->link);
    return d;
fail:
    drop(d);
    return NULL;
}

void aud_dev_free(struct aud_dev *d)
{
    struct aud_voice *v;

    list_each (v, &d->voices, link) /* their devices may outlive the set when the program ends */
        aud_stop(v);
    while ((v = list_first(&d->voices, struct aud_voice, link))) {
        list_del(&v->link);
        v->dev = NULL;
    }
    list_del(&d->link);
    if (d->drv->close)
        d->drv->close(d);
    drop(d);
}

static const struct aud_driver none_driver = {.name = "none",
                                              .desc = "no sound: the guest's devices work all the same"};
AUD_REGISTER(none_driver)

/* Opens a driver as it is without options; NULL when it cannot. */
static struct aud_dev *open_plain(struct aud_set *s, const struct aud_driver *drv)
{
    struct aud_dev *d = new_dev(s, drv->name, drv);
    struct opts *o = opts_new();
    bool ok = !drv->open || drv->open(d, o, NULL);

    opts_free(o);
    if (!ok) {
        drop(d);
        return NULL;
    }
    list_add(&s->devs, &d->link);
    return d;
}

/* Nobody asked for a back end: what the host has, or none. */
static struct aud_dev *automatic(struct aud_set *s)
{
    struct aud_dev *d = NULL;

    for (unsigned rank = 2; !d && rank; rank--)
        for (const struct aud_driver *drv = NULL; !d && (drv = aud_driver_next(drv));)
            if (drv->rank == rank && (!drv->present || drv->present()))
                d = open_plain(s, drv);
    return d ? d : open_plain(s, &none_driver);
}

struct aud_voice *aud_open(struct aud_dev *dev, void *machine_ctx, enum aud_dir dir, struct err **errp)
{
    struct aud_set *s = aud_set_of(machine_ctx);
    struct aud_voice *v;

    if (!s) {
        err_set(errp, "this machine has no sound");
        return NULL;
    }
    if (!dev)
        dev = list_first(&s->devs, struct aud_dev, link);
    if (!dev)
        dev = automatic(s);
    v = xnew(struct aud_voice);
    v->dev = dev;
    v->dir = dir;
    v->gain[0] = v->gain[1] = 65536;
    list_add(&dev->voices, &v->link);
    return v;
}

/* ---- the property ---- */

static bool audiodev_set(struct obj *o, const struct prop *p, void *field, const char *val, struct err **errp)
{
    struct aud_set *s = aud_set_of(o->ctx);
    struct aud_dev *d = s ? aud_find(s, val) : NULL;

    if (!d) {
        err_set(errp, "property '%s': no audio back end with id '%s'", p->name, val);
        err_hint(errp, "define it with -audiodev DRIVER,id=%s", val);
        return false;
    }
    *(struct aud_dev **)field = d;
    return true;
}

static char *audiodev_get(struct obj *o, const struct prop *p, const void *field)
{
    const struct aud_dev *d = *(struct aud_dev *const *)field, *it;
    struct aud_set *s = aud_set_of(o->ctx);

    if (d && s)
        list_each (it, &s->devs, link)
            if (it == d)
                return xstrdup(d->id);
    return NULL;
}
const struct prop_type aud_prop = {.name = "str", .set = audiodev_set, .get = audiodev_get};
