/* Peers, queues, hubs, MAC assignment and the offload header, with back ends made of counters. */
#include "unit.h"

#include "net/net.h"
#include <stdio.h>

struct sink {
    unsigned frames, ready;
    size_t bytes;
    uint8_t last[64];
    bool busy;
};

static size_t sink_receive(void *opaque, const struct iov *f)
{
    struct sink *s = opaque;

    if (s->busy)
        return 0;
    s->frames++;
    s->bytes += f->len;
    iov_to_buf(f, 0, s->last, sizeof s->last);
    return f->len;
}
static void sink_ready(void *opaque)
{
    struct sink *s = opaque;

    s->ready++;
}
static const struct net_ops sink_ops = {.type = "sink", .receive = sink_receive, .send_ready = sink_ready};
static const struct net_ops nic_ops = {.type = "nic", .receive = sink_receive, .send_ready = sink_ready};

struct world {
    struct run *run;
    struct obj *root, *machine;
    struct net_set *set;
};
static const struct obj_class plain = {.name = "plain", .size = sizeof(struct obj)};

static int setup(void **state)
{
    struct world *w = xnew(struct world);

    w->run = run_new();
    w->root = obj_new(&plain, NULL);
    w->machine = obj_new(&plain, NULL);
    obj_add_child(w->root, "machine", w->machine);
    w->set = net_set_new(w->run);
    net_set_bind(w->set, w->machine);
    *state = w;
    return 0;
}
static int teardown(void **state)
{
    struct world *w = *state;

    net_set_free(w->set);
    obj_unref(w->root);
    run_free(w->run);
    free(w);
    return 0;
}

static struct net_peer *make(struct world *w, const char *text, const char **why)
{
    struct err *e = NULL;
    static char msg[256];
    struct opts *o = opts_parse(text, "type", &e);
    struct net_peer *p = o ? net_create(w->set, o, &e) : NULL;

    opts_free(o);
    if (why)
        *why = NULL;
    if (e && why) {
        snprintf(msg, sizeof msg, "%s", e->msg);
        *why = msg;
    }
    err_free(e);
    return p;
}

static void a_busy_peer_gets_its_frames_in_order_after_flush(void **state)
{
    struct world *w = *state;
    struct sink a = {0}, b = {.busy = true};
    struct net_peer *pa = net_peer_new(w->set, "a", &sink_ops, &a), *pb = net_peer_new(w->set, "b", &sink_ops, &b);

    assert_true(net_connect(pa, pb, NULL));
    assert_false(net_connect(pa, pb, NULL));
    assert_int_equal(net_send_buf(pa, "one", 3), 0);
    b.busy = false;
    assert_int_equal(net_send_buf(pa, "three", 5), 0); /* must not overtake */
    assert_false(net_can_send(pa));
    net_flush(pb);
    assert_int_equal(b.frames, 2);
    assert_memory_equal(b.last, "three", 5);
    assert_int_equal(a.ready, 1);
    assert_true(net_can_send(pa));
}

static void a_queue_is_bounded(void **state)
{
    struct world *w = *state;
    struct sink a = {0}, b = {.busy = true};
    struct net_peer *pa = net_peer_new(w->set, "a", &sink_ops, &a), *pb = net_peer_new(w->set, "b", &sink_ops, &b);

    net_connect(pa, pb, NULL);
    for (int i = 0; i < 5000; i++)
        net_send_buf(pa, "x", 1);
    assert_true(pb->queued < 5000);
    assert_int_equal(pb->queued + pb->dropped, 5000);
}

static void a_downed_link_swallows_frames(void **state)
{
    struct world *w = *state;
    struct sink a = {0}, b = {0};
    struct net_peer *pa = net_peer_new(w->set, "a", &sink_ops, &a), *pb = net_peer_new(w->set, "b", &sink_ops, &b);

    net_connect(pa, pb, NULL);
    net_set_link(pb, false);
    assert_int_equal(net_send_buf(pa, "x", 1), 1);
    assert_int_equal(b.frames, 0);
    net_set_link(pb, true);
    net_send_buf(pa, "x", 1);
    assert_int_equal(b.frames, 1);
}

static void a_header_only_one_side_has_is_added_and_removed(void **state)
{
    struct world *w = *state;
    struct sink a = {0}, b = {0};
    struct net_peer *pa = net_peer_new(w->set, "a", &sink_ops, &a), *pb = net_peer_new(w->set, "b", &sink_ops, &b);

    net_connect(pa, pb, NULL);
    pb->vnet_hdr_len = 12;
    net_send_buf(pa, "frame", 5);
    assert_int_equal(b.bytes, 17);
    assert_memory_equal(b.last + 12, "frame", 5);
    net_send_buf(pb, "............frame", 17);
    assert_int_equal(a.bytes, 5);
    assert_memory_equal(a.last, "frame", 5);
}

/* proves: F-NET-17 */
static void a_hub_repeats_to_every_other_port(void **state)
{
    struct world *w = *state;
    struct sink s[3] = {{0}};
    struct net_peer *p[3];

    for (int i = 0; i < 3; i++) {
        char text[64], id[8];
        snprintf(text, sizeof text, "hubport,hubid=0,id=h%d", i);
        snprintf(id, sizeof id, "s%d", i);
        p[i] = net_peer_new(w->set, id, &sink_ops, &s[i]);
        struct net_peer *port = make(w, text, NULL);
        assert_non_null(port);
        assert_true(net_connect(p[i], port, NULL));
    }
    net_send_buf(p[0], "hello", 5);
    assert_int_equal(s[0].frames, 0);
    assert_int_equal(s[1].frames, 1);
    assert_int_equal(s[2].frames, 1);
}

/* proves: F-NET-27, S151, S154 */
static void macs_count_up_and_group_addresses_are_refused(void **state)
{
    struct world *w = *state;
    struct sink s = {0};
    struct net_nic n[3] = {{0}};
    struct err *e = NULL;

    n[1].mac = (struct mac){{0x52, 0x54, 0, 0x12, 0x34, 0x57}};
    assert_true(net_nic_init(&n[1], w->machine, &nic_ops, &s, "card", NULL, &e));
    assert_true(net_nic_init(&n[0], w->machine, &nic_ops, &s, "card", NULL, &e));
    assert_true(net_nic_init(&n[2], w->machine, &nic_ops, &s, "card", NULL, &e));
    assert_int_equal(n[0].mac.a[5], 0x56);
    assert_int_equal(n[2].mac.a[5], 0x58);
    struct net_nic bad = {.mac = {{1, 0, 0, 0, 0, 1}}};
    assert_false(net_nic_init(&bad, w->machine, &nic_ops, &s, "card", NULL, &e));
    assert_non_null(strstr(e->msg, "group address"));
    err_free(e);
    for (int i = 0; i < 3; i++)
        net_nic_fini(&n[i]);
}

/* proves: S138 */
static void mistakes_on_the_command_line_are_named(void **state)
{
    struct world *w = *state;
    const char *why;

    assert_null(make(w, "usr,id=n", &why));
    assert_non_null(strstr(why, "unknown network back end 'usr'"));
    assert_null(make(w, "user", &why));
    assert_non_null(strstr(why, "needs an id"));
    assert_null(make(w, "user,id=n,colour=red", &why));
    assert_non_null(strstr(why, "colour"));
    assert_null(net_find(w->set, "n"));
    assert_null(make(w, "user,id=n,hostfwd=sctp::1-:2", &why));
    assert_non_null(strstr(why, "protocol"));
    assert_null(make(w, "user,id=n,hostfwd=tcp:2222-:22", &why));
    assert_non_null(strstr(why, "host address"));
    assert_null(make(w, "user,id=n,hostfwd=tcp::2222", &why));
    assert_non_null(strstr(why, "'-'"));
    assert_null(make(w, "user,id=n,hostfwd=tcp::99999-:22", &why));
    assert_non_null(strstr(why, "host port"));
    assert_null(make(w, "user,id=n,hostfwd=tcp::0-:0", &why));
    assert_non_null(strstr(why, "guest port"));
    assert_null(make(w, "user,id=n,net=10.0.2.0/99", &why));
    assert_null(make(w, "user,id=n,dhcpstart=10.9.9.9", &why));
    assert_non_null(strstr(why, "outside"));
    assert_non_null(make(w, "user,id=n", &why));
    assert_null(make(w, "user,id=n", &why));
    assert_non_null(strstr(why, "already in use"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
UNIT_MAIN(T(a_busy_peer_gets_its_frames_in_order_after_flush), T(a_queue_is_bounded), T(a_downed_link_swallows_frames),
          T(a_header_only_one_side_has_is_added_and_removed), T(a_hub_repeats_to_every_other_port),
          T(macs_count_up_and_group_addresses_are_refused), T(mistakes_on_the_command_line_are_named))
