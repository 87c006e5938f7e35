// Directories of the user's. XDG base directory specification 0.8, mkdir(2).
#include "host/dirs.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

err_t host_data_path(char *path, size_t size, struct error *e)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int len = -1;
    if (data && data[0] == '/')
        len = snprintf(path, size, "%s/berth", data);
    else if (home && home[0] == '/')
        len = snprintf(path, size, "%s/.local/share/berth", home);
    return len > 0 && (size_t)len < size
               ? OK
               : error_set(e, ERR_NOT_FOUND,
                           "there is no home for data; set HOME or XDG_DATA_HOME");
}

err_t host_make_directories(const char *path, struct error *e)
{
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%s", path);
    for (char *p = part + 1;; p++) {
        if (*p && *p != '/')
            continue;
        char c = *p;
        *p = '\0';
        if (mkdir(part, 0700) < 0 && errno != EEXIST)
            return error_set(e, err_from_errno(errno), "cannot make '%s': %s", part,
                             strerror(errno));
        if (!c)
            return OK;
        *p = c;
    }
}
