/* null-co and null-aio: a disk that keeps nothing. Reads give zeros when read-zeroes is on, else leave the buffer as it
 * is made by us (zeros too: no stale memory ever reaches a guest). latency-ns delays each request. */
#include "base/json.h"
#include "blk/node.h"
#include <errno.h>
#include <time.h>

struct null {
    int64_t latency;
    bool read_zeroes;
};
static const char *const null_known[] = {"size", "latency-ns", "read-zeroes", "filename", NULL};

static bool null_parse(const char *filename, struct opts *o, struct err **errp)
{
    if (strchr(filename, ':')[1] == '/' && strchr(filename, ':')[2] == '/')
        return true;
    return err_set(errp, "The only allowed filename for this driver is 'null-co://' or 'null-aio://'");
}

static bool null_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct null *s = n->priv;
    uint64_t lat = 0;

    opts_get(o, "filename");
    n->size = UINT64_C(1) << 30;
    if (!opts_size(o, "size", &n->size, errp) || !opts_u64(o, "latency-ns", &lat, errp) ||
        !opts_bool(o, "read-zeroes", &s->read_zeroes, errp))
        return false;
    if (n->size > INT64_MAX || lat > INT64_MAX)
        return err_set(errp, "null: size or latency-ns is too large");
    s->latency = (int64_t)lat;
    if (!n->filename)
        n->filename = xasprintf("%s://", n->drv->name);
    return true;
}

static int nap(void *opaque)
{
    struct null *s = opaque;
    struct timespec ts = {s->latency / NS_PER_SEC, s->latency % NS_PER_SEC};

    nanosleep(&ts, NULL);
    return 0;
}

static int delay(struct blk_node *n)
{
    struct null *s = n->priv;

    return s->latency ? blk_offload(n->set, nap, s) : 0;
}

static int null_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                       unsigned flags)
{
    iov_set(q, qoff, 0, len);
    return delay(n);
}

static int null_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                        unsigned flags)
{
    return delay(n);
}

static int null_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    return delay(n);
}

static int null_flush(struct blk_node *n)
{
    return delay(n);
}

static int null_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
    struct null *s = n->priv;

    *e = (struct blk_extent){.flags = BLK_ST_OFFSET | BLK_ST_ALLOC | BLK_ST_DATA | (s->read_zeroes ? BLK_ST_ZERO : 0),
                             .len = len,
                             .map = off,
                             .map_node = n};
    return 0;
}

static uint64_t null_allocated(struct blk_node *n)
{
    return 0;
}

#define NULL_CALLS                                                                                                     \
    .kind = BLK_PROTOCOL, .priv_size = sizeof(struct null), .known = null_known, .parse_filename = null_parse,         \
    .open = null_open, .preadv = null_preadv, .pwritev = null_pwritev, .pwrite_zeroes = null_zeroes, .discard = NULL,  \
    .flush = null_flush, .block_status = null_status, .allocated = null_allocated

static const struct blk_driver drv_null_co = {.name = "null-co", .prefix = "null-co", NULL_CALLS};
static const struct blk_driver drv_null_aio = {.name = "null-aio", .prefix = "null-aio", NULL_CALLS};
BLK_REGISTER(drv_null_co)
BLK_REGISTER(drv_null_aio)
