// Whose addresses a port may use: its own MAC, the IPv4 address it was given, and IPv6 addresses
// that nobody else had first. Also keeps ports from playing router, DHCP server or the switch.
#pragma once

#include "switch/frame.h"
#include "switch/port.h"
#include "switch/site.h"

// ports: PORTS_MAX of them. True when the frame may pass; then notes the IPv6 addresses it shows to
// be the port's. A trunk or a trusting port may use any but the gateway's and the switch's.
bool guard_check(struct port *ports, struct port *port, const struct site *site,
                 const struct frame *f, uint64_t now);

// Whether the port has been seen to use this IPv6 address.
bool guard_shows6(struct port *port, const uint8_t address[16]);

// The port that an IPv6 address belongs to; NULL: none.
struct port *guard_owner6(struct port *ports, const uint8_t address[16]);
