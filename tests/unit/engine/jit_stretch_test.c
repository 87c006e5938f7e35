// Loops whose checks are made for many iterations at once (jit_stretch.c), against the interpreter:
// streams across pages, to pages that are not there, may only be read, hold code or are a device,
// and random loops of such accesses.
#include "../test.h"

#include "guest64.h"

#include <pthread.h>
#include <unistd.h>

#include "engine/translate/emit.h"

#define ABSENT 0x70000u // not present
#define READ_ONLY 0x90000u
#define DEVICE 0x1c0000u
#define FAULT_STACK \
    0x23000u // what is left by an exception's frame lies below, or below GUEST_STACK

static const uint32_t modes[] = {
    0,
    ENGINE_DEBUG_ALL_HOT,
    ENGINE_DEBUG_ALL_HOT | ENGINE_DEBUG_SLOTS_MISS,
    ENGINE_DEBUG_ALL_HOT | ENGINE_DEBUG_TINY_TLB,
    ENGINE_DEBUG_ALL_HOT | ENGINE_DEBUG_FLAGS_LIVE,
};

static void load(struct guest *g, const uint8_t *code, size_t len, bool user)
{
    memset(g->ram, 0, GUEST_BYTES);
    guest_tables(g);
    guest_registers(g, true);
    if (user)
        guest_user(g, true);
    for (unsigned i = GUEST_DATA; i < 0x1b0000; i++)
        g->ram[i] = (uint8_t)(i * 31 + (i >> 8) * 7);
    store_le64(g->ram + 0x4000 + 8 * (ABSENT >> 12), ABSENT | PTE_W | PTE_U);
    store_le64(g->ram + 0x4000 + 8 * (READ_ONLY >> 12), READ_ONLY | PTE_P | PTE_U);
    engine_translate.written(g->vm, 0, GUEST_BYTES);
    guest_code(g, code, len);
}

// The arithmetic flags that a fault saves need not be exact.
static void forget_saved_flags(struct guest *g)
{
    uint64_t rsp = g->state.gpr[RSP];
    for (uint64_t at = rsp + 16; rsp < FAULT_STACK && at <= rsp + 24; at += 8)
        store_le64(g->ram + at, load_le64(g->ram + at) & ~(uint64_t)FLAGS_ARITH);
}

static bool same(struct guest *want, struct guest *got)
{
    bool faulted = want->state.gpr[RSP] != GUEST_STACK;
    uint64_t flags = faulted ? ~(uint64_t)FLAGS_ARITH : ~0ull;
    int before = test_failures;
    if (faulted)
        forget_saved_flags(want), forget_saved_flags(got);
    for (unsigned i = 0; i < 16; i++)
        CHECK_EQ(got->state.gpr[i], want->state.gpr[i]);
    CHECK_EQ(got->state.rip, want->state.rip);
    CHECK_EQ(got->state.cr2, want->state.cr2);
    CHECK_EQ(got->state.rflags & flags, want->state.rflags & flags);
    CHECK_EQ(memcmp(got->state.xsave, want->state.xsave, CPU_XSAVE_BYTES), 0);
    CHECK_EQ(memcmp(got->ram + GUEST_CODE, want->ram + GUEST_CODE, GUEST_BYTES - GUEST_CODE), 0);
    return test_failures == before;
}

// In all modes, in ring 0 and in ring 3. Returns how many loops were copied without checks.
static uint64_t run_everywhere(const uint8_t *code, size_t len)
{
    struct guest want, got;
    uint64_t copies = 0;
    for (unsigned user = 0; user < 2; user++) {
        guest_init(&want, ENGINE_DEBUG_INTERPRET, true);
        load(&want, code, len, user);
        enum engine_exit expected = guest_run(&want);
        for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
            guest_init(&got, modes[i], true);
            load(&got, code, len, user);
            CHECK_EQ(guest_run(&got), expected);
            if (!same(&want, &got))
                printf("# in debug mode %#x, user %u\n", modes[i], user);
            copies += guest_counter(&got, "unchecked_loops");
            guest_release(&got);
        }
        guest_release(&want);
    }
    return copies;
}

#define RUN(name) run_everywhere(name##_start, (size_t)(name##_end - name##_start))

// Round after round, so that loops get hot by themselves, too.
#define ROUNDS "mov r15d, 40; 9: "
#define AGAIN "; dec r15d; jnz 9b"

SNIPPET(upward,
        ROUNDS "mov eax, 0x40004; mov edx, 0x50ff8; lea rcx, [rax+0x6000]; 1: movupd xmm0, "
               "[rax]; add rax, 16; add rdx, 16; addpd xmm0, [rdx-8]; movupd [rdx-16], xmm0;"
               " cmp rcx, rax; ja 1b; setz bl" AGAIN);
SNIPPET(downward, ROUNDS "mov r8d, 0x46ffd; mov ecx, 0x1800; 1: mov eax, [r8+rcx*4-0x6000]; xor "
                         "[r8], eax; sub r8, 3; dec rcx; jnz 1b; setc bl" AGAIN);
SNIPPET(three,
        ROUNDS "mov esi, 0x40000; mov edi, 0x4c000; mov ebx, 0x58004; xor eax, eax; 1: mov "
               "r8, [rsi+rax*8]; add r8, [rdi+rax*8]; mov [rbx+rax*8], r8; inc rax; cmp rax, "
               "0x1000; jl 1b; mov r9, r8" AGAIN);

static void streams_pass_the_ends_of_their_pages(void)
{
    CHECK(RUN(upward) > 0);
    CHECK(RUN(downward) > 0);
    CHECK(RUN(three) > 0);
}

SNIPPET(absent, "mov esi, 0x6e008; mov edi, 0x50000; xor ebx, ebx; mov r9d, 5; 1: mov rax, [rsi]; "
                "add rbx, rax; mov [rdi+4], rbx; add rsi, 8; lea rdi, [rdi+4]; jmp 1b");
SNIPPET(absent_below, "mov esi, 0x71ff0; mov ecx, 0x1000; 1: add [rsi], rcx; sub rsi, 24; sub rcx, "
                      "1; jne 1b");
SNIPPET(unwritable,
        "mov esi, 0x50000; mov edi, 0x8e000; 1: movzx eax, byte ptr [rsi]; inc rsi; mov "
        "[rdi], al; inc rdi; test al, 1; jz 2f; add rbx, 3; 2: cmp rsi, 0x60000; jne 1b");

static void a_fault_in_the_middle_of_a_stream_finds_all_registers_exact(void)
{
    CHECK(RUN(absent) > 0);
    CHECK(RUN(absent_below) > 0);
    CHECK(RUN(unwritable) > 0);
}

SNIPPET(reading, ROUNDS "mov esi, 0x8f000; xor eax, eax; 1: xor rax, [rsi]; add rsi, 8; cmp rsi, "
                        "0x92000; jb 1b" AGAIN);

static void a_page_that_may_only_be_read_is_read(void)
{
    CHECK(RUN(reading) > 0);
}

SNIPPET(overlapping, ROUNDS "mov esi, 0x40000; 1: mov rax, [rsi]; add [rsi+3], rax; mov rbx, "
                            "[rsi+5]; mov [rsi+0x200], rbx; xor [rsi+0x1004], ebx; add rsi, 8; cmp "
                            "rsi, 0x44000; jne 1b" AGAIN);

static void streams_that_overlap_see_each_other(void)
{
    CHECK(RUN(overlapping) > 0);
}

// The stream comes to the page of the loop and changes what an instruction in it adds.
SNIPPET(own_code,
        "lea rdi, [rip+2f+3]; sub rdi, 0x4000; lea rcx, [rdi+0x4000]; mov esi, 7; 1: add "
        "rbx, 1; mov byte ptr [rdi], 9; add rdi, 0x80; cmp rdi, rcx; jbe 1b; mov ebp, 300; "
        "lea rdi, [rip+2f+3]; 3: lea rdi, [rdi-1]; mov byte ptr [rip+2f+3], 5; 2: add rbx, "
        "1; mov al, [rdi]; dec rbp; jnz 3b");

static void a_stream_that_changes_its_own_code_is_obeyed(void)
{
    RUN(own_code);
}

SNIPPET(to_device,
        "mov esi, 0x1bf000; mov edi, 0x40000; xor ebx, ebx; 1: mov rax, [rsi]; mov [rdi], "
        "rax; add rsi, 8; add rdi, 8; inc rbx; cmp rbx, 0x300; jne 1b");

static void a_stream_reaches_a_device(void)
{
    CHECK(RUN(to_device) > 0);
}

// Every access is where the last page before the end of addresses, or the first, would be.
SNIPPET(around,
        "mov rsi, -64; mov edi, 0x40040; 1: mov rax, [rdi+rsi]; add rbx, rax; add rsi, 8; "
        "cmp rsi, 64; jne 1b; mov rsi, -64; 2: mov rax, [rdi+rsi]; add rbx, rax; add rsi, 8; "
        "cmp rsi, 64; jl 2b; mov rsi, 0x7fffffffffffffc0; mov rdi, 0x8000000000040040; 3: add "
        "rbx, [rdi+rsi]; add rsi, 8; mov rcx, 0x8000000000000100; cmp rsi, rcx; jb 3b; mov "
        "rsi, 64; 4: add rbx, [rdi+rsi-64]; sub rsi, 8; jnz 4b");

static void a_counter_that_passes_zero_or_the_sign_counts_on(void)
{
    RUN(around);
}

SNIPPET(alignment, "mov esi, 0x40000; mov edi, 0x50000; 1: movaps xmm0, [rsi]; add rsi, 16; movaps "
                   "[rdi], xmm0; add rdi, 16; cmp rsi, 0x40800; jne 2f; add rdi, 1; 2: cmp rsi, "
                   "0x42000; jne 1b");
SNIPPET(division,
        "mov esi, 0x40000; mov dword ptr [0x40900], 0; 1: mov eax, 1000; cdq; mov ecx, "
        "[rsi]; add rsi, 4; and ecx, 0x7fff0000; div ecx; add rbx, rax; cmp rsi, 0x42000; "
        "jne 1b");

static void what_the_host_objects_to_in_a_copy_names_its_instruction(void)
{
    RUN(alignment);
    CHECK(RUN(division) > 0);
}

SNIPPET(endless, "sti; 1: mov ebx, 0x1f000; mov edi, 0xa0000; 2: add [rdi], rbx; add rdi, 8; mov "
                 "eax, [rdi]; sub rbx, 1; jnz 2b; jmp 1b");

static void *interrupt_when_running(void *opaque)
{
    struct guest *g = opaque;
    uint64_t *first = (uint64_t *)(g->ram + 0xa0000),
             seen = __atomic_load_n(first, __ATOMIC_RELAXED);
    for (unsigned changes = 0; changes < 5; usleep(100)) {
        uint64_t now = __atomic_load_n(first, __ATOMIC_RELAXED);
        changes += now != seen;
        seen = now;
    }
    engine_translate.set_intr(g->vcpu, true);
    return NULL;
}

static void a_long_loop_is_left_when_something_is_pending(void)
{
    struct guest g;
    pthread_t thread;
    guest_init(&g, 0, true);
    load(&g, endless_start, (size_t)(endless_end - endless_start), false);
    CHECK_EQ(pthread_create(&thread, NULL, interrupt_when_running, &g), 0);
    CHECK_EQ(guest_run(&g), ENGINE_HALTED);
    pthread_join(thread, NULL);
    CHECK_EQ(g.state.rip, GUEST_HANDLERS + 16 * 0x21 + 1);
    CHECK(guest_counter(&g, "unchecked_loops") > 0);
    guest_release(&g);
}

SNIPPET(few, "mov r15d, 60000; mov edi, 0x40000; 1: xor edx, edx; 2: mov rax, [rdi+rdx*8]; add "
             "[rdi+rdx*8+0x100], rax; inc rdx; cmp rdx, 2; jne 2b; dec r15d; jnz 1b");

static void loops_of_few_iterations_are_checked_one_by_one_again(void)
{
    CHECK(RUN(few) > 0);
}

// --- random loops --------------------------------------------------------------------------------

static uint64_t draw(uint64_t *r)
{
    *r ^= *r << 13;
    *r ^= *r >> 7;
    *r ^= *r << 17;
    return *r;
}

static uint64_t one_of(uint64_t *r, const int32_t *values, unsigned n)
{
    return (uint64_t)(int64_t)values[draw(r) % n];
}
#define ONE_OF(r, ...) \
    one_of(r, (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / 4)

static const uint8_t pointers[] = {RSI, RDI, RBX, R8, R12}, indices[] = {RBP, R9},
                     values[] = {RAX, RCX, RDX, R10, R13};
#define BOUND R14
#define PICK(r, list) list[draw(r) % sizeof(list)]

static struct emit_mem random_place(uint64_t *r)
{
    struct emit_mem mem = emit_at(PICK(r, pointers), (int32_t)ONE_OF(r, 0, 0, 8, -8, 16, 3, 400));
    if (draw(r) % 3 == 0) {
        mem.index = PICK(r, indices);
        mem.scale = (uint8_t)(1u << draw(r) % 4);
    }
    return mem;
}

static void random_step(struct emit *e, uint64_t *r, unsigned reg)
{
    int32_t by = (int32_t)ONE_OF(r, 1, 2, 4, 8, 8, 8, 16, 16, 24, 96, 256, 300, -1, -8, -8, -20);
    if (draw(r) % 3 == 0)
        emit_lea(e, 8, reg, emit_at(reg, by));
    else if (draw(r) % 4 == 0)
        emit_alu_ri(e, ALU_SUB, 8, reg, -by);
    else
        emit_alu_ri(e, ALU_ADD, 8, reg, by);
}

static void random_access(struct emit *e, uint64_t *r)
{
    struct emit_mem mem = random_place(r);
    unsigned size = 1u << draw(r) % 4, value = PICK(r, values);
    switch (draw(r) % 8) {
    case 0:
    case 1: emit_store(e, size, mem, value); break;
    case 2: emit_alu_mr(e, ALU_ADD, 8, mem, value); break;
    case 3: emit_alu_rm(e, ALU_XOR, 8, value, mem); break;
    case 4: emit_op_rm(e, 4, 0, MAP_0F, draw(r) % 2 ? 0x10 : 0x11, draw(r) % 4, mem); break;
    case 5: emit_op_rm(e, 4, 0x66, MAP_0F, 0xfe, draw(r) % 4, mem); break; // paddd: aligned
    case 6: emit_op_rm(e, 8, 0, MAP_0F, 0xb6, value, mem); break;          // movzx
    default: emit_load(e, size < 4 ? 4 : size, value, mem); break;
    }
}

// What may be skipped: accesses and, seldom, a step.
static void random_branch(struct emit *e, uint64_t *r)
{
    emit_test_ri(e, 4, PICK(r, values), 1 << draw(r) % 8);
    uint8_t *over = emit_jcc(e, draw(r) % 2 ? COND_E : COND_NE);
    random_access(e, r);
    if (draw(r) % 4 == 0)
        random_step(e, r, PICK(r, pointers));
    emit_land(e, over);
}

static void random_body(struct emit *e, uint64_t *r)
{
    for (unsigned n = 2 + draw(r) % 6; n; n--)
        switch (draw(r) % 8) {
        case 0: random_branch(e, r); break;
        case 1: emit_alu_rr(e, ALU_ADD, 8, PICK(r, values), PICK(r, values)); break;
        case 2: random_step(e, r, PICK(r, indices)); break;
        case 3: random_step(e, r, PICK(r, pointers)); break;
        default: random_access(e, r); break;
        }
}

// The loop ends by a comparison of something that moves, or of a counter.
static void random_end(struct emit *e, uint64_t *r, const void *head)
{
    static const uint8_t conditions[] = {COND_NE, COND_NE, COND_B,  COND_L, COND_A,
                                         COND_G,  COND_LE, COND_AE, COND_NE};
    unsigned counter = draw(r) % 2 ? PICK(r, pointers) : PICK(r, indices);
    random_step(e, r, counter);
    emit_alu_ri(e, ALU_SUB, 8, R15, 1); // at most so often
    uint8_t *out = emit_jcc(e, COND_E);
    if (draw(r) % 4 == 0)
        emit_jmp_to(e, head);
    else if (draw(r) % 3 == 0)
        emit_alu_rr(e, ALU_CMP, 8, BOUND, counter);
    else
        emit_alu_rr(e, ALU_CMP, 8, counter, BOUND);
    emit_jcc_to(e, (enum condition)PICK(r, conditions), head);
    emit_land(e, out);
}

static void random_registers(struct emit *e, uint64_t *r)
{
    for (unsigned i = 0; i < sizeof pointers; i++)
        emit_mov_ri(e, pointers[i], 0x40000 + draw(r) % 24 * 0x2000 + ONE_OF(r, 0, 0, 0, 16, 3));
    for (unsigned i = 0; i < sizeof indices; i++)
        emit_mov_ri(e, indices[i], ONE_OF(r, 0, 0, 1, -64, 0x200));
    for (unsigned i = 0; i < sizeof values; i++)
        emit_mov_ri(e, values[i], draw(r));
    emit_mov_ri(e, BOUND, draw(r) % 2 ? draw(r) % 0x1000 : 0x40000 + draw(r) % 0x100000 * 8);
    emit_mov_ri(e, R15, 1 + draw(r) % 900);
}

static size_t random_loops(uint8_t *code, size_t max, uint64_t seed)
{
    struct emit e = {.at = code, .end = code + max};
    uint64_t r = seed;
    for (unsigned i = 0; i < 8; i++)
        draw(&r);
    for (unsigned loops = 0; loops < 3; loops++) {
        random_registers(&e, &r);
        const void *head = emit_exec(&e);
        random_body(&e, &r);
        random_end(&e, &r, head);
    }
    emit_u8(&e, 0xf4);
    return (size_t)(e.at - code);
}

// A seed for each program; FUZZ_SEED is the only one, FUZZ_ROUNDS are many.
static void random_loops_over_streams_agree_with_the_interpreter(void)
{
    const char *only = getenv("FUZZ_SEED"), *n = getenv("FUZZ_ROUNDS");
    unsigned rounds = n ? (unsigned)atoi(n) : 20;
    uint64_t copies = 0;
    int before = test_failures;
    for (unsigned i = 0; i < rounds && test_failures == before; i++) {
        uint64_t seed = only ? strtoull(only, NULL, 0) : 0x1234567 + i * 0x9e3779b97f4a7c15ull;
        uint8_t code[4096];
        copies += run_everywhere(code, random_loops(code, sizeof code, seed));
        if (test_failures != before)
            printf("# seed %#llx\n", (unsigned long long)seed);
    }
    CHECK(copies > rounds);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(streams_pass_the_ends_of_their_pages),
        TEST(a_fault_in_the_middle_of_a_stream_finds_all_registers_exact),
        TEST(a_page_that_may_only_be_read_is_read),
        TEST(streams_that_overlap_see_each_other),
        TEST(a_stream_that_changes_its_own_code_is_obeyed),
        TEST(a_stream_reaches_a_device),
        TEST(a_counter_that_passes_zero_or_the_sign_counts_on),
        TEST(what_the_host_objects_to_in_a_copy_names_its_instruction),
        TEST(a_long_loop_is_left_when_something_is_pending),
        TEST(loops_of_few_iterations_are_checked_one_by_one_again),
        TEST(random_loops_over_streams_agree_with_the_interpreter),
    };
    return test_main(tests, ARRAY_LEN(tests));
}
