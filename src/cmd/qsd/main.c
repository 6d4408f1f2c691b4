/* qemu-storage-daemon: block nodes, exports and a QMP monitor without a machine. Options act in the order they are
 * written. Left out: exports over VDUSE (refused by name). */
#include "base/json.h"
#include "base/str.h"
#include "blk/job.h"
#include "blk/secret.h"
#include "mon/mon.h"
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static struct qsd {
    struct run *run;
    struct blk_set *blks;
    struct chr_set *chrs;
    struct obj *root;
    struct mon_set *mons;
    const char *pidfile;
    bool daemonize;
    volatile sig_atomic_t stop;
} g;

static const struct obj_class root_class = {.name = "storage-daemon", .size = sizeof(struct obj)};

static void ask_to_stop(void *opaque)
{
    g.stop = 1;
    ev_loop_stop(g.run->loop);
}

static void on_signal(int sig)
{
    ask_to_stop(NULL);
}

static void usage(void)
{
    printf("Usage: qemu-storage-daemon [options]\nQEMU storage daemon\n\n"
           "  -h, --help             display this help and exit\n"
           "  -V, --version          output version information and exit\n\n"
           "  --blockdev [driver=]<driver>[,node-name=<N>][,...]\n"
           "                         configure a block backend\n"
           "  --chardev <options>    configure a character device backend\n"
           "  --daemonize            daemonize the process, and have the parent exit once startup is complete\n"
           "  --export [type=]nbd,id=<id>,node-name=<node-name>[,name=<export-name>][,writable=on|off]\n"
           "           [,bitmaps.0=<bitmap>][,allocation-depth=on|off]\n"
           "                         export the specified block node over NBD\n"
           "  --export [type=]vhost-user-blk,id=<id>,node-name=<node-name>,addr.type=unix,addr.path=<path>\n"
           "           [,writable=on|off][,logical-block-size=<n>][,num-queues=<n>]\n"
           "                         export it as the disk of another program's machine\n"
           "  --export [type=]fuse,id=<id>,node-name=<node-name>,mountpoint=<file>[,growable=on|off]\n"
           "           [,writable=on|off][,allow-other=on|off|auto]\n"
           "                         show it as the contents of a file\n"
           "  --monitor [chardev=]name[,mode=control][,pretty[=on|off]]\n"
           "                         configure a QMP monitor\n"
           "  --nbd-server addr.type=inet,addr.host=<host>,addr.port=<port>[,max-connections=<n>]\n"
           "  --nbd-server addr.type=unix,addr.path=<path>[,max-connections=<n>]\n"
           "                         start an NBD server for exporting block nodes\n"
           "  --object help          list object types that can be added\n"
           "  --object <type>[,<property>=<value>...]\n"
           "                         create a new object of type <type>\n"
           "  --pidfile <path>       write process ID to a file after startup\n");
}

/* Options as the arguments of a command; keys in bools are on/off, those in ints numbers; "addr.x" goes into "addr". */
static struct json_object *as_json(struct opts *o, const char *const *bools, const char *const *ints, struct err **errp)
{
    struct json_object *j = json_object_new_object(), *addr = json_object_new_object();
    struct opt *e;
    bool ok = true;

    opts_each (e, o) {
        struct json_object *v = NULL;
        bool on;
        uint64_t n;

        for (const char *const *b = bools; *b; b++)
            if (!strcmp(*b, e->key) && (ok = opts_bool(o, e->key, &on, errp)))
                v = json_object_new_boolean(on);
        for (const char *const *i = ints; *i && ok; i++)
            if (!strcmp(*i, e->key) && (ok = opts_u64(o, e->key, &n, errp)))
                v = json_object_new_uint64(n);
        if (!ok)
            break;
        if (str_starts(e->key, "bitmaps.")) {
            if (!json_get(j, "bitmaps"))
                json_object_object_add(j, "bitmaps", json_object_new_array());
            json_object_array_add(json_get(j, "bitmaps"), json_object_new_string(e->val));
            json_object_put(v);
        } else if (str_starts(e->key, "addr."))
            json_object_object_add(addr, e->key + 5, json_object_new_string(e->val));
        else
            json_object_object_add(j, e->key, v ? v : json_object_new_string(e->val));
    }
    json_object_object_add(j, "addr", addr);
    if (ok)
        return j;
    json_object_put(j);
    return NULL;
}

static bool run_cmd(const char *name, const char *text, const char *implied, struct err **errp)
{
    static const char *const bools[] = {"writable", "writethrough", "allocation-depth", "growable", NULL};
    static const char *const ints[] = {"max-connections", "logical-block-size", "num-queues", NULL};
    struct opts *o = opts_parse(text, implied, errp);
    struct json_object *a = o ? as_json(o, bools, ints, errp) : NULL, *ret = NULL;
    bool ok = a && blk_cmd_find(name)->fn(g.blks, a, &ret, errp);

    json_object_put(ret);
    json_object_put(a);
    opts_free(o);
    return ok;
}

static bool add_blockdev(const char *text, struct err **errp)
{
    struct opts *o = opts_parse(text, "driver", errp);
    bool ok = o && blk_node_add(g.blks, o, errp);

    opts_free(o);
    return ok;
}

static bool add_export(const char *text, struct err **errp)
{
    struct opts *o = opts_parse(text, "type", errp);
    bool ok = o;

    if (ok && (!opts_peek(o, "id") || !opts_peek(o, "node-name")))
        ok = err_set(errp, "Parameter '%s' is missing", opts_peek(o, "id") ? "node-name" : "id");
    opts_free(o);
    return ok && run_cmd("block-export-add", text, "type", errp);
}

static bool add_chardev(const char *text, struct err **errp)
{
    struct opts *o = opts_parse(text, "backend", errp);
    bool ok = o && chr_create(g.chrs, o, errp);

    opts_free(o);
    return ok;
}

static bool add_monitor(const char *text, struct err **errp)
{
    struct opts *o = opts_parse(text, "chardev", errp);
    const char *name = o ? opts_get(o, "chardev") : NULL, *mode = o ? opts_get(o, "mode") : NULL;
    struct chr *c = name ? chr_find(g.chrs, name) : NULL;
    bool pretty = false, ok;

    if (!o)
        return false;
    opts_get(o, "id");
    if (mode && strcmp(mode, "control") != 0)
        ok = err_set(errp, "mode '%s' is not available: this program has QMP monitors (mode=control) only", mode);
    else if (!c)
        ok = err_set(errp, "Chardev '%s' not found", name ? name : "");
    else
        ok = opts_bool(o, "pretty", &pretty, errp) && opts_done(o, "--monitor", NULL, errp) &&
             mon_add(g.mons, c, MON_QMP, pretty, errp);
    opts_free(o);
    return ok;
}

enum { O_BLOCKDEV = 256, O_CHARDEV, O_DAEMON, O_EXPORT, O_MONITOR, O_NBD, O_OBJECT, O_PID };
static const struct option longs[] = {{"help", no_argument, 0, 'h'},
                                      {"version", no_argument, 0, 'V'},
                                      {"blockdev", required_argument, 0, O_BLOCKDEV},
                                      {"chardev", required_argument, 0, O_CHARDEV},
                                      {"daemonize", no_argument, 0, O_DAEMON},
                                      {"export", required_argument, 0, O_EXPORT},
                                      {"monitor", required_argument, 0, O_MONITOR},
                                      {"nbd-server", required_argument, 0, O_NBD},
                                      {"object", required_argument, 0, O_OBJECT},
                                      {"pidfile", required_argument, 0, O_PID},
                                      {0}};

/* What must be known before anything is opened: help, and whether to go to the background. <0: go on. */
static int look_ahead(int argc, char **argv)
{
    int c;

    while ((c = getopt_long(argc, argv, "hV", longs, NULL)) != -1)
        switch (c) {
        case 'h':
            usage();
            return 0;
        case 'V':
            printf("qemu-storage-daemon version 7.2.0 (Lyrebird " LYREBIRD_VERSION ")\n");
            return 0;
        case O_DAEMON:
            g.daemonize = true;
            break;
        case O_PID:
            g.pidfile = optarg;
            break;
        case '?':
            return 1;
        default:
            break;
        }
    if (optind < argc) {
        fprintf(stderr, "qemu-storage-daemon: Unexpected argument: %s\n", argv[optind]);
        return 1;
    }
    optind = 1;
    return -1;
}

static bool act(int c, const char *arg, struct err **errp)
{
    switch (c) {
    case O_BLOCKDEV:
        return add_blockdev(arg, errp);
    case O_CHARDEV:
        return add_chardev(arg, errp);
    case O_EXPORT:
        return add_export(arg, errp);
    case O_MONITOR:
        return add_monitor(arg, errp);
    case O_NBD:
        return run_cmd("nbd-server-start", arg, NULL, errp);
    case O_OBJECT:
        return blk_object_add(g.blks, arg, errp);
    default:
        return true;
    }
}

static bool write_pid(struct err **errp)
{
    int fd = open(g.pidfile, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    bool ok = fd >= 0 && dprintf(fd, "%d\n", (int)getpid()) > 0;

    if (fd >= 0)
        close(fd);
    return ok || err_set_errno(errp, errno, "cannot create PID file '%s'", g.pidfile);
}

/* The parent waits for the child's word and ends with it. Returns the pipe's end in the child. */
static int split_off(void)
{
    char ok = 1;
    int p[2];

    if (pipe(p) < 0)
        return -1;
    if (fork()) {
        close(p[1]);
        _exit(read(p[0], &ok, 1) == 1 ? ok : 1);
    }
    close(p[0]);
    setsid();
    return p[1];
}

static void start(void)
{
    struct mon_cfg cfg = {.quit = ask_to_stop};

    g.run = run_new();
    g.root = obj_new(&root_class, NULL);
    g.blks = blk_set_new(g.run);
    blk_set_objects(g.blks, obj_container(g.root, "objects"));
    g.chrs = chr_set_new(g.run, obj_container(g.root, "chardevs"));
    cfg.run = g.run;
    cfg.blks = g.blks;
    cfg.chrs = g.chrs;
    g.mons = mon_set_new(&cfg);
}

static void finish(void)
{
    mon_set_free(g.mons);
    blk_set_free(g.blks);
    chr_set_free(g.chrs);
    obj_unref(g.root);
    run_free(g.run);
    if (g.pidfile)
        unlink(g.pidfile);
}

int main(int argc, char **argv)
{
    struct err *e = NULL;
    int c, r, ready = -1;
    char zero = 0;

    err_set_program("qemu-storage-daemon");
    r = look_ahead(argc, argv);
    if (r >= 0)
        return r;
    if (g.daemonize && (ready = split_off()) < 0)
        return 1;
    start();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    signal(SIGHUP, on_signal);
    while ((c = getopt_long(argc, argv, "hV", longs, NULL)) != -1)
        if (!act(c, optarg, &e)) {
            err_report(e);
            finish();
            return 1;
        }
    if (g.pidfile && !write_pid(&e)) {
        err_report(e);
        g.pidfile = NULL;
        finish();
        return 1;
    }
    if (ready >= 0 && (write(ready, &zero, 1) != 1 || !freopen("/dev/null", "r", stdin) ||
                       !freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)))
        g.stop = 1;
    while (!g.stop)
        ev_loop_turn(g.run->loop, -1);
    finish();
    return 0;
}
