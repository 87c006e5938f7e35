// A port of a virtual network. unix(7), tun(4).
//
// Nothing is dropped here: a guest that sends faster than the network takes waits, and so does the
// network while the guest has no buffers. Whoever holds a network card's lock may take a port's,
// never the reverse.
#include "vmm/port.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "net/tap.h"

#define PACKETS_A_TURN 64 // then others on the loop have theirs

// --- the link

bool port_plugged(const struct port *port)
{
    return port->fd.fd >= 0 || port->rings;
}

static void unplug(struct port *port)
{
    bool plugged = port_plugged(port);
    pthread_mutex_lock(&port->lock);
    if (port->fd.fd >= 0) {
        loop_fd_remove(port->loop, &port->fd);
        close(port->fd.fd);
    }
    port->fd.fd = -1;
    vhost_front_close(&port->front);
    port->rings = port->full = false;
    pthread_mutex_unlock(&port->lock);
    port->held = false;
    if (plugged)
        vm_nic_set_link(port->vm, port->nic, false);
}

static void lost_link(struct port *port)
{
    unplug(port);
    vm_nic_continue(port->vm, port->nic); // what waited to be sent is lost with the link
    port->changed(port->opaque, port, false);
}

// --- from the network

static ssize_t read_packet(struct port *port)
{
    ssize_t n;
    if (port->rings)
        return (ssize_t)vhost_front_receive(&port->front, port->packet);
    do
        n = port->tap ? read(port->fd.fd, port->packet, sizeof port->packet)
                      : recv(port->fd.fd, port->packet, sizeof port->packet, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return 0;
    return n > 0 ? n : -1;
}

// The next packet, into port->packet. False: there is none now, or the link is gone.
static bool receive(struct port *port)
{
    for (;;) {
        ssize_t n = read_packet(port);
        if (n < 0)
            lost_link(port);
        if (n <= 0)
            return false;
        port->len = (size_t)n;
        if (net_packet_valid(port->packet, port->len, NET_TAKES_ALL))
            return true;
        port->lost++;
    }
}

static void wait_for_what_is_due(struct port *port)
{
    if (port->fd.fd < 0)
        return;
    pthread_mutex_lock(&port->lock);
    bool full = port->full;
    pthread_mutex_unlock(&port->lock);
    loop_fd_set(port->loop, &port->fd, (port->held ? 0u : EPOLLIN) | (full ? EPOLLOUT : 0u));
}

static void deliver(struct port *port)
{
    int i = 0;
    for (; i < PACKETS_A_TURN && (port->held || receive(port)); i++) {
        port->held = !vm_nic_receive(port->vm, port->nic, port->packet, port->len);
        if (port->held)
            break;
        port->received++;
    }
    if (!port->rings)
        return; // a socket says itself that it has more
    vhost_front_received(&port->front);
    if (i == PACKETS_A_TURN)
        port_resume(port);
}

static void room_again(struct port *port)
{
    pthread_mutex_lock(&port->lock);
    bool waited = port->full;
    port->full = false;
    pthread_mutex_unlock(&port->lock);
    if (waited)
        vm_nic_continue(port->vm, port->nic);
}

// --- the loop

static void ready(void *opaque, uint32_t events)
{
    struct port *port = opaque;
    if (events & EPOLLOUT)
        room_again(port);
    if (port->held && events & (EPOLLHUP | EPOLLERR))
        lost_link(port);
    else if (!port->held)
        deliver(port);
    wait_for_what_is_due(port);
}

static void work(void *opaque)
{
    struct port *port = opaque;
    if (!port_plugged(port))
        return;
    pthread_mutex_lock(&port->lock);
    bool resumed = port->resumed;
    port->resumed = false;
    pthread_mutex_unlock(&port->lock);
    if (resumed)
        deliver(port);
    wait_for_what_is_due(port);
}

// --- a back end

static void front_started(void *opaque)
{
    struct port *port = opaque;
    pthread_mutex_lock(&port->lock);
    port->rings = true;
    pthread_mutex_unlock(&port->lock);
    vm_nic_set_link(port->vm, port->nic, true);
    vm_nic_continue(port->vm, port->nic);
    port->changed(port->opaque, port, true);
    deliver(port);
}

static void front_received(void *opaque)
{
    struct port *port = opaque;
    if (!port->held)
        deliver(port);
}

static void front_room(void *opaque)
{
    room_again(opaque);
}

static void front_gone(void *opaque, const char *why)
{
    struct port *port = opaque;
    if (*why)
        log_line(LOG_WARN, "network card %u: its back end is left: %s", port->nic, why);
    lost_link(port);
}

static const struct vhost_front_ops front_ops = {front_started, front_received, front_room,
                                                 front_gone};

void port_init(struct port *port, struct loop *loop)
{
    port->loop = loop;
    port->fd = (struct loop_fd){.fd = -1, .ready = ready, .opaque = port};
    port->front.loop = loop;
    port->front.ops = &front_ops;
    port->front.opaque = port;
    vhost_front_init(&port->front);
    port->work = (struct loop_work){.run = work, .opaque = port};
    pthread_mutex_init(&port->lock, NULL);
}

static err_t plug_socket(struct port *port, int fd, struct error *e)
{
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

err_t port_plug(struct port *port, int fd, struct error *e)
{
    int type = 0;
    socklen_t len = sizeof type;
    unplug(port);
    if (fd < 0)
        return OK;
    port->tap = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0;
    if (!port->tap && type == SOCK_STREAM)
        return vhost_front_open(&port->front, fd, e);
    return plug_socket(port, fd, e);
}

void port_release(struct port *port)
{
    if (!port->loop)
        return;
    unplug(port);
    pthread_mutex_destroy(&port->lock);
}

// --- from the guest

static bool write_packet(struct port *port, const uint8_t *packet, size_t len)
{
    ssize_t n;
    do
        n = port->tap ? write(port->fd.fd, packet, len)
                      : send(port->fd.fd, packet, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN) {
        loop_post(port->loop, &port->work);
        return false;
    }
    return true; // with any other error the link is going down
}

// An interface has a queue of its own, and drops what is too much for it.
static void write_part(void *opaque, uint8_t *packet, size_t len)
{
    struct port *port = opaque;
    (void)!write(port->fd.fd, packet, len);
}

bool port_send(struct port *port, uint8_t *packet, size_t len)
{
    pthread_mutex_lock(&port->lock);
    bool room = !port->full;
    if (room && port->rings)
        room = vhost_front_send(&port->front, packet, len);
    else if (room && port->fd.fd >= 0 && port->tap && net_packet_needs(packet) & ~TAP_TAKES)
        net_packet_lower(packet, len, TAP_TAKES, port->part, write_part, port);
    else if (room && port->fd.fd >= 0)
        room = write_packet(port, packet, len);
    port->full = !room;
    port->sent += room;
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
