// Files and folders as frames, both ways: berth's side and the agent's use the same code, and
// neither trusts the other. What arrives is written below one place and never through a symbolic
// link, without set-user-id bits; special files are not copied.
#pragma once

#include "control/agent_wire.h"

struct tree_progress {
    void (*step)(void *opaque, const char *path,
                 uint64_t bytes); // more bytes of this file; or NULL
    void *opaque;
};

struct tree_counts {
    uint64_t files, folders, links, bytes;
    uint64_t skipped; // special files
};

// What is at path; ERR_NOT_FOUND: nothing.
err_t tree_measure(const char *path, struct tree_counts *out, struct error *e);
// Sends it, up to AGENT_END. Whatever comes from the other side meanwhile ends it.
err_t tree_send(struct agent_link *link, const char *path, const struct tree_progress *progress,
                struct tree_counts *counts, struct error *e);
// Receives to path or, if that is a folder, into it, under name (a single component).
err_t tree_receive(struct agent_link *link, const char *path, const char *name,
                   const struct tree_progress *progress, struct tree_counts *counts,
                   struct error *e);
// The last component of a path, as a name for its copy: "copy" where it has none.
void tree_name(const char *path, char *out, size_t size);
