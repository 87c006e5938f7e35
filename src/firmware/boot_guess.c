// Guesses from the first sectors of an image what starts it: from the master boot record and the
// GUID partition table of a disk, and from the boot catalogue of a disc.
//
// Specifications: UEFI 2.10 chapter 5 (GPT) and 13.3.2 (El Torito), El Torito 1.0, ECMA-119. Not
// looked at: file systems (a medium without partitions counts as a BIOS's), and whether what is
// found there works.
#include "firmware/boot_guess.h"

#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"

static bool read_at(const struct boot_image *image, uint64_t offset, void *data, size_t len)
{
    return len <= image->size_bytes && offset <= image->size_bytes - len &&
           image->read(image->opaque, offset, data, len);
}

// --- discs ---------------------------------------------------------------------------------------

#define DISC_SECTOR 2048
#define DESCRIPTORS 16 // the first of them, and how many are looked at
#define EL_TORITO "EL TORITO SPECIFICATION"
#define CATALOG_ENTRY 32

enum platform { PLATFORM_BIOS = 0, PLATFORM_UEFI = 0xef };
enum catalog_entry { ENTRY_BOOTABLE = 0x88, ENTRY_SECTION = 0x90, ENTRY_LAST_SECTION = 0x91 };

// The boot catalogue's place in bytes; 0: the disc has none.
static uint64_t find_catalog(const struct boot_image *image)
{
    uint8_t descriptor[DISC_SECTOR];
    for (unsigned i = 0; i < DESCRIPTORS; i++) {
        if (!read_at(image, (DESCRIPTORS + i) * DISC_SECTOR, descriptor, sizeof descriptor) ||
            memcmp(descriptor + 1, ISO_MAGIC, strlen(ISO_MAGIC)) || descriptor[0] == 0xff)
            return 0;
        if (descriptor[0] == 0 && !memcmp(descriptor + 7, EL_TORITO, strlen(EL_TORITO)))
            return (uint64_t)load_le32(descriptor + 0x47) * DISC_SECTOR;
    }
    return 0;
}

static bool is_validation(const uint8_t *entry)
{
    uint16_t sum = 0;
    for (unsigned i = 0; i < CATALOG_ENTRY; i += 2)
        sum = (uint16_t)(sum + load_le16(entry + i));
    return entry[0] == 1 && entry[0x1e] == 0x55 && entry[0x1f] == 0xaa && sum == 0;
}

static void add_way(struct boot_ways *ways, unsigned platform)
{
    ways->bios |= platform == PLATFORM_BIOS;
    ways->uefi |= platform == PLATFORM_UEFI;
}

static struct boot_ways guess_disc(const struct boot_image *image)
{
    uint8_t catalog[DISC_SECTOR];
    struct boot_ways ways = {0};
    uint64_t at = find_catalog(image);
    if (!at || !read_at(image, at, catalog, sizeof catalog) || !is_validation(catalog))
        return ways;
    unsigned platform = catalog[1];
    for (const uint8_t *entry = catalog + CATALOG_ENTRY; entry < catalog + sizeof catalog;
         entry += CATALOG_ENTRY) {
        if (entry[0] == ENTRY_SECTION || entry[0] == ENTRY_LAST_SECTION)
            platform = entry[1];
        else if (entry[0] == ENTRY_BOOTABLE)
            add_way(&ways, platform);
    }
    return ways;
}

// --- disks ---------------------------------------------------------------------------------------

#define MBR_CODE 440 // bytes
#define MBR_PARTITIONS 446
#define MBR_ENTRY 16
#define MBR_TYPE 4 // in an entry
#define TYPE_GPT 0xee
#define TYPE_EFI_SYSTEM 0xef

#define GPT_HEADER 92
#define GPT_ENTRY 128 // at least
#define GPT_ENTRIES 128
#define GPT_ATTRIBUTES 48 // in an entry
#define LEGACY_BOOTABLE BIT(2)

static const uint8_t efi_system[16] = {0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11,
                                       0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b};
static const uint8_t bios_boot[16] = "Hah!IdontNeedEFI";

static bool has_code(const uint8_t *mbr)
{
    for (unsigned i = 0; i < MBR_CODE; i++)
        if (mbr[i])
            return true;
    return false;
}

static bool has_type(const uint8_t *mbr, uint8_t type)
{
    for (unsigned i = 0; i < 4; i++)
        if (mbr[MBR_PARTITIONS + i * MBR_ENTRY + MBR_TYPE] == type)
            return true;
    return false;
}

// Code in the first sector of such a disk may only say that there is no system; whether it goes on
// to something is in the table.
static struct boot_ways guess_gpt(const struct boot_image *image)
{
    uint8_t header[GPT_HEADER], entry[GPT_ENTRY];
    struct boot_ways ways = {0};
    if (!read_at(image, image->sector_bytes, header, sizeof header) ||
        memcmp(header, "EFI PART", 8))
        return ways;
    uint64_t lba = load_le64(header + 72);
    uint32_t count = load_le32(header + 80), size = load_le32(header + 84);
    if (lba > image->size_bytes / image->sector_bytes || size < GPT_ENTRY || size > DISC_SECTOR)
        return ways;
    for (uint32_t i = 0; i < count && i < GPT_ENTRIES; i++) {
        if (!read_at(image, lba * image->sector_bytes + i * size, entry, sizeof entry))
            break;
        ways.uefi |= !memcmp(entry, efi_system, sizeof efi_system);
        ways.bios |= !memcmp(entry, bios_boot, sizeof bios_boot) ||
                     load_le64(entry + GPT_ATTRIBUTES) & LEGACY_BOOTABLE;
    }
    return ways;
}

static struct boot_ways guess_disk(const struct boot_image *image)
{
    uint8_t mbr[512];
    struct boot_ways ways = {0};
    if (!read_at(image, 0, mbr, sizeof mbr) || mbr[510] != 0x55 || mbr[511] != 0xaa)
        return ways;
    if (!has_type(mbr, TYPE_GPT))
        return (struct boot_ways){.bios = has_code(mbr), .uefi = has_type(mbr, TYPE_EFI_SYSTEM)};
    ways = guess_gpt(image);
    ways.bios = has_code(mbr) && (ways.bios || !ways.uefi);
    return ways;
}

struct boot_ways boot_guess(const struct boot_image *image)
{
    return image->cdrom ? guess_disc(image) : guess_disk(image);
}
