// The DHCPv6 server's answers.
#include "switch/dhcp6.h"

#include "base/bytes.h"
#include "test.h"

enum { SOLICIT = 1, ADVERTISE, REQUEST, CONFIRM, RENEW, REPLY = 7, RELEASE, INFORMATION = 11 };
enum { CLIENT = 1, SERVER = 2, IA = 3, ADDRESS = 5, STATUS = 13, RAPID = 14, NAMES = 23 };

static struct network network;
static struct site site;
static const uint8_t address[16] = {0xfd, 1, 2, 3, 4, 5, 6, 7, [15] = 9}, id[] = {0, 1, 2, 3, 4};
static const uint8_t association[12] = {0xaa, 0xbb, 0xcc, 0xdd};
static uint8_t message[300], reply[DHCP6_REPLY_MAX];
static size_t len;

static void option(uint16_t code, const void *data, size_t bytes)
{
    store_be16(message + len, code);
    store_be16(message + len + 2, (uint16_t)bytes);
    memcpy(message + len + 4, data, bytes);
    len += 4 + bytes;
}

static void begin(uint8_t type)
{
    struct error e;
    CHECK(network_init(&network, "lab", &e) == OK);
    CHECK(network_parse_subnet6(&network, "fd01:203:405:607::/64", &e) == OK);
    site_init(&site, &network);
    memset(message, 0, sizeof message);
    memcpy(message, (const uint8_t[]){type, 7, 8, 9}, 4);
    len = 4;
    option(CLIENT, id, sizeof id);
}

static size_t answer(void)
{
    memset(reply, 0, sizeof reply);
    return dhcp6_answer(&site, address, message, len, reply);
}

// The answer's option; NULL: it has none.
static const uint8_t *answered(uint16_t code, size_t *bytes)
{
    size_t size = answer();
    for (size_t at = 4; at < size; at += 4 + *bytes) {
        *bytes = load_be16(reply + at + 2);
        if (load_be16(reply + at) == code)
            return reply + at + 4;
    }
    return NULL;
}

static void name_server(void)
{
    uint8_t duid[10] = {0, 3, 0, 1};
    memcpy(duid + 4, site.mac, 6);
    option(SERVER, duid, sizeof duid);
}

static void a_port_is_offered_its_own_address(void)
{
    size_t bytes;
    begin(SOLICIT);
    option(IA, association, sizeof association);
    const uint8_t *ia = answered(IA, &bytes);
    CHECK(ia && bytes == 40);
    CHECK_EQ(reply[0], ADVERTISE);
    CHECK_EQ(load_be32(reply), ADVERTISE << 24 | 0x070809);
    CHECK(!memcmp(ia, association, 4) && load_be16(ia + 12) == ADDRESS);
    CHECK(!memcmp(ia + 16, address, 16));
    const uint8_t *client = answered(CLIENT, &bytes);
    CHECK(client && bytes == sizeof id && !memcmp(client, id, sizeof id));
    option(RAPID, "", 0);
    CHECK(answered(RAPID, &bytes));
    CHECK_EQ(reply[0], REPLY);
}

static void a_request_is_for_the_server_that_it_names(void)
{
    size_t bytes;
    begin(REQUEST);
    option(IA, association, sizeof association);
    CHECK_EQ(answer(), 0);
    name_server();
    CHECK(answered(IA, &bytes));
    CHECK_EQ(reply[0], REPLY);
    message[len - 1] ^= 1;
    CHECK_EQ(answer(), 0);
}

static void who_asks_for_no_address_learns_name_servers(void)
{
    size_t bytes;
    begin(INFORMATION);
    const uint8_t *names = answered(NAMES, &bytes);
    CHECK(names && bytes == 16 && !memcmp(names, site.self6, 16));
    CHECK(!answered(IA, &bytes));
    option(IA, association, sizeof association);
    CHECK_EQ(answer(), 0);
}

static void addresses_of_other_networks_are_not_confirmed(void)
{
    uint8_t ia[40] = {[13] = ADDRESS, [15] = 24};
    size_t bytes;
    memcpy(ia + 16, address, 16);
    begin(CONFIRM);
    option(IA, ia, sizeof ia);
    const uint8_t *status = answered(STATUS, &bytes);
    CHECK(status && load_be16(status) == 0);
    message[len - 24] ^= 1;
    status = answered(STATUS, &bytes);
    CHECK(status && load_be16(status) == 4);
    begin(RELEASE);
    name_server();
    status = answered(STATUS, &bytes);
    CHECK(status && load_be16(status) == 0);
}

static void what_is_cut_off_is_not_answered(void)
{
    begin(SOLICIT);
    option(IA, association, sizeof association);
    size_t whole = len;
    for (len = 0; len < whole; len++)
        CHECK(answer() == 0 || len == 4 + 4 + sizeof id);
    begin(SOLICIT);
    len = 4; // nobody's
    CHECK_EQ(answer(), 0);
}

TEST_MAIN(TEST(a_port_is_offered_its_own_address), TEST(a_request_is_for_the_server_that_it_names),
          TEST(who_asks_for_no_address_learns_name_servers),
          TEST(addresses_of_other_networks_are_not_confirmed),
          TEST(what_is_cut_off_is_not_answered))
