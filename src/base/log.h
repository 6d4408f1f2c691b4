/* Diagnostic log (`-d ITEM`, `-D FILE`). Off by default; nothing here changes behaviour. Thread-safe. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/util.h"
#include <stdio.h>

enum log_class {
    LOG_GUEST = 1 << 0,   /* guest did something the hardware manual forbids */
    LOG_UNIMP = 1 << 1,   /* guest used something not modelled here */
    LOG_INT = 1 << 2,     /* interrupts and exceptions */
    LOG_CPU = 1 << 3,     /* registers before each block */
    LOG_EXEC = 1 << 4,    /* each block entered */
    LOG_IN_ASM = 1 << 5,  /* guest code as it is translated */
    LOG_OUT_ASM = 1 << 6, /* host code produced */
    LOG_MMU = 1 << 7,
    LOG_RESET = 1 << 8,
    LOG_PCALL = 1 << 9, /* protected-mode far transfers */
    LOG_STRACE = 1 << 10,
    LOG_TRACE = 1 << 11, /* device trace points */
    LOG_JIT = 1 << 12,   /* what the translator of user mode made, at the end */
    LOG_OP = 1 << 13,    /* the IR of each block as the front end made it */
    LOG_OP_OPT = 1 << 14 /* and as it is compiled */
};

extern unsigned log_mask; /* read it through log_on() */
static inline bool log_on(unsigned classes)
{
    return unlikely(log_mask & classes);
}
void log_set_mask(unsigned classes);
/* Adds the classes named in a comma list; false on an unknown name (*bad points at it, not terminated). */
bool log_parse_mask(const char *items, unsigned *mask, const char **bad);
/* One line per class for `-d help`. */
void log_help(FILE *out);
/* Sends the log to a file instead of standard error; false with errno set. */
bool log_set_file(const char *path);
void log_write(unsigned class_, const char *fmt, ...) PRINTF_FMT(2, 3);

#define log_at(class_, ...)                                                                                            \
    do {                                                                                                               \
        if (log_on(class_))                                                                                            \
            log_write(class_, __VA_ARGS__);                                                                            \
    } while (0)
#define log_guest(...) log_at(LOG_GUEST, __VA_ARGS__)
#define log_unimp(...) log_at(LOG_UNIMP, __VA_ARGS__)
#define log_trace(...) log_at(LOG_TRACE, __VA_ARGS__)

#endif
