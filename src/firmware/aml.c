// AML encoding (ACPI 6.4 sections 20.2 and 6.4): only the terms that the pc board's DSDT uses.
// Input is our own, so misuse is a bug and not reported; running out of memory shows in the buffer.

#include "firmware/aml.h"

#include <string.h>

#include "base/bytes.h"

static void byte(struct aml *a, unsigned value)
{
    uint8_t b = (uint8_t)value;
    buffer_append(a->out, &b, 1);
}

static void integer(struct aml *a, uint64_t value, unsigned size)
{
    buffer_append(a->out, &value, size); // little-endian, as the host
}

void aml_op(struct aml *a, unsigned op)
{
    byte(a, op);
}

void aml_int(struct aml *a, uint64_t value)
{
    if (value <= 1) {
        byte(a, (unsigned)value);
    } else if (value <= UINT8_MAX) {
        byte(a, 0x0a);
        integer(a, value, 1);
    } else if (value <= UINT16_MAX) {
        byte(a, 0x0b);
        integer(a, value, 2);
    } else if (value <= UINT32_MAX) {
        byte(a, 0x0c);
        integer(a, value, 4);
    } else {
        byte(a, 0x0e);
        integer(a, value, 8);
    }
}

void aml_string(struct aml *a, const char *text)
{
    byte(a, 0x0d);
    buffer_append(a->out, text, strlen(text) + 1);
}

// One name segment: four characters, padded with underscores. Returns what follows it.
static const char *segment(struct aml *a, const char *path)
{
    char seg[4] = {'_', '_', '_', '_'};
    size_t len = strcspn(path, ".");
    memcpy(seg, path, len < 4 ? len : 4);
    buffer_append(a->out, seg, 4);
    return path[len] ? path + len + 1 : path + len;
}

void aml_path(struct aml *a, const char *path)
{
    while (*path == '\\' || *path == '^') {
        byte(a, (uint8_t)*path++);
    }
    unsigned segments = *path != 0;
    for (const char *p = path; *p; p++) {
        segments += *p == '.';
    }
    if (segments == 0) {
        byte(a, 0);
    } else if (segments == 2) {
        byte(a, 0x2e);
    } else if (segments > 2) {
        byte(a, 0x2f);
        byte(a, segments);
    }
    while (*path) {
        path = segment(a, path);
    }
}

static unsigned hex_digit(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10);
}

void aml_eisaid(struct aml *a, const char *id)
{
    uint32_t value = (uint32_t)(id[0] - 0x40) << 26 | (uint32_t)(id[1] - 0x40) << 21 |
                     (uint32_t)(id[2] - 0x40) << 16 | hex_digit(id[3]) << 12 |
                     hex_digit(id[4]) << 8 | hex_digit(id[5]) << 4 | hex_digit(id[6]);
    byte(a, 0x0c);
    integer(a, __builtin_bswap32(value), 4);
}

static void open_block(struct aml *a, bool template)
{
    a->block[a->depth].at = a->out->len;
    a->block[a->depth++].template = template;
}

static void extended(struct aml *a, unsigned op)
{
    byte(a, 0x5b);
    byte(a, op);
}

void aml_bytes(struct aml *a, const void *data, uint8_t len)
{
    byte(a, 0x11);
    open_block(a, false);
    aml_int(a, len);
    buffer_append(a->out, data, len);
    aml_end(a);
}

void aml_scope(struct aml *a, const char *path)
{
    byte(a, 0x10);
    open_block(a, false);
    aml_path(a, path);
}

void aml_device(struct aml *a, const char *name)
{
    extended(a, 0x82);
    open_block(a, false);
    aml_path(a, name);
}

void aml_method(struct aml *a, const char *name, unsigned args, bool serialized)
{
    byte(a, 0x14);
    open_block(a, false);
    aml_path(a, name);
    byte(a, args | (serialized ? 8 : 0));
}

void aml_if(struct aml *a)
{
    byte(a, 0xa0);
    open_block(a, false);
}

void aml_else(struct aml *a)
{
    byte(a, 0xa1);
    open_block(a, false);
}

void aml_package(struct aml *a, uint8_t elements)
{
    byte(a, 0x12);
    open_block(a, false);
    byte(a, elements);
}

// Makes room for the block's length, which counts itself, in as few bytes as it needs: one byte
// below 64, else the low four bits in the first byte and up to 20 more bits after it.
static void insert_length(struct aml *a, size_t at)
{
    size_t body = a->out->len - at;
    unsigned bytes = body + 1 < 1 << 6 ? 1 : body + 2 < 1 << 12 ? 2 : body + 3 < 1 << 20 ? 3 : 4;
    size_t len = body + bytes;
    if (!buffer_extend(a->out, bytes)) {
        return;
    }
    uint8_t *p = a->out->data + at;
    memmove(p + bytes, p, body);
    p[0] = (uint8_t)(bytes == 1 ? len : (bytes - 1) << 6 | (len & 15));
    for (unsigned i = 1; i < bytes; i++) {
        p[i] = (uint8_t)(len >> (8 * i - 4));
    }
}

void aml_end(struct aml *a)
{
    size_t at = a->block[--a->depth].at;
    if (a->block[a->depth].template) {
        static const uint8_t end_tag[2] = {0x79, 0};
        buffer_append(a->out, end_tag, sizeof end_tag);
        if (!a->out->failed) { // the byte count, written as a word by aml_resources()
            store_le16(a->out->data + at + 1, (uint16_t)(a->out->len - at - 3));
        }
    }
    if (!a->out->failed) {
        insert_length(a, at);
    }
}

void aml_name(struct aml *a, const char *name)
{
    byte(a, 0x08);
    aml_path(a, name);
}

void aml_name_int(struct aml *a, const char *name, uint64_t value)
{
    aml_name(a, name);
    aml_int(a, value);
}

void aml_region(struct aml *a, const char *name, enum aml_space space, uint64_t at, uint64_t len)
{
    extended(a, 0x80);
    aml_path(a, name);
    byte(a, space);
    aml_int(a, at);
    aml_int(a, len);
}

void aml_field(struct aml *a, const char *region)
{
    extended(a, 0x81);
    open_block(a, false);
    aml_path(a, region);
    byte(a, 1); // byte access, no lock, preserve
}

void aml_field_entry(struct aml *a, const char *name, uint8_t bits)
{
    if (name) {
        aml_path(a, name);
    } else {
        byte(a, 0);
    }
    byte(a, bits & 0x3f); // a package length below 64
}

void aml_resources(struct aml *a)
{
    byte(a, 0x11);
    open_block(a, true);
    byte(a, 0x0b); // byte count as a word: filled in by aml_end()
    integer(a, 0, 2);
}

void aml_resource_io(struct aml *a, uint16_t at, uint8_t len)
{
    byte(a, 0x47);
    byte(a, 1); // decodes 16 bits
    integer(a, at, 2);
    integer(a, at, 2);
    byte(a, 1);
    byte(a, len);
}

void aml_resource_irq(struct aml *a, unsigned irq)
{
    byte(a, 0x22);
    integer(a, 1u << irq, 2);
}

void aml_resource_interrupts(struct aml *a, const uint32_t *irq, uint8_t count)
{
    byte(a, 0x89);
    integer(a, 2u + 4u * count, 2);
    byte(a, 0x09); // consumer, level, active high, shared
    byte(a, count);
    buffer_append(a->out, irq, 4u * count);
}

void aml_resource_memory(struct aml *a, uint32_t at, uint32_t len)
{
    byte(a, 0x86);
    integer(a, 9, 2);
    byte(a, 1); // writable
    integer(a, at, 4);
    integer(a, len, 4);
}

// An address space descriptor with size-byte fields: produced, both ends fixed.
static void window(struct aml *a, unsigned tag, unsigned size, unsigned type, unsigned type_flags,
                   uint64_t from, uint64_t to)
{
    byte(a, tag);
    integer(a, 3 + 5 * size, 2);
    byte(a, type);
    byte(a, 0x0c);
    byte(a, type_flags);
    integer(a, 0, size); // granularity
    integer(a, from, size);
    integer(a, to, size);
    integer(a, 0, size); // translation
    integer(a, to - from + 1, size);
}

void aml_resource_bus_window(struct aml *a, uint16_t from, uint16_t to)
{
    window(a, 0x88, 2, 2, 0, from, to);
}

void aml_resource_io_window(struct aml *a, uint16_t from, uint16_t to)
{
    window(a, 0x88, 2, 1, 3, from, to);
}

void aml_resource_memory_window(struct aml *a, uint64_t from, uint64_t to)
{
    if (to <= UINT32_MAX) {
        window(a, 0x87, 4, 0, 1, from, to); // writable, not cacheable
    } else {
        window(a, 0x8a, 8, 0, 3, from, to); // writable, cacheable
    }
}
