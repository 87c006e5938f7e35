// Direct execution: user code that computes for long runs on the CPU itself, in a cage
// (host/cage.h). See docs/engine-translate-direct.md.
#pragma once

#include <sched.h>

#include "engine/translate/tcpu.h"

// The cages of a VM's vCPUs, where it is to have some. Without any, all of this does nothing.
err_t direct_prepare(struct tvm *vm, struct error *e);
void direct_release(struct tvm *vm);
err_t direct_new(struct tcpu *c, struct error *e);
void direct_free(struct tcpu *c);

// CPU time that the vCPU's cages have used; and where they are to use it.
uint64_t direct_cpu_ns(const struct tcpu *c);
void direct_moved(struct tcpu *c, const cpu_set_t *cpus);

// The vCPU comes to user code, or leaves it: call it when c->user is set.
void direct_level_changed(struct tcpu *c, bool user);
static inline void direct_level(struct tcpu *c, bool user)
{
    if (c->direct && c->user != user)
        direct_level_changed(c, user);
}

// Is user code at this boundary for direct_run()? Call it when nothing is pending.
bool direct_due(const struct tcpu *c);
// Runs it until it wants something that it cannot have natively. A guest fault unwinds through it.
void direct_run(struct tcpu *c);

// What flushes of the TLBs say: nothing that a cage maps may be believed any more (nor that nobody
// asks this vCPU before a page is protected), or nothing of a PCID, or not the page (large: nor
// those of the aligned 4 MiB around it) of a PCID or, since it may be global, of all.
#define DIRECT_ALL_PCIDS ~0u
void direct_forget_all(struct tcpu *c);
void direct_forget_pcid(struct tcpu *c, unsigned pcid);
void direct_forget_page(struct tcpu *c, gva_t at, unsigned pcid, bool large);
// The page (or all, with ~0) must no longer be written unnoticed.
void direct_protect(struct tcpu *c, gpa_t page);
// From any thread: may a cage have the page writable?
bool direct_may_write(const struct tcpu *c, gpa_t page);
// Is something known about the code of the page as a whole? And: some of its bytes changed.
bool direct_holds_code(const struct tcpu *c, gpa_t page);
void direct_code_changed(struct tcpu *c, gpa_t at, uint64_t len);
void direct_all_code_changed(struct tcpu *c); // nobody knows any more which
