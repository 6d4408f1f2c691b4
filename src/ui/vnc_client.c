/* One VNC connection: RFC 6143 handshake, security types None and VNC authentication, client messages, updates. Input
 * from the peer is bounded: a message waits in `in` until its fixed part and counted part are there; cut text is
 * skipped. The QEMU extended key message (scan codes) is understood, as clients send it when it is offered. */
#include "ui/keys.h"
#include "ui/vnc_int.h"
#include <errno.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum { SEC_NONE = 1, SEC_VNC = 2 };
enum { MSG_FORMAT = 0, MSG_ENCODINGS = 2, MSG_UPDATE = 3, MSG_KEY = 4, MSG_POINTER = 5, MSG_CUT = 6, MSG_QEMU = 255 };
enum { MAX_OUT = 32 << 20 };

/* ---- output ---- */

void vnc_put(struct vnc_client *c, const void *p, size_t n)
{
    str_addn(&c->out, p, n);
}
void vnc_put_u8(struct vnc_client *c, unsigned v)
{
    uint8_t b = (uint8_t)v;

    vnc_put(c, &b, 1);
}
void vnc_put_u16(struct vnc_client *c, unsigned v)
{
    uint8_t b[2];

    put_be16(b, (uint16_t)v);
    vnc_put(c, b, 2);
}
void vnc_put_u32(struct vnc_client *c, uint32_t v)
{
    uint8_t b[4];

    put_be32(b, v);
    vnc_put(c, b, 4);
}

static void flush(struct vnc_client *c)
{
    while (c->out_off < c->out.len) {
        ssize_t n = write(c->fd, c->out.s + c->out_off, c->out.len - c->out_off);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            c->closing = true;
        if (n < 0)
            break;
        c->out_off += (size_t)n;
    }
    if (c->out_off == c->out.len)
        c->out.len = c->out_off = 0;
    ev_fd_set(c->watch, EV_IN | (c->out.len ? EV_OUT : 0));
}

/* ---- security ---- */

static size_t msg_any(struct vnc_client *c, const uint8_t *m, size_t len);

static void expect(struct vnc_client *c, vnc_msg_fn *fn, size_t need)
{
    c->handler = fn;
    c->need = need;
}

static void set_native_format(struct vnc_client *c)
{
    c->fmt = (struct vnc_format){
        .bpp = 32, .true_color = true, .rmax = 255, .gmax = 255, .bmax = 255, .rshift = 16, .gshift = 8};
    c->fmt_native = true;
}

static size_t msg_init(struct vnc_client *c, const uint8_t *m, size_t len)
{
    static const uint8_t format[16] = {32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0};
    struct ui_surface *s = c->v->con ? ui_console_surface(c->v->con) : NULL;
    struct vnc_client *o, *tmp;
    const char *name = c->v->title ? c->v->title : "Lyrebird";

    c->shared = m[0];
    if (c->v->share == VNC_SHARE_EXCLUSIVE && !c->shared)
        list_each_safe (o, tmp, &c->v->clients, link)
            if (o != c)
                o->closing = true; /* gone at the next refresh */
    c->width = s ? s->width : 640;
    c->height = s ? s->height : 480;
    set_native_format(c);
    vnc_put_u16(c, (unsigned)c->width);
    vnc_put_u16(c, (unsigned)c->height);
    vnc_put(c, format, sizeof format);
    vnc_put_u32(c, (uint32_t)strlen(name));
    vnc_put(c, name, strlen(name));
    c->ready = true;
    vnc_client_resized(c);
    expect(c, msg_any, 1);
    return 0;
}

static void security_result(struct vnc_client *c, bool ok)
{
    static const char why[] = "authentication failed";

    if (c->minor >= 8 || c->v->password_on)
        vnc_put_u32(c, ok ? 0 : 1);
    if (ok) {
        expect(c, msg_init, 1);
        return;
    }
    if (c->minor >= 8) {
        vnc_put_u32(c, sizeof why - 1);
        vnc_put(c, why, sizeof why - 1);
    }
    flush(c);
    c->closing = true;
}

/* The password, each byte's bits in reverse, is the DES key for both halves of the challenge. */
static void expected_response(const struct vnc_client *c, uint8_t out[16])
{
    uint8_t key[8] = {0};

    for (unsigned i = 0; i < 8 && c->v->password[i]; i++)
        for (unsigned b = 0; b < 8; b++)
            key[i] |= (uint8_t)(((uint8_t)c->v->password[i] >> b & 1) << (7 - b));
    des_encrypt(key, c->challenge, out);
    des_encrypt(key, c->challenge + 8, out + 8);
}

static size_t msg_response(struct vnc_client *c, const uint8_t *m, size_t len)
{
    uint8_t want[16], diff = 0;

    if (!c->v->password || time(NULL) >= c->v->expires) {
        security_result(c, false);
        return 0;
    }
    expected_response(c, want);
    for (unsigned i = 0; i < 16; i++)
        diff |= want[i] ^ m[i];
    security_result(c, !diff);
    return 0;
}

static void start_auth(struct vnc_client *c)
{
    if (!c->v->password_on) {
        security_result(c, true);
        return;
    }
    if (getrandom(c->challenge, sizeof c->challenge, 0) != sizeof c->challenge)
        c->closing = true;
    vnc_put(c, c->challenge, sizeof c->challenge);
    expect(c, msg_response, 16);
}

static size_t msg_security(struct vnc_client *c, const uint8_t *m, size_t len)
{
    if (m[0] != (c->v->password_on ? SEC_VNC : SEC_NONE))
        c->closing = true;
    else
        start_auth(c);
    return 0;
}

static size_t msg_version(struct vnc_client *c, const uint8_t *m, size_t len)
{
    unsigned type = c->v->password_on ? SEC_VNC : SEC_NONE;

    if (memcmp(m, "RFB 003.", 8) || m[11] != '\n') {
        c->closing = true;
        return 0;
    }
    c->minor = (unsigned)atoi((const char[]){(char)m[8], (char)m[9], (char)m[10], 0});
    if (c->minor < 7) { /* 3.3: the server decides */
        vnc_put_u32(c, type);
        start_auth(c);
    } else {
        vnc_put_u8(c, 1);
        vnc_put_u8(c, type);
        expect(c, msg_security, 1);
    }
    return 0;
}

/* ---- client messages ---- */

static void set_format(struct vnc_client *c, const uint8_t *m)
{
    struct vnc_format f = {.bpp = m[0],
                           .big = m[2],
                           .true_color = m[3],
                           .rmax = get_be16(m + 4),
                           .gmax = get_be16(m + 6),
                           .bmax = get_be16(m + 8),
                           .rshift = m[10],
                           .gshift = m[11],
                           .bshift = m[12]};

    if (!f.true_color) { /* a colour map: ours is 3-3-2 */
        f = (struct vnc_format){.bpp = m[0], .big = m[2], .rmax = 7, .gmax = 7, .bmax = 3, .gshift = 3, .bshift = 6};
        vnc_put_u8(c, 1);
        vnc_put_u8(c, 0);
        vnc_put_u16(c, 0);
        vnc_put_u16(c, 256);
        for (unsigned i = 0; i < 256; i++) {
            vnc_put_u16(c, (i & 7) * 65535 / 7);
            vnc_put_u16(c, (i >> 3 & 7) * 65535 / 7);
            vnc_put_u16(c, (i >> 6) * 65535 / 3);
        }
    }
    if ((f.bpp != 8 && f.bpp != 16 && f.bpp != 32) || f.rshift > 31 || f.gshift > 31 || f.bshift > 31) {
        c->closing = true;
        return;
    }
    c->fmt = f;
    c->fmt_native =
        f.bpp == 32 && f.rmax == 255 && f.gmax == 255 && f.bmax == 255 && f.rshift == 16 && f.gshift == 8 && !f.bshift;
    vnc_client_dirty(c, 0, 0, c->width, c->height);
}

static void set_encodings(struct vnc_client *c, const uint8_t *m, unsigned n)
{
    bool chosen = false;

    c->has_desktop_size = c->has_ext_key = c->has_pointer_change = false;
    c->encoding = ENC_RAW;
    for (unsigned i = 0; i < n; i++) {
        int32_t e = (int32_t)get_be32(m + i * 4);

        if (!chosen && (e == ENC_RAW || e == ENC_HEXTILE || e == ENC_ZLIB || e == ENC_ZRLE)) {
            c->encoding = e;
            chosen = true;
        }
        c->has_desktop_size |= e == ENC_DESKTOP_SIZE;
        c->has_ext_key |= e == ENC_EXT_KEY;
        c->has_pointer_change |= e == ENC_POINTER_CHANGE;
    }
}

/* For a guest that sees no more of this client, or of its screen's keys. */
static void release_keys(struct vnc_client *c)
{
    for (unsigned k = 1; k < UI_KEY_NR; k++)
        if (c->keys_down[k])
            ui_send_key(c->v->ctx, k, false);
}

/* Ctrl-Alt-1 to Ctrl-Alt-9 show the screens and text consoles. */
static bool switch_event(struct vnc_client *c, unsigned key, bool down)
{
    const bool *k = c->keys_down;
    bool held = (k[UI_KEY_CTRL] || k[UI_KEY_CTRL_R]) && (k[UI_KEY_ALT] || k[UI_KEY_ALT_R]);

    if (!down || !held || key < UI_KEY_1 || key > UI_KEY_9 || !ui_console_nth(c->v->ctx, key - UI_KEY_1))
        return false;
    release_keys(c);
    return vnc_show(c->v, key - UI_KEY_1);
}

static void key_event(struct vnc_client *c, unsigned key, uint32_t keysym, bool down)
{
    const bool *k = c->keys_down;
    bool text = c->v->con && ui_console_is_text(c->v->con);

    if (switch_event(c, key, down))
        return;
    if (key)
        c->keys_down[key] = down;
    if (text && down)
        ui_console_type(c->v->con, keysym, k[UI_KEY_CTRL] || k[UI_KEY_CTRL_R]);
    if (!key || text)
        return;
    ui_send_key(c->v->ctx, key, down);
    ui_send_sync(c->v->ctx);
}

static void pointer_buttons(struct vnc_client *c, unsigned mask)
{
    static const enum ui_button map[] = {UI_BTN_LEFT, UI_BTN_MIDDLE, UI_BTN_RIGHT, UI_BTN_WHEEL_UP, UI_BTN_WHEEL_DOWN};

    for (unsigned i = 0; i < ARRAY_LEN(map); i++)
        if ((mask ^ c->buttons) >> i & 1)
            ui_send_button(c->v->ctx, map[i], mask >> i & 1);
    c->buttons = mask;
}

static void pointer_event(struct vnc_client *c, unsigned mask, int x, int y)
{
    bool abs = ui_has_abs(c->v->ctx);

    if (c->v->con && ui_console_is_text(c->v->con))
        return;
    pointer_buttons(c, mask);
    if (abs && c->width > 1 && c->height > 1)
        ui_send_abs(c->v->ctx, x * UI_ABS_MAX / (c->width - 1), y * UI_ABS_MAX / (c->height - 1));
    else if (c->abs_known && !c->abs_told) /* the client sends movements around 0x7fff */
        ui_send_rel(c->v->ctx, x - 0x7fff, y - 0x7fff);
    else if (c->have_last)
        ui_send_rel(c->v->ctx, x - c->last_x, y - c->last_y);
    c->last_x = x;
    c->last_y = y;
    c->have_last = true;
    ui_send_sync(c->v->ctx);
}

static void update_request(struct vnc_client *c, const uint8_t *m)
{
    if (!m[1])
        vnc_client_dirty(c, get_be16(m + 2), get_be16(m + 4), get_be16(m + 6), get_be16(m + 8));
    c->wants = true;
}

/* First byte says which; returns the length it needs until everything is there, then 0. */
static size_t msg_any(struct vnc_client *c, const uint8_t *m, size_t len)
{
    static const struct {
        uint8_t type, len;
    } fixed[] = {{MSG_FORMAT, 20}, {MSG_ENCODINGS, 4}, {MSG_UPDATE, 10}, {MSG_KEY, 8},
                 {MSG_POINTER, 6}, {MSG_CUT, 8},       {MSG_QEMU, 2}};
    size_t need = 0;

    for (unsigned i = 0; i < ARRAY_LEN(fixed); i++)
        if (fixed[i].type == m[0])
            need = fixed[i].len;
    if (!need || len < need) {
        c->closing |= !need; /* an unknown message has an unknown length */
        return need;
    }
    switch (m[0]) {
    case MSG_FORMAT:
        set_format(c, m + 4);
        break;
    case MSG_ENCODINGS:
        need += get_be16(m + 2) * 4u;
        if (len < need)
            return need;
        set_encodings(c, m + 4, get_be16(m + 2));
        break;
    case MSG_UPDATE:
        update_request(c, m);
        break;
    case MSG_KEY:
        key_event(c, ui_key_by_keysym(get_be32(m + 4)), get_be32(m + 4), m[1]);
        break;
    case MSG_POINTER:
        pointer_event(c, m[1], get_be16(m + 2), get_be16(m + 4));
        break;
    case MSG_CUT:
        c->skip = get_be32(m + 4) & 0x7fffffff;
        break;
    default:
        if (m[1] != 0) { /* only the extended key event is offered */
            c->closing = true;
            break;
        }
        if (len < 12)
            return 12;
        key_event(c, ui_key_by_set1(get_be32(m + 8)), get_be32(m + 4), get_be16(m + 2));
        break;
    }
    expect(c, msg_any, 1);
    return 0;
}

/* ---- updates ---- */

static void mark(struct vnc_client *c, int x0, int y0, int x1, int y1)
{
    for (int y = y0; y < y1; y++)
        memset(c->dirty + (size_t)y * (size_t)c->tiles_x + x0, 1, (size_t)(x1 - x0));
}

void vnc_client_dirty(struct vnc_client *c, int x, int y, int w, int h)
{
    int x1 = (x + w + VNC_TILE - 1) / VNC_TILE, y1 = (y + h + VNC_TILE - 1) / VNC_TILE;

    if (!c->ready || !c->dirty || w <= 0 || h <= 0)
        return;
    x1 = x1 < c->tiles_x ? x1 : c->tiles_x;
    y1 = y1 < c->tiles_y ? y1 : c->tiles_y;
    if (x / VNC_TILE < x1)
        mark(c, x / VNC_TILE, y / VNC_TILE, x1, y1);
}

void vnc_client_resized(struct vnc_client *c)
{
    struct ui_surface *s = c->v->con ? ui_console_surface(c->v->con) : NULL;

    if (!c->ready || !s)
        return;
    if (s->width != c->width || s->height != c->height)
        c->resized = true;
    free(c->dirty);
    c->tiles_x = (s->width + VNC_TILE - 1) / VNC_TILE;
    c->tiles_y = (s->height + VNC_TILE - 1) / VNC_TILE;
    c->dirty = xcalloc((size_t)c->tiles_x, (size_t)c->tiles_y);
    mark(c, 0, 0, c->tiles_x, c->tiles_y);
}

/* Takes the next dirty run of tiles, grown downwards while rows are alike; false at the end. */
static bool next_rect(struct vnc_client *c, int *tx, int *ty, int *tw, int *th)
{
    for (int y = 0; y < c->tiles_y; y++) {
        uint8_t *row = c->dirty + (size_t)y * (size_t)c->tiles_x, *first = memchr(row, 1, (size_t)c->tiles_x);
        int w = 0, h = 1;

        if (!first)
            continue;
        while (first + w < row + c->tiles_x && first[w])
            w++;
        while (y + h < c->tiles_y) {
            uint8_t *below = first + (size_t)h * (size_t)c->tiles_x;

            if (!below[0] || memchr(below, 0, (size_t)w))
                break;
            h++;
        }
        *tx = (int)(first - row);
        *ty = y;
        *tw = w;
        *th = h;
        for (int i = 0; i < h; i++)
            memset(first + (size_t)i * (size_t)c->tiles_x, 0, (size_t)w);
        return true;
    }
    return false;
}

static void pseudo_rect(struct vnc_client *c, int w, int h, int x, int encoding)
{
    vnc_put_u16(c, (unsigned)x);
    vnc_put_u16(c, 0);
    vnc_put_u16(c, (unsigned)w);
    vnc_put_u16(c, (unsigned)h);
    vnc_put_u32(c, (uint32_t)encoding);
}

/* Announcements that travel as rectangles; how many. */
static unsigned announcements(struct vnc_client *c)
{
    struct ui_surface *s = ui_console_surface(c->v->con);
    bool abs = ui_has_abs(c->v->ctx);
    unsigned n = 0;

    if (c->resized && c->has_desktop_size) {
        pseudo_rect(c, s->width, s->height, 0, ENC_DESKTOP_SIZE);
        c->width = s->width;
        c->height = s->height;
        n++;
    }
    c->resized = c->resized && !c->has_desktop_size;
    if (c->has_ext_key && !c->ext_key_told) {
        pseudo_rect(c, c->width, c->height, 0, ENC_EXT_KEY);
        c->ext_key_told = true;
        n++;
    }
    if (c->has_pointer_change && (!c->abs_known || c->abs_told != abs)) {
        pseudo_rect(c, c->width, c->height, abs, ENC_POINTER_CHANGE);
        c->abs_known = true;
        c->abs_told = abs;
        n++;
    }
    return n;
}

void vnc_client_update(struct vnc_client *c)
{
    struct ui_surface *s = c->v->con ? ui_console_surface(c->v->con) : NULL;
    int tx, ty, tw, th, right, bottom;
    unsigned n;
    size_t at;

    if (!c->ready || !c->wants || c->out.len || !s || !c->dirty || c->closing)
        return;
    at = c->out.len;
    vnc_put_u8(c, 0);
    vnc_put_u8(c, 0);
    vnc_put_u16(c, 0);
    n = announcements(c);
    right = s->width < c->width ? s->width : c->width;
    bottom = s->height < c->height ? s->height : c->height;
    while (n < 0xffff && c->out.len < MAX_OUT && next_rect(c, &tx, &ty, &tw, &th)) {
        int x = tx * VNC_TILE, y = ty * VNC_TILE, w = tw * VNC_TILE, h = th * VNC_TILE;

        w = x + w > right ? right - x : w;
        h = y + h > bottom ? bottom - y : h;
        if (w <= 0 || h <= 0)
            continue;
        vnc_encode_rect(c, x, y, w, h);
        n++;
    }
    if (!n) {
        c->out.len = at;
        return;
    }
    put_be16(c->out.s + at + 2, (uint16_t)n);
    c->wants = false;
    flush(c);
}

/* ---- life ---- */

static void consume(struct vnc_client *c, size_t n)
{
    memmove(c->in.s, c->in.s + n, c->in.len - n);
    c->in.len -= n;
}

static void process(struct vnc_client *c)
{
    while (!c->closing) {
        size_t drop = min_u64(c->skip, c->in.len), had, more;

        if (drop) {
            consume(c, drop);
            c->skip -= drop;
        }
        if (c->skip || c->in.len < c->need || !c->in.len)
            break;
        had = c->need;
        more = c->handler(c, (const uint8_t *)c->in.s, c->need);
        if (more)
            c->need = more;
        else
            consume(c, had);
    }
}

static void on_fd(void *opaque, int fd, unsigned events)
{
    struct vnc_client *c = opaque;
    uint8_t buf[16384];
    ssize_t n = 0;

    if (events & (EV_IN | EV_ERR)) {
        n = read(fd, buf, sizeof buf);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            c->closing = true;
        if (n > 0)
            str_addn(&c->in, buf, (size_t)n);
        process(c);
    }
    if (!c->closing)
        flush(c);
    if (!c->closing)
        vnc_client_update(c);
    if (c->closing)
        vnc_client_free(c);
}

void vnc_client_new(struct vnc *v, int fd, const char *host, const char *service)
{
    struct vnc_client *c = xnew(struct vnc_client);

    c->v = v;
    c->fd = fd;
    c->host = xstrdup(host);
    c->service = xstrdup(service);
    list_add(&v->clients, &c->link);
    v->nr_clients++;
    c->watch = ev_fd_add(v->run->loop, fd, EV_IN, on_fd, c);
    expect(c, msg_version, 12);
    vnc_put(c, "RFB 003.008\n", 12);
    flush(c);
}

void vnc_client_free(struct vnc_client *c)
{
    release_keys(c);
    pointer_buttons(c, 0);
    list_del(&c->link);
    c->v->nr_clients--;
    ev_fd_del(c->watch);
    close(c->fd);
    if (c->z_on)
        deflateEnd(&c->z);
    str_free(&c->in);
    str_free(&c->out);
    free(c->dirty);
    free(c->host);
    free(c->service);
    free(c);
}
