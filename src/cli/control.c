// Verbs for running VMs: each finds its VM by name and asks it over its control socket.
#include "cli/cli.h"
#include "cli/manager.h"
#include "cli/vms.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/agent_verbs.h"
#include "control/client.h"
#include "control/registry.h"
#include "host/clock.h"

#define ANSWER_MS 10000
#define STOP_MS 60000

const char ls_help[] = "usage: berth ls [--json]\n"
                       "\n"
                       "Lists your VMs: those that berth create made, and others that run.\n";
const char pause_help[] = "usage: berth pause [--json] VM\n"
                          "\n"
                          "Stops the VM's processors and its time, until berth resume.\n";
const char resume_help[] = "usage: berth resume [--json] VM\n"
                           "\n"
                           "Lets a paused VM run on.\n";
const char reset_help[] = "usage: berth reset [--json] VM\n"
                          "\n"
                          "Presses the VM's reset button: it starts anew, without a shutdown.\n";
const char stop_help[] =
    "usage: berth stop [--force] [--timeout SECONDS] [--json] VM...\n"
    "\n"
    "Asks the guest to shut down, by its agent if it has one and else by the power button, waits\n"
    "until it has, and switches it off when that takes too long.\n"
    "\n"
    "  -f, --force              switch it off at once, without asking the guest\n"
    "  -t, --timeout SECONDS    how long to wait for the guest (the VM's own, 60)\n";
const char events_help[] =
    "usage: berth events [--last N] [--json] [VM]\n"
    "\n"
    "Follows what happens to a running VM, until it ends; without a VM, to all that berth create\n"
    "made. With --json, one object a line; the events are those of berth run --json.\n"
    "\n"
    "      --last N    instead: the last N events that the manager has kept, and end\n";
const char control_help[] =
    "usage: berth control VM [REQUEST [NAME=VALUE...]]\n"
    "\n"
    "Sends the VM a request and prints its answer as JSON. Without a request: lists them, with\n"
    "their arguments.\n";

// --- what the verbs share

static int bad_option(const char *command, const char *word)
{
    return complain(EXIT_USAGE, "%s does not know '%s'; see berth %s --help", command, word,
                    command);
}

// Where the arguments after the VM's name begin.
static int words_end(int argc, char **argv)
{
    int i = 1;
    while (i < argc && argv[i][0] == '-')
        i++;
    for (i++; i < argc && !strcmp(argv[i], "--json");)
        i++;
    return i < argc ? i : argc;
}

int verb_parse(int argc, char **argv, const char *allows, struct verb *out)
{
    struct vms_words w;
    int end = strchr(allows, 'r') ? words_end(argc, argv) : argc;
    if (!vms_parse(end, argv, allows, &w))
        return EXIT_USAGE;
    if (w.count > 1)
        return bad_option(argv[0], w.names[1]);
    if (!w.count)
        return complain(EXIT_USAGE, "%s needs the name of a VM; berth ls shows them", argv[0]);
    *out = (struct verb){w.names[0], w.json, w.seconds, end};
    return EXIT_OK;
}

int status_of(err_t err)
{
    switch (err) {
    case ERR_INVALID:
    case ERR_NOT_FOUND:
    case ERR_EXISTS: return EXIT_USAGE;
    case ERR_UNSUPPORTED: return EXIT_GUEST;
    default: return EXIT_HOST;
    }
}

int verb_ask(const struct verb *verb, const char *request, json_t *args, json_t **result)
{
    struct client *client = NULL;
    struct error e = {0};
    err_t err = vm_connect(verb->vm, ANSWER_MS, &client, &e);
    if (err)
        json_decref(args);
    else
        err = client_ask(client, request, args, result, NULL, &e);
    client_free(client);
    return err ? complain(status_of(err), "%s", e.text) : EXIT_OK;
}

int print_json(json_t *object)
{
    int failed = json_dumpf(object, stdout, JSON_INDENT(2));
    json_decref(object);
    if (failed || puts("") == EOF)
        return complain(EXIT_HOST, "cannot write the answer");
    return EXIT_OK;
}

// Asks for what has no answer but that it was done; then says done.
static int simple(int argc, char **argv, const char *done)
{
    struct verb verb;
    json_t *result = NULL;
    int status = verb_parse(argc, argv, "", &verb);
    if (!status)
        status = verb_ask(&verb, argv[0], NULL, &result);
    if (status)
        return status;
    if (verb.json)
        return print_json(result);
    json_decref(result);
    printf("%s %s\n", verb.vm, done);
    return EXIT_OK;
}

int cmd_pause(int argc, char **argv)
{
    return simple(argc, argv, "is paused; berth resume lets it run on");
}

int cmd_resume(int argc, char **argv)
{
    return simple(argc, argv, "runs");
}

int cmd_reset(int argc, char **argv)
{
    return simple(argc, argv, "starts anew");
}

// --- one VM and all of them

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

static void duration(double seconds, char out[32])
{
    unsigned long s = (unsigned long)seconds;
    if (s < 3600)
        snprintf(out, 32, "%lu:%02lu", s / 60, s % 60);
    else
        snprintf(out, 32, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
}

static void show_vm(const json_t *vm)
{
    char up[32];
    duration(json_number_value(json_object_get(vm, "uptime_seconds")), up);
    printf("name       %s\nstate      %s, up %s, pid %lld\n", text(vm, "name"), text(vm, "state"),
           up, (long long)json_integer_value(json_object_get(vm, "pid")));
    printf("engine     %s: %s\n", text(vm, "engine"), text(vm, "engine_reason"));
    if (!strcmp(text(vm, "engine"), "translate"))
        printf("direct     %s%s\n", json_is_true(json_object_get(vm, "direct")) ? "yes" : "no: ",
               text(vm, "direct_reason"));
    printf("vCPUs      %lld\nmemory     %lld MiB\n",
           (long long)json_integer_value(json_object_get(vm, "vcpus")),
           (long long)json_integer_value(json_object_get(vm, "memory_mib")));
    if (*text(vm, "kernel"))
        printf("kernel     %s\n", text(vm, "kernel"));
    size_t i;
    const json_t *disk;
    json_array_foreach(json_object_get(vm, "disks"), i, disk)
        printf("disk       %s%s%s%s\n", *text(disk, "path") ? text(disk, "path") : "no disc",
               json_is_true(json_object_get(disk, "read_only")) ? " (read-only)" : "",
               *text(disk, "io") ? ", by " : "", text(disk, "io"));
    agent_show(vm);
}

static void show_managed(const json_t *vm)
{
    const char *reason = text(vm, "reason"), *words = text(vm, "text");
    bool runs = json_object_get(vm, "uptime_seconds") != NULL;
    if (!runs) {
        printf("name       %s\nstate      %s%s%s%s%s\n", text(vm, "name"), text(vm, "state"),
               *reason ? ": " : "", reason, *words ? ": " : "", words);
        printf("vCPUs      %lld\nmemory     %lld MiB\n",
               (long long)json_integer_value(json_object_get(vm, "vcpus")),
               (long long)json_integer_value(json_object_get(vm, "memory_mib")));
    }
    printf("id         %s\nrestart    %s%s\nautostart  %s\nfolder     %s\n", text(vm, "id"),
           text(vm, "restart"),
           json_integer_value(json_object_get(vm, "restarts")) ? ", was restarted lately" : "",
           json_is_true(json_object_get(vm, "autostart")) ? "yes" : "no", text(vm, "folder"));
}

// What the VM says about itself, and what the manager knows; one of them has to.
int info_of_vm(const struct verb *verb)
{
    json_t *vm = NULL, *managed = NULL;
    struct error e = {0};
    struct client *client = NULL;
    err_t err = vm_connect(verb->vm, ANSWER_MS, &client, &e);
    if (!err)
        err = client_ask(client, "info", NULL, &vm, NULL, &e);
    client_free(client);
    if (!err)
        agent_describe(vm);
    if (manager_info(verb->vm, &managed, NULL) && err)
        return complain(status_of(err), "%s", e.text);
    if (verb->json) {
        json_t *both = managed ? json_incref(managed) : json_object();
        json_object_update(both, vm); // who runs knows best
        json_decref(vm);
        json_decref(managed);
        return print_json(both);
    }
    if (vm)
        show_vm(vm);
    if (managed)
        show_managed(managed);
    json_decref(vm);
    json_decref(managed);
    return EXIT_OK;
}

// A VM that ends or hangs while the list is made is left out; --json has it with its error.
static void add_vm(void *opaque, const char *name)
{
    struct client *client = NULL;
    struct error e = {0};
    json_t *vm = NULL;
    err_t err = client_connect(REGISTRY_VM, name, 2000, &client, &e);
    if (!err)
        err = client_ask(client, "info", NULL, &vm, NULL, &e);
    client_free(client);
    if (err && err != ERR_NOT_FOUND)
        vm = json_pack("{s:s, s:s, s:s}", "name", name, "state", "no answer", "error", e.text);
    if (vm)
        json_array_append_new(opaque, vm);
}

static void show_vms(const json_t *vms)
{
    size_t i;
    const json_t *vm;
    printf("%-20s %8s  %-9s %5s %7s  %-10s %9s\n", "NAME", "PID", "ENGINE", "VCPUS", "MEMORY",
           "STATE", "UP");
    json_array_foreach(vms, i, vm)
    {
        char up[32] = "", pid[24] = "";
        long long process = json_integer_value(json_object_get(vm, "pid"));
        if (json_object_get(vm, "uptime_seconds"))
            duration(json_number_value(json_object_get(vm, "uptime_seconds")), up);
        if (process)
            snprintf(pid, sizeof pid, "%lld", process);
        printf("%-20s %8s  %-9s %5lld %6lldM  %-10s %9s\n", text(vm, "name"), pid,
               text(vm, "engine"), (long long)json_integer_value(json_object_get(vm, "vcpus")),
               (long long)json_integer_value(json_object_get(vm, "memory_mib")), text(vm, "state"),
               up);
    }
}

static bool is_listed(const json_t *vms, const char *name)
{
    size_t i;
    const json_t *vm;
    json_array_foreach(vms, i, vm)
    {
        if (!strcmp(text(vm, "name"), name))
            return true;
    }
    return false;
}

static void add_unlisted(void *opaque, const char *name)
{
    if (!is_listed(opaque, name))
        add_vm(opaque, name);
}

// The manager's, if there is one, and those that somebody runs in the foreground.
static err_t list_vms(json_t **vms, struct error *e)
{
    json_t *result = NULL;
    err_t err = manager_request(MANAGER_IF_USED, "ls", NULL, ANSWER_MS, &result, e);
    if (err && err != ERR_NOT_FOUND)
        return err;
    *vms = json_object_get(result, "vms");
    *vms = json_is_array(*vms) ? json_incref(*vms) : json_array();
    json_decref(result);
    return registry_each(REGISTRY_VM, add_unlisted, *vms, e);
}

int cmd_ls(int argc, char **argv)
{
    bool json = argc == 2 && !strcmp(argv[1], "--json");
    if (argc > 1 && !json)
        return bad_option("ls", argv[1]);
    json_t *vms = NULL;
    struct error e = {0};
    if (list_vms(&vms, &e)) {
        json_decref(vms);
        return complain(EXIT_HOST, "%s", e.text);
    }
    if (json)
        return print_json(vms);
    if (json_array_size(vms))
        show_vms(vms);
    else
        puts("there is no VM; berth run starts one, berth create makes one to keep");
    json_decref(vms);
    return EXIT_OK;
}

// --- following

static void show_event(const json_t *event)
{
    const char *name;
    json_t *value;
    printf("%s", text(event, "event"));
    json_object_foreach((json_t *)event, name, value)
    {
        if (!strcmp(name, "event"))
            continue;
        if (json_is_string(value))
            printf(" %s=%s", name, json_string_value(value));
        else if (json_is_integer(value))
            printf(" %s=%lld", name, (long long)json_integer_value(value));
    }
    printf("\n");
}

static void print_event(const json_t *event, bool json)
{
    if (!json) {
        show_event(event);
    } else {
        json_dumpf(event, stdout, JSON_COMPACT);
        puts("");
    }
    fflush(stdout);
}

static err_t subscribe(const struct verb *verb, struct client **client, struct error *e)
{
    json_t *result = NULL;
    err_t err = vm_connect(verb->vm, ANSWER_MS, client, e);
    if (!err)
        err = client_ask(*client, "events", NULL, &result, NULL, e);
    json_decref(result);
    return err;
}

static int follow(struct client *client, bool json)
{
    struct error e = {0};
    err_t err = OK;
    for (json_t *event = NULL; !err; json_decref(event)) {
        err = client_next_event(client, -1, &event, &e);
        if (err || !event)
            break;
        print_event(event, json);
    }
    client_free(client);
    return err ? complain(status_of(err), "%s", e.text) : EXIT_OK;
}

static int events_of_all(bool json)
{
    struct client *client = NULL;
    struct error e = {0};
    json_t *result = NULL;
    err_t err = manager_connect(MANAGER_NEEDED, ANSWER_MS, &client, &e);
    if (!err)
        err = client_ask(client, "events", NULL, &result, NULL, &e);
    json_decref(result);
    if (!err)
        return follow(client, json);
    client_free(client);
    return complain(status_of(err), "%s", e.text);
}

static int past_events(const char *vm, const char *count, bool json)
{
    json_t *args = json_object(), *result = NULL, *event;
    size_t i;
    char *end = NULL;
    long n = count ? strtol(count, &end, 10) : 0;
    if (n < 1 || n > 10000 || *end)
        return complain(EXIT_USAGE, "--last needs a number from 1 to 10000");
    json_object_set_new(args, "last", json_integer(n));
    if (vm)
        json_object_set_new(args, "vm", json_string(vm));
    int status = manager_ask("history", args, ANSWER_MS, &result);
    json_array_foreach(json_object_get(result, "events"), i, event) print_event(event, json);
    json_decref(result);
    return status;
}

int cmd_events(int argc, char **argv)
{
    struct client *client = NULL;
    struct error e = {0};
    const char *last = NULL;
    bool past = false, json = false;
    struct verb verb = {0};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            json = true;
        else if (!strcmp(argv[i], "--last"))
            past = true, last = argv[++i];
        else if (argv[i][0] == '-' || verb.vm)
            return bad_option("events", argv[i]);
        else
            verb.vm = argv[i];
    }
    if (past)
        return past_events(verb.vm, last, json);
    if (!verb.vm)
        return events_of_all(json);
    err_t err = subscribe(&verb, &client, &e);
    if (!err)
        return follow(client, json);
    client_free(client);
    return complain(status_of(err), "%s", e.text);
}

// --- stop

// Until the VM has ended. ERR_BUSY: the time is up.
static err_t wait_for_end(struct client *client, int wait_ms, struct error *e)
{
    uint64_t until = host_now() + (uint64_t)wait_ms * NS_PER_MS;
    for (;;) {
        uint64_t now = host_now();
        int left = now < until ? (int)((until - now) / NS_PER_MS) : 0;
        json_t *event = NULL;
        err_t err = client_next_event(client, left, &event, e);
        bool ended = !err && !event;
        json_decref(event);
        if (ended || err)
            return err;
    }
}

// One that runs in the foreground.
static err_t stop_running(const struct vms_words *w, const char *vm, struct error *e)
{
    struct client *client = NULL;
    json_t *result = NULL;
    const struct verb verb = {.vm = vm};
    err_t err = subscribe(&verb, &client, e);
    if (!err)
        err = client_ask(client, w->force ? "stop" : "shutdown", NULL, &result, NULL, e);
    json_decref(result);
    if (!err)
        err = wait_for_end(client, w->seconds < 0 ? STOP_MS : w->seconds * 1000, e);
    if (err == ERR_BUSY && !w->force) {
        err = client_ask(client, "stop", NULL, &result, NULL, e);
        json_decref(result);
        if (!err)
            err = wait_for_end(client, STOP_MS, e);
    }
    client_free(client);
    return err;
}

static err_t stop_one(const struct vms_words *w, const char *vm, json_t *list, struct error *e)
{
    json_t *result = NULL;
    int wait = STOP_MS + (w->seconds > 0 ? w->seconds * 1000 : ANSWER_MS);
    err_t err = manager_info(vm, &result, NULL);
    int patience = (int)json_integer_value(json_object_get(result, "stop_seconds")) * 1000;
    json_decref(result);
    result = NULL;
    if (err)
        err = stop_running(w, vm, e);
    else
        err = manager_request(MANAGER_NEEDED, "stop", vms_stop_arguments(vm, w),
                              w->seconds < 0 ? patience + STOP_MS : wait, &result, e);
    if (err)
        return err;
    if (!result)
        result = json_pack("{s:s, s:s}", "name", vm, "state", "stopped");
    if (!w->json)
        printf("%s has stopped\n", text(result, "name"));
    json_array_append_new(list, result);
    return OK;
}

int cmd_stop(int argc, char **argv)
{
    struct vms_words w;
    int status = EXIT_OK;
    if (!vms_parse(argc, argv, "ft", &w))
        return EXIT_USAGE;
    if (!w.count)
        return complain(EXIT_USAGE, "stop needs the name of a VM; berth ls shows them");
    json_t *list = json_array();
    for (int i = 0; i < w.count; i++) {
        struct error e = {0};
        err_t err = stop_one(&w, w.names[i], list, &e);
        if (err)
            status = complain(status_of(err), "%s", e.text);
    }
    if (w.json)
        return print_json(list) ? EXIT_HOST : status;
    json_decref(list);
    return status;
}

// --- any request

bool argument_add(json_t *args, const char *word)
{
    const char *eq = strchr(word, '=');
    if (!eq || eq == word)
        return false;
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(eq - word), word);
    json_t *value = json_loads(eq + 1, JSON_DECODE_ANY, NULL);
    if (!value || json_is_string(value) || json_is_object(value) || json_is_array(value)) {
        json_decref(value);
        value = json_string(eq + 1);
    }
    return json_object_set_new(args, name, value) == 0;
}

int cmd_control(int argc, char **argv)
{
    struct verb verb;
    int status = verb_parse(argc, argv, "r", &verb);
    if (status)
        return status;
    json_t *args = json_object(), *result = NULL;
    for (int i = verb.rest + 1; i < argc; i++) {
        if (!argument_add(args, argv[i])) {
            json_decref(args);
            return complain(EXIT_USAGE, "'%s' is no argument; give NAME=VALUE", argv[i]);
        }
    }
    status = verb_ask(&verb, verb.rest < argc ? argv[verb.rest] : "help", args, &result);
    return status ? status : print_json(result);
}
