// berth stats: a VM's counters as a table.
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

const char stats_help[] =
    "usage: berth stats [--json] VM\n"
    "\n"
    "Shows every counter of the VM's engine and devices: totals since its start, and per\n"
    "second of guest time.\n";

int cmd_stats(int argc, char **argv)
{
    struct verb verb;
    json_t *stats = NULL;
    int status = verb_parse(argc, argv, "", &verb);
    if (!status)
        status = verb_ask(&verb, "stats", NULL, &stats);
    if (status)
        return status;
    if (verb.json)
        return print_json(stats);
    double seconds = json_number_value(json_object_get(stats, "guest_seconds"));
    const char *name;
    json_t *value;
    printf("%-40s %18s %14s\n", "COUNTER", "TOTAL", "PER SECOND");
    json_object_foreach(json_object_get(stats, "counters"), name, value)
    {
        double n = (double)json_integer_value(value);
        printf("%-40s %18.0f %14.1f\n", name, n, seconds > 0 ? n / seconds : 0);
    }
    json_decref(stats);
    return EXIT_OK;
}
