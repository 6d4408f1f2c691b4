/* Bytes of the clock chip's RAM that PC firmware reads at start: memory sizes, boot order, floppies, CPU count.
 * Layout: the AT's CMOS map as SeaBIOS uses it. */
#include "board/x86/pc_int.h"
#include "hw/block/fdc.h"
#include "hw/rtc/rtc.h"

enum {
    CMOS_FLOPPY = 0x10,
    CMOS_EQUIPMENT = 0x14,
    CMOS_BASE_MEM = 0x15,
    CMOS_EXT_MEM = 0x17,
    CMOS_EXT_MEM_OLD = 0x30,
    CMOS_MEM_ABOVE_16M = 0x34,
    CMOS_BOOT_THIRD = 0x38,
    CMOS_BOOT_FIRST = 0x3d,
    CMOS_MEM_ABOVE_4G = 0x5b,
    CMOS_SMP_COUNT = 0x5f,
};
enum { EQUIP_FLOPPY = 1, EQUIP_FPU = 2, EQUIP_MOUSE = 4, BOOT_NO_FLOPPY_CHECK = 1, BASE_MEM_KB = 640, MAX_BOOT = 3 };

static int boot_code(char c)
{
    switch (c) {
    case 'a':
    case 'b':
        return 1;
    case 'c':
        return 2;
    case 'd':
        return 3;
    case 'n':
        return 4;
    default:
        return -1;
    }
}

bool pc_boot_order_valid(const char *order, struct err **errp)
{
    bool seen[256] = {false};

    for (const char *s = order; s && *s; s++) {
        if (boot_code(*s) < 0) {
            err_set(errp, "invalid boot device '%c' for a PC", *s);
            err_hint(errp, "Boot devices are a (floppy), c (hard disk), d (CD-ROM) and n (network).");
            return false;
        }
        if (seen[(uint8_t)*s])
            return err_set(errp, "boot device '%c' was given twice", *s);
        seen[(uint8_t)*s] = true;
    }
    if (order && strlen(order) > MAX_BOOT)
        return err_set(errp, "too many boot devices in '%s': a PC takes %d", order, MAX_BOOT);
    return true;
}

static void set16(struct dev *rtc, uint8_t at, uint64_t v)
{
    v = min_u64(v, UINT16_MAX);
    rtc_cmos_set(rtc, at, (uint8_t)v);
    rtc_cmos_set(rtc, at + 1, (uint8_t)(v >> 8));
}

static void set_memory(struct pc *p, struct dev *rtc)
{
    uint64_t below = p->below_4g, above = p->above_4g >> 16;

    set16(rtc, CMOS_BASE_MEM, BASE_MEM_KB);
    set16(rtc, CMOS_EXT_MEM, below > MIB ? (below - MIB) >> 10 : 0);
    set16(rtc, CMOS_EXT_MEM_OLD, below > MIB ? (below - MIB) >> 10 : 0);
    set16(rtc, CMOS_MEM_ABOVE_16M, below > 16 * MIB ? (below - 16 * MIB) >> 16 : 0);
    for (unsigned i = 0; i < 3; i++)
        rtc_cmos_set(rtc, CMOS_MEM_ABOVE_4G + i, (uint8_t)(above >> (8 * i)));
}

static void set_boot_order(struct pc *p, const char *order)
{
    struct dev *rtc = p->south.rtc;
    uint8_t code[MAX_BOOT] = {0};

    for (unsigned i = 0; i < MAX_BOOT && order[i]; i++)
        code[i] = (uint8_t)boot_code(order[i]);
    rtc_cmos_set(rtc, CMOS_BOOT_FIRST, code[0] | code[1] << 4);
    rtc_cmos_set(rtc, CMOS_BOOT_THIRD, code[2] << 4 | (p->fd_bootchk ? 0 : BOOT_NO_FLOPPY_CHECK));
}

/* -boot once= counts for the first start only. */
void pc_reset_boot_once(struct pc *p)
{
    if (p->boot_once && p->boot_once_done) {
        set_boot_order(p, p->boot_order);
        p->boot_once = false;
    }
    p->boot_once_done = true;
}

/* The controller of the board's own drives, or one of -device. */
static void find_floppy(struct dev *d, void *opaque)
{
    struct pc *p = opaque;

    if (!p->floppy && !strcmp(d->obj.cls->name, "isa-fdc"))
        p->floppy = d;
}

bool pc_setup_cmos(struct pc *p, struct err **errp)
{
    struct dev *rtc = p->south.rtc;
    const char *order = p->cfg->boot.order ? p->cfg->boot.order : "cad";
    uint8_t equip = EQUIP_FPU | EQUIP_MOUSE, fd[2];

    if (!rtc)
        return err_set(errp, "this machine needs a clock chip");
    snprintf(p->boot_order, sizeof p->boot_order, "%s", order);
    p->boot_once = p->cfg->boot.once != NULL;
    set_boot_order(p, p->boot_once ? p->cfg->boot.once : order);
    set_memory(p, rtc);
    machine_each_dev(p->m, find_floppy, p);
    for (unsigned i = 0; i < ARRAY_LEN(fd); i++)
        fd[i] = p->floppy ? fdc_cmos_type(p->floppy, i) : 0;
    rtc_cmos_set(rtc, CMOS_FLOPPY, (uint8_t)(fd[0] << 4 | fd[1]));
    if (fd[0])
        equip |= EQUIP_FLOPPY | (fd[1] ? 1 << 6 : 0);
    rtc_cmos_set(rtc, CMOS_EQUIPMENT, equip);
    rtc_cmos_set(rtc, CMOS_SMP_COUNT, (uint8_t)(p->m->nr_cpus - 1));
    return true;
}
