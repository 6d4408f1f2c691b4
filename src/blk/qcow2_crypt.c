/* qcow2: encrypted data clusters. See qcow2.h for the two methods; the LUKS header lies in clusters of its own, named
 * by the header extension. Compressed clusters cannot be encrypted. */
#include "blk/fmt_util.h"
#include "blk/luks.h"
#include "blk/qcow2.h"
#include "blk/secret.h"
#include <errno.h>

struct area {
    struct blk_child *file;
    uint64_t off, len;
};

static int rd(void *opaque, uint64_t off, void *buf, size_t len)
{
    struct area *a = opaque;

    return off > a->len || len > a->len - off ? -EINVAL : blk_pread(a->file, a->off + off, buf, len);
}

static bool open_aes(struct q2 *s, const uint8_t *pass, size_t len, struct err **errp)
{
    uint8_t key[16] = {0};

    memcpy(key, pass, min_u64(len, sizeof key));
    s->aes = crypt_cipher_new("aes", "cbc", "plain64", NULL, key, sizeof key, errp);
    crypt_wipe(key, sizeof key);
    return s->aes;
}

bool q2_crypt_open(struct blk_node *n, struct opts *o, struct err **errp)
{
    struct q2 *s = n->priv;
    const char *id = opts_get(o, "encrypt.key-secret"), *fmt = opts_get(o, "encrypt.format"),
               *is = s->crypt_method == 2 ? "luks" : "aes";
    struct area a = {n->file, s->crypt_off, s->crypt_len};
    bool describe = n->open_flags & (BLK_O_NO_IO | BLK_O_CHECK);
    uint8_t *pass = NULL;
    size_t len = 0;
    bool ok;

    if (!s->crypt_method)
        return !id ||
               err_set(errp, "No encryption in image header, but options specified format '%s'", fmt ? fmt : "luks");
    if (s->crypt_method > 2)
        return err_set(errp, "Unsupported encryption method %" PRIu32, s->crypt_method);
    if (fmt && strcmp(fmt, is) != 0)
        return err_set(errp, "Header reported '%s' encryption format but options specify '%s'", is, fmt);
    if (s->crypt_method == 2 && (!s->crypt_off || s->crypt_off & (s->cs - 1) || s->crypt_len > 64 << 20))
        return err_set(errp, "qcow2: the encryption header extension is damaged");
    n->encrypted = true;
    n->request_align = CRYPT_SECTOR;
    if (!id && !describe)
        return err_set(errp, "Parameter 'encrypt.key-secret' is required for cipher");
    if (id && !(pass = blk_secret_get(n->set, id, &len, errp)))
        return false;
    if (s->crypt_method == 1) {
        ok = !pass || open_aes(s, pass, len, errp);
    } else {
        s->luks = luks_open(rd, &a, pass, len, errp);
        ok = s->luks;
    }
    if (pass)
        crypt_wipe(pass, len);
    free(pass);
    s->locked = !id;
    return ok;
}

void q2_crypt_close(struct q2 *s)
{
    luks_free(s->luks);
    crypt_cipher_free(s->aes);
    s->luks = NULL;
    s->aes = NULL;
}

static void cipher(void *opaque, uint64_t pos, uint8_t *buf, size_t len, bool encrypt)
{
    struct q2 *s = opaque;

    if (s->luks)
        luks_crypt(s->luks, pos / CRYPT_SECTOR, buf, len, encrypt);
    else
        (encrypt ? crypt_encrypt : crypt_decrypt)(s->aes, pos / CRYPT_SECTOR, buf, len);
}

int q2_data_read(struct blk_node *n, uint64_t off, uint64_t host, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct q2 *s = n->priv;

    if (!s->crypt_method)
        return blk_preadv(s->data, host, len, q, qoff, 0);
    if (s->locked)
        return -EACCES;
    return blk_read_ciphered(s->data, host, s->luks ? host : off, len, q, qoff, cipher, s);
}

int q2_data_write(struct blk_node *n, uint64_t off, uint64_t host, uint64_t len, const struct iov *q, uint64_t qoff)
{
    struct q2 *s = n->priv;

    if (!s->crypt_method)
        return blk_pwritev(s->data, host, len, q, qoff, 0);
    if (s->locked)
        return -EACCES;
    return blk_write_ciphered(s->data, host, s->luks ? host : off, len, q, qoff, cipher, s);
}
