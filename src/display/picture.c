// Pictures: storage, and what changed from one drawing to the next.
#include <stdlib.h>
#include <string.h>

#include "display/display.h"

err_t picture_init(struct picture *p, bool live, struct error *e)
{
    *p = (struct picture){.live = live};
    p->pixels = malloc((size_t)DISPLAY_WIDTH_MAX * DISPLAY_HEIGHT_MAX * sizeof *p->pixels);
    return p->pixels ? OK : error_set(e, ERR_NO_MEMORY, "no memory for a picture of the screen");
}

void picture_release(struct picture *p)
{
    free(p->pixels);
    *p = (struct picture){0};
}

bool picture_resize(struct picture *p, uint32_t width, uint32_t height)
{
    if (p->width == width && p->height == height)
        return false;
    p->width = width;
    p->height = height;
    memset(p->pixels, 0, (size_t)width * height * sizeof *p->pixels);
    return true;
}

void damage_end(struct damage *damage)
{
    if (damage->run.height && damage->changed)
        damage->changed(damage->opaque, &damage->run);
    damage->run = (struct display_rect){0};
}

static void damage_add(struct damage *damage, uint32_t y, uint32_t from, uint32_t to)
{
    struct display_rect *run = &damage->run;
    if (run->height && run->y + run->height != y)
        damage_end(damage);
    if (!run->height) {
        *run = (struct display_rect){from, y, to - from, 1};
        return;
    }
    uint32_t end = run->x + run->width > to ? run->x + run->width : to;
    run->x = run->x < from ? run->x : from;
    run->width = end - run->x;
    run->height++;
}

void picture_put_row(struct picture *p, uint32_t y, const uint32_t *row, struct damage *damage)
{
    uint32_t *old = p->pixels + (size_t)y * p->width;
    if (memcmp(old, row, p->width * sizeof *row) == 0)
        return;
    uint32_t from = 0, to = p->width;
    while (old[from] == row[from])
        from++;
    while (old[to - 1] == row[to - 1])
        to--;
    memcpy(old + from, row + from, (to - from) * sizeof *row);
    damage_add(damage, y, from, to);
}
