// TOML 1.0 to JSON, https://toml.io/en/v1.0.0. Own code, since Debian has TOML libraries for C++
// only, which would bring a second compiler and a run-time that berth loads at every start. A
// document may not become larger than NODES_MAX values, or deeper than DEPTH_MAX. Not modelled:
// dates, times, infinities and what is not a number, which no definition has.
#include "cli/toml.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"

#define NODES_MAX 20000
#define DEPTH_MAX 32
#define NUMBER_MAX 64

// How a table or array came to be says who may add to it. Those without a mark were named on the
// way to another, by a header.
enum mark_kind {
    MARK_NONE,
    MARK_HEADER, // [it]: once
    MARK_DOTTED, // by a dotted key: only in the section of that key
    MARK_CLOSED, // { } and [ ]: nobody
};

struct mark {
    const json_t *value;
    enum mark_kind kind;
    unsigned section;
};

struct reading {
    const char *at, *end;
    unsigned line, nodes, section; // section: headers so far
    struct buffer marks;           // of struct mark
    struct error *e;
};

static err_t bad(const struct reading *r, const char *words)
{
    return error_set(r->e, ERR_INVALID, "line %u: %s", r->line, words);
}

// --- characters

static int peek(const struct reading *r)
{
    return r->at < r->end ? (unsigned char)*r->at : -1;
}

static bool take(struct reading *r, const char *word)
{
    size_t len = strlen(word);
    if ((size_t)(r->end - r->at) < len || memcmp(r->at, word, len) != 0)
        return false;
    r->at += len;
    return true;
}

static bool take_newline(struct reading *r)
{
    if (!take(r, "\n") && !take(r, "\r\n"))
        return false;
    r->line++;
    return true;
}

static void skip_blank(struct reading *r)
{
    while (peek(r) == ' ' || peek(r) == '\t')
        r->at++;
}

static bool is_control(int c)
{
    return (c >= 0 && c < 0x20 && c != '\t') || c == 0x7f;
}

static err_t skip_comment(struct reading *r)
{
    skip_blank(r);
    if (peek(r) != '#')
        return OK;
    while (r->at < r->end && !is_control(peek(r)))
        r->at++;
    return OK;
}

static err_t end_line(struct reading *r)
{
    err_t err = skip_comment(r);
    if (err || r->at == r->end || take_newline(r))
        return err;
    return bad(r, is_control(peek(r)) ? "a control character" : "more than one value in a line");
}

// Between values of an array.
static err_t skip_lines(struct reading *r)
{
    do {
        err_t err = skip_comment(r);
        if (err)
            return err;
    } while (take_newline(r));
    return OK;
}

// --- marks

static const struct mark *mark_of(const struct reading *r, const json_t *value)
{
    static const struct mark none = {NULL, MARK_NONE, 0};
    const struct mark *marks = (const struct mark *)r->marks.data;
    for (size_t i = r->marks.len / sizeof *marks; i-- > 0;) {
        if (marks[i].value == value)
            return &marks[i];
    }
    return &none;
}

static void put_mark(struct reading *r, const json_t *value, enum mark_kind kind)
{
    const struct mark mark = {value, kind, r->section};
    buffer_append(&r->marks, &mark, sizeof mark);
}

// --- text

static int hex_digit(int c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static err_t take_code(struct reading *r, unsigned digits, struct buffer *out)
{
    uint32_t c = 0;
    for (unsigned i = 0; i < digits; i++, r->at++) {
        int digit = hex_digit(peek(r));
        if (digit < 0)
            return bad(r, "\\u needs four hexadecimal digits, \\U eight");
        c = c << 4 | (uint32_t)digit;
    }
    if (!c || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return bad(r, "this is the code of no character");
    uint8_t bytes[4];
    size_t len = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = len; i-- > 1; c >>= 6)
        bytes[i] = 0x80 | (c & 0x3f);
    bytes[0] = lead[len] | (uint8_t)c;
    buffer_append(out, bytes, len);
    return OK;
}

// After a backslash.
static err_t take_escape(struct reading *r, bool lines, struct buffer *out)
{
    static const char names[] = "btnfr\"\\", values[] = "\b\t\n\f\r\"\\";
    int c = peek(r);
    const char *name = c > 0 ? strchr(names, c) : NULL;
    if (name) {
        buffer_append(out, &values[name - names], 1);
        r->at++;
        return OK;
    }
    if (take(r, "u"))
        return take_code(r, 4, out);
    if (take(r, "U"))
        return take_code(r, 8, out);
    skip_blank(r);
    if (!lines || !take_newline(r))
        return bad(r, "there is no such escape; write \\\\ for a backslash");
    do
        skip_blank(r);
    while (take_newline(r));
    return OK;
}

static err_t take_character(struct reading *r, bool escapes, bool lines, struct buffer *out)
{
    if (lines && take_newline(r)) {
        buffer_append(out, "\n", 1);
        return OK;
    }
    if (is_control(peek(r)))
        return bad(r, "a text is not ended, or has a control character");
    if (escapes && take(r, "\\"))
        return take_escape(r, lines, out);
    buffer_append(out, r->at++, 1);
    return OK;
}

// Up to two quotes may come right before the three that end a text of many lines.
static bool take_end(struct reading *r, char quote, bool lines, struct buffer *out)
{
    size_t n = 0;
    while (n < 5 && r->at + n < r->end && r->at[n] == quote)
        n++;
    if (n < (lines ? 3 : 1))
        return false;
    if (lines)
        buffer_append(out, r->at, n - 3);
    r->at += lines ? n : 1;
    return true;
}

static err_t take_text(struct reading *r, struct buffer *out)
{
    const char quote = *r->at, three[] = {quote, quote, quote, '\0'};
    bool lines = take(r, three);
    if (lines)
        take_newline(r);
    else
        r->at++;
    while (!take_end(r, quote, lines, out)) {
        if (r->at == r->end)
            return bad(r, "a text is not ended");
        err_t err = take_character(r, quote == '"', lines, out);
        if (err)
            return err;
    }
    return OK;
}

static err_t read_text(struct reading *r, json_t **out)
{
    struct buffer text = BUFFER_EMPTY;
    err_t err = take_text(r, &text);
    if (!err)
        *out = json_stringn(text.data ? (char *)text.data : "", text.len);
    buffer_release(&text);
    return err || *out ? err : bad(r, "a text must be UTF-8");
}

// --- numbers

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

// Takes away the underscores, each of which must be between two digits.
static bool strip(const char *word, size_t len, char out[NUMBER_MAX])
{
    size_t n = 0;
    if (len >= NUMBER_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (word[i] != '_')
            out[n++] = word[i];
        else if (!i || i + 1 == len || hex_digit(word[i - 1]) < 0 || hex_digit(word[i + 1]) < 0)
            return false;
    }
    out[n] = '\0';
    return n > 0;
}

static json_t *based(const char *digits, int base)
{
    char *end;
    if (hex_digit(digits[0]) < 0)
        return NULL;
    errno = 0;
    long long n = strtoll(digits, &end, base);
    return errno || *end ? NULL : json_integer(n);
}

// NULL: it is none.
static json_t *number(const char *word)
{
    static const char prefixes[] = "xob";
    static const int bases[] = {16, 8, 2};
    const char *digits = word + (word[0] == '+' || word[0] == '-'), *p = digits;
    const char *prefix = word[0] == '0' && word[1] ? strchr(prefixes, word[1]) : NULL;
    if (prefix)
        return based(word + 2, bases[prefix - prefixes]);
    while (is_digit(*p))
        p++;
    bool whole = !*p;
    if (p == digits || (digits[0] == '0' && p - digits > 1))
        return NULL;
    if (*p == '.') {
        const char *fraction = ++p;
        while (is_digit(*p))
            p++;
        if (p == fraction)
            return NULL;
    }
    if (*p == 'e' || *p == 'E') {
        p += p[1] == '+' || p[1] == '-' ? 2 : 1;
        if (!is_digit(*p))
            return NULL;
        while (is_digit(*p))
            p++;
    }
    errno = 0;
    long long n = whole ? strtoll(word, NULL, 10) : 0;
    if (*p || errno)
        return NULL;
    return whole ? json_integer(n) : json_real(strtod(word, NULL)); // NULL: too large
}

static err_t read_word(struct reading *r, json_t **out)
{
    const char *start = r->at;
    char word[NUMBER_MAX];
    while (r->at < r->end && (hex_digit(*r->at) >= 0 || strchr("_+-.:TZxobrtulsinf", *r->at)))
        r->at++;
    if (strip(start, (size_t)(r->at - start), word))
        *out = !strcmp(word, "true")    ? json_true()
               : !strcmp(word, "false") ? json_false()
                                        : number(word);
    return *out ? OK : bad(r, "neither number, true nor false; a text needs quotes");
}

// --- values

static err_t read_value(struct reading *r, unsigned depth, json_t **out);

static err_t read_array(struct reading *r, unsigned depth, json_t *array)
{
    bool more = true;
    for (;;) {
        json_t *value = NULL;
        err_t err = skip_lines(r);
        if (err || take(r, "]"))
            return err;
        if (!more)
            return bad(r, "an array's values need commas between them, and a ] after them");
        err = read_value(r, depth, &value);
        if (err)
            return err;
        json_array_append_new(array, value);
        err = skip_lines(r);
        if (err)
            return err;
        more = take(r, ",");
    }
}

static err_t read_pair(struct reading *r, json_t *table, unsigned depth);

static err_t read_inline_table(struct reading *r, unsigned depth, json_t *table)
{
    skip_blank(r);
    if (take(r, "}"))
        return OK;
    for (;;) {
        err_t err = read_pair(r, table, depth);
        if (err)
            return err;
        skip_blank(r);
        if (take(r, "}"))
            return OK;
        if (!take(r, ","))
            return bad(r, "a { } needs commas between its keys, and no newline");
    }
}

static err_t read_value(struct reading *r, unsigned depth, json_t **out)
{
    err_t err;
    int c = peek(r);
    if (++r->nodes > NODES_MAX || depth > DEPTH_MAX)
        return bad(r, "the document is too large or too deep");
    *out = NULL;
    if (c == '"' || c == '\'')
        return read_text(r, out);
    if (c != '[' && c != '{')
        return read_word(r, out);
    r->at++;
    *out = c == '[' ? json_array() : json_object();
    err = c == '[' ? read_array(r, depth + 1, *out) : read_inline_table(r, depth + 1, *out);
    if (!err)
        put_mark(r, *out, MARK_CLOSED);
    else
        json_decref(*out);
    return err;
}

// --- keys

static bool is_bare(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
}

// One part of a key, with blanks around it; *more: a dot and another one follow.
static err_t read_key(struct reading *r, json_t **out, bool *more)
{
    skip_blank(r);
    const char *start = r->at;
    if (++r->nodes > NODES_MAX)
        return bad(r, "the document is too large or too deep");
    if (peek(r) == '"' || peek(r) == '\'') {
        if ((size_t)(r->end - r->at) >= 3 && start[1] == start[0] && start[2] == start[0])
            return bad(r, "a key is in one line");
        err_t err = read_text(r, out);
        if (err)
            return err;
    } else {
        while (is_bare(peek(r)))
            r->at++;
        if (r->at == start)
            return bad(r, "a key was expected");
        *out = json_stringn(start, (size_t)(r->at - start));
    }
    skip_blank(r);
    *more = take(r, ".");
    return OK;
}

// The table that a key's part leads to from another, made where there is none.
static err_t enter(struct reading *r, json_t **table, const char *key, bool by_header)
{
    json_t *inner = json_object_get(*table, key);
    if (!inner) {
        inner = json_object();
        json_object_set_new(*table, key, inner);
        if (!by_header)
            put_mark(r, inner, MARK_DOTTED);
    }
    const struct mark *mark = mark_of(r, inner);
    bool open = by_header ? mark->kind != MARK_CLOSED
                          : mark->kind == MARK_DOTTED && mark->section == r->section;
    if (open && by_header && json_is_array(inner))
        inner = json_array_get(inner, json_array_size(inner) - 1);
    if (!open || !json_is_object(inner))
        return bad(r, "this key has a value already that cannot be added to");
    *table = inner;
    return OK;
}

// Follows a key down to its last part, which is *last then.
static err_t follow(struct reading *r, json_t **table, unsigned depth, bool by_header,
                    json_t **last)
{
    for (bool more = true;; depth++) {
        json_t *key = NULL;
        err_t err = depth > DEPTH_MAX ? bad(r, "the document is too large or too deep")
                                      : read_key(r, &key, &more);
        if (!err && !more) {
            *last = key;
            return OK;
        }
        if (!err)
            err = enter(r, table, json_string_value(key), by_header);
        json_decref(key);
        if (err)
            return err;
    }
}

static err_t read_pair(struct reading *r, json_t *table, unsigned depth)
{
    json_t *last = NULL, *value = NULL;
    err_t err = follow(r, &table, depth, false, &last);
    const char *key = json_string_value(last);
    if (!err && json_object_get(table, key))
        err = bad(r, "this key is given twice");
    if (!err && !take(r, "="))
        err = bad(r, "a key needs = and a value");
    skip_blank(r);
    if (!err)
        err = read_value(r, depth + 1, &value);
    if (!err)
        json_object_set_new(table, key, value);
    json_decref(last);
    return err;
}

// --- headers

static err_t open_table(struct reading *r, json_t *outer, const char *key, json_t **table)
{
    json_t *inner = json_object_get(outer, key);
    if (!inner)
        json_object_set_new(outer, key, inner = json_object());
    else if (!json_is_object(inner) || mark_of(r, inner)->kind != MARK_NONE)
        return bad(r, "this table is given twice");
    put_mark(r, inner, MARK_HEADER);
    *table = inner;
    return OK;
}

static err_t open_element(struct reading *r, json_t *outer, const char *key, json_t **table)
{
    json_t *array = json_object_get(outer, key);
    if (!array)
        json_object_set_new(outer, key, array = json_array());
    else if (!json_is_array(array) || mark_of(r, array)->kind != MARK_NONE)
        return bad(r, "this key has a value already that cannot be added to");
    *table = json_object();
    json_array_append_new(array, *table);
    put_mark(r, *table, MARK_HEADER);
    return OK;
}

static err_t read_header(struct reading *r, json_t *root, json_t **table)
{
    bool element = take(r, "[");
    json_t *outer = root, *last = NULL;
    r->section++;
    err_t err = follow(r, &outer, 0, true, &last);
    if (!err && !take(r, element ? "]]" : "]"))
        err = bad(r, element ? "[[ needs ]]" : "[ needs ]");
    if (!err)
        err = (element ? open_element : open_table)(r, outer, json_string_value(last), table);
    json_decref(last);
    return err;
}

err_t toml_read(const char *text, size_t len, json_t **out, struct error *e)
{
    struct reading r = {.at = text, .end = text + len, .line = 1, .marks = BUFFER_EMPTY, .e = e};
    json_t *root = json_object(), *table = root;
    err_t err = OK;
    take(&r, "\xef\xbb\xbf");
    while (!err && (err = skip_lines(&r)) == OK && r.at < r.end) {
        err = take(&r, "[") ? read_header(&r, root, &table) : read_pair(&r, table, 0);
        if (!err)
            err = end_line(&r);
    }
    if (!err && (!root || r.marks.failed))
        err = error_set(e, ERR_NO_MEMORY, "no memory to read TOML");
    buffer_release(&r.marks);
    if (err)
        json_decref(root);
    *out = err ? NULL : root;
    return err;
}
