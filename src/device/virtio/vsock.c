// The virtio socket device: stream and message sockets between guest and host without a network.
//
// Every packet from the guest is judged from a copy of its header. Memory is bounded: a table of
// connections, a credit of bytes for each, bits for packets that are owed to the guest, and a short
// list of resets for packets that belong to no connection; while that list is full the guest's
// packets wait in their ring. Connections are between this host and this guest, so they do not
// survive a load of the device's state: the guest is told that the transport was reset.
//
// A message is as many packets as it takes, the last of which says so (EOM). Guests wait for credit
// in the middle of one, so nobody may wait for its end before giving them what there is.
//
// Specification: VIRTIO 1.2, 5.10. Not modelled: the marks of records inside of messages (EOR),
// which the host's sockets do not have.
#include "device/virtio/vsock.h"

#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "device/virtio/virtio_pci.h"

enum {
    QUEUE_RX,
    QUEUE_TX,
    QUEUE_EVENT,
    QUEUES,
    QUEUE_SIZE = 128,

    F_STREAM = 0,
    F_SEQPACKET = 1,

    RW_EOM = 1, // flag: the last packet of a message

    OP_REQUEST = 1,
    OP_RESPONSE,
    OP_RST,
    OP_SHUTDOWN,
    OP_RW,
    OP_CREDIT_UPDATE,
    OP_CREDIT_REQUEST,

    SHUT_RECEIVE = 1,
    SHUT_SEND = 2,
    SHUT_BOTH = 3,

    // Owed to the guest about a connection, sent in this order.
    OWE_REQUEST = 0x01,
    OWE_RESPONSE = 0x02,
    OWE_CREDIT = 0x04,
    OWE_CREDIT_REQUEST = 0x08,
    OWE_SHUTDOWN = 0x10,
    OWE_RST = 0x20,

    HEADER = 44, // bytes
    PIECE = 4096,
    RESETS_MAX = 32,
    FIRST_PORT = 0x40000000, // of the host's ends
    TIMER_PATIENCE = VIRTIO_TIMER + 1,
    PATIENCE_MS = 20000, // for a guest to answer a request or a shutdown
};

enum connection_state {
    FREE,
    ASKED,  // the guest has not answered our request
    OPEN,   //
    CLOSED, // waits for the owner to release it
    LEFT,   // released; waits for what is owed to the guest
};

struct connection {
    ns_t deadline; // for the guest's answer; NS_NEVER: none is due
    uint32_t guest_port, host_port;
    uint32_t guest_space;    // the guest's credit for us: its buffer, and what it has taken of
    uint32_t guest_consumed; // what was sent. All counts wrap around.
    uint32_t sent;           // to the guest, bytes
    uint32_t received;       // from the guest
    uint32_t consumed;       // of these, by the host
    uint32_t told;           // consumed, as the guest knows it
    uint32_t unfinished;     // bytes received of a message whose end has not come
    uint32_t begun;          // bytes sent of a message whose end has not been sent
    uint8_t type;            // enum vsock_type
    uint8_t state;
    uint8_t owed;
    uint8_t shut_here, shut_there;
    bool starved; // the owner waits for resume()
};

struct packet {
    uint64_t from_cid, to_cid;
    uint32_t from_port, to_port, len;
    uint16_t type, op;
    uint32_t flags, space, consumed;
};

struct lost { // a packet that nobody waited for is answered with a reset
    uint32_t guest_port, host_port;
    uint16_t type;
};

struct virtio_vsock {
    struct virtio_pci virtio;
    struct virtio_vsock_config config;
    struct virtq_chain chain;
    struct connection connection[VSOCK_CONNECTIONS];
    struct lost lost[RESETS_MAX];
    uint32_t losts;
    uint32_t next_port;
    bool owing;     // some connection owes something
    bool transport; // the guest is owed the news that all connections are gone
    uint8_t padding[6];
};

static const struct state_field vsock_fields[] = {
    SUB(struct virtio_vsock, virtio, virtio_pci_state),
    SKIP(struct virtio_vsock, config, "wiring, rebuilt from configuration"),
    SKIP(struct virtio_vsock, chain, "scratch of one callback"),
    SKIP(struct virtio_vsock, connection, "with this host; a load resets the transport"),
    SKIP(struct virtio_vsock, lost, "about such connections"),
    SKIP(struct virtio_vsock, losts, "likewise"),
    SKIP(struct virtio_vsock, next_port, "the host's own choice"),
    SKIP(struct virtio_vsock, owing, "about such connections"),
    SKIP(struct virtio_vsock, transport, "set by every load"),
    SKIP(struct virtio_vsock, padding, "padding"),
    FIELDS_END,
};
static const struct state_desc vsock_state =
    STATE_DESC("virtio-vsock", struct virtio_vsock, 1, vsock_fields);

static struct virtio_vsock *vsock_of(struct virtio_pci *v)
{
    return container_of(v, struct virtio_vsock, virtio);
}

static unsigned number_of(const struct virtio_vsock *s, const struct connection *c)
{
    return (unsigned)(c - s->connection);
}

static uint64_t cid_of(const struct virtio_vsock *s)
{
    return s->config.cid ? s->config.cid : VSOCK_GUEST_CID;
}

// --- connections

static void owe(struct virtio_vsock *s, struct connection *c, unsigned packets)
{
    c->owed |= (uint8_t)packets;
    s->owing = true;
}

// One that is open or asked for.
static struct connection *find(struct virtio_vsock *s, const struct packet *p)
{
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++) {
        struct connection *c = &s->connection[i];
        if ((c->state == ASKED || c->state == OPEN) && c->type == p->type &&
            c->guest_port == p->from_port && c->host_port == p->to_port)
            return c;
    }
    return NULL;
}

static struct connection *find_free(struct virtio_vsock *s)
{
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
        if (s->connection[i].state == FREE)
            return &s->connection[i];
    return NULL;
}

static void close_connection(struct virtio_vsock *s, struct connection *c, bool reset)
{
    c->state = CLOSED;
    c->owed = 0;
    c->deadline = NS_NEVER;
    if (reset)
        owe(s, c, OWE_RST);
    s->config.host->closed(s->config.opaque, number_of(s, c));
}

static void close_all(struct virtio_vsock *s)
{
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++) {
        struct connection *c = &s->connection[i];
        if (c->state == ASKED || c->state == OPEN)
            close_connection(s, c, false);
        c->owed = 0;
        if (c->state == LEFT)
            c->state = FREE;
    }
    s->losts = 0;
    s->owing = false;
}

// The guest breaks off, or is made to, when it does not answer in time.
static void watch(struct virtio_vsock *s)
{
    struct device *dev = &s->virtio.pci.dev;
    ns_t first = NS_NEVER;

    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
        if (s->connection[i].state != FREE)
            first = min_u64(first, s->connection[i].deadline);
    dev->env->set_timer(dev, TIMER_PATIENCE, first);
}

static void await_answer(struct virtio_vsock *s, struct connection *c)
{
    struct device *dev = &s->virtio.pci.dev;

    c->deadline = dev->env->now(dev) + PATIENCE_MS * NS_PER_MS;
    watch(s);
}

// --- packets to the guest

static uint32_t credit_of(const struct connection *c)
{
    uint32_t waiting = c->sent - c->guest_consumed; // in the guest

    return waiting < c->guest_space ? c->guest_space - waiting : 0;
}

static void write_header(struct virtio_vsock *s, const struct packet *p)
{
    uint8_t raw[HEADER];

    store_le64(raw, VSOCK_HOST_CID);
    store_le64(raw + 8, cid_of(s));
    store_le32(raw + 16, p->from_port);
    store_le32(raw + 20, p->to_port);
    store_le32(raw + 24, p->len);
    store_le16(raw + 28, p->type);
    store_le16(raw + 30, p->op);
    store_le32(raw + 32, p->flags);
    store_le32(raw + 36, p->space);
    store_le32(raw + 40, p->consumed);
    virtq_write(&s->chain, 0, raw, sizeof raw);
}

// The next buffer that holds at least a header. Ones that do not go back unused.
static bool take_buffer(struct virtio_vsock *s)
{
    while (virtio_pop(&s->virtio, QUEUE_RX, &s->chain)) {
        if (s->chain.writable_bytes >= HEADER)
            return true;
        virtio_push(&s->virtio, QUEUE_RX, &s->chain, 0);
    }
    return false;
}

static struct packet packet_about(const struct connection *c, unsigned op)
{
    return (struct packet){.from_port = c->host_port,
                           .to_port = c->guest_port,
                           .type = c->type,
                           .op = (uint16_t)op,
                           .flags = op == OP_SHUTDOWN ? c->shut_here : 0,
                           .space = VSOCK_CREDIT,
                           .consumed = c->consumed};
}

static void send_packet(struct virtio_vsock *s, struct connection *c, unsigned op)
{
    struct packet p = packet_about(c, op);

    c->told = c->consumed;
    write_header(s, &p);
    virtio_push(&s->virtio, QUEUE_RX, &s->chain, HEADER);
}

static bool send_resets(struct virtio_vsock *s)
{
    while (s->losts && take_buffer(s)) {
        const struct lost *l = &s->lost[--s->losts];
        struct packet p = {
            .from_port = l->host_port, .to_port = l->guest_port, .type = l->type, .op = OP_RST};
        write_header(s, &p);
        virtio_push(&s->virtio, QUEUE_RX, &s->chain, HEADER);
    }
    return !s->losts;
}

// False: the guest has no buffer now.
static bool pay(struct virtio_vsock *s, struct connection *c)
{
    static const uint8_t ops[] = {OP_REQUEST,        OP_RESPONSE, OP_CREDIT_UPDATE,
                                  OP_CREDIT_REQUEST, OP_SHUTDOWN, OP_RST};

    while (c->owed) {
        unsigned first = (unsigned)__builtin_ctz(c->owed);
        if (!take_buffer(s))
            return false;
        c->owed &= (uint8_t)(c->owed - 1);
        send_packet(s, c, ops[first]);
    }
    if (c->state == LEFT)
        c->state = FREE;
    return true;
}

static void send_owed(struct virtio_vsock *s)
{
    bool all = send_resets(s);

    for (unsigned i = 0; all && s->owing && i < VSOCK_CONNECTIONS; i++)
        all = !s->connection[i].owed || pay(s, &s->connection[i]);
    if (all)
        s->owing = false;
    virtio_signal(&s->virtio, QUEUE_RX);
}

static void send_event(struct virtio_vsock *s)
{
    static const uint8_t transport_reset[4] = {0};

    if (s->transport && virtio_pop(&s->virtio, QUEUE_EVENT, &s->chain)) {
        s->transport = false;
        virtio_push(&s->virtio, QUEUE_EVENT, &s->chain,
                    (uint32_t)virtq_write(&s->chain, 0, transport_reset, 4));
        virtio_signal(&s->virtio, QUEUE_EVENT);
    }
}

// --- packets from the guest

static bool knows_type(const struct virtio_vsock *s, unsigned type)
{
    return type == VSOCK_STREAM || (type == VSOCK_SEQPACKET && virtio_has(&s->virtio, F_SEQPACKET));
}

static void answer_lost(struct virtio_vsock *s, const struct packet *p)
{
    if (p->op != OP_RST)
        s->lost[s->losts++] = (struct lost){p->from_port, p->to_port, p->type};
}

static void receive_request(struct virtio_vsock *s, const struct packet *p)
{
    struct connection *c = find_free(s);

    if (!c) {
        answer_lost(s, p);
        return;
    }
    *c = (struct connection){.deadline = NS_NEVER,
                             .guest_port = p->from_port,
                             .host_port = p->to_port,
                             .guest_space = p->space,
                             .guest_consumed = p->consumed,
                             .type = (uint8_t)p->type,
                             .state = OPEN};
    if (s->config.host->request(s->config.opaque, number_of(s, c), p->type, p->from_port,
                                p->to_port)) {
        owe(s, c, OWE_RESPONSE);
    } else {
        c->state = FREE;
        answer_lost(s, p);
    }
}

// The guest hears of what was consumed when it would otherwise soon have to wait, perhaps with the
// rest of a message, which is not consumed before it is whole.
static void tell_credit(struct virtio_vsock *s, struct connection *c)
{
    uint32_t news = c->consumed - c->told, known = VSOCK_CREDIT - (c->received - c->told);

    if (news >= VSOCK_CREDIT / 2 || (news && c->unfinished && known < VSOCK_CREDIT / 2))
        owe(s, c, OWE_CREDIT);
}

// False: the guest has sent more than it was allowed to, or a message that is longer than any may
// be.
static bool receive_data(struct virtio_vsock *s, struct connection *c, const struct packet *p)
{
    uint8_t piece[PIECE];
    uint32_t len = p->len;
    bool end = c->type == VSOCK_SEQPACKET && p->flags & RW_EOM;

    if (c->shut_there & SHUT_SEND || len > VSOCK_CREDIT - (c->received - c->consumed))
        return false;
    c->received += len;
    if (c->type == VSOCK_SEQPACKET)
        c->unfinished = end ? 0 : c->unfinished + len;
    for (uint32_t at = 0; at < len || (!len && end); at += PIECE) {
        size_t part = virtq_read(&s->chain, HEADER + at, piece, min_u64(PIECE, len - at));
        bool last = len - at <= PIECE;
        s->config.host->received(s->config.opaque, number_of(s, c), piece, part, end && last);
        if (last)
            break;
    }
    tell_credit(s, c);
    return c->unfinished < VSOCK_CREDIT;
}

static void receive_shutdown(struct virtio_vsock *s, struct connection *c, uint32_t flags)
{
    bool ended = flags & SHUT_SEND && !(c->shut_there & SHUT_SEND);

    c->shut_there |= flags & SHUT_BOTH;
    if (ended)
        s->config.host->ended(s->config.opaque, number_of(s, c));
    if (c->shut_there == SHUT_BOTH)
        close_connection(s, c, true);
}

// False: it makes no sense here, and breaks the connection.
static bool receive_about(struct virtio_vsock *s, struct connection *c, const struct packet *p)
{
    switch (p->op) {
    case OP_RESPONSE:
        if (c->state != ASKED)
            return false;
        c->state = OPEN;
        c->deadline = NS_NEVER;
        s->config.host->opened(s->config.opaque, number_of(s, c));
        return true;
    case OP_RST: close_connection(s, c, false); return true;
    case OP_SHUTDOWN: receive_shutdown(s, c, p->flags); return c->state != ASKED;
    case OP_RW: return c->state == OPEN && receive_data(s, c, p);
    case OP_CREDIT_UPDATE: return true;
    case OP_CREDIT_REQUEST: owe(s, c, OWE_CREDIT); return true;
    default: return false; // a second request, or what nobody knows
    }
}

static void receive_packet(struct virtio_vsock *s, const struct packet *p)
{
    if (p->from_cid != cid_of(s) || p->to_cid != VSOCK_HOST_CID)
        return;
    struct connection *c = find(s, p);
    if (!c && p->op == OP_REQUEST && knows_type(s, p->type)) {
        receive_request(s, p);
    } else if (!c) {
        answer_lost(s, p);
    } else {
        c->guest_space = p->space;
        c->guest_consumed = p->consumed;
        if (!receive_about(s, c, p))
            close_connection(s, c, true);
        if (c->starved && c->state == OPEN && credit_of(c)) {
            c->starved = false;
            s->config.host->resume(s->config.opaque, number_of(s, c));
        }
    }
}

// False: it is none.
static bool read_packet(struct virtio_vsock *s, struct packet *p)
{
    uint8_t raw[HEADER];

    if (virtq_read(&s->chain, 0, raw, HEADER) != HEADER)
        return false;
    *p = (struct packet){.from_cid = load_le64(raw),
                         .to_cid = load_le64(raw + 8),
                         .from_port = load_le32(raw + 16),
                         .to_port = load_le32(raw + 20),
                         .len = load_le32(raw + 24),
                         .type = load_le16(raw + 28),
                         .op = load_le16(raw + 30),
                         .flags = load_le32(raw + 32),
                         .space = load_le32(raw + 36),
                         .consumed = load_le32(raw + 40)};
    return p->len <= s->chain.readable_bytes - HEADER;
}

// A packet may need an answer: none is taken without a place for it.
static void serve_guest(struct virtio_vsock *s)
{
    struct packet p;

    while (s->losts < RESETS_MAX && virtio_pop(&s->virtio, QUEUE_TX, &s->chain)) {
        if (read_packet(s, &p))
            receive_packet(s, &p);
        virtio_push(&s->virtio, QUEUE_TX, &s->chain, 0);
    }
    virtio_signal(&s->virtio, QUEUE_TX);
    watch(s);
}

// --- the owner's side

static struct connection *live(struct virtio_vsock *s, unsigned number)
{
    struct connection *c = &s->connection[number % VSOCK_CONNECTIONS];

    return c->state == ASKED || c->state == OPEN ? c : NULL;
}

static uint32_t next_port(struct virtio_vsock *s)
{
    return FIRST_PORT + s->next_port++ % FIRST_PORT;
}

int virtio_vsock_connect(struct device *dev, enum vsock_type type, uint32_t guest_port)
{
    struct virtio_vsock *s = vsock_of(virtio_of(dev));
    bool able = virtio_running(&s->virtio) && knows_type(s, type);
    struct connection *c = able ? find_free(s) : NULL;

    if (!c)
        return -1;
    *c = (struct connection){
        .guest_port = guest_port, .host_port = next_port(s), .type = (uint8_t)type, .state = ASKED};
    s->config.host->asked(s->config.opaque, number_of(s, c));
    owe(s, c, OWE_REQUEST);
    await_answer(s, c);
    virtio_begin(&s->virtio);
    send_owed(s);
    return (int)number_of(s, c);
}

// One packet; false: the guest has no buffer.
static bool send_data(struct virtio_vsock *s, struct connection *c, const uint8_t *data, size_t len,
                      uint32_t *sent)
{
    if (!take_buffer(s))
        return false;
    size_t most = min_u64(len, credit_of(c));
    uint32_t room = (uint32_t)min_u64(s->chain.writable_bytes - HEADER, most);
    struct packet p = packet_about(c, OP_RW);
    p.len = room;
    if (c->type == VSOCK_SEQPACKET)
        p.flags = room == len ? RW_EOM : 0;
    c->begun = p.flags ? 0 : c->begun + room;
    c->told = c->consumed;
    write_header(s, &p);
    virtq_write(&s->chain, HEADER, data, room);
    virtio_push(&s->virtio, QUEUE_RX, &s->chain, HEADER + room);
    c->sent += room;
    *sent = room;
    return true;
}

// As much as the guest has credit and buffers for.
static size_t send_some(struct virtio_vsock *s, struct connection *c, const uint8_t *data,
                        size_t len)
{
    size_t done = 0;
    if (c->type == VSOCK_SEQPACKET && len + c->begun > c->guest_space) {
        close_connection(s, c, true);
        send_owed(s);
        return len;
    }
    for (uint32_t part; done < len && credit_of(c); done += part)
        if (!send_data(s, c, data + done, len - done, &part))
            break;
    virtio_signal(&s->virtio, QUEUE_RX);
    return done;
}

size_t virtio_vsock_send(struct device *dev, unsigned connection, const uint8_t *data, size_t len)
{
    struct virtio_vsock *s = vsock_of(virtio_of(dev));
    struct connection *c = live(s, connection);
    size_t done = 0;

    if (!c || c->shut_there & SHUT_RECEIVE || c->shut_here & SHUT_SEND)
        return len; // nobody will read it
    virtio_begin(&s->virtio);
    send_owed(s);
    if (c->state == OPEN && !c->owed && virtio_running(&s->virtio))
        done = send_some(s, c, data, len);
    c->starved = done < len;
    if (c->starved && c->state == OPEN && !credit_of(c)) {
        owe(s, c, OWE_CREDIT_REQUEST);
        send_owed(s);
    }
    return done;
}

void virtio_vsock_consumed(struct device *dev, unsigned connection, size_t len)
{
    struct virtio_vsock *s = vsock_of(virtio_of(dev));
    struct connection *c = live(s, connection);

    if (!c)
        return;
    c->consumed += (uint32_t)min_u64(len, c->received - c->consumed);
    tell_credit(s, c);
    if (c->owed) {
        virtio_begin(&s->virtio);
        send_owed(s);
    }
}

void virtio_vsock_shutdown(struct device *dev, unsigned connection, bool both)
{
    struct virtio_vsock *s = vsock_of(virtio_of(dev));
    struct connection *c = live(s, connection);
    uint8_t want = both ? SHUT_BOTH : SHUT_SEND;

    if (!c || (c->shut_here & want) == want)
        return;
    c->shut_here |= want;
    if (both && c->deadline == NS_NEVER)
        await_answer(s, c);
    owe(s, c, OWE_SHUTDOWN);
    virtio_begin(&s->virtio);
    send_owed(s);
}

void virtio_vsock_release(struct device *dev, unsigned connection)
{
    struct virtio_vsock *s = vsock_of(virtio_of(dev));
    struct connection *c = &s->connection[connection % VSOCK_CONNECTIONS];

    if (c->state == FREE || c->state == LEFT)
        return;
    if (c->state != CLOSED)
        c->owed = OWE_RST;
    c->deadline = NS_NEVER;
    c->state = c->owed ? LEFT : FREE;
    s->owing |= c->owed != 0;
    virtio_begin(&s->virtio);
    send_owed(s);
}

// --- the model

static void resume_all(struct virtio_vsock *s)
{
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++) {
        struct connection *c = &s->connection[i];
        if (c->state != OPEN || !c->starved || !credit_of(c))
            continue;
        c->starved = false;
        s->config.host->resume(s->config.opaque, i);
    }
}

// Any queue: buffers for what is owed make room for the guest's packets, and these for answers.
static void vsock_notify(struct virtio_pci *v, unsigned queue)
{
    struct virtio_vsock *s = vsock_of(v);

    if (queue == QUEUE_EVENT)
        send_event(s);
    if (queue == QUEUE_EVENT || !virtio_running(v))
        return;
    send_owed(s);
    serve_guest(s);
    send_owed(s);
    if (queue == QUEUE_RX)
        resume_all(s);
}

static void vsock_virtio_reset(struct virtio_pci *v)
{
    struct virtio_vsock *s = vsock_of(v);

    close_all(s);
    s->transport = false; // a driver that starts anew has no connections
    watch(s);
}

static void lose_patience(struct virtio_vsock *s)
{
    struct device *dev = &s->virtio.pci.dev;
    ns_t now = dev->env->now(dev);

    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
        if (live(s, i) && s->connection[i].deadline <= now)
            close_connection(s, &s->connection[i], true);
    watch(s);
    if (virtio_running(&s->virtio)) {
        virtio_begin(&s->virtio);
        send_owed(s);
    }
}

static void vsock_timer(struct device *dev, unsigned timer)
{
    if (timer == VIRTIO_TIMER)
        virtio_pci_timer(virtio_of(dev));
    else
        lose_patience(vsock_of(virtio_of(dev)));
}

static const struct virtio_model vsock_model = {
    .class_code = 0x078000, // communication controller, other
    .id = 19,
    .config_len = 8,
    .notify = vsock_notify,
    .reset = vsock_virtio_reset,
};

static err_t vsock_init(struct device *dev, const void *config, struct error *e)
{
    struct virtio_vsock *s = vsock_of(virtio_of(dev));

    s->config = *(const struct virtio_vsock_config *)config;
    virtio_pci_init(&s->virtio, &vsock_model,
                    VIRTIO_FEATURE(F_STREAM) | VIRTIO_FEATURE(F_SEQPACKET), QUEUES, QUEUE_SIZE);
    store_le64(s->virtio.config, cid_of(s));
    return OK;
}

static void vsock_reset(struct device *dev)
{
    virtio_pci_reset(virtio_of(dev));
}

static err_t vsock_loaded(struct device *dev, struct error *e)
{
    struct virtio_vsock *s = vsock_of(virtio_of(dev));
    err_t err;

    close_all(s);
    watch(s);
    err = virtio_pci_loaded(&s->virtio, e);
    s->transport = !err && virtio_running(&s->virtio);
    if (s->transport) {
        virtio_begin(&s->virtio);
        send_event(s);
    }
    return err;
}

static void vsock_fini(struct device *dev)
{
    virtio_pci_fini(virtio_of(dev));
}

const struct device_type virtio_vsock_type = {
    .name = "virtio-vsock",
    .size = sizeof(struct virtio_vsock),
    .timers = 2,
    .lines = 1,
    .state = &vsock_state,
    .init = vsock_init,
    .reset = vsock_reset,
    .loaded = vsock_loaded,
    .timer = vsock_timer,
    .fini = vsock_fini,
};
