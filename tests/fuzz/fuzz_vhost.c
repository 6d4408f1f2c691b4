/* Fuzz target of vhost-user-blk exports: the input is what a peer does. Bit 0 of the first byte: it begins with a sound
 * set-up (features, 64 KiB of memory, one ring of 8, descriptors at 0, available ring at 0x1000, used ring at 0x2000).
 * Then commands, each a byte (mod 8) with its arguments:
 *   0 any message: request, flags, size, payload, number of descriptors, kind of descriptors
 *   1 a message that is known, with fields from the input
 *   2 bytes into the memory
 *   3 a request into the ring (header, data, status), told by a kick
 *   4 a kick    5 time passes    6 the memory's file becomes shorter    7 a new connection
 * Peer and export run in one thread in turn, so an input always does the same but for requests that wait for the pool.
 */
#include "base/bytes.h"
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/export.h"
#include "blk/simdisk.h"
#include "fuzz.h"
#include <errno.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MEM = 65536, GPA = 0x10000, RING = 8, AVAIL = 0x1000, USED = 0x2000, DATA = 0x4000 };
#define UADDR UINT64_C(0x7000000000)

static struct {
    struct run *run;
    struct blk_set *set;
    struct blk_node *n;
    struct blk_export *x;
    char path[64];
    int sock, mem, kick, call;
    uint16_t avail;
} g;
int fuzz_err = 2;

static void turn(unsigned times)
{
    while (times--)
        ev_loop_turn(blk_set_loop(g.set), 0);
}

static void hang_up(void)
{
    if (g.sock >= 0)
        close(g.sock);
    g.sock = -1;
    for (unsigned i = 0; i < 2000; i++) /* until the other side has seen it */
        ev_loop_turn(blk_set_loop(g.set), i < 20 ? 0 : g.x->running ? NS_PER_MS : 0);
}

static void dial(void)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};

    snprintf(un.sun_path, sizeof un.sun_path, "%s", g.path);
    g.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (connect(g.sock, (void *)&un, sizeof un) < 0 && errno != EAGAIN)
        abort();
    turn(3);
}

static void message(uint32_t req, uint32_t flags, uint32_t size, const uint8_t *p, size_t len, const int *fds,
                    unsigned nr)
{
    uint8_t b[12 + 1024], sink[2048];
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(sizeof(int) * 16)];
    } c = {0};
    struct iovec v = {b, 12 + min_u64(len, 1024)};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};

    put_le32(b, req);
    put_le32(b + 4, flags);
    put_le32(b + 8, size);
    memcpy(b + 12, p, v.iov_len - 12);
    if (nr) {
        m.msg_control = c.room;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * nr);
        c.h =
            (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int) * nr), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&c.h), fds, sizeof(int) * nr);
    }
    if (sendmsg(g.sock, &m, MSG_NOSIGNAL) < 0)
        return;
    turn(4);
    while (recv(g.sock, sink, sizeof sink, 0) > 0)
        ;
}

static void told(uint32_t req, const uint8_t *p, uint32_t len, const int *fds, unsigned nr)
{
    message(req, 1, len, p, len, fds, nr);
}

static void pair(uint32_t req, uint32_t a, uint32_t b)
{
    uint8_t p[8];

    put_le32(p, a);
    put_le32(p + 4, b);
    told(req, p, 8, NULL, 0);
}

static void table(uint64_t gpa, uint64_t size, uint64_t uaddr, uint64_t off)
{
    uint8_t p[40] = {1};

    put_le64(p + 8, gpa);
    put_le64(p + 16, size);
    put_le64(p + 24, uaddr);
    put_le64(p + 32, off);
    told(5, p, 40, &g.mem, 1);
}

static void ring_addr(uint64_t desc, uint64_t used, uint64_t avail)
{
    uint8_t p[40] = {0};

    put_le64(p + 8, desc);
    put_le64(p + 16, used);
    put_le64(p + 24, avail);
    told(9, p, 40, NULL, 0);
}

static void set_up(bool indirect)
{
    uint8_t p[8];

    put_le64(p, 1 | 8 | 512);
    told(16, p, 8, NULL, 0);
    put_le64(p,
             UINT64_C(1) << 32 | UINT64_C(1) << 30 | 1 << 13 | 1 << 14 | 1 << 9 | (indirect ? UINT64_C(1) << 28 : 0));
    told(2, p, 8, NULL, 0);
    table(GPA, MEM, UADDR, 0);
    pair(8, 0, RING);
    pair(10, 0, 0);
    ring_addr(UADDR, UADDR + USED, UADDR + AVAIL);
    memset(p, 0, 8);
    told(13, p, 8, &g.call, 1);
    told(12, p, 8, &g.kick, 1);
    pair(18, 0, 1);
}

static void poke(uint32_t at, const void *p, size_t len)
{
    if (pwrite(g.mem, p, len, at) < 0) /* may have been cut short: then it grows again */
        return;
}

static void kick(void)
{
    uint64_t one = 1;

    if (write(g.kick, &one, 8) == 8)
        turn(3);
}

static void descriptor(unsigned i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    uint8_t d[16];

    put_le64(d, addr);
    put_le32(d + 8, len);
    put_le16(d + 12, flags);
    put_le16(d + 14, next);
    poke(i * 16, d, 16);
}

/* Three descriptors; a byte of the input may make the chain something else. */
static void request(struct bytes *in)
{
    uint8_t h[32], a[4], twist = take8(in);
    uint32_t type = take8(in), sector = take16(in), len = take32(in) % 131072;
    bool write_in = type == 0 || type == 8;

    put_le32(h, type);
    put_le32(h + 4, 0);
    put_le64(h + 8, sector);
    put_le64(h + 16, sector);
    put_le32(h + 24, len / 512);
    put_le32(h + 28, twist >> 6);
    poke(DATA, h, 32);
    if (twist & 1)
        len &= ~511u;
    descriptor(0, GPA + DATA, type == 11 || type == 13 ? 32 : 16, 1, 1);
    descriptor(1, GPA + DATA + 512, len, (write_in ? 2 : 0) | 1, twist & 2 ? (uint16_t)(twist >> 2) : 2);
    descriptor(2, GPA + DATA + 256, 1, 2, 0);
    if ((twist & 0x0c) == 0x0c)
        descriptor(0, GPA, 16u * (twist >> 4), 4, 0);
    put_le16(a, 0);
    poke(AVAIL + 4 + g.avail % RING * 2u, a, 2);
    put_le16(a, ++g.avail);
    poke(AVAIL + 2, a, 2);
    kick();
}

static void any_message(struct bytes *in)
{
    uint32_t req = take8(in), flags = take8(in), size = take8(in), nr = take8(in), len;
    const uint8_t *p = in->p;
    int fds[10];

    for (unsigned i = 0; i < 10; i++)
        fds[i] = nr & 16 ? g.mem : nr & 32 ? g.call : g.sock;
    if (flags & 0x80)
        size *= 257;
    len = (uint32_t)min_u64(in->left, size);
    message(req, (flags & 0x40) ? flags : 1 | (flags & 8), size, p, len, fds, nr % 16 % 10);
    in->p += len;
    in->left -= len;
}

static void known_message(struct bytes *in)
{
    uint8_t what = take8(in), p[8] = {0};
    uint32_t a = take8(in) & 3, b = take16(in);
    uint64_t wild = (uint64_t)take32(in) << (what & 31);

    switch (what % 11) {
    case 0:
        pair(8, a, b);
        break;
    case 1:
        pair(10, a, b);
        break;
    case 2:
        pair(18, a, b & 3);
        break;
    case 3:
        pair(11, a, b); /* GET_VRING_BASE: the ring stops */
        break;
    case 4:
        ring_addr(UADDR + b, UADDR + USED, wild);
        break;
    case 5:
        ring_addr(UADDR, wild, UADDR + AVAIL);
        break;
    case 6:
        table(wild, (uint64_t)b + a, UADDR, 0);
        break;
    case 7:
        table(GPA, wild, wild, b);
        break;
    case 8:
    case 9:
        p[0] = (uint8_t)a;
        p[1] = b & 1;
        told(what % 11 == 8 ? 12 : 13, p, 8, b & 2 ? &g.mem : &g.kick, b & 1 ? 0 : 1);
        break;
    default: /* GET_CONFIG */
        pair(24, b, (uint32_t)wild);
    }
}

static void command(struct bytes *in)
{
    uint8_t buf[256] = {0}, op = take8(in);
    uint32_t at, len;

    switch (op & 7) {
    case 0:
        any_message(in);
        break;
    case 1:
        known_message(in);
        break;
    case 2:
        at = take16(in);
        len = take8(in);
        for (uint32_t i = 0; i < len; i++)
            buf[i] = take8(in);
        poke(at, buf, len);
        break;
    case 3:
        request(in);
        break;
    case 4:
        kick();
        break;
    case 5:
        for (unsigned i = take8(in) & 7; i; i--)
            ev_loop_turn(blk_set_loop(g.set), NS_PER_MS / 4);
        break;
    case 6:
        if (ftruncate(g.mem, take16(in)) < 0)
            abort();
        break;
    default:
        hang_up();
        dial();
    }
}

static void begin(void)
{
    g.mem = memfd_create("guest", MFD_CLOEXEC);
    g.kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    g.call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (g.mem < 0 || ftruncate(g.mem, MEM) < 0 || g.kick < 0 || g.call < 0)
        abort();
    g.avail = 0;
    dial();
}

static void end(void)
{
    hang_up();
    close(g.mem);
    close(g.kick);
    close(g.call);
}

/* A set-up that is no longer understood would leave all of the requests untested: said at once. */
static void check_reach(void)
{
    struct bytes in = {(const uint8_t *)"\1\0\2\0\0\20\0\0", 8};
    uint8_t used[2] = {0};

    sim_no_pause = true;
    begin();
    set_up(false);
    request(&in);
    if (pread(g.mem, used, 2, USED + 2) != 2 || get_le16(used) != 1) {
        dprintf(fuzz_err, "fuzz: a sound read is not answered\n");
        abort();
    }
    end();
}

static void finish(void)
{
    blk_export_remove(g.x);
    blk_node_unref(g.n);
    blk_set_free(g.set);
    run_free(g.run);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct opts *o = opts_new();
    struct json_object *a, *addr;
    struct err *e = NULL;

    g.run = run_new();
    g.set = blk_set_new(g.run);
    g.sock = -1;
    snprintf(g.path, sizeof g.path, "/tmp/lyrebird-fuzz-vhost.%d", (int)getpid());
    sim_apply(&sims[0], &(struct sim_entry){SIM_TRUNCATE, 1 << 20, 0, NULL, 0});
    opts_set(o, "driver", "raw");
    opts_set(o, "file.driver", "sim");
    opts_set(o, "file.filename", "0");
    g.n = blk_node_open(g.set, NULL, NULL, BLK_O_RDWR | BLK_O_UNMAP, o, &e);
    if (!g.n)
        abort();
    addr = json_make("s:type", "unix", "s:path", g.path, NULL);
    a = json_make("s:id", "x", "s:node-name", g.n->name, "b:writable", true, "i:num-queues", (int64_t)2, NULL);
    json_object_object_add(a, "addr", addr);
    g.x = blk_export_add(g.set, &blk_export_vhost_user, a, &e);
    if (!g.x)
        abort();
    json_object_put(a);
    atexit(finish);
    check_reach();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct bytes in = {data, len};
    uint8_t how = take8(&in);

    begin();
    sim_no_pause = how & 4;
    if (how & 1)
        set_up(how & 2);
    for (unsigned i = 0; i < 64 && in.left; i++)
        command(&in);
    end();
    return 0;
}

/* Sound ones: a read, a write, a discard, a flush; a request followed at once by messages about its ring. */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t max)
{
    static const uint8_t seeds[][40] = {
        {1, 3, 1, 0, 2, 0, 0, 16, 0, 0, 3, 1, 1, 2, 0, 0, 16, 0, 0, 3, 1, 4, 0, 0, 0, 0, 0, 0, 5, 7},
        {5, 3, 1, 11, 2, 0, 0, 16, 0, 0, 3, 0x41, 13, 2, 0, 0, 16, 0, 0, 3, 1, 8, 0, 0, 20, 0, 0, 0, 5, 7},
        {1, 3, 1, 0, 2, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 5, 7},
        {1, 3, 1, 1, 2, 0, 0, 0, 1, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 5, 7},
        {3, 3, 0x3f, 0, 2,  0, 0, 0, 1, 0, 2, 0, 0, 16, 0, 64, 1, 0,
         0, 0, 0,    0, 16, 0, 0, 0, 1, 0, 1, 0, 4, 6,  0, 1,  4, 7},
        {0, 0, 1, 0, 0, 0, 0, 15, 0, 0, 0, 0, 17, 0, 0, 0, 1, 10, 0, 0, 0, 60, 0, 0, 0},
    };

    if (i >= ARRAY_LEN(seeds) || max < sizeof seeds[0])
        return 0;
    memcpy(buf, seeds[i], sizeof seeds[0]);
    return sizeof seeds[0];
}
