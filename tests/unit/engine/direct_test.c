// What cages are given of the guest's memory, and what their stops become. The cages here are none:
// they note what they are told, and stop as the test says.
#include "box.h"
#include "engine/translate/direct_impl.h"
#include "engine/translate/simd_impl.h"
#include "host/cage.h"
#include "host/clock.h"

#define AREA (BIT(40))
#define PAGE 0x50000ull

struct cage {
    uint64_t page[512]; // of the lowest 2 MiB: offset | prot
    struct cage_regs regs;
    uint8_t xsave[CPU_XSAVE_BYTES] __attribute__((aligned(64)));
    struct cage_stop stop;
    unsigned runs, kicks, calls;
    bool refuse;
};

struct cages {
    struct cage cage[DIRECT_SPACES];
};

err_t cages_start(struct cages **out, struct error *e)
{
    return ERR_UNSUPPORTED;
}

void cages_free(struct cages *cages)
{
}

uint64_t cages_cpu_ns(const struct cages *cages)
{
    return 0;
}

uint64_t cage_cpu_ns(struct cage *cage)
{
    return 0;
}

void cage_move(struct cage *cage, const cpu_set_t *cpus)
{
}

err_t cages_make(struct cages *cages, unsigned n, int ram_fd, bool trap_tsc, struct cage **out,
                 struct error *e)
{
    for (unsigned i = 0; i < n; i++)
        out[i] = &cages->cage[i];
    return OK;
}

uint64_t cage_area(const struct cage *cage)
{
    return AREA;
}

static bool note(struct cage *cage, uint64_t at, uint64_t len, uint64_t value)
{
    for (uint64_t i = at >> PAGE_SHIFT; i < (at + len) >> PAGE_SHIFT && i < 512; i++) {
        cage->page[i] = value;
        value += value ? PAGE_SIZE : 0;
    }
    cage->calls++;
    return !cage->refuse;
}

bool cage_map(struct cage *cage, uint64_t at, uint64_t len, uint64_t ram_offset, unsigned prot)
{
    return note(cage, at, len, ram_offset | prot);
}

bool cage_unmap(struct cage *cage, uint64_t at, uint64_t len)
{
    return note(cage, at, len, 0);
}

bool cage_flush(struct cage *cage)
{
    return !cage->refuse;
}

struct cage_regs *cage_regs(struct cage *cage)
{
    return &cage->regs;
}

uint8_t *cage_xsave(struct cage *cage, size_t *bytes)
{
    *bytes = sizeof cage->xsave;
    return cage->xsave;
}

bool cage_run(struct cage *cage, struct cage_stop *out)
{
    cage->runs++;
    *out = cage->stop;
    return true;
}

void cage_kick(struct cage *cage)
{
    cage->kicks++;
}

// --- tests ---------------------------------------------------------------------------------------

static struct cages cages;

static struct box *user_box(void)
{
    cages = (struct cages){0};
    struct box *b = box_new_caged(ENGINE_DEBUG_ALL_DIRECT, &cages);
    box_long(b);
    box_ring3(b);
    memset(b->ram + PAGE, 0x90, 256 * KIB); // NOPs
    struct error e;
    CHECK_EQ(engine_translate.set(b->vcpu, ENGINE_ALL, &b->s, &e), OK);
    tcpu_unpend(b->c, PENDING_EVENT); // that it is user code now
    return b;
}

static bool fault(struct box *b, uint64_t at, enum access access)
{
    struct direct_space *s = direct_space_ready(b->c);
    return s && direct_space_fault(b->c, s, at, access);
}

static unsigned prot_of(uint64_t at)
{
    return (unsigned)(cages.cage[0].page[at >> PAGE_SHIFT] & PAGE_MASK);
}

static bool ready(struct box *b)
{
    return direct_space_ready(b->c) != NULL;
}

static void a_fault_brings_the_page_with_the_guests_rights(void)
{
    struct box *b = user_box();
    *box_pte(b, PAGE) |= PTE_NX;
    CHECK(fault(b, PAGE + 5, ACCESS_READ));
    CHECK_EQ(cages.cage[0].page[PAGE >> PAGE_SHIFT], PAGE | CAGE_READ);
    CHECK(fault(b, PAGE + 5, ACCESS_WRITE));
    CHECK_EQ(prot_of(PAGE), CAGE_READ | CAGE_WRITE);
    CHECK_EQ(*box_pte(b, PAGE) & (PTE_A | PTE_D), PTE_A | PTE_D);
    CHECK(!fault(b, PAGE + 5, ACCESS_EXEC));
    box_free(b);
}

static void pages_that_were_accessed_come_with_their_neighbour(void)
{
    struct box *b = user_box();
    *box_pte(b, PAGE) |= PTE_NX;
    *box_pte(b, PAGE + PAGE_SIZE) |= PTE_NX | PTE_A | PTE_D;
    CHECK(fault(b, PAGE, ACCESS_READ));
    CHECK_EQ(cages.cage[0].page[(PAGE >> PAGE_SHIFT) + 1],
             (PAGE + PAGE_SIZE) | CAGE_READ | CAGE_WRITE);
    CHECK_EQ(prot_of(PAGE + 2 * PAGE_SIZE), 0); // not accessed so far: the guest is to see that
    box_free(b);
}

static void what_the_guest_forbids_is_not_mapped(void)
{
    struct box *b = user_box();
    *box_pte(b, PAGE) &= ~PTE_U;
    CHECK(!fault(b, PAGE, ACCESS_READ));
    *box_pte(b, PAGE) = 0;
    tlb_flush_page(b->c, PAGE);
    CHECK(!fault(b, PAGE, ACCESS_READ));
    CHECK_EQ(prot_of(PAGE), 0);
    CHECK(!fault(b, AREA, ACCESS_READ));
    CHECK(!fault(b, 0x1000, ACCESS_READ));
    CHECK(!fault(b, BIT(47) - 8, ACCESS_READ));
    box_free(b);
}

static void memory_that_is_no_ram_is_not_mapped(void)
{
    struct box *b = user_box();
    *box_pte(b, PAGE) = 0xfee00000 | PTE_P | PTE_W | PTE_U;
    CHECK(!fault(b, PAGE, ACCESS_READ));
    box_free(b);
}

static void code_is_executable_but_not_writable(void)
{
    struct box *b = user_box();
    *box_pte(b, PAGE) &= ~PTE_W;
    CHECK(fault(b, PAGE, ACCESS_EXEC));
    CHECK_EQ(prot_of(PAGE), CAGE_READ | CAGE_EXEC);
    box_free(b);
}

static void a_page_is_writable_or_executable_as_it_was_last_used(void)
{
    struct box *b = user_box();
    CHECK(fault(b, PAGE, ACCESS_WRITE));
    CHECK_EQ(prot_of(PAGE), CAGE_READ | CAGE_WRITE);
    CHECK(fault(b, PAGE, ACCESS_EXEC));
    CHECK_EQ(prot_of(PAGE), CAGE_READ | CAGE_EXEC);
    CHECK(!fault(b, PAGE, ACCESS_WRITE)); // protected as code: the write is noticed elsewhere
    tvm_written(b->c->vm, b->c, PAGE, PAGE_SIZE);
    CHECK(fault(b, PAGE, ACCESS_WRITE));
    CHECK_EQ(prot_of(PAGE), CAGE_READ | CAGE_WRITE);
    box_free(b);
}

#define COPIES BOX_RAM // where copies begin in the RAM's file

// Such instructions are undefined in the copy that runs; the guest's page is as it was.
static void code_that_asks_for_the_cpu_runs_as_a_copy(void)
{
    static const uint8_t telling[][4] = {{0x0f, 0xa2, 0x90, 0x90}, {0x0f, 0x01, 0xd0, 0x90},
                                         {0xf3, 0x0f, 0xc7, 0xf8}, {0x0f, 0x31, 0x90, 0x90},
                                         {0x0f, 0x01, 0xf9, 0x90}, {0x0f, 0x03, 0xc0, 0x90},
                                         {0x0f, 0x01, 0xc1, 0x90}, {0x0f, 0x01, 0xd9, 0x90}};
    for (size_t i = 0; i < ARRAY_LEN(telling); i++) {
        struct box *b = user_box();
        memcpy(b->ram + PAGE + 100, telling[i], 4);
        CHECK(fault(b, PAGE, ACCESS_EXEC));
        CHECK_EQ(cages.cage[0].page[PAGE >> PAGE_SHIFT], COPIES | CAGE_READ | CAGE_EXEC);
        const uint8_t *copy = b->file.spare + 100;
        CHECK_EQ(copy[1 + (telling[i][0] == 0xf3)], 0x0b);
        CHECK(!memcmp(b->ram + PAGE + 100, telling[i], 4));
        memset(b->ram + PAGE + 100, 0x90, 4);
        tvm_written(b->c->vm, b->c, PAGE + 100, 4);
        CHECK(fault(b, PAGE, ACCESS_EXEC));
        CHECK_EQ(cages.cage[0].page[PAGE >> PAGE_SHIFT], PAGE | CAGE_READ | CAGE_EXEC);
        box_free(b);
    }
}

// PKRU and tiles, which the guest has not, would be written behind what its CPUID says.
static void saving_all_components_is_not_left_to_a_host_that_has_more(void)
{
    static const uint8_t saves[][4] = {
        {0x0f, 0xae, 0x24, 0x24}, {0x0f, 0xae, 0x36, 0x90}, {0x0f, 0xc7, 0x26, 0x90}};
    for (size_t i = 0; i < ARRAY_LEN(saves) * 2; i++) {
        struct box *b = user_box();
        b->c->simd->host_components = b->c->simd->components | (i % 2 ? XCR0_PKRU | XCR0_TILES : 0);
        b->c->s.xcr0 = b->c->simd->components;
        CHECK(simd_is_whole(b->c));
        memcpy(b->ram + PAGE + 100, saves[i / 2], 4);
        CHECK(fault(b, PAGE, ACCESS_EXEC));
        CHECK_EQ(cages.cage[0].page[PAGE >> PAGE_SHIFT],
                 (i % 2 ? COPIES : PAGE) | CAGE_READ | CAGE_EXEC);
        box_free(b);
    }
}

// Read from some places it is a CPUID, from others the end of a longer instruction.
static void code_that_can_be_read_in_two_ways_does_not_run(void)
{
    struct box *b = user_box();
    memset(b->ram + PAGE, 0xa8, 201); // "test al, imm8", from any of its bytes
    memcpy(b->ram + PAGE + 201, "\x0f\xa2", 2);
    CHECK(!fault(b, PAGE, ACCESS_EXEC));
    CHECK_EQ(prot_of(PAGE), CAGE_READ);
    box_free(b);
}

// "lsl eax, [rip + 0x310f]" is one that tells, if not where it looks so.
static void a_displacement_is_no_instruction(void)
{
    struct box *b = user_box();
    memcpy(b->ram + PAGE + 100, "\x0f\x03\x05\x0f\x31\x00\x00", 7);
    CHECK(fault(b, PAGE, ACCESS_EXEC));
    CHECK_EQ(cages.cage[0].page[PAGE >> PAGE_SHIFT], PAGE | CAGE_READ | CAGE_EXEC);
    box_free(b);
}

// 83 f8 0f 31 f6: "cmp eax, 15; xor esi, esi".
static void bytes_of_two_instructions_are_no_third(void)
{
    struct box *b = user_box();
    memcpy(b->ram + PAGE + 100, "\x83\xf8\x0f\x31\xf6", 5);
    CHECK(fault(b, PAGE, ACCESS_EXEC));
    box_free(b);
}

// Code that may run in a cage becomes CPUID, of which only a copy may.
static void change_code(struct box *b)
{
    memcpy(b->ram + PAGE + 200, "\x0f\xa2", 2);
    tvm_written(b->c->vm, NULL, PAGE + 200, 2);
    tvm_catch_up(b->c);
    CHECK(ready(b));
    CHECK_EQ(cages.cage[0].page[PAGE >> PAGE_SHIFT], COPIES | CAGE_READ | CAGE_EXEC);
}

static void changed_code_is_looked_at_again(void)
{
    struct box *b = user_box();
    *box_pte(b, PAGE) &= ~PTE_W;
    CHECK(fault(b, PAGE, ACCESS_EXEC));
    change_code(b);
    box_free(b);
}

static void flushes_make_the_cage_follow_the_tables(void)
{
    struct box *b = user_box();
    for (int how = 0; how < 3; how++) {
        *box_pte(b, PAGE) = PAGE | PTE_P | PTE_W | PTE_U | PTE_NX;
        tlb_flush_all(b->c);
        CHECK(fault(b, PAGE, ACCESS_WRITE));
        *box_pte(b, PAGE) = 0x60000 | PTE_P | PTE_U | PTE_NX | PTE_A;
        CHECK(ready(b));
        CHECK_EQ(cages.cage[0].page[PAGE >> PAGE_SHIFT], PAGE | CAGE_READ | CAGE_WRITE);
        if (how == 0)
            tlb_flush_page(b->c, PAGE);
        else if (how == 1)
            tlb_flush_context(b->c);
        else
            tlb_flush_all(b->c);
        CHECK(ready(b));
        CHECK_EQ(cages.cage[0].page[PAGE >> PAGE_SHIFT], 0x60000 | CAGE_READ);
    }
    box_free(b);
}

static void flushes_that_change_nothing_cost_no_mappings(void)
{
    struct box *b = user_box();
    CHECK(fault(b, PAGE, ACCESS_WRITE));
    unsigned calls = cages.cage[0].calls;
    tlb_flush_context(b->c);
    CHECK(ready(b));
    CHECK_EQ(cages.cage[0].calls, calls);
    box_free(b);
}

static void a_page_that_becomes_code_is_not_writable_any_more(void)
{
    struct box *b = user_box();
    CHECK(fault(b, PAGE, ACCESS_WRITE));
    CHECK(tvm_protect_code(b->c->vm, b->c, PAGE + 64, 16));
    CHECK(ready(b));
    CHECK_EQ(prot_of(PAGE), CAGE_READ);
    box_free(b);
}

static void a_flush_does_not_make_others_forget_that_a_cage_writes(void)
{
    struct box *b = user_box();
    CHECK(fault(b, PAGE, ACCESS_WRITE));
    tlb_flush_all(b->c);
    CHECK(ready(b)); // the page stays
    CHECK(tlb_may_write(b->c, PAGE));
    CHECK(!tlb_may_write(b->c, PAGE + 8 * PAGE_SIZE));
    CHECK(tvm_protect_code(b->c->vm, b->c, PAGE + 64, 16));
    CHECK(ready(b));
    CHECK_EQ(prot_of(PAGE), CAGE_READ);
    box_free(b);
}

static void much_code_that_changes_at_once_is_all_looked_at_again(void)
{
    struct box *b = user_box();
    *box_pte(b, PAGE) &= ~PTE_W;
    CHECK(fault(b, PAGE, ACCESS_EXEC));
    for (unsigned i = 0; i <= TVM_CODES; i++) {
        CHECK(tvm_protect_code(b->c->vm, b->c, 0x100000 + i * PAGE_SIZE, 16));
        tvm_written(b->c->vm, NULL, 0x100000 + i * PAGE_SIZE, 2);
    }
    change_code(b);
    box_free(b);
}

static void the_dirty_log_sees_the_first_write(void)
{
    struct box *b = user_box();
    struct error e;
    uint64_t bitmap[BOX_RAM / PAGE_SIZE / 64] = {0};
    CHECK(fault(b, PAGE, ACCESS_WRITE));
    CHECK_EQ(engine_translate.log_dirty(b->vm, true, &e), OK);
    tlb_flush_all(b->c); // as before the next run
    CHECK(ready(b));
    CHECK_EQ(prot_of(PAGE), CAGE_READ);
    CHECK(!fault(b, PAGE, ACCESS_WRITE));
    tvm_written(b->c->vm, b->c, PAGE, 1);
    CHECK(fault(b, PAGE, ACCESS_WRITE));
    CHECK_EQ(engine_translate.take_dirty(b->vm, 0, BOX_RAM, bitmap), OK);
    CHECK(bitmap[PAGE >> PAGE_SHIFT >> 6] & BIT(PAGE >> PAGE_SHIFT & 63));
    tvm_catch_up(b->c);
    CHECK(ready(b));
    CHECK_EQ(prot_of(PAGE), CAGE_READ);
    box_free(b);
}

static void a_cage_that_refuses_begins_anew(void)
{
    struct box *b = user_box();
    CHECK(fault(b, PAGE, ACCESS_READ));
    cages.cage[0].refuse = true;
    CHECK(!fault(b, PAGE, ACCESS_WRITE));
    cages.cage[0].refuse = false;
    CHECK_EQ(prot_of(PAGE), 0);
    CHECK(fault(b, PAGE, ACCESS_READ));
    box_free(b);
}

static void run_until(struct box *b, struct cage_stop stop)
{
    b->c->direct->wanted = true;
    cages.cage[0].stop = stop;
    direct_run(b->c);
}

static void state_goes_in_and_comes_out(void)
{
    struct box *b = user_box();
    b->c->s.gpr[R13] = 0x1313;
    run_until(b, (struct cage_stop){CAGE_KICKED});
    CHECK_EQ(cages.cage[0].runs, 1);
    CHECK_EQ(cages.cage[0].regs.gpr[R13], 0x1313);
    CHECK_EQ(cages.cage[0].regs.rip, b->c->s.rip);
    cages.cage[0].regs.gpr[RAX] = 77;
    CHECK_EQ(b->c->s.gpr[RAX], 0);
    box_free(b);
}

static void a_program_without_its_cage_gets_a_fault(void)
{
    struct box *b = user_box();
    for (unsigned i = 0; i < DIRECT_SPACES; i++) {
        uint64_t rip = b->c->s.rip;
        cages.cage[i].stop = (struct cage_stop){CAGE_LOST};
        b->c->direct->wanted = true;
        b->c->s.event_pending = 0;
        tcpu_unpend(b->c, PENDING_EVENT);
        if (setjmp(b->c->unwind) == 0)
            direct_run(b->c);
        CHECK_EQ(b->c->s.rip, rip);
        CHECK(b->c->s.event_pending);
        CHECK_EQ(b->c->s.event_vector, VEC_GP);
        CHECK(!b->c->direct->wanted);
    }
    CHECK(!ready(b));
    box_free(b);
}

// The code makes up what it likes: only what a program may change comes through.
static void made_up_state_stays_within_bounds(void)
{
    struct box *b = user_box();
    uint64_t before = b->c->s.rflags;
    run_until(b, (struct cage_stop){CAGE_KICKED});
    struct cage_regs *regs = &cages.cage[0].regs;
    memset(cages.cage[0].xsave, 0xff, sizeof cages.cage[0].xsave);
    regs->rflags = ~0ull & ~(uint64_t)(FLAG_TF | FLAG_AC);
    regs->fs_base = BIT(60);
    direct_take(b->c, &cages.cage[0]);
    CHECK_EQ(b->c->s.rflags & (BITS(13, 12) | FLAG_IF | FLAG_VM | FLAG_RF),
             before & (BITS(13, 12) | FLAG_IF | FLAG_VM | FLAG_RF));
    CHECK_EQ(b->c->s.seg[SEG_FS].base, 0);
    struct error e;
    CHECK_EQ(cpu_state_check(&b->c->s, simd_components(b->c), &e), OK);
    fpu_to_machine(b->c);
    fpu_to_memory(b->c);
    box_free(b);
}

static void a_system_call_is_made_again_here(void)
{
    struct box *b = user_box();
    run_until(b, (struct cage_stop){CAGE_SYSCALL});
    CHECK_EQ(b->c->s.rip, cages.cage[0].regs.rip - 2);
    CHECK(b->c->direct->step);
    box_free(b);
}

static void nothing_runs_while_something_is_pending(void)
{
    struct box *b = user_box();
    tcpu_pend(b->c, PENDING_KICK);
    run_until(b, (struct cage_stop){CAGE_KICKED});
    CHECK_EQ(cages.cage[0].runs, 0);
    CHECK_EQ(cages.cage[0].kicks, 0);
    b->c->caged = &cages.cage[0];
    tcpu_pend(b->c, PENDING_KICK);
    CHECK_EQ(cages.cage[0].kicks, 1);
    b->c->caged = NULL;
    box_free(b);
}

static void a_run_that_no_cage_can_have_is_counted(void)
{
    struct box *b = user_box();
    b->c->mode &= ~MODE_CODE64; // 32-bit code
    b->c->direct->wanted = true;
    CHECK(!direct_due(b->c));
    b->c->direct->since = host_tsc();
    direct_level_changed(b->c, false);
    CHECK_EQ(b->c->counter[COUNTER_DIRECT_UNFIT], 1);
    CHECK_EQ(b->c->counter[COUNTER_DIRECT], 0);
    box_free(b);
}

TEST_MAIN(TEST(a_fault_brings_the_page_with_the_guests_rights),
          TEST(pages_that_were_accessed_come_with_their_neighbour),
          TEST(what_the_guest_forbids_is_not_mapped), TEST(memory_that_is_no_ram_is_not_mapped),
          TEST(code_is_executable_but_not_writable),
          TEST(a_page_is_writable_or_executable_as_it_was_last_used),
          TEST(code_that_asks_for_the_cpu_runs_as_a_copy),
          TEST(saving_all_components_is_not_left_to_a_host_that_has_more),
          TEST(code_that_can_be_read_in_two_ways_does_not_run),
          TEST(bytes_of_two_instructions_are_no_third), TEST(a_displacement_is_no_instruction),
          TEST(changed_code_is_looked_at_again), TEST(flushes_make_the_cage_follow_the_tables),
          TEST(flushes_that_change_nothing_cost_no_mappings),
          TEST(a_page_that_becomes_code_is_not_writable_any_more),
          TEST(a_flush_does_not_make_others_forget_that_a_cage_writes),
          TEST(much_code_that_changes_at_once_is_all_looked_at_again),
          TEST(the_dirty_log_sees_the_first_write), TEST(a_cage_that_refuses_begins_anew),
          TEST(state_goes_in_and_comes_out), TEST(made_up_state_stays_within_bounds),
          TEST(a_system_call_is_made_again_here), TEST(a_program_without_its_cage_gets_a_fault),
          TEST(nothing_runs_while_something_is_pending),
          TEST(a_run_that_no_cage_can_have_is_counted))
