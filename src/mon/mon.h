/* Monitors: QMP for programs, HMP for people, each on a character device. Machine lock held, main loop only.
 *
 * A set belongs to one machine and holds what its monitors share (descriptors handed over, the event feed). */
#ifndef MON_MON_H
#define MON_MON_H

#include "board/board.h"

struct state_move;

/* The release of the existing system whose commands and replies these are; clients compare it. */
enum { MON_QEMU_MAJOR = 7, MON_QEMU_MINOR = 2, MON_QEMU_MICRO = 0 };

enum mon_mode { MON_HMP, MON_QMP };
struct mon_cfg {       /* all borrowed */
    struct machine *m; /* NULL: a program that only has disks; then the next three are set */
    struct run *run;
    void (*quit)(void *opaque);
    void *opaque;
    struct chr_set *chrs;
    struct net_set *nets;
    struct blk_set *blks;
    struct state_move *move;
    const struct board_class *board;
    struct board_cfg *cfg;
    const char *arch;       /* "x86_64" */
    const char *accel_line; /* which accelerator and why, for info status */
};
struct mon_set;
struct mon_set *mon_set_new(const struct mon_cfg *c);
void mon_set_free(struct mon_set *s); /* NULL is allowed */
/* Puts a monitor on c. */
bool mon_add(struct mon_set *s, struct chr *c, enum mon_mode mode, bool pretty, struct err **errp);
/* -object and object-add: class from "qom-type", "id", the rest properties. */
bool mon_object_add(struct machine *m, struct opts *o, struct err **errp);

#endif
