// The packed virtqueue format: one ring of descriptors that driver and device overwrite in turn.
//
// Specification: VIRTIO 1.2, 2.8. In the terms of 2.8.1 a descriptor is available when its AVAIL
// flag equals our wrap counter and its USED flag does not.
#include "device/virtio/queue_impl.h"

#define DESC_AVAIL 0x80
#define DESC_USED 0x8000
#define EVENT_LEN 4
#define EVENTS_ENABLE 0
#define EVENTS_DISABLE 1
#define EVENTS_AT_DESC 2
#define WRAP 0x8000

static char *ring(const struct virtq *q)
{
    return ring_at(q, q->desc, (size_t)DESC_SIZE * q->size);
}

static uint16_t *flags_at(char *descs, unsigned slot)
{
    return (uint16_t *)(descs + (size_t)DESC_SIZE * slot + 14);
}

static bool is_available(const struct virtq *q, char *descs)
{
    uint16_t flags = __atomic_load_n(flags_at(descs, q->avail), __ATOMIC_ACQUIRE);

    return !!(flags & DESC_AVAIL) == q->avail_wrap && !!(flags & DESC_USED) != q->avail_wrap;
}

static bool ask_for_notification(struct virtq *q)
{
    uint16_t *event = ring_at(q, q->device, EVENT_LEN);

    if (!event)
        return false;
    __atomic_store_n(&event[0], (uint16_t)(q->avail | (q->avail_wrap ? WRAP : 0)),
                     __ATOMIC_RELAXED);
    __atomic_store_n(&event[1], EVENTS_AT_DESC, __ATOMIC_RELEASE);
    q->dev->env->dma_done(q->dev, q->device, EVENT_LEN);
    // The guest makes a descriptor available, then reads this structure; we do the opposite.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return true;
}

// Memory layout differs from the split one: { address, len, id, flags }.
static void load_desc(const char *at, struct desc *d)
{
    d->address = load_le64(at);
    d->len = load_le32(at + 8);
    d->next = load_le16(at + 12);
    d->flags = load_le16(at + 14);
}

// In an indirect table all entries form the chain in order; only the WRITE flag counts (2.8.7).
static const char *add_indirect(const struct virtq *q, const struct desc *table,
                                struct virtq_chain *chain)
{
    unsigned count = table->len / DESC_SIZE;
    const char *why = NULL;

    if (!q->indirect)
        return "an indirect descriptor without the feature";
    if (table->len == 0 || table->len % DESC_SIZE || count > VIRTQ_SIZE_MAX)
        return "an indirect table has an impossible length";
    for (unsigned i = 0; i < count && !why; i++) {
        char raw[DESC_SIZE];
        struct desc d;
        gpa_t at = table->address + (uint64_t)DESC_SIZE * i;
        if (q->dev->env->dma_read(q->dev, at, raw, sizeof raw) != OK)
            return "an indirect table is not in RAM";
        load_desc(raw, &d);
        why = chain_add(q, chain, &d);
    }
    return why;
}

// The driver made the first descriptor available last, so the whole chain is there. The id that
// names the chain is in its last descriptor.
static const char *walk(const struct virtq *q, const char *descs, struct virtq_chain *chain)
{
    unsigned slot = q->avail;

    for (unsigned seen = 1; seen <= q->size; seen++) {
        struct desc d;
        const char *why;
        load_desc(descs + (size_t)DESC_SIZE * slot, &d);
        if ((d.flags & DESC_INDIRECT) && (seen > 1 || (d.flags & DESC_NEXT)))
            return "an indirect descriptor inside a chain";
        why = d.flags & DESC_INDIRECT ? add_indirect(q, &d, chain) : chain_add(q, chain, &d);
        if (why)
            return why;
        chain->slots = (uint16_t)seen;
        chain->head = d.next;
        if (!(d.flags & DESC_NEXT))
            return NULL;
        slot = slot + 1 == q->size ? 0 : slot + 1;
    }
    return "a chain is longer than its queue";
}

// Moves a slot number forward by n < size, or by size, and flips the counter when it passes the
// end.
static void advance(const struct virtq *q, uint16_t *slot, uint8_t *wrap, unsigned n)
{
    unsigned next = *slot + n;

    if (next >= q->size) {
        next -= q->size;
        *wrap ^= 1;
    }
    *slot = (uint16_t)next;
}

enum virtq_result packed_pop(struct virtq *q, struct virtq_chain *chain, const char **why)
{
    char *descs = ring(q);

    *why = descs ? NULL : "the descriptor ring is not in RAM";
    if (*why)
        return VIRTQ_BROKEN;
    if (!is_available(q, descs)) {
        if (!q->event_idx)
            return VIRTQ_EMPTY;
        if (!ask_for_notification(q)) {
            *why = "the device event area is not in RAM";
            return VIRTQ_BROKEN;
        }
        if (!is_available(q, descs))
            return VIRTQ_EMPTY;
    }
    chain_start(chain);
    *why = walk(q, descs, chain);
    if (*why)
        return VIRTQ_BROKEN;
    advance(q, &q->avail, &q->avail_wrap, chain->slots);
    return VIRTQ_GOT;
}

// Whose flags the guest sees last is the first: it looks at entries in their order.
bool packed_push_set(struct virtq *q, const struct virtq_used *set, unsigned n)
{
    char *descs = ring(q);
    uint16_t first = q->used, first_flags = 0;

    if (!descs)
        return false;
    for (unsigned i = 0; i < n; i++) {
        char *desc = descs + (size_t)DESC_SIZE * q->used;
        uint16_t flags = q->used_wrap ? DESC_AVAIL | DESC_USED : 0;
        if (set[i].writable)
            flags |= DESC_WRITE;
        store_le32(desc + 8, set[i].written);
        store_le16(desc + 12, set[i].head);
        if (i == 0)
            first_flags = flags;
        else
            __atomic_store_n(flags_at(descs, q->used), flags, __ATOMIC_RELEASE);
        q->dev->env->dma_done(q->dev, q->desc + (uint64_t)DESC_SIZE * q->used, DESC_SIZE);
        advance(q, &q->used, &q->used_wrap, set[i].slots);
    }
    __atomic_store_n(flags_at(descs, first), first_flags, __ATOMIC_RELEASE);
    q->dev->env->dma_done(q->dev, q->desc + (uint64_t)DESC_SIZE * first, DESC_SIZE);
    return true;
}

bool packed_wants_interrupt(const struct virtq *q, uint16_t old)
{
    uint16_t *event = ring_at(q, q->driver, EVENT_LEN);
    uint16_t flags, at;

    if (!event)
        return false;
    flags = __atomic_load_n(&event[1], __ATOMIC_ACQUIRE) & 3;
    if (flags != EVENTS_AT_DESC || !q->event_idx)
        return flags != EVENTS_DISABLE;
    at = __atomic_load_n(&event[0], __ATOMIC_RELAXED);
    // Slots of the lap before ours count as negative.
    if (!!(at & WRAP) != q->used_wrap)
        return index_passed((uint16_t)((at & ~WRAP) - q->size), q->used, old);
    return index_passed(at & (uint16_t)~WRAP, q->used, old);
}
