// The VGA as a PCI function: BARs, reset, state.
//
// Specification: docs/display.md lists the sources. The ids are those under
// which QEMU's standard VGA is known, because drivers look for them: 1234:1111, revision 2 (with
// the extended registers in BAR 2). BAR 0 is VRAM: mapped into the guest as memory; io_ops serve it
// while the map changes. VRAM is not in the state table: like RAM it belongs to the machine. The
// legacy ports and window answer whether or not PCI decoding is on. Not modelled: interrupts, a
// second head.
#include "base/bits.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "device/display/vga_impl.h"

#define BAR_PREFETCHABLE 0x8u
#define BAR_VRAM 0
#define BAR_MMIO 2

static const struct state_field fields[] = {
    SUB(struct vga, pci, pci_function_state),
    SKIP(struct vga, vram, "wiring; its content is memory of the machine"),
    SKIP(struct vga, mapped, "follows the BAR"),
    SKIP(struct vga, dirty, "what a front end has not seen yet"),
    SKIP(struct vga, vram_bytes, "wiring, rebuilt from configuration"),
    SKIP(struct vga, redraw, "what a front end has not seen yet"),
    FIELD(struct vga, latch),
    FIELD(struct vga, dispi_index),
    ARRAY(struct vga, dispi),
    ARRAY(struct vga, seq),
    ARRAY(struct vga, gfx),
    ARRAY(struct vga, crtc),
    ARRAY(struct vga, attr),
    ARRAY(struct vga, dac),
    FIELD(struct vga, seq_index),
    FIELD(struct vga, gfx_index),
    FIELD(struct vga, crtc_index),
    FIELD(struct vga, attr_index),
    FIELD(struct vga, attr_data),
    FIELD(struct vga, misc),
    FIELD(struct vga, feature),
    FIELD(struct vga, pel_mask),
    FIELD(struct vga, dac_write),
    FIELD(struct vga, dac_read),
    FIELD(struct vga, dac_part),
    FIELD(struct vga, dac_state),
    SKIP(struct vga, pad, "alignment"),
    FIELDS_END,
};
static const struct state_desc vga_state = STATE_DESC("vga", struct vga, 1, fields);

// --- VRAM behind BAR 0, when it is not mapped ---

static uint64_t vram_read(struct device *dev, uint64_t offset, unsigned size)
{
    const struct vga *v = vga_of(dev);
    return load_le((const uint8_t *)v->vram + offset, size);
}

static void vram_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct vga *v = vga_of(dev);
    store_le((uint8_t *)v->vram + offset, size, value);
    vga_mark(v, offset);
    vga_mark(v, offset + size - 1);
}

static const struct io_ops vram_ops = {vram_read, vram_write, 1, 8};

static void follow_bar(struct vga *v)
{
    struct device *dev = &v->pci.dev;
    gpa_t at = v->pci.bars[BAR_VRAM].mapped;
    if (at == v->mapped)
        return;
    v->mapped = at;
    v->redraw = 1;
    if (dev->env->map_memory)
        dev->env->map_memory(dev, at, v->vram_bytes, v->vram);
}

static void config_written(struct pci_function *f, unsigned offset, unsigned size)
{
    follow_bar((struct vga *)f);
}

// --- the device ---

static err_t init(struct device *dev, const void *config, struct error *e)
{
    static const struct pci_id id = {0x1234, 0x1111, 0x1af4, 0x1100, 0x030000, 2, 0};
    static const struct pci_hooks hooks = {.after_write = config_written};
    const struct vga_config *c = config;
    struct vga *v = vga_of(dev);
    if (c->vram_bytes < MIB || c->vram_bytes > VGA_VRAM_MAX ||
        (c->vram_bytes & (c->vram_bytes - 1)))
        return error_set(e, ERR_INVALID, "%s: %u bytes of video memory; give 1, 2, 4 .. %llu MiB",
                         dev->id, c->vram_bytes, VGA_VRAM_MAX / MIB);
    v->vram = c->vram;
    v->vram_bytes = c->vram_bytes;
    pci_init(&v->pci, &id, &hooks);
    pci_add_bar(&v->pci, BAR_VRAM, PCI_BAR_MEM32, v->vram_bytes, &vram_ops);
    pci_set_register(&v->pci, PCI_BAR0, 4, BAR_PREFETCHABLE, ~(v->vram_bytes - 1));
    pci_add_bar(&v->pci, BAR_MMIO, PCI_BAR_MEM32, VGA_MMIO_BYTES, &vga_mmio_ops);
    v->pci.writable[PCI_COMMAND] |= PCI_COMMAND_IO; // of the legacy ports: firmware sets it
    if (c->rom)
        pci_add_rom(&v->pci, c->rom, c->rom_bytes, 0);
    err_t err = vga_claim_ports(v, e);
    if (!err)
        err = vga_claim_window(v, e);
    return err ? err : vga_claim_dispi(v, e);
}

// The screen is dark until firmware or a driver sets a mode.
static void reset(struct device *dev)
{
    struct vga *v = vga_of(dev);
    pci_reset(&v->pci);
    follow_bar(v);
    size_t from = offsetof(struct vga, latch);
    __builtin_memset((uint8_t *)v + from, 0, sizeof *v - from);
    v->dispi[DISPI_ID] = 0xb0c5;
    v->dispi[DISPI_BPP] = 8;
    v->misc = MISC_COLOUR;
    v->pel_mask = 0xff;
    v->gfx[GFX_BIT_MASK] = 0xff;
    v->redraw = 1;
}

// Indexes stay in their arrays, DISPI values in the limits that writing them keeps; everything else
// may have any value.
static bool possible(const struct vga *v)
{
    return v->seq_index < 8 && v->gfx_index < 16 && v->crtc_index < 32 && v->attr_index < 64 &&
           v->attr_data <= 1 && v->dac_part < 3 && vga_dispi_possible(v);
}

static err_t loaded(struct device *dev, struct error *e)
{
    struct vga *v = vga_of(dev);
    if (!possible(v))
        return error_set(e, ERR_CORRUPT, "VGA: impossible register values");
    err_t err = pci_loaded(&v->pci, e);
    v->redraw = 1;
    v->mapped = ~0ull; // tell the machine, wherever it was
    follow_bar(v);
    return err;
}

static void fini(struct device *dev)
{
    pci_fini(&vga_of(dev)->pci);
}

const struct device_type vga_type = {
    .name = "vga",
    .size = sizeof(struct vga),
    .lines = 1,
    .state = &vga_state,
    .init = init,
    .reset = reset,
    .loaded = loaded,
    .fini = fini,
};
