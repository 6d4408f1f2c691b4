/* Encodings of one rectangle: Raw, Hextile and ZRLE as in RFC 6143 section 7.7, and Zlib (a raw rectangle in one
 * deflate stream per connection). Pixels are converted to the client's format first. Leaves out Tight and lossy
 * encodings. */
#include "ui/vnc_int.h"

enum { HEX_RAW = 1, HEX_BG = 2, HEX_FG = 4, HEX_SUBRECTS = 8, HEX_COLORED = 16 };
enum { ZRLE_TILE = 64, ZRLE_MAX_PALETTE = 16 };

static unsigned scale(unsigned c8, unsigned max)
{
    return (c8 * max + 127) / 255;
}

/* A surface pixel in the client's format, as a number. */
static uint32_t to_client(const struct vnc_format *f, uint32_t px)
{
    unsigned r = px >> 16 & 255, g = px >> 8 & 255, b = px & 255;

    return scale(r, f->rmax) << f->rshift | scale(g, f->gmax) << f->gshift | scale(b, f->bmax) << f->bshift;
}

static unsigned pixel_put(const struct vnc_format *f, uint32_t v, uint8_t *out)
{
    switch (f->bpp) {
    case 8:
        out[0] = (uint8_t)v;
        return 1;
    case 16:
        if (f->big)
            put_be16(out, (uint16_t)v);
        else
            put_le16(out, (uint16_t)v);
        return 2;
    default:
        if (f->big)
            put_be32(out, v);
        else
            put_le32(out, v);
        return 4;
    }
}

static uint32_t pixel_at(const struct ui_surface *s, int x, int y)
{
    uint32_t px;

    memcpy(&px, s->data + (size_t)y * (size_t)s->stride + (size_t)x * 4, 4);
    return px & 0xffffff;
}

/* Client-format values of a rectangle, row by row. */
static void fetch(const struct vnc_client *c, int x, int y, int w, int h, uint32_t *out)
{
    const struct ui_surface *s = ui_console_surface(c->v->con);

    for (int j = 0; j < h; j++)
        for (int i = 0; i < w; i++) {
            uint32_t px = pixel_at(s, x + i, y + j);

            *out++ = c->fmt_native ? px : to_client(&c->fmt, px);
        }
}

static void add_pixels(const struct vnc_format *f, const uint32_t *v, size_t n, struct strbuf *out)
{
    uint8_t row[256 * 4];

    while (n) {
        size_t part = min_u64(n, 256), len = 0;

        for (size_t i = 0; i < part; i++)
            len += pixel_put(f, v[i], row + len);
        str_addn(out, row, len);
        v += part;
        n -= part;
    }
}

static void rect_header(struct vnc_client *c, int x, int y, int w, int h, int encoding)
{
    vnc_put_u16(c, (unsigned)x);
    vnc_put_u16(c, (unsigned)y);
    vnc_put_u16(c, (unsigned)w);
    vnc_put_u16(c, (unsigned)h);
    vnc_put_u32(c, (uint32_t)encoding);
}

static void raw_pixels(struct vnc_client *c, int x, int y, int w, int h, struct strbuf *out)
{
    AUTOFREE uint32_t *row = xmalloc((size_t)w * sizeof *row);

    for (int j = 0; j < h; j++) {
        fetch(c, x, y + j, w, 1, row);
        add_pixels(&c->fmt, row, (size_t)w, out);
    }
}

/* ---- Hextile ---- */

struct hextile {
    bool valid; /* bg holds the colour of the tile before */
    uint32_t bg;
};

/* Horizontal runs that differ from bg, as subrectangles; their count, or -1 when raw is smaller. */
static int hextile_runs(const struct vnc_format *f, const uint32_t *t, int w, int h, uint32_t bg, bool colored,
                        struct strbuf *out)
{
    size_t limit = (size_t)(w * h) * f->bpp / 8;
    uint8_t b[8];
    int n = 0;

    for (int y = 0; y < h; y++) {
        for (int x = 0; x < w;) {
            int end = x + 1;

            while (end < w && t[y * w + end] == t[y * w + x])
                end++;
            if (t[y * w + x] != bg) {
                unsigned len = colored ? pixel_put(f, t[y * w + x], b) : 0;

                b[len] = (uint8_t)(x << 4 | y);
                b[len + 1] = (uint8_t)((end - x - 1) << 4); /* height - 1 is 0 */
                str_addn(out, b, len + 2);
                if (++n > 255 || out->len >= limit)
                    return -1;
            }
            x = end;
        }
    }
    return n;
}

static void hextile_tile(struct vnc_client *c, int x, int y, int w, int h, struct hextile *st)
{
    uint32_t t[VNC_TILE * VNC_TILE], bg, fg = 0;
    bool two = true, has_fg = false;
    struct strbuf runs = {0};
    uint8_t b[4];
    int n;

    fetch(c, x, y, w, h, t);
    bg = t[0];
    for (int i = 1; i < w * h; i++) {
        if (t[i] == bg)
            continue;
        if (has_fg && t[i] != fg)
            two = false;
        fg = has_fg ? fg : t[i];
        has_fg = true;
    }
    n = has_fg ? hextile_runs(&c->fmt, t, w, h, bg, !two, &runs) : 0;
    if (n < 0) {
        vnc_put_u8(c, HEX_RAW);
        add_pixels(&c->fmt, t, (size_t)(w * h), &c->out);
        st->valid = false; /* raw leaves the colours undefined */
    } else {
        bool same = st->valid && st->bg == bg;

        vnc_put_u8(c, (same ? 0u : HEX_BG) | (n ? HEX_SUBRECTS | (two ? HEX_FG : HEX_COLORED) : 0u));
        if (!same)
            vnc_put(c, b, pixel_put(&c->fmt, bg, b));
        if (n && two)
            vnc_put(c, b, pixel_put(&c->fmt, fg, b));
        if (n) {
            vnc_put_u8(c, (unsigned)n);
            vnc_put(c, runs.s, runs.len);
        }
        st->valid = true;
        st->bg = bg;
    }
    str_free(&runs);
}

static void hextile(struct vnc_client *c, int x, int y, int w, int h)
{
    struct hextile st = {0};

    for (int j = 0; j < h; j += VNC_TILE)
        for (int i = 0; i < w; i += VNC_TILE)
            hextile_tile(c, x + i, y + j, w - i < VNC_TILE ? w - i : VNC_TILE, h - j < VNC_TILE ? h - j : VNC_TILE,
                         &st);
}

/* ---- deflate ---- */

/* Appends a length and the compressed bytes; the stream goes on with the next rectangle. */
static bool put_deflated(struct vnc_client *c, const struct strbuf *data)
{
    size_t at;
    uint8_t chunk[16384];

    if (!c->z_on && deflateInit(&c->z, Z_BEST_SPEED) != Z_OK)
        return false;
    c->z_on = true;
    vnc_put_u32(c, 0);
    at = c->out.len;
    c->z.next_in = (Bytef *)data->s;
    c->z.avail_in = (uInt)data->len;
    do {
        c->z.next_out = chunk;
        c->z.avail_out = sizeof chunk;
        deflate(&c->z, Z_SYNC_FLUSH);
        vnc_put(c, chunk, sizeof chunk - c->z.avail_out);
    } while (!c->z.avail_out);
    put_be32(c->out.s + at - 4, (uint32_t)(c->out.len - at));
    return true;
}

/* ---- ZRLE ---- */

/* A compact pixel: three bytes when the colour bits of a 32-bit format fit into three. */
static void add_cpixel(const struct vnc_format *f, uint32_t v, struct strbuf *out)
{
    uint8_t b[4];
    unsigned n = pixel_put(f, v, b);
    uint32_t used = f->rmax << f->rshift | f->gmax << f->gshift | f->bmax << f->bshift;
    bool low = !(used >> 24), high = !(used & 0xff);

    if (f->bpp == 32 && (low || high)) /* the unused byte is first or last, by byte order */
        str_addn(out, b + ((low && f->big) || (!low && high && !f->big) ? 1 : 0), 3);
    else
        str_addn(out, b, n);
}

static int palette_of(const uint32_t *t, int n, uint32_t *pal)
{
    int nr = 0;

    for (int i = 0; i < n; i++) {
        int k = 0;

        if (i && t[i] == t[i - 1])
            continue;
        while (k < nr && pal[k] != t[i])
            k++;
        if (k < nr)
            continue;
        if (nr == ZRLE_MAX_PALETTE)
            return nr + 1;
        pal[nr++] = t[i];
    }
    return nr;
}

static void zrle_packed(const uint32_t *t, int w, int h, const uint32_t *pal, int nr, struct strbuf *out)
{
    unsigned bits = nr <= 2 ? 1 : nr <= 4 ? 2 : 4;

    for (int y = 0; y < h; y++) {
        unsigned acc = 0, have = 0;
        uint8_t b;

        for (int x = 0; x < w; x++) {
            unsigned k = 0;

            while (pal[k] != t[y * w + x])
                k++;
            acc = acc << bits | k;
            have += bits;
            if (have == 8) {
                b = (uint8_t)acc;
                str_addn(out, &b, 1);
                acc = have = 0;
            }
        }
        if (have) {
            b = (uint8_t)(acc << (8 - have));
            str_addn(out, &b, 1);
        }
    }
}

static void zrle_tile(struct vnc_client *c, int x, int y, int w, int h, struct strbuf *out)
{
    uint32_t t[ZRLE_TILE * ZRLE_TILE], pal[ZRLE_MAX_PALETTE];
    uint8_t kind;
    int nr;

    fetch(c, x, y, w, h, t);
    nr = palette_of(t, w * h, pal);
    kind = nr <= ZRLE_MAX_PALETTE ? (uint8_t)nr : 0; /* 1 is solid, 2-16 packed, 0 raw */
    str_addn(out, &kind, 1);
    for (int i = 0; kind && i < nr; i++)
        add_cpixel(&c->fmt, pal[i], out);
    if (kind > 1)
        zrle_packed(t, w, h, pal, nr, out);
    for (int i = 0; !kind && i < w * h; i++)
        add_cpixel(&c->fmt, t[i], out);
}

static void zrle(struct vnc_client *c, int x, int y, int w, int h, struct strbuf *out)
{
    for (int j = 0; j < h; j += ZRLE_TILE)
        for (int i = 0; i < w; i += ZRLE_TILE)
            zrle_tile(c, x + i, y + j, w - i < ZRLE_TILE ? w - i : ZRLE_TILE, h - j < ZRLE_TILE ? h - j : ZRLE_TILE,
                      out);
}

void vnc_encode_rect(struct vnc_client *c, int x, int y, int w, int h)
{
    struct strbuf data = {0};

    rect_header(c, x, y, w, h, c->encoding);
    switch (c->encoding) {
    case ENC_HEXTILE:
        hextile(c, x, y, w, h);
        break;
    case ENC_ZLIB:
        raw_pixels(c, x, y, w, h, &data);
        c->closing |= !put_deflated(c, &data);
        break;
    case ENC_ZRLE:
        zrle(c, x, y, w, h, &data);
        c->closing |= !put_deflated(c, &data);
        break;
    default:
        raw_pixels(c, x, y, w, h, &c->out);
        break;
    }
    str_free(&data);
}
