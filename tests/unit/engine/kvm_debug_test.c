// A debugger's view of the KVM engine: points, INT3, single steps. Skipped where /dev/kvm does not
// open.
#include "kvm_box.h"
#include "test.h"

#include <cpuid.h>

#define HANDLER 0x9000

static struct engine_stop stop;

// An AMD-V that QEMU emulates has no points for its guests and does not show their INT3.
static bool qemus_cpu(void)
{
    uint32_t max, name[3];
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
    if (!ordinary())
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
    if (!ordinary() || qemus_cpu())
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
    if (!ordinary() || qemus_cpu())
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

static const struct test tests[] = {
    TEST(step_runs_one_instruction),
    TEST(instruction_point_stops_before_it),
    TEST(write_point_stops_after_it),
    TEST(int3_stops_there_and_can_be_the_guests_own),
    TEST(impossible_points_are_refused_in_words),
};

int main(void)
{
    return no_kvm() ? KVM_BOX_SKIPPED : test_main(tests, ARRAY_LEN(tests));
}
