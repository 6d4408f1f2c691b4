/* Ways to run a vCPU: dbt ("tcg"), interp, kvm, qtest. Classes register themselves; cmd/ picks one per machine. */
#ifndef ACCEL_ACCEL_H
#define ACCEL_ACCEL_H

#include "base/opts.h"
#include "cpu/cpu.h"

struct x86_features;
struct accel_class {
    const char *name; /* as in -accel: "kvm", "tcg", "qtest" */
    const char *const *aliases;
    const char *desc;
    const char *const *keys; /* properties, NULL-terminated */
    /* Why it cannot be used here (missing device node, permission, architecture): false + error with remedy. */
    bool (*probe)(const char *arch, struct err **errp);
    bool (*init)(struct machine *m, struct opts *o, struct err **errp); /* before any vCPU */
    bool (*vcpu_init)(struct vcpu *c, struct err **errp); /* sets run, kick, accel_data; on the creating thread */
    void (*vcpu_free)(struct vcpu *c);
    /* What a CPU may have here: the mask for x86_cpu_parse_model. NULL: what the translator offers. After init. */
    bool (*cpu_features)(struct machine *m, struct x86_features *out, struct err **errp);
    bool (*has_smm)(struct machine *m); /* can CPUs enter system management mode; NULL = yes. After init. */
    char *(*info)(struct machine *m);   /* `info jit` / `info kvm` detail, caller frees; may be NULL */
    void (*ended)(struct machine *m);   /* the program ends: what is left to tell goes to the log; may be NULL */
    /* Registers from the accelerator into the architecture's struct and back, for KVM; NULL when they live there
     * anyway. */
    void (*get_state)(struct vcpu *c);
    void (*put_state)(struct vcpu *c);
};
struct accel_reg {
    const struct accel_class *cls;
    struct accel_reg *next;
};
void accel_register(struct accel_reg *r);
#define ACCEL_REGISTER(cls_)                                                                                           \
    static struct accel_reg cls_##_reg = {.cls = &(cls_)};                                                             \
    static void CONSTRUCTOR cls_##_register(void)                                                                      \
    {                                                                                                                  \
        accel_register(&cls_##_reg);                                                                                   \
    }
const struct accel_class *accel_find(const char *name);
const struct accel_class *accel_next(const struct accel_class *prev);
static inline const struct accel_class *machine_accel(const struct machine *m)
{
    return m->accel;
}

#endif
