// perf's map of translated code: what its lines say, and which tables of symbols are taken.
#include "engine/translate/perfmap.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "test.h"

#define HOST ((const void *)(uintptr_t)0x7f0012340000)

static char symbols[] = "/tmp/berth-symbols-XXXXXX";

static void write_symbols(const char *text)
{
    snprintf(symbols, sizeof symbols, "/tmp/berth-symbols-XXXXXX");
    int fd = mkstemp(symbols);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

// What perf would read after adding one block for each address.
static const char *lines(const char *table, const uint64_t *rip, unsigned count)
{
    static char text[1024];
    char path[64];
    struct perf_map *map = NULL;
    struct error e = {0};
    CHECK_EQ(perf_map_new(table, &map, &e), OK);
    for (unsigned i = 0; map && i < count; i++)
        perf_map_add(map, HOST, 0x1c, rip[i]);
    perf_map_free(map);
    snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
    FILE *f = fopen(path, "re");
    size_t len = f ? fread(text, 1, sizeof text - 1, f) : 0;
    text[len] = '\0';
    if (f)
        fclose(f);
    unlink(path);
    return text;
}

static void without_symbols_a_block_has_its_address(void)
{
    const uint64_t rip[] = {0xffffffff81000010, 0};
    CHECK_STR(lines("none", rip, 2), "7f0012340000 1c guest:0xffffffff81000010\n"
                                     "7f0012340000 1c guest:0x0\n");
}

static void with_symbols_it_has_the_one_that_begins_before_it(void)
{
    const uint64_t rip[] = {0xfff, 0x1000, 0x1fff, 0x3004};
    write_symbols("0000000000003000 t late\t[m]\n"
                  "0000000000002000 D data\n"
                  "nonsense\n"
                  "0000000000001000 T early\n"
                  "0000000000004000 T cut");
    CHECK_STR(lines(symbols, rip, 4), "7f0012340000 1c guest:0xfff\n"
                                      "7f0012340000 1c guest:early+0x0\n"
                                      "7f0012340000 1c guest:early+0xfff\n"
                                      "7f0012340000 1c guest:late+0x4\n");
    unlink(symbols);
}

static void a_table_without_code_is_refused(void)
{
    struct perf_map *map = NULL;
    struct error e = {0};
    write_symbols("ffffffffffffffff B The real System.map is elsewhere\n");
    CHECK_EQ(perf_map_new(symbols, &map, &e), ERR_CORRUPT);
    CHECK(strstr(e.text, "System.map"));
    unlink(symbols);
    CHECK_EQ(perf_map_new("/nowhere/System.map", &map, &e), ERR_NOT_FOUND);
}

TEST_MAIN(TEST(without_symbols_a_block_has_its_address),
          TEST(with_symbols_it_has_the_one_that_begins_before_it),
          TEST(a_table_without_code_is_refused))
