// Inside the system half of the interpreter: descriptors, stack frames of far transfers, events,
// tasks.
#pragma once

#include "engine/translate/interp_impl.h"
#include "engine/translate/tvm.h"

// --- segment.c: descriptors ----------------------------------------------------------------------

struct descriptor {
    gva_t at; // of its first byte
    uint32_t lo, hi;
    uint64_t upper; // bytes 8..15 of 16-byte descriptors (long mode's system ones), else 0
};

// Reads a descriptor; false when the selector lies beyond its table. Null selectors are the
// caller's to refuse. wide: in long mode also reads the second half of a system descriptor.
bool descriptor_read(struct tcpu *c, uint16_t selector, bool wide, struct descriptor *out);
void descriptor_set_accessed(struct tcpu *c, struct descriptor *d);
struct cpu_segment descriptor_segment(uint16_t selector, const struct descriptor *d);
// For system descriptors: base over 64 bits in long mode.
struct cpu_segment descriptor_system(uint16_t selector, const struct descriptor *d);

static inline unsigned descriptor_dpl(const struct descriptor *d)
{
    return d->hi >> 13 & 3;
}

static inline unsigned descriptor_type(const struct descriptor *d) // S bit included as bit 4
{
    return d->hi >> 8 & 31;
}

static inline bool descriptor_present(const struct descriptor *d)
{
    return d->hi >> 15 & 1;
}

#define DESC_CODE(type) (((type)&0x18) == 0x18)
#define DESC_CONFORMING(type) (((type)&0x1c) == 0x1c)
#define DESC_WRITABLE_DATA(type) (((type)&0x1a) == 0x12)
#define DESC_READABLE(type) (((type)&0x18) == 0x10 || ((type)&0x1a) == 0x1a)

static inline bool selector_null(uint16_t selector)
{
    return !(selector & ~3);
}

bool segment_in_limit(const struct cpu_segment *seg, uint64_t offset, unsigned size);
// Real and virtual-8086 mode.
struct cpu_segment segment_v86(uint16_t selector);
void segment_load_real(struct tcpu *c, unsigned seg, uint16_t selector);
// After a return to an outer ring: data segments that it may not use become null.
void segments_drop_inner(struct tcpu *c);

// --- frame.c: stacks of far transfers ------------------------------------------------------------

struct frame {
    struct cpu_segment ss;
    uint64_t sp;
    uint32_t error; // of the #SS that a push beyond the limit raises
    uint8_t size;   // bytes of each item
    bool system;    // supervisor accesses, whatever the CPL is now
    bool wide;      // 64-bit stack: no limit, canonical addresses
};

void frame_current(struct tcpu *c, unsigned size, struct frame *out);
// The stack that the TSS holds for ring dpl: every check of an inner-ring transfer. size: of items.
void frame_inner(struct tcpu *c, unsigned dpl, unsigned size, struct frame *out);
void frame_push(struct tcpu *c, struct frame *f, uint64_t value);
uint64_t frame_pop(struct tcpu *c, struct frame *f);
// n quadwords of a frame that is wide.
void frame_pop_long(struct tcpu *c, struct frame *f, uint64_t *out, unsigned n);
void frame_commit(struct tcpu *c, const struct frame *f); // SS and rsp, not the mode

// --- exception.c ---------------------------------------------------------------------------------

// The event in s.event_*: delivers it, with what it means for double faults.
void event_deliver(struct tcpu *c);
// #DB at the current instruction: sets DR6.
_Noreturn void raise_db(struct tcpu *c, uint64_t dr6_bits);

// --- debug.c: what a debugger watches
// -------------------------------------------------------------

err_t debug_watch(struct tcpu *c, const struct engine_watch *watch, struct error *e);
// Each ends run() if the debugger wants to stop there. Before an instruction at which these points
// are; before INT3 (s.rip may be past it); after an instruction or the delivery of an event.
void debug_before(struct tcpu *c, uint64_t points);
void debug_int3(struct tcpu *c);
void debug_after(struct tcpu *c);

// The linear address of s.rip.
static inline gva_t code_linear(const struct tcpu *c)
{
    return (c->mode & MODE_CODE_SIZE) == MODE_CODE64 ? c->s.rip
                                                     : (uint32_t)(c->s.seg[SEG_CS].base + c->s.rip);
}

static inline uint32_t selector_error(const struct tcpu *c, uint16_t selector)
{
    return (selector & ~3u) | c->event_ext;
}

// --- control.c and far.c -------------------------------------------------------------------------

// Loads CS for a transfer to ring cpl; the descriptor has been checked. Sets the accessed bit.
void code_load(struct tcpu *c, uint16_t selector, struct descriptor *d, unsigned new_cpl);
// Raises unless offset can be the next rip in the code segment that d describes.
void code_target_check(struct tcpu *c, const struct descriptor *d, uint64_t offset);
// Long mode refuses code segments with both L and D.
bool code_size_valid(const struct tcpu *c, const struct descriptor *d);
void flags_load(struct tcpu *c, uint64_t value,
                uint64_t mask); // bits under mask; IF may become set
uint64_t iret_flags_mask(const struct tcpu *c, unsigned opsize);
void set_cpl(struct tcpu *c, unsigned new_cpl); // in SS where it stays as it is

// --- task.c --------------------------------------------------------------------------------------

enum task_reason { TASK_JMP, TASK_CALL, TASK_IRET, TASK_GATE };
// Switches to the task whose TSS descriptor is d. error: to be pushed on the new stack if
// has_error.
void task_switch(struct tcpu *c, uint16_t selector, struct descriptor *d, enum task_reason reason,
                 bool has_error, uint32_t error);
// Follows a task gate's selector. vector_error: for the checks on the gate's TSS.
void task_gate(struct tcpu *c, const struct descriptor *gate, enum task_reason reason,
               bool has_error, uint32_t error);
void task_return(struct tcpu *c);

// --- handlers, in interp_system[] ----------------------------------------------------------------

interp_fn sys_jmp_far, sys_call_far, sys_ret_far, sys_iret, sys_int, sys_int3, sys_into, sys_int1,
    sys_bound;
interp_fn sys_ud;
interp_fn sys_hypercall;
interp_fn sys_pause;
interp_fn sys_mov_sreg, sys_lxs, sys_arpl, sys_sldt, sys_str, sys_lldt, sys_ltr;
interp_fn sys_verr, sys_lar, sys_sgdt, sys_lgdt;
interp_fn sys_smsw, sys_lmsw, sys_clts, sys_mov_cr, sys_mov_dr, sys_invlpg, sys_invpcid, sys_xgetbv,
    sys_xsetbv, sys_cache, sys_hlt, sys_cli, sys_sti, sys_pushf, sys_popf;
interp_fn sys_rdmsr, sys_wrmsr, sys_rdtsc, sys_rdtscp, sys_rdpmc, sys_rdpid, sys_cpuid, sys_swapgs,
    sys_fsgsbase, sys_monitor, sys_mwait;
interp_fn sys_syscall, sys_sysret, sys_sysenter, sys_sysexit;
interp_fn sys_in, sys_out, sys_ins, sys_outs;

// --- cr.c, msr.c ---------------------------------------------------------------------------------

void pdpte_load(struct tcpu *c, uint64_t cr3); // PAE: #GP(0) on reserved bits
uint64_t guest_tsc(const struct tcpu *c);
// From now on it is the host's plus this, plus the guest's own TSC_ADJUST.
void tsc_base(struct tcpu *c, uint64_t offset);
uint64_t msr_get(struct tcpu *c, uint32_t msr); // raises #GP(0)
void msr_set(struct tcpu *c, uint32_t msr, uint64_t value);
