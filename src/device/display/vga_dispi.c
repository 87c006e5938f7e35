// The Bochs display interface: linear modes by a few 16-bit registers, at ports 0x1ce and 0x1cf and
// in the card's second BAR, where the legacy ports and the monitor's EDID are too.
//
// Source: Bochs' VBE description (vbe_display_api.txt); QEMU's docs/specs/standard-vga. Not
// modelled: versions of the interface before 0xb0c5, big-endian frame buffers.
#include "base/bits.h"
#include "base/bytes.h"
#include "device/display/vga_impl.h"

#define PORT_INDEX 0x1ce
#define PORT_DATA 0x1cf
#define PORT_DATA_ALIGNED 0x1d0
#define VERSION_FIRST 0xb0c0
#define VERSION 0xb0c5
#define WIDTH_MAX DISPLAY_WIDTH_MAX
#define HEIGHT_MAX 1600
#define VIRT_WIDTH_MAX 16384
#define BANK_BYTES (64 * KIB)

#define MMIO_EDID_END 0x80
#define MMIO_PORTS 0x400 // 0x3c0..0x3df
#define MMIO_PORTS_END 0x420
#define MMIO_DISPI 0x500
#define MMIO_DISPI_END (MMIO_DISPI + 2 * DISPI_REGISTERS)
#define MMIO_EXTENDED 0x600 // size of this block, then the byte order
#define LITTLE_ENDIAN_WORDS 0x1e1e1e1e

uint32_t vga_pitch(const struct vga *v)
{
    uint32_t width = v->dispi[DISPI_VIRT_WIDTH];
    if (width < v->dispi[DISPI_WIDTH])
        width = v->dispi[DISPI_WIDTH];
    if (v->dispi[DISPI_BPP] == 4)
        return width / 8;
    return width * ((v->dispi[DISPI_BPP] + 7u) / 8);
}

static uint32_t virt_height(const struct vga *v)
{
    uint32_t pitch = vga_pitch(v), bytes = v->dispi[DISPI_BPP] == 4 ? vga_words(v) : v->vram_bytes;
    return pitch ? (uint32_t)min_u64(bytes / pitch, 0xffff) : 0;
}

static void clear(struct vga *v)
{
    uint64_t bytes = (uint64_t)vga_pitch(v) * v->dispi[DISPI_HEIGHT];
    if (v->dispi[DISPI_BPP] == 4)
        bytes *= 4;
    __builtin_memset(v->vram, 0, min_u64(bytes, v->vram_bytes));
}

static void enable(struct vga *v, uint16_t value)
{
    bool was = vga_linear(v);
    v->dispi[DISPI_ENABLE] = value & 0xe3;
    if (was || !vga_linear(v))
        return;
    v->dispi[DISPI_VIRT_WIDTH] = v->dispi[DISPI_WIDTH];
    v->dispi[DISPI_BANK] = v->dispi[DISPI_X] = v->dispi[DISPI_Y] = 0;
    if (!(value & DISPI_NO_CLEAR))
        clear(v);
}

static bool depth_exists(unsigned bpp)
{
    return bpp == 4 || bpp == 8 || bpp == 15 || bpp == 16 || bpp == 24 || bpp == 32;
}

static void write_register(struct vga *v, unsigned index, uint16_t value)
{
    v->redraw = 1;
    switch (index) {
    case DISPI_ID:
        if (value >= VERSION_FIRST && value <= VERSION)
            v->dispi[DISPI_ID] = value;
        break;
    case DISPI_WIDTH: v->dispi[index] = (uint16_t)min_u64(value & ~7u, WIDTH_MAX); break;
    case DISPI_HEIGHT: v->dispi[index] = (uint16_t)min_u64(value, HEIGHT_MAX); break;
    case DISPI_BPP:
        if (depth_exists(value))
            v->dispi[index] = value;
        break;
    case DISPI_ENABLE: enable(v, value); break;
    case DISPI_BANK: v->dispi[index] = (uint16_t)(value % (v->vram_bytes / BANK_BYTES)); break;
    case DISPI_VIRT_WIDTH: v->dispi[index] = (uint16_t)min_u64(value & ~7u, VIRT_WIDTH_MAX); break;
    case DISPI_X:
    case DISPI_Y: v->dispi[index] = value; break;
    default: break; // the virtual height follows from the width
    }
}

static uint16_t read_register(const struct vga *v, unsigned index)
{
    bool limits = v->dispi[DISPI_ENABLE] & DISPI_CAPABILITIES;
    switch (index) {
    case DISPI_WIDTH: return limits ? WIDTH_MAX : v->dispi[index];
    case DISPI_HEIGHT: return limits ? HEIGHT_MAX : v->dispi[index];
    case DISPI_BPP: return limits ? 32 : v->dispi[index];
    case DISPI_VIRT_HEIGHT: return (uint16_t)virt_height(v);
    case DISPI_VRAM_64K: return (uint16_t)(v->vram_bytes / BANK_BYTES);
    default: return index < DISPI_REGISTERS ? v->dispi[index] : 0;
    }
}

bool vga_dispi_possible(const struct vga *v)
{
    const uint16_t *r = v->dispi;
    return r[DISPI_ID] >= VERSION_FIRST && r[DISPI_ID] <= VERSION && r[DISPI_WIDTH] <= WIDTH_MAX &&
           !(r[DISPI_WIDTH] & 7) && r[DISPI_HEIGHT] <= HEIGHT_MAX && depth_exists(r[DISPI_BPP]) &&
           r[DISPI_BANK] < v->vram_bytes / BANK_BYTES && !(r[DISPI_VIRT_WIDTH] & 7) &&
           r[DISPI_VIRT_WIDTH] <= VIRT_WIDTH_MAX;
}

// --- ports ---

static uint64_t index_read(struct device *dev, uint64_t offset, unsigned size)
{
    return vga_of(dev)->dispi_index;
}

static void index_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    vga_of(dev)->dispi_index = (uint16_t)value;
}

static uint64_t data_read(struct device *dev, uint64_t offset, unsigned size)
{
    return read_register(vga_of(dev), vga_of(dev)->dispi_index);
}

static void data_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    write_register(vga_of(dev), vga_of(dev)->dispi_index, (uint16_t)value);
}

static const struct io_ops index_ops = {index_read, index_write, 2, 2};
static const struct io_ops data_ops = {data_read, data_write, 2, 2};

err_t vga_claim_dispi(struct vga *v, struct error *e)
{
    struct device *dev = &v->pci.dev;
    err_t err = dev->env->map_pio(dev, PORT_INDEX, 1, &index_ops);
    if (!err)
        err = dev->env->map_pio(dev, PORT_DATA, 1, &data_ops);
    if (!err)
        err = dev->env->map_pio(dev, PORT_DATA_ALIGNED, 1, &data_ops);
    return err ? error_set(e, err, "%s: the DISPI ports are taken", dev->id) : OK;
}

// --- BAR 2: offset and size are such that an access stays within an aligned word of four bytes ---

static uint64_t mmio_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct vga *v = vga_of(dev);
    uint8_t edid[MMIO_EDID_END];
    if (offset < MMIO_EDID_END) {
        vga_edid(edid);
        return edid[offset];
    }
    if (offset >= MMIO_PORTS && offset < MMIO_PORTS_END)
        return vga_port_read(v, 0x3c0 + (unsigned)(offset - MMIO_PORTS));
    if (offset >= MMIO_DISPI && offset < MMIO_DISPI_END)
        return (uint64_t)read_register(v, (unsigned)(offset - MMIO_DISPI) / 2) >> 8 * (offset & 1);
    if (offset >= MMIO_EXTENDED && offset < MMIO_EXTENDED + 4)
        return offset == MMIO_EXTENDED ? 8 : 0;
    if (offset >= MMIO_EXTENDED + 4 && offset < MMIO_EXTENDED + 8)
        return LITTLE_ENDIAN_WORDS & 0xff;
    return 0;
}

static uint64_t mmio_read_whole(struct device *dev, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (mmio_read(dev, offset + i, 1) & 0xff) << (8 * i);
    return value;
}

// Registers of the interface are written whole; two at a time are two writes.
static void mmio_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct vga *v = vga_of(dev);
    for (unsigned i = 0; offset + i >= MMIO_PORTS && offset + i < MMIO_PORTS_END && i < size; i++)
        vga_port_write(v, 0x3c0 + (unsigned)(offset + i - MMIO_PORTS), (uint8_t)(value >> 8 * i));
    if (offset < MMIO_DISPI || offset >= MMIO_DISPI_END || (offset & 1))
        return;
    for (unsigned i = 0; i + 2 <= size && offset + i < MMIO_DISPI_END; i += 2)
        write_register(v, (unsigned)(offset + i - MMIO_DISPI) / 2, (uint16_t)(value >> 8 * i));
}

const struct io_ops vga_mmio_ops = {mmio_read_whole, mmio_write, 1, 4};
