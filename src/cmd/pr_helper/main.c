/* qemu-pr-helper: runs SCSI persistent-reservation commands (SPC-4, 6.16 and 6.17) for programs that may not.
 *
 * Protocol on a UNIX stream socket, numbers big-endian: the helper sends its feature bits (4 bytes, none are defined),
 * the client those it takes. Then for each command: 16 bytes of CDB with one descriptor of the device as ancillary
 * data, and for PERSISTENT RESERVE OUT its parameter list. The answer: SCSI status (4), length of data (4), sense (96),
 * data. One process for each client; a client that says anything else is hung up on. Nothing but the two commands is
 * ever passed to a device. Left out: multipath devices (each path must be given by itself), tracing. */
#include "base/bytes.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <pwd.h>
#include <scsi/sg.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CDB_LEN = 16, SENSE_LEN = 96, HEAD_LEN = 8 + SENSE_LEN, MAX_DATA = 8192, MAX_CLIENTS = 64, TIMEOUT_MS = 20000 };
enum { PR_IN = 0x5e, PR_OUT = 0x5f, ST_GOOD = 0, ST_CHECK_CONDITION = 2 };
enum { KEY_ILLEGAL_REQUEST = 5, KEY_ABORTED = 11, ASC_INVALID_OPCODE = 0x20, ASC_INVALID_FIELD = 0x24 };

static struct {
    const char *path, *pidfile, *user, *group;
    bool daemon;
    volatile sig_atomic_t stop;
} g = {.path = "/var/run/qemu-pr-helper.sock"};

static int fail(int errnum, const char *what)
{
    fprintf(stderr, errnum ? "qemu-pr-helper: %s: %s\n" : "qemu-pr-helper: %s\n", what, strerror(errnum));
    return 1;
}

/* ---- one client ---- */

static bool all(int fd, void *buf, size_t len, bool out)
{
    char *p = buf;

    while (len) {
        ssize_t n = out ? send(fd, p, len, MSG_NOSIGNAL) : recv(fd, p, len, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

/* The CDB; *dev: the one descriptor that came with it, the caller's to close. */
static bool recv_cdb(int fd, uint8_t *cdb, int *dev)
{
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } c;
    struct iovec v = {cdb, CDB_LEN};
    struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c.room, .msg_controllen = sizeof c.room};
    ssize_t n;

    *dev = -1;
    while ((n = recvmsg(fd, &h, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
        ;
    if (n <= 0)
        return false;
    for (struct cmsghdr *m = CMSG_FIRSTHDR(&h); m; m = CMSG_NXTHDR(&h, m))
        if (m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_RIGHTS && m->cmsg_len == CMSG_LEN(sizeof(int)))
            memcpy(dev, CMSG_DATA(m), sizeof *dev);
    return *dev >= 0 && !(h.msg_flags & MSG_CTRUNC) && all(fd, cdb + n, CDB_LEN - (size_t)n, false);
}

static int sense(uint8_t *s, uint8_t key, uint8_t asc)
{
    s[0] = 0x70; /* fixed format, current */
    s[2] = key;
    s[7] = 10;
    s[12] = asc;
    return ST_CHECK_CONDITION;
}

/* *len: of the data on the way in, what came on the way out (0 unless the status is good and it was a read). */
static int run_command(int dev, uint8_t *cdb, uint8_t *data, uint32_t *len, uint8_t *s)
{
    bool in = cdb[0] == PR_IN;
    struct sg_io_hdr io = {.interface_id = 'S',
                           .cmd_len = CDB_LEN,
                           .cmdp = cdb,
                           .mx_sb_len = SENSE_LEN,
                           .sbp = s,
                           .timeout = TIMEOUT_MS,
                           .dxfer_direction = !*len ? SG_DXFER_NONE
                                              : in  ? SG_DXFER_FROM_DEV
                                                    : SG_DXFER_TO_DEV,
                           .dxferp = data,
                           .dxfer_len = *len};

    *len = 0;
    if (ioctl(dev, SG_IO, &io) < 0 || io.host_status)
        return sense(s, KEY_ABORTED, 0);
    if (io.status == ST_GOOD && !(io.driver_status & 0xf)) {
        *len = in && io.resid >= 0 && (unsigned)io.resid <= io.dxfer_len ? io.dxfer_len - (unsigned)io.resid : 0;
        return ST_GOOD;
    }
    return io.status ? io.status : sense(s, KEY_ABORTED, 0);
}

static bool serve_one(int fd)
{
    uint8_t cdb[CDB_LEN], *answer = xcalloc(1, HEAD_LEN + MAX_DATA), *data = answer + HEAD_LEN;
    int dev, status;
    uint32_t len = 0;
    bool ok = recv_cdb(fd, cdb, &dev), in = ok && cdb[0] == PR_IN;

    if (ok && in)
        len = get_be16(cdb + 7);
    else if (ok && cdb[0] == PR_OUT)
        len = get_be32(cdb + 5);
    ok = ok && (in || len <= MAX_DATA) && (in || all(fd, data, len, false));
    if (ok) {
        if (!in && cdb[0] != PR_OUT)
            status = sense(answer + 8, KEY_ILLEGAL_REQUEST, ASC_INVALID_OPCODE);
        else if (len > MAX_DATA)
            status = sense(answer + 8, KEY_ILLEGAL_REQUEST, ASC_INVALID_FIELD);
        else
            status = run_command(dev, cdb, data, &len, answer + 8);
        len = status == ST_GOOD && in ? len : 0;
        put_be32(answer, (uint32_t)status);
        put_be32(answer + 4, len);
        ok = all(fd, answer, HEAD_LEN + len, true);
    }
    if (dev >= 0)
        close(dev);
    free(answer);
    return ok;
}

static void serve(int fd)
{
    uint8_t features[4] = {0};

    if (all(fd, features, 4, true) && all(fd, features, 4, false) && !get_be32(features))
        while (serve_one(fd))
            ;
    _exit(0);
}

/* ---- privileges ---- */

static int drop(void)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2] = {{.effective = 1u << CAP_SYS_RAWIO, .permitted = 1u << CAP_SYS_RAWIO}};
    struct passwd *u = g.user ? getpwnam(g.user) : NULL;
    struct group *gr = g.group ? getgrnam(g.group) : NULL;

    if (g.user && !u)
        return fail(0, "unknown user");
    if (g.group && !gr)
        return fail(0, "unknown group");
    if (geteuid())
        return g.user || g.group ? fail(0, "only root can change user and group") : 0;
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || ((u || gr) && setgroups(0, NULL) < 0) ||
        ((u || gr) && setgid(gr ? gr->gr_gid : u->pw_gid) < 0) || (u && setuid(u->pw_uid) < 0))
        return fail(errno, "cannot change user and group");
    if (syscall(SYS_capset, &h, d) < 0) /* sending reservation commands needs this one and no other */
        return fail(errno, "cannot give up capabilities");
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return 0;
}

/* ---- life ---- */

static void on_signal(int sig)
{
    g.stop = 1;
}

static int listen_at(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    int fd;

    if (pid && fds && atoi(pid) == getpid() && atoi(fds) == 1) {
        g.path = NULL;
        return 3; /* socket activation by the service manager */
    }
    if (strlen(g.path) >= sizeof a.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(a.sun_path, g.path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(g.path);
    return fd >= 0 && !bind(fd, (struct sockaddr *)&a, sizeof a) && !listen(fd, 16) ? fd : -1;
}

static int write_pid(void)
{
    int fd = open(g.pidfile, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    bool ok = fd >= 0 && dprintf(fd, "%d\n", (int)getpid()) > 0;

    if (fd >= 0)
        close(fd);
    return ok ? 0 : fail(errno, g.pidfile);
}

static void accept_clients(int fd)
{
    unsigned clients = 0;

    while (!g.stop) {
        struct pollfd p = {fd, clients < MAX_CLIENTS ? POLLIN : 0, 0};
        int peer = poll(&p, 1, clients ? 200 : -1) > 0 ? accept4(fd, NULL, NULL, SOCK_CLOEXEC) : -1;
        pid_t child = peer >= 0 ? fork() : -1;

        if (!child) {
            close(fd);
            signal(SIGTERM, SIG_DFL);
            signal(SIGINT, SIG_DFL);
            prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
            serve(peer);
        }
        clients += child > 0;
        if (peer >= 0)
            close(peer);
        while (clients && waitpid(-1, NULL, WNOHANG) > 0)
            clients--;
    }
}

static const char usage[] = "Usage: qemu-pr-helper [OPTIONS] FILE\nPersistent Reservation helper program for QEMU\n\n"
                            "  -h, --help                display this help and exit\n"
                            "  -V, --version             output version information and exit\n\n"
                            "  -d, --daemon              run in the background\n"
                            "  -f, --pidfile=PATH        PID file when running as a daemon\n"
                            "                            (default '/var/run/qemu-pr-helper.pid')\n"
                            "  -k, --socket=PATH         path to the unix socket\n"
                            "                            (default '/var/run/qemu-pr-helper.sock')\n"
                            "  -u, --user=USER           user to drop privileges to\n"
                            "  -g, --group=GROUP         group to drop privileges to\n";
static const struct option longs[] = {
    {"help", no_argument, 0, 'h'},          {"version", no_argument, 0, 'V'},      {"daemon", no_argument, 0, 'd'},
    {"pidfile", required_argument, 0, 'f'}, {"socket", required_argument, 0, 'k'}, {"user", required_argument, 0, 'u'},
    {"group", required_argument, 0, 'g'},   {"trace", required_argument, 0, 'T'},  {0}};

/* <0: go on; else the exit status. */
static int parse(int argc, char **argv)
{
    int c;

    while ((c = getopt_long(argc, argv, "hVdf:k:u:g:T:", longs, NULL)) != -1)
        switch (c) {
        case 'h':
            fputs(usage, stdout);
            return 0;
        case 'V':
            printf("qemu-pr-helper 7.2.0 (Lyrebird " LYREBIRD_VERSION ")\n");
            return 0;
        case 'd':
            g.daemon = true;
            break;
        case 'f':
            g.pidfile = optarg;
            break;
        case 'k':
            g.path = optarg;
            break;
        case 'u':
            g.user = optarg;
            break;
        case 'g':
            g.group = optarg;
            break;
        case 'T':
            return fail(0, "--trace is not available in this program");
        default:
            fprintf(stderr, "Try `qemu-pr-helper --help' for more information.\n");
            return 1;
        }
    return optind < argc ? fail(0, "Unexpected argument") : -1;
}

int main(int argc, char **argv)
{
    struct sigaction sa = {.sa_handler = on_signal}; /* without SA_RESTART: poll ends */
    int r = parse(argc, argv), fd;

    if (r >= 0)
        return r;
    fd = listen_at();
    if (fd < 0)
        return fail(errno, g.path);
    if (g.daemon && daemon(0, 0) < 0)
        return fail(errno, "cannot run in the background");
    if (g.daemon && !g.pidfile)
        g.pidfile = "/var/run/qemu-pr-helper.pid";
    if ((g.pidfile && write_pid()) || drop())
        return 1;
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    accept_clients(fd);
    if (g.path)
        unlink(g.path);
    if (g.pidfile)
        unlink(g.pidfile);
    return 0;
}
