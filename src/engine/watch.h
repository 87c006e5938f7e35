// What a debugger watches, as debug registers: shared by engines.
#pragma once

#include "engine/engine.h"

// Whether a CPU could watch this; else words.
err_t engine_watch_check(const struct engine_watch *watch, struct error *e);

// The value of DR7 for its points, which are DR0 to DR3.
uint64_t engine_watch_dr7(const struct engine_watch *watch);
