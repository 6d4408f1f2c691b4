/* The two 8237A DMA controllers of a PC with their page registers (class "i8257", the name users know).
 *
 * Intel 8237A data sheet (231466-005); wiring after the 82371SB data sheet chapter 2.4. Devices pull or push when they
 * have data, so demand, single and block mode behave alike. Not modelled: memory to memory, cascade of anything but the
 * second controller, timing. */
#include "hw/dma/i8237.h"

enum { CMD_DISABLE = 4, MODE_TYPE = 0x0c, MODE_WRITE = 0x04, MODE_READ = 0x08, MODE_AUTO = 0x10, MODE_DOWN = 0x20 };

struct i8237;
struct dma_chan {
    uint16_t base_addr, base_count, addr, count;
    uint8_t mode;
};
struct dma_chip {
    struct i8237 *owner; /* borrowed */
    unsigned shift;      /* 0: bytes, 1: words */
    struct dma_chan ch[4];
    uint8_t command, mask, status, request;
    bool flip_flop;
    struct mem_region regs;
};
struct i8237 {
    struct dev dev; /* first */
    struct dma_chip chip[2];
    uint8_t page[16]; /* port 80h + n */
    struct mem_region pages;
};
static const uint8_t page_of[8] = {0x7, 0x3, 0x1, 0x2, 0xf, 0xb, 0x9, 0xa};

/* ---- registers ---- */

static uint8_t half(struct dma_chip *c, uint16_t v)
{
    bool high = c->flip_flop;

    c->flip_flop = !high;
    return (uint8_t)(high ? v >> 8 : v);
}
static void set_half(uint16_t *r, bool high, uint8_t v)
{
    *r = high ? (uint16_t)((*r & 0xff) | v << 8) : (uint16_t)((*r & 0xff00) | v);
}

static void master_clear(struct dma_chip *c)
{
    c->command = c->status = c->request = 0;
    c->flip_flop = false;
    c->mask = 0xf;
}

static void chan_write(struct dma_chip *c, unsigned reg, uint8_t v)
{
    struct dma_chan *ch = &c->ch[reg >> 1];
    bool high = c->flip_flop;

    c->flip_flop = !high;
    if (reg & 1) {
        set_half(&ch->base_count, high, v);
        ch->count = ch->base_count;
    } else {
        set_half(&ch->base_addr, high, v);
        ch->addr = ch->base_addr;
    }
}

static void ctl_write(struct dma_chip *c, unsigned reg, uint8_t v)
{
    switch (reg) {
    case 8:
        c->command = v;
        break;
    case 9:
        c->request = (uint8_t)(v & 4 ? c->request | 1 << (v & 3) : c->request & ~(1 << (v & 3)));
        break;
    case 10:
        c->mask = (uint8_t)(v & 4 ? c->mask | 1 << (v & 3) : c->mask & ~(1 << (v & 3)));
        break;
    case 11:
        c->ch[v & 3].mode = v;
        break;
    case 12:
        c->flip_flop = false;
        break;
    case 13:
        master_clear(c);
        break;
    case 14:
        c->mask = 0;
        break;
    case 15:
        c->mask = v & 0xf;
        break;
    }
}

static void chip_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct dma_chip *c = opaque;
    unsigned reg = (unsigned)off >> c->shift;

    if (reg < 8)
        chan_write(c, reg, (uint8_t)val);
    else
        ctl_write(c, reg, (uint8_t)val);
}
static uint64_t chip_read(void *opaque, gpa_t off, unsigned size)
{
    struct dma_chip *c = opaque;
    unsigned reg = (unsigned)off >> c->shift;
    uint8_t v;

    if (reg < 8)
        return half(c, reg & 1 ? c->ch[reg >> 1].count : c->ch[reg >> 1].addr);
    switch (reg) {
    case 8:
        v = (uint8_t)(c->status | c->request << 4);
        c->status = 0;
        return v;
    case 15:
        return c->mask | 0xf0;
    }
    return 0;
}
static const struct mem_ops chip_ops = {.read = chip_read, .write = chip_write, .impl_max = 1};

static uint64_t page_read(void *opaque, gpa_t off, unsigned size)
{
    return ((struct i8237 *)opaque)->page[off + 1];
}
static void page_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    ((struct i8237 *)opaque)->page[off + 1] = (uint8_t)val;
}
static const struct mem_ops page_ops = {.read = page_read, .write = page_write, .impl_max = 1};

/* ---- transfers ---- */

static struct dma_chip *chip_of(struct isa_bus *b, unsigned n)
{
    return b->dma && n < 8 && n != 4 ? &container_of((struct dev *)b->dma, struct i8237, dev)->chip[n >> 2] : NULL;
}

bool isa_dma_ready(struct isa_bus *b, unsigned n)
{
    struct dma_chip *c = chip_of(b, n);

    return c && !(c->mask >> (n & 3) & 1) && !(c->command & CMD_DISABLE);
}
static gpa_t address(const struct dma_chip *c, unsigned n)
{
    uint8_t page = c->owner->page[page_of[n]];
    uint16_t a = c->ch[n & 3].addr;

    return c->shift ? (gpa_t)(page & 0xfe) << 16 | (gpa_t)a << 1 : (gpa_t)page << 16 | a;
}

/* One unit of the channel's width; true at the terminal count. */
static bool step(struct dma_chip *c, unsigned n, uint8_t *p, bool to_memory)
{
    struct dma_chan *ch = &c->ch[n & 3];
    struct mem_space *mem = dev_machine(&c->owner->dev)->mem;
    unsigned unit = 1u << c->shift, type = ch->mode & MODE_TYPE;

    if (to_memory && type == MODE_WRITE)
        mem_write(mem, address(c, n), p, unit);
    else if (!to_memory && type == MODE_READ)
        mem_read(mem, address(c, n), p, unit);
    ch->addr = (uint16_t)(ch->addr + (ch->mode & MODE_DOWN ? -1 : 1));
    if (ch->count--)
        return false;
    c->status |= (uint8_t)(1 << (n & 3));
    if (ch->mode & MODE_AUTO) {
        ch->addr = ch->base_addr;
        ch->count = ch->base_count;
    } else {
        c->mask |= (uint8_t)(1 << (n & 3));
    }
    return true;
}

unsigned isa_dma_transfer(struct isa_bus *b, unsigned n, void *buf, unsigned len, bool to_memory, bool *tc)
{
    struct dma_chip *c = chip_of(b, n);
    unsigned done = 0;
    bool end = false;

    while (c && !end && isa_dma_ready(b, n) && done + (1u << c->shift) <= len) {
        end = step(c, n, (uint8_t *)buf + done, to_memory);
        done += 1u << c->shift;
    }
    if (tc)
        *tc = end;
    return done;
}

/* ---- life ---- */

static void dma_reset(struct dev *d)
{
    struct i8237 *p = container_of(d, struct i8237, dev);

    master_clear(&p->chip[0]);
    master_clear(&p->chip[1]);
}
static bool dma_realize(struct dev *d, struct err **errp)
{
    struct i8237 *p = container_of(d, struct i8237, dev);
    struct mem_sys *s = dev_machine(d)->mem_sys;

    for (unsigned n = 0; n < 2; n++) {
        p->chip[n].owner = p;
        p->chip[n].shift = n;
        mem_region_init_io(&p->chip[n].regs, s, &chip_ops, &p->chip[n], "dma", 16u << n);
        dev_map_io(d, &p->chip[n].regs, n ? 0xc0 : 0x00);
    }
    mem_region_init_io(&p->pages, s, &page_ops, p, "dma-page", 15);
    dev_map_io(d, &p->pages, 0x81);
    dma_reset(d);
    return true;
}
static void dma_unrealize(struct dev *d)
{
    struct i8237 *p = container_of(d, struct i8237, dev);

    mem_region_free(&p->chip[0].regs);
    mem_region_free(&p->chip[1].regs);
    mem_region_free(&p->pages);
}
static const struct state_field chan_fields[] = {
    STATE_U16(struct dma_chan, base_addr), STATE_U16(struct dma_chan, base_count), STATE_U16(struct dma_chan, addr),
    STATE_U16(struct dma_chan, count),     STATE_U8(struct dma_chan, mode),        STATE_END};
static const struct state_desc chan_state = {.name = "dma-channel", .version = 1, .fields = chan_fields};
static const struct state_field chip_fields[] = {STATE_STRUCTS(struct dma_chip, ch, chan_state),
                                                 STATE_U8(struct dma_chip, command),
                                                 STATE_U8(struct dma_chip, mask),
                                                 STATE_U8(struct dma_chip, status),
                                                 STATE_U8(struct dma_chip, request),
                                                 STATE_BOOL(struct dma_chip, flip_flop),
                                                 STATE_END};
static const struct state_desc chip_state = {.name = "dma-chip", .version = 1, .fields = chip_fields};
static const struct state_field dma_fields[] = {STATE_STRUCTS(struct i8237, chip, chip_state),
                                                STATE_BYTES(struct i8237, page), STATE_END};
static const struct dev_class dma_class = {.name = "i8257",
                                           .parent = "isa-device",
                                           .size = sizeof(struct i8237),
                                           .board_only = true,
                                           .realize = dma_realize,
                                           .unrealize = dma_unrealize,
                                           .reset = dma_reset,
                                           .state_version = 1,
                                           .state = dma_fields};
DEV_REGISTER(dma_class)
