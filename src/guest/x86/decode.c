/* The x86 decoder: bytes in, struct x86_insn out, driven by insn.def.
 *
 * Follows the Intel SDM vol. 2 chapters 2 (formats) and appendix A. Pure: it knows no CPU state beyond the mode. The
 * row index is built once before main and only read afterwards. Left out: XOP, 3DNow! (both decode as #UD).
 *
 * EVEX: disp8 counts in sizes of the memory operand (of an element, where elements are compressed), which is what the
 * manual's tuple types come to. What else the prefix may say is in the row (insn_evex.def) and checked before operands.
 */
#include "guest/x86/cpuid.h"
#include "guest/x86/insn.h"
#include "guest/x86/insn_row.h"
#include "guest/x86/ops.h"

/* Operand kinds. */
enum {
    K_NONE,
    K_E,
    K_G,
    K_M,
    K_R,
    K_I,
    K_SI,
    K_I2,
    K_J,
    K_O,
    K_V,
    K_W,
    K_H,
    K_L,
    K_U,
    K_P,
    K_Q,
    K_N,
    K_S,
    K_SEG,
    K_C,
    K_D,
    K_X,
    K_Y,
    K_B,
    K_FAR,
    K_ACC,
    K_CL,
    K_DX,
    K_Z,
    K_ST0,
    K_STI,
    K_ONE,
    K_XMM0,
    K_RM,
    K_DI,
    K_BXAL,
    K_KG,
    K_KH,
    K_KU,
    K_KE
};
/* Operand sizes; below SZ_V a fixed number of bytes. */
enum {
    SZ_0 = 0,
    SZ_b = 1,
    SZ_w = 2,
    SZ_d = 4,
    SZ_q = 8,
    SZ_t = 10,
    SZ_dq = 16,
    SZ_qq = 32,
    SZ_V = 0x40,
    SZ_v = SZ_V,
    SZ_z,
    SZ_y,
    SZ_k,
    SZ_p,
    SZ_s,
    SZ_a,
    SZ_x,
    SZ_h,
    SZ_f,
    SZ_e,
    SZ_fe,
    SZ_fs,
    SZ_512,
    SZ_vw,
    SZ_db,
    SZ_dw
};
#define K_(k, s) ((k) | SZ_##s << 8)
enum {
    __ = 0,
    Eb = K_(K_E, b),
    Ew = K_(K_E, w),
    Ed = K_(K_E, d),
    Ev = K_(K_E, v),
    Ey = K_(K_E, y),
    Ez = K_(K_E, z),
    Gb = K_(K_G, b),
    Gw = K_(K_G, w),
    Gd = K_(K_G, d),
    Gv = K_(K_G, v),
    Gy = K_(K_G, y),
    Gk = K_(K_G, k),
    M0 = K_(K_M, 0),
    Mb = K_(K_M, b),
    Mw = K_(K_M, w),
    Md = K_(K_M, d),
    Mq = K_(K_M, q),
    Mt = K_(K_M, t),
    Mdq = K_(K_M, dq),
    Mx = K_(K_M, x),
    Mv = K_(K_M, v),
    My = K_(K_M, y),
    Mp = K_(K_M, p),
    Ms = K_(K_M, s),
    Ma = K_(K_M, a),
    Mfe = K_(K_M, fe),
    Mfs = K_(K_M, fs),
    M512 = K_(K_M, 512),
    Rv = K_(K_R, v),
    Ry = K_(K_R, y),
    Rk = K_(K_R, k),
    Ib = K_(K_I, b),
    Iw = K_(K_I, w),
    Iz = K_(K_I, z),
    Iv = K_(K_I, v),
    sIb = K_(K_SI, b),
    Ib2 = K_(K_I2, b),
    Jb = K_(K_J, b),
    Jz = K_(K_J, z),
    Ob = K_(K_O, b),
    Ov = K_(K_O, v),
    Vx = K_(K_V, x),
    Vdq = K_(K_V, dq),
    Vh = K_(K_V, h),
    Wx = K_(K_W, x),
    Wdq = K_(K_W, dq),
    Wb = K_(K_W, b),
    Ww = K_(K_W, w),
    Wd = K_(K_W, d),
    Wq = K_(K_W, q),
    Wh = K_(K_W, h),
    Wf = K_(K_W, f),
    We = K_(K_W, e),
    Hx = K_(K_H, x),
    Hdq = K_(K_H, dq),
    Hh = K_(K_H, h),
    Lx = K_(K_L, x),
    Ux = K_(K_U, x),
    Udq = K_(K_U, dq),
    Pq = K_(K_P, q),
    Qq = K_(K_Q, q),
    Qd = K_(K_Q, d),
    Nq = K_(K_N, q),
    Sw = K_(K_S, w),
    sES = K_SEG | X86_ES << 12 | SZ_w << 8,
    sCS = K_SEG | X86_CS << 12 | SZ_w << 8,
    sSS = K_SEG | X86_SS << 12 | SZ_w << 8,
    sDS = K_SEG | X86_DS << 12 | SZ_w << 8,
    sFS = K_SEG | X86_FS << 12 | SZ_w << 8,
    sGS = K_SEG | X86_GS << 12 | SZ_w << 8,
    Ck = K_(K_C, k),
    Dk = K_(K_D, k),
    Xb = K_(K_X, b),
    Xv = K_(K_X, v),
    Xz = K_(K_X, z),
    Yb = K_(K_Y, b),
    Yv = K_(K_Y, v),
    Yz = K_(K_Y, z),
    By = K_(K_B, y),
    Ap = K_(K_FAR, p),
    Ab = K_(K_ACC, b),
    Aw = K_(K_ACC, w),
    Av = K_(K_ACC, v),
    Az = K_(K_ACC, z),
    CLb = K_(K_CL, b),
    DXw = K_(K_DX, w),
    Zb = K_(K_Z, b),
    Zv = K_(K_Z, v),
    ST0 = K_(K_ST0, t),
    STi = K_(K_STI, t),
    ONE = K_(K_ONE, b),
    XMM0 = K_(K_XMM0, dq),
    RvMw = K_(K_RM, vw),
    RdMb = K_(K_RM, db),
    RdMw = K_(K_RM, dw),
    DIq = K_(K_DI, q),
    DIdq = K_(K_DI, dq),
    BXAL = K_(K_BXAL, b),
    Rd = K_(K_R, d),
    Mqq = K_(K_M, qq),
    Wqq = K_(K_W, qq),
    KGb = K_(K_KG, b),
    KGw = K_(K_KG, w),
    KGd = K_(K_KG, d),
    KGq = K_(K_KG, q),
    KHq = K_(K_KH, q),
    KUq = K_(K_KU, q),
    KEb = K_(K_KE, b),
    KEw = K_(K_KE, w),
    KEd = K_(K_KE, d),
    KEq = K_(K_KE, q),
};
static inline unsigned op_kind(unsigned o)
{
    return o & 0xff;
}
static inline unsigned op_szcode(unsigned o)
{
    return op_kind(o) == K_SEG ? 2 : o >> 8;
}
enum { X86_F_AVX512GFNI = X86_F_GFNI, X86_F_AVX512VAES = X86_F_VAES, X86_F_AVX512PCLMUL = X86_F_VPCLMUL };
enum {
    n = 0,
    r = 1,
    w = 2,
    m = 3,
    rr = 5,
    wr = 6,
    mr = 7,
    wn = 2,
    nn = 0,
    mm = 15,
    rrr = 0x15,
    wrr = 0x16,
    mrr = 0x17,
    wwr = 0x1a,
    mrm = 0x37,
    wrrr = 0x56,
    mrrr = 0x57
};
enum { rAX = 1, rCX = 2, rDX = 4, rBX = 8, rSP = 16, rBP = 32, rSI = 64, rDI = 128, rR11 = 1 << 11 };
enum { CF = X86_CF, PF = X86_PF, AF = X86_AF, ZF = X86_ZF, SF = X86_SF, OF = X86_OF, DF = X86_DF, ARITH = X86_ARITH };
enum {
    LOCK = X86_A_LOCK,
    ENDS = X86_A_ENDS,
    STACK = X86_A_STACK,
    PRIV = X86_A_PRIV,
    SYS = X86_A_SYS,
    IO = X86_A_IO,
    STRING = X86_A_STRING,
    REP = X86_A_REP,
    NO64 = X86_A_NO64,
    ONLY64 = X86_A_ONLY64,
    FPU = X86_A_FPU,
    MMX = X86_A_MMX,
    SSE = X86_A_SSE,
    AVX = X86_A_AVX,
    UNALIGNED = X86_A_UNALIGNED,
    MEMONLY = X86_A_MEMONLY,
    NT_DEF64 = X86_A_NT_DEF64,
    COND = X86_A_COND,
    VSIB = X86_A_VSIB,
    NOP_MEM = X86_A_NOP_MEM,
    ALIGNED = X86_A_ALIGNED
};

/* Pass 1 over the table: what each instruction is. */
#define OP(N, mn, feat, at, fr, fw, gr, gw)                                                                            \
    static const char mnem_##N[] = mn;                                                                                 \
    enum { feat_##N = X86_F_##feat, attr_##N = (at), fr_##N = (fr), fw_##N = (fw), gr_##N = (gr), gw_##N = (gw) };
#define E(...)
#define EF(...)
#define V(...)
#define X(...)
#include "guest/x86/insn.def"

struct enc_row {
    struct x86_row row; /* first */
    uint8_t enc, map, pp, opcode;
    uint16_t modrm;
    uint16_t cond;
    uint16_t evex;
    uint16_t o[4];
    uint8_t acc;
    bool has_modrm, any_mod; /* any_mod: mod is ignored, always a register (MOV CR) */
    bool has_vvvv;
    bool mem, shift0;          /* no register form; the next row is its form with a count of zero */
    uint8_t rm_mask, rm_value; /* what ModRM must be */
    uint8_t modes;             /* bit 1: 64-bit code, bit 0: other */
    uint8_t said;              /* the mandatory prefix it consumes: x86_insn.pp */
};
#define ROW(N, mn, f, en, map_, pp_, opc, m_, c_, a0, a1, a2, a3, ac)                                                  \
    {.row = {.mnem = mn,                                                                                               \
             .op = X86_I_##N,                                                                                          \
             .feature = feat_##N,                                                                                      \
             .attr = attr_##N,                                                                                         \
             .flags_r = fr_##N | (f),                                                                                  \
             .flags_w = fw_##N,                                                                                        \
             .gpr_r = gr_##N,                                                                                          \
             .gpr_w = gw_##N},                                                                                         \
     .enc = en,                                                                                                        \
     .map = map_,                                                                                                      \
     .pp = pp_,                                                                                                        \
     .opcode = opc,                                                                                                    \
     .modrm = m_,                                                                                                      \
     .cond = c_,                                                                                                       \
     .o = {a0, a1, a2, a3},                                                                                            \
     .acc = ac},
#define OP(...)
#define X(N, F, map_, pp_, opc, m_, c_, x_, a0, a1, a2, a3, ac)                                                        \
    {.row = {.mnem = mnem_##N,                                                                                         \
             .op = X86_I_##N,                                                                                          \
             .feature = X86_F_AVX512##F,                                                                               \
             .attr = attr_##N | X86_A_AVX512,                                                                          \
             .flags_w = fw_##N},                                                                                       \
     .enc = X86_ENC_EVEX,                                                                                              \
     .map = map_,                                                                                                      \
     .pp = pp_,                                                                                                        \
     .opcode = opc,                                                                                                    \
     .modrm = m_,                                                                                                      \
     .cond = c_,                                                                                                       \
     .evex = x_,                                                                                                       \
     .o = {a0, a1, a2, a3},                                                                                            \
     .acc = ac},
#define E(N, ...)         ROW(N, mnem_##N, 0, X86_ENC_LEGACY, __VA_ARGS__)
#define EF(N, mn, f, ...) ROW(N, mn, f, X86_ENC_LEGACY, __VA_ARGS__)
#define V(N, ...)         ROW(N, mnem_##N, 0, X86_ENC_VEX, __VA_ARGS__)
static struct enc_row rows[] = {
#include "guest/x86/insn.def"
};
enum { NR_ROWS = ARRAY_LEN(rows), MAX_CELLS = NR_ROWS + 512 };

static struct cell {
    uint16_t first;
    uint8_t nr;
    bool has_modrm;
} cells[3][4][256];
static uint16_t cell_rows[MAX_CELLS];

unsigned x86_nr_rows(void)
{
    return NR_ROWS;
}
unsigned x86_row_index(const struct x86_row *row)
{
    return container_of(row, struct enc_row, row) - rows;
}

const char *x86_op_name(unsigned op)
{
    for (unsigned i = 0; i < NR_ROWS; i++)
        if (rows[i].row.op == op)
            return rows[i].row.mnem;
    return "?";
}

static bool kind_uses_modrm(unsigned k)
{
    switch (k) {
    case K_E:
    case K_G:
    case K_M:
    case K_R:
    case K_V:
    case K_W:
    case K_U:
    case K_P:
    case K_Q:
    case K_N:
    case K_S:
    case K_C:
    case K_D:
    case K_RM:
    case K_STI:
    case K_KG:
    case K_KU:
    case K_KE:
        return true;
    default:
        return false;
    }
}
/* What follows from the operands is worked out once, so that insn.def need not say it. */
static void row_complete(struct enc_row *e)
{
    struct x86_row *row = &e->row;

    e->has_modrm = e->modrm != 0 || e->map >= X86_MAP_0F38;
    for (int i = 0; i < 4; i++) {
        unsigned k = op_kind(e->o[i]), acc = e->acc >> (2 * i) & 3, gpr = 0;

        e->has_modrm |= kind_uses_modrm(k);
        if (k == K_N || k == K_U || k == K_KU)
            e->modrm |= MR_MOD3;
        e->any_mod |= k == K_R && !(e->modrm & MR_MOD3);
        e->has_vvvv |= k == K_H || k == K_B || k == K_KH;
        if (k == K_ACC)
            gpr = rAX;
        else if (k == K_CL)
            gpr = rCX;
        else if (k == K_DX)
            gpr = rDX;
        else if (k == K_X)
            row->gpr_r |= rSI, row->gpr_w |= rSI;
        else if (k == K_Y)
            row->gpr_r |= rDI, row->gpr_w |= rDI;
        if (acc & X86_ACC_R)
            row->gpr_r |= gpr;
        if (acc & X86_ACC_W)
            row->gpr_w |= gpr;
    }
    if (e->modrm & MR_EXACT) {
        e->rm_mask = 0xff;
        e->rm_value = (uint8_t)e->modrm;
    } else {
        e->rm_mask = (e->modrm & MR_REG ? 0x38 : 0) | (e->modrm & MR_MOD3 ? 0xc0 : 0);
        e->rm_value = (e->modrm & MR_REG ? (e->modrm & 7) << 3 : 0) | (e->modrm & MR_MOD3 ? 0xc0 : 0);
        e->mem = e->modrm & MR_MEM;
    }
    e->said = e->pp == P66 ? 1 : e->pp == PF3 ? 2 : e->pp == PF2 ? 3 : 0;
    if (row->attr & X86_A_STACK)
        row->gpr_r |= rSP, row->gpr_w |= rSP;
    if (row->attr & X86_A_REP)
        row->gpr_r |= rCX, row->gpr_w |= rCX;
    if (e->cond & L0)
        row->attr |= X86_A_VEX128;
    if (e->cond & L1 && e->enc == X86_ENC_VEX)
        row->attr |= X86_A_VEX256;
    if (e->enc == X86_ENC_EVEX)
        row->attr |= (e->evex & SC || e->cond & (L0 | L2) ? 0 : X86_A_VL) | (e->evex & SC ? X86_A_SCALAR : 0) |
                     (e->evex & CE ? X86_A_COMPRESS : 0) | (e->evex & NF ? X86_A_NO_SUPPRESS : 0) |
                     (e->evex & RC ? X86_A_ROUNDS : 0);
    if (e->cond & F2)
        row->feature = X86_F_AVX2;
    if (e->cond & NO64M)
        row->attr |= X86_A_NO64;
    if (e->modrm & MR_MEM)
        row->attr |= X86_A_MEMONLY;
    if (e->modrm & MR_MOD3)
        row->attr |= X86_A_NOMEM;
    e->modes = (row->attr & X86_A_NO64 ? 0 : 2) | (row->attr & X86_A_ONLY64 ? 0 : 1);
}
static unsigned row_nr_opcodes(const struct enc_row *e)
{
    for (int i = 0; i < 4; i++)
        if (op_kind(e->o[i]) == K_Z)
            return 8;
    return 1;
}
static void CONSTRUCTOR decode_init(void)
{
    unsigned pos = 0;

    for (unsigned i = 0; i < NR_ROWS; i++) {
        row_complete(&rows[i]);
        rows[i].shift0 = i + 1 < NR_ROWS && rows[i + 1].cond & IM0 && rows[i + 1].opcode == rows[i].opcode;
        for (unsigned k = 0; k < row_nr_opcodes(&rows[i]); k++)
            cells[rows[i].enc][rows[i].map][rows[i].opcode + k].nr++;
    }
    for (int en = 0; en < 3; en++)
        for (int mp = 0; mp < 4; mp++)
            for (int o = 0; o < 256; o++) {
                cells[en][mp][o].first = pos;
                pos += cells[en][mp][o].nr;
                cells[en][mp][o].nr = 0;
            }
    assert(pos <= MAX_CELLS);
    for (unsigned i = 0; i < NR_ROWS; i++)
        for (unsigned k = 0; k < row_nr_opcodes(&rows[i]); k++) {
            struct cell *c = &cells[rows[i].enc][rows[i].map][rows[i].opcode + k];

            cell_rows[c->first + c->nr++] = i;
            c->has_modrm |= rows[i].has_modrm;
        }
}

/* ---- reading ---- */
/* Bytes at least that are there to be looked at: 15 prefixes and what may be read behind them before anybody asks. */
enum { AHEAD = 40 };
struct dec {
    struct x86_insn *in;
    const uint8_t *code; /* AHEAD bytes */
    unsigned pos, n;     /* n: how many of them count; pos runs past it when they do not suffice */
    int mode;
    uint8_t pp; /* effective mandatory prefix, 0..3 */
    uint8_t vvvv, vex_l, seg_pfx;
    uint8_t reg_hi;    /* EVEX.R': 16 or 0 */
    uint8_t broadcast; /* EVEX: size of the element */
    uint8_t unused;    /* VEX or EVEX.vvvv as it stands, inverted */
    bool vex_w;
};
static inline uint8_t peek(const struct dec *d)
{
    return d->code[d->pos];
}
static inline uint8_t next(struct dec *d)
{
    return d->code[d->pos++];
}
static inline uint64_t next_le(struct dec *d, unsigned bytes) /* 0 to 8 */
{
    uint64_t v;

    memcpy(&v, d->code + d->pos, sizeof v);
    v = le64toh(v);
    d->pos += bytes;
    return bytes >= 8 ? v : v & ((UINT64_C(1) << (8 * bytes)) - 1);
}
/* Prefixes, and 40 to 4F, which are some in 64-bit code. */
static inline bool may_be_prefix(uint8_t b)
{
    static const uint64_t set[4] = {1ull << 0x26 | 1ull << 0x2e | 1ull << 0x36 | 1ull << 0x3e,
                                    0xffff | 0xfull << (0x64 - 0x40), 0, 1ull << 0x30 | 3ull << 0x32};

    return set[b >> 6] >> (b & 63) & 1;
}

/* Legacy prefixes and REX. Returns the first byte after them. */
static uint8_t read_prefixes(struct dec *d)
{
    struct x86_insn *in = d->in;

    for (;;) {
        uint8_t b = next(d);

        if (likely(!may_be_prefix(b)))
            return b;
        switch (b) {
        case 0x66:
            in->opsize_pfx = true;
            break;
        case 0x67:
            in->adsize_pfx = true;
            break;
        case 0xf0:
            in->lock = true;
            break;
        case 0xf2:
        case 0xf3:
            in->rep = b;
            break;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
            if (d->mode != X86_MODE_64) {
                in->seg = (b >> 3) & 3;
                in->seg_override = true;
            }
            break;
        case 0x64:
        case 0x65:
            in->seg = b - 0x60;
            in->seg_override = true;
            break;
        default: /* 40 to 4F */
            if (d->mode != X86_MODE_64)
                return b;
            if (d->pos > d->n)
                return 0;
            in->rex = b;
            continue;
        }
        in->rex = 0; /* REX counts only directly before the opcode */
        if (d->pos > d->n)
            return 0;
    }
}
/* C4 or C5 has been read and is VEX. False: #UD. */
static bool read_vex(struct dec *d, uint8_t first)
{
    struct x86_insn *in = d->in;
    uint8_t b1 = next(d), b2 = b1;
    bool bad = in->rex || in->opsize_pfx || in->rep || in->lock;

    in->enc = X86_ENC_VEX;
    in->rex = 0x40 | (b1 & 0x80 ? 0 : 4);
    in->map = X86_MAP_0F;
    if (first == 0xc4) {
        unsigned map = b1 & 31;

        b2 = next(d);
        in->rex |= (b1 & 0x40 ? 0 : 2) | (b1 & 0x20 ? 0 : 1);
        d->vex_w = b2 & 0x80;
        if (map < 1 || map > 3)
            bad = true;
        else
            in->map = map;
    }
    if (d->mode != X86_MODE_64)
        in->rex = 0x40;
    else if (d->vex_w)
        in->rex |= 8;
    d->unused = d->vvvv = (b2 >> 3 & 15) ^ 15;
    if (d->mode != X86_MODE_64)
        d->vvvv &= 7;
    d->vex_l = b2 >> 2 & 1;
    d->pp = b2 & 3;
    return !bad;
}
/* 62 has been read and is EVEX. False: #UD. */
static bool read_evex(struct dec *d)
{
    struct x86_insn *in = d->in;
    uint8_t p0 = next(d), p1 = next(d), p2 = next(d);
    unsigned map = p0 & 7;
    bool bad = in->rex || in->opsize_pfx || in->rep || in->lock || p0 & 8 || !(p1 & 4) || map < 1 || map > 3;

    in->enc = X86_ENC_EVEX;
    in->map = bad ? X86_MAP_0F : map;
    in->rex = 0x40;
    d->vex_w = p1 & 0x80;
    d->vvvv = (p1 >> 3 & 15) ^ 15;
    d->unused = d->vvvv;
    if (d->mode == X86_MODE_64) {
        in->rex |= (d->vex_w ? 8 : 0) | (p0 & 0x80 ? 0 : 4) | (p0 & 0x40 ? 0 : 2) | (p0 & 0x20 ? 0 : 1);
        d->reg_hi = p0 & 0x10 ? 0 : 16;
        d->vvvv |= p2 & 8 ? 0 : 16;
    } else {
        d->vvvv &= 7;
    }
    d->pp = p1 & 3;
    d->vex_l = p2 >> 5 & 3;
    in->evex_z = p2 >> 7;
    in->evex_ll = d->vex_l;
    in->evex_b = p2 >> 4 & 1;
    in->evex_aaa = p2 & 7;
    return !bad;
}
/* Opcode map escapes; sets map and opcode. */
static bool read_opcode(struct dec *d)
{
    struct x86_insn *in = d->in;
    uint8_t b = read_prefixes(d);
    bool ok = true;

    if ((b == 0xc4 || b == 0xc5) && (d->mode == X86_MODE_64 || peek(d) >= 0xc0)) {
        ok = read_vex(d, b);
        b = next(d);
    } else if (b == 0x62 && (d->mode == X86_MODE_64 || peek(d) >= 0xc0)) {
        ok = read_evex(d);
        b = next(d);
    } else {
        d->pp = in->rep == 0xf3 ? 2 : in->rep == 0xf2 ? 3 : in->opsize_pfx ? 1 : 0;
        if (b == 0x0f) {
            in->map = X86_MAP_0F;
            b = next(d);
            if (b == 0x38 || b == 0x3a) {
                in->map = b == 0x38 ? X86_MAP_0F38 : X86_MAP_0F3A;
                b = next(d);
            }
        }
    }
    in->opcode = b;
    in->off_opcode = d->pos - 1;
    return ok;
}

/* ---- choosing the row ---- */
static bool cond_holds(const struct dec *d, unsigned c)
{
    const struct x86_insn *in = d->in;
    bool wbit = in->enc != X86_ENC_LEGACY ? d->vex_w : in->rex & 8;

    return !(((c & W0) && wbit) || ((c & W1) && !wbit) || ((c & L0) && d->vex_l) || ((c & L1) && !d->vex_l) ||
             ((c & NB) && (in->rex & 1)) || ((c & M64) && d->mode != X86_MODE_64) || (c & IM0) ||
             ((c & L2) && d->vex_l != 2));
}
static inline bool row_matches(const struct dec *d, const struct enc_row *e)
{
    uint8_t rm = d->in->modrm;

    return e->pp >> d->pp & 1 && (rm & e->rm_mask) == e->rm_value && !(e->mem && rm >= 0xc0) &&
           e->modes >> (d->mode == X86_MODE_64) & 1 && (!e->cond || cond_holds(d, e->cond));
}
static const struct enc_row *find_row(const struct dec *d, const struct cell *c)
{
    for (unsigned i = 0; i < c->nr; i++) {
        const struct enc_row *e = &rows[cell_rows[c->first + i]];

        if (row_matches(d, e))
            return e;
    }
    return NULL;
}

/* ---- sizes ---- */
static void set_sizes(struct dec *d, const struct enc_row *e)
{
    struct x86_insn *in = d->in;
    bool pfx = in->opsize_pfx && e->pp != P66;
    uint32_t at = e->row.attr;

    if (d->mode == X86_MODE_64) {
        in->adsz = in->adsize_pfx ? 4 : 8;
        if (at & X86_A_NT_DEF64)
            in->opsz = 8;
        else if (in->rex & 8)
            in->opsz = 8;
        else if (at & X86_A_STACK)
            in->opsz = pfx ? 2 : 8;
        else
            in->opsz = pfx ? 2 : 4;
    } else {
        bool big = d->mode == X86_MODE_32;

        in->opsz = big != pfx ? 4 : 2;
        in->adsz = big != in->adsize_pfx ? 4 : 2;
    }
    if (in->enc == X86_ENC_EVEX)
        in->vl = e->evex & SC ? 16 : in->evex_b && in->modrm >= 0xc0 ? 64 : 16 << d->vex_l;
    else if (at & X86_A_AVX)
        in->vl = d->vex_l ? 32 : 16;
    else if (at & X86_A_SSE)
        in->vl = 16;
}
static unsigned rare_size(const struct dec *d, unsigned code, bool mem)
{
    const struct x86_insn *in = d->in;

    switch (code) {
    case SZ_z:
        return in->opsz == 2 ? 2 : 4;
    case SZ_y:
        return in->rex & 8 && d->mode == X86_MODE_64 ? 8 : 4;
    case SZ_k:
        return d->mode == X86_MODE_64 ? 8 : 4;
    case SZ_p:
        return in->opsz + 2;
    case SZ_s:
        return d->mode == X86_MODE_64 ? 10 : 6;
    case SZ_a:
        return in->opsz * 2;
    case SZ_x:
        return in->vl;
    case SZ_h:
        return in->vl / 2;
    case SZ_f:
        return in->vl / 4;
    case SZ_e:
        return in->vl / 8;
    case SZ_vw:
        return mem ? 2 : in->opsz;
    case SZ_db:
        return mem ? 1 : 4;
    case SZ_dw:
        return mem ? 2 : 4;
    default:
        return 0; /* SZ_fe, SZ_fs, SZ_512: see mem_size_of */
    }
}
static inline unsigned size_of(const struct dec *d, unsigned code, bool mem)
{
    return code < SZ_V ? code : code == SZ_v ? d->in->opsz : rare_size(d, code, mem);
}
static unsigned mem_size_of(const struct dec *d, unsigned code)
{
    bool wide = d->in->opsz != 2;

    if (code <= SZ_v)
        return size_of(d, code, true);
    return code == SZ_fe    ? (wide ? 28 : 14)
           : code == SZ_fs  ? (wide ? 108 : 94)
           : code == SZ_512 ? 512
                            : size_of(d, code, true);
}

/* ---- memory operand ---- */
static void read_disp(struct dec *d, unsigned len)
{
    struct x86_insn *in = d->in;

    in->off_disp = d->pos;
    in->disp_len = len;
    in->disp = sext64(next_le(d, len), len * 8);
}
static void read_mem16(struct dec *d)
{
    static const uint8_t bases[8] = {X86_RBX, X86_RBX, X86_RBP, X86_RBP, X86_RSI, X86_RDI, X86_RBP, X86_RBX};
    struct x86_insn *in = d->in;
    unsigned mod = in->modrm >> 6, rm = in->modrm & 7;

    if (mod == 0 && rm == 6) {
        read_disp(d, 2);
        return;
    }
    in->base = bases[rm];
    if (rm < 4)
        in->index = rm & 1 ? X86_RDI : X86_RSI;
    if (mod)
        read_disp(d, mod);
}
/* False: a VSIB form without SIB byte. */
static bool read_mem32(struct dec *d, bool vsib)
{
    struct x86_insn *in = d->in;
    unsigned mod = in->modrm >> 6, rm = in->modrm & 7, base = rm;

    if (rm == 4) {
        uint8_t sib = next(d);
        unsigned index = (sib >> 3 & 7) | (in->rex & 2) << 2;

        in->has_sib = true;
        in->scale = 1 << (sib >> 6);
        base = sib & 7;
        if (index != 4 || vsib)
            in->index = vsib ? index | (d->vvvv & 16) : index;
    } else if (vsib) {
        return false;
    }
    if (mod == 0 && base == 5) {
        if (!in->has_sib && d->mode == X86_MODE_64)
            in->base = X86_REG_RIP;
        read_disp(d, 4);
        return true;
    }
    in->base = base | (in->rex & 1) << 3;
    if (mod)
        read_disp(d, mod == 1 ? 1 : 4);
    return true;
}
static bool read_mem(struct dec *d, const struct enc_row *e)
{
    struct x86_insn *in = d->in;

    if (in->adsz == 2) {
        if (e->row.attr & X86_A_VSIB)
            return false;
        read_mem16(d);
    } else if (!read_mem32(d, e->row.attr & X86_A_VSIB)) {
        return false;
    }
    if (!in->seg_override)
        in->seg = in->base == X86_RSP || in->base == X86_RBP ? X86_SS : X86_DS;
    return true;
}

/* ---- operands ---- */
static void imm_begin(struct dec *d)
{
    if (!d->in->imm_len)
        d->in->off_imm = d->pos;
}
static uint64_t read_imm(struct dec *d, unsigned len)
{
    uint64_t v;

    imm_begin(d);
    v = next_le(d, len);
    d->in->imm_len += len;
    return v;
}
static void set_mem(struct dec *d, struct x86_operand *op, unsigned i, unsigned code)
{
    struct x86_insn *in = d->in;

    op->kind = X86_OP_MEM;
    op->reg = X86_NO_REG;
    op->size = size_of(d, code, true);
    if (in->mem_op < 0) {
        in->mem_op = i;
        in->mem_size = mem_size_of(d, code);
    }
    if (in->evex_b)
        in->mem_size = op->size = d->broadcast;
}
static void set_implicit_mem(struct dec *d, struct x86_operand *op, unsigned i, unsigned code, unsigned base, bool es)
{
    struct x86_insn *in = d->in;

    set_mem(d, op, i, code);
    op->where = X86_IN_NONE;
    op->reg = base;
    if (in->mem_op == (int)i || !es) { /* the source of MOVS, CMPS: the one a prefix redirects */
        in->mem_op = i;
        in->base = base;
        in->seg = es ? X86_ES : in->seg_override ? d->seg_pfx : X86_DS;
    }
}
static void set_reg(struct x86_operand *op, int kind, unsigned reg, unsigned size, int where)
{
    op->kind = kind;
    op->reg = reg;
    op->size = size;
    op->where = where;
}
static void set_gpr(struct dec *d, struct x86_operand *op, unsigned reg, unsigned size, int where)
{
    set_reg(op, X86_OP_GPR, reg, size, where);
    if (size == 1 && reg >= 4 && reg < 8 && !d->in->rex && where != X86_IN_NONE)
        op->high8 = 1;
}
static inline unsigned vec_size(unsigned s)
{
    return s < 16 ? 16 : s;
}
static void set_rm(struct dec *d, struct x86_operand *op, unsigned i, unsigned k, unsigned code)
{
    struct x86_insn *in = d->in;
    unsigned rm = (in->modrm & 7) | (in->rex & 1) << 3, s = size_of(d, code, false);

    if (in->modrm < 0xc0 && k != K_R) {
        set_mem(d, op, i, code);
        op->where = X86_IN_RM;
    } else if (k == K_E || k == K_RM || k == K_R) {
        set_gpr(d, op, rm, s, X86_IN_RM);
    } else if (k == K_Q || k == K_N) {
        set_reg(op, X86_OP_MM, rm & 7, 8, X86_IN_RM);
    } else if (k == K_KU || k == K_KE) {
        set_reg(op, X86_OP_K, rm & 7, s, X86_IN_RM);
    } else {
        set_reg(op, X86_OP_XMM, in->enc == X86_ENC_EVEX ? rm | (in->rex & 2) << 3 : rm, vec_size(s), X86_IN_RM);
    }
}
static void set_imm(struct dec *d, struct x86_operand *op, unsigned k, unsigned s)
{
    struct x86_insn *in = d->in;
    uint64_t v;

    set_reg(op, X86_OP_IMM, X86_NO_REG, s, X86_IN_NONE);
    v = read_imm(d, s);
    if (k == K_SI || s == 4)
        v = sext64(v, s * 8);
    if (k == K_I2 || (in->imm_len > s))
        in->imm2 = v;
    else
        in->imm = v;
}
static void set_far(struct dec *d, struct x86_operand *op)
{
    struct x86_insn *in = d->in;

    set_reg(op, X86_OP_FAR, X86_NO_REG, in->opsz + 2, X86_IN_NONE);
    in->imm = read_imm(d, in->opsz);
    in->imm2 = read_imm(d, 2);
}
/* False: not a register of that kind. */
static bool set_operand(struct dec *d, unsigned i, unsigned o)
{
    struct x86_insn *in = d->in;
    struct x86_operand *op = &in->ops[i];
    unsigned k = op_kind(o), code = op_szcode(o), reg = (in->modrm >> 3 & 7) | (in->rex & 4) << 1,
             s = size_of(d, code, false);

    switch (k) {
    case K_E:
    case K_M:
    case K_R:
    case K_W:
    case K_U:
    case K_Q:
    case K_N:
    case K_RM:
    case K_KU:
    case K_KE:
        set_rm(d, op, i, k, code);
        break;
    case K_KG:
        set_reg(op, X86_OP_K, reg & 7, s, X86_IN_REG);
        return in->enc == X86_ENC_VEX || (reg < 8 && !d->reg_hi);
    case K_KH:
        set_reg(op, X86_OP_K, d->vvvv & 7, s, X86_IN_VVVV);
        break;
    case K_G:
        set_gpr(d, op, reg, s, X86_IN_REG);
        return !d->reg_hi;
    case K_I:
    case K_SI:
    case K_I2:
        set_imm(d, op, k, s);
        break;
    case K_J:
        if (code == SZ_z && d->mode == X86_MODE_64)
            s = 4;
        in->imm = sext64(read_imm(d, s), s * 8);
        set_reg(op, X86_OP_REL, X86_NO_REG, s, X86_IN_NONE);
        break;
    case K_O:
        set_mem(d, op, i, code);
        op->where = X86_IN_NONE;
        in->off_disp = d->pos;
        in->disp_len = in->adsz;
        in->disp = next_le(d, in->adsz);
        if (!in->seg_override)
            in->seg = X86_DS;
        break;
    case K_V:
        set_reg(op, X86_OP_XMM, reg | d->reg_hi, vec_size(s), X86_IN_REG);
        break;
    case K_H:
        set_reg(op, X86_OP_XMM, d->vvvv, vec_size(s), X86_IN_VVVV);
        break;
    case K_L:
        in->imm2 = read_imm(d, 1);
        set_reg(op, X86_OP_XMM, in->imm2 >> 4 & (d->mode == X86_MODE_64 ? 15 : 7), vec_size(s), X86_IN_IS4);
        break;
    case K_P:
        set_reg(op, X86_OP_MM, reg & 7, 8, X86_IN_REG);
        break;
    case K_S:
        set_reg(op, X86_OP_SEG, reg & 7, 2, X86_IN_REG);
        return op->reg <= X86_GS && !(in->row->op == X86_I_MOV_TO_SEG && op->reg == X86_CS);
    case K_SEG:
        set_reg(op, X86_OP_SEG, o >> 12, 2, X86_IN_NONE);
        break;
    case K_C:
        set_reg(op, X86_OP_CR, reg, s, X86_IN_REG);
        return reg == 0 || (reg >= 2 && reg <= 4) || reg == 8;
    case K_D:
        set_reg(op, X86_OP_DR, reg, s, X86_IN_REG);
        return reg < 8;
    case K_X:
        set_implicit_mem(d, op, i, code, X86_RSI, false);
        break;
    case K_Y:
        set_implicit_mem(d, op, i, code, X86_RDI, true);
        break;
    case K_DI:
        set_implicit_mem(d, op, i, code, X86_RDI, false);
        break;
    case K_BXAL:
        set_implicit_mem(d, op, i, code, X86_RBX, false);
        break;
    case K_B:
        set_gpr(d, op, d->vvvv, s, X86_IN_VVVV);
        break;
    case K_FAR:
        set_far(d, op);
        break;
    case K_ACC:
        set_gpr(d, op, X86_RAX, s, X86_IN_NONE);
        break;
    case K_CL:
        set_gpr(d, op, X86_RCX, 1, X86_IN_NONE);
        break;
    case K_DX:
        set_gpr(d, op, X86_RDX, 2, X86_IN_NONE);
        break;
    case K_Z:
        set_gpr(d, op, (in->opcode & 7) | (in->rex & 1) << 3, s, X86_IN_OPC);
        break;
    case K_ST0:
        set_reg(op, X86_OP_ST, 0, 10, X86_IN_NONE);
        break;
    case K_STI:
        set_reg(op, X86_OP_ST, in->modrm & 7, 10, X86_IN_RM);
        break;
    case K_ONE:
        set_reg(op, X86_OP_IMM, X86_NO_REG, 0, X86_IN_NONE);
        in->imm = 1;
        break;
    case K_XMM0:
        set_reg(op, X86_OP_XMM, 0, 16, X86_IN_NONE);
        break;
    }
    return true;
}
/* MOVS and CMPS name RSI's operand as the memory operand; the ES:RDI one must not be overridden. */
static bool set_operands(struct dec *d, const struct enc_row *e)
{
    struct x86_insn *in = d->in;
    bool ok = true;

    for (unsigned i = 0; i < 4 && (e->o[i] || i == 0); i++) {
        if (!e->o[i])
            break;
        in->ops[i].acc = e->acc >> (2 * i) & 3;
        ok &= set_operand(d, i, e->o[i]);
        in->nr_ops = i + 1;
    }
    return ok;
}
/* What the prefix says beside the registers, before operands are read. False: #UD. */
static bool evex_begin(struct dec *d, const struct enc_row *e)
{
    struct x86_insn *in = d->in;
    unsigned x = e->evex;
    bool mem = in->modrm < 0xc0;

    if (in->evex_b) {
        if (!mem && !(x & (RC | SAE)) && x & (B4 | B8)) /* without meaning, not refused */
            in->evex_b = 0;
        else if (!(x & (mem ? B4 | B8 : RC | SAE)))
            return false;
        d->broadcast = x & B8 ? 8 : 4;
    }
    if (d->vex_l == 3 && (mem || !in->evex_b))
        return false;
    if (in->evex_z && x & NZ)
        return false;
    if (!(x & 15)) /* no mask: EVEX.z alone has no meaning */
        return !in->evex_aaa;
    return in->evex_aaa || !(in->evex_z || x & KQ);
}
/* What the mask counts; the unit of disp8; what is only legal with other operands. False: #UD. */
static bool evex_end(struct dec *d, const struct enc_row *e)
{
    struct x86_insn *in = d->in;
    unsigned x = e->evex, elem = x & 15;
    bool vsib = e->row.attr & X86_A_VSIB;

    if (in->evex_z && (in->ops[0].kind == X86_OP_MEM || ((elem || x & NZ) && in->ops[0].kind != X86_OP_XMM)))
        return false;
    if (in->evex_aaa && !in->evex_z && in->ops[0].kind == X86_OP_XMM)
        in->ops[0].acc |= X86_ACC_R;
    if (elem) {
        in->mask_nr = x & SC ? 1 : (x & PT ? in->ops[0].size : in->vl) / elem;
        in->mask_elem = elem;
        if (in->mem_op >= 0)
            in->mask_elem = x & (CE | NF)          ? elem
                            : x & SC || in->evex_b ? in->mem_size
                            : x & BM               ? min_u64(elem, in->mem_size)
                                                   : in->mem_size / in->mask_nr;
    }
    if (in->disp_len == 1)
        in->disp *= x & CE ? elem : in->mem_size;
    if (vsib && in->mem_op == 1 && in->ops[0].reg == in->index)
        return false;
    return e->has_vvvv || !(vsib ? d->unused : d->unused | (d->vvvv & 16));
}
/* Shifts by an immediate whose masked count is zero leave the flags: the table's next row says so. */
static const struct enc_row *settle_shift(const struct x86_insn *in, const struct enc_row *e)
{
    if (unlikely(e->shift0) && (in->imm & (in->opsz == 8 && in->ops[0].size == 8 ? 63 : 31)) == 0)
        return e + 1;
    return e;
}
static bool lock_is_legal(const struct x86_insn *in)
{
    return !in->lock || ((in->row->attr & X86_A_LOCK) && in->ops[0].kind == X86_OP_MEM);
}
/* `some` of 16 bytes, zeros behind them. */
static inline void copy_bytes(uint8_t *to, const uint8_t *from, unsigned some)
{
    uint64_t v[2];

    memcpy(v, from, sizeof v);
    if (some > 8)
        v[1] &= htole64((UINT64_C(1) << (8 * (some - 8))) - 1);
    else
        v[1] = 0;
    if (some < 8)
        v[0] &= htole64((UINT64_C(1) << (8 * some)) - 1);
    memcpy(to, v, sizeof v);
}
static enum x86_decode_result finish(struct dec *d, bool ok)
{
    struct x86_insn *in = d->in;

    if (d->pos > d->n)
        return d->n == X86_MAX_INSN ? X86_DECODE_LONG : X86_DECODE_MORE;
    in->len = d->pos;
    copy_bytes(in->bytes, d->code, d->pos);
    return ok ? X86_DECODE_OK : X86_DECODE_UD;
}

/* In two pieces, each of a size that compilers clear in place. */
static inline void clear(struct x86_insn *in)
{
    memset(in, 0, 64);
    memset((uint8_t *)in + 64, 0, sizeof *in - 64);
    in->base = in->index = X86_NO_REG;
    in->scale = 1;
    in->mem_op = -1;
    in->seg = X86_DS;
}
static enum x86_decode_result decode(struct dec *d)
{
    struct x86_insn *in = d->in;
    const struct enc_row *e;
    const struct cell *c;

    clear(in);
    if (!read_opcode(d))
        return finish(d, false);
    d->seg_pfx = in->seg;
    c = &cells[in->enc][in->map][in->opcode];
    if (c->has_modrm) {
        in->off_modrm = d->pos;
        in->modrm = next(d);
        in->has_modrm = true;
    }
    e = find_row(d, c);
    if (!e || d->pos > d->n)
        return finish(d, false);
    in->row = &e->row;
    in->op = e->row.op;
    in->pp = in->enc != X86_ENC_LEGACY ? d->pp : e->said;
    if (in->enc == X86_ENC_LEGACY && in->pp >= 2)
        in->rep = 0;
    if (in->enc == X86_ENC_EVEX && !evex_begin(d, e))
        return finish(d, false);
    set_sizes(d, e);
    if (in->has_modrm && in->modrm < 0xc0 && !e->any_mod && !read_mem(d, e))
        return finish(d, false);
    if (!set_operands(d, e))
        return finish(d, false);
    if (in->enc == X86_ENC_VEX && !e->has_vvvv && (e->row.attr & X86_A_AVX512 ? d->unused : d->vvvv))
        return finish(d, false);
    if (in->enc == X86_ENC_EVEX && !evex_end(d, e))
        return finish(d, false);
    e = settle_shift(in, e);
    in->row = &e->row;
    in->op = e->row.op;
    return finish(d, lock_is_legal(in));
}

static enum x86_decode_result decode_near_end(struct dec *d, size_t avail)
{
    uint8_t bytes[AHEAD] = {0};

    memcpy(bytes, d->code, avail);
    d->code = bytes;
    return decode(d);
}

enum x86_decode_result x86_decode(const uint8_t *code, size_t avail, int mode, struct x86_insn *in)
{
    struct dec d = {.in = in, .code = code, .n = min_u64(avail, X86_MAX_INSN), .mode = mode};

    return likely(avail >= AHEAD) ? decode(&d) : decode_near_end(&d, avail);
}
