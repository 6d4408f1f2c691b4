/* NBD server: one fibre per connection negotiates and reads requests; each request runs in a fibre of its own, at most
 * MAX_REQ at a time. Replies leave under a mutex, in the order they are done. Everything the peer sends is bounded
 * before memory is taken for it. */
#include "base/bytes.h"
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/host.h"
#include "blk/job_int.h"
#include "blk/nbd.h"
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_REQ = 16, MAX_EXTENTS = 1024, NR_CLASSES = 2, UNCOPIED_MIN = 32 << 10 };
enum {
    CTX_ALLOCATION,
    CTX_DEPTH,
    CTX_BITMAP
}; /* metadata contexts; of the n-th bitmap: CTX_BITMAP + n; on the wire + 1 */
static const uint32_t class_size[NR_CLASSES] = {64 << 10, 1 << 20}; /* of buffers that are kept for the next request */

struct conn {
    struct list link;
    struct nbd_server *srv;
    struct nbd_sock sock;
    struct nbd_export *exp; /* borrowed; NULL while negotiating or after its removal */
    struct fibre_mutex send_lock;
    struct fibre *waiting; /* the connection's fibre, waiting for requests to end */
    unsigned running;
    uint8_t *spare[NR_CLASSES][MAX_REQ]; /* owned: buffers not in use */
    unsigned nr_spare[NR_CLASSES];
    bool structured, no_zeroes, adopted;
    uint64_t contexts;         /* bit CTX_x + ... : those the client has chosen */
    struct nbd_export *ctx_of; /* borrowed: for this export; only compared */
};

struct request {
    struct conn *c;
    uint16_t flags, type;
    uint64_t cookie, off;
    uint32_t len;
    uint8_t *buf; /* owned */
};

unsigned nbd_export_flags(const struct nbd_export *e)
{
    return NBD_TF_HAS_FLAGS | NBD_TF_SEND_FLUSH | NBD_TF_SEND_FUA | NBD_TF_CAN_MULTI_CONN |
           (e->readonly ? NBD_TF_READ_ONLY : NBD_TF_SEND_TRIM | NBD_TF_SEND_WRITE_ZEROES | NBD_TF_SEND_FAST_ZERO);
}

static int put(struct conn *c, const void *a, size_t na, const void *b, size_t nb)
{
    struct iovec v[2] = {{(void *)(uintptr_t)a, na}, {(void *)(uintptr_t)b, nb}};
    int r;

    fibre_mutex_lock(&c->send_lock);
    r = nbd_send(&c->sock, v, nb ? 2 : 1);
    fibre_mutex_unlock(&c->send_lock);
    return r;
}

/* Buffers are used again as they are: memory fresh from the kernel would be cleared and faulted in page by page for
 * each request. What is sent was always filled before. */
static unsigned class_of(uint32_t len)
{
    unsigned k = 0;

    while (k < NR_CLASSES && len > class_size[k])
        k++;
    return k;
}

static uint8_t *buf_get(struct conn *c, uint32_t len)
{
    unsigned k = class_of(len);

    if (k < NR_CLASSES && c->nr_spare[k])
        return c->spare[k][--c->nr_spare[k]];
    return try_alloc_aligned(4096, k < NR_CLASSES ? class_size[k] : len);
}

static void buf_put(struct conn *c, uint8_t *buf, uint32_t len)
{
    unsigned k = class_of(len);

    if (buf && k < NR_CLASSES && c->nr_spare[k] < MAX_REQ)
        c->spare[k][c->nr_spare[k]++] = buf;
    else
        free(buf);
}

static void bufs_free(struct conn *c)
{
    for (unsigned k = 0; k < NR_CLASSES; k++)
        while (c->nr_spare[k])
            free(c->spare[k][--c->nr_spare[k]]);
}

/* ---- negotiation ---- */

static int opt_reply(struct conn *c, uint32_t opt, uint32_t type, const void *data, uint32_t len)
{
    uint8_t h[20];

    put_be64(h, NBD_REP_MAGIC);
    put_be32(h + 8, opt);
    put_be32(h + 12, type);
    put_be32(h + 16, len);
    return put(c, h, sizeof h, data, len);
}

static int opt_error(struct conn *c, uint32_t opt, uint32_t type, const char *text)
{
    return opt_reply(c, opt, type, text, (uint32_t)strlen(text));
}

static struct nbd_export *find_export(struct nbd_server *s, const uint8_t *name, size_t len)
{
    struct nbd_export *e;

    list_each (e, &s->exports, link)
        if (strlen(e->name) == len && !memcmp(e->name, name, len))
            return e;
    if (!len && !list_empty(&s->exports)) /* the default export */
        return list_first(&s->exports, struct nbd_export, link);
    return NULL;
}

static int opt_list(struct conn *c)
{
    struct nbd_export *e;

    list_each (e, &c->srv->exports, link) {
        size_t n = strlen(e->name), d = e->desc ? strlen(e->desc) : 0;
        uint8_t *b AUTOFREE = xmalloc(4 + n + d);
        int r;

        put_be32(b, (uint32_t)n);
        memcpy(b + 4, e->name, n);
        if (d)
            memcpy(b + 4 + n, e->desc, d);
        r = opt_reply(c, NBD_OPT_LIST, NBD_REP_SERVER, b, (uint32_t)(4 + n + d));
        if (r < 0)
            return r;
    }
    return opt_reply(c, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
}

static int send_infos(struct conn *c, uint32_t opt, struct nbd_export *e)
{
    struct blk_node *n = e->root->node;
    uint8_t b[14];
    int r;

    put_be16(b, NBD_INFO_BLOCK_SIZE);
    put_be32(b + 2, 1);
    put_be32(b + 6, (uint32_t)max_u64(4096, n->cluster_size <= (1 << 20) ? 4096 : 4096));
    put_be32(b + 10, NBD_MAX_BUFFER);
    r = opt_reply(c, opt, NBD_REP_INFO, b, 14);
    if (r >= 0 && e->desc) {
        size_t d = strlen(e->desc);
        uint8_t *x AUTOFREE = xmalloc(2 + d);

        put_be16(x, NBD_INFO_DESCRIPTION);
        memcpy(x + 2, e->desc, d);
        r = opt_reply(c, opt, NBD_REP_INFO, x, (uint32_t)(2 + d));
    }
    put_be16(b, NBD_INFO_EXPORT);
    put_be64(b + 2, n->size);
    put_be16(b + 10, (uint16_t)nbd_export_flags(e));
    return r < 0 ? r : opt_reply(c, opt, NBD_REP_INFO, b, 12);
}

/* 1: transmission begins. */
static int opt_go(struct conn *c, uint32_t opt, const uint8_t *d, uint32_t len)
{
    uint32_t n = len >= 6 ? get_be32(d) : 0;
    struct nbd_export *e;
    int r;

    if (len < 6 || n > len - 6 || n > NBD_MAX_NAME)
        return opt_error(c, opt, NBD_REP_ERR(3), "malformed request");
    e = find_export(c->srv, d + 4, n);
    if (!e)
        return opt_error(c, opt, NBD_REP_ERR(6), "export is not present");
    r = send_infos(c, opt, e);
    if (r >= 0)
        r = opt_reply(c, opt, NBD_REP_ACK, NULL, 0);
    if (r < 0 || opt == NBD_OPT_INFO)
        return r;
    c->exp = e;
    if (c->ctx_of != e)
        c->contexts = 0;
    return 1;
}

static unsigned nr_contexts(const struct nbd_export *e)
{
    return CTX_BITMAP + e->nr_bitmaps;
}

static bool context_offered(const struct nbd_export *e, unsigned k)
{
    return k != CTX_DEPTH || e->depth;
}

/* Caller frees. */
static char *context_name(const struct nbd_export *e, unsigned k)
{
    return k == CTX_ALLOCATION ? xstrdup("base:allocation")
           : k == CTX_DEPTH    ? xstrdup("qemu:allocation-depth")
                               : xasprintf("qemu:dirty-bitmap:%s", e->bitmaps[k - CTX_BITMAP]->name);
}

/* Which contexts a query means; in a list also a namespace ("qemu:") or the beginning "qemu:dirty-bitmap:". */
static uint64_t contexts_match(const struct nbd_export *e, const uint8_t *q, uint32_t len, bool list)
{
    uint64_t hits = 0;

    for (unsigned k = 0; k < nr_contexts(e); k++) {
        char *name AUTOFREE = context_name(e, k);
        bool part = list && len && q[len - 1] == ':' && len < strlen(name);

        if (context_offered(e, k) && (len == strlen(name) || part) && !memcmp(q, name, len))
            hits |= UINT64_C(1) << k;
    }
    return hits;
}

static int opt_meta(struct conn *c, uint32_t opt, const uint8_t *d, uint32_t len)
{
    uint32_t n = len >= 8 ? get_be32(d) : 0, nr, at;
    bool list = opt == NBD_OPT_LIST_META_CONTEXT;
    struct nbd_export *e;
    uint64_t hits = 0;

    if (len < 8 || n > len - 8 || !c->structured)
        return opt_error(c, opt, NBD_REP_ERR(3), "malformed request");
    e = find_export(c->srv, d + 4, n);
    if (!e)
        return opt_error(c, opt, NBD_REP_ERR(6), "export is not present");
    nr = get_be32(d + 4 + n);
    at = 8 + n;
    for (unsigned k = 0; !nr && list && k < nr_contexts(e); k++)
        hits |= context_offered(e, k) ? UINT64_C(1) << k : 0;
    for (uint32_t i = 0; i < nr && len - at >= 4; i++) {
        uint32_t q = get_be32(d + at);

        if (q > len - at - 4)
            return opt_error(c, opt, NBD_REP_ERR(3), "malformed request");
        hits |= contexts_match(e, d + at + 4, q, list);
        at += 4 + q;
    }
    if (!list) {
        c->contexts = hits;
        c->ctx_of = e;
    }
    for (unsigned k = 0; k < nr_contexts(e); k++) {
        char *name AUTOFREE = context_name(e, k);
        uint8_t *b AUTOFREE = xmalloc(4 + strlen(name));
        int r;

        if (!(hits >> k & 1))
            continue;
        put_be32(b, list ? 0 : k + 1);
        memcpy(b + 4, name, strlen(name));
        r = opt_reply(c, opt, NBD_REP_META_CONTEXT, b, (uint32_t)(4 + strlen(name)));
        if (r < 0)
            return r;
    }
    return opt_reply(c, opt, NBD_REP_ACK, NULL, 0);
}

static int export_name(struct conn *c, const uint8_t *d, uint32_t len)
{
    uint8_t b[134] = {0};

    c->exp = find_export(c->srv, d, len);
    if (!c->exp)
        return -ENOENT;
    if (c->ctx_of != c->exp)
        c->contexts = 0;
    put_be64(b, c->exp->root->node->size);
    put_be16(b + 8, (uint16_t)nbd_export_flags(c->exp));
    return put(c, b, c->no_zeroes ? 10 : 134, NULL, 0) < 0 ? -EPIPE : 1;
}

static int start_tls(struct conn *c, uint32_t len)
{
    int r;

    if (len || c->sock.tls)
        return opt_error(c, NBD_OPT_STARTTLS, NBD_REP_ERR(3), len ? "no data expected" : "TLS is on already");
    if (!c->srv->creds)
        return opt_error(c, NBD_OPT_STARTTLS, NBD_REP_ERR(2), "TLS is not offered");
    r = opt_reply(c, NBD_OPT_STARTTLS, NBD_REP_ACK, NULL, 0);
    c->structured = false;
    c->contexts = 0; /* what was said in the clear counts for nothing */
    return r < 0 ? r : nbd_sock_start_tls(&c->sock, c->srv->creds);
}

static int one_option(struct conn *c, uint32_t opt, const uint8_t *d, uint32_t len)
{
    if (c->srv->creds && !c->sock.tls && opt != NBD_OPT_STARTTLS && opt != NBD_OPT_ABORT)
        return opt == NBD_OPT_EXPORT_NAME ? -EPERM : opt_error(c, opt, NBD_REP_ERR(5), "TLS is required");
    switch (opt) {
    case NBD_OPT_STARTTLS:
        return start_tls(c, len);
    case NBD_OPT_EXPORT_NAME:
        return export_name(c, d, len);
    case NBD_OPT_ABORT:
        opt_reply(c, opt, NBD_REP_ACK, NULL, 0);
        return -ECONNRESET;
    case NBD_OPT_LIST:
        return len ? opt_error(c, opt, NBD_REP_ERR(3), "no data expected") : opt_list(c);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return opt_go(c, opt, d, len);
    case NBD_OPT_STRUCTURED_REPLY:
        c->structured = true;
        return opt_reply(c, opt, NBD_REP_ACK, NULL, 0);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return opt_meta(c, opt, d, len);
    default:
        return opt_error(c, opt, NBD_REP_ERR(1), "option is not supported");
    }
}

static int negotiate(struct conn *c)
{
    uint8_t b[18], data[NBD_MAX_NAME + 1024];
    uint32_t flags;
    int r;

    put_be64(b, NBD_MAGIC);
    put_be64(b + 8, NBD_OPT_MAGIC);
    put_be16(b + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    r = put(c, b, 18, NULL, 0);
    if (r < 0 || (r = nbd_recv(&c->sock, b, 4)) < 0)
        return r;
    flags = get_be32(b);
    c->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    for (int i = 0; i < 256; i++) {
        uint32_t len;

        r = nbd_recv(&c->sock, b, 16);
        if (r < 0)
            return r;
        len = get_be32(b + 12);
        if (get_be64(b) != NBD_OPT_MAGIC || len > sizeof data)
            return -EPROTO;
        r = nbd_recv(&c->sock, data, len);
        if (r >= 0)
            r = one_option(c, get_be32(b + 8), data, len);
        if (r)
            return r;
    }
    return -EPROTO;
}

/* ---- requests ---- */

static int simple_reply(struct request *q, int err)
{
    uint8_t h[16];

    put_be32(h, NBD_SIMPLE_REPLY_MAGIC);
    put_be32(h + 4, nbd_errno_to_wire(err));
    put_be64(h + 8, q->cookie);
    return put(q->c, h, sizeof h, q->buf, !err && q->type == NBD_CMD_READ ? q->len : 0);
}

static void chunk_head(uint8_t *h, const struct request *q, uint16_t flags, uint16_t type, uint32_t len)
{
    put_be32(h, NBD_STRUCTURED_REPLY_MAGIC);
    put_be16(h + 4, flags);
    put_be16(h + 6, type);
    put_be64(h + 8, q->cookie);
    put_be32(h + 16, len);
}

static int chunk_error(struct request *q, int err)
{
    uint8_t h[26];

    chunk_head(h, q, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, 6);
    put_be32(h + 20, nbd_errno_to_wire(err));
    put_be16(h + 24, 0);
    return put(q->c, h, sizeof h, NULL, 0);
}

static int chunk_data(struct request *q)
{
    uint8_t h[28];

    chunk_head(h, q, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_OFFSET_DATA, 8 + q->len);
    put_be64(h + 20, q->off);
    return put(q->c, h, sizeof h, q->buf, q->len);
}

/* What context k says of a piece at the beginning of [at, end). */
static int context_status(const struct nbd_export *e, unsigned k, uint64_t at, uint64_t end, uint64_t *len,
                          uint32_t *st)
{
    struct blk_extent x;
    uint64_t start;
    unsigned depth;
    int r;

    if (k >= CTX_BITMAP) {
        *st = blk_bitmap_next(e->bitmaps[k - CTX_BITMAP], at, &start, len) && start == at;
        if (!*st)
            *len = start > at && start < end && *len ? start - at : end - at;
        return 0;
    }
    r = blk_node_status_above(e->root->node, NULL, at, end - at, &x, &depth);
    if (r < 0)
        return r;
    *len = x.len;
    if (k == CTX_DEPTH)
        *st = x.flags & BLK_ST_ALLOC ? depth + 1 : 0;
    else
        *st = (x.flags & BLK_ST_DATA ? 0 : NBD_STATE_HOLE) |
              (x.flags & BLK_ST_ZERO || !(x.flags & BLK_ST_DATA) ? NBD_STATE_ZERO : 0);
    return 0;
}

static int chunk_context(struct request *q, unsigned k, bool last)
{
    struct nbd_export *e = q->c->exp;
    uint8_t *b AUTOFREE = xmalloc(24 + MAX_EXTENTS * 8);
    unsigned nr = 0, max = q->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : MAX_EXTENTS;
    uint64_t at = q->off, end = q->off + q->len, from = at;
    uint32_t now = 0;

    while (at < end) {
        uint64_t len = 0;
        uint32_t st;
        int r = context_status(e, k, at, end, &len, &st);

        if (r < 0)
            return chunk_error(q, -r);
        len = min_u64(len, end - at);
        if (!nr || st != now) {
            if (nr == max)
                break;
            from = at;
            now = st;
            nr++;
        }
        at += len;
        put_be32(b + 16 + nr * 8, (uint32_t)(at - from));
        put_be32(b + 20 + nr * 8, st);
    }
    chunk_head(b, q, last ? NBD_REPLY_FLAG_DONE : 0, NBD_REPLY_TYPE_BLOCK_STATUS, 4 + nr * 8);
    put_be32(b + 20, k + 1);
    return put(q->c, b, 24 + nr * 8, NULL, 0);
}

static int chunk_status(struct request *q)
{
    uint64_t left = q->c->contexts;
    int r = 0;

    for (unsigned k = 0; left && r >= 0; k++)
        if (left >> k & 1) {
            left &= ~(UINT64_C(1) << k);
            r = chunk_context(q, k, !left);
        }
    return r;
}

static int perform(struct request *q)
{
    struct blk_node *n = q->c->exp->root->node;
    unsigned fua = q->flags & NBD_CMD_FLAG_FUA ? BLK_FUA : 0;
    struct iovec v = {q->buf, q->len};
    struct iov iq;

    if (q->type != NBD_CMD_FLUSH && (q->off > n->size || q->len > n->size - q->off))
        return q->type == NBD_CMD_WRITE || q->type == NBD_CMD_WRITE_ZEROES ? -ENOSPC : -EINVAL;
    if (q->c->exp->readonly && (q->type == NBD_CMD_WRITE || q->type == NBD_CMD_TRIM || q->type == NBD_CMD_WRITE_ZEROES))
        return -EPERM;
    iov_init_ext(&iq, &v, 1);
    switch (q->type) {
    case NBD_CMD_READ:
        return blk_node_preadv(n, q->off, q->len, &iq, 0, 0);
    case NBD_CMD_WRITE:
        return blk_node_pwritev(n, q->off, q->len, &iq, 0, fua);
    case NBD_CMD_FLUSH:
        return blk_node_flush(n);
    case NBD_CMD_TRIM: {
        int r = blk_node_discard(n, q->off, q->len);

        return r >= 0 && fua ? blk_node_flush(n) : r;
    }
    case NBD_CMD_WRITE_ZEROES:
        return blk_node_zeroes(n, q->off, q->len,
                               fua | (q->flags & NBD_CMD_FLAG_NO_HOLE ? 0 : BLK_MAY_UNMAP) |
                                   (q->flags & NBD_CMD_FLAG_FAST_ZERO ? BLK_NO_FALLBACK : 0));
    case NBD_CMD_CACHE:
        return 0;
    default:
        return -EINVAL;
    }
}

static void wait_held(struct conn *c)
{
    while (c->exp->root->held) /* the graph below is being changed */
        blk_sleep(c->srv->set, NS_PER_MS);
}

/* The data of a reply whose head has left, beginning at byte `done` of it: from the page cache as long as it is there,
 * else read. Asked again after every wait. */
static int send_uncopied(struct request *q, int fd, uint64_t at)
{
    struct conn *c = q->c;
    uint32_t done = 0;

    while (done < q->len && fd >= 0) {
        int64_t n = nbd_send_file(&c->sock, fd, at, q->len - done);

        if (n > 0)
            done += (uint32_t)n;
        if (!n || (n < 0 && n != -EAGAIN && n != -EPIPE && n != -ECONNRESET))
            break;
        if (n < 0 && n != -EAGAIN)
            return (int)n;
        wait_held(c);
        fd = blk_node_cached_fd(c->exp->root->node, q->off + done, q->len - done, &at);
    }
    if (done < q->len) {
        struct iovec v = {q->buf, q->len - done};
        struct iov iq;
        int r;

        iov_init_ext(&iq, &v, 1);
        r = blk_node_preadv(c->exp->root->node, q->off + done, q->len - done, &iq, 0, 0);
        return r < 0 ? r : nbd_send(&c->sock, &v, 1); /* too late to report an error: the connection ends */
    }
    return 0;
}

/* Large reads of what the page cache holds leave from there, without a copy: 1 when sent, 0 when not possible. */
static int read_uncopied(struct request *q)
{
    struct conn *c = q->c;
    unsigned nr = 16;
    uint8_t h[28];
    uint64_t at;
    int fd, r = 0;

    if (q->type != NBD_CMD_READ || q->len < UNCOPIED_MIN || c->sock.tls)
        return 0;
    put_be32(h, NBD_SIMPLE_REPLY_MAGIC);
    put_be32(h + 4, 0);
    put_be64(h + 8, q->cookie);
    if (c->structured) {
        chunk_head(h, q, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_OFFSET_DATA, 8 + q->len);
        put_be64(h + 20, q->off);
        nr = sizeof h;
    }
    fibre_mutex_lock(&c->send_lock);
    wait_held(c);
    fd = blk_node_cached_fd(c->exp->root->node, q->off, q->len, &at);
    if (fd >= 0) {
        unsigned waits = c->sock.waits;

        r = nbd_send_head(&c->sock, h, nr);
        if (r >= 0 && waits != c->sock.waits) { /* the head had to wait: the answer may be old */
            wait_held(c);
            fd = blk_node_cached_fd(c->exp->root->node, q->off, q->len, &at);
        }
        if (r >= 0)
            r = send_uncopied(q, fd, at);
        r = r < 0 ? r : 1;
    }
    fibre_mutex_unlock(&c->send_lock);
    return r;
}

static void request_run(void *opaque)
{
    struct request *q = opaque;
    struct conn *c = q->c;
    int r;

    wait_held(c);
    r = read_uncopied(q);
    if (r) {
        ; /* answered */
    } else if (q->type == NBD_CMD_BLOCK_STATUS) {
        struct blk_node *n = c->exp->root->node;

        if (!c->contexts || !c->structured || !q->len || q->off > n->size || q->len > n->size - q->off)
            r = c->structured ? chunk_error(q, EINVAL) : simple_reply(q, EINVAL);
        else
            r = chunk_status(q);
    } else {
        int e = perform(q);

        if (q->type == NBD_CMD_READ && c->structured)
            r = e < 0 ? chunk_error(q, -e) : chunk_data(q);
        else
            r = simple_reply(q, e < 0 ? -e : 0);
    }
    if (r < 0)
        nbd_sock_shutdown(&c->sock);
    buf_put(c, q->buf, q->len);
    free(q);
    c->running--;
    if (c->waiting) {
        struct fibre *f = c->waiting;

        c->waiting = NULL;
        fibre_wake(blk_set_loop(c->srv->set), f);
    }
}

static void wait_below(struct conn *c, unsigned limit)
{
    while (c->running >= limit && c->running) {
        c->waiting = fibre_self();
        fibre_yield();
    }
}

static int read_request(struct conn *c)
{
    uint8_t h[28];
    struct request *q;
    int r = nbd_recv(&c->sock, h, sizeof h);
    bool data;

    if (r < 0)
        return r;
    if (get_be32(h) != NBD_REQ_MAGIC)
        return -EPROTO;
    if (get_be16(h + 6) == NBD_CMD_DISC)
        return -ESHUTDOWN;
    q = xnew(struct request);
    *q = (struct request){.c = c,
                          .flags = get_be16(h + 4),
                          .type = get_be16(h + 6),
                          .cookie = get_be64(h + 8),
                          .off = get_be64(h + 16),
                          .len = get_be32(h + 24)};
    data = q->type == NBD_CMD_READ || q->type == NBD_CMD_WRITE;
    if (data && q->len > NBD_MAX_BUFFER) {
        r = q->type == NBD_CMD_WRITE ? -EPROTO : simple_reply(q, EINVAL);
        free(q);
        return r;
    }
    if (data && q->len && !(q->buf = buf_get(c, q->len)))
        r = -ENOMEM;
    if (r >= 0 && q->type == NBD_CMD_WRITE)
        r = nbd_recv(&c->sock, q->buf, q->len);
    if (r < 0) {
        buf_put(c, q->buf, q->len);
        free(q);
        return r;
    }
    c->running++;
    fibre_resume(fibre_new(request_run, q));
    return 0;
}

static void conn_run(void *opaque)
{
    struct conn *c = opaque;
    struct nbd_server *s = c->srv;
    int r = c->adopted ? 1 : negotiate(c);

    while (r >= 0 && c->exp) {
        wait_below(c, MAX_REQ);
        r = read_request(c);
    }
    wait_below(c, 1);
    nbd_sock_close(&c->sock);
    list_del(&c->link);
    bufs_free(c);
    free(c);
    s->nr_conns--;
    if (s->watch)
        ev_fd_set(s->watch, EV_IN);
    if (!s->nr_conns && s->on_idle)
        s->on_idle(s->opaque);
}

static struct conn *conn_new(struct nbd_server *s, int fd)
{
    struct conn *c = xnew(struct conn);

    c->srv = s;
    nbd_sock_init(&c->sock, s->set, fd);
    fibre_mutex_init(&c->send_lock);
    list_add(&s->conns, &c->link);
    s->nr_conns++;
    s->total_conns++;
    return c;
}

static void on_connect(void *opaque, int fd, unsigned events)
{
    struct nbd_server *s = opaque;
    int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

    if (peer < 0)
        return;
    fibre_start(blk_set_loop(s->set), conn_run, conn_new(s, peer));
    if (s->max_conns && s->nr_conns >= s->max_conns)
        ev_fd_set(s->watch, 0);
}

void nbd_server_adopt(struct nbd_server *s, int fd)
{
    struct conn *c = conn_new(s, fd);

    c->adopted = true;
    c->exp = list_first(&s->exports, struct nbd_export, link);
    fibre_start(blk_set_loop(s->set), conn_run, c);
}

/* ---- life ---- */

struct nbd_server *nbd_server_new(struct blk_set *set, int listen_fd, unsigned max_conns)
{
    struct nbd_server *s = xnew(struct nbd_server);

    s->set = set;
    s->listen_fd = listen_fd;
    s->max_conns = max_conns;
    list_init(&s->exports);
    list_init(&s->conns);
    if (listen_fd >= 0)
        s->watch = ev_fd_add(blk_set_loop(set), listen_fd, EV_IN, on_connect, s);
    return s;
}

struct nbd_export *nbd_export_add(struct nbd_server *s, const char *name, const char *desc, struct blk_node *n,
                                  bool writable, struct err **errp)
{
    struct nbd_export *e;
    struct blk_child *root;

    list_each (e, &s->exports, link)
        if (!strcmp(e->name, name)) {
            err_set(errp, "NBD server already has export named '%s'", name);
            return NULL;
        }
    if (strlen(name) > NBD_MAX_NAME) {
        err_set(errp, "export name '%.40s...' too long", name);
        return NULL;
    }
    root = blk_child_root(n, "nbd export", BLK_PERM_READ | (writable ? BLK_PERM_WRITE : 0), BLK_PERM_ALL, errp);
    if (!root)
        return NULL;
    e = xnew(struct nbd_export);
    e->name = xstrdup(name);
    e->desc = desc ? xstrdup(desc) : NULL;
    e->root = root;
    e->readonly = !writable;
    list_add(&s->exports, &e->link);
    return e;
}

bool nbd_export_add_bitmap(struct nbd_export *e, struct blk_node *node, const char *name, struct err **errp)
{
    struct blk_bitmap *b = node ? blk_bitmap_find(node, name) : NULL;

    for (struct blk_node *n = e->root->node; !node && !b && n; n = blk_node_cow(n))
        b = blk_bitmap_find(blk_node_unfiltered(n), name);
    if (!b)
        return err_set(errp, "Bitmap '%s' is not found", name);
    if (e->nr_bitmaps == NBD_MAX_BITMAPS)
        return err_set(errp, "more than %u bitmaps cannot be exported", (unsigned)NBD_MAX_BITMAPS);
    if (b->busy)
        return err_set(errp, "Bitmap '%s' is currently in use by another operation and cannot be used", name);
    if (b->inconsistent)
        return err_set(errp, "Bitmap '%s' is inconsistent and cannot be used", name);
    if (e->readonly && b->enabled && !b->readonly && !blk_node_readonly(b->node))
        return err_set(errp, "Enabled bitmap '%s' incompatible with readonly export", name);
    b->busy = true;
    blk_node_ref(b->node);
    e->bitmaps[e->nr_bitmaps++] = b;
    return true;
}

static void drop_conns(struct nbd_server *s, struct nbd_export *e)
{
    struct conn *c, *tmp;
    bool any;

    do {
        any = false;
        list_each_safe (c, tmp, &s->conns, link)
            if (!e || c->exp == e) {
                any = true;
                nbd_sock_shutdown(&c->sock);
            }
        if (any)
            ev_loop_turn(blk_set_loop(s->set), 10 * NS_PER_MS);
    } while (any);
}

void nbd_export_remove(struct nbd_server *s, struct nbd_export *e)
{
    drop_conns(s, e);
    list_del(&e->link);
    for (unsigned i = 0; i < e->nr_bitmaps; i++) {
        e->bitmaps[i]->busy = false;
        blk_node_unref(e->bitmaps[i]->node);
    }
    blk_child_detach(e->root);
    run_event(s->set->run, "BLOCK_EXPORT_DELETED", json_make("s:id", e->id ? e->id : e->name, NULL));
    free(e->id);
    free(e->name);
    free(e->desc);
    free(e);
}

void nbd_server_set_creds(struct nbd_server *s, struct nbd_creds *c)
{
    nbd_creds_ref(c);
    nbd_creds_unref(s->creds);
    s->creds = c;
}

void nbd_server_free(struct nbd_server *s)
{
    if (!s)
        return;
    s->on_idle = NULL;
    ev_fd_del(s->watch);
    s->watch = NULL;
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    drop_conns(s, NULL);
    while (!list_empty(&s->exports))
        nbd_export_remove(s, list_first(&s->exports, struct nbd_export, link));
    nbd_creds_unref(s->creds);
    if (s->unix_path)
        blk_host_unlink(s->set, s->unix_path);
    free(s->unix_path);
    free(s);
}
