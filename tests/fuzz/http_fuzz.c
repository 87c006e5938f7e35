// Addresses, bodies and headers as a hostile client would write them: each input is a method, an
// address, a body and headers, cut by newlines. Whatever is accepted must be a row of the table,
// with texts that hold no control characters, and names that mean nothing to a file system.
#include <stdlib.h>
#include <string.h>

#include "http/access.h"
#include "http/route.h"
#include "standalone.h"

static const struct request_field fields[] = {
    {"name", FIELD_TEXT, true, 0, 63, ""},
    {"number", FIELD_NUMBER, false, -5, 5, ""},
    {"flag", FIELD_BOOL, false, 0, 0, ""},
    {0},
};
static err_t none(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return OK;
}
static const struct request table[] = {
    {"ls", "", NULL, none, "GET /v1/vms"},
    {"show", "", fields, none, "GET /v1/vms/{name}"},
    {"act", "", fields, none, "POST /v1/vms/{name}/act"},
    {"rm", "", fields, none, "DELETE /v1/{name}"},
    {0},
};

// Bytes of the input that are often wanted are made likely.
static const char *const pieces[] = {
    "GET",     "POST", "DELETE", "/v1/vms", "/", "..", "%2e", "%2F",
    "%00",     "?",    "&",      "name=",   "=", "+",  "%",   "act",
    "number=", "flag", "{\"",    "\":",     "}", "\n", "web", "%c3%a9"};

static char *spell(const uint8_t *data, size_t size)
{
    char *text = malloc(size * 8 + 1), *p = text;
    for (size_t i = 0; i < size; i++) {
        if (data[i] < 160) {
            const char *piece = pieces[data[i] % (sizeof pieces / sizeof *pieces)];
            p = stpcpy(p, piece);
        } else {
            *p++ = (char)(data[i] == 160 ? 1 : data[i] - 128);
        }
    }
    *p = 0;
    return text;
}

static void check_name(const json_t *args)
{
    const char *name = json_string_value(json_object_get(args, "name"));
    if (name && (strchr(name, '/') || name[0] == '.'))
        abort();
    for (; name && *name; name++) {
        if ((unsigned char)*name < 0x20)
            abort();
    }
}

static void route(const char *method, const char *target, const char *body)
{
    const struct request *request = NULL;
    struct error e = {0};
    json_t *args = json_object();
    unsigned status = route_find(table, method, target, &request, args, &e);
    if (status == 200) {
        struct reply reply;
        check_name(args);
        bool query = route_in_query(request);
        if (query || !route_body(body, strlen(body), args, &e)) {
            (void)!request_call(request, NULL, args, -1, &reply, &e);
            json_decref(reply.result);
        }
    } else if (!e.text[0]) {
        abort(); // refused without a word
    }
    json_decref(args);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char token[ACCESS_TOKEN_MAX + 1], methods[40];
    struct error e;
    char *text = spell(data, size), *rest = text;
    const char *method = strsep(&rest, "\n"), *target = rest ? strsep(&rest, "\n") : "/v1/vms";
    const char *header = rest ? strsep(&rest, "\n") : "", *body = rest ? rest : "";
    route(method, target, body);
    route("GET", target, body);
    route("POST", "/v1/vms/a/act", text);
    route_methods(table, target, methods, sizeof methods);
    if (access_token(header, NULL, token) && strpbrk(token, " ,\t"))
        abort();
    access_token(NULL, header, token);
    access_has_word(header, "upgrade");
    (void)!access_origin(header, target, NULL, size & 1, &e);
    free(text);
    return 0;
}
