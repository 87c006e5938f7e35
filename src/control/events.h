// What happens to a VM, told to whoever started it, as JSON lines for scripts (docs/cli.md) or as
// words for a person, and to whoever listens on the control socket.
#pragma once

#include "base/error.h"

struct events {
    bool json; // JSON objects, one a line, to standard output; else words to standard error
    // Gets every event as a line with its newline; NULL: nobody listens.
    void (*listen)(void *opaque, const char *line, size_t len);
    void *opaque;
};

// {"event": name, key: value, ...}. fields is a jansson pack format for the rest of the object
// without its braces ("s:s, s:i"), or "" for none; a text of NULL is written as null.
void events_tell(const struct events *events, const char *name, const char *fields, ...);

// Words for a person; nothing when the events are JSON. The line is put together here, and written
// at once.
void events_say(const struct events *events, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
