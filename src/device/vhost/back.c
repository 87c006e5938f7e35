// The back end's sockets: one front end's messages, kicks and calls. unix(7), eventfd(2).
#include "device/vhost/back.h"

#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static const struct device_type virtqueues = {.name = "vhost"};

static void forget_ring(struct vhost_back *b, unsigned i)
{
    struct vhost_ring *r = &b->ring[i];
    vhost_stop_ring(b, i);
    r->started = r->on = false;
    r->desc = r->used = r->avail = r->size = 0;
    if (r->kick.fd >= 0) {
        loop_fd_remove(b->loop, &r->kick);
        close(r->kick.fd);
    }
    if (r->call >= 0)
        close(r->call);
    r->kick.fd = r->call = -1;
}

void vhost_back_close(struct vhost_back *b)
{
    if (b->client.fd < 0)
        return;
    loop_fd_remove(b->loop, &b->client);
    close(b->client.fd);
    b->client.fd = -1;
    if (b->calls >= 0)
        close(b->calls);
    b->calls = -1;
    vhost_channel_clear(&b->channel);
    for (unsigned i = 0; i < VHOST_RINGS; i++)
        forget_ring(b, i);
    vhost_memory_release(&b->memory);
    b->features = 0;
    b->rings_on = false;
    b->taken = 0;
}

// --- messages

// The next message. False: this front end is done for; *e says why, unless it hung up.
static bool obey_next(struct vhost_back *b, struct error *e)
{
    bool answer = false;
    enum vhost_read read = vhost_channel_read(&b->channel, b->client.fd);
    if (read != VHOST_MESSAGE)
        return read == VHOST_NOTHING;
    err_t err = vhost_obey(b, &b->channel.in, &answer, e);
    if (!err && answer && !vhost_answer(b->client.fd, &b->channel.in))
        err = ERR_IO;
    vhost_channel_clear(&b->channel);
    return !err;
}

static void client_ready(void *opaque, uint32_t events)
{
    struct vhost_back *b = opaque;
    struct error e = {.text = ""};
    if (obey_next(b, &e))
        return;
    vhost_back_close(b);
    b->ops->gone(b->opaque, e.text);
}

err_t vhost_back_open(struct vhost_back *b, int socket, struct error *e)
{
    b->client.fd = socket;
    err_t err = loop_fd_add(b->loop, &b->client, e);
    if (err)
        b->client.fd = -1;
    return err;
}

// --- kicks

static void kicked(void *opaque, uint32_t events)
{
    struct vhost_ring *r = opaque;
    uint64_t count;
    if (read(r->kick.fd, &count, sizeof count) == sizeof count)
        vhost_kicked(r->back, (unsigned)(r - r->back->ring));
}

void vhost_back_init(struct vhost_back *b)
{
    b->dev = (struct device){.type = &virtqueues, .env = &vhost_memory_env, .owner = &b->memory};
    b->client = (struct loop_fd){.fd = -1, .events = EPOLLIN, .ready = client_ready, .opaque = b};
    b->calls = -1;
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        struct vhost_ring *r = &b->ring[i];
        r->back = b;
        r->kick = (struct loop_fd){.fd = -1, .events = EPOLLIN, .ready = kicked, .opaque = r};
        r->call = -1;
    }
}
