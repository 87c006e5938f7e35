// Requests about the VM's network cards.
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

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
const struct request_field nic_add_fields[] = {
    {"nic", FIELD_NUMBER, false, 0, VM_NICS_MAX - 1, "its number; by default the first free one"},
    {"model", FIELD_TEXT, false, 0, 15, "virtio (as by default) or e1000"},
    {"mac", FIELD_TEXT, false, 0, 17, "by default one that follows from the VM's name"},
    {"queues", FIELD_NUMBER, false, 1, VM_NIC_QUEUES_MAX, "pairs of queues, by default 1"},
    {"network", FIELD_TEXT, false, 0, 63, "the network that a descriptor leads to"},
    {0},
};
const struct request_field nic_remove_fields[] = {
    {"nic", FIELD_NUMBER, true, 0, VM_NICS_MAX - 1, "which network card"},
    {0},
};

static err_t find_nic(const struct control *c, const json_t *args, unsigned *nic, struct error *e)
{
    *nic = (unsigned)request_number(args, "nic", 0);
    if (*nic < c->config->nics && !c->config->nic[*nic].absent)
        return OK;
    return error_set(e, ERR_NOT_FOUND, "there is no network card %u; the VM has %u", *nic,
                     c->config->nics);
}

// A socket of packets, or of a vhost-user back end, and nothing else.
static bool is_port(int fd)
{
    int type = 0;
    socklen_t len = sizeof type;
    struct stat st;
    if (fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0)
        return type == SOCK_SEQPACKET || type == SOCK_STREAM;
    return fd >= 0 && fstat(fd, &st) == 0 && S_ISCHR(st.st_mode);
}

static err_t check_port(const char *network, int fd, struct error *e)
{
    if (!network || !vm_network_valid(network))
        return error_set(e, ERR_INVALID, "network: '%.120s' is not a name; " VM_NAME_RULE,
                         network ? network : "");
    if (!is_port(fd))
        return error_set(e, ERR_INVALID, "no descriptor of a network's port came along");
    return OK;
}

err_t request_plug(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    const char *network = request_text(args, "network", "");
    unsigned nic;
    err_t err = find_nic(c, args, &nic, e);
    if (!err)
        err = check_port(network, reply->given, e);
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

static json_t *nic_describe(const struct control *c, unsigned nic)
{
    uint8_t mac[6];
    char text[18];
    if (c->config->nic[nic].absent)
        return json_null();
    vm_nic_mac(c->config, nic, mac);
    snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
             mac[4], mac[5]);
    return json_pack("{s:s?, s:s, s:b, s:s}", "network", c->config->nic[nic].network, "mac", text,
                     "up", c->link_up(c->opaque, nic), "model",
                     vm_nic_model_names[c->config->nic[nic].model]);
}

json_t *nics_describe(const struct control *c)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < c->config->nics; i++)
        json_array_append_new(list, nic_describe(c, i));
    return list;
}

// --- cards that come and go

static json_t *card_of(const json_t *args)
{
    json_t *card = json_copy((json_t *)args);
    json_object_del(card, "nic");
    json_object_del(card, "network");
    return card;
}

err_t request_nic_add(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    const char *network = request_text(args, "network", NULL);
    unsigned nic = (unsigned)request_number(args, "nic", vm_nic_place(c->config));
    bool heard = false;
    err_t err = network || reply->given >= 0 ? check_port(network, reply->given, e) : OK;
    if (err)
        return err;
    json_t *card = card_of(args);
    err = c->nic_add(c->opaque, nic, card, reply->given, network, &heard, e);
    json_decref(card);
    if (err)
        return err;
    reply->given = -1;
    json_object_set_new(reply->result, "nic", json_integer(nic));
    json_object_set_new(reply->result, "heard", json_boolean(heard));
    json_object_set_new(reply->result, "card", nic_describe(c, nic));
    return OK;
}

err_t request_nic_remove(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    unsigned nic;
    bool heard = false;
    err_t err = find_nic(c, args, &nic, e);
    if (!err)
        err = c->nic_remove(c->opaque, nic, &heard, e);
    if (!err)
        json_object_set_new(reply->result, "heard", json_boolean(heard));
    return err;
}
