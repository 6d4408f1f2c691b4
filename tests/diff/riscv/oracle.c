/* RISC-V program: runs the records of a file in its own context and writes what came out. All in one signal handler:
 * each record ends with an undefined instruction, the handler takes the state out of the frame, puts the next one in
 * and returns into it. So faults of the record's own instructions are seen the same way. Usage: oracle IN OUT */
#define _GNU_SOURCE
#include "../oracle_rt.h"
#include "record.h"

static struct rec rec;
static long at = -1, count, in_fd, out_fd;

static void take(int sig, const siginfo_t *info, const ucontext_t *uc)
{
    const mcontext_t *m = &uc->uc_mcontext;

    rec.pc = m->__gregs[0] - (REC_CODE + (uint64_t)at * REC_STRIDE + 4 * rec.n);
    rec.sig = sig == SIGILL && !rec.pc ? 0 : (uint32_t)sig;
    rec.addr = sig == SIGSEGV || sig == SIGBUS ? (uint64_t)info->si_addr : 0;
    memcpy(rec.x + 1, (const void *)&m->__gregs[1], 31 * 8);
    memcpy(rec.f, m->__fpregs.__d.__f, sizeof rec.f);
    rec.fcsr = m->__fpregs.__d.__fcsr;
    memcpy(rec.mem, (uint8_t *)REC_DATA, REC_MEM);
    rt_write(out_fd, &rec, sizeof rec);
}

void rt_handler(int sig, siginfo_t *info, void *v)
{
    ucontext_t *uc = v;
    mcontext_t *m = &uc->uc_mcontext;

    if (at >= 0)
        take(sig, info, uc);
    if (++at == count || !rt_read(in_fd, &rec, sizeof rec))
        rt_exit(0);
    m->__gregs[0] = REC_CODE + (uint64_t)at * REC_STRIDE;
    memcpy((void *)&m->__gregs[1], rec.x + 1, 31 * 8);
    memcpy(m->__fpregs.__d.__f, rec.f, sizeof rec.f);
    m->__fpregs.__d.__fcsr = (uint32_t)rec.fcsr;
    memset((void *)REC_MAP, 0, 0x2000);
    memcpy((uint8_t *)REC_DATA, rec.mem, REC_MEM);
}

static int rt_main(const char *in_name, const char *out_name)
{
    uintptr_t keep[2][2] = {{REC_MAP, REC_MAP + 0x2000}, {REC_CODE, REC_CODE}};

    in_fd = rt_open(in_name, O_RDONLY);
    out_fd = rt_open(out_name, O_CREAT | O_TRUNC | O_WRONLY);
    if (in_fd < 0 || out_fd < 0)
        return 2;
    while (rt_read(in_fd, &rec, sizeof rec))
        count++;
    keep[1][1] = REC_CODE + (((uintptr_t)(count + 1) * REC_STRIDE + 4095) & ~4095ul);
    rt_own_map(keep, 0, UINTPTR_MAX);
    rt_map(REC_MAP, 0x2000, PROT_READ | PROT_WRITE);
    rt_map(REC_CODE, keep[1][1] - REC_CODE, PROT_READ | PROT_WRITE | PROT_EXEC);
    rt_own_map(keep, 2, UINTPTR_MAX);
    rt_rewind(in_fd);
    for (long i = 0; i < count && rt_read(in_fd, &rec, sizeof rec); i++) /* the rest stays zero: undefined */
        memcpy((char *)REC_CODE + i * REC_STRIDE, rec.insn, 4 * rec.n);
    __asm__ volatile("fence.i" ::: "memory");
    rt_rewind(in_fd);
    rt_signals();
    __asm__ volatile(".4byte 0");
    return 1;
}
