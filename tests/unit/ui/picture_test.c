/* Screen pictures: what a surface shows is what the file holds. */
#include "unit.h"

#include "ui/ui.h"
#include <png.h>
#include <stdio.h>
#include <unistd.h>

static const struct obj_class machine_class = {.name = "test-machine", .size = sizeof(struct obj)};
static const struct ui_console_ops no_ops;

static struct ui_console *three_pixels(struct obj *m)
{
    struct ui_console *c = ui_console_new(m, "vga", &no_ops, NULL);
    static const uint32_t px[] = {0xff0000, 0x00ff00, 0x0000ff};

    memcpy(ui_console_resize(c, 3, 1, NULL, 0)->data, px, sizeof px);
    return c;
}

static void ppm_holds_the_pixels(void **state)
{
    struct obj *m = obj_new(&machine_class, NULL);
    struct ui_console *c = three_pixels(m);
    char path[] = "ppm-test-XXXXXX", buf[64];
    size_t n;

    close(mkstemp(path));
    assert_true(ui_screendump(c, path, false, NULL));
    FILE *f = fopen(path, "rb");
    n = fread(buf, 1, sizeof buf, f);
    fclose(f);
    unlink(path);
    assert_int_equal(n, 11 + 9);
    assert_memory_equal(buf, "P6\n3 1\n255\n\xff\0\0\0\xff\0\0\0\xff", 20);
    ui_unbind(m);
    obj_unref(m);
}

static void png_holds_the_pixels(void **state)
{
    struct obj *m = obj_new(&machine_class, NULL);
    struct ui_console *c = three_pixels(m);
    char path[] = "png-test-XXXXXX";
    png_image img = {.version = PNG_IMAGE_VERSION};
    uint8_t px[9];

    close(mkstemp(path));
    assert_true(ui_screendump(c, path, true, NULL));
    assert_true(png_image_begin_read_from_file(&img, path));
    img.format = PNG_FORMAT_RGB;
    assert_int_equal(img.width, 3);
    assert_int_equal(img.height, 1);
    assert_true(png_image_finish_read(&img, NULL, px, 0, NULL));
    unlink(path);
    assert_memory_equal(px, "\xff\0\0\0\xff\0\0\0\xff", 9);
    ui_unbind(m);
    obj_unref(m);
}

static void a_place_that_cannot_be_written_is_an_error(void **state)
{
    struct obj *m = obj_new(&machine_class, NULL);
    struct ui_console *c = three_pixels(m);
    struct err *e = NULL;

    assert_false(ui_screendump(c, "/nonexistent-dir/x.ppm", false, &e));
    assert_non_null(e);
    err_free(e);
    ui_unbind(m);
    obj_unref(m);
}

static int dirty_w, dirty_h;
static void on_dirty(void *o, struct ui_console *c, int x, int y, int w, int h)
{
    dirty_w = w;
    dirty_h = h;
}
static void dirty_rectangles_are_clipped(void **state)
{
    struct obj *m = obj_new(&machine_class, NULL);
    struct ui_console *c = three_pixels(m);
    struct ui_listener l = {.dirty = on_dirty};

    ui_listen(c, &l);
    ui_dirty(c, 1, 0, 100, 100);
    assert_int_equal(dirty_w, 2);
    assert_int_equal(dirty_h, 1);
    dirty_w = -1;
    ui_dirty(c, 5, 5, 10, 10);
    assert_int_equal(dirty_w, -1);
    assert_null(ui_console_resize(c, 100000, 1, NULL, 0));
    assert_int_equal(ui_console_surface(c)->width, 3);
    ui_unlisten(&l);
    ui_unbind(m);
    obj_unref(m);
}

UNIT_MAIN(cmocka_unit_test(ppm_holds_the_pixels), cmocka_unit_test(png_holds_the_pixels),
          cmocka_unit_test(a_place_that_cannot_be_written_is_an_error), cmocka_unit_test(dirty_rectangles_are_clipped))
