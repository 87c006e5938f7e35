// The back end's side of vhost-user.
//
// Specification: "Vhost-user Protocol", QEMU's docs/interop/vhost-user. Offered: split rings with
// indirect descriptors and event indexes, merged receive buffers, checksums and TCP segmentation,
// REPLY_ACK. Not offered: packed rings, several pairs of queues, logs of written pages (and so no
// migration of the front end's guest), an IOMMU, memory in more than 8 regions.
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "vhost/adapter.h"

enum {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    RESET_OWNER = 4,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    SET_VRING_ERR = 14,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,

    FLAG_NEED_REPLY = 1 << 3,
    RING_INDEX = 0xff,
    RING_NO_FD = 0x100,

    F_PROTOCOL_FEATURES = 30,
    PROTOCOL_REPLY_ACK = 3,
};

// Of the rings.
#define RING_FEATURES \
    (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_INDIRECT_DESC | 1ull << VIRTIO_F_EVENT_IDX)
// What packets may leave to be done, and MRG_RXBUF.
#define PACKET_FEATURES (NET_OFFLOAD_FEATURES | 1 << 15)
// STATUS, CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA, GUEST_ANNOUNCE, CTRL_MAC_ADDR: the control
// queue is the front end's own, but its guest gets only what the back end has, too.
#define FRONT_END_FEATURES (0x3f << 16 | 1 << 23)
#define OFFERED (RING_FEATURES | 1ull << F_PROTOCOL_FEATURES | PACKET_FEATURES | FRONT_END_FEATURES)

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
static int take_event(struct vhost_message *m)
{
    struct stat st;
    int fd = m->fds ? m->fd[0] : -1;
    if (fd < 0 || fstat(fd, &st) < 0 || S_ISREG(st.st_mode))
        return -1;
    m->fd[0] = -1;
    return fd;
}

// --- memory

static void stop_all(struct vhost *v)
{
    for (unsigned i = 0; i < VHOST_RINGS; i++)
        vhost_stop_ring(v, i);
}

static err_t set_memory(struct vhost *v, struct vhost_message *m, struct error *e)
{
    uint32_t count = load_le32(m->payload);
    if (count > VHOST_REGIONS_MAX || count != m->fds || m->size < 8 + 32 * count)
        return wrong("its memory table and the descriptors do not match", e);
    for (unsigned i = 0; i < VHOST_RINGS; i++)
        v->ring[i].q.enabled = 0;
    vhost_memory_release(&v->memory);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *p = m->payload + 8 + 32 * i;
        const struct vhost_region region = {.guest = load_le64(p),
                                            .size = load_le64(p + 8),
                                            .user = load_le64(p + 16),
                                            .offset = load_le64(p + 24)};
        err_t err = vhost_memory_add(&v->memory, &region, m->fd[i], e);
        if (err)
            return err;
    }
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        if (v->ring[i].started && !vhost_start_ring(v, i))
            return wrong("a ring is not in its memory any more", e);
    }
    return OK;
}

// --- rings

static err_t find_ring(struct vhost *v, uint64_t index, unsigned *out, struct error *e)
{
    *out = (unsigned)index;
    return index < VHOST_RINGS ? OK : wrong("there is no such ring", e);
}

static err_t set_kick(struct vhost *v, unsigned i, struct vhost_message *m, struct error *e)
{
    struct vhost_ring *r = &v->ring[i];
    vhost_stop_ring(v, i);
    if (r->kick.fd >= 0) {
        loop_fd_remove(v->loop, &r->kick);
        close(r->kick.fd);
    }
    r->kick.fd = load_le64(m->payload) & RING_NO_FD ? -1 : take_event(m);
    if (r->kick.fd < 0)
        return wrong("a ring that is to be polled; this back end waits for kicks", e);
    err_t err = loop_fd_add(v->loop, &r->kick, e);
    if (err) {
        close(r->kick.fd);
        r->kick.fd = -1;
        return err;
    }
    r->started = vhost_start_ring(v, i);
    if (!r->started)
        return wrong("a ring is started whose addresses or size are not usable", e);
    r->on |= v->rings_on;
    vhost_kicked(v, i);
    return OK;
}

static void set_call(struct vhost_ring *r, struct vhost_message *m)
{
    if (r->call >= 0)
        close(r->call);
    r->call = load_le64(m->payload) & RING_NO_FD ? -1 : take_event(m);
}

static err_t obey_ring(struct vhost *v, struct vhost_message *m, bool *answer, struct error *e)
{
    unsigned i = 0;
    bool by_fd = m->request >= SET_VRING_KICK && m->request <= SET_VRING_ERR;
    uint64_t index = by_fd ? load_le64(m->payload) & RING_INDEX : load_le32(m->payload);
    uint32_t number = load_le32(m->payload + 4);
    err_t err = m->size < 8 ? wrong("a message is too short", e) : find_ring(v, index, &i, e);
    if (err)
        return err;
    struct vhost_ring *r = &v->ring[i];
    switch (m->request) {
    case SET_VRING_NUM:
        if (!number || number > VIRTQ_SIZE_MAX)
            return error_set(e, ERR_UNSUPPORTED, "a ring has %u entries; at most %d are supported",
                             number, VIRTQ_SIZE_MAX);
        r->size = number;
        return OK;
    case SET_VRING_ADDR:
        if (m->size < 40)
            return wrong("a message is too short", e);
        r->desc = load_le64(m->payload + 8);
        r->used = load_le64(m->payload + 16);
        r->avail = load_le64(m->payload + 24);
        return OK;
    case SET_VRING_BASE: r->q.avail = (uint16_t)number; return OK;
    case GET_VRING_BASE:
        vhost_stop_ring(v, i);
        r->started = false;
        store_le32(m->payload + 4, r->q.avail);
        m->size = 8;
        *answer = true;
        return OK;
    case SET_VRING_KICK: return set_kick(v, i, m, e);
    case SET_VRING_CALL: set_call(r, m); return OK;
    case SET_VRING_ENABLE:
        r->on = number != 0;
        if (r->on)
            vhost_kicked(v, i);
        return OK;
    default: return OK; // SET_VRING_ERR: we have another way to say so
    }
}

// --- all of them

static err_t obey(struct vhost *v, struct vhost_message *m, bool *answer, struct error *e)
{
    uint64_t value = load_le64(m->payload);
    switch (m->request) {
    case GET_FEATURES: answer_u64(m, OFFERED, answer); return OK;
    case SET_FEATURES:
        if (value & ~OFFERED)
            return wrong("it takes features that were not offered", e);
        v->features = value;
        v->rings_on = !(value >> F_PROTOCOL_FEATURES & 1);
        return OK;
    case GET_PROTOCOL_FEATURES: answer_u64(m, 1 << PROTOCOL_REPLY_ACK, answer); return OK;
    case GET_QUEUE_NUM: answer_u64(m, 1, answer); return OK;
    case SET_OWNER:
    case SET_PROTOCOL_FEATURES: return OK;
    case RESET_OWNER: stop_all(v); return OK;
    case SET_MEM_TABLE: return set_memory(v, m, e);
    case SET_VRING_NUM:
    case SET_VRING_ADDR:
    case SET_VRING_BASE:
    case GET_VRING_BASE:
    case SET_VRING_KICK:
    case SET_VRING_CALL:
    case SET_VRING_ERR:
    case SET_VRING_ENABLE: return obey_ring(v, m, answer, e);
    default:
        return error_set(e, ERR_UNSUPPORTED, "the front end asks for %u, which is not supported",
                         m->request);
    }
}

err_t vhost_obey(struct vhost *v, struct vhost_message *m, bool *answer, struct error *e)
{
    bool confirm = m->flags & FLAG_NEED_REPLY;
    *answer = false;
    if (m->size < sizeof m->payload)
        memset(m->payload + m->size, 0, sizeof m->payload - m->size);
    err_t err = obey(v, m, answer, e);
    if (!err && confirm && !*answer)
        answer_u64(m, 0, answer);
    return err;
}
