// A YAML file has a document for each VM, a TOML file a table [[vm]], or one VM's keys alone.
#include "cli/vm_file.h"

#include <stdlib.h>
#include <string.h>

#include "cli/toml.h"
#include "cli/yaml.h"

#define VM_TABLES "vm"

bool vm_file_format_parse(const char *word, enum vm_file_format *out)
{
    if (!word || (strcmp(word, "yaml") != 0 && strcmp(word, "toml") != 0))
        return false;
    *out = *word == 't' ? VM_FILE_TOML : VM_FILE_YAML;
    return true;
}

enum vm_file_format vm_file_format_of(const char *path)
{
    size_t len = strlen(path);
    return len > 5 && !strcmp(path + len - 5, ".toml") ? VM_FILE_TOML : VM_FILE_YAML;
}

static err_t read_toml(const char *text, size_t len, json_t **vms, struct error *e)
{
    json_t *root = NULL;
    err_t err = toml_read(text, len, &root, e);
    if (err)
        return err;
    json_t *tables = json_object_get(root, VM_TABLES);
    if (json_is_array(tables) && json_object_size(root) == 1)
        *vms = json_incref(tables);
    else
        *vms = json_pack("[O]", root);
    json_decref(root);
    return *vms ? OK : error_set(e, ERR_NO_MEMORY, "no memory to read TOML");
}

err_t vm_file_read(enum vm_file_format format, const char *text, size_t len, json_t **vms,
                   struct error *e)
{
    return format == VM_FILE_TOML ? read_toml(text, len, vms, e) : yaml_read(text, len, vms, e);
}

err_t vm_file_write(enum vm_file_format format, const json_t *vms, FILE *to, struct error *e)
{
    size_t i;
    const json_t *vm;
    bool tables = format == VM_FILE_TOML && json_array_size(vms) > 1;
    json_array_foreach(vms, i, vm)
    {
        char *text = NULL;
        err_t err = format == VM_FILE_TOML ? toml_write(vm, &text, e) : yaml_write(vm, &text, e);
        if (err)
            return err;
        fprintf(to, "%s%s%s", tables && i ? "\n" : "", tables ? "[[" VM_TABLES "]]\n" : "", text);
        free(text);
    }
    return OK;
}
