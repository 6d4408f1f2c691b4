/* Shutting an image tool in: before it looks at a byte of an image, the process gives up opening files, connecting,
 * starting programs and signalling others (Landlock without a single rule, and a seccomp list of the system calls its
 * work needs). A small process stays outside and opens for it what it may have:
 *
 *   - what the command line names, as words or inside options, or relative to the folder of such a name;
 *   - what the images so opened name in their headers (backing file, data file, VMDK extents), read by the outside
 * process itself before it hands the image over, so that nothing written later counts;
 *   - files made beside an output that is named (the extents of a split VMDK), temporary overlays.
 *
 * Reading commands get nothing for writing; where a command writes one output, only that. Not shut in, with the reason
 * in the trace: whoever names a network or folder protocol (nbd, http, ftp, fat), and builds with sanitizers. Linux
 * without Landlock keeps the system call list alone; this too is in the trace. */
#ifndef CMD_SHUT_H
#define CMD_SHUT_H

#include "base/util.h"

struct blk_set;

struct shut_plan {
    int argc;
    char **argv;         /* the command line as it was given: borrowed */
    bool writes;         /* the command may open files for writing */
    const char *target;  /* if not NULL, only what this word and -o name, and files beside it */
    bool below_writes;   /* files named by images may be written, too (commit) */
    bool bounded;        /* 1 GiB of memory and 30 s of processor time are enough (info) */
    bool serves;         /* accepts connections on sockets it has already */
    const char *gone[2]; /* may be removed at the end: sockets and PID files of ours, NULL = none */
};

struct shut;

/* Shuts the process in; from here on set reaches files through the outside process. Must run on the only thread. NULL:
 * not shut in (the trace says why); nothing needs undoing then. */
struct shut *shut_in(struct blk_set *set, const struct shut_plan *p);
/* Ends the outside process; the process itself stays shut in. NULL allowed. */
void shut_end(struct shut *s);

/* The parts, for tests. */

/* Why a command line cannot be shut in, or NULL. */
const char *shut_why_not(int argc, char **argv);
/* Names that the image behind fd gives for other files, as they stand there; *out and its strings are the caller's. */
unsigned shut_refs(int fd, char ***out);
/* The two restrictions of the calling process; what is in force as a line of text. */
const char *shut_restrict(bool serves);

#endif
