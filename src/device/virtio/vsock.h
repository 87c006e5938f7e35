// A virtio socket device: connections between programs in the guest and the host, by port, of
// streams or of messages. The host's ends are the owner's, who reaches them by the number of their
// connection.
#pragma once

#include "device/device.h"

#define VSOCK_CONNECTIONS 256 // at a time
#define VSOCK_CREDIT \
    (128u * 1024u) // bytes of one connection that the guest may send ahead, and
                   // so of one message
#define VSOCK_HOST_CID 2
#define VSOCK_GUEST_CID 3 // the first that a guest can have

enum vsock_type { VSOCK_STREAM = 1, VSOCK_SEQPACKET = 2 };

// What the device tells. Called with its lock held: must not block or call back.
struct vsock_host {
    // The guest asks for a connection to a port of the host: true accepts it.
    bool (*request)(void *opaque, unsigned connection, enum vsock_type type, uint32_t guest_port,
                    uint32_t host_port);
    // virtio_vsock_connect() asks the guest for this one: nothing was told about it before.
    void (*asked)(void *opaque, unsigned connection);
    // The guest has accepted the connection that virtio_vsock_connect() asked for.
    void (*opened)(void *opaque, unsigned connection);
    // Bytes from the guest, all of which are taken: at most VSOCK_CREDIT that are not consumed yet.
    // end: a message ends here; then there may be no bytes. A message need not be consumed before
    // its end.
    void (*received)(void *opaque, unsigned connection, const uint8_t *data, size_t len, bool end);
    void (*ended)(void *opaque, unsigned connection); // no more of them will come
    // virtio_vsock_send() may have room again.
    void (*resume)(void *opaque, unsigned connection);
    // The connection is no more, or was refused. Its number stays taken until
    // virtio_vsock_release().
    void (*closed)(void *opaque, unsigned connection);
};

struct virtio_vsock_config {
    uint64_t cid; // the guest's; 0: VSOCK_GUEST_CID
    const struct vsock_host *host;
    void *opaque;
};

extern const struct device_type virtio_vsock_type; // config: struct virtio_vsock_config

// All with the device's lock held. Asks the guest for a connection to its port; returns the
// connection's number. -1: the guest has no driver for the device, or none for messages, or there
// are too many connections.
int virtio_vsock_connect(struct device *dev, enum vsock_type type, uint32_t guest_port);
// Bytes to the guest; returns how many were taken. When fewer, resume() follows. Of SEQPACKET: a
// message, or what was not taken of it. One that the guest has no room for breaks the connection.
size_t virtio_vsock_send(struct device *dev, unsigned connection, const uint8_t *data, size_t len);
// The host is done with so many received bytes.
void virtio_vsock_consumed(struct device *dev, unsigned connection, size_t len);
// The host sends no more; with both it also wants no more, and closed() follows.
void virtio_vsock_shutdown(struct device *dev, unsigned connection, bool both);
// Gives the connection's number back, after closed() or instead of it: then the guest sees a reset.
void virtio_vsock_release(struct device *dev, unsigned connection);
