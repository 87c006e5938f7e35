// perf's map of translated code (see perfmap.h): lines of "START LENGTH NAME", numbers in
// hexadecimal, as perf's tools/perf/Documentation/jit-interface.txt has them. A line is one write,
// so vCPUs share the file. Not modelled: code that is dropped stays in the file, and what is put in
// its place comes after it; guests' programs have no symbols here.
#include "engine/translate/perfmap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/file.h"
#include "host/isolate.h"

#define SYMBOLS_FILE_MAX (64 * MIB)
#define NAME_MAX_BYTES 128

struct symbol {
    uint64_t at;
    const char *name; // ends with the line
};

struct perf_map {
    int fd;
    struct host_file file; // of symbols
    struct symbol *symbol; // by address
    size_t symbols;
};

// --- symbols

static int by_address(const void *a, const void *b)
{
    const struct symbol *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

// "ffffffff81000000 T startup_64": code only.
static bool parse_line(const char *line, struct symbol *out)
{
    char *end;
    out->at = strtoull(line, &end, 16);
    if (end == line || end[0] != ' ' || !end[1] || !strchr("tTwW", end[1]) || end[2] != ' ')
        return false;
    out->name = end + 3;
    return true;
}

static size_t count_lines(const struct host_file *file)
{
    size_t lines = 1;
    for (size_t i = 0; i < file->len; i++)
        lines += file->data[i] == '\n';
    return lines;
}

static err_t read_symbols(struct perf_map *map, const char *path, struct error *e)
{
    err_t err = host_file_read(path, SYMBOLS_FILE_MAX, &map->file, e);
    if (err)
        return err;
    map->symbol = calloc(count_lines(&map->file), sizeof *map->symbol);
    if (!map->symbol)
        return error_set(e, ERR_NO_MEMORY, "no memory for the symbols of '%s'", path);
    const char *line = (const char *)map->file.data, *end = line + map->file.len;
    while (line < end) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        if (!next)
            break; // a line that has no end may be cut
        map->symbols += parse_line(line, &map->symbol[map->symbols]);
        line = next + 1;
    }
    qsort(map->symbol, map->symbols, sizeof *map->symbol, by_address);
    return map->symbols
               ? OK
               : error_set(e, ERR_CORRUPT,
                           "'%s' has no symbols of code; give --perf-map the guest kernel's "
                           "System.map, its /proc/kallsyms, or none",
                           path);
}

static const struct symbol *symbol_of(const struct perf_map *map, uint64_t rip)
{
    size_t from = 0, to = map->symbols;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (map->symbol[middle].at <= rip)
            from = middle + 1;
        else
            to = middle;
    }
    return from ? &map->symbol[from - 1] : NULL;
}

// --- the file

err_t perf_map_new(const char *symbols, struct perf_map **out, struct error *e)
{
    char path[64];
    struct perf_map *map = calloc(1, sizeof *map);
    if (!map)
        return error_set(e, ERR_NO_MEMORY, "no memory for perf's map");
    map->fd = -1;
    err_t err = strcmp(symbols, "none") ? read_symbols(map, symbols, e) : OK;
    if (!err) {
        snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)isolate_host_pid());
        map->fd =
            open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_APPEND | O_CLOEXEC, 0600);
        if (map->fd < 0)
            err = error_set(e, err_from_errno(errno), "cannot make perf's map '%s': %s", path,
                            strerror(errno));
    }
    if (err)
        perf_map_free(map);
    else
        *out = map;
    return err;
}

void perf_map_free(struct perf_map *map)
{
    if (!map)
        return;
    if (map->fd >= 0)
        close(map->fd);
    host_file_release(&map->file);
    free(map->symbol);
    free(map);
}

// --- lines

// The guest's vector registers are in the machine, so the C library's formatting is out of reach.
struct line {
    char text[NAME_MAX_BYTES + 64];
    size_t len;
};

static void put_text(struct line *l, const char *text, size_t max)
{
    for (size_t i = 0; i < max && text[i] && text[i] != '\n' && text[i] != '\t'; i++)
        l->text[l->len++] = text[i];
}

static void put_hex(struct line *l, uint64_t n)
{
    unsigned digits = n ? (unsigned)(63 - __builtin_clzll(n)) / 4 + 1 : 1;
    while (digits--)
        l->text[l->len++] = "0123456789abcdef"[n >> 4 * digits & 15];
}

void perf_map_add(const struct perf_map *map, const void *host, size_t len, uint64_t rip)
{
    struct line l;
    const struct symbol *symbol = symbol_of(map, rip);
    l.len = 0;
    put_hex(&l, (uintptr_t)host);
    put_text(&l, " ", 1);
    put_hex(&l, len);
    put_text(&l, " guest:", 7);
    if (symbol) {
        put_text(&l, symbol->name, NAME_MAX_BYTES);
        put_text(&l, "+", 1);
    }
    put_text(&l, "0x", 2);
    put_hex(&l, symbol ? rip - symbol->at : rip);
    l.text[l.len++] = '\n';
    ssize_t ignored = write(map->fd, l.text, l.len); // a full disk costs names only
    (void)ignored;
}
