/* The board "none": no devices, no memory map. No CPUs either. For tools that
 * want a monitor and object tree without a guest. */
#include "board/board.h"

static bool none_create(struct machine *m, struct board_cfg *cfg, struct err **errp)
{
    m->ram_size = cfg->ram_size;
    if (cfg->kernel || cfg->bios)
        return err_set(errp, "the machine none runs no guest: -kernel and -bios need another machine");
    return true;
}

static const struct prop none_props[] = {PROP_END};
static const struct board_class board_none = {.name = "none-machine",
                                              .parent = "machine",
                                              .desc = "empty machine",
                                              .size = sizeof(struct obj),
                                              .props = none_props,
                                              .machine = "none",
                                              .arch = "x86_64",
                                              .max_cpus = 1,
                                              .no_cdrom = true,
                                              .no_floppy = true,
                                              .no_serial = true,
                                              .no_vga = true,
                                              .create = none_create};
BOARD_REGISTER(board_none)
