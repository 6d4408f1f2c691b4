/* What /proc says of how much memory the process has, of the guest's mappings only. Private to user/linux. */
#ifndef USER_LINUX_PROC_MEM_H
#define USER_LINUX_PROC_MEM_H

#include "base/str.h"

#include <stdio.h>

/* smaps: the text of /proc/self/smaps as the guest sees it. in: the host's file of that name. */
void lx_proc_smaps_rollup(struct strbuf *out, const char *smaps, FILE *in);
void lx_proc_statm(struct strbuf *out, const char *smaps);
/* status: its amounts, and the signals that the guest ignores, handles and blocks. */
void lx_proc_status(struct strbuf *out, const char *smaps, FILE *in);

#endif
