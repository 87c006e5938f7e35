// The KVM engine's loop, memory and CPUID, besides what kvm_test.c has: slots come and go, kicks
// and interrupts from other threads are never lost, MSRs that nobody knows fault, failures have
// words. Skipped where /dev/kvm does not open.
#include "engine/kvm/kvm_impl.h"
#include "kvm_box.h"
#include "test.h"

#include <cpuid.h>
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROUNDS 500
#define OUTSIDE 0x8000000 // no RAM is there

// --- memory slots

// mov eax, [OUTSIDE]; mov [OUTSIDE + 4], eax; hlt
static const uint8_t touch[] = {0x67, 0x66, 0xa1, 0, 0, 0, 8, 0x67, 0x66, 0xa3, 4, 0, 0, 8, 0xf4};

static void reach_far(void)
{
    box.in.seg[SEG_DS].limit = 0xffffffff;
    box.in.seg[SEG_DS].attr |= SEGA_G;
}

static uint8_t *pages(size_t bytes)
{
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void mapped_memory_is_none_any_more_when_unmapped(void)
{
    uint8_t *more = pages(PAGE_SIZE);
    more[0] = 0x77;
    open_box();
    reach_far();
    CHECK_EQ(kvm->map(box.vm, OUTSIDE, PAGE_SIZE, more, ENGINE_MAP_RAM, &box.e), OK);
    CHECK_EQ(run_code(touch, sizeof touch), ENGINE_HALTED);
    CHECK_EQ(box.seen.at, 0);
    CHECK_EQ(more[4], 0x77);
    CHECK_EQ(kvm->unmap(box.vm, OUTSIDE, PAGE_SIZE, &box.e), OK);
    CHECK_EQ(run_code(touch, sizeof touch), ENGINE_HALTED);
    CHECK_EQ(box.seen.at, OUTSIDE + 4);
    CHECK_EQ(kvm->unmap(box.vm, OUTSIDE, PAGE_SIZE, &box.e), ERR_NOT_FOUND);
    close_box();
    munmap(more, PAGE_SIZE);
}

static void rom_is_read_directly_and_written_by_upcall(void)
{
    uint8_t *rom = pages(PAGE_SIZE);
    rom[0] = 0x77;
    open_box();
    reach_far();
    CHECK_EQ(kvm->map(box.vm, OUTSIDE, PAGE_SIZE, rom, ENGINE_MAP_ROM, &box.e), OK);
    CHECK_EQ(run_code(touch, sizeof touch), ENGINE_HALTED);
    CHECK_EQ(box.seen.at, OUTSIDE + 4);
    CHECK_EQ(box.seen.stored, 0x77);
    CHECK_EQ(rom[4], 0);
    close_box();
    munmap(rom, PAGE_SIZE);
}

static void memory_beyond_the_slots_is_refused_in_words(void)
{
    uint8_t *page = pages(PAGE_SIZE);
    err_t err = OK;
    unsigned mapped = 0;
    open_box();
    while (!err && mapped <= KVM_SLOTS)
        err = kvm->map(box.vm, OUTSIDE + 2 * mapped++ * PAGE_SIZE, PAGE_SIZE, page, ENGINE_MAP_RAM,
                       &box.e);
    CHECK(err != OK);
    CHECK_EQ(mapped, KVM_SLOTS); // RAM has one
    CHECK(box.e.text[0] != '\0');
    close_box();
    munmap(page, PAGE_SIZE);
}

// --- CPUID

static void ask_cpuid(uint32_t function, uint32_t regs[4])
{
    // cpuid; mov [0x500], eax ...; hlt
    static const uint8_t code[] = {0x0f, 0xa2, 0x66, 0xa3, 0,    5,    0x66, 0x89,
                                   0x1e, 4,    5,    0x66, 0x89, 0x0e, 8,    0x05,
                                   0x66, 0x89, 0x16, 12,   0x05, 0xf4};
    box.in.gpr[RAX] = function;
    box.in.gpr[RCX] = 0;
    CHECK_EQ(run_code(code, sizeof code), ENGINE_HALTED);
    memcpy(regs, box.ram + 0x500, 16);
}

// What the guest sees is the model's: fewer features where this KVM lacks some, and never more.
static void cpuid_shows_the_model_and_no_more(void)
{
    static const uint32_t functions[] = {1, 7, 0x80000001};
    uint32_t regs[4], model[4];
    struct cpuid_table table;
    if (!ordinary()) // others let guests ask the CPU itself
        return;
    kvm_box_config(&table);
    open_box();
    for (size_t i = 0; i < ARRAY_LEN(functions); i++) {
        ask_cpuid(functions[i], regs);
        cpuid_query(&table, 0, functions[i], 0, 0, 1, model);
        if (functions[i] != 7)
            CHECK_EQ(regs[0], model[0]);
        CHECK_EQ(regs[2] & ~model[2] & ~(uint32_t)bit_OSXSAVE, 0);
        CHECK_EQ(regs[3] & ~model[3], 0);
    }
    ask_cpuid(1, regs);
    CHECK(regs[3] & 1);       // there is an FPU
    CHECK(regs[2] >> 31 & 1); // and a hypervisor, whatever KVM says
    close_box();
}

// --- threads

static bool done;

static void *kick_often(void *opaque)
{
    unsigned *answered = opaque;
    for (unsigned i = 0; i < ROUNDS; i++) {
        kvm->kick(box.vcpu);
        while (__atomic_load_n(answered, __ATOMIC_SEQ_CST) <= i)
            usleep(10);
    }
    __atomic_store_n(&done, true, __ATOMIC_SEQ_CST);
    kvm->kick(box.vcpu);
    return NULL;
}

// The guest leaves by a port again and again, so kicks come at, in and after KVM_RUN and while an
// access is not finished. Every one ends a run.
static void no_kick_from_another_thread_is_lost(void)
{
    static const uint8_t code[] = {0xe6, 0x42, 0x40, 0xeb, 0xfb}; // out 0x42; inc ax; jmp
    unsigned answered = 0;
    pthread_t thread;
    open_box();
    done = false;
    CHECK_EQ(pthread_create(&thread, NULL, kick_often, &answered), 0);
    enum engine_exit exit = run_code(code, sizeof code);
    while (exit == ENGINE_KICKED && !__atomic_load_n(&done, __ATOMIC_SEQ_CST)) {
        __atomic_fetch_add(&answered, 1, __ATOMIC_SEQ_CST);
        exit = kvm->run(box.vcpu);
    }
    CHECK_EQ(exit, ENGINE_KICKED);
    pthread_join(thread, NULL);
    CHECK_EQ(answered, ROUNDS);
    close_box();
}

static unsigned handled(void)
{
    return __atomic_load_n((uint32_t *)(void *)(box.ram + 0x500), __ATOMIC_SEQ_CST);
}

static void *interrupt_often(void *opaque)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        kvm->set_intr(box.vcpu, true);
        while (handled() <= i)
            usleep(10);
    }
    kvm->kick(box.vcpu);
    return NULL;
}

static int acknowledge(void *opaque, unsigned vcpu)
{
    kvm->set_intr(box.vcpu, false);
    return 0x50;
}

// INTR is a level that another thread raises, at any time, and that the acknowledgement lowers.
static void no_interrupt_from_another_thread_is_lost(void)
{
    static const uint8_t code[] = {0xfb, 0xeb, 0xfe}; // sti; jmp
    static const uint8_t handler[] = {0x66, 0xff, 0x06,
                                      0x00, 0x05, 0xcf}; // inc dword [0x500]; iret
    static const uint8_t vector[] = {0, 0x90, 0, 0};
    static struct engine_upcalls upcalls;
    pthread_t thread;
    open_box();
    upcalls = kvm_box_upcalls;
    upcalls.intr_ack = acknowledge;
    box.vm->up = &upcalls;
    memcpy(box.ram + 4 * 0x50, vector, sizeof vector);
    memcpy(box.ram + 0x9000, handler, sizeof handler);
    box.in.gpr[RSP] = 0x7000;
    CHECK_EQ(pthread_create(&thread, NULL, interrupt_often, NULL), 0);
    CHECK_EQ(run_code(code, sizeof code), ENGINE_KICKED);
    pthread_join(thread, NULL);
    CHECK_EQ(handled(), ROUNDS);
    close_box();
}

// --- MSRs

static err_t refuse_read(void *opaque, unsigned vcpu, uint32_t msr, uint64_t *value)
{
    box.seen.msr = msr;
    return ERR_NOT_FOUND;
}

static void msr_that_nobody_knows_is_an_upcall_and_faults(void)
{
    static const uint8_t code[] = {0x66, 0xb9, 0x45, 0x23, 1, 0, 0x0f, 0x32, 0xf4}; // ecx 0x12345
    static const uint8_t handler[] = {0xc6, 0x06, 0, 5, 7, 0xf4}; // mov byte [0x500], 7; hlt
    static const uint8_t vector[] = {0, 0x90, 0, 0};
    static struct engine_upcalls upcalls;
    open_box();
    memcpy(box.ram + 4 * 13, vector, sizeof vector);
    memcpy(box.ram + 0x9000, handler, sizeof handler);
    box.in.gpr[RSP] = 0x7000;
    CHECK_EQ(run_code(code, sizeof code), ENGINE_HALTED);
    CHECK_EQ(box.seen.msr, 0x12345);
    CHECK_EQ((uint32_t)box.out.gpr[RAX], 0x55667788);
    CHECK_EQ(box.ram[0x500], 0);
    upcalls = kvm_box_upcalls;
    upcalls.msr_read = refuse_read;
    box.vm->up = &upcalls;
    CHECK_EQ(run_code(code, sizeof code), ENGINE_HALTED);
    CHECK_EQ(box.ram[0x500], 7);
    close_box();
}

// --- failures

static void failure_says_what_why_and_what_to_do(void)
{
    static const struct {
        int number;
        const char *advice;
    } cases[] = {{ENOMEM, "out of memory"}, {EBUSY, "--engine translate"}, {EACCES, "group kvm"},
                 {EMFILE, "ulimit -n"},     {EINVAL, "newer kernel"},      {EIO, "dmesg"},
                 {EXDEV, "dmesg"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct error e = {0};
        CHECK(kvm_failed(&e, cases[i].number, "do this") != OK);
        CHECK(strstr(e.text, "KVM cannot do this") != NULL);
        CHECK(strstr(e.text, strerror(cases[i].number)) != NULL);
        CHECK(strstr(e.text, cases[i].advice) != NULL);
    }
}

// The descriptor of a vCPU is gone: whatever is asked of KVM then fails, and in words.
static void failed_requests_end_the_run_in_words(void)
{
    static const uint8_t code[] = {0xf4};
    open_box();
    CHECK_EQ(run_code(code, sizeof code), ENGINE_HALTED);
    int fd = box.vcpu->fd;
    box.vcpu->fd = dup(box.vcpu->vm->kvm); // knows nothing of vCPUs
    box.vcpu->activity = CPU_RUNNING;
    CHECK_EQ(kvm->run(box.vcpu), ENGINE_FAILED);
    CHECK(strstr(kvm->vcpu_error(box.vcpu), "KVM cannot run the guest: ") != NULL);
    CHECK(kvm->set(box.vcpu, ENGINE_ALL, &box.in, &box.e) != OK);
    CHECK(strstr(box.e.text, "KVM cannot ") != NULL);
    close(box.vcpu->fd);
    box.vcpu->fd = fd;
    close_box();
}

static const struct test tests[] = {
    TEST(mapped_memory_is_none_any_more_when_unmapped),
    TEST(rom_is_read_directly_and_written_by_upcall),
    TEST(memory_beyond_the_slots_is_refused_in_words),
    TEST(cpuid_shows_the_model_and_no_more),
    TEST(no_kick_from_another_thread_is_lost),
    TEST(no_interrupt_from_another_thread_is_lost),
    TEST(msr_that_nobody_knows_is_an_upcall_and_faults),
    TEST(failure_says_what_why_and_what_to_do),
    TEST(failed_requests_end_the_run_in_words),
};

int main(void)
{
    return no_kvm() ? KVM_BOX_SKIPPED : test_main(tests, ARRAY_LEN(tests));
}
