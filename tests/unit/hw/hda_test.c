/* High Definition Audio: commands, streams and interrupts by the stepped clock; what is played arrives in a file.
 * proves: F-AUD-02, F-AUD-03, F-AUD-04, F-AUD-05, F-AUD-06 */
#include "hw/sound.h"

enum { GCTL = 0x08, WAKEEN = 0x0c, STATESTS = 0x0e, INTCTL = 0x20, INTSTS = 0x24, WALCLK = 0x30, SSYNC = 0x38 };
enum { CORBBASE = 0x40, CORBWP = 0x48, CORBRP = 0x4a, CORBCTL = 0x4c, CORBSIZE = 0x4e };
enum {
    RIRBBASE = 0x50,
    RIRBWP = 0x58,
    RINTCNT = 0x5a,
    RIRBCTL = 0x5c,
    RIRBSTS = 0x5d,
    ICOI = 0x60,
    ICII = 0x64,
    ICIS = 0x68,
    DPLBASE = 0x70
};
enum { SD_IN = 0x80, SD_OUT = 0x100, CTL = 0, STS = 3, LPIB = 4, CBL = 8, LVI = 0xc, FMT = 0x12, BDPL = 0x18 };
enum {
    CORB = 0x8000,
    RIRB = 0x9000,
    LIST = 0x10000,
    POSITIONS = 0x11000,
    DATA = 0x20000,
    FRAMES = 480,
    PART = FRAMES * 4
};

struct card {
    struct sound *s;
    struct pci_dev *d;
    uint8_t *mem;
};

static void out(struct card *c, unsigned reg, unsigned size, uint32_t v)
{
    mem_store(c->s->b->m->mem, BARE_MMIO + reg, size, v);
}
static uint32_t in(struct card *c, unsigned reg, unsigned size)
{
    return (uint32_t)mem_ld(c->s->b->m->mem, BARE_MMIO + reg, size);
}

static struct card card_new(const char *controller, const char *codec)
{
    struct card c = {sound_new(48000), NULL, NULL};

    c.d = bare_device(c.s->b, controller);
    if (codec)
        bare_device(c.s->b, codec);
    bare_start(c.s->b);
    bare_map(c.d, 0, BARE_MMIO);
    c.mem = c.s->b->mem;
    out(&c, GCTL, 4, 1);
    return c;
}

static void end(struct card *c)
{
    unsigned n;

    free(sound_end(c->s, &n));
}

/* A command to codec 0 through the immediate registers. */
static uint32_t ask(struct card *c, unsigned nid, uint32_t verb)
{
    out(c, ICIS, 2, 2);
    out(c, ICOI, 4, nid << 20 | verb);
    out(c, ICIS, 2, 1);
    assert_int_equal(in(c, ICIS, 2), 2);
    return in(c, ICII, 4);
}

/* Stream `sd` with tag 5 over nr buffers that interrupt; the DAC listens to it. */
static void set_stream(struct card *c, unsigned sd, unsigned nr, uint16_t fmt)
{
    for (unsigned i = 0; i < nr; i++) {
        put_le64(c->mem + LIST + i * 16, DATA + i * PART);
        put_le32(c->mem + LIST + i * 16 + 8, PART);
        put_le32(c->mem + LIST + i * 16 + 12, 1);
    }
    out(c, sd + CTL, 1, 1);
    assert_int_equal(in(c, sd + CTL, 1), 1);
    out(c, sd + CTL, 1, 0);
    out(c, sd + BDPL, 4, LIST);
    out(c, sd + CBL, 4, nr * PART);
    out(c, sd + LVI, 2, nr - 1);
    out(c, sd + FMT, 2, fmt);
    out(c, sd + CTL + 2, 1, 5 << 4);
    ask(c, sd == SD_OUT ? 2 : 4, 0x70650);
    ask(c, sd == SD_OUT ? 2 : 4, 0x20000 | fmt);
    out(c, INTCTL, 4, 0x80000000u | 1u << (sd - 0x80) / 0x20);
}

static void fill(struct card *c, unsigned nr)
{
    for (unsigned i = 0; i < nr * PART / 2; i++)
        put_le16(c->mem + DATA + i * 2, (uint16_t)(i * 5));
}

static void registers_are_those_of_the_specification(void **state)
{
    struct card c = card_new("intel-hda", NULL);

    assert_int_equal(pci_cfg_read(c.s->b->bus, 0, c.d->devfn, 0, 4), 0x26688086);
    assert_int_equal(pci_cfg_read(c.s->b->bus, 0, c.d->devfn, PCI_CLASS_DEVICE, 2), 0x0403);
    assert_int_equal(in(&c, 0, 4), 0x01004401);
    assert_int_equal(in(&c, 0, 2), 0x4401);
    assert_int_equal(in(&c, 3, 1), 1);
    assert_int_equal(in(&c, CORBSIZE, 1), 0x42);
    assert_int_equal(in(&c, STATESTS, 2), 0); /* no codec */
    out(&c, ICIS, 2, 1);
    assert_int_equal(in(&c, ICIS, 2), 0);
    sound_step(c.s, NS_PER_MS);
    assert_int_equal(in(&c, WALCLK, 4), 24000);
    assert_int_equal(in(&c, 0x2000 + WALCLK, 4), 24000);
    out(&c, SD_OUT + CBL, 4, 0x12345678);
    out(&c, SD_OUT + CBL + 1, 1, 0xab);
    assert_int_equal(in(&c, SD_OUT + CBL, 4), 0x1234ab78);
    out(&c, GCTL, 4, 0);
    assert_int_equal(in(&c, SD_OUT + CBL, 4), 0);
    end(&c);
}

static void codecs_announce_themselves_and_describe_their_widgets(void **state)
{
    static const struct {
        const char *name;
        uint32_t id, nodes, out, in;
    } want[] = {{"hda-output", 0x1af40011, 0x20002, 0x01014110, 0},
                {"hda-duplex", 0x1af40021, 0x20004, 0x01014110, 0x01813120},
                {"hda-micro", 0x1af40031, 0x20004, 0x90170110, 0x90a70120},
                {"hda-micro,mixer=off", 0x1af40032, 0x20004, 0x90170110, 0x90a70120}};

    for (unsigned i = 0; i < ARRAY_LEN(want); i++) {
        struct card c = card_new(i & 1 ? "ich9-intel-hda" : "intel-hda", want[i].name);

        assert_int_equal(in(&c, STATESTS, 2), 1);
        out(&c, STATESTS, 2, 1);
        assert_int_equal(in(&c, STATESTS, 2), 0);
        assert_int_equal(ask(&c, 0, 0xf0000), want[i].id);
        assert_int_equal(ask(&c, 0, 0xf0004), 0x10001);
        assert_int_equal(ask(&c, 1, 0xf0005), 1);
        assert_int_equal(ask(&c, 1, 0xf0004), want[i].nodes);
        assert_int_equal(ask(&c, 3, 0xf1c00), want[i].out);
        assert_int_equal(ask(&c, 5, 0xf1c00), want[i].in);
        assert_int_equal(ask(&c, 3, 0xf0200), 2);
        assert_int_equal(ask(&c, 4, 0xf0200), want[i].in ? 5 : 0);
        assert_int_equal(ask(&c, 2, 0xf0012), i == 3 ? 0 : 0x80034040);
        assert_int_equal(ask(&c, 4, 0xf0009) >> 20, want[i].in ? 1 : 0);
        ask(&c, 2, 0x3b0 << 8 | 0x05); /* output, both sides, gain 5 */
        assert_int_equal(ask(&c, 2, 0xba000), i == 3 ? 0 : 5);
        ask(&c, 3, 0x71c11);
        ask(&c, 3, 0x71f22);
        assert_int_equal(ask(&c, 3, 0xf1c00), (want[i].out & 0x00ffff00) | 0x22000011);
        ask(&c, 1, 0x7ff00); /* function reset */
        assert_int_equal(ask(&c, 3, 0xf1c00), want[i].out);
        assert_int_equal(ask(&c, 77, 0xf0000), 0);
        end(&c);
    }
}

static void commands_go_through_the_rings(void **state)
{
    struct card c = card_new("intel-hda", "hda-duplex,cad=3");

    assert_int_equal(in(&c, STATESTS, 2), 8);
    out(&c, CORBBASE, 4, CORB);
    out(&c, RIRBBASE, 4, RIRB);
    out(&c, CORBRP, 2, 0x8000);
    assert_int_equal(in(&c, CORBRP, 2), 0x8000);
    out(&c, CORBRP, 2, 0);
    assert_int_equal(in(&c, CORBRP, 2), 0);
    out(&c, RIRBWP, 2, 0x8000);
    out(&c, RINTCNT, 2, 2);
    put_le32(c.mem + CORB + 4, 0x300f0000);
    put_le32(c.mem + CORB + 8, 0x301f0004);
    put_le32(c.mem + CORB + 12, 0x700f0000); /* nobody: no answer */
    put_le32(c.mem + CORB + 16, 0x301f0005);
    out(&c, CORBWP, 2, 4);
    out(&c, CORBCTL, 1, 2);
    assert_int_equal(in(&c, CORBRP, 2), 0); /* answers have nowhere to go yet */
    out(&c, INTCTL, 4, 0xc0000000u);
    out(&c, RIRBCTL, 1, 3);
    assert_int_equal(in(&c, CORBRP, 2), 4);
    assert_int_equal(in(&c, RIRBWP, 2), 3);
    assert_int_equal(get_le32(c.mem + RIRB + 8), 0x1af40021);
    assert_int_equal(get_le32(c.mem + RIRB + 12), 3);
    assert_int_equal(get_le32(c.mem + RIRB + 16), 0x20004);
    assert_int_equal(get_le32(c.mem + RIRB + 24), 1);
    assert_int_equal(in(&c, INTSTS, 4), 0xc0000000u);
    assert_int_equal(c.s->b->irq, 1);
    out(&c, RIRBSTS, 1, 1);
    assert_int_equal(c.s->b->irq, 0);
    out(&c, CORBWP, 2, 3); /* the rest of the ring: 255 more, and round */
    assert_int_equal(in(&c, CORBRP, 2), 3);
    end(&c);
}

static void what_is_played_arrives_and_positions_follow_the_clock(void **state)
{
    struct card c = card_new("intel-hda", "hda-output,audiodev=w");
    unsigned frames;
    int16_t *v;

    fill(&c, 4);
    set_stream(&c, SD_OUT, 4, 0x11);
    out(&c, DPLBASE, 4, POSITIONS | 1);
    out(&c, SD_OUT + CTL, 1, 0x1e);
    for (unsigned i = 1; i <= 10; i++) {
        sound_step(c.s, NS_PER_MS);
        assert_int_equal(in(&c, SD_OUT + LPIB, 4), i * 192);
        assert_int_equal(in(&c, 0x2000 + SD_OUT + LPIB, 4), i * 192);
        assert_int_equal(get_le32(c.mem + POSITIONS + 4 * 8), i * 192);
        assert_int_equal(c.s->b->irq, i == 10);
    }
    assert_int_equal(in(&c, INTSTS, 4), 0x80000010u);
    assert_int_equal(in(&c, SD_OUT + STS, 1), 0x24);
    out(&c, SD_OUT + STS, 1, 4);
    assert_int_equal(c.s->b->irq, 0);
    sound_step(c.s, 500000);
    assert_int_equal(in(&c, SD_OUT + LPIB, 4), 10 * 192 + 96);
    sound_step(c.s, 29500000);
    assert_int_equal(in(&c, SD_OUT + LPIB, 4), 0); /* once round */
    sound_step(c.s, 5 * NS_PER_MS);
    out(&c, SD_OUT + CTL, 1, 0);
    sound_step(c.s, 500 * NS_PER_MS);
    assert_int_equal(in(&c, SD_OUT + LPIB, 4), 5 * 192);
    v = sound_end(c.s, &frames);
    assert_int_equal(frames, 4 * FRAMES + FRAMES / 2);
    for (unsigned i = 0; i < frames * 2; i++)
        assert_int_equal(v[i], (int16_t)(i % (4 * FRAMES * 2) * 5));
    free(v);
}

static void formats_and_channels_are_those_the_registers_say(void **state)
{
    static const struct {
        uint16_t fmt;
        unsigned first, lpib; /* channel of the converter; bytes after 10 ms */
    } f[] = {{0x0011, 0, 1920}, {0x4011, 0, 1764}, {0x0041, 0, 3840},
             {0x0013, 2, 3840}, {0x0811, 0, 3840}, {0x0211, 0, 640}};

    for (unsigned k = 0; k < ARRAY_LEN(f); k++) {
        struct card c = card_new("ich9-intel-hda", "hda-duplex,audiodev=w");
        unsigned frames, bytes = f[k].fmt & 0x40 ? 4 : 2, channels = (f[k].fmt & 0xf) + 1;
        int16_t *v;

        for (unsigned i = 0; i < 4 * PART / bytes; i++) {
            int16_t x = i % channels == f[k].first ? 5000 : i % channels == f[k].first + 1 ? -6000 : 99;

            if (bytes == 4)
                put_le32(c.mem + DATA + i * 4, (uint32_t)x << 16);
            else
                put_le16(c.mem + DATA + i * 2, (uint16_t)x);
        }
        set_stream(&c, SD_OUT, 4, f[k].fmt);
        ask(&c, 2, 0x70650 | f[k].first);
        out(&c, SD_OUT + CTL, 1, 2);
        sound_step(c.s, 10 * NS_PER_MS);
        assert_int_equal(in(&c, SD_OUT + LPIB, 4), f[k].lpib);
        v = sound_end(c.s, &frames);
        assert_in_range(frames, 470, 490);
        assert_int_equal(v[400], 5000);
        assert_int_equal(v[401], -6000);
        free(v);
    }
}

static void amplifiers_and_the_pin_are_obeyed(void **state)
{
    static const struct {
        uint32_t nid, verb;
        int left, right;
    } want[] = {{2, 0x3b000 | 64, 10000, 10000},
                {2, 0x3a000 | 44, 1000, 10000},
                {2, 0x39000 | 0x80, 10000, 0},
                {3, 0x70700, 0, 0},
                {2, 0x3b000, 6, 6}};

    for (unsigned k = 0; k < ARRAY_LEN(want); k++) {
        struct card c = card_new("intel-hda", "hda-micro,audiodev=w");
        unsigned frames;
        int16_t *v;

        for (unsigned i = 0; i < PART; i++)
            put_le16(c.mem + DATA + 2 * i, 10000);
        set_stream(&c, SD_OUT, 1, 0x11);
        ask(&c, want[k].nid, want[k].verb);
        out(&c, SD_OUT + CTL, 1, 2);
        sound_step(c.s, 10 * NS_PER_MS);
        v = sound_end(c.s, &frames);
        assert_int_equal(frames, FRAMES);
        assert_in_range(v[100] + 100, want[k].left + 95, want[k].left + 105);
        assert_in_range(v[101] + 100, want[k].right + 95, want[k].right + 105);
        free(v);
    }
}

static void recording_gives_silence_and_synchronized_streams_start_together(void **state)
{
    struct card c = card_new("intel-hda", "hda-duplex,audiodev=w");

    memset(c.mem + DATA, 0x55, 4 * PART);
    set_stream(&c, SD_IN, 4, 0x11);
    out(&c, SSYNC, 4, 0x11);
    out(&c, SD_IN + CTL, 1, 0x1e);
    sound_step(c.s, 100 * NS_PER_MS);
    assert_int_equal(in(&c, SD_IN + LPIB, 4), 0);
    out(&c, SSYNC, 4, 0);
    sound_step(c.s, 15 * NS_PER_MS);
    assert_int_equal(in(&c, SD_IN + LPIB, 4), PART + PART / 2);
    assert_int_equal(get_le32(c.mem + DATA + PART + PART / 2 - 4), 0);
    assert_int_equal(get_le32(c.mem + DATA + PART + PART / 2), 0x55555555);
    assert_int_equal(in(&c, INTSTS, 4), 0x80000001u);
    end(&c);
}

static void lists_without_sense_stop_the_stream_or_do_no_harm(void **state)
{
    struct card c = card_new("intel-hda", "hda-duplex,audiodev=w");

    set_stream(&c, SD_OUT, 4, 0x11);
    memset(c.mem + LIST, 0, 64); /* nothing in any buffer */
    out(&c, SD_OUT + CTL, 1, 0x1e);
    sound_step(c.s, 20 * NS_PER_MS);
    assert_int_equal(in(&c, SD_OUT + CTL, 1), 0x1c);
    assert_int_equal(in(&c, SD_OUT + STS, 1), 0x10);
    assert_int_equal(c.s->b->irq, 1);
    for (unsigned i = 0; i < 256; i++) { /* single bytes, at 192 kHz with 16 channels of 32 bits */
        put_le64(c.mem + LIST + i * 16, i & 1 ? UINT64_MAX : LIST);
        put_le32(c.mem + LIST + i * 16 + 8, i & 1);
        put_le32(c.mem + LIST + i * 16 + 12, 1);
    }
    for (unsigned n = 0; n < 8; n++) {
        out(&c, SD_IN + n * 0x20 + CTL, 1, 1);
        out(&c, SD_IN + n * 0x20 + CTL, 1, 0);
        out(&c, SD_IN + n * 0x20 + BDPL, 4, LIST);
        out(&c, SD_IN + n * 0x20 + LVI, 2, 255);
        out(&c, SD_IN + n * 0x20 + FMT, 2, 0x184f);
        out(&c, SD_IN + n * 0x20 + CTL, 4, 0x50001e);
    }
    sound_step(c.s, NS_PER_SEC);
    assert_int_equal(in(&c, SD_OUT + CTL, 1), 0x1e); /* it goes on */
    end(&c);
}

static void a_message_is_sent_for_each_new_cause(void **state)
{
    struct card c = card_new("ich9-intel-hda", "hda-output");
    struct pci_bus *bus = c.s->b->bus;
    unsigned cap = pci_cfg_read(bus, 0, c.d->devfn, PCI_CAPABILITY_LIST, 1);

    assert_int_equal(pci_cfg_read(bus, 0, c.d->devfn, cap, 1), PCI_CAP_MSI);
    pci_cfg_write(bus, 0, c.d->devfn, cap + 4, 0x3000, 4); /* into memory */
    pci_cfg_write(bus, 0, c.d->devfn, cap + 12, 0x77, 2);
    pci_cfg_write(bus, 0, c.d->devfn, cap + 2, 1, 2);
    set_stream(&c, SD_OUT, 2, 0x11);
    out(&c, INTCTL, 4, 0xc0000010u);
    out(&c, SD_OUT + CTL, 1, 6);
    sound_step(c.s, 10 * NS_PER_MS);
    assert_int_equal(get_le32(c.mem + 0x3000), 0x77);
    put_le32(c.mem + 0x3000, 0);
    sound_step(c.s, 10 * NS_PER_MS); /* the same cause, still there */
    assert_int_equal(get_le32(c.mem + 0x3000), 0);
    out(&c, SD_OUT + STS, 1, 4);
    sound_step(c.s, 10 * NS_PER_MS);
    assert_int_equal(get_le32(c.mem + 0x3000), 0x77);
    assert_int_equal(c.s->b->irq, 0);
    put_le32(c.mem + 0x3000, 0);
    out(&c, WAKEEN, 2, 1); /* another one */
    assert_int_equal(get_le32(c.mem + 0x3000), 0x77);
    end(&c);
}

static void addresses_on_the_link_are_checked(void **state)
{
    struct bare *b = bare_new();
    char text[32];

    bare_refuses(b, "hda-duplex", "no 'HDA' bus found");
    bare_device(b, "intel-hda,id=sound0");
    bare_device(b, "hda-duplex,bus=sound0.0,cad=0");
    bare_refuses(b, "hda-duplex,cad=0", "address 0 of this link is taken");
    bare_refuses(b, "hda-duplex,cad=15", "cad= goes from 0 to 14");
    bare_refuses(b, "hda-output,audiodev=nosuch", "no audio back end with id 'nosuch'");
    for (unsigned i = 1; i < 15; i++) {
        snprintf(text, sizeof text, "hda-output,id=c%u", i);
        bare_device(b, text);
    }
    bare_refuses(b, "hda-output,bus=sound0.0", "no address is left");
    bare_device(b, "ich9-intel-hda,id=second");
    bare_device(b, "hda-micro,id=on-second"); /* the first one is full */
    assert_string_equal(dev_by_id(b->m, "on-second")->bus->name, "second.0");
    bare_start(b);
    bare_free(b);
}

UNIT_MAIN(cmocka_unit_test(registers_are_those_of_the_specification),
          cmocka_unit_test(codecs_announce_themselves_and_describe_their_widgets),
          cmocka_unit_test(commands_go_through_the_rings),
          cmocka_unit_test(what_is_played_arrives_and_positions_follow_the_clock),
          cmocka_unit_test(formats_and_channels_are_those_the_registers_say),
          cmocka_unit_test(amplifiers_and_the_pin_are_obeyed),
          cmocka_unit_test(recording_gives_silence_and_synchronized_streams_start_together),
          cmocka_unit_test(lists_without_sense_stop_the_stream_or_do_no_harm),
          cmocka_unit_test(a_message_is_sent_for_each_new_cause), cmocka_unit_test(addresses_on_the_link_are_checked))
