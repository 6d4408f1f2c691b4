/* Framing: header, sections, end mark, checksums.
 *
 * Header: "LYRSTATE", version (4), zero (4). Section: 'S', length of the name (1), name, length (8), payload, checksum
 * (8) of the payload seeded with that of the name. End: 'E', checksum of the two letters "EE". Numbers are
 * little-endian. */
#include "base/bytes.h"
#include "state/state_int.h"

static const char magic[8] = {'L', 'Y', 'R', 'S', 'T', 'A', 'T', 'E'};

static inline uint64_t mix(uint64_t h, uint64_t w)
{
    h = (h ^ w) * UINT64_C(0x9fb21c651e98df25);
    return h ^ h >> 35;
}

/* Four lanes, so that a processor can work on all at once. */
uint64_t state_sum(uint64_t seed, const void *buf, size_t len)
{
    uint64_t a = seed ^ len, b = a + 1, c = a + 2, d = a + 3;
    const uint8_t *p = buf;
    uint8_t tail[32] = {0};

    for (; len >= 32; len -= 32, p += 32) {
        a = mix(a, get_le64(p));
        b = mix(b, get_le64(p + 8));
        c = mix(c, get_le64(p + 16));
        d = mix(d, get_le64(p + 24));
    }
    if (len)
        memcpy(tail, p, len);
    a = mix(a, get_le64(tail));
    b = mix(b, get_le64(tail + 8));
    c = mix(c, get_le64(tail + 16));
    d = mix(d, get_le64(tail + 24));
    return mix(mix(mix(a, b), c), d);
}

/* ---- writing ---- */

static bool flush(struct state_writer *w, struct err **errp)
{
    size_t n = w->len;

    w->len = 0;
    return !n || w->to->write(w->to, w->buf, n, errp);
}

bool state_put(struct state_writer *w, const void *buf, size_t len, struct err **errp)
{
    const uint8_t *p = buf;

    w->total += len;
    while (len) {
        size_t n = min_u64(len, STATE_BUF - w->len);

        memcpy(w->buf + w->len, p, n);
        w->len += n;
        p += n;
        len -= n;
        if (w->len == STATE_BUF && !flush(w, errp))
            return false;
    }
    return true;
}

bool state_writer_init(struct state_writer *w, struct state_sink *to, struct err **errp)
{
    uint8_t h[16] = {0};

    *w = (struct state_writer){.to = to, .buf = try_alloc_aligned(4096, STATE_BUF)};
    if (!w->buf)
        return err_set(errp, "no memory to save the machine");
    memcpy(h, magic, sizeof magic);
    put_le32(h + 8, STATE_VERSION);
    return state_put(w, h, sizeof h, errp);
}

void state_writer_fini(struct state_writer *w)
{
    free(w->buf);
    w->buf = NULL;
}

bool state_put_section(struct state_writer *w, const char *name, const void *buf, size_t len, struct err **errp)
{
    uint8_t h[2 + STATE_MAX_NAME + 8], sum[8];
    size_t n = strlen(name);

    if (n > STATE_MAX_NAME || len > STATE_MAX_SECTION)
        return err_set(errp, "the state of '%s' is too large to be saved", name);
    h[0] = STATE_T_SECTION;
    h[1] = (uint8_t)n;
    memcpy(h + 2, name, n);
    put_le64(h + 2 + n, len);
    put_le64(sum, state_sum(state_sum(0, name, n), buf, len));
    return state_put(w, h, 2 + n + 8, errp) && state_put(w, buf, len, errp) && state_put(w, sum, sizeof sum, errp);
}

bool state_put_end(struct state_writer *w, struct err **errp)
{
    uint8_t e[9] = {STATE_T_END};

    put_le64(e + 1, state_sum(0, "EE", 2));
    return state_put(w, e, sizeof e, errp) && flush(w, errp);
}

/* ---- reading ---- */

bool state_get(struct state_reader *r, void *buf, size_t len, struct err **errp)
{
    return r->from->read(r->from, buf, len, errp);
}

bool state_read_header(struct state_reader *r, struct err **errp)
{
    uint8_t h[16];

    if (!state_get(r, h, sizeof h, errp))
        return false;
    if (memcmp(h, magic, sizeof magic))
        return err_set(errp, "this is not the saved state of a machine, or one of another program");
    if (get_le32(h + 8) != STATE_VERSION)
        return err_set(errp, "the saved state has format %u, this program reads %u", get_le32(h + 8), STATE_VERSION);
    return true;
}

bool state_get_section(struct state_reader *r, char *name, uint8_t **buf, size_t *len, struct err **errp)
{
    uint8_t n, b[8];
    uint64_t size;

    *buf = NULL;
    if (!state_get(r, &n, 1, errp) || !state_get(r, name, n, errp) || !state_get(r, b, 8, errp))
        return false;
    name[n] = 0;
    size = get_le64(b);
    if (!n || strlen(name) != n || size > STATE_MAX_SECTION)
        return err_set(errp, "the saved state is damaged: a section of %" PRIu64 " bytes", size);
    *buf = try_alloc(1, size ? size : 1);
    if (!*buf)
        return err_set(errp, "no memory for %" PRIu64 " bytes of the saved state", size);
    if (!state_get(r, *buf, size, errp) || !state_get(r, b, 8, errp))
        return false;
    if (get_le64(b) != state_sum(state_sum(0, name, n), *buf, size))
        return err_set(errp, "the saved state is damaged: the checksum of '%s' is wrong", name);
    *len = size;
    return true;
}
