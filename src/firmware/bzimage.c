// Linux bzImage, boot protocol 2.06 and later (Linux Documentation/arch/x86/boot.rst): the
// protected mode part goes to 1 MiB, the zero page describes the machine. Kernels that offer the
// 64-bit entry are entered there, others at the 32-bit one. Not modelled: the real-mode entry,
// zImage, EFI handover.

#include <inttypes.h>
#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "firmware/layout.h"
#include "firmware/loader_impl.h"

// Offsets in the file's first sectors; the setup header has the same ones in the zero page.
enum {
    SETUP_SECTS = 0x1f1,
    SYSSIZE = 0x1f4,
    BOOT_FLAG = 0x1fe,
    JUMP = 0x200,
    MAGIC = 0x202,
    VERSION = 0x206,
    KERNEL_VERSION = 0x20e,
    TYPE_OF_LOADER = 0x210,
    LOADFLAGS = 0x211,
    CODE32_START = 0x214,
    RAMDISK_IMAGE = 0x218,
    RAMDISK_SIZE = 0x21c,
    CMD_LINE_PTR = 0x228,
    INITRD_ADDR_MAX = 0x22c,
    KERNEL_ALIGNMENT = 0x230,
    RELOCATABLE = 0x234,
    XLOADFLAGS = 0x236,
    CMDLINE_SIZE = 0x238,
    SETUP_DATA = 0x250,
    PREF_ADDRESS = 0x258,
    INIT_SIZE = 0x260,
    HEADER_END = 0x290, // as far as the zero page has room
};

// Fields of the zero page outside the header.
enum { ZP_ACPI_RSDP = 0x70, ZP_ALT_MEM_K = 0x1e0, ZP_E820_ENTRIES = 0x1e8, ZP_E820 = 0x2d0 };

#define LOADED_HIGH BIT(0)
#define XLF_KERNEL_64 BIT(0)
#define LOAD_AT 0x100000ull
#define ENTRY_64 0x200
#define LOADER_UNDEFINED 0xff // type_of_loader without an assigned number

struct bzimage {
    const uint8_t *file;
    uint64_t setup_bytes; // real-mode part, boot sector included
    uint64_t kernel_bytes;
    uint64_t init_bytes; // memory that the kernel needs while it unpacks itself
    gpa_t runtime;       // where it unpacks itself to, at the lowest
    uint16_t version;
    bool entry64;
};

bool bzimage_is(const struct boot_request *rq)
{
    return rq->kernel_len >= 0x268 && load_le16(rq->kernel + BOOT_FLAG) == 0xaa55 &&
           memcmp(rq->kernel + MAGIC, "HdrS", 4) == 0;
}

static err_t check_sizes(struct bzimage *k, uint64_t len, struct error *e)
{
    unsigned sectors = k->file[SETUP_SECTS] ? k->file[SETUP_SECTS] : 4;
    k->setup_bytes = (sectors + 1) * 512ull;
    k->kernel_bytes = load_le32(k->file + SYSSIZE) * 16ull;
    uint64_t want = k->setup_bytes + k->kernel_bytes;
    if (k->kernel_bytes <= ENTRY_64 + 16 || len + 15 < want) {
        return error_set(e, ERR_CORRUPT,
                         "the file is cut off: it has %" PRIu64 " bytes, its header says %" PRIu64
                         "; copy the kernel again",
                         len, want);
    }
    k->kernel_bytes = min_u64(k->kernel_bytes, len - k->setup_bytes);
    return OK;
}

static err_t check_place(struct bzimage *k, struct error *e)
{
    k->entry64 = k->version >= 0x20c && (k->file[XLOADFLAGS] & XLF_KERNEL_64);
    k->init_bytes = k->kernel_bytes;
    k->runtime = LOAD_AT;
    if (k->version >= 0x20a) {
        uint64_t align = load_le32(k->file + KERNEL_ALIGNMENT);
        uint64_t preferred = load_le64(k->file + PREF_ADDRESS);
        if (k->file[RELOCATABLE] && !is_power_of_two(align)) {
            return error_set(e, ERR_CORRUPT, "its header asks for an alignment of %#" PRIx64,
                             align);
        }
        k->runtime =
            k->file[RELOCATABLE] ? max_u64(align_up(LOAD_AT, align), preferred) : preferred;
        k->init_bytes = max_u64(load_le32(k->file + INIT_SIZE), k->kernel_bytes);
    }
    return OK;
}

static err_t parse(const struct boot_request *rq, struct bzimage *k, struct error *e)
{
    *k = (struct bzimage){.file = rq->kernel, .version = load_le16(rq->kernel + VERSION)};
    if (k->version < 0x206 || !(k->file[LOADFLAGS] & LOADED_HIGH)) {
        return error_set(
            e, ERR_UNSUPPORTED,
            "it speaks Linux boot protocol %u.%02u%s; use a bzImage of Linux 2.6.22 or later",
            k->version >> 8, k->version & 0xff,
            (k->file[LOADFLAGS] & LOADED_HIGH) ? "" : " and is a zImage");
    }
    err_t err = check_sizes(k, rq->kernel_len, e);
    return err == OK ? check_place(k, e) : err;
}

// The kernel's version string, as far as it is printable.
static void read_version(const struct bzimage *k, struct boot_result *result)
{
    uint64_t at = load_le16(k->file + KERNEL_VERSION) + 0x200ull;
    for (unsigned i = 0; i + 1 < sizeof result->version && at + i < k->setup_bytes; i++) {
        uint8_t c = k->file[at + i];
        if (c < ' ' || c > '~') {
            break;
        }
        result->version[i] = (char)c;
    }
}

static void write_e820(const struct e820_map *map, uint8_t *page)
{
    page[ZP_E820_ENTRIES] = (uint8_t)map->count;
    for (unsigned i = 0; i < map->count; i++) {
        uint8_t *p = page + ZP_E820 + 20 * i;
        store_le64(p, map->entry[i].at);
        store_le64(p + 8, map->entry[i].len);
        store_le32(p + 16, map->entry[i].type);
    }
}

static err_t write_zero_page(struct loading *l, const struct bzimage *k)
{
    uint8_t page[PAGE_SIZE] = {0};
    uint64_t header_end = min_u64(MAGIC + (uint64_t)k->file[JUMP + 1], HEADER_END);
    if (header_end < INITRD_ADDR_MAX + 4) {
        return error_set(l->e, ERR_CORRUPT, "its setup header is cut off; copy the kernel again");
    }
    memcpy(page + SETUP_SECTS, k->file + SETUP_SECTS, header_end - SETUP_SECTS);
    page[TYPE_OF_LOADER] = LOADER_UNDEFINED;
    store_le32(page + CODE32_START, LOAD_AT);
    store_le32(page + CMD_LINE_PTR, BOOT_CMDLINE);
    store_le32(page + RAMDISK_IMAGE, (uint32_t)l->result.initrd_at);
    store_le32(page + RAMDISK_SIZE, l->result.initrd_at ? (uint32_t)l->rq->initrd_len : 0);
    store_le64(page + SETUP_DATA, 0);
    store_le64(page + ZP_ACPI_RSDP, l->rq->rsdp);
    store_le32(page + ZP_ALT_MEM_K,
               (uint32_t)((e820_low_ram_end(l->memory->ram_bytes) - LOAD_AT) / KIB));
    write_e820(&l->map, page);
    return place_bytes(l, BOOT_PARAMS, page, sizeof page);
}

static err_t write_parts(struct loading *l, const struct bzimage *k)
{
    uint64_t cmdline_max = load_le32(k->file + CMDLINE_SIZE);
    err_t err = place_check(l, "the kernel, unpacked,", k->runtime, k->init_bytes);
    if (err == OK) {
        err = place_segment(l, "the kernel", LOAD_AT, k->file + k->setup_bytes, k->kernel_bytes,
                            k->kernel_bytes);
    }
    if (err == OK) {
        l->result.kernel_end = max_u64(l->result.kernel_end, k->runtime + k->init_bytes);
        err = place_initrd(l, load_le32(k->file + INITRD_ADDR_MAX) + 1ull);
    }
    if (err == OK) {
        err = place_cmdline(l, NULL, cmdline_max ? cmdline_max : 255);
    }
    return err == OK ? write_zero_page(l, k) : err;
}

err_t bzimage_load(struct loading *l)
{
    struct bzimage k;
    err_t err = parse(l->rq, &k, l->e);
    if (err == OK) {
        err = write_parts(l, &k);
    }
    if (err != OK) {
        return err;
    }
    read_version(&k, &l->result);
    l->result.format = k.entry64 ? "Linux bzImage, 64-bit entry" : "Linux bzImage, 32-bit entry";
    l->result.entry = k.entry64 ? LOAD_AT + ENTRY_64 : LOAD_AT;
    err = k.entry64 ? entry_long64(l, l->result.entry) : entry_flat32(l, (uint32_t)l->result.entry);
    l->s->gpr[RSI] = BOOT_PARAMS;
    return err;
}
