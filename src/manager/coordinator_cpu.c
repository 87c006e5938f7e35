// Dividing CPU time. VMs that may run on the same CPUs make a group, and its CPUs are divided among
// them by what each wants: what it uses, what it waits for, what it is held back.
//
// A VM that wants more than it is given is held to about that. How far each has come with what it
// was given is added up, and who is ahead is slowed down: so the parts are right on the average
// whatever else the host does with its CPUs, and nobody has to know how much of them is left.
//
// Not modelled: reservations that no subset of a group's CPUs could keep.
#include "manager/coordinator_impl.h"

#include "base/bits.h"
#include "host/clock.h"
#include "machine/config.h"

#define LEAD_NS (250 * NS_PER_MS) // who is so far ahead nearly stands
#define BUSY_MILLIS 50            // who uses less has no part in a division
#define BOOST 1.3                 // of what was given, for who is not ahead
#define SLOWEST 0.03
#define GRANT_MS 2000
#define TELL_AGAIN_NS (400 * NS_PER_MS)
#define WANTED_FALLS 0.7 // at most, a look
#define AT_BOUND 0.85    // of its bound: who uses so much may want any amount
#define BOUND_NEWS_PART 50
#define PROCESS_MEMORY (64 * MIB)
#define WEIGHT_UNKNOWN 500 // until it is busy with others
#define SLACK_PART 20      // of a limit is more than a VM that does little is thought to want

// --- looking

static bool is_bound(const struct tenant_use *u)
{
    return u->bound_told && u->bound_told != BOUND_UNKNOWN;
}

// 0: it goes freely.
static uint64_t held_to(const struct tenant_use *u)
{
    if (!is_bound(u))
        return u->granted;
    return u->granted ? min_u64(u->granted, u->bound_told) : u->bound_told;
}

// What it uses, was ready to use and was held back from. The kernel says how long a thread has
// waited only when it runs again, so who is ready now counts as if it always were.
static double wants(const struct tenant *t, const struct host_usage_threads *threads, double used,
                    double ns)
{
    const struct tenant_use *u = &t->use;
    double most = t->vm->vcpus * 1000.0, rate = (double)held_to(u);
    if (is_bound(u) && used > (double)u->bound_told * AT_BOUND)
        return most;
    double all = used + (double)(u->held_ns - u->held_then) * 1000 / ns;
    if (u->wait_ns && threads->wait_ns > u->wait_ns) // else it was not looked at before
        all += (double)(threads->wait_ns - u->wait_ns) * 1000 / ns;
    // Held back, it is not ready; what it said of that is as old as its last answer.
    bool held = rate > 0 && used > rate * 0.5;
    double now = held ? u->wanted : threads->runnable * 1000.0;
    return (all > now ? all : now) * 1.02 +
           (double)min_u64(BUSY_MILLIS, cpu_ceiling(t) / SLACK_PART);
}

static void look(struct tenant *t, uint64_t now)
{
    struct tenant_use *u = &t->use;
    struct host_usage_threads threads = {0};
    uint64_t cpu, at = u->at;
    u->group = -1;
    if (!u->pid || !host_usage_family_cpu(u->pid, &cpu)) {
        u->at = u->spent_ns = 0;
        u->used = u->wanted = 0;
        return;
    }
    double ns = at && now > at ? (double)(now - at) : 0;
    u->spent_ns = ns > 0 ? cpu - u->cpu_ns : 0;
    double used = ns > 0 ? (double)u->spent_ns * 1000 / ns : 0;
    bool busy = used >= BUSY_MILLIS || held_to(u);
    if (busy && host_usage_threads(u->pid, "vcpu", &threads)) {
        u->group = 0;
        u->cpus = threads.cpus;
    }
    if (u->ran_ns && threads.ran_ns >= u->ran_ns && ns > 0) // without what its limits cost
        used = (double)(threads.ran_ns - u->ran_ns) * 1000 / ns;
    u->ran_ns = threads.ran_ns;
    double wanted = ns > 0 ? wants(t, &threads, used, ns) : 0, most = t->vm->vcpus * 1000.0;
    u->wanted = u->wanted * WANTED_FALLS > wanted ? u->wanted * WANTED_FALLS : wanted;
    u->wanted = u->wanted < most ? u->wanted : most;
    u->used = used;
    u->held_then = u->held_ns;
    u->wait_ns = threads.wait_ns;
    u->cpu_ns = cpu;
    u->at = now;
}

// --- groups of VMs with CPUs in common

static int grow_group(struct pools *pools, int group, cpu_set_t *cpus)
{
    cpu_set_t both;
    int added = 0;
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        if (t->use.group)
            continue;
        CPU_AND(&both, cpus, &t->use.cpus);
        if (!CPU_COUNT(&both))
            continue;
        CPU_OR(cpus, cpus, &t->use.cpus);
        t->use.group = group;
        added++;
    }
    return added;
}

static struct tenant *first_alone(struct pools *pools)
{
    struct tenant *t = pools->tenants;
    while (t && t->use.group)
        t = t->next;
    return t;
}

struct group {
    int number; // from 1
    cpu_set_t cpus;
};

static bool find_group(struct pools *pools, int number, struct group *out)
{
    const struct tenant *first = first_alone(pools);
    if (!first)
        return false;
    *out = (struct group){.number = number, .cpus = first->use.cpus};
    while (grow_group(pools, number, &out->cpus)) {
    }
    return true;
}

// --- dividing

static bool is_in(void *opaque, const struct tenant *t)
{
    const struct group *group = opaque;
    return t->use.group == group->number;
}

// What it wants of what its bound leaves it.
static uint64_t demand_of(const struct tenant_use *u)
{
    uint64_t wanted = (uint64_t)u->wanted;
    return u->bound ? min_u64(wanted, u->bound) : wanted;
}

// Limits of pools are in the bounds, which hold for all groups together.
static void make_slices(struct pools *pools, struct group *group, bool all)
{
    pools_slices(pools, RES_CPU, is_in, group);
    for (struct pool *p = pools->list; p; p = p->next)
        p->slice.limit = SLICE_NO_LIMIT;
    pools->root.slice.limit = SLICE_NO_LIMIT;
    for (struct tenant *t = pools->tenants; t; t = t->next)
        t->slice.demand = all ? t->vm->vcpus * 1000ull : demand_of(&t->use);
}

static void divide_group(struct pools *pools, struct group *group)
{
    uint64_t cpus = (uint64_t)CPU_COUNT(&group->cpus) * 1000;
    make_slices(pools, group, true);
    divide(&pools->root.slice, cpus);
    for (struct tenant *t = pools->tenants; t; t = t->next)
        t->use.weight = is_in(group, t) ? t->slice.got : t->use.weight;
    make_slices(pools, group, false);
    divide(&pools->root.slice, cpus);
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        if (!is_in(group, t))
            continue;
        t->use.given = max_u64(t->slice.got, VM_CPU_LIMIT_MIN);
        t->use.short_of = (double)t->use.given < (double)demand_of(&t->use) * 0.97;
    }
}

// Where who has come least far stands; those that have just come in begin there, and nobody's lead
// grows without end.
static void level_progress(struct pools *pools, struct group *group, uint64_t ns)
{
    double least = 0;
    bool any = false;
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        struct tenant_use *u = &t->use;
        if (!is_in(group, t) || !u->short_of || !u->granted)
            continue;
        u->progress += u->used / (double)u->given * (double)ns;
        least = any && least < u->progress ? least : u->progress;
        any = true;
    }
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        struct tenant_use *u = &t->use;
        if (!is_in(group, t))
            continue;
        u->progress = u->granted && u->short_of ? u->progress - least : 0;
        if (u->progress > 2.0 * LEAD_NS)
            u->progress = 2.0 * LEAD_NS;
    }
}

// --- telling

static void answered(void *opaque, json_t *result, const struct error *e)
{
    struct manager *manager = ((struct managed *)opaque)->manager;
    struct tenant *t = manager->pools ? pools_tenant(manager->pools, opaque) : NULL;
    double held = json_number_value(json_object_get(result, "held_seconds"));
    if (t) {
        t->use.asked = false;
        if (held * NS_PER_SEC > (double)t->use.held_ns && held < 1e9)
            t->use.held_ns = (uint64_t)(held * NS_PER_SEC);
    }
    json_decref(result);
}

// Being told costs a VM some of its time.
static bool is_news(const struct tenant_use *u, uint64_t millis)
{
    uint64_t off = millis > u->granted ? millis - u->granted : u->granted - millis;
    return !millis || off * 10 > u->granted || u->at - u->told_at >= TELL_AGAIN_NS;
}

static void tell_grant(struct tenant_use *u, uint64_t millis, json_t *args)
{
    if ((!millis && !u->granted) || !is_news(u, millis))
        return;
    u->told_at = u->at;
    if (!u->granted) // what it was held before is not of now
        u->held_then = u->held_ns;
    u->granted = millis;
    json_object_set_new(args, "grant", json_integer((json_int_t)millis));
    json_object_set_new(args, "grant_ms", json_integer(GRANT_MS));
}

// A limit is the VM's own to keep. The one of its definition stays until another is said.
static void tell_limit(struct tenant *t, json_t *args)
{
    uint64_t limit = t->a.limit[RES_CPU];
    if (limit == t->use.limit_told)
        return;
    t->use.limit_told = limit;
    json_object_set_new(args, "limit", json_integer((json_int_t)limit));
}

static void tell_bound(struct tenant_use *u, json_t *args)
{
    uint64_t off = u->bound > u->bound_told ? u->bound - u->bound_told : u->bound_told - u->bound;
    if (!off || (u->bound && off < u->bound_told / BOUND_NEWS_PART))
        return;
    u->bound_told = u->bound;
    json_object_set_new(args, "bound", json_integer((json_int_t)u->bound));
}

static void tell(struct tenant *t, uint64_t millis)
{
    struct tenant_use *u = &t->use;
    if (u->asked || !link_of(t))
        return;
    json_t *args = json_object();
    tell_limit(t, args);
    tell_bound(u, args);
    if (!u->in_group)
        tell_grant(u, millis, args);
    if (json_object_size(args))
        u->asked = !link_ask(link_of(t), "cpu", args, answered, t->vm, NULL);
    else
        json_decref(args);
}

// What is left over is for who is not ahead.
static uint64_t part_of(const struct tenant_use *u)
{
    double part = BOOST - u->progress / LEAD_NS;
    part = part < SLOWEST ? SLOWEST : part;
    return max_u64((uint64_t)(part * (double)u->given), VM_CPU_LIMIT_MIN);
}

// Weights alone would not keep the limit of a pool.
static uint64_t quota(const struct tenant *t)
{
    uint64_t limit = t->a.limit[RES_CPU], bound = t->use.bound;
    return limit && bound ? min_u64(limit, bound) : limit | bound;
}

// The balloon is asked; the kernel sees to it. A VM's own process needs some beside the guest's.
static void keep_memory(struct coordinator *c, struct tenant *t)
{
    uint64_t least = t->a.reservation[RES_MEMORY], most = t->a.limit[RES_MEMORY];
    least += least ? PROCESS_MEMORY : 0;
    most += most ? PROCESS_MEMORY : 0;
    if (t->use.group_least == least && t->use.group_most == most)
        return;
    t->use.group_least = least;
    t->use.group_most = most;
    groups_remember(c->groups, t->vm->id, least, most);
}

// Usually the group was its from the start, before it had others.
static bool join(struct coordinator *c, const struct tenant *t)
{
    pid_t family[HOST_USAGE_FAMILY_MAX];
    unsigned n = host_usage_family(t->use.pid, family, HOST_USAGE_FAMILY_MAX);
    bool in = groups_join(c->groups, t->vm->id, family[0]);
    for (unsigned i = 1; in && i < n; i++)
        groups_join(c->groups, t->vm->id, family[i]);
    return in;
}

static void carry_out(struct coordinator *c, struct tenant *t)
{
    struct tenant_use *u = &t->use;
    bool counts = u->group > 0;
    if (c->groups && !u->in_group)
        u->in_group = join(c, t);
    tell(t, counts && u->short_of ? part_of(u) : 0);
    if (!u->in_group)
        return;
    keep_memory(c, t);
    groups_weigh(c->groups, t->vm->id, u->weight ? u->weight : WEIGHT_UNKNOWN, quota(t));
}

bool coordinate_cpus(struct coordinator *c, uint64_t now)
{
    struct pools *pools = c->pools;
    struct group group;
    uint64_t ns = 0;
    bool any = false;
    double used = 0;
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        if (t->use.at)
            ns = now - t->use.at;
        look(t, now);
        used += t->use.used;
        t->use.short_of = t->use.short_of && t->use.group == 0;
    }
    any = coordinate_bounds(pools, ns);
    for (int n = 1; find_group(pools, n, &group); n++) {
        divide_group(pools, &group);
        level_progress(pools, &group, ns);
    }
    for (struct tenant *t = pools->tenants; t; t = t->next) {
        if (t->use.pid)
            carry_out(c, t);
        any |= t->use.short_of;
    }
    return any || used > (double)pools->host[RES_CPU] / 4;
}
