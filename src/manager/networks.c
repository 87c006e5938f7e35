// Requests about virtual networks: their definitions, which are files of the user's
// (net/network.h), and whether a process runs for one. One that has cards plugged into it stays as
// it is.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "manager/manager.h"
#include "net/network.h"

const struct request_field network_fields[] = {
    {"network", FIELD_TEXT, true, 1, NETWORK_NAME_MAX, "its name"},
    {"kind", FIELD_TEXT, false, 0, 16, "nat, host or private"},
    {"subnet", FIELD_TEXT, false, 0, 32, "such as 10.5.0.0/16"},
    {"subnet6", FIELD_TEXT, false, 0, 64, "such as fd00:1::/64, or none"},
    {"policy", FIELD_TEXT, false, 0, NETWORK_POLICY_MAX, "what is let through (docs/switch.md)"},
    {"isolated", FIELD_BOOL, false, 0, 0, "VMs reach the gateway and not each other"},
    {"mtu", FIELD_NUMBER, false, NETWORK_MTU_MIN, NETWORK_MTU_MAX, "bytes of a packet"},
    {0}};
const struct request_field network_name_fields[] = {
    {"network", FIELD_TEXT, true, 1, NETWORK_NAME_MAX, "its name"}, {0}};

// --- ls

static void add_running(void *opaque, const char *name)
{
    json_object_set_new(opaque, name, json_true());
}

static json_t *describe(const struct network *network)
{
    char *text = NULL;
    if (network_save(network, &text, NULL))
        return NULL;
    json_t *object = json_loads(text, 0, NULL);
    free(text);
    json_object_set_new(object, "ipv6", json_boolean(network->ipv6));
    return object;
}

struct networks {
    json_t *list, *running;
};

static void add_network(void *opaque, const char *name)
{
    struct networks *all = opaque;
    struct network *network = malloc(sizeof *network);
    json_t *object = network && !network_find(name, network, NULL) ? describe(network) : NULL;
    free(network);
    if (!object)
        return;
    json_object_set_new(object, "running",
                        json_boolean(json_object_get(all->running, name) != NULL));
    json_array_append_new(all->list, object);
}

err_t networks_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct networks all = {json_array(), json_object()};
    err_t err = registry_each(REGISTRY_NETWORK, add_running, all.running, e);
    if (!err)
        err = network_each(add_network, &all, e);
    json_object_set_new(reply->result, "networks", all.list);
    json_decref(all.running);
    return err;
}

// --- made, changed, removed

static err_t take(struct network *network, const json_t *args, struct error *e)
{
    const char *kind = request_text(args, "kind", NULL),
               *subnet = request_text(args, "subnet", NULL),
               *subnet6 = request_text(args, "subnet6", NULL);
    const json_t *isolated = json_object_get(args, "isolated");
    err_t err = kind ? network_parse_kind(network, kind, e) : OK;
    if (!err && subnet)
        err = network_parse_subnet(network, subnet, e);
    if (!err && subnet6)
        err = network_parse_subnet6(network, subnet6, e);
    if (err)
        return err;
    snprintf(network->policy, sizeof network->policy, "%s",
             request_text(args, "policy", network->policy));
    network->mtu = (uint32_t)request_number(args, "mtu", network->mtu);
    if (isolated)
        network->isolated = json_is_true(isolated);
    return network_check(network, e);
}

// A process that runs for it has it as it was.
static err_t must_rest(const char *name, struct error *e)
{
    json_t *running = json_object();
    err_t err = registry_each(REGISTRY_NETWORK, add_running, running, e);
    if (!err && json_object_get(running, name))
        err = error_set(e, ERR_BUSY, "'%s' is running; stop its VMs and berth net stop %s first",
                        name, name);
    json_decref(running);
    return err;
}

static err_t give(const struct network *network, struct reply *reply, struct error *e)
{
    json_t *object = describe(network);
    if (!object)
        return error_set(e, ERR_NO_MEMORY, "no memory for an answer");
    json_object_update(reply->result, object);
    json_decref(object);
    return OK;
}

static void tell(struct manager *manager, const char *event, const char *name)
{
    manager_tell(manager, NULL, json_pack("{s:s, s:s}", "event", event, "network", name), true);
}

err_t network_create_request(void *context, const json_t *args, struct reply *reply,
                             struct error *e)
{
    struct network *network = calloc(1, sizeof *network);
    if (!network)
        return error_set(e, ERR_NO_MEMORY, "no memory for a network");
    err_t err = network_init(network, request_text(args, "network", ""), e);
    if (!err)
        err = take(network, args, e);
    if (!err)
        err = network_store(network, e);
    if (!err)
        err = give(network, reply, e);
    if (!err)
        tell(context, "network-created", network->name);
    free(network);
    return err;
}

err_t network_set_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct network *network = calloc(1, sizeof *network);
    if (!network)
        return error_set(e, ERR_NO_MEMORY, "no memory for a network");
    err_t err = network_find(request_text(args, "network", ""), network, e);
    if (!err)
        err = take(network, args, e);
    if (!err)
        err = must_rest(network->name, e);
    if (!err)
        err = network_replace(network, e);
    if (!err)
        err = give(network, reply, e);
    if (!err)
        tell(context, "network-changed", network->name);
    free(network);
    return err;
}

err_t network_rm_request(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const char *name = request_text(args, "network", "");
    err_t err = must_rest(name, e);
    if (!err)
        err = network_remove(name, e);
    if (!err)
        tell(context, "network-removed", name);
    return err;
}
