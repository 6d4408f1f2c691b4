/* -icount: the virtual clock counts executed instructions, so that a run depends on nothing but what the guest
 * executes.
 *
 * Every instruction takes 2^shift nanoseconds of guest time; a string instruction with REP counts as one. Timers of the
 * virtual clock fire on the vCPU's thread at the instruction they are due. One CPU; it runs by the interpreter, under
 * -accel tcg too. While the CPU halts the clock jumps to the next timer: after as much real time has passed with
 * sleep=on, at once with sleep=off. align=on holds the CPU back when guest time runs ahead of real time. shift=auto
 * moves the shift so that guest time keeps up with real time, and gives up determinism for it.
 *
 * What still comes from outside, and what a record/replay log would have to hold, each with the instruction count at
 * which the CPU saw it: an interrupt wire or pin changed from the main loop (completion of a disk request, a packet, a
 * character, a key), the bytes such an event put into guest memory or a device's registers, reads of the host's wall
 * clock (-rtc clock=host), of the host's random numbers (RDRAND, virtio-rng), and the requests of monitors. Nothing is
 * recorded yet. */
#ifndef ACCEL_ICOUNT_H
#define ACCEL_ICOUNT_H

#include "base/opts.h"
#include "cpu/cpu.h"

struct icount;
/* Reads shift=, align=, sleep= and hands the virtual clock over to instructions; before any vCPU. NULL: error. */
struct icount *icount_new(struct machine *m, struct opts *o, struct err **errp);
/* Makes the vCPU run by counting; accelerators call it in vcpu_init when m->icount is set. False: not with this one. */
bool icount_vcpu(struct vcpu *v, struct err **errp);
char *icount_info(const struct machine *m); /* counts and the trace hash, caller frees */

#endif
