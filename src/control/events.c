// Events of one VM. RFC 8259; one object a line, so that a reader needs no JSON stream parser.
#include "control/events.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/file.h"

// A reader that has gone away is no reason to end the VM.
static void put(int fd, const char *text, size_t len)
{
    (void)!host_write_all(fd, text, len);
}

void events_tell(const struct events *events, const char *name, const char *fields, ...)
{
    if (!events->json && !events->listen)
        return;
    char format[128];
    snprintf(format, sizeof format, "{%s}", fields);
    va_list ap;
    va_start(ap, fields);
    json_error_t why;
    json_t *object = json_vpack_ex(&why, 0, format, ap);
    va_end(ap);
    json_t *line = json_pack("{s:s}", "event", name);
    if (line && object)
        json_object_update(line, object);
    char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
    if (text) {
        size_t len = strlen(text);
        text[len] = '\n'; // in place of the end: one write for the whole line
        if (events->json)
            put(STDOUT_FILENO, text, len + 1);
        if (events->listen)
            events->listen(events->opaque, text, len + 1);
    }
    free(text);
    json_decref(line);
    json_decref(object);
}

// The terminal may be in raw mode, where a line end must say both things; elsewhere the extra one
// is not seen.
void events_say(const struct events *events, const char *fmt, ...)
{
    if (events->json)
        return;
    char line[600];
    int used = snprintf(line, sizeof line, "berth: ");
    va_list ap;
    va_start(ap, fmt);
    int more = vsnprintf(line + used, sizeof line - (size_t)used - 2, fmt, ap);
    va_end(ap);
    if (more < 0)
        return;
    size_t len = strlen(line);
    if (isatty(STDERR_FILENO))
        line[len++] = '\r';
    line[len++] = '\n';
    put(STDERR_FILENO, line, len);
}
