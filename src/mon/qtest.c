/* The register-level test channel: ports, memory, the stepped clock and interrupt wires for a test program, without a
 * guest. Requests are words separated by blanks, answers "OK [value]" or "FAIL reason"; changes of a watched wire come
 * as lines of their own ("IRQ raise 4") before the answer to the request that caused them. */
#include "mon/qtest.h"
#include "base/str.h"
#include "dev/dev.h"

#include <errno.h>
#include <stdio.h>

enum { QTEST_MAX_LINE = 64 << 20, QTEST_MAX_WORDS = 8, QTEST_MAX_DATA = 16 << 20 };

struct qtest {
    struct machine *m;
    struct chr_fe fe;
    struct strbuf line;
    FILE *log;           /* owned or NULL */
    struct dev *watched; /* the one device whose wires are reported */
};

struct request {
    struct qtest *q;
    unsigned argc;
    char *argv[QTEST_MAX_WORDS];
};
typedef void request_fn(struct request *r);

static void reply(struct qtest *q, const char *fmt, ...) PRINTF_FMT(2, 3);
static void reply(struct qtest *q, const char *fmt, ...)
{
    va_list ap;
    char *s;
    int n;

    va_start(ap, fmt);
    n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    if (q->log)
        fprintf(q->log, "[S] %.200s", s);
    chr_fe_write(&q->fe, s, n);
    free(s);
}

static bool num(struct request *r, unsigned i, uint64_t *out)
{
    if (i < r->argc && str_to_u64(r->argv[i], out))
        return true;
    reply(r->q, "FAIL argument %u is missing or no number\n", i);
    return false;
}

static unsigned width(char c)
{
    return c == 'b' ? 1 : c == 'w' ? 2 : c == 'l' ? 4 : 8;
}

static void do_in(struct request *r)
{
    uint64_t port, v = 0;

    if (!num(r, 1, &port))
        return;
    mem_load(r->q->m->io, port & 0xffff, width(r->argv[0][2]), &v);
    reply(r->q, "OK 0x%04" PRIx64 "\n", v);
}

static void do_out(struct request *r)
{
    uint64_t port, v;

    if (!num(r, 1, &port) || !num(r, 2, &v))
        return;
    mem_store(r->q->m->io, port & 0xffff, width(r->argv[0][3]), v);
    reply(r->q, "OK\n");
}

static void do_readx(struct request *r)
{
    uint64_t addr, v = 0;

    if (!num(r, 1, &addr))
        return;
    mem_load(r->q->m->mem, addr, width(r->argv[0][4]), &v);
    reply(r->q, "OK 0x%016" PRIx64 "\n", v);
}

static void do_writex(struct request *r)
{
    uint64_t addr, v;

    if (!num(r, 1, &addr) || !num(r, 2, &v))
        return;
    mem_store(r->q->m->mem, addr, width(r->argv[0][5]), v);
    reply(r->q, "OK\n");
}

/* Address and length of a block request; NULL after a FAIL. */
static uint8_t *block(struct request *r, uint64_t *addr, uint64_t *len)
{
    uint8_t *buf;

    if (!num(r, 1, addr) || !num(r, 2, len))
        return NULL;
    buf = *len && *len <= QTEST_MAX_DATA ? try_alloc(*len, 1) : NULL;
    if (!buf)
        reply(r->q, "FAIL size must be 1 to %d\n", QTEST_MAX_DATA);
    return buf;
}

static void do_read(struct request *r)
{
    static const char hex[] = "0123456789abcdef";
    uint64_t addr, len;
    AUTOFREE uint8_t *buf = block(r, &addr, &len);
    AUTOFREE char *text = NULL;

    if (!buf)
        return;
    mem_read(r->q->m->mem, addr, buf, len);
    text = xmalloc(2 * len + 1);
    for (uint64_t i = 0; i < len; i++) {
        text[2 * i] = hex[buf[i] >> 4];
        text[2 * i + 1] = hex[buf[i] & 15];
    }
    text[2 * len] = 0;
    reply(r->q, "OK 0x%s\n", text);
}

static int nibble(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static void do_write(struct request *r)
{
    uint64_t addr, len, i;
    AUTOFREE uint8_t *buf = block(r, &addr, &len);
    const char *p = r->argc > 3 ? r->argv[3] : "";

    if (!buf)
        return;
    if (!str_starts(p, "0x")) {
        reply(r->q, "FAIL data must be 0xHEX\n");
        return;
    }
    for (i = 0, p += 2; i < len && nibble(p[0]) >= 0 && nibble(p[1]) >= 0; i++, p += 2)
        buf[i] = (uint8_t)(nibble(p[0]) << 4 | nibble(p[1]));
    /* Data shorter than the size is padded with zero bytes, which is how buf began. */
    mem_write(r->q->m->mem, addr, buf, len);
    reply(r->q, "OK\n");
}

static const char b64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void do_b64read(struct request *r)
{
    uint64_t addr, len;
    AUTOFREE uint8_t *buf = block(r, &addr, &len);
    struct strbuf out = {0};

    if (!buf)
        return;
    mem_read(r->q->m->mem, addr, buf, len);
    for (uint64_t i = 0; i < len; i += 3) {
        uint32_t v = (uint32_t)buf[i] << 16 | (i + 1 < len ? buf[i + 1] << 8 : 0) | (i + 2 < len ? buf[i + 2] : 0);
        char c[4] = {b64[v >> 18], b64[v >> 12 & 63], i + 1 < len ? b64[v >> 6 & 63] : '=',
                     i + 2 < len ? b64[v & 63] : '='};

        str_addn(&out, c, 4);
    }
    reply(r->q, "OK %s\n", out.s);
    str_free(&out);
}

static void do_b64write(struct request *r)
{
    uint64_t addr, len, n = 0;
    AUTOFREE uint8_t *buf = block(r, &addr, &len);
    uint32_t v = 0, bits = 0;

    if (!buf)
        return;
    for (const char *p = r->argc > 3 ? r->argv[3] : ""; *p && *p != '='; p++) {
        const char *at = strchr(b64, *p);

        if (!at) {
            reply(r->q, "FAIL data is not base64\n");
            return;
        }
        v = v << 6 | (uint32_t)(at - b64);
        bits += 6;
        if (bits >= 8 && n < len)
            buf[n++] = (uint8_t)(v >> (bits -= 8));
    }
    mem_write(r->q->m->mem, addr, buf, len);
    reply(r->q, "OK\n");
}

static void do_memset(struct request *r)
{
    uint64_t addr, len, byte;

    if (!num(r, 1, &addr) || !num(r, 2, &len) || !num(r, 3, &byte))
        return;
    mem_set(r->q->m->mem, addr, (int)(byte & 0xff), len);
    reply(r->q, "OK\n");
}

static void step_to(struct request *r, int64_t t)
{
    struct clk *c = r->q->m->run->virt;

    if (!r->q->m->stepped) {
        reply(r->q, "FAIL the clock is stepped only with -accel qtest\n");
        return;
    }
    if (t > clk_now(c))
        clk_step_to(c, t);
    reply(r->q, "OK %" PRIi64 "\n", clk_now(c));
}

static void do_clock_step(struct request *r)
{
    struct clk *c = r->q->m->run->virt;
    uint64_t ns;
    int64_t next = clk_next_deadline(c);

    if (r->argc > 1) {
        if (num(r, 1, &ns))
            step_to(r, clk_now(c) + (int64_t)ns);
    } else {
        step_to(r, next == INT64_MAX ? clk_now(c) : next);
    }
}

static void do_clock_set(struct request *r)
{
    uint64_t ns;

    if (num(r, 1, &ns))
        step_to(r, (int64_t)ns);
}

struct by_class {
    const char *name;
    struct dev *found;
};

static void match_class(struct dev *d, void *opaque)
{
    struct by_class *b = opaque;

    if (!b->found && !strcmp(d->obj.cls->name, b->name))
        b->found = d;
}

/* A path, or the class of a part of the board ("ioapic"). */
static struct dev *find_dev(struct request *r, unsigned i)
{
    struct obj *o = i < r->argc ? obj_resolve(r->q->m->root, r->argv[i]) : NULL;
    struct by_class b = {i < r->argc ? r->argv[i] : "", NULL};

    if (!o)
        machine_each_dev(r->q->m, match_class, &b);
    if (b.found)
        return b.found;

    if (o && obj_class_is(o->cls, "device"))
        return container_of(o, struct dev, obj);
    reply(r->q, "FAIL unknown device\n");
    return NULL;
}

static void irq_changed(void *opaque, int n, int level)
{
    struct qtest *q = opaque;

    reply(q, "IRQ %s %d\n", level ? "raise" : "lower", n);
}

static void do_intercept(struct request *r)
{
    struct dev *d = find_dev(r, 1);
    bool out = !strcmp(r->argv[0], "irq_intercept_out");

    if (!d)
        return;
    if (r->q->watched && r->q->watched != d) {
        reply(r->q, "FAIL IRQ intercept already enabled\n");
        return;
    }
    if (!r->q->watched && !dev_watch_irqs(d, r->argc > 2 ? r->argv[2] : NULL, out, irq_changed, r->q)) {
        reply(r->q, "FAIL the device has no such wires\n");
        return;
    }
    r->q->watched = d;
    reply(r->q, "OK\n");
}

static void do_set_irq(struct request *r)
{
    struct dev *d = find_dev(r, 1);
    uint64_t n, level;
    struct irq_line *l;

    if (!d || !num(r, 3, &n) || !num(r, 4, &level))
        return;
    l = dev_irq_in(d, strcmp(r->argv[2], "unnamed-gpio") ? r->argv[2] : NULL, (unsigned)n);
    if (!l) {
        reply(r->q, "FAIL the device has no such input\n");
        return;
    }
    irq_set(l, (int)level);
    reply(r->q, "OK\n");
}

static void do_endianness(struct request *r)
{
    reply(r->q, "OK little\n");
}

static void do_absent(struct request *r)
{
    reply(r->q, "FAIL %s does not exist on this machine\n", r->argv[0]);
}

static const struct {
    const char *name;
    request_fn *fn;
} requests[] = {{"inb", do_in},
                {"inw", do_in},
                {"inl", do_in},
                {"outb", do_out},
                {"outw", do_out},
                {"outl", do_out},
                {"readb", do_readx},
                {"readw", do_readx},
                {"readl", do_readx},
                {"readq", do_readx},
                {"writeb", do_writex},
                {"writew", do_writex},
                {"writel", do_writex},
                {"writeq", do_writex},
                {"read", do_read},
                {"write", do_write},
                {"b64read", do_b64read},
                {"b64write", do_b64write},
                {"memset", do_memset},
                {"clock_step", do_clock_step},
                {"clock_set", do_clock_set},
                {"irq_intercept_in", do_intercept},
                {"irq_intercept_out", do_intercept},
                {"set_irq_in", do_set_irq},
                {"endianness", do_endianness},
                {"rtas", do_absent},
                {"module_load", do_absent}};

static void serve(struct qtest *q, char *line)
{
    struct request r = {.q = q};
    char *save = NULL;

    if (q->log)
        fprintf(q->log, "[R] %.200s\n", line);
    for (char *w = strtok_r(line, " \t\r", &save); w && r.argc < QTEST_MAX_WORDS; w = strtok_r(NULL, " \t\r", &save))
        r.argv[r.argc++] = w;
    if (!r.argc)
        return;
    for (unsigned i = 0; i < ARRAY_LEN(requests); i++)
        if (!strcmp(requests[i].name, r.argv[0])) {
            requests[i].fn(&r);
            return;
        }
    reply(q, "FAIL Unknown command '%.80s'\n", r.argv[0]);
}

static void qtest_input(void *opaque, const uint8_t *buf, size_t len)
{
    struct qtest *q = opaque;
    const uint8_t *nl;

    while ((nl = memchr(buf, '\n', len))) {
        size_t n = nl - buf;

        str_addn(&q->line, buf, n);
        if (q->line.s)
            serve(q, q->line.s);
        q->line.len = 0;
        buf += n + 1;
        len -= n + 1;
    }
    if (q->line.len + len <= QTEST_MAX_LINE)
        str_addn(&q->line, buf, len);
}

static const struct chr_fe_ops qtest_ops = {.read = qtest_input};

struct qtest *qtest_new(struct machine *m, struct chr *c, const char *log, struct err **errp)
{
    struct qtest *q = xnew(struct qtest);

    q->m = m;
    if (log && strcmp(log, "none") && !(q->log = fopen(log, "we"))) {
        err_set_errno(errp, errno, "cannot open the test channel's log '%s'", log);
        free(q);
        return NULL;
    }
    if (q->log)
        setvbuf(q->log, NULL, _IOLBF, 0);
    if (!chr_fe_init(&q->fe, c, errp)) {
        if (q->log)
            fclose(q->log);
        free(q);
        return NULL;
    }
    chr_fe_set(&q->fe, &qtest_ops, q);
    return q;
}

void qtest_free(struct qtest *q)
{
    if (!q)
        return;
    chr_fe_fini(&q->fe);
    str_free(&q->line);
    if (q->log)
        fclose(q->log);
    free(q);
}
