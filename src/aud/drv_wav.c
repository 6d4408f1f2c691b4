/* -audiodev wav,path=FILE: what the guest plays, in a RIFF/WAVE file (Microsoft Multimedia Programming Interface 1.0,
 * chapter 3). Silence between two sounds is left out: the file holds what was played while something ran.
 *
 * The two lengths in the header follow what is in the file every SYNC_BYTES and at the end, so that a file whose
 * program was killed lacks its last part at most. */
#include "aud/aud_int.h"
#include "base/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { HEADER = 44, SYNC_BYTES = 64 * 1024, BUF = 16 * 1024, PCM = 1, IEEE_FLOAT = 3 };
#define MAX_DATA (UINT32_MAX - 2 * HEADER) /* lengths have 32 bits */

struct wav {
    int fd;
    char *path; /* owned */
    bool failed;
    uint32_t data, synced; /* bytes in the file after the header; what the header says */
    uint32_t len;          /* in buf, not in the file yet */
    uint8_t buf[BUF];
};

static bool put(struct wav *w, const void *p, size_t len, off_t at)
{
    ssize_t r;

    do
        r = pwrite(w->fd, p, len, at);
    while (r < 0 && errno == EINTR);
    if (r == (ssize_t)len)
        return true;
    if (!w->failed)
        warn_report("-audiodev wav: writing '%s' failed (%s); no more sound is recorded", w->path,
                    r < 0 ? strerror(errno) : "the disk is full");
    w->failed = true;
    return false;
}

static bool header(struct wav *w, const struct aud_fmt *f, uint32_t data)
{
    unsigned frame = aud_frame_bytes(f);
    uint8_t h[HEADER] = "RIFF....WAVEfmt ";

    put_le32(h + 4, data + HEADER - 8);
    put_le32(h + 16, 16);
    put_le16(h + 20, f->sample == AUD_F32 ? IEEE_FLOAT : PCM);
    put_le16(h + 22, f->channels);
    put_le32(h + 24, f->rate);
    put_le32(h + 28, f->rate * frame);
    put_le16(h + 32, (uint16_t)frame);
    put_le16(h + 34, (uint16_t)(aud_sample_bytes(f->sample) * 8));
    memcpy(h + 36, "data", 4);
    put_le32(h + 40, data);
    w->synced = data;
    return put(w, h, sizeof h, 0);
}

static void flush(struct aud_dev *d)
{
    struct wav *w = d->priv;

    if (w->len && !w->failed && put(w, w->buf, w->len, (off_t)HEADER + w->data))
        w->data += w->len;
    w->len = 0;
}

static void wav_play(struct aud_dev *d, const void *frames, size_t nr)
{
    struct wav *w = d->priv;
    uint32_t len = (uint32_t)(nr * aud_frame_bytes(&d->fmt));

    if (w->failed)
        return;
    if (MAX_DATA - w->data - w->len < len) {
        warn_report("-audiodev wav: '%s' is as long as such a file can be; no more sound is recorded", w->path);
        flush(d);
        w->failed = true;
        header(w, &d->fmt, w->data);
        return;
    }
    if (w->len + len > BUF)
        flush(d);
    memcpy(w->buf + w->len, frames, len); /* a piece is smaller than the buffer */
    w->len += len;
    if (w->data - w->synced >= SYNC_BYTES)
        header(w, &d->fmt, w->data);
}

static void wav_close(struct aud_dev *d)
{
    struct wav *w = d->priv;

    flush(d);
    if (!w->failed)
        header(w, &d->fmt, w->data);
    close(w->fd);
    free(w->path);
    free(w);
}

static bool wav_open(struct aud_dev *d, struct opts *o, struct err **errp)
{
    static const enum aud_sample as[AUD_SAMPLES] = {AUD_U8, AUD_U8, AUD_S16, AUD_S16, AUD_S32, AUD_S32, AUD_F32};
    const char *path = opts_get(o, "path");
    struct wav *w = xnew(struct wav);
    struct err *e = NULL;

    d->fmt.sample = as[d->fmt.sample]; /* what such a file can say */
    w->path = xstrdup(path ? path : "qemu.wav");
    w->fd = open(w->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0)
        err_set_errno(&e, errno, "wav: cannot create '%s'", w->path);
    else if (lseek(w->fd, 0, SEEK_CUR) < 0)
        err_set(&e, "wav: '%s' is no file whose header can be completed later", w->path);
    else if (!header(w, &d->fmt, 0))
        err_set(&e, "wav: cannot write '%s'", w->path);
    if (!e) {
        d->priv = w;
        return true;
    }
    err_move(errp, e);
    if (w->fd >= 0)
        close(w->fd);
    free(w->path);
    free(w);
    return false;
}

static const char *const wav_keys[] = {"path", NULL};
static const struct aud_driver wav_driver = {.name = "wav",
                                             .desc = "what the guest plays goes to a WAV file",
                                             .keys = wav_keys,
                                             .open = wav_open,
                                             .close = wav_close,
                                             .play = wav_play};
AUD_REGISTER(wav_driver)
