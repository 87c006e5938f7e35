// Cages: processes in which code of a guest's programs runs on the CPU itself. A cage has an
// address space with nothing in it but a small area of ours and the pages of guest RAM that it is
// given, and a filter that lets it make no system call: whatever the code does other than compute
// (a fault, a system call, a signal from outside) stops it and is reported. seccomp_unotify(2),
// pidfd_open(2).
//
// Threads: cages are made while a VM is prepared; one thread at a time uses a cage, but for
// cage_kick(), which any thread may call.
#pragma once

#include <sched.h>

#include "base/error.h"

struct cages; // a VM's: the process that they come from, and what they have in common
struct cage;

// Part of a cage's area: what the code in it must not have in its own memory.
#define CAGE_AREA_BYTES (2 * MIB)

enum cage_stop_kind {
    CAGE_FAULT,   // page fault: address, error (the CPU's error code)
    CAGE_SYSCALL, // SYSCALL or INT 0x80; rip is that of the next instruction for SYSCALL
    CAGE_TRAP, // another exception: trap is its vector, rip as the CPU has it (or as the hypervisor
               // under the host, for INT1); of #DB error says whether it is the trap flag's; 14 is
               // a page that was given, for which the host has no memory
    CAGE_KICKED,
    CAGE_LOST, // by what the code in it did, there is no state any more, and the cage is of no use
    CAGE_FAILED, // likewise, but by the host: it was killed
};

struct cage_stop {
    enum cage_stop_kind kind;
    uint8_t trap;
    uint32_t error;
    uint64_t address;
};

// The code's registers while it is stopped. Everything in it may have been made up by the code.
struct cage_regs {
    uint64_t gpr[16]; // in the order of their numbers
    uint64_t rip, rflags;
    uint64_t fs_base, gs_base;
    // Selectors (of the host's descriptors) that it stopped with. It always goes on in 64-bit mode
    // and with data selectors of zero.
    uint16_t cs, ss;
    uint16_t data[4]; // DS, ES, FS, GS
};

enum cage_prot { CAGE_READ = 1, CAGE_WRITE = 2, CAGE_EXEC = 4 };

// Before the process confines itself: forks what cages come from, which waits until it is asked. It
// is a child that the caller need not wait for; best ignore SIGCHLD.
// ERR_UNSUPPORTED, with the reason, where this kernel cannot have cages.
err_t cages_start(struct cages **out, struct error *e);
// Makes one, to see whether all that it takes can be had, and frees it. Not in a confined process.
err_t cages_probe(struct error *e);
int cages_socket(const struct cages *cages); // which sandbox_enter() must keep

// Makes n cages that can be given pages of the file ram_fd (which stays the caller's). While the VM
// is prepared; if it cannot, those that were made end as well. trap_tsc: RDTSC and RDTSCP stop them
// (CAGE_TRAP, vector 13), which makes every stop dearer, twice as dear where the host is a virtual
// machine itself; else they read the host's.
err_t cages_make(struct cages *cages, unsigned n, int ram_fd, bool trap_tsc, struct cage **out,
                 struct error *e);
void cages_free(struct cages *cages); // with all that were made; accepts NULL

// No more are made: what they come from can do nothing from here on, and ends when there are none.
void cages_complete(struct cages *cages);

// Of those that were made: CPUID stops them (CAGE_TRAP, vector 13). Few CPUs can; on others the
// code sees the host's.
bool cages_trap_cpuid(const struct cages *cages);

// CPU time that they have used; it never gets less. Any thread.
uint64_t cages_cpu_ns(const struct cages *cages);
uint64_t cage_cpu_ns(struct cage *cage);

uint64_t cage_area(const struct cage *cage); // its address in the cage, CAGE_AREA_BYTES long

// From the next run on. Addresses and lengths are of whole pages, below 1 << 47, and outside the
// area. What was there before is replaced. False: the host refused something since the last run
// (it limits the number of mappings), and the cage is now empty.
bool cage_map(struct cage *cage, uint64_t at, uint64_t len, uint64_t ram_offset, unsigned prot);
bool cage_unmap(struct cage *cage, uint64_t at, uint64_t len);
bool cage_flush(struct cage *cage); // now

// Registers and XSAVE image (standard form, `bytes` long, with the host's enabled components) that
// it goes on with, and after a stop those it stopped with. Stays at one place.
struct cage_regs *cage_regs(struct cage *cage);
uint8_t *cage_xsave(struct cage *cage, size_t *bytes);

// Runs the code until it stops. False: nothing ran, since mappings were refused.
bool cage_run(struct cage *cage, struct cage_stop *out);

// To these CPUs of the host, when it next runs; its bookkeeping may do so later.
void cage_move(struct cage *cage, const cpu_set_t *cpus);

// Stops it soon, or its next run at once. Any thread.
void cage_kick(struct cage *cage);
