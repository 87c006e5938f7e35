// The virtio network card: one pair of queues.
//
// Specification: VIRTIO 1.2, 5.1. Offered: MAC, MTU, STATUS. Not offered: checksum and segmentation
// offload, mergeable receive buffers, the control queue, several pairs of queues. Without mergeable
// buffers every frame goes into one chain.
#include "device/virtio/net.h"

#include <string.h>

#include "base/bytes.h"
#include "device/virtio/virtio_pci.h"

enum {
    F_MTU = 3,
    F_MAC = 5,
    F_STATUS = 16,

    CONFIG_MAC = 0,
    CONFIG_STATUS = 6,
    CONFIG_PAIRS = 8,
    CONFIG_MTU = 10,
    CONFIG_BYTES = 12,
    STATUS_LINK_UP = 1,

    QUEUE_RECEIVE = 0,
    QUEUE_SEND = 1,
    QUEUE_SIZE = 256,
    HEADER_BYTES = 12,
    HEADER_NUM_BUFFERS = 10,
    ETHERNET_HEADER = 14,
    DEFAULT_MTU = 1500,
};

struct virtio_net {
    struct virtio_pci virtio;
    struct virtio_net_config config;
    struct virtq_chain chain;
    uint8_t frame[VIRTIO_NET_FRAME_MAX];
    uint8_t starved; // a frame found no buffer: the host waits for resume()
    uint8_t pad[5];
};

static const struct state_field net_fields[] = {
    SUB(struct virtio_net, virtio, virtio_pci_state),
    SKIP(struct virtio_net, config, "wiring, rebuilt from configuration"),
    SKIP(struct virtio_net, chain, "scratch of one callback"),
    SKIP(struct virtio_net, frame, "scratch of one callback"),
    FIELD(struct virtio_net, starved),
    SKIP(struct virtio_net, pad, "padding"),
    FIELDS_END,
};
static const struct state_desc net_state =
    STATE_DESC("virtio-net", struct virtio_net, 1, net_fields);

static struct virtio_net *net_of(struct virtio_pci *v)
{
    return container_of(v, struct virtio_net, virtio);
}

// --- From the guest ---

// The frame is copied before anybody looks at it. The header says nothing without offloads.
static void send_chain(struct virtio_net *net)
{
    uint64_t len = net->chain.readable_bytes;

    if (len < HEADER_BYTES + ETHERNET_HEADER || len > HEADER_BYTES + sizeof net->frame)
        return;
    len = virtq_read(&net->chain, HEADER_BYTES, net->frame, (size_t)(len - HEADER_BYTES));
    if (net->config.send && (net->virtio.config[CONFIG_STATUS] & STATUS_LINK_UP))
        net->config.send(net->config.opaque, net->frame, (size_t)len);
}

static void serve_send(struct virtio_net *net)
{
    struct virtio_pci *v = &net->virtio;

    while (virtio_pop(v, QUEUE_SEND, &net->chain)) {
        send_chain(net);
        virtio_push(v, QUEUE_SEND, &net->chain, 0);
    }
    virtio_signal(v, QUEUE_SEND);
}

// --- To the guest ---

bool virtio_net_receive(struct device *dev, const uint8_t *frame, size_t len)
{
    static const uint8_t header[HEADER_BYTES] = {[HEADER_NUM_BUFFERS] = 1};
    struct virtio_net *net = net_of(virtio_of(dev));
    struct virtio_pci *v = &net->virtio;

    if (len > VIRTIO_NET_FRAME_MAX || !(v->config[CONFIG_STATUS] & STATUS_LINK_UP))
        return true;
    virtio_begin(v);
    if (!virtio_pop(v, QUEUE_RECEIVE, &net->chain)) {
        net->starved = 1;
        return false;
    }
    if (net->chain.writable_bytes < HEADER_BYTES + len) {
        virtq_unpop(&v->queues[QUEUE_RECEIVE], &net->chain);
        return true;
    }
    virtq_write(&net->chain, 0, header, sizeof header);
    virtq_write(&net->chain, HEADER_BYTES, frame, len);
    virtio_push(v, QUEUE_RECEIVE, &net->chain, (uint32_t)(HEADER_BYTES + len));
    virtio_signal(v, QUEUE_RECEIVE);
    return true;
}

static void buffers_added(struct virtio_net *net)
{
    if (!net->starved)
        return;
    net->starved = 0;
    if (net->config.resume)
        net->config.resume(net->config.opaque);
}

void virtio_net_set_link(struct device *dev, bool up)
{
    struct virtio_net *net = net_of(virtio_of(dev));
    uint8_t status = up ? STATUS_LINK_UP : 0;

    if (net->virtio.config[CONFIG_STATUS] == status)
        return;
    net->virtio.config[CONFIG_STATUS] = status;
    if (virtio_has(&net->virtio, F_STATUS))
        virtio_config_changed(&net->virtio);
}

// --- The model ---

static void net_notify(struct virtio_pci *v, unsigned queue)
{
    if (queue == QUEUE_SEND)
        serve_send(net_of(v));
    else
        buffers_added(net_of(v));
}

static const struct virtio_model net_model = {
    .class_code = 0x020000, // Ethernet controller
    .id = 1,
    .config_len = CONFIG_BYTES,
    .notify = net_notify,
};

static err_t check_config(const struct device *dev, const struct virtio_net_config *config,
                          struct error *e)
{
    if (config->mac[0] & 1)
        return error_set(e, ERR_INVALID, "%s: its MAC address is a multicast address", dev->id);
    if (config->mtu && (config->mtu < VIRTIO_NET_MTU_MIN || config->mtu > VIRTIO_NET_MTU_MAX))
        return error_set(e, ERR_INVALID, "%s: an MTU is %d to %d bytes", dev->id,
                         VIRTIO_NET_MTU_MIN, VIRTIO_NET_MTU_MAX);
    return OK;
}

static err_t net_init(struct device *dev, const void *config, struct error *e)
{
    struct virtio_net *net = net_of(virtio_of(dev));
    uint64_t features = VIRTIO_FEATURE(F_MAC) | VIRTIO_FEATURE(F_STATUS);
    uint8_t *registers = net->virtio.config;
    err_t err;

    net->config = *(const struct virtio_net_config *)config;
    err = check_config(dev, &net->config, e);
    if (err != OK)
        return err;
    if (net->config.mtu)
        features |= VIRTIO_FEATURE(F_MTU);
    virtio_pci_init(&net->virtio, &net_model, features, 2, QUEUE_SIZE);
    memcpy(registers + CONFIG_MAC, net->config.mac, sizeof net->config.mac);
    store_le16(registers + CONFIG_STATUS, STATUS_LINK_UP);
    store_le16(registers + CONFIG_PAIRS, 1);
    store_le16(registers + CONFIG_MTU, net->config.mtu ? net->config.mtu : DEFAULT_MTU);
    return OK;
}

static void net_reset(struct device *dev)
{
    virtio_pci_reset(virtio_of(dev));
}

static err_t net_loaded(struct device *dev, struct error *e)
{
    struct virtio_net *net = net_of(virtio_of(dev));

    if (net->starved > 1)
        return error_set(e, ERR_CORRUPT, "the network card has impossible values");
    return virtio_pci_loaded(&net->virtio, e);
}

static void net_timer(struct device *dev, unsigned timer)
{
    virtio_pci_timer(virtio_of(dev));
}

static void net_fini(struct device *dev)
{
    virtio_pci_fini(virtio_of(dev));
}

const struct device_type virtio_net_type = {
    .name = "virtio-net",
    .size = sizeof(struct virtio_net),
    .timers = 1,
    .lines = 1,
    .state = &net_state,
    .init = net_init,
    .reset = net_reset,
    .loaded = net_loaded,
    .timer = net_timer,
    .fini = net_fini,
};
