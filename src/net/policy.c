// Reads and applies egress rules. Written for a few dozen rules: they are walked one by one, which
// the switch does once for each connection.
#include "net/policy.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"

enum { ICMP = 1, TCP = 6, UDP = 17, ICMPV6 = 58 };

#define BLANKS " \t\r"

// --- reading

static err_t bad_rule(const char *rule, const char *why, struct error *e)
{
    return error_set(e, ERR_INVALID,
                     "policy: '%.60s': %s; a rule is allow or deny, then all, host, a network or a "
                     "name, as in \"allow example.org:443/tcp; deny all\"",
                     rule, why);
}

// Cuts "/tcp", "/udp" or "/icmp" off the end.
static void cut_protocol(char *word, uint8_t *protocol)
{
    static const struct {
        const char *text;
        uint8_t number;
    } known[] = {{"/tcp", TCP}, {"/udp", UDP}, {"/icmp", ICMP}};
    char *slash = strrchr(word, '/');
    for (size_t i = 0; slash && i < ARRAY_LEN(known); i++) {
        if (strcmp(slash, known[i].text) != 0)
            continue;
        *protocol = known[i].number;
        *slash = '\0';
        return;
    }
}

static bool parse_port(const char **at, uint16_t *port)
{
    unsigned long n = 0;
    const char *start = *at;
    for (; isdigit((unsigned char)**at) && n <= 65535; (*at)++)
        n = n * 10 + (unsigned)(**at - '0');
    *port = (uint16_t)n;
    return *at > start && n >= 1 && n <= 65535;
}

// Cuts ":PORT" or ":FIRST-LAST" off what has one. An IPv6 address with ports is in brackets.
static bool cut_ports(char *word, struct policy_rule *rule)
{
    char *colon = word[0] == '[' ? strchr(word, ']') : strchr(word, ':');
    if (word[0] == '[') {
        if (!colon)
            return false;
        *colon++ = '\0';
        memmove(word, word + 1, strlen(word));
        if (!*colon)
            return true;
        if (*colon != ':')
            return false;
    } else if (!colon || strchr(colon + 1, ':')) {
        return true;
    }
    *colon++ = '\0';
    const char *at = colon;
    if (!parse_port(&at, &rule->first))
        return false;
    rule->last = rule->first;
    if (*at == '-' && (at++, !parse_port(&at, &rule->last)))
        return false;
    return !*at && rule->first <= rule->last && rule->protocol != ICMP;
}

static bool parse_prefix(const char *text, unsigned max, unsigned *prefix)
{
    char *end;
    *prefix = max;
    if (!text)
        return true;
    unsigned long n = strtoul(text, &end, 10);
    *prefix = (unsigned)n;
    return isdigit((unsigned char)*text) && !*end && n <= max;
}

static bool tail_is_zero(const uint8_t address[16], unsigned prefix)
{
    for (unsigned bit = prefix; bit < 128; bit++) {
        if (address[bit / 8] & 0x80 >> bit % 8)
            return false;
    }
    return true;
}

// 0: not an address; -1: a wrong one.
static int parse_address(char *word, struct policy_rule *rule)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    unsigned prefix;
    char *slash = strchr(word, '/');
    if (slash)
        *slash++ = '\0';
    if (inet_pton(AF_INET, word, rule->address + 12) == 1) {
        memcpy(rule->address, mapped, 12);
        if (!parse_prefix(slash, 32, &prefix))
            return -1;
        prefix += 96;
    } else if (inet_pton(AF_INET6, word, rule->address) == 1) {
        if (!parse_prefix(slash, 128, &prefix))
            return -1;
    } else {
        return slash ? -1 : 0;
    }
    rule->prefix = (uint8_t)prefix;
    rule->target = POLICY_ADDRESS;
    return tail_is_zero(rule->address, prefix) ? 1 : -1;
}

static bool is_name(const char *name)
{
    size_t len = strlen(name);
    bool letter = false;
    if (!len || len > 253 || name[0] == '.' || name[len - 1] == '.')
        return false;
    for (; *name; name++) {
        if (!isalnum((unsigned char)*name) && !strchr("-_.", *name))
            return false;
        letter |= isalpha((unsigned char)*name) != 0;
    }
    return letter;
}

static bool parse_target(char *word, struct policy_rule *rule)
{
    if (!strcmp(word, "all")) {
        rule->target = POLICY_ALL;
        return true;
    }
    if (!strcmp(word, "host")) {
        rule->target = POLICY_HOST;
        return true;
    }
    int address = parse_address(word, rule);
    if (address)
        return address > 0;
    rule->target = POLICY_NAME;
    rule->subdomains = !strncmp(word, "*.", 2);
    rule->name = word + (rule->subdomains ? 2 : 0);
    return is_name(rule->name);
}

static err_t parse_rule(struct policy *policy, char *text, struct error *e)
{
    char said[64], *save = NULL;
    strncpy(said, text, sizeof said - 1);
    said[sizeof said - 1] = '\0';
    char *verb = strtok_r(text, BLANKS, &save);
    if (!verb)
        return OK;
    char *target = strtok_r(NULL, BLANKS, &save);
    if (policy->count == POLICY_RULES_MAX)
        return bad_rule(said, "is one rule too many, there may be 64", e);
    struct policy_rule *rule = &policy->rule[policy->count++];
    *rule = (struct policy_rule){.allow = !strcmp(verb, "allow")};
    if (!rule->allow && strcmp(verb, "deny") != 0)
        return bad_rule(said, "does not begin with allow or deny", e);
    if (!target || strtok_r(NULL, BLANKS, &save))
        return bad_rule(said, "does not have one target", e);
    cut_protocol(target, &rule->protocol);
    if (!cut_ports(target, rule))
        return bad_rule(said, "has ports that cannot be", e);
    if (!parse_target(target, rule))
        return bad_rule(said, "has a target that is neither a network nor a name", e);
    if (rule->allow)
        policy->otherwise = false;
    return OK;
}

err_t policy_parse(struct policy *policy, const char *text, struct error *e)
{
    *policy = (struct policy){.otherwise = true};
    size_t len = strlen(text);
    if (len > NETWORK_POLICY_MAX)
        return error_set(e, ERR_INVALID, "policy: is longer than %d bytes", NETWORK_POLICY_MAX);
    for (size_t i = 0; i < len; i++)
        policy->text[i] = (char)tolower((unsigned char)text[i]);
    if (!strcmp(policy->text, "open"))
        return OK;
    if (!strcmp(policy->text, "none")) {
        policy->otherwise = false;
        return OK;
    }
    char *save = NULL;
    for (char *rule = strtok_r(policy->text, ";\n", &save); rule;
         rule = strtok_r(NULL, ";\n", &save)) {
        err_t err = parse_rule(policy, rule, e);
        if (err)
            return err;
    }
    return OK;
}

// --- verdicts

static bool address_matches(const struct policy_rule *rule, const uint8_t address[16])
{
    unsigned bytes = rule->prefix / 8, bits = rule->prefix % 8;
    if (memcmp(rule->address, address, bytes) != 0)
        return false;
    return !bits || !((rule->address[bytes] ^ address[bytes]) >> (8 - bits));
}

static bool matches(const struct policy_rule *rule, unsigned i, const struct policy_destination *to)
{
    uint8_t protocol = to->protocol == ICMPV6 ? ICMP : to->protocol;
    if (rule->protocol && rule->protocol != protocol)
        return false;
    if (rule->last && (to->port < rule->first || to->port > rule->last))
        return false;
    switch (rule->target) {
    case POLICY_ALL: return true;
    case POLICY_HOST: return to->host;
    case POLICY_ADDRESS: return address_matches(rule, to->address);
    case POLICY_NAME: return to->names & BIT(i);
    }
    return false;
}

bool policy_allows(const struct policy *policy, const struct policy_destination *to)
{
    for (unsigned i = 0; i < policy->count; i++) {
        if (matches(&policy->rule[i], i, to))
            return policy->rule[i].allow;
    }
    return policy->otherwise;
}

static bool name_matches(const struct policy_rule *rule, const char *name)
{
    size_t len = strlen(name), tail = strlen(rule->name);
    if (!rule->subdomains)
        return !strcmp(name, rule->name);
    return len > tail && name[len - tail - 1] == '.' && !strcmp(name + len - tail, rule->name);
}

// A name is asked for before it is known where the connection goes. It may be if a rule with it
// allows anything, or if something else may be reached that it might turn out to be.
bool policy_resolves(const struct policy *policy, const char *name, uint64_t *rules)
{
    bool decided = false, allowed = false, addresses = false;
    *rules = 0;
    for (unsigned i = 0; i < policy->count; i++) {
        const struct policy_rule *rule = &policy->rule[i];
        bool mine = rule->target == POLICY_NAME && name_matches(rule, name);
        if (mine)
            *rules |= BIT(i);
        if (decided)
            continue;
        addresses |= rule->allow && rule->target == POLICY_ADDRESS;
        bool whole = !rule->protocol && !rule->last; // not only some ports
        if ((mine || rule->target == POLICY_ALL) && (rule->allow || whole)) {
            decided = true;
            allowed = rule->allow || (addresses && !mine);
        }
    }
    return decided ? allowed : policy->otherwise || addresses;
}

bool policy_resolves_any(const struct policy *policy)
{
    uint64_t rules;
    for (unsigned i = 0; i < policy->count; i++) {
        if (policy->rule[i].target == POLICY_NAME)
            return false;
    }
    return policy_resolves(policy, "", &rules);
}
