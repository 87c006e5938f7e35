// One vCPU of the translator: what the interpreter, the memory unit and translated code share.
//
// Rules of this folder:
// - `s` is the truth about the guest at every instruction boundary. Translated code keeps most of
// gpr
//   and the arithmetic flags in host registers and writes them back before it calls C.
// - Everything here is compiled with -mgeneral-regs-only, so that the guest's vector and x87
// registers
//   can stay in the machine (fpu_live) across C code. Whatever leaves the folder (upcalls, libc
//   beyond plain system calls) calls fpu_to_memory() first.
// - A guest fault is cpu_raise(): it unwinds by longjmp to the run loop, so nothing may be held and
//   nothing of the guest's state changed before an instruction's last faulting access.
// - Fields marked [any] are touched by other threads, with atomics; all else is the vCPU thread's
// own.
#pragma once

#include <setjmp.h>

#include "cpu/insn.h"
#include "engine/engine.h"
#include "engine/translate/jit_hot.h"

#define TLB_BITS 16 // a MOVZX cuts the page number to the index and leaves the flags alone
#define TLB_ENTRIES (1u << TLB_BITS)

// The inline TLB that translated code looks at: direct-mapped by the low bits of the page number.
// tag = page-aligned linear address; host address = linear address + addend. A tag is set only
// where the access needs nothing but the bytes: PTE bits already set, RAM, no code in the page
// (write), no dirty bit to log (write). Anything else has no tag and takes the slow path. The table
// is mostly address space: memory is taken, and time for flushing spent, only for the entries in
// use.
struct tlb {
    uint64_t read[TLB_ENTRIES];
    uint64_t write[TLB_ENTRIES];
    uint64_t exec[TLB_ENTRIES]; // fetches; addend is the same
    uint64_t addend[TLB_ENTRIES];
};

// Bit 63 of address + TLB_HALF tells addresses whose two highest bits differ, which are not
// canonical, from all others.
#define TLB_HALF BIT(62)

// The tag of an empty entry: a page that has another index, as has the page before it, so that no
// address which leads to entry i comes near it. (A value that is no address would not do alone:
// guests form any number.) The low bits see to that in the full table, TLB_HALF in the table of
// one. Zero, too, is far from every entry but the first and the last.
static inline uint64_t tlb_no_tag(unsigned i)
{
    return (uint64_t)(i ^ 2) << PAGE_SHIFT | (i & 1 ? 0 : TLB_HALF | TLB_HALF >> 1);
}

// Reasons to leave translated code at the next poll. [any]
enum tcpu_pending {
    PENDING_INTR = 1, // set_intr level
    PENDING_NMI = 2,
    PENDING_KICK = 4,
    PENDING_INVALIDATE = 8, // entries in the invalidation queue
    PENDING_EVENT = 16,     // own thread: shadow, trap, single step: look at s before going on
    PENDING_FLUSH = 32,     // own thread: the code cache is full or must be dropped
};

// Indices of tcpu.counter; values only grow.
enum tcpu_counter {
    COUNTER_TICKS,       // of the host's TSC in which guest code ran: all that follows, upcalls too
    COUNTER_INTERPRETED, // instructions run by the interpreter
    COUNTER_TLB_FILLS,   // slow path of the inline TLB
    COUNTER_TLB_WALKS,   // page walks
    COUNTER_TLB_FLUSHES,
    COUNTER_EXCEPTIONS,
    COUNTER_INTERRUPTS,
    COUNTER_UPCALLS, // port and memory-mapped I/O
    COUNTER_HALTS,
    COUNTER_SPINS,  // times that it waited for another vCPU in a loop for long and yielded
    COUNTER_BLOCKS, // blocks translated
    COUNTER_INSNS,  // instructions translated
    COUNTER_COPIED, // blocks taken from the store instead
    COUNTER_COPIED_INSNS,
    COUNTER_LOADED,        // of these blocks: from the file
    COUNTER_REFUSED,       // blocks of the file that are not what was written; counted by the store
    COUNTER_ENTRIES,       // entries into translated code from the run loop
    COUNTER_LINKS,         // direct branches resolved
    COUNTER_INDIRECT,      // indirect branches that missed the IBTC
    COUNTER_PAGE_CHECKS,   // checked entries that had to ask for the page
    COUNTER_SLOW_ACCESSES, // accesses by translated code that the interpreter had to make
    COUNTER_TRANSFERS,     // SYSCALL, SYSRET and IRET by translated code
    COUNTER_STEPS,         // single instructions that translated code left to the interpreter
    COUNTER_STRINGS,       // string instructions by translated code that went to C
    COUNTER_FPU_LOADS,     // times that it asked for the vector state
    COUNTER_POLLS,         // times that it was left because something was pending
    COUNTER_TRAPS,         // host exceptions in it
    COUNTER_INVALIDATED,   // blocks dropped because their bytes changed
    COUNTER_VERIFYING,     // blocks translated that compare their own bytes
    COUNTER_CHANGED,       // of these, found to have changed
    COUNTER_CACHE_FLUSHES,
    COUNTER_HOT,             // blocks translated again because they run often
    COUNTER_LOOPS,           // blocks that are a whole loop
    COUNTER_STRETCHES,       // loops in them that have a copy without checks
    COUNTER_SLOT_MISSES,     // about: looked at when a slot has missed 64 times
    COUNTER_DIRECT,          // runs of user code in a cage
    COUNTER_DIRECT_TICKS,    // of the host's TSC in cages, and on the way
    COUNTER_DIRECT_PAGES,    // pages that cages were given
    COUNTER_DIRECT_MISSES,   // runs that ended with a page that the cage lacked
    COUNTER_DIRECT_FAULTS,   // with one that it could not have
    COUNTER_DIRECT_SYSCALLS, // with a system call
    COUNTER_DIRECT_TRAPS,    // with another exception
    COUNTER_DIRECT_KICKS,    // because something was pending
    COUNTER_DIRECT_UNFIT,    // runs that were worth it, in a mode that cages do not have
    COUNTER_DIRECT_REFUSED,  // that were worth it, but no cage could be had for their memory
    COUNTER_LOCKSTEP,        // blocks compared with the interpreter
    COUNTER_COUNT,
};

struct tvm;    // tvm.h
struct jit;    // jit.h: code cache and blocks of this vCPU
struct simd;   // simd.h: stubs that run one vector instruction
struct tlb2;   // mmu.c
struct direct; // direct.h
struct cage;   // host/cage.h

// What a debugger watches: debug.c.
struct tcpu_debug {
    struct engine_watch watch;
    struct engine_stop stop; // the last one
    uint64_t dr7;            // of the points
    uint64_t pass_rip;       // watch.pass is for this INT3
    uint8_t hits;            // points that the instruction being executed has hit
};

struct tcpu {
    // Translated code addresses this struct through %gs; the hot part comes first.
    struct cpu_state s;

    uint32_t pending;     // [any] enum tcpu_pending
    uint32_t mode;        // MODE_*: what decides how code bytes are decoded and run
    uint8_t user;         // 1 when CPL is 3: which TLB data accesses use
    uint8_t fpu_live;     // the guest's x87/vector state is in the host's registers, not in s.xsave
    uint8_t in_exception; // enum exception_class of the event being delivered, for double faults
    uint8_t running;      // [any] inside run()
    uint32_t tlb_mask;    // TLB_ENTRIES - 1, or 0 with ENGINE_DEBUG_TINY_TLB: see tlb_index()
    uint64_t tsc_offset;  // guest TSC = host TSC + this
    uint64_t insn_rip;    // rip of the instruction being executed (faults restart there)

    struct tlb tlb[2]; // [0] supervisor accesses, [1] user accesses

    struct tvm *vm;
    struct jit *jit; // NULL: interpret only
    struct simd *simd;
    struct tlb2 *tlb2; // mmu.c: the larger second-level TLB
    unsigned index;
    jmp_buf unwind; // cpu_raise() and cpu_exit() land in the run loop
    enum engine_exit exit;
    char error[200];

    struct feature_set features; // what CPUID shows: other instructions are #UD
    uint64_t counter[COUNTER_COUNT];
    uint64_t ticked;     // by the host's TSC: so far COUNTER_TICKS has come
    struct jit_hot hot;  // the rest of what translated code addresses
    uint64_t phys_mask;  // the guest's physical-address bits (MAXPHYADDR)
    uint32_t intr_level; // [any] the INTR input; PENDING_INTR follows it while IF is set
    uint32_t outside;    // [any] not in guest code (upcall, halted, not in run()): tvm.c
    uint32_t map_seen;   // tvm.map_changes that the TLBs reflect
    uint8_t vendor_amd;  // CPUID's vendor: SYSCALL, SYSENTER and far transfers differ
    uint8_t event_ext;   // the event being delivered is external to the program: EXT in error codes
    uint8_t watch;       // a data breakpoint is armed: its pages get no TLB tags
    uint8_t no_step;     // the instruction transferred control so that TF must not trap after it
    uint8_t keep_rf;     // the instruction loaded RF, which must survive it
    uint8_t outside_depth; // nesting of upcalls
    uint8_t rmw_len;       // bytes handed out by mem_host_rmw in a code page, to be announced
    uint8_t hypercalls;    // CPUID says that there are some
    gpa_t rmw_at;
    struct icache *icache;     // interp.c: decoded instructions
    struct lockstep *lockstep; // lockstep.h; NULL but with ENGINE_DEBUG_LOCKSTEP
    struct direct *direct;     // NULL: all code is translated
    struct cage *caged;        // [any] where its code runs now; NULL: here
    struct tcpu_debug debug;
};

// The debug registers that are in force: a debugger's points while it has any, else the guest's.
static inline uint64_t points_dr7(const struct tcpu *c)
{
    return c->debug.watch.points ? c->debug.dr7 : c->s.dr7;
}
static inline gva_t points_at(const struct tcpu *c, unsigned n)
{
    return c->debug.watch.points ? c->debug.watch.point[n].at : c->s.dr[n];
}

// The instruction touches what point n (the debugger's or the guest's) watches.
void debug_hit(struct tcpu *c, unsigned n);

// The entry of the inline TLB that an address leads to. A table of one has a second entry, always
// empty, where the addresses are sent that are close to the first one's tag while it is empty.
static inline unsigned tlb_index(const struct tcpu *c, gva_t at)
{
    return (unsigned)(c->tlb_mask ? at >> PAGE_SHIFT & c->tlb_mask : (at + TLB_HALF) >> 63);
}

// Bits of tcpu.mode; part of the key of every translated block. Recomputed by tcpu_update_mode().
enum tcpu_mode {
    MODE_CODE16 = 0, // default code size: two bits
    MODE_CODE32 = 1,
    MODE_CODE64 = 2,
    MODE_CODE_SIZE = 3,
    MODE_USER = 4,       // CPL 3
    MODE_STACK32 = 8,    // SS.B (ignored in 64-bit code)
    MODE_PROTECTED = 16, // CR0.PE
    MODE_V86 = 32,
    MODE_LONG = 64,      // EFER.LMA
    MODE_FLAT = 128,     // DS, ES, SS, CS have base 0 and limit 4 GiB (always so in 64-bit code)
    MODE_FPU_TRAP = 256, // CR0.TS or EM: x87/MMX/SSE need a check first
    MODE_SSE = 512,      // CR4.OSFXSR
    MODE_AVX = 1024,     // CR4.OSXSAVE and XCR0 has SSE and AVX
    MODE_AVX512 = 2048,
    MODE_CPL0 = 4096,     // CPL 0: privileged instructions allowed
    MODE_ALIGN = 8192,    // CPL 3, CR0.AM, EFLAGS.AC: alignment checks
    MODE_STEP = 16384,    // TF, enabled breakpoints, a debugger's steps: interpret one by one
    MODE_IOPL_OK = 32768, // CPL <= IOPL (cli, sti, popf IF)
};

// --- mmu.c: linear memory. size 1..8; may cross pages; faults raise and do not return. -----------

enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC };

uint64_t mem_read(struct tcpu *c, gva_t at, unsigned size); // at the current CPL
void mem_write(struct tcpu *c, gva_t at, unsigned size, uint64_t value);
uint64_t mem_read_system(struct tcpu *c, gva_t at, unsigned size); // as supervisor (descriptors)
void mem_write_system(struct tcpu *c, gva_t at, unsigned size, uint64_t value);
// Larger operands (vectors, FXSAVE): checks the whole range first, so a fault leaves nothing
// written.
void mem_read_block(struct tcpu *c, gva_t at, void *out, unsigned len);
void mem_write_block(struct tcpu *c, gva_t at, const void *in, unsigned len);
// Raises whatever fetching an instruction byte at `at` would raise; returns if it would succeed.
void mem_probe_exec(struct tcpu *c, gva_t at);
// Raises whatever writing len bytes at `at` would raise, and changes nothing else (A and D bits may
// be set).
void mem_probe_write(struct tcpu *c, gva_t at, unsigned len);
void mem_probe_read(struct tcpu *c, gva_t at, unsigned len);
// The host address of a linear range within one page that is plain RAM and may be accessed so right
// now, or NULL (MMIO, code page, page end, not present): for LOCKed operations and chunked strings.
// Raises a page fault where an access would.
void *mem_host(struct tcpu *c, gva_t at, unsigned len, enum access access);
// Like mem_host for reading and writing, never NULL for RAM: invalidates code in the way and takes
// the TLB entry for this one use. NULL only for MMIO. For LOCKed read-modify-write.
void *mem_host_rmw(struct tcpu *c, gva_t at, unsigned len);

// Copies len code bytes within one page of RAM. Each aligned word is read at once: when another
// processor replaces an immediate operand by one store, it must not be seen halfway.
void mem_copy_code(uint8_t *to, const uint8_t *host, unsigned len);
// Fetches up to 15 code bytes at linear address `at`, for decoding, from their first page only;
// returns how many. Raises a fault as the first byte does.
unsigned mem_fetch(struct tcpu *c, gva_t at, uint8_t *out);
// For an instruction that is longer than what mem_fetch() had: adds the bytes of the next page, if
// they can be read. Returns how many there are now.
unsigned mem_fetch_on(struct tcpu *c, gva_t at, uint8_t *out, unsigned have);
// Guest-physical address of code at `at`, faulting as a fetch would; *host is the page's host
// address or NULL when the code is not in RAM.
gpa_t mem_code_gpa(struct tcpu *c, gva_t at, uint8_t **host_page);

// Slow path of translated code and of mem_*: fills the inline TLB for the page of `at` where
// possible. Returns true when the tag for `access` is now set. Raises #PF. user: which TLB.
bool tlb_fill(struct tcpu *c, gva_t at, enum access access, bool user);
// Sets the tag for writing too, of a page just filled for reading, where no fault and no change of
// the guest's tables would come of a write.
bool tlb_fill_writable(struct tcpu *c, gva_t at, bool user);

void tlb_flush_all(struct tcpu *c);     // global pages too
void tlb_flush_context(struct tcpu *c); // non-global pages of the current PCID
void tlb_flush_pcid(struct tcpu *c, unsigned pcid);
void tlb_flush_page(struct tcpu *c, gva_t at); // INVLPG
// True when code at `at`, just fetched, is in a global page.
bool tlb_code_is_global(const struct tcpu *c, gva_t at);
// Clears write tags that point into this guest-physical page (it now holds code, or is logged).
void tlb_protect_page(struct tcpu *c, gpa_t page);
// From any thread, after a full barrier: may a write tag of c lead into the page, or a store
// through one not be visible yet? It may say so of a page that was written long ago.
bool tlb_may_write(const struct tcpu *c, gpa_t page);

// --- exceptions and control flow -----------------------------------------------------------------

_Noreturn void cpu_raise(struct tcpu *c, unsigned vector, uint32_t error); // fault at insn_rip
_Noreturn void cpu_raise_pf(struct tcpu *c, gva_t at, uint32_t error);     // sets CR2
_Noreturn void cpu_exit(struct tcpu *c, enum engine_exit exit);            // leave run()
// Begins the current instruction again after the run loop has looked at what is pending.
_Noreturn void cpu_restart(struct tcpu *c);

// Recomputes mode, user and what hangs on them; call after any change of CPL, CS, SS, CR0, CR4,
// EFER, XCR0, DR7 or the system bits of RFLAGS.
void tcpu_update_mode(struct tcpu *c);
// Call after any instruction that may have set RFLAGS.IF: a waiting interrupt becomes pending
// again.
void tcpu_if_changed(struct tcpu *c);
// Sets or clears bits of c->pending. Any thread.
void direct_kick(struct cage *cage);
static inline void tcpu_pend(struct tcpu *c, uint32_t bits)
{
    __atomic_fetch_or(&c->pending, bits, __ATOMIC_SEQ_CST);
    struct cage *cage = __atomic_load_n(&c->caged, __ATOMIC_SEQ_CST);
    if (cage)
        direct_kick(cage);
}
static inline void tcpu_unpend(struct tcpu *c, uint32_t bits)
{
    __atomic_fetch_and(&c->pending, ~bits, __ATOMIC_SEQ_CST);
}

// --- interp.c ------------------------------------------------------------------------------------

// Executes one instruction at s.rip (a repeated string instruction may stop early with rip
// unchanged when something is pending). Raises faults by cpu_raise().
void interp_step(struct tcpu *c);

// Fetches and decodes the instruction at a linear address; of the next page nothing is touched that
// is not needed for that. *have: how many bytes could be read. Raises a fault of its first byte.
enum insn_status interp_fetch(struct tcpu *c, gva_t at, struct insn *out, unsigned *have);

// Executes an already decoded instruction whose bytes are at s.rip.
void interp_insn(struct tcpu *c, const struct insn *insn);

// Delivers an interrupt or exception through the IDT (real, protected, long). May itself raise.
void cpu_deliver(struct tcpu *c, unsigned vector, enum cpu_event_type type, bool has_error,
                 uint32_t error);

// --- simd.c: x87, MMX, SSE, AVX by the host's own units ------------------------------------------

// Executes one FORM_X87/MMX/SSE/AVX/AVX512 instruction (checks #NM, #UD, alignment itself),
// including its memory and general-register operands.
void simd_insn(struct tcpu *c, const struct insn *insn);

// Moves the guest's FPU state into s.xsave (and the VMM's MXCSR and x87 control word into the
// machine) if it is live; and back. Both are cheap when there is nothing to do.
void fpu_to_memory(struct tcpu *c);
void fpu_to_machine(struct tcpu *c);
