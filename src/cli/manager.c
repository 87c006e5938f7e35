// The way to berthd. A manager that is not there is started as a process of its own session, and
// waited for until it listens; of two that are started at once one finds the name taken and ends.
#include "cli/manager.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "host/clock.h"
#include "host/dirs.h"
#include "host/program.h"

#define START_WITHIN (20 * NS_PER_SEC)
#define SERVICE_WITHIN (5 * NS_PER_SEC)
#define LOOK_EVERY (2 * NS_PER_MS)
#define WORDS_EVERY 50 // looks
#define INFO_MS 10000

// --- starting it

static bool is_used(void)
{
    char path[PATH_MAX - 32], file[PATH_MAX];
    if (host_data_path(path, sizeof path, NULL))
        return false;
    snprintf(file, sizeof file, "%s/berth.db", path);
    return access(file, F_OK) == 0;
}

// Its words are for the one who starts it until it listens, and then for its log.
static err_t open_log(int *fd, char path[PATH_MAX], struct error *e)
{
    char folder[PATH_MAX - 32];
    err_t err = host_data_path(folder, sizeof folder, e);
    if (!err)
        err = host_make_directories(folder, e);
    if (err)
        return err;
    snprintf(path, PATH_MAX, "%s/berthd.log", folder);
    *fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    return *fd >= 0 ? OK : error_set(e, ERR_IO, "cannot write '%s'", path);
}

static err_t start(char log_path[PATH_MAX], struct error *e)
{
    char path[PATH_MAX];
    char *argv[] = {"berthd", NULL};
    int log = -1;
    err_t err = host_find_program("berthd", path, sizeof path, e);
    if (!err)
        err = open_log(&log, log_path, e);
    if (!err)
        err = host_start_daemon(path, argv, log, NULL, 0, e);
    if (log >= 0)
        close(log);
    return err;
}

// OK: it has not said anything.
static err_t why_not(const char *log_path, struct error *e)
{
    char words[160] = "";
    FILE *log = fopen(log_path, "re");
    if (log && fgets(words, sizeof words, log))
        words[strcspn(words, "\n")] = '\0';
    if (log)
        fclose(log);
    return words[0] ? error_set(e, ERR_IO, "berthd does not start: %s", words) : OK;
}

static void found(void *opaque, const char *name)
{
    bool *is_there = opaque;
    *is_there |= !strcmp(name, REGISTRY_BERTHD);
}

// It runs, though it may not listen yet.
static bool is_there(void)
{
    bool there = false;
    return !registry_each(REGISTRY_MANAGER, found, &there, NULL) && there;
}

// systemd starts that one, and starts it again when it fails: another would be in its way.
static bool is_systems(void)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    return runtime && !strcmp(runtime, MANAGER_SYSTEM_RUNTIME);
}

// Starts it, unless one is there that only does not listen yet, or no more.
static err_t await(int timeout_ms, struct client **out, struct error *e)
{
    char log_path[PATH_MAX] = "";
    uint64_t began = host_now();
    for (unsigned looks = 0; host_now() < began + START_WITHIN; looks++) {
        err_t err = OK;
        bool gone = looks % WORDS_EVERY == 0 && !is_there();
        if (gone && log_path[0])
            err = why_not(log_path, e);
        else if (gone && !is_systems())
            err = start(log_path, e);
        else if (gone && host_now() > began + SERVICE_WITHIN)
            err = error_set(e, ERR_BUSY, "berthd does not run; systemctl start berthd starts it");
        if (err)
            return err;
        err_t found = client_connect(REGISTRY_MANAGER, REGISTRY_BERTHD, timeout_ms, out, e);
        if (found != ERR_NOT_FOUND)
            return found;
        nanosleep(&(struct timespec){.tv_nsec = LOOK_EVERY}, NULL);
    }
    return error_set(e, ERR_BUSY, "berthd does not listen");
}

err_t manager_connect(enum manager_need need, int timeout_ms, struct client **out, struct error *e)
{
    err_t err = client_connect(REGISTRY_MANAGER, REGISTRY_BERTHD, timeout_ms, out, e);
    if (err != ERR_NOT_FOUND || need == MANAGER_IF_RUNNING ||
        (need == MANAGER_IF_USED && !is_used()))
        return err;
    return await(timeout_ms, out, e);
}

// --- asking it

err_t manager_request(enum manager_need need, const char *request, json_t *args, int timeout_ms,
                      json_t **result, struct error *e)
{
    struct client *client = NULL;
    err_t err = manager_connect(need, timeout_ms, &client, e);
    if (err)
        json_decref(args);
    else
        err = client_ask(client, request, args, result, NULL, e);
    client_free(client);
    return err;
}

int manager_ask(const char *request, json_t *args, int timeout_ms, json_t **result)
{
    struct error e = {0};
    err_t err = manager_request(MANAGER_NEEDED, request, args, timeout_ms, result, &e);
    return err ? complain(status_of(err), "%s", e.text) : EXIT_OK;
}

err_t manager_info(const char *vm, json_t **info, struct error *e)
{
    return manager_request(MANAGER_IF_USED, "info", json_pack("{s:s}", "vm", vm), INFO_MS, info, e);
}

// --- running VMs

err_t vm_connect(const char *vm, int timeout_ms, struct client **out, struct error *e)
{
    err_t err = client_connect(REGISTRY_VM, vm, timeout_ms, out, e);
    json_t *info = NULL;
    if (err != ERR_NOT_FOUND || manager_info(vm, &info, NULL))
        return err;
    const char *name = json_string_value(json_object_get(info, "name"));
    if (name && strcmp(name, vm) != 0)
        err = client_connect(REGISTRY_VM, name, timeout_ms, out, e);
    if (err == ERR_NOT_FOUND)
        err = error_set(e, err, "'%s' is not running; berth start %s starts it", name, name);
    json_decref(info);
    return err;
}
