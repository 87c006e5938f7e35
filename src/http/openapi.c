// The request table as an OpenAPI 3.0 document: what is checked is what is described. The
// interface's fixed addresses (metrics) are added by hand.
#include <string.h>

#include "http/http.h"
#include "http/route.h"

static json_t *schema_of(const struct request_field *f)
{
    switch (f->kind) {
    case FIELD_TEXT:
        return json_pack("{s:s, s:I}", "type", "string", "maxLength", (json_int_t)f->max);
    case FIELD_NUMBER:
        return json_pack("{s:s, s:s, s:I, s:I}", "type", "integer", "format", "int64", "minimum",
                         (json_int_t)f->min, "maximum", (json_int_t)f->max);
    case FIELD_BOOL: return json_pack("{s:s}", "type", "boolean");
    case FIELD_OBJECT: return json_pack("{s:s}", "type", "object");
    case FIELD_TEXTS:
        return json_pack("{s:s, s:{s:s, s:I}}", "type", "array", "items", "type", "string",
                         "maxLength", (json_int_t)f->max);
    }
    return json_object();
}

static bool in_path(const struct request *r, const char *name)
{
    char braced[80];
    snprintf(braced, sizeof braced, "{%s}", name);
    return strstr(r->http, braced) != NULL;
}

static json_t *parameters(const struct request *r)
{
    json_t *list = json_array();
    for (const struct request_field *f = r->fields; f && f->name; f++) {
        bool path = in_path(r, f->name);
        if (path || route_in_query(r))
            json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:s, s:o}", "name", f->name,
                                                  "in", path ? "path" : "query", "required",
                                                  path || f->required, "description", f->doc,
                                                  "schema", schema_of(f)));
    }
    return list;
}

// NULL: the request takes no body.
static json_t *body(const struct request *r)
{
    json_t *properties = json_object(), *required = json_array();
    for (const struct request_field *f = r->fields; f && f->name; f++) {
        if (in_path(r, f->name) || route_in_query(r))
            continue;
        json_t *schema = schema_of(f);
        json_object_set_new(schema, "description", json_string(f->doc));
        json_object_set_new(properties, f->name, schema);
        if (f->required)
            json_array_append_new(required, json_string(f->name));
    }
    bool needed = json_array_size(required) > 0, some = json_object_size(properties) > 0;
    json_t *schema = json_pack("{s:s, s:b, s:o}", "type", "object", "additionalProperties", false,
                               "properties", properties);
    if (needed) // an empty list is not allowed
        json_object_set(schema, "required", required);
    json_decref(required);
    json_t *result = some ? json_pack("{s:b, s:{s:{s:O}}}", "required", needed, "content",
                                      "application/json", "schema", schema)
                          : NULL;
    json_decref(schema);
    return result;
}

static json_t *responses(const struct request *r)
{
    json_t *failed = json_pack("{s:{s:s}}", "default", "$ref", "#/components/responses/Refused");
    switch (r->answer) {
    case ANSWER_OBJECT:
        json_object_set_new(failed, "200",
                            json_pack("{s:s, s:{s:{s:{s:s}}}}", "description", "done", "content",
                                      "application/json", "schema", "type", "object"));
        break;
    case ANSWER_EVENTS:
        json_object_set_new(failed, "200",
                            json_pack("{s:s, s:{s:{s:{s:s}}, s:{s:{s:s}}}}", "description",
                                      "events, a JSON object a line, until the client leaves",
                                      "content", "application/x-ndjson", "schema", "type", "string",
                                      "text/event-stream", "schema", "type", "string"));
        break;
    case ANSWER_STREAM:
        json_object_set_new(failed, "101",
                            json_pack("{s:s}", "description",
                                      "a WebSocket whose binary messages are the stream's bytes"));
        break;
    }
    return failed;
}

static json_t *operation(const struct request *r)
{
    json_t *o = json_pack("{s:s, s:s, s:o, s:o}", "operationId", r->name, "summary", r->doc,
                          "parameters", parameters(r), "responses", responses(r));
    json_t *content = body(r);
    if (content)
        json_object_set_new(o, "requestBody", content);
    return o;
}

static void add_path(json_t *paths, const struct request *r)
{
    char method[8] = "";
    const char *path = strchr(r->http, ' ') + 1;
    for (size_t i = 0; i < sizeof method - 1 && r->http[i] != ' '; i++)
        method[i] = (char)(r->http[i] | 0x20);
    json_t *item = json_object_get(paths, path);
    if (!item) {
        item = json_object();
        json_object_set_new(paths, path, item);
    }
    json_object_set_new(item, method, operation(r));
}

static json_t *components(void)
{
    return json_pack("{s:{s:{s:s, s:s}}, s:{s:{s:s, s:{s:{s:{s:s}}}}}, s:{s:{s:s, s:[s], "
                     "s:{s:{s:s, s:[s,s], s:{s:{s:s}, s:{s:s}, s:{s:s}}}, s:{}}}}}",
                     "securitySchemes", "token", "type", "http", "scheme", "bearer", "responses",
                     "Refused", "description", "refused, with the reason and what to try",
                     "content", "application/json", "schema", "$ref",
                     "#/components/schemas/Refusal", "schemas", "Refusal", "type", "object",
                     "required", "error", "properties", "error", "type", "object", "required",
                     "code", "text", "properties", "code", "type", "string", "text", "type",
                     "string", "hint", "type", "string", "id");
}

json_t *openapi_describe(const struct request *table)
{
    json_t *paths = json_object();
    for (const struct request *r = table; r->name; r++) {
        if (r->http)
            add_path(paths, r);
    }
    json_object_set_new(
        paths, "/metrics",
        json_pack("{s:{s:s, s:s, s:{s:{s:s, s:{s:{s:{s:s}}}}}}}", "get", "operationId", "metrics",
                  "summary", "counters and gauges in Prometheus' text format", "responses", "200",
                  "description", "metrics", "content", "text/plain", "schema", "type", "string"));
    return json_pack(
        "{s:s, s:{s:s, s:s, s:s, s:{s:s, s:s}}, s:[{s:s}], s:[{s:[]}], s:o, s:o}", "openapi",
        "3.0.3", "info", "title", "Berth", "version", BERTH_VERSION, "description",
        "Virtual machines, networks, images and pools of one host. Over TCP every "
        "request brings a token; on the Unix socket none is needed.",
        "license", "name", "Apache-2.0", "url", "https://www.apache.org/licenses/LICENSE-2.0",
        "servers", "url", "/", "security", "token", "paths", paths, "components", components());
}
