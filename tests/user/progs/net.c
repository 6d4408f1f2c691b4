/* Sockets: options, control messages, many messages at once, netlink, packet counters and the ioctls of interfaces. */
#include "said.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>

static void local(void)
{
    struct {
        struct cmsghdr h;
        char room[200];
    } c;
    struct ucred cred = {0};
    char buf[32] = "", text[] = "with a descriptor";
    struct iovec v = {text, sizeof text}, in = {buf, sizeof buf};
    struct msghdr m = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = CMSG_SPACE(2 * sizeof(int))};
    int s[2], p[2], one = 1, n = 0, got[2];
    socklen_t len = sizeof cred;

    SAY(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
    pipe(p);
    memset(&c, 0, sizeof c);
    c.h.cmsg_level = SOL_SOCKET;
    c.h.cmsg_type = SCM_RIGHTS;
    c.h.cmsg_len = CMSG_LEN(2 * sizeof(int));
    memcpy(CMSG_DATA(&c.h), p, sizeof p);
    SAY(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
    SAY(setsockopt(s[1], SOL_SOCKET, SO_TIMESTAMP, &one, sizeof one));
    SAY(sendmsg(s[0], &m, 0));
    m.msg_iov = &in;
    m.msg_controllen = sizeof c;
    memset(&c, 0, sizeof c);
    SAY(recvmsg(s[1], &m, MSG_CMSG_CLOEXEC));
    printf("%s flags %x\n", buf, m.msg_flags & ~MSG_CMSG_CLOEXEC);
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
        if (h->cmsg_type == SCM_RIGHTS) {
            memcpy(got, CMSG_DATA(h), sizeof got);
            printf("rights %d\n", (int)(h->cmsg_len - CMSG_LEN(0)));
            write(got[1], "through", 8);
            memset(buf, 0, sizeof buf);
            read(p[0], buf, 8);
            printf("%s cloexec %d\n", buf, fcntl(got[0], F_GETFD));
        } else if (h->cmsg_type == SCM_CREDENTIALS) {
            memcpy(&cred, CMSG_DATA(h), sizeof cred);
            printf("cred %d %d\n", cred.pid == getpid(), cred.uid == getuid());
        } else if (h->cmsg_type == SCM_TIMESTAMP) {
            struct timeval tv;

            memcpy(&tv, CMSG_DATA(h), sizeof tv);
            printf("stamp %d %d\n", (int)(h->cmsg_len - CMSG_LEN(0)) == sizeof tv, tv.tv_sec > 1600000000);
        } else {
            printf("cmsg %d\n", h->cmsg_type);
        }
        n++;
    }
    printf("cmsgs %d\n", n);
    SAY(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &cred, &len));
    printf("peer %d len %d\n", cred.pid == getpid(), (int)len);
    c.h.cmsg_len = 3;
    m.msg_controllen = CMSG_SPACE(4);
    m.msg_iov = &v;
    SAY(sendmsg(s[0], &m, 0));
}

static void many(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, from[3];
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), r = socket(AF_INET, SOCK_DGRAM, 0);
    char text[3][8] = {"one", "two", "three"}, buf[3][8];
    struct iovec v[3], w[3];
    struct mmsghdr m[3] = {0}, n[3] = {0};
    struct timespec ts = {1, 0};
    socklen_t len = sizeof a;

    SAY(bind(r, (void *)&a, sizeof a));
    SAY(getsockname(r, (void *)&a, &len));
    SAY(connect(s, (void *)&a, sizeof a));
    for (int i = 0; i < 3; i++) {
        v[i] = (struct iovec){text[i], strlen(text[i]) + 1};
        w[i] = (struct iovec){buf[i], 8};
        m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
        n[i].msg_hdr =
            (struct msghdr){.msg_iov = &w[i], .msg_iovlen = 1, .msg_name = &from[i], .msg_namelen = sizeof from[i]};
    }
    SAY(sendmmsg(s, m, 3, 0));
    SAY(m[2].msg_len);
    SAY(recvmmsg(r, n, 3, MSG_WAITFORONE, &ts));
    printf("%s %s %s %d %d\n", buf[0], buf[1], buf[2], n[2].msg_len, from[1].sin_family);
    SAY(recv(r, buf[0], 8, MSG_DONTWAIT));
    SAY(sendto(s, "big", 3, 0, (void *)&a, 4));
}

static void options(void)
{
    int s = socket(AF_INET, SOCK_STREAM, 0), l = socket(AF_INET, SOCK_STREAM, 0), c, v = 0;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct linger li = {1, 5};
    struct timeval tv = {3, 250000};
    struct tcp_info ti;
    socklen_t len = sizeof a;
    char name[16] = "";

    SAY(bind(l, (void *)&a, sizeof a));
    SAY(listen(l, 5));
    getsockname(l, (void *)&a, &len);
    SAY(connect(s, (void *)&a, sizeof a));
    SAY_IF(c = accept4(l, NULL, NULL, SOCK_NONBLOCK));
    SAY(fcntl(c, F_GETFL) & O_NONBLOCK ? 1 : 0);
    SAY(setsockopt(s, SOL_SOCKET, SO_LINGER, &li, sizeof li));
    memset(&li, 0, sizeof li);
    len = sizeof li;
    SAY(getsockopt(s, SOL_SOCKET, SO_LINGER, &li, &len));
    printf("linger %d %d\n", li.l_onoff, li.l_linger);
    SAY(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    memset(&tv, 0, sizeof tv);
    len = sizeof tv;
    SAY(getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, &len));
    printf("timeo %d.%06d %d\n", (int)tv.tv_sec, (int)tv.tv_usec, len == sizeof tv);
    tv = (struct timeval){0, 20000};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    SAY(recv(s, name, 4, 0));
    len = sizeof ti;
    SAY(getsockopt(s, IPPROTO_TCP, TCP_INFO, &ti, &len));
    SAY(ti.tcpi_state);
    v = 1;
    SAY(setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &v, sizeof v));
    SAY(setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &v, 2));
    SAY(getsockopt(s, SOL_SOCKET, 9999, &v, &len));
    len = sizeof name;
    SAY(getsockopt(s, IPPROTO_TCP, TCP_CONGESTION, name, &len));
    SAY(name[0] != 0);
    SAY(send(s, "abc", 3, MSG_MORE));
    SAY(send(s, "d", 1, 0));
    for (int i = 0; i < 1000 && !ioctl(c, FIONREAD, &v) && v < 4; i++)
        usleep(1000);
    SAY(ioctl(c, FIONREAD, &v));
    SAY(v);
    SAY(recv(c, name, 16, MSG_PEEK));
    SAY(recv(c, name, 16, MSG_TRUNC));
    SAY(shutdown(s, SHUT_WR));
    for (int i = 0; i < 1000 && recv(c, name, 16, MSG_PEEK) < 0; i++)
        usleep(1000);
    SAY(recv(c, name, 16, 0));
    SAY(send(s, "x", 1, MSG_NOSIGNAL));
    SAY(accept(s, NULL, NULL));
}

static void interfaces(void)
{
    int s = socket(AF_INET, SOCK_DGRAM, 0), found = 0;
    struct ifreq r = {.ifr_name = "lo"}, all[32];
    struct ifconf c = {.ifc_len = sizeof all, .ifc_req = all};

    SAY(ioctl(s, SIOCGIFINDEX, &r));
    SAY(r.ifr_ifindex);
    SAY(ioctl(s, SIOCGIFFLAGS, &r));
    printf("flags %d\n", !!(r.ifr_flags & IFF_LOOPBACK));
    SAY(ioctl(s, SIOCGIFMTU, &r));
    printf("mtu %d\n", r.ifr_mtu > 1000);
    SAY(ioctl(s, SIOCGIFADDR, &r));
    printf("addr %s\n", inet_ntoa(((struct sockaddr_in *)&r.ifr_addr)->sin_addr));
    SAY(ioctl(s, SIOCGIFCONF, &c));
    for (int i = 0; i < c.ifc_len / (int)sizeof *all; i++)
        found += !strcmp(all[i].ifr_name, "lo");
    SAY(found);
    strcpy(r.ifr_name, "none-such");
    SAY(ioctl(s, SIOCGIFINDEX, &r));
}

static void routes(void)
{
    struct {
        struct nlmsghdr h;
        struct ifinfomsg i;
    } req = {{sizeof req, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 7, 0}, {AF_UNSPEC}};
    struct sockaddr_nl a = {.nl_family = AF_NETLINK};
    int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), lo = 0, done = 0;
    static char buf[65536];
    socklen_t len = sizeof a;

    SAY(bind(s, (void *)&a, sizeof a));
    SAY(getsockname(s, (void *)&a, &len));
    SAY(sendto(s, &req, sizeof req, 0, NULL, 0) == sizeof req);
    while (!done) {
        int n = (int)recv(s, buf, sizeof buf, 0);

        for (struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
            struct ifinfomsg *i = NLMSG_DATA(h);

            done |= h->nlmsg_type == NLMSG_DONE;
            lo += h->nlmsg_type == RTM_NEWLINK && i->ifi_index == 1 && i->ifi_flags & IFF_LOOPBACK;
        }
        if (n < 0)
            break;
    }
    printf("netlink lo %d done %d\n", lo, done);
}

int main(void)
{
    local();
    many();
    options();
    interfaces();
    routes();
    return 0;
}
