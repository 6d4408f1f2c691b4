/* What the roots of both host bridges are: a PCI bus, the configuration ports, PCI memory below RAM, the shadow areas.
 * Private to hw/north. */
#ifndef HW_NORTH_NORTH_HOST_H
#define HW_NORTH_NORTH_HOST_H

#include "hw/north/shadow.h"
#include "hw/pci/host.h"

struct north_host {
    struct dev dev; /* first */
    struct pci_bus bus;
    struct pci_conf_ports conf;
    struct mem_region pci_mem;
    struct shadow shadow;
    const struct north_cfg *cfg; /* borrowed until realize returns */
    uint64_t below_4g, above_4g, hole64_size;
};
static inline struct north_host *north_host_of(const struct dev *d)
{
    return container_of(d, struct north_host, dev);
}
/* The parts of realize and unrealize that both share; h->cfg is set. */
void north_host_init(struct north_host *h, const char *bus, bool express);
void north_host_fini(struct north_host *h);
/* Makes the root `root` and its function 00.0 `function` and fills in *out; false: *errp says why. */
bool north_host_create(struct machine *m, const char *root, const char *function, const struct north_cfg *cfg,
                       struct north *out, struct err **errp);
extern const struct state_field north_host_fields[];

#endif
