// Control groups (version 2), where a part of the tree was delegated to the manager's user: a group
// for each VM, so that the kernel divides CPU time and keeps memory. systemd delegates with
// Delegate=yes; root has all of it.
#pragma once

#include <sys/types.h>

#include "base/types.h"

#define GROUPS_ROOT NULL // where the host has them

struct groups; // opaque

// False, and NULL: there is no version 2, no cpu controller in it, or no right to it. root: the
// file system, for tests.
bool groups_open(const char *root, struct groups **out);
// For who starts managers anew in a group that one has divided: nothing can begin in such a group,
// so it is no longer divided. VMs' groups stay. Called in the group, in the manager's leaf or in
// systemd's (.control).
bool groups_undivide(const char *root);
void groups_close(struct groups *groups); // empty groups are removed; accepts NULL

// Moves a process into the group of that name, which is made. False: the host refused.
bool groups_join(struct groups *groups, const char *name, pid_t pid);
// weight: relative to others; limit: thousandths of a CPU, 0: none.
void groups_weigh(struct groups *groups, const char *name, uint64_t weight, uint64_t limit);
// Bytes that the host leaves it in any case, and from which on it is slowed down; 0: none. Where
// there is no memory controller, nothing.
void groups_remember(struct groups *groups, const char *name, uint64_t least, uint64_t most);
void groups_leave(struct groups *groups, const char *name); // its process is gone
