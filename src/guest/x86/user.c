/* See user.h. The interpreter runs as at CPL 3 of a machine whose page tables map everything onto itself. */
#include "guest/x86/user.h"
#include "guest/x86/cpuid_int.h"
#include "guest/x86/mmu_int.h"

#include <time.h>

static uint64_t host_tsc(struct vcpu *v)
{
    return __builtin_ia32_rdtsc();
}

/* Stands for all memory: every page of it counts as written already, so that nothing is ever noted. */
static struct mem_ram *everything(void)
{
    static _Atomic uint8_t flags[1] = {MEM_DIRTY_VGA | MEM_DIRTY_MIGRATE};
    static struct mem_ram ram = {.page = (void *)flags};

    return &ram;
}

static void flat_segments(struct x86_cpu *c, bool m64)
{
    uint32_t data = X86_SEG_P | X86_SEG_S | X86_SEG_W | X86_SEG_A | X86_SEG_DB | X86_SEG_G | 3u << X86_SEG_DPL_SHIFT;

    for (int i = 0; i < 6; i++)
        c->seg[i] = (struct x86_seg){.sel = 0x2b, .limit = 0xffffffff, .flags = data};
    c->seg[X86_CS].sel = m64 ? 0x33 : 0x23;
    c->seg[X86_CS].flags = (data & ~(uint32_t)(m64 ? X86_SEG_DB : 0)) | X86_SEG_CODE | (m64 ? X86_SEG_L : 0);
    if (m64)
        c->seg[X86_DS].sel = c->seg[X86_ES].sel = 0;
    c->seg[X86_FS].sel = c->seg[X86_GS].sel = 0;
    c->seg[X86_LDTR] = (struct x86_seg){.flags = X86_SEG_P | 2 << 8};
    c->seg[X86_TR] = (struct x86_seg){.flags = X86_SEG_P | 11 << 8};
}

struct x86_cpu *x86_user_new(const struct x86_features *feat, bool m64)
{
    struct x86_cpu *c = try_alloc_aligned(64, sizeof *c);

    if (!c)
        return NULL;
    memset(c, 0, sizeof *c);
    c->itlb = try_alloc(1, sizeof *c->itlb);
    if (!c->itlb) {
        free(c);
        return NULL;
    }
    for (unsigned i = 0; i < NR_IDX; i++)
        for (unsigned j = 0; j < ITLB; j++)
            c->itlb->e[i][j].tag[0] = c->itlb->e[i][j].tag[1] = c->itlb->e[i][j].tag[2] = EMPTY;
    c->user_ram = everything();
    c->port.tsc_now = host_tsc;
    c->a20_mask = ~UINT64_C(0);
    c->injecting = -1;
    c->topo.sockets = c->topo.dies = c->topo.cores = c->topo.threads = 1;
    c->feat = *feat;
    c->rflags = X86_IF | 2;
    c->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_PG;
    c->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_FSGSBASE |
             (x86_has(feat, X86_F_XSAVE) ? X86_CR4_OSXSAVE : 0);
    c->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
    c->xcr0 = x86_xcr0_mask(feat);
    flat_segments(c, m64);
    x86_update_mode(c);
    c->cpl = 3;
    x86_fpu_init(c);
    return c;
}

uint64_t x86_user_xcr0(const struct x86_features *feat)
{
    return x86_has(feat, X86_F_XSAVE) ? x86_xcr0_mask(feat) : 0;
}

void x86_user_free(struct x86_cpu *c)
{
    x86_simd_free(c);
    free(c->itlb);
    free(c);
}

/* The next page is touched only when the instruction goes on there. */
static enum x86_decode_result decode_at(const struct x86_cpu *c, struct x86_insn *in)
{
    const uint8_t *p = (const uint8_t *)(uintptr_t)c->rip;
    enum x86_decode_result d = x86_decode(p, 4096 - (c->rip & 4095), c->mode, in);
    uint8_t code[X86_MAX_INSN];

    if (d != X86_DECODE_MORE)
        return d;
    memcpy(code, p, sizeof code);
    return x86_decode(code, sizeof code, c->mode, in);
}

static bool decode_here(struct x86_cpu *c, struct x86_insn *in)
{
    enum x86_decode_result d = decode_at(c, in);

    if (d == X86_DECODE_LONG)
        x86_raise_err(c, X86_GP, 0);
    return d == X86_DECODE_OK;
}

unsigned x86_user_peek(struct x86_cpu *c, uint64_t *imm, unsigned *len)
{
    struct x86_insn in;

    if (decode_at(c, &in) != X86_DECODE_OK)
        return 0;
    *imm = in.imm;
    *len = in.len;
    return in.op;
}

int x86_user_step(struct x86_cpu *c)
{
    struct x86_insn in;
    sigjmp_buf jmp;

    if (sigsetjmp(jmp, 0)) {
        c->fault_jmp = NULL;
        return c->exc.vec;
    }
    c->fault_jmp = &jmp;
    if (!decode_here(c, &in))
        x86_raise(c, X86_UD);
    x86_exec(c, &in);
    c->fault_jmp = NULL;
    return -1;
}
