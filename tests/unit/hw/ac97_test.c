/* AC97: buffers, positions and interrupts by the stepped clock; what is played arrives in a file. proves: F-AUD-01 */
#include "hw/sound.h"

enum {
    NAM = 0x1000,
    NABM = 0x2000,
    PO = NABM + 0x10,
    PI = NABM,
    MC = NABM + 0x20,
    GLOB_CNT = NABM + 0x2c,
    GLOB_STA = NABM + 0x30
};
enum { BDBAR = 0, CIV = 4, LVI = 5, SR = 6, PICB = 8, PIV = 10, CR = 11 };
enum { LIST = 0x10000, DATA = 0x20000, PART = 480 * 2 }; /* a buffer: 10 ms in samples */

struct card {
    struct sound *s;
    struct pci_dev *d;
};

static void out(struct card *c, unsigned port, unsigned size, uint32_t v)
{
    mem_store(c->s->b->m->io, port, size, v);
}
static uint32_t in(struct card *c, unsigned port, unsigned size)
{
    uint64_t v = 0;

    mem_load(c->s->b->m->io, port, size, &v);
    return (uint32_t)v;
}

static void map(struct card *c)
{
    bare_map(c->d, 0, NAM);
    bare_map(c->d, 1, NABM);
}

/* A card that plays into a file at 48 kHz, volumes at 0 dB, nr buffers of PART samples each that interrupt. */
static struct card card_new(unsigned nr, unsigned rate)
{
    struct card c = {sound_new(rate), NULL};
    uint8_t *mem = c.s->b->mem;

    c.d = bare_device(c.s->b, "AC97,audiodev=w");
    bare_start(c.s->b);
    map(&c);
    out(&c, GLOB_CNT, 4, 2);
    out(&c, NAM + 0x02, 2, 0);
    out(&c, NAM + 0x18, 2, 0x0808);
    for (unsigned i = 0; i < 32; i++) {
        put_le32(mem + LIST + i * 8, DATA + i * PART * 2);
        put_le32(mem + LIST + i * 8 + 4, 0x80000000u | PART);
    }
    for (unsigned i = 0; i < 32 * PART; i++)
        put_le16(mem + DATA + i * 2, (uint16_t)(i * 5));
    out(&c, PO + BDBAR, 4, LIST);
    out(&c, PO + LVI, 1, nr - 1);
    return c;
}

static void end(struct card *c)
{
    unsigned n;

    free(sound_end(c->s, &n));
}

static void reset_values_are_those_of_the_data_sheet(void **state)
{
    struct card c = card_new(1, 48000);

    out(&c, NAM, 2, 0);
    assert_int_equal(in(&c, NAM + 0x02, 2), 0x8000);
    assert_int_equal(in(&c, NAM + 0x18, 2), 0x8808);
    assert_int_equal(in(&c, NAM + 0x26, 2), 0xf);
    assert_int_equal(in(&c, NAM + 0x2c, 2), 48000);
    assert_int_equal(in(&c, NAM + 0x7c, 2) << 16 | in(&c, NAM + 0x7e, 2), 0x83847600);
    assert_int_equal(in(&c, PI + SR, 2), 1);
    assert_int_equal(in(&c, GLOB_STA, 4), 0x100);
    assert_int_equal(pci_cfg_read(c.s->b->bus, 0, c.d->devfn, 0, 4), 0x24158086);
    assert_int_equal(pci_cfg_read(c.s->b->bus, 0, c.d->devfn, PCI_CLASS_DEVICE, 2), 0x0401);
    assert_int_equal(in(&c, NABM + 0x34, 1), 0); /* the semaphore: taken by the read, free after an access */
    assert_int_equal(in(&c, NABM + 0x34, 1), 1);
    in(&c, NAM, 2);
    assert_int_equal(in(&c, NABM + 0x34, 1), 0);
    end(&c);
}

static void what_is_played_arrives_and_the_card_halts_at_the_last_buffer(void **state)
{
    struct card c = card_new(4, 48000);
    unsigned frames;
    int16_t *v;

    out(&c, PO + CR, 1, 0x1d);
    assert_int_equal(in(&c, PO + PICB, 2), PART);
    assert_int_equal(in(&c, PO + SR, 2), 0);
    sound_step(c.s, 5 * NS_PER_MS);
    assert_int_equal(in(&c, PO + PICB, 2), PART / 2);
    assert_int_equal(c.s->b->irq, 0);
    sound_step(c.s, 5 * NS_PER_MS);
    assert_int_equal(in(&c, PO + SR, 2), 8);
    assert_int_equal(c.s->b->irq, 1);
    assert_int_equal(in(&c, GLOB_STA, 4), 0x140);
    assert_int_equal(in(&c, PO + CIV, 4), 0x00080301); /* CIV, LVI, SR in one */
    out(&c, PO + SR, 2, 0x1c);
    assert_int_equal(c.s->b->irq, 0);
    sound_step(c.s, 30 * NS_PER_MS);
    assert_int_equal(in(&c, PO + SR, 2), 0xf);
    assert_int_equal(in(&c, PO + CIV, 1), 3);
    assert_int_equal(in(&c, PO + PICB, 2), 0);
    sound_step(c.s, 100 * NS_PER_MS);
    out(&c, PO + SR, 2, 0x1c);
    out(&c, PO + LVI, 1, 5); /* two more: it goes on by itself */
    assert_int_equal(in(&c, PO + SR, 2), 0);
    assert_int_equal(in(&c, PO + CIV, 1), 4);
    sound_step(c.s, 20 * NS_PER_MS);
    assert_int_equal(in(&c, PO + SR, 2), 0xf);
    v = sound_end(c.s, &frames);
    assert_int_equal(frames, 6 * PART / 2);
    for (unsigned i = 0; i < 6 * PART; i++)
        assert_int_equal(v[i], (int16_t)(i * 5));
    free(v);
}

static void a_pause_keeps_the_place(void **state)
{
    struct card c = card_new(2, 48000);
    unsigned frames;
    int16_t *v;

    out(&c, PO + CR, 1, 1);
    sound_step(c.s, 3 * NS_PER_MS);
    out(&c, PO + CR, 1, 0);
    assert_int_equal(in(&c, PO + SR, 2), 1);
    sound_step(c.s, 500 * NS_PER_MS);
    assert_int_equal(in(&c, PO + PICB, 2), PART - 3 * 48 * 2);
    out(&c, PO + CR, 1, 1);
    sound_step(c.s, 500 * NS_PER_MS);
    out(&c, PO + CR, 1, 2); /* reset of this one */
    assert_int_equal(in(&c, PO + BDBAR, 4), 0);
    assert_int_equal(in(&c, PO + SR, 2), 1);
    v = sound_end(c.s, &frames);
    assert_int_equal(frames, PART);
    for (unsigned i = 0; i < 2 * PART; i++)
        assert_int_equal(v[i], (int16_t)(i * 5));
    free(v);
}

static void volumes_are_applied(void **state)
{
    static const struct {
        uint16_t master, pcm;
        int left, right; /* thousandths */
    } want[] = {{0x0000, 0x0808, 1000, 1000}, {0x0400, 0x0808, 501, 1000}, {0x0000, 0x0808 | 0x8000, 0, 0},
                {0x8000, 0x0808, 0, 0},       {0x0000, 0x080c, 1000, 501}, {0x0804, 0x0000, 1000, 1995}};

    for (unsigned k = 0; k < ARRAY_LEN(want); k++) {
        struct card c = card_new(1, 48000);
        unsigned frames;
        int16_t *v;

        for (unsigned i = 0; i < PART; i++)
            put_le16(c.s->b->mem + DATA + 2 * i, 10000);
        out(&c, NAM + 0x02, 2, want[k].master);
        out(&c, NAM + 0x18, 2, want[k].pcm);
        out(&c, PO + CR, 1, 1);
        sound_step(c.s, 20 * NS_PER_MS);
        v = sound_end(c.s, &frames);
        assert_int_equal(frames, PART / 2);
        assert_in_range(v[100] + 100, want[k].left * 10 + 80, want[k].left * 10 + 120);
        assert_in_range(v[101] + 100, want[k].right * 10 + 80, want[k].right * 10 + 120);
        free(v);
    }
}

static void another_rate_takes_another_time(void **state)
{
    struct card c = card_new(4, 24000);
    unsigned frames;

    out(&c, NAM + 0x2c, 2, 24000);
    assert_int_equal(in(&c, NAM + 0x2c, 2), 48000); /* only with VRA */
    out(&c, NAM + 0x2a, 2, 1);
    out(&c, NAM + 0x2c, 2, 24000);
    assert_int_equal(in(&c, NAM + 0x2c, 2), 24000);
    out(&c, NAM + 0x32, 2, 100);
    assert_int_equal(in(&c, NAM + 0x32, 2), 8000); /* the nearest there is */
    out(&c, PO + CR, 1, 1);
    sound_step(c.s, 40 * NS_PER_MS);
    assert_int_equal(in(&c, PO + CIV, 1), 2);
    out(&c, NAM + 0x2c, 2, 48000); /* while it runs */
    sound_step(c.s, 10 * NS_PER_MS);
    assert_int_equal(in(&c, PO + CIV, 1), 3);
    assert_int_equal(in(&c, PO + PICB, 2), PART);
    free(sound_end(c.s, &frames));
    assert_in_range(frames, 2 * PART / 2 + PART / 4 - 3, 2 * PART / 2 + PART / 4 + 3);
}

static void recording_gives_silence_at_the_right_pace(void **state)
{
    struct card c = card_new(1, 48000);

    memset(c.s->b->mem + DATA, 0x55, 32 * PART * 2);
    out(&c, PI + BDBAR, 4, LIST);
    out(&c, PI + LVI, 1, 31);
    out(&c, PI + CR, 1, 0x11);
    out(&c, MC + BDBAR, 4, LIST + 128); /* one channel: half as fast, from the seventeenth buffer on */
    out(&c, MC + LVI, 1, 31);
    out(&c, MC + CR, 1, 1);
    sound_step(c.s, 15 * NS_PER_MS);
    assert_int_equal(in(&c, PI + PICB, 2), PART / 2);
    assert_int_equal(in(&c, MC + CIV, 1), 0);
    assert_int_equal(in(&c, MC + PICB, 2), PART / 4);
    assert_int_equal(in(&c, GLOB_STA, 4), 0x120);
    assert_int_equal(get_le16(c.s->b->mem + DATA + 3 * PART - 2), 0);
    assert_int_equal(get_le16(c.s->b->mem + DATA + 3 * PART), 0x5555);
    assert_int_equal(get_le16(c.s->b->mem + DATA + 32 * PART + 3 * PART / 2 - 2), 0);
    assert_int_equal(get_le16(c.s->b->mem + DATA + 32 * PART + 3 * PART / 2), 0x5555);
    end(&c);
}

static void empty_and_absurd_buffers_do_no_harm(void **state)
{
    struct card c = card_new(32, 48000);
    uint8_t *mem = c.s->b->mem;

    for (unsigned i = 0; i < 32; i++)
        put_le32(mem + LIST + i * 8 + 4, i == 20 ? 2 : i & 1); /* no sample, half a frame, one frame */
    out(&c, PO + CR, 1, 0x1d);
    sound_step(c.s, NS_PER_MS);
    assert_int_equal(in(&c, PO + SR, 2), 7);
    assert_int_equal(in(&c, PO + CIV, 1), 31);
    for (unsigned i = 0; i < 32; i++) { /* one frame each, and an interrupt each; then where nothing is */
        put_le32(mem + LIST + i * 8, i & 1 ? 0xfffffffe : LIST);
        put_le32(mem + LIST + i * 8 + 4, 0x80000002);
    }
    for (unsigned k = 0; k < 100; k++) {
        out(&c, PO + SR, 2, 0x1c);
        out(&c, PO + LVI, 1, k * 5);
        sound_step(c.s, 3 * NS_PER_MS);
    }
    out(&c, PO + BDBAR, 4, 0xfffffff8); /* a list that is not there: all ones, 65535 samples */
    out(&c, PO + LVI, 1, 9);
    sound_step(c.s, 5 * NS_PER_SEC);
    end(&c);
}

static void both_spellings_name_it_and_it_comes_without_a_back_end(void **state)
{
    struct bare *b = bare_new();

    assert_ptr_equal(bare_device(b, "AC97")->dev.obj.cls, bare_device(b, "ac97")->dev.obj.cls);
    bare_refuses(b, "AC97,audiodev=nosuch", "no audio back end with id 'nosuch'");
    bare_start(b);
    bare_free(b);
}

UNIT_MAIN(cmocka_unit_test(reset_values_are_those_of_the_data_sheet),
          cmocka_unit_test(what_is_played_arrives_and_the_card_halts_at_the_last_buffer),
          cmocka_unit_test(a_pause_keeps_the_place), cmocka_unit_test(volumes_are_applied),
          cmocka_unit_test(another_rate_takes_another_time),
          cmocka_unit_test(recording_gives_silence_at_the_right_pace),
          cmocka_unit_test(empty_and_absurd_buffers_do_no_harm),
          cmocka_unit_test(both_spellings_name_it_and_it_comes_without_a_back_end))
