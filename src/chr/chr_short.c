/* The short spellings of -serial, -monitor, -qmp and friends, turned into the option lists of -chardev:
 * "file:log" is backend=file,path=log. Each form is parsed once, here. */
#include "base/str.h"
#include "chr/chr_int.h"

#include <stdio.h>

/* "HOST:PORT" or "[V6]:PORT" with either part possibly empty; sets host= and port=. */
static bool host_port(struct opts *o, const char *text, size_t len, const char *host_key, const char *port_key,
                      const char *form, struct err **errp)
{
    AUTOFREE char *s = xstrndup(text, len), *host = NULL;
    char *port;

    if (*s == '[') {
        char *end = strchr(s, ']');

        if (!end || end[1] != ':')
            return err_set(errp, "'%s': expected [IPV6-ADDRESS]:PORT", form);
        *end = 0;
        host = xstrdup(s + 1);
        port = end + 2;
    } else {
        port = strrchr(s, ':');
        if (!port)
            return err_set(errp, "'%s': expected HOST:PORT", form);
        *port++ = 0;
        host = xstrdup(s);
    }
    if (!*port)
        return err_set(errp, "'%s': the port number is missing", form);
    opts_set(o, host_key, host);
    opts_set(o, port_key, port);
    return true;
}

/* Appends ",key,key=val..." of a socket form. */
static bool tail(struct opts *o, const char *s, struct err **errp)
{
    struct opts *t;
    struct opt *e;

    if (!*s)
        return true;
    t = opts_parse(s + 1, NULL, errp);
    if (!t)
        return false;
    opts_each (e, t)
        opts_set(o, e->key, e->val);
    opts_free(t);
    return true;
}

static bool inet(struct opts *o, const char *rest, const char *form, const char *flag, struct err **errp)
{
    size_t len = strcspn(rest, ",");

    opts_set(o, "backend", "socket");
    if (flag)
        opts_set(o, flag, "on");
    return host_port(o, rest, len, "host", "port", form, errp) && tail(o, rest + len, errp);
}

static bool unix_form(struct opts *o, const char *rest, const char *form, struct err **errp)
{
    size_t len = strcspn(rest, ",");
    AUTOFREE char *path = xstrndup(rest, len);

    if (!*path)
        return err_set(errp, "'%s': the socket path is missing", form);
    opts_set(o, "backend", "socket");
    opts_set(o, "path", path);
    return tail(o, rest + len, errp);
}

/* udp:[HOST]:PORT[@[LOCALHOST]:LOCALPORT] */
static bool udp_form(struct opts *o, const char *rest, const char *form, struct err **errp)
{
    const char *at = strchr(rest, '@');
    size_t len = at ? (size_t)(at - rest) : strlen(rest);

    opts_set(o, "backend", "udp");
    if (!host_port(o, rest, len, "host", "port", form, errp))
        return false;
    return !at || host_port(o, at + 1, strlen(at + 1), "localaddr", "localport", form, errp);
}

static bool vc_form(struct opts *o, const char *rest, const char *form, struct err **errp)
{
    unsigned w = 0, h = 0;
    int n = 0;
    bool cells;
    AUTOFREE char *ws = NULL, *hs = NULL;

    opts_set(o, "backend", "vc");
    if (!*rest)
        return true;
    cells = sscanf(rest, ":%uCx%uC%n", &w, &h, &n) == 2 && n && !rest[n];
    if (!cells && !(sscanf(rest, ":%ux%u%n", &w, &h, &n) == 2 && n && !rest[n]))
        return err_set(errp, "'%s': expected vc:WIDTHxHEIGHT or vc:COLUMNSCxROWSC", form);
    ws = xasprintf("%u", w);
    hs = xasprintf("%u", h);
    opts_set(o, cells ? "cols" : "width", ws);
    opts_set(o, cells ? "rows" : "height", hs);
    return true;
}

static bool parse(struct opts *o, const char *form, struct err **errp)
{
    static const char *const plain[] = {"null",    "pty",   "msmouse", "wctablet", "braille",
                                        "testdev", "stdio", "ringbuf", "memory",   NULL};
    static const char *const all[] = {
        "null",    "none",  "stdio", "pty",  "vc",      "file:",  "pipe:",   "tcp:",     "telnet:",
        "tn3270:", "unix:", "udp:",  "mon:", "ringbuf", "memory", "testdev", "chardev:", NULL};
    const char *colon = strchr(form, ':');

    for (unsigned i = 0; plain[i]; i++)
        if (!strcmp(form, plain[i])) {
            opts_set(o, "backend", form);
            return true;
        }
    if (!strcmp(form, "vc") || str_starts(form, "vc:"))
        return vc_form(o, form + 2, form, errp);
    if (str_starts(form, "file:") || str_starts(form, "pipe:")) {
        opts_set(o, "backend", *form == 'f' ? "file" : "pipe");
        opts_set(o, "path", form + 5);
        return form[5] || err_set(errp, "'%s': the path is missing", form);
    }
    if (str_starts(form, "tcp:"))
        return inet(o, form + 4, form, NULL, errp);
    if (str_starts(form, "telnet:"))
        return inet(o, form + 7, form, "telnet", errp);
    if (str_starts(form, "tn3270:"))
        return inet(o, form + 7, form, "tn3270", errp);
    if (str_starts(form, "websocket:"))
        return inet(o, form + 10, form, "websocket", errp);
    if (str_starts(form, "unix:"))
        return unix_form(o, form + 5, form, errp);
    if (str_starts(form, "udp:"))
        return udp_form(o, form + 4, form, errp);
    if (str_starts(form, "/dev/parport") || str_starts(form, "/dev/ppi")) {
        opts_set(o, "backend", "parallel");
        opts_set(o, "path", form);
        return true;
    }
    if (str_starts(form, "/dev/")) {
        opts_set(o, "backend", "serial");
        opts_set(o, "path", form);
        return true;
    }
    err_set(errp, "'%s' is not a valid character device", form);
    if (colon || *form) {
        const char *near = str_nearest(form, all);

        err_hint(
            errp,
            "%s%s%sforms: null, none, stdio, mon:stdio, pty, vc, file:PATH, pipe:PATH, tcp:HOST:PORT[,server,nowait], "
            "telnet:HOST:PORT, unix:PATH[,server,nowait], udp:HOST:PORT, chardev:ID",
            near ? "did you mean '" : "", near ? near : "", near ? "'? " : "");
    }
    return false;
}

struct opts *chr_short_parse(const char *id, const char *form, bool *none, struct err **errp)
{
    struct opts *o;

    *none = !strcmp(form, "none");
    if (*none)
        return NULL;
    o = opts_new();
    if (str_starts(form, "mon:")) {
        form += 4;
        opts_set(o, "mux", "on");
        if (!strcmp(form, "stdio"))
            opts_set(o, "signal", "off");
    }
    opts_set(o, "id", id);
    if (parse(o, form, errp))
        return o;
    opts_free(o);
    return NULL;
}
