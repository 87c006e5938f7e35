// berth image: makes disks with an operating system on them. The work is a script's, which drives
// Debian's own tools; here its arguments are checked, so that it can trust every one of them.
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/agent_put.h"
#include "cli/cli.h"
#include "cli/seed.h"
#include "host/file.h"
#include "host/program.h"
#include "machine/config.h"

#define SIZE_MIN (1 * GIB)
#define PASSWORD_LETTERS 12

const char image_help[] =
    "usage: berth image import [--json] FILE [NAME]\n"
    "       berth image ls [--json]\n"
    "       berth image rm [--force] [--json] NAME...\n"
    "       berth image build-debian [OPTION...] OUT\n"
    "\n"
    "import copies a disk image (qcow2, raw) and keeps it under a name, from which berth create\n"
    "makes VMs at once; ls lists what is kept; rm removes images that no VM stands on.\n"
    "\n"
    "build-debian makes a disk image with Debian on it, from this host's Debian sources: ext4, "
    "systemd, a\n"
    "kernel, GRUB for BIOS and UEFI, a login on the serial line and on the screen, and an address\n"
    "by DHCP. Needs neither root nor loop devices, but Debian's tools; it says which are missing.\n"
    "\n"
    "      --size SIZE        of the disk, at least 1G (4G); the file takes only what is used\n"
    "      --packages LIST    more packages to install, separated by commas\n"
    "      --suite NAME       Debian's release (bookworm)\n"
    "      --kernel FLAVOUR   cloud (small, virtio disks) or generic (AHCI and all else) (cloud)\n"
    "      --hostname NAME    (debian)\n"
    "      --user NAME        who can log in; other than root may sudo (root)\n"
    "      --password TEXT    the password; without it and --ssh-key one is made and shown\n"
    "      --ssh-key FILE     public keys that may log in as that user; installs openssh-server\n"
    "      --firmware KIND    bios, uefi or both (both)\n"
    "      --format FORMAT    raw or qcow2 (qcow2 for a file OUT.qcow2, else raw)\n"
    "      --no-agent         without Berth's agent (berth exec, shell, cp)\n";

struct build {
    const char *out;
    uint64_t size;
    const char *packages, *suite, *kernel, *hostname, *user, *password, *key_file, *firmware;
    const char *format; // NULL: by the name of out
    bool no_agent;
    char made_password[PASSWORD_LETTERS + 1];
    struct host_file keys;
};

// --- checks

// First of a-z 0-9, then also what more has; at most max bytes.
static bool is_word(const char *text, const char *more, size_t max)
{
    size_t len = strlen(text);
    if (len < 1 || len > max || !isalnum((unsigned char)text[0]))
        return false;
    for (const char *p = text; *p; p++) {
        if (!islower((unsigned char)*p) && !isdigit((unsigned char)*p) && !strchr(more, *p))
            return false;
    }
    return true;
}

static err_t bad(const char *option, const char *value, const char *rule, struct error *e)
{
    return error_set(e, ERR_INVALID, "%s: '%.60s' does not do; %s", option, value, rule);
}

static bool is_password(const char *text)
{
    size_t len = strlen(text);
    for (const char *p = text; *p; p++) {
        if (iscntrl((unsigned char)*p))
            return false;
    }
    return len >= 1 && len <= 128;
}

static err_t check(const struct build *b, struct error *e)
{
    if (b->packages && !is_word(b->packages, "+-.,", 4096))
        return bad("--packages", b->packages, "give names of packages, separated by commas", e);
    if (!is_word(b->suite, "-", 40))
        return bad("--suite", b->suite, "give a release such as bookworm", e);
    if (strcmp(b->kernel, "cloud") && strcmp(b->kernel, "generic"))
        return bad("--kernel", b->kernel, "give cloud or generic", e);
    if (!is_word(b->hostname, "-", 63))
        return bad("--hostname", b->hostname, "use a-z, 0-9 and -", e);
    if (!is_word(b->user, "-_", 32))
        return bad("--user", b->user, "use a-z, 0-9, - and _", e);
    if (b->password && !is_password(b->password))
        return bad("--password", "...", "give 1 to 128 characters on one line", e);
    if (strcmp(b->firmware, "bios") && strcmp(b->firmware, "uefi") && strcmp(b->firmware, "both"))
        return bad("--firmware", b->firmware, "give bios, uefi or both", e);
    if (b->format && strcmp(b->format, "raw") && strcmp(b->format, "qcow2"))
        return bad("--format", b->format, "give raw or qcow2", e);
    if (access(b->out, F_OK) == 0)
        return error_set(e, ERR_EXISTS, "'%s' is there already; remove it, or give another name",
                         b->out);
    return OK;
}

// Letters and digits that are not mistaken for each other.
static err_t make_password(struct build *b, struct error *e)
{
    static const char letters[] = "abcdefghjkmnpqrstuvwxyz23456789";
    if (b->password || b->key_file)
        return OK;
    uint8_t random[PASSWORD_LETTERS];
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, random, sizeof random);
    if (fd >= 0)
        close(fd);
    if (n != sizeof random)
        return error_set(e, ERR_IO, "cannot make a password; give one with --password");
    for (int i = 0; i < PASSWORD_LETTERS; i++)
        b->made_password[i] = letters[random[i] % (sizeof letters - 1)];
    b->password = b->made_password;
    return OK;
}

// --- options

enum {
    OPT_SIZE = 256,
    OPT_PACKAGES,
    OPT_SUITE,
    OPT_KERNEL,
    OPT_HOSTNAME,
    OPT_USER,
    OPT_PASSWORD,
    OPT_SSH_KEY,
    OPT_FIRMWARE,
    OPT_FORMAT,
    OPT_NO_AGENT,
};

static const struct option options[] = {
    {"size", required_argument, NULL, OPT_SIZE},
    {"packages", required_argument, NULL, OPT_PACKAGES},
    {"suite", required_argument, NULL, OPT_SUITE},
    {"kernel", required_argument, NULL, OPT_KERNEL},
    {"hostname", required_argument, NULL, OPT_HOSTNAME},
    {"user", required_argument, NULL, OPT_USER},
    {"password", required_argument, NULL, OPT_PASSWORD},
    {"ssh-key", required_argument, NULL, OPT_SSH_KEY},
    {"firmware", required_argument, NULL, OPT_FIRMWARE},
    {"format", required_argument, NULL, OPT_FORMAT},
    {"no-agent", no_argument, NULL, OPT_NO_AGENT},
    {0},
};

static err_t parse_size(const char *text, uint64_t *out, struct error *e)
{
    err_t err = vm_memory_parse(text, out, NULL);
    if (err || *out < SIZE_MIN)
        return bad("--size", text, "give at least 1G", e);
    return OK;
}

static err_t take(struct build *b, int id, const char *value, struct error *e)
{
    switch (id) {
    case OPT_SIZE: return parse_size(value, &b->size, e);
    case OPT_PACKAGES: b->packages = value; return OK;
    case OPT_SUITE: b->suite = value; return OK;
    case OPT_KERNEL: b->kernel = value; return OK;
    case OPT_HOSTNAME: b->hostname = value; return OK;
    case OPT_USER: b->user = value; return OK;
    case OPT_PASSWORD: b->password = value; return OK;
    case OPT_SSH_KEY: b->key_file = value; return OK;
    case OPT_FIRMWARE: b->firmware = value; return OK;
    case OPT_FORMAT: b->format = value; return OK;
    case OPT_NO_AGENT: b->no_agent = true; return OK;
    default: return ERR_INVALID;
    }
}

static err_t parse(int argc, char **argv, struct build *b, struct error *e)
{
    optind = 0;
    opterr = 0;
    for (int id; (id = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        if (id == '?' || id == ':')
            return error_set(e, ERR_INVALID, "'%s' %s; see berth image --help", argv[optind - 1],
                             id == ':' ? "needs a value" : "is no option of build-debian");
        err_t err = take(b, id, optarg, e);
        if (err)
            return err;
    }
    if (optind + 1 != argc)
        return error_set(e, ERR_INVALID, "give one file to make; see berth image --help");
    b->out = argv[optind];
    return check(b, e);
}

// --- the script

static void set(const char *name, const char *value)
{
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
}

static const char *format_of(const struct build *b)
{
    const char *dot = strrchr(b->out, '.');
    if (b->format)
        return b->format;
    return dot && !strcmp(dot, ".qcow2") ? "qcow2" : "raw";
}

// Secrets go through the environment, which other users cannot see.
static void hand_over(const struct build *b, const char *berth, const char *agent)
{
    char size[32];
    snprintf(size, sizeof size, "%llu", b->size / MIB);
    set("BERTH_SIZE_MIB", size);
    set("BERTH_SUITE", b->suite);
    set("BERTH_HOSTNAME", b->hostname);
    set("BERTH_FIRMWARE", b->firmware);
    set("BERTH_KERNEL", strcmp(b->kernel, "cloud") ? "amd64" : "cloud-amd64");
    set("BERTH_USER", b->user);
    set("BERTH_PASSWORD", b->password);
    set("BERTH_SSH_KEY", (const char *)b->keys.data);
    set("BERTH_PACKAGES", b->packages);
    set("BERTH_FORMAT", format_of(b));
    set("BERTH_PROGRAM", berth);
    set("BERTH_AGENT", agent);
    set("BERTH_AGENT_UNIT", agent ? AGENT_UNIT("/usr/sbin") : NULL);
}

static int run_script(const struct build *b)
{
    char path[4096], berth[4096], agent[4096];
    struct error e = {0};
    if (host_find_program("berth-build-debian", path, sizeof path, &e) ||
        host_find_program("berth", berth, sizeof berth, &e) ||
        (!b->no_agent && host_find_program("berth-agent", agent, sizeof agent, &e)))
        return complain(EXIT_HOST, "%s", e.text);
    pid_t child = fork();
    if (child == 0) {
        hand_over(b, berth, b->no_agent ? NULL : agent);
        execl(path, path, b->out, (char *)NULL);
        _exit(complain(EXIT_HOST, "cannot start '%s': %s", path, strerror(errno)));
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0)
        return complain(EXIT_HOST, "cannot start '%s': %s", path, strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return EXIT_OK;
    return complain(EXIT_HOST, "the disk was not made; what the tools said is above");
}

static int build_debian(int argc, char **argv)
{
    struct build b = {.size = 4 * GIB,
                      .suite = "bookworm",
                      .kernel = "cloud",
                      .hostname = "debian",
                      .user = "root",
                      .firmware = "both"};
    struct error e = {0};
    err_t err = parse(argc, argv, &b, &e);
    if (!err && b.key_file)
        err = ssh_keys_read(b.key_file, &b.keys, &e);
    if (!err)
        err = make_password(&b, &e);
    int status = err ? complain(status_of(err), "%s", e.text) : run_script(&b);
    if (!status)
        printf("%s is ready: log in as %s%s%s\n", b.out, b.user,
               b.made_password[0] ? " with the password " : "", b.made_password);
    host_file_release(&b.keys);
    return status;
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} verbs[] = {
    {"import", image_import}, {"ls", image_ls}, {"rm", image_rm}, {"build-debian", build_debian}};

int cmd_image(int argc, char **argv)
{
    for (size_t i = 0; argc >= 2 && i < ARRAY_LEN(verbs); i++) {
        if (strcmp(argv[1], verbs[i].name) != 0)
            continue;
        if (argc > 2 && !strcmp(argv[2], "--help"))
            return fputs(image_help, stdout), EXIT_OK;
        return verbs[i].run(argc - 1, argv + 1);
    }
    return complain(EXIT_USAGE, "%s; see berth image --help",
                    argc < 2 ? "say what to do" : "there is only import, ls, rm and build-debian");
}
