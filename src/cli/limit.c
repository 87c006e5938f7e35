// berth limit: what a running VM, and each of its disks, may take of the host.
#include <stdio.h>
#include <string.h>

#include "cli/allot.h"
#include "cli/cli.h"
#include "cli/manager.h"
#include "machine/config.h"

#define MANAGER_MS 10000

const char limit_help[] =
    "usage: berth limit [--json] VM [OPTION VALUE...]\n"
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
    "And of VMs that berth keeps (berth create), where it lasts:\n"
    "\n"
    "  --pool POOL     the pool that it goes into (berth pool); host: none\n" ALLOT_HELP "\n"
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

// What each request is asked with.
struct wishes {
    json_t *cpu, *memory; // of the VM itself
    json_t *share;        // of the manager, which keeps it
    bool managed;         // only the manager can do it
};

static err_t take_wish(struct wishes *w, const char *option, const char *value, struct error *e)
{
    bool known = false;
    bool cpu = !strcmp(option, "--cpu"), memory = !strcmp(option, "--memory");
    err_t err = allot_take(w->share,
                           cpu      ? "--cpu-limit"
                           : memory ? "--memory-limit"
                                    : option,
                           value, &known, e);
    if (err)
        return err;
    if (cpu)
        json_object_set(w->cpu, "limit", json_object_get(w->share, "cpu_limit"));
    else if (memory)
        json_object_set(w->memory, "target", json_object_get(w->share, "memory_limit"));
    else if (!strcmp(option, "--cpu-pin"))
        json_object_set_new(w->cpu, "pin", json_string(value));
    else if (!strcmp(option, "--pool"))
        json_object_set_new(w->share, "pool", json_string(value));
    else if (!known)
        return error_set(e, ERR_INVALID, "limit does not know '%s'; see berth limit --help",
                         option);
    w->managed |= known ? !cpu && !memory : !strcmp(option, "--pool");
    return OK;
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

// The manager keeps what it is told, and tells the VM. *kept: it knows the VM.
static int ask_manager(const struct verb *verb, struct wishes *w, json_t **result, bool *kept)
{
    struct error e = {0};
    json_object_set_new(w->share, "vm", json_string(verb->vm));
    err_t err = manager_request(w->managed ? MANAGER_NEEDED : MANAGER_IF_USED, "share",
                                json_incref(w->share), MANAGER_MS, result, &e);
    *kept = !err;
    if (!err || (err == ERR_NOT_FOUND && !w->managed))
        return EXIT_OK;
    return complain(status_of(err), "%s", e.text);
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void show_place(const json_t *share)
{
    const char *pool = json_string_value(json_object_get(share, "pool"));
    printf("pool             %s\n", pool ? pool : "");
    printf("cpu              %.0f shares", number(share, "cpu_shares"));
    if (number(share, "cpu_reservation") > 0)
        printf(", %.0f%% reserved", number(share, "cpu_reservation") / 10);
    printf("\nmemory           %.0f shares", number(share, "memory_shares"));
    if (number(share, "memory_reservation") > 0)
        printf(", %.0f MiB reserved", number(share, "memory_reservation") / MIB);
    puts("");
}

static void show(const json_t *result)
{
    const json_t *cpu = json_object_get(result, "cpu"), *memory = json_object_get(result, "memory");
    if (json_object_get(result, "share"))
        show_place(json_object_get(result, "share"));
    if (cpu && number(cpu, "limit") > 0)
        printf("cpu limit        %.0f%%\n", number(cpu, "limit") / 10);
    else if (cpu)
        puts("cpu limit        none");
    if (memory)
        printf("memory           %.0f MiB of %.0f", number(memory, "target") / MIB,
               number(memory, "size") / MIB);
    if (memory && json_is_true(json_object_get(memory, "balloon")))
        printf(", the guest has %.0f\n", number(memory, "guest") / MIB);
    else if (memory)
        puts("; the guest has no balloon driver");
}

// A VM that does not run has only its place.
static int ask_vm(const struct verb *verb, struct wishes *w, json_t *result)
{
    static const char *const requests[] = {"cpu", "memory"};
    json_t *args[] = {w->cpu, w->memory};
    bool runs = !json_object_get(result, "share") ||
                json_is_true(json_object_get(json_object_get(result, "share"), "runs"));
    for (size_t i = 0; i < 2 && runs; i++) {
        json_t *part = NULL;
        int status = verb_ask(verb, requests[i], json_incref(args[i]), &part);
        if (status)
            return status;
        json_object_set_new(result, requests[i], part);
    }
    return EXIT_OK;
}

static int ask_all(const struct verb *verb, struct wishes *w, json_t *result)
{
    json_t *share = NULL;
    bool kept = false;
    int status = ask_manager(verb, w, &share, &kept);
    if (kept)
        json_object_set_new(result, "share", share);
    return status ? status : ask_vm(verb, w, result);
}

static int limit_vm(const struct verb *verb, int argc, char **argv)
{
    struct wishes w = {json_object(), json_object(), json_object(), false};
    json_t *result = json_object();
    int status = take_wishes(&w, argc - verb->rest, argv + verb->rest);
    if (!status)
        status = ask_all(verb, &w, result);
    json_decref(w.cpu);
    json_decref(w.memory);
    json_decref(w.share);
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
