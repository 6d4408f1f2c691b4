/* Exports other than NBD's: their list, and what they share (blk/export.h). */
#include "blk/export.h"
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/job_int.h"

struct blk_export *blk_export_find(struct blk_set *s, const char *id)
{
    struct blk_export *e;

    list_each (e, &s->exports, link)
        if (!strcmp(e->id, id))
            return e;
    return NULL;
}

static void export_free(struct blk_export *e)
{
    blk_child_detach(e->root);
    free(e->id);
    free(e);
}

struct blk_export *blk_export_add(struct blk_set *s, const struct blk_export_type *t, struct json_object *args,
                                  struct err **errp)
{
    const char *name = json_get_str(args, "node-name");
    struct blk_node *n = blk_cmd_node(s, name, errp);
    bool writable = json_get_bool(args, "writable", false);
    struct blk_export *e;

    if (!n)
        return NULL;
    if (writable && blk_node_readonly(n)) {
        err_set(errp, "the node '%s' is read-only and cannot be exported writable", name);
        return NULL;
    }
    e = xcalloc(1, t->size);
    e->set = s;
    e->type = t;
    e->id = xstrdup(json_get_str(args, "id"));
    e->writable = writable;
    e->writethrough = json_get_bool(args, "writethrough", false);
    e->root = blk_child_root(n, "export", BLK_PERM_READ | (writable ? BLK_PERM_WRITE : 0), BLK_PERM_ALL, errp);
    if (!e->root || !t->start(e, args, errp)) {
        export_free(e);
        return NULL;
    }
    list_add(&s->exports, &e->link);
    return e;
}

void blk_export_remove(struct blk_export *e)
{
    struct blk_set *s = e->set;

    list_del(&e->link);
    e->stopping = true;
    e->type->stop(e);
    run_event(s->run, "BLOCK_EXPORT_DELETED", json_make("s:id", e->id, NULL));
    export_free(e);
    blk_home_check(s);
}

void blk_exports_stop(struct blk_set *s)
{
    while (!list_empty(&s->exports))
        blk_export_remove(list_first(&s->exports, struct blk_export, link));
}

struct blk_node *blk_export_enter(struct blk_export *e)
{
    while (e->root->held) /* the graph below is being changed */
        blk_sleep(e->set, NS_PER_MS);
    e->running++;
    return e->root->node;
}

void blk_export_leave(struct blk_export *e)
{
    e->running--;
}

struct blk_export_wait {
    struct fibre *f;
    struct ev_fd *w;
    bool woken;
};

static void ready(void *opaque, int fd, unsigned events)
{
    struct blk_export_wait *w = opaque;

    ev_fd_set(w->w, 0);
    if (w->woken)
        return;
    w->woken = true;
    fibre_resume(w->f);
}

bool blk_export_wait(struct blk_export *e, int fd, unsigned events)
{
    struct blk_export_wait w = {.f = fibre_self()};

    if (e->stopping)
        return false;
    w.w = ev_fd_add(blk_set_loop(e->set), fd, events, ready, &w);
    e->waiting = &w;
    fibre_yield();
    e->waiting = NULL;
    ev_fd_del(w.w);
    return !e->stopping;
}

void blk_export_settle(struct blk_export *e, const unsigned *busy)
{
    struct blk_export_wait *w = e->waiting;

    if (w && !w->woken) {
        w->woken = true;
        fibre_wake(blk_set_loop(e->set), w->f);
    }
    while (*busy || e->running)
        ev_loop_turn(blk_set_loop(e->set), 10 * NS_PER_MS);
}
