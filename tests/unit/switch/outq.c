// The ring of waiting packets, against a list that is simply kept.
#include "switch/outq.h"

#include <stdlib.h>

#include "test.h"

#define MODEL 4096

static uint8_t data[70000];
static struct {
    size_t len[MODEL];
    uint8_t first[MODEL];
    unsigned head, tail;
} model;

static void what_goes_in_comes_out_in_order(void)
{
    struct outq q;
    unsigned seed = 1, pushed = 0, refused = 0;
    CHECK(outq_init(&q));
    for (int i = 0; i < 300000; i++) {
        seed = seed * 1103515245 + 12345;
        size_t len = 1 + (seed >> 8) % (seed & 0x10000 ? 66000 : 2000), got;
        // seldom is there more taken than given, and the other way round
        if ((seed >> 28) < (i / 5000 % 2 ? 7u : 9u) && model.tail - model.head < MODEL) {
            data[0] = (uint8_t)i;
            if (outq_push(&q, data, 1, data + 1, len - 1)) {
                model.len[model.tail % MODEL] = len;
                model.first[model.tail++ % MODEL] = (uint8_t)i;
                pushed++;
            } else {
                refused++;
            }
        } else {
            const uint8_t *p = outq_peek(&q, &got);
            CHECK((p == NULL) == (model.head == model.tail));
            if (!p)
                continue;
            CHECK_EQ(got, model.len[model.head % MODEL]);
            CHECK_EQ(p[0], model.first[model.head++ % MODEL]);
            CHECK(p + got <= q.ring + OUTQ_BYTES);
            outq_pop(&q);
        }
        if (test_failures)
            break;
    }
    CHECK(pushed > 100000 && refused > 100);
    outq_release(&q);
}

static void it_holds_about_what_it_is_meant_to(void)
{
    struct outq q;
    unsigned n = 0;
    CHECK(outq_init(&q));
    while (outq_push(&q, data, 1500, NULL, 0))
        n++;
    CHECK(n > OUTQ_BYTES / 1512 - 3);
    outq_release(&q);
}

TEST_MAIN(TEST(what_goes_in_comes_out_in_order), TEST(it_holds_about_what_it_is_meant_to))
