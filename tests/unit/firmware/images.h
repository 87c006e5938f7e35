// Minimal kernels of every format, made on the spot: valid, for tests to break.
#pragma once

#include <string.h>

#include "base/bytes.h"

#define IMAGE_ROOM 16384

// A bzImage of protocol 2.15: 4 setup sectors, 1 KiB of code filled with 0x5a.
static inline size_t image_bzimage(uint8_t out[IMAGE_ROOM])
{
    memset(out, 0, IMAGE_ROOM);
    out[0x1f1] = 4;
    store_le32(out + 0x1f4, 1024 / 16);
    store_le16(out + 0x1fe, 0xaa55);
    out[0x201] = 0x6a;
    memcpy(out + 0x202, "HdrS", 4);
    store_le16(out + 0x206, 0x20f);
    store_le16(out + 0x20e, 0x400 - 0x200);
    out[0x211] = 1; // loaded high
    store_le32(out + 0x22c, 0x7fffffff);
    store_le32(out + 0x230, 0x200000);
    out[0x234] = 1;             // relocatable
    store_le16(out + 0x236, 1); // 64-bit entry
    store_le32(out + 0x238, 2047);
    store_le64(out + 0x258, 0x1000000);
    store_le32(out + 0x260, 0x100000);
    strcpy((char *)out + 0x400, "6.1.0 (test)");
    memset(out + 5 * 512, 0x5a, 1024);
    return 5 * 512 + 1024;
}

// An ELF32 or ELF64 file with one segment of 256 bytes (512 in memory) at 2 MiB.
static inline size_t image_elf(uint8_t out[IMAGE_ROOM], bool is64)
{
    memset(out, 0, IMAGE_ROOM);
    memcpy(out, "\177ELF", 4);
    out[4] = is64 ? 2 : 1;
    out[5] = out[6] = 1;
    store_le16(out + 16, 2);
    store_le16(out + 18, is64 ? 62 : 3);
    uint8_t *ph = out + 64;
    if (is64) {
        store_le64(out + 24, 0x200000);
        store_le64(out + 32, 64);
        store_le16(out + 54, 56);
        store_le16(out + 56, 2);
        store_le32(ph, 1);
        store_le64(ph + 8, 1024);
        store_le64(ph + 16, 0xffffffff80200000ull);
        store_le64(ph + 24, 0x200000);
        store_le64(ph + 32, 256);
        store_le64(ph + 40, 512);
        store_le32(ph + 56, 4);
        store_le64(ph + 56 + 8, 512);
        store_le64(ph + 56 + 32, 20);
    } else {
        store_le32(out + 24, 0x200010);
        store_le32(out + 28, 64);
        store_le16(out + 42, 32);
        store_le16(out + 44, 2);
        store_le32(ph, 1);
        store_le32(ph + 4, 1024);
        store_le32(ph + 12, 0x200000);
        store_le32(ph + 16, 256);
        store_le32(ph + 20, 512);
        store_le32(ph + 32, 4);
        store_le32(ph + 36, 512);
        store_le32(ph + 32 + 16, 20);
    }
    memset(out + 1024, 0x5a, 256);
    return 1280;
}

// The note that makes such a file a PVH kernel entered at 2 MiB + 0x40.
static inline void image_add_pvh(uint8_t *out)
{
    store_le32(out + 512, 4);
    store_le32(out + 516, 4);
    store_le32(out + 520, 18);
    memcpy(out + 524, "Xen", 4);
    store_le32(out + 528, 0x200040);
}

static inline void image_add_multiboot(uint8_t *out, uint32_t flags)
{
    store_le32(out + 256, 0x1badb002);
    store_le32(out + 260, flags);
    store_le32(out + 264, 0u - 0x1badb002u - flags);
}
