// Control groups. Source: Linux Documentation/admin-guide/cgroup-v2.rst: delegation, cpu.weight,
// cpu.max, memory.min, memory.high, and that a group has either processes or controllers for its
// children. Not modelled: version 1, threaded groups, memory.max, which would kill a VM whose guest
// does not listen to its balloon rather than slow it down.
#include "manager/groups.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"

#define WEIGHT_MAX 10000
#define PERIOD_US 100000
#define LEAF "berthd"
#define CONTROL ".control" // where systemd runs ExecStopPost= of a unit with Delegate=

static const char *const controllers[] = {"memory", "cpu"};

struct groups {
    int dir;     // the manager's own part of the tree
    bool memory; // it has that controller, too
};

static bool write_file(int dir, const char *path, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static bool write_file(int dir, const char *path, const char *fmt, ...)
{
    char text[64];
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool good = write(fd, text, (size_t)len) == len;
    close(fd);
    return good;
}

static bool has_word(int dir, const char *path, const char *word)
{
    char text[256] = " ", *end;
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t len = read(fd, text + 1, sizeof text - 3);
    close(fd);
    end = text + 1 + (len > 0 ? len : 0);
    for (char *p = text; p < end; p++)
        *p = *p == '\n' ? ' ' : *p;
    memcpy(end, " ", 2);
    char wanted[32];
    snprintf(wanted, sizeof wanted, " %s ", word);
    return strstr(text, wanted) != NULL;
}

// The group that this process is in, as the line "0::/path" has it.
static bool own_group(char path[512])
{
    FILE *f = fopen("/proc/self/cgroup", "re");
    bool found = false;
    char line[512];
    while (f && !found && fgets(line, sizeof line, f))
        found = sscanf(line, "0::%511[^\n]", path) == 1;
    if (f)
        fclose(f);
    return found;
}

static int open_own(const char *root)
{
    static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    char group[512], path[640];
    if (root)
        return open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!own_group(group))
        return -1;
    char *last = strrchr(group, '/'); // the leaf: started by an earlier manager's
    if (last && last > group && (!strcmp(last + 1, LEAF) || !strcmp(last + 1, CONTROL)))
        *last = '\0';
    for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
        snprintf(path, sizeof path, "%s%s", mounts[i], group);
        int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir >= 0 && has_word(dir, "cgroup.controllers", "cpu"))
            return dir;
        if (dir >= 0)
            close(dir);
    }
    return -1;
}

// The manager goes into a leaf of its own, since a group that divides has no processes itself.
// Where others are in the same group, as in a terminal's session, the kernel says no.
static bool take_over(int dir)
{
    if (!has_word(dir, "cgroup.controllers", "cpu"))
        return false;
    if (has_word(dir, "cgroup.subtree_control", "cpu"))
        return faccessat(dir, "cgroup.procs", W_OK, 0) == 0;
    if (mkdirat(dir, LEAF, 0755) < 0 && errno != EEXIST)
        return false;
    if (write_file(dir, LEAF "/cgroup.procs", "%d", (int)getpid()) &&
        write_file(dir, "cgroup.subtree_control", "+cpu"))
        return true;
    write_file(dir, "cgroup.procs", "%d", (int)getpid());
    unlinkat(dir, LEAF, AT_REMOVEDIR);
    return false;
}

bool groups_undivide(const char *root)
{
    int dir = open_own(root);
    if (dir < 0)
        return false;
    bool good = true;
    for (size_t i = 0; i < ARRAY_LEN(controllers); i++)
        good &= !has_word(dir, "cgroup.subtree_control", controllers[i]) ||
                write_file(dir, "cgroup.subtree_control", "-%s", controllers[i]);
    close(dir);
    return good;
}

bool groups_open(const char *root, struct groups **out)
{
    struct groups *groups = calloc(1, sizeof *groups);
    *out = NULL;
    if (!groups)
        return false;
    groups->dir = open_own(root);
    if (groups->dir < 0 || !take_over(groups->dir)) {
        if (groups->dir >= 0)
            close(groups->dir);
        free(groups);
        return false;
    }
    if (has_word(groups->dir, "cgroup.controllers", "memory"))
        groups->memory = has_word(groups->dir, "cgroup.subtree_control", "memory") ||
                         write_file(groups->dir, "cgroup.subtree_control", "+memory");
    *out = groups;
    return true;
}

void groups_close(struct groups *groups)
{
    if (!groups)
        return;
    close(groups->dir);
    free(groups);
}

bool groups_join(struct groups *groups, const char *name, pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "vm-%.40s", name);
    if (mkdirat(groups->dir, path, 0755) < 0 && errno != EEXIST)
        return false;
    snprintf(path, sizeof path, "vm-%.40s/cgroup.procs", name);
    if (write_file(groups->dir, path, "%d", (int)pid))
        return true;
    groups_leave(groups, name);
    return false;
}

void groups_weigh(struct groups *groups, const char *name, uint64_t weight, uint64_t limit)
{
    char path[64];
    snprintf(path, sizeof path, "vm-%.40s/cpu.weight", name);
    write_file(groups->dir, path, "%" PRIu64, min_u64(max_u64(weight, 1), WEIGHT_MAX));
    snprintf(path, sizeof path, "vm-%.40s/cpu.max", name);
    if (limit)
        write_file(groups->dir, path, "%" PRIu64 " %d", limit * (PERIOD_US / 1000), PERIOD_US);
    else
        write_file(groups->dir, path, "max %d", PERIOD_US);
}

static void write_bytes(struct groups *groups, const char *name, const char *file, uint64_t bytes)
{
    char path[80];
    snprintf(path, sizeof path, "vm-%.40s/memory.%s", name, file);
    write_file(groups->dir, path, "%" PRIu64, bytes);
}

void groups_remember(struct groups *groups, const char *name, uint64_t least, uint64_t most)
{
    char path[80];
    if (!groups->memory)
        return;
    write_bytes(groups, name, "min", least);
    if (most) {
        write_bytes(groups, name, "high", most);
        return;
    }
    snprintf(path, sizeof path, "vm-%.40s/memory.high", name);
    write_file(groups->dir, path, "max");
}

void groups_leave(struct groups *groups, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "vm-%.40s", name);
    unlinkat(groups->dir, path, AT_REMOVEDIR);
}
