// Questions about a network's names, and addresses in others' answers.
#include "switch/dns.h"

#include "base/bytes.h"
#include "test.h"

static uint8_t message[600], reply[DNS_REPLY_MAX];
static size_t len;

static void put_name(const char *name)
{
    while (*name) {
        size_t part = strcspn(name, ".");
        message[len++] = (uint8_t)part;
        memcpy(message + len, name, part);
        len += part;
        name += part + (name[part] == '.');
    }
    message[len++] = 0;
}

static void put16(uint16_t v)
{
    store_be16(message + len, v);
    len += 2;
}

static void ask(const char *name, uint16_t type)
{
    memset(message, 0, sizeof message);
    store_be16(message, 0x1234);
    store_be16(message + 2, 0x0100);
    store_be16(message + 4, 1);
    len = 12;
    put_name(name);
    put16(type);
    put16(1);
}

static bool addresses(void *opaque, const char *name, struct dns_addresses *out)
{
    if (strcmp(name, "web") != 0)
        return false;
    out->count4 = out->count6 = 1;
    out->ipv4[0] = 0x0a010203;
    memset(out->ipv6[0], 0xfd, 16);
    return true;
}

static bool name_of(void *opaque, const uint32_t *ipv4, const uint8_t *ipv6, bool *ours,
                    char name[64])
{
    *ours = ipv4 ? *ipv4 >> 8 == 0x0a0102 : ipv6[0] == 0xfd;
    strcpy(name, "web");
    return *ours && (!ipv4 || *ipv4 == 0x0a010203);
}

static const struct dns_zone zone = {addresses, name_of, NULL};

// Status, answers, or -1 when the name is not the network's.
static int answered(const char *name, uint16_t type, unsigned *count)
{
    struct dns_question q;
    ask(name, type);
    CHECK(dns_read_question(&q, message, len));
    size_t n = dns_answer(&zone, &q, message, reply);
    if (!n)
        return -1;
    CHECK(n <= DNS_REPLY_MAX && load_be16(reply) == 0x1234 && reply[2] & 0x80);
    *count = load_be16(reply + 6);
    return reply[3] & 15;
}

static void the_networks_names_are_answered(void)
{
    unsigned n;
    CHECK(answered("web", 1, &n) == 0 && n == 1);
    CHECK(answered("WeB.BERTH", 1, &n) == 0 && n == 1);
    CHECK_EQ(load_be32(reply + 27 + 12), 0x0a010203);
    CHECK(answered("web.berth", 28, &n) == 0 && n == 1);
    CHECK(answered("web.berth", 15, &n) == 0 && n == 0);
    CHECK(answered("no.berth", 1, &n) == 3 && n == 0);
    CHECK(answered("no", 1, &n) == 3);
    CHECK(answered("berth", 1, &n) == 0 && n == 0);
    CHECK(answered("example.org", 1, &n) == -1);
    CHECK(answered("xberth.org", 1, &n) == -1);
}

static void reverse_names_are_answered(void)
{
    unsigned n;
    CHECK(answered("3.2.1.10.in-addr.arpa", 12, &n) == 0 && n == 1);
    CHECK(answered("4.2.1.10.in-addr.arpa", 12, &n) == 3);
    CHECK(answered("4.4.8.8.in-addr.arpa", 12, &n) == -1);
    CHECK(answered("d.f.d.f.d.f.d.f.d.f.d.f.d.f.d.f.d.f.d.f.d.f.d.f.d.f.d.f.d.f.d.f.ip6.arpa", 12,
                   &n) == 0 &&
          n == 1);
    CHECK(answered("333.2.1.10.in-addr.arpa", 12, &n) == -1);
}

static void malformed_questions_are_refused(void)
{
    struct dns_question q;
    ask("web", 1);
    for (size_t i = 0; i < len; i++)
        CHECK(!dns_read_question(&q, message, i));
    ask("web", 1);
    message[12] = 0xc0; // a pointer
    CHECK(!dns_read_question(&q, message, len));
    ask("web", 1);
    message[13] = '.';
    CHECK(!dns_read_question(&q, message, len));
    ask("web", 1);
    message[5] = 2; // two questions
    CHECK(!dns_read_question(&q, message, len));
    ask("web", 1);
    message[2] |= 0x80; // an answer
    CHECK(!dns_read_question(&q, message, len));
    memset(message + 12, 63, sizeof message - 12); // no end
    CHECK(!dns_read_question(&q, message, sizeof message));
}

struct found {
    unsigned count;
    uint8_t last[16];
    uint32_t ttl;
};

static void note(void *opaque, const struct dns_question *q, const uint8_t address[16],
                 uint32_t ttl)
{
    struct found *found = opaque;
    CHECK_STR(q->name, "cdn.example.org");
    found->count++;
    found->ttl = ttl;
    memcpy(found->last, address, 16);
}

static void put_record(uint16_t type, const void *data, uint16_t size)
{
    put16(0xc00c);
    put16(type);
    put16(1);
    put16(0);
    put16(300);
    put16(size);
    memcpy(message + len, data, size);
    len += size;
}

static void addresses_in_answers_are_found_whatever_stands_between(void)
{
    static const uint8_t alias[] = {1, 'x', 0xc0, 12}, four[] = {192, 0, 2, 7};
    struct found found = {0};
    struct dns_question q;
    ask("cdn.example.org", 1);
    message[2] |= 0x80;
    message[7] = 2;
    put_record(5, alias, sizeof alias);
    put_record(1, four, sizeof four);
    dns_each_address(message, len, &q, note, &found);
    CHECK_EQ(found.count, 1);
    CHECK_EQ(found.ttl, 300);
    CHECK(found.last[10] == 0xff && !memcmp(found.last + 12, four, 4));
    for (size_t i = 0; i < len; i++) {
        found.count = 0;
        dns_each_address(message, i, &q, note, &found);
        CHECK_EQ(found.count, 0);
    }
}

TEST_MAIN(TEST(the_networks_names_are_answered), TEST(reverse_names_are_answered),
          TEST(malformed_questions_are_refused),
          TEST(addresses_in_answers_are_found_whatever_stands_between))
