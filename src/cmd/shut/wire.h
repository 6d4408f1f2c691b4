/* What the two processes say to each other: one packet for a question, one for its answer, a descriptor beside it where
 * one goes along. */
#ifndef CMD_SHUT_WIRE_H
#define CMD_SHUT_WIRE_H

#include "cmd/shut/shut.h"

enum ask { ASK_OPEN = 1, ASK_REOPEN, ASK_KIND, ASK_TEMPORARY, ASK_UNLINK, ASK_HOLDER };
enum { WIRE_TEXT = 4096 };

struct question {
    uint32_t what;
    int32_t flags; /* ASK_HOLDER: the asker's descriptor */
    uint32_t mode;
    char text[WIRE_TEXT]; /* NUL-terminated: a path */
};
struct answer {
    int32_t ret;
    uint32_t type;
    char text[WIRE_TEXT];
};

/* fd -1: none. len counts the bytes of the packet. -errno. */
int wire_send(int sock, const void *p, size_t len, int fd);
/* Bytes received, 0 at the end, or -errno; *fd is -1 or a descriptor, the caller's. */
ssize_t wire_recv(int sock, void *p, size_t len, int *fd);

/* The life of the process outside: answers until the other end is gone. asker is its pid. */
void shut_outside(int sock, const struct shut_plan *p, int asker) NORETURN;

#endif
