/* HMP qemu-io: one command of the disk exerciser (blk/exercise.h) on a drive, a node, or (-d) what a device has.
 *
 * A drive is used through its own handle, as its device does; a node is claimed while the command runs. The program's
 * commands that open and close images and leave it are not the monitor's. */
#include "blk/exercise.h"
#include "mon/mon_int.h"

static void put(void *opaque, bool error, const char *text)
{
    mon_puts(opaque, text);
}

static void fail(void *opaque, struct err *e)
{
    mon_error(opaque, e);
}

static void run_line(struct mon *m, struct blk *b, const char *line)
{
    struct blk_ex x = {.set = m->set->cfg.blks, .b = b, .put = put, .fail = fail, .opaque = m};
    BLK_HOME_SCOPE(x.set);

    blk_ex_line(&x, line);
    blk_ex_release(&x);
}

void hmp_qemu_io(struct mon *m, struct hmp_args *a);
void hmp_qemu_io(struct mon *m, struct hmp_args *a)
{
    struct blk_set *s = m->set->cfg.blks;
    bool by_dev = !strcmp(a->v[0], "-d");
    struct obj *holder = NULL;
    struct err *e = NULL;
    struct blk *b;

    if (a->n != 2u + by_dev) {
        mon_puts(m, "usage: qemu-io [-d] device \"command\"\n");
        return;
    }
    b = by_dev ? mon_blk_of_dev(m->set, a->v[1]) : blk_find(s, a->v[0]);
    if (!b && by_dev) {
        mon_printf(m, "Error: Device '%s' not found, or it has no drive\n", a->v[1]);
        return;
    }
    if (!b) {
        holder = mon_machine(m)->root;
        b = blk_attach(s, a->v[0], holder, &e);
    }
    if (!b) {
        mon_error(m, e);
        return;
    }
    run_line(m, b, a->v[1 + by_dev]);
    if (holder)
        blk_detach(b, holder);
}
