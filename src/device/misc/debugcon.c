// A port for firmware's debug output: every byte written goes to the back end, and reading gives
// 0xe9, by which firmware recognises it.
#include "device/misc/debugcon.h"

#define PRESENT 0xe9

struct debugcon {
    struct device dev;
    struct debugcon_config config;
};

static uint64_t port_read(struct device *dev, uint64_t offset, unsigned size)
{
    return PRESENT;
}

static void port_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    const struct debugcon_config *config = &((struct debugcon *)dev)->config;
    if (config->write)
        config->write(config->opaque, (uint8_t)value);
}

static const struct io_ops port_ops = {port_read, port_write, 1, 1};

static err_t init(struct device *dev, const void *config, struct error *e)
{
    struct debugcon *d = (struct debugcon *)dev;
    d->config = *(const struct debugcon_config *)config;
    err_t err = dev->env->map_pio(dev, d->config.port, 1, &port_ops);
    return err ? error_set(e, err, "port %#x is taken", d->config.port) : OK;
}

const struct device_type debugcon_type = {
    .name = "debugcon", .size = sizeof(struct debugcon), .init = init};
