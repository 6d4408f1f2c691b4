/* Endian accessors for bytes of files, wires and guest memory. Any alignment. Never cast a struct onto a buffer. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include "base/util.h"
#include <endian.h>

#define BYTES_DEF(bits, end, tohost, tofile)                                                                           \
    static inline uint##bits##_t get_##end##bits(const void *p)                                                        \
    {                                                                                                                  \
        uint##bits##_t v;                                                                                              \
        memcpy(&v, p, sizeof v);                                                                                       \
        return tohost(v);                                                                                              \
    }                                                                                                                  \
    static inline void put_##end##bits(void *p, uint##bits##_t v)                                                      \
    {                                                                                                                  \
        v = tofile(v);                                                                                                 \
        memcpy(p, &v, sizeof v);                                                                                       \
    }
BYTES_DEF(16, le, le16toh, htole16)
BYTES_DEF(32, le, le32toh, htole32)
BYTES_DEF(64, le, le64toh, htole64)
BYTES_DEF(16, be, be16toh, htobe16)
BYTES_DEF(32, be, be32toh, htobe32)
BYTES_DEF(64, be, be64toh, htobe64)
#undef BYTES_DEF

/* Little-endian value of 1, 2, 4 or 8 bytes. */
static inline uint64_t get_le(const void *p, unsigned size)
{
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
static inline void put_le(void *p, uint64_t v, unsigned size)
{
    switch (size) {
    case 1:
        *(uint8_t *)p = (uint8_t)v;
        break;
    case 2:
        put_le16(p, (uint16_t)v);
        break;
    case 4:
        put_le32(p, (uint32_t)v);
        break;
    default:
        put_le64(p, v);
        break;
    }
}

#endif
