// Paths, queries and bodies against the request table. RFC 9110 (methods, status codes), RFC 3986
// (paths, percent-encoding). Not modelled: matrix parameters, arrays in queries.
//
// A path is split first and decoded then, so that an encoded slash is never a separator; segments
// that would mean something to a file system ("..", a slash, a zero) are refused before any row
// sees them, whatever the row makes of its argument.
#include "http/route.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SEGMENT_MAX 512 // bytes, decoded

// --- decoding

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// Decodes len bytes into out, a text. plus: "+" is a space, as in queries.
static err_t decode(const char *in, size_t len, bool plus, char out[SEGMENT_MAX + 1],
                    struct error *e)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int c = (unsigned char)in[i];
        if (c == '%') {
            int high = i + 2 < len ? hex(in[i + 1]) : -1, low = high < 0 ? -1 : hex(in[i + 2]);
            if (low >= 0)
                c = high << 4 | low;
            else
                return error_set(e, ERR_INVALID, "the address has a broken percent-encoding");
            i += 2;
        } else if (plus && c == '+') {
            c = ' ';
        }
        if (c < 0x20 || c == 0x7f)
            return error_set(e, ERR_INVALID, "the address holds a control character");
        if (n == SEGMENT_MAX)
            return error_set(e, ERR_INVALID, "a part of the address is longer than %d bytes",
                             SEGMENT_MAX);
        out[n++] = (char)c;
    }
    out[n] = 0;
    return OK;
}

// --- paths

static const char *template_of(const struct request *r)
{
    const char *space = r->http ? strchr(r->http, ' ') : NULL;
    return space ? space + 1 : NULL;
}

static size_t segment(const char *path)
{
    return strcspn(path, "/?#");
}

// Whether the raw path has the template's shape; names in braces fit one segment that is not empty.
static bool fits(const char *template, const char *path)
{
    for (;;) {
        if (*template != '/' || *path != '/')
            return !*template && (!*path || *path == '?');
        template ++;
        path++;
        size_t t = segment(template), p = segment(path);
        bool name = *template == '{';
        if (name ? p == 0 : p != t || memcmp(template, path, t) != 0)
            return false;
        template += t;
        path += p;
    }
}

static bool method_is(const struct request *r, const char *method)
{
    size_t len = strlen(method);
    if (!strcmp(method, "HEAD"))
        return !strncmp(r->http, "GET ", 4);
    return !strncmp(r->http, method, len) && r->http[len] == ' ';
}

bool route_in_query(const struct request *request)
{
    return !strncmp(request->http, "GET ", 4) || !strncmp(request->http, "DELETE ", 7);
}

bool route_methods(const struct request *table, const char *target, char *out, size_t size)
{
    size_t n = 0;
    out[0] = 0;
    for (const struct request *r = table; r->name; r++) {
        const char *template = template_of(r);
        if (!template || !fits(template, target))
            continue;
        int len = (int)(template - r->http - 1);
        n += (size_t)snprintf(out + n, size - n, "%s%.*s", n ? ", " : "", len, r->http);
        if (n >= size)
            break;
    }
    return n > 0;
}

// --- arguments

static const struct request_field *field_of(const struct request *r, const char *name)
{
    for (const struct request_field *f = r->fields; f && f->name; f++) {
        if (!strcmp(f->name, name))
            return f;
    }
    return NULL;
}

// A word of an address as the field's kind; a text where the field is unknown or the word is not
// of that kind, which the table's own check then says.
static json_t *value_of(const struct request_field *f, const char *word)
{
    if (f && f->kind == FIELD_NUMBER) {
        char *end;
        errno = 0;
        long long n = strtoll(word, &end, 10);
        if (end != word && !*end && !errno &&
            (word[0] == '-' || (word[0] >= '0' && word[0] <= '9')))
            return json_integer(n);
    }
    if (f && f->kind == FIELD_BOOL) {
        if (!strcmp(word, "true") || !strcmp(word, "1") || !*word)
            return json_true();
        if (!strcmp(word, "false") || !strcmp(word, "0"))
            return json_false();
    }
    return json_string(word);
}

static err_t add(const struct request *r, const char *name, const char *word, json_t *args,
                 struct error *e)
{
    if (json_object_get(args, name))
        return error_set(e, ERR_INVALID, "%.40s is given twice", name);
    json_t *value = value_of(field_of(r, name), word);
    if (!value || json_object_set_new(args, name, value) < 0)
        return error_set(e, ERR_INVALID, "the address is not UTF-8");
    return OK;
}

static err_t take_path(const struct request *r, const char *path, json_t *args, struct error *e)
{
    const char *template = template_of(r);
    while (*template == '/') {
        template ++;
        path++;
        size_t t = segment(template), p = segment(path);
        if (*template == '{') {
            char word[SEGMENT_MAX + 1], name[64];
            snprintf(name, sizeof name, "%.*s", (int)t - 2, template + 1);
            err_t err = decode(path, p, false, word, e);
            if (err)
                return err;
            if (strchr(word, '/') || strchr(word, '\\') || word[0] == '.')
                return error_set(e, ERR_INVALID, "%s: '%.80s' is no name", name, word);
            if ((err = add(r, name, word, args, e)))
                return err;
        }
        template += t;
        path += p;
    }
    return OK;
}

static err_t take_query(const struct request *r, const char *query, json_t *args, struct error *e)
{
    while (*query) {
        char name[SEGMENT_MAX + 1], word[SEGMENT_MAX + 1];
        size_t len = strcspn(query, "&"), n = strcspn(query, "=&");
        err_t err = decode(query, n, true, name, e);
        if (!err)
            err = decode(query + n + (n < len), n < len ? len - n - 1 : 0, true, word, e);
        if (!err && *name)
            err = add(r, name, word, args, e);
        if (err)
            return err;
        query += len + (query[len] == '&');
    }
    return OK;
}

static unsigned refuse_path(const struct request *table, const char *method, const char *target,
                            struct error *e)
{
    char methods[80];
    if (!route_methods(table, target, methods, sizeof methods)) {
        (void)!error_set(e, ERR_NOT_FOUND,
                         "nothing answers at this address; GET /v1/openapi.json lists what does");
        return 404;
    }
    (void)!error_set(e, ERR_UNSUPPORTED, "this address takes %s, not %.20s", methods, method);
    return 405;
}

unsigned route_find(const struct request *table, const char *method, const char *target,
                    const struct request **out, json_t *args, struct error *e)
{
    if (strlen(target) > ROUTE_TARGET_MAX) {
        (void)!error_set(e, ERR_INVALID, "the address is longer than %d bytes", ROUTE_TARGET_MAX);
        return 414;
    }
    for (const struct request *r = table; r->name; r++) {
        if (!r->http || !method_is(r, method) || !fits(template_of(r), target))
            continue;
        *out = r;
        const char *query = strchr(target, '?');
        err_t err = take_path(r, target, args, e);
        if (!err && query && !route_in_query(r))
            err = error_set(e, ERR_INVALID, "arguments go into the body, not behind a '?'");
        if (!err && query)
            err = take_query(r, query + 1, args, e);
        return err ? 400 : 200;
    }
    return refuse_path(table, method, target, e);
}

// --- bodies

err_t route_body(const char *body, size_t len, json_t *args, struct error *e)
{
    if (!len)
        return OK;
    json_error_t why;
    json_t *object = json_loadb(body, len, JSON_REJECT_DUPLICATES, &why);
    if (!object)
        return error_set(e, ERR_INVALID, "the body is not JSON: %.160s", why.text);
    err_t err = OK;
    const char *name;
    json_t *value;
    if (!json_is_object(object))
        err = error_set(e, ERR_INVALID, "the body is not a JSON object");
    json_object_foreach(object, name, value)
    {
        if (json_object_get(args, name)) {
            err = error_set(e, ERR_INVALID, "%.40s is in the address already", name);
            break;
        }
        json_object_set(args, name, value);
    }
    json_decref(object);
    return err;
}

// --- answers

unsigned route_status(err_t err)
{
    switch (err) {
    case OK: return 200;
    case ERR_INVALID: return 400;
    case ERR_DENIED: return 403;
    case ERR_NOT_FOUND: return 404;
    case ERR_EXISTS:
    case ERR_BUSY: return 409;
    case ERR_UNSUPPORTED: return 422;
    case ERR_NO_MEMORY: return 503;
    case ERR_CORRUPT:
    case ERR_IO: return 500;
    }
    return 500;
}
