// Walks state tables. A stream of one object is
//     u32 magic, u16 table version, u16 rows, then per row:
//     u16 name length, name, u32 element size, u32 count, bytes (little-endian elements).
// Rows of nested structs are flattened with dotted names: "channel[1].count". Loading goes through
// a copy of the object, so that a bad stream leaves the original untouched.
#include "state/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "base/checked.h"

#define STREAM_MAGIC 0x52545342u // "BSTR"
#define NAME_MAX_LEN 120

// One flattened row of a table.
struct row {
    char name[NAME_MAX_LEN];
    const struct state_field *field;
    size_t offset; // in the outermost object
};

// Calls visit for every flattened row until it returns something else than OK. Depth is that of the
// tables, which are our own.
static err_t each_row(const struct state_desc *desc, const char *prefix, size_t base,
                      err_t (*visit)(const struct row *row, void *opaque), void *opaque)
{
    for (const struct state_field *f = desc->fields; f->kind != STATE_END; f++) {
        if (f->kind == STATE_SKIP)
            continue;
        if (f->kind == STATE_ROW) {
            struct row row = {.field = f, .offset = base + f->offset};
            snprintf(row.name, sizeof row.name, "%s%s", prefix, f->name);
            err_t err = visit(&row, opaque);
            if (err)
                return err;
            continue;
        }
        for (uint32_t i = 0; i < f->count; i++) {
            char inner[NAME_MAX_LEN];
            if (f->count == 1)
                snprintf(inner, sizeof inner, "%.80s%.30s.", prefix, f->name);
            else
                snprintf(inner, sizeof inner, "%.80s%.24s[%u].", prefix, f->name, i);
            err_t err =
                each_row(f->sub, inner, base + f->offset + (size_t)i * f->size, visit, opaque);
            if (err)
                return err;
        }
    }
    return OK;
}

// --- save ----------------------------------------------------------------------------------------

struct saving {
    const uint8_t *object;
    struct buffer *out;
    uint16_t rows;
};

static void append_u16(struct buffer *out, uint16_t v)
{
    uint8_t b[2];
    store_le16(b, v);
    buffer_append(out, b, sizeof b);
}

static void append_u32(struct buffer *out, uint32_t v)
{
    uint8_t b[4];
    store_le32(b, v);
    buffer_append(out, b, sizeof b);
}

static err_t save_row(const struct row *row, void *opaque)
{
    struct saving *s = opaque;
    size_t len = strlen(row->name);
    append_u16(s->out, (uint16_t)len);
    buffer_append(s->out, row->name, len);
    append_u32(s->out, row->field->size);
    append_u32(s->out, row->field->count);
    buffer_append(s->out, s->object + row->offset, (size_t)row->field->size * row->field->count);
    s->rows++;
    return OK;
}

void state_save(const struct state_desc *desc, const void *object, struct buffer *out)
{
    size_t start = out->len;
    append_u32(out, STREAM_MAGIC);
    append_u16(out, desc->version);
    append_u16(out, 0);
    struct saving s = {.object = object, .out = out};
    if (each_row(desc, "", 0, save_row, &s) != OK)
        out->failed = true;
    if (!out->failed)
        store_le16(out->data + start + 6, s.rows);
}

// --- load ----------------------------------------------------------------------------------------

struct stream_row {
    const uint8_t *name;
    const uint8_t *bytes;
    uint32_t size;
    uint32_t count;
    uint16_t name_len;
    bool taken;
};

struct stream {
    struct stream_row *row;
    unsigned rows;
    uint16_t version;
};

struct cursor {
    const uint8_t *at;
    size_t left;
};

static const uint8_t *take(struct cursor *c, uint64_t len)
{
    if (len > c->left)
        return NULL;
    const uint8_t *p = c->at;
    c->at += len;
    c->left -= len;
    return p;
}

static bool same_name(const struct stream_row *a, const uint8_t *name, size_t len)
{
    return a->name_len == len && memcmp(a->name, name, len) == 0;
}

static err_t parse_row(struct cursor *c, struct stream_row *row)
{
    const uint8_t *p = take(c, 2);
    if (!p)
        return ERR_CORRUPT;
    row->name_len = load_le16(p);
    row->name = take(c, row->name_len);
    p = take(c, 8);
    if (!row->name || !p)
        return ERR_CORRUPT;
    row->size = load_le32(p);
    row->count = load_le32(p + 4);
    row->bytes = take(c, (uint64_t)row->size * row->count);
    return row->bytes ? OK : ERR_CORRUPT;
}

// Fills *s, whose rows point into data. The caller frees s->row.
static err_t parse_stream(const void *data, size_t len, struct stream *s, struct error *e)
{
    struct cursor c = {.at = data, .left = len};
    const uint8_t *head = take(&c, 8);
    if (!head || load_le32(head) != STREAM_MAGIC)
        return error_set(e, ERR_CORRUPT, "not a state stream");
    s->version = load_le16(head + 4);
    s->rows = load_le16(head + 6);
    if (s->rows > len / 10) // the smallest row has ten bytes
        return error_set(e, ERR_CORRUPT, "truncated: %u rows announced", s->rows);
    s->row = calloc(s->rows ? s->rows : 1, sizeof *s->row);
    if (!s->row)
        return error_set(e, ERR_NO_MEMORY, "no memory for %u rows", s->rows);
    for (unsigned i = 0; i < s->rows; i++) {
        if (parse_row(&c, &s->row[i]) != OK)
            return error_set(e, ERR_CORRUPT, "truncated in row %u", i);
        for (unsigned j = 0; j < i; j++)
            if (same_name(&s->row[j], s->row[i].name, s->row[i].name_len))
                return error_set(e, ERR_CORRUPT, "row '%.*s' is there twice",
                                 (int)min_u64(s->row[i].name_len, NAME_MAX_LEN),
                                 (const char *)s->row[i].name);
    }
    return c.left ? error_set(e, ERR_CORRUPT, "%zu bytes after the last row", c.left) : OK;
}

struct loading {
    uint8_t *object;
    struct stream *stream;
    struct error *e;
};

static err_t load_row(const struct row *row, void *opaque)
{
    struct loading *l = opaque;
    const struct state_field *f = row->field;
    size_t len = strlen(row->name);
    for (unsigned i = 0; i < l->stream->rows; i++) {
        struct stream_row *r = &l->stream->row[i];
        if (!same_name(r, (const uint8_t *)row->name, len))
            continue;
        if (r->size != f->size || r->count != f->count)
            return error_set(l->e, ERR_CORRUPT, "row '%s' has %u x %u bytes, not %u x %u",
                             row->name, r->count, r->size, f->count, f->size);
        memcpy(l->object + row->offset, r->bytes, (size_t)f->size * f->count);
        r->taken = true;
        return OK;
    }
    if (f->since > l->stream->version)
        return OK;
    return error_set(l->e, ERR_CORRUPT, "row '%s' is missing", row->name);
}

static err_t load_into(const struct state_desc *desc, uint8_t *object, struct stream *s,
                       struct error *e)
{
    if (s->version > desc->version)
        return error_set(e, ERR_UNSUPPORTED, "%s: state version %u is newer than this program's %u",
                         desc->name, s->version, desc->version);
    struct loading l = {.object = object, .stream = s, .e = e};
    err_t err = each_row(desc, "", 0, load_row, &l);
    for (unsigned i = 0; !err && i < s->rows; i++)
        if (!s->row[i].taken)
            err = error_set(e, ERR_CORRUPT, "unknown row '%.*s'",
                            (int)min_u64(s->row[i].name_len, NAME_MAX_LEN),
                            (const char *)s->row[i].name);
    return err;
}

err_t state_load(const struct state_desc *desc, void *object, const void *data, size_t len,
                 struct error *e)
{
    struct stream s = {0};
    uint8_t *copy = malloc(desc->size);
    err_t err = copy ? OK : error_set(e, ERR_NO_MEMORY, "no memory for %u bytes", desc->size);
    if (!err)
        err = parse_stream(data, len, &s, e);
    if (!err) {
        memcpy(copy, object, desc->size);
        err = load_into(desc, copy, &s, e);
    }
    if (!err)
        memcpy(object, copy, desc->size);
    free(s.row);
    free(copy);
    return err;
}

// --- compare, dump -------------------------------------------------------------------------------

struct comparing {
    const uint8_t *a, *b;
    struct error *e;
};

static err_t compare_row(const struct row *row, void *opaque)
{
    struct comparing *c = opaque;
    uint32_t size = row->field->size;
    for (uint32_t i = 0; i < row->field->count; i++) {
        const uint8_t *a = c->a + row->offset + (size_t)i * size;
        const uint8_t *b = c->b + row->offset + (size_t)i * size;
        if (memcmp(a, b, size) != 0)
            return error_set(c->e, ERR_INVALID, "%s[%u]: %#llx and %#llx", row->name, i,
                             (unsigned long long)load_le(a, size),
                             (unsigned long long)load_le(b, size));
    }
    return OK;
}

err_t state_compare(const struct state_desc *desc, const void *a, const void *b, struct error *e)
{
    struct comparing c = {a, b, e};
    return each_row(desc, "", 0, compare_row, &c);
}

struct dumping {
    const uint8_t *object;
    void (*line)(void *opaque, const char *text);
    void *opaque;
};

static err_t dump_row(const struct row *row, void *opaque)
{
    struct dumping *d = opaque;
    uint32_t size = row->field->size, count = row->field->count;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *at = d->object + row->offset + (size_t)i * size;
        uint64_t value = load_le(at, size);
        if (count > 8 && value == 0)
            continue;
        char text[NAME_MAX_LEN + 48];
        if (count == 1)
            snprintf(text, sizeof text, "%s = %#llx", row->name, (unsigned long long)value);
        else
            snprintf(text, sizeof text, "%s[%u] = %#llx", row->name, i, (unsigned long long)value);
        d->line(d->opaque, text);
    }
    return OK;
}

void state_dump(const struct state_desc *desc, const void *object,
                void (*line)(void *opaque, const char *text), void *opaque)
{
    struct dumping d = {object, line, opaque};
    (void)!each_row(desc, "", 0, dump_row, &d);
}

// --- coverage ------------------------------------------------------------------------------------

static err_t mark(uint8_t *map, const struct state_desc *desc, const struct state_field *f,
                  struct error *e)
{
    uint64_t len = (uint64_t)f->size * f->count;
    if (!range_within(f->offset, len, desc->size))
        return error_set(e, ERR_INVALID, "%s.%s lies outside the struct", desc->name, f->name);
    for (uint64_t i = 0; i < len; i++) {
        if (map[f->offset + i])
            return error_set(e, ERR_INVALID, "%s.%s overlaps another row", desc->name, f->name);
        map[f->offset + i] = 1;
    }
    if (f->kind == STATE_STRUCT && f->sub->size != f->size)
        return error_set(e, ERR_INVALID, "%s.%s: its table is for another struct", desc->name,
                         f->name);
    return f->kind == STATE_STRUCT ? state_check(f->sub, e) : OK;
}

err_t state_check(const struct state_desc *desc, struct error *e)
{
    uint8_t *map = calloc(1, desc->size);
    if (!map)
        return error_set(e, ERR_NO_MEMORY, "no memory for %u bytes", desc->size);
    err_t err = OK;
    for (const struct state_field *f = desc->fields; !err && f->kind != STATE_END; f++)
        err = mark(map, desc, f, e);
    uint32_t end =
        desc->size; // padding at the end follows from alignment and hides nothing aligned
    while (end > 0 && !map[end - 1] && desc->size - end < 63)
        end--;
    for (uint32_t i = 0; !err && i < end; i++)
        if (!map[i])
            err = error_set(e, ERR_INVALID, "%s: no row for the byte at offset %u", desc->name, i);
    free(map);
    return err;
}
