/* An SD card as its host controller sees it. Source: SD Specifications Part 1, Physical Layer Simplified, version 6.00.
 *
 * The bus takes one card. The controller gives it commands, whose answers come at once, then moves the data of a
 * transfer in pieces of any size, one at a time; a command that leaves the card busy ends with bus->idle. Machine lock
 * held. */
#ifndef HW_SD_SD_H
#define HW_SD_SD_H

#include "blk/blk.h"
#include "dev/dev.h"

enum { SD_BLOCK = 512, SD_REG_MAX = 64, SD_LONG = 16, SD_SHORT = 4 };
enum sd_dir { SD_NO_DATA, SD_FROM_CARD, SD_TO_CARD };

struct sd_bus;
struct sd_card {
    struct dev dev;
    struct blk *blk; /* property */
    uint32_t ocr, rca, errors;
    uint8_t state;
    bool app_cmd; /* the next command is one of the application's */
    uint8_t dir;  /* enum sd_dir of the transfer under way */
    bool single;  /* it is one block, no CMD12 follows */
    bool dirty;   /* written since the last flush */
    bool busy;    /* holds DAT0 low; bus->idle ends it */
    uint64_t off, left, written;
    uint32_t erase_from, erase_to;
    bool erase_ok;
    uint8_t reg[SD_REG_MAX]; /* a register that is read as data */
    bool from_reg;
};
struct sd_bus {
    struct bus bus;
    struct sd_card *card;       /* borrowed; NULL = slot is empty */
    void (*idle)(void *opaque); /* the card is not busy any more */
    void *opaque;
};
void sd_bus_init(struct sd_bus *b, struct dev *owner);
void sd_bus_fini(struct sd_bus *b);

/* Length of the answer in resp (most significant byte first): 0 = none, SD_SHORT, SD_LONG (bits 127 to 8 count). */
unsigned sd_command(struct sd_card *c, unsigned cmd, uint32_t arg, uint8_t resp[SD_LONG]);
/* len bytes of the transfer under way; done comes later or at once, with -errno when there are no such bytes. buf stays
 * valid until then. */
void sd_read(struct sd_card *c, uint8_t *buf, uint32_t len, blk_done_fn *done, void *opaque);
void sd_write(struct sd_card *c, const uint8_t *buf, uint32_t len, blk_done_fn *done, void *opaque);
/* The controller has moved all it wanted. */
void sd_data_end(struct sd_card *c);
bool sd_readonly(const struct sd_card *c);
void sd_power_cycle(struct sd_card *c); /* as CMD0, and identification begins anew */

#endif
