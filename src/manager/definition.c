// Definitions (docs/formats/vm-definition.md) as the manager takes them: complete, checked, and
// with no path in them but whole ones and the disks that it makes.
#include "manager/definition.h"

#include <stdlib.h>
#include <string.h>

#include "machine/config.h"
#include "manager/disks.h"

static bool is_made_disk(const char *path)
{
    char name[24];
    for (unsigned i = 0; i < DISKS_MADE_MAX; i++) {
        disk_name(i, name);
        if (!strcmp(path, name))
            return true;
    }
    return false;
}

// The VM's process starts in its folder, where it has no business but with the disks made for it.
static err_t check_path(const char *key, const char *path, struct error *e)
{
    if (!path || path[0] == '/')
        return OK;
    return error_set(e, ERR_INVALID, "%s: '%.80s' is not a whole path; begin it with /", key, path);
}

static const char *path_in(const char *spec, const char *prefix)
{
    size_t len = strlen(prefix);
    return spec && !strncmp(spec, prefix, len) ? spec + len : NULL;
}

static err_t check_paths(const struct vm_config *config, struct error *e)
{
    const struct {
        const char *key, *path;
    } given[] = {
        {"kernel", config->kernel},
        {"initrd", config->initrd},
        {"uefi_vars", config->uefi_vars},
        {"serial", path_in(config->serial, "file:")},
        {"console", path_in(config->console, "file:")},
        {"firmware_log", path_in(config->firmware_log, "file:")},
        {"display", path_in(config->display, "vnc=unix:")},
    };
    err_t err = OK;
    for (size_t i = 0; !err && i < ARRAY_LEN(given); i++)
        err = check_path(given[i].key, given[i].path, e);
    for (uint32_t i = 0; !err && i < config->disks; i++) {
        const char *path = config->disk[i].path;
        if (path && !is_made_disk(path))
            err = check_path("disks", path, e);
    }
    for (uint32_t i = 0; !err && i < config->nics; i++) {
        if (vm_nic_rom_file(&config->nic[i]))
            err = check_path("rom", config->nic[i].rom, e);
    }
    return err;
}

err_t definition_settle(struct managed *m, const json_t *given, const char *name, char **text,
                        struct error *e)
{
    json_t *whole = json_deep_copy(given);
    if (!whole)
        return error_set(e, ERR_NO_MEMORY, "no memory for a definition");
    json_object_set_new(whole, "berth-vm", json_integer(1));
    json_object_set_new(whole, "name", json_string(name));
    char *dump = json_dumps(whole, JSON_COMPACT);
    json_decref(whole);
    struct vm_config config;
    err_t err = dump ? vm_config_load(&config, dump, strlen(dump), e)
                     : error_set(e, ERR_NO_MEMORY, "no memory for a definition");
    if (err) {
        free(dump);
        return err;
    }
    err = check_paths(&config, e);
    if (!err) {
        m->vcpus = config.vcpus;
        m->memory_mib = (uint32_t)(config.memory_bytes / MIB);
        *text = dump;
    } else {
        free(dump);
    }
    vm_config_release(&config);
    return err;
}

err_t definition_for_clone(json_t *definition, const char *name, struct error *e)
{
    size_t i;
    json_t *nic, *disk;
    json_array_foreach(json_object_get(definition, "nics"), i, nic)
    {
        json_object_del(nic, "mac");
        json_object_del(nic, "address");
        json_object_del(nic, "forwards");
    }
    json_array_foreach(json_object_get(definition, "disks"), i, disk)
    {
        const char *path = json_string_value(json_object_get(disk, "path"));
        bool shares = json_is_true(json_object_get(disk, "read_only")) ||
                      json_is_true(json_object_get(disk, "snapshot")) ||
                      json_is_true(json_object_get(disk, "cdrom"));
        if (path && !shares && !is_made_disk(path))
            return error_set(e, ERR_UNSUPPORTED,
                             "'%s' writes to %.100s, which is not the manager's; berth image "
                             "import it, and make VMs of that",
                             name, path);
    }
    return OK;
}

json_t *definition_with_image(const json_t *definition)
{
    char name[24];
    disk_name(0, name);
    json_t *whole = json_deep_copy(definition), *disks = json_object_get(whole, "disks");
    const char *first = json_string_value(json_object_get(json_array_get(disks, 0), "path"));
    if (!disks) {
        disks = json_array();
        json_object_set_new(whole, "disks", disks);
    }
    if (!first || strcmp(first, name) != 0)
        json_array_insert_new(disks, 0, json_pack("{s:s, s:s}", "path", name, "format", "qcow2"));
    return whole;
}
