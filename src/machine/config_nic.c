// The network cards of a VM's definition: words of the command line, JSON keys and checks.
// docs/formats/vm-definition.md has the JSON form.
#include <arpa/inet.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "machine/config_impl.h"
#include "net/policy.h"
#include "net/tap.h"

#define FORWARDS_MAX 4000 // bytes
#define VLAN_MAX 4094
#define PRIORITY_MAX 7
#define SLOT_MAX 30

const char *const vm_nic_model_names[VM_NIC_MODELS] = {"virtio", "e1000"};

enum prop_kind { PROP_STRING, PROP_NUMBER, PROP_MODEL, PROP_RATE, PROP_FLAG };

static const struct prop {
    const char *name;
    enum prop_kind kind;
    size_t offset;
    bool spoken; // is a word of --net
} props[] = {
    {"network", PROP_STRING, offsetof(struct vm_nic, network), false},
    {"mac", PROP_STRING, offsetof(struct vm_nic, mac), true},
    {"model", PROP_MODEL, offsetof(struct vm_nic, model), true},
    {"mtu", PROP_NUMBER, offsetof(struct vm_nic, mtu), true},
    {"rom", PROP_STRING, offsetof(struct vm_nic, rom), true},
    {"queues", PROP_NUMBER, offsetof(struct vm_nic, queues), true},
    {"vlan", PROP_NUMBER, offsetof(struct vm_nic, vlan), true},
    {"address", PROP_STRING, offsetof(struct vm_nic, address), true},
    {"policy", PROP_STRING, offsetof(struct vm_nic, policy), true},
    {"in", PROP_RATE, offsetof(struct vm_nic, in), true},
    {"out", PROP_RATE, offsetof(struct vm_nic, out), true},
    {"priority", PROP_NUMBER, offsetof(struct vm_nic, priority), true},
    {"isolated", PROP_FLAG, offsetof(struct vm_nic, isolated), true},
    {"trunk", PROP_FLAG, offsetof(struct vm_nic, trunk), true},
    {"trusting", PROP_FLAG, offsetof(struct vm_nic, trusting), true},
    {"socket", PROP_FLAG, offsetof(struct vm_nic, socket), true},
    {"slot", PROP_NUMBER, offsetof(struct vm_nic, slot), false},
    {"absent", PROP_FLAG, offsetof(struct vm_nic, absent), false},
    {"forwards", PROP_STRING, offsetof(struct vm_nic, forwards), false},
};

static void *prop_at(const struct vm_nic *nic, const struct prop *p)
{
    return (char *)nic + p->offset;
}

static const struct prop *find_prop(const char *word, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(props); i++) {
        if (strlen(props[i].name) == len && !strncmp(props[i].name, word, len))
            return &props[i];
    }
    return NULL;
}

void vm_nic_release(struct vm_nic *nic)
{
    free(nic->network);
    free(nic->mac);
    free(nic->forwards);
    free(nic->policy);
    free(nic->address);
    free(nic->rom);
    *nic = (struct vm_nic){0};
}

bool vm_nic_rom_file(const struct vm_nic *nic)
{
    return nic->rom && strcmp(nic->rom, "none") != 0;
}

static err_t add(struct vm_config *config, struct error *e)
{
    if (config->nics == VM_NICS_MAX)
        return error_set(e, ERR_INVALID, "nics: at most %d", VM_NICS_MAX);
    config->nic[config->nics++] = (struct vm_nic){.queues = 1};
    return OK;
}

// --- MAC addresses

// Six pairs of hexadecimal digits with colons between them.
static bool parse_mac(const char *text, uint8_t mac[6])
{
    for (unsigned i = 0; i < 6; i++, text += 3) {
        if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]) ||
            text[2] != (i < 5 ? ':' : '\0'))
            return false;
        mac[i] = (uint8_t)strtoul(text, NULL, 16);
    }
    return true;
}

// From the VM's name, so that a VM keeps its address from one run to the next; FNV-1a.
static void name_mac(const char *name, unsigned nic, uint8_t mac[6])
{
    uint32_t hash = 2166136261u;
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    hash = (hash ^ nic) * 16777619u;
    memcpy(mac, (const uint8_t[]){0x52, 0x54, 0x00}, 3);
    for (unsigned i = 0; i < 3; i++)
        mac[3 + i] = (uint8_t)(hash >> 8 * i);
}

void vm_nic_mac(const struct vm_config *config, unsigned nic, uint8_t mac[6])
{
    const char *text = config->nic[nic].mac;
    if (!text || !parse_mac(text, mac))
        name_mac(config->name, nic, mac);
}

// --- words on a command line

static err_t set_text(struct vm_nic *nic, const struct prop *p, const char *value, struct error *e)
{
    char *end;
    unsigned long n = strtoul(value, &end, 10);
    switch (p->kind) {
    case PROP_STRING: return vm_config_set(prop_at(nic, p), value, e);
    case PROP_NUMBER:
        if (!isdigit((unsigned char)*value) || *end || n > UINT32_MAX)
            return error_set(e, ERR_INVALID, "%s: '%.40s' is not a number", p->name, value);
        *(uint32_t *)prop_at(nic, p) = (uint32_t)n;
        return OK;
    case PROP_RATE: return network_rate_parse(value, prop_at(nic, p), e);
    case PROP_FLAG:
        *(bool *)prop_at(nic, p) = true;
        return *value ? error_set(e, ERR_INVALID, "%s: takes no value", p->name) : OK;
    case PROP_MODEL:
        for (unsigned i = 0; i < VM_NIC_MODELS; i++) {
            if (!strcmp(vm_nic_model_names[i], value)) {
                nic->model = (enum vm_nic_model)i;
                return OK;
            }
        }
        return error_set(e, ERR_INVALID, "there is no network card '%.40s'; give virtio or e1000",
                         value);
    }
    return ERR_INVALID;
}

static err_t set_word(struct vm_nic *nic, char *word, struct error *e)
{
    size_t len = strcspn(word, "=");
    const struct prop *p = find_prop(word, len);
    if (!p || !p->spoken || (p->kind != PROP_FLAG && word[len] != '='))
        return error_set(
            e, ERR_INVALID,
            "a network card has no option '%.40s'; it has mac=, model=, mtu=, rom=, queues=, "
            "vlan=, address=, policy=, in=, out=, priority=, isolated, trunk, trusting, socket",
            word);
    return set_text(nic, p, word + len + (word[len] == '='), e);
}

err_t vm_nic_parse(struct vm_config *config, const char *text, struct error *e)
{
    char *copy = strdup(text), *rest = copy;
    if (!copy)
        return error_set(e, ERR_NO_MEMORY, "no memory for the VM's definition");
    err_t err = add(config, e);
    struct vm_nic *nic = &config->nic[config->nics - 1];
    if (!err)
        err = vm_config_set(&nic->network, strsep(&rest, ","), e);
    while (!err && rest)
        err = set_word(nic, strsep(&rest, ","), e);
    free(copy);
    return err;
}

// --- checks

const char *vm_network_vhost(const char *network)
{
    static const char prefix[] = "vhost-user:";
    return strncmp(network, prefix, sizeof prefix - 1) ? NULL : network + sizeof prefix - 1;
}

bool vm_network_valid(const char *network)
{
    const char *path = vm_network_vhost(network);
    if (tap_named(network))
        return true;
    return path ? *path && strlen(path) < sizeof((struct sockaddr_un *)0)->sun_path
                : vm_name_valid(network);
}

static err_t check_nic(const struct vm_nic *nic, struct error *e)
{
    uint8_t mac[6];
    struct in_addr in;
    struct policy policy;
    if (nic->network && !vm_network_valid(nic->network))
        return error_set(e, ERR_INVALID,
                         "network: '%.120s' is neither a name nor vhost-user:PATH, tap:, "
                         "bridge: or macvtap: with an interface; " VM_NAME_RULE,
                         nic->network);
    if (nic->mac && (!parse_mac(nic->mac, mac) || mac[0] & 1))
        return error_set(e, ERR_INVALID,
                         "mac: '%.40s' is not the address of one card; give for example "
                         "52:54:00:12:34:56",
                         nic->mac);
    if (nic->queues < 1 || nic->queues > VM_NIC_QUEUES_MAX)
        return error_set(e, ERR_INVALID, "queues: give 1 to %d", VM_NIC_QUEUES_MAX);
    if (nic->mtu && (nic->mtu < NETWORK_MTU_MIN || nic->mtu > NETWORK_MTU_MAX))
        return error_set(e, ERR_INVALID, "mtu: give %d to %d, or 0 to say none", NETWORK_MTU_MIN,
                         NETWORK_MTU_MAX);
    if (nic->slot > SLOT_MAX)
        return error_set(e, ERR_INVALID, "slot: give 1 to %d, or 0 for the next one", SLOT_MAX);
    if (nic->vlan > VLAN_MAX)
        return error_set(e, ERR_INVALID, "vlan: give 1 to %d, or 0 for none", VLAN_MAX);
    if (nic->vlan && nic->trunk)
        return error_set(e, ERR_INVALID, "a card is in one VLAN, or a trunk for all; give one");
    if (nic->priority > PRIORITY_MAX)
        return error_set(e, ERR_INVALID, "priority: give 0 to %d", PRIORITY_MAX);
    if (nic->address && inet_pton(AF_INET, nic->address, &in) != 1)
        return error_set(e, ERR_INVALID, "address: '%.40s' is no IPv4 address", nic->address);
    if (nic->policy && policy_parse(&policy, nic->policy, e))
        return e ? e->code : ERR_INVALID;
    if (nic->forwards && strlen(nic->forwards) > FORWARDS_MAX)
        return error_set(e, ERR_INVALID, "forwards: there are too many");
    return OK;
}

err_t vm_nics_check(const struct vm_config *config, struct error *e)
{
    for (uint32_t i = 0; i < config->nics; i++) {
        if (check_nic(&config->nic[i], e))
            return error_in(e, "nics[%" PRIu32 "]", i);
    }
    return OK;
}

// --- JSON

static json_t *nic_to_json(const struct vm_nic *nic)
{
    json_t *object = json_object();
    for (size_t i = 0; i < ARRAY_LEN(props); i++) {
        const void *at = prop_at(nic, &props[i]);
        const char *text = NULL;
        json_t *value = NULL;
        switch (props[i].kind) {
        case PROP_STRING: text = *(char *const *)at; break;
        case PROP_MODEL: text = vm_nic_model_names[nic->model]; break;
        case PROP_NUMBER: value = json_integer(*(const uint32_t *)at); break;
        case PROP_RATE: value = json_integer((json_int_t)(*(const uint64_t *)at)); break;
        case PROP_FLAG: value = json_boolean(*(const bool *)at); break;
        }
        if (text && !(value = json_string(text))) {
            json_decref(object);
            return NULL;
        }
        if (value)
            json_object_set_new(object, props[i].name, value);
    }
    return object;
}

json_t *vm_nics_to_json(const struct vm_config *config)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < config->nics; i++) {
        if (json_array_append_new(array, nic_to_json(&config->nic[i])) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static err_t prop_from_json(struct vm_nic *nic, const char *key, const json_t *value,
                            struct error *e)
{
    const struct prop *p = find_prop(key, strlen(key));
    json_int_t n = json_integer_value(value);
    if (!p)
        return error_set(e, ERR_INVALID, "%.40s: no such key", key);
    switch (p->kind) {
    case PROP_STRING:
    case PROP_MODEL:
        if (json_is_string(value))
            return set_text(nic, p, json_string_value(value), e);
        return error_set(e, ERR_INVALID, "%s: must be a text", key);
    case PROP_FLAG:
        *(bool *)prop_at(nic, p) = json_is_true(value);
        return json_is_boolean(value) ? OK
                                      : error_set(e, ERR_INVALID, "%s: must be true or false", key);
    case PROP_RATE: *(uint64_t *)prop_at(nic, p) = (uint64_t)n; break;
    case PROP_NUMBER: *(uint32_t *)prop_at(nic, p) = (uint32_t)n; break;
    }
    json_int_t max = p->kind == PROP_RATE ? (json_int_t)NETWORK_RATE_MAX : UINT32_MAX;
    if (json_is_integer(value) && n >= 0 && n <= max)
        return OK;
    return error_set(e, ERR_INVALID, "%s: must be a whole number", key);
}

static err_t props_from_json(struct vm_nic *nic, const json_t *value, struct error *e)
{
    const char *key;
    json_t *member;
    err_t err = OK;
    if (!json_is_object(value))
        return error_set(e, ERR_INVALID, "must be an object");
    json_object_foreach((json_t *)value, key, member)
    {
        if (!err)
            err = prop_from_json(nic, key, member, e);
    }
    return err;
}

static err_t nic_from_json(struct vm_config *config, const json_t *value, struct error *e)
{
    err_t err = add(config, e);
    return err ? err : props_from_json(&config->nic[config->nics - 1], value, e);
}

unsigned vm_nic_place(const struct vm_config *config)
{
    unsigned i = 0;
    while (i < config->nics && !config->nic[i].absent)
        i++;
    return i;
}

err_t vm_nic_put(struct vm_config *config, unsigned number, const json_t *value, struct error *e)
{
    struct vm_nic nic = {.queues = 1};
    if (number >= VM_NICS_MAX || number > config->nics)
        return error_set(e, ERR_INVALID, "a VM has at most %d network cards", VM_NICS_MAX);
    if (number < config->nics && !config->nic[number].absent)
        return error_set(e, ERR_EXISTS, "the VM has a network card %u", number);
    err_t err = props_from_json(&nic, value, e);
    if (!err)
        err = check_nic(&nic, e);
    if (err) {
        vm_nic_release(&nic);
        return err;
    }
    if (number == config->nics)
        config->nics++;
    else
        vm_nic_release(&config->nic[number]);
    config->nic[number] = nic;
    return OK;
}

err_t vm_nics_from_json(struct vm_config *config, const json_t *value, struct error *e)
{
    if (!json_is_array(value))
        return error_set(e, ERR_INVALID, "nics: must be a list of {\"network\": ..., ...}");
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (nic_from_json(config, json_array_get(value, i), e))
            return error_in(e, "nics[%zu]", i);
    }
    return OK;
}
