// The parts of berth net and berth port.
#pragma once

#include <jansson.h>

#include "control/client.h"
#include "net/network.h"

struct net_args {
    const char *words[3]; // what is no option
    unsigned count;
    struct network network; // create: as the options say; its name follows
    const char *subnet, *subnet6, *kind;
    const char *policy;
    uint64_t in, out; // limits, bits a second
    bool has_in, has_out, has_priority, has_mtu, has_idle;
    unsigned priority;
    uint32_t mtu, idle;
    bool isolated, trusting, force, remove, json;
    const char *vm;   // capture: of this card only
    const char *file; // capture: where to; NULL: standard output
};

err_t net_create(struct net_args *a, struct error *e);
err_t net_ls(struct net_args *a, struct error *e);
err_t net_info(struct net_args *a, struct error *e);
err_t net_rm(struct net_args *a, struct error *e);
err_t net_stop(struct net_args *a, struct error *e);
err_t net_connect(struct net_args *a, struct error *e);
err_t net_disconnect(struct net_args *a, struct error *e);
err_t net_policy(struct net_args *a, struct error *e);
err_t net_limit(struct net_args *a, struct error *e);
err_t net_capture(struct net_args *a, struct error *e);
err_t net_vhost(struct net_args *a, struct error *e); // net_vhost.c; returns on an error only

// --- what they share (net_card.c)

// A card of a running VM, and the network it is plugged into.
struct net_card {
    char vm[NETWORK_NAME_MAX + 1];
    unsigned nic;
    bool chosen;                        // its number was given
    bool new;                           // there is none of that number yet
    char network[NETWORK_NAME_MAX + 1]; // "": none
    uint8_t mac[6];
};

// "web" or "web:1". Asks the VM.
err_t net_card_find(const char *text, struct net_card *out, struct error *e);
// The same; ERR_UNSUPPORTED when it is plugged in nowhere.
err_t net_card_plugged(const char *text, struct net_card *out, struct error *e);

// Asks a running network. args is taken over.
err_t net_ask(const char *network, const char *request, json_t *args, json_t **result, int *fd,
              struct error *e);
// {"vm":, "nic":} of a card, to add to.
json_t *net_card_json(const struct net_card *card);

// Words, or with --json the object, which is taken over.
void net_tell(const struct net_args *a, json_t *object, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
