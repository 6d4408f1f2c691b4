/* qemu-bridge-helper: makes a TAP device on a bridge for an unprivileged user and passes it over a UNIX socket.
 *
 * Runs setuid root or with cap_net_admin; gives up everything but that capability first, and the user's identity
 * decides what may be read: /etc/qemu/bridge.conf must allow the bridge ("allow NAME|all", "deny NAME|all", "include
 * FILE"; a deny always wins, nothing said means no). Prints one line and exits 1 on any failure. */
#include "base/str.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ACL_FILE "/etc/qemu/bridge.conf"
enum { MAX_INCLUDES = 16, LINE = 512 };

struct acl {
    const char *bridge;
    bool allowed, denied;
};

static NORETURN PRINTF_FMT(2, 3) void fail(int errnum, const char *fmt, ...)
{
    va_list ap;

    fputs("qemu-bridge-helper: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    if (errnum)
        fprintf(stderr, ": %s", strerror(errnum));
    fputc('\n', stderr);
    exit(1);
}

/* ---- privileges ---- */

static void keep_only_net_admin(void)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2] = {{0}};

    if (syscall(SYS_capget, &h, d) < 0)
        fail(errno, "cannot read the capabilities");
    bool have = d[0].permitted & (1u << CAP_NET_ADMIN);
    if (geteuid() != getuid()) {
        if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setresgid(getgid(), getgid(), getgid()) < 0 ||
            setresuid(getuid(), getuid(), getuid()) < 0)
            fail(errno, "cannot give up root's identity");
    }
    memset(d, 0, sizeof d);
    d[0].effective = d[0].permitted = have ? 1u << CAP_NET_ADMIN : 0;
    if (getuid() != 0 || geteuid() != 0) /* real root keeps what it has: there is nothing to protect */
        if (syscall(SYS_capset, &h, d) < 0)
            fail(errno, "cannot drop capabilities");
}

/* ---- access list ---- */

static void acl_read(struct acl *a, const char *path, unsigned depth);

/* One line: verb and argument, '#' starts a comment. */
static void acl_line(struct acl *a, const char *path, unsigned nr, char *line, unsigned depth)
{
    char *verb, *arg, *rest, *save = NULL;

    line[strcspn(line, "#\n")] = '\0';
    verb = strtok_r(line, " \t\r", &save);
    if (!verb)
        return;
    arg = strtok_r(NULL, " \t\r", &save);
    rest = strtok_r(NULL, " \t\r", &save);
    if (!arg || rest)
        fail(0, "%s line %u: expected a word and one argument", path, nr);
    bool hit = !strcmp(arg, "all") || !strcmp(arg, a->bridge);
    if (!strcmp(verb, "allow"))
        a->allowed |= hit;
    else if (!strcmp(verb, "deny"))
        a->denied |= hit;
    else if (!strcmp(verb, "include"))
        acl_read(a, arg, depth + 1);
    else
        fail(0, "%s line %u: unknown word '%s'; use allow, deny or include", path, nr, verb);
}

static void acl_read(struct acl *a, const char *path, unsigned depth)
{
    FILE *f = depth < MAX_INCLUDES ? fopen(path, "re") : NULL;
    char line[LINE];

    if (!f)
        fail(depth < MAX_INCLUDES ? errno : ELOOP, "cannot read the access list %s", path);
    for (unsigned nr = 1; fgets(line, sizeof line, f); nr++)
        acl_line(a, path, nr, line, depth);
    fclose(f);
}

/* ---- devices ---- */

static void set_name(struct ifreq *r, const char *name)
{
    memset(r, 0, sizeof *r);
    snprintf(r->ifr_name, sizeof r->ifr_name, "%s", name);
}

static int make_tap(bool vnet, char name[IFNAMSIZ])
{
    struct ifreq r;
    unsigned have = 0;
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    if (fd < 0)
        fail(errno, "cannot open /dev/net/tun");
    set_name(&r, "tap%d");
    r.ifr_flags = IFF_TAP | IFF_NO_PI;
    if (vnet && ioctl(fd, TUNGETFEATURES, &have) == 0 && (have & IFF_VNET_HDR))
        r.ifr_flags |= IFF_VNET_HDR;
    if (ioctl(fd, TUNSETIFF, &r) < 0)
        fail(errno, "cannot create a TAP device; the helper must be setuid root or have cap_net_admin");
    memcpy(name, r.ifr_name, IFNAMSIZ);
    return fd;
}

static void join_bridge(const char *tap, const char *bridge)
{
    int ctl = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct ifreq r;

    if (ctl < 0)
        fail(errno, "cannot create a control socket");
    /* The bridge takes the lowest address of its ports: a high one on the TAP leaves its own alone. */
    set_name(&r, tap);
    if (ioctl(ctl, SIOCGIFHWADDR, &r) == 0) {
        r.ifr_hwaddr.sa_data[0] = (char)0xfe;
        (void)ioctl(ctl, SIOCSIFHWADDR, &r);
    }
    set_name(&r, bridge);
    if (ioctl(ctl, SIOCGIFMTU, &r) < 0)
        fail(errno, "cannot read the MTU of bridge '%s'", bridge);
    int mtu = r.ifr_mtu;
    set_name(&r, tap);
    r.ifr_mtu = mtu;
    if (ioctl(ctl, SIOCSIFMTU, &r) < 0)
        fail(errno, "cannot set the MTU of '%s' to %d", tap, mtu);
    set_name(&r, bridge);
    r.ifr_ifindex = (int)if_nametoindex(tap);
    if (ioctl(ctl, SIOCBRADDIF, &r) < 0)
        fail(errno, "cannot add '%s' to bridge '%s'", tap, bridge);
    set_name(&r, tap);
    if (ioctl(ctl, SIOCGIFFLAGS, &r) < 0)
        fail(errno, "cannot read the state of '%s'", tap);
    r.ifr_flags |= IFF_UP;
    if (ioctl(ctl, SIOCSIFFLAGS, &r) < 0)
        fail(errno, "cannot bring '%s' up", tap);
    close(ctl);
}

static void pass_fd(int sock, int fd)
{
    char byte = 0, ctl[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof ctl};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    ssize_t n;

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    do
        n = sendmsg(sock, &m, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        fail(errno, "cannot pass the device on");
}

static NORETURN void usage(int status)
{
    fputs("Usage: qemu-bridge-helper [--use-vnet] --br=BRIDGE --fd=UNIX_SOCKET\n"
          "Makes a TAP device on BRIDGE, if " ACL_FILE " allows it, and sends it over the socket.\n",
          status ? stderr : stdout);
    exit(status);
}

int main(int argc, char **argv)
{
    struct acl a = {0};
    const char *fdtext = NULL;
    char tap[IFNAMSIZ];
    bool vnet = false;
    uint64_t sock;

    keep_only_net_admin();
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--use-vnet"))
            vnet = true;
        else if (str_starts(argv[i], "--br="))
            a.bridge = argv[i] + 5;
        else if (str_starts(argv[i], "--fd="))
            fdtext = argv[i] + 5;
        else
            usage(strcmp(argv[i], "--help") && strcmp(argv[i], "-h"));
    }
    if (!a.bridge || !fdtext)
        usage(1);
    if (!*a.bridge || strlen(a.bridge) >= IFNAMSIZ)
        fail(0, "bridge name '%s' must have 1 to %d characters", a.bridge, IFNAMSIZ - 1);
    if (!str_to_u64(fdtext, &sock) || sock > INT32_MAX || fcntl((int)sock, F_GETFD) < 0)
        fail(0, "--fd=%s is not an open descriptor", fdtext);
    acl_read(&a, ACL_FILE, 0);
    if (!a.allowed || a.denied)
        fail(0, "bridge '%s' is not allowed by " ACL_FILE, a.bridge);
    int fd = make_tap(vnet, tap);
    join_bridge(tap, a.bridge);
    pass_fd((int)sock, fd);
    return 0;
}
