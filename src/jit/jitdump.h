/* A jitdump file: translated code with its bytes and the time it was made, for `perf inject --jit`, which makes an ELF
 * file of each piece so that perf can annotate it. After jitdump-specification.txt of Linux' tools/perf, version 1.
 * Written: the header, JIT_CODE_LOAD, JIT_CODE_CLOSE. Not written: line numbers, unwinding, moves (code never moves).
 *
 * Not thread-safe: the owner locks. */
#ifndef JIT_JITDUMP_H
#define JIT_JITDUMP_H

#include "base/err.h"

enum {
    JITDUMP_MAGIC = 0x4a695444,
    JITDUMP_VERSION = 1,
    JITDUMP_HEADER = 40,
    JITDUMP_LOAD = 56, /* size of a record, without name and code */
    JITDUMP_CLOSE = 16
};
enum { JITDUMP_CODE_LOAD, JITDUMP_CODE_MOVE, JITDUMP_CODE_DEBUG_INFO, JITDUMP_CODE_CLOSE }; /* record ids */

struct jit_dump;
/* Makes jit-PID.dump in the present folder and maps its first page executable, the mark by which perf finds it. NULL:
 * errp says why. */
struct jit_dump *jit_dump_open(struct err **errp);
/* [run, run + len) has just been made; bytes: the same code where it may be read. Says once when the file cannot be
 * written further. In a child after fork() nothing is written: its code is not what perf reads the file for. */
void jit_dump_code(struct jit_dump *d, const uint8_t *run, const uint8_t *bytes, size_t len, const char *name);
/* Ends the file. NULL is fine. */
void jit_dump_close(struct jit_dump *d);

#endif
