/* The accelerator of the test channel: no guest code runs, the virtual clock moves only by command (mon/qtest.c).
 * A vCPU's thread sleeps here until somebody wants it stopped. */
#include "accel/accel.h"

static bool qtest_init(struct machine *m, struct opts *o, struct err **errp)
{
    m->stepped = true;
    clk_set_stepped(m->run->virt);
    return true;
}

static enum vcpu_exit qtest_run(struct vcpu *c)
{
    pthread_mutex_lock(&c->lock);
    while (!c->exit_request)
        pthread_cond_wait(&c->cond, &c->lock);
    pthread_mutex_unlock(&c->lock);
    return VCPU_EXIT_KICKED;
}

static void qtest_kick(struct vcpu *c)
{
    pthread_mutex_lock(&c->lock);
    c->exit_request = true;
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->lock);
}

static bool qtest_vcpu_init(struct vcpu *c, struct err **errp)
{
    c->run = qtest_run;
    c->kick = qtest_kick;
    return true;
}

static const char *const no_keys[] = {NULL};
static const struct accel_class qtest_class = {.name = "qtest",
                                               .desc = "no CPU runs; devices are driven by a test program",
                                               .keys = no_keys,
                                               .init = qtest_init,
                                               .vcpu_init = qtest_vcpu_init};
ACCEL_REGISTER(qtest_class)
