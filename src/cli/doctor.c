// berth doctor: what of Berth works on this host, which layers keep a VM's process apart, and what
// to do about those that do not. For a running VM it looks at the process itself, from outside:
// namespaces(7), proc(5). Landlock leaves no trace there; that it is in use is the VM's own word.
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "control/registry.h"
#include "engine/engine.h"
#include "host/cage.h"
#include "host/memory.h"
#include "host/program.h"
#include "host/sandbox.h"
#include "host/uring.h"
#include "machine/vm.h"

const char doctor_help[] =
    "usage: berth doctor [--json] [VM]\n"
    "\n"
    "Looks at what Berth needs of this host, and says of each thing whether it is there, why it "
    "is\n"
    "not, and what to do about it. With the name of a running VM: which layers keep that VM's\n"
    "process apart from the rest of the host.\n"
    "\n"
    "Exit status: 0 VMs can run here (the VM is kept apart by every layer that the host has),\n"
    "1 something is missing, 2 wrong usage.\n";

enum state {
    GOOD,
    LESS, // works without it, but not as well
    BAD,
};

#define FINDINGS_MAX 32

struct finding {
    const char *name;
    enum state state;
    char detail[240];
    char fix[240];
};

struct report {
    struct finding finding[FINDINGS_MAX];
    unsigned count;
};

static struct finding *add(struct report *report, const char *name, enum state state,
                           const char *detail)
{
    struct finding *f = &report->finding[report->count++];
    *f = (struct finding){.name = name, .state = state};
    snprintf(f->detail, sizeof f->detail, "%s", detail);
    return f;
}

static void fix(struct finding *f, const char *words)
{
    if (f->state != GOOD)
        snprintf(f->fix, sizeof f->fix, "%s", words);
}

// --- the host

static void look_at_engines(struct report *report)
{
    for (int i = 0; engines[i]; i++) {
        struct engine_probe probe = {0};
        engines[i]->probe(0, true, &probe);
        bool last = !engines[i + 1]; // what there is when nothing else is
        fix(add(report, engines[i]->name,
                probe.usable ? GOOD
                : last       ? BAD
                             : LESS,
                probe.usable ? "guests can run by it" : probe.why),
            probe.fix);
    }
}

static void look_at_layers(struct report *report)
{
    struct sandbox_layer layers[SANDBOX_LAYERS];
    sandbox_probe(layers);
    for (unsigned i = 0; i < SANDBOX_LAYERS; i++) {
        bool needed = i == SANDBOX_SECCOMP || i == SANDBOX_NO_NEW_PRIVS;
        fix(add(report, layers[i].name,
                layers[i].usable ? GOOD
                : needed         ? BAD
                                 : LESS,
                layers[i].detail),
            layers[i].fix);
    }
}

static void look_at_programs(struct report *report)
{
    static const char *const programs[] = {"berth-vmm", "berth-switch", "berth-vhost"};
    for (size_t i = 0; i < ARRAY_LEN(programs); i++) {
        char path[4096];
        struct error e = {0};
        bool there = host_find_program(programs[i], path, sizeof path, &e) == OK;
        add(report, programs[i], there ? GOOD : BAD, there ? path : e.text);
    }
}

static void look_at_firmware(struct report *report)
{
    static const struct {
        const char *name, *firmware, *package;
    } images[] = {{"SeaBIOS", "bios", "seabios"}, {"OVMF", "uefi", "ovmf"}};
    for (size_t i = 0; i < ARRAY_LEN(images); i++) {
        char words[160];
        const char *path = vm_firmware_path(images[i].firmware);
        bool there = access(path, R_OK) == 0;
        struct finding *f = add(report, images[i].name, there ? GOOD : LESS, path);
        if (!there)
            snprintf(f->detail, sizeof f->detail, "cannot read %s: %s", path, strerror(errno));
        snprintf(words, sizeof words, "install the package %s, or give --firmware a file",
                 images[i].package);
        fix(f, words);
    }
}

static void look_at_host(struct report *report)
{
    struct error e = {0};
    struct host_memory memory;
    char words[120];
    bool uring = uring_probe(&e) == OK;
    add(report, "io_uring", uring ? GOOD : LESS, uring ? "disks use it" : e.text);
    bool cages = cages_probe(&e) == OK;
    add(report, "direct execution", cages ? GOOD : LESS,
        cages ? "programs of translated guests that compute run on the CPU itself" : e.text);
    bool tun = access("/dev/net/tun", R_OK | W_OK) == 0;
    fix(add(report, "tap devices", tun ? GOOD : LESS,
            tun ? "/dev/net/tun can be opened" : "/dev/net/tun is not there, or not ours to open"),
        "only --net tap and its like need it; virtual networks do not");
    host_memory_read(&memory);
    snprintf(words, sizeof words, "%llu MiB of %llu MiB are available", memory.available / MIB,
             memory.total / MIB);
    fix(add(report, "memory", memory.available >= 512 * MIB ? GOOD : LESS, words),
        "a Debian guest wants 512 MiB or more; end what is not needed");
}

static void look_at_names(struct report *report)
{
    struct registry_claim claim;
    struct error e = {0};
    bool done = registry_claim(REGISTRY_VM, "doctor.looks", &claim, &e) == OK;
    if (done)
        registry_release(&claim);
    fix(add(report, "runtime folder", done ? GOOD : BAD,
            done ? "VMs' sockets can be made" : e.text),
        "set XDG_RUNTIME_DIR to a folder of your own");
}

// --- a VM

static bool same_namespace(int pid, const char *kind)
{
    char path[64], ours[64] = "", theirs[64] = "";
    snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, kind);
    ssize_t n = readlink(path, theirs, sizeof theirs - 1);
    snprintf(path, sizeof path, "/proc/self/ns/%s", kind);
    return n < 0 || readlink(path, ours, sizeof ours - 1) < 0 || !strcmp(ours, theirs);
}

static void look_at_namespaces(struct report *report, int pid)
{
    static const struct {
        const char *kind, *name, *lack;
    } kinds[] = {
        {"user", "own users", "the host refused; berth doctor says why"},
        {"mnt", "own mounts", "the host refused"},
        {"net", "own network", "the host refused"},
        {"ipc", "own IPC", "the host refused"},
        {"uts", "own host name", "the host refused"},
        {"cgroup", "own control groups", "the host refused"},
        {"pid", "own processes", "the host refused, or the VM's console is on a terminal"},
    };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        bool shared = same_namespace(pid, kinds[i].kind);
        add(report, kinds[i].name, shared ? LESS : GOOD, shared ? kinds[i].lack : "");
    }
}

static void look_at_root(struct report *report, int pid)
{
    char path[64];
    unsigned entries = 0;
    snprintf(path, sizeof path, "/proc/%d/root/", pid);
    DIR *folder = opendir(path);
    for (struct dirent *d; folder && (d = readdir(folder));)
        entries += strcmp(d->d_name, ".") && strcmp(d->d_name, "..");
    bool empty = folder && !entries;
    if (folder)
        closedir(folder);
    add(report, "empty root", empty ? GOOD : LESS,
        empty    ? ""
        : folder ? "it has the host's files before it, which Landlock and seccomp keep from it"
                 : "cannot be seen from here");
}

// A number of /proc/PID/status; ~0: not there.
static unsigned long long status_field(const char *status, const char *name, int base)
{
    const char *at = strstr(status, name);
    return at ? strtoull(at + strlen(name), NULL, base) : ~0ull;
}

static void look_at_status(struct report *report, int pid)
{
    char path[64], status[4096] = "";
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "re");
    if (f) {
        status[fread(status, 1, sizeof status - 1, f)] = '\0';
        fclose(f);
    }
    bool filtered = status_field(status, "\nSeccomp:", 10) == 2;
    add(report, "seccomp", filtered ? GOOD : BAD, filtered ? "" : "no filter is installed");
    bool no_new = status_field(status, "\nNoNewPrivs:", 10) == 1;
    add(report, "no_new_privs", no_new ? GOOD : BAD, "");
    bool bare =
        status_field(status, "\nCapEff:", 16) == 0 && status_field(status, "\nCapPrm:", 16) == 0;
    add(report, "no capabilities", bare ? GOOD : BAD, "");
}

static int look_at_vm(struct report *report, const struct verb *verb)
{
    json_t *info;
    int status = verb_ask(verb, "info", NULL, &info);
    if (status)
        return status;
    int pid = (int)json_integer_value(json_object_get(info, "pid"));
    json_decref(info);
    look_at_status(report, pid);
    look_at_namespaces(report, pid);
    look_at_root(report, pid);
    return EXIT_OK;
}

// --- telling

static int worst(const struct report *report)
{
    for (unsigned i = 0; i < report->count; i++)
        if (report->finding[i].state == BAD)
            return EXIT_GUEST;
    return EXIT_OK;
}

static int show(const struct report *report)
{
    static const char *const marks[] = {[GOOD] = "ok", [LESS] = "--", [BAD] = "NO"};
    for (unsigned i = 0; i < report->count; i++) {
        const struct finding *f = &report->finding[i];
        printf("%s  %-18s %s\n", marks[f->state], f->name, f->detail);
        if (f->fix[0])
            printf("    %-18s to fix: %s\n", "", f->fix);
    }
    return worst(report);
}

static int show_json(const struct report *report)
{
    static const char *const words[] = {[GOOD] = "ok", [LESS] = "missing", [BAD] = "broken"};
    json_t *array = json_array();
    for (unsigned i = 0; i < report->count; i++) {
        const struct finding *f = &report->finding[i];
        json_array_append_new(array,
                              json_pack("{s:s, s:s, s:s, s:s}", "name", f->name, "state",
                                        words[f->state], "detail", f->detail, "fix", f->fix));
    }
    int status = print_json(array);
    return status ? status : worst(report);
}

int cmd_doctor(int argc, char **argv)
{
    struct report report = {0};
    struct verb verb = {.json = argc == 2 && !strcmp(argv[1], "--json")};
    bool host = argc == 1 || verb.json;
    int status = host ? EXIT_OK : verb_parse(argc, argv, "", &verb);
    if (!status && !host)
        status = look_at_vm(&report, &verb);
    if (status)
        return status;
    if (host) {
        look_at_programs(&report);
        look_at_engines(&report);
        look_at_layers(&report);
        look_at_firmware(&report);
        look_at_host(&report);
        look_at_names(&report);
    }
    return verb.json ? show_json(&report) : show(&report);
}
