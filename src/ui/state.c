/* The machine's user-interface state: created at first use as the child "ui" of the machine object and freed with it.
 */
#include "ui/ui_int.h"
#include "ui/vnc.h"

static void ui_state_init(struct obj *o)
{
    struct ui_state *s = container_of(o, struct ui_state, obj);

    list_init(&s->consoles);
    list_init(&s->inputs);
    list_init(&s->vncs);
}

static const struct obj_class ui_state_class = {
    .name = "ui-state",
    .desc = "screens and input devices of a machine",
    .size = sizeof(struct ui_state),
    .init = ui_state_init,
};

struct ui_state *ui_state_of(void *machine_ctx)
{
    struct obj *machine = machine_ctx, *o = obj_child(machine, "ui");

    if (!o) {
        o = obj_new(&ui_state_class, machine_ctx);
        obj_add_child(machine, "ui", o);
    }
    return container_of(o, struct ui_state, obj);
}

void ui_bind(void *machine_ctx, struct run *r)
{
    ui_state_of(machine_ctx)->run = r;
}

/* Frees what is left: a machine being freed has lost its devices, so nothing calls back. */
void ui_unbind(void *machine_ctx)
{
    struct ui_state *s = ui_state_of(machine_ctx);

    for (struct vnc *v = vnc_find(machine_ctx, NULL); v; v = vnc_find(machine_ctx, NULL))
        vnc_free(v);
    while (!list_empty(&s->consoles))
        ui_console_free(list_first(&s->consoles, struct ui_console, link));
    while (!list_empty(&s->inputs))
        ui_input_del((struct ui_input *)s->inputs.next);
    obj_unparent(&s->obj);
}
