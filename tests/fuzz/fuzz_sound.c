/* Fuzz target of the sound devices: the input says which registers are written and read, what lies in the lists in
 * guest memory, and how far the clock goes in between. FUZZ_DEVICES: what is plugged, the first being the card. */
#include "fuzz.h"

#include "hw/pci_bare.h"

int fuzz_err = 2;

enum { LISTS = 0x10000, LIST_LEN = 0x2000 };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t max)
{
    uint64_t x = 0x9e3779b97f4a7c15 * (i + 1);
    size_t len = min_u64(max, 400 + 200 * i);

    if (i >= 16)
        return 0;
    for (size_t k = 0; k < len; k++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        buf[k] = (uint8_t)(x >> 32);
    }
    return len;
}

static const struct {
    uint32_t bar, len;
    bool io;
} bars[] = FUZZ_BARS;

static struct pci_dev *plug(struct bare *b)
{
    static const char *const devices[] = FUZZ_DEVICES;
    struct pci_dev *card = NULL;

    for (unsigned i = 0; i < ARRAY_LEN(devices); i++) {
        struct pci_dev *d = bare_device(b, devices[i]);

        card = card ? card : d;
    }
    bare_start(b);
    for (unsigned i = 0; i < ARRAY_LEN(bars); i++)
        bare_map(card, bars[i].bar, bars[i].io ? 0x1000 + i * 0x1000 : BARE_MMIO);
    return card;
}

/* Where a register access goes: mostly a register, mostly aligned. */
static void access(struct bare *b, struct bytes *in, uint8_t op)
{
    unsigned n = op >> 2 & 1 ? ARRAY_LEN(bars) - 1 : 0, size = 1u << (op >> 3) % 3;
    uint32_t off = take16(in) % bars[n].len;
    struct mem_space *as = bars[n].io ? b->m->io : b->m->mem;
    gpa_t base = bars[n].io ? 0x1000 + n * 0x1000 : BARE_MMIO;
    uint64_t v = take32(in);

    if (!(op & 0x40))
        off %= 0x80; /* where most of them are */
    if (!(op & 0x20))
        off &= ~(size - 1);
    if ((op & 0x80) && size == 4)
        v = LISTS + v % LIST_LEN / 128 * 128; /* an address */
    if (op & 1)
        mem_load(as, base + off, size, &v);
    else
        mem_store(as, base + off, size, v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct bytes in = {data, len};
    struct bare *b = bare_new();
    int64_t now;

    clk_set_stepped(b->run->virt);
    now = clk_now(b->run->virt);
    plug(b);
    for (unsigned i = 0; in.left && i < 2000; i++) {
        uint8_t op = take8(&in);

        switch (op % 16) {
        case 14:
            for (unsigned k = 0; k < 4; k++)
                put_le32(b->mem + LISTS + take16(&in) % (LIST_LEN - 4), take32(&in));
            break;
        case 15:
            now += (int64_t)take16(&in) * 1000;
            clk_step_to(b->run->virt, now);
            break;
        case 13:
            for (unsigned k = take16(&in) % LIST_LEN & ~15u, n = 0; n < 32 && k < LIST_LEN; k += 16, n++) {
                put_le32(b->mem + LISTS + k, 0x20000 + n * 64); /* a list that could be one */
                put_le32(b->mem + LISTS + k + 8, op >> 4 << 4);
            }
            break;
        default:
            access(b, &in, op);
        }
        if (op == 0xee)
            machine_reset(b->m);
    }
    clk_step_to(b->run->virt, now + NS_PER_SEC);
    bare_free(b);
    return 0;
}
