#include "base/buffer.h"

#include <stdlib.h>
#include <string.h>

void *buffer_extend(struct buffer *b, size_t len)
{
    if (b->failed || len > SIZE_MAX / 4 - b->len) {
        b->failed = true;
        return NULL;
    }
    if (b->len + len > b->cap) {
        size_t cap = (b->len + len) * 2;
        uint8_t *data = realloc(b->data, cap);
        if (!data) {
            b->failed = true;
            return NULL;
        }
        b->data = data;
        b->cap = cap;
    }
    if (len == 0) // also where there is nothing at all yet
        return b->data ? b->data + b->len : NULL;
    void *at = b->data + b->len;
    memset(at, 0, len);
    b->len += len;
    return at;
}

void buffer_append(struct buffer *b, const void *data, size_t len)
{
    void *at = buffer_extend(b, len);
    if (at && len)
        memcpy(at, data, len);
}

void buffer_release(struct buffer *b)
{
    free(b->data);
    *b = BUFFER_EMPTY;
}
