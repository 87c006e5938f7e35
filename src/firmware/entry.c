// The boot processor's registers where a kernel is entered: flat protected mode without paging, or
// long mode with the first 4 GiB mapped one to one. What the formats add (pointers in registers)
// they set themselves. Also what firmware leaves in every processor: caches on, memory types.

#include <string.h>

#include "base/bytes.h"
#include "device/platform.h"
#include "firmware/layout.h"
#include "firmware/loader_impl.h"

#define ATTR_CODE (SEGA_ACCESSED | SEGA_WRITABLE | SEGA_CODE | SEGA_S | SEGA_P | SEGA_G)
#define ATTR_DATA (SEGA_ACCESSED | SEGA_WRITABLE | SEGA_S | SEGA_P | SEGA_G | SEGA_DB)
#define TSS_LIMIT 0x67
#define MTRR_WB 6
#define MTRR_VALID BIT(11)
#define MTRR_FIXED_ENABLE BIT(10)

static struct cpu_segment flat(uint16_t selector, uint16_t attr)
{
    return (struct cpu_segment){.limit = 0xffffffff, .selector = selector, .attr = attr};
}

// The 8-byte descriptor that such a segment is loaded from.
static uint64_t descriptor(const struct cpu_segment *seg)
{
    uint64_t limit = (seg->attr & SEGA_G) ? seg->limit >> 12 : seg->limit;
    return (limit & 0xffff) | (seg->base & 0xffffff) << 16 | (uint64_t)(seg->attr & 0xff) << 40 |
           (limit >> 16 & 0xf) << 48 | (uint64_t)(seg->attr >> 12 & 0xf) << 52 |
           (seg->base >> 24 & 0xff) << 56;
}

// Loads all segment registers and writes the descriptor table that holds them.
static err_t enter_segments(struct loading *l, uint16_t code_size)
{
    struct cpu_state *s = l->s;
    struct cpu_segment data = flat(ENTRY_DATA, ATTR_DATA);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        s->seg[i] = data;
    }
    s->seg[SEG_CS] = flat(ENTRY_CODE, ATTR_CODE | code_size);
    s->ldtr = (struct cpu_segment){0};
    s->tr = (struct cpu_segment){
        .limit = TSS_LIMIT, .selector = ENTRY_TSS, .attr = SYS_TSS_BUSY | SEGA_P};
    uint8_t gdt[0x30] = {0}; // the TSS descriptor has 16 bytes in long mode
    store_le64(gdt + ENTRY_CODE, descriptor(&s->seg[SEG_CS]));
    store_le64(gdt + ENTRY_DATA, descriptor(&data));
    store_le64(gdt + ENTRY_TSS, descriptor(&s->tr));
    s->gdtr = (struct cpu_table){.base = BOOT_GDT, .limit = sizeof gdt - 1};
    s->idtr = (struct cpu_table){0};
    return place_bytes(l, BOOT_GDT, gdt, sizeof gdt);
}

static void enter_registers(struct cpu_state *s, uint64_t rip)
{
    memset(s->gpr, 0, sizeof s->gpr);
    s->gpr[RSP] = BOOT_STACK;
    s->rip = rip;
    s->rflags = FLAG_FIXED;
    s->cr2 = s->cr3 = s->cr4 = 0;
    s->cr0 = CR0_PE | CR0_ET;
    s->efer = 0;
    s->activity = CPU_RUNNING;
}

err_t entry_flat32(struct loading *l, uint32_t rip)
{
    enter_registers(l->s, rip);
    return enter_segments(l, SEGA_DB);
}

// One top page, one directory pointer page, four directories of 2 MiB pages.
static err_t write_page_tables(struct loading *l)
{
    uint8_t page[PAGE_SIZE] = {0};
    gpa_t pdpt = BOOT_PAGE_TABLES + PAGE_SIZE, directories = pdpt + PAGE_SIZE;
    store_le64(page, pdpt | PTE_P | PTE_W);
    err_t err = place_bytes(l, BOOT_PAGE_TABLES, page, sizeof page);
    for (unsigned i = 0; i < 4; i++) {
        store_le64(page + 8 * i, (directories + i * PAGE_SIZE) | PTE_P | PTE_W);
    }
    if (err == OK) {
        err = place_bytes(l, pdpt, page, sizeof page);
    }
    for (unsigned i = 0; i < 4 && err == OK; i++) {
        for (unsigned j = 0; j < 512; j++) {
            store_le64(page + 8 * j, (i * 512 + j) * 2 * MIB | PTE_P | PTE_W | PTE_PS);
        }
        err = place_bytes(l, directories + i * PAGE_SIZE, page, sizeof page);
    }
    return err;
}

err_t entry_long64(struct loading *l, uint64_t rip)
{
    enter_registers(l->s, rip);
    l->s->cr0 |= CR0_PG;
    l->s->cr4 = CR4_PAE;
    l->s->efer = EFER_LME | EFER_LMA;
    l->s->cr3 = BOOT_PAGE_TABLES;
    err_t err = write_page_tables(l);
    return err == OK ? enter_segments(l, SEGA_L) : err;
}

void loader_cpu_defaults(struct cpu_state *s, unsigned phys_bits)
{
    static const uint64_t wb = 0x0606060606060606ull;
    s->cr0 &= ~(CR0_CD | CR0_NW);
    for (unsigned i = 0; i < CPU_MTRR_FIXED; i++) {
        s->mtrr_fixed[i] = wb;
    }
    s->mtrr_fixed[2] = 0;        // 0xa0000..0xbffff: display memory
    s->mtrr_base[0] = PC_MMIO32; // uncached up to 4 GiB, write-back elsewhere
    s->mtrr_mask[0] = (BITS(phys_bits - 1, 12) & ~(PC_HIGH_RAM - PC_MMIO32 - 1)) | MTRR_VALID;
    s->mtrr_base[1] = PC_MMIO64;
    s->mtrr_mask[1] = (BITS(phys_bits - 1, 12) & ~(PC_MMIO64_SIZE - 1)) | MTRR_VALID;
    s->mtrr_def_type = MTRR_WB | MTRR_VALID | MTRR_FIXED_ENABLE;
}
