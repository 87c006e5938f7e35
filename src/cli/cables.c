// Cables. The VM says over its control socket when a link is lost; then whoever started it asks the
// network for a new port and passes the socket in, since the VM's own process may open none.
#include "cli/cables.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "control/plug.h"
#include "host/clock.h"
#include "net/network.h"
#include "net/tap.h"

#define ANSWER_MS 5000
#define RETRY_MS 1000

static err_t plug(const struct vm_config *config, unsigned nic, const char *network,
                  const uint8_t mac[6], int *fd, json_t **result, struct error *e)
{
    const struct vm_nic *n = &config->nic[nic];
    bool own = nic < config->nics && n->network && !strcmp(n->network, network);
    struct plug_request request = {.network = network,
                                   .vm = config->name,
                                   .nic = nic,
                                   .rings = !n->socket,
                                   .card = own ? n : NULL};
    memcpy(request.mac, mac, sizeof request.mac);
    return network_plug(&request, fd, result, e);
}

static void tell(const struct vm_config *config, unsigned nic, const json_t *result)
{
    const char *address = json_string_value(json_object_get(result, "address"));
    if (address && !config->json)
        complain(0, "%s has the address %s in the network %s", config->name, address,
                 config->nic[nic].network);
}

void cables_init(struct cables *cables, struct vm_config *config)
{
    *cables = (struct cables){.config = config};
    memset(cables->fd, -1, sizeof cables->fd);
}

// The usual one is not told: the guest may then change it.
static void take_mtu(struct vm_nic *nic, const json_t *result)
{
    json_int_t mtu = json_integer_value(json_object_get(result, "mtu"));
    if (!nic->mtu && mtu >= NETWORK_MTU_MIN && mtu <= NETWORK_MTU_MAX && mtu != NETWORK_MTU_USUAL)
        nic->mtu = (uint32_t)mtu;
}

err_t cables_plug(struct cables *cables, struct error *e)
{
    struct vm_config *config = cables->config;
    err_t err = OK;
    for (unsigned i = 0; !err && i < config->nics; i++) {
        json_t *result = NULL;
        uint8_t mac[6];
        if (!config->nic[i].network)
            continue;
        vm_nic_mac(config, i, mac);
        err = plug(config, i, config->nic[i].network, mac, &cables->fd[i], &result, e);
        if (!err) {
            take_mtu(&config->nic[i], result);
            tell(config, i, result);
        }
        json_decref(result);
    }
    if (err)
        cables_close_here(cables);
    return err;
}

void cables_close_here(struct cables *cables)
{
    for (unsigned i = 0; i < ARRAY_LEN(cables->fd); i++) {
        if (cables->fd[i] >= 0)
            close(cables->fd[i]);
        cables->fd[i] = -1;
    }
}

// --- while the VM runs

static void stop_watching(struct cables *cables)
{
    client_free(cables->client);
    cables->client = NULL;
    cables->due = false;
}

void cables_watch(struct cables *cables)
{
    json_t *result = NULL;
    struct client **client = &cables->client;
    if (client_connect(REGISTRY_VM, cables->config->name, ANSWER_MS, client, NULL))
        return;
    if (client_ask(*client, "events", NULL, &result, NULL, NULL))
        stop_watching(cables);
    json_decref(result);
}

int cables_fd(const struct cables *cables)
{
    return cables->client ? client_fd(cables->client) : -1;
}

int cables_wait(const struct cables *cables)
{
    return cables->client && cables->due ? RETRY_MS : -1;
}

// False: the VM has ended, or no longer talks.
static bool replug(struct cables *cables, unsigned nic, const char *network, const char *mac)
{
    int fd = -1;
    json_t *result = NULL;
    uint64_t now = host_now(), last = cables->replugged[nic];
    bool soon = last && now - last < RETRY_MS * NS_PER_MS; // one that comes to go away at once
    uint8_t bytes[6] = {0};
    for (size_t i = 0; i < sizeof bytes && mac && strlen(mac) == 17; i++)
        bytes[i] = (uint8_t)strtoul(mac + 3 * i, NULL, 16);
    if (soon || plug(cables->config, nic, network, bytes, &fd, NULL, NULL)) {
        cables->due = true; // later, then
        return true;
    }
    cables->replugged[nic] = now;
    client_give(cables->client, fd);
    err_t err = client_ask(cables->client, "plug",
                           json_pack("{s:i, s:s}", "nic", (int)nic, "network", network), &result,
                           NULL, NULL);
    json_decref(result);
    close(fd);
    return !err;
}

// Asking drops events that come meanwhile, so what is to be done is read from the VM's own words
// about its cards and not from the events.
static bool replug_all(struct cables *cables)
{
    json_t *info = NULL, *nic;
    size_t i;
    bool alive = !client_ask(cables->client, "info", NULL, &info, NULL, NULL);
    cables->due = false;
    json_array_foreach(json_object_get(info, "nics"), i, nic)
    {
        const char *network = json_string_value(json_object_get(nic, "network"));
        if (alive && network && i < VM_NICS_MAX && json_is_false(json_object_get(nic, "up")))
            alive = replug(cables, (unsigned)i, network,
                           json_string_value(json_object_get(nic, "mac")));
    }
    json_decref(info);
    return alive;
}

// All that have come. False: the VM has ended.
static bool take_events(struct cables *cables)
{
    for (;;) {
        json_t *event = NULL;
        err_t err = client_next_event(cables->client, 0, &event, NULL);
        if (err || !event)
            return err == ERR_BUSY;
        const char *name = json_string_value(json_object_get(event, "event"));
        cables->due |= name && !strcmp(name, "link") && json_is_false(json_object_get(event, "up"));
        json_decref(event);
    }
}

void cables_work(struct cables *cables, bool input)
{
    bool alive = !input || take_events(cables);
    if (!alive || (cables->due && !replug_all(cables)))
        stop_watching(cables);
}

void cables_release(struct cables *cables)
{
    for (unsigned i = 0; i < cables->config->nics; i++)
        tap_remove(cables->config->nic[i].network, cables->config->name, i);
    cables_close_here(cables);
    stop_watching(cables);
}
