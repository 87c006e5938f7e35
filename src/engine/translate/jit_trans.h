// One block being translated: what the emission files share.
#pragma once

#include "engine/translate/jit_impl.h"
#include "engine/translate/jit_store.h"

// The memory access of an instruction, if it is one that groups are made of.
struct member {
    uint8_t base; // guest register, or what jit_group.c has in its place
    uint8_t size;
    bool write;
    uint8_t group;             // 1 + index; 0: none
    uint8_t reg, index, scale; // of its address
    int32_t disp;              // as the instruction has it
    int32_t at; // from the base as it was at the block's start, or the offset in the page
    gva_t page; // of a constant address
};

struct group {
    uint8_t first, last; // instructions
    uint8_t members;
    bool used;
    bool ready;        // the leader's check is emitted
    bool write;        // the leader checks for writing
    int32_t low, high; // bytes that the leader checks, as members count them
    gva_t page;
    size_t addend; // in struct tcpu: where it is kept
    bool whole;    // what is kept is where in the host `low` is
};

// Accesses of a loop that one check vouches for: from the same registers, or constant addresses in
// one page.
struct stream {
    uint8_t base, index, scale; // as a member has them; base 16: constants
    uint8_t varies;             // the register of these that the loop changes, or REG_NONE
    uint8_t temporary;          // where its addend is, or NO_HOST: in memory
    bool write;
    int32_t step;      // bytes in an iteration
    int32_t low, high; // bytes accessed, from where an iteration begins
    gva_t page;        // of constants
};

// An innermost loop that has a copy without checks.
struct stretch {
    uint8_t head, branch; // instructions
    uint8_t counter;      // a register that the loop changes by a constant in each iteration
    uint8_t streams;
    uint16_t account;
    int32_t step; // of the counter
    struct stream stream[STREAMS_MAX];
    uint8_t *from;                  // displacement of the branch that leads to its copy
    bool bounded;                   // the loop ends in a comparison of the counter with
    uint8_t bound;                  // this register, or
    int64_t limit;                  // if that is REG_NONE, this
    uint8_t distance;               // least one from there with which it goes on
    uint8_t *fail[STREAMS_MAX + 2]; // of those back from there
    const void *start;              // where it is decided whether there is one
};
#define STRETCHES_MAX 6 // in a block

enum label { LABEL_NONE, LABEL_FORWARD, LABEL_BACKWARD };

struct fixup {
    uint8_t *at; // of the displacement
    uint8_t insn;
};

#define SPANS_MAX 32
#define AHEAD_BYTES 512
#define AHEAD_MOVES 32

// Guest bytes from which the block is made: a copy, because other processors may be writing there.
struct source {
    uint8_t code[JIT_LOOP_BYTES];
    unsigned len;
};

struct trans {
    struct tcpu *c;
    struct jit *jit;
    struct emit *e;    // hot code
    struct emit *cold; // stubs
    struct jit_block *b;
    uint32_t block; // its index
    uint32_t page;
    unsigned count;           // instructions decoded
    unsigned i;               // the one being translated
    const struct insn *in;    // insn[i]
    uint64_t rip;             // where it is
    uint64_t next;            // and the one after it
    uint8_t host[16];         // of guest registers: jit_host_reg, or exchanged
    uint8_t home[16];         // whose place in s.gpr they have
    bool exchanged;           // by the loop
    bool code64;              // else flat 32-bit code
    bool moving;              // trans_page_moves()
    bool flags_live;          // the guest's arithmetic flags are needed from `in` on
    bool fpu_checked;         // the vector state is known to be in the machine
    const struct group *held; // what it keeps is in T1, too
    uint8_t kept;             // a guest register in memory whose value is in T2, too; or NO_HOST
    uint8_t kept_before;      // the same, for the current instruction
    bool plain;               // no groups
    unsigned max;             // instructions to decode
    unsigned groups;
    unsigned stretches;
    const struct stretch *copying; // the instructions are those of its copy
    unsigned reserved;             // temporaries that it needs for itself, a bit mask
    bool broken;                   // something has gone out of line
    uint32_t after;                // offset of what follows the last instruction
    bool ended;                    // the block's last way out is emitted
    bool returns; // it is a call, which comes back to what follows the block's code
    bool lands;   // the block is what a call before it comes back to
    struct insn insn[JIT_LOOP_INSNS];
    struct member member[JIT_LOOP_INSNS];
    struct group group[GROUPS_MAX];
    struct stretch stretch[STRETCHES_MAX];
    uint8_t stream[JIT_LOOP_INSNS]; // 1 + index in the stretch that the instruction is in; 0: none
    uint16_t live[JIT_LOOP_INSNS + 1]; // flags needed before each instruction
    uint16_t taken[JIT_LOOP_INSNS];    // by the target of a branch
    // Of a loop: what is a target of branches within it, and branches forward that are not done.
    uint8_t label[JIT_LOOP_INSNS]; // enum label
    struct fixup fixup[JIT_LOOP_INSNS];
    unsigned fixups;
    struct {
        uint32_t landing, hot, cold, sites, links;
    } start;  // where the block's code and records begin
    bool own; // what this vCPU has learnt decided how the block is made
    struct source source;
    unsigned spans; // of code looked at beyond the block; more than SPANS_MAX: too many to keep
    unsigned ahead_bytes;
    unsigned ahead_moves; // fields of it that move; what is left out differs from page to page
    unsigned moves;       // and of all, where the block is kept
    struct stored_span span[SPANS_MAX];
    struct stored_move ahead_move[AHEAD_MOVES];
    struct stored_move move[2 * JIT_INSNS + AHEAD_MOVES];
    uint8_t ahead_code[AHEAD_BYTES]; // theirs, one after another
};

// What emitted code depends on beside the guest's code: kinds of struct emit_note. Four bytes each,
// but NOTE_LINEAR_64.
enum note {
    NOTE_BRANCH = EMIT_BRANCH, // to fixed code or between the block's hot and cold code
    NOTE_SITE,                 // numbers of records
    NOTE_LINK,
    NOTE_BLOCK,
    NOTE_PAGE,
    NOTE_PAGE_MINUS, // minus its handle
    NOTE_CTLB,       // the page's place in the code TLB
    NOTE_HEAT,       // a link's counter
    NOTE_TLB,        // an entry in the inline TLB, of a page that moves with the code
    NOTE_LINEAR_U32, // a linear address that moves with the page, zero-extended
    NOTE_LINEAR_S32, // sign-extended
    NOTE_LINEAR_64,
    NOTE_STUCK, // the code cannot be written elsewhere
    NOTE_KINDS = NOTE_STUCK,
};

// An operand's linear address before translation to a host address.
struct address {
    uint8_t base;  // guest register or REG_NONE
    uint8_t index; // guest register or REG_NONE
    uint8_t scale;
    uint8_t width;   // 4 or 8 bytes that the sum is cut to
    uint8_t segment; // SEG_FS or SEG_GS, or SEG_COUNT when its base is zero
    bool moves;      // disp is an address that moves with the code
    bool constant;   // no registers: value
    bool relative;   // and that moves with the code
    bool
        string; // of bits: the quadword is counted from here by bits 6 and up of guest register bit
    uint8_t bit;
    uint64_t value;
    int32_t disp;
};

// Where guest registers are: in a host register, or NO_HOST and in memory.
static inline unsigned host_reg(const struct trans *t, unsigned guest)
{
    return t->host[guest];
}

static inline struct emit_mem gpr_slot(const struct trans *t, unsigned guest)
{
    return emit_gs(offsetof(struct tcpu, s.gpr) + 8ul * t->home[guest]);
}

#define GS(field) emit_gs(offsetof(struct tcpu, field))

// jit_loop.c: a block that is a whole loop
// The loop that begins at the block's start, as the offset of its last branch from there; 0: none.
unsigned trans_loop_bytes(struct trans *t);
// Fills in label.
void trans_find_labels(struct trans *t);
// The instruction of the loop that a branch leads to; -1: one elsewhere.
int trans_loop_target(const struct trans *t, const struct insn *in, uint64_t next);
// Which registers the loop exchanges.
void trans_choose_exchange(struct trans *t);
// What has to be done once, before the first instruction.
void trans_enter_loop(struct trans *t);
// Where branches within the loop come to the current instruction.
void trans_label(struct trans *t);
// Forward ones only, without a poll.
void trans_come_to(struct trans *t);
// Where an instruction begins that has been emitted.
const void *trans_done(const struct trans *t, unsigned insn);
// A branch within the loop; false when it leads elsewhere, and nothing is emitted.
bool trans_inner_jump(struct trans *t, uint64_t target);
bool trans_inner_jump_if(struct trans *t, enum condition condition, uint64_t target);
// Guest registers where they belong, for what is emitted from here on; and where the loop has them.
void trans_standard(struct trans *t);
void trans_exchanged(struct trans *t);
// Brings them back to where they belong. Changes T2, no flags.
void trans_emit_back(const struct trans *t, struct emit *e);

// jit_flags.c: fills in live and taken, and what of the page that depends on.
void trans_live_flags(struct trans *t);

// jit_verify.c
// Goes on only if the block's bytes in its own page are still those that it is made from. Flags
// survive.
void trans_verify(struct trans *t);
void trans_verify_tail(struct trans *t); // those in the next page; those before are the same
// Before a store of size bytes to the host operand, which is left as it is: the interpreter makes
// it if it may change the block itself.
void trans_spare_block(struct trans *t, struct emit_mem to, unsigned size);

// jit_mem.c
// The address of in's memory operand; false when translated code cannot form it.
bool trans_address(const struct trans *t, const struct insn *in, struct address *out);
struct address trans_stack_address(const struct trans *t, int32_t disp); // [rsp + disp]
// The sum of base, index and displacement (no segment base) into T1; uses T0. To either emitter.
void trans_offset(const struct trans *t, struct emit *e, const struct address *a);
// Checks an access of size bytes and returns the host operand that makes it: T1 is in it, T0 and T2
// are free again. The guest's flags survive if they are live.
struct emit_mem trans_check(struct trans *t, const struct address *a, unsigned size,
                            enum access access);

// The same of bytes in one page, with the flags and all temporaries free, as a jump that is taken
// when they are not in the inline TLB; returns its displacement. Otherwise the address is in T1,
// its offset in the page in T2 and what makes it a host address in T0.
uint8_t *trans_check_span(struct trans *t, const struct address *a, unsigned size,
                          enum access access);

// Whether a slot may be used for instruction i of the block.
bool trans_slot_pays(const struct trans *t, unsigned i);

// jit_copy.c
// Copies the block from the store, if it is there, in place of translating it.
enum copy_outcome { COPY_NONE, COPY_DONE, COPY_FULL };
enum copy_outcome trans_copy(struct trans *t);
// Keeps the block just translated for others.
void trans_keep(struct trans *t);
// The same into a buffer of max bytes. False when it cannot be copied.
bool trans_store(struct trans *t, struct stored *to, uint32_t max);
// False for blocks that are their vCPU's alone.
bool trans_can_share(const struct trans *t);

// jit_block.c
enum insn_status trans_decode(const struct trans *t, const uint8_t *code, size_t len,
                              struct insn *out);
bool trans_ends_block(const struct insn *in); // but of a loop
// How many of the block's bytes are in its own page; the others are at the start of the next.
unsigned trans_head_bytes(const struct jit_block *b);
void trans_begin_code(struct trans *t); // what comes before the code that can be copied
void trans_undo(struct trans *t);       // gives back what the block has taken since then
void trans_undo_all(struct trans *t);   // and what came before
void trans_emit(struct trans *t);       // decoded instructions to host code

// One instruction, by whoever can emit it, else by the interpreter.
void trans_insn(struct trans *t);

// jit_prove.c: ends run() with words if the block just translated comes out otherwise elsewhere
// than a copy of it.
void trans_prove(struct trans *t);

// jit_move.c
// Whether the block's code may have fields that move with it.
bool trans_page_moves(const struct trans *t);
// Whether the instruction's immediate or displacement is an address that moves with the code, or
// what RIP is added to leads to the same address wherever the code lies.
bool trans_imm_moves(const struct trans *t, const struct insn *in);
bool trans_disp_moves(const struct trans *t, const struct insn *in);
bool trans_disp_stays(const struct trans *t, const struct insn *in, uint64_t next);
// All such fields of an instruction, in order, at offsets in it. Returns how many.
unsigned trans_moving_fields(const struct trans *t, const struct insn *in, uint64_t next,
                             struct stored_move out[2]);
// A field as it is kept, and whether one in the block's page is the same as one that is kept.
uint32_t trans_unmoved(gva_t page, unsigned kind, const uint8_t *field);
bool trans_same_field(const struct trans *t, unsigned kind, const uint8_t *there,
                      const uint8_t *kept);
// The first bytes of the block, if it has as many, with fields as they are kept. len: that may be
// read there.
uint64_t trans_first_bytes(const struct trans *t, const uint8_t *code, unsigned len);

// jit_group.c
// The access of an instruction that the host runs itself; t->next is the address after it.
bool trans_member(const struct trans *t, const struct insn *in, struct member *m);
// By how much the instruction changes a register, where that is a constant.
bool trans_constant_step(const struct insn *in, unsigned reg, int32_t *step);
bool trans_avoids(struct trans *t, unsigned insn, enum avoid what);
void trans_plan_groups(struct trans *t);
// The group that the access of the current instruction belongs to, or NULL.
struct group *trans_group(struct trans *t, const struct address *a, unsigned size,
                          enum access access);
// Whether the current instruction leaves T1 alone, or follows the group that it is held for.
bool trans_holds(const struct trans *t);
// Whether it touches neither memory nor any of the temporaries but T0.
bool trans_spares(const struct trans *t);

// jit_stretch.c
void trans_plan_stretches(struct trans *t);
// The one whose loop this instruction closes, unless it is being copied.
struct stretch *trans_stretch_to(struct trans *t, unsigned insn);
void trans_emit_stretches(struct trans *t);
// The operand that makes an access of the copy; false where it has to be checked.
bool trans_stream(struct trans *t, const struct address *a, unsigned size, enum access access,
                  struct emit_mem *mem);
// Notes how far the stretch has come. No flags, no temporaries.
void trans_count_stretch(const struct trans *t, struct emit *e);
// Cold code that does so and goes on.
const void *trans_leave_stretch(struct trans *t, const void *to);

// jit_out.c
// Constants that are noted: the number of a record into T0, a linear address that moves with the
// code into a register. To either emitter.
void trans_load_id(struct emit *e, enum note kind, uint32_t id);
void trans_load_linear(struct emit *e, unsigned reg, uint64_t value);
// Ways out of line. Each returns the offset of a stub, or its own record's index.
uint32_t trans_site(struct trans *t, enum access access, unsigned size);
// A stub that enters a gate with an id.
const void *trans_stub(struct trans *t, enum gate gate, uint32_t id);
void trans_step(struct trans *t); // the interpreter runs the current instruction
void trans_fpu(struct trans *t);  // brings the vector state into the machine, once a block
// Direct branches, unconditional or on a condition.
void trans_jump(struct trans *t, uint64_t target);
void trans_jump_if(struct trans *t, enum condition condition, uint64_t target);
// To the guest address in T1. pushed: what the instruction added to rsp, to be undone when the
// target is no address.
void trans_indirect(struct trans *t, int pushed, bool call);
// A direct call, its return address pushed; it comes back to the instruction after it.
void trans_call_to(struct trans *t, uint64_t target);
// What a call comes back to, unless the next block is emitted there: a jump to its checked entry.
void trans_land(struct trans *t);
// Leaves to the current instruction's address when something is pending.
void trans_poll_here(struct trans *t);
// To the guest address in T1, by the shadow stack. popped: as above.
void trans_return(struct trans *t, int popped);

// jit_insn.c: instructions that the host runs as they are, with other operands. False: not this
// one, and nothing is emitted.
bool trans_native(struct trans *t);
bool trans_is_vector(const struct insn *in);
bool trans_lea(struct trans *t);

// jit_branch.c, jit_stack.c: false as above.
bool trans_branch(struct trans *t);
bool trans_stack(struct trans *t);
bool trans_system(struct trans *t); // jit_system.c
// Stores the register below rsp and moves rsp.
void trans_push_reg(struct trans *t, unsigned host);
void trans_push_next(struct trans *t); // the address of the next instruction

// jit_policy.c
// True when the host may run the instruction itself: it touches nothing but registers, flags and
// one memory operand, and means on the host what it means to the guest.
bool trans_allowed(const struct trans *t, const struct insn *in);
// True when the block may go on after the interpreter ran it.
bool trans_continues(const struct insn *in);
