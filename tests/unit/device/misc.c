// Keyboard controller, firmware configuration and the devices of one port.
#include "base/bytes.h"
#include "device/misc/debug_exit.h"
#include "device/misc/debugcon.h"
#include "device/misc/fw_cfg.h"
#include "device/misc/i8042.h"
#include "device/misc/panic.h"
#include "device/misc/reset.h"
#include "device/pci/hotplug.h"
#include "device/platform.h"
#include "fake_env.h"
#include "test.h"

static struct fake_env *env;
static struct device *dev;

static void start(const struct device_type *type, const void *config)
{
    env = fake_env_new();
    dev = fake_add(env, type, config);
}

static void stop(void)
{
    fake_env_free(env);
}

static void command(uint8_t value)
{
    fake_out(env, 0x64, 1, value);
}

static void data(uint8_t value)
{
    fake_out(env, 0x60, 1, value);
}

static uint8_t status(void)
{
    return (uint8_t)fake_in(env, 0x64, 1);
}

// The next byte; 0x100 when there is none, 0x200 added when it is the mouse's.
static unsigned next(void)
{
    uint8_t s = status();
    return s & 1 ? (unsigned)fake_in(env, 0x60, 1) | (s & 0x20 ? 0x200 : 0) : 0x100;
}

static void to_mouse(uint8_t value)
{
    command(0xd4);
    data(value);
}

// --- keyboard controller ---

static void i8042_answers_the_probing_of_a_driver(void)
{
    start(&i8042_type, NULL);
    CHECK_EQ(next(), 0x100);
    command(0xaa);
    CHECK_EQ(next(), 0x55);
    command(0x20);
    CHECK_EQ(next(), 0x47);
    command(0x60);
    data(0x74);
    command(0x20);
    CHECK_EQ(next(), 0x74);
    command(0xd3);
    data(0x5a);
    CHECK_EQ(next(), 0x25a);
    command(0xa9);
    CHECK_EQ(next(), 0);
    command(0xa7);
    command(0x20);
    CHECK(next() & 0x20);
    command(0xa8);
    command(0x20);
    CHECK(!(next() & 0x20));
    command(0xab);
    CHECK_EQ(next(), 0);
    CHECK_EQ(status() & 8, 8);
    stop();
}

static void i8042_keyboard_identifies_itself(void)
{
    start(&i8042_type, NULL);
    command(0x60);
    data(0x07); // no translation
    data(0xff);
    CHECK_EQ(next(), 0xfa);
    CHECK_EQ(next(), 0xaa);
    data(0xf2);
    CHECK_EQ(next(), 0xfa);
    CHECK_EQ(next(), 0xab);
    CHECK_EQ(next(), 0x83);
    data(0xf0);
    CHECK_EQ(next(), 0xfa);
    data(0);
    CHECK_EQ(next(), 0xfa);
    CHECK_EQ(next(), 2);
    data(0xed);
    CHECK_EQ(next(), 0xfa);
    data(7);
    CHECK_EQ(next(), 0xfa);
    data(0xee);
    CHECK_EQ(next(), 0xee);
    data(0xe1);
    CHECK_EQ(next(), 0xfe);
    CHECK_EQ(next(), 0x100);
    stop();
}

static void i8042_translates_keys_to_set_1(void)
{
    start(&i8042_type, NULL);
    for (unsigned key = 1; key <= 0x58; key++) {
        i8042_key(dev, key, true);
        CHECK_EQ(next(), key);
        i8042_key(dev, key, false);
        CHECK_EQ(next(), key | 0x80);
    }
    i8042_key(dev, 0x48 | I8042_KEY_EXTENDED, false); // cursor up
    CHECK_EQ(next(), 0xe0);
    CHECK_EQ(next(), 0xc8);
    CHECK_EQ(next(), 0x100);
    stop();
}

static void i8042_raw_keys_are_set_2(void)
{
    start(&i8042_type, NULL);
    command(0x60);
    data(0x07);
    i8042_key(dev, 0x1e, true); // A
    i8042_key(dev, 0x1e, false);
    i8042_key(dev, 0x41, true); // F7
    CHECK_EQ(next(), 0x1c);
    CHECK_EQ(next(), 0xf0);
    CHECK_EQ(next(), 0x1c);
    CHECK_EQ(next(), 0x83);
    stop();
}

static void i8042_interrupts_for_each_byte(void)
{
    start(&i8042_type, NULL);
    i8042_key(dev, 0x48 | I8042_KEY_EXTENDED, true);
    CHECK(fake_line(dev, 0));
    CHECK_EQ(fake_rises(dev, 0), 1);
    (void)next();
    CHECK(fake_line(dev, 0));
    CHECK_EQ(fake_rises(dev, 0), 2);
    dev = fake_reload(dev, NULL);
    CHECK(fake_line(dev, 0));
    (void)next();
    CHECK(!fake_line(dev, 0));
    stop();
}

static void i8042_disabled_keyboard_waits(void)
{
    start(&i8042_type, NULL);
    command(0xad);
    i8042_key(dev, 0x1e, true);
    CHECK_EQ(next(), 0x100);
    command(0xae);
    CHECK_EQ(next(), 0x1e);
    stop();
}

static void i8042_mouse_becomes_a_wheel_mouse(void)
{
    static const uint8_t knock[] = {0xf3, 200, 0xf3, 100, 0xf3, 80};
    start(&i8042_type, NULL);
    to_mouse(0xff);
    CHECK_EQ(next(), 0x2fa);
    CHECK_EQ(next(), 0x2aa);
    CHECK_EQ(next(), 0x200);
    to_mouse(0xf2);
    CHECK_EQ(next(), 0x2fa);
    CHECK_EQ(next(), 0x200);
    for (unsigned i = 0; i < sizeof knock; i++) {
        to_mouse(knock[i]);
        CHECK_EQ(next(), 0x2fa);
    }
    to_mouse(0xf2);
    CHECK_EQ(next(), 0x2fa);
    CHECK_EQ(next(), 0x203);
    i8042_mouse(dev, 1, 1, 0, 0); // not enabled yet
    CHECK_EQ(next(), 0x100);
    to_mouse(0xf4);
    CHECK_EQ(next(), 0x2fa);
    i8042_mouse(dev, 300, -2, 1, 1);
    CHECK(fake_line(dev, 1));
    const unsigned packets[] = {0x229, 0x2ff, 0x2fe, 0x201, 0x209, 45 + 0x200, 0x200, 0x200};
    for (unsigned i = 0; i < 8; i++)
        CHECK_EQ(next(), packets[i]);
    CHECK(!fake_line(dev, 1));
    to_mouse(0xe9);
    CHECK_EQ(next(), 0x2fa);
    CHECK_EQ(next(), 0x224);
    CHECK_EQ(next(), 0x202);
    CHECK_EQ(next(), 0x200 + 80);
    stop();
}

static void i8042_resets_the_machine(void)
{
    start(&i8042_type, NULL);
    command(0xfe);
    CHECK_EQ(env->requests, 1);
    CHECK_EQ(env->request, MACHINE_RESET);
    command(0xff); // pulses nothing
    CHECK_EQ(env->requests, 1);
    command(0xd1);
    data(0xdf);
    command(0xd0);
    CHECK_EQ(next() & 3, 3);
    command(0xdd);
    command(0xd0);
    CHECK_EQ(next() & 3, 1);
    stop();
}

// --- firmware configuration ---

static const struct fw_cfg_config fw_config = {.cpus = 3, .ram_bytes = 0x12345678};

static void fw_select(uint16_t selector)
{
    fake_out(env, 0x510, 2, selector);
}

static void fw_cfg_reads_items_byte_by_byte(void)
{
    start(&fw_cfg_type, &fw_config);
    fw_select(0);
    for (const char *s = "QEMU"; *s; s++)
        CHECK_EQ(fake_in(env, 0x511, 1), *s);
    CHECK_EQ(fake_in(env, 0x511, 1), 0);
    fw_select(FW_CFG_ID);
    CHECK_EQ(fake_in(env, 0x511, 1), 3);
    fw_select(FW_CFG_NB_CPUS);
    CHECK_EQ(fake_in(env, 0x511, 1), 3);
    fw_select(FW_CFG_RAM_SIZE);
    CHECK_EQ(fake_in(env, 0x511, 1), 0x78);
    fw_select(0x7777);
    CHECK_EQ(fake_in(env, 0x511, 1), 0);
    stop();
}

static void fw_cfg_lists_its_files(void)
{
    start(&fw_cfg_type, &fw_config);
    CHECK_EQ(fw_cfg_add_file(dev, "etc/e820", "abc", 3), OK);
    CHECK_EQ(fw_cfg_add_file(dev, "etc/e820", "abc", 3), ERR_EXISTS);
    CHECK_EQ(fw_cfg_add_item(dev, FW_CFG_ID, "abc", 3), ERR_EXISTS);
    uint8_t dir[4 + 64];
    fw_select(FW_CFG_FILE_DIR);
    for (unsigned i = 0; i < sizeof dir; i++)
        dir[i] = (uint8_t)fake_in(env, 0x511, 1);
    CHECK_EQ(load_be32(dir), 1);
    CHECK_EQ(load_be32(dir + 4), 3);
    CHECK_EQ(load_be16(dir + 8), 0x20);
    CHECK_STR((char *)dir + 12, "etc/e820");
    fw_select(0x20);
    CHECK_EQ(fake_in(env, 0x511, 1), 'a');
    dev = NULL;
    stop();
}

static uint32_t dma(uint32_t control, uint32_t len, uint64_t at)
{
    store_be32(env->ram + 0x100, control);
    store_be32(env->ram + 0x104, len);
    store_be64(env->ram + 0x108, at);
    fake_out(env, 0x514, 4, 0);
    fake_out(env, 0x518, 4, __builtin_bswap32(0x100));
    return load_be32(env->ram + 0x100);
}

static void fw_cfg_copies_by_dma(void)
{
    start(&fw_cfg_type, &fw_config);
    CHECK_EQ(fake_in(env, 0x514, 4), 0x554d4551); // "QEMU" in memory order
    CHECK_EQ(fake_in(env, 0x518, 4), 0x47464320);
    CHECK_EQ(fw_cfg_add_file(dev, "opt/x", "hello world", 11), OK);
    memset(env->ram + 0x200, 0xff, 32);
    CHECK_EQ(dma(0x20 << 16 | 8 | 2, 5, 0x200), 0);
    CHECK(memcmp(env->ram + 0x200, "hello\xff", 6) == 0);
    CHECK_EQ(dma(4, 1, 0), 0);
    CHECK_EQ(dma(2, 10, 0x200), 0);
    CHECK(memcmp(env->ram + 0x200, "world\0\0\0\0\0\xff", 11) == 0);
    CHECK_EQ(dma(16, 4, 0x200), 1); // nothing can be written
    CHECK_EQ(dma(0x20 << 16 | 8 | 2, 5, FAKE_RAM - 2), 1);
    CHECK_EQ(dma(2, 0xffffffff, 0x200), 1);
    stop();
}

static void fw_cfg_state_survives_a_reload(void)
{
    start(&fw_cfg_type, &fw_config);
    fw_select(0);
    (void)fake_in(env, 0x511, 1);
    dev = fake_reload(dev, &fw_config);
    CHECK_EQ(fake_in(env, 0x511, 1), 'E');
    stop();
}

// --- one port each ---

static void panic_reports_events(void)
{
    start(&panic_type, NULL);
    CHECK_EQ(fake_in(env, 0x505, 1), 3);
    fake_out(env, 0x505, 1, 0x80);
    CHECK_EQ(env->requests, 0);
    fake_out(env, 0x505, 1, 1);
    CHECK_EQ(env->request, MACHINE_PANIC);
    CHECK_EQ(env->request_argument, 1);
    stop();
}

static void debug_exit_gives_an_odd_status(void)
{
    start(&debug_exit_type, NULL);
    fake_out(env, 0xf4, 4, 0x10);
    CHECK_EQ(env->request, MACHINE_DEBUG_EXIT);
    CHECK_EQ(env->request_argument, 0x21);
    stop();
}

static void hotplug_tells_slots_and_takes_back_what_is_ejected(void)
{
    start(&pci_hotplug_type, NULL);
    pci_hotplug_tell(dev, 30, true);
    pci_hotplug_tell(dev, 3, false);
    CHECK_EQ(fake_in(env, PC_PORT_HOTPLUG + HOTPLUG_ARRIVED, 4), 1u << 30);
    CHECK_EQ(fake_in(env, PC_PORT_HOTPLUG + HOTPLUG_ARRIVED + 3, 1), 0x40);
    CHECK_EQ(fake_in(env, PC_PORT_HOTPLUG + HOTPLUG_LEAVING, 4), 1u << 3);
    fake_out(env, PC_PORT_HOTPLUG + HOTPLUG_ARRIVED + 3, 1, 0x40);
    CHECK_EQ(fake_in(env, PC_PORT_HOTPLUG + HOTPLUG_ARRIVED, 4), 0);
    CHECK_EQ(pci_hotplug_take(dev), 0);
    fake_out(env, PC_PORT_HOTPLUG + HOTPLUG_EJECT + 3, 1, 0x20);
    CHECK_EQ(env->request, MACHINE_EJECT);
    CHECK_EQ(pci_hotplug_take(dev), 1u << 29);
    CHECK_EQ(pci_hotplug_take(dev), 0);
    stop();
}

static void fast_a20_resets_on_a_rising_bit(void)
{
    start(&fast_a20_type, NULL);
    CHECK_EQ(fake_in(env, 0x92, 1), 2);
    fake_out(env, 0x92, 1, 0);
    CHECK_EQ(fake_in(env, 0x92, 1), 0);
    fake_out(env, 0x92, 1, 3);
    fake_out(env, 0x92, 1, 3);
    CHECK_EQ(env->requests, 1);
    CHECK_EQ(env->request, MACHINE_RESET);
    stop();
}

static void reset_control_resets_on_a_rising_bit(void)
{
    start(&reset_control_type, NULL);
    fake_out(env, 0xcf9, 1, 2);
    CHECK_EQ(fake_in(env, 0xcf9, 1), 2);
    CHECK_EQ(env->requests, 0);
    fake_out(env, 0xcf9, 1, 6);
    CHECK_EQ(env->requests, 1);
    CHECK_EQ(env->request, MACHINE_RESET);
    stop();
}

static uint8_t debug_byte;

static void debug_write(void *opaque, uint8_t byte)
{
    debug_byte = byte;
}

static void debugcon_passes_bytes_on(void)
{
    start(&debugcon_type, &(struct debugcon_config){DEBUGCON_PORT, debug_write, NULL});
    CHECK_EQ(fake_in(env, 0x402, 1), 0xe9);
    fake_out(env, 0x402, 1, 'x');
    CHECK_EQ(debug_byte, 'x');
    stop();
}

TEST_MAIN(TEST(i8042_answers_the_probing_of_a_driver), TEST(i8042_keyboard_identifies_itself),
          TEST(i8042_translates_keys_to_set_1), TEST(i8042_raw_keys_are_set_2),
          TEST(i8042_interrupts_for_each_byte), TEST(i8042_disabled_keyboard_waits),
          TEST(i8042_mouse_becomes_a_wheel_mouse), TEST(i8042_resets_the_machine),
          TEST(fw_cfg_reads_items_byte_by_byte), TEST(fw_cfg_lists_its_files),
          TEST(fw_cfg_copies_by_dma), TEST(fw_cfg_state_survives_a_reload),
          TEST(panic_reports_events), TEST(debug_exit_gives_an_odd_status),
          TEST(hotplug_tells_slots_and_takes_back_what_is_ejected),
          TEST(fast_a20_resets_on_a_rising_bit), TEST(reset_control_resets_on_a_rising_bit),
          TEST(debugcon_passes_bytes_on))
