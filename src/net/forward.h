// Port forwards: a port of the host that leads to one of a VM.
#pragma once

#include "base/error.h"

#define FORWARD_TEXT 80 // bytes of forward_format()'s result, with its end

struct forward {
    bool udp;             // else TCP
    bool v6;              // both sides' addresses are IPv6
    uint32_t address;     // of the host, IPv4 in host byte order; 0: all of them
    uint8_t address6[16]; // likewise, where v6
    uint16_t host;        // port
    uint16_t guest;       // port
};

// As people write it: "[ADDRESS:]HOST:GUEST[/tcp|/udp]", or just "PORT"; without an address the
// host's loopback. An IPv6 address is in brackets. ERR_INVALID with the words.
err_t forward_parse(const char *text, struct forward *out, struct error *e);

// As programs pass it on: "tcp:127.0.0.1:8080:80", "udp:[::1]:53:53".
void forward_format(const struct forward *forward, char out[FORWARD_TEXT]);

// The next of a list of those with commas between them; *text moves past it. False: the list has
// ended (*text is at its end), or goes on with what is none.
bool forward_next(const char **text, struct forward *out);
