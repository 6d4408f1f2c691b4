/* AML writer. See aml.h. Grammar: ACPI 6.4, 20.2; descriptors: 6.4. */
#include "board/x86/aml.h"
#include "base/bytes.h"

enum { KIND_PKG, KIND_BUFFER, KIND_RESOURCES };
enum {
    BYTE_PREFIX = 0x0a,
    WORD_PREFIX = 0x0b,
    DWORD_PREFIX = 0x0c,
    STRING_PREFIX = 0x0d,
    QWORD_PREFIX = 0x0e,
    SCOPE_OP = 0x10,
    BUFFER_OP = 0x11,
    PACKAGE_OP = 0x12,
    METHOD_OP = 0x14,
    DUAL_NAME = 0x2e,
    MULTI_NAME = 0x2f,
    EXT_OP = 0x5b,
    LOCAL0_OP = 0x60,
    ARG0_OP = 0x68,
    IF_OP = 0xa0,
    ELSE_OP = 0xa1,
    WHILE_OP = 0xa2,
    FIELD_OP = 0x81,
    DEVICE_OP = 0x82
};
enum {
    RES_IRQ = 0x22,
    RES_DMA = 0x2a,
    RES_IO = 0x47,
    RES_END = 0x79,
    RES_MEM32_FIXED = 0x86,
    RES_DWORD_SPACE = 0x87,
    RES_WORD_SPACE = 0x88,
    RES_EXT_IRQ = 0x89,
    RES_QWORD_SPACE = 0x8a
};
/* Address space descriptors: type byte, general flags (both ends fixed, positive decode), type-specific flags. */
enum { SPACE_MEM = 0, SPACE_IO = 1, SPACE_BUS = 2, SPACE_FIXED = 0x0c, MEM_RW = 1, MEM_CACHEABLE = 2, IO_ENTIRE = 3 };

void aml_free(struct aml *a)
{
    free(a->p);
    *a = (struct aml){0};
}

static void aml_grow(struct aml *a, size_t n)
{
    if (a->len + n <= a->cap)
        return;
    a->cap = (a->len + n) * 2;
    a->p = xrealloc(a->p, a->cap);
}

void aml_bytes(struct aml *a, const void *p, size_t n)
{
    aml_grow(a, n);
    if (n)
        memcpy(a->p + a->len, p, n);
    a->len += n;
}

void aml_zero(struct aml *a, size_t n)
{
    aml_grow(a, n);
    if (n)
        memset(a->p + a->len, 0, n);
    a->len += n;
}

void aml_raw(struct aml *a, uint64_t v, unsigned size)
{
    uint8_t b[8];

    put_le64(b, v);
    aml_bytes(a, b, size);
}

static void aml_insert(struct aml *a, size_t at, const uint8_t *p, size_t n)
{
    aml_grow(a, n);
    memmove(a->p + at + n, a->p + at, a->len - at);
    memcpy(a->p + at, p, n);
    a->len += n;
}

void aml_op(struct aml *a, enum aml_op op)
{
    if (op > 0xff)
        aml_raw(a, op >> 8, 1);
    aml_raw(a, op & 0xff, 1);
}

static unsigned aml_encode_int(uint8_t *b, uint64_t v)
{
    put_le64(b + 1, v);
    if (v <= 1) {
        b[0] = (uint8_t)v;
        return 1;
    }
    if (v <= UINT8_MAX) {
        b[0] = BYTE_PREFIX;
        return 2;
    }
    if (v <= UINT16_MAX) {
        b[0] = WORD_PREFIX;
        return 3;
    }
    b[0] = v <= UINT32_MAX ? DWORD_PREFIX : QWORD_PREFIX;
    return v <= UINT32_MAX ? 5 : 9;
}

void aml_int(struct aml *a, uint64_t v)
{
    uint8_t b[9];

    aml_bytes(a, b, aml_encode_int(b, v));
}

void aml_dword(struct aml *a, uint32_t v)
{
    aml_raw(a, DWORD_PREFIX, 1);
    aml_raw(a, v, 4);
}

void aml_str(struct aml *a, const char *s)
{
    aml_raw(a, STRING_PREFIX, 1);
    aml_bytes(a, s, strlen(s) + 1);
}

static const char *aml_seg(struct aml *a, const char *s)
{
    char seg[4] = {'_', '_', '_', '_'};
    unsigned n = 0;

    while (*s && *s != '.') {
        assert(n < 4);
        seg[n++] = *s++;
    }
    aml_bytes(a, seg, 4);
    return *s == '.' ? s + 1 : s;
}

void aml_path(struct aml *a, const char *path)
{
    unsigned segs = 1;

    while (*path == '\\' || *path == '^')
        aml_raw(a, (uint8_t)*path++, 1);
    if (!*path) {
        aml_raw(a, 0, 1);
        return;
    }
    for (const char *s = path; *s; s++)
        segs += *s == '.';
    if (segs == 2) {
        aml_raw(a, DUAL_NAME, 1);
    } else if (segs > 2) {
        aml_raw(a, MULTI_NAME, 1);
        aml_raw(a, segs, 1);
    }
    while (*path)
        path = aml_seg(a, path);
}

void aml_arg(struct aml *a, unsigned n)
{
    aml_raw(a, ARG0_OP + n, 1);
}

void aml_local(struct aml *a, unsigned n)
{
    aml_raw(a, LOCAL0_OP + n, 1);
}

/* ---- constructs ---- */

static void aml_begin(struct aml *a, unsigned op, uint8_t kind)
{
    assert(a->depth < AML_MAX_DEPTH);
    if (op > 0xff)
        aml_raw(a, op >> 8, 1);
    aml_raw(a, op & 0xff, 1);
    a->open[a->depth].at = a->len;
    a->open[a->depth++].kind = kind;
}

void aml_scope(struct aml *a, const char *path)
{
    aml_begin(a, SCOPE_OP, KIND_PKG);
    aml_path(a, path);
}

void aml_device(struct aml *a, const char *name)
{
    aml_begin(a, EXT_OP << 8 | DEVICE_OP, KIND_PKG);
    aml_path(a, name);
}

void aml_method(struct aml *a, const char *name, unsigned nr_args, bool serialized)
{
    aml_begin(a, METHOD_OP, KIND_PKG);
    aml_path(a, name);
    aml_raw(a, nr_args | (serialized ? 8 : 0), 1);
}

void aml_package(struct aml *a, unsigned nr)
{
    aml_begin(a, PACKAGE_OP, KIND_PKG);
    aml_raw(a, nr, 1);
}

void aml_if(struct aml *a)
{
    aml_begin(a, IF_OP, KIND_PKG);
}

void aml_else(struct aml *a)
{
    aml_begin(a, ELSE_OP, KIND_PKG);
}

void aml_while(struct aml *a)
{
    aml_begin(a, WHILE_OP, KIND_PKG);
}

void aml_buffer(struct aml *a)
{
    aml_begin(a, BUFFER_OP, KIND_BUFFER);
}

void aml_resources(struct aml *a)
{
    aml_begin(a, BUFFER_OP, KIND_RESOURCES);
}

void aml_field(struct aml *a, const char *region, unsigned access_and_flags)
{
    aml_begin(a, EXT_OP << 8 | FIELD_OP, KIND_PKG);
    aml_path(a, region);
    aml_raw(a, access_and_flags, 1);
}

/* PkgLength (20.2.4): counts itself; up to 63 in one byte, else 4 bits + up to three further bytes. */
static unsigned aml_encode_pkg_length(uint8_t *b, size_t content, bool counts_itself)
{
    for (unsigned n = 1; n <= 4; n++) {
        size_t total = content + (counts_itself ? n : 0);

        if (n == 1 ? total > 0x3f : total >> (4 + 8 * (n - 1)))
            continue;
        if (n == 1) {
            b[0] = (uint8_t)total;
            return 1;
        }
        b[0] = (uint8_t)((n - 1) << 6 | (total & 0xf));
        for (unsigned i = 1; i < n; i++)
            b[i] = (uint8_t)(total >> (4 + 8 * (i - 1)));
        return n;
    }
    assert(!"AML package too large");
    return 0;
}

void aml_field_unit(struct aml *a, const char *name, unsigned bits)
{
    uint8_t b[4];

    if (name)
        aml_seg(a, name);
    else
        aml_raw(a, 0, 1);
    aml_bytes(a, b, aml_encode_pkg_length(b, bits, false));
}

void aml_end(struct aml *a)
{
    size_t at;
    uint8_t b[9], kind;

    assert(a->depth);
    at = a->open[--a->depth].at;
    kind = a->open[a->depth].kind;
    if (kind == KIND_RESOURCES) {
        aml_raw(a, RES_END, 1);
        aml_raw(a, 0, 1); /* checksum 0: not checked */
    }
    if (kind != KIND_PKG)
        aml_insert(a, at, b, aml_encode_int(b, a->len - at));
    aml_insert(a, at, b, aml_encode_pkg_length(b, a->len - at, true));
}

/* ---- shorthands ---- */

void aml_name(struct aml *a, const char *name)
{
    aml_op(a, AML_NAME);
    aml_path(a, name);
}

void aml_name_int(struct aml *a, const char *name, uint64_t v)
{
    aml_name(a, name);
    aml_int(a, v);
}

void aml_name_str(struct aml *a, const char *name, const char *s)
{
    aml_name(a, name);
    aml_str(a, s);
}

static uint32_t aml_hex(char c)
{
    return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Three letters of 5 bits and four hex digits, stored big-endian (EISA ID, 6.1.5). */
void aml_name_eisa(struct aml *a, const char *name, const char *id)
{
    uint32_t v = (uint32_t)(id[0] - 0x40) << 26 | (uint32_t)(id[1] - 0x40) << 21 | (uint32_t)(id[2] - 0x40) << 16 |
                 aml_hex(id[3]) << 12 | aml_hex(id[4]) << 8 | aml_hex(id[5]) << 4 | aml_hex(id[6]);

    aml_name(a, name);
    aml_dword(a, __builtin_bswap32(v));
}

void aml_region(struct aml *a, const char *name, enum aml_space space, uint64_t off, uint64_t len)
{
    aml_op(a, AML_OPREGION);
    aml_path(a, name);
    aml_raw(a, space, 1);
    aml_int(a, off);
    aml_int(a, len);
}

void aml_mutex(struct aml *a, const char *name)
{
    aml_op(a, AML_MUTEX);
    aml_path(a, name);
    aml_raw(a, 0, 1);
}

void aml_return_int(struct aml *a, uint64_t v)
{
    aml_op(a, AML_RETURN);
    aml_int(a, v);
}

/* ---- resource descriptors ---- */

void aml_io(struct aml *a, uint16_t min, uint16_t max, uint8_t align, uint8_t len)
{
    aml_raw(a, RES_IO, 1);
    aml_raw(a, 1, 1); /* decodes 16 bits */
    aml_raw(a, min, 2);
    aml_raw(a, max, 2);
    aml_raw(a, align, 1);
    aml_raw(a, len, 1);
}

void aml_irq(struct aml *a, uint16_t mask)
{
    aml_raw(a, RES_IRQ, 1);
    aml_raw(a, mask, 2);
}

void aml_ext_irq(struct aml *a, const uint32_t *irqs, unsigned nr)
{
    aml_raw(a, RES_EXT_IRQ, 1);
    aml_raw(a, 2 + 4 * nr, 2);
    aml_raw(a, 0x09, 1); /* consumer, level, active high, shared */
    aml_raw(a, nr, 1);
    for (unsigned i = 0; i < nr; i++)
        aml_raw(a, irqs[i], 4);
}

void aml_dma(struct aml *a, uint8_t mask)
{
    aml_raw(a, RES_DMA, 1);
    aml_raw(a, mask, 1);
    aml_raw(a, 0, 1);
}

void aml_mem32(struct aml *a, uint32_t base, uint32_t len, bool writable)
{
    aml_raw(a, RES_MEM32_FIXED, 1);
    aml_raw(a, 9, 2);
    aml_raw(a, writable, 1);
    aml_raw(a, base, 4);
    aml_raw(a, len, 4);
}

static void aml_space(struct aml *a, uint8_t op, unsigned width, unsigned type, unsigned flags, uint64_t min,
                      uint64_t max)
{
    aml_raw(a, op, 1);
    aml_raw(a, 3 + 5 * width, 2);
    aml_raw(a, type, 1);
    aml_raw(a, SPACE_FIXED, 1);
    aml_raw(a, flags, 1);
    aml_raw(a, 0, width); /* granularity */
    aml_raw(a, min, width);
    aml_raw(a, max, width);
    aml_raw(a, 0, width); /* translation */
    aml_raw(a, max - min + 1, width);
}

void aml_word_bus(struct aml *a, uint16_t min, uint16_t max)
{
    aml_space(a, RES_WORD_SPACE, 2, SPACE_BUS, 0, min, max);
}

void aml_word_io(struct aml *a, uint16_t min, uint16_t max)
{
    aml_space(a, RES_WORD_SPACE, 2, SPACE_IO, IO_ENTIRE, min, max);
}

void aml_dword_mem(struct aml *a, uint32_t min, uint32_t max, bool cacheable)
{
    aml_space(a, RES_DWORD_SPACE, 4, SPACE_MEM, MEM_RW | (cacheable ? MEM_CACHEABLE : 0), min, max);
}

void aml_qword_mem(struct aml *a, uint64_t min, uint64_t max)
{
    aml_space(a, RES_QWORD_SPACE, 8, SPACE_MEM, MEM_RW | MEM_CACHEABLE, min, max);
}
