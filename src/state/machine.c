/* The whole machine: which sections there are, and in what order they are applied.
 *
 * Section names: "machine"; "cpu/N" and "cpu/N/accel"; "dev/CLASS" + path in the object tree. A stream must hold
 * exactly the sections that the present machine has. Everything is checked before the first byte of memory or device is
 * changed as far as it came before the memory (a snapshot's does; a migration's devices come after it). */
#include "base/bytes.h"
#include "cpu/cpu.h"
#include "dev/dev.h"
#include "state/state_int.h"

#include <stdio.h>

/* What must be equal on both sides, and the clock. */
struct head {
    char board[64];
    uint64_t ram_size;
    uint32_t nr_cpus;
    int64_t clock;
    bool suspended;
};
static const struct state_field head_fields[] = {STATE_BYTES(struct head, board),    STATE_U64(struct head, ram_size),
                                                 STATE_U32(struct head, nr_cpus),    STATE_I64(struct head, clock),
                                                 STATE_BOOL(struct head, suspended), STATE_END};
static const struct state_desc head_state = {.name = "machine", .version = 1, .fields = head_fields};

/* ---- what there is to save ---- */

struct part {
    char *name; /* owned */
    char *who;  /* owned: for messages */
    const struct state_desc *desc;
    struct state_desc made; /* of classes with a table only */
    void *obj;
    uint8_t *buf; /* owned: what the stream had */
    size_t len;
    bool there;
};
struct parts {
    struct part *v; /* owned */
    unsigned nr, cap;
    struct err **errp;
    bool ok;
};

static struct part *part_add(struct parts *p, char *name, char *who, void *obj)
{
    if (p->nr == p->cap) {
        p->cap = p->cap * 2 + 32;
        p->v = xrealloc(p->v, p->cap * sizeof *p->v);
    }
    p->v[p->nr] = (struct part){.name = name, .who = who, .obj = obj};
    return &p->v[p->nr++];
}

static void add_dev(struct dev *d, void *opaque)
{
    const struct dev_class *c = dev_class(d);
    struct parts *p = opaque;
    char *path;

    if (!p->ok || !d->realized)
        return;
    if (!c->state_desc && !c->state) {
        p->ok = err_set(p->errp, "device '%s' (%s) cannot be saved: it has no description of its state",
                        d->id ? d->id : c->name, c->name);
        return;
    }
    path = obj_path(&d->obj);
    struct part *t = part_add(p, xasprintf("dev/%s%s", c->name, path),
                              xasprintf("device '%s' (%s)", d->id ? d->id : path, c->name), d);
    t->desc = c->state_desc;
    if (!t->desc)
        t->made = (struct state_desc){.name = c->name, .version = c->state_version, .fields = c->state};
    free(path);
}

static bool parts_collect(struct parts *p, struct machine *m, struct err **errp)
{
    *p = (struct parts){.errp = errp, .ok = true};
    if (!clk_can_set(m->run->virt))
        return err_set(errp, "a machine whose clock counts instructions (-icount) cannot be saved or restored");
    for (unsigned i = 0; i < m->nr_cpus; i++) {
        struct vcpu *c = m->cpus[i];

        if (!c->arch->state)
            return err_set(errp, "a processor of kind %s cannot be saved", c->arch->name);
        part_add(p, xasprintf("cpu/%u", i), xasprintf("CPU %u", i), c)->desc = c->arch->state;
        if (c->accel_state)
            part_add(p, xasprintf("cpu/%u/accel", i), xasprintf("CPU %u", i), c->accel_data)->desc = c->accel_state;
    }
    machine_each_dev(m, add_dev, p);
    for (unsigned i = 0; i < p->nr; i++)
        if (!p->v[i].desc)
            p->v[i].desc = &p->v[i].made; /* the array stands still from here on */
    return p->ok;
}

static void parts_free(struct parts *p)
{
    for (unsigned i = 0; i < p->nr; i++) {
        free(p->v[i].name);
        free(p->v[i].who);
        free(p->v[i].buf);
    }
    free(p->v);
}

bool state_can_save(struct machine *m, struct err **errp)
{
    struct parts p;
    bool ok = parts_collect(&p, m, errp);

    parts_free(&p);
    return ok;
}

/* ---- saving ---- */

static struct head head_of(struct machine *m)
{
    struct head h = {.ram_size = m->ram_size, .nr_cpus = m->nr_cpus, .clock = clk_now(m->run->virt)};

    h.suspended = m->suspended;
    snprintf(h.board, sizeof h.board, "%s", m->type ? m->type : "");
    return h;
}

static bool put_part(struct state_writer *w, struct part *t, struct err **errp)
{
    struct strbuf b CLEANUP(str_free) = {0};

    if (!state_fields_put(&b, t->desc, t->obj, errp)) {
        err_prefix(errp, "%s cannot be saved now: ", t->who);
        return false;
    }
    return state_put_section(w, t->name, b.s, b.len, errp);
}

static bool put_head(struct state_writer *w, struct machine *m, struct err **errp)
{
    struct head h = head_of(m);
    struct strbuf b CLEANUP(str_free) = {0};

    return state_fields_put(&b, &head_state, &h, errp) && state_put_section(w, "machine", b.s, b.len, errp);
}

static bool put_parts(struct state_writer *w, struct machine *m, struct err **errp)
{
    struct parts p;
    bool ok = parts_collect(&p, m, errp);

    for (unsigned i = 0; ok && i < p.nr; i++)
        ok = put_part(w, &p.v[i], errp);
    parts_free(&p);
    return ok;
}

bool state_save(struct machine *m, struct state_sink *to, struct err **errp)
{
    struct state_writer w;
    bool ok = state_writer_init(&w, to, errp) && put_head(&w, m, errp) && put_parts(&w, m, errp) &&
              state_put_memory(&w, m, errp) && state_put_end(&w, errp);

    state_writer_fini(&w);
    return ok;
}

/* ---- loading ---- */

struct load {
    struct machine *m;
    struct state_reader r;
    struct parts p;
    struct state_memory *mem;
    struct head head;
    bool has_head, touched;
    size_t held;
    unsigned nr_sections;
    struct err **errp;
};

static bool check_head(struct load *l, const uint8_t *buf, size_t len)
{
    struct head here = head_of(l->m), *h = &l->head;

    if (l->has_head)
        return err_set(l->errp, "the saved state is damaged: it begins twice");
    if (!state_fields_get(buf, len, &head_state, h, true, "machine", l->errp))
        return false;
    h->board[sizeof h->board - 1] = 0;
    if (strcmp(h->board, here.board))
        return err_set(l->errp, "the saved machine is a '%s', this one is a '%s'", h->board, here.board);
    if (h->nr_cpus != here.nr_cpus)
        return err_set(l->errp, "the saved machine has %u processors, this one has %u", h->nr_cpus, here.nr_cpus);
    if (h->ram_size != here.ram_size)
        return err_set(l->errp, "the saved machine has %" PRIu64 " MiB of memory, this one has %" PRIu64,
                       h->ram_size >> 20, here.ram_size >> 20);
    if (h->clock < 0 || h->clock > INT64_MAX / 2)
        return err_set(l->errp, "the saved state is damaged: its clock shows an impossible time");
    l->has_head = true;
    return true;
}

static struct part *part_find(struct parts *p, const char *name)
{
    for (unsigned i = 0; i < p->nr; i++)
        if (!strcmp(p->v[i].name, name))
            return &p->v[i];
    return NULL;
}

static bool take_section(struct load *l)
{
    char name[STATE_MAX_NAME + 1];
    uint8_t *buf;
    size_t len;
    struct part *t;
    bool ok;

    if (!state_get_section(&l->r, name, &buf, &len, l->errp)) {
        free(buf);
        return false;
    }
    if (!strcmp(name, "machine")) {
        ok = check_head(l, buf, len);
        free(buf);
        return ok;
    }
    t = part_find(&l->p, name);
    l->held += len;
    if (!t)
        ok = err_set(l->errp, "the saved machine has '%s', which this one has not", name);
    else if (t->there)
        ok = err_set(l->errp, "the saved state is damaged: '%s' comes twice", name);
    else if (++l->nr_sections > STATE_MAX_SECTIONS || l->held > STATE_MAX_HELD)
        ok = err_set(l->errp, "the saved state is larger than any machine's");
    else
        ok = state_fields_get(buf, len, t->desc, t->obj, false, t->who, l->errp);
    if (!ok) {
        free(buf);
        return false;
    }
    t->buf = buf;
    t->len = len;
    t->there = true;
    return true;
}

/* Before the first change. */
static bool touch(struct load *l)
{
    if (l->touched)
        return true;
    if (!l->has_head)
        return err_set(l->errp, "the saved state is damaged: it does not say which machine it is of");
    l->touched = true;
    l->mem = state_memory_new(l->m, l->errp);
    if (!l->mem)
        return false;
    machine_reset(l->m);
    return true;
}

static bool take_all(struct load *l)
{
    for (;;) {
        uint8_t tag, sum[8];

        if (!state_get(&l->r, &tag, 1, l->errp))
            return false;
        switch (tag) {
        case STATE_T_SECTION:
            if (!take_section(l))
                return false;
            break;
        case STATE_T_MEMORY:
        case STATE_T_PAGES:
        case STATE_T_ZERO:
            if (!touch(l) || !state_get_memory(&l->r, l->mem, (enum state_tag)tag, l->errp))
                return false;
            break;
        case STATE_T_END:
            if (!state_get(&l->r, sum, sizeof sum, l->errp))
                return false;
            return get_le64(sum) == state_sum(0, "EE", 2) ||
                   err_set(l->errp, "the saved state is damaged: its end is not one");
        default:
            return err_set(l->errp, "the saved state is damaged: a record of unknown kind %#x", tag);
        }
    }
}

static bool apply(struct load *l)
{
    for (unsigned i = 0; i < l->p.nr; i++)
        if (!l->p.v[i].there)
            return err_set(l->errp, "%s of this machine is not in the saved one", l->p.v[i].who);
    if (!touch(l) || !state_memory_end(l->mem, l->errp))
        return false;
    if (!l->m->stepped)
        clk_pause(l->m->run->virt);
    clk_set_now(l->m->run->virt, l->head.clock);
    for (unsigned i = 0; i < l->p.nr; i++) {
        struct part *t = &l->p.v[i];

        if (!state_fields_get(t->buf, t->len, t->desc, t->obj, true, t->who, l->errp))
            return false;
    }
    l->m->suspended = l->head.suspended;
    return true;
}

bool state_load(struct machine *m, struct state_source *from, bool *touched, struct err **errp)
{
    struct load l = {.m = m, .r = {from}, .errp = errp};
    bool ok = parts_collect(&l.p, m, errp) && state_read_header(&l.r, errp) && take_all(&l) && apply(&l);

    l.p.errp = NULL;
    *touched = l.touched;
    state_memory_free(l.mem);
    parts_free(&l.p);
    return ok;
}
