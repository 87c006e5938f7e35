// The VGA's window at 0xa0000: how bytes that the processor moves reach the four planes.
//
// Source: IBM VGA/XGA Technical Reference, "Graphics controller". A word of VRAM holds the same
// byte of all planes, so one access works on all four at once.
#include "base/bits.h"
#include "device/display/vga_impl.h"

#define WINDOW 0xa0000u
#define WINDOW_BYTES 0x20000u

// Where an access goes: a word of VRAM, the planes it can write and the one that it reads.
struct target {
    uint32_t word;
    uint8_t planes;
    uint8_t plane;
};

static uint32_t spread(unsigned bits) // each of four bits to a byte of ones
{
    return (bits & 1 ? 0xffu : 0) | (bits & 2 ? 0xff00u : 0) | (bits & 4 ? 0xff0000u : 0) |
           (bits & 8 ? 0xff000000u : 0);
}

// False: the memory map does not reach this address.
static bool window_offset(const struct vga *v, uint32_t at, uint32_t *offset)
{
    static const struct {
        uint32_t from, len;
    } maps[4] = {{0, 0x20000}, {0, 0x10000}, {0x10000, 0x8000}, {0x18000, 0x8000}};
    unsigned map = v->gfx[GFX_MISC] >> 2 & 3;
    *offset = at - maps[map].from;
    return *offset < maps[map].len;
}

static struct target find(const struct vga *v, uint32_t offset)
{
    struct target t = {.planes = v->seq[SEQ_MAP_MASK], .plane = v->gfx[GFX_READ_PLANE]};
    if (v->seq[SEQ_MEMORY] & MEMORY_CHAIN_4) {
        t.plane = offset & 3;
        t.planes &= (uint8_t)(1u << t.plane);
        t.word = offset & ~3u & (VGA_PLANE_BYTES - 1);
    } else if (!(v->seq[SEQ_MEMORY] & MEMORY_SEQUENTIAL)) {
        t.plane = (uint8_t)((t.plane & 2) | (offset & 1));
        t.planes &= offset & 1 ? 0xa : 0x5;
        t.word = offset & ~1u & (VGA_PLANE_BYTES - 1);
    } else if (vga_linear(v)) { // 4 bits a pixel
        t.word = (offset + v->dispi[DISPI_BANK] * VGA_PLANE_BYTES) & (vga_words(v) - 1);
    } else {
        t.word = offset & (VGA_PLANE_BYTES - 1);
    }
    return t;
}

// A DISPI mode of 8 bits and more: bytes of the frame buffer, one bank at a time.
static uint8_t *linear_byte(struct vga *v, uint32_t offset)
{
    uint32_t at = (v->dispi[DISPI_BANK] * VGA_PLANE_BYTES + offset) & (v->vram_bytes - 1);
    return (uint8_t *)v->vram + at;
}

static bool banked(const struct vga *v)
{
    return vga_linear(v) && v->dispi[DISPI_BPP] > 4;
}

// Read mode 1: one bit for each pixel that has the colour, of the planes that matter.
static uint8_t compare(const struct vga *v)
{
    uint32_t differ = (v->latch ^ spread(v->gfx[GFX_COMPARE])) & spread(v->gfx[GFX_CARE]);
    return (uint8_t) ~(differ | differ >> 8 | differ >> 16 | differ >> 24);
}

static uint8_t read_byte(struct vga *v, uint32_t at)
{
    uint32_t offset;
    if (!window_offset(v, at, &offset))
        return 0xff;
    if (banked(v))
        return *linear_byte(v, offset);
    struct target t = find(v, offset);
    v->latch = v->vram[t.word];
    return v->gfx[GFX_MODE] & MODE_COMPARE ? compare(v) : (uint8_t)(v->latch >> (8 * t.plane));
}

// The processor's byte, or what stands in for it, in all planes.
static uint32_t source(const struct vga *v, uint8_t value, uint32_t *bits)
{
    unsigned turn = v->gfx[GFX_ROTATE] & 7;
    uint8_t turned = (uint8_t)(value >> turn | value << (8 - turn));
    uint32_t set = spread(v->gfx[GFX_SET_RESET]), enabled = spread(v->gfx[GFX_ENABLE_SET_RESET]);
    *bits = v->gfx[GFX_BIT_MASK] * 0x01010101u;
    switch (v->gfx[GFX_MODE] & 3) {
    case 0: return (turned * 0x01010101u & ~enabled) | (set & enabled);
    case 2: return spread(value);
    default: *bits &= turned * 0x01010101u; return set; // 3
    }
}

static uint32_t combine(const struct vga *v, uint32_t value)
{
    switch (v->gfx[GFX_ROTATE] >> 3) {
    case 1: return value & v->latch;
    case 2: return value | v->latch;
    case 3: return value ^ v->latch;
    default: return value;
    }
}

static void write_byte(struct vga *v, uint32_t at, uint8_t value)
{
    uint32_t offset, bits;
    if (!window_offset(v, at, &offset))
        return;
    if (banked(v)) {
        uint8_t *byte = linear_byte(v, offset);
        *byte = value;
        vga_mark(v, (uint64_t)(byte - (uint8_t *)v->vram));
        return;
    }
    struct target t = find(v, offset);
    uint32_t planes = spread(t.planes), new = v->latch;
    if ((v->gfx[GFX_MODE] & 3) != 1) { // mode 1 copies the latches
        new = combine(v, source(v, value, &bits));
        new = (new &bits) | (v->latch & ~bits);
    }
    v->vram[t.word] = (v->vram[t.word] & ~planes) | (new &planes);
    vga_mark(v, t.word * 4ull);
}

// The bus is eight bits wide: larger accesses are many, one after the other.
static uint64_t window_read(struct device *dev, uint64_t at, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)read_byte(vga_of(dev), (uint32_t)at + i) << (8 * i);
    return value;
}

static void window_write(struct device *dev, uint64_t at, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++)
        write_byte(vga_of(dev), (uint32_t)at + i, (uint8_t)(value >> (8 * i)));
}

static const struct io_ops window_ops = {window_read, window_write, 1, 8};

err_t vga_claim_window(struct vga *v, struct error *e)
{
    struct device *dev = &v->pci.dev;
    err_t err = dev->env->map_mmio(dev, WINDOW, WINDOW_BYTES, &window_ops);
    return err ? error_set(e, err, "%s: the VGA window is taken", dev->id) : OK;
}
