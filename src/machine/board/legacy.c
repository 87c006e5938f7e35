// Memory from 0xc0000 to 0xfffff, which the host bridge's PAM registers turn into RAM, ROM or both:
// how firmware copies itself and option ROMs there and write-protects them.
//
// Specification: Intel 3 Series datasheet, PAM0 to PAM6. A range whose reads go to RAM and whose
// writes do not is RAM mapped read-only; where reads do not go to RAM, the last 128 KiB show the
// end of the firmware ROM, and the rest nothing.
#include <string.h>

#include "device/pci/q35.h"
#include "machine/board/pc_impl.h"

#define LEGACY 0xc0000ull
#define LEGACY_END 0x100000ull
#define LEGACY_RANGE (16 * KIB)
#define ROM_SHADOW (128 * KIB)

// What backs a range; NULL: nothing, accesses go to the bus.
static void *backing(struct vm *vm, gpa_t at, unsigned attributes, enum engine_map_flags *flags)
{
    const struct firmware *fw = &vm->board->firmware;
    bool reads = attributes & Q35_LEGACY_READ_RAM, writes = attributes & Q35_LEGACY_WRITE_RAM;
    *flags = reads && writes ? ENGINE_MAP_RAM : ENGINE_MAP_ROM;
    if (reads)
        return (uint8_t *)vm->ram + at;
    uint64_t from_end = LEGACY_END - at;
    return fw->rom && from_end <= ROM_SHADOW && from_end <= fw->rom_len
               ? fw->rom + fw->rom_len - from_end
               : NULL;
}

static err_t unmap_all(struct vm *vm, struct error *e)
{
    struct firmware *fw = &vm->board->firmware;
    while (fw->runs) {
        const struct legacy_run *run = &fw->run[fw->runs - 1];
        err_t err = vm->engine->unmap(vm->engine_vm, run->at, run->len, e);
        if (err)
            return err;
        fw->runs--;
    }
    return OK;
}

// One mapping for as many equal ranges as follow each other. Returns how many.
static unsigned map_run(struct vm *vm, const uint8_t *attributes, unsigned first, err_t *err,
                        struct error *e)
{
    struct firmware *fw = &vm->board->firmware;
    gpa_t at = LEGACY + first * LEGACY_RANGE;
    enum engine_map_flags flags, next_flags;
    uint8_t *host = backing(vm, at, attributes[first], &flags);
    unsigned n = 1;
    while (first + n < Q35_LEGACY_RANGES && attributes[first + n] == attributes[first] &&
           (uint8_t *)backing(vm, at + n * LEGACY_RANGE, attributes[first + n], &next_flags) ==
               (host ? host + n * LEGACY_RANGE : NULL))
        n++;
    if (host) {
        *err = vm->engine->map(vm->engine_vm, at, n * LEGACY_RANGE, host, flags, e);
        if (!*err)
            fw->run[fw->runs++] = (struct legacy_run){at, n * LEGACY_RANGE};
    }
    return n;
}

err_t legacy_apply(struct vm *vm, struct error *e)
{
    struct firmware *fw = &vm->board->firmware;
    uint8_t wanted[Q35_LEGACY_RANGES];
    device_lock(vm->board->host);
    q35_legacy_ranges(vm->board->host, wanted);
    device_unlock(vm->board->host);
    if (fw->mapped_once && !memcmp(wanted, fw->mapped, sizeof wanted))
        return OK;
    err_t err = unmap_all(vm, e);
    for (unsigned i = 0; !err && i < Q35_LEGACY_RANGES;)
        i += map_run(vm, wanted, i, &err, e);
    memcpy(fw->mapped, wanted, sizeof wanted);
    fw->mapped_once = !err;
    return err;
}
