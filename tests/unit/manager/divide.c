// Dividing an amount on a tree by shares, reservations and limits.
#include "manager/divide.h"

#include "test.h"

#define PLENTY 100000

static struct slice leaf(uint64_t shares, uint64_t reservation, uint64_t limit, uint64_t demand)
{
    return (struct slice){
        .shares = shares, .reservation = reservation, .limit = limit, .demand = demand};
}

static struct slice root(void)
{
    return leaf(1, 0, SLICE_NO_LIMIT, 0);
}

static void check(const struct slice *s, uint64_t want)
{
    CHECK(s->got + 1 >= want && s->got <= want + 1);
}

static void shares_divide_what_is_short(void)
{
    struct slice r = root(), a = leaf(1, 0, SLICE_NO_LIMIT, PLENTY),
                 b = leaf(2, 0, SLICE_NO_LIMIT, PLENTY), c = leaf(4, 0, SLICE_NO_LIMIT, PLENTY);
    slice_add(&r, &a);
    slice_add(&r, &b);
    slice_add(&r, &c);
    divide(&r, 700);
    check(&a, 100);
    check(&b, 200);
    check(&c, 400);
}

static void what_one_does_not_want_goes_to_the_others(void)
{
    struct slice r = root(), a = leaf(8, 0, SLICE_NO_LIMIT, 50),
                 b = leaf(1, 0, SLICE_NO_LIMIT, PLENTY), c = leaf(2, 0, SLICE_NO_LIMIT, PLENTY);
    slice_add(&r, &a);
    slice_add(&r, &b);
    slice_add(&r, &c);
    divide(&r, 650);
    CHECK_EQ(a.got, 50);
    check(&b, 200);
    check(&c, 400);
}

static void nobody_gets_more_than_its_limit_or_its_wish(void)
{
    struct slice r = root(), a = leaf(1, 0, 100, PLENTY), b = leaf(1, 0, SLICE_NO_LIMIT, 70);
    slice_add(&r, &a);
    slice_add(&r, &b);
    divide(&r, 1000);
    CHECK_EQ(a.got, 100);
    CHECK_EQ(b.got, 70);
}

static void a_reservation_holds_against_any_shares(void)
{
    struct slice r = root(), a = leaf(1, 500, SLICE_NO_LIMIT, PLENTY),
                 b = leaf(1000, 0, SLICE_NO_LIMIT, PLENTY),
                 c = leaf(1000, 0, SLICE_NO_LIMIT, PLENTY);
    slice_add(&r, &a);
    slice_add(&r, &b);
    slice_add(&r, &c);
    divide(&r, 1000);
    CHECK_EQ(a.got, 500);
    check(&b, 250);
    check(&c, 250);
    a.demand = 40; // who does not want what was promised does not keep it
    divide(&r, 1000);
    CHECK_EQ(a.got, 40);
    check(&b, 480);
}

static void a_pool_divides_before_its_members(void)
{
    struct slice r = root(), p = leaf(1, 0, SLICE_NO_LIMIT, 0), q = leaf(1, 0, 300, 0),
                 a = leaf(1, 0, SLICE_NO_LIMIT, PLENTY), b = leaf(1, 0, SLICE_NO_LIMIT, PLENTY),
                 c = leaf(3, 0, SLICE_NO_LIMIT, PLENTY);
    slice_add(&r, &p);
    slice_add(&r, &q);
    slice_add(&p, &a);
    slice_add(&q, &b);
    slice_add(&q, &c);
    divide(&r, 1000);
    check(&p, 700);
    check(&a, 700);
    check(&b, 75);
    check(&c, 225);
}

static void a_members_reservation_is_its_pools(void)
{
    struct slice r = root(), p = leaf(1, 0, SLICE_NO_LIMIT, 0),
                 a = leaf(1, 600, SLICE_NO_LIMIT, PLENTY), b = leaf(9, 0, SLICE_NO_LIMIT, PLENTY);
    slice_add(&r, &p);
    slice_add(&p, &a);
    slice_add(&r, &b);
    divide(&r, 1000);
    check(&a, 600);
    check(&b, 400);
}

static void more_promised_than_there_is_is_cut_evenly(void)
{
    struct slice r = root(), a = leaf(1, 600, SLICE_NO_LIMIT, PLENTY),
                 b = leaf(1, 400, SLICE_NO_LIMIT, PLENTY);
    slice_add(&r, &a);
    slice_add(&r, &b);
    divide(&r, 500);
    check(&a, 300);
    check(&b, 200);
}

static void without_an_end_everybody_has_what_it_wants(void)
{
    struct slice r = root(), a = leaf(1, 0, SLICE_NO_LIMIT, SLICE_NO_LIMIT),
                 b = leaf(1, 0, 90, SLICE_NO_LIMIT);
    slice_add(&r, &a);
    slice_add(&r, &b);
    divide(&r, SLICE_NO_LIMIT);
    CHECK(a.got > SLICE_NO_LIMIT / 2);
    CHECK_EQ(b.got, 90);
}

TEST_MAIN(TEST(shares_divide_what_is_short), TEST(what_one_does_not_want_goes_to_the_others),
          TEST(nobody_gets_more_than_its_limit_or_its_wish),
          TEST(a_reservation_holds_against_any_shares), TEST(a_pool_divides_before_its_members),
          TEST(a_members_reservation_is_its_pools), TEST(more_promised_than_there_is_is_cut_evenly),
          TEST(without_an_end_everybody_has_what_it_wants))
