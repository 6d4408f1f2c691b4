/* "hda-output", "hda-duplex", "hda-micro": codecs on a High Definition Audio link.
 *
 * Intel High Definition Audio Specification 1.0a, chapter 7. One function group with a converter and a pin for output
 * and, but for hda-output, the same for input: 2 DAC -> 3 pin (line out or speaker)      5 pin (line in or microphone)
 * -> 4 ADC Two channels, 16 to 32 bits, 16 to 96 kHz. The converters have amplifiers of 1 dB steps with mute, unless
 * mixer=off. Left out: jack detection (nothing is ever unplugged, so no unsolicited response is sent), power states
 * beyond keeping them, gain of what is recorded. */
#include "base/bytes.h"
#include "hw/audio/hda.h"

enum { AFG = 1, DAC = 2, OUT_PIN = 3, ADC = 4, IN_PIN = 5, NR_NODES = 6 };
/* Parameters (7.3.4). */
enum {
    PAR_VENDOR = 0x00,
    PAR_REVISION = 0x02,
    PAR_SUB_NODES = 0x04,
    PAR_GROUP_TYPE = 0x05,
    PAR_GROUP_CAPS = 0x08,
    PAR_WIDGET_CAPS = 0x09,
    PAR_PCM = 0x0a,
    PAR_STREAM = 0x0b,
    PAR_PIN_CAPS = 0x0c,
    PAR_IN_AMP = 0x0d,
    PAR_CONNECTIONS = 0x0e,
    PAR_POWER_STATES = 0x0f,
    PAR_OUT_AMP = 0x12
};
/* Verbs (7.3.3): four bits with 16 of payload, or twelve with 8. Bit 11 of the long ones: get. */
enum {
    VERB_SET_FORMAT = 0x2,
    VERB_SET_AMP = 0x3,
    VERB_GET_FORMAT = 0xa,
    VERB_GET_AMP = 0xb,
    VERB_PARAMETER = 0xf00,
    VERB_CONNECTION = 0xf02,
    VERB_POWER = 0xf05,
    VERB_STREAM = 0xf06,
    VERB_PIN_CONTROL = 0xf07,
    VERB_UNSOLICITED = 0xf08,
    VERB_PIN_SENSE = 0xf09,
    VERB_EAPD = 0xf0c,
    VERB_CONFIG = 0xf1c,
    VERB_SUBSYSTEM = 0xf20,
    VERB_SET_POWER = 0x705,
    VERB_SET_STREAM = 0x706,
    VERB_SET_PIN_CONTROL = 0x707,
    VERB_SET_UNSOLICITED = 0x708,
    VERB_SET_EAPD = 0x70c,
    VERB_SET_CONFIG = 0x71c,
    VERB_RESET = 0x7ff
};
enum { CAP_STEREO = 1, CAP_IN_AMP = 2, CAP_OUT_AMP = 4, CAP_AMP = 8, CAP_FORMAT = 0x10, CAP_CONNECTIONS = 0x100 };
enum { TYPE_OUTPUT = 0 << 20, TYPE_INPUT = 1 << 20, TYPE_PIN = 4 << 20 };
enum { PIN_IN = 0x20, PIN_OUT = 0x40 };
enum { AMP_STEPS = 64, AMP_MUTE = 0x80, DEFAULT_FORMAT = 0x0011 /* 48 kHz, 16 bits, two channels */ };
enum { AMP_CAPS = 1u << 31 | 3 << 16 | AMP_STEPS << 8 | AMP_STEPS };    /* mute, 1 dB, full is 0 dB */
enum { PCM_CAPS = 0xf << 17 | 0x1fc, STREAM_PCM = 1, POWER_D0_D3 = 9 }; /* 16, 20, 24, 32 bits; 16 to 96 kHz */

/* Every verb a widget keeps the value of. */
struct node {
    uint8_t amp[2]; /* left, right: gain and mute */
    uint8_t power, stream, pin_control, unsolicited, eapd;
    uint16_t format;
    uint32_t config;
};
struct hda_codec {
    struct dev dev;             /* first */
    uint32_t cad;               /* property: address; UINT32_MAX = first free */
    bool mixer;                 /* property: amplifiers */
    bool use_timer;             /* property; no choice here */
    uint32_t debug;             /* property, without effect */
    struct aud_dev *audiodev;   /* property */
    struct aud_voice *out, *in; /* owned; in: NULL without input */
    struct node node[NR_NODES];
};
struct hda_codec_class {
    struct dev_class;
    uint32_t device;                /* in the vendor id, without the digit for mixers */
    uint32_t out_config, in_config; /* configuration defaults (7.3.3.31); in: 0 = there is none */
};

static const struct hda_codec_class *codec_class(const struct hda_codec *c)
{
    return (const struct hda_codec_class *)c->dev.obj.cls;
}

static unsigned nr_nodes(const struct hda_codec *c)
{
    return codec_class(c)->in_config ? NR_NODES : ADC;
}

/* ---- sound ---- */

struct aud_fmt hda_format(uint16_t format)
{
    static const enum aud_sample bits[8] = {AUD_U8, AUD_S16, AUD_S32, AUD_S32, AUD_S32, AUD_S32, AUD_S32, AUD_S32};
    uint32_t base = format & 0x4000 ? 44100 : 48000;

    return (struct aud_fmt){base * ((format >> 11 & 7) + 1) / ((format >> 8 & 7) + 1), (uint8_t)((format & 0xf) + 1),
                            bits[format >> 4 & 7]};
}

static void set_gain(struct hda_codec *c)
{
    const struct node *n = &c->node[DAC];
    uint32_t side[2];

    for (unsigned i = 0; i < 2; i++) {
        unsigned gain = n->amp[i] & 0x7f;

        side[i] = gain >= AMP_STEPS ? 65536 : aud_attenuate(AMP_STEPS - gain, 100);
        if ((n->amp[i] & AMP_MUTE) || !(c->node[OUT_PIN].pin_control & PIN_OUT))
            side[i] = 0;
    }
    aud_gain(c->out, side[0], side[1]);
}

void hda_bus_play(struct hda_bus *b, unsigned stream, uint16_t format, const uint8_t *buf, unsigned frames)
{
    struct aud_fmt f = hda_format(format);

    for (unsigned i = 0; i < HDA_CODECS; i++) {
        struct hda_codec *c = b->codec[i];
        unsigned first;

        if (!c || !stream || c->node[DAC].stream >> 4 != stream)
            continue;
        first = c->node[DAC].stream & 0xf; /* its channels are this and the next */
        if (first + 1 >= f.channels)
            first = 0;
        aud_start(c->out, &f);
        aud_write(c->out, buf + first * aud_sample_bytes(f.sample), frames);
    }
}

void hda_bus_record(struct hda_bus *b, unsigned stream, uint16_t format, uint8_t *buf, unsigned frames)
{
    struct aud_fmt f = hda_format(format);

    memset(buf, 0, frames * aud_frame_bytes(&f));
    for (unsigned i = 0; i < HDA_CODECS; i++) {
        struct hda_codec *c = b->codec[i];

        if (!c || !c->in || !stream || c->node[ADC].stream >> 4 != stream)
            continue;
        aud_start(c->in, &f);
        aud_read(c->in, buf, frames);
        return;
    }
}

static void stop(struct hda_codec *c, enum aud_dir dir)
{
    if (dir == AUD_OUT)
        aud_stop(c->out);
    else if (c->in)
        aud_stop(c->in);
}

void hda_bus_stop(struct hda_bus *b, unsigned stream, enum aud_dir dir)
{
    for (unsigned i = 0; i < HDA_CODECS; i++)
        if (b->codec[i] && b->codec[i]->node[dir == AUD_OUT ? DAC : ADC].stream >> 4 == stream)
            stop(b->codec[i], dir);
}

/* ---- verbs ---- */

static uint32_t vendor_id(const struct hda_codec *c)
{
    return 0x1af40000 | codec_class(c)->device | (c->mixer ? 1 : 2);
}

static uint32_t widget_caps(const struct hda_codec *c, unsigned nid)
{
    uint32_t amp = c->mixer ? CAP_AMP : 0;

    switch (nid) {
    case DAC:
        return TYPE_OUTPUT | CAP_STEREO | CAP_FORMAT | amp | (amp ? CAP_OUT_AMP : 0);
    case ADC:
        return TYPE_INPUT | CAP_STEREO | CAP_FORMAT | CAP_CONNECTIONS | amp | (amp ? CAP_IN_AMP : 0);
    case OUT_PIN:
        return TYPE_PIN | CAP_STEREO | CAP_CONNECTIONS;
    default:
        return TYPE_PIN | CAP_STEREO;
    }
}

static uint32_t root_parameter(const struct hda_codec *c, unsigned par)
{
    switch (par) {
    case PAR_VENDOR:
        return vendor_id(c);
    case PAR_REVISION:
        return 0x100101; /* 1.0 */
    case PAR_SUB_NODES:
        return AFG << 16 | 1;
    default:
        return 0;
    }
}

static uint32_t group_parameter(const struct hda_codec *c, unsigned par)
{
    switch (par) {
    case PAR_SUB_NODES:
        return DAC << 16 | (nr_nodes(c) - DAC);
    case PAR_GROUP_TYPE:
        return 1; /* audio */
    case PAR_GROUP_CAPS:
        return 0x0808; /* delays in frames */
    case PAR_PCM:
        return PCM_CAPS;
    case PAR_STREAM:
        return STREAM_PCM;
    case PAR_POWER_STATES:
        return POWER_D0_D3;
    default:
        return 0;
    }
}

static uint32_t widget_parameter(const struct hda_codec *c, unsigned nid, unsigned par)
{
    bool converter = nid == DAC || nid == ADC;

    switch (par) {
    case PAR_WIDGET_CAPS:
        return widget_caps(c, nid);
    case PAR_PCM:
        return converter ? PCM_CAPS : 0;
    case PAR_STREAM:
        return converter ? STREAM_PCM : 0;
    case PAR_PIN_CAPS:
        return nid == OUT_PIN ? 0x10 : nid == IN_PIN ? 0x20 : 0;
    case PAR_CONNECTIONS:
        return nid == OUT_PIN || nid == ADC;
    case PAR_OUT_AMP:
        return nid == DAC && c->mixer ? (uint32_t)AMP_CAPS : 0;
    case PAR_IN_AMP:
        return nid == ADC && c->mixer ? (uint32_t)AMP_CAPS : 0;
    default:
        return 0;
    }
}

static uint32_t get_long(struct hda_codec *c, unsigned nid, unsigned verb, uint8_t v)
{
    const struct node *n = &c->node[nid];

    switch (verb) {
    case VERB_PARAMETER:
        return nid == 0 ? root_parameter(c, v) : nid == AFG ? group_parameter(c, v) : widget_parameter(c, nid, v);
    case VERB_CONNECTION:
        return v ? 0 : nid == OUT_PIN ? DAC : nid == ADC ? IN_PIN : 0;
    case VERB_POWER:
        return (uint32_t)n->power << 4 | n->power;
    case VERB_STREAM:
        return n->stream;
    case VERB_PIN_CONTROL:
        return n->pin_control;
    case VERB_UNSOLICITED:
        return n->unsolicited;
    case VERB_PIN_SENSE:
        return nid == OUT_PIN || nid == IN_PIN ? 1u << 31 : 0; /* plugged in */
    case VERB_EAPD:
        return n->eapd;
    case VERB_CONFIG:
        return n->config;
    case VERB_SUBSYSTEM:
        return nid == AFG ? vendor_id(c) : 0;
    default:
        return 0;
    }
}

static void node_reset(struct hda_codec *c, unsigned nid)
{
    const struct hda_codec_class *k = codec_class(c);

    c->node[nid] = (struct node){.amp = {AMP_STEPS, AMP_STEPS},
                                 .format = DEFAULT_FORMAT,
                                 .pin_control = nid == OUT_PIN  ? PIN_OUT
                                                : nid == IN_PIN ? PIN_IN
                                                                : 0,
                                 .config = nid == OUT_PIN  ? k->out_config
                                           : nid == IN_PIN ? k->in_config
                                                           : 0};
}

static void codec_reset(struct hda_codec *c)
{
    for (unsigned i = 0; i < NR_NODES; i++)
        node_reset(c, i);
    stop(c, AUD_OUT);
    stop(c, AUD_IN);
    set_gain(c);
}

/* The stream a converter follows changes: what it played so far is over. */
static void set_stream(struct hda_codec *c, unsigned nid, uint8_t v)
{
    if (c->node[nid].stream != v && (nid == DAC || nid == ADC))
        stop(c, nid == DAC ? AUD_OUT : AUD_IN);
    c->node[nid].stream = v;
}

static void set_long(struct hda_codec *c, unsigned nid, unsigned verb, uint8_t v)
{
    struct node *n = &c->node[nid];

    switch (verb) {
    case VERB_SET_POWER:
        n->power = v & 3;
        break;
    case VERB_SET_STREAM:
        set_stream(c, nid, v);
        break;
    case VERB_SET_PIN_CONTROL:
        n->pin_control = v;
        set_gain(c);
        break;
    case VERB_SET_UNSOLICITED:
        n->unsolicited = v & 0xbf;
        break;
    case VERB_SET_EAPD:
        n->eapd = v & 7;
        break;
    case VERB_SET_CONFIG:
    case VERB_SET_CONFIG + 1:
    case VERB_SET_CONFIG + 2:
    case VERB_SET_CONFIG + 3:
        n->config &= ~(0xffu << (verb - VERB_SET_CONFIG) * 8);
        n->config |= (uint32_t)v << (verb - VERB_SET_CONFIG) * 8;
        break;
    case VERB_RESET:
        if (nid == AFG)
            codec_reset(c);
        break;
    default: /* what this codec does not have */
        break;
    }
}

static bool has_amp(const struct hda_codec *c, unsigned nid, bool output)
{
    return c->mixer && nid == (output ? DAC : ADC);
}

/* Payload: 15 output, 14 input, 13 left, 12 right, 11:8 index, 7 mute, 6:0 gain. */
static void set_amp(struct hda_codec *c, unsigned nid, uint16_t v)
{
    uint8_t amp = (uint8_t)((v & AMP_MUTE) | min_u64(v & 0x7f, AMP_STEPS));

    if (!((v & 0x8000) && has_amp(c, nid, true)) && !((v & 0x4000) && has_amp(c, nid, false)))
        return;
    if (v & 0x2000)
        c->node[nid].amp[0] = amp;
    if (v & 0x1000)
        c->node[nid].amp[1] = amp;
    set_gain(c);
}

uint32_t hda_command(struct hda_codec *c, uint32_t command)
{
    unsigned nid = command >> 20 & 0x7f, verb = command >> 8 & 0xfff;
    uint16_t payload = (uint16_t)command;

    if (nid >= nr_nodes(c))
        return 0;
    switch (verb >> 8) {
    case VERB_SET_FORMAT:
        c->node[nid].format = payload;
        return 0;
    case VERB_GET_FORMAT:
        return nid == DAC || nid == ADC ? c->node[nid].format : 0;
    case VERB_SET_AMP:
        set_amp(c, nid, payload);
        return 0;
    case VERB_GET_AMP:
        return has_amp(c, nid, payload & 0x8000) ? c->node[nid].amp[payload & 0x2000 ? 0 : 1] : 0;
    case 0x7:
        set_long(c, nid, verb, (uint8_t)payload);
        return 0;
    case 0xf:
        return get_long(c, nid, verb, (uint8_t)payload);
    default:
        return 0;
    }
}

/* ---- the bus ---- */

static bool plug(struct bus *bus, struct dev *d, struct err **errp)
{
    struct hda_bus *b = container_of(bus, struct hda_bus, bus);
    struct hda_codec *c = container_of(d, struct hda_codec, dev);
    uint32_t cad = c->cad;

    if (cad == UINT32_MAX)
        for (cad = 0; cad < HDA_CODECS && b->codec[cad]; cad++)
            ;
    if (cad >= HDA_CODECS)
        return err_set(errp,
                       c->cad == UINT32_MAX ? "%s: no address is left on this link" : "%s: cad= goes from 0 to 14",
                       d->obj.cls->name);
    if (b->codec[cad])
        return err_set(errp, "%s: address %" PRIu32 " of this link is taken", d->obj.cls->name, cad);
    c->cad = cad;
    return true;
}

static bool plugged(struct bus *bus, struct dev *d, struct err **errp)
{
    struct hda_bus *b = container_of(bus, struct hda_bus, bus);
    struct hda_codec *c = container_of(d, struct hda_codec, dev);

    b->codec[c->cad] = c;
    b->plugged(b->opaque, c->cad);
    return true;
}

static void unplug(struct bus *bus, struct dev *d)
{
    struct hda_bus *b = container_of(bus, struct hda_bus, bus);
    struct hda_codec *c = container_of(d, struct hda_codec, dev);

    if (c->cad < HDA_CODECS && b->codec[c->cad] == c)
        b->codec[c->cad] = NULL;
}

static const struct bus_class hda_bus_class = {
    .type = "HDA", .plug = plug, .plugged = plugged, .unplug = unplug, .max_devs = HDA_CODECS};

void hda_bus_init(struct hda_bus *b, struct dev *owner)
{
    bus_init(&b->bus, &hda_bus_class, owner, NULL);
}

void hda_bus_fini(struct hda_bus *b)
{
    bus_fini(&b->bus);
}

void hda_bus_reset(struct hda_bus *b)
{
    for (unsigned i = 0; i < HDA_CODECS; i++)
        if (b->codec[i])
            codec_reset(b->codec[i]);
}

/* ---- life ---- */

static bool codec_realize(struct dev *d, struct err **errp)
{
    struct hda_codec *c = container_of(d, struct hda_codec, dev);

    c->out = aud_open(c->audiodev, dev_machine(d), AUD_OUT, errp);
    if (c->out && codec_class(c)->in_config)
        c->in = aud_open(c->audiodev, dev_machine(d), AUD_IN, errp);
    if (!c->out || (codec_class(c)->in_config && !c->in)) {
        aud_close(c->out);
        return false;
    }
    codec_reset(c);
    return true;
}

static void codec_unrealize(struct dev *d)
{
    struct hda_codec *c = container_of(d, struct hda_codec, dev);

    aud_close(c->out);
    aud_close(c->in);
    c->out = c->in = NULL;
}

static void codec_dev_reset(struct dev *d)
{
    codec_reset(container_of(d, struct hda_codec, dev));
}

static const struct state_field node_fields[] = {
    STATE_ARRAY(struct node, amp),      STATE_U8(struct node, power),       STATE_U8(struct node, stream),
    STATE_U8(struct node, pin_control), STATE_U8(struct node, unsolicited), STATE_U8(struct node, eapd),
    STATE_U16(struct node, format),     STATE_U32(struct node, config),     STATE_END};
static const struct state_desc node_state = {.name = "hda-node", .version = 1, .fields = node_fields};
static const struct state_field codec_fields[] = {STATE_STRUCTS(struct hda_codec, node, node_state), STATE_END};

static bool codec_loaded(void *obj, struct err **errp)
{
    struct hda_codec *c = obj;

    stop(c, AUD_OUT); /* they start again with the next frame */
    stop(c, AUD_IN);
    set_gain(c);
    return true;
}
static const struct state_desc codec_state = {
    .name = "hda-codec", .version = 1, .fields = codec_fields, .post_load = codec_loaded};
static const struct prop codec_props[] = {
    AUD_PROP(struct hda_codec, audiodev),
    PROP("cad", u32, struct hda_codec, cad, .dflt = "4294967295", .help = "address on the link, 0 to 14"),
    PROP("mixer", bool, struct hda_codec, mixer, .dflt = "true", .help = "amplifiers the guest can set"),
    PROP("debug", u32, struct hda_codec, debug),
    PROP("use-timer", bool, struct hda_codec, use_timer, .dflt = "true"),
    PROP_END};
#define CODEC_CLASS(what, id, text, dev_, out_, in_)                                                                   \
    static const struct hda_codec_class what##_class = {.name = id,                                                    \
                                                        .parent = "hda-codec",                                         \
                                                        .desc = text,                                                  \
                                                        .size = sizeof(struct hda_codec),                              \
                                                        .props = codec_props,                                          \
                                                        .bus_type = "HDA",                                             \
                                                        .category = DEV_CAT_SOUND,                                     \
                                                        .realize = codec_realize,                                      \
                                                        .unrealize = codec_unrealize,                                  \
                                                        .reset = codec_dev_reset,                                      \
                                                        .state_desc = &codec_state,                                    \
                                                        .device = dev_,                                                \
                                                        .out_config = out_,                                            \
                                                        .in_config = in_};                                             \
    OBJ_REGISTER_AS(what##_class, hda)
static void CONSTRUCTOR register_family(void)
{
    obj_register_family("hda-codec", "device");
}
/* Configuration defaults: rear jacks, line out green, line in blue; or built in, speaker and microphone. */
CODEC_CLASS(output, "hda-output", "HDA Audio Codec, output-only (line-out)", 0x10, 0x01014110, 0)
CODEC_CLASS(duplex, "hda-duplex", "HDA Audio Codec, duplex (line-out, line-in)", 0x20, 0x01014110, 0x01813120)
CODEC_CLASS(micro, "hda-micro", "HDA Audio Codec, duplex (speaker, microphone)", 0x30, 0x90170110, 0x90a70120)
