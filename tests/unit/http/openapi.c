// The description of a table as OpenAPI.
#include "http/http.h"

#include "test.h"

static err_t none(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return OK;
}

static const struct request_field fields[] = {
    {"name", FIELD_TEXT, true, 0, 63, "which"},
    {"seconds", FIELD_NUMBER, true, 1, 99, "how long"},
    {0},
};
static const struct request table[] = {
    {"show", "shows it", fields, none, "GET /v1/vms/{name}"},
    {"stop", "stops it", fields, none, "POST /v1/vms/{name}/stop"},
    {"console", "its console", fields, none, "GET /v1/vms/{name}/console", ANSWER_STREAM},
    {"events", "all of them", NULL, none, "GET /v1/events", ANSWER_EVENTS},
    {"private", "", NULL, none},
    {0},
};

static void every_row_with_an_address_is_described(void)
{
    json_t *all = openapi_describe(table), *paths = json_object_get(all, "paths");
    CHECK_EQ(json_object_size(paths), 5); // and /metrics
    const char *summary = NULL, *in = NULL;
    json_int_t most = 0;
    CHECK(!json_unpack(json_object_get(paths, "/v1/vms/{name}"), "{s:{s:s, s:[{s:s}]}}", "get",
                       "summary", &summary, "parameters", "in", &in));
    CHECK_STR(summary, "shows it");
    CHECK_STR(in, "path");
    CHECK(!json_unpack(json_object_get(paths, "/v1/vms/{name}/stop"),
                       "{s:{s:{s:{s:{s:{s:{s:{s:I}}}}}}}}", "post", "requestBody", "content",
                       "application/json", "schema", "properties", "seconds", "maximum", &most));
    CHECK_EQ(most, 99);
    CHECK(json_object_get(
        json_object_get(json_object_get(json_object_get(paths, "/v1/vms/{name}/console"), "get"),
                        "responses"),
        "101"));
    json_decref(all);
}

static void the_document_is_whole(void)
{
    json_t *all = openapi_describe(table);
    const char *version = NULL, *scheme = NULL, *type = NULL;
    CHECK(!json_unpack(all, "{s:s, s:{s:{s:{s:s}}, s:{s:{s:s}}}}", "openapi", &version,
                       "components", "securitySchemes", "token", "scheme", &scheme, "schemas",
                       "Refusal", "type", &type));
    CHECK_STR(version, "3.0.3");
    CHECK_STR(scheme, "bearer");
    CHECK_STR(type, "object");
    json_decref(all);
}

TEST_MAIN(TEST(every_row_with_an_address_is_described), TEST(the_document_is_whole))
