/* A 16550A UART without a bus: whoever embeds it maps its 8 registers and takes its interrupt. */
#ifndef HW_CHAR_UART_H
#define HW_CHAR_UART_H

#include "chr/chr.h"
#include "dev/dev.h"

enum { UART_FIFO = 16 };
struct uart {
    struct chr_fe chr; /* property of the owner */
    struct mem_region io;
    void (*set_irq)(void *opaque, int level);
    void *opaque;
    struct run *run;
    uint8_t rx[UART_FIFO], rx_head, rx_len, tx[UART_FIFO], tx_head, tx_len;
    uint8_t ier, iir, fcr, lcr, mcr, lsr, msr, scr;
    uint16_t divisor;
    bool thre_pending, timeout_pending, irq_on;
    struct clk_timer timeout; /* receive data sits below the trigger level */
    uint32_t baudbase;
};
/* set_irq is called on changes only. */
void uart_init(struct uart *u, struct dev *owner, void (*set_irq)(void *opaque, int level), void *opaque);
void uart_fini(struct uart *u);
void uart_reset(struct uart *u);
extern const struct state_desc uart_state;

#endif
