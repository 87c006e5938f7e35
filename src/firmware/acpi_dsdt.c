// The pc board's DSDT: what cannot be found by looking at the hardware. The PCI host bridge with
// its windows and interrupt routing (both for the IOAPIC and, through the LPC bridge's routing
// registers, for the 8259), the ISA devices, the processors, PCI slots whose cards come and go, and
// how to switch the machine off. Not described: sleep states other than S5, thermal zones,
// batteries.

#include <stdio.h>

#include "device/pci/hotplug.h"
#include "device/platform.h"
#include "firmware/acpi_impl.h"
#include "firmware/aml.h"

#define PIRQS 8
#define LPC_PIRQ_ROUTE 0x60 // A..D; E..H at +8 (ICH9 LPC, PIRQ[n]_ROUT)
#define ROUTE_OFF 0x80      // bit 7: not routed to the 8259
#define INTERRUPT_AT 5      // of the number in an extended interrupt descriptor

static void isa_device(struct aml *a, const char *name, const char *id)
{
    aml_device(a, name);
    aml_name(a, "_HID");
    aml_eisaid(a, id);
}

static void link_name(char out[5], unsigned pirq)
{
    snprintf(out, 5, "LNK%c", 'A' + (int)pirq);
}

static void route_path(char out[24], unsigned pirq)
{
    snprintf(out, 24, "\\_SB.PCI0.LPC.PRQ%c", 'A' + (int)pirq);
}

// Method (PLCR, 1): the current setting of a routing register as a resource template.
static void link_current(struct aml *a)
{
    static const uint32_t none = 0;
    aml_method(a, "PLCR", 1, true);
    aml_name(a, "BUFF");
    aml_resources(a);
    aml_resource_interrupts(a, &none, 1);
    aml_end(a);
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_path(a, "BUFF");
    aml_int(a, INTERRUPT_AT);
    aml_path(a, "IRQN");
    aml_if(a);
    aml_op(a, AML_LLESS);
    aml_op(a, AML_ARG(0));
    aml_int(a, ROUTE_OFF);
    aml_op(a, AML_STORE);
    aml_op(a, AML_ARG(0));
    aml_path(a, "IRQN");
    aml_end(a);
    aml_op(a, AML_RETURN);
    aml_path(a, "BUFF");
    aml_end(a);
}

static void link_status(struct aml *a, const char *route)
{
    aml_method(a, "_STA", 0, false);
    aml_if(a);
    aml_op(a, AML_AND);
    aml_path(a, route);
    aml_int(a, ROUTE_OFF);
    aml_op(a, AML_ZERO); // no target
    aml_op(a, AML_RETURN);
    aml_int(a, 0x09);
    aml_end(a);
    aml_op(a, AML_RETURN);
    aml_int(a, 0x0b);
    aml_end(a);
}

static void link_control(struct aml *a, const char *route)
{
    aml_method(a, "_DIS", 0, false);
    aml_op(a, AML_OR);
    aml_path(a, route);
    aml_int(a, ROUTE_OFF);
    aml_path(a, route);
    aml_end(a);
    aml_method(a, "_CRS", 0, false);
    aml_op(a, AML_RETURN);
    aml_path(a, "PLCR");
    aml_path(a, route);
    aml_end(a);
    aml_method(a, "_SRS", 1, true);
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_op(a, AML_ARG(0));
    aml_int(a, INTERRUPT_AT);
    aml_path(a, "IRQN");
    aml_op(a, AML_STORE);
    aml_path(a, "IRQN");
    aml_path(a, route);
    aml_end(a);
}

static void link_device(struct aml *a, unsigned pirq)
{
    static const uint32_t possible[] = {5, 10, 11};
    char name[5], route[24];
    link_name(name, pirq);
    route_path(route, pirq);
    isa_device(a, name, "PNP0C0F");
    aml_name_int(a, "_UID", pirq);
    aml_name(a, "_PRS");
    aml_resources(a);
    aml_resource_interrupts(a, possible, ARRAY_LEN(possible));
    aml_end(a);
    link_status(a, route);
    link_control(a, route);
    aml_end(a);
}

// Routing for all slots of bus 0: to the IOAPIC's pins, or to the link devices.
static void route_table(struct aml *a, const char *name, bool to_links)
{
    aml_name(a, name);
    aml_package(a, 32 * 4);
    for (unsigned slot = 0; slot < 32; slot++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            char link[5];
            link_name(link, PC_PIRQ(slot, pin));
            aml_package(a, 4);
            aml_int(a, slot << 16 | 0xffff);
            aml_int(a, pin);
            if (to_links) {
                aml_path(a, link);
                aml_int(a, 0);
            } else {
                aml_int(a, 0);
                aml_int(a, PC_GSI_PIRQ + PC_PIRQ(slot, pin));
            }
            aml_end(a);
        }
    }
    aml_end(a);
}

static void bridge_routing(struct aml *a)
{
    route_table(a, "PRTP", true);
    route_table(a, "PRTA", false);
    aml_method(a, "_PRT", 0, false);
    aml_if(a);
    aml_path(a, "\\PICF");
    aml_op(a, AML_RETURN);
    aml_path(a, "PRTA");
    aml_end(a);
    aml_op(a, AML_RETURN);
    aml_path(a, "PRTP");
    aml_end(a);
}

static void bridge_windows(const struct acpi_config *config, struct aml *a)
{
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_resource_bus_window(a, 0, 255);
    aml_resource_io(a, PC_PORT_PCI_ADDRESS, 8);
    aml_resource_io_window(a, 0, PC_PORT_PCI_ADDRESS - 1);
    aml_resource_io_window(a, PC_PORT_PCI_ADDRESS + 8, 0xffff);
    aml_resource_memory_window(a, 0xa0000, 0xbffff);
    aml_resource_memory_window(a, PC_MMIO32, config->ecam - 1);
    aml_resource_memory_window(a, config->ecam + PC_ECAM_SIZE, PC_MMIO32_END - 1);
    aml_resource_memory_window(a, config->mmio64, config->mmio64 + config->mmio64_len - 1);
    aml_end(a);
}

static void or_into_cdw1(struct aml *a, unsigned bit)
{
    aml_op(a, AML_OR);
    aml_path(a, "CDW1");
    aml_int(a, bit);
    aml_path(a, "CDW1");
}

// _OSC (ACPI 6.4 section 6.2.11, PCI Firmware 3.2 section 4.5): the guest may have native hot-plug,
// power management events, error reporting and the PCIe capability; not SHPC.
static void bridge_capabilities(struct aml *a)
{
    static const uint8_t pci_uuid[16] = {0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40,
                                         0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66};
    aml_method(a, "_OSC", 4, true);
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_op(a, AML_ARG(3));
    aml_int(a, 0);
    aml_path(a, "CDW1");
    aml_if(a);
    aml_op(a, AML_LEQUAL);
    aml_op(a, AML_ARG(0));
    aml_bytes(a, pci_uuid, sizeof pci_uuid);
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_op(a, AML_ARG(3));
    aml_int(a, 8);
    aml_path(a, "CDW3");
    aml_op(a, AML_AND);
    aml_path(a, "CDW3");
    aml_int(a, 0x1d);
    aml_path(a, "CDW3");
    aml_if(a);
    aml_op(a, AML_LNOT);
    aml_op(a, AML_LEQUAL);
    aml_op(a, AML_ARG(1));
    aml_op(a, AML_ONE);
    or_into_cdw1(a, 8); // unknown revision
    aml_end(a);
    aml_end(a);
    aml_else(a);
    or_into_cdw1(a, 4); // unknown UUID
    aml_end(a);
    aml_op(a, AML_RETURN);
    aml_op(a, AML_ARG(3));
    aml_end(a);
}

static void lpc_routes(struct aml *a)
{
    aml_region(a, "PIRQ", AML_PCI_CONFIG, LPC_PIRQ_ROUTE, 12);
    aml_field(a, "PIRQ");
    for (unsigned i = 0; i < PIRQS; i++) {
        char name[5] = {'P', 'R', 'Q', (char)('A' + i), 0};
        aml_field_entry(a, name, 8);
        if (i == 3) {
            aml_field_entry(a, NULL, 32);
        }
    }
    aml_end(a);
}

static void isa_port_device(struct aml *a, const char *name, const char *id, unsigned uid,
                            uint16_t port, uint8_t len, unsigned irq)
{
    isa_device(a, name, id);
    aml_name_int(a, "_UID", uid);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_resource_io(a, port, len);
    aml_resource_irq(a, irq);
    aml_end(a);
    aml_end(a);
}

static void keyboard_and_mouse(struct aml *a)
{
    isa_device(a, "KBD", "PNP0303");
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_resource_io(a, PC_PORT_8042, 1);
    aml_resource_io(a, PC_PORT_8042 + 4, 1);
    aml_resource_irq(a, PC_IRQ_KEYBOARD);
    aml_end(a);
    aml_end(a);
    isa_device(a, "MOU", "PNP0F13");
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_resource_irq(a, PC_IRQ_MOUSE);
    aml_end(a);
    aml_end(a);
}

// A paravirtual device that guests know by this string and find at these ports.
static void pv_device(struct aml *a, const char *name, const char *id, uint16_t port, uint8_t len)
{
    aml_device(a, name);
    aml_name(a, "_HID");
    aml_string(a, id);
    aml_name_int(a, "_STA", 0x0b);
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_resource_io(a, port, len);
    aml_end(a);
    aml_end(a);
}

static void lpc_bridge(const struct acpi_config *config, struct aml *a)
{
    aml_device(a, "LPC");
    aml_name_int(a, "_ADR", PC_SLOT_LPC << 16);
    lpc_routes(a);
    isa_port_device(a, "RTC", "PNP0B00", 0, PC_PORT_RTC, 2, PC_IRQ_RTC);
    if (config->i8042) {
        keyboard_and_mouse(a);
    }
    if (config->com1) {
        isa_port_device(a, "COM1", "PNP0501", 1, PC_PORT_COM1, 8, PC_IRQ_COM1);
    }
    if (config->com2) {
        isa_port_device(a, "COM2", "PNP0501", 2, PC_PORT_COM2, 8, PC_IRQ_COM2);
    }
    if (config->panic) {
        pv_device(a, "PEVT", "QEMU0001", PC_PORT_PANIC, 1);
    }
    if (config->fw_cfg) {
        pv_device(a, "FWCF", "QEMU0002", PC_PORT_FW_CFG, 12);
    }
    aml_end(a);
}

// --- cards that come and go

static void slot_name(char out[5], unsigned slot)
{
    snprintf(out, 5, "S%03X", slot & 0xfff);
}

static void hotplug_slot(struct aml *a, unsigned slot)
{
    char name[5];
    slot_name(name, slot);
    aml_device(a, name);
    aml_name_int(a, "_ADR", slot << 16);
    aml_name_int(a, "_SUN", slot);
    aml_method(a, "_EJ0", 1, false);
    aml_op(a, AML_STORE);
    aml_int(a, 1u << slot);
    aml_path(a, "HPEJ");
    aml_end(a);
    aml_end(a);
}

// Takes what a register says, and tells those slots of it.
static void notify_slots(struct aml *a, const char *reg, uint32_t slots, unsigned what)
{
    aml_op(a, AML_STORE);
    aml_path(a, reg);
    aml_op(a, AML_LOCAL(0));
    aml_op(a, AML_STORE);
    aml_op(a, AML_LOCAL(0));
    aml_path(a, reg);
    for (unsigned slot = 0; slot < 32; slot++) {
        char name[5];
        if (!(slots >> slot & 1))
            continue;
        slot_name(name, slot);
        aml_if(a);
        aml_op(a, AML_AND);
        aml_op(a, AML_LOCAL(0));
        aml_int(a, 1u << slot);
        aml_op(a, AML_ZERO); // no target
        aml_op(a, AML_NOTIFY);
        aml_path(a, name);
        aml_int(a, what);
        aml_end(a);
    }
}

static void hotplug_bridge(struct aml *a, uint32_t slots)
{
    enum { DEVICE_CHECK = 1, EJECT_REQUEST = 3 };
    aml_region(a, "HPRG", AML_IO, PC_PORT_HOTPLUG, HOTPLUG_BYTES);
    aml_field(a, "HPRG");
    aml_field_entry(a, "HPAR", 32);
    aml_field_entry(a, "HPLE", 32);
    aml_field_entry(a, "HPEJ", 32);
    aml_end(a);
    for (unsigned slot = 0; slot < 32; slot++) {
        if (slots >> slot & 1)
            hotplug_slot(a, slot);
    }
    aml_method(a, "HPEV", 0, true);
    notify_slots(a, "HPAR", slots, DEVICE_CHECK);
    notify_slots(a, "HPLE", slots, EJECT_REQUEST);
    aml_end(a);
}

static void hotplug_event(struct aml *a)
{
    char name[5];
    snprintf(name, sizeof name, "_E%02X", PC_GPE_HOTPLUG & 0xff);
    aml_scope(a, "\\_GPE");
    aml_method(a, name, 0, false);
    aml_path(a, "\\_SB.PCI0.HPEV");
    aml_end(a);
    aml_end(a);
}

static void host_bridge(const struct acpi_config *config, struct aml *a)
{
    isa_device(a, "PCI0", "PNP0A08");
    aml_name(a, "_CID");
    aml_eisaid(a, "PNP0A03");
    aml_name_int(a, "_UID", 0);
    aml_name_int(a, "_SEG", 0);
    aml_name_int(a, "_BBN", 0);
    bridge_windows(config, a);
    bridge_capabilities(a);
    bridge_routing(a);
    lpc_bridge(config, a);
    if (config->hotplug_slots) {
        hotplug_bridge(a, config->hotplug_slots);
    }
    aml_end(a);
}

// Addresses that are taken though no device above says so; ECAM must be here for guests to use it.
static void motherboard(const struct acpi_config *config, struct aml *a)
{
    isa_device(a, "MBRD", "PNP0C02");
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_resource_memory(a, (uint32_t)config->ecam, PC_ECAM_SIZE);
    aml_resource_memory(a, PC_IOAPIC, PAGE_SIZE);
    aml_resource_memory(a, PC_LAPIC, PAGE_SIZE);
    aml_resource_io(a, PC_PORT_FAST_A20, 1);
    aml_resource_io(a, PC_PORT_ELCR, 2);
    aml_resource_io(a, PC_PORT_PM, PC_PM_LEN);
    if (config->hotplug_slots) {
        aml_resource_io(a, PC_PORT_HOTPLUG, HOTPLUG_BYTES);
    }
    aml_end(a);
    aml_end(a);
}

static void hpet(struct aml *a)
{
    isa_device(a, "HPET", "PNP0103");
    aml_name(a, "_CRS");
    aml_resources(a);
    aml_resource_memory(a, PC_HPET, 0x400);
    aml_end(a);
    aml_end(a);
}

static void processors(struct aml *a, unsigned cpus)
{
    for (unsigned i = 0; i < cpus; i++) {
        char name[5];
        snprintf(name, sizeof name, "C%03X", i & 0xfff);
        aml_device(a, name);
        aml_name(a, "_HID");
        aml_string(a, "ACPI0007");
        aml_name_int(a, "_UID", i);
        aml_end(a);
    }
}

// The machine as a whole: interrupt model chosen by the guest, soft off.
static void root_objects(struct aml *a)
{
    aml_name_int(a, "PICF", 0);
    aml_method(a, "_PIC", 1, false);
    aml_op(a, AML_STORE);
    aml_op(a, AML_ARG(0));
    aml_path(a, "PICF");
    aml_end(a);
    aml_name(a, "_S5");
    aml_package(a, 4);
    aml_int(a, PC_PM_S5);
    aml_int(a, PC_PM_S5);
    aml_int(a, 0);
    aml_int(a, 0);
    aml_end(a);
}

void dsdt_build(const struct acpi_config *config, struct buffer *out)
{
    struct aml a = {.out = out};
    root_objects(&a);
    aml_scope(&a, "\\_SB");
    link_current(&a);
    for (unsigned i = 0; i < PIRQS; i++) {
        link_device(&a, i);
    }
    host_bridge(config, &a);
    motherboard(config, &a);
    if (config->hpet) {
        hpet(&a);
    }
    processors(&a, config->cpus);
    aml_end(&a);
    if (config->hotplug_slots) {
        hotplug_event(&a);
    }
}
