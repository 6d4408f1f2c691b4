/* System management mode: the state save area and RSM.
 *
 * With long mode in the model the AMD64 layout is used (AMD APM vol. 2, 10.2.3), else the Pentium layout (Intel SDM
 * vol. 3, 31.4.1): those are what SeaBIOS and OVMF look for. Offsets are from SMBASE + 0x8000. */
#include "base/bytes.h"
#include "base/log.h"
#include "guest/x86/x86_int.h"

enum { AREA = 0x8000, REV64 = 0x00020064, REV32 = 0x00020000 };

static uint8_t *at(uint8_t *area, unsigned off) /* off as printed: 0x7e00..0x7fff */
{
    return area + (off - 0x7c00);
}

static bool wide(const struct x86_cpu *c)
{
    return x86_has(&c->feat, X86_F_LM);
}

/* ES CS SS DS FS GS in table order. */
static const uint16_t seg64_off[6] = {0x7e00, 0x7e10, 0x7e20, 0x7e30, 0x7e40, 0x7e50};
static const uint8_t reg64_order[16] = {15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}; /* R15 at 0x7f80 */

static void put_seg64(uint8_t *m, unsigned off, const struct x86_seg *s)
{
    put_le16(at(m, off), s->sel);
    put_le16(at(m, off + 2), (uint16_t)((s->flags >> 8 & 0xff) | (s->flags >> 12 & 0xf00)));
    put_le32(at(m, off + 4), s->limit);
    put_le64(at(m, off + 8), s->base);
}

static void get_seg64(uint8_t *m, unsigned off, struct x86_seg *s)
{
    uint32_t f = get_le16(at(m, off + 2));

    s->sel = get_le16(at(m, off));
    s->flags = (f & 0xff) << 8 | (f & 0xf00) << 12;
    s->limit = get_le32(at(m, off + 4));
    s->base = get_le64(at(m, off + 8));
}

static void save64(struct x86_cpu *c, uint8_t *m)
{
    for (unsigned i = 0; i < 6; i++)
        put_seg64(m, seg64_off[i], &c->seg[i]);
    put_le32(at(m, 0x7e64), c->gdt.limit);
    put_le64(at(m, 0x7e68), c->gdt.base);
    put_seg64(m, 0x7e70, &c->seg[X86_LDTR]);
    put_le32(at(m, 0x7e84), c->idt.limit);
    put_le64(at(m, 0x7e88), c->idt.base);
    put_seg64(m, 0x7e90, &c->seg[X86_TR]);
    *at(m, 0x7ec9) = c->vcpu.halted; /* auto-halt restart */
    put_le64(at(m, 0x7ed0), c->efer);
    put_le32(at(m, 0x7efc), REV64);
    put_le32(at(m, 0x7f00), c->smbase);
    put_le64(at(m, 0x7f48), c->cr4);
    put_le64(at(m, 0x7f50), c->cr3);
    put_le64(at(m, 0x7f58), c->cr0);
    put_le64(at(m, 0x7f60), c->dr[7]);
    put_le64(at(m, 0x7f68), c->dr[6]);
    put_le64(at(m, 0x7f70), c->rflags);
    put_le64(at(m, 0x7f78), c->rip);
    for (unsigned i = 0; i < 16; i++)
        put_le64(at(m, 0x7f80 + 8 * i), c->regs[reg64_order[i]]);
}

static void load64(struct x86_cpu *c, uint8_t *m, uint64_t *cr0, uint64_t *cr4)
{
    for (unsigned i = 0; i < 6; i++)
        get_seg64(m, seg64_off[i], &c->seg[i]);
    c->gdt.limit = get_le32(at(m, 0x7e64));
    c->gdt.base = get_le64(at(m, 0x7e68));
    get_seg64(m, 0x7e70, &c->seg[X86_LDTR]);
    c->idt.limit = get_le32(at(m, 0x7e84));
    c->idt.base = get_le64(at(m, 0x7e88));
    get_seg64(m, 0x7e90, &c->seg[X86_TR]);
    c->vcpu.halted = *at(m, 0x7ec9) & 1;
    c->efer = get_le64(at(m, 0x7ed0));
    c->smbase = get_le32(at(m, 0x7f00));
    *cr4 = get_le64(at(m, 0x7f48));
    c->cr3 = get_le64(at(m, 0x7f50));
    *cr0 = get_le64(at(m, 0x7f58));
    c->dr[7] = get_le64(at(m, 0x7f60));
    c->dr[6] = get_le64(at(m, 0x7f68));
    c->rflags = get_le64(at(m, 0x7f70)) | 2;
    c->rip = get_le64(at(m, 0x7f78));
    for (unsigned i = 0; i < 16; i++)
        c->regs[reg64_order[i]] = get_le64(at(m, 0x7f80 + 8 * i));
}

static void put_seg32(uint8_t *m, unsigned sel_off, unsigned off, const struct x86_seg *s)
{
    put_le32(at(m, sel_off), s->sel);
    put_le32(at(m, off), s->flags & 0xf0ff00);
    put_le32(at(m, off + 4), s->limit);
    put_le32(at(m, off + 8), (uint32_t)s->base);
}

static void get_seg32(uint8_t *m, unsigned sel_off, unsigned off, struct x86_seg *s)
{
    s->sel = (uint16_t)get_le32(at(m, sel_off));
    s->flags = get_le32(at(m, off)) & 0xf0ff00;
    s->limit = get_le32(at(m, off + 4));
    s->base = get_le32(at(m, off + 8));
}

static const uint16_t seg32_off[6][2] = {{0x7fa8, 0x7f84}, {0x7fac, 0x7f90}, {0x7fb0, 0x7f9c},
                                         {0x7fb4, 0x7f2c}, {0x7fb8, 0x7f38}, {0x7fbc, 0x7f44}};

static void save32(struct x86_cpu *c, uint8_t *m)
{
    put_le32(at(m, 0x7ffc), (uint32_t)c->cr0);
    put_le32(at(m, 0x7ff8), (uint32_t)c->cr3);
    put_le32(at(m, 0x7ff4), (uint32_t)c->rflags);
    put_le32(at(m, 0x7ff0), (uint32_t)c->rip);
    for (unsigned i = 0; i < 8; i++) /* EAX lowest, EDI at 7fec */
        put_le32(at(m, 0x7fd0 + 4 * i), (uint32_t)c->regs[i]);
    put_le32(at(m, 0x7fcc), (uint32_t)c->dr[6]);
    put_le32(at(m, 0x7fc8), (uint32_t)c->dr[7]);
    put_seg32(m, 0x7fc4, 0x7f5c, &c->seg[X86_TR]);
    put_seg32(m, 0x7fc0, 0x7f78, &c->seg[X86_LDTR]);
    put_le32(at(m, 0x7f74), (uint32_t)c->gdt.base);
    put_le32(at(m, 0x7f70), c->gdt.limit);
    put_le32(at(m, 0x7f58), (uint32_t)c->idt.base);
    put_le32(at(m, 0x7f54), c->idt.limit);
    for (unsigned i = 0; i < 6; i++)
        put_seg32(m, seg32_off[i][0], seg32_off[i][1], &c->seg[i]);
    put_le32(at(m, 0x7f14), (uint32_t)c->cr4);
    put_le16(at(m, 0x7f02), c->vcpu.halted);
    put_le32(at(m, 0x7efc), REV32);
    put_le32(at(m, 0x7ef8), c->smbase);
}

static void load32(struct x86_cpu *c, uint8_t *m, uint64_t *cr0, uint64_t *cr4)
{
    *cr0 = get_le32(at(m, 0x7ffc));
    c->cr3 = get_le32(at(m, 0x7ff8));
    c->rflags = get_le32(at(m, 0x7ff4)) | 2;
    c->rip = get_le32(at(m, 0x7ff0));
    for (unsigned i = 0; i < 8; i++)
        c->regs[i] = get_le32(at(m, 0x7fd0 + 4 * i));
    c->dr[6] = get_le32(at(m, 0x7fcc));
    c->dr[7] = get_le32(at(m, 0x7fc8));
    get_seg32(m, 0x7fc4, 0x7f5c, &c->seg[X86_TR]);
    get_seg32(m, 0x7fc0, 0x7f78, &c->seg[X86_LDTR]);
    c->gdt.base = get_le32(at(m, 0x7f74));
    c->gdt.limit = get_le32(at(m, 0x7f70));
    c->idt.base = get_le32(at(m, 0x7f58));
    c->idt.limit = get_le32(at(m, 0x7f54));
    for (unsigned i = 0; i < 6; i++)
        get_seg32(m, seg32_off[i][0], seg32_off[i][1], &c->seg[i]);
    *cr4 = get_le32(at(m, 0x7f14));
    c->vcpu.halted = get_le16(at(m, 0x7f02)) & 1;
    c->smbase = get_le32(at(m, 0x7ef8));
}

void x86_enter_smm(struct x86_cpu *c)
{
    uint8_t m[0x400];

    memset(m, 0, sizeof m);
    if (wide(c))
        save64(c, m);
    else
        save32(c, m);
    c->smm = true;
    c->nmi_blocked = true;
    mem_write(x86_as(c), c->smbase + AREA + 0x7c00, m, sizeof m);
    c->vcpu.halted = false;
    c->rflags = 2;
    c->rip = AREA;
    c->efer = 0;
    c->cr0 &= ~(uint64_t)(X86_CR0_PE | X86_CR0_EM | X86_CR0_TS | X86_CR0_PG);
    c->cr4 = 0;
    c->dr[7] = 0x400;
    c->int_shadow = 0;
    for (unsigned i = 0; i < 6; i++)
        c->seg[i] =
            (struct x86_seg){.limit = UINT32_MAX, .flags = X86_SEG_P | X86_SEG_S | X86_SEG_W | X86_SEG_A | X86_SEG_G};
    c->seg[X86_CS].sel = (uint16_t)(c->smbase >> 4);
    c->seg[X86_CS].base = c->smbase;
    x86_tlb_flush(c, true);
    x86_update_mode(c);
    log_at(LOG_INT, "SMM entered, SMBASE %#x", c->smbase);
}

void x86_rsm(struct x86_cpu *c)
{
    uint64_t cr0 = 0, cr4 = 0;
    uint8_t m[0x400];

    if (!c->smm)
        x86_raise(c, X86_UD);
    mem_read(x86_as(c), c->smbase + AREA + 0x7c00, m, sizeof m);
    if (wide(c))
        load64(c, m, &cr0, &cr4);
    else
        load32(c, m, &cr0, &cr4);
    c->smm = false;
    c->nmi_blocked = false;
    c->cr4 = cr4;
    c->cr0 = cr0 | X86_CR0_ET;
    if (!(c->cr0 & X86_CR0_PE))
        c->cpl = 0;
    else
        c->cpl = c->rflags & X86_VM ? 3 : c->seg[X86_CS].sel & 3;
    x86_tlb_flush(c, true);
    x86_update_mode(c);
}
