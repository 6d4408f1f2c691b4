/* Back ends `tap` and `bridge`: frames through a TAP device of the host, opened here, handed in (fd=), or made by the
 * bridge helper, a small privileged program that passes the descriptor back over a socket.
 *
 * The offload header is used when the kernel has it (vnet_hdr=on by default). vhost=on: the kernel's ring engine is not
 * used; one warning says so and the plain device serves. Left out: more than one queue, sndbuf limits. */
#include "base/str.h"
#include "net/fdpeer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEFAULT_HELPER "/usr/lib/qemu/qemu-bridge-helper"
#define DEFAULT_UP     "/etc/qemu-ifup"
#define DEFAULT_DOWN   "/etc/qemu-ifdown"
enum { VNET_HDR = 10 };

extern char **environ;

struct tap {
    struct fdpeer *p;
    char ifname[IFNAMSIZ];
    char *down; /* owned: script at the end, NULL = none */
    bool vnet_hdr;
};

static bool run_script(const char *script, const char *ifname, struct err **errp)
{
    char *argv[] = {(char *)(uintptr_t)script, (char *)(uintptr_t)ifname, NULL};
    int st = 0, e;
    pid_t pid;

    if ((e = posix_spawn(&pid, script, NULL, NULL, argv, environ)))
        return err_set_errno(errp, e, "cannot run network script %s; script=no switches it off", script);
    while (waitpid(pid, &st, 0) < 0 && errno == EINTR)
        ;
    if (!WIFEXITED(st) || WEXITSTATUS(st))
        return err_set(errp, "network script %s failed with status %d", script, WIFEXITED(st) ? WEXITSTATUS(st) : -1);
    return true;
}

static ssize_t tap_send(struct fdpeer *p, const struct iov *frame)
{
    ssize_t n;

    do
        n = writev(p->fd, frame->v, (int)min_u64(frame->nr, 1024));
    while (n < 0 && errno == EINTR);
    /* Anything but a full queue (the interface is down, the frame malformed) loses the frame. */
    return n < 0 && errno == EAGAIN ? 0 : (ssize_t)frame->len;
}

static void tap_release(struct fdpeer *p)
{
    struct tap *t = p->owner;
    struct err *e = NULL;

    if (t->down && !run_script(t->down, t->ifname, &e))
        err_report(e);
    free(t->down);
    free(t);
}

static bool tap_set_vnet_hdr(void *opaque, unsigned len)
{
    struct fdpeer *p = opaque;
    int n = (int)len;

    if (!((struct tap *)p->owner)->vnet_hdr || ioctl(p->fd, TUNSETVNETHDRSZ, &n) < 0)
        return false;
    p->peer->vnet_hdr_len = len;
    return true;
}

static bool tap_set_offload(void *opaque, unsigned flags)
{
    struct fdpeer *p = opaque;
    unsigned f = flags & NET_OFF_CSUM ? TUN_F_CSUM : 0;

    if (f)
        f |= (flags & NET_OFF_TSO4 ? TUN_F_TSO4 : 0u) | (flags & NET_OFF_TSO6 ? TUN_F_TSO6 : 0u) |
             ((flags & (NET_OFF_TSO4 | NET_OFF_TSO6)) && (flags & NET_OFF_ECN) ? TUN_F_TSO_ECN : 0u);
    return ((struct tap *)p->owner)->vnet_hdr && ioctl(p->fd, TUNSETOFFLOAD, f) == 0;
}

static const struct net_ops tap_ops = {FDPEER_OPS("tap")};
static const struct net_ops tap_hdr_ops = {FDPEER_OPS("tap"), .set_vnet_hdr = tap_set_vnet_hdr,
                                           .set_offload = tap_set_offload};
static const struct fdpeer_kind tap_kind = {&tap_ops, tap_send, dgram_readable, NULL, tap_release};
static const struct fdpeer_kind tap_hdr_kind = {&tap_hdr_ops, tap_send, dgram_readable, NULL, tap_release};

/* ---- opening ---- */

/* /dev/net/tun with the name wanted ("" = the kernel's choice); name receives what it became. -1 on failure. */
static int tap_open(char name[IFNAMSIZ], bool *vnet_hdr, bool must_hdr, struct err **errp)
{
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    unsigned have = 0;
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        err_set_errno(errp, errno, "netdev 'tap': cannot open /dev/net/tun");
        return -1;
    }
    if (*vnet_hdr && ioctl(fd, TUNGETFEATURES, &have) == 0 && (have & IFF_VNET_HDR))
        r.ifr_flags |= IFF_VNET_HDR;
    else if (must_hdr) {
        err_set(errp, "netdev 'tap': vnet_hdr=on, but the kernel does not offer it");
        close(fd);
        return -1;
    }
    *vnet_hdr = r.ifr_flags & IFF_VNET_HDR;
    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", *name ? name : "tap%d");
    if (ioctl(fd, TUNSETIFF, &r) < 0) {
        err_set_errno(errp, errno, "netdev 'tap': cannot set up the interface '%s'", *name ? name : "tap%d");
        if (errno == EPERM || errno == EACCES)
            err_hint(errp, "Make it beforehand (ip tuntap add mode tap user $USER name tap0), or use -netdev user.");
        close(fd);
        return -1;
    }
    memcpy(name, r.ifr_name, IFNAMSIZ);
    return fd;
}

/* A descriptor that is a TAP already. */
static bool tap_probe(int fd, char name[IFNAMSIZ], bool *vnet_hdr, struct err **errp)
{
    struct ifreq r = {0};

    if (ioctl(fd, TUNGETIFF, &r) < 0)
        return err_set_errno(errp, errno, "fd=%d is no TAP device", fd);
    *vnet_hdr = r.ifr_flags & IFF_VNET_HDR;
    memcpy(name, r.ifr_name, IFNAMSIZ);
    return true;
}

static int receive_fd(int sock)
{
    char byte, ctl[CMSG_SPACE(sizeof(int))];
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof ctl};
    ssize_t n;
    int fd = -1;

    do
        n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    for (struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL; c; c = CMSG_NXTHDR(&m, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len >= CMSG_LEN(sizeof fd))
            memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

/* Runs the helper for a bridge; it sends the descriptor and ends. -1 on failure. */
static int ask_helper(const char *helper, const char *br, struct err **errp)
{
    AUTOFREE char *bridge = xasprintf("--br=%s", br), *fdarg = NULL;
    int sv[2], st = 0, fd, e;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0) {
        err_set_errno(errp, errno, "netdev 'bridge': cannot talk to the helper");
        return -1;
    }
    fcntl(sv[1], F_SETFD, 0); /* the helper inherits this end */
    fdarg = xasprintf("--fd=%d", sv[1]);
    char *argv[] = {(char *)(uintptr_t)helper, (char *)(uintptr_t) "--use-vnet", fdarg, bridge, NULL};
    e = posix_spawn(&pid, helper, NULL, NULL, argv, environ);
    close(sv[1]);
    if (e) {
        close(sv[0]);
        err_set_errno(errp, e, "netdev 'bridge': cannot run the helper %s", helper);
        err_hint(errp, "Install it, or name another one with helper=PATH.");
        return -1;
    }
    fd = receive_fd(sv[0]);
    close(sv[0]);
    while (waitpid(pid, &st, 0) < 0 && errno == EINTR)
        ;
    if (fd < 0 || !WIFEXITED(st) || WEXITSTATUS(st)) {
        if (fd >= 0)
            close(fd);
        err_set(errp, "netdev 'bridge': the helper %s gave no device on bridge '%s'", helper, br);
        err_hint(
            errp,
            "It says why above; the bridge must exist, be allowed in /etc/qemu/bridge.conf, and the helper must be "
            "setuid root or have cap_net_admin.");
        return -1;
    }
    return fd;
}

/* ---- back ends ---- */

static struct net_peer *tap_start(struct net_set *set, const char *id, int fd, const char *ifname, bool vnet_hdr)
{
    struct tap *t = xnew(struct tap);

    snprintf(t->ifname, sizeof t->ifname, "%s", ifname);
    t->vnet_hdr = vnet_hdr;
    t->p = fdpeer_new(set, id, vnet_hdr ? &tap_hdr_kind : &tap_kind, t);
    fdpeer_open(t->p, fd);
    if (vnet_hdr) {
        tap_set_vnet_hdr(t->p, VNET_HDR);
        tap_set_offload(t->p, 0);
    }
    fdpeer_set_info(t->p, "ifname=%s", ifname);
    return t->p->peer;
}

static bool vhost_option(struct opts *o, struct err **errp)
{
    bool on = false, force = false;

    if (!opts_bool(o, "vhost", &on, errp) || !opts_bool(o, "vhostforce", &force, errp))
        return false;
    if (opts_get(o, "vhostfd") || opts_get(o, "vhostfds"))
        return err_set(errp,
                       "netdev 'tap': vhostfd= needs the kernel's vhost-net, which is not used here; leave it out");
    if (force)
        return err_set(errp, "netdev 'tap': vhostforce=on cannot be honoured: vhost-net is not used here");
    if (on)
        warn_report("netdev 'tap': vhost=on: vhost-net is not used, frames go through the plain TAP device");
    return true;
}

static bool one_queue(struct opts *o, struct err **errp)
{
    uint64_t n = 1;

    if (opts_get(o, "fds"))
        return err_set(errp, "netdev 'tap': fds= (several queues) is not offered; pass one with fd=");
    if (!opts_u64(o, "queues", &n, errp))
        return false;
    return n == 1 ||
           err_set(errp, "netdev 'tap': queues=%" PRIu64 " is not offered; a TAP device has one queue here", n);
}

static struct net_peer *tap_with_name(struct net_set *set, const char *id, struct opts *o, bool hdr, bool must,
                                      struct err **errp)
{
    const char *ifname = opts_get(o, "ifname"), *up = opts_get(o, "script"), *down = opts_get(o, "downscript");
    char name[IFNAMSIZ] = "";
    struct net_peer *p;
    int fd;

    if (ifname && strlen(ifname) >= IFNAMSIZ)
        return err_set(errp, "netdev 'tap': ifname=%s is longer than %d characters", ifname, IFNAMSIZ - 1), NULL;
    if (ifname)
        strcpy(name, ifname);
    up = up ? up : DEFAULT_UP;
    down = down ? down : DEFAULT_DOWN;
    if ((fd = tap_open(name, &hdr, must, errp)) < 0)
        return NULL;
    if (strcmp(up, "no") && *up && !run_script(up, name, errp)) {
        close(fd);
        return NULL;
    }
    p = tap_start(set, id, fd, name, hdr);
    if (strcmp(down, "no") && *down && (opts_get(o, "downscript") || access(down, X_OK) == 0))
        ((struct tap *)((struct fdpeer *)p->opaque)->owner)->down = xstrdup(down);
    return p;
}

static struct net_peer *bridge_start(struct net_set *set, const char *id, struct opts *o, const char *helper,
                                     struct err **errp)
{
    const char *br = opts_get(o, "br");
    char name[IFNAMSIZ];
    bool hdr;
    int fd = ask_helper(helper ? helper : DEFAULT_HELPER, br ? br : "br0", errp);

    if (fd < 0)
        return NULL;
    if (!tap_probe(fd, name, &hdr, errp)) {
        close(fd);
        return NULL;
    }
    return tap_start(set, id, fd, name, hdr);
}

static struct net_peer *tap_create(struct net_set *set, const char *id, struct opts *o, struct err **errp)
{
    const char *fdtext = opts_get(o, "fd"), *helper = opts_get(o, "helper");
    bool hdr = true, hdr_set = opts_peek(o, "vnet_hdr");
    char name[IFNAMSIZ];
    uint64_t sndbuf = 0, poll_us = 0;

    if (!vhost_option(o, errp) || !one_queue(o, errp) || !opts_bool(o, "vnet_hdr", &hdr, errp) ||
        !opts_size(o, "sndbuf", &sndbuf, errp) || !opts_u64(o, "poll-us", &poll_us, errp))
        return NULL;
    if (sndbuf || poll_us)
        return err_set(errp, "netdev 'tap': %s is not offered; leave it out", sndbuf ? "sndbuf=" : "poll-us="), NULL;
    if (fdtext || helper) {
        if (opts_peek(o, "ifname") || opts_peek(o, "script") || opts_peek(o, "downscript") || hdr_set)
            return err_set(errp,
                           "netdev 'tap': ifname=, script=, downscript= and vnet_hdr= do not go with fd= or helper="),
                   NULL;
    }
    if (fdtext) {
        int fd = net_fd_parse(fdtext, false, errp);
        return fd >= 0 && tap_probe(fd, name, &hdr, errp) ? tap_start(set, id, fd, name, hdr) : NULL;
    }
    if (helper)
        return bridge_start(set, id, o, helper, errp);
    return tap_with_name(set, id, o, hdr, hdr_set && hdr, errp);
}
static const char *const tap_keys[] = {"ifname", "script",   "downscript", "fd",      "fds",      "helper",
                                       "br",     "vnet_hdr", "vhost",      "vhostfd", "vhostfds", "vhostforce",
                                       "queues", "sndbuf",   "poll-us",    NULL};
static const struct net_backend tap_backend = {"tap", "TAP device of the host", tap_keys, tap_create};
NET_REGISTER(tap_backend)

static struct net_peer *bridge_create(struct net_set *set, const char *id, struct opts *o, struct err **errp)
{
    return bridge_start(set, id, o, opts_get(o, "helper"), errp);
}
static const char *const bridge_keys[] = {"br", "helper", NULL};
static const struct net_backend bridge_backend = {"bridge", "TAP device on a bridge, made by the bridge helper",
                                                  bridge_keys, bridge_create};
NET_REGISTER(bridge_backend)
