// The output queue of a PS/2 device.
#include "device/misc/ps2.h"

static const struct state_field fields[] = {
    ARRAY(struct ps2_queue, byte),
    FIELD(struct ps2_queue, head),
    FIELD(struct ps2_queue, count),
    FIELDS_END,
};
const struct state_desc ps2_queue_state = STATE_DESC("ps2-queue", struct ps2_queue, 1, fields);

unsigned ps2_queue_room(const struct ps2_queue *q)
{
    return PS2_QUEUE - q->count;
}

void ps2_queue_push(struct ps2_queue *q, uint8_t byte)
{
    if (q->count == PS2_QUEUE)
        return;
    q->byte[(q->head + q->count) % PS2_QUEUE] = byte;
    q->count++;
}

int ps2_queue_pop(struct ps2_queue *q)
{
    if (!q->count)
        return -1;
    uint8_t byte = q->byte[q->head];
    q->head = (q->head + 1) % PS2_QUEUE;
    q->count--;
    return byte;
}

bool ps2_queue_possible(const struct ps2_queue *q)
{
    return q->head < PS2_QUEUE && q->count <= PS2_QUEUE;
}
