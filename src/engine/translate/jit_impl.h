// Inside the block translator: the code cache and its records. The parts and how they work together
// are described in docs/engine-translate-jit.md.
//
// Invariants:
// - Translated code runs with the guest's registers in the host's as jit_host_reg says, the
//   arithmetic flags in the host's, the others in s.rflags (with zeros for the former), %gs at
//   struct tcpu, and an aligned host stack.
// - Every way from translated code into C is a gate: it brings all registers and flags into c->s,
// calls
//   a gate_fn with an id and a value, loads c->s again and jumps to where the function says.
// - All records are indices into arrays that live until the next flush; nothing is freed singly.
#pragma once

#include "engine/translate/codebuf.h"
#include "engine/translate/emit.h"
#include "engine/translate/jit.h"
#include "engine/translate/tvm.h"

// Host registers without a guest register in them, free between any two guest instructions.
#define T0 RCX // JRCXZ and shift counts; the only one that combines with AH..BH
#define T1 R9
#define T2 R8
#define NO_HOST 0xff // guest registers R8..R11 live in c->s.gpr

extern const uint8_t jit_host_reg[16];

// The bits of tcpu.mode that decide how code is translated.
#define KEY_MASK                                                                                  \
    (MODE_CODE_SIZE | MODE_USER | MODE_FLAT | MODE_FPU_TRAP | MODE_SSE | MODE_AVX | MODE_AVX512 | \
     MODE_CPL0 | MODE_IOPL_OK)

#define JIT_INSNS 64          // in one block
#define JIT_NOTES 1024        // of each kind of code of one block; with more it is not shared
#define JIT_SOURCE_BYTES 256  // of one block; never more than one page
#define JIT_VERIFIED_INSNS 16 // the same of a block that verifies itself
#define JIT_LOOP_INSNS 192    // the same of a block that is a loop
#define JIT_LOOP_BYTES 1024

enum gate {
    GATE_SLOW,     // a memory access missed the TLB; id: site, value: linear address
    GATE_STEP,     // the interpreter runs one instruction; id: site
    GATE_LINK,     // a direct branch whose target is not known yet; id: link
    GATE_POLL,     // the same, with something pending
    GATE_INDIRECT, // an indirect branch that missed, or something pending; id: site, value: target
    GATE_PAGE,     // a checked entry whose page must be asked for, or a dropped block; id: block
    GATE_FPU,      // the guest's vector state must come into the machine; id: site
    GATE_ARRIVE,   // an indirect branch has arrived, with something pending; value: target
    GATE_STRING,   // a string instruction; id: site
    GATE_TRANSFER, // SYSCALL, SYSRET or IRET; id: site, value: rip after it
    GATE_HOT,      // a backward branch was taken often; id: link
    GATE_HOP,      // a slot has missed often; id: site
    GATE_SHORT,    // stretches of a loop were too short; id: site
    GATE_TRAP,     // a host exception; hot.trap_pc and trap_no
    GATE_CHANGED,  // a block that compares its own bytes has found others; id: block
    GATE_COUNT,
};

typedef const void *gate_fn(struct tcpu *c, uint32_t id, uint64_t value);

// Code of one linear page in one mode, wherever it came from. Its index is the handle in the ctlb.
struct jit_page {
    gva_t at;
    gpa_t gpa;
    uint8_t *host;
    uint32_t mode;      // KEY_MASK bits
    uint32_t blocks;    // list through jit_block.next_in_page
    uint32_t tails;     // blocks that end in this page: list through jit_block.next_tail
    uint32_t next;      // in hash chain
    uint32_t next_gpa;  // in the chain of the guest-physical page
    uint64_t hot_lines; // of 64 bytes: blocks that begin there are hot
    uint32_t next_open; // in the list of pages that have blocks which verify themselves
    bool open;          // it is in that list
};

struct jit_block {
    uint64_t rip;
    uint32_t page;
    uint32_t checked; // offset in the code buffer: entry that verifies the page first
    uint32_t entry;   // offset: entry from within the page
    uint32_t end;     // offset after the block's hot code
    uint32_t stub;    // offset of its way to GATE_PAGE
    uint32_t landing; // offset, or 0: where returns arrive that may be wrong here
    uint32_t target;  // the same for indirect branches
    uint32_t marks;   // first of insns entries in jit.mark
    uint32_t next;    // in hash chain
    uint32_t next_in_page;
    uint32_t tail; // page of the rest of a block whose only instruction crosses the end of its page
    uint32_t next_tail;
    uint16_t bytes; // of guest code
    uint8_t insns;
    bool dropped;
    bool fpu;          // has instructions that need the vector state in the machine
    uint8_t ancestors; // dropped blocks that hand visitors on to this one, one after another
    uint16_t ahead_from, ahead_to; // bytes of the page that were looked at beyond the block
    bool hot;
    bool needs_flags; // the guest's arithmetic flags, when it begins
    bool loop;        // with branches within it; no way in but from its start
    // Pairs of guest registers that have changed places while the loop runs: four bits for one that
    // is in memory otherwise, four for the one that is there instead. 0: none.
    uint32_t exchange;
    bool verifies; // compares its own bytes, which nobody protects, each time that it is entered
    bool plain; // made without groups, for visitors whose group's check failed: not found by others
    uint8_t strayed;       // of them, since then
    uint8_t copied;        // marks that follow those of insns: of instructions that are there twice
    uint32_t strayed_from; // in 1,024 TSC ticks
    uint64_t inside; // bit n: instruction n relies on a check before it: no way in from elsewhere
};

#define JIT_ANCESTORS_MAX 8

struct jit_mark { // where an instruction begins, relative to its block
    uint16_t host;
    uint16_t guest;
};

#define SITE_ALIGNED 0x80 // the access faults when it is not aligned to its size
#define SITE_MASKED 0x40  // a writemask decides what is accessed
#define SITE_GROUP 0x20   // the check of a group
#define SITE_MIXED 0x10   // and its first access reads, others write
#define SITE_ACCESS 0x0f

// access of a string's site: what it does, its prefix, and whether addresses and counts have 32
// bits
enum site_string {
    SITE_STOS,
    SITE_MOVS,
    SITE_LODS,
    SITE_SCAS,
    SITE_CMPS,
    SITE_STRING = 7,
    SITE_REP = 8, // or REPE
    SITE_REPNE = 16,
    SITE_SHORT = 32,
};

// access of a far transfer's site; size: of its operands
enum site_transfer { SITE_SYSCALL, SITE_SYSRET, SITE_IRET };

struct jit_site { // an instruction's way out of line
    uint32_t block;
    uint32_t resume; // offset to go on at
    uint8_t insn;    // index in the block
    uint8_t access;  // enum access and SITE_* bits
    uint16_t size;
    uint16_t range; // bytes checked: those of a group, or size
    uint16_t lead;  // of them before the instruction's own
    uint16_t slot;
    bool exchanged; // resume expects the registers so
    uint32_t plain; // the block without groups from here, once it was needed
};

struct jit_link {
    uint64_t rip;          // where to
    uint32_t patch;        // offset of the displacement; 0: nothing to patch
    uint32_t page : 31;    // where from
    uint32_t checked : 1;  // to the checked entry: the way back from a call
    uint32_t counted_from; // when its visits were last counted from, in 1,024 TSC ticks
    uint16_t from;         // the branch's offset in its page
};

#define SHADOW_BYTES 65536u
#define SHADOW_STEP (SHADOW_BYTES + PAGE_SIZE) // from one shadow stack to the next
#define SHADOW_ALL (2 * SHADOW_STEP + PAGE_SIZE)

#define JIT_PAGES 65536u
#define JIT_PAGE_HASH 16384u
#define JIT_BLOCK_HASH_BITS 18
#define JIT_BLOCK_HASH (1u << JIT_BLOCK_HASH_BITS)

#define CTLB_LISTED 1024
#define TARGETS_LISTED 1024

// A loop in a page that was found to be hot, by the offsets of its first instruction and of the
// last branch that leads back there.
struct jit_loop {
    uint32_t page; // 0: none
    uint16_t head;
    uint16_t branch;
};
#define JIT_LOOPS 1024 // by a hash of page and head

// Code that changes is not translated again at once: see jit_find_block().
#define VISITS 65536u // by a hash of the block's key
#define VISITS_DOUBLED_MAX 5

// What the check of an instruction must not be again, because it did not pay.
enum avoid { AVOID_SLOT = 1, AVOID_GROUP = 2, AVOID_MIXED = 4, AVOID_STRETCH = 8 };
#define AVOID_ENTRIES 8192 // by a hash of rip

struct jit {
    struct codebuf buf;
    struct emit hot;  // straight-line code
    struct emit cold; // stubs, in the buffer's last third
    uint8_t *hot_start;
    uint8_t *cold_start;
    struct emit_note note[2][JIT_NOTES]; // of the block in the making, hot and cold
    size_t hot_chunk; // chunks of the code buffer below these are backed by large pages
    size_t cold_chunk;
    uint32_t generation; // counts flushes
    bool bmi2;
    bool full_tlb;   // not ENGINE_DEBUG_TINY_TLB
    bool all_hot;    // ENGINE_DEBUG_ALL_HOT
    bool slots_miss; // ENGINE_DEBUG_SLOTS_MISS
    bool copy_own;   // ENGINE_DEBUG_COPY_BLOCKS
    bool poll_all;   // ENGINE_DEBUG_POLL_EVERY_BLOCK
    bool polled;     // and that is why translated code was left
    bool attached;   // %gs and the signal stack of the vCPU's thread are set
    // ctlb slots that a change of address space empties; more than CTLB_LISTED: all.
    uint16_t ctlb_local[2][CTLB_LISTED];
    uint32_t ctlb_locals[2];
    uint32_t seen[2]; // mode that ctlb and targets hold, for supervisor and user
    // Targets known; more than TARGETS_LISTED: not all are listed.
    uint32_t targets[2];
    bool targets_made[2]; // the table is there
    uint64_t target_listed[2][TARGETS_LISTED];

    void (*enter)(struct tcpu *c, const void *host);
    // The shadow stacks of supervisor and user code, a guard page before, between and after them.
    uint8_t *shadow;
    uint64_t shadow_base[2]; // where they are empty
    uint64_t shadow_rsp[2];  // of the one that is not in use
    uint32_t shadow_mode[2]; // of the code that the entries lead to
    uint32_t shadow_user;    // which one is in use
    const void *leave;       // returns from enter()
    const void *gate[GATE_COUNT];
    // Where branches go that are not to arrive where they are: to the guest address in T1, by the
    // ibtc, with their site in T2. astray: returns, which empties the shadow stack. [1] for user
    // code
    const void *lookup[2];
    const void *astray[2];
    // Repeated STOS and MOVS by enum site_string, of 1, 4 and 8 bytes; NULL without BMI2 and in a
    // TLB of one entry.
    const void *repeat[2][2][3];

    struct jit_page *page;
    struct jit_block *block;
    struct jit_mark *mark;
    struct jit_site *site;
    struct jit_link *link;
    uint32_t open_pages; // list through jit_page.next_open
    uint64_t open_seen;  // when jit_close_pages() last went through it, by the TSC
    uint32_t pages, blocks, marks, sites, links; // used; 0 is never used
    uint32_t max_blocks, max_marks, max_sites, max_links;
    bool unsettled; // jit_find_block() has left a block to interp_once()
    struct {
        uint8_t dropped; // how often its bytes have changed, up to VISITS_DOUBLED_MAX
        uint8_t seen;    // since the last time
    } visits[VISITS];
    uint32_t accounts;            // given out, of stretches
    uint32_t slots[2];            // given out, of those for reads and writes
    uint32_t slot_time[SLOTS];    // when slot_left was last set: TSC / 1024
    uint8_t avoid[AVOID_ENTRIES]; // enum avoid
    struct jit_loop loop[JIT_LOOPS];
    uint32_t page_hash[JIT_PAGE_HASH];
    uint32_t gpa_hash[JIT_PAGE_HASH];
    uint32_t block_hash[JIT_BLOCK_HASH];
    struct insn_memo memo;
    uint64_t proof[2][8192]; // with copy_own: a block as kept, made at two places
    uint8_t signal_stack[16384] __attribute__((aligned(16)));
};

static inline const void *jit_exec(const struct jit *jit, uint32_t offset)
{
    return jit->buf.exec + offset;
}

static inline uint32_t jit_offset(const struct jit *jit, const struct emit *e)
{
    return (uint32_t)(e->at - jit->buf.write);
}

// jit_gate.c: emits enter, leave and the gates at the start of an empty cache.
void jit_emit_gates(struct jit *jit);
void jit_emit_repeats(struct jit *jit); // jit_repeat.c: the same for what `repeat` names
// jit_out.c: finds the block for the guest address in T1: its checked entry in T2. Goes to `miss`
// when it is not known, or something is pending.
void jit_emit_lookup(const struct jit *jit, struct emit *e, unsigned user, const void *miss);

// jit_block.c: translates the block at offset in page; 0 when it cannot (cache full: after a flush
// too; the code is not in RAM). May flush.
uint32_t jit_translate(struct tcpu *c, uint32_t page, uint64_t rip);
// The same from instruction insn of a block to its end, without groups; nobody else finds it.
uint32_t jit_translate_plain(struct tcpu *c, const struct jit_block *b, unsigned insn);
// The instruction of a block that the host address belongs to, or -1.
int jit_insn_at(const struct jit *jit, const struct jit_block *b, uint32_t offset);

// jit_find.c
// The place in the ctlb of code at a linear address.
uint32_t jit_page_slot(const struct tcpu *c, gva_t at);
// The handle of the code page of rip, after a fetch check. Raises as a fetch does. 0: not RAM.
void jit_start_empty(struct tcpu *c);
uint32_t jit_find_page(struct tcpu *c, uint64_t rip);
// The block at rip in a page whose handle is given, translated if it is worth it; 0: interpreter.
uint32_t jit_find_block(struct tcpu *c, uint32_t page, uint64_t rip);
void jit_add_block(struct jit *jit, uint32_t block); // to those that are found
uint32_t jit_known_block(const struct jit *jit, uint32_t page, uint64_t rip);
// Empties the shadow stacks.
void jit_forget_returns(struct tcpu *c);
// Where to go on for s.rip: host code, or jit->leave.
const void *jit_continue(struct tcpu *c);
// No way leads into the block any more but to what takes its place.
void jit_drop(struct tcpu *c, struct jit_block *b);
void jit_patch(struct jit *jit, uint32_t at, uint32_t target); // 32-bit displacement
// The same for a block whose bytes have changed; it is in no hurry to be translated again.
void jit_drop_changed(struct tcpu *c, struct jit_block *b);

// jit_verify.c: blocks that compare their own bytes
// Whether a block in these pages (tail: or 0) is to be one.
bool jit_is_open(const struct tcpu *c, uint32_t page, uint32_t tail);
void jit_note_open(struct jit *jit, uint32_t page); // it has such blocks
// Gives up those whose pages are to be protected again. Cheap: call it often.
void jit_close_pages(struct tcpu *c);
gate_fn jit_gate_changed;

// jit_target.c
// At the start of what stands for rip: elsewhere unless T1 is that. Uses T0.
void jit_emit_arrival(struct emit *e, uint64_t rip, bool flags_live, const void *other);
// Indirect branches find the block from now on.
void jit_learn_target(struct tcpu *c, struct jit_block *b);
void jit_forget_target(struct tcpu *c, const struct jit_block *b);
void jit_forget_targets(struct tcpu *c, unsigned user); // all; makes the table
// The block is dropped because its code changed: what arrives at it leaves flags alone.
void jit_distrust_flags(struct jit *jit, const struct jit_block *b);

// jit_heat.c: hot blocks, slots, stretches
gate_fn jit_gate_hot, jit_gate_hop, jit_gate_short;
void jit_start_heat(struct tcpu *c);
void jit_count_from_start(struct tcpu *c, uint32_t link);
uint8_t *jit_avoid(struct jit *jit, uint64_t rip); // enum avoid bits of an instruction
// The hot loop that begins at an offset in the page; NULL: none.
const struct jit_loop *jit_loop_at(struct jit *jit, uint32_t page, unsigned head);
// A group's check failed that an access alone might pass: not too often.
void jit_stray(struct tcpu *c, struct jit_block *b, uint64_t rip, enum avoid why);

// jit_loop.c: registers in c->s.gpr as a loop has them, and back again.
void jit_exchange(struct tcpu *c, uint32_t pairs);
void jit_exchange_back(struct tcpu *c);

// jit_gatefn.c: goes on where the site says.
const void *jit_resume(struct tcpu *c, const struct jit_site *site);
extern gate_fn *const jit_gate_fns[GATE_COUNT];
gate_fn jit_gate_string; // jit_string.c
// The interpreter runs instruction `insn` of a block; then the block goes on if nothing is in the
// way.
const void *jit_step(struct tcpu *c, uint32_t block, unsigned insn);

// jit_signal.c: the thread's %gs base, its signal stack, and the process's handlers.
void jit_attach(struct tcpu *c);
