// Long mode: page tables, descriptor tables, and the 256 trap entries.

    .section .text.boot, "ax"
    .code32
    .globl start_flat
start_flat:
    // pml4[0] -> pdpt; pdpt[0..3] -> directories; 2048 pages of 2 MiB. The user bit is set except in
    // the last level, so that single pages can be opened to ring 3.
    movl $pdpt + 7, pml4
    movl $directories + 7, %eax
    movl $pdpt, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b
    movl $0x83, %eax
    movl $directories, %edi
    movl $2048, %ecx
2:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b
    call enable_long_mode
    lgdt gdt_pointer
    ljmp $0x10, $long_entry

// Also run by application processors.
    .globl enable_long_mode
enable_long_mode:
    movl %cr4, %eax
    orl $0x20, %eax // PAE
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x900, %eax // LME, NXE
    wrmsr
    movl %cr0, %eax
    andl $0x9fffffff, %eax // caches on
    orl $0x80010021, %eax // PG, WP, NE, PE
    movl %eax, %cr0
    ret

    .code64
long_entry:
    call load_data_segments
    movl $boot_stack_top, %esp
    call guest_start
1:  hlt
    jmp 1b

load_data_segments:
    movl $0x18, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    ret

// The first code of an application processor: copied to 0x8000 and started in real mode there.
    .globl ap_trampoline, ap_trampoline_end
    .code16
ap_trampoline:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl 0x8000 + ap_gdt_pointer - ap_trampoline
    movl $0x11, %eax
    movl %eax, %cr0
    ljmpl $0x50, $ap_flat
ap_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
ap_trampoline_end:

    .code32
ap_flat:
    movl $0x18, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl ap_stack, %esp
    call enable_long_mode
    ljmp $0x10, $ap_long
    .code64
ap_long:
    call load_data_segments
    movl ap_stack, %esp
    lidt idt_pointer
    call ap_start
1:  hlt
    jmp 1b

    .text
// unsigned try_enter(fn, arg): calls fn(arg); trap_unwind() makes it return 1.
    .globl try_enter, trap_unwind
try_enter:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushfq
    movq %rsp, try_sp
    movq %rdi, %rax
    movq %rsi, %rdi
    call *%rax
    xorl %eax, %eax
1:  popfq
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
trap_unwind:
    movl $0x18, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movq try_sp, %rsp
    movl $1, %eax
    cld
    jmp 1b

// void user_enter(ip, sp, flags)
    .globl user_enter
user_enter:
    pushq $0x2b
    pushq %rsi
    pushq %rdx
    pushq $0x33
    pushq %rdi
    xorl %eax, %eax
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    iretq

// Entry n at trap_entries + 16 * n. Vectors 8, 10..14, 17, 21 push an error code themselves.
    .balign 16
    .globl trap_entries
trap_entries:
    .set n, 0
    .rept 256
    .balign 16
    .if !(n == 8 || (n >= 10 && n <= 14) || n == 17 || n == 21)
    pushq $0
    .endif
    pushq $n
    jmp trap_common
    .set n, n + 1
    .endr

trap_common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rsp
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    movq %rsp, %rbp
    andq $-16, %rsp
    call trap_dispatch
    movq %rbp, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    addq $8, %rsp
    popq %rbx
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq

    .section .data
    .balign 16
    .globl gdt, gdt_pointer
gdt:
    .quad 0
    .quad 0
    .quad 0x00af9b000000ffff // 0x10 code, 64-bit
    .quad 0x00cf93000000ffff // 0x18 data
    .quad 0x00cffb000000ffff // 0x20 user code, 32-bit
    .quad 0x00cff3000000ffff // 0x28 user data
    .quad 0x00affb000000ffff // 0x30 user code, 64-bit
    .quad 0x00cff3000000ffff // 0x38 user data
    .quad 0, 0               // 0x40 task state segment
    .quad 0x00cf9b000000ffff // 0x50 code, 32-bit
    .skip 64                 // 0x58
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
    .globl idt_pointer
idt_pointer:
    .word 4095
    .quad idt
    .balign 8
    .globl ap_stack, try_sp
ap_stack: .quad 0
try_sp: .quad 0

    .section .bss
    .balign 4096
    .globl pml4, idt
pml4: .skip 4096
pdpt: .skip 4096
directories: .skip 4 * 4096
idt: .skip 4096

    .section .note.GNU-stack, "", @progbits
