// A /dev/kvm that is not there, not allowed, old or busy: preloaded into berth to see what it then
// says. FAKE_KVM in the environment says which; FAKE_KVM_GROUP is the number of the device's group.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#undef open
#undef stat

#define DEVICE "/dev/kvm"

static int fake_fd = -1;

static bool fake(const char *which)
{
    const char *is = getenv("FAKE_KVM");
    return is && strcmp(is, which) == 0;
}

static int refuse(int number)
{
    errno = number;
    return -1;
}

static int open_device(void)
{
    if (fake("absent") || fake("container"))
        return refuse(ENOENT);
    if (fake("denied"))
        return refuse(EACCES);
    if (fake("nothing"))
        return refuse(ENODEV);
    int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    fake_fd = next("/dev/null", O_RDWR | O_CLOEXEC);
    return fake_fd;
}

int open64(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = va_arg(ap, mode_t);
    va_end(ap);
    int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    return strcmp(path, DEVICE) == 0 ? open_device() : next(path, flags, mode);
}

int access(const char *path, int mode)
{
    int (*next)(const char *, int) = dlsym(RTLD_NEXT, "access");
    if (strcmp(path, "/.dockerenv") == 0 || strcmp(path, "/run/.containerenv") == 0 ||
        strcmp(path, "/run/systemd/container") == 0)
        return fake("container") ? 0 : refuse(ENOENT);
    return next(path, mode);
}

int stat64(const char *path, struct stat64 *out)
{
    int (*next)(const char *, struct stat64 *) = dlsym(RTLD_NEXT, "stat64");
    if (strcmp(path, DEVICE) != 0)
        return next(path, out);
    int result = next("/dev/null", out);
    const char *group = getenv("FAKE_KVM_GROUP");
    out->st_gid = group ? (gid_t)atoi(group) : 0;
    return result;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    va_start(ap, request);
    void *argument = va_arg(ap, void *);
    va_end(ap);
    int (*next)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
    if (fd < 0 || fd != fake_fd)
        return next(fd, request, argument);
    if (request == KVM_GET_API_VERSION)
        return fake("version") ? 11 : KVM_API_VERSION;
    if (request == KVM_CHECK_EXTENSION)
        return !(fake("lacks") && argument == (void *)KVM_CAP_SREGS2);
    return refuse(request == KVM_CREATE_VM && fake("busy") ? EBUSY : EIO);
}
