// Negotiation, kicks and calls of a front end. unix(7), eventfd(2).
//
// A message that the back end does not read, or answers otherwise than asked, ends it; how long it
// takes is its own matter, since nothing waits for it.
#include "net/vhost_front.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"

enum { FLAG_REPLY = 4 };

// VERSION_1, EVENT_IDX, MRG_RXBUF.
#define RING_FEATURES (1ull << 32 | 1ull << 29 | 1ull << 15)
#define F_VERSION_1 (1ull << 32)
// GUEST_TSO4, GUEST_TSO6, GUEST_UFO, GUEST_USO4, GUEST_USO6.
#define LARGE_TO_DRIVER (1ull << 7 | 1ull << 8 | 1ull << 10 | 1ull << 54 | 1ull << 55)
#define WANTED (RING_FEATURES | NET_OFFLOAD_FEATURES | VHOST_F_PROTOCOL_FEATURES)
#define WANTED_PROTOCOL (VHOST_REPLY_ACK | VHOST_BACKEND_CHANNEL | VHOST_INBAND)

static void socket_ready(void *opaque, uint32_t events);
static void calls_ready(void *opaque, uint32_t events);

void vhost_front_init(struct vhost_front *f)
{
    f->socket = (struct loop_fd){.fd = -1, .events = EPOLLIN, .ready = socket_ready, .opaque = f};
    f->calls = (struct loop_fd){.fd = -1, .events = EPOLLIN, .ready = calls_ready, .opaque = f};
    f->window.fd = f->kick[0] = f->kick[1] = -1;
}

static void close_fd(struct vhost_front *f, struct loop_fd *fd)
{
    if (fd->fd < 0)
        return;
    loop_fd_remove(f->loop, fd);
    close(fd->fd);
    fd->fd = -1;
}

void vhost_front_close(struct vhost_front *f)
{
    close_fd(f, &f->socket);
    close_fd(f, &f->calls);
    vhost_channel_clear(&f->channel);
    vhost_channel_clear(&f->call);
    for (unsigned i = 0; i < WINDOW_RINGS; i++) {
        if (f->kick[i] >= 0)
            close(f->kick[i]);
        f->kick[i] = -1;
    }
    window_free(&f->window);
}

static bool ask(const struct vhost_front *f, unsigned request)
{
    return vhost_send(f->socket.fd, request, 0, NULL, 0, -1);
}

err_t vhost_front_open(struct vhost_front *f, int socket, struct error *e)
{
    err_t err = window_new(&f->window, e);
    if (err)
        return err;
    f->socket.fd = socket;
    f->step = VHOST_FEATURES;
    f->protocol = 0;
    err = loop_fd_add(f->loop, &f->socket, e);
    if (!err && ask(f, VHOST_GET_FEATURES))
        return OK;
    if (!err) {
        err = error_set(e, ERR_IO, "the network hung up");
        loop_fd_remove(f->loop, &f->socket);
    }
    f->socket.fd = -1;
    window_free(&f->window);
    return err;
}

// --- setting the rings up

static bool tell(const struct vhost_front *f, unsigned request, uint64_t value, int fd)
{
    uint8_t payload[8];
    store_le64(payload, value);
    return vhost_send(f->socket.fd, request, 0, payload, sizeof payload, fd);
}

static bool tell_ring(const struct vhost_front *f, unsigned request, unsigned ring, uint32_t number)
{
    return tell(f, request, (uint64_t)number << 32 | ring, -1);
}

static unsigned reply_flag(const struct vhost_front *f)
{
    return f->protocol & VHOST_REPLY_ACK ? VHOST_NEED_REPLY : 0;
}

static bool tell_memory(const struct vhost_front *f)
{
    uint8_t table[8 + 32] = {1};
    store_le64(table + 8, WINDOW_BASE);
    store_le64(table + 16, window_bytes);
    store_le64(table + 24, WINDOW_BASE);
    return vhost_send(f->socket.fd, VHOST_SET_MEM_TABLE, reply_flag(f), table, sizeof table,
                      f->window.fd);
}

static bool tell_addresses(const struct vhost_front *f, unsigned ring)
{
    const struct window_shared *shared = f->window.ring[ring].shared;
    uint8_t payload[40] = {(uint8_t)ring};
    store_le64(payload + 8, window_address(&f->window, shared->desc));
    store_le64(payload + 16, window_address(&f->window, &shared->used));
    store_le64(payload + 24, window_address(&f->window, &shared->avail));
    return vhost_send(f->socket.fd, VHOST_SET_VRING_ADDR, 0, payload, sizeof payload, -1);
}

static bool inband(const struct vhost_front *f)
{
    return f->protocol & VHOST_INBAND && f->protocol & VHOST_BACKEND_CHANNEL;
}

// How the back end calls us: a channel of its own, or an eventfd. *theirs is its end.
static bool make_calls(struct vhost_front *f, int *theirs)
{
    int pair[2] = {-1, -1};
    *theirs = -1;
    if (!inband(f)) {
        f->calls.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    } else if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0) {
        f->calls.fd = pair[0];
        *theirs = pair[1];
    }
    if (f->calls.fd >= 0 && !loop_fd_add(f->loop, &f->calls, NULL))
        return true;
    if (f->calls.fd >= 0)
        close(f->calls.fd);
    if (*theirs >= 0)
        close(*theirs);
    f->calls.fd = *theirs = -1;
    return false;
}

static bool tell_channel(struct vhost_front *f)
{
    int theirs;
    bool sent = make_calls(f, &theirs);
    if (theirs >= 0) {
        sent = vhost_send(f->socket.fd, VHOST_SET_BACKEND_FD, 0, NULL, 0, theirs);
        close(theirs);
    }
    return sent;
}

static bool tell_events(struct vhost_front *f, unsigned ring)
{
    if (inband(f))
        return tell_ring(f, VHOST_VRING_KICK, ring, 0);
    f->kick[ring] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return f->kick[ring] >= 0 && tell(f, VHOST_SET_VRING_CALL, ring, f->calls.fd) &&
           tell(f, VHOST_SET_VRING_KICK, ring, f->kick[ring]);
}

static bool tell_rings(struct vhost_front *f)
{
    for (unsigned i = 0; i < WINDOW_RINGS; i++) {
        if (!tell_ring(f, VHOST_SET_VRING_NUM, i, WINDOW_ENTRIES) ||
            !tell_ring(f, VHOST_SET_VRING_BASE, i, 0) || !tell_addresses(f, i) ||
            !tell_events(f, i))
            return false;
    }
    if (!(f->features & VHOST_F_PROTOCOL_FEATURES))
        return true; // rings start enabled
    return tell_ring(f, VHOST_SET_VRING_ENABLE, WINDOW_RECEIVE, 1) &&
           tell_ring(f, VHOST_SET_VRING_ENABLE, WINDOW_TRANSMIT, 1);
}

// Answered by the acknowledged memory table, or else by the features once more; and at the end by
// them again, when everything before has been obeyed.
static bool set_up(struct vhost_front *f)
{
    f->takes = net_takes_of_device(f->features);
    f->step = f->protocol & VHOST_REPLY_ACK ? VHOST_MEMORY : VHOST_RINGS_ON;
    window_start(&f->window, f->features);
    return ask(f, VHOST_SET_OWNER) && tell(f, VHOST_SET_FEATURES, f->features, -1) &&
           tell_channel(f) && tell_memory(f) && tell_rings(f) && ask(f, VHOST_GET_FEATURES);
}

// --- answers

static bool take_features(struct vhost_front *f, uint64_t offered)
{
    f->features = offered & WANTED;
    if (!(f->features & 1ull << 15)) // then large packets would need buffers of their length
        f->features &= ~LARGE_TO_DRIVER;
    if (!(f->features & VHOST_F_PROTOCOL_FEATURES))
        return set_up(f);
    f->step = VHOST_PROTOCOL;
    return ask(f, VHOST_GET_PROTOCOL_FEATURES);
}

static bool take_protocol(struct vhost_front *f, uint64_t offered)
{
    f->protocol = offered & WANTED_PROTOCOL;
    if (!inband(f)) // the one is of no use without the other
        f->protocol &= VHOST_REPLY_ACK;
    return tell(f, VHOST_SET_PROTOCOL_FEATURES, f->protocol, -1) && set_up(f);
}

// What is wrong; NULL: nothing.
static const char *take_answer(struct vhost_front *f, const struct vhost_message *m)
{
    static const uint8_t expected[] = {[VHOST_FEATURES] = VHOST_GET_FEATURES,
                                       [VHOST_PROTOCOL] = VHOST_GET_PROTOCOL_FEATURES,
                                       [VHOST_MEMORY] = VHOST_SET_MEM_TABLE,
                                       [VHOST_RINGS_ON] = VHOST_GET_FEATURES};
    uint64_t value = load_le64(m->payload);
    if (f->step == VHOST_RUNS || m->request != expected[f->step] || !(m->flags & FLAG_REPLY) ||
        m->size != 8)
        return "it answers what it was not asked";
    bool sent = true;
    switch (f->step) {
    case VHOST_FEATURES:
        if (!(value & F_VERSION_1))
            return "it knows only virtio's old format";
        sent = take_features(f, value);
        break;
    case VHOST_PROTOCOL: sent = take_protocol(f, value); break;
    case VHOST_MEMORY: f->step = VHOST_RINGS_ON; return value ? "it refuses the memory" : NULL;
    default: f->step = VHOST_RUNS; f->ops->started(f->opaque);
    }
    return sent ? NULL : "it does not listen";
}

static void socket_ready(void *opaque, uint32_t events)
{
    struct vhost_front *f = opaque;
    enum vhost_read read = vhost_channel_read(&f->channel, f->socket.fd);
    const char *why = read == VHOST_GONE ? "" : NULL;
    if (read == VHOST_MESSAGE) {
        why = take_answer(f, &f->channel.in);
        vhost_channel_clear(&f->channel);
    }
    if (why)
        f->ops->gone(f->opaque, why);
}

// --- kicks and calls

static void kick(struct vhost_front *f, enum window_ring_name ring)
{
    const uint64_t one = 1;
    if (!window_wants_kick(&f->window, ring))
        return;
    if (f->kick[ring] >= 0)
        (void)!write(f->kick[ring], &one, sizeof one);
    else
        (void)tell_ring(f, VHOST_VRING_KICK, ring, 0); // whoever does not read has some to read
}

// All that have come. False: the back end breaks the rules.
static bool read_calls(struct vhost_front *f)
{
    uint64_t count;
    if (!inband(f))
        return read(f->calls.fd, &count, sizeof count) == sizeof count || errno == EAGAIN;
    enum vhost_read result = VHOST_MESSAGE;
    for (int i = 0; i < 16 && result == VHOST_MESSAGE; i++) {
        result = vhost_channel_read(&f->call, f->calls.fd);
        if (result == VHOST_MESSAGE)
            vhost_channel_clear(&f->call);
    }
    return result != VHOST_GONE;
}

static void calls_ready(void *opaque, uint32_t events)
{
    struct vhost_front *f = opaque;
    if (!read_calls(f)) {
        f->ops->gone(f->opaque, "");
        return;
    }
    if (f->step != VHOST_RUNS)
        return;
    f->ops->room(f->opaque);
    if (f->socket.fd >= 0)
        f->ops->received(f->opaque);
    if (f->socket.fd >= 0 && (f->window.ring[0].broken || f->window.ring[1].broken))
        f->ops->gone(f->opaque, "it breaks the rules of a ring");
}

// --- packets

static void send_part(void *opaque, uint8_t *packet, size_t len)
{
    struct vhost_front *f = opaque;
    (void)window_send(&f->window, packet, len); // parts that find no room are lost, as on a wire
}

bool vhost_front_send(struct vhost_front *f, uint8_t *packet, size_t len)
{
    if (net_packet_needs(packet) & ~f->takes) {
        if (!window_room(&f->window))
            return false;
        net_packet_lower(packet, len, f->takes, f->part, send_part, f);
    } else {
        while (!window_send(&f->window, packet, len)) {
            if (!window_room(&f->window))
                return false;
        }
    }
    kick(f, WINDOW_TRANSMIT);
    return true;
}

size_t vhost_front_receive(struct vhost_front *f, uint8_t *packet)
{
    return f->step == VHOST_RUNS ? window_receive(&f->window, packet) : 0;
}

void vhost_front_received(struct vhost_front *f)
{
    kick(f, WINDOW_RECEIVE);
}
