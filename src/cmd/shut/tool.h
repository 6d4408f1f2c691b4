/* What the image tools share of shutting themselves in: the trace option. */
#ifndef CMD_SHUT_TOOL_H
#define CMD_SHUT_TOOL_H

#include "cmd/shut/shut.h"

/* -T/--trace PATTERN of a tool; reports and returns false when it names nothing. */
bool shut_trace_option(const char *pattern);
/* A copy of the argument pointers, for what takes words out of the list. Caller frees. */
char **shut_argv_copy(int argc, char **argv);

#endif
