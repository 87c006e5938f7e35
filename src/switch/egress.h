// What one VM may have to do with what lies beyond its network: its policy, the addresses it has
// learnt by allowed or denied names, and its connections, which are bounded.
#pragma once

#include "net/policy.h"
#include "switch/frame.h"

#define EGRESS_NAMES 256
#define EGRESS_FLOWS 2048
#define EGRESS_FORWARDS 64

struct egress_name {
    uint8_t address[16];
    uint64_t rules;   // of the policy
    uint64_t expires; // host time
};

struct egress_flow {
    uint8_t remote[16];
    uint16_t remote_port, port;
    uint8_t protocol; // 0: free
    bool inbound;     // began outside
    bool closing;
    uint32_t generation; // of the policy that let it through
    uint64_t seen;       // host time
};

struct egress {
    struct policy policy;
    char said[NETWORK_POLICY_MAX + 1]; // the policy as it was given
    uint32_t generation;
    uint64_t seed;
    uint16_t udp_forward[EGRESS_FORWARDS]; // ports of the VM that the host forwards to; 0: none
    struct egress_name name[EGRESS_NAMES];
    struct egress_flow flow[EGRESS_FLOWS];
};

err_t egress_new(const char *policy, uint64_t seed, struct egress **out, struct error *e);
void egress_free(struct egress *egress); // accepts NULL
// Connections that the new policy does not allow end.
err_t egress_set_policy(struct egress *egress, const char *policy, struct error *e);

enum egress_verdict { EGRESS_PASS, EGRESS_DENIED, EGRESS_TOO_MANY };

// For a datagram that leaves. asked: it is a question to the name server, which has been judged by
// its name.
enum egress_verdict egress_out(struct egress *egress, const struct frame *f, bool host, bool asked,
                               uint64_t now);
// Notes one that comes in.
void egress_in(struct egress *egress, const struct frame *f, uint64_t now);

// An address that DNS gave for a name that falls under rules of the policy.
void egress_learn(struct egress *egress, const uint8_t address[16], uint64_t rules,
                  uint32_t ttl_seconds, uint64_t now);

// IPv4 as ::ffff:a.b.c.d.
void egress_map(uint8_t out[16], const uint8_t *ipv4);
