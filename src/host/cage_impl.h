// Between the parts of cages: what lies in a cage's area, and what goes over the socket to the
// process that cages come from.
#pragma once

#include <linux/filter.h>
#include <signal.h>
#include <sys/types.h>

#include "host/cage.h"
#include "host/cage_layout.h"

struct cage_command {
    uint64_t call; // its number
    uint64_t address, bytes, prot, flags, offset;
};
_Static_assert(sizeof(struct cage_command) == CAGE_COMMAND_BYTES, "as the assembly reads it");

struct cage_commands {
    uint64_t count;
    uint64_t unused[7];
    struct cage_command command[];
};

struct cage_cpus {
    uint64_t move; // the runner, when it goes on
    uint64_t unused[7];
    cpu_set_t set;
};
_Static_assert(offsetof(struct cage_cpus, set) + CAGE_CPUS == CAGE_CPUS_SET &&
                   sizeof(cpu_set_t) == CAGE_CPUS_BYTES,
               "as in the assembly");

#define CAGE_COMMANDS_MAX \
    ((CAGE_COMMANDS_SIZE - sizeof(struct cage_commands)) / sizeof(struct cage_command))

// The bases, selectors and flags for ever, the others until the runner has started.
struct cage_words {
    uint64_t fs_base, gs_base;
    stack_t stack;
    uint64_t mask;
    struct sock_fprog mapper, runner;
    uint16_t selector[4]; // DS, ES, FS, GS
    uint64_t flags;       // that a return from a signal leaves alone
    struct sock_filter mapper_filter[32], runner_filter[32];
};
#define CAGE_WORD_AT(member, at) \
    _Static_assert(offsetof(struct cage_words, member) + CAGE_WORDS == (at), "as in the assembly")
CAGE_WORD_AT(fs_base, CAGE_FS_BASE);
CAGE_WORD_AT(gs_base, CAGE_GS_BASE);
CAGE_WORD_AT(stack, CAGE_SIGNAL_STACK);
CAGE_WORD_AT(mask, CAGE_SIGNAL_MASK);
CAGE_WORD_AT(mapper, CAGE_MAPPER_FILTER);
CAGE_WORD_AT(runner, CAGE_RUNNER_FILTER);
CAGE_WORD_AT(selector, CAGE_SELECTORS);
CAGE_WORD_AT(flags, CAGE_FLAGS);

// The assembly, as it lies in Berth itself; only offsets within it mean something elsewhere.
extern const char cage_code[], cage_entry[], cage_handler[], cage_code_end[];
extern const char cage_after_mapper[], cage_after_map[], cage_after_runner[], cage_after_return[];
extern const char cage_after_move[];

// To the nursery: twice for each cage, with the file of its memory and then with that of its area.
struct cage_request {
    uint64_t area;
    uint32_t index; // comes back
    bool trap_tsc;
};

// From the cage that was made: twice, with the descriptor of its notifications and then with its
// own pidfd; or once, without any, from it or from the nursery.
struct cage_report {
    uint32_t index;
    int32_t error; // errno; 0: it works
    int32_t pid;
    uint8_t cpuid_traps;
    char what[35]; // that failed
};

// From the nursery, once the VM has all its cages: one has ended.
struct cage_end {
    int32_t pid, status; // of wait(2)
};

// Signals that stop the runner, as a mask of signal numbers.
#define CAGE_SIGNAL(n) (1ull << ((n)-1))
#define CAGE_KICK SIGUSR1
#define CAGE_SIGNALS                                                                          \
    (CAGE_SIGNAL(SIGSEGV) | CAGE_SIGNAL(SIGBUS) | CAGE_SIGNAL(SIGILL) | CAGE_SIGNAL(SIGFPE) | \
     CAGE_SIGNAL(SIGTRAP) | CAGE_SIGNAL(SIGSYS) | CAGE_SIGNAL(CAGE_KICK))

// The stack counts as empty until the handler has returned, wherever the code's stack pointer is.
#ifndef SS_AUTODISARM // Linux has it, glibc's headers do not
#define SS_AUTODISARM (1u << 31)
#endif
#define CAGE_STACK_T(area)                                                  \
    (stack_t)                                                               \
    {                                                                       \
        .ss_sp = (void *)((area) + CAGE_STACK), .ss_size = CAGE_STACK_SIZE, \
        .ss_flags = (int)SS_AUTODISARM                                      \
    }

// The nursery's whole life, in a process of its own: makes the cages that are asked for at the
// socket and ends, and they with it, when the other end is closed or the parent dies.
_Noreturn void cage_nursery(int socket, pid_t parent);
