/* See aio.h. Linux AIO is used by raw system calls (there is nothing in the library but those); io_uring through
 * liburing. */
#include "blk/aio.h"
#include "blk/blk_int.h"
#include <errno.h>
#include <linux/aio_abi.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

enum { DEPTH = 128 };

struct blk_aio {
    struct blk_set *set;
    enum blk_engine kind;
    int efd; /* owned */
    struct ev_fd *watch;
    aio_context_t ctx;
#ifdef HAVE_LIBURING
    struct io_uring ring;
#endif
    unsigned in_flight;
};
struct wait {
    struct fibre *f;
    int64_t res;
};

static void finish(struct blk_aio *a, void *data, int64_t res)
{
    struct wait *w = data;

    a->in_flight--;
    w->res = res;
    fibre_wake(blk_set_loop(a->set), w->f);
}

static void reap_native(struct blk_aio *a)
{
    struct io_event ev[DEPTH];
    struct timespec zero = {0, 0};
    long n;

    do {
        n = syscall(SYS_io_getevents, a->ctx, 0L, (long)DEPTH, ev, &zero);
        for (long i = 0; i < n; i++)
            finish(a, (void *)(uintptr_t)ev[i].data, ev[i].res);
    } while (n == DEPTH);
}

static void on_event(void *opaque, int fd, unsigned events)
{
    struct blk_aio *a = opaque;
    uint64_t count;

    if (read(fd, &count, sizeof count) < 0)
        return;
    if (a->kind == BLK_ENGINE_NATIVE) {
        reap_native(a);
        return;
    }
#ifdef HAVE_LIBURING
    {
        struct io_uring_cqe *cqe;

        while (!io_uring_peek_cqe(&a->ring, &cqe)) {
            void *data = io_uring_cqe_get_data(cqe);
            int res = cqe->res;

            io_uring_cqe_seen(&a->ring, cqe);
            finish(a, data, res);
        }
    }
#endif
}

#ifdef HAVE_LIBURING
/* The ring transfers data and nothing else, whoever writes to it: opening and connecting through it would pass by what
 * keeps the process from them. Kernels before 5.10 have no such limit. */
static int start_ring(struct blk_aio *a)
{
    struct io_uring_restriction only[3] = {{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV},
                                           {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV},
                                           {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FSYNC}};
    int r = io_uring_queue_init(DEPTH, &a->ring, IORING_SETUP_R_DISABLED);
    bool limited = r >= 0;

    if (!limited)
        r = io_uring_queue_init(DEPTH, &a->ring, 0);
    if (r < 0)
        return r;
    r = io_uring_register_eventfd(&a->ring, a->efd);
    if (r >= 0 && limited)
        r = (int)syscall(SYS_io_uring_register, a->ring.ring_fd, IORING_REGISTER_RESTRICTIONS, only, ARRAY_LEN(only));
    if (r >= 0 && limited)
        r = (int)syscall(SYS_io_uring_register, a->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (r < 0) {
        r = limited && r == -1 ? -errno : r;
        io_uring_queue_exit(&a->ring);
    }
    return r;
}
#endif

static int start(struct blk_aio *a)
{
    if (a->kind == BLK_ENGINE_NATIVE)
        return syscall(SYS_io_setup, DEPTH, &a->ctx) < 0 ? -errno : 0;
#ifdef HAVE_LIBURING
    return start_ring(a);
#else
    return -ENOSYS;
#endif
}

struct blk_aio *blk_aio_new(struct blk_set *s, enum blk_engine kind, struct err **errp)
{
    struct blk_aio *a = xnew(struct blk_aio);
    int r;

    a->set = s;
    a->kind = kind;
    a->efd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    r = a->efd < 0 ? -errno : start(a);
    if (r < 0) {
        err_set_errno(errp, -r,
                      kind == BLK_ENGINE_NATIVE ? "aio=native: the kernel's asynchronous I/O cannot be set up"
                                                : "aio=io_uring: io_uring cannot be set up");
        err_hint(errp, "Use aio=threads.");
        if (a->efd >= 0)
            close(a->efd);
        free(a);
        return NULL;
    }
    a->watch = ev_fd_add(blk_set_loop(s), a->efd, EV_IN, on_event, a);
    return a;
}

void blk_aio_prepare(struct blk_set *s, enum blk_engine kind)
{
    if (!s->aio[kind])
        s->aio[kind] = blk_aio_new(s, kind, NULL);
}

void blk_aio_free(struct blk_aio *a)
{
    if (!a)
        return;
    assert(!a->in_flight);
    ev_fd_del(a->watch);
    if (a->kind == BLK_ENGINE_NATIVE)
        syscall(SYS_io_destroy, a->ctx);
#ifdef HAVE_LIBURING
    else
        io_uring_queue_exit(&a->ring);
#endif
    close(a->efd);
    free(a);
}

static int submit_native(struct blk_aio *a, struct wait *w, int fd, const struct iovec *v, unsigned nr, uint64_t off,
                         bool write)
{
    struct iocb cb = {.aio_data = (uintptr_t)w,
                      .aio_lio_opcode = write ? IOCB_CMD_PWRITEV : IOCB_CMD_PREADV,
                      .aio_fildes = (uint32_t)fd,
                      .aio_buf = (uintptr_t)v,
                      .aio_nbytes = nr,
                      .aio_offset = (int64_t)off,
                      .aio_flags = IOCB_FLAG_RESFD,
                      .aio_resfd = (uint32_t)a->efd};
    struct iocb *list = &cb;

    return syscall(SYS_io_submit, a->ctx, 1L, &list) == 1 ? 0 : -EAGAIN;
}

int64_t blk_aio_rw(struct blk_aio *a, int fd, const struct iovec *v, unsigned nr, uint64_t off, bool write)
{
    struct wait w = {.f = fibre_self()};
    int r = -EAGAIN;

    if (a->in_flight >= DEPTH)
        return -EAGAIN;
    if (a->kind == BLK_ENGINE_NATIVE) {
        r = submit_native(a, &w, fd, v, nr, off, write);
    }
#ifdef HAVE_LIBURING
    else {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&a->ring);

        if (!sqe)
            return -EAGAIN;
        if (write)
            io_uring_prep_writev(sqe, fd, v, nr, off);
        else
            io_uring_prep_readv(sqe, fd, v, nr, off);
        io_uring_sqe_set_data(sqe, &w);
        r = io_uring_submit(&a->ring) == 1 ? 0 : -EAGAIN;
    }
#endif
    if (r < 0)
        return r;
    a->in_flight++;
    fibre_yield();
    return w.res;
}
