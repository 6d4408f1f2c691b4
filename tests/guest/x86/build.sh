#!/bin/sh
# Builds the test images: build.sh OUTDIR. Each is a firmware of 128 KiB.
set -e
cd "$(dirname "$0")"
out=$1
one() { # name flags; the source is the name up to a dot
    name=$1; shift
    gcc "$@" -c -DBOOT_OFF=0xf000 -DBOOT_LEN=0x1000 start.S -o "$out/$name-start.o"
    gcc "$@" -std=gnu11 -O1 -ffreestanding -fno-pic -fno-pie -fno-stack-protector -fno-asynchronous-unwind-tables -mno-sse -mno-red-zone \
        -fno-omit-frame-pointer -fno-toplevel-reorder -fcommon -w -c "${name%.*}.c" -o "$out/$name.o"
    ld "-m$EMU" -T link.ld "$out/$name-start.o" "$out/$name.o" -o "$out/$name.elf"
    objcopy -O binary -j .image "$out/$name.elf" "$out/$name.img"
    objcopy -O binary -j .reset "$out/$name.elf" "$out/$name.rst"
    truncate -s 126976 "$out/$name.img"
    cat "$out/$name.img" "$out/$name.rst" > "$out/$name.bin"
    test "$(stat -c %s "$out/$name.bin")" = 131072
}
EMU=elf_i386 one prot -m32
EMU=elf_x86_64 one long -DLONG -m64 -mno-sse -mcmodel=small
EMU=elf_i386 one shadow.32 -m32
EMU=elf_x86_64 one shadow.64 -DLONG -m64 -mno-sse -mcmodel=small
EMU=elf_x86_64 one dirty -DLONG -m64 -mno-sse -mcmodel=small
EMU=elf_x86_64 one calls -DLONG -m64 -mno-sse -mcmodel=small
