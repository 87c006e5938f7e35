// The names of a network: its VMs, the gateway and their addresses, both ways. Everything else is
// for somebody else to answer.
#pragma once

#include "base/error.h"

#define DNS_NAME_MAX 254    // with the NUL
#define DNS_REPLY_MAX 512   // of our answers
#define DNS_ADDRESSES_MAX 8 // of one name
#define DNS_TTL 5           // VMs come and go
#define DNS_DOMAIN "berth"

enum { DNS_PORT = 53 };

struct dns_question {
    char name[DNS_NAME_MAX]; // lower case, without the dot at the end; "" is the root
    uint16_t type, class;
    size_t end; // bytes of the message up to and with the question
};

// Reads a message's one question. False: it is none that can be answered.
bool dns_read_question(struct dns_question *q, const uint8_t *message, size_t len);

struct dns_addresses {
    unsigned count4, count6;
    uint32_t ipv4[DNS_ADDRESSES_MAX]; // host byte order
    uint8_t ipv6[DNS_ADDRESSES_MAX][16];
};

// What the network knows.
struct dns_zone {
    // Addresses of a VM (its name in lower case) or of "gateway"; false: there is none.
    bool (*addresses)(void *opaque, const char *name, struct dns_addresses *out);
    // The name behind an address. *ours: it is one of the network's. exactly one is given.
    bool (*name)(void *opaque, const uint32_t *ipv4, const uint8_t *ipv6, bool *ours,
                 char name[64]);
    void *opaque;
};

// The answer to a query about the network's names, into reply (DNS_REPLY_MAX bytes); returns its
// length, 0: the name is none of the network's.
size_t dns_answer(const struct dns_zone *zone, const struct dns_question *q, const uint8_t *query,
                  uint8_t *reply);
// The answer that it will not be answered.
size_t dns_refuse(const struct dns_question *q, const uint8_t *query, uint8_t *reply);

// Calls found() for each address in somebody's answer to the question at its start. IPv4 as
// ::ffff:a.b.c.d. What is malformed ends it.
void dns_each_address(const uint8_t *message, size_t len, struct dns_question *q,
                      void (*found)(void *opaque, const struct dns_question *q,
                                    const uint8_t address[16], uint32_t ttl),
                      void *opaque);
