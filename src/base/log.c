#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

#define BURST 10
#define REFILL (10 * NS_PER_SEC)

static log_sink_fn *sink;
static enum log_level threshold;

void log_to(log_sink_fn *new_sink, enum log_level most_verbose)
{
    sink = new_sink;
    threshold = most_verbose;
}

void log_line(enum log_level level, const char *fmt, ...)
{
    if (!sink || level > threshold)
        return;
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    sink(level, line);
}

bool log_allowed(struct log_limit *limit, ns_t now)
{
    if (limit->used >= BURST && now >= limit->next)
        limit->used = BURST - 1;
    if (limit->used >= BURST) {
        limit->dropped++;
        return false;
    }
    limit->used++;
    limit->dropped = 0;
    limit->next = now + REFILL;
    return true;
}
