/* What changes the graph of a running machine: overlays, merges, copies, internal snapshots, and the jobs that do the
 * long ones. Every command of QMP and HMP that concerns block devices and is not in blk.h is here, either as a function
 * or, for those that only take named arguments, in the table behind blk_cmd_find().
 *
 * Loop thread, machine lock held. Jobs run in fibres on the loop; they report by events (BLOCK_JOB_READY, _COMPLETED,
 * _CANCELLED, _ERROR, JOB_STATUS_CHANGE). */
#ifndef BLK_JOB_H
#define BLK_JOB_H

#include "blk/blk.h"

/* A command with QMP's name and arguments (already checked against the schema). *ret stays NULL for "nothing". */
struct blk_cmd {
    const char *name;
    bool (*fn)(struct blk_set *s, struct json_object *args, struct json_object **ret, struct err **errp);
};
/* blockdev-snapshot-sync, blockdev-snapshot, block-commit, block-stream, drive-mirror, blockdev-mirror, drive-backup,
 * blockdev-backup, block-job-{cancel,complete,pause,resume,set-speed,dismiss,finalize}, job-*, query-block-jobs,
 * query-jobs, block_resize, block-dirty-bitmap-{add,remove,clear,enable,disable,merge},
 * blockdev-snapshot-{internal,delete-internal}-sync, change-backing-file, nbd-server-{start,add,remove,stop},
 * block-export-{add,del}, query-block-exports. NULL: no such command. */
const struct blk_cmd *blk_cmd_find(const char *name);
/* Runs it; the nodes it may touch are the main loop's meanwhile. */
bool blk_cmd_run(struct blk_set *s, const char *name, struct json_object *args, struct json_object **ret,
                 struct err **errp);

/* HMP commit: writes an overlay into its backing file and empties it. id NULL: every drive that has one. */
bool blk_commit(struct blk_set *s, const char *id, struct err **errp);

/* Which disks an internal snapshot of the whole machine is of. A NULL pointer instead: every writable drive, the
 * machine's state in the first that can hold it. */
struct blk_snap_sel {
    const char *vmstate;         /* the node (or drive) that holds the state, NULL: the first of devices that can */
    struct json_object *devices; /* array of names of nodes or drives */
};
/* can: NULL or the reason, with the drive's name, why none can be taken. */
bool blk_snap_can(struct blk_set *s, const struct blk_snap_sel *sel, struct err **errp);
/* The machine state goes through these before (save) or after (load) the call that names the snapshot. */
bool blk_vmstate_write(struct blk_set *s, const struct blk_snap_sel *sel, uint64_t pos, const void *buf, size_t len,
                       struct err **errp);
bool blk_vmstate_read(struct blk_set *s, const struct blk_snap_sel *sel, uint64_t pos, void *buf, size_t len,
                      struct err **errp);
/* After both: the area where the state was written is free again, unless a snapshot holds it. */
void blk_vmstate_drop(struct blk_set *s, const struct blk_snap_sel *sel);
/* Is there a snapshot of that name on every disk, with the state of a machine? */
bool blk_snap_has(struct blk_set *s, const struct blk_snap_sel *sel, const char *name, struct err **errp);
/* Is there none of that name on any? */
bool blk_snap_free_name(struct blk_set *s, const struct blk_snap_sel *sel, const char *name, struct err **errp);
bool blk_snap_save(struct blk_set *s, const struct blk_snap_sel *sel, const char *name, uint64_t vm_size,
                   uint64_t vm_clock_ns, struct err **errp);
/* Goes back to the snapshot on every disk; *vm_size is what blk_vmstate_read may read now. */
bool blk_snap_load(struct blk_set *s, const struct blk_snap_sel *sel, const char *name, uint64_t *vm_size,
                   struct err **errp);
bool blk_snap_delete(struct blk_set *s, const struct blk_snap_sel *sel, const char *name, struct err **errp);
/* A drive in throwaway mode (snapshot=on), whose snapshots vanish with the program; NULL = none. */
const char *blk_snap_throwaway(struct blk_set *s);
char *blk_snap_info(struct blk_set *s); /* the table of `info snapshots`; caller frees */

/* A job whose work is one call of fn on the loop, outside any fibre (it may turn the loop); it stays to be dismissed.
 * gone frees opaque, also when the job cannot begin. type: "snapshot-save" and the like, a literal. */
bool blk_job_work(struct blk_set *s, const char *type, const char *id, bool (*fn)(void *opaque, struct err **errp),
                  void (*gone)(void *opaque), void *opaque, struct err **errp);

#endif
