/* State descriptions: which fields of an object are guest-visible state, for save, restore and migration.
 * A table stands beside the struct it describes and ends with STATE_END; src/state walks it. */
#ifndef OBJ_STATE_H
#define OBJ_STATE_H

#include "base/util.h"

enum state_kind {
    STATE_K_END,
    STATE_K_INT,
    STATE_K_BYTES,
    STATE_K_TIMER,
    STATE_K_STRUCT,
    STATE_K_VARBYTES,
    STATE_K_BOOL
};
struct state_desc;
struct state_field {
    const char *name;
    enum state_kind kind;
    size_t off;
    unsigned size;                /* of one element in bytes */
    unsigned count;               /* elements; 1 for scalars */
    const struct state_desc *sub; /* STRUCT */
    size_t len_off;               /* VARBYTES: offset of the uint32_t length; `off` is a pointer field */
    unsigned since;               /* first version that holds the field; 0 = always */
};
/* A table with its hooks; post_load may refuse (false) what cannot be. */
struct state_desc {
    const char *name;
    unsigned version;
    const struct state_field *fields;
    void (*pre_save)(void *obj);
    bool (*post_load)(void *obj);
};
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
#define STATE_END                                                                                                      \
    {                                                                                                                  \
        .kind = STATE_K_END                                                                                            \
    }

#endif
