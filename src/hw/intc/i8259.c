/* Two cascaded 8259A interrupt controllers with the edge/level registers of PC chipsets.
 *
 * Intel 8259A data sheet (231468-003); ELCR after the 82371SB data sheet chapter 2.5. The MCS-80 call mode, buffered
 * mode and polling of the slave through the master are not modelled (poll mode of each chip is). */
#include "hw/intc/i8259.h"

#include "base/str.h"

enum { ICW1_IC4 = 1, ICW1_SNGL = 2, ICW1_LTIM = 8, ICW1_SELECT = 0x10 };
enum { ICW4_UPM = 1, ICW4_AEOI = 2, ICW4_SFNM = 0x10 };
enum { OCW3_RIS = 1, OCW3_RR = 2, OCW3_P = 4, OCW3_SELECT = 8, OCW3_SMM = 0x20, OCW3_ESMM = 0x40 };
enum { INIT_DONE, INIT_ICW2, INIT_ICW3, INIT_ICW4 };

struct i8259 {
    uint8_t irr, imr, isr, last; /* last: level of each input */
    uint8_t elcr, elcr_mask;
    uint8_t base;   /* vector of input 0 */
    uint8_t lowest; /* input with the lowest priority; rotation moves it */
    uint8_t init, icw1, icw4;
    bool read_isr, poll, special_mask, rotate_aeoi;
};
struct pic {
    struct dev dev;       /* first */
    struct i8259 chip[2]; /* master, slave */
    struct mem_region io[2], elcr;
    struct irq_line *intr; /* to the processor */
};

/* ---- priorities ---- */

/* Rank of the highest set bit: 0 is the best, 8 none. */
static unsigned best_rank(const struct i8259 *c, uint8_t bits)
{
    unsigned r;

    for (r = 0; r < 8; r++)
        if (bits >> ((c->lowest + 1 + r) & 7) & 1)
            break;
    return r;
}

/* The input that would interrupt now, or -1. */
static int pending(const struct i8259 *c, bool master)
{
    uint8_t in_service = c->isr;
    unsigned r = best_rank(c, c->irr & (uint8_t)~c->imr);

    if (r == 8)
        return -1;
    if (c->special_mask)
        in_service &= (uint8_t)~c->imr;
    if (master && (c->icw4 & ICW4_SFNM))
        in_service &= (uint8_t) ~(1 << 2); /* the slave may interrupt again */
    if (r >= best_rank(c, in_service))
        return -1;
    return (c->lowest + 1 + (int)r) & 7;
}

static void chip_input(struct i8259 *c, unsigned n, int level)
{
    uint8_t bit = (uint8_t)(1 << n);

    if ((c->elcr & bit) || (c->icw1 & ICW1_LTIM))
        c->irr = level ? c->irr | bit : c->irr & (uint8_t)~bit;
    else if (level && !(c->last & bit))
        c->irr |= bit; /* stays when the input falls before the acknowledge: devices here may pulse */
    c->last = level ? c->last | bit : c->last & (uint8_t)~bit;
}

static void pic_update(struct pic *p)
{
    struct i8259 *m = &p->chip[0];

    /* The cascade follows the slave's output, so that a masked request does not linger. */
    m->irr = (uint8_t)((m->irr & ~4) | (pending(&p->chip[1], false) >= 0 ? 4 : 0));
    irq_set(p->intr, pending(m, true) >= 0);
}

static void pic_input(void *opaque, int n, int level)
{
    struct pic *p = opaque;

    if (n == 2)
        return;
    chip_input(&p->chip[n >> 3], (unsigned)n & 7, level);
    pic_update(p);
}

/* ---- acknowledge and end of interrupt ---- */

static void chip_eoi(struct i8259 *c, unsigned n, bool rotate)
{
    c->isr &= (uint8_t) ~(1 << n);
    if (rotate)
        c->lowest = (uint8_t)n;
}

static void chip_ack(struct i8259 *c, unsigned n)
{
    if (c->icw4 & ICW4_AEOI) {
        if (c->rotate_aeoi)
            c->lowest = (uint8_t)n;
    } else {
        c->isr |= (uint8_t)(1 << n);
    }
    if (!(c->elcr >> n & 1) && !(c->icw1 & ICW1_LTIM))
        c->irr &= (uint8_t) ~(1 << n);
}

static int ack_locked(struct pic *p)
{
    struct i8259 *m = &p->chip[0], *s = &p->chip[1];
    int n = pending(m, true), v;

    if (n < 0)
        return m->base + 7; /* spurious */
    if (n != 2) {
        v = m->base + n;
    } else {
        int k = pending(s, false);

        v = s->base + (k < 0 ? 7 : k);
        if (k >= 0)
            chip_ack(s, (unsigned)k);
    }
    chip_ack(m, (unsigned)n);
    pic_update(p);
    log_at(LOG_INT, "pic: acknowledged vector %#x", v);
    return v;
}

int pic_ack(void *opaque)
{
    struct pic *p = opaque;
    RUN_LOCK_SCOPE(dev_machine(&p->dev)->run);

    return ack_locked(p);
}

/* ---- registers ---- */

static void write_ocw2(struct i8259 *c, uint8_t v)
{
    unsigned n = v & 7, r;

    switch (v >> 5) {
    case 0:
        c->rotate_aeoi = false;
        break;
    case 4:
        c->rotate_aeoi = true;
        break;
    case 1: /* non-specific EOI, 5: and rotate */
    case 5:
        r = best_rank(c, c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr);
        if (r != 8)
            chip_eoi(c, (c->lowest + 1 + r) & 7, v >> 5 == 5);
        break;
    case 3: /* specific EOI, 7: and rotate */
    case 7:
        chip_eoi(c, n, v >> 5 == 7);
        break;
    case 6:
        c->lowest = (uint8_t)n;
        break;
    }
}

static void write_ocw3(struct i8259 *c, uint8_t v)
{
    if (v & OCW3_P)
        c->poll = true;
    if (v & OCW3_RR)
        c->read_isr = v & OCW3_RIS;
    if (v & OCW3_ESMM)
        c->special_mask = v & OCW3_SMM;
}

static void write_icw1(struct i8259 *c, uint8_t v)
{
    c->icw1 = v;
    c->imr = c->isr = 0;
    c->irr = v & ICW1_LTIM ? c->last : c->irr & c->elcr; /* edges must come again */
    c->lowest = 7;
    c->special_mask = c->read_isr = c->poll = c->rotate_aeoi = false;
    if (!(v & ICW1_IC4))
        c->icw4 = 0;
    c->init = INIT_ICW2;
}

static void write_data(struct i8259 *c, uint8_t v)
{
    switch (c->init) {
    case INIT_DONE:
        c->imr = v;
        break;
    case INIT_ICW2:
        c->base = v & 0xf8;
        c->init = !(c->icw1 & ICW1_SNGL) ? INIT_ICW3 : c->icw1 & ICW1_IC4 ? INIT_ICW4 : INIT_DONE;
        break;
    case INIT_ICW3:
        c->init = c->icw1 & ICW1_IC4 ? INIT_ICW4 : INIT_DONE;
        break;
    case INIT_ICW4:
        c->icw4 = v;
        c->init = INIT_DONE;
        break;
    }
}

static void chip_write(struct i8259 *c, gpa_t off, uint8_t v)
{
    if (off)
        write_data(c, v);
    else if (v & ICW1_SELECT)
        write_icw1(c, v);
    else if (v & OCW3_SELECT)
        write_ocw3(c, v);
    else
        write_ocw2(c, v);
}

static uint8_t chip_read(struct i8259 *c, gpa_t off, bool master)
{
    int n;

    if (c->poll) {
        c->poll = false;
        n = pending(c, master);
        if (n < 0)
            return 0x07;
        chip_ack(c, (unsigned)n);
        return (uint8_t)(0x80 | n);
    }
    return off ? c->imr : c->read_isr ? c->isr : c->irr;
}

static struct pic *pic_of(struct i8259 *c, unsigned n)
{
    return container_of(c - n, struct pic, chip[0]);
}
#define CHIP_IO(n)                                                                                                     \
    static uint64_t io_read##n(void *opaque, gpa_t off, unsigned size)                                                 \
    {                                                                                                                  \
        struct pic *p = pic_of(opaque, n);                                                                             \
        uint8_t v = chip_read(&p->chip[n], off, n == 0);                                                               \
                                                                                                                       \
        pic_update(p);                                                                                                 \
        return v;                                                                                                      \
    }                                                                                                                  \
    static void io_write##n(void *opaque, gpa_t off, uint64_t val, unsigned size)                                      \
    {                                                                                                                  \
        struct pic *p = pic_of(opaque, n);                                                                             \
                                                                                                                       \
        chip_write(&p->chip[n], off, (uint8_t)val);                                                                    \
        pic_update(p);                                                                                                 \
    }
CHIP_IO(0)
CHIP_IO(1)
static const struct mem_ops pic_ops[2] = {
    {.read = io_read0, .write = io_write0, .impl_max = 1},
    {.read = io_read1, .write = io_write1, .impl_max = 1},
};

static uint64_t elcr_read(void *opaque, gpa_t off, unsigned size)
{
    struct pic *p = opaque;

    return p->chip[off].elcr;
}
static void elcr_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct pic *p = opaque;

    p->chip[off].elcr = (uint8_t)val & p->chip[off].elcr_mask;
    pic_update(p);
}
static const struct mem_ops elcr_ops = {.read = elcr_read, .write = elcr_write, .impl_max = 1};

/* ---- life ---- */

static void pic_reset(struct dev *d)
{
    struct pic *p = container_of(d, struct pic, dev);

    for (unsigned n = 0; n < 2; n++)
        p->chip[n] = (struct i8259){.elcr_mask = n ? 0xde : 0xf8, .lowest = 7, .last = p->chip[n].last};
    pic_update(p);
}

static bool pic_realize(struct dev *d, struct err **errp)
{
    struct pic *p = container_of(d, struct pic, dev);
    struct mem_sys *s = dev_machine(d)->mem_sys;

    for (unsigned n = 0; n < 2; n++) {
        mem_region_init_io(&p->io[n], s, &pic_ops[n], &p->chip[n], "pic", 2);
        dev_map_io(d, &p->io[n], n ? 0xa0 : 0x20);
    }
    mem_region_init_io(&p->elcr, s, &elcr_ops, p, "elcr", 2);
    dev_map_io(d, &p->elcr, 0x4d0);
    dev_add_irq_in(d, NULL, pic_input, 16);
    dev_add_irq_out(d, "intr", &p->intr, 1);
    return true;
}

static void pic_unrealize(struct dev *d)
{
    struct pic *p = container_of(d, struct pic, dev);

    mem_region_free(&p->io[0]);
    mem_region_free(&p->io[1]);
    mem_region_free(&p->elcr);
}

struct dev *pic_create(struct machine *m, const char *id, struct err **errp)
{
    struct dev *d = dev_new(m, "isa-i8259", errp);

    return d && dev_realize(d, NULL, id, errp) ? d : NULL;
}

char *pic_info(struct dev *d)
{
    struct pic *p = container_of(d, struct pic, dev);
    struct strbuf b = {0};

    for (unsigned n = 0; n < 2; n++) {
        struct i8259 *c = &p->chip[n];

        str_addf(&b, "pic%u: irr=%02x imr=%02x isr=%02x hprio=%d irq_base=%02x rr_sel=%d elcr=%02x fnm=%d\n", n, c->irr,
                 c->imr, c->isr, (c->lowest + 1) & 7, c->base, c->read_isr, c->elcr, !!(c->icw4 & ICW4_SFNM));
    }
    return str_take(&b);
}

static const struct state_field chip_fields[] = {STATE_U8(struct i8259, irr),
                                                 STATE_U8(struct i8259, imr),
                                                 STATE_U8(struct i8259, isr),
                                                 STATE_U8(struct i8259, last),
                                                 STATE_U8(struct i8259, elcr),
                                                 STATE_U8(struct i8259, base),
                                                 STATE_U8(struct i8259, lowest),
                                                 STATE_U8(struct i8259, init),
                                                 STATE_U8(struct i8259, icw1),
                                                 STATE_U8(struct i8259, icw4),
                                                 STATE_BOOL(struct i8259, read_isr),
                                                 STATE_BOOL(struct i8259, poll),
                                                 STATE_BOOL(struct i8259, special_mask),
                                                 STATE_BOOL(struct i8259, rotate_aeoi),
                                                 STATE_END};
static const struct state_desc chip_state = {.name = "i8259-chip", .version = 1, .fields = chip_fields};
static const struct state_field pic_fields[] = {STATE_STRUCTS(struct pic, chip, chip_state), STATE_END};
static const struct dev_class pic_class = {.name = "isa-i8259",
                                           .parent = "isa-device",
                                           .size = sizeof(struct pic),
                                           .board_only = true,
                                           .realize = pic_realize,
                                           .unrealize = pic_unrealize,
                                           .reset = pic_reset,
                                           .state_version = 1,
                                           .state = pic_fields};
DEV_REGISTER(pic_class)
