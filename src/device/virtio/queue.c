// Virtqueues: what the two ring formats share (life, checks, chains of buffers).
//
// Specification: VIRTIO 1.2, 2.6 to 2.8.
#include "device/virtio/queue_impl.h"

#include <string.h>

#include "base/bits.h"
#include "base/checked.h"

// "A driver MUST NOT add a descriptor chain longer than 2^32 bytes in total" (2.7.5).
#define CHAIN_BYTES_MAX (1ull << 32)

static const struct state_field virtq_fields[] = {
    SKIP(struct virtq, dev, "wiring, rebuilt from configuration"),
    FIELD(struct virtq, desc),
    FIELD(struct virtq, driver),
    FIELD(struct virtq, device),
    FIELD(struct virtq, size),
    SKIP(struct virtq, size_max, "set by the model"),
    FIELD(struct virtq, avail),
    FIELD(struct virtq, used),
    FIELD(struct virtq, unsignalled),
    FIELD(struct virtq, avail_wrap),
    FIELD(struct virtq, used_wrap),
    FIELD(struct virtq, enabled),
    SKIP(struct virtq, packed, "follows the features"),
    SKIP(struct virtq, indirect, "follows the features"),
    SKIP(struct virtq, event_idx, "follows the features"),
    FIELDS_END,
};
const struct state_desc virtq_state = STATE_DESC("virtqueue", struct virtq, 1, virtq_fields);

void virtq_init(struct virtq *q, struct device *dev, uint16_t size_max)
{
    *q = (struct virtq){.dev = dev, .size_max = size_max};
    virtq_reset(q);
}

void virtq_reset(struct virtq *q)
{
    *q = (struct virtq){.dev = q->dev,
                        .size_max = q->size_max,
                        .size = q->size_max,
                        .avail_wrap = 1,
                        .used_wrap = 1};
}

static void take_features(struct virtq *q, uint64_t features)
{
    q->packed = features >> VIRTIO_F_RING_PACKED & 1;
    q->indirect = features >> VIRTIO_F_INDIRECT_DESC & 1;
    q->event_idx = features >> VIRTIO_F_EVENT_IDX & 1;
}

// Alignments are 2.7's and 2.8's; the areas themselves are checked at each use.
static bool addresses_usable(const struct virtq *q)
{
    uint64_t device_align = 4, driver_align = q->packed ? 4 : 2;

    return q->size && q->size <= q->size_max && (q->packed || is_power_of_two(q->size)) &&
           q->desc % DESC_SIZE == 0 && q->driver % driver_align == 0 &&
           q->device % device_align == 0;
}

bool virtq_enable(struct virtq *q, uint64_t features)
{
    take_features(q, features);
    if (!addresses_usable(q))
        return false;
    q->enabled = 1;
    return true;
}

err_t virtq_loaded(struct virtq *q, uint64_t features, struct error *e)
{
    bool in_ring = q->avail < q->size && q->used < q->size;

    take_features(q, features);
    if (q->enabled > 1 || q->avail_wrap > 1 || q->used_wrap > 1 || q->size > q->size_max)
        return error_set(e, ERR_CORRUPT, "a virtqueue has impossible values");
    if (q->enabled && (!addresses_usable(q) || (q->packed && !in_ring)))
        return error_set(e, ERR_CORRUPT, "a virtqueue's rings or indexes are impossible");
    return OK;
}

// --- Chains ---

void chain_start(struct virtq_chain *chain)
{
    chain->readable = chain->writable = 0;
    chain->readable_bytes = chain->writable_bytes = 0;
    chain->slots = 1;
}

const char *chain_add(const struct virtq *q, struct virtq_chain *chain, const struct desc *d)
{
    unsigned n = chain->readable + chain->writable;
    bool write = d->flags & DESC_WRITE;
    void *host;

    if (d->len == 0)
        return NULL;
    if (n >= VIRTQ_SIZE_MAX)
        return "a chain has too many buffers";
    if (!write && chain->writable)
        return "a readable buffer follows a writable one";
    if (chain->readable_bytes + chain->writable_bytes + d->len > CHAIN_BYTES_MAX)
        return "a chain is longer than 4 GiB";
    host = q->dev->env->dma_map(q->dev, d->address, d->len);
    if (!host)
        return "a buffer is not in RAM";
    chain->iov[n] = (struct iovec){host, d->len};
    chain->gpa[n] = d->address;
    if (write) {
        chain->writable++;
        chain->writable_bytes += d->len;
    } else {
        chain->readable++;
        chain->readable_bytes += d->len;
    }
    return NULL;
}

// Copies len bytes at skip of iovs buffers, to or from flat memory.
static size_t copy(const struct iovec *iov, unsigned iovs, uint64_t skip, void *flat, size_t len,
                   bool to_guest)
{
    size_t done = 0;

    for (unsigned i = 0; i < iovs && done < len; i++) {
        size_t part;
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        part = min_u64(iov[i].iov_len - skip, len - done);
        if (to_guest)
            memcpy((char *)iov[i].iov_base + skip, (char *)flat + done, part);
        else
            memcpy((char *)flat + done, (char *)iov[i].iov_base + skip, part);
        done += part;
        skip = 0;
    }
    return done;
}

size_t virtq_read(const struct virtq_chain *chain, uint64_t skip, void *data, size_t len)
{
    return copy(chain->iov, chain->readable, skip, data, len, false);
}

size_t virtq_write(const struct virtq_chain *chain, uint64_t skip, const void *data, size_t len)
{
    return copy(chain->iov + chain->readable, chain->writable, skip, (void *)data, len, true);
}

// --- Either format ---

enum virtq_result virtq_pop(struct virtq *q, struct virtq_chain *chain, const char **why)
{
    const char *unused;

    if (!q->enabled)
        return VIRTQ_EMPTY;
    return (q->packed ? packed_pop : split_pop)(q, chain, why ? why : &unused);
}

void virtq_unpop(struct virtq *q, const struct virtq_chain *chain)
{
    if (!q->packed) {
        q->avail--;
        return;
    }
    if (q->avail < chain->slots) {
        q->avail += q->size;
        q->avail_wrap ^= 1;
    }
    q->avail -= chain->slots;
}

// The machine learns of what was written into the buffers before the guest can see the used entry.
static void announce_writes(const struct virtq *q, const struct virtq_chain *chain,
                            uint64_t written)
{
    for (unsigned i = chain->readable; i < (unsigned)chain->readable + chain->writable && written;
         i++) {
        size_t part = min_u64(chain->iov[i].iov_len, written);
        q->dev->env->dma_done(q->dev, chain->gpa[i], part);
        written -= part;
    }
}

static struct virtq_used used_entry(const struct virtq_chain *chain, uint32_t written)
{
    return (struct virtq_used){chain->head, chain->slots, written, chain->writable > 0};
}

bool virtq_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written)
{
    struct virtq_used used = used_entry(chain, written);

    announce_writes(q, chain, written);
    return virtq_push_set(q, &used, 1);
}

struct virtq_used virtq_fill(struct virtq *q, const struct virtq_chain *chain, const void *data,
                             size_t len)
{
    uint32_t written = (uint32_t)virtq_write(chain, 0, data, len);

    announce_writes(q, chain, written);
    return used_entry(chain, written);
}

struct virtq_spot virtq_spot(const struct virtq_chain *chain, uint64_t at)
{
    struct virtq_spot spot;

    for (unsigned byte = 0; byte < 2; byte++) {
        uint64_t skip = at + byte;
        unsigned i = chain->readable;
        for (; skip >= chain->iov[i].iov_len; i++)
            skip -= chain->iov[i].iov_len;
        spot.host[byte] = (uint8_t *)chain->iov[i].iov_base + skip;
        spot.gpa[byte] = chain->gpa[i] + skip;
    }
    return spot;
}

void virtq_patch(struct virtq *q, const struct virtq_spot *spot, uint16_t value)
{
    for (unsigned byte = 0; byte < 2; byte++) {
        *spot->host[byte] = (uint8_t)(value >> 8 * byte);
        q->dev->env->dma_done(q->dev, spot->gpa[byte], 1);
    }
}

bool virtq_push_set(struct virtq *q, const struct virtq_used *set, unsigned n)
{
    if (!q->enabled)
        return true;
    for (unsigned i = 0; i < n; i++)
        q->unsignalled += q->packed ? set[i].slots : 1;
    return (q->packed ? packed_push_set : split_push_set)(q, set, n);
}

bool virtq_wants_interrupt(struct virtq *q)
{
    uint16_t old = (uint16_t)(q->used - q->unsignalled);

    if (!q->enabled || !q->unsignalled)
        return false;
    q->unsignalled = 0;
    // Pairs with the driver's barrier between asking for an interrupt and looking at the ring
    // again.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return (q->packed ? packed_wants_interrupt : split_wants_interrupt)(q, old);
}
