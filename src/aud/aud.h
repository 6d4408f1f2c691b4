/* Sound: audiodevs (back ends) and the voices that sound devices open on them.
 *
 * Guest time makes the pace. A device keeps an aud_pace, which says how many frames its clock asks for, and gives that
 * many to its voice (or takes them from it) when a timer fires or the guest looks at a position. So a position is right
 * to the frame whenever it is read, and a stopped machine is silent. A voice converts to the audiodev's format and
 * rate; the audiodev adds its running voices up and gives the sum to its driver at once, as far as all have come.
 * Nothing here blocks, and nothing is state of the guest: a device that is restored starts its voices again. Machine
 * lock held in every call. */
#ifndef AUD_AUD_H
#define AUD_AUD_H

#include "base/list.h"
#include "obj/obj.h"
#include "run/run.h"

/* How one sample lies in memory; little-endian. AUD_S32 is also for 20 and 24 bits at the top of 32. */
enum aud_sample { AUD_U8, AUD_S8, AUD_U16, AUD_S16, AUD_U32, AUD_S32, AUD_F32, AUD_SAMPLES };
enum { AUD_MIN_RATE = 1000, AUD_MAX_RATE = 384000, AUD_MAX_CHANNELS = 16 };
struct aud_fmt {
    uint32_t rate;
    uint8_t channels; /* a voice plays the first two (one: on both sides) */
    enum aud_sample sample;
};
unsigned aud_sample_bytes(enum aud_sample s);
static inline unsigned aud_frame_bytes(const struct aud_fmt *f)
{
    return aud_sample_bytes(f->sample) * f->channels;
}

/* The audiodevs of one machine; found by the machine it is bound to, as with network back ends. */
struct aud_set;
struct aud_dev;
struct aud_set *aud_set_new(struct run *r);
void aud_set_free(struct aud_set *s); /* closes the drivers: what they write is whole after it */
void aud_set_bind(struct aud_set *s, void *machine_ctx);
struct aud_set *aud_set_of(void *machine_ctx);
/* -audiodev DRIVER,id=...; errors name what is built in. */
struct aud_dev *aud_create(struct aud_set *s, struct opts *o, struct err **errp);
struct aud_dev *aud_find(struct aud_set *s, const char *id);
const char *aud_dev_id(const struct aud_dev *d);
extern const struct prop_type aud_prop; /* "audiodev" by id; field is struct aud_dev * */
#define AUD_PROP(S, f)                                                                                                 \
    {                                                                                                                  \
        .name = "audiodev", .type = &aud_prop, .off = offsetof(S, f), .help = "audio back end"                         \
    }

/* A stream of one device in one direction. The device owns it and closes it in unrealize. */
struct aud_voice;
enum aud_dir { AUD_OUT, AUD_IN };
/* dev NULL: the first audiodev there is, else one that is made for the purpose: an automatic driver that
 * opens, or none. NULL and an error when the
 * machine has no sound at all. */
struct aud_voice *aud_open(struct aud_dev *dev, void *machine_ctx, enum aud_dir dir, struct err **errp);
void aud_close(struct aud_voice *v); /* NULL is allowed */
/* Starts, or goes on in another format; rate and channels are brought into range. Cheap when nothing changes. */
void aud_start(struct aud_voice *v, const struct aud_fmt *f);
void aud_stop(struct aud_voice *v); /* what was written is heard */
/* Each side's factor, 65536 = as it is. */
void aud_gain(struct aud_voice *v, uint32_t left, uint32_t right);
/* Whole frames in the format of aud_start; nothing happens while stopped. */
void aud_write(struct aud_voice *v, const void *frames, size_t nr);
void aud_read(struct aud_voice *v, void *frames, size_t nr); /* silence where nothing is recorded */
/* 65536 lowered by n steps of step_cb hundredths of a decibel. */
uint32_t aud_attenuate(unsigned n, unsigned step_cb);

/* Frames since a point in guest time. base and done are state of the device; rate is in range. */
struct aud_pace {
    int64_t base;
    uint64_t done;
};
enum { AUD_LATE = 4 }; /* more than a rate / AUD_LATE behind: the rest is given up */
static inline void aud_pace_start(struct aud_pace *p, int64_t now)
{
    *p = (struct aud_pace){now, 0};
}
/* How many frames are due and not done; what is given up counts as done. */
uint32_t aud_pace_due(struct aud_pace *p, uint32_t rate, int64_t now);
/* When the next nr frames will be due, of the same rate. */
int64_t aud_pace_when(const struct aud_pace *p, uint32_t rate, uint32_t nr);

/* Drivers register themselves. */
struct aud_driver {
    const char *name, *desc;
    const char *const *keys; /* options of its own, NULL-terminated; may be NULL */
    /* Tried when no audiodev was asked for: the largest first, 0 never. A failure is kept quiet. present may be NULL.
     */
    unsigned rank;
    bool (*present)(void);
    /* d->fmt is what was asked for; the driver may change what it cannot do. priv is the driver's. May be NULL. */
    bool (*open)(struct aud_dev *d, struct opts *o, struct err **errp);
    void (*close)(struct aud_dev *d);
    void (*play)(struct aud_dev *d, const void *frames, size_t nr); /* NULL: nobody hears it */
    /* The first voice that records has started, or the last has stopped. Both NULL: there is nothing to record. A host
     * that gives no sound is not an error: record gives silence. */
    void (*listen)(struct aud_dev *d, bool on);
    void (*record)(struct aud_dev *d, void *frames, size_t nr); /* exactly nr, in d->fmt */
};
struct aud_driver_reg {
    const struct aud_driver *drv;
    struct aud_driver_reg *next;
};
void aud_driver_register(struct aud_driver_reg *r);
const struct aud_driver *aud_driver_next(const struct aud_driver *prev); /* name order */
extern const char *const aud_common_keys[];                              /* options every driver takes */
#define AUD_REGISTER(drv_)                                                                                             \
    static struct aud_driver_reg drv_##_reg = {.drv = &(drv_)};                                                        \
    static void CONSTRUCTOR drv_##_register(void)                                                                      \
    {                                                                                                                  \
        aud_driver_register(&drv_##_reg);                                                                              \
    }

#endif
