/* SMBus host controller of the 82371AB (chapter 11.5) and ICH9 (chapter 20.2): commands finish at once.
 *
 * Byte, byte data, word data and block reads reach read-only SPD memories at 50h-57h where the board filled them in;
 * every other address gives a device error. No interrupts, no SMBus alerts, no I2C read. */
#include "hw/i2c/smbus.h"

enum { HST_STS = 0, HST_CNT = 2, HST_CMD = 3, XMIT_SLVA = 4, HST_D0 = 5, HST_D1 = 6, HOST_BLOCK_DB = 7, AUX_CTL = 13 };
enum { STS_INTR = 2, STS_DEV_ERR = 4, STS_W1C = 0xde, CNT_START = 0x40 };
enum { CMD_QUICK, CMD_BYTE, CMD_BYTE_DATA, CMD_WORD_DATA, CMD_PROC_CALL, CMD_BLOCK };

static void run_command(struct smbus_host *h)
{
    unsigned n = (h->slva >> 1) - 0x50u;
    const uint8_t *mem = h->spd[n & 7];

    if (n > 7 || !h->has_spd[n] || !(h->slva & 1)) {
        h->sts |= STS_DEV_ERR;
        return;
    }
    switch (h->cnt >> 2 & 7) {
    case CMD_QUICK:
        break;
    case CMD_BYTE:
    case CMD_BYTE_DATA:
        h->d0 = mem[h->cmd];
        break;
    case CMD_WORD_DATA:
        h->d0 = mem[h->cmd];
        h->d1 = mem[(h->cmd + 1) & 0xff];
        break;
    case CMD_BLOCK:
        h->d0 = 32;
        for (unsigned i = 0; i < 32; i++)
            h->block[i] = mem[(h->cmd + i) & 0xff];
        h->block_pos = 0;
        break;
    default:
        h->sts |= STS_DEV_ERR;
        return;
    }
    h->sts |= STS_INTR;
}

static uint64_t smb_read(void *opaque, gpa_t off, unsigned size)
{
    struct smbus_host *h = opaque;

    switch (off) {
    case HST_STS:
        return h->sts;
    case HST_CNT:
        h->block_pos = 0;
        return h->cnt & 0x1f;
    case HST_CMD:
        return h->cmd;
    case XMIT_SLVA:
        return h->slva;
    case HST_D0:
        return h->d0;
    case HST_D1:
        return h->d1;
    case HOST_BLOCK_DB:
        return h->block[h->block_pos++ % sizeof h->block];
    case AUX_CTL:
        return h->auxctl;
    }
    return 0;
}
static void smb_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct smbus_host *h = opaque;
    uint8_t v = (uint8_t)val;

    switch (off) {
    case HST_STS:
        h->sts &= (uint8_t) ~(v & STS_W1C);
        break;
    case HST_CNT:
        h->cnt = v;
        if (v & CNT_START)
            run_command(h);
        break;
    case HST_CMD:
        h->cmd = v;
        break;
    case XMIT_SLVA:
        h->slva = v;
        break;
    case HST_D0:
        h->d0 = v;
        break;
    case HST_D1:
        h->d1 = v;
        break;
    case HOST_BLOCK_DB:
        h->block[h->block_pos++ % sizeof h->block] = v;
        break;
    case AUX_CTL:
        h->auxctl = v & 3;
        break;
    }
}
static const struct mem_ops smb_ops = {.read = smb_read, .write = smb_write, .impl_max = 1};

void smbus_host_reset(struct smbus_host *h)
{
    h->sts = h->cnt = h->cmd = h->slva = h->d0 = h->d1 = h->auxctl = h->block_pos = 0;
}
void smbus_host_init(struct smbus_host *h, struct machine *m)
{
    mem_region_init_io(&h->io, m->mem_sys, &smb_ops, h, "smbus", 16);
}

static const struct state_field smb_fields[] = {
    STATE_U8(struct smbus_host, sts),       STATE_U8(struct smbus_host, cnt),
    STATE_U8(struct smbus_host, cmd),       STATE_U8(struct smbus_host, slva),
    STATE_U8(struct smbus_host, d0),        STATE_U8(struct smbus_host, d1),
    STATE_U8(struct smbus_host, auxctl),    STATE_BYTES(struct smbus_host, block),
    STATE_U8(struct smbus_host, block_pos), STATE_END};
const struct state_desc smbus_host_state = {.name = "smbus", .version = 1, .fields = smb_fields};
