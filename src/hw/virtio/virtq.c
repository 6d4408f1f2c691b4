/* Virtqueues: split and packed rings, indirect tables, event indices.
 *
 * Source: VIRTIO 1.2, sections 2.7 (split) and 2.8 (packed). The ring parts are looked up once per change of the memory
 * map and then accessed through host pointers; a part that is not one piece of RAM is accessed word by word.
 *
 * Invariants: (1) a descriptor is copied before any field is looked at; (2) a chain is at most VIRTQ_MAX_SEGS long, so
 * a loop ends; (3) used entries are written before the index or flag that makes them visible; (4) an element of an
 * earlier life of the queue (gen) is never written to the ring. Left out: IN_ORDER, NOTIFICATION_DATA and RING_RESET
 * are not offered. */
#include "hw/virtio/virtio.h"

enum { DESC_F_NEXT = 1, DESC_F_WRITE = 2, DESC_F_INDIRECT = 4 };
enum { PACKED_F_AVAIL = 1 << 7, PACKED_F_USED = 1 << 15 };
enum { AVAIL_F_NO_INTERRUPT = 1, USED_F_NO_NOTIFY = 1 };
enum { EVENT_F_ENABLE = 0, EVENT_F_DISABLE = 1, EVENT_F_DESC = 2 };
enum { DESC_SIZE = 16, BOUNCE_MAX = 1 << 20 };

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next, id;
};
struct virtq_seg {
    void *host;
    uint64_t len;
    gpa_t gpa;
    bool in, bounce;
};

/* ---- ring memory ---- */

static void area_map(struct virtio_dev *vd, struct virtq_area *a, gpa_t gpa, uint64_t len)
{
    struct mem_section s;

    a->gpa = gpa;
    a->len = len;
    a->host = NULL;
    if (!mem_find(vd->dma, gpa, &s) || !s.host || s.readonly)
        return;
    uint64_t in = gpa - s.start;
    if (s.len - in < len)
        return;
    a->host = s.host + in;
    a->ram = s.ram;
    a->ram_off = s.ram_off + in;
}

static bool is_packed(const struct virtq *q)
{
    return virtio_has(q->vd, VIRTIO_F_RING_PACKED);
}

static bool has_event_idx(const struct virtq *q)
{
    return virtio_has(q->vd, VIRTIO_F_EVENT_IDX);
}

static void ring_map(struct virtq *q)
{
    struct virtio_dev *vd = q->vd;

    if (likely(q->map_gen == vd->map_gen))
        return;
    area_map(vd, &q->a_desc, q->desc, (uint64_t)q->num * DESC_SIZE);
    if (is_packed(q)) {
        area_map(vd, &q->a_driver, q->driver, 4);
        area_map(vd, &q->a_device, q->device, 4);
    } else {
        unsigned ev = has_event_idx(q) ? 2 : 0;
        area_map(vd, &q->a_driver, q->driver, 4 + 2u * q->num + ev);
        area_map(vd, &q->a_device, q->device, 4 + 8u * q->num + ev);
    }
    q->map_gen = vd->map_gen;
}

static uint16_t ring_ld16(struct virtq *q, const struct virtq_area *a, unsigned off)
{
    if (likely(a->host))
        return le16toh(__atomic_load_n((const uint16_t *)(a->host + off), __ATOMIC_ACQUIRE));
    uint8_t b[2];
    mem_read(q->vd->dma, a->gpa + off, b, 2);
    return get_le16(b);
}

static void ring_st16(struct virtq *q, const struct virtq_area *a, unsigned off, uint16_t v)
{
    if (likely(a->host)) {
        __atomic_store_n((uint16_t *)(a->host + off), htole16(v), __ATOMIC_RELEASE);
        mem_ram_written(a->ram, a->ram_off + off, 2);
        return;
    }
    uint8_t b[2];
    put_le16(b, v);
    mem_write(q->vd->dma, a->gpa + off, b, 2);
}

static void ring_write(struct virtq *q, const struct virtq_area *a, unsigned off, const void *buf, unsigned len)
{
    if (likely(a->host)) {
        memcpy(a->host + off, buf, len);
        mem_ram_written(a->ram, a->ram_off + off, len);
    } else {
        mem_write(q->vd->dma, a->gpa + off, buf, len);
    }
}

static void desc_parse(const uint8_t *b, bool packed, struct desc *d)
{
    d->addr = get_le64(b);
    d->len = get_le32(b + 8);
    if (packed) {
        d->id = get_le16(b + 12);
        d->flags = get_le16(b + 14);
        d->next = 0;
    } else {
        d->flags = get_le16(b + 12);
        d->next = get_le16(b + 14);
        d->id = 0;
    }
}

static bool desc_read(struct virtq *q, const struct virtq_area *a, unsigned i, bool packed, struct desc *d)
{
    uint8_t b[DESC_SIZE];

    if (a->host)
        memcpy(b, a->host + (size_t)i * DESC_SIZE, DESC_SIZE);
    else if (mem_read(q->vd->dma, a->gpa + (uint64_t)i * DESC_SIZE, b, DESC_SIZE) != MEM_OK) {
        virtio_error(q->vd, "descriptor %u of queue %u lies outside memory", i, q->index);
        return false;
    }
    desc_parse(b, packed, d);
    return true;
}

/* ---- taking chains ---- */

struct chain {
    struct virtq *q;
    unsigned nr, nr_out;
    uint64_t len[2];
    struct {
        uint64_t addr;
        uint32_t len;
    } part[VIRTQ_MAX_SEGS]; /* readable ones first, then writable */
};

static bool chain_add(struct chain *c, const struct desc *d)
{
    bool in = d->flags & DESC_F_WRITE;

    if (!in && c->nr != c->nr_out) {
        virtio_error(c->q->vd, "queue %u: a readable descriptor follows a writable one", c->q->index);
        return false;
    }
    if (c->nr == VIRTQ_MAX_SEGS) {
        virtio_error(c->q->vd, "queue %u: descriptor chain is too long or loops", c->q->index);
        return false;
    }
    c->len[in] += d->len;
    if (c->len[in] > UINT32_MAX || d->addr + d->len < d->addr) {
        virtio_error(c->q->vd, "queue %u: descriptor chain covers too much memory", c->q->index);
        return false;
    }
    if (!d->len)
        return true; /* nothing to transfer; tolerated */
    c->part[c->nr].addr = d->addr;
    c->part[c->nr].len = d->len;
    c->nr++;
    if (!in)
        c->nr_out++;
    return true;
}

/* The table of an indirect descriptor; split tables are linked, packed ones are taken in order. */
static bool chain_add_indirect(struct chain *c, const struct desc *ind, bool packed)
{
    struct virtq *q = c->q;
    struct virtq_area a;
    unsigned n = ind->len / DESC_SIZE, i = 0, seen = 0;
    struct desc d;

    if (!virtio_has(q->vd, VIRTIO_F_INDIRECT_DESC) || !n || ind->len % DESC_SIZE || ind->addr + ind->len < ind->addr ||
        (!packed && (ind->flags & DESC_F_NEXT))) {
        virtio_error(q->vd, "queue %u: bad indirect descriptor (%u bytes)", q->index, ind->len);
        return false;
    }
    area_map(q->vd, &a, ind->addr, ind->len);
    for (;;) {
        if (seen++ >= VIRTQ_MAX_SEGS) {
            virtio_error(q->vd, "queue %u: indirect table is too long or loops", q->index);
            return false;
        }
        if (!desc_read(q, &a, i, packed, &d))
            return false;
        if (d.flags & DESC_F_INDIRECT) {
            virtio_error(q->vd, "queue %u: indirect table inside an indirect table", q->index);
            return false;
        }
        if (!chain_add(c, &d))
            return false;
        if (packed) {
            if (++i == n)
                return true;
        } else {
            if (!(d.flags & DESC_F_NEXT))
                return true;
            i = d.next;
            if (i >= n) {
                virtio_error(q->vd, "queue %u: indirect chain leaves its table", q->index);
                return false;
            }
        }
    }
}

/* Chain starting at head of a split ring. */
static bool chain_split(struct chain *c, unsigned head)
{
    struct virtq *q = c->q;
    struct desc d;

    for (unsigned i = head, seen = 0;; i = d.next) {
        if (i >= q->num || seen++ >= q->num) {
            virtio_error(q->vd, "queue %u: descriptor chain loops or leaves the table", q->index);
            return false;
        }
        if (!desc_read(q, &q->a_desc, i, false, &d))
            return false;
        if (d.flags & DESC_F_INDIRECT)
            return chain_add_indirect(c, &d, false);
        if (!chain_add(c, &d))
            return false;
        if (!(d.flags & DESC_F_NEXT))
            return true;
    }
}

static bool packed_is_avail(uint16_t flags, bool wrap)
{
    return !!(flags & PACKED_F_AVAIL) == wrap && !!(flags & PACKED_F_USED) != wrap;
}

static uint16_t packed_flags(struct virtq *q, unsigned i)
{
    return ring_ld16(q, &q->a_desc, i * DESC_SIZE + 14);
}

/* Chain at the current place of a packed ring; its buffer id is in the last descriptor. */
static bool chain_packed(struct chain *c, uint16_t *id, uint16_t *ndesc)
{
    struct virtq *q = c->q;
    struct desc d;
    unsigned i = q->last_avail, n = 0;

    for (;;) {
        if (!desc_read(q, &q->a_desc, i, true, &d))
            return false;
        n++;
        if (d.flags & DESC_F_INDIRECT) {
            if (n > 1 || (d.flags & DESC_F_NEXT)) {
                virtio_error(q->vd, "queue %u: indirect descriptor inside a chain", q->index);
                return false;
            }
            if (!chain_add_indirect(c, &d, true))
                return false;
        } else if (!chain_add(c, &d)) {
            return false;
        }
        if (!(d.flags & DESC_F_NEXT))
            break;
        if (n >= q->num) {
            virtio_error(q->vd, "queue %u: descriptor chain is longer than the ring", q->index);
            return false;
        }
        i = i + 1 == q->num ? 0 : i + 1;
    }
    *id = d.id;
    *ndesc = n;
    return true;
}

/* Maps one part, in as many pieces as the memory map has; false when it is not usable memory. */
static bool map_part(struct virtq_elem *e, struct virtio_dev *vd, uint64_t addr, uint64_t len, bool in, unsigned *cap)
{
    while (len) {
        uint64_t n = len;
        void *host = mem_map(vd->dma, addr, &n, in);
        bool bounce = !host || !n;
        struct mem_section s;

        if (bounce) { /* device memory or ROM: through a buffer, piece by piece */
            if (!mem_find(vd->dma, addr, &s))
                return false;
            n = min_u64(len, min_u64(s.start + s.len - addr, BOUNCE_MAX));
            host = try_alloc(1, n);
            if (!host)
                return false;
            if (!in)
                mem_read(vd->dma, addr, host, n);
        }
        if (e->nr_seg == *cap) {
            *cap = *cap * 2 + 4;
            e->seg = xrealloc(e->seg, *cap * sizeof *e->seg);
        }
        e->seg[e->nr_seg++] = (struct virtq_seg){.host = host, .len = n, .gpa = addr, .in = in, .bounce = bounce};
        iov_add(in ? &e->in : &e->out, host, n);
        addr += n;
        len -= n;
        if (e->nr_seg > 4 * VIRTQ_MAX_SEGS)
            return false;
    }
    return true;
}

/* Unmaps everything; the first `written` bytes of the writable parts were changed by the device. */
static void elem_release(struct virtq_elem *e, uint64_t written)
{
    struct virtio_dev *vd = e->q->vd;

    for (unsigned i = 0; i < e->nr_seg; i++) {
        struct virtq_seg *s = &e->seg[i];
        uint64_t n = s->in ? min_u64(written, s->len) : 0;

        if (s->in)
            written -= n;
        if (s->bounce) {
            if (n)
                mem_write(vd->dma, s->gpa, s->host, n);
            free(s->host);
        } else {
            mem_unmap(vd->dma, s->host, s->len, s->in, n);
        }
    }
    iov_free(&e->out);
    iov_free(&e->in);
    free(e->seg);
    free(e);
}

static struct virtq_elem *chain_to_elem(struct chain *c, size_t size)
{
    struct virtq_elem *e = xcalloc(1, size);
    unsigned cap = c->nr;

    e->q = c->q;
    e->gen = c->q->gen;
    e->seg = cap ? xcalloc(cap, sizeof *e->seg) : NULL;
    iov_init(&e->out, c->nr_out);
    iov_init(&e->in, c->nr - c->nr_out);
    for (unsigned i = 0; i < c->nr; i++)
        if (!map_part(e, c->q->vd, c->part[i].addr, c->part[i].len, i >= c->nr_out, &cap)) {
            virtio_error(c->q->vd, "queue %u: descriptor names memory that is not there (%#" PRIx64 "+%#x)",
                         c->q->index, c->part[i].addr, c->part[i].len);
            elem_release(e, 0);
            return NULL;
        }
    return e;
}

/* Queue, id, slots, parts out and in; the tag; then address and length of each part. A part that was mapped in pieces
 * is as many parts here. */
enum { HELD_HEAD = 20, HELD_PART = 16 };

void virtq_elem_put(struct strbuf *to, const struct virtq_elem *e, uint64_t tag)
{
    uint8_t h[HELD_HEAD], b[HELD_PART];
    unsigned out = 0;

    while (out < e->nr_seg && !e->seg[out].in)
        out++;
    put_le16(h, e->q->index);
    put_le16(h + 2, e->id);
    put_le16(h + 4, e->ndesc);
    put_le16(h + 6, (uint16_t)out);
    put_le16(h + 8, (uint16_t)(e->nr_seg - out));
    put_le16(h + 10, 0);
    put_le64(h + 12, tag);
    str_addn(to, h, sizeof h);
    for (unsigned i = 0; i < e->nr_seg; i++) {
        put_le64(b, e->seg[i].gpa);
        put_le64(b + 8, e->seg[i].len);
        str_addn(to, b, sizeof b);
    }
}

struct virtq_elem *virtq_elem_get(struct virtio_dev *vd, const uint8_t **p, size_t *n, uint64_t *tag)
{
    const uint8_t *h = *p;
    unsigned queue, out, in;
    struct chain c = {0};
    struct virtq_elem *e;

    if (*n < HELD_HEAD)
        return NULL;
    queue = get_le16(h);
    out = get_le16(h + 6);
    in = get_le16(h + 8);
    *tag = get_le64(h + 12);
    if (queue >= vd->nr_vq || !vd->vq[queue].enabled || get_le16(h + 2) >= max_u64(vd->vq[queue].num, 1u << 15) ||
        get_le16(h + 4) > vd->vq[queue].num || out + in > VIRTQ_MAX_SEGS || (*n - HELD_HEAD) / HELD_PART < out + in)
        return NULL;
    c.q = &vd->vq[queue];
    c.nr = out + in;
    c.nr_out = out;
    for (unsigned i = 0; i < c.nr; i++) {
        uint64_t len = get_le64(h + HELD_HEAD + i * HELD_PART + 8);

        if (!len || len > UINT32_MAX)
            return NULL;
        c.part[i].addr = get_le64(h + HELD_HEAD + i * HELD_PART);
        c.part[i].len = (uint32_t)len;
    }
    e = chain_to_elem(&c, vd->type->elem_size ? vd->type->elem_size(vd, queue) : sizeof *e);
    if (!e)
        return NULL;
    e->id = get_le16(h + 2);
    e->ndesc = get_le16(h + 4);
    *p += HELD_HEAD + c.nr * HELD_PART;
    *n -= HELD_HEAD + c.nr * HELD_PART;
    return e;
}

bool virtq_ready(const struct virtq *q)
{
    return q->enabled && !q->vd->broken;
}

static void split_set_avail_event(struct virtq *q, uint16_t v)
{
    ring_st16(q, &q->a_device, 4 + 8u * q->num, v);
}

/* Entries the driver has published and we have not taken; -1 when the index is nonsense. */
static int split_pending(struct virtq *q)
{
    uint16_t n = ring_ld16(q, &q->a_driver, 2) - q->last_avail;

    if (n > q->num) {
        virtio_error(q->vd, "queue %u: available index jumped by %u in a ring of %u", q->index, n, q->num);
        return -1;
    }
    return n;
}

static bool take_split(struct chain *c, uint16_t *id, uint16_t *ndesc)
{
    struct virtq *q = c->q;

    if (split_pending(q) <= 0)
        return false;
    unsigned head = ring_ld16(q, &q->a_driver, 4 + 2u * (q->last_avail % q->num));
    q->last_avail++;
    if (has_event_idx(q) && !q->no_kicks)
        split_set_avail_event(q, q->last_avail);
    *id = head;
    *ndesc = 1;
    return chain_split(c, head);
}

static bool take_packed(struct chain *c, uint16_t *id, uint16_t *ndesc)
{
    struct virtq *q = c->q;

    if (!packed_is_avail(packed_flags(q, q->last_avail), q->avail_wrap))
        return false;
    if (!chain_packed(c, id, ndesc))
        return false;
    q->last_avail += *ndesc;
    if (q->last_avail >= q->num) {
        q->last_avail -= q->num;
        q->avail_wrap = !q->avail_wrap;
    }
    return true;
}

void *virtq_pop(struct virtq *q, size_t size)
{
    struct chain c;
    uint16_t id = 0, ndesc = 0;

    assert(size >= sizeof(struct virtq_elem));
    if (!virtq_ready(q))
        return NULL;
    ring_map(q);
    if (q->inuse >= q->num) {
        /* Every slot is already in our hands; more can only be a driver that overran the ring. */
        if (!virtq_empty(q))
            virtio_error(q->vd, "queue %u: more buffers than ring entries", q->index);
        return NULL;
    }
    c.q = q;
    c.nr = c.nr_out = 0;
    c.len[0] = c.len[1] = 0;
    if (!(is_packed(q) ? take_packed(&c, &id, &ndesc) : take_split(&c, &id, &ndesc)))
        return NULL;
    struct virtq_elem *e = chain_to_elem(&c, size);
    if (!e)
        return NULL;
    e->id = id;
    e->ndesc = ndesc;
    q->inuse += ndesc;
    return e;
}

void virtq_serve(struct virtq *q, size_t size, struct virtio_dev *vd,
                 bool (*start)(struct virtio_dev *vd, struct virtq_elem *e))
{
    struct virtq_elem *e;

    do {
        virtq_set_kicks(q, false);
        while ((e = virtq_pop(q, size)))
            if (!start(vd, e)) {
                virtq_elem_free(e);
                return;
            }
        virtq_set_kicks(q, true);
    } while (!virtq_empty(q));
}

static bool is_current(const struct virtq_elem *e)
{
    return e->gen == e->q->gen;
}

void virtq_unpop(struct virtq_elem *e)
{
    struct virtq *q = e->q;

    if (is_current(e)) {
        q->inuse -= e->ndesc;
        if (!is_packed(q)) {
            q->last_avail--;
        } else if (q->last_avail < e->ndesc) {
            q->last_avail += q->num - e->ndesc;
            q->avail_wrap = !q->avail_wrap;
        } else {
            q->last_avail -= e->ndesc;
        }
    }
    elem_release(e, 0);
}

void virtq_elem_free(struct virtq_elem *e)
{
    if (is_current(e))
        e->q->inuse -= e->ndesc;
    elem_release(e, 0);
}

bool virtq_elem_is_ram(const struct virtq_elem *e)
{
    for (unsigned i = 0; i < e->nr_seg; i++)
        if (e->seg[i].bounce)
            return false;
    return true;
}

/* ---- giving chains back ---- */

void virtq_fill(struct virtq_elem *e, uint32_t len)
{
    struct virtq *q = e->q;

    if (is_current(e) && virtq_ready(q)) {
        if (q->nr_pend == q->cap_pend) {
            q->cap_pend = q->cap_pend * 2 + 8;
            q->pend = xrealloc(q->pend, q->cap_pend * sizeof *q->pend);
        }
        q->pend[q->nr_pend++] = (struct virtq_done){.id = e->id, .len = len, .ndesc = e->ndesc};
    }
    elem_release(e, is_current(e) ? len : 0);
}

static void flush_split(struct virtq *q)
{
    for (unsigned i = 0; i < q->nr_pend; i++) {
        uint8_t b[8];

        put_le32(b, q->pend[i].id);
        put_le32(b + 4, q->pend[i].len);
        ring_write(q, &q->a_device, 4 + 8u * ((uint16_t)(q->used_idx + i) % q->num), b, sizeof b);
        q->inuse--;
    }
    uint16_t old = q->used_idx;
    q->used_idx += q->nr_pend;
    ring_st16(q, &q->a_device, 2, q->used_idx); /* release: entries first */
    if ((uint16_t)(q->used_idx - q->signalled) < (uint16_t)(q->used_idx - old))
        q->signalled_ok = false;
}

static void packed_put(struct virtq *q, unsigned slot, bool wrap, const struct virtq_done *p, bool with_flags)
{
    uint8_t b[8];
    uint16_t flags = (wrap ? PACKED_F_AVAIL | PACKED_F_USED : 0) | (p->len ? DESC_F_WRITE : 0);

    if (!with_flags) {
        put_le32(b, p->len);
        put_le16(b + 4, p->id);
        ring_write(q, &q->a_desc, slot * DESC_SIZE + 8, b, 6);
    } else {
        ring_st16(q, &q->a_desc, slot * DESC_SIZE + 14, flags);
    }
}

/* Bodies of all, then flags from the second on, then the first: the driver sees the batch at once. */
static void flush_packed(struct virtq *q)
{
    for (int pass = 0; pass < 3; pass++) {
        unsigned slot = q->used_idx;
        bool wrap = q->used_wrap;

        for (unsigned i = 0; i < q->nr_pend; i++) {
            if (pass == 0 || (pass == 1) == (i > 0))
                packed_put(q, slot, wrap, &q->pend[i], pass > 0);
            slot += q->pend[i].ndesc;
            if (slot >= q->num) {
                slot -= q->num;
                wrap = !wrap;
            }
        }
        if (pass == 2) {
            q->used_idx = slot;
            q->used_wrap = wrap;
        }
    }
    for (unsigned i = 0; i < q->nr_pend; i++)
        q->inuse -= q->pend[i].ndesc;
}

void virtq_flush(struct virtq *q)
{
    if (!q->nr_pend)
        return;
    if (virtq_ready(q)) {
        ring_map(q);
        if (is_packed(q))
            flush_packed(q);
        else
            flush_split(q);
    }
    q->nr_pend = 0;
}

void virtq_push(struct virtq_elem *e, uint32_t len)
{
    struct virtq *q = e->q;

    virtq_fill(e, len);
    virtq_flush(q);
}

/* ---- notifications ---- */

bool virtq_empty(struct virtq *q)
{
    if (!virtq_ready(q))
        return true;
    ring_map(q);
    if (is_packed(q))
        return !packed_is_avail(packed_flags(q, q->last_avail), q->avail_wrap);
    return split_pending(q) <= 0;
}

void virtq_set_kicks(struct virtq *q, bool on)
{
    q->no_kicks = !on;
    if (!virtq_ready(q))
        return;
    ring_map(q);
    if (is_packed(q)) {
        if (on && has_event_idx(q)) {
            ring_st16(q, &q->a_device, 0, q->last_avail | q->avail_wrap << 15);
            ring_st16(q, &q->a_device, 2, EVENT_F_DESC);
        } else {
            ring_st16(q, &q->a_device, 2, on ? EVENT_F_ENABLE : EVENT_F_DISABLE);
        }
    } else if (has_event_idx(q)) {
        if (on)
            split_set_avail_event(q, q->last_avail);
    } else {
        ring_st16(q, &q->a_device, 0, on ? 0 : USED_F_NO_NOTIFY);
    }
    if (on)
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the caller looks for buffers next */
}

/* VIRTIO 1.2, 2.7.7.2: did the index pass `event` on its way from old to new? */
static bool event_passed(uint16_t event, uint16_t new, uint16_t old)
{
    return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

static bool want_irq_split(struct virtq *q)
{
    uint16_t old = q->signalled;
    bool ok = q->signalled_ok;

    if (virtio_has(q->vd, VIRTIO_F_NOTIFY_ON_EMPTY) && !q->inuse && virtq_empty(q))
        return true;
    if (!has_event_idx(q))
        return !(ring_ld16(q, &q->a_driver, 0) & AVAIL_F_NO_INTERRUPT);
    q->signalled = q->used_idx;
    q->signalled_ok = true;
    return !ok || event_passed(ring_ld16(q, &q->a_driver, 4 + 2u * q->num), q->used_idx, old);
}

static bool want_irq_packed(struct virtq *q)
{
    uint16_t old = q->signalled, flags = ring_ld16(q, &q->a_driver, 2), off = ring_ld16(q, &q->a_driver, 0);
    bool ok = q->signalled_ok;

    q->signalled = q->used_idx;
    q->signalled_ok = true;
    if (flags == EVENT_F_DISABLE)
        return false;
    if (flags != EVENT_F_DESC)
        return true;
    int event = off & 0x7fff;
    if (q->used_wrap != off >> 15)
        event -= q->num;
    return !ok || event_passed((uint16_t)event, q->used_idx, old);
}

/* An I/O thread may not wait for the machine lock (run/iothread.h). */
static void raise_irq(struct virtq *q)
{
    struct run *r = dev_machine(q->vd->dev)->run;
    bool io = iothread_self() != NULL;

    if (io && !run_trylock(r)) {
        ev_bh_schedule(&q->irq_bh);
        return;
    }
    q->vd->transport->notify_queue(q->vd->transport_opaque, q);
    if (io)
        run_unlock(r);
}

void virtq_notify(struct virtq *q)
{
    if (!virtq_ready(q))
        return;
    ring_map(q);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* used entries before the driver's wishes */
    if (is_packed(q) ? want_irq_packed(q) : want_irq_split(q))
        raise_irq(q);
}

/* ---- set-up ---- */

static void ring_start(struct virtq *q)
{
    q->last_avail = q->used_idx = 0;
    q->avail_wrap = q->used_wrap = true;
    q->signalled_ok = false;
    q->inuse = 0;
    q->map_gen = q->vd->map_gen - 1;
    q->enabled = true;
}

static void set_pfn(struct virtq *q, uint32_t pfn)
{
    if (!pfn) {
        q->enabled = false;
        q->gen++;
        q->inuse = 0;
        q->nr_pend = 0;
        q->desc = q->driver = q->device = 0;
        return;
    }
    q->num = q->num_max; /* the legacy interface has no way to shrink it */
    q->desc = (uint64_t)pfn << 12;
    q->driver = q->desc + (uint64_t)q->num * DESC_SIZE;
    q->device = align_up(q->driver + 4 + 2u * q->num + 2, 4096);
    ring_start(q);
}

void virtq_enable(struct virtq *q)
{
    struct virtio_dev *vd = q->vd;
    bool packed = is_packed(q);
    unsigned a_driver = packed ? 4 : 2;

    if (q->enabled)
        return;
    if (!q->num || q->num > q->num_max || (!packed && !is_pow2(q->num)) || q->desc % 16 || q->driver % a_driver ||
        q->device % 4) {
        virtio_error(vd, "queue %u enabled with %u entries at %#" PRIx64 ", %#" PRIx64 ", %#" PRIx64, q->index, q->num,
                     q->desc, q->driver, q->device);
        return;
    }
    iothread_enter(q->io);
    ring_start(q);
    iothread_leave(q->io);
}

void virtq_set_legacy_pfn(struct virtq *q, uint32_t pfn)
{
    iothread_enter(q->io);
    set_pfn(q, pfn);
    iothread_leave(q->io);
}
