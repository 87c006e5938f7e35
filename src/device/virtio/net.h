// A virtio network card: Ethernet frames by callback.
#pragma once

#include "device/device.h"

#define VIRTIO_NET_MTU_MIN 68
#define VIRTIO_NET_MTU_MAX 9216
#define VIRTIO_NET_FRAME_MAX (VIRTIO_NET_MTU_MAX + 18) // Ethernet header, a VLAN tag

struct virtio_net_config {
    uint8_t mac[6];
    uint16_t mtu; // told to the guest; 0: not told, 1500
    // Takes a frame from the guest (without checksum), valid during the call. Never blocks and
    // never calls back; drops what it has no room for. NULL: all frames are lost.
    void (*send)(void *opaque, const uint8_t *frame, size_t len);
    // There are buffers again after virtio_net_receive() found none. Never calls back. May be NULL.
    void (*resume)(void *opaque);
    void *opaque;
};

extern const struct device_type virtio_net_type; // config: struct virtio_net_config

// Both with the device's lock held. Gives a frame to the guest; false when it has no buffer for it
// now. A frame that can never fit is dropped.
bool virtio_net_receive(struct device *dev, const uint8_t *frame, size_t len);
void virtio_net_set_link(struct device *dev, bool up); // up at the start
