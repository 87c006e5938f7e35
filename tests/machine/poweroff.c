// Soft off as a guest does it: PM1 control block from the FADT, sleep type from _S5 in the DSDT.

#include "guest.h"

static const u8 *find_rsdt(void)
{
    for (const u8 *p = (const u8 *)0xe0000; p < (const u8 *)0x100000; p += 16) {
        if (memcmp(p, "RSD PTR ", 8) == 0) {
            return (const u8 *)(word) * (const u32 *)(p + 16);
        }
    }
    return NULL;
}

static const u8 *find_fadt(void)
{
    const u8 *rsdt = find_rsdt();
    for (u32 i = 36; rsdt && i < *(const u32 *)(rsdt + 4); i += 4) {
        const u8 *table = (const u8 *)(word) * (const u32 *)(rsdt + i);
        if (memcmp(table, "FACP", 4) == 0) {
            return table;
        }
    }
    return NULL;
}

// Name (_S5, Package (n) { type, ... }): the first element, a small integer.
static int sleep_type(const u8 *dsdt)
{
    u32 len = *(const u32 *)(dsdt + 4);
    for (const u8 *p = dsdt + 36; p < dsdt + len - 12; p++) {
        if (memcmp(p, "_S5_\x12", 5) == 0) {
            p += 5;
            p += 1 + (*p >> 6); // package length
            p++;                // elements
            return *p == 0x0a ? p[1] : *p;
        }
    }
    return -1;
}

static void machine_switches_off(void)
{
    const u8 *fadt = find_fadt();
    CHECK(fadt);
    if (!fadt) {
        return;
    }
    int type = sleep_type((const u8 *)(word) * (const u32 *)(fadt + 40));
    CHECK(type >= 0);
    u16 port = (u16) * (const u32 *)(fadt + 64);
    u32 smi = *(const u32 *)(fadt + 48);
    if (!(inw(port) & 1) && smi) {
        outb((u16)smi, fadt[52]); // ACPI mode
    }
    CHECK(inw(port) & 1);
    print("# expect: poweroff\n");
    outw(port, (u16)((unsigned)type << 10 | 1u << 13));
    for (unsigned i = 0; i < 1000; i++) {
        delay_us(1000);
    }
    CHECK(!"it is off");
}

TESTS(TEST(machine_switches_off));
