// The paravirtual panic device: one port; reading tells which events it knows, writing reports
// some. Source: the "pvpanic" interface as guests use it (Linux drivers/misc/pvpanic, ACPI id
// QEMU0001).
#include "device/misc/panic.h"

#include "device/platform.h"

#define EVENTS (PANIC_PANICKED | PANIC_CRASH_LOADED)

static uint64_t port_read(struct device *dev, uint64_t offset, unsigned size)
{
    return EVENTS;
}

static void port_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    if (value & EVENTS)
        dev->env->request(dev, MACHINE_PANIC, (uint32_t)(value & EVENTS));
}

static const struct io_ops port_ops = {port_read, port_write, 1, 1};

static err_t init(struct device *dev, const void *config, struct error *e)
{
    err_t err = dev->env->map_pio(dev, PC_PORT_PANIC, 1, &port_ops);
    return err ? error_set(e, err, "port %#x is taken", PC_PORT_PANIC) : OK;
}

const struct device_type panic_type = {
    .name = "panic", .size = sizeof(struct device), .init = init};
