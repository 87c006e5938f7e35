// Connections of one port to the outside. A connection is judged when it begins, and again when the
// policy changes. What began outside (through a forward) is answered whatever the policy says: for
// TCP it takes a SYN from there, for UDP a datagram to a forwarded port. Idle times are those after
// which the NAT behind forgets, too. Not modelled: TCP's state; a FIN or RST only makes an entry
// age fast.
#include "switch/egress.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

#define WINDOW 16 // entries in which a connection may be
#define TTL_MIN 60
#define TTL_MAX (24 * 3600)

static const struct {
    uint64_t tcp, closing, udp, dns, icmp;
} idle = {7200 * NS_PER_SEC, 60 * NS_PER_SEC, 240 * NS_PER_SEC, 12 * NS_PER_SEC, 60 * NS_PER_SEC};

err_t egress_new(const char *policy, uint64_t seed, struct egress **out, struct error *e)
{
    struct egress *egress = calloc(1, sizeof *egress);
    if (!egress)
        return error_set(e, ERR_NO_MEMORY, "no memory for one more port");
    egress->seed = seed;
    err_t err = egress_set_policy(egress, policy, e);
    if (err)
        free(egress);
    else
        *out = egress;
    return err;
}

void egress_free(struct egress *egress)
{
    free(egress);
}

err_t egress_set_policy(struct egress *egress, const char *policy, struct error *e)
{
    struct policy *trial = malloc(sizeof *trial);
    if (!trial)
        return error_set(e, ERR_NO_MEMORY, "no memory for a policy");
    err_t err = policy_parse(trial, policy, e);
    free(trial);
    if (err)
        return err;
    strcpy(egress->said, policy);
    egress->generation++;
    memset(egress->name, 0, sizeof egress->name);
    return policy_parse(&egress->policy, policy, e);
}

void egress_map(uint8_t out[16], const uint8_t *ipv4)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    memcpy(out, mapped, 12);
    memcpy(out + 12, ipv4, 4);
}

// --- connections

static uint64_t idle_of(const struct egress_flow *flow)
{
    switch (flow->protocol) {
    case PROTOCOL_TCP: return flow->closing ? idle.closing : idle.tcp;
    case PROTOCOL_UDP: return flow->remote_port == 53 ? idle.dns : idle.udp;
    default: return idle.icmp;
    }
}

static bool live(const struct egress_flow *flow, uint64_t now)
{
    return flow->protocol && now - flow->seen < idle_of(flow);
}

static void key_of(struct egress_flow *key, const struct frame *f, bool out)
{
    const uint8_t *source = f->l3 + (f->kind == FRAME_IPV6 ? 8 : 12);
    size_t size = f->kind == FRAME_IPV6 ? 16 : 4;
    const uint8_t *remote = out ? source + size : source;
    *key = (struct egress_flow){.protocol = f->protocol};
    if (size == 16)
        memcpy(key->remote, remote, 16);
    else
        egress_map(key->remote, remote);
    if (f->protocol == PROTOCOL_TCP || f->protocol == PROTOCOL_UDP) {
        key->remote_port = out ? f->to : f->from;
        key->port = out ? f->from : f->to;
    } else if (f->l4_len >= 6) {
        key->port = load_be16(f->l4 + 4); // ICMP's echo: its identifier
    }
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15;
    return h ^ h >> 32;
}

static bool same(const struct egress_flow *a, const struct egress_flow *b)
{
    return a->protocol == b->protocol && a->port == b->port && a->remote_port == b->remote_port &&
           !memcmp(a->remote, b->remote, 16);
}

// The connection's entry, or one to put it in (then *found is false); NULL: there is no room.
static struct egress_flow *lookup(struct egress *egress, const struct egress_flow *key, bool *found,
                                  uint64_t now)
{
    uint64_t ports = (uint64_t)key->protocol << 32 | (uint32_t)key->port << 16 | key->remote_port;
    uint64_t h = mix(egress->seed, ports);
    h = mix(mix(h, load_le64(key->remote)), load_le64(key->remote + 8));
    struct egress_flow *room = NULL;
    for (size_t i = 0; i < WINDOW; i++) {
        struct egress_flow *flow = &egress->flow[(h + i) % EGRESS_FLOWS];
        bool alive = live(flow, now);
        *found = alive && same(flow, key);
        if (*found)
            return flow;
        if (!alive && !room)
            room = flow;
    }
    return room;
}

static void note(struct egress_flow *flow, const struct frame *f, uint64_t now)
{
    flow->seen = now;
    if (f->protocol == PROTOCOL_TCP && f->tcp_flags & (TCP_FIN | TCP_RST))
        flow->closing = true;
}

static uint64_t names_of(const struct egress *egress, const uint8_t address[16], uint64_t now)
{
    uint64_t rules = 0;
    for (int i = 0; i < EGRESS_NAMES; i++) {
        const struct egress_name *n = &egress->name[i];
        if (n->rules && n->expires > now && !memcmp(n->address, address, 16))
            rules |= n->rules;
    }
    return rules;
}

static bool allowed(const struct egress *egress, const struct egress_flow *key, bool host,
                    uint64_t now)
{
    struct policy_destination to = {.host = host,
                                    .protocol = key->protocol,
                                    .port = key->remote_port,
                                    .names = names_of(egress, key->remote, now)};
    memcpy(to.address, key->remote, 16);
    return policy_allows(&egress->policy, &to);
}

enum egress_verdict egress_out(struct egress *egress, const struct frame *f, bool host, bool asked,
                               uint64_t now)
{
    struct egress_flow key, *flow;
    bool found;
    if (f->fragment) // without the first piece, which was judged, nothing is put together
        return EGRESS_PASS;
    if (!f->l4)
        return EGRESS_DENIED;
    key_of(&key, f, true);
    flow = lookup(egress, &key, &found, now);
    if (found && (flow->inbound || asked || flow->generation == egress->generation)) {
        note(flow, f, now);
        return EGRESS_PASS;
    }
    if (!asked && !allowed(egress, &key, host, now)) {
        if (found)
            flow->protocol = 0;
        return EGRESS_DENIED;
    }
    // What belongs to no connection is answered by a reset, and begins none.
    if (!found && f->protocol == PROTOCOL_TCP && !(f->tcp_flags & TCP_SYN))
        return EGRESS_PASS;
    if (!flow)
        return EGRESS_TOO_MANY;
    if (!found)
        *flow = key;
    flow->generation = egress->generation;
    if (f->tcp_flags & TCP_SYN)
        flow->closing = false;
    note(flow, f, now);
    return EGRESS_PASS;
}

static bool forwarded(const struct egress *egress, uint16_t port)
{
    for (int i = 0; i < EGRESS_FORWARDS; i++) {
        if (egress->udp_forward[i] == port)
            return port != 0;
    }
    return false;
}

static bool begins(const struct egress *egress, const struct frame *f)
{
    if (f->protocol == PROTOCOL_TCP)
        return (f->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
    return f->protocol == PROTOCOL_UDP && forwarded(egress, f->to);
}

void egress_in(struct egress *egress, const struct frame *f, uint64_t now)
{
    struct egress_flow key, *flow;
    bool found;
    if (!f->l4)
        return;
    key_of(&key, f, false);
    flow = lookup(egress, &key, &found, now);
    if (!flow || (!found && !begins(egress, f)))
        return;
    if (!found) {
        *flow = key;
        flow->inbound = true;
    }
    note(flow, f, now);
}

// --- names

void egress_learn(struct egress *egress, const uint8_t address[16], uint64_t rules,
                  uint32_t ttl_seconds, uint64_t now)
{
    struct egress_name *best = &egress->name[0];
    uint32_t ttl = ttl_seconds < TTL_MIN ? TTL_MIN : ttl_seconds > TTL_MAX ? TTL_MAX : ttl_seconds;
    for (int i = 0; i < EGRESS_NAMES; i++) {
        struct egress_name *n = &egress->name[i];
        if (n->rules == rules && !memcmp(n->address, address, 16)) {
            best = n;
            break;
        }
        if (n->expires < best->expires)
            best = n;
    }
    memcpy(best->address, address, 16);
    best->rules = rules;
    best->expires = now + ttl * NS_PER_SEC;
}
