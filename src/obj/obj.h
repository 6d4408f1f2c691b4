/* Named objects, their classes and typed properties: what -object, -device, -global and qom-* work on.
 *
 * A class is a const struct with static storage that a constructor links into the registry before main (OBJ_REGISTER,
 * DEV_REGISTER ...); the registry is read-only afterwards. An object embeds struct obj first, is created by obj_new
 * (zeroed, defaults applied), has its properties set, then is made ready once. Objects form a tree of named children
 * (paths like /machine/peripheral/nic0); a child holds one reference of its parent's. Machine lock held throughout. */
#ifndef OBJ_OBJ_H
#define OBJ_OBJ_H

#include "base/err.h"
#include "base/list.h"
#include "base/opts.h"

struct obj;
struct prop_type;
struct json_object;

/* One property: a field of the object, or (offset < 0) an accessor pair. Tables end with PROP_END. */
struct prop {
    const char *name;
    const struct prop_type *type;
    ptrdiff_t off;            /* of the field in the object */
    const char *dflt;         /* textual default, NULL = type's zero */
    uint64_t min, max;        /* integers and sizes: bounds when max != 0 */
    const char *const *names; /* enums: NULL-terminated; the field is an int index */
    unsigned bit;             /* bit properties */
    const char *help;
};

/* How one kind of property is read, written and freed. Rooms define their own (drive, chardev, netdev ...). */
struct prop_type {
    const char *name; /* as shown by help: "bool", "uint32", "size", "str", ... */
    bool (*set)(struct obj *o, const struct prop *p, void *field, const char *val, struct err **errp);
    /* Textual value, caller frees; NULL = unset. */
    char *(*get)(struct obj *o, const struct prop *p, const void *field);
    void (*release)(struct obj *o, const struct prop *p, void *field); /* may be NULL */
    /* Value for QMP; NULL: a string made from get. */
    struct json_object *(*get_json)(struct obj *o, const struct prop *p, const void *field);
    /* A list or an object, set entry by entry: key is what follows "name.", as in "0.iothread". NULL: a plain value. */
    bool (*set_part)(struct obj *o, const struct prop *p, void *field, const char *key, const char *val,
                     struct err **errp);
};
extern const struct prop_type prop_bool, prop_u8, prop_u16, prop_u32, prop_u64, prop_i32, prop_i64, prop_size, prop_str,
    prop_enum, prop_onoffauto, prop_bit32, prop_bit64, prop_mac, prop_link;
enum onoffauto { OOA_AUTO, OOA_ON, OOA_OFF };
struct mac {
    uint8_t a[6];
};

#define PROP(n, t, S, f, ...)                                                                                          \
    {                                                                                                                  \
        .name = (n), .type = &prop_##t, .off = offsetof(S, f), __VA_ARGS__                                             \
    }
#define PROP_BIT32(n, S, f, b, d)                                                                                      \
    {                                                                                                                  \
        .name = (n), .type = &prop_bit32, .off = offsetof(S, f), .bit = (b), .dflt = (d)                               \
    }
#define PROP_END                                                                                                       \
    {                                                                                                                  \
        .name = NULL                                                                                                   \
    }

/* Every class starts with these. Sub-rooms extend it (struct dev_class) with the class struct first. */
struct obj_class {
    const char *name;                                /* type name users type, e.g. "virtio-net-pci" */
    const char *parent;                              /* abstract family, e.g. "pci-device"; NULL = "object" */
    const char *desc;                                /* one line for help, may be NULL */
    const char *const *aliases;                      /* further accepted names, NULL-terminated, may be NULL */
    size_t size;                                     /* of the instance */
    const struct prop *props;                        /* own table, PROP_END-terminated, may be NULL */
    const struct prop *more_props;                   /* a shared table of the family, may be NULL */
    void (*init)(struct obj *o);                     /* after zeroing and defaults; may be NULL */
    bool (*ready)(struct obj *o, struct err **errp); /* all properties set; may be NULL */
    void (*free)(struct obj *o);                     /* releases what init and ready took; may be NULL */
    bool user;                                       /* may be created with -object */
};

struct obj {
    const struct obj_class *cls;
    struct obj *parent;   /* borrowed; NULL for a root */
    char *name;           /* owned: component of the path */
    struct list children; /* of struct obj by sibling */
    struct list sibling;
    unsigned refs;
    bool is_ready;
    void *ctx; /* borrowed: the machine this tree belongs to (struct machine *) */
};

/* Registry. */
struct obj_reg {
    const struct obj_class *cls;
    const char *kind; /* "obj", "board", "accel"; anything else is a device */
    struct obj_reg *next;
};
void obj_register(struct obj_reg *r);
#define OBJ_REGISTER_AS(cls_, kind_)                                                                                   \
    static struct obj_reg cls_##_reg = {.cls = (const struct obj_class *)&(cls_), .kind = #kind_};                     \
    static void CONSTRUCTOR cls_##_register(void)                                                                      \
    {                                                                                                                  \
        obj_register(&cls_##_reg);                                                                                     \
    }
#define OBJ_REGISTER(cls_) OBJ_REGISTER_AS(cls_, obj)
const struct obj_class *obj_class_find(const char *name);             /* by name or alias */
const struct obj_class *obj_class_next(const struct obj_class *prev); /* in name order; NULL starts and ends */
bool obj_class_is(const struct obj_class *c, const char *family);     /* name or any parent equals family */
/* Family names without a class of their own (abstract): declares name and its parent, for qom-list-types. */
void obj_register_family(const char *name, const char *parent);

struct obj *obj_new(const struct obj_class *c, void *ctx); /* one reference, defaults and -global applied */
void obj_ref(struct obj *o);
void obj_unref(struct obj *o);
bool obj_ready(struct obj *o, struct err **errp);
/* Sets from text; unknown names give an error with the nearest property as hint. */
bool obj_set(struct obj *o, const char *prop, const char *val, struct err **errp);
/* Sets every entry of opts except those in skip[] (NULL-terminated, may be NULL). */
bool obj_set_all(struct obj *o, struct opts *opts, const char *const *skip, struct err **errp);
char *obj_get(struct obj *o, const char *prop, struct err **errp); /* caller frees */
struct json_object *obj_get_json(struct obj *o, const char *prop, struct err **errp);
const struct prop *obj_prop_find(const struct obj_class *c, const char *name);
const struct prop *obj_prop_next(const struct obj_class *c, const struct prop *prev); /* own, then family */
/* A default that replaces the class's own for objects made later: -global driver.prop=val. */
void obj_global_add(const char *driver, const char *prop, const char *val);
/* Globals that matched no object so far; calls fn for each. */
void obj_global_unused(void (*fn)(const char *driver, const char *prop, const char *val, void *opaque), void *opaque);

/* Tree. obj_add_child takes over the caller's reference; name "x[*]" picks the first free index. */
void obj_add_child(struct obj *parent, const char *name, struct obj *child);
void obj_unparent(struct obj *o); /* drops the parent's reference */
/* What belongs to a machine but is none of its devices (sets of back ends) hangs in the tree beside it, where whoever
 * has the machine finds it by name and class; NULL: it is not there, or machine_ctx is NULL. The first call takes a
 * reference of its own; it does nothing where o hangs somewhere already. */
void obj_put_beside(void *machine_ctx, const char *name, struct obj *o);
struct obj *obj_beside(void *machine_ctx, const char *name, const struct obj_class *cls);
struct obj *obj_child(struct obj *parent, const char *name);
struct obj *obj_resolve(struct obj *root, const char *path);     /* absolute, or a unique trailing part */
char *obj_path(const struct obj *o);                             /* caller frees */
struct obj *obj_container(struct obj *parent, const char *name); /* finds or makes a plain container */

#endif
