/* Random accesses to every port and register window of both chipsets neither crash nor hang the program. proves:
 * F-MCH-01, F-MCH-02 */
#ifdef FUZZ_Q35
#define RIG_Q35
#endif
#include "rig.h"

#include <time.h>

static uint64_t seed = 0x9e3779b97f4a7c15;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static uint64_t target(bool *io)
{
    static const uint64_t win[] = {0xfec00000, 0xfed00000, 0xfee00000, 0xb0000000, 0xa0000,
                                   0xc0000,    0xfed1c000, 0xe0000000, 0xc0000000};
    static const uint16_t hot[] = {0x20, 0xa0,  0x40,  0x60,   0x70,   0x3f8,  0xcf8, 0xcfc, 0xc0,
                                   0x00, 0x4d0, 0x600, 0xae00, 0xaf00, 0xafe0, 0xcd8, 0xb0};

    *io = rnd() & 1;
    if (*io)
        return rnd() & 3 ? hot[rnd() % ARRAY_LEN(hot)] + (rnd() & 31) : rnd() & 0xffff;
    return win[rnd() % ARRAY_LEN(win)] + (rnd() & (rnd() & 1 ? 0xfff : 0xfffff));
}

static void random_accesses_are_survived(void **state)
{
    static const uint8_t sizes[] = {1, 2, 4, 8};
    struct rig *r = rig_new();
    struct err *e = NULL;
    struct timespec t0, t1;

    pci_create(r->m, r->north.bus, -1, "pci-bridge", "br", &e);
    pci_create(r->m, r->north.bus, -1, "pcie-root-port", "rp", &e);
    pci_create(r->m, r->north.bus, -1, "pci-serial", NULL, &e);
    pci_create(r->m, r->north.bus, -1, "pvpanic-pci", NULL, &e);
    dev_realize(dev_new(r->m, "isa-serial", &e), &r->south.isa->bus, NULL, &e);
    dev_realize(dev_new(r->m, "isa-parallel", &e), &r->south.isa->bus, NULL, &e);
    assert_null(e);
    machine_reset(r->m);
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (unsigned i = 0; i < 400000; i++) {
        bool io;
        uint64_t a = target(&io), v = rnd() & (rnd() & 1 ? UINT64_MAX : 0xff);
        unsigned size = sizes[rnd() & (io ? 1 : 3)];

        if (rnd() & 1)
            mem_store(io ? r->m->io : r->m->mem, a, size, v);
        else
            mem_load(io ? r->m->io : r->m->mem, a, size, &v);
        if (i % 64 == 0)
            step(r, (int64_t)(rnd() % 3000000));
        if (i % 16 == 0)
            take(r, i & 1);
        if (i % 50000 == 0)
            machine_reset(r->m);
        r->m->req = 0; /* resets and power-off are asked for all the time */
        clock_gettime(CLOCK_MONOTONIC, &t1);
        if (t1.tv_sec - t0.tv_sec > 20)
            break; /* a slow host: what was tried has been survived */
    }
    assert_int_equal(cfg_ld(r, 0, 0, 0, 2), 0x8086);
    rig_free(r);
}

UNIT_MAIN(cmocka_unit_test(random_accesses_are_survived))
