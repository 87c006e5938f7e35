// Addresses: which row of a table they lead to, with which arguments, and which are refused.
#include "http/route.h"

#include "test.h"

static err_t none(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return OK;
}

static const struct request_field name_fields[] = {
    {"name", FIELD_TEXT, true, 0, 63, "which"},
    {"seconds", FIELD_NUMBER, false, 0, 99, "how long"},
    {"force", FIELD_BOOL, false, 0, 0, "at once"},
    {"text", FIELD_TEXT, false, 0, 200, "anything"},
    {0},
};
static const struct request table[] = {
    {"list", "", NULL, none, "GET /v1/vms"},
    {"create", "", name_fields, none, "POST /v1/vms"},
    {"show", "", name_fields, none, "GET /v1/vms/{name}"},
    {"remove", "", name_fields, none, "DELETE /v1/vms/{name}"},
    {"stop", "", name_fields, none, "POST /v1/vms/{name}/stop"},
    {"private", "", NULL, none},
    {0},
};

static const struct request *row;
static json_t *args;

static unsigned find(const char *method, const char *target)
{
    struct error e = {0};
    json_decref(args);
    args = json_object();
    row = NULL;
    unsigned status = route_find(table, method, target, &row, args, &e);
    CHECK(status == 200 || e.text[0]);
    return status;
}

static const char *text(const char *name)
{
    const char *value = json_string_value(json_object_get(args, name));
    return value ? value : "(none)";
}

static void a_path_leads_to_its_row(void)
{
    CHECK_EQ(find("GET", "/v1/vms"), 200);
    CHECK_STR(row->name, "list");
    CHECK_EQ(find("POST", "/v1/vms"), 200);
    CHECK_STR(row->name, "create");
    CHECK_EQ(find("POST", "/v1/vms/web-1/stop"), 200);
    CHECK_STR(row->name, "stop");
    CHECK_STR(text("name"), "web-1");
    CHECK_EQ(find("HEAD", "/v1/vms/a"), 200);
    CHECK_STR(row->name, "show");
}

static void queries_become_arguments_of_their_kinds(void)
{
    CHECK_EQ(find("DELETE", "/v1/vms/a?force&seconds=12&text=a+b%26c"), 200);
    CHECK(json_is_true(json_object_get(args, "force")));
    CHECK_EQ(json_integer_value(json_object_get(args, "seconds")), 12);
    CHECK_STR(text("text"), "a b&c");
    CHECK_EQ(find("GET", "/v1/vms/a?force=false&seconds=-3"), 200);
    CHECK(json_is_false(json_object_get(args, "force")));
    CHECK_EQ(json_integer_value(json_object_get(args, "seconds")), -3);
    CHECK_EQ(find("GET", "/v1/vms/a?seconds=12x"), 200); // the table's check refuses the text
    CHECK_STR(text("seconds"), "12x");
    CHECK_EQ(find("GET", "/v1/vms/a?seconds=99999999999999999999"), 200);
    CHECK(json_is_string(json_object_get(args, "seconds")));
}

static void other_paths_and_methods_are_told_apart(void)
{
    CHECK_EQ(find("GET", "/v1/vm"), 404);
    CHECK_EQ(find("GET", "/v1/vms/"), 404);
    CHECK_EQ(find("GET", "/v1/vms//stop"), 404);
    CHECK_EQ(find("GET", "/v1/vms/a/b"), 404);
    CHECK_EQ(find("GET", ""), 404);
    CHECK_EQ(find("GET", "v1/vms"), 404);
    CHECK_EQ(find("PUT", "/v1/vms"), 405);
    CHECK_EQ(find("GET", "/v1/vms/a/stop"), 405);
    CHECK_EQ(find("GE", "/v1/vms"), 405);
    CHECK_EQ(find("", "/v1/vms"), 405);
    char methods[40];
    CHECK(route_methods(table, "/v1/vms/a?x", methods, sizeof methods));
    CHECK_STR(methods, "GET, DELETE");
}

static void path_tricks_are_refused(void)
{
    static const char *const tricks[] = {"/v1/vms/..",
                                         "/v1/vms/.",
                                         "/v1/vms/%2e%2e",
                                         "/v1/vms/a%2fb",
                                         "/v1/vms/%2Fetc",
                                         "/v1/vms/a%5cb",
                                         "/v1/vms/a%00",
                                         "/v1/vms/%0a",
                                         "/v1/vms/%",
                                         "/v1/vms/%4",
                                         "/v1/vms/%zz",
                                         "/v1/vms/%ff%fe",
                                         "/v1/vms/.hidden",
                                         "/v1/vms/a?force&force",
                                         "/v1/vms/a?name=b",
                                         "/v1/vms/a?text=%00",
                                         "/v1/vms/a?text=%c3%28"};
    for (size_t i = 0; i < sizeof tricks / sizeof *tricks; i++) {
        unsigned status = find("GET", tricks[i]);
        if (status != 400)
            printf("# %s: %u\n", tricks[i], status);
        CHECK_EQ(status, 400);
    }
}

static void long_addresses_are_refused(void)
{
    char target[ROUTE_TARGET_MAX + 2];
    memset(target, 'a', sizeof target);
    memcpy(target, "/v1/vms/", 8);
    target[sizeof target - 1] = 0;
    CHECK_EQ(find("GET", target), 414);
    target[ROUTE_TARGET_MAX] = 0;
    CHECK_EQ(find("GET", target), 400); // the name
}

static void bodies_are_objects_that_do_not_repeat_the_path(void)
{
    static const char *const wrong[] = {"{",
                                        "[]",
                                        "1",
                                        "\"a\"",
                                        "{\"a\":1,\"a\":2}",
                                        "{\"name\":\"b\"}",
                                        "{\"text\":\"\\u0000\"}",
                                        "{} {}",
                                        "\xff",
                                        "null"};
    struct error e;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK_EQ(find("POST", "/v1/vms/a/stop"), 200);
        CHECK_EQ(route_body(wrong[i], strlen(wrong[i]), args, &e), ERR_INVALID);
    }
    CHECK_EQ(find("POST", "/v1/vms/a/stop"), 200);
    CHECK_EQ(route_body("{\"force\":true}", 14, args, &e), OK);
    CHECK(json_is_true(json_object_get(args, "force")));
    CHECK_EQ(route_body("", 0, args, &e), OK);
    CHECK_EQ(find("POST", "/v1/vms/a/stop?force"), 400);
    json_decref(args);
    args = NULL;
}

TEST_MAIN(TEST(a_path_leads_to_its_row), TEST(queries_become_arguments_of_their_kinds),
          TEST(other_paths_and_methods_are_told_apart), TEST(path_tricks_are_refused),
          TEST(long_addresses_are_refused), TEST(bodies_are_objects_that_do_not_repeat_the_path))
