// The I/O APIC: turns the levels of 24 pins into messages to local APICs.
//
// Sources: Intel 82093AA datasheet (290566); ICH9 datasheet section 13.5 for version 0x20 with its
// EOI register. Not modelled: input polarity (lines arrive as asserted or not), delivery status
// (messages arrive at once), the arbitration ID (there is no APIC bus; it reads as the ID).
#include "device/irq/ioapic.h"

#include "base/bits.h"

#define RTE_VECTOR 0xffull
#define RTE_REMOTE_IRR BIT(14)
#define RTE_LEVEL BIT(15)
#define RTE_MASKED BIT(16)
#define RTE_READ_ONLY (BIT(12) | BIT(14))
#define RTE_WRITABLE (BITS(63, 56) | BITS(16, 0))

#define VERSION 0x20

#define WINDOW_SIZE 0x1000
#define AT_INDEX 0x00
#define AT_DATA 0x10
#define AT_EOI 0x40

enum { REG_ID, REG_VERSION, REG_ARBITRATION, REG_ENTRIES = 0x10 };

struct ioapic {
    struct device dev;
    struct ioapic_config config;
    uint64_t entry[IOAPIC_PINS];
    uint32_t lines; // input levels
    uint8_t index;
    uint8_t id;
    uint8_t pad[2];
};

static const struct state_field ioapic_fields[] = {
    SKIP(struct ioapic, dev, "wiring, rebuilt from configuration"),
    SKIP(struct ioapic, config, "wiring, rebuilt from configuration"),
    ARRAY(struct ioapic, entry),
    FIELD(struct ioapic, lines),
    FIELD(struct ioapic, index),
    FIELD(struct ioapic, id),
    SKIP(struct ioapic, pad, "alignment"),
    FIELDS_END,
};
static const struct state_desc ioapic_state = STATE_DESC("ioapic", struct ioapic, 1, ioapic_fields);

static struct ioapic *ioapic_of(struct device *dev)
{
    return (struct ioapic *)dev;
}

static struct apic_message message(uint64_t entry)
{
    return (struct apic_message){
        .dest = (uint32_t)bits_get(entry, 63, 56),
        .logical = (uint8_t)bits_get(entry, 11, 11),
        .delivery = (uint8_t)bits_get(entry, 10, 8),
        .vector = (uint8_t)(entry & RTE_VECTOR),
        .trigger = (entry & RTE_LEVEL) != 0,
        .level = 1,
    };
}

// True when some local APIC took it.
static bool send(struct ioapic *io, uint64_t entry)
{
    struct apic_message m = message(entry);
    return io->config.deliver(io->config.opaque, &m);
}

// Only fixed and lowest priority interrupts are ended by an EOI.
static bool awaits_eoi(uint64_t entry)
{
    return (entry & RTE_LEVEL) && bits_get(entry, 10, 8) <= APIC_LOWEST;
}

static void announce(struct ioapic *io, unsigned pin)
{
    uint64_t entry = io->entry[pin];
    struct apic_message m = message(entry);
    if (io->config.awaits)
        io->config.awaits(io->config.opaque, pin,
                          awaits_eoi(entry) && !(entry & RTE_MASKED) ? &m : NULL);
}

void ioapic_announce(struct device *dev)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        announce(ioapic_of(dev), pin);
}

// Sends a level-triggered interrupt if its line asks for one that is not already being served.
static void service_level(struct ioapic *io, unsigned pin)
{
    uint64_t entry = io->entry[pin];
    if (!(entry & RTE_LEVEL) || (entry & (RTE_MASKED | RTE_REMOTE_IRR)) ||
        !(io->lines & (1u << pin)))
        return;
    if (send(io, entry) && awaits_eoi(entry))
        io->entry[pin] |= RTE_REMOTE_IRR;
}

void ioapic_set_line(struct device *dev, unsigned pin, bool level)
{
    struct ioapic *io = ioapic_of(dev);
    if (pin >= IOAPIC_PINS)
        return;
    uint32_t bit = 1u << pin;
    bool rises = level && !(io->lines & bit);
    io->lines = level ? io->lines | bit : io->lines & ~bit;
    uint64_t entry = io->entry[pin];
    if (entry & RTE_LEVEL)
        service_level(io, pin);
    else if (rises && !(entry & RTE_MASKED)) // an edge on a masked pin is lost (section 3.2.4)
        (void)send(io, entry);
}

void ioapic_eoi(struct device *dev, uint8_t vector)
{
    struct ioapic *io = ioapic_of(dev);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t entry = io->entry[pin];
        if (!(entry & RTE_REMOTE_IRR) || (entry & RTE_VECTOR) != vector)
            continue;
        io->entry[pin] &= ~RTE_REMOTE_IRR;
        service_level(io, pin);
    }
}

static uint32_t read_register(const struct ioapic *io)
{
    unsigned n = io->index;
    if (n >= REG_ENTRIES && n < REG_ENTRIES + 2 * IOAPIC_PINS)
        return (uint32_t)(io->entry[(n - REG_ENTRIES) / 2] >> (n & 1 ? 32 : 0));
    switch (n) {
    case REG_ID:
    case REG_ARBITRATION: return (uint32_t)io->id << 24;
    case REG_VERSION: return VERSION | (IOAPIC_PINS - 1) << 16;
    default: return 0;
    }
}

static void write_entry(struct ioapic *io, unsigned pin, bool high, uint32_t value)
{
    uint64_t old = io->entry[pin];
    uint64_t entry = high ? bits_set(old, 63, 32, value) : bits_set(old, 31, 0, value);
    entry = (entry & RTE_WRITABLE & ~RTE_READ_ONLY) | (old & RTE_READ_ONLY);
    if (!awaits_eoi(entry))
        entry &= ~RTE_REMOTE_IRR; // nobody would end it
    io->entry[pin] = entry;
    announce(io, pin);
    service_level(io, pin);
}

static void write_register(struct ioapic *io, uint32_t value)
{
    unsigned n = io->index;
    if (n == REG_ID)
        io->id = (uint8_t)bits_get(value, 27, 24);
    else if (n >= REG_ENTRIES && n < REG_ENTRIES + 2 * IOAPIC_PINS)
        write_entry(io, (n - REG_ENTRIES) / 2, n & 1, value);
}

static uint64_t mmio_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct ioapic *io = ioapic_of(dev);
    switch (offset) {
    case AT_INDEX: return io->index;
    case AT_DATA: return read_register(io) & size_mask(size);
    default: return 0;
    }
}

static void mmio_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct ioapic *io = ioapic_of(dev);
    switch (offset) {
    case AT_INDEX: io->index = (uint8_t)value; break;
    case AT_DATA:
        if (size == 4)
            write_register(io, (uint32_t)value);
        break;
    case AT_EOI: ioapic_eoi(dev, (uint8_t)value); break;
    default: break;
    }
}

static const struct io_ops mmio_ops = {mmio_read, mmio_write, 1, 4};

static err_t init(struct device *dev, const void *config, struct error *e)
{
    struct ioapic *io = ioapic_of(dev);
    io->config = *(const struct ioapic_config *)config;
    err_t err = dev->env->map_mmio(dev, io->config.base, WINDOW_SIZE, &mmio_ops);
    return err ? error_set(e, err, "the I/O APIC's address is taken") : OK;
}

static void reset(struct device *dev)
{
    struct ioapic *io = ioapic_of(dev);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        io->entry[pin] = RTE_MASKED;
    io->index = 0;
    io->id = io->config.id & 0xf;
}

void ioapic_export(const struct device *dev, struct chip_ioapic *out)
{
    const struct ioapic *io = (const struct ioapic *)dev;
    *out = (struct chip_ioapic){.lines = io->lines, .index = io->index, .id = io->id};
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        out->entry[pin] = io->entry[pin];
}

void ioapic_import(struct device *dev, const struct chip_ioapic *in)
{
    struct ioapic *io = ioapic_of(dev);
    io->lines = in->lines;
    io->index = in->index;
    io->id = in->id & 0xf;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        io->entry[pin] = in->entry[pin] & (RTE_WRITABLE | RTE_REMOTE_IRR);
        if (!awaits_eoi(io->entry[pin]))
            io->entry[pin] &= ~RTE_REMOTE_IRR;
    }
}

static err_t loaded(struct device *dev, struct error *e)
{
    struct ioapic *io = ioapic_of(dev);
    if (io->lines >> IOAPIC_PINS || io->id > 0xf)
        return error_set(e, ERR_CORRUPT, "ioapic: impossible register values");
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t entry = io->entry[pin];
        if ((entry & ~(RTE_WRITABLE | RTE_READ_ONLY)) ||
            ((entry & RTE_REMOTE_IRR) && !awaits_eoi(entry)))
            return error_set(e, ERR_CORRUPT, "ioapic: impossible redirection entry %u", pin);
    }
    return OK;
}

const struct device_type ioapic_type = {
    .name = "ioapic",
    .size = sizeof(struct ioapic),
    .state = &ioapic_state,
    .init = init,
    .reset = reset,
    .loaded = loaded,
};
