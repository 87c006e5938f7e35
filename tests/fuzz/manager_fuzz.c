// Requests to the manager, over its socket as over HTTP: any of its table, with arguments that fit
// and such that do not. Whatever was asked, it answers, and its inventory and its folders agree.
// Left out: what starts processes or ends the manager.
#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "manager/manager.h"
#include "manager/pools.h"
#include "standalone.h"

static const char *const left_out[] = {"start", "restart", "exec", "agent", "shutdown", NULL};

static const char *const values[] = {
    "\"a\"",
    "\"b\"",
    "\"c\"",
    "\"host\"",
    "\"default\"",
    "\"\"",
    "\"../a\"",
    "\"/etc/passwd\"",
    "\"a\\u0000\"",
    "\"nat\"",
    "\"private\"",
    "\"on-failure\"",
    "\"always\"",
    "\"10.9.0.0/16\"",
    "\"allow 10.0.0.0/8; deny all\"",
    "\"reader\"",
    "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"",
    "0",
    "1",
    "-1",
    "100",
    "1000",
    "65536",
    "9223372036854775807",
    "1e300",
    "true",
    "false",
    "null",
    "[]",
    "[\"x\"]",
    "{}",
    "{\"kernel\":\"/boot/vmlinuz\",\"memory_mib\":16}",
    "{\"kernel\":\"/boot/vmlinuz\",\"disks\":[{\"path\":\"disk0.qcow2\"}]}",
    "{\"kernel\":\"x\"}",
    "{\"kernel\":\"/k\",\"nics\":[{\"network\":\"a\"}]}",
    "{\"vcpus\":-1}",
    "{\"kernel\":7}",
};

struct input {
    const uint8_t *data;
    size_t size, at;
};

static uint8_t next(struct input *in)
{
    return in->at < in->size ? in->data[in->at++] : 0;
}

// --- a manager of one input

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    return remove(path);
}

static void make_folder(const char *home, const char *name)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", home, name);
    if (mkdir(path, 0700) < 0)
        abort();
}

static void open_manager(struct manager *manager, const char *home)
{
    static const char *const folders[] = {"run", "berth", "berth/vms", "berth/images",
                                          "berth/layers"};
    char path[PATH_MAX];
    struct error e;
    for (size_t i = 0; i < ARRAY_LEN(folders); i++)
        make_folder(home, folders[i]);
    snprintf(path, sizeof path, "%s/run", home);
    setenv("XDG_RUNTIME_DIR", path, 1);
    setenv("XDG_DATA_HOME", home, 1);
    *manager = (struct manager){.claim = REGISTRY_NO_CLAIM, .berth = "/nowhere"};
    snprintf(manager->state, sizeof manager->state, "%s/berth", home);
    snprintf(path, sizeof path, "%s/berth/berth.db", home);
    if (loop_new(&manager->loop, &e) || db_open(path, &manager->db, &e) ||
        managed_load_all(manager, &e) || pools_open(manager, &manager->pools, &e))
        abort();
}

static void close_manager(struct manager *manager)
{
    struct pools *pools = manager->pools;
    manager->pools = NULL;
    pools_close(pools);
    managed_free_all(manager);
    db_close(manager->db);
    loop_free(manager->loop);
}

// --- requests

static bool is_left_out(const char *name)
{
    for (size_t i = 0; left_out[i]; i++) {
        if (!strcmp(left_out[i], name))
            return true;
    }
    return false;
}

// Arguments come now and then from another request, or not at all.
static size_t spell(struct input *in, char *line, size_t room)
{
    size_t count = 0;
    while (manager_requests[count].name)
        count++;
    const struct request *request = &manager_requests[next(in) % count];
    if (is_left_out(request->name))
        request = &manager_requests[0];
    size_t len = (size_t)snprintf(line, room, "{\"request\":\"%s\"", request->name);
    for (const struct request_field *f = request->fields; f && f->name; f++) {
        uint8_t byte = next(in);
        if (!f->required && byte & 1)
            continue;
        len += (size_t)snprintf(line + len, room - len, ",\"%s\":%s", byte == 255 ? "odd" : f->name,
                                values[next(in) % ARRAY_LEN(values)]);
    }
    line[len++] = '}';
    uint8_t damage = next(in);
    if (damage >= 250)
        line[next(in) % len] = (char)damage;
    return len;
}

static void ask(struct manager *manager, const char *line, size_t len)
{
    struct reply reply;
    json_t *answer = request_handle(manager_requests, manager, line, len, -1, &reply);
    if (!answer && !reply.later)
        abort();
    if (reply.later)
        promise_forget(reply.later);
    if (reply.fd >= 0)
        close(reply.fd);
    json_decref(reply.id);
    json_decref(answer);
}

static void folders_agree(const struct manager *manager)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/vms", manager->state);
    DIR *dir = opendir(path);
    size_t folders = 0, vms = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        folders += entry->d_name[0] != '.';
    for (const struct managed *m = manager->vms; m; m = m->next)
        vms++;
    if (!dir || folders != vms)
        abort();
    closedir(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size, 0};
    struct manager *manager = calloc(1, sizeof *manager);
    char home[] = "/tmp/berth-fuzz-XXXXXX", line[8192];
    if (!manager || !mkdtemp(home))
        abort();
    open_manager(manager, home);
    while (in.at < in.size)
        ask(manager, line, spell(&in, line, sizeof line));
    folders_agree(manager);
    close_manager(manager);
    free(manager);
    nftw(home, remove_one, 16, FTW_PHYS | FTW_DEPTH);
    return 0;
}
