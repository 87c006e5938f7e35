// Requests: from a line of JSON (RFC 8259) to a handler and back. Everything that comes from a
// client is checked here, once, against the request's table. Not modelled: batches, notifications.
#include "control/request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ID_MAX 64

static const char *const kind_names[] = {[FIELD_TEXT] = "text",
                                         [FIELD_NUMBER] = "number",
                                         [FIELD_BOOL] = "bool",
                                         [FIELD_OBJECT] = "object",
                                         [FIELD_TEXTS] = "texts"};

// --- answers

// An error's line says what happened and, after its last semicolon, what to try.
static json_t *error_object(const struct error *e)
{
    const char *hint = NULL;
    for (const char *p = e->text; (p = strstr(p, "; ")); p += 2)
        hint = p;
    size_t len = hint ? (size_t)(hint - e->text) : strlen(e->text);
    json_t *text = json_stringn(e->text, len);
    if (!text) // cut inside a character
        text = json_string("the request failed");
    json_t *object = json_pack("{s:s, s:o}", "code", err_name(e->code), "text", text);
    if (object && hint)
        json_object_set_new(object, "hint", json_string(hint + 2));
    return object;
}

json_t *request_refusal(const json_t *id, const struct error *e)
{
    json_t *answer = json_pack("{s:o}", "error", error_object(e));
    if (answer && id)
        json_object_set(answer, "id", (json_t *)id);
    return answer;
}

json_t *request_answer(const json_t *id, json_t *result, const struct error *e)
{
    if (!result)
        return request_refusal(id, e);
    json_t *answer = json_pack("{s:o}", "ok", result);
    if (answer && id)
        json_object_set(answer, "id", (json_t *)id);
    return answer;
}

// --- answers that come later

struct promise {
    void (*settled)(void *opaque, json_t *result, const struct error *e); // NULL: nobody waits
    void *opaque;
};

struct promise *reply_later(struct reply *reply)
{
    return reply->later = calloc(1, sizeof(struct promise));
}

void promise_await(struct promise *promise,
                   void (*settled)(void *opaque, json_t *result, const struct error *e),
                   void *opaque)
{
    promise->settled = settled;
    promise->opaque = opaque;
}

void promise_forget(struct promise *promise)
{
    promise->settled = NULL;
}

void promise_settle(struct promise *promise, json_t *result, const struct error *e)
{
    if (promise->settled)
        promise->settled(promise->opaque, result, e);
    else
        json_decref(result);
    free(promise);
}

// --- arguments

static const struct request_field *find_field(const struct request *request, const char *name)
{
    for (const struct request_field *f = request->fields; f && f->name; f++) {
        if (!strcmp(f->name, name))
            return f;
    }
    return NULL;
}

static bool is_text(const json_t *value, size_t max)
{
    size_t len = json_string_length(value);
    return json_is_string(value) && len <= max && strlen(json_string_value(value)) == len;
}

static bool are_texts(const json_t *list, size_t max)
{
    size_t i;
    json_t *value;
    json_array_foreach(list, i, value)
    {
        if (!is_text(value, max))
            return false;
    }
    return json_is_array(list);
}

static err_t check_value(const struct request_field *f, const json_t *value, struct error *e)
{
    long long n = json_integer_value(value);
    switch (f->kind) {
    case FIELD_TEXT:
        if (is_text(value, (size_t)f->max))
            return OK;
        return error_set(e, ERR_INVALID, "%s: give a text of at most %lld bytes", f->name,
                         (long long)f->max);
    case FIELD_NUMBER:
        if (json_is_integer(value) && n >= f->min && n <= f->max)
            return OK;
        return error_set(e, ERR_INVALID, "%s: give a whole number from %lld to %lld", f->name,
                         (long long)f->min, (long long)f->max);
    case FIELD_BOOL:
        if (json_is_boolean(value))
            return OK;
        return error_set(e, ERR_INVALID, "%s: give true or false", f->name);
    case FIELD_OBJECT:
        if (json_is_object(value))
            return OK;
        return error_set(e, ERR_INVALID, "%s: give an object", f->name);
    case FIELD_TEXTS:
        if (are_texts(value, (size_t)f->max))
            return OK;
        return error_set(e, ERR_INVALID, "%s: give a list of texts of at most %lld bytes", f->name,
                         (long long)f->max);
    }
    return ERR_INVALID;
}

static err_t check_arguments(const struct request *request, const json_t *args, struct error *e)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)args, name, value)
    {
        const struct request_field *f = find_field(request, name);
        if (!f)
            return error_set(e, ERR_INVALID,
                             "%s takes no argument '%.40s'; the request help lists them",
                             request->name, name);
        err_t err = check_value(f, value, e);
        if (err)
            return err;
    }
    for (const struct request_field *f = request->fields; f && f->name; f++) {
        if (f->required && !json_object_get(args, f->name))
            return error_set(e, ERR_INVALID, "%s needs the argument '%s': %s", request->name,
                             f->name, f->doc);
    }
    return OK;
}

int64_t request_number(const json_t *args, const char *name, int64_t otherwise)
{
    const json_t *value = json_object_get(args, name);
    return value ? json_integer_value(value) : otherwise;
}

const char *request_text(const json_t *args, const char *name, const char *otherwise)
{
    const json_t *value = json_object_get(args, name);
    return value ? json_string_value(value) : otherwise;
}

// --- one line

static err_t check_id(const json_t *id, struct error *e)
{
    if (!id || json_is_integer(id) || (json_is_string(id) && json_string_length(id) <= ID_MAX))
        return OK;
    return error_set(e, ERR_INVALID, "id: give a whole number, or a text of at most %d bytes",
                     ID_MAX);
}

static err_t find_request(const struct request *table, const json_t *line,
                          const struct request **out, struct error *e)
{
    const char *name = json_string_value(json_object_get(line, "request"));
    if (!name)
        return error_set(e, ERR_INVALID, "the line names no request; send {\"request\": \"help\"}");
    for (const struct request *r = table; r->name; r++) {
        if (!strcmp(r->name, name)) {
            *out = r;
            return OK;
        }
    }
    return error_set(e, ERR_NOT_FOUND, "there is no request '%.40s'; the request help lists them",
                     name);
}

err_t request_call(const struct request *request, void *context, const json_t *args, int given,
                   struct reply *reply, struct error *e)
{
    *reply = (struct reply){.given = given, .fd = -1};
    err_t err = check_arguments(request, args, e);
    if (err)
        return err;
    if (!(reply->result = json_object()))
        return error_set(e, ERR_NO_MEMORY, "no memory for an answer");
    return request->run(context, args, reply, e);
}

// What stays of the line without "request" and "id" must be the request's own.
static err_t run(const struct request *table, void *context, json_t *line, struct reply *reply,
                 struct error *e)
{
    const struct request *request = NULL;
    err_t err = find_request(table, line, &request, e);
    if (err)
        return err;
    json_object_del(line, "request");
    return request_call(request, context, line, reply->given, reply, e);
}

json_t *request_handle(const struct request *table, void *context, const char *line, size_t len,
                       int given, struct reply *reply)
{
    *reply = (struct reply){.given = given, .fd = -1};
    struct error e = {.code = ERR_INVALID, .text = "the request failed"};
    json_error_t why;
    json_t *object = json_loadb(line, len, JSON_REJECT_DUPLICATES, &why), *id = NULL;
    err_t err = OK;
    if (!object)
        err = error_set(&e, ERR_INVALID, "not a line of JSON: %.160s", why.text);
    else if (!json_is_object(object))
        err = error_set(&e, ERR_INVALID, "not an object; send {\"request\": \"help\"}");
    else if (!(err = check_id(json_object_get(object, "id"), &e))) {
        id = json_incref(json_object_get(object, "id"));
        json_object_del(object, "id");
        err = run(table, context, object, reply, &e);
    }
    json_t *answer = NULL;
    if (!err && reply->later)
        reply->id = json_incref(id);
    else
        answer = request_answer(id, err ? NULL : json_incref(reply->result), &e);
    json_decref(id);
    json_decref(object);
    json_decref(reply->result);
    reply->result = NULL;
    if (reply->given >= 0)
        close(reply->given);
    reply->given = -1;
    return answer;
}

// --- the table as data

static json_t *describe_fields(const struct request_field *f)
{
    json_t *list = json_array();
    for (; f && f->name; f++) {
        json_t *field = json_pack("{s:s, s:s, s:b, s:s}", "name", f->name, "kind",
                                  kind_names[f->kind], "required", f->required, "doc", f->doc);
        if (f->kind == FIELD_NUMBER)
            json_object_set_new(field, "min", json_integer(f->min));
        if (f->kind == FIELD_NUMBER || f->kind == FIELD_TEXT)
            json_object_set_new(field, "max", json_integer(f->max));
        json_array_append_new(list, field);
    }
    return list;
}

json_t *request_describe(const struct request *table)
{
    json_t *list = json_array();
    for (const struct request *r = table; r->name; r++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "request", r->name, "doc", r->doc,
                                              "arguments", describe_fields(r->fields)));
    return list;
}
