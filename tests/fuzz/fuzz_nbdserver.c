/* Fuzz target of the NBD server: the input is what a client does. Bit 0 of the first byte: it begins with a sound
 * negotiation, bit 1 with structured replies and base:allocation and a bitmap, bit 2: the export is read-only. Then
 * commands, each a byte (mod 4) with its arguments: 0 any bytes, 1 a request, 2 an option, 3 time passes.
 * Client and server run in one thread in turn. */
#include "base/bytes.h"
#include "blk/blk_int.h"
#include "blk/nbd.h"
#include "blk/simdisk.h"
#include "fuzz.h"
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct {
    struct run *run;
    struct blk_set *set;
    struct blk_node *n;
    struct nbd_server *s;
    struct nbd_export *rw, *ro;
    char path[64];
    int sock;
} g;
int fuzz_err = 2;

static void turn(unsigned times, int64_t ns)
{
    uint8_t sink[4096];

    while (times--) {
        ev_loop_turn(blk_set_loop(g.set), ns);
        while (g.sock >= 0 && recv(g.sock, sink, sizeof sink, 0) > 0)
            ;
    }
}

static void put(const void *p, size_t len)
{
    for (unsigned tries = 0; len && tries < 200; tries++) {
        ssize_t n = send(g.sock, p, len, MSG_NOSIGNAL);

        if (n < 0 && errno != EAGAIN)
            return;
        if (n > 0) {
            p = (const uint8_t *)p + n;
            len -= (size_t)n;
        }
        turn(2, 0);
    }
}

static void option(uint32_t opt, const void *p, uint32_t said, size_t len)
{
    uint8_t h[16];

    put_be64(h, NBD_OPT_MAGIC);
    put_be32(h + 8, opt);
    put_be32(h + 12, said);
    put(h, 16);
    put(p, len);
}

static void negotiate(bool structured, const char *name)
{
    uint8_t b[128] = {0, 0, 0, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES};
    static const char *const wants[2] = {"base:allocation", "qemu:dirty-bitmap:b"};
    uint8_t *p = b + 4;

    put(b, 4);
    put_be32(b, 2);
    memcpy(p, name, 2);
    p += 2;
    if (structured) {
        option(NBD_OPT_STRUCTURED_REPLY, NULL, 0, 0);
        put_be32(p, 2);
        p += 4;
        for (unsigned i = 0; i < 2; i++) {
            put_be32(p, (uint32_t)strlen(wants[i]));
            memcpy(p + 4, wants[i], strlen(wants[i]));
            p += 4 + strlen(wants[i]);
        }
        option(NBD_OPT_SET_META_CONTEXT, b, (uint32_t)(p - b), (size_t)(p - b));
        p = b + 6;
    }
    put_be16(p, 0);
    option(NBD_OPT_GO, b, 8, 8);
}

static void request(struct bytes *in)
{
    uint16_t flags = take8(in), type = take8(in);
    uint64_t off = take32(in);
    uint32_t len = take32(in), sent;
    uint8_t h[28];

    if (flags & 0x80)
        off <<= 20;
    if (!(flags & 0x40))
        len %= 1 << 18;
    put_be32(h, NBD_REQ_MAGIC);
    put_be16(h + 4, flags & 0x1f);
    put_be16(h + 6, type % 9);
    put_be64(h + 8, take16(in));
    put_be64(h + 16, off);
    put_be32(h + 24, len);
    put(h, 28);
    if (type % 9 != NBD_CMD_WRITE)
        return;
    sent = flags & 0x20 ? len / 2 : len; /* or the client falls silent in the middle */
    for (uint32_t i = 0; i < sent && i < 1 << 18; i += sizeof h)
        put(h, min_u64(sizeof h, sent - i));
}

static void command(struct bytes *in)
{
    uint8_t op = take8(in), buf[300];
    uint32_t len = take8(in), said = len, opt;

    switch (op & 3) {
    case 0:
        len = (uint32_t)min_u64(len, in->left);
        put(in->p, len);
        in->p += len;
        in->left -= len;
        break;
    case 1:
        request(in);
        break;
    case 2:
        opt = take8(in);
        if (op & 0x80)
            said = take32(in);
        for (uint32_t i = 0; i < len; i++)
            buf[i] = take8(in);
        option(opt, buf, said, len);
        break;
    default:
        turn(len & 7, NS_PER_MS / 4);
    }
}

static struct blk_node *disk(void)
{
    struct opts *o = opts_new();
    struct err *e = NULL;
    struct blk_node *n;

    opts_set(o, "driver", "raw");
    opts_set(o, "file.driver", "sim");
    opts_set(o, "file.filename", "0");
    n = blk_node_open(g.set, NULL, NULL, BLK_O_RDWR | BLK_O_UNMAP, o, &e);
    if (!n || !blk_bitmap_new(n, "b", 65536, &e))
        abort();
    return n;
}

static void finish(void)
{
    nbd_export_remove(g.s, g.rw);
    nbd_export_remove(g.s, g.ro);
    nbd_server_free(g.s);
    blk_node_unref(g.n);
    blk_set_free(g.set);
    run_free(g.run);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct nbd_addr a = {.path = g.path};
    struct err *e = NULL;

    g.run = run_new();
    g.set = blk_set_new(g.run);
    g.sock = -1;
    sim_apply(&sims[0], &(struct sim_entry){SIM_TRUNCATE, 1 << 20, 0, NULL, 0});
    g.n = disk();
    snprintf(g.path, sizeof g.path, "/tmp/lyrebird-fuzz-nbds.%d", (int)getpid());
    g.s = nbd_server_new(g.set, nbd_listen(&a, &e), 4);
    g.s->unix_path = xstrdup(g.path);
    g.rw = nbd_export_add(g.s, "rw", "text", g.n, true, &e);
    g.ro = nbd_export_add(g.s, "ro", NULL, g.n, false, &e);
    if (!g.rw || !g.ro || !nbd_export_add_bitmap(g.rw, NULL, "b", &e))
        abort();
    atexit(finish);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct bytes in = {data, len};
    uint8_t how = take8(&in);

    snprintf(un.sun_path, sizeof un.sun_path, "%s", g.path);
    g.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (connect(g.sock, (void *)&un, sizeof un) < 0)
        abort();
    turn(3, 0);
    sim_no_pause = how & 8;
    if (how & 1)
        negotiate(how & 2, how & 4 ? "ro" : "rw");
    for (unsigned i = 0; i < 48 && in.left; i++)
        command(&in);
    close(g.sock);
    g.sock = -1;
    for (unsigned i = 0; i < 5000 && g.s->nr_conns; i++)
        turn(1, i < 10 ? 0 : NS_PER_MS / 4);
    if (g.s->nr_conns) {
        dprintf(fuzz_err, "fuzz: the connection does not end\n");
        abort();
    }
    return 0;
}

/* Reads, writes and block status; a bare client; options in every order. */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t max)
{
    static const uint8_t seeds[][48] = {
        {9, 1, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 2, 0, 0, 2, 0, 3, 4},
        {3, 1, 0, 8, 7, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 1, 0, 4, 0, 0, 0, 0, 0, 16, 0, 0, 3, 0, 3, 4},
        {1, 1, 0, 1, 6, 0, 16, 0, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 4, 0, 32, 0, 0, 0, 16, 0, 0, 2, 0, 3, 4},
        {0, 0, 4, 0, 0, 0, 3, 2, 0, 3, 2, 8, 7, 0, 0, 0, 2, 'r', 'w', 0, 0, 2, 0, 2},
        {7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 9, 0, 3, 4},
    };

    if (i >= ARRAY_LEN(seeds) || max < sizeof seeds[0])
        return 0;
    memcpy(buf, seeds[i], sizeof seeds[0]);
    return sizeof seeds[0];
}
