// Requests about a VM's disks: limits that change while it runs.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/disk_requests.h"

#define RATE(name, doc)                                      \
    {                                                        \
        name, FIELD_NUMBER, false, 0, THROTTLE_RATE_MAX, doc \
    }

const struct request_field limit_fields[] = {
    {"disk", FIELD_TEXT, true, 0, 16, "disk0, disk1, ... in the order of the definition"},
    RATE("bps", "bytes a second, reads and writes together; 0: no limit"),
    RATE("bps_burst", "what may come at once after a pause"),
    RATE("bps_read", "bytes a second"),
    RATE("bps_read_burst", "what may come at once"),
    RATE("bps_write", "bytes a second"),
    RATE("bps_write_burst", "what may come at once"),
    RATE("iops", "operations a second, of all kinds together"),
    RATE("iops_burst", "what may come at once"),
    RATE("iops_read", "operations a second"),
    RATE("iops_read_burst", "what may come at once"),
    RATE("iops_write", "operations a second, all but reads"),
    RATE("iops_write_burst", "what may come at once"),
    RATE("bps_bound", "bytes a second that limits of pools leave it, beside its own"),
    RATE("iops_bound", "operations a second, likewise"),
    {0},
};

static void limit_name(char out[32], unsigned kind, const char *tail)
{
    snprintf(out, 32, "%s%s", throttle_names[kind], tail);
    for (; *out; out++)
        if (*out == '-')
            *out = '_';
}

// Those that there are.
static void show(const struct throttle_limits *limits, json_t *result)
{
    char name[32];

    for (unsigned i = 0; i < THROTTLE_KINDS; i++) {
        const struct throttle_limit *l = &limits->of[i];
        limit_name(name, i, "");
        if (l->rate)
            json_object_set_new(result, name, json_integer((json_int_t)l->rate));
        limit_name(name, i, "_burst");
        if (l->burst)
            json_object_set_new(result, name, json_integer((json_int_t)l->burst));
    }
}

// Those that are not given stay; a limit that is lifted takes its burst along. False: none given.
static bool change(struct throttle_limits *limits, const json_t *args)
{
    bool any = false;
    char name[32];

    for (unsigned i = 0; i < THROTTLE_KINDS; i++) {
        struct throttle_limit *l = &limits->of[i];
        limit_name(name, i, "");
        const json_t *rate = json_object_get(args, name);
        limit_name(name, i, "_burst");
        const json_t *burst = json_object_get(args, name);
        if (rate)
            l->rate = (uint64_t)json_integer_value(rate);
        if (burst)
            l->burst = (uint64_t)json_integer_value(burst);
        else if (rate && !l->rate)
            l->burst = 0;
        any |= rate || burst;
    }
    return any;
}

static err_t find_disk(const struct control *c, const char *name, unsigned *out, struct error *e)
{
    char id[16];

    for (*out = 0; *out < c->config->disks; ++*out) {
        snprintf(id, sizeof id, "disk%u", *out);
        if (!strcmp(id, name))
            return OK;
    }
    return error_set(e, ERR_NOT_FOUND, "there is no disk '%s'; the VM has %u, from disk0 on", name,
                     c->config->disks);
}

err_t limit_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    const char *name = request_text(args, "disk", "");
    struct throttle_limits limits;
    unsigned disk;
    err_t err = find_disk(c, name, &disk, e);

    if (!err && !vm_disk_limits(c->vm, disk, &limits))
        err = error_set(e, ERR_INVALID, "%s: there is no disc in the drive", name);
    if (err)
        return err;
    if (change(&limits, args)) {
        err = vm_limits_check(&limits, e);
        if (err)
            return err;
        vm_disk_set_limits(c->vm, disk, &limits);
    }
    show(&limits, reply->result);
    return OK;
}
