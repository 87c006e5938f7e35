// 16550A.
#include "device/serial/uart.h"

#include "fake_env.h"
#include "test.h"

#define PORT 0x3f8

struct line {
    uint8_t sent[256];
    size_t len;
    size_t room; // bytes that the other side takes
    unsigned resumes;
};

static struct fake_env *env;
static struct device *dev;
static struct line line;

static size_t take(void *opaque, const uint8_t *data, size_t len)
{
    struct line *l = opaque;
    size_t n = 0;
    while (n < len && l->room && l->len < sizeof l->sent) {
        l->sent[l->len++] = data[n++];
        l->room--;
    }
    return n;
}

static void resume(void *opaque)
{
    ((struct line *)opaque)->resumes++;
}

static const struct uart_config config = {PORT, take, resume, &line};

static void wr(unsigned reg, uint8_t value)
{
    fake_out(env, (uint16_t)(PORT + reg), 1, value);
}

static uint8_t rd(unsigned reg)
{
    return (uint8_t)fake_in(env, (uint16_t)(PORT + reg), 1);
}

static void start(void)
{
    line = (struct line){.room = 1000};
    env = fake_env_new();
    dev = fake_add(env, &uart_type, &config);
    wr(4, 0x0b); // DTR, RTS, OUT2
}

static void stop(void)
{
    fake_env_free(env);
}

static void uart_is_recognised_as_16550a(void)
{
    start();
    wr(7, 0xa5);
    CHECK_EQ(rd(7), 0xa5);
    wr(2, 1);
    CHECK_EQ(rd(2) & 0xc0, 0xc0);
    wr(2, 0);
    CHECK_EQ(rd(2), 1);
    CHECK_EQ(rd(5), 0x60);
    CHECK_EQ(rd(6) & 0xf0, 0xb0);
    stop();
}

static void uart_sends_what_is_written(void)
{
    start();
    for (const char *s = "hello"; *s; s++) {
        CHECK(rd(5) & 0x20);
        wr(0, (uint8_t)*s);
    }
    CHECK_EQ(line.len, 5);
    CHECK(memcmp(line.sent, "hello", 5) == 0);
    CHECK(!fake_line(dev, 0));
    stop();
}

static void uart_holds_output_until_it_is_taken(void)
{
    start();
    wr(2, 1);
    wr(1, 2);
    CHECK(fake_line(dev, 0));
    CHECK_EQ(rd(2) & 0xf, 2);
    CHECK(!fake_line(dev, 0)); // reading IIR ends it
    line.room = 0;
    for (unsigned i = 0; i < 20; i++)
        wr(0, (uint8_t)i);
    CHECK_EQ(rd(5) & 0x60, 0);
    line.room = 10;
    uart_writable(dev);
    CHECK_EQ(rd(5) & 0x60, 0);
    CHECK(!fake_line(dev, 0));
    line.room = 100;
    uart_writable(dev);
    CHECK_EQ(line.len, 16); // four were lost, as on the chip
    CHECK_EQ(rd(5) & 0x60, 0x60);
    CHECK(fake_line(dev, 0));
    stop();
}

static void uart_each_byte_sent_is_a_new_edge(void)
{
    start();
    wr(1, 2);
    unsigned before = fake_rises(dev, 0);
    wr(0, 'a');
    wr(0, 'b');
    CHECK_EQ(fake_rises(dev, 0) - before, 2);
    stop();
}

static void uart_receives_with_trigger_and_timeout(void)
{
    start();
    wr(2, 0x81); // 8 bytes
    wr(1, 1);
    CHECK_EQ(uart_input(dev, (const uint8_t *)"abc", 3), 3);
    CHECK(!fake_line(dev, 0));
    fake_advance(env, 10 * NS_PER_MS);
    CHECK(fake_line(dev, 0));
    CHECK_EQ(rd(2) & 0xf, 0xc);
    CHECK_EQ(rd(0), 'a');
    CHECK(!fake_line(dev, 0));
    CHECK_EQ(uart_input(dev, (const uint8_t *)"defghi", 6), 6);
    CHECK(fake_line(dev, 0));
    CHECK_EQ(rd(2) & 0xf, 4);
    for (const char *s = "bcdefghi"; *s; s++)
        CHECK_EQ(rd(0), *s);
    CHECK_EQ(rd(5) & 1, 0);
    CHECK_EQ(fake_next_timer(env), NS_NEVER);
    stop();
}

static void uart_takes_no_more_than_fits_and_asks_again(void)
{
    start();
    uint8_t data[40] = {0};
    CHECK_EQ(uart_input(dev, data, 40), 1); // no FIFO
    (void)rd(0);
    CHECK_EQ(line.resumes, 1);
    wr(2, 1);
    CHECK_EQ(uart_input(dev, data, 40), 16);
    while (rd(5) & 1)
        (void)rd(0);
    CHECK_EQ(line.resumes, 2);
    stop();
}

static void uart_loops_back(void)
{
    start();
    wr(4, 0x1a);
    CHECK_EQ(rd(6) & 0xf0, 0x90); // RTS and OUT2 come back as CTS and DCD
    wr(0, 0x42);
    CHECK_EQ(line.len, 0);
    CHECK_EQ(rd(5) & 1, 1);
    wr(0, 0x43);
    CHECK_EQ(rd(5) & 2, 2); // overrun
    CHECK_EQ(rd(5) & 2, 0);
    CHECK_EQ(rd(0), 0x42);
    CHECK_EQ(uart_input(dev, (const uint8_t *)"x", 1), 0);
    stop();
}

static void uart_reports_modem_changes(void)
{
    start();
    (void)rd(6);
    wr(1, 8);
    wr(4, 0x10);
    CHECK_EQ(rd(2) & 0xf, 0);
    CHECK_EQ(rd(6), 0x0b); // CTS, DSR, DCD have changed
    CHECK_EQ(rd(6), 0x00);
    CHECK_EQ(rd(2) & 0xf, 1);
    stop();
}

static void uart_reports_a_break_with_its_byte(void)
{
    start();
    wr(2, 1);
    wr(1, 5);
    uart_input(dev, (const uint8_t *)"a", 1);
    uart_break(dev);
    CHECK_EQ(rd(5), 0x61 | 0x80);
    CHECK_EQ(rd(0), 'a');
    CHECK_EQ(rd(2) & 0xf, 6);
    CHECK_EQ(rd(5), 0xf1);
    CHECK_EQ(rd(5), 0x61);
    CHECK_EQ(rd(0), 0);
    stop();
}

static void uart_divisor_is_behind_dlab(void)
{
    start();
    wr(3, 0x83);
    wr(0, 0x34);
    wr(1, 0x12);
    CHECK_EQ(rd(0), 0x34);
    CHECK_EQ(rd(1), 0x12);
    wr(3, 3);
    CHECK_EQ(rd(1), 0);
    CHECK_EQ(line.len, 0);
    stop();
}

static void uart_out2_gates_the_interrupt(void)
{
    start();
    wr(1, 2);
    CHECK(fake_line(dev, 0));
    wr(4, 3);
    CHECK(!fake_line(dev, 0));
    stop();
}

static void uart_state_survives_a_reload(void)
{
    start();
    wr(2, 0xc1);
    wr(1, 3);
    line.room = 0;
    wr(0, 'o');
    uart_input(dev, (const uint8_t *)"in", 2);
    dev = fake_reload(dev, &config);
    CHECK_EQ(rd(0), 'i');
    line.room = 10;
    uart_writable(dev);
    CHECK_EQ(line.sent[0], 'o');
    CHECK_EQ(rd(0), 'n');
    stop();
}

TEST_MAIN(TEST(uart_is_recognised_as_16550a), TEST(uart_sends_what_is_written),
          TEST(uart_holds_output_until_it_is_taken), TEST(uart_each_byte_sent_is_a_new_edge),
          TEST(uart_receives_with_trigger_and_timeout),
          TEST(uart_takes_no_more_than_fits_and_asks_again), TEST(uart_loops_back),
          TEST(uart_reports_modem_changes), TEST(uart_reports_a_break_with_its_byte),
          TEST(uart_divisor_is_behind_dlab), TEST(uart_out2_gates_the_interrupt),
          TEST(uart_state_survives_a_reload))
