/* A monitor's identity block: VESA Enhanced EDID 1.4, 128 bytes, one detailed timing (the preferred mode), a range
 * limit and a name. Timings follow the reduced-blanking pattern of VESA CVT, rounded to whole character cells. */
#include "base/bytes.h"
#include "hw/display/vga.h"

enum { DPI = 96 };

static unsigned millimetres(unsigned pixels)
{
    return pixels * 254 / 10 / DPI;
}

/* 18-byte descriptor 1: the preferred timing. */
static void detailed_timing(const struct edid_info *e, uint8_t *d)
{
    unsigned hblank = 160, vblank = (unsigned)max_u64(8, e->height * 35 / 1000 + 1), hsync = 32, hfront = 48, vsync = 6,
             vfront = 3;
    uint64_t clock = (uint64_t)(e->width + hblank) * (e->height + vblank) * e->refresh_mhz / 1000 / 10000;
    unsigned w_mm = millimetres(e->width), h_mm = millimetres(e->height);

    put_le16(d, (uint16_t)min_u64(clock, 0xffff));
    d[2] = (uint8_t)e->width;
    d[3] = (uint8_t)hblank;
    d[4] = (uint8_t)((e->width >> 8 & 15) << 4 | hblank >> 8);
    d[5] = (uint8_t)e->height;
    d[6] = (uint8_t)vblank;
    d[7] = (uint8_t)((e->height >> 8 & 15) << 4 | vblank >> 8);
    d[8] = (uint8_t)hfront;
    d[9] = (uint8_t)hsync;
    d[10] = (uint8_t)(vfront << 4 | vsync);
    d[11] = 0;
    d[12] = (uint8_t)w_mm;
    d[13] = (uint8_t)h_mm;
    d[14] = (uint8_t)((w_mm >> 8) << 4 | h_mm >> 8);
    d[17] = 0x18; /* digital separate sync */
}

static void text_descriptor(uint8_t *d, uint8_t tag, const char *text)
{
    size_t n = strlen(text);

    memset(d, 0, 18);
    d[3] = tag;
    memset(d + 5, ' ', 13);
    memcpy(d + 5, text, min_u64(n, 13));
    if (n < 13)
        d[5 + n] = '\n';
}

static void range_descriptor(uint8_t *d)
{
    static const uint8_t range[18] = {0,    0,    0,    0xfd, 0,   50,  125, 30,  160,
                                      0xff, 0x01, '\n', ' ',  ' ', ' ', ' ', ' ', ' '};

    memcpy(d, range, sizeof range);
}

/* Standard timings that fit, two bytes each: width / 8 - 31, aspect in the top bits, refresh - 60. */
static void standard_timings(const struct edid_info *e, uint8_t *d)
{
    static const struct {
        uint16_t w, h;
        uint8_t aspect; /* 0 16:10, 1 4:3, 2 5:4, 3 16:9 */
    } modes[] = {{1920, 1080, 3}, {1280, 720, 3},  {1440, 900, 0}, {1680, 1050, 0},
                 {1280, 1024, 2}, {1600, 1200, 1}, {1280, 960, 1}, {2048, 1152, 3}};
    unsigned n = 0;

    memset(d, 1, 16); /* 01 01: unused */
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        if (modes[i].w > e->max_width || modes[i].h > e->max_height)
            continue;
        d[n++] = (uint8_t)(modes[i].w / 8 - 31);
        d[n++] = (uint8_t)(modes[i].aspect << 6);
    }
}

void edid_make(const struct edid_info *e, uint8_t out[128])
{
    static const uint8_t head[] = {0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00};
    static const uint8_t srgb[] = {0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54};
    uint8_t sum = 0;

    memset(out, 0, 128);
    memcpy(out, head, sizeof head);
    put_be16(out + 8, ('L' - 64) << 10 | ('Y' - 64) << 5 | ('R' - 64));
    put_le16(out + 10, 1);
    out[16] = 1;
    out[17] = 2024 - 1990;
    out[18] = 1;
    out[19] = 4;
    out[20] = 0xa5; /* digital, 8 bits a colour, DisplayPort */
    out[21] = (uint8_t)(millimetres(e->width) / 10);
    out[22] = (uint8_t)(millimetres(e->height) / 10);
    out[23] = 120;  /* gamma 2.2 */
    out[24] = 0x06; /* sRGB, preferred timing is native */
    memcpy(out + 25, srgb, sizeof srgb);
    out[35] = 0x21;                                                    /* 640x480, 800x600 at 60 Hz */
    out[36] = e->max_width >= 1024 && e->max_height >= 768 ? 0x08 : 0; /* 1024x768 at 60 Hz */
    standard_timings(e, out + 38);
    detailed_timing(e, out + 54);
    range_descriptor(out + 72);
    text_descriptor(out + 90, 0xfc, e->name);
    text_descriptor(out + 108, 0xff, "1");
    for (unsigned i = 0; i < 127; i++)
        sum = (uint8_t)(sum + out[i]);
    out[127] = (uint8_t)-sum;
}
