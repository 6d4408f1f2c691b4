/* `info tlb` and `info mem`: the x86 guest's page tables, walked without side effects (SDM vol. 3, ch. 4). */
#include "guest/x86/state.h"
#include "mon/mon_int.h"

struct walk {
    struct mon *m;
    struct x86_cpu *c;
    unsigned levels, entry; /* bytes of an entry */
    bool summary;           /* info mem: join ranges of equal rights */
    uint64_t start, end, rights;
    unsigned lines;
};
enum { P = 1, RW = 2, US = 4, PWT = 8, PCD = 16, A = 32, D = 64, PS = 128, G = 256, MAX_LINES = 20000 };
static const uint64_t NX = UINT64_C(1) << 63, ADDR = UINT64_C(0x000ffffffffff000);

static uint64_t canonical(const struct walk *w, uint64_t va)
{
    return w->levels >= 4 ? (uint64_t)sext64(va, w->levels == 5 ? 57 : 48) : va;
}

static void end_range(struct walk *w)
{
    if (w->end && w->lines < MAX_LINES) {
        mon_printf(w->m, "%016" PRIx64 "-%016" PRIx64 " %016" PRIx64 " %c%c%c\n", canonical(w, w->start),
                   canonical(w, w->end - 1) + 1, w->end - w->start, w->rights & US ? 'u' : '-', 'r',
                   w->rights & RW ? 'w' : '-');
        w->lines++;
    }
    w->end = 0;
}

static void page(struct walk *w, uint64_t va, uint64_t size, uint64_t pte, uint64_t rights)
{
    if (w->summary) {
        if (w->end != va || w->rights != (rights & (US | RW)))
            end_range(w);
        if (!w->end) {
            w->start = va;
            w->rights = rights & (US | RW);
        }
        w->end = va + size;
        return;
    }
    if (w->lines++ < MAX_LINES)
        mon_printf(w->m, "%016" PRIx64 ": %016" PRIx64 " %c%c%c%c%c%c%c%c%c\n", canonical(w, va),
                   pte & ADDR & ~(size - 1), pte & NX ? 'X' : '-', pte & G ? 'G' : '-', size > 4096 ? 'P' : '-',
                   pte & D ? 'D' : '-', pte & A ? 'A' : '-', pte & PCD ? 'C' : '-', pte & PWT ? 'T' : '-',
                   pte & US ? 'U' : '-', pte & RW ? 'W' : '-');
}

static void table(struct walk *w, uint64_t base, unsigned level, uint64_t va, uint64_t rights)
{
    unsigned bits = w->entry == 4 ? 10 : 9, shift = 12 + (level - 1) * bits;
    unsigned nr = w->levels == 3 && level == 3 ? 4 : 1u << bits;

    for (unsigned i = 0; i < nr && w->lines < MAX_LINES; i++) {
        uint64_t e = mem_ld(x86_as(w->c), base + (uint64_t)i * w->entry, w->entry), at = va | (uint64_t)i << shift;
        bool top3 = w->levels == 3 && level == 3;

        if (!(e & P))
            continue;
        if (level == 1 || ((e & PS) && level < 4 && !top3))
            page(w, at, UINT64_C(1) << shift, e, rights & e);
        else
            table(w, e & ADDR, level - 1, at, top3 ? rights : rights & e);
    }
}

static void walk(struct mon *m, bool summary)
{
    struct err *e = NULL;
    struct vcpu *v = mon_cpu(m, &e);
    struct walk w = {.m = m, .summary = summary};

    if (!v) {
        mon_error(m, e);
        return;
    }
    mon_freeze(mon_machine(m));
    w.c = x86_cpu(v);
    if (!(w.c->cr0 & X86_CR0_PG)) {
        mon_puts(m, "PG disabled\n");
    } else {
        w.levels = w.c->long_mode ? w.c->cr4 & X86_CR4_LA57 ? 5 : 4 : w.c->cr4 & X86_CR4_PAE ? 3 : 2;
        w.entry = w.levels == 2 ? 4 : 8;
        table(&w, w.levels == 3 ? w.c->cr3 & 0xffffffe0 : w.c->cr3 & ADDR, w.levels, 0, US | RW);
        end_range(&w);
        if (w.lines >= MAX_LINES)
            mon_printf(m, "... (cut after %d lines)\n", MAX_LINES);
    }
    mon_thaw(mon_machine(m));
}

void info_tlb(struct mon *m, struct hmp_args *a);
void info_tlb(struct mon *m, struct hmp_args *a)
{
    walk(m, false);
}

void info_mem(struct mon *m, struct hmp_args *a);
void info_mem(struct mon *m, struct hmp_args *a)
{
    walk(m, true);
}
