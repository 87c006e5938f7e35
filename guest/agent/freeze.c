// Quiet file systems, for a snapshot of their disks: FIFREEZE on all that lie on disks and can be
// written, the innermost mount first. Should nobody thaw them they thaw themselves, since a guest
// whose root is frozen soon stands still. ioctl_fsfreeze, proc(5).
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent.h"

#define MOUNTS_MAX 64
#define SECONDS_MAX 600
#define SECONDS 30 // where nothing else is said

struct mounts {
    int fd[MOUNTS_MAX]; // opened before anything is frozen
    unsigned count;
};

static bool on_disk(const struct mntent *m)
{
    return !strncmp(m->mnt_fsname, "/dev/", 5) && hasmntopt(m, "rw");
}

static void open_mounts(struct mounts *out)
{
    FILE *f = setmntent("/proc/mounts", "re");
    struct mntent *m;
    out->count = 0;
    while (f && out->count < MOUNTS_MAX && (m = getmntent(f))) {
        int fd = on_disk(m) ? open(m->mnt_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        if (fd >= 0)
            out->fd[out->count++] = fd;
    }
    if (f)
        endmntent(f);
}

static unsigned thaw(const struct mounts *mounts)
{
    unsigned n = 0;
    for (unsigned i = 0; i < mounts->count; i++)
        n += ioctl(mounts->fd[i], FITHAW, 0) == 0;
    return n;
}

// All or none. *frozen: how many; a file system that is mounted twice, or that cannot be frozen as
// it has no journal to bring in order, does not count.
static err_t freeze(const struct mounts *mounts, unsigned *frozen, struct error *e)
{
    sync();
    for (unsigned i = mounts->count; i-- > 0;) {
        if (ioctl(mounts->fd[i], FIFREEZE, 0) == 0) {
            ++*frozen;
        } else if (errno != EOPNOTSUPP && errno != EBUSY && errno != EINVAL && errno != ENOTTY) {
            int number = errno;
            thaw(mounts);
            return error_set(e, ERR_IO, "a file system of the guest cannot be frozen: %s",
                             strerror(number));
        }
    }
    return OK;
}

// The child that froze stays until its time is up or somebody thaws.
static void hold(const struct mounts *mounts, struct shared *shared, unsigned seconds)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    const struct timespec wait = {.tv_sec = seconds};
    if (sigtimedwait(&set, NULL, &wait) == SIGTERM)
        return; // whoever thaws does it
    thaw(mounts);
    shared->thawed = true;
    shared->freezer = 0;
}

static void block_signal(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

err_t request_freeze(struct agent_link *link, struct shared *shared, struct error *e)
{
    struct agent_fields out = {0};
    struct mounts mounts;
    unsigned frozen = 0;
    unsigned seconds = (unsigned)agent_number(link, "seconds", SECONDS_MAX, SECONDS);
    if (shared->freezer)
        return error_set(e, ERR_BUSY, "the guest's file systems are frozen already");
    open_mounts(&mounts);
    block_signal();
    shared->thawed = false;
    shared->freezer = getpid();
    err_t err = freeze(&mounts, &frozen, e);
    agent_add(&out, "filesystems", "%u", frozen);
    agent_add(&out, "seconds", "%u", seconds);
    if (!err)
        err = agent_send_fields(link, AGENT_OK, &out, e);
    if (err) {
        thaw(&mounts);
        shared->freezer = 0;
        return err;
    }
    hold(&mounts, shared, seconds);
    return OK;
}

err_t request_thaw(struct agent_link *link, struct shared *shared, struct error *e)
{
    struct agent_fields out = {0};
    struct mounts mounts;
    pid_t freezer = shared->freezer;
    bool late = shared->thawed;
    shared->thawed = false;
    if (late)
        return error_set(e, ERR_INVALID,
                         "the guest thawed its file systems itself when the time was up: what was "
                         "done meanwhile may have caught them changing");
    if (!freezer)
        return error_set(e, ERR_INVALID, "the guest's file systems are not frozen");
    open_mounts(&mounts);
    unsigned n = thaw(&mounts);
    shared->freezer = 0;
    kill(freezer, SIGTERM);
    agent_add(&out, "filesystems", "%u", n);
    return agent_send_fields(link, AGENT_OK, &out, e);
}
