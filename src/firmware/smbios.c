// SMBIOS 3.0 (DMTF DSP0134 3.0.0): BIOS, system, chassis, processor, memory array, one memory
// device and its address map, boot status. One socket with all processors as cores; no caches,
// slots, ports.

#include "firmware/smbios.h"

#include <string.h>

#include "base/bytes.h"
#include "device/platform.h"

#define TEXT_MAX 64

// Handles: type << 8.
#define HANDLE(type) ((uint16_t)((type) << 8))

// One structure being made: the formatted part, then its strings.
struct structure {
    uint8_t bytes[96];
    char text[4][TEXT_MAX + 1];
    uint8_t len;
    uint8_t texts;
};

static struct structure begin(uint8_t type, uint8_t len)
{
    struct structure s = {.len = len};
    s.bytes[0] = type;
    s.bytes[1] = len;
    store_le16(s.bytes + 2, HANDLE(type));
    return s;
}

// Adds a string (cut to TEXT_MAX, unprintable bytes replaced) and refers to it at offset `at`.
static void set_text(struct structure *s, unsigned at, const char *text)
{
    char *to = s->text[s->texts];
    size_t len = strnlen(text, TEXT_MAX);
    if (len == 0) {
        return;
    }
    for (size_t i = 0; i < len; i++) {
        to[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    }
    s->bytes[at] = ++s->texts;
}

static void finish(struct structure *s, struct buffer *out)
{
    buffer_append(out, s->bytes, s->len);
    for (unsigned i = 0; i < s->texts; i++) {
        buffer_append(out, s->text[i], strlen(s->text[i]) + 1);
    }
    buffer_append(out, "\0", s->texts ? 1 : 2);
}

static void bios(struct buffer *out)
{
    struct structure s = begin(0, 0x18);
    set_text(&s, 0x04, "Berth");
    set_text(&s, 0x05, BERTH_VERSION);
    store_le16(s.bytes + 0x06, 0xf000);
    set_text(&s, 0x08, "01/01/2026");
    store_le64(s.bytes + 0x0a, 1ull << 3);   // characteristics not given
    store_le16(s.bytes + 0x12, 1 | 1 << 12); // ACPI; a virtual machine
    memset(s.bytes + 0x14, 0xff, 4);         // releases: not given
    finish(&s, out);
}

// The UUID's first three fields are little-endian in SMBIOS.
static void put_uuid(uint8_t *to, const uint8_t uuid[16])
{
    store_le32(to, load_be32(uuid));
    store_le16(to + 4, load_be16(uuid + 4));
    store_le16(to + 6, load_be16(uuid + 6));
    memcpy(to + 8, uuid + 8, 8);
}

static void system_information(const struct smbios_config *config, struct buffer *out)
{
    struct structure s = begin(1, 0x1b);
    set_text(&s, 0x04, "Berth");
    set_text(&s, 0x05, config->product ? config->product : "pc");
    set_text(&s, 0x06, BERTH_VERSION);
    set_text(&s, 0x07, config->serial ? config->serial : "");
    put_uuid(s.bytes + 0x08, config->uuid);
    s.bytes[0x18] = 6; // woken by the power switch
    finish(&s, out);
}

static void chassis(struct buffer *out)
{
    struct structure s = begin(3, 0x15);
    set_text(&s, 0x04, "Berth");
    s.bytes[0x05] = 1;            // other
    memset(s.bytes + 0x09, 3, 3); // boot-up, power supply, thermal: safe
    s.bytes[0x0c] = 2;            // security: unknown
    finish(&s, out);
}

static void processor(const struct smbios_config *config, struct buffer *out)
{
    struct structure s = begin(4, 0x30);
    uint8_t few = config->cpus < 255 ? (uint8_t)config->cpus : 255;
    set_text(&s, 0x04, "CPU 0");
    s.bytes[0x05] = 3; // central processor
    s.bytes[0x06] = 1; // family: other
    set_text(&s, 0x07, "Berth");
    store_le16(s.bytes + 0x14, (uint16_t)config->cpu_mhz);
    store_le16(s.bytes + 0x16, (uint16_t)config->cpu_mhz);
    s.bytes[0x18] = 0x41;               // populated, enabled
    s.bytes[0x19] = 1;                  // upgrade: other
    memset(s.bytes + 0x1a, 0xff, 6);    // no cache structures
    memset(s.bytes + 0x23, few, 3);     // cores, enabled cores, threads
    store_le16(s.bytes + 0x26, 1 << 2); // 64-bit capable
    store_le16(s.bytes + 0x28, 1);
    store_le16(s.bytes + 0x2a, (uint16_t)config->cpus);
    store_le16(s.bytes + 0x2c, (uint16_t)config->cpus);
    store_le16(s.bytes + 0x2e, (uint16_t)config->cpus);
    finish(&s, out);
}

static void memory_array(uint64_t ram, struct buffer *out)
{
    struct structure s = begin(16, 0x17);
    s.bytes[0x04] = 1;                      // other location
    s.bytes[0x05] = 3;                      // system memory
    s.bytes[0x06] = 6;                      // multi-bit ECC
    store_le32(s.bytes + 0x07, 0x80000000); // capacity is in the 64-bit field
    store_le16(s.bytes + 0x0b, 0xfffe);     // no error structure
    store_le16(s.bytes + 0x0d, 1);
    store_le64(s.bytes + 0x0f, ram);
    finish(&s, out);
}

static void memory_device(uint64_t ram, struct buffer *out)
{
    struct structure s = begin(17, 0x28);
    uint64_t mib = ram / MIB;
    store_le16(s.bytes + 0x04, HANDLE(16));
    store_le16(s.bytes + 0x06, 0xfffe);
    store_le16(s.bytes + 0x08, 0xffff); // widths unknown
    store_le16(s.bytes + 0x0a, 0xffff);
    store_le16(s.bytes + 0x0c, (uint16_t)(mib < 0x7fff ? mib : 0x7fff));
    store_le32(s.bytes + 0x1c, (uint32_t)(mib < 0x7fff ? 0 : mib));
    s.bytes[0x0e] = 9; // DIMM
    set_text(&s, 0x10, "DIMM 0");
    s.bytes[0x12] = 7;                  // RAM
    store_le16(s.bytes + 0x13, 1 << 1); // other
    set_text(&s, 0x17, "Berth");
    finish(&s, out);
}

// Type 19: one range of the array. The extended addresses are used where kilobytes do not fit.
static void memory_range(unsigned n, gpa_t from, gpa_t to, struct buffer *out)
{
    struct structure s = begin(19, 0x1f);
    store_le16(s.bytes + 2, (uint16_t)(HANDLE(19) + n));
    if (to / KIB < UINT32_MAX) {
        store_le32(s.bytes + 0x04, (uint32_t)(from / KIB));
        store_le32(s.bytes + 0x08, (uint32_t)(to / KIB - 1));
    } else {
        store_le32(s.bytes + 0x04, UINT32_MAX);
        store_le32(s.bytes + 0x08, UINT32_MAX);
        store_le64(s.bytes + 0x0f, from);
        store_le64(s.bytes + 0x17, to - 1);
    }
    store_le16(s.bytes + 0x0c, HANDLE(16));
    s.bytes[0x0e] = 1; // one device wide
    finish(&s, out);
}

static void memory_map(uint64_t ram, struct buffer *out)
{
    memory_range(0, 0, ram < PC_LOW_RAM_MAX ? ram : PC_LOW_RAM_MAX, out);
    if (ram > PC_LOW_RAM_MAX) {
        memory_range(1, PC_HIGH_RAM, PC_HIGH_RAM + ram - PC_LOW_RAM_MAX, out);
    }
}

static void write_entry(gpa_t at, size_t len, uint8_t entry[SMBIOS_ENTRY_BYTES])
{
    memset(entry, 0, SMBIOS_ENTRY_BYTES);
    memcpy(entry, "_SM3_", 5);
    entry[6] = SMBIOS_ENTRY_BYTES;
    entry[7] = 3; // version 3.0
    entry[10] = 1;
    store_le32(entry + 12, (uint32_t)len);
    store_le64(entry + 16, at);
    uint8_t sum = 0;
    for (unsigned i = 0; i < SMBIOS_ENTRY_BYTES; i++) {
        sum = (uint8_t)(sum + entry[i]);
    }
    entry[5] = (uint8_t)-sum;
}

err_t smbios_build(const struct smbios_config *config, gpa_t at, struct buffer *out,
                   uint8_t entry[SMBIOS_ENTRY_BYTES], struct error *e)
{
    size_t start = out->len;
    bios(out);
    system_information(config, out);
    chassis(out);
    processor(config, out);
    memory_array(config->ram_bytes, out);
    memory_device(config->ram_bytes, out);
    memory_map(config->ram_bytes, out);
    struct structure boot = begin(32, 0x0b); // status 0: no errors
    finish(&boot, out);
    struct structure end = begin(127, 4);
    finish(&end, out);
    if (out->failed) {
        return error_set(e, ERR_NO_MEMORY, "no memory for SMBIOS tables");
    }
    write_entry(at, out->len - start, entry);
    return OK;
}
