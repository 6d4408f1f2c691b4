/* AArch64 program: runs the records of a file in its own context and writes what came out. All in one signal handler:
 * each record ends with an undefined instruction, the handler takes the state out of the frame, puts the next one in
 * and returns into it. So faults of the record's own instructions are seen the same way. Usage: oracle IN OUT */
#define _GNU_SOURCE
#include "../oracle_rt.h"
#include "record.h"

static struct rec_in in;
static struct rec_out out;
static long at = -1, count, in_fd, out_fd;

static struct fpsimd_context *fpsimd(ucontext_t *uc)
{
    struct _aarch64_ctx *h = (void *)uc->uc_mcontext.__reserved;

    while (h->magic && h->magic != FPSIMD_MAGIC)
        h = (void *)((char *)h + h->size);
    if (!h->magic)
        rt_exit(4);
    return (void *)h;
}

static void take(int sig, const siginfo_t *info, const mcontext_t *m, const struct fpsimd_context *f)
{
    uint64_t end = REC_CODE + (uint64_t)at * REC_STRIDE + 4 * in.n;

    out.sig = sig == SIGILL && m->pc == end ? 0 : sig;
    out.addr = sig == SIGSEGV || sig == SIGBUS ? (uint64_t)info->si_addr : 0;
    memcpy(out.s.x, m->regs, sizeof out.s.x);
    out.s.sp = m->sp;
    out.s.pc = m->pc;
    out.s.nzcv = m->pstate & 0xf0000000;
    out.s.fpcr = f->fpcr;
    out.s.fpsr = f->fpsr;
    memcpy(out.s.v, f->vregs, sizeof out.s.v);
    memcpy(out.mem, (uint8_t *)(REC_DATA - REC_MEM / 2), REC_MEM);
    rt_write(out_fd, &out, sizeof out);
}

void rt_handler(int sig, siginfo_t *info, void *v)
{
    ucontext_t *uc = v;
    mcontext_t *m = &uc->uc_mcontext;
    struct fpsimd_context *f = fpsimd(uc);

    if (at >= 0)
        take(sig, info, m, f);
    if (++at == count || !rt_read(in_fd, &in, sizeof in))
        rt_exit(0);
    memcpy(m->regs, in.s.x, sizeof in.s.x);
    m->sp = in.s.sp;
    m->pc = REC_CODE + (uint64_t)at * REC_STRIDE;
    m->pstate = in.s.nzcv;
    f->fpcr = (uint32_t)in.s.fpcr;
    f->fpsr = (uint32_t)in.s.fpsr;
    memcpy(f->vregs, in.s.v, sizeof in.s.v);
    memset((void *)REC_MAP, 0, 0x2000);
    memcpy((uint8_t *)(REC_DATA - REC_MEM / 2), in.mem, REC_MEM);
    __asm__ volatile("msr tpidr_el0, xzr\n clrex" ::: "memory");
}

static int rt_main(const char *in_name, const char *out_name)
{
    uintptr_t keep[2][2] = {{REC_MAP, REC_MAP + 0x2000}, {REC_CODE, REC_CODE}};

    in_fd = rt_open(in_name, O_RDONLY);
    out_fd = rt_open(out_name, O_CREAT | O_TRUNC | O_WRONLY);
    if (in_fd < 0 || out_fd < 0)
        return 2;
    while (rt_read(in_fd, &in, sizeof in))
        count++;
    keep[1][1] = REC_CODE + (((uintptr_t)(count + 1) * REC_STRIDE + 4095) & ~4095ul);
    rt_own_map(keep, 0, UINTPTR_MAX);
    rt_map(REC_MAP, 0x2000, PROT_READ | PROT_WRITE);
    rt_map(REC_CODE, keep[1][1] - REC_CODE, PROT_READ | PROT_WRITE | PROT_EXEC);
    rt_own_map(keep, 2, UINTPTR_MAX);
    rt_rewind(in_fd);
    for (long i = 0; i < count && rt_read(in_fd, &in, sizeof in); i++) /* the rest stays zero: undefined */
        memcpy((char *)REC_CODE + i * REC_STRIDE, in.insn, 4 * in.n);
    __builtin___clear_cache((char *)REC_CODE, (char *)keep[1][1]);
    rt_rewind(in_fd);
    rt_signals();
    __asm__ volatile(".inst 0");
    return 1;
}
