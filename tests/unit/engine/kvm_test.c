// The KVM engine by itself: state that goes in comes out, accesses become upcalls, the dirty log.
// Skipped where /dev/kvm does not open.
#include "engine/kvm/kvm_impl.h"
#include "kvm_box.h"
#include "test.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define RAM_PAGES (KVM_BOX_RAM / PAGE_SIZE)

static void put_u64(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, sizeof value);
}

// What KVM may change without a guest's noticing: the time, and which MXCSR bits the host has.
static void forget_noise(struct cpu_state *s)
{
    s->tsc = 0;
    memset(s->xsave + 28, 0, 4);
}

static void check_comes_back(void)
{
    CHECK_EQ(kvm->set(box.vcpu, ENGINE_ALL, &box.in, &box.e), OK);
    if (box.e.text[0])
        printf("# %s\n", box.e.text);
    kvm->get(box.vcpu, ENGINE_ALL, &box.out);
    forget_noise(&box.in);
    forget_noise(&box.out);
    err_t err = state_compare(&cpu_state_desc, &box.in, &box.out, &box.e);
    if (err)
        printf("# %s\n", box.e.text);
    CHECK_EQ(err, OK);
}

static void long_mode(struct cpu_state *s)
{
    s->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
    s->cr3 = 0x1000;
    s->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR;
    s->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = (struct cpu_segment){
            .limit = 0xffffffff, .selector = 0x18, .attr = SEGA_P | SEGA_S | SEGA_G | SEGA_DB | 3};
    s->seg[SEG_CS] = (struct cpu_segment){
        .limit = 0xffffffff, .selector = 0x10, .attr = SEGA_P | SEGA_S | SEGA_G | SEGA_L | 11};
    s->seg[SEG_FS].base = 0x7fff12345000;
    s->seg[SEG_GS].base = 0xffff888012345000;
    s->rip = KVM_BOX_CODE;
}

// --- tests

static void reset_state_comes_back(void)
{
    open_box();
    check_comes_back();
    close_box();
}

static void long_mode_state_comes_back(void)
{
    open_box();
    struct cpu_state *s = &box.in;
    long_mode(s);
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = 0x0101010101010101 * (i + 1);
    s->rflags = FLAG_FIXED | FLAG_CF | FLAG_IF | FLAG_DF;
    s->gdtr = (struct cpu_table){.base = 0xffff800000001000, .limit = 0x7f};
    s->idtr = (struct cpu_table){.base = 0xffff800000002000, .limit = 0xfff};
    s->cr2 = 0xdead0000beef;
    for (unsigned i = 0; i < 4; i++)
        s->dr[i] = 0x1000 * i + 0x42;
    s->dr6 = DR6_FIXED | 1;
    s->dr7 = DR7_FIXED | 0x55;
    check_comes_back();
    close_box();
}

static void msrs_come_back(void)
{
    open_box();
    struct cpu_state *s = &box.in;
    long_mode(s);
    s->star = 0x0023001000000000;
    s->lstar = 0xffffffff81800000;
    s->cstar = 0xffffffff81800100;
    s->sfmask = 0x257fd5;
    s->kernel_gs_base = 0x7f0000001000;
    s->sysenter_cs = 0x10;
    s->sysenter_esp = 0xfffffe0000002000;
    s->sysenter_eip = 0xffffffff81801000;
    s->pat = 0x0007010600070106;
    s->tsc_adjust = 0x1000;
    s->mtrr_def_type = 0xc06;
    for (unsigned i = 0; i < CPU_MTRR_FIXED; i++)
        s->mtrr_fixed[i] = 0x0606060606060606;
    for (unsigned i = 0; i < CPU_MTRR_VARIABLE; i++) {
        s->mtrr_base[i] = 0x80000000 + i * 0x1000000ull;
        s->mtrr_mask[i] = 0xfff000800;
    }
    check_comes_back();
    close_box();
}

// Any will do: here KVM is made out not to have the first one of its list, STAR.
static void msr_that_kvm_lacks_is_refused_by_name(void)
{
    open_box();
    CHECK(!box.vm->msr_lacking[0]);
    box.vm->msr_lacking[0] = true;
    CHECK_EQ(kvm->set(box.vcpu, ENGINE_ALL, &box.in, &box.e), OK);
    box.in.star = 0x23001000000000;
    box.in.lstar = 0xffffffff81000000;
    CHECK_EQ(kvm->set(box.vcpu, ENGINE_ALL, &box.in, &box.e), ERR_UNSUPPORTED);
    CHECK(strstr(box.e.text, " STAR "));
    box.e.text[0] = '\0';
    box.in.star = 0;
    CHECK_EQ(kvm->set(box.vcpu, ENGINE_ALL, &box.in, &box.e), OK);
    kvm->get(box.vcpu, ENGINE_ALL, &box.out);
    CHECK_EQ(box.out.star, 0);
    CHECK_EQ(box.out.lstar, 0xffffffff81000000);
    close_box();
}

static void vector_state_comes_back(void)
{
    open_box();
    for (unsigned i = 32; i < 32 + 8 * 16; i += 16) // x87 registers are ten bytes
        put_u64(box.in.xsave + i, 0x8000000000000000 + i);
    for (unsigned i = 160; i < 160 + 256; i += 8)
        put_u64(box.in.xsave + i, 0x0102030405060708 * (i / 8));
    check_comes_back();
    close_box();
}

static void events_come_back(void)
{
    open_box();
    box.in.interrupt_shadow = 2;
    box.in.nmi_blocked = 1;
    box.in.nmi_pending = 1;
    check_comes_back();
    box.in.event_pending = 1;
    box.in.event_vector = 13;
    box.in.event_type = CPU_EVENT_EXCEPTION;
    box.in.event_has_error = 1;
    box.in.event_error = 0x18;
    check_comes_back();
    box.in.event_vector = 0x41;
    box.in.event_type = CPU_EVENT_INTR;
    box.in.event_has_error = 0;
    box.in.event_error = 0;
    check_comes_back();
    box.in.event_pending = box.in.event_vector = 0;
    box.in.activity = CPU_HALTED;
    check_comes_back();
    close_box();
}

// AMD's CPUs know one kind of shadow: the stronger one is taken for both.
static void shadow_of_sti_comes_back(void)
{
    open_box();
    box.in.interrupt_shadow = 1;
    CHECK_EQ(kvm->set(box.vcpu, ENGINE_ALL, &box.in, &box.e), OK);
    kvm->get(box.vcpu, ENGINE_EVENTS, &box.out);
    CHECK(box.out.interrupt_shadow != 0);
    close_box();
}

static void impossible_state_is_refused_in_words(void)
{
    open_box();
    box.in.cr4 = ~0ull;
    CHECK(kvm->set(box.vcpu, ENGINE_ALL, &box.in, &box.e) != OK);
    CHECK(box.e.text[0] != '\0');
    close_box();
}

static void ports_are_upcalls(void)
{
    static const uint8_t code[] = {0xb0, 0x77, 0xe6, 0x42,
                                   0xe4, 0x43, 0xf4}; // out 0x42; in 0x43; hlt
    open_box();
    CHECK_EQ(run_code(code, sizeof code), ENGINE_HALTED);
    CHECK_EQ(box.seen.port, 0x43);
    CHECK_EQ(box.seen.port_value, 0x77);
    CHECK_EQ(box.out.gpr[RAX] & 0xff, 0x5a);
    CHECK_EQ(box.out.activity, CPU_HALTED);
    CHECK_EQ(box.out.rip, KVM_BOX_CODE + sizeof code);
    close_box();
}

static void memory_outside_ram_is_an_upcall(void)
{
    static const uint8_t code[] = {0x67, 0x66, 0xa1, 0, 0, 0, 8, // mov eax, [0x8000000]
                                   0x67, 0x66, 0xa3, 4, 0, 0, 8, 0xf4};
    open_box();
    box.in.seg[SEG_DS].limit = 0xffffffff;
    box.in.seg[SEG_DS].attr |= SEGA_G;
    CHECK_EQ(run_code(code, sizeof code), ENGINE_HALTED);
    CHECK_EQ(box.seen.at, 0x8000004);
    CHECK_EQ(box.seen.stored, 0x1234);
    close_box();
}

static uint64_t rung(int bell)
{
    uint64_t count = 0;
    return read(bell, &count, sizeof count) == sizeof count ? count : 0;
}

static void doorbell_counts_writes_and_is_no_upcall(void)
{
    static const uint8_t code[] = {0x67, 0x66, 0xa3, 0, 0, 0, 8, // mov [0x8000000], eax
                                   0x67, 0xa3, 0,    0, 0, 8,    // mov [0x8000000], ax
                                   0x67, 0x66, 0xa3, 4, 0, 0, 8, 0xf4};
    int bell = eventfd(0, EFD_NONBLOCK);
    open_box();
    box.in.seg[SEG_DS].limit = 0xffffffff;
    box.in.seg[SEG_DS].attr |= SEGA_G;
    CHECK_EQ(kvm->doorbell(box.vm, 0x8000000, bell, true, &box.e), OK);
    CHECK_EQ(run_code(code, sizeof code), ENGINE_HALTED);
    CHECK_EQ(rung(bell), 2);
    CHECK_EQ(box.seen.at, 0x8000004);
    CHECK_EQ(kvm->doorbell(box.vm, 0x8000000, bell, false, &box.e), OK);
    CHECK_EQ(run_code(code, 7), ENGINE_HALTED);
    CHECK_EQ(rung(bell), 0);
    CHECK_EQ(kvm->doorbell(box.vm, 0x8000000, bell, false, &box.e), ERR_NOT_FOUND);
    CHECK(box.e.text[0] != '\0');
    close_box();
    close(bell);
}

static void msrs_of_the_machine_are_upcalls(void)
{
    static const uint8_t code[] = {
        0x66, 0xb9, 0x1b, 0,    0,    0,    0x0f, 0x32, // mov ecx, 0x1b; rdmsr
        0x66, 0xb9, 0x00, 0x4d, 0x56, 0x4b, 0x0f, 0x30, 0xf4};
    open_box();
    CHECK_EQ(run_code(code, sizeof code), ENGINE_HALTED);
    CHECK_EQ(box.seen.msr, MSR_KVM_WALL_CLOCK);
    CHECK_EQ(box.seen.msr_value, 0x1122334455667788);
    close_box();
}

static void triple_fault_is_a_shutdown(void)
{
    static const uint8_t code[] = {0x0f, 0x01, 0x1e,
                                   0,    0x70, 0xcc}; // lidt [0x7000] (limit 0); int3
    if (!ordinary())
        return;
    open_box();
    CHECK_EQ(run_code(code, sizeof code), ENGINE_SHUTDOWN);
    close_box();
}

static void nmi_wakes_a_halted_processor_once(void)
{
    static const uint8_t code[] = {0xf4};                      // hlt, with interrupts off
    static const uint8_t handler[] = {0xfe, 0x06, 0, 5, 0xf4}; // inc byte [0x500]; hlt
    static const uint8_t vector[] = {0, 0x90, 0, 0};
    open_box();
    memcpy(box.ram + 4 * 2, vector, sizeof vector);
    memcpy(box.ram + 0x9000, handler, sizeof handler);
    box.in.gpr[RSP] = 0x7000;
    CHECK_EQ(run_code(code, sizeof code), ENGINE_HALTED);
    CHECK_EQ(go_on(), ENGINE_HALTED);
    CHECK_EQ(box.out.rip, KVM_BOX_CODE + 1);
    kvm->nmi(box.vcpu);
    CHECK_EQ(go_on(), ENGINE_HALTED);
    CHECK_EQ(box.out.rip, 0x9000 + sizeof handler);
    CHECK_EQ(box.out.nmi_blocked, 1);
    kvm->nmi(box.vcpu); // waits for the IRET that never comes
    CHECK_EQ(go_on(), ENGINE_HALTED);
    CHECK_EQ(box.out.nmi_pending, 1);
    CHECK_EQ(box.ram[0x500], 1);
    close_box();
}

#define SMI_HANDLER 0x38000

// In real mode at SMBASE + 0x8000: mov byte [0x500], 7; out 0x42; rsm.
static const uint8_t smi_handler[] = {0x2e, 0xc6, 0x06, 0x00, 0x85, 7, 0xe6, 0x42, 0x0f, 0xaa};

static void smi_is_handled_and_its_state_comes_back(void)
{
    static const uint8_t code[] = {0x90, 0x40, 0xf4}; // nop; inc ax; hlt
    if (!ordinary())
        return;
    open_box();
    memcpy(box.ram + SMI_HANDLER, smi_handler, sizeof smi_handler);
    box.kick_at_port = true;
    box.in.gpr[RAX] = 4;
    box.in.smi_pending = 1;
    CHECK_EQ(run_code(code, sizeof code), ENGINE_KICKED);
    CHECK_EQ(box.out.smm, CPU_SMM);
    CHECK_EQ(box.out.smbase, 0x30000);
    CHECK_EQ(box.out.smi_pending, 0);
    CHECK_EQ(box.seen.port, 0x42);
    CHECK_EQ(box.ram[0x38500], 7);
    CHECK_EQ(kvm->set(box.vcpu, ENGINE_ALL, &box.out, &box.e), OK);
    CHECK_EQ(go_on(), ENGINE_HALTED);
    CHECK_EQ(box.out.smm, 0);
    CHECK_EQ(box.out.gpr[RAX] & 0xffff, 5);
    kvm->smi(box.vcpu); // wakes it
    CHECK_EQ(go_on(), ENGINE_KICKED);
    CHECK_EQ(box.out.smm, CPU_SMM);
    close_box();
}

static void tsc_ratio_is_what_the_cpu_multiplies_by(void)
{
    CHECK_EQ(kvm_tsc_ratio(2000000, 2000400, true).mult, 0); // KVM lets it be
    CHECK_EQ(kvm_tsc_ratio(2000000, 3000000, true).mult, 3ull << 47);
    CHECK_EQ(kvm_tsc_ratio(2000000, 3000000, true).shift, 48);
    CHECK_EQ(kvm_tsc_ratio(2000000, 500000, false).mult, 1ull << 30);
    const struct tsc_ratio ratio = kvm_tsc_ratio(2000000, 3000000, false);
    CHECK_EQ(tsc_scaled(&ratio, 1ull << 50), 3ull << 49);
}

static void halted_vcpus_may_be_polled_for(void)
{
    struct cpuid_table table;
    struct engine_vm_config config = kvm_box_config(&table);
    struct engine_vm *vm;
    config.poll_ns = 20000;
    config.chips = ENGINE_CHIPS_BEST;
    CHECK_EQ(kvm->vm_new(&config, &kvm_box_upcalls, NULL, &vm, &box.e), OK);
    kvm->vm_free(vm);
}

static void kick_ends_a_run_before_it_begins(void)
{
    static const uint8_t code[] = {0xeb, 0xfe}; // for ever
    open_box();
    kvm->kick(box.vcpu);
    CHECK_EQ(run_code(code, sizeof code), ENGINE_KICKED);
    CHECK_EQ(box.out.rip, KVM_BOX_CODE);
    close_box();
}

static void dirty_log_has_what_the_guest_and_devices_wrote(void)
{
    static const uint8_t code[] = {0xa2, 0x34, 0x50, 0xf4}; // mov [0x5034], al; hlt
    static uint64_t pages[RAM_PAGES / 64];
    memset(pages, 0, sizeof pages);
    open_box();
    CHECK_EQ(kvm->log_dirty(box.vm, true, &box.e), OK);
    CHECK_EQ(run_code(code, sizeof code), ENGINE_HALTED);
    kvm->written(box.vm, 0x9ffff, 2);
    CHECK_EQ(kvm->take_dirty(box.vm, 0, KVM_BOX_RAM, pages), OK);
    CHECK(pages[0] & BIT(5));
    CHECK_EQ(pages[0x9f / 64] >> (0x9f % 64) & 1, 1);
    CHECK_EQ(pages[0xa0 / 64] >> (0xa0 % 64) & 1, 1);
    memset(pages, 0, sizeof pages);
    CHECK_EQ(kvm->take_dirty(box.vm, 0, KVM_BOX_RAM, pages), OK);
    CHECK(!(pages[0] & BIT(5)));
    CHECK_EQ(kvm->log_dirty(box.vm, false, &box.e), OK);
    close_box();
}

#define FIRST_WRITTEN 0x100

// Writes every other page of the memory above 1 MiB, from real mode with a limit of 4 GiB.
static void log_pages(uint32_t debug, unsigned count, uint64_t pages[RAM_PAGES / 64])
{
    uint8_t code[] = {0x66, 0xbf, 0,    0,    0x10, 0,    // mov edi, 0x100000
                      0x66, 0xb9, 0,    0,    0,    0,    // mov ecx, count
                      0x67, 0x88, 0x07,                   // mov [edi], al
                      0x66, 0x81, 0xc7, 0,    0x20, 0, 0, // add edi, 0x2000
                      0x66, 0x49, 0x75, 0xf2, 0xf4};      // dec ecx; jnz; hlt
    memcpy(code + 8, &count, sizeof count);
    open_box_with(debug);
    box.in.seg[SEG_DS].limit = 0xffffffff;
    box.in.seg[SEG_DS].attr |= SEGA_G;
    CHECK_EQ(kvm->log_dirty(box.vm, true, &box.e), OK);
    CHECK_EQ(run_code(code, sizeof code), ENGINE_HALTED);
    memset(pages, 0, RAM_PAGES / 8);
    // In two parts: what is not asked for must stay in the log.
    CHECK_EQ(kvm->take_dirty(box.vm, KVM_BOX_RAM / 2, KVM_BOX_RAM / 2, pages + RAM_PAGES / 128),
             OK);
    CHECK_EQ(kvm->take_dirty(box.vm, 0, KVM_BOX_RAM / 2, pages), OK);
    static uint64_t again[RAM_PAGES / 64];
    memset(again, 0, sizeof again);
    CHECK_EQ(kvm->take_dirty(box.vm, 0, KVM_BOX_RAM, again), OK);
    for (size_t i = 0; i < ARRAY_LEN(again); i++)
        CHECK_EQ(again[i], 0);
    CHECK_EQ(kvm->log_dirty(box.vm, false, &box.e), OK);
    close_box();
}

static bool kernel_has_rings(void)
{
    int device = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(device, KVM_CREATE_VM, 0);
    bool has = ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING) > 0 ||
               ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING_ACQ_REL) > 0;
    close(vm);
    close(device);
    return has;
}

// More pages than a ring holds, but not where KVM emulates such code without looking at its rings.
static void rings_and_bitmaps_log_the_same_pages(void)
{
    static uint64_t by_default[RAM_PAGES / 64], by_bitmap[RAM_PAGES / 64];
    unsigned count = ordinary() ? 5500 : 1000;
    if (!kernel_has_rings())
        printf("# this kernel has no dirty rings: bitmaps are compared with bitmaps\n");
    log_pages(0, count, by_default);
    log_pages(ENGINE_DEBUG_DIRTY_BITMAP, count, by_bitmap);
    for (unsigned page = FIRST_WRITTEN; page < RAM_PAGES; page++) {
        unsigned n = page - FIRST_WRITTEN;
        bool want = n % 2 == 0 && n / 2 < count;
        CHECK_EQ(by_default[page / 64] >> page % 64 & 1, want);
        CHECK_EQ(by_bitmap[page / 64] >> page % 64 & 1, want);
    }
}

static void tsc_is_the_hosts_with_its_offset(void)
{
    open_box();
    box.in.tsc_adjust = 500;
    CHECK_EQ(kvm->set(box.vcpu, ENGINE_ALL, &box.in, &box.e), OK);
    uint64_t before = __builtin_ia32_rdtsc();
    kvm->tsc_offset(box.vcpu, 1000000);
    kvm->get(box.vcpu, ENGINE_MSRS, &box.out);
    uint64_t after = __builtin_ia32_rdtsc();
    CHECK(box.out.tsc >= before + 1000500 && box.out.tsc <= after + 1000500);
    close_box();
}

static void guest_reads_the_scaled_tsc_where_the_cpu_can_scale(void)
{
    static const uint8_t code[] = {0x0f, 0x31, 0xf4}; // rdtsc; hlt
    struct tsc_ratio ratio;
    if (!ordinary())
        return;
    open_box();
    err_t err = kvm->scale_tsc(box.vm, box.vm->host_khz / 2 * 3, &ratio, &box.e);
    if (err) {
        printf("# not tried: %s\n", box.e.text);
        CHECK_EQ(err, ERR_UNSUPPORTED);
    } else {
        CHECK_EQ(kvm->set(box.vcpu, ENGINE_ALL, &box.in, &box.e), OK);
        kvm->tsc_offset(box.vcpu, 0);
        uint64_t before = tsc_scaled(&ratio, __builtin_ia32_rdtsc());
        memcpy(box.ram + KVM_BOX_CODE, code, sizeof code);
        box.in.seg[SEG_CS].selector = 0;
        box.in.seg[SEG_CS].base = 0;
        box.in.rip = KVM_BOX_CODE;
        CHECK_EQ(kvm->set(box.vcpu, ENGINE_REGS | ENGINE_SYSTEM, &box.in, &box.e), OK);
        CHECK_EQ(go_on(), ENGINE_HALTED);
        uint64_t read = box.out.gpr[RDX] << 32 | (uint32_t)box.out.gpr[RAX];
        CHECK(read > before && read < tsc_scaled(&ratio, __builtin_ia32_rdtsc()));
    }
    close_box();
}

static const struct test tests[] = {
    TEST(reset_state_comes_back),
    TEST(long_mode_state_comes_back),
    TEST(msrs_come_back),
    TEST(msr_that_kvm_lacks_is_refused_by_name),
    TEST(vector_state_comes_back),
    TEST(events_come_back),
    TEST(shadow_of_sti_comes_back),
    TEST(impossible_state_is_refused_in_words),
    TEST(ports_are_upcalls),
    TEST(memory_outside_ram_is_an_upcall),
    TEST(doorbell_counts_writes_and_is_no_upcall),
    TEST(msrs_of_the_machine_are_upcalls),
    TEST(triple_fault_is_a_shutdown),
    TEST(nmi_wakes_a_halted_processor_once),
    TEST(smi_is_handled_and_its_state_comes_back),
    TEST(tsc_ratio_is_what_the_cpu_multiplies_by),
    TEST(halted_vcpus_may_be_polled_for),
    TEST(kick_ends_a_run_before_it_begins),
    TEST(dirty_log_has_what_the_guest_and_devices_wrote),
    TEST(rings_and_bitmaps_log_the_same_pages),
    TEST(tsc_is_the_hosts_with_its_offset),
    TEST(guest_reads_the_scaled_tsc_where_the_cpu_can_scale),
};

int main(void)
{
    return no_kvm() ? KVM_BOX_SKIPPED : test_main(tests, ARRAY_LEN(tests));
}
