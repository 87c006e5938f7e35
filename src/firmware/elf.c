// Checked reading of 32- and 64-bit little-endian ELF executables for x86. Sections, symbols and
// relocations are not looked at: a loader needs program headers and notes only.

#include "firmware/elf.h"

#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"

enum { EM_386 = 3, EM_X86_64 = 62, ET_EXEC = 2, ET_DYN = 3 };

bool elf_is(const uint8_t *data, size_t len)
{
    return len >= 4 && memcmp(data, "\177ELF", 4) == 0;
}

err_t elf_open(const uint8_t *data, size_t len, struct elf_image *out, struct error *e)
{
    if (!elf_is(data, len) || len < 52 || (data[4] == 2 && len < 64)) {
        return error_set(e, ERR_CORRUPT, "the ELF header is cut off");
    }
    bool is64 = data[4] == 2;
    uint16_t type = load_le16(data + 16), machine = load_le16(data + 18);
    if (data[4] < 1 || data[4] > 2 || data[5] != 1 || (machine != EM_386 && machine != EM_X86_64)) {
        return error_set(e, ERR_UNSUPPORTED, "it is an ELF file for another processor");
    }
    if (type != ET_EXEC && type != ET_DYN) {
        return error_set(e, ERR_UNSUPPORTED, "it is an ELF file but not an executable");
    }
    *out = (struct elf_image){
        .data = data,
        .len = len,
        .entry = is64 ? load_le64(data + 24) : load_le32(data + 24),
        .phoff = is64 ? load_le64(data + 32) : load_le32(data + 28),
        .segments = load_le16(data + (is64 ? 56 : 44)),
        .is64 = is64,
    };
    unsigned header_bytes = is64 ? 56 : 32;
    if (load_le16(data + (is64 ? 54 : 42)) != header_bytes || out->segments > ELF_SEGMENTS_MAX) {
        return error_set(e, ERR_CORRUPT, "its ELF program header table is malformed");
    }
    if (!range_within(out->phoff, (uint64_t)out->segments * header_bytes, len)) {
        return error_set(e, ERR_CORRUPT, "the file ends inside its ELF program headers");
    }
    return OK;
}

static uint64_t parse_segment(const struct elf_image *image, unsigned i, struct elf_segment *out)
{
    const uint8_t *p = image->data + image->phoff + (uint64_t)i * (image->is64 ? 56 : 32);
    *out = (struct elf_segment){.type = load_le32(p)};
    if (image->is64) {
        out->vaddr = load_le64(p + 16);
        out->paddr = load_le64(p + 24);
        out->file_bytes = load_le64(p + 32);
        out->memory_bytes = load_le64(p + 40);
        return load_le64(p + 8);
    }
    out->vaddr = load_le32(p + 8);
    out->paddr = load_le32(p + 12);
    out->file_bytes = load_le32(p + 16);
    out->memory_bytes = load_le32(p + 20);
    return load_le32(p + 4);
}

err_t elf_segment(const struct elf_image *image, unsigned i, struct elf_segment *out,
                  struct error *e)
{
    uint64_t offset = parse_segment(image, i, out), end;
    if (!range_within(offset, out->file_bytes, image->len)) {
        return error_set(e, ERR_CORRUPT, "the file ends inside ELF segment %u", i);
    }
    if (out->type == ELF_PT_LOAD && (out->memory_bytes < out->file_bytes ||
                                     !checked_add(out->paddr, out->memory_bytes, &end))) {
        return error_set(e, ERR_CORRUPT, "ELF segment %u has a wrong size", i);
    }
    out->bytes = image->data + offset;
    return OK;
}

// Looks through one segment of notes: name size, descriptor size, type, both padded to 4 bytes.
static const uint8_t *find_note(const struct elf_segment *notes, const char *name, uint32_t type,
                                size_t *len)
{
    uint64_t at = 0, name_bytes = strlen(name) + 1;
    while (range_within(at, 12, notes->file_bytes)) {
        const uint8_t *p = notes->bytes + at;
        uint64_t namesz = load_le32(p), descsz = load_le32(p + 4);
        uint64_t desc = at + 12 + ((namesz + 3) & ~3ull);
        if (!range_within(desc, descsz, notes->file_bytes)) {
            return NULL;
        }
        if (load_le32(p + 8) == type && namesz == name_bytes &&
            memcmp(p + 12, name, name_bytes) == 0) {
            *len = descsz;
            return notes->bytes + desc;
        }
        at = desc + ((descsz + 3) & ~3ull);
    }
    return NULL;
}

const uint8_t *elf_note(const struct elf_image *image, const char *name, uint32_t type, size_t *len)
{
    for (unsigned i = 0; i < image->segments; i++) {
        struct elf_segment segment;
        if (elf_segment(image, i, &segment, NULL) != OK || segment.type != ELF_PT_NOTE) {
            continue;
        }
        const uint8_t *found = find_note(&segment, name, type, len);
        if (found) {
            return found;
        }
    }
    return NULL;
}
