// PCI configuration: both mechanisms show the same functions; registers that cannot be written, BAR
// sizes, capability lists that end.

#include "pci.h"

static u64 ecam;

static bool present(unsigned devfn)
{
    return (pci_read(devfn, 0) & 0xffff) != 0xffff;
}

static void host_bridge_and_lpc_are_there(void)
{
    CHECK_EQ(pci_read(0, 0), 0x29c08086);
    CHECK_EQ(pci_read(31 * 8, 0) & 0xffff, 0x8086);
    CHECK_EQ(pci_read(31 * 8, 8) >> 16, 0x0601);
}

static void ecam_agrees_with_mechanism_1(void)
{
    const u8 *mcfg = acpi_table("MCFG");
    CHECK(mcfg);
    if (!mcfg) {
        return;
    }
    ecam = *(const u64 *)(mcfg + 44);
    for (unsigned devfn = 0; devfn < 256; devfn++) {
        for (unsigned reg = 0; reg < 0x40; reg += 4) {
            if (read32(ecam + (devfn << 12) + reg) != pci_read(devfn, reg)) {
                CHECK_EQ(read32(ecam + (devfn << 12) + reg), pci_read(devfn, reg));
                return;
            }
        }
    }
}

static void absent_functions_read_all_ones(void)
{
    unsigned absent = 0;
    for (unsigned devfn = 8; devfn < 256 && !absent; devfn += 8) {
        absent = present(devfn) ? 0 : devfn;
    }
    CHECK(absent);
    CHECK_EQ(pci_read(absent, 0), 0xffffffff);
    CHECK_EQ(read32(ecam + (absent << 12)), 0xffffffff);
    CHECK_EQ(read32(ecam + (1u << 20)), 0xffffffff); // bus 1
    outl(0xcf8, 0);                                  // not enabled
    CHECK_EQ(inl(0xcfc), 0xffffffff);
}

static void narrow_accesses_show_parts_of_a_register(void)
{
    outl(0xcf8, 0x80000000);
    CHECK_EQ(inb(0xcfc), 0x86);
    CHECK_EQ(inb(0xcfd), 0x80);
    CHECK_EQ(inw(0xcfe), 0x29c0);
    CHECK_EQ(*(volatile u8 *)(ecam + 3), 0x29);
    CHECK_EQ(*(volatile u16 *)(ecam + 2), 0x29c0);
}

static void identity_cannot_be_written(void)
{
    pci_write(0, 0, 0);
    pci_write(0, 8, 0);
    CHECK_EQ(pci_read(0, 0), 0x29c08086);
    CHECK_EQ(pci_read(0, 8) >> 16, 0x0600);
}

static void bars_have_a_size_that_is_a_power_of_two(void)
{
    for (unsigned devfn = 0; devfn < 256; devfn++) {
        if (!present(devfn) || (pci_read(devfn, 0x0c) >> 16 & 0x7f)) {
            continue;
        }
        u32 command = pci_read(devfn, 4);
        pci_write16(devfn, 4, 0); // decoding off meanwhile
        for (unsigned bar = 0x10; bar < 0x28; bar += 4) {
            u32 old = pci_read(devfn, bar);
            pci_write(devfn, bar, 0xffffffff);
            u32 mask = pci_read(devfn, bar) & (old & 1 ? ~3u : ~15u);
            pci_write(devfn, bar, old);
            CHECK_EQ(pci_read(devfn, bar), old);
            u32 size = ~mask + 1;
            CHECK(mask == 0 || (size & (size - 1)) == 0);
            if (!(old & 1) && (old & 6) == 4) {
                bar += 4; // the upper half
            }
        }
        pci_write16(devfn, 4, (u16)command);
    }
}

static void capability_lists_end(void)
{
    for (unsigned devfn = 0; devfn < 256; devfn++) {
        if (!present(devfn) || !(pci_read(devfn, 4) & 1u << 20)) {
            continue;
        }
        unsigned at = pci_read(devfn, 0x34) & 0xfc, n = 0;
        while (at && n < 48) {
            CHECK(at >= 0x40);
            at = pci_read(devfn, at) >> 8 & 0xfc;
            n++;
        }
        CHECK(n > 0 && n < 48);
    }
}

TESTS(TEST(host_bridge_and_lpc_are_there), TEST(ecam_agrees_with_mechanism_1),
      TEST(absent_functions_read_all_ones), TEST(narrow_accesses_show_parts_of_a_register),
      TEST(identity_cannot_be_written), TEST(bars_have_a_size_that_is_a_power_of_two),
      TEST(capability_lists_end));
