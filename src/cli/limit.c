// berth limit: what a running VM, and each of its disks, may take of the host.
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "machine/config.h"

const char limit_help[] =
    "usage: berth limit [--json] VM [--cpu AMOUNT] [--cpu-pin LIST] [--memory SIZE]\n"
    "       berth limit [--json] VM DISK [LIMIT=RATE...]\n"
    "\n"
    "Changes what a running VM may take of the host, and shows what holds. What is not named\n"
    "stays as it is.\n"
    "\n"
    "  --cpu AMOUNT    CPU time: 50%, or 1.5 for one and a half CPUs, or none\n"
    "  --cpu-pin LIST  the host's CPUs that its vCPUs run on: 0-3,6, or each its own 0:2;1:3\n"
    "  --memory SIZE   memory that the guest may use, 256M, at most what it was given; its\n"
    "                  balloon driver gives the rest back to the host\n"
    "\n"
    "DISK is disk0, disk1, ... in the order in which the VM was given them.\n"
    "\n"
    "  bps=RATE     bytes a second, reads and writes together; bps-read=, bps-write= of one kind\n"
    "  iops=RATE    operations a second; iops-read=, iops-write= of one kind\n"
    "  bps-burst=N, iops-read-burst=N, ...    what may come at once after a pause\n"
    "\n"
    "K, M and G are powers of 1024; 0 lifts a limit. Examples: berth limit web --cpu 50%\n"
    "--memory 256M; berth limit web disk0 bps=20M\n";

static int add_limit(json_t *args, const char *word)
{
    struct throttle_limits any;
    const char *equals = strchr(word, '=');
    size_t len = equals ? (size_t)(equals - word) : 0;
    struct error e;
    uint64_t rate;
    char name[32];

    if (!equals || !vm_limit_member(&any, word, len))
        return complain(EXIT_USAGE, "'%s' is no limit; give for example bps=10M or iops-read=500",
                        word);
    if (vm_rate_parse(word, len, equals + 1, strlen(equals + 1), &rate, &e))
        return complain(EXIT_USAGE, "%s", e.text);
    snprintf(name, sizeof name, "%.*s", (int)len, word);
    for (char *c = name; *c; c++)
        if (*c == '-')
            *c = '_';
    json_object_set_new(args, name, json_integer((json_int_t)rate));
    return EXIT_OK;
}

static int show_disk(json_t *limits)
{
    const char *name;
    json_t *value;

    json_object_foreach(limits, name, value)
        printf("%-16s %lld\n", name, (long long)json_integer_value(value));
    if (!json_object_size(limits))
        puts("no limits");
    json_decref(limits);
    return EXIT_OK;
}

static int limit_disk(const struct verb *verb, int argc, char **argv)
{
    json_t *args = json_pack("{s:s}", "disk", argv[verb->rest]), *result = NULL;
    int status = EXIT_OK;
    for (int i = verb->rest + 1; !status && i < argc; i++)
        status = add_limit(args, argv[i]);
    if (status) {
        json_decref(args);
        return status;
    }
    status = verb_ask(verb, "limit", args, &result);
    if (status)
        return status;
    return verb->json ? print_json(result) : show_disk(result);
}

// --- the VM itself

// What each request is asked with; NULL: it is not.
struct wishes {
    json_t *cpu, *memory;
};

static err_t take_wish(struct wishes *w, const char *option, const char *value, struct error *e)
{
    uint32_t millis;
    uint64_t bytes;
    err_t err = OK;
    if (!strcmp(option, "--cpu")) {
        err = vm_cpu_amount_parse(value, &millis, e);
        if (!err)
            json_object_set_new(w->cpu, "limit", json_integer(millis));
    } else if (!strcmp(option, "--cpu-pin")) {
        json_object_set_new(w->cpu, "pin", json_string(value));
    } else if (!strcmp(option, "--memory")) {
        err = vm_memory_parse(value, &bytes, e);
        if (!err)
            json_object_set_new(w->memory, "target", json_integer((json_int_t)bytes));
    } else {
        err = error_set(e, ERR_INVALID, "limit does not know '%s'; see berth limit --help", option);
    }
    return err;
}

static int take_wishes(struct wishes *w, int argc, char **argv)
{
    struct error e;
    for (int i = 0; i < argc; i += 2) {
        if (i + 1 == argc)
            return complain(EXIT_USAGE, "'%s' needs a value; see berth limit --help", argv[i]);
        if (take_wish(w, argv[i], argv[i + 1], &e))
            return complain(EXIT_USAGE, "%s", e.text);
    }
    return EXIT_OK;
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void show(const json_t *result)
{
    const json_t *cpu = json_object_get(result, "cpu"), *memory = json_object_get(result, "memory");
    if (number(cpu, "limit") > 0)
        printf("cpu              %.0f%%\n", number(cpu, "limit") / 10);
    else
        puts("cpu              no limit");
    printf("memory           %.0f MiB of %.0f", number(memory, "target") / MIB,
           number(memory, "size") / MIB);
    if (json_is_true(json_object_get(memory, "balloon")))
        printf(", the guest has %.0f\n", number(memory, "guest") / MIB);
    else
        puts("; the guest has no balloon driver");
}

static int limit_vm(const struct verb *verb, int argc, char **argv)
{
    struct wishes w = {json_object(), json_object()};
    json_t *result = json_object(), *part = NULL;
    int status = take_wishes(&w, argc - verb->rest, argv + verb->rest);
    if (status) {
        json_decref(w.cpu);
        json_decref(w.memory);
        json_decref(result);
        return status;
    }
    status = verb_ask(verb, "cpu", w.cpu, &part);
    if (!status)
        json_object_set_new(result, "cpu", part);
    if (status)
        json_decref(w.memory);
    else
        status = verb_ask(verb, "memory", w.memory, &part);
    if (!status)
        json_object_set_new(result, "memory", part);
    if (!status && verb->json)
        return print_json(result);
    if (!status)
        show(result);
    json_decref(result);
    return status;
}

int cmd_limit(int argc, char **argv)
{
    struct verb verb;
    int status = verb_parse(argc, argv, "r", &verb);

    if (status)
        return status;
    bool disk = verb.rest < argc && strncmp(argv[verb.rest], "--", 2);
    return disk ? limit_disk(&verb, argc, argv) : limit_vm(&verb, argc, argv);
}
