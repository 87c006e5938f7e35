// berth net connect, disconnect, policy, limit and capture: one card of a running VM, and the port
// it is plugged into. The VM knows its network; the network's switch knows the rest.
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/manager.h"
#include "cli/net.h"
#include "control/plug.h"
#include "host/file.h"
#include "net/net.h"

#define ANSWER_MS 10000

// --- shared

void net_tell(const struct net_args *a, json_t *object, const char *fmt, ...)
{
    va_list ap;
    if (a->json) {
        (void)print_json(object);
        return;
    }
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    json_decref(object); // the words may be in it
}

err_t net_ask(const char *network, const char *request, json_t *args, json_t **result, int *fd,
              struct error *e)
{
    struct client *client = NULL;
    err_t err = client_connect(REGISTRY_NETWORK, network, ANSWER_MS, &client, e);
    if (err)
        json_decref(args);
    else
        err = client_ask(client, request, args, result, fd, e);
    client_free(client);
    return err;
}

static err_t vm_ask(const char *vm, const char *request, json_t *args, int given, json_t **result,
                    struct error *e)
{
    struct client *client = NULL;
    err_t err = vm_connect(vm, ANSWER_MS, &client, e);
    if (err) {
        json_decref(args);
    } else {
        if (given >= 0)
            client_give(client, given);
        err = client_ask(client, request, args, result, NULL, e);
    }
    client_free(client);
    return err;
}

// --- cards

static err_t split(const char *words, struct net_card *out, struct error *e)
{
    size_t len = strcspn(words, ":");
    const char *digits = words + len + (words[len] == ':');
    *out = (struct net_card){.nic = (unsigned)strtoul(digits, NULL, 10), .chosen = *digits};
    bool right = words[len] == '\0' || (digits[0] >= '0' && digits[0] <= '9' && !digits[1]);
    snprintf(out->vm, sizeof out->vm, "%.*s", (int)(len < sizeof out->vm ? len : 0), words);
    if (right && network_name_valid(out->vm))
        return OK;
    return error_set(e, ERR_INVALID, "'%.70s' is no VM's card; give VM, or VM:1 for its second one",
                     words);
}

static err_t read_card(const json_t *info, struct net_card *card, struct error *e)
{
    const json_t *nics = json_object_get(info, "nics"), *nic = json_array_get(nics, card->nic);
    const char *network = json_string_value(json_object_get(nic, "network"));
    const char *mac = json_string_value(json_object_get(nic, "mac"));
    if (!json_is_object(nic))
        return error_set(e, ERR_NOT_FOUND,
                         "'%s' has no network card %u, they are counted from 0; berth net connect "
                         "%s NETWORK plugs in one more",
                         card->vm, card->nic, card->vm);
    snprintf(card->network, sizeof card->network, "%s", network ? network : "");
    for (int i = 0; mac && i < NET_MAC_BYTES && strlen(mac) == 17; i++)
        card->mac[i] = (uint8_t)strtoul(mac + 3 * i, NULL, 16);
    return OK;
}

// The card that words mean, or with free the one to connect: the first one in no network, or else
// the number of a new one.
static void choose_free(const json_t *nics, struct net_card *card)
{
    unsigned i = 0;
    const json_t *nic;
    for (; (nic = json_array_get(nics, i)); i++) {
        if (json_is_object(nic) && !json_is_string(json_object_get(nic, "network")))
            break;
    }
    for (i = nic ? i : 0; !nic && json_is_object(json_array_get(nics, i));)
        i++;
    card->nic = i;
    card->new = !nic;
}

static err_t find(const char *words, bool free, struct net_card *out, struct error *e)
{
    json_t *info = NULL;
    err_t err = split(words, out, e);
    if (!err)
        err = vm_ask(out->vm, "info", NULL, -1, &info, e);
    if (!err && free && !out->chosen)
        choose_free(json_object_get(info, "nics"), out);
    if (!err && !out->new)
        err = read_card(info, out, e);
    json_decref(info);
    return err;
}

err_t net_card_find(const char *words, struct net_card *out, struct error *e)
{
    return find(words, false, out, e);
}

err_t net_card_plugged(const char *words, struct net_card *out, struct error *e)
{
    err_t err = net_card_find(words, out, e);
    if (err || out->network[0])
        return err;
    return error_set(e, ERR_UNSUPPORTED,
                     "card %u of '%s' is in no network; berth net connect %s NETWORK plugs it in",
                     out->nic, out->vm, words);
}

json_t *net_card_json(const struct net_card *card)
{
    return json_pack("{s:s, s:i}", "vm", card->vm, "nic", (int)card->nic);
}

// --- connect, disconnect

static err_t unplug(const struct net_card *card, struct error *e)
{
    json_t *result = NULL;
    err_t err =
        vm_ask(card->vm, "unplug", json_pack("{s:i}", "nic", (int)card->nic), -1, &result, e);
    json_decref(result);
    return err;
}

// What the VM is asked to do with the port.
static json_t *plug_arguments(const struct net_card *card, const char *network, const json_t *port)
{
    json_t *args = json_pack("{s:i, s:s}", "nic", (int)card->nic, "network", network);
    if (card->new)
        json_object_set(args, "mac", json_object_get(port, "mac"));
    return args;
}

err_t net_connect(struct net_args *a, struct error *e)
{
    const char *network = a->words[1];
    struct net_card card;
    json_t *port = NULL, *result = NULL;
    int fd = -1;
    err_t err = find(a->words[0], true, &card, e);
    if (!err && card.network[0])
        err = unplug(&card, e);
    struct plug_request request = {
        .network = network, .vm = card.vm, .nic = card.nic, .rings = true};
    memcpy(request.mac, card.mac, sizeof request.mac);
    if (!err)
        err = network_plug(&request, &fd, &port, e);
    if (!err)
        err = vm_ask(card.vm, card.new ? "nic-add" : "plug", plug_arguments(&card, network, port),
                     fd, &result, e);
    if (fd >= 0)
        close(fd);
    if (err) {
        json_decref(port);
        return err;
    }
    const char *address = json_string_value(json_object_get(port, "address"));
    bool waits = json_is_false(json_object_get(result, "heard"));
    json_object_set_new(port, "nic", json_integer(card.nic));
    json_object_set_new(port, "new", json_boolean(card.new));
    json_decref(result);
    net_tell(a, port, "%s%s is in the network %s, with the address %s%s",
             card.new ? "a new card of " : "", a->words[0], network, address ? address : "?",
             waits ? "; its guest sees the card when it starts anew" : "");
    return OK;
}

static err_t remove_card(struct net_args *a, struct error *e)
{
    struct net_card card;
    json_t *result = NULL;
    err_t err = net_card_find(a->words[0], &card, e);
    if (!err)
        err =
            vm_ask(card.vm, "nic-remove", json_pack("{s:i}", "nic", (int)card.nic), -1, &result, e);
    if (!err)
        net_tell(a, net_card_json(&card), "card %u of %s goes %s", card.nic, card.vm,
                 json_is_true(json_object_get(result, "heard")) ? "once its guest has let go of it"
                                                                : "when its guest starts anew");
    json_decref(result);
    return err;
}

err_t net_disconnect(struct net_args *a, struct error *e)
{
    struct net_card card;
    if (a->remove)
        return remove_card(a, e);
    err_t err = net_card_plugged(a->words[0], &card, e);
    if (!err)
        err = unplug(&card, e);
    if (!err)
        net_tell(a, net_card_json(&card), "%s is no longer in the network %s", a->words[0],
                 card.network);
    return err;
}

// --- policy, limit

static err_t set(const struct net_card *card, json_t *args, json_t **port, struct error *e)
{
    json_t *result = NULL;
    err_t err = net_ask(card->network, "set", args, &result, NULL, e);
    *port = json_incref(json_object_get(result, "port"));
    json_decref(result);
    return err;
}

err_t net_policy(struct net_args *a, struct error *e)
{
    struct net_card card;
    json_t *port = NULL;
    err_t err = net_card_plugged(a->words[0], &card, e);
    if (err)
        return err;
    json_t *args = net_card_json(&card);
    if (a->count == 2)
        json_object_set_new(args, "policy", json_string(a->words[1]));
    err = set(&card, args, &port, e);
    if (err)
        return err;
    const char *policy = json_string_value(json_object_get(port, "policy"));
    if (!policy)
        policy = "nothing leaves this network";
    else if (!*policy)
        policy = "open";
    json_t *shown =
        json_pack("{s:s, s:i, s:s}", "vm", card.vm, "nic", (int)card.nic, "policy", policy);
    net_tell(a, shown, "%s: %s", a->words[0], policy);
    json_decref(port);
    return OK;
}

err_t net_limit(struct net_args *a, struct error *e)
{
    struct net_card card;
    json_t *port = NULL;
    char in[32], out[32];
    err_t err = net_card_plugged(a->words[0], &card, e);
    if (err)
        return err;
    json_t *args = net_card_json(&card);
    if (a->has_in)
        json_object_set_new(args, "limit_in", json_integer((json_int_t)a->in));
    if (a->has_out)
        json_object_set_new(args, "limit_out", json_integer((json_int_t)a->out));
    if (a->has_priority)
        json_object_set_new(args, "priority", json_integer(a->priority));
    err = set(&card, args, &port, e);
    if (err)
        return err;
    network_rate_text((uint64_t)json_integer_value(json_object_get(port, "limit_in")), in,
                      sizeof in);
    network_rate_text((uint64_t)json_integer_value(json_object_get(port, "limit_out")), out,
                      sizeof out);
    long long priority = (long long)json_integer_value(json_object_get(port, "priority"));
    net_tell(a, port, "%s: in %s, out %s, priority %lld", a->words[0], in, out, priority);
    return OK;
}

// --- capture

static err_t open_output(const char *file, int *fd, struct error *e)
{
    *fd = STDOUT_FILENO;
    if (!file && isatty(*fd))
        return error_set(e, ERR_INVALID,
                         "a capture is not for a terminal; give -w FILE, or | tcpdump -nr -");
    if (file)
        *fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    return *fd >= 0 ? OK
                    : error_set(e, err_from_errno(errno), "cannot write '%s': %s", file,
                                strerror(errno));
}

// A header, then records, one a message.
static err_t copy(int from, int to, const char *file, struct error *e)
{
    uint8_t message[NET_PACKET_MAX + 64];
    for (;;) {
        ssize_t n = recv(from, message, sizeof message, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return OK;
        if (host_write_all(to, message, (size_t)n))
            return file ? error_set(e, ERR_IO, "cannot write '%s': %s", file, strerror(errno)) : OK;
    }
}

err_t net_capture(struct net_args *a, struct error *e)
{
    json_t *args = NULL, *result = NULL;
    struct net_card card;
    int to = -1, from = -1;
    err_t err = open_output(a->file, &to, e);
    if (!err && a->vm)
        err = split(a->vm, &card, e);
    if (err)
        return err;
    if (a->vm)
        args = net_card_json(&card);
    err = net_ask(a->words[0], "capture", args, &result, &from, e);
    if (!err && from < 0)
        err = error_set(e, ERR_CORRUPT, "the network '%s' gave no capture", a->words[0]);
    json_decref(result);
    if (!err)
        err = copy(from, to, a->file, e);
    if (from >= 0)
        close(from);
    if (a->file)
        close(to);
    return err;
}
