/* vhost-user-blk against peers of every kind: one that serves, and ones that lie. The peer is a thread behind a socket
 * pair; the guest is a driver in C. */
#include "unit.h"

#include "hw/vio_guest.h"
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum lie {
    HONEST,
    HANGS_UP,
    WRONG_SIZE,
    WRONG_REQUEST,
    HUGE_ANSWER,
    NO_PROTOCOL,
    NO_CONFIG,
    NO_QUEUES,
    OLD,
    TOO_MANY_SECTORS,
    ODD_BLOCKS,
    SPEAKS_UNASKED,
    WRONG_ID,
    SAME_ID_TWICE,
    INDEX_JUMPS,
    LENGTH_TOO_LONG,
    GOES_AWAY
};
enum { SECTORS = 1000, MAX_MAP = 8 };
struct peer {
    pthread_t thr;
    int fd, kick, call;
    enum lie lie;
    struct {
        uint64_t addr, size;
        uint8_t *p;
    } map[MAX_MAP];
    unsigned nr_map;
    uint64_t desc, avail, used;
    uint16_t num, seen, done;
    unsigned stray; /* answers that named memory it was not given */
};

static uint8_t *at(struct peer *p, uint64_t addr)
{
    for (unsigned i = 0; i < p->nr_map; i++)
        if (addr - p->map[i].addr < p->map[i].size)
            return p->map[i].p + (addr - p->map[i].addr);
    p->stray++;
    return p->map[0].p;
}

static void answer(struct peer *p, uint32_t request, const void *data, uint32_t len)
{
    uint8_t b[512];

    put_le32(b, p->lie == WRONG_REQUEST ? request + 1 : request);
    put_le32(b + 4, 5);
    put_le32(b + 8, p->lie == HUGE_ANSWER ? UINT32_MAX : p->lie == WRONG_SIZE ? len + 1 : len);
    memcpy(b + 12, data, len);
    send(p->fd, b, 12 + len + (p->lie == WRONG_SIZE), MSG_NOSIGNAL);
}
static void answer_u64(struct peer *p, uint32_t request, uint64_t v)
{
    uint8_t b[8];

    put_le64(b, v);
    answer(p, request, b, 8);
}

static void take_memory(struct peer *p, const uint8_t *b, const int *fds)
{
    p->nr_map = get_le32(b);
    for (unsigned i = 0; i < p->nr_map; i++) {
        const uint8_t *r = b + 8 + 32 * i;

        p->map[i].addr = get_le64(r);
        p->map[i].size = get_le64(r + 8);
        p->map[i].p = mmap(NULL, p->map[i].size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], (off_t)get_le64(r + 24));
        close(fds[i]);
    }
}

static void get_config(struct peer *p, uint8_t *b, uint32_t len)
{
    put_le64(b + 12, p->lie == TOO_MANY_SECTORS ? UINT64_MAX : SECTORS);
    put_le32(b + 12 + 12, 1000);
    put_le32(b + 12 + 20, p->lie == ODD_BLOCKS ? 513 : 512);
    answer(p, 24, b, len);
}

/* Reads give bytes 0xab, all requests succeed; then what the lie is. */
static void serve_one(struct peer *p)
{
    uint8_t *avail = at(p, p->avail), *used = at(p, p->used), *d, *table = at(p, p->desc);
    uint16_t head = get_le16(avail + 4 + 2 * (p->seen++ % p->num)), i = head;
    uint32_t wrote = 0;
    uint64_t one = 1;

    if (get_le16(table + 16 * head + 12) & 4) {
        table = at(p, get_le64(table + 16 * head));
        i = 0;
    }
    for (;; i = get_le16(d + 14)) {
        d = table + 16 * i;
        uint32_t n = get_le32(d + 8), flags = get_le16(d + 12);
        if (flags & 2) {
            memset(at(p, get_le64(d)), flags & 1 ? 0xab : 0, n);
            wrote += n;
        }
        if (!(flags & 1))
            break;
    }
    uint8_t *slot = used + 4 + 8 * (p->done++ % p->num);
    put_le32(slot, p->lie == WRONG_ID ? 0x12345 : head);
    put_le32(slot + 4, p->lie == LENGTH_TOO_LONG ? UINT32_MAX : wrote);
    if (p->lie == SAME_ID_TWICE)
        memcpy(used + 4 + 8 * (p->done++ % p->num), slot, 8);
    if (p->lie == INDEX_JUMPS)
        p->done += 3000;
    __atomic_store_n((uint16_t *)(used + 2), p->done, __ATOMIC_RELEASE);
    if (write(p->call, &one, 8) < 0)
        p->stray++;
}

static void serve(struct peer *p)
{
    uint64_t n;

    if (read(p->kick, &n, 8) < 0)
        return;
    if (p->lie == GOES_AWAY) {
        shutdown(p->fd, SHUT_RDWR);
        return;
    }
    if (p->lie == SPEAKS_UNASKED)
        send(p->fd, "hello", 5, MSG_NOSIGNAL);
    while (p->seen != __atomic_load_n((uint16_t *)(at(p, p->avail) + 2), __ATOMIC_ACQUIRE))
        serve_one(p);
}

static void act(struct peer *p, uint32_t request, uint32_t flags, uint8_t *b, uint32_t len, const int *fds)
{
    uint64_t base = UINT64_C(1) << 32 | UINT64_C(1) << 28 | UINT64_C(1) << 30 | 1 << 2 | 1 << 6 | 1 << 9;

    switch (request) {
    case 1:
        answer_u64(p, 1, p->lie == NO_PROTOCOL ? base & ~(UINT64_C(1) << 30) : p->lie == OLD ? 1u << 30 : base);
        return;
    case 15:
        answer_u64(p, 15, p->lie == NO_CONFIG ? 9 : 0x209);
        return;
    case 17:
        answer_u64(p, 17, p->lie == NO_QUEUES ? 0 : 4);
        return;
    case 24:
        get_config(p, b, len);
        return;
    case 11:
        close(p->kick);
        p->kick = -1;
        answer(p, 11, b, 8);
        return;
    case 5:
        take_memory(p, b, fds);
        break;
    case 8:
        p->num = get_le16(b + 4);
        break;
    case 9:
        p->desc = get_le64(b + 8);
        p->used = get_le64(b + 16);
        p->avail = get_le64(b + 24);
        p->seen = p->done = 0;
        break;
    case 12:
        p->kick = fds[0];
        break;
    case 13:
        p->call = fds[0];
        break;
    }
    if (flags & 8)
        answer_u64(p, request, 0);
}

static bool message(struct peer *p)
{
    uint8_t h[12], b[512] = {0};
    union {
        struct cmsghdr h;
        char space[CMSG_SPACE(8 * sizeof(int))];
    } ctl;
    struct iovec v = {h, 12};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &ctl, .msg_controllen = sizeof ctl};
    int fds[8] = {-1};
    uint32_t len;

    if (recvmsg(p->fd, &m, MSG_WAITALL) != 12)
        return false;
    if (CMSG_FIRSTHDR(&m))
        memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&m)), CMSG_FIRSTHDR(&m)->cmsg_len - CMSG_LEN(0));
    len = get_le32(h + 8);
    if (len > sizeof b || (len && recv(p->fd, b, len, MSG_WAITALL) != len))
        return false;
    act(p, get_le32(h), get_le32(h + 4), b, len, fds);
    return true;
}

static void *peer_run(void *opaque)
{
    struct peer *p = opaque;

    p->kick = p->call = -1;
    if (p->lie == HANGS_UP)
        shutdown(p->fd, SHUT_RDWR);
    for (;;) {
        struct pollfd f[2] = {{.fd = p->fd, .events = POLLIN}, {.fd = p->kick, .events = POLLIN}};

        poll(f, 2, -1);
        if (f[0].revents && !message(p))
            break;
        if (f[1].revents && p->kick >= 0)
            serve(p);
    }
    close(p->fd);
    for (unsigned i = 0; i < p->nr_map; i++)
        munmap(p->map[i].p, p->map[i].size);
    if (p->call >= 0)
        close(p->call);
    if (p->kick >= 0)
        close(p->kick);
    return NULL;
}

/* A machine whose memory is shared (or not), with a chardev "c" that leads to the peer. */
static struct bare *machine(struct peer *p, enum lie lie, bool shared)
{
    struct bare *b = bare_new();
    char text[64];
    int s[2];

    if (shared) {
        int fd = memfd_create("ram", MFD_CLOEXEC);

        assert_int_equal(ftruncate(fd, BARE_RAM), 0);
        mem_region_del(&b->ram);
        mem_region_free(&b->ram);
        struct mem_ram *r = mem_ram_new_fd(b->m->mem_sys, "shared", BARE_RAM, fd, 0, true, false, NULL);
        mem_region_init_ram_from(&b->ram, b->m->mem_sys, "ram", r);
        mem_ram_unref(r);
        mem_region_add(&b->m->sysmem, 0, &b->ram);
        b->mem = mem_region_ptr(&b->ram);
        close(fd);
    }
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
    *p = (struct peer){.fd = s[1], .lie = lie};
    snprintf(text, sizeof text, "socket,id=c,fd=%d", s[0]);
    struct opts *o = opts_parse(text, "backend", NULL);
    assert_non_null(chr_create(b->chr, o, NULL));
    opts_free(o);
    assert_int_equal(pthread_create(&p->thr, NULL, peer_run, p), 0);
    return b;
}

static void end(struct bare *b, struct peer *p)
{
    bare_free(b);
    pthread_join(p->thr, NULL);
}

/* A driver on the disk of a peer that lies like this. */
struct rig {
    struct peer p;
    struct bare *b;
    struct pci_dev *d;
    struct vio v;
};
static void rig_start(struct rig *g, enum lie lie, uint64_t features)
{
    g->b = machine(&g->p, lie, true);
    g->d = bare_device(g->b, "vhost-user-blk-pci,chardev=c");
    bare_start(g->b);
    vio_start(&g->v, g->b, g->d, features);
}

/* A read of one block: status; the data's address in *data. */
static int read_block(struct vio *v, gpa_t *data)
{
    static const uint8_t hdr[16] = {0};
    struct vio_part parts[] = {{.out = hdr, .len = 16}, {.len = 512}, {.len = 1}};

    if (vio_do(v, 0, parts, 3) < 0)
        return -1;
    *data = parts[1].at;
    return v->b->mem[parts[2].at];
}

/* proves: F-STO-06 */
static void a_peer_serves_the_disk(void **state)
{
    const uint64_t features = ~UINT64_C(0) & ~VIRTIO_BIT(VIRTIO_F_EVENT_IDX);
    struct rig g;
    gpa_t data;

    rig_start(&g, HONEST, features);
    for (unsigned life = 0; life < 3; life++) {
        if (life) /* a driver that starts anew */
            vio_start(&g.v, g.b, g.d, features);
        assert_int_equal(vio_ld(&g.v, g.v.device, 4), SECTORS);
        assert_int_equal(vio_ld(&g.v, g.v.device + 12, 4), 126); /* bounded */
        for (unsigned i = 0; i < 600; i++) {
            g.v.bump = 0x100000;
            assert_int_equal(read_block(&g.v, &data), 0);
            assert_int_equal(g.b->mem[data], 0xab);
            assert_int_equal(g.b->mem[data + 511], 0xab);
        }
    }
    end(g.b, &g.p);
    assert_int_equal(g.p.stray, 0);
}

static void a_peer_that_goes_away_gives_errors(void **state)
{
    struct rig g;
    gpa_t data;

    rig_start(&g, GOES_AWAY, 0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(read_block(&g.v, &data), 1);
    end(g.b, &g.p);
}

static void lies_in_the_ring_end_the_connection(void **state)
{
    static const enum lie lies[] = {WRONG_ID, SAME_ID_TWICE, INDEX_JUMPS, SPEAKS_UNASKED};

    for (unsigned i = 0; i < ARRAY_LEN(lies); i++) {
        struct rig g;
        gpa_t data;
        int st = 0;

        rig_start(&g, lies[i], 0);
        for (unsigned n = 0; n < 20 && st != 1; n++) {
            st = read_block(&g.v, &data);
            assert_true(st >= 0);
        }
        assert_int_equal(st, 1);
        end(g.b, &g.p);
    }
}

static void lengths_are_bounded(void **state)
{
    static const uint8_t hdr[16] = {0};
    struct vio_part parts[] = {{.out = hdr, .len = 16}, {.len = 512}, {.len = 1}};
    struct rig g;

    rig_start(&g, LENGTH_TOO_LONG, 0);
    assert_int_equal(vio_do(&g.v, 0, parts, 3), 513);
    end(g.b, &g.p);
}

static void lies_before_it_starts_are_refused(void **state)
{
    static const struct {
        enum lie lie;
        const char *say;
    } lies[] = {
        {HANGS_UP, "hung up"},        {WRONG_SIZE, "wrong size"}, {WRONG_REQUEST, "not asked"},
        {HUGE_ANSWER, "not asked"},   {NO_PROTOCOL, "too old"},   {OLD, "VIRTIO 1"},
        {NO_CONFIG, "configuration"}, {NO_QUEUES, "no queues"},   {TOO_MANY_SECTORS, "18446744073709551615 sectors"},
        {ODD_BLOCKS, "513 bytes"}};

    for (unsigned i = 0; i < ARRAY_LEN(lies); i++) {
        struct peer p;
        struct bare *b = machine(&p, lies[i].lie, true);

        bare_refuses(b, "vhost-user-blk-pci,chardev=c", lies[i].say);
        end(b, &p);
    }
}

/* proves: F-STO-06 */
static void what_cannot_be_is_refused_with_the_remedy(void **state)
{
    struct peer p;
    struct bare *b = machine(&p, HONEST, false);

    bare_refuses(b, "vhost-user-blk-pci,chardev=c", "memory 'ram' is not shared");
    bare_refuses(b, "vhost-user-blk-pci", "chardev property is not set");
    bare_refuses(b, "vhost-user-blk-pci,chardev=c,num-queues=65", "between 1 and 64");
    end(b, &p);
    b = machine(&p, HONEST, true);
    bare_refuses(b, "vhost-user-blk-pci,chardev=c,num-queues=2", "the peer has 1");
    end(b, &p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_peer_serves_the_disk),
        cmocka_unit_test(a_peer_that_goes_away_gives_errors),
        cmocka_unit_test(lies_in_the_ring_end_the_connection),
        cmocka_unit_test(lengths_are_bounded),
        cmocka_unit_test(lies_before_it_starts_are_refused),
        cmocka_unit_test(what_cannot_be_is_refused_with_the_remedy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
