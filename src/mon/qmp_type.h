/* Types of the QMP schema as tables, and what the generated code (qmp_gen.c) offers the protocol. */
#ifndef MON_QMP_TYPE_H
#define MON_QMP_TYPE_H

#include "base/err.h"

struct json_object;
struct mon;

enum qmp_kind { QMP_STR, QMP_INT, QMP_UINT, QMP_NUMBER, QMP_BOOL, QMP_ANY, QMP_NULL, QMP_ENUM, QMP_ARRAY, QMP_OBJECT };
struct qmp_type;
struct qmp_member {
    const char *name;
    const struct qmp_type *type;
    bool optional;
};
struct qmp_variant {
    const char *value;
    const struct qmp_type *type;
};
struct qmp_type {
    const char *name;
    enum qmp_kind kind;
    const struct qmp_type *elem;      /* ARRAY */
    const struct qmp_member *members; /* OBJECT, ended by a NULL name */
    const char *const *values;        /* ENUM */
    const char *tag;                  /* OBJECT with variants */
    const struct qmp_variant *variants;
    bool open; /* further members are allowed */
};
/* False with an error that names the member ("Parameter 'x' is missing") when v is not of the type. */
bool qmp_check(const struct qmp_type *t, struct json_object *v, const char *name, struct err **errp);

struct qmp_command {
    const char *name;
    const struct qmp_type *args;
    const struct qmp_type *ret; /* NULL: the empty object */
    bool (*call)(struct mon *m, struct json_object *args, struct json_object **ret, struct err **errp);
    const char *via; /* the room that carries it out by name; NULL = a function of its own */
};
/* Is the command one of this program? Without a machine only those on disks are. */
bool qmp_offered(const struct mon *m, const struct qmp_command *c);
extern const struct qmp_command qmp_commands[]; /* in name order, ended by a NULL name */
extern const char *const qmp_events[];
extern const char qmp_schema_text[];

#endif
