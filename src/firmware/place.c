// Copying what a kernel is made of to guest memory, at places that the file asks for and that are
// checked here: RAM of the memory map, below 4 GiB where the entry is 32-bit, outside the boot
// area.

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "firmware/layout.h"
#include "firmware/loader_impl.h"

err_t place_bytes(struct loading *l, gpa_t at, const void *data, uint64_t len)
{
    if (len && l->memory->write(l->memory->opaque, at, data, len) != OK) {
        return error_set(l->e, ERR_INVALID, "guest memory at %#" PRIx64 " cannot be written", at);
    }
    return OK;
}

err_t place_zeros(struct loading *l, gpa_t at, uint64_t len)
{
    static const uint8_t zeros[PAGE_SIZE];
    err_t err = OK;
    while (len && err == OK) {
        uint64_t chunk = min_u64(len, sizeof zeros);
        err = place_bytes(l, at, zeros, chunk);
        at += chunk;
        len -= chunk;
    }
    return err;
}

err_t place_check(struct loading *l, const char *what, gpa_t at, uint64_t len)
{
    if (!e820_is_ram(&l->map, at, len)) {
        return error_set(l->e, ERR_UNSUPPORTED,
                         "%s does not fit into memory at %#" PRIx64 "..%#" PRIx64
                         "; give the machine more than %llu MiB",
                         what, at, at + len, l->memory->ram_bytes / MIB);
    }
    if (ranges_overlap(at, len, BOOT_PARAMS, BOOT_AREA_END - BOOT_PARAMS)) {
        return error_set(l->e, ERR_UNSUPPORTED,
                         "%s would lie at %#" PRIx64 ", where boot information goes (%#llx..%#llx)",
                         what, at, BOOT_PARAMS, BOOT_AREA_END);
    }
    return OK;
}

static void grow_extent(struct boot_result *result, gpa_t at, uint64_t len)
{
    bool first = result->kernel_at == result->kernel_end;
    result->kernel_at = first ? at : min_u64(result->kernel_at, at);
    result->kernel_end = first ? at + len : max_u64(result->kernel_end, at + len);
}

err_t place_segment(struct loading *l, const char *what, gpa_t at, const uint8_t *bytes,
                    uint64_t file_bytes, uint64_t memory_bytes)
{
    err_t err = place_check(l, what, at, memory_bytes);
    if (err == OK) {
        err = place_bytes(l, at, bytes, file_bytes);
    }
    if (err == OK) {
        err = place_zeros(l, at + file_bytes, memory_bytes - file_bytes);
    }
    if (err == OK) {
        grow_extent(&l->result, at, memory_bytes);
    }
    return err;
}

err_t place_elf(struct loading *l, const struct elf_image *image)
{
    uint64_t total = 0; // bounds the work that a file with overlapping segments can ask for
    for (unsigned i = 0; i < image->segments; i++) {
        struct elf_segment segment;
        err_t err = elf_segment(image, i, &segment, l->e);
        if (err != OK) {
            return err;
        }
        if (segment.type != ELF_PT_LOAD || segment.memory_bytes == 0) {
            continue;
        }
        char what[32];
        snprintf(what, sizeof what, "ELF segment %u", i);
        if (!checked_add(total, segment.memory_bytes, &total) || total > l->memory->ram_bytes) {
            return error_set(l->e, ERR_UNSUPPORTED,
                             "its ELF segments need more memory than there is");
        }
        err = place_segment(l, what, segment.paddr, segment.bytes, segment.file_bytes,
                            segment.memory_bytes);
        if (err != OK) {
            return err;
        }
    }
    return total ? OK : error_set(l->e, ERR_CORRUPT, "it has no ELF segment to load");
}

err_t place_initrd(struct loading *l, gpa_t limit)
{
    uint64_t len = l->rq->initrd ? l->rq->initrd_len : 0;
    if (len == 0) {
        return OK;
    }
    limit = min_u64(limit, e820_low_ram_end(l->memory->ram_bytes) - BOOT_ACPI_SIZE);
    gpa_t floor = max_u64(align_up(l->result.kernel_end, PAGE_SIZE), BOOT_BIOS_END);
    if (len > limit || align_down(limit - len, PAGE_SIZE) < floor) {
        return error_set(l->e, ERR_UNSUPPORTED,
                         "the initrd (%llu MiB) does not fit above the kernel; "
                         "give the machine more than %llu MiB",
                         (len + MIB - 1) / MIB, l->memory->ram_bytes / MIB);
    }
    gpa_t at = align_down(limit - len, PAGE_SIZE);
    l->result.initrd_at = at;
    return place_bytes(l, at, l->rq->initrd, len);
}

err_t place_cmdline(struct loading *l, const char *prefix, uint64_t max)
{
    const char *cmdline = l->rq->cmdline ? l->rq->cmdline : "";
    uint64_t head = prefix ? strlen(prefix) : 0, space = prefix ? 1 : 0, tail = strlen(cmdline);
    max = min_u64(max, BOOT_CMDLINE_SIZE - 1);
    if (head + space + tail > max) {
        return error_set(l->e, ERR_INVALID,
                         "the command line has %" PRIu64 " characters, more than the %" PRIu64
                         " that this kernel takes; shorten it",
                         head + space + tail, max);
    }
    err_t err = place_bytes(l, BOOT_CMDLINE, prefix, head);
    if (err == OK) {
        err = place_bytes(l, BOOT_CMDLINE + head, " ", space);
    }
    if (err == OK) {
        err = place_bytes(l, BOOT_CMDLINE + head + space, cmdline, tail + 1);
    }
    return err;
}
