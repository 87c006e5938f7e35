// Options that say what a VM or a pool gets of the host: --cpu-shares, --memory-reservation ...
#pragma once

#include <jansson.h>

#include "base/error.h"

#define ALLOT_HELP                                                                               \
    "  --cpu-shares N, --memory-shares N, --disk-shares N, --iops-shares N, --net-shares N\n"    \
    "      its part among its siblings where there is not enough (100)\n"                        \
    "  --cpu-reservation AMOUNT, --memory-reservation SIZE, --disk-reservation RATE,\n"          \
    "  --iops-reservation N, --net-reservation BITS\n"                                           \
    "      what it can always have; never promised twice\n"                                      \
    "  --cpu-limit AMOUNT, --memory-limit SIZE, --disk-limit RATE, --iops-limit N,\n"            \
    "  --net-limit BITS\n"                                                                       \
    "      what it has at most; none lifts it\n"                                                 \
    "\n"                                                                                         \
    "AMOUNT is CPU time, 50% or 1.5 (CPUs); SIZE 512M or 2G; RATE bytes a second, 10M, and N\n"  \
    "operations a second, of all its disks together; BITS bits a second each way, 10M, of all\n" \
    "its network cards.\n"

// Puts what the option says into the arguments of a request. *known: whether it is such an option.
err_t allot_take(json_t *args, const char *option, const char *value, bool *known, struct error *e);
