/* The option ROMs built from boot.S. */
#ifndef BOARD_X86_ROM_ROM_H
#define BOARD_X86_ROM_ROM_H

extern const unsigned char rom_linuxboot[], rom_boot32[];
extern const unsigned rom_linuxboot_len, rom_boot32_len;

#endif
