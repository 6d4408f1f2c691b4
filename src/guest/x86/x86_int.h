/* Inside guest/x86: what the files of the CPU core share. Faults leave through x86_raise*, with c->rip at the
 * instruction. */
#ifndef GUEST_X86_X86_INT_H
#define GUEST_X86_X86_INT_H

#include "guest/x86/state.h"

/* interp.c */
bool x86_interp_init(struct x86_cpu *c); /* the block cache; the vCPU is in its machine's list */

/* mmu.c */
bool x86_mmu_init(struct x86_cpu *c); /* the TLB; as and as_smm must be set */
void x86_mmu_free(struct x86_cpu *c);
/* CR3 was written with CR4.PCIDE set; keep: bit 63 asked to preserve what is cached for the PCID. */
void x86_tlb_flush_pcid(struct x86_cpu *c, unsigned pcid, bool keep);
void x86_mmu_listen(struct x86_cpu *c, struct mem_space *as); /* flushes when the layout of as changes */
/* Notes data (or with io, port) breakpoints of DR0..DR3 that [at, at + size) touches in watch_hit. */
void x86_watch(struct x86_cpu *c, uint64_t at, unsigned size, bool write, bool io);
bool x86_walk_debug(struct x86_cpu *c, uint64_t lin, struct x86_xlat *out); /* any right, no accessed bits, no faults */
/* Host bytes of the code page at lin (page-aligned result) with fetch checks done; NULL when it is not plain memory.
 * Faults. */
const uint8_t *x86_code_page(struct x86_cpu *c, uint64_t lin, struct mem_ram **ram, uint64_t *ram_off);
static inline bool x86_canonical(const struct x86_cpu *c, uint64_t a)
{
    unsigned s = c->cr4 & X86_CR4_LA57 ? 7 : 16;

    return (uint64_t)((int64_t)(a << s) >> s) == a;
}

/* seg.c */
struct x86_desc { /* a descriptor as read from a table */
    uint32_t lo, hi;
    uint64_t at; /* linear address; 0 for null selectors */
};
/* False: outside the table (or null). */
bool x86_desc_read(struct x86_cpu *c, uint16_t sel, struct x86_desc *d);
void x86_desc_mark(struct x86_cpu *c, struct x86_desc *d,
                   uint32_t bits /* of hi */); /* sets accessed/busy in memory, locked */
void x86_desc_seg(const struct x86_desc *d, uint16_t sel, struct x86_seg *s);
static inline unsigned x86_desc_dpl(uint32_t hi)
{
    return hi >> 13 & 3;
}
void x86_load_seg(struct x86_cpu *c, int seg, uint16_t sel); /* MOV Sreg, POP Sreg, LxS: not CS */
void x86_seg_real(struct x86_cpu *c, int seg, uint16_t sel); /* real-mode load: base = sel << 4 */
void x86_seg_v86(struct x86_cpu *c, int seg, uint16_t sel);
void x86_load_ldt(struct x86_cpu *c, uint16_t sel);
void x86_load_tr(struct x86_cpu *c, uint16_t sel);
static inline bool x86_real(const struct x86_cpu *c)
{
    return !(c->cr0 & X86_CR0_PE);
}
static inline bool x86_v86(const struct x86_cpu *c)
{
    return c->rflags & X86_VM;
}
static inline bool x86_pm(const struct x86_cpu *c) /* protected, not virtual-8086 */
{
    return (c->cr0 & X86_CR0_PE) && !(c->rflags & X86_VM);
}
static inline unsigned x86_iopl(const struct x86_cpu *c)
{
    return c->rflags >> 12 & 3;
}
/* Width of the stack pointer: 2, 4 or 8 bytes. */
static inline unsigned x86_stack_size(const struct x86_cpu *c)
{
    return c->mode == X86_MODE_64 ? 8 : c->seg[X86_SS].flags & X86_SEG_DB ? 4 : 2;
}
void x86_set_rsp(struct x86_cpu *c, uint64_t v); /* writes the part x86_stack_size covers */
void x86_push(struct x86_cpu *c, unsigned size, uint64_t v);
uint64_t x86_pop(struct x86_cpu *c, unsigned size);

/* far.c: each sets rip (and all else) or faults. next: address of the following instruction. */
void x86_far_jmp(struct x86_cpu *c, uint16_t sel, uint64_t off, unsigned opsz);
void x86_far_call(struct x86_cpu *c, uint16_t sel, uint64_t off, unsigned opsz, uint64_t next);
void x86_far_ret(struct x86_cpu *c, unsigned opsz, unsigned imm);
void x86_iret(struct x86_cpu *c, unsigned opsz);
void x86_int_n(struct x86_cpu *c, uint8_t vec, uint64_t next, bool int3_or_into);
void x86_syscall(struct x86_cpu *c, uint64_t next);
void x86_sysret(struct x86_cpu *c, unsigned opsz);
void x86_sysenter(struct x86_cpu *c);
void x86_sysexit(struct x86_cpu *c, unsigned opsz);
enum x86_task_why { X86_TASK_JMP, X86_TASK_CALL, X86_TASK_IRET, X86_TASK_GATE };
void x86_task_switch(struct x86_cpu *c, uint16_t sel, enum x86_task_why why, uint64_t next, bool has_err, uint32_t err);

/* smm.c */
void x86_enter_smm(struct x86_cpu *c);
void x86_rsm(struct x86_cpu *c);

#endif
