/* Reading a file as programs do that would rather not wait: by asynchronous input, or where the kernel has none by
 * pread; and waiting for a pipe by a ring, or else by poll. "kernel" or "fallback" says which. */
#include "said.h"
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

static const char *by_aio(int fd, char *buf, size_t n, long off)
{
    struct iocb cb = {.aio_lio_opcode = IOCB_CMD_PREAD,
                      .aio_fildes = (uint32_t)fd,
                      .aio_buf = (uintptr_t)buf,
                      .aio_nbytes = n,
                      .aio_offset = off,
                      .aio_data = 77},
                *list[] = {&cb};
    struct io_event ev = {0};
    aio_context_t ctx = 0;

    if (syscall(SYS_io_setup, 8, &ctx) < 0) {
        if (errno != ENOSYS || ctx)
            return "io_setup failed badly";
        return pread(fd, buf, n, off) == (ssize_t)n ? "fallback" : "pread failed";
    }
    if (syscall(SYS_io_submit, ctx, 1, list) != 1)
        return "io_submit failed";
    if (syscall(SYS_io_getevents, ctx, 1, 1, &ev, NULL) != 1 || ev.data != 77 || ev.res != (long long)n)
        return "io_getevents failed";
    return syscall(SYS_io_destroy, ctx) ? "io_destroy failed" : "kernel";
}

/* One poll in a ring of four. */
static const char *by_ring(int fd)
{
    struct io_uring_params p = {0};
    struct io_uring_sqe *sqe;
    struct pollfd pf = {.fd = fd, .events = POLLIN};
    char *sq, *cq;
    int r = syscall(SYS_io_uring_setup, 4, &p);

    if (r < 0) {
        if (errno != ENOSYS)
            return "io_uring_setup failed badly";
        return poll(&pf, 1, 10000) == 1 && pf.revents == POLLIN ? "fallback" : "poll failed";
    }
    sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, r, IORING_OFF_SQ_RING);
    cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED, r,
              IORING_OFF_CQ_RING);
    sqe = mmap(NULL, p.sq_entries * sizeof *sqe, PROT_READ | PROT_WRITE, MAP_SHARED, r, IORING_OFF_SQES);
    *sqe = (struct io_uring_sqe){.opcode = IORING_OP_POLL_ADD, .fd = fd, .poll_events = POLLIN, .user_data = 88};
    *(volatile uint32_t *)(sq + p.sq_off.array) = 0;
    __atomic_store_n((uint32_t *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, r, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
        return "io_uring_enter failed";
    return ((struct io_uring_cqe *)(cq + p.cq_off.cqes))->user_data == 88 ? "kernel" : "no completion";
}

int main(void)
{
    char name[] = "aio-XXXXXX", buf[8] = "";
    int fd = mkstemp(name), p[2];

    unlink(name);
    if (write(fd, "0123456789", 10) != 10 || pipe(p) || write(p[1], "x", 1) != 1)
        return 1;
    printf("file: %s\n", by_aio(fd, buf, 4, 3));
    printf("read %s\n", buf);
    printf("pipe: %s\n", by_ring(p[0]));
    /* Without a context or a ring the rest is refused in the same way, not by what its arguments happen to be. */
    SAY(syscall(SYS_io_destroy, (aio_context_t)0));
    SAY(syscall(SYS_io_submit, (aio_context_t)0, 0, NULL));
    SAY(syscall(SYS_io_getevents, (aio_context_t)0, 0, 0, NULL, NULL));
    SAY(syscall(SYS_io_uring_enter, -1, 0, 0, 0, NULL, 0));
    return 0;
}
