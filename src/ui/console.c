/* Consoles and surfaces: the meeting point of display adapters, which draw, and displays, which show. Dirty rectangles
 * are clipped to the surface here, so neither side has to trust the other. */
#include "ui/ui_int.h"

enum { UI_MAX_EDGE = 16384 }; /* pixels; guests choose the size */

struct ui_console *ui_console_new(void *machine_ctx, const char *name, const struct ui_console_ops *ops, void *opaque)
{
    struct ui_state *s = ui_state_of(machine_ctx);
    struct ui_console *c = xnew(struct ui_console);

    c->name = xstrdup(name);
    c->ops = ops;
    c->opaque = opaque;
    list_init(&c->listeners);
    list_add(&s->consoles, &c->link);
    return c;
}

void ui_console_free(struct ui_console *c)
{
    if (!c)
        return;
    while (!list_empty(&c->listeners)) {
        struct ui_listener *l = list_first(&c->listeners, struct ui_listener, link);

        ui_unlisten(l);
        if (l->gone)
            l->gone(l->opaque, c);
    }
    list_del(&c->link);
    if (c->surface.owned)
        free(c->surface.data);
    free(c->name);
    free(c);
}

struct ui_console *ui_console_get(void *machine_ctx, unsigned head)
{
    struct ui_state *s = ui_state_of(machine_ctx);
    struct ui_console *c;

    list_each (c, &s->consoles, link)
        if (!c->ops->type && !head--)
            return c;
    return NULL;
}

struct ui_console *ui_console_nth(void *machine_ctx, unsigned n)
{
    struct ui_state *s = ui_state_of(machine_ctx);
    struct ui_console *c;

    for (unsigned text = 0; text < 2; text++)
        list_each (c, &s->consoles, link)
            if (!c->ops->type == !text && !n--)
                return c;
    return NULL;
}

void ui_console_first(void *machine_ctx, struct ui_console *c)
{
    list_del(&c->link);
    list_add_head(&ui_state_of(machine_ctx)->consoles, &c->link);
}

bool ui_console_is_text(const struct ui_console *c)
{
    return c->ops->type;
}

void ui_console_type(struct ui_console *c, uint32_t keysym, bool ctrl)
{
    c->ops->type(c->opaque, keysym, ctrl);
}

const char *ui_console_name(const struct ui_console *c)
{
    return c->name;
}

struct ui_surface *ui_console_resize(struct ui_console *c, int width, int height, uint8_t *data, int stride)
{
    uint8_t *old = c->surface.owned ? c->surface.data : NULL, *pixels = data;
    struct ui_listener *l, *tmp;

    if (width <= 0 || height <= 0 || width > UI_MAX_EDGE || height > UI_MAX_EDGE)
        return NULL;
    if (!pixels) {
        stride = width * 4;
        pixels = try_alloc((size_t)height, (size_t)stride);
        if (!pixels)
            return NULL;
    }
    c->surface =
        (struct ui_surface){.width = width, .height = height, .stride = stride, .data = pixels, .owned = !data};
    list_each_safe (l, tmp, &c->listeners, link)
        if (l->resized)
            l->resized(l->opaque, c);
    free(old);
    return &c->surface;
}

struct ui_surface *ui_console_surface(struct ui_console *c)
{
    return c->surface.data ? &c->surface : NULL;
}

/* Cuts [*at, *at + *len) to [0, limit). */
static bool clip(int *at, int *len, int limit)
{
    int64_t end = (int64_t)*at + *len;

    if (*at < 0)
        *at = 0;
    if (end > limit)
        end = limit;
    *len = (int)(end - *at);
    return *len > 0;
}

void ui_dirty(struct ui_console *c, int x, int y, int w, int h)
{
    struct ui_listener *l, *tmp;

    if (!c->surface.data || !clip(&x, &w, c->surface.width) || !clip(&y, &h, c->surface.height))
        return;
    list_each_safe (l, tmp, &c->listeners, link)
        if (l->dirty)
            l->dirty(l->opaque, c, x, y, w, h);
}

void ui_console_update(struct ui_console *c)
{
    if (c->ops->update)
        c->ops->update(c->opaque);
}

void ui_console_redraw(struct ui_console *c)
{
    if (c->ops->invalidate)
        c->ops->invalidate(c->opaque);
    ui_console_update(c);
}

void ui_listen(struct ui_console *c, struct ui_listener *l)
{
    list_add(&c->listeners, &l->link);
    if (l->resized && c->surface.data)
        l->resized(l->opaque, c);
}

void ui_unlisten(struct ui_listener *l)
{
    list_del(&l->link);
}
