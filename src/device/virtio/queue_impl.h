// Between queue.c and its two ring formats, split.c and packed.c.
#pragma once

#include "base/bytes.h"
#include "device/virtio/queue.h"

enum {
    DESC_NEXT = 1,
    DESC_WRITE = 2,
    DESC_INDIRECT = 4,
    DESC_SIZE = 16,
    SPLIT_HEADER = 4, // flags and index before a split ring's entries
};

struct desc {
    uint64_t address;
    uint32_t len;
    uint16_t flags;
    uint16_t next; // packed: the buffer id
};

// Host address of a part of a ring; NULL if it is not RAM.
static inline void *ring_at(const struct virtq *q, gpa_t at, size_t len)
{
    return q->dev->env->dma_map(q->dev, at, len);
}

// Starts an empty chain, and adds one descriptor's buffer to it. NULL, or what is wrong.
void chain_start(struct virtq_chain *chain);
const char *chain_add(const struct virtq *q, struct virtq_chain *chain, const struct desc *d);

// True when moving an index from old to new passes event (VIRTIO 1.2, 2.7.7.1).
static inline bool index_passed(uint16_t event, uint16_t new, uint16_t old)
{
    return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

enum virtq_result split_pop(struct virtq *q, struct virtq_chain *chain, const char **why);
bool split_push_set(struct virtq *q, const struct virtq_used *set, unsigned n);
bool split_wants_interrupt(const struct virtq *q, uint16_t old);
enum virtq_result packed_pop(struct virtq *q, struct virtq_chain *chain, const char **why);
bool packed_push_set(struct virtq *q, const struct virtq_used *set, unsigned n);
bool packed_wants_interrupt(const struct virtq *q, uint16_t old);
