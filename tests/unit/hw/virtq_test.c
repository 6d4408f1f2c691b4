/* Virtqueues without a guest: rings built by hand, good and malformed. */
#include "unit.h"

#include "hw/vq_driver.h"

#define EVENT_IDX VIRTIO_BIT(VIRTIO_F_EVENT_IDX)
#define INDIRECT  VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC)
#define PACKED    VIRTIO_BIT(VIRTIO_F_RING_PACKED)

static void a_chain_is_taken_and_given_back(void **state)
{
    struct rig *r = rig_new();

    rig_start(r, 8, 0);
    memcpy(r->mem + BUFS, "request", 7);
    put_desc(r, RING, 3, BUFS, 7, D_NEXT, 5);
    put_desc(r, RING, 5, BUFS + 0x100, 16, D_WRITE, 0);
    offer(r, 3);
    struct virtq_elem *e = virtq_pop(r->q, sizeof *e);
    assert_non_null(e);
    assert_int_equal(e->out.len, 7);
    assert_memory_equal(e->out.v[0].iov_base, "request", 7);
    assert_int_equal(e->in.len, 16);
    iov_from_buf(&e->in, 0, "answer", 6);
    assert_null(virtq_pop(r->q, sizeof *e));
    virtq_push(e, 6);
    virtq_notify(r->q);
    assert_int_equal(used_idx(r), 1);
    assert_int_equal(get_le32(r->mem + USED + 4), 3);
    assert_int_equal(get_le32(r->mem + USED + 8), 6);
    assert_memory_equal(r->mem + BUFS + 0x100, "answer", 6);
    assert_int_equal(r->irqs, 1);
    assert_false(r->vd.broken);
    rig_free(r);
}

static void an_unpopped_chain_comes_again(void **state)
{
    struct rig *r = rig_new();

    for (int packed = 0; packed < 2; packed++) {
        rig_start(r, 4, packed ? PACKED : 0);
        for (unsigned round = 0; round < 11; round++) {
            bool wrap = (round / 4) % 2 == 0;
            if (packed) {
                put_packed(r, RING, round % 4, BUFS, 8, 7, wrap ? P_AVAIL : P_USED);
            } else {
                put_desc(r, RING, 2, BUFS, 8, 0, 0);
                offer(r, 2);
            }
            struct virtq_elem *e = virtq_pop(r->q, sizeof *e);
            assert_non_null(e);
            virtq_unpop(e);
            e = virtq_pop(r->q, sizeof *e);
            assert_non_null(e);
            virtq_push(e, 0);
        }
        assert_int_equal(r->q->inuse, 0);
        assert_false(r->vd.broken);
    }
    rig_free(r);
}

static void indirect_tables_are_followed(void **state)
{
    struct rig *r = rig_new();

    rig_start(r, 8, INDIRECT);
    put_desc(r, RING, 0, TABLE, 48, D_INDIRECT, 0);
    put_desc(r, TABLE, 0, BUFS, 4, D_NEXT, 2);
    put_desc(r, TABLE, 2, BUFS + 64, 5, D_NEXT | D_WRITE, 1);
    put_desc(r, TABLE, 1, BUFS + 128, 6, D_WRITE, 0);
    offer(r, 0);
    struct virtq_elem *e = virtq_pop(r->q, sizeof *e);
    assert_non_null(e);
    assert_int_equal(e->out.len, 4);
    assert_int_equal(e->in.len, 11);
    virtq_push(e, 0);
    rig_free(r);
}

static void an_interrupt_comes_only_past_the_used_event(void **state)
{
    struct rig *r = rig_new();

    rig_start(r, 8, EVENT_IDX);
    put_desc(r, RING, 0, BUFS, 4, 0, 0);
    put_le16(r->mem + AVAIL + 4 + 16, 2); /* used_event: after the third */
    for (int i = 0; i < 4; i++) {
        offer(r, 0);
        struct virtq_elem *e = virtq_pop(r->q, sizeof *e);
        assert_non_null(e);
        virtq_push(e, 0);
        if (i == 0) {
            virtq_notify(r->q); /* the first one after start always asks */
            r->irqs = 0;
        } else {
            virtq_notify(r->q);
        }
        assert_int_equal(r->irqs, i >= 2 ? 1 : 0);
    }
    assert_int_equal(get_le16(r->mem + USED + 4 + 64), 4); /* avail_event follows */
    rig_free(r);
}

static void no_interrupt_flag_is_obeyed(void **state)
{
    struct rig *r = rig_new();

    rig_start(r, 8, 0);
    put_le16(r->mem + AVAIL, 1);
    put_desc(r, RING, 0, BUFS, 4, 0, 0);
    offer(r, 0);
    virtq_push(virtq_pop(r->q, sizeof(struct virtq_elem)), 0);
    virtq_notify(r->q);
    assert_int_equal(r->irqs, 0);
    virtq_set_kicks(r->q, false);
    assert_int_equal(get_le16(r->mem + USED), 1);
    virtq_set_kicks(r->q, true);
    assert_int_equal(get_le16(r->mem + USED), 0);
    rig_free(r);
}

/* proves: F-VIO-06 (packed rings) */
static void a_packed_ring_wraps(void **state)
{
    struct rig *r = rig_new();
    unsigned slot = 0;
    bool wrap = true;

    rig_start(r, 5, PACKED | EVENT_IDX); /* packed rings need no power of two */
    for (unsigned round = 0; round < 40; round++) {
        unsigned n = 1 + round % 3, first = slot;
        bool fwrap = wrap;
        uint16_t f0 = 0;
        for (unsigned i = 0; i < n; i++) {
            uint16_t f = (wrap ? P_AVAIL : P_USED) | (i + 1 < n ? D_NEXT : 0) | (i ? D_WRITE : 0);
            if (!i) {
                f0 = f;
                f = wrap ? P_USED : P_AVAIL; /* not yet available */
            }
            put_packed(r, RING, slot, BUFS + 256 * i, 10 + i, 100 + round, f);
            if (++slot == 5) {
                slot = 0;
                wrap = !wrap;
            }
        }
        assert_true(virtq_empty(r->q));
        put_le16(r->mem + RING + 16 * first + 14, f0);
        struct virtq_elem *e = virtq_pop(r->q, sizeof *e);
        assert_non_null(e);
        assert_int_equal(e->out.nr, 1);
        assert_int_equal(e->in.nr, n - 1);
        virtq_push(e, 3);
        assert_int_equal(get_le32(r->mem + RING + 16 * first + 8), 3);
        assert_int_equal(get_le16(r->mem + RING + 16 * first + 12), 100 + round);
        uint16_t f = get_le16(r->mem + RING + 16 * first + 14);
        assert_int_equal(!!(f & P_AVAIL), fwrap);
        assert_int_equal(!!(f & P_USED), fwrap);
    }
    assert_false(r->vd.broken);
    rig_free(r);
}

static void a_packed_batch_appears_at_once(void **state)
{
    struct rig *r = rig_new();
    struct virtq_elem *e[3];

    rig_start(r, 8, PACKED);
    for (int i = 0; i < 3; i++)
        put_packed(r, RING, i, BUFS, 8, i, P_AVAIL | D_WRITE);
    for (int i = 0; i < 3; i++)
        assert_non_null(e[i] = virtq_pop(r->q, sizeof **e));
    for (int i = 0; i < 3; i++)
        virtq_fill(e[i], 8);
    for (int i = 0; i < 3; i++)
        assert_int_equal(get_le16(r->mem + RING + 16 * i + 14) & P_USED, 0);
    virtq_flush(r->q);
    for (int i = 0; i < 3; i++)
        assert_int_equal(get_le16(r->mem + RING + 16 * i + 14) & P_USED, P_USED);
    rig_free(r);
}

static void expect_broken(struct rig *r)
{
    assert_null(virtq_pop(r->q, sizeof(struct virtq_elem)));
    assert_true(r->vd.broken);
    assert_int_equal(r->vd.status & VIRTIO_S_NEEDS_RESET, VIRTIO_S_NEEDS_RESET);
    assert_int_equal(r->config_irqs, 1);
    assert_null(virtq_pop(r->q, sizeof(struct virtq_elem)));
}

static void broken_rules_ask_for_a_reset(void **state)
{
    struct rig *r = rig_new();

    rig_start(r, 4, 0); /* a loop */
    put_desc(r, RING, 0, BUFS, 4, D_NEXT, 1);
    put_desc(r, RING, 1, BUFS, 4, D_NEXT, 0);
    offer(r, 0);
    expect_broken(r);
    rig_start(r, 4, 0); /* head out of range */
    offer(r, 4);
    expect_broken(r);
    rig_start(r, 4, 0); /* index jumps */
    put_le16(r->mem + AVAIL + 2, 5);
    expect_broken(r);
    rig_start(r, 4, 0); /* memory that is not there */
    put_desc(r, RING, 0, RAM_SIZE - 4, 8, D_WRITE, 0);
    offer(r, 0);
    expect_broken(r);
    rig_start(r, 4, 0); /* wraps around the address space */
    put_desc(r, RING, 0, UINT64_MAX - 3, 8, 0, 0);
    offer(r, 0);
    expect_broken(r);
    rig_start(r, 4, 0); /* indirect without the feature */
    put_desc(r, RING, 0, TABLE, 16, D_INDIRECT, 0);
    offer(r, 0);
    expect_broken(r);
    rig_start(r, 4, INDIRECT); /* table inside a table */
    put_desc(r, RING, 0, TABLE, 16, D_INDIRECT, 0);
    put_desc(r, TABLE, 0, TABLE, 16, D_INDIRECT, 0);
    offer(r, 0);
    expect_broken(r);
    rig_start(r, 4, INDIRECT); /* an endless table */
    put_desc(r, RING, 0, TABLE, 16, D_INDIRECT, 0);
    put_desc(r, TABLE, 0, BUFS, 1, D_NEXT, 0);
    offer(r, 0);
    expect_broken(r);
    rig_start(r, 4, 0); /* works again after a reset */
    put_desc(r, RING, 0, BUFS, 4, 0, 0);
    offer(r, 0);
    struct virtq_elem *e = virtq_pop(r->q, sizeof *e);
    assert_non_null(e);
    virtq_push(e, 0);
    rig_free(r);
}

static void a_badly_placed_ring_is_refused(void **state)
{
    struct rig *r = rig_new();

    rig_start(r, 3, 0); /* split rings are powers of two */
    assert_true(r->vd.broken);
    rig_start(r, 512, 0); /* more than offered */
    assert_true(r->vd.broken);
    rig_free(r);
}

static void check_elem(struct rig *r, struct virtq_elem *e)
{
    const struct iov *q[2] = {&e->out, &e->in};

    for (int k = 0; k < 2; k++)
        for (unsigned i = 0; i < q[k]->nr; i++) {
            uint8_t *p = q[k]->v[i].iov_base;
            assert_true(p >= r->mem && p + q[k]->v[i].iov_len <= r->mem + RAM_SIZE);
        }
}

/* Every pair of descriptors over the interesting values of each field, as split chain, indirect table and packed chain.
 */
static void every_small_chain_is_taken_or_refused(void **state)
{
    static const uint64_t addr[] = {BUFS, RAM_SIZE - 8, UINT64_MAX};
    static const uint32_t len[] = {0, 16, 0xffffffff};
    static const uint16_t next[] = {0, 1, 2, 0xffff};
    struct rig *r = rig_new();
    unsigned taken = 0, refused = 0;

    for (unsigned kind = 0; kind < 3; kind++) {
        rig_start(r, 2, kind == 2 ? PACKED | INDIRECT : INDIRECT);
        for (unsigned n = 0; n < 3 * 3 * 8 * 4 * 3 * 3 * 8 * 4; n++) {
            unsigned x = n;
            gpa_t table = kind == 1 ? TABLE : RING;

            /* A reset per case would take most of the time. */
            r->vd.broken = false;
            r->q->last_avail = r->q->used_idx = r->q->inuse = 0;
            r->q->avail_wrap = r->q->used_wrap = true;
            for (unsigned i = 0; i < 2; i++) {
                uint64_t a = addr[x % 3];
                uint32_t l = len[x / 3 % 3];
                uint16_t f = x / 9 % 8, nx = next[x / 72 % 4];
                x /= 288;
                if (kind == 2)
                    put_packed(r, table, i, a, l, nx, f | P_AVAIL);
                else
                    put_desc(r, table, i, a, l, f, nx);
            }
            if (kind == 1)
                put_desc(r, RING, 0, TABLE, 32, D_INDIRECT, 0);
            r->avail = 0;
            offer(r, 0);
            struct virtq_elem *e = virtq_pop(r->q, sizeof *e);
            if (e) {
                check_elem(r, e);
                virtq_elem_free(e);
                taken++;
            } else {
                assert_true(r->vd.broken);
                refused++;
            }
        }
    }
    assert_true(taken > 1000 && refused > 1000);
    rig_free(r);
}

static void elements_of_a_past_life_do_not_touch_the_ring(void **state)
{
    struct rig *r = rig_new();

    rig_start(r, 8, 0);
    put_desc(r, RING, 0, BUFS, 4, D_WRITE, 0);
    offer(r, 0);
    struct virtq_elem *e = virtq_pop(r->q, sizeof *e);
    rig_start(r, 8, 0);
    virtq_push(e, 4);
    assert_int_equal(used_idx(r), 0);
    assert_int_equal(r->q->inuse, 0);
    rig_free(r);
}

static void a_kick_runs_the_handler_on_the_loop(void **state)
{
    struct rig *r = rig_new();

    rig_start(r, 8, 0);
    while (ev_loop_turn(r->run->loop, 0))
        ;
    r->handled = 0;
    virtio_kick(&r->vd, 0);
    virtio_kick(&r->vd, 0);
    virtio_kick(&r->vd, 99);
    assert_int_equal(r->handled, 0);
    ev_loop_turn(r->run->loop, 0);
    assert_int_equal(r->handled, 1);
    r->vd.kick_sync = true;
    virtio_kick(&r->vd, 0);
    assert_int_equal(r->handled, 2);
    r->m->state = RS_PAUSED;
    virtio_kick(&r->vd, 0);
    assert_int_equal(r->handled, 2);
    r->m->state = RS_RUNNING;
    rig_free(r);
}

UNIT_MAIN(cmocka_unit_test(a_chain_is_taken_and_given_back), cmocka_unit_test(an_unpopped_chain_comes_again),
          cmocka_unit_test(indirect_tables_are_followed), cmocka_unit_test(an_interrupt_comes_only_past_the_used_event),
          cmocka_unit_test(no_interrupt_flag_is_obeyed), cmocka_unit_test(a_packed_ring_wraps),
          cmocka_unit_test(a_packed_batch_appears_at_once), cmocka_unit_test(broken_rules_ask_for_a_reset),
          cmocka_unit_test(a_badly_placed_ring_is_refused), cmocka_unit_test(every_small_chain_is_taken_or_refused),
          cmocka_unit_test(elements_of_a_past_life_do_not_touch_the_ring),
          cmocka_unit_test(a_kick_runs_the_handler_on_the_loop))
