// The adapter's sockets: the port, and one front end after the other. unix(7), SCM_RIGHTS.
//
// Messages are read whole: a front end that stops in the middle of one stops nobody but itself.
#include "vhost/adapter.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "host/passing.h"

enum { HEADER_BYTES = 12, FLAG_VERSION = 1, FLAG_REPLY = 4, PATIENCE_MS = 2000 };

static const struct device_type virtqueues = {.name = "vhost"};

// --- a front end's life

static void forget_client(struct vhost *v)
{
    if (v->client.fd < 0)
        return;
    loop_fd_remove(v->loop, &v->client);
    close(v->client.fd);
    v->client.fd = -1;
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        struct vhost_ring *r = &v->ring[i];
        vhost_stop_ring(v, i);
        r->started = r->on = false;
        if (r->kick.fd >= 0) {
            loop_fd_remove(v->loop, &r->kick);
            close(r->kick.fd);
        }
        if (r->call >= 0)
            close(r->call);
        r->kick.fd = r->call = -1;
    }
    vhost_memory_release(&v->memory);
    v->features = 0;
}

// --- messages

static bool receive_all(int fd, void *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, PATIENCE_MS) <= 0)
            return false;
        ssize_t n = read(fd, (uint8_t *)data + done, len - done);
        if (n <= 0 && !(n < 0 && (errno == EINTR || errno == EAGAIN)))
            return false;
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

// False: it is gone, or says what makes no sense.
static bool receive_message(int fd, struct vhost_message *m)
{
    uint8_t header[HEADER_BYTES];
    *m = (struct vhost_message){0};
    ssize_t n = passing_receive(fd, header, sizeof header, m->fd, VHOST_FDS_MAX, &m->fds, 0);
    if (n <= 0 || !receive_all(fd, header + n, sizeof header - (size_t)n))
        return false;
    m->request = load_le32(header);
    m->flags = load_le32(header + 4);
    m->size = load_le32(header + 8);
    return (m->flags & 3) == FLAG_VERSION && m->size <= sizeof m->payload &&
           receive_all(fd, m->payload, m->size);
}

static bool send_answer(int fd, const struct vhost_message *m)
{
    uint8_t bytes[HEADER_BYTES + 16];
    store_le32(bytes, m->request);
    store_le32(bytes + 4, FLAG_VERSION | FLAG_REPLY);
    store_le32(bytes + 8, m->size);
    memcpy(bytes + HEADER_BYTES, m->payload, m->size);
    return write(fd, bytes, HEADER_BYTES + m->size) == (ssize_t)(HEADER_BYTES + m->size);
}

static void client_ready(void *opaque, uint32_t events)
{
    struct vhost *v = opaque;
    struct vhost_message m;
    struct error e = {.text = ""};
    bool answer = false, alive = receive_message(v->client.fd, &m);
    if (alive && vhost_obey(v, &m, &answer, &e)) {
        v->ended(v->opaque, e.text);
        alive = false;
    }
    for (unsigned i = 0; i < m.fds; i++) {
        if (m.fd[i] >= 0)
            close(m.fd[i]);
    }
    if (!alive || (answer && !send_answer(v->client.fd, &m)))
        forget_client(v);
}

static void arrival(void *opaque, uint32_t events)
{
    struct vhost *v = opaque;
    int fd = accept4(v->listener.fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (v->client.fd >= 0) {
        close(fd);
        return;
    }
    v->client.fd = fd;
    if (loop_fd_add(v->loop, &v->client, NULL)) {
        close(fd);
        v->client.fd = -1;
    }
}

// --- the rest of the loop

static void kicked(struct vhost *v, unsigned ring)
{
    uint64_t count;
    if (read(v->ring[ring].kick.fd, &count, sizeof count) == sizeof count)
        vhost_kicked(v, ring);
}

static void receive_kicked(void *opaque, uint32_t events)
{
    kicked(opaque, 0);
}

static void transmit_kicked(void *opaque, uint32_t events)
{
    kicked(opaque, 1);
}

static void port_ready(void *opaque, uint32_t events)
{
    struct vhost *v = opaque;
    if (events & EPOLLOUT && v->full) {
        v->full = false;
        vhost_transmit(v);
    }
    if (events & (EPOLLHUP | EPOLLERR) && v->held)
        v->ended(v->opaque, "the network has gone away");
    else
        vhost_receive(v);
}

err_t vhost_start(struct vhost *v, struct error *e)
{
    v->dev = (struct device){.type = &virtqueues, .env = &vhost_memory_env, .owner = &v->memory};
    v->listener.ready = arrival;
    v->client = (struct loop_fd){.fd = -1, .ready = client_ready};
    v->port.ready = port_ready;
    v->listener.events = v->client.events = v->port.events = EPOLLIN;
    v->listener.opaque = v->client.opaque = v->port.opaque = v;
    for (unsigned i = 0; i < VHOST_RINGS; i++)
        v->ring[i] = (struct vhost_ring){.kick = {.fd = -1,
                                                  .events = EPOLLIN,
                                                  .ready = i ? transmit_kicked : receive_kicked,
                                                  .opaque = v},
                                         .call = -1};
    err_t err = loop_fd_add(v->loop, &v->listener, e);
    return err ? err : loop_fd_add(v->loop, &v->port, e);
}

void vhost_stop(struct vhost *v)
{
    forget_client(v);
    loop_fd_remove(v->loop, &v->listener);
    loop_fd_remove(v->loop, &v->port);
}
