// Files that say what VMs are to be (docs/formats/vm-file.md), in each of the languages that they
// may be written in.
#pragma once

#include <stdio.h>

#include <jansson.h>

#include "base/error.h"

enum vm_file_format {
    VM_FILE_YAML, // or JSON, which is YAML
    VM_FILE_TOML,
};

// By a word ("yaml", "toml"), or by how a file's name ends.
bool vm_file_format_parse(const char *word, enum vm_file_format *out);
enum vm_file_format vm_file_format_of(const char *path);

// The text as a list of VMs.
err_t vm_file_read(enum vm_file_format format, const char *text, size_t len, json_t **vms,
                   struct error *e);
err_t vm_file_write(enum vm_file_format format, const json_t *vms, FILE *to, struct error *e);
