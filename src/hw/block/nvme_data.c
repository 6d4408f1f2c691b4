/* Where the data of an NVMe command lies: PRP lists and scatter-gather lists. NVM Express base specification 1.4,
 * 4.3 and 4.4.
 *
 * Every list entry is read once. What is plain RAM is used in place; as soon as one piece is not, the whole goes
 * through a buffer. Left out: bit buckets, keyed descriptors, offsets into a controller memory buffer. */
#include "hw/block/nvme_int.h"

enum { SEGS_MAX = 4096, SGL_DESCS_MAX = 4096, SGL_DATA = 0, SGL_SEGMENT = 2, SGL_LAST = 3, SGL_DESC = 16 };

static uint16_t add(struct nvme_req *r, gpa_t gpa, uint64_t len)
{
    struct nvme_seg *last = r->nr_seg ? &r->seg[r->nr_seg - 1] : NULL;
    uint64_t end;

    if (!add_ok_u64(gpa, len, &end))
        return SC_DATA_TRANSFER;
    if (last && last->gpa + last->len == gpa) {
        last->len += len;
        return SC_SUCCESS;
    }
    if (r->nr_seg == SEGS_MAX)
        return SC_BAD_SGL_COUNT;
    if (r->nr_seg == r->cap_seg) {
        r->cap_seg = r->cap_seg * 2 + 4;
        r->seg = xrealloc(r->seg, r->cap_seg * sizeof *r->seg);
    }
    r->seg[r->nr_seg++] = (struct nvme_seg){.gpa = gpa, .len = len};
    return SC_SUCCESS;
}

/* ---- PRPs ---- */

/* The list at `at`: one entry per page of what is left; the last place of a page names the next list. */
static uint16_t prp_list(struct nvme_req *r, gpa_t at, uint64_t len)
{
    uint32_t page = r->n->page;
    uint16_t s = SC_SUCCESS;

    if (at & 7)
        return SC_BAD_PRP_OFFSET;
    while (len && !s) {
        uint64_t room = (page - (at & (page - 1))) / 8, need = div_up(len, page);
        bool chained = need > room;
        uint64_t take = chained ? room - 1 : need;
        uint8_t e[8];

        for (uint64_t i = 0; i < take && !s; i++, at += 8) {
            uint64_t part = min_u64(len, page), a;

            if (pci_dma_read(&r->n->pci, at, e, sizeof e) != MEM_OK)
                return SC_DATA_TRANSFER;
            a = get_le64(e);
            if (a & (page - 1))
                return SC_BAD_PRP_OFFSET;
            s = add(r, a, part);
            len -= part;
        }
        if (s || !chained)
            break;
        if (pci_dma_read(&r->n->pci, at, e, sizeof e) != MEM_OK)
            return SC_DATA_TRANSFER;
        at = get_le64(e);
        if (at & (page - 1)) /* a list that goes on starts at a page: each holds at least one entry */
            return SC_BAD_PRP_OFFSET;
    }
    return s;
}

static uint16_t map_prps(struct nvme_req *r, uint64_t len)
{
    uint64_t prp1 = get_le64(r->cmd + 24), prp2 = get_le64(r->cmd + 32), page = r->n->page;
    uint64_t first = min_u64(len, page - (prp1 & (page - 1)));
    uint16_t s = prp1 & 3 ? SC_BAD_PRP_OFFSET : add(r, prp1, first);

    len -= first;
    if (s || !len)
        return s;
    if (len > page)
        return prp_list(r, prp2, len);
    return prp2 & (page - 1) ? SC_BAD_PRP_OFFSET : add(r, prp2, len);
}

/* ---- SGLs ---- */

static uint16_t map_sgl(struct nvme_req *r, uint64_t len)
{
    uint8_t d[SGL_DESC];
    gpa_t at = 0;
    uint32_t left = 1, seen = 0; /* descriptors of this segment; of all */
    bool last = false, inside = false;

    memcpy(d, r->cmd + 24, sizeof d);
    for (;;) {
        uint64_t addr = get_le64(d);
        uint32_t n = get_le32(d + 8);
        uint8_t type = d[15] >> 4;

        if (d[15] & 15)
            return SC_BAD_SGL_TYPE;
        left--;
        if (type == SGL_DATA) {
            uint64_t part = min_u64(n, len);
            uint16_t s = part ? add(r, addr, part) : SC_SUCCESS;

            if (s)
                return s;
            len -= part;
        } else if (type == SGL_SEGMENT || type == SGL_LAST) {
            if (last || (inside && left) || !n || n % SGL_DESC)
                return SC_BAD_SGL_SEGMENT;
            last = type == SGL_LAST;
            inside = true;
            at = addr;
            left = n / SGL_DESC;
        } else {
            return SC_BAD_SGL_TYPE;
        }
        if (!len)
            return SC_SUCCESS;
        if (!left)
            return SC_BAD_SGL_LENGTH;
        if (++seen > SGL_DESCS_MAX)
            return SC_BAD_SGL_COUNT;
        if (pci_dma_read(&r->n->pci, at, d, sizeof d) != MEM_OK)
            return SC_DATA_TRANSFER;
        at += SGL_DESC;
    }
}

/* ---- mapping ---- */

static void unmap(struct nvme_req *r, bool written)
{
    for (unsigned i = 0; i < r->nr_seg; i++)
        if (r->seg[i].host)
            mem_unmap(r->n->pci.dma, r->seg[i].host, r->seg[i].len, r->to_guest, written ? r->seg[i].len : 0);
    for (unsigned i = 0; i < r->nr_seg; i++)
        r->seg[i].host = NULL;
}

/* Host pointers of all segments; false when one is not plain RAM. Segments may be cut in two on the way. */
static bool in_place(struct nvme_req *r)
{
    for (unsigned i = 0; i < r->nr_seg; i++) {
        uint64_t n = r->seg[i].len;

        r->seg[i].host = mem_map(r->n->pci.dma, r->seg[i].gpa, &n, r->to_guest);
        if (!r->seg[i].host || n < r->seg[i].len) {
            if (r->seg[i].host)
                mem_unmap(r->n->pci.dma, r->seg[i].host, n, r->to_guest, 0);
            r->seg[i].host = NULL;
            return false;
        }
        iov_add(&r->data, r->seg[i].host, n);
    }
    return true;
}

static uint16_t through_buffer(struct nvme_req *r, uint64_t len)
{
    uint8_t *p;

    unmap(r, false);
    iov_reset(&r->data);
    p = r->buf = try_alloc(1, len);
    if (!p)
        return SC_INTERNAL;
    r->buf_len = len;
    for (unsigned i = 0; i < r->nr_seg; p += r->seg[i++].len)
        if (!r->to_guest && pci_dma_read(&r->n->pci, r->seg[i].gpa, p, r->seg[i].len) != MEM_OK)
            return SC_DATA_TRANSFER;
    iov_add(&r->data, r->buf, len);
    return SC_SUCCESS;
}

uint16_t nvme_data_map(struct nvme_req *r, uint64_t len, bool to_guest)
{
    uint8_t psdt = r->cmd[1] >> 6;
    uint16_t s;

    r->to_guest = to_guest;
    if (!len)
        return SC_SUCCESS;
    if (r->n->mdts && len > (uint64_t)NVME_PAGE << r->n->mdts)
        return SC_INVALID_FIELD | SC_DNR;
    if (psdt == 3 || (psdt && !r->sq->id))
        return SC_INVALID_FIELD | SC_DNR;
    s = psdt ? map_sgl(r, len) : map_prps(r, len);
    if (!s && !in_place(r))
        s = through_buffer(r, len);
    return s ? s | SC_DNR : s;
}

uint16_t nvme_data_put(struct nvme_req *r, const void *buf, uint64_t len)
{
    return iov_from_buf(&r->data, 0, buf, len) == len ? SC_SUCCESS : SC_DATA_TRANSFER;
}

uint16_t nvme_data_get(struct nvme_req *r, void *buf, uint64_t len)
{
    return iov_to_buf(&r->data, 0, buf, len) == len ? SC_SUCCESS : SC_DATA_TRANSFER;
}

void nvme_data_end(struct nvme_req *r, bool ok)
{
    uint8_t *p = r->buf;

    for (unsigned i = 0; p && ok && r->to_guest && i < r->nr_seg; p += r->seg[i++].len)
        pci_dma_write(&r->n->pci, r->seg[i].gpa, p, r->seg[i].len);
    unmap(r, true);
    iov_free(&r->data);
    free(r->seg);
    free(r->buf);
    r->seg = NULL;
    r->buf = NULL;
    r->nr_seg = r->cap_seg = 0;
}
