// The fixed ACPI tables of the pc board (ACPI 6.4 section 5; MCFG: PCI Firmware 3.2; HPET: IA-PC
// HPET 1.0a; WAET: Windows ACPI Emulated Devices Table) and the blob that holds them all.

#include "firmware/acpi.h"

#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "device/platform.h"
#include "firmware/acpi_impl.h"

#define HEADER_BYTES 36
#define TABLES_MAX 8
#define FACS_BYTES 64
#define APIC_IDS 255 // larger ids need x2APIC entries

// HPET's capabilities as the table wants them: Intel, legacy routing, 64 bits, three timers.
#define HPET_BLOCK_ID 0x8086a201u

enum gas_space { GAS_MEMORY = 0, GAS_IO = 1 };

// FADT, by offset
enum {
    FADT_FACS = 36,
    FADT_DSDT = 40,
    FADT_PROFILE = 45,
    FADT_SCI = 46,
    FADT_SMI_CMD = 48,
    FADT_ACPI_ENABLE = 52,
    FADT_ACPI_DISABLE = 53,
    FADT_PM1_EVENT = 56,
    FADT_PM1_CONTROL = 64,
    FADT_PM_TIMER = 76,
    FADT_GPE0 = 80,
    FADT_PM1_EVENT_LEN = 88,
    FADT_PM1_CONTROL_LEN = 89,
    FADT_PM_TIMER_LEN = 91,
    FADT_GPE0_LEN = 92,
    FADT_C2_LATENCY = 96,
    FADT_C3_LATENCY = 98,
    FADT_CENTURY = 108,
    FADT_BOOT_ARCH = 109,
    FADT_FLAGS = 112,
    FADT_RESET = 116,
    FADT_RESET_VALUE = 128,
    FADT_MINOR = 131,
    FADT_X_DSDT = 140,
    FADT_X_PM1_EVENT = 148,
    FADT_X_PM1_CONTROL = 172,
    FADT_X_PM_TIMER = 208,
    FADT_X_GPE0 = 220,
    FADT_BYTES = 276,
};

#define FADT_FLAG_WBINVD BIT(0)
#define FADT_FLAG_C1 BIT(2)
#define FADT_FLAG_NO_SLEEP_BUTTON BIT(5)
#define FADT_FLAG_NO_FIXED_RTC BIT(6)
#define FADT_FLAG_RESET BIT(10)
#define ARCH_LEGACY BIT(0)
#define ARCH_8042 BIT(1)
#define ARCH_NO_VGA BIT(2)
#define PROFILE_SERVER 4
#define LATENCY_NONE 0xfff // C2 and C3 are not there
#define CMOS_CENTURY 0x32
#define GPE0_OFFSET 0x20
#define GPE0_BYTES 16
#define RESET_VALUE 6 // port 0xcf9: hard reset

// One set of tables being made.
struct making {
    struct acpi_tables *out;
    uint32_t table[TABLES_MAX]; // offsets of those that the root tables list
    unsigned tables;
    uint32_t start; // of the table being written
};

static void put(struct making *m, uint64_t value, unsigned size)
{
    buffer_append(&m->out->blob, &value, size);
}

static void align_blob(struct making *m, unsigned align)
{
    (void)buffer_extend(&m->out->blob, align_up(m->out->blob.len, align) - m->out->blob.len);
}

static void table_begin(struct making *m, const char *signature, unsigned revision, bool listed)
{
    align_blob(m, 16);
    m->start = (uint32_t)m->out->blob.len;
    if (listed) {
        m->table[m->tables++] = m->start;
    }
    buffer_append(&m->out->blob, signature, 4);
    put(m, 0, 4); // length: table_end()
    put(m, revision, 1);
    put(m, 0, 1); // checksum
    buffer_append(&m->out->blob, "BERTH BERTHPC ", 14);
    put(m, 1, 4);
    buffer_append(&m->out->blob, "BRTH", 4);
    put(m, 1, 4);
}

static void table_end(struct making *m)
{
    struct buffer *blob = &m->out->blob;
    uint32_t len = (uint32_t)blob->len - m->start;
    if (!blob->failed) {
        store_le32(blob->data + m->start + 4, len);
    }
    m->out->sum[m->out->sums++] =
        (struct acpi_sum){.start = m->start, .len = len, .at = m->start + 9};
}

static void add_link(struct making *m, uint32_t at, uint32_t size, uint32_t target)
{
    m->out->link[m->out->links++] = (struct acpi_link){.at = at, .size = size, .target = target};
}

// Generic address structure; access size in bytes.
static void gas(uint8_t *p, enum gas_space space, uint64_t at, unsigned bytes, unsigned access)
{
    p[0] = space;
    p[1] = (uint8_t)(bytes * 8);
    p[2] = 0;
    p[3] = access == 1 ? 1 : access == 2 ? 2 : access == 4 ? 3 : 0;
    store_le64(p + 4, at);
}

static uint32_t make_facs(struct making *m)
{
    uint8_t facs[FACS_BYTES] = "FACS";
    align_blob(m, 64);
    uint32_t at = (uint32_t)m->out->blob.len;
    store_le32(facs + 4, sizeof facs);
    facs[32] = 2; // version
    buffer_append(&m->out->blob, facs, sizeof facs);
    return at;
}

static uint32_t make_dsdt(struct making *m, const struct acpi_config *config)
{
    table_begin(m, "DSDT", 2, false);
    dsdt_build(config, &m->out->blob);
    table_end(m);
    return m->start;
}

static void fadt_blocks(uint8_t *t)
{
    store_le32(t + FADT_PM1_EVENT, PC_PORT_PM);
    store_le32(t + FADT_PM1_CONTROL, PC_PORT_PM + 4);
    store_le32(t + FADT_PM_TIMER, PC_PORT_PM + 8);
    store_le32(t + FADT_GPE0, PC_PORT_PM + GPE0_OFFSET);
    t[FADT_PM1_EVENT_LEN] = 4;
    t[FADT_PM1_CONTROL_LEN] = 2;
    t[FADT_PM_TIMER_LEN] = 4;
    t[FADT_GPE0_LEN] = GPE0_BYTES;
    gas(t + FADT_X_PM1_EVENT, GAS_IO, PC_PORT_PM, 4, 2);
    gas(t + FADT_X_PM1_CONTROL, GAS_IO, PC_PORT_PM + 4, 2, 2);
    gas(t + FADT_X_PM_TIMER, GAS_IO, PC_PORT_PM + 8, 4, 4);
    gas(t + FADT_X_GPE0, GAS_IO, PC_PORT_PM + GPE0_OFFSET, GPE0_BYTES, 1);
}

static void make_fadt(struct making *m, const struct acpi_config *config, uint32_t facs,
                      uint32_t dsdt)
{
    uint8_t t[FADT_BYTES] = {0}; // the header's part of it stays unused
    t[FADT_PROFILE] = PROFILE_SERVER;
    store_le16(t + FADT_SCI, PC_IRQ_SCI);
    store_le32(t + FADT_SMI_CMD, PC_PORT_SMI_CMD);
    t[FADT_ACPI_ENABLE] = PC_ACPI_ENABLE;
    t[FADT_ACPI_DISABLE] = PC_ACPI_DISABLE;
    fadt_blocks(t);
    store_le16(t + FADT_C2_LATENCY, LATENCY_NONE);
    store_le16(t + FADT_C3_LATENCY, LATENCY_NONE);
    t[FADT_CENTURY] = CMOS_CENTURY;
    store_le16(t + FADT_BOOT_ARCH,
               ARCH_LEGACY | (config->vga ? 0 : ARCH_NO_VGA) | (config->i8042 ? ARCH_8042 : 0));
    store_le32(t + FADT_FLAGS, FADT_FLAG_WBINVD | FADT_FLAG_C1 | FADT_FLAG_NO_SLEEP_BUTTON |
                                   FADT_FLAG_NO_FIXED_RTC | FADT_FLAG_RESET);
    gas(t + FADT_RESET, GAS_IO, PC_PORT_RESET, 1, 1);
    t[FADT_RESET_VALUE] = RESET_VALUE;
    t[FADT_MINOR] = 4;
    table_begin(m, "FACP", 6, true);
    buffer_append(&m->out->blob, t + HEADER_BYTES, sizeof t - HEADER_BYTES);
    add_link(m, m->start + FADT_FACS, 4, facs);
    add_link(m, m->start + FADT_DSDT, 4, dsdt);
    add_link(m, m->start + FADT_X_DSDT, 8, dsdt);
    table_end(m);
}

static void madt_processors(struct making *m, unsigned cpus)
{
    for (unsigned i = 0; i < cpus; i++) {
        if (i < APIC_IDS) { // local APIC: processor uid, APIC id, enabled
            put(m, 0x0800 | i << 16 | i << 24, 4);
            put(m, 1, 4);
        } else { // local x2APIC: APIC id, enabled, processor uid
            put(m, 0x1009, 4);
            put(m, i, 4);
            put(m, 1, 4);
            put(m, i, 4);
        }
    }
}

static void madt_override(struct making *m, unsigned irq, unsigned gsi, unsigned flags)
{
    put(m, 0x0a02, 2);
    put(m, 0, 1); // ISA
    put(m, irq, 1);
    put(m, gsi, 4);
    put(m, flags, 2);
}

static void make_madt(struct making *m, const struct acpi_config *config)
{
    table_begin(m, "APIC", 4, true);
    put(m, PC_LAPIC, 4);
    put(m, 1, 4); // there is a pair of 8259s too
    madt_processors(m, config->cpus);
    put(m, 0x0c01 | PC_IOAPIC_ID << 16, 4);
    put(m, PC_IOAPIC, 4);
    put(m, 0, 4);
    madt_override(m, PC_IRQ_PIT, 2, 0);
    madt_override(m, PC_IRQ_SCI, PC_IRQ_SCI, 0xd); // level, active high
    put(m, 0x0604, 2);                             // NMI on LINT1 of every processor
    put(m, 0xff, 1);
    put(m, 0, 2);
    put(m, 1, 1);
    if (config->cpus > APIC_IDS) { // the same for x2APIC entries
        put(m, 0x0c0a, 4);
        put(m, UINT32_MAX, 4);
        put(m, 1, 4);
    }
    table_end(m);
}

static void make_mcfg(struct making *m, const struct acpi_config *config)
{
    table_begin(m, "MCFG", 1, true);
    put(m, 0, 8);
    put(m, config->ecam, 8);
    put(m, 0, 3); // segment, first bus
    put(m, 255, 1);
    put(m, 0, 4);
    table_end(m);
}

static void make_hpet(struct making *m)
{
    uint8_t base[12];
    gas(base, GAS_MEMORY, PC_HPET, 8, 0);
    table_begin(m, "HPET", 1, true);
    put(m, HPET_BLOCK_ID, 4);
    buffer_append(&m->out->blob, base, sizeof base);
    put(m, 0, 4); // number, minimum tick, page protection
    table_end(m);
}

// RTC and PM timer need none of the workarounds for real chips.
static void make_waet(struct making *m)
{
    table_begin(m, "WAET", 1, true);
    put(m, 3, 4);
    table_end(m);
}

static uint32_t make_root(struct making *m, const char *signature, unsigned pointer_size)
{
    table_begin(m, signature, 1, false);
    for (unsigned i = 0; i < m->tables; i++) {
        add_link(m, (uint32_t)m->out->blob.len, pointer_size, m->table[i]);
        put(m, 0, pointer_size);
    }
    table_end(m);
    return m->start;
}

err_t acpi_build(const struct acpi_config *config, struct acpi_tables *out, struct error *e)
{
    *out = (struct acpi_tables){0};
    if (config->cpus < 1 || config->cpus > ACPI_CPUS_MAX) {
        return error_set(e, ERR_INVALID, "%u processors cannot be described; use 1 to %u",
                         config->cpus, ACPI_CPUS_MAX);
    }
    struct making m = {.out = out};
    uint32_t facs = make_facs(&m);
    uint32_t dsdt = make_dsdt(&m, config);
    make_fadt(&m, config, facs, dsdt);
    make_madt(&m, config);
    make_mcfg(&m, config);
    if (config->hpet) {
        make_hpet(&m);
    }
    make_waet(&m);
    out->rsdt = make_root(&m, "RSDT", 4);
    out->xsdt = make_root(&m, "XSDT", 8);
    if (out->blob.failed) {
        return error_set(e, ERR_NO_MEMORY, "no memory for ACPI tables");
    }
    return OK;
}

void acpi_release(struct acpi_tables *tables)
{
    buffer_release(&tables->blob);
}

// What must be added to make the bytes' sum zero.
static uint8_t complement(const uint8_t *bytes, uint32_t len)
{
    uint8_t sum = 0;
    for (uint32_t i = 0; i < len; i++) {
        sum = (uint8_t)(sum + bytes[i]);
    }
    return (uint8_t)-sum;
}

void acpi_place(struct acpi_tables *tables, gpa_t at, uint8_t rsdp[ACPI_RSDP_BYTES])
{
    uint8_t *blob = tables->blob.data;
    for (unsigned i = 0; i < tables->links; i++) {
        const struct acpi_link *link = &tables->link[i];
        store_le(blob + link->at, link->size, at + link->target);
    }
    for (unsigned i = 0; i < tables->sums; i++) {
        const struct acpi_sum *sum = &tables->sum[i];
        blob[sum->at] = complement(blob + sum->start, sum->len);
    }
    memset(rsdp, 0, ACPI_RSDP_BYTES);
    memcpy(rsdp, "RSD PTR ", 8);
    memcpy(rsdp + 9, "BERTH ", 6);
    rsdp[15] = 2;
    store_le32(rsdp + 16, (uint32_t)(at + tables->rsdt));
    store_le32(rsdp + 20, ACPI_RSDP_BYTES);
    store_le64(rsdp + 24, at + tables->xsdt);
    rsdp[8] = complement(rsdp, 20);
    rsdp[32] = complement(rsdp, ACPI_RSDP_BYTES);
}
