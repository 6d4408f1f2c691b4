/* Option ROMs that start a kernel handed over in fw_cfg. Assembled twice:
 *   LINUX   Linux/x86 boot protocol: loads setup, command line, kernel and initrd, enters the setup code in real mode.
 *   (else)  multiboot and PVH: loads the image, its RAM disk and an information block, adds the firmware's memory map to the
 *           block and enters the image in flat 32-bit protected mode with EBX = block.
 *
 * The ROM offers a boot entry vector (PnP BIOS specification 1.0A, BIOS boot specification 1.01), so firmware runs it as a boot
 * device. Data come through fw_cfg DMA. The board sets the two checksums. Works in segment 0 below 0x7c00, as a boot sector. */

.set ROM_BLOCKS, 4
.set DESC, 0x7b00               /* fw_cfg DMA request: control, length, address; all big-endian */
.set VALUE, 0x7b20
.set SMAP, 0x534d4150

/* fw_cfg selectors. */
.set KERNEL_ADDR, 0x07
.set KERNEL_SIZE, 0x08
.set INITRD_ADDR, 0x0a
.set INITRD_SIZE, 0x0b
.set KERNEL_ENTRY, 0x10
.set KERNEL_DATA, 0x11
.set INITRD_DATA, 0x12
.set CMDLINE_ADDR, 0x13
.set CMDLINE_SIZE, 0x14
.set CMDLINE_DATA, 0x15
.set SETUP_ADDR, 0x16
.set SETUP_SIZE, 0x17
.set SETUP_DATA, 0x18

    .code16
    .text
    .globl _start
_start:
    .byte 0x55, 0xaa, ROM_BLOCKS
    lret                        /* offset 3: nothing to initialise */
    .org 0x06
    .byte 0                     /* checksum of the ROM */
    .org 0x1a
    .word pnp
    .org 0x20
pnp:
    .ascii "$PnP"
    .byte 1, 2                  /* revision, length / 16 */
    .word 0
    .byte 0
    .byte 0                     /* checksum of this header */
    .long 0
    .word maker
    .word product
    .byte 0, 0, 0, 0
    .word 0, 0
    .word boot
    .word 0, 0
maker:
    .asciz "Lyrebird"
product:
#ifdef LINUX
    .asciz "Linux kernel from the host"
#else
    .asciz "Kernel from the host"
#endif

boot:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $DESC, %sp
    movw $kernel_keys, %si
    call load
    movw $initrd_keys, %si
    call load
#ifdef LINUX
    movw $cmdline_keys, %si
    call load
#endif
    movw $setup_keys, %si
    call load

#ifdef LINUX
    /* Stack and heap end below the command line; setup code starts 0x200 into its image. */
    movw $SETUP_ADDR, %ax
    call read32
    movl %eax, %ebx
    movw $CMDLINE_ADDR, %ax
    call read32
    subl %ebx, %eax
    subl $16, %eax
    movl %eax, %esp
    shrl $4, %ebx
    movw %bx, %ds
    movw %bx, %es
    movw %bx, %fs
    movw %bx, %gs
    movw %bx, %ss
    addw $0x20, %bx
    pushw %bx
    pushw $0
    lretw
#else
    movw $SETUP_ADDR, %ax
    call read32
    movl %eax, %ebp             /* information block, below 1 MiB, 16-byte aligned */
    shrl $4, %eax
    movw %ax, %es
    /* Block header: dword 0xf0 = value for EAX, 0xf4 = where in an entry the 20 bytes go, 0xf8 = offset of the entry count,
     * 0xfc = 1: count in bytes. Entries of 24 bytes start at 0x100; at most 128 - 28. */
    movw $0x100, %di
    xorl %ebx, %ebx
1:  pushw %di
    addw %es:0xf4, %di
    movl $0xe820, %eax
    movl $20, %ecx
    movl $SMAP, %edx
    int $0x15
    popw %di
    jc 2f
    cmpl $SMAP, %eax
    jne 2f
    addw $24, %di
    testl %ebx, %ebx
    jz 2f
    cmpw $(0x100 + 100 * 24), %di
    jb 1b
2:  movzwl %di, %eax
    subl $0x100, %eax
    cmpl $1, %es:0xfc
    je 3f
    xorl %edx, %edx
    movl $24, %ecx
    divl %ecx
3:  movw %es:0xf8, %bx
    movl %eax, %es:(%bx)
    /* Multiboot's two sizes; a PVH block has its first words elsewhere and flag 0xfc clear. */
    cmpl $1, %es:0xfc
    jne 4f
    int $0x12
    movzwl %ax, %eax
    movl %eax, %es:4
    xorw %cx, %cx
    xorw %dx, %dx
    movw $0xe801, %ax
    int $0x15
    movzwl %dx, %edx
    shll $6, %edx
    movzwl %cx, %eax
    addl %edx, %eax
    movl %eax, %es:8
4:  cli
    movw $KERNEL_ENTRY, %ax
    call read32
    movl %eax, %edi
    movl %es:0xf0, %esi         /* magic for EAX */
    inb $0x92, %al
    orb $2, %al
    outb %al, $0x92
    /* GDT and the far jump go to RAM: this ROM may be anywhere. */
    xorl %eax, %eax
    movw %cs, %ax
    shll $4, %eax
    leal flat(%eax), %ecx
    movl %ecx, VALUE
    movw $8, VALUE + 4
    addl $gdt, %eax
    movw $(gdt_end - gdt - 1), VALUE + 8
    movl %eax, VALUE + 10
    lgdtl VALUE + 8
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl *VALUE

    .code32
flat:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movl %esi, %eax
    movl %ebp, %ebx
    xorl %ebp, %ebp
    jmp *%edi
    .code16

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    /* flat code */
    .quad 0x00cf93000000ffff    /* flat data */
gdt_end:
#endif

/* Loads one item: CS:SI points at its three selectors (address, size, data). */
load:
    movw %cs:(%si), %ax
    call read32
    movl %eax, %ebp
    movw %cs:2(%si), %ax
    call read32
    movl %eax, %ecx
    jecxz 1f
    movl %ebp, %edi
    movw %cs:4(%si), %ax
    call read
1:  ret

/* EAX = little-endian value of item AX. */
read32:
    movl $VALUE, %edi
    movl $4, %ecx
    call read
    movl VALUE, %eax
    ret

/* Reads ECX bytes from the start of item AX to physical address EDI. */
read:
    shll $16, %eax
    movw $0x0a, %ax             /* select, read */
    bswapl %eax
    movl %eax, DESC
    movl %ecx, %eax
    bswapl %eax
    movl %eax, DESC + 4
    xorl %eax, %eax
    movl %eax, DESC + 8
    movl %edi, %eax
    bswapl %eax
    movl %eax, DESC + 12
    xorl %eax, %eax
    movw $0x514, %dx
    outl %eax, %dx
    movl $DESC, %eax
    bswapl %eax
    movw $0x518, %dx
    outl %eax, %dx
1:  movl DESC, %eax
    bswapl %eax
    testl $~1, %eax
    jnz 1b
    ret

kernel_keys:
    .word KERNEL_ADDR, KERNEL_SIZE, KERNEL_DATA
initrd_keys:
    .word INITRD_ADDR, INITRD_SIZE, INITRD_DATA
#ifdef LINUX
cmdline_keys:
    .word CMDLINE_ADDR, CMDLINE_SIZE, CMDLINE_DATA
#endif
setup_keys:
    .word SETUP_ADDR, SETUP_SIZE, SETUP_DATA
    .org ROM_BLOCKS * 512 - 1
    .byte 0
