// Guest RAM that is a file.
#include "host/ram_file.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test.h"

#define BYTES (8 * MIB)

// Of the file, in the host's memory.
static uint64_t resident(const struct ram_file *ram)
{
    struct stat st = {0};
    CHECK_EQ(fstat(ram->fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void others_share_it_and_cannot_resize_it(void)
{
    struct ram_file ram;
    CHECK_EQ(ram_file_init(&ram, BYTES, NULL), OK);
    CHECK_EQ((uintptr_t)ram.at % RAM_FILE_LARGE, 0);
    ram.at[5 * MIB] = 7;
    uint8_t *other = mmap(NULL, 4096, PROT_READ, MAP_SHARED, ram.fd, 5 * MIB);
    CHECK(other != MAP_FAILED && *other == 7);
    munmap(other, 4096);
    CHECK_EQ(ftruncate(ram.fd, 4 * MIB), -1);
    CHECK_EQ(ftruncate(ram.fd, 16 * MIB), -1);
    ram_file_release(&ram);
    CHECK(!ram.at && ram.fd == -1);
}

static void discarded_pages_go_back_and_read_as_zeros(void)
{
    struct ram_file ram;
    CHECK_EQ(ram_file_init(&ram, BYTES, NULL), OK);
    madvise(ram.at, BYTES, MADV_NOHUGEPAGE);
    for (uint64_t at = 0; at < BYTES; at += 4096)
        ram.at[at] = 1;
    CHECK_EQ(resident(&ram), BYTES);
    ram_file_discard(&ram, 3 * MIB, 12288);
    CHECK_EQ(resident(&ram), BYTES - 12288);
    CHECK_EQ(ram.at[3 * MIB + 4096], 0);
    CHECK_EQ(ram.at[3 * MIB + 12288], 1);
    ram_file_release(&ram);
}

static void a_large_page_comes_when_it_is_due_and_touched(void)
{
    struct ram_file ram;
    CHECK_EQ(ram_file_init(&ram, BYTES, NULL), OK);
    ram_file_want_large(&ram, 1 * MIB, 5 * MIB); // whole ones only: 2 MiB to 6 MiB
    CHECK_EQ(ram.due[0] | ram.due[3], 0);
    CHECK_EQ(ram.due[1] & ram.due[2], 1);
    ram_file_touch(&ram, ram.at + 6 * MIB, 2 * MIB);
    ram_file_touch(&ram, ram.at - 1, 1);
    ram_file_touch(&ram, ram.at + BYTES, 1);
    CHECK_EQ(resident(&ram), 0);
    ram_file_touch(&ram, ram.at + 4 * MIB - 1, 2); // the ends of two
    CHECK_EQ(ram.due[1] | ram.due[2], 0);
    if (resident(&ram) != 4 * MIB)
        printf("# this kernel makes no large pages of files\n");
    else
        ram_file_discard(&ram, 2 * MIB, 2 * MIB + 4096);
    CHECK(resident(&ram) <= 2 * MIB);
    CHECK_EQ(ram.due[2], 0); // some of it is in use
    ram_file_release(&ram);
}

static void a_large_page_that_went_back_is_due_again(void)
{
    struct ram_file ram;
    CHECK_EQ(ram_file_init(&ram, BYTES, NULL), OK);
    ram_file_want_large(&ram, 0, BYTES);
    ram_file_touch(&ram, ram.at, BYTES);
    ram_file_discard(&ram, 2 * MIB - 4096, 2 * MIB + 8192);
    CHECK_EQ(ram.due[0] | ram.due[2] | ram.due[3], 0);
    CHECK_EQ(ram.due[1], 1);
    ram_file_release(&ram);
}

TEST_MAIN(TEST(others_share_it_and_cannot_resize_it),
          TEST(discarded_pages_go_back_and_read_as_zeros),
          TEST(a_large_page_comes_when_it_is_due_and_touched),
          TEST(a_large_page_that_went_back_is_due_again))
