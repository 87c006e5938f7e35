// Every way in which KVM cannot be used, from made-up facts: the reason for scripts, the words, and
// what would help.
#include "engine/kvm/probe.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>

#include "test.h"

// A host on which all is well.
static struct kvm_facts good(void)
{
    return (struct kvm_facts){.version = KVM_API_VERSION, .virtualizes = true};
}

static struct engine_probe explain(const struct kvm_facts *facts)
{
    struct engine_probe probe;
    kvm_explain(facts, 0, &probe);
    return probe;
}

// Refused for the reason, with these words in why and in fix. The refusal of --engine kvm has room
// for both.
static void check_refused(const struct kvm_facts *facts, const char *reason, const char *why,
                          const char *fix)
{
    struct engine_probe probe = explain(facts);
    struct error e = {0};
    char whole[512];
    CHECK(!probe.usable);
    CHECK(probe.reason && strcmp(probe.reason, reason) == 0);
    CHECK(strstr(probe.why, why) != NULL);
    CHECK(strstr(probe.fix, fix) != NULL);
    snprintf(whole, sizeof whole, "engine 'kvm' cannot be used: %s; %s", probe.why, probe.fix);
    CHECK(strlen(whole) < sizeof e.text);
}

static void a_good_host_is_usable(void)
{
    struct kvm_facts facts = good();
    CHECK(explain(&facts).usable);
}

static void absent_device_on_a_capable_cpu_names_the_module(void)
{
    struct kvm_facts facts = {.open_error = ENOENT, .virtualizes = true};
    check_refused(&facts, "absent", "there is no /dev/kvm", "modprobe");
}

static void absent_device_in_a_container_names_the_option(void)
{
    struct kvm_facts facts = {.open_error = ENOENT, .virtualizes = true, .container = true};
    check_refused(&facts, "container", "this container", "--device /dev/kvm");
}

static void absent_device_in_a_virtual_machine_asks_for_nesting(void)
{
    struct kvm_facts facts = {.open_error = ENOENT, .is_virtual = true};
    check_refused(&facts, "no-virtualization", "virtual machine's CPU", "nested");
}

static void absent_device_without_virtualization_points_at_the_firmware(void)
{
    struct kvm_facts facts = {.open_error = ENOENT};
    check_refused(&facts, "no-virtualization", "neither VT-x nor AMD-V", "firmware's setup");
}

static void missing_permission_names_the_devices_group(void)
{
    struct kvm_facts facts = {.open_error = EACCES, .virtualizes = true, .group = "hypervisors"};
    check_refused(&facts, "permission", "group hypervisors", "usermod -aG hypervisors");
    memset(facts.group, 'g', sizeof facts.group - 1);
    check_refused(&facts, "permission", "group ggg", "usermod -aG ggg");
}

static void missing_permission_without_a_group_to_join_asks_root(void)
{
    struct kvm_facts facts = {.open_error = EACCES, .virtualizes = true, .group = "root"};
    check_refused(&facts, "permission", "no permission", "have root");
    facts.group[0] = '\0';
    check_refused(&facts, "permission", "no permission", "have root");
}

static void missing_permission_in_a_container_names_its_option(void)
{
    struct kvm_facts facts = {.open_error = EACCES, .container = true, .group = "kvm"};
    check_refused(&facts, "permission", "this container may not open", "--group-add");
    facts.open_error = EPERM;
    check_refused(&facts, "container", "this container may not open", "--device /dev/kvm");
}

static void device_with_nothing_behind_it_names_the_module(void)
{
    struct kvm_facts facts = {.open_error = ENODEV, .virtualizes = true};
    check_refused(&facts, "absent", "nothing is behind it", "modprobe");
}

static void held_device_says_so(void)
{
    struct kvm_facts facts = {.open_error = EBUSY, .virtualizes = true};
    check_refused(&facts, "busy", "another program", "stop it");
}

static void other_errors_have_the_systems_words(void)
{
    struct kvm_facts facts = {.open_error = EMFILE, .virtualizes = true};
    check_refused(&facts, "open", strerror(EMFILE), "--engine translate");
}

static void old_interface_and_missing_capability_name_the_kernel(void)
{
    static const struct kvm_need need = {.name = "KVM_CAP_SREGS2", .since = "5.14"};
    struct kvm_facts facts = good();
    facts.version = 11;
    check_refused(&facts, "old-kernel", "version 11", "2007");
    facts = good();
    facts.lacks = &need;
    check_refused(&facts, "old-kernel", "KVM_CAP_SREGS2", "5.14");
}

static void device_that_opens_without_virtualization_is_a_trap(void)
{
    struct kvm_facts facts = good();
    struct engine_probe probe;
    facts.virtualizes = false;
    check_refused(&facts, "no-virtualization", "opens, but", "nested");
    kvm_explain(&facts, ENGINE_DEBUG_ANY_KVM, &probe);
    CHECK(probe.usable);
}

static void virtualization_in_use_names_who_may_hold_it(void)
{
    struct kvm_facts facts = good();
    facts.vm_error = EBUSY;
    check_refused(&facts, "busy", "VirtualBox", "stop it");
    facts.vm_error = ENOMEM;
    check_refused(&facts, "failed", "out of memory", "");
}

static const struct test tests[] = {
    TEST(a_good_host_is_usable),
    TEST(absent_device_on_a_capable_cpu_names_the_module),
    TEST(absent_device_in_a_container_names_the_option),
    TEST(absent_device_in_a_virtual_machine_asks_for_nesting),
    TEST(absent_device_without_virtualization_points_at_the_firmware),
    TEST(missing_permission_names_the_devices_group),
    TEST(missing_permission_without_a_group_to_join_asks_root),
    TEST(missing_permission_in_a_container_names_its_option),
    TEST(device_with_nothing_behind_it_names_the_module),
    TEST(held_device_says_so),
    TEST(other_errors_have_the_systems_words),
    TEST(old_interface_and_missing_capability_name_the_kernel),
    TEST(device_that_opens_without_virtualization_is_a_trap),
    TEST(virtualization_in_use_names_who_may_hold_it),
};

int main(void)
{
    return test_main(tests, ARRAY_LEN(tests));
}
