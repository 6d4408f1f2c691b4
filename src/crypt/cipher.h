/* Disk encryption primitives over libgcrypt: sector ciphers with their IV rules, hashes, PBKDF2. Pure: no files, no
 * guest. A struct crypt_cipher may be used by one thread at a time. */
#ifndef CRYPT_CIPHER_H
#define CRYPT_CIPHER_H

#include "base/err.h"
#include <sys/uio.h>

enum { CRYPT_SECTOR = 512, CRYPT_HASH_MAX = 64, CRYPT_KEY_MAX = 64 };

struct crypt_cipher;
/* alg: "aes", "serpent", "twofish" or "cast5"; mode: "xts", "cbc" or "ecb"; ivgen: "plain", "plain64" or "essiv" (then
 * ivhash names its hash), NULL with ecb. NULL with an error when a name or the key's length is unknown. */
struct crypt_cipher *crypt_cipher_new(const char *alg, const char *mode, const char *ivgen, const char *ivhash,
                                      const uint8_t *key, size_t key_len, struct err **errp);
void crypt_cipher_free(struct crypt_cipher *c); /* NULL allowed; wipes the key */
/* In place; len a multiple of CRYPT_SECTOR, `sector` the number of the first one. */
void crypt_encrypt(struct crypt_cipher *c, uint64_t sector, uint8_t *buf, size_t len);
void crypt_decrypt(struct crypt_cipher *c, uint64_t sector, uint8_t *buf, size_t len);

/* Length of the hash's digest; 0 = unknown name. */
size_t crypt_hash_len(const char *hash);
/* The digest of the pieces in a row, at most CRYPT_HASH_PIECES of them; the hash must be known. */
enum { CRYPT_HASH_PIECES = 4 };
void crypt_hash(const char *hash, const struct iovec *v, unsigned nr, uint8_t *out);
bool crypt_pbkdf2(const char *hash, const uint8_t *pass, size_t pass_len, const uint8_t *salt, size_t salt_len,
                  unsigned long iterations, uint8_t *out, size_t out_len);
/* AES-256-CBC with PKCS#7 padding, as secrets are wrapped; the plain length or -1. */
ssize_t crypt_unwrap(const uint8_t *key, const uint8_t *iv, uint8_t *buf, size_t len);
void crypt_random(uint8_t *out, size_t len);
void crypt_wipe(void *p, size_t len);

#endif
