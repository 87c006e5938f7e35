// 8259A pair.
#include "device/irq/pic.h"

#include "fake_env.h"
#include "test.h"

struct pair {
    struct fake_env *env;
    struct device *pic;
    bool intr;
};

static void output(void *opaque, bool level)
{
    ((struct pair *)opaque)->intr = level;
}

static void start(struct pair *p, unsigned icw4)
{
    p->env = fake_env_new();
    p->intr = false;
    p->pic = fake_add(p->env, &pic_type, &(struct pic_config){output, p});
    fake_out(p->env, 0x20, 1, 0x11);
    fake_out(p->env, 0x21, 1, 0x20);
    fake_out(p->env, 0x21, 1, 0x04);
    fake_out(p->env, 0x21, 1, icw4);
    fake_out(p->env, 0xa0, 1, 0x11);
    fake_out(p->env, 0xa1, 1, 0x28);
    fake_out(p->env, 0xa1, 1, 0x02);
    fake_out(p->env, 0xa1, 1, icw4);
}

static void pulse(struct pair *p, unsigned irq)
{
    pic_set_line(p->pic, irq, true);
    pic_set_line(p->pic, irq, false);
}

static void pic_delivers_an_edge_with_its_vector(void)
{
    struct pair p;
    start(&p, 1);
    CHECK(!p.intr);
    pulse(&p, 4);
    CHECK(p.intr);
    CHECK_EQ(pic_ack(p.pic), 0x24);
    CHECK(!p.intr);
    fake_out(p.env, 0x20, 1, 0x0b);
    CHECK_EQ(fake_in(p.env, 0x20, 1), 0x10);
    fake_out(p.env, 0x20, 1, 0x20);
    CHECK_EQ(fake_in(p.env, 0x20, 1), 0);
    fake_env_free(p.env);
}

static void pic_masks_by_imr(void)
{
    struct pair p;
    start(&p, 1);
    fake_out(p.env, 0x21, 1, 0x10);
    pulse(&p, 4);
    CHECK(!p.intr);
    CHECK_EQ(fake_in(p.env, 0x20, 1), 0x10); // IRR
    fake_out(p.env, 0x21, 1, 0);
    CHECK(p.intr);
    fake_env_free(p.env);
}

static void pic_serves_higher_priority_first_and_nests(void)
{
    struct pair p;
    start(&p, 1);
    pulse(&p, 5);
    pulse(&p, 3);
    CHECK_EQ(pic_ack(p.pic), 0x23);
    CHECK(!p.intr); // 5 waits behind 3
    pulse(&p, 1);
    CHECK(p.intr);
    CHECK_EQ(pic_ack(p.pic), 0x21);
    fake_out(p.env, 0x20, 1, 0x20); // ends 1
    CHECK(!p.intr);
    fake_out(p.env, 0x20, 1, 0x20); // ends 3
    CHECK(p.intr);
    CHECK_EQ(pic_ack(p.pic), 0x25);
    fake_env_free(p.env);
}

static void pic_slave_comes_through_the_cascade(void)
{
    struct pair p;
    start(&p, 1);
    pulse(&p, 12);
    CHECK(p.intr);
    CHECK_EQ(pic_ack(p.pic), 0x2c);
    pulse(&p, 13);
    CHECK(!p.intr);
    fake_out(p.env, 0xa0, 1, 0x20);
    CHECK(!p.intr); // the master still serves input 2
    fake_out(p.env, 0x20, 1, 0x20);
    CHECK(p.intr);
    CHECK_EQ(pic_ack(p.pic), 0x2d);
    fake_env_free(p.env);
}

static void pic_special_nesting_lets_the_slave_interrupt_itself(void)
{
    struct pair p;
    start(&p, 0x11);
    pulse(&p, 12);
    CHECK_EQ(pic_ack(p.pic), 0x2c);
    pulse(&p, 8);
    CHECK(p.intr);
    CHECK_EQ(pic_ack(p.pic), 0x28);
    fake_env_free(p.env);
}

static void pic_level_line_that_falls_is_spurious(void)
{
    struct pair p;
    start(&p, 1);
    fake_out(p.env, 0x4d0, 1, 0xff);
    CHECK_EQ(fake_in(p.env, 0x4d0, 1), 0xf8); // 0..2 stay edges
    pic_set_line(p.pic, 5, true);
    pic_set_line(p.pic, 5, false);
    CHECK(!p.intr);
    CHECK_EQ(pic_ack(p.pic), 0x27);
    fake_out(p.env, 0x20, 1, 0x0b);
    CHECK_EQ(fake_in(p.env, 0x20, 1), 0);
    fake_env_free(p.env);
}

static void pic_level_line_interrupts_again_after_eoi(void)
{
    struct pair p;
    start(&p, 1);
    fake_out(p.env, 0x4d1, 1, 0x04);
    pic_set_line(p.pic, 10, true);
    CHECK_EQ(pic_ack(p.pic), 0x2a);
    fake_out(p.env, 0xa0, 1, 0x20);
    fake_out(p.env, 0x20, 1, 0x20);
    CHECK(p.intr);
    pic_set_line(p.pic, 10, false);
    CHECK(!p.intr);
    fake_env_free(p.env);
}

static void pic_auto_eoi_and_rotation(void)
{
    struct pair p;
    start(&p, 3);
    fake_out(p.env, 0x20, 1, 0x80); // rotate in automatic EOI mode
    pulse(&p, 0);
    pulse(&p, 1);
    CHECK_EQ(pic_ack(p.pic), 0x20);
    pulse(&p, 0);
    CHECK_EQ(pic_ack(p.pic), 0x21); // 0 has become the lowest
    CHECK_EQ(pic_ack(p.pic), 0x20);
    CHECK(!p.intr);
    fake_env_free(p.env);
}

static void pic_set_priority_and_rotate_on_eoi(void)
{
    struct pair p;
    start(&p, 1);
    fake_out(p.env, 0x20, 1, 0xc4); // 4 is lowest, 5 highest
    pulse(&p, 3);
    pulse(&p, 6);
    CHECK_EQ(pic_ack(p.pic), 0x26);
    fake_out(p.env, 0x20, 1, 0xa0); // EOI, 6 becomes lowest
    CHECK_EQ(pic_ack(p.pic), 0x23);
    fake_out(p.env, 0x20, 1, 0x63); // specific EOI of 3
    fake_out(p.env, 0x20, 1, 0x0b);
    CHECK_EQ(fake_in(p.env, 0x20, 1), 0);
    fake_env_free(p.env);
}

static void pic_special_mask_lets_lower_priorities_in(void)
{
    struct pair p;
    start(&p, 1);
    pulse(&p, 1);
    CHECK_EQ(pic_ack(p.pic), 0x21);
    pulse(&p, 5);
    CHECK(!p.intr);
    fake_out(p.env, 0x21, 1, 0x02);
    CHECK(!p.intr);
    fake_out(p.env, 0x20, 1, 0x68);
    CHECK(p.intr);
    CHECK_EQ(pic_ack(p.pic), 0x25);
    fake_out(p.env, 0x20, 1, 0x20); // non-specific: 5, not the masked 1
    fake_out(p.env, 0x20, 1, 0x0b);
    CHECK_EQ(fake_in(p.env, 0x20, 1), 0x02);
    fake_env_free(p.env);
}

static void pic_poll_acknowledges(void)
{
    struct pair p;
    start(&p, 1);
    pulse(&p, 6);
    fake_out(p.env, 0x20, 1, 0x0c);
    CHECK_EQ(fake_in(p.env, 0x20, 1), 0x86);
    CHECK(!p.intr);
    fake_out(p.env, 0x20, 1, 0x0c);
    CHECK_EQ(fake_in(p.env, 0x20, 1) & 0x80, 0);
    fake_env_free(p.env);
}

static void pic_is_silent_until_initialized(void)
{
    struct pair p = {.env = fake_env_new()};
    p.pic = fake_add(p.env, &pic_type, &(struct pic_config){output, &p});
    pulse(&p, 1);
    CHECK(!p.intr);
    fake_env_free(p.env);
}

static void pic_state_survives_a_reload(void)
{
    struct pair p;
    start(&p, 1);
    pulse(&p, 3);
    pulse(&p, 9);
    CHECK_EQ(pic_ack(p.pic), 0x29);
    p.pic = fake_reload(p.pic, &(struct pic_config){output, &p});
    fake_out(p.env, 0xa0, 1, 0x20);
    fake_out(p.env, 0x20, 1, 0x20);
    CHECK_EQ(pic_ack(p.pic), 0x23);
    fake_env_free(p.env);
}

TEST_MAIN(TEST(pic_delivers_an_edge_with_its_vector), TEST(pic_masks_by_imr),
          TEST(pic_serves_higher_priority_first_and_nests),
          TEST(pic_slave_comes_through_the_cascade),
          TEST(pic_special_nesting_lets_the_slave_interrupt_itself),
          TEST(pic_level_line_that_falls_is_spurious),
          TEST(pic_level_line_interrupts_again_after_eoi), TEST(pic_auto_eoi_and_rotation),
          TEST(pic_set_priority_and_rotate_on_eoi), TEST(pic_special_mask_lets_lower_priorities_in),
          TEST(pic_poll_acknowledges), TEST(pic_is_silent_until_initialized),
          TEST(pic_state_survives_a_reload))
