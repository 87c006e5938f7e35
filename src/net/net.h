// Ethernet frames between network cards and what they are plugged into. Beside each frame goes what
// is left to be done to it (a checksum, cutting into segments), so that a large frame crosses the
// host in one piece. The header is virtio's (VIRTIO 1.3, 5.1.6), little-endian:
//
//   0 flags   1 gso_type   2 hdr_len   4 gso_size   6 csum_start   8 csum_offset   10 num_buffers
//
// A packet, below, is this header and the frame behind it.
#pragma once

#include "base/error.h"

#define NET_HEADER_BYTES 12
#define NET_FRAME_MIN 14           // the Ethernet header
#define NET_FRAME_MAX (65535 + 18) // an IP datagram in a tagged frame
#define NET_PACKET_MAX (NET_HEADER_BYTES + NET_FRAME_MAX)
#define NET_MAC_BYTES 6

// What a receiver does itself. Without NET_TAKES_CHECKSUM it takes none of the others.
enum net_takes {
    NET_TAKES_CHECKSUM = 1, // frames whose TCP or UDP checksum is still to be filled in
    NET_TAKES_TSO4 = 2,     // TCP segments longer than the MTU, over IPv4
    NET_TAKES_TSO6 = 4,     // over IPv6
    NET_TAKES_UFO = 8,      // UDP datagrams longer than the MTU, which IP is to cut into fragments
    NET_TAKES_USO4 = 16,    // data of several UDP datagrams in one, over IPv4
    NET_TAKES_USO6 = 32,    // over IPv6
    NET_TAKES_ALL = 63,
};

// True when the packet is whole and its header says nothing but what the frame bears out and
// `takes` allows. To be asked once where a packet comes in from somebody who is not trusted; what
// follows here relies on it. num_buffers is not looked at.
bool net_packet_valid(const uint8_t *packet, size_t len, unsigned takes);

// Which of a receiver's pairs of queues a packet goes to: the same for all of a connection.
unsigned net_packet_pair(const uint8_t *packet, size_t len, unsigned pairs);

// The abilities that virtio's feature bits stand for: of the device, which takes what the driver
// leaves to it, and of the driver.
unsigned net_takes_of_device(uint64_t features);
unsigned net_takes_of_driver(uint64_t features);
// The bits for all of them.
#define NET_OFFLOAD_FEATURES                                                                \
    (1ull << 0 | 1ull << 1 | 1ull << 7 | 1ull << 8 | 1ull << 10 | 1ull << 11 | 1ull << 12 | \
     1ull << 14 | 1ull << 54 | 1ull << 55 | 1ull << 56)

// What a receiver must take in order to get this packet as it is.
unsigned net_packet_needs(const uint8_t *packet);

// Makes packets of it that a receiver without the missing abilities can take: fills in the checksum
// or cuts the frame into segments or fragments, and hands them to emit one by one; each is valid
// during the call. The packet itself is changed. scratch has NET_PACKET_MAX bytes.
void net_packet_lower(uint8_t *packet, size_t len, unsigned takes, uint8_t *scratch,
                      void (*emit)(void *opaque, uint8_t *packet, size_t len), void *opaque);

// The same for a receiver that may run out of room: emit says whether it took a packet. False: it
// did not take all of them; the next call, with the packet as this one left it, begins there.
// *taken counts those that it has, and is 0 before a new packet.
bool net_packet_hand_over(uint8_t *packet, size_t len, unsigned takes, uint8_t *scratch,
                          uint32_t *taken, bool (*emit)(void *opaque, uint8_t *packet, size_t len),
                          void *opaque);

// Finishes a packet in place, leaving a large one in one piece: for a receiver that takes frames of
// any length, but with their checksums. False: its headers cannot say how long it is, or it holds
// several datagrams.
bool net_packet_whole(uint8_t *packet, size_t len);
