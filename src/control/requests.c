// The requests that every VM answers. Handlers run on the main loop; what must not see the guest
// move says vm_freeze() and vm_thaw().
#include "control/control.h"
#include "control/disk_requests.h"
#include "control/display_requests.h"
#include "control/nic_requests.h"
#include "control/share_requests.h"
#include "control/vsock_requests.h"
#include "host/clock.h"

// --- what it is

static err_t ping(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return OK;
}

static err_t help(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    json_object_set_new(reply->result, "requests", request_describe(vm_requests));
    return OK;
}

static json_t *disks(struct vm *vm, const struct vm_config *config)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < config->disks; i++)
        json_array_append_new(list, json_pack("{s:s?, s:b, s:s}", "path", config->disk[i].path,
                                              "read_only", config->disk[i].read_only, "io",
                                              vm_disk_io(vm, i)));
    return list;
}

static const char *agent_state(const struct control *c)
{
    return c->agent_ready(c->opaque) ? "ready" : c->config->agent ? "expected" : "absent";
}

static err_t info(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    const struct vm_config *config = c->config;
    json_t *more = json_pack(
        "{s:s, s:s, s:i, s:s, s:s, s:s, s:I, s:I, s:s?, s:f, s:f, s:s?, s:s?, s:s, s:o, s:o}",
        "name", config->name, "version", BERTH_VERSION, "pid", c->pid, "state",
        vm_paused(c->vm) ? "paused" : "running", "engine", vm_engine(c->vm)->name, "engine_reason",
        vm_engine_reason(c->vm), "vcpus", (json_int_t)config->vcpus, "memory_mib",
        (json_int_t)(config->memory_bytes / MIB), "cpu", config->cpu, "uptime_seconds",
        (double)(host_now() - c->started) / NS_PER_SEC, "guest_seconds",
        (double)vm_time(c->vm) / NS_PER_SEC, "kernel", config->kernel, "serial", config->serial,
        "agent", agent_state(c), "disks", disks(c->vm, config), "nics", nics_describe(c));
    if (!more)
        return error_set(e, ERR_NO_MEMORY, "no memory for an answer");
    const char *indirect;
    json_object_set_new(more, "direct", json_boolean(vm_direct(c->vm, &indirect)));
    json_object_set_new(more, "direct_reason", json_string(indirect));
    json_object_update(reply->result, more);
    json_decref(more);
    return OK;
}

static err_t stats(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    struct vm_counter counter[VM_COUNTERS_MAX];
    unsigned n = vm_counters(c->vm, counter, VM_COUNTERS_MAX);
    json_t *counters = json_object();
    for (unsigned i = 0; i < n; i++)
        json_object_set_new(counters, counter[i].name, json_integer((json_int_t)counter[i].value));
    json_object_set_new(reply->result, "uptime_seconds",
                        json_real((double)(host_now() - c->started) / NS_PER_SEC));
    json_object_set_new(reply->result, "guest_seconds",
                        json_real((double)vm_time(c->vm) / NS_PER_SEC));
    json_object_set_new(reply->result, "cpu_seconds",
                        json_real((double)vm_cpu_ns(c->vm) / NS_PER_SEC));
    struct vm_cpu cpu;
    vm_cpu(c->vm, &cpu);
    json_object_set_new(reply->result, "held_seconds", json_real((double)cpu.held_ns / NS_PER_SEC));
    json_object_set_new(reply->result, "counters", counters);
    return OK;
}

static err_t events(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    reply->events = true;
    return OK;
}

// --- what it does

static err_t pause(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    if (vm_paused(c->vm))
        return OK;
    vm_pause(c->vm);
    events_tell(c->events, "paused", "");
    return OK;
}

static err_t resume(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    if (!vm_paused(c->vm))
        return OK;
    vm_resume(c->vm);
    events_tell(c->events, "resumed", "");
    return OK;
}

static err_t reset(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    return vm_reset(c->vm, e);
}

static err_t shut_down(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    if (vm_paused(c->vm))
        return error_set(e, ERR_INVALID,
                         "a paused guest does not feel its power button; berth resume it first");
    if (!c->ask_down(c->opaque))
        return error_set(
            e, ERR_UNSUPPORTED,
            "the guest has no agent and does not listen to its power button; berth stop "
            "--force switches it off");
    events_tell(c->events, "shutdown-requested", "");
    return OK;
}

static err_t stop(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    c->stop(c->opaque, "stopped");
    return OK;
}

static err_t nmi(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    int64_t vcpu = request_number(args, "vcpu", 0);
    if (vcpu >= c->config->vcpus)
        return error_set(e, ERR_INVALID, "there is no vCPU %lld; the VM has %u", (long long)vcpu,
                         c->config->vcpus);
    vm_nmi(c->vm, (unsigned)vcpu);
    return OK;
}

static const struct request_field nmi_fields[] = {
    {"vcpu", FIELD_NUMBER, false, 0, VM_VCPUS_MAX - 1, "which vCPU gets it; 0 when missing"},
    {0},
};

const struct request vm_requests[] = {
    {"ping", "answers: the VM is alive", NULL, ping},
    {"help", "lists the requests and their arguments", NULL, help},
    {"info", "what runs: engine and why, vCPUs, memory, state, times", NULL, info},
    {"stats", "every counter of the engine and the devices", NULL, stats},
    {"events", "sends each event from now on as a line of its own", NULL, events},
    {"pause", "stops the vCPUs and virtual time", NULL, pause},
    {"resume", "lets them run on", NULL, resume},
    {"reset", "the reset button", NULL, reset},
    {"shutdown",
     "asks the guest to shut down, by its agent and its power button; it decides what follows",
     NULL, shut_down},
    {"stop", "switches the VM off at once", NULL, stop},
    {"screen", "the characters on the screen, while it shows text", NULL, request_screen},
    {"screenshot", "the screen's pixels, in the descriptor that comes along", NULL,
     request_screenshot},
    {"keys", "presses keys on the keyboard", keys_fields, request_keys},
    {"plug", "connects a network card to the network port that comes along", plug_fields,
     request_plug},
    {"unplug", "takes a network card's cable out", unplug_fields, request_unplug},
    {"vsock-connect", "leads the socket that comes along to a port of the guest", vsock_fields,
     request_vsock_connect},
    {"vsock-accept", "lets it wait for the guest to connect to a port of the host", vsock_fields,
     request_vsock_accept},
    {"nic-add", "plugs in a network card, perhaps with the network port that comes along",
     nic_add_fields, request_nic_add},
    {"nic-remove", "asks the guest to let go of a network card, which then goes", nic_remove_fields,
     request_nic_remove},
    {"limit", "what a disk may take of the host, from now on; without limits: what holds",
     limit_fields, limit_request},
    {"cpu", "what the VM may take of the host's CPUs, from now on; without arguments: what holds",
     cpu_fields, cpu_request},
    {"memory", "how much memory the guest may use, from now on, and what it says about it",
     memory_fields, memory_request},
    {"nmi", "a non-maskable interrupt, as from a crash-dump button", nmi_fields, nmi},
    {0},
};
