// The adapter's sockets: the port, and one front end after the other. A port that takes no more
// holds the guest's ring up, a guest without buffers the port; nothing is dropped here. unix(7).
#include "vhost/adapter.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host/clock.h"

#define PACKETS_A_TURN 128

static void watch_port(struct adapter *a)
{
    loop_fd_set(a->loop, &a->port, (a->len ? 0u : EPOLLIN) | (a->out_len ? EPOLLOUT : 0u));
}

// --- from the guest

// False: the port has no room now.
static bool send_out(struct adapter *a)
{
    while (a->out_len && send(a->port.fd, a->out, a->out_len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        if (errno == EAGAIN)
            return false;
        if (errno != EINTR)
            break; // the port is going down
    }
    a->out_len = 0;
    return true;
}

static void transmit(void *opaque)
{
    struct adapter *a = opaque;
    int turn = 0;
    bool room = send_out(a);
    for (; room && turn < PACKETS_A_TURN; turn++) {
        ssize_t n = vhost_back_pull(&a->back, a->out, sizeof a->out);
        if (n < 0)
            break;
        if (!net_packet_valid(a->out, (size_t)n, net_takes_of_device(a->back.features)))
            continue;
        a->out_len = (size_t)n;
        room = send_out(a);
    }
    vhost_back_pulled(&a->back);
    watch_port(a);
    loop_timer_set(a->loop, &a->again, turn == PACKETS_A_TURN ? host_now() : NS_NEVER);
}

// --- to the guest

// The next packet of the port. False: there is none now, or the port is gone.
static bool next_packet(struct adapter *a)
{
    for (;;) {
        ssize_t n = recv(a->port.fd, a->packet, sizeof a->packet, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n <= 0) {
            a->ended(a->opaque, "the network has gone away");
            return false;
        }
        a->len = (size_t)n;
        if (net_packet_valid(a->packet, a->len, NET_TAKES_ALL))
            return true;
        a->len = 0;
    }
}

static void receive(void *opaque)
{
    struct adapter *a = opaque;
    for (int i = 0; i < PACKETS_A_TURN && (a->len || next_packet(a)); i++) {
        if (!vhost_back_give(&a->back, a->packet, a->len) && vhost_back_runs(&a->back))
            break; // without a front end that runs, packets are lost
        a->len = 0;
    }
    watch_port(a);
}

static void port_ready(void *opaque, uint32_t events)
{
    struct adapter *a = opaque;
    if (events & EPOLLOUT)
        transmit(a);
    if (events & (EPOLLHUP | EPOLLERR) && a->len)
        a->ended(a->opaque, "the network has gone away");
    else
        receive(a);
}

// --- front ends

static void broken(void *opaque, const char *why)
{
    struct adapter *a = opaque;
    a->ended(a->opaque, why);
}

static void gone(void *opaque, const char *why)
{
    struct adapter *a = opaque;
    a->len = 0;
    watch_port(a);
    loop_fd_set(a->loop, &a->listener, EPOLLIN);
    if (*why)
        a->ended(a->opaque, why);
}

static void arrival(void *opaque, uint32_t events)
{
    struct adapter *a = opaque;
    int fd = accept4(a->listener.fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (vhost_back_open(&a->back, fd, NULL))
        close(fd);
    else
        loop_fd_set(a->loop, &a->listener, 0); // the next one waits until this one is gone
}

err_t adapter_start(struct adapter *a, struct error *e)
{
    static const struct vhost_back_ops ops = {transmit, receive, broken, gone};
    a->back.loop = a->loop;
    a->back.ops = &ops;
    a->listener.ready = arrival;
    a->port.ready = port_ready;
    a->again.fire = transmit;
    a->listener.events = a->port.events = EPOLLIN;
    a->back.opaque = a->listener.opaque = a->port.opaque = a->again.opaque = a;
    vhost_back_init(&a->back);
    err_t err = loop_fd_add(a->loop, &a->listener, e);
    return err ? err : loop_fd_add(a->loop, &a->port, e);
}

void adapter_stop(struct adapter *a)
{
    vhost_back_close(&a->back);
    loop_timer_set(a->loop, &a->again, NS_NEVER);
    loop_fd_remove(a->loop, &a->listener);
    loop_fd_remove(a->loop, &a->port);
}
