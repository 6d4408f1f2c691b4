/* What a block driver sees: nodes, their children, and the requests that travel down a graph.
 *
 * A node is one opened driver instance: a protocol (reaches the host: file, nbd, null), a format (gives an image file a
 * meaning: raw, qcow2) or a filter (forwards to its file child). Children are edges carrying permissions. A format's
 * main child is n->file; a copy-on-write format may have n->backing, filled in by the core after open.
 *
 * Threads: everything here runs on the set's loop thread. The request functions run in a fibre and may suspend, except
 * while a node is being opened or created, when they may also run outside fibres and then block. Offsets and lengths
 * are bytes; the core has clipped them to the node's size and aligned them to n->request_align (a driver that sets none
 * gets any byte range). Vectors are borrowed: (q, qoff) means len bytes starting qoff bytes into q. Results: 0 or
 * -errno.
 *
 * Header bytes, tables and everything else read from a file are hostile: check in open, so that I/O can be short. */
#ifndef BLK_NODE_H
#define BLK_NODE_H

#include "base/str.h"
#include "blk/blk.h"
#include "run/fibre.h"

struct blk_node;
struct json_object;

/* What a parent does through an edge, and what it lets others do. The order is that of the lock bytes in files. */
enum {
    BLK_PERM_READ = 1,
    BLK_PERM_WRITE = 2,
    BLK_PERM_WRITE_SAME = 4, /* writes that change no data (copy on read) */
    BLK_PERM_RESIZE = 8,
    BLK_PERM_ALL = 15,
};

/* Flags a node is opened with. */
enum {
    BLK_O_RDWR = 1,
    BLK_O_DIRECT = 2,       /* bypass the host's page cache */
    BLK_O_NO_FLUSH = 4,     /* cache=unsafe */
    BLK_O_UNMAP = 8,        /* discard=unmap */
    BLK_O_NO_BACKING = 16,  /* leave n->backing empty */
    BLK_O_AUTO_RO = 32,     /* fall back to read-only when the file cannot be written */
    BLK_O_PROTOCOL = 64,    /* open the named protocol itself, no format on top */
    BLK_O_FROM_IMAGE = 128, /* the name came out of an image file: only plain local files */
    BLK_O_CHECK = 256,      /* opened to be checked or described: damage is no reason to refuse */
    BLK_O_NO_IO = 512,      /* only described: data files may be missing */
    BLK_O_SHARE = 1024,     /* force-share: take no locks */
    BLK_O_WRITETHROUGH = 2048,
    BLK_O_RESIZE_OK = 4096, /* the user asked for a change of size: file children may grow */
};

/* Node-private flags above those of blk.h. */
enum {
    BLK_ZERO_IS_WRITE = 1 << 8,
    BLK_REQ_COMPRESSED = 1 << 9,
    BLK_REQ_SERIALISE = 1 << 10,
    BLK_REQ_UNCHANGED = 1 << 11,
    BLK_REQ_PREFETCH = 1 << 12,
};

/* One edge of the graph. */
struct blk_child {
    struct blk_node *node;   /* one reference held */
    struct blk_node *parent; /* borrowed; NULL when a handle or job owns the edge */
    const char *role;        /* "file", "backing", "data-file", ... static */
    const char *who;         /* borrowed: name of a parent that is no node, for messages */
    struct blk *handle;      /* borrowed: the handle that owns the edge, NULL = another kind of owner */
    unsigned perm, shared;
    unsigned held; /* a root edge: its owner starts no request while this is not zero */
    struct list in_parent, in_node;
};

struct blk_node {
    const struct blk_driver *drv;
    void *priv;          /* drv->priv_size bytes, owned, zeroed before open */
    struct blk_set *set; /* borrowed */
    struct list in_set;
    char *name;        /* owned: node-name, "#block123" when made up */
    bool named;        /* by the user: lives until blockdev-del */
    char *filename;    /* owned: as shown to people, may be "" */
    struct opts *opts; /* owned: what it was opened with, for json: names */
    unsigned open_flags;
    unsigned refs;
    struct list children, parents; /* of struct blk_child */
    struct blk_child *file, *backing;

    uint64_t size;          /* bytes; set by open and truncate */
    uint32_t request_align; /* power of two; 0 and 1 mean any */
    uint32_t mem_align;
    uint32_t max_transfer; /* bytes; 0 = no limit */
    uint32_t cluster_size; /* formats: for info and copy sizes; 0 = none */
    uint32_t discard_align, zero_align;
    bool encrypted, dirty_flag;
    bool compressed_only; /* an output stream: convert must write compressed clusters */
    bool growable;        /* protocol: a write beyond the end extends the node */
    bool zero_is_cheap;

    char *backing_name; /* owned: as recorded in the image, NULL = none */
    char *backing_fmt;  /* owned: as recorded, NULL = not stated */
    bool probed;        /* the format was guessed, not named */
    bool throwaway;     /* the temporary overlay of snapshot=on */
    bool detect_zeroes, detect_unmap;
    bool copy_on_read;
    bool backing_rw; /* a job writes a layer below: the backing edge allows it */

    unsigned in_flight;
    struct list tracked;           /* of struct blk_track, oldest first */
    struct list bitmaps;           /* of struct blk_bitmap */
    struct list notifiers;         /* of struct blk_notify */
    uint64_t write_gen, flush_gen; /* a flush with nothing written since the last is free */
    uint64_t wr_highest;
    uint64_t write_threshold; /* a write that ends beyond it raises an event, once; 0 = none */
};

/* One extent as block_status reports it. */
enum {
    BLK_ST_DATA = 1,   /* reads come from this layer and may be nonzero */
    BLK_ST_ZERO = 2,   /* reads as zeros */
    BLK_ST_ALLOC = 4,  /* decided by this layer: backing is not consulted */
    BLK_ST_OFFSET = 8, /* map is where the raw bytes lie in n->file (or map_node) */
    BLK_ST_COMPRESSED = 16,
    BLK_ST_RECURSE = 32, /* ask map_node for more about zeros */
};
struct blk_extent {
    unsigned flags;
    uint64_t len;
    uint64_t map;
    struct blk_node *map_node; /* borrowed */
};

struct blk_check {
    uint64_t corruptions, leaks, errors, corruptions_fixed, leaks_fixed;
    uint64_t image_end, total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
    bool have_clusters;
    void (*line)(void *opaque, const char *text); /* each finding, may be NULL */
    void *opaque;
};
enum { BLK_FIX_LEAKS = 1, BLK_FIX_ERRORS = 2 };

struct blk_snap {
    char *id, *name; /* owned */
    uint64_t vm_size, disk_size;
    int64_t date_sec;
    uint32_t date_nsec;
    uint64_t vm_clock_ns;
    uint64_t icount; /* ~0 = not recorded */
};

struct blk_measure {
    uint64_t required, full, bitmaps;
    bool have_bitmaps;
};

/* One creation option, for `-o help` and the near-miss hint. Tables end with a NULL name. */
struct blk_create_opt {
    const char *name;
    const char *type; /* "size", "str", "bool (on/off)", "num" as shown */
    const char *help;
    const char *dflt; /* shown as default, may be NULL */
};

enum blk_kind { BLK_PROTOCOL, BLK_FORMAT, BLK_FILTER };
enum blk_prealloc { BLK_PREALLOC_OFF, BLK_PREALLOC_METADATA, BLK_PREALLOC_FALLOC, BLK_PREALLOC_FULL };
extern const char *const blk_prealloc_names[];

struct blk_driver {
    const char *name;
    enum blk_kind kind;
    size_t priv_size;
    const char *prefix;          /* protocol prefix in file names: "nbd" for nbd:..., NULL = none */
    const char *const *prefixes; /* further ones, NULL-terminated, may be NULL */
    bool no_file;                /* a format or filter without a "file" child */
    const char *file_role;       /* how people call its "file" child besides, may be NULL */
    bool backing_ok;             /* may have a backing child */
    bool any_loop;               /* keeps nothing that belongs to one loop: may run on an I/O thread */
    const char *const *known;    /* keys for near-miss hints, may be NULL */

    /* Score 0..100 of how surely buf (the first n bytes) starts an image of this format. */
    int (*probe)(const uint8_t *buf, size_t n, const char *filename);
    /* Turns "nbd:host:port" into options; false with an error. */
    bool (*parse_filename)(const char *filename, struct opts *o, struct err **errp);
    /* n->file is open already unless no_file. Sets n->size; reads its own keys from o. */
    bool (*open)(struct blk_node *n, struct opts *o, struct err **errp);
    /* May not fail: flushes nothing (the core flushed), releases everything open made. */
    void (*close)(struct blk_node *n);
    /* Switches between read-only and read-write; NULL: nothing to do of its own. */
    bool (*reopen)(struct blk_node *n, bool rw, struct err **errp);
    /* Writes back what is cached so that the file is consistent for others (before close, reopen, hand-over). */
    int (*inactivate)(struct blk_node *n);
    /* What edges below need when this node's parents use `perm` and allow `shared`. NULL: the format rule. */
    void (*child_perm)(struct blk_node *n, const struct blk_child *c, unsigned perm, unsigned shared, unsigned *cperm,
                       unsigned *cshared);
    /* A leaf takes the locks for perm/shared. */
    bool (*set_perm)(struct blk_node *n, unsigned perm, unsigned shared, struct err **errp);

    int (*preadv)(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags);
    int (*pwritev)(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags);
    /* -ENOTSUP makes the core write zero bytes. */
    int (*pwrite_zeroes)(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags);
    /* Advisory: -ENOTSUP counts as success. */
    int (*discard)(struct blk_node *n, uint64_t off, uint64_t len);
    /* Takes len bytes at soff of src, a leaf of the same driver, without passing them through memory; -ENOTSUP: it
     * cannot. */
    int (*copy_from)(struct blk_node *n, uint64_t off, struct blk_node *src, uint64_t soff, uint64_t len);
    /* The host file whose page cache holds all of [off, off+len), and where in it: what is sent straight from there is
     * what a read would give. -1: there is none, read instead. NULL counts as that. */
    int (*cached_fd)(struct blk_node *n, uint64_t off, uint64_t len, uint64_t *at);
    /* Whole cluster, whole-buffer compressed write. len 0 ends a stream. */
    int (*pwrite_compressed)(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff);
    int (*flush)(struct blk_node *n);
    /* Describes a prefix of [off, off+len); sets e->len > 0. NULL: data, mapped 1:1 for filters. */
    int (*block_status)(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e);
    int (*truncate)(struct blk_node *n, uint64_t size, enum blk_prealloc p, struct err **errp);
    /* Re-reads the size of something others may resize. */
    uint64_t (*getlength)(struct blk_node *n);
    uint64_t (*allocated)(struct blk_node *n); /* bytes used on the host */

    /* Format-specific information as query-block shows it ({"type":..,"data":..}); NULL = none. Caller owns. */
    struct json_object *(*info)(struct blk_node *n);
    int (*check)(struct blk_node *n, struct blk_check *c, unsigned fix);
    bool (*create)(struct blk_set *s, const char *filename, struct opts *o, struct err **errp);
    const struct blk_create_opt *create_opts;
    const struct blk_create_opt *amend_opts; /* those of them that amend takes */
    bool (*amend)(struct blk_node *n, struct opts *o, struct err **errp);
    bool (*measure)(struct opts *o, struct blk_node *in, struct blk_measure *m, struct err **errp);
    int (*change_backing)(struct blk_node *n, const char *file, const char *fmt);
    /* Records that what this image held lives on in `into` and this image is out of date; NULL takes it back. */
    int (*mark_merged)(struct blk_node *n, const char *into);
    int (*make_empty)(struct blk_node *n);
    bool (*snap_create)(struct blk_node *n, struct blk_snap *sn, struct err **errp);
    bool (*snap_goto)(struct blk_node *n, const char *id, struct err **errp);
    bool (*snap_delete)(struct blk_node *n, const char *id, const char *name, struct err **errp);
    int (*snap_list)(struct blk_node *n, struct blk_snap **out); /* count or -errno; caller frees */
    bool (*snap_load)(struct blk_node *n, const char *id, const char *name, struct err **errp);
    int (*save_vmstate)(struct blk_node *n, uint64_t pos, uint64_t len, const struct iov *q, uint64_t qoff);
    int (*load_vmstate)(struct blk_node *n, uint64_t pos, uint64_t len, const struct iov *q, uint64_t qoff);
    int (*drop_vmstate)(struct blk_node *n); /* forgets what save_vmstate wrote, unless a snapshot holds it */
    bool (*bitmap_store_ok)(struct blk_node *n, const char *name, uint32_t gran, struct err **errp);
    bool (*bitmap_remove)(struct blk_node *n, const char *name, struct err **errp);
};

struct blk_reg {
    const struct blk_driver *drv;
    struct blk_reg *next;
};
void blk_driver_register(struct blk_reg *r);
#define BLK_REGISTER(drv_)                                                                                             \
    static struct blk_reg drv_##_reg = {.drv = &(drv_)};                                                               \
    static void CONSTRUCTOR drv_##_register(void)                                                                      \
    {                                                                                                                  \
        blk_driver_register(&drv_##_reg);                                                                              \
    }
const struct blk_driver *blk_driver_find(const char *name);
const struct blk_driver *blk_driver_next(const struct blk_driver *prev); /* in name order */
/* The protocol a file name's prefix chooses ("nbd:x"); NULL for a plain path. */
const struct blk_driver *blk_driver_by_name_prefix(const char *filename);
/* The best-scoring format for these first bytes; raw when none claims them. */
const struct blk_driver *blk_driver_probe(const uint8_t *buf, size_t n, const char *filename);

/* Opening. Each returns a node holding one reference for the caller, or NULL. fmt NULL: guess (marks n->probed).
 * opts may be NULL; it is consumed (freed). */
struct blk_node *blk_node_open(struct blk_set *s, const char *filename, const char *fmt, unsigned flags, struct opts *o,
                               struct err **errp);
/* Throwaway mode: a temporary overlay over base, deleted as soon as it is open. Returned as by blk_node_open. */
/* What a tool's cache mode (none, writeback, ...) and discard mode (ignore, unmap) mean for BLK_O_; false: no such
 * mode. */
bool blk_cache_mode(const char *name, unsigned *flags);
bool blk_discard_mode(const char *name, unsigned *flags);
/* A filter (copy-on-read, throttle) above `below`, whose reference it takes over. extra: taken over, NULL = none. */
struct blk_node *blk_node_filtered(struct blk_set *s, const char *driver, struct blk_node *below, struct opts *extra,
                                   struct err **errp);
struct blk_node *blk_node_throwaway(struct blk_set *s, struct blk_node *base, struct err **errp);
struct blk_node *blk_node_find(struct blk_set *s, const char *name);
void blk_node_ref(struct blk_node *n);
void blk_node_unref(struct blk_node *n); /* closes it with the last one */
struct blk_node *blk_node_next(struct blk_set *s, struct blk_node *prev);
/* Opens options "<role>.*" (or a node named by "<role>") as a child of n, for drivers with further children. */
struct blk_child *blk_child_open(struct blk_node *n, const char *filename, struct opts *o, const char *role,
                                 unsigned flags, bool optional, struct err **errp);
struct blk_child *blk_child_attach(struct blk_node *parent, struct blk_node *node /* reference taken over */,
                                   const char *role, struct err **errp);
/* Edge of a parent that is not a node (handle, job, export); perm is claimed at once. */
struct blk_child *blk_child_root(struct blk_node *node, const char *who, unsigned perm, unsigned shared,
                                 struct err **errp);
bool blk_child_set_perm(struct blk_child *c, unsigned perm, unsigned shared, struct err **errp);
void blk_child_detach(struct blk_child *c); /* NULL allowed; drops the node reference */
/* Puts `to` in the place of `from` below every parent of from except `except`. */
bool blk_node_replace(struct blk_node *from, struct blk_node *to, struct blk_child *except, struct err **errp);
/* The edge leads to `to` from now on, which has the same bytes (a filter put in or taken out). */
bool blk_child_retarget(struct blk_child *c, struct blk_node *to, struct err **errp);
bool blk_node_set_backing(struct blk_node *n, struct blk_node *backing /* borrowed, may be NULL */, struct err **errp);
bool blk_node_open_backing(struct blk_node *n, struct err **errp);
/* Full name of the recorded backing file, relative to n's own; NULL = none; caller frees. */
char *blk_node_backing_path(const struct blk_node *n);
char *blk_path_combine(const char *base, const char *name);
bool blk_node_readonly(const struct blk_node *n);
bool blk_node_reopen(struct blk_node *n, bool rw, struct err **errp);
/* Does a new image of this kind read as zeros where nothing was written? A plain cipher does not. */
bool blk_node_starts_zero(struct blk_node *n);
/* Skips filters. */
struct blk_node *blk_node_unfiltered(struct blk_node *n);
struct blk_node *blk_node_cow(struct blk_node *n); /* its backing node below filters, or NULL */
/* Re-evaluates the permissions below n; on failure nothing changed. */
bool blk_perm_update(struct blk_node *n, struct err **errp);

/* Requests from a parent to a child. Reads beyond the child's end give zeros; writes beyond it need a growable child.
 */
int blk_preadv(struct blk_child *c, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags);
int blk_pwritev(struct blk_child *c, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags);
int blk_pread(struct blk_child *c, uint64_t off, void *buf, size_t len);
int blk_pwrite(struct blk_child *c, uint64_t off, const void *buf, size_t len);
int blk_pwrite_zeroes(struct blk_child *c, uint64_t off, uint64_t len, unsigned flags);
/* See blk_driver.cached_fd. Borrowed, and good until the caller suspends: the graph may change then. */
int blk_node_cached_fd(struct blk_node *n, uint64_t off, uint64_t len, uint64_t *at);
int blk_pcopy_from(struct blk_child *c, uint64_t off, struct blk_node *src, uint64_t soff, uint64_t len);
int blk_pdiscard(struct blk_child *c, uint64_t off, uint64_t len);
int blk_pflush(struct blk_child *c);
/* The same for holders of a node (jobs, tools, exports). */
int blk_node_preadv(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff, unsigned flags);
int blk_node_pwritev(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff,
                     unsigned flags);
int blk_node_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags);
int blk_node_discard(struct blk_node *n, uint64_t off, uint64_t len);
/* Has the host copy between two files when both ranges are plain bytes of files; -ENOTSUP otherwise. */
int blk_node_copy_range(struct blk_node *src, uint64_t soff, struct blk_node *dst, uint64_t off, uint64_t len);
/* Makes [off, off+len) allocated in n with the contents it reads as; ordered against writes. */
int blk_node_copy_up(struct blk_node *n, uint64_t off, uint64_t len);
int blk_node_flush(struct blk_node *n);
int blk_node_pread(struct blk_node *n, uint64_t off, void *buf, size_t len);
int blk_node_pwrite(struct blk_node *n, uint64_t off, const void *buf, size_t len);
/* This layer's view only; see enum above. */
int blk_node_status(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *e);
/* Through the backing chain down to, not including, `base` (NULL = all): *depth counts layers, 0 = n itself. */
int blk_node_status_above(struct blk_node *n, struct blk_node *base, uint64_t off, uint64_t len, struct blk_extent *e,
                          unsigned *depth);
int blk_node_truncate(struct blk_node *n, uint64_t size, enum blk_prealloc p, struct err **errp);
uint64_t blk_node_length(struct blk_node *n);    /* refreshed */
uint64_t blk_node_allocated(struct blk_node *n); /* host bytes; ~0 = unknown */
/* Runs fn in a fibre on the set's loop and returns when it ended; turns the loop meanwhile (loop thread, no fibre). In
 * a fibre: just calls it. */
void blk_run(struct blk_set *s, fibre_fn *fn, void *opaque);
void blk_sleep(struct blk_set *s, int64_t ns); /* in a fibre; the loop goes on */
/* Synchronous forms for tools and start-up, any context of the loop thread. */
int blk_node_pread_sync(struct blk_node *n, uint64_t off, void *buf, size_t len);
int blk_node_pwrite_sync(struct blk_node *n, uint64_t off, const void *buf, size_t len);
int blk_node_flush_sync(struct blk_node *n);
void blk_node_drain(struct blk_node *n);
struct ev_loop *blk_set_loop(struct blk_set *s);
/* Runs fn(opaque) on a worker thread while the fibre waits; outside fibres just calls it. Returns fn's result. */
int blk_offload(struct blk_set *s, int (*fn)(void *opaque), void *opaque);

/* A write listener of a node: copy-before-write jobs use `before`, bitmaps `after`. */
struct blk_notify {
    struct list link;
    int (*before)(struct blk_notify *b, uint64_t off, uint64_t len); /* may suspend; -errno fails the write */
    void (*after)(struct blk_notify *b, uint64_t off, uint64_t len);
    /* The node may be read again, the writer has not been told yet; may suspend. */
    void (*settled)(struct blk_notify *b, uint64_t off, uint64_t len);
    void *opaque;
    struct blk_node *node; /* borrowed */
    unsigned in_use;       /* calls that have not returned */
    bool gone;
};
void blk_notify_add(struct blk_node *n, struct blk_notify *b);
void blk_notify_del(struct blk_notify *b); /* in a fibre: returns when no call of b is under way */

/* Dirty bitmaps: one bit per granule, set by writes, kept by the node. */
struct blk_bitmap {
    struct list link;
    struct blk_node *node; /* borrowed */
    char *name;            /* owned, NULL = anonymous (a job's) */
    uint32_t gran;         /* power of two */
    uint64_t nr_bits;
    uint64_t *bits; /* owned */
    uint64_t dirty; /* set bits */
    bool enabled, busy, persistent, inconsistent, readonly;
    bool stored; /* the image holds a version of it */
    struct blk_bitmap *successor;
};
struct blk_bitmap *blk_bitmap_new(struct blk_node *n, const char *name, uint32_t gran, struct err **errp);
void blk_bitmap_free(struct blk_bitmap *b);
struct blk_bitmap *blk_bitmap_find(struct blk_node *n, const char *name);
void blk_bitmap_set(struct blk_bitmap *b, uint64_t off, uint64_t len);
void blk_bitmap_reset(struct blk_bitmap *b, uint64_t off, uint64_t len);
bool blk_bitmap_get(const struct blk_bitmap *b, uint64_t off);
/* The next dirty run at or after off; false when none. */
bool blk_bitmap_next(const struct blk_bitmap *b, uint64_t off, uint64_t *start, uint64_t *len);
bool blk_bitmap_merge(struct blk_bitmap *dst, const struct blk_bitmap *src, struct err **errp);
void blk_bitmaps_resize(struct blk_node *n, uint64_t size);

/* Creation helpers for formats. */
bool blk_create(struct blk_set *s, const char *filename, const char *fmt, struct opts *o, struct err **errp);
/* Makes (or truncates) the host file a format writes to and opens it read-write. */
struct blk_node *blk_create_file(struct blk_set *s, const char *filename, uint64_t size, struct opts *o,
                                 struct err **errp);
/* Checks option names against the driver's table; message and nearest name as hint. */
bool blk_create_opts_check(const struct blk_driver *d, struct opts *o, struct err **errp);
bool blk_prealloc_parse(struct opts *o, enum blk_prealloc *out, struct err **errp);
void blk_snaps_free(struct blk_snap *sn, int nr);
/* "json:{...}" or plain name of a node's file, for the "file" member of query-block. */
const char *blk_node_filename(const struct blk_node *n);
/* The ImageInfo of QMP and qemu-img info; chain: with the backing images nested. Caller owns. */
struct json_object *blk_node_image_info(struct blk_node *n, bool chain);
/* True when c may be used in a plain path name: the start of a protocol name such as "nbd:" is none. */
bool blk_path_has_protocol(const char *path);

#endif
