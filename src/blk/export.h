/* Exports of a node that are not NBD's: what kinds have in common. One file per kind; block-export-add names it.
 *
 * An export keeps its node (an edge with permissions), serves requests in fibres on the set's main loop, and asks
 * blk_export_enter before each. Loop thread, machine lock held. */
#ifndef BLK_EXPORT_H
#define BLK_EXPORT_H

#include "blk/node.h"

struct json_object;
struct blk_export_wait;
struct blk_export {
    struct list link; /* in the set's exports */
    struct blk_set *set;
    const struct blk_export_type *type;
    char *id;               /* owned */
    struct blk_child *root; /* owned */
    bool writable, writethrough;
    bool stopping;    /* set by the core before stop() */
    unsigned running; /* requests between enter and leave */
    struct blk_export_wait *waiting;
    void (*on_end)(void *opaque); /* it ended from outside (unmounted), may be NULL; it must still be removed */
    void *opaque;
};
struct blk_export_type {
    const char *name;
    size_t size; /* of the struct that begins with struct blk_export */
    /* Takes the arguments of block-export-add. On failure it has cleaned up; stop is not called. */
    bool (*start)(struct blk_export *e, struct json_object *args, struct err **errp);
    /* Ends everything; may turn the loop. Afterwards nothing of it is under way. */
    void (*stop)(struct blk_export *e);
};
extern const struct blk_export_type blk_export_vhost_user, blk_export_fuse;

struct blk_export *blk_export_find(struct blk_set *s, const char *id);
/* block-export-add of these kinds; NULL with an error. */
struct blk_export *blk_export_add(struct blk_set *s, const struct blk_export_type *t, struct json_object *args,
                                  struct err **errp);
void blk_export_remove(struct blk_export *e); /* raises BLOCK_EXPORT_DELETED */
void blk_exports_stop(struct blk_set *s);     /* all of them */

/* For the kinds, in fibres: a request begins (the graph below is not being changed) and ends. */
struct blk_node *blk_export_enter(struct blk_export *e);
void blk_export_leave(struct blk_export *e);
/* Suspends until fd is ready; false: the export is to stop. One fibre of an export at a time. */
bool blk_export_wait(struct blk_export *e, int fd, unsigned events);
/* For stop(): turns the loop until *busy is 0 and no request is running. */
void blk_export_settle(struct blk_export *e, const unsigned *busy);

#endif
