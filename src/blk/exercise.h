/* The disk exerciser: commands in words ("read -P 1 0 4k") on one image, and their reports. The program qemu-io and the
 * monitor's command of that name are two users of this engine; each says where text goes, and may add commands.
 *
 * Threads: the set's loop thread. blk_ex_line may be called in a fibre or outside; outside it turns the loop until the
 * command ended. Two lines never run at a time on one struct blk_ex. */
#ifndef BLK_EXERCISE_H
#define BLK_EXERCISE_H

#include "blk/node.h"

enum { BLK_EX_WORDS = 64 };

struct blk_ex;
struct blk_ex_cmd {
    const char *name, *alias; /* alias: NULL = none */
    /* argv[0] is the command. 0, or -errno with the reason already told. */
    int (*fn)(struct blk_ex *x, int argc, char **argv);
    int min, max;        /* words after the name, options among them; max -1 = any number */
    bool need_image;     /* refused while x->n is NULL */
    bool outside_fibres; /* may hold up the image's other users, and waits for them by turning the loop */
    const char *args, *what;
};

/* Zeroed by its owner, who then fills in the first part. */
struct blk_ex {
    struct blk_set *set; /* borrowed */
    struct blk *b;       /* borrowed: a machine's handle, which requests go through; NULL: straight to the node */
    struct blk_node *n;  /* borrowed: the image, NULL = none; with b set by each line */
    void (*put)(void *opaque, bool error, const char *text);
    void (*fail)(void *opaque, struct err *e); /* takes e over */
    void *opaque;
    const struct blk_ex_cmd *own; /* borrowed: the owner's commands, by name */
    size_t nr_own;
    bool misalign; /* buffers start 16 bytes into a page */

    bool failed;          /* a request of aio_read or aio_write did */
    struct fibre *waiter; /* blk_ex_wait is here */
    unsigned in_flight;   /* aio_read, aio_write */
    uint8_t *spare; /* owned: the last command's buffer, for the next: fresh memory costs more than a read of it */
    uint64_t spare_len;
    const struct blk_ex_cmd *cmd; /* being run: its usage is told when an option is wrong */
};

/* Runs one line; an empty one does nothing. 0, or -errno with the reason told. With b all it started has ended. */
int blk_ex_line(struct blk_ex *x, const char *line);
/* In a fibre: waits for what aio_read and aio_write started. */
void blk_ex_wait(struct blk_ex *x);
void blk_ex_release(struct blk_ex *x); /* frees what the engine owns; nothing is in flight */
/* The command at place i of all, the owner's among them, in the order of their names; NULL = no more. */
const struct blk_ex_cmd *blk_ex_command(const struct blk_ex *x, size_t i);

/* For commands. */
void blk_ex_say(struct blk_ex *x, bool error, const char *fmt, ...) PRINTF_FMT(3, 4);
bool blk_ex_number(struct blk_ex *x, const char *text, uint64_t *out); /* a size up to INT64_MAX; false: told */

/* Options among words: zeroed, argc and argv filled in. What is no option gathers in word[] as blk_ex_opt goes. */
struct blk_ex_opts {
    int argc;
    char **argv;
    int at, nr;
    char *letters; /* rest of a word of options */
    char *arg;     /* of the option just returned */
    bool plain;    /* "--" was seen */
    char *word[BLK_EX_WORDS];
};
/* The next option of `known` (a letter, with ':' behind it when it takes an argument); -1 = no more; '?' = a wrong one,
 * told with the command's usage. */
int blk_ex_opt(struct blk_ex *x, struct blk_ex_opts *o, const char *known);

#endif
