/* Port 61h: the system control port with the gate and output of timer 2, which drives the speaker.
 *
 * 82371SB data sheet chapter 2.6.1 (NMI status and control). No sound is made; parity and channel checks never happen.
 */
#include "hw/timer/i8254.h"

enum { SPKR_GATE = 1, SPKR_DATA = 2, NMI_ENABLES = 0x0c, REFRESH = 0x10, TIMER2_OUT = 0x20 };

struct pcspk {
    struct dev dev; /* first */
    struct mem_region io;
    struct dev *pit; /* borrowed */
    uint8_t bits;
};

static uint64_t spk_read(void *opaque, gpa_t off, unsigned size)
{
    struct pcspk *s = opaque;
    uint8_t v = s->bits;

    if (clk_now(dev_vclk(&s->dev)) / 15085 & 1)
        v |= REFRESH; /* toggles with each DRAM refresh request */
    if (s->pit && pit_get_out(s->pit, 2))
        v |= TIMER2_OUT;
    return v;
}
static void spk_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct pcspk *s = opaque;

    s->bits = val & (SPKR_GATE | SPKR_DATA | NMI_ENABLES);
    if (s->pit)
        pit_set_gate(s->pit, 2, val & SPKR_GATE);
}
static const struct mem_ops spk_ops = {.read = spk_read, .write = spk_write, .impl_max = 1};

void pcspk_set_pit(struct dev *spk, struct dev *pit)
{
    container_of(spk, struct pcspk, dev)->pit = pit;
}

static void spk_reset(struct dev *d)
{
    container_of(d, struct pcspk, dev)->bits = 0;
}
static bool spk_realize(struct dev *d, struct err **errp)
{
    struct pcspk *s = container_of(d, struct pcspk, dev);

    mem_region_init_io(&s->io, dev_machine(d)->mem_sys, &spk_ops, s, "pcspk", 1);
    dev_map_io(d, &s->io, 0x61);
    return true;
}
static void spk_unrealize(struct dev *d)
{
    mem_region_free(&container_of(d, struct pcspk, dev)->io);
}
static const struct state_field spk_fields[] = {STATE_U8(struct pcspk, bits), STATE_END};
static const struct dev_class spk_class = {.name = "isa-pcspk",
                                           .parent = "isa-device",
                                           .size = sizeof(struct pcspk),
                                           .board_only = true,
                                           .realize = spk_realize,
                                           .unrealize = spk_unrealize,
                                           .reset = spk_reset,
                                           .state_version = 1,
                                           .state = spk_fields};
DEV_REGISTER(spk_class)
