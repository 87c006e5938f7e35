// What the VGA shows: text, planar, chained and linear modes, drawn row by row.
//
// Source: IBM VGA/XGA Technical Reference, "CRT controller" (address counter, row scan counter,
// line compare), "Attribute controller". Not modelled: the overscan border, skews, changes in the
// middle of a frame, interlacing, vertical doubling by the CRTC's clock divider.
#include "base/bits.h"
#include "base/bytes.h"
#include "device/display/vga_impl.h"

#define CELL_DOTS 9
#define ROW_ROOM ((DISPLAY_COLUMNS_MAX + 1) * CELL_DOTS)
#define BLINK_NS 533000000ull  // characters: 16 frames on, 16 off
#define CURSOR_NS 266000000ull // the cursor: 8 and 8

// The mode as the registers say, read once for a drawing.
struct mode {
    bool text, colours256, interleaved, cga_rows;
    uint32_t columns; // words of the address counter in a row
    uint32_t dots;    // of a column
    uint32_t lines;   // that the CRTC scans
    uint32_t cell;    // lines of a character
    uint32_t doubled; // 1 or 2: each line is scanned so often
    uint32_t repeat;  // lines that are alike: only the first is drawn
    uint32_t step;    // of the address counter from row to row
    uint32_t start;
    uint32_t line_compare;
    uint32_t colour[256]; // of the 16 or 256 values a pixel can have
};

// --- colours -------------------------------------------------------------------------------------

static uint32_t dac_colour(const struct vga *v, uint8_t index)
{
    const uint8_t *c = v->dac + (index & v->pel_mask) * 3;
    if (v->dispi[DISPI_ENABLE] & DISPI_8_BIT_DAC)
        return (uint32_t)c[0] << 16 | (uint32_t)c[1] << 8 | c[2];
    uint32_t colour = 0;
    for (unsigned i = 0; i < 3; i++)
        colour = colour << 8 | (uint8_t)(c[i] << 2 | (c[i] & 0x3f) >> 4);
    return colour;
}

static uint32_t attribute_colour(const struct vga *v, unsigned value)
{
    uint8_t index = v->attr[value & v->attr[ATTR_PLANES] & 15];
    uint8_t select = v->attr[ATTR_COLOUR_SELECT];
    if (v->attr[ATTR_MODE] & ATTR_4_BIT_SELECT)
        index = (uint8_t)((index & 0x0f) | (select & 3) << 4);
    return dac_colour(v, (uint8_t)(index | (select & 0x0c) << 4));
}

static void fill_colours(const struct vga *v, bool all256, uint32_t colour[256])
{
    for (unsigned i = 0; i < (all256 ? 256 : 16); i++)
        colour[i] = all256 ? dac_colour(v, (uint8_t)i) : attribute_colour(v, i);
}

// --- the CRTC's view -----------------------------------------------------------------------------

static void read_mode(const struct vga *v, struct mode *m)
{
    const uint8_t *r = v->crtc;
    unsigned overflow = r[CRTC_OVERFLOW], scan = r[CRTC_MAX_SCAN];
    *m = (struct mode){.text = !(v->gfx[GFX_MISC] & MISC_GRAPHICS)};
    m->colours256 = !m->text && (v->gfx[GFX_MODE] & MODE_256_COLOURS);
    m->interleaved = !m->text && (v->gfx[GFX_MODE] & MODE_INTERLEAVED);
    m->columns = r[CRTC_H_END] + 1u;
    m->dots = m->colours256 ? 4 : m->text && !(v->seq[SEQ_CLOCKING] & CLOCKING_8_DOTS) ? 9 : 8;
    m->lines = (r[CRTC_V_END] | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1u;
    m->cell = (scan & 0x1f) + 1u;
    m->doubled = scan & MAX_SCAN_DOUBLE ? 2 : 1;
    m->cga_rows = (r[CRTC_MODE] & 3) != 3; // the row chooses parts of memory
    m->repeat = m->doubled * (m->text || m->cga_rows ? 1 : m->cell);
    m->step = r[CRTC_OFFSET] * 2u;
    m->start = (uint32_t)(r[CRTC_START_HIGH] << 8 | r[CRTC_START_HIGH + 1]) +
               (r[CRTC_PRESET_ROW] >> 5 & 3);
    m->line_compare = r[CRTC_LINE_COMPARE] | (overflow & 0x10u) << 4 | (scan & 0x40u) << 3;
    fill_colours(v, m->colours256, m->colour);
}

// The word of VRAM that the address counter means: in byte, word or doubleword mode.
static uint32_t word_at(const struct vga *v, uint32_t counter, uint32_t row)
{
    unsigned mode = v->crtc[CRTC_MODE];
    if (v->crtc[CRTC_UNDERLINE] & 0x40)
        counter = counter << 2 | (counter >> 14 & 3);
    else if (!(mode & 0x40))
        counter = counter << 1 | (counter >> (mode & 0x20 ? 15 : 13) & 1);
    if (!(mode & 1))
        counter = (counter & ~0x2000u) | (row & 1) << 13;
    if (!(mode & 2))
        counter = (counter & ~0x4000u) | (row & 2) << 13;
    return v->vram[counter & (VGA_PLANE_BYTES - 1)];
}

// --- one column ----------------------------------------------------------------------------------

static uint32_t font_base(const struct vga *v, unsigned attribute)
{
    unsigned s = v->seq[SEQ_FONTS];
    unsigned font = attribute & 8 ? (s >> 2 & 3) | (s >> 3 & 4) : (s & 3) | (s >> 2 & 4);
    return (font & 3) * 0x4000 + (font & 4 ? 0x2000 : 0);
}

static bool phase(struct vga *v, uint64_t half)
{
    return v->pci.dev.env->now(&v->pci.dev) / half % 2 == 0;
}

struct text_row {
    uint32_t row;    // of the cell
    uint32_t cursor; // counter value of the cell with the cursor in this row; ~0: none
    bool hide_blinking;
};

static void draw_cell(const struct vga *v, const struct mode *m, const struct text_row *t,
                      uint32_t word, bool cursor, uint32_t *out)
{
    unsigned code = word & 0xff, attribute = word >> 8 & 0xff;
    uint32_t at = font_base(v, attribute) + code * 32 + t->row;
    unsigned glyph = v->vram[at & (VGA_PLANE_BYTES - 1)] >> 16 & 0xff;
    bool blinks = v->attr[ATTR_MODE] & ATTR_BLINK;
    uint32_t front = m->colour[attribute & 15];
    uint32_t back = m->colour[attribute >> 4 & (blinks ? 7 : 15)];
    if (blinks && (attribute & 0x80) && t->hide_blinking)
        glyph = 0;
    if ((attribute & 7) == 1 && t->row == (v->crtc[CRTC_UNDERLINE] & 0x1f))
        glyph = 0xff;
    bool ninth = (v->attr[ATTR_MODE] & ATTR_LINE_GRAPHICS) && code >= 0xc0 && code <= 0xdf;
    glyph = glyph << 1 | (ninth ? glyph & 1 : 0);
    if (cursor)
        glyph = 0x1ff;
    for (uint32_t i = 0; i < m->dots; i++)
        out[i] = glyph >> (8 - i) & 1 ? front : back;
}

static void draw_pixels(const struct mode *m, uint32_t word, uint32_t *out)
{
    if (m->colours256) {
        for (unsigned i = 0; i < 4; i++)
            out[i] = m->colour[word >> (8 * i) & 0xff];
    } else if (m->interleaved) { // two bits of each byte: planes 0 and 2, then 1 and 3
        for (unsigned i = 0; i < 8; i++) {
            unsigned bit = 6 - i % 4 * 2, plane = i / 4 * 8;
            out[i] = m->colour[(word >> (plane + bit) & 3) | (word >> (16 + plane + bit) & 3) << 2];
        }
    } else {
        for (unsigned i = 0; i < 8; i++) {
            uint32_t bits = word >> (7 - i) & 0x01010101;
            out[i] = m->colour[(bits | bits >> 7 | bits >> 14 | bits >> 21) & 15];
        }
    }
}

// --- the original modes --------------------------------------------------------------------------

static uint32_t cursor_in_row(struct vga *v, uint32_t row)
{
    const uint8_t *r = v->crtc;
    bool shown = !(r[CRTC_CURSOR_START] & CURSOR_OFF) && row >= (r[CRTC_CURSOR_START] & 0x1fu) &&
                 row <= (r[CRTC_CURSOR_END] & 0x1fu) && phase(v, CURSOR_NS);
    return shown ? (uint32_t)(r[CRTC_CURSOR_HIGH] << 8 | r[CRTC_CURSOR_HIGH + 1]) : ~0u;
}

// How many pixels the row begins left of the screen.
static uint32_t panned(const struct vga *v, const struct mode *m, bool below_split)
{
    uint32_t pan = v->attr[ATTR_PAN];
    if (below_split && (v->attr[ATTR_MODE] & ATTR_PAN_TOP_ONLY))
        return 0;
    if (m->dots == 9)
        return pan >= 8 ? 0 : pan + 1;
    return m->colours256 ? (pan & 7) / 2 : pan & 7;
}

static const uint32_t *draw_row(struct vga *v, const struct mode *m, uint32_t counter, uint32_t row,
                                uint32_t pan, uint32_t *out)
{
    struct text_row t = {row, m->text ? cursor_in_row(v, row) : ~0u, !phase(v, BLINK_NS)};
    uint32_t *at = out;
    for (uint32_t i = 0; i < m->columns + (pan != 0); i++, at += m->dots) {
        uint32_t word = word_at(v, (counter + i) & 0xffff, row);
        if (m->text)
            draw_cell(v, m, &t, word, ((counter + i) & 0xffff) == t.cursor, at);
        else
            draw_pixels(m, word, at);
    }
    return out + pan;
}

// Follows the CRTC's counters from line to line.
static void draw_scanned(struct vga *v, const struct mode *m, struct picture *p,
                         struct damage *damage)
{
    uint32_t out[ROW_ROOM];
    uint32_t counter = m->start, row = v->crtc[CRTC_PRESET_ROW] & 0x1f, again = 0;
    bool below = false;
    for (uint32_t y = 0; y < m->lines && y / m->repeat < p->height; y++) {
        if (y % m->repeat == 0)
            picture_put_row(p, y / m->repeat,
                            draw_row(v, m, counter, row, panned(v, m, below), out), damage);
        again = (again + 1) % m->doubled;
        row += again == 0;
        if (row >= m->cell) {
            row = 0;
            counter += m->step;
        }
        if (y == m->line_compare) {
            counter = row = again = 0;
            below = true;
        }
    }
}

// --- linear modes --------------------------------------------------------------------------------

static void convert_row(const uint8_t *from, unsigned bpp, uint32_t width, const uint32_t *colour,
                        uint32_t *out)
{
    for (uint32_t i = 0; i < width; i++) {
        uint32_t c;
        switch (bpp) {
        case 8: out[i] = colour[from[i]]; break;
        case 15:
            c = load_le16(from + 2 * i);
            out[i] = (c >> 10 & 31) * 0x84 >> 4 << 16 | (c >> 5 & 31) * 0x84 >> 4 << 8 |
                     (c & 31) * 0x84 >> 4;
            break;
        case 16:
            c = load_le16(from + 2 * i);
            out[i] =
                (c >> 11) * 0x84 >> 4 << 16 | (c >> 5 & 63) * 0x41 >> 4 << 8 | (c & 31) * 0x84 >> 4;
            break;
        case 24:
            out[i] = from[3 * i] | from[3 * i + 1] << 8 | (uint32_t)from[3 * i + 2] << 16;
            break;
        default: out[i] = load_le32(from + 4 * i) & 0xffffff; break;
        }
    }
}

static void planar_row(const struct vga *v, const struct mode *m, uint64_t word, uint32_t width,
                       uint32_t *out)
{
    for (uint32_t i = 0; i < width / 8; i++)
        draw_pixels(m, v->vram[(word + i) & (vga_words(v) - 1)], out + 8 * i);
}

static bool any_dirty(const struct vga *v, uint64_t offset, uint64_t bytes)
{
    for (uint64_t page = offset / PAGE_SIZE; page <= (offset + bytes - 1) / PAGE_SIZE; page++)
        if (v->dirty[page / 64] >> (page % 64) & 1)
            return true;
    return false;
}

// Rows that reach beyond VRAM are black.
static void draw_linear(struct vga *v, struct picture *p, bool all, struct damage *damage)
{
    uint32_t out[DISPLAY_WIDTH_MAX];
    struct mode m = {0};
    unsigned bpp = v->dispi[DISPI_BPP];
    uint64_t pitch = vga_pitch(v), x = v->dispi[DISPI_X];
    uint64_t bytes = (uint64_t)p->width * ((bpp + 7) / 8);
    fill_colours(v, bpp == 8, m.colour);
    for (uint32_t y = 0; y < p->height; y++) {
        uint64_t offset = (v->dispi[DISPI_Y] + (uint64_t)y) * pitch;
        offset += bpp == 4 ? x / 8 : x * ((bpp + 7) / 8);
        if (bpp == 4)
            planar_row(v, &m, offset, p->width, out);
        else if (offset + bytes > v->vram_bytes)
            __builtin_memset(out, 0, sizeof out);
        else if (all || any_dirty(v, offset, bytes))
            convert_row((const uint8_t *)v->vram + offset, bpp, p->width, m.colour, out);
        else
            continue;
        picture_put_row(p, y, out, damage);
    }
}

// --- from outside --------------------------------------------------------------------------------

static bool dark(const struct vga *v)
{
    return !(v->attr_index & ATTR_VIDEO_ON) || (v->seq[SEQ_CLOCKING] & CLOCKING_SCREEN_OFF) ||
           (vga_linear(v) && (!v->dispi[DISPI_WIDTH] || !v->dispi[DISPI_HEIGHT]));
}

static bool resize(const struct vga *v, const struct mode *m, struct picture *p)
{
    uint32_t width = m->columns * m->dots, height = m->lines / m->repeat;
    if (vga_linear(v)) {
        width = v->dispi[DISPI_WIDTH];
        height = v->dispi[DISPI_HEIGHT];
    }
    return picture_resize(p, (uint32_t)min_u64(max_u64(width, 1), DISPLAY_WIDTH_MAX),
                          (uint32_t)min_u64(max_u64(height, 1), DISPLAY_HEIGHT_MAX));
}

static void draw_dark(struct picture *p, struct damage *damage)
{
    static const uint32_t black[DISPLAY_WIDTH_MAX];
    for (uint32_t y = 0; y < p->height; y++)
        picture_put_row(p, y, black, damage);
}

// The live picture: what is the same since it was last drawn need not be looked at.
static bool must_redraw(struct vga *v, const struct picture *p)
{
    struct device *dev = &v->pci.dev;
    if (!p->live)
        return true;
    bool known = dev->env->take_dirty && dev->env->take_dirty(dev, v->dirty);
    bool all = v->redraw || !known;
    v->redraw = 0;
    return all;
}

bool vga_draw(struct device *dev, struct picture *p, struct damage *damage)
{
    struct vga *v = vga_of(dev);
    struct mode m;
    read_mode(v, &m);
    bool resized = resize(v, &m, p), all = must_redraw(v, p) || resized;
    if (dark(v))
        draw_dark(p, damage);
    else if (vga_linear(v))
        draw_linear(v, p, all, damage);
    else
        draw_scanned(v, &m, p, damage);
    damage_end(damage);
    if (p->live)
        __builtin_memset(v->dirty, 0, sizeof v->dirty);
    return resized;
}

static void find_cursor(const struct vga *v, const struct mode *m, struct display_text *out)
{
    const uint8_t *r = v->crtc;
    uint32_t at = (uint32_t)(r[CRTC_CURSOR_HIGH] << 8 | r[CRTC_CURSOR_HIGH + 1]);
    uint32_t from_start = (at - m->start) & 0xffff;
    if (!m->step || (r[CRTC_CURSOR_START] & CURSOR_OFF))
        return;
    out->cursor_row = (uint16_t)(from_start / m->step);
    out->cursor_column = (uint16_t)(from_start % m->step);
    out->cursor = out->cursor_row < out->rows && out->cursor_column < out->columns;
}

err_t vga_text(struct device *dev, struct display_text *out, struct error *e)
{
    struct vga *v = vga_of(dev);
    struct mode m;
    read_mode(v, &m);
    *out = (struct display_text){0};
    if (dark(v))
        return error_set(e, ERR_UNSUPPORTED,
                         "the screen is dark: the guest has not switched it on");
    if (vga_linear(v) || !m.text)
        return error_set(e, ERR_UNSUPPORTED,
                         "the screen shows graphics, not text; take a screenshot instead");
    out->columns = (uint16_t)min_u64(m.columns, DISPLAY_COLUMNS_MAX);
    out->rows = (uint16_t)min_u64(m.lines / (m.cell * m.doubled), DISPLAY_ROWS_MAX);
    for (uint32_t y = 0; y < out->rows; y++)
        for (uint32_t x = 0; x < out->columns; x++)
            out->cell[y * out->columns + x] =
                (uint16_t)word_at(v, (m.start + y * m.step + x) & 0xffff, 0);
    find_cursor(v, &m, out);
    return OK;
}
