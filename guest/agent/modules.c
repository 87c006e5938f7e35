// The kernel's virtio socket driver, where it is a module: those that were put beside the agent in
// the initial RAM disk, else whatever modprobe finds in the guest. init_module(2).
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

// In the order in which they need each other.
static const char *const names[] = {"virtio",
                                    "virtio_ring",
                                    "virtio_pci_modern_dev",
                                    "virtio_pci_legacy_dev",
                                    "virtio_pci",
                                    "vsock",
                                    "vmw_vsock_virtio_transport_common",
                                    "vmw_vsock_virtio_transport"};

static bool load(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "/berth-modules/%s.ko", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    (void)!syscall(SYS_finit_module, fd, "", 0); // it may be there already
    close(fd);
    return true;
}

static void ask_modprobe(void)
{
    pid_t child = fork();
    if (child == 0) {
        root_follow();
        int none = open("/dev/null", O_RDWR);
        for (int fd = 0; none >= 0 && fd <= 2; fd++)
            dup2(none, fd);
        execl("/sbin/modprobe", "modprobe", "-q", names[ARRAY_LEN(names) - 1], NULL);
        execl("/bin/modprobe", "modprobe", "-q", names[ARRAY_LEN(names) - 1], NULL);
        _exit(127);
    }
    if (child > 0)
        waitpid(child, NULL, 0);
}

void modules_load(void)
{
    bool any = false;
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        any |= load(names[i]);
    if (!any)
        ask_modprobe();
}
