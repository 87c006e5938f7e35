// The user's defined networks: one file each, named after the network, in the directory that the
// XDG base directory specification gives to data. Written whole beside its place and moved there.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/file.h"
#include "net/network.h"

#define DEFINITION_MAX (64 * KIB)
#define SUFFIX ".json"
#define DEFAULT "default"

// The directory of definitions; false: there is no home for it.
static bool folder(char *path, size_t size)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int n = -1;
    if (data && data[0] == '/')
        n = snprintf(path, size, "%s/berth/networks", data);
    else if (home && home[0] == '/')
        n = snprintf(path, size, "%s/.local/share/berth/networks", home);
    return n > 0 && (size_t)n < size;
}

static err_t path_of(const char *name, char path[PATH_MAX], struct error *e)
{
    if (!network_name_valid(name))
        return error_set(e, ERR_INVALID, "'%.64s' is no name for a network; " NETWORK_NAME_RULE,
                         name ? name : "");
    if (!folder(path, PATH_MAX - NETWORK_NAME_MAX - 16))
        return error_set(e, ERR_NOT_FOUND, "there is no directory for networks; set HOME");
    size_t used = strlen(path);
    snprintf(path + used, PATH_MAX - used, "/%s" SUFFIX, name);
    return OK;
}

static err_t none_defined(const char *name, struct error *e)
{
    return error_set(e, ERR_NOT_FOUND,
                     "there is no network '%s'; berth net ls shows them, berth net create %s makes "
                     "it",
                     name, name);
}

err_t network_find(const char *name, struct network *out, struct error *e)
{
    char path[PATH_MAX];
    struct host_file file = {0};
    err_t err = network_init(out, name, e);
    if (!err)
        err = path_of(name, path, e);
    if (!err)
        err = host_file_read(path, DEFINITION_MAX, &file, e);
    if (err == ERR_NOT_FOUND)
        return strcmp(name, DEFAULT) ? none_defined(name, e) : OK;
    if (err)
        return err;
    err = network_load(out, (const char *)file.data, file.len, e);
    host_file_release(&file);
    if (!err && strcmp(out->name, name) != 0)
        err = error_set(e, ERR_INVALID, "name: is '%s', and not that of the file", out->name);
    return err ? error_in(e, "'%s'", path) : OK;
}

// Makes the directories above path, closed to others.
static bool make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int failed = mkdir(path, 0700) < 0 && errno != EEXIST;
        *slash = '/';
        if (failed)
            return false;
    }
    return true;
}

static err_t failed(const char *what, const char *path, struct error *e)
{
    return error_set(e, err_from_errno(errno), "cannot %s '%s': %s", what, path, strerror(errno));
}

// A new one is linked, not renamed: of two that create the same network, one is told.
static err_t put(const char *path, const char *text, bool over, struct error *e)
{
    char draft[PATH_MAX + 16];
    snprintf(draft, sizeof draft, "%s.%d", path, (int)getpid());
    int fd = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return failed("make", draft, e);
    err_t err = host_write_all(fd, text, strlen(text));
    if (err || fsync(fd) < 0)
        err = failed("write", draft, e);
    close(fd);
    if (!err && (over ? rename : link)(draft, path) < 0)
        err = failed("make", path, e);
    unlink(draft);
    return err;
}

static err_t store(const struct network *network, bool over, struct error *e)
{
    char path[PATH_MAX], *text = NULL;
    err_t err = network_check(network, e);
    if (!err)
        err = path_of(network->name, path, e);
    if (!err && !make_folders(path))
        err = failed("make the directories of", path, e);
    if (!err)
        err = network_save(network, &text, e);
    if (!err)
        err = put(path, text, over, e);
    if (err == ERR_EXISTS)
        err = error_set(e, ERR_EXISTS, "the network '%s' is there; berth net rm %s removes it",
                        network->name, network->name);
    free(text);
    return err;
}

err_t network_store(const struct network *network, struct error *e)
{
    return store(network, false, e);
}

err_t network_replace(const struct network *network, struct error *e)
{
    return store(network, true, e);
}

err_t network_remove(const char *name, struct error *e)
{
    char path[PATH_MAX];
    err_t err = path_of(name, path, e);
    if (err)
        return err;
    if (unlink(path) == 0)
        return OK;
    if (errno != ENOENT)
        return failed("remove", path, e);
    if (!strcmp(name, DEFAULT))
        return error_set(e, ERR_INVALID, "the network 'default' is always there");
    return none_defined(name, e);
}

// --- all of them

static int is_definition(const struct dirent *entry)
{
    char name[NETWORK_NAME_MAX + 1];
    size_t len = strlen(entry->d_name), suffix = strlen(SUFFIX);
    if (len <= suffix || len - suffix > NETWORK_NAME_MAX ||
        strcmp(entry->d_name + len - suffix, SUFFIX) != 0)
        return 0;
    snprintf(name, sizeof name, "%.*s", (int)(len - suffix), entry->d_name);
    return network_name_valid(name) && strcmp(name, DEFAULT) != 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

err_t network_each(void (*found)(void *opaque, const char *name), void *opaque, struct error *e)
{
    char path[PATH_MAX];
    struct dirent **entry = NULL;
    int n = folder(path, sizeof path) ? scandir(path, &entry, is_definition, by_name) : 0;
    if (n < 0 && errno != ENOENT)
        return failed("read", path, e);
    found(opaque, DEFAULT);
    for (int i = 0; i < n; i++) {
        entry[i]->d_name[strlen(entry[i]->d_name) - strlen(SUFFIX)] = '\0';
        found(opaque, entry[i]->d_name);
        free(entry[i]);
    }
    free(entry);
    return OK;
}
