// Carries out what pools.h promises, while VMs run: looks at what each uses and wants, divides, and
// tells those that want more than they are given. Nobody is held while there is enough for all, and
// what the manager says holds for a moment only, so that VMs go on without it.
//
// CPU time: where a control group of version 2 with the cpu controller is the manager's to divide,
// the kernel divides by weights and quotas; else each VM holds itself to its part (the request
// "cpu" of a VM). Memory: balloon targets. Disks and networks: their limits.
#pragma once

#include "manager/pools.h"

struct coordinator; // opaque

err_t coordinator_new(struct pools *pools, struct coordinator **out, struct error *e);
void coordinator_free(struct coordinator *coordinator); // accepts NULL; VMs are let go
// Both accept NULL: nothing is divided yet.
void coordinator_changed(struct coordinator *coordinator); // pools did: look at once
bool coordinator_has_groups(const struct coordinator *coordinator);
// What limits of pools leave a VM that is about to start: thousandths of a CPU; 0: there are none.
uint32_t coordinator_first_bound(struct pools *pools, struct managed *vm);
// The VM's first process has begun: into its group before it makes others; and all have ended.
void coordinator_began(struct coordinator *coordinator, struct managed *vm, pid_t pid);
void coordinator_ended(struct coordinator *coordinator, struct managed *vm);
