/* -object secret: data given on the command line or in a file, as text or base64, plain or wrapped with another secret
 * (keyid, iv: AES-256-CBC, PKCS#7). */
#include "blk/secret.h"
#include "base/str.h"
#include "blk/blk_int.h"
#include "crypt/cipher.h"
#include <errno.h>
#include <stdio.h>

enum { SECRET_MAX = 1 << 20 };

struct secret {
    struct obj obj;
    char *data, *file, *format, *keyid, *iv; /* properties */
    uint8_t *bytes;                          /* owned */
    size_t len;
};

static int b64_digit(char c)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(set, c) : NULL;

    return at ? (int)(at - set) : -1;
}

/* In place; blanks are skipped. */
static bool b64_decode(uint8_t *buf, size_t *len)
{
    uint32_t v = 0;
    unsigned bits = 0;
    size_t n = 0;

    for (size_t i = 0; i < *len && buf[i] != '='; i++) {
        int d = b64_digit((char)buf[i]);

        if (strchr(" \t\r\n", buf[i]) && buf[i])
            continue;
        if (d < 0)
            return false;
        v = v << 6 | (uint32_t)d;
        bits += 6;
        if (bits >= 8)
            buf[n++] = (uint8_t)(v >> (bits -= 8));
    }
    *len = n;
    return true;
}

static bool load_file(struct secret *s, struct err **errp)
{
    FILE *f = fopen(s->file, "re");

    if (!f)
        return err_set_errno(errp, errno, "Unable to read %s", s->file);
    s->bytes = xmalloc(SECRET_MAX + 1);
    s->len = fread(s->bytes, 1, SECRET_MAX, f);
    fclose(f);
    return true;
}

static struct secret *find(struct obj *container, const char *id, struct err **errp)
{
    struct obj *o = container ? obj_child(container, id) : NULL;

    if (!o || strcmp(o->cls->name, "secret") != 0) {
        err_set(errp, o ? "Object with id '%s' is not a secret" : "No secret with id '%s'", id);
        return NULL;
    }
    return (struct secret *)o;
}

static bool unwrap(struct secret *s, struct err **errp)
{
    struct secret *key = find(s->obj.parent, s->keyid, errp);
    uint8_t iv[256];
    size_t n = s->iv ? strlen(s->iv) : 0;
    ssize_t plain;

    if (!key)
        return false;
    if (!n || n >= sizeof iv)
        return err_set(errp, "IV is required to decrypt secret");
    memcpy(iv, s->iv, n);
    if (!b64_decode(iv, &n) || n != 16)
        return err_set(errp, "IV should be 16 bytes in length not %zu", n);
    if (key->len != 32)
        return err_set(errp, "Key should be 32 bytes in length not %zu", key->len);
    if (!b64_decode(s->bytes, &s->len))
        return err_set(errp, "secret '%s': the data is not base64", s->obj.name);
    plain = crypt_unwrap(key->bytes, iv, s->bytes, s->len);
    if (plain < 0)
        return err_set(errp, "secret '%s' cannot be decrypted with key '%s'", s->obj.name, s->keyid);
    s->len = (size_t)plain;
    return true;
}

static bool secret_ready(struct obj *o, struct err **errp)
{
    struct secret *s = (struct secret *)o;
    bool b64 = s->format && !strcmp(s->format, "base64");

    if (s->format && !b64 && strcmp(s->format, "raw") != 0)
        return err_set(errp, "Invalid parameter '%s'", s->format);
    if (s->data && s->file)
        return err_set(errp, "'file' and 'data' are mutually exclusive");
    if (!s->data && !s->file)
        return err_set(errp, "Must provide 'file' or 'data'");
    if (s->file && !load_file(s, errp))
        return false;
    if (s->data) {
        s->bytes = (uint8_t *)xstrdup(s->data);
        s->len = strlen(s->data);
    }
    if (s->keyid)
        return unwrap(s, errp) && (!b64 || b64_decode(s->bytes, &s->len) || err_set(errp, "the data is not base64"));
    if (b64 && !b64_decode(s->bytes, &s->len))
        return err_set(errp, "secret '%s': the data is not base64", o->name ? o->name : "");
    return true;
}

static void secret_free(struct obj *o)
{
    struct secret *s = (struct secret *)o;

    if (s->bytes)
        crypt_wipe(s->bytes, s->len);
    free(s->bytes);
}

static const struct prop secret_props[] = {
    PROP("data", str, struct secret, data),     PROP("file", str, struct secret, file),
    PROP("format", str, struct secret, format), PROP("keyid", str, struct secret, keyid),
    PROP("iv", str, struct secret, iv),         PROP_END};
static const struct obj_class secret_class = {.name = "secret",
                                              .desc = "a passphrase or key",
                                              .size = sizeof(struct secret),
                                              .props = secret_props,
                                              .ready = secret_ready,
                                              .free = secret_free,
                                              .user = true};
OBJ_REGISTER(secret_class)

uint8_t *blk_secret_get(struct blk_set *s, const char *id, size_t *len, struct err **errp)
{
    struct secret *x = find(s->objects, id, errp);
    uint8_t *copy;

    if (!x)
        return NULL;
    copy = xmalloc(x->len + 1);
    memcpy(copy, x->bytes, x->len);
    copy[x->len] = 0;
    *len = x->len;
    return copy;
}

void blk_set_objects(struct blk_set *s, struct obj *container)
{
    s->objects = container;
}

static const struct obj_class container_class = {.name = "blk-objects", .size = sizeof(struct obj)};

struct obj *blk_objects(struct blk_set *s)
{
    if (!s->objects)
        s->objects = s->own_objects = obj_new(&container_class, NULL);
    return s->objects;
}

bool blk_object_add_opts(struct blk_set *s, struct opts *o, struct err **errp)
{
    static const char *const skip[] = {"qom-type", "id", NULL};
    const char *type = opts_get(o, "qom-type"), *id = opts_get(o, "id");
    const struct obj_class *c = type ? obj_class_find(type) : NULL;
    struct obj *x, *home = blk_objects(s);
    bool ok;

    if (!c || !c->user)
        return err_set(errp, "invalid object type: %s", type ? type : "");
    if (!id)
        return err_set(errp, "Parameter 'id' is missing");
    if (obj_child(home, id))
        return err_set(errp, "attempt to add duplicate property '%s' to object (type 'container')", id);
    x = obj_new(c, NULL);
    obj_ref(x);
    obj_add_child(home, id, x);
    ok = obj_set_all(x, o, skip, errp) && obj_ready(x, errp);
    if (!ok)
        obj_unparent(x);
    obj_unref(x);
    return ok;
}

bool blk_object_add(struct blk_set *s, const char *text, struct err **errp)
{
    struct opts *o = opts_parse(text, "qom-type", errp);
    bool ok = o && blk_object_add_opts(s, o, errp);

    opts_free(o);
    return ok;
}

bool blk_take_objects(struct blk_set *s, int *argc, char **argv, struct err **errp)
{
    int out = 1;

    for (int i = 1; i < *argc; i++) {
        const char *def = NULL;

        if (!strcmp(argv[i], "--")) {
            while (i < *argc)
                argv[out++] = argv[i++];
            break;
        }
        if (!strcmp(argv[i], "--object") && i + 1 < *argc)
            def = argv[++i];
        else if (str_starts(argv[i], "--object="))
            def = argv[i] + strlen("--object=");
        if (def && !blk_object_add(s, def, errp))
            return false;
        if (!def)
            argv[out++] = argv[i];
    }
    argv[out] = NULL;
    *argc = out;
    return true;
}
