/* Private to the room: peers whose other end is a file descriptor. One object serves framed streams (socket, stream),
 * datagrams (socket mcast/udp, dgram) and TAP devices; what differs is in struct fdpeer_kind. */
#ifndef NET_FDPEER_H
#define NET_FDPEER_H

#include "net/net_int.h"
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

struct fdpeer;
struct fdpeer_kind {
    const struct net_ops *ops;
    /* Sends one frame: bytes taken, 0 = blocked (called again when writable), -errno: dropped or, for streams, hung up.
     */
    ssize_t (*send)(struct fdpeer *p, const struct iov *frame);
    /* Something can be read; delivers frames while net_can_send. False: the other end is gone. */
    bool (*readable)(struct fdpeer *p);
    void (*hangup)(struct fdpeer *p);  /* may be NULL */
    void (*release)(struct fdpeer *p); /* owner's data; may be NULL */
};
struct fdpeer {
    struct net_peer *peer;
    struct net_set *set; /* borrowed */
    const struct fdpeer_kind *kind;
    int fd; /* owned, -1 = not connected */
    struct ev_fd *ev;
    struct ev_bh watch_bh; /* descriptors are watched from the loop's thread only */
    bool blocked;          /* a send waits for room */
    bool paused;           /* the peer has no room */
    bool gone;             /* to be hung up on the loop */
    uint8_t *out;          /* owned: the unsent rest of a frame */
    size_t out_len, out_off;
    uint8_t *in; /* owned: NET_MAX_FRAME + 64 bytes */
    size_t in_len;
    char *what; /* owned: for info */
    void *owner;
};
/* NULL kind->ops->receive etc.: the table of ops is fdpeer_ops with its type replaced. */
size_t fdpeer_receive(void *opaque, const struct iov *frame);
bool fdpeer_can_receive(void *opaque);
void fdpeer_send_ready(void *opaque);
char *fdpeer_info(void *opaque);
void fdpeer_cleanup(void *opaque);
#define FDPEER_OPS(t)                                                                                                  \
    .type = (t), .receive = fdpeer_receive, .can_receive = fdpeer_can_receive, .send_ready = fdpeer_send_ready,        \
    .info = fdpeer_info, .cleanup = fdpeer_cleanup

struct fdpeer *fdpeer_new(struct net_set *s, const char *id, const struct fdpeer_kind *k, void *owner);
/* Starts to use fd (made non-blocking); the peer owns it. */
void fdpeer_open(struct fdpeer *p, int fd);
void fdpeer_close(struct fdpeer *p);
void fdpeer_set_info(struct fdpeer *p, const char *fmt, ...) PRINTF_FMT(2, 3);

/* Framing for streams: 4 bytes of length, most significant first, then the frame. */
ssize_t stream_send(struct fdpeer *p, const struct iov *frame);
bool stream_readable(struct fdpeer *p);
/* One frame per datagram. */
ssize_t dgram_send(struct fdpeer *p, const struct iov *frame);
bool dgram_readable(struct fdpeer *p);

/* Addresses. */
struct net_addr {
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
        struct sockaddr_storage ss;
    };
    socklen_t len;
};
/* "host:port", ":port" (any address when passive, else loopback) or "[v6]:port". */
bool net_addr_parse(const char *text, bool passive, int socktype, struct net_addr *a, struct err **errp);
bool net_addr_make(const char *host, const char *port, bool passive, int socktype, struct net_addr *a,
                   struct err **errp);
bool net_addr_unix(const char *path, bool abstract, struct net_addr *a, struct err **errp);
char *net_addr_text(const struct net_addr *a); /* caller frees */
/* A descriptor number given on the command line: open, a socket if asked. -1 and error otherwise. */
int net_fd_parse(const char *text, bool socket, struct err **errp);
/* Connects within ten seconds; -1 and error otherwise. */
int net_connect_to(const struct net_addr *a, const char *what, struct err **errp);
int net_listen_on(const struct net_addr *a, const char *what, struct err **errp);

#endif
