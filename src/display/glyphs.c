// Characters by the shape of their pixels: the VGA's font (also Linux'), console-setup's, GRUB's
// and OVMF's, as hashes of their glyphs. Colours do not matter: two in a cell are a glyph, in
// either order. Not read: smoothed fonts, fonts of other widths, proportional ones.
#include "display/glyphs.h"

#include <string.h>

#include "base/bits.h"
#include "display/glyphs_impl.h"

#define WIDTH 8
#define HEIGHT_MAX 19
#define CURSOR_ROWS_MAX 4
#define TEXT_ACROSS 0xc4
#define TEXT_UPRIGHT 0xb3
#define SURE 40 // characters: no better grid need be searched for

static const unsigned heights[] = {16, 19};

struct grid {
    unsigned height, x, y; // of a cell; of the first cell
};

struct score {
    unsigned known, unknown;
};

enum kind { BLANK, KNOWN, UNKNOWN, PICTURE };

struct cell {
    enum kind kind;
    uint8_t code;
    bool cursor;
};

// --- one cell ------------------------------------------------------------------------------------

// Bits of the pixels that differ from the first one. False: there are more than two colours.
static bool read_rows(const struct picture *p, unsigned x, unsigned y, unsigned height,
                      uint8_t rows[HEIGHT_MAX])
{
    const uint32_t *at = p->pixels + (size_t)y * p->width + x;
    uint32_t first = *at, second = first;
    for (unsigned row = 0; row < height; row++, at += p->width) {
        unsigned bits = 0;
        for (unsigned i = 0; i < WIDTH; i++) {
            bool differs = at[i] != first;
            bits = bits << 1 | differs;
            if (!differs || at[i] == second)
                continue;
            if (second != first)
                return false;
            second = at[i];
        }
        rows[row] = (uint8_t)bits;
    }
    return true;
}

static bool find(const uint8_t *rows, unsigned height, uint8_t *code)
{
    uint32_t hash = 0x811c9dc5; // FNV-1a
    for (unsigned i = 0; i < height; i++)
        hash = (hash ^ rows[i]) * 0x01000193u;
    size_t low = 0, high = glyph_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (glyph_table[middle].hash < hash)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == glyph_count || glyph_table[low].hash != hash || glyph_table[low].height != height)
        return false;
    *code = glyph_table[low].code;
    return true;
}

static bool is_blank(const uint8_t *rows, unsigned height)
{
    return !rows[0] && !memcmp(rows, rows + 1, height - 1);
}

// Takes solid lines at the cell's foot away: a cursor.
static bool strip_cursor(uint8_t *rows, unsigned height)
{
    unsigned n = 0;
    while (n < CURSOR_ROWS_MAX && rows[height - 1 - n] == 0xff)
        rows[height - 1 - n++] = 0;
    return n;
}

// Frames that are drawn without characters.
static bool is_line(const uint8_t *rows, unsigned height, uint8_t *code)
{
    bool across = true, upright = true;
    for (unsigned i = 0; i < height; i++) {
        across &= rows[i] == 0 || rows[i] == 0xff;
        upright &= rows[i] == rows[0];
    }
    *code = across ? TEXT_ACROSS : TEXT_UPRIGHT;
    return across || upright;
}

static struct cell read_cell(const struct picture *p, unsigned x, unsigned y, unsigned height)
{
    uint8_t rows[HEIGHT_MAX];
    struct cell cell = {.kind = PICTURE, .code = ' '};
    if (!read_rows(p, x, y, height, rows))
        return cell;
    cell.kind = is_blank(rows, height) ? BLANK : UNKNOWN;
    if (cell.kind == UNKNOWN && find(rows, height, &cell.code))
        cell.kind = KNOWN;
    if (cell.kind != UNKNOWN)
        return cell;
    if (!strip_cursor(rows, height)) {
        if (is_line(rows, height, &cell.code))
            cell.kind = PICTURE; // says nothing about where cells begin
        else
            cell.code = TEXT_UNKNOWN;
        return cell;
    }
    cell.code = TEXT_UNKNOWN;
    bool blank = is_blank(rows, height);
    if (blank)
        cell.code = ' ';
    if (blank || find(rows, height, &cell.code)) {
        cell.kind = blank ? BLANK : KNOWN;
        cell.cursor = true;
    }
    return cell;
}

// --- the grid ------------------------------------------------------------------------------------

// Most of a screen is empty: lines of cells without a change in them need no looking at cells.
static bool line_is_blank(const struct picture *p, unsigned y, unsigned height)
{
    const uint32_t *row = p->pixels + (size_t)y * p->width;
    return !memcmp(row, row + 1, ((size_t)p->width * height - 1) * sizeof *row);
}

static struct score score_of(const struct picture *p, const struct grid *g)
{
    struct score s = {0};
    for (unsigned y = g->y; y + g->height <= p->height; y += g->height) {
        if (line_is_blank(p, y, g->height))
            continue;
        for (unsigned x = g->x; x + WIDTH <= p->width; x += WIDTH) {
            enum kind kind = read_cell(p, x, y, g->height).kind;
            s.known += kind == KNOWN;
            s.unknown += kind == UNKNOWN;
        }
    }
    return s;
}

static bool better(const struct score *a, const struct score *b)
{
    return (int)(a->known - a->unknown) > (int)(b->known - b->unknown);
}

// Tries where consoles begin, the corner, and then everywhere.
static struct score find_grid(const struct picture *p, struct grid *out)
{
    struct score best = {0};
    for (unsigned shift = 0; shift < WIDTH * HEIGHT_MAX; shift++)
        for (unsigned i = 0; i < ARRAY_LEN(heights); i++) {
            struct grid g = {heights[i], shift % WIDTH, shift / WIDTH};
            if (g.y >= g.height)
                continue;
            struct score s = score_of(p, &g);
            if (better(&s, &best)) {
                best = s;
                *out = g;
            }
            if (s.known >= SURE && s.unknown * 4 <= s.known)
                return best;
        }
    return best;
}

// --- the text ------------------------------------------------------------------------------------

static void read_cells(const struct picture *p, const struct grid *g, struct display_text *out)
{
    unsigned cursors = 0;
    out->columns = (uint16_t)min_u64((p->width - g->x) / WIDTH, DISPLAY_COLUMNS_MAX);
    out->rows = (uint16_t)min_u64((p->height - g->y) / g->height, DISPLAY_ROWS_MAX);
    for (unsigned row = 0; row < out->rows; row++)
        for (unsigned column = 0; column < out->columns; column++) {
            struct cell c = read_cell(p, g->x + column * WIDTH, g->y + row * g->height, g->height);
            out->cell[row * out->columns + column] = (uint16_t)(0x0700 | c.code);
            if (!c.cursor)
                continue;
            cursors++;
            out->cursor_column = (uint16_t)column;
            out->cursor_row = (uint16_t)row;
        }
    out->cursor = cursors == 1;
}

bool glyphs_read(const struct picture *p, struct display_text *out)
{
    struct grid grid = {0};
    struct score s = {0};
    if (p->width > WIDTH && p->height > HEIGHT_MAX)
        s = find_grid(p, &grid);
    if (s.known < 3 || s.known < s.unknown)
        return false;
    *out = (struct display_text){0};
    read_cells(p, &grid, out);
    return true;
}
