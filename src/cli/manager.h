// Talking to the user's manager, berthd, which is started when it is first needed.
#pragma once

#include "control/client.h"

#define MANAGER_SYSTEM_RUNTIME "/run/berth" // of the system service, which is not started here

enum manager_need {
    MANAGER_IF_RUNNING, // else ERR_NOT_FOUND
    MANAGER_IF_USED,    // started where there is an inventory, else ERR_NOT_FOUND
    MANAGER_NEEDED,     // started
};

// Waits for answers up to timeout_ms each.
err_t manager_connect(enum manager_need need, int timeout_ms, struct client **out, struct error *e);

// One request to the manager, which is started; complains and returns an exit status when it fails.
// args is taken over.
int manager_ask(const char *request, json_t *args, int timeout_ms, json_t **result);
// The same with its error, and without starting it unless it is needed.
err_t manager_request(enum manager_need need, const char *request, json_t *args, int timeout_ms,
                      json_t **result, struct error *e);

// What the manager knows of a VM; ERR_NOT_FOUND also where nobody manages anything.
err_t manager_info(const char *vm, json_t **info, struct error *e);

// A connection to a running VM by its name or, where the manager knows it, its id.
err_t vm_connect(const char *vm, int timeout_ms, struct client **out, struct error *e);
