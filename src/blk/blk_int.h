/* Private to the room: the set of nodes and drives, the handle, and what the core's files share. */
#ifndef BLK_INT_H
#define BLK_INT_H

#include "blk/node.h"
#include "run/iothread.h"

struct blk_pool;
/* Calls that are not to run at the same time; zeroed at first, guarded by the pool's lock. */
struct blk_lane {
    struct list waiting;
    bool busy;
};
struct blk_throttle;

struct blk_set {
    struct run *run;             /* borrowed; NULL in tools that own just a loop */
    struct ev_loop *loop;        /* borrowed from run */
    const struct blk_host *host; /* borrowed: the way to the host's files; NULL = system calls */
    struct list nodes;           /* of struct blk_node, in order of creation */
    struct list drives;          /* of struct blk */
    struct list jobs;            /* of struct blk_job */
    struct list throttle_groups; /* of struct group, filter_throttle.c: those with a name */
    struct blk_pool *pool;       /* owned, made on first use */
    struct blk_aio *aio[3];      /* owned, by enum blk_engine, made on first use */
    unsigned next_auto, depth;
    unsigned long thread; /* pthread_t of the maker, where the loop runs */
    void *machine;        /* borrowed: blk_set_bind */
    struct list in_registry;
    struct obj *objects;       /* borrowed: where secrets are; NULL = none yet */
    struct obj *own_objects;   /* owned: the container of a tool */
    struct nbd_server *nbd;    /* owned: the machine's, NULL = not started */
    struct list exports;       /* of struct blk_export: the other kinds */
    struct blk_comp_ctx *comp; /* owned: idle compressors, see compress.c */
    int comp_lock;             /* guards comp */
    unsigned home;             /* main-loop users of nodes: no handle is on an I/O thread */
    struct ev_bh home_bh;      /* looks whether handles may go back to their I/O threads */
};

/* How a drive answers errors, as typed in werror=/rerror=. */
enum blk_on_error { BLK_ERR_REPORT, BLK_ERR_IGNORE, BLK_ERR_ENOSPC, BLK_ERR_STOP };

struct blk_stats {
    uint64_t bytes[4], ops[4], failed[4], time_ns[4]; /* read, write, flush, unmap */
};

struct blk {
    struct blk_set *set;
    struct list in_set;
    char *id;               /* owned */
    bool is_drive;          /* from -drive: in query-block under its id; else made for a node by blk_attach */
    struct blk_child *root; /* owned edge; NULL = no medium */
    void *dev;              /* borrowed: who attached it */
    const struct blk_dev_ops *ops;
    void *ops_opaque;
    bool readonly; /* asked for */
    bool writethrough;
    bool share_rw;
    bool tray_open;
    enum blk_on_error werror, rerror;
    struct opts *template_; /* owned: cache, aio ... for media put in later */
    unsigned template_flags;
    struct list pending; /* of struct blk_req held back while quiesced */
    unsigned in_flight;  /* atomic */
    unsigned quiesced;
    struct iothread *io;  /* borrowed: where requests are to run, NULL = the main loop */
    struct ev_loop *loop; /* borrowed: where they run now */
    struct blk_stats stats;
    int io_error;         /* the error the machine stopped for, 0 = none */
    bool die_with_device; /* blockdev-del or drive_del came while it was attached */
};

/* For messages: the drive's id, else the name of the device whose own handle it is. */
const char *blk_who(const struct blk *b);

/* A request as it lies on its node's list. */
struct blk_track {
    struct list link;
    struct list waiters; /* of struct track_wait */
    uint64_t off, len;
    bool write, serialising;
};

/* run_event from any loop; from an I/O thread it is sent later. */
void blk_event(struct blk_set *s, const char *name, struct json_object *data);
void blk_pending_start(struct blk *b); /* what was held back runs on b->loop */
/* The set's engine for the loop this runs on, made on first use; NULL: use worker threads. */
struct blk_aio *blk_aio_here(struct blk_set *s, unsigned kind);
/* Makes b's requests run on the loop it should be on now. Main loop. */
void blk_handle_move(struct blk *b, struct ev_loop *to);
void blk_home_run(void *opaque);        /* of the set: what home_bh does */
void blk_home_check(struct blk_set *s); /* soon, if nobody needs the nodes here, handles go back to their I/O threads */

struct blk_pool *blk_pool_new(void);
void blk_comp_free(struct blk_set *set);
void blk_pool_free(struct blk_pool *p);
int blk_pool_run(struct blk_pool *p, struct ev_loop *l, struct blk_lane *lane, int (*fn)(void *), void *opaque);
/* blk_offload, after the calls of the same lane that were made before. */
int blk_offload_lane(struct blk_set *s, struct blk_lane *lane, int (*fn)(void *opaque), void *opaque);

/* What a throttle filter holds its requests to, as query-block names it; zeros for other nodes. */
void blk_throttle_query(struct blk_node *n, struct json_object *out);
struct opts *blk_opts_or_new(struct opts *o);
/* Handles above n hear of a new size. */
void blk_node_resized(struct blk_node *n);
void blk_handle_resized(struct blk *b);
struct blk *blk_handle_new(struct blk_set *s, const char *id, bool is_drive);
bool blk_handle_insert(struct blk *b, struct blk_node *n, struct err **errp);
void blk_handle_free(struct blk *b);
void blk_quiesce(struct blk *b);
void blk_unquiesce(struct blk *b);
unsigned blk_pending_count(const struct blk *b);
bool blk_flags_from_opts(struct opts *o, unsigned *flags, struct err **errp);
bool blk_parse_cache(const char *name, unsigned *flags, bool *writethrough);

#endif
