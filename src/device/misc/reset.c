// Port 0x92 (ICH9 datasheet section 13.7.2) and the rule of the reset control register (13.7.5).
// The A20 bit is kept for those who read it back; address line 20 itself is never masked.
#include "device/misc/reset.h"

#include "base/bits.h"
#include "device/platform.h"

#define FAST_RESET BIT(0)
#define A20 BIT(1)
#define RESET_CPU BIT(2)
#define RESET_WRITABLE 0x0e

uint8_t reset_control_write(uint8_t old, uint8_t value, bool *reset)
{
    *reset = !(old & RESET_CPU) && (value & RESET_CPU);
    return value & RESET_WRITABLE;
}

struct fast_a20 {
    struct device dev;
    uint8_t value;
    uint8_t pad[7];
};

static const struct state_field fast_a20_fields[] = {
    SKIP(struct fast_a20, dev, "wiring, rebuilt from configuration"),
    FIELD(struct fast_a20, value),
    SKIP(struct fast_a20, pad, "alignment"),
    FIELDS_END,
};
static const struct state_desc fast_a20_state =
    STATE_DESC("fast-a20", struct fast_a20, 1, fast_a20_fields);

static uint64_t port_read(struct device *dev, uint64_t offset, unsigned size)
{
    return ((struct fast_a20 *)dev)->value;
}

static void port_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct fast_a20 *f = (struct fast_a20 *)dev;
    bool reset = !(f->value & FAST_RESET) && (value & FAST_RESET);
    f->value = value & (A20 | FAST_RESET);
    if (reset)
        dev->env->request(dev, MACHINE_RESET, 0);
}

static const struct io_ops port_ops = {port_read, port_write, 1, 1};

static err_t init(struct device *dev, const void *config, struct error *e)
{
    err_t err = dev->env->map_pio(dev, PC_PORT_FAST_A20, 1, &port_ops);
    return err ? error_set(e, err, "port %#x is taken", PC_PORT_FAST_A20) : OK;
}

static void reset(struct device *dev)
{
    ((struct fast_a20 *)dev)->value = A20;
}

static err_t loaded(struct device *dev, struct error *e)
{
    if (((struct fast_a20 *)dev)->value & ~(A20 | FAST_RESET))
        return error_set(e, ERR_CORRUPT, "fast-a20: impossible register value");
    return OK;
}

const struct device_type fast_a20_type = {
    .name = "fast-a20",
    .size = sizeof(struct fast_a20),
    .state = &fast_a20_state,
    .init = init,
    .reset = reset,
    .loaded = loaded,
};
