/* qemu-nbd: serves an image to network block device clients, on a socket or through the kernel's /dev/nbdN. */
#include "base/json.h"
#include "blk/export.h"
#include "blk/host.h"
#include "blk/nbd.h"
#include "blk/secret.h"
#include "cmd/nbd/part.h"
#include "cmd/shut/tool.h"
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ioctls of the kernel's client, as in <linux/nbd.h>, whose other names clash with the protocol's. */
enum {
    BLK_ROSET = _IO(0x12, 93), /* BLKROSET of <linux/fs.h>, which clashes with <sys/mount.h> */
    NBD_SET_SOCK = _IO(0xab, 0),
    NBD_SET_BLKSIZE = _IO(0xab, 1),
    NBD_DO_IT = _IO(0xab, 3),
    NBD_CLEAR_SOCK = _IO(0xab, 4),
    NBD_CLEAR_QUE = _IO(0xab, 5),
    NBD_SET_SIZE_BLOCKS = _IO(0xab, 7),
    NBD_DISCONNECT = _IO(0xab, 8),
    NBD_SET_FLAGS = _IO(0xab, 10),
};

static struct ev_loop *g_loop; /* for the signal handler */
static volatile sig_atomic_t g_stop;

struct opt_set {
    const char *port, *bind, *sock, *fmt, *name, *desc, *cache, *discard, *detect, *aio, *pid_file, *device, *image,
        *tls, *tls_host, *fuse, *load;
    uint64_t shared, offset, partition;
    bool readonly, persistent, verbose, disconnect, list, fork, image_opts, snapshot, have_offset, allocation_depth,
        partitions;
    const char *bitmaps[NBD_MAX_BITMAPS];
    unsigned nr_bitmaps;
    const char *objects[16]; /* --object */
    unsigned nr_objects;
    int argc;
    char **argv; /* as given: borrowed */
    struct shut *shut;
};

static void on_signal(int sig)
{
    g_stop = 1;
    if (g_loop)
        ev_loop_stop(g_loop);
}

static void usage(void)
{
    printf(
        "Usage: qemu-nbd [OPTIONS] FILE\n  or:  qemu-nbd -L [OPTIONS]\nDisk network block device server\n\n"
        "  -h, --help                display this help and exit\n  -V, --version             output version "
        "information and exit\n\n"
        "Connection properties:\n"
        "  -p, --port=PORT           port to listen on (default `10809')\n"
        "  -b, --bind=IFACE          interface to bind to (default `0.0.0.0')\n"
        "  -k, --socket=PATH         path to the unix socket\n"
        "  -e, --shared=NUM          device can be shared by NUM clients (default '1')\n"
        "  -t, --persistent          don't exit on the last connection\n"
        "  -v, --verbose             display extra debugging information\n"
        "  -x, --export-name=NAME    expose export by name (default is empty string)\n"
        "  -D, --description=TEXT    export a human-readable description\n"
        "  -A, --allocation-depth    offer the context qemu:allocation-depth\n"
        "  -B, --bitmap=NAME         offer the context qemu:dirty-bitmap:NAME\n\n"
        "      --object OBJECT       define an object such as 'tls-creds-x509' or 'tls-creds-psk'\n"
        "      --tls-creds=ID        use id of an earlier --object to provide TLS\n"
        "      --tls-hostname=NAME   override hostname used to check x509 certificate\n\n"
        "Exposing part of the image:\n"
        "  -o, --offset=OFFSET       offset into the image\n  -P, --partition=NUM       only expose partition NUM\n"
        "      --partitions          list the partitions and exit\n\n"
        "General purpose options:\n"
        "  -L, --list                list exports available from another NBD server\n"
        "      --fork                fork off the server process and exit the parent\n"
        "                            once the server is running\n"
        "      --pid-file=PATH       store the server's process ID in the given file\n\n"
        "Kernel NBD client support:\n"
        "  -c, --connect=DEV         connect FILE to the local NBD device DEV\n  -d, --disconnect          disconnect "
        "the specified device\n\n"
        "Without the kernel's NBD client:\n"
        "      --fuse=PATH           show the image (or what is exposed of it) as a raw file at PATH,\n"
        "                            until it is unmounted; -d PATH does that\n\n"
        "Block device options:\n"
        "  -f, --format=FORMAT       set image format (raw, qcow2, ...)\n  -r, --read-only           export read-only\n"
        "  -s, --snapshot            use FILE as an external snapshot, create a temporary\n"
        "                            file with backing_file=FILE, redirect the write to\n                            "
        "the temporary one\n"
        "  -l, --load-snapshot=NAME  export an internal snapshot, read-only: its name, or snapshot.id=, "
        "snapshot.name=\n"
        "  -n, --nocache             disable host cache\n      --cache=MODE          set cache mode used to access the "
        "disk image\n"
        "      --discard=MODE        set discard mode (ignore, unmap)\n      --detect-zeroes=MODE  set detect-zeroes "
        "mode (off, on, unmap)\n"
        "      --image-opts          treat FILE as a full set of image options\n");
}

static int fail(struct err *e)
{
    err_report(e);
    return 1;
}

/* ---- list ---- */

static void print_export(const struct nbd_info *i)
{
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {{NBD_TF_READ_ONLY, "readonly"},
                 {NBD_TF_SEND_FLUSH, "flush"},
                 {NBD_TF_SEND_FUA, "fua"},
                 {NBD_TF_ROTATIONAL, "rotational"},
                 {NBD_TF_SEND_TRIM, "trim"},
                 {NBD_TF_SEND_WRITE_ZEROES, "zeroes"},
                 {NBD_TF_SEND_DF, "df"},
                 {NBD_TF_CAN_MULTI_CONN, "multi"},
                 {1u << 9, "resize"},
                 {1u << 10, "cache"},
                 {NBD_TF_SEND_FAST_ZERO, "fast-zero"}};

    printf(" export: '%s'\n", i->name);
    if (i->desc && *i->desc)
        printf("  description: %s\n", i->desc);
    printf("  size:  %" PRIu64 "\n  flags: 0x%x (", i->size, i->flags);
    for (size_t k = 0; k < ARRAY_LEN(names); k++)
        if (i->flags & names[k].bit)
            printf(" %s", names[k].name);
    printf(" )\n");
    if (i->min)
        printf("  min block: %u\n  opt block: %u\n  max block: %u\n", i->min, i->pref, i->max);
    if (i->nr_contexts) {
        printf("  available meta contexts: %u\n", i->nr_contexts);
        for (unsigned k = 0; k < i->nr_contexts; k++)
            printf("   %s\n", i->contexts[k]);
    }
}

static int do_list(struct blk_set *set, const struct opt_set *o)
{
    struct nbd_addr a = {.path = (char *)(uintptr_t)o->sock,
                         .host = (char *)(uintptr_t)(o->sock   ? NULL
                                                     : o->bind ? o->bind
                                                               : "localhost"),
                         .port = (char *)(uintptr_t)o->port};
    struct nbd_info *v;
    struct err *e = NULL;
    struct nbd_creds *creds = o->tls ? nbd_creds_find(set, o->tls, false, &e) : NULL;
    int nr = !o->tls || creds ? nbd_client_list(&a, creds, o->tls_host ? o->tls_host : a.host, &v, &e) : -1;

    if (nr < 0)
        return fail(e);
    printf("exports available: %d\n", nr);
    for (int i = 0; i < nr; i++)
        print_export(&v[i]);
    return 0;
}

/* ---- the kernel's client ---- */

static int open_device(const char *dev, struct err **errp)
{
    int fd = open(dev, O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        err_set_errno(errp, errno, "Failed to open %s", dev);
        if (access("/sys/module/nbd", F_OK) < 0)
            err_hint(errp,
                     "The kernel's nbd module is not loaded: run 'modprobe nbd', or serve on a socket with -k PATH.");
    }
    return fd;
}

static int do_disconnect(const char *dev)
{
    struct err *e = NULL;
    struct stat st;
    int fd;

    if (!stat(dev, &st) && S_ISREG(st.st_mode)) { /* a file shown by --fuse */
        if (!umount2(dev, 0)) {
            printf("%s disconnected\n", dev);
            return 0;
        }
        execlp("fusermount3", "fusermount3", "-u", "--", dev, (char *)NULL);
        execlp("fusermount", "fusermount", "-u", "--", dev, (char *)NULL);
        err_set_errno(&e, errno, "cannot unmount '%s'", dev);
        return fail(e);
    }
    fd = open_device(dev, &e);

    if (fd < 0)
        return fail(e);
    ioctl(fd, NBD_CLEAR_QUE);
    ioctl(fd, NBD_DISCONNECT);
    ioctl(fd, NBD_CLEAR_SOCK);
    close(fd);
    printf("%s disconnected\n", dev);
    return 0;
}

static void *kernel_run(void *opaque)
{
    int fd = *(int *)opaque;

    ioctl(fd, NBD_DO_IT); /* until the device is disconnected */
    ioctl(fd, NBD_CLEAR_QUE);
    ioctl(fd, NBD_CLEAR_SOCK);
    close(fd);
    g_stop = 1;
    ev_loop_stop(g_loop);
    return NULL;
}

static int attach_kernel(struct nbd_server *s, struct nbd_export *x, int dev, const char *name)
{
    static int fd; /* read by the thread for the rest of the program */
    uint64_t size = x->root->node->size;
    int pair[2], ro = x->readonly;
    pthread_t t;

    fd = dev;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 || ioctl(dev, NBD_SET_SOCK, pair[1]) < 0 ||
        ioctl(dev, NBD_SET_BLKSIZE, 512ul) < 0 || ioctl(dev, NBD_SET_SIZE_BLOCKS, (unsigned long)(size / 512)) < 0 ||
        ioctl(dev, NBD_SET_FLAGS, (unsigned long)nbd_export_flags(x)) < 0 || ioctl(dev, BLK_ROSET, &ro) < 0) {
        struct err *e = NULL;

        err_set_errno(&e, errno, "Failed to set up %s", name);
        return fail(e);
    }
    nbd_server_adopt(s, pair[0]);
    pthread_create(&t, NULL, kernel_run, &fd);
    pthread_detach(t);
    printf("NBD device %s is now connected to the image\n", name);
    fflush(stdout);
    return 0;
}

/* ---- partitions ---- */

static int list_partitions(struct blk_node *n)
{
    struct nbd_part *v AUTOFREE = xcalloc(NBD_PART_MAX, sizeof *v);
    int nr = nbd_parts(n, v);

    if (nr < 0) {
        fprintf(stderr, "qemu-nbd: the image has no partition table\n");
        return 1;
    }
    for (int i = 0; i < nr; i++) {
        char size[16];

        printf("%-3u start %" PRIu64 " size %" PRIu64 " (%s) type %s%s%s\n", v[i].nr, v[i].off, v[i].len,
               str_size(v[i].len, size, sizeof size), v[i].kind, *v[i].name ? " name " : "", v[i].name);
    }
    return 0;
}

/* ---- serving ---- */

static bool load_snapshot(struct blk_node *n, const char *what, struct err **errp)
{
    const char *id = str_starts(what, "snapshot.id=") ? what + 12 : NULL,
               *name = str_starts(what, "snapshot.name=") ? what + 14 : NULL;

    if (!n->drv->snap_load)
        return err_set(errp, "format '%s' has no internal snapshots", n->drv->name);
    if (id || name)
        return n->drv->snap_load(n, id, name, errp);
    return n->drv->snap_load(n, what, NULL, NULL) || n->drv->snap_load(n, NULL, what, errp);
}

static struct blk_node *open_image(struct blk_set *set, const struct opt_set *o, struct err **errp)
{
    struct opts *no = opts_new();
    unsigned flags = (o->readonly ? 0 : BLK_O_RDWR) | BLK_O_UNMAP;
    struct blk_node *n, *w;
    uint64_t off = o->offset, len = 0;
    char num[24];

    if (o->cache)
        blk_cache_mode(o->cache, &flags); /* parse_image has looked at both */
    if (o->discard)
        blk_discard_mode(o->discard, &flags);
    if (o->detect)
        opts_set(no, "detect-zeroes", o->detect);
    if (o->aio)
        opts_set(no, "file.aio", o->aio);
    if (o->image_opts) {
        if (o->aio || o->detect) {
            opts_free(no);
            err_set(errp, "--aio and --detect-zeroes cannot be used with --image-opts: name them among the options");
            return NULL;
        }
        opts_free(no);
        no = opts_parse(o->image, NULL, errp);
        if (!no)
            return NULL;
    }
    if (o->snapshot)
        flags &= ~(unsigned)BLK_O_RDWR;
    n = blk_node_open(set, o->image_opts ? NULL : o->image, o->fmt, flags, no, errp);
    if (n && o->snapshot) {
        w = blk_node_throwaway(set, n, errp);
        blk_node_unref(n);
        n = w;
    }
    if (n && o->load && !load_snapshot(n, o->load, errp)) {
        blk_node_unref(n);
        return NULL;
    }
    if (!n || (!o->partition && !o->have_offset))
        return n;
    if (o->partition && !nbd_part_find(n, (unsigned)o->partition, &off, &len, errp)) {
        blk_node_unref(n);
        return NULL;
    }
    if (off > n->size || len > n->size - off) {
        err_set(errp, "offset or partition lies outside the image");
        blk_node_unref(n);
        return NULL;
    }
    if (!len)
        len = n->size - off;
    no = opts_new();
    opts_set(no, "driver", "raw");
    opts_set(no, "file", n->name);
    snprintf(num, sizeof num, "%" PRIu64, off);
    opts_set(no, "offset", num);
    snprintf(num, sizeof num, "%" PRIu64, len);
    opts_set(no, "size", num);
    w = blk_node_open(set, NULL, NULL, flags, no, errp);
    blk_node_unref(n);
    return w;
}

static void idle(void *opaque)
{
    const struct opt_set *o = opaque;

    if (!o->persistent) {
        g_stop = 1;
        ev_loop_stop(g_loop);
    }
}

/* Socket activation by the service manager: one listening socket as descriptor 3. */
static int activated(void)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");

    return pid && fds && atoi(pid) == getpid() && atoi(fds) == 1 ? 3 : -1;
}

static bool write_pid(struct blk_set *set, const char *path, struct err **errp)
{
    int fd = blk_host_open(set, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");

    if (!f)
        return err_set_errno(errp, fd < 0 ? -fd : errno, "cannot create PID file '%s'", path);
    fprintf(f, "%d\n", (int)getpid());
    return !fclose(f) || err_set_errno(errp, errno, "cannot write PID file '%s'", path);
}

/* --fork: the parent stays until the child has said that it is ready (or died). Returns the write end in the child. */
static int split_off(int *rc)
{
    int p[2];
    char c = 1;

    if (pipe(p) < 0)
        return -1;
    if (fork()) {
        close(p[1]);
        *rc = read(p[0], &c, 1) == 1 ? c : 1;
        return -2;
    }
    close(p[0]);
    setsid();
    return p[1];
}

/* Past the point where anything can fail: tell the waiting parent, then until the end. */
static int run_until_end(int ready_fd, int null)
{
    char zero = 0;
    int r = 0;

    if (ready_fd >= 0 && write(ready_fd, &zero, 1) == 1) {
        close(ready_fd);
        fflush(stdout);
        for (int i = 0; i < 3; i++)
            if (dup2(null, i) < 0)
                r = 1;
    }
    while (!g_stop)
        ev_loop_turn(g_loop, -1);
    return r;
}

static void unmounted(void *opaque)
{
    g_stop = 1;
    ev_loop_stop(g_loop);
}

/* --fuse and --partitions: no server at all. */
static int show(struct blk_set *set, struct opt_set *o, int ready_fd)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), r = 1;
    struct err *e = NULL;
    struct blk_node *n;
    struct blk_export *x;
    struct json_object *a;

    if (o->partitions) /* the kernel's mount needs rights that are given up here */
        o->shut = shut_in(set, &(const struct shut_plan){.argc = o->argc, .argv = o->argv});
    n = open_image(set, o, &e);
    if (!n) {
        err_prefix(&e, "Could not open '%s': ", o->image);
        return fail(e);
    }
    if (o->partitions) {
        r = list_partitions(n);
        blk_node_unref(n);
        return r;
    }
    a = json_make("s:id", "fuse", "s:node-name", n->name, "s:mountpoint", o->fuse, "b:writable",
                  !o->readonly && !blk_node_readonly(n), NULL);
    x = blk_export_add(set, &blk_export_fuse, a, &e);
    if (x && (!o->pid_file || write_pid(set, o->pid_file, &e))) {
        x->on_end = unmounted;
        r = run_until_end(ready_fd, null);
    } else {
        fail(e);
    }
    if (x)
        blk_export_remove(x);
    json_object_put(a);
    blk_node_unref(n);
    if (o->pid_file)
        blk_host_unlink(set, o->pid_file);
    return r;
}

static bool offer_contexts(struct nbd_export *x, const struct opt_set *o, struct err **errp)
{
    x->depth = o->allocation_depth;
    for (unsigned i = 0; i < o->nr_bitmaps; i++)
        if (!nbd_export_add_bitmap(x, NULL, o->bitmaps[i], errp))
            return false;
    return true;
}

static int serve(struct blk_set *set, struct opt_set *o, int ready_fd)
{
    struct nbd_addr a = {.path = (char *)(uintptr_t)o->sock,
                         .host = (char *)(uintptr_t)(o->bind ? o->bind : "0.0.0.0"),
                         .port = (char *)(uintptr_t)o->port};
    struct err *e = NULL;
    struct blk_node *n;
    struct nbd_export *x = NULL;
    struct nbd_server *s;
    struct nbd_creds *creds = NULL;
    int fd = -1, dev = -1, r = 0, null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (o->tls && o->device) {
        err_set(&e, "TLS is not available with --connect: the kernel's client would have to speak it");
        return fail(e);
    }
    if (o->tls && !(creds = nbd_creds_find(set, o->tls, true, &e)))
        return fail(e);
    if (o->device)
        dev = open_device(o->device, &e);
    else if ((fd = activated()) < 0)
        fd = nbd_listen(&a, &e);
    if (fd < 0 && dev < 0)
        return fail(e);
    if (!o->device) /* all is open now that needs names of the host, but for the image */
        o->shut = shut_in(set, &(const struct shut_plan){.argc = o->argc,
                                                         .argv = o->argv,
                                                         .writes = !o->readonly || o->pid_file,
                                                         .serves = true,
                                                         .gone = {fd != 3 ? o->sock : NULL, o->pid_file}});
    n = open_image(set, o, &e);
    if (!n) {
        err_prefix(&e, "Could not open '%s': ", o->image);
        if (o->sock && fd != 3 && fd >= 0)
            blk_host_unlink(set, o->sock);
        return fail(e);
    }
    s = nbd_server_new(set, fd, (unsigned)o->shared);
    nbd_server_set_creds(s, creds);
    if (o->sock && fd != 3)
        s->unix_path = xstrdup(o->sock);
    x = nbd_export_add(s, o->name ? o->name : "", o->desc, n, !o->readonly && !blk_node_readonly(n), &e);
    if (!x || !offer_contexts(x, o, &e) || (o->pid_file && !write_pid(set, o->pid_file, &e)))
        r = fail(e);
    if (!r && dev >= 0)
        r = attach_kernel(s, x, dev, o->device);
    if (!r) {
        s->on_idle = idle;
        s->opaque = o;
        r = run_until_end(ready_fd, null);
    }
    if (x)
        nbd_export_remove(s, x);
    nbd_server_free(s);
    blk_node_unref(n);
    if (o->pid_file)
        blk_host_unlink(set, o->pid_file);
    return r;
}

enum {
    O_CACHE = 256,
    O_AIO,
    O_DISCARD,
    O_DETECT,
    O_FORK,
    O_PID,
    O_OPTS,
    O_TLS,
    O_AUTHZ,
    O_TLS_HOST,
    O_OBJECT,
    O_FUSE,
    O_PARTITIONS
};

static const struct option longs[] = {{"help", no_argument, 0, 'h'},
                                      {"version", no_argument, 0, 'V'},
                                      {"port", required_argument, 0, 'p'},
                                      {"bind", required_argument, 0, 'b'},
                                      {"socket", required_argument, 0, 'k'},
                                      {"shared", required_argument, 0, 'e'},
                                      {"persistent", no_argument, 0, 't'},
                                      {"verbose", no_argument, 0, 'v'},
                                      {"export-name", required_argument, 0, 'x'},
                                      {"description", required_argument, 0, 'D'},
                                      {"offset", required_argument, 0, 'o'},
                                      {"partition", required_argument, 0, 'P'},
                                      {"list", no_argument, 0, 'L'},
                                      {"fork", no_argument, 0, O_FORK},
                                      {"pid-file", required_argument, 0, O_PID},
                                      {"connect", required_argument, 0, 'c'},
                                      {"disconnect", no_argument, 0, 'd'},
                                      {"format", required_argument, 0, 'f'},
                                      {"read-only", no_argument, 0, 'r'},
                                      {"snapshot", no_argument, 0, 's'},
                                      {"load-snapshot", required_argument, 0, 'l'},
                                      {"nocache", no_argument, 0, 'n'},
                                      {"cache", required_argument, 0, O_CACHE},
                                      {"aio", required_argument, 0, O_AIO},
                                      {"discard", required_argument, 0, O_DISCARD},
                                      {"detect-zeroes", required_argument, 0, O_DETECT},
                                      {"image-opts", no_argument, 0, O_OPTS},
                                      {"bitmap", required_argument, 0, 'B'},
                                      {"allocation-depth", no_argument, 0, 'A'},
                                      {"tls-creds", required_argument, 0, O_TLS},
                                      {"tls-authz", required_argument, 0, O_AUTHZ},
                                      {"tls-hostname", required_argument, 0, O_TLS_HOST},
                                      {"object", required_argument, 0, O_OBJECT},
                                      {"fuse", required_argument, 0, O_FUSE},
                                      {"partitions", no_argument, 0, O_PARTITIONS},
                                      {"trace", required_argument, 0, 'T'},
                                      {0}};

static int refuse(const char *what)
{
    fprintf(stderr, "qemu-nbd: %s is not available in this program\n", what);
    return 1;
}

static int version(void)
{
    printf("qemu-nbd 7.2.0 (Lyrebird " LYREBIRD_VERSION ")\n");
    return 0;
}

static int wrong(const char *what, const char *value)
{
    fprintf(stderr, value ? "qemu-nbd: %s '%s'\n" : "qemu-nbd: %s\n", what, value);
    return 1;
}

/* What follows the options: the image, which --list can do without. <0: go on; else the exit status. */
static int parse_image(int argc, char **argv, struct opt_set *o)
{
    unsigned unused = 0;

    if (o->cache && !blk_cache_mode(o->cache, &unused))
        return wrong("Invalid cache mode", o->cache);
    if (o->discard && !blk_discard_mode(o->discard, &unused))
        return wrong("Invalid discard mode", o->discard);
    if (o->aio && strcmp(o->aio, "threads") && strcmp(o->aio, "native") && strcmp(o->aio, "io_uring"))
        return wrong("Invalid aio mode", o->aio);
    if (o->detect && !strcmp(o->detect, "unmap") && o->discard && !(unused & BLK_O_UNMAP))
        return wrong("setting detect-zeroes to unmap is not allowed without setting discard operation to unmap", NULL);
    if (o->list && optind == argc)
        return -1;
    if (o->list && o->image_opts + (argc - optind) > 0)
        return wrong("List mode is incompatible with a file name", NULL);
    if (optind != argc - 1) {
        fprintf(stderr, "qemu-nbd: Invalid number of arguments\nTry `qemu-nbd --help' for more information.\n");
        return 1;
    }
    o->image = argv[optind];
    return -1;
}

/* Where an option that is only kept goes, by its value or by its presence; NULL: it is none of them. */
static const char **text_of(struct opt_set *o, int c)
{
    switch (c) {
    case 'p':
        return &o->port;
    case 'b':
        return &o->bind;
    case 'x':
        return &o->name;
    case 'D':
        return &o->desc;
    case 'c':
        return &o->device;
    case 'f':
        return &o->fmt;
    case O_CACHE:
        return &o->cache;
    case O_AIO:
        return &o->aio;
    case O_DISCARD:
        return &o->discard;
    case O_DETECT:
        return &o->detect;
    case O_PID:
        return &o->pid_file;
    case O_FUSE:
        return &o->fuse;
    case O_TLS:
        return &o->tls;
    case O_TLS_HOST:
        return &o->tls_host;
    default:
        return NULL;
    }
}

static bool *flag_of(struct opt_set *o, int c)
{
    switch (c) {
    case 't':
        return &o->persistent;
    case 'v':
        return &o->verbose;
    case 'L':
        return &o->list;
    case 'd':
        return &o->disconnect;
    case 'r':
        return &o->readonly;
    case 's':
        return &o->snapshot;
    case O_FORK:
        return &o->fork;
    case O_OPTS:
        return &o->image_opts;
    case 'A':
        return &o->allocation_depth;
    default:
        return NULL;
    }
}

static int parse(int argc, char **argv, struct opt_set *o)
{
    int c;

    while ((c = getopt_long(argc, argv, "hVb:o:p:rsnc:dvk:e:f:tl:x:D:AB:LP:T:", longs, NULL)) != -1)
        switch (c) {
        case 'h':
            usage();
            return 0;
        case 'V':
            return version();
        case 'k':
            if (*optarg != '/')
                return wrong("socket path must be absolute", NULL);
            o->sock = optarg;
            break;
        case 'e':
            if (!str_to_u64(optarg, &o->shared) || o->shared > 100000)
                return wrong("Invalid shared device number", optarg);
            break;
        case 'o':
            if (!str_to_size(optarg, 'b', &o->offset))
                return wrong("Invalid offset", optarg);
            o->have_offset = true;
            break;
        case 'P':
            if (!str_to_u64(optarg, &o->partition) || !o->partition || o->partition > 128)
                return wrong("Invalid partition", optarg);
            break;
        case 'n':
            o->cache = "none";
            break;
        case 'B':
            if (o->nr_bitmaps == NBD_MAX_BITMAPS)
                return refuse("more than 60 --bitmap");
            o->bitmaps[o->nr_bitmaps++] = optarg;
            break;
        case 'l':
            o->load = optarg;
            o->readonly = true;
            break;
        case O_PARTITIONS:
            o->partitions = o->readonly = true;
            break;
        case 'T':
            if (!shut_trace_option(optarg))
                return 1;
            break;
        case O_AUTHZ:
            return refuse("--tls-authz");
        case O_OBJECT:
            if (o->nr_objects == ARRAY_LEN(o->objects))
                return refuse("more than 16 --object");
            o->objects[o->nr_objects++] = optarg;
            break;
        default:
            if (text_of(o, c)) {
                *text_of(o, c) = optarg;
                break;
            }
            if (flag_of(o, c)) {
                *flag_of(o, c) = true;
                break;
            }
            fprintf(stderr, "Try `qemu-nbd --help' for more information.\n");
            return 1;
        }
    return parse_image(argc, argv, o);
}

int main(int argc, char **argv)
{
    struct opt_set o = {.shared = 1};
    struct run *run;
    struct blk_set *set;
    int r, ready = -1;

    err_set_program("qemu-nbd");
    o.argc = argc;
    o.argv = shut_argv_copy(argc, argv); /* getopt moves them */
    r = parse(argc, argv, &o);
    if (r >= 0)
        return r;
    signal(SIGPIPE, SIG_IGN);
    if (o.disconnect)
        return do_disconnect(o.image);
    if ((o.fork || o.device) && !o.list) {
        ready = split_off(&r);
        if (ready == -2) {
            free(o.argv);
            return r;
        }
    }
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    run = run_new();
    g_loop = run->loop;
    set = blk_set_new(run);
    for (unsigned i = 0; i < o.nr_objects; i++) {
        struct err *e = NULL;

        if (!blk_object_add(set, o.objects[i], &e))
            return fail(e);
    }
    r = o.list ? do_list(set, &o) : o.fuse || o.partitions ? show(set, &o, ready) : serve(set, &o, ready);
    blk_set_free(set);
    run_free(run);
    shut_end(o.shut);
    free(o.argv);
    return r;
}
