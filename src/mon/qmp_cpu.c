/* QMP commands about CPU models: what -cpu takes, and what a model comes to under the accelerator in use. */
#include "accel/accel.h"
#include "base/str.h"
#include "guest/x86/cpuid.h"
#include "mon/mon_int.h"
#include "mon/qmp_gen.h"

/* What CPUs may have here; false + error when the accelerator cannot tell. *mask is NULL for the translator's own. */
static bool cpu_mask(struct mon *m, struct x86_features *own, const struct x86_features **mask, struct err **errp)
{
    const struct accel_class *a = machine_accel(mon_machine(m));

    *mask = NULL;
    if (!a || !a->cpu_features)
        return true;
    *mask = own;
    return a->cpu_features(mon_machine(m), own, errp);
}

struct model_list {
    struct json_object *list;
    const char *arch;
    const struct x86_features *mask;
};

static void add_name(const char *name, void *opaque)
{
    json_object_array_add(opaque, json_object_new_string(name));
}

static void add_model(const char *name, const char *desc, void *opaque)
{
    struct model_list *l = opaque;
    AUTOFREE char *type = xasprintf("%s-%s-cpu", name, l->arch), *alias = x86_model_alias_of(name);
    struct json_object *missing = json_object_new_array();

    (void)desc;
    x86_model_missing(name, l->mask, add_name, missing);
    json_object_array_add(l->list, json_make("s:name", name, "s:typename", type, "o:unavailable-features", missing,
                                             "b:static", !strcmp(name, "base"), "b:migration-safe",
                                             strcmp(name, "max") && strcmp(name, "host"), "s:alias-of", alias,
                                             "b:deprecated", false, NULL));
}

bool qmp_query_cpu_definitions(struct mon *m, struct json_object **ret, struct err **errp)
{
    struct x86_features own;
    struct model_list l = {.arch = m->set->cfg.arch};

    if (!cpu_mask(m, &own, &l.mask, errp))
        return false;
    l.list = json_object_new_array();
    x86_model_each(add_model, &l);
    *ret = l.list;
    return true;
}

static void add_feature(const char *name, bool on, void *opaque)
{
    json_object_object_add(opaque, name, json_object_new_boolean(on));
}

/* "name,key=value,..." as -cpu would have it. NULL + error when a property is no scalar or would change the text's
 * meaning. */
static char *model_text(struct json_object *model, struct err **errp)
{
    struct strbuf b CLEANUP(str_free) = {0};
    const char *name = json_get_str(model, "name");
    struct json_object *props = json_get(model, "props");

    if (!name || strchr(name, ',')) {
        err_set(errp, "the CPU model needs a name");
        return NULL;
    }
    str_add(&b, name);
    if (!props)
        return str_take(&b);
    if (!json_object_is_type(props, json_type_object)) {
        err_set(errp, "the properties of a CPU model are an object");
        return NULL;
    }
    json_object_object_foreach(props, key, val)
    {
        const char *text = json_object_is_type(val, json_type_boolean) ? (json_object_get_boolean(val) ? "on" : "off")
                                                                       : json_object_get_string(val);

        if (json_object_is_type(val, json_type_object) || json_object_is_type(val, json_type_array) || !text ||
            strchr(text, ',') || strchr(key, ',')) {
            err_set(errp, "property '%s' of the CPU model is no plain value", key);
            return NULL;
        }
        str_addf(&b, ",%s=%s", key, text);
    }
    return str_take(&b);
}

bool qmp_query_cpu_model_expansion(struct mon *m, const struct qmp_args_query_cpu_model_expansion *a,
                                   struct json_object **ret, struct err **errp)
{
    struct x86_features own, f;
    const struct x86_features *mask;
    AUTOFREE char *text = model_text(a->model, errp), *quiet = text ? xasprintf("%s,check=off", text) : NULL;
    struct json_object *props;
    bool full = strcmp(a->type, "full") == 0;

    if (!quiet || !cpu_mask(m, &own, &mask, errp) || !x86_cpu_parse_model(quiet, mask, &f, NULL, errp))
        return false;
    props = json_make("s:vendor", f.vendor, "s:model-id", f.model_id, "i:family", (int64_t)f.family, "i:model",
                      (int64_t)f.model, "i:stepping", (int64_t)f.stepping, "b:migratable", f.migratable, "b:l3-cache",
                      f.l3_cache, "b:pmu", f.pmu, NULL);
    if (full) {
        json_object_object_add(props, "level", json_object_new_int64(f.level));
        json_object_object_add(props, "xlevel", json_object_new_int64(f.xlevel));
        json_object_object_add(props, "phys-bits", json_object_new_int64(f.phys_bits));
        json_object_object_add(props, "kvm", json_object_new_boolean(!f.kvm_hidden));
        json_object_object_add(props, "hv-relaxed", json_object_new_boolean(f.hv_relaxed));
        json_object_object_add(props, "hv-vapic", json_object_new_boolean(f.hv_vapic));
        json_object_object_add(props, "hv-time", json_object_new_boolean(f.hv_time));
        json_object_object_add(props, "hv-vpindex", json_object_new_boolean(f.hv_vpindex));
        json_object_object_add(props, "hv-runtime", json_object_new_boolean(f.hv_runtime));
        json_object_object_add(props, "hv-reset", json_object_new_boolean(f.hv_reset));
        json_object_object_add(props, "hv-frequencies", json_object_new_boolean(f.hv_frequencies));
    }
    x86_features_each(&f, add_feature, props);
    *ret = json_make("o:model",
                     json_make("s:name", full ? json_get_str(a->model, "name") : "base", "o:props", props, NULL), NULL);
    return true;
}
