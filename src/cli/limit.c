// berth limit: what a running VM's disks may take of the host.
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "machine/config.h"

const char limit_help[] =
    "usage: berth limit [--json] VM DISK [LIMIT=RATE...]\n"
    "\n"
    "Changes the limits of a running VM's disk, and shows those that hold. DISK is disk0, disk1,\n"
    "... in the order in which the VM was given them. Limits that are not named stay as they are.\n"
    "\n"
    "  bps=RATE     bytes a second, reads and writes together; bps-read=, bps-write= of one kind\n"
    "  iops=RATE    operations a second; iops-read=, iops-write= of one kind\n"
    "  bps-burst=N, iops-read-burst=N, ...    what may come at once after a pause\n"
    "\n"
    "K, M and G are powers of 1024; 0 lifts a limit. Example: berth limit web disk0 bps=20M\n";

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

static int show(json_t *limits)
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

int cmd_limit(int argc, char **argv)
{
    struct verb verb;
    json_t *result = NULL;
    int status = verb_parse(argc, argv, "r", &verb);

    if (status)
        return status;
    if (verb.rest == argc)
        return complain(EXIT_USAGE, "limit needs a disk; berth info %s lists them, from disk0 on",
                        verb.vm);
    json_t *args = json_pack("{s:s}", "disk", argv[verb.rest]);
    for (int i = verb.rest + 1; !status && i < argc; i++)
        status = add_limit(args, argv[i]);
    if (status) {
        json_decref(args);
        return status;
    }
    status = verb_ask(&verb, "limit", args, &result);
    if (status)
        return status;
    return verb.json ? print_json(result) : show(result);
}
