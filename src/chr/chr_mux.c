/* One back end shared by several front ends: a serial port and a monitor on one terminal. Input goes to the front end
 * in focus; Ctrl-A is the escape key. Output of all is mixed as it comes. */
#include "chr/chr_int.h"

#include <stdio.h>

enum { ESCAPE = 0x01 };

static const char help_text[] = "\r\n"
                                "C-a h    print this help\r\n"
                                "C-a x    exit the program\r\n"
                                "C-a s    write snapshot data back to the disk images\r\n"
                                "C-a t    toggle time stamps\r\n"
                                "C-a b    send a serial break\r\n"
                                "C-a c    switch between serial ports and monitor\r\n"
                                "C-a C-a  send C-a\r\n";

static void fe_event(struct chr *c, unsigned n, enum chr_event ev)
{
    struct chr_fe *fe = n < c->nr_fe ? c->fe[n] : NULL;

    if (fe && fe->ops && fe->ops->event)
        fe->ops->event(fe->opaque, ev);
}

void chr_mux_set_focus(struct chr *c, unsigned n)
{
    if (n >= c->nr_fe || n == c->mux->focus)
        return;
    fe_event(c, c->mux->focus, CHR_MUX_OUT);
    c->mux->focus = n;
    fe_event(c, n, CHR_MUX_IN);
}

static void focus_next(struct chr *c)
{
    for (unsigned i = 1; i < c->nr_fe; i++) {
        unsigned n = (c->mux->focus + i) % c->nr_fe;

        if (c->fe[n]) {
            chr_mux_set_focus(c, n);
            return;
        }
    }
}

size_t chr_mux_room(struct chr *c)
{
    return c->nr_fe ? CHR_MUX_BUF - c->mux->in[c->mux->focus].len : 0;
}

void chr_mux_deliver(struct chr *c)
{
    unsigned n = c->mux->focus;

    if (n >= c->nr_fe)
        return;
    while (c->mux->in[n].len) {
        struct chr_fe *fe = c->fe[n];
        unsigned head = c->mux->in[n].head, part;
        size_t room;

        if (!fe || !fe->ops || !fe->ops->read)
            return;
        room = fe->ops->can_read ? fe->ops->can_read(fe->opaque) : CHR_MUX_BUF;
        part = min_u64(room, min_u64(c->mux->in[n].len, CHR_MUX_BUF - head));
        if (!part)
            return;
        c->mux->in[n].head = (head + part) % CHR_MUX_BUF;
        c->mux->in[n].len -= part;
        fe->ops->read(fe->opaque, c->mux->in[n].buf + head, part);
    }
}

static void keep(struct chr *c, uint8_t byte)
{
    unsigned n = c->mux->focus;

    if (c->mux->in[n].len == CHR_MUX_BUF)
        return;
    c->mux->in[n].buf[(c->mux->in[n].head + c->mux->in[n].len) % CHR_MUX_BUF] = byte;
    c->mux->in[n].len++;
}

static void command(struct chr *c, uint8_t key)
{
    const struct chr_hooks *h = c->set->hooks;

    switch (key) {
    case ESCAPE:
        keep(c, ESCAPE);
        break;
    case 'h':
    case '?':
        chr_class(c)->write(c, (const uint8_t *)help_text, sizeof help_text - 1);
        break;
    case 'x': {
        static const char bye[] = "lyrebird: terminated\r\n";

        chr_class(c)->write(c, (const uint8_t *)bye, sizeof bye - 1);
        if (h && h->quit)
            h->quit(c->set->hooks_opaque);
        break;
    }
    case 's':
        if (h && h->commit)
            h->commit(c->set->hooks_opaque);
        break;
    case 'b':
        chr_event(c, CHR_BREAK);
        break;
    case 'c':
        chr_mux_deliver(c);
        focus_next(c);
        break;
    case 't':
        c->mux->timestamps = !c->mux->timestamps;
        c->mux->line_start = true;
        break;
    default: /* nothing is bound to it */
        break;
    }
}

void chr_mux_input(struct chr *c, const uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (c->mux->escape) {
            c->mux->escape = false;
            command(c, buf[i]);
        } else if (buf[i] == ESCAPE) {
            c->mux->escape = true;
        } else {
            keep(c, buf[i]);
        }
    }
    chr_mux_deliver(c);
}
