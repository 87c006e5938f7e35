// What can be asked of the manager, over its socket and over HTTP. A family of requests is a file
// with its handlers and lines in the table here.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "manager/disks.h"
#include "manager/manager.h"
#include "manager/pools.h"

#define NAME_BYTES REGISTRY_NAME_MAX
#define STOP_SECONDS 60
#define TEXT_BYTES 16384
#define STOP_SECONDS_MAX 86400

static err_t find(struct manager *manager, const json_t *args, struct managed **out,
                  struct error *e)
{
    return managed_find(manager, request_text(args, "vm", ""), out, e);
}

static void give(struct reply *reply, json_t *more)
{
    json_object_update(reply->result, more);
    json_decref(more);
}

// --- the manager

static err_t ping(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return OK;
}

static err_t help(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    json_object_set_new(reply->result, "requests", request_describe(manager_requests));
    return OK;
}

static err_t daemon_info(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct manager *manager = context;
    int count = 0, running = 0;
    for (struct managed *m = manager->vms; m; m = m->next) {
        count++;
        running += managed_runs(m);
    }
    give(reply, json_pack("{s:s, s:i, s:s, s:i, s:i, s:I}", "version", BERTH_VERSION, "pid",
                          (int)getpid(), "state", manager->state, "vms", count, "running", running,
                          "started", (json_int_t)manager->began));
    return OK;
}

static void end(void *opaque)
{
    loop_stop(opaque);
}

static err_t shut_down(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct manager *manager = context;
    end(manager->loop);
    return OK;
}

static err_t events(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    reply->events = true;
    return OK;
}

static void add_event(void *opaque, sqlite3_stmt *row)
{
    json_t *event = json_loads(db_text(row, 0), 0, NULL);
    if (event)
        json_array_append_new(opaque, event);
}

static err_t history(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct manager *manager = context;
    json_t *list = json_array();
    const char *vm = request_text(args, "vm", NULL);
    err_t err = db_each(manager->db, e, add_event, list,
                        "SELECT line FROM (SELECT number, line FROM event WHERE ?1 IS NULL OR "
                        "vm = ?1 ORDER BY number DESC LIMIT ?2) ORDER BY number",
                        "si", vm, request_number(args, "last", 100));
    json_object_set_new(reply->result, "events", list);
    return err;
}

// --- VMs

static err_t ls(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct manager *manager = context;
    json_t *list = json_array();
    for (struct managed *m = manager->vms; m; m = m->next)
        json_array_append_new(list, managed_describe(m));
    json_object_set_new(reply->result, "vms", list);
    return OK;
}

static err_t info(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct managed *m;
    char *text = NULL, folder[PATH_MAX];
    err_t err = find(context, args, &m, e);
    if (!err)
        err = managed_definition(m, &text, e);
    if (err)
        return err;
    give(reply, managed_describe(m));
    managed_path(m, NULL, folder);
    json_object_set_new(reply->result, "folder", json_string(folder));
    json_object_set_new(reply->result, "definition", json_loads(text, 0, NULL));
    free(text);
    return OK;
}

static err_t create(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct managed_new asked = {.name = request_text(args, "name", ""),
                                .definition = json_object_get(args, "definition"),
                                .image = request_text(args, "image", NULL),
                                .user_data = request_text(args, "user_data", NULL),
                                .ssh_keys = request_text(args, "ssh_keys", NULL),
                                .autostart = json_is_true(json_object_get(args, "autostart")),
                                .stop_seconds =
                                    (uint32_t)request_number(args, "stop_seconds", STOP_SECONDS)};
    struct managed *m;
    err_t err = restart_parse(request_text(args, "restart", "no"), &asked.restart, e);
    if (!err)
        err = managed_create(context, &asked, &m, e);
    if (err)
        return err;
    give(reply, managed_describe(m));
    return OK;
}

static err_t start(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct managed *m;
    err_t err = find(context, args, &m, e);
    if (err)
        return err;
    if (m->state == MANAGED_RUNNING || m->state == MANAGED_PAUSED) {
        give(reply, managed_describe(m));
        return OK;
    }
    if (m->state == MANAGED_STOPPING)
        return error_set(e, ERR_BUSY, "'%s' is about to stop; wait for it", m->name);
    err = managed_start(m, e);
    return err ? err : managed_wait(m, false, reply, e);
}

static uint32_t patience(const struct managed *m, const json_t *args)
{
    if (json_is_true(json_object_get(args, "force")))
        return 0;
    return (uint32_t)request_number(args, "seconds", m->stop_seconds);
}

static err_t stop(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct managed *m;
    err_t err = find(context, args, &m, e);
    if (!err)
        err = managed_stop(m, patience(m, args), e);
    if (err)
        return err;
    m->again = false;
    if (managed_runs(m))
        return managed_wait(m, true, reply, e);
    give(reply, managed_describe(m));
    return OK;
}

static err_t restart(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct managed *m;
    err_t err = find(context, args, &m, e);
    bool runs = !err && managed_runs(m);
    if (!err)
        err = runs ? managed_stop(m, patience(m, args), e) : managed_start(m, e);
    if (err)
        return err;
    m->again = runs;
    return managed_wait(m, false, reply, e);
}

static err_t rm(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct managed *m;
    bool force = json_is_true(json_object_get(args, "force"));
    err_t err = find(context, args, &m, e);
    if (err)
        return err;
    if (!force || (!managed_runs(m) && m->state != MANAGED_RESTARTING))
        return managed_remove(m, e);
    err = managed_stop(m, 0, e);
    if (err)
        return err;
    if (!managed_runs(m))
        return managed_remove(m, e);
    m->again = false;
    m->removing = true;
    return managed_wait(m, true, reply, e);
}

static err_t rename_vm(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct managed *m;
    err_t err = find(context, args, &m, e);
    if (!err)
        err = managed_rename(m, request_text(args, "name", ""), e);
    if (!err)
        give(reply, managed_describe(m));
    return err;
}

static err_t clone_vm(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct managed *m, *clone;
    err_t err = find(context, args, &m, e);
    if (!err)
        err = managed_clone(m, request_text(args, "name", ""), &clone, e);
    if (!err)
        give(reply, managed_describe(clone));
    return err;
}

static bool given_bool(const json_t *args, const char *name, bool otherwise)
{
    const json_t *value = json_object_get(args, name);
    return value ? json_is_true(value) : otherwise;
}

static err_t edit(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct managed *m;
    err_t err = find(context, args, &m, e);
    if (err)
        return err;
    struct managed_edit edit = {
        .definition = json_object_get(args, "definition"),
        .autostart = given_bool(args, "autostart", m->autostart),
        .stop_seconds = (uint32_t)request_number(args, "stop_seconds", m->stop_seconds)};
    err = restart_parse(request_text(args, "restart", restart_policies[m->restart]), &edit.restart,
                        e);
    if (!err)
        err = managed_edit(m, &edit, e);
    if (!err)
        give(reply, managed_describe(m));
    return err;
}

// --- images

static err_t image_ls(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    json_t *list = NULL;
    err_t err = image_list(context, &list, e);
    json_object_set_new(reply->result, "images", list);
    return err;
}

static err_t take_image(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return image_import(context, request_text(args, "name", ""), request_text(args, "file", ""),
                        request_text(args, "hash", ""), e);
}

static err_t image_rm(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return image_remove(context, request_text(args, "image", ""), e);
}

// --- handed on to the VM itself

static void handed_on(void *opaque, json_t *result, const struct error *e)
{
    promise_settle(opaque, result, e);
}

static err_t hand_on(struct manager *manager, const json_t *args, const char *request,
                     struct reply *reply, struct error *e)
{
    struct managed *m;
    err_t err = find(manager, args, &m, e);
    if (err)
        return err;
    if (!m->link)
        return error_set(e, ERR_INVALID, "'%s' does not run; berth start %s starts it", m->name,
                         m->name);
    struct promise *promise = reply_later(reply);
    if (!promise)
        return error_set(e, ERR_NO_MEMORY, "no memory for an answer");
    err = link_ask(m->link, request, NULL, handed_on, promise, e);
    if (err) {
        reply->later = NULL;
        promise_settle(promise, NULL, e);
    }
    return err;
}

static err_t pause_vm(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return hand_on(context, args, "pause", reply, e);
}

static err_t resume_vm(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return hand_on(context, args, "resume", reply, e);
}

static err_t reset_vm(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return hand_on(context, args, "reset", reply, e);
}

static err_t stats(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return hand_on(context, args, "stats", reply, e);
}

static err_t console(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct managed *m;
    err_t err = find(context, args, &m, e);
    return err ? err : registry_attach(m->name, &reply->fd, e);
}

// --- the table

#define VM_FIELD                                            \
    {                                                       \
        "vm", FIELD_TEXT, true, 0, NAME_BYTES, "name or id" \
    }
#define SECONDS_FIELD                                                                             \
    {                                                                                             \
        "seconds", FIELD_NUMBER, false, 0, STOP_SECONDS_MAX, "for its guest, before it is forced" \
    }
#define FORCE_FIELD                                                           \
    {                                                                         \
        "force", FIELD_BOOL, false, 0, 0, "at once, without asking the guest" \
    }

static const struct request_field vm_fields[] = {VM_FIELD, {0}};
static const struct request_field stop_fields[] = {VM_FIELD, SECONDS_FIELD, FORCE_FIELD, {0}};
static const struct request_field history_fields[] = {
    {"vm", FIELD_TEXT, false, 0, NAME_BYTES, "only of the VM of this name"},
    {"last", FIELD_NUMBER, false, 1, 10000, "how many; 100 when missing"},
    {0},
};
static const struct request_field create_fields[] = {
    {"name", FIELD_TEXT, true, 0, NAME_BYTES, "what to call it"},
    {"definition", FIELD_OBJECT, true, 0, 0, "the VM, as docs/formats/vm-definition.md has it"},
    {"image", FIELD_TEXT, false, 0, NAME_BYTES, "image for its first disk"},
    {"autostart", FIELD_BOOL, false, 0, 0, "start it when the host starts"},
    {"restart", FIELD_TEXT, false, 0, 16, "when it has ended: no, on-failure or always"},
    {"stop_seconds", FIELD_NUMBER, false, 0, STOP_SECONDS_MAX,
     "how long a guest that is to stop has"},
    {"user_data", FIELD_TEXT, false, 0, TEXT_BYTES, "for its cloud-init"},
    {"ssh_keys", FIELD_TEXT, false, 0, TEXT_BYTES, "public keys for its cloud-init to let in"},
    {0},
};
static const struct request_field edit_fields[] = {
    VM_FIELD,
    {"definition", FIELD_OBJECT, false, 0, 0, "the whole VM, from its next start on"},
    {"autostart", FIELD_BOOL, false, 0, 0, "start it when the host starts"},
    {"restart", FIELD_TEXT, false, 0, 16, "when it has ended: no, on-failure or always"},
    {"stop_seconds", FIELD_NUMBER, false, 0, STOP_SECONDS_MAX,
     "how long a guest that is to stop has"},
    {0},
};
static const struct request_field rm_fields[] = {
    VM_FIELD, {"force", FIELD_BOOL, false, 0, 0, "switch it off first where it runs"}, {0}};
static const struct request_field name_fields[] = {
    VM_FIELD, {"name", FIELD_TEXT, true, 0, NAME_BYTES, "the new name"}, {0}};
static const struct request_field import_fields[] = {
    {"name", FIELD_TEXT, true, 0, NAME_BYTES, "what to call it"},
    {"file", FIELD_TEXT, true, 0, 64, "in the folder of images: .new- and a name"},
    {"hash", FIELD_TEXT, true, 0, 64, "its SHA-256"},
    {0},
};
static const struct request_field exec_fields[] = {
    VM_FIELD,
    {"command", FIELD_TEXTS, true, 0, 4096, "the program's name or path, and its arguments"},
    {"user", FIELD_TEXT, false, 0, 64, "of the guest; root when missing"},
    {"dir", FIELD_TEXT, false, 0, 1024, "where; the user's home when missing"},
    {"seconds", FIELD_NUMBER, false, 1, 3600, "how long it may take; 60 when missing"},
    {0},
};
static const struct request_field image_fields[] = {
    {"image", FIELD_TEXT, true, 0, NAME_BYTES, "its name"}, {0}};

const struct request manager_requests[] = {
    {"ping", "answers: the manager is alive", NULL, ping},
    {"help", "lists the requests and their arguments", NULL, help},
    {"daemon", "the manager: version, process, directory", NULL, daemon_info, "GET /v1/daemon"},
    {"shutdown", "ends the manager; VMs run on", NULL, shut_down},
    {"events", "sends each event from now on as a line of its own", NULL, events, "GET /v1/events",
     ANSWER_EVENTS},
    {"history", "the last events", history_fields, history, "GET /v1/history"},
    {"ls", "all VMs", NULL, ls, "GET /v1/vms"},
    {"info", "one VM: state, last end, definition", vm_fields, info, "GET /v1/vms/{vm}"},
    {"create", "makes a VM, which does not run", create_fields, create, "POST /v1/vms"},
    {"start", "starts it; answers when its guest runs", vm_fields, start,
     "POST /v1/vms/{vm}/start"},
    {"stop", "shuts it down, then by force; answers when it has ended", stop_fields, stop,
     "POST /v1/vms/{vm}/stop"},
    {"restart", "stops and starts it; answers when its guest runs", stop_fields, restart,
     "POST /v1/vms/{vm}/restart"},
    {"pause", "stops its vCPUs and its time", vm_fields, pause_vm, "POST /v1/vms/{vm}/pause"},
    {"resume", "lets it run on", vm_fields, resume_vm, "POST /v1/vms/{vm}/resume"},
    {"reset", "presses its reset button", vm_fields, reset_vm, "POST /v1/vms/{vm}/reset"},
    {"stats", "every counter of its engine and devices", vm_fields, stats,
     "GET /v1/vms/{vm}/stats"},
    {"console", "its shared console: a socket of raw bytes in the descriptor", vm_fields, console,
     "GET /v1/vms/{vm}/console", ANSWER_STREAM},
    {"exec", "runs a command in its guest, by the agent there: status, stdout and stderr",
     exec_fields, exec_request, "POST /v1/vms/{vm}/exec"},
    {"agent", "its guest's agent, for streams and files: docs/formats/agent.md in the descriptor",
     vm_fields, agent_request, "GET /v1/vms/{vm}/agent", ANSWER_STREAM},
    {"pool-ls", "pools, and the VMs in them, with what they use", NULL, pool_ls_request,
     "GET /v1/pools"},
    {"pool-create", "makes a pool", pool_fields, pool_create_request, "POST /v1/pools"},
    {"pool-set", "changes a pool; what is not given stays", pool_fields, pool_set_request,
     "PATCH /v1/pools/{pool}"},
    {"pool-rm", "removes an empty pool", pool_name_fields, pool_rm_request,
     "DELETE /v1/pools/{pool}"},
    {"share", "a VM's place among the others; what is given changes", share_fields, share_request,
     "PATCH /v1/vms/{vm}/share"},
    {"edit", "changes what it is; what its process has to know holds from its next start",
     edit_fields, edit, "PATCH /v1/vms/{vm}"},
    {"rename", "gives it another name; it must not run", name_fields, rename_vm,
     "POST /v1/vms/{vm}/rename"},
    {"clone", "makes another VM like it; it must not run", name_fields, clone_vm,
     "POST /v1/vms/{vm}/clone"},
    {"rm", "removes it with its disks; it must not run, unless forced", rm_fields, rm,
     "DELETE /v1/vms/{vm}"},
    {"image-ls", "all images", NULL, image_ls, "GET /v1/images"},
    {"image-import", "makes a file that lies beside the images one of them", import_fields,
     take_image},
    {"image-rm", "removes an image that no VM stands on", image_fields, image_rm,
     "DELETE /v1/images/{image}"},
    {"screen", "its screen: a socket of RFB in the descriptor", vm_fields, screen_request,
     "GET /v1/vms/{vm}/screen", ANSWER_STREAM},
    {"usage", "what the manager and all VMs take: CPU, memory, disks, networks, exits", NULL,
     usage_request, "GET /v1/usage"},
    {"networks", "the virtual networks", NULL, networks_request, "GET /v1/networks"},
    {"network-create", "defines a virtual network; what is not given follows from its name",
     network_fields, network_create_request, "POST /v1/networks"},
    {"network-set", "changes one that does not run; what is not given stays", network_fields,
     network_set_request, "PATCH /v1/networks/{network}"},
    {"network-rm", "removes one that does not run", network_name_fields, network_rm_request,
     "DELETE /v1/networks/{network}"},
    {"token-create", "a token for HTTP over TCP; it is told this once", token_create_fields,
     token_create, "POST /v1/tokens"},
    {"token-ls", "whose tokens there are", NULL, token_ls, "GET /v1/tokens"},
    {"token-rm", "revokes a token", token_name_fields, token_rm, "DELETE /v1/tokens/{name}"},
    {"openapi", "all of this as an OpenAPI description", NULL, openapi_request,
     "GET /v1/openapi.json"},
    {0},
};
