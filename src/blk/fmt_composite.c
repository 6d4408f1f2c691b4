/* A disk put together from pieces: children in a row, each at its offset, zeros between them. What an md array or a
 * device-mapper table was made for: a partition of the host as a whole disk, behind a file that holds the boot record.
 *
 *   -blockdev driver=composite,node-name=d,children.0.driver=file,children.0.filename=mbr.img,offset.1=1048576,
 *             children.1.driver=host_device,children.1.filename=/dev/sda3,size=...
 *
 * offset.N is where child N begins; without it, where the one before ended, rounded up to 512. size is the disk's;
 * without it, the last child's end. Gaps read as zeros and take only zeros (-EIO otherwise): nothing written is ever
 * dropped. */
#include "blk/fmt_util.h"
#include <errno.h>
#include <stdio.h>

enum { MAX_PARTS = 16 };

struct part {
    struct blk_child *c;
    uint64_t start, len;
};
struct composite {
    struct part part[MAX_PARTS];
    unsigned nr;
};

static const char *const roles[] = {"children.0",  "children.1",  "children.2",  "children.3",
                                    "children.4",  "children.5",  "children.6",  "children.7",
                                    "children.8",  "children.9",  "children.10", "children.11",
                                    "children.12", "children.13", "children.14", "children.15"};

static bool add_part(struct blk_node *n, struct opts *o, unsigned i, uint64_t *end, struct err **errp)
{
    struct composite *s = n->priv;
    struct part *p = &s->part[s->nr];
    char key[24];

    snprintf(key, sizeof key, "offset.%u", i);
    p->start = align_up(*end, 512);
    if (!opts_size(o, key, &p->start, errp))
        return false;
    if (p->start < *end || p->start & 511)
        return err_set(errp, "composite: offset.%u must be a multiple of 512 at or beyond %" PRIu64, i, *end);
    p->c = blk_child_open(n, NULL, o, roles[i], n->open_flags & ~(unsigned)BLK_O_PROTOCOL, false, errp);
    if (!p->c)
        return false;
    if (n->open_flags & BLK_O_RDWR && blk_node_readonly(p->c->node))
        return err_set(errp, "composite: child %u is read-only; open the disk with read-only=on", i);
    p->len = p->c->node->size;
    if (!add_ok_u64(p->start, p->len, end) || *end > INT64_MAX)
        return err_set(errp, "composite: the children are too large together");
    n->request_align = (uint32_t)max_u64(n->request_align, p->c->node->request_align);
    s->nr++;
    return true;
}

static bool composite_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct composite *s = n->priv;
    uint64_t end = 0;

    for (unsigned i = 0; i < ARRAY_LEN(roles) && blk_opts_child(o, roles[i]); i++)
        if (!add_part(n, o, i, &end, errp))
            return false;
    if (!s->nr)
        return err_set(errp, "composite: name at least children.0");
    n->size = align_up(end, 512);
    if (!opts_size(o, "size", &n->size, errp))
        return false;
    if (n->size < end)
        return err_set(errp, "composite: size %" PRIu64 " is less than the children need (%" PRIu64 ")", n->size, end);
    return true;
}

/* The part that holds off, or NULL; *run: how far that answer goes. */
static const struct part *part_at(const struct composite *s, uint64_t off, uint64_t *run)
{
    *run = UINT64_MAX;
    for (unsigned i = 0; i < s->nr; i++) {
        const struct part *p = &s->part[i];

        if (off < p->start) {
            *run = p->start - off;
            return NULL;
        }
        if (off < p->start + p->len) {
            *run = p->start + p->len - off;
            return p;
        }
    }
    return NULL;
}

static int composite_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                            unsigned flags)
{
    while (len) {
        uint64_t run;
        const struct part *p = part_at(n->priv, off, &run);
        int r = 0;

        run = min_u64(run, len);
        if (p)
            r = blk_preadv(p->c, off - p->start, run, q, qoff, flags);
        else
            iov_set(q, qoff, 0, run);
        if (r < 0)
            return r;
        off += run;
        qoff += run;
        len -= run;
    }
    return 0;
}

static int composite_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                             unsigned flags)
{
    while (len) {
        uint64_t run;
        const struct part *p = part_at(n->priv, off, &run);
        int r;

        run = min_u64(run, len);
        if (p)
            r = blk_pwritev(p->c, off - p->start, run, q, qoff, flags);
        else
            r = iov_is_zero(q, qoff, run) ? 0 : -EIO;
        if (r < 0)
            return r;
        off += run;
        qoff += run;
        len -= run;
    }
    return 0;
}

static int each_part(struct blk_node *n, uint64_t off, uint64_t len, int flags /* -1: discard */)
{
    while (len) {
        uint64_t run;
        const struct part *p = part_at(n->priv, off, &run);
        int r = 0;

        run = min_u64(run, len);
        if (p)
            r = flags < 0 ? blk_pdiscard(p->c, off - p->start, run)
                          : blk_pwrite_zeroes(p->c, off - p->start, run, (unsigned)flags);
        if (r < 0)
            return r;
        off += run;
        len -= run;
    }
    return 0;
}

static int composite_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    return each_part(n, off, len, (int)flags);
}

static int composite_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    return each_part(n, off, len, -1);
}

static int composite_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e)
{
    uint64_t run;
    const struct part *p = part_at(n->priv, off, &run);

    *e = (struct blk_extent){.flags = p ? BLK_ST_DATA | BLK_ST_ALLOC | BLK_ST_OFFSET | BLK_ST_RECURSE
                                        : BLK_ST_ZERO | BLK_ST_ALLOC,
                             .len = min_u64(run, len),
                             .map = p ? off - p->start : 0,
                             .map_node = p ? p->c->node : NULL};
    return 0;
}

/* Guests write to the parts, nobody else may meanwhile. */
static void composite_perm(struct blk_node *n, const struct blk_child *c, unsigned perm, unsigned shared, unsigned *cp,
                           unsigned *cs)
{
    *cp = perm & (BLK_PERM_READ | BLK_PERM_WRITE | BLK_PERM_WRITE_SAME);
    *cs = shared & ~(unsigned)BLK_PERM_RESIZE;
}

static const struct blk_driver drv_composite = {
    .name = "composite",
    .kind = BLK_FORMAT,
    .priv_size = sizeof(struct composite),
    .no_file = true,
    .open = composite_open,
    .child_perm = composite_perm,
    .preadv = composite_preadv,
    .pwritev = composite_pwritev,
    .pwrite_zeroes = composite_zeroes,
    .discard = composite_discard,
    .block_status = composite_status,
};
BLK_REGISTER(drv_composite)
