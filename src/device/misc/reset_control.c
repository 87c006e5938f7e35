// The reset control register at port 0xcf9 (ICH9 datasheet section 13.7.5). It lies inside the
// dword of the PCI address port, which takes 4-byte accesses only, so a byte at 0xcf9 is this
// register. Not modelled: the difference between hard, soft and full reset: each resets the
// machine.
#include "device/misc/reset.h"
#include "device/platform.h"

struct reset_control {
    struct device dev;
    uint8_t value;
    uint8_t pad[7];
};

static uint64_t reset_control_read(struct device *dev, uint64_t offset, unsigned size)
{
    return container_of(dev, struct reset_control, dev)->value;
}

static void reset_control_io_write(struct device *dev, uint64_t offset, unsigned size,
                                   uint64_t value)
{
    struct reset_control *r = container_of(dev, struct reset_control, dev);
    bool reset = false;
    r->value = reset_control_write(r->value, (uint8_t)value, &reset);
    if (reset)
        dev->env->request(dev, MACHINE_RESET, 0);
}

static const struct io_ops reset_control_ops = {reset_control_read, reset_control_io_write, 1, 1};

static const struct state_field reset_control_fields[] = {
    SKIP(struct reset_control, dev, "wiring, rebuilt from configuration"),
    FIELD(struct reset_control, value), SKIP(struct reset_control, pad, "alignment"), FIELDS_END};
static const struct state_desc reset_control_state =
    STATE_DESC("reset-control", struct reset_control, 1, reset_control_fields);

static err_t reset_control_init(struct device *dev, const void *config, struct error *e)
{
    err_t err = dev->env->map_pio(dev, PC_PORT_RESET, 1, &reset_control_ops);
    return err ? error_set(e, err, "port %#x is taken", PC_PORT_RESET) : OK;
}

static void reset_control_reset(struct device *dev)
{
    container_of(dev, struct reset_control, dev)->value = 0;
}

static void reset_control_fini(struct device *dev)
{
    dev->env->unmap_pio(dev, PC_PORT_RESET, 1);
}

const struct device_type reset_control_type = {
    .name = "reset-control",
    .size = sizeof(struct reset_control),
    .state = &reset_control_state,
    .init = reset_control_init,
    .reset = reset_control_reset,
    .fini = reset_control_fini,
};
