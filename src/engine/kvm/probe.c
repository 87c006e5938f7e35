// Whether KVM can run ordinary guests here, and the words for every way in which it cannot.
// Sources: Linux Documentation/virt/kvm/api.rst; CPUID leaves 1 (VMX) and 0x80000001 (SVM).
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "engine/kvm/kvm_impl.h"

#define DEVICE "/dev/kvm"
#define TRANSLATE "--engine translate runs the guest without KVM"

// What the engine cannot do without, and the first kernel that has it.
static const struct {
    int capability;
    const char *name;
    const char *since;
} needed[] = {
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

static void no(struct engine_probe *out, const char *why, const char *fix)
{
    out->usable = false;
    snprintf(out->why, sizeof out->why, "%s", why);
    snprintf(out->fix, sizeof out->fix, "%s", fix);
}

// The CPU's own virtualization, without which KVM cannot run what guests usually consist of.
static bool cpu_virtualizes(void)
{
    uint32_t a, b, c, d;
    bool vmx = __get_cpuid(1, &a, &b, &c, &d) && c & BIT(5);
    bool svm = __get_cpuid(0x80000001, &a, &b, &c, &d) && c & BIT(2);
    return vmx || svm;
}

static bool cpu_is_virtual(void)
{
    uint32_t a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c & BIT(31);
}

static bool in_container(void)
{
    return access("/.dockerenv", F_OK) == 0 || access("/run/.containerenv", F_OK) == 0 ||
           access("/run/systemd/container", F_OK) == 0;
}

static void absent(struct engine_probe *out)
{
    if (in_container())
        no(out, "this container has no " DEVICE,
           "start the container with --device " DEVICE "; " TRANSLATE);
    else if (cpu_virtualizes())
        no(out, "there is no " DEVICE,
           "load the kernel's module: sudo modprobe kvm-intel (or kvm-amd)");
    else if (cpu_is_virtual())
        no(out, "there is no " DEVICE ", and this virtual machine's CPU has neither VT-x nor AMD-V",
           "turn on nested virtualization where this machine runs; " TRANSLATE);
    else
        no(out, "there is no " DEVICE ", and the CPU shows neither VT-x nor AMD-V",
           "turn on virtualization in the firmware's setup; " TRANSLATE);
}

static void cannot_open(int number, struct engine_probe *out)
{
    char why[200];
    switch (number) {
    case ENOENT: absent(out); break;
    case EACCES:
        no(out, "you have no permission to open " DEVICE,
           "join its group: sudo usermod -aG kvm \"$USER\", then log in again");
        break;
    case EPERM:
        no(out, "this container may not open " DEVICE,
           "start the container with --device " DEVICE "; " TRANSLATE);
        break;
    case ENODEV:
    case ENXIO:
        no(out, DEVICE " is there, but nothing is behind it",
           "load the kernel's module: sudo modprobe kvm-intel (or kvm-amd); dmesg says why it "
           "failed");
        break;
    default:
        snprintf(why, sizeof why, "cannot open " DEVICE ": %s", strerror(number));
        no(out, why, TRANSLATE);
    }
}

static bool version_fits(int fd, struct engine_probe *out)
{
    char why[200];
    int version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        snprintf(why, sizeof why, DEVICE " speaks version %d of KVM's interface, Berth speaks %d",
                 version, KVM_API_VERSION);
        no(out, why, "use a kernel of 2007 or later; " TRANSLATE);
        return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
        if (ioctl(fd, KVM_CHECK_EXTENSION, needed[i].capability) > 0)
            continue;
        snprintf(why, sizeof why, "this kernel's KVM lacks %s", needed[i].name);
        char fix[100];
        snprintf(fix, sizeof fix, "use Linux %s or later; " TRANSLATE, needed[i].since);
        no(out, why, fix);
        return false;
    }
    return true;
}

// Only making a VM shows whether the CPU's virtualization is free; ending it may take milliseconds.
static void try_vm(int fd, struct engine_probe *out)
{
    struct error e = {0};
    int vm = ioctl(fd, KVM_CREATE_VM, 0);
    if (vm >= 0) {
        close(vm);
        return;
    }
    (void)!kvm_failed(&e, errno, "make a VM");
    no(out, e.text, "");
}

void kvm_probe(uint32_t debug, bool thorough, struct engine_probe *out)
{
    *out = (struct engine_probe){.usable = true};
    int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        cannot_open(errno, out);
        return;
    }
    if (!version_fits(fd, out)) {
        close(fd);
        return;
    }
    // Some clouds offer a KVM without the CPU's help for specially built guests.
    if (!cpu_virtualizes() && !(debug & ENGINE_DEBUG_ANY_KVM))
        no(out,
           DEVICE " opens, but the CPU shows neither VT-x nor AMD-V: this KVM hangs with ordinary "
                  "guests",
           "turn on nested virtualization where this machine runs; " TRANSLATE);
    else if (thorough)
        try_vm(fd, out);
    close(fd);
}

int kvm_open(struct error *e)
{
    struct engine_probe probe = {.usable = true};
    int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        cannot_open(errno, &probe);
    else if (version_fits(fd, &probe))
        return fd;
    if (fd >= 0)
        close(fd);
    (void)!error_set(e, ERR_UNSUPPORTED, "%s; %s", probe.why, probe.fix);
    return -1;
}
