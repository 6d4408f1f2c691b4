/* Overlays and jobs on a running drive: the guest's view never changes but by its own writes. */
#include "base/json.h"
#include "blk/job.h"
#include "blk/node.h"
#include "blk/simdisk.h"
#include "unit.h"
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 4 << 20 };
struct fix {
    struct run *run;
    struct blk_set *set;
    char dir[32], events[4096];
    uint8_t shadow[SIZE];
};

static void on_event(void *opaque, const char *name, struct json_object *data)
{
    struct fix *f = opaque;

    if (!strncmp(name, "BLOCK_JOB", 9)) {
        strcat(f->events, name);
        strcat(f->events, json_get(data, "error") ? "!;" : ";");
    }
}

static int setup(void **state)
{
    struct fix *f = xnew(struct fix);

    strcpy(f->dir, "/tmp/blk-job-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    f->run = run_new();
    f->set = blk_set_new(f->run);
    run_listen(f->run, on_event, f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;
    char *cmd = xasprintf("rm -rf %s", f->dir);

    blk_set_free(f->set);
    run_unlisten(f->run, on_event, f);
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

static struct blk *drive(struct fix *f, const char *file, const char *opts)
{
    char *p = path(f, file), *text = xasprintf("file=%s,format=qcow2%s", p, opts);
    struct err *e = NULL;
    struct opts *o = opts_parse("size=4M", NULL, NULL);
    struct blk *b;

    if (access(p, F_OK) < 0)
        assert_true(blk_create(f->set, p, "qcow2", o, &e));
    opts_free(o);
    o = opts_parse(text, NULL, NULL);
    b = blk_drive_add(f->set, "d0", o, &e);
    if (!b)
        fail_msg("%s", e->msg);
    opts_free(o);
    free(text);
    free(p);
    return b;
}

static bool cmd(struct fix *f, const char *name, const char *fmt, const char *file)
{
    char *p = file ? path(f, file) : NULL, *text = xasprintf(fmt, p);
    struct err *e = NULL;

    for (char *c = text; *c; c++)
        if (*c == '\'')
            *c = '"';
    struct json_object *a = json_parse(text, strlen(text), &e), *ret = NULL;
    bool ok = a && blk_cmd_find(name)->fn(f->set, a, &ret, &e);

    if (e)
        fprintf(stderr, "%s: %s\n", name, e->msg);
    err_free(e);
    json_object_put(a);
    json_object_put(ret);
    free(text);
    free(p);
    return ok;
}

static void scribble(struct fix *f, struct blk *b, unsigned seed)
{
    for (unsigned i = 0; i < 40; i++) {
        uint32_t off = (seed * 7919 + i * 104729) % (SIZE - 5000), len = 1 + (seed * 31 + i * 997) % 4999;

        memset(f->shadow + off, (int)(seed * 16 + i), len);
        assert_int_equal(blk_write(b, off, f->shadow + off, len), 0);
    }
}

static void same(struct fix *f, struct blk *b)
{
    uint8_t *now = xmalloc(SIZE);

    assert_int_equal(blk_read(b, 0, now, SIZE), 0);
    assert_memory_equal(now, f->shadow, SIZE);
    free(now);
}

static void until(struct fix *f, const char *event)
{
    for (int i = 0; i < 2000 && !strstr(f->events, event); i++)
        ev_loop_turn(f->run->loop, 5000000);
    if (!strstr(f->events, event))
        fail_msg("no %s in %s", event, f->events);
}

/* proves: F-SNP-05, F-SNP-06, S337, S333, S334, S338 */
static void an_overlay_is_taken_and_merged_back_while_writing(void **state)
{
    struct fix *f = *state;
    struct blk *b = drive(f, "base.qcow2", "");
    struct json_object *q;
    char *base = path(f, "base.qcow2");

    scribble(f, b, 1);
    assert_true(cmd(f, "blockdev-snapshot-sync", "{'device':'d0','snapshot-file':'%s'}", "over.qcow2"));
    same(f, b);
    scribble(f, b, 2);
    same(f, b);
    assert_true(cmd(f, "block-commit", "{'device':'d0'}", NULL));
    for (int i = 0; i < 20; i++) {
        scribble(f, b, 3 + (unsigned)i);
        ev_loop_turn(f->run->loop, 0);
    }
    until(f, "BLOCK_JOB_READY");
    scribble(f, b, 40);
    assert_true(cmd(f, "block-job-complete", "{'device':'d0'}", NULL));
    until(f, "BLOCK_JOB_COMPLETED;");
    same(f, b);
    q = blk_query(f->set);
    assert_string_equal(json_get_str(json_get(json_object_array_get_idx(q, 0), "inserted"), "file"), base);
    json_object_put(q);
    free(base);
    scribble(f, b, 50);
    same(f, b);
}

static void a_middle_layer_is_merged_down(void **state)
{
    struct fix *f = *state;
    struct blk *b = drive(f, "base.qcow2", "");
    char *mid = path(f, "mid.qcow2"), *text = xasprintf("{'device':'d0','top':'%s'}", mid);

    scribble(f, b, 1);
    assert_true(cmd(f, "blockdev-snapshot-sync", "{'device':'d0','snapshot-file':'%s'}", "mid.qcow2"));
    scribble(f, b, 2);
    assert_true(cmd(f, "blockdev-snapshot-sync", "{'device':'d0','snapshot-file':'%s'}", "top.qcow2"));
    scribble(f, b, 3);
    assert_true(cmd(f, "block-commit", text, NULL));
    until(f, "BLOCK_JOB_COMPLETED;");
    same(f, b);
    scribble(f, b, 4);
    same(f, b);
    free(text);
    free(mid);
}

static void a_chain_is_streamed_into_one_image(void **state)
{
    struct fix *f = *state;
    struct blk *b = drive(f, "base.qcow2", "");
    char *info;

    scribble(f, b, 1);
    assert_true(cmd(f, "blockdev-snapshot-sync", "{'device':'d0','snapshot-file':'%s'}", "over.qcow2"));
    scribble(f, b, 2);
    assert_true(cmd(f, "block-stream", "{'device':'d0'}", NULL));
    scribble(f, b, 3);
    until(f, "BLOCK_JOB_COMPLETED;");
    same(f, b);
    info = blk_info(f->set, false, NULL);
    assert_null(strstr(info, "Backing file"));
    free(info);
}

static void a_mirror_takes_over_on_completion(void **state)
{
    struct fix *f = *state;
    struct blk *b = drive(f, "a.qcow2", "");
    char *info;

    scribble(f, b, 1);
    assert_true(cmd(f, "drive-mirror", "{'device':'d0','sync':'full','target':'%s'}", "b.qcow2"));
    scribble(f, b, 2);
    until(f, "BLOCK_JOB_READY");
    scribble(f, b, 3);
    assert_true(cmd(f, "block-job-complete", "{'device':'d0'}", NULL));
    until(f, "BLOCK_JOB_COMPLETED;");
    same(f, b);
    scribble(f, b, 4);
    same(f, b);
    info = blk_info(f->set, false, NULL);
    assert_non_null(strstr(info, "b.qcow2"));
    free(info);
}

/* After READY every write is on the target when its writer hears of it, whatever its alignment; before that, and with
 * the copying in the background going on, nothing is lost. */
static void a_write_blocking_mirror_is_always_in_step(void **state)
{
    struct fix *f = *state;
    struct blk *b = drive(f, "a.qcow2", "");
    uint8_t *got = xmalloc(SIZE);
    struct blk_node *t;

    scribble(f, b, 1);
    assert_true(cmd(f, "drive-mirror",
                    "{'device':'d0','sync':'full','target':'%s','node-name':'t','copy-mode':'write-blocking',"
                    "'granularity':65536,'speed':20000000}",
                    "b.qcow2"));
    scribble(f, b, 2);
    until(f, "BLOCK_JOB_READY");
    t = blk_node_find(f->set, "t");
    assert_non_null(t);
    for (unsigned i = 0; i < 60; i++) {
        uint32_t off = i * 50021 % (SIZE - 9000), len = i % 3 ? 1 + i * 97 % 8999 : 4096;

        memset(f->shadow + off, (int)i + 7, len);
        assert_int_equal(blk_write(b, off, f->shadow + off, len), 0);
        assert_int_equal(blk_node_pread_sync(t, 0, got, SIZE), 0);
        assert_memory_equal(got, f->shadow, SIZE);
    }
    assert_true(cmd(f, "block-job-complete", "{'device':'d0'}", NULL));
    until(f, "BLOCK_JOB_COMPLETED;");
    same(f, b);
    scribble(f, b, 4);
    same(f, b);
    free(got);
}

static void a_backup_holds_the_disk_as_it_was_when_it_began(void **state)
{
    struct fix *f = *state;
    struct blk *b = drive(f, "a.qcow2", ""), *c;
    uint8_t *then = xmalloc(SIZE), *got = xmalloc(SIZE);
    char *p = path(f, "bak.raw"), *text = xasprintf("file=%s,format=raw", p);
    struct opts *o = opts_parse(text, NULL, NULL);

    scribble(f, b, 1);
    memcpy(then, f->shadow, SIZE);
    assert_true(cmd(f, "drive-backup", "{'device':'d0','sync':'full','format':'raw','speed':4000000,'target':'%s'}",
                    "bak.raw"));
    ev_loop_turn(f->run->loop, 0);
    ev_loop_turn(f->run->loop, 0);
    scribble(f, b, 2);
    until(f, "BLOCK_JOB_COMPLETED;");
    same(f, b);
    c = blk_drive_add(f->set, "bak", o, NULL);
    assert_non_null(c);
    assert_int_equal(blk_read(c, 0, got, SIZE), 0);
    assert_memory_equal(got, then, SIZE);
    opts_free(o);
    free(text);
    free(p);
    free(then);
    free(got);
}

/* proves: F-SNP-03, F-SNP-04, F-BLK-24, S343, S344 */
static void a_throwaway_run_leaves_the_image_unless_committed(void **state)
{
    struct fix *f = *state;
    struct blk *b = drive(f, "a.qcow2", "");
    struct err *e = NULL;
    uint8_t *was = xmalloc(SIZE);

    scribble(f, b, 1);
    memcpy(was, f->shadow, SIZE);
    blk_set_free(f->set);
    f->set = blk_set_new(f->run);
    b = drive(f, "a.qcow2", ",snapshot=on");
    scribble(f, b, 2);
    same(f, b);
    blk_set_free(f->set);
    f->set = blk_set_new(f->run);
    memcpy(f->shadow, was, SIZE);
    b = drive(f, "a.qcow2", ",snapshot=on");
    same(f, b);
    scribble(f, b, 3);
    if (!blk_commit(f->set, NULL, &e))
        fail_msg("%s", e->msg);
    same(f, b);
    scribble(f, b, 4);
    memcpy(was, f->shadow, SIZE);
    assert_true(blk_commit(f->set, "d0", &e));
    blk_set_free(f->set);
    f->set = blk_set_new(f->run);
    b = drive(f, "a.qcow2", "");
    same(f, b);
    free(was);
}

/* proves: F-SNP-01, F-SNP-02 */
static void a_machine_snapshot_brings_back_disk_and_state(void **state)
{
    struct fix *f = *state;
    struct blk *b = drive(f, "a.qcow2", "");
    struct err *e = NULL;
    uint8_t *was = xmalloc(SIZE);
    char ram[9000], got[9000];
    uint64_t size;
    char *t;

    scribble(f, b, 1);
    memcpy(was, f->shadow, SIZE);
    memset(ram, 'r', sizeof ram);
    assert_true(blk_vmstate_write(f->set, NULL, 0, ram, sizeof ram, &e));
    assert_true(blk_snap_save(f->set, NULL, "one", sizeof ram, 5000000000, &e));
    scribble(f, b, 2);
    t = blk_snap_info(f->set);
    assert_non_null(strstr(t, "one"));
    free(t);
    if (!blk_snap_load(f->set, NULL, "one", &size, &e))
        fail_msg("%s", e->msg);
    assert_int_equal(size, sizeof ram);
    assert_true(blk_vmstate_read(f->set, NULL, 0, got, sizeof got, &e));
    assert_memory_equal(ram, got, sizeof ram);
    memcpy(f->shadow, was, SIZE);
    same(f, b);
    scribble(f, b, 3);
    same(f, b);
    assert_false(blk_snap_load(f->set, NULL, "two", &size, &e));
    err_freep(&e);
    assert_true(blk_snap_delete(f->set, NULL, "one", &e));
    same(f, b);
    free(was);
}

static void a_running_drive_is_exported_and_withdrawn(void **state)
{
    struct fix *f = *state;
    struct blk *b = drive(f, "a.qcow2", "");
    char *sock = path(f, "s");

    scribble(f, b, 1);
    assert_true(cmd(f, "nbd-server-start", "{'addr':{'type':'unix','data':{'path':'%s'}}}", "s"));
    assert_true(cmd(f, "nbd-server-add", "{'device':'d0'}", NULL));
    assert_int_equal(access(sock, F_OK), 0); /* what a client sees is proven with qemu-nbd, the same server */
    scribble(f, b, 2);
    same(f, b);
    assert_true(cmd(f, "nbd-server-remove", "{'name':'d0'}", NULL));
    assert_true(cmd(f, "nbd-server-stop", "{}", NULL));
    assert_false(cmd(f, "nbd-server-stop", "{}", NULL));
    assert_int_not_equal(access(sock, F_OK), 0);
    free(sock);
}

static void throttling_and_copy_on_read_change_speed_and_place_only(void **state)
{
    struct fix *f = *state;
    struct blk *b = drive(f, "base.qcow2", "");
    struct timespec a, z;
    double sec;
    char *info;

    scribble(f, b, 1);
    assert_true(cmd(f, "blockdev-snapshot-sync", "{'device':'d0','snapshot-file':'%s'}", "over.qcow2"));
    blk_set_free(f->set);
    f->set = blk_set_new(f->run);
    b = drive(f, "over.qcow2", ",copy-on-read=on");
    same(f, b);
    info = blk_info(f->set, false, NULL);
    assert_non_null(strstr(info, "copy-on-read"));
    free(info);
    blk_set_free(f->set);
    f->set = blk_set_new(f->run);
    b = drive(f, "over.qcow2", ",throttling.bps-total=16M");
    clock_gettime(CLOCK_MONOTONIC, &a);
    same(f, b);
    same(f, b);
    clock_gettime(CLOCK_MONOTONIC, &z);
    sec = (double)(z.tv_sec - a.tv_sec) + (double)(z.tv_nsec - a.tv_nsec) / 1e9;
    assert_true(sec > 0.1 && sec < 5); /* 8 MiB at 16 MiB/s, the first tenth of a second free */
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
UNIT_MAIN(T(an_overlay_is_taken_and_merged_back_while_writing), T(a_middle_layer_is_merged_down),
          T(a_chain_is_streamed_into_one_image), T(a_mirror_takes_over_on_completion),
          T(a_write_blocking_mirror_is_always_in_step), T(a_backup_holds_the_disk_as_it_was_when_it_began),
          T(a_throwaway_run_leaves_the_image_unless_committed), T(a_running_drive_is_exported_and_withdrawn),
          T(throttling_and_copy_on_read_change_speed_and_place_only), T(a_machine_snapshot_brings_back_disk_and_state))
