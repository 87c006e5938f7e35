// Requests about the VM's network cards.
#include <stdio.h>
#include <sys/socket.h>

#include "control/nic_requests.h"

const struct request_field plug_fields[] = {
    {"nic", FIELD_NUMBER, true, 0, VM_NICS_MAX - 1, "which network card"},
    {"network", FIELD_TEXT, true, 0, 127, "the network that the descriptor leads to"},
    {0},
};
const struct request_field unplug_fields[] = {
    {"nic", FIELD_NUMBER, true, 0, VM_NICS_MAX - 1, "which network card"},
    {0},
};

static err_t find_nic(const struct control *c, const json_t *args, unsigned *nic, struct error *e)
{
    *nic = (unsigned)request_number(args, "nic", 0);
    if (*nic < c->config->nics)
        return OK;
    return error_set(e, ERR_NOT_FOUND, "there is no network card %u; the VM has %u", *nic,
                     c->config->nics);
}

// A socket of packets, or of a vhost-user back end, and nothing else.
static bool is_port(int fd)
{
    int type = 0;
    socklen_t len = sizeof type;
    return fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
           (type == SOCK_SEQPACKET || type == SOCK_STREAM);
}

err_t request_plug(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    const char *network = request_text(args, "network", "");
    unsigned nic;
    err_t err = find_nic(c, args, &nic, e);
    if (!err && !vm_network_valid(network))
        err = error_set(e, ERR_INVALID, "network: '%.120s' is not a name; " VM_NAME_RULE, network);
    if (!err && !is_port(reply->given))
        err = error_set(e, ERR_INVALID, "no descriptor of a network's port came along");
    if (!err)
        err = c->plug(c->opaque, nic, reply->given, network, e);
    if (!err)
        reply->given = -1;
    return err;
}

err_t request_unplug(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    unsigned nic;
    err_t err = find_nic(c, args, &nic, e);
    return err ? err : c->plug(c->opaque, nic, -1, NULL, e);
}

json_t *nics_describe(const struct control *c)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < c->config->nics; i++) {
        uint8_t mac[6];
        char text[18];
        vm_nic_mac(c->config, i, mac);
        snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
                 mac[4], mac[5]);
        json_array_append_new(list,
                              json_pack("{s:s?, s:s, s:b}", "network", c->config->nic[i].network,
                                        "mac", text, "up", c->link_up(c->opaque, i)));
    }
    return list;
}
