/* See simdisk.h. */
#include "blk/simdisk.h"
#include "blk/blk_int.h"
#include <errno.h>

struct sim sims[NR_SIMS];
uint64_t sim_clock;
bool sim_no_pause;
uint64_t sim_max = 256 << 20;
enum { KEEP = 32 << 20 }; /* memory a disk takes along when it is made anew: the host need not find zeros again */

void sim_reset(struct sim *s)
{
    for (size_t i = 0; i < s->nr; i++)
        free(s->log[i].data);
    free(s->log);
    if (s->cap > KEEP) {
        free(s->bytes);
        s->bytes = NULL;
        s->cap = 0;
    } else if (s->size) { /* there is nothing but zeros beyond size */
        memset(s->bytes, 0, s->size);
    }
    *s = (struct sim){.bytes = s->bytes, .cap = s->cap, .fail_after = -1, .fail_read_after = -1};
}

static void touch(struct sim *s, uint64_t from, uint64_t to)
{
    for (uint64_t i = from / SIM_PAGE; i < SIM_PAGES && i * SIM_PAGE < to; i++)
        s->touched[i] = true;
}

static void resize(struct sim *s, uint64_t size)
{
    touch(s, min_u64(s->size, size), max_u64(s->size, size));
    if (size > s->cap) {
        s->bytes = xrealloc(s->bytes, size * 2);
        memset(s->bytes + s->cap, 0, size * 2 - s->cap);
        s->cap = size * 2;
    }
    if (size < s->size)
        memset(s->bytes + size, 0, s->size - size);
    s->size = size;
}

void sim_apply(struct sim *s, const struct sim_entry *e)
{
    if (e->op == SIM_FLUSH)
        return;
    if (e->op == SIM_TRUNCATE) {
        resize(s, e->off);
        return;
    }
    if (e->off + e->len > s->size)
        resize(s, e->off + e->len);
    touch(s, e->off, e->off + e->len);
    if (e->op == SIM_WRITE)
        memcpy(s->bytes + e->off, e->data, e->len);
    else
        memset(s->bytes + e->off, 0, e->len);
}

void sim_copy(struct sim *dst, const struct sim *src)
{
    resize(dst, 0);
    resize(dst, src->size);
    if (src->size)
        memcpy(dst->bytes, src->bytes, src->size);
}

void sim_sync(struct sim *dst, struct sim *src)
{
    resize(dst, src->size);
    for (uint64_t i = 0; i < SIM_PAGES && i * SIM_PAGE < src->size; i++)
        if (dst->touched[i] || src->touched[i])
            memcpy(dst->bytes + i * SIM_PAGE, src->bytes + i * SIM_PAGE, min_u64(SIM_PAGE, src->size - i * SIM_PAGE));
    memset(dst->touched, 0, sizeof dst->touched);
    memset(src->touched, 0, sizeof src->touched);
}

static int record(struct sim *s, struct sim_entry e)
{
    if (e.off > sim_max || e.len > sim_max - e.off) { /* larger than any disk of ours */
        free(e.data);
        return -EFBIG;
    }
    if (s->fail_after == 0 || (s->fail_after < -1 && s->fail_for_ever)) {
        free(e.data);
        s->fail_after = s->fail_for_ever ? -2 : -1;
        return -s->fail_errno;
    }
    if (s->fail_after > 0)
        s->fail_after--;
    sim_apply(s, &e);
    if (!s->recording) {
        free(e.data);
        return 0;
    }
    if (s->nr == s->cap_log) {
        s->cap_log = s->cap_log ? s->cap_log * 2 : 256;
        s->log = xrealloc(s->log, s->cap_log * sizeof *s->log);
    }
    e.seq = sim_clock++;
    s->log[s->nr++] = e;
    return 0;
}

static struct sim *of(struct blk_node *n)
{
    return *(struct sim **)n->priv;
}

static bool sim_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    const char *name = opts_get(o, "filename");
    struct sim *s;

    if (!name || *name < '0' || *name >= '0' + NR_SIMS)
        return err_set(errp, "sim: filename is 0..%d", NR_SIMS - 1);
    s = &sims[*name - '0'];
    *(struct sim **)n->priv = s;
    n->size = s->size;
    n->growable = n->open_flags & BLK_O_RDWR;
    if (!n->filename)
        n->filename = xasprintf("sim:%s", name);
    return true;
}

/* Suspends now and then, so that requests of several fibres interleave. */
static void pause_now(struct blk_node *n)
{
    static unsigned tick;

    if (!sim_no_pause && fibre_self() && ++tick % 3 == 0) {
        fibre_wake(n->set->loop, fibre_self());
        fibre_yield();
    }
}

static int sim_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                      unsigned flags)
{
    struct sim *s = of(n);
    uint64_t in = off >= s->size ? 0 : min_u64(len, s->size - off);

    pause_now(n);
    if (s->fail_read_after >= 0 && s->fail_read_after-- == 0)
        return -EIO;
    if (in)
        iov_from_buf(q, qoff, s->bytes + off, in);
    iov_set(q, qoff + in, 0, len - in);
    return 0;
}

static int sim_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                       unsigned flags)
{
    uint8_t *data = xmalloc(len);

    iov_to_buf(q, qoff, data, len);
    pause_now(n);
    return record(of(n), (struct sim_entry){SIM_WRITE, off, len, data});
}

static int sim_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    pause_now(n);
    return record(of(n), (struct sim_entry){SIM_ZERO, off, len, NULL});
}

static int sim_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct sim *s = of(n);

    if (off >= s->size)
        return 0;
    return sim_zeroes(n, off, min_u64(len, s->size - off), 0);
}

static int sim_flush(struct blk_node *n)
{
    pause_now(n);
    return record(of(n), (struct sim_entry){SIM_FLUSH, 0, 0, NULL});
}

static int sim_truncate(struct blk_node *n, uint64_t size, enum blk_prealloc p, struct err **errp)
{
    int r = record(of(n), (struct sim_entry){SIM_TRUNCATE, size, 0, NULL});

    if (r < 0)
        err_set_errno(errp, -r, "sim: cannot resize");
    return r;
}

static uint64_t sim_length(struct blk_node *n)
{
    return of(n)->size;
}

static bool sim_create(struct blk_set *set, const char *filename, struct opts *o, struct err **errp)
{
    uint64_t size = 0;
    struct sim *s = &sims[filename[4] - '0'];

    if (!opts_size(o, "size", &size, errp))
        return false;
    record(s, (struct sim_entry){SIM_TRUNCATE, 0, 0, NULL});
    record(s, (struct sim_entry){SIM_TRUNCATE, size, 0, NULL});
    return true;
}

static bool sim_parse(const char *filename, struct opts *o, struct err **errp)
{
    opts_replace(o, "filename", filename + 4);
    return true;
}

static bool sim_reopen(struct blk_node *n, bool rw, struct err **errp)
{
    n->growable = rw;
    return true;
}

static const struct blk_driver drv_sim = {
    .name = "sim",
    .prefix = "sim",
    .kind = BLK_PROTOCOL,
    .priv_size = sizeof(struct sim *),
    .parse_filename = sim_parse,
    .open = sim_open,
    .reopen = sim_reopen,
    .preadv = sim_preadv,
    .pwritev = sim_pwritev,
    .pwrite_zeroes = sim_zeroes,
    .discard = sim_discard,
    .flush = sim_flush,
    .truncate = sim_truncate,
    .getlength = sim_length,
    .create = sim_create,
};
BLK_REGISTER(drv_sim)
