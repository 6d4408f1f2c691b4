/* Saving and loading: fields by name, damaged streams, and every device of a PC. proves: F-SNP-01 */
#ifdef FUZZ_Q35
#define RIG_Q35
#endif
#include "hw/rig.h"

#include "base/bytes.h"
#include "base/opts.h"
#include "net/net.h"
#include "state/state.h"
#include <stdio.h>

/* ---- one object ---- */

struct inner {
    uint16_t a;
    bool b;
};
struct thing {
    uint32_t n[3];
    uint8_t bytes[5];
    struct inner in[2], *ptr;
    uint8_t *var, *any;
    uint32_t var_len, any_len;
    uint64_t later;
    int loads;
};
static const struct state_field inner_fields[] = {STATE_U16(struct inner, a), STATE_BOOL(struct inner, b), STATE_END};
static const struct state_desc inner_state = {.name = "inner", .version = 1, .fields = inner_fields};
#define THING_FIELDS                                                                                                   \
    STATE_ARRAY(struct thing, n), STATE_BYTES(struct thing, bytes), STATE_STRUCTS(struct thing, in, inner_state),      \
        STATE_PTR(struct thing, ptr, inner_state), STATE_VARBYTES(struct thing, var, var_len),                         \
        STATE_ALLOC(struct thing, any, any_len, 100)
static const struct state_field old_fields[] = {THING_FIELDS, STATE_END};
static const struct state_field new_fields[] = {
    THING_FIELDS,
    {.name = "later", .kind = STATE_K_INT, .off = offsetof(struct thing, later), .size = 8, .count = 1, .since = 2},
    STATE_END};
static bool thing_loaded(void *obj, struct err **errp)
{
    ((struct thing *)obj)->loads++;
    return true;
}
static const struct state_desc old_state = {
    .name = "thing", .version = 1, .fields = old_fields, .post_load = thing_loaded};
static const struct state_desc new_state = {
    .name = "thing", .version = 2, .fields = new_fields, .post_load = thing_loaded};

static struct thing *thing_new(bool full)
{
    struct thing *t = xnew(struct thing);

    t->var_len = 7;
    t->var = xcalloc(1, 7);
    t->ptr = xnew(struct inner);
    if (full) {
        t->any_len = 9;
        t->any = (uint8_t *)xstrdup("anything");
        memcpy(t->var, "variab", 7);
        t->n[0] = 1, t->n[2] = 0xfffffff0;
        t->bytes[4] = 9;
        t->in[1] = (struct inner){0x1234, true};
        *t->ptr = (struct inner){7, true};
        t->later = 99;
    }
    return t;
}
static void thing_free(struct thing *t)
{
    free(t->var);
    free(t->any);
    free(t->ptr);
    free(t);
}

static void fields_come_back(void **state)
{
    struct thing *a = thing_new(true), *b = thing_new(false);
    struct strbuf s = {0};
    struct err *e = NULL;

    assert_true(state_fields_put(&s, &new_state, a, &e));
    assert_true(state_fields_get(s.s, s.len, &new_state, b, false, "t", &e));
    assert_int_equal(b->n[2], 0); /* a check changes nothing */
    assert_true(state_fields_get(s.s, s.len, &new_state, b, true, "t", &e));
    assert_memory_equal(a->n, b->n, sizeof a->n);
    assert_memory_equal(a->bytes, b->bytes, sizeof a->bytes);
    assert_int_equal(b->in[1].a, 0x1234);
    assert_true(b->in[1].b && b->ptr->b && b->ptr->a == 7);
    assert_string_equal((char *)b->var, "variab");
    assert_string_equal((char *)b->any, "anything");
    assert_true(b->later == 99 && b->loads == 1);
    str_free(&s);
    thing_free(a);
    thing_free(b);
}

static void a_field_may_be_newer_than_the_stream_and_not_the_reverse(void **state)
{
    struct thing *a = thing_new(true), *b = thing_new(false);
    struct strbuf o = {0}, n = {0};
    struct err *e = NULL;

    b->later = 5;
    assert_true(state_fields_put(&o, &old_state, a, &e));
    assert_true(state_fields_get(o.s, o.len, &new_state, b, true, "t", &e));
    assert_true(b->later == 5);
    assert_true(state_fields_put(&n, &new_state, a, &e));
    assert_false(state_fields_get(n.s, n.len, &old_state, b, true, "t", &e));
    assert_non_null(strstr(e->msg, "newer program"));
    err_free(e);
    e = NULL;
    put_le32(n.s, 1); /* says it is version 1 but has the field */
    assert_false(state_fields_get(n.s, n.len, &old_state, b, false, "dev x", &e));
    assert_string_equal(e->msg, "dev x: the saved state has a field 'later' that is not known here");
    err_free(e);
    e = NULL;
    put_le32(o.s, 2); /* says it is version 2 and lacks it */
    assert_false(state_fields_get(o.s, o.len, &new_state, b, false, "dev x", &e));
    assert_string_equal(e->msg, "dev x: field 'later' is missing in the saved state");
    err_free(e);
    str_free(&o);
    str_free(&n);
    thing_free(a);
    thing_free(b);
}

static uint64_t seed = 0x9e3779b97f4a7c15;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void bent_objects_are_survived(void **state)
{
    struct thing *a = thing_new(true);
    struct strbuf s = {0};

    assert_true(state_fields_put(&s, &new_state, a, NULL));
    for (unsigned i = 0; i < 50000; i++) {
        struct thing *b = thing_new(false);
        size_t n = rnd() & 1 ? s.len : rnd() % (s.len + 1);
        uint8_t *c = xmalloc(n + !n);

        memcpy(c, s.s, n);
        for (unsigned k = (unsigned)rnd() % 4; n && k; k--)
            c[rnd() % n] = (uint8_t)(rnd() & 1 ? rnd() : 1 << (rnd() & 7));
        state_fields_get(c, n, &new_state, b, rnd() & 1, "t", NULL);
        free(c);
        thing_free(b);
    }
    str_free(&s);
    thing_free(a);
}

/* ---- a whole machine ---- */

struct mem_sink {
    struct state_sink s; /* first */
    struct strbuf b;
};
struct mem_source {
    struct state_source s; /* first */
    const uint8_t *p;
    size_t n;
};
static bool to_mem(struct state_sink *s, const void *buf, size_t len, struct err **errp)
{
    str_addn(&((struct mem_sink *)s)->b, buf, len);
    return true;
}
static bool from_mem(struct state_source *s, void *buf, size_t len, struct err **errp)
{
    struct mem_source *m = (struct mem_source *)s;

    if (len > m->n)
        return err_set(errp, "the saved state ends too early");
    memcpy(buf, m->p, len);
    m->p += len;
    m->n -= len;
    return true;
}
static struct strbuf save(struct machine *m)
{
    struct mem_sink k = {.s = {to_mem}};
    struct err *e = NULL;

    if (!state_save(m, &k.s, &e))
        fail_msg("%s", e->msg);
    return k.b;
}
static bool load(struct machine *m, const void *p, size_t n, struct err **errp)
{
    struct mem_source s = {.s = {from_mem}, .p = p, .n = n};
    bool touched;

    return state_load(m, &s.s, &touched, errp);
}

struct full {
    struct rig *r;
    struct blk_set *set;
    struct net_set *net;
    char *file[4];
};

static void add(struct full *f, const char *text)
{
    struct opts *o = opts_parse(text, "driver", NULL);
    struct err *e = NULL;

    if (!dev_create(f->r->m, o, &e))
        fail_msg("%s: %s", text, e->msg);
    opts_free(o);
}

static void drive(struct full *f, const char *id, const char *more)
{
    char *text AUTOFREE = xasprintf("file=null-co://,file.size=1M,format=raw%s", more);
    struct opts *o = opts_parse(text, NULL, NULL);
    struct err *e = NULL;

    if (!blk_drive_add(f->set, id, o, &e))
        fail_msg("%s", e->msg);
    opts_free(o);
}

static struct full *full_new(void)
{
    struct full *f = xnew(struct full);
    struct err *e = NULL;

    f->r = rig_new();
    f->r->m->type = "rig";
    f->r->m->ram_size = 4 * MIB;
    f->set = blk_set_new(f->r->run);
    blk_set_bind(f->set, f->r->m);
    f->net = net_set_new(f->r->run);
    net_set_bind(f->net, f->r->m);
    drive(f, "d0", "");
    drive(f, "d1", "");
    drive(f, "d2", "");
    drive(f, "d3", "");
    drive(f, "cd", ",readonly=on");
#ifdef FUZZ_Q35
    assert_non_null(pci_create(f->r->m, f->r->north.bus, PCI_DEVFN(31, 2), "ich9-ahci", NULL, &e));
#else
    assert_non_null(pci_create(f->r->m, f->r->north.bus, -1, "piix3-ide", NULL, &e));
#endif
    assert_non_null(pci_create(f->r->m, f->r->north.bus, -1, "piix3-usb-uhci", NULL, &e));
    add(f, "usb-tablet");
    add(f, "usb-kbd");
    add(f, "qemu-xhci,id=x");
    add(f, "usb-mouse,bus=x.0");
    add(f, "usb-storage,bus=x.0,drive=d3");
    add(f, "ide-hd,drive=d0");
    add(f, "ide-cd,drive=cd,bus=ide.1");
    add(f, "VGA");
    add(f, "e1000");
    add(f, "rtl8139");
    add(f, "virtio-net-pci");
    add(f, "virtio-blk-pci,drive=d1");
    add(f, "virtio-scsi-pci,id=s");
    add(f, "scsi-hd,drive=d2");
    add(f, "virtio-serial-pci");
    add(f, "virtserialport,name=x");
    add(f, "virtio-rng-pci");
    add(f, "virtio-balloon-pci");
    add(f, "isa-serial");
    add(f, "isa-parallel");
    add(f, "pci-serial");
    add(f, "pvpanic");
    add(f, "pvpanic-pci");
    add(f, "isa-debug-exit");
    add(f, "pc-testdev");
#ifndef FUZZ_Q35
    add(f, "pci-bridge,id=br,chassis_nr=1");
#endif
    machine_reset(f->r->m);
    return f;
}
static void full_free(struct full *f)
{
    machine_free(f->r->m);
    net_set_free(f->net);
    blk_set_free(f->set);
    run_free(f->r->run);
    free(f->r);
    free(f);
}

static void poke(struct full *f, unsigned times)
{
    static const uint8_t sizes[] = {1, 2, 4, 8};
    static const uint16_t hot[] = {0x20, 0xa0,  0x40,  0x60,  0x70,  0x3f8, 0xcf8, 0xcfc, 0xc0,
                                   0x00, 0x1f0, 0x170, 0x3c0, 0x510, 0xb0,  0xe0,  0x1ce};
    static const uint64_t win[] = {0xfec00000, 0xfed00000, 0xfee00000, 0xb0000000, 0xa0000, 0xfed1c000, 0xc0000000};

    for (unsigned i = 0; i < times; i++) {
        bool io = rnd() & 1;
        uint64_t v = rnd() & (rnd() & 1 ? UINT64_MAX : 0xff);
        uint64_t a = io ? (rnd() & 3 ? hot[rnd() % ARRAY_LEN(hot)] + (rnd() & 15) : rnd() & 0xffff)
                        : win[rnd() % ARRAY_LEN(win)] + (rnd() & 0xfff);
        unsigned size = sizes[rnd() & (io ? 1 : 3)];

        if (rnd() & 1)
            mem_store(io ? f->r->m->io : f->r->m->mem, a, size, v);
        else
            mem_load(io ? f->r->m->io : f->r->m->mem, a, size, &v);
        if (i % 64 == 0)
            step(f->r, (int64_t)(rnd() % 3000000));
        f->r->m->req = 0;
    }
    blk_drain_all(f->set);
}

/* What was loaded saves as the same bytes: no field is lost, none changes on the way. */
static void saved_loaded_and_saved_is_the_same(void **state)
{
    struct full *a = full_new(), *b = full_new();

    for (unsigned round = 0; round < 20; round++) {
        struct strbuf s, t;
        struct err *e = NULL;

        poke(a, 2000);
        mem_store(a->r->m->mem, 0x1000 * (rnd() % 1000), 8, rnd());
        s = save(a->r->m);
        if (!load(b->r->m, s.s, s.len, &e))
            fail_msg("%s", e->msg);
        t = save(b->r->m);
        assert_int_equal(s.len, t.len);
        for (size_t i = 0; i < s.len; i++)
            if (s.s[i] != t.s[i])
                fail_msg("byte %zu differs: ...%.60s...", i, s.s + (i > 60 ? i - 60 : 0));
        str_free(&s);
        str_free(&t);
    }
    full_free(a);
    full_free(b);
}

static void damaged_streams_are_refused(void **state)
{
    struct full *f = full_new();
    struct strbuf s;

    mem_store(f->r->m->mem, 0x5000, 8, 0x1122334455667788);
    s = save(f->r->m);
    for (unsigned i = 0; i < 300; i++) {
        struct err *e = NULL;
        size_t at = rnd() % s.len;
        char was = s.s[at];

        if (i & 1) {
            s.s[at] ^= (char)(1 << (rnd() & 7));
            if (load(f->r->m, s.s, s.len, &e) && at > 16 && s.s[at - 1])
                fail_msg("a changed byte at %zu of %zu went unseen", at, s.len);
            s.s[at] = was;
        } else {
            assert_false(load(f->r->m, s.s, at, &e));
        }
        err_free(e);
    }
    assert_true(load(f->r->m, s.s, s.len, NULL));
    str_free(&s);
    full_free(f);
}

/* Changes bytes of sections and makes the checksums right again: what a forged snapshot would be. */
static void forge(struct strbuf *s)
{
    size_t at = 16;

    while (at < s->len && s->s[at] == 'S') {
        uint8_t *p = (uint8_t *)s->s + at;
        size_t n = p[1], len = get_le64(p + 2 + n);
        uint8_t *body = p + 2 + n + 8;

        if (len && rnd() % 24 == 0 && strncmp((char *)p + 2, "machine", 7))
            for (unsigned k = 1 + (unsigned)rnd() % 2; k; k--)
                body[rnd() % len] = (uint8_t)(rnd() & 1 ? rnd() : rnd() & 1 ? 0xff : 0);
        put_le64(body + len, state_sum(state_sum(0, p + 2, n), body, len));
        at += 2 + n + 8 + len + 8;
    }
}

static void forged_streams_are_survived(void **state)
{
    unsigned taken = 0;

    for (unsigned i = 0; i < 60; i++) {
        struct full *f = full_new();
        struct strbuf s;

        poke(f, 500);
        s = save(f->r->m);
        forge(&s);
        taken += load(f->r->m, s.s, s.len, NULL);
        poke(f, 2000);
        str_free(&s);
        full_free(f);
    }
    assert_true(taken > 5);
}

static void what_differs_is_named(void **state)
{
    struct full *a = full_new(), *b = full_new();
    struct strbuf s = save(a->r->m);
    struct err *e = NULL;

    add(b, "isa-debug-exit,id=extra,iobase=0x1234");
    assert_false(load(b->r->m, s.s, s.len, &e));
    assert_string_equal(e->msg, "device 'extra' (isa-debug-exit) of this machine is not in the saved one");
    err_free(e);
    e = NULL;
    str_free(&s);
    s = save(b->r->m);
    assert_false(load(a->r->m, s.s, s.len, &e));
    assert_non_null(strstr(e->msg, "the saved machine has 'dev/isa-debug-exit/machine/peripheral/extra'"));
    err_free(e);
    e = NULL;
    a->r->m->type = "other";
    assert_false(load(a->r->m, s.s, s.len, &e));
    assert_string_equal(e->msg, "the saved machine is a 'rig', this one is a 'other'");
    err_free(e);
    e = NULL;
    assert_false(load(a->r->m, "LYRSTATE?", 9, &e));
    err_free(e);
    e = NULL;
    assert_false(load(a->r->m, "not a stream at all", 19, &e));
    assert_non_null(strstr(e->msg, "not the saved state of a machine"));
    err_free(e);
    str_free(&s);
    full_free(a);
    full_free(b);
}

static const struct dev_class secretive_class = {
    .name = "test-secretive", .parent = "device", .size = sizeof(struct dev), .board_only = true};
DEV_REGISTER(secretive_class)

static void a_device_without_a_description_is_named(void **state)
{
    struct full *f = full_new();
    struct err *e = NULL;

    assert_true(state_can_save(f->r->m, &e));
    assert_true(dev_realize(dev_new(f->r->m, "test-secretive", &e), NULL, "sec", &e));
    assert_false(state_can_save(f->r->m, &e));
    assert_string_equal(e->msg, "device 'sec' (test-secretive) cannot be saved: it has no description of its state");
    err_free(e);
    full_free(f);
}

UNIT_MAIN(cmocka_unit_test(fields_come_back),
          cmocka_unit_test(a_field_may_be_newer_than_the_stream_and_not_the_reverse),
          cmocka_unit_test(bent_objects_are_survived), cmocka_unit_test(saved_loaded_and_saved_is_the_same),
          cmocka_unit_test(damaged_streams_are_refused), cmocka_unit_test(forged_streams_are_survived),
          cmocka_unit_test(what_differs_is_named), cmocka_unit_test(a_device_without_a_description_is_named))
