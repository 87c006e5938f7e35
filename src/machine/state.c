// The state of a whole machine without its RAM: one section for every vCPU, device and the clock.
// Format: docs/formats/state.md, "Machine".
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "device/irq/lapic.h"
#include "machine/vm_impl.h"

#define MAGIC 0x4d545342u // "BSTM"
#define SECTION_NAME 32
#define TSC_TOLERANCE 4000 // a 4000th, 250 parts in a million: what operating systems live with

static const struct state_field clock_fields[] = {
    FIELD_SINCE(struct clock, tsc_khz, 2),
    SKIP(struct clock, mult, "follows from tsc_khz"),
    SKIP(struct clock, base, "the host's TSC"),
    FIELD(struct clock, stopped),
    SKIP(struct clock, running, "only a paused machine is saved"),
    {.name = "pad",
     .why = "alignment",
     .offset = offsetof(struct clock, running) + 1,
     .size = 7,
     .count = 1,
     .kind = STATE_SKIP},
    FIELD(struct clock, wall_base),
    SKIP(struct clock, host_khz, "the host's"),
    SKIP(struct clock, ratio, "between this host's TSC and the guest's"),
    FIELDS_END};
static const struct state_desc clock_state = STATE_DESC("clock", struct clock, 2, clock_fields);

static void section(struct buffer *out, const char *name, const struct state_desc *desc,
                    const void *object)
{
    uint8_t head[SECTION_NAME + 4] = {0};
    snprintf((char *)head, SECTION_NAME, "%s", name);
    size_t start = out->len;
    buffer_append(out, head, sizeof head);
    state_save(desc, object, out);
    if (!out->failed)
        store_le32(out->data + start + SECTION_NAME, (uint32_t)(out->len - start - sizeof head));
}

static struct cpu_state *new_cpu_state(void)
{
    struct cpu_state *s = aligned_alloc(64, align_up(sizeof *s, 64));
    if (s)
        memset(s, 0, sizeof *s);
    return s;
}

void vm_state_save(struct vm *vm, struct buffer *out)
{
    uint8_t head[8];
    store_le32(head, MAGIC);
    store_le32(head + 4, 1);
    buffer_append(out, head, sizeof head);
    section(out, "clock", &clock_state, &vm->clock);
    section(out, "pvclock", &pvclock_state, &vm->pvclock);
    struct cpu_state *s = new_cpu_state();
    for (unsigned i = 0; i < vm->vcpus; i++) {
        char name[SECTION_NAME];
        if (!s) {
            out->failed = true;
            return;
        }
        snprintf(name, sizeof name, "vcpu%u", i);
        vm->engine->get(vm->vcpu[i].engine, ENGINE_ALL, s);
        section(out, name, &cpu_state_desc, s);
    }
    free(s);
    for (struct owned_device *o = vm->devices; o; o = o->next)
        if (o->dev->type->state)
            section(out, o->dev->id, o->dev->type->state, o->dev);
}

// Finds a section by name; *len is its length.
static const uint8_t *find(const uint8_t *data, size_t size, const char *name, size_t *len)
{
    size_t at = 8;
    while (range_within(at, SECTION_NAME + 4, size)) {
        size_t body = load_le32(data + at + SECTION_NAME);
        if (!range_within(at + SECTION_NAME + 4, body, size))
            return NULL;
        if (strncmp((const char *)data + at, name, SECTION_NAME) == 0) {
            *len = body;
            return data + at + SECTION_NAME + 4;
        }
        at += SECTION_NAME + 4 + body;
    }
    return NULL;
}

static err_t load_section(const uint8_t *data, size_t size, const char *name,
                          const struct state_desc *desc, void *object, struct error *e)
{
    size_t len;
    const uint8_t *at = find(data, size, name, &len);
    if (!at)
        return error_set(e, ERR_CORRUPT, "the stream has no section '%s'", name);
    return state_load(desc, object, at, len, e) ? error_in(e, "%s", name) : OK;
}

static err_t load_vcpu(struct vm *vm, struct vcpu *vcpu, const uint8_t *data, size_t len,
                       struct error *e)
{
    char name[SECTION_NAME];
    snprintf(name, sizeof name, "vcpu%u", vcpu->index);
    struct cpu_state *s = new_cpu_state();
    if (!s)
        return error_set(e, ERR_NO_MEMORY, "no memory for a vCPU's state");
    cpu_state_reset(s, vcpu->index == 0, vm->model_id);
    err_t err = load_section(data, len, name, &cpu_state_desc, s, e);
    if (!err)
        err = cpu_state_check(s, vm->host_xcr0, e);
    if (err) {
        free(s);
        return err;
    }
    free(vcpu->initial);
    vcpu->initial = s; // taken over by the vCPU's own thread
    return OK;
}

// Output lines and the router's counters of asserted sources follow from what the devices drive in
// loaded(): start from silence.
static void forget_lines(struct vm *vm)
{
    for (struct owned_device *o = vm->devices; o; o = o->next) {
        o->lines_up = 0;
        for (unsigned i = 0; i < o->dev->type->timers; i++)
            o->timer[i].when = NS_NEVER;
    }
    memset(vm->irq.asserted, 0, sizeof vm->irq.asserted);
    vm->irq.legacy = 0;
}

static err_t load_device(struct owned_device *o, const uint8_t *data, size_t len, struct error *e)
{
    const struct device_type *type = o->dev->type;
    device_lock(o->dev);
    err_t err = type->state ? load_section(data, len, o->dev->id, type->state, o->dev, e) : OK;
    if (!err && type->loaded && type->loaded(o->dev, e) != OK)
        err = error_in(e, "%s", o->dev->id);
    device_unlock(o->dev);
    return err;
}

static err_t scale_tsc(struct vm *vm, uint64_t there, uint64_t here, struct tsc_ratio *ratio,
                       struct error *e)
{
    err_t err = ERR_UNSUPPORTED;
    if (vm->engine->scale_tsc)
        err = vm->engine->scale_tsc(vm->engine_vm, there, ratio, e);
    else
        err = error_set(e, ERR_UNSUPPORTED, "engine %s cannot scale it", vm->engine->name);
    return err ? error_in(e, "the guest's TSC runs at %llu kHz, this host's at %llu kHz",
                          (unsigned long long)there, (unsigned long long)here)
               : OK;
}

// The guest's TSC and its virtual time keep the ratio that they had, which another measurement of
// the same frequency does not give exactly.
static err_t load_clock(struct vm *vm, const uint8_t *data, size_t len, struct error *e)
{
    struct clock *clock = &vm->clock;
    uint64_t here = clock->host_khz;
    err_t err = load_section(data, len, "clock", &clock_state, clock, e);
    if (err)
        return err;
    uint64_t there = clock->tsc_khz, apart = there > here ? there - here : here - there;
    struct tsc_ratio ratio = {0};
    if (!there)
        return error_set(e, ERR_CORRUPT, "the guest's TSC stands still");
    if (apart > here / TSC_TOLERANCE || clock->ratio.mult)
        err = scale_tsc(vm, there, here, &ratio, e);
    clock_set_frequency(clock, err ? here : there, &ratio);
    return err;
}

err_t vm_state_load(struct vm *vm, const void *data, size_t len, struct error *e)
{
    if (len < 8 || load_le32(data) != MAGIC)
        return error_set(e, ERR_CORRUPT, "not a machine's state");
    if (load_le32((const uint8_t *)data + 4) != 1)
        return error_set(e, ERR_UNSUPPORTED, "machine state of a newer version");
    err_t err = load_clock(vm, data, len, e);
    if (!err)
        err = load_section(data, len, "pvclock", &pvclock_state, &vm->pvclock, e);
    for (unsigned i = 0; !err && i < vm->vcpus; i++)
        err = load_vcpu(vm, &vm->vcpu[i], data, len, e);
    forget_lines(vm);
    for (struct owned_device *o = vm->devices; !err && o; o = o->next)
        err = load_device(o, data, len, e);
    if (!err)
        irq_follow_lines(&vm->irq);
    return err;
}
