/* Private: one running job, between job.c (the work) and cmds.c (the commands that start and steer it). */
#ifndef BLK_JOB_INT_H
#define BLK_JOB_INT_H

#include "blk/job.h"
#include "blk/node.h"

enum job_type { JOB_COMMIT, JOB_STREAM, JOB_MIRROR, JOB_BACKUP, JOB_CREATE, JOB_WORK };
enum job_status {
    JOB_CREATED,
    JOB_RUNNING,
    JOB_PAUSED,
    JOB_READY,
    JOB_STANDBY, /* ready, and paused */
    JOB_WAITING,
    JOB_PENDING,
    JOB_ABORTING,
    JOB_CONCLUDED,
    JOB_NULL
};
enum job_sync { SYNC_FULL, SYNC_TOP, SYNC_NONE, SYNC_BITMAP };
/* What a failed read or write does to the job. */
enum job_on_error { JOB_ERR_REPORT, JOB_ERR_IGNORE, JOB_ERR_ENOSPC, JOB_ERR_STOP };
/* When a finished backup cleans the bitmap it copied by. */
enum job_bitmap_mode { BITMAP_ON_SUCCESS, BITMAP_NEVER, BITMAP_ALWAYS };

/* Jobs that end well together or not at all (transaction, completion-mode=grouped). */
struct job_group {
    unsigned refs, nr, waiting; /* jobs in it; jobs that have done their work */
    bool failed, committed;
};

struct blk_job {
    struct list link;
    struct blk_set *set;
    char *id; /* owned */
    enum job_type type;
    enum job_status status;
    enum job_sync sync;
    uint64_t len, offset, speed;
    bool paused, cancelled, complete, force, pivot, auto_dismiss, target_is_zero;
    bool auto_complete;                   /* no need to ask for completion */
    bool auto_finalize, finalize, pended; /* pended: it has been in the states waiting and pending */
    bool no_unmap, compress;
    bool active; /* mirror: a write reaches the target before its writer is told */
    bool listening;
    struct job_group *group; /* one reference; NULL = on its own */
    enum job_on_error on_source_error, on_target_error;
    enum job_bitmap_mode bitmap_mode;
    bool begun;    /* people were told of it */
    uint32_t gran; /* of the dirty bitmap */
    int ret;
    char *error;                                 /* owned: the reason in words, NULL = that of ret */
    struct blk_node *source, *target, *overlay;  /* borrowed: kept alive by kept[] */
    struct blk_node *replaces;                   /* borrowed, kept: what a mirror replaces, NULL = the source */
    struct blk_child *source_edge, *target_edge; /* owned */
    struct blk_node *kept[8];                    /* one reference each */
    unsigned nr_kept;
    struct blk_bitmap *dirty;  /* owned */
    struct blk_bitmap *first;  /* owned: what was dirty in the user's bitmap at the start */
    struct blk_bitmap *bitmap; /* borrowed: the user's */
    struct blk_notify notify;
    struct fibre_mutex lock;
    char *backing_name;             /* owned: what to record, NULL = the node's file */
    char *create_file, *create_fmt; /* owned: JOB_CREATE */
    struct opts *create_opts;       /* owned */
    const char *work_type;          /* JOB_WORK: its name, what it does and what ends it */
    bool (*work)(void *opaque, struct err **errp);
    void (*work_gone)(void *opaque);
    void *work_opaque;
    struct fibre *worker;
    uint8_t *buf; /* owned */
};

struct blk_job *job_new(struct blk_set *s, enum job_type t, const char *id, const char *dflt, struct err **errp);
void job_group_join(struct job_group *g, struct blk_job *j);
void job_group_unref(struct job_group *g); /* NULL is allowed */
/* Begins the work. A backup's point in time is this call. False: out of memory, the job is gone. */
bool job_start(struct blk_job *j, struct err **errp);
void job_drop(struct blk_job *j); /* before job_start */
void job_free(struct blk_job *j); /* concluded */
void job_keep(struct blk_job *j, struct blk_node *n);
struct blk_job *job_find(struct blk_set *s, const char *id);
const char *job_status_name(const struct blk_job *j);
struct json_object *job_describe(const struct blk_job *j, bool block);
void blk_jobs_stop(struct blk_set *s);

/* The node behind a drive's id or a node's name; NULL with an error. */
struct blk_node *blk_cmd_node(struct blk_set *s, const char *name, struct err **errp);
/* Stops (and lets go on) the requests of every handle above n. */
void blk_cmd_hold(struct blk_node *n, bool hold);
/* Changes the size of a node in use, its users held up meanwhile; refused while a job works on it. Outside fibres.
 * who: its name for people. */
bool blk_cmd_resize(struct blk_node *n, const char *who, uint64_t size, enum blk_prealloc p, struct err **errp);
/* cmds.c: what transaction needs of the commands. *over: the overlay, one reference for the caller. */
bool blk_cmd_overlay(struct blk_set *s, const char *cmd, struct json_object *a, struct blk_node **base,
                     struct blk_node **over, struct err **errp);
/* Makes the job of blockdev-backup or drive-backup without starting it. */
struct blk_job *blk_cmd_backup(struct blk_set *s, const char *cmd, struct json_object *a, struct err **errp);
struct blk_bitmap *blk_cmd_bitmap(struct blk_set *s, struct json_object *a, const char *key, struct err **errp);
typedef bool blk_cmd_fn(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
blk_cmd_fn blk_cmd_transaction; /* transaction.c */
/* cmds_bitmap.c */
blk_cmd_fn blk_cmd_bitmap_add, blk_cmd_bitmap_remove, blk_cmd_bitmap_clear, blk_cmd_bitmap_enable,
    blk_cmd_bitmap_disable, blk_cmd_bitmap_merge;
blk_cmd_fn blk_cmd_throttle;                                                       /* filter_throttle.c */
blk_cmd_fn blk_cmd_reopen, blk_cmd_create, blk_cmd_write_threshold, blk_cmd_graph; /* cmds_node.c */
/* nbd_cmds.c */
bool nbd_cmd_start(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
bool nbd_cmd_stop(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
bool nbd_cmd_add(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
bool nbd_cmd_remove(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
bool nbd_cmd_export_add(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
bool nbd_cmd_export_del(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
bool nbd_cmd_query(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);

#endif
