// Drives libslirp from the event loop. libslirp tells which sockets it wants watched for what
// (slirp_pollfds_fill) and is told what came of it (slirp_pollfds_poll); in between, sockets come
// and go. So after everything that it does it is asked anew, once for all that happened in one
// pass of the loop, and what is watched is brought up to that. epoll only says when to look: what
// libslirp is told is what poll(2) says at that moment, since it reads sockets that block.
#include "switch/uplink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "host/clock.h"

#define LOG_GAP NS_PER_SEC

// One of libslirp's sockets.
struct watch {
    struct uplink *uplink;
    struct loop_fd fd;
    int fill; // the round that last asked for it
};

struct uplink {
    struct loop *loop;
    void (*receive)(void *opaque, const uint8_t *frame, size_t len);
    void (*received)(void *opaque);
    void *opaque;
    Slirp *slirp;
    struct watch **watch; // by descriptor; NULL: not watched
    size_t watches;       // room in it
    unsigned count;
    struct pollfd *asked; // by the index that slirp_pollfds_fill() was given
    size_t asked_count, asked_room;
    int fill;
    struct loop_work update;
    struct loop_timer slow;   // libslirp's own time-outs
    struct loop_timer advert; // its router advertisements, which go nowhere
    void *advert_opaque;
    uint64_t next_log;
};

// --- sockets that are watched

static void socket_ready(void *opaque, uint32_t events)
{
    struct watch *w = opaque;
    loop_post(w->uplink->loop, &w->uplink->update);
}

static struct watch *watch_of(const struct uplink *u, int fd)
{
    return fd >= 0 && (size_t)fd < u->watches ? u->watch[fd] : NULL;
}

static bool make_room(struct uplink *u, int fd)
{
    size_t room = u->watches ? u->watches : 64;
    while (room <= (size_t)fd)
        room *= 2;
    if (room == u->watches)
        return true;
    struct watch **larger = realloc(u->watch, room * sizeof(*larger));
    if (!larger)
        return false;
    memset(larger + u->watches, 0, (room - u->watches) * sizeof(*larger));
    u->watch = larger;
    u->watches = room;
    return true;
}

static struct watch *watch_new(struct uplink *u, int fd)
{
    struct watch *w = make_room(u, fd) ? calloc(1, sizeof *w) : NULL;
    if (!w)
        return NULL;
    w->uplink = u;
    w->fd = (struct loop_fd){.fd = fd, .ready = socket_ready, .opaque = w};
    if (loop_fd_add(u->loop, &w->fd, NULL)) {
        free(w);
        return NULL;
    }
    u->watch[fd] = w;
    u->count++;
    return w;
}

static void unwatch(struct uplink *u, int fd)
{
    struct watch *w = watch_of(u, fd);
    if (!w)
        return;
    loop_fd_remove(u->loop, &w->fd);
    u->watch[fd] = NULL;
    u->count--;
    free(w);
}

// --- rounds

// EPOLLIN and its like have the values of POLLIN and its like.
static uint32_t to_epoll(int events)
{
    return (events & SLIRP_POLL_IN ? EPOLLIN : 0u) | (events & SLIRP_POLL_OUT ? EPOLLOUT : 0u) |
           (events & SLIRP_POLL_PRI ? EPOLLPRI : 0u);
}

static int add_poll(int fd, int events, void *opaque)
{
    struct uplink *u = opaque;
    if (u->asked_count == u->asked_room) {
        size_t room = u->asked_room ? 2 * u->asked_room : 64;
        struct pollfd *larger = realloc(u->asked, room * sizeof *larger);
        if (!larger)
            return -1;
        u->asked = larger;
        u->asked_room = room;
    }
    u->asked[u->asked_count] = (struct pollfd){.fd = fd, .events = (short)to_epoll(events)};
    return (int)u->asked_count++;
}

static int get_revents(int index, void *opaque)
{
    const struct uplink *u = opaque;
    if (index < 0 || (size_t)index >= u->asked_count)
        return 0;
    int ready = u->asked[index].revents;
    return (ready & POLLIN ? SLIRP_POLL_IN : 0) | (ready & POLLOUT ? SLIRP_POLL_OUT : 0) |
           (ready & POLLPRI ? SLIRP_POLL_PRI : 0) | (ready & POLLERR ? SLIRP_POLL_ERR : 0) |
           (ready & POLLHUP ? SLIRP_POLL_HUP : 0);
}

// Watches what was asked for in this round, and nothing else: epoll tells of errors whether it was
// asked to or not, and would tell of one that libslirp does not want to hear again and again.
static void watch_asked(struct uplink *u)
{
    u->fill++;
    for (size_t i = 0; i < u->asked_count; i++) {
        struct watch *w = watch_of(u, u->asked[i].fd);
        if (!w)
            w = watch_new(u, u->asked[i].fd);
        if (!w)
            continue;
        w->fill = u->fill;
        loop_fd_set(u->loop, &w->fd, (uint32_t)u->asked[i].events);
    }
    for (size_t fd = 0; fd < u->watches; fd++) {
        struct watch *w = u->watch[fd];
        if (w && w->fill != u->fill)
            unwatch(u, (int)fd);
    }
}

static void ask(struct uplink *u)
{
    uint32_t timeout = UINT32_MAX;
    u->asked_count = 0;
    slirp_pollfds_fill(u->slirp, &timeout, add_poll, u);
    watch_asked(u);
    uint64_t when = timeout == UINT32_MAX ? NS_NEVER : host_now() + timeout * NS_PER_MS;
    loop_timer_set(u->loop, &u->slow, when);
}

static void act(void *opaque)
{
    struct uplink *u = opaque;
    for (size_t i = 0; i < u->asked_count; i++)
        u->asked[i].revents = 0;
    poll(u->asked, u->asked_count, 0);
    slirp_pollfds_poll(u->slirp, 0, get_revents, u);
    u->received(u->opaque);
    ask(u);
}

// --- what libslirp calls

static ssize_t cb_send(const void *frame, size_t len, void *opaque)
{
    struct uplink *u = opaque;
    u->receive(u->opaque, frame, len);
    return (ssize_t)len;
}

static void cb_guest_error(const char *message, void *opaque)
{
    struct uplink *u = opaque;
    uint64_t now = host_now();
    if (now < u->next_log)
        return;
    u->next_log = now + LOG_GAP;
    log_line(LOG_WARN, "a guest's packet: %s", message);
}

static int64_t cb_clock(void *opaque)
{
    return (int64_t)host_now();
}

static void advert_fire(void *opaque)
{
    struct uplink *u = opaque;
    slirp_handle_timer(u->slirp, SLIRP_TIMER_RA, u->advert_opaque);
}

static void *cb_timer_new(SlirpTimerId id, void *timer_opaque, void *opaque)
{
    struct uplink *u = opaque;
    u->advert_opaque = timer_opaque;
    return &u->advert;
}

static void cb_timer_free(void *timer, void *opaque)
{
    struct uplink *u = opaque;
    loop_timer_set(u->loop, timer, NS_NEVER);
}

static void cb_timer_mod(void *timer, int64_t when_ms, void *opaque)
{
    struct uplink *u = opaque;
    loop_timer_set(u->loop, timer, when_ms < 0 ? 0 : (uint64_t)when_ms * NS_PER_MS);
}

static void cb_register(int fd, void *opaque)
{
}

// Comes before the socket is closed, so that its number can be another's right after.
static void cb_unregister(int fd, void *opaque)
{
    struct uplink *u = opaque;
    unwatch(u, fd);
    for (size_t i = 0; i < u->asked_count; i++) {
        if (u->asked[i].fd == fd)
            u->asked[i] = (struct pollfd){.fd = -1};
    }
}

static void cb_notify(void *opaque)
{
    struct uplink *u = opaque;
    loop_post(u->loop, &u->update);
}

static const SlirpCb callbacks = {.send_packet = cb_send,
                                  .guest_error = cb_guest_error,
                                  .clock_get_ns = cb_clock,
                                  .timer_free = cb_timer_free,
                                  .timer_mod = cb_timer_mod,
                                  .register_poll_fd = cb_register,
                                  .unregister_poll_fd = cb_unregister,
                                  .notify = cb_notify,
                                  .timer_new_opaque = cb_timer_new};

// --- the uplink

static struct in_addr in4(uint32_t address)
{
    return (struct in_addr){htonl(address)};
}

static SlirpConfig configure(const struct site *site)
{
    SlirpConfig config = {.version = 4,
                          .in_enabled = true,
                          .vnetwork = in4(site->network->subnet),
                          .vnetmask = in4(site->netmask),
                          .vhost = in4(site->gateway),
                          .vdhcp_start = in4(site->first),
                          .vnameserver = in4(site->names),
                          .in6_enabled = site->network->ipv6,
                          .vprefix_len = 64,
                          .if_mtu = site->network->mtu,
                          .if_mru = site->network->mtu,
                          .disable_dhcp = true};
    memcpy(&config.vprefix_addr6, site->network->subnet6, 8);
    memcpy(&config.vhost6, site->gateway6, 16);
    memcpy(&config.vnameserver6, site->names6, 16);
    return config;
}

err_t uplink_new(const struct uplink_options *options, struct uplink **out, struct error *e)
{
    struct uplink *u = calloc(1, sizeof *u);
    SlirpConfig config = configure(options->site);
    if (!u)
        return error_set(e, ERR_NO_MEMORY, "no memory for the way out");
    u->loop = options->loop;
    u->receive = options->receive;
    u->received = options->received;
    u->opaque = options->opaque;
    u->update = (struct loop_work){.run = act, .opaque = u};
    u->slow = (struct loop_timer){.fire = act, .opaque = u};
    u->advert = (struct loop_timer){.fire = advert_fire, .opaque = u};
    u->slirp = slirp_new(&config, &callbacks, u);
    if (!u->slirp) {
        free(u);
        return error_set(e, ERR_UNSUPPORTED,
                         "libslirp does not start; use a network of kind "
                         "private, which needs no way out");
    }
    act(u); // also tells libslirp the time, by which new sockets age
    *out = u;
    return OK;
}

void uplink_free(struct uplink *u)
{
    if (!u)
        return;
    slirp_cleanup(u->slirp);
    for (size_t fd = 0; fd < u->watches; fd++)
        unwatch(u, (int)fd);
    loop_timer_set(u->loop, &u->slow, NS_NEVER);
    loop_timer_set(u->loop, &u->advert, NS_NEVER);
    free(u->watch);
    free(u->asked);
    free(u);
}

void uplink_send(struct uplink *u, const uint8_t *frame, size_t len)
{
    slirp_input(u->slirp, frame, (int)len);
    u->received(u->opaque);
    loop_post(u->loop, &u->update);
}

union place {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static union place place(bool v6, uint32_t address, const uint8_t address6[16], uint16_t port)
{
    union place p = {0};
    if (v6) {
        p.v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port)};
        memcpy(&p.v6.sin6_addr, address6, 16);
    } else {
        p.v4 = (struct sockaddr_in){
            .sin_family = AF_INET, .sin_addr = in4(address), .sin_port = htons(port)};
    }
    return p;
}

static socklen_t place_size(bool v6)
{
    return v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

static int forward_flags(const struct forward *f)
{
    return (f->udp ? SLIRP_HOSTFWD_UDP : 0) | (f->v6 ? SLIRP_HOSTFWD_V6ONLY : 0);
}

err_t uplink_forward(struct uplink *u, const struct forward *forward, uint32_t guest,
                     const uint8_t guest6[16], struct error *e)
{
    union place host = place(forward->v6, forward->address, forward->address6, forward->host);
    union place to = place(forward->v6, guest, guest6, forward->guest);
    socklen_t size = place_size(forward->v6);
    char text[FORWARD_TEXT];
    errno = 0;
    if (slirp_add_hostxfwd(u->slirp, &host.any, (int)size, &to.any, (int)size,
                           forward_flags(forward)) == 0) {
        loop_post(u->loop, &u->update);
        return OK;
    }
    int why = errno;
    forward_format(forward, text);
    if (why == EADDRINUSE)
        return error_set(e, ERR_BUSY,
                         "port %u of the host is taken, so %s cannot be; give another port",
                         forward->host, text);
    if (why == EACCES)
        return error_set(e, ERR_DENIED,
                         "port %u of the host is not for this user; give one from 1024 on",
                         forward->host);
    return error_set(e, ERR_UNSUPPORTED, "cannot forward %s: %s", text, strerror(why));
}

void uplink_unforward(struct uplink *u, const struct forward *forward)
{
    union place host = place(forward->v6, forward->address, forward->address6, forward->host);
    (void)slirp_remove_hostxfwd(u->slirp, &host.any, (int)place_size(forward->v6),
                                forward_flags(forward));
    loop_post(u->loop, &u->update);
}

unsigned uplink_sockets(const struct uplink *u)
{
    return u->count;
}
