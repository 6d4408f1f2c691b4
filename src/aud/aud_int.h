/* What the files of this room and its drivers share. */
#ifndef AUD_AUD_INT_H
#define AUD_AUD_INT_H

#include "aud/aud.h"

enum { MIX_RING = 8192 }; /* frames one voice may be ahead of another; a power of two */

struct aud_set {
    struct obj obj; /* first */
    struct run *run;
    struct list devs; /* of struct aud_dev */
};

struct aud_dev {
    char *id; /* owned */
    const struct aud_driver *drv;
    struct aud_set *set;
    struct list link;   /* in set->devs */
    struct list voices; /* of struct aud_voice */
    struct aud_fmt fmt; /* what the driver gets */
    uint64_t played;    /* frames given to the driver since the start */
    int32_t (*mix)[2];  /* owned: MIX_RING frames of sums, 24 bits each; frame n lies at n % MIX_RING */
    int32_t (*rec)[2];  /* owned: as mix, of what was recorded; NULL until something records */
    uint64_t recorded;  /* frames of it so far */
    bool listening;
    void *priv; /* the driver's */
};

struct aud_voice {
    struct aud_dev *dev; /* borrowed */
    struct list link;
    enum aud_dir dir;
    bool running;
    struct aud_fmt fmt;
    uint32_t gain[2];
    uint64_t pos;    /* where its next frame goes in the audiodev's time */
    uint64_t at;     /* resampling: place between prev and the next frame, 32 bits behind the point */
    int32_t prev[2]; /* the last frame */
    int32_t next[2]; /* recording: the one after it */
};

void aud_dev_free(struct aud_dev *d);

#endif
