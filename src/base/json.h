/* JSON values are json-c objects (struct json_object, reference counted). These helpers keep call sites short. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "base/err.h"
#include <json-c/json.h>

/* Text of exactly one value. NULL and *errp with line and column on a syntax error. Caller owns one reference. */
struct json_object *json_parse(const char *text, size_t len, struct err **errp);
/* Builds an object from pairs: json_make("s:name", "x", "i:n", (int64_t)3, "b:on", 1, "o:sub", obj, NULL).
 * 'o' takes over the reference; 'u' is uint64_t; an 's' or 'o' value of NULL leaves the key out. */
struct json_object *json_make(const char *first, ...);
/* Member lookups; NULL or the default when absent or of another type. Results are borrowed. */
struct json_object *json_get(struct json_object *o, const char *key);
const char *json_get_str(struct json_object *o, const char *key);
int64_t json_get_int(struct json_object *o, const char *key, int64_t dflt);
bool json_get_bool(struct json_object *o, const char *key, bool dflt);

#endif
