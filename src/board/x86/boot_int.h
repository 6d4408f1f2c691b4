/* Between the kernel loaders of the PC boards. */
#ifndef BOARD_X86_BOOT_INT_H
#define BOARD_X86_BOOT_INT_H

#include "board/x86/pc_int.h"

/* Memory a loader may use below 4 GiB: firmware keeps its tables above. */
uint64_t boot_ram_end(const struct pc *p);
/* Multiboot images, and ELF files with a PVH entry. *taken: the file is of a kind handled here. */
bool boot_multiboot(struct pc *p, uint8_t *image, size_t len, bool *taken, struct err **errp);
bool boot_pvh(struct pc *p, uint8_t *image, size_t len, struct err **errp);
bool boot_is_elf(const uint8_t *image, size_t len);

/* What an ELF file occupies once loaded. */
struct boot_elf {
    uint64_t start, end; /* physical, end exclusive */
    uint64_t entry;
    uint64_t pvh_entry; /* of the note; 0 = none */
    bool is64;
    uint8_t *mem; /* owned: end - start bytes */
};
bool boot_elf_load(const uint8_t *image, size_t len, uint64_t limit, struct boot_elf *out, struct err **errp);
/* Publishes an option ROM under genroms/ with its checksums set and makes it the first boot entry. */
bool boot_add_rom(struct pc *p, const char *name, const uint8_t *rom, unsigned len, struct err **errp);
/* The three blobs the 32-bit ROM loads. Each is taken over; NULL = none. */
void boot_set_blob(struct pc *p, uint16_t addr_key, uint64_t addr, uint8_t *data, size_t len);

/* Information block of the 32-bit ROM: header for the loaded program, control words, memory map, then strings and
 * lists. */
enum {
    INFO_ADDR = 0x10000,
    INFO_MAX = 0x60000,
    INFO_EAX = 0xf0,
    INFO_ENTRY_OFF = 0xf4,
    INFO_COUNT_AT = 0xf8,
    INFO_IN_BYTES = 0xfc,
    INFO_MAP = 0x100,
    INFO_MAP_ENTRY = 24,
    INFO_MAP_MAX = 100,
    INFO_REST = 0xb00
};

#endif
