// berth net create, ls, info and rm: networks as they are defined, and what runs of them.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/net.h"

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

static long long number(const json_t *object, const char *key)
{
    return (long long)json_integer_value(json_object_get(object, key));
}

// --- create, rm

static err_t apply(struct net_args *a, struct network *network, struct error *e)
{
    err_t err = a->kind ? network_parse_kind(network, a->kind, e) : OK;
    if (!err && a->subnet)
        err = network_parse_subnet(network, a->subnet, e);
    if (!err && a->subnet6)
        err = network_parse_subnet6(network, a->subnet6, e);
    if (!err && a->policy && strlen(a->policy) > NETWORK_POLICY_MAX)
        err = error_set(e, ERR_INVALID, "policy: is longer than %d bytes", NETWORK_POLICY_MAX);
    if (err)
        return err;
    snprintf(network->policy, sizeof network->policy, "%s", a->policy ? a->policy : "");
    network->isolated = a->isolated;
    network->trusting = a->trusting;
    network->limit_in = a->in;
    network->limit_out = a->out;
    if (a->has_mtu)
        network->mtu = a->mtu;
    if (a->has_idle)
        network->idle_seconds = a->idle;
    return OK;
}

static err_t definition_json(const struct network *network, json_t **out, struct error *e)
{
    char *json = NULL;
    err_t err = network_save(network, &json, e);
    *out = err ? NULL : json_loads(json, 0, NULL);
    free(json);
    return err;
}

err_t net_create(struct net_args *a, struct error *e)
{
    struct network *network = &a->network;
    json_t *object = NULL;
    err_t err = network_init(network, a->words[0], e);
    if (!err)
        err = apply(a, network, e);
    if (!err)
        err = network_store(network, e);
    if (!err)
        err = definition_json(network, &object, e);
    if (err)
        return err;
    net_tell(a, object, "the network %s has the addresses %s; berth run --net %s joins it",
             network->name, text(object, "subnet"), network->name);
    return OK;
}

// ERR_BUSY: somebody uses it. *runs: there is a process to end.
static err_t check_unused(const struct net_args *a, bool *runs, struct error *e)
{
    json_t *info = NULL;
    *runs = !net_ask(a->words[0], "info", NULL, &info, NULL, NULL);
    size_t ports = json_array_size(json_object_get(info, "ports"));
    json_decref(info);
    if (!ports || a->force)
        return OK;
    return error_set(e, ERR_BUSY,
                     "%zu network cards are plugged into '%s'; stop their VMs, or give --force",
                     ports, a->words[0]);
}

static err_t end(const char *name, struct error *e)
{
    json_t *done = NULL;
    err_t err = net_ask(name, "stop", NULL, &done, NULL, e);
    json_decref(done);
    return err;
}

err_t net_stop(struct net_args *a, struct error *e)
{
    const char *name = a->words[0];
    bool runs;
    err_t err = check_unused(a, &runs, e);
    if (!err)
        err = end(name, e);
    if (!err)
        net_tell(a, json_pack("{s:s}", "stopped", name),
                 "the network %s has stopped; it starts with the next VM that joins", name);
    return err;
}

err_t net_rm(struct net_args *a, struct error *e)
{
    const char *name = a->words[0];
    bool runs;
    err_t err = check_unused(a, &runs, e);
    if (!err)
        err = network_remove(name, e);
    if (!err && runs)
        err = end(name, e);
    if (err)
        return err;
    net_tell(a, json_pack("{s:s}", "removed", name), "the network %s is gone", name);
    return OK;
}

// --- ls

struct list {
    json_t *networks;
};

static void add_network(void *opaque, const char *name)
{
    struct list *list = opaque;
    struct network *network = malloc(sizeof *network);
    struct error e = {0};
    json_t *object = NULL, *info = NULL;
    err_t err = network ? network_find(name, network, &e) : ERR_NO_MEMORY;
    if (!err)
        err = definition_json(network, &object, &e);
    free(network);
    if (err) {
        json_array_append_new(list->networks,
                              json_pack("{s:s, s:s}", "name", name, "error", e.text));
        return;
    }
    json_object_del(object, "berth_network");
    bool runs = !net_ask(name, "info", NULL, &info, NULL, &e);
    json_object_set_new(object, "running", json_boolean(runs));
    json_object_set_new(object, "cards",
                        json_integer((json_int_t)json_array_size(json_object_get(info, "ports"))));
    json_decref(info);
    json_array_append_new(list->networks, object);
}

err_t net_ls(struct net_args *a, struct error *e)
{
    struct list list = {json_array()};
    size_t i;
    const json_t *n;
    err_t err = network_each(add_network, &list, e);
    if (err || a->json) {
        if (err)
            json_decref(list.networks);
        return err ? err : print_json(list.networks) ? ERR_IO : OK;
    }
    printf("%-20s %-8s %-18s %-8s %5s\n", "NAME", "KIND", "SUBNET", "STATE", "CARDS");
    json_array_foreach(list.networks, i, n)
    {
        if (*text(n, "error"))
            printf("%-20s %s\n", text(n, "name"), text(n, "error"));
        else
            printf("%-20s %-8s %-18s %-8s %5lld\n", text(n, "name"), text(n, "kind"),
                   text(n, "subnet"),
                   json_is_true(json_object_get(n, "running")) ? "running" : "idle",
                   number(n, "cards"));
    }
    json_decref(list.networks);
    return OK;
}

// --- info

static void show_limit(const char *word, long long rate)
{
    char amount[32];
    network_rate_text((uint64_t)rate, amount, sizeof amount);
    if (rate)
        printf(", %s %s", word, amount);
}

static void show_dropped(const json_t *counters)
{
    const char *why;
    json_t *count;
    json_object_foreach(json_object_get(counters, "dropped"), why, count)
        printf(", %lld %s", (long long)json_integer_value(count), why);
}

static void show_port(const json_t *port)
{
    const json_t *counters = json_object_get(port, "counters"), *forward;
    size_t i;
    printf("card       %s:%lld %s %s %s", text(port, "vm"), number(port, "nic"), text(port, "mac"),
           text(port, "address"), text(port, "address6"));
    if (number(port, "vlan"))
        printf(", VLAN %lld", number(port, "vlan"));
    show_limit("in", number(port, "limit_in"));
    show_limit("out", number(port, "limit_out"));
    printf("%s%s\n", json_is_true(json_object_get(port, "trunk")) ? ", trunk" : "",
           json_is_true(json_object_get(port, "up")) ? "" : ", down");
    printf("           in %lld packets, %lld bytes; out %lld, %lld", number(counters, "packets_in"),
           number(counters, "bytes_in"), number(counters, "packets_out"),
           number(counters, "bytes_out"));
    show_dropped(counters);
    printf("\n");
    if (*text(port, "policy"))
        printf("           policy %s\n", text(port, "policy"));
    json_array_foreach(json_object_get(port, "forwards"), i, forward)
        printf("           port %s\n", json_string_value(forward));
}

static void show_network(const json_t *n, bool runs)
{
    const json_t *port;
    size_t i;
    printf("name       %s\nkind       %s\nsubnet     %s, %s\nmtu        %lld\n", text(n, "name"),
           text(n, "kind"), text(n, "subnet"), text(n, "subnet6"), number(n, "mtu"));
    if (*text(n, "policy"))
        printf("policy     %s\n", text(n, "policy"));
    if (!runs) {
        printf("state      idle; it starts with the first VM that joins\n");
        return;
    }
    printf("state      running, pid %lld\n", number(n, "pid"));
    if (*text(n, "gateway"))
        printf("gateway    %s, which is this host\n", text(n, "gateway"));
    printf("dns        %s\n", text(n, "dns"));
    json_array_foreach(json_object_get(n, "ports"), i, port) show_port(port);
}

err_t net_info(struct net_args *a, struct error *e)
{
    json_t *object = NULL;
    err_t err = net_ask(a->words[0], "info", NULL, &object, NULL, e);
    bool runs = !err;
    if (err == ERR_NOT_FOUND) {
        err = network_find(a->words[0], &a->network, e);
        if (!err)
            err = definition_json(&a->network, &object, e);
    }
    if (err)
        return err;
    if (runs && a->json)
        json_object_set_new(object, "running", json_true());
    if (a->json)
        return print_json(object) ? ERR_IO : OK;
    show_network(object, runs);
    json_decref(object);
    return OK;
}
