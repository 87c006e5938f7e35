// JSON to TOML 1.0: a line for each member, whatever is in it inline.
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "cli/toml.h"

static void put(struct buffer *out, const char *text)
{
    buffer_append(out, text, strlen(text));
}

static bool is_bare(const char *key)
{
    return *key &&
           strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
               strlen(key);
}

// A newline stays one between three quotes.
static void put_escaped(struct buffer *out, const char *text, bool lines)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        char code[8];
        if (c == '"' || c == '\\') {
            buffer_append(out, (char[]){'\\', *text}, 2);
        } else if (c == '\n' && !lines) {
            put(out, "\\n");
        } else if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
            snprintf(code, sizeof code, "\\u%04x", c);
            put(out, code);
        } else {
            buffer_append(out, text, 1);
        }
    }
}

static void put_text(struct buffer *out, const char *text, bool lines)
{
    put(out, lines ? "\"\"\"\n" : "\"");
    put_escaped(out, text, lines);
    put(out, lines ? "\"\"\"" : "\"");
}

static void put_value(struct buffer *out, const json_t *value, bool outside);

static void put_key(struct buffer *out, const char *key)
{
    if (is_bare(key))
        put(out, key);
    else
        put_text(out, key, false);
    put(out, " = ");
}

static void put_table(struct buffer *out, const json_t *object)
{
    const char *key, *between = "";
    json_t *member;
    put(out, "{");
    json_object_foreach((json_t *)object, key, member)
    {
        if (json_is_null(member))
            continue;
        put(out, between);
        put_key(out, key);
        put_value(out, member, false);
        between = ", ";
    }
    put(out, "}");
}

static void put_array(struct buffer *out, const json_t *array)
{
    size_t i;
    json_t *member;
    const char *between = "";
    put(out, "[");
    json_array_foreach(array, i, member)
    {
        if (json_is_null(member))
            continue;
        put(out, between);
        put_value(out, member, false);
        between = ", ";
    }
    put(out, "]");
}

// outside: not within { } or [ ], where a text may have many lines.
static void put_value(struct buffer *out, const json_t *value, bool outside)
{
    if (json_is_object(value)) {
        put_table(out, value);
    } else if (json_is_array(value)) {
        put_array(out, value);
    } else if (json_is_string(value)) {
        const char *text = json_string_value(value);
        put_text(out, text, outside && strchr(text, '\n'));
    } else {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
        put(out, text ? text : "0");
        free(text);
    }
}

err_t toml_write(const json_t *object, char **text, struct error *e)
{
    struct buffer out = BUFFER_EMPTY;
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)object, key, member)
    {
        if (json_is_null(member))
            continue;
        put_key(&out, key);
        put_value(&out, member, true);
        put(&out, "\n");
    }
    buffer_append(&out, "", 1);
    if (out.failed) {
        buffer_release(&out);
        return error_set(e, ERR_NO_MEMORY, "no memory to write TOML");
    }
    *text = (char *)out.data;
    return OK;
}
