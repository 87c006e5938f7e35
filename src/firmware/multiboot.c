// Multiboot 1 images (Multiboot Specification 0.6.96): ELF32 files, and flat files whose header
// gives the addresses. Not modelled: video modes (an image that insists on one is refused), symbol
// tables, drive and APM information.

#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/layout.h"
#include "firmware/loader_impl.h"

#define HEADER_MAGIC 0x1badb002u
#define LOADER_MAGIC 0x2badb002u
#define SEARCH_BYTES 8192
#define WANTS_KNOWN (BIT(0) | BIT(1)) // page-aligned modules, memory information
#define WANTS_ADDRESSES BIT(16)

#define INFO_BYTES 120
#define INFO_MEMORY BIT(0)
#define INFO_CMDLINE BIT(2)
#define INFO_MODULES BIT(3)
#define INFO_MMAP BIT(6)
#define INFO_LOADER BIT(9)

#define MMAP_BYTES 24
#define MMAP_AT BOOT_LISTS
#define MODULE_AT (BOOT_LISTS + 0x1000)
#define NAME_AT (BOOT_LISTS + 0x2000)

// Where the header is in the file; false when there is none.
static bool find_header(const struct boot_request *rq, size_t *at)
{
    for (*at = 0; *at + 12 <= rq->kernel_len && *at + 12 <= SEARCH_BYTES; *at += 4) {
        const uint8_t *p = rq->kernel + *at;
        if (load_le32(p) == HEADER_MAGIC &&
            load_le32(p) + load_le32(p + 4) + load_le32(p + 8) == 0) {
            return true;
        }
    }
    return false;
}

// A 64-bit ELF file that also has the PVH note is started by that: multiboot would refuse it.
bool multiboot_is(const struct boot_request *rq)
{
    size_t at;
    return find_header(rq, &at) &&
           ((load_le32(rq->kernel + at + 4) & WANTS_ADDRESSES) ||
            !elf_is(rq->kernel, rq->kernel_len) || rq->kernel[4] == 1 || !pvh_is(rq));
}

// The header's own address fields: one contiguous load and a zeroed tail.
static err_t load_flat(struct loading *l, size_t at)
{
    const uint8_t *p = l->rq->kernel + at;
    if (at + 32 > l->rq->kernel_len) {
        return error_set(l->e, ERR_CORRUPT, "the file ends inside its multiboot header");
    }
    uint64_t header = load_le32(p + 12), load = load_le32(p + 16), load_end = load_le32(p + 20),
             bss_end = load_le32(p + 24);
    if (header < load || header - load > at) {
        return error_set(l->e, ERR_CORRUPT, "its multiboot load address does not fit its header");
    }
    uint64_t offset = at - (header - load), len = l->rq->kernel_len - offset;
    if (load_end && (load_end < load || load_end - load > len)) {
        return error_set(l->e, ERR_CORRUPT, "the file is shorter than its multiboot header says");
    }
    len = load_end ? load_end - load : len;
    uint64_t total = bss_end ? bss_end - load : len;
    if (bss_end && (bss_end < load || total < len)) {
        return error_set(l->e, ERR_CORRUPT, "its multiboot addresses are out of order");
    }
    l->result.entry = load_le32(p + 28);
    return place_segment(l, "the image", load, l->rq->kernel + offset, len, total);
}

static err_t load_image(struct loading *l)
{
    size_t at = 0;
    struct elf_image image;
    (void)find_header(l->rq, &at); // multiboot_is() has seen it
    uint32_t wants = load_le32(l->rq->kernel + at + 4);
    if ((wants & 0xffff) & ~WANTS_KNOWN) {
        return error_set(l->e, ERR_UNSUPPORTED,
                         "its multiboot header needs something that is not offered (flags %#x)",
                         wants & 0xffff);
    }
    if (wants & WANTS_ADDRESSES) {
        return load_flat(l, at);
    }
    err_t err = elf_open(l->rq->kernel, l->rq->kernel_len, &image, l->e);
    if (err == OK && (image.is64 || image.entry > UINT32_MAX)) {
        err = error_set(
            l->e, ERR_UNSUPPORTED,
            "it is a 64-bit ELF file, multiboot takes 32-bit ones; link it as elf32-i386");
    }
    if (err == OK) {
        l->result.entry = image.entry;
        err = place_elf(l, &image);
    }
    return err;
}

static err_t write_lists(struct loading *l)
{
    static const char loader_name[] = "Berth";
    uint8_t map[E820_MAX * MMAP_BYTES] = {0}, module[16] = {0};
    for (unsigned i = 0; i < l->map.count; i++) {
        uint8_t *p = map + MMAP_BYTES * i;
        store_le32(p, MMAP_BYTES - 4);
        store_le64(p + 4, l->map.entry[i].at);
        store_le64(p + 12, l->map.entry[i].len);
        store_le32(p + 20, l->map.entry[i].type);
    }
    store_le32(module, (uint32_t)l->result.initrd_at);
    store_le32(module + 4, (uint32_t)(l->result.initrd_at + l->rq->initrd_len));
    err_t err = place_bytes(l, MMAP_AT, map, sizeof map);
    if (err == OK) {
        err = place_bytes(l, MODULE_AT, module, sizeof module);
    }
    return err == OK ? place_bytes(l, NAME_AT, loader_name, sizeof loader_name) : err;
}

static err_t write_info(struct loading *l)
{
    uint8_t info[INFO_BYTES] = {0};
    bool module = l->result.initrd_at != 0;
    uint64_t flags = INFO_MEMORY | INFO_CMDLINE | INFO_MMAP | INFO_LOADER;
    store_le32(info, (uint32_t)(module ? flags | INFO_MODULES : flags));
    store_le32(info + 4, BOOT_EBDA / KIB);
    store_le32(info + 8, (uint32_t)((e820_low_ram_end(l->memory->ram_bytes) - BOOT_ACPI_SIZE -
                                     BOOT_BIOS_END) /
                                    KIB));
    store_le32(info + 16, BOOT_CMDLINE);
    store_le32(info + 20, module);
    store_le32(info + 24, MODULE_AT);
    store_le32(info + 44, l->map.count * MMAP_BYTES);
    store_le32(info + 48, MMAP_AT);
    store_le32(info + 64, NAME_AT);
    return place_bytes(l, BOOT_PARAMS, info, sizeof info);
}

err_t multiboot_load(struct loading *l)
{
    err_t err = load_image(l);
    if (err == OK) {
        err = place_initrd(l, UINT32_MAX);
    }
    if (err == OK) {
        err = place_cmdline(l, l->rq->name ? l->rq->name : "kernel", BOOT_CMDLINE_SIZE);
    }
    if (err == OK) {
        err = write_lists(l);
    }
    if (err == OK) {
        err = write_info(l);
    }
    if (err == OK) {
        err = entry_flat32(l, (uint32_t)l->result.entry);
    }
    l->s->gpr[RAX] = LOADER_MAGIC;
    l->s->gpr[RBX] = BOOT_PARAMS;
    l->result.format = "multiboot";
    return err;
}
