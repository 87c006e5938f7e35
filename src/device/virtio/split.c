// The split virtqueue format: descriptor table, available ring, used ring.
//
// Specification: VIRTIO 1.2, 2.7.
#include "device/virtio/queue_impl.h"

#define AVAIL_NO_INTERRUPT 1
#define USED_ENTRY 8

// The available ring is { flags, idx, ring[size], used_event }, the used ring
// { flags, idx, ring[size] of { id, len }, avail_event }.
static size_t avail_bytes(const struct virtq *q)
{
    return SPLIT_HEADER + 2u * q->size + 2;
}

static size_t used_bytes(const struct virtq *q)
{
    return SPLIT_HEADER + (size_t)USED_ENTRY * q->size + 2;
}

static uint16_t *avail_ring(const struct virtq *q)
{
    return ring_at(q, q->driver, avail_bytes(q));
}

// Asks for a notification when the guest makes entry q->avail available.
static bool ask_for_notification(struct virtq *q)
{
    char *used = ring_at(q, q->device, used_bytes(q));
    size_t at = used_bytes(q) - 2;

    if (!used)
        return false;
    __atomic_store_n((uint16_t *)(used + at), q->avail, __ATOMIC_RELAXED);
    q->dev->env->dma_done(q->dev, q->device + at, 2);
    // The guest makes an entry available, then reads avail_event; we do the opposite.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return true;
}

// Entries that wait, at most size; sets *why when the index or the ring is impossible.
static uint16_t waiting(struct virtq *q, const uint16_t *avail, const char **why)
{
    uint16_t n = (uint16_t)(__atomic_load_n(&avail[1], __ATOMIC_ACQUIRE) - q->avail);

    if (n > q->size)
        *why = "the available index runs ahead of the ring";
    return n;
}

// Reads descriptor index of a table of count entries.
static const char *read_desc(const struct virtq *q, gpa_t table, unsigned count, unsigned index,
                             struct desc *d)
{
    if (index >= count)
        return "a descriptor index is outside its table";
    if (q->dev->env->dma_read(q->dev, table + (uint64_t)DESC_SIZE * index, d, sizeof *d) != OK)
        return "a descriptor table is not in RAM";
    return NULL;
}

// An indirect descriptor replaces the table; it is the whole chain (2.7.5.3.1).
static const char *enter_indirect(const struct virtq *q, struct desc *d, gpa_t *table,
                                  unsigned *count)
{
    if (!q->indirect)
        return "an indirect descriptor without the feature";
    if (d->flags & DESC_NEXT)
        return "an indirect descriptor has a successor";
    if (d->len == 0 || d->len % DESC_SIZE || d->len / DESC_SIZE > UINT16_MAX)
        return "an indirect table has an odd length";
    *table = d->address;
    *count = d->len / DESC_SIZE;
    return read_desc(q, *table, *count, 0, d);
}

// Follows a chain from its head. At most VIRTQ_SIZE_MAX descriptors of one table: a loop ends
// there.
static const char *walk(const struct virtq *q, uint16_t head, struct virtq_chain *chain)
{
    gpa_t table = q->desc;
    unsigned count = q->size;
    struct desc d;
    const char *why = read_desc(q, table, count, head, &d);

    if (!why && (d.flags & DESC_INDIRECT))
        why = enter_indirect(q, &d, &table, &count);
    for (unsigned seen = 1; !why; seen++) {
        if (d.flags & DESC_INDIRECT)
            return "an indirect descriptor inside a chain";
        why = chain_add(q, chain, &d);
        if (why || !(d.flags & DESC_NEXT))
            return why;
        if (seen >= count || seen >= VIRTQ_SIZE_MAX)
            return "a chain is longer than its queue";
        why = read_desc(q, table, count, d.next, &d);
    }
    return why;
}

enum virtq_result split_pop(struct virtq *q, struct virtq_chain *chain, const char **why)
{
    uint16_t *avail = avail_ring(q);
    uint16_t n;

    *why = avail ? NULL : "the available ring is not in RAM";
    if (*why)
        return VIRTQ_BROKEN;
    n = waiting(q, avail, why);
    if (n == 0 && q->event_idx) {
        if (!ask_for_notification(q))
            *why = "the used ring is not in RAM";
        else
            n = waiting(q, avail, why);
    }
    if (*why)
        return VIRTQ_BROKEN;
    if (n == 0)
        return VIRTQ_EMPTY;
    chain_start(chain);
    chain->head = __atomic_load_n(&avail[2 + q->avail % q->size], __ATOMIC_RELAXED);
    *why = walk(q, chain->head, chain);
    if (*why)
        return VIRTQ_BROKEN;
    q->avail++;
    return VIRTQ_GOT;
}

bool split_push_set(struct virtq *q, const struct virtq_used *set, unsigned n)
{
    char *used = ring_at(q, q->device, used_bytes(q));

    if (!used)
        return false;
    for (unsigned i = 0; i < n; i++, q->used++) {
        size_t at = SPLIT_HEADER + (size_t)USED_ENTRY * (q->used % q->size);
        store_le32(used + at, set[i].head);
        store_le32(used + at + 4, set[i].written);
        q->dev->env->dma_done(q->dev, q->device + at, USED_ENTRY);
    }
    __atomic_store_n((uint16_t *)(used + 2), q->used, __ATOMIC_RELEASE);
    q->dev->env->dma_done(q->dev, q->device + 2, 2);
    return true;
}

bool split_wants_interrupt(const struct virtq *q, uint16_t old)
{
    uint16_t *avail = avail_ring(q);

    if (!avail)
        return false;
    if (!q->event_idx)
        return !(__atomic_load_n(&avail[0], __ATOMIC_RELAXED) & AVAIL_NO_INTERRUPT);
    return index_passed(__atomic_load_n(&avail[2 + q->size], __ATOMIC_RELAXED), q->used, old);
}
