// berth create: berth run's options into a VM that the manager keeps. Paths are made whole, since
// the manager's working directory is another one.
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/create.h"
#include "cli/manager.h"
#include "cli/seed.h"
#include "cli/vms.h"
#include "machine/config.h"

#define ANSWER_MS 30000
#define START_MS 180000
#define NAMES_MAX 9999
#define USER_DATA_MAX (16 * KIB)
#define MADE_DISK "disk0.qcow2" // as the manager calls the disk of an image

const char create_help[] =
    "usage: berth create [OPTION...] [IMAGE]\n"
    "\n"
    "Makes a VM that stays until berth rm removes it; berth start starts it. IMAGE is the name of\n"
    "an image that berth image import took, of which the VM gets a disk of its own at once; or,\n"
    "with a / in it, a file as berth run takes it, which the VM then writes to.\n"
    "\n"
    "      --autostart            start it when the host starts\n"
    "      --restart POLICY       when it has ended by itself: no, on-failure or always (no)\n"
    "      --stop-timeout SECONDS how long its guest has when it is to stop (60)\n"
    "      --start                start it now\n"
    "      --json                 print what was made as JSON\n"
    "\n"
    "All other options are those of berth run, which berth run --help lists.\n";

bool create_take_words(int *argc, char **argv, struct create_words *w)
{
    int kept = 1;
    *w = (struct create_words){.autostart = -1, .stop_seconds = -1};
    for (int i = 1; i < *argc; i++) {
        bool more = i + 1 < *argc;
        if (!strcmp(argv[i], "--autostart"))
            w->autostart = true;
        else if (!strcmp(argv[i], "--no-autostart"))
            w->autostart = false;
        else if (!strcmp(argv[i], "--start"))
            w->start = true;
        else if (!strcmp(argv[i], "--json"))
            w->json = true;
        else if (!strcmp(argv[i], "--restart") && more)
            w->restart = argv[++i];
        else if (!strcmp(argv[i], "--stop-timeout") && more) {
            if (!seconds_parse(argv[++i], &w->stop_seconds))
                return false;
        } else
            argv[kept++] = argv[i];
    }
    *argc = kept;
    argv[kept] = NULL;
    return true;
}

// --- paths

static err_t make_whole(char **member, const char *prefix, struct error *e)
{
    char folder[PATH_MAX], whole[2 * PATH_MAX];
    size_t skip = strlen(prefix);
    if (!*member || strncmp(*member, prefix, skip) != 0 || (*member)[skip] == '/' ||
        !strcmp(*member, MADE_DISK))
        return OK;
    if (!getcwd(folder, sizeof folder))
        return error_set(e, ERR_IO, "cannot tell which directory this is");
    snprintf(whole, sizeof whole, "%s%s/%s", prefix, folder, *member + skip);
    return vm_config_set(member, whole, e);
}

err_t create_whole_paths(struct vm_config *config, struct error *e)
{
    const struct {
        char **member;
        const char *prefix;
    } paths[] = {
        {&config->kernel, ""},           {&config->initrd, ""},
        {&config->uefi_vars, ""},        {&config->serial, "file:"},
        {&config->console, "file:"},     {&config->firmware_log, "file:"},
        {&config->firmware, "bios:"},    {&config->firmware, "uefi:"},
        {&config->display, "vnc=unix:"},
    };
    err_t err = OK;
    for (size_t i = 0; !err && i < ARRAY_LEN(paths); i++)
        err = make_whole(paths[i].member, paths[i].prefix, e);
    for (uint32_t i = 0; !err && i < config->disks; i++)
        err = make_whole(&config->disk[i].path, "", e);
    for (uint32_t i = 0; !err && i < config->nics; i++) {
        if (vm_nic_rom_file(&config->nic[i]))
            err = make_whole(&config->nic[i].rom, "", e);
    }
    return err;
}

// --- images

struct lookup {
    json_t *images;
    char path[PATH_MAX], name[REGISTRY_NAME_MAX + 1];
};

// The file of an image by its name; NULL: it is a file already.
static const char *image_path(void *opaque, const char *name)
{
    struct lookup *lookup = opaque;
    size_t i, len = strcspn(name, ",");
    json_t *image;
    if (memchr(name, '/', len))
        return NULL;
    json_array_foreach(lookup->images, i, image)
    {
        const char *known = json_string_value(json_object_get(image, "name"));
        const char *path = json_string_value(json_object_get(image, "path"));
        if (!known || strncmp(known, name, len) != 0 || known[len])
            continue;
        snprintf(lookup->name, sizeof lookup->name, "%s", known);
        snprintf(lookup->path, sizeof lookup->path, "%s%s", path, name + len);
        return lookup->path;
    }
    return NULL;
}

// Nobody writes to an image: the VM gets a disk over it.
static err_t check_files(struct vm_config *config, bool on_image, struct error *e)
{
    if (!on_image)
        return run_check_files(config, e);
    bool read_only = config->disk[0].read_only;
    config->disk[0].read_only = true;
    err_t err = run_check_files(config, e);
    config->disk[0].read_only = read_only;
    return err;
}

// The VM gets a disk of its own in the image's place.
static err_t take_image(struct vm_config *config, const struct lookup *lookup, struct error *e)
{
    struct vm_disk *disk = &config->disk[0];
    if (disk->cdrom)
        return error_set(e, ERR_INVALID, "'%s' is a disc; give its file with --cdrom",
                         lookup->name);
    err_t err = vm_config_set(&disk->path, MADE_DISK, e);
    return err ? err : vm_config_set(&disk->format, "qcow2", e);
}

// --- the request

static err_t add_file(json_t *args, const char *key, const char *path, bool keys, struct error *e)
{
    struct host_file file = {0};
    if (!path)
        return OK;
    err_t err =
        keys ? ssh_keys_read(path, &file, e) : host_file_read(path, USER_DATA_MAX, &file, e);
    if (err)
        return err;
    size_t len = keys ? strlen((char *)file.data) : file.len;
    json_t *text = json_stringn((char *)file.data, len);
    host_file_release(&file);
    if (!text)
        return error_set(e, ERR_INVALID, "'%s' is not text", path);
    json_object_set_new(args, key, text);
    return OK;
}

err_t create_definition(struct vm_config *config, bool agent, json_t **out, struct error *e)
{
    char *text = NULL;
    config->json = false;
    config->agent |= agent; // put into the guest at each start
    err_t err = vm_config_save(config, &text, e);
    if (err)
        return err;
    json_t *definition = json_loads(text, 0, NULL);
    free(text);
    const char *serial = json_string_value(json_object_get(definition, "serial"));
    if (serial && !strcmp(serial, "stdio"))
        json_object_del(definition, "serial");
    json_object_del(definition, "name");
    *out = definition;
    return definition ? OK : error_set(e, ERR_NO_MEMORY, "no memory for a definition");
}

void create_add_words(json_t *args, const struct create_words *w)
{
    if (w->autostart >= 0)
        json_object_set_new(args, "autostart", json_boolean(w->autostart));
    if (w->restart)
        json_object_set_new(args, "restart", json_string(w->restart));
    if (w->stop_seconds >= 0)
        json_object_set_new(args, "stop_seconds", json_integer(w->stop_seconds));
}

static err_t make_request(struct vm_config *config, const struct run_given *given,
                          const struct create_words *w, const char *image, json_t **out,
                          struct error *e)
{
    json_t *definition = NULL;
    err_t err = create_definition(config, given->agent, &definition, e);
    if (err)
        return err;
    *out = json_pack("{s:s, s:o}", "name", config->name, "definition", definition);
    create_add_words(*out, w);
    if (image)
        json_object_set_new(*out, "image", json_string(image));
    err = add_file(*out, "user_data", given->cloud_init, false, e);
    return err ? err : add_file(*out, "ssh_keys", given->ssh_key, true, e);
}

// Who gave no name gets the first one that is free.
static err_t ask(json_t *args, bool named, json_t **result, struct error *e)
{
    char first[REGISTRY_NAME_MAX + 1], name[80];
    snprintf(first, sizeof first, "%s", json_string_value(json_object_get(args, "name")));
    err_t err =
        manager_request(MANAGER_NEEDED, "create", json_deep_copy(args), ANSWER_MS, result, e);
    for (int n = 2; err == ERR_EXISTS && !named && n < NAMES_MAX; n++) {
        snprintf(name, sizeof name, "%.58s%d", first, n);
        json_object_set_new(args, "name", json_string(name));
        err = manager_request(MANAGER_NEEDED, "create", json_deep_copy(args), ANSWER_MS, result, e);
    }
    json_decref(args);
    return err;
}

static err_t create(int argc, char **argv, const struct create_words *w, json_t **result,
                    struct error *e)
{
    struct vm_config config;
    struct lookup lookup = {0};
    struct run_given given = {.image_path = image_path, .opaque = &lookup};
    json_t *listing = NULL, *args = NULL;
    err_t err = manager_request(MANAGER_NEEDED, "image-ls", NULL, ANSWER_MS, &listing, e);
    if (err)
        return err;
    lookup.images = json_object_get(listing, "images");
    err = vm_config_init(&config, e);
    if (!err)
        err = run_parse_options(argc, argv, &config, &given, e);
    if (!err)
        err = check_files(&config, lookup.name[0] != '\0', e);
    if (!err)
        err = create_whole_paths(&config, e);
    if (!err && lookup.name[0])
        err = take_image(&config, &lookup, e);
    if (!err)
        err = make_request(&config, &given, w, lookup.name[0] ? lookup.name : NULL, &args, e);
    if (!err)
        err = ask(args, given.name, result, e);
    else
        json_decref(args);
    vm_config_release(&config);
    json_decref(listing);
    return err;
}

int cmd_create(int argc, char **argv)
{
    struct create_words w;
    struct error e = {0};
    json_t *vm = NULL;
    if (!create_take_words(&argc, argv, &w))
        return complain(EXIT_USAGE, "--stop-timeout needs seconds, from 0 to 86400");
    err_t err = create(argc, argv, &w, &vm, &e);
    if (err)
        return complain(status_of(err), "%s", e.text);
    if (w.start) {
        json_t *args = json_pack("{s:O}", "vm", json_object_get(vm, "name"));
        json_decref(vm);
        int status = manager_ask("start", args, START_MS, &vm);
        if (status)
            return status;
    }
    if (w.json)
        return print_json(vm);
    puts(json_string_value(json_object_get(vm, "name")));
    json_decref(vm);
    return EXIT_OK;
}
