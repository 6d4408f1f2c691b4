/* qemu-img: dispatch, help, and small helpers of all commands. Texts, keys and exit codes are those scripts expect. */
#include "blk/secret.h"
#include "cmd/img/img.h"
#include "cmd/shut/tool.h"
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const struct command {
    const char *name;
    int (*fn)(struct img *im);
    const char *args;
    const char *writes; /* NULL: reads only; else it writes when one of these words is given, "": always */
} commands[] = {
    {"amend", cmd_amend,
     "[--object objectdef] [--image-opts] [-p] [-q] [-f fmt] [-t cache] [--force] -o options filename", ""},
    {"bench", cmd_bench,
     "[-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [-n] [--no-drain] [-o offset] "
     "[--pattern=pattern] [-q] [-s buffer_size] [-S step_size] [-t cache] [-w] [-U] filename",
     "-w"},
    {"bitmap", cmd_bitmap,
     "(--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b source_file [-F source_fmt]] "
     "[-g granularity] [--object objectdef] [--image-opts | -f fmt] filename bitmap",
     ""},
    {"check", cmd_check,
     "[--object objectdef] [--image-opts] [-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] [-T src_cache] [-U] "
     "filename",
     "-r --repair"},
    {"commit", cmd_commit,
     "[--object objectdef] [--image-opts] [-q] [-f fmt] [-t cache] [-b base] [-r rate_limit] [-d] [-p] filename", ""},
    {"compare", cmd_compare,
     "[--object objectdef] [--image-opts] [-f fmt] [-F fmt] [-T src_cache] [-p] [-q] [-s] [-U] filename1 "
     "filename2"},
    {"convert", cmd_convert,
     "[--object objectdef] [--image-opts] [--target-image-opts] [--target-is-zero] [--bitmaps] [-U] [-C] [-c] "
     "[-p] [-q] [-n] [-f fmt] [-t cache] [-T src_cache] [-O output_fmt] [-B backing_file [-F backing_fmt]] "
     "[-o options] [-l snapshot_param] [-S sparse_size] [-r rate_limit] [-m num_coroutines] [-W] [--salvage] "
     "filename [filename2 [...]] output_filename",
     ""},
    {"create", cmd_create,
     "[--object objectdef] [-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o options] filename [size]", ""},
    {"dd", cmd_dd,
     "[--image-opts] [-U] [-f fmt] [-O output_fmt] [bs=block_size] [count=blocks] [skip=blocks] if=input of=output",
     ""},
    {"info", cmd_info, "[--object objectdef] [--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [-U] filename"},
    {"map", cmd_map,
     "[--object objectdef] [--image-opts] [-f fmt] [--start-offset=offset] [--max-length=len] [--output=ofmt] [-U] "
     "filename"},
    {"measure", cmd_measure,
     "[--output=ofmt] [-O output_fmt] [-o options] [--size N | [--object objectdef] [--image-opts] [-f fmt] "
     "[-l snapshot_param] filename]"},
    {"rebase", cmd_rebase,
     "[--object objectdef] [--image-opts] [-U] [-q] [-f fmt] [-t cache] [-T src_cache] [-p] [-u] -b backing_file "
     "[-F backing_fmt] filename",
     ""},
    {"resize", cmd_resize,
     "[--object objectdef] [--image-opts] [-f fmt] [--preallocation=prealloc] [-q] [--shrink] filename "
     "[+ | -]size",
     ""},
    {"snapshot", cmd_snapshot,
     "[--object objectdef] [--image-opts] [-U] [-q] [-l | -a snapshot | -c snapshot | -d snapshot] filename",
     "-a -c -d"},
};

static void help(void)
{
    printf("qemu-img version 7.2.0 (Lyrebird " LYREBIRD_VERSION ")\n"
           "usage: qemu-img [standard options] command [command options]\n"
           "Disk image utility\n\n"
           "    '-h', '--help'       display this help and exit\n"
           "    '-V', '--version'    output version information and exit\n"
           "    '-T', '--trace' EVENT  tell of it on standard error; there is: sandbox\n\n"
           "Command syntax:\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        printf("  %s %s\n", commands[i].name, commands[i].args);
    printf("\n'qemu-img COMMAND --help' shows one command; 'qemu-img create -f FMT -o help' the options of a format.\n"
           "Sizes are bytes, with suffixes k, M, G, T, P, E (powers of 1024). Cache modes: none, writeback, "
           "writethrough,\n"
           "directsync, unsafe. --output is human or json. -p shows progress, -q only errors, -U opens an image in "
           "use.\n\n"
           "Supported formats:");
    for (const struct blk_driver *d = NULL; (d = blk_driver_next(d));)
        printf(" %s", d->name);
    printf("\n");
}

int img_fail(struct err *e)
{
    err_report(e);
    return 1;
}

int img_error(const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "%s: ", err_program());
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return 1;
}

int img_usage(const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "%s: ", err_program());
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\nTry 'qemu-img --help' for more information\n");
    return 1;
}

bool img_size(const char *text, const char *what, uint64_t *out)
{
    if (str_to_size(text, 'b', out) && *out <= INT64_MAX)
        return true;
    img_error("Invalid %s specified. You may use k, M, G, T, P or E suffixes for", what);
    img_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
    return false;
}

struct blk_node *img_open(struct img *im, const char *name, const char *fmt, unsigned flags, const char *cache)
{
    struct err *e = NULL;
    struct opts *o = im->extra && !im->image_opts ? opts_dup(im->extra) : NULL;
    struct blk_node *n;

    if (cache && !blk_cache_mode(cache, &flags)) {
        img_error("Invalid %scache option: %s", im->source_cache ? "source " : "", cache);
        return NULL;
    }
    if (im->force_share && flags & BLK_O_RDWR) {
        img_error("Could not open '%s': force-share=on can only be used with read-only images", name);
        return NULL;
    }
    if (im->force_share)
        flags |= BLK_O_SHARE;
    if (im->image_opts) {
        o = opts_parse(name, NULL, &e);
        if (!o) {
            img_fail(e);
            return NULL;
        }
        if (fmt) {
            opts_free(o);
            img_error("--image-opts and --format are mutually exclusive");
            return NULL;
        }
        if (opts_peek(o, "file") && !opts_peek(o, "file.driver") && !opts_peek(o, "driver")) {
            char *file = xstrdup(opts_get(o, "file"));

            opts_del(o, "file");
            n = blk_node_open(im->set, file, NULL, flags | BLK_O_UNMAP, o, &e);
            free(file);
        } else {
            n = blk_node_open(im->set, NULL, NULL, flags | BLK_O_UNMAP, o, &e);
        }
    } else {
        if (fmt && !blk_driver_find(fmt)) {
            img_error("Could not open '%s': Unknown driver '%s'", name, fmt);
            return NULL;
        }
        if (im->aio) {
            o = o ? o : opts_new();
            opts_set(o, fmt && !strcmp(fmt, "file") ? "aio" : "file.aio", im->aio);
        }
        n = blk_node_open(im->set, name, fmt, flags | BLK_O_UNMAP, o, &e);
    }
    if (!n) {
        err_prefix(&e, "Could not open '%s': ", name);
        img_fail(e);
    }
    return n;
}

bool img_same_file(const struct blk_node *a, const struct blk_node *b)
{
    struct stat x, y;

    while (a->file)
        a = a->file->node;
    while (b->file)
        b = b->file->node;
    return a == b || (!stat(blk_node_filename(a), &x) && !stat(blk_node_filename(b), &y) && x.st_dev == y.st_dev &&
                      x.st_ino == y.st_ino);
}

struct blk_child *img_claim(struct blk_node *n, bool resize)
{
    bool rw = !blk_node_readonly(n);
    struct err *e = NULL;
    struct blk_child *c =
        blk_child_root(n, "qemu-img", BLK_PERM_READ | (rw ? BLK_PERM_WRITE : 0) | (rw && resize ? BLK_PERM_RESIZE : 0),
                       rw ? BLK_PERM_READ | BLK_PERM_WRITE_SAME | BLK_PERM_WRITE | BLK_PERM_RESIZE : BLK_PERM_ALL, &e);

    if (!c) {
        err_prefix(&e, "Could not open '%s': ", blk_node_filename(n));
        img_fail(e);
    }
    return c;
}

/* ---- JSON with four spaces ---- */

static void quote(const char *s)
{
    struct json_object *o = json_object_new_string(s);

    fputs(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE), stdout);
    json_object_put(o);
}

static void pretty(struct json_object *o, int depth)
{
    bool first = true;

    if (json_object_is_type(o, json_type_object)) {
        printf("{\n");
        json_object_object_foreach(o, k, v)
        {
            printf("%s%*s", first ? "" : ",\n", depth + 4, "");
            quote(k);
            printf(": ");
            pretty(v, depth + 4);
            first = false;
        }
        printf("\n%*s}", depth, "");
    } else if (json_object_is_type(o, json_type_array)) {
        printf("[\n");
        for (size_t i = 0; i < json_object_array_length(o); i++) {
            printf("%s%*s", i ? ",\n" : "", depth + 4, "");
            pretty(json_object_array_get_idx(o, i), depth + 4);
        }
        printf("\n%*s]", depth, "");
    } else {
        fputs(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE), stdout);
    }
}

void img_json(struct json_object *o)
{
    pretty(o, 0);
    printf("\n");
    json_object_put(o);
}

bool img_output(const char *text, bool *json)
{
    if (strcmp(text, "json") != 0 && strcmp(text, "human") != 0) {
        img_error("--output must be used with human or json as argument.");
        return false;
    }
    *json = *text == 'j';
    return true;
}

/* ---- -o ---- */

bool img_add_options(struct opts **o, const char *text)
{
    struct err *e = NULL;
    struct opts *n = opts_parse(text, NULL, &e);
    struct opt *it;

    if (!n) {
        img_fail(e);
        return false;
    }
    if (!*o)
        *o = opts_new();
    opts_each (it, n)
        opts_replace(*o, it->key, it->val);
    opts_free(n);
    return true;
}

bool img_options_help(const char *fmt, const char *text, bool with_file, bool amend)
{
    const struct blk_driver *d = blk_driver_find(fmt);
    char *copy AUTOFREE = xstrdup(text), *save = NULL;
    bool wanted = false;

    for (char *t = strtok_r(copy, ",", &save); t; t = strtok_r(NULL, ",", &save))
        wanted |= !strcmp(t, "help") || !strcmp(t, "?");
    if (!wanted)
        return false;
    if (!d || !d->create_opts) {
        img_error(d ? "Format driver '%s' does not support image creation" : "Unknown file format '%s'", fmt);
        return true;
    }
    if (amend)
        printf("Amend options for '%s':\n", fmt);
    else
        printf("Supported %s options:\n", fmt);
    for (const struct blk_create_opt *c = amend && d->amend_opts ? d->amend_opts : d->create_opts; c->name; c++) {
        char head[80];

        if (!with_file && (!strcmp(c->name, "nocow") || !strcmp(c->name, "extent_size_hint")) &&
            strcmp(fmt, "raw") != 0)
            continue;
        snprintf(head, sizeof head, "%s=<%s>", c->name, c->type);
        printf("  %-22s - %s\n", head, c->help);
    }
    if (!with_file && !amend)
        printf("\nThe protocol level may support further options.\nSpecify the target filename to include those "
               "options.\n");
    return true;
}

void img_limit_rate(const struct timespec *start, uint64_t done, uint64_t rate)
{
    struct timespec now, ts;
    double wait;

    if (!rate)
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    wait = (double)done / (double)rate -
           ((double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9);
    if (wait <= 0)
        return;
    ts = (struct timespec){(time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9)};
    nanosleep(&ts, NULL);
}

/* ---- progress ---- */

static struct {
    int64_t start, shown;
    bool tty, polled; /* polled: the command looks at img_stopped() between pieces */
} g_progress;
static volatile sig_atomic_t g_asked; /* SIGUSR1: show progress once */
static volatile sig_atomic_t g_stop;  /* the signal that asked for the end */

static void on_usr1(int sig)
{
    g_asked = 1;
}

/* Who copies ends after the piece in hand and closes its images; nobody waits for a second signal or for other work. */
static void on_stop(int sig)
{
    if (g_progress.polled && !g_stop) {
        g_stop = sig;
        return;
    }
    signal(sig, SIG_DFL);
    raise(sig);
}

bool img_stopped(void)
{
    g_progress.polled = true;
    return g_stop;
}

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void show(uint64_t done, uint64_t total, bool asked)
{
    double part = total ? (double)done * 100 / (double)total : 100;
    int64_t ms = now_ms() - g_progress.start;
    FILE *to = asked ? stderr : stdout;

    fprintf(to, "    (%3.2f/100%%)", part);
    if ((g_progress.tty || asked) && ms > 500 && done) {
        char rate[16];
        int64_t left = (int64_t)((double)ms * (double)(total - done) / (double)done) / 1000;

        fprintf(to, "  %s/s, %" PRId64 ":%02" PRId64 " left  ", str_size(done * 1000 / (uint64_t)ms, rate, sizeof rate),
                left / 60, left % 60);
    }
    fputc(asked ? '\n' : '\r', to);
    fflush(to);
}

void img_progress(struct img *im, uint64_t done, uint64_t total)
{
    int64_t t;

    if (!g_asked && !im->progress && g_progress.start)
        return;
    t = now_ms();
    if (!g_progress.start) {
        g_progress.start = t;
        g_progress.tty = isatty(1);
    }
    if (g_asked) {
        g_asked = 0;
        show(done, total, true);
    } else if (im->progress && (!done || done >= total || t - g_progress.shown >= 100)) {
        show(done, total, false);
        g_progress.shown = t;
    }
}

void img_progress_end(struct img *im)
{
    g_progress.polled = false;
    if (im->progress)
        printf("\n");
}

/* ---- main ---- */

struct call {
    struct img *im;
    int (*fn)(struct img *im);
    int ret;
};

static void run_command(void *opaque)
{
    struct call *c = opaque;

    c->ret = c->fn(c->im);
}

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    return NULL;
}

static int unknown(const char *name)
{
    struct str_nearest near;

    str_nearest_init(&near, name);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        str_nearest_try(&near, commands[i].name);
    if (near.best)
        return img_usage("Command not found: %s (did you mean '%s'?)", name, near.best);
    return img_usage("Command not found: %s", name);
}

/* Whether a command line may write: the option stands alone or begins a word ("-rall"). */
static bool may_write(const struct command *c, int argc, char **argv)
{
    char *copy AUTOFREE = NULL, *save = NULL;

    if (!c->writes || !*c->writes)
        return c->writes;
    copy = xstrdup(c->writes);
    for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save))
        for (int i = 1; i < argc; i++)
            if (str_starts(argv[i], w) ||
                (w[1] != '-' && *argv[i] == '-' && argv[i][1] != '-' && strchr(argv[i], w[1])))
                return true;
    return false;
}

static const char *output_of(const struct command *c, int argc, char **argv)
{
    if (!strcmp(c->name, "convert"))
        return argv[argc - 1];
    for (int i = 1; !strcmp(c->name, "dd") && i < argc; i++)
        if (str_starts(argv[i], "of="))
            return argv[i];
    return NULL;
}

static struct shut *enter(const struct command *c, struct img *im, struct shut_plan *p)
{
    p->writes = may_write(c, p->argc, p->argv);
    p->target = output_of(c, p->argc, p->argv);
    p->below_writes = !strcmp(c->name, "commit");
    p->bounded = !strcmp(c->name, "info");
    return shut_in(im->set, p);
}

/* The options before the command; <0: go on, else the exit status. */
static int common_options(int *argc, char ***argv)
{
    for (; *argc > 1 && *(*argv)[1] == '-'; ++*argv, --*argc) {
        const char *a = (*argv)[1];

        if (!strcmp(a, "-h") || !strcmp(a, "--help")) {
            help();
            return 0;
        }
        if (!strcmp(a, "-V") || !strcmp(a, "--version")) {
            printf("qemu-img version 7.2.0 (Lyrebird " LYREBIRD_VERSION ")\n");
            return 0;
        }
        if (str_starts(a, "--trace=")) {
            if (!shut_trace_option(a + 8))
                return 1;
        } else if ((!strcmp(a, "-T") || !strcmp(a, "--trace")) && *argc > 2) {
            if (!shut_trace_option((*argv)[2]))
                return 1;
            ++*argv;
            --*argc;
        } else {
            return img_usage("unrecognized option '%s'", a);
        }
    }
    return -1;
}

int main(int argc, char **argv)
{
    const struct command *c;
    struct shut_plan plan = {0};
    struct shut *shut;
    struct img im = {0};
    struct err *e = NULL;
    struct call call;
    int r;

    err_set_program("qemu-img");
    signal(SIGPIPE, SIG_IGN);
    signal(SIGUSR1, on_usr1);
    signal(SIGINT, on_stop);
    signal(SIGTERM, on_stop);
    signal(SIGHUP, on_stop);
    r = common_options(&argc, &argv);
    if (r >= 0)
        return r;
    if (argc < 2)
        return img_usage("Not enough arguments");
    c = find(argv[1]);
    if (!c)
        return unknown(argv[1]);
    if (argc == 3 && (!strcmp(argv[2], "-h") || !strcmp(argv[2], "--help"))) {
        printf("usage: qemu-img %s %s\n", c->name, c->args);
        return 0;
    }
    im.run = run_new();
    im.set = blk_set_new(im.run);
    im.argc = argc - 1;
    im.argv = argv + 1;
    plan.argc = im.argc;
    plan.argv = shut_argv_copy(im.argc, im.argv);
    if (!blk_take_objects(im.set, &im.argc, im.argv, &e))
        return img_fail(e);
    shut = enter(c, &im, &plan);
    call = (struct call){&im, c->fn, 1};
    blk_run(im.set, run_command, &call);
    blk_set_free(im.set);
    run_free(im.run);
    shut_end(shut);
    free(plan.argv);
    if (g_stop) { /* all is closed: end as who sent the signal expects */
        img_error("interrupted");
        fflush(stdout);
        signal(g_stop, SIG_DFL);
        raise(g_stop);
    }
    if (fflush(stdout) || ferror(stdout))
        return 1;
    return call.ret;
}
