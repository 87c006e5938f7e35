// A virtual network's definition: defaults, checks and its JSON form
// (docs/formats/network-definition.md, RFC 8259). One table of keys drives loading and saving.
// Subnets that nobody chose follow from the name: 10.64.0.0 to 10.127.255.0, and a unique local
// prefix of IPv6 (RFC 4193). Not modelled: IPv4 networks outside a prefix length of 16 to 28, IPv6
// ones of another length than 64.
#include "net/network.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "net/policy.h"

#define FORMAT_KEY "berth_network"
#define FORMAT_VERSION 1

const char *const network_kinds[NETWORK_KINDS] = {"nat", "host", "private"};

enum key_kind { KEY_NAME, KEY_KIND, KEY_SUBNET, KEY_SUBNET6, KEY_BOOL, KEY_U32, KEY_U64, KEY_TEXT };

static const struct key {
    const char *name;
    enum key_kind kind;
    size_t offset;
} keys[] = {
    {"name", KEY_NAME, 0},
    {"kind", KEY_KIND, 0},
    {"subnet", KEY_SUBNET, 0},
    {"subnet6", KEY_SUBNET6, 0},
    {"isolated", KEY_BOOL, offsetof(struct network, isolated)},
    {"trusting", KEY_BOOL, offsetof(struct network, trusting)},
    {"mtu", KEY_U32, offsetof(struct network, mtu)},
    {"idle_seconds", KEY_U32, offsetof(struct network, idle_seconds)},
    {"limit_in", KEY_U64, offsetof(struct network, limit_in)},
    {"limit_out", KEY_U64, offsetof(struct network, limit_out)},
    {"policy", KEY_TEXT, offsetof(struct network, policy)},
};

// --- defaults

bool network_name_valid(const char *name)
{
    size_t len = name ? strlen(name) : 0;
    if (len < 1 || len > NETWORK_NAME_MAX || !isalnum((unsigned char)*name))
        return false;
    for (; *name; name++) {
        if (!isalnum((unsigned char)*name) && !strchr("._-", *name))
            return false;
    }
    return true;
}

static uint64_t hash(const char *text)
{
    uint64_t h = 0xcbf29ce484222325; // FNV-1a
    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * 0x100000001b3;
    return h ^ h >> 32;
}

err_t network_init(struct network *network, const char *name, struct error *e)
{
    *network = (struct network){.kind = NETWORK_NAT,
                                .prefix = 24,
                                .ipv6 = true,
                                .mtu = NETWORK_MTU_USUAL,
                                .idle_seconds = 60};
    if (!network_name_valid(name))
        return error_set(e, ERR_INVALID, "'%.64s' is no name for a network; " NETWORK_NAME_RULE,
                         name ? name : "");
    snprintf(network->name, sizeof network->name, "%s", name);
    uint64_t h = hash(name);
    network->subnet = 10u << 24 | (uint32_t)(64 + h % 64) << 16 | (uint32_t)(h >> 8 & 0xff) << 8;
    store_be64(network->subnet6, 0xfdull << 56 | (h & 0xffffffffff) << 16);
    return OK;
}

// --- words

err_t network_parse_kind(struct network *network, const char *text, struct error *e)
{
    for (int i = 0; i < NETWORK_KINDS; i++) {
        if (strcmp(text, network_kinds[i]) != 0)
            continue;
        network->kind = (enum network_kind)i;
        return OK;
    }
    return error_set(e, ERR_INVALID, "kind: there is no '%.40s'; give nat, host or private", text);
}

static err_t bad_subnet(const char *text, struct error *e)
{
    return error_set(e, ERR_INVALID,
                     "subnet: '%.40s' is no network of unicast addresses with a length of %d to "
                     "%d; give for example 10.5.6.0/24",
                     text, NETWORK_PREFIX_MIN, NETWORK_PREFIX_MAX);
}

err_t network_parse_subnet(struct network *network, const char *text, struct error *e)
{
    char address[INET_ADDRSTRLEN];
    struct in_addr in;
    size_t len = strcspn(text, "/");
    if (text[len] != '/' || len >= sizeof address)
        return bad_subnet(text, e);
    snprintf(address, sizeof address, "%.*s", (int)len, text);
    const char *digits = text + len + 1;
    unsigned long prefix = strlen(digits) == 2 ? strtoul(digits, NULL, 10) : 0;
    if (prefix < NETWORK_PREFIX_MIN || prefix > NETWORK_PREFIX_MAX ||
        inet_pton(AF_INET, address, &in) != 1)
        return bad_subnet(text, e);
    uint32_t subnet = ntohl(in.s_addr);
    if (subnet & (~0u >> prefix) || subnet >> 24 == 0 || subnet >> 24 == 127 || subnet >> 28 >= 14)
        return bad_subnet(text, e);
    network->subnet = subnet;
    network->prefix = (uint32_t)prefix;
    return OK;
}

err_t network_parse_subnet6(struct network *network, const char *text, struct error *e)
{
    char address[INET6_ADDRSTRLEN];
    uint8_t in[16];
    static const uint8_t none[8];
    network->ipv6 = strcmp(text, "none") != 0;
    memset(network->subnet6, 0, sizeof network->subnet6);
    if (!network->ipv6)
        return OK;
    size_t len = strcspn(text, "/");
    snprintf(address, sizeof address, "%.*s", (int)(len < sizeof address ? len : 0), text);
    if (strcmp(text + len, "/64") != 0 || inet_pton(AF_INET6, address, in) != 1 || in[0] == 0 ||
        in[0] >= 0xfe || memcmp(in + 8, none, 8) != 0)
        return error_set(e, ERR_INVALID,
                         "subnet6: '%.50s' is no network of unicast addresses with a length of "
                         "64; give for example fd00:1:2:3::/64, or none",
                         text);
    memcpy(network->subnet6, in, 8);
    return OK;
}

err_t network_rate_parse(const char *text, uint64_t *rate, struct error *e)
{
    char *end;
    double n = strtod(text, &end), unit = 1;
    if (!strcmp(text, "none")) {
        *rate = 0;
        return OK;
    }
    if (*end == 'K' || *end == 'k')
        unit = 1e3;
    else if (*end == 'M')
        unit = 1e6;
    else if (*end == 'G')
        unit = 1e9;
    end += unit > 1;
    if (text[0] < '0' || text[0] > '9' || *end || n * unit > (double)NETWORK_RATE_MAX ||
        (n != 0 && n * unit < (double)NETWORK_RATE_MIN))
        return error_set(e, ERR_INVALID,
                         "'%.40s' is no rate; give bits a second from 66K on, as 10M or 1.5G, or "
                         "none",
                         text);
    *rate = (uint64_t)(n * unit);
    return OK;
}

void network_rate_text(uint64_t rate, char *out, size_t size)
{
    if (!rate)
        snprintf(out, size, "no limit");
    else if (rate >= 1000000000)
        snprintf(out, size, "%g Gbit/s", (double)rate / 1e9);
    else if (rate >= 1000000)
        snprintf(out, size, "%g Mbit/s", (double)rate / 1e6);
    else
        snprintf(out, size, "%g kbit/s", (double)rate / 1e3);
}

// --- checks

static err_t check_rate(const char *key, uint64_t rate, struct error *e)
{
    if (!rate || (rate >= NETWORK_RATE_MIN && rate <= NETWORK_RATE_MAX))
        return OK;
    return error_set(e, ERR_INVALID, "%s: give 0 for no limit, or %llu to %llu bits a second", key,
                     NETWORK_RATE_MIN, NETWORK_RATE_MAX);
}

err_t network_check(const struct network *network, struct error *e)
{
    if (!network_name_valid(network->name))
        return error_set(e, ERR_INVALID,
                         "name: '%.64s' is no name for a network; " NETWORK_NAME_RULE,
                         network->name);
    if (network->mtu < NETWORK_MTU_MIN || network->mtu > NETWORK_MTU_MAX)
        return error_set(e, ERR_INVALID, "mtu: %u is outside %d to %d", network->mtu,
                         NETWORK_MTU_MIN, NETWORK_MTU_MAX);
    if (network->idle_seconds > NETWORK_IDLE_MAX)
        return error_set(e, ERR_INVALID, "idle_seconds: %u is more than %d", network->idle_seconds,
                         NETWORK_IDLE_MAX);
    struct policy policy;
    err_t err = check_rate("limit_in", network->limit_in, e);
    if (!err)
        err = check_rate("limit_out", network->limit_out, e);
    return err ? err : policy_parse(&policy, network->policy, e);
}

// --- JSON

static json_t *subnet_to_json(const struct network *network)
{
    struct in_addr in = {htonl(network->subnet)};
    char text[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &in, text, sizeof text);
    return json_sprintf("%s/%u", text, network->prefix);
}

static json_t *subnet6_to_json(const struct network *network)
{
    uint8_t in[16] = {0};
    char text[INET6_ADDRSTRLEN];
    if (!network->ipv6)
        return json_string("none");
    memcpy(in, network->subnet6, sizeof network->subnet6);
    inet_ntop(AF_INET6, in, text, sizeof text);
    return json_sprintf("%s/64", text);
}

static json_t *value_to_json(const struct network *network, const struct key *key)
{
    const void *at = (const char *)network + key->offset;
    switch (key->kind) {
    case KEY_NAME: return json_string(network->name);
    case KEY_KIND: return json_string(network_kinds[network->kind]);
    case KEY_SUBNET: return subnet_to_json(network);
    case KEY_SUBNET6: return subnet6_to_json(network);
    case KEY_BOOL: return json_boolean(*(const bool *)at);
    case KEY_U32: return json_integer(*(const uint32_t *)at);
    case KEY_U64: return json_integer((json_int_t)(*(const uint64_t *)at));
    case KEY_TEXT: return json_string(at);
    }
    return NULL;
}

err_t network_save(const struct network *network, char **text, struct error *e)
{
    json_t *root = json_pack("{s:i}", FORMAT_KEY, FORMAT_VERSION);
    bool failed = !root;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        failed |= json_object_set_new(root, keys[i].name, value_to_json(network, &keys[i])) != 0;
    *text = failed ? NULL : json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    return *text ? OK : error_set(e, ERR_NO_MEMORY, "no memory for the network's definition");
}

static err_t wrong_type(const char *key, const char *want, struct error *e)
{
    return error_set(e, ERR_INVALID, "%s: must be %s", key, want);
}

static err_t text_from_json(struct network *network, const struct key *key, const char *text,
                            struct error *e)
{
    switch (key->kind) {
    case KEY_NAME: snprintf(network->name, sizeof network->name, "%s", text); return OK;
    case KEY_KIND: return network_parse_kind(network, text, e);
    case KEY_SUBNET: return network_parse_subnet(network, text, e);
    case KEY_SUBNET6: return network_parse_subnet6(network, text, e);
    default:
        if (strlen(text) >= sizeof network->policy)
            return error_set(e, ERR_INVALID, "%s: is longer than %d bytes", key->name,
                             NETWORK_POLICY_MAX);
        strcpy((char *)network + key->offset, text);
        return OK;
    }
}

static err_t value_from_json(struct network *network, const struct key *key, const json_t *value,
                             struct error *e)
{
    void *at = (char *)network + key->offset;
    json_int_t n = json_integer_value(value);
    switch (key->kind) {
    case KEY_BOOL:
        if (!json_is_boolean(value))
            return wrong_type(key->name, "true or false", e);
        *(bool *)at = json_is_true(value);
        return OK;
    case KEY_U32:
        if (!json_is_integer(value) || n < 0 || n > UINT32_MAX)
            return wrong_type(key->name, "a whole number", e);
        *(uint32_t *)at = (uint32_t)n;
        return OK;
    case KEY_U64:
        if (!json_is_integer(value) || n < 0)
            return wrong_type(key->name, "a whole number", e);
        *(uint64_t *)at = (uint64_t)n;
        return OK;
    default:
        if (!json_is_string(value))
            return wrong_type(key->name, "a text", e);
        return text_from_json(network, key, json_string_value(value), e);
    }
}

static const struct key *find_key(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        if (!strcmp(keys[i].name, name))
            return &keys[i];
    }
    return NULL;
}

// The name comes first, since the defaults follow from it.
static err_t from_object(struct network *network, json_t *root, struct error *e)
{
    if (!json_is_object(root))
        return error_set(e, ERR_INVALID, "the definition is not a JSON object");
    const json_t *version = json_object_get(root, FORMAT_KEY);
    if (!json_is_integer(version) || json_integer_value(version) != FORMAT_VERSION)
        return error_set(e, ERR_INVALID, "%s: must be %d", FORMAT_KEY, FORMAT_VERSION);
    const json_t *given = json_object_get(root, "name");
    if (!json_is_string(given))
        return wrong_type("name", "a text", e);
    err_t err = network_init(network, json_string_value(given), e);
    const char *name;
    json_t *value;
    json_object_foreach(root, name, value)
    {
        const struct key *key = find_key(name);
        if (err || !strcmp(name, FORMAT_KEY))
            continue;
        if (!key)
            return error_set(e, ERR_INVALID, "%.60s: there is no such key", name);
        err = value_from_json(network, key, value, e);
    }
    return err ? err : network_check(network, e);
}

err_t network_load(struct network *network, const char *text, size_t len, struct error *e)
{
    json_error_t why;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return error_set(e, ERR_INVALID, "line %d, column %d: %s", why.line, why.column, why.text);
    err_t err = from_object(network, root, e);
    json_decref(root);
    return err;
}
