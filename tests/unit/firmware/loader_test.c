// Kernels of every format are placed and entered as their protocols say, and malformed ones refused
// with words that help.

#include "firmware/loader.h"

#include "firmware/layout.h"
#include "test.h"

#include "fake_memory.h"
#include "images.h"

struct fixture {
    struct fake_memory fake;
    struct cpu_state s;
    struct boot_request rq;
    struct boot_result result;
    struct error e;
    uint8_t image[IMAGE_ROOM];
};

static struct fixture f;

static void setup(uint64_t ram)
{
    memset(&f, 0, sizeof f);
    fake_init(&f.fake, ram);
    f.rq =
        (struct boot_request){.kernel = f.image, .name = "k", .cmdline = "quiet", .rsdp = 0xf0000};
}

static err_t load(size_t len)
{
    f.rq.kernel_len = len;
    return loader_load(&f.rq, &f.fake.memory, &f.s, &f.result, &f.e);
}

static const uint8_t *at(gpa_t gpa)
{
    return f.fake.ram + gpa;
}

static void bzimage_is_entered_in_long_mode_with_its_zero_page(void)
{
    setup(64 * MIB);
    CHECK_EQ(load(image_bzimage(f.image)), OK);
    CHECK_STR(f.result.version, "6.1.0 (test)");
    CHECK_EQ(f.s.rip, 0x100200);
    CHECK_EQ(f.s.gpr[RSI], BOOT_PARAMS);
    CHECK_EQ(f.s.efer, EFER_LME | EFER_LMA);
    CHECK_EQ(f.s.cr0, CR0_PE | CR0_PG | CR0_ET);
    CHECK_EQ(f.s.seg[SEG_CS].selector, 0x10);
    CHECK((f.s.seg[SEG_CS].attr & SEGA_L) && !(f.s.seg[SEG_CS].attr & SEGA_DB));
    CHECK_EQ(*at(0x100000), 0x5a);
    const uint8_t *zp = at(BOOT_PARAMS);
    CHECK_EQ(load_le32(zp + 0x202), load_le32("HdrS"));
    CHECK_EQ(zp[0x210], 0xff);
    CHECK_EQ(load_le64(zp + 0x70), 0xf0000);
    CHECK_EQ(load_le32(zp + 0x228), BOOT_CMDLINE);
    CHECK_STR((const char *)at(BOOT_CMDLINE), "quiet");
    CHECK(zp[0x1e8] >= 4);
    fake_release(&f.fake);
}

static void identity_map_covers_4_gib(void)
{
    setup(64 * MIB);
    CHECK_EQ(load(image_bzimage(f.image)), OK);
    for (uint64_t gpa = 0; gpa < 4 * GIB; gpa += 511 * MIB) {
        uint64_t pml4e = load_le64(at(f.s.cr3));
        uint64_t pdpte = load_le64(at((pml4e & ~PAGE_MASK) + 8 * (gpa >> 30)));
        uint64_t pde = load_le64(at((pdpte & ~PAGE_MASK) + 8 * (gpa >> 21 & 511)));
        CHECK_EQ(pde, align_down(gpa, 2 * MIB) | PTE_P | PTE_W | PTE_PS);
    }
    fake_release(&f.fake);
}

static void bzimage_without_64_bit_entry_is_entered_in_protected_mode(void)
{
    setup(64 * MIB);
    size_t len = image_bzimage(f.image);
    f.image[0x236] = 0;
    CHECK_EQ(load(len), OK);
    CHECK_EQ(f.s.rip, 0x100000);
    CHECK_EQ(f.s.cr0, CR0_PE | CR0_ET);
    CHECK_EQ(f.s.efer, 0);
    CHECK_EQ(f.s.seg[SEG_DS].limit, 0xffffffff);
    CHECK(f.s.seg[SEG_CS].attr & SEGA_DB);
    // The descriptor in memory is the one in CS.
    CHECK_EQ(load_le64(at(f.s.gdtr.base + 0x10)), 0x00cf9b000000ffffull);
    CHECK_EQ(load_le64(at(f.s.gdtr.base + 0x18)), 0x00cf93000000ffffull);
    fake_release(&f.fake);
}

static void initrd_goes_to_the_top_of_low_ram(void)
{
    static const uint8_t initrd[5000] = {1, 2, 3};
    setup(64 * MIB);
    f.rq.initrd = initrd;
    f.rq.initrd_len = sizeof initrd;
    CHECK_EQ(load(image_bzimage(f.image)), OK);
    CHECK_EQ(f.result.initrd_at, 64 * MIB - BOOT_ACPI_SIZE - 8192);
    CHECK_EQ(memcmp(at(f.result.initrd_at), initrd, sizeof initrd), 0);
    CHECK_EQ(load_le32(at(BOOT_PARAMS) + 0x218), f.result.initrd_at);
    CHECK_EQ(load_le32(at(BOOT_PARAMS) + 0x21c), sizeof initrd);
    size_t len = image_bzimage(f.image);
    store_le32(f.image + 0x22c, 0x1ffffff); // initrd_addr_max: 32 MiB
    CHECK_EQ(load(len), OK);
    CHECK_EQ(f.result.initrd_at, 32 * MIB - 8192);
    fake_release(&f.fake);
}

static void initrd_that_does_not_fit_is_refused(void)
{
    static uint8_t initrd[16 * MIB];
    setup(32 * MIB);
    f.rq.initrd = initrd;
    f.rq.initrd_len = sizeof initrd;
    CHECK_EQ(load(image_bzimage(f.image)), ERR_UNSUPPORTED);
    CHECK_STR(f.e.text, "k cannot be started: the initrd (16 MiB) does not fit above the kernel; "
                        "give the machine more than 32 MiB");
    CHECK_EQ(f.s.rip, 0); // unchanged
    fake_release(&f.fake);
}

static void kernel_that_needs_more_memory_is_refused(void)
{
    setup(8 * MIB);
    CHECK_EQ(load(image_bzimage(f.image)), ERR_UNSUPPORTED);
    CHECK(strstr(f.e.text, "more than 8 MiB"));
    fake_release(&f.fake);
}

static void truncated_bzimage_is_refused_with_both_sizes(void)
{
    setup(64 * MIB);
    size_t len = image_bzimage(f.image);
    CHECK_EQ(load(len - 16), ERR_CORRUPT);
    CHECK_STR(f.e.text,
              "k cannot be started: the file is cut off: it has 3568 bytes, its header says "
              "3584; copy the kernel again");
    fake_release(&f.fake);
}

static void long_command_line_is_refused(void)
{
    static char cmdline[3000];
    setup(64 * MIB);
    memset(cmdline, 'a', sizeof cmdline - 1);
    f.rq.cmdline = cmdline;
    CHECK_EQ(load(image_bzimage(f.image)), ERR_INVALID);
    CHECK(strstr(f.e.text, "2047"));
    fake_release(&f.fake);
}

static void pvh_kernel_gets_start_info_in_ebx(void)
{
    static const uint8_t initrd[100] = {9};
    for (unsigned is64 = 0; is64 < 2; is64++) {
        setup(64 * MIB);
        f.rq.initrd = initrd;
        f.rq.initrd_len = sizeof initrd;
        size_t len = image_elf(f.image, is64);
        image_add_pvh(f.image);
        memset(f.fake.ram + 0x200000, 0xff, 1024);
        CHECK_EQ(load(len), OK);
        CHECK_EQ(f.s.rip, 0x200040);
        CHECK_EQ(f.s.cr0, CR0_PE | CR0_ET);
        CHECK_EQ(*at(0x2000ff), 0x5a);
        CHECK_EQ(*at(0x200100), 0); // the tail is zeroed
        CHECK_EQ(*at(0x200200), 0xff);
        const uint8_t *info = at(f.s.gpr[RBX]);
        CHECK_EQ(load_le32(info), 0x336ec578);
        CHECK_EQ(load_le32(info + 12), 1);
        CHECK_EQ(load_le64(at(load_le64(info + 16))), f.result.initrd_at);
        CHECK_EQ(load_le64(at(load_le64(info + 16) + 8)), sizeof initrd);
        CHECK_STR((const char *)at(load_le64(info + 24)), "quiet");
        CHECK_EQ(load_le64(info + 32), 0xf0000);
        CHECK_EQ(load_le32(at(load_le64(info + 40) + 16)), E820_RAM);
        fake_release(&f.fake);
    }
}

static void multiboot_elf_gets_info_and_magic(void)
{
    setup(64 * MIB);
    size_t len = image_elf(f.image, false);
    image_add_multiboot(f.image, 3);
    CHECK_EQ(load(len), OK);
    CHECK_EQ(f.s.rip, 0x200010);
    CHECK_EQ(f.s.gpr[RAX], 0x2badb002);
    const uint8_t *info = at(f.s.gpr[RBX]);
    CHECK_EQ(load_le32(info) & 0x4d, 0x45); // memory, command line, map; no modules
    CHECK_STR((const char *)at(load_le32(info + 16)), "k quiet");
    CHECK_EQ(load_le32(at(load_le32(info + 48))), 20);
    fake_release(&f.fake);
}

static void multiboot_flat_image_is_placed_by_its_header(void)
{
    setup(64 * MIB);
    memset(f.image, 0x77, 2048);
    image_add_multiboot(f.image, 0x10003);
    store_le32(f.image + 268, 0x300100); // header
    store_le32(f.image + 272, 0x300000); // load: file offset 0
    store_le32(f.image + 276, 0x300800);
    store_le32(f.image + 280, 0x301000); // end of bss
    store_le32(f.image + 284, 0x300400);
    CHECK_EQ(load(2048), OK);
    CHECK_EQ(f.s.rip, 0x300400);
    CHECK_EQ(*at(0x3007ff), 0x77);
    CHECK_EQ(f.result.kernel_at, 0x300000);
    CHECK_EQ(f.result.kernel_end, 0x301000);
    store_le32(f.image + 276, 0x300801);
    CHECK_EQ(load(2048), ERR_CORRUPT);
    fake_release(&f.fake);
}

static void multiboot_refuses_what_it_cannot_give(void)
{
    setup(64 * MIB);
    size_t len = image_elf(f.image, false);
    image_add_multiboot(f.image, 4); // a video mode
    CHECK_EQ(load(len), ERR_UNSUPPORTED);
    len = image_elf(f.image, true);
    image_add_multiboot(f.image, 0);
    CHECK_EQ(load(len), ERR_UNSUPPORTED);
    CHECK(strstr(f.e.text, "elf32-i386"));
    image_add_pvh(f.image); // then it is started by that
    CHECK_EQ(load(len), OK);
    CHECK_STR(f.result.format, "ELF, PVH entry");
    fake_release(&f.fake);
}

static void elf_segment_outside_ram_is_refused(void)
{
    static const uint64_t bad[] = {0xa0000,        0x10000,       0xf0000,
                                   64 * MIB - 256, 0xe0000000ull, ~0ull - 600};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        setup(64 * MIB);
        size_t len = image_elf(f.image, true);
        image_add_pvh(f.image);
        store_le64(f.image + 64 + 24, bad[i]);
        CHECK(load(len) != OK);
        fake_release(&f.fake);
    }
}

static void other_files_are_named(void)
{
    static const struct {
        const char *start, *says;
    } files[] = {
        {"\x1f\x8b", "compressed"},
        {"QFI\xfb", "qcow2 disk image"},
        {"070701", "--initrd"},
        {"hello", "no format it could have is recognised; --kernel takes a bzImage"},
    };
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        setup(64 * MIB);
        memcpy(f.image, files[i].start, strlen(files[i].start));
        CHECK_EQ(load(4096), ERR_INVALID);
        CHECK(strstr(f.e.text, "k is not a kernel: "));
        CHECK(strstr(f.e.text, files[i].says));
        fake_release(&f.fake);
    }
    setup(64 * MIB);
    CHECK_EQ(load(0), ERR_INVALID);
    CHECK(strstr(f.e.text, "it is empty"));
    CHECK_EQ(load(image_elf(f.image, true)), ERR_INVALID);
    CHECK(strstr(f.e.text, "neither a PVH note nor a multiboot header"));
    fake_release(&f.fake);
}

static void memory_types_follow_the_memory_map(void)
{
    struct cpu_state s = {.cr0 = CR0_CD | CR0_NW | CR0_ET};
    loader_cpu_defaults(&s, 40);
    CHECK_EQ(s.cr0, CR0_ET);
    CHECK_EQ(s.mtrr_def_type, 0xc06);
    CHECK_EQ(s.mtrr_base[0], 0x80000000);
    CHECK_EQ(s.mtrr_mask[0], 0xff80000800);
    CHECK_EQ(s.mtrr_fixed[2], 0);
}

TEST_MAIN(TEST(bzimage_is_entered_in_long_mode_with_its_zero_page), TEST(identity_map_covers_4_gib),
          TEST(bzimage_without_64_bit_entry_is_entered_in_protected_mode),
          TEST(initrd_goes_to_the_top_of_low_ram), TEST(initrd_that_does_not_fit_is_refused),
          TEST(kernel_that_needs_more_memory_is_refused),
          TEST(truncated_bzimage_is_refused_with_both_sizes), TEST(long_command_line_is_refused),
          TEST(pvh_kernel_gets_start_info_in_ebx), TEST(multiboot_elf_gets_info_and_magic),
          TEST(multiboot_flat_image_is_placed_by_its_header),
          TEST(multiboot_refuses_what_it_cannot_give), TEST(elf_segment_outside_ram_is_refused),
          TEST(other_files_are_named), TEST(memory_types_follow_the_memory_map))
