// The tables are well-formed: checked by the specification's rules here, and by iasl and dmidecode
// where they are installed.

#include "firmware/tables.h"

#include <unistd.h>

#include "base/bytes.h"
#include "device/platform.h"
#include "firmware/aml.h"
#include "firmware/layout.h"
#include "firmware/rom_tables.h"
#include "test.h"

#include "fake_memory.h"

static const struct acpi_config config = {.cpus = 2,
                                          .com1 = true,
                                          .com2 = true,
                                          .i8042 = true,
                                          .hpet = true,
                                          .panic = true,
                                          .fw_cfg = true,
                                          .ecam = PC_ECAM,
                                          .mmio64 = PC_MMIO64,
                                          .mmio64_len = PC_MMIO64_SIZE};

static uint8_t sum(const uint8_t *p, size_t len)
{
    uint8_t total = 0;
    for (size_t i = 0; i < len; i++) {
        total = (uint8_t)(total + p[i]);
    }
    return total;
}

static gpa_t install(struct fake_memory *m, uint64_t ram, unsigned cpus)
{
    struct acpi_config acpi = config;
    struct smbios_config smbios = {.product = "vm", .ram_bytes = ram, .cpus = cpus};
    struct error e;
    gpa_t rsdp = 0;
    acpi.cpus = cpus;
    fake_init(m, ram);
    CHECK_EQ(tables_install(&acpi, &smbios, &m->memory, &rsdp, &e), OK);
    return rsdp;
}

// The table with this signature, found as a guest does.
static const uint8_t *find_table(const struct fake_memory *m, gpa_t rsdp, const char *signature)
{
    const uint8_t *xsdt = m->ram + load_le64(m->ram + rsdp + 24);
    for (uint32_t at = 36; at < load_le32(xsdt + 4); at += 8) {
        const uint8_t *table = m->ram + load_le64(xsdt + at);
        if (memcmp(table, signature, 4) == 0) {
            return table;
        }
    }
    return NULL;
}

static void every_table_is_reachable_and_sums_to_zero(void)
{
    static const char *const names[] = {"FACP", "APIC", "MCFG", "HPET", "WAET"};
    struct fake_memory m;
    gpa_t rsdp = install(&m, 128 * MIB, 2);
    CHECK_EQ(sum(m.ram + rsdp, 20), 0);
    CHECK_EQ(sum(m.ram + rsdp, 36), 0);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const uint8_t *table = find_table(&m, rsdp, names[i]);
        CHECK(table && sum(table, load_le32(table + 4)) == 0);
    }
    const uint8_t *fadt = find_table(&m, rsdp, "FACP");
    const uint8_t *dsdt = m.ram + load_le64(fadt + 140);
    CHECK_EQ(load_le32(fadt + 40), load_le64(fadt + 140));
    CHECK_EQ(memcmp(dsdt, "DSDT", 4), 0);
    CHECK_EQ(sum(dsdt, load_le32(dsdt + 4)), 0);
    CHECK_EQ(memcmp(m.ram + load_le32(fadt + 36), "FACS", 4), 0);
    CHECK_EQ(load_le32(fadt + 36) % 64, 0);
    fake_release(&m);
}

// What firmware makes of the loader's script with both files where it has put them.
struct placed {
    struct rom_tables *files;
    gpa_t tables, rsdp;
    unsigned allocated;
};

static uint8_t *file_data(struct placed *p, const uint8_t *name, gpa_t *at)
{
    bool rsdp = !strcmp((const char *)name, ROM_RSDP_FILE);
    CHECK(rsdp || !strcmp((const char *)name, ROM_TABLES_FILE));
    *at = rsdp ? p->rsdp : p->tables;
    return rsdp ? p->files->rsdp : p->files->tables.data;
}

static void follow(struct placed *p, const uint8_t *command)
{
    gpa_t at, target;
    uint8_t *data = file_data(p, command + 4, &at);
    if (load_le32(command) == 1) {
        CHECK_EQ(at % load_le32(command + 60), 0);
        p->allocated++;
    } else if (load_le32(command) == 2) {
        file_data(p, command + 60, &target);
        uint8_t *field = data + load_le32(command + 116);
        store_le(field, command[120], load_le(field, command[120]) + target);
    } else {
        const uint8_t *from = data + load_le32(command + 64);
        data[load_le32(command + 60)] -= sum(from, load_le32(command + 68));
    }
}

static void firmware_places_the_same_tables_by_its_script(void)
{
    struct placed p = {.tables = 0x7fe3000, .rsdp = 0xf5b70};
    struct rom_tables files;
    struct acpi_tables direct;
    uint8_t rsdp[ACPI_RSDP_BYTES];
    CHECK_EQ(rom_tables_build(&config, &files, NULL), OK);
    CHECK_EQ(acpi_build(&config, &direct, NULL), OK);
    p.files = &files;
    for (size_t at = 0; at < files.loader.len; at += 128)
        follow(&p, files.loader.data + at);
    acpi_place(&direct, p.tables, rsdp);
    CHECK_EQ(p.allocated, 2);
    CHECK_EQ(files.tables.len, direct.blob.len);
    CHECK_EQ(memcmp(files.tables.data, direct.blob.data, direct.blob.len), 0);
    CHECK_EQ(memcmp(files.rsdp, rsdp, sizeof rsdp), 0);
    acpi_release(&direct);
    rom_tables_release(&files);
}

static void rsdt_and_xsdt_list_the_same_tables(void)
{
    struct fake_memory m;
    gpa_t rsdp = install(&m, 128 * MIB, 1);
    const uint8_t *rsdt = m.ram + load_le32(m.ram + rsdp + 16);
    const uint8_t *xsdt = m.ram + load_le64(m.ram + rsdp + 24);
    uint32_t tables = (load_le32(rsdt + 4) - 36) / 4;
    CHECK_EQ((load_le32(xsdt + 4) - 36) / 8, tables);
    for (uint32_t i = 0; i < tables; i++) {
        CHECK_EQ(load_le32(rsdt + 36 + 4 * i), load_le64(xsdt + 36 + 8 * i));
    }
    fake_release(&m);
}

static void processors_above_254_have_x2apic_entries(void)
{
    struct fake_memory m;
    gpa_t rsdp = install(&m, 128 * MIB, 300);
    const uint8_t *madt = find_table(&m, rsdp, "APIC");
    unsigned lapics = 0, x2apics = 0;
    for (uint32_t at = 44; at < load_le32(madt + 4) && madt[at + 1]; at += madt[at + 1]) {
        lapics += madt[at] == 0;
        x2apics += madt[at] == 9;
    }
    CHECK_EQ(lapics, 255);
    CHECK_EQ(x2apics, 45);
    fake_release(&m);
}

static void tables_for_the_most_processors_fit(void)
{
    struct fake_memory m;
    install(&m, 128 * MIB, ACPI_CPUS_MAX);
    fake_release(&m);
}

static void smbios_entry_sums_to_zero_and_points_to_its_table(void)
{
    struct fake_memory m;
    install(&m, 128 * MIB, 2);
    const uint8_t *entry = m.ram + BOOT_SMBIOS_ENTRY;
    CHECK_EQ(memcmp(entry, "_SM3_", 5), 0);
    CHECK_EQ(sum(entry, 24), 0);
    CHECK_EQ(load_le64(entry + 16), BOOT_SMBIOS);
    const uint8_t *end = m.ram + BOOT_SMBIOS + load_le32(entry + 12) - 6;
    CHECK_EQ(end[0], 127); // type, length, handle, two zeros
    fake_release(&m);
}

static void memory_map_is_sorted_and_splits_at_the_io_window(void)
{
    static const uint64_t sizes[] = {BOOT_RAM_MIN, 512 * MIB, 2 * GIB, 2 * GIB + MIB, 100 * GIB};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct e820_map map;
        uint64_t ram = 0;
        e820_build(sizes[i], &map);
        for (unsigned j = 0; j < map.count; j++) {
            const struct e820_entry *entry = &map.entry[j];
            CHECK(entry->len > 0);
            CHECK(j == 0 || entry->at >= entry[-1].at + entry[-1].len);
            ram += entry->type == E820_RAM ? entry->len : 0;
        }
        // All but the EBDA, the hole for display and ROMs, the BIOS area and the ACPI area.
        CHECK_EQ(ram, sizes[i] - (BOOT_BIOS_END - BOOT_EBDA) - BOOT_ACPI_SIZE);
        CHECK(!e820_is_ram(&map, PC_LOW_RAM_MAX, 1));
        CHECK_EQ(e820_is_ram(&map, 0x100000000, 1), sizes[i] > PC_LOW_RAM_MAX);
        CHECK(!e820_is_ram(&map, 0x100000, ~0ull));
    }
}

static void aml_lengths_use_as_few_bytes_as_they_need(void)
{
    static const struct {
        unsigned body;
        uint8_t first;
        unsigned total;
    } cases[] = {{10, 0x0f, 16}, {58, 0x3f, 64}, {59, 0x41, 66}, {4000, 0x46, 4007}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buffer out = BUFFER_EMPTY;
        struct aml a = {.out = &out};
        aml_scope(&a, "_SB"); // opcode, length, four characters, body
        for (unsigned j = 0; j < cases[i].body; j++) {
            aml_int(&a, 0);
        }
        aml_end(&a);
        CHECK_EQ(out.len, cases[i].total);
        CHECK_EQ(out.data[1], cases[i].first);
        buffer_release(&out);
    }
}

static bool have(const char *tool)
{
    char cmd[80];
    snprintf(cmd, sizeof cmd, "command -v %s >/dev/null 2>&1", tool);
    if (system(cmd) == 0) {
        return true;
    }
    printf("# not tried: %s is not installed\n", tool);
    return false;
}

static void write_file(const char *path, const void *data, size_t len)
{
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(data, 1, len, file) == len);
    if (file) {
        fclose(file);
    }
}

static void iasl_takes_every_table_apart_and_back_together(void)
{
    static const char script[] =
        "cd %s && for t in *.dat; do iasl -d $t >log 2>&1 && ! grep -iE 'error|warning' log && "
        "iasl -p again ${t%%.dat}.dsl >log 2>&1 && grep -q ' 0 Errors, 0 Warnings' log || "
        "{ cat log; exit 1; }; done";
    char dir[] = "/tmp/berth-acpi-XXXXXX", path[64], cmd[512];
    struct acpi_tables tables;
    uint8_t rsdp[ACPI_RSDP_BYTES];
    if (!have("iasl") || !mkdtemp(dir)) {
        return;
    }
    CHECK_EQ(acpi_build(&config, &tables, NULL), OK);
    acpi_place(&tables, 0x7fe0000, rsdp);
    for (unsigned i = 0; i < tables.sums; i++) {
        const uint8_t *table = tables.blob.data + tables.sum[i].start;
        snprintf(path, sizeof path, "%s/%.4s.dat", dir, (const char *)table);
        write_file(path, table, tables.sum[i].len);
    }
    snprintf(cmd, sizeof cmd, script, dir);
    CHECK_EQ(system(cmd), 0);
    snprintf(cmd, sizeof cmd, "rm -r %s", dir);
    CHECK_EQ(system(cmd), 0);
    acpi_release(&tables);
}

static void dmidecode_reads_the_smbios_tables(void)
{
    struct smbios_config smbios = {.product = "vm7", .ram_bytes = 5 * GIB, .cpus = 3};
    struct buffer file = BUFFER_EMPTY;
    char path[] = "/tmp/berth-smbios-XXXXXX", cmd[512];
    uint8_t entry[SMBIOS_ENTRY_BYTES];
    if (!have("dmidecode")) {
        return;
    }
    buffer_extend(&file, 32);
    CHECK_EQ(smbios_build(&smbios, 32, &file, entry, NULL), OK);
    memcpy(file.data, entry, sizeof entry);
    close(mkstemp(path));
    write_file(path, file.data, file.len);
    snprintf(cmd, sizeof cmd,
             "dmidecode --from-dump %s >%s.out && grep -q 'Product Name: vm7' %s.out && "
             "grep -q 'Range Size: 2 GB' %s.out && ! grep -iE 'broken|wrong|bad' %s.out",
             path, path, path, path, path);
    CHECK_EQ(system(cmd), 0);
    snprintf(cmd, sizeof cmd, "rm -f %s %s.out", path, path);
    CHECK_EQ(system(cmd), 0);
    buffer_release(&file);
}

TEST_MAIN(TEST(every_table_is_reachable_and_sums_to_zero),
          TEST(firmware_places_the_same_tables_by_its_script),
          TEST(rsdt_and_xsdt_list_the_same_tables), TEST(processors_above_254_have_x2apic_entries),
          TEST(tables_for_the_most_processors_fit),
          TEST(smbios_entry_sums_to_zero_and_points_to_its_table),
          TEST(memory_map_is_sorted_and_splits_at_the_io_window),
          TEST(aml_lengths_use_as_few_bytes_as_they_need),
          TEST(iasl_takes_every_table_apart_and_back_together),
          TEST(dmidecode_reads_the_smbios_tables))
