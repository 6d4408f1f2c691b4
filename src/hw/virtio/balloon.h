/* What a monitor may ask of a memory balloon. */
#ifndef HW_VIRTIO_BALLOON_H
#define HW_VIRTIO_BALLOON_H

#include "dev/dev.h"

/* The machine's balloon device, NULL when there is none. */
struct dev *balloon_find(struct machine *m);
/* Asks the guest to shrink or grow to `bytes` of memory. */
bool balloon_set_target(struct dev *d, uint64_t bytes, struct err **errp);
/* What the guest has now. */
uint64_t balloon_actual(struct dev *d);

#endif
