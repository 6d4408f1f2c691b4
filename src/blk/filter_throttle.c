/* Throttle: holds requests back so that bytes and operations per second stay below limits. Leaky buckets: a request may
 * pass when the level of each bucket it touches is below its burst size; the levels drain with time. The buckets belong
 * to a group: an object (-object throttle-group) that several filters name, a name shared by drives
 * (throttling.group), or the filter alone. */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/fmt_util.h"
#include "blk/job_int.h"
#include "blk/secret.h"
#include <errno.h>
#include <time.h>

enum { T_BPS, T_BPS_RD, T_BPS_WR, T_IOPS, T_IOPS_RD, T_IOPS_WR, NR_T };
static const char *const keys[NR_T][3] = {
    {"bps-total", "bps", "x-bps-total"},     {"bps-read", "bps_rd", "x-bps-read"},
    {"bps-write", "bps_wr", "x-bps-write"},  {"iops-total", "iops", "x-iops-total"},
    {"iops-read", "iops_rd", "x-iops-read"}, {"iops-write", "iops_wr", "x-iops-write"}};

struct limits {
    uint64_t rate[NR_T], max[NR_T], len[NR_T], iops_size;
};
struct group {
    struct list link; /* in the set's list, when it has a name */
    char *name;       /* owned; NULL = of one filter alone */
    unsigned refs;    /* filters; an object holds one */
    struct limits lim;
    double burst[NR_T], level[NR_T];
    int64_t last;
};
struct throttle {
    struct group *g;  /* one reference */
    struct obj *user; /* one reference: the object the group is of; NULL = of none */
};
/* -object throttle-group */
struct tg_object {
    struct obj obj;
    struct limits lim; /* properties */
    struct group *g;   /* one reference */
};

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

static bool limits_ok(const struct limits *l, struct err **errp)
{
    for (unsigned i = 0; i < NR_T; i++) {
        if (l->max[i] && l->max[i] < l->rate[i])
            return err_set(errp, "%s-max is lower than %s", keys[i][0], keys[i][0]);
        if (l->max[i] && !l->rate[i])
            return err_set(errp, "bps_max/iops_max require corresponding bps/iops values");
        if (l->len[i] > 1 && !l->max[i])
            return err_set(errp, "burst length set without burst rate");
        if (l->rate[i] > 1000000000000000 || l->max[i] > 1000000000000000 || l->len[i] > 86400 * 365)
            return err_set(errp, "bps/iops/max values must be within [0, 1000000000000000]");
    }
    if ((l->rate[T_BPS] && (l->rate[T_BPS_RD] || l->rate[T_BPS_WR])) ||
        (l->rate[T_IOPS] && (l->rate[T_IOPS_RD] || l->rate[T_IOPS_WR])))
        return err_set(errp, "bps/iops/max total values and read/write values cannot be used at the same time");
    if (l->iops_size && !l->rate[T_IOPS] && !l->rate[T_IOPS_RD] && !l->rate[T_IOPS_WR])
        return err_set(errp, "iops size requires an iops value to be set");
    return true;
}

static void group_set(struct group *g, const struct limits *l)
{
    g->lim = *l;
    for (unsigned i = 0; i < NR_T; i++) {
        g->burst[i] = l->max[i] ? (double)l->max[i] * (l->len[i] ? (double)l->len[i] : 1)
                                : (double)l->rate[i] / 10; /* a tenth of a second at full speed */
        g->level[i] = g->level[i] < g->burst[i] ? g->level[i] : g->burst[i];
    }
}

static struct group *group_new(struct blk_set *s, const char *name)
{
    struct group *g = xnew(struct group);

    list_init(&g->link);
    g->refs = 1;
    g->last = now_ns();
    if (name) {
        g->name = xstrdup(name);
        list_add(&s->throttle_groups, &g->link);
    }
    return g;
}

static void group_unref(struct group *g)
{
    if (!g || --g->refs)
        return;
    list_del(&g->link);
    free(g->name);
    free(g);
}

static struct group *group_by_name(struct blk_set *s, const char *name)
{
    struct group *g;

    list_each (g, &s->throttle_groups, link)
        if (!strcmp(g->name, name)) {
            g->refs++;
            return g;
        }
    return NULL;
}

/* ---- options ---- */

static bool take(struct opts *o, unsigned i, unsigned what, uint64_t *out, bool *any, struct err **errp)
{
    static const char *const suffix[3][2] = {{"", ""}, {"-max", "_max"}, {"-max-length", "_max_length"}};

    for (unsigned k = 0; k < 3; k++) {
        char *key AUTOFREE = xasprintf("%s%s", keys[i][k], suffix[what][k == 1]);

        if (opts_peek(o, key))
            *any = true;
        if (!opts_size(o, key, out, errp))
            return false;
    }
    return true;
}

static bool take_limits(struct opts *o, struct limits *l, bool *any, struct err **errp)
{
    *any = false;
    for (unsigned i = 0; i < NR_T; i++)
        if (!take(o, i, 0, &l->rate[i], any, errp) || !take(o, i, 1, &l->max[i], any, errp) ||
            !take(o, i, 2, &l->len[i], any, errp))
            return false;
    return opts_size(o, "iops-size", &l->iops_size, errp) && opts_size(o, "iops_size", &l->iops_size, errp) &&
           limits_ok(l, errp);
}

static bool throttle_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct throttle *t = n->priv;
    const char *obj = opts_get(o, "throttle-group"), *name = opts_get(o, "group");
    struct obj *x = obj ? obj_child(blk_objects(n->set), obj) : NULL;
    struct limits l = {0};
    bool any;

    if (!take_limits(o, &l, &any, errp))
        return false;
    if (obj && (!x || strcmp(x->cls->name, "throttle-group") != 0))
        return err_set(errp, "Throttle group '%s' does not exist", obj);
    if (obj && any)
        return err_set(errp, "the limits of throttle group '%s' are set on the object", obj);
    if (obj) {
        t->g = ((struct tg_object *)x)->g;
        t->g->refs++;
        t->user = x;
        obj_ref(x);
    } else {
        t->g = name ? group_by_name(n->set, name) : NULL;
        any |= !t->g;
        if (!t->g)
            t->g = group_new(n->set, name);
        if (any)
            group_set(t->g, &l);
    }
    n->size = n->file->node->size;
    n->request_align = n->file->node->request_align;
    return true;
}

static void throttle_close(struct blk_node *n)
{
    struct throttle *t = n->priv;

    group_unref(t->g);
    obj_unref(t->user);
}

/* ---- the object ---- */

static void tg_init(struct obj *o)
{
    struct tg_object *t = (struct tg_object *)o;

    t->g = xnew(struct group);
    list_init(&t->g->link);
    t->g->refs = 1;
    t->g->last = now_ns();
}

static bool tg_ready(struct obj *o, struct err **errp)
{
    struct tg_object *t = (struct tg_object *)o;

    if (!limits_ok(&t->lim, errp))
        return false;
    group_set(t->g, &t->lim);
    return true;
}

static void tg_free(struct obj *o)
{
    group_unref(((struct tg_object *)o)->g);
}

/* After ready only `limits` changes them, all at once. */
static bool tg_set(struct obj *o, const struct prop *p, void *field, const char *val, struct err **errp)
{
    return (!o->is_ready || err_set(errp, "Property cannot be set after initialization")) &&
           prop_u64.set(o, p, field, val, errp);
}

static char *tg_get(struct obj *o, const struct prop *p, const void *field)
{
    return prop_u64.get(o, p, field);
}

static struct json_object *tg_get_json(struct obj *o, const struct prop *p, const void *field)
{
    return json_object_new_uint64(*(const uint64_t *)field);
}

static const struct prop_type prop_tg = {.name = "int", .set = tg_set, .get = tg_get, .get_json = tg_get_json};

/* Calls fn for every member of `limits`, until one returns false. */
static bool members(struct limits *l,
                    bool (*fn)(const char *key, uint64_t *v, bool is_len, void *arg, struct err **errp), void *arg,
                    struct err **errp)
{
    for (unsigned i = 0; i < NR_T; i++) {
        char *max AUTOFREE = xasprintf("%s-max", keys[i][0]), *len AUTOFREE = xasprintf("%s-max-length", keys[i][0]);

        if (!fn(keys[i][0], &l->rate[i], false, arg, errp) || !fn(max, &l->max[i], false, arg, errp) ||
            !fn(len, &l->len[i], true, arg, errp))
            return false;
    }
    return fn("iops-size", &l->iops_size, false, arg, errp);
}

static bool member_show(const char *key, uint64_t *v, bool is_len, void *arg, struct err **errp)
{
    (void)errp;
    json_object_object_add(arg, key, json_object_new_uint64(is_len && !*v ? 1 : *v));
    return true;
}

/* Takes the member out of the object. */
static bool member_take(const char *key, uint64_t *v, bool is_len, void *arg, struct err **errp)
{
    struct json_object *j;

    (void)is_len;
    if (!json_object_object_get_ex(arg, key, &j))
        return true;
    if (!json_object_is_type(j, json_type_int))
        return err_set(errp, "Invalid parameter type for 'limits.%s', expected: integer", key);
    if (json_object_get_int64(j) < 0)
        return err_set(errp, "bps/iops/max values must be within [0, 1000000000000000]");
    *v = (uint64_t)json_object_get_int64(j);
    json_object_object_del(arg, key);
    return true;
}

static struct json_object *limits_get(struct obj *o, const struct prop *p, const void *field)
{
    struct tg_object *t = (struct tg_object *)o;
    struct json_object *out = json_object_new_object();

    (void)p;
    (void)field;
    members(o->is_ready ? &t->g->lim : &t->lim, member_show, out, NULL); /* block_set_io_throttle changes the group's */
    return out;
}

static bool limits_set(struct obj *o, const struct prop *p, void *field, const char *val, struct err **errp)
{
    struct tg_object *t = (struct tg_object *)o;
    struct limits l = o->is_ready ? t->g->lim : t->lim;
    struct json_object *v = json_parse(val, strlen(val), NULL);
    bool ok = json_object_is_type(v, json_type_object) ||
              err_set(errp, "Invalid parameter type for '%s', expected: object", p->name);

    (void)field;
    ok = ok && members(&l, member_take, v, errp);
    if (ok && json_object_object_length(v)) {
        struct json_object_iterator first = json_object_iter_begin(v);

        ok = err_set(errp, "Parameter 'limits.%s' is unexpected", json_object_iter_peek_name(&first));
    }
    json_object_put(v);
    if (!ok || !limits_ok(&l, errp))
        return false;
    t->lim = l;
    if (o->is_ready)
        group_set(t->g, &l);
    return true;
}

static const struct prop_type prop_limits = {.name = "ThrottleLimits", .set = limits_set, .get_json = limits_get};

#define TG3(name, i)                                                                                                   \
    PROP("x-" name, tg, struct tg_object, lim.rate[i]), PROP("limits." name, tg, struct tg_object, lim.rate[i]),       \
        PROP("x-" name "-max", tg, struct tg_object, lim.max[i]),                                                      \
        PROP("limits." name "-max", tg, struct tg_object, lim.max[i]),                                                 \
        PROP("x-" name "-max-length", tg, struct tg_object, lim.len[i]),                                               \
        PROP("limits." name "-max-length", tg, struct tg_object, lim.len[i])
static const struct prop tg_props[] = {{.name = "limits", .type = &prop_limits, .off = offsetof(struct tg_object, lim)},
                                       TG3("bps-total", T_BPS),
                                       TG3("bps-read", T_BPS_RD),
                                       TG3("bps-write", T_BPS_WR),
                                       TG3("iops-total", T_IOPS),
                                       TG3("iops-read", T_IOPS_RD),
                                       TG3("iops-write", T_IOPS_WR),
                                       PROP("x-iops-size", tg, struct tg_object, lim.iops_size),
                                       PROP("limits.iops-size", tg, struct tg_object, lim.iops_size),
                                       PROP_END};
static const struct obj_class tg_class = {.name = "throttle-group",
                                          .desc = "limits that several disks share",
                                          .size = sizeof(struct tg_object),
                                          .props = tg_props,
                                          .init = tg_init,
                                          .ready = tg_ready,
                                          .free = tg_free,
                                          .user = true};
OBJ_REGISTER(tg_class)

char *blk_throttle_users(struct blk_set *s, const struct obj *group)
{
    struct strbuf who = {0};
    struct blk_node *n;

    list_each (n, &s->nodes, in_set) {
        struct blk_child *c = list_first(&n->parents, struct blk_child, in_node);
        bool drive = c && c->handle && *c->handle->id;

        if (strcmp(n->drv->name, "throttle") != 0 || ((struct throttle *)n->priv)->user != group)
            continue;
        str_addf(&who, "%s%s '%s'", who.len ? ", " : "", drive ? "drive" : "node", drive ? c->handle->id : n->name);
    }
    return who.len ? str_take(&who) : NULL;
}

/* ---- block_set_io_throttle, and what query-block shows ---- */

static struct throttle *filter_of(struct blk *b)
{
    struct blk_node *n = b->root ? b->root->node : NULL;

    return n && !strcmp(n->drv->name, "throttle") ? n->priv : NULL;
}

void blk_throttle_query(struct blk_node *n, struct json_object *out)
{
    static const char *const names[NR_T] = {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"};
    struct group *g = !strcmp(n->drv->name, "throttle") ? ((struct throttle *)n->priv)->g : NULL;

    for (unsigned i = 0; i < NR_T; i++)
        json_object_object_add(out, names[i], json_object_new_uint64(g ? g->lim.rate[i] : 0));
    for (unsigned i = 0; g && i < NR_T; i++)
        if (g->lim.max[i]) {
            char *key AUTOFREE = xasprintf("%s_max", names[i]);

            json_object_object_add(out, key, json_object_new_uint64(g->lim.max[i]));
        }
    bool any = false;
    for (unsigned i = 0; g && i < NR_T; i++)
        any |= g->lim.rate[i] || g->lim.max[i];
    if (any && g->name)
        json_object_object_add(out, "group", json_object_new_string(g->name));
}

/* A filter without limits between the handle and its node. */
static bool insert_filter(struct blk *b, const char *group, struct err **errp)
{
    struct blk_node *below = b->root->node, *n;
    struct opts *o = opts_new();
    bool ok;

    opts_set(o, "file", below->name);
    opts_set(o, "group", group);
    n = blk_node_open(b->set, NULL, "throttle", below->open_flags & (BLK_O_RDWR | BLK_O_UNMAP), o, errp);
    if (!n)
        return false;
    blk_quiesce(b);
    ok = blk_node_replace(below, n, n->file, errp);
    blk_unquiesce(b);
    blk_node_unref(n);
    return ok;
}

static bool json_limits(struct json_object *a, struct limits *l, struct err **errp)
{
    static const char *const names[NR_T] = {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"};

    for (unsigned i = 0; i < NR_T; i++) {
        char *max AUTOFREE = xasprintf("%s_max", names[i]), *len AUTOFREE = xasprintf("%s_max_length", names[i]);
        int64_t v[3] = {json_get_int(a, names[i], 0), json_get_int(a, max, 0), json_get_int(a, len, 0)};

        if (v[0] < 0 || v[1] < 0 || v[2] < 0)
            return err_set(errp, "bps/iops/max values must be within [0, 1000000000000000]");
        l->rate[i] = (uint64_t)v[0];
        l->max[i] = (uint64_t)v[1];
        l->len[i] = (uint64_t)v[2];
    }
    l->iops_size = (uint64_t)json_get_int(a, "iops_size", 0);
    return limits_ok(l, errp);
}

static struct blk *handle_of(struct blk_set *s, struct json_object *a, struct err **errp)
{
    const char *dev = json_get_str(a, "device"), *id = json_get_str(a, "id");
    struct blk *b;

    list_each (b, &s->drives, in_set)
        if ((dev && *dev && b->is_drive && !strcmp(b->id, dev)) ||
            (id && b->dev && ((struct obj *)b->dev)->name && !strcmp(((struct obj *)b->dev)->name, id)))
            return b;
    err_set_class(errp, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", dev ? dev : id ? id : "");
    return NULL;
}

bool blk_cmd_throttle(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp)
{
    struct blk *b = handle_of(s, a, errp);
    const char *group = json_get_str(a, "group");
    struct limits l = {0};
    struct throttle *t;

    if (!b || !json_limits(a, &l, errp))
        return false;
    if (!b->root)
        return err_set(errp, "Device '%s' has no medium", blk_id(b));
    t = filter_of(b);
    if (!t && !insert_filter(b, group ? group : blk_id(b), errp))
        return false;
    t = filter_of(b);
    if (group && t->g->name && strcmp(group, t->g->name) != 0) {
        struct group *g = group_by_name(s, group);

        group_unref(t->g);
        obj_unref(t->user);
        t->user = NULL;
        t->g = g ? g : group_new(s, group);
    }
    group_set(t->g, &l);
    return true;
}

/* Waits until the request may pass, and counts it. */
static void pass(struct blk_node *n, uint64_t len, bool write)
{
    struct throttle *t = n->priv;
    const unsigned mine[4] = {T_BPS, write ? T_BPS_WR : T_BPS_RD, T_IOPS, write ? T_IOPS_WR : T_IOPS_RD};
    struct group *g;

    for (;;) {
        int64_t now = now_ns();
        double dt, wait = 0;

        g = t->g; /* it may be another after a wait */
        dt = (double)(now - g->last) / 1e9;
        g->last = now;
        for (unsigned i = 0; i < NR_T; i++) {
            double drained = (double)g->lim.rate[i] * dt;

            g->level[i] = g->level[i] > drained ? g->level[i] - drained : 0;
        }
        for (unsigned k = 0; k < 4; k++) {
            unsigned i = mine[k];
            double over = g->level[i] - g->burst[i];

            if (g->lim.rate[i] && over > 0 && over / (double)g->lim.rate[i] > wait)
                wait = over / (double)g->lim.rate[i];
        }
        if (wait <= 0 || !fibre_self())
            break;
        blk_sleep(n->set, (int64_t)((wait < 0.1 ? wait : 0.1) * 1e9) + 1); /* the limits may change meanwhile */
    }
    for (unsigned k = 0; k < 4; k++)
        g->level[mine[k]] += mine[k] <= T_BPS_WR ? (double)len
                             : g->lim.iops_size  ? (double)max_u64(1, div_up(len, g->lim.iops_size))
                                                 : 1;
}

static int t_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    pass(n, len, false);
    return blk_preadv(n->file, off, len, q, qoff, flags);
}
static int t_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    pass(n, len, true);
    return blk_pwritev(n->file, off, len, q, qoff, flags);
}
static int t_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    pass(n, len, true);
    return blk_pwrite_zeroes(n->file, off, len, flags);
}
static int t_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    pass(n, len, true);
    return blk_pdiscard(n->file, off, len);
}

static const struct blk_driver drv_throttle = {
    .name = "throttle",
    .kind = BLK_FILTER,
    .priv_size = sizeof(struct throttle),
    .open = throttle_open,
    .close = throttle_close,
    .preadv = t_preadv,
    .pwritev = t_pwritev,
    .pwrite_zeroes = t_zeroes,
    .discard = t_discard,
    .getlength = blk_pass_length,
    .truncate = blk_pass_truncate,
};
BLK_REGISTER(drv_throttle)

/* ---- copy on read ---- */

static bool cor_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    opts_get(o, "bottom");
    n->size = n->file->node->size;
    return true;
}

static int cor_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                      unsigned flags)
{
    struct blk_node *f = blk_node_unfiltered(n->file->node);

    if (!blk_node_readonly(f) && f->backing) {
        int r = blk_node_copy_up(f, off, len);

        if (r < 0 && r != -ENOSPC) /* out of space: the read itself still works */
            return r;
    }
    return blk_preadv(n->file, off, len, q, qoff, flags);
}

static const struct blk_driver drv_cor = {
    .name = "copy-on-read",
    .kind = BLK_FILTER,
    .open = cor_open,
    .preadv = cor_preadv,
    .pwritev = blk_pass_pwritev,
    .pwrite_zeroes = blk_pass_zeroes,
    .discard = blk_pass_discard,
    .getlength = blk_pass_length,
    .truncate = blk_pass_truncate,
};
BLK_REGISTER(drv_cor)
