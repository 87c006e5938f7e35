// Message-signalled interrupts of a PCI function: MSI with one maskable message, and MSI-X with its
// table and pending bits in a BAR of their own (table at 0, pending bits at 0x800).
//
// Specification: PCI 3.0, 6.8.1 (MSI) and 6.8.2 (MSI-X). Not modelled: several MSI messages.
#include "base/bits.h"
#include "base/bytes.h"
#include "device/pci/function_impl.h"

#define MSIX_BAR_SIZE 4096
#define MSIX_PBA 0x800
#define MSIX_ENTRY 16

// --- MSI ---

void pci_add_msi(struct pci_function *f)
{
    unsigned at = pci_add_capability(f, PCI_CAP_MSI, PCI_MSI_LEN);

    f->msi_cap = (uint8_t)at;
    // 64-bit address, per-vector masking, one message.
    pci_set_register(f, at + PCI_MSI_CONTROL, 2, 0x180, PCI_MSI_ENABLE);
    pci_set_register(f, at + PCI_MSI_ADDRESS, 4, 0, 0xfffffffc);
    pci_set_register(f, at + PCI_MSI_ADDRESS + 4, 4, 0, 0xffffffff);
    pci_set_register(f, at + PCI_MSI_DATA, 2, 0, 0xffff);
    pci_set_register(f, at + PCI_MSI_MASK, 4, 0, 1);
}

bool pci_msi_enabled(const struct pci_function *f)
{
    return f->msi_cap &&
           (pci_register(f, f->msi_cap + (unsigned)PCI_MSI_CONTROL, 2) & PCI_MSI_ENABLE);
}

static void flush_msi(struct pci_function *f)
{
    unsigned at = f->msi_cap;

    if (!f->msi_pending || !pci_msi_enabled(f) || !pci_is_master(f) ||
        (pci_register(f, at + PCI_MSI_MASK, 4) & 1))
        return;
    f->msi_pending = 0;
    f->dev.env->send_msi(&f->dev, load_le64(f->config + at + PCI_MSI_ADDRESS),
                         pci_register(f, at + PCI_MSI_DATA, 2));
}

void pci_send_msi(struct pci_function *f)
{
    if (!pci_msi_enabled(f))
        return;
    f->msi_pending = 1;
    flush_msi(f);
}

// --- MSI-X ---

bool pci_msix_enabled(const struct pci_function *f)
{
    return f->msix_cap &&
           (pci_register(f, f->msix_cap + (unsigned)PCI_MSIX_CONTROL, 2) & PCI_MSIX_ENABLE);
}

static bool msix_blocked(const struct pci_function *f)
{
    unsigned control = pci_register(f, f->msix_cap + (unsigned)PCI_MSIX_CONTROL, 2);

    return !(control & PCI_MSIX_ENABLE) || (control & PCI_MSIX_FUNCTION_MASK) || !pci_is_master(f);
}

static void flush_msix(struct pci_function *f)
{
    uint64_t pending = f->msix_pending;

    if (!pending || msix_blocked(f))
        return;
    for (; pending; pending &= pending - 1) {
        unsigned i = (unsigned)__builtin_ctzll(pending);
        if (f->msix_control[i] & PCI_MSIX_VECTOR_MASKED)
            continue;
        f->msix_pending &= ~BIT(i);
        f->dev.env->send_msi(&f->dev, f->msix_address[i], f->msix_data[i]);
    }
}

void pci_send_msix(struct pci_function *f, unsigned vector)
{
    if (!pci_msix_enabled(f) || vector >= f->msix_vectors)
        return;
    f->msix_pending |= BIT(vector);
    flush_msix(f);
}

bool pci_msix_message(const struct pci_function *f, unsigned vector, uint64_t *address,
                      uint32_t *data)
{
    if (vector >= f->msix_vectors || msix_blocked(f) ||
        (f->msix_control[vector] & PCI_MSIX_VECTOR_MASKED))
        return false;
    *address = f->msix_address[vector];
    *data = f->msix_data[vector];
    return true;
}

static uint32_t table_word(const struct pci_function *f, uint64_t offset)
{
    unsigned i = (unsigned)(offset / MSIX_ENTRY);

    switch (offset % MSIX_ENTRY) {
    case 0: return (uint32_t)f->msix_address[i];
    case 4: return (uint32_t)(f->msix_address[i] >> 32);
    case 8: return f->msix_data[i];
    default: return f->msix_control[i];
    }
}

static uint32_t msix_word(const struct pci_function *f, uint64_t offset)
{
    if (offset < MSIX_ENTRY * (uint64_t)f->msix_vectors)
        return table_word(f, offset);
    if (offset == MSIX_PBA || offset == MSIX_PBA + 4)
        return (uint32_t)(f->msix_pending >> (offset - MSIX_PBA) * 8);
    return 0;
}

static void write_table_word(struct pci_function *f, uint64_t offset, uint32_t value)
{
    unsigned i = (unsigned)(offset / MSIX_ENTRY);

    switch (offset % MSIX_ENTRY) {
    case 0: f->msix_address[i] = bits_set(f->msix_address[i], 31, 0, value & ~3u); break;
    case 4: f->msix_address[i] = bits_set(f->msix_address[i], 63, 32, value); break;
    case 8: f->msix_data[i] = value; break;
    default: f->msix_control[i] = value & PCI_MSIX_VECTOR_MASKED; break;
    }
}

// Software may use 4 and 8 byte accesses, aligned; others are undefined and do nothing here.
static uint64_t msix_read(struct device *dev, uint64_t offset, unsigned size)
{
    const struct pci_function *f = pci_function_of(dev);
    uint64_t value;

    if (offset % size)
        return 0;
    value = msix_word(f, offset);
    return size == 8 ? value | (uint64_t)msix_word(f, offset + 4) << 32 : value;
}

static void msix_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_function *f = pci_function_of(dev);

    if (offset % size || offset >= MSIX_ENTRY * (uint64_t)f->msix_vectors)
        return;
    write_table_word(f, offset, (uint32_t)value);
    if (size == 8)
        write_table_word(f, offset + 4, (uint32_t)(value >> 32));
    flush_msix(f);
    if (f->hooks && f->hooks->messages_changed)
        f->hooks->messages_changed(f);
}

static const struct io_ops msix_ops = {msix_read, msix_write, .min_size = 4, .max_size = 8};

void pci_add_msix(struct pci_function *f, unsigned vectors, unsigned bar)
{
    unsigned at = pci_add_capability(f, PCI_CAP_MSIX, PCI_MSIX_LEN);

    pci_add_bar(f, bar, PCI_BAR_MEM32, MSIX_BAR_SIZE, &msix_ops);
    f->msix_cap = (uint8_t)at;
    f->msix_vectors = (uint8_t)vectors;
    pci_set_register(f, at + PCI_MSIX_CONTROL, 2, vectors - 1,
                     PCI_MSIX_ENABLE | PCI_MSIX_FUNCTION_MASK);
    pci_set_register(f, at + PCI_MSIX_TABLE, 4, bar, 0);
    pci_set_register(f, at + PCI_MSIX_PBA, 4, MSIX_PBA | bar, 0);
    pci_reset_messages(f);
}

// --- Both ---

void pci_flush_messages(struct pci_function *f)
{
    flush_msi(f);
    flush_msix(f);
}

void pci_reset_messages(struct pci_function *f)
{
    f->msi_pending = 0;
    f->msix_pending = 0;
    for (unsigned i = 0; i < PCI_MSIX_MAX; i++) {
        f->msix_address[i] = 0;
        f->msix_data[i] = 0;
        f->msix_control[i] = PCI_MSIX_VECTOR_MASKED;
    }
}

err_t pci_check_messages(const struct pci_function *f, struct error *e)
{
    uint64_t vectors = f->msix_vectors ? BITS(f->msix_vectors - 1u, 0) : 0;

    if (f->msix_pending & ~vectors)
        return error_set(e, ERR_CORRUPT, "MSI-X vectors are pending that do not exist");
    for (unsigned i = 0; i < PCI_MSIX_MAX; i++) {
        if (f->msix_control[i] & ~(uint32_t)PCI_MSIX_VECTOR_MASKED || f->msix_address[i] & 3)
            return error_set(e, ERR_CORRUPT, "MSI-X table entry %u has reserved bits", i);
    }
    return OK;
}
