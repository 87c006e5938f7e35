// Inside the guest's agent. One process listens; each connection is served by a child of its own,
// so what hangs or crashes there takes nothing else along.
#pragma once

#include <sys/types.h>

#include "control/agent_wire.h"

// What the listening process and its children share.
struct shared {
    pid_t freezer; // the child that holds file systems frozen; 0: none is
    bool thawed;   // it has thawed them because its time was up
};

// Serves one connection; never returns. fd is taken over.
_Noreturn void session_serve(int fd, struct shared *shared);

// The same for what the host says where it hears that the agent is ready: only that the guest is to
// shut down.
_Noreturn void session_obey(struct agent_link *link, struct shared *shared);

// Requests: each answers and returns, or fails with words for the other side.
typedef err_t (*request_fn)(struct agent_link *link, struct shared *shared, struct error *e);
err_t request_exec(struct agent_link *link, struct shared *shared, struct error *e); // exec.c
err_t request_info(struct agent_link *link, struct shared *shared, struct error *e); // info.c
err_t request_put(struct agent_link *link, struct shared *shared, struct error *e);  // session.c
err_t request_get(struct agent_link *link, struct shared *shared, struct error *e);
err_t request_shutdown(struct agent_link *link, struct shared *shared, struct error *e); // power.c
err_t request_freeze(struct agent_link *link, struct shared *shared, struct error *e);   // freeze.c
err_t request_thaw(struct agent_link *link, struct shared *shared, struct error *e);

// users.c: /etc/passwd and /etc/group, without the C library's modules, which a static program
// lacks.
#define GROUPS_MAX 64
struct user {
    char name[64], home[256], shell[256];
    uid_t uid;
    gid_t gid, groups[GROUPS_MAX];
    int group_count;
};
// A name or a number. root is there even where the file is not.
err_t user_find(const char *name, struct user *out, struct error *e);
err_t user_become(const struct user *user, struct error *e);

// modules.c: gives the kernel its virtio socket driver where it is a module and lies at hand.
void modules_load(void);

// root.c: into the root directory that process 1 has: it may have left the initial RAM disk, from
// which the agent was started, for the real root.
void root_init(void);
void root_follow(void);
