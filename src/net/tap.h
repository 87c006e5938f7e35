// Network interfaces of the host that a VM's card is plugged into without a switch: for operators
// who have the right to them. Written as a network's name:
//
//   tap:NAME       the tap interface NAME, or a new one of that name
//   bridge:NAME    a new tap interface in the bridge NAME
//   macvtap:NAME   a new macvtap interface on the interface NAME, or NAME if it is one itself
#pragma once

#include "base/error.h"
#include "net/net.h"

// Whether a network's name is written so, and the interface's name is one.
bool tap_named(const char *network);

// What the kernel behind a tap interface takes.
#define TAP_TAKES (NET_TAKES_ALL & ~(unsigned)(NET_TAKES_USO4 | NET_TAKES_USO6))

// A descriptor of which each read and write is one packet (net/net.h). mac: the card's. ERR_DENIED,
// ERR_NOT_FOUND and others with what an operator can do. A new tap interface goes away with the
// descriptor.
err_t tap_open(const char *network, const char *vm, unsigned nic, const uint8_t mac[NET_MAC_BYTES],
               int *fd, struct error *e);
// Removes the macvtap interface that tap_open() made for this card, if it did.
void tap_remove(const char *network, const char *vm, unsigned nic);
