// A port whose writing ends the machine with an exit status. The status is odd, so that success of
// a test guest cannot be mistaken for the machine's own.
#include "device/misc/debug_exit.h"

#include "device/platform.h"

static uint64_t port_read(struct device *dev, uint64_t offset, unsigned size)
{
    return 0;
}

static void port_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    dev->env->request(dev, MACHINE_DEBUG_EXIT, (uint32_t)value << 1 | 1);
}

static const struct io_ops port_ops = {port_read, port_write, 1, 4};

static err_t init(struct device *dev, const void *config, struct error *e)
{
    err_t err = dev->env->map_pio(dev, PC_PORT_DEBUG_EXIT, 1, &port_ops);
    return err ? error_set(e, err, "port %#x is taken", PC_PORT_DEBUG_EXIT) : OK;
}

const struct device_type debug_exit_type = {
    .name = "debug-exit", .size = sizeof(struct device), .init = init};
