/* Input: keyboards and pointers of a machine, and the routing of events to them. The newest model that understands an
 * event gets it; ui_input_select moves one to the front. Leaves out per-screen routing (one seat per machine). */
#include "ui/ui_int.h"

struct ui_input {
    struct list link;
    const struct ui_input_ops *ops;
    void *opaque;
    unsigned index; /* stable number for `info mice` */
    bool told;      /* of something since the last sync */
};

struct ui_input *ui_input_add(void *machine_ctx, const struct ui_input_ops *ops, void *opaque)
{
    struct ui_state *s = ui_state_of(machine_ctx);
    struct ui_input *i = xnew(struct ui_input);

    assert(ops->kinds);
    i->ops = ops;
    i->opaque = opaque;
    i->index = s->next_input++;
    list_add_head(&s->inputs, &i->link);
    return i;
}

void ui_input_del(struct ui_input *i)
{
    if (!i)
        return;
    list_del(&i->link);
    free(i);
}

static struct ui_input *find(void *machine_ctx, unsigned kinds)
{
    struct ui_state *s = ui_state_of(machine_ctx);
    struct ui_input *i;

    list_each (i, &s->inputs, link)
        if (i->ops->kinds & kinds)
            return i;
    return NULL;
}

static struct ui_input *find_to_tell(void *machine_ctx, unsigned kinds)
{
    struct ui_input *i = find(machine_ctx, kinds);

    if (i)
        i->told = true;
    return i;
}

void ui_input_each(void *machine_ctx, ui_input_fn *fn, void *opaque)
{
    struct ui_state *s = ui_state_of(machine_ctx);
    struct ui_input *i, *pointer = find(machine_ctx, UI_POINTER_REL | UI_POINTER_ABS),
                        *kbd = find(machine_ctx, UI_KEYBOARD);

    list_each (i, &s->inputs, link)
        fn(i->index, i->ops->name, i->ops->kinds, i == pointer || i == kbd, opaque);
}

bool ui_input_select(void *machine_ctx, unsigned index)
{
    struct ui_state *s = ui_state_of(machine_ctx);
    struct ui_input *i;

    list_each (i, &s->inputs, link) {
        if (i->index == index) {
            list_del(&i->link);
            list_add_head(&s->inputs, &i->link);
            return true;
        }
    }
    return false;
}

void ui_send_key(void *machine_ctx, unsigned key, bool down)
{
    struct ui_input *i = find_to_tell(machine_ctx, UI_KEYBOARD);

    if (i && i->ops->key)
        i->ops->key(i->opaque, key, down);
}

void ui_send_rel(void *machine_ctx, int dx, int dy)
{
    struct ui_input *i = find_to_tell(machine_ctx, UI_POINTER_REL);

    if (i && i->ops->rel)
        i->ops->rel(i->opaque, dx, dy);
}

void ui_send_abs(void *machine_ctx, int x, int y)
{
    struct ui_input *i = find_to_tell(machine_ctx, UI_POINTER_ABS);

    if (i && i->ops->abs)
        i->ops->abs(i->opaque,
                    x < 0            ? 0
                    : x > UI_ABS_MAX ? UI_ABS_MAX
                                     : x,
                    y < 0            ? 0
                    : y > UI_ABS_MAX ? UI_ABS_MAX
                                     : y);
}

void ui_send_button(void *machine_ctx, enum ui_button b, bool down)
{
    struct ui_input *i = find_to_tell(machine_ctx, UI_POINTER_REL | UI_POINTER_ABS);

    if (i && i->ops->button)
        i->ops->button(i->opaque, b, down);
}

/* To all that were told: a pointer that is not the first one may have had what the first does not understand. */
void ui_send_sync(void *machine_ctx)
{
    struct ui_state *s = ui_state_of(machine_ctx);
    struct ui_input *i;

    list_each (i, &s->inputs, link) {
        if (i->told && i->ops->sync)
            i->ops->sync(i->opaque);
        i->told = false;
    }
}

bool ui_has_abs(void *machine_ctx)
{
    struct ui_input *p = find(machine_ctx, UI_POINTER_REL | UI_POINTER_ABS);

    return p && (p->ops->kinds & UI_POINTER_ABS);
}
