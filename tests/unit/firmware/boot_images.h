// Small images that boot_guess() knows: 64 KiB, only the sectors that it looks at.
#pragma once

#include <string.h>

#include "base/bytes.h"
#include "firmware/boot_guess.h"

#define BOOT_IMAGE_BYTES 65536
#define BOOT_CATALOG_SECTOR 20

static inline void boot_image_mbr(uint8_t *image, bool code, uint8_t type)
{
    memset(image, 0, BOOT_IMAGE_BYTES);
    image[0] = code ? 0xeb : 0;
    image[446 + 4] = type;
    store_le16(image + 510, 0xaa55);
}

// With an EFI system partition, a BIOS boot partition and one that old boot code may start.
static inline void boot_image_gpt(uint8_t *image, uint32_t sector, bool code, bool esp, bool bios,
                                  bool legacy)
{
    static const uint8_t esp_type[] = {0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11,
                                       0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b};
    boot_image_mbr(image, code, 0xee);
    uint8_t *header = image + sector, *entry = image + 2 * sector;
    memcpy(header, "EFI PART", 8);
    store_le64(header + 72, 2);
    store_le32(header + 80, 128);
    store_le32(header + 84, 128);
    if (esp)
        memcpy(entry + 3 * 128, esp_type, sizeof esp_type);
    if (bios)
        memcpy(entry + 128, "Hah!IdontNeedEFI", 16);
    entry[127 * 128 + 48] = legacy ? 4 : 0;
}

// A catalogue with a default entry and a section.
static inline void boot_image_disc(uint8_t *image, uint8_t first, uint8_t second)
{
    memset(image, 0, BOOT_IMAGE_BYTES);
    uint8_t *sector = image + 16 * 2048, *catalog = image + BOOT_CATALOG_SECTOR * 2048;
    memcpy(sector, "\1CD001\1", 7);
    memcpy(sector + 2048, "\0CD001\1EL TORITO SPECIFICATION", 30);
    store_le32(sector + 2048 + 0x47, BOOT_CATALOG_SECTOR);
    memcpy(sector + 4096,
           "\xff"
           "CD001\1",
           7);
    catalog[0] = 1;
    catalog[1] = first;
    store_le16(catalog + 0x1e, 0xaa55);
    store_le16(catalog + 0x1c, (uint16_t) - (0xaa55 + 1 + (first << 8)));
    catalog[32] = 0x88;
    catalog[64] = 0x91;
    catalog[65] = second;
    catalog[96] = 0x88;
}

static inline bool boot_image_read(void *opaque, uint64_t offset, void *data, size_t len)
{
    memcpy(data, (const uint8_t *)opaque + offset, len);
    return true;
}

static inline struct boot_ways boot_image_guess(uint8_t *image, uint32_t sector, bool cdrom)
{
    const struct boot_image disk = {boot_image_read, image, BOOT_IMAGE_BYTES, sector, cdrom};
    return boot_guess(&disk);
}
