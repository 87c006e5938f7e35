// Requests about what a VM takes of the host's CPUs and memory, while it runs.
#include "control/share_requests.h"

#include "device/virtio/balloon.h"
#include "host/clock.h"
#include "machine/duty.h"

const struct request_field cpu_fields[] = {
    {"limit", FIELD_NUMBER, false, 0, DUTY_RATE_MAX, "thousandths of a CPU; 0: no limit"},
    {"bound", FIELD_NUMBER, false, 0, DUTY_RATE_MAX,
     "likewise, what limits above the VM leave it, as its pool's"},
    {"pin", FIELD_TEXT, false, 0, 4096,
     "the host's CPUs for all vCPUs (0-3,6) or for each (0:2;1:3)"},
    {"grant", FIELD_NUMBER, false, 0, DUTY_RATE_MAX,
     "what a coordinator of several VMs allows for a moment, beside the limit; 0: anything"},
    {"grant_ms", FIELD_NUMBER, false, 1, 60000, "how long that moment is; 1000 when missing"},
    {0},
};

err_t cpu_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    const char *pin = request_text(args, "pin", NULL);
    int64_t limit = request_number(args, "limit", -1), grant = request_number(args, "grant", -1);
    int64_t bound = request_number(args, "bound", -1);
    struct vm_cpu cpu;
    err_t err = limit > 0 ? vm_cpu_limit_check((uint32_t)limit, e) : OK;
    if (!err && pin)
        err = vm_pin(c->vm, pin, e);
    if (err)
        return err;
    if (limit >= 0)
        vm_set_cpu_limit(c->vm, (uint32_t)limit);
    if (bound >= 0)
        vm_set_cpu_bound(c->vm, (uint32_t)bound);
    if (grant >= 0)
        vm_set_cpu_grant(c->vm, (uint32_t)grant,
                         (ns_t)request_number(args, "grant_ms", 1000) * NS_PER_MS);
    vm_cpu(c->vm, &cpu);
    json_object_set_new(reply->result, "limit", json_integer(cpu.limit));
    json_object_set_new(reply->result, "bound", json_integer(cpu.bound));
    json_object_set_new(reply->result, "rate", json_integer(cpu.rate));
    json_object_set_new(reply->result, "cpu_seconds",
                        json_real((double)vm_cpu_ns(c->vm) / NS_PER_SEC));
    json_object_set_new(reply->result, "held_seconds", json_real((double)cpu.held_ns / NS_PER_SEC));
    return OK;
}

// --- memory

#define TARGET_MIN (16 * MIB)

const struct request_field memory_fields[] = {
    {"target", FIELD_NUMBER, false, TARGET_MIN, VM_MEMORY_MAX,
     "bytes that the guest may use, at most what it was given"},
    {0},
};

static json_t *stats_of(const struct balloon_view *view)
{
    json_t *stats = json_object();
    for (unsigned i = 0; i < BALLOON_STATS; i++)
        if (view->stats >> i & 1)
            json_object_set_new(stats, balloon_stat_names[i],
                                json_integer((json_int_t)(view->stat[i] & INT64_MAX)));
    return stats;
}

static json_t *bytes_of(uint64_t size, uint64_t pages)
{
    return json_integer((json_int_t)(size - min_u64(size, pages << PAGE_SHIFT)));
}

err_t memory_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    uint64_t size = c->config->memory_bytes;
    int64_t target = request_number(args, "target", 0);
    struct balloon_view view;
    if ((uint64_t)target > size)
        return error_set(e, ERR_INVALID, "the VM was given %llu MiB, and can have no more",
                         size / MIB);
    if (target)
        vm_set_memory_target(c->vm, (uint64_t)target);
    vm_balloon(c->vm, &view);
    json_object_set_new(reply->result, "size", json_integer((json_int_t)size));
    json_object_set_new(reply->result, "target", bytes_of(size, view.target_pages));
    json_object_set_new(reply->result, "guest", bytes_of(size, view.inflated_pages));
    json_object_set_new(reply->result, "balloon", json_boolean(view.driver));
    json_object_set_new(reply->result, "reports", json_boolean(view.reports));
    json_object_set_new(reply->result, "reported",
                        json_integer((json_int_t)(view.reported_bytes & INT64_MAX)));
    json_object_set_new(reply->result, "stats", stats_of(&view));
    if (view.stats)
        json_object_set_new(reply->result, "stats_age_seconds",
                            json_real((double)(vm_time(c->vm) - view.stats_at) / NS_PER_SEC));
    return OK;
}
