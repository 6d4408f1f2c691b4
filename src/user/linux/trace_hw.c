/* Debug registers of a traced thread: break- and watchpoints that its tracer sets as on the hardware (x86: u_debugreg
 * after the SDM, volume 3, chapter 18; AArch64: NT_ARM_HW_BREAK and NT_ARM_HW_WATCH after the Arm ARM, D2).
 *
 * The thread runs one instruction at a time while any is set, and looks before each at what they name. A write is
 * noticed by its value having changed, so writing the same value again is not. Left out: watching reads (refused),
 * Arm's and RISC-V's (their debuggers step instead), the debugger's own address masks. */
#include "base/bytes.h"
#include "base/util.h"
#include "user/linux/syscalls.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

enum { DR_STATUS = 6, DR_CONTROL = 7, DR_ADDRS = 4, DR6_BS = 1 << 14 };
enum { X64_DEBUGREG = 848, I386_DEBUGREG = 252 }; /* offsetof(struct user, u_debugreg) */
enum { A64_SLOTS = LX_TRACE_HW / 2, A64_DBG_INFO = 6 << 8 | A64_SLOTS, A64_HEAD = 8, A64_REG = 16 };
enum { A64_E = 1, A64_LSC_LOAD = 1 << 3, A64_BAS_SHIFT = 5 };

static void add(struct lx_trace *tr, unsigned slot, bool exec, uint64_t at, unsigned len)
{
    tr->hw[tr->nr_hw++] = (struct lx_hw){.at = at, .len = (uint8_t)len, .slot = (uint8_t)slot, .exec = exec};
}

/* ---- the tracer: x86 ---- */

/* Number of the debug register at an offset into struct user; -1: none. */
static int debug_reg(const struct lx_trace *tr, uint64_t off)
{
    unsigned w = lx_proc.arch->word, base = w == 8 ? X64_DEBUGREG : I386_DEBUGREG;
    bool x86 = tr->machine == EM_X86_64 || tr->machine == EM_386;

    return x86 && off >= base && off < base + 8 * w ? (int)((off - base) / w) : -1;
}

bool lx_trace_hw_peek(const struct lx_trace *tr, uint64_t off, uint64_t *v)
{
    int n = debug_reg(tr, off);

    if (n >= 0)
        *v = tr->dr[n];
    return n >= 0;
}

bool lx_trace_hw_poke(struct lx_trace *tr, uint64_t off, uint64_t v, int64_t *r)
{
    static const uint8_t lens[4] = {1, 2, 8, 4};
    int n = debug_reg(tr, off);
    uint64_t control = n == DR_CONTROL ? v : tr->dr[DR_CONTROL];

    if (n < 0)
        return false;
    *r = n == 4 || n == 5 ? -EIO : 0;
    for (unsigned i = 0; i < DR_ADDRS; i++)
        if (control >> (2 * i) & 3 && control >> (16 + 4 * i) & 2) /* input and output, or reads */
            *r = -EINVAL;
    if (*r)
        return true;
    tr->dr[n] = v;
    tr->nr_hw = 0;
    for (unsigned i = 0; i < DR_ADDRS; i++)
        if (control >> (2 * i) & 3)
            add(tr, i, !(control >> (16 + 4 * i) & 3), tr->dr[i], lens[control >> (18 + 4 * i) & 3]);
    return true;
}

/* ---- the tracer: AArch64 ---- */

/* The slots of a note as {address, control}; NULL: not one of these notes. */
static uint64_t (*a64_slots(struct lx_trace *tr, unsigned note))[2]
{
    if (tr->machine != EM_AARCH64)
        return NULL;
    return note == NT_ARM_HW_WATCH ? tr->a64_watch : note == NT_ARM_HW_BREAK ? tr->a64_break : NULL;
}

static void a64_list(struct lx_trace *tr)
{
    tr->nr_hw = 0;
    for (unsigned i = 0; i < A64_SLOTS; i++) {
        unsigned bas = (unsigned)(tr->a64_watch[i][1] >> A64_BAS_SHIFT) & 0xff;

        if (tr->a64_break[i][1] & A64_E)
            add(tr, i, true, tr->a64_break[i][0], 4);
        if (tr->a64_watch[i][1] & A64_E && bas)
            add(tr, i, false, tr->a64_watch[i][0] + (unsigned)__builtin_ctz(bas), (unsigned)__builtin_popcount(bas));
    }
}

bool lx_trace_hw_set(struct lx_trace *tr, unsigned note, uint64_t at, uint64_t *len, bool set, int64_t *r)
{
    uint64_t(*slot)[2] = a64_slots(tr, note);
    uint8_t b[A64_HEAD + A64_SLOTS * A64_REG] = {0};

    if (!slot)
        return false;
    *len = min_u64(*len, sizeof b);
    *r = 0;
    if (set) {
        if (!lx_get(b, at, *len))
            *r = -EFAULT;
        for (unsigned i = 0; !*r && A64_HEAD + (i + 1) * A64_REG <= *len; i++)
            if (slot == tr->a64_watch && get_le32(b + A64_HEAD + i * A64_REG + 8) & A64_E &&
                get_le32(b + A64_HEAD + i * A64_REG + 8) & A64_LSC_LOAD)
                *r = -EINVAL;
        for (unsigned i = 0; !*r && A64_HEAD + (i + 1) * A64_REG <= *len; i++) {
            slot[i][0] = get_le64(b + A64_HEAD + i * A64_REG);
            slot[i][1] = get_le32(b + A64_HEAD + i * A64_REG + 8);
        }
        a64_list(tr);
        return true;
    }
    put_le32(b, A64_DBG_INFO);
    for (unsigned i = 0; i < A64_SLOTS; i++) {
        put_le64(b + A64_HEAD + i * A64_REG, slot[i][0]);
        put_le32(b + A64_HEAD + i * A64_REG + 8, (uint32_t)slot[i][1]);
    }
    if (!lx_put(at, b, *len))
        *r = -EFAULT;
    return true;
}

/* ---- the tracee ---- */

void lx_trace_hw_begin(struct lx_thread *t)
{
    struct lx_trace *tr = &t->trace;

    tr->hw_skip = lx_proc.arch->get(t->cpu, LX_PC);
    for (unsigned i = 0; i < tr->nr_hw; i++) {
        tr->hw[i].old = 0;
        lx_get(&tr->hw[i].old, tr->hw[i].at, min_u64(tr->hw[i].len, 8));
    }
}

/* Bit n: slot n was met. */
static unsigned met(struct lx_thread *t, uint64_t *addr)
{
    uint64_t pc = lx_proc.arch->get(t->cpu, LX_PC);
    unsigned hits = 0;

    *addr = pc;
    for (unsigned i = 0; i < t->trace.nr_hw; i++) {
        struct lx_hw *h = &t->trace.hw[i];
        uint64_t now = 0;
        bool hit =
            h->exec ? pc == h->at && pc != t->trace.hw_skip : lx_get(&now, h->at, min_u64(h->len, 8)) && now != h->old;

        if (!hit)
            continue;
        hits |= 1u << h->slot;
        if (!h->exec)
            h->old = now;
        if (lx_proc.arch->elf_machine == EM_AARCH64)
            *addr = h->at;
    }
    return hits;
}

unsigned lx_trace_hw_met(struct lx_thread *t, bool stepped, uint64_t *addr)
{
    unsigned hits = met(t, addr);

    t->trace.hw_skip = hits ? t->trace.hw_skip : UINT64_MAX;
    if (hits || stepped)
        t->trace.dr[DR_STATUS] |= hits | (stepped ? DR6_BS : 0);
    return hits;
}
