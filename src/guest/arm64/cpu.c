/* One AArch64 processor: reset, one step of the interpreter, FP control, system registers a program may read.
 *
 * The ID registers are what Linux shows to programs that read them (its MRS emulation), for the features of insn.def.
 */
#include "guest/arm64/cpu.h"
#include "guest/arm64/sem.h"

#include <time.h>

static const uint64_t cnt_hz = 1000000000;

void a64_reset(struct a64_cpu *c, const struct a64_mem_ops *mem, void *owner)
{
    memset(c->x, 0, sizeof *c - offsetof(struct a64_cpu, x));
    c->jit.flags = 0;
    c->jit.mxcsr = 0x1f80;
    c->ex_addr = ~UINT64_C(0);
    c->mem = mem;
    c->owner = owner;
}

/* MXCSR's sticky bits as FPSR's. */
static uint32_t fpsr_of_mxcsr(uint32_t m)
{
    return (m & 1 ? A64_FPSR_IOC : 0) | (m & 4 ? A64_FPSR_DZC : 0) | (m & 8 ? A64_FPSR_OFC : 0) |
           (m & 16 ? A64_FPSR_UFC : 0) | (m & 32 ? A64_FPSR_IXC : 0);
}

static uint32_t mxcsr_of_fpcr(uint32_t fpcr)
{
    static const uint16_t round[4] = {0x0000, 0x4000, 0x2000, 0x6000}; /* nearest, up, down, zero */

    return 0x1f80u | round[fpcr >> 22 & 3];
}

uint32_t a64_fpsr(const struct a64_cpu *c)
{
    return c->fpsr | fpsr_of_mxcsr(c->jit.mxcsr) | (c->qc.d[0] | c->qc.d[1] ? A64_FPSR_QC : 0);
}

void a64_set_fpsr(struct a64_cpu *c, uint32_t v)
{
    c->fpsr = v & A64_FPSR_ALL;
    c->qc = (union ir_vec){{0}};
    c->jit.mxcsr &= ~0x3fu;
}

void a64_set_fpcr(struct a64_cpu *c, uint32_t v)
{
    c->fpcr = v & A64_FPCR_ALL;
    c->jit.mxcsr = (c->jit.mxcsr & 0x3f) | mxcsr_of_fpcr(c->fpcr);
}

uint64_t a64_cntvct(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * cnt_hz + (uint64_t)ts.tv_nsec;
}

bool a64_idreg(unsigned reg, uint64_t *v)
{
    switch (reg) {
    case A64_SYSREG(3, 0, 0, 0, 0):
        *v = 0x414fd0c1;
        return true; /* MIDR_EL1: Neoverse N1's, whose set is nearest to ours. C libraries choose by it: memcpy of 16
                        bytes */
    case A64_SYSREG(3, 0, 0, 0, 5):
        *v = 0x80000000;
        return true; /* MPIDR_EL1 */
    case A64_SYSREG(3, 0, 0, 0, 6):
        *v = 0;
        return true; /* REVIDR_EL1 */
    case A64_SYSREG(3, 0, 0, 4, 0):
        *v = 0x110011;
        return true; /* ID_AA64PFR0_EL1: FP, AdvSIMD with FP16 */
    /* ID_AA64ISAR0_EL1: AES+PMULL, SHA1, SHA256, CRC32, LSE, RDM, DotProd */
    case A64_SYSREG(3, 0, 0, 6, 0):
        *v = UINT64_C(0x0000100010211120);
        return true;
    /* ID_AA64ISAR1_EL1: JSCVT, FCMA, LRCPC, FRINTTS */
    case A64_SYSREG(3, 0, 0, 6, 1):
        *v = UINT64_C(0x0000000100111000);
        return true;
    case A64_SYSREG(3, 3, 0, 0, 1):
        *v = 0x8444c004;
        return true; /* CTR_EL0: 64-byte lines */
    case A64_SYSREG(3, 3, 0, 0, 7):
        *v = 4;
        return true; /* DCZID_EL0: 64 bytes */
    case A64_SYSREG(3, 3, 14, 0, 0):
        *v = cnt_hz;
        return true; /* CNTFRQ_EL0 */
    default:
        break;
    }
    if (reg >= A64_SYSREG(3, 0, 0, 1, 0) && reg <= A64_SYSREG(3, 0, 0, 7, 7)) { /* the rest of the ID space */
        *v = 0;
        return true;
    }
    return false;
}

bool a64_sysreg_read(struct a64_cpu *c, unsigned reg, uint64_t *v)
{
    switch (reg) {
    case A64_REG_NZCV:
        *v = a64_nzcv(c);
        return true;
    case A64_REG_FPCR:
        *v = c->fpcr;
        return true;
    case A64_REG_FPSR:
        *v = a64_fpsr(c);
        return true;
    case A64_REG_TPIDR:
        *v = c->tpidr;
        return true;
    case A64_REG_TPIDRRO:
        *v = c->tpidrro;
        return true;
    case A64_REG_CNTVCT:
        *v = a64_cntvct();
        return true;
    default:
        return a64_idreg(reg, v);
    }
}

bool a64_sysreg_write(struct a64_cpu *c, unsigned reg, uint64_t v)
{
    switch (reg) {
    case A64_REG_NZCV:
        a64_set_nzcv(c, (uint32_t)v & 0xf0000000);
        return true;
    case A64_REG_FPCR:
        a64_set_fpcr(c, (uint32_t)v);
        return true;
    case A64_REG_FPSR:
        a64_set_fpsr(c, (uint32_t)v);
        return true;
    case A64_REG_TPIDR:
        c->tpidr = v;
        return true;
    default:
        return false;
    }
}

enum a64_res sem_mrs(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    uint64_t v;

    if (!a64_sysreg_read(c, a64_bits(w, 20, 5), &v))
        return A64_UNDEF;
    a64_set_x(c, A64_RD(w), v);
    return A64_OK;
}

enum a64_res sem_msr(struct a64_cpu *c, uint32_t w, unsigned kind)
{
    return a64_sysreg_write(c, a64_bits(w, 20, 5), a64_x(c, A64_RD(w))) ? A64_OK : A64_UNDEF;
}

enum a64_res a64_exec(struct a64_cpu *c, uint32_t w)
{
    int row = a64_decode(w);
    enum a64_res r;

    if (row < 0)
        return A64_UNDEF;
    c->npc = c->pc + 4;
    r = a64_rows[row].sem(c, w, a64_kind_of(row));
    if (r == A64_OK || r == A64_ICACHE || r == A64_DO_SVC)
        c->pc = c->npc;
    return r;
}

enum a64_res a64_step(struct a64_cpu *c)
{
    uint8_t b[4];

    if (c->pc & 3) {
        c->fault_addr = c->pc;
        return A64_ALIGN;
    }
    if (!c->mem->read(c, c->pc, b, 4, true))
        return A64_FAULT;
    return a64_exec(c, get_le32(b));
}
