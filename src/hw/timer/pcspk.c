/* Port 61h: the system control port with the gate and output of timer 2, which drives the speaker.
 *
 * 82371SB data sheet chapter 2.6.1 (NMI status and control). Parity and channel checks never happen. With an audiodev
 * the wave of timer 2 is heard while both speaker bits are set; a new count takes effect within TICK_NS. What a guest
 * makes by moving the data bit itself is not heard. */
#include "aud/aud.h"
#include "hw/timer/i8254.h"

enum { SPKR_GATE = 1, SPKR_DATA = 2, NMI_ENABLES = 0x0c, REFRESH = 0x10, TIMER2_OUT = 0x20 };
enum { RATE = 44100, LOUD = 8000, PIECE = 512, TICK_NS = 5000000, MIN_PERIOD = 2 * PIT_HZ / RATE };

struct pcspk {
    struct dev dev; /* first */
    struct mem_region io;
    struct dev *pit; /* borrowed */
    uint8_t bits;
    struct aud_voice *voice; /* owned; NULL: silent */
    struct aud_pace pace;    /* while it sounds */
    struct clk_timer timer;
    struct machine_hook state_hook;
    bool sounds;
};

/* ---- sound ---- */

static void play(struct pcspk *s)
{
    uint32_t due;
    bool heard;

    if (!s->sounds)
        return;
    due = aud_pace_due(&s->pace, RATE, clk_now(dev_vclk(&s->dev)));
    heard = pit_get_period(s->pit, 2) >= MIN_PERIOD; /* else it is beyond what the rate can hold */
    while (due) {
        uint32_t n = (uint32_t)min_u64(due, PIECE);
        int16_t buf[PIECE];

        for (uint32_t i = 0; i < n; i++) {
            int64_t t = aud_pace_when(&s->pace, RATE, i);

            buf[i] = !heard ? 0 : pit_get_wave(s->pit, 2, t) ? LOUD : -LOUD;
        }
        aud_write(s->voice, buf, n);
        s->pace.done += n;
        due -= n;
    }
}

/* As the bits are now. */
static void set_sounds(struct pcspk *s, bool on)
{
    static const struct aud_fmt fmt = {RATE, 1, AUD_S16};

    play(s);
    if (on && !s->sounds) {
        aud_pace_start(&s->pace, clk_now(dev_vclk(&s->dev)));
        aud_start(s->voice, &fmt);
        clk_timer_set(&s->timer, s->pace.base + TICK_NS);
    } else if (!on && s->sounds) {
        aud_stop(s->voice);
        clk_timer_cancel(&s->timer);
    }
    s->sounds = on;
}

static bool wants_sound(const struct pcspk *s)
{
    return s->voice && s->pit && (s->bits & (SPKR_GATE | SPKR_DATA)) == (SPKR_GATE | SPKR_DATA);
}

static void tick(void *opaque)
{
    struct pcspk *s = opaque;

    play(s);
    clk_timer_set(&s->timer, clk_now(dev_vclk(&s->dev)) + TICK_NS);
}

/* The machine stops or starts: what was due is heard; what was loaded begins. */
static void state_changed(void *opaque)
{
    struct pcspk *s = opaque;

    set_sounds(s, wants_sound(s));
}

bool pcspk_set_audio(struct dev *spk, struct aud_dev *dev, struct err **errp)
{
    struct pcspk *s = container_of(spk, struct pcspk, dev);

    s->voice = aud_open(dev, dev_machine(spk), AUD_OUT, errp);
    if (!s->voice)
        return false;
    clk_timer_init(&s->timer, dev_vclk(spk), tick, s);
    s->state_hook = (struct machine_hook){.fn = state_changed, .opaque = s};
    machine_on_state(dev_machine(spk), &s->state_hook);
    return true;
}

/* ---- the port ---- */

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

    if (s->voice)
        play(s); /* with the gate as it was */
    s->bits = val & (SPKR_GATE | SPKR_DATA | NMI_ENABLES);
    if (s->pit)
        pit_set_gate(s->pit, 2, val & SPKR_GATE);
    if (s->voice)
        set_sounds(s, wants_sound(s));
}
static const struct mem_ops spk_ops = {.read = spk_read, .write = spk_write, .impl_max = 1};

void pcspk_set_pit(struct dev *spk, struct dev *pit)
{
    container_of(spk, struct pcspk, dev)->pit = pit;
}

static void spk_reset(struct dev *d)
{
    struct pcspk *s = container_of(d, struct pcspk, dev);

    s->bits = 0;
    if (s->voice)
        set_sounds(s, false);
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
    struct pcspk *s = container_of(d, struct pcspk, dev);

    if (s->voice) {
        clk_timer_cancel(&s->timer);
        machine_hook_del(&s->state_hook);
        aud_close(s->voice);
    }
    mem_region_free(&s->io);
}

/* What sounded is over; the machine's start sets what was loaded going. */
static bool spk_loaded(void *obj, struct err **errp)
{
    struct pcspk *s = obj;

    if (s->sounds) {
        aud_stop(s->voice);
        clk_timer_cancel(&s->timer);
        s->sounds = false;
    }
    return true;
}
static const struct state_field spk_fields[] = {STATE_U8(struct pcspk, bits), STATE_END};
static const struct state_desc spk_state = {
    .name = "isa-pcspk", .version = 1, .fields = spk_fields, .post_load = spk_loaded};
static const struct dev_class spk_class = {.name = "isa-pcspk",
                                           .parent = "isa-device",
                                           .size = sizeof(struct pcspk),
                                           .board_only = true,
                                           .realize = spk_realize,
                                           .unrealize = spk_unrealize,
                                           .reset = spk_reset,
                                           .state_desc = &spk_state};
DEV_REGISTER(spk_class)
