/* x86 guests under the user-mode runtime: what arch_x86_64.c and arch_i386.c share. Private to user/linux. */
#ifndef USER_LINUX_X86_FRONT_H
#define USER_LINUX_X86_FRONT_H

#include "guest/x86/rw.h"
#include "guest/x86/user.h"
#include "user/linux/run.h"

struct x86_lx {
    struct lx_cpu lx; /* first */
    struct x86_cpu *c;
    bool m64;
    uint32_t wide;          /* as struct x86_cpu has it: in use by the code that the thread can get to */
    uint64_t orig;          /* the number register before the last system call was answered */
    uint8_t gdt_tls[3][16]; /* i386: struct user_desc of the three TLS slots */
    uint64_t gdt[16];       /* what segment loads find */
};
static inline struct x86_lx *x86_lx(const struct lx_cpu *c)
{
    return (struct x86_lx *)c;
}
extern const struct lx_front lx_x86_front;
bool lx_x86_select(const char *text, struct err **errp);
char *lx_x86_help(void);
struct lx_cpu *lx_x86_new(struct lx_rt *rt, bool m64, struct err **errp);
struct lx_cpu *lx_x86_clone(const struct lx_cpu *from);
void lx_x86_free(struct lx_cpu *c);
enum lx_stop lx_x86_run(struct lx_cpu *c);
/* FXSAVE image (512 bytes) and the rest of an XSAVE image (standard format) for signal frames. size: bytes written. */
enum { LX_X86_XSAVE_MAX = 2816 };
unsigned lx_x86_fp_get(struct lx_cpu *c, uint8_t *image);
void lx_x86_fp_set(struct lx_cpu *c, uint8_t *image);
unsigned lx_x86_xsave_size(const struct x86_lx *x);
uint64_t lx_x86_xsave_mask(const struct x86_lx *x); /* the components it has */
void lx_x86_xsave_out(struct x86_lx *x, uint8_t *image);
void lx_x86_xsave_in(struct x86_lx *x, uint8_t *image, bool extended);
/* What a signal frame takes at most, beside frame bytes; for AT_MINSIGSTKSZ. */
uint64_t lx_x86_sigstack(unsigned frame);
/* A 4 GiB segment descriptor; access: its byte 5. */
uint64_t lx_x86_descriptor(uint32_t base, unsigned access);
uint64_t lx_x86_hwcap(void);          /* CPUID 1 EDX of the selected model */
uint64_t lx_x86_xcr0(void);           /* what it shows in XGETBV */
const char *lx_x86_gdb_xml(bool m64); /* the target description; stays */
unsigned lx_x86_gdb_get(struct lx_cpu *c, unsigned n, uint8_t *buf);
unsigned lx_x86_gdb_set(struct lx_cpu *c, unsigned n, const uint8_t *buf);

#endif
