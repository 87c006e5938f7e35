// What a document and a VM that is there differ in, and the requests that make it so. Definitions
// are compared in the form that the VM's own process would write them, so that defaults and order
// make no difference.
#include "cli/declare.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/manager.h"
#include "host/file.h"
#include "machine/config.h"

#define ANSWER_MS 60000
#define START_MS 180000
#define MADE_DISK "disk0.qcow2"
#define TEXT_MAX (16 * KIB)

// Keys that are not the definition's.
static const char *const settings[] = {"autostart", "restart", "stop_seconds"};
static const char *const texts[][2] = {{"user_data", "user-data"}, {"ssh_keys", "ssh-keys"}};

// --- documents

static void add_text(json_t *document, const json_t *info, const char *key, const char *file)
{
    char path[PATH_MAX];
    struct host_file text = {0};
    const char *folder = json_string_value(json_object_get(info, "folder"));
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "", file);
    if (!host_file_read(path, TEXT_MAX, &text, NULL) && text.len)
        json_object_set_new(document, key, json_stringn((char *)text.data, text.len));
    host_file_release(&text);
}

json_t *declare_describe(const json_t *info)
{
    json_t *document = json_object(), *definition = json_object_get(info, "definition");
    json_object_set(document, "name", json_object_get(info, "name"));
    if (json_object_get(info, "image"))
        json_object_set(document, "image", json_object_get(info, "image"));
    for (size_t i = 0; i < ARRAY_LEN(settings); i++)
        json_object_set(document, settings[i], json_object_get(info, settings[i]));
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        add_text(document, info, texts[i][0], texts[i][1]);
    json_object_update_missing(document, definition);
    json_object_del(document, "berth-vm");
    return document;
}

// The document without what is not the definition's.
static json_t *definition_of(const json_t *document)
{
    json_t *definition = json_deep_copy(document);
    json_object_del(definition, "name");
    json_object_del(definition, "image");
    json_object_del(definition, "running");
    for (size_t i = 0; i < ARRAY_LEN(settings); i++)
        json_object_del(definition, settings[i]);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        json_object_del(definition, texts[i][0]);
    return definition;
}

// --- comparing

// As a VM's process would write it; NULL with the words.
static json_t *normal(const json_t *definition, struct error *e)
{
    struct vm_config config;
    json_t *whole = json_deep_copy(definition), *result = NULL;
    json_object_set_new(whole, "berth-vm", json_integer(1));
    json_object_set_new(whole, "name", json_string("vm"));
    char *text = json_dumps(whole, 0), *saved = NULL;
    json_decref(whole);
    err_t err = text ? vm_config_load(&config, text, strlen(text), e) : ERR_NO_MEMORY;
    free(text);
    if (err)
        return NULL;
    if (!vm_config_save(&config, &saved, e))
        result = json_loads(saved, 0, NULL);
    free(saved);
    vm_config_release(&config);
    return result;
}

static void add_key(json_t *keys, const char *key)
{
    json_array_append_new(keys, json_string(key));
}

static void compare(const json_t *now, const json_t *wanted, json_t *keys)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)wanted, key, value)
    {
        if (!json_equal(value, json_object_get(now, key)))
            add_key(keys, key);
    }
    json_object_foreach((json_t *)now, key, value)
    {
        if (!json_object_get(wanted, key))
            add_key(keys, key);
    }
}

// A document of a VM from an image need not speak of the disk that is made for it.
static void add_made_disk(const json_t *document, json_t *definition)
{
    json_t *disks = json_object_get(definition, "disks");
    const char *first = json_string_value(json_object_get(json_array_get(disks, 0), "path"));
    if (!json_object_get(document, "image") || (first && !strcmp(first, MADE_DISK)))
        return;
    if (!disks)
        json_object_set_new(definition, "disks", disks = json_array());
    json_array_insert_new(disks, 0, json_pack("{s:s, s:s}", "path", MADE_DISK, "format", "qcow2"));
}

static err_t differences(const json_t *document, const json_t *info, json_t *keys, bool *defined,
                         struct error *e)
{
    json_t *definition = definition_of(document);
    add_made_disk(document, definition);
    json_t *now = normal(json_object_get(info, "definition"), e), *wanted = normal(definition, e);
    json_decref(definition);
    err_t err = now && wanted ? OK : e->code;
    if (!err)
        compare(now, wanted, keys);
    *defined = json_array_size(keys) > 0;
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        const json_t *value = json_object_get(document, settings[i]);
        if (value && !json_equal(value, json_object_get(info, settings[i])))
            add_key(keys, settings[i]);
    }
    json_decref(now);
    json_decref(wanted);
    return err;
}

// --- changing

static json_t *with_settings(json_t *args, const json_t *document)
{
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        json_t *value = json_object_get(document, settings[i]);
        if (value)
            json_object_set(args, settings[i], value);
    }
    return args;
}

static err_t request(const char *name, json_t *args, int wait, struct error *e)
{
    json_t *result = NULL;
    err_t err = manager_request(MANAGER_NEEDED, name, args, wait, &result, e);
    json_decref(result);
    return err;
}

static void note(const struct declare_options *o, const char *name, const char *change,
                 json_t *keys)
{
    json_array_append_new(o->changes, json_pack("{s:s, s:s, s:o}", "name", name, "change", change,
                                                "keys", keys ? keys : json_array()));
}

static err_t create(const json_t *document, const char *name, const struct declare_options *o,
                    struct error *e)
{
    json_t *definition = definition_of(document), *form = normal(definition, e);
    if (form)
        note(o, name, "create", NULL);
    json_decref(form);
    if (!form || o->dry_run) {
        json_decref(definition);
        return form ? OK : e->code;
    }
    json_t *args = json_pack("{s:s, s:o}", "name", name, "definition", definition);
    if (json_object_get(document, "image"))
        json_object_set(args, "image", json_object_get(document, "image"));
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (json_object_get(document, texts[i][0]))
            json_object_set(args, texts[i][0], json_object_get(document, texts[i][0]));
    }
    return request("create", with_settings(args, document), ANSWER_MS, e);
}

static err_t change(const json_t *document, const json_t *info, const char *name,
                    const struct declare_options *o, struct error *e)
{
    json_t *keys = json_array();
    bool defined = false;
    const json_t *image = json_object_get(document, "image");
    if (image && !json_equal(image, json_object_get(info, "image"))) {
        json_decref(keys);
        return error_set(e, ERR_INVALID,
                         "'%s' was made from another image; give it another name, or remove it",
                         name);
    }
    err_t err = differences(document, info, keys, &defined, e);
    if (err || !json_array_size(keys)) {
        json_decref(keys);
        return err;
    }
    note(o, name, "change", keys);
    if (o->dry_run)
        return OK;
    json_t *args = json_pack("{s:s}", "vm", name);
    if (defined) {
        json_t *definition = definition_of(document);
        add_made_disk(document, definition);
        json_object_set_new(args, "definition", definition);
    }
    return request("edit", with_settings(args, document), ANSWER_MS, e);
}

// running: true or false; who says nothing leaves it as it is.
static err_t run(const json_t *document, const json_t *info, const char *name,
                 const struct declare_options *o, struct error *e)
{
    const json_t *running = json_object_get(document, "running");
    bool runs = json_object_get(info, "uptime_seconds") != NULL;
    if (!running || json_is_true(running) == runs)
        return OK;
    note(o, name, runs ? "stop" : "start", NULL);
    return o->dry_run
               ? OK
               : request(runs ? "stop" : "start", json_pack("{s:s}", "vm", name), START_MS, e);
}

static err_t check(const json_t *document, const char **name, const struct declare_options *o,
                   struct error *e)
{
    const json_t *running = json_object_get(document, "running");
    *name = json_string_value(json_object_get(document, "name"));
    if (!json_is_object(document) || !*name)
        return error_set(e, ERR_INVALID, "a document has to be a VM, with a name");
    if (!vm_name_valid(*name))
        return error_set(e, ERR_INVALID, "'%.64s' is no name of a VM; " VM_NAME_RULE, *name);
    if (o->only && strcmp(o->only, *name) != 0)
        return error_set(e, ERR_INVALID, "this is about '%s'; berth rename changes names", o->only);
    if (running && !json_is_boolean(running))
        return error_set(e, ERR_INVALID, "running: give true or false");
    return OK;
}

err_t declare_apply(const json_t *document, const struct declare_options *o, struct error *e)
{
    const char *name;
    json_t *info = NULL;
    err_t err = check(document, &name, o, e);
    if (err)
        return err;
    err = manager_info(name, &info, e);
    if (!err && strcmp(json_string_value(json_object_get(info, "name")), name) != 0) {
        json_decref(info); // an id that happens to be this
        info = NULL;
        err = ERR_NOT_FOUND;
    }
    if (!err)
        err = change(document, info, name, o, e);
    else if (err == ERR_NOT_FOUND)
        err = create(document, name, o, e);
    if (!err)
        err = run(document, info, name, o, e);
    json_decref(info);
    return err ? error_in(e, "%s", name) : OK;
}
