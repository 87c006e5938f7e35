// A growing byte buffer, for what the VMM writes (state streams, tables). Never fed by a guest.
#pragma once

#include "base/error.h"

struct buffer {
    uint8_t *data; // owned
    size_t len;
    size_t cap;
    bool failed; // an append ran out of memory; all later ones do nothing
};

#define BUFFER_EMPTY ((struct buffer){0})

void buffer_append(struct buffer *b, const void *data, size_t len);
// Appends len zero bytes and returns where they start, or NULL when out of memory.
void *buffer_extend(struct buffer *b, size_t len);
void buffer_release(struct buffer *b);
