/* The interpreting accelerator: guest/x86's interpreter as the vCPU's loop. Slow and exact; translators are compared
 * with it. */
#include "accel/accel.h"
#include "accel/icount.h"
#include "guest/x86/state.h"

static bool interp_probe(const char *arch, struct err **errp)
{
    if (strcmp(arch, "x86_64") && strcmp(arch, "i386"))
        return err_set(errp, "the interpreter has no %s CPUs", arch);
    return true;
}
static bool interp_init(struct machine *m, struct opts *o, struct err **errp)
{
    return true;
}
static enum vcpu_exit interp_run(struct vcpu *v)
{
    return x86_interp_run(x86_cpu(v), UINT64_MAX);
}
static void interp_kick(struct vcpu *v)
{
    /* The loop looks at pins and exit_request after every instruction. */
}
static bool interp_vcpu_init(struct vcpu *v, struct err **errp)
{
    v->run = interp_run;
    v->kick = interp_kick;
    return !v->m->icount || icount_vcpu(v, errp);
}
static char *interp_info(struct machine *m)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < m->nr_cpus; i++)
        n += x86_cpu(m->cpus[i])->insn_count;
    if (m->icount)
        return icount_info(m);
    return xasprintf("interpreter: %" PRIu64 " instructions executed\n", n);
}
static const char *const interp_keys[] = {NULL};
static const struct accel_class interp_class = {
    .name = "interp",
    .desc = "instruction by instruction, no translation",
    .keys = interp_keys,
    .probe = interp_probe,
    .init = interp_init,
    .vcpu_init = interp_vcpu_init,
    .info = interp_info,
};
ACCEL_REGISTER(interp_class)
