/* Commands on dirty bitmaps, by their QMP names. A bitmap that a job uses refuses all of them. */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/job_int.h"

bool blk_cmd_bitmap_add(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_node *n = blk_cmd_node(s, json_get_str(a, "node"), errp);
    const char *name = json_get_str(a, "name");
    bool persistent = json_get_bool(a, "persistent", false);
    struct blk_bitmap *b;
    int64_t gran;

    if (!n)
        return false;
    gran = json_get_int(a, "granularity", n->cluster_size >= 512 ? n->cluster_size : 65536);
    if (!name || !*name)
        return err_set(errp, "Bitmap name cannot be empty");
    if (gran < 512 || gran > 1 << 30)
        return err_set(errp, "Granularity must be a power of 2 and at least 512");
    if (persistent && !n->drv->bitmap_remove)
        return err_set(errp, "Driver '%s' does not support persistent bitmaps", n->drv->name);
    if (persistent && n->drv->bitmap_store_ok && !n->drv->bitmap_store_ok(n, name, (uint32_t)gran, errp))
        return false;
    b = blk_bitmap_new(n, name, (uint32_t)gran, errp);
    if (!b)
        return false;
    b->persistent = persistent;
    b->enabled = !json_get_bool(a, "disabled", false);
    return true;
}

struct blk_bitmap *blk_cmd_bitmap(struct blk_set *s, struct json_object *a, const char *key, struct err **errp)
{
    struct blk_node *n = blk_cmd_node(s, json_get_str(a, "node"), errp);
    const char *name = json_get_str(a, key);
    struct blk_bitmap *b = n && name ? blk_bitmap_find(n, name) : NULL;

    if (!n)
        return NULL;
    if (!b) {
        err_set(errp, "Dirty bitmap '%s' not found", name ? name : "");
        return NULL;
    }
    if (b->busy) {
        err_set(errp, "Bitmap '%s' is currently in use by another operation and cannot be used", name);
        return NULL;
    }
    return b;
}

/* The bitmap of "name" as something that may be used and changed. */
static struct blk_bitmap *usable(struct blk_set *s, struct json_object *a, const char *key, struct err **errp)
{
    struct blk_bitmap *b = blk_cmd_bitmap(s, a, key, errp);

    if (b && b->inconsistent) {
        err_set(errp, "Bitmap '%s' is inconsistent and cannot be used", b->name);
        err_hint(errp, "Try block-dirty-bitmap-remove to delete this bitmap from disk");
        return NULL;
    }
    if (b && b->readonly) {
        err_set(errp, "Bitmap '%s' is readonly and cannot be modified", b->name);
        return NULL;
    }
    return b;
}

bool blk_cmd_bitmap_remove(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_bitmap *b = blk_cmd_bitmap(s, a, "name", errp);

    if (!b)
        return false;
    if (b->persistent && b->node->drv->bitmap_remove)
        return b->node->drv->bitmap_remove(b->node, b->name, errp);
    blk_bitmap_free(b);
    return true;
}

bool blk_cmd_bitmap_clear(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_bitmap *b = usable(s, a, "name", errp);

    if (b)
        blk_bitmap_reset(b, 0, b->node->size);
    return b;
}

bool blk_cmd_bitmap_enable(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_bitmap *b = usable(s, a, "name", errp);

    if (b)
        b->enabled = true;
    return b;
}

bool blk_cmd_bitmap_disable(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_bitmap *b = usable(s, a, "name", errp);

    if (b)
        b->enabled = false;
    return b;
}

/* One entry of "bitmaps": a name on the same node, or {"node", "name"}. */
static struct blk_bitmap *merge_source(struct blk_set *s, struct blk_bitmap *dst, struct json_object *x,
                                       struct err **errp)
{
    bool plain = json_object_is_type(x, json_type_string);
    struct blk_node *n = plain ? dst->node : blk_cmd_node(s, json_get_str(x, "node"), errp);
    const char *name = plain ? json_object_get_string(x) : json_get_str(x, "name");
    struct blk_bitmap *src = n && name ? blk_bitmap_find(n, name) : NULL;

    if (!n)
        return NULL;
    if (!src)
        err_set(errp, "Dirty bitmap '%s' not found", name ? name : "");
    else if (src->busy || src->inconsistent)
        err_set(errp, "Bitmap '%s' is %s and cannot be used", name,
                src->busy ? "currently in use by another operation" : "inconsistent");
    else if (src->node->size != dst->node->size)
        err_set(errp, "Bitmaps are of different sizes and can't be merged");
    else
        return src;
    return NULL;
}

bool blk_cmd_bitmap_merge(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk_bitmap *dst = usable(s, a, "target", errp);
    struct json_object *list = json_get(a, "bitmaps");
    size_t nr = list && json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

    if (!dst)
        return false;
    for (size_t i = 0; i < nr; i++)
        if (!merge_source(s, dst, json_object_array_get_idx(list, i), errp))
            return false;
    for (size_t i = 0; i < nr; i++)
        if (!blk_bitmap_merge(dst, merge_source(s, dst, json_object_array_get_idx(list, i), errp), errp))
            return false;
    return true;
}
