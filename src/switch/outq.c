// A ring of records, each a length and its bytes in one piece. The memory is asked for at once and
// touched as far as it is used.
#include "switch/outq.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"

#define RECORD(len) (align_up(4 + (len), 8))

bool outq_init(struct outq *q)
{
    *q = (struct outq){.ring = malloc(OUTQ_BYTES)};
    return q->ring != NULL;
}

void outq_release(struct outq *q)
{
    free(q->ring);
    *q = (struct outq){0};
}

// head == tail means empty, so a record never fills the last gap.
static bool place(struct outq *q, size_t need)
{
    if (outq_empty(q))
        q->head = q->tail = 0;
    if (q->tail < q->head)
        return q->head - q->tail > need;
    if (OUTQ_BYTES - q->tail >= need)
        return q->tail + need < OUTQ_BYTES || q->head > 0;
    if (q->head <= need)
        return false;
    q->wrap = q->tail;
    q->tail = 0;
    return true;
}

bool outq_push(struct outq *q, const void *a, size_t a_len, const void *b, size_t b_len)
{
    size_t need = RECORD(a_len + b_len);
    if (!place(q, need))
        return false;
    store_le32(q->ring + q->tail, (uint32_t)(a_len + b_len));
    memcpy(q->ring + q->tail + 4, a, a_len);
    if (b_len)
        memcpy(q->ring + q->tail + 4 + a_len, b, b_len);
    q->tail += need;
    if (q->tail == OUTQ_BYTES) {
        q->wrap = OUTQ_BYTES;
        q->tail = 0;
    }
    return true;
}

const uint8_t *outq_peek(const struct outq *q, size_t *len)
{
    if (outq_empty(q))
        return NULL;
    *len = load_le32(q->ring + q->head);
    return q->ring + q->head + 4;
}

void outq_pop(struct outq *q)
{
    q->head += RECORD(load_le32(q->ring + q->head));
    if (q->tail < q->head && q->head == q->wrap)
        q->head = 0;
}
