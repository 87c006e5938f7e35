// Requests about pools, and about VMs' places in them. A change is tried on the tree, admitted and
// written down, or taken back.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/config.h"
#include "machine/duty.h"
#include "manager/coordinator.h"
#include "manager/pools_impl.h"

#define BYTES_MAX ((int64_t)1 << 50)
#define NUMBER(name, max, doc)                     \
    {                                              \
        name, FIELD_NUMBER, false, 0, (max), (doc) \
    }
#define ALLOTMENT_FIELDS                                                                          \
    NUMBER("cpu_shares", SHARES_MAX, "its part where CPUs are short, among its siblings; 100"),   \
        NUMBER("cpu_reservation", DUTY_RATE_MAX, "thousandths of a CPU that it can always have"), \
        NUMBER("cpu_limit", DUTY_RATE_MAX, "thousandths of a CPU at most; 0: no limit"),          \
        NUMBER("memory_shares", SHARES_MAX, "its part where memory is short"),                    \
        NUMBER("memory_reservation", BYTES_MAX, "bytes that it can always have"),                 \
        NUMBER("memory_limit", BYTES_MAX, "bytes at most; 0: no limit"),                          \
        NUMBER("disk_shares", SHARES_MAX, "its part of a limited pool's disk bandwidth"),         \
        NUMBER("disk_reservation", THROTTLE_RATE_MAX,                                             \
               "bytes a second that it always has of that"),                                      \
        NUMBER("disk_limit", THROTTLE_RATE_MAX, "bytes a second of all its disks; 0: no limit"),  \
        NUMBER("iops_shares", SHARES_MAX, "its part of a limited pool's disk operations"),        \
        NUMBER("iops_reservation", THROTTLE_RATE_MAX,                                             \
               "operations a second that it always has of that"),                                 \
        NUMBER("iops_limit", THROTTLE_RATE_MAX,                                                   \
               "operations a second of all its disks; 0: no limit"),                              \
        NUMBER("net_shares", SHARES_MAX, "its part of a busy network and of a limited pool's"),   \
        NUMBER("net_reservation", BYTES_MAX, "bits a second that it always has of that"),         \
        NUMBER("net_limit", BYTES_MAX, "bits a second of all its cards, each way; 0: no limit")
#define POOL_FIELD                                                                   \
    {                                                                                \
        "pool", FIELD_TEXT, true, 1, REGISTRY_NAME_MAX, "its name; host is the root" \
    }

const struct request_field pool_name_fields[] = {POOL_FIELD, {0}};
const struct request_field pool_fields[] = {
    POOL_FIELD,
    {"parent", FIELD_TEXT, false, 0, REGISTRY_NAME_MAX, "the pool that it is part of; host"},
    ALLOTMENT_FIELDS,
    {0}};
const struct request_field share_fields[] = {
    {"vm", FIELD_TEXT, true, 0, REGISTRY_NAME_MAX, "name or id"},
    {"pool", FIELD_TEXT, false, 0, REGISTRY_NAME_MAX, "the pool that it goes into"},
    ALLOTMENT_FIELDS,
    {0}};

static struct pools *pools_of(void *context)
{
    return ((struct manager *)context)->pools;
}

static err_t find(struct pools *pools, const char *name, struct pool **out, struct error *e)
{
    *out = pools_find(pools, strcmp(name, "host") ? name : "");
    return *out ? OK
                : error_set(e, ERR_NOT_FOUND, "there is no pool '%.64s'; berth pool ls shows them",
                            name);
}

static err_t find_parent(struct pools *pools, const json_t *args, const struct pool *of,
                         struct pool **out, struct error *e)
{
    const char *name = request_text(args, "parent", NULL);
    *out = of->parent ? of->parent : &pools->root;
    if (!name)
        return OK;
    err_t err = find(pools, name, out, e);
    if (!err && (of == &pools->root || pool_within(*out, of)))
        return error_set(e, ERR_INVALID, "a pool cannot be part of itself");
    if (!err && pool_depth(*out) >= POOL_DEPTH_MAX)
        return error_set(e, ERR_INVALID, "pools are at most %d deep", POOL_DEPTH_MAX);
    return err;
}

static const char *shown_name(const struct pool *pool)
{
    return pool->parent ? pool->name : "host";
}

// --- what there is

static json_t *describe_tenant(const struct tenant *t)
{
    json_t *object = allotment_to_json(&t->a);
    const struct tenant_use *u = &t->use;
    json_object_set_new(object, "vm", json_string(t->vm->name));
    json_object_set_new(object, "id", json_string(t->vm->id));
    json_object_set_new(object, "pool", json_string(shown_name(t->pool)));
    json_object_set_new(object, "state", json_string(managed_states[t->vm->state]));
    json_object_set_new(object, "runs", json_boolean(t->vm->link));
    json_object_set_new(object, "cpu_used", json_integer((json_int_t)u->used));
    json_object_set_new(object, "cpu_wanted", json_integer((json_int_t)u->wanted));
    json_object_set_new(object, "cpu_given", json_integer((json_int_t)u->granted));
    json_object_set_new(object, "memory_used", json_integer((json_int_t)u->memory_guest));
    json_object_set_new(object, "memory_target", json_integer((json_int_t)u->memory_target));
    json_object_set_new(object, "disk_rate", json_integer((json_int_t)u->disk_rate[0]));
    json_object_set_new(object, "iops_rate", json_integer((json_int_t)u->disk_rate[1]));
    json_object_set_new(object, "control_group", json_boolean(u->in_group));
    return object;
}

static json_t *describe(const struct pools *pools, const struct pool *pool)
{
    json_t *object = allotment_to_json(&pool->a), *vms = json_array();
    double cpu = 0;
    uint64_t memory = 0;
    for (const struct tenant *t = pools->tenants; t; t = t->next) {
        if (!pool_within(t->pool, pool))
            continue;
        cpu += t->use.used;
        memory += t->use.memory_guest;
        if (t->pool == pool)
            json_array_append_new(vms, describe_tenant(t));
    }
    json_object_set_new(object, "pool", json_string(shown_name(pool)));
    if (pool->parent)
        json_object_set_new(object, "parent", json_string(shown_name(pool->parent)));
    json_object_set_new(object, "depth", json_integer(pool_depth(pool)));
    json_object_set_new(object, "cpu_used", json_integer((json_int_t)cpu));
    json_object_set_new(object, "memory_used", json_integer((json_int_t)memory));
    json_object_set_new(object, "vms", vms);
    return object;
}

// A pool stands before its parts.
static void add_pools(const struct pools *pools, const struct pool *parent, json_t *list)
{
    json_array_append_new(list, describe(pools, parent));
    for (const struct pool *p = pools->list; p; p = p->next) {
        if (p->parent == parent)
            add_pools(pools, p, list);
    }
}

err_t pool_ls_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct pools *pools = pools_of(context);
    json_t *list = json_array();
    for (struct managed *m = pools->manager->vms; m; m = m->next)
        (void)pools_tenant(pools, m);
    add_pools(pools, &pools->root, list);
    json_object_set_new(reply->result, "pools", list);
    json_object_set_new(reply->result, "host",
                        json_pack("{s:I, s:I, s:b}", "cpu", (json_int_t)pools->host[RES_CPU],
                                  "memory", (json_int_t)pools->host[RES_MEMORY], "control_groups",
                                  coordinator_has_groups(pools->manager->coordinator)));
    return OK;
}

// --- changes

static void give(struct reply *reply, json_t *object)
{
    json_object_update(reply->result, object);
    json_decref(object);
}

static err_t try_pool(struct pools *pools, struct pool *pool, struct pool *parent,
                      const json_t *args, struct error *e)
{
    struct allotment before = pool->a;
    struct pool *was_in = pool->parent;
    if (pool != &pools->root)
        pool->parent = parent;
    allotment_take(&pool->a, args);
    err_t err = allotment_check(shown_name(pool), &pool->a, NULL, e);
    if (!err)
        err = pools_admit(pools, e);
    if (!err)
        err = pool_save(pools, pool, e);
    if (err) {
        pool->a = before;
        pool->parent = was_in;
    }
    return err;
}

err_t pool_set_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct pools *pools = pools_of(context);
    struct pool *pool, *parent;
    err_t err = find(pools, request_text(args, "pool", ""), &pool, e);
    if (!err)
        err = find_parent(pools, args, pool, &parent, e);
    if (!err)
        err = try_pool(pools, pool, parent, args, e);
    if (err)
        return err;
    coordinator_changed(pools->manager->coordinator);
    manager_tell(pools->manager, NULL,
                 json_pack("{s:s, s:s}", "event", "pool-set", "pool", shown_name(pool)), true);
    give(reply, describe(pools, pool));
    return OK;
}

err_t pool_create_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct pools *pools = pools_of(context);
    const char *name = request_text(args, "pool", "");
    struct pool *parent, *other;
    if (!vm_name_valid(name))
        return error_set(e, ERR_INVALID, "'%.64s' is no name of a pool; " VM_NAME_RULE, name);
    if (!find(pools, name, &other, NULL))
        return error_set(e, ERR_EXISTS, "there is a pool '%s' already; berth pool set changes it",
                         name);
    struct pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return error_set(e, ERR_NO_MEMORY, "no memory for a pool");
    snprintf(pool->name, sizeof pool->name, "%s", name);
    pool->parent = &pools->root;
    pools_insert(pools, pool);
    err_t err = find_parent(pools, args, pool, &parent, e);
    if (!err)
        err = try_pool(pools, pool, parent, args, e);
    if (err) {
        pools_take_out(pools, pool);
        free(pool);
        return err;
    }
    manager_tell(pools->manager, NULL,
                 json_pack("{s:s, s:s}", "event", "pool-created", "pool", name), true);
    give(reply, describe(pools, pool));
    return OK;
}

static err_t check_empty(const struct pools *pools, const struct pool *pool, struct error *e)
{
    if (!pool->parent)
        return error_set(e, ERR_INVALID, "the host is no pool that could be removed");
    for (const struct pool *p = pools->list; p; p = p->next) {
        if (p->parent == pool)
            return error_set(e, ERR_BUSY, "pool %s has pool %s in it; remove that first",
                             pool->name, p->name);
    }
    for (const struct tenant *t = pools->tenants; t; t = t->next) {
        if (t->pool == pool)
            return error_set(e, ERR_BUSY,
                             "pool %s has VM %s in it; berth limit %s --pool host takes it out",
                             pool->name, t->vm->name, t->vm->name);
    }
    return OK;
}

err_t pool_rm_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct pools *pools = pools_of(context);
    struct pool *pool;
    err_t err = find(pools, request_text(args, "pool", ""), &pool, e);
    if (!err)
        err = check_empty(pools, pool, e);
    if (!err)
        err = db_run(pools->manager->db, e, "DELETE FROM pool WHERE name = ?", "s", pool->name);
    if (err)
        return err;
    manager_tell(pools->manager, NULL,
                 json_pack("{s:s, s:s}", "event", "pool-removed", "pool", pool->name), true);
    pools_take_out(pools, pool);
    free(pool);
    return OK;
}

// --- a VM

static err_t try_tenant(struct pools *pools, struct tenant *t, struct pool *pool,
                        const json_t *args, struct error *e)
{
    struct allotment before = t->a;
    struct pool *was_in = t->pool;
    t->pool = pool;
    allotment_take(&t->a, args);
    err_t err = allotment_check(t->vm->name, &t->a, t->vm, e);
    if (!err)
        err = pools_admit(pools, e);
    if (!err)
        err = tenant_save(pools, t, e);
    if (err) {
        t->a = before;
        t->pool = was_in;
    }
    return err;
}

err_t share_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct pools *pools = pools_of(context);
    struct managed *m;
    err_t err = managed_find(context, request_text(args, "vm", ""), &m, e);
    struct tenant *t = err ? NULL : pools_tenant(pools, m);
    if (!err && !t)
        err = error_set(e, ERR_NO_MEMORY, "no memory for a VM's place");
    if (err)
        return err;
    struct pool *pool = t->pool;
    const char *name = request_text(args, "pool", NULL);
    if (name)
        err = find(pools, name, &pool, e);
    if (!err && json_object_size(args) > 1)
        err = try_tenant(pools, t, pool, args, e);
    if (err)
        return err;
    if (json_object_size(args) > 1)
        coordinator_changed(pools->manager->coordinator);
    give(reply, describe_tenant(t));
    return OK;
}
