// Protected mode without paging: descriptor tables and the 256 trap entries.

    .section .text.boot, "ax"
    .code32
    .globl start_flat
start_flat:
    lgdt gdt_pointer
    ljmp $0x10, $1f
1:  movl $0x18, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movl %cr0, %eax
    andl $0x9fffffff, %eax // caches on
    orl $0x20, %eax // NE
    movl %eax, %cr0
    call guest_start
2:  hlt
    jmp 2b

    .text
// unsigned try_enter(fn, arg): calls fn(arg); trap_unwind() makes it return 1.
    .globl try_enter, trap_unwind
try_enter:
    movl 4(%esp), %eax
    movl 8(%esp), %edx
    pushl %ebx
    pushl %ebp
    pushl %esi
    pushl %edi
    pushfl
    movl %esp, try_sp
    pushl %edx
    call *%eax
    addl $4, %esp
    xorl %eax, %eax
1:  popfl
    popl %edi
    popl %esi
    popl %ebp
    popl %ebx
    ret
trap_unwind:
    movl $0x18, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl try_sp, %esp
    movl $1, %eax
    cld
    jmp 1b

    .balign 16
    .globl trap_entries
trap_entries:
    .set n, 0
    .rept 256
    .balign 16
    .if !(n == 8 || (n >= 10 && n <= 14) || n == 17 || n == 21)
    pushl $0
    .endif
    pushl $n
    jmp trap_common
    .set n, n + 1
    .endr

trap_common:
    pushal
    movl $0x18, %eax
    movl %eax, %ds
    movl %eax, %es
    cld
    pushl %esp
    call trap_dispatch
    addl $4, %esp
    popal
    addl $8, %esp
    iretl

    .section .data
    .balign 16
    .globl gdt, gdt_pointer
gdt:
    .quad 0
    .quad 0
    .quad 0x00cf9b000000ffff // 0x10 code
    .quad 0x00cf93000000ffff // 0x18 data
    .quad 0x00cffb000000ffff // 0x20 user code
    .quad 0x00cff3000000ffff // 0x28 user data
    .quad 0x00cffb000000ffff // 0x30 user code
    .quad 0x00cff3000000ffff // 0x38 user data
    .quad 0, 0               // 0x40 task state segment
    .quad 0x00cf9b000000ffff // 0x50 code
    .skip 64                 // 0x58
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
    .globl idt_pointer, try_sp
idt_pointer:
    .word 2047
    .long idt
    .balign 4
try_sp: .long 0

    .section .bss
    .balign 4096
    .globl idt
idt: .skip 2048

    .section .note.GNU-stack, "", @progbits
