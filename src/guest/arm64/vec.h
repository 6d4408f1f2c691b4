/* Elements of vector registers, for the interpreter. log2: of the element's bytes. Private to the room. */
#ifndef GUEST_ARM64_VEC_H
#define GUEST_ARM64_VEC_H

#include "fpu/fpu.h"
#include "guest/arm64/insn.h"

static inline uint64_t a64_el(const union ir_vec *v, unsigned i, unsigned log2)
{
    switch (log2) {
    case 0:
        return v->b[i];
    case 1:
        return v->h[i];
    case 2:
        return v->s[i];
    default:
        return v->d[i];
    }
}
static inline void a64_set_el(union ir_vec *v, unsigned i, unsigned log2, uint64_t x)
{
    switch (log2) {
    case 0:
        v->b[i] = (uint8_t)x;
        break;
    case 1:
        v->h[i] = (uint16_t)x;
        break;
    case 2:
        v->s[i] = (uint32_t)x;
        break;
    default:
        v->d[i] = x;
        break;
    }
}
static inline uint64_t a64_sx(uint64_t v, unsigned log2)
{
    unsigned s = 64 - (8u << log2);

    return (uint64_t)((int64_t)(v << s) >> s);
}
/* Elements an instruction works on: one in scalar forms (bit 28), else 8 or 16 bytes by Q (bit 30). */
static inline unsigned a64_lanes(uint32_t w, unsigned log2)
{
    return A64_BIT(w, 28) ? 1 : (A64_BIT(w, 30) ? 16u : 8u) >> log2;
}
struct fpu_env a64_fpu(const struct a64_cpu *c);
uint64_t a64_fp_imm(unsigned imm8, unsigned log2); /* VFPExpandImm */
uint64_t a64_vimm(uint32_t w);                     /* AdvSIMDExpandImm */

#endif
