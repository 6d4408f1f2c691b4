/* SMBus host controller of PIIX4 and ICH (same programming model), embedded by the bridge function. */
#ifndef HW_I2C_SMBUS_H
#define HW_I2C_SMBUS_H

#include "dev/dev.h"

struct smbus_host {
    struct mem_region io; /* 16 ports */
    uint8_t sts, cnt, cmd, slva, d0, d1, auxctl, block[32], block_pos;
    uint8_t spd[8][256]; /* memory module descriptions at 50h-57h */
    bool has_spd[8];
};
void smbus_host_init(struct smbus_host *h, struct machine *m);
void smbus_host_reset(struct smbus_host *h);
extern const struct state_desc smbus_host_state;

#endif
