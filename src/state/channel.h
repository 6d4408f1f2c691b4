/* Private to the room: the way a moving machine's bytes take, used from a fibre of the main loop. Nothing here waits
 * in a system call for the other side: the fibre sleeps and the loop goes on. */
#ifndef STATE_CHANNEL_H
#define STATE_CHANNEL_H

#include "run/fibre.h"
#include "run/run.h"
#include "state/state_int.h"

#include <sys/types.h>

struct channel_wait;
struct channel {
    struct state_sink sink;     /* of one opened with out */
    struct state_source source; /* of the others */
    struct run *run;            /* borrowed */
    int fd;
    pid_t child;          /* of exec:, 0 = none */
    bool regular;         /* a plain file */
    bool cancelled;       /* every wait ends and every transfer fails from here on */
    uint64_t moved;       /* bytes */
    const uint64_t *rate; /* bytes per second, 0 = no limit; borrowed */
    struct channel_wait *waiting;
    uint8_t *buf; /* owned, reading only */
    size_t at, have;
};

/* Is uri the name of such a way: exec:CMD, fd:NUMBER, file:PATH, tcp:HOST:PORT or unix:PATH? */
bool channel_uri_ok(const char *uri, struct err **errp);
/* Begins to listen (in) where uri is a socket, opens it otherwise; no waiting. */
bool channel_open(struct channel *c, struct run *r, const char *uri, bool out, struct err **errp);
/* Fibre: until the other side is there. */
bool channel_connect(struct channel *c, bool out, struct err **errp);
bool channel_is_socket(const struct channel *c);
/* Fibre: closes; false when what was written did not arrive, as far as it can be known. */
bool channel_close(struct channel *c, struct err **errp);
/* Any time, main loop. */
void channel_cancel(struct channel *c);
/* Fibre: sleeps. */
void channel_sleep(struct channel *c, int64_t ns);

#endif
