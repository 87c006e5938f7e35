// VMs of the inventory: found, made, described, removed. Each has a folder, vms/ID, with its disks
// and what it said. A row is there before its folder and goes after it, so that a killed manager
// leaves nothing that the next one does not clear away.
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/file.h"
#include "host/random.h"
#include "machine/config.h"
#include "manager/definition.h"
#include "manager/disks.h"
#include "manager/manager.h"
#include "manager/pools.h"

#define ID_PREFIX_MIN 4

const char *const managed_states[MANAGED_STATES] = {
    [MANAGED_STOPPED] = "stopped",       [MANAGED_FAILED] = "failed",
    [MANAGED_STARTING] = "starting",     [MANAGED_RUNNING] = "running",
    [MANAGED_PAUSED] = "paused",         [MANAGED_STOPPING] = "stopping",
    [MANAGED_RESTARTING] = "restarting",
};

const char *const restart_policies[RESTART_POLICIES] = {
    [RESTART_NO] = "no", [RESTART_ON_FAILURE] = "on-failure", [RESTART_ALWAYS] = "always"};

err_t restart_parse(const char *text, enum restart_policy *out, struct error *e)
{
    for (int i = 0; i < RESTART_POLICIES; i++) {
        if (!strcmp(text, restart_policies[i])) {
            *out = (enum restart_policy)i;
            return OK;
        }
    }
    return error_set(e, ERR_INVALID, "restart: '%.40s' is none; give no, on-failure or always",
                     text);
}

// --- the list

static void insert(struct manager *manager, struct managed *m)
{
    struct managed **p = &manager->vms;
    while (*p && strcmp((*p)->name, m->name) < 0)
        p = &(*p)->next;
    m->next = *p;
    *p = m;
}

static void take_out(struct managed *m)
{
    for (struct managed **p = &m->manager->vms; *p; p = &(*p)->next) {
        if (*p == m) {
            *p = m->next;
            return;
        }
    }
}

static void ended(void *opaque)
{
    managed_ended(opaque);
}

static struct managed *make(struct manager *manager)
{
    struct managed *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->manager = manager;
    m->ready.fd = -1;
    process_init(&m->process, manager->loop, ended, m);
    managed_init_timers(m);
    return m;
}

err_t managed_find(struct manager *manager, const char *name, struct managed **out, struct error *e)
{
    size_t len = strlen(name);
    struct managed *found = NULL;
    for (struct managed *m = manager->vms; m; m = m->next) {
        if (!strcmp(m->name, name)) {
            *out = m;
            return OK;
        }
    }
    for (struct managed *m = manager->vms; m && len >= ID_PREFIX_MIN; m = m->next) {
        if (strncmp(m->id, name, len) != 0)
            continue;
        if (found)
            return error_set(e, ERR_INVALID, "the id %.12s could be %s or %s; give more of it",
                             name, found->name, m->name);
        found = m;
    }
    *out = found;
    return found ? OK
                 : error_set(e, ERR_NOT_FOUND, "there is no VM '%.64s'; berth ls --all shows them",
                             name);
}

// --- paths

void managed_path(const struct managed *m, const char *name, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/vms/%s%s%s", m->manager->state, m->id, name ? "/" : "",
             name ? name : "");
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    return remove(path);
}

static void remove_folder(const struct manager *manager, const char *id)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/vms/%s", manager->state, id);
    nftw(path, remove_one, 8, FTW_PHYS | FTW_DEPTH | FTW_MOUNT);
}

// --- definitions

static void read_definition(void *opaque, sqlite3_stmt *row)
{
    *(char **)opaque = strdup(db_text(row, 0));
}

err_t managed_definition(const struct managed *m, char **text, struct error *e)
{
    *text = NULL;
    err_t err = db_each(m->manager->db, e, read_definition, text,
                        "SELECT definition FROM vm WHERE id = ?", "s", m->id);
    if (!err && !*text)
        err = error_set(e, ERR_NO_MEMORY, "no memory for a definition");
    return err;
}

// --- made and removed

static err_t delete_row(struct manager *manager, const char *id, struct error *e)
{
    return db_run(manager->db, e, "DELETE FROM vm WHERE id = ?", "s", id);
}

// From here on the VM is gone, whatever happens to the manager.
static err_t remove_whole(struct manager *manager, const char *id, struct error *e)
{
    err_t err = db_run(manager->db, e, "UPDATE vm SET phase = 'removing' WHERE id = ?", "s", id);
    if (err)
        return err;
    remove_folder(manager, id);
    return delete_row(manager, id, e);
}

static err_t make_folder(struct managed *m, struct error *e)
{
    char path[PATH_MAX];
    managed_path(m, NULL, path);
    return mkdir(path, 0700) == 0
               ? OK
               : error_set(e, err_from_errno(errno), "cannot make '%s': %s", path, strerror(errno));
}

static void new_id(char id[MANAGED_ID + 1])
{
    uint8_t random[MANAGED_ID / 2];
    host_random(random, sizeof random);
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(id + 2 * i, 3, "%02x", random[i]);
}

static err_t insert_row(const struct managed *m, const char *definition, struct error *e)
{
    err_t err =
        db_run(m->manager->db, e,
               "INSERT INTO vm (id, name, definition, phase, autostart, restart, "
               "stop_seconds, created, image) VALUES (?, ?, ?, 'making', ?, ?, ?, ?, ?)",
               "sssisiis", m->id, m->name, definition, (int64_t)m->autostart,
               restart_policies[m->restart], (int64_t)m->stop_seconds, m->created, m->image);
    if (err == ERR_EXISTS)
        return error_set(e, err, "there is a VM '%s' already; give another name, or berth rm %s",
                         m->name, m->name);
    return err;
}

static err_t write_text(const struct managed *m, const char *name, const char *text,
                        struct error *e)
{
    char path[PATH_MAX];
    managed_path(m, name, path);
    int fd = text ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
    err_t err = !text ? OK : fd < 0 ? ERR_IO : host_write_all(fd, text, strlen(text));
    if (fd >= 0)
        close(fd);
    return err ? error_set(e, err, "cannot write '%s'", path) : OK;
}

// What a VM has beside its disks, as its supervisor looks for it (cli/run.c).
static const char *const kept_files[] = {"uefi-vars", "user-data", "ssh-keys"};
#define KEPT_MAX (4 * MIB)

static err_t copy_files(const struct managed *from, const struct managed *to, struct error *e)
{
    err_t err = OK;
    for (size_t i = 0; !err && i < ARRAY_LEN(kept_files); i++) {
        char path[PATH_MAX];
        struct host_file file;
        managed_path(from, kept_files[i], path);
        err = host_file_read(path, KEPT_MAX, &file, e);
        if (err == ERR_NOT_FOUND) {
            err = OK;
            continue;
        }
        managed_path(to, kept_files[i], path);
        int fd = err ? -1 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (!err && (fd < 0 || host_write_all(fd, file.data, file.len)))
            err = error_set(e, ERR_IO, "cannot write '%s'", path);
        if (fd >= 0)
            close(fd);
        host_file_release(&file);
    }
    return err;
}

static err_t fill_folder(const struct managed *m, const struct managed_new *asked, const char *base,
                         struct error *e)
{
    err_t err = OK;
    if (asked->like)
        err = disks_clone(asked->like, m, e);
    if (!err && asked->like)
        err = copy_files(asked->like, m, e);
    if (!err && asked->image)
        err = disk_make(m, 0, base, e);
    if (!err)
        err = write_text(m, "user-data", asked->user_data, e);
    return err ? err : write_text(m, "ssh-keys", asked->ssh_keys, e);
}

static err_t build(struct managed *m, const struct managed_new *asked, const char *base,
                   struct error *e)
{
    err_t err = make_folder(m, e);
    if (!err)
        err = fill_folder(m, asked, base, e);
    if (!err)
        err = db_run(m->manager->db, e, "UPDATE vm SET phase = 'whole' WHERE id = ?", "s", m->id);
    if (err)
        (void)!remove_whole(m->manager, m->id, NULL);
    return err;
}

static err_t check_name(const char *name, struct error *e)
{
    return vm_name_valid(name)
               ? OK
               : error_set(e, ERR_INVALID, "'%.64s' is no name of a VM; " VM_NAME_RULE, name);
}

err_t managed_create(struct manager *manager, const struct managed_new *asked, struct managed **out,
                     struct error *e)
{
    char base[DISK_BASE_MAX] = "", *definition = NULL;
    err_t err = check_name(asked->name, e);
    if (!err && asked->image)
        err = image_find(manager, asked->image, base, e);
    if (err)
        return err;
    struct managed *m = make(manager);
    if (!m)
        return error_set(e, ERR_NO_MEMORY, "no memory for a VM");
    new_id(m->id);
    snprintf(m->name, sizeof m->name, "%s", asked->name);
    m->autostart = asked->autostart;
    m->restart = asked->restart;
    m->stop_seconds = asked->stop_seconds;
    m->created = wall_ms();
    snprintf(m->image, sizeof m->image, "%s",
             asked->image  ? asked->image
             : asked->like ? asked->like->image
                           : "");
    json_t *whole =
        asked->image ? definition_with_image(asked->definition) : json_deep_copy(asked->definition);
    err = definition_settle(m, whole, m->name, &definition, e);
    json_decref(whole);
    if (!err)
        err = insert_row(m, definition, e);
    if (!err)
        err = build(m, asked, base, e);
    free(definition);
    if (err) {
        free(m);
        return err;
    }
    insert(manager, m);
    manager_tell(manager, m, json_pack("{s:s}", "event", "created"), true);
    *out = m;
    return OK;
}

static err_t must_not_run(const struct managed *m, struct error *e)
{
    return managed_runs(m) || m->state == MANAGED_RESTARTING
               ? error_set(e, ERR_BUSY, "'%s' is running; berth stop %s first", m->name, m->name)
               : OK;
}

err_t managed_clone(const struct managed *m, const char *name, struct managed **out,
                    struct error *e)
{
    char *text = NULL;
    err_t err = must_not_run(m, e);
    if (!err)
        err = managed_definition(m, &text, e);
    if (err)
        return err;
    json_t *definition = json_loads(text, 0, NULL);
    free(text);
    err = definition_for_clone(definition, m->name, e);
    const struct managed_new asked = {.name = name,
                                      .definition = definition,
                                      .like = m,
                                      .autostart = m->autostart,
                                      .restart = m->restart,
                                      .stop_seconds = m->stop_seconds};
    if (!err)
        err = managed_create(m->manager, &asked, out, e);
    json_decref(definition);
    return err;
}

err_t managed_remove(struct managed *m, struct error *e)
{
    struct manager *manager = m->manager;
    err_t err = must_not_run(m, e);
    if (!err)
        err = remove_whole(manager, m->id, e);
    if (!err)
        err = layers_clear(manager, e);
    if (err)
        return err;
    take_out(m);
    pools_forget(manager->pools, m);
    manager_tell(manager, m, json_pack("{s:s}", "event", "removed"), true);
    managed_release(m);
    free(m);
    return OK;
}

// --- changed

err_t managed_rename(struct managed *m, const char *name, struct error *e)
{
    char old[sizeof m->name];
    err_t err = check_name(name, e);
    if (!err)
        err = must_not_run(m, e);
    if (!err)
        err = db_run(m->manager->db, e, "UPDATE vm SET name = ? WHERE id = ?", "ss", name, m->id);
    if (err == ERR_EXISTS)
        return error_set(e, err, "there is a VM '%s' already; give another name", name);
    if (err)
        return err;
    snprintf(old, sizeof old, "%s", m->name);
    take_out(m);
    snprintf(m->name, sizeof m->name, "%s", name);
    insert(m->manager, m);
    manager_tell(m->manager, m, json_pack("{s:s, s:s}", "event", "renamed", "from", old), true);
    return OK;
}

static json_t *parse_definition(const struct managed *m)
{
    char *text;
    if (managed_definition(m, &text, NULL))
        return NULL;
    json_t *definition = json_loads(text, 0, NULL);
    free(text);
    return definition;
}

err_t managed_edit(struct managed *m, const struct managed_edit *edit, struct error *e)
{
    char *text = NULL;
    json_t *definition = edit->definition ? json_deep_copy(edit->definition) : parse_definition(m);
    err_t err = definition_settle(m, definition, m->name, &text, e);
    json_decref(definition);
    if (!err)
        err = db_run(m->manager->db, e,
                     "UPDATE vm SET definition = ?, autostart = ?, restart = ?, stop_seconds = ? "
                     "WHERE id = ?",
                     "sisis", text, (int64_t)edit->autostart, restart_policies[edit->restart],
                     (int64_t)edit->stop_seconds, m->id);
    free(text);
    if (err)
        return err;
    m->autostart = edit->autostart;
    m->restart = edit->restart;
    m->stop_seconds = edit->stop_seconds;
    manager_tell(m->manager, m, json_pack("{s:s}", "event", "edited"), true);
    return OK;
}

// --- read from the inventory

struct loading {
    struct manager *manager;
    bool no_memory;
};

static void load_row(void *opaque, sqlite3_stmt *row)
{
    struct loading *loading = opaque;
    struct managed *m = make(loading->manager);
    if (!m) {
        loading->no_memory = true;
        return;
    }
    struct vm_config config;
    const char *definition = db_text(row, 2);
    snprintf(m->id, sizeof m->id, "%s", db_text(row, 0));
    snprintf(m->name, sizeof m->name, "%s", db_text(row, 1));
    m->wanted = sqlite3_column_int(row, 3);
    m->autostart = sqlite3_column_int(row, 4);
    (void)!restart_parse(db_text(row, 5), &m->restart, NULL);
    m->stop_seconds = (uint32_t)sqlite3_column_int(row, 6);
    m->created = sqlite3_column_int64(row, 7);
    m->started = sqlite3_column_int64(row, 8);
    m->ended = sqlite3_column_int64(row, 9);
    m->status = sqlite3_column_int(row, 10);
    snprintf(m->reason, sizeof m->reason, "%s", db_text(row, 11));
    snprintf(m->text, sizeof m->text, "%s", db_text(row, 12));
    m->restarts = (uint32_t)sqlite3_column_int(row, 13);
    snprintf(m->image, sizeof m->image, "%s", db_text(row, 14));
    m->state = m->started && m->status ? MANAGED_FAILED : MANAGED_STOPPED;
    if (!vm_config_load(&config, definition, strlen(definition), NULL)) {
        m->vcpus = config.vcpus;
        m->memory_mib = (uint32_t)(config.memory_bytes / MIB);
        vm_config_release(&config);
    }
    insert(loading->manager, m);
}

struct ids {
    char (*id)[MANAGED_ID + 1];
    size_t count;
};

static void collect_id(void *opaque, sqlite3_stmt *row)
{
    struct ids *ids = opaque;
    void *more = reallocarray(ids->id, ids->count + 1, sizeof *ids->id);
    if (!more)
        return;
    ids->id = more;
    snprintf(ids->id[ids->count++], sizeof *ids->id, "%s", db_text(row, 0));
}

// What a killed manager had begun to make or to remove.
static err_t clear_halves(struct manager *manager, struct error *e)
{
    struct ids ids = {0};
    err_t err =
        db_each(manager->db, e, collect_id, &ids, "SELECT id FROM vm WHERE phase <> 'whole'", "");
    for (size_t i = 0; !err && i < ids.count; i++)
        err = remove_whole(manager, ids.id[i], e);
    free(ids.id);
    return err;
}

err_t managed_load_all(struct manager *manager, struct error *e)
{
    struct loading loading = {.manager = manager};
    err_t err = clear_halves(manager, e);
    if (!err)
        err = db_each(manager->db, e, load_row, &loading,
                      "SELECT id, name, definition, wanted, autostart, restart, stop_seconds, "
                      "created, started, ended, status, reason, text, restarts, image FROM vm "
                      "ORDER BY name DESC", // each goes to the front of the list
                      "");
    if (!err)
        err = disks_reconcile(manager, e);
    if (!err)
        err = images_reconcile(manager, e);
    if (!err && loading.no_memory)
        err = error_set(e, ERR_NO_MEMORY, "no memory for the VMs");
    return err;
}

void managed_free_all(struct manager *manager)
{
    while (manager->vms) {
        struct managed *m = manager->vms;
        manager->vms = m->next;
        managed_release(m);
        free(m);
    }
}

// --- described

static void set_time(json_t *object, const char *name, int64_t ms)
{
    json_object_set_new(object, name, ms ? json_integer(ms) : json_null());
}

json_t *managed_describe(const struct managed *m)
{
    json_t *vm = json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:b, s:s, s:i, s:i}", "name", m->name,
                           "id", m->id, "state", managed_states[m->state], "vcpus", (int)m->vcpus,
                           "memory_mib", (int)m->memory_mib, "pid", managed_runs(m) ? m->pid : 0,
                           "autostart", m->autostart, "restart", restart_policies[m->restart],
                           "stop_seconds", (int)m->stop_seconds, "restarts", (int)m->restarts);
    if (!vm)
        return NULL;
    if (m->image[0])
        json_object_set_new(vm, "image", json_string(m->image));
    set_time(vm, "created", m->created);
    set_time(vm, "started", m->started);
    set_time(vm, "ended", managed_runs(m) ? 0 : m->ended);
    if (managed_runs(m)) {
        json_object_set_new(vm, "engine", json_string(m->engine));
        json_object_set_new(vm, "agent", json_boolean(m->agent));
        json_object_set_new(vm, "uptime_seconds",
                            json_real((double)(wall_ms() - m->started) / 1e3));
    } else if (m->ended) {
        json_object_set_new(vm, "status", json_integer(m->status));
        json_object_set_new(vm, "reason", json_string(m->reason));
        if (m->text[0])
            json_object_set_new(vm, "text", json_string(m->text));
    }
    return vm;
}
