/* Fuzz target of the NBD client: the input is what a server sends. The first byte chooses what the client wants: 0 mod
 * 4 a list of exports, else to open an export and work on it. Bit 7 puts a sound negotiation before the rest, so that
 * the rest is the replies, bit 6 with structured replies; their cookies are the client's own where the input says 0xcc.
 */
#include "base/bytes.h"
#include "blk/blk_int.h"
#include "blk/nbd.h"
#include "fuzz.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct {
    struct run *run;
    struct blk_set *set;
    int listener;
    char path[64];
} g;

int fuzz_err = 2;

struct script {
    uint8_t *data;
    size_t len;
};

/* Sends the script while taking whatever the client says; then the end. */
static void *server(void *opaque)
{
    struct script *s = opaque;
    int fd = accept(g.listener, NULL, NULL);
    size_t at = 0;
    uint8_t sink[4096];

    while (fd >= 0 && at < s->len) {
        struct pollfd p = {fd, POLLIN | POLLOUT, 0};
        ssize_t n;

        if (poll(&p, 1, 1000) <= 0 || p.revents & (POLLERR | POLLHUP))
            break;
        if (p.revents & POLLIN && recv(fd, sink, sizeof sink, MSG_DONTWAIT) <= 0)
            break;
        if (!(p.revents & POLLOUT))
            continue;
        n = send(fd, s->data + at, s->len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            at += (size_t)n;
    }
    if (fd >= 0) {
        shutdown(fd, SHUT_WR);
        while (recv(fd, sink, sizeof sink, 0) > 0)
            ;
        close(fd);
    }
    return NULL;
}

static void requests(void *opaque)
{
    struct blk_node *n = opaque;
    uint8_t *buf AUTOFREE = xmalloc(65536);
    uint64_t size = min_u64(n->size, 1 << 20), len = min_u64(size, 65536);
    struct blk_extent e;

    memset(buf, 1, 65536);
    blk_node_pread(n, 0, buf, min_u64(size, 512));
    blk_node_status(n, 0, n->size, &e);
    blk_node_pread(n, size - len, buf, len);
    if (!blk_node_readonly(n)) {
        blk_node_pwrite(n, 0, buf, min_u64(size, 4096));
        blk_node_zeroes(n, 0, len, BLK_MAY_UNMAP);
        blk_node_discard(n, 0, len);
    }
    blk_node_flush(n);
}

static void client(uint8_t what)
{
    struct err *e = NULL;

    if (what % 4 == 0) {
        struct nbd_addr a = {.path = g.path};
        struct nbd_info *v = NULL;
        int nr = nbd_client_list(&a, NULL, NULL, &v, &e);

        for (int i = 0; i < nr; i++) {
            free(v[i].name);
            free(v[i].desc);
        }
        if (nr >= 0)
            free(v);
    } else {
        struct opts *o = opts_new();
        struct blk_node *n;

        opts_set(o, "driver", "nbd");
        opts_set(o, "path", g.path);
        n = blk_node_open(g.set, NULL, NULL, what & 4 ? BLK_O_RDWR | BLK_O_AUTO_RO : 0, o, &e);
        if (n) {
            blk_run(g.set, requests, n);
            blk_node_unref(n);
        }
    }
    err_free(e);
}

static void start(void)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};

    g.run = run_new();
    g.set = blk_set_new(g.run);
    snprintf(g.path, sizeof g.path, "/tmp/lyrebird-fuzz-nbd.%d", (int)getpid());
    snprintf(un.sun_path, sizeof un.sun_path, "%s", g.path);
    unlink(g.path);
    g.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(g.listener, (void *)&un, sizeof un) < 0 || listen(g.listener, 4) < 0)
        abort();
}

static uint8_t *option_reply(uint8_t *p, uint32_t opt, uint32_t type, uint32_t len)
{
    put_be64(p, NBD_REP_MAGIC);
    put_be32(p + 8, opt);
    put_be32(p + 12, type);
    put_be32(p + 16, len);
    return p + 20;
}

static size_t negotiation(uint8_t *b, bool structured)
{
    uint8_t *p = b;

    put_be64(p, NBD_MAGIC);
    put_be64(p + 8, NBD_OPT_MAGIC);
    put_be16(p + 16, 3);
    p += 18;
    p = option_reply(p, NBD_OPT_STRUCTURED_REPLY, structured ? NBD_REP_ACK : NBD_REP_ERR(1), 0);
    if (structured) {
        p = option_reply(p, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, 19);
        put_be32(p, 1);
        memcpy(p + 4, "base:allocation", 15);
        p = option_reply(p + 19, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, 0);
    }
    p = option_reply(p, NBD_OPT_GO, NBD_REP_INFO, 12);
    put_be16(p, NBD_INFO_EXPORT);
    put_be64(p + 2, 1 << 20);
    put_be16(p + 10, 0x6d);
    return (size_t)(option_reply(p + 12, NBD_OPT_GO, NBD_REP_ACK, 0) - b);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    start();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct bytes in = {data, len};
    struct script s = {xmalloc(len + 256), 0};
    uint8_t what = take8(&in);
    pthread_t t;

    if (what & 0x80)
        s.len = negotiation(s.data, what & 0x40);
    memcpy(s.data + s.len, in.p, in.left);
    s.len += in.left;
    if (!pthread_create(&t, NULL, server, &s)) {
        client(what);
        pthread_join(t, NULL);
    }
    free(s.data);
    return 0;
}

/* One read as data, one status, one read as a hole, then simple replies. */
static size_t structured_seed(uint8_t *buf)
{
    static const uint16_t type[3] = {NBD_REPLY_TYPE_OFFSET_DATA, NBD_REPLY_TYPE_BLOCK_STATUS,
                                     NBD_REPLY_TYPE_OFFSET_HOLE};
    static const uint32_t len[3] = {8 + 512, 12, 12};
    size_t n = 1;

    memset(buf, 0, 2048);
    buf[0] = 0xc5;
    for (unsigned k = 0; k < 3; k++) {
        uint8_t *p = buf + n;

        put_be32(p, NBD_STRUCTURED_REPLY_MAGIC);
        put_be16(p + 4, NBD_REPLY_FLAG_DONE);
        put_be16(p + 6, type[k]);
        put_be64(p + 8, k + 1);
        put_be32(p + 16, len[k]);
        if (k == 1) {
            put_be32(p + 20, 1);
            put_be32(p + 24, 4096);
            put_be32(p + 28, 3);
        } else if (k == 2) {
            put_be64(p + 20, (1 << 20) - 65536);
            put_be32(p + 28, 65536);
        }
        n += 20 + len[k];
    }
    for (unsigned k = 4; k <= 7; k++, n += 16) {
        put_be32(buf + n, NBD_SIMPLE_REPLY_MAGIC);
        put_be64(buf + n + 8, k);
    }
    return n;
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t max)
{
    size_t n = 0;

    if (i > 4 || max < 4096)
        return 0;
    if (i == 4)
        return structured_seed(buf);
    buf[n++] = i == 0 ? 4 : i == 1 ? 1 : 0x85;
    if (i < 2) {
        n += negotiation(buf + 1, false);
        if (!i) { /* LIST: one export, then its description */
            n = 1 + 18;
            for (unsigned k = 0; k < 4; k++) {
                static const uint8_t opt[4] = {NBD_OPT_LIST, NBD_OPT_LIST, NBD_OPT_INFO, NBD_OPT_INFO};
                static const uint8_t rep[4] = {NBD_REP_SERVER, NBD_REP_ACK, NBD_REP_INFO, NBD_REP_ACK};
                static const uint8_t dl[4] = {12, 0, 12, 0};
                uint8_t *p = buf + n;

                memset(p, 0, 32);
                put_be64(p, NBD_REP_MAGIC);
                put_be32(p + 8, opt[k]);
                put_be32(p + 12, rep[k]);
                put_be32(p + 16, dl[k]);
                if (!k) {
                    put_be32(p + 20, 4);
                    memcpy(p + 24, "nametext", 8);
                } else if (k == 2) {
                    put_be64(p + 22, 1 << 20);
                }
                n += 20u + dl[k];
            }
        }
        return n;
    }
    for (unsigned k = 1; k <= 6; k++) { /* replies in order; i == 3: the second is an error */
        put_be32(buf + n, NBD_SIMPLE_REPLY_MAGIC);
        put_be32(buf + n + 4, i == 3 && k == 2 ? 5 : 0);
        put_be64(buf + n + 8, k);
        n += 16;
        if (k == 1)
            n += 512;
    }
    return n;
}
