/* Partition tables, after UEFI 2.10, 5.2 (MBR) and 5.3 (GPT), 512-byte sectors. An image is not trusted: entries that
 * lie outside it are left out, chains of logical partitions and tables are bounded. Left out: BSD labels, the GPT's
 * copy at the end, checksums. */
#include "cmd/nbd/part.h"
#include "base/bytes.h"

#include <stdio.h>

enum { MBR_TABLE = 446, EXT_MAX = 60, GPT_ENTRY_MAX = 4096 };

static bool add(struct blk_node *n, struct nbd_part *p, unsigned nr, uint64_t first, uint64_t sectors)
{
    uint64_t all = n->size / 512;

    if (!sectors || first >= all || sectors > all - first)
        return false;
    *p = (struct nbd_part){.nr = nr, .off = first * 512, .len = sectors * 512};
    return true;
}

static bool is_extended(uint8_t type)
{
    return type == 5 || type == 0xf || type == 0x85;
}

static int logical(struct blk_node *n, uint64_t ext, struct nbd_part *out, int nr)
{
    uint64_t at = ext;
    uint8_t b[512];

    for (unsigned k = 5; k < 5 + EXT_MAX && at && nr < NBD_PART_MAX; k++) {
        const uint8_t *p = b + MBR_TABLE;

        if (at >= n->size / 512 || blk_node_pread_sync(n, at * 512, b, 512) < 0 || b[510] != 0x55 || b[511] != 0xaa)
            break;
        if (add(n, &out[nr], k, at + get_le32(p + 8), get_le32(p + 12)))
            snprintf(out[nr++].kind, sizeof out->kind, "%02x", p[4]);
        at = p[16 + 4] && get_le32(p + 16 + 8) ? ext + get_le32(p + 16 + 8) : 0;
    }
    return nr;
}

static int mbr(struct blk_node *n, const uint8_t *b, struct nbd_part *out)
{
    uint64_t ext = 0;
    int nr = 0;

    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *p = b + MBR_TABLE + i * 16;

        if (is_extended(p[4]) && !ext)
            ext = get_le32(p + 8);
        if (p[4] && add(n, &out[nr], i + 1, get_le32(p + 8), get_le32(p + 12)))
            snprintf(out[nr++].kind, sizeof out->kind, "%02x", p[4]);
    }
    return ext ? logical(n, ext, out, nr) : nr;
}

static int gpt(struct blk_node *n, const uint8_t *h, struct nbd_part *out)
{
    uint64_t table = get_le64(h + 72);
    uint32_t count = get_le32(h + 80), size = get_le32(h + 84);
    uint8_t e[128];
    int nr = 0;

    if (size < sizeof e || size > GPT_ENTRY_MAX || table >= n->size / 512)
        return 0;
    for (unsigned i = 0; i < count && i < NBD_PART_MAX; i++) {
        struct nbd_part *p = &out[nr];
        uint64_t at = table * 512 + (uint64_t)i * size, first, last;

        if (at + sizeof e > n->size || blk_node_pread_sync(n, at, e, sizeof e) < 0)
            break;
        first = get_le64(e + 32);
        last = get_le64(e + 40);
        if ((!get_le64(e) && !get_le64(e + 8)) || last < first || last == UINT64_MAX ||
            !add(n, p, i + 1, first, last - first + 1))
            continue;
        snprintf(p->kind, sizeof p->kind, "%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x", get_le32(e),
                 get_le16(e + 4), get_le16(e + 6), e[8], e[9], e[10], e[11], e[12], e[13], e[14], e[15]);
        for (unsigned k = 0; k < 36 && get_le16(e + 56 + k * 2); k++) {
            uint16_t c = get_le16(e + 56 + k * 2);

            p->name[k] = c >= 32 && c < 127 ? (char)c : '?';
        }
        nr++;
    }
    return nr;
}

int nbd_parts(struct blk_node *n, struct nbd_part *out)
{
    uint8_t b[512], h[512];

    if (n->size < 1024 || blk_node_pread_sync(n, 0, b, 512) < 0 || b[510] != 0x55 || b[511] != 0xaa)
        return -1;
    if (blk_node_pread_sync(n, 512, h, 512) >= 0 && !memcmp(h, "EFI PART", 8))
        return gpt(n, h, out);
    return mbr(n, b, out);
}

bool nbd_part_find(struct blk_node *n, unsigned want, uint64_t *off, uint64_t *len, struct err **errp)
{
    struct nbd_part *v AUTOFREE = xcalloc(NBD_PART_MAX, sizeof *v);
    int nr = nbd_parts(n, v);

    if (nr < 0)
        return err_set(errp, "Could not find partition %u: the image has no partition table", want);
    for (int i = 0; i < nr; i++)
        if (v[i].nr == want) {
            *off = v[i].off;
            *len = v[i].len;
            return true;
        }
    return err_set(errp, "Could not find partition %u", want);
}
