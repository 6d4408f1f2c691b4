/* Requests on an I/O thread while the main loop changes the graph below: overlays, a mirror, queries. The guest's
 * writes come from the thread itself, a few at a time, each into a slot of its own, and every one must be there at the
 * end. */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/job.h"
#include "blk/secret.h"
#include "unit.h"
#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { SLOT = 64 << 10, SLOTS = 64, SIZE = SLOT * SLOTS, LANES = 4, PATIENCE_S = 60 };

struct lane {
    struct fix *f;
    unsigned nr, count;
    uint8_t buf[SLOT];
    struct iovec v;
    struct iov q;
};
struct fix {
    struct run *run;
    struct blk_set *set;
    struct blk *b;
    struct iothread *io;
    char dir[32];
    uint8_t shadow[SIZE];
    struct lane lane[LANES];
    _Atomic bool stop;
    _Atomic unsigned live, done, wrong_thread;
};

static int setup(void **state)
{
    struct fix *f = xnew(struct fix);

    strcpy(f->dir, "/tmp/blk-iothr-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    f->run = run_new();
    f->set = blk_set_new(f->run);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;
    char *cmd = xasprintf("rm -rf %s", f->dir);

    f->stop = true; /* after a failure the lanes would write for ever */
    blk_set_free(f->set);
    run_free(f->run);
    assert_int_equal(system(cmd), 0);
    free(cmd);
    free(f);
    return 0;
}

static char *path(struct fix *f, const char *name)
{
    return xasprintf("%s/%s", f->dir, name);
}

static void open_disk(struct fix *f, const char *fmt, const char *more)
{
    char *p = path(f, "base"), *text = xasprintf("file=%s,format=%s%s", p, fmt, more);
    struct err *e = NULL;
    struct opts *o = opts_parse("size=4M", NULL, NULL);

    assert_true(blk_create(f->set, p, fmt, o, &e));
    opts_free(o);
    o = opts_parse(text, NULL, NULL);
    f->b = blk_drive_add(f->set, "d0", o, &e);
    if (!f->b)
        fail_msg("%s", e->msg);
    opts_free(o);
    free(text);
    free(p);
    assert_true(blk_object_add(f->set, "iothread,id=io0", &e));
    f->io = blk_iothread_find(f->set, "io0", &e);
    assert_non_null(f->io);
    blk_set_iothread(f->b, f->io);
}

static void lane_write(void *opaque);

static void lane_done(void *opaque, int ret)
{
    struct lane *l = opaque;

    assert_int_equal(ret, 0);
    l->f->wrong_thread += iothread_self() != l->f->io;
    l->f->done++;
    if (l->f->stop)
        l->f->live--;
    else
        lane_write(l);
}

/* Lane n owns the slots n, n + LANES ...; the shadow follows what was sent. */
static void lane_write(void *opaque)
{
    struct lane *l = opaque;
    uint64_t slot = l->nr + LANES * ((l->count * 7) % (SLOTS / LANES));

    l->count++;
    memset(l->buf, (int)(l->nr * 61 + l->count), SLOT);
    memcpy(l->f->shadow + slot * SLOT, l->buf, SLOT);
    l->v = (struct iovec){l->buf, SLOT};
    iov_init_ext(&l->q, &l->v, 1);
    blk_aio_write(l->f->b, slot * SLOT, &l->q, 0, lane_done, l);
}

static void lanes_start(struct fix *f)
{
    f->stop = false;
    f->live = LANES;
    for (unsigned i = 0; i < LANES; i++) {
        f->lane[i].f = f;
        f->lane[i].nr = i;
        ev_call(f->io->loop, lane_write, &f->lane[i]);
    }
}

/* Time, not turns: on a busy host a turn does little. */
static bool patient(const struct timespec *since)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec - since->tv_sec < PATIENCE_S;
}

static struct timespec started(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t;
}

static void turn(struct fix *f, unsigned writes)
{
    unsigned from = f->done;
    struct timespec since = started();

    while (f->done - from < writes && patient(&since))
        ev_loop_turn(f->run->loop, 1000000);
    assert_true(f->done - from >= writes);
}

static void lanes_stop(struct fix *f)
{
    struct timespec since = started();

    f->stop = true;
    while (f->live && patient(&since))
        ev_loop_turn(f->run->loop, 1000000);
    assert_int_equal(f->live, 0);
}

static void same(struct fix *f)
{
    uint8_t *now = xmalloc(SIZE);

    assert_int_equal(blk_read(f->b, 0, now, SIZE), 0);
    assert_memory_equal(now, f->shadow, SIZE);
    free(now);
}

static bool cmd(struct fix *f, const char *name, const char *fmt, const char *file)
{
    char *p = file ? path(f, file) : NULL, *text = xasprintf(fmt, p);
    struct err *e = NULL;

    for (char *c = text; *c; c++)
        if (*c == '\'')
            *c = '"';
    struct json_object *a = json_parse(text, strlen(text), &e), *ret = NULL;
    bool ok = a && blk_cmd_run(f->set, name, a, &ret, &e);

    if (e)
        fprintf(stderr, "%s: %s\n", name, e->msg);
    err_free(e);
    json_object_put(a);
    json_object_put(ret);
    free(text);
    free(p);
    return ok;
}

static bool away(struct fix *f)
{
    struct timespec since = started();

    while (f->b->loop != f->io->loop && patient(&since))
        ev_loop_turn(f->run->loop, 1000000);
    return f->b->loop == f->io->loop;
}

/* proves: F-STO-03 */
static void requests_run_and_end_on_the_thread(void **state)
{
    struct fix *f = *state;

    open_disk(f, "raw", "");
    assert_true(away(f));
    lanes_start(f);
    turn(f, 300);
    assert_ptr_equal(f->b->loop, f->io->loop);
    lanes_stop(f);
    assert_int_equal(f->wrong_thread, 0);
    same(f);
}

static void the_graph_changes_below_a_writing_thread(void **state)
{
    struct fix *f = *state;
    struct json_object *q;

    open_disk(f, "qcow2", "");
    assert_true(away(f));
    lanes_start(f);
    turn(f, 100);
    for (int i = 0; i < 3; i++) {
        char *name = xasprintf("over%d", i);

        assert_true(cmd(f, "blockdev-snapshot-sync", "{'device':'d0','snapshot-file':'%s'}", name));
        free(name);
        q = blk_query(f->set);
        json_object_put(q);
        turn(f, 100);
    }
    assert_true(away(f)); /* commands over, overlays in place: back on its thread */
    assert_true(
        cmd(f, "drive-mirror", "{'device':'d0','job-id':'m','target':'%s','sync':'full','format':'raw'}", "copy"));
    assert_ptr_equal(f->b->loop, f->set->loop); /* as long as the job is there */
    turn(f, 200);
    assert_true(cmd(f, "block-job-cancel", "{'device':'m'}", NULL));
    turn(f, 200);
    assert_true(away(f));
    lanes_stop(f);
    assert_int_equal(f->wrong_thread, 0);
    same(f);
}

/* A driver with a timer on the main loop keeps the whole graph there; the answers still come on the thread. */
static void throttled_disks_stay_on_the_main_loop(void **state)
{
    struct fix *f = *state;

    open_disk(f, "raw", ",throttling.iops-total=2000");
    lanes_start(f);
    turn(f, 50);
    assert_ptr_equal(f->b->loop, f->set->loop);
    lanes_stop(f);
    assert_int_equal(f->wrong_thread, 0);
    same(f);
}

static void threads_are_listed_and_refused_by_name(void **state)
{
    struct fix *f = *state;
    struct err *e = NULL;
    struct json_object *q;

    open_disk(f, "raw", "");
    assert_null(blk_iothread_find(f->set, "nope", &e));
    assert_string_equal(e->msg, "Property 'iothread' can't find value 'nope'");
    err_free(e);
    q = blk_query_iothreads(f->set);
    assert_int_equal(json_object_array_length(q), 1);
    assert_true(json_get_int(json_object_array_get_idx(q, 0), "thread-id", 0) > 0);
    json_object_put(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(requests_run_and_end_on_the_thread, setup, teardown),
        cmocka_unit_test_setup_teardown(the_graph_changes_below_a_writing_thread, setup, teardown),
        cmocka_unit_test_setup_teardown(throttled_disks_stay_on_the_main_loop, setup, teardown),
        cmocka_unit_test_setup_teardown(threads_are_listed_and_refused_by_name, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
