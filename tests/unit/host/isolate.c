// Namespaces of a VM's process, each case in a child that has them: what it cannot see or reach of
// the host, and of other VMs, even without any filter of system calls.
#include "host/isolate.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

// What the child looks for; it shares our memory.
struct target {
    int (*look)(const struct target *target); // 0: as it should be
    pid_t pid;                                // ours
    char file[64];                            // ours, and open to all
    struct sockaddr_un local;                 // of a socket that listens, in no folder
    socklen_t local_len;
    struct sockaddr_in internet; // of one on the loopback
};

static int child(void *opaque)
{
    const struct target *target = opaque;
    _exit(target->look(target));
}

static int listening(const void *address, socklen_t len)
{
    int fd = socket(((const struct sockaddr *)address)->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fd >= 0 && bind(fd, address, len) == 0 && listen(fd, 1) == 0 ? fd : -1;
}

// True when the child's look gave 0, and also where the host has no namespaces.
static bool isolated(int (*look)(const struct target *target))
{
    struct target t = {.look = look, .pid = getpid()};
    t.local.sun_family = AF_UNIX;
    t.local_len = (socklen_t)offsetof(struct sockaddr_un, sun_path) +
                  (socklen_t)snprintf(t.local.sun_path + 1, 32, "berth-isolate-%d", getpid()) + 1;
    t.internet =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    snprintf(t.file, sizeof t.file, "/tmp/berth-isolate-%d", getpid());
    int file = open(t.file, O_CREAT | O_RDWR | O_CLOEXEC, 0644);
    int local = listening(&t.local, t.local_len);
    int internet = listening(&t.internet, sizeof t.internet);
    socklen_t len = sizeof t.internet;
    getsockname(internet, (struct sockaddr *)&t.internet, &len);
    const struct isolate_options options = {.run = child, .opaque = &t};
    int refusal, status = -1;
    pid_t pid = isolate_start(&options, &refusal);
    waitpid(pid, &status, 0);
    unlink(t.file);
    close(file);
    close(local);
    close(internet);
    return pid > 0 && (refusal || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

static int no_process(const struct target *t)
{
    char byte;
    const struct iovec here = {&byte, 1}, there = {(void *)t, 1};
    if (getpid() != 1 || kill(t->pid, 0) == 0 || errno != ESRCH)
        return 1;
    return process_vm_readv(t->pid, &here, 1, &there, 1, 0) < 0 && errno == ESRCH ? 0 : 2;
}

static void sees_no_process_of_the_host_and_none_of_its_memory(void)
{
    CHECK(isolated(no_process));
}

static bool refused(const void *address, socklen_t len)
{
    int fd = socket(((const struct sockaddr *)address)->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool done = connect(fd, address, len) < 0;
    close(fd);
    return done;
}

static int no_socket(const struct target *t)
{
    return !refused(&t->local, t->local_len) + 2 * !refused(&t->internet, sizeof t->internet);
}

static void reaches_no_socket_of_the_host(void)
{
    CHECK(isolated(no_socket));
}

static int no_file(const struct target *t)
{
    int before = open(t->file, O_RDONLY | O_CLOEXEC);
    int root = isolate_prepare();
    if (before < 0 || root < 0 || isolate_empty_root(root, NULL))
        return 1;
    if (open(t->file, O_RDONLY) >= 0 || errno != ENOENT)
        return 2;
    return open("/../..", O_RDWR | O_TMPFILE, 0600) >= 0 || access("/proc", F_OK) == 0 ||
                   access("/../../proc", F_OK) == 0
               ? 3
               : 0;
}

static void opens_files_until_its_root_is_emptied(void)
{
    CHECK(isolated(no_file));
}

static int no_right(const struct target *t)
{
    isolate_drop_capabilities(0);
    return chroot("/tmp") == 0 || errno != EPERM || isolate_prepare() >= 0;
}

static void has_no_right_once_capabilities_are_dropped(void)
{
    CHECK(isolated(no_right));
}

static int own_number(const struct target *t)
{
    return isolate_host_pid() == getpid() || isolate_host_pid() == t->pid;
}

static void knows_its_number_on_the_host(void)
{
    CHECK(isolated(own_number));
    CHECK(isolate_host_pid() == getpid());
}

static int nothing(void *opaque)
{
    _exit(7);
}

static void a_child_may_share_the_hosts_processes(void)
{
    const struct isolate_options options = {.run = nothing, .same_pids = true};
    int refusal, status = -1;
    pid_t pid = isolate_start(&options, &refusal);
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

TEST_MAIN(TEST(sees_no_process_of_the_host_and_none_of_its_memory),
          TEST(reaches_no_socket_of_the_host), TEST(opens_files_until_its_root_is_emptied),
          TEST(has_no_right_once_capabilities_are_dropped), TEST(knows_its_number_on_the_host),
          TEST(a_child_may_share_the_hosts_processes))
