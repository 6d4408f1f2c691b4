/* "AC97": the AC '97 controller of the 82801AA (ICH) with one codec that converts at any rate up to 48 kHz.
 *
 * Intel 82801AA data sheet, chapter 13 (AC '97 audio controller registers) and Audio Codec '97 2.3. Each of the three
 * bus masters works off a ring of 32 buffers in guest memory, paced by guest time; where one stands is worked out to
 * the sample whenever a register is read. Volumes of master and PCM out are applied. Left out: modem, S/PDIF, wake-up
 * by GPIO, the FIFO (nothing overruns); of a buffer of odd length the last sample of a stereo pair is dropped. */
#include "aud/aud.h"
#include "base/bytes.h"
#include "hw/pci/pci.h"

enum {
    NAM_SIZE = 0x100,
    NABM_SIZE = 0x40,
    NR_BM = 3,
    NR_BD = 32,
    CHUNK = 4096,
    TICKS_PER_SEC = 100,
    MIN_TICK = 200000
};
/* Native audio bus master registers: blocks of 16 bytes, then the global ones. */
enum { BDBAR = 0x0, CIV = 0x4, LVI = 0x5, SR = 0x6, PICB = 0x8, PIV = 0xa, CR = 0xb };
enum { GLOB_CNT = 0x2c, GLOB_STA = 0x30, CAS = 0x34 };
enum { SR_DCH = 1, SR_CELV = 2, SR_LVBCI = 4, SR_BCIS = 8, SR_FIFOE = 0x10, SR_W1C = SR_LVBCI | SR_BCIS | SR_FIFOE };
enum { CR_RPBM = 1, CR_RR = 2, CR_LVBIE = 4, CR_FEIE = 8, CR_IOCE = 0x10, CR_ENABLES = CR_LVBIE | CR_FEIE | CR_IOCE };
enum { GC_GIE = 1, GC_COLD = 2, GC_WARM = 4, GC_RW = 0x3f };
enum { GS_S0CR = 0x100, GS_W1C = 0x8c01 };
#define BD_IOC 0x80000000u
/* Codec registers. */
enum {
    AC_RESET = 0x00,
    AC_MASTER = 0x02,
    AC_MIC = 0x0e,
    AC_LINE = 0x10,
    AC_CD = 0x12,
    AC_PCM = 0x18,
    AC_REC_SELECT = 0x1a,
    AC_REC_GAIN = 0x1c,
    AC_POWER = 0x26,
    AC_EXT_ID = 0x28,
    AC_EXT_CTL = 0x2a,
    AC_FRONT_RATE = 0x2c,
    AC_LR_RATE = 0x32,
    AC_MIC_RATE = 0x34,
    AC_VENDOR1 = 0x7c,
    AC_VENDOR2 = 0x7e
};
enum {
    VOL_MUTE = 0x8000,
    EXT_VRA = 1,
    EXT_VRM = 8,
    EXT_REV_2_3 = 0x800,
    POWER_READY = 0xf,
    MIN_RATE = 8000,
    MAX_RATE = 48000
};

enum { BM_PI, BM_PO, BM_MC };
static const struct {
    enum aud_dir dir;
    uint8_t rate_reg, vra, channels;
    unsigned status; /* bit of the global status */
} kinds[NR_BM] = {{AUD_IN, AC_LR_RATE, EXT_VRA, 2, 1 << 5},
                  {AUD_OUT, AC_FRONT_RATE, EXT_VRA, 2, 1 << 6},
                  {AUD_IN, AC_MIC_RATE, EXT_VRM, 1, 1 << 7}};

/* One bus master. It moves samples while RPBM is set and DCH is not. */
struct bm {
    uint32_t bdbar, addr; /* addr: where the next sample of the current buffer lies */
    uint8_t civ, lvi, piv, cr, sr;
    uint16_t picb; /* samples left of it */
    bool ioc;      /* the current buffer's */
    struct aud_pace pace;
    struct aud_voice *voice; /* owned */
};
struct ac97 {
    struct pci_dev pci; /* first */
    struct mem_region nam, nabm;
    struct clk_timer timer;
    struct machine_hook stop;
    struct aud_dev *audiodev; /* property */
    struct bm bm[NR_BM];
    uint32_t glob_cnt, glob_sta;
    uint8_t cas;
    uint16_t codec[0x40]; /* by number / 2 */
};

/* ---- the codec ---- */

static uint32_t rate_of(const struct ac97 *s, unsigned n)
{
    return s->codec[AC_EXT_CTL / 2] & kinds[n].vra ? s->codec[kinds[n].rate_reg / 2] : MAX_RATE;
}

/* Factor of PCM out by its five bits: 0 is 12 dB up, 8 as it is. */
static uint64_t pcm_gain(unsigned n)
{
    return n >= 8 ? aud_attenuate(n - 8, 150) : (UINT64_C(1) << 32) / aud_attenuate(8 - n, 150);
}

static void set_gain(struct ac97 *s)
{
    uint16_t master = s->codec[AC_MASTER / 2], pcm = s->codec[AC_PCM / 2];
    uint32_t side[2];

    for (unsigned i = 0; i < 2; i++) {
        unsigned shift = i ? 0 : 8;

        side[i] = (uint32_t)(aud_attenuate(master >> shift & 0x1f, 150) * pcm_gain(pcm >> shift & 0x1f) >> 16);
        if ((master | pcm) & VOL_MUTE)
            side[i] = 0;
    }
    aud_gain(s->bm[BM_PO].voice, side[0], side[1]);
}

static void codec_reset(struct ac97 *s)
{
    memset(s->codec, 0, sizeof s->codec);
    s->codec[AC_MASTER / 2] = VOL_MUTE;
    s->codec[AC_MIC / 2] = 0x8008;
    s->codec[AC_LINE / 2] = s->codec[AC_CD / 2] = s->codec[AC_PCM / 2] = 0x8808;
    s->codec[AC_REC_GAIN / 2] = VOL_MUTE;
    s->codec[AC_POWER / 2] = POWER_READY;
    s->codec[AC_EXT_ID / 2] = EXT_REV_2_3 | EXT_VRA | EXT_VRM;
    s->codec[AC_FRONT_RATE / 2] = s->codec[AC_LR_RATE / 2] = s->codec[AC_MIC_RATE / 2] = MAX_RATE;
    s->codec[AC_VENDOR1 / 2] = 0x8384; /* SigmaTel STAC9700: known everywhere */
    s->codec[AC_VENDOR2 / 2] = 0x7600;
    set_gain(s);
}

/* Five bits a side; a sixth bit that is set means more than there is (5.7.2). */
static uint16_t volume(uint16_t v, uint16_t mask)
{
    if (v & 0x2000)
        v |= 0x1f00;
    if (v & 0x20)
        v |= 0x1f;
    return v & mask;
}

static void run_all(struct ac97 *s);
static void restart(struct ac97 *s, unsigned n);

static void rate_write(struct ac97 *s, unsigned reg, uint16_t v)
{
    uint16_t vra = s->codec[AC_EXT_CTL / 2] & (reg == AC_MIC_RATE ? EXT_VRM : EXT_VRA);

    if (vra)
        s->codec[reg / 2] = v < MIN_RATE ? MIN_RATE : v > MAX_RATE ? MAX_RATE : v;
}

static void codec_write(struct ac97 *s, unsigned reg, uint16_t v)
{
    uint16_t *r = &s->codec[reg / 2];

    switch (reg) {
    case AC_RESET:
        codec_reset(s);
        break;
    case AC_MASTER:
    case AC_LINE:
    case AC_CD:
    case AC_PCM:
        *r = volume(v, 0x9f1f);
        set_gain(s);
        break;
    case AC_MIC:
        *r = volume(v, 0x805f);
        break;
    case AC_REC_SELECT:
        *r = v & 0x0707;
        break;
    case AC_REC_GAIN:
        *r = v & 0x8f0f;
        break;
    case AC_POWER:
        *r = (v & 0xff00) | POWER_READY;
        break;
    case AC_EXT_CTL:
        *r = v & (EXT_VRA | EXT_VRM);
        break;
    case AC_FRONT_RATE:
    case AC_LR_RATE:
    case AC_MIC_RATE:
        rate_write(s, reg, v);
        break;
    default:
        log_guest("AC97: write to codec register %#x", reg);
    }
}

static uint64_t nam_read(void *opaque, gpa_t off, unsigned size)
{
    struct ac97 *s = opaque;

    s->cas = 0;
    return off < 0x80 ? s->codec[off / 2] : 0xffff;
}

static void nam_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct ac97 *s = opaque;
    uint32_t rate[NR_BM];

    s->cas = 0;
    if (off >= 0x80)
        return;
    run_all(s); /* at the rate there was */
    for (unsigned n = 0; n < NR_BM; n++)
        rate[n] = rate_of(s, n);
    codec_write(s, (unsigned)off & ~1u, (uint16_t)val);
    for (unsigned n = 0; n < NR_BM; n++)
        if (rate_of(s, n) != rate[n])
            restart(s, n);
    run_all(s);
}
static const struct mem_ops nam_ops = {.read = nam_read, .write = nam_write, .impl_min = 2, .impl_max = 2};

/* ---- bus masters ---- */

static bool active(const struct bm *b)
{
    return (b->cr & CR_RPBM) && !(b->sr & SR_DCH);
}

static void update_irq(struct ac97 *s)
{
    bool any = false;

    for (unsigned n = 0; n < NR_BM; n++) {
        struct bm *b = &s->bm[n];
        bool on = ((b->sr & SR_LVBCI) && (b->cr & CR_LVBIE)) || ((b->sr & SR_BCIS) && (b->cr & CR_IOCE)) ||
                  ((b->sr & SR_FIFOE) && (b->cr & CR_FEIE));

        s->glob_sta = (s->glob_sta & ~kinds[n].status) | (on ? kinds[n].status : 0);
        any |= on;
    }
    pci_set_intx(&s->pci, any);
}

/* The voice as the bus master is. */
static void set_voice(struct ac97 *s, unsigned n)
{
    struct bm *b = &s->bm[n];
    struct aud_fmt f = {rate_of(s, n), kinds[n].channels, AUD_S16};

    if (active(b))
        aud_start(b->voice, &f);
    else
        aud_stop(b->voice);
}

/* Time starts anew: it runs from here, or at another rate. */
static void restart(struct ac97 *s, unsigned n)
{
    aud_pace_start(&s->bm[n].pace, clk_now(dev_vclk(&s->pci.dev)));
    set_voice(s, n);
}

/* The buffer after the current one (13.2.1: CIV takes the prefetched index). */
static void next_buffer(struct ac97 *s, struct bm *b)
{
    uint8_t bd[8] = {0};
    uint32_t ctl;

    b->civ = b->piv;
    b->piv = (b->piv + 1) % NR_BD;
    pci_dma_read(&s->pci, b->bdbar + b->civ * 8u, bd, sizeof bd);
    ctl = get_le32(bd + 4);
    b->addr = get_le32(bd) & ~1u;
    b->picb = (uint16_t)ctl;
    b->ioc = ctl & BD_IOC;
}

static void end_of_buffer(struct ac97 *s, unsigned n)
{
    struct bm *b = &s->bm[n];

    b->picb = 0;
    if (b->ioc)
        b->sr |= SR_BCIS;
    if (b->civ != b->lvi) {
        next_buffer(s, b);
        return;
    }
    b->sr |= SR_LVBCI | SR_CELV | SR_DCH;
    aud_stop(b->voice);
}

static void move(struct ac97 *s, unsigned n, uint32_t frames)
{
    struct bm *b = &s->bm[n];
    uint32_t size = kinds[n].channels * 2u;
    uint8_t buf[CHUNK];

    b->picb -= (uint16_t)(frames * kinds[n].channels);
    b->pace.done += frames;
    while (frames) {
        uint32_t part = (uint32_t)min_u64(frames, CHUNK / size);

        if (kinds[n].dir == AUD_OUT) {
            pci_dma_read(&s->pci, b->addr, buf, part * size);
            aud_write(b->voice, buf, part);
        } else {
            aud_read(b->voice, buf, part);
            pci_dma_write(&s->pci, b->addr, buf, part * size);
        }
        b->addr += part * size;
        frames -= part;
    }
}

/* Brings one up to now. Buffers without a sample cost no time; LVI comes after 32 of them at most. */
static void run(struct ac97 *s, unsigned n)
{
    struct bm *b = &s->bm[n];
    uint32_t due;

    if (!active(b))
        return;
    due = aud_pace_due(&b->pace, rate_of(s, n), clk_now(dev_vclk(&s->pci.dev)));
    for (;;) {
        uint32_t part = (uint32_t)min_u64(due, b->picb / kinds[n].channels);

        if (part)
            move(s, n, part);
        due -= part;
        if (b->picb >= kinds[n].channels)
            break;
        end_of_buffer(s, n);
        if (!active(b))
            break;
    }
}

static void run_all(struct ac97 *s)
{
    int64_t now = clk_now(dev_vclk(&s->pci.dev)), next = INT64_MAX;

    for (unsigned n = 0; n < NR_BM; n++) {
        struct bm *b = &s->bm[n];
        uint32_t rate = rate_of(s, n);

        run(s, n);
        if (active(b))
            next = min_i64(next, aud_pace_when(&b->pace, rate,
                                               (uint32_t)min_u64(b->picb / kinds[n].channels, rate / TICKS_PER_SEC)));
    }
    if (next == INT64_MAX)
        clk_timer_cancel(&s->timer);
    else
        clk_timer_set(&s->timer, max_i64(next, now + MIN_TICK));
    update_irq(s);
}

/* Also when the machine stops or starts: what was due by then is in memory and heard before it is saved. */
static void tick(void *opaque)
{
    run_all(opaque);
}

static void start(struct ac97 *s, unsigned n)
{
    struct bm *b = &s->bm[n];

    b->sr &= ~(SR_DCH | SR_CELV);
    restart(s, n);
}

static void bm_reset(struct bm *b)
{
    struct aud_voice *v = b->voice;

    aud_stop(v);
    *b = (struct bm){.cr = b->cr & CR_ENABLES, .sr = SR_DCH, .voice = v};
}

static void cr_write(struct ac97 *s, unsigned n, uint8_t v)
{
    struct bm *b = &s->bm[n];
    uint8_t old = b->cr;

    b->cr = v & (CR_RPBM | CR_ENABLES);
    if (v & CR_RR) {
        bm_reset(b);
    } else if (!(v & CR_RPBM)) {
        b->sr |= SR_DCH; /* a pause: the place in the buffer stays */
        aud_stop(b->voice);
    } else if (!(old & CR_RPBM)) {
        if (b->picb < kinds[n].channels)
            next_buffer(s, b);
        start(s, n);
    }
}

static void lvi_write(struct ac97 *s, unsigned n, uint8_t v)
{
    struct bm *b = &s->bm[n];

    b->lvi = v % NR_BD;
    if ((b->cr & CR_RPBM) && (b->sr & SR_CELV)) {
        next_buffer(s, b);
        start(s, n);
    }
}

/* ---- registers ---- */

static uint64_t nabm_read(void *opaque, gpa_t off, unsigned size)
{
    struct ac97 *s = opaque;
    uint8_t img[NABM_SIZE] = {0};

    run_all(s);
    for (unsigned n = 0; n < NR_BM; n++) {
        const struct bm *b = &s->bm[n];
        uint8_t *p = img + n * 16;

        put_le32(p + BDBAR, b->bdbar);
        p[CIV] = b->civ;
        p[LVI] = b->lvi;
        put_le16(p + SR, b->sr);
        put_le16(p + PICB, b->picb);
        p[PIV] = b->piv;
        p[CR] = b->cr;
    }
    put_le32(img + GLOB_CNT, s->glob_cnt);
    put_le32(img + GLOB_STA, s->glob_sta | GS_S0CR);
    if (off <= CAS && off + size > CAS) { /* who reads it free has it, until the codec was accessed */
        img[CAS] = s->cas;
        s->cas = 1;
    }
    return get_le(img + off, size);
}

static void cnt_write(struct ac97 *s, uint8_t v)
{
    if (v & ~s->glob_cnt & GC_COLD)
        codec_reset(s);
    s->glob_cnt = v & GC_RW & ~GC_WARM; /* a warm reset is over at once */
}

static void write_byte(struct ac97 *s, unsigned off, uint8_t v)
{
    unsigned n = off / 16;
    struct bm *b = &s->bm[n < NR_BM ? n : 0];

    if (off >= GLOB_CNT) {
        if (off == GLOB_CNT)
            cnt_write(s, v);
        else if (off - GLOB_STA < 4)
            s->glob_sta &= ~((uint32_t)v << (off - GLOB_STA) * 8 & GS_W1C);
        return;
    }
    switch (off % 16) {
    case BDBAR:
    case BDBAR + 1:
    case BDBAR + 2:
    case BDBAR + 3:
        b->bdbar = (b->bdbar & ~(0xffu << off % 16 * 8)) | ((uint32_t)v << off % 16 * 8);
        b->bdbar &= ~7u;
        break;
    case LVI:
        lvi_write(s, n, v);
        break;
    case SR:
        b->sr &= ~(v & SR_W1C);
        break;
    case CR:
        cr_write(s, n, v);
        break;
    default: /* read-only */
        break;
    }
}

static void nabm_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct ac97 *s = opaque;

    run_all(s);
    for (unsigned i = 0; i < size; i++)
        write_byte(s, (unsigned)off + i, (uint8_t)(val >> i * 8));
    run_all(s);
}
static const struct mem_ops nabm_ops = {.read = nabm_read, .write = nabm_write, .impl_max = 4};

/* ---- life ---- */

static void ac97_reset(struct dev *d)
{
    struct ac97 *s = container_of(d, struct ac97, pci.dev);

    for (unsigned n = 0; n < NR_BM; n++) {
        s->bm[n].cr = 0;
        bm_reset(&s->bm[n]);
    }
    s->glob_cnt = s->glob_sta = 0;
    s->cas = 0;
    codec_reset(s);
    run_all(s);
}

static void close_voices(struct ac97 *s)
{
    for (unsigned n = 0; n < NR_BM; n++)
        aud_close(s->bm[n].voice);
}

static bool ac97_realize(struct dev *d, struct err **errp)
{
    struct ac97 *s = container_of(d, struct ac97, pci.dev);

    for (unsigned n = 0; n < NR_BM; n++) {
        s->bm[n].voice = aud_open(s->audiodev, dev_machine(d), kinds[n].dir, errp);
        if (!s->bm[n].voice) {
            close_voices(s);
            return false;
        }
    }
    clk_timer_init(&s->timer, dev_vclk(d), tick, s);
    s->stop = (struct machine_hook){.fn = tick, .opaque = s};
    machine_on_state(dev_machine(d), &s->stop);
    mem_region_init_io(&s->nam, dev_machine(d)->mem_sys, &nam_ops, s, "ac97-nam", NAM_SIZE);
    mem_region_init_io(&s->nabm, dev_machine(d)->mem_sys, &nabm_ops, s, "ac97-nabm", NABM_SIZE);
    pci_add_bar(&s->pci, 0, PCI_BAR_IO, &s->nam);
    pci_add_bar(&s->pci, 1, PCI_BAR_IO, &s->nabm);
    pci_set_pin(&s->pci, 1);
    return true;
}

static void ac97_unrealize(struct dev *d)
{
    struct ac97 *s = container_of(d, struct ac97, pci.dev);

    clk_timer_cancel(&s->timer);
    machine_hook_del(&s->stop);
    close_voices(s);
    mem_region_free(&s->nam);
    mem_region_free(&s->nabm);
}

static const struct state_field pace_fields[] = {STATE_I64(struct aud_pace, base), STATE_U64(struct aud_pace, done),
                                                 STATE_END};
static const struct state_desc pace_state = {.name = "pace", .version = 1, .fields = pace_fields};
static const struct state_field bm_fields[] = {STATE_U32(struct bm, bdbar),
                                               STATE_U32(struct bm, addr),
                                               STATE_U8(struct bm, civ),
                                               STATE_U8(struct bm, lvi),
                                               STATE_U8(struct bm, piv),
                                               STATE_U8(struct bm, cr),
                                               STATE_U8(struct bm, sr),
                                               STATE_U16(struct bm, picb),
                                               STATE_BOOL(struct bm, ioc),
                                               STATE_STRUCT(struct bm, pace, pace_state),
                                               STATE_END};
static const struct state_desc bm_state = {.name = "ac97-bm", .version = 1, .fields = bm_fields};
static const struct state_field ac97_fields[] = {STATE_STRUCT(struct ac97, pci, pci_dev_state),
                                                 STATE_TIMER(struct ac97, timer),
                                                 STATE_STRUCTS(struct ac97, bm, bm_state),
                                                 STATE_U32(struct ac97, glob_cnt),
                                                 STATE_U32(struct ac97, glob_sta),
                                                 STATE_U8(struct ac97, cas),
                                                 STATE_ARRAY(struct ac97, codec),
                                                 STATE_END};

static bool ac97_loaded(void *obj, struct err **errp)
{
    struct ac97 *s = obj;
    static const uint8_t rates[] = {AC_FRONT_RATE, AC_LR_RATE, AC_MIC_RATE};

    for (unsigned i = 0; i < ARRAY_LEN(rates); i++)
        if (s->codec[rates[i] / 2] < MIN_RATE || s->codec[rates[i] / 2] > MAX_RATE)
            return err_set(errp, "AC97: a rate is out of range");
    for (unsigned n = 0; n < NR_BM; n++) {
        struct bm *b = &s->bm[n];

        if (b->civ >= NR_BD || b->lvi >= NR_BD || b->piv >= NR_BD || !state_time_ok(b->pace.base) ||
            b->pace.done > UINT32_MAX)
            return err_set(errp, "AC97: a bus master's place is out of range");
        aud_stop(b->voice);
        set_voice(s, n);
    }
    set_gain(s);
    return true;
}
static const struct state_desc ac97_state = {
    .name = "ac97", .version = 1, .fields = ac97_fields, .post_load = ac97_loaded};
static const struct prop ac97_props[] = {AUD_PROP(struct ac97, audiodev), PROP_END};
static const char *const ac97_aliases[] = {"ac97", NULL};
static const struct pci_class ac97_class = {.name = "AC97",
                                            .parent = "pci-device",
                                            .desc = "Intel 82801AA AC97 Audio",
                                            .aliases = ac97_aliases,
                                            .size = sizeof(struct ac97),
                                            .props = ac97_props,
                                            .more_props = pci_props,
                                            .bus_type = "PCI",
                                            .category = DEV_CAT_SOUND,
                                            .hotplug = true,
                                            .realize = ac97_realize,
                                            .unrealize = ac97_unrealize,
                                            .reset = ac97_reset,
                                            .state_desc = &ac97_state,
                                            .vendor_id = 0x8086,
                                            .device_id = 0x2415,
                                            .revision = 1,
                                            .class_id = 0x0401};
PCI_REGISTER(ac97_class)
