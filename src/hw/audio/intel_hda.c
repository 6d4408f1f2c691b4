/* "intel-hda" (ICH6), "ich9-intel-hda": High Definition Audio controllers with four streams in and four out.
 *
 * Intel High Definition Audio Specification 1.0a, chapters 3 and 4; ICH6 and ICH9 data sheets for the PCI side. Streams
 * are paced by guest time and brought up to now whenever a register is read, so LPIB is right to the frame; the
 * position buffer in memory follows every millisecond. Commands are answered at once. Left out: bidirectional streams,
 * stripes, the FIFO (it neither fills nor runs dry), unsolicited responses (no codec here sends any), power management.
 */
#include "base/bytes.h"
#include "hw/audio/hda.h"
#include "hw/pci/pci.h"

enum { BAR_SIZE = 0x4000, IN_STREAMS = 4, NR_STREAMS = 8, CHUNK = 4096, MIN_TICK = 200000 };
enum { TICKS_PER_SEC = 200, POSITION_TICKS = 1000 };  /* how often a stream is moved; with a position buffer */
enum { RING = 256, BD_BYTES = 16, BD_BUDGET = 4096 }; /* BD_BUDGET: buffers looked at in one go */
/* Registers by the dword they lie in. */
enum {
    GCAP = 0x00,
    OUTPAY = 0x04,
    GCTL = 0x08,
    WAKEEN = 0x0c, /* STATESTS */
    GSTS = 0x10,
    STRMPAY = 0x18,
    INTCTL = 0x20,
    INTSTS = 0x24,
    WALCLK = 0x30,
    SSYNC_ICH = 0x34,
    SSYNC = 0x38,
    CORBLBASE = 0x40,
    CORBUBASE = 0x44,
    CORBWP = 0x48,  /* CORBRP */
    CORBCTL = 0x4c, /* CORBSTS, CORBSIZE */
    RIRBLBASE = 0x50,
    RIRBUBASE = 0x54,
    RIRBWP = 0x58,  /* RINTCNT */
    RIRBCTL = 0x5c, /* RIRBSTS, RIRBSIZE */
    ICOI = 0x60,
    ICII = 0x64,
    ICIS = 0x68,
    DPLBASE = 0x70,
    DPUBASE = 0x74,
    SD0 = 0x80,
    ALIAS = 0x2000 /* WALCLK and LPIB again */
};
enum {
    SDCTL = 0x00,
    SDLPIB = 0x04,
    SDCBL = 0x08,
    SDLVI = 0x0c,
    SDFMT = 0x10,
    SDBDPL = 0x18,
    SDBDPU = 0x1c,
    SD_SIZE = 0x20
};
enum { GCTL_CRST = 1, GCTL_FCNTRL = 2, GCTL_UNSOL = 0x100, GSTS_FSTS = 2 };
enum { CORB_CMEIE = 1, CORB_RUN = 2, CORBRP_RST = 0x8000, RING_256 = 0x42 };
enum { RIRB_RINTCTL = 1, RIRB_DMAEN = 2, RIRB_OIC = 4, RIRB_RINTFL = 1, RIRB_OIS = 4, RIRBWP_RST = 0x8000 };
enum { ICIS_ICB = 1, ICIS_IRV = 2 };
enum {
    SD_SRST = 1,
    SD_RUN = 2,
    SD_INT = 0x1c,
    SD_RW = 0xff001f,
    SDSTS_BCIS = 4,
    SDSTS_DESE = 0x10,
    SDSTS_READY = 0x20
};
#define INT_CIS (1u << 30)
#define INT_GIS (1u << 31)

struct stream {
    uint32_t ctl, lpib, cbl, bdpl, bdpu;
    uint16_t lvi, fmt;
    uint8_t sts;
    /* The buffer that is worked off: what is left of it, its index. left 0: it has to be looked up. */
    uint64_t addr;
    uint32_t left;
    uint16_t bd;
    bool ioc;
    struct aud_pace pace;
};
struct hda {
    struct pci_dev pci; /* first */
    struct mem_region mmio;
    struct hda_bus bus;
    struct clk_timer timer;
    struct machine_hook stop;
    int msi;        /* property: enum onoffauto */
    uint32_t debug; /* property, without effect */
    uint32_t gctl, intctl, ssync, old_intsts, gsts;
    uint16_t wakeen, statests;
    int64_t wall_base;
    uint32_t corblbase, corbubase, rirblbase, rirbubase, dplbase, dpubase;
    uint16_t corbrp;
    uint8_t corbwp, corbctl, corbsts, rirbwp, rintcnt, rirbctl, rirbsts;
    uint32_t rirb_count; /* responses since the last interrupt for them */
    uint32_t icoi, icii, icis;
    struct stream st[NR_STREAMS];
};

static int64_t now(const struct hda *s)
{
    return clk_now(dev_vclk(&s->pci.dev));
}

/* ---- interrupts ---- */

static uint32_t intsts(const struct hda *s)
{
    uint32_t v = 0;

    for (unsigned n = 0; n < NR_STREAMS; n++)
        if (s->st[n].sts & s->st[n].ctl & SD_INT)
            v |= 1u << n;
    if ((s->rirbsts & RIRB_RINTFL && s->rirbctl & RIRB_RINTCTL) || (s->rirbsts & RIRB_OIS && s->rirbctl & RIRB_OIC) ||
        (s->statests & s->wakeen) || (s->corbsts & s->corbctl & CORB_CMEIE))
        v |= INT_CIS;
    return v & s->intctl ? v | INT_GIS : v;
}

static void update_irq(struct hda *s)
{
    uint32_t on = s->intctl & INT_GIS ? intsts(s) & s->intctl & ~INT_GIS : 0;

    if (!pci_msi_enabled(&s->pci))
        pci_set_intx(&s->pci, on != 0);
    else if (on & ~s->old_intsts)
        pci_msi_notify(&s->pci, 0);
    s->old_intsts = on;
}

/* ---- streams ---- */

static unsigned number(const struct hda *s, const struct stream *st)
{
    return (unsigned)(st - s->st);
}
static enum aud_dir dir_of(const struct hda *s, const struct stream *st)
{
    return number(s, st) < IN_STREAMS ? AUD_IN : AUD_OUT;
}
static unsigned tag(const struct stream *st)
{
    return st->ctl >> 20 & 0xf;
}

static bool active(const struct hda *s, const struct stream *st)
{
    return (s->gctl & GCTL_CRST) && (st->ctl & (SD_RUN | SD_SRST)) == SD_RUN && !(s->ssync >> number(s, st) & 1);
}

static void halt(struct hda *s, struct stream *st)
{
    hda_bus_stop(&s->bus, tag(st), dir_of(s, st));
}

/* Looks the current buffer up; those without a byte are passed over. */
static bool fetch(struct hda *s, struct stream *st, unsigned *budget)
{
    uint8_t b[BD_BYTES] = {0};
    uint64_t list = (uint64_t)st->bdpu << 32 | st->bdpl;

    for (unsigned i = 0; i <= st->lvi && *budget; i++) {
        --*budget;
        pci_dma_read(&s->pci, list + st->bd * BD_BYTES, b, sizeof b);
        st->addr = get_le64(b);
        st->left = get_le32(b + 8);
        st->ioc = get_le32(b + 12) & 1;
        if (st->left)
            return true;
        st->bd = st->bd >= st->lvi ? 0 : st->bd + 1;
    }
    return false;
}

/* Moves len bytes between buf and the list; false when the list ran out of buffers with something in them. */
static bool transfer(struct hda *s, struct stream *st, uint8_t *buf, uint32_t len, unsigned *budget)
{
    while (len) {
        uint32_t part;

        if (!st->left && !fetch(s, st, budget))
            return false;
        part = (uint32_t)min_u64(len, st->left);
        if (st->cbl > st->lpib)
            part = (uint32_t)min_u64(part, st->cbl - st->lpib);
        if (dir_of(s, st) == AUD_OUT)
            pci_dma_read(&s->pci, st->addr, buf, part);
        else
            pci_dma_write(&s->pci, st->addr, buf, part);
        buf += part;
        len -= part;
        st->addr += part;
        st->lpib += part;
        st->left -= part;
        if (st->cbl && st->lpib >= st->cbl)
            st->lpib = 0;
        if (!st->left) {
            if (st->ioc)
                st->sts |= SDSTS_BCIS;
            st->bd = st->bd >= st->lvi ? 0 : st->bd + 1;
        }
    }
    return true;
}

static void write_position(struct hda *s, const struct stream *st)
{
    uint8_t b[4];

    if (!(s->dplbase & 1))
        return;
    put_le32(b, st->lpib);
    pci_dma_write(&s->pci, ((uint64_t)s->dpubase << 32 | (s->dplbase & ~0x7fu)) + number(s, st) * 8, b, sizeof b);
}

/* Brings a stream up to now. */
static void run(struct hda *s, struct stream *st)
{
    struct aud_fmt f = hda_format(st->fmt);
    unsigned whole = aud_frame_bytes(&f), budget = BD_BUDGET;
    uint8_t buf[CHUNK];
    uint32_t due;

    if (!active(s, st) || !(due = aud_pace_due(&st->pace, f.rate, now(s))))
        return;
    st->pace.done += due;
    while (due) {
        uint32_t part = (uint32_t)min_u64(due, CHUNK / whole);

        if (dir_of(s, st) == AUD_IN)
            hda_bus_record(&s->bus, tag(st), st->fmt, buf, part);
        if (!transfer(s, st, buf, part * whole, &budget)) {
            if (budget) { /* else there is too much to do: these frames are lost, the stream goes on */
                st->sts |= SDSTS_DESE;
                st->ctl &= ~(uint32_t)SD_RUN;
                halt(s, st);
            }
            break;
        }
        if (dir_of(s, st) == AUD_OUT)
            hda_bus_play(&s->bus, tag(st), st->fmt, buf, part);
        due -= part;
    }
    write_position(s, st);
}

static void run_all(struct hda *s)
{
    int64_t next = INT64_MAX;

    for (unsigned n = 0; n < NR_STREAMS; n++) {
        struct stream *st = &s->st[n];
        struct aud_fmt f = hda_format(st->fmt);
        uint32_t most = f.rate / (s->dplbase & 1 ? POSITION_TICKS : TICKS_PER_SEC), end;

        run(s, st);
        if (!active(s, st))
            continue;
        end = st->left ? (uint32_t)div_up(st->left, aud_frame_bytes(&f)) : most;
        next = min_i64(next, aud_pace_when(&st->pace, f.rate, (uint32_t)min_u64(end, most)));
    }
    if (next == INT64_MAX)
        clk_timer_cancel(&s->timer);
    else
        clk_timer_set(&s->timer, max_i64(next, now(s) + MIN_TICK));
    update_irq(s);
}

/* Also when the machine stops or starts: what was due by then is in memory and heard before it is saved. */
static void tick(void *opaque)
{
    run_all(opaque);
}

/* What a change of RUN, SSYNC or the reset bit means to a stream that was active or not. */
static void active_changed(struct hda *s, struct stream *st, bool was)
{
    bool is = active(s, st);

    if (is && !was) {
        unsigned budget = RING;

        aud_pace_start(&st->pace, now(s));
        if (!st->left)
            fetch(s, st, &budget); /* so that the end of the first buffer is known; that it is bad shows later */
    } else if (was && !is) {
        halt(s, st);
    }
}

static void stream_reset(struct hda *s, struct stream *st)
{
    halt(s, st);
    *st = (struct stream){.ctl = SD_SRST};
}

static void ctl_write(struct hda *s, struct stream *st, uint32_t v)
{
    bool was = active(s, st);

    if ((v & SD_SRST) && !(st->ctl & SD_SRST)) {
        stream_reset(s, st);
        return;
    }
    if (was && tag(st) != (v >> 20 & 0xf))
        halt(s, st);
    st->ctl = v & SD_RW;
    active_changed(s, st, was);
}

static void ssync_write(struct hda *s, uint32_t v)
{
    uint32_t was = 0;

    for (unsigned n = 0; n < NR_STREAMS; n++)
        was |= (uint32_t)active(s, &s->st[n]) << n;
    s->ssync = v & ((1u << NR_STREAMS) - 1);
    for (unsigned n = 0; n < NR_STREAMS; n++)
        active_changed(s, &s->st[n], was >> n & 1);
}

/* ---- commands ---- */

/* False: nobody has this address. */
static bool command(struct hda *s, uint32_t v, uint32_t *answer)
{
    unsigned cad = v >> 28;
    struct hda_codec *c = cad < HDA_CODECS ? s->bus.codec[cad] : NULL;

    if (!c || !(s->gctl & GCTL_CRST))
        return false;
    *answer = hda_command(c, v & 0x0fffffff);
    return true;
}

static void respond(struct hda *s, uint32_t cad, uint32_t answer)
{
    uint8_t b[8];

    put_le32(b, answer);
    put_le32(b + 4, cad);
    s->rirbwp++; /* of 256 entries */
    pci_dma_write(&s->pci, ((uint64_t)s->rirbubase << 32 | s->rirblbase) + s->rirbwp * 8u, b, sizeof b);
    if (++s->rirb_count >= (s->rintcnt ? s->rintcnt : RING)) {
        s->rirb_count = 0;
        s->rirbsts |= RIRB_RINTFL;
    }
}

/* Works the commands off. 4.4.2.2: an interrupt comes after RINTCNT responses, or when no more follow. */
static void corb_run(struct hda *s)
{
    bool any = false;

    for (unsigned i = 0; i < RING && (s->corbctl & CORB_RUN) && (s->rirbctl & RIRB_DMAEN) && (s->gctl & GCTL_CRST) &&
                         !(s->corbrp & CORBRP_RST) && s->corbrp != s->corbwp;
         i++) {
        uint8_t b[4] = {0};
        uint32_t v, answer;

        s->corbrp = (s->corbrp + 1) % RING;
        pci_dma_read(&s->pci, ((uint64_t)s->corbubase << 32 | s->corblbase) + s->corbrp * 4u, b, sizeof b);
        v = get_le32(b);
        if (command(s, v, &answer)) {
            respond(s, v >> 28, answer);
            any = true;
        }
    }
    if (any && s->rirb_count) {
        s->rirb_count = 0;
        s->rirbsts |= RIRB_RINTFL;
    }
}

static void immediate(struct hda *s, uint32_t v)
{
    s->icis &= ~(v & ICIS_IRV);
    if (v & ICIS_ICB && command(s, s->icoi, &s->icii))
        s->icis |= ICIS_IRV;
}

/* ---- registers ---- */

static void link_up(struct hda *s)
{
    for (unsigned i = 0; i < HDA_CODECS; i++)
        if (s->bus.codec[i])
            s->statests |= (uint16_t)(1u << i);
}

/* All registers as after power-on, and the link in reset. */
static void controller_reset(struct hda *s)
{
    for (unsigned n = 0; n < NR_STREAMS; n++) {
        stream_reset(s, &s->st[n]);
        s->st[n].ctl = 0;
    }
    s->gctl = s->intctl = s->ssync = s->gsts = 0;
    s->wakeen = s->statests = s->corbrp = 0;
    s->corblbase = s->corbubase = s->rirblbase = s->rirbubase = s->dplbase = s->dpubase = 0;
    s->corbwp = s->corbctl = s->corbsts = s->rirbwp = s->rintcnt = s->rirbctl = s->rirbsts = 0;
    s->rirb_count = s->icoi = s->icii = s->icis = 0;
    s->wall_base = now(s);
    hda_bus_reset(&s->bus);
}

static void gctl_write(struct hda *s, uint32_t v)
{
    bool was = s->gctl & GCTL_CRST;

    if (was && !(v & GCTL_CRST)) {
        controller_reset(s);
        return;
    }
    s->gctl = v & (GCTL_CRST | GCTL_UNSOL);
    if (v & GCTL_FCNTRL) /* there is nothing to flush: done */
        s->gsts |= GSTS_FSTS;
    if (!was && (v & GCTL_CRST))
        link_up(s);
}

static uint32_t stream_read(const struct hda *s, unsigned off)
{
    const struct stream *st = &s->st[(off - SD0) / SD_SIZE];

    switch ((off - SD0) % SD_SIZE) {
    case SDCTL:
        return st->ctl | (uint32_t)(st->sts | (st->ctl & SD_RUN ? SDSTS_READY : 0)) << 24;
    case SDLPIB:
        return st->lpib;
    case SDCBL:
        return st->cbl;
    case SDLVI:
        return st->lvi;
    case SDFMT:
        return (uint32_t)st->fmt << 16 | (dir_of(s, st) == AUD_IN ? 0x77 : 0xbf); /* FIFO size */
    case SDBDPL:
        return st->bdpl;
    case SDBDPU:
        return st->bdpu;
    default:
        return 0;
    }
}

static uint32_t ring_read(const struct hda *s, unsigned off)
{
    switch (off) {
    case CORBLBASE:
        return s->corblbase;
    case CORBUBASE:
        return s->corbubase;
    case CORBWP:
        return s->corbwp | (uint32_t)s->corbrp << 16;
    case CORBCTL:
        return s->corbctl | (uint32_t)s->corbsts << 8 | RING_256 << 16;
    case RIRBLBASE:
        return s->rirblbase;
    case RIRBUBASE:
        return s->rirbubase;
    case RIRBWP:
        return s->rirbwp | (uint32_t)s->rintcnt << 16;
    case RIRBCTL:
        return s->rirbctl | (uint32_t)s->rirbsts << 8 | RING_256 << 16;
    case ICOI:
        return s->icoi;
    case ICII:
        return s->icii;
    case ICIS:
        return s->icis;
    case DPLBASE:
        return s->dplbase;
    case DPUBASE:
        return s->dpubase;
    default:
        return 0;
    }
}

static uint32_t reg_read(const struct hda *s, unsigned off)
{
    switch (off) {
    case GCAP:
        return 0x01004401; /* version 1.0; 4 out, 4 in; 64-bit addresses */
    case OUTPAY:
        return 0x001d003c; /* words a frame of the link takes */
    case STRMPAY:
        return 0x00180030;
    case GCTL:
        return s->gctl;
    case WAKEEN:
        return s->wakeen | (uint32_t)s->statests << 16;
    case GSTS:
        return s->gsts;
    case INTCTL:
        return s->intctl;
    case INTSTS:
        return intsts(s);
    case WALCLK:
    case ALIAS + WALCLK:
        return (uint32_t)((now(s) - s->wall_base) / 1000 * 24 + (now(s) - s->wall_base) % 1000 * 24 / 1000);
    case SSYNC:
    case SSYNC_ICH:
        return s->ssync;
    default:
        if (off > ALIAS)
            off = (off - ALIAS - SD0) % SD_SIZE == SDLPIB ? off - ALIAS : BAR_SIZE;
        return off < SD0 ? ring_read(s, off) : off < SD0 + NR_STREAMS * SD_SIZE ? stream_read(s, off) : 0;
    }
}

static uint64_t hda_read(void *opaque, gpa_t off, unsigned size)
{
    struct hda *s = opaque;

    run_all(s);
    return reg_read(s, (unsigned)off & ~3u) >> (off & 3) * 8 & (UINT64_MAX >> (64 - size * 8));
}

static uint32_t merge(uint32_t old, uint32_t v, uint32_t mask)
{
    return (old & ~mask) | (v & mask);
}

static void stream_write(struct hda *s, unsigned off, uint32_t v, uint32_t mask)
{
    struct stream *st = &s->st[(off - SD0) / SD_SIZE];

    switch ((off - SD0) % SD_SIZE) {
    case SDCTL:
        st->sts &= ~(uint8_t)((v & mask) >> 24 & SD_INT);
        if (mask & 0xffffff)
            ctl_write(s, st, merge(st->ctl, v, mask) & 0xffffff);
        break;
    case SDCBL:
        st->cbl = merge(st->cbl, v, mask);
        break;
    case SDLVI:
        st->lvi = merge(st->lvi, v, mask) & 0xff;
        break;
    case SDFMT:
        if (!(st->ctl & SD_RUN)) /* 3.3.41: not while it runs */
            st->fmt = (uint16_t)(merge((uint32_t)st->fmt << 16, v, mask) >> 16) & 0x7f7f;
        break;
    case SDBDPL:
        st->bdpl = merge(st->bdpl, v, mask) & ~0x7fu;
        break;
    case SDBDPU:
        st->bdpu = merge(st->bdpu, v, mask);
        break;
    default:
        break;
    }
}

static void corb_write(struct hda *s, unsigned off, uint32_t v, uint32_t mask)
{
    switch (off) {
    case CORBLBASE:
        s->corblbase = merge(s->corblbase, v, mask) & ~0x7fu;
        break;
    case CORBUBASE:
        s->corbubase = merge(s->corbubase, v, mask);
        break;
    case CORBWP:
        s->corbwp = (uint8_t)merge(s->corbwp, v, mask);
        if (v & mask & (uint32_t)CORBRP_RST << 16)
            s->corbrp = CORBRP_RST;
        else if (mask >> 31 && (s->corbrp & CORBRP_RST)) /* the bit stays until it is written 0 */
            s->corbrp = 0;
        break;
    case CORBCTL:
        s->corbctl = (uint8_t)merge(s->corbctl, v, mask) & (CORB_CMEIE | CORB_RUN);
        s->corbsts &= ~(uint8_t)((v & mask) >> 8);
        break;
    default:
        break;
    }
}

static void rirb_write(struct hda *s, unsigned off, uint32_t v, uint32_t mask)
{
    switch (off) {
    case RIRBLBASE:
        s->rirblbase = merge(s->rirblbase, v, mask) & ~0x7fu;
        break;
    case RIRBUBASE:
        s->rirbubase = merge(s->rirbubase, v, mask);
        break;
    case RIRBWP:
        if (v & mask & RIRBWP_RST)
            s->rirbwp = 0;
        s->rintcnt = (uint8_t)(merge((uint32_t)s->rintcnt << 16, v, mask) >> 16);
        break;
    case RIRBCTL:
        s->rirbctl = (uint8_t)merge(s->rirbctl, v, mask) & (RIRB_RINTCTL | RIRB_DMAEN | RIRB_OIC);
        s->rirbsts &= ~(uint8_t)((v & mask) >> 8);
        break;
    default:
        break;
    }
}

static void reg_write(struct hda *s, unsigned off, uint32_t v, uint32_t mask)
{
    switch (off) {
    case GCTL:
        gctl_write(s, merge(s->gctl, v, mask));
        break;
    case WAKEEN:
        s->wakeen = (uint16_t)merge(s->wakeen, v, mask) & ((1u << HDA_CODECS) - 1);
        s->statests &= ~(uint16_t)((v & mask) >> 16);
        break;
    case GSTS:
        s->gsts &= ~(v & mask);
        break;
    case INTCTL:
        s->intctl = merge(s->intctl, v, mask);
        break;
    case SSYNC:
    case SSYNC_ICH:
        ssync_write(s, merge(s->ssync, v, mask));
        break;
    case ICOI:
        s->icoi = merge(s->icoi, v, mask);
        break;
    case ICIS:
        immediate(s, v & mask);
        break;
    case DPLBASE:
        s->dplbase = merge(s->dplbase, v, mask) & ~0x7eu;
        break;
    case DPUBASE:
        s->dpubase = merge(s->dpubase, v, mask);
        break;
    default:
        if (off >= SD0 && off < SD0 + NR_STREAMS * SD_SIZE)
            stream_write(s, off, v, mask);
        else if (off >= CORBLBASE && off <= CORBCTL)
            corb_write(s, off, v, mask);
        else if (off >= RIRBLBASE && off <= RIRBCTL)
            rirb_write(s, off, v, mask);
    }
}

static void hda_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct hda *s = opaque;
    unsigned shift = (off & 3) * 8;

    run_all(s);
    reg_write(s, (unsigned)off & ~3u, (uint32_t)(val << shift), (uint32_t)((UINT64_MAX >> (64 - size * 8)) << shift));
    corb_run(s);
    run_all(s);
}
static const struct mem_ops hda_ops = {.read = hda_read, .write = hda_write, .impl_max = 4};

/* ---- life ---- */

/* A codec that comes while the link is up announces itself (5.5.3.1). */
static void codec_plugged(void *opaque, unsigned address)
{
    struct hda *s = opaque;

    if (s->gctl & GCTL_CRST) {
        s->statests |= (uint16_t)(1u << address);
        update_irq(s);
    }
}

static bool hda_realize(struct dev *d, struct err **errp)
{
    struct hda *s = container_of(d, struct hda, pci.dev);

    s->pci.config[0x40] = 1; /* HDCTL: the link is High Definition Audio, not AC '97 */
    s->pci.wmask[0x44] = 7;  /* TCSEL */
    s->pci.cap_end = 0x60;   /* these are no place for a capability */
    pci_set_pin(&s->pci, 1);
    if (s->msi != OOA_OFF && !pci_add_msi(&s->pci, 1, errp))
        return false;
    clk_timer_init(&s->timer, dev_vclk(d), tick, s);
    s->stop = (struct machine_hook){.fn = tick, .opaque = s};
    machine_on_state(dev_machine(d), &s->stop);
    mem_region_init_io(&s->mmio, dev_machine(d)->mem_sys, &hda_ops, s, "intel-hda", BAR_SIZE);
    pci_add_bar(&s->pci, 0, PCI_BAR_MEM, &s->mmio);
    hda_bus_init(&s->bus, d);
    s->bus.plugged = codec_plugged;
    s->bus.opaque = s;
    return true;
}

static void hda_unrealize(struct dev *d)
{
    struct hda *s = container_of(d, struct hda, pci.dev);

    clk_timer_cancel(&s->timer);
    machine_hook_del(&s->stop);
    mem_region_free(&s->mmio);
}

static void hda_reset(struct dev *d)
{
    struct hda *s = container_of(d, struct hda, pci.dev);

    controller_reset(s);
    run_all(s);
}

static const struct state_field pace_fields[] = {STATE_I64(struct aud_pace, base), STATE_U64(struct aud_pace, done),
                                                 STATE_END};
static const struct state_desc pace_state = {.name = "pace", .version = 1, .fields = pace_fields};
static const struct state_field stream_fields[] = {STATE_U32(struct stream, ctl),
                                                   STATE_U32(struct stream, lpib),
                                                   STATE_U32(struct stream, cbl),
                                                   STATE_U32(struct stream, bdpl),
                                                   STATE_U32(struct stream, bdpu),
                                                   STATE_U16(struct stream, lvi),
                                                   STATE_U16(struct stream, fmt),
                                                   STATE_U8(struct stream, sts),
                                                   STATE_U64(struct stream, addr),
                                                   STATE_U32(struct stream, left),
                                                   STATE_U16(struct stream, bd),
                                                   STATE_BOOL(struct stream, ioc),
                                                   STATE_STRUCT(struct stream, pace, pace_state),
                                                   STATE_END};
static const struct state_desc stream_state = {.name = "hda-stream", .version = 1, .fields = stream_fields};
static const struct state_field hda_fields[] = {STATE_STRUCT(struct hda, pci, pci_dev_state),
                                                STATE_TIMER(struct hda, timer),
                                                STATE_U32(struct hda, gctl),
                                                STATE_U32(struct hda, intctl),
                                                STATE_U32(struct hda, ssync),
                                                STATE_U32(struct hda, old_intsts),
                                                STATE_U32(struct hda, gsts),
                                                STATE_U16(struct hda, wakeen),
                                                STATE_U16(struct hda, statests),
                                                STATE_I64(struct hda, wall_base),
                                                STATE_U32(struct hda, corblbase),
                                                STATE_U32(struct hda, corbubase),
                                                STATE_U32(struct hda, rirblbase),
                                                STATE_U32(struct hda, rirbubase),
                                                STATE_U32(struct hda, dplbase),
                                                STATE_U32(struct hda, dpubase),
                                                STATE_U16(struct hda, corbrp),
                                                STATE_U8(struct hda, corbwp),
                                                STATE_U8(struct hda, corbctl),
                                                STATE_U8(struct hda, corbsts),
                                                STATE_U8(struct hda, rirbwp),
                                                STATE_U8(struct hda, rintcnt),
                                                STATE_U8(struct hda, rirbctl),
                                                STATE_U8(struct hda, rirbsts),
                                                STATE_U32(struct hda, rirb_count),
                                                STATE_U32(struct hda, icoi),
                                                STATE_U32(struct hda, icii),
                                                STATE_U32(struct hda, icis),
                                                STATE_STRUCTS(struct hda, st, stream_state),
                                                STATE_END};

static bool hda_loaded(void *obj, struct err **errp)
{
    struct hda *s = obj;

    if (!state_time_ok(s->wall_base))
        return err_set(errp, "intel-hda: the wall clock is out of range");
    s->corbrp &= CORBRP_RST | (RING - 1);
    for (unsigned n = 0; n < NR_STREAMS; n++) {
        struct stream *st = &s->st[n];

        if (!state_time_ok(st->pace.base) || st->pace.done > UINT32_MAX || st->bd >= RING || st->lvi >= RING)
            return err_set(errp, "intel-hda: a stream's place is out of range");
    }
    return true;
}
static const struct state_desc hda_state = {
    .name = "intel-hda", .version = 1, .fields = hda_fields, .post_load = hda_loaded};
static const struct prop hda_props[] = {
    PROP("msi", onoffauto, struct hda, msi, .dflt = "auto", .help = "interrupts by message, when the guest wants them"),
    PROP("debug", u32, struct hda, debug), PROP_END};
#define HDA_CLASS(what, id, text, device, rev)                                                                         \
    static const struct pci_class what##_class = {.name = id,                                                          \
                                                  .parent = "pci-device",                                              \
                                                  .desc = text,                                                        \
                                                  .size = sizeof(struct hda),                                          \
                                                  .props = hda_props,                                                  \
                                                  .more_props = pci_props,                                             \
                                                  .bus_type = "PCI",                                                   \
                                                  .category = DEV_CAT_SOUND,                                           \
                                                  .realize = hda_realize,                                              \
                                                  .unrealize = hda_unrealize,                                          \
                                                  .reset = hda_reset,                                                  \
                                                  .state_desc = &hda_state,                                            \
                                                  .vendor_id = 0x8086,                                                 \
                                                  .device_id = device,                                                 \
                                                  .revision = rev,                                                     \
                                                  .class_id = 0x0403};                                                 \
    PCI_REGISTER(what##_class)
HDA_CLASS(ich6, "intel-hda", "Intel HD Audio Controller (ich6)", 0x2668, 1)
HDA_CLASS(ich9, "ich9-intel-hda", "Intel HD Audio Controller (ich9)", 0x293e, 3)
