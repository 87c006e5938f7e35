// Reading ELF files whose every field may be wrong (System V ABI, chapters 4 and 5; x86 only).
#pragma once

#include "base/error.h"

#define ELF_PT_LOAD 1
#define ELF_PT_NOTE 4
#define ELF_SEGMENTS_MAX 64

struct elf_image {
    const uint8_t *data; // the caller's
    size_t len;
    uint64_t entry;
    uint64_t phoff;
    unsigned segments; // at most ELF_SEGMENTS_MAX
    bool is64;
};

struct elf_segment {
    uint32_t type;
    uint64_t vaddr;
    uint64_t paddr;
    uint64_t file_bytes;
    uint64_t memory_bytes; // at least file_bytes
    const uint8_t *bytes;  // file_bytes of them, inside the file
};

bool elf_is(const uint8_t *data, size_t len); // has the magic number

// Checks the file header and that the program headers lie inside the file.
err_t elf_open(const uint8_t *data, size_t len, struct elf_image *out, struct error *e);

// Segment i < image->segments, checked to lie inside the file and not to wrap in memory.
err_t elf_segment(const struct elf_image *image, unsigned i, struct elf_segment *out,
                  struct error *e);

// The descriptor of the first note with this name and type, or NULL. Malformed notes end the
// search.
const uint8_t *elf_note(const struct elf_image *image, const char *name, uint32_t type,
                        size_t *len);
