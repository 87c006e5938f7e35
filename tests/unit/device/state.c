// Every model's state table covers its struct, and names are unique.
#include "device/catalog.h"
#include "test.h"

static void every_state_table_covers_its_struct(void)
{
    for (unsigned i = 0; device_catalog[i]; i++) {
        struct error e = {0};
        const struct device_type *type = device_catalog[i];
        if (type->state && state_check(type->state, &e) != OK)
            printf("# %s: %s\n", type->name, e.text), test_failures++;
        CHECK(!type->state || type->state->size == type->size);
    }
}

static void every_name_finds_its_type(void)
{
    for (unsigned i = 0; device_catalog[i]; i++)
        CHECK(device_find(device_catalog[i]->name) == device_catalog[i]);
    CHECK(!device_find("no-such-device"));
}

TEST_MAIN(TEST(every_state_table_covers_its_struct), TEST(every_name_finds_its_type))
