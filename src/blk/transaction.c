/* transaction: several changes at one moment, all or none.
 *
 * Every drive of the set stands still from the first action to the last. Each action takes effect at once and leaves a
 * record of how to undo it; when one fails, the records are played backwards. Deleting a bitmap and starting a backup
 * cannot be undone and wait until no action can fail any more (a backup's point in time is the same moment, since
 * nothing writes meanwhile). With completion-mode=grouped the backups end well together or not at all. Files made for
 * overlays stay, as they do when the single command fails. */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/job_int.h"

struct undo {
    struct list link;
    void (*undo)(struct undo *u);   /* NULL: nothing to put back */
    void (*commit)(struct undo *u); /* NULL: nothing left to do */
    struct blk_node *base, *over;   /* over: one reference held */
    struct blk_job *job;
    struct blk_bitmap *bitmap;
    uint64_t *bits; /* owned */
    uint64_t dirty;
    bool enabled;
    char *node, *name; /* owned: of an internal snapshot, by drive */
    struct blk_set *set;
};

static void undo_overlay(struct undo *u)
{
    blk_node_reopen(u->base, true, NULL);
    blk_node_replace(u->over, u->base, NULL, NULL);
    blk_node_set_backing(u->over, NULL, NULL);
    blk_node_reopen(u->base, true, NULL);
}

static bool do_overlay(struct undo *u, const char *cmd, struct json_object *a, struct err **errp)
{
    u->undo = undo_overlay;
    return blk_cmd_overlay(u->set, cmd, a, &u->base, &u->over, errp);
}

static void undo_backup(struct undo *u)
{
    job_drop(u->job);
}

static void commit_backup(struct undo *u)
{
    struct err *e = NULL;

    if (job_start(u->job, &e))
        return;
    warn_report("transaction: a backup could not begin: %s", e->msg);
    err_free(e);
}

static bool do_backup(struct undo *u, const char *cmd, struct json_object *a, struct err **errp)
{
    u->undo = undo_backup;
    u->commit = commit_backup;
    u->job = blk_cmd_backup(u->set, cmd, a, errp);
    return u->job;
}

static void undo_bitmap_add(struct undo *u)
{
    blk_bitmap_free(u->bitmap);
}

static bool do_bitmap_add(struct undo *u, const char *cmd, struct json_object *a, struct err **errp)
{
    u->undo = undo_bitmap_add;
    if (!blk_cmd_bitmap_add(u->set, a, NULL, errp))
        return false;
    u->bitmap = blk_cmd_bitmap(u->set, a, "name", errp);
    return u->bitmap;
}

static void commit_bitmap_remove(struct undo *u)
{
    struct blk_bitmap *b = u->bitmap;

    if (b->persistent && b->node->drv->bitmap_remove)
        b->node->drv->bitmap_remove(b->node, b->name, NULL);
    else
        blk_bitmap_free(b);
}

static bool do_bitmap_remove(struct undo *u, const char *cmd, struct json_object *a, struct err **errp)
{
    u->commit = commit_bitmap_remove;
    u->bitmap = blk_cmd_bitmap(u->set, a, "name", errp);
    return u->bitmap;
}

static void undo_bitmap_change(struct undo *u)
{
    struct blk_bitmap *b = u->bitmap;

    memcpy(b->bits, u->bits, div_up(b->nr_bits, 64) * 8);
    b->dirty = u->dirty;
    b->enabled = u->enabled;
}

/* clear, enable, disable, merge: the bits and the switch are kept aside. */
static bool do_bitmap_change(struct undo *u, const char *cmd, struct json_object *a, struct err **errp)
{
    struct blk_bitmap *b = blk_cmd_bitmap(u->set, a, strstr(cmd, "merge") ? "target" : "name", errp);
    const struct blk_cmd *c = blk_cmd_find(cmd);

    if (!b)
        return false;
    u->bits = try_alloc(div_up(b->nr_bits, 64) + 1, 8);
    if (!u->bits)
        return err_set(errp, "no memory");
    memcpy(u->bits, b->bits, div_up(b->nr_bits, 64) * 8);
    u->bitmap = b;
    u->dirty = b->dirty;
    u->enabled = b->enabled;
    u->undo = undo_bitmap_change;
    return c->fn(u->set, a, NULL, errp);
}

static void undo_internal(struct undo *u)
{
    struct json_object *a = json_make("s:device", u->node, "s:name", u->name, NULL), *ret = NULL;

    blk_cmd_find("blockdev-snapshot-delete-internal-sync")->fn(u->set, a, &ret, NULL);
    json_object_put(ret);
    json_object_put(a);
}

static bool do_internal(struct undo *u, const char *cmd, struct json_object *a, struct err **errp)
{
    u->undo = undo_internal;
    if (!blk_cmd_find(cmd)->fn(u->set, a, NULL, errp))
        return false;
    u->node = xstrdup(json_get_str(a, "device"));
    u->name = xstrdup(json_get_str(a, "name"));
    return true;
}

static bool do_abort(struct undo *u, const char *cmd, struct json_object *a, struct err **errp)
{
    return err_set(errp, "Transaction aborted using Abort action");
}

static const struct action {
    const char *name;
    bool (*act)(struct undo *u, const char *cmd, struct json_object *a, struct err **errp);
    const char *const need[3]; /* members that must be strings */
} actions[] = {
    {"abort", do_abort, {NULL}},
    {"block-dirty-bitmap-add", do_bitmap_add, {"node", "name"}},
    {"block-dirty-bitmap-clear", do_bitmap_change, {"node", "name"}},
    {"block-dirty-bitmap-disable", do_bitmap_change, {"node", "name"}},
    {"block-dirty-bitmap-enable", do_bitmap_change, {"node", "name"}},
    {"block-dirty-bitmap-merge", do_bitmap_change, {"node", "target"}},
    {"block-dirty-bitmap-remove", do_bitmap_remove, {"node", "name"}},
    {"blockdev-backup", do_backup, {"device", "target", "sync"}},
    {"blockdev-snapshot", do_overlay, {"node", "overlay"}},
    {"blockdev-snapshot-internal-sync", do_internal, {"device", "name"}},
    {"blockdev-snapshot-sync", do_overlay, {"snapshot-file"}},
    {"drive-backup", do_backup, {"device", "target", "sync"}},
};

static const struct action *action_of(struct json_object *x, struct json_object **data, struct err **errp)
{
    const char *type = json_get_str(x, "type");

    *data = json_get(x, "data");
    for (size_t i = 0; type && i < ARRAY_LEN(actions); i++) {
        const struct action *c = &actions[i];

        if (strcmp(c->name, type) != 0)
            continue;
        for (size_t k = 0; k < ARRAY_LEN(c->need) && c->need[k]; k++)
            if (!json_get_str(*data, c->need[k])) {
                err_set(errp, "Parameter '%s' is missing", c->need[k]);
                return NULL;
            }
        return c;
    }
    err_set(errp, type ? "Parameter 'type' does not accept value '%s'" : "Parameter '%s' is missing",
            type ? type : "type");
    return NULL;
}

static bool act(struct blk_set *s, struct json_object *x, struct list *log, struct err **errp)
{
    struct json_object *data;
    const struct action *c = action_of(x, &data, errp);
    struct undo *u;

    if (!c)
        return false;
    u = xnew(struct undo);
    u->set = s;
    if (c->act(u, c->name, data, errp)) {
        list_add(log, &u->link);
        return true;
    }
    free(u->bits);
    free(u);
    return false;
}

static void hold_drives(struct blk_set *s, bool hold)
{
    struct blk *b;

    list_each (b, &s->drives, in_set) {
        if (hold)
            blk_quiesce(b);
        else
            blk_unquiesce(b);
    }
}

static void finish(struct list *log, bool ok)
{
    while (!list_empty(log)) {
        struct list *l = ok ? log->next : log->prev;
        struct undo *u = container_of(l, struct undo, link);

        list_del(&u->link);
        if (ok ? u->commit != NULL : u->undo != NULL)
            (ok ? u->commit : u->undo)(u);
        blk_node_unref(u->over);
        free(u->bits);
        free(u->node);
        free(u->name);
        free(u);
    }
}

bool blk_cmd_transaction(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct json_object *list = json_get(a, "actions"), *props = json_get(a, "properties");
    const char *mode = props ? json_get_str(props, "completion-mode") : NULL;
    struct list log = LIST_INIT(log);
    struct job_group *group = NULL;
    bool ok = true;

    if (mode && !strcmp(mode, "grouped")) {
        group = xnew(struct job_group);
        *group = (struct job_group){.refs = 1};
    } else if (mode && strcmp(mode, "individual") != 0) {
        return err_set(errp, "Invalid parameter '%s'", mode);
    }
    hold_drives(s, true);
    for (size_t i = 0; ok && i < json_object_array_length(list); i++)
        ok = act(s, json_object_array_get_idx(list, i), &log, errp);
    for (struct list *l = log.next; ok && group && l != &log; l = l->next) {
        struct undo *u = container_of(l, struct undo, link);

        if (u->job)
            job_group_join(group, u->job);
    }
    finish(&log, ok);
    job_group_unref(group);
    hold_drives(s, false);
    return ok;
}
