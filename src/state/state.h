// State tables: every device and the CPU declare once what they must remember, and save, load,
// dump, compare and the proof that no member was forgotten come from that table.
//
// A stream stores rows by name with element size and count, so members may be moved and added.
// Format: docs/formats/state.md.
#pragma once

#include "base/buffer.h"
#include "base/error.h"

enum state_kind {
    STATE_ROW,    // an integer, or an array of integers
    STATE_STRUCT, // a nested struct, or an array of them
    STATE_SKIP,   // not saved, with the reason
    STATE_END,
};

struct state_field {
    const char *name;             // of the member; for STATE_SKIP too
    const char *why;              // STATE_SKIP only
    const struct state_desc *sub; // STATE_STRUCT only
    uint32_t offset;
    uint32_t size;  // of one element, bytes
    uint32_t count; // elements
    uint16_t since; // the table version that introduced it
    uint16_t kind;  // enum state_kind
};

struct state_desc {
    const char *name;
    uint32_t size; // sizeof the struct
    uint16_t version;
    const struct state_field *fields; // up to FIELDS_END
};

#define STATE_MEMBER_SIZE(S, m) sizeof(((S *)0)->m)

// One integer member.
#define FIELD_SINCE(S, m, v)                                                               \
    {                                                                                      \
        .name = #m, .offset = offsetof(S, m), .size = STATE_MEMBER_SIZE(S, m), .count = 1, \
        .since = (v), .kind = STATE_ROW                                                    \
    }
#define FIELD(S, m) FIELD_SINCE(S, m, 1)
// A one-dimensional array of integers.
#define ARRAY_SINCE(S, m, v)                                                         \
    {                                                                                \
        .name = #m, .offset = offsetof(S, m), .size = STATE_MEMBER_SIZE(S, m[0]),    \
        .count = STATE_MEMBER_SIZE(S, m) / STATE_MEMBER_SIZE(S, m[0]), .since = (v), \
        .kind = STATE_ROW                                                            \
    }
#define ARRAY(S, m) ARRAY_SINCE(S, m, 1)
// A nested struct, and an array of them.
#define SUB(S, m, d)                                                                        \
    {                                                                                       \
        .name = #m, .sub = &(d), .offset = offsetof(S, m), .size = STATE_MEMBER_SIZE(S, m), \
        .count = 1, .since = 1, .kind = STATE_STRUCT                                        \
    }
#define SUB_ARRAY(S, m, d)                                                                     \
    {                                                                                          \
        .name = #m, .sub = &(d), .offset = offsetof(S, m), .size = STATE_MEMBER_SIZE(S, m[0]), \
        .count = STATE_MEMBER_SIZE(S, m) / STATE_MEMBER_SIZE(S, m[0]), .since = 1,             \
        .kind = STATE_STRUCT                                                                   \
    }
#define SKIP(S, m, reason)                                                                      \
    {                                                                                           \
        .name = #m, .why = (reason), .offset = offsetof(S, m), .size = STATE_MEMBER_SIZE(S, m), \
        .count = 1, .kind = STATE_SKIP                                                          \
    }
#define FIELDS_END        \
    {                     \
        .kind = STATE_END \
    }

#define STATE_DESC(n, S, v, f)                                        \
    {                                                                 \
        .name = (n), .size = sizeof(S), .version = (v), .fields = (f) \
    }

// Appends the object's rows to out.
void state_save(const struct state_desc *desc, const void *object, struct buffer *out);

// Overwrites the object's rows from a stream that state_save wrote (any older version too).
// Unknown, repeated, mis-sized rows and missing rows of the stream's own version are ERR_CORRUPT; a
// row newer than the stream keeps its value. On error the object is unchanged.
err_t state_load(const struct state_desc *desc, void *object, const void *data, size_t len,
                 struct error *e);

// OK when all rows are equal; else ERR_INVALID with the first different row and both values.
err_t state_compare(const struct state_desc *desc, const void *a, const void *b, struct error *e);

// Calls line for every row ("channel[1].count = 0x12"), in table order.
void state_dump(const struct state_desc *desc, const void *object,
                void (*line)(void *opaque, const char *text), void *opaque);

// Proves that rows and skips together cover every byte of the struct once. Structs with state have
// no padding that the compiler adds (a forgotten member could hide in it), except at their end.
err_t state_check(const struct state_desc *desc, struct error *e);
