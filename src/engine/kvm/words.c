// Failures of KVM in words. Sources: Linux Documentation/virt/kvm/api.rst; errno(3).
#include <errno.h>
#include <string.h>

#include "engine/kvm/kvm_impl.h"

static const struct {
    int number;
    const char *advice;
} advices[] = {
    {ENOMEM, "the host is out of memory: free some, or give the guest less"},
    {EBUSY,
     "another hypervisor (VirtualBox, VMware, Xen) holds the CPU's virtualization: stop it, or "
     "use --engine translate"},
    {EACCES, "this process may not use /dev/kvm: add yourself to the group kvm and log in again"},
    {EPERM, "this process may not use /dev/kvm: add yourself to the group kvm and log in again"},
    {EMFILE, "too many files are open: raise the limit with ulimit -n"},
    {ENFILE, "the host has too many open files: raise fs.file-max"},
    {ENOSPC, "KVM has no room for more: give the guest fewer devices or disks"},
    {EINVAL, "this kernel's KVM does not take it: a newer kernel may, or use --engine translate"},
    {ENOTTY, "this kernel's KVM does not know it: a newer kernel does, or use --engine translate"},
    {EIO, "KVM has given the VM up after an error of its own: dmesg says more"},
    {EFAULT, "memory of the guest cannot be read on the host: dmesg says more"},
};

err_t kvm_failed(struct error *e, int number, const char *what)
{
    const char *advice = "dmesg may say more; --engine translate does without KVM";
    for (size_t i = 0; i < ARRAY_LEN(advices); i++)
        if (advices[i].number == number)
            advice = advices[i].advice;
    return error_set(e, err_from_errno(number), "KVM cannot %s: %s; %s", what, strerror(number),
                     advice);
}

void kvm_log_failed(const char *what)
{
    struct error e = {0};
    (void)!kvm_failed(&e, errno, what);
    log_line(LOG_ERROR, "%s", e.text);
}
