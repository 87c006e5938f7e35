// berth net: virtual networks, and how VMs are plugged into them. Here: the table of its verbs and
// their options.
#include "cli/net.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

const char net_help[] =
    "usage: berth net create [OPTION...] NETWORK\n"
    "       berth net ls\n"
    "       berth net info NETWORK\n"
    "       berth net stop [--force] NETWORK\n"
    "       berth net rm [--force] NETWORK\n"
    "       berth net connect VM[:CARD] NETWORK\n"
    "       berth net disconnect [--remove] VM[:CARD]\n"
    "       berth net policy VM[:CARD] [POLICY]\n"
    "       berth net limit [--in RATE] [--out RATE] [--priority N] VM[:CARD]\n"
    "       berth net capture [--vm VM[:CARD]] [-w FILE] NETWORK\n"
    "       berth net vhost NETWORK NAME SOCKET\n"
    "\n"
    "Makes and shows virtual networks, which VMs join with berth run --net NETWORK, and changes\n"
    "how running VMs are plugged into them. CARD is the number of a network card, from 0. The\n"
    "network 'default' is always there. All take --json.\n"
    "\n"
    "create:\n"
    "      --kind KIND      nat: VMs reach each other, the host and the outside (nat);\n"
    "                       host: each other and the host; private: each other\n"
    "      --subnet NET     IPv4 addresses, as 10.5.6.0/24 (follow from the name)\n"
    "      --subnet6 NET    IPv6 addresses, as fd00:1:2:3::/64, or none (follow from the name)\n"
    "      --mtu N          1280 to 9000 (1500)\n"
    "      --isolated       VMs reach the gateway, not each other\n"
    "      --trusting       VMs may use any address\n"
    "      --idle SECONDS   without a VM for so long, the network's process ends; 0: never (60)\n"
    "      --in, --out RATE limits of each VM, in bits a second: 10M, 1G (none)\n"
    "      --policy POLICY  where each VM may connect to (open)\n"
    "\n"
    "connect: without CARD, the first card that is in no network, or else a new one, which is\n"
    "        plugged in while the VM runs. disconnect --remove takes a card out of the VM.\n"
    "policy: shows or changes where a VM may connect to: open, none, or rules like\n"
    "        'allow deb.debian.org:443; allow 10.0.0.0/8/tcp; deny all'. See berth-net(1).\n"
    "limit:  what a VM gets (--in) and sends (--out) at most; none: no limit. A higher priority,\n"
    "        0 to 7, has a larger share of a busy network.\n"
    "capture: writes packets as pcap, for tcpdump -r - or Wireshark, until it is interrupted.\n"
    "vhost:  a VM of QEMU, or of another program that speaks vhost-user, joins the network as "
    "NAME\n"
    "        through SOCKET, until it is interrupted.\n";

enum {
    OPT_KIND = 256,
    OPT_SUBNET,
    OPT_SUBNET6,
    OPT_MTU,
    OPT_ISOLATED,
    OPT_TRUSTING,
    OPT_IDLE,
    OPT_IN,
    OPT_OUT,
    OPT_POLICY,
    OPT_PRIORITY,
    OPT_FORCE,
    OPT_REMOVE,
    OPT_VM,
    OPT_JSON
};

static const struct option options[] = {
    {"kind", required_argument, NULL, OPT_KIND},
    {"subnet", required_argument, NULL, OPT_SUBNET},
    {"subnet6", required_argument, NULL, OPT_SUBNET6},
    {"mtu", required_argument, NULL, OPT_MTU},
    {"isolated", no_argument, NULL, OPT_ISOLATED},
    {"trusting", no_argument, NULL, OPT_TRUSTING},
    {"idle", required_argument, NULL, OPT_IDLE},
    {"in", required_argument, NULL, OPT_IN},
    {"out", required_argument, NULL, OPT_OUT},
    {"policy", required_argument, NULL, OPT_POLICY},
    {"priority", required_argument, NULL, OPT_PRIORITY},
    {"force", no_argument, NULL, OPT_FORCE},
    {"remove", no_argument, NULL, OPT_REMOVE},
    {"vm", required_argument, NULL, OPT_VM},
    {"write", required_argument, NULL, 'w'},
    {"json", no_argument, NULL, OPT_JSON},
    {0},
};

#define OF_CREATE 1u
#define OF_LIMIT 2u
#define OF_RM 4u
#define OF_CAPTURE 8u
#define OF_DISCONNECT 16u

// Which verbs take an option.
static unsigned belongs_to(int id)
{
    switch (id) {
    case OPT_JSON: return ~0u;
    case OPT_IN:
    case OPT_OUT: return OF_CREATE | OF_LIMIT;
    case OPT_PRIORITY: return OF_LIMIT;
    case OPT_FORCE: return OF_RM;
    case OPT_REMOVE: return OF_DISCONNECT;
    case OPT_VM:
    case 'w': return OF_CAPTURE;
    default: return OF_CREATE;
    }
}

static const struct net_verb {
    const char *name;
    unsigned takes;    // options
    unsigned min, max; // other words
    const char *words;
    err_t (*run)(struct net_args *a, struct error *e);
} verbs[] = {
    {"create", OF_CREATE, 1, 1, "a name", net_create},
    {"ls", 0, 0, 0, "no words", net_ls},
    {"info", 0, 1, 1, "a network", net_info},
    {"stop", OF_RM, 1, 1, "a network", net_stop},
    {"rm", OF_RM, 1, 1, "a network", net_rm},
    {"connect", 0, 2, 2, "a VM and a network", net_connect},
    {"disconnect", OF_DISCONNECT, 1, 1, "a VM", net_disconnect},
    {"policy", 0, 1, 2, "a VM and perhaps a policy, in quotes", net_policy},
    {"limit", OF_LIMIT, 1, 1, "a VM", net_limit},
    {"capture", OF_CAPTURE, 1, 1, "a network", net_capture},
    {"vhost", 0, 3, 3, "a network, a name and a path for a socket", net_vhost},
};

static err_t number(const char *option, const char *value, uint32_t max, uint32_t *out,
                    struct error *e)
{
    char *end;
    unsigned long n = strtoul(value, &end, 10);
    *out = (uint32_t)n;
    if (value[0] >= '0' && value[0] <= '9' && !*end && n <= max)
        return OK;
    return error_set(e, ERR_INVALID, "--%s: '%.40s' is no number up to %u", option, value, max);
}

static err_t take(struct net_args *a, int id, const char *value, struct error *e)
{
    switch (id) {
    case OPT_KIND: a->kind = value; return OK;
    case OPT_SUBNET: a->subnet = value; return OK;
    case OPT_SUBNET6: a->subnet6 = value; return OK;
    case OPT_ISOLATED: a->isolated = true; return OK;
    case OPT_TRUSTING: a->trusting = true; return OK;
    case OPT_POLICY: a->policy = value; return OK;
    case OPT_FORCE: a->force = true; return OK;
    case OPT_REMOVE: a->remove = true; return OK;
    case OPT_VM: a->vm = value; return OK;
    case 'w': a->file = value; return OK;
    case OPT_JSON: a->json = true; return OK;
    case OPT_MTU: a->has_mtu = true; return number("mtu", value, NETWORK_MTU_MAX, &a->mtu, e);
    case OPT_IDLE: a->has_idle = true; return number("idle", value, NETWORK_IDLE_MAX, &a->idle, e);
    case OPT_PRIORITY: a->has_priority = true; return number("priority", value, 7, &a->priority, e);
    case OPT_IN: a->has_in = true; return network_rate_parse(value, &a->in, e);
    case OPT_OUT: a->has_out = true; return network_rate_parse(value, &a->out, e);
    default: return ERR_INVALID;
    }
}

static err_t parse(const struct net_verb *v, int argc, char **argv, struct net_args *a,
                   struct error *e)
{
    optind = 0;
    opterr = 0;
    for (int id; (id = getopt_long(argc, argv, ":w:", options, NULL)) != -1;) {
        if (id == ':')
            return error_set(e, ERR_INVALID, "'%s' needs a value; see berth net --help",
                             argv[optind - 1]);
        if (id == '?' || !(id == OPT_JSON || belongs_to(id) & v->takes))
            return error_set(e, ERR_INVALID, "'%s' is no option of net %s; see berth net --help",
                             argv[optind - 1], v->name);
        err_t err = take(a, id, optarg, e);
        if (err)
            return err;
    }
    a->count = (unsigned)(argc - optind);
    if (a->count < v->min || a->count > v->max)
        return error_set(e, ERR_INVALID, "net %s needs %s; see berth net --help", v->name,
                         v->words);
    memcpy(a->words, argv + optind, a->count * sizeof *a->words);
    return OK;
}

int cmd_net(int argc, char **argv)
{
    struct error e = {0};
    if (argc < 2)
        return complain(EXIT_USAGE, "say what to do with which network; see berth net --help");
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        if (strcmp(argv[1], verbs[i].name) != 0)
            continue;
        if (argc >= 3 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h"))) {
            fputs(net_help, stdout);
            return EXIT_OK;
        }
        struct net_args a = {0};
        err_t err = parse(&verbs[i], argc - 1, argv + 1, &a, &e);
        if (!err)
            err = verbs[i].run(&a, &e);
        return err ? complain(status_of(err), "%s", e.text) : EXIT_OK;
    }
    return complain(EXIT_USAGE, "net does not know '%s'; see berth net --help", argv[1]);
}
