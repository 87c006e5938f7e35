// The manager: the VMs of one user, which of them run, and what is to happen when one ends. The
// inventory (db.h) is the truth about what lasts and is written before anything is answered; the
// structs here hold the same, and what is known about running VMs.
//
// Loop thread only.
#pragma once

#include <limits.h>

#include "control/registry.h"
#include "control/server.h"
#include "http/http.h"
#include "manager/db.h"
#include "manager/link.h"
#include "manager/process.h"

#define MANAGED_ID 12 // hexadecimal digits
#define MANAGER_LISTENERS_MAX 8

#define MANAGED_SCREEN "screen.sock" // in the VM's folder, for viewers of its screen (RFB)

enum managed_state {
    MANAGED_STOPPED,  // by request, or its guest powered off
    MANAGED_FAILED,   // its last end was none of these
    MANAGED_STARTING, // its process runs, its guest does not yet
    MANAGED_RUNNING,
    MANAGED_PAUSED,
    MANAGED_STOPPING,   // asked to shut down
    MANAGED_RESTARTING, // waits to be started again, by policy
    MANAGED_STATES,
};

enum restart_policy { RESTART_NO, RESTART_ON_FAILURE, RESTART_ALWAYS, RESTART_POLICIES };

extern const char *const managed_states[MANAGED_STATES];
extern const char *const restart_policies[RESTART_POLICIES];

struct manager;

// A request that is answered when the VM has got that far.
struct waiter {
    struct promise *promise;
    bool for_end; // else until it runs
    struct waiter *next;
};

// One VM.
struct managed {
    struct manager *manager;
    struct managed *next; // in the order of their names
    char id[MANAGED_ID + 1], name[REGISTRY_NAME_MAX + 1];

    // As in its row.
    char image[REGISTRY_NAME_MAX + 1]; // that it was made from; "": none
    bool wanted, autostart;
    enum restart_policy restart;
    uint32_t stop_seconds, restarts;
    int64_t created, started, ended; // ms since 1970 UTC; 0: never
    int status;                      // of its last end, with reason and text
    char reason[24], text[160];
    uint32_t vcpus, memory_mib; // of its definition

    // While it runs.
    enum managed_state state;
    struct process process;  // its supervisor
    int pid;                 // its own process; 0: not known
    char engine[16];         // likewise ""
    bool agent;              // its guest's agent is ready
    struct loop_fd ready;    // the supervisor's standard output until the VM listens; -1
    struct link *link;       // to its control socket; NULL: not yet, or it does not answer
    struct loop_timer timer; // stopping: by force; restarting: now
    struct loop_timer connecting;
    uint64_t stop_began, stop_by; // host_now(): then it was asked, then it is forced
    bool heard;                   // its guest listens to the button that was pressed
    unsigned forced;              // how often it was told to stop at once
    bool removing;                // when it has ended
    bool again;                   // start it when it has ended
    uint64_t told;                // events passed on lately: bounded
    uint64_t told_since;          // host_now()
    struct waiter *waiters;
};

// Gets each event as a line with its newline.
typedef void manager_listen_fn(void *opaque, const char *line, size_t len);

struct manager {
    struct loop *loop;
    struct db *db;
    struct http *http;     // serves them over HTTP; NULL: not yet
    struct server *server; // serves manager_requests on the manager's socket
    struct registry_claim claim;
    struct managed *vms;
    struct pools *pools;             // who gets what of the host (pools.h)
    struct coordinator *coordinator; // carries that out (coordinator.h)
    char state[PATH_MAX - 256];      // the directory of everything that lasts
    char berth[PATH_MAX];            // the program that supervises
    char web[PATH_MAX];              // the folder of the web page
    struct execution *executions;    // commands that run in guests (guest.c)
    int64_t began;                   // ms since 1970 UTC
    struct {
        manager_listen_fn *fn;
        void *opaque;
    } listeners[MANAGER_LISTENERS_MAX];
};

// --- manager.c: the whole

// Takes the user's manager's name, opens the inventory and finds what runs. ERR_BUSY: there is one.
// loop is the caller's. manager_close() accepts a half-open one; VMs run on.
err_t manager_open(struct manager *manager, struct loop *loop, struct error *e);
void manager_close(struct manager *manager);
// Serves the manager's socket.
err_t manager_serve(struct manager *manager, struct error *e);

err_t manager_listen(struct manager *manager, manager_listen_fn *fn, void *opaque, struct error *e);
void manager_unlisten(struct manager *manager, void *opaque);

// An event (taken over) to whoever listens; it gets the VM's name and id where m is not NULL.
// kept: into the inventory, too.
void manager_tell(struct manager *manager, const struct managed *m, json_t *event, bool kept);

int64_t wall_ms(void);

// --- managed.c: VMs and their rows

// By name or, where there is none of that name, by id or its first four digits or more.
// ERR_NOT_FOUND, ERR_INVALID: ambiguous.
err_t managed_find(struct manager *manager, const char *name, struct managed **out,
                   struct error *e);
err_t managed_load_all(struct manager *manager, struct error *e);
void managed_free_all(struct manager *manager);

struct managed_new {
    const char *name;
    const json_t
        *definition;   // an object as docs/formats/vm-definition.md has it; the name is put in
    const char *image; // in the inventory, for the first disk; NULL: none
    const char *user_data, *ssh_keys; // texts for cloud-init's seed; NULL: none
    const struct managed *like;       // whose disks it gets copies of; NULL: nobody's
    bool autostart;
    enum restart_policy restart;
    uint32_t stop_seconds;
};
// A new VM, which does not run. Nothing is left of it on an error. ERR_EXISTS, ERR_INVALID.
err_t managed_create(struct manager *manager, const struct managed_new *asked, struct managed **out,
                     struct error *e);
// One like another, which does not run.
err_t managed_clone(const struct managed *m, const char *name, struct managed **out,
                    struct error *e);
// Its row and its folder; it must not run. m is freed.
err_t managed_remove(struct managed *m, struct error *e);
err_t managed_rename(struct managed *m, const char *name, struct error *e);

// What a VM is from now on, or from its next start. definition NULL: as it is.
struct managed_edit {
    const json_t *definition;
    bool autostart;
    enum restart_policy restart;
    uint32_t stop_seconds;
};
err_t managed_edit(struct managed *m, const struct managed_edit *edit, struct error *e);

// The definition's text, to be freed.
err_t managed_definition(const struct managed *m, char **text, struct error *e);
// The VM's folder; or a file in it where name is not NULL.
void managed_path(const struct managed *m, const char *name, char path[PATH_MAX]);

json_t *managed_describe(const struct managed *m); // for lists
err_t restart_parse(const char *text, enum restart_policy *out, struct error *e);

// --- life.c: starting, running, ending

bool managed_runs(const struct managed *m); // a process of it exists
// Starts it, or says why not. Whoever waits hears when it runs.
err_t managed_start(struct managed *m, struct error *e);
// Asks its guest to shut down; after seconds it is stopped by force. 0: at once.
err_t managed_stop(struct managed *m, uint32_t seconds, struct error *e);
// After an earlier manager: finds its process, or settles how it ended.
void managed_reconcile(struct managed *m);
void managed_init_timers(struct managed *m);
void managed_ended(struct managed *m);   // its process is gone
void managed_release(struct managed *m); // lets go of the process; it runs on
err_t managed_wait(struct managed *m, bool for_end, struct reply *reply, struct error *e);

// --- usage.c, metrics.c: what VMs and the manager take

err_t usage_request(void *context, const json_t *args, struct reply *reply, struct error *e);
// usage_request()'s answer as Prometheus' text format 0.0.4.
void metrics_text(const json_t *usage, struct buffer *out);

// --- tokens.c: who may ask over TCP. Only hashes are kept.

extern const struct request_field token_create_fields[], token_name_fields[];
err_t token_create(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t token_ls(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t token_rm(void *context, const json_t *args, struct reply *reply, struct error *e);
enum http_role token_role(void *manager, const char *token);

// --- networks.c

extern const struct request_field network_fields[], network_name_fields[];
err_t networks_request(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t network_create_request(void *context, const json_t *args, struct reply *reply,
                             struct error *e);
err_t network_set_request(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t network_rm_request(void *context, const json_t *args, struct reply *reply, struct error *e);

// --- guest.c: programs in guests

err_t exec_request(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t agent_request(void *context, const json_t *args, struct reply *reply, struct error *e);
void executions_end(struct manager *manager);

// --- web.c: HTTP

struct web_options {
    const char *listen;            // "ADDRESS:PORT" for TLS; NULL: only the Unix socket
    const char *certificate, *key; // PEM files; NULL: self-made ones in the manager's directory
};
err_t web_open(struct manager *manager, const struct web_options *options, struct error *e);
void web_close(struct manager *manager);
err_t screen_request(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t openapi_request(void *context, const json_t *args, struct reply *reply, struct error *e);

// --- requests.c

extern const struct request manager_requests[]; // their context is the struct manager
