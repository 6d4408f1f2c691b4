/* The graph: drivers by name, nodes, edges and what each edge may do.
 *
 * Permissions. Every edge states what its parent does (perm) and what it lets other parents do (shared). Two edges of
 * one node agree when neither does what the other does not share. What a node's parents do decides what it needs of its
 * children (child_perm), down to the leaves, which turn it into locks on the host file. A change is tried from the top
 * down and, when some level refuses, put back.
 *
 * Not thread-safe: the set's loop thread only. */
#include "blk/blk_int.h"
#include <errno.h>

static struct blk_reg *registry; /* filled by constructors before main, read-only afterwards; sorted by name */

const char *const blk_prealloc_names[] = {"off", "metadata", "falloc", "full", NULL};

void blk_driver_register(struct blk_reg *r)
{
    struct blk_reg **p = &registry;

    while (*p && strcmp((*p)->drv->name, r->drv->name) < 0)
        p = &(*p)->next;
    r->next = *p;
    *p = r;
}

const struct blk_driver *blk_driver_find(const char *name)
{
    for (struct blk_reg *r = registry; r; r = r->next)
        if (!strcmp(r->drv->name, name))
            return r->drv;
    return NULL;
}

const struct blk_driver *blk_driver_next(const struct blk_driver *prev)
{
    struct blk_reg *r = registry;

    if (!prev)
        return r ? r->drv : NULL;
    while (r && r->drv != prev)
        r = r->next;
    return r && r->next ? r->next->drv : NULL;
}

static bool prefix_is(const struct blk_driver *d, const char *p, size_t len)
{
    if (d->prefix && strlen(d->prefix) == len && !strncmp(d->prefix, p, len))
        return true;
    for (const char *const *x = d->prefixes; x && *x; x++)
        if (strlen(*x) == len && !strncmp(*x, p, len))
            return true;
    return false;
}

bool blk_path_has_protocol(const char *path)
{
    size_t n = strcspn(path, ":/");

    return n && path[n] == ':';
}

const struct blk_driver *blk_driver_by_name_prefix(const char *filename)
{
    size_t n = strcspn(filename, ":/");

    if (!n || filename[n] != ':')
        return NULL;
    for (struct blk_reg *r = registry; r; r = r->next)
        if (prefix_is(r->drv, filename, n))
            return r->drv;
    return NULL;
}

const struct blk_driver *blk_driver_probe(const uint8_t *buf, size_t n, const char *filename)
{
    const struct blk_driver *best = blk_driver_find("raw");
    int score = 0;

    for (struct blk_reg *r = registry; r; r = r->next) {
        int s = r->drv->probe ? r->drv->probe(buf, n, filename) : 0;

        if (s > score) {
            score = s;
            best = r->drv;
        }
    }
    return best;
}

/* ---- nodes ---- */

struct blk_node *blk_node_find(struct blk_set *s, const char *name)
{
    struct blk_node *n;

    list_each (n, &s->nodes, in_set)
        if (n->name && !strcmp(n->name, name))
            return n;
    return NULL;
}

struct blk_node *blk_node_next(struct blk_set *s, struct blk_node *prev)
{
    struct list *l = prev ? prev->in_set.next : s->nodes.next;

    return l == &s->nodes ? NULL : container_of(l, struct blk_node, in_set);
}

void blk_node_ref(struct blk_node *n)
{
    n->refs++;
}

static void node_close(struct blk_node *n)
{
    struct blk_child *c, *tmp;

    if (n->priv && n->drv && n->open_flags & BLK_O_RDWR) {
        if (n->drv->inactivate)
            n->drv->inactivate(n);
        blk_node_flush_sync(n);
    }
    if (n->priv && n->drv->close)
        n->drv->close(n);
    while (!list_empty(&n->bitmaps))
        blk_bitmap_free(list_first(&n->bitmaps, struct blk_bitmap, link));
    list_each_safe (c, tmp, &n->children, in_parent)
        blk_child_detach(c);
    list_del(&n->in_set);
    opts_free(n->opts);
    free(n->priv);
    free(n->name);
    free(n->filename);
    free(n->backing_name);
    free(n->backing_fmt);
    free(n);
}

void blk_node_unref(struct blk_node *n)
{
    if (!n)
        return;
    assert(n->refs);
    if (n->refs == 1)
        blk_node_drain(n);
    if (!--n->refs)
        node_close(n);
}

bool blk_node_readonly(const struct blk_node *n)
{
    return !(n->open_flags & BLK_O_RDWR);
}

struct blk_node *blk_node_unfiltered(struct blk_node *n)
{
    while (n && n->drv->kind == BLK_FILTER && n->file)
        n = n->file->node;
    return n;
}

bool blk_node_starts_zero(struct blk_node *n)
{
    n = blk_node_unfiltered(n);
    return !n->encrypted || n->drv->backing_ok;
}

struct blk_node *blk_node_cow(struct blk_node *n)
{
    n = blk_node_unfiltered(n);
    return n && n->backing ? n->backing->node : NULL;
}

const char *blk_node_filename(const struct blk_node *n)
{
    return n->filename ? n->filename : "";
}

/* ---- permissions ---- */

static const char *perm_name(unsigned bit)
{
    switch (bit) {
    case BLK_PERM_READ:
        return "consistent read";
    case BLK_PERM_WRITE:
        return "write";
    case BLK_PERM_WRITE_SAME:
        return "write unchanged";
    default:
        return "resize";
    }
}

static const char *child_owner(const struct blk_child *c)
{
    return c->parent ? c->parent->name : c->who;
}

static bool perms_agree(struct blk_node *n, struct err **errp)
{
    struct blk_child *a, *b;

    list_each (a, &n->parents, in_node)
        list_each (b, &n->parents, in_node) {
            unsigned bad = a == b ? 0 : a->perm & ~b->shared;

            if (bad)
                return err_set(errp, "Conflicts with use by %s as '%s', which does not allow '%s' on %s",
                               child_owner(b), b->role, perm_name(bad & -bad), n->name);
        }
    return true;
}

static void perms_above(const struct blk_node *n, unsigned *perm, unsigned *shared)
{
    const struct blk_child *c;

    *perm = 0;
    *shared = BLK_PERM_ALL;
    list_each (c, &n->parents, in_node) {
        *perm |= c->perm;
        *shared &= c->shared;
    }
}

/* The rule for formats and filters that state none. */
static void default_child_perm(const struct blk_node *n, const struct blk_child *c, unsigned perm, unsigned shared,
                               unsigned *cperm, unsigned *cshared)
{
    bool rw = n->open_flags & BLK_O_RDWR;

    if (c == n->backing) {
        *cperm = BLK_PERM_READ;
        *cshared = perm & (BLK_PERM_WRITE | BLK_PERM_WRITE_SAME | BLK_PERM_RESIZE) && !(n->open_flags & BLK_O_SHARE) &&
                           !n->backing_rw
                       ? BLK_PERM_READ | BLK_PERM_WRITE_SAME
                       : BLK_PERM_ALL;
    } else if (n->drv->kind == BLK_FILTER) {
        *cperm = perm;
        *cshared = shared;
    } else if (rw && perm & (BLK_PERM_WRITE | BLK_PERM_WRITE_SAME | BLK_PERM_RESIZE)) {
        *cperm = BLK_PERM_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE;
        *cshared = BLK_PERM_READ | BLK_PERM_WRITE_SAME;
    } else {
        *cperm = BLK_PERM_READ;
        *cshared = BLK_PERM_ALL;
    }
}

static bool perm_apply(struct blk_node *n, struct err **errp)
{
    struct blk_child *c;
    unsigned perm, shared;

    if (!perms_agree(n, errp))
        return false;
    perms_above(n, &perm, &shared);
    if (perm & (BLK_PERM_WRITE | BLK_PERM_RESIZE) && blk_node_readonly(n) && !n->drv->set_perm)
        return err_set(errp, "Block node is read-only");
    if (n->drv->set_perm && !(n->open_flags & BLK_O_SHARE) && !n->drv->set_perm(n, perm, shared, errp))
        return false;
    list_each (c, &n->children, in_parent) {
        unsigned was = c->perm, was_shared = c->shared;

        if (n->drv->child_perm)
            n->drv->child_perm(n, c, perm, shared, &c->perm, &c->shared);
        else
            default_child_perm(n, c, perm, shared, &c->perm, &c->shared);
        if ((was != c->perm || was_shared != c->shared) && !perm_apply(c->node, errp)) {
            c->perm = was;
            c->shared = was_shared;
            return false;
        }
    }
    return true;
}

bool blk_perm_update(struct blk_node *n, struct err **errp)
{
    return perm_apply(n, errp);
}

/* ---- edges ---- */

static struct blk_child *child_link(struct blk_node *parent, struct blk_node *node, const char *role, const char *who)
{
    struct blk_child *c = xnew(struct blk_child);

    c->node = node;
    c->parent = parent;
    c->role = role;
    c->who = who;
    c->shared = BLK_PERM_ALL;
    list_init(&c->in_parent);
    if (parent)
        list_add(&parent->children, &c->in_parent);
    list_add(&node->parents, &c->in_node);
    return c;
}

static void child_unlink(struct blk_child *c)
{
    list_del(&c->in_parent);
    list_del(&c->in_node);
    free(c);
}

struct blk_child *blk_child_attach(struct blk_node *parent, struct blk_node *node, const char *role, struct err **errp)
{
    struct blk_child *c = child_link(parent, node, role, NULL);

    if (blk_perm_update(parent, errp))
        return c;
    child_unlink(c);
    blk_node_unref(node);
    return NULL;
}

struct blk_child *blk_child_root(struct blk_node *node, const char *who, unsigned perm, unsigned shared,
                                 struct err **errp)
{
    struct blk_child *c = child_link(NULL, node, "root", who);

    blk_node_ref(node);
    if (blk_child_set_perm(c, perm, shared, errp))
        return c;
    blk_child_detach(c);
    return NULL;
}

bool blk_child_set_perm(struct blk_child *c, unsigned perm, unsigned shared, struct err **errp)
{
    unsigned was = c->perm, was_shared = c->shared;

    if (perm == was && shared == was_shared)
        return true;
    c->perm = perm;
    c->shared = shared;
    if (blk_perm_update(c->node, errp))
        return true;
    c->perm = was;
    c->shared = was_shared;
    blk_perm_update(c->node, NULL);
    return false;
}

void blk_child_detach(struct blk_child *c)
{
    struct blk_node *n, *parent;

    if (!c)
        return;
    n = c->node;
    parent = c->parent;
    if (parent && parent->file == c)
        parent->file = NULL;
    if (parent && parent->backing == c)
        parent->backing = NULL;
    child_unlink(c);
    if (n->refs > 1)
        blk_perm_update(n, NULL);
    blk_node_unref(n);
}

static bool reaches(const struct blk_node *from, const struct blk_node *to)
{
    const struct blk_child *c;

    if (from == to)
        return true;
    list_each (c, &from->children, in_parent)
        if (reaches(c->node, to))
            return true;
    return false;
}

bool blk_node_replace(struct blk_node *from, struct blk_node *to, struct blk_child *except, struct err **errp)
{
    struct blk_child *c, *tmp;
    struct list moved = LIST_INIT(moved);
    unsigned nr = 0;

    list_each_safe (c, tmp, &from->parents, in_node)
        if (c != except && !(c->parent && reaches(to, c->parent))) {
            list_del(&c->in_node);
            list_add(&moved, &c->in_node);
            c->node = to;
            nr++;
        }
    list_each_safe (c, tmp, &moved, in_node) { /* to the front of to's parents, so that they are found again */
        list_del(&c->in_node);
        list_add_head(&to->parents, &c->in_node);
    }
    blk_perm_update(from, NULL);
    if (!blk_perm_update(to, errp)) {
        for (unsigned i = 0; i < nr; i++) {
            c = list_first(&to->parents, struct blk_child, in_node);
            list_del(&c->in_node);
            list_add(&from->parents, &c->in_node);
            c->node = from;
        }
        blk_perm_update(to, NULL);
        blk_perm_update(from, NULL);
        return false;
    }
    to->refs += nr;
    for (unsigned i = 0; i < nr; i++)
        blk_node_unref(from);
    return true;
}

static void child_move(struct blk_child *c, struct blk_node *to)
{
    list_del(&c->in_node);
    list_add(&to->parents, &c->in_node);
    c->node = to;
}

bool blk_child_retarget(struct blk_child *c, struct blk_node *to, struct err **errp)
{
    struct blk_node *from = c->node, *n = c->parent;

    if (from == to)
        return true;
    if (reaches(to, n))
        return err_set(errp, "Making '%s' a %s child of '%s' would create a cycle", to->name, c->role, n->name);
    if (to->size != from->size)
        return err_set(errp, "'%s' has %" PRIu64 " bytes, '%s' has %" PRIu64 ": node '%s' cannot change over",
                       from->name, from->size, to->name, to->size, n->name);
    child_move(c, to);
    blk_perm_update(from, NULL); /* what it held may be what `to` needs */
    if (!blk_perm_update(to, errp)) {
        child_move(c, from);
        blk_perm_update(to, NULL);
        blk_perm_update(from, NULL);
        return false;
    }
    blk_node_ref(to);
    blk_node_unref(from);
    return true;
}

bool blk_node_set_backing(struct blk_node *n, struct blk_node *backing, struct err **errp)
{
    struct blk_child *old = n->backing, *c = NULL;

    if (backing && reaches(backing, n))
        return err_set(errp, "Making '%s' a backing file of '%s' would create a cycle", backing->name, n->name);
    n->backing = NULL;
    if (old)
        list_del(&old->in_parent);
    if (backing) {
        c = child_link(n, backing, "backing", NULL);
        n->backing = c;
        blk_node_ref(backing);
        if (!blk_perm_update(n, errp)) {
            child_unlink(c);
            backing->refs--;
            n->backing = old;
            if (old)
                list_add(&n->children, &old->in_parent);
            blk_perm_update(n, NULL);
            return false;
        }
    }
    if (old) {
        old->parent = NULL;
        blk_child_detach(old);
    }
    return true;
}

static void reopen_children(struct blk_node *n, bool rw)
{
    struct blk_child *c;

    list_each (c, &n->children, in_parent)
        if (c != n->backing)
            blk_node_reopen(c->node, rw, NULL);
}

bool blk_node_reopen(struct blk_node *n, bool rw, struct err **errp)
{
    struct blk_child *c;
    unsigned was = n->open_flags;

    if (rw == !!(was & BLK_O_RDWR))
        return true;
    if (!rw) {
        if (n->drv->inactivate)
            n->drv->inactivate(n);
        blk_node_flush_sync(n);
    } else {
        list_each (c, &n->children, in_parent)
            if (c != n->backing && !blk_node_reopen(c->node, true, errp))
                return false;
    }
    n->open_flags = rw ? was | BLK_O_RDWR : was & ~(unsigned)BLK_O_RDWR;
    if (!blk_perm_update(n, errp) || (n->drv->reopen && !n->drv->reopen(n, rw, errp))) {
        n->open_flags = was;
        blk_perm_update(n, NULL);
        if (rw)
            reopen_children(n, false);
        return false;
    }
    if (!rw)
        reopen_children(n, false);
    return true;
}
