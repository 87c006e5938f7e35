// See debug_tests.h.
#include "debug_tests.h"

#include "kvm_box.h"

#include <cpuid.h>

#define HANDLER 0x9000

static struct engine_stop stop;

// Whether this KVM, where it is one, runs what needs a processor's virtualization.
static bool able(void)
{
    return kvm != &engine_kvm || ordinary();
}

// An AMD-V that QEMU emulates has no points for its guests and does not show their INT3.
static bool qemus_cpu(void)
{
    uint32_t max, name[3];
    if (kvm != &engine_kvm)
        return false;
    __cpuid(0x40000000, max, name[0], name[1], name[2]);
    bool emulated = memcmp(name, "TCGTCGTCGTCG", sizeof name) == 0;
    if (emulated)
        printf("# not tried: QEMU's AMD-V does not stop its guests\n");
    return emulated;
}

static void watch(const struct engine_watch *watch)
{
    CHECK_EQ(kvm->watch(box.vcpu, watch, &box.e), OK);
    if (box.e.text[0])
        printf("# %s\n", box.e.text);
}

static enum engine_exit follow(enum engine_exit exit)
{
    stop = (struct engine_stop){0};
    if (exit == ENGINE_STOPPED)
        kvm->stopped(box.vcpu, &stop);
    return exit;
}

static void step_runs_one_instruction(void)
{
    static const uint8_t code[] = {0xb8, 1,    0,   0x40,
                                   0xe6, 0x42, 0xf4}; // mov ax, 1; inc ax; out; hlt
    if (!able())
        return;
    open_box();
    watch(&(struct engine_watch){.step = true});
    CHECK_EQ(follow(run_code(code, sizeof code)), ENGINE_STOPPED);
    CHECK(stop.step);
    CHECK_EQ(stop.at, KVM_BOX_CODE + 3);
    CHECK_EQ(stop.point, -1);
    CHECK_EQ(box.out.rip, KVM_BOX_CODE + 3);
    CHECK_EQ(box.out.rflags & FLAG_TF, 0);
    CHECK_EQ(follow(go_on()), ENGINE_STOPPED);
    CHECK_EQ(box.out.gpr[RAX] & 0xffff, 2);
    CHECK_EQ(follow(go_on()), ENGINE_STOPPED); // with the device's answer
    CHECK_EQ(stop.at, KVM_BOX_CODE + 6);
    CHECK_EQ(box.seen.port, 0x42);
    watch(NULL);
    CHECK_EQ(follow(go_on()), ENGINE_HALTED);
    close_box();
}

static void instruction_point_stops_before_it(void)
{
    static const uint8_t code[] = {0xb8, 1, 0, 0x40, 0x40, 0xf4}; // mov ax, 1; inc ax; inc ax; hlt
    if (qemus_cpu())
        return;
    open_box();
    watch(&(struct engine_watch){
        .points = 2,
        .point = {{.at = 0x100, .kind = ENGINE_POINT_EXEC, .bytes = 1},
                  {.at = KVM_BOX_CODE + 4, .kind = ENGINE_POINT_EXEC, .bytes = 1}}});
    CHECK_EQ(follow(run_code(code, sizeof code)), ENGINE_STOPPED);
    CHECK_EQ(stop.point, 1);
    CHECK_EQ(stop.at, KVM_BOX_CODE + 4);
    CHECK_EQ(box.out.gpr[RAX] & 0xffff, 2);
    CHECK_EQ(box.out.dr7, DR7_FIXED); // the guest's own
    watch(NULL);
    CHECK_EQ(follow(go_on()), ENGINE_HALTED);
    CHECK_EQ(box.out.gpr[RAX] & 0xffff, 3);
    close_box();
}

static void write_point_stops_after_it(void)
{
    static const uint8_t code[] = {0xa0, 0x00, 0x50,              // mov al, [0x5000]
                                   0xa3, 0x00, 0x50, 0x40, 0xf4}; // mov [0x5000], ax; inc ax; hlt
    if (!able() || qemus_cpu())
        return;
    open_box();
    watch(&(struct engine_watch){
        .points = 1, .point = {{.at = 0x5000, .kind = ENGINE_POINT_WRITE, .bytes = 2}}});
    CHECK_EQ(follow(run_code(code, sizeof code)), ENGINE_STOPPED);
    CHECK_EQ(stop.point, 0);
    CHECK_EQ(stop.at, KVM_BOX_CODE + 6);
    CHECK(!stop.int3);
    CHECK_EQ(follow(go_on()), ENGINE_HALTED);
    close_box();
}

// #BP leads to HANDLER, which halts.
static void int3_stops_there_and_can_be_the_guests_own(void)
{
    static const uint8_t code[] = {0x90, 0xcc, 0x40, 0xf4};
    static const uint8_t vector[] = {HANDLER & 0xff, HANDLER >> 8, 0, 0};
    if (!able() || qemus_cpu())
        return;
    open_box();
    memcpy(box.ram + 4 * 3, vector, sizeof vector);
    box.ram[HANDLER] = 0xf4;
    box.in.gpr[RSP] = 0x7000;
    watch(&(struct engine_watch){.int3 = true});
    CHECK_EQ(follow(run_code(code, sizeof code)), ENGINE_STOPPED);
    CHECK(stop.int3);
    CHECK_EQ(stop.at, KVM_BOX_CODE + 1);
    CHECK_EQ(box.out.rip, KVM_BOX_CODE + 1);
    watch(&(struct engine_watch){.int3 = true, .pass = true});
    CHECK_EQ(follow(go_on()), ENGINE_HALTED);
    CHECK_EQ(box.out.rip, HANDLER + 1);
    uint16_t pushed;
    memcpy(&pushed, box.ram + (box.out.gpr[RSP] & 0xffff), 2);
    CHECK_EQ(pushed, KVM_BOX_CODE + 2); // a trap
    close_box();
}

static void impossible_points_are_refused_in_words(void)
{
    struct engine_watch w = {.points = 1, .point = {{.at = 0x5001, .bytes = 2}}};
    open_box();
    CHECK_EQ(kvm->watch(box.vcpu, &w, &box.e), ERR_INVALID);
    w.point[0] = (struct engine_point){.at = 0x5000, .bytes = 3, .kind = ENGINE_POINT_WRITE};
    CHECK_EQ(kvm->watch(box.vcpu, &w, &box.e), ERR_INVALID);
    w.points = 5;
    CHECK_EQ(kvm->watch(box.vcpu, &w, &box.e), ERR_UNSUPPORTED);
    CHECK(box.e.text[0] != '\0');
    close_box();
}

// The handler of vector 0x20 is at HANDLER; the step goes to where the program does.
static void step_takes_no_interrupt(void)
{
    static const uint8_t code[] = {0x40, 0x40, 0xf4}; // inc ax; inc ax; hlt
    if (!able())
        return;
    open_box();
    box.in.rflags |= FLAG_IF;
    box.vector = 0x20;
    watch(&(struct engine_watch){.step = true});
    kvm->set_intr(box.vcpu, true);
    CHECK_EQ(follow(run_code(code, sizeof code)), ENGINE_STOPPED);
    CHECK_EQ(stop.at, KVM_BOX_CODE + 1);
    CHECK_EQ(follow(go_on()), ENGINE_STOPPED);
    CHECK_EQ(stop.at, KVM_BOX_CODE + 2);
    CHECK_EQ(box.vector, 0x20);
    box.vector = -1;
    close_box();
}

static void guests_own_points_do_nothing_meanwhile(void)
{
    static const uint8_t code[] = {0x40, 0x40, 0x40, 0xf4};
    static const uint8_t vector[] = {HANDLER & 0xff, HANDLER >> 8, 0, 0};
    if (!able() || qemus_cpu())
        return;
    open_box();
    memcpy(box.ram + 4 * 1, vector, sizeof vector);
    box.ram[HANDLER] = 0xf4;
    box.in.gpr[RSP] = 0x7000;
    box.in.dr[0] = KVM_BOX_CODE + 1;
    box.in.dr7 = DR7_FIXED | 2;
    watch(&(struct engine_watch){
        .points = 1, .point = {{.at = KVM_BOX_CODE + 2, .kind = ENGINE_POINT_EXEC, .bytes = 1}}});
    CHECK_EQ(follow(run_code(code, sizeof code)), ENGINE_STOPPED);
    CHECK_EQ(stop.at, KVM_BOX_CODE + 2);
    CHECK_EQ(stop.point, 0);
    CHECK_EQ(box.out.dr[0], KVM_BOX_CODE + 1);
    CHECK_EQ(box.out.dr7, DR7_FIXED | 2);
    CHECK_EQ(follow(go_on()), ENGINE_STOPPED); // it does not get past it
    CHECK_EQ(stop.at, KVM_BOX_CODE + 2);
    watch(NULL);
    box.in = box.out;
    CHECK_EQ(follow(run_code(code, sizeof code)), ENGINE_HALTED);
    CHECK_EQ(box.out.rip, HANDLER + 1); // now they do
    close_box();
}

static void access_point_sees_reads(void)
{
    static const uint8_t code[] = {0xa1, 0x00, 0x50, 0x40, 0xf4}; // mov ax, [0x5000]; inc ax; hlt
    if (!able() || qemus_cpu())
        return;
    open_box();
    watch(
        &(struct engine_watch){.points = 2,
                               .point = {{.at = 0x5000, .kind = ENGINE_POINT_WRITE, .bytes = 2},
                                         {.at = 0x5001, .kind = ENGINE_POINT_ACCESS, .bytes = 1}}});
    CHECK_EQ(follow(run_code(code, sizeof code)), ENGINE_STOPPED);
    CHECK_EQ(stop.point, 1);
    CHECK_EQ(stop.at, KVM_BOX_CODE + 3);
    close_box();
}

// A loop that is translated before there is anything to stop at.
static void points_find_code_that_ran_before(void)
{
    static const uint8_t code[] = {0xb9, 0,    0x40,        // mov cx, 0x4000
                                   0x40, 0xe2, 0xfd,        // again: inc ax; loop again
                                   0xe6, 0x42, 0xeb, 0xf6}; // out; jmp to the start
    if (!able() || qemus_cpu())
        return;
    open_box();
    box.kick_at_port = true;
    CHECK_EQ(follow(run_code(code, sizeof code)), ENGINE_KICKED);
    watch(&(struct engine_watch){
        .points = 1, .point = {{.at = KVM_BOX_CODE + 4, .kind = ENGINE_POINT_EXEC, .bytes = 1}}});
    CHECK_EQ(follow(go_on()), ENGINE_STOPPED);
    CHECK_EQ(box.out.gpr[RAX] & 0xffff, 0x4001);
    CHECK_EQ(box.out.gpr[RCX] & 0xffff, 0x4000);
    close_box();
}

const struct test debug_tests[] = {
    TEST(step_runs_one_instruction),
    TEST(step_takes_no_interrupt),
    TEST(instruction_point_stops_before_it),
    TEST(write_point_stops_after_it),
    TEST(access_point_sees_reads),
    TEST(int3_stops_there_and_can_be_the_guests_own),
    TEST(guests_own_points_do_nothing_meanwhile),
    TEST(points_find_code_that_ran_before),
    TEST(impossible_points_are_refused_in_words),
};
const size_t debug_tests_count = ARRAY_LEN(debug_tests);
