// berth apply, export and edit: VMs as YAML (or JSON, which is YAML) or TOML.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/create.h"
#include "cli/declare.h"
#include "cli/manager.h"
#include "cli/vm_file.h"
#include "cli/vms.h"
#include "cli/yaml.h"
#include "host/file.h"

#define ANSWER_MS 30000
#define FILE_MAX (1 * MIB)

const char apply_help[] =
    "usage: berth apply [--dry-run] [--format yaml|toml] [--json] FILE...\n"
    "\n"
    "Makes VMs as files say: creates those that are missing, changes those that differ, and says\n"
    "what it does; what is so already is left alone. - is standard input. A file is YAML or JSON,\n"
    "one document for each VM, or TOML where its name ends in .toml, one table [[vm]] for each;\n"
    "as berth export writes them:\n"
    "\n"
    "    name: web\n"
    "    image: debian       # berth image ls\n"
    "    vcpus: 2\n"
    "    memory_mib: 1024\n"
    "    nics: [{network: default, forwards: 'tcp:127.0.0.1:8080:80'}]\n"
    "    autostart: true\n"
    "    restart: on-failure # no, on-failure, always\n"
    "    running: true       # start it, or stop it; leave it out to leave that alone\n"
    "\n"
    "      --dry-run             say what would be done\n"
    "      --format yaml|toml    what the files are, whatever their names\n";
const char export_help[] =
    "usage: berth export [--format yaml|toml] [--json] [VM...]\n"
    "\n"
    "Prints VMs, or all, as YAML (or TOML, or JSON) that berth apply reads.\n";
const char edit_help[] =
    "usage: berth edit VM\n"
    "       berth edit VM OPTION...\n"
    "\n"
    "Changes a VM: in an editor ($VISUAL or $EDITOR), as YAML; or by options, which are those of\n"
    "berth create, and --no-autostart. A VM that runs is changed when it starts again.\n";

// --- apply

static err_t read_all(const char *path, struct host_file *out, struct error *e)
{
    return strcmp(path, "-") ? host_file_read(path, FILE_MAX, out, e)
                             : host_file_read_fd(STDIN_FILENO, "standard input", FILE_MAX, out, e);
}

// Takes --format and its value out of the words. *given: it was there. False: complained.
static bool take_format(int *argc, char **argv, enum vm_file_format *format, bool *given)
{
    int kept = 1;
    *given = false;
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], "--format") != 0) {
            argv[kept++] = argv[i];
            continue;
        }
        *given = vm_file_format_parse(++i < *argc ? argv[i] : NULL, format);
        if (!*given) {
            complain(EXIT_USAGE, "--format needs yaml or toml");
            return false;
        }
    }
    argv[ *argc = kept] = NULL;
    return true;
}

static err_t apply_text(enum vm_file_format format, const char *text, size_t len,
                        const struct declare_options *o, struct error *e)
{
    json_t *documents = NULL, *document;
    size_t i;
    err_t err = vm_file_read(format, text, len, &documents, e);
    json_array_foreach(documents, i, document)
    {
        if (!err && !json_is_null(document))
            err = declare_apply(document, o, e);
    }
    json_decref(documents);
    return err;
}

static void show(const json_t *changes, bool dry_run)
{
    size_t i, k;
    const json_t *change, *key;
    json_array_foreach(changes, i, change)
    {
        printf("%s%s %s", dry_run ? "would " : "",
               json_string_value(json_object_get(change, "change")),
               json_string_value(json_object_get(change, "name")));
        json_array_foreach(json_object_get(change, "keys"), k, key)
            printf("%s%s", k ? ", " : ": ", json_string_value(key));
        puts("");
    }
    if (!json_array_size(changes))
        puts("all is so already");
}

int cmd_apply(int argc, char **argv)
{
    struct declare_options o = {.changes = json_array()};
    struct error e = {0};
    struct vms_words w;
    enum vm_file_format format;
    bool given;
    int kept = 1;
    if (!take_format(&argc, argv, &format, &given))
        return EXIT_USAGE;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--dry-run"))
            o.dry_run = true;
        else
            argv[kept++] = strcmp(argv[i], "-") ? argv[i] : "/dev/stdin";
    }
    if (!vms_parse(kept, argv, "", &w))
        return EXIT_USAGE;
    if (!w.count)
        return complain(EXIT_USAGE, "apply needs files; see berth apply --help");
    err_t err = OK;
    for (int i = 0; !err && i < w.count; i++) {
        struct host_file file = {0};
        bool input = !strcmp(w.names[i], "/dev/stdin");
        err = read_all(input ? "-" : w.names[i], &file, &e);
        if (!given)
            format = vm_file_format_of(w.names[i]);
        if (!err && (err = apply_text(format, (char *)file.data, file.len, &o, &e)))
            (void)!error_in(&e, "%s", input ? "standard input" : w.names[i]);
        host_file_release(&file);
    }
    if (w.json)
        (void)!print_json(json_pack("{s:O, s:b}", "changes", o.changes, "dry_run", o.dry_run));
    else if (!err || json_array_size(o.changes))
        show(o.changes, o.dry_run);
    json_decref(o.changes);
    return err ? complain(status_of(err), "%s", e.text) : EXIT_OK;
}

// --- export

static err_t export_one(const char *vm, json_t *list, struct error *e)
{
    json_t *info = NULL;
    err_t err = manager_info(vm, &info, e);
    if (!err)
        json_array_append_new(list, declare_describe(info));
    json_decref(info);
    return err;
}

static err_t export_all(json_t *list, struct error *e)
{
    json_t *result = NULL, *vm;
    size_t i;
    err_t err = manager_request(MANAGER_IF_USED, "ls", NULL, ANSWER_MS, &result, e);
    json_array_foreach(json_object_get(result, "vms"), i, vm)
    {
        if (!err)
            err = export_one(json_string_value(json_object_get(vm, "name")), list, e);
    }
    json_decref(result);
    return err == ERR_NOT_FOUND ? OK : err;
}

int cmd_export(int argc, char **argv)
{
    struct vms_words w;
    struct error e = {0};
    enum vm_file_format format = VM_FILE_YAML;
    bool given;
    if (!take_format(&argc, argv, &format, &given) || !vms_parse(argc, argv, "", &w))
        return EXIT_USAGE;
    json_t *list = json_array();
    err_t err = w.count ? OK : export_all(list, &e);
    for (int i = 0; !err && i < w.count; i++)
        err = export_one(w.names[i], list, &e);
    if (!err && w.json)
        return print_json(list);
    if (!err)
        err = vm_file_write(format, list, stdout, &e);
    json_decref(list);
    return err ? complain(status_of(err), "%s", e.text) : EXIT_OK;
}

// --- edit

static err_t run_editor(const char *path, struct error *e)
{
    const char *editor = getenv("VISUAL");
    char command[4600];
    if (!editor || !*editor)
        editor = getenv("EDITOR");
    snprintf(command, sizeof command, "%.400s '%s'", editor && *editor ? editor : "vi", path);
    int status = system(command);
    return status == 0
               ? OK
               : error_set(e, ERR_INVALID, "the editor '%.100s' has failed; nothing changed",
                           editor && *editor ? editor : "vi");
}

static err_t write_temporary(const json_t *document, char *path, struct error *e)
{
    char *text = NULL;
    err_t err = yaml_write(document, &text, e);
    int fd = err ? -1 : mkostemps(path, 5, O_CLOEXEC);
    if (!err && (fd < 0 || host_write_all(fd, text, strlen(text))))
        err = error_set(e, ERR_IO, "cannot write '%s': %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    free(text);
    return err;
}

static err_t edit_by_hand(const json_t *info, const struct declare_options *o, struct error *e)
{
    char path[] = "/tmp/berth-edit-XXXXXX.yaml";
    struct host_file file = {0};
    json_t *document = declare_describe(info);
    err_t err = write_temporary(document, path, e);
    json_decref(document);
    if (!err)
        err = run_editor(path, e);
    if (!err)
        err = host_file_read(path, FILE_MAX, &file, e);
    if (!err)
        err = apply_text(VM_FILE_YAML, (char *)file.data, file.len, o, e);
    host_file_release(&file);
    unlink(path);
    return err;
}

// The definition that is there, changed by berth run's options.
static err_t changed_definition(int argc, char **argv, const json_t *info, json_t **out,
                                struct error *e)
{
    struct vm_config config;
    struct run_given given = {.name = true, .memory = true, .serial = true, .net = true};
    char *text = json_dumps(json_object_get(info, "definition"), 0);
    err_t err = text ? vm_config_load(&config, text, strlen(text), e)
                     : error_set(e, ERR_NO_MEMORY, "no memory for a definition");
    free(text);
    if (err)
        return err;
    err = run_parse_options(argc, argv, &config, &given, e);
    if (!err && strcmp(config.name, json_string_value(json_object_get(info, "name"))) != 0)
        err = error_set(e, ERR_INVALID, "berth rename changes names");
    if (!err && (given.cloud_init || given.ssh_key))
        err = error_set(e, ERR_INVALID, "what cloud-init was given cannot be changed");
    if (!err)
        err = create_whole_paths(&config, e);
    if (!err)
        err = create_definition(&config, given.agent, out, e);
    vm_config_release(&config);
    return err;
}

static err_t edit_by_options(int argc, char **argv, const json_t *info, struct error *e)
{
    struct create_words w;
    json_t *definition = NULL, *result = NULL;
    if (!create_take_words(&argc, argv, &w))
        return error_set(e, ERR_INVALID, "--stop-timeout needs seconds, from 0 to 86400");
    json_t *args = json_pack("{s:O}", "vm", json_object_get(info, "id"));
    err_t err = argc > 1 ? changed_definition(argc, argv, info, &definition, e) : OK;
    if (definition)
        json_object_set_new(args, "definition", definition);
    create_add_words(args, &w);
    if (err)
        json_decref(args);
    else
        err = manager_request(MANAGER_NEEDED, "edit", args, ANSWER_MS, &result, e);
    json_decref(result);
    return err;
}

int cmd_edit(int argc, char **argv)
{
    struct error e = {0};
    json_t *info = NULL;
    struct declare_options o = {.changes = json_array()};
    bool json = false;
    int kept = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            json = true;
        else
            argv[kept++] = argv[i];
    }
    argv[argc = kept] = NULL;
    if (argc < 2 || argv[1][0] == '-')
        return complain(EXIT_USAGE, "edit needs the name of a VM; see berth edit --help");
    err_t err = manager_info(argv[1], &info, &e);
    o.only = json_string_value(json_object_get(info, "name"));
    if (!err)
        err = argc > 2 ? edit_by_options(argc - 1, argv + 1, info, &e) : edit_by_hand(info, &o, &e);
    if (!err && !json) {
        if (argc == 2)
            show(o.changes, false);
        else
            printf("%s is changed\n", o.only);
        if (json_object_get(info, "uptime_seconds"))
            puts("it runs; it will be so when it starts again");
    }
    json_decref(info);
    json_decref(o.changes);
    if (err)
        return complain(status_of(err), "%s", e.text);
    return json ? print_json(json_object()) : EXIT_OK;
}
