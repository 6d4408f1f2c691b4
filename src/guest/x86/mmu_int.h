/* The interpreter's TLB, so that hits need no call. Private to guest/x86; filled and flushed by mmu.c. */
#ifndef GUEST_X86_MMU_INT_H
#define GUEST_X86_MMU_INT_H

#include "base/bytes.h"
#include "guest/x86/x86_int.h"

enum { ITLB = 1024, ITLB_LOG = 256, PTC = 64, PAGE = 4096 };
#define PMASK (~UINT64_C(0xfff))
/* Not canonical, so no checked address is within a page of it; not a page address, so none equals it. */
#define EMPTY UINT64_C(0x8000000000000001)

/* By who accesses: supervisor with SMAP in force, user, supervisor with SMAP off (EFLAGS.AC). */
enum { IDX_SYS, IDX_USER, IDX_SYS_AC, NR_IDX };
struct x86_itlb_entry {
    uint64_t tag[3]; /* by enum x86_access: linear page, or EMPTY */
    uint64_t add;    /* host - linear */
    struct mem_ram *ram;
    uint64_t ram_off;
};
struct x86_itlb {
    uint64_t epoch;  /* grows with every flush: remembered results of translations are void then */
    unsigned nr_log; /* entries filled since the last flush; more than the log holds: any */
    struct x86_itlb_entry *log[ITLB_LOG];
    uint64_t big[16], huge; /* hashed bits of 2 (4) MiB and 1 GiB pieces with entries from larger pages */
    struct x86_itlb_entry e[NR_IDX][ITLB];
    struct {
        uint64_t page;
        uint8_t *host;
        struct mem_ram *ram;
        uint64_t ram_off;
        bool smm;
    } pt[PTC];
};
/* trial.c: before a write, and before an access that memory alone does not answer. Nothing outside a trial. */
void x86_trial_log(struct x86_cpu *c, struct mem_ram *ram, uint64_t off, unsigned size);
void x86_trial_stop_device(struct x86_cpu *c); /* does not return when a trial runs */
static inline void x86_trial_write(struct x86_cpu *c, const struct x86_itlb_entry *e, uint64_t lin, unsigned size)
{
    if (unlikely(c->trial != NULL))
        x86_trial_log(c, e->ram, e->ram_off + (lin & 0xfff), size);
}
static inline void x86_trial_device(struct x86_cpu *c)
{
    if (unlikely(c->trial != NULL))
        x86_trial_stop_device(c);
}
static inline unsigned x86_tlb_index(const struct x86_cpu *c, bool user)
{
    return user ? IDX_USER : c->rflags & X86_AC && c->cpl != 3 ? IDX_SYS_AC : IDX_SYS;
}
/* The entry that may be used for size bytes at lin, or NULL: go the slow way. EFLAGS.AC always goes there. */
static inline struct x86_itlb_entry *x86_tlb_hit(struct x86_cpu *c, uint64_t lin, unsigned size, enum x86_access a)
{
    struct x86_itlb_entry *e = &c->itlb->e[c->cpl == 3][(lin >> 12) % ITLB];

    return likely((lin ^ e->tag[a]) <= PAGE - size && !(c->rflags & X86_AC)) ? e : NULL;
}
static inline void x86_tlb_wrote(struct x86_itlb_entry *e, uint64_t lin, unsigned size)
{
    if (unlikely((e->ram->page[e->ram_off / PAGE] & ~MEM_PAGE_WCACHE) != (MEM_DIRTY_VGA | MEM_DIRTY_MIGRATE)))
        mem_ram_written(e->ram, e->ram_off + (lin & 0xfff), size);
}
static inline uint64_t x86_rd_lin(struct x86_cpu *c, uint64_t lin, unsigned size)
{
    struct x86_itlb_entry *e = x86_tlb_hit(c, lin, size, X86_READ);

    if (likely(e)) {
        const void *p = (const void *)(uintptr_t)(lin + e->add);

        switch (size) {
        case 1:
            return *(const uint8_t *)p;
        case 2:
            return get_le16(p);
        case 4:
            return get_le32(p);
        default:
            return get_le64(p);
        }
    }
    return x86_ld(c, lin, size);
}
static inline void x86_wr_lin(struct x86_cpu *c, uint64_t lin, unsigned size, uint64_t v)
{
    struct x86_itlb_entry *e = x86_tlb_hit(c, lin, size, X86_WRITE);

    if (unlikely(!e)) {
        x86_st(c, lin, size, v);
        return;
    }
    switch (size) {
    case 1:
        *(uint8_t *)(uintptr_t)(lin + e->add) = (uint8_t)v;
        break;
    case 2:
        put_le16((void *)(uintptr_t)(lin + e->add), (uint16_t)v);
        break;
    case 4:
        put_le32((void *)(uintptr_t)(lin + e->add), (uint32_t)v);
        break;
    default:
        put_le64((void *)(uintptr_t)(lin + e->add), v);
        break;
    }
    x86_tlb_wrote(e, lin, size);
}
/* Read-modify-write: host pointer of size bytes that may be written (faults raised), or NULL when they are not plain
 * memory or cross a page: load and store then. x86_rmw_done must follow the write. */
/* interp.c: until the present instruction ends, no other vCPU runs a read-modify-write that crosses a page. */
void x86_split_lock(struct x86_cpu *c);
void *x86_rmw_slow(struct x86_cpu *c, uint64_t lin, unsigned size);
static inline void *x86_rmw_ptr(struct x86_cpu *c, uint64_t lin, unsigned size)
{
    struct x86_itlb_entry *e = x86_tlb_hit(c, lin, size, X86_WRITE);

    return likely(e) ? (void *)(uintptr_t)(lin + e->add) : x86_rmw_slow(c, lin, size);
}
static inline void x86_rmw_done(struct x86_cpu *c, uint64_t lin, unsigned size)
{
    x86_tlb_wrote(&c->itlb->e[x86_tlb_index(c, c->cpl == 3)][(lin >> 12) % ITLB], lin, size);
}

#endif
