/* Arm program (A32): runs the records of a file in its own context and writes what came out. All in one signal handler:
 * each record ends with an undefined instruction, the handler takes the state out of the frame, puts the next one in
 * and returns into it. So faults of the record's own instructions are seen the same way. Usage: oracle IN OUT */
#define _GNU_SOURCE
#include "../oracle_rt.h"
#include "record.h"

enum { VFP_MAGIC = 0x56465001, PSR_T = 1 << 5, PSR_SHOWN = 0xf80f0020, HELPERS = 0xffff0000 };
struct vfp {
    uint32_t magic, size;
    uint64_t d[32];
    uint32_t fpscr;
};
static struct rec_in in;
static struct rec_out out;
static long at = -1, count, in_fd, out_fd;

static void take(int sig, const siginfo_t *info, const mcontext_t *m, const struct vfp *f)
{
    const unsigned long *r = &m->arm_r0;
    uint32_t end = REC_CODE + (uint32_t)at * REC_STRIDE + in.n;

    out.sig = sig == SIGILL && m->arm_pc == end ? 0 : sig;
    out.addr = sig == SIGSEGV || sig == SIGBUS ? (uint32_t)info->si_addr : 0;
    for (int i = 0; i < 15; i++)
        out.s.r[i] = r[i];
    out.s.pc = m->arm_pc;
    out.s.psr = m->arm_cpsr & PSR_SHOWN;
    out.s.fpscr = f->fpscr;
    memcpy(out.s.d, f->d, sizeof out.s.d);
    memcpy(out.mem, (uint8_t *)(REC_DATA - REC_MEM / 2), REC_MEM);
    rt_write(out_fd, &out, sizeof out);
}

void rt_handler(int sig, siginfo_t *info, void *v)
{
    ucontext_t *uc = v;
    mcontext_t *m = &uc->uc_mcontext;
    unsigned long *r = &m->arm_r0;
    struct vfp *f = (void *)uc->uc_regspace;

    if (f->magic != VFP_MAGIC)
        rt_exit(4);
    if (at >= 0)
        take(sig, info, m, f);
    if (++at == count || !rt_read(in_fd, &in, sizeof in))
        rt_exit(0);
    for (int i = 0; i < 15; i++)
        r[i] = in.s.r[i];
    m->arm_pc = REC_CODE + (uint32_t)at * REC_STRIDE;
    m->arm_cpsr = (m->arm_cpsr & ~(PSR_SHOWN | 0x0600fc00)) | in.s.psr;
    f->fpscr = in.s.fpscr;
    memcpy(f->d, in.s.d, sizeof in.s.d);
    memset((void *)REC_MAP, 0, 0x2000);
    memcpy((uint8_t *)(REC_DATA - REC_MEM / 2), in.mem, REC_MEM);
    __asm__ volatile("mcr p15, 0, %0, c13, c0, 2\n clrex" ::"r"(0) : "memory");
}

/* Undefined instructions behind the code, in its own set; the last word is undefined in both. */
static void put_code(uint8_t *p, const struct rec_in *r)
{
    uint32_t a = REC_UDF_A32, both = REC_UDF_BOTH;
    uint16_t t = REC_UDF_T32;

    memcpy(p, r->code, r->n);
    for (unsigned i = r->n; i < REC_STRIDE; i += r->s.psr & PSR_T ? 2 : 4)
        memcpy(p + i, r->s.psr & PSR_T ? (void *)&t : (void *)&a, r->s.psr & PSR_T ? 2 : 4);
    memcpy(p + REC_STRIDE - 4, &both, 4);
}

static int rt_main(const char *in_name, const char *out_name)
{
    /* The oracle copies its return trampoline from the last of these to each frame: a page of zeros is put in its
     * place. */
    uintptr_t keep[3][2] = {
        {REC_MAP, REC_MAP + 0x2000}, {REC_CODE, REC_CODE}, {REC_TRAMPOLINE, REC_TRAMPOLINE + 0x1000}};

    in_fd = rt_open(in_name, O_RDONLY);
    out_fd = rt_open(out_name, O_CREAT | O_TRUNC | O_WRONLY);
    if (in_fd < 0 || out_fd < 0)
        return 2;
    while (rt_read(in_fd, &in, sizeof in))
        count++;
    keep[1][1] = REC_CODE + (((uintptr_t)(count + 1) * REC_STRIDE + 4095) & ~4095ul);
    rt_own_map(keep + 2, 1, HELPERS);
    rt_map(REC_TRAMPOLINE, 0x1000, PROT_READ);
    rt_map(REC_MAP, 0x2000, PROT_READ | PROT_WRITE);
    rt_map(REC_CODE, keep[1][1] - REC_CODE, PROT_READ | PROT_WRITE | PROT_EXEC);
    rt_own_map(keep, 3, HELPERS);
    rt_rewind(in_fd);
    for (long i = 0; i < count && rt_read(in_fd, &in, sizeof in); i++)
        put_code((uint8_t *)REC_CODE + i * REC_STRIDE, &in);
    rt_call(0xf0002, REC_CODE, (long)keep[1][1], 0, 0, 0, 0); /* cacheflush */
    /* In 32 bits a random address hits the code now and then, and what a store there does is up to the maker. */
    if (rt_call(SYS_mprotect, REC_CODE, (long)(keep[1][1] - REC_CODE), PROT_READ | PROT_EXEC, 0, 0, 0))
        return 2;
    rt_rewind(in_fd);
    rt_signals();
    __asm__ volatile(".inst 0xe7f000f0");
    return 1;
}
