// Packets that wait for somebody slow: a ring of a fixed size. What does not fit is the sender's
// loss, so that nobody waits for anybody.
#pragma once

#include "base/types.h"

#define OUTQ_BYTES (2 * MIB)

struct outq {
    uint8_t *ring; // OUTQ_BYTES
    size_t head, tail;
    size_t wrap; // where the packets before the ring's start end; meaningful while tail < head
};

bool outq_init(struct outq *q); // false: no memory
void outq_release(struct outq *q);

static inline bool outq_empty(const struct outq *q)
{
    return q->head == q->tail;
}

// One packet, of two pieces. False: it does not fit.
bool outq_push(struct outq *q, const void *a, size_t a_len, const void *b, size_t b_len);
// The packet that has waited longest, valid until it is popped; NULL: none waits.
const uint8_t *outq_peek(const struct outq *q, size_t *len);
void outq_pop(struct outq *q);
