// Recognises a kernel's format and hands it to the loader for it. A file that is none of them gets
// a guess at what it is, because the wrong file is the commonest mistake.

#include "firmware/loader.h"

#include <inttypes.h>
#include <string.h>

#include "device/platform.h"
#include "firmware/layout.h"
#include "firmware/loader_impl.h"

static const struct {
    bool (*is)(const struct boot_request *rq);
    err_t (*load)(struct loading *l);
} formats[] = {
    {bzimage_is, bzimage_load},
    {multiboot_is, multiboot_load},
    {pvh_is, pvh_load},
};

#define TAKES "--kernel takes a bzImage, a vmlinux with a PVH note or a multiboot image"

static bool starts(const struct boot_request *rq, size_t at, const char *magic, size_t len)
{
    return rq->kernel_len >= at + len && memcmp(rq->kernel + at, magic, len) == 0;
}

static const char *guess(const struct boot_request *rq)
{
    if (rq->kernel_len < 1024) {
        return rq->kernel_len ? "it is too short" : "it is empty";
    }
    if (elf_is(rq->kernel, rq->kernel_len)) {
        return "an ELF file with neither a PVH note nor a multiboot header";
    }
    if (starts(rq, 0, "\x1f\x8b", 2) ||
        starts(rq, 0,
               "\xfd"
               "7zXZ",
               5) ||
        starts(rq, 0, "\x28\xb5\x2f\xfd", 4)) {
        return "it is a compressed file; unpack it";
    }
    if (starts(rq, 0, "QFI\xfb", 4)) {
        return "it is a qcow2 disk image";
    }
    if (starts(rq, 0x8001, "CD001", 5)) {
        return "it is a CD image; give the kernel that is on it";
    }
    if (starts(rq, 0, "070701", 6)) {
        return "it is a cpio archive; use --initrd";
    }
    if (starts(rq, 0, "MZ", 2)) {
        return "an EFI program without the Linux boot header";
    }
    return "no format it could have is recognised";
}

static err_t check_request(const struct boot_request *rq, const struct guest_memory *memory,
                           struct error *e)
{
    uint64_t ram = memory->ram_bytes;
    if (ram < BOOT_RAM_MIN || ram > PC_LOW_RAM_MAX + PC_RAM_MAX || (ram & PAGE_MASK)) {
        return error_set(e, ERR_INVALID,
                         "a machine with %" PRIu64 " bytes of memory cannot be booted; "
                         "give it from %llu MiB to %llu GiB",
                         ram, BOOT_RAM_MIN / MIB, (PC_LOW_RAM_MAX + PC_RAM_MAX) / GIB);
    }
    return OK;
}

err_t loader_load(const struct boot_request *rq, const struct guest_memory *memory,
                  struct cpu_state *s, struct boot_result *out, struct error *e)
{
    const char *name = rq->name ? rq->name : "the kernel";
    err_t err = check_request(rq, memory, e);
    if (err != OK) {
        return err;
    }
    struct cpu_state entered = *s;
    struct loading l = {.rq = rq, .memory = memory, .s = &entered, .e = e};
    e820_build(memory->ram_bytes, &l.map);
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        if (!formats[i].is(rq)) {
            continue;
        }
        err = formats[i].load(&l);
        if (err != OK) {
            return e ? error_in(e, "%s cannot be started", name) : err;
        }
        *s = entered;
        *out = l.result;
        return OK;
    }
    return error_set(e, ERR_INVALID, "%s is not a kernel: %s; " TAKES, name, guess(rq));
}
