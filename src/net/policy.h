// Where a VM may connect to beyond its network: rules in words, and their verdict. docs/switch.md
// has the grammar:
//
//     allow deb.debian.org:443; allow 10.0.0.0/8/tcp; deny all
#pragma once

#include "base/error.h"
#include "net/network.h"

#define POLICY_RULES_MAX 64

enum policy_target {
    POLICY_ALL,
    POLICY_HOST,    // the gateway, which stands for the host
    POLICY_ADDRESS, // IPv6, or IPv4 as ::ffff:a.b.c.d
    POLICY_NAME,    // what DNS answered for a name
};

struct policy_rule {
    bool allow;
    bool subdomains; // "*.name": those below it, not itself
    enum policy_target target;
    uint8_t protocol;     // of IP; 0: any. ICMP stands for that of IPv6, too
    uint8_t prefix;       // bits of address
    uint16_t first, last; // ports; last 0: any
    uint8_t address[16];
    const char *name; // in the policy's text, in lower case
};

struct policy {
    unsigned count;
    bool otherwise; // what no rule matches is allowed
    struct policy_rule rule[POLICY_RULES_MAX];
    char text[NETWORK_POLICY_MAX + 1]; // cut into words
};

// "" and "open" allow all, "none" nothing. Otherwise rules, the first that matches decides; what
// none matches is allowed if no rule allows anything. The struct must not be copied.
err_t policy_parse(struct policy *policy, const char *text, struct error *e);

struct policy_destination {
    uint8_t address[16]; // IPv4 as ::ffff:a.b.c.d
    bool host;           // it is the gateway
    uint8_t protocol;
    uint16_t port;  // 0: the protocol has none
    uint64_t names; // bit i: rule i's name has this address
};

bool policy_allows(const struct policy *policy, const struct policy_destination *to);

// Whether the name (lower case, without a dot at its end) may be asked for. *rules: which rules its
// addresses fall under, bit by bit.
bool policy_resolves(const struct policy *policy, const char *name, uint64_t *rules);

// Whether all names may be asked for, and none matters to a rule.
bool policy_resolves_any(const struct policy *policy);
