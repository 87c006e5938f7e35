// Messages of vhost-user, which a front end (a VM's network card) and a back end (what it is
// plugged into) send each other over a Unix stream socket. vhost_front.h is the one side,
// device/vhost/back.h the other.
//
// Specification: "Vhost-user Protocol", QEMU's docs/interop/vhost-user.
#pragma once

#include "base/error.h"

enum vhost_request {
    VHOST_GET_FEATURES = 1,
    VHOST_SET_FEATURES = 2,
    VHOST_SET_OWNER = 3,
    VHOST_RESET_OWNER = 4,
    VHOST_SET_MEM_TABLE = 5,
    VHOST_SET_VRING_NUM = 8,
    VHOST_SET_VRING_ADDR = 9,
    VHOST_SET_VRING_BASE = 10,
    VHOST_GET_VRING_BASE = 11,
    VHOST_SET_VRING_KICK = 12,
    VHOST_SET_VRING_CALL = 13,
    VHOST_SET_VRING_ERR = 14,
    VHOST_GET_PROTOCOL_FEATURES = 15,
    VHOST_SET_PROTOCOL_FEATURES = 16,
    VHOST_GET_QUEUE_NUM = 17,
    VHOST_SET_VRING_ENABLE = 18,
    VHOST_SET_BACKEND_FD = 21,
    VHOST_VRING_KICK = 35,
};

#define VHOST_BACKEND_VRING_CALL 4 // on the back end's own channel

// Beside virtio's feature bits.
#define VHOST_F_PROTOCOL_FEATURES (1ull << 30)

// Protocol features.
#define VHOST_MQ (1ull << 0) // GET_QUEUE_NUM
#define VHOST_REPLY_ACK (1ull << 3)
#define VHOST_BACKEND_CHANNEL (1ull << 5)
#define VHOST_INBAND (1ull << 14) // kicks and calls may be messages

#define VHOST_NEED_REPLY (1u << 3) // of a message's flags
#define VHOST_RING_INDEX 0xffull   // of the number that says what a descriptor is for
#define VHOST_RING_NO_FD (1ull << 8)

#define VHOST_FDS_MAX 8
#define VHOST_PAYLOAD_MAX 4096

struct vhost_message {
    uint32_t request, flags, size;
    uint8_t payload[VHOST_PAYLOAD_MAX]; // zeros behind size
    int fd[VHOST_FDS_MAX];              // the reader's to close; -1: kept by somebody
    unsigned fds;
};

// What has come of the next message.
struct vhost_channel {
    size_t got; // bytes, with the header's
    uint8_t header[12];
    struct vhost_message in;
};

enum vhost_read { VHOST_NOTHING, VHOST_MESSAGE, VHOST_GONE };

// Never waits. VHOST_MESSAGE: channel->in is whole. VHOST_GONE: the other side hung up, or says
// what makes no sense.
enum vhost_read vhost_channel_read(struct vhost_channel *channel, int socket);
// Makes room for the next message: closes descriptors that nobody kept. Also at the end.
void vhost_channel_clear(struct vhost_channel *channel);

// Never waits; fd goes along when it is not -1, and stays the caller's. False: the other side is
// gone, or does not read.
bool vhost_send(int socket, unsigned request, unsigned flags, const void *payload, size_t len,
                int fd);
bool vhost_answer(int socket, const struct vhost_message *m);
