// Names of running VMs and networks as directories. flock(2), unix(7), openat(2), proc(5).
//
// Every path is walked by descriptors, one component at a time and never through a symbolic link,
// and the directories must be the user's own and closed to others: /tmp belongs to everybody.
// Sockets are reached as /proc/self/fd/N/control.sock, since a socket's path is short.
#include "control/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "machine/config.h"

#define LOCK "lock"
#define TRIES 10
#define BACKLOG 64
#define CONNECT_SECONDS 2 // for one that has too many callers to take another

static const struct {
    const char *folder, *noun, *advice;
} kinds[REGISTRY_KINDS] = {
    [REGISTRY_VM] = {"vm", "VM", "give this one another name with -n, or see berth info"},
    [REGISTRY_NETWORK] = {"net", "network", "see berth net info"},
    [REGISTRY_MANAGER] = {"manager", "manager", "berth daemon stop ends"},
};

static void shut(int fd)
{
    if (fd >= 0)
        close(fd);
}

static err_t failed(const char *what, const char *path, struct error *e)
{
    return error_set(e, err_from_errno(errno),
                     "cannot %s '%s': %s; set XDG_RUNTIME_DIR to a directory of yours", what, path,
                     strerror(errno));
}

// --- the directory of all of a kind

static bool own_directory(const char *path)
{
    struct stat st;
    return path && path[0] == '/' && stat(path, &st) == 0 && S_ISDIR(st.st_mode) &&
           st.st_uid == geteuid();
}

static void root_path(char *path, size_t size)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (own_directory(runtime) && strlen(runtime) < size - 16)
        snprintf(path, size, "%s/berth", runtime);
    else
        snprintf(path, size, "/tmp/berth-%u", geteuid());
}

// path counts from the directory at. Makes it when it is not there.
static err_t open_private(int at, const char *path, int *out, struct error *e)
{
    if (mkdirat(at, path, 0700) < 0 && errno != EEXIST)
        return failed("make", path, e);
    int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return failed("open", path, e);
    struct stat st;
    if (fstat(fd, &st) < 0 || st.st_uid != geteuid() || st.st_mode & 077) {
        close(fd);
        return error_set(e, ERR_DENIED,
                         "'%s' is not yours alone; remove it, or set XDG_RUNTIME_DIR to a "
                         "directory of yours",
                         path);
    }
    *out = fd;
    return OK;
}

static err_t open_all(enum registry_kind kind, int *out, struct error *e)
{
    char path[4096];
    root_path(path, sizeof path);
    int root = -1;
    err_t err = open_private(AT_FDCWD, path, &root, e);
    if (!err)
        err = open_private(root, kinds[kind].folder, out, e);
    shut(root);
    return err;
}

// --- claims

static err_t check_name(enum registry_kind kind, const char *name, struct error *e)
{
    if (vm_name_valid(name))
        return OK;
    return error_set(e, ERR_INVALID, "'%.64s' is no name of a %s; " VM_NAME_RULE, name,
                     kinds[kind].noun);
}

static void release(struct registry_claim *claim)
{
    shut(claim->lock);
    shut(claim->dir);
    shut(claim->all);
    *claim = REGISTRY_NO_CLAIM;
}

// Takes the lock in a directory that is open. ERR_NOT_FOUND: the directory was removed
// meanwhile.
static err_t lock_directory(struct registry_claim *claim)
{
    claim->lock = openat(claim->dir, LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (claim->lock < 0)
        return err_from_errno(errno);
    struct stat st;
    if (flock(claim->lock, LOCK_EX | LOCK_NB) < 0)
        return ERR_BUSY;
    return fstat(claim->lock, &st) == 0 && st.st_nlink ? OK : ERR_NOT_FOUND;
}

static err_t claim_once(enum registry_kind kind, const char *name, struct registry_claim *out,
                        struct error *e)
{
    *out = REGISTRY_NO_CLAIM;
    out->kind = kind;
    snprintf(out->name, sizeof out->name, "%s", name);
    err_t err = open_all(kind, &out->all, e);
    if (!err)
        err = open_private(out->all, name, &out->dir, e);
    if (!err && (err = lock_directory(out)))
        (void)!error_set(e, err, "cannot claim the name '%s'; try another one with -n", name);
    if (err)
        release(out);
    return err;
}

err_t registry_claim(enum registry_kind kind, const char *name, struct registry_claim *out,
                     struct error *e)
{
    *out = REGISTRY_NO_CLAIM;
    err_t err = check_name(kind, name, e);
    if (err)
        return err;
    for (int i = 0; i < TRIES && (i == 0 || err == ERR_NOT_FOUND || err == ERR_BUSY); i++) {
        if (err == ERR_BUSY) // perhaps by who looks for an instant whether it runs
            nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
        err = claim_once(kind, name, out, e);
    }
    if (err == ERR_BUSY)
        return error_set(e, err, "a %s called '%s' is running already; %s %s", kinds[kind].noun,
                         name, kinds[kind].advice, name);
    return err;
}

err_t registry_file(const struct registry_claim *claim, const char *name, char *path, size_t size,
                    struct error *e)
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", claim->dir);
    ssize_t len = readlink(link, path, size);
    if (len < 0 || (size_t)len + strlen(name) + 2 > size)
        return error_set(e, ERR_IO, "cannot find the directory of '%s'", claim->name);
    snprintf(path + len, size - (size_t)len, "/%s", name);
    return OK;
}

// In this order: whoever finds the lock's file gone starts over.
void registry_release(struct registry_claim *claim)
{
    if (claim->lock >= 0) {
        unlinkat(claim->dir, REGISTRY_CONTROL, 0);
        unlinkat(claim->dir, REGISTRY_CONSOLE, 0);
        unlinkat(claim->dir, REGISTRY_HTTP, 0);
        unlinkat(claim->dir, REGISTRY_SEED, 0);
        unlinkat(claim->dir, REGISTRY_INITRD, 0);
        unlinkat(claim->dir, REGISTRY_LOG, 0);
        unlinkat(claim->dir, LOCK, 0);
        unlinkat(claim->all, claim->name, AT_REMOVEDIR);
    }
    release(claim);
}

void registry_hand_over(struct registry_claim *claim)
{
    release(claim);
}

// --- sockets

static void address(int dir, const char *socket, struct sockaddr_un *out)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(out->sun_path, sizeof out->sun_path, "/proc/self/fd/%d/%s", dir, socket);
}

err_t registry_listen(const struct registry_claim *claim, const char *name, int *fd,
                      struct error *e)
{
    struct sockaddr_un at;
    address(claim->dir, name, &at);
    unlinkat(claim->dir, name, 0);
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s >= 0 && bind(s, (struct sockaddr *)&at, sizeof at) == 0 && listen(s, BACKLOG) == 0) {
        *fd = s;
        return OK;
    }
    err_t err = failed("make a socket of", claim->name, e);
    shut(s);
    return err;
}

static err_t no_such(enum registry_kind kind, const char *name, struct error *e)
{
    if (kind == REGISTRY_MANAGER)
        return error_set(e, ERR_NOT_FOUND, "berthd is not running; berth daemon start starts it");
    return error_set(e, ERR_NOT_FOUND,
                     "no %s called '%s' is running; berth %s shows those that are",
                     kinds[kind].noun, name, kind == REGISTRY_VM ? "ls" : "net ls");
}

static err_t connect_to(enum registry_kind kind, const char *name, const char *file, int *fd,
                        struct error *e)
{
    int all = -1;
    err_t err = check_name(kind, name, e);
    if (!err)
        err = open_all(kind, &all, e);
    if (err)
        return err;
    int dir = openat(all, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    close(all);
    if (dir < 0)
        return no_such(kind, name, e);
    struct sockaddr_un at;
    address(dir, file, &at);
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct timeval patience = {.tv_sec = CONNECT_SECONDS}, ever = {0};
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (s < 0 || connect(s, (struct sockaddr *)&at, sizeof at) < 0) {
        bool gone = errno == ECONNREFUSED || errno == ENOENT;
        err = gone ? no_such(kind, name, e)
                   : error_set(e, err_from_errno(errno), "cannot reach the %s '%s': %s",
                               kinds[kind].noun, name, strerror(errno));
        shut(s);
        s = -1;
    } else {
        setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &ever, sizeof ever);
    }
    close(dir);
    *fd = s;
    return err;
}

err_t registry_connect(enum registry_kind kind, const char *name, int *fd, struct error *e)
{
    return connect_to(kind, name, REGISTRY_CONTROL, fd, e);
}

err_t registry_attach(const char *name, int *fd, struct error *e)
{
    err_t err = connect_to(REGISTRY_VM, name, REGISTRY_CONSOLE, fd, e);
    if (err != ERR_NOT_FOUND || connect_to(REGISTRY_VM, name, REGISTRY_CONTROL, fd, NULL))
        return err;
    close(*fd);
    *fd = -1;
    return error_set(e, err,
                     "the console of '%s' is not shared; start it with --serial shared, or by the "
                     "manager",
                     name);
}

// --- all of them

// What a killed program left is removed on the way.
static bool alive(enum registry_kind kind, const char *name)
{
    struct registry_claim claim;
    err_t err = claim_once(kind, name, &claim, NULL);
    registry_release(&claim);
    return err == ERR_BUSY;
}

static int only_names(const struct dirent *entry)
{
    return vm_name_valid(entry->d_name);
}

err_t registry_each(enum registry_kind kind, void (*found)(void *opaque, const char *name),
                    void *opaque, struct error *e)
{
    int all = -1;
    err_t err = open_all(kind, &all, e);
    if (err)
        return err;
    struct dirent **entry = NULL;
    int count = scandirat(all, ".", &entry, only_names, alphasort);
    close(all);
    if (count < 0)
        return error_set(e, ERR_IO, "cannot list the running %ss: %s", kinds[kind].noun,
                         strerror(errno));
    for (int i = 0; i < count; i++) {
        if (alive(kind, entry[i]->d_name))
            found(opaque, entry[i]->d_name);
        free(entry[i]);
    }
    free(entry);
    return OK;
}
