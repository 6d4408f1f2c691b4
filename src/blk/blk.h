/* Disks as the rest of the program sees them: back ends named by -drive/-blockdev, asynchronous requests, snapshots of
 * nothing. The graph of nodes, formats and protocols behind a back end is private to this room (blk/node.h for
 * drivers).
 *
 * A struct blk is a device's (or tool's) handle on the root of a node chain; it may be empty (no medium). Requests may
 * be submitted from any thread; completions run on the machine's main loop with the machine lock held, or on the I/O
 * thread that submitted (blk_set_iothread). Buffers stay valid until completion. */
#ifndef BLK_BLK_H
#define BLK_BLK_H

#include "base/iov.h"
#include "obj/obj.h"
#include "run/run.h"

struct blk;
struct blk_req; /* in flight */
/* ret: 0 or -errno. */
typedef void blk_done_fn(void *opaque, int ret);
enum { BLK_FUA = 1, BLK_MAY_UNMAP = 2, BLK_NO_FALLBACK = 4 };

/* The set of all drives and nodes of a machine (or a tool). */
struct blk_set *blk_set_new(struct run *r);
void blk_set_free(struct blk_set *s); /* flushes and closes everything */
void blk_set_bind(struct blk_set *s, void *machine_ctx);
struct blk_set *blk_set_of(void *machine_ctx);
/* The container secrets (-object secret) are looked up in: a machine's /objects. */
void blk_set_objects(struct blk_set *s, struct obj *container);

/* -drive options other than if/bus/unit/index/media (the command line keeps those): file, format, id, cache, aio,
 * discard, detect-zeroes, readonly, snapshot, werror, rerror, throttling.*, file.* ... id may be NULL (made up). */
struct blk *blk_drive_add(struct blk_set *s, const char *id, struct opts *o, struct err **errp);
/* Takes a drive away, or, as blockdev-del, a node of -blockdev. A device that has it stays, without a medium for good,
 * and its errors go to the guest; refused while a job works on it. */
bool blk_drive_del(struct blk_set *s, const char *id, struct err **errp);
/* -blockdev / blockdev-add: a named node. */
bool blk_node_add(struct blk_set *s, struct opts *o, struct err **errp);
bool blk_node_del(struct blk_set *s, const char *node, struct err **errp);
struct blk *blk_find(struct blk_set *s, const char *id); /* a drive by id */
/* For a device's drive= property: a drive by id or a node by name; claims it for the device. */
struct blk *blk_attach(struct blk_set *s, const char *name, void *dev_obj, struct err **errp);
/* A handle without a medium and without a drive, for a device with removable media that was given none; read-only.
 * NULL: s is NULL. */
struct blk *blk_attach_empty(struct blk_set *s, void *dev_obj);
struct blk *blk_of_dev(struct blk_set *s, const void *dev_obj); /* what it attached; NULL = nothing */
void blk_detach(struct blk *b, void *dev_obj);
extern const struct prop_type blk_prop; /* "drive": field is struct blk *, attached to the object */
#define PROP_BLK(n, S, f)                                                                                              \
    {                                                                                                                  \
        .name = (n), .type = &blk_prop, .off = offsetof(S, f)                                                          \
    }

/* For the device that claimed b, once, when it knows its share-rw property: may others write the node too? False when
 * somebody else's use conflicts. */
bool blk_set_share_rw(struct blk *b, bool on, struct err **errp);
const char *blk_id(const struct blk *b); /* of a device's own handle on a node: the node's name */
bool blk_has_medium(const struct blk *b);
uint64_t blk_size(const struct blk *b); /* bytes, 0 without medium */
bool blk_readonly(const struct blk *b);
bool blk_write_cache(const struct blk *b);
void blk_set_write_cache(struct blk *b, bool on);

/* Asynchronous. off/len in bytes, any alignment the node's request_align allows (the core bounces otherwise); ranges
 * beyond the end fail with -EIO (no partial transfer). */
struct blk_req *blk_aio_read(struct blk *b, uint64_t off, const struct iov *q, unsigned flags, blk_done_fn *fn,
                             void *opaque);
struct blk_req *blk_aio_write(struct blk *b, uint64_t off, const struct iov *q, unsigned flags, blk_done_fn *fn,
                              void *opaque);
struct blk_req *blk_aio_zero(struct blk *b, uint64_t off, uint64_t len, unsigned flags, blk_done_fn *fn, void *opaque);
struct blk_req *blk_aio_discard(struct blk *b, uint64_t off, uint64_t len, blk_done_fn *fn, void *opaque);
struct blk_req *blk_aio_flush(struct blk *b, blk_done_fn *fn, void *opaque);
/* I/O threads (-object iothread). The requests of b run on t's loop while the graph below is b's alone, nobody on the
 * main loop (monitor command, job, export) is at work on the set's nodes, and every driver in it can run there; else on
 * the main loop. Completions run where the request was made; those that failed always on the main loop, with the
 * machine lock and t's lock held. t: NULL = the main loop from now on. */
struct iothread;
struct iothread *blk_iothread_find(struct blk_set *s, const char *id, struct err **errp);
void blk_set_iothread(struct blk *b, struct iothread *t);
/* The main loop works on nodes from here on until the second call; nests. Commands and the calls of this header do it.
 */
void blk_home_begin(struct blk_set *s);
void blk_home_end(struct blk_set *s);
static inline void blk_home_scope_end(struct blk_set **s)
{
    blk_home_end(*s);
}
#define BLK_HOME_SCOPE(s) struct blk_set *home_scope_ CLEANUP(blk_home_scope_end) UNUSED = (blk_home_begin(s), (s))
struct json_object *blk_query_iothreads(struct blk_set *s);

/* Synchronous, for start-up, tools and firmware loading: turns the loop until done. 0 or -errno. */
int blk_read(struct blk *b, uint64_t off, void *buf, size_t len);
int blk_write(struct blk *b, uint64_t off, const void *buf, size_t len);
int blk_flush(struct blk *b);
void blk_drain(struct blk *b); /* waits until nothing is in flight */
void blk_drain_all(struct blk_set *s);

/* Error policy of the drive: what a device must do with a failed request. */
enum blk_policy { BLK_POLICY_REPORT, BLK_POLICY_IGNORE, BLK_POLICY_STOP };
/* Decides, raises BLOCK_IO_ERROR; STOP: the device keeps the request and retries it when the machine runs again. */
enum blk_policy blk_error_action(struct blk *b, bool is_read, int error);

/* Removable media, from the device's side. */
struct blk_dev_ops {
    void (*media_changed)(void *opaque, bool loaded);
    void (*eject_request)(void *opaque, bool force);
    bool (*is_tray_open)(void *opaque);
    void (*move_tray)(void *opaque, bool open); /* a device that has a tray has both */
    bool (*is_locked)(void *opaque);
    void (*resized)(void *opaque);
    void (*drained_begin)(void *opaque); /* stop submitting until drained_end */
    void (*drained_end)(void *opaque);
};
void blk_set_dev_ops(struct blk *b, const struct blk_dev_ops *ops, void *opaque);
/* Raises DEVICE_TRAY_MOVED: the monitor or the guest moved the tray of b's drive. */
void blk_tray_moved(struct blk *b, bool open);
/* `change` and `eject`. */
/* mode: "retain", "read-only", "read-write"; NULL = retain. */
bool blk_change_medium(struct blk *b, const char *file, const char *format, const char *mode, bool force,
                       struct err **errp);
bool blk_eject(struct blk *b, bool force, struct err **errp);
/* The same in steps. Of a drive without a tray (floppy) opening and closing do nothing. A locked tray is asked for, and
 * opens when the guest allows it, unless force. */
bool blk_open_tray(struct blk *b, bool force, struct err **errp);
bool blk_close_tray(struct blk *b, struct err **errp);
bool blk_remove_medium(struct blk *b, struct err **errp);
bool blk_insert_medium(struct blk *b, const char *node, struct err **errp);
/* QMP query-block / HMP info block. */
struct json_object *blk_query(struct blk_set *s);
char *blk_info(struct blk_set *s, bool verbose, const char *only); /* caller frees */
struct json_object *blk_query_nodes(struct blk_set *s, bool flat); /* query-named-block-nodes */
struct json_object *blk_query_stats(struct blk_set *s);            /* query-blockstats */

#endif
