// The virtio network card.
//
// Specification: VIRTIO 1.3, 5.1. Offered: several pairs of queues, mergeable receive buffers,
// checksums, TCP and UDP segmentation and UDP fragmentation left to either side, MTU, link state,
// announcements. Not offered: filters (the switch sends a card what is meant for it), a MAC address
// set by the guest, receive hashes.
#include "device/virtio/net.h"

#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "device/virtio/net_ring.h"
#include "device/virtio/virtio_pci.h"

enum {
    F_GUEST_OFFLOADS = 2, // by a command
    F_MTU = 3,
    F_MAC = 5,
    F_MERGEABLE = 15,
    F_STATUS = 16,
    F_CONTROL = 17,
    F_ANNOUNCE = 21,
    F_PAIRS = 22,

    CONFIG_MAC = 0,
    CONFIG_STATUS = 6,
    CONFIG_PAIRS = 8,
    CONFIG_MTU = 10,
    CONFIG_BYTES = 12,
    STATUS_LINK_UP = 1,
    STATUS_ANNOUNCE = 2,

    CONTROL_ANNOUNCE = 3, // classes of commands
    CONTROL_PAIRS = 4,
    CONTROL_OFFLOADS = 5,
    CONTROL_OK = 0,
    CONTROL_ERROR = 1,

    QUEUE_SIZE = 256,
    DEFAULT_MTU = 1500,
};

struct virtio_net {
    struct virtio_pci virtio;
    struct nic_config config;
    struct virtq_chain chain;
    struct net_ring ring;
    uint8_t packet[NET_PACKET_MAX + 1]; // the one byte more tells what is too long
    uint8_t part[NET_PACKET_MAX];       // of a packet that the guest cannot take whole
    uint8_t takes;                      // enum net_takes that the guest's driver has accepted
    uint8_t starved;                    // a packet found no buffer: the host waits for resume()
    uint8_t pad[3];
    uint32_t taken;   // parts that the guest already has of the packet that waits for buffers
    uint16_t stalled; // bits of transmit queues that wait for virtio_net_continue()
    uint16_t pairs;   // of queues that the guest uses
};

static const struct state_field net_fields[] = {
    SUB(struct virtio_net, virtio, virtio_pci_state),
    SKIP(struct virtio_net, config, "wiring, rebuilt from configuration"),
    SKIP(struct virtio_net, chain, "scratch of one callback"),
    SKIP(struct virtio_net, ring, "scratch of one callback"),
    SKIP(struct virtio_net, packet, "scratch of one callback"),
    SKIP(struct virtio_net, part, "scratch of one callback"),
    FIELD(struct virtio_net, takes),
    FIELD(struct virtio_net, starved),
    SKIP(struct virtio_net, pad, "padding"),
    SKIP(struct virtio_net, taken, "the packet that waits is not kept either"),
    FIELD(struct virtio_net, stalled),
    FIELD(struct virtio_net, pairs),
    FIELDS_END,
};
static const struct state_desc net_state =
    STATE_DESC("virtio-net", struct virtio_net, 1, net_fields);

static struct virtio_net *net_of(struct virtio_pci *v)
{
    return container_of(v, struct virtio_net, virtio);
}

static unsigned receive_queue(unsigned pair)
{
    return 2 * pair;
}

static unsigned control_queue(const struct virtio_net *net)
{
    return 2u * net->config.pairs;
}

// --- From the guest ---

// The packet is copied before anybody looks at it. False: there is no room for it now.
static bool send_chain(struct virtio_net *net)
{
    struct virtio_pci *v = &net->virtio;
    size_t len = virtq_read(&net->chain, 0, net->packet, sizeof net->packet);

    if (!net_packet_valid(net->packet, len, net_takes_of_device(v->driver_features)) ||
        !net->config.send || !(v->config[CONFIG_STATUS] & STATUS_LINK_UP))
        return true;
    return net->config.send(net->config.opaque, net->packet, len);
}

static void serve_send(struct virtio_net *net, unsigned queue)
{
    struct virtio_pci *v = &net->virtio;

    net->stalled &= (uint16_t) ~(1u << queue);
    while (virtio_pop(v, queue, &net->chain)) {
        if (!send_chain(net)) {
            virtq_unpop(&v->queues[queue], &net->chain);
            net->stalled |= (uint16_t)(1u << queue);
            break;
        }
        virtio_push(v, queue, &net->chain, 0);
    }
    virtio_signal(v, queue);
}

static void go_on(struct device *dev)
{
    struct virtio_net *net = net_of(virtio_of(dev));
    unsigned stalled = net->stalled;

    virtio_begin(&net->virtio);
    for (unsigned queue = 1; stalled >> queue; queue += 2) {
        if (stalled >> queue & 1)
            serve_send(net, queue);
    }
}

// --- To the guest ---

// A part of a packet; false: there is no buffer for it now.
static bool deliver(void *opaque, uint8_t *packet, size_t len)
{
    struct virtio_net *net = opaque;
    struct virtio_pci *v = &net->virtio;
    unsigned queue = receive_queue(net_packet_pair(packet, len, net->pairs));
    const char *why;

    if (!virtio_running(v))
        return true;
    net->ring.q = &v->queues[queue];
    net->ring.mergeable = virtio_has(v, F_MERGEABLE);
    switch (net_ring_receive(&net->ring, packet, len, &why)) {
    case NET_RING_DONE: virtio_signal(v, queue); break;
    case NET_RING_EMPTY: return false;
    case NET_RING_NEVER: break;
    case NET_RING_BROKEN: virtio_broken(v, why); break;
    }
    return true;
}

static bool receive(struct device *dev, uint8_t *packet, size_t len)
{
    struct virtio_net *net = net_of(virtio_of(dev));
    struct virtio_pci *v = &net->virtio;

    if (!(v->config[CONFIG_STATUS] & STATUS_LINK_UP) || !virtio_running(v)) {
        net->taken = 0;
        return true;
    }
    virtio_begin(v);
    net->starved =
        !net_packet_hand_over(packet, len, net->takes, net->part, &net->taken, deliver, net);
    return !net->starved;
}

static void buffers_added(struct virtio_net *net)
{
    if (!net->starved)
        return;
    net->starved = 0;
    if (net->config.resume)
        net->config.resume(net->config.opaque);
}

static void set_link(struct device *dev, bool up)
{
    struct virtio_net *net = net_of(virtio_of(dev));
    uint8_t status = up ? STATUS_LINK_UP : 0;

    if (net->virtio.config[CONFIG_STATUS] == status)
        return;
    if (up && virtio_has(&net->virtio, F_ANNOUNCE))
        status |= STATUS_ANNOUNCE; // the other side may have forgotten where the guest is
    net->virtio.config[CONFIG_STATUS] = status;
    net->taken = 0; // the host may have dropped what waited
    if (virtio_has(&net->virtio, F_STATUS))
        virtio_config_changed(&net->virtio);
}

// --- Commands ---

static bool set_pairs(struct virtio_net *net, const uint8_t *data, size_t len)
{
    unsigned pairs = len >= 2 ? load_le16(data) : 0;

    if (!virtio_has(&net->virtio, F_PAIRS) || pairs < 1 || pairs > net->config.pairs)
        return false;
    net->pairs = (uint16_t)pairs;
    return true;
}

static bool set_offloads(struct virtio_net *net, const uint8_t *data, size_t len)
{
    uint64_t bits = len >= 8 ? load_le64(data) : 0;

    if (!virtio_has(&net->virtio, F_GUEST_OFFLOADS) || len < 8 ||
        bits & ~net->virtio.driver_features)
        return false;
    net->takes = (uint8_t)net_takes_of_driver(bits);
    return true;
}

static bool obey(struct virtio_net *net, const uint8_t *command, size_t len)
{
    if (len < 2)
        return false;
    switch (command[0] << 8 | command[1]) {
    case CONTROL_ANNOUNCE << 8: net->virtio.config[CONFIG_STATUS] &= ~STATUS_ANNOUNCE; return true;
    case CONTROL_PAIRS << 8: return set_pairs(net, command + 2, len - 2);
    case CONTROL_OFFLOADS << 8: return set_offloads(net, command + 2, len - 2);
    default: return false;
    }
}

static void serve_control(struct virtio_net *net)
{
    struct virtio_pci *v = &net->virtio;
    unsigned queue = control_queue(net);

    while (virtio_pop(v, queue, &net->chain)) {
        uint8_t command[16];
        size_t len = virtq_read(&net->chain, 0, command, sizeof command);
        uint8_t answer = obey(net, command, len) ? CONTROL_OK : CONTROL_ERROR;
        virtio_push(v, queue, &net->chain, (uint32_t)virtq_write(&net->chain, 0, &answer, 1));
    }
    virtio_signal(v, queue);
}

// --- The model ---

static void net_notify(struct virtio_pci *v, unsigned queue)
{
    struct virtio_net *net = net_of(v);

    if (queue == control_queue(net))
        serve_control(net);
    else if (queue & 1)
        serve_send(net, queue);
    else
        buffers_added(net);
}

static void net_started(struct virtio_pci *v)
{
    struct virtio_net *net = net_of(v);

    net->takes = (uint8_t)net_takes_of_driver(v->driver_features);
    net->pairs = 1;
    net->stalled = 0;
    net->taken = 0;
    buffers_added(net); // who waited for the driver before this one
}

static const struct virtio_model net_model = {
    .class_code = 0x020000, // Ethernet controller
    .id = 1,
    .config_len = CONFIG_BYTES,
    .notify = net_notify,
    .started = net_started,
};

static err_t check_config(const struct device *dev, const struct nic_config *config,
                          struct error *e)
{
    if (config->mac[0] & 1)
        return error_set(e, ERR_INVALID, "%s: its MAC address is a multicast address", dev->id);
    if (config->mtu && config->mtu < VIRTIO_NET_MTU_MIN)
        return error_set(e, ERR_INVALID, "%s: an MTU is %d to %d bytes", dev->id,
                         VIRTIO_NET_MTU_MIN, VIRTIO_NET_MTU_MAX);
    if (config->pairs > VIRTIO_NET_PAIRS_MAX)
        return error_set(e, ERR_INVALID, "%s: there are at most %d pairs of queues", dev->id,
                         VIRTIO_NET_PAIRS_MAX);
    return OK;
}

static uint64_t offered(const struct nic_config *config)
{
    static const uint8_t always[] = {F_GUEST_OFFLOADS, F_MAC,     F_MERGEABLE,
                                     F_STATUS,         F_CONTROL, F_ANNOUNCE};
    uint64_t features = NET_OFFLOAD_FEATURES;

    for (unsigned i = 0; i < ARRAY_LEN(always); i++)
        features |= VIRTIO_FEATURE(always[i]);
    if (config->mtu)
        features |= VIRTIO_FEATURE(F_MTU);
    if (config->pairs > 1)
        features |= VIRTIO_FEATURE(F_PAIRS);
    return features;
}

static err_t net_init(struct device *dev, const void *config, struct error *e)
{
    struct virtio_net *net = net_of(virtio_of(dev));
    uint8_t *registers = net->virtio.config;
    err_t err;

    net->config = *(const struct nic_config *)config;
    net->config.pairs = net->config.pairs ? net->config.pairs : 1;
    err = check_config(dev, &net->config, e);
    if (err != OK)
        return err;
    net->pairs = 1;
    virtio_pci_init(&net->virtio, &net_model, offered(&net->config), control_queue(net) + 1,
                    QUEUE_SIZE);
    if (net->config.rom)
        pci_add_rom(&net->virtio.pci, net->config.rom, net->config.rom_len, NIC_ROM_MAX);
    memcpy(registers + CONFIG_MAC, net->config.mac, sizeof net->config.mac);
    store_le16(registers + CONFIG_STATUS, STATUS_LINK_UP);
    store_le16(registers + CONFIG_PAIRS, net->config.pairs);
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

    if (net->starved > 1 || net->takes > NET_TAKES_ALL || net->pairs < 1 ||
        net->pairs > net->config.pairs)
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

const struct nic_model virtio_nic = {
    .type = &virtio_net_type, .receive = receive, .go_on = go_on, .set_link = set_link};
