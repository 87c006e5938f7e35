// Pools and the VMs in them: the tree, its rows in the inventory, and admission control.
#include "manager/pools.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/memory.h"
#include "machine/config.h"
#include "manager/pools_impl.h"

const char *const resource_names[RESOURCES] = {"cpu", "memory", "disk", "iops", "net"};

// --- allotments as JSON: {"cpu_shares": 200, "memory_limit": 536870912}

static void allotment_init(struct allotment *a)
{
    *a = (struct allotment){0};
    for (int i = 0; i < RESOURCES; i++)
        a->shares[i] = SHARES_DEFAULT;
}

uint64_t *allotment_member(struct allotment *a, const char *name)
{
    for (int i = 0; i < RESOURCES; i++) {
        size_t len = strlen(resource_names[i]);
        if (strncmp(name, resource_names[i], len) || name[len] != '_')
            continue;
        if (!strcmp(name + len, "_shares"))
            return &a->shares[i];
        if (!strcmp(name + len, "_limit"))
            return &a->limit[i];
        if (!strcmp(name + len, "_reservation"))
            return &a->reservation[i];
    }
    return NULL;
}

void allotment_take(struct allotment *a, const json_t *object)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value)
    {
        uint64_t *member = allotment_member(a, name);
        if (member && json_is_integer(value) && json_integer_value(value) >= 0)
            *member = (uint64_t)json_integer_value(value);
    }
    for (int i = 0; i < RESOURCES; i++)
        a->shares[i] = a->shares[i] ? a->shares[i] : SHARES_DEFAULT;
}

json_t *allotment_to_json(const struct allotment *a)
{
    static const char *const tails[] = {"shares", "reservation", "limit"};
    json_t *object = json_object();
    for (int i = 0; i < RESOURCES; i++) {
        for (int k = 0; k < 3; k++) {
            char name[32];
            snprintf(name, sizeof name, "%s_%s", resource_names[i], tails[k]);
            const uint64_t *member = allotment_member((struct allotment *)a, name);
            if (member && *member)
                json_object_set_new(object, name, json_integer((json_int_t)*member));
        }
    }
    return object;
}

static struct allotment allotment_parse(const char *text)
{
    struct allotment a;
    json_t *object = json_loads(text, 0, NULL);
    allotment_init(&a);
    allotment_take(&a, object);
    json_decref(object);
    return a;
}

// --- admission

static uint64_t promised(const struct pools *pools, const struct pool *pool, enum resource what);

// What a pool takes of its parent's promises.
static uint64_t taken_by(const struct pools *pools, const struct pool *pool, enum resource what)
{
    return pool->a.reservation[what] ? pool->a.reservation[what] : promised(pools, pool, what);
}

// What the members of a pool were promised.
static uint64_t promised(const struct pools *pools, const struct pool *pool, enum resource what)
{
    uint64_t all = 0;
    for (const struct pool *p = pools->list; p; p = p->next)
        all += p->parent == pool ? taken_by(pools, p, what) : 0;
    for (const struct tenant *t = pools->tenants; t; t = t->next)
        all += t->pool == pool ? t->a.reservation[what] : 0;
    return all;
}

static void amount(enum resource what, uint64_t n, char out[32])
{
    if (what == RES_CPU)
        snprintf(out, 32, "%.2f CPUs", (double)n / 1000);
    else if (what == RES_NET)
        snprintf(out, 32, "%.2f Mbit/s", (double)n / 1e6);
    else if (what == RES_IOPS)
        snprintf(out, 32, "%llu operations/s", (unsigned long long)n);
    else
        snprintf(out, 32, "%.6g MiB%s", (double)n / MIB, what == RES_DISK ? "/s" : "");
}

static err_t check_pool(const struct pools *pools, const struct pool *pool, enum resource what,
                        struct error *e)
{
    bool root = pool == &pools->root;
    uint64_t all = promised(pools, pool, what), most = pool->a.reservation[what];
    if (root)
        most = pools->host[what];
    char wanted[32], there[32];
    amount(what, all, wanted);
    if (most && all > most) {
        amount(what, most, there);
        return error_set(e, ERR_BUSY,
                         "%s reservations would be oversold: %s%s has %s to promise, and %s would "
                         "be promised; lower a reservation (berth pool ls)",
                         resource_names[what], root ? "the host" : "pool ", pool->name, there,
                         wanted);
    }
    uint64_t limit = pool->a.limit[what], takes = root ? all : taken_by(pools, pool, what);
    if (!limit || takes <= limit)
        return OK;
    amount(what, limit, there);
    amount(what, takes, wanted);
    return error_set(e, ERR_BUSY,
                     "%s reservations would be oversold: pool %s is limited to %s, and %s would be "
                     "promised; raise its limit or lower a reservation",
                     resource_names[what], pool->name, there, wanted);
}

err_t pools_admit(const struct pools *pools, struct error *e)
{
    for (int i = RES_CPU; i < RESOURCES; i++) {
        err_t err = check_pool(pools, &pools->root, (enum resource)i, e);
        for (const struct pool *p = pools->list; !err && p; p = p->next)
            err = check_pool(pools, p, (enum resource)i, e);
        if (err)
            return err;
    }
    return OK;
}

static err_t check_fits(const char *name, enum resource what, uint64_t reservation, uint64_t most,
                        const char *why, struct error *e)
{
    char wanted[32], there[32];
    if (!most || reservation <= most)
        return OK;
    amount(what, reservation, wanted);
    amount(what, most, there);
    return error_set(e, ERR_INVALID, "%s: a reservation of %s is more than its %s of %s", name,
                     wanted, why, there);
}

err_t allotment_check(const char *name, const struct allotment *a, const struct managed *vm,
                      struct error *e)
{
    err_t err = OK;
    for (int i = 0; !err && i < RESOURCES; i++)
        err = check_fits(name, (enum resource)i, a->reservation[i], a->limit[i], "limit", e);
    if (!err && vm)
        err = check_fits(name, RES_CPU, a->reservation[RES_CPU], vm->vcpus * 1000ull, "vCPUs", e);
    if (!err && vm)
        err = check_fits(name, RES_MEMORY, a->reservation[RES_MEMORY], vm->memory_mib * MIB,
                         "memory", e);
    if (!err)
        err = vm_cpu_limit_check((uint32_t)min_u64(a->limit[RES_CPU], UINT32_MAX), e);
    return err;
}

// --- the tree

struct pool *pools_find(struct pools *pools, const char *name)
{
    if (!*name)
        return &pools->root;
    for (struct pool *p = pools->list; p; p = p->next) {
        if (!strcmp(p->name, name))
            return p;
    }
    return NULL;
}

unsigned pool_depth(const struct pool *pool)
{
    unsigned depth = 0;
    for (; pool->parent; pool = pool->parent)
        depth++;
    return depth;
}

bool pool_within(const struct pool *pool, const struct pool *ancestor)
{
    for (; pool; pool = pool->parent) {
        if (pool == ancestor)
            return true;
    }
    return false;
}

void pools_insert(struct pools *pools, struct pool *pool)
{
    struct pool **p = &pools->list;
    while (*p && strcmp((*p)->name, pool->name) < 0)
        p = &(*p)->next;
    pool->next = *p;
    *p = pool;
}

void pools_take_out(struct pools *pools, struct pool *pool)
{
    for (struct pool **p = &pools->list; *p; p = &(*p)->next) {
        if (*p == pool) {
            *p = pool->next;
            return;
        }
    }
}

struct tenant *pools_tenant(struct pools *pools, struct managed *vm)
{
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        if (t->vm == vm)
            return t;
    }
    struct tenant *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->vm = vm;
    t->pool = &pools->root;
    allotment_init(&t->a);
    t->next = pools->tenants;
    pools->tenants = t;
    return t;
}

void pools_forget(struct pools *pools, const struct managed *vm)
{
    for (struct tenant **p = pools ? &pools->tenants : NULL; p && *p; p = &(*p)->next) {
        if ((*p)->vm == vm) {
            struct tenant *t = *p;
            *p = t->next;
            free(t);
            return;
        }
    }
}

static void slice_from(struct slice *slice, const struct allotment *a, enum resource what)
{
    *slice = (struct slice){.shares = a->shares[what],
                            .reservation = a->reservation[what],
                            .limit = a->limit[what] ? a->limit[what] : SLICE_NO_LIMIT};
}

void pools_slices(struct pools *pools, enum resource what,
                  bool (*takes)(void *opaque, const struct tenant *t), void *opaque)
{
    slice_from(&pools->root.slice, &pools->root.a, what);
    for (struct pool *p = pools->list; p; p = p->next)
        slice_from(&p->slice, &p->a, what);
    for (struct pool *p = pools->list; p; p = p->next)
        slice_add(&p->parent->slice, &p->slice);
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        slice_from(&t->slice, &t->a, what);
        if (takes(opaque, t))
            slice_add(&t->pool->slice, &t->slice);
    }
}

// --- the inventory

err_t pool_save(struct pools *pools, const struct pool *pool, struct error *e)
{
    json_t *object = allotment_to_json(&pool->a);
    char *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (!text)
        return error_set(e, ERR_NO_MEMORY, "no memory for a pool");
    err_t err = db_run(pools->manager->db, e,
                       "INSERT INTO pool (name, parent, allotment) VALUES (?, ?, ?) ON CONFLICT "
                       "(name) DO UPDATE SET parent = excluded.parent, allotment = "
                       "excluded.allotment",
                       "sss", pool->name, pool->parent ? pool->parent->name : "", text);
    free(text);
    return err;
}

err_t tenant_save(struct pools *pools, const struct tenant *t, struct error *e)
{
    json_t *object = allotment_to_json(&t->a);
    char *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (!text)
        return error_set(e, ERR_NO_MEMORY, "no memory for a VM's place");
    err_t err = db_run(pools->manager->db, e,
                       "INSERT INTO tenant (vm, pool, allotment) VALUES (?, ?, ?) ON CONFLICT (vm) "
                       "DO UPDATE SET pool = excluded.pool, allotment = excluded.allotment",
                       "sss", t->vm->id, t->pool->name, text);
    free(text);
    return err;
}

struct loading {
    struct pools *pools;
    bool no_memory;
};

static void load_pool(void *opaque, sqlite3_stmt *row)
{
    struct loading *loading = opaque;
    struct pools *pools = loading->pools;
    const char *name = db_text(row, 0);
    struct pool *pool = *name ? calloc(1, sizeof *pool) : &pools->root;
    if (!pool) {
        loading->no_memory = true;
        return;
    }
    snprintf(pool->name, sizeof pool->name, "%s", name);
    pool->a = allotment_parse(db_text(row, 2));
    if (pool == &pools->root)
        return;
    pool->parent = &pools->root;
    pools_insert(pools, pool);
}

static void load_parent(void *opaque, sqlite3_stmt *row)
{
    struct loading *loading = opaque;
    struct pool *pool = pools_find(loading->pools, db_text(row, 0));
    struct pool *parent = pools_find(loading->pools, db_text(row, 1));
    if (pool && pool->parent && parent && !pool_within(parent, pool))
        pool->parent = parent;
}

static void load_tenant(void *opaque, sqlite3_stmt *row)
{
    struct loading *loading = opaque;
    struct managed *vm = loading->pools->manager->vms;
    while (vm && strcmp(vm->id, db_text(row, 0)))
        vm = vm->next;
    struct tenant *t = vm ? pools_tenant(loading->pools, vm) : NULL;
    struct pool *pool = pools_find(loading->pools, db_text(row, 1));
    if (!t)
        return;
    t->pool = pool ? pool : &loading->pools->root;
    t->a = allotment_parse(db_text(row, 2));
}

// CPUs that this process may use, and all memory: what can be promised.
static void look_at_host(struct pools *pools)
{
    struct host_memory memory;
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    (void)!sched_getaffinity(0, sizeof cpus, &cpus);
    host_memory_read(&memory);
    pools->host[RES_CPU] = (uint64_t)CPU_COUNT(&cpus) * 1000;
    pools->host[RES_MEMORY] = memory.total;
}

err_t pools_open(struct manager *manager, struct pools **out, struct error *e)
{
    struct pools *pools = calloc(1, sizeof *pools);
    struct loading loading = {pools, false};
    if (!pools)
        return error_set(e, ERR_NO_MEMORY, "no memory for pools");
    *out = pools;
    pools->manager = manager;
    allotment_init(&pools->root.a);
    look_at_host(pools);
    err_t err = db_each(manager->db, e, load_pool, &loading,
                        "SELECT name, parent, allotment FROM pool", "");
    if (!err)
        err = db_each(manager->db, e, load_parent, &loading, "SELECT name, parent FROM pool", "");
    if (!err)
        err = db_each(manager->db, e, load_tenant, &loading,
                      "SELECT vm, pool, allotment FROM tenant", "");
    if (!err && loading.no_memory)
        err = error_set(e, ERR_NO_MEMORY, "no memory for pools");
    return err;
}

void pools_close(struct pools *pools)
{
    if (!pools)
        return;
    while (pools->tenants)
        pools_forget(pools, pools->tenants->vm);
    while (pools->list) {
        struct pool *p = pools->list;
        pools->list = p->next;
        free(p);
    }
    free(pools);
}
