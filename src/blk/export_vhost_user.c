/* vhost-user-blk exports: the device side of a virtio block device for another process, after the vhost-user protocol
 * (its message formats) and VIRTIO 1.2, 2.7 (split virtqueues) and 5.2 (block device).
 *
 * The peer hands over its memory as descriptors of files. They are not mapped: a peer that shrinks its file would turn
 * every access into a fault of this process, and it may do so at any time. Rings and data are read and written with
 * system calls, where a file that has become too short is an error like any other. A peer that breaks the rules loses
 * its connection; the export goes on for the next one.
 *
 * One connection at a time, a fibre reads its messages; each request of a ring runs in a fibre of its own, at most
 * MAX_RUNNING at a time for each ring. Left out: memory on huge pages (their files cannot be written so), dirty
 * logging, requests in flight across a reconnection, event indexes, packed rings, secure erase, writing the
 * configuration. */
#include "base/bytes.h"
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/export.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

enum {
    MAX_REGIONS = 8,
    MAX_QUEUES = 64,
    MAX_RING = 1024,
    MAX_RUNNING = 64,
    MAX_SEGS = 1024,
    MAX_DATA = 16 << 20, /* of one request */
    MAX_PAYLOAD = 512,
    MAX_ZERO_SECTORS = 1 << 22, /* of one discard or write-zeroes */
    CONFIG_LEN = 60
};
enum vu_request {
    VU_GET_FEATURES = 1,
    VU_SET_FEATURES,
    VU_SET_OWNER,
    VU_RESET_OWNER,
    VU_SET_MEM_TABLE,
    VU_SET_LOG_BASE,
    VU_SET_LOG_FD,
    VU_SET_VRING_NUM,
    VU_SET_VRING_ADDR,
    VU_SET_VRING_BASE,
    VU_GET_VRING_BASE,
    VU_SET_VRING_KICK,
    VU_SET_VRING_CALL,
    VU_SET_VRING_ERR,
    VU_GET_PROTOCOL_FEATURES,
    VU_SET_PROTOCOL_FEATURES,
    VU_GET_QUEUE_NUM,
    VU_SET_VRING_ENABLE,
    VU_GET_CONFIG = 24
};
enum { VU_VERSION = 1, VU_REPLY = 4, VU_NEED_REPLY = 8, VU_NOFD = 0x100 };
enum { VU_PF_MQ = 1, VU_PF_REPLY_ACK = 8, VU_PF_CONFIG = 512 };
enum { VRING_DESC_NEXT = 1, VRING_DESC_WRITE = 2, VRING_DESC_INDIRECT = 4, VRING_AVAIL_NO_INTERRUPT = 1 };
enum { BLK_T_IN, BLK_T_OUT, BLK_T_FLUSH = 4, BLK_T_GET_ID = 8, BLK_T_DISCARD = 11, BLK_T_WRITE_ZEROES = 13 };
enum { BLK_S_OK, BLK_S_IOERR, BLK_S_UNSUPP };
#define F_SEG_MAX      (UINT64_C(1) << 2)
#define F_RO           (UINT64_C(1) << 5)
#define F_BLK_SIZE     (UINT64_C(1) << 6)
#define F_FLUSH        (UINT64_C(1) << 9)
#define F_MQ           (UINT64_C(1) << 12)
#define F_DISCARD      (UINT64_C(1) << 13)
#define F_WRITE_ZEROES (UINT64_C(1) << 14)
#define F_INDIRECT     (UINT64_C(1) << 28)
#define F_PROTOCOL     (UINT64_C(1) << 30)
#define F_VERSION_1    (UINT64_C(1) << 32)
#define FUSE_FS_MAGIC  0x65735546 /* statfs of a file that another program serves */
#define HUGE_FS_MAGIC  0x958458f6

struct region {
    uint64_t gpa, size, uaddr, off;
    int fd; /* owned */
};
struct vu;
struct queue {
    struct vu *v;
    uint32_t num;
    uint64_t desc, avail, used; /* in the peer's address space */
    uint16_t last_avail, used_idx;
    int kick, call; /* owned, -1 = none */
    struct ev_fd *watch;
    bool started, enabled, in_run;
    unsigned running;
};
struct vu {
    struct blk_export e; /* first */
    int listen_fd, fd;   /* owned */
    char *path;          /* owned: removed at the end */
    struct ev_fd *watch;
    unsigned busy; /* a connection's fibre is alive */
    unsigned nr_queues;
    uint32_t block;
    bool broken;
    uint64_t features, proto;
    struct region mem[MAX_REGIONS];
    unsigned nr_mem;
    struct queue q[MAX_QUEUES];
};

/* ---- the peer's memory ---- */

static bool mem_span(struct vu *v, bool guest, uint64_t addr, uint8_t *buf, size_t len, bool write)
{
    for (unsigned i = 0; i < v->nr_mem; i++) {
        struct region *r = &v->mem[i];
        uint64_t at = addr - (guest ? r->gpa : r->uaddr);
        size_t n;
        ssize_t got;

        if (addr < (guest ? r->gpa : r->uaddr) || at >= r->size)
            continue;
        n = min_u64(len, r->size - at);
        got = write ? pwrite(r->fd, buf, n, (off_t)(r->off + at)) : pread(r->fd, buf, n, (off_t)(r->off + at));
        if (got != (ssize_t)n)
            return false;
        return n == len || mem_span(v, guest, addr + n, buf + n, len - n, write);
    }
    return false;
}

static bool gpa_read(struct vu *v, uint64_t gpa, void *buf, size_t len)
{
    return mem_span(v, true, gpa, buf, len, false);
}
static bool ring_read(struct vu *v, uint64_t addr, void *buf, size_t len)
{
    return mem_span(v, false, addr, buf, len, false);
}
static bool ring_write(struct vu *v, uint64_t addr, void *buf, size_t len)
{
    return mem_span(v, false, addr, buf, len, true);
}

/* ---- requests ---- */

struct seg {
    uint64_t gpa;
    uint32_t len;
};
struct vreq {
    struct queue *q;
    uint16_t head;
    unsigned nr_out, nr_in;
    uint64_t out_len, in_len;
    uint32_t written;
    struct seg out[MAX_SEGS], in[MAX_SEGS];
};

/* The rules were broken: the connection ends. */
static void vu_break(struct vu *v, const char *why)
{
    if (!v->broken)
        warn_report("export '%s': %s: the connection ends", v->e.id, why);
    v->broken = true;
    if (v->fd >= 0)
        shutdown(v->fd, SHUT_RDWR);
}

static bool segs_copy(struct vu *v, const struct seg *s, unsigned nr, uint64_t skip, uint8_t *buf, size_t len,
                      bool write)
{
    for (unsigned i = 0; i < nr && len; i++) {
        size_t n;

        if (skip >= s[i].len) {
            skip -= s[i].len;
            continue;
        }
        n = min_u64(len, s[i].len - skip);
        if (!mem_span(v, true, s[i].gpa + skip, buf, n, write))
            return false;
        skip = 0;
        buf += n;
        len -= n;
    }
    return !len;
}

static bool add_seg(struct vreq *r, const uint8_t *d, bool *more)
{
    uint16_t flags = get_le16(d + 12);
    struct seg s = {get_le64(d), get_le32(d + 8)};
    bool in = flags & VRING_DESC_WRITE;

    if ((in ? r->nr_in : r->nr_out) == MAX_SEGS || (!in && r->nr_in) || s.gpa + s.len < s.gpa)
        return false;
    if (in) {
        r->in[r->nr_in++] = s;
        r->in_len += s.len;
    } else {
        r->out[r->nr_out++] = s;
        r->out_len += s.len;
    }
    *more = flags & VRING_DESC_NEXT;
    return true;
}

static bool take_indirect(struct vreq *r, const uint8_t *d)
{
    uint32_t len = get_le32(d + 8), nr = len / 16, at = 0;
    uint8_t *t AUTOFREE = NULL;
    bool more = true;

    if (len % 16 || !nr || nr > MAX_RING || get_le16(d + 12) & VRING_DESC_NEXT)
        return false;
    t = xmalloc(len);
    if (!gpa_read(r->q->v, get_le64(d), t, len))
        return false;
    for (uint32_t steps = 0; more; steps++) {
        if (steps >= nr || at >= nr || get_le16(t + at * 16 + 12) & VRING_DESC_INDIRECT ||
            !add_seg(r, t + at * 16, &more))
            return false;
        at = get_le16(t + at * 16 + 14);
    }
    return true;
}

static bool take_chain(struct vreq *r)
{
    struct queue *q = r->q;
    uint32_t at = r->head;
    bool more = true;
    uint8_t d[16];

    for (uint32_t steps = 0; more; steps++) {
        if (steps >= q->num || at >= q->num || !ring_read(q->v, q->desc + at * 16u, d, 16))
            return false;
        if (get_le16(d + 12) & VRING_DESC_INDIRECT)
            return q->v->features & F_INDIRECT && take_indirect(r, d);
        if (!add_seg(r, d, &more))
            return false;
        at = get_le16(d + 14);
    }
    return true;
}

static int range_request(struct vreq *r, struct blk_node *n, uint32_t type)
{
    struct vu *v = r->q->v;
    uint8_t b[16];
    uint64_t sector;
    uint32_t nr, flags;
    int e;

    if (r->out_len != 32 || !segs_copy(v, r->out, r->nr_out, 16, b, 16, false))
        return r->out_len < 32 ? -EINVAL : -EOPNOTSUPP;
    sector = get_le64(b);
    nr = get_le32(b + 8);
    flags = get_le32(b + 12);
    if (flags & ~(type == BLK_T_WRITE_ZEROES ? 1u : 0u))
        return -EOPNOTSUPP;
    if (nr > MAX_ZERO_SECTORS || sector > n->size / 512 || nr > n->size / 512 - sector)
        return -EIO;
    if (type == BLK_T_WRITE_ZEROES)
        e = blk_node_zeroes(n, sector * 512, nr * 512ull, flags & 1 ? BLK_MAY_UNMAP : 0);
    else
        e = blk_node_discard(n, sector * 512, nr * 512ull);
    return e >= 0 && v->e.writethrough ? blk_node_flush(n) : e;
}

static int data_request(struct vreq *r, struct blk_node *n, bool write, uint64_t sector)
{
    struct vu *v = r->q->v;
    uint64_t len = write ? r->out_len - 16 : r->in_len - 1;
    uint8_t *buf AUTOFREE = NULL;
    struct iovec iv;
    struct iov iq;
    int e;

    if (len % 512 || len > MAX_DATA || sector > n->size / 512 || len > n->size - sector * 512)
        return -EIO;
    if (!len)
        return 0;
    buf = try_alloc_aligned(4096, len);
    if (!buf)
        return -ENOMEM;
    iv = (struct iovec){buf, len};
    iov_init_ext(&iq, &iv, 1);
    if (write)
        return !segs_copy(v, r->out, r->nr_out, 16, buf, len, false)
                   ? -EFAULT
                   : blk_node_pwritev(n, sector * 512, len, &iq, 0, v->e.writethrough ? BLK_FUA : 0);
    e = blk_node_preadv(n, sector * 512, len, &iq, 0, 0);
    if (e >= 0 && !segs_copy(v, r->in, r->nr_in, 0, buf, len, true))
        return -EFAULT;
    r->written = e >= 0 ? (uint32_t)len : 0;
    return e;
}

static int get_id(struct vreq *r)
{
    uint8_t id[20] = {0};

    if (r->in_len < 21)
        return -EIO;
    memcpy(id, r->q->v->e.id, min_u64(20, strlen(r->q->v->e.id)));
    r->written = 20;
    return segs_copy(r->q->v, r->in, r->nr_in, 0, id, 20, true) ? 0 : -EFAULT;
}

static int vreq_perform(struct vreq *r, struct blk_node *n)
{
    uint8_t h[16];
    uint32_t type;

    if (!segs_copy(r->q->v, r->out, r->nr_out, 0, h, 16, false))
        return -EFAULT;
    type = get_le32(h);
    if (!r->q->v->e.writable && (type == BLK_T_OUT || type == BLK_T_DISCARD || type == BLK_T_WRITE_ZEROES))
        return -EPERM;
    switch (type) {
    case BLK_T_IN:
    case BLK_T_OUT:
        return data_request(r, n, type == BLK_T_OUT, get_le64(h + 8));
    case BLK_T_FLUSH:
        return blk_node_flush(n);
    case BLK_T_GET_ID:
        return get_id(r);
    case BLK_T_DISCARD:
    case BLK_T_WRITE_ZEROES:
        return range_request(r, n, type);
    default:
        return -EOPNOTSUPP;
    }
}

/* Used element, then index, then the interrupt: in this order for the peer. */
static bool push_used(struct vreq *r)
{
    struct queue *q = r->q;
    uint8_t b[8];
    uint64_t one = 1;

    put_le32(b, r->head);
    put_le32(b + 4, r->written + 1);
    if (!ring_write(q->v, q->used + 4 + q->used_idx % q->num * 8u, b, 8))
        return false;
    atomic_thread_fence(memory_order_seq_cst);
    put_le16(b, ++q->used_idx);
    if (!ring_write(q->v, q->used + 2, b, 2))
        return false;
    atomic_thread_fence(memory_order_seq_cst);
    if (!ring_read(q->v, q->avail, b, 2))
        return false;
    if (!(get_le16(b) & VRING_AVAIL_NO_INTERRUPT) && q->call >= 0 && write(q->call, &one, 8) < 0 && errno != EAGAIN)
        return false;
    return true;
}

static void queue_run(struct queue *q);

static void vreq_run(void *opaque)
{
    struct vreq *r = opaque;
    struct queue *q = r->q;
    struct vu *v = q->v;
    struct blk_node *n = blk_export_enter(&v->e);
    int e = vreq_perform(r, n);
    uint8_t status = e >= 0 ? BLK_S_OK : e == -EOPNOTSUPP ? BLK_S_UNSUPP : BLK_S_IOERR;

    blk_export_leave(&v->e);
    if (!segs_copy(v, r->in, r->nr_in, r->in_len - 1, &status, 1, true) || !push_used(r))
        vu_break(v, "the ring or a buffer is not in the memory the peer gave");
    free(r);
    q->running--;
    queue_run(q);
}

static bool start_one(struct queue *q)
{
    struct vreq *r = xnew(struct vreq);
    uint8_t b[2];

    r->q = q;
    if (!ring_read(q->v, q->avail + 4 + q->last_avail % q->num * 2u, b, 2))
        goto bad;
    r->head = get_le16(b);
    if (r->head >= q->num || !take_chain(r) || r->out_len < 16 || !r->in_len)
        goto bad;
    q->last_avail++;
    q->running++;
    fibre_start(blk_set_loop(q->v->e.set), vreq_run, r);
    return true;
bad:
    free(r);
    return false;
}

/* Starts what is in the ring. */
static void queue_run(struct queue *q)
{
    struct vu *v = q->v;
    uint8_t b[2];

    if (q->in_run)
        return;
    q->in_run = true;
    while (q->started && q->enabled && !v->broken && !v->e.stopping && q->running < MAX_RUNNING) {
        uint16_t n;

        if (!ring_read(v, q->avail + 2, b, 2)) {
            vu_break(v, "the ring is not in the memory the peer gave");
            break;
        }
        n = (uint16_t)(get_le16(b) - q->last_avail);
        if (!n)
            break;
        atomic_thread_fence(memory_order_seq_cst);
        if (n > q->num || !start_one(q))
            vu_break(v, "a request in the ring is malformed");
    }
    q->in_run = false;
}

static void on_kick(void *opaque, int fd, unsigned events)
{
    struct queue *q = opaque;
    uint64_t n;

    if (read(fd, &n, sizeof n) < 0 && errno != EAGAIN) {
        vu_break(q->v, "the kick descriptor cannot be read");
        ev_fd_set(q->watch, 0);
        return;
    }
    queue_run(q);
}

/* ---- rings ---- */

static void queue_stop(struct queue *q)
{
    ev_fd_del(q->watch);
    q->watch = NULL;
    q->started = false;
    while (q->running)
        blk_sleep(q->v->e.set, NS_PER_MS / 4);
}

static void queue_close(struct queue *q)
{
    if (q->kick >= 0)
        close(q->kick);
    if (q->call >= 0)
        close(q->call);
    *q = (struct queue){.v = q->v, .kick = -1, .call = -1};
}

static bool queue_start(struct queue *q)
{
    uint8_t b[2];

    if (!q->num || !ring_read(q->v, q->used + 2, b, 2))
        return false;
    q->used_idx = get_le16(b);
    q->started = true;
    if (!(q->v->features & F_PROTOCOL))
        q->enabled = true;
    q->watch = ev_fd_add(blk_set_loop(q->v->e.set), q->kick, EV_IN, on_kick, q);
    queue_run(q); /* what came before the first kick */
    return true;
}

/* An eventfd and nothing else: reading and writing it can neither block nor reach anybody else. */
static bool is_eventfd(int fd)
{
    char link[64], to[32] = "";

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return readlink(link, to, sizeof to - 1) > 0 && !strcmp(to, "anon_inode:[eventfd]") &&
           fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) == 0;
}

/* ---- messages ---- */

struct msg {
    uint32_t request, flags, size;
    uint8_t p[MAX_PAYLOAD];
    int fds[MAX_REGIONS]; /* owned until taken (-1) */
    unsigned nr_fds;
};

static int take_fd(struct msg *m)
{
    int fd = m->nr_fds ? m->fds[0] : -1;

    if (m->nr_fds)
        m->fds[0] = -1;
    return fd;
}

static void msg_close(struct msg *m)
{
    for (unsigned i = 0; i < m->nr_fds; i++)
        if (m->fds[i] >= 0)
            close(m->fds[i]);
    m->nr_fds = 0;
}

static void take_fds(struct msg *m, struct msghdr *h)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
        unsigned nr = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        int fd;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (unsigned i = 0; i < nr; i++) {
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (m->nr_fds < MAX_REGIONS)
                m->fds[m->nr_fds++] = fd;
            else
                close(fd);
        }
    }
}

static bool recv_part(struct vu *v, struct msg *m, void *buf, size_t len)
{
    uint8_t *p = buf;

    while (len) {
        union {
            char room[CMSG_SPACE(sizeof(int) * MAX_REGIONS)];
            struct cmsghdr align;
        } c;
        struct iovec iv = {p, len};
        struct msghdr h = {.msg_iov = &iv, .msg_iovlen = 1, .msg_control = c.room, .msg_controllen = sizeof c.room};
        ssize_t n = recvmsg(v->fd, &h, MSG_CMSG_CLOEXEC);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            if (v->broken || !blk_export_wait(&v->e, v->fd, EV_IN))
                return false;
            continue;
        }
        if (n <= 0)
            return false;
        take_fds(m, &h);
        p += n;
        len -= (size_t)n;
    }
    return !v->broken;
}

static bool msg_recv(struct vu *v, struct msg *m)
{
    uint8_t h[12];

    *m = (struct msg){0};
    if (!recv_part(v, m, h, sizeof h))
        return false;
    m->request = get_le32(h);
    m->flags = get_le32(h + 4);
    m->size = get_le32(h + 8);
    if ((m->flags & 3) != VU_VERSION || m->size > MAX_PAYLOAD) {
        vu_break(v, "a message of another protocol");
        return false;
    }
    return recv_part(v, m, m->p, m->size);
}

static bool reply(struct vu *v, const struct msg *m, const void *data, uint32_t len)
{
    uint8_t b[12 + MAX_PAYLOAD];
    size_t at = 0;

    put_le32(b, m->request);
    put_le32(b + 4, VU_VERSION | VU_REPLY);
    put_le32(b + 8, len);
    memcpy(b + 12, data, len);
    while (at < 12 + len) {
        ssize_t n = send(v->fd, b + at, 12 + len - at, MSG_NOSIGNAL);

        if (n < 0 && (errno == EINTR || (errno == EAGAIN && blk_export_wait(&v->e, v->fd, EV_OUT))))
            continue;
        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    return true;
}

static bool reply_u64(struct vu *v, const struct msg *m, uint64_t val)
{
    uint8_t b[8];

    put_le64(b, val);
    return reply(v, m, b, 8);
}

static uint64_t features_of(const struct vu *v)
{
    return F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_INDIRECT | F_PROTOCOL | F_VERSION_1 | (v->nr_queues > 1 ? F_MQ : 0) |
           (v->e.writable ? F_DISCARD | F_WRITE_ZEROES : F_RO);
}

static void config_fill(const struct vu *v, uint8_t c[CONFIG_LEN])
{
    memset(c, 0, CONFIG_LEN);
    put_le64(c, v->e.root->node->size / 512);
    put_le32(c + 12, 126); /* seg_max: header and status fit into a ring of 128 */
    put_le32(c + 20, v->block);
    put_le16(c + 34, (uint16_t)v->nr_queues);
    put_le32(c + 36, MAX_ZERO_SECTORS);
    put_le32(c + 40, 1);
    put_le32(c + 44, v->block / 512);
    put_le32(c + 48, MAX_ZERO_SECTORS);
    put_le32(c + 52, 1);
    c[56] = 1; /* write_zeroes_may_unmap */
}

static bool get_config(struct vu *v, const struct msg *m)
{
    uint32_t off = m->size >= 12 ? get_le32(m->p) : 0, len = m->size >= 12 ? get_le32(m->p + 4) : 0;
    uint8_t out[MAX_PAYLOAD] = {0}, all[CONFIG_LEN];

    if (m->size < 12 || len > m->size - 12 || off > 256 || len > 256)
        return false;
    config_fill(v, all);
    memcpy(out, m->p, 12);
    if (off < CONFIG_LEN)
        memcpy(out + 12, all + off, min_u64(len, CONFIG_LEN - off));
    return reply(v, m, out, 12 + len);
}

static void mem_drop(struct vu *v)
{
    for (unsigned i = 0; i < v->nr_mem; i++)
        close(v->mem[i].fd);
    v->nr_mem = 0;
}

static bool mem_fd_ok(struct vu *v, int fd)
{
    struct statfs fs;
    struct stat st;

    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || fstatfs(fd, &fs) < 0 || (uint32_t)fs.f_type == FUSE_FS_MAGIC)
        return false;
    if ((uint32_t)fs.f_type == HUGE_FS_MAGIC)
        warn_report("export '%s': memory on huge pages cannot be used", v->e.id);
    return (uint32_t)fs.f_type != HUGE_FS_MAGIC;
}

static bool set_mem_table(struct vu *v, struct msg *m)
{
    uint32_t nr = m->size >= 8 ? get_le32(m->p) : 0;

    if (!nr || nr > MAX_REGIONS || m->size < 8 + nr * 32 || m->nr_fds != nr)
        return false;
    for (unsigned i = 0; i < v->nr_queues; i++)
        while (v->q[i].running)
            blk_sleep(v->e.set, NS_PER_MS / 4);
    mem_drop(v);
    for (unsigned i = 0; i < nr; i++) {
        const uint8_t *p = m->p + 8 + i * 32;
        struct region r = {get_le64(p), get_le64(p + 8), get_le64(p + 16), get_le64(p + 24), m->fds[i]};

        if (!r.size || r.gpa + r.size < r.gpa || r.uaddr + r.size < r.uaddr || r.off > INT64_MAX ||
            r.size > INT64_MAX - r.off || !mem_fd_ok(v, r.fd))
            return false;
        m->fds[i] = -1;
        v->mem[v->nr_mem++] = r;
    }
    return true;
}

/* The ring a message is about: its index is the first u32 of the payload. */
static struct queue *msg_queue(struct vu *v, const struct msg *m, uint32_t need)
{
    uint32_t i = m->size >= need ? get_le32(m->p) : UINT32_MAX;

    return i < v->nr_queues ? &v->q[i] : NULL;
}

static bool set_vring(struct vu *v, struct msg *m)
{
    struct queue *q = msg_queue(v, m, 8);
    uint32_t val = get_le32(m->p + 4);

    if (!q)
        return false;
    switch (m->request) {
    case VU_SET_VRING_NUM: /* requests of a ring that is started still reckon with its size */
        if (q->started || !val || val > MAX_RING || val & (val - 1))
            return false;
        q->num = val;
        return true;
    case VU_SET_VRING_BASE:
        if (q->started || val > UINT16_MAX)
            return false;
        q->last_avail = (uint16_t)val;
        return true;
    case VU_SET_VRING_ENABLE:
        q->enabled = val == 1;
        if (q->enabled)
            queue_run(q);
        return val <= 1;
    default:                                           /* VU_SET_VRING_ADDR */
        if (q->started || m->size < 40 || m->p[4] & 1) /* no logging */
            return false;
        q->desc = get_le64(m->p + 8);
        q->used = get_le64(m->p + 16);
        q->avail = get_le64(m->p + 24);
        return true;
    }
}

static bool get_vring_base(struct vu *v, const struct msg *m)
{
    struct queue *q = msg_queue(v, m, 8);
    uint8_t b[8];

    if (!q)
        return false;
    queue_stop(q);
    put_le32(b, get_le32(m->p));
    put_le32(b + 4, q->last_avail);
    return reply(v, m, b, 8);
}

static bool set_vring_fd(struct vu *v, struct msg *m)
{
    uint64_t val = m->size >= 8 ? get_le64(m->p) : UINT64_MAX;
    struct queue *q = (val & 0xff) < v->nr_queues && val < 0x200 ? &v->q[val & 0xff] : NULL;
    int fd = take_fd(m), *to;

    if (m->request == VU_SET_VRING_ERR) { /* nothing is ever told by it */
        if (fd >= 0)
            close(fd);
        return q;
    }
    if (!q || (fd < 0) != !!(val & VU_NOFD) || (fd >= 0 && !is_eventfd(fd)) ||
        (m->request == VU_SET_VRING_KICK && (fd < 0 || q->started))) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    to = m->request == VU_SET_VRING_KICK ? &q->kick : &q->call;
    if (*to >= 0)
        close(*to);
    *to = fd;
    return m->request != VU_SET_VRING_KICK || queue_start(q);
}

static bool set_features(struct vu *v, const struct msg *m, uint64_t may, uint64_t *to)
{
    uint64_t want = m->size >= 8 ? get_le64(m->p) : UINT64_MAX;

    if (want & ~may)
        return false;
    *to = want;
    return true;
}

/* False: the connection ends. *replied: the message was one that has an answer. */
static bool msg_act(struct vu *v, struct msg *m, bool *replied)
{
    *replied = true;
    switch (m->request) {
    case VU_GET_FEATURES:
        return reply_u64(v, m, features_of(v));
    case VU_GET_PROTOCOL_FEATURES:
        return reply_u64(v, m, VU_PF_MQ | VU_PF_REPLY_ACK | VU_PF_CONFIG);
    case VU_GET_QUEUE_NUM:
        return reply_u64(v, m, v->nr_queues);
    case VU_GET_VRING_BASE:
        return get_vring_base(v, m);
    case VU_GET_CONFIG:
        return get_config(v, m);
    default:
        break;
    }
    *replied = false;
    switch (m->request) {
    case VU_SET_FEATURES:
        return set_features(v, m, features_of(v), &v->features);
    case VU_SET_PROTOCOL_FEATURES:
        return set_features(v, m, VU_PF_MQ | VU_PF_REPLY_ACK | VU_PF_CONFIG, &v->proto);
    case VU_SET_OWNER:
    case VU_RESET_OWNER:
        return true;
    case VU_SET_MEM_TABLE:
        return set_mem_table(v, m);
    case VU_SET_VRING_NUM:
    case VU_SET_VRING_ADDR:
    case VU_SET_VRING_BASE:
    case VU_SET_VRING_ENABLE:
        return set_vring(v, m);
    case VU_SET_VRING_KICK:
    case VU_SET_VRING_CALL:
    case VU_SET_VRING_ERR:
        return set_vring_fd(v, m);
    default:
        return false;
    }
}

/* ---- connections ---- */

static void conn_end(struct vu *v)
{
    for (unsigned i = 0; i < v->nr_queues; i++)
        queue_stop(&v->q[i]);
    for (unsigned i = 0; i < v->nr_queues; i++)
        queue_close(&v->q[i]);
    mem_drop(v);
    close(v->fd);
    v->fd = -1;
    v->features = v->proto = 0;
    v->broken = false;
    v->busy = 0;
    if (v->watch && !v->e.stopping)
        ev_fd_set(v->watch, EV_IN);
}

static void conn_run(void *opaque)
{
    struct vu *v = opaque;
    struct msg m;
    bool go = true;

    while (go && msg_recv(v, &m)) {
        bool replied;

        go = msg_act(v, &m, &replied);
        if (!go)
            vu_break(v, "a message that cannot be or is not known");
        else if (!replied && m.flags & VU_NEED_REPLY && v->proto & VU_PF_REPLY_ACK)
            go = reply_u64(v, &m, 0);
        msg_close(&m);
    }
    msg_close(&m);
    v->broken = true; /* rings start nothing any more */
    conn_end(v);
}

static void on_connect(void *opaque, int fd, unsigned events)
{
    struct vu *v = opaque;
    int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (peer < 0)
        return;
    ev_fd_set(v->watch, 0); /* one at a time */
    v->fd = peer;
    v->busy = 1;
    fibre_start(blk_set_loop(v->e.set), conn_run, v);
}

/* ---- life ---- */

static bool listen_at(struct vu *v, const char *path, struct err **errp)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof a.sun_path)
        return err_set(errp, "the socket's path '%s' is too long", path);
    strcpy(a.sun_path, path);
    v->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    unlink(path);
    if (v->listen_fd < 0 || bind(v->listen_fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(v->listen_fd, 1) < 0) {
        err_set_errno(errp, errno, "Failed to bind socket to %s", path);
        if (v->listen_fd >= 0)
            close(v->listen_fd);
        return false;
    }
    v->path = xstrdup(path);
    return true;
}

static bool vu_start(struct blk_export *e, struct json_object *a, struct err **errp)
{
    struct vu *v = container_of(e, struct vu, e);
    struct json_object *addr = json_get(a, "addr");
    const char *type = addr ? json_get_str(addr, "type") : NULL, *path = addr ? json_get_str(addr, "path") : NULL;
    int64_t block = json_get_int(a, "logical-block-size", 512), queues = json_get_int(a, "num-queues", 1);

    if (!type || strcmp(type, "unix") || !path)
        return err_set(errp, "a vhost-user-blk export needs addr.type=unix and addr.path");
    if (block < 512 || block > 65536 || block & (block - 1))
        return err_set(errp, "logical-block-size must be a power of 2 between 512 and 65536");
    if (queues < 1 || queues > MAX_QUEUES)
        return err_set(errp, "num-queues must be between 1 and %d", MAX_QUEUES);
    v->fd = -1;
    v->block = (uint32_t)block;
    v->nr_queues = (unsigned)queues;
    for (unsigned i = 0; i < MAX_QUEUES; i++)
        v->q[i] = (struct queue){.v = v, .kick = -1, .call = -1};
    if (!listen_at(v, path, errp))
        return false;
    v->watch = ev_fd_add(blk_set_loop(e->set), v->listen_fd, EV_IN, on_connect, v);
    return true;
}

static void vu_stop(struct blk_export *e)
{
    struct vu *v = container_of(e, struct vu, e);

    ev_fd_del(v->watch);
    v->watch = NULL;
    if (v->fd >= 0)
        shutdown(v->fd, SHUT_RDWR);
    blk_export_settle(e, &v->busy);
    close(v->listen_fd);
    unlink(v->path);
    free(v->path);
}

const struct blk_export_type blk_export_vhost_user = {
    .name = "vhost-user-blk", .size = sizeof(struct vu), .start = vu_start, .stop = vu_stop};
