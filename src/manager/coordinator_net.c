// Dividing network bandwidth. Where a pool or a VM has a limit of it, each way is divided among the
// VMs below by shares and reservations and by what they do, once a second, and becomes bounds of
// their cards' ports; and each network divides itself by the shares of the VMs in it when it is
// busy (switch/link.h). Networks are asked only while there is something to divide.
//
// Not modelled: how fast the host's networks are.
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "control/registry.h"
#include "host/clock.h"
#include "manager/coordinator_impl.h"
#include "manager/link.h"
#include "net/network.h"

#define SHARES_MEAN 100 // of ports
#define SHARES_MOST 1000

enum way { WAY_IN, WAY_OUT, WAYS }; // to the VM, from it

struct net_watch {
    struct net_watch *next;
    struct coordinator *c;
    struct link *link; // NULL: the network is gone
    bool asked, there;
    char name[REGISTRY_NAME_MAX + 1];
};

// --- what there is to divide

static bool has_card(void *opaque, const struct tenant *t)
{
    return t->use.pid && t->use.nets;
}

static bool is_told(const struct tenant_use *u)
{
    for (unsigned i = 0; i < u->nets; i++) {
        const struct net_use *n = &u->net[i];
        if (n->told[WAY_IN] || n->told[WAY_OUT] || n->shares != SHARES_MEAN)
            return true;
    }
    return false;
}

static bool is_unusual(const struct allotment *a)
{
    return a->limit[RES_NET] || a->shares[RES_NET] != SHARES_DEFAULT;
}

static bool anything(const struct pools *pools)
{
    bool any = is_unusual(&pools->root.a);
    for (const struct pool *p = pools->list; p; p = p->next)
        any |= is_unusual(&p->a);
    for (const struct tenant *t = pools->tenants; t; t = t->next)
        any |= t->use.pid && (is_unusual(&t->a) || is_told(&t->use));
    return any;
}

// --- looking

static struct net_use *card_of(struct tenant_use *u, const char *network, unsigned nic)
{
    for (unsigned i = 0; i < u->nets; i++) {
        if (u->net[i].nic == nic && !strcmp(u->net[i].network, network))
            return &u->net[i];
    }
    if (u->nets == TENANT_NICS)
        return NULL;
    struct net_use *n = &u->net[u->nets++];
    *n = (struct net_use){.nic = nic};
    snprintf(n->network, sizeof n->network, "%s", network);
    return n;
}

static uint64_t number(const json_t *object, const char *name)
{
    json_int_t n = json_integer_value(json_object_get(object, name));
    return n > 0 ? (uint64_t)n : 0;
}

// What holds there is read, too, as an earlier manager may have said it.
static void look(struct net_use *n, const json_t *port, uint64_t now)
{
    const json_t *counters = json_object_get(port, "counters");
    const uint64_t bytes[] = {number(counters, "bytes_in"), number(counters, "bytes_out")};
    double seconds = n->at ? (double)(now - n->at) / NS_PER_SEC : 0;
    for (int way = 0; way < WAYS; way++) {
        bool known = seconds > 0 && bytes[way] >= n->bytes[way];
        n->rate[way] = known ? (uint64_t)((double)(bytes[way] - n->bytes[way]) * 8 / seconds) : 0;
        n->bytes[way] = bytes[way];
    }
    n->told[WAY_IN] = number(port, "bound_in");
    n->told[WAY_OUT] = number(port, "bound_out");
    n->shares = number(port, "shares");
    n->at = now;
}

static void got_info(void *opaque, json_t *info, const struct error *e)
{
    struct net_watch *watch = opaque;
    watch->asked = false;
    size_t i;
    json_t *port;
    json_array_foreach(json_object_get(info, "ports"), i, port)
    {
        const char *vm = json_string_value(json_object_get(port, "vm"));
        for (struct tenant *t = watch->c->pools->tenants; vm && t; t = t->next) {
            struct net_use *n = t->use.pid && !strcmp(t->vm->name, vm)
                                    ? card_of(&t->use, watch->name, (unsigned)number(port, "nic"))
                                    : NULL;
            if (n)
                look(n, port, host_now());
        }
    }
    json_decref(info);
}

static void lost(void *opaque)
{
    struct net_watch *watch = opaque;
    link_free(watch->link);
    watch->link = NULL;
}

static void ignore_event(void *opaque, json_t *event)
{
}

static struct net_watch *find(struct coordinator *c, const char *name)
{
    struct net_watch *w = c->nets;
    while (w && strcmp(w->name, name))
        w = w->next;
    return w;
}

static void found(void *opaque, const char *name)
{
    struct coordinator *c = opaque;
    struct net_watch *w = find(c, name);
    int fd;
    if (!w) {
        w = calloc(1, sizeof *w);
        if (!w)
            return;
        *w = (struct net_watch){.next = c->nets, .c = c};
        snprintf(w->name, sizeof w->name, "%s", name);
        c->nets = w;
    }
    w->there = true;
    const struct link_user user = {.event = ignore_event, .lost = lost, .opaque = w};
    if (!w->link && !registry_connect(REGISTRY_NETWORK, name, &fd, NULL) &&
        link_new(c->pools->manager->loop, fd, &user, &w->link, NULL))
        w->link = NULL;
    if (w->link && !w->asked)
        w->asked = !link_ask(w->link, "info", NULL, got_info, w, NULL);
}

static void leave(struct net_watch **at)
{
    struct net_watch *w = *at;
    *at = w->next;
    link_free(w->link);
    free(w);
}

static void look_around(struct coordinator *c)
{
    for (struct net_watch *w = c->nets; w; w = w->next)
        w->there = false;
    if (registry_each(REGISTRY_NETWORK, found, c, NULL))
        return;
    for (struct net_watch **at = &c->nets; *at;) {
        if ((*at)->there)
            at = &(*at)->next;
        else
            leave(at);
    }
}

void coordinator_leave_nets(struct coordinator *c)
{
    while (c->nets)
        leave(&c->nets);
}

// --- dividing

static uint64_t demand(const struct tenant *t, unsigned way)
{
    uint64_t rate = 0, told = 0;
    for (unsigned i = 0; i < t->use.nets; i++) {
        rate += t->use.net[i].rate[way];
        told += t->use.net[i].told[way];
    }
    return rate_demand(rate, told, NETWORK_RATE_MIN);
}

static uint64_t *given(struct tenant *t, unsigned way)
{
    return &t->use.net_given[way];
}

// What a port's turn is: the VM's part of a network that all want more of than there is.
static uint64_t shares_of(const struct tenant *t, uint64_t cards)
{
    uint64_t shares = t->slice.got * cards / 10000;
    return min_u64(max_u64(shares, 1), SHARES_MOST);
}

// --- telling

static void ignore(void *opaque, json_t *result, const struct error *e)
{
    json_decref(result);
}

static uint64_t part_of(const struct tenant_use *u, unsigned card, enum way way)
{
    uint64_t rates = 0;
    for (unsigned i = 0; i < u->nets; i++)
        rates += u->net[i].rate[way];
    return rate_part(u->net_given[way], u->nets, u->net[card].rate[way], rates, NETWORK_RATE_MIN);
}

static void tell(struct coordinator *c, struct tenant *t, uint64_t shares)
{
    struct tenant_use *u = &t->use;
    for (unsigned i = 0; i < u->nets; i++) {
        const struct net_use *n = &u->net[i];
        struct net_watch *w = find(c, n->network);
        uint64_t in = part_of(u, i, WAY_IN), out = part_of(u, i, WAY_OUT);
        if (!w || !w->link ||
            (!rate_is_news(in, n->told[WAY_IN]) && !rate_is_news(out, n->told[WAY_OUT]) &&
             !rate_is_news(shares, n->shares)))
            continue;
        (void)!link_ask(w->link, "set",
                        json_pack("{s:s, s:i, s:I, s:I, s:I}", "vm", t->vm->name, "nic",
                                  (int)n->nic, "bound_in", (json_int_t)in, "bound_out",
                                  (json_int_t)out, "shares", (json_int_t)shares),
                        ignore, NULL, NULL);
    }
}

void coordinate_nets(struct coordinator *c, uint64_t now)
{
    struct pools *pools = c->pools;
    uint64_t cards = 0;
    if (!anything(pools)) {
        coordinator_leave_nets(c);
        return;
    }
    look_around(c);
    for (int way = 0; way < WAYS; way++)
        rates_divide(pools,
                     &(struct rate_division){RES_NET, has_card, demand, given, (unsigned)way});
    pools_slices(pools, RES_NET, has_card, NULL);
    pools->root.slice.limit = SLICE_NO_LIMIT; // shares alone count
    for (struct pool *p = pools->list; p; p = p->next) {
        p->slice.limit = SLICE_NO_LIMIT;
        p->slice.reservation = 0;
    }
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        t->slice.demand = 1000000;
        t->slice.limit = SLICE_NO_LIMIT;
        t->slice.reservation = 0;
        cards += has_card(NULL, t);
    }
    divide(&pools->root.slice, 1000000);
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        if (has_card(NULL, t))
            tell(c, t, shares_of(t, cards));
    }
}
