// Network cards, whatever their model: packets (net/net.h) by callback.
#pragma once

#include "device/device.h"
#include "net/net.h"

#define NIC_ROM_MAX (256 * KIB)

struct nic_config {
    uint8_t mac[NET_MAC_BYTES];
    uint16_t mtu;   // told to the guest where the model can; 0: not told, 1500
    uint16_t pairs; // of queues, where the model has several; 0: 1
    // Its expansion ROM, with a driver for firmware; valid as long as the card. NULL: empty, or
    // none.
    const uint8_t *rom;
    uint32_t rom_len; // at most NIC_ROM_MAX
    // Takes a packet from the guest, valid during the call, checked by net_packet_valid(). Never
    // blocks and never calls back. False: no room now, go_on() will be called when there is. NULL:
    // all packets are lost.
    bool (*send)(void *opaque, uint8_t *packet, size_t len);
    // There are buffers again after receive() found none. Never calls back. May be NULL.
    void (*resume)(void *opaque);
    void *opaque;
};

// All with the device's lock held.
struct nic_model {
    const struct device_type *type; // config: struct nic_config
    // Gives a checked packet to the guest, as the guest's driver can take it; may change it. False
    // when there is no buffer for it now. What can never fit is dropped.
    bool (*receive)(struct device *dev, uint8_t *packet, size_t len);
    void (*go_on)(struct device *dev);             // send() may have room again
    void (*set_link)(struct device *dev, bool up); // up at the start
};
