// Definitions of networks: what follows from a name, what is refused, and the files they are kept
// in.
#include "net/network.h"

#include <stdlib.h>
#include <unistd.h>

#include "test.h"

static struct network network;
static struct error e;

static void subnets_follow_from_the_name(void)
{
    struct network other;
    CHECK(network_init(&network, "default", &e) == OK);
    CHECK(network_init(&other, "lab", &e) == OK);
    CHECK_EQ(network.subnet >> 24, 10);
    CHECK_EQ(network.subnet & 0xff, 0);
    CHECK(network.subnet != other.subnet);
    CHECK_EQ(network.subnet6[0], 0xfd);
    CHECK(memcmp(network.subnet6, other.subnet6, 8) != 0);
    CHECK(network_check(&network, &e) == OK);
}

static void a_definition_survives_saving_and_loading(void)
{
    struct network back;
    char *text = NULL;
    CHECK(network_init(&network, "lab.1", &e) == OK);
    CHECK(network_parse_kind(&network, "host", &e) == OK);
    CHECK(network_parse_subnet(&network, "192.168.32.0/20", &e) == OK);
    CHECK(network_parse_subnet6(&network, "fd12:3456::/64", &e) == OK);
    network.isolated = true;
    network.mtu = 9000;
    network.idle_seconds = 60;
    network.limit_out = 10000000;
    strcpy(network.policy, "deny host");
    CHECK(network_save(&network, &text, &e) == OK);
    CHECK(network_load(&back, text, strlen(text), &e) == OK);
    CHECK_EQ(back.kind, NETWORK_HOST);
    CHECK_EQ(back.subnet, 192u << 24 | 168u << 16 | 32u << 8);
    CHECK_EQ(back.prefix, 20);
    CHECK(memcmp(back.subnet6, network.subnet6, 8) == 0);
    CHECK(back.isolated && !back.trusting && back.ipv6);
    CHECK_EQ(back.mtu, 9000);
    CHECK_EQ(back.limit_out, 10000000);
    CHECK_EQ(back.limit_in, 0);
    CHECK_STR(back.policy, "deny host");
    free(text);
}

static void refused(const char *text, const char *word)
{
    e = (struct error){0};
    CHECK(network_load(&network, text, strlen(text), &e) == ERR_INVALID);
    if (!strstr(e.text, word))
        printf("# no '%s' in '%s'\n", word, e.text);
    CHECK(strstr(e.text, word) != NULL);
}

static void what_does_not_follow_the_format_is_refused_with_its_key(void)
{
    refused("[]", "object");
    refused("{", "line 1");
    refused("{\"name\":\"x\"}", "berth_network");
    refused("{\"berth_network\":2,\"name\":\"x\"}", "must be 1");
    refused("{\"berth_network\":1}", "name");
    refused("{\"berth_network\":1,\"name\":\"../x\"}", "../x");
    refused("{\"berth_network\":1,\"name\":\"x\",\"colour\":1}", "colour");
    refused("{\"berth_network\":1,\"name\":\"x\",\"mtu\":1500,\"mtu\":1500}", "mtu");
    refused("{\"berth_network\":1,\"name\":\"x\",\"mtu\":100}", "1280");
    refused("{\"berth_network\":1,\"name\":\"x\",\"mtu\":\"1500\"}", "number");
    refused("{\"berth_network\":1,\"name\":\"x\",\"mtu\":-1}", "number");
    refused("{\"berth_network\":1,\"name\":\"x\",\"kind\":\"bridge\"}", "nat, host or private");
    refused("{\"berth_network\":1,\"name\":\"x\",\"isolated\":1}", "true or false");
    refused("{\"berth_network\":1,\"name\":\"x\",\"limit_in\":5}", "limit_in");
    refused("{\"berth_network\":1,\"name\":\"x\",\"policy\":\"permit all\"}", "allow or deny");
}

static void subnets_that_cannot_be_are_refused(void)
{
    static const char *const bad[] = {
        "10.0.0.0",   "10.0.0.0/8",           "10.0.0.1/24", "224.0.0.0/24", "127.0.0.0/16",
        "0.0.0.0/16", "10.0.0.0/024",         "x/24",        "10.0.0.0/24 ", "10.0.0.0/2x",
        "",           "10.0.0.0.0.0.0.0.0/24"};
    static const char *const bad6[] = {"fd00::/48", "fd00::1/64", "::/64", "fe80::/64",
                                       "ff02::/64", "fd00::",     "",      "x/64"};
    CHECK(network_init(&network, "x", &e) == OK);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        CHECK(network_parse_subnet(&network, bad[i], &e) == ERR_INVALID);
    for (size_t i = 0; i < ARRAY_LEN(bad6); i++)
        CHECK(network_parse_subnet6(&network, bad6[i], &e) == ERR_INVALID);
    CHECK(network_parse_subnet6(&network, "none", &e) == OK && !network.ipv6);
}

static void note(void *opaque, const char *name)
{
    strcat(opaque, name);
    strcat(opaque, " ");
}

static void defined_networks_are_found_by_name_until_they_are_removed(void)
{
    char home[] = "/tmp/berth-network-XXXXXX", names[200] = "", command[60];
    CHECK(mkdtemp(home) != NULL);
    setenv("XDG_DATA_HOME", home, 1);
    CHECK(network_find("default", &network, &e) == OK);
    CHECK(network_find("lab", &network, &e) == ERR_NOT_FOUND);
    CHECK(strstr(e.text, "berth net create lab") != NULL);
    CHECK(network_init(&network, "lab", &e) == OK);
    network.mtu = 4000;
    CHECK(network_store(&network, &e) == OK);
    CHECK(network_store(&network, &e) == ERR_EXISTS);
    CHECK(network_init(&network, "a", &e) == OK && network_store(&network, &e) == OK);
    CHECK(network_find("lab", &network, &e) == OK);
    CHECK_EQ(network.mtu, 4000);
    CHECK(network_each(note, names, &e) == OK);
    CHECK_STR(names, "default a lab ");
    CHECK(network_remove("lab", &e) == OK);
    CHECK(network_remove("lab", &e) == ERR_NOT_FOUND);
    CHECK(network_find("lab", &network, &e) == ERR_NOT_FOUND);
    snprintf(command, sizeof command, "rm -r %s", home);
    CHECK(system(command) == 0);
}

TEST_MAIN(TEST(subnets_follow_from_the_name), TEST(a_definition_survives_saving_and_loading),
          TEST(what_does_not_follow_the_format_is_refused_with_its_key),
          TEST(subnets_that_cannot_be_are_refused),
          TEST(defined_networks_are_found_by_name_until_they_are_removed))
