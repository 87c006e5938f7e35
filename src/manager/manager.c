// The manager as a whole: its name, its directory, its inventory, and who hears of events.
#include "manager/manager.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/clock.h"
#include "host/dirs.h"
#include "host/file.h"
#include "host/program.h"
#include "manager/coordinator.h"

#define CLIENTS_MAX 256
#define EVENTS_KEPT 10000
#define FLUSH_MS 500

int64_t wall_ms(void)
{
    return host_wall_now() / (int64_t)NS_PER_MS;
}

// --- events

err_t manager_listen(struct manager *manager, manager_listen_fn *fn, void *opaque, struct error *e)
{
    for (size_t i = 0; i < MANAGER_LISTENERS_MAX; i++) {
        if (!manager->listeners[i].fn) {
            manager->listeners[i].fn = fn;
            manager->listeners[i].opaque = opaque;
            return OK;
        }
    }
    return error_set(e, ERR_BUSY, "too many listen to the manager's events");
}

void manager_unlisten(struct manager *manager, void *opaque)
{
    for (size_t i = 0; i < MANAGER_LISTENERS_MAX; i++) {
        if (manager->listeners[i].opaque == opaque)
            manager->listeners[i].fn = NULL;
    }
}

// A full disk is no reason not to go on.
static void keep(struct manager *manager, const struct managed *m, int64_t at, const char *line)
{
    (void)!db_run(manager->db, NULL, "INSERT INTO event (at, vm, line) VALUES (?, ?, ?)", "iss", at,
                  m ? m->name : NULL, line);
    (void)!db_run(manager->db, NULL,
                  "DELETE FROM event WHERE number <= (SELECT max(number) FROM event) - ?", "i",
                  (int64_t)EVENTS_KEPT);
}

void manager_tell(struct manager *manager, const struct managed *m, json_t *event, bool kept)
{
    int64_t at = wall_ms();
    if (event && m) {
        json_object_set_new(event, "vm", json_string(m->name));
        json_object_set_new(event, "id", json_string(m->id));
    }
    json_object_set_new(event, "at", json_integer(at));
    char *line = event ? json_dumps(event, JSON_COMPACT) : NULL;
    json_decref(event);
    if (!line)
        return;
    if (kept)
        keep(manager, m, at, line);
    size_t len = strlen(line);
    line[len] = '\n'; // in place of the end
    if (manager->server)
        server_tell(manager->server, line, len + 1);
    for (size_t i = 0; i < MANAGER_LISTENERS_MAX; i++) {
        if (manager->listeners[i].fn)
            manager->listeners[i].fn(manager->listeners[i].opaque, line, len + 1);
    }
    free(line);
}

// --- life

static err_t make_directories(struct manager *manager, struct error *e)
{
    static const char *const folders[] = {"vms", "images", "layers"};
    char path[PATH_MAX];
    err_t err = host_data_path(manager->state, sizeof manager->state, e);
    for (size_t i = 0; !err && i < ARRAY_LEN(folders); i++) {
        snprintf(path, sizeof path, "%s/%s", manager->state, folders[i]);
        err = host_make_directories(path, e);
    }
    return err;
}

static err_t open_inventory(struct manager *manager, struct error *e)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/berth.db", manager->state);
    return db_open(path, &manager->db, e);
}

static void read_text(void *opaque, sqlite3_stmt *row)
{
    snprintf(opaque, 64, "%s", db_text(row, 0));
}

// Whether the host was started since the last manager looked.
static bool host_is_new(struct manager *manager)
{
    struct host_file now = {0};
    char before[64] = "", text[64] = "";
    if (host_file_read("/proc/sys/kernel/random/boot_id", 64, &now, NULL))
        return false;
    snprintf(text, sizeof text, "%.36s", now.data ? (char *)now.data : "");
    host_file_release(&now);
    (void)!db_each(manager->db, NULL, read_text, before, "SELECT value FROM note WHERE name = ?",
                   "s", "boot");
    (void)!db_run(manager->db, NULL,
                  "INSERT INTO note VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = "
                  "excluded.value",
                  "ss", "boot", text);
    return strcmp(before, text) != 0;
}

static void begin(struct manager *manager)
{
    bool new_host = host_is_new(manager);
    for (struct managed *m = manager->vms; m; m = m->next)
        managed_reconcile(m);
    for (struct managed *m = manager->vms; new_host && m; m = m->next) {
        struct error e;
        if (m->autostart && !managed_runs(m) && m->state != MANAGED_RESTARTING)
            (void)!managed_start(m, &e); // why not is among its events
    }
}

err_t manager_open(struct manager *manager, struct loop *loop, struct error *e)
{
    *manager = (struct manager){.loop = loop, .claim = REGISTRY_NO_CLAIM, .began = wall_ms()};
    err_t err = registry_claim(REGISTRY_MANAGER, REGISTRY_BERTHD, &manager->claim, e);
    if (!err)
        err = host_find_program("berth", manager->berth, sizeof manager->berth, e);
    if (!err)
        err = make_directories(manager, e);
    if (!err)
        err = open_inventory(manager, e);
    if (!err)
        err = managed_load_all(manager, e);
    if (!err)
        err = pools_open(manager, &manager->pools, e);
    if (!err)
        begin(manager);
    if (!err)
        err = coordinator_new(manager->pools, &manager->coordinator, e);
    return err;
}

err_t manager_serve(struct manager *manager, struct error *e)
{
    int fd = -1;
    err_t err = registry_listen(&manager->claim, REGISTRY_CONTROL, &fd, e);
    if (err)
        return err;
    const struct server_options options = {.loop = manager->loop,
                                           .listen_fd = fd,
                                           .table = manager_requests,
                                           .context = manager,
                                           .clients_max = CLIENTS_MAX};
    return server_new(&options, &manager->server, e);
}

void manager_close(struct manager *manager)
{
    executions_end(manager);
    web_close(manager);
    server_free(manager->server, FLUSH_MS);
    manager->server = NULL;
    coordinator_free(manager->coordinator);
    manager->coordinator = NULL;
    struct pools *pools = manager->pools;
    manager->pools = NULL; // answers that come while links are shut are nobody's
    pools_close(pools);
    managed_free_all(manager);
    db_close(manager->db);
    registry_release(&manager->claim);
}
