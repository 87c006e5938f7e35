#include "machine/pvclock.h"

#include "base/bytes.h"
#include "machine/vm_impl.h"

#define TIME_ENABLE 1
#define TIME_BYTES 32
#define WALL_BYTES 12
#define FLAG_TSC_STABLE 1
#define STEAL_RESERVED 0x3e

static const struct state_field pvclock_fields[] = {
    FIELD(struct pvclock, wall_clock), ARRAY(struct pvclock, system_time),
    ARRAY_SINCE(struct pvclock, unhalted, 2), ARRAY_SINCE(struct pvclock, steal_time, 3),
    FIELDS_END};
const struct state_desc pvclock_state = STATE_DESC("pvclock", struct pvclock, 3, pvclock_fields);

// ns = (ticks << shift) * mul >> 32, with as many bits in mul as fit.
static void scale(uint64_t tsc_khz, uint32_t *mul, int8_t *shift)
{
    *shift = 0;
    while (((unsigned __int128)1000000 << 32) / tsc_khz > UINT32_MAX) {
        tsc_khz *= 2;
        ++*shift;
    }
    while (((unsigned __int128)1000000 << 32) / tsc_khz <= UINT32_MAX / 2) {
        tsc_khz /= 2;
        --*shift;
    }
    *mul = (uint32_t)(((unsigned __int128)1000000 << 32) / tsc_khz);
}

static void write_time(struct vm *vm, gpa_t at)
{
    uint8_t page[TIME_BYTES] = {0};
    uint32_t mul;
    int8_t shift;
    scale(vm->clock.tsc_khz, &mul, &shift);
    store_le32(page, 2); // version: even, not zero
    store_le32(page + 24, mul);
    page[28] = (uint8_t)shift;
    page[29] = FLAG_TSC_STABLE;
    (void)!memory_write(&vm->memory, at, page, sizeof page);
}

static void write_wall(struct vm *vm, gpa_t at)
{
    uint8_t wall[WALL_BYTES] = {0};
    store_le32(wall, 2);
    store_le32(wall + 4, (uint32_t)((uint64_t)vm->clock.wall_base / NS_PER_SEC));
    store_le32(wall + 8, (uint32_t)((uint64_t)vm->clock.wall_base % NS_PER_SEC));
    (void)!memory_write(&vm->memory, at, wall, sizeof wall);
}

err_t pvclock_msr_read(struct vm *vm, unsigned vcpu, uint32_t msr, uint64_t *value)
{
    switch (msr) {
    case MSR_KVM_WALL_CLOCK: *value = vm->pvclock.wall_clock; return OK;
    case MSR_KVM_SYSTEM_TIME: *value = vm->pvclock.system_time[vcpu]; return OK;
    case MSR_KVM_STEAL_TIME: *value = vm->pvclock.steal_time[vcpu]; return OK;
    default: return ERR_NOT_FOUND;
    }
}

err_t pvclock_msr_write(struct vm *vm, unsigned vcpu, uint32_t msr, uint64_t value)
{
    switch (msr) {
    case MSR_KVM_WALL_CLOCK:
        vm->pvclock.wall_clock = value;
        write_wall(vm, value);
        return OK;
    case MSR_KVM_SYSTEM_TIME:
        vm->pvclock.system_time[vcpu] = value;
        if (value & TIME_ENABLE)
            write_time(vm, value & ~(uint64_t)TIME_ENABLE);
        return OK;
    case MSR_KVM_STEAL_TIME:
        if (value & STEAL_RESERVED)
            return ERR_INVALID;
        vm->pvclock.steal_time[vcpu] = value;
        steal_changed(&vm->vcpu[vcpu]);
        return OK;
    default: return ERR_NOT_FOUND;
    }
}
