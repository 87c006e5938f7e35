// VMs as files: what is in one, and making VMs so (docs/formats/vm-file.md).
#pragma once

#include <jansson.h>

#include "base/error.h"

// The VM as a document, from what the manager's "info" says.
json_t *declare_describe(const json_t *info);

struct declare_options {
    bool dry_run;     // say only what would be done
    const char *only; // the VM that a document may be about; NULL: any
    json_t *changes;  // a list to add to: {"name":, "change":, "keys": [...]}
};
// Makes one VM as its document says.
err_t declare_apply(const json_t *document, const struct declare_options *options, struct error *e);
