// berth-vhost: lets another hypervisor's VM into a virtual network, over vhost-user. Started by
// berth net vhost with a port of the network and a listening socket on inherited descriptors:
//
//     berth-vhost --port FD --listen FD
//
// A process of its own, because it has the front end's memory before it: whatever that does to it,
// the network's switch goes on. Ends when the network goes away, and by a signal.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "host/sandbox.h"
#include "vhost/adapter.h"

enum { STATUS_USAGE = 2, STATUS_HOST = 3 };

static void ended(void *opaque, const char *why)
{
    struct adapter *v = opaque;
    fprintf(stderr, "berth-vhost: %s\n", why);
    if (!strcmp(why, "the network has gone away"))
        loop_stop(v->loop);
}

static int run(int port, int listener)
{
    struct adapter *v = calloc(1, sizeof *v);
    struct error e = {0};
    const int keep[] = {port, listener};
    if (!v)
        return STATUS_HOST;
    v->port.fd = port;
    v->listener.fd = listener;
    v->ended = ended;
    v->opaque = v;
    signal(SIGPIPE, SIG_IGN); // front ends hang up when they like
    err_t err = sandbox_enter(keep, ARRAY_LEN(keep), &e);
    if (!err)
        err = loop_new(&v->loop, &e);
    if (!err)
        err = adapter_start(v, &e);
    if (err) {
        fprintf(stderr, "berth-vhost: %s\n", e.text);
        return STATUS_HOST;
    }
    sandbox_confine(HOST_THREAD_MAIN);
    loop_run(v->loop);
    adapter_stop(v);
    loop_free(v->loop);
    free(v);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && !strcmp(argv[1], "--port") && !strcmp(argv[3], "--listen"))
        return run(atoi(argv[2]), atoi(argv[4]));
    fprintf(stderr, "berth-vhost %s is started by berth; try berth net vhost --help\n",
            BERTH_VERSION);
    return STATUS_USAGE;
}
