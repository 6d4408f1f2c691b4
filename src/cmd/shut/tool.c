/* See tool.h. */
#include "cmd/shut/tool.h"
#include "base/err.h"
#include "base/log.h"
#include "base/str.h"
#include <fnmatch.h>
#include <stdio.h>

bool shut_trace_option(const char *pattern)
{
    if (str_starts(pattern, "enable="))
        pattern += 7;
    if (fnmatch(pattern, "sandbox", 0) != 0) {
        fprintf(stderr, "%s: no trace event is called '%s'; there is: sandbox\n", err_program(), pattern);
        return false;
    }
    log_set_mask(log_mask | LOG_TRACE);
    return true;
}

char **shut_argv_copy(int argc, char **argv)
{
    char **copy = xcalloc((size_t)argc + 1, sizeof *copy);

    memcpy(copy, argv, (size_t)argc * sizeof *copy);
    return copy;
}
