// berth console and berth logs: the shared console of a running VM (registry_attach()), and what
// both it and the VM said, from the logs in the folder of a VM that the manager keeps.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "cli/cli.h"
#include "cli/manager.h"
#include "host/file.h"
#include "host/passing.h"
#include "host/terminal.h"

#define ESCAPE 0x1d // Ctrl-]
#define STEP 16384
#define LOG_MAX (16 * MIB)
#define FOLLOW_MS 200

const char console_help[] =
    "usage: berth console [--escape KEY] VM\n"
    "\n"
    "Attaches this terminal to the VM's serial console, and shows what it said lately. Several\n"
    "people can. Ctrl-] leaves; the VM runs on.\n"
    "\n"
    "      --escape KEY    what leaves: ^A to ^Z, ^], ^\\, ^^, ^_ or none (^])\n";
const char logs_help[] =
    "usage: berth logs [--vm] [--follow] [--lines N] [--json] VM\n"
    "\n"
    "Prints what the VM's console said, also before its last start: up to 2 MiB are kept.\n"
    "\n"
    "      --vm            what the VM said instead: its events, as JSON lines, and complaints\n"
    "  -f, --follow        and what comes, until it ends or Ctrl-C\n"
    "  -n, --lines N       only the last N lines\n";

// --- console

static bool escape_parse(const char *text, int *key)
{
    if (text && !strcmp(text, "none")) {
        *key = -1;
        return true;
    }
    if (!text || text[0] != '^' || !text[1] || text[2])
        return false;
    char c = text[1] >= 'a' && text[1] <= 'z' ? (char)(text[1] - 32) : text[1];
    *key = c & 0x1f;
    return c >= 'A' && c <= '_' && c != '[';
}

// False: the person leaves, or there is nothing more to type.
static bool type(int from, int to, int escape, bool *left)
{
    char data[STEP];
    ssize_t n = read(from, data, sizeof data);
    if (n < 0 && errno == EINTR)
        return true;
    const char *end = n > 0 && escape >= 0 ? memchr(data, escape, (size_t)n) : NULL;
    size_t len = end ? (size_t)(end - data) : n > 0 ? (size_t)n : 0;
    *left = end != NULL;
    for (size_t at = 0; at < len;) {
        ssize_t sent = passing_send(to, data + at, len - at, -1, 0);
        if (sent < 0)
            return false;
        at += (size_t)sent;
    }
    return n > 0 && !end;
}

static bool show(int from)
{
    char data[STEP];
    ssize_t n = recv(from, data, sizeof data, 0);
    if (n < 0)
        return errno == EINTR;
    return n > 0 && !host_write_all(STDOUT_FILENO, data, (size_t)n);
}

// A terminal that was made raw is given back whatever ends us.
static int watch_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

// Input that is no terminal may end before the VM has said all.
static bool attached(int console, int escape)
{
    bool left = false;
    struct pollfd ready[] = {{.fd = console, .events = POLLIN},
                             {.fd = STDIN_FILENO, .events = POLLIN},
                             {.fd = watch_signals(), .events = POLLIN}};
    for (;;) {
        if (poll(ready, ARRAY_LEN(ready), -1) < 0)
            continue;
        if (ready[2].revents)
            return true;
        if (ready[0].revents && !show(console))
            return false;
        if (ready[1].revents && !type(STDIN_FILENO, console, escape, &left)) {
            if (left || isatty(STDIN_FILENO))
                return true;
            ready[1].fd = -1;
        }
    }
}

static err_t attach(const char *vm, int *fd, struct error *e)
{
    err_t err = registry_attach(vm, fd, e);
    json_t *info = NULL;
    if (err != ERR_NOT_FOUND || manager_info(vm, &info, NULL))
        return err;
    const char *name = json_string_value(json_object_get(info, "name"));
    const char *state = json_string_value(json_object_get(info, "state"));
    if (name && strcmp(name, vm) != 0)
        err = registry_attach(name, fd, e);
    else if (state && (!strcmp(state, "stopped") || !strcmp(state, "failed")))
        err = error_set(e, err,
                        "'%s' is not running; berth start %s starts it, berth logs %s "
                        "shows what its console said",
                        vm, vm, vm);
    json_decref(info);
    return err;
}

int cmd_console(int argc, char **argv)
{
    int escape = ESCAPE, fd = -1, first = 1;
    struct error e = {0};
    if (argc > 2 && !strcmp(argv[1], "--escape")) {
        if (!escape_parse(argv[2], &escape))
            return complain(EXIT_USAGE, "--escape needs a key such as ^], or none");
        first = 3;
    }
    if (first + 1 != argc || argv[first][0] == '-')
        return complain(EXIT_USAGE, "console needs the name of a VM; see berth console --help");
    err_t err = attach(argv[first], &fd, &e);
    if (err)
        return complain(status_of(err), "%s", e.text);
    struct host_terminal terminal = {.fd = -1};
    host_terminal_save(&terminal, STDIN_FILENO);
    if (terminal.fd >= 0)
        complain(0, "this is the console of %s; %s", argv[first],
                 escape < 0         ? "it stays until the VM ends"
                 : escape == ESCAPE ? "Ctrl-] leaves"
                                    : "the escape key leaves");
    host_terminal_raw(&terminal);
    bool left = attached(fd, escape);
    host_terminal_restore(&terminal);
    close(fd);
    if (terminal.fd >= 0)
        complain(0, left ? "left the console of %s, which runs on" : "%s has ended", argv[first]);
    return EXIT_OK;
}

// --- logs

struct logs {
    bool json, follow;
    const char *name; // of the file
    const char *vm;
    long lines; // -1: all
    char folder[4096];
};

static bool logs_parse(int argc, char **argv, struct logs *l)
{
    *l = (struct logs){.name = "console.log", .lines = -1};
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        char *end = NULL;
        if (!strcmp(word, "--json"))
            l->json = true;
        else if (!strcmp(word, "--follow") || !strcmp(word, "-f"))
            l->follow = true;
        else if (!strcmp(word, "--vm"))
            l->name = "log";
        else if ((!strcmp(word, "--lines") || !strcmp(word, "-n")) && i + 1 < argc)
            l->lines = strtol(argv[++i], &end, 10);
        else if (word[0] != '-' && !l->vm)
            l->vm = word;
        else
            return false;
        if (end && (*end || l->lines < 0))
            return false;
    }
    return l->vm && !(l->json && l->follow);
}

static void append(struct host_file *all, const char *folder, const char *name, const char *suffix)
{
    char path[4200];
    struct host_file part = {0};
    snprintf(path, sizeof path, "%s/%s%s", folder, name, suffix);
    if (host_file_read(path, LOG_MAX, &part, NULL) || !part.len)
        return;
    uint8_t *more = realloc(all->data, all->len + part.len);
    if (more) {
        memcpy(more + all->len, part.data, part.len);
        all->data = more;
        all->len += part.len;
    }
    host_file_release(&part);
}

static size_t start_of_last(const struct host_file *all, long lines)
{
    size_t at = all->len;
    if (lines < 0)
        return 0;
    if (at && all->data[at - 1] == '\n')
        at--;
    for (; at && lines > 0; at--) {
        if (all->data[at - 1] == '\n' && --lines == 0)
            return at;
    }
    return lines == 0 && at ? all->len : 0;
}

static int print_log(const struct logs *l)
{
    struct host_file all = {0};
    append(&all, l->folder, l->name, ".1");
    append(&all, l->folder, l->name, "");
    size_t from = l->lines ? start_of_last(&all, l->lines) : all.len;
    const char *text = all.data ? (const char *)all.data + from : "";
    int status = EXIT_OK;
    if (!l->json) {
        fwrite(text, 1, all.len - from, stdout);
        fflush(stdout);
    } else {
        // A console says any bytes; JSON has characters.
        json_t *log = json_stringn(text, all.len - from);
        if (!log) {
            for (size_t i = from; i < all.len; i++)
                all.data[i] = all.data[i] & 0x80 || !all.data[i] ? '?' : all.data[i];
            log = json_stringn(text, all.len - from);
        }
        status = print_json(json_pack("{s:s, s:o}", "name", l->vm, "log", log));
    }
    host_file_release(&all);
    return status;
}

static bool ended(const char *vm)
{
    json_t *info = NULL;
    bool runs =
        !manager_info(vm, &info, NULL) && json_is_number(json_object_get(info, "uptime_seconds"));
    json_decref(info);
    return !runs;
}

// The file is moved away when it has become long; the rest of it is read first.
static void follow(const struct logs *l)
{
    char path[4200], data[STEP];
    snprintf(path, sizeof path, "%s/%s", l->folder, l->name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        lseek(fd, 0, SEEK_END);
    for (bool last = false; fd >= 0;) {
        ssize_t n;
        struct stat ours, now;
        while ((n = read(fd, data, sizeof data)) > 0) {
            if (host_write_all(STDOUT_FILENO, data, (size_t)n))
                last = true;
        }
        if (last)
            break;
        if (!fstat(fd, &ours) && !stat(path, &now) && ours.st_ino != now.st_ino) {
            close(fd);
            fd = open(path, O_RDONLY | O_CLOEXEC);
            continue;
        }
        poll(NULL, 0, FOLLOW_MS);
        last = ended(l->vm);
    }
    if (fd >= 0)
        close(fd);
}

int cmd_logs(int argc, char **argv)
{
    struct logs l;
    json_t *info = NULL;
    struct error e = {0};
    if (!logs_parse(argc, argv, &l))
        return complain(EXIT_USAGE, "logs needs the name of a VM; see berth logs --help");
    err_t err = manager_info(l.vm, &info, &e);
    if (err)
        return complain(status_of(err), "%s", e.text);
    const char *folder = json_string_value(json_object_get(info, "folder"));
    snprintf(l.folder, sizeof l.folder, "%s", folder ? folder : "");
    json_decref(info);
    int status = print_log(&l);
    if (!status && l.follow)
        follow(&l);
    return status;
}
