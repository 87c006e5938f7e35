// Finds a network's switch, or starts it, and asks for a port. memfd_create(2).
//
// Whoever finds no switch claims the network's name, makes the socket that the switch will serve,
// and hands socket and claim to the process that it starts. So two who start at once get one
// switch, and a switch may end by itself when nobody is plugged in.
#include "control/plug.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "control/client.h"
#include "host/file.h"
#include "host/program.h"
#include "net/network.h"
#include "net/tap.h"

#define ANSWER_MS 10000
#define TRIES 200  // to find or start a switch while others do the same
#define ENDS_MAX 3 // how often one may end before it answers
#define PAUSE_NS (20 * 1000 * 1000)

// --- starting a switch

static err_t definition_file(const struct network *network, int *fd, struct error *e)
{
    char *text = NULL;
    err_t err = network_save(network, &text, e);
    if (err)
        return err;
    *fd = memfd_create("berth-network", MFD_CLOEXEC);
    if (*fd < 0 || host_write_all(*fd, text, strlen(text)) || lseek(*fd, 0, SEEK_SET) < 0)
        err = error_set(e, ERR_IO, "cannot pass on the network's definition: %s", strerror(errno));
    free(text);
    return err;
}

static err_t run_switch(const struct network *network, const struct registry_claim *claim,
                        int listener, int definition, struct error *e)
{
    char path[4096], numbers[3][16];
    err_t err = host_find_program("berth-switch", path, sizeof path, e);
    if (err)
        return err;
    const int keep[] = {definition, listener, claim->lock};
    for (size_t i = 0; i < ARRAY_LEN(keep); i++)
        snprintf(numbers[i], sizeof numbers[i], "%d", keep[i]);
    char *argv[] = {"berth-switch", "--definition", numbers[0], "--control",
                    numbers[1],     "--lock",       numbers[2], NULL};
    const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC;
    int log = openat(claim->dir, REGISTRY_LOG, flags, 0600);
    err = host_start_daemon(path, argv, log, keep, ARRAY_LEN(keep), e);
    if (log >= 0)
        close(log);
    return err;
}

// ERR_BUSY: somebody else starts it, or it is about to end.
static err_t start_switch(const char *name, struct error *e)
{
    struct network network;
    struct registry_claim claim;
    int listener = -1, definition = -1;
    err_t err = network_find(name, &network, e);
    if (err)
        return err;
    err = registry_claim(REGISTRY_NETWORK, name, &claim, e);
    if (err)
        return err;
    err = registry_listen(&claim, REGISTRY_CONTROL, &listener, e);
    if (!err)
        err = definition_file(&network, &definition, e);
    if (!err)
        err = run_switch(&network, &claim, listener, definition, e);
    if (err)
        registry_release(&claim);
    else
        registry_hand_over(&claim);
    if (listener >= 0)
        close(listener);
    if (definition >= 0)
        close(definition);
    return err;
}

// --- a port

static void add_text(json_t *args, const char *key, const char *value)
{
    if (value)
        json_object_set_new(args, key, json_string(value));
}

static void add_number(json_t *args, const char *key, uint64_t value)
{
    if (value)
        json_object_set_new(args, key, json_integer((json_int_t)value));
}

static void add_flag(json_t *args, const char *key, bool value)
{
    if (value)
        json_object_set_new(args, key, json_true());
}

static void add_card(json_t *args, const struct vm_nic *card)
{
    add_text(args, "forwards", card->forwards);
    add_text(args, "policy", card->policy);
    add_text(args, "address", card->address);
    add_number(args, "vlan", card->vlan);
    add_number(args, "limit_in", card->in);
    add_number(args, "limit_out", card->out);
    add_number(args, "priority", card->priority);
    add_flag(args, "isolated", card->isolated);
    add_flag(args, "trunk", card->trunk);
    add_flag(args, "trusting", card->trusting);
}

static json_t *arguments(const struct plug_request *r)
{
    static const uint8_t none[6];
    char mac[18];
    snprintf(mac, sizeof mac, "%02x:%02x:%02x:%02x:%02x:%02x", r->mac[0], r->mac[1], r->mac[2],
             r->mac[3], r->mac[4], r->mac[5]);
    json_t *args = json_pack("{s:s, s:i}", "vm", r->vm, "nic", (int)r->nic);
    if (args && memcmp(r->mac, none, sizeof none) != 0)
        add_text(args, "mac", mac);
    if (args)
        add_flag(args, "rings", r->rings);
    if (args && r->card)
        add_card(args, r->card);
    return args;
}

// ERR_NOT_FOUND: no switch runs. *ended: one did, and went away before it answered.
static err_t ask(const struct plug_request *request, int *fd, json_t **result, bool *ended,
                 struct error *e)
{
    struct client *client;
    err_t err = client_connect(REGISTRY_NETWORK, request->network, ANSWER_MS, &client, e);
    *ended = false;
    *fd = -1;
    if (err)
        return err;
    err = client_ask(client, "plug", arguments(request), result, fd, e);
    if (err == ERR_INVALID && request->rings) { // a switch that is older and knows no rings
        struct plug_request plain = *request;
        plain.rings = false;
        err = client_ask(client, "plug", arguments(&plain), result, fd, e);
    }
    *ended = err == ERR_NOT_FOUND || err == ERR_IO; // what a switch says is never one of these
    client_free(client);
    if (!err && *fd < 0) {
        json_decref(*result);
        *result = NULL;
        err =
            error_set(e, ERR_CORRUPT, "the switch of network '%s' gave no port", request->network);
    }
    return err;
}

// One round: *again says whether another one may help.
static err_t find_port(const struct plug_request *request, int *fd, json_t **result, unsigned *ends,
                       bool *again, struct error *e)
{
    bool ended;
    err_t err = ask(request, fd, result, &ended, e);
    *again = false;
    if (ended) {
        *again = ++*ends < ENDS_MAX;
        return error_in(e, "network '%s'", request->network);
    }
    if (err != ERR_NOT_FOUND)
        return err;
    err = start_switch(request->network, e);
    *again = !err || err == ERR_BUSY;
    return err;
}

static err_t plug_into_switch(const struct plug_request *request, int *fd, json_t **result,
                              struct error *e)
{
    const struct timespec pause = {0, PAUSE_NS};
    unsigned ends = 0;
    bool again = true;
    err_t err = OK;
    for (int i = 0; again && i < TRIES; i++) {
        err = find_port(request, fd, result, &ends, &again, e);
        if (err && again)
            nanosleep(&pause, NULL);
    }
    return err;
}

// --- other programs' back ends

static err_t plug_into_back_end(const char *path, int *fd, json_t **result, struct error *e)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    *fd = -1;
    if (strlen(path) >= sizeof at.sun_path)
        return error_set(e, ERR_INVALID, "vhost-user: the path is too long");
    strcpy(at.sun_path, path);
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s < 0 || connect(s, (struct sockaddr *)&at, sizeof at) < 0) {
        int why = errno;
        if (s >= 0)
            close(s);
        return error_set(e, err_from_errno(why),
                         "cannot reach a vhost-user back end at %s: %s; it has to run first", path,
                         strerror(why));
    }
    *fd = s;
    *result = json_object();
    return OK;
}

// --- the host's interfaces

// A new card has no address yet, and nobody here to give it one: it gets the VM's own for it.
static err_t plug_into_interface(const struct plug_request *r, int *fd, json_t **result,
                                 struct error *e)
{
    static const uint8_t none[6];
    const struct vm_config config = {.name = (char *)r->vm};
    uint8_t mac[6];
    char text[18];
    memcpy(mac, r->mac, sizeof mac);
    if (!memcmp(mac, none, sizeof mac))
        vm_nic_mac(&config, r->nic, mac);
    err_t err = tap_open(r->network, r->vm, r->nic, mac, fd, e);
    if (err)
        return err;
    snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
             mac[4], mac[5]);
    *result = json_pack("{s:s}", "mac", text);
    return OK;
}

err_t network_plug(const struct plug_request *request, int *fd, json_t **result, struct error *e)
{
    const char *path = vm_network_vhost(request->network);
    json_t *answer = NULL;
    err_t err;
    if (path)
        err = plug_into_back_end(path, fd, &answer, e);
    else if (tap_named(request->network))
        err = plug_into_interface(request, fd, &answer, e);
    else
        err = plug_into_switch(request, fd, &answer, e);
    if (result)
        *result = answer;
    else
        json_decref(answer);
    return err;
}
