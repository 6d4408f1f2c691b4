/* The VGA core through its ports and window: what a program writes is what the surface shows.
 * proves: F-DSP-10 */
#include "unit.h"

#include "cpu/x86.h"
#include "hw/display/vga.h"

/* The room's APIC wants a processor; there is none here. */
struct x86_port *x86_port(struct vcpu *c)
{
    return NULL;
}

static const struct dev_class holder_class = {.name = "test-vga", .size = sizeof(struct dev)};

struct fixture {
    struct run *run;
    struct machine *m;
    struct dev *d;
    struct vga v;
};

static int setup(void **state)
{
    struct fixture *f = xnew(struct fixture);

    f->run = run_new();
    f->m = machine_new(f->run);
    f->d = (struct dev *)obj_new((const struct obj_class *)&holder_class, f->m);
    assert_true(vga_init(&f->v, f->d, "vga", 16, NULL));
    vga_map_legacy(&f->v, f->d);
    vga_reset(&f->v);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    vga_free(&f->v);
    obj_unref(&f->d->obj);
    ui_unbind(f->m);
    machine_free(f->m);
    run_free(f->run);
    free(f);
    return 0;
}

static void outb(struct fixture *f, uint16_t port, uint8_t val)
{
    mem_store(f->m->io, port, 1, val);
}
static uint8_t inb(struct fixture *f, uint16_t port)
{
    return (uint8_t)mem_ld(f->m->io, port, 1);
}
static void indexed(struct fixture *f, uint16_t port, const uint8_t *vals, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        mem_store(f->m->io, port, 2, i | (unsigned)vals[i] << 8);
}
static void attribute(struct fixture *f, uint8_t index, uint8_t val)
{
    inb(f, 0x3da);
    outb(f, 0x3c0, index);
    outb(f, 0x3c0, val);
}
/* Register values of a BIOS mode: sequencer 0-4, CRTC 0-18h, graphics 0-8, attribute 10h-14h. */
static void set_mode(struct fixture *f, uint8_t misc, const uint8_t *sr, const uint8_t *cr, const uint8_t *gr,
                     const uint8_t *ar)
{
    outb(f, 0x3c2, misc);
    indexed(f, 0x3c4, sr, 5);
    mem_store(f->m->io, 0x3d4, 2, CR_VSYNC_END);
    indexed(f, 0x3d4, cr, 25);
    indexed(f, 0x3ce, gr, 9);
    for (uint8_t i = 0; i < 16; i++)
        attribute(f, i, i);
    for (uint8_t i = 0; i < 5; i++)
        attribute(f, 0x10 + i, ar[i]);
    for (unsigned i = 0; i < 16; i++) { /* DAC: colour i is blue i, red 2i, green 3i */
        outb(f, 0x3c8, (uint8_t)i);
        outb(f, 0x3c9, (uint8_t)(2 * i));
        outb(f, 0x3c9, (uint8_t)(3 * i));
        outb(f, 0x3c9, (uint8_t)i);
    }
    inb(f, 0x3da);
    outb(f, 0x3c0, 0x20);
}
static const uint8_t text_sr[] = {3, 0, 3, 0, 2};
static const uint8_t text_cr[] = {0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0,    0x4f, 0x0d, 0x0e, 0,
                                  0,    0,    5,    0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff};
static const uint8_t text_gr[] = {0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff};
static const uint8_t text_ar[] = {0x0c, 0, 0x0f, 8, 0};
static const uint8_t m13_sr[] = {3, 1, 0xf, 0, 0xe};
static const uint8_t m13_cr[] = {0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0,    0x41, 0,    0,   0,
                                 0,    0,    0,    0x9c, 0x8e, 0x8f, 0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff};
static const uint8_t m13_gr[] = {0, 0, 0, 0, 0, 0x40, 5, 0xf, 0xff};
static const uint8_t m13_ar[] = {0x41, 0, 0x0f, 0, 0};
static const uint8_t m12_sr[] = {3, 1, 0xf, 0, 6};
static const uint8_t m12_cr[] = {0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0,    0x40, 0,    0,   0,
                                 0,    0,    0,    0xea, 0x8c, 0xdf, 0x28, 0,    0xe7, 4,    0xe3, 0xff};
static const uint8_t m12_gr[] = {0, 0, 0, 0, 0, 0, 5, 0xf, 0xff};
static const uint8_t m12_ar[] = {1, 0, 0x0f, 0, 0};

static uint32_t pixel(struct fixture *f, int x, int y)
{
    struct ui_surface *s;
    uint32_t px;

    ui_console_update(f->v.con);
    s = ui_console_surface(f->v.con);
    memcpy(&px, s->data + y * s->stride + x * 4, 4);
    return px & 0xffffff;
}
static uint32_t color(unsigned i) /* as the DAC above shows it */
{
    unsigned r = 2 * i, g = 3 * i, b = i;

    return (r << 2 | r >> 4) << 16 | (g << 2 | g >> 4) << 8 | (b << 2 | b >> 4);
}

static void registers_read_back_with_reserved_bits_clear(void **state)
{
    struct fixture *f = *state;

    mem_store(f->m->io, 0x3c4, 2, 0xff02);
    assert_int_equal(inb(f, 0x3c5), 0x0f);
    mem_store(f->m->io, 0x3ce, 2, 0xff05);
    assert_int_equal(inb(f, 0x3cf), 0x7b);
    outb(f, 0x3c2, 0x67);
    assert_int_equal(inb(f, 0x3cc), 0x67);
    mem_store(f->m->io, 0x3d4, 2, 0x550c);
    assert_int_equal(inb(f, 0x3d5), 0x55);
    outb(f, 0x3c2, 0x66); /* the CRTC moves to 3b4, 3d4 is gone */
    assert_int_equal(inb(f, 0x3d5), 0xff);
    assert_int_equal(inb(f, 0x3b5), 0x55);
}

static void text_cells_show_glyph_colours_and_cursor(void **state)
{
    struct fixture *f = *state;

    set_mode(f, 0x67, text_sr, text_cr, text_gr, text_ar);
    /* The font goes to plane 2 as a BIOS does it: sequential, map at a0000. */
    mem_store(f->m->io, 0x3c4, 2, 0x0402);
    mem_store(f->m->io, 0x3c4, 2, 0x0704);
    mem_store(f->m->io, 0x3ce, 2, 0x0005);
    mem_store(f->m->io, 0x3ce, 2, 0x0406);
    mem_store(f->m->mem, 0xa0000 + 'A' * 32 + 3, 1, 0x81);
    mem_store(f->m->mem, 0xa0000 + 0xc4 * 32 + 8, 1, 0xff);
    indexed(f, 0x3c4, text_sr, 5);
    indexed(f, 0x3ce, text_gr, 9);
    mem_store(f->m->mem, 0xb8000 + 2, 2, 0x1e41);   /* 'A', yellow on blue, second cell */
    mem_store(f->m->mem, 0xb8000 + 160, 2, 0x07c4); /* line drawing: the ninth dot repeats the eighth */
    assert_int_equal(pixel(f, 9, 3), color(14));
    assert_int_equal(pixel(f, 10, 3), color(1));
    assert_int_equal(pixel(f, 16, 3), color(14));
    assert_int_equal(pixel(f, 17, 3), color(1));
    assert_int_equal(pixel(f, 8, 24), color(7));
    assert_int_equal(ui_console_surface(f->v.con)->width, 720);
    assert_int_equal(ui_console_surface(f->v.con)->height, 400);
    assert_int_equal(mem_ld(f->m->mem, 0xb8002, 2), 0x1e41);
    mem_store(f->m->mem, 0xb8000 + 10, 2, 0x0720);
    mem_store(f->m->io, 0x3d4, 2, 0x050f); /* cursor at cell 5, lines 13 and 14 */
    assert_int_equal(pixel(f, 45, 13), color(7));
    assert_int_equal(pixel(f, 45, 12), color(0));
}

static void mode_13h_shows_bytes_through_the_dac(void **state)
{
    struct fixture *f = *state;

    set_mode(f, 0x63, m13_sr, m13_cr, m13_gr, m13_ar);
    mem_store(f->m->mem, 0xa0000 + 320 * 5 + 7, 1, 9);
    assert_int_equal(pixel(f, 7, 5), color(9));
    assert_int_equal(pixel(f, 8, 5), color(0));
    assert_int_equal(ui_console_surface(f->v.con)->width, 320);
    assert_int_equal(ui_console_surface(f->v.con)->height, 200);
    assert_int_equal(mem_ld(f->m->mem, 0xa0000 + 320 * 5 + 7, 1), 9);
}

static void planar_write_modes_do_what_the_reference_says(void **state)
{
    struct fixture *f = *state;

    set_mode(f, 0xe3, m12_sr, m12_cr, m12_gr, m12_ar);
    mem_store(f->m->io, 0x3ce, 2, 0x0205); /* write mode 2: the byte is a colour */
    mem_store(f->m->io, 0x3ce, 2, 0x8008); /* leftmost pixel only */
    mem_ld(f->m->mem, 0xa0000, 1);         /* latches */
    mem_store(f->m->mem, 0xa0000, 1, 0x0b);
    assert_int_equal(pixel(f, 0, 0), color(11));
    assert_int_equal(pixel(f, 1, 0), color(0));
    mem_store(f->m->io, 0x3ce, 2, 0x0105); /* write mode 1 copies latches */
    mem_ld(f->m->mem, 0xa0000, 1);
    mem_store(f->m->mem, 0xa0000 + 80, 1, 0);
    assert_int_equal(pixel(f, 0, 1), color(11));
    mem_store(f->m->io, 0x3ce, 2, 0x0005); /* write mode 0 with set/reset, xor */
    mem_store(f->m->io, 0x3ce, 2, 0x0f00);
    mem_store(f->m->io, 0x3ce, 2, 0x0f01);
    mem_store(f->m->io, 0x3ce, 2, 0x1803);
    mem_ld(f->m->mem, 0xa0000, 1);
    mem_store(f->m->mem, 0xa0000, 1, 0);
    assert_int_equal(pixel(f, 0, 0), color(11 ^ 15));
    mem_store(f->m->io, 0x3ce, 2, 0x0805); /* read mode 1: compare with colour 4 */
    mem_store(f->m->io, 0x3ce, 2, 0x0402);
    assert_int_equal(mem_ld(f->m->mem, 0xa0000, 1), 0x80);
    assert_int_equal(ui_console_surface(f->v.con)->height, 480);
}

static void dispi(struct fixture *f, uint16_t index, uint16_t val)
{
    mem_store(f->m->io, 0x1ce, 2, index);
    mem_store(f->m->io, 0x1cf, 2, val);
}
static uint16_t dispi_get(struct fixture *f, uint16_t index)
{
    mem_store(f->m->io, 0x1ce, 2, index);
    return (uint16_t)mem_ld(f->m->io, 0x1cf, 2);
}
static void vbe_mode(struct fixture *f, uint16_t w, uint16_t h, uint16_t bpp)
{
    dispi(f, VBE_ENABLE, 0);
    dispi(f, VBE_XRES, w);
    dispi(f, VBE_YRES, h);
    dispi(f, VBE_BPP, bpp);
    dispi(f, VBE_ENABLE, VBE_ENABLED | VBE_LFB);
}

static void linear_modes_of_every_depth(void **state)
{
    struct fixture *f = *state;
    uint8_t *fb = f->v.mem;

    assert_int_equal(dispi_get(f, VBE_ID), 0xb0c5);
    assert_int_equal(dispi_get(f, VBE_MEM_64K), 256);
    vbe_mode(f, 800, 600, 32);
    memcpy(fb + (800 * 3 + 5) * 4, "\x11\x22\x33\xff", 4);
    mem_ram_written(f->v.vram.ram, 0, 65536);
    assert_int_equal(pixel(f, 5, 3), 0x332211);
    vbe_mode(f, 640, 480, 16);
    memcpy(fb + (640 * 2 + 1) * 2, "\x00\xf8", 2);
    assert_int_equal(pixel(f, 1, 2), 0xff0000);
    vbe_mode(f, 640, 480, 15);
    memcpy(fb + (640 * 2 + 1) * 2, "\xe0\x03", 2);
    assert_int_equal(pixel(f, 1, 2), 0x00ff00);
    vbe_mode(f, 640, 480, 24);
    memcpy(fb + (640 * 2 + 1) * 3, "\x01\x02\x03", 3);
    assert_int_equal(pixel(f, 1, 2), 0x030201);
    vbe_mode(f, 640, 480, 8);
    fb[640 * 2 + 1] = 3;
    outb(f, 0x3c8, 3);
    for (int i = 0; i < 3; i++)
        outb(f, 0x3c9, 63);
    assert_int_equal(pixel(f, 1, 2), 0xffffff);
    assert_int_equal(ui_console_surface(f->v.con)->width, 640);
}

static void a_start_address_need_not_begin_a_line(void **state)
{
    struct fixture *f = *state;

    vbe_mode(f, 640, 480, 32);
    memcpy(f->v.mem + (640 * 3 + 256) * 4, "\x11\x22\x33\0", 4);
    mem_ram_written(f->v.vram.ram, 0, 65536);
    dispi(f, VBE_Y_OFFSET, 3);
    dispi(f, VBE_X_OFFSET, 256);
    assert_int_equal(pixel(f, 0, 0), 0x332211);
}

static void banked_window_reaches_all_memory(void **state)
{
    struct fixture *f = *state;

    vbe_mode(f, 1024, 768, 8);
    mem_store(f->m->io, 0x3ce, 2, 0x0506);
    dispi(f, VBE_BANK, 3);
    mem_store(f->m->mem, 0xa0010, 1, 0x5a);
    assert_int_equal(f->v.mem[3 * 65536 + 0x10], 0x5a);
    dispi(f, VBE_BANK, 0xffff);
    mem_store(f->m->mem, 0xa0000, 1, 1);
    assert_int_equal(f->v.mem[f->v.size - 65536], 1);
}

static void values_that_do_not_fit_are_cut(void **state)
{
    struct fixture *f = *state;

    for (unsigned bpp = 0; bpp < 64; bpp++) {
        vbe_mode(f, 0xffff, 0xffff, (uint16_t)bpp);
        dispi(f, VBE_VIRT_WIDTH, 0xffff);
        dispi(f, VBE_X_OFFSET, 0xffff);
        dispi(f, VBE_Y_OFFSET, 0xffff);
        ui_console_update(f->v.con);
        vbe_mode(f, 0, 0, (uint16_t)bpp);
        ui_console_update(f->v.con);
    }
    for (unsigned i = 0; i < 60000; i++) { /* any register, any value: drawing stays inside its memory */
        static uint32_t r = 12345;

        r = r * 1664525 + 1013904223;
        if (i % 7 == 0)
            dispi(f, (uint16_t)(r >> 28), (uint16_t)(r >> 8));
        else
            outb(f, (uint16_t)(0x3b0 + (r >> 8) % 0x30), (uint8_t)(r >> 24));
        mem_store(f->m->mem, 0xa0000 + (r >> 12) % 0x20000, 1, r & 0xff);
        if (i % 600 == 0)
            ui_console_update(f->v.con);
    }
}

static void edid_sums_to_zero_and_names_the_mode(void **state)
{
    struct edid_info e = {"Lyrebird", 1280, 720, 5120, 2160, 75000};
    uint8_t b[128], sum = 0;

    edid_make(&e, b);
    for (int i = 0; i < 128; i++)
        sum = (uint8_t)(sum + b[i]);
    assert_int_equal(sum, 0);
    assert_int_equal(b[56] | (b[58] & 0xf0) << 4, 1280);
    assert_int_equal(b[59] | (b[61] & 0xf0) << 4, 720);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
UNIT_MAIN(T(registers_read_back_with_reserved_bits_clear), T(text_cells_show_glyph_colours_and_cursor),
          T(mode_13h_shows_bytes_through_the_dac), T(planar_write_modes_do_what_the_reference_says),
          T(linear_modes_of_every_depth), T(a_start_address_need_not_begin_a_line), T(banked_window_reaches_all_memory),
          T(values_that_do_not_fit_are_cut), cmocka_unit_test(edid_sums_to_zero_and_names_the_mode))
