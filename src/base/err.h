/* Errors of configuration and set-up: a value that says what, why and, where known, the remedy.
 *
 * A function that can fail takes `struct err **errp` last and returns bool (or a pointer, or -1). errp may be
 * NULL when the caller does not care. *errp must be NULL on entry. Whoever receives the error owns it and
 * frees it with err_free(), moves it on with err_move(), or prints it. Make one message per failure, where it
 * is understood; lower layers on I/O paths return -errno instead. Not thread-safe per object. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include "base/util.h"
#include <stdarg.h>

/* QMP error classes; everything is ERR_GENERIC unless a client depends on the class. */
enum err_class {
    ERR_GENERIC,
    ERR_COMMAND_NOT_FOUND,
    ERR_DEVICE_NOT_ACTIVE,
    ERR_DEVICE_NOT_FOUND,
    ERR_KVM_MISSING_CAP,
};

struct err {
    char *msg;  /* owned, one line, no trailing full stop or newline */
    char *hint; /* owned or NULL: the next step */
    enum err_class class_;
    int errnum; /* of err_set_errno; 0: the failure was not the host system's */
};

/* Each returns false, so that `return err_set(errp, ...)` reads well. */
bool err_set(struct err **errp, const char *fmt, ...) PRINTF_FMT(2, 3);
bool err_set_class(struct err **errp, enum err_class c, const char *fmt, ...) PRINTF_FMT(3, 4);
/* Appends ": " and strerror(errnum). */
bool err_set_errno(struct err **errp, int errnum, const char *fmt, ...) PRINTF_FMT(3, 4);
/* Adds to an error that is set; nothing when errp or *errp is NULL. */
void err_hint(struct err **errp, const char *fmt, ...) PRINTF_FMT(2, 3);
void err_prefix(struct err **errp, const char *fmt, ...) PRINTF_FMT(2, 3);
/* Hands src (may be NULL) to *dst; frees it when dst is NULL or already holds an error. */
void err_move(struct err **dst, struct err *src);
void err_free(struct err *e);
void err_freep(struct err **e); /* for CLEANUP(err_freep) */
/* Prints "<program>: msg; hint" to standard error as one line, then frees e. */
void err_report(struct err *e);
/* The name put before messages; set once in main. The string is borrowed. */
void err_set_program(const char *name);
const char *err_program(void);
/* A warning on standard error, "<program>: warning: ..."; and an information line. */
void warn_report(const char *fmt, ...) PRINTF_FMT(1, 2);
void info_report(const char *fmt, ...) PRINTF_FMT(1, 2);

#endif
