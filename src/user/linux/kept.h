/* Kept translations: what one process translated, the next one finds on disk.
 *
 * Files. One file per executable mapping: its name is made from this program's build id, the guest's architecture and
 * CPU model, the host's CPU features, the first page and the size of the mapped file, and the address it is mapped at.
 * They lie in $LYREBIRD_TCACHE (a folder; "off": nothing is kept), else $XDG_CACHE_HOME/lyrebird, else
 * $HOME/.cache/lyrebird. Where none of these can be made, with -one-insn-per-tb, -g and -d exec, and in programs that
 * gain rights by being executed, nothing is kept. $LYREBIRD_TCACHE_MIB bounds the folder (512).
 *
 * Addresses. Code is kept with the guest addresses it was made for, so that libraries must lie at the same place each
 * time: 64-bit guests' libraries are placed by their size and a secret of the folder (`seed`) instead of at random per
 * process. 32-bit guests' always are.
 *
 * What is believed. A file must belong to the user and be writable by nobody else, as must the folder: who can write
 * there could as well trace the process. Beyond that nothing is: each record has a checksum, every number in it is
 * bounded, and its guest bytes are compared with those in memory before its code is used, so that a changed program, a
 * cut or damaged file or a chance equality of names costs a translation and nothing else.
 *
 * Writers. A file is never changed: a process that ends having translated enough anew (beside what the file has) writes
 * a new one, with the old one's records, and renames it into place. Several at once: one writes, the others do not.
 *
 * Calls are made with the cache's lock held unless they say otherwise. k may be NULL: nothing is kept. */
#ifndef USER_LINUX_KEPT_H
#define USER_LINUX_KEPT_H

#include "user/linux/run.h"

struct lx_kept;
/* Looks for the folder; what: the guest's architecture and CPU model. NULL: nothing is kept. */
struct lx_kept *lx_kept_open(const char *what);
/* Where a private mapping of len bytes that the guest leaves to us should go; 0: anywhere. Any thread, no lock. */
uint64_t lx_kept_place(const struct lx_kept *k, uint64_t len);
/* [start, start + len) now shows an executable private mapping of fd from off. Takes the lock itself. */
void lx_kept_mapped(struct lx_rt *rt, uint64_t start, uint64_t len, int fd, uint64_t off);
/* The kept block for (pc, mode), at most avail guest bytes long, into b and out. Reads guest memory and the file, so
 * either may fault: inside lx_guarded. */
bool lx_kept_find(struct lx_rt *rt, uint64_t pc, unsigned mode, size_t avail, uint32_t first_link, struct jit_buf *b,
                  struct jit_block_out *out);
/* The block was translated into b: to be kept later. */
void lx_kept_note(struct lx_rt *rt, struct jit_block *blk, const struct jit_buf *b);
/* Writes what is worth it; before the process ends or executes another program. Takes the lock itself. */
void lx_kept_save(struct lx_rt *rt);
/* In the child after fork: what was translated so far is the parent's to keep. */
void lx_kept_forked(struct lx_rt *rt);

#endif
