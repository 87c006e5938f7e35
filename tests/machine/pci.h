// PCI configuration space for test guests: mechanism 1, and ECAM where ACPI's MCFG says.
#pragma once

#include "guest.h"

static inline u32 pci_read(unsigned devfn, unsigned reg)
{
    outl(0xcf8, 0x80000000 | devfn << 8 | (reg & 0xfc));
    return inl(0xcfc);
}

static inline void pci_write(unsigned devfn, unsigned reg, u32 v)
{
    outl(0xcf8, 0x80000000 | devfn << 8 | (reg & 0xfc));
    outl(0xcfc, v);
}

static inline void pci_write16(unsigned devfn, unsigned reg, u16 v)
{
    outl(0xcf8, 0x80000000 | devfn << 8 | (reg & 0xfc));
    outw((u16)(0xcfc + (reg & 2)), v);
}

// The offset of a capability, after `from` (0: the first); 0 when there is none.
static inline unsigned pci_capability(unsigned devfn, u8 id, unsigned from)
{
    unsigned at = from ? pci_read(devfn, from) >> 8 & 0xfc : pci_read(devfn, 0x34) & 0xfc;
    for (unsigned n = 0; at && n < 48; n++) {
        if ((pci_read(devfn, at) & 0xff) == id) {
            return at;
        }
        at = pci_read(devfn, at) >> 8 & 0xfc;
    }
    return 0;
}

// Address of a memory BAR, mapped into this guest's page tables; 0 when it is not one.
static inline u64 pci_bar(unsigned devfn, unsigned bar)
{
    u64 at = pci_read(devfn, 0x10 + 4 * bar);
    if (at & 1) {
        return 0;
    }
    bool wide = (at & 6) == 4;
    at &= ~15ull;
    if (wide) {
        at |= (u64)pci_read(devfn, 0x14 + 4 * bar) << 32;
    }
    for (u64 page = at & ~4095ull; at >> 32 && page < at + 0x10000; page += 4096) {
        page_map(page, page, PTE_P | PTE_W, 1);
    }
    return at;
}

static inline const u8 *acpi_table(const char *signature)
{
    for (const u8 *p = (const u8 *)0xe0000; p < (const u8 *)0x100000; p += 16) {
        if (memcmp(p, "RSD PTR ", 8) != 0) {
            continue;
        }
        const u8 *rsdt = (const u8 *)(word) * (const u32 *)(p + 16);
        for (u32 i = 36; i < *(const u32 *)(rsdt + 4); i += 4) {
            const u8 *table = (const u8 *)(word) * (const u32 *)(rsdt + i);
            if (memcmp(table, signature, 4) == 0) {
                return table;
            }
        }
    }
    return NULL;
}
