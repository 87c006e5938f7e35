// Guest RAM, whole files and the clocks.
#include "host/memory.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/clock.h"
#include "host/file.h"
#include "test.h"

static void ram_is_zeroed_and_aligned_to_huge_pages(void)
{
    void *ram = NULL;
    CHECK(host_ram_new(8 * MIB, HOST_RAM_PRIVATE, &ram, NULL) == OK);
    CHECK_EQ((uintptr_t)ram % (2 * MIB), 0);
    uint8_t *bytes = ram;
    CHECK_EQ(bytes[0] | bytes[8 * MIB - 1], 0);
    bytes[8 * MIB - 1] = 1;
    host_ram_free(ram, 8 * MIB);
}

static void too_much_ram_is_refused_with_an_amount_that_fits(void)
{
    struct error e = {0};
    void *ram = NULL;
    CHECK(host_ram_new(1ull << 45, HOST_RAM_PRIVATE, &ram, &e) == ERR_NO_MEMORY);
    CHECK(strstr(e.text, "the host has ") != NULL);
    const char *try = strstr(e.text, "try -m ");
    CHECK(try != NULL);
    struct host_memory memory;
    host_memory_read(&memory);
    if (try)
        CHECK(strtoull(try + 7, NULL, 10) * MIB <= memory.available);
}

static void one_byte_of_sparse_memory_costs_one_page(void)
{
    enum { PAGES = 4 * MIB / 4096 };
    unsigned char there[PAGES];
    uint8_t *at = host_sparse_new(4 * MIB);
    unsigned resident = 0;
    CHECK(at != NULL);
    CHECK_EQ(at[2 * MIB], 0);
    at[2 * MIB] = 1;
    CHECK_EQ(mincore(at, 4 * MIB, there), 0);
    for (unsigned i = 0; i < PAGES; i++)
        resident += there[i] & 1;
    CHECK_EQ(resident, 1);
    host_sparse_free(at, 4 * MIB);
}

static void a_file_that_is_too_long_is_refused(void)
{
    char path[] = "/tmp/berth-file-XXXXXX";
    int fd = mkstemp(path);
    CHECK(write(fd, "0123456789", 10) == 10);
    close(fd);
    struct host_file file;
    CHECK(host_file_read(path, 10, &file, NULL) == OK);
    CHECK_EQ(file.len, 10);
    host_file_release(&file);
    CHECK(host_file_read(path, 9, &file, NULL) == ERR_INVALID);
    unlink(path);
    struct error e;
    CHECK(host_file_read(path, 10, &file, &e) == ERR_NOT_FOUND);
    CHECK(strstr(e.text, path) != NULL);
}

static void the_tsc_frequency_agrees_with_the_clock(void)
{
    struct host_tsc_info info;
    host_tsc_calibrate(NULL, &info);
    uint64_t ns = host_now(), tsc = host_tsc();
    while (host_now() < ns + 20 * NS_PER_MS)
        usleep(1000);
    uint64_t khz = (host_tsc() - tsc) * 1000000 / (host_now() - ns);
    CHECK(khz > info.khz / 100 * 95 && khz < info.khz / 100 * 105);
    CHECK(info.source != NULL);
}

static void an_earlier_look_at_the_tsc_serves_as_well(void)
{
    struct host_tsc_look begun;
    struct host_tsc_info waited, info;
    host_tsc_calibrate(NULL, &waited);
    host_tsc_look(&begun);
    usleep(10000);
    host_tsc_calibrate(&begun, &info);
    CHECK(info.khz > waited.khz / 100 * 99 && info.khz < waited.khz / 100 * 101);
}

TEST_MAIN(TEST(ram_is_zeroed_and_aligned_to_huge_pages),
          TEST(one_byte_of_sparse_memory_costs_one_page),
          TEST(too_much_ram_is_refused_with_an_amount_that_fits),
          TEST(a_file_that_is_too_long_is_refused), TEST(the_tsc_frequency_agrees_with_the_clock),
          TEST(an_earlier_look_at_the_tsc_serves_as_well))
