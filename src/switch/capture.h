// A mirror: packets of one port, or of all, written as pcap to somebody who reads it. What
// the reader does not take in time is left out of it, and never waited for.
#pragma once

#include "net/net.h"

#define CAPTURES_MAX 8
#define CAPTURE_SCRATCH (2 * NET_PACKET_MAX)

struct capture {
    bool used;
    int fd;         // our end
    int port;       // index of the port; -1: all
    uint64_t taken; // packets
    uint64_t missed;
};

// *reader gets a file header and then records, one a message (SOCK_SEQPACKET).
err_t capture_open(struct capture *capture, int port, int *reader, struct error *e);
void capture_close(struct capture *capture);

// False: the reader is gone. when_ns: wall clock. scratch: CAPTURE_SCRATCH bytes.
bool capture_packet(struct capture *capture, const uint8_t *packet, size_t len, int64_t when_ns,
                    uint8_t *scratch);
