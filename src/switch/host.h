// The network's own side: what answers at the gateway's and the switch's addresses (ARP, neighbour
// and router discovery, DHCP, DNS), and what goes out through the gateway and comes back.
//
// All discovery is done here, so that the NAT behind sees only datagrams that may go out, and
// guests never what it says about itself.
#pragma once

#include "switch/bridge.h"
#include "switch/coalesce.h"
#include "switch/dns.h"

#define HOST_ASKED6 64
#define HOST_ANSWERED 64

// A question that came over IPv6 and went to the host's name server over IPv4.
struct host_asked6 {
    uint64_t until; // 0: free
    uint32_t port4; // the asker's IPv4 address
    uint16_t from;  // its UDP port
    uint16_t id;    // the question's
    uint8_t to[16]; // the asker's address
};

// A connection to the host's name server that was answered here instead.
struct host_answered {
    bool used;
    uint8_t port;  // of the switch
    uint16_t from; // TCP port of the asker
};

struct host {
    const struct site *site;
    struct bridge *bridge;
    // A frame for the outside; without checksums or segments left to be made. NULL: there is none.
    void (*outside)(void *opaque, const uint8_t *frame, size_t len);
    void *opaque;
    struct coalesce coming;                        // segments from the outside
    uint64_t now;                                  // of what is coming
    uint8_t out[BRIDGE_HEADROOM + NET_PACKET_MAX]; // what is being sent
    uint8_t scratch[NET_PACKET_MAX];
    struct host_asked6 asked6[HOST_ASKED6]; // a ring: the oldest is forgotten
    unsigned next_asked6;
    struct host_answered answered[HOST_ANSWERED]; // likewise
    unsigned next_answered;
};

// Once, before any other; the members above are set by the caller.
void host_init(struct host *host);

// The bridge's to_host.
void host_input(struct host *host, struct port *from, struct frame *f, uint64_t now);

// A frame from the outside. It may wait for one that follows, until host_flush().
void host_from_outside(struct host *host, const uint8_t *frame, size_t len, uint64_t now);
void host_flush(struct host *host);

// Tells everybody (to NULL) or one port which prefix and router there are.
void host_advertise(struct host *host, const struct port *to, uint64_t now);

// --- the parts

// host_discovery.c. True: it was dealt with.
bool host_discovery(struct host *host, struct port *from, const struct frame *f, uint64_t now);
bool host_discovery_outside(struct host *host, const struct frame *f, uint64_t now);
// host_services.c: datagrams to the switch itself; false: it has no answer.
bool host_services(struct host *host, struct port *from, struct frame *f, uint64_t now);
// An answer of the host's name server; true: the question had come over IPv6, and it is answered.
bool host_answer6(struct host *host, const struct port *to, const struct frame *f, uint64_t now);
// The answer to a question about the network's own names, into reply (DNS_REPLY_MAX bytes); returns
// its length, 0: it is about others.
size_t host_answer_name(struct host *host, const struct dns_question *q, const uint8_t *query,
                        uint8_t *reply);
// host_tcp.c: a segment for the switch's DNS port, which may be changed; false: it is for the
// host's name server.
bool host_dns_tcp(struct host *host, struct port *from, struct frame *f, uint64_t now);
// host_gateway.c
void host_gateway(struct host *host, struct port *from, struct frame *f, uint64_t now);
void host_gateway_back(struct host *host, struct frame *f, uint64_t now);
// Whether the port's VM may ask the host's name server for a name; NULL: for names that are not
// looked at, as over TCP.
bool host_may_ask(const struct host *host, const struct port *from, const char *name);

// Begins a frame in host->out to a MAC; returns where its payload goes.
uint8_t *host_frame(struct host *host, const uint8_t *to, uint16_t type);
// Sends it, with so many bytes of payload.
void host_send(struct host *host, size_t payload, uint64_t now);
