/* Messages of the vhost-user protocol, sent by the side that has the guest. After the protocol's description: message
 * format, "front-end message types". Little-endian hosts.
 *
 * Left out: requests by the peer (its second channel), dirty logging, postcopy, memory slots one by one, requests in
 * flight kept by the peer: the device keeps them (vhost_ring.h). */
#include "hw/virtio/vhost_user.h"
#include "base/bytes.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum vu_request {
    VU_GET_FEATURES = 1,
    VU_SET_FEATURES = 2,
    VU_SET_OWNER = 3,
    VU_SET_MEM_TABLE = 5,
    VU_SET_VRING_NUM = 8,
    VU_SET_VRING_ADDR = 9,
    VU_SET_VRING_BASE = 10,
    VU_GET_VRING_BASE = 11,
    VU_SET_VRING_KICK = 12,
    VU_SET_VRING_CALL = 13,
    VU_GET_PROTOCOL_FEATURES = 15,
    VU_SET_PROTOCOL_FEATURES = 16,
    VU_GET_QUEUE_NUM = 17,
    VU_SET_VRING_ENABLE = 18,
    VU_GET_CONFIG = 24,
    VU_SET_CONFIG = 25,
};
enum { VU_VERSION = 1, VU_VERSION_MASK = 3, VU_REPLY = 4, VU_NEED_REPLY = 8 };
enum { VU_PF_MQ = 1 << 0, VU_PF_REPLY_ACK = 1 << 3, VU_PF_CONFIG = 1 << 9 };
enum { HEADER = 12, PAYLOAD_MAX = 12 + VU_CONFIG_MAX };

struct msg {
    uint32_t request, size;
    uint8_t p[PAYLOAD_MAX];
    const int *fds;
    unsigned nr_fds;
};

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void vu_hang_up(struct vu_conn *c)
{
    int fd = chr_fe_socket(&c->fe);

    if (fd >= 0)
        shutdown(fd, SHUT_RDWR);
}

static bool fail(struct vu_conn *c, struct err **errp, const char *what)
{
    vu_hang_up(c);
    return err_set(errp, "the vhost-user peer %s", what);
}

/* Waits for room or bytes until the deadline. */
static bool ready(struct vu_conn *c, int fd, short what, int64_t deadline, struct err **errp)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = what};
        int64_t left = deadline - now_ms();
        int n = left > 0 ? poll(&p, 1, (int)left) : 0;

        if (n > 0)
            return true;
        if (!n)
            return fail(c, errp, "does not answer");
        if (errno != EINTR)
            return fail(c, errp, "cannot be waited for");
    }
}

static ssize_t send_part(int fd, const uint8_t *b, size_t len, const int *fds, unsigned nr)
{
    union {
        struct cmsghdr h;
        char space[CMSG_SPACE(VU_REGIONS * sizeof(int))];
    } ctl;
    struct iovec v = {(void *)b, len};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};

    if (nr) {
        memset(&ctl, 0, sizeof ctl);
        m.msg_control = &ctl;
        m.msg_controllen = CMSG_SPACE(nr * sizeof(int));
        ctl.h.cmsg_level = SOL_SOCKET;
        ctl.h.cmsg_type = SCM_RIGHTS;
        ctl.h.cmsg_len = CMSG_LEN(nr * sizeof(int));
        memcpy(CMSG_DATA(&ctl.h), fds, nr * sizeof(int));
    }
    return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool send_msg(struct vu_conn *c, const struct msg *m, uint32_t flags, int64_t deadline, struct err **errp)
{
    uint8_t b[HEADER + PAYLOAD_MAX];
    size_t at = 0, len = HEADER + m->size;
    int fd = chr_fe_socket(&c->fe);

    if (fd < 0)
        return err_set(errp, "the vhost-user peer is not there");
    put_le32(b, m->request);
    put_le32(b + 4, VU_VERSION | flags);
    put_le32(b + 8, m->size);
    memcpy(b + HEADER, m->p, m->size);
    while (at < len) {
        ssize_t n = send_part(fd, b + at, len - at, m->fds, at ? 0 : m->nr_fds);

        if (n > 0)
            at += (size_t)n;
        else if (errno != EAGAIN && errno != EINTR)
            return fail(c, errp, "has hung up");
        else if (!ready(c, fd, POLLOUT, deadline, errp))
            return false;
    }
    return true;
}

static bool recv_all(struct vu_conn *c, uint8_t *b, size_t len, int64_t deadline, struct err **errp)
{
    int fd = chr_fe_socket(&c->fe);

    while (len) {
        ssize_t n;

        if (!ready(c, fd, POLLIN, deadline, errp))
            return false;
        n = recv(fd, b, len, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0)
            return fail(c, errp, "has hung up");
        b += n;
        len -= (size_t)n;
    }
    return true;
}

/* The answer to m, into m. */
static bool recv_msg(struct vu_conn *c, struct msg *m, int64_t deadline, struct err **errp)
{
    uint8_t h[HEADER];

    if (!recv_all(c, h, sizeof h, deadline, errp))
        return false;
    m->size = get_le32(h + 8);
    if (get_le32(h) != m->request || (get_le32(h + 4) & (VU_VERSION_MASK | VU_REPLY)) != (VU_VERSION | VU_REPLY) ||
        m->size > PAYLOAD_MAX)
        return fail(c, errp, "answered something that was not asked");
    return recv_all(c, m->p, m->size, deadline, errp);
}

static bool ask(struct vu_conn *c, struct msg *m, struct err **errp)
{
    int64_t deadline = now_ms() + VU_WAIT_MS;

    return send_msg(c, m, 0, deadline, errp) && recv_msg(c, m, deadline, errp);
}

/* Says it; where the peer can acknowledge and it matters, hears that it was understood. */
static bool tell(struct vu_conn *c, struct msg *m, bool sure, struct err **errp)
{
    int64_t deadline = now_ms() + VU_WAIT_MS;

    sure &= (c->proto & VU_PF_REPLY_ACK) != 0;
    if (!send_msg(c, m, sure ? VU_NEED_REPLY : 0, deadline, errp))
        return false;
    if (!sure)
        return true;
    if (!recv_msg(c, m, deadline, errp))
        return false;
    return (m->size == 8 && !get_le64(m->p)) || fail(c, errp, "refused what it was told");
}

static bool ask_u64(struct vu_conn *c, uint32_t request, uint64_t *val, struct err **errp)
{
    struct msg m = {.request = request};

    if (!ask(c, &m, errp))
        return false;
    if (m.size != 8)
        return fail(c, errp, "answered with a message of the wrong size");
    *val = get_le64(m.p);
    return true;
}

static bool tell_u64(struct vu_conn *c, uint32_t request, uint64_t val, struct err **errp)
{
    struct msg m = {.request = request, .size = 8};

    put_le64(m.p, val);
    return tell(c, &m, false, errp);
}

static bool tell_ring(struct vu_conn *c, uint32_t request, unsigned i, uint32_t val, bool sure, struct err **errp)
{
    struct msg m = {.request = request, .size = 8};

    put_le32(m.p, i);
    put_le32(m.p + 4, val);
    return tell(c, &m, sure, errp);
}

bool vu_hello(struct vu_conn *c, struct err **errp)
{
    uint64_t proto, queues = 1;

    c->proto = 0;
    if (!ask_u64(c, VU_GET_FEATURES, &c->features, errp))
        return false;
    if (!(c->features & VU_F_PROTOCOL))
        return fail(c, errp, "is too old: it has no protocol features");
    if (!ask_u64(c, VU_GET_PROTOCOL_FEATURES, &proto, errp))
        return false;
    c->proto = proto & (VU_PF_MQ | VU_PF_REPLY_ACK | VU_PF_CONFIG);
    if (!(c->proto & VU_PF_CONFIG))
        return fail(c, errp, "cannot tell the device's configuration");
    if (!tell_u64(c, VU_SET_PROTOCOL_FEATURES, c->proto, errp))
        return false;
    if (c->proto & VU_PF_MQ && !ask_u64(c, VU_GET_QUEUE_NUM, &queues, errp))
        return false;
    if (!queues)
        return fail(c, errp, "has no queues");
    c->max_queues = (unsigned)min_u64(queues, 1024);

    struct msg owner = {.request = VU_SET_OWNER};
    return tell(c, &owner, false, errp);
}

bool vu_get_config(struct vu_conn *c, uint8_t *cfg, unsigned len, struct err **errp)
{
    struct msg m = {.request = VU_GET_CONFIG, .size = 12 + len};

    assert(len <= VU_CONFIG_MAX);
    put_le32(m.p + 4, len);
    if (!ask(c, &m, errp))
        return false;
    if (m.size != 12 + len || get_le32(m.p) || get_le32(m.p + 4) != len)
        return fail(c, errp, "does not tell the device's configuration");
    memcpy(cfg, m.p + 12, len);
    return true;
}

bool vu_set_config(struct vu_conn *c, unsigned off, const uint8_t *val, unsigned len, struct err **errp)
{
    struct msg m = {.request = VU_SET_CONFIG, .size = 12 + len};

    assert(len <= VU_CONFIG_MAX);
    put_le32(m.p, off);
    put_le32(m.p + 4, len);
    memcpy(m.p + 12, val, len);
    return tell(c, &m, true, errp);
}

bool vu_set_features(struct vu_conn *c, uint64_t features, struct err **errp)
{
    return tell_u64(c, VU_SET_FEATURES, (features & c->features) | VU_F_PROTOCOL, errp);
}

bool vu_set_memory(struct vu_conn *c, const struct vu_region *r, unsigned nr, struct err **errp)
{
    struct msg m = {.request = VU_SET_MEM_TABLE, .size = 8 + 32 * nr, .nr_fds = nr};
    int fds[VU_REGIONS];

    assert(nr && nr <= VU_REGIONS);
    put_le32(m.p, nr);
    for (unsigned i = 0; i < nr; i++) {
        uint8_t *p = m.p + 8 + 32 * i;

        put_le64(p, r[i].addr);
        put_le64(p + 8, r[i].size);
        put_le64(p + 16, r[i].addr);
        put_le64(p + 24, r[i].off);
        fds[i] = r[i].fd;
    }
    m.fds = fds;
    return tell(c, &m, true, errp);
}

static bool tell_fd(struct vu_conn *c, uint32_t request, unsigned i, int fd, struct err **errp)
{
    struct msg m = {.request = request, .size = 8, .fds = &fd, .nr_fds = 1};

    put_le64(m.p, i);
    return tell(c, &m, false, errp);
}

bool vu_start_ring(struct vu_conn *c, unsigned i, const struct vu_ring *r, struct err **errp)
{
    struct msg addr = {.request = VU_SET_VRING_ADDR, .size = 40};

    put_le32(addr.p, i);
    put_le64(addr.p + 8, r->desc);
    put_le64(addr.p + 16, r->used);
    put_le64(addr.p + 24, r->avail);
    return tell_ring(c, VU_SET_VRING_NUM, i, r->num, false, errp) &&
           tell_ring(c, VU_SET_VRING_BASE, i, 0, false, errp) && tell(c, &addr, false, errp) &&
           tell_fd(c, VU_SET_VRING_CALL, i, r->call, errp) && tell_fd(c, VU_SET_VRING_KICK, i, r->kick, errp) &&
           tell_ring(c, VU_SET_VRING_ENABLE, i, 1, true, errp);
}

bool vu_stop_ring(struct vu_conn *c, unsigned i, struct err **errp)
{
    struct msg m = {.request = VU_GET_VRING_BASE, .size = 8};

    put_le32(m.p, i);
    if (!ask(c, &m, errp))
        return false;
    return (m.size == 8 && get_le32(m.p) == i) || fail(c, errp, "answered for another ring");
}
