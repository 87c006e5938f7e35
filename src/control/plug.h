// Plugging network cards into virtual networks: each network is a berth-switch process, found by
// its name, or started. Other programs' vhost-user back ends are found by their sockets.
#pragma once

#include <jansson.h>

#include "machine/config.h"

struct plug_request {
    const char *network;       // a name, or vhost-user:PATH
    const char *vm;            // its name
    unsigned nic;              // number of the VM's card
    uint8_t mac[6];            // all 0: the switch gives one, in the result
    bool rings;                // the socket is for a vhost-user front end, if the switch can
    const struct vm_nic *card; // what it is to have of its port; NULL: what the network gives
};

// *fd: the socket for the card. *result (may be NULL): what the switch says about the port, a new
// object: its addresses, if it has any. ERR_NOT_FOUND: there is no such network.
err_t network_plug(const struct plug_request *request, int *fd, json_t **result, struct error *e);
