// Page tables of 64-bit guests: changing the tables that enter64.S has made.

#include "guest.h"

#define ADDRESS 0x000ffffffffff000ull

static unsigned slot(u64 at, unsigned level)
{
    return at >> (12 + 9 * (level - 1)) & 511;
}

// Splits a 2 MiB or 1 GiB page into pages of the next level, with the same flags.
static void split(u64 *entry, unsigned level)
{
    u64 *table = page_alloc(), old = *entry;
    u64 step = 1ull << (12 + 9 * (level - 2));
    for (unsigned i = 0; i < 512; i++) {
        table[i] = (old & ~(level == 2 ? PTE_PS : 0)) + i * step;
    }
    *entry = (u64)table | PTE_P | PTE_W | PTE_U;
}

u64 *page_map(u64 at, u64 physical, u64 flags, unsigned level)
{
    u64 *table = (u64 *)(read_cr3() & ADDRESS);
    for (unsigned l = 4; l > level; l--) {
        u64 *entry = &table[slot(at, l)];
        if (!(*entry & PTE_P)) {
            *entry = (u64)page_alloc() | PTE_P | PTE_W | PTE_U;
        } else if (l < 4 && (*entry & PTE_PS)) {
            split(entry, l);
        }
        table = (u64 *)(*entry & ADDRESS);
    }
    u64 *entry = &table[slot(at, level)];
    *entry = physical | flags | (level > 1 ? PTE_PS : 0);
    invlpg(at);
    return entry;
}

u64 *page_entry(u64 at, unsigned level)
{
    u64 *table = (u64 *)(read_cr3() & ADDRESS);
    for (unsigned l = 4; l > level; l--) {
        u64 entry = table[slot(at, l)];
        if (!(entry & PTE_P) || (l < 4 && (entry & PTE_PS))) {
            return NULL;
        }
        table = (u64 *)(entry & ADDRESS);
    }
    return &table[slot(at, level)];
}
