// berth-agent: the guest's side of berth exec, shell, cp, stop and info. A static program that
// listens on a virtio socket, so that it needs no network. Protocol: docs/formats/agent.md.
//
// Started as process 1 (rdinit=/berth-agent) it forks, and becomes the real init: what BERTH_INIT
// on the kernel's command line names, or /init.
#include <errno.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define SESSIONS_MAX 64
#define RETRY_MS 100 // first; then ever less often, until there is a driver and a host that listens
#define RETRY_MAX_MS 2000

// --- as process 1

// True in the process that is to serve.
static bool stay(char **argv)
{
    if (getpid() != 1)
        return true;
    if (fork() == 0)
        return setsid() >= 0;
    const char *init = getenv("BERTH_INIT");
    argv[0] = init ? (char *)init : "/init";
    execv(argv[0], argv);
    execv("/sbin/init", argv);
    perror("berth-agent: there is no init to start");
    return false;
}

// --- sockets

static int vsock_socket(uint32_t port, bool block)
{
    struct sockaddr_vm here = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | (block ? 0 : SOCK_NONBLOCK), 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&here, sizeof here) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

// -1: the kernel has no sockets of this kind yet.
static int open_listener(void)
{
    int fd = vsock_socket(AGENT_PORT, false);
    if (fd >= 0 && listen(fd, SESSIONS_MAX) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

// The connection whose being there says that the agent is ready.
static int tell_host(void)
{
    struct sockaddr_vm host = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = AGENT_PORT};
    int fd = vsock_socket(AGENT_READY_PORT, true);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&host, sizeof host) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

// --- serving

static struct shared *make_shared(void)
{
    void *at = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                    -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

static bool from_host(const struct sockaddr_vm *peer)
{
    return peer->svm_cid == VMADDR_CID_HOST;
}

// Only the host may ask: not another program in the guest, over the kernel's loopback. A session
// that outlives this process must hold none of its sockets: the next agent needs their ports.
static void serve_one(int listener, int ready, struct shared *shared, unsigned *sessions)
{
    struct sockaddr_vm peer = {0};
    socklen_t len = sizeof peer;
    int fd = accept4(listener, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    pid_t child = from_host(&peer) && *sessions < SESSIONS_MAX ? fork() : -1;
    if (child == 0) {
        close(listener);
        if (ready >= 0)
            close(ready);
        session_serve(fd, shared);
    }
    *sessions += child > 0;
    close(fd);
}

// False: the host has gone, or does not make sense.
static bool obey(int ready, struct shared *shared, unsigned *sessions)
{
    static struct agent_link link;
    struct error e;
    link.fd = ready;
    link.timeout_ms = RETRY_MAX_MS;
    if (agent_receive(&link, &e))
        return false;
    pid_t child = fork();
    if (child == 0)
        session_obey(&link, shared);
    *sessions += child > 0;
    return true;
}

static void bury(unsigned *sessions, struct shared *shared)
{
    for (pid_t child; (child = waitpid(-1, NULL, WNOHANG)) > 0;) {
        *sessions -= *sessions > 0;
        if (shared->freezer == child)
            shared->freezer = 0;
    }
}

static void serve(struct shared *shared)
{
    int listener = -1, ready = -1;
    unsigned sessions = 0;
    for (int wait_ms = RETRY_MS;; wait_ms = wait_ms < RETRY_MAX_MS ? wait_ms * 3 / 2 : wait_ms) {
        if (listener < 0 && (listener = open_listener()) < 0 && errno != EADDRINUSE)
            modules_load();
        if (listener >= 0 && ready < 0 && (ready = tell_host()) < 0 && errno == ENODEV)
            modules_load();
        struct pollfd wait[] = {{.fd = listener, .events = POLLIN},
                                {.fd = ready, .events = POLLIN}};
        int n = poll(wait, 2, ready < 0 ? wait_ms : -1);
        if (ready >= 0)
            wait_ms = RETRY_MS;
        bury(&sessions, shared);
        if (n > 0 && wait[1].revents && !obey(ready, shared, &sessions)) {
            close(ready);
            ready = -1;
            poll(NULL, 0, RETRY_MS);
        }
        if (n > 0 && wait[0].revents)
            serve_one(listener, ready, shared, &sessions);
    }
}

static void note(int signal)
{
}

int main(int argc, char **argv)
{
    if (!stay(argv))
        return 1;
    struct shared *shared = make_shared();
    if (!shared)
        return 1;
    const struct sigaction child = {.sa_handler = note}; // only to end a wait
    sigaction(SIGCHLD, &child, NULL);
    signal(SIGPIPE, SIG_IGN);
    root_init();
    serve(shared);
}
