// The flash chip, as UEFI's variable driver finds and uses it.
#include "device/misc/flash.h"

#include "fake_env.h"
#include "test.h"

#define AT 0xffc00000ull
#define BLOCKS 4

static uint8_t content[BLOCKS * FLASH_BLOCK];
static const struct flash_config config = {AT, content, sizeof content};
static struct fake_env *env;
static struct device *dev;

static void start(void)
{
    memset(content, 0xff, sizeof content);
    env = fake_env_new();
    dev = fake_add(env, &flash_type, &config);
}

static void put(uint64_t at, uint8_t value)
{
    fake_mmio_write(env, AT + at, 1, value);
}

static uint8_t get(uint64_t at)
{
    return (uint8_t)fake_mmio_read(env, AT + at, 1);
}

static void content_is_read_in_any_width(void)
{
    start();
    memcpy(content + 24, "\1\2\3\4\5\6\7\10", 8);
    CHECK_EQ(fake_mmio_read(env, AT + 24, 8), 0x0807060504030201);
    CHECK_EQ(fake_mmio_read(env, AT + 25, 2), 0x0302);
    fake_env_free(env);
}

static void programming_only_clears_bits(void)
{
    start();
    put(100, 0x10);
    put(100, 0x5f);
    CHECK_EQ(get(100), 0x80); // status: ready
    put(100, 0x40);
    put(100, 0xf3);
    put(0, 0xff);
    CHECK_EQ(get(100), 0x53);
    CHECK_EQ(content[101], 0xff);
    fake_env_free(env);
}

static void erasing_fills_one_block_with_ones(void)
{
    start();
    memset(content, 0, sizeof content);
    put(FLASH_BLOCK + 77, 0x20);
    put(FLASH_BLOCK + 77, 0xd0);
    CHECK_EQ(get(0), 0x80);
    put(0, 0xff);
    CHECK_EQ(content[FLASH_BLOCK - 1], 0);
    CHECK_EQ(content[FLASH_BLOCK], 0xff);
    CHECK_EQ(content[2 * FLASH_BLOCK - 1], 0xff);
    CHECK_EQ(content[2 * FLASH_BLOCK], 0);
    fake_env_free(env);
}

static void an_unconfirmed_erasure_is_an_error_until_it_is_cleared(void)
{
    start();
    content[0] = 0x12;
    put(0, 0x20);
    put(0, 0x00);
    CHECK_EQ(get(0), 0xb0);
    put(0, 0x50);
    CHECK_EQ(get(0), 0x12);
    put(0, 0x70);
    CHECK_EQ(get(0), 0); // by which OVMF knows flash: not ready before the next operation
    fake_env_free(env);
}

static void the_query_tells_its_geometry(void)
{
    start();
    put(0x55, 0x98);
    CHECK_EQ(get(0x10), 'Q');
    CHECK_EQ(1u << get(0x27), sizeof content);
    CHECK_EQ(get(0x2d) + 256 * get(0x2e) + 1, BLOCKS);
    CHECK_EQ(256 * (get(0x2f) + 256 * get(0x30)), FLASH_BLOCK);
    fake_env_free(env);
}

static void a_command_survives_a_move(void)
{
    start();
    put(8, 0x10);
    dev = fake_reload(dev, &config);
    put(8, 0x21);
    put(0, 0xff);
    CHECK_EQ(get(8), 0x21);
    fake_env_free(env);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(content_is_read_in_any_width),
        TEST(programming_only_clears_bits),
        TEST(erasing_fills_one_block_with_ones),
        TEST(an_unconfirmed_erasure_is_an_error_until_it_is_cleared),
        TEST(the_query_tells_its_geometry),
        TEST(a_command_survives_a_move),
    };
    return test_main(tests, sizeof tests / sizeof *tests);
}
