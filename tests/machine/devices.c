// Small devices: fw_cfg, the panic port, the keyboard controller, system control ports, absent
// ports.

#include "guest.h"

#define FW_CFG 0x510

static void fw_cfg_select(u16 item)
{
    outw(FW_CFG, item);
}

static void fw_cfg_says_qemu(void)
{
    char text[5] = {0};
    fw_cfg_select(0);
    for (unsigned i = 0; i < 4; i++) {
        text[i] = (char)inb(FW_CFG + 1);
    }
    CHECK_EQ(memcmp(text, "QEMU", 4), 0);
    CHECK_EQ(inb(FW_CFG + 1), 0); // beyond the item
}

static u32 swap(u32 v)
{
    return __builtin_bswap32(v);
}

static void fw_cfg_transfers_by_dma(void)
{
    fw_cfg_select(1);
    u32 id = inb(FW_CFG + 1);
    if (!(id & 2)) {
        test_skip("no DMA interface");
        return;
    }
    static volatile struct {
        u32 control, length;
        u64 address;
    } request __attribute__((aligned(16)));
    static volatile u8 target[8];
    request.control = swap(0u << 16 | 8 | 2); // select item 0, read
    request.length = swap(4);
    request.address = __builtin_bswap64((u64)target);
    outl(FW_CFG + 4, swap((u32)((u64)&request >> 32)));
    outl(FW_CFG + 8, swap((u32)(u64)&request));
    for (unsigned i = 0; i < 1000 && request.control; i++) {
        delay_us(10);
    }
    CHECK_EQ(request.control, 0);
    CHECK_EQ(memcmp((const void *)target, "QEMU", 4), 0);
    request.control = swap(8 | 2);
    request.length = swap(4);
    request.address = __builtin_bswap64(0xfffffffffffff000); // not RAM
    outl(FW_CFG + 8, swap((u32)(u64)&request));
    for (unsigned i = 0; i < 1000 && request.control && swap(request.control) != 1; i++) {
        delay_us(10);
    }
    CHECK(swap(request.control) <= 1); // an error or not, but done
}

static void panic_port_tells_its_events(void)
{
    CHECK_EQ(inb(0x505) & 1, 1);
}

static bool keyboard_wait(unsigned mask, unsigned value)
{
    for (unsigned i = 0; i < 10000; i++) {
        if ((inb(0x64) & mask) == value) {
            return true;
        }
        delay_us(10);
    }
    return false;
}

static void keyboard_controller_passes_its_self_test(void)
{
    while (inb(0x64) & 1) {
        inb(0x60);
    }
    CHECK(keyboard_wait(2, 0));
    outb(0x64, 0xaa);
    CHECK(keyboard_wait(1, 1));
    CHECK_EQ(inb(0x60), 0x55);
    outb(0x64, 0x20); // command byte
    CHECK(keyboard_wait(1, 1));
    inb(0x60);
}

static void keyboard_identifies_itself(void)
{
    outb(0x64, 0xae);
    keyboard_wait(2, 0);
    outb(0x60, 0xf2);
    if (!keyboard_wait(1, 1)) {
        test_skip("no keyboard");
        return;
    }
    u8 answer = inb(0x60);
    CHECK(answer == 0xfa || answer == 0xfe);
    while (keyboard_wait(1, 1)) {
        inb(0x60);
    }
}

static void a20_is_on(void)
{
    CHECK_EQ(inb(0x92) & 2, 2);
    volatile u32 *low = (volatile u32 *)0x90000, *high = (volatile u32 *)0x190000;
    u32 kept = *high;
    *low = 0x12345678;
    *high = 0x9abcdef0;
    CHECK_EQ(*low, 0x12345678);
    *high = kept;
}

static void refresh_bit_of_port_61_toggles(void)
{
    u8 first = inb(0x61) & 0x10;
    bool toggled = false;
    for (unsigned i = 0; i < 10000 && !toggled; i++) {
        toggled = (inb(0x61) & 0x10) != first;
    }
    CHECK(toggled);
}

static void absent_port_reads_all_ones(void)
{
    CHECK_EQ(inb(0x1234), 0xff);
    CHECK_EQ(inw(0x1234), 0xffff);
    CHECK_EQ(inl(0x1234), 0xffffffff);
    outl(0x1234, 0);
}

static void absent_memory_reads_all_ones(void)
{
    CHECK_EQ(read32(0xfe000000), 0xffffffff);
    write32(0xfe000000, 0);
}

TESTS(TEST(fw_cfg_says_qemu), TEST(fw_cfg_transfers_by_dma), TEST(panic_port_tells_its_events),
      TEST(keyboard_controller_passes_its_self_test), TEST(keyboard_identifies_itself),
      TEST(a20_is_on), TEST(refresh_bit_of_port_61_toggles), TEST(absent_port_reads_all_ones),
      TEST(absent_memory_reads_all_ones));
