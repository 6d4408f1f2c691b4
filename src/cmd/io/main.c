/* qemu-io: reads, writes and probes an image at chosen offsets; commands from -c or typed at a prompt. The commands are
 * those of blk/exercise.h and, here, those that open, close, leave and crash. */
#include "blk/exercise.h"
#include "blk/host.h"
#include "blk/secret.h"
#include "cmd/shut/tool.h"
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

struct io {
    struct blk_ex ex; /* ex.n: owned here, the image that is open */
    struct run *run;
    struct blk_set *set;
    struct blk_child *claim;
    char **cmds;
    unsigned nr_cmds;
    const char *path, *fmt, *cache, *discard, *aio;
    const char *path_now; /* what is open */
    bool snapshot, cor;
    bool ro, image_opts, share, quit, failed;
};

static struct io *io_of(struct blk_ex *x)
{
    return container_of(x, struct io, ex);
}

static void put(void *opaque, bool error, const char *text)
{
    fputs(text, error ? stderr : stdout);
}

static void fail(void *opaque, struct err *e)
{
    err_report(e);
}

static void close_image(struct io *io)
{
    blk_child_detach(io->claim);
    blk_node_unref(io->ex.n);
    io->claim = NULL;
    io->ex.n = NULL;
}

static void finish(struct io *io)
{
    blk_ex_wait(&io->ex);
    blk_node_flush(io->ex.n);
    close_image(io);
}

/* more: options of open -o, taken over; NULL = none. */
static int open_image(struct io *io, const char *path, struct opts *more)
{
    unsigned flags = (io->ro ? 0 : BLK_O_RDWR) | (io->share ? BLK_O_SHARE : 0) | BLK_O_UNMAP;
    struct opts *o = NULL;
    struct err *e = NULL;

    io->path_now = path ? xstrdup(path) : NULL; /* lives until the end of a short run */
    if (io->share && !io->ro) {
        fprintf(stderr, "qemu-io: can't open device %s: force-share=on can only be used with read-only images\n", path);
        return 1;
    }
    if (io->cache)
        blk_cache_mode(io->cache, &flags); /* both looked at where they were given */
    if (io->discard)
        blk_discard_mode(io->discard, &flags);
    if (io->snapshot)
        flags &= ~(unsigned)BLK_O_RDWR;
    if (more) {
        o = more;
        if (opts_peek(o, "driver") && path && !opts_peek(o, "file") && !opts_peek(o, "file.filename"))
            opts_set(o, "file.filename", path);
        if (opts_peek(o, "driver"))
            path = NULL;
    } else if (io->image_opts && !(o = opts_parse(path, NULL, &e))) {
        err_report(e);
        return 1;
    }
    if (io->aio) {
        o = o ? o : opts_new();
        opts_set(o, "file.aio", io->aio);
    }
    io->ex.n = blk_node_open(io->set, io->image_opts && !more ? NULL : path, io->fmt, flags, o, &e);
    if (io->ex.n && io->snapshot) {
        struct blk_node *n = blk_node_throwaway(io->set, io->ex.n, &e);

        blk_node_unref(io->ex.n);
        io->ex.n = n;
    }
    if (io->ex.n && io->cor)
        io->ex.n = blk_node_filtered(io->set, "copy-on-read", io->ex.n, NULL, &e);
    if (io->ex.n)
        io->claim = blk_child_root(io->ex.n, "qemu-io", BLK_PERM_READ | (io->ro ? 0 : BLK_PERM_WRITE | BLK_PERM_RESIZE),
                                   io->ro ? BLK_PERM_ALL : BLK_PERM_READ | BLK_PERM_WRITE_SAME, &e);
    if (io->ex.n && io->claim)
        return 0;
    err_prefix(&e, "can't open%s%s: ", io->image_opts || !path ? "" : " device ", io->image_opts || !path ? "" : path);
    err_report(e);
    if (io->ex.n)
        blk_node_unref(io->ex.n);
    io->ex.n = NULL;
    return 1;
}

static bool mode_ok(bool (*known)(const char *, unsigned *), const char *what, const char *text)
{
    unsigned unused = 0;

    if (known(text, &unused))
        return true;
    fprintf(stderr, "qemu-io: Invalid %s option: %s\n", what, text);
    return false;
}

static int c_open(struct blk_ex *x, int argc, char **argv)
{
    struct blk_ex_opts opt = {.argc = argc, .argv = argv};
    struct io *io = io_of(x);
    struct opts *more = NULL;
    struct err *e = NULL;
    int c;

    if (io->ex.n) {
        fprintf(stderr, "qemu-io: file open already, try 'help close'\n");
        return -EBUSY;
    }
    io->ro = io->share = io->snapshot = io->cor = false;
    io->cache = io->discard = NULL;
    while ((c = blk_ex_opt(x, &opt, "snCro:ki:t:d:U")) != -1)
        switch (c) {
        case 'r':
            io->ro = true;
            break;
        case 'n':
            io->cache = "none";
            break;
        case 'U':
            io->share = true;
            break;
        case 's':
            io->snapshot = true;
            break;
        case 'C':
            io->cor = true;
            break;
        case 'k':
            io->aio = "native";
            break;
        case 'i':
            io->aio = xstrdup(opt.arg);
            break;
        case 't':
            if (!mode_ok(blk_cache_mode, "cache", opt.arg))
                return -EINVAL;
            io->cache = xstrdup(opt.arg);
            break;
        case 'd':
            if (!mode_ok(blk_discard_mode, "discard", opt.arg))
                return -EINVAL;
            io->discard = xstrdup(opt.arg);
            break;
        case 'o':
            opts_free(more);
            more = opts_parse(opt.arg, NULL, &e);
            if (!more) {
                err_report(e);
                return -EINVAL;
            }
            break;
        default:
            opts_free(more);
            return -EINVAL;
        }
    if (opt.nr > 1 || (!opt.nr && !more)) {
        opts_free(more);
        return -EINVAL;
    }
    return open_image(io, opt.nr ? opt.word[0] : NULL, more) ? -EIO : 0;
}

static int c_close(struct blk_ex *x, int argc, char **argv)
{
    finish(io_of(x));
    return 0;
}

/* With other options than -r and -w the image is closed and opened anew: its users are this program only. */
static int open_anew(struct io *io, struct opts *more)
{
    finish(io);
    return open_image(io, io->path_now, more) ? -EIO : 0;
}

static int c_reopen(struct blk_ex *x, int argc, char **argv)
{
    struct blk_ex_opts opt = {.argc = argc, .argv = argv};
    struct io *io = io_of(x);
    struct opts *more = NULL;
    struct err *e = NULL;
    bool rw = io->ex.n->open_flags & BLK_O_RDWR, anew = false;
    int c;

    while ((c = blk_ex_opt(x, &opt, "rwc:o:")) != -1) {
        if (c == 'r' || c == 'w') {
            rw = c == 'w';
        } else if (c == 'c' && mode_ok(blk_cache_mode, "cache", opt.arg)) {
            io->cache = xstrdup(opt.arg);
            anew = true;
        } else if (c == 'o' && !more && (more = opts_parse(opt.arg, NULL, &e))) {
            anew = true;
        } else {
            if (e)
                err_report(e);
            opts_free(more);
            return -EINVAL;
        }
    }
    io->ro = !rw;
    if (anew)
        return open_anew(io, more);
    blk_child_set_perm(io->claim, BLK_PERM_READ, BLK_PERM_ALL, NULL);
    if (!blk_node_reopen(io->ex.n, rw, &e) ||
        (rw && !blk_child_set_perm(io->claim, BLK_PERM_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE,
                                   BLK_PERM_READ | BLK_PERM_WRITE_SAME, &e))) {
        err_report(e);
        return -EIO;
    }
    return 0;
}

static int c_quit(struct blk_ex *x, int argc, char **argv)
{
    io_of(x)->quit = true;
    return 0;
}

/* For tests of what a crash leaves behind: whoever types it means it. */
static int c_abort(struct blk_ex *x, int argc, char **argv)
{
    abort();
}

static int c_sigraise(struct blk_ex *x, int argc, char **argv)
{
    uint64_t sig;

    if (!blk_ex_number(x, argv[1], &sig))
        return -EINVAL;
    fflush(NULL);
    raise((int)sig);
    return 0;
}

static const struct blk_ex_cmd own_cmds[] = {
    {"abort", NULL, c_abort, 0, 0, false, false, "", "simulate a program crash using abort(3)"},
    {"close", NULL, c_close, 0, 0, true, false, "", "close the current open file"},
    {"open", "o", c_open, 1, -1, false, false, "[-rsCnkU] [-i aio] [-t cache] [-d discard] [-o options] [path]",
     "open the file specified by path"},
    {"quit", "q", c_quit, 0, 0, false, false, "", "exit the program"},
    {"reopen", NULL, c_reopen, 0, -1, true, false, "[(-r|-w)] [-c cache] [-o options]",
     "reopens an image with new options"},
    {"sigraise", NULL, c_sigraise, 1, 1, false, false, "signal", "raises a signal"},
};

static void session(void *opaque)
{
    struct io *io = opaque;
    char *line = NULL;
    size_t cap = 0;

    if (io->path && open_image(io, io->path, NULL)) {
        io->failed = true;
        return;
    }
    for (unsigned i = 0; i < io->nr_cmds && !io->quit; i++)
        if (blk_ex_line(&io->ex, io->cmds[i]) < 0)
            io->failed = true;
    while (!io->nr_cmds && !io->quit) {
        printf("qemu-io> ");
        fflush(stdout);
        if (getline(&line, &cap, stdin) < 0)
            break;
        if (blk_ex_line(&io->ex, line) < 0)
            io->failed = true;
    }
    free(line);
    if (io->ex.n)
        finish(io);
}

static void usage(const struct io *io)
{
    const struct blk_ex_cmd *c;

    printf(
        "Usage: qemu-io [OPTIONS]... [-c STRING]... [file]\nDisk exerciser\n\n"
        "  --image-opts         treat file as option string\n  -c, --cmd STRING     execute command with its "
        "arguments\n"
        "  -f, --format FMT     specifies the block driver to use\n  -r, --read-only      export read-only\n"
        "  -s, --snapshot       write into a temporary file, thrown away at the end\n"
        "  -C, --copy-on-read   keep in the image what is read from its backing file\n"
        "  -m, --misalign       misalign buffers\n  -k, --native-aio     the same as -i native\n"
        "  -i, --aio=MODE       threads, native or io_uring\n"
        "  --object OBJECTDEF   define an object such as 'secret'\n  -T, --trace EVENT    tell of it; there is: "
        "sandbox\n"
        "  -n, --nocache        disable host cache\n  -d, --discard=MODE   use the given discard mode for the image\n"
        "  -t, --cache=MODE     use the given cache mode for the image\n  -U, --force-share    force shared "
        "permissions\n"
        "  -h, --help           display this help and exit\n  -V, --version        output version information and "
        "exit\n\n"
        "Commands: ");
    for (size_t i = 0; (c = blk_ex_command(&io->ex, i)); i++)
        printf("%s%s", i ? ", " : "", c->name);
    printf("\n");
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"help", no_argument, 0, 'h'},
                                          {"version", no_argument, 0, 'V'},
                                          {"cmd", required_argument, 0, 'c'},
                                          {"format", required_argument, 0, 'f'},
                                          {"read-only", no_argument, 0, 'r'},
                                          {"nocache", no_argument, 0, 'n'},
                                          {"snapshot", no_argument, 0, 's'},
                                          {"copy-on-read", no_argument, 0, 'C'},
                                          {"misalign", no_argument, 0, 'm'},
                                          {"native-aio", no_argument, 0, 'k'},
                                          {"aio", required_argument, 0, 'i'},
                                          {"discard", required_argument, 0, 'd'},
                                          {"cache", required_argument, 0, 't'},
                                          {"image-opts", no_argument, 0, 256},
                                          {"force-share", no_argument, 0, 'U'},
                                          {"trace", required_argument, 0, 'T'},
                                          {0}};
    char *cmds[256], **given = shut_argv_copy(argc, argv);
    struct shut_plan plan = {.argc = argc, .argv = given, .writes = true};
    struct shut *shut = NULL;
    struct io io = {.cmds = cmds, .ex = {.put = put, .fail = fail, .own = own_cmds, .nr_own = ARRAY_LEN(own_cmds)}};
    struct err *e = NULL;
    int c;

    err_set_program("qemu-io");
    io.run = run_new();
    io.set = io.ex.set = blk_set_new(io.run);
    if (!blk_take_objects(io.set, &argc, argv, &e)) {
        err_report(e);
        return 1;
    }
    while ((c = getopt_long(argc, argv, "hVc:d:f:rsnCmki:t:T:U", longs, NULL)) != -1)
        switch (c) {
        case 'c':
            if (io.nr_cmds < ARRAY_LEN(cmds))
                cmds[io.nr_cmds++] = optarg;
            break;
        case 'f':
            io.fmt = optarg;
            break;
        case 'r':
            io.ro = true;
            break;
        case 'n':
            io.cache = "none";
            break;
        case 's':
            io.snapshot = true;
            break;
        case 'C':
            io.cor = true;
            break;
        case 'd':
            if (!mode_ok(blk_discard_mode, "discard", optarg))
                return 1;
            io.discard = optarg;
            break;
        case 't':
            if (!mode_ok(blk_cache_mode, "cache", optarg))
                return 1;
            io.cache = optarg;
            break;
        case 'U':
            io.share = true;
            break;
        case 'm':
            io.ex.misalign = true;
            break;
        case 'k':
            io.aio = "native";
            break;
        case 'i':
            if (strcmp(optarg, "threads") && strcmp(optarg, "native") && strcmp(optarg, "io_uring")) {
                fprintf(stderr, "qemu-io: Invalid aio option: %s\n", optarg);
                return 1;
            }
            io.aio = optarg;
            break;
        case 'T':
            if (!shut_trace_option(optarg))
                return 1;
            break;
        case 256:
            io.image_opts = true;
            break;
        case 'V':
            printf("qemu-io version 7.2.0 (Lyrebird " LYREBIRD_VERSION ")\n");
            return 0;
        case 'h':
            usage(&io);
            return 0;
        default:
            fprintf(stderr, "Try 'qemu-io --help' for more information.\n");
            return 1;
        }
    if (argc - optind > 1) {
        fprintf(stderr, "Try 'qemu-io --help' for more information.\n");
        return 1;
    }
    io.path = optind < argc ? argv[optind] : NULL;
    if (io.nr_cmds) /* who types commands names files as they go */
        shut = shut_in(io.set, &plan);
    blk_run(io.set, session, &io);
    blk_set_free(io.set);
    run_free(io.run);
    blk_ex_release(&io.ex);
    shut_end(shut);
    free(given);
    return io.failed || io.ex.failed;
}
