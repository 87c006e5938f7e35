// Plugging in and out, and port forwards, which belong to the port they lead to.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/clock.h"
#include "switch/switch.h"

// --- forwards

static void note_udp(struct egress *egress, uint16_t port, bool add)
{
    for (int i = 0; egress && i < EGRESS_FORWARDS; i++) {
        if (egress->udp_forward[i] != (add ? 0 : port))
            continue;
        egress->udp_forward[i] = add ? port : 0;
        return;
    }
}

static bool same_place(const struct forward *a, const struct forward *b)
{
    return a->udp == b->udp && a->host == b->host && a->v6 == b->v6 && a->address == b->address &&
           !memcmp(a->address6, b->address6, sizeof a->address6);
}

static unsigned forwards_of(const struct vswitch *sw, const struct port *port)
{
    unsigned n = 0;
    for (int i = 0; i < FORWARDS_MAX; i++)
        n += sw->forward[i].used && sw->forward[i].port == port;
    return n;
}

static struct switch_forward *free_forward(struct vswitch *sw)
{
    for (int i = 0; i < FORWARDS_MAX; i++) {
        if (!sw->forward[i].used)
            return &sw->forward[i];
    }
    return NULL;
}

err_t switch_forward(struct vswitch *sw, struct port *port, const struct forward *forward,
                     struct error *e)
{
    struct switch_forward *f = free_forward(sw);
    if (!sw->uplink)
        return error_set(e, ERR_UNSUPPORTED,
                         "the network '%s' is private and cannot be reached from the host; use one "
                         "of kind nat or host",
                         sw->network.name);
    if (forward->v6 && !sw->network.ipv6)
        return error_set(e, ERR_UNSUPPORTED, "the network '%s' has no IPv6", sw->network.name);
    if (!f || forwards_of(sw, port) >= EGRESS_FORWARDS)
        return error_set(e, ERR_BUSY, "there are too many port forwards; remove one");
    err_t err = uplink_forward(sw->uplink, forward, port->address, port->address6, e);
    if (err)
        return err;
    *f = (struct switch_forward){true, *forward, port};
    if (forward->udp)
        note_udp(port->egress, forward->guest, true);
    return OK;
}

static void end_forward(struct vswitch *sw, struct switch_forward *f)
{
    uplink_unforward(sw->uplink, &f->forward);
    if (f->forward.udp)
        note_udp(f->port->egress, f->forward.guest, false);
    f->used = false;
}

err_t switch_unforward(struct vswitch *sw, const struct forward *forward, struct error *e)
{
    char text[FORWARD_TEXT];
    for (int i = 0; i < FORWARDS_MAX; i++) {
        struct switch_forward *f = &sw->forward[i];
        if (!f->used || !same_place(&f->forward, forward))
            continue;
        end_forward(sw, f);
        return OK;
    }
    forward_format(forward, text);
    return error_set(e, ERR_NOT_FOUND, "nothing is forwarded from %s; berth port ls shows what is",
                     text);
}

static err_t forward_all(struct vswitch *sw, struct port *port, const char *list, struct error *e)
{
    struct forward forward;
    err_t err = OK;
    while (!err && *list) {
        if (forward_next(&list, &forward))
            err = switch_forward(sw, port, &forward, e);
        else
            err = error_set(e, ERR_INVALID,
                            "forwards: '%.60s' is no list of tcp:ADDRESS:HOST:GUEST or udp:...",
                            list);
    }
    return err;
}

// --- ports

static void gone(void *opaque, struct link *link)
{
    switch_unplug(opaque, link->port);
}

static err_t open_link(struct vswitch *sw, struct port *port, const struct switch_plug *plug,
                       int *peer, struct error *e)
{
    struct link *link = calloc(1, sizeof *link);
    if (!link)
        return error_set(e, ERR_NO_MEMORY, "no memory for one more port");
    *link = (struct link){.loop = sw->loop,
                          .bridge = &sw->bridge,
                          .port = port,
                          .buffers = &sw->buffers,
                          .limit_in = plug->limit_in,
                          .limit_out = plug->limit_out,
                          .priority = plug->priority,
                          .shares = LINK_SHARES,
                          .gone = gone,
                          .opaque = sw};
    err_t err = link_open(link, plug->rings, peer, e);
    if (err)
        free(link);
    else
        port->link = link;
    return err;
}

err_t switch_plug(struct vswitch *sw, const struct switch_plug *plug, struct port **out, int *peer,
                  struct error *e)
{
    struct port *port;
    *peer = -1;
    err_t err = bridge_plug(&sw->bridge, &plug->port, host_now(), &port, e);
    if (err)
        return err;
    if (sw->uplink)
        err = egress_new(plug->policy, sw->seed, &port->egress, e);
    if (!err)
        err = open_link(sw, port, plug, peer, e);
    if (!err)
        err = forward_all(sw, port, plug->forwards, e);
    if (err) {
        if (*peer >= 0)
            close(*peer);
        *peer = -1;
        switch_unplug(sw, port);
        return err;
    }
    *out = port;
    host_advertise(&sw->host, port, host_now());
    return OK;
}

void switch_unplug(struct vswitch *sw, struct port *port)
{
    struct link *link = port->link;
    for (int i = 0; i < FORWARDS_MAX; i++) {
        if (sw->forward[i].used && sw->forward[i].port == port)
            end_forward(sw, &sw->forward[i]);
    }
    for (int i = 0; i < CAPTURES_MAX; i++) {
        struct capture *c = &sw->capture[i];
        if (!c->used || c->port != port->index)
            continue;
        capture_close(c);
        sw->captures--;
    }
    if (link)
        link_close(link);
    free(link);
    egress_free(port->egress);
    bridge_unplug(&sw->bridge, port);
    if (!sw->bridge.top && sw->network.idle_seconds)
        loop_timer_set(sw->loop, &sw->idle, host_now() + sw->network.idle_seconds * NS_PER_SEC);
}
