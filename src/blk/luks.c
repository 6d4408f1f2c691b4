/* LUKS1: see the header for the specification. Every number of the file is checked before it is used: slot positions,
 * stripes and key lengths bound the memory, iterations bound the time. Left out: detached headers, other versions. */
#include "blk/luks.h"
#include "base/bytes.h"
#include "base/json.h"
#include "base/str.h"
#include "blk/secret.h"
#include <stdio.h>
#include <time.h>

enum {
    HDR_LEN = 592,
    NR_SLOTS = 8,
    SLOT_ON = 0x00ac71f3,
    SLOT_OFF = 0x0000dead,
    STRIPES = 4000,
    MAX_STRIPES = 65536,
    ALIGN = 4096,
    DIGEST = 20,
    SALT = 32,
    MIN_ITER = 1000,
    MAX_ITER = 100 * 1000 * 1000, /* of all slots together */
};
static const char magic[6] = {'L', 'U', 'K', 'S', (char)0xba, (char)0xbe};

struct slot {
    bool on;
    uint32_t iter, stripes;
    uint64_t off; /* bytes */
    uint8_t salt[SALT];
};
struct luks {
    char alg[33], mode[33], hash[33], uuid[41];
    char cmode[16], ivgen[16], ivhash[16]; /* parts of mode */
    uint64_t payload;
    uint32_t key_len, mk_iter;
    uint8_t mk_digest[DIGEST], mk_salt[SALT];
    struct slot slot[NR_SLOTS];
    struct crypt_cipher *c; /* owned; NULL when not unlocked */
};

/* ---- header ---- */

static bool split_mode(struct luks *l, struct err **errp)
{
    const char *dash = strchr(l->mode, '-'), *colon = dash ? strchr(dash, ':') : NULL;
    size_t m = dash ? (size_t)(dash - l->mode) : strlen(l->mode);
    size_t g = !dash ? 0 : colon ? (size_t)(colon - dash - 1) : strlen(dash + 1);

    if (m >= sizeof l->cmode || g >= sizeof l->ivgen || (colon && strlen(colon + 1) >= sizeof l->ivhash))
        return err_set(errp, "Unexpected cipher mode string format '%s'", l->mode);
    memcpy(l->cmode, l->mode, m);
    memcpy(l->ivgen, dash ? dash + 1 : "", g);
    if (colon)
        strcpy(l->ivhash, colon + 1);
    return true;
}

static bool parse_slots(struct luks *l, const uint8_t *h, struct err **errp)
{
    uint64_t all = l->mk_iter;

    for (unsigned i = 0; i < NR_SLOTS; i++) {
        const uint8_t *p = h + 208 + i * 48;
        struct slot *s = &l->slot[i];
        uint32_t active = get_be32(p);

        *s = (struct slot){.on = active == SLOT_ON,
                           .iter = get_be32(p + 4),
                           .off = (uint64_t)get_be32(p + 40) * CRYPT_SECTOR,
                           .stripes = get_be32(p + 44)};
        memcpy(s->salt, p + 8, SALT);
        if (active != SLOT_ON && active != SLOT_OFF)
            return err_set(errp, "Keyslot %u state is corrupted", i);
        if (!s->on)
            continue;
        if (!s->stripes || s->stripes > MAX_STRIPES)
            return err_set(errp, "Keyslot %u is corrupted (stripes: %u)", i, s->stripes);
        all += s->iter;
        if (!s->iter || all > MAX_ITER)
            return err_set(errp, "Keyslot %u: %u iterations are out of range", i, s->iter);
        if (s->off < HDR_LEN || s->off > INT32_MAX)
            return err_set(errp, "Keyslot %u: key material at offset %" PRIu64 " is out of range", i, s->off);
    }
    return true;
}

static bool parse_header(struct luks *l, const uint8_t *h, struct err **errp)
{
    if (memcmp(h, magic, sizeof magic) != 0)
        return err_set(errp, "Volume is not in LUKS format");
    if (get_be16(h + 6) != 1)
        return err_set(errp, "LUKS version %u is not supported", get_be16(h + 6));
    memcpy(l->alg, h + 8, 32);
    memcpy(l->mode, h + 40, 32);
    memcpy(l->hash, h + 72, 32);
    l->payload = (uint64_t)get_be32(h + 104) * CRYPT_SECTOR;
    l->key_len = get_be32(h + 108);
    memcpy(l->mk_digest, h + 112, DIGEST);
    memcpy(l->mk_salt, h + 132, SALT);
    l->mk_iter = get_be32(h + 164);
    memcpy(l->uuid, h + 168, 40);
    if (!l->key_len || l->key_len > CRYPT_KEY_MAX)
        return err_set(errp, "LUKS key of %u bytes is out of range", l->key_len);
    if (!crypt_hash_len(l->hash))
        return err_set(errp, "Hash algorithm '%s' is not supported", l->hash);
    if (!l->mk_iter || l->mk_iter > MAX_ITER)
        return err_set(errp, "LUKS key digest: %u iterations are out of range", l->mk_iter);
    return split_mode(l, errp) && parse_slots(l, h, errp);
}

/* ---- anti-forensic information splitter ---- */

static void diffuse(const char *hash, uint8_t *buf, size_t len)
{
    size_t dl = crypt_hash_len(hash);
    uint8_t d[CRYPT_HASH_MAX], be[4];

    for (uint32_t i = 0; i * dl < len; i++) {
        size_t part = min_u64(dl, len - i * dl);
        struct iovec v[2] = {{be, 4}, {buf + i * dl, part}};

        put_be32(be, i);
        crypt_hash(hash, v, 2, d);
        memcpy(buf + i * dl, d, part);
    }
}

static void xor_into(uint8_t *d, const uint8_t *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        d[i] ^= s[i];
}

static void af_merge(const char *hash, const uint8_t *split, uint32_t stripes, uint8_t *key, size_t len)
{
    memset(key, 0, len);
    for (uint32_t i = 0; i < stripes; i++) {
        xor_into(key, split + i * len, len);
        if (i + 1 < stripes)
            diffuse(hash, key, len);
    }
}

static void af_split(const char *hash, const uint8_t *key, uint8_t *split, uint32_t stripes, size_t len)
{
    uint8_t d[CRYPT_KEY_MAX] = {0};

    crypt_random(split, (stripes - 1) * len);
    for (uint32_t i = 0; i + 1 < stripes; i++) {
        xor_into(d, split + i * len, len);
        diffuse(hash, d, len);
    }
    xor_into(d, key, len);
    memcpy(split + (stripes - 1) * len, d, len);
    crypt_wipe(d, sizeof d);
}

/* ---- unlocking ---- */

static struct crypt_cipher *cipher_for(const struct luks *l, const uint8_t *key, struct err **errp)
{
    return crypt_cipher_new(l->alg, l->cmode, *l->ivgen ? l->ivgen : NULL, *l->ivhash ? l->ivhash : NULL, key,
                            l->key_len, errp);
}

static bool key_is_right(const struct luks *l, const uint8_t *mk)
{
    uint8_t d[DIGEST];

    return crypt_pbkdf2(l->hash, mk, l->key_len, l->mk_salt, SALT, l->mk_iter, d, DIGEST) &&
           !memcmp(d, l->mk_digest, DIGEST);
}

/* 1: the passphrase opens the slot and mk is the key; 0: it does not; -1 with an error. */
static int try_slot(const struct luks *l, const struct slot *s, luks_read_fn *rd, void *opaque, const uint8_t *pass,
                    size_t pass_len, uint8_t *mk, struct err **errp)
{
    size_t len = align_up((uint64_t)s->stripes * l->key_len, CRYPT_SECTOR);
    uint8_t *split AUTOFREE = try_alloc(1, len), k[CRYPT_KEY_MAX];
    struct crypt_cipher *c;
    int r = split ? rd(opaque, s->off, split, len) : -12;

    if (r < 0) {
        err_set_errno(errp, -r, "Failed to read key material");
        return -1;
    }
    if (!crypt_pbkdf2(l->hash, pass, pass_len, s->salt, SALT, s->iter, k, l->key_len))
        return 0;
    c = cipher_for(l, k, errp);
    crypt_wipe(k, sizeof k);
    if (!c)
        return -1;
    crypt_decrypt(c, 0, split, len);
    crypt_cipher_free(c);
    af_merge(l->hash, split, s->stripes, mk, l->key_len);
    crypt_wipe(split, len);
    return key_is_right(l, mk);
}

static bool unlock(struct luks *l, luks_read_fn *rd, void *opaque, const uint8_t *pass, size_t pass_len,
                   struct err **errp)
{
    uint8_t mk[CRYPT_KEY_MAX];

    for (unsigned i = 0; i < NR_SLOTS; i++) {
        int r = l->slot[i].on ? try_slot(l, &l->slot[i], rd, opaque, pass, pass_len, mk, errp) : 0;

        if (r > 0)
            l->c = cipher_for(l, mk, errp);
        crypt_wipe(mk, sizeof mk);
        if (r)
            return r > 0 && l->c;
    }
    return err_set(errp, "Invalid password, cannot unlock any keyslot");
}

struct luks *luks_open(luks_read_fn *rd, void *opaque, const uint8_t *pass, size_t pass_len, struct err **errp)
{
    struct luks *l = xnew(struct luks);
    uint8_t h[HDR_LEN];
    int r = rd(opaque, 0, h, sizeof h);

    if (r < 0)
        err_set_errno(errp, -r, "Unable to read LUKS header");
    else if (parse_header(l, h, errp) && (!pass || unlock(l, rd, opaque, pass, pass_len, errp)))
        return l;
    luks_free(l);
    return NULL;
}

void luks_free(struct luks *l)
{
    if (!l)
        return;
    crypt_cipher_free(l->c);
    free(l);
}

uint64_t luks_payload(const struct luks *l)
{
    return l->payload;
}

void luks_crypt(struct luks *l, uint64_t sector, uint8_t *buf, size_t len, bool encrypt)
{
    assert(l->c);
    (encrypt ? crypt_encrypt : crypt_decrypt)(l->c, sector, buf, len);
}

struct json_object *luks_info(const struct luks *l)
{
    struct json_object *slots = json_object_new_array(), *o;
    unsigned bits = l->key_len * 8 / (strcmp(l->cmode, "xts") ? 1 : 2);
    char *alg AUTOFREE = xasprintf("%s-%u", l->alg, bits);

    for (unsigned i = 0; i < NR_SLOTS; i++) {
        const struct slot *s = &l->slot[i];

        o = json_make("b:active", s->on, NULL);
        if (s->on)
            json_object_object_add(o, "iters", json_object_new_int64(s->iter));
        json_object_object_add(o, "key-offset", json_object_new_int64((int64_t)s->off));
        if (s->on)
            json_object_object_add(o, "stripes", json_object_new_int64(s->stripes));
        json_object_array_add(slots, o);
    }
    o = json_make("s:ivgen-alg", l->ivgen, NULL);
    if (*l->ivhash)
        json_object_object_add(o, "ivgen-hash-alg", json_object_new_string(l->ivhash));
    json_object_object_add(o, "hash-alg", json_object_new_string(l->hash));
    json_object_object_add(o, "cipher-alg", json_object_new_string(alg));
    json_object_object_add(o, "uuid", json_object_new_string(l->uuid));
    json_object_object_add(o, "cipher-mode", json_object_new_string(l->cmode));
    json_object_object_add(o, "slots", slots);
    json_object_object_add(o, "payload-offset", json_object_new_int64((int64_t)l->payload));
    json_object_object_add(o, "master-key-iters", json_object_new_int64(l->mk_iter));
    return o;
}

/* ---- formatting ---- */

struct format {
    struct luks l;
    uint64_t iter_ms;
};

static const char *take(struct opts *o, const char *prefix, const char *name, const char *dflt)
{
    char *key AUTOFREE = xasprintf("%s%s", prefix, name);
    const char *v = opts_get(o, key);

    return v ? v : dflt;
}

/* "aes-256" and "xts" to a cipher name and the length of the key. */
static bool take_cipher(struct format *f, struct opts *o, const char *prefix, struct err **errp)
{
    const char *alg = take(o, prefix, "cipher-alg", "aes-256"), *mode = take(o, prefix, "cipher-mode", "xts");
    const char *iv = take(o, prefix, "ivgen-alg", "plain64"), *ivhash = take(o, prefix, "ivgen-hash-alg", NULL);
    const char *hash = take(o, prefix, "hash-alg", "sha256"), *dash = strrchr(alg, '-');
    struct luks *l = &f->l;
    uint64_t bits = 0;

    if (!dash || dash - alg > 31 || !str_to_u64(dash + 1, &bits) || !bits || bits > 256 || bits % 8)
        return err_set(errp, "Invalid parameter '%s'", alg);
    if (!crypt_hash_len(hash) || strlen(hash) > 31)
        return err_set(errp, "Invalid parameter '%s'", hash);
    if (!strcmp(iv, "essiv") && !ivhash)
        ivhash = "sha256";
    if (strlen(mode) + strlen(iv) + (ivhash ? strlen(ivhash) : 0) > 28)
        return err_set(errp, "Invalid parameter '%s'", mode);
    memcpy(l->alg, alg, (size_t)(dash - alg));
    strcpy(l->hash, hash);
    if (!strcmp(mode, "ecb"))
        strcpy(l->mode, mode);
    else if (!strcmp(iv, "essiv"))
        snprintf(l->mode, sizeof l->mode, "%s-%s:%s", mode, iv, ivhash);
    else
        snprintf(l->mode, sizeof l->mode, "%s-%s", mode, iv);
    l->key_len = (uint32_t)bits / 8 * (strcmp(mode, "xts") ? 1 : 2);
    return split_mode(l, errp);
}

static double seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* How many iterations take `ms`. */
static uint32_t iterations(const char *hash, size_t out_len, double ms)
{
    unsigned long n = 1 << 12;
    uint8_t out[CRYPT_KEY_MAX], salt[SALT] = {1};
    double t, start;

    for (;; n *= 2) {
        start = seconds();
        if (!crypt_pbkdf2(hash, (const uint8_t *)"password", 8, salt, SALT, n, out, out_len))
            return MIN_ITER;
        t = seconds() - start;
        if (t > 0.05 || n >= 1u << 26)
            break;
    }
    t = (double)n * ms / 1000 / (t > 0 ? t : 0.001);
    return t < MIN_ITER ? MIN_ITER : t > MAX_ITER ? MAX_ITER : (uint32_t)t;
}

static void make_uuid(char *out)
{
    uint8_t u[16];

    crypt_random(u, sizeof u);
    u[6] = (uint8_t)((u[6] & 15) | 0x40);
    u[8] = (uint8_t)((u[8] & 63) | 0x80);
    snprintf(out, 41, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2], u[3],
             u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

static void write_header(const struct luks *l, uint8_t *h)
{
    memcpy(h, magic, sizeof magic);
    put_be16(h + 6, 1);
    memcpy(h + 8, l->alg, 32);
    memcpy(h + 40, l->mode, 32);
    memcpy(h + 72, l->hash, 32);
    put_be32(h + 104, (uint32_t)(l->payload / CRYPT_SECTOR));
    put_be32(h + 108, l->key_len);
    memcpy(h + 112, l->mk_digest, DIGEST);
    memcpy(h + 132, l->mk_salt, SALT);
    put_be32(h + 164, l->mk_iter);
    memcpy(h + 168, l->uuid, 40);
    for (unsigned i = 0; i < NR_SLOTS; i++) {
        const struct slot *s = &l->slot[i];
        uint8_t *p = h + 208 + i * 48;

        put_be32(p, s->on ? SLOT_ON : SLOT_OFF);
        put_be32(p + 4, s->on ? s->iter : 0);
        memcpy(p + 8, s->salt, SALT);
        put_be32(p + 40, (uint32_t)(s->off / CRYPT_SECTOR));
        put_be32(p + 44, STRIPES);
    }
}

static bool fill_slot(struct luks *l, const uint8_t *mk, const uint8_t *pass, size_t pass_len, uint8_t *area,
                      struct err **errp)
{
    struct slot *s = &l->slot[0];
    size_t len = align_up((uint64_t)STRIPES * l->key_len, CRYPT_SECTOR);
    uint8_t k[CRYPT_KEY_MAX];
    struct crypt_cipher *c;

    crypt_random(s->salt, SALT);
    s->on = true;
    s->stripes = STRIPES;
    if (!crypt_pbkdf2(l->hash, pass, pass_len, s->salt, SALT, s->iter, k, l->key_len))
        return err_set(errp, "cannot derive a key from the passphrase");
    c = cipher_for(l, k, errp);
    crypt_wipe(k, sizeof k);
    if (!c)
        return false;
    af_split(l->hash, mk, area + s->off, STRIPES, l->key_len);
    crypt_encrypt(c, 0, area + s->off, len);
    crypt_cipher_free(c);
    return true;
}

uint64_t luks_header_len(void)
{
    return ALIGN + NR_SLOTS * align_up((uint64_t)STRIPES * CRYPT_KEY_MAX, ALIGN);
}

uint8_t *luks_format(struct opts *o, const char *prefix, const uint8_t *pass, size_t pass_len, size_t *len,
                     struct err **errp)
{
    struct format f = {.iter_ms = 2000};
    struct luks *l = &f.l;
    char *iter AUTOFREE = xasprintf("%siter-time", prefix);
    uint8_t mk[CRYPT_KEY_MAX], *area = NULL;
    struct crypt_cipher *c;
    uint64_t area_len;
    bool ok;

    if (!take_cipher(&f, o, prefix, errp) || !opts_u64(o, iter, &f.iter_ms, errp))
        return NULL;
    if (!f.iter_ms || f.iter_ms > 600000) {
        err_set(errp, "Parameter 'iter-time' expects 1 to 600000 milliseconds");
        return NULL;
    }
    crypt_random(mk, l->key_len);
    c = cipher_for(l, mk, errp); /* is the combination one we can do? */
    if (!c)
        return NULL;
    crypt_cipher_free(c);
    area_len = align_up((uint64_t)STRIPES * l->key_len, ALIGN);
    for (unsigned i = 0; i < NR_SLOTS; i++)
        l->slot[i].off = ALIGN + i * area_len;
    l->payload = ALIGN + NR_SLOTS * area_len;
    area = xcalloc(1, l->payload);
    make_uuid(l->uuid);
    crypt_random(l->mk_salt, SALT);
    l->mk_iter = iterations(l->hash, DIGEST, (double)f.iter_ms / 8);
    l->slot[0].iter = iterations(l->hash, l->key_len, (double)f.iter_ms);
    ok = (crypt_pbkdf2(l->hash, mk, l->key_len, l->mk_salt, SALT, l->mk_iter, l->mk_digest, DIGEST) ||
          err_set(errp, "cannot digest the key")) &&
         fill_slot(l, mk, pass, pass_len, area, errp);
    crypt_wipe(mk, sizeof mk);
    if (!ok) {
        free(area);
        return NULL;
    }
    write_header(l, area);
    *len = l->payload;
    return area;
}

uint8_t *luks_format_keyed(struct blk_set *set, struct opts *o, const char *prefix, size_t *len, struct err **errp)
{
    char *key AUTOFREE = xasprintf("%skey-secret", prefix);
    const char *id = opts_get(o, key);
    uint8_t *pass, *h;
    size_t n;

    if (!id) {
        err_set(errp, "Parameter '%s' is required for cipher", key);
        return NULL;
    }
    pass = blk_secret_get(set, id, &n, errp);
    if (!pass)
        return NULL;
    h = luks_format(o, prefix, pass, n, len, errp);
    crypt_wipe(pass, n);
    free(pass);
    return h;
}
