/* Other processes of this translator as /proc shows them to the guest. Private to user/linux and its programs. */
#ifndef USER_LINUX_PEER_H
#define USER_LINUX_PEER_H

#include "base/str.h"

enum lx_peer_what { LX_PEER_EXE, LX_PEER_CMDLINE };
/* The guest's program or its arguments, each ended by a NUL, added to out; false: pid is not run by this program, or
 * may not be seen. */
bool lx_peer(int pid, enum lx_peer_what what, struct strbuf *out);
/* Options of the translator that are followed by a value: the program's table of options must say the same. */
bool lx_peer_takes_value(const char *name);

#endif
