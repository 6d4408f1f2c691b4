/* Socket calls of 32-bit guests: message headers, control messages, timeouts, socketcall. */
#include "base/bytes.h"
#include "base/util.h"
#include "user/linux/sys32.h"
#include "user/linux/syscalls.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

enum { MAX_CONTROL = 65536, MAX_BATCH = 1024 };
/* struct msghdr: name, namelen, iov, iovlen, control, controllen, flags: 7 words. */
enum { M_NAME, M_NAMELEN, M_IOV, M_IOVLEN, M_CONTROL, M_CONTROLLEN, M_FLAGS, M_WORDS };

struct message {
    struct msghdr h;
    uint32_t w[M_WORDS];
    uint8_t *control; /* owned */
};

/* Guest control messages {len 4, level, type, data padded to 4} into the host's {len 8, ..., padded to 8}. */
static int control_in(struct message *m)
{
    size_t n = m->w[M_CONTROLLEN], at = 0, out = 0;
    int r = 0;
    uint8_t *g;

    if (n > MAX_CONTROL)
        return -ENOBUFS;
    g = xmalloc(n + 1);
    m->control = xcalloc(1, n * 2 + 64);
    if (!lx_get(g, m->w[M_CONTROL], n))
        r = -EFAULT;
    while (!r && at + 12 <= n) {
        size_t len = get_le32(g + at), data = len - 12;

        if (len < 12 || len > n - at) {
            r = -EINVAL;
            break;
        }
        put_le64(m->control + out, data + 16);
        memcpy(m->control + out + 8, g + at + 4, 8 + data);
        out += 16 + align_up(data, 8);
        at += align_up(len, 4);
    }
    free(g);
    m->h.msg_control = m->control;
    m->h.msg_controllen = out;
    return r;
}

static bool control_out(struct message *m)
{
    size_t room = m->w[M_CONTROLLEN], out = 0;
    uint8_t *g = xcalloc(1, room + 1);
    bool ok;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m->h); c; c = CMSG_NXTHDR(&m->h, c)) {
        size_t data = c->cmsg_len - CMSG_LEN(0);

        if (c->cmsg_level == SOL_SOCKET && (c->cmsg_type == SO_TIMESTAMP || c->cmsg_type == SO_TIMESTAMPNS) &&
            data == 16) {
            int64_t v[2];

            memcpy(v, CMSG_DATA(c), 16);
            put_le32(CMSG_DATA(c), (uint32_t)v[0]);
            put_le32(CMSG_DATA(c) + 4, (uint32_t)v[1]);
            data = 8;
        }
        if (out + 12 + data > room) {
            m->h.msg_flags |= MSG_CTRUNC;
            break;
        }
        put_le32(g + out, (uint32_t)(12 + data));
        put_le32(g + out + 4, (uint32_t)c->cmsg_level);
        put_le32(g + out + 8, (uint32_t)c->cmsg_type);
        memcpy(g + out + 12, CMSG_DATA(c), data);
        out = min_u64(room, out + align_up(12 + data, 4));
    }
    ok = lx_put(m->w[M_CONTROL], g, out);
    m->w[M_CONTROLLEN] = (uint32_t)out;
    free(g);
    return ok;
}

static int open_message(struct message *m, uint64_t at, bool send)
{
    int e = 0;

    memset(m, 0, sizeof *m);
    if (!lx_get(m->w, at, sizeof m->w))
        return -EFAULT;
    m->h.msg_name = (void *)(uintptr_t)m->w[M_NAME];
    m->h.msg_namelen = m->w[M_NAMELEN];
    m->h.msg_iov = lx_get_iov32(m->w[M_IOV], m->w[M_IOVLEN], &e);
    if (!m->h.msg_iov)
        return e == EINVAL ? -EMSGSIZE : -e;
    m->h.msg_iovlen = m->w[M_IOVLEN];
    if (!m->w[M_CONTROL] || !m->w[M_CONTROLLEN])
        return 0;
    if (send)
        return control_in(m);
    if (m->w[M_CONTROLLEN] > MAX_CONTROL)
        return -ENOBUFS;
    m->control = xcalloc(1, m->w[M_CONTROLLEN] * 2 + 64);
    m->h.msg_control = m->control;
    m->h.msg_controllen = m->w[M_CONTROLLEN] * 2;
    return 0;
}

static void close_message(struct message *m)
{
    free(m->h.msg_iov);
    free(m->control);
}

static int64_t received(struct message *m, uint64_t at, int64_t r)
{
    if (m->control) {
        if (!control_out(m))
            return -EFAULT;
    } else {
        m->w[M_CONTROLLEN] = 0;
    }
    m->w[M_NAMELEN] = m->h.msg_namelen;
    m->w[M_FLAGS] = (uint32_t)m->h.msg_flags;
    return lx_put(at, m->w, sizeof m->w) ? r : -EFAULT;
}

static int64_t one_message(struct lx_thread *t, uint64_t fd, uint64_t at, uint64_t flags, bool send)
{
    struct message m;
    int64_t r = open_message(&m, at, send);
    uint64_t arg[6] = {fd, (uintptr_t)&m.h, flags & ~UINT64_C(0x80000000) /* MSG_CMSG_COMPAT */};

    if (!r) {
        r = lx_safe_syscall(t, send ? SYS_sendmsg : SYS_recvmsg, arg);
        if (r >= 0 && !send)
            r = received(&m, at, r);
    }
    close_message(&m);
    return r;
}

int64_t lx_sys32_sendmsg(struct lx_thread *t, const uint64_t *a)
{
    return one_message(t, a[0], a[1], a[2], true);
}

int64_t lx_sys32_recvmsg(struct lx_thread *t, const uint64_t *a)
{
    return one_message(t, a[0], a[1], a[2], false);
}

/* struct mmsghdr: a msghdr and the length. */
static int64_t many(struct lx_thread *t, const uint64_t *a, bool send)
{
    uint32_t n = (uint32_t)min_u64((uint32_t)a[2], MAX_BATCH), i;
    uint64_t flags = a[3];
    int64_t r = 0;

    for (i = 0; i < n; i++) {
        uint64_t at = a[1] + (uint64_t)i * 32;
        uint32_t len;

        r = one_message(t, a[0], at, flags & ~(uint64_t)MSG_WAITFORONE, send);
        if (r < 0)
            break;
        len = (uint32_t)r;
        if (!lx_put(at + 28, &len, 4))
            return -EFAULT;
        if (flags & MSG_WAITFORONE)
            flags |= MSG_DONTWAIT;
    }
    return i ? i : r;
}

int64_t lx_sys32_sendmmsg(struct lx_thread *t, const uint64_t *a)
{
    return many(t, a, true);
}

int64_t lx_sys32_recvmmsg(struct lx_thread *t, const uint64_t *a)
{
    return many(t, a, false);
}

int64_t lx_sys32_recvmmsg_time64(struct lx_thread *t, const uint64_t *a)
{
    return many(t, a, false);
}

/* ---- options: only the timeouts and timestamps hold longs ---- */

static bool is_timeout(const uint64_t *a)
{
    return (int)a[1] == SOL_SOCKET && ((int)a[2] == 20 || (int)a[2] == 21); /* the old SO_RCVTIMEO, SO_SNDTIMEO */
}

int64_t lx_sys32_setsockopt(struct lx_thread *t, const uint64_t *a)
{
    if (is_timeout(a) && (uint32_t)a[4] == 8) {
        struct timeval tv;
        int32_t w[2];

        if (!lx_get(w, a[3], 8))
            return -EFAULT;
        tv.tv_sec = w[0];
        tv.tv_usec = w[1];
        return setsockopt((int)a[0], SOL_SOCKET, (int)a[2], &tv, sizeof tv) < 0 ? -errno : 0;
    }
    return lx_safe_syscall(t, SYS_setsockopt, a);
}

int64_t lx_sys32_getsockopt(struct lx_thread *t, const uint64_t *a)
{
    if (is_timeout(a)) {
        struct timeval tv;
        socklen_t n = sizeof tv;
        int32_t w[2];
        uint32_t eight = 8;

        if (getsockopt((int)a[0], SOL_SOCKET, (int)a[2], &tv, &n) < 0)
            return -errno;
        w[0] = (int32_t)tv.tv_sec;
        w[1] = (int32_t)tv.tv_usec;
        return lx_put(a[3], w, 8) && lx_put(a[4], &eight, 4) ? 0 : -EFAULT;
    }
    return lx_safe_syscall(t, SYS_getsockopt, a);
}

/* ---- socketcall(call, words) ---- */

/* send and recv: the host has them with an address only, which the guest's other registers are not. */
int64_t lx_sys32_recv(struct lx_thread *t, const uint64_t *a)
{
    return lx_safe_syscall(t, SYS_recvfrom, (const uint64_t[6]){a[0], a[1], a[2], a[3]});
}

int64_t lx_sys32_send(struct lx_thread *t, const uint64_t *a)
{
    return lx_safe_syscall(t, SYS_sendto, (const uint64_t[6]){a[0], a[1], a[2], a[3]});
}

int64_t lx_sys32_socketcall(struct lx_thread *t, const uint64_t *a)
{
    static const struct {
        uint8_t args;
        short host;
        int64_t (*fn)(struct lx_thread *, const uint64_t *);
    } calls[] = {
        [1] = {3, SYS_socket, NULL},      [2] = {3, SYS_bind, NULL},          [3] = {3, SYS_connect, NULL},
        [4] = {2, SYS_listen, NULL},      [5] = {3, SYS_accept, NULL},        [6] = {3, SYS_getsockname, NULL},
        [7] = {3, SYS_getpeername, NULL}, [8] = {4, SYS_socketpair, NULL},    [9] = {4, SYS_sendto, NULL},
        [10] = {4, SYS_recvfrom, NULL},   [11] = {6, SYS_sendto, NULL},       [12] = {6, SYS_recvfrom, NULL},
        [13] = {2, SYS_shutdown, NULL},   [14] = {5, 0, lx_sys32_setsockopt}, [15] = {5, 0, lx_sys32_getsockopt},
        [16] = {3, 0, lx_sys32_sendmsg},  [17] = {3, 0, lx_sys32_recvmsg},    [18] = {4, SYS_accept4, NULL},
        [19] = {5, 0, lx_sys32_recvmmsg}, [20] = {4, 0, lx_sys32_sendmmsg}};
    uint32_t n = (uint32_t)a[0], w[6];
    uint64_t arg[6] = {0};

    if (n >= ARRAY_LEN(calls) || !calls[n].args)
        return -EINVAL;
    if (!lx_get(w, a[1], calls[n].args * 4u))
        return -EFAULT;
    for (unsigned i = 0; i < calls[n].args; i++)
        arg[i] = w[i];
    return calls[n].fn ? calls[n].fn(t, arg) : lx_safe_syscall(t, calls[n].host, arg);
}
