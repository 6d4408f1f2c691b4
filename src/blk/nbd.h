/* Network block device protocol, after the NBD project's proto.md (fixed newstyle negotiation, simple and structured
 * replies, contexts base:allocation, qemu:allocation-depth and qemu:dirty-bitmap, STARTTLS). Constants, socket helpers
 * for fibres, and the server. */
#ifndef BLK_NBD_H
#define BLK_NBD_H

#include "blk/nbd_tls.h"
#include "blk/node.h"

#define NBD_MAGIC                  UINT64_C(0x4e42444d41474943) /* NBDMAGIC */
#define NBD_OPT_MAGIC              UINT64_C(0x49484156454f5054) /* IHAVEOPT */
#define NBD_REP_MAGIC              UINT64_C(0x0003e889045565a9)
#define NBD_REQ_MAGIC              0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC     0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu
enum {
    NBD_FLAG_FIXED_NEWSTYLE = 1,
    NBD_FLAG_NO_ZEROES = 2,
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT,
    NBD_OPT_LIST,
    NBD_OPT_PEEK,
    NBD_OPT_STARTTLS,
    NBD_OPT_INFO,
    NBD_OPT_GO,
    NBD_OPT_STRUCTURED_REPLY,
    NBD_OPT_LIST_META_CONTEXT,
    NBD_OPT_SET_META_CONTEXT,
    NBD_REP_ACK = 1,
    NBD_REP_SERVER,
    NBD_REP_INFO,
    NBD_REP_META_CONTEXT,
    NBD_INFO_EXPORT = 0,
    NBD_INFO_NAME,
    NBD_INFO_DESCRIPTION,
    NBD_INFO_BLOCK_SIZE,
    NBD_TF_HAS_FLAGS = 1,
    NBD_TF_READ_ONLY = 2,
    NBD_TF_SEND_FLUSH = 4,
    NBD_TF_SEND_FUA = 8,
    NBD_TF_ROTATIONAL = 16,
    NBD_TF_SEND_TRIM = 32,
    NBD_TF_SEND_WRITE_ZEROES = 64,
    NBD_TF_SEND_DF = 128,
    NBD_TF_CAN_MULTI_CONN = 256,
    NBD_TF_SEND_FAST_ZERO = 2048,
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE,
    NBD_CMD_DISC,
    NBD_CMD_FLUSH,
    NBD_CMD_TRIM,
    NBD_CMD_CACHE,
    NBD_CMD_WRITE_ZEROES,
    NBD_CMD_BLOCK_STATUS,
    NBD_CMD_FLAG_FUA = 1,
    NBD_CMD_FLAG_NO_HOLE = 2,
    NBD_CMD_FLAG_DF = 4,
    NBD_CMD_FLAG_REQ_ONE = 8,
    NBD_CMD_FLAG_FAST_ZERO = 16,
    NBD_REPLY_FLAG_DONE = 1,
    NBD_REPLY_TYPE_NONE = 0,
    NBD_REPLY_TYPE_OFFSET_DATA,
    NBD_REPLY_TYPE_OFFSET_HOLE,
    NBD_REPLY_TYPE_BLOCK_STATUS = 5,
    NBD_REPLY_TYPE_ERROR = 0x8001,
    NBD_STATE_HOLE = 1,
    NBD_STATE_ZERO = 2,
    NBD_MAX_BUFFER = 32 << 20,
    NBD_MAX_NAME = 4096,
    NBD_DEFAULT_PORT = 10809,
};
#define NBD_REP_ERR(n) (0x80000000u + (n)) /* 1 unsup, 2 policy, 3 invalid, 6 unknown, 9 too big */

/* A non-blocking socket a fibre reads and another writes; each waits for readiness by suspending. */
struct nbd_sock {
    int fd; /* owned */
    struct blk_set *set;
    struct ev_fd *watch;
    struct fibre *reader, *writer; /* suspended in recv / send */
    bool broken;
    unsigned waits;      /* how often a fibre was suspended here */
    struct nbd_tls *tls; /* owned; NULL = in the clear */
};
void nbd_sock_init(struct nbd_sock *s, struct blk_set *set, int fd);
/* TLS from here on; suspends during the handshake. 0 or -errno. */
int nbd_sock_start_tls(struct nbd_sock *s, struct nbd_creds *c);
void nbd_sock_close(struct nbd_sock *s);                 /* nobody may be suspended in it: see nbd_sock_shutdown */
void nbd_sock_shutdown(struct nbd_sock *s);              /* wakes both with -EPIPE */
int nbd_recv(struct nbd_sock *s, void *buf, size_t len); /* all of it, or -errno */
/* At least min (or -errno), at most max of what is there: how many. */
int nbd_recv_some(struct nbd_sock *s, void *buf, size_t min, size_t max);
int nbd_recv_iov(struct nbd_sock *s, const struct iov *q, uint64_t qoff, uint64_t len);
int nbd_send(struct nbd_sock *s, struct iovec *v, unsigned nr); /* changes v */
/* As nbd_send, and says that more follows at once. */
int nbd_send_head(struct nbd_sock *s, void *head, size_t len);
/* Sends bytes of a file without copying them, as many as there is room for: how many, 0 at the end of the file, or
 * -errno. -EAGAIN: has waited, and there is room now. Not with TLS. */
int64_t nbd_send_file(struct nbd_sock *s, int fd, uint64_t off, uint64_t len);
uint32_t nbd_errno_to_wire(int err);
int nbd_errno_from_wire(uint32_t v); /* positive errno */

/* "host:port", "unix:path" or an option list; connected or listening socket, -1 with an error. */
struct nbd_addr {
    char *path; /* UNIX socket, else host and port */
    char *host, *port;
};
void nbd_addr_clear(struct nbd_addr *a);
int nbd_connect(const struct nbd_addr *a, struct err **errp);
int nbd_listen(const struct nbd_addr *a, struct err **errp);

/* ---- server ---- */
enum { NBD_MAX_BITMAPS = 60 };
struct nbd_export {
    struct list link;
    struct blk_bitmap *bitmaps[NBD_MAX_BITMAPS]; /* borrowed, busy while here; a reference to the node of each */
    unsigned nr_bitmaps;
    bool depth;             /* offers qemu:allocation-depth */
    char *name, *desc;      /* owned; desc may be NULL */
    char *id;               /* owned: for block-export-del, NULL = the name */
    struct blk_child *root; /* owned */
    bool readonly, shared;
};
struct nbd_server {
    struct blk_set *set;
    struct list exports, conns;
    struct ev_fd *watch;
    int listen_fd; /* owned, -1 = none */
    unsigned max_conns, nr_conns, total_conns;
    struct nbd_creds *creds;       /* borrowed: clients must start TLS; NULL = no TLS */
    char *unix_path;               /* owned: removed at the end */
    void (*on_idle)(void *opaque); /* the last connection went away; may be NULL */
    void *opaque;
};
struct nbd_server *nbd_server_new(struct blk_set *set, int listen_fd /* taken over */, unsigned max_conns);
/* NULL: none. A reference is held until the server goes. */
void nbd_server_set_creds(struct nbd_server *s, struct nbd_creds *c);
void nbd_server_free(struct nbd_server *s);
struct nbd_export *nbd_export_add(struct nbd_server *s, const char *name, const char *desc, struct blk_node *n,
                                  bool writable, struct err **errp);
/* Clients may ask what this bitmap says (qemu:dirty-bitmap:NAME). node NULL: it is sought in the export's chain. */
bool nbd_export_add_bitmap(struct nbd_export *e, struct blk_node *node, const char *name, struct err **errp);
void nbd_export_remove(struct nbd_server *s, struct nbd_export *e);
/* A connected socket whose peer is past negotiation (the kernel's client), served with the first export. */
void nbd_server_adopt(struct nbd_server *s, int fd);
unsigned nbd_export_flags(const struct nbd_export *e);

/* What a client learnt about an export; list prints with it. */
struct nbd_info {
    char *name, *desc;
    uint64_t size;
    unsigned flags;
    uint32_t min, pref, max;
    char **contexts; /* what it says of blocks besides data */
    unsigned nr_contexts;
};
/* Blocking; count or -1. creds: NULL = in the clear. */
int nbd_client_list(const struct nbd_addr *a, struct nbd_creds *creds, const char *hostname, struct nbd_info **out,
                    struct err **errp);

#endif
