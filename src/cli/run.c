// berth run: options to a definition, a look at the files, a name that is free, then berth-vmm.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/agent_put.h"
#include "cli/cables.h"
#include "cli/cli.h"
#include "cli/keeper.h"
#include "cli/seed.h"
#include "control/registry.h"
#include "display/vnc.h"
#include "host/file.h"
#include "machine/config.h"
#include "net/forward.h"
#include "net/tap.h"

const char run_help[] =
    "usage: berth run [OPTION...] [IMAGE]\n"
    "\n"
    "Runs a virtual machine in the foreground: the operating system on a disk image (qcow2,\n"
    "raw) or an ISO, or a kernel. Ctrl-] leaves (and stops) it. SIGTERM asks the guest to shut\n"
    "down; a second one stops it.\n"
    "\n"
    "  -n, --name NAME       what to call the VM (after the image, else vm; with a number that\n"
    "                        is free)\n"
    "  -c, --cpus N          virtual CPUs, 1 to 64 (1)\n"
    "  -m, --memory SIZE     memory: 512 or 512M is MiB, 2G is GiB (1G with IMAGE, else 256M)\n"
    "      --cpu-limit AMOUNT  CPU time of the host: 50%, or 1.5 for one and a half CPUs (none)\n"
    "      --cpu-pin LIST    the host's CPUs that its vCPUs run on: 0-3,6, or each 0:2;1:3 (any)\n"
    "      --memory-huge     memory of the host's reserved huge pages only\n"
    "      --memory-merge    let the host merge equal pages with those of other VMs (KSM)\n"
    "      --kernel FILE     kernel to start: a bzImage, a vmlinux or a multiboot file\n"
    "      --initrd FILE     initial RAM disk for it\n"
    "      --append TEXT     its command line\n"
    "      --firmware NAME   bios, uefi, or none to start the kernel itself; NAME:FILE takes\n"
    "                        another image (auto: what the first disk that can be started needs)\n"
    "      --uefi-vars FILE  where UEFI keeps its variables (a file of the VM's own in\n"
    "                        ~/.local/share/berth)\n"
    "      --firmware-log WHERE  what firmware says while it works: file:PATH or pty (none)\n"
    "      --disk FILE[,...] a disk image; up to 16 times, tried in this order, after IMAGE.\n"
    "                        After the path, with commas:\n"
    "                        format=raw|qcow2, bus=virtio|ahci|nvme, serial=TEXT, read-only,\n"
    "                        snapshot, direct, and limits a second: bps=10M, iops=500,\n"
    "                        also bps-read=, iops-write=, bps-burst= and so on\n"
    "      --cdrom FILE      a CD-ROM drive (SATA) with this image in it, or none\n"
    "      --snapshot        drop at the end what the guest writes to any disk\n"
    "      --net NETWORK[,...] a network card, plugged into that network; up to 8 times. With\n"
    "                        commas: model=virtio|e1000, mac=, queues=1..4, and of its port\n"
    "                        policy=, in=10M, out=10M, vlan=, address=, isolated; or\n"
    "                        vhost-user:PATH, another program's back end; with the rights for it\n"
    "                        tap:NAME, bridge:NAME or macvtap:NAME, of the host; or none\n"
    "                        (default where firmware boots, else none)\n"
    "      --egress POLICY   where the guest may connect to beyond its networks: open, none, or\n"
    "                        rules, 'allow *.debian.org:443; deny all' (berth net --help)\n"
    "  -p, --publish HOST:GUEST  lead a port of the host's loopback to the guest: 8080:80,\n"
    "                        0.0.0.0:8080:80, 5353:53/udp\n"
    "      --cloud-init FILE user-data for the guest's cloud-init, on a seed disk\n"
    "      --ssh-key FILE    public keys for cloud-init to let in, likewise\n"
    "      --agent           put Berth's agent into the guest, for berth exec, shell and cp: into\n"
    "                        its initial RAM disk or, from disks, on the seed for cloud-init\n"
    "      --engine NAME     what runs the guest: auto, kvm or translate (auto); after kvm,\n"
    "                        irqchip=kernel|split|user: who keeps the interrupt controllers;\n"
    "                        after translate, code-cache=SIZE: for translated code, for each\n"
    "                        vCPU (256M, divided by the vCPUs), shared-code=SIZE: for what\n"
    "                        vCPUs share of it (256M),\n"
    "                        translation-cache=FILE: keep it from run to run (off),\n"
    "                        perf-map=FILE|none: name it for Linux's perf, by the\n"
    "                        guest kernel's System.map or kallsyms, direct=on|off|auto:\n"
    "                        run what programs compute on the CPU itself; after either,\n"
    "                        halt-poll=NS: how long at most an idle vCPU stays awake\n"
    "      --cpu MODEL       CPU model the guest sees; berth info lists them (host)\n"
    "      --serial WHERE    COM1: stdio, pty, file:PATH, none, or shared: berth console attaches\n"
    "                        to it (stdio; none with --json; shared with --keep)\n"
    "      --console WHERE   the virtio console, likewise (none)\n"
    "      --vga KIND        the display: std or none (std where firmware boots, else none)\n"
    "      --display WHERE   who sees it: vnc=unix:PATH, vnc=HOST:PORT,password-file=FILE or\n"
    "                        none (none)\n"
    "      --definition FILE take the VM from a file (docs/formats/vm-definition.md); options\n"
    "                        after it change it\n"
    "      --keep DIR        keep what the VM and its console say in logs there, and how it ended\n"
    "      --no-reboot       end when the guest resets\n"
    "      --no-vsock        no virtio sockets, and so no agent\n"
    "      --exit-device     let the guest end the VM with a status through port 0xf4\n"
    "      --json            tell events and the result as JSON lines on standard output\n"
    "      --debug LIST      force paths of the translator, for tests: some of interpret,\n"
    "                        tiny-tlb, tiny-cache, poll, flags-live, lockstep,\n"
    "                        any-kvm, dirty-bitmap, all-hot, slots-miss, copy-blocks,\n"
    "                        all-direct, open-pages\n"
    "\n"
    "Exit status: 0 the guest powered off, 1 the guest failed or was stopped, 2 wrong usage,\n"
    "3 the host failed; with --exit-device what the guest gave.\n";

enum option_id {
    OPT_KERNEL = 256,
    OPT_CPU_LIMIT,
    OPT_CPU_PIN,
    OPT_MEMORY_HUGE,
    OPT_MEMORY_MERGE,
    OPT_INITRD,
    OPT_APPEND,
    OPT_FIRMWARE,
    OPT_UEFI_VARS,
    OPT_FIRMWARE_LOG,
    OPT_DISK,
    OPT_CDROM,
    OPT_SNAPSHOT,
    OPT_NET,
    OPT_EGRESS,
    OPT_CLOUD_INIT,
    OPT_SSH_KEY,
    OPT_AGENT,
    OPT_ENGINE,
    OPT_CPU,
    OPT_SERIAL,
    OPT_CONSOLE,
    OPT_VGA,
    OPT_DISPLAY,
    OPT_NO_VSOCK,
    OPT_EXIT_DEVICE,
    OPT_NO_REBOOT,
    OPT_JSON,
    OPT_DEBUG,
    OPT_DEFINITION,
    OPT_KEEP,
};

#define NAMES_MAX 999
#define DEFINITION_MAX (1 * MIB)

static const struct option options[] = {
    {"name", required_argument, NULL, 'n'},
    {"cpus", required_argument, NULL, 'c'},
    {"memory", required_argument, NULL, 'm'},
    {"cpu-limit", required_argument, NULL, OPT_CPU_LIMIT},
    {"cpu-pin", required_argument, NULL, OPT_CPU_PIN},
    {"memory-huge", no_argument, NULL, OPT_MEMORY_HUGE},
    {"memory-merge", no_argument, NULL, OPT_MEMORY_MERGE},
    {"kernel", required_argument, NULL, OPT_KERNEL},
    {"initrd", required_argument, NULL, OPT_INITRD},
    {"append", required_argument, NULL, OPT_APPEND},
    {"firmware", required_argument, NULL, OPT_FIRMWARE},
    {"uefi-vars", required_argument, NULL, OPT_UEFI_VARS},
    {"firmware-log", required_argument, NULL, OPT_FIRMWARE_LOG},
    {"disk", required_argument, NULL, OPT_DISK},
    {"cdrom", required_argument, NULL, OPT_CDROM},
    {"snapshot", no_argument, NULL, OPT_SNAPSHOT},
    {"net", required_argument, NULL, OPT_NET},
    {"egress", required_argument, NULL, OPT_EGRESS},
    {"publish", required_argument, NULL, 'p'},
    {"cloud-init", required_argument, NULL, OPT_CLOUD_INIT},
    {"ssh-key", required_argument, NULL, OPT_SSH_KEY},
    {"agent", no_argument, NULL, OPT_AGENT},
    {"engine", required_argument, NULL, OPT_ENGINE},
    {"cpu", required_argument, NULL, OPT_CPU},
    {"serial", required_argument, NULL, OPT_SERIAL},
    {"console", required_argument, NULL, OPT_CONSOLE},
    {"vga", required_argument, NULL, OPT_VGA},
    {"display", required_argument, NULL, OPT_DISPLAY},
    {"no-vsock", no_argument, NULL, OPT_NO_VSOCK},
    {"exit-device", no_argument, NULL, OPT_EXIT_DEVICE},
    {"no-reboot", no_argument, NULL, OPT_NO_REBOOT},
    {"json", no_argument, NULL, OPT_JSON},
    {"debug", required_argument, NULL, OPT_DEBUG},
    {"definition", required_argument, NULL, OPT_DEFINITION},
    {"keep", required_argument, NULL, OPT_KEEP},
    {0},
};

static err_t parse_cpus(const char *text, uint32_t *out, struct error *e)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (errno || *end || text[0] < '0' || text[0] > '9' || n < 1 || n > VM_VCPUS_MAX)
        return error_set(e, ERR_INVALID, "'%.40s' is not a number of CPUs from 1 to %d; try -c 2",
                         text, VM_VCPUS_MAX);
    *out = (uint32_t)n;
    return OK;
}

// For all disks, wherever the option stands.
static void drop_writes(struct vm_config *config)
{
    for (uint32_t i = 0; i < config->disks; i++)
        config->disk[i].snapshot |= !config->disk[i].read_only;
}

static err_t take_net(struct vm_config *config, const char *value, struct run_given *given,
                      struct error *e)
{
    bool none = !strcmp(value, "none");
    if (given->net && (none || !config->nics))
        return error_set(e, ERR_INVALID, "--net none and other networks exclude each other");
    given->net = true;
    return none ? OK : vm_nic_parse(config, value, e);
}

static err_t take_forward(const char *value, struct run_given *given, struct error *e)
{
    struct forward forward;
    char text[FORWARD_TEXT];
    size_t used = strlen(given->forwards);
    err_t err = forward_parse(value, &forward, e);
    if (err)
        return err;
    if (used + sizeof text >= sizeof given->forwards)
        return error_set(e, ERR_INVALID, "too many ports are forwarded");
    forward_format(&forward, text);
    snprintf(given->forwards + used, sizeof given->forwards - used, "%s%s", used ? "," : "", text);
    return OK;
}

// For all cards that have no policy of their own.
static err_t settle_egress(struct vm_config *config, const struct run_given *given, struct error *e)
{
    err_t err = OK;
    for (uint32_t i = 0; !err && given->egress && i < config->nics; i++) {
        struct vm_nic *nic = &config->nic[i];
        if (nic->network && (vm_network_vhost(nic->network) || tap_named(nic->network)))
            return error_set(e, ERR_INVALID,
                             "--egress holds in virtual networks; it cannot keep anything from %s",
                             nic->network);
        if (!nic->policy)
            err = vm_config_set(&nic->policy, given->egress, e);
    }
    return err;
}

// Who says nothing about networks gets the default one where an operating system starts from a
// disk, and none with a bare kernel.
static err_t settle_networks(struct vm_config *config, const struct run_given *given,
                             struct error *e)
{
    bool boots = !config->kernel || (config->firmware && strcmp(config->firmware, "none") != 0);
    err_t err = OK;
    if (!given->net && (boots || given->forwards[0]))
        err = vm_nic_parse(config, "default", e);
    if (!err)
        err = settle_egress(config, given, e);
    if (err || !given->forwards[0])
        return err;
    if (!config->nics)
        return error_set(e, ERR_INVALID, "-p needs a network; leave out --net none");
    return vm_config_set(&config->nic[0].forwards, given->forwards, e);
}

static err_t take_definition(struct vm_config *config, const char *path, struct run_given *given,
                             struct error *e)
{
    struct host_file file;
    struct vm_config read;
    err_t err = host_file_read(path, DEFINITION_MAX, &file, e);
    if (err)
        return err;
    err = vm_config_load(&read, (const char *)file.data, file.len, e);
    host_file_release(&file);
    if (err)
        return error_in(e, "%s", path);
    vm_config_release(config);
    *config = read;
    given->name = given->memory = given->net = given->definition = true;
    given->agent = config->agent;
    given->serial = config->serial && strcmp(config->serial, "stdio") != 0;
    return OK;
}

static err_t take_option(struct vm_config *config, int id, char *value, struct run_given *given,
                         struct error *e)
{
    switch (id) {
    case 'n': given->name = true; return vm_config_set(&config->name, value, e);
    case 'c': return parse_cpus(value, &config->vcpus, e);
    case 'm': given->memory = true; return vm_memory_parse(value, &config->memory_bytes, e);
    case OPT_CPU_LIMIT: return vm_cpu_amount_parse(value, &config->cpu_limit, e);
    case OPT_CPU_PIN: return vm_config_set(&config->cpu_pin, value, e);
    case OPT_MEMORY_HUGE: config->memory_huge = true; return OK;
    case OPT_MEMORY_MERGE: config->memory_merge = true; return OK;
    case OPT_KERNEL: return vm_config_set(&config->kernel, value, e);
    case OPT_INITRD: return vm_config_set(&config->initrd, value, e);
    case OPT_APPEND: return vm_config_set(&config->append, value, e);
    case OPT_FIRMWARE: return vm_config_set(&config->firmware, value, e);
    case OPT_UEFI_VARS: return vm_config_set(&config->uefi_vars, value, e);
    case OPT_FIRMWARE_LOG: return vm_config_set(&config->firmware_log, value, e);
    case OPT_DISK: return vm_disk_parse(config, value, e);
    case OPT_CDROM: return vm_cdrom_parse(config, value, e);
    case OPT_SNAPSHOT: given->snapshot = true; return OK;
    case OPT_NET: return take_net(config, value, given, e);
    case OPT_EGRESS: given->egress = value; return OK;
    case 'p': return take_forward(value, given, e);
    case OPT_CLOUD_INIT: given->cloud_init = value; return OK;
    case OPT_SSH_KEY: given->ssh_key = value; return OK;
    case OPT_AGENT: given->agent = true; return OK;
    case OPT_NO_VSOCK: config->no_vsock = true; return OK;
    case OPT_ENGINE: return vm_config_set(&config->engine, value, e);
    case OPT_CPU: return vm_config_set(&config->cpu, value, e);
    case OPT_SERIAL: given->serial = true; return vm_config_set(&config->serial, value, e);
    case OPT_CONSOLE: return vm_config_set(&config->console, value, e);
    case OPT_VGA: return vm_config_set(&config->vga, value, e);
    case OPT_DISPLAY: return vm_config_set(&config->display, value, e);
    case OPT_EXIT_DEVICE: config->exit_device = true; return OK;
    case OPT_NO_REBOOT: config->no_reboot = true; return OK;
    case OPT_JSON: config->json = true; return OK;
    case OPT_DEBUG: return vm_debug_parse(value, &config->debug, e);
    case OPT_DEFINITION: return take_definition(config, value, given, e);
    case OPT_KEEP: given->keep = value; return OK;
    default: return ERR_INVALID;
    }
}

static err_t bad_option(char **argv, int id, struct error *e)
{
    const char *word = argv[optind - 1];
    if (id == ':')
        return error_set(e, ERR_INVALID, "option '%s' needs a value; see berth run --help", word);
    return error_set(e, ERR_INVALID, "there is no option '%s'; see berth run --help", word);
}

err_t run_parse_options(int argc, char **argv, struct vm_config *config, struct run_given *given,
                        struct error *e)
{
    optind = 0;
    opterr = 0;
    for (int id; (id = getopt_long(argc, argv, ":n:c:m:p:", options, NULL)) != -1;) {
        if (id == '?' || id == ':')
            return bad_option(argv, id, e);
        err_t err = take_option(config, id, optarg, given, e);
        if (err)
            return err;
    }
    if (optind + 1 < argc)
        return error_set(e, ERR_INVALID, "'%s' is one image too many; see berth run --help",
                         argv[optind + 1]);
    err_t err = optind < argc ? run_take_image(config, argv[optind], given, e) : OK;
    if (err)
        return err;
    config->json |= given->keep != NULL;
    if (config->json && !given->serial) {
        err = vm_config_set(&config->serial, given->keep ? "shared" : "none", e);
        if (err)
            return err;
    }
    if (given->snapshot)
        drop_writes(config);
    bool something = config->firmware ? vm_config_has_firmware(config) : config->disks > 0;
    if (!config->kernel && !something)
        return error_set(e, ERR_INVALID,
                         "nothing to start; give a disk image or an ISO, or --kernel a bzImage, "
                         "vmlinux or multiboot file");
    err = settle_networks(config, given, e);
    return err ? err : vm_config_check(config, e);
}

static err_t check_file(const char *what, const char *path, int mode, const char *hint,
                        struct error *e)
{
    struct stat st;
    const char *verb = mode & W_OK ? "write" : "read";
    if (stat(path, &st) < 0 || access(path, mode) < 0)
        return error_set(e, err_from_errno(errno), "cannot %s %s '%s': %s; %s", verb, what, path,
                         strerror(errno), hint);
    if (S_ISDIR(st.st_mode))
        return error_set(e, ERR_INVALID, "cannot %s %s '%s': it is a directory; %s", verb, what,
                         path, hint);
    return OK;
}

err_t run_check_files(const struct vm_config *config, struct error *e)
{
    err_t err = OK;
    if (config->kernel)
        err = check_file("kernel", config->kernel, R_OK,
                         "give --kernel a bzImage, vmlinux or multiboot file", e);
    if (!err && config->initrd)
        err = check_file("initrd", config->initrd, R_OK, "give --initrd a readable file", e);
    for (uint32_t i = 0; !err && i < config->disks; i++) {
        const struct vm_disk *disk = &config->disk[i];
        bool reads = disk->read_only || disk->snapshot;
        if (disk->path)
            err = check_file("disk", disk->path, reads ? R_OK : R_OK | W_OK,
                             reads ? "give a readable image"
                                   : "give --disk a writable image, or FILE,read-only",
                             e);
    }
    return err;
}

static bool on_terminal(const struct vm_config *config)
{
    return (config->serial && !strcmp(config->serial, "stdio")) ||
           (config->console && !strcmp(config->console, "stdio"));
}

// Somebody who gave no name gets the first of vm, vm2, vm3 ... that nobody has; or likewise after
// the image.
static err_t claim_name(struct vm_config *config, bool given, struct registry_claim *claim,
                        struct error *e)
{
    err_t err = registry_claim(REGISTRY_VM, config->name, claim, e);
    for (unsigned n = 2; err == ERR_BUSY && !given && n <= NAMES_MAX; n++) {
        char name[80];
        snprintf(name, sizeof name, "%.64s%u", config->name, n);
        err = registry_claim(REGISTRY_VM, name, claim, e);
    }
    return err ? err : vm_config_set(&config->name, claim->name, e);
}

static bool shown_by_vnc(const struct vm_config *config)
{
    return config->display && !strncmp(config->display, "vnc=", 4);
}

static bool is_shared(const char *spec)
{
    return spec && !strcmp(spec, "shared");
}

static err_t share_console(const struct registry_claim *claim, struct keeper *keeper,
                           struct error *e)
{
    int listener = -1;
    err_t err = registry_listen(claim, REGISTRY_CONSOLE, &listener, e);
    return err ? err : keeper_share(keeper, listener, e);
}

static err_t open_sockets(const struct vm_config *config, const struct registry_claim *claim,
                          struct vnc_address *vnc, struct run_sockets *out, struct error *e)
{
    *out = (struct run_sockets){-1, -1};
    *vnc = (struct vnc_address){0};
    err_t err = registry_listen(claim, REGISTRY_CONTROL, &out->control, e);
    if (!err && shown_by_vnc(config))
        err = vnc_parse(config->display + 4, vnc, e);
    if (!err && shown_by_vnc(config))
        err = vnc_listen(vnc, &out->vnc, e);
    return err;
}

static void close_sockets(const struct run_sockets *sockets, const struct vnc_address *vnc)
{
    if (sockets->control >= 0)
        close(sockets->control);
    if (sockets->vnc < 0)
        return;
    close(sockets->vnc);
    if (vnc->path[0])
        unlink(vnc->path);
}

static int run_claimed(struct vm_config *config, const struct registry_claim *claim,
                       struct keeper *keeper)
{
    struct error e = {0};
    char *definition = NULL;
    struct run_sockets sockets;
    struct vnc_address vnc;
    struct cables cables;
    cables_init(&cables, config);
    err_t err = open_sockets(config, claim, &vnc, &sockets, &e);
    if (!err && (is_shared(config->serial) || is_shared(config->console)))
        err = share_console(claim, keeper, &e);
    if (!err)
        err = cables_plug(&cables, &e);
    if (!err)
        keeper_ready(keeper);
    if (!err)
        err = vm_config_save(config, &definition, &e);
    bool asked = err == ERR_INVALID || err == ERR_NOT_FOUND; // for what there is not
    int status = err ? complain(asked ? EXIT_USAGE : EXIT_HOST, "%s", e.text)
                     : run_supervise(definition, on_terminal(config), &sockets, &cables, keeper);
    if (!err && status == EXIT_HOST)
        run_mend_disks(config);
    cables_release(&cables);
    free(definition);
    close_sockets(&sockets, &vnc);
    return status;
}

// What the manager has put into the folder for cloud-init.
static void find_kept_seed(struct run_given *given, char user_data[PATH_MAX],
                           char ssh_keys[PATH_MAX])
{
    snprintf(user_data, PATH_MAX, "%s/user-data", given->keep);
    snprintf(ssh_keys, PATH_MAX, "%s/ssh-keys", given->keep);
    if (!given->cloud_init && access(user_data, R_OK) == 0)
        given->cloud_init = user_data;
    if (!given->ssh_key && access(ssh_keys, R_OK) == 0)
        given->ssh_key = ssh_keys;
}

int cmd_run(int argc, char **argv)
{
    struct vm_config config;
    struct run_given given = {0};
    struct registry_claim claim = REGISTRY_NO_CLAIM;
    struct keeper keeper;
    struct error e = {0};
    char user_data[PATH_MAX], ssh_keys[PATH_MAX];
    keeper_init(&keeper);
    if (vm_config_init(&config, &e))
        return complain(EXIT_HOST, "%s", e.text);
    err_t err = run_parse_options(argc, argv, &config, &given, &e);
    if (!err && given.keep)
        err = keeper_keep(&keeper, given.keep, &e);
    if (!err)
        err = run_check_files(&config, &e);
    if (!err)
        err = claim_name(&config, given.name, &claim, &e);
    if (!err)
        err = run_keep_variables(&config, &given, &e);
    if (!err && given.keep)
        find_kept_seed(&given, user_data, ssh_keys);
    if (!err && given.agent)
        err = agent_put(&config, &claim, &e);
    if (!err && (given.cloud_init || given.ssh_key || (given.agent && !config.initrd)))
        err = seed_add(&config, &claim, given.cloud_init, given.ssh_key, given.agent, &e);
    bool host = err == ERR_NO_MEMORY || err == ERR_IO || err == ERR_UNSUPPORTED;
    int status = err ? complain(host ? EXIT_HOST : EXIT_USAGE, "%s", e.text)
                     : run_claimed(&config, &claim, &keeper);
    registry_release(&claim);
    keeper_release(&keeper); // whoever waits for that may use the name again
    vm_config_release(&config);
    return status;
}
