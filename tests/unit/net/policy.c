// Egress rules: how they read, and what they let through.
#include "net/policy.h"

#include <arpa/inet.h>

#include "test.h"

static struct policy policy;
static struct error e;

static bool allows(const char *address, uint8_t protocol, uint16_t port)
{
    struct policy_destination to = {.protocol = protocol, .port = port};
    if (inet_pton(AF_INET6, address, to.address) != 1) {
        to.address[10] = to.address[11] = 0xff;
        CHECK(inet_pton(AF_INET, address, to.address + 12) == 1);
    }
    return policy_allows(&policy, &to);
}

static void given(const char *text)
{
    e = (struct error){0};
    if (policy_parse(&policy, text, &e))
        printf("# %s\n", e.text);
    CHECK(e.code == OK);
}

static void words_for_all_and_nothing(void)
{
    given("");
    CHECK(allows("192.0.2.1", 6, 80));
    given("open");
    CHECK(allows("2001:db8::1", 6, 80));
    given("none");
    CHECK(!allows("192.0.2.1", 6, 80) && !allows("2001:db8::1", 17, 80));
}

static void the_first_rule_that_matches_decides(void)
{
    given("deny 10.1.0.0/16; allow 10.0.0.0/8:100-200/tcp ;; deny all");
    CHECK(!allows("10.1.2.3", 6, 150));
    CHECK(allows("10.2.2.3", 6, 100) && allows("10.2.2.3", 6, 200));
    CHECK(!allows("10.2.2.3", 6, 201) && !allows("10.2.2.3", 17, 150));
    CHECK(!allows("11.2.2.3", 6, 150));
}

static void what_no_rule_matches_depends_on_whether_one_allows(void)
{
    given("deny 10.0.0.0/8");
    CHECK(allows("192.0.2.1", 6, 80) && !allows("10.9.9.9", 6, 80));
    given("allow 10.0.0.0/8");
    CHECK(!allows("192.0.2.1", 6, 80) && allows("10.9.9.9", 1, 0));
    given("deny 192.0.2.0/25\nallow all");
    CHECK(!allows("192.0.2.127", 6, 80) && allows("192.0.2.128", 6, 80));
}

static void ipv6_networks_and_protocols(void)
{
    given("allow [2001:db8::/33]:443/tcp; allow fd00::1; allow all/icmp");
    CHECK(allows("2001:db8::1", 6, 443) && !allows("2001:db8:8000::1", 6, 443));
    CHECK(allows("fd00::1", 17, 5) && !allows("fd00::2", 17, 5));
    CHECK(allows("fd00::2", 58, 0) && allows("192.0.2.1", 1, 0));
}

static void the_host_is_a_target(void)
{
    struct policy_destination to = {.host = true, .protocol = 6, .port = 22};
    given("deny host:22");
    CHECK(!policy_allows(&policy, &to));
    to.port = 80;
    CHECK(policy_allows(&policy, &to));
}

static void names_are_asked_for_only_if_a_rule_could_allow_them(void)
{
    uint64_t rules;
    given("allow Example.org; allow *.example.org:443; deny all");
    CHECK(policy_resolves(&policy, "example.org", &rules) && rules == 1);
    CHECK(policy_resolves(&policy, "a.b.example.org", &rules) && rules == 2);
    CHECK(!policy_resolves(&policy, "badexample.org", &rules) && rules == 0);
    CHECK(!policy_resolves_any(&policy));
    given("none");
    CHECK(!policy_resolves(&policy, "example.org", &rules) && !policy_resolves_any(&policy));
    given("deny 10.0.0.0/8");
    CHECK(policy_resolves_any(&policy));
    given("deny evil.org");
    CHECK(!policy_resolves(&policy, "evil.org", &rules) &&
          policy_resolves(&policy, "a.org", &rules));
    given("deny evil.org:80");
    CHECK(policy_resolves(&policy, "evil.org", &rules) && rules == 1);
    given("allow 10.0.0.0/8; deny all"); // it may turn out to be there
    CHECK(policy_resolves(&policy, "example.org", &rules));
}

static void what_cannot_be_is_refused_with_the_rule(void)
{
    static const char *const bad[] = {
        "permit all",
        "allow",
        "allow a b",
        "allow 10.0.0.1/8",
        "allow 10.0.0.0/33",
        "allow 10.0.0.0/",
        "allow 10.0.0.0/8:0",
        "allow x:70000",
        "allow x:5-4",
        "allow x:5-",
        "allow [fd00::1",
        "allow [fd00::1]80",
        "allow fd00::1/129",
        "allow all:80/icmp",
        "allow .x",
        "allow x.",
        "allow *",
        "allow 300.1.1.1",
        "allow x/sctp",
        "allow a$b",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        e = (struct error){0};
        if (policy_parse(&policy, bad[i], &e) == OK)
            printf("# taken: %s\n", bad[i]);
        CHECK(e.code == ERR_INVALID);
    }
    char many[2000] = "";
    for (int i = 0; i < POLICY_RULES_MAX; i++)
        strcat(many, "deny all;");
    given(many);
    strcat(many, "deny all");
    CHECK(policy_parse(&policy, many, &e) == ERR_INVALID);
}

TEST_MAIN(TEST(words_for_all_and_nothing), TEST(the_first_rule_that_matches_decides),
          TEST(what_no_rule_matches_depends_on_whether_one_allows),
          TEST(ipv6_networks_and_protocols), TEST(the_host_is_a_target),
          TEST(names_are_asked_for_only_if_a_rule_could_allow_them),
          TEST(what_cannot_be_is_refused_with_the_rule))
