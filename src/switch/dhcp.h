// The DHCP server: each port has its one address, which is never anybody else's.
#pragma once

#include "switch/site.h"

#define DHCP_REPLY_MAX 576
#define DHCP_DOMAIN "berth"

enum { DHCP_SERVER_PORT = 67, DHCP_CLIENT_PORT = 68 };

struct dhcp_client {
    const uint8_t *mac;
    uint32_t address;
    const char *name; // of the VM
};

// The answer to a client's message, into reply (DHCP_REPLY_MAX bytes); returns its length, 0: none.
// *unicast: to the client's address, else to everybody (255.255.255.255).
size_t dhcp_answer(const struct site *site, const struct dhcp_client *client,
                   const uint8_t *request, size_t len, uint8_t *reply, bool *unicast);
