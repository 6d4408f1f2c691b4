/* quorum: one disk kept on several children. Writes go to all; a read is what at least vote-threshold of them agree on
 * (by contents), or with read-pattern=fifo what the first readable one says. Disagreement raises QUORUM_REPORT_BAD,
 * no majority QUORUM_FAILURE. A flush has to succeed on every child. rewrite-corrupted=on writes the agreed contents
 * over those that differ. */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/fmt_util.h"
#include <errno.h>
#include <stdio.h>

enum { MAX_KIDS = 16 };
static const char *const roles[MAX_KIDS] = {"children.0",  "children.1",  "children.2",  "children.3",
                                            "children.4",  "children.5",  "children.6",  "children.7",
                                            "children.8",  "children.9",  "children.10", "children.11",
                                            "children.12", "children.13", "children.14", "children.15"};

struct quorum {
    struct blk_child *kid[MAX_KIDS];
    unsigned nr;
    uint64_t threshold;
    bool fifo, verify, rewrite;
};

static bool take_settings(struct quorum *s, struct opts *o, struct err **errp)
{
    const char *v = opts_get(o, "read-pattern");

    if (v && strcmp(v, "fifo") != 0 && strcmp(v, "quorum") != 0)
        return err_set(errp, "Invalid parameter '%s'", v);
    s->fifo = v && *v == 'f';
    if (!opts_bool(o, "blkverify", &s->verify, errp) || !opts_bool(o, "rewrite-corrupted", &s->rewrite, errp) ||
        !opts_u64(o, "vote-threshold", &s->threshold, errp))
        return false;
    if (s->fifo && (s->verify || s->rewrite))
        return err_set(errp, "%s=on can only be used with read-pattern=quorum",
                       s->verify ? "blkverify" : "rewrite-corrupted");
    if (s->verify && (s->nr != 2 || s->threshold != 2))
        return err_set(errp, "blkverify=on can only be set if there are exactly two files and vote-threshold is 2");
    return true;
}

static bool quorum_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct quorum *s = n->priv;

    for (; s->nr < MAX_KIDS && blk_opts_child(o, roles[s->nr]); s->nr++) {
        struct blk_child *c =
            blk_child_open(n, NULL, o, roles[s->nr], n->open_flags & ~(unsigned)BLK_O_PROTOCOL, false, errp);

        if (!c)
            return false;
        s->kid[s->nr] = c;
        if (s->nr && c->node->size != n->size)
            return err_set(errp, "quorum: child %u has another size than the first", s->nr);
        n->size = c->node->size;
        n->request_align = (uint32_t)max_u64(n->request_align, c->node->request_align);
    }
    if (!s->nr)
        return err_set(errp, "Number of provided children must be 1 or more");
    s->threshold = s->nr / 2 + 1;
    if (!take_settings(s, o, errp))
        return false;
    if (!s->threshold || s->threshold > s->nr)
        return err_set(errp, "threshold may not exceed children count");
    return true;
}

static void report(struct blk_node *n, unsigned i, uint64_t off, uint64_t len, const char *type, int err)
{
    struct quorum *s = n->priv;

    run_event(n->set->run, "QUORUM_REPORT_BAD",
              json_make("s:type", type, "s:error", err < 0 ? strerror(-err) : NULL, "s:node-name",
                        s->kid[i]->node->name, "u:sector-num", off / 512, "u:sectors-count", div_up(len, 512), NULL));
}

static void fail(struct blk_node *n, uint64_t off, uint64_t len)
{
    run_event(n->set->run, "QUORUM_FAILURE",
              json_make("s:reference", n->name, "u:sector-num", off / 512, "u:sectors-count", div_up(len, 512), NULL));
}

static int read_fifo(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct quorum *s = n->priv;
    int r = -EIO;

    for (unsigned i = 0; i < s->nr && r < 0; i++) {
        r = blk_preadv(s->kid[i], off, len, q, qoff, 0);
        if (r < 0)
            report(n, i, off, len, "read", r);
    }
    return r;
}

/* Which of the answers at least `threshold` children gave; -1 = none. */
static int winner(const struct quorum *s, uint8_t *const *buf, uint64_t len)
{
    for (unsigned i = 0; i < s->nr; i++) {
        unsigned votes = 0;

        for (unsigned k = 0; buf[i] && k < s->nr; k++)
            votes += buf[k] && !memcmp(buf[i], buf[k], len);
        if (votes >= s->threshold)
            return (int)i;
    }
    return -1;
}

static void settle(struct blk_node *n, uint64_t off, uint64_t len, uint8_t *const *buf, unsigned best)
{
    struct quorum *s = n->priv;

    for (unsigned i = 0; i < s->nr; i++) {
        if (!buf[i] || !memcmp(buf[i], buf[best], len))
            continue;
        report(n, i, off, len, "read", 0);
        if (s->rewrite && !blk_node_readonly(s->kid[i]->node))
            blk_pwrite(s->kid[i], off, buf[best], len);
    }
}

static int read_vote(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct quorum *s = n->priv;
    uint8_t *buf[MAX_KIDS] = {0};
    int r = -EIO, best, w = 0;

    for (unsigned i = 0; i < s->nr && w != -ENOMEM; i++) {
        buf[i] = try_alloc_aligned(4096, len);
        w = buf[i] ? blk_pread(s->kid[i], off, buf[i], len) : -ENOMEM;
        if (w < 0) {
            free(buf[i]);
            buf[i] = NULL;
            report(n, i, off, len, "read", w);
        }
    }
    best = winner(s, buf, len);
    if (best >= 0) {
        iov_from_buf(q, qoff, buf[best], len);
        settle(n, off, len, buf, (unsigned)best);
        r = 0;
    } else if (s->verify) {
        warn_report("quorum: contents mismatch at offset %" PRIu64, off);
    }
    if (r < 0)
        fail(n, off, len);
    for (unsigned i = 0; i < s->nr; i++)
        free(buf[i]);
    return r;
}

static int quorum_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                         unsigned flags)
{
    enum { PIECE = 1 << 20 };
    struct quorum *s = n->priv;
    int r = 0;

    while (len && r >= 0) {
        uint64_t part = min_u64(len, PIECE);

        r = s->fifo ? read_fifo(n, off, part, q, qoff) : read_vote(n, off, part, q, qoff);
        off += part;
        qoff += part;
        len -= part;
    }
    return r;
}

/* As many as the threshold must take it. */
static int count(struct blk_node *n, unsigned good, int r, uint64_t off, uint64_t len)
{
    struct quorum *s = n->priv;

    if (good >= s->threshold)
        return 0;
    fail(n, off, len);
    return r < 0 ? r : -EIO;
}

static int quorum_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                          unsigned flags)
{
    struct quorum *s = n->priv;
    unsigned good = 0;
    int r = 0;

    for (unsigned i = 0; i < s->nr; i++) {
        int w = blk_pwritev(s->kid[i], off, len, q, qoff, flags);

        good += w >= 0;
        if (w < 0)
            report(n, i, off, len, "write", r = w);
    }
    return count(n, good, r, off, len);
}

static void quorum_perm(struct blk_node *n, const struct blk_child *c, unsigned perm, unsigned shared, unsigned *cp,
                        unsigned *cs)
{
    const struct quorum *s = n->priv;

    *cp = perm | (s->rewrite && n->open_flags & BLK_O_RDWR ? BLK_PERM_WRITE : 0);
    *cs = shared & ~(unsigned)(BLK_PERM_WRITE | BLK_PERM_RESIZE);
}

static const struct blk_driver drv_quorum = {.name = "quorum",
                                             .kind = BLK_FORMAT,
                                             .priv_size = sizeof(struct quorum),
                                             .no_file = true,
                                             .open = quorum_open,
                                             .child_perm = quorum_perm,
                                             .preadv = quorum_preadv,
                                             .pwritev = quorum_pwritev};
BLK_REGISTER(drv_quorum)
