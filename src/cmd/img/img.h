/* qemu-img: what its commands share. Each command is one function that runs in a fibre and returns the exit status. */
#ifndef CMD_IMG_H
#define CMD_IMG_H

#include "base/json.h"
#include "blk/node.h"
#include <time.h>

struct img {
    struct run *run;
    struct blk_set *set;
    int argc;
    char **argv;
    bool quiet, progress, image_opts, force_share;
    struct opts *extra; /* borrowed: further options of what is opened next, NULL = none */
    bool source_cache;  /* the cache mode is that of -T */
    const char *aio;    /* -i: engine of the file below, NULL = its default */
};

/* Options every command may have; the rest is the command's own. */
enum {
    OPT_OUTPUT = 256,
    OPT_OBJECT,
    OPT_IMAGE_OPTS,
    OPT_BACKING_CHAIN,
    OPT_SHRINK,
    OPT_PREALLOC,
    OPT_SIZE,
    OPT_START,
    OPT_MAXLEN,
    OPT_TARGET_OPTS,
    OPT_TARGET_ZERO,
    OPT_BITMAPS,
    OPT_SALVAGE,
    OPT_FORCE,
    OPT_ADD,
    OPT_REMOVE,
    OPT_CLEAR,
    OPT_ENABLE,
    OPT_DISABLE,
    OPT_MERGE,
    OPT_FLUSH_INTERVAL,
    OPT_NO_DRAIN,
    OPT_PATTERN,
    OPT_SKIP_BROKEN
};

/* Reports "qemu-img: ..." and returns 1. Takes over e. */
int img_fail(struct err *e);
int img_error(const char *fmt, ...) PRINTF_FMT(1, 2);
int img_usage(const char *fmt, ...) PRINTF_FMT(1, 2);             /* with the pointer to --help */
bool img_size(const char *text, const char *what, uint64_t *out); /* reports */
/* NULL and a report on failure. flags as BLK_O_; cache may be NULL. */
struct blk_node *img_open(struct img *im, const char *name, const char *fmt, unsigned flags, const char *cache);
/* Whether both show the same host file. */
bool img_same_file(const struct blk_node *a, const struct blk_node *b);
/* Loads a snapshot by its id or name, or "snapshot.id=...,snapshot.name=..." (-l); reports, 0 or 1. */
int img_load_snapshot(struct blk_node *n, const char *text);
/* Claims what a tool does with the node: write and resize for a read-write one. NULL and a report when somebody else
 * has it. */
struct blk_child *img_claim(struct blk_node *n, bool resize);
void img_json(struct json_object *o);          /* prints and frees */
bool img_output(const char *text, bool *json); /* reports */
/* -o lists given several times, joined; consumed into o. */
bool img_add_options(struct opts **o, const char *text);
/* Prints the options of a format when "help" or "?" is among them. */
bool img_options_help(const char *fmt, const char *text, bool with_file, bool amend);
/* Waits until `done` bytes since `start` are no faster than `rate` bytes per second; 0 = no limit. */
void img_limit_rate(const struct timespec *start, uint64_t done, uint64_t rate);
/* Between pieces: a signal asked for the end; give up with -EINTR, close everything. */
bool img_stopped(void);
void img_progress(struct img *im, uint64_t done, uint64_t total);
void img_progress_end(struct img *im);

int cmd_create(struct img *im);
int cmd_info(struct img *im);
int cmd_check(struct img *im);
int cmd_resize(struct img *im);
int cmd_snapshot(struct img *im);
int cmd_amend(struct img *im);
int cmd_bitmap(struct img *im);
int cmd_convert(struct img *im);
int cmd_dd(struct img *im);
int cmd_compare(struct img *im);
int cmd_map(struct img *im);
int cmd_measure(struct img *im);
int cmd_rebase(struct img *im);
int cmd_commit(struct img *im);
int cmd_bench(struct img *im);

#endif
