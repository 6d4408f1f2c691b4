/* Private to the room: the framing of a stream, and memory. */
#ifndef STATE_STATE_INT_H
#define STATE_STATE_INT_H

#include "state/state.h"

enum {
    STATE_VERSION = 1,
    STATE_BUF = 4 << 20,          /* bytes gathered before they go out, so that the sink sees large aligned writes */
    STATE_MAX_SECTION = 64 << 20, /* payload of one section */
    STATE_MAX_HELD = 256 << 20,   /* payloads of all sections */
    STATE_MAX_SECTIONS = 65536,
    STATE_MAX_NAME = 255,
    STATE_RUN_PAGES = 256, /* of one piece of memory */
    STATE_PAGE = 4096
};
/* What comes next in a stream. */
enum state_tag {
    STATE_T_SECTION = 'S',
    STATE_T_MEMORY = 'M',
    STATE_T_PAGES = 'P',
    STATE_T_ZERO = 'Z',
    STATE_T_END = 'E'
};

struct state_writer {
    struct state_sink *to; /* borrowed */
    uint8_t *buf;          /* owned: STATE_BUF bytes */
    size_t len;
    uint64_t total; /* bytes given so far */
};
struct state_reader {
    struct state_source *from; /* borrowed */
};

/* ---- stream.c ---- */
bool state_writer_init(struct state_writer *w, struct state_sink *to, struct err **errp); /* writes the header */
bool state_put(struct state_writer *w, const void *buf, size_t len, struct err **errp);
bool state_put_section(struct state_writer *w, const char *name, const void *buf, size_t len, struct err **errp);
bool state_put_end(struct state_writer *w, struct err **errp); /* and sends out what is gathered */
void state_writer_fini(struct state_writer *w);
bool state_read_header(struct state_reader *r, struct err **errp);
bool state_get(struct state_reader *r, void *buf, size_t len, struct err **errp);
/* The rest of a section after its tag. name: STATE_MAX_NAME + 1 bytes; *buf is the caller's to free. */
bool state_get_section(struct state_reader *r, char *name, uint8_t **buf, size_t *len, struct err **errp);

/* ---- snap.c ---- */
void state_settle(struct machine *m, struct blk_set *s); /* requests under way end, and what their end starts */

/* ---- memory.c ---- */
bool state_put_memory(struct state_writer *w, struct machine *m, struct err **errp);
/* Memory as it is read: which blocks exist and which pages have come. */
struct state_memory;
struct state_memory *state_memory_new(struct machine *m, struct err **errp);
void state_memory_free(struct state_memory *t);
/* The rest of a memory record after its tag. */
bool state_get_memory(struct state_reader *r, struct state_memory *t, enum state_tag tag, struct err **errp);
/* The stream has ended: what never came is zero. False when a block was left out. */
bool state_memory_end(struct state_memory *t, struct err **errp);
bool state_page_is_zero(const void *page);

#endif
