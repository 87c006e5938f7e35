// What starts an image, guessed from its partition table or boot catalogue.
#include "../test.h"

#include "boot_images.h"

static uint8_t image[BOOT_IMAGE_BYTES];

static void expect(uint32_t sector, bool cdrom, bool bios, bool uefi)
{
    struct boot_ways ways = boot_image_guess(image, sector, cdrom);
    CHECK_EQ(ways.bios, bios);
    CHECK_EQ(ways.uefi, uefi);
}

static void an_empty_disk_starts_by_nothing(void)
{
    memset(image, 0, sizeof image);
    expect(512, false, false, false);
    boot_image_mbr(image, true, 0x83);
    image[510] = 0;
    expect(512, false, false, false);
}

static void boot_code_is_for_a_bios(void)
{
    boot_image_mbr(image, true, 0x83);
    expect(512, false, true, false);
    boot_image_mbr(image, false, 0x83);
    expect(512, false, false, false);
}

static void an_efi_system_partition_is_for_uefi(void)
{
    boot_image_mbr(image, false, 0xef);
    expect(512, false, false, true);
    boot_image_gpt(image, 512, false, true, false, false);
    expect(512, false, false, true);
    boot_image_gpt(image, 4096, false, true, false, false);
    expect(4096, false, false, true);
}

static void a_disk_may_start_both_ways(void)
{
    boot_image_gpt(image, 512, true, true, true, false);
    expect(512, false, true, true);
    boot_image_gpt(image, 512, true, true, false, true);
    expect(512, false, true, true);
    boot_image_mbr(image, true, 0xef);
    expect(512, false, true, true);
}

// Partitioning programs put words there that say so.
static void code_before_a_gpt_that_leads_nowhere_does_not_count(void)
{
    boot_image_gpt(image, 512, true, true, false, false);
    expect(512, false, false, true);
}

static void a_table_that_lies_is_read_no_further(void)
{
    boot_image_gpt(image, 512, false, true, false, false);
    store_le32(image + 512 + 84, 16);
    expect(512, false, false, false);
    boot_image_gpt(image, 512, false, true, false, false);
    store_le64(image + 512 + 72, ~0ull / 512);
    expect(512, false, false, false);
    boot_image_gpt(image, 512, false, true, false, false);
    store_le32(image + 512 + 80, ~0u);
    expect(512, false, false, true);
}

static void a_disc_names_its_platforms(void)
{
    boot_image_disc(image, 0, 0xef);
    expect(2048, true, true, true);
    boot_image_disc(image, 0, 0);
    expect(2048, true, true, false);
    boot_image_disc(image, 0xef, 0xef);
    expect(2048, true, false, true);
}

static void a_disc_without_a_catalogue_starts_nothing(void)
{
    boot_image_disc(image, 0, 0xef);
    image[17 * 2048 + 7] = 'X';
    expect(2048, true, false, false);
    boot_image_disc(image, 0, 0xef);
    image[BOOT_CATALOG_SECTOR * 2048 + 5] ^= 1; // its checksum
    expect(2048, true, false, false);
    boot_image_disc(image, 0, 0xef);
    store_le32(image + 17 * 2048 + 0x47, ~0u);
    expect(2048, true, false, false);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(an_empty_disk_starts_by_nothing),
        TEST(boot_code_is_for_a_bios),
        TEST(an_efi_system_partition_is_for_uefi),
        TEST(a_disk_may_start_both_ways),
        TEST(code_before_a_gpt_that_leads_nowhere_does_not_count),
        TEST(a_table_that_lies_is_read_no_further),
        TEST(a_disc_names_its_platforms),
        TEST(a_disc_without_a_catalogue_starts_nothing),
    };
    return test_main(tests, sizeof tests / sizeof *tests);
}
