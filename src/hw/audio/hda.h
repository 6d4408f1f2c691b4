/* High Definition Audio: what a controller and the codecs on its link say to each other.
 *
 * Intel High Definition Audio Specification 1.0a. A controller embeds a struct hda_bus; codecs plug into it with an
 * address each (0 to 14). Commands and frames go straight to a codec, which answers at once. Machine lock held. */
#ifndef HW_AUDIO_HDA_H
#define HW_AUDIO_HDA_H

#include "aud/aud.h"
#include "dev/dev.h"

enum { HDA_CODECS = 15 };
struct hda_codec;
struct hda_bus {
    struct bus bus;                      /* first; type "HDA" */
    struct hda_codec *codec[HDA_CODECS]; /* borrowed, by address */
    void (*plugged)(void *opaque, unsigned address);
    void *opaque;
};
void hda_bus_init(struct hda_bus *b, struct dev *owner);
void hda_bus_fini(struct hda_bus *b);

/* A command without its codec address (7.3.1), and the answer. */
uint32_t hda_command(struct hda_codec *c, uint32_t command);
/* Link reset: every codec as after power-on. */
void hda_bus_reset(struct hda_bus *b);
/* Frames of a stream, in the format as registers and verbs spell it (3.7.1): to every codec that listens to it, or from
 * one that feeds it (silence when none does). */
void hda_bus_play(struct hda_bus *b, unsigned stream, uint16_t format, const uint8_t *buf, unsigned frames);
void hda_bus_record(struct hda_bus *b, unsigned stream, uint16_t format, uint8_t *buf, unsigned frames);
void hda_bus_stop(struct hda_bus *b, unsigned stream, enum aud_dir dir);
struct aud_fmt hda_format(uint16_t format);

#endif
