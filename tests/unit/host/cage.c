// Cages, driven as the translator does, by small programs in a file of RAM: what they compute comes
// back, whatever else they do stops them, and what they try against the cage itself gets them
// nothing.
#include "host/cage.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "host/cage_impl.h"
#include "host/sandbox.h"
#include "test.h"

#define RAM_BYTES (4 * MIB)
#define CODE 0x400000ull // in the cage: the first page of RAM
#define DATA 0x500000ull // the second
#define NOWHERE 0x600000ull
#define RW (CAGE_READ | CAGE_WRITE)

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum { CF = 1, ZF = 1 << 6, TF = 1 << 8, DF = 1 << 10, AC = 1 << 18 };

struct code {
    const uint8_t *from, *to;
};

#define PROGRAM(name, text)                                                                 \
    __asm__(".pushsection .rodata\n" #name "_from: " text "\n" #name "_to: .popsection\n"); \
    extern const uint8_t name##_from[], name##_to[];                                        \
    static const struct code name = {name##_from, name##_to}

static struct cages *cages;
static struct cage *cage;
static struct cage_regs *regs;
static struct cage_stop stop;
static uint8_t *ram;
static int ram_fd = -1;

static bool start(bool trap_tsc)
{
    struct error e = {0};
    ram_fd = memfd_create("ram", MFD_CLOEXEC);
    if (ftruncate(ram_fd, RAM_BYTES) < 0)
        return false;
    ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
    err_t err = cages_start(&cages, &e);
    if (!err)
        err = cages_make(cages, 1, ram_fd, trap_tsc, &cage, &e);
    if (err == ERR_UNSUPPORTED)
        printf("# skipped: %s\n", e.text);
    else
        CHECK_EQ(err, OK);
    if (!err)
        regs = cage_regs(cage);
    if (cages)
        cages_complete(cages);
    return !err;
}

static void finish(void)
{
    cages_free(cages);
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    munmap(ram, RAM_BYTES);
    close(ram_fd);
    cages = NULL;
}

// Puts it into RAM, where a cage that has the page sees it.
static void load(struct code code)
{
    memcpy(ram, code.from, (size_t)(code.to - code.from));
    regs->rip = CODE;
}

static enum cage_stop_kind run(struct code code)
{
    load(code);
    CHECK(cage_map(cage, CODE, PAGE_SIZE, 0, CAGE_READ | CAGE_EXEC));
    CHECK(cage_run(cage, &stop));
    return stop.kind;
}

static enum cage_stop_kind go_on(void)
{
    CHECK(cage_run(cage, &stop));
    return stop.kind;
}

// --- registers

PROGRAM(nothing, "ud2");
PROGRAM(count_up, "inc %rax; inc %r15; inc %rsp; stc; std; ud2");

static void registers_go_in_and_come_out(void)
{
    if (!start(false))
        return finish();
    for (unsigned i = 0; i < 16; i++)
        regs->gpr[i] = 0x1111111111111111ull * i;
    regs->rflags = ZF;
    CHECK_EQ(run(count_up), CAGE_TRAP);
    CHECK_EQ(stop.trap, 6);
    for (unsigned i = 0; i < 16; i++)
        CHECK_EQ(regs->gpr[i], 0x1111111111111111ull * i + (i == RAX || i == RSP || i == R15));
    CHECK_EQ(regs->rip, CODE + (uint64_t)(count_up.to - count_up.from) - 2);
    CHECK_EQ(regs->rflags & (CF | DF), CF | DF);
    CHECK_EQ(regs->cs, 0x33);
    CHECK_EQ(regs->ss, 0x2b);
    finish();
}

static void flags_go_in_but_not_those_of_the_system(void)
{
    if (!start(false))
        return finish();
    regs->rflags = ~(uint64_t)(TF | AC);
    CHECK_EQ(run(nothing), CAGE_TRAP);
    CHECK_EQ(regs->rflags & ~(1ull << 16 /* RF */), 0x204ed7); // with NT and ID
    regs->rflags = 0;
    CHECK_EQ(run(nothing), CAGE_TRAP);
    CHECK_EQ(regs->rflags & ~(1ull << 16), 0x202);
    finish();
}

PROGRAM(swap_bases,
        "rdfsbase %rax; rdgsbase %rbx; wrfsbase %rbx; wrgsbase %rax; mov %fs:0, %rcx; ud2");

static void segment_bases_go_in_and_come_out(void)
{
    if (!start(false))
        return finish();
    memcpy(ram + PAGE_SIZE, "guestram", 8);
    CHECK(cage_map(cage, DATA, PAGE_SIZE, PAGE_SIZE, CAGE_READ));
    regs->fs_base = 0x7123456789a0;
    regs->gs_base = DATA;
    CHECK_EQ(run(swap_bases), CAGE_TRAP);
    CHECK_EQ(regs->gpr[RAX], 0x7123456789a0);
    CHECK_EQ(regs->gpr[RBX], DATA);
    CHECK(!memcmp(&regs->gpr[RCX], "guestram", 8));
    CHECK_EQ(regs->fs_base, DATA);
    CHECK_EQ(regs->gs_base, 0x7123456789a0);
    regs->fs_base = 1ull << 63; // no address; one that cannot be loaded must do no harm
    CHECK_EQ(run(nothing), CAGE_TRAP);
    finish();
}

PROGRAM(vectors, "paddb %xmm15, %xmm0; fld1; ud2");

static void vector_registers_go_in_and_come_out(void)
{
    if (!start(false))
        return finish();
    size_t bytes;
    uint8_t *image = cage_xsave(cage, &bytes);
    CHECK(bytes >= 576);
    uint64_t components = bytes >= 832 ? 7 : 3;
    memset(image, 0, bytes);
    memcpy(image, &(uint16_t){0x27f}, 2);       // FCW
    memcpy(image + 24, &(uint32_t){0x9fc0}, 4); // MXCSR: denormals are zeros, flush to zero
    memcpy(image + 512, &components, 8);
    for (unsigned i = 160; i < 416; i++)
        image[i] = (uint8_t)i; // XMM
    for (unsigned i = 576; components == 7 && i < 832; i++)
        image[i] = (uint8_t)(i * 3); // the upper halves of YMM
    CHECK_EQ(run(vectors), CAGE_TRAP);
    CHECK(cage_xsave(cage, &bytes) == image);
    for (unsigned i = 160; i < 416; i++)
        CHECK_EQ(image[i], (uint8_t)(i < 176 ? i + i + 240 : i));
    for (unsigned i = 576; components == 7 && i < 832; i++)
        CHECK_EQ(image[i], (uint8_t)(i * 3));
    CHECK_EQ(image[0] | image[1] << 8, 0x27f);
    CHECK_EQ((image[24] | image[25] << 8) & ~0x3f, 0x9fc0);
    CHECK_EQ(image[4], 0x80);      // one x87 register is in use,
    CHECK_EQ(image[32 + 9], 0x3f); // with 1.0 in it
    CHECK_EQ(image[512] & components, components);
    finish();
}

// Everything that XRSTOR would refuse.
static void a_vector_image_that_is_nonsense_is_taken_as_far_as_it_goes(void)
{
    if (!start(false))
        return finish();
    size_t bytes;
    uint8_t *image = cage_xsave(cage, &bytes);
    memset(image, 0xff, bytes);
    CHECK_EQ(run(nothing), CAGE_TRAP);
    CHECK_EQ(stop.trap, 6);
    CHECK_EQ(image[160], 0xff);
    finish();
}

// --- memory

PROGRAM(load_rax, "mov (%rax), %rbx; ud2");
PROGRAM(store_rax, "mov %rbx, (%rax); ud2");
PROGRAM(jump_rax, "jmp *%rax");

static void faults_tell_address_and_access(void)
{
    if (!start(false))
        return finish();
    const struct {
        struct code code;
        uint64_t at;
        uint32_t error;
    } faults[] = {{load_rax, NOWHERE + 8, 4},     {store_rax, NOWHERE + 16, 6},
                  {jump_rax, NOWHERE + 24, 0x14}, {store_rax, CODE + 0x800, 7},
                  {jump_rax, DATA + 0x10, 0x15},  {load_rax, 0x7fffffffe000, 4}};
    CHECK(cage_map(cage, DATA, PAGE_SIZE, PAGE_SIZE, RW));
    for (unsigned i = 0; i < ARRAY_LEN(faults); i++) {
        regs->gpr[RAX] = faults[i].at;
        CHECK_EQ(run(faults[i].code), CAGE_FAULT);
        CHECK_EQ(stop.address, faults[i].at);
        CHECK_EQ(stop.error, faults[i].error);
        CHECK_EQ(regs->rip, faults[i].error & 0x10 ? faults[i].at : CODE);
    }
    finish();
}

static void code_goes_on_once_its_page_is_mapped(void)
{
    if (!start(false))
        return finish();
    regs->gpr[RAX] = NOWHERE;
    CHECK_EQ(run(load_rax), CAGE_FAULT);
    memcpy(ram + 2 * PAGE_SIZE, "contents", 8);
    CHECK(cage_map(cage, NOWHERE, PAGE_SIZE, 2 * PAGE_SIZE, CAGE_READ));
    CHECK_EQ(go_on(), CAGE_TRAP);
    CHECK(!memcmp(&regs->gpr[RBX], "contents", 8));
    finish();
}

static void what_code_writes_is_in_ram(void)
{
    if (!start(false))
        return finish();
    regs->gpr[RAX] = DATA;
    regs->gpr[RBX] = 0x1234567;
    CHECK(cage_map(cage, DATA, PAGE_SIZE, PAGE_SIZE, RW));
    CHECK_EQ(run(store_rax), CAGE_TRAP);
    CHECK(!memcmp(ram + PAGE_SIZE, &(uint64_t){0x1234567}, 8));
    finish();
}

static void an_unmapped_page_is_gone(void)
{
    if (!start(false))
        return finish();
    regs->gpr[RAX] = DATA + PAGE_SIZE;
    CHECK(cage_map(cage, DATA, 3 * PAGE_SIZE, PAGE_SIZE, CAGE_READ));
    CHECK_EQ(run(load_rax), CAGE_TRAP);
    CHECK(cage_unmap(cage, DATA + PAGE_SIZE, PAGE_SIZE));
    CHECK_EQ(run(load_rax), CAGE_FAULT);
    regs->gpr[RAX] = DATA + 2 * PAGE_SIZE;
    CHECK_EQ(run(load_rax), CAGE_TRAP);
    CHECK(cage_unmap(cage, 0, 1ull << 45)); // all of that side of the area
    CHECK_EQ(go_on(), CAGE_FAULT);
    CHECK_EQ(stop.error, 0x14);
    finish();
}

// More than there is room for at once, some of which continue each other.
static void any_number_of_pages_can_be_mapped_before_a_run(void)
{
    if (!start(false))
        return finish();
    const unsigned pages = RAM_BYTES / PAGE_SIZE;
    for (unsigned i = 0; i < pages; i++) {
        memcpy(ram + i * PAGE_SIZE + 8, &i, sizeof i);
        uint64_t at = (i / 3 % 2 ? DATA : 1ull << 46) + i * PAGE_SIZE;
        CHECK(cage_map(cage, at, PAGE_SIZE, i * PAGE_SIZE, CAGE_READ));
    }
    for (unsigned i = 0; i < pages; i++) {
        regs->gpr[RAX] = (i / 3 % 2 ? DATA : 1ull << 46) + i * PAGE_SIZE + 8;
        CHECK_EQ(run(load_rax), CAGE_TRAP);
        CHECK_EQ((uint32_t)regs->gpr[RBX], i);
    }
    finish();
}

static void a_refused_mapping_leaves_the_cage_empty(void)
{
    if (!start(false))
        return finish();
    for (int i = 0; i < 2; i++) {
        regs->gpr[RAX] = DATA;
        CHECK(cage_map(cage, DATA, PAGE_SIZE, PAGE_SIZE, CAGE_READ));
        CHECK_EQ(run(load_rax), CAGE_TRAP);
        if (i == 0) {
            CHECK(cage_map(cage, NOWHERE, PAGE_SIZE, 1 /* begins no page */, CAGE_READ));
            CHECK(!cage_run(cage, &stop));
        } else {
            CHECK(!cage_map(cage, (1ull << 47) - PAGE_SIZE, PAGE_SIZE, 0, CAGE_READ));
        }
        CHECK_EQ(run(load_rax), CAGE_FAULT);
        CHECK_EQ(stop.address, DATA);
    }
    finish();
}

// --- what stops code

PROGRAM(halt, "hlt");
PROGRAM(breakpoint, "int3; nop");
PROGRAM(divide, "xor %ecx, %ecx; div %ecx");
PROGRAM(wild, "mov (%rax), %rbx");
PROGRAM(wild_stack, "push %rax");
PROGRAM(simd, "divss %xmm1, %xmm0");
PROGRAM(port, "in $0x60, %al");
PROGRAM(interrupt, "int $0x21");
PROGRAM(overflow, ".byte 0xcd, 4");
PROGRAM(clear_trap, "push $2; popf; nop");
PROGRAM(twice, "nop; nop; ud2");
PROGRAM(time_stamp, "rdtsc; ud2");
PROGRAM(time_stamp_and_cpu, "rdtscp; ud2");

static void exceptions_have_their_vectors(void)
{
    if (!start(false))
        return finish();
    size_t bytes;
    const uint8_t *image = cage_xsave(cage, &bytes);
    const struct {
        struct code code;
        uint8_t trap;
        uint32_t error;
        uint64_t after; // of rip, from the program's begin
        uint64_t rflags;
    } traps[] = {{nothing, 6, 0, 0, 0},    {halt, 13, 0, 0, 0},
                 {breakpoint, 3, 0, 1, 0}, {divide, 0, 0, 2, 0},
                 {wild, 13, 0, 0, 0},      {wild_stack, 12, 0, 0, 0},
                 {port, 13, 0, 0, 0},      {interrupt, 13, 0x21 << 3 | 2, 0, 0},
                 {overflow, 4, 0, 2, 0},   {twice, 1, 1, 1, TF},
                 {load_rax, 17, 0, 0, AC}, {simd, 19, 0, 0, 0}};
    CHECK(cage_map(cage, DATA, PAGE_SIZE, PAGE_SIZE, CAGE_READ));
    for (unsigned i = 0; i < ARRAY_LEN(traps); i++) {
        regs->gpr[RAX] = traps[i].rflags == AC ? DATA + 1 : 1ull << 63;
        regs->gpr[RSP] = 1ull << 63;
        regs->rflags = traps[i].rflags;
        memset((uint8_t *)image, 0, bytes);
        memcpy((uint8_t *)image + 24, &(uint32_t){traps[i].trap == 19 ? 0 : 0x1f80}, 4);
        memcpy((uint8_t *)image + 512, &(uint64_t){2}, 8);
        CHECK_EQ(run(traps[i].code), CAGE_TRAP);
        CHECK_EQ(stop.trap, traps[i].trap);
        CHECK_EQ(stop.error, traps[i].error);
        CHECK_EQ(regs->rip, CODE + traps[i].after);
    }
    finish();
}

// The trap comes after the instruction that clears the flag, too.
static void a_step_is_told_from_a_trap_of_its_own(void)
{
    if (!start(false))
        return finish();
    CHECK(cage_map(cage, DATA, PAGE_SIZE, PAGE_SIZE, CAGE_READ | CAGE_WRITE));
    regs->gpr[RSP] = DATA + 64;
    regs->rflags = TF;
    CHECK_EQ(run(clear_trap), CAGE_TRAP);
    CHECK_EQ(go_on(), CAGE_TRAP);
    CHECK_EQ(stop.trap, 1);
    CHECK_EQ(stop.error, 1);
    CHECK_EQ(regs->rip, CODE + 3);
    CHECK_EQ(regs->rflags & TF, 0);
    finish();
}

static void a_trap_flag_steps_through_code(void)
{
    if (!start(false))
        return finish();
    regs->rflags = TF;
    CHECK_EQ(run(twice), CAGE_TRAP);
    CHECK_EQ(go_on(), CAGE_TRAP);
    CHECK_EQ(stop.trap, 1);
    CHECK_EQ(regs->rip, CODE + 2);
    finish();
}

static void time_stamps_stop_code_where_that_was_asked_for(void)
{
    for (int asked = 0; asked < 2; asked++) {
        if (!start(asked))
            return finish();
        CHECK_EQ(run(time_stamp), CAGE_TRAP);
        CHECK_EQ(stop.trap, asked ? 13 : 6);
        CHECK_EQ(regs->rip, asked ? CODE : CODE + 2);
        CHECK_EQ(run(time_stamp_and_cpu), CAGE_TRAP);
        CHECK_EQ(stop.trap, asked ? 13 : 6);
        finish();
    }
}

PROGRAM(identify, "cpuid; ud2");

static void the_identity_of_the_cpu_is_kept_where_that_can_be(void)
{
    if (!start(false))
        return finish();
    CHECK_EQ(run(identify), CAGE_TRAP);
    CHECK_EQ(stop.trap, cages_trap_cpuid(cages) ? 13 : 6);
    finish();
}

// --- system calls

PROGRAM(system_call, "syscall; ud2");
PROGRAM(old_system_call, "int $0x80; ud2");
PROGRAM(oldest_page, "mov $0xffffffffff600000, %rax; call *%rax; ud2");

// Numbers that would do something to the host if it saw them.
static const uint64_t numbers[] = {SYS_exit,
                                   SYS_exit_group,
                                   SYS_kill,
                                   SYS_mmap,
                                   SYS_clone,
                                   SYS_execve,
                                   SYS_munmap,
                                   SYS_rt_sigreturn,
                                   SYS_getpid,
                                   SYS_seccomp,
                                   0x40000000 | SYS_exit_group,
                                   0x40000000 | 513 /* x32's rt_sigreturn */,
                                   ~0ull};

static void system_calls_stop_code_and_never_reach_the_host(void)
{
    if (!start(false))
        return finish();
    for (unsigned i = 0; i < ARRAY_LEN(numbers); i++) {
        regs->gpr[RAX] = numbers[i];
        regs->rflags = CF;
        CHECK_EQ(run(system_call), CAGE_SYSCALL);
        CHECK_EQ(regs->rip, CODE + 2);
        CHECK_EQ(regs->gpr[RAX], numbers[i]);
        CHECK_EQ(regs->gpr[RCX], CODE + 2);
        CHECK_EQ(regs->gpr[R11] & ~(1ull << 21), 0x203);
        CHECK_EQ(go_on(), CAGE_TRAP);
        CHECK_EQ(stop.trap, 6);
    }
    finish();
}

static void those_by_int_0x80_are_exceptions(void)
{
    if (!start(false))
        return finish();
    for (unsigned i = 0; i < ARRAY_LEN(numbers); i++) {
        regs->gpr[RAX] = numbers[i];
        CHECK_EQ(run(old_system_call), CAGE_TRAP);
        CHECK_EQ(stop.trap, 13);
        CHECK_EQ(stop.error, 0x80 << 3 | 2);
        CHECK_EQ(regs->rip, CODE);
    }
    finish();
}

static void those_by_the_oldest_page_are_faults_there(void)
{
    if (!start(false))
        return finish();
    CHECK(cage_map(cage, DATA, PAGE_SIZE, PAGE_SIZE, RW));
    regs->gpr[RSP] = DATA + PAGE_SIZE;
    CHECK_EQ(run(oldest_page), CAGE_FAULT);
    CHECK_EQ(stop.address, 0xffffffffff600000);
    CHECK_EQ(stop.error & ~1u, 0x14);
    CHECK_EQ(regs->rip, 0xffffffffff600000);
    CHECK_EQ(regs->gpr[RSP], DATA + PAGE_SIZE - 8);
    finish();
}

// --- attacks

static uint64_t label(const char *of)
{
    return cage_area(cage) + (uint64_t)(of - cage_code);
}

// Lost for good; or it has returned from an empty frame, by which it gets to address 0.
static bool caught(struct code code)
{
    if (run(code) == CAGE_LOST)
        return go_on() == CAGE_LOST;
    return stop.kind == CAGE_TRAP && !regs->rip;
}

PROGRAM(jump_rbx, "jmp *%rbx");

// With all registers ready for a system call that would map memory of its own, map RAM, end the
// process, or return from a signal that never was.
static void calls_from_our_own_instructions_get_code_nothing(void)
{
    const char *const after[] = {cage_after_mapper, cage_after_map, cage_after_runner,
                                 cage_after_move, cage_after_return};
    static const uint64_t calls[] = {SYS_mmap,         SYS_munmap, SYS_exit_group,
                                     SYS_rt_sigreturn, SYS_getpid, SYS_sched_setaffinity};
    for (unsigned i = 0; i < ARRAY_LEN(after) * ARRAY_LEN(calls); i++) {
        if (!start(false))
            return finish();
        CHECK(cage_map(cage, DATA, PAGE_SIZE, PAGE_SIZE, RW));
        regs->gpr[RAX] = calls[i % ARRAY_LEN(calls)];
        regs->gpr[RBX] = label(after[i / ARRAY_LEN(calls)]) - 2;
        regs->gpr[RDI] = NOWHERE;
        regs->gpr[RSI] = PAGE_SIZE;
        regs->gpr[RDX] = PROT_READ | PROT_WRITE;
        regs->gpr[R10] = MAP_SHARED | MAP_FIXED;
        regs->gpr[R8] = CAGE_RAM_FD;
        regs->gpr[RSP] = DATA + 0x100;
        CHECK(caught(jump_rbx));
        finish();
    }
}

static void code_cannot_enter_at_other_places_of_ours(void)
{
    for (const char *at = cage_entry; at < cage_code_end; at += 7) {
        if (!start(false))
            return finish();
        regs->gpr[RAX] = label(at);
        regs->gpr[RSP] = cage_area(cage) + CAGE_STACK + 0x800;
        CHECK(caught(jump_rax));
        finish();
    }
}

PROGRAM(for_ever, "1: jmp 1b");

// A frame in the program's own memory, by which it returns to itself with every signal blocked.
static void code_that_has_blocked_signals_is_lost_and_does_not_run_for_ever(void)
{
    if (!start(false))
        return finish();
    ucontext_t *forged = (ucontext_t *)(ram + PAGE_SIZE);
    memset(&forged->uc_sigmask, 0xff, 8);
    forged->uc_mcontext.gregs[REG_RIP] = (greg_t)(CODE + 2);
    forged->uc_mcontext.gregs[REG_CSGSFS] = 0x33 | (greg_t)0x2b << 48;
    CHECK(cage_map(cage, DATA, PAGE_SIZE, PAGE_SIZE, RW));
    regs->gpr[RAX] = SYS_rt_sigreturn;
    regs->gpr[RBX] = label(cage_after_return) - 2;
    regs->gpr[RSP] = DATA;
    PROGRAM(deafen, "jmp *%rbx; 1: jmp 1b");
    CHECK_EQ(run(deafen), CAGE_LOST);
    finish();
}

// The stack of signals moved to memory of the program's own, where frames are none.
static void code_that_has_moved_the_signal_stack_is_lost(void)
{
    if (!start(false))
        return finish();
    ucontext_t *forged = (ucontext_t *)(ram + PAGE_SIZE);
    forged->uc_stack = (stack_t){.ss_sp = (void *)(DATA + PAGE_SIZE), .ss_size = 15 * PAGE_SIZE};
    forged->uc_mcontext.gregs[REG_RIP] = (greg_t)(CODE + 2);
    forged->uc_mcontext.gregs[REG_CSGSFS] = 0x33 | (greg_t)0x2b << 48;
    CHECK(cage_map(cage, DATA, 16 * PAGE_SIZE, PAGE_SIZE, RW));
    regs->gpr[RAX] = SYS_rt_sigreturn;
    regs->gpr[RBX] = label(cage_after_return) - 2;
    regs->gpr[RSP] = DATA;
    PROGRAM(move_stack, "jmp *%rbx; ud2");
    CHECK_EQ(run(move_stack), CAGE_LOST);
    finish();
}

PROGRAM(copy_stack, "rep movsb; ud2");
PROGRAM(forge, "mov %eax, (%rsi); mov %ecx, (%rdi); jmp *%rbx");

// Where the frame's context lies in the signal stack, of which there is a copy; 0: nowhere.
static uint64_t find_context(const uint8_t *stack, uint64_t marker)
{
    for (uint64_t i = 0; i + sizeof(ucontext_t) < CAGE_STACK_SIZE; i += 8) {
        const ucontext_t *context = (const ucontext_t *)(const void *)(stack + i);
        if ((uint64_t)context->uc_mcontext.gregs[REG_R15] == marker)
            return i;
    }
    return 0;
}

// As the kernel would for a page that it cannot have: what is made up is not taken for the host's
// word.
static void code_that_reports_for_the_kernel_is_no_failure_of_the_hosts(void)
{
    const uint64_t marker = 0x6d61726b6572ull, kernel_context = 304;
    if (!start(false))
        return finish();
    CHECK(cage_map(cage, DATA, CAGE_STACK_SIZE, PAGE_SIZE, RW));
    regs->gpr[R15] = marker;
    regs->gpr[RSI] = cage_area(cage) + CAGE_STACK;
    regs->gpr[RDI] = DATA;
    regs->gpr[RCX] = CAGE_STACK_SIZE;
    CHECK_EQ(run(copy_stack), CAGE_TRAP);
    CHECK_EQ(regs->gpr[RCX], 0);
    uint64_t context = find_context(ram + PAGE_SIZE, marker);
    CHECK(context);
    regs->gpr[RDX] = cage_area(cage) + CAGE_STACK + context;
    regs->gpr[RSI] = regs->gpr[RDX] + kernel_context;
    regs->gpr[RDI] = regs->gpr[RDX] + offsetof(ucontext_t, uc_mcontext.gregs[REG_TRAPNO]);
    regs->gpr[RSP] = DATA + 0x100; // our handler's end pushes
    regs->gpr[RAX] = SIGBUS;
    regs->gpr[RCX] = 14;
    regs->gpr[RBX] = label(cage_after_runner) - 2;
    CHECK_EQ(run(forge), CAGE_TRAP);
    CHECK_EQ(stop.trap, 14);
    CHECK_EQ(run(nothing), CAGE_TRAP);
    CHECK_EQ(stop.trap, 6);
    finish();
}

PROGRAM(scribble, "rep stosb; ud2");

static void code_may_scribble_over_all_that_it_can_write(void)
{
    if (!start(false))
        return finish();
    for (unsigned byte = 0; byte < 256; byte += 51) {
        regs->gpr[RAX] = byte;
        regs->gpr[RDI] = cage_area(cage) + CAGE_WORDS;
        regs->gpr[RCX] = CAGE_USED - CAGE_WORDS;
        regs->gpr[RBX] = byte;
        CHECK_EQ(run(scribble), CAGE_TRAP);
        CHECK_EQ(regs->gpr[RCX], 0);
        CHECK_EQ(regs->gpr[RBX], byte);
    }
    static const uint64_t rest[] = {CAGE_TEXT, CAGE_COMMANDS,
                                    CAGE_COMMANDS + CAGE_COMMANDS_SIZE - 8, CAGE_USED,
                                    CAGE_AREA_BYTES - 8};
    for (unsigned i = 0; i < ARRAY_LEN(rest); i++) {
        regs->gpr[RAX] = cage_area(cage) + rest[i];
        CHECK_EQ(run(store_rax), CAGE_FAULT);
        CHECK_EQ(stop.address, cage_area(cage) + rest[i]);
    }
    finish();
}

static void a_stack_pointer_into_the_signal_stack_does_no_harm(void)
{
    if (!start(false))
        return finish();
    for (uint64_t at = CAGE_STACK - 64; at < CAGE_USED + 64; at += 4000) {
        regs->gpr[RSP] = cage_area(cage) + at;
        CHECK_EQ(run(nothing), CAGE_TRAP);
        CHECK_EQ(regs->gpr[RSP], cage_area(cage) + at);
    }
    finish();
}

PROGRAM(other_mode, "push $0x23; lea 1f(%rip), %rax; push %rax; lretq; 1: ud2");

static void a_change_to_32_bit_code_is_seen(void)
{
    if (!start(false))
        return finish();
    CHECK(cage_map(cage, DATA, PAGE_SIZE, PAGE_SIZE, RW));
    regs->gpr[RSP] = DATA + PAGE_SIZE;
    CHECK_EQ(run(other_mode), CAGE_TRAP);
    CHECK_EQ(stop.trap, 6);
    CHECK_EQ(regs->cs, 0x23);
    CHECK_EQ(run(nothing), CAGE_TRAP);
    CHECK_EQ(regs->cs, 0x33);
    finish();
}

// --- kicks

static atomic_uint answered;

static void *kick_often(void *opaque)
{
    for (unsigned i = 0; i < 1000; i++) {
        cage_kick(cage);
        while (atomic_load(&answered) == i)
            usleep(10);
    }
    return NULL;
}

static void every_kick_stops_code(void)
{
    pthread_t kicker;
    if (!start(false))
        return finish();
    atomic_store(&answered, 0);
    cage_kick(cage); // before there is anything to stop
    CHECK_EQ(run(for_ever), CAGE_KICKED);
    pthread_create(&kicker, NULL, kick_often, NULL);
    for (unsigned i = 0; i < 1000; i++) {
        CHECK_EQ(go_on(), CAGE_KICKED);
        atomic_fetch_add(&answered, 1);
    }
    pthread_join(kicker, NULL);
    CHECK_EQ(regs->rip, CODE);
    CHECK(cages_cpu_ns(cages) > 0);
    finish();
}

static void code_that_runs_for_long_stops_now_and_then(void)
{
    if (!start(false))
        return finish();
    CHECK_EQ(run(for_ever), CAGE_KICKED);
    CHECK_EQ(go_on(), CAGE_KICKED);
    finish();
}

// --- the process

static pid_t child_of(pid_t parent)
{
    DIR *all = opendir("/proc");
    pid_t found = 0;
    for (struct dirent *d; all && !found && (d = readdir(all));) {
        char path[300], state;
        int its_parent;
        snprintf(path, sizeof path, "/proc/%s/stat", d->d_name);
        FILE *f = atoi(d->d_name) > 0 ? fopen(path, "re") : NULL;
        if (f && fscanf(f, "%*d (%*[^)]) %c %d", &state, &its_parent) == 2 &&
            its_parent == parent && state != 'Z')
            found = atoi(d->d_name);
        if (f)
            fclose(f);
    }
    if (all)
        closedir(all);
    return found;
}

// Only root may look at what is closed to debuggers.
static bool start_to_look(void)
{
    if (geteuid())
        printf("# skipped: needs root\n");
    return !geteuid() && start(false);
}

static void its_address_space_holds_the_area_and_given_pages(void)
{
    if (!start_to_look())
        return finish();
    CHECK_EQ(run(nothing), CAGE_TRAP);
    char line[300];
    snprintf(line, sizeof line, "/proc/%d/maps", child_of(child_of(getpid())));
    FILE *f = fopen(line, "re");
    unsigned pages = 0, parts = 0;
    while (f && fgets(line, sizeof line, f)) {
        uint64_t from = strtoull(line, NULL, 16);
        pages += from == CODE;
        parts += from - cage_area(cage) < CAGE_USED;
        CHECK(from == CODE || from - cage_area(cage) < CAGE_USED || from >> 63);
    }
    CHECK_EQ(pages, 1);
    CHECK_EQ(parts, 3);
    if (f)
        fclose(f);
    finish();
}

static void its_only_descriptor_is_the_file_of_ram(void)
{
    if (!start_to_look())
        return finish();
    char path[64], name[64] = "";
    snprintf(path, sizeof path, "/proc/%d/fd", child_of(child_of(getpid())));
    DIR *fds = opendir(path);
    unsigned count = 0;
    for (struct dirent *d; fds && (d = readdir(fds));)
        count += d->d_name[0] != '.';
    if (fds)
        closedir(fds);
    strcat(path, "/0");
    CHECK_EQ(count, 1);
    CHECK(readlink(path, name, sizeof name - 1) > 0 && strstr(name, "memfd:ram"));
    finish();
}

// Both of its threads may run on these CPUs and no others.
static bool all_on(pid_t pid, const cpu_set_t *cpus)
{
    char path[64];
    cpu_set_t found;
    unsigned threads = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    for (struct dirent *d; tasks && (d = readdir(tasks));) {
        pid_t tid = atoi(d->d_name);
        threads +=
            tid && sched_getaffinity(tid, sizeof found, &found) == 0 && CPU_EQUAL(&found, cpus);
    }
    if (tasks)
        closedir(tasks);
    return threads == 2;
}

static void it_runs_where_it_is_told_to_and_cannot_move_itself(void)
{
    cpu_set_t all, one;
    CPU_ZERO(&one);
    CHECK_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++) {
        if (CPU_ISSET(i, &all))
            CPU_SET(i, &one);
    }
    if (!start(false))
        return finish();
    pid_t pid = child_of(child_of(getpid()));
    CHECK(all_on(pid, &all));
    cage_move(cage, &one);
    CHECK_EQ(run(nothing), CAGE_TRAP);
    CHECK(all_on(pid, &one));
    memcpy(ram + PAGE_SIZE, &all, sizeof all);
    CHECK(cage_map(cage, DATA, PAGE_SIZE, PAGE_SIZE, RW));
    regs->gpr[RAX] = SYS_sched_setaffinity;
    regs->gpr[RBX] = label(cage_after_move) - 2;
    regs->gpr[RDI] = 0;
    regs->gpr[RSI] = sizeof all;
    regs->gpr[RDX] = DATA;
    (void)run(jump_rbx);
    CHECK(all_on(pid, &one) || stop.kind == CAGE_LOST);
    finish();
}

static bool gone(pid_t pid)
{
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
        state = 0;
    if (f)
        fclose(f);
    return !state || state == 'Z' || state == 'X';
}

// Runs in a process of its own: 0 when body said so or cages are not to be had, its number in *pid.
static int in_process(int (*body)(int tell), int tell, pid_t *pid)
{
    int status = 0;
    fflush(stdout);
    *pid = fork();
    if (*pid == 0)
        _exit(body(tell));
    if (tell < 0)
        waitpid(*pid, &status, 0);
    return status;
}

static int run_until_killed(int tell)
{
    pid_t pid = 0;
    if (start(false))
        pid = child_of(child_of(getpid()));
    if (write(tell, &pid, sizeof pid) != sizeof pid || !pid)
        return 0;
    for (;;)
        run(for_ever);
}

static void it_dies_with_the_process_that_uses_it(void)
{
    int pipe_fds[2];
    pid_t user, pid = 0;
    CHECK(pipe(pipe_fds) == 0);
    in_process(run_until_killed, pipe_fds[1], &user);
    CHECK(read(pipe_fds[0], &pid, sizeof pid) == sizeof pid);
    if (pid) {
        CHECK(!gone(pid));
        kill(user, SIGKILL);
        for (unsigned i = 0; i < 3000 && !gone(pid); i++)
            usleep(10000);
        CHECK(gone(pid));
    }
    waitpid(user, NULL, 0);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static bool can_read(const char *of, pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, of);
    FILE *f = fopen(path, "re");
    bool can = f && getc(f) != EOF;
    if (f)
        fclose(f);
    return can;
}

static int run_as_nobody(int tell)
{
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) < 0)
        return 1;
    prctl(PR_SET_DUMPABLE, 1); // which it was before it changed its user
    if (!start(false))
        return test_failures;
    cage_kick(cage);
    CHECK_EQ(run(for_ever), CAGE_KICKED);
    CHECK_EQ(run(nothing), CAGE_TRAP);
    CHECK(can_read("maps", getpid()));
    CHECK(!can_read("maps", child_of(child_of(getpid())))); // nor does the kernel, for a core
    finish();
    return test_failures;
}

static void an_ordinary_user_can_have_one(void)
{
    pid_t pid;
    CHECK_EQ(in_process(run_as_nobody, -1, &pid), 0);
}

static void *idle(void *opaque)
{
    return NULL;
}

// The second one may not have a second thread. What is left counts no more.
static int run_with_few_processes(int tell)
{
    struct error e;
    struct cage *two[2];
    pthread_t thread[4];
    const struct rlimit few = {5, 5};
    ram_fd = memfd_create("ram", MFD_CLOEXEC);
    if (setresuid(61234, 61234, 61234) < 0 || setrlimit(RLIMIT_NPROC, &few) < 0 ||
        ftruncate(ram_fd, RAM_BYTES) < 0 || cages_start(&cages, &e))
        return 0;
    signal(SIGCHLD, SIG_IGN);
    CHECK_EQ(cages_make(cages, 2, ram_fd, false, two, &e), ERR_UNSUPPORTED);
    for (unsigned i = 0; i < ARRAY_LEN(thread); i++) {
        unsigned tries = 0; // those that have ended are counted until init has collected them
        while (pthread_create(&thread[i], NULL, idle, NULL) && tries++ < 3000)
            usleep(10000);
        CHECK(tries <= 3000);
    }
    return test_failures;
}

static void when_one_is_refused_the_others_end(void)
{
    pid_t pid;
    if (geteuid() == 0)
        CHECK_EQ(in_process(run_with_few_processes, -1, &pid), 0);
}

// As berth-vmm does it.
static int run_in_sandbox(int tell)
{
    struct error e;
    ram_fd = memfd_create("ram", MFD_CLOEXEC);
    if (ftruncate(ram_fd, RAM_BYTES) < 0 || cages_start(&cages, &e))
        return 0;
    ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
    const int keep[] = {cages_socket(cages), ram_fd};
    if (sandbox_enter(keep, ARRAY_LEN(keep), &e))
        return 1;
    err_t err = cages_make(cages, 1, ram_fd, true, &cage, &e);
    if (err)
        return err != ERR_UNSUPPORTED;
    cages_complete(cages);
    sandbox_confine(HOST_THREAD_VCPU);
    regs = cage_regs(cage);
    cage_kick(cage);
    CHECK_EQ(run(for_ever), CAGE_KICKED);
    CHECK_EQ(run(nothing), CAGE_TRAP);
    CHECK(cages_cpu_ns(cages) > 0);
    return test_failures;
}

PROGRAM(load_selectors, "mov $0x2b, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %fs; ud2");

static void selectors_come_out_and_do_not_stay(void)
{
    if (!start(false))
        return finish();
    CHECK_EQ(run(load_selectors), CAGE_TRAP);
    CHECK_EQ(regs->data[0], 0x2b);
    CHECK_EQ(regs->data[1], 0x2b);
    CHECK_EQ(regs->data[2], 0x2b);
    CHECK_EQ(regs->data[3], 0);
    CHECK_EQ(regs->cs, 0x33);
    CHECK_EQ(run(nothing), CAGE_TRAP);
    CHECK_EQ(regs->data[0] | regs->data[1] | regs->data[2] | regs->data[3], 0);
    finish();
}

// By the host's administrator, or because memory ran out: what its code had done is not undone.
static void one_that_is_killed_from_outside_is_the_hosts_failure(void)
{
    for (unsigned i = 0; i < 4; i++) {
        if (!start(false))
            return finish();
        CHECK_EQ(run(nothing), CAGE_TRAP);
        pid_t pid = child_of(child_of(getpid()));
        kill(pid, SIGKILL);
        while (i < 2 && !gone(pid)) // else perhaps it is as it goes on
            usleep(100);
        CHECK_EQ(i % 2 ? run(nothing) /* with a new page */ : go_on(), CAGE_FAILED);
        finish();
    }
}

static void a_confined_thread_can_use_one(void)
{
    pid_t pid;
    CHECK_EQ(in_process(run_in_sandbox, -1, &pid), 0);
}

static void nothing_stays_when_none_was_made(void)
{
    struct error e;
    if (cages_start(&cages, &e))
        return;
    pid_t nursery = child_of(getpid());
    CHECK(nursery && !gone(nursery));
    cages_complete(cages);
    for (unsigned i = 0; i < 3000 && !gone(nursery); i++)
        usleep(10000);
    CHECK(gone(nursery));
    cages_free(cages);
}

TEST_MAIN(TEST(registers_go_in_and_come_out), TEST(flags_go_in_but_not_those_of_the_system),
          TEST(segment_bases_go_in_and_come_out), TEST(vector_registers_go_in_and_come_out),
          TEST(a_vector_image_that_is_nonsense_is_taken_as_far_as_it_goes),
          TEST(faults_tell_address_and_access), TEST(code_goes_on_once_its_page_is_mapped),
          TEST(what_code_writes_is_in_ram), TEST(an_unmapped_page_is_gone),
          TEST(any_number_of_pages_can_be_mapped_before_a_run),
          TEST(a_refused_mapping_leaves_the_cage_empty), TEST(exceptions_have_their_vectors),
          TEST(a_step_is_told_from_a_trap_of_its_own), TEST(a_trap_flag_steps_through_code),
          TEST(time_stamps_stop_code_where_that_was_asked_for),
          TEST(the_identity_of_the_cpu_is_kept_where_that_can_be),
          TEST(system_calls_stop_code_and_never_reach_the_host),
          TEST(those_by_int_0x80_are_exceptions), TEST(those_by_the_oldest_page_are_faults_there),
          TEST(calls_from_our_own_instructions_get_code_nothing),
          TEST(code_cannot_enter_at_other_places_of_ours),
          TEST(code_that_has_blocked_signals_is_lost_and_does_not_run_for_ever),
          TEST(code_that_has_moved_the_signal_stack_is_lost),
          TEST(code_that_reports_for_the_kernel_is_no_failure_of_the_hosts),
          TEST(code_may_scribble_over_all_that_it_can_write),
          TEST(a_stack_pointer_into_the_signal_stack_does_no_harm),
          TEST(a_change_to_32_bit_code_is_seen), TEST(every_kick_stops_code),
          TEST(code_that_runs_for_long_stops_now_and_then),
          TEST(its_address_space_holds_the_area_and_given_pages),
          TEST(it_runs_where_it_is_told_to_and_cannot_move_itself),
          TEST(its_only_descriptor_is_the_file_of_ram), TEST(it_dies_with_the_process_that_uses_it),
          TEST(selectors_come_out_and_do_not_stay),
          TEST(one_that_is_killed_from_outside_is_the_hosts_failure),
          TEST(an_ordinary_user_can_have_one), TEST(a_confined_thread_can_use_one),
          TEST(when_one_is_refused_the_others_end), TEST(nothing_stays_when_none_was_made))
