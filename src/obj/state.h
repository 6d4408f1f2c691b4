/* State descriptions: which fields of an object are guest-visible state, for save, restore and migration.
 * A table stands beside the struct it describes and ends with STATE_END; src/state walks it.
 *
 * Fields are found by name, so their order is free. To add one later: raise the table's version and give the field
 * `.since` = that version; an older stream then leaves it at its reset value. */
#ifndef OBJ_STATE_H
#define OBJ_STATE_H

#include "base/err.h"
#include "base/util.h"

enum state_kind {
    STATE_K_END,
    STATE_K_INT,
    STATE_K_BYTES,
    STATE_K_TIMER,
    STATE_K_STRUCT,
    STATE_K_VARBYTES, /* a buffer of fixed length behind a pointer: its length may not change */
    STATE_K_BOOL,
    STATE_K_ALLOC, /* a malloc'ed buffer of 0 to `count` bytes behind a pointer: replaced when loading */
    STATE_K_PTR    /* a struct behind a pointer that may be NULL: it is there in both machines or in none */
};
struct state_desc;
struct state_field {
    const char *name;
    enum state_kind kind;
    size_t off;
    unsigned size;                /* of one element in bytes */
    unsigned count;               /* elements; 1 for scalars; ALLOC: most bytes */
    const struct state_desc *sub; /* STRUCT, PTR */
    size_t len_off;               /* VARBYTES, ALLOC: offset of the uint32_t length; `off` is a pointer field */
    unsigned since;               /* first version that holds the field; 0 = always */
};
/* A table with its hooks, all with the machine stopped. pre_save brings the fields up to date and says why the object
 * cannot be saved now; post_load may refuse what cannot be, with the reason or without. */
struct state_desc {
    const char *name;
    unsigned version;
    const struct state_field *fields;
    bool (*pre_save)(void *obj, struct err **errp);
    bool (*post_load)(void *obj, struct err **errp);
};
/* For what has no state of its own beyond its properties. */
extern const struct state_desc state_none;
/* Is a restored time in nanoseconds one that arithmetic with others cannot overflow? */
static inline bool state_time_ok(int64_t t)
{
    return t > -(INT64_MAX / 4) && t < INT64_MAX / 4;
}
#define STATE_ONE_(S, f, k)                                                                                            \
    {                                                                                                                  \
        .name = #f, .kind = (k), .off = offsetof(S, f), .size = sizeof(((S *)0)->f), .count = 1                        \
    }
#define STATE_INT(S, f)   STATE_ONE_(S, f, STATE_K_INT)
#define STATE_U8(S, f)    STATE_INT(S, f)
#define STATE_U16(S, f)   STATE_INT(S, f)
#define STATE_U32(S, f)   STATE_INT(S, f)
#define STATE_U64(S, f)   STATE_INT(S, f)
#define STATE_I64(S, f)   STATE_INT(S, f)
#define STATE_BOOL(S, f)  STATE_ONE_(S, f, STATE_K_BOOL)
#define STATE_BYTES(S, f) STATE_ONE_(S, f, STATE_K_BYTES)
#define STATE_TIMER(S, f) STATE_ONE_(S, f, STATE_K_TIMER)
#define STATE_ARRAY(S, f)                                                                                              \
    {                                                                                                                  \
        .name = #f, .kind = STATE_K_INT, .off = offsetof(S, f), .size = sizeof(((S *)0)->f[0]),                        \
        .count = sizeof(((S *)0)->f) / sizeof(((S *)0)->f[0])                                                          \
    }
#define STATE_STRUCT(S, f, d)                                                                                          \
    {                                                                                                                  \
        .name = #f, .kind = STATE_K_STRUCT, .off = offsetof(S, f), .size = sizeof(((S *)0)->f), .count = 1,            \
        .sub = &(d)                                                                                                    \
    }
#define STATE_STRUCTS(S, f, d)                                                                                         \
    {                                                                                                                  \
        .name = #f, .kind = STATE_K_STRUCT, .off = offsetof(S, f), .size = sizeof(((S *)0)->f[0]),                     \
        .count = sizeof(((S *)0)->f) / sizeof(((S *)0)->f[0]), .sub = &(d)                                             \
    }
#define STATE_VARBYTES(S, f, len)                                                                                      \
    {                                                                                                                  \
        .name = #f, .kind = STATE_K_VARBYTES, .off = offsetof(S, f), .size = 1, .count = 1,                            \
        .len_off = offsetof(S, len)                                                                                    \
    }
#define STATE_ALLOC(S, f, len, most)                                                                                   \
    {                                                                                                                  \
        .name = #f, .kind = STATE_K_ALLOC, .off = offsetof(S, f), .size = 1, .count = (most),                          \
        .len_off = offsetof(S, len)                                                                                    \
    }
#define STATE_PTR(S, f, d)                                                                                             \
    {                                                                                                                  \
        .name = #f, .kind = STATE_K_PTR, .off = offsetof(S, f), .count = 1, .sub = &(d)                                \
    }
#define STATE_END                                                                                                      \
    {                                                                                                                  \
        .kind = STATE_K_END                                                                                            \
    }

#endif
