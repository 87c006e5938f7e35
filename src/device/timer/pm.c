// ACPI fixed hardware: PM1 event and control blocks, the PM timer, one general purpose event block,
// and the SMI command port with which an operating system takes it over.
//
// Source: ACPI 6.4 section 4.8; ICH9 datasheet section 13.8 for the layout behind PMBASE. Sleep
// states other than soft off are not modelled, nor is system management mode: what is not routed to
// the SCI goes nowhere.
#include "device/timer/pm.h"

#include "base/bits.h"
#include "base/bytes.h"
#include "device/platform.h"
#include "device/timer/ticks.h"

#define PM1_TIMER BIT(0)
#define PM1_GLOBAL BIT(5)
#define PM1_POWER_BUTTON BIT(8)
#define PM1_RTC BIT(10)
#define PM1_WAKE BIT(15)
#define STATUS_BITS (PM1_TIMER | BIT(4) | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_RTC | PM1_WAKE)
#define ENABLE_BITS (PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_RTC)
#define CONTROL_SCI_EN BIT(0)
#define CONTROL_BITS (CONTROL_SCI_EN | BIT(1) | BITS(12, 10))
#define CONTROL_SLEEP BIT(13)

// SMIs from the command port read as switched on, by which a BIOS knows that system management is
// somebody else's affair (SeaBIOS src/fw/smm.c).
#define SMI_ON_COMMAND BIT(5)

// Offsets behind PC_PORT_PM.
enum {
    AT_STATUS = 0x00,
    AT_ENABLE = 0x02,
    AT_CONTROL = 0x04,
    AT_TIMER = 0x08,
    AT_GPE_STATUS = 0x20,
    AT_GPE_ENABLE = 0x28,
    AT_SMI_ENABLE = 0x30,
};

struct pm {
    struct device dev;
    uint64_t overflows; // half periods of the timer that are already accounted for
    uint64_t gpe_status;
    uint64_t gpe_enable;
    uint32_t smi_enable; // kept for firmware, without effect but for what it starts with
    uint16_t status;
    uint16_t enable;
    uint16_t control;
    uint8_t apm[2]; // the SMI command and data ports
    uint8_t pad[4];
};

static const struct state_field pm_fields[] = {
    SKIP(struct pm, dev, "wiring, rebuilt from configuration"),
    FIELD(struct pm, overflows),
    FIELD(struct pm, gpe_status),
    FIELD(struct pm, gpe_enable),
    FIELD(struct pm, smi_enable),
    FIELD(struct pm, status),
    FIELD(struct pm, enable),
    FIELD(struct pm, control),
    ARRAY(struct pm, apm),
    SKIP(struct pm, pad, "alignment"),
    FIELDS_END,
};
static const struct state_desc pm_state = STATE_DESC("pm", struct pm, 1, pm_fields);

static struct pm *pm_of(struct device *dev)
{
    return (struct pm *)dev;
}

static uint64_t ticks(struct pm *p)
{
    return ticks_at(p->dev.env->now(&p->dev), PC_PM_TIMER_HZ);
}

// The timer's status is set whenever its highest bit changes.
static void settle(struct pm *p)
{
    uint64_t half = ticks(p) >> (PC_PM_TIMER_BITS - 1);
    if (half != p->overflows)
        p->status |= PM1_TIMER;
    p->overflows = half;
}

// Drives the SCI; waits for the timer's overflow only while it would raise it.
static void update(struct pm *p)
{
    settle(p);
    bool takes = p->control & CONTROL_SCI_EN;
    bool sci = takes && ((p->status & p->enable & ENABLE_BITS) || (p->gpe_status & p->gpe_enable));
    p->dev.env->set_irq(&p->dev, 0, sci);
    ns_t when = NS_NEVER;
    if (takes && (p->enable & PM1_TIMER) && !(p->status & PM1_TIMER))
        when = ticks_to_ns((p->overflows + 1) << (PC_PM_TIMER_BITS - 1), PC_PM_TIMER_HZ);
    p->dev.env->set_timer(&p->dev, 0, when);
}

static void write_control(struct pm *p, uint16_t value)
{
    p->control = value & CONTROL_BITS;
    if ((value & CONTROL_SLEEP) && bits_get(value, 12, 10) == PC_PM_S5)
        p->dev.env->request(&p->dev, MACHINE_POWEROFF, 0);
}

// --- the register block ---

// What the aligned dword at this offset reads as.
static uint32_t read_dword(struct pm *p, uint64_t at)
{
    switch (at) {
    case AT_STATUS: return p->status | (uint32_t)p->enable << 16;
    case AT_CONTROL: return p->control;
    case AT_TIMER: return (uint32_t)(ticks(p) & BITS(PC_PM_TIMER_BITS - 1, 0));
    case AT_GPE_STATUS: return (uint32_t)p->gpe_status;
    case AT_GPE_STATUS + 4: return (uint32_t)(p->gpe_status >> 32);
    case AT_GPE_ENABLE: return (uint32_t)p->gpe_enable;
    case AT_GPE_ENABLE + 4: return (uint32_t)(p->gpe_enable >> 32);
    case AT_SMI_ENABLE: return p->smi_enable;
    default: return 0;
    }
}

static uint64_t pm_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct pm *p = pm_of(dev);
    settle(p);
    uint64_t low = read_dword(p, offset & ~3ull), high = 0;
    if ((offset & 3) + size > 4)
        high = read_dword(p, (offset & ~3ull) + 4);
    return ((low | high << 32) >> (8 * (offset & 3))) & size_mask(size);
}

// One byte; the second byte of the control register does what its sleep enable bit says.
static void write_byte(struct pm *p, uint64_t at, uint8_t value)
{
    unsigned high = at & 1 ? 15 : 7, low = at & 1 ? 8 : 0, gpe = 8 * (at & 7);
    if (at < AT_ENABLE)
        p->status &= (uint16_t) ~((unsigned)value << low); // write one to clear
    else if (at < AT_CONTROL)
        p->enable = (uint16_t)(bits_set(p->enable, high, low, value) & ENABLE_BITS);
    else if (at < AT_CONTROL + 2)
        write_control(p, (uint16_t)bits_set(p->control, high, low, value));
    else if (at >= AT_GPE_STATUS && at < AT_GPE_ENABLE)
        p->gpe_status &= ~((uint64_t)value << gpe);
    else if (at >= AT_GPE_ENABLE && at < AT_GPE_ENABLE + 8)
        p->gpe_enable = bits_set(p->gpe_enable, gpe + 7, gpe, value);
    else if (at >= AT_SMI_ENABLE && at < AT_SMI_ENABLE + 4)
        p->smi_enable = (uint32_t)bits_set(p->smi_enable, 8 * (at & 3) + 7, 8 * (at & 3), value);
}

static void pm_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pm *p = pm_of(dev);
    settle(p);
    for (unsigned i = 0; i < size; i++)
        write_byte(p, offset + i, (uint8_t)(value >> (8 * i)));
    update(p);
}

// --- the SMI command port ---

static uint64_t apm_read(struct device *dev, uint64_t offset, unsigned size)
{
    return pm_of(dev)->apm[offset & 1];
}

static void apm_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pm *p = pm_of(dev);
    p->apm[offset & 1] = (uint8_t)value;
    if (offset)
        return;
    if (value == PC_ACPI_ENABLE)
        p->control |= CONTROL_SCI_EN;
    else if (value == PC_ACPI_DISABLE)
        p->control &= (uint16_t)~CONTROL_SCI_EN;
    update(p);
}

static const struct io_ops pm_ops = {pm_read, pm_write, 1, 4};
static const struct io_ops apm_ops = {apm_read, apm_write, 1, 1};

// --- from outside ---

bool pm_power_button(struct device *dev)
{
    struct pm *p = pm_of(dev);
    p->status |= PM1_POWER_BUTTON;
    update(p);
    return (p->control & CONTROL_SCI_EN) && (p->enable & PM1_POWER_BUTTON);
}

bool pm_gpe(struct device *dev, unsigned event)
{
    struct pm *p = pm_of(dev);
    p->gpe_status |= BIT(event & 63);
    update(p);
    return (p->control & CONTROL_SCI_EN) && (p->gpe_enable & BIT(event & 63));
}

// --- the device ---

static err_t init(struct device *dev, const void *config, struct error *e)
{
    err_t err = dev->env->map_pio(dev, PC_PORT_PM, PC_PM_LEN, &pm_ops);
    if (!err)
        err = dev->env->map_pio(dev, PC_PORT_SMI_CMD, 2, &apm_ops);
    return err ? error_set(e, err, "power management ports are taken") : OK;
}

static void reset(struct device *dev)
{
    struct pm *p = pm_of(dev);
    *p = (struct pm){.dev = p->dev, .smi_enable = SMI_ON_COMMAND};
    p->overflows = ticks(p) >> (PC_PM_TIMER_BITS - 1);
    update(p);
}

static err_t loaded(struct device *dev, struct error *e)
{
    struct pm *p = pm_of(dev);
    if ((p->status & ~STATUS_BITS) || (p->enable & ~ENABLE_BITS) || (p->control & ~CONTROL_BITS) ||
        p->overflows > ticks(p) >> (PC_PM_TIMER_BITS - 1))
        return error_set(e, ERR_CORRUPT, "pm: impossible register values");
    update(p);
    return OK;
}

static void timer(struct device *dev, unsigned which)
{
    update(pm_of(dev));
}

const struct device_type pm_type = {
    .name = "pm",
    .size = sizeof(struct pm),
    .timers = 1,
    .lines = 1,
    .state = &pm_state,
    .init = init,
    .reset = reset,
    .loaded = loaded,
    .timer = timer,
};
