// What can be asked of a running network (docs/switch.md). Ports are named by their VM and the
// number of its network card.
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/clock.h"
#include "switch/switch.h"

#define PORT_FIELDS                                                  \
    {"vm", FIELD_TEXT, true, 1, NETWORK_NAME_MAX, "the VM's name"},  \
    {                                                                \
        "nic", FIELD_NUMBER, false, 0, 255, "which of its cards (0)" \
    }

// --- as JSON

static json_t *ipv4_json(uint32_t address)
{
    struct in_addr in = {htonl(address)};
    char text[INET_ADDRSTRLEN];
    return json_string(inet_ntop(AF_INET, &in, text, sizeof text));
}

static json_t *ipv6_json(const uint8_t address[16])
{
    char text[INET6_ADDRSTRLEN];
    return json_string(inet_ntop(AF_INET6, address, text, sizeof text));
}

static json_t *mac_json(const uint8_t mac[6])
{
    return json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
                        mac[5]);
}

static json_t *counters_json(const struct port_counters *c)
{
    json_t *dropped = json_object();
    for (int i = 0; i < DROPS; i++) {
        if (c->dropped[i])
            json_object_set_new(dropped, port_drop_names[i],
                                json_integer((json_int_t)c->dropped[i]));
    }
    return json_pack("{s:I, s:I, s:I, s:I, s:o}", "packets_in", (json_int_t)c->packets_in,
                     "bytes_in", (json_int_t)c->bytes_in, "packets_out", (json_int_t)c->packets_out,
                     "bytes_out", (json_int_t)c->bytes_out, "dropped", dropped);
}

static json_t *forwards_json(const struct vswitch *sw, const struct port *port)
{
    json_t *list = json_array();
    char text[FORWARD_TEXT];
    for (int i = 0; i < FORWARDS_MAX; i++) {
        if (!sw->forward[i].used || sw->forward[i].port != port)
            continue;
        forward_format(&sw->forward[i].forward, text);
        json_array_append_new(list, json_string(text));
    }
    return list;
}

// What a card needs to know about its port.
static void add_addresses(json_t *to, const struct vswitch *sw, const struct port *port)
{
    json_object_set_new(to, "mac", mac_json(port->mac));
    json_object_set_new(to, "address", ipv4_json(port->address));
    if (sw->network.ipv6)
        json_object_set_new(to, "address6", ipv6_json(port->address6));
    json_object_set_new(to, "mtu", json_integer(sw->network.mtu));
}

static json_t *port_json(const struct vswitch *sw, const struct port *port)
{
    const struct link *link = port->link;
    json_t *o = json_pack("{s:s, s:i, s:i, s:b, s:b, s:b, s:b, s:b, s:I, s:I, s:i}", "vm", port->vm,
                          "nic", (int)port->nic, "vlan", (int)port->vlan, "trunk", port->trunk,
                          "isolated", port->isolated, "trusting", port->trusting, "up", !port->down,
                          "rings", link->rings && vhost_back_runs(link->rings), "limit_in",
                          (json_int_t)link->limit_in, "limit_out", (json_int_t)link->limit_out,
                          "priority", (int)link->priority);
    json_object_set_new(o, "shares", json_integer(link->shares));
    if (link->bound_in)
        json_object_set_new(o, "bound_in", json_integer((json_int_t)link->bound_in));
    if (link->bound_out)
        json_object_set_new(o, "bound_out", json_integer((json_int_t)link->bound_out));
    add_addresses(o, sw, port);
    if (port->egress)
        json_object_set_new(o, "policy", json_string(port->egress->said));
    json_object_set_new(o, "forwards", forwards_json(sw, port));
    json_object_set_new(o, "counters", counters_json(&port->counters));
    return o;
}

// --- about the network

static err_t ping(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return OK;
}

static err_t help(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    json_object_set_new(reply->result, "requests", request_describe(switch_requests));
    return OK;
}

static void add_site(json_t *to, const struct site *site)
{
    if (site_has_gateway(site))
        json_object_set_new(to, "gateway", ipv4_json(site->gateway));
    json_object_set_new(to, "dns", ipv4_json(site->self));
    if (site->network->ipv6 && site_has_gateway(site))
        json_object_set_new(to, "gateway6", ipv6_json(site->gateway6));
}

static err_t info(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct vswitch *sw = context;
    char *text = NULL;
    err_t err = network_save(&sw->network, &text, e);
    if (err)
        return err;
    json_t *definition = json_loads(text, 0, NULL), *ports = json_array();
    free(text);
    json_object_del(definition, "berth_network");
    json_object_update(reply->result, definition);
    json_decref(definition);
    add_site(reply->result, &sw->site);
    for (unsigned i = 0; i < sw->bridge.top; i++) {
        if (sw->bridge.port[i].used)
            json_array_append_new(ports, port_json(sw, &sw->bridge.port[i]));
    }
    json_object_set_new(reply->result, "pid", json_integer(getpid()));
    json_object_set_new(reply->result, "uptime_seconds",
                        json_real((double)(host_now() - sw->started) / NS_PER_SEC));
    if (sw->uplink)
        json_object_set_new(reply->result, "sockets", json_integer(uplink_sockets(sw->uplink)));
    json_object_set_new(reply->result, "ports", ports);
    return OK;
}

static err_t stop(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct vswitch *sw = context;
    loop_stop(sw->loop);
    return OK;
}

// --- plugging in

static const struct request_field plug_fields[] = {
    PORT_FIELDS,
    {"mac", FIELD_TEXT, false, 17, 17, "its MAC; a stable one when missing"},
    {"address", FIELD_TEXT, false, 7, 15, "the IPv4 address it would like"},
    {"vlan", FIELD_NUMBER, false, 0, VLAN_MAX, "the VLAN that it is in; 0: none"},
    {"trunk", FIELD_BOOL, false, 0, 0, "it gets tagged frames of all VLANs"},
    {"isolated", FIELD_BOOL, false, 0, 0, "it reaches the gateway only"},
    {"trusting", FIELD_BOOL, false, 0, 0, "it may use any address"},
    {"limit_in", FIELD_NUMBER, false, 0, (int64_t)NETWORK_RATE_MAX, "bits a second to the VM"},
    {"limit_out", FIELD_NUMBER, false, 0, (int64_t)NETWORK_RATE_MAX, "bits a second from the VM"},
    {"priority", FIELD_NUMBER, false, 0, LINK_PRIORITY_MAX, "share of a busy switch (0)"},
    {"policy", FIELD_TEXT, false, 0, NETWORK_POLICY_MAX, "where the VM may connect to"},
    {"rings", FIELD_BOOL, false, 0, 0, "the card's end is a vhost-user front end"},
    {"forwards", FIELD_TEXT, false, 0, 4096, "ports of the host: tcp:ADDRESS:HOST:GUEST,..."},
    {0},
};

static err_t parse_mac(const char *text, uint8_t mac[6], struct error *e)
{
    unsigned b[6];
    int used = 0;
    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
               &used) != 6 ||
        used != 17)
        return error_set(e, ERR_INVALID, "mac: '%.20s' is none; give one like 52:54:00:12:34:56",
                         text);
    for (int i = 0; i < 6; i++)
        mac[i] = (uint8_t)b[i];
    return OK;
}

static bool flag(const json_t *args, const char *name)
{
    return json_is_true(json_object_get(args, name));
}

static err_t check_rate(const char *name, uint64_t rate, struct error *e)
{
    if (!rate || rate >= NETWORK_RATE_MIN)
        return OK;
    return error_set(e, ERR_INVALID, "%s: give 0 for no limit, or at least %llu bits a second",
                     name, NETWORK_RATE_MIN);
}

static err_t read_plug(const struct network *network, const json_t *args, struct switch_plug *plug,
                       struct error *e)
{
    const char *mac = request_text(args, "mac", NULL);
    const char *address = request_text(args, "address", NULL);
    struct in_addr in = {0};
    *plug = (struct switch_plug){
        .port = {.vm = request_text(args, "vm", ""),
                 .nic = (unsigned)request_number(args, "nic", 0),
                 .vlan = (uint16_t)request_number(args, "vlan", 0),
                 .trunk = flag(args, "trunk"),
                 .isolated = flag(args, "isolated"),
                 .trusting = flag(args, "trusting")},
        .limit_in = (uint64_t)request_number(args, "limit_in", (int64_t)network->limit_in),
        .limit_out = (uint64_t)request_number(args, "limit_out", (int64_t)network->limit_out),
        .priority = (unsigned)request_number(args, "priority", 0),
        .rings = flag(args, "rings"),
        .policy = request_text(args, "policy", network->policy),
        .forwards = request_text(args, "forwards", "")};
    if (!network_name_valid(plug->port.vm))
        return error_set(e, ERR_INVALID, "vm: '%.63s' is no name for a VM; " NETWORK_NAME_RULE,
                         plug->port.vm);
    if (plug->port.trunk && plug->port.vlan)
        return error_set(e, ERR_INVALID, "a port is in one VLAN, or a trunk for all; give one");
    if (address && inet_pton(AF_INET, address, &in) != 1)
        return error_set(e, ERR_INVALID, "address: '%.20s' is no IPv4 address", address);
    plug->port.address = ntohl(in.s_addr);
    err_t err = check_rate("limit_in", plug->limit_in, e);
    if (!err)
        err = check_rate("limit_out", plug->limit_out, e);
    return !err && mac ? parse_mac(mac, plug->port.mac, e) : err;
}

static err_t plug(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct vswitch *sw = context;
    struct switch_plug what;
    struct port *port;
    err_t err = read_plug(&sw->network, args, &what, e);
    if (!err)
        err = switch_plug(sw, &what, &port, &reply->fd, e);
    if (err)
        return err;
    add_addresses(reply->result, sw, port);
    json_object_set_new(reply->result, "network", json_string(sw->network.name));
    return OK;
}

static const struct request_field port_fields[] = {PORT_FIELDS, {0}};

static err_t find_port(struct vswitch *sw, const json_t *args, struct port **out, struct error *e)
{
    const char *vm = request_text(args, "vm", "");
    unsigned nic = (unsigned)request_number(args, "nic", 0);
    *out = bridge_find(&sw->bridge, vm, nic);
    if (*out)
        return OK;
    return error_set(e, ERR_NOT_FOUND,
                     "network card %u of '%.63s' is not plugged into '%s'; berth net info %s shows "
                     "what is",
                     nic, vm, sw->network.name, sw->network.name);
}

static err_t unplug(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct vswitch *sw = context;
    struct port *port;
    err_t err = find_port(sw, args, &port, e);
    if (!err)
        switch_unplug(sw, port);
    return err;
}

// --- changing a port

static const struct request_field set_fields[] = {
    PORT_FIELDS,
    {"up", FIELD_BOOL, false, 0, 0, "false: nothing passes"},
    {"isolated", FIELD_BOOL, false, 0, 0, "it reaches the gateway only"},
    {"limit_in", FIELD_NUMBER, false, 0, (int64_t)NETWORK_RATE_MAX, "bits a second to the VM"},
    {"limit_out", FIELD_NUMBER, false, 0, (int64_t)NETWORK_RATE_MAX, "bits a second from the VM"},
    {"bound_in", FIELD_NUMBER, false, 0, (int64_t)NETWORK_RATE_MAX,
     "likewise to it, what limits above leave it, as its pool's"},
    {"bound_out", FIELD_NUMBER, false, 0, (int64_t)NETWORK_RATE_MAX, "the same from it"},
    {"priority", FIELD_NUMBER, false, 0, LINK_PRIORITY_MAX, "share of a busy switch"},
    {"shares", FIELD_NUMBER, false, 1, LINK_SHARES_MAX, "likewise, finer; 100"},
    {"policy", FIELD_TEXT, false, 0, NETWORK_POLICY_MAX, "where the VM may connect to"},
    {0},
};

static err_t set_policy(struct vswitch *sw, struct port *port, const char *policy, struct error *e)
{
    if (!policy)
        return OK;
    if (!port->egress)
        return error_set(e, ERR_UNSUPPORTED,
                         "the network '%s' is private: nothing leaves it, and it needs no policy",
                         sw->network.name);
    return egress_set_policy(port->egress, policy, e);
}

static err_t set(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct vswitch *sw = context;
    struct port *port;
    err_t err = find_port(sw, args, &port, e);
    if (err)
        return err;
    struct link *link = port->link;
    uint64_t in = (uint64_t)request_number(args, "limit_in", (int64_t)link->limit_in);
    uint64_t out = (uint64_t)request_number(args, "limit_out", (int64_t)link->limit_out);
    err = check_rate("limit_in", in, e);
    if (!err)
        err = check_rate("limit_out", out, e);
    if (!err)
        err = set_policy(sw, port, request_text(args, "policy", NULL), e);
    if (err)
        return err;
    if (in != link->limit_in || out != link->limit_out)
        link_limit(link, in, out);
    in = (uint64_t)request_number(args, "bound_in", (int64_t)link->bound_in);
    out = (uint64_t)request_number(args, "bound_out", (int64_t)link->bound_out);
    if (in != link->bound_in || out != link->bound_out)
        link_bound(link, in, out);
    link->priority = (unsigned)request_number(args, "priority", link->priority);
    link->shares = (unsigned)request_number(args, "shares", link->shares);
    if (json_object_get(args, "isolated"))
        port->isolated = flag(args, "isolated");
    if (json_object_get(args, "up"))
        port->down = !flag(args, "up");
    json_object_set_new(reply->result, "port", port_json(sw, port));
    return OK;
}

// --- forwards

static const struct request_field forward_fields[] = {
    PORT_FIELDS,
    {"forward", FIELD_TEXT, true, 1, FORWARD_TEXT, "[ADDRESS:]HOST:GUEST[/tcp|/udp]"},
    {0},
};
static const struct request_field unforward_fields[] = {
    {"forward", FIELD_TEXT, true, 1, FORWARD_TEXT, "[ADDRESS:]HOST[:GUEST][/tcp|/udp]"},
    {0},
};

// As people write it, or as "ports" shows it.
static err_t read_forward(const char *text, struct forward *out, struct error *e)
{
    const char *end = text;
    return forward_next(&end, out) && !*end ? OK : forward_parse(text, out, e);
}

static err_t forward(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct vswitch *sw = context;
    struct port *port;
    struct forward what;
    char text[FORWARD_TEXT];
    err_t err = find_port(sw, args, &port, e);
    if (!err)
        err = read_forward(request_text(args, "forward", ""), &what, e);
    if (!err)
        err = switch_forward(sw, port, &what, e);
    if (err)
        return err;
    forward_format(&what, text);
    json_object_set_new(reply->result, "forward", json_string(text));
    return OK;
}

static err_t unforward(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct forward what;
    err_t err = read_forward(request_text(args, "forward", ""), &what, e);
    return err ? err : switch_unforward(context, &what, e);
}

// --- capture

static const struct request_field capture_fields[] = {
    {"vm", FIELD_TEXT, false, 1, NETWORK_NAME_MAX, "of this VM only"},
    {"nic", FIELD_NUMBER, false, 0, 255, "which of its cards (0)"},
    {0},
};

static err_t capture(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct vswitch *sw = context;
    struct port *port = NULL;
    err_t err = json_object_get(args, "vm") ? find_port(sw, args, &port, e) : OK;
    for (int i = 0; !err && i < CAPTURES_MAX; i++) {
        if (sw->capture[i].used)
            continue;
        err = capture_open(&sw->capture[i], port ? port->index : -1, &reply->fd, e);
        sw->captures += !err;
        return err;
    }
    return err ? err
               : error_set(e, ERR_BUSY, "%d captures run already; end one of them", CAPTURES_MAX);
}

const struct request switch_requests[] = {
    {"ping", "answer", NULL, ping},
    {"help", "list the requests", NULL, help},
    {"info", "what the network is, and who is plugged in", NULL, info},
    {"plug", "plug a card in; the answer carries its end of the socket", plug_fields, plug},
    {"unplug", "pull a card out", port_fields, unplug},
    {"set", "change a port: link, limits, priority, policy", set_fields, set},
    {"forward", "let a port of the host lead to one of the VM", forward_fields, forward},
    {"unforward", "end that", unforward_fields, unforward},
    {"capture", "mirror packets, as pcap, into the socket that the answer carries", capture_fields,
     capture},
    {"stop", "end the network; its VMs stay, unplugged", NULL, stop},
    {0},
};
