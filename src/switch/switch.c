// Puts a network's parts together, and ends them.
#include "switch/switch.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "host/clock.h"
#include "host/random.h"

#define ADVERT_GAP (120 * NS_PER_SEC)
#define FLUSH_MS 1000

// --- between the parts

static void mirror(struct vswitch *sw, struct capture *capture, const uint8_t *packet, size_t len)
{
    if (capture_packet(capture, packet, len, host_wall_now(), sw->scratch))
        return;
    capture_close(capture);
    sw->captures--;
}

// Packets are captured where they come in; a capture of one port also has what is sent to it.
static void seen(void *opaque, struct port *from, const uint8_t *packet, size_t len)
{
    struct vswitch *sw = opaque;
    for (int i = 0; sw->captures && i < CAPTURES_MAX; i++) {
        struct capture *c = &sw->capture[i];
        if (c->used && (c->port < 0 || (from && c->port == from->index)))
            mirror(sw, c, packet, len);
    }
}

static void deliver(void *opaque, struct port *port, const uint8_t *packet, size_t len)
{
    struct vswitch *sw = opaque;
    for (int i = 0; sw->captures && i < CAPTURES_MAX; i++) {
        struct capture *c = &sw->capture[i];
        if (c->used && c->port == port->index)
            mirror(sw, c, packet, len);
    }
    link_send(port->link, packet, len);
}

static void to_host(void *opaque, struct port *from, struct frame *f)
{
    struct vswitch *sw = opaque;
    host_input(&sw->host, from, f, host_now());
}

static void to_outside(void *opaque, const uint8_t *frame, size_t len)
{
    struct vswitch *sw = opaque;
    uplink_send(sw->uplink, frame, len);
}

static void from_outside(void *opaque, const uint8_t *frame, size_t len)
{
    struct vswitch *sw = opaque;
    host_from_outside(&sw->host, frame, len, host_now());
}

static void outside_done(void *opaque)
{
    struct vswitch *sw = opaque;
    host_flush(&sw->host);
}

// --- time and signals

static void advertise(void *opaque)
{
    struct vswitch *sw = opaque;
    uint64_t now = host_now();
    if (sw->bridge.top)
        host_advertise(&sw->host, NULL, now);
    loop_timer_set(sw->loop, &sw->advert, now + ADVERT_GAP);
}

static void idle(void *opaque)
{
    struct vswitch *sw = opaque;
    if (!sw->bridge.top)
        loop_stop(sw->loop);
}

static void signalled(void *opaque, uint32_t events)
{
    struct vswitch *sw = opaque;
    loop_stop(sw->loop);
}

static err_t open_signals(struct vswitch *sw, struct error *e)
{
    static const int signals[] = {SIGTERM, SIGINT, 0};
    signal(SIGHUP, SIG_IGN); // it outlives the terminal that it was started from
    sw->signals = (struct loop_fd){.ready = signalled, .opaque = sw};
    return loop_signals(sw->loop, &sw->signals, signals, e);
}

// --- the parts

static void join_parts(struct vswitch *sw)
{
    const struct bridge_ops ops = {deliver, to_host, seen, sw};
    site_init(&sw->site, &sw->network);
    host_random(&sw->seed, sizeof sw->seed);
    bridge_init(&sw->bridge, &sw->site, &ops, sw->seed);
    sw->host.site = &sw->site;
    sw->host.bridge = &sw->bridge;
    sw->host.opaque = sw;
    host_init(&sw->host);
    sw->started = host_now();
    sw->advert = (struct loop_timer){.fire = advertise, .opaque = sw};
    sw->idle = (struct loop_timer){.fire = idle, .opaque = sw};
}

static err_t open_outside(struct vswitch *sw, struct error *e)
{
    const struct uplink_options options = {sw->loop, &sw->site, from_outside, outside_done, sw};
    if (!site_has_gateway(&sw->site))
        return OK;
    err_t err = uplink_new(&options, &sw->uplink, e);
    if (!err)
        sw->host.outside = to_outside;
    return err;
}

static err_t serve(struct vswitch *sw, struct error *e)
{
    const struct server_options options = {
        .loop = sw->loop, .listen_fd = sw->control_fd, .table = switch_requests, .context = sw};
    err_t err = server_new(&options, &sw->server, e);
    if (!err)
        sw->control_fd = -1;
    return err;
}

err_t switch_start(struct vswitch *sw, struct error *e)
{
    join_parts(sw);
    err_t err = open_signals(sw, e);
    if (!err)
        err = open_outside(sw, e);
    if (!err)
        err = serve(sw, e);
    if (err)
        return err;
    if (sw->network.idle_seconds)
        loop_timer_set(sw->loop, &sw->idle, host_now() + sw->network.idle_seconds * NS_PER_SEC);
    advertise(sw);
    return OK;
}

void switch_release(struct vswitch *sw)
{
    if (sw->loop)
        server_free(sw->server, FLUSH_MS);
    for (unsigned i = 0; i < PORTS_MAX; i++) {
        if (sw->bridge.port[i].used)
            switch_unplug(sw, &sw->bridge.port[i]);
    }
    for (int i = 0; i < CAPTURES_MAX; i++)
        capture_close(&sw->capture[i]);
    uplink_free(sw->uplink);
    if (sw->signals.fd > 0) {
        loop_fd_remove(sw->loop, &sw->signals);
        close(sw->signals.fd);
    }
    if (sw->control_fd >= 0)
        close(sw->control_fd);
    if (sw->loop) {
        loop_timer_set(sw->loop, &sw->idle, NS_NEVER);
        loop_timer_set(sw->loop, &sw->advert, NS_NEVER);
    }
    loop_free(sw->loop);
}
