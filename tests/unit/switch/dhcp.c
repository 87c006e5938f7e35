// The DHCP server's answers.
#include "switch/dhcp.h"

#include "base/bytes.h"
#include "test.h"

static struct network network;
static struct site site;
static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};
static uint8_t message[300], reply[DHCP_REPLY_MAX];
static bool unicast;

static void begin(uint8_t type)
{
    struct error e;
    CHECK(network_init(&network, "lab", &e) == OK);
    CHECK(network_parse_subnet(&network, "10.9.8.0/24", &e) == OK);
    site_init(&site, &network);
    memset(message, 0, sizeof message);
    message[0] = 1;
    message[1] = 1;
    message[2] = 6;
    memcpy(message + 28, mac, 6);
    store_be32(message + 236, 0x63825363);
    message[240] = 53;
    message[241] = 1;
    message[242] = type;
    message[243] = 255;
}

static void option32(uint8_t option, uint32_t value)
{
    size_t at = 240;
    while (message[at] != 255)
        at += 2 + message[at + 1];
    message[at] = option;
    message[at + 1] = 4;
    store_be32(message + at + 2, value);
    message[at + 6] = 255;
}

static size_t ask(const char *name)
{
    const struct dhcp_client client = {mac, 0x0a090820, name};
    return dhcp_answer(&site, &client, message, sizeof message, reply, &unicast);
}

static const uint8_t *find(uint8_t option)
{
    for (size_t at = 240; reply[at] != 255; at += 2 + reply[at + 1]) {
        if (reply[at] == option)
            return reply + at;
    }
    return NULL;
}

static void a_client_is_offered_the_address_of_its_port(void)
{
    begin(1);
    CHECK(ask("Web_1.lab") >= 300);
    CHECK_EQ(find(53)[2], 2);
    CHECK_EQ(load_be32(reply + 16), 0x0a090820);
    CHECK_EQ(load_be32(find(3) + 2), 0x0a090801);
    CHECK_EQ(load_be32(find(6) + 2), 0x0a090802);
    CHECK(find(12)[1] == 5 && !memcmp(find(12) + 2, "web-1", 5));
    CHECK(!unicast);
}

static void networks_without_a_way_out_name_no_router(void)
{
    begin(1);
    network.kind = NETWORK_HOST;
    CHECK(ask("web") && !find(3));
}

static void an_address_of_others_is_refused(void)
{
    begin(3);
    option32(50, 0x0a090821);
    CHECK(ask("web"));
    CHECK_EQ(find(53)[2], 6);
    CHECK_EQ(load_be32(reply + 16), 0);
    CHECK(!find(1));
}

static void a_client_renews_at_its_address(void)
{
    begin(3);
    store_be32(message + 12, 0x0a090820);
    CHECK(ask("web"));
    CHECK_EQ(find(53)[2], 5);
    CHECK(unicast);
}

static void informs_get_no_lease(void)
{
    begin(8);
    store_be32(message + 12, 0x0a090820);
    CHECK(ask("web"));
    CHECK_EQ(find(53)[2], 5);
    CHECK(!find(51));
    CHECK_EQ(load_be32(reply + 16), 0);
}

static void what_is_not_for_us_or_no_message_gets_no_answer(void)
{
    begin(3);
    option32(54, 0x0a090805);
    CHECK(!ask("web"));
    begin(4); // DECLINE
    CHECK(!ask("web"));
    begin(1);
    message[28]++;
    CHECK(!ask("web"));
    begin(1);
    message[241] = 200; // runs over the end
    CHECK(!ask("web"));
    begin(1);
    message[0] = 2;
    CHECK(!ask("web"));
}

TEST_MAIN(TEST(a_client_is_offered_the_address_of_its_port),
          TEST(networks_without_a_way_out_name_no_router), TEST(an_address_of_others_is_refused),
          TEST(a_client_renews_at_its_address), TEST(informs_get_no_lease),
          TEST(what_is_not_for_us_or_no_message_gets_no_answer))
