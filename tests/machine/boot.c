// What a kernel is told when it starts, and whether it is true: command line, memory map, ACPI and
// SMBIOS tables.

#include "guest.h"

struct range {
    u64 at, len;
    u32 type;
};

// Entry i of the memory map; false at its end.
static bool memory_map(unsigned i, struct range *out)
{
    const u8 *info = (const u8 *)(word)boot_info;
    if (boot_magic == MULTIBOOT_MAGIC) {
        const u8 *p = (const u8 *)(word) * (const u32 *)(info + 48);
        const u8 *end = p + *(const u32 *)(info + 44);
        for (; p < end; p += *(const u32 *)p + 4) {
            if (i-- == 0) {
                *out = (struct range){*(const u64 *)(p + 4), *(const u64 *)(p + 12),
                                      *(const u32 *)(p + 20)};
                return true;
            }
        }
        return false;
    }
    if (i >= *(const u32 *)(info + 48)) {
        return false;
    }
    const u8 *p = (const u8 *)(word) * (const u64 *)(info + 40) + 24 * i;
    *out = (struct range){*(const u64 *)p, *(const u64 *)(p + 8), *(const u32 *)(p + 16)};
    return true;
}

static void loader_gives_its_magic_and_the_command_line(void)
{
    CHECK(boot_magic == MULTIBOOT_MAGIC || boot_magic == PVH_MAGIC);
    CHECK(boot_option("hello"));
    CHECK(!boot_option("hell"));
}

static void memory_map_is_sorted_and_has_low_and_high_ram(void)
{
    struct range r;
    u64 end = 0, ram = 0;
    bool low = false, reserved_bios = false;
    for (unsigned i = 0; memory_map(i, &r); i++) {
        CHECK(r.at >= end);
        end = r.at + r.len;
        ram += r.type == 1 ? r.len : 0;
        low |= r.type == 1 && r.at == 0;
        reserved_bios |= r.type != 1 && r.at <= 0xf0000 && end >= 0x100000;
    }
    CHECK(low);
    CHECK(reserved_bios);
    CHECK(ram > 16 << 20);
}

static void all_ram_of_the_map_holds_what_is_written(void)
{
    struct range r;
    for (unsigned i = 0; memory_map(i, &r); i++) {
        if (r.type != 1 || r.at < 0x100000 || r.at >= 0xc0000000) {
            continue;
        }
        volatile u64 *last = (volatile u64 *)(r.at + r.len - 8);
        *last = 0x0123456789abcdef;
        CHECK_EQ(*last, 0x0123456789abcdef);
    }
}

static u8 sum(const u8 *p, u32 len)
{
    u8 total = 0;
    for (u32 i = 0; i < len; i++) {
        total = (u8)(total + p[i]);
    }
    return total;
}

static const u8 *find(const char *magic, unsigned len)
{
    for (const u8 *p = (const u8 *)0xe0000; p < (const u8 *)0x100000; p += 16) {
        if (memcmp(p, magic, len) == 0) {
            return p;
        }
    }
    return NULL;
}

static void acpi_tables_are_found_and_sum_to_zero(void)
{
    const u8 *rsdp = find("RSD PTR ", 8);
    CHECK(rsdp);
    if (!rsdp) {
        return;
    }
    CHECK_EQ(sum(rsdp, 20), 0);
    const u8 *rsdt = (const u8 *)(word) * (const u32 *)(rsdp + 16);
    CHECK_EQ(memcmp(rsdt, "RSDT", 4), 0);
    u32 len = *(const u32 *)(rsdt + 4);
    CHECK_EQ(sum(rsdt, len), 0);
    unsigned known = 0;
    for (u32 i = 36; i < len; i += 4) {
        const u8 *table = (const u8 *)(word) * (const u32 *)(rsdt + i);
        CHECK_EQ(sum(table, *(const u32 *)(table + 4)), 0);
        known += memcmp(table, "FACP", 4) == 0 || memcmp(table, "APIC", 4) == 0;
    }
    CHECK_EQ(known, 2);
}

static void smbios_entry_is_found(void)
{
    const u8 *entry = find("_SM3_", 5);
    if (!entry) {
        test_skip("no SMBIOS 3 entry point");
        return;
    }
    CHECK_EQ(sum(entry, entry[6]), 0);
}

static void processor_starts_with_interrupts_off_and_cpuid_says_64_bit(void)
{
    word flags;
    __asm__ volatile("pushf; pop %0" : "=r"(flags));
    CHECK_EQ(flags & 0x200, 0);
    CHECK(cpuid(0x80000001, 0).edx & 1u << 29);
}

TESTS(TEST(loader_gives_its_magic_and_the_command_line),
      TEST(memory_map_is_sorted_and_has_low_and_high_ram),
      TEST(all_ram_of_the_map_holds_what_is_written), TEST(acpi_tables_are_found_and_sum_to_zero),
      TEST(smbios_entry_is_found),
      TEST(processor_starts_with_interrupts_off_and_cpuid_says_64_bit));
