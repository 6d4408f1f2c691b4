/* Routing of input events among the models of one machine. */
#include "unit.h"

#include "ui/keys.h"
#include "ui/ui.h"

static const struct obj_class machine_class = {.name = "test-machine", .size = sizeof(struct obj)};

struct sink {
    unsigned keys, last_key, rel, abs, buttons, syncs;
};
static void on_key(void *o, unsigned key, bool down)
{
    struct sink *s = o;

    s->keys++;
    s->last_key = key;
}
static void on_rel(void *o, int dx, int dy)
{
    ((struct sink *)o)->rel++;
}
static void on_abs(void *o, int x, int y)
{
    assert_in_range(x, 0, UI_ABS_MAX);
    assert_in_range(y, 0, UI_ABS_MAX);
    ((struct sink *)o)->abs++;
}
static void on_button(void *o, enum ui_button b, bool down)
{
    ((struct sink *)o)->buttons++;
}
static void on_sync(void *o)
{
    ((struct sink *)o)->syncs++;
}
static const struct ui_input_ops keyboard = {"kbd", UI_KEYBOARD, .key = on_key, .sync = on_sync};
static const struct ui_input_ops mouse = {"mouse", UI_POINTER_REL, .rel = on_rel, .button = on_button, .sync = on_sync};
static const struct ui_input_ops tablet = {"tablet", UI_POINTER_ABS, .abs = on_abs, .button = on_button};

static void newest_model_that_understands_gets_the_event(void **state)
{
    struct obj *m = obj_new(&machine_class, NULL);
    struct sink k1 = {0}, k2 = {0}, ms = {0}, tb = {0};
    struct ui_input *i1 = ui_input_add(m, &keyboard, &k1);
    struct ui_input *i2 = ui_input_add(m, &keyboard, &k2);

    ui_input_add(m, &mouse, &ms);
    ui_send_key(m, UI_KEY_A, true);
    assert_int_equal(k2.last_key, UI_KEY_A);
    assert_int_equal(k1.keys, 0);
    ui_input_del(i2);
    ui_send_key(m, UI_KEY_B, true);
    assert_int_equal(k1.last_key, UI_KEY_B);

    assert_false(ui_has_abs(m));
    ui_input_add(m, &tablet, &tb);
    assert_true(ui_has_abs(m));
    ui_send_abs(m, -5, 1 << 20);
    ui_send_button(m, UI_BTN_LEFT, true);
    ui_send_rel(m, 1, 1);
    assert_int_equal(tb.abs, 1);
    assert_int_equal(tb.buttons, 1);
    assert_int_equal(ms.rel, 1);
    ui_input_del(i1);
    ui_send_key(m, UI_KEY_C, true); /* nobody listens: nothing happens */
    ui_unbind(m);
    obj_unref(m);
}

static void selecting_a_pointer_moves_it_to_the_front(void **state)
{
    struct obj *m = obj_new(&machine_class, NULL);
    struct sink ms = {0}, tb = {0};

    ui_input_add(m, &mouse, &ms); /* number 0 */
    ui_input_add(m, &tablet, &tb);
    assert_true(ui_input_select(m, 0));
    assert_false(ui_input_select(m, 7));
    assert_false(ui_has_abs(m));
    ui_send_button(m, UI_BTN_LEFT, true);
    assert_int_equal(ms.buttons, 1);
    ui_unbind(m);
    obj_unref(m);
}

UNIT_MAIN(cmocka_unit_test(newest_model_that_understands_gets_the_event),
          cmocka_unit_test(selecting_a_pointer_moves_it_to_the_front))
