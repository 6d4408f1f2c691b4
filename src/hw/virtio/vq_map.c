/* See vq_map.h. */
#include "hw/virtio/vq_map.h"
#include "base/json.h"
#include "base/str.h"
#include "blk/blk.h"

static bool refuse_text(struct obj *o, const struct prop *p, void *field, const char *val, struct err **errp)
{
    err_set(errp, "Invalid parameter type for '%s', expected: array", p->name);
    err_hint(errp, "Give the device as JSON: \"%s\":[{\"iothread\":\"ID\"},...]", p->name);
    return false;
}

/* Digits up to the end or a dot; *rest is what follows it, NULL = nothing. */
static bool take_index(const char *key, unsigned limit, unsigned *out, const char **rest)
{
    const char *s = key;
    unsigned v = 0;

    for (; *s >= '0' && *s <= '9' && v < limit; s++)
        v = v * 10 + (unsigned)(*s - '0');
    if (s == key || v >= limit || (*s && *s != '.'))
        return false;
    *out = v;
    *rest = *s ? s + 1 : NULL;
    return true;
}

static bool set_queue(const struct prop *p, struct vq_map_entry *e, const char *val, struct err **errp)
{
    uint64_t q;

    if (!str_to_u64(val, &q) || q >= VIRTIO_QUEUES)
        return err_set(errp, "%s: '%s' is no queue of this device", p->name, val);
    if (e->vqs[q])
        return err_set(errp, "%s: virtqueue %" PRIu64 " is assigned twice", p->name, q);
    e->explicit_vqs = e->vqs[q] = true;
    return true;
}

/* "N.iothread", "N.vqs.M": entries and queues come in order. */
static bool set_part(struct obj *o, const struct prop *p, void *field, const char *key, const char *val,
                     struct err **errp)
{
    struct vq_map *m = field;
    const char *rest, *end;
    unsigned i, j;

    if (!take_index(key, VQ_MAP_MAX, &i, &rest) || !rest || i > m->nr)
        return err_set(errp, "Parameter '%s.%s' is unexpected", p->name, key);
    if (i == m->nr) {
        m->e = xrealloc(m->e, (m->nr + 1) * sizeof *m->e);
        m->e[m->nr++] = (struct vq_map_entry){0};
    }
    if (!strcmp(rest, "iothread") && !m->e[i].id) {
        m->e[i].id = xstrdup(val);
        return true;
    }
    if (str_starts(rest, "vqs.") && take_index(rest + 4, VIRTIO_QUEUES, &j, &end) && !end)
        return set_queue(p, &m->e[i], val, errp);
    return err_set(errp, "Parameter '%s.%s' is unexpected", p->name, key);
}

static void release(struct obj *o, const struct prop *p, void *field)
{
    struct vq_map *m = field;

    for (unsigned i = 0; i < m->nr; i++)
        free(m->e[i].id);
    free(m->e);
    *m = (struct vq_map){0};
}

static struct json_object *get_json(struct obj *o, const struct prop *p, const void *field)
{
    const struct vq_map *m = field;
    struct json_object *list = json_object_new_array();

    for (unsigned i = 0; i < m->nr; i++) {
        struct json_object *e = json_make("s:iothread", m->e[i].id, NULL), *vqs = json_object_new_array();

        for (unsigned q = 0; q < VIRTIO_QUEUES; q++)
            if (m->e[i].vqs[q])
                json_object_array_add(vqs, json_object_new_int((int)q));
        json_object_object_add(e, "vqs", vqs);
        json_object_array_add(list, e);
    }
    return list;
}
const struct prop_type prop_vq_map = {
    .name = "list", .set = refuse_text, .set_part = set_part, .release = release, .get_json = get_json};

static bool find_thread(const struct vq_map *m, unsigned i, struct blk_set *s, struct err **errp)
{
    if (!m->e[i].id)
        return err_set(errp, "Parameter 'iothread-vq-mapping.%u.iothread' is missing", i);
    for (unsigned k = 0; k < i; k++)
        if (!strcmp(m->e[k].id, m->e[i].id))
            return err_set(errp, "iothread-vq-mapping: iothread '%s' stands there twice", m->e[i].id);
    m->e[i].io = blk_iothread_find(s, m->e[i].id, errp);
    return m->e[i].io != NULL;
}

bool vq_map_resolve(struct vq_map *m, struct blk_set *s, unsigned nr_queues, struct err **errp)
{
    for (unsigned i = 0; i < m->nr; i++) {
        if (!find_thread(m, i, s, errp))
            return false;
        if (m->e[i].explicit_vqs != m->e[0].explicit_vqs)
            return err_set(errp, "iothread-vq-mapping: give 'vqs' to every iothread or to none");
        for (unsigned q = nr_queues; q < VIRTIO_QUEUES; q++)
            if (m->e[i].vqs[q])
                return err_set(errp, "iothread-vq-mapping: iothread '%s' is given queue %u of a device with %u queues",
                               m->e[i].id, q, nr_queues);
        for (unsigned q = 0; !m->e[i].explicit_vqs && q < nr_queues; q++)
            m->e[i].vqs[q] = q % m->nr == i;
    }
    for (unsigned q = 0; m->nr && q < nr_queues; q++) {
        unsigned hits = 0;

        for (unsigned i = 0; i < m->nr; i++)
            hits += m->e[i].vqs[q];
        if (hits != 1)
            return err_set(errp,
                           hits ? "iothread-vq-mapping: queue %u is given to two iothreads"
                                : "iothread-vq-mapping: no iothread is given queue %u",
                           q);
    }
    return true;
}

struct iothread *vq_map_of(const struct vq_map *m, unsigned queue)
{
    for (unsigned i = 0; i < m->nr; i++)
        if (m->e[i].vqs[queue])
            return m->e[i].io;
    return NULL;
}
