// One PCI function: its configuration header, BARs and INTx pin.
//
// Specification: PCI 3.0, chapter 6 (configuration space), 6.2.5 (base addresses, expansion ROM),
// 6.2.2 and 6.2.3 (command and status). Sizing a BAR needs no code: the bits below its size are not
// writable. Not modelled: parity and system errors, power management.
#include "device/pci/function_impl.h"

#include "base/bits.h"
#include "base/bytes.h"
#include "device/pci/pci.h"

#define BAR_IO 0x1u
#define BAR_MEM64 0x4u
#define ROM_SIZE_MIN 2048ull // the fewest address bits that a ROM's register may leave out

static const struct state_field function_fields[] = {
    SKIP(struct pci_function, dev, "wiring, rebuilt from configuration"),
    SKIP(struct pci_function, hooks, "set by the model"),
    SKIP(struct pci_function, bars,
         "layout set by the model; where they are mapped follows config"),
    SKIP(struct pci_function, rom, "set by the model"),
    SKIP(struct pci_function, rom_len, "set by the model"),
    ARRAY(struct pci_function, msix_address),
    FIELD(struct pci_function, msix_pending),
    ARRAY(struct pci_function, msix_data),
    ARRAY(struct pci_function, msix_control),
    ARRAY(struct pci_function, config),
    SKIP(struct pci_function, initial, "set by the model"),
    SKIP(struct pci_function, writable, "set by the model"),
    SKIP(struct pci_function, clearable, "set by the model"),
    FIELD(struct pci_function, intx),
    FIELD(struct pci_function, msi_pending),
    SKIP(struct pci_function, intx_out, "follows intx and config"),
    SKIP(struct pci_function, devfn, "set by the bus"),
    SKIP(struct pci_function, cap_end, "set by the model"),
    SKIP(struct pci_function, cap_last, "set by the model"),
    SKIP(struct pci_function, msi_cap, "set by the model"),
    SKIP(struct pci_function, msix_cap, "set by the model"),
    SKIP(struct pci_function, msix_vectors, "set by the model"),
    SKIP(struct pci_function, pad, "padding"),
    FIELDS_END,
};
const struct state_desc pci_function_state =
    STATE_DESC("pci-function", struct pci_function, 1, function_fields);

uint32_t pci_register(const struct pci_function *f, unsigned offset, unsigned size)
{
    return (uint32_t)load_le(f->config + offset, size);
}

void pci_set_register(struct pci_function *f, unsigned offset, unsigned size, uint32_t value,
                      uint32_t writable)
{
    store_le(f->initial + offset, size, value);
    store_le(f->config + offset, size, value);
    store_le(f->writable + offset, size, writable);
}

void pci_init(struct pci_function *f, const struct pci_id *id, const struct pci_hooks *hooks)
{
    f->hooks = hooks;
    f->cap_end = 0x40;
    pci_set_register(f, PCI_VENDOR, 2, id->vendor, 0);
    pci_set_register(f, PCI_DEVICE, 2, id->device, 0);
    pci_set_register(f, PCI_COMMAND, 2, 0,
                     PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
                         PCI_COMMAND_INTX_DISABLE);
    store_le16(f->clearable + PCI_STATUS, PCI_STATUS_CLEARABLE);
    pci_set_register(f, PCI_REVISION, 4, id->class_code << 8 | id->revision, 0);
    pci_set_register(f, PCI_CACHE_LINE, 1, 0, 0xff);
    pci_set_register(f, PCI_SUBSYSTEM_VENDOR, 2, id->subsystem_vendor, 0);
    pci_set_register(f, PCI_SUBSYSTEM, 2, id->subsystem, 0);
    pci_set_register(f, PCI_INTERRUPT_LINE, 1, 0, 0xff);
    pci_set_register(f, PCI_INTERRUPT_PIN, 1, id->pin, 0);
}

void pci_add_bar(struct pci_function *f, unsigned index, enum pci_bar_kind kind, uint64_t size,
                 const struct io_ops *ops)
{
    unsigned offset = PCI_BAR0 + 4 * index;
    uint64_t address_bits = ~(size - 1);

    f->bars[index] = (struct pci_bar){.size = size, .ops = ops, .kind = kind};
    if (kind == PCI_BAR_IO) {
        // All 32 bits, though I/O space has 16: SeaBIOS takes zeros above for a size of gigabytes.
        pci_set_register(f, offset, 4, BAR_IO, (uint32_t)address_bits);
        f->writable[PCI_COMMAND] |= PCI_COMMAND_IO;
        return;
    }
    f->writable[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
    pci_set_register(f, offset, 4, kind == PCI_BAR_MEM64 ? BAR_MEM64 : 0, (uint32_t)address_bits);
    if (kind == PCI_BAR_MEM64)
        pci_set_register(f, offset + 4, 4, 0, (uint32_t)(address_bits >> 32));
}

// Bytes behind the image read as ones, as an unwritten part of the chip.
static uint64_t rom_read(struct device *dev, uint64_t offset, unsigned size)
{
    const struct pci_function *f = pci_function_of(dev);
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++)
        value |= (offset + i < f->rom_len ? f->rom[offset + i] : 0xffull) << (8 * i);
    return value;
}

static void rom_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
}

static const struct io_ops rom_ops = {rom_read, rom_write, .min_size = 1, .max_size = 8};

void pci_add_rom(struct pci_function *f, const uint8_t *image, uint64_t len, uint64_t room)
{
    uint64_t size = ROM_SIZE_MIN;

    while (size < len || size < room)
        size *= 2;
    f->rom = image;
    f->rom_len = len;
    f->bars[PCI_ROM_BAR] = (struct pci_bar){.size = size, .ops = &rom_ops, .kind = PCI_BAR_ROM};
    f->writable[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
    pci_set_register(f, PCI_ROM, 4, 0, (uint32_t) ~(size - 1) | PCI_ROM_ENABLE);
}

unsigned pci_add_capability(struct pci_function *f, uint8_t id, unsigned len)
{
    unsigned at = f->cap_end;
    unsigned link = f->cap_last ? f->cap_last + 1u : PCI_CAPABILITIES;

    pci_set_register(f, link, 1, at, 0);
    pci_set_register(f, at, 1, id, 0);
    pci_set_register(f, PCI_STATUS, 2, PCI_STATUS_CAPABILITIES, 0);
    f->cap_last = (uint8_t)at;
    f->cap_end = (uint8_t)align_up(at + len, 4);
    return at;
}

// --- BARs ---

// Where the registers place a BAR; 0 when its decoding is off or nobody has given it an address.
static uint64_t bar_address(const struct pci_function *f, unsigned index)
{
    const struct pci_bar *bar = &f->bars[index];
    unsigned command = pci_register(f, PCI_COMMAND, 2);
    unsigned offset = index == PCI_ROM_BAR ? PCI_ROM : PCI_BAR0 + 4 * index;
    uint64_t address = pci_register(f, offset, 4);

    if (!(command & (bar->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
        return 0;
    if (bar->kind == PCI_BAR_ROM && !(address & PCI_ROM_ENABLE))
        return 0;
    if (bar->kind == PCI_BAR_MEM64)
        address |= (uint64_t)pci_register(f, PCI_BAR0 + 4 * index + 4, 4) << 32;
    return address & ~(bar->size - 1);
}

static void tell_moved(struct pci_function *f, const struct pci_bar *bar)
{
    if (f->hooks && f->hooks->bar_moved)
        f->hooks->bar_moved(f, (unsigned)(bar - f->bars), bar->mapped);
}

static void unmap_bar(struct pci_function *f, struct pci_bar *bar)
{
    struct device *dev = &f->dev;

    if (!bar->mapped)
        return;
    if (bar->kind == PCI_BAR_IO)
        dev->env->unmap_pio(dev, (uint16_t)bar->mapped, (uint32_t)bar->size);
    else
        dev->env->unmap_mmio(dev, bar->mapped, bar->size);
    bar->mapped = 0;
    tell_moved(f, bar);
}

// An address that is taken, or wraps as it does while a guest sizes the BAR, leaves it unmapped.
static void map_bar(struct pci_function *f, struct pci_bar *bar, uint64_t at)
{
    struct device *dev = &f->dev;
    uint64_t space = bar->kind == PCI_BAR_IO      ? 1ull << 16
                     : bar->kind == PCI_BAR_MEM64 ? 1ull << 52
                                                  : 1ull << 32;
    err_t err;

    if (!at || at >= space - bar->size)
        return;
    if (bar->kind == PCI_BAR_IO)
        err = dev->env->map_pio(dev, (uint16_t)at, (uint32_t)bar->size, bar->ops);
    else
        err = dev->env->map_mmio(dev, at, bar->size, bar->ops);
    if (err != OK)
        return;
    bar->mapped = at;
    tell_moved(f, bar);
}

// Unmaps all that must move first, so that two BARs of a function can change places.
static void update_bars(struct pci_function *f)
{
    for (unsigned i = 0; i <= PCI_ROM_BAR; i++) {
        struct pci_bar *bar = &f->bars[i];
        if (bar->kind != PCI_BAR_NONE && bar->mapped != bar_address(f, i))
            unmap_bar(f, bar);
    }
    for (unsigned i = 0; i <= PCI_ROM_BAR; i++) {
        struct pci_bar *bar = &f->bars[i];
        if (bar->kind != PCI_BAR_NONE && !bar->mapped)
            map_bar(f, bar, bar_address(f, i));
    }
}

// --- INTx ---

static bool intx_allowed(const struct pci_function *f)
{
    return !(pci_register(f, PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE) && !pci_msi_enabled(f) &&
           !pci_msix_enabled(f);
}

static void update_intx(struct pci_function *f)
{
    bool out = f->intx && intx_allowed(f);

    if (out == f->intx_out)
        return;
    f->intx_out = out;
    f->dev.env->set_irq(&f->dev, 0, out);
}

void pci_set_intx(struct pci_function *f, bool level)
{
    f->intx = level;
    update_intx(f);
}

bool pci_is_master(const struct pci_function *f)
{
    return pci_register(f, PCI_COMMAND, 2) & PCI_COMMAND_MASTER;
}

// --- Accesses ---

uint32_t pci_config_read(struct pci_function *f, unsigned offset, unsigned size)
{
    uint8_t view[4];

    if (offset + size > PCI_CONFIG_SIZE)
        return (uint32_t)size_mask(size);
    if (f->hooks && f->hooks->before_read)
        f->hooks->before_read(f, offset, size);
    for (unsigned i = 0; i < size; i++) {
        unsigned at = offset + i;
        view[i] = f->config[at];
        if (at == PCI_STATUS && f->intx)
            view[i] |= PCI_STATUS_INTX;
        if (f->msi_cap && at == f->msi_cap + (unsigned)PCI_MSI_PENDING)
            view[i] |= f->msi_pending;
    }
    return (uint32_t)load_le(view, size);
}

void pci_config_write(struct pci_function *f, unsigned offset, unsigned size, uint32_t value)
{
    if (offset + size > PCI_CONFIG_SIZE)
        return;
    for (unsigned i = 0; i < size; i++) {
        unsigned at = offset + i;
        uint8_t byte = (uint8_t)(value >> (8 * i));
        f->config[at] = (uint8_t)((f->config[at] & ~f->writable[at]) | (byte & f->writable[at]));
        f->config[at] &= (uint8_t) ~(byte & f->clearable[at]);
    }
    if (offset < PCI_ROM + 4)
        update_bars(f);
    pci_flush_messages(f);
    update_intx(f);
    if (f->hooks && f->hooks->messages_changed)
        f->hooks->messages_changed(f);
    if (f->hooks && f->hooks->after_write)
        f->hooks->after_write(f, offset, size);
}

// --- Life ---

void pci_reset(struct pci_function *f)
{
    __builtin_memcpy(f->config, f->initial, sizeof f->config);
    update_bars(f);
    pci_reset_messages(f);
    f->intx = 0;
    update_intx(f);
}

err_t pci_loaded(struct pci_function *f, struct error *e)
{
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        uint8_t fixed = (uint8_t) ~(f->writable[i] | f->clearable[i]);
        if ((f->config[i] ^ f->initial[i]) & fixed)
            return error_set(e, ERR_CORRUPT,
                             "PCI configuration byte %#x is %#x, this device has %#x", i,
                             f->config[i], f->initial[i]);
    }
    if (f->intx > 1 || f->msi_pending > 1)
        return error_set(e, ERR_CORRUPT, "PCI interrupt state is not 0 or 1");
    err_t err = pci_check_messages(f, e);
    if (err != OK)
        return err;
    update_bars(f);
    f->intx_out = f->intx && intx_allowed(f);
    f->dev.env->set_irq(&f->dev, 0, f->intx_out);
    return OK;
}

void pci_fini(struct pci_function *f)
{
    for (unsigned i = 0; i <= PCI_ROM_BAR; i++)
        unmap_bar(f, &f->bars[i]);
}
