// What verbs for several VMs share.
#pragma once

#include <jansson.h>

#include "base/types.h"

struct vms_words {
    bool json, force;
    int seconds; // --timeout; -1: not given
    char **names;
    int count;
};

// Reads [--json] NAME..., and what else allows: "f" --force, "t" --timeout. Names are moved to the
// front of argv + 1. Complains when it is wrong.
bool vms_parse(int argc, char **argv, const char *allows, struct vms_words *out);
bool seconds_parse(const char *text, int *seconds);

// For the request "stop".
json_t *vms_stop_arguments(const char *vm, const struct vms_words *words);
