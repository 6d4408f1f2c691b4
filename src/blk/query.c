/* What people and programs are told about drives and images: query-block, info block, and the image description that
 * qemu-img info shares with them. The words are those scripts match on. */
#include "base/json.h"
#include "blk/blk_int.h"
#include <inttypes.h>
#include <stdio.h>

static void put(struct json_object *o, const char *key, struct json_object *v)
{
    if (v)
        json_object_object_add(o, key, v);
}

static struct json_object *snap_list(struct blk_node *n)
{
    struct blk_snap *sn = NULL;
    struct json_object *a;
    int nr = n->drv->snap_list ? n->drv->snap_list(n, &sn) : 0;

    if (nr <= 0)
        return NULL;
    a = json_object_new_array();
    for (int i = 0; i < nr; i++) {
        struct json_object *o =
            json_make("u:vm-state-size", sn[i].vm_size, "s:name", sn[i].name, "s:id", sn[i].id, "i:date-sec",
                      sn[i].date_sec, "u:date-nsec", (uint64_t)sn[i].date_nsec, "u:vm-clock-sec",
                      sn[i].vm_clock_ns / 1000000000, "u:vm-clock-nsec", sn[i].vm_clock_ns % 1000000000, NULL);

        if (sn[i].icount != UINT64_MAX)
            put(o, "icount", json_object_new_uint64(sn[i].icount));
        json_object_array_add(a, o);
    }
    blk_snaps_free(sn, nr);
    return a;
}

struct json_object *blk_node_image_info(struct blk_node *n, bool chain)
{
    struct blk_node *u = blk_node_unfiltered(n);
    uint64_t used = blk_node_allocated(u);
    struct json_object *o = json_make("u:virtual-size", u->size, "s:filename", blk_node_filename(u), NULL), *spec;
    char *full AUTOFREE = blk_node_backing_path(u);

    if (u->cluster_size)
        put(o, "cluster-size", json_object_new_int64(u->cluster_size));
    put(o, "format", json_object_new_string(u->drv->name));
    if (used != UINT64_MAX)
        put(o, "actual-size", json_object_new_uint64(used));
    if (u->encrypted)
        put(o, "encrypted", json_object_new_boolean(1));
    put(o, "snapshots", snap_list(u));
    spec = u->drv->info ? u->drv->info(u) : NULL;
    put(o, "format-specific", spec);
    if (u->backing_name) {
        put(o, "full-backing-filename", json_object_new_string(full));
        put(o, "backing-filename", json_object_new_string(u->backing_name));
        if (u->backing_fmt && *u->backing_fmt)
            put(o, "backing-filename-format", json_object_new_string(u->backing_fmt));
    }
    put(o, "dirty-flag", json_object_new_boolean(u->dirty_flag));
    if (chain && u->backing)
        put(o, "backing-image", blk_node_image_info(u->backing->node, true));
    return o;
}

static struct json_object *bitmap_list(struct blk_node *n)
{
    struct json_object *a = NULL;
    struct blk_bitmap *b;

    list_each (b, &n->bitmaps, link) {
        struct json_object *o =
            json_make("s:name", b->name, "b:recording", b->enabled, "b:persistent", b->persistent, "b:busy", b->busy,
                      "i:granularity", (int64_t)b->gran, "u:count", b->dirty * b->gran, NULL);

        if (b->inconsistent)
            put(o, "inconsistent", json_object_new_boolean(1));
        if (!a)
            a = json_object_new_array();
        json_object_array_add(a, o);
    }
    return a;
}

static unsigned chain_depth(struct blk_node *n)
{
    unsigned d = 0;

    while ((n = blk_node_cow(n)))
        d++;
    return d;
}

/* What people take for a handle's node: not the throttle filter that limits of the drive put above it. */
static struct blk_node *shown(const struct blk *b)
{
    struct blk_node *n = b->root->node;

    return !n->named && !strcmp(n->drv->name, "throttle") ? n->file->node : n;
}

/* The BlockDeviceInfo of a node; b may be NULL. */
static struct json_object *device_info(struct blk_node *n, struct blk *b)
{
    struct blk_node *u = blk_node_unfiltered(n);
    struct json_object *o = json_make("s:file", blk_node_filename(u), "s:node-name", n->name, "b:ro",
                                      b ? blk_readonly(b) : blk_node_readonly(n), "s:drv", n->drv->name, "b:encrypted",
                                      u->encrypted, "s:detect_zeroes",
                                      !n->detect_zeroes ? "off"
                                      : n->detect_unmap ? "unmap"
                                                        : "on",
                                      NULL);

    if (u->backing_name)
        put(o, "backing_file", json_object_new_string(u->backing_name));
    put(o, "backing_file_depth", json_object_new_int64(chain_depth(n)));
    blk_throttle_query(b ? b->root->node : n, o);
    put(o, "write_threshold", json_object_new_uint64(n->write_threshold));
    put(o, "image", blk_node_image_info(n, true));
    put(o, "cache",
        json_make("b:writeback", b ? !b->writethrough : 1, "b:direct", !!(n->open_flags & BLK_O_DIRECT), "b:no-flush",
                  !!(n->open_flags & BLK_O_NO_FLUSH), NULL));
    put(o, "dirty-bitmaps", bitmap_list(n));
    return o;
}

static bool removable(const struct blk *b)
{
    return b->ops ? b->ops->media_changed != NULL : !b->root;
}

struct json_object *blk_query(struct blk_set *s)
{
    BLK_HOME_SCOPE(s);
    struct json_object *a = json_object_new_array();
    struct blk *b;

    list_each (b, &s->drives, in_set) {
        struct json_object *o =
            json_make("s:device", b->is_drive ? b->id : "", "s:type", "unknown", "b:removable", removable(b),
                      "b:locked", b->ops && b->ops->is_locked && b->ops->is_locked(b->ops_opaque), NULL);

        if (b->dev) {
            char *path AUTOFREE = obj_path(b->dev);

            put(o, "qdev", json_object_new_string(path));
        }
        if (b->ops && b->ops->is_tray_open)
            put(o, "tray_open", json_object_new_boolean(b->ops->is_tray_open(b->ops_opaque)));
        put(o, "io-status", json_object_new_string(!b->io_error ? "ok" : b->io_error == 28 ? "nospace" : "failed"));
        if (b->root)
            put(o, "inserted", device_info(shown(b), b));
        json_object_array_add(a, o);
    }
    return a;
}

struct json_object *blk_query_nodes(struct blk_set *s, bool flat)
{
    BLK_HOME_SCOPE(s);
    struct json_object *a = json_object_new_array();
    struct blk_node *n;

    (void)flat;
    list_each (n, &s->nodes, in_set)
        json_object_array_add(a, device_info(n, NULL));
    return a;
}

struct json_object *blk_query_stats(struct blk_set *s)
{
    static const char *const names[4] = {"rd", "wr", "flush", "unmap"};
    struct json_object *a = json_object_new_array();
    struct blk *b;

    list_each (b, &s->drives, in_set) {
        struct json_object *st = json_object_new_object(), *o;
        char key[40];

        for (unsigned k = 0; k < 4; k++) {
            if (k != 2) {
                snprintf(key, sizeof key, "%s_bytes", names[k]);
                put(st, key, json_object_new_uint64(b->stats.bytes[k]));
            }
            snprintf(key, sizeof key, "%s_operations", names[k]);
            put(st, key, json_object_new_uint64(b->stats.ops[k]));
            snprintf(key, sizeof key, "%s_total_time_ns", names[k]);
            put(st, key, json_object_new_uint64(b->stats.time_ns[k]));
            snprintf(key, sizeof key, "failed_%s_operations", names[k]);
            put(st, key, json_object_new_uint64(b->stats.failed[k]));
            snprintf(key, sizeof key, "invalid_%s_operations", names[k]);
            put(st, key, json_object_new_uint64(0));
            snprintf(key, sizeof key, "%s_merged", names[k]);
            put(st, key, json_object_new_uint64(0));
        }
        put(st, "account_invalid", json_object_new_boolean(1));
        put(st, "account_failed", json_object_new_boolean(1));
        put(st, "timed_stats", json_object_new_array());
        put(st, "wr_highest_offset", json_object_new_uint64(b->root ? b->root->node->wr_highest : 0));
        o = json_make("s:device", b->is_drive ? b->id : "", "o:stats", st, NULL);
        if (b->root)
            put(o, "node-name", json_object_new_string(shown(b)->name));
        if (b->dev) {
            char *path AUTOFREE = obj_path(b->dev);

            put(o, "qdev", json_object_new_string(path));
        }
        json_object_array_add(a, o);
    }
    return a;
}

/* ---- text ---- */

static void info_limits(struct strbuf *t, struct blk_node *n)
{
    static const char *const keys[] = {"bps",         "bps_rd",      "bps_wr",   "bps_max", "bps_rd_max",
                                       "bps_wr_max",  "iops",        "iops_rd",  "iops_wr", "iops_max",
                                       "iops_rd_max", "iops_wr_max", "iops_size"};
    struct json_object *o = json_object_new_object();

    blk_throttle_query(n, o);
    if (json_get_str(o, "group")) {
        str_add(t, "    I/O throttling:  ");
        for (unsigned i = 0; i < ARRAY_LEN(keys); i++)
            str_addf(t, " %s=%" PRId64, keys[i], json_get_int(o, keys[i], 0));
        str_addf(t, " group=%s\n", json_get_str(o, "group"));
    }
    json_object_put(o);
}

static void info_inserted(struct strbuf *t, struct blk *b, bool verbose)
{
    struct blk_node *n = shown(b);
    const char *mode = n->open_flags & BLK_O_NO_FLUSH ? "unsafe" : NULL;
    unsigned depth = chain_depth(n);

    if (!mode)
        mode = n->open_flags & BLK_O_DIRECT ? (b->writethrough ? "directsync" : "writeback, direct")
               : b->writethrough            ? "writethrough"
                                            : "writeback";
    str_addf(t, "    Cache mode:       %s\n", mode);
    if (n->backing_name)
        str_addf(t, "    Backing file:     %s (chain depth: %u)\n", n->backing_name, depth);
    if (n->detect_zeroes)
        str_addf(t, "    Detect zeroes:    %s\n", n->detect_unmap ? "unmap" : "on");
    info_limits(t, b->root->node);
    if (verbose) {
        struct json_object *i = blk_node_image_info(n, false);

        str_addf(t, "\nImages:\nimage: %s\nfile format: %s\nvirtual size: %" PRIu64 " bytes\n", blk_node_filename(n),
                 n->drv->name, n->size);
        json_object_put(i);
    }
}

static void info_one(struct strbuf *t, struct blk *b, bool verbose)
{
    if (t->len)
        str_add(t, "\n");
    str_add(t, b->is_drive ? b->id : b->root ? "" : blk_who(b));
    if (b->root) {
        struct blk_node *n = shown(b);

        str_addf(t, b->is_drive ? " (%s)" : "%s", n->name);
        str_addf(t, ": %s (%s%s%s)\n", blk_node_filename(n), n->drv->name, blk_readonly(b) ? ", read-only" : "",
                 n->encrypted ? ", encrypted" : "");
    } else {
        str_add(t, ": [not inserted]\n");
    }
    if (b->dev) {
        char *path AUTOFREE = obj_path(b->dev);

        str_addf(t, "    Attached to:      %s\n", path);
    }
    if (removable(b))
        str_addf(t, "    Removable device: %slocked, tray %s\n",
                 b->ops && b->ops->is_locked && b->ops->is_locked(b->ops_opaque) ? "" : "not ",
                 b->ops && b->ops->is_tray_open && b->ops->is_tray_open(b->ops_opaque) ? "open" : "closed");
    if (b->io_error)
        str_addf(t, "    I/O status:       %s\n", b->io_error == 28 ? "nospace" : "failed");
    if (b->root)
        info_inserted(t, b, verbose);
}

char *blk_info(struct blk_set *s, bool verbose, const char *only)
{
    BLK_HOME_SCOPE(s);
    struct strbuf t = {0};
    struct blk *b;

    list_each (b, &s->drives, in_set)
        if (!only || !strcmp(b->id, only))
            info_one(&t, b, verbose);
    return str_take(&t);
}
