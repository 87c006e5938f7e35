// berth api and berth token: the manager's requests by name, and who may ask them over TCP.
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/manager.h"
#include "cli/vms.h"

#define ANSWER_MS 90000

const char api_help[] =
    "usage: berth api [REQUEST [NAME=VALUE...]]\n"
    "\n"
    "Sends the manager a request and prints its answer as JSON. Without a request: lists them, "
    "with\n"
    "their arguments. berth api openapi describes the same requests over HTTP, as OpenAPI 3.\n";
const char token_help[] =
    "usage: berth token create [--role operator|reader] [--json] NAME\n"
    "       berth token ls [--json]\n"
    "       berth token rm [--json] NAME...\n"
    "\n"
    "Tokens for the REST API and the web page over TCP (berthd --listen ADDRESS:PORT). A token is\n"
    "shown once, when it is made; a reader's may look and change nothing.\n";

int cmd_api(int argc, char **argv)
{
    json_t *args = json_object(), *result = NULL;
    for (int i = 2; i < argc; i++) {
        if (!argument_add(args, argv[i])) {
            json_decref(args);
            return complain(EXIT_USAGE, "'%s' is no argument; give NAME=VALUE", argv[i]);
        }
    }
    int status = manager_ask(argc > 1 ? argv[1] : "help", args, ANSWER_MS, &result);
    return status ? status : print_json(result);
}

// Takes --role ROLE out of the words. False: it has no value.
static bool take_role(int *argc, char **argv, const char **role)
{
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], "--role") != 0)
            continue;
        if (i + 1 == *argc)
            return false;
        *role = argv[i + 1];
        for (int k = i; k + 2 < *argc; k++)
            argv[k] = argv[k + 2];
        *argc -= 2;
        return true;
    }
    return true;
}

static int token_create(int argc, char **argv)
{
    struct vms_words w;
    const char *role = "operator";
    json_t *result = NULL;
    if (!take_role(&argc, argv, &role))
        return complain(EXIT_USAGE, "--role needs operator or reader");
    if (!vms_parse(argc, argv, "", &w))
        return EXIT_USAGE;
    if (w.count != 1)
        return complain(EXIT_USAGE, "token create needs one name");
    int status =
        manager_ask("token-create", json_pack("{s:s, s:s}", "name", w.names[0], "role", role),
                    ANSWER_MS, &result);
    if (status)
        return status;
    if (w.json)
        return print_json(result);
    printf("%s\n", json_string_value(json_object_get(result, "token")));
    json_decref(result);
    return EXIT_OK;
}

static int token_ls(int argc, char **argv)
{
    struct vms_words w;
    json_t *result = NULL, *token;
    size_t i;
    if (!vms_parse(argc, argv, "", &w) || w.count)
        return w.count ? complain(EXIT_USAGE, "token ls takes no names") : EXIT_USAGE;
    int status = manager_ask("token-ls", NULL, ANSWER_MS, &result);
    if (status)
        return status;
    json_t *tokens = json_incref(json_object_get(result, "tokens"));
    json_decref(result);
    if (w.json)
        return print_json(tokens);
    printf("%-32s %s\n", "NAME", "ROLE");
    json_array_foreach(tokens, i, token)
        printf("%-32s %s\n", json_string_value(json_object_get(token, "name")),
               json_string_value(json_object_get(token, "role")));
    json_decref(tokens);
    return EXIT_OK;
}

static int token_rm(int argc, char **argv)
{
    struct vms_words w;
    if (!vms_parse(argc, argv, "", &w))
        return EXIT_USAGE;
    if (!w.count)
        return complain(EXIT_USAGE,
                        "token rm needs the names of tokens; berth token ls shows them");
    for (int i = 0; i < w.count; i++) {
        json_t *result = NULL;
        int status =
            manager_ask("token-rm", json_pack("{s:s}", "name", w.names[i]), ANSWER_MS, &result);
        json_decref(result);
        if (status)
            return status;
        if (!w.json)
            printf("%s is revoked\n", w.names[i]);
    }
    return w.json ? print_json(json_object()) : EXIT_OK;
}

int cmd_token(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    if (!strcmp(verb, "create"))
        return token_create(argc - 1, argv + 1);
    if (!strcmp(verb, "ls"))
        return token_ls(argc - 1, argv + 1);
    if (!strcmp(verb, "rm"))
        return token_rm(argc - 1, argv + 1);
    return complain(EXIT_USAGE, "token needs create, ls or rm; see berth token --help");
}
