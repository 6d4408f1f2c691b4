/* The shared object the kernel shows every program (AT_SYSINFO_EHDR): functions for the time that enter no kernel. */
#ifndef USER_LINUX_VDSO_H
#define USER_LINUX_VDSO_H

#include "base/err.h"

/* What its functions ask the translator for: system call numbers LX_VDSO_NR + call, known only there. */
enum { LX_VDSO_NR = 0x6000 };
enum lx_vdso_call {
    LX_VDSO_GETTIME,   /* clock, struct timespec of the guest's word */
    LX_VDSO_GETTIME64, /* clock, struct timespec of 64-bit words */
    LX_VDSO_GETRES,    /* clock, struct timespec of the guest's word */
    LX_VDSO_TIMEOFDAY, /* struct timeval, struct timezone */
    LX_VDSO_TIME,      /* time_t */
    LX_VDSO_GETCPU,    /* unsigned, unsigned */
    LX_VDSO_CALLS,
    LX_VDSO_SIGRETURN = LX_VDSO_CALLS, /* code of the architecture's own, not a call of these */
    LX_VDSO_FLUSH,
    LX_VDSO_VSYSCALL /* any system call (i386): comes first, the image's entry, and has unwind tables */
};
struct lx_vdso_fn {
    const char *name;
    unsigned call; /* enum lx_vdso_call */
};
struct lx_vdso {
    const char *version;                              /* "LINUX_4.15", as the architecture's kernel has it */
    const struct lx_vdso_fn *fn;                      /* ends with a NULL name */
    unsigned (*code)(uint8_t out[32], unsigned call); /* one function; returns its size */
};
enum { LX_VDSO_SIZE = 4096 };

/* Address of the function that makes any system call (AT_SYSINFO), from the image's; 0: it has none. */
uint32_t lx_vdso_entry(const struct lx_vdso *v);
/* Makes the ELF image for the process's architecture, its addresses relative to its start. */
void lx_vdso_fill(const struct lx_vdso *v, uint8_t page[LX_VDSO_SIZE]);
/* The call a function of the image makes: true when nr is one and pc lies in the image; *ret is its result. */
bool lx_vdso_syscall(uint64_t nr, uint64_t pc, const uint64_t a[6], int64_t *ret);

#endif
