// The bucket of CPU time, in made-up time.
#include "machine/duty.h"

#include "test.h"

// A guest that runs on all its threads whenever it may, looked at when it asks to be, but late by
// `late`. Returns the CPU time it used, a second.
static uint64_t used_by(struct duty *d, unsigned threads, uint64_t late, unsigned seconds)
{
    uint64_t start = d->looked ? d->looked : NS_PER_SEC, now = start, used = d->used;
    uint64_t before = used, next = duty_look(d, now, used, threads);
    while (now < start + seconds * NS_PER_SEC) {
        uint64_t step = next == NS_NEVER ? NS_PER_SEC : next - now + late;
        if (!d->held)
            used += step * threads;
        now += step;
        next = duty_look(d, now, used, threads);
    }
    return (uint64_t)((double)(used - before) * NS_PER_SEC / (double)(now - start));
}

static bool near(uint64_t got, uint64_t want, unsigned percent)
{
    return got * 100 >= want * (100 - percent) && got * 100 <= want * (100 + percent);
}

static void a_limit_holds_within_five_percent_of_a_second(void)
{
    static const uint32_t rates[] = {100, 250, 500, 900, 1500, 3990};
    for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
        struct duty d = {.limit = rates[i]};
        uint64_t want = rates[i] * (NS_PER_SEC / 1000);
        (void)used_by(&d, 4, 0, 2);
        CHECK(near(used_by(&d, 4, 0, 1), want, 5));
    }
}

static void looks_that_come_late_are_paid_back(void)
{
    struct duty d = {.limit = 200};
    CHECK(near(used_by(&d, 2, 30 * NS_PER_MS, 10), NS_PER_SEC / 5, 5));
}

static void without_a_limit_nobody_looks(void)
{
    struct duty d = {0};
    CHECK_EQ(duty_look(&d, NS_PER_SEC, 7, 1), NS_NEVER);
    CHECK(!d.held);
}

static void lifting_the_limit_lets_go_at_once(void)
{
    struct duty d = {.limit = 100};
    (void)duty_look(&d, NS_PER_SEC, 0, 1);
    (void)duty_look(&d, NS_PER_SEC + NS_PER_MS, 900 * NS_PER_MS, 1);
    CHECK(d.held);
    d.limit = 0;
    CHECK_EQ(duty_look(&d, NS_PER_SEC + 2 * NS_PER_MS, 900 * NS_PER_MS, 1), NS_NEVER);
    CHECK(!d.held);
}

static void a_grant_holds_beside_the_limit_and_ends_by_itself(void)
{
    struct duty d = {.limit = 500, .grant = 200, .grant_until = 2 * NS_PER_SEC};
    CHECK_EQ(duty_rate(&d, NS_PER_SEC), 200);
    CHECK_EQ(duty_rate(&d, 2 * NS_PER_SEC), 500);
    d.grant = 700;
    CHECK_EQ(duty_rate(&d, NS_PER_SEC), 500);
    d.limit = 0;
    CHECK_EQ(duty_rate(&d, NS_PER_SEC), 700);
    CHECK_EQ(duty_rate(&d, 2 * NS_PER_SEC), 0);
}

static void a_bound_holds_beside_the_limit_and_stays(void)
{
    struct duty d = {.bound = 300};
    CHECK_EQ(duty_rate(&d, NS_PER_SEC), 300);
    d.limit = 200;
    CHECK_EQ(duty_rate(&d, NS_PER_SEC), 200);
    d.limit = 400;
    d.grant = 350;
    d.grant_until = 2 * NS_PER_SEC;
    CHECK_EQ(duty_rate(&d, NS_PER_SEC), 300);
    CHECK_EQ(duty_rate(&d, 3 * NS_PER_SEC), 300);
}

static void an_idle_guest_saves_little_up(void)
{
    struct duty d = {.limit = 500};
    (void)duty_look(&d, NS_PER_SEC, 0, 1);
    (void)duty_look(&d, 10 * NS_PER_SEC, 0, 1);
    CHECK(d.level <= (int64_t)(50 * NS_PER_MS));
    CHECK(near(used_by(&d, 1, 0, 1), NS_PER_SEC / 2, 5));
}

TEST_MAIN(TEST(a_limit_holds_within_five_percent_of_a_second),
          TEST(looks_that_come_late_are_paid_back), TEST(without_a_limit_nobody_looks),
          TEST(lifting_the_limit_lets_go_at_once),
          TEST(a_grant_holds_beside_the_limit_and_ends_by_itself),
          TEST(a_bound_holds_beside_the_limit_and_stays), TEST(an_idle_guest_saves_little_up))
