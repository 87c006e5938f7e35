// The DHCPv6 server: name servers for those who ask for no more, and for those who want an address
// from it each port's own, the one that a station makes of its MAC.
#pragma once

#include "switch/site.h"

#define DHCP6_REPLY_MAX 512

enum { DHCP6_SERVER_PORT = 547, DHCP6_CLIENT_PORT = 546 };

// All servers and relays: where clients ask.
extern const uint8_t dhcp6_group[16];

// The answer to a message of the client with this address, into reply (DHCP6_REPLY_MAX bytes);
// returns its length, 0: none.
size_t dhcp6_answer(const struct site *site, const uint8_t address[16], const uint8_t *request,
                    size_t len, uint8_t *reply);
