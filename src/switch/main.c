// berth-switch: one process, one virtual network. Started with the network's definition and a
// listening socket for requests (docs/control.md) on inherited descriptors:
//
//     berth-switch --definition FD --control FD [--lock FD]
//
// and with the lock on the network's name (control/registry.h), which it holds until its end.
// It outlives who started it, and ends by request, by signal, or when it has been idle for as long
// as the definition says.
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "host/file.h"
#include "host/sandbox.h"
#include "switch/switch.h"

#define DEFINITION_MAX (64 * KIB)

enum { STATUS_USAGE = 2, STATUS_HOST = 3 };

static void log_to_stderr(enum log_level level, const char *line)
{
    fprintf(stderr, "berth-switch: %s\n", line);
}

static err_t read_definition(struct vswitch *sw, int fd, struct error *e)
{
    struct host_file file = {0};
    err_t err = host_file_read_fd(fd, "definition", DEFINITION_MAX, &file, e);
    close(fd);
    if (!err)
        err = network_load(&sw->network, (const char *)file.data, file.len, e);
    host_file_release(&file);
    return err;
}

static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return done;
}

// A network without a way out needs no sight of the host's network either. A user's namespace of
// its own is what makes that possible without privilege; where it may not be made, the system-call
// filter has to do. The user stays who it is, since peers of the control socket are compared.
static void leave_hosts_network(void)
{
    char map[64];
    uid_t user = geteuid();
    gid_t group = getegid();
    if (user == 0) {
        (void)!unshare(CLONE_NEWNET);
        return;
    }
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
        return;
    snprintf(map, sizeof map, "%u %u 1", user, user);
    bool done = write_file("/proc/self/uid_map", map) && write_file("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "%u %u 1", group, group);
    if (!done || !write_file("/proc/self/gid_map", map)) {
        fprintf(stderr, "berth-switch: a user namespace that cannot be set up\n");
        exit(STATUS_HOST);
    }
}

// Every connection through the gateway takes a descriptor.
static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max < 65536 ? limit.rlim_max : 65536;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static err_t prepare(struct vswitch *sw, int definition, int lock, struct error *e)
{
    const int keep[] = {definition, sw->control_fd, lock};
    err_t err = sandbox_shed(keep, ARRAY_LEN(keep), e);
    log_to(log_to_stderr, LOG_WARN);
    raise_descriptors();
    if (!err)
        err = read_definition(sw, definition, e);
    if (err)
        return err;
    if (sw->network.kind == NETWORK_PRIVATE)
        leave_hosts_network();
    err = loop_new(&sw->loop, e);
    return err ? err : switch_start(sw, e);
}

static int run(int definition, int control, int lock)
{
    struct vswitch *sw = calloc(1, sizeof *sw);
    struct error e = {0};
    if (!sw)
        return STATUS_HOST;
    sw->control_fd = control;
    err_t err = prepare(sw, definition, lock, &e);
    if (err) {
        fprintf(stderr, "berth-switch: %s\n", e.text);
    } else {
        bool outside = sw->network.kind != NETWORK_PRIVATE;
        sandbox_confine(outside ? HOST_THREAD_NAT : HOST_THREAD_SWITCH);
        loop_run(sw->loop);
    }
    switch_release(sw);
    free(sw);
    return !err ? 0 : err == ERR_INVALID ? STATUS_USAGE : STATUS_HOST;
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"--definition", "--control", "--lock"};
    int fd[ARRAY_LEN(names)] = {-1, -1, -1};
    bool right = argc == 5 || argc == 7;
    for (int i = 0; right && 2 * i + 2 < argc; i++) {
        right = !strcmp(argv[2 * i + 1], names[i]);
        fd[i] = atoi(argv[2 * i + 2]);
    }
    if (right)
        return run(fd[0], fd[1], fd[2]);
    fprintf(stderr, "berth-switch %s is started by berth; try berth net --help\n", BERTH_VERSION);
    return STATUS_USAGE;
}
