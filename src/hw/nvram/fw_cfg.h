/* fw_cfg: named blobs from the host for firmware. Ports 0x510/0x511 and DMA at 0x514, or MMIO on other boards.
 * Interface as documented by the firmware that reads it (SeaBIOS, OVMF). */
#ifndef HW_NVRAM_FW_CFG_H
#define HW_NVRAM_FW_CFG_H

#include "dev/dev.h"

struct fw_cfg;
/* Well-known selectors. */
enum {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_UUID = 0x02,
    FW_CFG_RAM_SIZE = 0x03,
    FW_CFG_NOGRAPHIC = 0x04,
    FW_CFG_NB_CPUS = 0x05,
    FW_CFG_MACHINE_ID = 0x06,
    FW_CFG_KERNEL_ADDR = 0x07,
    FW_CFG_KERNEL_SIZE = 0x08,
    FW_CFG_INITRD_ADDR = 0x0a,
    FW_CFG_INITRD_SIZE = 0x0b,
    FW_CFG_BOOT_DEVICE = 0x0c,
    FW_CFG_NUMA = 0x0d,
    FW_CFG_BOOT_MENU = 0x0e,
    FW_CFG_MAX_CPUS = 0x0f,
    FW_CFG_KERNEL_ENTRY = 0x10,
    FW_CFG_KERNEL_DATA = 0x11,
    FW_CFG_INITRD_DATA = 0x12,
    FW_CFG_CMDLINE_ADDR = 0x13,
    FW_CFG_CMDLINE_SIZE = 0x14,
    FW_CFG_CMDLINE_DATA = 0x15,
    FW_CFG_SETUP_ADDR = 0x16,
    FW_CFG_SETUP_SIZE = 0x17,
    FW_CFG_SETUP_DATA = 0x18,
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_FILE_FIRST = 0x20,
    FW_CFG_ARCH_LOCAL = 0x8000,
    FW_CFG_ACPI_TABLES = 0x8000,
    FW_CFG_SMBIOS_ENTRIES = 0x8001,
    FW_CFG_E820_TABLE = 0x8003,
    FW_CFG_HPET = 0x8004,
};
/* Data is copied. Adding the same name or key again replaces it. All before the guest runs, or from a select hook. */
bool fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *data, size_t len, struct err **errp);
void fw_cfg_add_key(struct fw_cfg *f, uint16_t key, const void *data, size_t len);
void fw_cfg_add_key_owned(struct fw_cfg *f, uint16_t key, void *data /* from malloc, taken over */, size_t len);
void fw_cfg_add_u16(struct fw_cfg *f, uint16_t key, uint16_t v);
void fw_cfg_add_u32(struct fw_cfg *f, uint16_t key, uint32_t v);
void fw_cfg_add_u64(struct fw_cfg *f, uint16_t key, uint64_t v);
/* A file whose bytes are made when the guest selects it: fill(opaque) may call fw_cfg_add_file on the same name. */
void fw_cfg_on_select(struct fw_cfg *f, const char *name, void (*fill)(void *opaque), void *opaque);
/* A file the guest may write (etc/vmgenid..., bootorder feedback); written runs after each DMA write. */
bool fw_cfg_add_writable(struct fw_cfg *f, const char *name, void *data /* borrowed, len bytes */, size_t len,
                         void (*written)(void *opaque), void *opaque, struct err **errp);
struct fw_cfg *fw_cfg_find(struct machine *m); /* NULL when the board has none */
/* The bytes of a file as they are now (borrowed), for boards that check or patch; NULL = none. */
const void *fw_cfg_file(struct fw_cfg *f, const char *name, size_t *len);
/* Creates the port-mapped device of a PC (class "fw_cfg_io"): ports 0x510-0x51b. NULL with *errp on failure. */
struct fw_cfg *fw_cfg_create_io(struct machine *m, struct err **errp);

#endif
