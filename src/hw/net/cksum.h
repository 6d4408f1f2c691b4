/* Internet checksum (RFC 1071) over bytes in network order, shared by the NIC models. */
#ifndef HW_NET_CKSUM_H
#define HW_NET_CKSUM_H

#include "base/bytes.h"

/* Adds n bytes at p to a running sum; an odd last byte counts as the high half of a word. */
static inline uint32_t cksum_add(uint32_t sum, const uint8_t *p, size_t n)
{
    uint64_t s = sum;

    for (; n >= 2; n -= 2, p += 2)
        s += get_be16(p);
    if (n)
        s += (uint32_t)*p << 8;
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return (uint32_t)s;
}
/* The value to store: the complement of the folded sum. */
static inline uint16_t cksum_fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}
/* Sum of the TCP/UDP pseudo header of the IPv4 header at ip for `len` bytes of payload. */
static inline uint32_t cksum_pseudo4(const uint8_t *ip, uint16_t len)
{
    uint32_t sum = cksum_add(0, ip + 12, 8);

    return sum + ip[9] + len;
}

/* What a receiver's checksum unit finds in a frame. */
struct cksum_found {
    bool ipv4, ip_ok; /* an IPv4 header, and its sum is right */
    bool l4, l4_ok;   /* an unfragmented TCP or UDP packet, and its sum is right */
    bool udp;
};
static inline void cksum_inspect(const uint8_t *f, size_t len, struct cksum_found *r)
{
    const uint8_t *ip = f + 14;

    memset(r, 0, sizeof *r);
    if (len < 34 || get_be16(f + 12) != 0x0800 || ip[0] >> 4 != 4)
        return;
    size_t hl = (ip[0] & 15) * 4u, total = get_be16(ip + 2);
    if (hl < 20 || total < hl || total > len - 14)
        return;
    r->ipv4 = true;
    r->ip_ok = cksum_add(0, ip, hl) == 0xffff;
    if ((get_be16(ip + 6) & 0x3fff) || (ip[9] != 6 && ip[9] != 17))
        return;
    size_t l4 = total - hl;
    r->udp = ip[9] == 17;
    if (l4 < (r->udp ? 8u : 20u) || (r->udp && !get_be16(ip + hl + 6)))
        return; /* too short, or sent without a sum */
    r->l4 = true;
    r->l4_ok = cksum_fold(cksum_pseudo4(ip, (uint16_t)l4) + cksum_add(0, ip + hl, l4)) == 0;
}

#endif
