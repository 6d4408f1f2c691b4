/* Memory backends: RAM from anonymous memory, a file (or a folder, hugetlbfs among them) or a memfd.
 *
 * Promise: the bytes exist with the size asked for, or creation fails with the reason; a file that is too small is
 * never mapped (a guest access could then kill the program). Shared mappings let other processes see the memory. Left
 * out: NUMA placement of the host pages, persistent-memory flags. */
#include "hw/mem/backend.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096 };

struct mem_backend {
    struct obj obj; /* first */
    uint64_t size;
    bool share, merge, dump, prealloc, readonly, discard_data;
    uint32_t prealloc_threads;
    char *mem_path;         /* file */
    uint64_t align, offset; /* file */
    bool hugetlb, seal;     /* memfd */
    uint64_t hugetlbsize;
    struct mem_ram *ram; /* owned once ready */
    bool claimed;
};

static const char *backend_id(const struct mem_backend *b)
{
    return b->obj.name ? b->obj.name : b->obj.cls->name;
}

/* ---- pages ---- */

static bool populate(struct mem_backend *b, struct err **errp)
{
    volatile uint8_t *p = b->ram->host;

#ifdef MADV_POPULATE_WRITE
    if (!madvise(b->ram->host, b->ram->size, MADV_POPULATE_WRITE))
        return true;
    if (errno != EINVAL)
        return err_set_errno(errp, errno, "memory backend '%s': cannot preallocate %" PRIu64 " MiB", backend_id(b),
                             b->size >> 20);
#endif
    for (uint64_t i = 0; i < b->ram->size; i += PAGE)
        p[i] = p[i];
    return true;
}

static bool finish(struct mem_backend *b, struct err **errp)
{
    if (!b->ram)
        return false;
    if (b->merge)
        madvise(b->ram->host, b->ram->size, MADV_MERGEABLE);
    if (!b->dump)
        madvise(b->ram->host, b->ram->size, MADV_DONTDUMP);
    return !b->prealloc || b->readonly || populate(b, errp);
}

static bool check_size(struct mem_backend *b, struct err **errp)
{
    if (!b->size) {
        err_set(errp, "memory backend '%s' needs a size", backend_id(b));
        err_hint(errp, "Give it one, such as size=1G.");
        return false;
    }
    return true;
}

static struct mem_sys *sys_of(struct mem_backend *b)
{
    return ((struct machine *)b->obj.ctx)->mem_sys;
}

static bool ram_ready(struct obj *o, struct err **errp)
{
    struct mem_backend *b = (struct mem_backend *)o;

    if (!check_size(b, errp))
        return false;
    if (!b->share) {
        b->ram = mem_ram_new(sys_of(b), backend_id(b), b->size, errp);
    } else {
        int fd = memfd_create(backend_id(b), MFD_CLOEXEC);

        if (fd < 0 || ftruncate(fd, (off_t)align_up(b->size, PAGE))) {
            err_set_errno(errp, errno, "memory backend '%s': cannot get shared memory", backend_id(b));
            if (fd >= 0)
                close(fd);
            return false;
        }
        b->ram = mem_ram_new_fd(sys_of(b), backend_id(b), b->size, fd, 0, true, false, errp);
        close(fd);
    }
    return finish(b, errp);
}

/* ---- file ---- */

static int open_in_folder(struct mem_backend *b, struct err **errp)
{
    char AUTOFREE *path = xasprintf("%s/lyrebird-%s-XXXXXX", b->mem_path, backend_id(b));
    int fd = mkostemp(path, O_CLOEXEC);

    if (fd < 0)
        err_set_errno(errp, errno, "memory backend '%s': cannot create a file in '%s'", backend_id(b), b->mem_path);
    else
        unlink(path);
    return fd;
}

static int open_path(struct mem_backend *b, struct err **errp)
{
    struct stat st;
    int fd;

    if (!stat(b->mem_path, &st) && S_ISDIR(st.st_mode))
        return open_in_folder(b, errp);
    fd = open(b->mem_path, (b->readonly ? O_RDONLY : O_RDWR | O_CREAT) | O_CLOEXEC, 0600);
    if (fd < 0)
        err_set_errno(errp, errno, "memory backend '%s': cannot open '%s'", backend_id(b), b->mem_path);
    return fd;
}

static bool size_file(struct mem_backend *b, int fd, uint64_t len, struct err **errp)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return err_set_errno(errp, errno, "memory backend '%s': cannot examine '%s'", backend_id(b), b->mem_path);
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size >= b->offset + len)
        return true;
    if (st.st_size || b->readonly) {
        err_set(errp, "memory backend '%s': '%s' has %jd bytes, but %" PRIu64 " are needed", backend_id(b), b->mem_path,
                (intmax_t)st.st_size, b->offset + len);
        err_hint(errp, "Make size= match the file, or use an empty file.");
        return false;
    }
    return !ftruncate(fd, (off_t)(b->offset + len)) ||
           err_set_errno(errp, errno, "memory backend '%s': cannot extend '%s'", backend_id(b), b->mem_path);
}

static bool file_ready(struct obj *o, struct err **errp)
{
    struct mem_backend *b = (struct mem_backend *)o;
    uint64_t page, len;
    int fd;

    if (!b->mem_path)
        return err_set(errp, "memory backend '%s' needs mem-path=", backend_id(b));
    if (!check_size(b, errp))
        return false;
    if (b->offset % PAGE || b->offset > INT64_MAX / 2 || b->size > INT64_MAX / 2)
        return err_set(errp, "memory backend '%s': offset must be a multiple of 4 KiB and within the file",
                       backend_id(b));
    fd = open_path(b, errp);
    if (fd < 0)
        return false;
    page = max_u64(mem_fd_page_size(fd), b->align);
    len = page && is_pow2(page) ? align_up(b->size, page) : b->size;
    if (page > PAGE && b->size % page)
        err_set(errp, "memory backend '%s': size must be a multiple of the page size of '%s', %" PRIu64 " KiB",
                backend_id(b), b->mem_path, page >> 10);
    else if (size_file(b, fd, len, errp))
        b->ram =
            mem_ram_new_fd(sys_of(b), backend_id(b), b->size, fd, b->offset, b->share, b->readonly && b->share, errp);
    close(fd);
    return finish(b, errp);
}

/* ---- memfd ---- */

static unsigned memfd_huge_flags(const struct mem_backend *b)
{
    unsigned shift = 0;

    if (!b->hugetlb)
        return 0;
    while (b->hugetlbsize >> shift > 1)
        shift++;
    return MFD_HUGETLB | shift << 26 /* MFD_HUGE_SHIFT */;
}

static bool memfd_ready(struct obj *o, struct err **errp)
{
    struct mem_backend *b = (struct mem_backend *)o;
    int fd;

    if (!check_size(b, errp))
        return false;
    if (b->hugetlbsize && (!b->hugetlb || !is_pow2(b->hugetlbsize) || b->size % b->hugetlbsize))
        return err_set(
            errp,
            "memory backend '%s': hugetlbsize needs hugetlb=on, a power of two and a size that is a multiple of it",
            backend_id(b));
    fd = memfd_create(backend_id(b), MFD_CLOEXEC | (b->seal ? MFD_ALLOW_SEALING : 0) | memfd_huge_flags(b));
    if (fd < 0)
        return err_set_errno(errp, errno, "memory backend '%s': cannot get a memfd", backend_id(b));
    if (ftruncate(fd, (off_t)b->size))
        err_set_errno(errp, errno, "memory backend '%s': cannot get %" PRIu64 " MiB", backend_id(b), b->size >> 20);
    else if (b->seal && fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL))
        err_set_errno(errp, errno, "memory backend '%s': cannot seal its memfd", backend_id(b));
    else
        b->ram = mem_ram_new_fd(sys_of(b), backend_id(b), b->size, fd, 0, b->share, false, errp);
    close(fd);
    return finish(b, errp);
}

static void backend_free(struct obj *o)
{
    struct mem_backend *b = (struct mem_backend *)o;

    if (b->ram && b->discard_data && b->ram->fd >= 0)
        madvise(b->ram->host, b->ram->size, MADV_REMOVE);
    mem_ram_unref(b->ram);
}

/* ---- classes ---- */

static const struct prop common_props[] = {
    PROP("size", size, struct mem_backend, size),
    PROP("merge", bool, struct mem_backend, merge, .dflt = "on", .help = "let the host merge equal pages"),
    PROP("dump", bool, struct mem_backend, dump, .dflt = "on", .help = "include in core dumps of this program"),
    PROP("prealloc", bool, struct mem_backend, prealloc),
    PROP("prealloc-threads", u32, struct mem_backend, prealloc_threads, .dflt = "1"),
    PROP_END,
};
#define PROP_SHARE(d) PROP("share", bool, struct mem_backend, share, .dflt = (d), .help = "other processes may map it")
static const struct prop ram_props[] = {PROP_SHARE("off"), PROP_END};
static const struct prop file_props[] = {
    PROP_SHARE("off"),
    PROP("mem-path", str, struct mem_backend, mem_path, .help = "file, or folder to create one in"),
    PROP("align", size, struct mem_backend, align),
    PROP("offset", size, struct mem_backend, offset),
    PROP("readonly", bool, struct mem_backend, readonly),
    PROP("discard-data", bool, struct mem_backend, discard_data),
    PROP_END,
};
static const struct prop memfd_props[] = {
    PROP_SHARE("on"),
    PROP("hugetlb", bool, struct mem_backend, hugetlb),
    PROP("hugetlbsize", size, struct mem_backend, hugetlbsize),
    PROP("seal", bool, struct mem_backend, seal, .dflt = "on"),
    PROP_END,
};
#define BACKEND(var_, name_, desc_, props_, ready_)                                                                    \
    static const struct obj_class var_ = {.name = name_,                                                               \
                                          .parent = "memory-backend",                                                  \
                                          .desc = desc_,                                                               \
                                          .size = sizeof(struct mem_backend),                                          \
                                          .props = props_,                                                             \
                                          .more_props = common_props,                                                  \
                                          .ready = ready_,                                                             \
                                          .free = backend_free,                                                        \
                                          .user = true};                                                               \
    OBJ_REGISTER(var_)
BACKEND(ram_class, "memory-backend-ram", "RAM from anonymous memory", ram_props, ram_ready)
BACKEND(file_class, "memory-backend-file", "RAM in a file", file_props, file_ready)
BACKEND(memfd_class, "memory-backend-memfd", "RAM in an unnamed file that can be passed to other processes",
        memfd_props, memfd_ready)

static bool is_backend(const struct obj *o)
{
    return o->cls == &ram_class || o->cls == &file_class || o->cls == &memfd_class;
}

struct mem_ram *mem_backend_claim(struct obj *o, struct err **errp)
{
    struct mem_backend *b = (struct mem_backend *)o;

    if (!is_backend(o) || !b->ram) {
        err_set(errp, "object '%s' is not a memory backend", o->name ? o->name : o->cls->name);
        return NULL;
    }
    if (b->claimed) {
        err_set(errp, "can't use already busy memdev: %s", backend_id(b));
        return NULL;
    }
    b->claimed = true;
    return b->ram;
}

struct obj *mem_backend_new(struct machine *m, const char *id, uint64_t size, const char *path, bool prealloc,
                            bool merge, bool dump, struct err **errp)
{
    struct mem_backend *b;
    struct obj *o;

    if (obj_child(m->objects, id)) {
        err_set(errp, "the id '%s' belongs to the machine's own memory", id);
        err_hint(errp, "Use -machine memory-backend=%s to make that object the machine's memory.", id);
        return NULL;
    }
    o = obj_new(path ? &file_class : &ram_class, m);
    b = (struct mem_backend *)o;
    b->size = size;
    b->prealloc = prealloc;
    b->merge = merge;
    b->dump = dump;
    b->mem_path = path ? xstrdup(path) : NULL;
    obj_add_child(m->objects, id, o);
    if (obj_ready(o, errp))
        return o;
    obj_unparent(o);
    return NULL;
}
