// What VMs take of the host, in one answer: each running VM is asked for its counters, and answers
// that it does not give in time are left out, so that nobody waits for a VM that hangs. Its
// processor time is its own (it counts its threads), its resident memory the kernel's (proc(5)).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/bits.h"
#include "host/clock.h"
#include "manager/manager.h"

#define PATIENCE (2 * NS_PER_SEC)

// One question to all VMs.
struct survey {
    struct manager *manager;
    struct loop_timer timer;
    struct promise *promise; // NULL: it has been answered
    json_t *result, *vms;
    unsigned open; // answers that are owed
};

struct asked {
    struct survey *survey;
    json_t *vm; // the VM's object in the list
};

static uint64_t resident(pid_t pid)
{
    char path[64], line[128] = "";
    unsigned long long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *file = pid > 0 ? fopen(path, "re") : NULL;
    if (!file)
        return 0;
    if (!fgets(line, sizeof line, file) || sscanf(line, "%*s %llu", &pages) != 1)
        pages = 0;
    fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static double own_cpu_seconds(void)
{
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

// Sum of the counters KIND<number>.NAME; exits and the like have no kind.
static json_int_t sum(const json_t *counters, const char *kind, const char *name)
{
    const char *key;
    json_t *value;
    uint64_t total = 0;
    size_t len = strlen(kind);
    json_object_foreach((json_t *)counters, key, value)
    {
        const char *dot = strchr(key, '.');
        if (!strncmp(key, kind, len) && dot &&
            strspn(key + len, "0123456789") == (size_t)(dot - key) - len && !strcmp(dot + 1, name))
            total += (uint64_t)json_integer_value(value); // theirs: it may be anything
    }
    return (json_int_t)(total & INT64_MAX);
}

// How often its guest left what the engine does by itself: KVM's exits, the translator's upcalls.
static json_int_t exits(const json_t *counters)
{
    json_int_t n = json_integer_value(json_object_get(counters, "exits"));
    return n ? n : json_integer_value(json_object_get(counters, "upcalls"));
}

static void take_counters(json_t *vm, const json_t *stats)
{
    const json_t *c = json_object_get(stats, "counters");
    static const char *const times[] = {"cpu_seconds", "uptime_seconds", "guest_seconds"};
    for (size_t i = 0; i < ARRAY_LEN(times); i++) {
        double seconds = json_number_value(json_object_get(stats, times[i]));
        json_object_set_new(vm, times[i], json_real(seconds > 0 ? seconds : 0));
    }
    json_object_set_new(vm, "disk_read_bytes", json_integer(sum(c, "disk", "read_bytes")));
    json_object_set_new(vm, "disk_written_bytes", json_integer(sum(c, "disk", "written_bytes")));
    json_object_set_new(vm, "net_received_bytes", json_integer(sum(c, "nic", "received_bytes")));
    json_object_set_new(vm, "net_sent_bytes", json_integer(sum(c, "nic", "sent_bytes")));
    json_object_set_new(vm, "exits", json_integer(exits(c)));
}

static void settle(struct survey *survey)
{
    struct promise *promise = survey->promise;
    survey->promise = NULL;
    loop_timer_set(survey->manager->loop, &survey->timer, NS_NEVER);
    if (promise)
        promise_settle(promise, survey->result, NULL);
}

static void time_is_up(void *opaque)
{
    settle(opaque);
}

static void finish(struct survey *survey)
{
    if (--survey->open)
        return;
    settle(survey);
    free(survey);
}

static void answered(void *opaque, json_t *stats, const struct error *e)
{
    struct asked *asked = opaque;
    if (stats && asked->survey->promise)
        take_counters(asked->vm, stats);
    json_decref(stats);
    json_decref(asked->vm);
    finish(asked->survey);
    free(asked);
}

static json_t *describe(const struct managed *m)
{
    return json_pack("{s:s, s:s, s:s, s:b, s:i, s:i, s:I, s:I, s:I}", "name", m->name, "id", m->id,
                     "state", managed_states[m->state], "agent", managed_runs(m) && m->agent, "pid",
                     managed_runs(m) ? m->pid : 0, "vcpus", (int)m->vcpus, "memory_bytes",
                     (json_int_t)m->memory_mib * (json_int_t)MIB, "memory_resident_bytes",
                     (json_int_t)resident(managed_runs(m) ? m->pid : 0), "restarts",
                     (json_int_t)m->restarts);
}

static void ask(struct survey *survey, struct managed *m)
{
    json_t *vm = describe(m);
    json_array_append(survey->vms, vm);
    struct asked *asked = m->link ? malloc(sizeof *asked) : NULL;
    if (asked) {
        *asked = (struct asked){survey, vm};
        survey->open++;
        if (!link_ask(m->link, "stats", NULL, answered, asked, NULL))
            return;
        survey->open--;
        free(asked);
    }
    json_decref(vm);
}

static json_t *describe_manager(const struct manager *manager)
{
    return json_pack("{s:s, s:i, s:I, s:f, s:I, s:i, s:I}", "version", BERTH_VERSION, "pid",
                     (int)getpid(), "started", (json_int_t)manager->began, "cpu_seconds",
                     own_cpu_seconds(), "memory_resident_bytes", (json_int_t)resident(getpid()),
                     "host_cpus", (int)sysconf(_SC_NPROCESSORS_ONLN), "host_memory_bytes",
                     (json_int_t)sysconf(_SC_PHYS_PAGES) * (json_int_t)sysconf(_SC_PAGESIZE));
}

err_t usage_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct manager *manager = context;
    struct survey *survey = calloc(1, sizeof *survey);
    if (!survey)
        return error_set(e, ERR_NO_MEMORY, "no memory for an answer");
    survey->manager = manager;
    survey->timer = (struct loop_timer){.fire = time_is_up, .opaque = survey};
    survey->vms = json_array();
    survey->result = reply->result;
    survey->open = 1; // this function's own
    json_object_set_new(reply->result, "at", json_integer(wall_ms()));
    json_object_set_new(reply->result, "manager", describe_manager(manager));
    json_object_set_new(reply->result, "vms", survey->vms);
    for (struct managed *m = manager->vms; m; m = m->next)
        ask(survey, m);
    if (!--survey->open) { // nothing runs: the answer is here
        free(survey);
        return OK;
    }
    survey->promise = reply_later(reply);
    if (!survey->promise) // answers that are still to come are taken by nobody
        return error_set(e, ERR_NO_MEMORY, "no memory for an answer");
    json_incref(survey->result);
    loop_timer_set(manager->loop, &survey->timer, host_now() + PATIENCE);
    return OK;
}
