/* Error values and the lines a person sees. */
#include "base/err.h"

#include <stdio.h>

static const char *program = "lyrebird"; /* set once in main, before any thread */

static bool err_make(struct err **errp, enum err_class c, char *msg)
{
    if (!errp) {
        free(msg);
        return false;
    }
    if (*errp) { /* keep the first cause: it was nearest to the failure */
        free(msg);
        return false;
    }
    *errp = xnew(struct err);
    (*errp)->msg = msg;
    (*errp)->class_ = c;
    return false;
}

static char *format(const char *fmt, va_list ap)
{
    char *s;

    return vasprintf(&s, fmt, ap) < 0 ? xstrdup(fmt) : s;
}

bool err_set(struct err **errp, const char *fmt, ...)
{
    va_list ap;
    char *s;

    va_start(ap, fmt);
    s = format(fmt, ap);
    va_end(ap);
    return err_make(errp, ERR_GENERIC, s);
}

bool err_set_class(struct err **errp, enum err_class c, const char *fmt, ...)
{
    va_list ap;
    char *s;

    va_start(ap, fmt);
    s = format(fmt, ap);
    va_end(ap);
    return err_make(errp, c, s);
}

bool err_set_errno(struct err **errp, int errnum, const char *fmt, ...)
{
    va_list ap;
    char *s, *full;

    va_start(ap, fmt);
    s = format(fmt, ap);
    va_end(ap);
    full = xasprintf("%s: %s", s, strerror(errnum));
    free(s);
    if (errp && !*errp) {
        err_make(errp, ERR_GENERIC, full);
        (*errp)->errnum = errnum;
        return false;
    }
    return err_make(errp, ERR_GENERIC, full);
}

void err_hint(struct err **errp, const char *fmt, ...)
{
    va_list ap;

    if (!errp || !*errp)
        return;
    free((*errp)->hint);
    va_start(ap, fmt);
    (*errp)->hint = format(fmt, ap);
    va_end(ap);
}

void err_prefix(struct err **errp, const char *fmt, ...)
{
    va_list ap;
    char *pre, *full;

    if (!errp || !*errp)
        return;
    va_start(ap, fmt);
    pre = format(fmt, ap);
    va_end(ap);
    full = xasprintf("%s%s", pre, (*errp)->msg);
    free(pre);
    free((*errp)->msg);
    (*errp)->msg = full;
}

void err_move(struct err **dst, struct err *src)
{
    if (!src)
        return;
    if (!dst || *dst)
        err_free(src);
    else
        *dst = src;
}

void err_free(struct err *e)
{
    if (!e)
        return;
    free(e->msg);
    free(e->hint);
    free(e);
}

void err_freep(struct err **e)
{
    err_free(*e);
    *e = NULL;
}

/* File contents and arguments get quoted in messages: they must not break the line or drive the terminal. */
static void defuse(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            *s = '?';
}

void err_report(struct err *e)
{
    if (!e)
        return;
    defuse(e->msg);
    if (e->hint)
        defuse(e->hint);
    if (!e->hint)
        fprintf(stderr, "%s: %s\n", program, e->msg);
    else /* a hint that is a sentence keeps its capital */
        fprintf(stderr, "%s: %s%s%s\n", program, e->msg, e->hint[0] >= 'A' && e->hint[0] <= 'Z' ? ". " : "; ", e->hint);
    err_free(e);
}

void err_set_program(const char *name)
{
    program = name;
}

const char *err_program(void)
{
    return program;
}

void warn_report(const char *fmt, ...)
{
    va_list ap;
    char *s;

    va_start(ap, fmt);
    s = format(fmt, ap);
    va_end(ap);
    fprintf(stderr, "%s: warning: %s\n", program, s);
    free(s);
}

void info_report(const char *fmt, ...)
{
    va_list ap;
    char *s;

    va_start(ap, fmt);
    s = format(fmt, ap);
    va_end(ap);
    fprintf(stderr, "%s: %s\n", program, s);
    free(s);
}
