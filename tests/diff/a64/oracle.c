/* AArch64 program: runs the records of a file in its own context and writes what came out. All in one signal handler:
 * each record ends with an undefined instruction, the handler takes the state out of the frame, puts the next one in
 * and returns into it. So faults of the record's own instructions are seen the same way. Usage: oracle IN OUT */
#define _GNU_SOURCE
#include "record.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

static struct rec_in *in;
static struct rec_out *out;
static long at = -1, count;
static const char *out_name;

static struct fpsimd_context *fpsimd(ucontext_t *uc)
{
    struct _aarch64_ctx *h = (void *)uc->uc_mcontext.__reserved;

    while (h->magic && h->magic != FPSIMD_MAGIC)
        h = (void *)((char *)h + h->size);
    return (void *)h;
}

static void finish(void)
{
    int fd = open(out_name, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    size_t left = (size_t)count * sizeof *out;
    char *p = (char *)out;

    while (left) {
        ssize_t k = write(fd, p, left);

        if (k <= 0)
            _exit(3);
        p += k;
        left -= (size_t)k;
    }
    _exit(0);
}

static void handler(int sig, siginfo_t *info, void *v)
{
    ucontext_t *uc = v;
    mcontext_t *m = &uc->uc_mcontext;
    struct fpsimd_context *f = fpsimd(uc);
    uint8_t *mem = (uint8_t *)(REC_DATA - REC_MEM / 2);

    if (at >= 0) {
        struct rec_out *o = out + at;
        uint64_t end = REC_CODE + (uint64_t)at * REC_STRIDE + 4 * in[at].n;

        o->sig = sig == SIGILL && m->pc == end ? 0 : sig;
        o->addr = sig == SIGSEGV || sig == SIGBUS ? (uint64_t)info->si_addr : 0;
        memcpy(o->s.x, m->regs, sizeof o->s.x);
        o->s.sp = m->sp;
        o->s.pc = m->pc;
        o->s.nzcv = m->pstate & 0xf0000000;
        o->s.fpcr = f->fpcr;
        o->s.fpsr = f->fpsr;
        memcpy(o->s.v, f->vregs, sizeof o->s.v);
        memcpy(o->mem, mem, REC_MEM);
    }
    if (++at == count)
        finish();
    memcpy(m->regs, in[at].s.x, sizeof in[at].s.x);
    m->sp = in[at].s.sp;
    m->pc = REC_CODE + (uint64_t)at * REC_STRIDE;
    m->pstate = in[at].s.nzcv;
    f->fpcr = (uint32_t)in[at].s.fpcr;
    f->fpsr = (uint32_t)in[at].s.fpsr;
    memcpy(f->vregs, in[at].s.v, sizeof in[at].s.v);
    memset((void *)REC_MAP, 0, 0x2000);
    memcpy(mem, in[at].mem, REC_MEM);
    __asm__ volatile("clrex" ::: "memory");
}

int main(int argc, char **argv)
{
    static char stack[65536];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    int sigs[] = {SIGILL, SIGSEGV, SIGBUS, SIGTRAP, SIGFPE};
    int fd = open(argv[1], O_RDONLY);
    struct stat st;
    char *code;

    if (argc != 3 || fd < 0 || fstat(fd, &st))
        return 2;
    count = st.st_size / (long)sizeof *in;
    in = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    out = calloc((size_t)count, sizeof *out);
    out_name = argv[2];
    code = mmap((void *)REC_CODE, (size_t)(count + 1) * REC_STRIDE, PROT_READ | PROT_WRITE | PROT_EXEC,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (mmap((void *)REC_MAP, 0x2000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            MAP_FAILED ||
        code == MAP_FAILED || in == MAP_FAILED || !out)
        return 2;
    for (long i = 0; i < count; i++)
        memcpy(code + i * REC_STRIDE, in[i].insn, 4 * in[i].n); /* the rest stays zero: undefined */
    __builtin___clear_cache(code, code + (count + 1) * REC_STRIDE);
    sigaltstack(&ss, NULL);
    for (unsigned i = 0; i < sizeof sigs / sizeof *sigs; i++)
        sigaction(sigs[i], &sa, NULL);
    __asm__ volatile(".inst 0");
    return 1;
}
