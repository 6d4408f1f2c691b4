/* x86fuzz [--rounds N] [--insns N] [--seconds N] [--seed S] [--cpus N] [--engine ACCEL[,PROPERTY...]]: hostile guests.
 *
 * Each round gives every CPU random code and registers in a random mode: real, virtual 8086, protected 16 and 32 bits,
 * 32 and 64 bits of long mode, system management; with tables the guest is free to wreck, interrupts out of nowhere,
 * code that rewrites itself and that of the other CPU over page ends, jumps into the middle of instructions, pages
 * touched in great number and chains of blocks that fill the code cache. Nothing is compared (but with --engine
 * tcg,lockstep=on): the claim is that no guest crashes or hangs the program or makes it grow. A round runs for a few
 * milliseconds at most; a CPU that does not come back when kicked ends the program with status 1, as does memory that
 * grows by more than GROWTH_KIB for each CPU after 200 rounds: what the decode caches may come to, and a code cache of
 * 4 MiB (run with tb-size=4). */
#include "diff.h"

#include "accel/accel.h"
#include "base/bytes.h"
#include "base/opts.h"
#include "base/str.h"
#include "cpu/cpu.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { RAM = 8 << 20, CODE = 0x10000, AREA = 0x4000, CHAIN = 0x100000, ROUND_US = 1500, HANG_MS = 10000, CPUS = 4 };
enum { GROWTH_KIB = 64 << 10 };
enum { REAL, VM86, PROT16, PROT32, LONG32, LONG64, SMM, KINDS };
static const char *const kind_names[] = {"real", "vm86", "prot16", "prot32", "long32", "long64", "smm"};

struct fuzz_cpu {
    struct fuzz *f;
    struct x86_cpu *c;
    unsigned n;
    struct rng rng;
    _Atomic uint64_t round; /* odd while the CPU runs */
    uint64_t ran[KINDS], triple;
    struct mem_ram *ram;
    bool own_tables; /* this round has 4 KiB pages at TABLES */
};
struct fuzz {
    struct machine *m;
    struct mem_region ram, io;
    struct fuzz_cpu cpu[CPUS];
    unsigned nr;
    uint64_t rounds;
    uint64_t insns, until_s;
    uint64_t start_s, rss_kib;
    _Atomic bool stop, ended; /* no more rounds; the last one is over everywhere */
};

static uint64_t io_read(void *opaque, gpa_t off, unsigned size)
{
    return 0x55;
}
static void io_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
}
static const struct mem_ops io_ops = {.read = io_read, .write = io_write};

static uint64_t now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec;
}

static uint64_t rss_kib(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long all = 0, res = 0;

    if (!f || fscanf(f, "%lu %lu", &all, &res) != 2)
        res = 0;
    if (f)
        fclose(f);
    return (uint64_t)res * 4;
}

/* Instructions executed by all CPUs, as the accelerator says. */
static uint64_t executed(const struct fuzz *f)
{
    char *text = machine_accel(f->m)->info(f->m), *at = strstr(text, " instructions executed");
    uint64_t n = 0;

    while (at && at > text && at[-1] >= '0' && at[-1] <= '9')
        at--;
    if (at)
        n = strtoull(at, NULL, 10);
    free(text);
    return n;
}

/* Interrupts out of nowhere, and the end of a round that lasts; the program ends when that does not help. */
static void *watch(void *arg)
{
    struct fuzz *f = arg;
    uint64_t seen[CPUS] = {0}, since[CPUS] = {0};
    struct rng rng = {f->cpu[0].rng.s ^ 1};

    while (!f->ended) { /* to the end: a kick is lost on a CPU that has not begun its round */
        uint64_t now[CPUS];

        for (unsigned i = 0; i < f->nr; i++)
            now[i] = f->cpu[i].round;
        usleep(ROUND_US / 3);
        if (rnd_below(&rng, 2))
            vcpu_raise(&f->cpu[rnd_below(&rng, f->nr)].c->vcpu,
                       (uint32_t[]){X86_PIN_INTR, X86_PIN_INTR, X86_PIN_NMI, X86_PIN_SMI}[rnd_below(&rng, 4)]);
        usleep(ROUND_US * 2 / 3);
        for (unsigned i = 0; i < f->nr; i++) {
            if (!(now[i] & 1) || now[i] != f->cpu[i].round) {
                since[i] = 0;
                continue;
            }
            since[i] = now[i] == seen[i] ? since[i] + 1 : 0;
            seen[i] = now[i];
            vcpu_kick(&f->cpu[i].c->vcpu);
            if (since[i] * ROUND_US / 1000 > HANG_MS) {
                fprintf(stderr, "x86fuzz: CPU %u hangs in its round %" PRIu64 "\n", i, now[i] / 2);
                _exit(1);
            }
        }
    }
    return NULL;
}

static int ack(void *opaque)
{
    struct fuzz_cpu *p = opaque;

    vcpu_lower(&p->c->vcpu, X86_PIN_INTR);
    return (int)rnd_below(&p->rng, 256);
}

static void random_code(struct fuzz_cpu *f, uint8_t *p, unsigned n, int mode)
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

static uint8_t *ram_of(const struct fuzz_cpu *f)
{
    return f->ram->host;
}

static unsigned area(const struct fuzz_cpu *f)
{
    return CODE + f->n * AREA;
}

/* Stores of immediates into the code, ours and the others', near page ends, then jumps into it: 32- and 64-bit code. */
static unsigned rewriting_code(struct fuzz_cpu *f, uint8_t *p)
{
    unsigned at = 0;

    for (unsigned i = 0; i < 12; i++) {
        unsigned to = CODE + (unsigned)rnd_below(&f->rng, f->f->nr) * AREA + (rnd_below(&f->rng, 2) ? 0xff0 : 0) +
                      (unsigned)rnd_below(&f->rng, 40);

        p[at++] = 0xc7; /* mov dword [disp32], imm32; SIB form, the same in both modes */
        p[at++] = 0x04;
        p[at++] = 0x25;
        put_le32(p + at, to);
        put_le32(p + at + 4, (uint32_t)rnd(&f->rng) & (rnd_below(&f->rng, 2) ? 0x90909090 : UINT32_MAX));
        at += 8;
        if (rnd_below(&f->rng, 3) == 0) { /* jmp rel8: back, ahead, into the middle */
            p[at++] = 0xeb;
            p[at++] = (uint8_t)rnd(&f->rng);
        }
    }
    p[at++] = 0xe9;
    put_le32(p + at, (uint32_t) - (int32_t)(at + 4));
    return at + 4;
}

/* Touches page after page, with INVLPG now and then: rdi walks through 8 MiB. */
static unsigned touching_code(struct fuzz_cpu *f, uint8_t *p)
{
    static const uint8_t loop[] = {0x8b, 0x07,                         /* mov eax, [rdi] */
                                   0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, /* add edi, 4096 */
                                   0x81, 0xe7, 0xff, 0xff, 0x7f, 0x00, /* and edi, 8 MiB - 1 */
                                   0x01, 0x97, 0x00, 0x00, 0x20, 0x00, /* add [rdi + 2 MiB], edx */
                                   0x0f, 0x01, 0x3f,                   /* invlpg [rdi] */
                                   0xff, 0xc1, 0x75, 0x00};            /* inc ecx; jnz */

    memcpy(p, loop, sizeof loop);
    p[sizeof loop - 1] = (uint8_t) - (int)sizeof loop;
    if (rnd_below(&f->rng, 2)) /* without INVLPG */
        memset(p + 20, 0x90, 3);
    return sizeof loop;
}

/* Short blocks all over memory, each jumping to another: the code cache fills. */
static void chain(struct fuzz_cpu *f, uint8_t *ram)
{
    uint32_t at = CHAIN + (uint32_t)rnd_below(&f->rng, RAM - CHAIN - 0x1000);

    ram[area(f)] = 0xe9;
    put_le32(ram + area(f) + 1, at - area(f) - 5);
    for (unsigned i = 0; i < 4000; i++) {
        uint32_t to = CHAIN + (uint32_t)rnd_below(&f->rng, RAM - CHAIN - 0x1000);

        ram[at] = (uint8_t)(0x40 | rnd_below(&f->rng, 8)); /* inc reg, or a REX prefix before what follows */
        ram[at + 1] = 0x01;
        ram[at + 2] = (uint8_t)(0xc0 | rnd_below(&f->rng, 64)); /* add */
        ram[at + 3] = 0xe9;
        put_le32(ram + at + 4, to - at - 8);
        at = to;
    }
}

/* Identity tables for all of memory, somewhat damaged at times; each CPU has its own. */
static void random_tables(struct fuzz_cpu *f, uint8_t *ram, bool pae)
{
    uint64_t base = 0x40000 + f->n * 0x10000;
    bool small = rnd_below(&f->rng, 2);

    memset(ram + base, 0, 0x10000);
    if (pae) {
        put_le64(ram + base, (base + 0x1000) | 7);
        put_le64(ram + base + 0x1000, (base + 0x2000) | (f->c->efer & X86_EFER_LMA ? 7 : 1));
        for (unsigned i = 0; i < RAM >> 21; i++) {
            put_le64(ram + base + 0x2000 + 8 * i, small ? (base + 0x3000 + 0x1000 * i) | 7 : i << 21 | 0xe7);
            for (unsigned k = 0; small && k < 512; k++)
                put_le64(ram + base + 0x3000 + 0x1000 * i + 8 * k, (i << 21 | k << 12) | 0x67);
        }
    } else {
        for (unsigned i = 0; i < RAM >> 22; i++) {
            put_le32(ram + base + 4 * i, small ? (uint32_t)(base + 0x3000 + 0x1000 * i) | 7 : i << 22 | 0xe7);
            for (unsigned k = 0; small && k < 1024; k++)
                put_le32(ram + base + 0x3000 + 0x1000 * i + 4 * k, (i << 22 | k << 12) | 0x67);
        }
    }
    f->c->cr3 = base;
    if (rnd_below(&f->rng, 3) == 0)
        put_le64(ram + base + rnd_below(&f->rng, 0x1000) * 8, rnd(&f->rng) & 0x1ffff);
}

static void random_segments(struct fuzz_cpu *f, unsigned kind, unsigned cpl)
{
    uint32_t seg = X86_SEG_P | X86_SEG_S | cpl << X86_SEG_DPL_SHIFT | X86_SEG_W | X86_SEG_A;
    bool small = kind < PROT32 || kind == SMM;
    struct x86_cpu *c = f->c;

    for (int s = X86_ES; s <= X86_GS; s++)
        c->seg[s] = (struct x86_seg){.sel = (uint16_t)(rnd_below(&f->rng, 8) * 8 | cpl),
                                     .limit = small ? 0xffff : UINT32_MAX,
                                     .flags = seg | (small ? 0 : X86_SEG_DB | X86_SEG_G)};
    c->seg[X86_CS].flags = (c->seg[X86_CS].flags & ~(uint32_t)X86_SEG_DB) | X86_SEG_CODE |
                           (kind == LONG64 ? X86_SEG_L
                            : small        ? 0
                                           : X86_SEG_DB);
    if (kind == VM86 || kind == REAL || kind == SMM)
        for (int s = X86_ES; s <= X86_GS; s++)
            c->seg[s].base = (uint32_t)c->seg[s].sel << 4;
    if (small) {
        c->seg[X86_CS].sel = (uint16_t)(area(f) >> 4);
        c->seg[X86_CS].base = area(f);
    }
    c->rip = small ? 0 : area(f);
}

static unsigned random_state(struct fuzz_cpu *f)
{
    struct x86_cpu *c = f->c;
    struct rng *r = &f->rng;
    unsigned kind = (unsigned)rnd_below(r, KINDS);
    unsigned cpl = kind == VM86 || (kind && kind != SMM && rnd_below(r, 2)) ? 3 : 0;
    bool pe = kind != REAL && kind != SMM, lma = kind == LONG32 || kind == LONG64;

    x86_reset_cpu(c, false);
    for (unsigned i = 0; i < 16; i++)
        c->regs[i] = rnd_below(r, 2) ? rnd_below(r, RAM) : rnd(r);
    c->regs[X86_RSP] = 0x8000 + (rnd(r) & 0xff8);
    random_segments(f, kind, cpl);
    c->gdt.base = 0x6000;
    c->gdt.limit = 0xff;
    c->idt.base = pe ? 0x7000 : 0;
    c->idt.limit = pe ? 0x7ff : 0x3ff;
    c->cr0 = X86_CR0_ET | X86_CR0_NE | (pe ? X86_CR0_PE : 0) | (lma || (pe && rnd_below(r, 2)) ? X86_CR0_PG : 0) |
             (rnd(r) & (X86_CR0_WP | X86_CR0_TS | X86_CR0_MP | X86_CR0_AM));
    c->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | (lma ? X86_CR4_PAE : X86_CR4_PSE) |
             (rnd(r) & (X86_CR4_PSE | X86_CR4_PGE | X86_CR4_VME));
    c->efer = lma ? X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA : X86_EFER_SCE;
    c->xcr0 = x86_has(&c->feat, X86_F_AVX512F) && rnd_below(&f->rng, 4) ? 0xe7 : 7;
    c->rflags = 2 | (rnd(r) & (X86_ARITH | X86_DF | X86_IF | X86_IOPL | (rnd_below(r, 8) ? 0 : X86_TF | X86_AC))) |
                (kind == VM86 ? X86_VM : 0);
    c->cpl = (uint8_t)cpl;
    c->smm = kind == SMM;
    c->smbase = 0x30000;
    random_tables(f, ram_of(f), lma);
    x86_update_mode(c);
    return kind;
}

static void one_round(struct fuzz_cpu *f)
{
    uint8_t *ram = ram_of(f);
    struct x86_cpu *c = f->c;
    unsigned kind = random_state(f), what = (unsigned)rnd_below(&f->rng, 8);

    random_code(f, ram + area(f), what == 3 ? 0x1100 : 256, c->mode);
    if (what == 0)
        rewriting_code(f, ram + area(f));
    else if (what == 1)
        touching_code(f, ram + area(f));
    else if (what == 2 && f->n == 0)
        chain(f, ram);
    if (what == 3) { /* runs over the end of its page */
        if (c->seg[X86_CS].base)
            c->rip = 0xff0;
        else
            c->rip += 0xff0;
    }
    for (unsigned i = 0; i < 0x200; i += 8) /* GDT and IDT of sorts */
        put_le64(ram + 0x6000 + i, rnd_below(&f->rng, 2) ? UINT64_C(0x00cf9b000000ffff) : rnd(&f->rng));
    mem_ram_written(f->ram, 0, RAM);
    x86_tlb_flush(c, true);
    c->vcpu.halted = false;
    c->vcpu.exit_request = false;
    c->shutdown = false;
    c->wait_sipi = false;
    f->ran[kind]++;
    f->round++;
    if (c->vcpu.run(&c->vcpu) == VCPU_EXIT_ERROR) {
        fprintf(stderr, "x86fuzz: round %" PRIu64 " of CPU %u in mode %s\n", f->round / 2, f->n, kind_names[kind]);
        _exit(1);
    }
    f->round++;
    f->triple += c->shutdown;
}

/* All CPUs go on until CPU 0 finds that it is enough. */
static bool enough(struct fuzz *f)
{
    uint64_t i = f->cpu[0].round / 2;

    if (f->insns && i % 64 == 0 && executed(f) >= f->insns)
        return true;
    if (f->until_s && now_s() >= f->until_s)
        return true;
    if (i >= f->rounds)
        return !f->insns || f->rounds != 0;
    return false;
}

static void *run_cpu(void *arg)
{
    struct fuzz_cpu *p = arg;
    struct fuzz *f = p->f;

    while (p->n ? !f->stop : !enough(f)) {
        one_round(p);
        if (p->n == 0 && p->round / 2 == 200)
            f->rss_kib = rss_kib();
    }
    return NULL;
}

static bool add_cpu(struct fuzz *f, unsigned n, const struct accel_class *a, struct err **errp)
{
    struct fuzz_cpu *p = &f->cpu[n];

    p->f = f;
    p->n = n;
    p->rng.s = f->cpu[0].rng.s + n * 7919;
    p->ram = f->ram.ram;
    p->c = x86_cpu_new(f->m, errp);
    if (!p->c)
        return false;
    x86_features_max(&p->c->feat);
    p->c->port.pic_ack = ack;
    p->c->port.pic = p;
    return a->vcpu_init(&p->c->vcpu, errp);
}

static bool set_up(struct fuzz *f, const char *engine)
{
    struct err *e = NULL;
    struct opts *o = opts_parse(engine, "accel", &e);
    const char *name = o ? opts_get(o, "accel") : NULL;
    const struct accel_class *a = name ? accel_find(name) : NULL;
    bool ok;

    f->m = machine_new(run_new());
    f->m->accel = a;
    ok = a && mem_region_init_ram(&f->ram, f->m->mem_sys, "ram", RAM, &e) && (!a->init || a->init(f->m, o, &e));
    if (ok) {
        mem_region_add(&f->m->sysmem, 0, &f->ram);
        mem_region_init_io(&f->io, f->m->mem_sys, &io_ops, f, "io", 0x100);
        mem_region_add(&f->m->sysio, 0, &f->io);
    }
    for (unsigned i = 0; ok && i < f->nr; i++)
        ok = add_cpu(f, i, a, &e);
    if (!ok && e)
        err_report(e);
    return ok;
}

static bool number(const char *text, uint64_t *out)
{
    return str_to_u64(text, out);
}

static bool arguments(struct fuzz *f, int argc, char **argv, const char **engine)
{
    uint64_t n = 0;

    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc)
            return false;
        if (strcmp(argv[i], "--engine") == 0)
            *engine = argv[i + 1];
        else if (!number(argv[i + 1], &n))
            return false;
        else if (strcmp(argv[i], "--rounds") == 0)
            f->rounds = n;
        else if (strcmp(argv[i], "--insns") == 0)
            f->insns = n;
        else if (strcmp(argv[i], "--seconds") == 0)
            f->until_s = now_s() + n;
        else if (strcmp(argv[i], "--seed") == 0)
            f->cpu[0].rng.s = n;
        else if (strcmp(argv[i], "--cpus") == 0 && n && n <= CPUS)
            f->nr = (unsigned)n;
        else
            return false;
    }
    if (!f->rounds && !f->insns && !f->until_s)
        f->rounds = 500;
    if (!f->rounds)
        f->rounds = UINT64_MAX;
    return true;
}

static int tell(struct fuzz *f, const char *engine)
{
    uint64_t kib = rss_kib(), grown = f->rss_kib && kib > f->rss_kib ? kib - f->rss_kib : 0, triple = 0, rounds = 0;

    printf("x86fuzz: %" PRIu64 " instructions in %" PRIu64 " s with %s on %u CPUs, rounds:", executed(f),
           now_s() - f->start_s, engine, f->nr);
    for (unsigned k = 0; k < KINDS; k++) {
        uint64_t n = 0;

        for (unsigned i = 0; i < f->nr; i++)
            n += f->cpu[i].ran[k];
        printf(" %s %" PRIu64, kind_names[k], n);
        rounds += n;
    }
    for (unsigned i = 0; i < f->nr; i++)
        triple += f->cpu[i].triple;
    printf("; %" PRIu64 " rounds, %" PRIu64 " ended in a triple fault; memory %" PRIu64 " MiB, grown by %" PRIu64
           " KiB\n",
           rounds, triple, kib >> 10, grown);
    fflush(stdout);
    if (grown > GROWTH_KIB * f->nr) {
        fprintf(stderr, "x86fuzz: memory grew by more than %d KiB\n", GROWTH_KIB * f->nr);
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static struct fuzz f = {.nr = 1};
    const char *engine = "interp";
    pthread_t t, other[CPUS];

    f.cpu[0].rng.s = 1;
    if (!arguments(&f, argc, argv, &engine))
        return fprintf(stderr,
                       "usage: x86fuzz [--rounds N] [--insns N] [--seconds N] [--seed S] [--cpus 1..%d] "
                       "[--engine interp|tcg[,PROPERTY...]]\n",
                       CPUS),
               2;
    if (!set_up(&f, engine))
        return 2;
    f.start_s = now_s();
    run_unlock(f.m->run);
    if (pthread_create(&t, NULL, watch, &f))
        return 2;
    for (unsigned i = 1; i < f.nr; i++)
        if (pthread_create(&other[i], NULL, run_cpu, &f.cpu[i]))
            return 2;
    run_cpu(&f.cpu[0]);
    f.stop = true;
    for (unsigned i = 1; i < f.nr; i++)
        pthread_join(other[i], NULL);
    f.ended = true;
    pthread_join(t, NULL);
    _exit(tell(&f, engine)); /* the guest is alive to the end: nothing is taken down */
}
