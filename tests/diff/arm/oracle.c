/* Arm program (A32): runs the records of a file in its own context and writes what came out. All in one signal handler:
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

enum { VFP_MAGIC = 0x56465001, PSR_T = 1 << 5, PSR_SHOWN = 0xf80f0020 };
struct vfp {
    uint32_t magic, size;
    uint64_t d[32];
    uint32_t fpscr;
};
static struct rec_in *in;
static struct rec_out *out;
static long at = -1, count;
static const char *out_name;

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
    unsigned long *r = &m->arm_r0;
    struct vfp *f = (void *)uc->uc_regspace;
    uint8_t *mem = (uint8_t *)(REC_DATA - REC_MEM / 2);

    if (f->magic != VFP_MAGIC)
        _exit(4);
    if (at >= 0) {
        struct rec_out *o = out + at;
        uint32_t end = REC_CODE + (uint32_t)at * REC_STRIDE + in[at].n;

        o->sig = sig == SIGILL && m->arm_pc == end ? 0 : sig;
        o->addr = sig == SIGSEGV || sig == SIGBUS ? (uint32_t)info->si_addr : 0;
        for (int i = 0; i < 15; i++)
            o->s.r[i] = r[i];
        o->s.pc = m->arm_pc;
        o->s.psr = m->arm_cpsr & PSR_SHOWN;
        o->s.fpscr = f->fpscr;
        memcpy(o->s.d, f->d, sizeof o->s.d);
        memcpy(o->mem, mem, REC_MEM);
    }
    if (++at == count)
        finish();
    for (int i = 0; i < 15; i++)
        r[i] = in[at].s.r[i];
    m->arm_pc = REC_CODE + (uint32_t)at * REC_STRIDE;
    m->arm_cpsr = (m->arm_cpsr & ~(PSR_SHOWN | 0x0600fc00)) | in[at].s.psr;
    f->fpscr = in[at].s.fpscr;
    memcpy(f->d, in[at].s.d, sizeof in[at].s.d);
    memset((void *)REC_MAP, 0, 0x2000);
    memcpy(mem, in[at].mem, REC_MEM);
    __asm__ volatile("clrex" ::: "memory");
}

static void put_code(uint8_t *p, const struct rec_in *r)
{
    uint32_t a = REC_UDF_A32;
    uint16_t t = REC_UDF_T32;

    memcpy(p, r->code, r->n);
    for (unsigned i = r->n; i < REC_STRIDE; i += r->s.psr & PSR_T ? 2 : 4)
        memcpy(p + i, r->s.psr & PSR_T ? (void *)&t : (void *)&a, r->s.psr & PSR_T ? 2 : 4);
}

int main(int argc, char **argv)
{
    static char stack[65536];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    int sigs[] = {SIGILL, SIGSEGV, SIGBUS, SIGTRAP, SIGFPE};
    int fd = open(argv[1], O_RDONLY);
    struct stat st;
    uint8_t *code;

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
        put_code(code + i * REC_STRIDE, in + i);
    __builtin___clear_cache((char *)code, (char *)code + (count + 1) * REC_STRIDE);
    /* In 32 bits a random address hits the code now and then, and what a store there does is up to the maker. */
    if (mprotect(code, (size_t)(count + 1) * REC_STRIDE, PROT_READ | PROT_EXEC))
        return 2;
    sigaltstack(&ss, NULL);
    for (unsigned i = 0; i < sizeof sigs / sizeof *sigs; i++)
        sigaction(sigs[i], &sa, NULL);
    __asm__ volatile(".inst 0xe7f000f0");
    return 1;
}
