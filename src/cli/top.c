// berth top: what running VMs take of the host, again and again: those of berth run and those that
// the manager keeps. CPU time, waiting and memory come from the host's proc(5); what a VM was held
// back, its disks and its balloon from the VM.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "control/client.h"
#include "host/clock.h"
#include "host/usage.h"

#define ANSWER_MS 2000
#define FIRST_MS 1000 // between the two looks that the first picture needs

const char top_help[] =
    "usage: berth top [--once] [--json] [--delay SECONDS] [VM...]\n"
    "\n"
    "Shows what running VMs take of the host, every two seconds until Ctrl-C.\n"
    "\n"
    "  --once           one picture, of one second\n"
    "  --json           one object a picture\n"
    "  --delay SECONDS  between pictures, from 1 to 3600 (2)\n"
    "\n"
    "  CPU%       CPU time, 100 is one CPU          STEAL%  ready to run, but the host's CPUs\n"
    "  HELD%      held back by a limit or a share           were busy\n"
    "  USED       memory that the guest uses        RES     of the host's memory, the VM has\n"
    "  SHARED     of that, pages shared with others RETURN  given back by its balloon\n"
    "  DISK, NET  bytes a second, both ways\n";

// Totals at one look.
struct look {
    char name[64];
    uint64_t at, cpu, wait, disk, net;
    double held;
    struct look *next;
};

struct top {
    struct look *before, *now;
    json_t *vms; // of this picture
    char **names;
    int count;
};

static void free_looks(struct look *list)
{
    while (list) {
        struct look *next = list->next;
        free(list);
        list = next;
    }
}

static bool is_asked_for(const struct top *top, const char *name)
{
    for (int i = 0; i < top->count; i++) {
        if (!strcmp(top->names[i], name))
            return true;
    }
    return !top->count;
}

static json_t *ask(struct client *client, const char *request)
{
    json_t *result = NULL;
    struct error e;
    return client && !client_ask(client, request, NULL, &result, NULL, &e) ? result : NULL;
}

// Of the counters KINDn.NAME.
static uint64_t sum(const json_t *stats, const char *kind, const char *one, const char *other)
{
    const char *name;
    json_t *value;
    uint64_t total = 0;
    json_object_foreach(json_object_get(stats, "counters"), name, value)
    {
        const char *dot = strchr(name, '.');
        if (dot && !strncmp(name, kind, strlen(kind)) &&
            (!strcmp(dot + 1, one) || !strcmp(dot + 1, other)))
            total += (uint64_t)json_integer_value(value);
    }
    return total;
}

static const struct look *find(const struct look *list, const char *name)
{
    while (list && strcmp(list->name, name))
        list = list->next;
    return list;
}

static void add_rate(json_t *vm, const char *name, double before, double now, double seconds)
{
    double rate = seconds > 0 && now > before ? (now - before) / seconds : 0;
    json_object_set_new(vm, name, json_real(rate));
}

static void add_rates(json_t *vm, const struct look *before, const struct look *now)
{
    if (!before)
        before = now;
    double s = (double)(now->at - before->at) / NS_PER_SEC;
    add_rate(vm, "cpu_percent", (double)before->cpu / 1e7, (double)now->cpu / 1e7, s);
    add_rate(vm, "steal_percent", (double)before->wait / 1e7, (double)now->wait / 1e7, s);
    add_rate(vm, "held_percent", before->held * 100, now->held * 100, s);
    add_rate(vm, "disk_bytes_per_second", (double)before->disk, (double)now->disk, s);
    add_rate(vm, "net_bytes_per_second", (double)before->net, (double)now->net, s);
}

static void add_memory(json_t *vm, pid_t pid, const json_t *memory)
{
    struct host_usage_memory host = {0};
    const json_t *stats = json_object_get(memory, "stats");
    const json_t *total = json_object_get(stats, "total"),
                 *free_ = json_object_get(stats, "available");
    host_usage_memory(pid, &host);
    json_object_set_new(vm, "resident", json_integer((json_int_t)host.resident));
    json_object_set_new(vm, "shared", json_integer((json_int_t)host.shared));
    json_int_t size = json_integer_value(json_object_get(memory, "size")),
               guest = json_integer_value(json_object_get(memory, "guest"));
    json_object_set_new(vm, "memory", json_integer(size));
    json_object_set_new(vm, "returned", json_integer(size - guest));
    if (total && free_)
        json_object_set_new(vm, "used",
                            json_integer(json_integer_value(total) - json_integer_value(free_)));
}

// A VM that ends meanwhile is left out.
static void look_at(void *opaque, const char *name)
{
    struct top *top = opaque;
    struct client *client = NULL;
    struct error e;
    if (!is_asked_for(top, name) || client_connect(REGISTRY_VM, name, ANSWER_MS, &client, &e))
        return;
    json_t *info = ask(client, "info"), *stats = ask(client, "stats"),
           *memory = ask(client, "memory");
    struct look *look = calloc(1, sizeof *look);
    pid_t pid = (pid_t)json_integer_value(json_object_get(info, "pid"));
    struct host_usage_threads threads;
    if (look && stats && host_usage_family_cpu(pid, &look->cpu)) {
        snprintf(look->name, sizeof look->name, "%s", name);
        look->at = host_now();
        host_usage_threads(pid, "vcpu", &threads);
        look->wait = threads.wait_ns;
        look->held = json_number_value(json_object_get(stats, "held_seconds"));
        look->disk = sum(stats, "disk", "read_bytes", "written_bytes");
        look->net = sum(stats, "nic", "received_bytes", "sent_bytes");
        look->next = top->now;
        top->now = look;
        json_t *vm =
            json_pack("{s:s, s:i, s:O?, s:O?}", "name", name, "pid", (int)pid, "state",
                      json_object_get(info, "state"), "vcpus", json_object_get(info, "vcpus"));
        add_rates(vm, find(top->before, name), look);
        add_memory(vm, pid, memory);
        json_array_append_new(top->vms, vm);
    } else {
        free(look);
    }
    json_decref(info);
    json_decref(stats);
    json_decref(memory);
    client_free(client);
}

static err_t take_picture(struct top *top, struct error *e)
{
    free_looks(top->before);
    top->before = top->now;
    top->now = NULL;
    json_decref(top->vms);
    top->vms = json_array();
    return registry_each(REGISTRY_VM, look_at, top, e);
}

// --- showing

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void print_bytes(const json_t *vm, const char *key)
{
    double n = number(vm, key);
    char shown[24] = "-";
    if (json_object_get(vm, key))
        snprintf(shown, sizeof shown,
                 n >= 1e10  ? "%.1fG"
                 : n >= 1e6 ? "%.0fM"
                            : "%.0fK",
                 n >= 1e10  ? n / GIB
                 : n >= 1e6 ? n / MIB
                            : n / KIB);
    printf(" %7s", shown);
}

static void show(const json_t *vms)
{
    static const char *const bytes[] = {"memory",
                                        "used",
                                        "resident",
                                        "shared",
                                        "returned",
                                        "disk_bytes_per_second",
                                        "net_bytes_per_second"};
    size_t i;
    const json_t *vm;
    printf("%-20s %8s %6s %6s %6s %7s %7s %7s %7s %7s %7s %7s\n", "NAME", "PID", "CPU%", "STEAL%",
           "HELD%", "MEMORY", "USED", "RES", "SHARED", "RETURN", "DISK/s", "NET/s");
    json_array_foreach(vms, i, vm)
    {
        printf("%-20s %8.0f %6.1f %6.1f %6.1f", json_string_value(json_object_get(vm, "name")),
               number(vm, "pid"), number(vm, "cpu_percent"), number(vm, "steal_percent"),
               number(vm, "held_percent"));
        for (size_t k = 0; k < ARRAY_LEN(bytes); k++)
            print_bytes(vm, bytes[k]);
        puts("");
    }
}

static void sleep_ms(unsigned ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

struct wishes {
    bool once, json;
    unsigned delay_ms;
};

static int run(struct top *top, const struct wishes *w)
{
    struct error e;
    bool screen = isatty(STDOUT_FILENO) && !w->once && !w->json;
    err_t err = take_picture(top, &e);
    for (unsigned ms = FIRST_MS; !err; ms = w->delay_ms) {
        sleep_ms(ms);
        err = take_picture(top, &e);
        if (err)
            break;
        if (screen)
            fputs("\033[H\033[J", stdout); // home, clear
        if (w->json)
            json_dumpf(top->vms, stdout, w->once ? JSON_INDENT(2) : JSON_COMPACT);
        else
            show(top->vms);
        if (w->json)
            puts("");
        if (fflush(stdout) == EOF || w->once)
            break;
    }
    return err ? complain(EXIT_HOST, "%s", e.text) : EXIT_OK;
}

static int take_words(struct wishes *w, struct top *top, int argc, char **argv)
{
    top->names = argv + 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--once")) {
            w->once = true;
        } else if (!strcmp(argv[i], "--json")) {
            w->json = true;
        } else if (!strcmp(argv[i], "--delay")) {
            char *end = "";
            unsigned long s = i + 1 < argc ? strtoul(argv[++i], &end, 10) : 0;
            if (*end || s < 1 || s > 3600)
                return complain(EXIT_USAGE, "--delay needs seconds, from 1 to 3600");
            w->delay_ms = (unsigned)s * 1000;
        } else if (argv[i][0] == '-') {
            return complain(EXIT_USAGE, "top does not know '%s'; see berth top --help", argv[i]);
        } else {
            top->names[top->count++] = argv[i];
        }
    }
    return EXIT_OK;
}

int cmd_top(int argc, char **argv)
{
    struct top top = {0};
    struct wishes wishes = {.delay_ms = 2000};
    int status = take_words(&wishes, &top, argc, argv);
    if (!status)
        status = run(&top, &wishes);
    free_looks(top.before);
    free_looks(top.now);
    json_decref(top.vms);
    return status;
}
