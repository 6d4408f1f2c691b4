/* Drives over raw files: data, bounds, refusals, locks, cache modes. */
#include "blk/node.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

struct fix {
    struct run *run;
    struct blk_set *set;
    char path[64];
};

static int setup(void **state)
{
    struct fix *f = xnew(struct fix);
    int fd;

    strcpy(f->path, "/tmp/blk-raw-XXXXXX");
    fd = mkstemp(f->path);
    if (ftruncate(fd, 1 << 20) < 0)
        return -1;
    close(fd);
    f->run = run_new();
    f->set = blk_set_new(f->run);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;

    blk_set_free(f->set);
    run_free(f->run);
    unlink(f->path);
    free(f);
    return 0;
}

static struct blk *add(struct fix *f, const char *id, const char *fmt, struct err **errp)
{
    char *text = xasprintf("file=%s,%s", f->path, fmt);
    struct opts *o = opts_parse(text, NULL, errp);
    struct blk *b = blk_drive_add(f->set, id, o, errp);

    opts_free(o);
    free(text);
    return b;
}

static void on_done(void *opaque, int ret)
{
    *(int *)opaque = ret;
}

/* proves: F-BLK-01, F-BLK-04 */
static void what_is_written_is_read_back(void **state)
{
    struct fix *f = *state;
    struct err *e = NULL;
    struct blk *b = add(f, "d0", "format=raw", &e);
    char buf[3000], back[3000];

    assert_non_null(b);
    assert_int_equal(blk_size(b), 1 << 20);
    for (int i = 0; i < 3000; i++)
        buf[i] = (char)(i * 7);
    assert_int_equal(blk_write(b, 12345, buf, sizeof buf), 0);
    assert_int_equal(blk_read(b, 12345, back, sizeof back), 0);
    assert_memory_equal(buf, back, sizeof buf);
    assert_int_equal(blk_flush(b), 0);
    assert_ptr_equal(blk_find(f->set, "d0"), b);
}

static void completions_come_later_and_out_of_range_fails(void **state)
{
    struct fix *f = *state;
    struct blk *b = add(f, "d0", "format=raw", NULL);
    char buf[512];
    struct iovec v = {buf, sizeof buf};
    struct iov q;
    int ret = 99;

    iov_init_ext(&q, &v, 1);
    blk_aio_read(b, 1 << 20, &q, 0, on_done, &ret);
    assert_int_equal(ret, 99);
    blk_drain(b);
    assert_int_equal(ret, -EIO);
    blk_aio_zero(b, 0, 4096, BLK_MAY_UNMAP, on_done, &ret);
    blk_drain(b);
    assert_int_equal(ret, 0);
    blk_aio_discard(b, 0, 4096, on_done, &ret);
    blk_drain(b);
    assert_int_equal(ret, 0);
}

/* proves: F-BLK-14 */
static void a_second_writer_is_refused_and_told_who_holds_it(void **state)
{
    struct fix *f = *state;
    struct err *e = NULL;

    assert_non_null(add(f, "d0", "format=raw", &e));
    assert_null(add(f, "d1", "format=raw", &e));
    assert_non_null(e);
    assert_non_null(strstr(e->msg, "Failed to get"));
    assert_non_null(strstr(e->hint, "process"));
    err_free(e);
    e = NULL;
    assert_non_null(add(f, "d2", "format=raw,readonly=on", &e)); /* readers always may */
    assert_non_null(add(f, "d3", "format=raw,file.locking=off", &e));
}

static void a_guessed_raw_disk_keeps_its_first_block_raw(void **state)
{
    struct fix *f = *state;
    struct blk *b;
    char qcow[512] = "QFI\xfb\0\0\0\3";
    char plain[512] = "hello";
    int saved = dup(2), null = open("/dev/null", O_WRONLY);

    dup2(null, 2); /* the warning is expected */
    b = add(f, "d0", "id=d0", NULL);
    dup2(saved, 2);
    close(saved);
    close(null);
    assert_non_null(b);
    assert_int_equal(blk_write(b, 0, plain, sizeof plain), 0);
    if (blk_driver_find("qcow2"))
        assert_int_equal(blk_write(b, 0, qcow, sizeof qcow), -EPERM);
}

static void bad_options_are_named(void **state)
{
    struct fix *f = *state;
    struct err *e = NULL;

    assert_null(add(f, "d0", "format=raw,cache=fast", &e));
    assert_non_null(strstr(e->msg, "fast"));
    err_freep(&e);
    assert_null(add(f, "d0", "format=rwa", &e));
    assert_non_null(strstr(e->msg, "rwa"));
    err_freep(&e);
    assert_null(add(f, "d0", "format=raw,offste=1", &e));
    assert_non_null(strstr(e->msg, "offste"));
    err_freep(&e);
}

/* proves: F-BLK-18 */
static void a_named_node_serves_a_device(void **state)
{
    struct fix *f = *state;
    struct err *e = NULL;
    char *text = xasprintf("driver=raw,node-name=n0,file.driver=file,file.filename=%s,offset=4096", f->path);
    struct opts *o = opts_parse(text, NULL, &e);
    struct blk *b;
    int dev;
    char *info;

    assert_true(blk_node_add(f->set, o, &e));
    opts_free(o);
    free(text);
    b = blk_attach(f->set, "n0", &dev, &e);
    assert_non_null(b);
    assert_int_equal(blk_size(b), (1 << 20) - 4096);
    assert_false(blk_node_del(f->set, "n0", &e));
    err_freep(&e);
    blk_detach(b, &dev);
    assert_true(blk_node_del(f->set, "n0", &e));
    add(f, "d0", "format=raw,cache=unsafe", &e);
    info = blk_info(f->set, false, NULL);
    assert_non_null(strstr(info, "unsafe"));
    free(info);
}

static void direct_io_takes_any_alignment(void **state)
{
    struct fix *f = *state;
    struct err *e = NULL;
    struct blk *b = add(f, "d0", "format=raw,cache=none", &e);
    char buf[1000], back[1000];

    if (!b) { /* the file system of /tmp has no direct I/O */
        err_free(e);
        skip();
    }
    memset(buf, 0x5a, sizeof buf);
    assert_int_equal(blk_write(b, 777, buf, sizeof buf), 0);
    assert_int_equal(blk_write(b, 100, "x", 1), 0);
    assert_int_equal(blk_read(b, 777, back, sizeof back), 0);
    assert_memory_equal(buf, back, sizeof buf);
    assert_int_equal(blk_read(b, 99, back, 3), 0);
    assert_memory_equal(back, "\0x\0", 3);
}

static void through_engine(struct fix *f, const char *opts)
{
    struct err *e = NULL;
    struct blk *b = add(f, "d0", opts, &e);
    char buf[100000], back[100000];

    if (!b) {
        print_message("skipped: %s\n", e->msg);
        err_free(e);
        skip();
    }
    memset(buf, 0x33, sizeof buf);
    assert_int_equal(blk_write(b, 4096, buf, sizeof buf), 0);
    assert_int_equal(blk_flush(b), 0);
    assert_int_equal(blk_read(b, 4096, back, sizeof back), 0);
    assert_memory_equal(buf, back, sizeof buf);
}

/* proves: F-BLK-15, F-BLK-16 */
static void native_aio_moves_data(void **state)
{
    through_engine(*state, "format=raw,cache=none,aio=native");
}
static void io_uring_moves_data(void **state)
{
    through_engine(*state, "format=raw,cache=none,aio=io_uring");
}
static void native_aio_needs_direct_io(void **state)
{
    struct err *e = NULL;

    assert_null(add(*state, "d0", "format=raw,aio=native", &e));
    assert_non_null(strstr(e->msg, "cache.direct"));
    err_free(e);
}

static void two_extents(struct blk_node *n, struct blk_extent *first, struct blk_extent *second)
{
    assert_int_equal(blk_node_status(n, 0, n->size, first), 0);
    assert_int_equal(blk_node_status(n, first->len, n->size, second), 0);
}

/* What was found to be data is not remembered beyond a hole made in it. */
static void a_hole_made_in_known_data_is_seen(void **state)
{
    struct fix *f = *state;
    uint8_t buf[65536];
    struct blk *b = add(f, "d0", "format=raw,discard=unmap,node-name=n0", NULL);
    struct blk_node *n = blk_node_find(f->set, "n0");
    struct blk_extent one, two;
    int ret = 1;

    assert_non_null(b);
    assert_non_null(n);
    memset(buf, 1, sizeof buf);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(blk_write(b, i * sizeof buf, buf, sizeof buf), 0);
    two_extents(n, &one, &two);
    assert_true(one.flags & BLK_ST_DATA);
    assert_int_equal(one.len, 1 << 20);
    blk_aio_discard(b, 65536, 65536, on_done, &ret);
    blk_drain(b);
    assert_int_equal(ret, 0);
    two_extents(n, &one, &two);
    assert_int_equal(one.len, 65536);
    assert_true(two.flags & BLK_ST_ZERO);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
UNIT_MAIN(T(what_is_written_is_read_back), T(completions_come_later_and_out_of_range_fails),
          T(a_second_writer_is_refused_and_told_who_holds_it), T(a_guessed_raw_disk_keeps_its_first_block_raw),
          T(bad_options_are_named), T(a_named_node_serves_a_device), T(direct_io_takes_any_alignment),
          T(native_aio_moves_data), T(io_uring_moves_data), T(native_aio_needs_direct_io),
          T(a_hole_made_in_known_data_is_seen))
