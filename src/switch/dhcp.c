// DHCP (RFC 2131, 2132). DISCOVER, REQUEST and INFORM are answered; DECLINE and RELEASE
// change nothing, since an address belongs to its port. Not modelled: relays, client identifiers
// (the port is the identity), BOOTP.
#include "switch/dhcp.h"

#include <ctype.h>
#include <string.h>

#include "base/bytes.h"

#define HEADER 240 // up to and with the magic cookie
#define COOKIE 0x63825363u

enum {
    DISCOVER = 1,
    OFFER = 2,
    REQUEST = 3,
    ACK = 5,
    NAK = 6,
    INFORM = 8,

    OPT_PAD = 0,
    OPT_NETMASK = 1,
    OPT_ROUTER = 3,
    OPT_DNS = 6,
    OPT_HOSTNAME = 12,
    OPT_DOMAIN = 15,
    OPT_MTU = 26,
    OPT_BROADCAST = 28,
    OPT_REQUESTED = 50,
    OPT_LEASE = 51,
    OPT_TYPE = 53,
    OPT_SERVER = 54,
    OPT_RENEW = 58,
    OPT_REBIND = 59,
    OPT_END = 255,
};

struct request {
    uint8_t type;
    uint32_t requested, server;
    bool has_requested, has_server;
};

static bool read_options(struct request *r, const uint8_t *at, const uint8_t *end)
{
    *r = (struct request){0};
    while (at < end && *at != OPT_END) {
        if (*at == OPT_PAD) {
            at++;
            continue;
        }
        if (end - at < 2 || end - at - 2 < at[1])
            return false;
        uint8_t len = at[1];
        if (at[0] == OPT_TYPE && len == 1)
            r->type = at[2];
        if (at[0] == OPT_REQUESTED && len == 4) {
            r->requested = load_be32(at + 2);
            r->has_requested = true;
        }
        if (at[0] == OPT_SERVER && len == 4) {
            r->server = load_be32(at + 2);
            r->has_server = true;
        }
        at += 2 + len;
    }
    return r->type != 0;
}

// The type of the answer; 0: none. A client that asks another server, or for somebody else's
// address, is told in the first case nothing, in the second that it may not have it.
static uint8_t answer_type(const struct site *site, const struct dhcp_client *client,
                           const struct request *r, uint32_t in_use)
{
    if (r->has_server && r->server != site->self)
        return 0;
    uint32_t wanted = r->has_requested ? r->requested : in_use;
    switch (r->type) {
    case DISCOVER: return OFFER;
    case REQUEST: return wanted == client->address ? ACK : NAK;
    case INFORM: return ACK;
    default: return 0;
    }
}

// --- writing

struct writer {
    uint8_t *at;
};

static void put(struct writer *w, uint8_t option, const void *data, size_t len)
{
    *w->at++ = option;
    *w->at++ = (uint8_t)len;
    memcpy(w->at, data, len);
    w->at += len;
}

static void put32(struct writer *w, uint8_t option, uint32_t value)
{
    uint8_t bytes[4];
    store_be32(bytes, value);
    put(w, option, bytes, sizeof bytes);
}

// A VM's name as a host name: what comes before the first dot, without what names may not have.
static void put_hostname(struct writer *w, const char *name)
{
    char host[64];
    size_t len = 0;
    for (; *name && *name != '.' && len < sizeof host - 1; name++)
        host[len++] = *name == '_' ? '-' : (char)tolower((unsigned char)*name);
    while (len && host[len - 1] == '-')
        len--;
    if (len)
        put(w, OPT_HOSTNAME, host, len);
}

static void put_lease(struct writer *w)
{
    put32(w, OPT_LEASE, SITE_LEASE_SECONDS);
    put32(w, OPT_RENEW, SITE_LEASE_SECONDS / 2);
    put32(w, OPT_REBIND, SITE_LEASE_SECONDS * 7 / 8);
}

static void put_configuration(struct writer *w, const struct site *site, const char *name)
{
    uint8_t mtu[2];
    store_be16(mtu, (uint16_t)site->network->mtu);
    put32(w, OPT_NETMASK, site->netmask);
    put32(w, OPT_BROADCAST, site->broadcast);
    if (site->network->kind == NETWORK_NAT)
        put32(w, OPT_ROUTER, site->gateway);
    put32(w, OPT_DNS, site->self);
    put(w, OPT_DOMAIN, DHCP_DOMAIN, strlen(DHCP_DOMAIN));
    put(w, OPT_MTU, mtu, sizeof mtu);
    put_hostname(w, name);
}

size_t dhcp_answer(const struct site *site, const struct dhcp_client *client,
                   const uint8_t *request, size_t len, uint8_t *reply, bool *unicast)
{
    struct request r;
    if (len < HEADER || request[0] != 1 || request[1] != 1 || request[2] != 6 ||
        load_be32(request + 236) != COOKIE || memcmp(request + 28, client->mac, 6) != 0 ||
        !read_options(&r, request + HEADER, request + len))
        return 0;
    uint32_t in_use = load_be32(request + 12);
    uint8_t type = answer_type(site, client, &r, in_use);
    if (!type)
        return 0;
    memset(reply, 0, DHCP_REPLY_MAX);
    memcpy(reply, request, 8); // op, hardware, hops, transaction
    reply[0] = 2;
    reply[3] = 0;
    memcpy(reply + 10, request + 10, 2); // flags
    memcpy(reply + 28, request + 28, 16);
    store_be32(reply + 236, COOKIE);
    if (type != NAK)
        memcpy(reply + 12, request + 12, 4);
    if (type != NAK && r.type != INFORM)
        store_be32(reply + 16, client->address);
    struct writer w = {reply + HEADER};
    put(&w, OPT_TYPE, &type, 1);
    put32(&w, OPT_SERVER, site->self);
    if (type != NAK && r.type != INFORM)
        put_lease(&w);
    if (type != NAK)
        put_configuration(&w, site, client->name);
    *w.at++ = OPT_END;
    *unicast = type != NAK && in_use == client->address;
    size_t used = (size_t)(w.at - reply);
    return used < 300 ? 300 : used; // old clients want BOOTP's length
}
