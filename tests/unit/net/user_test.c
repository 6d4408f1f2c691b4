/* The user-mode network by hand-made frames: DHCP, ARP, a TCP connection each way. */
#include "unit.h"

#include "base/bytes.h"
#include "net/net.h"
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint8_t my_mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

struct guest {
    struct run *run;
    struct net_set *set;
    struct net_peer *me, *nat;
    uint8_t frame[2048];   /* the frame wait_for found */
    uint8_t got[32][2048]; /* frames not yet looked at */
    size_t got_len[32];
    unsigned nr_got;
};

static size_t guest_receive(void *opaque, const struct iov *f)
{
    struct guest *g = opaque;

    if (g->nr_got < 32) {
        g->got_len[g->nr_got] = iov_to_buf(f, 0, g->got[g->nr_got], sizeof g->got[0]);
        g->nr_got++;
    }
    return f->len;
}
static const struct net_ops guest_ops = {.type = "nic", .receive = guest_receive};

static void start(struct guest *g, const char *text)
{
    struct err *e = NULL;
    struct opts *o = opts_parse(text, "type", NULL);

    *g = (struct guest){.run = run_new()};
    clk_resume(g->run->virt);
    g->set = net_set_new(g->run);
    g->me = net_peer_new(g->set, "me", &guest_ops, g);
    g->nat = net_create(g->set, o, &e);
    opts_free(o);
    if (e)
        print_error("%s\n", e->msg);
    assert_non_null(g->nat);
    assert_true(net_connect(g->me, g->nat, NULL));
}
static void stop(struct guest *g)
{
    net_set_free(g->set);
    run_free(g->run);
}

/* Turns the loop until a frame that `want` likes came, or two seconds passed. */
static bool wait_for(struct guest *g, bool (*want)(const uint8_t *f, size_t len))
{
    int64_t end = clk_now(g->run->real) + 2 * NS_PER_SEC;

    do {
        for (unsigned i = 0; i < g->nr_got; i++)
            if (want(g->got[i], g->got_len[i])) {
                memcpy(g->frame, g->got[i], sizeof g->frame);
                g->nr_got = 0;
                return true;
            }
        g->nr_got = 0;
        ev_loop_turn(g->run->loop, 10 * NS_PER_MS);
    } while (clk_now(g->run->real) < end);
    return false;
}

static uint16_t cksum(const uint8_t *p, size_t n, uint32_t sum)
{
    for (; n > 1; n -= 2, p += 2)
        sum += get_be16(p);
    if (n)
        sum += *p << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

static void put_eth_ip(uint8_t *f, uint8_t proto, size_t payload, uint32_t src, uint32_t dst, bool bcast)
{
    static const uint8_t gw[6] = {0x52, 0x55, 10, 0, 2, 2};

    memset(f, 0, 34);
    if (bcast)
        memset(f, 0xff, 6);
    else
        memcpy(f, gw, 6);
    memcpy(f + 6, my_mac, 6);
    put_be16(f + 12, 0x0800);
    f[14] = 0x45;
    put_be16(f + 16, 20 + payload);
    f[22] = 64;
    f[23] = proto;
    put_be32(f + 26, src);
    put_be32(f + 30, dst);
    put_be16(f + 24, cksum(f + 14, 20, 0));
}

static void send_dhcp(struct guest *g, uint8_t type)
{
    uint8_t f[14 + 20 + 8 + 300] = {0}, *d = f + 42;

    d[0] = 1;
    d[1] = 1;
    d[2] = 6;
    put_be32(d + 4, 0x11223344);
    memcpy(d + 28, my_mac, 6);
    memcpy(d + 236, "\x63\x82\x53\x63\x35\x01", 6);
    d[242] = type;
    if (type == 3)
        memcpy(d + 243, "\x32\x04\x0a\x00\x02\x0f\xff", 7);
    else
        d[243] = 0xff;
    put_eth_ip(f, 17, 308, 0, 0xffffffff, true);
    put_be16(f + 34, 68);
    put_be16(f + 36, 67);
    put_be16(f + 38, 308);
    net_send_buf(g->me, f, sizeof f);
}

static bool is_dhcp(const uint8_t *f, size_t len)
{
    return len > 300 && get_be16(f + 12) == 0x0800 && f[23] == 17 && get_be16(f + 36) == 68;
}
static bool is_arp_reply(const uint8_t *f, size_t len)
{
    return len >= 42 && get_be16(f + 12) == 0x0806 && get_be16(f + 20) == 2;
}
static bool is_arp_request(const uint8_t *f, size_t len)
{
    return len >= 42 && get_be16(f + 12) == 0x0806 && get_be16(f + 20) == 1;
}
static bool is_synack(const uint8_t *f, size_t len)
{
    return len >= 54 && get_be16(f + 12) == 0x0800 && f[23] == 6 && (f[47] & 0x12) == 0x12;
}
static bool is_syn(const uint8_t *f, size_t len)
{
    return len >= 54 && get_be16(f + 12) == 0x0800 && f[23] == 6 && (f[47] & 0x12) == 0x02;
}
static bool is_tcp_data(const uint8_t *f, size_t len)
{
    return len >= 54 && f[23] == 6 && get_be16(f + 16) > 20u + (f[46] >> 4) * 4u;
}

/* proves: F-NET-01, S128, S135 */
static void dhcp_gives_the_usual_address(void **state)
{
    struct guest g;

    start(&g, "user,id=n");
    send_dhcp(&g, 1);
    assert_true(wait_for(&g, is_dhcp));
    assert_int_equal(get_be32(g.frame + 42 + 16), 0x0a00020f);
    send_dhcp(&g, 3);
    assert_true(wait_for(&g, is_dhcp));
    assert_int_equal(g.frame[42 + 242], 5); /* ACK */
    stop(&g);
}

static void dhcpstart_and_net_move_the_addresses(void **state)
{
    struct guest g;

    start(&g, "user,id=n,net=192.168.76.0/24,dhcpstart=192.168.76.9");
    send_dhcp(&g, 1);
    assert_true(wait_for(&g, is_dhcp));
    assert_int_equal(get_be32(g.frame + 42 + 16), 0xc0a84c09);
    stop(&g);
}

static void send_arp(struct guest *g, bool reply, const uint8_t *to, uint32_t ask)
{
    uint8_t f[60] = {0};

    memcpy(f, to, 6);
    memcpy(f + 6, my_mac, 6);
    put_be16(f + 12, 0x0806);
    memcpy(f + 14, "\0\1\x08\0\6\4\0", 7);
    f[21] = reply ? 2 : 1;
    memcpy(f + 22, my_mac, 6);
    put_be32(f + 28, 0x0a00020f);
    put_be32(f + 38, ask);
    net_send_buf(g->me, f, sizeof f);
}

static void send_tcp(struct guest *g, uint16_t sport, uint16_t dport, uint32_t seq, uint32_t ack, uint8_t flags,
                     const char *data)
{
    size_t n = strlen(data);
    uint8_t f[200] = {0}, pseudo[12];

    put_eth_ip(f, 6, 20 + n, 0x0a00020f, 0x0a000202, false);
    put_be16(f + 34, sport);
    put_be16(f + 36, dport);
    put_be32(f + 38, seq);
    put_be32(f + 42, ack);
    f[46] = 5 << 4;
    f[47] = flags;
    put_be16(f + 48, 8192);
    memcpy(f + 54, data, n);
    memcpy(pseudo, f + 26, 8);
    put_be16(pseudo + 8, 6);
    put_be16(pseudo + 10, 20 + n);
    put_be16(f + 50, cksum(f + 34, 20 + n, (uint16_t)~cksum(pseudo, 12, 0)));
    net_send_buf(g->me, f, 54 + n);
}

static int listener(uint16_t *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 1), 0);
    getsockname(fd, (struct sockaddr *)&a, &n);
    *port = ntohs(a.sin_port);
    return fd;
}

/* proves: F-NET-01 */
static void the_guest_reaches_a_server_on_the_host(void **state)
{
    static const uint8_t bcast[6] = {255, 255, 255, 255, 255, 255};
    struct guest g;
    uint16_t port;
    int fd = listener(&port), c;
    char b[16] = "";

    start(&g, "user,id=n");
    send_arp(&g, false, bcast, 0x0a000202);
    assert_true(wait_for(&g, is_arp_reply));
    send_tcp(&g, 1000, port, 1, 0, 0x02, "");
    assert_true(wait_for(&g, is_synack));
    uint32_t ack = get_be32(g.frame + 38) + 1;
    send_tcp(&g, 1000, port, 2, ack, 0x10, "");
    send_tcp(&g, 1000, port, 2, ack, 0x18, "ping");
    c = accept(fd, NULL, NULL);
    for (int i = 0; i < 50 && recv(c, b, sizeof b, MSG_DONTWAIT) <= 0; i++)
        ev_loop_turn(g.run->loop, 10 * NS_PER_MS);
    assert_string_equal(b, "ping");
    assert_int_equal(write(c, "pong", 4), 4);
    assert_true(wait_for(&g, is_tcp_data));
    close(c);
    close(fd);
    stop(&g);
}

/* proves: F-NET-05 */
static void restrict_keeps_the_guest_from_the_host(void **state)
{
    static const uint8_t bcast[6] = {255, 255, 255, 255, 255, 255};
    struct guest g;
    uint16_t port;
    int fd = listener(&port);
    struct pollfd p = {.fd = fd, .events = POLLIN};

    start(&g, "user,id=n,restrict=y");
    send_arp(&g, false, bcast, 0x0a000202);
    assert_true(wait_for(&g, is_arp_reply));
    send_tcp(&g, 1000, port, 1, 0, 0x02, "");
    for (int i = 0; i < 10; i++)
        ev_loop_turn(g.run->loop, 10 * NS_PER_MS);
    assert_int_equal(poll(&p, 1, 0), 0);
    close(fd);
    stop(&g);
}

/* proves: F-NET-04, S139, S140 */
static void a_forward_brings_the_host_to_the_guest_and_goes_away(void **state)
{
    struct guest g;
    uint16_t port;
    int fd = listener(&port), c;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char text[96];
    struct err *e = NULL;

    close(fd); /* a port that was free a moment ago */
    snprintf(text, sizeof text, "user,id=n,hostfwd=tcp:127.0.0.1:%u-:22", port);
    start(&g, text);
    ev_loop_turn(g.run->loop, 10 * NS_PER_MS);
    c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    a.sin_port = htons(port);
    connect(c, (struct sockaddr *)&a, sizeof a);
    assert_true(wait_for(&g, is_arp_request));
    assert_int_equal(get_be32(g.frame + 38), 0x0a00020f);
    send_arp(&g, true, g.frame + 6, get_be32(g.frame + 28));
    assert_true(wait_for(&g, is_syn));
    assert_int_equal(get_be16(g.frame + 36), 22);
    close(c);
    snprintf(text, sizeof text, "tcp:127.0.0.1:%u", port);
    assert_true(net_user_hostfwd_remove(g.set, NULL, text, &e));
    assert_false(net_user_hostfwd_remove(g.set, NULL, text, &e));
    err_free(e);
    stop(&g);
}

UNIT_MAIN(cmocka_unit_test(dhcp_gives_the_usual_address), cmocka_unit_test(dhcpstart_and_net_move_the_addresses),
          cmocka_unit_test(the_guest_reaches_a_server_on_the_host),
          cmocka_unit_test(restrict_keeps_the_guest_from_the_host),
          cmocka_unit_test(a_forward_brings_the_host_to_the_guest_and_goes_away))
