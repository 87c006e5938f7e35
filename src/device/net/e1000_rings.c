// The 82540EM's descriptor rings.
//
// A packet is sent, and its descriptors are given back, only when the network has room for it: so
// a packet that has to wait is gathered anew. Everything a descriptor says is bounded here.
#include <string.h>

#include "base/bytes.h"
#include "device/net/e1000_impl.h"

enum {
    PACKET_DESCRIPTORS_MAX = 1024, // more is no packet
    DESCRIPTORS_A_CALLBACK = 512,

    TX_EOP = 1,
    TX_IC = 4,  // legacy: insert a checksum
    TX_TSE = 4, // extended: cut into segments
    TX_RS = 8,
    TX_DEXT = 0x20,
    TX_VLE = 0x40,
    TX_DONE = 1, // status
    TX_TYPE_DATA = 1,
    TX_SUM_IP = 1, // POPTS
    TX_SUM_DATA = 2,
    TUCMD_TCP = 1,
    TUCMD_IPV4 = 2,

    RX_DD = 1,
    RX_EOP = 2,
    RX_IXSM = 4, // checksums were not looked at
    RX_VP = 8,

    HEADER_CHECKSUM = 1, // of net/net.h: flags, and gso_type
    HEADER_TCPV4 = 1,
    HEADER_TCPV6 = 4,

    FCS_BYTES = 4,
    SHORTEST = 60,
    LONGEST = 1522 - FCS_BYTES, // without LPE, tag and all
    LONGEST_LONG = 16384 - FCS_BYTES,
    TAG_BYTES = 4,
};

struct ring {
    gpa_t base;
    uint32_t count; // descriptors; 0: none
    uint32_t head, tail;
};

static struct ring ring_of(struct e1000 *n, unsigned base)
{
    const uint32_t *r = e1000_reg(n, base);
    struct ring ring = {.base = r[0] | (gpa_t)r[1] << 32, .count = r[2] / DESC_BYTES};

    ring.head = r[(REG_RDH - REG_RDBAL) / 4];
    ring.tail = r[(REG_RDT - REG_RDBAL) / 4];
    if (ring.head >= ring.count || ring.tail >= ring.count)
        ring.count = 0;
    return ring;
}

static uint32_t next(const struct ring *ring, uint32_t at)
{
    return at + 1 == ring->count ? 0 : at + 1;
}

// --- Sending ---

// A packet that is being gathered in n->packet, behind its header.
struct gathering {
    size_t len; // of the frame; beyond NET_FRAME_MAX it is lost
    unsigned descriptors;
    uint8_t command; // of the last descriptor
    uint8_t options; // POPTS of the first
    bool extended, segmented;
    uint8_t sum_start, sum_at; // legacy: the checksum to insert
    uint16_t tag;
};

static void gather(struct e1000 *n, const uint8_t *d, size_t len, struct gathering *g)
{
    struct device *dev = &n->pci.dev;
    uint8_t *frame = n->packet + NET_HEADER_BYTES;

    if (g->len + len > NET_FRAME_MAX) {
        g->len = NET_FRAME_MAX + 1;
        return;
    }
    if (len && dev->env->dma_read(dev, load_le64(d), frame + g->len, len) != OK)
        memset(frame + g->len, 0, len);
    g->len += len;
}

static void take_descriptor(struct e1000 *n, const uint8_t *d, struct gathering *g)
{
    bool extended = d[11] & TX_DEXT;

    if (!g->descriptors++) {
        g->extended = extended;
        g->options = d[13];
        g->segmented = extended && d[11] & TX_TSE;
        g->sum_at = d[10];
        g->sum_start = d[13];
    }
    g->command = d[11];
    if (d[11] & TX_EOP)
        g->tag = load_le16(d + 14);
    gather(n, d, extended ? load_le32(d + 8) & 0xfffff : load_le16(d + 8), g);
}

static void set_context(struct e1000 *n, const uint8_t *d)
{
    n->offload = (struct e1000_offload){.ip_start = d[0],
                                        .ip_at = d[1],
                                        .ip_end = load_le16(d + 2),
                                        .start = d[4],
                                        .at = d[5],
                                        .end = load_le16(d + 6),
                                        .command = d[11],
                                        .header = d[13],
                                        .mss = load_le16(d + 14)};
}

static uint32_t sum_of(const uint8_t *p, size_t len, uint32_t sum)
{
    for (size_t i = 0; i < len; i++)
        sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static void put16(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static void sum_ip(struct e1000 *n, size_t len)
{
    const struct e1000_offload *o = &n->offload;
    uint8_t *frame = n->packet + NET_HEADER_BYTES;
    size_t end = o->ip_end && o->ip_end < len ? o->ip_end + 1u : len;

    if (o->ip_start >= end || o->ip_at + 2u > len)
        return;
    put16(frame + o->ip_at, 0);
    put16(frame + o->ip_at, ~sum_of(frame + o->ip_start, end - o->ip_start, 0));
}

// The checksum is left to whoever needs it.
static void leave_sum(struct e1000 *n, unsigned start, unsigned at)
{
    if (start < NET_FRAME_MIN || at < start)
        return;
    n->packet[0] = HEADER_CHECKSUM;
    store_le16(n->packet + 6, (uint16_t)start);
    store_le16(n->packet + 8, (uint16_t)(at - start));
}

// So is the cutting. Drivers leave the IP length and the length in TCP's pseudo-header out, since
// each segment has its own; a large frame has those of the whole.
static void leave_segments(struct e1000 *n, size_t len)
{
    const struct e1000_offload *o = &n->offload;
    uint8_t *frame = n->packet + NET_HEADER_BYTES;
    bool v4 = o->command & TUCMD_IPV4;
    size_t ip = o->ip_start, tcp = o->start;

    if (!(o->command & TUCMD_TCP) || ip + (v4 ? 20 : 40) > len || tcp + 20 > len || tcp <= ip ||
        o->at != tcp + 16)
        return;
    put16(frame + ip + (v4 ? 2 : 4), (uint32_t)(len - ip - (v4 ? 0 : 40)));
    put16(frame + o->at,
          sum_of(frame + ip + (v4 ? 12 : 8), v4 ? 8 : 32, (uint32_t)(6 + len - tcp)));
    if (v4)
        sum_ip(n, len);
    leave_sum(n, o->start, o->at);
    if (len <= (size_t)o->header + o->mss)
        return;
    n->packet[1] = v4 ? HEADER_TCPV4 : HEADER_TCPV6;
    store_le16(n->packet + 2, o->header);
    store_le16(n->packet + 4, o->mss);
}

static void finish_sums(struct e1000 *n, const struct gathering *g)
{
    memset(n->packet, 0, NET_HEADER_BYTES);
    store_le16(n->packet + 10, 1);
    if (!g->extended) {
        if (g->command & TX_IC)
            leave_sum(n, g->sum_start, g->sum_at);
        return;
    }
    if (g->segmented) {
        leave_segments(n, g->len);
        return;
    }
    if (g->options & TX_SUM_IP)
        sum_ip(n, g->len);
    if (g->options & TX_SUM_DATA)
        leave_sum(n, n->offload.start, n->offload.at);
}

static void insert_tag(struct e1000 *n, struct gathering *g)
{
    uint8_t *frame = n->packet + NET_HEADER_BYTES;

    if (!(g->command & TX_VLE) || !e1000_has(n, REG_CTRL, CTRL_VME) || g->len < NET_FRAME_MIN ||
        g->len + TAG_BYTES > NET_FRAME_MAX)
        return;
    memmove(frame + 12 + TAG_BYTES, frame + 12, g->len - 12);
    put16(frame + 12, *e1000_reg(n, REG_VET));
    put16(frame + 14, g->tag);
    g->len += TAG_BYTES;
    if (n->packet[0])
        store_le16(n->packet + 6, (uint16_t)(load_le16(n->packet + 6) + TAG_BYTES));
    if (n->packet[1])
        store_le16(n->packet + 2, (uint16_t)(load_le16(n->packet + 2) + TAG_BYTES));
}

// False: the network has no room for it now.
static bool send(struct e1000 *n, struct gathering *g)
{
    if (g->len > NET_FRAME_MAX)
        return true;
    finish_sums(n, g);
    insert_tag(n, g);
    size_t len = NET_HEADER_BYTES + g->len;
    if (!n->link || !n->config.send || !net_packet_valid(n->packet, len, NET_TAKES_ALL))
        return true;
    if (!n->config.send(n->config.opaque, n->packet, len))
        return false;
    e1000_count(n, REG_GPTC, REG_TPT, REG_GOTCL, g->len + FCS_BYTES);
    return true;
}

// Gives `count` descriptors from the head on back, those with a report wanted marked as done.
static bool give_back(struct e1000 *n, struct ring *ring, unsigned count)
{
    struct device *dev = &n->pci.dev;
    bool report = false;

    for (; count; count--) {
        gpa_t at = ring->base + ring->head * (gpa_t)DESC_BYTES;
        uint8_t d[DESC_BYTES];
        if (dev->env->dma_read(dev, at, d, sizeof d) == OK && d[11] & TX_RS) {
            d[12] |= TX_DONE;
            (void)dev->env->dma_write(dev, at + 12, d + 12, 1);
            report = true;
        }
        ring->head = next(ring, ring->head);
    }
    *e1000_reg(n, REG_TDH) = ring->head;
    return report;
}

// Sends the packet at the ring's head. Descriptors looked at; 0: there is none, or it has to wait.
static unsigned send_next(struct e1000 *n, struct ring *ring, bool *report)
{
    struct device *dev = &n->pci.dev;
    struct gathering g = {0};

    for (uint32_t at = ring->head; at != ring->tail; at = next(ring, at)) {
        uint8_t d[DESC_BYTES];
        if (dev->env->dma_read(dev, ring->base + at * (gpa_t)DESC_BYTES, d, sizeof d) != OK)
            memset(d, 0, sizeof d);
        if (d[11] & TX_DEXT && bits_get(load_le32(d + 8), 23, 20) != TX_TYPE_DATA) {
            set_context(n, d);
            if (!g.descriptors) {
                *report |= give_back(n, ring, 1);
                return 1;
            }
            g.descriptors++;
        } else {
            take_descriptor(n, d, &g);
        }
        if (!(g.command & TX_EOP) && g.descriptors < PACKET_DESCRIPTORS_MAX)
            continue;
        if (g.command & TX_EOP && !send(n, &g)) {
            n->stalled = 1;
            return 0;
        }
        *report |= give_back(n, ring, g.descriptors);
        return g.descriptors;
    }
    return 0;
}

void e1000_transmit(struct e1000 *n)
{
    struct device *dev = &n->pci.dev;
    struct ring ring = ring_of(n, REG_TDBAL);
    unsigned looked_at = 0, step = 1;
    bool report = false;

    n->stalled = 0;
    if (!e1000_has(n, REG_TCTL, TCTL_EN) || !ring.count || !pci_is_master(&n->pci))
        return;
    while (step && looked_at < DESCRIPTORS_A_CALLBACK) {
        step = send_next(n, &ring, &report);
        looked_at += step;
    }
    if (step && ring.head != ring.tail)
        dev->env->set_timer(dev, TIMER_TRANSMIT, dev->env->now(dev));
    if (report || (looked_at && ring.head == ring.tail))
        e1000_cause(n, (report ? ICR_TXDW : 0) | (ring.head == ring.tail ? ICR_TXQE : 0));
}

// --- Receiving ---

static bool exact_match(struct e1000 *n, const uint8_t *mac)
{
    for (unsigned at = REG_RAL; at < REG_RA_END; at += 8) {
        uint32_t low = *e1000_reg(n, at), high = *e1000_reg(n, at + 4);
        if (high & RAH_AV && low == load_le32(mac) && (high & 0xffff) == load_le16(mac + 4))
            return true;
    }
    return false;
}

static bool hash_match(struct e1000 *n, const uint8_t *mac)
{
    static const uint8_t shifts[] = {4, 3, 2, 0};
    unsigned which = (unsigned)bits_get(*e1000_reg(n, REG_RCTL), 13, 12);
    unsigned hash = load_le16(mac + 4) >> shifts[which] & 0xfff;

    return *e1000_reg(n, REG_MTA + (hash >> 5) * 4) >> (hash & 31) & 1;
}

static bool passes_filters(struct e1000 *n, const uint8_t *frame, size_t len)
{
    static const uint8_t everyone[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    unsigned vlan = len >= 16 ? (unsigned)(frame[14] << 8 | frame[15]) & 0xfff : 0;
    uint32_t vet = *e1000_reg(n, REG_VET);
    bool tagged = len >= 16 && (unsigned)(frame[12] << 8 | frame[13]) == vet;

    if (tagged && e1000_has(n, REG_RCTL, RCTL_VFE) &&
        !(*e1000_reg(n, REG_VFTA + (vlan >> 5) * 4) >> (vlan & 31) & 1))
        return false;
    if (e1000_has(n, REG_RCTL, frame[0] & 1 ? RCTL_MPE : RCTL_UPE))
        return true;
    if (!memcmp(frame, everyone, sizeof everyone))
        return e1000_has(n, REG_RCTL, RCTL_BAM);
    return exact_match(n, frame) || (frame[0] & 1 && hash_match(n, frame));
}

static size_t buffer_bytes(struct e1000 *n)
{
    unsigned code = (unsigned)bits_get(*e1000_reg(n, REG_RCTL), 17, 16);

    if (e1000_has(n, REG_RCTL, RCTL_BSEX))
        return code ? 32768u >> code : 2048; // 0 is reserved
    return 2048u >> code;
}

// A frame as the descriptors take it: its tag taken out, with padding and a check sequence (zeros:
// nobody looks at it).
struct arrival {
    const uint8_t *data;
    size_t len;
    uint8_t status;
    uint16_t tag;
};

static void write_descriptor(struct e1000 *n, gpa_t at, const struct arrival *a, size_t offset,
                             size_t room)
{
    struct device *dev = &n->pci.dev;
    size_t len = min_u64(room, a->len - offset);
    bool last = offset + len == a->len;
    uint8_t d[DESC_BYTES];

    if (dev->env->dma_read(dev, at, d, sizeof d) != OK)
        return;
    if (load_le64(d) && dev->env->dma_write(dev, load_le64(d), a->data + offset, len) != OK)
        len = 0;
    store_le16(d + 8, (uint16_t)len);
    store_le16(d + 10, 0);
    d[12] = (uint8_t)(RX_DD | (last ? RX_EOP | a->status : 0));
    d[13] = 0;
    store_le16(d + 14, last ? a->tag : 0);
    (void)dev->env->dma_write(dev, at + 8, d + 8, 4);
    (void)dev->env->dma_write(dev, at + 13, d + 13, 3);
    (void)dev->env->dma_write(dev, at + 12, d + 12, 1); // last: now the driver may look
}

static void prepare(struct e1000 *n, const uint8_t *frame, size_t len, struct arrival *a)
{
    bool tagged = len >= 18 && (uint32_t)(frame[12] << 8 | frame[13]) == *e1000_reg(n, REG_VET);
    size_t cut = 0;

    *a = (struct arrival){.status = RX_IXSM};
    if (tagged && e1000_has(n, REG_CTRL, CTRL_VME)) {
        a->status |= RX_VP;
        a->tag = (uint16_t)(frame[14] << 8 | frame[15]);
        cut = TAG_BYTES;
    }
    size_t head = min_u64(len, 12);
    len -= cut;
    memcpy(n->packet, frame, head);
    memcpy(n->packet + head, frame + head + cut, len - head);
    size_t tail = len < SHORTEST ? SHORTEST - len : 0;
    tail += e1000_has(n, REG_RCTL, RCTL_SECRC) ? 0 : FCS_BYTES;
    memset(n->packet + len, 0, tail);
    a->data = n->packet;
    a->len = len + tail;
}

static void warn_of_few(struct e1000 *n, const struct ring *ring)
{
    uint32_t free = (ring->tail + ring->count - ring->head) % ring->count;
    unsigned divisor = 2u << bits_get(*e1000_reg(n, REG_RCTL), 9, 8);

    e1000_cause(n, ICR_RXT0 | (free <= ring->count / divisor ? ICR_RXDMT0 : 0));
}

// False: the guest has too few buffers. A frame that goes nowhere is taken.
static bool take(struct e1000 *n, const uint8_t *frame, size_t len)
{
    struct ring ring = ring_of(n, REG_RDBAL);
    size_t room = buffer_bytes(n);
    struct arrival a;

    if (len > (e1000_has(n, REG_RCTL, RCTL_LPE) ? LONGEST_LONG : LONGEST) || !ring.count ||
        !passes_filters(n, frame, len))
        return true;
    prepare(n, frame, len, &a);
    size_t needed = (a.len + room - 1) / room;
    if (needed >= ring.count)
        return true;
    if ((ring.tail + ring.count - ring.head) % ring.count < needed)
        return false;
    for (size_t offset = 0; offset < a.len; offset += room) {
        write_descriptor(n, ring.base + ring.head * (gpa_t)DESC_BYTES, &a, offset, room);
        ring.head = next(&ring, ring.head);
    }
    *e1000_reg(n, REG_RDH) = ring.head;
    e1000_count(n, REG_GPRC, REG_TPR, REG_GORCL, a.len);
    warn_of_few(n, &ring);
    return true;
}

static bool deliver(void *opaque, uint8_t *packet, size_t bytes)
{
    return take(opaque, packet + NET_HEADER_BYTES, bytes - NET_HEADER_BYTES);
}

bool e1000_receive(struct device *dev, uint8_t *packet, size_t len)
{
    struct e1000 *n = e1000_of(dev);

    if (!n->link || !e1000_has(n, REG_RCTL, RCTL_EN) || !pci_is_master(&n->pci)) {
        n->taken = 0;
        return true;
    }
    n->starved = !net_packet_hand_over(packet, len, 0, n->part, &n->taken, deliver, n);
    return !n->starved;
}

void e1000_buffers_added(struct e1000 *n)
{
    if (!n->starved)
        return;
    n->starved = 0;
    if (n->config.resume)
        n->config.resume(n->config.opaque);
}
