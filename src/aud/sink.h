/* Sound on the host: frames come at the guest's pace, and a thread of the sink's own hands them to the host, which
 * takes them at the pace of its sound clock and blocks. Between the two lies a ring, kept about as full as the latency
 * says by playing up to 0.2 % faster or slower. aud_sink_push: machine lock held. */
#ifndef AUD_SINK_H
#define AUD_SINK_H

#include "base/err.h"

struct aud_sink;
/* On the sink's thread: takes all nr frames (s16, two channels). False: the host's sound is gone for good. */
typedef bool aud_sink_fn(void *priv, const int16_t *frames, size_t nr);

struct aud_sink *aud_sink_new(uint32_t rate, unsigned latency_ms, aud_sink_fn *write, void *priv, struct err **errp);
void aud_sink_push(struct aud_sink *s, const int16_t *frames, size_t nr);
/* What is queued is heard, but half a second is all that is waited. False: write has not come back; what it uses must
 * stay. */
bool aud_sink_free(struct aud_sink *s);

/* The other way: what the host records, read by a thread because that blocks too, and taken at the guest's pace. It
 * runs while the guest records. What nobody takes is forgotten, oldest first. A driver embeds one and fills in the
 * first part; machine lock held. */
struct aud_source;
struct aud_mic {
    const char *driver; /* for messages */
    uint32_t rate;
    unsigned latency_ms;
    bool (*open)(void *priv, struct err **errp);
    void (*close)(void *priv);
    bool (*read)(void *priv, int16_t *frames, size_t nr); /* on its thread: all nr. False: there are no more */
    void *priv;
    struct aud_source *source; /* owned; NULL: nobody listens, or there is nothing to hear */
    bool failed;               /* said so already; it is not tried again */
    bool hangs;                /* read never came back: what it uses must stay, and source with it */
};
void aud_mic_listen(struct aud_mic *m, bool on);
void aud_mic_record(struct aud_mic *m, int16_t *frames, size_t nr); /* silence where there is nothing */

#endif
