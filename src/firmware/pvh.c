// ELF kernels with the PVH entry note (Xen's x86/HVM direct boot ABI, hvm_start_info version 1):
// Linux vmlinux and others. Entered in 32-bit protected mode with EBX pointing to the start info.

#include <string.h>

#include "base/bytes.h"
#include "firmware/layout.h"
#include "firmware/loader_impl.h"

#define NOTE_PHYS32_ENTRY 18
#define START_MAGIC 0x336ec578
#define START_BYTES 56
#define MEMMAP_BYTES 24
#define MODULE_BYTES 32
#define MEMMAP_AT BOOT_LISTS
#define MODULE_AT (BOOT_LISTS + 0x1000)

// The entry address, or false when the note is missing or malformed.
static bool entry_note(const struct elf_image *image, uint64_t *entry)
{
    size_t len = 0;
    const uint8_t *desc = elf_note(image, "Xen", NOTE_PHYS32_ENTRY, &len);
    if (!desc || (len != 4 && len != 8)) {
        return false;
    }
    *entry = load_le(desc, (unsigned)len);
    return *entry <= UINT32_MAX;
}

bool pvh_is(const struct boot_request *rq)
{
    struct elf_image image;
    uint64_t entry;
    // A broken header is reported by loading, not mistaken for another format.
    return elf_is(rq->kernel, rq->kernel_len) &&
           (elf_open(rq->kernel, rq->kernel_len, &image, NULL) != OK || entry_note(&image, &entry));
}

static err_t write_memmap(struct loading *l)
{
    uint8_t list[E820_MAX * MEMMAP_BYTES] = {0};
    for (unsigned i = 0; i < l->map.count; i++) {
        uint8_t *p = list + MEMMAP_BYTES * i;
        store_le64(p, l->map.entry[i].at);
        store_le64(p + 8, l->map.entry[i].len);
        store_le32(p + 16, l->map.entry[i].type);
    }
    return place_bytes(l, MEMMAP_AT, list, sizeof list);
}

static err_t write_start_info(struct loading *l)
{
    uint8_t info[START_BYTES] = {0}, module[MODULE_BYTES] = {0};
    store_le32(info, START_MAGIC);
    store_le32(info + 4, 1);
    store_le32(info + 12, l->result.initrd_at ? 1 : 0);
    store_le64(info + 16, l->result.initrd_at ? MODULE_AT : 0);
    store_le64(info + 24, BOOT_CMDLINE);
    store_le64(info + 32, l->rq->rsdp);
    store_le64(info + 40, MEMMAP_AT);
    store_le32(info + 48, l->map.count);
    store_le64(module, l->result.initrd_at);
    store_le64(module + 8, l->result.initrd_at ? l->rq->initrd_len : 0);
    err_t err = place_bytes(l, MODULE_AT, module, sizeof module);
    return err == OK ? place_bytes(l, BOOT_PARAMS, info, sizeof info) : err;
}

err_t pvh_load(struct loading *l)
{
    struct elf_image image;
    uint64_t entry;
    err_t err = elf_open(l->rq->kernel, l->rq->kernel_len, &image, l->e);
    if (err != OK) {
        return err;
    }
    if (!entry_note(&image, &entry)) {
        return error_set(l->e, ERR_UNSUPPORTED, "it has no PVH entry note");
    }
    err = place_elf(l, &image);
    if (err == OK) {
        err = place_initrd(l, UINT32_MAX);
    }
    if (err == OK) {
        err = place_cmdline(l, NULL, BOOT_CMDLINE_SIZE);
    }
    if (err == OK) {
        err = write_memmap(l);
    }
    if (err == OK) {
        err = write_start_info(l);
    }
    if (err == OK) {
        err = entry_flat32(l, (uint32_t)entry);
    }
    l->s->gpr[RBX] = BOOT_PARAMS;
    l->result.format = "ELF, PVH entry";
    l->result.entry = entry;
    return err;
}
