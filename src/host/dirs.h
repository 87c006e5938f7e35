// Where a user's lasting data lies: the XDG base directory specification's $XDG_DATA_HOME/berth, by
// default ~/.local/share/berth. The system service sets XDG_DATA_HOME to /var/lib.
#pragma once

#include "base/error.h"

// The path, of which all but the last part need not exist. ERR_NOT_FOUND: there is no home.
err_t host_data_path(char *path, size_t size, struct error *e);

// Makes path and what is missing above it, closed to others.
err_t host_make_directories(const char *path, struct error *e);
