// Holds a VM to the CPU time it may take: looks at what its process has used and keeps the vCPUs
// out of the guest while their budget is spent (duty.h). Works the same under every engine and
// needs no right of the host. Main loop only.
#pragma once

#include "host/loop.h"
#include "machine/duty.h"

struct vm;

struct governor {
    struct vm *vm;
    struct duty duty;
    struct loop_timer timer;
};

void governor_init(struct governor *governor, struct vm *vm);
void governor_release(struct governor *governor); // lets the vCPUs go
void governor_changed(struct governor *governor); // duty's limit or grant was set
