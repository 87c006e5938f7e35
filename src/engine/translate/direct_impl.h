// Inside direct execution.
#pragma once

#include "engine/translate/direct.h"
#include "engine/translate/mmu.h"
#include "host/cage.h"

#define DIRECT_SPACES 2 // for each vCPU: address spaces that take turns
#define DIRECT_REGIONS 2048
#define DIRECT_REGION_BITS 21 // of linear addresses: what one page table maps

// What a cage has of 2 MiB of linear addresses, and the guest's entries that it follows from.
struct direct_region {
    uint64_t number; // linear address >> DIRECT_REGION_BITS
    bool stale;      // the guest's tables may say something else by now
    bool doubtful;   // what is known of the pages may have changed, too
    uint8_t rights;  // of the tables above, enum page_rights
    uint64_t entry[512];
    uint64_t page[512]; // where the page is in the RAM's file | enum cage_prot; 0: not there
};

// One address space of the guest's, in a cage. All regions in use lie one after another.
struct direct_space {
    struct cage *cage;
    uint64_t cr3;  // the table; 0: the space is free
    unsigned pcid; // its entries were loaded with
    bool stale;    // all regions are
    bool some_stale;
    uint64_t used; // when it last ran
    uint32_t regions;
    struct direct_region *region;    // DIRECT_REGIONS, as address space
    uint16_t at[2 * DIRECT_REGIONS]; // by hash of the number: 1 + index in region
};

struct direct_habit {
    uint64_t table; // CR3 >> PAGE_SHIFT
    uint64_t run;   // ticks of the TSC, a moving average
    int64_t credit; // likewise
};

#define DIRECT_HABITS 64
#define DIRECT_COPIES 128

struct direct {
    struct direct_space space[DIRECT_SPACES];
    struct direct_habit habit[DIRECT_HABITS];
    uint64_t worth;               // ticks that a run must have to be worth the way into a cage
    uint64_t since;               // when the run began; 0: it has ended
    uint64_t runs;                // so far
    bool always;                  // ENGINE_DEBUG_ALL_DIRECT
    bool wanted;                  // the user code that runs now is worth it
    uint16_t step;                // so many instructions are for the interpreter
    unsigned copies;              // of pages of code: so many of copy[] are in use, or were
    uint64_t copy[DIRECT_COPIES]; // whose it is; ~0: nobody's
    uint8_t page[];               // of RAM, by number: enum direct_page
};

// What is known of a page of RAM. The first three only while it is protected as code.
enum direct_page {
    PAGE_RUNS = 1,      // its code may run on the CPU
    PAGE_REFUSED = 2,   // it may not
    PAGE_RUNS_COPY = 4, // a copy of it may
    PAGE_KNOWN = PAGE_RUNS | PAGE_REFUSED | PAGE_RUNS_COPY,
    PAGE_WRITABLE = 8, // [any] some cage may have it writable
};

// direct_habit.c: one visit, by the TSC.
struct direct_visit {
    uint64_t came, entered, left;
};

enum direct_end {
    DIRECT_GOES_ON, // with a page that it lacked
    DIRECT_ENDED,
    DIRECT_VAIN, // with what would not have ended a run of translated code
};

void direct_habits_init(struct tcpu *c);
void direct_learn_visit(struct tcpu *c, const struct direct_visit *v, enum direct_end end);
void direct_learn_refusal(struct tcpu *c); // it cannot be had, for a while

// The page of the RAM's file in which the code of page n, which is at gpa and at a linear address,
// may run: itself or a copy; ~0: none.
uint64_t direct_code_page(struct tcpu *c, gva_t at, gpa_t gpa, uint64_t n);
uint64_t direct_copied(const struct tcpu *c, uint64_t n); // its copy, or ~0
// The page has changed. Call it when no cage maps it or its copy as code, or will before it looks.
void direct_forget_code(struct direct *d, uint64_t n);
// The same, also where cages map it: they look before they run again.
void direct_look_again(struct tcpu *c, uint64_t n);

// The page of code at a linear address, in the guest's RAM; NULL: there is none.
const uint8_t *direct_code_at(struct tcpu *c, gva_t at);

// The space of the current address space, taken from another if need be, with nothing stale in it;
// NULL when it can not be had.
struct direct_space *direct_space_ready(struct tcpu *c);
// Gives the space the page of `at` and its neighbours, if it may be accessed so. Unwinds when the
// guest's tables keep changing.
bool direct_space_fault(struct tcpu *c, struct direct_space *s, gva_t at, enum access access);
// The state of a cage that has stopped becomes the vCPU's, as far as a program can change it.
void direct_take(struct tcpu *c, struct cage *cage);
// It is free, and its cage maps nothing.
void direct_space_clear(struct direct_space *s);
