/* From a name and options to an opened node: choosing the driver, opening what lies below, then the driver itself.
 *
 * Trust. A format named by the user is used as named. A format that has to be guessed is marked (n->probed), and the
 * raw driver then refuses writes that would turn the first block into another format's header. Names that come out of
 * an image file (backing files, data files, extents) may only be plain paths: no json:, no network, no other protocol.
 */
#include "base/json.h"
#include "blk/blk_int.h"
#include "blk/host.h"
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

enum { PROBE_LEN = 4096, MAX_DEPTH = 256 };

struct opts *blk_opts_or_new(struct opts *o)
{
    return o ? o : opts_new();
}

static bool flag_opt(struct opts *o, const char *key, unsigned bit, unsigned *flags, struct err **errp)
{
    bool on = *flags & bit;

    if (!opts_bool(o, key, &on, errp))
        return false;
    *flags = on ? *flags | bit : *flags & ~bit;
    return true;
}

bool blk_flags_from_opts(struct opts *o, unsigned *flags, struct err **errp)
{
    const char *v;
    bool ro = !(*flags & BLK_O_RDWR), had = opts_peek(o, "read-only");

    if (!opts_bool(o, "read-only", &ro, errp))
        return false;
    if (had)
        *flags = ro ? *flags & ~(unsigned)BLK_O_RDWR : *flags | BLK_O_RDWR;
    if (!flag_opt(o, "auto-read-only", BLK_O_AUTO_RO, flags, errp) ||
        !flag_opt(o, "cache.direct", BLK_O_DIRECT, flags, errp) ||
        !flag_opt(o, "cache.no-flush", BLK_O_NO_FLUSH, flags, errp) ||
        !flag_opt(o, "force-share", BLK_O_SHARE, flags, errp))
        return false;
    if (opts_peek(o, "force-share") && *flags & BLK_O_SHARE && *flags & BLK_O_RDWR)
        return err_set(errp, "force-share=on can only be used with read-only images");
    v = opts_get(o, "discard");
    if (v && (!strcmp(v, "unmap") || !strcmp(v, "on")))
        *flags |= BLK_O_UNMAP;
    else if (v && (!strcmp(v, "ignore") || !strcmp(v, "off")))
        *flags &= ~(unsigned)BLK_O_UNMAP;
    else if (v)
        return err_set(errp, "Invalid discard option '%s': use ignore or unmap", v);
    return true;
}

static bool node_name_ok(const char *name)
{
    if (!((*name | 32) >= 'a' && (*name | 32) <= 'z') && *name != '_')
        return false;
    for (; *name; name++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._", *name))
            return false;
    return true;
}

static struct blk_node *node_alloc(struct blk_set *s, const struct blk_driver *d, unsigned flags)
{
    struct blk_node *n = xnew(struct blk_node);

    n->drv = d;
    n->set = s;
    n->open_flags = flags;
    n->refs = 1;
    list_init(&n->children);
    list_init(&n->parents);
    list_init(&n->tracked);
    list_init(&n->bitmaps);
    list_init(&n->notifiers);
    list_add(&s->nodes, &n->in_set);
    n->write_gen = 1;
    return n;
}

static bool take_name(struct blk_node *n, struct opts *o, struct err **errp)
{
    const char *name = opts_get(o, "node-name");

    if (!name) {
        n->name = xasprintf("#block%03u", n->set->next_auto++);
        return true;
    }
    if (!node_name_ok(name) || strlen(name) > 31) {
        n->name = xstrdup("");
        return err_set(errp, "Invalid node-name: '%s'", name);
    }
    if (blk_node_find(n->set, name)) {
        n->name = xstrdup("");
        return err_set(errp, "Duplicate nodes with node-name='%s'", name);
    }
    n->name = xstrdup(name);
    return true;
}

static bool take_detect_zeroes(struct blk_node *n, struct opts *o, struct err **errp)
{
    const char *v = opts_get(o, "detect-zeroes");

    if (!v || !strcmp(v, "off"))
        return true;
    if (!strcmp(v, "unmap") && !(n->open_flags & BLK_O_UNMAP))
        return err_set(errp,
                       "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
    if (strcmp(v, "on") && strcmp(v, "unmap"))
        return err_set(errp, "Invalid detect-zeroes option '%s': use off, on or unmap", v);
    n->detect_zeroes = true;
    n->detect_unmap = *v == 'u';
    return true;
}

/* Opens the driver on a node whose file child is in place. */
static bool node_start(struct blk_node *n, struct opts *o, struct err **errp)
{
    char *what;
    bool ok;

    n->priv = try_alloc(1, n->drv->priv_size ? n->drv->priv_size : 1);
    if (!n->priv)
        return err_set(errp, "no memory");
    if (!n->drv->open(n, o, errp)) {
        free(n->priv);
        n->priv = NULL;
        return false;
    }
    if (!n->filename)
        n->filename = xstrdup(n->file ? blk_node_filename(n->file->node) : "");
    what = xasprintf("block driver '%s'", n->drv->name);
    ok = opts_done(o, what, n->drv->known, errp);
    free(what);
    return ok;
}

static struct blk_node *node_discard(struct blk_node *n)
{
    n->open_flags &= ~(unsigned)BLK_O_RDWR; /* nothing of ours to flush */
    if (!n->name)
        n->name = xstrdup("");
    blk_node_unref(n);
    return NULL;
}

/* ---- names ---- */

char *blk_path_combine(const char *base, const char *name)
{
    const char *slash;

    if (*name == '/' || blk_path_has_protocol(name))
        return xstrdup(name);
    if (str_starts(base, "json:") || (slash = strrchr(base, '/')) == NULL)
        return xstrdup(name);
    return xasprintf("%.*s%s", (int)(slash - base + 1), base, name);
}

char *blk_node_backing_path(const struct blk_node *n)
{
    return n->backing_name ? blk_path_combine(blk_node_filename(n), n->backing_name) : NULL;
}

static bool image_name_ok(const char *name, struct err **errp)
{
    if (str_starts(name, "file:") || !blk_path_has_protocol(name))
        return true;
    err_set(errp, "an image file refers to '%s', which is not a plain file", name);
    err_hint(errp, "Name that node in the options (backing.driver=..., data-file.driver=...) to allow it.");
    return false;
}

static const struct blk_driver *protocol_for(struct blk_set *s, const char *filename, struct err **errp)
{
    const struct blk_driver *d = filename ? blk_driver_by_name_prefix(filename) : NULL;
    mode_t type;

    if (d)
        return d;
    if (filename && blk_path_has_protocol(filename) && blk_host_kind(s, filename, &type) < 0) {
        err_set(errp, "Unknown protocol '%.*s'", (int)strcspn(filename, ":"), filename);
        return NULL;
    }
    if (filename && !blk_host_kind(s, filename, &type) && (S_ISBLK(type) || S_ISCHR(type)))
        return blk_driver_find("host_device");
    return blk_driver_find("file");
}

/* ---- children ---- */

struct blk_child *blk_child_open(struct blk_node *n, const char *filename, struct opts *o, const char *role,
                                 unsigned flags, bool optional, struct err **errp)
{
    const char *ref = opts_get(o, role);
    struct opts *sub = opts_sub(o, role);
    struct blk_node *child;

    if (ref && list_empty(&sub->all)) {
        opts_free(sub);
        child = blk_node_find(n->set, ref);
        if (!child) {
            err_set(errp, "Cannot find device='' nor node-name='%s'", ref);
            return NULL;
        }
        blk_node_ref(child);
    } else {
        if (!filename && list_empty(&sub->all)) {
            opts_free(sub);
            if (!optional)
                err_set(errp, "A block device must be specified for \"%s\"", role);
            return NULL;
        }
        child = blk_node_open(n->set, list_empty(&sub->all) || !opts_peek(sub, "filename") ? filename : NULL, NULL,
                              flags, sub, errp);
        if (!child)
            return NULL;
    }
    return blk_child_attach(n, child, role, errp);
}

static unsigned flags_below(const struct blk_node *n, unsigned flags)
{
    unsigned keep = BLK_O_RDWR | BLK_O_DIRECT | BLK_O_NO_FLUSH | BLK_O_AUTO_RO | BLK_O_SHARE | BLK_O_FROM_IMAGE;

    (void)n;
    /* What a format frees may always be given back to the host; its own discard option decided above. */
    return (flags & keep) | BLK_O_PROTOCOL | BLK_O_UNMAP;
}

static bool open_file_child(struct blk_node *n, const char *filename, struct opts *o, unsigned flags, struct err **errp)
{
    const char *role = n->drv->file_role;
    struct opts *named = role && !filename && !opts_peek(o, "file") ? opts_sub(o, role) : NULL;

    if (named && (!list_empty(&named->all) || opts_peek(o, role))) {
        opts_free(named);
        named = NULL;
    } else {
        role = "file";
    }
    opts_free(named);
    n->file = blk_child_open(n, filename, o, role, flags_below(n, flags), false, errp);
    if (!n->file)
        return false;
    if (n->open_flags & BLK_O_RDWR && blk_node_readonly(n->file->node)) {
        if (!(n->open_flags & BLK_O_AUTO_RO))
            return err_set(errp, "Could not open '%s': the file below is read-only", blk_node_filename(n->file->node));
        n->open_flags &= ~(unsigned)BLK_O_RDWR;
    }
    return true;
}

static const struct blk_driver *guess(struct blk_node *n, struct err **errp)
{
    uint8_t *buf AUTOFREE = try_alloc(1, PROBE_LEN);
    struct blk_node *f = n->file->node;
    size_t len = (size_t)min_u64(PROBE_LEN, f->size);
    int r = buf ? blk_pread(n->file, 0, buf, len) : -ENOMEM;

    if (r < 0) {
        err_set_errno(errp, -r, "Could not read image for determining its format");
        return NULL;
    }
    n->probed = true;
    return blk_driver_probe(buf, len, blk_node_filename(f));
}

bool blk_node_open_backing(struct blk_node *n, struct err **errp)
{
    char *path AUTOFREE = blk_node_backing_path(n);
    unsigned flags = n->open_flags & (BLK_O_DIRECT | BLK_O_NO_FLUSH | BLK_O_SHARE | BLK_O_UNMAP);
    struct blk_node *b;
    bool ok;

    if (!path || n->backing)
        return true;
    b = blk_node_open(n->set, path, n->backing_fmt && *n->backing_fmt ? n->backing_fmt : NULL, flags | BLK_O_FROM_IMAGE,
                      NULL, errp);
    if (!b) {
        err_prefix(errp, "Could not open backing file: ");
        return false;
    }
    ok = blk_node_set_backing(n, b, errp);
    blk_node_unref(b);
    return ok;
}

/* backing=NODE, backing=(empty) for none, backing.* or, failing all, what the image says. */
static bool attach_backing(struct blk_node *n, const char *ref, struct opts *sub, struct err **errp)
{
    unsigned flags = n->open_flags & (BLK_O_DIRECT | BLK_O_NO_FLUSH | BLK_O_SHARE | BLK_O_UNMAP);
    struct blk_node *b;
    bool ok;

    if (ref && *ref) {
        b = blk_node_find(n->set, ref);
        return b ? blk_node_set_backing(n, b, errp) : err_set(errp, "Cannot find device='' nor node-name='%s'", ref);
    }
    if (ref || n->open_flags & BLK_O_NO_BACKING)
        return true;
    if (list_empty(&sub->all))
        return blk_node_open_backing(n, errp);
    if (opts_peek(sub, "driver") || opts_peek(sub, "file.filename") || opts_peek(sub, "file") ||
        opts_peek(sub, "file.driver")) {
        b = blk_node_open(n->set, NULL, NULL, flags, opts_dup(sub), errp);
    } else {
        char *path AUTOFREE = blk_node_backing_path(n);

        if (!path)
            return true;
        b = blk_node_open(n->set, path, n->backing_fmt, flags | BLK_O_FROM_IMAGE, opts_dup(sub), errp);
    }
    if (!b) {
        err_prefix(errp, "Could not open backing file: ");
        return false;
    }
    ok = blk_node_set_backing(n, b, errp);
    blk_node_unref(b);
    return ok;
}

/* ---- the two kinds ---- */

static struct blk_node *open_leaf(struct blk_set *s, const struct blk_driver *d, const char *filename, unsigned flags,
                                  struct opts *o, struct err **errp)
{
    struct blk_node *n = node_alloc(s, d, flags);

    if (!take_name(n, o, errp) || !take_detect_zeroes(n, o, errp))
        return node_discard(n);
    if (filename && d->parse_filename && blk_driver_by_name_prefix(filename) == d) {
        if (!d->parse_filename(filename, o, errp))
            return node_discard(n);
        n->filename = xstrdup(filename);
    } else if (filename) {
        opts_replace(o, "filename", filename);
    }
    if (!node_start(n, o, errp))
        return node_discard(n);
    return n;
}

static struct blk_node *open_format(struct blk_set *s, const struct blk_driver *d, const char *filename, unsigned flags,
                                    struct opts *o, struct err **errp)
{
    struct blk_node *n = node_alloc(s, d, flags);
    const char *backing_ref = opts_get(o, "backing");
    struct opts *backing;
    bool ok;

    n->drv = d ? d : blk_driver_find("raw");
    if (!take_name(n, o, errp) || !take_detect_zeroes(n, o, errp))
        return node_discard(n);
    if (!n->drv->no_file && !open_file_child(n, filename, o, flags, errp))
        return node_discard(n);
    if (!d && !(d = guess(n, errp)))
        return node_discard(n);
    n->drv = d;
    if (d->no_file && filename)
        opts_replace(o, "filename", filename);
    backing = opts_sub(o, "backing");
    ok = node_start(n, o, errp);
    if (ok && (backing_ref || !list_empty(&backing->all)) && !d->backing_ok)
        ok = err_set(errp, "Driver '%s' does not support backing files", d->name);
    else if (ok && d->backing_ok)
        ok = attach_backing(n, backing_ref, backing, errp);
    opts_free(backing);
    if (ok && !blk_perm_update(n, errp))
        ok = false;
    return ok ? n : node_discard(n);
}

static bool merge_json(const char *filename, struct opts *o, struct err **errp)
{
    struct opts *j = opts_parse(filename + 5, NULL, errp);
    struct opt *e;

    if (!j) {
        err_prefix(errp, "Could not parse the JSON options: ");
        return false;
    }
    opts_each (e, j)
        if (!opts_peek(o, e->key))
            opts_set(o, e->key, e->val);
    opts_free(j);
    return true;
}

static struct blk_node *open_any(struct blk_set *s, const char *filename, const char *fmt, unsigned flags,
                                 struct opts *o, struct err **errp)
{
    const struct blk_driver *d = NULL;
    const char *name;

    if (filename && flags & BLK_O_FROM_IMAGE && !image_name_ok(filename, errp))
        return NULL;
    if (filename && str_starts(filename, "json:")) {
        if (!merge_json(filename, o, errp))
            return NULL;
        filename = NULL;
    }
    name = opts_get(o, "driver");
    if (!name)
        name = fmt;
    if (name && !(d = blk_driver_find(name))) {
        err_set(errp, "Unknown driver '%s'", name);
        return NULL;
    }
    if (!blk_flags_from_opts(o, &flags, errp))
        return NULL;
    if (d && d->kind == BLK_PROTOCOL)
        return open_leaf(s, d, filename, flags, o, errp);
    if (!d && (flags & BLK_O_PROTOCOL || (!filename && opts_peek(o, "filename")))) {
        d = protocol_for(s, filename ? filename : opts_peek(o, "filename"), errp);
        if (!d)
            return NULL;
        if (d->kind == BLK_PROTOCOL)
            return open_leaf(s, d, filename, flags, o, errp);
    }
    if (!d && filename && (d = blk_driver_by_name_prefix(filename)) && d->kind == BLK_PROTOCOL)
        d = NULL;
    if (d && filename && d->parse_filename && blk_driver_by_name_prefix(filename) == d) {
        if (!d->parse_filename(filename, o, errp))
            return NULL;
        filename = NULL;
    }
    return open_format(s, d, filename, flags & ~(unsigned)BLK_O_PROTOCOL, o, errp);
}

struct blk_node *blk_node_open(struct blk_set *s, const char *filename, const char *fmt, unsigned flags, struct opts *o,
                               struct err **errp)
{
    struct blk_node *n;

    o = blk_opts_or_new(o);
    if (s->depth >= MAX_DEPTH) {
        err_set(errp, "the chain of images is longer than %d: is '%s' its own backing file?", MAX_DEPTH, filename);
        opts_free(o);
        return NULL;
    }
    s->depth++;
    n = open_any(s, filename, fmt, flags, o, errp);
    s->depth--;
    opts_free(o);
    return n;
}

/* ---- creation ---- */

bool blk_create_opts_check(const struct blk_driver *d, struct opts *o, struct err **errp)
{
    struct opt *e;

    opts_each (e, o) {
        const struct blk_create_opt *c = d->create_opts;
        struct str_nearest near;

        for (; c && c->name; c++)
            if (!strcmp(c->name, e->key))
                break;
        if (c && c->name)
            continue;
        str_nearest_init(&near, e->key);
        for (c = d->create_opts; c && c->name; c++)
            str_nearest_try(&near, c->name);
        err_set(errp, "Invalid parameter '%s'", e->key);
        if (near.best)
            err_hint(errp, "Did you mean '%s'?", near.best);
        return false;
    }
    return true;
}

bool blk_prealloc_parse(struct opts *o, enum blk_prealloc *out, struct err **errp)
{
    const char *v = opts_get(o, "preallocation");

    *out = BLK_PREALLOC_OFF;
    if (!v)
        return true;
    for (int i = 0; blk_prealloc_names[i]; i++)
        if (!strcmp(v, blk_prealloc_names[i])) {
            *out = (enum blk_prealloc)i;
            return true;
        }
    err_set(errp, "Invalid parameter '%s'", v);
    err_hint(errp, "preallocation is one of off, metadata, falloc, full.");
    return false;
}

bool blk_create(struct blk_set *s, const char *filename, const char *fmt, struct opts *o, struct err **errp)
{
    const struct blk_driver *d = blk_driver_find(fmt);

    if (!d)
        return err_set(errp, "Unknown file format '%s'", fmt);
    if (!d->create)
        return err_set(errp, "Format driver '%s' does not support image creation", fmt);
    return d->create(s, filename, o, errp);
}

struct blk_node *blk_create_file(struct blk_set *s, const char *filename, uint64_t size, struct opts *o,
                                 struct err **errp)
{
    const struct blk_driver *d = protocol_for(s, filename, errp);
    struct opts *fo;
    char num[24];
    const char *v;
    bool ok;

    if (!d)
        return NULL;
    if (!d->create) {
        err_set(errp, "Protocol driver '%s' does not support image creation, and opening the image is needed for it",
                d->name);
        return NULL;
    }
    fo = opts_new();
    snprintf(num, sizeof num, "%" PRIu64, size);
    opts_set(fo, "size", num);
    for (unsigned i = 0; o && i < 2; i++) {
        const char *k = i ? "extent_size_hint" : "nocow";

        v = opts_get(o, k);
        if (v)
            opts_set(fo, k, v);
    }
    ok = d->create(s, filename, fo, errp);
    opts_free(fo);
    return ok ? blk_node_open(s, filename, d->name, BLK_O_RDWR | BLK_O_PROTOCOL | BLK_O_UNMAP, NULL, errp) : NULL;
}

void blk_snaps_free(struct blk_snap *sn, int nr)
{
    for (int i = 0; i < nr; i++) {
        free(sn[i].id);
        free(sn[i].name);
    }
    free(sn);
}
