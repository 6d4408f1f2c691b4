/* A firmware image that is a test: reset vector, switch to 32-bit (and with LONG, 64-bit) code, jump to main.
 * The image lies at the top of 4 GiB and is copied to 1 MiB, where it is linked. Traps are recorded and resumed (trap.h). */
        .code32
        .section .head, "ax"
        .globl  _start
_start:
/* ---- runs at the copy ---- */
        movl    $0x10, %eax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $0x90000, %esp
        movl    $bss_start, %edi
        movl    $bss_end, %ecx
        subl    %edi, %ecx
        xorl    %eax, %eax
        cld
        rep stosb
#ifdef LONG
        /* 1:1 tables for 4 GiB in 2 MiB pages at 80000h */
        movl    $0x80000, %edi
        movl    $0x6000 / 4, %ecx
        rep stosl
        movl    $0x81007, 0x80000
        movl    $0x82007, 0x81000
        movl    $0x83007, 0x81008
        movl    $0x84007, 0x81010
        movl    $0x85007, 0x81018
        movl    $0x82000, %edi
        movl    $0x87, %eax
        movl    $2048, %ecx
1:      movl    %eax, (%edi)
        addl    $0x200000, %eax
        addl    $8, %edi
        loop    1b
        movl    %cr4, %eax
        orl     $0x620, %eax
        movl    %eax, %cr4
        movl    $0x80000, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx
        rdmsr
        orl     $0x901, %eax
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000000, %eax
        movl    %eax, %cr0
        ljmp    $0x18, $1f
        .code64
1:      lgdt    gdt_ptr64(%rip)
        call    main
#else
        lgdt    gdt_ptr
        call    main
#endif
2:      hlt
        jmp     2b
        .code32

        .section .data
        .globl  gdt
        .balign 16
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      /* 08 code 32 */
        .quad   0x00cf93000000ffff      /* 10 data */
        .quad   0x00af9b000000ffff      /* 18 code 64 */
        .quad   0x00cffb000000ffff      /* 20 user code 32 */
        .quad   0x00cff3000000ffff      /* 28 user data */
        .quad   0x00affb000000ffff      /* 30 user code 64 */
        .fill   64, 8, 0                /* 38.. by the test */
gdt_ptr: .word  . - gdt - 1
        .long   gdt
#ifdef LONG
gdt_ptr64: .word gdt_ptr - gdt - 1
        .quad   gdt
#endif

/* ---- trap stubs: 16 bytes each ---- */
        .text
        .globl  stubs
        .balign 16
stubs:
        vec = 0
        .rept   256
        .balign 16
#ifdef LONG
        .code64
        .if (vec != 8) && ((vec < 10) || (vec > 14)) && (vec != 17)
        push    $0
        .endif
        push    $vec
        jmp     common
#else
        .if (vec != 8) && ((vec < 10) || (vec > 14)) && (vec != 17)
        pushl   $0x0
        .endif
        pushl   $vec
        jmp     common
#endif
        vec = vec + 1
        .endr
common:
#ifdef LONG
        cld
        popq    trap_vec
        popq    trap_err
        popq    trap_ip
        popq    trap_cs
        popq    trap_flags
        popq    trap_sp
        popq    trap_ss
        movq    %rax, trap_ax
        movq    %cr2, %rax
        movq    %rax, trap_cr2
        movl    $0x10, %eax
        movl    %eax, %ss
        movq    trap_saved, %rsp
        jmp     *trap_resume
#else
        cld
        pushl   %ds
        pushl   %eax
        movl    $0x10, %eax
        movw    %ax, %ds
        popl    trap_ax
        popl    trap_ds
        popl    trap_vec
        popl    trap_err
        popl    trap_ip
        popl    trap_cs
        popl    trap_flags
        movl    %esp, trap_sp
        movw    %ss, trap_ss
        movl    %cr2, %eax
        movl    %eax, trap_cr2
        movl    $0x10, %eax
        movw    %ax, %es
        movw    %ax, %fs
        movw    %ax, %gs
        movw    %ax, %ss
        movl    trap_saved, %esp
        jmp     *trap_resume
#endif

/* ---- reset: real mode at the top of 4 GiB ---- */
        .section .reset, "ax"
        .code16
boot16: cli
        lgdtl   %cs:(boot_ptr - boot16 + BOOT_OFF)
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $0x08, $(boot32 - boot16 + 0xffff0000 + BOOT_OFF)
        .code32
boot32: movl    $0x10, %eax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $0xfffe0000, %esi
        movl    $0x100000, %edi
        movl    $0x20000 / 4, %ecx
        cld
        rep movsl
        movl    $0x100000, %eax
        jmp     *%eax
        .balign 8
boot_gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
boot_ptr: .word 31
        .long   boot_gdt - boot16 + 0xffff0000 + BOOT_OFF
        .org    BOOT_LEN - 16
        .code16
        .byte   0xe9                    /* jmp boot16 */
        .word   -(BOOT_LEN - 16) - 3
        .org    BOOT_LEN
