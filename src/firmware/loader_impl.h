// Inside the loader: what the formats share.
#pragma once

#include "firmware/elf.h"
#include "firmware/loader.h"

// One loading in progress.
struct loading {
    const struct boot_request *rq;
    const struct guest_memory *memory;
    struct e820_map map;
    struct boot_result result;
    struct cpu_state *s;
    struct error *e;
};

// Each format: does the file look like it, and loading it. load() writes errors without the file's
// name.
bool bzimage_is(const struct boot_request *rq);
err_t bzimage_load(struct loading *l);
bool multiboot_is(const struct boot_request *rq);
err_t multiboot_load(struct loading *l);
bool pvh_is(const struct boot_request *rq);
err_t pvh_load(struct loading *l);

// place.c: copying to checked places.

err_t place_bytes(struct loading *l, gpa_t at, const void *data, uint64_t len);
err_t place_zeros(struct loading *l, gpa_t at, uint64_t len);
// ERR_UNSUPPORTED unless a kernel may occupy [at, at + len): RAM, outside the boot area of
// layout.h.
err_t place_check(struct loading *l, const char *what, gpa_t at, uint64_t len);
// Copies bytes and zeroes the rest up to memory_bytes, after place_check; grows the kernel's
// extent.
err_t place_segment(struct loading *l, const char *what, gpa_t at, const uint8_t *bytes,
                    uint64_t file_bytes, uint64_t memory_bytes);
err_t place_elf(struct loading *l, const struct elf_image *image); // all PT_LOAD segments, by paddr
// The initrd, if any, as high as it fits below limit and the end of low RAM; sets result.initrd_at.
err_t place_initrd(struct loading *l, gpa_t limit);
// prefix (may be NULL), a space, and the command line, at BOOT_CMDLINE.
err_t place_cmdline(struct loading *l, const char *prefix, uint64_t max);

// entry.c: the processor's state at entry. Both write the descriptor table to BOOT_GDT.

#define ENTRY_CODE 0x10 // selectors
#define ENTRY_DATA 0x18
#define ENTRY_TSS 0x20
err_t entry_flat32(struct loading *l, uint32_t rip); // protected mode, paging off, flat segments
err_t entry_long64(struct loading *l, uint64_t rip); // long mode, 4 GiB mapped one to one
