/* The guest architectures that are built in. */
#include "user/linux/arch.h"
#include "base/util.h"

#include <string.h>

enum { MAX_ARCH = 16 };
static const struct lx_arch *archs[MAX_ARCH]; /* filled before main */
static unsigned nr_archs;

void lx_arch_register(const struct lx_arch *a)
{
    assert(nr_archs < MAX_ARCH);
    archs[nr_archs++] = a;
}

const struct lx_arch *lx_arch_find(const char *name)
{
    for (unsigned i = 0; i < nr_archs; i++)
        if (!strcmp(archs[i]->name, name))
            return archs[i];
    return NULL;
}

const struct lx_arch *lx_arch_of_elf(unsigned machine, unsigned elf_class)
{
    for (unsigned i = 0; i < nr_archs; i++)
        if (archs[i]->elf_machine == machine && archs[i]->elf_class == elf_class)
            return archs[i];
    return NULL;
}
