// State tables: round trips, refusal of damaged streams, coverage.
#include "state/state.h"
#include "test.h"

struct inner {
    uint16_t count;
    uint8_t mode;
    uint8_t latch;
};

struct outer {
    uint32_t index;
    uint8_t ram[4];
    struct inner channel[3];
    void *wiring;
    uint64_t late;
};

static const struct state_field inner_fields[] = {
    FIELD(struct inner, count), FIELD(struct inner, mode), FIELD(struct inner, latch), FIELDS_END};
static const struct state_desc inner_state = STATE_DESC("inner", struct inner, 1, inner_fields);

static const struct state_field outer_v1_fields[] = {
    FIELD(struct outer, index),
    ARRAY(struct outer, ram),
    SUB_ARRAY(struct outer, channel, inner_state),
    {.name = "pad", .why = "alignment", .offset = 20, .size = 4, .count = 1, .kind = STATE_SKIP},
    SKIP(struct outer, wiring, "wiring"),
    SKIP(struct outer, late, "not yet"),
    FIELDS_END};
static const struct state_desc outer_v1 = STATE_DESC("outer", struct outer, 1, outer_v1_fields);

static const struct state_field outer_v2_fields[] = {
    FIELD(struct outer, index),
    ARRAY(struct outer, ram),
    SUB_ARRAY(struct outer, channel, inner_state),
    {.name = "pad", .why = "alignment", .offset = 20, .size = 4, .count = 1, .kind = STATE_SKIP},
    SKIP(struct outer, wiring, "wiring"),
    FIELD_SINCE(struct outer, late, 2),
    FIELDS_END};
static const struct state_desc outer_v2 = STATE_DESC("outer", struct outer, 2, outer_v2_fields);

static struct outer example(void)
{
    return (struct outer){
        .index = 7, .ram = {1, 2, 3, 4}, .channel = {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}}};
}

static void saved_state_loads_equal(void)
{
    struct outer a = example(), b = {.wiring = &a};
    struct buffer out = BUFFER_EMPTY;
    state_save(&outer_v2, &a, &out);
    struct error e = {0};
    CHECK_EQ(state_load(&outer_v2, &b, out.data, out.len, &e), OK);
    CHECK_EQ(state_compare(&outer_v2, &a, &b, &e), OK);
    CHECK(b.wiring == &a);
    b.channel[1].mode++;
    CHECK(state_compare(&outer_v2, &a, &b, &e) != OK);
    CHECK(strstr(e.text, "channel[1].mode") != NULL);
    buffer_release(&out);
}

static void older_stream_keeps_value_of_newer_row(void)
{
    struct outer a = example(), b = {.late = 99};
    struct buffer out = BUFFER_EMPTY;
    state_save(&outer_v1, &a, &out);
    CHECK_EQ(state_load(&outer_v2, &b, out.data, out.len, NULL), OK);
    CHECK_EQ(b.late, 99);
    CHECK_EQ(b.index, 7);
    buffer_release(&out);
}

static void newer_stream_is_refused(void)
{
    struct outer a = example(), b = {0};
    struct buffer out = BUFFER_EMPTY;
    state_save(&outer_v2, &a, &out);
    CHECK_EQ(state_load(&outer_v1, &b, out.data, out.len, NULL), ERR_UNSUPPORTED);
    CHECK_EQ(b.index, 0);
    buffer_release(&out);
}

static void damaged_stream_leaves_object_alone(void)
{
    struct outer a = example();
    struct buffer out = BUFFER_EMPTY;
    state_save(&outer_v2, &a, &out);
    for (size_t len = 0; len < out.len; len++) {
        struct outer b = {.index = 1234};
        CHECK(state_load(&outer_v2, &b, out.data, len, NULL) != OK);
        CHECK_EQ(b.index, 1234);
    }
    for (size_t i = 0; i < out.len; i++) {
        struct outer b = {.index = 1234};
        out.data[i] ^= 0x41;
        if (state_load(&outer_v2, &b, out.data, out.len, NULL) != OK)
            CHECK_EQ(b.index, 1234);
        out.data[i] ^= 0x41;
    }
    buffer_release(&out);
}

static void forgotten_member_is_found(void)
{
    static const struct state_field fields[] = {FIELD(struct inner, count),
                                                FIELD(struct inner, latch), FIELDS_END};
    static const struct state_desc desc = STATE_DESC("inner", struct inner, 1, fields);
    struct error e = {0};
    CHECK(state_check(&desc, &e) != OK);
    CHECK(strstr(e.text, "offset 2") != NULL);
    CHECK_EQ(state_check(&outer_v2, &e), OK);
}

TEST_MAIN(TEST(saved_state_loads_equal), TEST(older_stream_keeps_value_of_newer_row),
          TEST(newer_stream_is_refused), TEST(damaged_stream_leaves_object_alone),
          TEST(forgotten_member_is_found))
