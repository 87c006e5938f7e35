// Verbs for VMs that the manager keeps: start, restart, rm, rename, clone, daemon. Those that take
// several VMs go on after one that failed, and end with its status.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/manager.h"
#include "cli/vms.h"

#define ANSWER_MS 30000
#define START_MS 180000
#define CLONE_MS 60000

const char start_help[] = "usage: berth start [--json] VM...\n"
                          "\n"
                          "Starts VMs that berth create made. Returns when their guests run.\n";
const char restart_help[] =
    "usage: berth restart [--force] [--timeout SECONDS] [--json] VM...\n"
    "\n"
    "Shuts VMs down, as berth stop does, and starts them again; starts those that do not run.\n"
    "\n"
    "  -f, --force              switch them off at once, without asking the guest\n"
    "  -t, --timeout SECONDS    how long to wait for the guest (the VM's own, 60)\n";
const char rm_help[] = "usage: berth rm [--force] [--json] VM...\n"
                       "\n"
                       "Removes VMs that do not run, with the disks that were made for them. Asks\n"
                       "first.\n"
                       "\n"
                       "  -f, --force    do not ask; switch off those that run\n";
const char rename_help[] = "usage: berth rename [--json] VM NAME\n"
                           "\n"
                           "Gives a VM that does not run another name.\n";
const char clone_help[] =
    "usage: berth clone [--json] VM NAME\n"
    "\n"
    "Makes another VM like one that does not run. Their disks share what is in them now, so\n"
    "that no copy is made; each goes its own way from here.\n";
const char daemon_help[] =
    "usage: berth daemon start|status|stop [--json]\n"
    "\n"
    "The manager, berthd. It is started by itself when it is needed; VMs run on when it ends.\n";

// --- words

bool vms_parse(int argc, char **argv, const char *allows, struct vms_words *out)
{
    *out = (struct vms_words){.seconds = -1, .names = argv + 1};
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (!strcmp(word, "--json")) {
            out->json = true;
        } else if (strchr(allows, 'f') && (!strcmp(word, "--force") || !strcmp(word, "-f"))) {
            out->force = true;
        } else if (strchr(allows, 't') && (!strcmp(word, "--timeout") || !strcmp(word, "-t"))) {
            if (!seconds_parse(argv[++i], &out->seconds)) {
                complain(EXIT_USAGE, "--timeout needs seconds, from 0 to 86400");
                return false;
            }
        } else if (word[0] == '-') {
            complain(EXIT_USAGE, "%s does not know '%s'; see berth %s --help", argv[0], word,
                     argv[0]);
            return false;
        } else {
            argv[1 + out->count++] = argv[i];
        }
    }
    return true;
}

bool seconds_parse(const char *text, int *seconds)
{
    char *end;
    errno = 0;
    unsigned long n = text ? strtoul(text, &end, 10) : 0;
    if (!text || errno || *end || text[0] < '0' || text[0] > '9' || n > 86400)
        return false;
    *seconds = (int)n;
    return true;
}

static int needs(const char *verb, const char *what)
{
    return complain(EXIT_USAGE, "%s needs %s; berth ls shows the VMs", verb, what);
}

json_t *vms_stop_arguments(const char *vm, const struct vms_words *w)
{
    json_t *args = json_pack("{s:s}", "vm", vm);
    if (args && w->force)
        json_object_set_new(args, "force", json_true());
    if (args && w->seconds >= 0)
        json_object_set_new(args, "seconds", json_integer(w->seconds));
    return args;
}

// What came back for each VM, as one list; or a line each.
static void tell(const struct vms_words *w, json_t *list, json_t *result, const char *done)
{
    const char *name = json_string_value(json_object_get(result, "name"));
    if (w->json)
        json_array_append_new(list, result);
    else
        printf("%s %s\n", name ? name : "", done);
    if (!w->json)
        json_decref(result);
}

static int finish(const struct vms_words *w, json_t *list, int status)
{
    int printed = w->json ? print_json(json_incref(list)) : EXIT_OK;
    json_decref(list);
    return status ? status : printed;
}

// --- start, restart, rm

int cmd_start(int argc, char **argv)
{
    struct vms_words w;
    int status = EXIT_OK;
    if (!vms_parse(argc, argv, "", &w))
        return EXIT_USAGE;
    if (!w.count)
        return needs("start", "the names of VMs");
    json_t *list = json_array();
    for (int i = 0; i < w.count; i++) {
        json_t *result = NULL;
        int failed = manager_ask("start", json_pack("{s:s}", "vm", w.names[i]), START_MS, &result);
        if (failed)
            status = failed;
        else
            tell(&w, list, result, "runs");
    }
    return finish(&w, list, status);
}

int cmd_restart(int argc, char **argv)
{
    struct vms_words w;
    int status = EXIT_OK;
    if (!vms_parse(argc, argv, "ft", &w))
        return EXIT_USAGE;
    if (!w.count)
        return needs("restart", "the names of VMs");
    json_t *list = json_array();
    for (int i = 0; i < w.count; i++) {
        json_t *result = NULL;
        int wait = START_MS + (w.seconds > 0 ? w.seconds * 1000 : 0);
        int failed = manager_ask("restart", vms_stop_arguments(w.names[i], &w), wait, &result);
        if (failed)
            status = failed;
        else
            tell(&w, list, result, "runs again");
    }
    return finish(&w, list, status);
}

static bool sure(const char *name)
{
    char line[16] = "";
    printf("remove %s and its disks? [y/N] ", name);
    fflush(stdout);
    return fgets(line, sizeof line, stdin) && (line[0] == 'y' || line[0] == 'Y');
}

static int rm_one(const char *vm, const struct vms_words *w, json_t *list)
{
    json_t *info = NULL, *result = NULL;
    struct error e = {0};
    err_t err = manager_info(vm, &info, &e);
    if (err)
        return complain(status_of(err), "%s", e.text);
    const char *name = json_string_value(json_object_get(info, "name"));
    if (!w->force && !isatty(STDIN_FILENO)) {
        json_decref(info);
        return complain(EXIT_USAGE, "rm asks, and nobody is there to answer; give --force");
    }
    int status = EXIT_OK;
    if (w->force || sure(name)) {
        json_t *args = json_pack("{s:s, s:b}", "vm", name, "force", w->force);
        status = manager_ask("rm", args, ANSWER_MS, &result);
        json_decref(result);
        if (!status)
            tell(w, list, json_pack("{s:s}", "name", name), "is removed");
    }
    json_decref(info);
    return status;
}

int cmd_rm(int argc, char **argv)
{
    struct vms_words w;
    int status = EXIT_OK;
    if (!vms_parse(argc, argv, "f", &w))
        return EXIT_USAGE;
    if (!w.count)
        return needs("rm", "the names of VMs");
    json_t *list = json_array();
    for (int i = 0; i < w.count; i++) {
        int failed = rm_one(w.names[i], &w, list);
        if (failed)
            status = failed;
    }
    return finish(&w, list, status);
}

// --- rename, clone

static int with_new_name(int argc, char **argv, const char *done)
{
    struct vms_words w;
    json_t *result = NULL;
    if (!vms_parse(argc, argv, "", &w))
        return EXIT_USAGE;
    if (w.count != 2)
        return needs(argv[0], "a VM and a new name");
    json_t *args = json_pack("{s:s, s:s}", "vm", w.names[0], "name", w.names[1]);
    int status = manager_ask(argv[0], args, CLONE_MS, &result);
    if (status)
        return status;
    if (w.json)
        return print_json(result);
    json_decref(result);
    printf("%s %s %s\n", w.names[1], done, w.names[0]);
    return EXIT_OK;
}

int cmd_rename(int argc, char **argv)
{
    return with_new_name(argc, argv, "is the name of what was");
}

int cmd_clone(int argc, char **argv)
{
    return with_new_name(argc, argv, "is a clone of");
}

// --- the manager

static int daemon_status(const struct vms_words *w, enum manager_need need)
{
    json_t *info = NULL;
    struct error e = {0};
    err_t err = manager_request(need, "daemon", NULL, ANSWER_MS, &info, &e);
    if (err == ERR_NOT_FOUND && w->json)
        return print_json(json_pack("{s:b}", "running", false)) ? EXIT_HOST : EXIT_GUEST;
    if (err)
        return complain(err == ERR_NOT_FOUND ? EXIT_GUEST : EXIT_HOST, "%s", e.text);
    json_object_set_new(info, "active", json_true());
    if (w->json)
        return print_json(info);
    printf("berthd %s runs as process %lld\n%lld VMs, %lld of them running\nall in %s\n",
           json_string_value(json_object_get(info, "version")),
           (long long)json_integer_value(json_object_get(info, "pid")),
           (long long)json_integer_value(json_object_get(info, "vms")),
           (long long)json_integer_value(json_object_get(info, "running")),
           json_string_value(json_object_get(info, "state")));
    json_decref(info);
    return EXIT_OK;
}

static int daemon_stop(const struct vms_words *w)
{
    json_t *result = NULL, *event;
    struct client *client = NULL;
    struct error e = {0};
    err_t err = manager_connect(MANAGER_IF_RUNNING, ANSWER_MS, &client, &e);
    if (!err)
        err = client_ask(client, "shutdown", NULL, &result, NULL, &e);
    json_decref(result);
    while (!err && !(err = client_next_event(client, ANSWER_MS, &event, &e)) && event)
        json_decref(event);
    client_free(client);
    if (err && err != ERR_NOT_FOUND)
        return complain(EXIT_HOST, "%s", e.text);
    if (w->json)
        return print_json(json_pack("{s:b}", "active", false));
    puts(err ? "berthd was not running" : "berthd has ended; VMs run on");
    return EXIT_OK;
}

int cmd_daemon(int argc, char **argv)
{
    struct vms_words w;
    if (!vms_parse(argc, argv, "", &w))
        return EXIT_USAGE;
    const char *verb = w.count == 1 ? w.names[0] : "";
    if (!strcmp(verb, "status"))
        return daemon_status(&w, MANAGER_IF_RUNNING);
    if (!strcmp(verb, "start"))
        return daemon_status(&w, MANAGER_NEEDED);
    if (!strcmp(verb, "stop"))
        return daemon_stop(&w);
    return complain(EXIT_USAGE, "daemon needs start, status or stop; see berth daemon --help");
}
