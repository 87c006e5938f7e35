// Random bytes from the kernel.
#pragma once

#include "base/error.h"

// Fills data with len random bytes from getrandom(2). Waits only in the first moments of the host's
// life.
void host_random(void *data, size_t len);
