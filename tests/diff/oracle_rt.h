/* Linux for the oracle programs (a64, arm, riscv) without a C library. A record may make up any address: what lies
 * there must be the same under every emulator. So a program has its image at a place of its own (the linker's
 * -Ttext-segment), its stacks within it, and rt_own_map() takes away whatever else the emulator had mapped - stack,
 * brk, vDSO - and looks that it is gone. Included once, by the program's only source; entry is rt_main(). */
#ifndef TESTS_DIFF_ORACLE_RT_H
#define TESTS_DIFF_ORACLE_RT_H

#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>

#define RT_TEXT(x)  RT_TEXT_(x)
#define RT_TEXT_(x) #x

/* Status of the program: 2 it could not begin, 3 a file failed, 4 no floating-point state in a frame, 5 not alone in
 * its memory. */
static int rt_main(const char *in, const char *out);

char rt_stack[16384] __attribute__((aligned(16))), rt_sigstack[65536] __attribute__((aligned(16)));
extern char __executable_start[], _end[];

/* _start changes to the program's own stack, rt_entry calls the handler and returns from the signal by itself. */
#if defined(__aarch64__)
__asm__(".globl _start\n_start: mov x0, sp\n adrp x1, rt_stack + 16384\n add x1, x1, :lo12:rt_stack + 16384\n mov sp, "
        "x1\n bl rt_begin\n"
        ".globl rt_entry\nrt_entry: bl rt_handler\n mov x8, #" RT_TEXT(SYS_rt_sigreturn) "\n svc #0\n");
static long rt_call(long nr, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = nr, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;

    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
enum { RT_MMAP = SYS_mmap };
#elif defined(__arm__)
__asm__(".arm\n.globl _start\n_start: mov r0, sp\n ldr sp, =rt_stack + 16384\n bl rt_begin\n"
        ".globl rt_entry\nrt_entry: bl rt_handler\n mov r7, #173\n svc #0\n.ltorg\n"); /* rt_sigreturn */
static long rt_call(long nr, long a, long b, long c, long d, long e, long f)
{
    register long r7 __asm__("r7") = nr, r0 __asm__("r0") = a, r1 __asm__("r1") = b, r2 __asm__("r2") = c;
    register long r3 __asm__("r3") = d, r4 __asm__("r4") = e, r5 __asm__("r5") = f;

    __asm__ volatile("svc #0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2), "r"(r3), "r"(r4), "r"(r5) : "memory");
    return r0;
}
enum { RT_MMAP = SYS_mmap2 };
#elif defined(__riscv)
__asm__(".globl _start\n_start: mv a0, sp\n la sp, rt_stack + 16384\n call rt_begin\n"
        ".globl rt_entry\nrt_entry: call rt_handler\n li a7, " RT_TEXT(SYS_rt_sigreturn) "\n ecall\n");
static long rt_call(long nr, long a, long b, long c, long d, long e, long f)
{
    register long a7 __asm__("a7") = nr, a0 __asm__("a0") = a, a1 __asm__("a1") = b, a2 __asm__("a2") = c;
    register long a3 __asm__("a3") = d, a4 __asm__("a4") = e, a5 __asm__("a5") = f;

    __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5) : "memory");
    return a0;
}
enum { RT_MMAP = SYS_mmap };
#endif
void rt_entry(void);
void rt_handler(int sig, siginfo_t *info, void *uc);

void *memcpy(void *to, const void *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((char *)to)[i] = ((const char *)from)[i];
    return to;
}

void *memset(void *to, int c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((char *)to)[i] = (char)c;
    return to;
}

__attribute__((noreturn)) static void rt_exit(int status)
{
    for (;;)
        rt_call(SYS_exit_group, status, 0, 0, 0, 0, 0);
}

static long rt_open(const char *path, int flags)
{
    return rt_call(SYS_openat, AT_FDCWD, (long)path, flags, 0600, 0, 0);
}

/* All n bytes of a file's next record. False: none is left. */
static int rt_read(long fd, void *p, size_t n)
{
    for (size_t got = 0; got < n;) {
        long k = rt_call(SYS_read, fd, (long)p + (long)got, (long)(n - got), 0, 0, 0);

        if (k <= 0)
            return 0;
        got += (size_t)k;
    }
    return 1;
}

static void rt_write(long fd, const void *p, size_t n)
{
    for (size_t put = 0; put < n;) {
        long k = rt_call(SYS_write, fd, (long)p + (long)put, (long)(n - put), 0, 0, 0);

        if (k <= 0)
            rt_exit(3);
        put += (size_t)k;
    }
}

static void rt_rewind(long fd)
{
    rt_call(SYS_lseek, fd, 0, SEEK_SET, 0, 0, 0);
}

static void rt_map(uintptr_t at, size_t n, int prot)
{
    if (rt_call(RT_MMAP, (long)at, (long)n, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != (long)at)
        rt_exit(2);
}

/* The next line's range of /proc/self/maps. */
static int rt_maps_line(long fd, uintptr_t range[2])
{
    char c;
    int which = 0, digits = 1;

    range[0] = range[1] = 0;
    while (rt_read(fd, &c, 1)) {
        int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

        if (c == '\n')
            return 1;
        if (v >= 0 && digits)
            range[which] = range[which] << 4 | (unsigned)v;
        else if (c == '-' && !which)
            which = 1;
        else
            digits = 0;
    }
    return 0;
}

/* Nothing is mapped from now on but the image and the n ranges of keep (page-aligned, {begin, end}). What nobody can
 * take away (Arm's page of kernel helpers) lies above `top`. */
static void rt_own_map(uintptr_t (*keep)[2], int n, uintptr_t top)
{
    static uintptr_t found[256][2];
    uintptr_t image[2] = {(uintptr_t)__executable_start & ~4095ul, ((uintptr_t)_end + 4095) & ~4095ul};

    for (int round = 0; round < 2; round++) {
        long fd = rt_open("/proc/self/maps", O_RDONLY);
        int nr = 0;

        while (fd >= 0 && nr < 256 && rt_maps_line(fd, found[nr]))
            nr++;
        rt_call(SYS_close, fd, 0, 0, 0, 0, 0);
        if (!nr || nr == 256)
            rt_exit(5);
        for (int i = 0; i < nr; i++) {
            int own = found[i][0] >= top || (found[i][0] < image[1] && found[i][1] > image[0]);

            for (int k = 0; k < n; k++)
                own |= found[i][0] < keep[k][1] && found[i][1] > keep[k][0];
            if (!own && round)
                rt_exit(5);
            if (!own)
                rt_call(SYS_munmap, (long)found[i][0], (long)(found[i][1] - found[i][0]), 0, 0, 0, 0);
        }
    }
}

/* All faults to rt_handler, on its own stack. */
static void rt_signals(void)
{
    static const int sigs[] = {SIGILL, SIGSEGV, SIGBUS, SIGTRAP, SIGFPE};
    static struct {
        void *handler;
        unsigned long flags;
#if !defined(__riscv)
        void *restorer;
#endif
        unsigned long mask[64 / sizeof(long) / 8 ? 64 / 8 / sizeof(long) : 1];
    } sa;
    stack_t ss = {.ss_sp = rt_sigstack, .ss_size = sizeof rt_sigstack};

    sa.handler = (void *)rt_entry;
    sa.flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    rt_call(SYS_sigaltstack, (long)&ss, 0, 0, 0, 0, 0);
    for (unsigned i = 0; i < sizeof sigs / sizeof *sigs; i++)
        if (rt_call(SYS_rt_sigaction, sigs[i], (long)&sa, 0, 8, 0, 0))
            rt_exit(2);
}

__attribute__((used, noreturn)) void rt_begin(long *sp)
{
    if (*sp != 3)
        rt_exit(2);
    rt_exit(rt_main((const char *)sp[2], (const char *)sp[3]));
}

#endif
