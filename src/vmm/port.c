// A port of a virtual network. unix(7), SOCK_SEQPACKET.
//
// Nothing is dropped here: a guest that sends faster than the network takes waits, and so does the
// network while the guest has no buffers. Whoever holds a network card's lock may take a port's,
// never the reverse.
#include "vmm/port.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#define PACKETS_A_TURN 64 // then others on the loop have theirs

// --- the link

static void unplug(struct port *port)
{
    if (port->fd.fd < 0)
        return;
    loop_fd_remove(port->loop, &port->fd);
    pthread_mutex_lock(&port->lock);
    close(port->fd.fd);
    port->fd.fd = -1;
    port->full = false;
    pthread_mutex_unlock(&port->lock);
    port->held = false;
    vm_nic_set_link(port->vm, port->nic, false);
}

static void lost_link(struct port *port)
{
    unplug(port);
    vm_nic_continue(port->vm, port->nic); // what waited to be sent is lost with the link
    port->changed(port->opaque, port, false);
}

// --- from the network

// The next packet, into port->packet. False: there is none now, or the link is gone.
static bool receive(struct port *port)
{
    for (;;) {
        ssize_t n = read(port->fd.fd, port->packet, sizeof port->packet);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n <= 0) {
            lost_link(port);
            return false;
        }
        port->len = (size_t)n;
        if (net_packet_valid(port->packet, port->len, NET_TAKES_ALL))
            return true;
        port->lost++;
    }
}

static void wait_for_what_is_due(struct port *port)
{
    pthread_mutex_lock(&port->lock);
    bool full = port->full;
    pthread_mutex_unlock(&port->lock);
    loop_fd_set(port->loop, &port->fd, (port->held ? 0u : EPOLLIN) | (full ? EPOLLOUT : 0u));
}

static void deliver(struct port *port)
{
    for (int i = 0; i < PACKETS_A_TURN; i++) {
        if (!port->held && !receive(port))
            return;
        port->held = !vm_nic_receive(port->vm, port->nic, port->packet, port->len);
        if (port->held)
            return;
        port->received++;
    }
}

// --- the loop

static void ready(void *opaque, uint32_t events)
{
    struct port *port = opaque;
    if (events & EPOLLOUT) {
        pthread_mutex_lock(&port->lock);
        port->full = false;
        pthread_mutex_unlock(&port->lock);
        vm_nic_continue(port->vm, port->nic);
    }
    if (port->held && events & (EPOLLHUP | EPOLLERR))
        lost_link(port);
    else if (!port->held)
        deliver(port);
    if (port->fd.fd >= 0)
        wait_for_what_is_due(port);
}

static void work(void *opaque)
{
    struct port *port = opaque;
    if (port->fd.fd < 0)
        return;
    pthread_mutex_lock(&port->lock);
    bool resumed = port->resumed;
    port->resumed = false;
    pthread_mutex_unlock(&port->lock);
    if (resumed && port->held)
        deliver(port);
    if (port->fd.fd >= 0)
        wait_for_what_is_due(port);
}

void port_init(struct port *port, struct loop *loop)
{
    port->loop = loop;
    port->fd = (struct loop_fd){.fd = -1, .ready = ready, .opaque = port};
    port->work = (struct loop_work){.run = work, .opaque = port};
    pthread_mutex_init(&port->lock, NULL);
}

err_t port_plug(struct port *port, int fd, struct error *e)
{
    unplug(port);
    if (fd < 0)
        return OK;
    pthread_mutex_lock(&port->lock);
    port->fd.fd = fd;
    port->fd.events = EPOLLIN;
    pthread_mutex_unlock(&port->lock);
    err_t err = loop_fd_add(port->loop, &port->fd, e);
    if (err) {
        pthread_mutex_lock(&port->lock);
        port->fd.fd = -1;
        pthread_mutex_unlock(&port->lock);
        return err;
    }
    vm_nic_set_link(port->vm, port->nic, true);
    vm_nic_continue(port->vm, port->nic);
    return OK;
}

void port_release(struct port *port)
{
    if (!port->loop)
        return;
    unplug(port);
    pthread_mutex_destroy(&port->lock);
}

// --- from the guest

bool port_send(struct port *port, const uint8_t *packet, size_t len)
{
    pthread_mutex_lock(&port->lock);
    bool room = !port->full;
    if (port->fd.fd >= 0 && room) {
        ssize_t n;
        do
            n = write(port->fd.fd, packet, len);
        while (n < 0 && errno == EINTR);
        room = n >= 0 || errno != EAGAIN; // with any other error the link is going down
        port->sent += n >= 0;
        port->full = !room;
        if (!room)
            loop_post(port->loop, &port->work);
    }
    pthread_mutex_unlock(&port->lock);
    return room;
}

void port_resume(struct port *port)
{
    pthread_mutex_lock(&port->lock);
    port->resumed = true;
    pthread_mutex_unlock(&port->lock);
    loop_post(port->loop, &port->work);
}
