/* qcow2, versions 2 and 3: what the files of this driver share. Private to the driver.
 *
 * On disk after a crash between any two writes ("durable" = written and followed by a completed flush):
 *   I1  A cluster that any durable table refers to has a durable refcount at least as high as its references.
 *   I2  An L2 entry is written only when the data it points to, copied parts included, is durable.
 *   I3  An L1 entry is written only when the L2 table it points to is durable; a refcount table entry only when its
 * block is. I4  A refcount is lowered on disk only after the reference it counted is durably gone. I5  A host cluster
 * is given out again only after I4's point, after every request that may still use it ended, and after its hole was
 * punched. I6  The header changes by one write within its first sector, only when all it newly points to is durable. I7
 * No table carries COPIED for a cluster that two durable tables refer to. I8  A bitmap on disk is marked in use,
 * durably, before the first write it would miss. So a crash can leak clusters and never lose or double-use one. The
 * guard is q2_commit() in qcow2_ref.c, the only place that writes L2 tables, L1 entries and refcount blocks; drops wait
 * in q2->drops until it is their turn. */
#ifndef BLK_QCOW2_H
#define BLK_QCOW2_H

#include "base/bytes.h"
#include "blk/node.h"
#include "run/clock.h"

enum {
    Q2_MAGIC = 0x514649fb,
    Q2_MIN_BITS = 9,
    Q2_MAX_BITS = 21,
    Q2_MAX_L1 = 32 << 20,      /* bytes */
    Q2_MAX_REFTABLE = 8 << 20, /* bytes */
    Q2_MAX_SNAPSHOTS = 65536,
    Q2_MAX_SNAP_TABLE = 64 << 20, /* bytes */
    Q2_HEADER_V2 = 72,
    Q2_HEADER_V3 = 104,
    Q2_HEADER_LEN = 112,
};
#define Q2_COPIED     (UINT64_C(1) << 63)
#define Q2_COMPRESSED (UINT64_C(1) << 62)
#define Q2_ZERO       UINT64_C(1)
#define Q2_OFF_MASK   UINT64_C(0x00fffffffffffe00)

/* Feature bits. */
enum {
    Q2_INC_DIRTY = 1,
    Q2_INC_CORRUPT = 2,
    Q2_INC_DATA_FILE = 4,
    Q2_INC_COMPRESSION = 8,
    Q2_INC_EXTL2 = 16,
    Q2_INC_KNOWN = 31,
    Q2_COMPAT_LAZY = 1,
    Q2_AUTO_BITMAPS = 1,
    Q2_AUTO_RAW = 2,
};
/* Header extensions. */
enum {
    Q2_EXT_END = 0,
    Q2_EXT_BACKING_FMT = (int)0xe2792aca,
    Q2_EXT_FEATURES = 0x6803f857,
    Q2_EXT_BITMAPS = 0x23852875,
    Q2_EXT_CRYPTO = 0x0537be77,
    Q2_EXT_DATA_FILE = 0x44415441,
    Q2_EXT_MERGED = 0x4c596d67, /* ours: the file that has taken over what this image held */
};

/* overlap-check: structures whose place is compared with that of guest data before it is written. */
enum {
    Q2_OV_HEADER = 1,
    Q2_OV_L1 = 2,
    Q2_OV_L2 = 4,
    Q2_OV_REFTABLE = 8,
    Q2_OV_REFBLOCK = 16,
    Q2_OV_SNAPSHOTS = 32,
    Q2_OV_INACTIVE_L1 = 64,
    Q2_OV_INACTIVE_L2 = 128,
    Q2_OV_BITMAPS = 256,
    Q2_OV_CONSTANT = Q2_OV_HEADER | Q2_OV_L1 | Q2_OV_REFTABLE | Q2_OV_SNAPSHOTS | Q2_OV_BITMAPS,
    Q2_OV_CACHED = Q2_OV_CONSTANT | Q2_OV_L2 | Q2_OV_REFBLOCK | Q2_OV_INACTIVE_L1,
    Q2_OV_ALL = Q2_OV_CACHED | Q2_OV_INACTIVE_L2,
};
/* Why a cluster is freed; pass-discard-* says for each whether its space goes back to the host. */
enum q2_drop_kind { Q2_DROP_OTHER, Q2_DROP_REQUEST, Q2_DROP_SNAPSHOT, Q2_NR_DROP_KINDS };

/* A cached table: one cluster of an L2 table or a refcount block. */
struct q2_tab {
    struct list lru;
    struct q2_tab *next; /* in its hash chain */
    uint64_t off;
    uint8_t *data; /* owned */
    bool dirty;
    bool fresh; /* an L2 table no durable L1 entry points to yet */
    bool is_ref;
    uint64_t used; /* tick of the last use */
};
struct q2_cache {
    struct q2_tab **hash; /* owned, nr_hash entries */
    unsigned nr_hash, nr, max, nr_dirty;
    struct list lru; /* oldest first */
    uint64_t tick, swept;
};

/* A guest range that is being given host clusters; other writers of it wait. */
struct q2_busy {
    struct list link;
    struct list waiters;
    uint64_t first, nr; /* guest clusters */
};

/* References whose removal is not durable yet. */
struct q2_drop {
    uint64_t off;   /* host cluster offset */
    uint64_t nr;    /* clusters */
    unsigned epoch; /* when it was dropped: its readers may be that old */
    enum q2_drop_kind kind;
};

struct q2_unknown_ext {
    uint32_t type, len;
    uint8_t *data; /* owned */
    struct q2_unknown_ext *next;
};

struct q2_snap {
    uint64_t l1_off;
    uint32_t l1_size;
    struct blk_snap pub;
    uint32_t extra_len;
    uint8_t *extra; /* owned: unknown extra data beyond what we know */
};

struct q2_bitmap_ref { /* a bitmap in the file's directory */
    uint64_t table_off;
    uint32_t table_size, flags;
    uint8_t type, gran_bits;
    char *name; /* owned */
};

struct q2 {
    /* constant after open */
    uint32_t version, cluster_bits, l2_bits, refcount_order, header_len;
    uint64_t cs; /* cluster size */
    bool ext_l2, zstd;
    unsigned entry_size;    /* of an L2 entry in bytes */
    uint64_t sc;            /* subcluster size: cs, or cs / 32 */
    struct blk_child *data; /* external data file, or n->file */
    bool ext_data, data_raw;
    unsigned csize_shift; /* compressed descriptor layout */
    uint64_t csize_mask, coff_mask;

    /* header fields that change */
    uint64_t incompat, compat, autoclear;
    uint64_t l1_off, reftable_off;
    uint32_t l1_size, reftable_clusters;
    uint64_t snap_off;
    uint32_t nr_snaps, crypt_method;
    uint64_t vm_l1_index; /* first L1 index of saved machine state */
    char *data_name;      /* owned: recorded name of the data file */
    struct q2_unknown_ext *unknown;
    uint64_t bm_dir_off, bm_dir_size;
    uint32_t nr_bm;
    struct q2_bitmap_ref *bm; /* owned */
    bool bm_loaded;
    uint64_t crypt_off, crypt_len;

    /* tables in memory */
    uint64_t *l1;      /* owned, host order */
    uint8_t *l1_dirty; /* owned: one byte per 512-byte sector of the table */
    bool l1_any_dirty;
    uint64_t *reftable; /* owned, host order */
    uint64_t nr_reftable;
    bool reftable_dirty, reftable_moved;
    uint64_t old_reftable_off, old_reftable_clusters;
    struct q2_snap *snaps; /* owned */
    struct q2_cache l2c, refc;
    unsigned clean_interval; /* seconds; 0 = tables stay */
    struct clk *clk;         /* borrowed */
    struct clk_timer cleaner;
    bool cleaner_on;
    unsigned overlap;             /* Q2_OV_ */
    bool punch[Q2_NR_DROP_KINDS]; /* pass-discard-* */
    enum q2_drop_kind drop_kind;  /* of q2_drop() now; lock held */

    struct fibre_mutex lock; /* all changes of metadata, and cache misses */
    struct list busy;        /* of struct q2_busy */
    uint64_t hint;           /* no free cluster below this index */
    uint64_t comp_off;       /* where the next compressed cluster continues, 0 = nowhere */
    struct q2_drop *drops;   /* owned */
    size_t nr_drops, cap_drops;
    unsigned epoch;    /* flips at each commit that makes drops durable */
    unsigned users[2]; /* requests on host clusters begun in an even/odd epoch */
    uint64_t *meta;    /* owned hash set of host clusters holding L2 tables and refcount blocks; 0 = empty */
    size_t meta_cap, meta_nr;
    bool meta_built, corrupt, in_commit;
    uint64_t *comp_cache_key; /* last decompressed cluster */
    uint8_t *comp_cache;      /* owned, cs bytes */
    uint64_t comp_cache_entry;
    uint64_t alloc_count;
    bool locked;              /* encrypted and opened without its key, to be described only */
    struct luks *luks;        /* owned: crypt_method 2, NULL = plain or only described */
    struct crypt_cipher *aes; /* owned: crypt_method 1, the retired cipher */
};

static inline uint64_t q2_idx(const struct q2 *s, uint64_t off)
{
    return off >> s->cluster_bits;
}

/* qcow2_ref.c: caches, refcounts, allocation, commit. Lock held unless said otherwise. */
bool q2_cache_init(struct q2_cache *c, unsigned max);
void q2_cache_free(struct q2_cache *c);
struct q2_tab *q2_cache_peek(struct q2_cache *c, uint64_t off); /* no I/O, no lock; valid until the next suspension */
int q2_tab_get(struct blk_node *n, struct q2_cache *c, uint64_t off, struct q2_tab **out);
int q2_tab_new(struct blk_node *n, struct q2_cache *c, uint64_t off, struct q2_tab **out); /* zeroed, dirty */
void q2_tab_dirty(struct q2_cache *c, struct q2_tab *t);
void q2_tab_forget(struct q2_cache *c, uint64_t off);
void q2_tab_drop(struct q2_cache *c, struct q2_tab *t); /* a clean one */
int q2_ref_get(struct blk_node *n, uint64_t idx, uint64_t *out);
int q2_ref_add(struct blk_node *n, uint64_t idx, uint64_t nr, int64_t delta);
/* Up to nr contiguous clusters, refcount 1: *got >= 1. whole: exactly nr or failure. */
int q2_alloc(struct blk_node *n, uint64_t nr, bool whole, uint64_t *off, uint64_t *got);
void q2_unalloc(struct blk_node *n, uint64_t off, uint64_t nr);      /* never referenced by anything written */
int q2_alloc_bytes(struct blk_node *n, uint64_t len, uint64_t *off); /* for a compressed cluster */
void q2_drop(struct blk_node *n, uint64_t off, uint64_t nr);
void q2_drop_entry(struct blk_node *n, uint64_t entry); /* what an L2 entry refers to */
int q2_commit(struct blk_node *n, bool durable);
int q2_sync(struct blk_node *n);
unsigned q2_use_begin(struct q2 *s); /* no lock needed */
void q2_use_end(struct q2 *s, unsigned token);
int q2_write_header(struct blk_node *n);
void q2_set_l1(struct q2 *s, uint64_t i, uint64_t v);
bool q2_meta_overlap(struct blk_node *n, uint64_t off, uint64_t len, const char **what);
bool q2_meta_add(struct q2 *s, uint64_t off);
void q2_meta_del(struct q2 *s, uint64_t off);
bool q2_meta_build(struct blk_node *n);
int q2_mark_corrupt(struct blk_node *n, const char *why, uint64_t off);
uint64_t q2_ref_max(const struct q2 *s);
uint64_t q2_refblock_get(const struct q2 *s, const uint8_t *blk, uint64_t i);
void q2_refblock_set(const struct q2 *s, uint8_t *blk, uint64_t i, uint64_t v);
int q2_table_write(struct blk_node *n, uint64_t off, const uint64_t *tab, uint64_t from,
                   uint64_t nr); /* big-endian entries */

/* qcow2_opts.c */
bool q2_take_opts(struct blk_node *n, struct opts *o, struct err **errp);
void q2_cleaner_start(struct blk_node *n);
void q2_cleaner_stop(struct q2 *s);

/* qcow2_crypt.c: images with encrypted data clusters (method 1: AES-128-CBC counted by guest sector; 2: LUKS, by host
 * sector). Tables stay plain. */
bool q2_crypt_open(struct blk_node *n, struct opts *o, struct err **errp);
void q2_crypt_close(struct q2 *s);
/* One run of data at host, shown at guest offset off. */
int q2_data_read(struct blk_node *n, uint64_t off, uint64_t host, uint64_t len, const struct iov *q, uint64_t qoff);
int q2_data_write(struct blk_node *n, uint64_t off, uint64_t host, uint64_t len, const struct iov *q, uint64_t qoff);
/* The LUKS header for a new image by its encrypt.* options; the caller frees. */

/* qcow2_map.c: guest ranges. */
enum q2_kind { Q2K_UNALLOC, Q2K_ZERO, Q2K_DATA, Q2K_COMPRESSED };
struct q2_run {
    enum q2_kind kind;
    bool copied;   /* may be written in place */
    bool has_host; /* host is valid (also for zero runs over an allocated cluster) */
    uint64_t host; /* host offset of the first byte; for compressed runs the descriptor */
    uint64_t len;
};
int q2_map(struct blk_node *n, uint64_t off, uint64_t len, struct q2_run *r);
int q2_read(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff);
int q2_write(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff);
int q2_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags);
int q2_discard(struct blk_node *n, uint64_t off, uint64_t len, bool to_backing);
int q2_write_compressed(struct blk_node *n, uint64_t off, uint64_t len, const struct iov *q, uint64_t qoff);
/* Gives the guest range host clusters; the file grows by p where they lie beyond its end. */
int q2_prealloc(struct blk_node *n, uint64_t from, uint64_t to, enum blk_prealloc p);
void q2_entry_read(const struct q2 *s, const uint8_t *tab, uint64_t i, uint64_t *e, uint64_t *bm);
void q2_entry_write(const struct q2 *s, uint8_t *tab, uint64_t i, uint64_t e, uint64_t bm);
int q2_l2_for_write(struct blk_node *n, uint64_t l1i, struct q2_tab **out); /* lock held */
void q2_compressed_span(const struct q2 *s, uint64_t entry, uint64_t *off, uint64_t *len);
void q2_quiet(struct blk_node *n); /* lock held: waits until no allocation is in flight */
int q2_grow_l1(struct blk_node *n, uint64_t entries, bool exact);

/* qcow2_snap.c */
bool q2_snaps_read(struct blk_node *n, struct err **errp);
void q2_snaps_release(struct q2 *s);
bool q2_snap_create(struct blk_node *n, struct blk_snap *sn, struct err **errp);
bool q2_snap_goto(struct blk_node *n, const char *id, struct err **errp);
bool q2_snap_delete(struct blk_node *n, const char *id, const char *name, struct err **errp);
bool q2_snap_load(struct blk_node *n, const char *id, const char *name, struct err **errp);
int q2_snap_list(struct blk_node *n, struct blk_snap **out);
int q2_vmstate_drop(struct blk_node *n);
int q2_flags_update(struct blk_node *n, bool set); /* COPIED flags of the active tables from refcounts, or all off */

/* qcow2_check.c */
int q2_check(struct blk_node *n, struct blk_check *c, unsigned fix);
/* New refcount structures of 2^order bits a count take the old ones' place; false when a count does not fit. */
bool q2_change_refcount_bits(struct blk_node *n, unsigned order, struct err **errp);

/* qcow2_bitmap.c */
bool q2_bitmaps_read_dir(struct blk_node *n, struct err **errp);
/* For reading, or with them marked as in use; those known already stay. */
bool q2_bitmaps_load(struct blk_node *n, struct err **errp);
int q2_bitmaps_store(struct blk_node *n);
void q2_bitmaps_release(struct q2 *s);
struct json_object *q2_bitmaps_info(struct blk_node *n);
bool q2_bitmap_store_ok(struct blk_node *n, const char *name, uint32_t gran, struct err **errp);
bool q2_bitmap_remove(struct blk_node *n, const char *name, struct err **errp);

#endif
