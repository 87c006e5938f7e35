// The back end's side of vhost-user.
//
// Specification: "Vhost-user Protocol", QEMU's docs/interop/vhost-user. Offered: split rings with
// indirect descriptors and event indexes, merged receive buffers, checksums and TCP segmentation,
// several pairs of queues, REPLY_ACK; to those that a careful back end serves, kicks and calls as
// messages. Not offered: packed rings, logs of written pages (and so no migration of the front
// end's guest), an IOMMU, memory in more than 8 regions.
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "device/vhost/back.h"

// Of the rings.
#define RING_FEATURES \
    (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_INDIRECT_DESC | 1ull << VIRTIO_F_EVENT_IDX)
#define PACKET_FEATURES (NET_OFFLOAD_FEATURES | 1 << 15) // MRG_RXBUF
// STATUS, CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA, GUEST_ANNOUNCE, MQ, CTRL_MAC_ADDR: the
// control queue is the front end's own, but its guest gets only what the back end has, too.
#define FRONT_END_FEATURES (0xff << 16)
#define OFFERED (RING_FEATURES | VHOST_F_PROTOCOL_FEATURES | PACKET_FEATURES | FRONT_END_FEATURES)

static err_t wrong(const char *what, struct error *e)
{
    return error_set(e, ERR_INVALID, "the front end broke the protocol: %s", what);
}

static void answer_u64(struct vhost_message *m, uint64_t value, bool *answer)
{
    store_le64(m->payload, value);
    m->size = 8;
    *answer = true;
}

// An eventfd, as far as one can tell: a regular file would be ready for ever. -1: none came.
static int take_event(const struct vhost_back *b, struct vhost_message *m)
{
    struct stat st;
    int fd = m->fds ? m->fd[0] : -1;
    if (fd < 0 || b->careful || fstat(fd, &st) < 0 || S_ISREG(st.st_mode))
        return -1;
    m->fd[0] = -1;
    return fd;
}

// --- memory

static void stop_all(struct vhost_back *b)
{
    for (unsigned i = 0; i < VHOST_RINGS; i++)
        vhost_stop_ring(b, i);
}

static err_t set_memory(struct vhost_back *b, struct vhost_message *m, struct error *e)
{
    uint32_t count = load_le32(m->payload);
    if (count > VHOST_REGIONS_MAX || count != m->fds || m->size < 8 + 32 * count)
        return wrong("its memory table and the descriptors do not match", e);
    for (unsigned i = 0; i < VHOST_RINGS; i++)
        b->ring[i].q.enabled = 0;
    vhost_memory_release(&b->memory);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *p = m->payload + 8 + 32 * i;
        const struct vhost_region region = {.guest = load_le64(p),
                                            .size = load_le64(p + 8),
                                            .user = load_le64(p + 16),
                                            .offset = load_le64(p + 24)};
        err_t err = vhost_memory_add(&b->memory, &region, m->fd[i], b->careful, e);
        if (err)
            return err;
    }
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        if (b->ring[i].started && !vhost_start_ring(b, i))
            return wrong("a ring is not in its memory any more", e);
    }
    return OK;
}

// --- rings

static err_t find_ring(struct vhost_back *b, uint64_t index, unsigned *out, struct error *e)
{
    *out = (unsigned)index;
    return index < VHOST_RINGS ? OK : wrong("there is no such ring", e);
}

static err_t start_ring(struct vhost_back *b, unsigned i, struct error *e)
{
    struct vhost_ring *r = &b->ring[i];
    r->started = vhost_start_ring(b, i);
    r->on |= b->rings_on;
    return r->started ? OK : wrong("a ring is started whose addresses or size are not usable", e);
}

static err_t set_kick(struct vhost_back *b, unsigned i, struct vhost_message *m, struct error *e)
{
    struct vhost_ring *r = &b->ring[i];
    vhost_stop_ring(b, i);
    if (r->kick.fd >= 0) {
        loop_fd_remove(b->loop, &r->kick);
        close(r->kick.fd);
    }
    r->kick.fd = load_le64(m->payload) & VHOST_RING_NO_FD ? -1 : take_event(b, m);
    if (r->kick.fd < 0)
        return wrong("a ring without a usable descriptor for its kicks", e);
    err_t err = loop_fd_add(b->loop, &r->kick, e);
    if (err) {
        close(r->kick.fd);
        r->kick.fd = -1;
        return err;
    }
    err = start_ring(b, i, e);
    if (!err)
        vhost_kicked(b, i);
    return err;
}

// A kick that came as a message also starts its ring.
static err_t kick(struct vhost_back *b, unsigned i, struct error *e)
{
    err_t err = b->ring[i].started ? OK : start_ring(b, i, e);
    if (!err)
        vhost_kicked(b, i);
    return err;
}

static void set_call(struct vhost_back *b, struct vhost_ring *r, struct vhost_message *m)
{
    if (r->call >= 0)
        close(r->call);
    r->call = load_le64(m->payload) & VHOST_RING_NO_FD ? -1 : take_event(b, m);
}

static err_t obey_ring(struct vhost_back *b, struct vhost_message *m, bool *answer, struct error *e)
{
    unsigned i = 0;
    bool by_fd = m->request >= VHOST_SET_VRING_KICK && m->request <= VHOST_SET_VRING_ERR;
    uint64_t index = by_fd ? load_le64(m->payload) & VHOST_RING_INDEX : load_le32(m->payload);
    uint32_t number = load_le32(m->payload + 4);
    err_t err = m->size < 8 ? wrong("a message is too short", e) : find_ring(b, index, &i, e);
    if (err)
        return err;
    struct vhost_ring *r = &b->ring[i];
    switch (m->request) {
    case VHOST_SET_VRING_NUM:
        if (!number || number > VIRTQ_SIZE_MAX)
            return error_set(e, ERR_UNSUPPORTED, "a ring has %u entries; at most %d are supported",
                             number, VIRTQ_SIZE_MAX);
        r->size = number;
        return OK;
    case VHOST_SET_VRING_ADDR:
        if (m->size < 40)
            return wrong("a message is too short", e);
        r->desc = load_le64(m->payload + 8);
        r->used = load_le64(m->payload + 16);
        r->avail = load_le64(m->payload + 24);
        return OK;
    case VHOST_SET_VRING_BASE: r->q.avail = (uint16_t)number; return OK;
    case VHOST_GET_VRING_BASE:
        vhost_stop_ring(b, i);
        r->started = false;
        store_le32(m->payload + 4, r->q.avail);
        m->size = 8;
        *answer = true;
        return OK;
    case VHOST_SET_VRING_KICK: return set_kick(b, i, m, e);
    case VHOST_SET_VRING_CALL: set_call(b, r, m); return OK;
    case VHOST_SET_VRING_ENABLE:
        r->on = number != 0;
        if (r->on)
            vhost_kicked(b, i);
        return OK;
    case VHOST_VRING_KICK: return kick(b, i, e);
    default: return OK; // VHOST_SET_VRING_ERR: we have another way to say so
    }
}

// --- all of them

static void set_channel(struct vhost_back *b, struct vhost_message *m)
{
    if (b->calls >= 0)
        close(b->calls);
    b->calls = m->fds ? m->fd[0] : -1;
    if (m->fds)
        m->fd[0] = -1;
}

static err_t obey(struct vhost_back *b, struct vhost_message *m, bool *answer, struct error *e)
{
    uint64_t value = load_le64(m->payload);
    switch (m->request) {
    case VHOST_GET_FEATURES: answer_u64(m, OFFERED, answer); return OK;
    case VHOST_SET_FEATURES:
        if (value & ~OFFERED)
            return wrong("it takes features that were not offered", e);
        b->features = value;
        b->rings_on = !(value & VHOST_F_PROTOCOL_FEATURES);
        return OK;
    case VHOST_GET_PROTOCOL_FEATURES:
        answer_u64(
            m, VHOST_MQ | VHOST_REPLY_ACK | (b->careful ? VHOST_BACKEND_CHANNEL | VHOST_INBAND : 0),
            answer);
        return OK;
    case VHOST_GET_QUEUE_NUM: answer_u64(m, VHOST_PAIRS, answer); return OK;
    case VHOST_SET_OWNER:
    case VHOST_SET_PROTOCOL_FEATURES: return OK;
    case VHOST_RESET_OWNER: stop_all(b); return OK;
    case VHOST_SET_BACKEND_FD: set_channel(b, m); return OK;
    case VHOST_SET_MEM_TABLE: return set_memory(b, m, e);
    case VHOST_SET_VRING_NUM:
    case VHOST_SET_VRING_ADDR:
    case VHOST_SET_VRING_BASE:
    case VHOST_GET_VRING_BASE:
    case VHOST_SET_VRING_KICK:
    case VHOST_SET_VRING_CALL:
    case VHOST_SET_VRING_ERR:
    case VHOST_SET_VRING_ENABLE:
    case VHOST_VRING_KICK: return obey_ring(b, m, answer, e);
    default:
        return error_set(e, ERR_UNSUPPORTED, "the front end asks for %u, which is not supported",
                         m->request);
    }
}

err_t vhost_obey(struct vhost_back *b, struct vhost_message *m, bool *answer, struct error *e)
{
    bool confirm = m->flags & VHOST_NEED_REPLY;
    *answer = false;
    err_t err = obey(b, m, answer, e);
    if (!err && confirm && !*answer)
        answer_u64(m, 0, answer);
    return err;
}
