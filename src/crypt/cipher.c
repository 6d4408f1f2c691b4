/* Disk encryption primitives; see the header. IV rules after the LUKS on-disk format specification 1.2.3, section 8. */
#include "crypt/cipher.h"
#include <gcrypt.h>
#include <pthread.h>
#include <string.h>
#include <sys/uio.h>

struct crypt_cipher {
    gcry_cipher_hd_t h, essiv; /* owned; essiv NULL = plain numbers */
    bool ecb, iv32;
    unsigned block;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start_up(void)
{
    if (gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P))
        return;
    gcry_check_version(NULL);
    gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
    gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
}

static const struct alg {
    const char *name;
    size_t key;
    int id;
} algs[] = {
    {"aes", 16, GCRY_CIPHER_AES128},         {"aes", 24, GCRY_CIPHER_AES192},
    {"aes", 32, GCRY_CIPHER_AES256},         {"serpent", 16, GCRY_CIPHER_SERPENT128},
    {"serpent", 24, GCRY_CIPHER_SERPENT192}, {"serpent", 32, GCRY_CIPHER_SERPENT256},
    {"twofish", 16, GCRY_CIPHER_TWOFISH128}, {"twofish", 32, GCRY_CIPHER_TWOFISH},
    {"cast5", 16, GCRY_CIPHER_CAST5},
};

static int find_alg(const char *name, size_t key)
{
    for (size_t i = 0; i < ARRAY_LEN(algs); i++)
        if (!strcmp(algs[i].name, name) && algs[i].key == key)
            return algs[i].id;
    return 0;
}

static const struct {
    const char *name;
    int id;
} hashes[] = {{"sha1", GCRY_MD_SHA1},     {"sha224", GCRY_MD_SHA224}, {"sha256", GCRY_MD_SHA256},
              {"sha384", GCRY_MD_SHA384}, {"sha512", GCRY_MD_SHA512}, {"ripemd160", GCRY_MD_RMD160}};

static int find_hash(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(hashes); i++)
        if (!strcmp(hashes[i].name, name))
            return hashes[i].id;
    return 0;
}

size_t crypt_hash_len(const char *hash)
{
    int id = find_hash(hash);

    pthread_once(&once, start_up);
    return id ? gcry_md_get_algo_dlen(id) : 0;
}

void crypt_hash(const char *hash, const struct iovec *v, unsigned nr, uint8_t *out)
{
    gcry_buffer_t b[CRYPT_HASH_PIECES] = {{0}};
    int id = find_hash(hash);

    assert(id && nr <= CRYPT_HASH_PIECES);
    pthread_once(&once, start_up);
    for (unsigned i = 0; i < nr; i++)
        b[i] = (gcry_buffer_t){.data = v[i].iov_base, .len = v[i].iov_len, .size = v[i].iov_len};
    if (gcry_md_hash_buffers(id, 0, out, b, (int)nr))
        abort(); /* out of memory for a few hundred bytes */
}

bool crypt_pbkdf2(const char *hash, const uint8_t *pass, size_t pass_len, const uint8_t *salt, size_t salt_len,
                  unsigned long iterations, uint8_t *out, size_t out_len)
{
    pthread_once(&once, start_up);
    return !gcry_kdf_derive(pass, pass_len, GCRY_KDF_PBKDF2, find_hash(hash), salt, salt_len, iterations, out_len, out);
}

void crypt_random(uint8_t *out, size_t len)
{
    pthread_once(&once, start_up);
    gcry_randomize(out, len, GCRY_STRONG_RANDOM);
}

void crypt_wipe(void *p, size_t len)
{
    explicit_bzero(p, len);
}

/* The IV key is the hash of the key, for the same algorithm with that key length. */
static bool open_essiv(struct crypt_cipher *c, const char *alg, const char *ivhash, const uint8_t *key, size_t key_len,
                       struct err **errp)
{
    size_t len = ivhash ? crypt_hash_len(ivhash) : 0;
    struct iovec v = {(void *)(uintptr_t)key, key_len};
    uint8_t digest[CRYPT_HASH_MAX];
    int id = len ? find_alg(alg, len) : 0;
    bool ok;

    if (!id)
        return err_set(errp, "cipher '%s' with ESSIV by hash '%s' is not known", alg, ivhash ? ivhash : "");
    crypt_hash(ivhash, &v, 1, digest);
    ok = !gcry_cipher_open(&c->essiv, id, GCRY_CIPHER_MODE_ECB, 0) && !gcry_cipher_setkey(c->essiv, digest, len);
    crypt_wipe(digest, sizeof digest);
    return ok || err_set(errp, "cannot set up ESSIV");
}

struct crypt_cipher *crypt_cipher_new(const char *alg, const char *mode, const char *ivgen, const char *ivhash,
                                      const uint8_t *key, size_t key_len, struct err **errp)
{
    bool xts = !strcmp(mode, "xts"), cbc = !strcmp(mode, "cbc"), ecb = !strcmp(mode, "ecb");
    int id = find_alg(alg, xts ? key_len / 2 : key_len);
    struct crypt_cipher *c;

    pthread_once(&once, start_up);
    if (!id || (xts && key_len & 1) || !(xts || cbc || ecb)) {
        err_set(errp, "cipher '%s' in mode '%s' with a key of %zu bytes is not known", alg, mode, key_len);
        return NULL;
    }
    if (!ecb && (!ivgen || (strcmp(ivgen, "plain") && strcmp(ivgen, "plain64") && strcmp(ivgen, "essiv")))) {
        err_set(errp, "IV generator '%s' is not known", ivgen ? ivgen : "");
        return NULL;
    }
    c = xnew(struct crypt_cipher);
    c->ecb = ecb;
    c->iv32 = ivgen && !strcmp(ivgen, "plain");
    c->block = (unsigned)gcry_cipher_get_algo_blklen(id);
    if (gcry_cipher_open(&c->h, id,
                         xts   ? GCRY_CIPHER_MODE_XTS
                         : cbc ? GCRY_CIPHER_MODE_CBC
                               : GCRY_CIPHER_MODE_ECB,
                         0) ||
        gcry_cipher_setkey(c->h, key, key_len))
        err_set(errp, "cannot set up the cipher '%s' in mode '%s'", alg, mode);
    else if (ecb || strcmp(ivgen, "essiv") || open_essiv(c, alg, ivhash, key, key_len, errp))
        return c;
    crypt_cipher_free(c);
    return NULL;
}

void crypt_cipher_free(struct crypt_cipher *c)
{
    if (!c)
        return;
    gcry_cipher_close(c->h);
    gcry_cipher_close(c->essiv);
    free(c);
}

static void set_iv(struct crypt_cipher *c, uint64_t sector)
{
    uint8_t iv[16] = {0};

    if (c->ecb)
        return;
    for (unsigned i = 0; i < (c->iv32 ? 4 : 8); i++)
        iv[i] = (uint8_t)(sector >> (8 * i));
    if (c->essiv)
        gcry_cipher_encrypt(c->essiv, iv, c->block, NULL, 0);
    gcry_cipher_setiv(c->h, iv, c->block);
}

void crypt_encrypt(struct crypt_cipher *c, uint64_t sector, uint8_t *buf, size_t len)
{
    for (; len; len -= CRYPT_SECTOR, buf += CRYPT_SECTOR) {
        set_iv(c, sector++);
        gcry_cipher_encrypt(c->h, buf, CRYPT_SECTOR, NULL, 0);
    }
}

void crypt_decrypt(struct crypt_cipher *c, uint64_t sector, uint8_t *buf, size_t len)
{
    for (; len; len -= CRYPT_SECTOR, buf += CRYPT_SECTOR) {
        set_iv(c, sector++);
        gcry_cipher_decrypt(c->h, buf, CRYPT_SECTOR, NULL, 0);
    }
}

ssize_t crypt_unwrap(const uint8_t *key, const uint8_t *iv, uint8_t *buf, size_t len)
{
    gcry_cipher_hd_t h;
    bool ok;

    pthread_once(&once, start_up);
    if (!len || len % 16 || gcry_cipher_open(&h, GCRY_CIPHER_AES256, GCRY_CIPHER_MODE_CBC, 0))
        return -1;
    ok = !gcry_cipher_setkey(h, key, 32) && !gcry_cipher_setiv(h, iv, 16) && !gcry_cipher_decrypt(h, buf, len, NULL, 0);
    gcry_cipher_close(h);
    if (!ok || !buf[len - 1] || buf[len - 1] > 16 || buf[len - 1] > len)
        return -1;
    return (ssize_t)(len - buf[len - 1]);
}
