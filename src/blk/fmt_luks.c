/* The luks format: a LUKS1 container whose payload is the disk. Sectors of 512 bytes are ciphered in place; a torn
 * sector after a crash is as torn as it would be in a raw image. */
#include "blk/fmt_util.h"
#include "blk/luks.h"
#include "blk/secret.h"
#include <errno.h>
#include <stdio.h>

struct lk {
    struct luks *l; /* owned */
};

static const char *const lk_known[] = {"key-secret", "file", "driver", "node-name", "read-only", NULL};

static int rd(void *opaque, uint64_t off, void *buf, size_t len)
{
    return blk_pread(opaque, off, buf, len);
}

static bool lk_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct lk *s = n->priv;
    const char *id = opts_get(o, "key-secret");
    uint8_t *pass = NULL;
    uint64_t size;
    size_t len = 0;

    if (id && !(pass = blk_secret_get(n->set, id, &len, errp)))
        return false;
    if (!id && !(n->open_flags & BLK_O_NO_IO))
        return err_set(errp, "Parameter 'key-secret' is required for cipher");
    s->l = luks_open(rd, n->file, n->open_flags & BLK_O_NO_IO ? NULL : pass, len, errp);
    if (pass)
        crypt_wipe(pass, len);
    free(pass);
    if (!s->l)
        return false;
    size = blk_node_length(n->file->node);
    n->size = size > luks_payload(s->l) ? align_down(size - luks_payload(s->l), 512) : 0;
    n->request_align = CRYPT_SECTOR;
    n->encrypted = true;
    return true;
}

static void lk_close(struct blk_node *n)
{
    struct lk *s = n->priv;

    luks_free(s->l);
}

static void cipher(void *opaque, uint64_t off, uint8_t *buf, size_t len, bool encrypt)
{
    luks_crypt(opaque, off / CRYPT_SECTOR, buf, len, encrypt);
}

static int lk_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags)
{
    struct lk *s = n->priv;

    return blk_read_ciphered(n->file, luks_payload(s->l) + off, off, len, q, qoff, cipher, s->l);
}

static int lk_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                      unsigned flags)
{
    struct lk *s = n->priv;

    return blk_write_ciphered(n->file, luks_payload(s->l) + off, off, len, q, qoff, cipher, s->l);
}

static uint64_t lk_getlength(struct blk_node *n)
{
    struct lk *s = n->priv;
    uint64_t size = blk_node_length(n->file->node);

    return size > luks_payload(s->l) ? align_down(size - luks_payload(s->l), 512) : 0;
}

static int lk_truncate(struct blk_node *n, uint64_t size, enum blk_prealloc p, struct err **errp)
{
    struct lk *s = n->priv;

    if (size > INT64_MAX - luks_payload(s->l)) {
        err_set(errp, "The requested file size is too large");
        return -EFBIG;
    }
    return blk_node_truncate(n->file->node, size + luks_payload(s->l), p, errp);
}

static struct json_object *lk_info(struct blk_node *n)
{
    struct lk *s = n->priv;

    return json_make("s:type", "luks", "o:data", luks_info(s->l), NULL);
}

static int lk_probe(const uint8_t *buf, size_t n, const char *filename)
{
    static const uint8_t magic[] = {'L', 'U', 'K', 'S', 0xba, 0xbe, 0, 1};

    return n >= sizeof magic && !memcmp(buf, magic, sizeof magic) ? 100 : 0;
}

static const struct blk_create_opt lk_create_opts[] = {
    {"cipher-alg", "str", "Name of encryption cipher algorithm", NULL},
    {"cipher-mode", "str", "Name of encryption cipher mode", NULL},
    {"hash-alg", "str", "Name of encryption hash algorithm", NULL},
    {"iter-time", "num", "Time to spend in PBKDF in milliseconds", NULL},
    {"ivgen-alg", "str", "Name of IV generator algorithm", NULL},
    {"ivgen-hash-alg", "str", "Name of IV generator hash algorithm", NULL},
    {"key-secret", "str", "ID of the secret that provides the keyslot key", NULL},
    {"preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)", NULL},
    {"size", "size", "Virtual disk size", NULL},
    {NULL},
};

static bool lk_create(struct blk_set *set, const char *filename, struct opts *o, struct err **errp)
{
    uint64_t size = 0;
    enum blk_prealloc p;
    struct blk_node *f;
    struct blk_child *edge;
    uint8_t *h;
    size_t len;
    int r = -EBUSY;

    if (!opts_size(o, "size", &size, errp) || !blk_prealloc_parse(o, &p, errp))
        return false;
    if (size > INT64_MAX / 2)
        return err_set(errp, "The requested file size is too large");
    h = luks_format_keyed(set, o, "", &len, errp);
    f = h ? blk_create_file(set, filename, 0, o, errp) : NULL;
    if (!f) {
        free(h);
        return false;
    }
    edge = blk_child_root(f, "create", BLK_PERM_WRITE | BLK_PERM_RESIZE, BLK_PERM_ALL, errp);
    if (edge)
        r = blk_node_pwrite(f, 0, h, len);
    if (edge && r >= 0)
        r = blk_node_truncate(f, len + align_up(size, 512), p, errp);
    if (edge && r < 0 && !(errp && *errp))
        err_set_errno(errp, -r, "Could not write the LUKS header");
    blk_child_detach(edge);
    blk_node_unref(f);
    free(h);
    return r >= 0;
}

static bool lk_measure(struct opts *o, struct blk_node *in, struct blk_measure *m, struct err **errp)
{
    uint64_t size = in ? in->size : 0;

    if (!in && !opts_size(o, "size", &size, errp))
        return false;
    m->required = m->full = luks_header_len() + align_up(size, 512);
    return true;
}

static const struct blk_driver drv_luks = {
    .name = "luks",
    .any_loop = true,
    .kind = BLK_FORMAT,
    .priv_size = sizeof(struct lk),
    .known = lk_known,
    .probe = lk_probe,
    .open = lk_open,
    .close = lk_close,
    .preadv = lk_preadv,
    .pwritev = lk_pwritev,
    .getlength = lk_getlength,
    .truncate = lk_truncate,
    .info = lk_info,
    .create = lk_create,
    .create_opts = lk_create_opts,
    .measure = lk_measure,
};
BLK_REGISTER(drv_luks)
