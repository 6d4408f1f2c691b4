/* The debugger's stub of a user-mode process (-g). Private to user/linux. */
#ifndef USER_LINUX_GDB_H
#define USER_LINUX_GDB_H

#include "base/str.h"
#include "user/linux/thread.h"

/* Waits for a debugger when -g was given; called once, before the first instruction. */
void lx_gdb_start(struct lx_thread *t);
void lx_gdb_before_run(struct lx_thread *t);
/* The fault in cpu->fault was the debugger's business (a breakpoint, a step) or it was told of it and swallowed it. */
bool lx_gdb_fault(struct lx_thread *t);
void lx_gdb_exit(int code); /* the process ends */
void lx_gdb_forked(void);   /* in a child */

/* gdb_file.c: the reply to a request "vFile:" + p, added to out; false: there is no such request. */
bool lx_gdb_file(const char *p, struct strbuf *out);
void lx_gdb_files_close(void); /* the debugger has gone */
#endif
