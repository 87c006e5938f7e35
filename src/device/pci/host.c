// The Q35 host bridge (Intel 82Q35 MCH, 8086:29c0) at 00:00.0: configuration mechanism 1 at ports
// 0xcf8/0xcfc, memory-mapped configuration where PCIEXBAR says, and the attributes of the legacy
// memory ranges.
//
// Specification: PCI 3.0, 3.2.2.3.2; PCI Express 3.0, 7.2.2; Intel 3 Series datasheet (MCH
// registers PCIEXBAR 0x60, PAM0-6 0x90, SMRAM 0x9d). What PAM says is carried out by the machine.
// SMRAM keeps what is written but changes nothing: there is no system management mode.
#include "base/bits.h"
#include "base/bytes.h"
#include "device/pci/q35.h"
#include "device/platform.h"

#define ADDRESS_ENABLE 0x80000000u
#define PCIEXBAR Q35_PCIEXBAR
#define PCIEXBAR_ENABLE 0x1u
#define PCIEXBAR_LENGTH 0x6u // 0: 256 MiB, 2: 128 MiB, 4: 64 MiB
#define PCIEXBAR_WRITABLE 0xfc000007u
#define PAM0 Q35_PAM0
#define PAMS 7
#define SMRAM 0x9d
#define LEGACY 0xc0000ull
#define LEGACY_RANGE (16 * KIB)

struct q35_host {
    struct pci_function pci;
    struct q35_host_config config;
    uint64_t ecam;     // where the window is mapped
    uint64_t ecam_len; // 0: nowhere
    uint32_t address;  // CONFIG_ADDRESS, port 0xcf8
    uint32_t pad;
};

static const struct state_field host_fields[] = {
    SUB(struct q35_host, pci, pci_function_state),
    SKIP(struct q35_host, config, "wiring, rebuilt from configuration"),
    SKIP(struct q35_host, ecam, "follows PCIEXBAR"),
    SKIP(struct q35_host, ecam_len, "follows PCIEXBAR"),
    FIELD(struct q35_host, address),
    SKIP(struct q35_host, pad, "padding"),
    FIELDS_END,
};
static const struct state_desc host_state = STATE_DESC("q35-host", struct q35_host, 1, host_fields);

// Our own function is accessed directly: the caller holds its lock already.
static uint32_t forward_read(struct q35_host *h, unsigned bdf, unsigned offset, unsigned size)
{
    if (bdf == h->pci.devfn)
        return pci_config_read(&h->pci, offset, size);
    return pci_bus_read(h->config.bus, bdf, offset, size);
}

static void forward_write(struct q35_host *h, unsigned bdf, unsigned offset, unsigned size,
                          uint32_t value)
{
    if (bdf == h->pci.devfn)
        pci_config_write(&h->pci, offset, size, value);
    else
        pci_bus_write(h->config.bus, bdf, offset, size, value);
}

static uint64_t address_read(struct device *dev, uint64_t offset, unsigned size)
{
    return ((struct q35_host *)dev)->address;
}

static void address_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    ((struct q35_host *)dev)->address = (uint32_t)value & 0x80fffffc;
}

static uint64_t data_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct q35_host *h = (struct q35_host *)dev;

    if (!(h->address & ADDRESS_ENABLE) || offset + size > 4)
        return size_mask(size);
    return forward_read(h, (h->address >> 8) & 0xffff, (h->address & 0xfc) + (unsigned)offset,
                        size);
}

static void data_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct q35_host *h = (struct q35_host *)dev;

    if ((h->address & ADDRESS_ENABLE) && offset + size <= 4)
        forward_write(h, (h->address >> 8) & 0xffff, (h->address & 0xfc) + (unsigned)offset, size,
                      (uint32_t)value);
}

// ECAM: bits 27:20 are the bus, 19:12 device and function, 11:0 the register. An access that
// crosses the function's 4 KiB is no configuration request.
static uint64_t ecam_read(struct device *dev, uint64_t offset, unsigned size)
{
    if ((offset & 0xfff) + size > 0x1000)
        return size_mask(size);
    return forward_read((struct q35_host *)dev, (unsigned)(offset >> 12), offset & 0xfff, size);
}

static void ecam_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    if ((offset & 0xfff) + size <= 0x1000)
        forward_write((struct q35_host *)dev, (unsigned)(offset >> 12), offset & 0xfff, size,
                      (uint32_t)value);
}

static const struct io_ops address_ops = {address_read, address_write, .min_size = 4,
                                          .max_size = 4};
static const struct io_ops data_ops = {data_read, data_write, .min_size = 1, .max_size = 4};
static const struct io_ops ecam_ops = {ecam_read, ecam_write, .min_size = 1, .max_size = 4};

// --- the registers of its own function ---

uint64_t q35_ecam(uint32_t low, uint32_t high, uint64_t *len)
{
    unsigned shift = (low & PCIEXBAR_LENGTH) >> 1;

    *len = shift < 3 ? PC_ECAM_SIZE >> shift : 0;
    if (!(low & PCIEXBAR_ENABLE) || !*len)
        return 0;
    return ((uint64_t)high << 32 | low) & ~(*len - 1);
}

// A window whose place is taken stays closed.
static void update_ecam(struct q35_host *h)
{
    struct device *dev = &h->pci.dev;
    uint64_t len, at = q35_ecam(pci_register(&h->pci, PCIEXBAR, 4),
                                pci_register(&h->pci, PCIEXBAR + 4, 4), &len);

    if (h->ecam_len)
        dev->env->unmap_mmio(dev, h->ecam, h->ecam_len);
    h->ecam = at;
    h->ecam_len = at && dev->env->map_mmio(dev, at, len, &ecam_ops) == OK ? len : 0;
}

// PAM0 has the attributes of 0xf0000-0xfffff in its high half; the others have 16 KiB each half.
void q35_legacy_ranges(const struct device *dev, uint8_t out[Q35_LEGACY_RANGES])
{
    const struct pci_function *f = &((const struct q35_host *)dev)->pci;

    for (unsigned i = 0; i < Q35_LEGACY_RANGES - 4; i++)
        out[i] = f->config[PAM0 + 1 + i / 2] >> (i & 1 ? 4 : 0) & 3;
    for (unsigned i = Q35_LEGACY_RANGES - 4; i < Q35_LEGACY_RANGES; i++)
        out[i] = f->config[PAM0] >> 4 & 3;
}

// What no mapping of the machine takes: reads of a range that is not there, writes to ROM. Those of
// a range that shows ROM and writes RAM reach the RAM: so a BIOS copies itself.
static uint64_t legacy_read(struct device *dev, uint64_t offset, unsigned size)
{
    return size_mask(size);
}

static void legacy_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    uint8_t range[Q35_LEGACY_RANGES], bytes[8];

    q35_legacy_ranges(dev, range);
    store_le64(bytes, value);
    if (range[offset / LEGACY_RANGE] == Q35_LEGACY_WRITE_RAM)
        (void)dev->env->dma_write(dev, LEGACY + offset, bytes, size);
}

static const struct io_ops legacy_ops = {legacy_read, legacy_write, .min_size = 1, .max_size = 8};

static void tell_legacy_ranges(struct q35_host *h)
{
    if (h->config.legacy_changed)
        h->config.legacy_changed(h->config.opaque);
}

static void host_written(struct pci_function *f, unsigned offset, unsigned size)
{
    struct q35_host *h = (struct q35_host *)f;

    if (offset < PCIEXBAR + 8 && offset + size > PCIEXBAR)
        update_ecam(h);
    if (offset < PAM0 + PAMS && offset + size > PAM0)
        tell_legacy_ranges(h);
}

static const struct pci_hooks host_hooks = {.after_write = host_written};

static void init_registers(struct pci_function *f)
{
    static const struct pci_id id = {
        .vendor = 0x8086, .device = 0x29c0, .class_code = 0x060000, .revision = 2};

    pci_init(f, &id, &host_hooks);
    pci_set_register(f, PCIEXBAR, 4, (uint32_t)PC_ECAM, PCIEXBAR_WRITABLE);
    pci_set_register(f, PCIEXBAR + 4, 4, 0, 0xf);
    for (unsigned pam = 0; pam < PAMS; pam++)
        pci_set_register(f, PAM0 + pam, 1, 0, pam ? 0x33 : 0x30);
    pci_set_register(f, SMRAM, 1, 0x02, 0x78); // closed, segment 0xa0000
}

static err_t host_init(struct device *dev, const void *config, struct error *e)
{
    struct q35_host *h = (struct q35_host *)dev;

    h->config = *(const struct q35_host_config *)config;
    init_registers(&h->pci);
    if (dev->env->map_pio(dev, PC_PORT_PCI_ADDRESS, 1, &address_ops) != OK ||
        dev->env->map_pio(dev, PC_PORT_PCI_DATA, 4, &data_ops) != OK ||
        dev->env->map_mmio(dev, LEGACY, Q35_LEGACY_RANGES * LEGACY_RANGE, &legacy_ops) != OK)
        return error_set(e, ERR_EXISTS, "the PCI configuration ports are taken");
    return pci_bus_plug(h->config.bus, &h->pci, PCI_DEVFN(PC_SLOT_HOST, 0), e);
}

static void host_reset(struct device *dev)
{
    struct q35_host *h = (struct q35_host *)dev;

    pci_reset(&h->pci);
    h->address = 0;
    update_ecam(h);
    tell_legacy_ranges(h);
}

static err_t host_loaded(struct device *dev, struct error *e)
{
    struct q35_host *h = (struct q35_host *)dev;

    err_t err = pci_loaded(&h->pci, e);

    h->address &= 0x80fffffc;
    update_ecam(h);
    tell_legacy_ranges(h);
    return err;
}

const struct device_type q35_host_type = {
    .name = "q35-host",
    .size = sizeof(struct q35_host),
    .lines = 1,
    .state = &host_state,
    .init = host_init,
    .reset = host_reset,
    .loaded = host_loaded,
};
