// A virtio network card: packets (net/net.h) by callback.
#pragma once

#include "device/device.h"
#include "net/net.h"

#define VIRTIO_NET_MTU_MIN 68
#define VIRTIO_NET_MTU_MAX 65535
#define VIRTIO_NET_PAIRS_MAX 4

struct virtio_net_config {
    uint8_t mac[NET_MAC_BYTES];
    uint16_t mtu;   // told to the guest; 0: not told, 1500
    uint16_t pairs; // of queues, 1..VIRTIO_NET_PAIRS_MAX; 0: 1
    // Takes a packet from the guest, valid during the call, checked by net_packet_valid(). Never
    // blocks and never calls back. False: no room now, virtio_net_continue() will be called when
    // there is. NULL: all packets are lost.
    bool (*send)(void *opaque, uint8_t *packet, size_t len);
    // There are buffers again after virtio_net_receive() found none. Never calls back. May be NULL.
    void (*resume)(void *opaque);
    void *opaque;
};

extern const struct device_type virtio_net_type; // config: struct virtio_net_config

// All with the device's lock held. Gives a checked packet to the guest, as the guest's driver can
// take it; may change it. False when there is no buffer for it now. What can never fit is dropped.
bool virtio_net_receive(struct device *dev, uint8_t *packet, size_t len);
void virtio_net_continue(struct device *dev);          // send() may have room again
void virtio_net_set_link(struct device *dev, bool up); // up at the start
