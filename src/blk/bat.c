/* See bat.h. */
#include "blk/bat.h"
#include <errno.h>

bool bat_open(struct bat *b, struct blk_node *n, uint64_t off, uint64_t nr, bool big, const char *what,
              struct err **errp)
{
    uint64_t bytes = align_up(nr * 4, 512);
    int r;

    fibre_mutex_init(&b->lock);
    if (nr > (UINT64_C(512) << 20) / 4)
        return err_set(errp, "%s: too many blocks", what);
    b->nr = (uint32_t)nr;
    b->off = off;
    b->big = big;
    b->raw = try_alloc(1, bytes ? bytes : 1);
    b->dirty = try_alloc(1, bytes / 512 + 1);
    if (!b->raw || !b->dirty)
        return err_set(errp, "%s: no memory for the block table", what);
    r = blk_pread(n->file, off, b->raw, nr * 4);
    return r >= 0 || err_set_errno(errp, -r, "%s: cannot read the block table", what);
}

void bat_close(struct bat *b)
{
    free(b->raw);
    free(b->dirty);
    b->raw = b->dirty = NULL;
}

void bat_set(struct bat *b, uint64_t i, uint32_t v)
{
    if (b->big)
        put_be32(b->raw + i * 4, v);
    else
        put_le32(b->raw + i * 4, v);
    b->dirty[i / 128] = 1;
    b->any_dirty = true;
}

int bat_commit(struct bat *b, struct blk_node *n)
{
    uint64_t bytes = (uint64_t)b->nr * 4;
    int r;

    if (!b->any_dirty)
        return 0;
    fibre_mutex_lock(&b->lock); /* entries set from here on belong to the next commit */
    r = b->before ? b->before(n) : 0;
    if (r >= 0)
        r = blk_pflush(n->file); /* B1 */
    for (uint64_t s = 0; s * 512 < bytes && r >= 0; s++) {
        if (!b->dirty[s])
            continue;
        r = blk_pwrite(n->file, b->off + s * 512, b->raw + s * 512, min_u64(512, bytes - s * 512));
        if (r >= 0)
            b->dirty[s] = 0;
    }
    if (r >= 0)
        b->any_dirty = false;
    fibre_mutex_unlock(&b->lock);
    return r;
}
