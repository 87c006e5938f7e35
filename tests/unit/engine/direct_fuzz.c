// User code in cages and through the interpreter, random instruction streams and what is hard in
// particular: registers, flags, segments, vector state, memory, accessed and dirty bits and faults
// must be equal afterwards. Skipped where the host has no cages.
#include "../test.h"

#include <pthread.h>
#include <unistd.h>

#include "engine/translate/direct_impl.h"
#include "streams.h"

static struct guest want, got;

// False: nothing can be tested here.
static bool start(uint32_t debug)
{
    struct error e = {0};
    err_t err = cages_start(&guest_cages, &e);
    if (err) {
        printf("# skipped: %s\n", e.text);
        CHECK_EQ(err, ERR_UNSUPPORTED);
        return false;
    }
    CHECK(guest_init(&got, debug | ENGINE_DEBUG_ALL_DIRECT, true));
    struct cages *cages = guest_cages;
    guest_cages = NULL;
    CHECK(guest_init(&want, ENGINE_DEBUG_INTERPRET, true));
    guest_cages = cages;
    return true;
}

static void finish(void)
{
    CHECK(guest_counter(&got, "direct_runs"));
    guest_release(&want);
    guest_release(&got);
    cages_free(guest_cages);
    guest_cages = NULL;
}

static void compare_streams(uint32_t debug, unsigned number)
{
    struct seeds seeds = seeds_of(number);
    uint64_t seed;
    if (!start(debug))
        return;
    while (!test_failures && next_seed(&seeds, &seed)) {
        struct random r = {seed};
        struct stream s;
        make_stream(&r, true, 0, false, &s);
        load_stream(&want, &s, true, r.state);
        load_stream(&got, &s, true, r.state);
        guest_linux_user(&want);
        guest_linux_user(&got);
        CHECK_EQ(guest_run(&got), guest_run(&want));
        if (!same(&want, &got, &s, false)) {
            printf("# seed %#" PRIx64 "\n", seed);
            print_stream(&s, true);
        }
    }
    finish();
}

static void random_streams_in_cages_agree_with_the_interpreter(void)
{
    compare_streams(0, 21);
}

// --- what is hard in particular ------------------------------------------------------------------

#define COUNTED (GUEST_DATA + 0xf000) // by handlers that return: vectors 1, 3, 4 and SYSCALL
#define ALIAS 0x50000                 // a second mapping of the pages of code
#define SYSCALL_HANDLER (GUEST_HANDLERS + 16 * 200)

// inc qword ptr [COUNTED + 8 * n], and a return.
static void counting_handler(struct guest *g, uint64_t at, unsigned n, uint32_t back)
{
    static const uint8_t inc[] = {0x48, 0xff, 0x04, 0x25};
    memcpy(g->ram + at, inc, sizeof inc);
    store_le32(g->ram + at + 4, COUNTED + 8 * n);
    store_le32(g->ram + at + 8, back);
}

static uint64_t *entry_of(struct guest *g, uint64_t at)
{
    return (uint64_t *)(void *)(g->ram + 0x4000) + (at >> PAGE_SHIFT);
}

static void begin(struct guest *g)
{
    memset(g->ram, 0, GUEST_BYTES);
    guest_tables(g);
    guest_registers(g, true);
    guest_linux_user(g);
    for (unsigned gate = 3; gate <= 4; gate++) // for user code
        g->ram[0x6000 + 16 * gate + 5] = 0xee;
    counting_handler(g, GUEST_HANDLERS + 16 * VEC_DB, 0, 0xcf48);
    counting_handler(g, GUEST_HANDLERS + 16 * VEC_BP, 1, 0xcf48);
    counting_handler(g, GUEST_HANDLERS + 16 * VEC_OF, 2, 0xcf48);
    counting_handler(g, SYSCALL_HANDLER, 3, 0x070f48);
    for (unsigned i = 0; i < 2; i++)
        *entry_of(g, ALIAS + i * PAGE_SIZE) = (GUEST_CODE + i * PAGE_SIZE) | PTE_P | PTE_W | PTE_U;
    *entry_of(g, 0x60000) = 0;
    *entry_of(g, 0x61000) = 0x61000 | PTE_P | PTE_U; // read-only
    *entry_of(g, 0x62000) = 0x62000 | PTE_P | PTE_W;
    *entry_of(g, 0x63000) = 0x63000 | PTE_P | PTE_W | PTE_U | PTE_NX;
    struct cpu_state *st = &g->state;
    st->cr4 |= CR4_FSGSBASE;
    st->star = 0x23ull << 48 | 8ull << 32;
    st->lstar = SYSCALL_HANDLER;
    st->sfmask = FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC;
    st->tsc_aux = 0x1234;
    st->seg[SEG_FS].base = GUEST_DATA;
    engine_translate.written(g->vm, 0, GUEST_BYTES);
}

// The second half of the memory's tables: the last page of the lower half of all addresses leads
// to the page of code.
static void map_last_page(struct guest *g)
{
    store_le64(g->ram + 0x1000 + 8 * 255, 0x70000 | PTE_P | PTE_W | PTE_U);
    store_le64(g->ram + 0x70000 + 8 * 511, 0x71000 | PTE_P | PTE_W | PTE_U);
    store_le64(g->ram + 0x71000 + 8 * 511, 0x72000 | PTE_P | PTE_W | PTE_U);
    store_le64(g->ram + 0x72000 + 8 * 511, GUEST_CODE | PTE_P | PTE_W | PTE_U);
    store_le64(g->ram + 0x72000 + 8 * 510, GUEST_DATA | PTE_P | PTE_W | PTE_U);
}

static void same_machine(void)
{
    const struct stream none = {0};
    same(&want, &got, &none, false);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        CHECK_EQ(got.state.seg[i].selector, want.state.seg[i].selector);
        CHECK_EQ(got.state.seg[i].base, want.state.seg[i].base);
    }
    CHECK_EQ(got.state.rflags, want.state.rflags);
    CHECK_EQ(got.state.dr6, want.state.dr6);
    for (uint64_t i = 0; i < 512; i++) {
        if (load_le64(got.ram + 0x4000 + 8 * i) != load_le64(want.ram + 0x4000 + 8 * i)) {
            printf("# the entry of page %#" PRIx64 ": %#" PRIx64 ", expected %#" PRIx64 "\n",
                   i << PAGE_SHIFT, load_le64(got.ram + 0x4000 + 8 * i),
                   load_le64(want.ram + 0x4000 + 8 * i));
            test_failures++;
        }
    }
}

static void put_code(struct guest *g, uint64_t at, const uint8_t *from, const uint8_t *to)
{
    memcpy(g->ram + at, from, (size_t)(to - from));
    engine_translate.written(g->vm, at, (size_t)(to - from));
    g->state.rip = at;
}

// Code in the page of code, from offset on.
static void compare_at(const char *name, const uint8_t *from, const uint8_t *to, unsigned offset)
{
    int before = test_failures;
    struct guest *const both[] = {&want, &got};
    for (unsigned i = 0; i < 2; i++) {
        begin(both[i]);
        map_last_page(both[i]);
        put_code(both[i], GUEST_CODE + offset, from, to);
    }
    CHECK_EQ(guest_run(&got), guest_run(&want));
    same_machine();
    if (test_failures != before)
        printf("# %s, from %#x in its page\n", name, offset);
}

#define COMPARE(name) compare_at(#name, name##_start, name##_end, 0)
#define COMPARE_AT(name, offset) compare_at(#name, name##_start, name##_end, offset)

SNIPPET(traps, "mov ecx, 3; 1: int3; .byte 0xcd, 3; .byte 0xcd, 4; .byte 0xf1; nop; loop 1b");
SNIPPET(trap_flag, "pushf; or dword ptr [rsp], 0x100; popf; nop; inc eax; push rax; int3; nop; "
                   "syscall; nop; mov ecx, 3; rep movsb; cpuid; pushf; pop rdx; xor edx, edx; "
                   "pushf; and dword ptr [rsp], ~0x100; popf; nop; inc eax");
SNIPPET(trap_flag_of_one,
        "pushf; or dword ptr [rsp], 0x100; push 2; xchg rax, [rsp]; xchg rax, [rsp + 8]; "
        "xchg rax, [rsp]; popf; popf; inc eax; inc ebx");
SNIPPET(all_flags, "mov rax, -1; and eax, ~0x40100; push rax; popf; pushf; pop rbx; push 0; popf; "
                   "pushf; pop rcx; push 0x204000; popf; hlt");
SNIPPET(alignment, "pushf; or dword ptr [rsp], 0x40000; popf; mov rax, [rsi + 1]; pushf; pop rbx");
SNIPPET(int80, "inc eax; int 0x80");
SNIPPET(int21, "inc eax; int 0x21");
SNIPPET(system_calls, "mov r12d, 5; 1: mov eax, r12d; syscall; add r13, rcx; dec r12d; jnz 1b");
SNIPPET(sysenter, "inc eax; sysenter");
SNIPPET(identity, "xor esi, esi; 1: mov eax, esi; xor ecx, ecx; cpuid; mov [rdi], eax; "
                  "mov [rdi + 4], ebx; mov [rdi + 8], ecx; mov [rdi + 12], edx; add rdi, 16; "
                  "inc esi; cmp esi, 32; jb 1b; mov eax, 0x80000002; cpuid; mov r8, rax; "
                  "xor ecx, ecx; xgetbv; mov r9, rax; rdtscp; mov r10, rcx; xor eax, eax; "
                  "xor edx, edx; .byte 0xf3, 0x0f, 0xc7, 0xf8; mov ecx, 0x7b; lsl edx, ecx; "
                  "setz dl; mov r11, rdx; xor edx, edx; .byte 0xf3; cpuid; .byte 0x66; cpuid");
SNIPPET(hypercalls, "mov eax, 1; vmmcall; mov rbx, rax; mov eax, 1; vmcall; mov rcx, rax");
SNIPPET(bases, "mov rax, 0x35000; wrgsbase rax; rdfsbase rbx; mov gs:[8], rbx; mov rcx, fs:[16]; "
               "mov rax, 0x8000000000000; wrfsbase rax");
SNIPPET(selectors, "mov eax, 0x2b; mov ds, eax; mov es, eax; mov ecx, ds; mov edx, 0x2b; "
                   "mov fs, edx; rdfsbase r8");
SNIPPET(selectors_that_are_not, "mov eax, 0x43; mov ds, eax");
SNIPPET(compat, "mov rax, rsp; push 0x23; lea rax, [rip + 1f]; push rax; .byte 0x48, 0xcb; "
                "1: .byte 0x40, 0x40, 0xb9, 1, 2, 3, 4, 0x50, 0x0e, 0xe8, 0, 0, 0, 0");
SNIPPET(iret, "mov rbx, rsp; push 0x2b; push rbx; push 0x4cd7; push 0x33; lea rax, [rip + 1f]; "
              "push rax; iretq; 1: pushf; pop rcx");
SNIPPET(iret_to_compat, "mov rbx, rsp; push 0x2b; push rbx; push 0x202; push 0x23; "
                        "lea rax, [rip + 1f]; push rax; iretq; 1: .byte 0x40, 0x40, 0xcd, 0x80");
SNIPPET(no_address, "mov rax, 0x800000000000; inc ebx; mov rcx, [rax]");
SNIPPET(no_stack, "mov rsp, 0x800000000000; inc ebx; push rcx");
SNIPPET(no_target, "mov rax, 0x800000000000; inc ebx; jmp rax");
SNIPPET(no_return, "mov rax, 0x800000000000; push rax; ret");
SNIPPET(nothing_there, "mov eax, 0x5ffff; mov rcx, [rax]");
SNIPPET(write_across, "mov eax, 0x60fff; mov dword ptr [rax + 1], 5; mov dword ptr [rax], 5");
SNIPPET(read_only, "mov eax, 0x61000; mov rcx, [rax]; inc qword ptr [rax]");
SNIPPET(not_users, "mov eax, 0x62000; mov rcx, [rax]");
SNIPPET(not_code, "mov eax, 0x63000; mov rcx, [rax]; jmp rax");
SNIPPET(half_a_copy, "mov edi, 0x5fff0; mov ecx, 100; rep movsb");
SNIPPET(first_page, "xor eax, eax; mov rbx, [rax]; mov [rax + 8], rsp; mov rcx, [rax + 8]; "
                    "mov eax, 0xfff0; mov [rax], rcx; inc qword ptr [rax]");
SNIPPET(last_page, "mov rax, 0x7fffffffe000; mov [rax], rsp; inc qword ptr [rax]; add rax, 0xff8; "
                   "mov [rax], rsp; mov ebx, [rax + 4]; mov ecx, [rax + 7]; mov rcx, [rax + 8]; "
                   "inc dword ptr [rax + 0x108]; mov edx, [rax + 0x1000 + 6]");
SNIPPET(code_in_last_page, "lea rax, [rip + 1f - 0x10000]; mov rbx, 0x7ffffffff000; "
                           "and eax, 0xfff; add rax, rbx; jmp rax; 1: inc ecx; lea rdx, [rip]; "
                           "mov rax, 0x7fffffffffff; mov byte ptr [rax], 0x90; jmp rax");
SNIPPET(vsyscall, "mov rbx, 0xffffffffff600000; mov eax, 96; call rbx"); // RAX: its number
SNIPPET(read_vsyscall, "mov rax, 0xffffffffff600000; mov eax, [rax]");
SNIPPET(kernel_half, "mov rax, 0xffff800000000000; inc ebx; mov [rax], ecx");
SNIPPET(avx, "vbroadcastss ymm1, [rsi]; vaddps ymm2, ymm1, ymm1; vextractf128 xmm3, ymm2, 1; "
             "vzeroupper; vpxor xmm1, xmm1, xmm1; syscall; vpaddq ymm4, ymm2, ymm1");
SNIPPET(sse_unmasked, "push 0x1d80; ldmxcsr [rsp]; xorps xmm0, xmm0; inc eax; divss xmm0, xmm0");
SNIPPET(mxcsr_reserved, "push 0x11f80; ldmxcsr [rsp]");
SNIPPET(x87_unmasked, "push 0x37b; fldcw [rsp]; fld1; fldz; fdivp; inc eax; fld1; inc ebx; fwait");
SNIPPET(x87_stays, "fldpi; fld1; syscall; faddp; syscall; fstp qword ptr [rsi]; fld1; cpuid");
SNIPPET(privileged, "inc ebx; wbinvd");
SNIPPET(port, "inc ebx; in al, dx");
SNIPPET(undefined, "inc ebx; ud2");
SNIPPET(division, "xor ecx, ecx; div ecx");
SNIPPET(bad_lock, ".byte 0xf0, 0x90");
SNIPPET(too_long, ".fill 16, 1, 0x66; nop");
SNIPPET(new_code, // through its own mapping and another, 40 times
        "lea rbx, [rip + 2f]; lea rcx, [rbx + 0x50000 - 0x10000]; mov r8d, 40; "
        "1: mov [rbx + 1], r8d; call rbx; add r9, rax; mov edx, r8d; neg edx; mov [rcx + 1], edx; "
        "call rbx; add r9, rax; call rcx; add r9, rax; dec r8d; jnz 1b; hlt; "
        "2: mov eax, 0; ret");
SNIPPET(next_code, // the very next instruction, as it goes
        "mov r8d, 20; 1: mov byte ptr [rip + 2f + 1], 0xc0; 2: inc ecx; mov word ptr [rip + 3f], "
        "0xa20f;"
        "xor eax, eax; 3: nop; nop; add r9, rbx; mov word ptr [rip + 3b], 0x9090; dec r8d; jnz 1b");
SNIPPET(own_text, // sums itself up while it changes
        "lea rsi, [rip + 9f]; mov r8d, 30; 1: xor eax, eax; xor ecx, ecx; "
        "2: add al, [rsi + rcx]; rol eax, 3; inc ecx; cmp ecx, 100; jb 2b; "
        "mov [rip + 9f], eax; add r9, rax; dec r8d; jnz 1b; hlt; 9: .fill 100, 1, 7");

static void traps_and_flags_agree(void)
{
    if (!start(0))
        return;
    COMPARE(traps), COMPARE(trap_flag), COMPARE(trap_flag_of_one), COMPARE(all_flags);
    COMPARE(alignment), COMPARE(int80), COMPARE(int21), COMPARE(system_calls), COMPARE(sysenter);
    COMPARE(privileged), COMPARE(port), COMPARE(undefined), COMPARE(division), COMPARE(bad_lock);
    COMPARE(too_long);
    finish();
}

static void what_is_the_guests_own_is_not_the_hosts(void)
{
    if (!start(0))
        return;
    COMPARE(identity), COMPARE(bases), COMPARE(selectors), COMPARE(selectors_that_are_not);
    COMPARE(compat), COMPARE(iret), COMPARE(iret_to_compat), COMPARE(hypercalls);
    finish();
}

static void addresses_agree(void)
{
    if (!start(0))
        return;
    COMPARE(no_address), COMPARE(no_stack), COMPARE(no_target), COMPARE(no_return);
    COMPARE(nothing_there), COMPARE(write_across), COMPARE(read_only), COMPARE(not_users);
    COMPARE(not_code), COMPARE(half_a_copy), COMPARE(first_page), COMPARE(last_page);
    COMPARE(code_in_last_page), COMPARE(vsyscall), COMPARE(read_vsyscall), COMPARE(kernel_half);
    finish();
}

static void vector_state_agrees(void)
{
    if (!start(0))
        return;
    COMPARE(avx), COMPARE(sse_unmasked), COMPARE(mxcsr_reserved), COMPARE(x87_unmasked);
    COMPARE(x87_stays);
    finish();
}

static void code_that_changes_agrees(void)
{
    if (!start(0))
        return;
    COMPARE(new_code), COMPARE(next_code), COMPARE(own_text);
    finish();
}

// With every place at which the page can end within them.
static void instructions_across_pages_agree(void)
{
    if (!start(0))
        return;
    for (unsigned back = 1; back < 60 && !test_failures; back++) {
        COMPARE_AT(identity, PAGE_SIZE - back);
        COMPARE_AT(system_calls, PAGE_SIZE - back);
        COMPARE_AT(trap_flag, PAGE_SIZE - back);
        COMPARE_AT(new_code, PAGE_SIZE - back);
        COMPARE_AT(next_code, PAGE_SIZE - back);
    }
    finish();
}

SNIPPET(jump, "mov rcx, rsp; jmp rax");

// Where the cage itself is: the program gets a fault, and what runs later is none the worse.
static void a_jump_into_the_cages_own_area_is_a_fault(void)
{
    if (!start(0))
        return;
    const struct tcpu *c = (const struct tcpu *)(const void *)got.vcpu;
    const uint64_t area = cage_area(c->direct->space[0].cage);
    const uint64_t offsets[] = {CAGE_AREA_BYTES - PAGE_SIZE, 0, 0x9000, 0xa000};
    for (unsigned i = 0; i < ARRAY_LEN(offsets); i++) {
        begin(&got);
        put_code(&got, GUEST_CODE, jump_start, jump_end);
        got.state.gpr[RAX] = area + offsets[i];
        CHECK_EQ(guest_run(&got), ENGINE_HALTED);
        uint64_t vector = (got.state.rip - 1 - GUEST_HANDLERS) / 16;
        CHECK(vector == VEC_GP || vector == VEC_PF);
        COMPARE(system_calls);
    }
    finish();
}

SNIPPET(for_ever, "vpcmpeqd ymm1, ymm1, ymm1; 1: inc qword ptr fs:[0xf000]; jmp 1b");

// Once the code runs.
static void *interrupt(void *opaque)
{
    while (!__atomic_load_n((uint64_t *)(void *)(got.ram + COUNTED), __ATOMIC_RELAXED))
        usleep(1000);
    engine_translate.set_intr(got.vcpu, true);
    return NULL;
}

static void an_interrupt_ends_a_loop(void)
{
    if (!start(0))
        return;
    for (unsigned i = 0; i < 5; i++) {
        pthread_t thread;
        begin(&got);
        put_code(&got, GUEST_CODE, for_ever_start, for_ever_end);
        CHECK_EQ(pthread_create(&thread, NULL, interrupt, NULL), 0);
        CHECK_EQ(guest_run(&got), ENGINE_HALTED);
        pthread_join(thread, NULL);
        CHECK_EQ(got.state.rip, GUEST_HANDLERS + 16 * 0x21 + 1);
        CHECK_EQ(got.state.xsave[160 + 16], 0xff);
    }
    finish();
}

TEST_MAIN(TEST(random_streams_in_cages_agree_with_the_interpreter), TEST(traps_and_flags_agree),
          TEST(what_is_the_guests_own_is_not_the_hosts), TEST(addresses_agree),
          TEST(vector_state_agrees), TEST(code_that_changes_agrees),
          TEST(instructions_across_pages_agree), TEST(a_jump_into_the_cages_own_area_is_a_fault),
          TEST(an_interrupt_ends_a_loop))
