/* One line for each call: what it returned, errno when it failed. What differs between runs is said as true or false.
 */
#ifndef SAID_H
#define SAID_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void said(const char *what, long r)
{
    printf("%s: %ld %d\n", what, r, r == -1 ? errno : 0);
    fflush(stdout);
}
/* A descriptor or an address: only whether. */
static void said_if(const char *what, long r)
{
    said(what, r == -1 ? -1 : r != 0 || !strncmp(what, "fd", 2));
}
#define SAY(e)    (errno = 0, said(#e, (long)(e)))
#define SAY_IF(e) (errno = 0, said_if(#e, (long)(e)))
#endif
