// What an image can be started by: a BIOS, UEFI, both or neither.
#pragma once

#include "base/types.h"

struct boot_image {
    bool (*read)(void *opaque, uint64_t offset, void *data, size_t len); // false: cannot be read
    void *opaque;
    uint64_t size_bytes;
    uint32_t sector_bytes; // of a disk: 512 or 4096
    bool cdrom;            // a disc: El Torito counts, a partition table does not
};

struct boot_ways {
    bool bios;
    bool uefi;
};

// The image is not trusted: at most 64 KiB of it are read.
struct boot_ways boot_guess(const struct boot_image *image);

#define ISO_MAGIC_AT 0x8001
#define ISO_MAGIC "CD001" // ECMA-119, 8.1.2: a CD-ROM's file system
