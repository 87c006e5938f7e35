// Both loaders' entries, up to flat 32-bit code with a stack; then start_flat (enter32.S, enter64.S).

#define MULTIBOOT_FLAGS 3 // page-aligned modules, memory information

    .section .multiboot, "a"
    .balign 4
    .long 0x1badb002
    .long MULTIBOOT_FLAGS
    .long -(0x1badb002 + MULTIBOOT_FLAGS)

    .section .note.pvh, "a", @note
    .balign 4
    .long 4
    .long 4
    .long 18 // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_entry

    .section .text.boot, "ax"
    .code32
    .globl multiboot_entry
multiboot_entry:
    movl %eax, boot_magic
    jmp 1f
pvh_entry:
    movl $0x336ec578, boot_magic
1:  movl %ebx, boot_info
    movl $boot_stack_top, %esp
    cld
    jmp start_flat

    .section .data
    .balign 4
    .globl boot_magic, boot_info
boot_magic: .long 0
boot_info: .long 0

    .section .bss
    .balign 4096
    .globl boot_stack_top
    .skip 65536
boot_stack_top:

    .section .note.GNU-stack, "", @progbits
