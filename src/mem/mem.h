/* Guest-physical address spaces: RAM, ROM, MMIO and port regions, overlap by priority, dispatch and DMA.
 *
 * A region is embedded in its owner and describes a range; containers hold sub-regions at offsets. A space has one
 * root region and a flat view of it, rebuilt by mem_commit() after changes and swapped in atomically: readers (vCPU
 * threads, DMA) take the current view without a lock; old views are freed when every reader has left them.
 * Changing the tree needs the machine lock. RAM contents are read and written without locks, as on hardware. */
#ifndef MEM_MEM_H
#define MEM_MEM_H

#include "base/err.h"
#include "base/list.h"
#include "run/run.h"

typedef uint64_t gpa_t;

enum mem_result { MEM_OK = 0, MEM_UNMAPPED = 1, MEM_DENIED = 2 };

enum { MEM_UNLOCKED = 1 }; /* ops flag: callbacks do their own locking; the machine lock is not taken */

/* Callbacks see accesses of impl_min..impl_max bytes, naturally aligned unless unaligned is set; the core splits or
 * widens others. Guest accesses outside valid_min..valid_max read all ones and are logged. Zero sizes mean 1..8
 * for valid, 1..4 for impl. val is zero-extended. Little-endian unless big is set. */
struct mem_ops {
    uint64_t (*read)(void *opaque, gpa_t off, unsigned size);
    void (*write)(void *opaque, gpa_t off, uint64_t val, unsigned size);
    uint8_t valid_min, valid_max, impl_min, impl_max;
    bool unaligned, big;
    unsigned flags; /* MEM_UNLOCKED */
};

enum mem_kind { MEM_CONTAINER, MEM_RAM, MEM_ROM, MEM_IO, MEM_ALIAS, MEM_ROMD };

/* Bytes of host memory behind RAM and ROM, with per-page (4 KiB) flags. Shared by aliases. */
enum {
    MEM_DIRTY_VGA = 1,
    MEM_DIRTY_MIGRATE = 2,
    MEM_PAGE_WCACHE = 0x40 /* some translator may write it without
asking */
    ,
    MEM_PAGE_CODE = 0x80 /* holds translated code: writes are reported */
};
struct mem_ram {
    uint8_t *host; /* page-aligned */
    uint64_t size; /* bytes, multiple of 4 KiB */
    int fd;        /* memfd or file behind it, -1 = anonymous; offset fd_off */
    uint64_t fd_off;
    bool shared, host_ro;  /* host_ro: mapped read-only, nothing may write through host */
    uint64_t id;           /* base of this block in the ram-page number space: page n of the block is id + n, unique */
    _Atomic uint8_t *page; /* flags, one byte per page */
    char *name;            /* owned, unique in the machine: "pc.ram", "pc.bios" ... */
    struct list link;
    struct mem_sys *sys;
    unsigned refs;
};

struct mem_region {
    const char *name; /* borrowed or static */
    enum mem_kind kind;
    uint64_t size;             /* bytes; UINT64_MAX stands for 2^64 */
    const struct mem_ops *ops; /* IO, ROMD */
    void *opaque;
    struct mem_ram *ram;       /* RAM, ROM, ROMD */
    struct mem_region *target; /* ALIAS */
    uint64_t target_off;
    bool enabled;  /* true after init */
    bool readonly; /* RAM: writes are dropped */
    bool romd;     /* ROMD: reads come straight from ram (true) or go to ops (false); writes go to ops */
    int prio;      /* higher wins over overlapping siblings */
    gpa_t addr;    /* offset in parent */
    struct mem_region *parent;
    struct list subs, sib;
    struct mem_sys *sys;
    uint8_t dirty_log; /* MEM_DIRTY_* bits this region wants tracked */
};

/* Shared by all spaces of a machine: RAM blocks, commit batching, the code-write hook. */
struct mem_sys *mem_sys_new(struct run *r);
void mem_sys_free(struct mem_sys *s); /* with every RAM block that is left */

void mem_region_init(struct mem_region *r, struct mem_sys *s, const char *name, uint64_t size); /* container */
bool mem_region_init_ram(struct mem_region *r, struct mem_sys *s, const char *name, uint64_t size, struct err **errp);
/* RAM over memory the caller provides (backends); takes a reference on ram. */
void mem_region_init_ram_from(struct mem_region *r, struct mem_sys *s, const char *name, struct mem_ram *ram);
bool mem_region_init_rom(struct mem_region *r, struct mem_sys *s, const char *name, uint64_t size, struct err **errp);
bool mem_region_init_romd(struct mem_region *r, struct mem_sys *s, const struct mem_ops *ops, void *opaque,
                          const char *name, uint64_t size, struct err **errp);
void mem_region_init_io(struct mem_region *r, struct mem_sys *s, const struct mem_ops *ops, void *opaque,
                        const char *name, uint64_t size);
void mem_region_init_alias(struct mem_region *r, struct mem_sys *s, const char *name, struct mem_region *target,
                           uint64_t off, uint64_t size);
void mem_region_free(struct mem_region *r); /* unmapped by then; drops RAM */
static inline uint8_t *mem_region_ptr(struct mem_region *r)
{
    return r->ram->host;
}
/* Tree changes: take effect at the outermost mem_commit. Each call outside a begin/commit pair commits by itself. */
void mem_begin(struct mem_sys *s);
void mem_commit(struct mem_sys *s);
void mem_region_add(struct mem_region *parent, gpa_t off, struct mem_region *sub);
void mem_region_add_prio(struct mem_region *parent, gpa_t off, struct mem_region *sub, int prio);
void mem_region_del(struct mem_region *sub);
/* Takes every region embedded in [base, base + size) out of the tree below root: its owner is about to be freed. */
void mem_region_drop_within(struct mem_region *root, const void *base, size_t size);
void mem_region_set_enabled(struct mem_region *r, bool on);
void mem_region_set_addr(struct mem_region *r, gpa_t off);
void mem_region_set_size(struct mem_region *r, uint64_t size);
void mem_region_set_alias_off(struct mem_region *r, uint64_t off);
void mem_region_set_readonly(struct mem_region *r, bool ro);
void mem_region_set_romd(struct mem_region *r, bool romd);
void mem_region_set_dirty_log(struct mem_region *r, uint8_t bits);

/* RAM blocks. share/path variants are used by the memory backends. */
struct mem_ram *mem_ram_new(struct mem_sys *s, const char *name, uint64_t size, struct err **errp);
struct mem_ram *mem_ram_new_fd(struct mem_sys *s, const char *name, uint64_t size, int fd, uint64_t off, bool shared,
                               bool readonly, struct err **errp); /* fd is dup'ed */
/* The unit the file's file system hands memory out in: the huge page size on hugetlbfs, else (and for -1) 4096. */
uint64_t mem_fd_page_size(int fd);
void mem_ram_ref(struct mem_ram *m);
void mem_ram_unref(struct mem_ram *m);
/* Call after writing [off, off+len) of a block through its host pointer: sets dirty flags, reports code pages. */
void mem_ram_written(struct mem_ram *m, uint64_t off, uint64_t len);
/* True when any page of the range has `bits` set; clears them there. */
bool mem_ram_test_clear(struct mem_ram *m, uint64_t off, uint64_t len, uint8_t bits);
void mem_ram_each(struct mem_sys *s, void (*fn)(struct mem_ram *m, void *opaque), void *opaque);
/* Translators and decode caches mark pages they read code from (MEM_PAGE_CODE) and learn of writes to them here. Each
 * hook runs on the writing thread and returns true when it keeps nothing of the page; when all do, the flag is cleared.
 * Hooks are added before any vCPU runs. */
typedef bool mem_code_fn(void *opaque, struct mem_ram *m, uint64_t off, uint64_t len);
void mem_add_code_hook(struct mem_sys *s, mem_code_fn *fn, void *opaque);
/* Sets MEM_PAGE_CODE on the page at off. When it was clear and MEM_PAGE_WCACHE set, the mark hooks run: whoever caches
 * permission to write the page without asking (translators) must forget it. True: it was clear. */
bool mem_ram_mark_code(struct mem_ram *m, uint64_t off);
typedef void mem_mark_fn(void *opaque, struct mem_ram *m, uint64_t off);
void mem_add_mark_hook(struct mem_sys *s, mem_mark_fn *fn, void *opaque);

/* A space: a root region seen through a flat view. */
struct mem_space;
struct mem_space *mem_space_new(struct mem_sys *s, const char *name, struct mem_region *root);
void mem_space_free(struct mem_space *as);

/* One flat range. For plain memory host != NULL: host bytes of `start`. */
struct mem_section {
    gpa_t start;
    uint64_t len;
    struct mem_region *region; /* never NULL */
    uint64_t region_off;
    struct mem_ram *ram; /* RAM/ROM/ROMD in read mode */
    uint64_t ram_off;
    uint8_t *host;     /* ram->host + ram_off, or NULL */
    bool readonly;     /* writes must go through mem_write (dropped, or ops of a ROMD) */
    uint8_t dirty_log; /* MEM_DIRTY_* wanted: every write must pass mem_ram_written, so never cache it as writable */
};
/* The section holding addr; false when unmapped. The result is a copy, valid until the next commit. */
bool mem_find(struct mem_space *as, gpa_t addr, struct mem_section *out);
/* Walks the flat view in address order. */
void mem_space_each(struct mem_space *as, void (*fn)(const struct mem_section *s, void *opaque), void *opaque);
/* Told after each commit that changed the view (TLB flush, KVM slots), machine lock held. */
typedef void mem_changed_fn(void *opaque);
void mem_space_listen(struct mem_space *as, mem_changed_fn *fn, void *opaque);
void mem_space_unlisten(struct mem_space *as, mem_changed_fn *fn, void *opaque);

/* Accesses of any length and alignment; unmapped bytes read as 0xff and writes to them vanish, with MEM_UNMAPPED
 * returned. Take and drop the machine lock around device callbacks as needed. A device whose own callback is running
 * on this thread is not re-entered: such an access answers MEM_DENIED (and reads as 0xff). */
enum mem_result mem_read(struct mem_space *as, gpa_t addr, void *buf, uint64_t len);
enum mem_result mem_write(struct mem_space *as, gpa_t addr, const void *buf, uint64_t len);
/* One bus access of 1, 2, 4 or 8 bytes, little-endian. */
enum mem_result mem_load(struct mem_space *as, gpa_t addr, unsigned size, uint64_t *val);
enum mem_result mem_store(struct mem_space *as, gpa_t addr, unsigned size, uint64_t val);
enum mem_result mem_set(struct mem_space *as, gpa_t addr, int byte, uint64_t len);
/* DMA without copying: host pointer to at most *len bytes of RAM at addr (shrunk to what is contiguous), or NULL when
 * it is not plain RAM (then use mem_read/mem_write). After writing call mem_unmap with is_write and the bytes touched.
 */
void *mem_map(struct mem_space *as, gpa_t addr, uint64_t *len, bool is_write);
void mem_unmap(struct mem_space *as, void *host, uint64_t len, bool is_write, uint64_t touched);
static inline uint64_t mem_ld(struct mem_space *as, gpa_t addr, unsigned size)
{
    uint64_t v = 0;

    mem_load(as, addr, size, &v);
    return v;
}
/* Text of the tree or the flat view for `info mtree [-f]`; caller frees. */
char *mem_space_dump(struct mem_space *as, bool flat);

#endif
