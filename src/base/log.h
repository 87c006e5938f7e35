// One line of text to whoever watches this process.
#pragma once

#include "base/types.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

// line has no newline and is valid during the call only. Called on any thread.
typedef void log_sink_fn(enum log_level level, const char *line);

// Set once, before a second thread exists; NULL (the state at start) drops every line. The sink and
// the level are the only process-wide variables: a log line has no other way out of leaf code.
void log_to(log_sink_fn *sink, enum log_level most_verbose);

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// Caps what a guest can make a device say: at most `burst` lines, then one more per interval.
struct log_limit {
    uint64_t next;    // virtual time at which the budget grows by one line
    uint32_t used;    // lines said in the current budget
    uint32_t dropped; // lines not said since the last one
};

// True when one more line may be said at virtual time now.
bool log_allowed(struct log_limit *limit, ns_t now);
