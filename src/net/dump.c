/* -object filter-dump: writes every frame of a back end to a file in pcap format (link type Ethernet). */
#include "base/bytes.h"
#include "net/net_int.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { MAGIC = 0xa1b2c3d4, LINK_ETHERNET = 1, FILE_HEADER = 24, RECORD_HEADER = 16 };

struct dump {
    struct obj obj;      /* first */
    char *netdev, *file; /* properties */
    uint32_t maxlen;     /* property */
    int fd;
    bool failed;
    struct net_tap tap;
    struct run *run; /* borrowed */
};

static void dump_frame(void *opaque, const struct iov *frame, unsigned hdr)
{
    struct dump *d = opaque;
    int64_t us = clk_now(d->run->host) / 1000;
    uint64_t len = frame->len > hdr ? frame->len - hdr : 0, keep = min_u64(len, d->maxlen);
    uint8_t *rec;

    if (d->failed || !(rec = try_alloc(1, RECORD_HEADER + keep)))
        return;
    put_le32(rec, us / 1000000);
    put_le32(rec + 4, us % 1000000);
    put_le32(rec + 8, keep);
    put_le32(rec + 12, len);
    iov_to_buf(frame, hdr, rec + RECORD_HEADER, keep);
    if (write(d->fd, rec, RECORD_HEADER + keep) != (ssize_t)(RECORD_HEADER + keep)) {
        warn_report("filter-dump: writing '%s' failed; no more frames are recorded", d->file);
        d->failed = true;
    }
    free(rec);
}

static bool dump_ready(struct obj *o, struct err **errp)
{
    struct dump *d = container_of(o, struct dump, obj);
    struct net_set *s = net_set_of(o->ctx);
    struct net_peer *p;
    uint8_t h[FILE_HEADER] = {0};

    if (!d->netdev)
        return err_set(errp, "filter-dump: netdev= is missing");
    if (!s || !(p = net_find(s, d->netdev)))
        return err_set(errp, "filter-dump: no network back end with id '%s'", d->netdev);
    d->fd = open(d->file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (d->fd < 0)
        return err_set_errno(errp, errno, "filter-dump: cannot create '%s'", d->file);
    put_le32(h, MAGIC);
    put_le16(h + 4, 2);
    put_le16(h + 6, 4);
    put_le32(h + 16, d->maxlen);
    put_le32(h + 20, LINK_ETHERNET);
    if (write(d->fd, h, sizeof h) != sizeof h)
        return err_set_errno(errp, errno, "filter-dump: cannot write '%s'", d->file);
    d->run = s->run;
    d->tap.frame = dump_frame;
    d->tap.opaque = d;
    list_add(&p->taps, &d->tap.link);
    return true;
}

static void dump_init(struct obj *o)
{
    struct dump *d = container_of(o, struct dump, obj);

    d->fd = -1;
    list_init(&d->tap.link);
}

static void dump_free(struct obj *o)
{
    struct dump *d = container_of(o, struct dump, obj);

    list_del(&d->tap.link);
    if (d->fd >= 0)
        close(d->fd);
}

static const struct prop dump_props[] = {
    PROP("netdev", str, struct dump, netdev, .help = "back end to record"),
    PROP("file", str, struct dump, file, .dflt = "qemu-vlan0.pcap"),
    PROP("maxlen", u32, struct dump, maxlen, .dflt = "65536", .help = "bytes kept of each frame"),
    PROP_END,
};
static const struct obj_class dump_class = {.name = "filter-dump",
                                            .size = sizeof(struct dump),
                                            .props = dump_props,
                                            .init = dump_init,
                                            .ready = dump_ready,
                                            .free = dump_free,
                                            .user = true,
                                            .desc = "records the frames of a network back end in pcap format"};
OBJ_REGISTER(dump_class)
