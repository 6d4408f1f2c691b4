/* Back ends over sockets, both ends in one process; TAP where the host allows one. */
#include "unit.h"

#include "base/bytes.h"
#include "net/net.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct card { /* a NIC that counts */
    unsigned frames, links;
    size_t len;
    uint8_t last[4096];
    bool busy, up;
};
static size_t card_receive(void *opaque, const struct iov *f)
{
    struct card *c = opaque;

    if (c->busy)
        return 0;
    c->frames++;
    c->len = iov_to_buf(f, 0, c->last, sizeof c->last);
    return f->len;
}
static bool card_can_receive(void *opaque)
{
    return !((struct card *)opaque)->busy;
}
static void card_link(void *opaque, bool up)
{
    struct card *c = opaque;

    c->links++;
    c->up = up;
}
static const struct net_ops card_ops = {
    .type = "nic", .receive = card_receive, .can_receive = card_can_receive, .link_changed = card_link};

struct pair {
    struct run *run;
    struct net_set *set;
    struct card c[2];
    struct net_peer *nic[2];
};

static struct net_peer *make(struct pair *p, const char *text, const char *part_of_error)
{
    struct err *e = NULL;
    struct opts *o = opts_parse(text, "type", &e);
    struct net_peer *n = o ? net_create(p->set, o, &e) : NULL;

    opts_free(o);
    if (!part_of_error && !n)
        fail_msg("%s: %s", text, e->msg);
    if (part_of_error) {
        assert_null(n);
        if (!strstr(e->msg, part_of_error))
            fail_msg("%s: \"%s\" does not say \"%s\"", text, e->msg, part_of_error);
    }
    err_free(e);
    return n;
}
static void start(struct pair *p)
{
    memset(p, 0, sizeof *p);
    p->run = run_new();
    p->set = net_set_new(p->run);
}
static void plug(struct pair *p, unsigned i, const char *text)
{
    char id[8];

    snprintf(id, sizeof id, "nic%u", i);
    p->nic[i] = net_peer_new(p->set, id, &card_ops, &p->c[i]);
    net_connect(p->nic[i], make(p, text, NULL), NULL);
}
static void stop(struct pair *p)
{
    net_set_free(p->set);
    run_free(p->run);
}
static bool until(struct pair *p, const unsigned *counter, unsigned n)
{
    int64_t end = clk_now(p->run->real) + 2 * NS_PER_SEC;

    while (*counter < n && clk_now(p->run->real) < end)
        ev_loop_turn(p->run->loop, 10 * NS_PER_MS);
    return *counter >= n;
}
static void both_ways(struct pair *p)
{
    uint8_t f[1500];

    for (unsigned i = 0; i < sizeof f; i++)
        f[i] = i * 3;
    for (unsigned i = 0; i < 20; i++) {
        net_send_buf(p->nic[0], f, 100 + i * 70);
        assert_true(until(p, &p->c[1].frames, i + 1));
        assert_int_equal(p->c[1].len, 100 + i * 70);
        assert_memory_equal(p->c[1].last, f, p->c[1].len);
    }
    net_send_buf(p->nic[1], f, 60);
    assert_true(until(p, &p->c[0].frames, 1));
    assert_int_equal(p->c[0].frames, 1);
}

/* proves: F-NET-19, S162 */
static void stream_joins_two_programs_over_a_unix_socket(void **state)
{
    struct pair p;

    start(&p);
    plug(&p, 0, "stream,id=s,server=on,addr.type=unix,addr.path=/tmp/lb-stream.sock");
    assert_true(p.nic[0]->peer->link_down);
    plug(&p, 1, "stream,id=c,server=off,addr.type=unix,addr.path=/tmp/lb-stream.sock");
    assert_true(until(&p, &p.c[0].links, 1));
    assert_true(p.c[0].up);
    both_ways(&p);
    /* The client goes, another comes. */
    net_remove(p.set, "c", NULL);
    assert_true(until(&p, &p.c[0].links, 2));
    assert_false(p.c[0].up);
    net_connect(p.nic[1], make(&p, "stream,id=c2,addr.type=unix,addr.path=/tmp/lb-stream.sock", NULL), NULL);
    assert_true(until(&p, &p.c[0].links, 3));
    assert_true(p.c[0].up);
    stop(&p);
    assert_int_equal(access("/tmp/lb-stream.sock", F_OK), -1);
}

static void frames_have_four_bytes_of_length_in_front(void **state)
{
    struct pair p;
    int sv[2];
    char text[64];
    uint8_t b[16], big[4] = {0xff, 0xff, 0xff, 0xff};

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    start(&p);
    snprintf(text, sizeof text, "stream,id=s,addr.type=fd,addr.str=%d", sv[0]);
    plug(&p, 0, text);
    net_send_buf(p.nic[0], "0123456789", 10);
    assert_int_equal(read(sv[1], b, 16), 14);
    assert_memory_equal(b,
                        "\0\0\0\x0a"
                        "0123456789",
                        14);
    /* In pieces, and two at once. */
    assert_int_equal(write(sv[1], "\0\0", 2), 2);
    ev_loop_turn(p.run->loop, NS_PER_MS);
    assert_int_equal(write(sv[1], "\0\3abc\0\0\0\2de", 11), 11);
    assert_true(until(&p, &p.c[0].frames, 2));
    assert_memory_equal(p.c[0].last, "de", 2);
    assert_int_equal(write(sv[1], big, 4), 4); /* nonsense: hangs up */
    assert_true(until(&p, &p.c[0].links, 1));
    assert_int_equal(read(sv[1], b, 16), 0);
    close(sv[1]);
    stop(&p);
}

static void nothing_is_lost_while_the_card_is_busy(void **state)
{
    struct pair p;
    uint8_t f[1000] = {0};

    start(&p);
    plug(&p, 0, "stream,id=s,server=on,addr.type=unix,addr.path=/tmp/lb-busy.sock");
    plug(&p, 1, "stream,id=c,addr.type=unix,addr.path=/tmp/lb-busy.sock");
    assert_true(until(&p, &p.c[0].links, 1));
    p.c[0].busy = true;
    for (unsigned i = 0; i < 900; i++) {
        put_be32(f, i);
        net_send_buf(p.nic[1], f, sizeof f);
    }
    for (unsigned i = 0; i < 20; i++)
        ev_loop_turn(p.run->loop, NS_PER_MS);
    assert_int_equal(p.c[0].frames, 0);
    p.c[0].busy = false;
    net_flush(p.nic[0]);
    assert_true(until(&p, &p.c[0].frames, 900));
    assert_int_equal(get_be32(p.c[0].last), 899);
    stop(&p);
}

static void socket_joins_by_tcp_and_by_multicast(void **state)
{
    struct pair p;

    start(&p);
    plug(&p, 0, "socket,id=s,listen=127.0.0.1:47311");
    plug(&p, 1, "socket,id=c,connect=127.0.0.1:47311");
    assert_true(until(&p, &p.c[0].links, 1));
    both_ways(&p);
    stop(&p);
    start(&p);
    plug(&p, 0, "socket,id=s,mcast=239.192.7.7:47312,localaddr=127.0.0.1");
    plug(&p, 1, "socket,id=c,mcast=239.192.7.7:47312,localaddr=127.0.0.1");
    both_ways(&p);
    stop(&p);
}

static void datagrams_carry_one_frame_each(void **state)
{
    struct pair p;

    start(&p);
    plug(&p, 0,
         "dgram,id=a,local.type=inet,local.host=127.0.0.1,local.port=47313,remote.type=inet,remote.host=127.0.0.1,"
         "remote.port=47314");
    plug(&p, 1, "socket,id=b,udp=127.0.0.1:47313,localaddr=127.0.0.1:47314");
    both_ways(&p);
    stop(&p);
    start(&p);
    plug(&p, 0, "dgram,id=a,local.type=unix,local.path=/tmp/lb-a.sock,remote.type=unix,remote.path=/tmp/lb-b.sock");
    net_send_buf(p.nic[0], "nobody listens yet", 18);
    plug(&p, 1, "dgram,id=b,local.type=unix,local.path=/tmp/lb-b.sock,remote.type=unix,remote.path=/tmp/lb-a.sock");
    both_ways(&p);
    stop(&p);
}

static void wrong_addresses_are_explained(void **state)
{
    struct pair p;

    start(&p);
    make(&p, "stream,id=s", "addr.type is missing");
    make(&p, "stream,id=s,addr.type=unix,addr.path=/nonexistent/x", "cannot connect");
    make(&p, "stream,id=s,addr.type=carrier-pigeon", "unknown");
    make(&p, "socket,id=s", "exactly one of");
    make(&p, "socket,id=s,listen=47311", "no port");
    make(&p, "socket,id=s,mcast=10.0.0.1:5", "not a multicast");
    make(&p, "socket,id=s,fd=99", "not an open file");
    make(&p, "dgram,id=s,remote.type=inet,remote.host=127.0.0.1,remote.port=5", "local.type");
    make(&p, "vde,id=s", "not offered");
    make(&p, "tap,id=s,queues=4", "one queue");
    make(&p, "tap,id=s,fd=5,ifname=x", "do not go with");
    make(&p, "bridge,id=s,helper=/nonexistent/helper", "cannot run the helper");
    stop(&p);
}

/* proves: F-NET-20 (refusal), F-NET-12 */
static void a_helper_that_fails_is_named(void **state)
{
    struct pair p;

    start(&p);
    make(&p, "bridge,id=s,br=br7,helper=/bin/false", "br7");
    stop(&p);
}

static void a_dump_is_a_pcap_file(void **state)
{
    static const struct obj_class plain = {.name = "plain", .size = sizeof(struct obj)};
    struct pair p;
    struct obj *root = obj_new(&plain, NULL), *m = obj_new(&plain, NULL), *d;
    struct err *e = NULL;
    uint8_t b[200];
    int fd;

    start(&p);
    obj_add_child(root, "machine", m);
    net_set_bind(p.set, m);
    plug(&p, 0, "socket,id=s,listen=127.0.0.1:47315");
    net_set_link(p.nic[0]->peer, true);
    d = obj_new(obj_class_find("filter-dump"), m);
    assert_true(obj_set(d, "netdev", "s", &e));
    assert_true(obj_set(d, "file", "/tmp/lb-dump.pcap", &e));
    assert_true(obj_set(d, "maxlen", "8", &e));
    assert_true(obj_ready(d, &e));
    net_send_buf(p.nic[0], "a frame of some length", 22);
    fd = open("/tmp/lb-dump.pcap", O_RDONLY);
    assert_int_equal(read(fd, b, sizeof b), 24 + 16 + 8);
    assert_int_equal(get_le32(b), 0xa1b2c3d4);
    assert_int_equal(get_le32(b + 24 + 8), 8);
    assert_int_equal(get_le32(b + 24 + 12), 22);
    assert_memory_equal(b + 40, "a frame ", 8);
    close(fd);
    unlink("/tmp/lb-dump.pcap");
    obj_unref(d);
    stop(&p);
    obj_unref(root);
}

/* proves: F-NET-09, F-NET-11, S130 */
static void a_tap_device_comes_and_goes_with_its_scripts(void **state)
{
    struct pair p;
    struct stat st;
    int fd = open("/dev/net/tun", O_RDWR);
    FILE *f;

    if (fd < 0) {
        print_message("SKIP: no /dev/net/tun here\n");
        skip();
    }
    close(fd);
    f = fopen("/tmp/lb-up.sh", "w");
    fputs("#!/bin/sh\necho \"$1\" > /tmp/lb-up.$1\n", f);
    fchmod(fileno(f), 0755);
    fclose(f);
    start(&p);
    struct err *e = NULL;
    struct opts *o = opts_parse("tap,id=t,ifname=lbtest0,script=/tmp/lb-up.sh,downscript=no,vhost=on", "type", NULL);
    struct net_peer *n = net_create(p.set, o, &e);
    opts_free(o);
    if (!n) {
        print_message("SKIP: %s\n", e->msg);
        err_free(e);
        stop(&p);
        skip();
    }
    assert_int_equal(stat("/sys/class/net/lbtest0", &st), 0);
    assert_int_equal(stat("/tmp/lb-up.lbtest0", &st), 0);
    stop(&p);
    assert_int_equal(stat("/sys/class/net/lbtest0", &st), -1);
    unlink("/tmp/lb-up.lbtest0");
    unlink("/tmp/lb-up.sh");
}

UNIT_MAIN(cmocka_unit_test(stream_joins_two_programs_over_a_unix_socket),
          cmocka_unit_test(frames_have_four_bytes_of_length_in_front),
          cmocka_unit_test(nothing_is_lost_while_the_card_is_busy),
          cmocka_unit_test(socket_joins_by_tcp_and_by_multicast), cmocka_unit_test(datagrams_carry_one_frame_each),
          cmocka_unit_test(wrong_addresses_are_explained), cmocka_unit_test(a_helper_that_fails_is_named),
          cmocka_unit_test(a_dump_is_a_pcap_file), cmocka_unit_test(a_tap_device_comes_and_goes_with_its_scripts))
