// DHCPv6 (RFC 8415, 3646). An address belongs to its port, so that all that a client can do is to
// ask for it: RELEASE and DECLINE change nothing. Not modelled: relays, temporary addresses,
// delegated prefixes, authentication, reconfiguration.
#include "switch/dhcp6.h"

#include <string.h>

#include "base/bytes.h"
#include "switch/dns.h"

#define HEADER 4 // type and transaction
#define CLIENT_ID_MAX 130
#define ADDRESS_BYTES 28 // of an address in an answer, with its header
#define DUID_BYTES 10    // ours

enum {
    SOLICIT = 1,
    ADVERTISE = 2,
    REQUEST = 3,
    CONFIRM = 4,
    RENEW = 5,
    REBIND = 6,
    REPLY = 7,
    RELEASE = 8,
    DECLINE = 9,
    INFORMATION = 11,

    OPT_CLIENT = 1,
    OPT_SERVER = 2,
    OPT_IA = 3,
    OPT_ADDRESS = 5,
    OPT_STATUS = 13,
    OPT_RAPID = 14,
    OPT_DNS = 23,
    OPT_DOMAINS = 24,

    STATUS_SUCCESS = 0,
    STATUS_NOT_ON_LINK = 4,
};

const uint8_t dhcp6_group[16] = {0xff, 2, [13] = 1, [15] = 2};

struct request {
    uint8_t type;
    bool rapid, has_server;
    bool ours;                // the server that is meant is we
    const uint8_t *client;    // its identifier; NULL: none
    const uint8_t *addresses; // its first identity association; NULL: none
    uint16_t client_len, addresses_len;
};

static void make_duid(const struct site *site, uint8_t duid[DUID_BYTES])
{
    memcpy(duid, (const uint8_t[]){0, 3, 0, 1}, 4); // of a link-layer address, Ethernet's
    memcpy(duid + 4, site->mac, 6);
}

static void read_option(struct request *r, const struct site *site, uint16_t option,
                        const uint8_t *at, uint16_t len)
{
    uint8_t duid[DUID_BYTES];
    switch (option) {
    case OPT_CLIENT:
        r->client = at;
        r->client_len = len;
        break;
    case OPT_SERVER:
        make_duid(site, duid);
        r->has_server = true;
        r->ours = len == sizeof duid && !memcmp(at, duid, sizeof duid);
        break;
    case OPT_IA:
        if (!r->addresses && len >= 12) {
            r->addresses = at;
            r->addresses_len = len;
        }
        break;
    case OPT_RAPID: r->rapid = true; break;
    default: break;
    }
}

static bool read_request(struct request *r, const struct site *site, const uint8_t *at, size_t len)
{
    const uint8_t *end = at + len;
    if (len < HEADER)
        return false;
    *r = (struct request){.type = at[0]};
    for (at += HEADER; at < end;) {
        if (end - at < 4 || end - at - 4 < load_be16(at + 2))
            return false;
        read_option(r, site, load_be16(at), at + 4, load_be16(at + 2));
        at += 4 + load_be16(at + 2);
    }
    return r->client_len <= CLIENT_ID_MAX;
}

// RFC 8415, 16: which messages are answered at all.
static bool valid(const struct request *r)
{
    switch (r->type) {
    case SOLICIT:
    case REBIND: return r->client && !r->has_server;
    case CONFIRM: return r->client && !r->has_server && r->addresses;
    case REQUEST:
    case RENEW:
    case RELEASE:
    case DECLINE: return r->client && r->ours;
    case INFORMATION: return !r->addresses && (r->ours || !r->has_server);
    default: return false;
    }
}

// --- writing

struct writer {
    uint8_t *at;
};

static uint8_t *begin(struct writer *w, uint16_t option, size_t len)
{
    uint8_t *data = w->at + 4;
    store_be16(w->at, option);
    store_be16(w->at + 2, (uint16_t)len);
    w->at = data + len;
    return data;
}

static void put(struct writer *w, uint16_t option, const void *data, size_t len)
{
    memcpy(begin(w, option, len), data, len);
}

static void put_status(struct writer *w, uint16_t status)
{
    store_be16(begin(w, OPT_STATUS, 2), status);
}

// Under the identifier that the client has for it.
static void put_address(struct writer *w, const struct request *r, const uint8_t address[16])
{
    uint8_t *ia = begin(w, OPT_IA, 12 + ADDRESS_BYTES);
    memcpy(ia, r->addresses, 4);
    store_be32(ia + 4, SITE_LEASE_SECONDS / 2);
    store_be32(ia + 8, SITE_LEASE_SECONDS * 7 / 8);
    store_be16(ia + 12, OPT_ADDRESS);
    store_be16(ia + 14, ADDRESS_BYTES - 4);
    memcpy(ia + 16, address, 16);
    store_be32(ia + 32, SITE_LEASE_SECONDS);
    store_be32(ia + 36, SITE_LEASE_SECONDS);
}

static void put_names(struct writer *w, const struct site *site)
{
    uint8_t *domain;
    put(w, OPT_DNS, site->self6, 16);
    domain = begin(w, OPT_DOMAINS, sizeof DNS_DOMAIN + 1);
    domain[0] = sizeof DNS_DOMAIN - 1;
    memcpy(domain + 1, DNS_DOMAIN, sizeof DNS_DOMAIN);
}

// Whether all addresses that the client thinks it has could be of this network.
static bool on_link(const struct site *site, const struct request *r)
{
    const uint8_t *at = r->addresses + 12, *end = r->addresses + r->addresses_len;
    while (end - at >= 4 && end - at - 4 >= load_be16(at + 2)) {
        uint16_t len = load_be16(at + 2);
        if (load_be16(at) == OPT_ADDRESS && len >= 24 && !site_contains6(site, at + 4))
            return false;
        at += 4 + len;
    }
    return true;
}

size_t dhcp6_answer(const struct site *site, const uint8_t address[16], const uint8_t *request,
                    size_t len, uint8_t *reply)
{
    struct request r;
    struct writer w = {reply + HEADER};
    uint8_t duid[DUID_BYTES];
    if (!read_request(&r, site, request, len) || !valid(&r))
        return 0;
    reply[0] = r.type == SOLICIT && !r.rapid ? ADVERTISE : REPLY;
    memcpy(reply + 1, request + 1, 3);
    make_duid(site, duid);
    put(&w, OPT_SERVER, duid, sizeof duid);
    if (r.client)
        put(&w, OPT_CLIENT, r.client, r.client_len);
    if (r.type == SOLICIT && r.rapid)
        (void)begin(&w, OPT_RAPID, 0);
    if (r.type == RELEASE || r.type == DECLINE) {
        put_status(&w, STATUS_SUCCESS);
    } else if (r.type == CONFIRM) {
        put_status(&w, on_link(site, &r) ? STATUS_SUCCESS : STATUS_NOT_ON_LINK);
    } else {
        if (r.addresses)
            put_address(&w, &r, address);
        put_names(&w, site);
    }
    return (size_t)(w.at - reply);
}
