// One virtual network's definition: what the command line or a file asks for, and what berth-switch
// gets. JSON form: docs/formats/network-definition.md. Defined networks are files of the user's.
#pragma once

#include "base/error.h"

#define NETWORK_NAME_MAX 63
#define NETWORK_POLICY_MAX 4095
#define NETWORK_MTU_MIN 1280 // what IPv6 asks for
#define NETWORK_MTU_MAX 9000
#define NETWORK_MTU_USUAL 1500
#define NETWORK_PREFIX_MIN 16
#define NETWORK_PREFIX_MAX 28
#define NETWORK_IDLE_MAX (366 * 24 * 3600)
#define NETWORK_RATE_MIN (64 * KIB) // bits a second
#define NETWORK_RATE_MAX (1ull << 43)

enum network_kind {
    NETWORK_NAT,     // VMs reach each other, the host and, through it, the outside
    NETWORK_HOST,    // each other and the host
    NETWORK_PRIVATE, // each other
    NETWORK_KINDS,
};

extern const char *const network_kinds[NETWORK_KINDS]; // "nat", "host", "private"

struct network {
    char name[NETWORK_NAME_MAX + 1];
    enum network_kind kind;
    uint32_t subnet;    // IPv4, host byte order; the host part is 0
    uint32_t prefix;    // its length: NETWORK_PREFIX_MIN..MAX
    uint8_t subnet6[8]; // the /64's prefix, where ipv6
    bool ipv6;
    bool isolated; // ports reach the gateway, not each other
    bool trusting; // any address may be used by any port
    uint32_t mtu;
    uint32_t idle_seconds; // without a port for so long, the switch ends; 0: it stays
    // Of every port, unless it has its own. Bits a second, 0: no limit.
    uint64_t limit_in, limit_out;        // to the VM, from the VM
    char policy[NETWORK_POLICY_MAX + 1]; // docs/switch.md, "Policy"; "": all is allowed
};

// Letters and digits of ASCII, and inside a name also . _ -: safe as a file's name, too.
bool network_name_valid(const char *name);
#define NETWORK_NAME_RULE "use 1 to 63 of A-Z a-z 0-9 . _ -, a letter or digit first"

// The network of which only the name is known: nat, subnets that follow from the name, no limits.
// ERR_INVALID: no name for a network.
err_t network_init(struct network *network, const char *name, struct error *e);

// "10.5.0.0/16". ERR_INVALID with the words.
err_t network_parse_subnet(struct network *network, const char *text, struct error *e);
// "fd00:1::/64", or "none": no IPv6.
err_t network_parse_subnet6(struct network *network, const char *text, struct error *e);
err_t network_parse_kind(struct network *network, const char *text, struct error *e);

// "10M", "1.5G" or "none" to bits a second; and back.
err_t network_rate_parse(const char *text, uint64_t *rate, struct error *e);
void network_rate_text(uint64_t rate, char *out, size_t size);

err_t network_check(const struct network *network, struct error *e);

// JSON text, allocated with malloc(); and back. Unknown, repeated, mistyped and out-of-range keys
// are ERR_INVALID with the key's name.
err_t network_save(const struct network *network, char **text, struct error *e);
err_t network_load(struct network *network, const char *text, size_t len, struct error *e);

// --- The user's defined networks: $XDG_DATA_HOME/berth/networks/NAME.json, by default below
// ~/.local/share

// ERR_NOT_FOUND: none of this name is defined. "default" is there without a file.
err_t network_find(const char *name, struct network *out, struct error *e);
// ERR_EXISTS: one of this name is defined.
err_t network_store(const struct network *network, struct error *e);
// The same, in the place of one that is there.
err_t network_replace(const struct network *network, struct error *e);
err_t network_remove(const char *name, struct error *e);
// Calls found() for each name, in their order; "default" is always one of them.
err_t network_each(void (*found)(void *opaque, const char *name), void *opaque, struct error *e);
