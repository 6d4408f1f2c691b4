/* An ordered list of key=value strings: what follows an option on the command line, in a config file or as JSON.
 *
 * "id=a,size=4G,share" gives id=a, size=4G, share=on. A doubled comma in a value stands for one comma. A value
 * before the first '=' belongs to the implied key when one is given. JSON ("{...}") is flattened to dotted keys
 * (file.driver, hostfwd.0.str); scalars keep their JSON spelling, null is the empty value. Keys may repeat; opts_get
 * returns the last, opts_each walks all. Reading a key marks it used, so that opts_done() can name what nobody
 * understood. */
#ifndef BASE_OPTS_H
#define BASE_OPTS_H

#include "base/err.h"
#include "base/list.h"

struct opt {
    struct list link;
    char *key, *val; /* owned */
    bool used;
    bool bare; /* written without '=': val is "on" */
};
struct opts {
    struct list all; /* of struct opt, in order */
    char *text;      /* owned: as written, for messages; may be NULL */
};

struct opts *opts_new(void);
/* NULL and *errp on a malformed list. implied may be NULL. */
struct opts *opts_parse(const char *text, const char *implied, struct err **errp);
struct opts *opts_dup(const struct opts *o);
void opts_free(struct opts *o);
void opts_set(struct opts *o, const char *key, const char *val); /* appends */
/* Replaces every earlier value of key (or appends). */
void opts_replace(struct opts *o, const char *key, const char *val);
bool opts_del(struct opts *o, const char *key);
const char *opts_get(struct opts *o, const char *key);        /* borrowed; NULL when absent; marks used */
const char *opts_peek(const struct opts *o, const char *key); /* the same without marking */
#define opts_each(it, o) list_each (it, &(o)->all, link)
/* Typed reads: leave *out alone and succeed when absent; fail with a message naming key and value otherwise. */
bool opts_bool(struct opts *o, const char *key, bool *out, struct err **errp) NODISCARD;
bool opts_u64(struct opts *o, const char *key, uint64_t *out, struct err **errp) NODISCARD;
bool opts_size(struct opts *o, const char *key, uint64_t *out, struct err **errp) NODISCARD; /* bare number = bytes */
/* Moves every "prefix.key" entry into a new list as "key"; marks them used here. Never NULL. */
struct opts *opts_sub(struct opts *o, const char *prefix);
/* True when all keys were used; else an error "<what>: unknown option 'key'", with the nearest of known[]
 * (NULL-terminated, may be NULL) as hint. */
bool opts_done(struct opts *o, const char *what, const char *const *known, struct err **errp) NODISCARD;

#endif
