// What runs in a cage besides the guest's code: position-independent, copied into the first page of
// the area. The mapper (cage_entry, then for ever from cage_mapper on) changes what is mapped; the
// runner executes the guest's code and, in the handler of its signals, waits for the next order.
// Both report by a system call, of any number, that the filter turns into a notification: its answer
// is 0, or an error when nobody listens any more. Then, as after anything else that cannot be, the
// process ends: an illegal instruction while every signal is blocked kills it.
//
// The guest's code can read this page, jump anywhere into it with any registers, and write all of
// the words and the stack. Nothing here trusts them once guest code has run: the mapper uses registers
// and the read-only commands; the runner may do nothing but report and return from signals.
#include <asm/unistd_64.h>

#include "host/cage_layout.h"

#define THREAD 0x00050f00 // CLONE_VM | FS | FILES | SIGHAND | THREAD | SYSVSEM
#define SET_MASK 2
#define SET_FILTER 1

    .section .rodata
    .balign 64
    .globl cage_code, cage_entry, cage_handler, cage_code_end
    .globl cage_after_mapper, cage_after_map, cage_after_runner, cage_after_return, cage_after_move
    .hidden cage_code, cage_entry, cage_handler, cage_code_end
    .hidden cage_after_mapper, cage_after_map, cage_after_runner, cage_after_return, cage_after_move
cage_code:

// Once, with every signal blocked: leaves nothing but the area in the address space, starts the runner.
cage_entry:
    xor %edi, %edi
    lea cage_code(%rip), %rsi
    mov $__NR_munmap, %eax
    syscall
    test %rax, %rax
    jnz cage_die
    lea (cage_code + 0x200000)(%rip), %rdi
    mov $CAGE_END_OF_SPACE, %rsi
    sub %rdi, %rsi
    mov $__NR_munmap, %eax
    syscall
    test %rax, %rax
    jnz cage_die
    mov $THREAD, %edi
    xor %esi, %esi
    xor %edx, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    mov $__NR_clone, %eax
    syscall
    test %rax, %rax
    jz cage_runner
    js cage_die
    lea (cage_code + CAGE_MAPPER_FILTER)(%rip), %rdx
    mov $SET_FILTER, %edi
    xor %esi, %esi
    mov $__NR_seccomp, %eax
    syscall
    test %rax, %rax
    jnz cage_die

// Reports with 0, or the error of the command that failed.
    xor %edi, %edi
cage_mapper:
    mov $__NR_getpid, %eax
    syscall
cage_after_mapper:
    test %rax, %rax
    jnz cage_die
    mov (cage_code + CAGE_COMMANDS)(%rip), %r13
    lea (cage_code + CAGE_COMMANDS + 64)(%rip), %r12
    xor %edi, %edi
1:  test %r13, %r13
    jz cage_mapper
    mov 0(%r12), %rax
    mov 8(%r12), %rdi
    mov 16(%r12), %rsi
    mov 24(%r12), %rdx
    mov 32(%r12), %r10
    mov 40(%r12), %r9
    mov $CAGE_RAM_FD, %r8d
    syscall
cage_after_map:
    mov %rax, %rdi
    test %rax, %rax
    js cage_mapper
    xor %edi, %edi
    add $CAGE_COMMAND_BYTES, %r12
    dec %r13
    jmp 1b

// Once: what is a thread's own. Its first stop comes from an instruction that the CPU refuses.
cage_runner:
    lea (cage_code + CAGE_SIGNAL_STACK)(%rip), %rdi
    xor %esi, %esi
    mov $__NR_sigaltstack, %eax
    syscall
    test %rax, %rax
    jnz cage_die
    mov $SET_MASK, %edi
    lea (cage_code + CAGE_SIGNAL_MASK)(%rip), %rsi
    xor %edx, %edx
    mov $8, %r10d
    mov $__NR_rt_sigprocmask, %eax
    syscall
    mov $SET_FILTER, %edi
    xor %esi, %esi
    lea (cage_code + CAGE_RUNNER_FILTER)(%rip), %rdx
    mov $__NR_seccomp, %eax
    syscall
    ud2

// Arguments are those of any handler: the signal, its siginfo, the context. All signals are blocked.
cage_handler:
    rdfsbase %rax
    mov %rax, (cage_code + CAGE_FS_BASE)(%rip)
    rdgsbase %rax
    mov %rax, (cage_code + CAGE_GS_BASE)(%rip)
    mov %ds, (cage_code + CAGE_SELECTORS)(%rip)
    mov %es, (cage_code + CAGE_SELECTORS + 2)(%rip)
    mov %fs, (cage_code + CAGE_SELECTORS + 4)(%rip)
    mov %gs, (cage_code + CAGE_SELECTORS + 6)(%rip)
    mov $__NR_getpid, %eax
    syscall
cage_after_runner:
    test %rax, %rax
    jnz cage_die
    mov %rdx, %rbx
    cmpq $0, (cage_code + CAGE_CPUS)(%rip)
    jz 1f
    xor %edi, %edi
    mov $CAGE_CPUS_BYTES, %esi
    lea (cage_code + CAGE_CPUS_SET)(%rip), %rdx
    mov $__NR_sched_setaffinity, %eax
    syscall
cage_after_move:
1:
    cmpq $0, (cage_code + CAGE_SELECTORS)(%rip)
    jz 2f
    xor %eax, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
2:
    push (cage_code + CAGE_FLAGS)(%rip)
    popf
    mov (cage_code + CAGE_FS_BASE)(%rip), %rax
    wrfsbase %rax
    mov (cage_code + CAGE_GS_BASE)(%rip), %rax
    wrgsbase %rax
    mov %rbx, %rsp
    mov $__NR_rt_sigreturn, %eax
    syscall
cage_after_return:
cage_die:
    ud2
cage_code_end:

    .section .note.GNU-stack, "", @progbits
