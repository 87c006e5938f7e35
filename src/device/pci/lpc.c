// The ICH9 LPC bridge (Intel 82801IB, 8086:2918) at 00:1f.0: which ISA interrupts the PIRQ lines
// drive beside their IOAPIC pins, and the registers by which guests find the ACPI ports.
//
// Specification: Intel ICH9 datasheet, chapter 13 (PMBASE 0x40, ACPI_CNTL 0x44, PIRQ[A-H]_ROUT
// 0x60-63 and 0x68-6b, LPC decode 0x80-82, RCBA 0xf0). PMBASE is fixed; RCBA and the decode
// registers keep what is written but move nothing: there is no root complex block and the ISA
// devices sit where they sit.
#include "device/pci/q35.h"
#include "device/platform.h"

#define PMBASE 0x40
#define ACPI_CNTL 0x44
#define RCBA 0xf0
#define ROUTE_OFF 0x80     // PIRQ goes to the IOAPIC only
#define ROUTE_IRQS 0xdef8u // 3-7, 9-12, 14, 15; the others are reserved

struct ich9_lpc {
    struct pci_function pci;
    struct ich9_lpc_config config;
};

static const struct state_field lpc_fields[] = {
    SUB(struct ich9_lpc, pci, pci_function_state),
    SKIP(struct ich9_lpc, config, "wiring, rebuilt from configuration"),
    FIELDS_END,
};
static const struct state_desc lpc_state = STATE_DESC("ich9-lpc", struct ich9_lpc, 1, lpc_fields);

static void publish_routes(struct ich9_lpc *lpc)
{
    for (unsigned pirq = 0; pirq < 8; pirq++) {
        unsigned route = pci_register(&lpc->pci, ICH9_PIRQ_ROUTE(pirq), 1);
        bool on = !(route & ROUTE_OFF) && (ROUTE_IRQS >> (route & 15) & 1);
        if (lpc->config.route)
            lpc->config.route(lpc->config.opaque, pirq, on ? (int)(route & 15) : -1);
    }
}

static void lpc_written(struct pci_function *f, unsigned offset, unsigned size)
{
    if (offset < 0x6c && offset + size > 0x60)
        publish_routes((struct ich9_lpc *)f);
}

static const struct pci_hooks lpc_hooks = {.after_write = lpc_written};

static void init_registers(struct pci_function *f)
{
    static const struct pci_id id = {
        .vendor = 0x8086, .device = 0x2918, .class_code = 0x060100, .revision = 2};

    pci_init(f, &id, &lpc_hooks);
    // The bridge decodes always: I/O, memory and bus master read as set and cannot be cleared.
    pci_set_register(f, PCI_COMMAND, 2, 0x0007, PCI_COMMAND_SERR);
    pci_set_register(f, PMBASE, 4, PC_PORT_PM | 1, 0);
    pci_set_register(f, ACPI_CNTL, 1, 0x80, 0); // ACPI ports on, SCI on interrupt 9
    for (unsigned pirq = 0; pirq < 8; pirq++)
        pci_set_register(f, ICH9_PIRQ_ROUTE(pirq), 1, ROUTE_OFF, 0x8f);
    pci_set_register(f, 0x80, 4, 0, 0x3f0f1377); // LPC_I/O_DEC and LPC_EN
    pci_set_register(f, RCBA, 4, 0, 0xffffc001);
}

static err_t lpc_init(struct device *dev, const void *config, struct error *e)
{
    struct ich9_lpc *lpc = (struct ich9_lpc *)dev;

    lpc->config = *(const struct ich9_lpc_config *)config;
    init_registers(&lpc->pci);
    return OK;
}

static void lpc_reset(struct device *dev)
{
    struct ich9_lpc *lpc = (struct ich9_lpc *)dev;

    pci_reset(&lpc->pci);
    publish_routes(lpc);
}

static err_t lpc_loaded(struct device *dev, struct error *e)
{
    struct ich9_lpc *lpc = (struct ich9_lpc *)dev;
    err_t err = pci_loaded(&lpc->pci, e);

    if (err == OK)
        publish_routes(lpc);
    return err;
}

const struct device_type ich9_lpc_type = {
    .name = "ich9-lpc",
    .size = sizeof(struct ich9_lpc),
    .lines = 1,
    .state = &lpc_state,
    .init = lpc_init,
    .reset = lpc_reset,
    .loaded = lpc_loaded,
};
