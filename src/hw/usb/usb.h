/* USB: a bus of ports and the devices on them, for host controllers. Source: USB 2.0, chapters 8 and 9.
 *
 * A controller embeds a struct usb_bus and gives packets to devices; a device answers at once with a length, USB_NAK or
 * USB_STALL. Control transfers come packet by packet (usb_packet) or whole (usb_control). Machine lock held. */
#ifndef HW_USB_USB_H
#define HW_USB_USB_H

#include "dev/dev.h"

enum { USB_MAX_PORTS = 16, USB_CONTROL_MAX = 4096 };
enum usb_pid { USB_OUT = 0xe1, USB_IN = 0x69, USB_SETUP = 0x2d };
enum { USB_NAK = -1, USB_STALL = -2, USB_BABBLE = -3 };
enum usb_speed { USB_LOW, USB_FULL, USB_HIGH, USB_SUPER };
/* bmRequestType and bRequest, table 9-4. */
enum { USB_DIR_IN = 0x80, USB_TYPE_CLASS = 0x20, USB_RCPT_INTERFACE = 1, USB_RCPT_ENDPOINT = 2 };

struct usb_dev;
struct usb_bus;

struct usb_dev_class {
    struct dev_class;
    const uint8_t *device_desc, *config_desc; /* as the bus carries them, the configuration with all below it */
    /* The same at high and at super speed; NULL when it has not the speed. */
    const uint8_t *hs_device_desc, *hs_config_desc, *ss_device_desc, *ss_config_desc;
    const uint8_t *bos_desc;    /* with what is below it; may be NULL */
    const char *fw_name;        /* in Open Firmware paths; NULL: "device" */
    const char *const *strings; /* from index 1 on, NULL-terminated */
    enum usb_speed speed;       /* the one it has, or the lowest */
    /* Requests that chapter 9 leaves to the class: data holds len bytes to the device, or takes up to len from it.
     * Returns how many, or USB_STALL. */
    int (*control)(struct usb_dev *d, const uint8_t setup[8], uint8_t *data, unsigned len);
    int (*in)(struct usb_dev *d, unsigned ep, uint8_t *data, unsigned len);
    int (*out)(struct usb_dev *d, unsigned ep, const uint8_t *data, unsigned len); /* NULL: no OUT endpoints but 0 */
    void (*usb_reset)(struct usb_dev *d);                                          /* bus reset; may be NULL */
};

struct usb_dev {
    struct dev dev;                              /* first */
    char *port;                                  /* property: number of the port, NULL = first free */
    uint32_t usb_version;                        /* property of devices with several speeds: the fastest it may be */
    unsigned nr;                                 /* port it sits on, from 0 */
    enum usb_speed speed;                        /* at that port */
    uint8_t addr, config, remote_wakeup, halted; /* halted: bit per IN endpoint */
    /* The control transfer under way. */
    uint8_t setup[8], data[USB_CONTROL_MAX];
    uint32_t len, at; /* bytes in data; how many went */
    uint8_t phase;
};
static inline const struct usb_dev_class *usb_class(const struct usb_dev *d)
{
    return (const struct usb_dev_class *)d->dev.obj.cls;
}
const uint8_t *usb_device_desc(const struct usb_dev *d); /* what holds at its speed */
const uint8_t *usb_config_desc(const struct usb_dev *d);
extern const struct prop usb_props[]; /* port, serial: .more_props of every USB class */
extern const struct state_desc usb_dev_state;
#define USB_REGISTER(cls_) OBJ_REGISTER_AS(cls_, usb)

struct usb_bus {
    struct bus bus; /* first; type "USB" */
    unsigned nr_ports;
    struct usb_dev *port[USB_MAX_PORTS];                          /* borrowed */
    uint8_t speeds[USB_MAX_PORTS];                                /* bit per usb_speed of a port; 0 = low and full */
    void (*changed)(void *opaque, unsigned port);                 /* a device came or went; port[] is up to date */
    void (*wakeup)(void *opaque, struct usb_dev *d, unsigned ep); /* an endpoint that gave a NAK would not now */
    void *opaque;
};
/* max_devs of cls must be nr_ports, so that a full bus is passed over. */
void usb_bus_init(struct usb_bus *b, const struct bus_class *cls, struct dev *owner, unsigned nr_ports);
void usb_bus_fini(struct usb_bus *b);
/* What a bus class of a controller is made of. */
bool usb_bus_plug(struct bus *b, struct dev *d, struct err **errp);
bool usb_bus_plugged(struct bus *b, struct dev *d, struct err **errp);
void usb_bus_unplug(struct bus *b, struct dev *d);
char *usb_bus_fw_path(struct dev *d);
#define USB_BUS_CLASS(ports)                                                                                           \
    {                                                                                                                  \
        .type = "USB", .plug = usb_bus_plug, .plugged = usb_bus_plugged, .unplug = usb_bus_unplug,                     \
        .fw_path = usb_bus_fw_path, .max_devs = (ports)                                                                \
    }

/* For controllers. */
void usb_bus_reset_port(struct usb_bus *b, unsigned port); /* bus reset: the device is at address 0, unconfigured */
int usb_packet(struct usb_dev *d, enum usb_pid pid, unsigned ep, uint8_t *buf, unsigned len);
int usb_control(struct usb_dev *d, const uint8_t setup[8], uint8_t *data, unsigned len);
/* For devices: endpoint ep, which gave a NAK, has something to say or room again. */
void usb_wakeup(struct usb_dev *d, unsigned ep);

#endif
