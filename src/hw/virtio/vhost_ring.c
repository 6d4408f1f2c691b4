/* Rings for a vhost-user peer; see the header. */
#include "hw/virtio/vhost_ring.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum { NUM = VHOST_RING_NUM, TABLE_MAX = 128, DESC = 16, TABLE = TABLE_MAX * DESC };
enum { AT_AVAIL = NUM * DESC, AT_USED = 8192, AT_TABLES = 16384, RING_SIZE = AT_TABLES + NUM * TABLE };
enum { D_NEXT = 1, D_WRITE = 2, D_INDIRECT = 4, USED_NO_NOTIFY = 1 };
static_assert(AT_AVAIL + 4 + 2 * NUM <= AT_USED && AT_USED + 4 + 8 * NUM <= AT_TABLES, "the parts do not overlap");
#define REGION_ADDR(i) ((uint64_t)((i) + 1) << 40) /* a region each tebibyte */

static uint16_t load16(const uint8_t *p)
{
    return le16toh(__atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE));
}
static void store16(uint8_t *p, uint16_t v)
{
    __atomic_store_n((uint16_t *)p, htole16(v), __ATOMIC_RELEASE);
}

static void eventfd_clear(int fd)
{
    uint64_t n;

    while (read(fd, &n, sizeof n) > 0)
        ;
}

static void ring_clear(struct vhost_ring *q)
{
    memset(q->base, 0, AT_TABLES);
    q->avail_idx = q->last_used = q->free = 0;
    q->nr_free = NUM;
    q->broken = false;
    for (unsigned i = 0; i < NUM; i++) {
        q->next[i] = (uint16_t)(i + 1);
        q->req[i] = NULL;
    }
}

static int new_eventfd(struct err **errp)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0)
        err_set_errno(errp, errno, "cannot create an eventfd");
    return fd;
}

bool vhost_rings_init(struct vhost_rings *s, unsigned nr, struct err **errp)
{
    *s = (struct vhost_rings){.nr = nr, .size = (uint64_t)nr * RING_SIZE, .ring = xcalloc(nr, sizeof *s->ring)};
    for (unsigned i = 0; i < nr; i++) {
        s->ring[i].kick = s->ring[i].call = -1;
        list_init(&s->ring[i].sent);
        list_init(&s->ring[i].todo);
    }
    s->fd = memfd_create("vhost-rings", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (s->fd < 0 || ftruncate(s->fd, (off_t)s->size) < 0 ||
        fcntl(s->fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
        err_set_errno(errp, errno, "cannot get shared memory for rings");
        goto fail;
    }
    s->map = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
    if (s->map == MAP_FAILED) {
        s->map = NULL;
        err_set_errno(errp, errno, "cannot map shared memory for rings");
        goto fail;
    }
    for (unsigned i = 0; i < nr; i++) {
        struct vhost_ring *q = &s->ring[i];

        q->base = s->map + (size_t)i * RING_SIZE;
        q->addr = REGION_ADDR(0) + (uint64_t)i * RING_SIZE;
        ring_clear(q);
        q->kick = new_eventfd(errp);
        q->call = q->kick >= 0 ? new_eventfd(errp) : -1;
        if (q->call < 0)
            goto fail;
    }
    return true;
fail:
    vhost_rings_free(s);
    return false;
}

void vhost_rings_free(struct vhost_rings *s)
{
    for (unsigned i = 0; i < s->nr; i++) {
        assert(list_empty(&s->ring[i].sent) && list_empty(&s->ring[i].todo));
        if (s->ring[i].kick >= 0)
            close(s->ring[i].kick);
        if (s->ring[i].call >= 0)
            close(s->ring[i].call);
    }
    if (s->map)
        munmap(s->map, s->size);
    if (s->fd >= 0)
        close(s->fd);
    free(s->ring);
    *s = (struct vhost_rings){.fd = -1};
}

struct fill {
    struct vhost_mem *m;
    bool full;
};
static void add_block(struct mem_ram *b, void *opaque)
{
    struct fill *f = opaque;
    struct vhost_mem *m = f->m;

    if (!b->shared || b->fd < 0 || b->host_ro)
        return;
    if (m->nr == VU_REGIONS || b->size > REGION_ADDR(0)) {
        f->full = true;
        return;
    }
    m->r[m->nr] = (struct vu_region){.addr = REGION_ADDR(m->nr), .size = b->size, .off = b->fd_off, .fd = b->fd};
    m->host[m->nr++] = b->host;
}

bool vhost_mem_fill(struct vhost_mem *m, struct mem_sys *sys, const struct vhost_rings *s, struct err **errp)
{
    struct fill f = {.m = m};

    *m = (struct vhost_mem){.nr = 1};
    m->r[0] = (struct vu_region){.addr = REGION_ADDR(0), .size = s->size, .fd = s->fd};
    m->host[0] = s->map;
    mem_ram_each(sys, add_block, &f);
    return !f.full || err_set(errp, "the guest's memory is in more than %d shared blocks", VU_REGIONS - 1);
}

struct vu_ring vhost_ring_place(const struct vhost_rings *s, unsigned i)
{
    const struct vhost_ring *q = &s->ring[i];

    return (struct vu_ring){.num = NUM,
                            .desc = q->addr,
                            .avail = q->addr + AT_AVAIL,
                            .used = q->addr + AT_USED,
                            .kick = q->kick,
                            .call = q->call};
}

/* ---- giving ---- */

/* Where the peer finds [p, +len); 0: not shared. */
static uint64_t addr_of(const struct vhost_mem *m, const uint8_t *p, uint64_t len)
{
    for (unsigned i = 1; i < m->nr; i++)
        if (p >= m->host[i] && (uint64_t)(p - m->host[i]) < m->r[i].size)
            return len <= m->r[i].size - (uint64_t)(p - m->host[i]) ? m->r[i].addr + (uint64_t)(p - m->host[i]) : 0;
    return 0;
}

static bool all_shared(const struct vhost_mem *m, const struct iov *v)
{
    for (unsigned i = 0; i < v->nr; i++)
        if (!addr_of(m, v->v[i].iov_base, v->v[i].iov_len))
            return false;
    return true;
}

static void put_desc(uint8_t *d, uint64_t addr, uint32_t len, unsigned flags, uint16_t next)
{
    put_le64(d, addr);
    put_le32(d + 8, len);
    put_le16(d + 12, (uint16_t)flags);
    put_le16(d + 14, next);
}

static const struct iovec *part_of(const struct virtq_elem *e, unsigned i)
{
    return i < e->out.nr ? &e->out.v[i] : &e->in.v[i - e->out.nr];
}

/* The parts of e at table: entry i at slot(i), linked to the next one. */
static void write_chain(uint8_t *table, const struct virtq_elem *e, const struct vhost_mem *m, uint16_t at,
                        const uint16_t *next)
{
    unsigned nr = e->out.nr + e->in.nr;

    for (unsigned i = 0; i < nr; i++) {
        const struct iovec *v = part_of(e, i);
        uint16_t to = next ? next[at] : (uint16_t)(at + 1);
        bool more = i + 1 < nr;

        put_desc(table + at * DESC, addr_of(m, v->iov_base, v->iov_len), (uint32_t)v->iov_len,
                 (more ? D_NEXT : 0u) | (i < e->out.nr ? 0u : D_WRITE), more ? to : 0);
        at = to;
    }
}

int vhost_ring_put(struct vhost_ring *q, struct vhost_req *r, const struct vhost_mem *m, bool indirect)
{
    unsigned nr = r->e.out.nr + r->e.in.nr;
    uint16_t last;

    if (!nr || !all_shared(m, &r->e.out) || !all_shared(m, &r->e.in) || (nr > NUM && !(indirect && nr <= TABLE_MAX)))
        return -1;
    indirect &= nr > 1 && nr <= TABLE_MAX;
    r->ndesc = indirect ? 1 : (uint16_t)nr;
    if (q->nr_free < r->ndesc)
        return 0;
    r->head = last = q->free;
    for (unsigned i = 1; i < r->ndesc; i++)
        last = q->next[last];
    if (indirect) {
        write_chain(q->base + AT_TABLES + r->head * TABLE, &r->e, m, 0, NULL);
        put_desc(q->base + r->head * DESC, q->addr + AT_TABLES + r->head * TABLE, nr * DESC, D_INDIRECT, 0);
    } else {
        write_chain(q->base, &r->e, m, r->head, q->next);
    }
    q->free = q->next[last];
    q->nr_free -= r->ndesc;
    q->req[r->head] = r;
    list_add(&q->sent, &r->link);
    put_le16(q->base + AT_AVAIL + 4 + 2 * (q->avail_idx % NUM), r->head);
    store16(q->base + AT_AVAIL + 2, ++q->avail_idx); /* release: the entry first */
    return 1;
}

void vhost_ring_kick(struct vhost_ring *q)
{
    uint64_t one = 1;

    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the index before the peer's wish */
    if (!(load16(q->base + AT_USED) & USED_NO_NOTIFY) && write(q->kick, &one, sizeof one) < 0 && errno != EAGAIN)
        q->broken = true;
}

/* ---- taking ---- */

static void release(struct vhost_ring *q, struct vhost_req *r)
{
    uint16_t last = r->head;

    for (unsigned i = 1; i < r->ndesc; i++)
        last = q->next[last];
    q->next[last] = q->free;
    q->free = r->head;
    q->nr_free += r->ndesc;
    q->req[r->head] = NULL;
    list_del(&r->link);
}

struct vhost_req *vhost_ring_take(struct vhost_ring *q, uint32_t *len)
{
    const uint8_t *used = q->base + AT_USED;
    uint16_t n = (uint16_t)(load16(used + 2) - q->last_used);
    struct vhost_req *r;
    uint32_t id;

    if (!n || q->broken)
        return NULL;
    id = get_le32(used + 4 + 8 * (q->last_used % NUM));
    *len = get_le32(used + 8 + 8 * (q->last_used % NUM));
    r = n <= NUM && id < NUM ? q->req[id] : NULL;
    if (!r) {
        q->broken = true;
        return NULL;
    }
    q->last_used++;
    *len = (uint32_t)min_u64(*len, r->e.in.len);
    release(q, r);
    return r;
}

void vhost_ring_restart(struct vhost_ring *q)
{
    while (!list_empty(&q->sent)) {
        struct list *last = q->sent.prev;

        list_del(last);
        list_add_head(&q->todo, last);
    }
    ring_clear(q);
    eventfd_clear(q->kick);
    eventfd_clear(q->call);
}
