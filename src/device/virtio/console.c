// The virtio console device: one terminal and named byte channels.
//
// Specification: VIRTIO 1.2, 5.3. Offered: SIZE, MULTIPORT (with more than one port), EMERG_WRITE.
// Queues: 0 and 1 are port 0's input and output, 2 and 3 the control messages to and from the
// guest, then a pair for each further port. Control messages to the guest are not queued: what is
// owed is a set of bits per port, so that a guest that does not read cannot make us remember more.
#include "device/virtio/console.h"

#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "device/virtio/virtio_pci.h"

enum {
    F_SIZE = 0,
    F_MULTIPORT = 1,
    F_EMERG_WRITE = 2,

    CONFIG_COLUMNS = 0,
    CONFIG_ROWS = 2,
    CONFIG_MAX_PORTS = 4,
    CONFIG_EMERGENCY = 8,
    CONFIG_BYTES = 12,

    QUEUE_SIZE = 128,
    QUEUE_CONTROL_TO_GUEST = 2,
    QUEUE_CONTROL_FROM_GUEST = 3,
    CONTROL_BYTES = 8, // id (4), event (2), value (2)
    PIECE = 1024,      // bytes of output copied at a time

    EVENT_DEVICE_READY = 0,
    EVENT_PORT_ADD = 1,
    EVENT_PORT_READY = 3,
    EVENT_CONSOLE_PORT = 4,
    EVENT_RESIZE = 5,
    EVENT_PORT_OPEN = 6,
    EVENT_PORT_NAME = 7,

    // Owed to the guest about a port, sent in this order.
    OWE_ADD = 0x01,
    OWE_CONSOLE = 0x02,
    OWE_RESIZE = 0x04,
    OWE_NAME = 0x08,
    OWE_OPEN = 0x10,
    OWE_ALL = 0x1f,
};

struct port {
    uint64_t written; // bytes of the output chain at the head of the queue that the host has taken
    uint8_t owed;     // control messages
    uint8_t guest_open;
    uint8_t connected;
    uint8_t starved; // input was refused: the host waits for resume()
    uint8_t pad[4];
};

static const struct state_field port_fields[] = {
    FIELD(struct port, written),
    FIELD(struct port, owed),
    FIELD(struct port, guest_open),
    SKIP(struct port, connected, "the host's side, not the machine's"),
    FIELD(struct port, starved),
    SKIP(struct port, pad, "padding"),
    FIELDS_END,
};
static const struct state_desc port_state = STATE_DESC("port", struct port, 1, port_fields);

struct virtio_console {
    struct virtio_pci virtio;
    struct virtio_console_config config;
    struct virtq_chain chain;
    struct port ports[VIRTIO_CONSOLE_PORTS];
};

static const struct state_field console_fields[] = {
    SUB(struct virtio_console, virtio, virtio_pci_state),
    SKIP(struct virtio_console, config, "wiring, rebuilt from configuration"),
    SKIP(struct virtio_console, chain, "scratch of one callback"),
    SUB_ARRAY(struct virtio_console, ports, port_state),
    FIELDS_END,
};
static const struct state_desc console_state =
    STATE_DESC("virtio-console", struct virtio_console, 1, console_fields);

static struct virtio_console *console_of(struct virtio_pci *v)
{
    return container_of(v, struct virtio_console, virtio);
}

static unsigned input_queue(unsigned port)
{
    return port ? 2 * port + 2 : 0;
}

static unsigned output_queue(unsigned port)
{
    return input_queue(port) + 1;
}

// --- Output ---

// Gives the chain's bytes from port->written on to the host; true when all are taken.
static bool drain_chain(struct virtio_console *c, unsigned port)
{
    struct port *p = &c->ports[port];
    uint8_t piece[PIECE];

    while (c->config.write && p->written < c->chain.readable_bytes) {
        size_t len = virtq_read(&c->chain, p->written, piece, sizeof piece);
        size_t taken = c->config.write(c->config.opaque, port, piece, len);
        p->written += taken;
        if (taken < len)
            return false;
    }
    return true;
}

// A chain that the host does not take whole goes back; p->written says where to continue.
static void serve_output(struct virtio_console *c, unsigned port)
{
    unsigned queue = output_queue(port);
    struct virtio_pci *v = &c->virtio;

    while (virtio_pop(v, queue, &c->chain)) {
        if (!drain_chain(c, port)) {
            virtq_unpop(&v->queues[queue], &c->chain);
            break;
        }
        c->ports[port].written = 0;
        virtio_push(v, queue, &c->chain, 0);
    }
    virtio_signal(v, queue);
}

void virtio_console_writable(struct device *dev, unsigned port)
{
    struct virtio_console *c = console_of(virtio_of(dev));

    virtio_begin(&c->virtio);
    if (port < c->config.ports)
        serve_output(c, port);
}

// --- Input ---

static bool guest_listens(const struct virtio_console *c, unsigned port)
{
    return !virtio_has(&c->virtio, F_MULTIPORT) ? port == 0 : c->ports[port].guest_open;
}

size_t virtio_console_input(struct device *dev, unsigned port, const uint8_t *data, size_t len)
{
    struct virtio_console *c = console_of(virtio_of(dev));
    struct virtio_pci *v = &c->virtio;
    size_t taken = 0;

    if (port >= c->config.ports)
        return 0;
    virtio_begin(v);
    while (taken < len && guest_listens(c, port) && virtio_pop(v, input_queue(port), &c->chain)) {
        size_t part = virtq_write(&c->chain, 0, data + taken, len - taken);
        virtio_push(v, input_queue(port), &c->chain, (uint32_t)part);
        taken += part;
    }
    virtio_signal(v, input_queue(port));
    c->ports[port].starved = taken < len;
    return taken;
}

static void resume_input(struct virtio_console *c, unsigned port)
{
    struct port *p = &c->ports[port];

    if (!p->starved || !guest_listens(c, port))
        return;
    p->starved = 0;
    if (c->config.resume)
        c->config.resume(c->config.opaque, port);
}

// --- Control messages to the guest ---

// Takes the next message owed about a port; returns its length, with its event and payload in
// message.
static size_t next_message(struct virtio_console *c, unsigned port, uint8_t *message)
{
    struct port *p = &c->ports[port];
    unsigned owed = p->owed & (0u - p->owed);
    unsigned event, value = 1;
    size_t len = CONTROL_BYTES;

    switch (owed) {
    case OWE_ADD: event = EVENT_PORT_ADD; break;
    case OWE_CONSOLE: event = EVENT_CONSOLE_PORT; break;
    case OWE_RESIZE:
        event = EVENT_RESIZE;
        memcpy(message + len, c->virtio.config + CONFIG_COLUMNS, 4);
        len += 4;
        break;
    case OWE_NAME:
        event = EVENT_PORT_NAME;
        memcpy(message + len, c->config.names[port], VIRTIO_CONSOLE_NAME);
        len += strnlen(c->config.names[port], VIRTIO_CONSOLE_NAME);
        break;
    default:
        event = EVENT_PORT_OPEN;
        value = p->connected;
        break;
    }
    p->owed &= (uint8_t)~owed;
    store_le32(message, port);
    store_le16(message + 4, (uint16_t)event);
    store_le16(message + 6, (uint16_t)value);
    return len;
}

static void send_control(struct virtio_console *c)
{
    struct virtio_pci *v = &c->virtio;

    for (unsigned port = 0; port < c->config.ports; port++) {
        while (c->ports[port].owed && virtio_pop(v, QUEUE_CONTROL_TO_GUEST, &c->chain)) {
            uint8_t message[CONTROL_BYTES + VIRTIO_CONSOLE_NAME];
            size_t len = next_message(c, port, message);
            virtio_push(v, QUEUE_CONTROL_TO_GUEST, &c->chain,
                        (uint32_t)virtq_write(&c->chain, 0, message, len));
        }
    }
    virtio_signal(v, QUEUE_CONTROL_TO_GUEST);
}

static void owe(struct virtio_console *c, unsigned port, unsigned messages)
{
    if (!virtio_has(&c->virtio, F_MULTIPORT))
        return;
    c->ports[port].owed |= (uint8_t)messages;
    send_control(c);
}

// --- Control messages from the guest ---

static void port_ready(struct virtio_console *c, unsigned port)
{
    bool sized = virtio_has(&c->virtio, F_SIZE);

    if (port == 0)
        owe(c, port, OWE_CONSOLE | (sized ? OWE_RESIZE : 0) | OWE_OPEN);
    else
        owe(c, port, (c->config.names[port][0] ? OWE_NAME : 0) | OWE_OPEN);
}

static void control_message(struct virtio_console *c, const uint8_t *message)
{
    uint32_t port = load_le32(message);
    uint16_t event = load_le16(message + 4), value = load_le16(message + 6);

    if (event == EVENT_DEVICE_READY && value == 1) {
        for (unsigned i = 0; i < c->config.ports; i++)
            owe(c, i, OWE_ADD);
        return;
    }
    if (port >= c->config.ports)
        return;
    if (event == EVENT_PORT_READY && value == 1)
        port_ready(c, port);
    if (event == EVENT_PORT_OPEN) {
        c->ports[port].guest_open = value != 0;
        resume_input(c, port);
    }
}

static void receive_control(struct virtio_console *c)
{
    struct virtio_pci *v = &c->virtio;

    while (virtio_pop(v, QUEUE_CONTROL_FROM_GUEST, &c->chain)) {
        uint8_t message[CONTROL_BYTES];
        bool whole = virtq_read(&c->chain, 0, message, sizeof message) == sizeof message;
        virtio_push(v, QUEUE_CONTROL_FROM_GUEST, &c->chain, 0);
        if (whole)
            control_message(c, message);
    }
    virtio_signal(v, QUEUE_CONTROL_FROM_GUEST);
}

// --- The model ---

static void console_notify(struct virtio_pci *v, unsigned queue)
{
    struct virtio_console *c = console_of(v);
    unsigned port = queue < 2 ? 0 : queue / 2 - 1;

    if (queue == QUEUE_CONTROL_TO_GUEST)
        send_control(c);
    else if (queue == QUEUE_CONTROL_FROM_GUEST)
        receive_control(c);
    else if (queue == output_queue(port))
        serve_output(c, port);
    else
        resume_input(c, port);
}

// One byte at a time, without queues, for a kernel that is in trouble (5.3.4).
static void console_config_written(struct virtio_pci *v, unsigned offset, unsigned size,
                                   uint32_t value)
{
    struct virtio_console *c = console_of(v);
    uint8_t byte = (uint8_t)value;

    if (offset == CONFIG_EMERGENCY && c->config.write)
        (void)c->config.write(c->config.opaque, 0, &byte, 1);
}

static void console_virtio_reset(struct virtio_pci *v)
{
    struct virtio_console *c = console_of(v);

    for (unsigned i = 0; i < VIRTIO_CONSOLE_PORTS; i++) {
        c->ports[i].written = 0;
        c->ports[i].owed = c->ports[i].guest_open = 0;
    }
}

static const struct virtio_model console_model = {
    .class_code = 0x078000, // communication controller, other
    .id = 3,
    .config_len = CONFIG_BYTES,
    .notify = console_notify,
    .config_written = console_config_written,
    .reset = console_virtio_reset,
};

void virtio_console_connect(struct device *dev, unsigned port, bool connected)
{
    struct virtio_console *c = console_of(virtio_of(dev));

    if (port >= c->config.ports || c->ports[port].connected == connected)
        return;
    c->ports[port].connected = connected;
    virtio_begin(&c->virtio);
    owe(c, port, OWE_OPEN);
}

void virtio_console_resize(struct device *dev, uint16_t columns, uint16_t rows)
{
    struct virtio_console *c = console_of(virtio_of(dev));

    store_le16(c->virtio.config + CONFIG_COLUMNS, columns);
    store_le16(c->virtio.config + CONFIG_ROWS, rows);
    if (!virtio_has(&c->virtio, F_SIZE))
        return;
    virtio_config_changed(&c->virtio);
    virtio_begin(&c->virtio);
    owe(c, 0, OWE_RESIZE);
}

static err_t console_init(struct device *dev, const void *config, struct error *e)
{
    struct virtio_console *c = console_of(virtio_of(dev));
    uint64_t features = VIRTIO_FEATURE(F_SIZE) | VIRTIO_FEATURE(F_EMERG_WRITE);
    unsigned queues = 2;

    c->config = *(const struct virtio_console_config *)config;
    if (c->config.ports == 0)
        c->config.ports = 1;
    if (c->config.ports > VIRTIO_CONSOLE_PORTS)
        return error_set(e, ERR_INVALID, "%s: a console has 1 to %d ports", dev->id,
                         VIRTIO_CONSOLE_PORTS);
    if (c->config.ports > 1) {
        features |= VIRTIO_FEATURE(F_MULTIPORT);
        queues = 2 * c->config.ports + 2;
    }
    for (unsigned i = 0; i < c->config.ports; i++)
        c->ports[i].connected = 1;
    virtio_pci_init(&c->virtio, &console_model, features, queues, QUEUE_SIZE);
    store_le16(c->virtio.config + CONFIG_COLUMNS, c->config.columns);
    store_le16(c->virtio.config + CONFIG_ROWS, c->config.rows);
    store_le32(c->virtio.config + CONFIG_MAX_PORTS, c->config.ports);
    return OK;
}

static void console_reset(struct device *dev)
{
    virtio_pci_reset(virtio_of(dev));
}

static err_t console_loaded(struct device *dev, struct error *e)
{
    struct virtio_console *c = console_of(virtio_of(dev));

    for (unsigned i = 0; i < VIRTIO_CONSOLE_PORTS; i++) {
        const struct port *p = &c->ports[i];
        if (p->owed & ~OWE_ALL || p->guest_open > 1 || p->starved > 1)
            return error_set(e, ERR_CORRUPT, "console port %u has impossible values", i);
    }
    return virtio_pci_loaded(&c->virtio, e);
}

static void console_timer(struct device *dev, unsigned timer)
{
    virtio_pci_timer(virtio_of(dev));
}

static void console_fini(struct device *dev)
{
    virtio_pci_fini(virtio_of(dev));
}

const struct device_type virtio_console_type = {
    .name = "virtio-console",
    .size = sizeof(struct virtio_console),
    .timers = 1,
    .lines = 1,
    .state = &console_state,
    .init = console_init,
    .reset = console_reset,
    .loaded = console_loaded,
    .timer = console_timer,
    .fini = console_fini,
};
