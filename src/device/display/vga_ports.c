// The VGA's own registers, ports 0x3b0..0x3df.
//
// Source: IBM VGA/XGA Technical Reference (1992); the FreeVGA project's descriptions. Not modelled:
// light pen, interrupts of the vertical retrace, the sense lines of the monitor, timing (any clock
// gives 60 frames a second).
#include "base/bits.h"
#include "device/display/vga_impl.h"

#define FRAME_NS 16666667ull
#define FRAME_LINES 525u // of which the last 45 are not shown
#define SHOWN_LINES 480u
#define STATUS_BLANK BIT(0)
#define STATUS_RETRACE BIT(3)
#define CRTC_PROTECT BIT(7) // of the vertical sync end: registers 0 to 7
#define PORT_MONO 0x3b0u
#define PORT_COMMON 0x3c0u
#define PORT_COLOUR 0x3d0u

static const uint8_t seq_mask[8] = {0x03, 0x3d, 0x0f, 0x3f, 0x0e};
static const uint8_t gfx_mask[16] = {0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff};
static const uint8_t attr_mask[32] = {0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
                                      0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
                                      0x3f, 0x3f, 0xef, 0xff, 0x3f, 0x0f, 0x0f};
#define CRTC_LAST 0x18

// Guests wait for the retrace to begin or end: it follows virtual time.
static uint8_t input_status(struct vga *v)
{
    uint64_t in_frame = v->pci.dev.env->now(&v->pci.dev) % FRAME_NS;
    uint64_t in_lines = in_frame * FRAME_LINES;
    unsigned line = (unsigned)(in_lines / FRAME_NS);
    bool beyond = in_lines % FRAME_NS > FRAME_NS * 4 / 5; // of the line
    v->attr_data = 0;
    return (uint8_t)((line >= SHOWN_LINES ? STATUS_RETRACE : 0) |
                     (line >= SHOWN_LINES || beyond ? STATUS_BLANK : 0));
}

static uint8_t read_dac(struct vga *v)
{
    uint8_t value = v->dac[v->dac_read * 3 + v->dac_part];
    if (++v->dac_part == 3) {
        v->dac_part = 0;
        v->dac_read++;
    }
    return value;
}

static void write_dac(struct vga *v, uint8_t value)
{
    uint8_t bits = v->dispi[DISPI_ENABLE] & DISPI_8_BIT_DAC ? 0xff : 0x3f;
    v->dac[v->dac_write * 3 + v->dac_part] = value & bits;
    if (++v->dac_part == 3) {
        v->dac_part = 0;
        v->dac_write++;
    }
}

static void write_attribute(struct vga *v, uint8_t value)
{
    if (v->attr_data)
        v->attr[v->attr_index & 0x1f] = value & attr_mask[v->attr_index & 0x1f];
    else
        v->attr_index = value & 0x3f;
    v->attr_data ^= 1;
}

static void write_crtc(struct vga *v, uint8_t value)
{
    unsigned i = v->crtc_index;
    uint8_t writable = i <= CRTC_LAST ? 0xff : 0;
    if (i <= CRTC_OVERFLOW && (v->crtc[CRTC_V_SYNC_END] & CRTC_PROTECT))
        writable = i == CRTC_OVERFLOW ? 0x10 : 0; // only the line compare's ninth bit
    v->crtc[i] = (uint8_t)((v->crtc[i] & ~writable) | (value & writable));
}

// Of the two places where the CRTC can be, only the one that the guest has chosen answers.
static bool elsewhere(const struct vga *v, unsigned port)
{
    return port < PORT_COMMON ? (v->misc & MISC_COLOUR) != 0
                              : port >= PORT_COLOUR && !(v->misc & MISC_COLOUR);
}

uint8_t vga_port_read(struct vga *v, unsigned port)
{
    if (elsewhere(v, port))
        return 0xff;
    switch (port < PORT_COMMON ? port + PORT_COLOUR - PORT_MONO : port) {
    case 0x3c0: return v->attr_index;
    case 0x3c1: return v->attr[v->attr_index & 0x1f];
    case 0x3c2: return 0x10; // a colour monitor is there
    case 0x3c4: return v->seq_index;
    case 0x3c5: return v->seq[v->seq_index];
    case 0x3c6: return v->pel_mask;
    case 0x3c7: return v->dac_state;
    case 0x3c8: return v->dac_write;
    case 0x3c9: return read_dac(v);
    case 0x3ca: return v->feature;
    case 0x3cc: return v->misc;
    case 0x3ce: return v->gfx_index;
    case 0x3cf: return v->gfx[v->gfx_index];
    case 0x3d4: return v->crtc_index;
    case 0x3d5: return v->crtc[v->crtc_index];
    case 0x3da: return input_status(v);
    default: return 0xff;
    }
}

void vga_port_write(struct vga *v, unsigned port, uint8_t value)
{
    if (elsewhere(v, port))
        return;
    v->redraw = 1;
    switch (port < PORT_COMMON ? port + PORT_COLOUR - PORT_MONO : port) {
    case 0x3c0: write_attribute(v, value); break;
    case 0x3c2: v->misc = value; break;
    case 0x3c4: v->seq_index = value & 7; break;
    case 0x3c5: v->seq[v->seq_index] = value & seq_mask[v->seq_index]; break;
    case 0x3c6: v->pel_mask = value; break;
    case 0x3c7:
        v->dac_read = value;
        v->dac_part = 0;
        v->dac_state = 3;
        break;
    case 0x3c8:
        v->dac_write = value;
        v->dac_part = 0;
        v->dac_state = 0;
        break;
    case 0x3c9: write_dac(v, value); break;
    case 0x3ce: v->gfx_index = value & 15; break;
    case 0x3cf: v->gfx[v->gfx_index] = value & gfx_mask[v->gfx_index]; break;
    case 0x3d4: v->crtc_index = value & 0x1f; break;
    case 0x3d5: write_crtc(v, value); break;
    case 0x3da: v->feature = value; break;
    default: break;
    }
}

static uint64_t mono_read(struct device *dev, uint64_t offset, unsigned size)
{
    return vga_port_read(vga_of(dev), PORT_MONO + (unsigned)offset);
}

static void mono_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    vga_port_write(vga_of(dev), PORT_MONO + (unsigned)offset, (uint8_t)value);
}

static uint64_t port_read(struct device *dev, uint64_t offset, unsigned size)
{
    return vga_port_read(vga_of(dev), PORT_COMMON + (unsigned)offset);
}

static void port_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    vga_port_write(vga_of(dev), PORT_COMMON + (unsigned)offset, (uint8_t)value);
}

static const struct io_ops mono_ops = {mono_read, mono_write, 1, 1};
static const struct io_ops port_ops = {port_read, port_write, 1, 1};

err_t vga_claim_ports(struct vga *v, struct error *e)
{
    struct device *dev = &v->pci.dev;
    err_t err = dev->env->map_pio(dev, PORT_MONO, 12, &mono_ops); // a printer port is behind it
    if (!err)
        err = dev->env->map_pio(dev, PORT_COMMON, 32, &port_ops);
    return err ? error_set(e, err, "%s: the VGA ports are taken", dev->id) : OK;
}
