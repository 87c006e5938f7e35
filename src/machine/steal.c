#include "machine/steal.h"

#include "base/bits.h"
#include "base/bytes.h"
#include "host/clock.h"
#include "machine/vm_impl.h"

#define ENABLE 1
#define ADDRESS (~(uint64_t)0x3f)
#define VERSION_AT 8
#define PREEMPTED_AT 16
#define PREEMPTED 1
#define FLUSH_TLB 2
#define LOOK_NS (2 * NS_PER_MS) // a guest's tick is longer

static uint64_t msr_of(const struct vcpu *v)
{
    return v->vm->pvclock.steal_time[v->index];
}

// CPU time of its thread and of what works in its stead.
static uint64_t had(const struct vcpu *v)
{
    const struct engine *engine = v->vm->engine;
    return host_thread_cpu_now() + (engine->cpu_elsewhere ? engine->cpu_elsewhere(v->engine) : 0);
}

// Since the thread began. Never exactly the same clock: now and then a little less than before.
static uint64_t stolen(const struct vcpu *v, uint64_t now)
{
    uint64_t not_stolen = v->steal.rested + had(v), been = now - v->steal.began;
    if (v->steal.engine)
        return vcpu_held(v);
    return been > not_stolen ? been - not_stolen : 0;
}

// The count is the guest's to keep, as it goes with its memory from host to host.
static void add(struct vcpu *v, uint64_t ns)
{
    const struct memory *memory = &v->vm->memory;
    gpa_t at = msr_of(v) & ADDRESS;
    uint8_t record[12], version[4];
    if (memory_read(memory, at, record, sizeof record))
        return;
    uint32_t even = load_le32(record + VERSION_AT) & ~1u;
    store_le32(version, even + 1); // is being written
    (void)!memory_write(memory, at + VERSION_AT, version, sizeof version);
    store_le64(record, load_le64(record) + ns);
    (void)!memory_write(memory, at, record, 8);
    store_le32(version, even + 2);
    (void)!memory_write(memory, at + VERSION_AT, version, sizeof version);
}

void steal_begin(struct vcpu *v)
{
    v->steal = (struct steal){.began = host_now() - had(v)};
}

void steal_rested(struct vcpu *v, uint64_t ns)
{
    v->steal.rested += ns;
}

static uint8_t *preempted_of(const struct vcpu *v, gpa_t *at)
{
    *at = (msr_of(v) & ADDRESS) + PREEMPTED_AT;
    if (!(msr_of(v) & ENABLE) || v->steal.engine || !v->vm->engine->flush_tlb)
        return NULL;
    return memory_map(&v->vm->memory, *at, 1);
}

void steal_away(struct vcpu *v)
{
    gpa_t at;
    uint8_t *preempted = preempted_of(v, &at);
    if (!preempted)
        return;
    __atomic_fetch_or(preempted, PREEMPTED, __ATOMIC_SEQ_CST);
    memory_changed(&v->vm->memory, at, 1);
}

void steal_back(struct vcpu *v)
{
    gpa_t at;
    uint8_t *preempted = preempted_of(v, &at);
    if (!preempted || !__atomic_load_n(preempted, __ATOMIC_SEQ_CST))
        return;
    if (__atomic_exchange_n(preempted, 0, __ATOMIC_SEQ_CST) & FLUSH_TLB)
        v->vm->engine->flush_tlb(v->engine);
    memory_changed(&v->vm->memory, at, 1);
}

void steal_changed(struct vcpu *v)
{
    const struct engine *engine = v->vm->engine;
    v->steal.engine = engine->steal_time && engine->steal_time(v->engine, msr_of(v));
    v->steal.told = stolen(v, host_now());
    steal_back(v); // where the state comes from, it may have been away
}

void steal_look(struct vcpu *v)
{
    if (!(msr_of(v) & ENABLE))
        return;
    uint64_t now = host_now();
    if (now - v->steal.at < LOOK_NS)
        return;
    uint64_t all = stolen(v, now);
    v->steal.at = now;
    if (all <= v->steal.told)
        return;
    add(v, all - v->steal.told);
    v->steal.told = all;
}
