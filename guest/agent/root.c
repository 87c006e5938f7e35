// Which root directory is meant. An agent that was started from the initial RAM disk keeps that as
// its root after init has moved on to the real one, so every session goes where process 1 is. The
// process file system that tells where is a mount of the agent's own: there may be none at /proc
// yet, and the initial RAM disk's is moved away.
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

#define FSCONFIG_CREATE 6 // linux/mount.h, which does not go together with sys/mount.h

static int proc = -1;

void root_init(void)
{
    int context = (int)syscall(SYS_fsopen, "proc", 1 /* FSOPEN_CLOEXEC */);
    if (context >= 0 && syscall(SYS_fsconfig, context, FSCONFIG_CREATE, NULL, NULL, 0) == 0)
        proc = (int)syscall(SYS_fsmount, context, 1 /* FSMOUNT_CLOEXEC */, 0);
    if (context >= 0)
        close(context);
    if (proc < 0) // before Linux 5.2
        proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

void root_follow(void)
{
    int root = proc < 0 ? -1 : openat(proc, "1/root", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root >= 0 && fchdir(root) == 0 && chroot(".") == 0)
        (void)!chdir("/");
    if (root >= 0)
        close(root);
}
