/* Numbers of ioctl requests, of a list that the test makes (requests.h), and what /dev/null and a pipe answer to each.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <unistd.h>

#include "requests.h"

static int error_of(int fd, unsigned request)
{
    static char arg[16384];

    errno = 0;
    ioctl(fd, request, arg);
    return errno;
}

int main(void)
{
    int null = open("/dev/null", O_RDWR), p[2];

    if (pipe(p))
        return 1;
#define ONE(name)                                                                                                      \
    printf("%s %08x %d %d\n", #name, (unsigned)name, error_of(null, (unsigned)name), error_of(p[0], (unsigned)name));
    ALL(ONE)
    return 0;
}
