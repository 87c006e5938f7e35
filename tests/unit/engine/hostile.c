// A hostile kernel against the translator. Whatever it does to its tables, code and registers, it
// gets faults, a reset or wrong results of its own, and run() comes back; the VMM's memory, guarded
// on both sides of the guest's, stays out of reach. Each case runs translated, with a tiny TLB and
// code cache, and interpreted.
#include <pthread.h>
#include <time.h>

#include "../test.h"
#include "guest64.h"

#define PT 0x4000u     // entries of the first 2 MiB
#define MMIO 0x1c0000u // linear: leads outside RAM
#define PAGE 0x40000u  // ordinary, for cases to remap
#define TARGET (GUEST_DATA + 0x5000)

static const uint32_t modes[] = {0, ENGINE_DEBUG_TINY_TLB | ENGINE_DEBUG_TINY_CACHE,
                                 ENGINE_DEBUG_INTERPRET};

// --- runs that end -------------------------------------------------------------------------------

// Stops a run that does not end by itself.
struct watchdog {
    pthread_t thread;
    struct engine_vcpu *vcpu;
    unsigned ms;
    int over; // atomic
};

static void *watchdog_main(void *arg)
{
    struct watchdog *w = arg;
    for (unsigned i = 0; i < w->ms && !__atomic_load_n(&w->over, __ATOMIC_ACQUIRE); i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    engine_translate.kick(w->vcpu);
    return NULL;
}

static enum engine_exit run_for(struct guest *g, unsigned ms)
{
    struct watchdog w = {.vcpu = g->vcpu, .ms = ms};
    pthread_create(&w.thread, NULL, watchdog_main, &w);
    enum engine_exit exit = guest_run(g);
    __atomic_store_n(&w.over, 1, __ATOMIC_RELEASE);
    pthread_join(w.thread, NULL);
    return exit;
}

// The vector of the handler that halted, or -1.
static int halted_in(const struct guest *g)
{
    uint64_t at = g->state.rip - 1 - GUEST_HANDLERS;
    return at < 4096 && at % 16 == 0 ? (int)(at / 16) : -1;
}

typedef void prepare_fn(struct guest *g);

// Runs code in every mode; the run must end in this vector's handler, or with vector -1 at HLT.
static void expect_vector(prepare_fn *prepare, const uint8_t *code, const uint8_t *end, int vector)
{
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        struct guest g;
        if (!guest_init(&g, modes[i], true)) {
            CHECK(false);
            return;
        }
        guest_code(&g, code, (size_t)(end - code));
        if (prepare)
            prepare(&g);
        CHECK_EQ(run_for(&g, 3000), ENGINE_HALTED);
        CHECK_EQ(halted_in(&g), vector);
        guest_release(&g);
    }
}

static void expect_shutdown(prepare_fn *prepare, const uint8_t *code, const uint8_t *end)
{
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        struct guest g;
        if (!guest_init(&g, modes[i], true)) {
            CHECK(false);
            return;
        }
        guest_code(&g, code, (size_t)(end - code));
        if (prepare)
            prepare(&g);
        CHECK_EQ(run_for(&g, 3000), ENGINE_SHUTDOWN);
        guest_release(&g);
    }
}

#define VECTOR(prepare, name, vector) expect_vector(prepare, name##_start, name##_end, vector)
#define SHUTDOWN(prepare, name) expect_shutdown(prepare, name##_start, name##_end)

static void set_pte(struct guest *g, uint64_t at, uint64_t entry)
{
    store_le64(g->ram + PT + (at >> 12) * 8, entry);
}

// --- page tables that lead outside ---------------------------------------------------------------

SNIPPET(touch_page,
        "mov rbx, 0x40000\nmov rax, [rbx]\nmov [rbx+8], rax\nlock add [rbx+16], rax\n"
        "movups xmm0, [rbx]\nmovups [rbx+32], xmm0\nfxsave [rbx+512]\nfxrstor [rbx+512]");
SNIPPET(jump_page, "mov rax, 0x40000\njmp rax");

static void page_at_bit_45(struct guest *g)
{
    set_pte(g, PAGE, BIT(45) | 7);
}

static void page_past_ram(struct guest *g)
{
    set_pte(g, PAGE, GUEST_BYTES | 7);
}

static void page_at_the_last_address(struct guest *g)
{
    set_pte(g, PAGE, (BIT(52) - PAGE_SIZE) | 7);
}

static void addresses_past_ram_are_no_memory(void)
{
    VECTOR(page_past_ram, touch_page, VEC_GP); // FXRSTOR finds junk in MXCSR
}

static void addresses_beyond_the_guests_bits_are_reserved(void)
{
    VECTOR(page_at_the_last_address, touch_page, VEC_PF);
    VECTOR(page_at_the_last_address, jump_page, VEC_PF);
}

static void far_addresses_end_the_run_somehow(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        struct guest g;
        if (!guest_init(&g, modes[i], true))
            return;
        guest_code(&g, jump_page_start, (size_t)(jump_page_end - jump_page_start));
        page_at_bit_45(&g); // code in MMIO: bytes that the device invents
        CHECK(run_for(&g, 300) != ENGINE_FAILED);
        guest_release(&g);
    }
}

SNIPPET(load_cr3, "mov rax, 0x7fffff000\nmov cr3, rax\nnop");

static void tables_outside_ram_end_in_shutdown(void)
{
    SHUTDOWN(NULL, load_cr3);
}

static void middle_table_in_mmio(struct guest *g)
{
    store_le64(g->ram + 0x2000 + 8, 0x80000000ull | 7); // 1 GiB..2 GiB
}

SNIPPET(touch_gib, "mov rbx, 0x40000000\nmov rax, [rbx]");

static void tables_in_mmio_map_nothing(void)
{
    VECTOR(middle_table_in_mmio, touch_gib, VEC_PF);
}

// The tables as a page of their own mapping; the guest moves a page by writing there.
SNIPPET(move_page, "mov rbx, 0x4000\nmov rcx, 0x40000\nmov qword ptr [rcx], 1\n"
                   "mov rax, 0x200000007\nmov [rbx+0x200], rax\ninvlpg [rcx]\nmov rdx, [rcx]\n"
                   "mov rax, 0x4007\nmov [rbx+0x200], rax\ninvlpg [rcx]\nmov rdx, [rcx+0x200]\n"
                   "mov qword ptr [rcx+0x200], 0\ninvlpg [rcx]\nmov rdx, [rcx]");

static void tables_that_map_themselves_are_plain_memory(void)
{
    VECTOR(NULL, move_page, VEC_PF);
}

// The code's own page becomes its page table: entries are what the code's bytes say.
SNIPPET(code_as_table, "mov rax, 0x10007\nmov rbx, 0x3008\nmov [rbx], rax\nmov rcx, 0x200000\n"
                       "1: mov rax, [rcx]\nadd rcx, 0x1000\njmp 1b");

static void code_that_is_a_page_table_only_harms_itself(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        struct guest g;
        if (!guest_init(&g, modes[i], true))
            return;
        guest_code(&g, code_as_table_start, (size_t)(code_as_table_end - code_as_table_start));
        enum engine_exit exit = run_for(&g, 300);
        CHECK(exit == ENGINE_HALTED || exit == ENGINE_SHUTDOWN);
        guest_release(&g);
    }
}

// --- accesses across borders ---------------------------------------------------------------------

// RAM into MMIO, MMIO into RAM, the end of RAM, the end of the address space, the hole's edges.
SNIPPET(across, "mov rbx, 0x1bfffc\nmov rax, [rbx]\nmov [rbx], rax\nlock xadd [rbx], rax\n"
                "movups xmm0, [rbx-4]\nmovups [rbx-4], xmm0\n"
                "mov rbx, 0x1fffff\nmov al, [rbx]\nmov rbx, 0x7ffffffffffc\nmov rax, [rbx]");
SNIPPET(noncanonical, "mov rbx, 0x7ffffffffffffffc\nmov rax, [rbx]");
SNIPPET(wrap, "mov rbx, -4\nmov rax, [rbx]");
SNIPPET(copy_all, "mov rsi, 0x40000\nmov rdi, 0x41000\nmov rcx, -1\nrep movsb");
SNIPPET(fill_all, "mov rdi, 0x1bf000\nmov rcx, -1\nrep stosq");
SNIPPET(fill_down, "mov rdi, 0x2fff\nstd\nmov rcx, -1\nmov rax, 0x8000000000000000\nrep stosq");

static void accesses_cross_between_memory_and_devices(void)
{
    VECTOR(NULL, across, VEC_GP); // the last operand ends where no address can
}

static void wild_pointers_fault(void)
{
    VECTOR(NULL, noncanonical, VEC_GP);
    VECTOR(NULL, wrap, VEC_PF); // on both sides of zero
}

static void endless_string_instructions_stop(void)
{
    const uint8_t *code[][2] = {{copy_all_start, copy_all_end},
                                {fill_all_start, fill_all_end},
                                {fill_down_start, fill_down_end}};
    for (unsigned n = 0; n < ARRAY_LEN(code); n++) {
        for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
            struct guest g;
            if (!guest_init(&g, modes[i], true))
                return;
            guest_code(&g, code[n][0], (size_t)(code[n][1] - code[n][0]));
            CHECK(run_for(&g, 3000) != ENGINE_FAILED);
            guest_release(&g);
        }
    }
}

// --- tables and stacks ---------------------------------------------------------------------------

SNIPPET(undefined, "ud2");
SNIPPET(bad_stack, "mov rsp, 0x8000000000000000\npush rax");
SNIPPET(missing_stack, "mov rsp, 0x50000000\npush rax");
SNIPPET(load_ds, "mov eax, 0x10\nmov ds, eax");
SNIPPET(load_tr, "mov eax, 0x10\nltr ax");
SNIPPET(far_return, "push 8\nlea rax, [rip+3]\npush rax\nretfq\nnop");

static void idt_in_mmio(struct guest *g)
{
    g->state.idtr.base = MMIO;
}

static void idt_at_the_end(struct guest *g)
{
    g->state.idtr.base = ~0ull - 8;
}

static void gdt_in_mmio(struct guest *g)
{
    g->state.gdtr.base = MMIO;
}

static void gdt_at_the_end(struct guest *g)
{
    g->state.gdtr = (struct cpu_table){.base = ~0ull - 3, .limit = 0xffff};
}

static void tss_in_mmio(struct guest *g)
{
    g->state.tr.base = MMIO;
    for (unsigned i = 0; i < 256; i++)
        g->ram[0x6000 + 16 * i + 4] = 1; // IST 1
}

static void interrupt_tables_in_odd_places_end_in_shutdown(void)
{
    SHUTDOWN(idt_in_mmio, undefined);
    SHUTDOWN(idt_at_the_end, undefined);
}

static void descriptor_tables_in_odd_places_fault(void)
{
    SHUTDOWN(gdt_in_mmio, load_ds); // the handlers' code segment is not there either
    SHUTDOWN(gdt_at_the_end, far_return);
    SHUTDOWN(gdt_in_mmio, load_tr);
    SHUTDOWN(tss_in_mmio, undefined);
}

static void stacks_in_odd_places_end_in_shutdown(void)
{
    SHUTDOWN(NULL, bad_stack);
    SHUTDOWN(NULL, missing_stack);
}

static void stack_in_mmio(struct guest *g)
{
    g->state.gpr[RSP] = MMIO + 0x800;
}

static void stack_in_mmio_is_written_to_the_device(void)
{
    VECTOR(stack_in_mmio, undefined, VEC_UD);
}

SNIPPET(xrstor_junk, "mov rbx, 0x34000\nmov eax, -1\nmov edx, -1\nxrstor [rbx]");

static void junk_area(struct guest *g)
{
    memset(g->ram + 0x34000, 0xa5, 4096);
}

static void junk_is_no_vector_state(void)
{
    VECTOR(junk_area, xrstor_junk, VEC_GP);
}

// --- code ----------------------------------------------------------------------------------------

// Stores over the instructions that follow, in the same block and page.
SNIPPET(patch_self, "lea rbx, [rip+1f]\nmov ecx, 3000\n"
                    "2: inc byte ptr [rbx+1]\n1: mov al, 0\ncmp al, [rbx+1]\njne 3f\n"
                    "dec ecx\njnz 2b\njmp 4f\n3: ud2\n4: nop");

static void code_sees_what_it_wrote_over_itself(void)
{
    VECTOR(NULL, patch_self, -1);
}

// An instruction across two pages; its second page moves to other bytes and away.
static void split_code(struct guest *g)
{
    static const uint8_t mov_eax[] = {0xb8, 1, 0}, rest[] = {0, 0, 0xc3}, other[] = {7, 0, 0xc3};
    memcpy(g->ram + 0x40ffd, mov_eax, 3);
    memcpy(g->ram + 0x41000, rest, 3);
    memcpy(g->ram + 0x42000, other, 3);
}

SNIPPET(call_split, "mov rbx, 0x4208\nmov rdi, 0x40ffd\nmov r12d, 50\n"
                    "1: call rdi\ncmp eax, 1\njne 9f\n"
                    "mov qword ptr [rbx], 0x42007\ninvlpg [0x41000]\ncall rdi\n"
                    "cmp eax, 0x70001\njne 9f\n"
                    "mov byte ptr [0x42000], 9\ncall rdi\ncmp eax, 0x90001\njne 9f\n"
                    "mov byte ptr [0x40ffe], 3\ncall rdi\ncmp eax, 0x90003\njne 9f\n"
                    "mov byte ptr [0x42000], 7\nmov byte ptr [0x40ffe], 1\n"
                    "mov qword ptr [rbx], 0x41007\ninvlpg [0x41000]\ndec r12d\njnz 1b\n"
                    "mov qword ptr [rbx], 0\ninvlpg [0x41000]\ncall rdi\n"
                    "9: ud2");

static void code_across_pages_follows_both(void)
{
    VECTOR(split_code, call_split, VEC_PF);
}

// --- at random -----------------------------------------------------------------------------------

static uint64_t draw(uint64_t *r)
{
    *r ^= *r << 13;
    *r ^= *r >> 7;
    *r ^= *r << 17;
    return *r;
}

static uint64_t random_entry(uint64_t *r)
{
    uint64_t flags = draw(r) & (0x1ff | BIT(63));
    switch (draw(r) % 6) {
    case 0: return draw(r);
    case 1: return (draw(r) & (BIT(46) - 1) & ~PAGE_MASK) | flags;
    case 2: return (GUEST_BYTES - PAGE_SIZE) | 7;
    case 3: return (0x1000 + (draw(r) % 4 << 12)) | 7; // the tables
    default: return (draw(r) % 512 << 12) | (flags & BIT(63)) | 7;
    }
}

static uint64_t random_value(uint64_t *r)
{
    switch (draw(r) % 5) {
    case 0: return draw(r);
    case 1: return draw(r) >> (draw(r) & 63);
    case 2: return ~0ull - (draw(r) & 0xff);
    case 3: return MMIO - 16 + (draw(r) & 31);
    default: return draw(r) & (GUEST_BYTES - 1);
    }
}

static void scramble(struct guest *g, uint64_t *r, bool code64)
{
    memset(g->ram, 0, GUEST_BYTES);
    guest_tables(g);
    guest_registers(g, code64);
    for (unsigned i = 0; i < 0x2000; i++)
        g->ram[GUEST_CODE + i] = (uint8_t)draw(r);
    for (unsigned i = 0; i < 8; i++) {
        unsigned table = draw(r) % 8 ? 0x4000 : 0x1000 + (unsigned)(draw(r) % 3 << 12);
        unsigned n = draw(r) % 512;
        if (table == 0x4000 && draw(r) % 4 && (n < 0x12 || n == 0x1f))
            continue; // mostly keeps what the code needs to get anywhere
        store_le64(g->ram + table + 8 * n, random_entry(r));
    }
    for (unsigned i = 0; i < 16; i++)
        g->state.gpr[i] = random_value(r);
    if (draw(r) % 2)
        g->state.gpr[RSP] = GUEST_STACK;
    for (unsigned i = 0; i < SEG_COUNT && !code64; i++)
        if (i != SEG_CS && draw(r) % 3 == 0)
            g->state.seg[i].base = (uint32_t)random_value(r);
    for (unsigned i = 0; i < SEG_COUNT && !code64; i++)
        if (i != SEG_CS && draw(r) % 4 == 0)
            g->state.seg[i].limit = (uint32_t)random_value(r);
    if (draw(r) % 8 == 0)
        g->state.idtr.base = random_value(r) & (BIT(47) - 1);
    if (draw(r) % 8 == 0)
        g->state.gdtr.base = random_value(r) & (BIT(47) - 1);
    engine_translate.written(g->vm, 0, GUEST_BYTES);
}

static void scrambled_machines(uint32_t debug, bool code64, uint64_t seed)
{
    struct guest g;
    if (!guest_init(&g, debug, code64)) {
        CHECK(false);
        return;
    }
    const char *n = getenv("FUZZ_ROUNDS");
    unsigned rounds = n ? (unsigned)atoi(n) : 150;
    uint64_t r = seed;
    for (unsigned i = 0; i < rounds; i++) {
        scramble(&g, &r, code64);
        CHECK(run_for(&g, 4) != ENGINE_FAILED);
    }
    guest_release(&g);
}

static void scrambled_64_bit_machines_come_back(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++)
        scrambled_machines(modes[i], true, 1 + i);
}

static void scrambled_32_bit_machines_come_back(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++)
        scrambled_machines(modes[i], false, 11 + i);
}

// --- two processors ------------------------------------------------------------------------------

// Each of two vCPUs counts by code that the other rewrites all the time: mov eax, imm32 with one of
// two values. Any other value in eax is a torn or forgotten instruction.
SNIPPET(duel, "1: call rdi\ncmp eax, 0x01010101\nje 2f\ncmp eax, 0x02020202\njne 9f\n"
              "2: mov ebx, 0x01010101\nadd ebp, ebx\ntest ebp, 0x20\njz 3f\nadd ebx, ebx\n"
              "3: mov [rsi+4], ebx\ndec r15\njnz 1b\nhlt\n9: ud2");

#define DUEL_CODE 0x50000u

static void *second_main(void *arg)
{
    struct guest *g = arg;
    struct error e = {0};
    if (engine_translate.vcpu_attach(g->vcpu, &e) == OK)
        CHECK_EQ(run_for(g, 5000), ENGINE_HALTED);
    return NULL;
}

static void duel_registers(struct guest *g, unsigned own)
{
    guest_registers(g, true);
    g->state.gpr[RSP] = GUEST_STACK - 0x800 * own;
    g->state.gpr[RDI] = DUEL_CODE + 0x40 * own;
    g->state.gpr[RSI] = DUEL_CODE + 0x40 * (1 - own);
    g->state.gpr[RBP] = 0;
    g->state.gpr[15] = 20000;
}

static void duel_in(uint32_t debug)
{
    struct guest g;
    struct error e = {0};
    pthread_t thread;
    if (!guest_init_smp(&g, debug, true, 2)) {
        CHECK(false);
        return;
    }
    // The immediate is aligned, so that a store to it is seen whole: nop nop nop mov eax, imm; ret
    static const uint8_t counted[] = {0x90, 0x90, 0x90, 0xb8, 1, 1, 1, 1, 0xc3};
    memcpy(g.ram + DUEL_CODE, counted, sizeof counted);
    memcpy(g.ram + DUEL_CODE + 0x40, counted, sizeof counted);
    guest_code(&g, duel_start, (size_t)(duel_end - duel_start));
    struct guest second = g;
    CHECK_EQ(engine_translate.vcpu_new(g.vm, 1, &second.vcpu, &e), OK);
    duel_registers(&g, 0);
    duel_registers(&second, 1);
    pthread_create(&thread, NULL, second_main, &second);
    CHECK_EQ(run_for(&g, 5000), ENGINE_HALTED);
    pthread_join(thread, NULL);
    CHECK_EQ(halted_in(&g), -1);
    CHECK_EQ(halted_in(&second), -1);
    engine_translate.vcpu_free(second.vcpu);
    guest_release(&g);
}

static void two_processors_patch_each_others_code(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++)
        duel_in(modes[i]);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(addresses_past_ram_are_no_memory),
        TEST(addresses_beyond_the_guests_bits_are_reserved),
        TEST(far_addresses_end_the_run_somehow),
        TEST(tables_outside_ram_end_in_shutdown),
        TEST(tables_in_mmio_map_nothing),
        TEST(tables_that_map_themselves_are_plain_memory),
        TEST(code_that_is_a_page_table_only_harms_itself),
        TEST(accesses_cross_between_memory_and_devices),
        TEST(wild_pointers_fault),
        TEST(endless_string_instructions_stop),
        TEST(interrupt_tables_in_odd_places_end_in_shutdown),
        TEST(descriptor_tables_in_odd_places_fault),
        TEST(stacks_in_odd_places_end_in_shutdown),
        TEST(stack_in_mmio_is_written_to_the_device),
        TEST(junk_is_no_vector_state),
        TEST(code_sees_what_it_wrote_over_itself),
        TEST(code_across_pages_follows_both),
        TEST(scrambled_64_bit_machines_come_back),
        TEST(scrambled_32_bit_machines_come_back),
        TEST(two_processors_patch_each_others_code),
    };
    return test_main(tests, ARRAY_LEN(tests));
}
