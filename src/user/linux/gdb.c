/* The debugger's stub of a user-mode process (-g PORT or -g PATH), after "GDB Remote Serial Protocol" of the GDB
 * manual.
 *
 * While a debugger is attached every instruction is a block of its own and comes past lx_gdb_before_run, where
 * breakpoints, watched memory (noticed when its value has changed) and single steps are looked at. All threads wait
 * while one is stopped. Children of fork run free. Not here: record, tracepoints, watching reads, non-stop mode. */
#include "user/linux/gdb.h"
#include "base/log.h"
#include "base/str.h"
#include "base/util.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MAX_PACKET = 16384, MAX_POINTS = 256, MAX_WATCH = 16, POLL_EVERY = 4096 };

static struct {
    pthread_mutex_t lock;          /* held by the thread that talks to the debugger */
    int fd;                        /* 0 or less: none */
    bool no_ack, stepping, multi;  /* multi: thread ids are "p<process>.<thread>" */
    struct lx_thread *step, *look; /* the thread to step (NULL: any); the one whose registers are asked for */
    uint64_t points[MAX_POINTS];
    unsigned nr_points;
    struct watch {
        uint64_t at, old;
        unsigned len;
    } watch[MAX_WATCH];
    unsigned nr_watch;
    uint64_t skip; /* the breakpoint just stopped at, not to be met again at once */
    unsigned count;
    int resume_sig;
    _Atomic bool wanted; /* someone is stopped: others come and wait */
} g;

/* ---- packets ---- */

static int get_byte(void)
{
    unsigned char c;

    return recv(g.fd, &c, 1, 0) == 1 ? c : -1;
}

static unsigned hex(int c)
{
    return c >= '0' && c <= '9'   ? (unsigned)c - '0'
           : c >= 'a' && c <= 'f' ? (unsigned)c - 'a' + 10
           : c >= 'A' && c <= 'F' ? (unsigned)c - 'A' + 10
                                  : 0;
}

/* False: the debugger has gone. */
static bool get_packet(char *buf)
{
    for (;;) {
        unsigned char sum = 0;
        size_t n = 0;
        int c, a, b;

        while ((c = get_byte()) != '$')
            if (c < 0)
                return false;
        while ((c = get_byte()) != '#') {
            if (c < 0)
                return false;
            sum = (unsigned char)(sum + c);
            if (n < MAX_PACKET - 1)
                buf[n++] = (char)c;
        }
        buf[n] = 0;
        a = get_byte();
        b = get_byte();
        if (a < 0 || b < 0)
            return false;
        if (g.no_ack)
            return true;
        if (hex(a) * 16 + hex(b) == sum)
            return send(g.fd, "+", 1, MSG_NOSIGNAL) == 1;
        send(g.fd, "-", 1, MSG_NOSIGNAL);
    }
}

static void put_packet(const char *text, size_t n)
{
    struct strbuf s = {0};
    unsigned char sum = 0;

    str_add(&s, "$");
    for (size_t i = 0; i < n; i++)
        sum = (unsigned char)(sum + (unsigned char)text[i]);
    str_addn(&s, text, n);
    str_addf(&s, "#%02x", sum);
    for (size_t done = 0; done < s.len;) {
        ssize_t k = send(g.fd, s.s + done, s.len - done, MSG_NOSIGNAL);

        if (k <= 0)
            break;
        done += (size_t)k;
    }
    str_free(&s);
}

static void put_text(const char *text)
{
    put_packet(text, strlen(text));
}

static void add_hex(struct strbuf *s, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        str_addf(s, "%02x", p[i]);
}

static size_t from_hex(const char *text, uint8_t *out, size_t max)
{
    size_t n = 0;

    for (; n < max && text[0] && text[1]; text += 2)
        out[n++] = (uint8_t)(hex(text[0]) << 4 | hex(text[1]));
    return n;
}

static void put_strbuf(struct strbuf *s)
{
    put_packet(s->s ? s->s : "", s->len);
    str_free(s);
}

static void add_id(struct strbuf *s, int tid)
{
    if (g.multi)
        str_addf(s, "p%x.", (unsigned)getpid());
    str_addf(s, "%x", (unsigned)tid);
}

static void stop_reply(struct lx_thread *t, int sig, const struct watch *w)
{
    struct strbuf s = {0};

    str_addf(&s, "T%02xthread:", (unsigned)sig);
    add_id(&s, t->tid);
    str_add(&s, ";");
    if (w)
        str_addf(&s, "watch:%" PRIx64 ";", w->at);
    put_strbuf(&s);
}

/* ---- the requests ---- */

static void read_regs(void)
{
    const struct lx_arch *ar = lx_proc.arch;
    struct strbuf s = {0};
    uint8_t buf[64];

    for (unsigned i = 0; i < ar->gdb_regs; i++)
        add_hex(&s, buf, ar->gdb_get(g.look->cpu, i, buf));
    put_strbuf(&s);
}

static void write_regs(const char *p)
{
    const struct lx_arch *ar = lx_proc.arch;
    uint8_t buf[64];

    for (unsigned i = 0; i < ar->gdb_regs && *p; i++) {
        unsigned n = ar->gdb_get(g.look->cpu, i, buf);

        from_hex(p, buf, n);
        ar->gdb_set(g.look->cpu, i, buf);
        p += strnlen(p, 2 * (size_t)n);
    }
    put_text("OK");
}

static void one_reg(const char *p, bool set)
{
    char *end;
    unsigned n = (unsigned)strtoul(p, &end, 16);
    struct strbuf s = {0};
    uint8_t buf[64] = {0};

    if (set) {
        from_hex(*end ? end + 1 : end, buf, sizeof buf);
        put_text(lx_proc.arch->gdb_set(g.look->cpu, n, buf) ? "OK" : "E01");
        return;
    }
    n = lx_proc.arch->gdb_get(g.look->cpu, n, buf);
    if (!n) {
        put_text("E01");
        return;
    }
    add_hex(&s, buf, n);
    put_strbuf(&s);
}

static void read_mem(const char *p)
{
    char *end;
    uint64_t at = strtoull(p, &end, 16), n = *end ? strtoull(end + 1, NULL, 16) : 0, got = 0;
    struct strbuf s = {0};
    uint8_t b[MAX_PACKET / 4];

    n = min_u64(n, sizeof b);
    while (got < n) { /* as far as it is mapped */
        uint64_t k = min_u64(n - got, 4096 - ((at + got) & 4095));

        if (!lx_get(b + got, at + got, k))
            break;
        got += k;
    }
    if (n && !got) {
        put_text("E14");
        return;
    }
    add_hex(&s, b, got);
    put_strbuf(&s);
}

static void write_mem(const char *p)
{
    char *end;
    uint64_t at = strtoull(p, &end, 16), n = *end ? strtoull(end + 1, &end, 16) : 0;
    uint8_t b[MAX_PACKET / 2];

    n = min_u64(n, sizeof b);
    if (*end != ':' || from_hex(end + 1, b, n) != n || !lx_put(at, b, n))
        put_text("E14");
    else
        put_text("OK");
}

static void point(const char *p, bool set)
{
    char *end, kind = p[0];
    uint64_t at = strtoull(p + 2, &end, 16), len = *end ? strtoull(end + 1, NULL, 16) : 0;
    unsigned i;

    if (kind == '0' || kind == '1') {
        for (i = 0; i < g.nr_points && g.points[i] != at; i++)
            ;
        if (set && i == g.nr_points && i < MAX_POINTS)
            g.points[g.nr_points++] = at;
        else if (!set && i < g.nr_points)
            g.points[i] = g.points[--g.nr_points];
        put_text(set && i == MAX_POINTS ? "E0c" : "OK");
        return;
    }
    if (kind != '2') { /* reads cannot be noticed */
        put_text("");
        return;
    }
    for (i = 0; i < g.nr_watch && g.watch[i].at != at; i++)
        ;
    if (set && i < MAX_WATCH && len && len <= 8) {
        g.watch[i] = (struct watch){.at = at, .len = (unsigned)len};
        lx_get(&g.watch[i].old, at, len);
        g.nr_watch += i == g.nr_watch;
    } else if (!set && i < g.nr_watch) {
        g.watch[i] = g.watch[--g.nr_watch];
    }
    put_text("OK");
}

/* "annex:offset,length" of a whole object. */
static void transfer(const char *args, const char *data, size_t n)
{
    const char *colon = strchr(args, ':');
    char *end;
    uint64_t off, len;
    struct strbuf s = {0};

    if (!colon || !data) {
        put_text("E00");
        return;
    }
    off = strtoull(colon + 1, &end, 16);
    len = *end ? strtoull(end + 1, NULL, 16) : 0;
    off = min_u64(off, n);
    len = min_u64(min_u64(len, n - off), MAX_PACKET / 4);
    str_add(&s, off + len < n ? "m" : "l");
    for (size_t i = 0; i < len; i++) {
        char c = data[off + i];

        if (c == '}' || c == '#' || c == '$' || c == '*')
            str_addf(&s, "}%c", c ^ 0x20);
        else
            str_addn(&s, &c, 1);
    }
    put_strbuf(&s);
}

static void threads(void)
{
    struct strbuf s = {0};

    pthread_mutex_lock(&lx_proc.lock);
    for (struct lx_thread *t = lx_proc.threads; t; t = t->next)
        if (!t->sharing)
            str_add(&s, s.len ? "," : "m"), add_id(&s, t->tid);
    pthread_mutex_unlock(&lx_proc.lock);
    put_strbuf(&s);
}

static struct lx_thread *thread_by(const char *p, struct lx_thread *other)
{
    const char *dot = p[0] == 'p' ? strchr(p, '.') : NULL;
    long id = strtol(dot ? dot + 1 : p, NULL, 16);
    struct lx_thread *t;

    pthread_mutex_lock(&lx_proc.lock);
    for (t = lx_proc.threads; t && t->tid != id; t = t->next)
        ;
    pthread_mutex_unlock(&lx_proc.lock);
    return id <= 0 ? other : t;
}

static void query(struct lx_thread *t, const char *p)
{
    const char *xml;
    char text[160];

    if (str_starts(p, "qSupported")) {
        g.multi = strstr(p, "multiprocess+");
        snprintf(text, sizeof text,
                 "PacketSize=%x;QStartNoAckMode+;multiprocess+;qXfer:features:read+;qXfer:auxv:read+;"
                 "qXfer:exec-file:read+",
                 MAX_PACKET - 1);
        put_text(text);
    } else if (str_starts(p, "qXfer:features:read:")) {
        xml = lx_proc.arch->gdb_xml("target.xml");
        if (!str_starts(p + 20, "target.xml:")) {
            char annex[64];

            snprintf(annex, sizeof annex, "%.*s", (int)strcspn(p + 20, ":"), p + 20);
            xml = lx_proc.arch->gdb_xml(annex);
        }
        transfer(p + 20, xml, xml ? strlen(xml) : 0);
    } else if (str_starts(p, "qXfer:auxv:read:")) {
        transfer(p + 16, (const char *)(uintptr_t)lx_proc.auxv, lx_proc.auxv_len);
    } else if (str_starts(p, "qXfer:exec-file:read:")) {
        transfer(p + 21, lx_proc.exe, strlen(lx_proc.exe));
    } else if (!strcmp(p, "qC")) {
        struct strbuf s = {0};

        str_add(&s, "QC");
        add_id(&s, t->tid);
        put_strbuf(&s);
    } else if (str_starts(p, "qAttached")) {
        put_text("0");
    } else if (!strcmp(p, "qfThreadInfo")) {
        threads();
    } else if (!strcmp(p, "qsThreadInfo")) {
        put_text("l");
    } else {
        put_text("");
    }
}

static void detach(void)
{
    lx_gdb_files_close();
    close(g.fd);
    g.fd = -1;
    g.nr_points = g.nr_watch = 0;
    g.stepping = false;
    lx_proc.rt->single = false; /* code goes on one instruction at a time, but without coming here */
}

/* c, s, C sig, S sig and the vCont forms: true = the program goes on. */
static bool go_on(struct lx_thread *t, const char *p)
{
    g.stepping = p[0] == 's' || p[0] == 'S';
    g.step = g.stepping ? t : NULL;
    g.resume_sig = p[0] == 'C' || p[0] == 'S' ? (int)strtol(p + 1, NULL, 16) : 0;
    return true;
}

static void file_request(const char *p)
{
    struct strbuf s = {0};

    lx_gdb_file(p, &s);
    put_strbuf(&s);
}

/* One request; true = the program goes on. */
static bool serve(struct lx_thread *t, const char *p, int sig)
{
    switch (p[0]) {
    case '?':
        stop_reply(t, sig, NULL);
        return false;
    case 'g':
        read_regs();
        return false;
    case 'G':
        write_regs(p + 1);
        return false;
    case 'p':
    case 'P':
        one_reg(p + 1, p[0] == 'P');
        return false;
    case 'm':
        read_mem(p + 1);
        return false;
    case 'M':
        write_mem(p + 1);
        return false;
    case 'Z':
    case 'z':
        point(p + 1, p[0] == 'Z');
        return false;
    case 'H':
        if (p[1] == 'g')
            g.look = thread_by(p + 2, t) ? thread_by(p + 2, t) : t;
        put_text("OK");
        return false;
    case 'T':
        put_text(thread_by(p + 1, NULL) ? "OK" : "E01");
        return false;
    case 'c':
    case 's':
    case 'C':
    case 'S':
        return go_on(t, p);
    case 'v':
        if (!strcmp(p, "vCont?"))
            put_text("vCont;c;C;s;S");
        else if (str_starts(p, "vCont;"))
            return go_on(t, p + 6);
        else if (str_starts(p, "vKill"))
            lx_exit_process(137);
        else if (str_starts(p, "vFile:"))
            file_request(p + 6);
        else
            put_text("");
        return false;
    case 'D':
        put_text("OK");
        detach();
        return true;
    case 'k':
        lx_exit_process(137);
    case 'Q':
        if (!strcmp(p, "QStartNoAckMode")) {
            put_text("OK");
            g.no_ack = true;
        } else {
            put_text("");
        }
        return false;
    case 'q':
        query(t, p);
        return false;
    default:
        put_text("");
        return false;
    }
}

/* With the lock held: reports the stop (unless it is the first one) and serves until the program goes on. */
static void stopped(struct lx_thread *t, int sig, const struct watch *w, bool report)
{
    char *buf = xmalloc(MAX_PACKET);

    g.wanted = true;
    g.look = t;
    g.stepping = false;
    g.resume_sig = 0;
    if (report)
        stop_reply(t, sig, w);
    for (;;) {
        if (!get_packet(buf)) {
            detach();
            break;
        }
        if (serve(t, buf, sig))
            break;
    }
    g.skip = lx_proc.arch->get(t->cpu, LX_PC);
    g.wanted = false;
    free(buf);
}

/* ---- the run loop's side ---- */

static const struct watch *changed(void)
{
    for (unsigned i = 0; i < g.nr_watch; i++) {
        uint64_t v = 0;

        if (lx_get(&v, g.watch[i].at, g.watch[i].len) && v != g.watch[i].old) {
            g.watch[i].old = v;
            return &g.watch[i];
        }
    }
    return NULL;
}

static bool at_point(uint64_t pc)
{
    for (unsigned i = 0; i < g.nr_points; i++)
        if (g.points[i] == pc)
            return pc != g.skip;
    return false;
}

static bool interrupted(void)
{
    struct pollfd p = {.fd = g.fd, .events = POLLIN};
    char c;

    return !(g.count++ % POLL_EVERY) && poll(&p, 1, 0) == 1 && (recv(g.fd, &c, 1, MSG_DONTWAIT) == 0 || c == 3);
}

void lx_gdb_before_run(struct lx_thread *t)
{
    uint64_t pc = lx_proc.arch->get(t->cpu, LX_PC);
    const struct watch *w = NULL;
    int sig = 0;

    if (g.fd <= 0 || t->sharing)
        return;
    pthread_mutex_lock(&g.lock);
    if (g.fd > 0) {
        if (g.stepping && g.step == t && pc != g.skip)
            sig = SIGTRAP;
        else if (at_point(pc) || (g.nr_watch && (w = changed())))
            sig = SIGTRAP;
        else if (interrupted())
            sig = SIGINT;
        else
            g.skip = g.stepping ? g.skip : 0;
        if (sig)
            stopped(t, sig, w, true);
    }
    pthread_mutex_unlock(&g.lock);
}

bool lx_gdb_fault(struct lx_thread *t)
{
    int sig = t->cpu->fault.sig;
    bool swallow = false;

    if (g.fd <= 0 || t->sharing)
        return false;
    pthread_mutex_lock(&g.lock);
    if (g.fd > 0) {
        stopped(t, sig, NULL, true);
        swallow = g.fd > 0 && g.resume_sig != sig;
    }
    pthread_mutex_unlock(&g.lock);
    return swallow;
}

void lx_gdb_exit(int code)
{
    char text[40];

    if (g.fd <= 0)
        return;
    if (g.multi)
        snprintf(text, sizeof text, "W%02x;process:%x", code & 0xff, (unsigned)getpid());
    else
        snprintf(text, sizeof text, "W%02x", code & 0xff);
    put_text(text);
    close(g.fd);
    g.fd = -1;
}

void lx_gdb_forked(void)
{
    if (g.fd > 0)
        close(g.fd);
    g.fd = -1;
    lx_proc.rt->single = false;
}

static int listen_on(struct err **errp)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)lx_proc.opt.gdb_port)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    bool path = lx_proc.opt.gdb_path;
    int fd = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, r;

    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (path) {
        snprintf(un.sun_path, sizeof un.sun_path, "%s", lx_proc.opt.gdb_path);
        unlink(un.sun_path);
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    r = path ? bind(fd, (struct sockaddr *)&un, sizeof un) : bind(fd, (struct sockaddr *)&in, sizeof in);
    if (fd < 0 || r < 0 || listen(fd, 1) < 0) {
        err_set_errno(errp, errno, "-g: cannot listen");
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

void lx_gdb_start(struct lx_thread *t)
{
    struct err *e = NULL;
    int fd, one = 1;

    if (!lx_proc.opt.gdb_port && !lx_proc.opt.gdb_path)
        return;
    if (!lx_proc.arch->gdb_xml || !lx_proc.arch->gdb_get)
        err_set(&e, "-g: there is no debugger's view of %s here", lx_proc.arch->name);
    fd = e ? -1 : listen_on(&e);
    if (fd < 0) {
        err_report(e);
        lx_exit_process(1);
    }
    pthread_mutex_init(&g.lock, NULL);
    while ((g.fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC)) < 0 && errno == EINTR)
        ;
    close(fd);
    setsockopt(g.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    lx_proc.rt->one_insn = lx_proc.rt->no_link = lx_proc.rt->single = true;
    pthread_mutex_lock(&g.lock);
    stopped(t, SIGTRAP, NULL, false);
    pthread_mutex_unlock(&g.lock);
}
