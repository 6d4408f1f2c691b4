/* Private: one running job, between job.c (the work) and cmds.c (the commands that start and steer it). */
#ifndef BLK_JOB_INT_H
#define BLK_JOB_INT_H

#include "blk/job.h"
#include "blk/node.h"

enum job_type { JOB_COMMIT, JOB_STREAM, JOB_MIRROR, JOB_BACKUP };
enum job_status {
    JOB_CREATED,
    JOB_RUNNING,
    JOB_PAUSED,
    JOB_READY,
    JOB_WAITING,
    JOB_PENDING,
    JOB_ABORTING,
    JOB_CONCLUDED,
    JOB_NULL
};
enum job_sync { SYNC_FULL, SYNC_TOP, SYNC_NONE, SYNC_BITMAP };

struct blk_job {
    struct list link;
    struct blk_set *set;
    char *id; /* owned */
    enum job_type type;
    enum job_status status;
    enum job_sync sync;
    uint64_t len, offset, speed;
    bool paused, cancelled, complete, force, pivot, auto_dismiss, target_is_zero;
    int ret;
    struct blk_node *source, *target, *overlay;  /* borrowed: kept alive by kept[] */
    struct blk_child *source_edge, *target_edge; /* owned */
    struct blk_node *kept[8];                    /* one reference each */
    unsigned nr_kept;
    struct blk_bitmap *dirty;  /* owned */
    struct blk_bitmap *bitmap; /* borrowed: the user's */
    struct blk_notify notify;
    struct fibre_mutex lock;
    char *backing_name; /* owned: what to record, NULL = the node's file */
    uint8_t *buf;       /* owned */
};

struct blk_job *job_new(struct blk_set *s, enum job_type t, const char *id, const char *dflt, struct err **errp);
void job_start(struct blk_job *j);
void job_drop(struct blk_job *j); /* before job_start */
void job_free(struct blk_job *j); /* concluded */
void job_keep(struct blk_job *j, struct blk_node *n);
struct blk_job *job_find(struct blk_set *s, const char *id);
struct json_object *job_describe(const struct blk_job *j, bool block);
void blk_jobs_stop(struct blk_set *s);
/* nbd_cmds.c */
bool nbd_cmd_start(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
bool nbd_cmd_stop(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
bool nbd_cmd_add(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
bool nbd_cmd_remove(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
bool nbd_cmd_export_add(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
bool nbd_cmd_export_del(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
bool nbd_cmd_query(struct blk_set *s, struct json_object *a, struct json_object **ret, struct err **errp);
void blk_sleep(struct blk_set *s, int64_t ns); /* in a fibre */

#endif
