/* LUKS version 1 containers, after "LUKS1 On-Disk Format Specification" 1.2.3: header, key slots, anti-forensic
 * splitting. Used by the luks format and by encrypted qcow2 images. */
#ifndef BLK_LUKS_H
#define BLK_LUKS_H

#include "blk/node.h"
#include "crypt/cipher.h"

struct luks;
/* Reads len bytes at off of the header area; 0 or -errno. */
typedef int luks_read_fn(void *opaque, uint64_t off, void *buf, size_t len);

/* Parses the header and, with a passphrase, finds the slot it opens. pass NULL: for describing only. */
struct luks *luks_open(luks_read_fn *rd, void *opaque, const uint8_t *pass, size_t pass_len, struct err **errp);
void luks_free(struct luks *l);              /* NULL allowed; wipes the key */
uint64_t luks_payload(const struct luks *l); /* bytes before the data */
/* In place; len a multiple of 512, sector counted from the start of the payload (or as the user's format says). */
void luks_crypt(struct luks *l, uint64_t sector, uint8_t *buf, size_t len, bool encrypt);
struct json_object *luks_info(const struct luks *l); /* the "data" of format-specific information */

/* A header with one slot for the passphrase: payload-offset bytes, to be written as they are; the caller frees. Reads
 * its own options (cipher-alg, cipher-mode, ivgen-alg, ivgen-hash-alg, hash-alg, iter-time) with `prefix` before each
 * name. */
uint8_t *luks_format(struct opts *o, const char *prefix, const uint8_t *pass, size_t pass_len, size_t *len,
                     struct err **errp);
/* The same with the passphrase of the secret that the option key-secret, after `prefix`, names. */
uint8_t *luks_format_keyed(struct blk_set *set, struct opts *o, const char *prefix, size_t *len, struct err **errp);
/* The header's length with default settings or those of o, for measure. */
uint64_t luks_header_len(void);

#endif
