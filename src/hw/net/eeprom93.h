/* The 93C46 serial EEPROM behind NICs: 64 words of 16 bits over chip select, clock, data in and data out (Microwire).
 * Only READ is understood; a write is ignored, as on a board with the write protection on. */
#ifndef HW_NET_EEPROM93_H
#define HW_NET_EEPROM93_H

#include "base/util.h"
#include "obj/state.h"

enum { EEPROM93_WORDS = 64 };
struct eeprom93 {
    uint16_t word[EEPROM93_WORDS];
    uint32_t in; /* bits taken so far, then the address being read */
    uint16_t out;
    uint8_t bits_in, bits_out;
    bool cs, sk, reading;
};

/* A rising clock edge: start bit, 2 of opcode, 6 of address come in; then a 0 and 16 bits, and the next words, go out.
 */
static inline void eeprom93_edge(struct eeprom93 *e, bool di)
{
    if (e->reading) {
        if (e->bits_out) {
            e->bits_out--;
        } else {
            e->bits_out = 15;
            e->in = (e->in + 1) % EEPROM93_WORDS;
            e->out = e->word[e->in];
        }
        return;
    }
    if (!e->bits_in && !di)
        return; /* waits for the start bit */
    e->in = e->in << 1 | di;
    if (++e->bits_in < 9)
        return;
    if ((e->in >> 6 & 7) == 6) {
        e->in %= EEPROM93_WORDS;
        e->out = e->word[e->in];
        e->reading = true;
        e->bits_out = 16;
    } else {
        e->bits_in = 0;
        e->in = 0;
    }
}

static inline void eeprom93_write(struct eeprom93 *e, bool cs, bool sk, bool di)
{
    if (!cs) {
        e->in = 0;
        e->bits_in = e->bits_out = 0;
        e->reading = false;
    } else if (e->cs && !e->sk && sk) {
        eeprom93_edge(e, di);
    }
    e->cs = cs;
    e->sk = sk;
}

/* The lines and what has gone over them; the words are the owner's. */
#define EEPROM93_STATE(S, f)                                                                                           \
    STATE_U32(S, f.in), STATE_U16(S, f.out), STATE_U8(S, f.bits_in), STATE_U8(S, f.bits_out), STATE_BOOL(S, f.cs),     \
        STATE_BOOL(S, f.sk), STATE_BOOL(S, f.reading)
static inline bool eeprom93_ok(const struct eeprom93 *e)
{
    return e->bits_in <= 9 && e->bits_out <= 16 && (!e->reading || e->in < EEPROM93_WORDS);
}

static inline bool eeprom93_out(const struct eeprom93 *e)
{
    return !e->reading || (e->bits_out < 16 && (e->out >> e->bits_out & 1));
}

#endif
