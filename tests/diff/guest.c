/* The guest side of the differential tester: a CPU at user level over the shared window.
 *
 * "exec" hands the decoded record to x86_exec. The accelerators run the bytes themselves: INT3 stands behind the
 * instruction, every gate of the IDT leads to a HLT at supervisor level, and which HLT was reached and the frame on its
 * stack tell what happened. The supervisor's pages lie far behind the window. */
#include "diff.h"

#include "accel/accel.h"
#include "base/bytes.h"
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

/* The supervisor's pages: SUP is where they are seen, AT turns that into the physical address, which is in the window's
 * file. */
enum {
    SUP = WIN_BASE + (8 << 20),
    PHYS = WIN_BASE + WIN_SIZE,
    PML4 = PHYS,
    PDPT = PHYS + 0x1000,
    PD = PHYS + 0x2000,
    PT = PHYS + 0x3000,
    PT_SUP = PHYS + 0x4000,
    IDT = SUP + 0x5000,
    GDT = SUP + 0x6000,
    TSS = SUP + 0x7000,
    HANDLERS = SUP + 0x8000,
    STACK_TOP = SUP + 0xb000,
    RAM_SIZE = 4 << 20
};
enum { SEL_CODE0 = 0x08, SEL_DATA0 = 0x10, SEL_USER32 = 0x23, SEL_DATA3 = 0x2b, SEL_USER64 = 0x33, SEL_TSS = 0x40 };

struct guest {
    struct machine *m;
    struct x86_cpu *c;
    struct mem_region ram;
    struct mem_ram *block;
    bool exec;
    int mode;
    uint32_t mxcsr_mask;
    bool wide; /* AVX-512 */
};

/* Host byte of a physical address, or of a linear one of the supervisor. */
static uint8_t *host(struct guest *g, uint64_t at)
{
    return g->block->host + (at >= SUP ? at - SUP + WIN_SIZE : at - WIN_BASE);
}

static void put64(struct guest *g, uint64_t at, uint64_t val)
{
    put_le64(host(g, at), val);
}

static uint64_t get64(struct guest *g, uint64_t at)
{
    return get_le64(host(g, at));
}

/* The window is mapped 1:1 for the user but for the first two pages of data, which are exchanged; the supervisor's
 * pages for nobody else. */
static void build_tables(struct guest *g)
{
    put64(g, PML4, PDPT | 7);
    put64(g, PDPT, PD | 7);
    put64(g, PD + (WIN_BASE >> 21) * 8, PT | 7);
    put64(g, PD + (SUP >> 21) * 8, PT_SUP | 3);
    for (unsigned i = 0; i < 512; i++) {
        put64(g, PT + i * 8, win_frame(WIN_BASE + i * 0x1000) | (WIN_BASE + i * 0x1000 == RO_AT ? 0x65 : 0x67));
        put64(g, PT_SUP + i * 8, (PHYS + i * 0x1000) | 0x63);
    }
}

/* Descriptor with base 0 and limit 4 GiB; access is bits 40..47, flags 52..55. */
static uint64_t desc(unsigned access, unsigned flags)
{
    return 0xffff | (uint64_t)access << 40 | 0xfull << 48 | (uint64_t)flags << 52;
}

static void build_descriptors(struct guest *g)
{
    put64(g, GDT + SEL_CODE0, desc(0x9b, 0xa));
    put64(g, GDT + SEL_DATA0, desc(0x93, 0xc));
    put64(g, GDT + (SEL_USER32 & ~7), desc(0xfb, 0xc));
    put64(g, GDT + (SEL_DATA3 & ~7), desc(0xf3, 0xc));
    put64(g, GDT + (SEL_USER64 & ~7), desc(0xfb, 0xa));
    put64(g, TSS + 4, STACK_TOP);
    for (unsigned v = 0; v < 256; v++) {
        uint64_t h = HANDLERS + v * 16;

        put64(g, IDT + v * 16,
              (h & 0xffff) | (uint64_t)SEL_CODE0 << 16 | UINT64_C(0xee) << 40 | (h >> 16 & 0xffff) << 48);
        put64(g, IDT + v * 16 + 8, h >> 32);
        *host(g, h) = 0xf4;
    }
}

static void set_seg(struct x86_cpu *c, int s, uint16_t sel, uint32_t flags)
{
    c->seg[s] = (struct x86_seg){.sel = sel, .base = 0, .limit = UINT32_MAX, .flags = flags | X86_SEG_P | X86_SEG_G};
}

static void enter_user_mode(struct guest *g)
{
    struct x86_cpu *c = g->c;
    uint32_t user = X86_SEG_S | 3u << X86_SEG_DPL_SHIFT | X86_SEG_W | X86_SEG_A;

    c->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_PG;
    c->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
    c->cr3 = PML4;
    c->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
    c->xcr0 = g->wide ? 0xe7 : 7;
    c->gdt.base = GDT;
    c->gdt.limit = 0x4f;
    c->idt.base = IDT;
    c->idt.limit = 0xfff;
    set_seg(c, X86_CS, g->mode == X86_MODE_64 ? SEL_USER64 : SEL_USER32,
            user | X86_SEG_CODE | (g->mode == X86_MODE_64 ? X86_SEG_L : X86_SEG_DB));
    for (int s = X86_ES; s <= X86_GS; s++)
        if (s != X86_CS)
            set_seg(c, s, SEL_DATA3, user | X86_SEG_DB);
    c->seg[X86_TR] = (struct x86_seg){.sel = SEL_TSS, .base = TSS, .limit = 0x67, .flags = X86_SEG_P | 0xb00};
    c->rflags = 0x202;
    c->int_shadow = 0;
    c->nmi_blocked = false;
    c->cpl = 3;
    x86_update_mode(c);
}

static void regs_to_cpu(struct guest *g, const struct dregs *r)
{
    static const uint8_t none[sizeof r->upper];
    struct x86_cpu *c = g->c;

    memcpy(c->regs, r->gpr, sizeof c->regs);
    c->rflags = r->flags;
    c->rip = CODE_AT;
    c->x87_live = false;
    memcpy(&c->fx, r->xs, 160);
    c->fx.mxcsr_mask = g->mxcsr_mask;
    for (unsigned i = 0; i < 16; i++) {
        memset(c->v[i].b, 0, 64);
        memcpy(c->v[i].b, r->xs + 160 + 16 * i, 16);
        memcpy(c->v[i].b + 16, r->xs + 576 + 16 * i, 16);
        memcpy(c->v[i].b + 32, r->upper[i], 32);
        memcpy(c->v[16 + i].b, r->more[i], 64);
    }
    memcpy(c->k, r->k, sizeof c->k);
    if (g->wide) {
        x86_note_upper(c);
        c->upper = memcmp(r->upper, none, sizeof r->upper) != 0;
    }
}

static void cpu_to_regs(struct guest *g, struct dregs *r)
{
    struct x86_cpu *c = g->c;

    memset(r, 0, sizeof *r);
    if (c->x87_live)
        x86_x87_sync(c);
    memcpy(r->gpr, c->regs, sizeof r->gpr);
    r->flags = c->rflags;
    r->vec = -1;
    memcpy(r->xs, &c->fx, 160);
    put_le64(r->xs + 512, 7);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(r->xs + 160 + 16 * i, c->v[i].b, 16);
        memcpy(r->xs + 576 + 16 * i, c->v[i].b + 16, 16);
        memcpy(r->upper[i], c->v[i].b + 32, 32);
        memcpy(r->more[i], c->v[16 + i].b, 64);
    }
    memcpy(r->k, c->k, sizeof r->k);
}

static void run_exec(struct guest *g, const struct x86_insn *in, struct dregs *after)
{
    struct x86_cpu *c = g->c;
    sigjmp_buf jmp;
    volatile int vec = -1;

    c->fault_jmp = &jmp;
    c->next_rip = c->rip + in->len;
    if (sigsetjmp(jmp, 0) == 0)
        x86_exec(c, in);
    else
        vec = c->exc.vec;
    c->fault_jmp = NULL;
    cpu_to_regs(g, after);
    after->vec = vec;
    if (vec == X86_PGF) {
        after->err = c->exc.err & 7;
        after->cr2 = c->exc.cr2;
    }
}

static bool has_error_code(int vec)
{
    return vec == 8 || (vec >= 10 && vec <= 14) || vec == 17;
}

static void run_accel(struct guest *g, const uint8_t *bytes, unsigned len, struct dregs *after)
{
    struct x86_cpu *c = g->c;
    uint8_t *code = g->block->host + (CODE_AT - WIN_BASE);
    uint64_t frame;
    enum vcpu_exit why;
    int vec;

    memcpy(code, bytes, len);
    code[len] = 0xcc;
    mem_ram_written(g->block, CODE_AT - WIN_BASE, len + 1);
    c->vcpu.halted = false;
    c->vcpu.exit_request = false;
    why = c->vcpu.run(&c->vcpu);
    cpu_to_regs(g, after);
    vec = (int)((c->rip - 1 - HANDLERS) / 16);
    if (why != VCPU_EXIT_HALTED || c->rip < HANDLERS || vec > 255 || (c->rip - 1) % 16) {
        after->vec = 1000 + why; /* never equal to what the CPU did */
        return;
    }
    frame = c->regs[X86_RSP];
    after->err = has_error_code(vec) ? (uint32_t)get64(g, frame) & 7 : 0;
    frame += has_error_code(vec) ? 8 : 0;
    after->gpr[X86_RSP] = get64(g, frame + 24);
    after->flags = get64(g, frame + 16);
    if (vec == X86_BP && get64(g, frame) == CODE_AT + len + 1u)
        return;
    after->vec = vec;
    after->rip = get64(g, frame);
    after->cr2 = vec == X86_PGF ? c->cr2 : 0;
    if (vec != X86_PGF)
        after->err = 0;
}

void guest_run(struct guest *g, const struct x86_insn *in, const struct dregs *before, struct dregs *after)
{
    enter_user_mode(g);
    regs_to_cpu(g, before);
    if (g->exec)
        run_exec(g, in, after);
    else
        run_accel(g, in->bytes, in->len, after);
}

void guest_run_code(struct guest *g, const uint8_t *code, unsigned len, const struct dregs *before, struct dregs *after)
{
    enter_user_mode(g);
    regs_to_cpu(g, before);
    run_accel(g, code, len, after);
}

bool guest_has(const struct guest *g, const struct x86_insn *in)
{
    return x86_insn_offered(&g->c->feat, in);
}

static bool start_accel(struct guest *g, const char *engine, struct err **errp)
{
    struct opts *o = opts_parse(engine, "accel", errp);
    const char *name = o ? opts_get(o, "accel") : NULL;
    const struct accel_class *a = name ? accel_find(name) : NULL;

    if (!a)
        return o && err_set(errp, "no engine '%s'", engine);
    g->m->accel = a;
    return (!a->probe || a->probe("x86_64", errp)) && (!a->init || a->init(g->m, o, errp));
}

static bool set_up(struct guest *g, const char *engine, int *fd, struct err **errp)
{
    struct x86_features real;

    g->m = machine_new(run_new());
    g->exec = strcmp(engine, "exec") == 0;
    *fd = memfd_create("x86diff", 0);
    if (*fd < 0 || ftruncate(*fd, RAM_SIZE))
        return err_set(errp, "no memory for the window");
    g->block = mem_ram_new_fd(g->m->mem_sys, "diff.ram", RAM_SIZE, *fd, 0, true, false, errp);
    if (!g->block)
        return false;
    mem_region_init_ram_from(&g->ram, g->m->mem_sys, "diff.ram", g->block);
    mem_region_add(&g->m->sysmem, WIN_BASE, &g->ram);
    if (!g->exec && !start_accel(g, engine, errp))
        return false;
    g->c = x86_cpu_new(g->m, errp);
    if (!g->c)
        return false;
    x86_features_max(&g->c->feat);
    x86_features_host(&real);
    g->wide = diff_wide() && x86_has(&g->c->feat, X86_F_AVX512F);
    if (!g->wide)
        diff_no_wide();
    g->mxcsr_mask = 0xffff | (real.w[X86_FW_80000001_ECX] >> 7 & 1) << 17;
    if (!g->exec && !machine_accel(g->m)->vcpu_init(&g->c->vcpu, errp))
        return false;
    build_tables(g);
    build_descriptors(g);
    return true;
}

struct guest *guest_new(const char *engine, int mode, int *fd)
{
    struct guest *g = xnew(struct guest);
    struct err *e = NULL;

    g->mode = mode;
    if (set_up(g, engine, fd, &e)) {
        run_unlock(g->m->run);
        return g;
    }
    err_report(e);
    return NULL;
}
