/* For tests of sound devices on the bare machine: a stepped clock, a WAV file behind the device, and what is in it. */
#ifndef TESTS_UNIT_HW_SOUND_H
#define TESTS_UNIT_HW_SOUND_H

#include "hw/pci_bare.h"
#include <unistd.h>

enum { SOUND_HEADER = 44 };
struct sound {
    struct bare *b;
    char path[64];
    int64_t now;
};

/* With a back end "w" of this rate, which devices name. */
static UNUSED struct sound *sound_new(unsigned rate)
{
    struct sound *s = xnew(struct sound);
    AUTOFREE char *text = NULL;
    struct opts *o;

    s->b = bare_new();
    clk_set_stepped(s->b->run->virt);
    s->now = clk_now(s->b->run->virt);
    strcpy(s->path, "/tmp/lyrebird-sound-XXXXXX");
    close(mkstemp(s->path));
    text = xasprintf("wav,id=w,path=%s,out.frequency=%u", s->path, rate);
    o = opts_parse(text, "driver", NULL);
    assert_non_null(aud_create(s->b->aud, o, NULL));
    opts_free(o);
    return s;
}

static UNUSED void sound_step(struct sound *s, int64_t ns)
{
    s->now += ns;
    clk_step_to(s->b->run->virt, s->now);
}

/* Ends the machine; the samples of the file (caller frees) and how many frames of two they are. */
static UNUSED int16_t *sound_end(struct sound *s, unsigned *frames)
{
    struct bare *b = s->b;
    int16_t *v = xcalloc(1, 64 << 20);
    FILE *f;
    size_t n;

    bare_free(b);
    f = fopen(s->path, "rb");
    fseek(f, SOUND_HEADER, SEEK_SET);
    n = fread(v, 4, 16 << 20, f);
    fclose(f);
    unlink(s->path);
    free(s);
    *frames = (unsigned)n;
    return v;
}

#endif
