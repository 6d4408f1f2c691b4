/* Throttle: holds requests back so that bytes and operations per second stay below limits. Leaky buckets: a request may
 * pass when the level of each bucket it touches is below its burst size; the levels drain with time. */
#include "blk/job_int.h"
#include <errno.h>
#include <time.h>

enum { T_BPS, T_BPS_RD, T_BPS_WR, T_IOPS, T_IOPS_RD, T_IOPS_WR, NR_T };
static const char *const keys[NR_T][3] = {
    {"bps-total", "bps", "x-bps-total"},     {"bps-read", "bps_rd", "x-bps-read"},
    {"bps-write", "bps_wr", "x-bps-write"},  {"iops-total", "iops", "x-iops-total"},
    {"iops-read", "iops_rd", "x-iops-read"}, {"iops-write", "iops_wr", "x-iops-write"}};

struct throttle {
    double rate[NR_T], burst[NR_T], level[NR_T];
    int64_t last;
};

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

static bool take(struct opts *o, unsigned i, const char *suffix, double *out, struct err **errp)
{
    for (unsigned k = 0; k < 3; k++) {
        char *key AUTOFREE = xasprintf("%s%s", keys[i][k], suffix);
        uint64_t v = 0;

        if (!opts_size(o, key, &v, errp))
            return false;
        if (v)
            *out = (double)v;
    }
    return true;
}

static bool throttle_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct throttle *t = n->priv;

    opts_get(o, "throttle-group");
    opts_get(o, "group");
    opts_get(o, "iops-size");
    for (unsigned i = 0; i < NR_T; i++) {
        double len = 0;

        if (!take(o, i, "", &t->rate[i], errp) || !take(o, i, "-max", &t->burst[i], errp) ||
            !take(o, i, "-max-length", &len, errp))
            return false;
        if (t->burst[i] && t->burst[i] < t->rate[i])
            return err_set(errp, "%s-max is lower than %s", keys[i][0], keys[i][0]);
        if (!t->burst[i])
            t->burst[i] = t->rate[i] / 10; /* a tenth of a second at full speed */
        else if (len > 1)
            t->burst[i] *= len;
    }
    if (t->rate[T_BPS] > 0 && (t->rate[T_BPS_RD] > 0 || t->rate[T_BPS_WR] > 0))
        return err_set(errp, "bps/iops/max total values and read/write values cannot be used at the same time");
    n->size = n->file->node->size;
    t->last = now_ns();
    return true;
}

/* Waits until the request may pass, and counts it. */
static void pass(struct blk_node *n, uint64_t len, bool write)
{
    struct throttle *t = n->priv;
    const unsigned mine[4] = {T_BPS, write ? T_BPS_WR : T_BPS_RD, T_IOPS, write ? T_IOPS_WR : T_IOPS_RD};

    for (;;) {
        int64_t now = now_ns();
        double dt = (double)(now - t->last) / 1e9, wait = 0;

        t->last = now;
        for (unsigned i = 0; i < NR_T; i++)
            t->level[i] = t->level[i] > t->rate[i] * dt ? t->level[i] - t->rate[i] * dt : 0;
        for (unsigned k = 0; k < 4; k++) {
            unsigned i = mine[k];

            if (t->rate[i] > 0 && t->level[i] > t->burst[i] && (t->level[i] - t->burst[i]) / t->rate[i] > wait)
                wait = (t->level[i] - t->burst[i]) / t->rate[i];
        }
        if (wait <= 0 || !fibre_self())
            break;
        blk_sleep(n->set, (int64_t)(wait * 1e9) + 1);
    }
    for (unsigned k = 0; k < 4; k++)
        t->level[mine[k]] += mine[k] <= T_BPS_WR ? (double)len : 1;
}

static int t_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    pass(n, len, false);
    return blk_preadv(n->file, off, len, q, qoff, flags);
}
static int t_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    pass(n, len, true);
    return blk_pwritev(n->file, off, len, q, qoff, flags);
}
static int t_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    pass(n, len, true);
    return blk_pwrite_zeroes(n->file, off, len, flags);
}
static int t_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    pass(n, len, true);
    return blk_pdiscard(n->file, off, len);
}
static uint64_t t_length(struct blk_node *n)
{
    return blk_node_length(n->file->node);
}
static int t_truncate(struct blk_node *n, uint64_t size, enum blk_prealloc p, struct err **errp)
{
    return blk_node_truncate(n->file->node, size, p, errp);
}

static const struct blk_driver drv_throttle = {
    .name = "throttle",
    .kind = BLK_FILTER,
    .priv_size = sizeof(struct throttle),
    .open = throttle_open,
    .preadv = t_preadv,
    .pwritev = t_pwritev,
    .pwrite_zeroes = t_zeroes,
    .discard = t_discard,
    .getlength = t_length,
    .truncate = t_truncate,
};
BLK_REGISTER(drv_throttle)

/* ---- copy on read ---- */

static bool cor_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    opts_get(o, "bottom");
    n->size = n->file->node->size;
    return true;
}

static int cor_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                      unsigned flags)
{
    struct blk_node *f = blk_node_unfiltered(n->file->node);

    if (!blk_node_readonly(f) && f->backing) {
        int r = blk_node_copy_up(f, off, len);

        if (r < 0 && r != -ENOSPC) /* out of space: the read itself still works */
            return r;
    }
    return blk_preadv(n->file, off, len, q, qoff, flags);
}
static int cor_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                       unsigned flags)
{
    return blk_pwritev(n->file, off, len, q, qoff, flags);
}
static int cor_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    return blk_pwrite_zeroes(n->file, off, len, flags);
}
static int cor_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    return blk_pdiscard(n->file, off, len);
}

static const struct blk_driver drv_cor = {
    .name = "copy-on-read",
    .kind = BLK_FILTER,
    .open = cor_open,
    .preadv = cor_preadv,
    .pwritev = cor_pwritev,
    .pwrite_zeroes = cor_zeroes,
    .discard = cor_discard,
    .getlength = t_length,
    .truncate = t_truncate,
};
BLK_REGISTER(drv_cor)
