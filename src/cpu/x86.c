/* Finding the x86 side of a neutral vCPU, for device models that may not see guest/x86. */
#include "cpu/x86.h"

struct x86_port *x86_port(struct vcpu *c)
{
    return c->arch->x86_port ? c->arch->x86_port(c) : NULL;
}
