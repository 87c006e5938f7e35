// berth pool: resource pools of the manager, a tree of what VMs get of the host.
#include <stdio.h>
#include <string.h>

#include "cli/allot.h"
#include "cli/cli.h"
#include "cli/manager.h"

#define ANSWER_MS 10000

const char pool_help[] =
    "usage: berth pool create|set [--json] POOL [--parent POOL] [OPTION VALUE...]\n"
    "       berth pool rm [--json] POOL\n"
    "       berth pool ls [--json]\n"
    "\n"
    "Pools divide the host among VMs, and are parts of each other. The host is the root, of this\n"
    "name. berth limit VM --pool POOL puts a VM into one. Everything changes while VMs run.\n"
    "\n" ALLOT_HELP "\n"
    "Example: berth pool create web --cpu-shares 400 --memory-reservation 2G --disk-limit 50M\n";

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

// --- ls

// "100 1.00 -": shares, reservation, limit; unit: what is shown as 1.
static void column(const json_t *object, const char *kind, double unit, const char *format)
{
    static const char *const tails[] = {"reservation", "limit"};
    char key[40], shown[32];
    snprintf(key, sizeof key, "%s_shares", kind);
    printf(" %7.0f", number(object, key));
    for (size_t i = 0; i < 2; i++) {
        snprintf(key, sizeof key, "%s_%s", kind, tails[i]);
        snprintf(shown, sizeof shown, format, number(object, key) / unit);
        printf(" %7s", number(object, key) > 0 ? shown : "-");
    }
}

static void row(const json_t *object, const char *name, int depth)
{
    char shown[80], memory[32] = "-";
    snprintf(shown, sizeof shown, "%*s%s", 2 * depth, "", name);
    printf("%-20s", shown);
    column(object, "cpu", 1000, "%.2f");
    printf(" %6.2f", number(object, "cpu_used") / 1000);
    column(object, "memory", 1 << 20, "%.0fM");
    if (number(object, "memory_used") > 0)
        snprintf(memory, sizeof memory, "%.0fM", number(object, "memory_used") / (1 << 20));
    printf(" %7s\n", memory);
}

static void show(const json_t *result)
{
    size_t i, k;
    const json_t *pool, *vm;
    printf("%-20s %7s %7s %7s %6s %7s %7s %7s %7s\n", "POOL OR VM", "CPU", "RESERVE", "LIMIT",
           "USED", "MEMORY", "RESERVE", "LIMIT", "GUEST");
    json_array_foreach(json_object_get(result, "pools"), i, pool)
    {
        int depth = (int)number(pool, "depth");
        row(pool, text(pool, "pool"), depth);
        json_array_foreach(json_object_get(pool, "vms"), k, vm) row(vm, text(vm, "vm"), depth + 1);
    }
}

// --- all verbs

static int take_words(json_t *args, int argc, char **argv, bool *json)
{
    struct error e;
    for (int i = 0; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool known = false;
        if (!strcmp(argv[i], "--json")) {
            *json = true;
            continue;
        }
        if (argv[i][0] != '-' && !json_object_get(args, "pool")) {
            json_object_set_new(args, "pool", json_string(argv[i]));
            continue;
        }
        if (!strcmp(argv[i], "--parent") && value)
            json_object_set_new(args, "parent", json_string(value));
        else if (allot_take(args, argv[i], value ? value : "", &known, &e))
            return complain(EXIT_USAGE, "%s", e.text);
        else if (!known)
            return complain(EXIT_USAGE, "pool does not know '%s'; see berth pool --help", argv[i]);
        i++;
    }
    return EXIT_OK;
}

int cmd_pool(int argc, char **argv)
{
    static const char *const verbs[] = {"create", "set", "rm", "ls"};
    const char *verb = argc > 1 ? argv[1] : "";
    json_t *args = json_object(), *result = NULL;
    bool json = false;
    size_t which = 0;
    char request[24];
    while (which < ARRAY_LEN(verbs) && strcmp(verb, verbs[which]))
        which++;
    int status = which < ARRAY_LEN(verbs)
                     ? take_words(args, argc - 2, argv + 2, &json)
                     : complain(EXIT_USAGE, "pool needs create, set, rm or ls; see berth pool "
                                            "--help");
    bool named = json_object_get(args, "pool");
    if (!status && named == !strcmp(verb, "ls"))
        status = complain(EXIT_USAGE,
                          named ? "pool ls takes no name; see berth pool --help"
                                : "pool %s needs a name; see berth pool --help",
                          verb);
    if (status) {
        json_decref(args);
        return status;
    }
    snprintf(request, sizeof request, "pool-%s", verb);
    status = manager_ask(request, args, ANSWER_MS, &result);
    if (status)
        return status;
    if (json)
        return print_json(result);
    if (!strcmp(verb, "ls"))
        show(result);
    else
        printf("%s is %s\n", text(result, "pool")[0] ? text(result, "pool") : argv[2],
               !strcmp(verb, "rm") ? "gone" : "set");
    json_decref(result);
    return EXIT_OK;
}
