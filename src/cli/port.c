// berth port: ports of the host that lead to VMs, changed while they run.
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/net.h"
#include "net/forward.h"

const char port_help[] =
    "usage: berth port add [--json] VM[:CARD] [ADDRESS:]HOST:GUEST[/tcp|/udp]\n"
    "       berth port ls [--json] [VM]\n"
    "       berth port rm [--json] [ADDRESS:]HOST[:GUEST][/tcp|/udp]\n"
    "\n"
    "Lets a port of this host lead to one of a running VM: after berth port add web 8080:80, what\n"
    "connects to 127.0.0.1:8080 reaches the VM's port 80. With an ADDRESS of this host, or "
    "0.0.0.0\n"
    "for all, others can connect, too. They end with the VM; berth run -p makes them with it.\n";

static err_t add(struct net_args *a, struct error *e)
{
    struct net_card card;
    struct forward forward;
    json_t *result = NULL;
    err_t err = forward_parse(a->words[1], &forward, e);
    if (!err)
        err = net_card_plugged(a->words[0], &card, e);
    if (err)
        return err;
    json_t *args = net_card_json(&card);
    json_object_set_new(args, "forward", json_string(a->words[1]));
    err = net_ask(card.network, "forward", args, &result, NULL, e);
    if (err)
        return err;
    char text[FORWARD_TEXT];
    forward_format(&forward, text);
    net_tell(a, result, "%s leads to %s", text, a->words[0]);
    return OK;
}

// --- over all networks

struct search {
    const char *vm; // ls: of this one only; NULL: all
    const char *forward;
    json_t *found;
    bool done;
    struct error e;
};

static void list_port(struct search *s, const char *network, const json_t *port)
{
    const char *vm = json_string_value(json_object_get(port, "vm"));
    const json_t *forward;
    size_t i;
    if (!vm || (s->vm && strcmp(s->vm, vm) != 0))
        return;
    json_array_foreach(json_object_get(port, "forwards"), i, forward) json_array_append_new(
        s->found, json_pack("{s:s, s:O, s:s, s:O}", "vm", vm, "nic", json_object_get(port, "nic"),
                            "network", network, "forward", forward));
}

static void list_network(void *opaque, const char *name)
{
    json_t *info = NULL;
    const json_t *port;
    size_t i;
    struct error ignored;
    if (net_ask(name, "info", NULL, &info, NULL, &ignored))
        return;
    json_array_foreach(json_object_get(info, "ports"), i, port) list_port(opaque, name, port);
    json_decref(info);
}

static err_t ls(struct net_args *a, struct error *e)
{
    struct search s = {.vm = a->count ? a->words[0] : NULL, .found = json_array()};
    const json_t *one;
    size_t i;
    err_t err = registry_each(REGISTRY_NETWORK, list_network, &s, e);
    if (!err && a->json)
        return print_json(s.found) ? ERR_IO : OK;
    json_array_foreach(s.found, i, one)
        printf("%-28s %s:%lld\n", json_string_value(json_object_get(one, "forward")),
               json_string_value(json_object_get(one, "vm")),
               (long long)json_integer_value(json_object_get(one, "nic")));
    if (!err && !json_array_size(s.found))
        puts("no port leads to a VM; berth port add makes one");
    json_decref(s.found);
    return err;
}

static void remove_from(void *opaque, const char *name)
{
    struct search *s = opaque;
    json_t *result = NULL;
    struct error why;
    if (s->done)
        return;
    err_t err =
        net_ask(name, "unforward", json_pack("{s:s}", "forward", s->forward), &result, NULL, &why);
    json_decref(result);
    if (err != ERR_NOT_FOUND && err != ERR_UNSUPPORTED)
        s->e = why;
    s->done = !err;
}

static err_t rm(struct net_args *a, struct error *e)
{
    struct search s = {.forward = a->words[0]};
    err_t err = registry_each(REGISTRY_NETWORK, remove_from, &s, e);
    if (err)
        return err;
    if (!s.done && s.e.code)
        return error_set(e, s.e.code, "%s", s.e.text);
    if (!s.done)
        return error_set(e, ERR_NOT_FOUND, "'%.60s' leads to no VM; berth port ls shows what does",
                         a->words[0]);
    net_tell(a, json_pack("{s:s}", "removed", a->words[0]), "%s leads nowhere any more",
             a->words[0]);
    return OK;
}

static const struct {
    const char *name;
    unsigned min, max;
    const char *words;
    err_t (*run)(struct net_args *a, struct error *e);
} verbs[] = {
    {"add", 2, 2, "a VM, and HOST:GUEST", add},
    {"ls", 0, 1, "at most a VM", ls},
    {"rm", 1, 1, "a host's port", rm},
};

int cmd_port(int argc, char **argv)
{
    struct net_args a = {0};
    struct error e = {0};
    size_t v = 0;
    while (argc >= 2 && v < ARRAY_LEN(verbs) && strcmp(argv[1], verbs[v].name) != 0)
        v++;
    if (argc < 2 || v == ARRAY_LEN(verbs))
        return complain(EXIT_USAGE, "give berth port add, ls or rm; see berth port --help");
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            fputs(port_help, stdout);
            return EXIT_OK;
        }
        if (!strcmp(argv[i], "--json"))
            a.json = true;
        else if (argv[i][0] == '-' || a.count == ARRAY_LEN(a.words))
            return complain(EXIT_USAGE, "port %s does not know '%s'; see berth port --help",
                            argv[1], argv[i]);
        else
            a.words[a.count++] = argv[i];
    }
    if (a.count < verbs[v].min || a.count > verbs[v].max)
        return complain(EXIT_USAGE, "port %s needs %s; see berth port --help", argv[1],
                        verbs[v].words);
    err_t err = verbs[v].run(&a, &e);
    return err ? complain(status_of(err), "%s", e.text) : EXIT_OK;
}
