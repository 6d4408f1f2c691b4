/* x86fuzz [--rounds N] [--seed S] [--engine interp|tcg]: random code with random registers in every mode and privilege,
 * with the guest free to wreck its own tables. Nothing is compared: the claim is that no guest crashes or hangs the
 * program. Each round runs for a few milliseconds at most; a CPU that does not come back when kicked ends the program
 * with status 1. */
#include "diff.h"

#include "accel/accel.h"
#include "base/bytes.h"
#include "cpu/cpu.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { RAM = 4 << 20, CODE = 0x10000, ROUND_US = 1500, HANG_MS = 5000 };

struct fuzz {
    struct machine *m;
    struct x86_cpu *c;
    struct mem_region ram, io;
    struct rng rng;
    _Atomic uint64_t round; /* odd while the CPU runs */
    _Atomic bool stop;
};

static uint64_t io_read(void *opaque, gpa_t off, unsigned size)
{
    return 0x55;
}
static void io_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
}
static const struct mem_ops io_ops = {.read = io_read, .write = io_write};

/* Kicks the CPU out of a round that lasts, and ends the program when that does not help. */
static void *watch(void *arg)
{
    struct fuzz *f = arg;
    uint64_t seen = 0, since = 0;

    while (!f->stop) {
        uint64_t now = f->round;

        usleep(ROUND_US);
        if (!(now & 1) || now != f->round) {
            since = 0;
            continue;
        }
        since = now == seen ? since + 1 : 0;
        seen = now;
        vcpu_kick(&f->c->vcpu);
        if (since * ROUND_US / 1000 > HANG_MS) {
            fprintf(stderr, "x86fuzz: round %" PRIu64 " hangs\n", now / 2);
            _exit(1);
        }
    }
    return NULL;
}

static void random_code(struct fuzz *f, uint8_t *p, unsigned n, int mode)
{
    struct x86_insn in;

    for (unsigned i = 0; i < n;) {
        const struct drow *row = &drows[rnd_below(&f->rng, nr_drows)];

        if (rnd_below(&f->rng, 4) && gen_insn(&f->rng, row, mode, &in) && i + in.len <= n) {
            memcpy(p + i, in.bytes, in.len);
            i += in.len;
        } else {
            p[i++] = (uint8_t)rnd(&f->rng);
        }
    }
}

/* Identity tables for 4 MiB, somewhat damaged at times. */
static void random_tables(struct fuzz *f, uint8_t *ram, bool pae)
{
    uint64_t at = 0x3000;

    memset(ram + 0x1000, 0, 0x4000);
    if (pae) {
        put_le64(ram + 0x1000, 0x2007);
        put_le64(ram + 0x2000, 0x3000 | (f->c->efer & X86_EFER_LMA ? 7 : 1));
        put_le64(ram + at, 0xe7);
        put_le64(ram + at + 8, 0x2000e7);
    } else {
        put_le32(ram + 0x1000, 0xe7);
    }
    if (rnd_below(&f->rng, 3) == 0)
        put_le64(ram + 0x1000 + rnd_below(&f->rng, 0x800) * 8, rnd(&f->rng) & 0x1ffff);
}

static void random_state(struct fuzz *f)
{
    struct x86_cpu *c = f->c;
    struct rng *r = &f->rng;
    unsigned kind = (unsigned)rnd_below(r, 5); /* real, protected 16, protected 32, long 32, long 64 */
    unsigned cpl = kind && rnd_below(r, 2) ? 3 : 0;
    uint32_t seg = X86_SEG_P | X86_SEG_S | cpl << X86_SEG_DPL_SHIFT | X86_SEG_W | X86_SEG_A;

    x86_reset_cpu(c, false);
    for (unsigned i = 0; i < 16; i++)
        c->regs[i] = rnd_below(r, 2) ? rnd_below(r, RAM) : rnd(r);
    c->regs[X86_RSP] = 0x8000 + (rnd(r) & 0xff8);
    for (int s = X86_ES; s <= X86_GS; s++)
        c->seg[s] = (struct x86_seg){.sel = (uint16_t)(rnd_below(r, 8) * 8 | cpl),
                                     .limit = kind < 2 ? 0xffff : UINT32_MAX,
                                     .flags = seg | (kind >= 2 ? X86_SEG_DB | X86_SEG_G : 0)};
    c->seg[X86_CS].flags = (c->seg[X86_CS].flags & ~(uint32_t)X86_SEG_DB) | X86_SEG_CODE |
                           (kind == 4   ? X86_SEG_L
                            : kind >= 2 ? X86_SEG_DB
                                        : 0);
    c->seg[X86_CS].base = kind < 2 ? CODE : 0;
    c->rip = kind < 2 ? 0 : CODE;
    c->gdt.base = 0x6000;
    c->gdt.limit = 0xff;
    c->idt.base = kind ? 0x7000 : 0;
    c->idt.limit = kind ? 0x7ff : 0x3ff;
    c->cr0 = X86_CR0_ET | X86_CR0_NE | (kind ? X86_CR0_PE : 0) |
             (kind >= 3 || (kind && rnd_below(r, 2)) ? X86_CR0_PG : 0) |
             (rnd(r) & (X86_CR0_WP | X86_CR0_TS | X86_CR0_MP | X86_CR0_AM));
    c->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | (kind >= 3 ? X86_CR4_PAE : 0) |
             (rnd(r) & (X86_CR4_PSE | X86_CR4_PGE));
    c->cr4 |= kind < 3 ? X86_CR4_PSE : 0;
    c->cr3 = 0x1000;
    c->efer = kind >= 3 ? X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA : X86_EFER_SCE;
    c->xcr0 = 7;
    c->rflags = 2 | (rnd(r) & (X86_ARITH | X86_DF | X86_IF | X86_IOPL | (rnd_below(r, 8) ? 0 : X86_TF | X86_AC)));
    c->cpl = (uint8_t)cpl;
    x86_update_mode(c);
    random_tables(f, mem_region_ptr(&f->ram), kind >= 3);
}

static void one_round(struct fuzz *f)
{
    uint8_t *ram = mem_region_ptr(&f->ram);
    struct x86_cpu *c = f->c;

    random_state(f);
    random_code(f, ram + CODE, 256, c->mode);
    for (unsigned i = 0; i < 0x200; i += 8) /* GDT and IDT of sorts */
        put_le64(ram + 0x6000 + i, rnd_below(&f->rng, 2) ? UINT64_C(0x00cf9b000000ffff) : rnd(&f->rng));
    mem_ram_written(f->ram.ram, 0, RAM);
    x86_tlb_flush(c, true);
    c->vcpu.halted = false;
    c->vcpu.exit_request = false;
    c->shutdown = false;
    f->round++;
    c->vcpu.run(&c->vcpu);
    f->round++;
}

static bool set_up(struct fuzz *f, const char *engine)
{
    const struct accel_class *a = accel_find(engine);
    struct err *e = NULL;
    bool ok;

    f->m = machine_new(run_new());
    f->m->accel = a;
    ok =
        a && mem_region_init_ram(&f->ram, f->m->mem_sys, "ram", RAM, &e) && (!a->init || a->init(f->m, opts_new(), &e));
    if (ok) {
        mem_region_add(&f->m->sysmem, 0, &f->ram);
        mem_region_init_io(&f->io, f->m->mem_sys, &io_ops, f, "io", 0x100);
        mem_region_add(&f->m->sysio, 0, &f->io);
        f->c = x86_cpu_new(f->m, &e);
        ok = f->c;
    }
    if (ok) {
        x86_features_max(&f->c->feat);
        ok = a->vcpu_init(&f->c->vcpu, &e);
    }
    if (!ok && e)
        err_report(e);
    return ok;
}

int main(int argc, char **argv)
{
    static struct fuzz f;
    unsigned long rounds = 500;
    const char *engine = "interp";
    pthread_t t;

    f.rng.s = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--rounds") == 0)
            rounds = strtoul(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--seed") == 0)
            f.rng.s = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--engine") == 0)
            engine = argv[i + 1];
        else
            return fprintf(stderr, "usage: x86fuzz [--rounds N] [--seed S] [--engine interp|tcg]\n"), 2;
    }
    if (!set_up(&f, engine))
        return 2;
    run_unlock(f.m->run);
    if (pthread_create(&t, NULL, watch, &f))
        return 2;
    for (unsigned long i = 0; i < rounds; i++)
        one_round(&f);
    f.stop = true;
    pthread_join(t, NULL);
    printf("x86fuzz: %lu rounds with %s\n", rounds, engine);
    fflush(stdout);
    _exit(0); /* the guest is alive to the end: nothing is taken down */
}
