// Whether KVM can run ordinary guests here, and the words for every way in which it cannot: first
// what there is to know (struct kvm_facts), then what it means. Sources: Linux
// Documentation/virt/kvm/api.rst; CPUID leaves 1 (VMX) and 0x80000001 (SVM); group(5), read
// directly because a VM's process may not ask name services.
#include "engine/kvm/probe.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/kvm/kvm_impl.h"

#define DEVICE "/dev/kvm"
#define TRANSLATE "--engine translate runs the guest without KVM"
#define MODULE "load the kernel's module: sudo modprobe kvm-intel (or kvm-amd)"

// What the engine cannot do without, and the first kernel that has it.
static const struct kvm_need needed[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", "2.6.29"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID", "2.6.26"},
    {KVM_CAP_USER_NMI, "KVM_CAP_USER_NMI", "2.6.30"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS", "2.6.33"},
    {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS", "2.6.35"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE", "2.6.36"},
    {KVM_CAP_XCRS, "KVM_CAP_XCRS", "2.6.36"},
    {KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM", "3.7"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT", "4.11"},
    {KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR", "5.10"},
    {KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER", "5.10"},
    {KVM_CAP_SREGS2, "KVM_CAP_SREGS2", "5.14"},
};

// --- what there is

// The CPU's own virtualization, without which KVM cannot run what guests usually consist of. Every
// 64-bit CPU has these leaves.
static void look_at_cpu(struct kvm_facts *facts)
{
    uint32_t a, b, d, vmx, svm;
    __cpuid(1, a, b, vmx, d);
    __cpuid(0x80000001, a, b, svm, d);
    facts->virtualizes = vmx & BIT(5) || svm & BIT(2);
    facts->is_virtual = vmx & BIT(31);
}

static bool in_container(void)
{
    return access("/.dockerenv", F_OK) == 0 || access("/run/.containerenv", F_OK) == 0 ||
           access("/run/systemd/container", F_OK) == 0;
}

// The name of the group that the device belongs to, or nothing.
static void device_group(char name[32])
{
    struct stat st;
    FILE *f = stat(DEVICE, &st) == 0 ? fopen("/etc/group", "re") : NULL;
    char line[512], group[32];
    unsigned gid;
    name[0] = '\0';
    while (f && !name[0] && fgets(line, sizeof line, f))
        if (sscanf(line, "%31[^:]:%*[^:]:%u", group, &gid) == 2 && gid == st.st_gid)
            snprintf(name, 32, "%s", group);
    if (f)
        fclose(f);
}

static const struct kvm_need *find_lacking(int fd)
{
    for (size_t i = 0; i < ARRAY_LEN(needed); i++)
        if (ioctl(fd, KVM_CHECK_EXTENSION, needed[i].capability) <= 0)
            return &needed[i];
    return NULL;
}

// Only making a VM shows whether the CPU's virtualization is free; ending it may take milliseconds.
static int try_vm(int fd)
{
    int vm = ioctl(fd, KVM_CREATE_VM, 0);
    if (vm < 0)
        return errno;
    close(vm);
    return 0;
}

// What the device says. Leaves it open where it is of use: the descriptor, or -1.
static int look_at_device(struct kvm_facts *facts)
{
    int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        facts->open_error = errno;
        if (errno == EACCES)
            device_group(facts->group);
        return -1;
    }
    facts->version = ioctl(fd, KVM_GET_API_VERSION, 0);
    facts->lacks = find_lacking(fd);
    return fd;
}

static int gather(struct kvm_facts *facts)
{
    *facts = (struct kvm_facts){.container = in_container()};
    look_at_cpu(facts);
    return look_at_device(facts);
}

// --- what it means

static void no(struct engine_probe *out, const char *reason, const char *why, const char *fix)
{
    *out = (struct engine_probe){.reason = reason};
    snprintf(out->why, sizeof out->why, "%s", why);
    snprintf(out->fix, sizeof out->fix, "%s", fix);
}

static void absent(const struct kvm_facts *facts, struct engine_probe *out)
{
    if (facts->container)
        no(out, "container", "this container has no " DEVICE,
           "start the container with --device " DEVICE "; " TRANSLATE);
    else if (facts->virtualizes)
        no(out, "absent", "there is no " DEVICE, MODULE);
    else if (facts->is_virtual)
        no(out, "no-virtualization",
           "there is no " DEVICE ", and this virtual machine's CPU has neither VT-x nor AMD-V",
           "turn on nested virtualization where this machine runs; " TRANSLATE);
    else
        no(out, "no-virtualization",
           "there is no " DEVICE ", and the CPU shows neither VT-x nor AMD-V",
           "turn on virtualization in the firmware's setup; " TRANSLATE);
}

// The device's group need not be called kvm; root's own helps nobody.
static void no_permission(const struct kvm_facts *facts, struct engine_probe *out)
{
    char why[200], fix[200];
    const char *group = facts->group;
    if (facts->container) {
        no(out, "permission", "this container may not open " DEVICE,
           "give the container's user the group of " DEVICE " (--group-add); " TRANSLATE);
        return;
    }
    snprintf(why, sizeof why, "you have no permission to open " DEVICE "%s%s",
             group[0] ? ": it is for the group " : "", group);
    if (group[0] && strcmp(group, "root") != 0)
        snprintf(fix, sizeof fix, "join it: sudo usermod -aG %s \"$USER\", then log in again",
                 group);
    else
        snprintf(fix, sizeof fix,
                 "have root give the device to a group of yours: chgrp, chmod g+rw");
    no(out, "permission", why, fix);
}

static void cannot_open(const struct kvm_facts *facts, struct engine_probe *out)
{
    char why[200];
    switch (facts->open_error) {
    case ENOENT: absent(facts, out); break;
    case EACCES: no_permission(facts, out); break;
    case EPERM:
        no(out, "container", "this container may not open " DEVICE,
           "start the container with --device " DEVICE "; " TRANSLATE);
        break;
    case ENODEV:
    case ENXIO:
        no(out, "absent", DEVICE " is there, but nothing is behind it",
           MODULE "; dmesg says why it failed");
        break;
    case EBUSY:
        no(out, "busy", "another program holds " DEVICE " for itself", "stop it; " TRANSLATE);
        break;
    default:
        snprintf(why, sizeof why, "cannot open " DEVICE ": %s", strerror(facts->open_error));
        no(out, "open", why, TRANSLATE);
    }
}

static bool interface_fits(const struct kvm_facts *facts, struct engine_probe *out)
{
    char why[200], fix[200];
    if (facts->version != KVM_API_VERSION) {
        snprintf(why, sizeof why, DEVICE " speaks version %d of KVM's interface, Berth speaks %d",
                 facts->version, KVM_API_VERSION);
        no(out, "old-kernel", why, "use a kernel of 2007 or later; " TRANSLATE);
        return false;
    }
    if (facts->lacks) {
        snprintf(why, sizeof why, "this kernel's KVM lacks %s", facts->lacks->name);
        snprintf(fix, sizeof fix, "use Linux %s or later; " TRANSLATE, facts->lacks->since);
        no(out, "old-kernel", why, fix);
        return false;
    }
    return true;
}

static void no_vm(int number, struct engine_probe *out)
{
    struct error e = {0};
    if (number == EBUSY) {
        no(out, "busy",
           "another hypervisor (VirtualBox, VMware, Xen) holds the CPU's virtualization",
           "stop it; " TRANSLATE);
        return;
    }
    (void)!kvm_failed(&e, number, "make a VM");
    no(out, "failed", e.text, "");
}

void kvm_explain(const struct kvm_facts *facts, uint32_t debug, struct engine_probe *out)
{
    *out = (struct engine_probe){.usable = true};
    if (facts->open_error)
        cannot_open(facts, out);
    else if (!interface_fits(facts, out))
        return;
    // Some clouds offer a KVM without the CPU's help for specially built guests.
    else if (!facts->virtualizes && !(debug & ENGINE_DEBUG_ANY_KVM))
        no(out, "no-virtualization",
           DEVICE " opens, but the CPU shows neither VT-x nor AMD-V: this KVM hangs with ordinary "
                  "guests",
           "turn on nested virtualization where this machine runs; " TRANSLATE);
    else if (facts->vm_error)
        no_vm(facts->vm_error, out);
}

void kvm_probe(uint32_t debug, bool thorough, struct engine_probe *out)
{
    struct kvm_facts facts;
    int fd = gather(&facts);
    if (fd >= 0 && thorough)
        facts.vm_error = try_vm(fd);
    if (fd >= 0)
        close(fd);
    kvm_explain(&facts, debug, out);
}

// Comes after kvm_probe(), which has asked the CPU: not again, since CPUID costs an exit where the
// CPU is virtual.
int kvm_open(struct error *e)
{
    struct kvm_facts facts = {.virtualizes = true, .container = in_container()};
    struct engine_probe probe;
    int fd = look_at_device(&facts);
    kvm_explain(&facts, ENGINE_DEBUG_ANY_KVM, &probe);
    if (probe.usable)
        return fd;
    if (fd >= 0)
        close(fd);
    (void)!error_set(e, ERR_UNSUPPORTED, "%s; %s", probe.why, probe.fix);
    return -1;
}
