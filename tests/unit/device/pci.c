// PCI functions, the bus, the host bridge and the LPC bridge.
#include "device/pci/pci.h"

#include <stdlib.h>

#include "device/pci/q35.h"
#include "device/platform.h"
#include "fake_guest.h"
#include "test.h"

// A function with one BAR of each kind, MSI and MSI-X.
struct sample {
    struct pci_function pci;
    uint64_t last; // offset of the last access
};

static const struct state_field sample_fields[] = {
    SUB(struct sample, pci, pci_function_state),
    FIELD(struct sample, last),
    FIELDS_END,
};
static const struct state_desc sample_state = STATE_DESC("sample", struct sample, 1, sample_fields);

static uint64_t sample_read(struct device *dev, uint64_t offset, unsigned size)
{
    ((struct sample *)dev)->last = offset;
    return 0x42;
}

static void sample_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    ((struct sample *)dev)->last = offset;
}

static const struct io_ops sample_ops = {sample_read, sample_write, 1, 8};

static const uint8_t sample_rom[3000] = {0x55, 0xaa, 6, [2999] = 0x77};

static err_t sample_init(struct device *dev, const void *config, struct error *e)
{
    static const struct pci_id id = {0x1234, 0x5678, 0x9abc, 0xdef0, 0xff0000, 3, 1};
    struct pci_function *f = pci_function_of(dev);

    pci_init(f, &id, NULL);
    pci_add_bar(f, 0, PCI_BAR_MEM64, 0x10000, &sample_ops);
    pci_add_bar(f, 3, PCI_BAR_IO, 32, &sample_ops);
    pci_add_bar(f, 4, PCI_BAR_MEM32, 4096, &sample_ops);
    pci_add_msi(f);
    pci_add_msix(f, 4, 5);
    pci_add_rom(f, sample_rom, sizeof sample_rom, 0);
    return OK;
}

static void sample_reset(struct device *dev)
{
    pci_reset(pci_function_of(dev));
}

static err_t sample_loaded(struct device *dev, struct error *e)
{
    return pci_loaded(pci_function_of(dev), e);
}

static void sample_fini(struct device *dev)
{
    pci_fini(pci_function_of(dev));
}

static const struct device_type sample_type = {
    .name = "sample",
    .size = sizeof(struct sample),
    .lines = 1,
    .state = &sample_state,
    .init = sample_init,
    .reset = sample_reset,
    .loaded = sample_loaded,
    .fini = sample_fini,
};

struct setup {
    struct fake_guest *g;
    struct device *dev;
    struct pci_function *f;
};

static struct setup set_up(void)
{
    struct setup s = {.g = fake_guest_new()};

    s.dev = fake_device(s.g, &sample_type, NULL);
    s.f = pci_function_of(s.dev);
    return s;
}

static void tear_down(struct setup *s)
{
    fake_device_free(s->dev);
    fake_guest_free(s->g);
}

static void config_space_keeps_read_only_bits(void)
{
    struct setup s = set_up();

    CHECK_EQ(pci_config_read(s.f, PCI_VENDOR, 4), 0x56781234);
    pci_config_write(s.f, PCI_VENDOR, 4, 0xffffffff);
    CHECK_EQ(pci_config_read(s.f, PCI_VENDOR, 4), 0x56781234);
    pci_config_write(s.f, PCI_COMMAND, 2, 0xffff);
    CHECK_EQ(pci_config_read(s.f, PCI_COMMAND, 2), 0x547);
    CHECK_EQ(pci_config_read(s.f, PCI_STATUS, 2), PCI_STATUS_CAPABILITIES);
    CHECK_EQ(pci_config_read(s.f, PCI_CLASS, 1), 0);
    CHECK_EQ(pci_config_read(s.f, PCI_REVISION, 4), 0xff000003);
    CHECK_EQ(pci_config_read(s.f, PCI_INTERRUPT_PIN, 1), 1);
    CHECK_EQ(pci_config_read(s.f, 0x100, 4), 0xffffffff);
    CHECK_EQ(pci_config_read(s.f, 0xff, 4), 0xffffffff);
    tear_down(&s);
}

static void capabilities_form_a_list(void)
{
    struct setup s = set_up();
    unsigned at = pci_config_read(s.f, PCI_CAPABILITIES, 1);

    CHECK_EQ(pci_config_read(s.f, at, 1), PCI_CAP_MSI);
    at = pci_config_read(s.f, at + 1, 1);
    CHECK_EQ(pci_config_read(s.f, at, 1), PCI_CAP_MSIX);
    CHECK_EQ(pci_config_read(s.f, at + 1, 1), 0);
    CHECK_EQ(pci_config_read(s.f, at + PCI_MSIX_CONTROL, 2), 3);
    tear_down(&s);
}

static void bar_tells_its_size_and_moves(void)
{
    struct setup s = set_up();
    struct sample *sample = (struct sample *)s.dev;

    pci_config_write(s.f, PCI_BAR0, 4, 0xffffffff);
    pci_config_write(s.f, PCI_BAR0 + 4, 4, 0xffffffff);
    CHECK_EQ(pci_config_read(s.f, PCI_BAR0, 4), 0xffff0004);
    CHECK_EQ(pci_config_read(s.f, PCI_BAR0 + 4, 4), 0xffffffff);
    pci_config_write(s.f, PCI_BAR0 + 12, 4, 0xffffffff);
    CHECK_EQ(pci_config_read(s.f, PCI_BAR0 + 12, 4), 0xffffffe1);
    pci_config_write(s.f, PCI_BAR0 + 16, 4, 0xffffffff);
    CHECK_EQ(pci_config_read(s.f, PCI_BAR0 + 16, 4), 0xfffff000);

    pci_config_write(s.f, PCI_BAR0, 4, 0x12340000);
    pci_config_write(s.f, PCI_BAR0 + 4, 4, 0x80);
    CHECK(!fake_claim_at(s.g, false, 0x8012340000));
    pci_config_write(s.f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    CHECK_EQ(fake_read(s.g, false, 0x8012340123, 4), 0x42);
    CHECK_EQ(sample->last, 0x123);
    pci_config_write(s.f, PCI_BAR0, 4, 0x22340000); // moves while decoding
    CHECK(!fake_claim_at(s.g, false, 0x8012340000));
    CHECK(fake_claim_at(s.g, false, 0x8022340000));
    pci_config_write(s.f, PCI_COMMAND, 2, 0);
    CHECK(!fake_claim_at(s.g, false, 0x8022340000));
    tear_down(&s);
}

static void bar_sized_while_decoding_is_not_mapped(void)
{
    struct setup s = set_up();

    pci_config_write(s.f, PCI_BAR0 + 12, 4, 0xc001);
    pci_config_write(s.f, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    CHECK(fake_claim_at(s.g, true, 0xc01f));
    pci_config_write(s.f, PCI_BAR0 + 12, 4, 0xffffffff);
    pci_config_write(s.f, PCI_BAR0 + 16, 4, 0xffffffff);
    CHECK(!fake_claim_at(s.g, true, 0xc000) && !fake_claim_at(s.g, true, 0xffe0));
    CHECK(!fake_claim_at(s.g, false, 0xfffff000));
    pci_config_write(s.f, PCI_BAR0 + 12, 4, 0xc000);
    CHECK(fake_claim_at(s.g, true, 0xc000));
    tear_down(&s);
}

static void bar_over_ram_or_another_bar_stays_unmapped(void)
{
    struct setup s = set_up();

    pci_config_write(s.f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    pci_config_write(s.f, PCI_BAR0 + 16, 4, 0x1000); // RAM
    CHECK(!fake_claim_at(s.g, false, 0x1000));
    pci_config_write(s.f, PCI_BAR0 + 16, 4, 0xd0000000);
    pci_config_write(s.f, PCI_BAR0 + 20, 4, 0xd0000000);
    CHECK(fake_claim_at(s.g, false, 0xd0000000)->ops == &sample_ops);
    pci_config_write(s.f, PCI_BAR0 + 16, 4, 0xd0001000);
    CHECK(fake_claim_at(s.g, false, 0xd0000000)->ops != &sample_ops);
    tear_down(&s);
}

static void intx_follows_the_disable_bit(void)
{
    struct setup s = set_up();

    pci_set_intx(s.f, true);
    CHECK(s.g->irq);
    CHECK_EQ(pci_config_read(s.f, PCI_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
    pci_config_write(s.f, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
    CHECK(!s.g->irq);
    CHECK_EQ(pci_config_read(s.f, PCI_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
    pci_config_write(s.f, PCI_COMMAND, 2, 0);
    CHECK(s.g->irq);
    pci_set_intx(s.f, false);
    CHECK(!s.g->irq);
    tear_down(&s);
}

static void msi_waits_while_masked(void)
{
    struct setup s = set_up();
    unsigned at = s.f->msi_cap;

    pci_send_msi(s.f);
    CHECK_EQ(s.g->msis, 0); // not enabled: nothing is remembered either
    pci_config_write(s.f, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    pci_config_write(s.f, at + PCI_MSI_ADDRESS, 4, 0xfee01000);
    pci_config_write(s.f, at + PCI_MSI_DATA, 2, 0x41);
    pci_config_write(s.f, at + PCI_MSI_CONTROL, 2, PCI_MSI_ENABLE);
    pci_send_msi(s.f);
    CHECK_EQ(s.g->msis, 1);
    CHECK_EQ(s.g->msi_address, 0xfee01000);
    CHECK_EQ(s.g->msi_data, 0x41);
    pci_config_write(s.f, at + PCI_MSI_MASK, 4, 1);
    pci_send_msi(s.f);
    CHECK_EQ(s.g->msis, 1);
    CHECK_EQ(pci_config_read(s.f, at + PCI_MSI_PENDING, 4), 1);
    pci_config_write(s.f, at + PCI_MSI_MASK, 4, 0);
    CHECK_EQ(s.g->msis, 2);
    CHECK_EQ(pci_config_read(s.f, at + PCI_MSI_PENDING, 4), 0);
    tear_down(&s);
}

#define MSIX_AT 0xd0000000ull

static void enable_msix(struct setup *s)
{
    pci_config_write(s->f, PCI_BAR0 + 20, 4, MSIX_AT);
    pci_config_write(s->f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    pci_config_write(s->f, s->f->msix_cap + PCI_MSIX_CONTROL, 2, PCI_MSIX_ENABLE);
    for (unsigned i = 0; i < 4; i++) {
        fake_write(s->g, false, MSIX_AT + 16 * i, 8, 0xfee00000 + 0x1000 * i);
        fake_write(s->g, false, MSIX_AT + 16 * i + 8, 4, 0x30 + i);
    }
}

static void msix_vector_masks_hold_messages_back(void)
{
    struct setup s = set_up();

    enable_msix(&s);
    pci_send_msix(s.f, 2);
    CHECK_EQ(s.g->msis, 0); // vectors start masked
    CHECK_EQ(fake_read(s.g, false, MSIX_AT + 0x800, 8), 4);
    fake_write(s.g, false, MSIX_AT + 16 * 2 + 12, 4, 0);
    CHECK_EQ(s.g->msis, 1);
    CHECK_EQ(s.g->msi_address, 0xfee02000);
    CHECK_EQ(s.g->msi_data, 0x32);
    CHECK_EQ(fake_read(s.g, false, MSIX_AT + 0x800, 4), 0);
    fake_write(s.g, false, MSIX_AT + 0x800, 4, 0xf); // pending bits are read-only
    CHECK_EQ(fake_read(s.g, false, MSIX_AT + 0x800, 4), 0);
    pci_send_msix(s.f, 4); // no such vector
    CHECK_EQ(s.g->msis, 1);
    tear_down(&s);
}

static void msix_function_mask_and_bus_master_hold_messages_back(void)
{
    struct setup s = set_up();
    unsigned control = s.f->msix_cap + PCI_MSIX_CONTROL;

    enable_msix(&s);
    fake_write(s.g, false, MSIX_AT + 12, 4, 0);
    pci_config_write(s.f, control, 2, PCI_MSIX_ENABLE | PCI_MSIX_FUNCTION_MASK);
    pci_send_msix(s.f, 0);
    CHECK_EQ(s.g->msis, 0);
    pci_config_write(s.f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    pci_config_write(s.f, control, 2, PCI_MSIX_ENABLE);
    CHECK_EQ(s.g->msis, 0);
    pci_config_write(s.f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    CHECK_EQ(s.g->msis, 1);
    tear_down(&s);
}

static void expansion_rom_is_read_where_both_enable_bits_say(void)
{
    struct setup s = set_up();

    pci_config_write(s.f, PCI_ROM, 4, 0xfffffffe);
    CHECK_EQ(pci_config_read(s.f, PCI_ROM, 4), 0xfffff000);
    pci_config_write(s.f, PCI_ROM, 4, 0x90000000);
    pci_config_write(s.f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    CHECK(!fake_claim_at(s.g, false, 0x90000000));
    pci_config_write(s.f, PCI_ROM, 4, 0x90000001);
    CHECK_EQ(fake_read(s.g, false, 0x90000000, 4), 0x06aa55);
    CHECK_EQ(fake_read(s.g, false, 0x90000bb4, 8), 0xffffffff77000000);
    fake_write(s.g, false, 0x90000000, 4, 0);
    CHECK_EQ(fake_read(s.g, false, 0x90000000, 2), 0xaa55);
    pci_config_write(s.f, PCI_COMMAND, 2, 0);
    CHECK(!fake_claim_at(s.g, false, 0x90000000));
    tear_down(&s);
}

static void pci_state_survives_a_move(void)
{
    struct setup s = set_up();
    struct fake_guest *to = fake_guest_new();
    struct error e;
    struct device *copy;

    CHECK(state_check(&sample_state, &e) == OK);
    CHECK(state_check(&pci_function_state, &e) == OK);
    enable_msix(&s);
    pci_send_msix(s.f, 1);
    copy = fake_migrate(to, s.dev, NULL);
    CHECK(fake_claim_at(to, false, MSIX_AT));
    fake_write(to, false, MSIX_AT + 16 + 12, 4, 0);
    CHECK_EQ(to->msis, 1);
    s.f->config[PCI_VENDOR] ^= 1; // another device's state is refused
    memcpy(pci_function_of(copy)->config, s.f->config, PCI_CONFIG_SIZE);
    CHECK(copy->type->loaded(copy, &e) == ERR_CORRUPT);
    fake_device_free(copy);
    fake_guest_free(to);
    tear_down(&s);
}

static int routes[8];

static void record_route(void *opaque, unsigned pirq, int irq)
{
    routes[pirq] = irq;
}

static unsigned legacy_changes;

static void count_legacy_change(void *opaque)
{
    legacy_changes++;
}

struct board {
    struct fake_guest *g;
    struct device *host, *lpc, *sample;
};

static struct board board_up(void)
{
    struct board b = {.g = fake_guest_new()};
    struct q35_host_config host = {.bus = &b.g->bus, .legacy_changed = count_legacy_change};
    struct ich9_lpc_config lpc = {.route = record_route};

    b.host = fake_device(b.g, &q35_host_type, &host);
    b.lpc = fake_device(b.g, &ich9_lpc_type, &lpc);
    b.sample = fake_device(b.g, &sample_type, NULL);
    CHECK(pci_bus_plug(&b.g->bus, pci_function_of(b.lpc), PCI_DEVFN(31, 0), NULL) == OK);
    CHECK(pci_bus_plug(&b.g->bus, pci_function_of(b.sample), PCI_DEVFN(3, 0), NULL) == OK);
    return b;
}

static void board_down(struct board *b)
{
    fake_device_free(b->sample);
    fake_device_free(b->lpc);
    fake_device_free(b->host);
    fake_guest_free(b->g);
}

static void host_bridge_answers_both_mechanisms(void)
{
    struct board b = board_up();

    CHECK_EQ(fake_read(b.g, false, PC_ECAM, 4), 0xffffffff); // closed until PCIEXBAR says where
    pci_bus_write(&b.g->bus, 0, Q35_PCIEXBAR, 4, (uint32_t)PC_ECAM | 1);
    CHECK_EQ(fake_read(b.g, false, PC_ECAM, 4), 0x29c08086);
    CHECK_EQ(fake_read(b.g, false, PC_ECAM + (3 << 15) + 2, 2), 0x5678);
    CHECK_EQ(fake_read(b.g, false, PC_ECAM + (4 << 15), 4), 0xffffffff); // nobody
    CHECK_EQ(fake_read(b.g, false, PC_ECAM + (1 << 20), 4), 0xffffffff); // no such bus
    fake_write(b.g, true, 0xcf8, 4, 0x8000f800);
    CHECK_EQ(fake_read(b.g, true, 0xcf8, 4), 0x8000f800);
    CHECK_EQ(fake_read(b.g, true, 0xcfc, 4), 0x29188086);
    CHECK_EQ(fake_read(b.g, true, 0xcfe, 2), 0x2918);
    CHECK_EQ(fake_read(b.g, true, 0xcff, 1), 0x29);
    fake_write(b.g, true, 0xcf8, 4, 0x00f800);
    CHECK_EQ(fake_read(b.g, true, 0xcfc, 4), 0xffffffff); // not enabled
    CHECK_EQ(fake_read(b.g, true, 0xcf8, 1), 0xff);       // bytes are not the bridge's
    CHECK(!fake_claim_at(b.g, true, 0xcf9));
    board_down(&b);
}

static void pciexbar_moves_and_closes_the_window(void)
{
    struct board b = board_up();
    uint64_t len;

    pci_bus_write(&b.g->bus, 0, Q35_PCIEXBAR, 4, 0xb0000001);
    CHECK_EQ(fake_read(b.g, false, 0xb0000000, 4), 0x29c08086);
    fake_write(b.g, false, 0xb0000000 + Q35_PCIEXBAR, 4, 0xb8000003); // by itself: 128 MiB
    CHECK_EQ(fake_read(b.g, false, 0xb0000000, 4), 0xffffffff);
    CHECK_EQ(fake_read(b.g, false, 0xb8000000, 4), 0x29c08086);
    CHECK_EQ(fake_claim_at(b.g, false, 0xb8000000)->len, 0x8000000);
    CHECK_EQ(q35_ecam(0xb8000003, 0, &len), 0xb8000000);
    CHECK_EQ(q35_ecam(0xe0000007, 0, &len), 0); // a length that does not exist
    b.host->type->reset(b.host);
    CHECK(!fake_claim_at(b.g, false, 0xb8000000));
    board_down(&b);
}

static void pam_gives_every_legacy_range_its_attributes(void)
{
    struct board b = board_up();
    uint8_t range[Q35_LEGACY_RANGES];

    legacy_changes = 0;
    q35_legacy_ranges(b.host, range);
    CHECK_EQ(range[0] | range[15], 0);
    pci_bus_write(&b.g->bus, 0, Q35_PAM0, 4, 0x00000230); // 0xc4000 and 0xc0000 differ
    CHECK_EQ(legacy_changes, 1);
    q35_legacy_ranges(b.host, range);
    CHECK_EQ(range[0], 2);
    CHECK_EQ(range[1], 0);
    CHECK_EQ(range[12], 3);
    CHECK_EQ(range[15], 3);
    b.host->type->reset(b.host);
    q35_legacy_ranges(b.host, range);
    CHECK_EQ(range[12], 0);
    CHECK_EQ(legacy_changes, 2);
    board_down(&b);
}

static void lpc_bridge_publishes_pirq_routes(void)
{
    struct board b = board_up();

    for (unsigned i = 0; i < 8; i++)
        CHECK_EQ(routes[i], -1);
    pci_bus_write(&b.g->bus, PCI_DEVFN(31, 0), 0x60, 4, 0x0b8d020a);
    CHECK_EQ(routes[0], 10);
    CHECK_EQ(routes[1], -1); // 2 is reserved
    CHECK_EQ(routes[2], -1);
    CHECK_EQ(routes[3], 11);
    pci_bus_write(&b.g->bus, PCI_DEVFN(31, 0), 0x6b, 1, 5);
    CHECK_EQ(routes[7], 5);
    b.lpc->type->reset(b.lpc);
    CHECK_EQ(routes[7], -1);
    board_down(&b);
}

static void resources_are_assigned_in_the_windows(void)
{
    struct board b = board_up();
    struct pci_function *f = pci_function_of(b.sample);

    CHECK(pci_assign_resources(&b.g->bus, NULL) == OK);
    CHECK_EQ(pci_config_read(f, PCI_BAR0 + 4, 4), PC_MMIO64 >> 32);
    CHECK_EQ(pci_config_read(f, PCI_BAR0 + 12, 4), PC_IO_BARS | 1);
    CHECK_EQ(pci_config_read(f, PCI_BAR0 + 16, 4), PC_MMIO32);
    CHECK_EQ(pci_config_read(f, PCI_BAR0 + 20, 4), PC_MMIO32 + 0x1000);
    CHECK_EQ(pci_config_read(f, PCI_COMMAND, 2), 0);
    CHECK_EQ(pci_config_read(f, PCI_INTERRUPT_LINE, 1), routes[PC_PIRQ(3, 0)]);
    board_down(&b);
}

static void bus_refuses_taken_and_orphaned_places(void)
{
    struct board b = board_up();
    struct device *extra = fake_device(b.g, &sample_type, NULL);
    struct pci_function *f = pci_function_of(extra);

    CHECK(pci_bus_plug(&b.g->bus, f, PCI_DEVFN(3, 0), NULL) == ERR_EXISTS);
    CHECK(pci_bus_plug(&b.g->bus, f, PCI_DEVFN(4, 1), NULL) == ERR_INVALID);
    CHECK(pci_bus_plug(&b.g->bus, f, PCI_DEVFN(3, 1), NULL) == OK);
    CHECK_EQ(pci_bus_read(&b.g->bus, PCI_DEVFN(3, 0), PCI_HEADER_TYPE, 1), 0x80);
    fake_device_free(extra);
    board_down(&b);
}

static void chipset_state_survives_a_move(void)
{
    struct board b = board_up();
    struct fake_guest *to = fake_guest_new();
    struct q35_host_config host = {.bus = &to->bus};
    struct ich9_lpc_config lpc = {.route = record_route};
    struct device *host_copy, *lpc_copy;
    struct error e;

    CHECK(state_check(b.host->type->state, &e) == OK);
    CHECK(state_check(b.lpc->type->state, &e) == OK);
    fake_write(b.g, true, 0xcf8, 4, 0x8000f860);
    fake_write(b.g, true, 0xcfc, 1, 9);
    host_copy = fake_migrate(to, b.host, &host);
    routes[0] = 0;
    lpc_copy = fake_migrate(to, b.lpc, &lpc);
    CHECK_EQ(routes[0], 9);
    CHECK_EQ(fake_read(to, true, 0xcf8, 4), 0x8000f860);
    fake_device_free(host_copy);
    fake_device_free(lpc_copy);
    fake_guest_free(to);
    board_down(&b);
}

TEST_MAIN(TEST(config_space_keeps_read_only_bits), TEST(capabilities_form_a_list),
          TEST(bar_tells_its_size_and_moves), TEST(bar_sized_while_decoding_is_not_mapped),
          TEST(bar_over_ram_or_another_bar_stays_unmapped), TEST(intx_follows_the_disable_bit),
          TEST(msi_waits_while_masked), TEST(msix_vector_masks_hold_messages_back),
          TEST(msix_function_mask_and_bus_master_hold_messages_back),
          TEST(expansion_rom_is_read_where_both_enable_bits_say), TEST(pci_state_survives_a_move),
          TEST(host_bridge_answers_both_mechanisms), TEST(pciexbar_moves_and_closes_the_window),
          TEST(pam_gives_every_legacy_range_its_attributes), TEST(lpc_bridge_publishes_pirq_routes),
          TEST(resources_are_assigned_in_the_windows), TEST(bus_refuses_taken_and_orphaned_places),
          TEST(chipset_state_survives_a_move))
