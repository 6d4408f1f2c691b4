/* Voices, formats, rates and the WAV file. proves: F-AUD-11, F-AUD-13 */
#include "unit.h"

#include "aud/aud.h"
#include "base/bytes.h"
#include <stdio.h>
#include <unistd.h>

struct rig {
    struct run *run;
    struct obj *root;
    struct aud_set *set;
    struct aud_dev *dev; /* NULL: none was made */
    char path[64];
};
static const struct obj_class root_class = {.name = "sound-test-root", .size = sizeof(struct obj)};

static struct aud_dev *make(struct rig *r, const char *text, struct err **errp)
{
    struct opts *o = opts_parse(text, "driver", NULL);
    struct aud_dev *d = aud_create(r->set, o, errp);

    opts_free(o);
    return d;
}

/* With a wav back end of these further options, or without any (NULL). */
static struct rig *rig_new(const char *more)
{
    struct rig *r = xnew(struct rig);
    struct err *e = NULL;

    r->run = run_new();
    r->root = obj_new(&root_class, NULL);
    r->set = aud_set_new(r->run);
    aud_set_bind(r->set, r->root);
    strcpy(r->path, "/tmp/lyrebird-sound-XXXXXX");
    close(mkstemp(r->path));
    if (more) {
        AUTOFREE char *text = xasprintf("wav,id=w,path=%s%s%s", r->path, *more ? "," : "", more);

        r->dev = make(r, text, &e);
        if (!r->dev)
            fail_msg("%s", e->msg);
    }
    return r;
}

static struct aud_voice *voice(struct rig *r, uint32_t rate, unsigned channels, enum aud_sample s)
{
    struct aud_voice *v = aud_open(r->dev, r->root, AUD_OUT, NULL);
    struct aud_fmt f = {rate, (uint8_t)channels, s};

    assert_non_null(v);
    aud_start(v, &f);
    return v;
}

/* The file's bytes (caller frees); checks its header against its length. */
static uint8_t *finish(struct rig *r, size_t *len)
{
    uint8_t *b;
    FILE *f;
    long n;

    aud_set_free(r->set);
    f = fopen(r->path, "rb");
    fseek(f, 0, SEEK_END);
    n = ftell(f);
    rewind(f);
    b = xmalloc((size_t)n + 1);
    assert_int_equal(fread(b, 1, (size_t)n, f), n);
    fclose(f);
    unlink(r->path);
    if (r->dev) {
        assert_true(n >= 44);
        assert_memory_equal(b, "RIFF", 4);
        assert_memory_equal(b + 8, "WAVEfmt ", 8);
        assert_int_equal(get_le32(b + 4), n - 8);
        assert_int_equal(get_le32(b + 40), n - 44);
    }
    obj_unref(r->root);
    run_free(r->run);
    free(r);
    *len = (size_t)n;
    return b;
}

static int16_t at(const uint8_t *file, unsigned i)
{
    return (int16_t)get_le16(file + 44 + i * 2);
}

static void what_is_played_is_in_the_file_sample_by_sample(void **state)
{
    struct rig *r = rig_new("");
    struct aud_voice *v = voice(r, 44100, 2, AUD_S16);
    size_t len;
    uint8_t *b, frame[4];

    for (int i = 0; i < 50000; i++) { /* more than the driver's buffer */
        put_le16(frame, (uint16_t)(i * 7 - 30000));
        put_le16(frame + 2, (uint16_t)(i * 3));
        aud_write(v, frame, 1);
    }
    aud_close(v);
    b = finish(r, &len);
    assert_int_equal(len, 44 + 50000 * 4);
    assert_int_equal(get_le16(b + 20), 1); /* PCM, two channels, 44100 frames of 4 bytes a second, 16 bits */
    assert_int_equal(get_le16(b + 22), 2);
    assert_int_equal(get_le32(b + 24), 44100);
    assert_int_equal(get_le32(b + 28), 44100 * 4);
    assert_int_equal(get_le16(b + 32), 4);
    assert_int_equal(get_le16(b + 34), 16);
    for (int i = 0; i < 50000; i++) {
        assert_int_equal(at(b, 2 * i), (int16_t)(i * 7 - 30000));
        assert_int_equal(at(b, 2 * i + 1), (int16_t)(i * 3));
    }
    free(b);
}

static void two_voices_are_added_and_loud_ones_are_cut(void **state)
{
    struct rig *r = rig_new("");
    struct aud_voice *v = voice(r, 44100, 2, AUD_S16), *w = voice(r, 44100, 1, AUD_S16);
    size_t len;
    uint8_t *b, a[400], c[200];

    for (unsigned i = 0; i < 200; i++)
        put_le16(a + 2 * i, i < 100 ? 1000 : (uint16_t)-20000);
    for (unsigned i = 0; i < 100; i++)
        put_le16(c + 2 * i, i < 50 ? 234 : (uint16_t)-30000);
    aud_write(v, a, 100);
    aud_write(w, c, 100);
    aud_close(v);
    aud_close(w);
    b = finish(r, &len);
    assert_int_equal(len, 44 + 400);
    assert_int_equal(at(b, 0), 1234);
    assert_int_equal(at(b, 99), 1234);
    assert_int_equal(at(b, 100), -32768);
    free(b);
}

static void who_says_nothing_is_not_waited_for(void **state)
{
    struct rig *r = rig_new("");
    struct aud_voice *v = voice(r, 44100, 2, AUD_S16), *silent = voice(r, 44100, 2, AUD_S16);
    uint8_t a[4000];
    size_t len;

    memset(a, 0x11, sizeof a);
    for (unsigned i = 0; i < 100; i++)
        aud_write(v, a, 1000);
    aud_write(silent, a, 1); /* it joins where the sum is by now */
    aud_close(silent);
    aud_close(v);
    free(finish(r, &len));
    assert_int_equal(len, 44 + 100000 * 4);
}

static void other_rates_and_formats_arrive_as_the_same_sound(void **state)
{
    static const struct {
        uint32_t rate;
        enum aud_sample s;
    } in[] = {{22050, AUD_S16}, {48000, AUD_S32}, {96000, AUD_F32}, {8000, AUD_U8},
              {44100, AUD_U16}, {11025, AUD_S8},  {192000, AUD_U32}};

    for (unsigned k = 0; k < ARRAY_LEN(in); k++) {
        struct rig *r = rig_new("");
        struct aud_voice *v = voice(r, in[k].rate, 1, in[k].s);
        uint8_t frame[4], *b;
        unsigned worst = 0;
        size_t len;

        for (unsigned i = 0; i < in[k].rate; i++) { /* one second: up from -0.5 to 0.5 */
            double x = (double)i / in[k].rate - 0.5;
            float f = (float)x;
            int32_t n = (int32_t)(x * 4294967296.0);

            switch (in[k].s) {
            case AUD_U8:
            case AUD_S8:
                frame[0] = (uint8_t)((n >> 25) ^ (in[k].s == AUD_U8 ? 0x80 : 0));
                break;
            case AUD_U16:
            case AUD_S16:
                put_le16(frame, (uint16_t)((n >> 17) ^ (in[k].s == AUD_U16 ? 0x8000 : 0)));
                break;
            case AUD_F32:
                memcpy(frame, &f, 4);
                break;
            default:
                put_le32(frame, (uint32_t)(n >> 1) ^ (in[k].s == AUD_U32 ? 0x80000000u : 0));
            }
            aud_write(v, frame, 1);
        }
        aud_close(v);
        b = finish(r, &len);
        assert_in_range(len, 44 + 44100 * 4 - 60, 44 + 44100 * 4 + 60);
        for (unsigned i = 100; i < 44000; i++) {
            int want = (int)((double)i / 44100 * 32768) - 16384, got = at(b, 2 * i);

            worst = (unsigned)max_i64(worst, got > want ? got - want : want - got);
            assert_int_equal(got, at(b, 2 * i + 1));
        }
        assert_in_range(worst, 0, aud_sample_bytes(in[k].s) == 1 ? 270 : 12);
        free(b);
    }
}

static void the_file_has_the_format_that_was_asked_for(void **state)
{
    static const struct {
        const char *opts;
        unsigned tag, channels, rate, bits;
    } want[] = {{"out.frequency=8000,out.channels=1,out.format=u8", 1, 1, 8000, 8},
                {"out.format=s8", 1, 2, 44100, 8},
                {"out.frequency=48000,out.format=s32", 1, 2, 48000, 32},
                {"out.format=f32,timer-period=5000,out.voices=1,in.voices=0,out.fixed-settings=on", 3, 2, 44100, 32}};

    for (unsigned i = 0; i < ARRAY_LEN(want); i++) {
        size_t len;
        uint8_t *b = finish(rig_new(want[i].opts), &len);

        assert_int_equal(len, 44);
        assert_int_equal(get_le16(b + 20), want[i].tag);
        assert_int_equal(get_le16(b + 22), want[i].channels);
        assert_int_equal(get_le32(b + 24), want[i].rate);
        assert_int_equal(get_le16(b + 34), want[i].bits);
        free(b);
    }
}

static void without_a_back_end_a_voice_is_silent(void **state)
{
    struct rig *r = rig_new(NULL);
    struct aud_voice *v = voice(r, 8000, 2, AUD_S16), *in = aud_open(NULL, r->root, AUD_IN, NULL);
    struct aud_fmt f = {8000, 1, AUD_U8};
    uint8_t buf[64] = {1, 2, 3};
    size_t len;

    aud_write(v, buf, 16);
    aud_start(in, &f);
    aud_read(in, buf, 64);
    assert_int_equal(buf[0], 0x80);
    assert_int_equal(buf[63], 0x80);
    assert_non_null(aud_find(r->set, "none"));
    free(finish(r, &len));
    aud_close(v); /* a device may go after the sound */
    aud_close(in);
}

static void bad_options_are_refused_by_name(void **state)
{
    static const char *const bad[][2] = {{"jack,id=a", "'jack' is not built"},
                                         {"nosuch,id=a", "unknown audio driver 'nosuch'"},
                                         {"none", "id= is missing"},
                                         {"none,id=w", "already"},
                                         {"none,id=a,path=x", "'path'"},
                                         {"none,id=a,out.nosuch=x", "'out.nosuch'"},
                                         {"none,id=a,out.frequency=1", "out.frequency=1 is out of range"},
                                         {"none,id=a,out.channels=9", "out.channels=9 is out of range"},
                                         {"none,id=a,out.format=s17", "out.format=s17"},
                                         {"wav,id=a,path=/nosuch/x", "cannot create '/nosuch/x'"}};
    struct rig *r = rig_new("");
    size_t len;

    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct err *e = NULL;

        assert_null(make(r, bad[i][0], &e));
        if (!strstr(e->msg, bad[i][1]))
            fail_msg("%s: %s", bad[i][0], e->msg);
        err_free(e);
    }
    free(finish(r, &len));
}

static void the_pace_loses_no_frame_in_an_hour(void **state)
{
    struct aud_pace p;
    int64_t t = 123456789, end = t + 3600 * NS_PER_SEC;
    uint64_t all = 0;

    aud_pace_start(&p, t);
    while (t < end) {
        uint32_t n = aud_pace_due(&p, 44100, t);

        all += n;
        p.done += n;
        assert_true(aud_pace_when(&p, 44100, 1) > t);
        assert_true(aud_pace_when(&p, 44100, 1) <= t + NS_PER_SEC / 44100 + 1);
        t += 7777777;
    }
    t = end;
    all += aud_pace_due(&p, 44100, t);
    assert_int_equal(all, 3600 * 44100);
}

static void who_comes_late_is_let_off(void **state)
{
    static const int64_t late[] = {NS_PER_SEC, 3 * NS_PER_SEC, 100000 * NS_PER_SEC, INT64_MAX / 8};

    for (unsigned i = 0; i < ARRAY_LEN(late); i++) {
        struct aud_pace p;

        aud_pace_start(&p, 0);
        assert_in_range(aud_pace_due(&p, 48000, late[i]), 48000 / AUD_LATE - 1, 48000 / AUD_LATE + 1);
        assert_true(aud_pace_when(&p, 48000, 48000) <= late[i] + NS_PER_SEC);
    }
}

static void attenuation_is_in_decibels(void **state)
{
    assert_int_equal(aud_attenuate(0, 150), 65536);
    assert_in_range(aud_attenuate(20, 100), 6550, 6558);  /* 20 dB: a tenth */
    assert_in_range(aud_attenuate(4, 150), 32840, 32855); /* 6 dB: 0.5012 */
    assert_int_equal(aud_attenuate(1000, 150), 0);
}

/* A driver that records a ramp. */
static int listening;
static uint16_t ramp;
static void ramp_listen(struct aud_dev *d, bool on)
{
    listening += on ? 1 : -1;
}
static void ramp_record(struct aud_dev *d, void *frames, size_t nr)
{
    uint8_t *p = frames;

    for (size_t i = 0; i < nr; i++, p += 4) {
        put_le16(p, ramp);
        put_le16(p + 2, (uint16_t)-ramp);
        ramp++;
    }
}
static const struct aud_driver ramp_driver = {.name = "test-ramp", .listen = ramp_listen, .record = ramp_record};
AUD_REGISTER(ramp_driver)

static void what_is_recorded_reaches_every_voice_at_its_rate(void **state)
{
    struct rig *r = rig_new(NULL);
    struct aud_dev *d = make(r, "test-ramp,id=r", NULL);
    struct aud_voice *v = aud_open(d, r->root, AUD_IN, NULL), *w = aud_open(d, r->root, AUD_IN, NULL);
    struct aud_fmt same = {44100, 2, AUD_S16}, half = {22050, 1, AUD_S32};
    uint8_t a[4000], b[2000];
    size_t len;

    ramp = 0;
    aud_read(v, a, 100);
    assert_int_equal(listening, 0); /* it has not started */
    aud_start(v, &same);
    aud_start(w, &half);
    assert_int_equal(listening, 1);
    for (unsigned k = 0; k < 30; k++) {
        aud_read(v, a, 1000);
        aud_read(w, b, 500);
        for (unsigned i = k ? 0 : 4; i < 1000; i++) { /* two frames late */
            assert_int_equal(get_le16(a + i * 4), (uint16_t)(k * 1000 + i - 2));
            assert_int_equal(get_le16(a + i * 4 + 2), (uint16_t) - (k * 1000 + i - 2));
        }
        for (unsigned i = k ? 0 : 2; i < 500; i++)
            assert_int_equal(get_le32(b + i * 4) >> 16, k * 1000 + 2 * i - 2);
    }
    assert_in_range(ramp, 30000, 30002);
    aud_stop(v);
    assert_int_equal(listening, 1);
    aud_close(w);
    assert_int_equal(listening, 0);
    aud_close(v);
    free(finish(r, &len));
}

static void the_slowest_voice_records_from_the_fastest_driver(void **state)
{
    struct rig *r = rig_new(NULL);
    struct aud_dev *d = make(r, "test-ramp,id=r,out.frequency=384000", NULL);
    struct aud_voice *v = aud_open(d, r->root, AUD_IN, NULL), *w = aud_open(d, r->root, AUD_IN, NULL);
    struct aud_fmt slow = {1, 1, AUD_S16}, fast = {1000000, 16, AUD_S32};
    static uint8_t buf[64 * 2000];
    size_t len;

    ramp = 0;
    aud_start(v, &slow); /* 1000 */
    aud_read(v, buf, 1000);
    for (unsigned i = 2; i < 1000; i++)
        assert_int_equal((uint16_t)(get_le16(buf + 2 * i) - get_le16(buf + 2 * i - 2)), 384);
    aud_start(w, &fast);
    aud_read(w, buf, 2000);
    aud_read(v, buf, 1000);
    aud_read(w, buf, 2000); /* far behind by now */
    aud_close(v);
    aud_close(w);
    free(finish(r, &len));
}

UNIT_MAIN(cmocka_unit_test(what_is_played_is_in_the_file_sample_by_sample),
          cmocka_unit_test(two_voices_are_added_and_loud_ones_are_cut),
          cmocka_unit_test(who_says_nothing_is_not_waited_for),
          cmocka_unit_test(other_rates_and_formats_arrive_as_the_same_sound),
          cmocka_unit_test(the_file_has_the_format_that_was_asked_for),
          cmocka_unit_test(without_a_back_end_a_voice_is_silent), cmocka_unit_test(bad_options_are_refused_by_name),
          cmocka_unit_test(the_pace_loses_no_frame_in_an_hour), cmocka_unit_test(who_comes_late_is_let_off),
          cmocka_unit_test(attenuation_is_in_decibels),
          cmocka_unit_test(what_is_recorded_reaches_every_voice_at_its_rate),
          cmocka_unit_test(the_slowest_voice_records_from_the_fastest_driver))
