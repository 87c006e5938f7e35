// What berth create and berth edit share.
#pragma once

#include <jansson.h>

#include "machine/config.h"

// What the manager is told beside the definition.
struct create_words {
    int autostart; // -1: not given
    bool start, json;
    const char *restart; // NULL: not given
    int stop_seconds;    // -1: not given
};

// Takes them out of argv. False: --stop-timeout is wrong.
bool create_take_words(int *argc, char **argv, struct create_words *w);
void create_add_words(json_t *args, const struct create_words *w);

// Paths as whole ones; those of disks that the manager makes stay.
err_t create_whole_paths(struct vm_config *config, struct error *e);
// The definition without a name, as the manager takes it. agent: it is put into the guest.
err_t create_definition(struct vm_config *config, bool agent, json_t **out, struct error *e);
