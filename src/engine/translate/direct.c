// How user code runs in a cage, and what it stops for.
//
// What stops it is done as always: the state is put back, and the interpreter or translated code
// meets the same fault or system call again. Only missing pages are brought here. Not run here:
// code of other widths, with other selectors than the host's programs have, with traps or
// breakpoints, with less vector state than the host's.
#include "engine/translate/direct_impl.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/copy.h"
#include "engine/translate/codebuf.h"
#include "engine/translate/interp.h"
#include "engine/translate/interp_impl.h"
#include "engine/translate/simd.h"
#include "engine/translate/system_impl.h"
#include "engine/translate/tlb2.h"
#include "engine/translate/unrest.h"
#include "host/clock.h"

#define STEPS 300      // by the interpreter, in a page whose code must not run natively
#define HOST_CODE 0x33 // Linux's selectors for 64-bit programs
#define HOST_STACK 0x2b

// What a program changes and a return from a signal restores.
#define FLAGS_USER                                                                             \
    (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_TF | FLAG_DF | FLAG_OF | FLAG_NT | \
     FLAG_AC | FLAG_ID)

// --- a VM's cages --------------------------------------------------------------------------------

err_t direct_prepare(struct tvm *vm, struct error *e)
{
    unsigned n = vm->config.vcpus * DIRECT_SPACES;
    if (!vm->config.direct || !vm->config.cages || vm->config.ram_fd < 0)
        return OK;
    if (vm->config.debug && !(vm->config.debug & ENGINE_DEBUG_ALL_DIRECT))
        return error_set(e, ERR_UNSUPPORTED, "forced paths of the translator are for all code");
    vm->cage = calloc(n, sizeof *vm->cage);
    if (!vm->cage)
        return error_set(e, ERR_NO_MEMORY, "no memory for cages");
    err_t err = cages_make(vm->config.cages, n, vm->config.ram_fd, false, vm->cage, e);
    if (err)
        direct_release(vm);
    return err;
}

void direct_release(struct tvm *vm)
{
    free(vm->cage);
    vm->cage = NULL;
}

static size_t direct_bytes(const struct tvm *vm)
{
    return sizeof(struct direct) + (size_t)(vm->config.ram_bytes >> PAGE_SHIFT);
}

// Of all that it was given, also those that are lost.
static struct cage *cage_of(const struct tcpu *c, unsigned i)
{
    return c->vm->cage[c->index * DIRECT_SPACES + i];
}

err_t direct_new(struct tcpu *c, struct error *e)
{
    if (!c->vm->cage)
        return OK;
    struct direct *d = c->direct = codebuf_reserve(direct_bytes(c->vm));
    bool all = d;
    for (unsigned i = 0; d && i < DIRECT_SPACES; i++) {
        d->space[i].region = codebuf_reserve(DIRECT_REGIONS * sizeof(struct direct_region));
        d->space[i].cage = cage_of(c, i);
        all &= d->space[i].region != NULL;
    }
    if (!all) {
        direct_free(c);
        return error_set(e, ERR_NO_MEMORY, "no memory for what cages map");
    }
    direct_habits_init(c);
    return OK;
}

void direct_free(struct tcpu *c)
{
    if (!c->direct)
        return;
    for (unsigned i = 0; i < DIRECT_SPACES; i++)
        codebuf_unreserve(c->direct->space[i].region,
                          DIRECT_REGIONS * sizeof(struct direct_region));
    codebuf_unreserve(c->direct, direct_bytes(c->vm));
    c->direct = NULL;
}

uint64_t direct_cpu_ns(const struct tcpu *c)
{
    uint64_t sum = 0;
    for (unsigned i = 0; c->direct && i < DIRECT_SPACES; i++)
        sum += cage_cpu_ns(cage_of(c, i));
    return sum;
}

void direct_moved(struct tcpu *c, const cpu_set_t *cpus)
{
    for (unsigned i = 0; c->direct && i < DIRECT_SPACES; i++)
        cage_move(cage_of(c, i), cpus);
}

// --- whether it can be ---------------------------------------------------------------------------

static bool mode_fits(const struct tcpu *c)
{
    const uint32_t want = MODE_USER | MODE_LONG | MODE_CODE64 | MODE_SSE | MODE_AVX;
    const uint32_t bar = MODE_STEP | MODE_ALIGN | MODE_FPU_TRAP;
    return (c->mode & (want | bar | MODE_CODE_SIZE)) == want && (c->s.cr0 & CR0_PG);
}

static bool segments_fit(const struct cpu_segment *seg)
{
    return seg[SEG_CS].selector == HOST_CODE && seg[SEG_SS].selector == HOST_STACK &&
           !(seg[SEG_DS].selector | seg[SEG_ES].selector | seg[SEG_FS].selector |
             seg[SEG_GS].selector);
}

static bool flags_fit(uint64_t rflags)
{
    return (rflags & (FLAG_IF | FLAG_AC | FLAG_TF | BITS(13, 12))) == FLAG_IF;
}

bool direct_due(const struct tcpu *c)
{
    return c->direct && c->direct->wanted && mode_fits(c) && segments_fit(c->s.seg) &&
           flags_fit(c->s.rflags) && !c->watch && !c->s.interrupt_shadow && simd_is_whole(c);
}

// --- in and out ----------------------------------------------------------------------------------

static void put_state(struct tcpu *c, struct cage *cage)
{
    struct cage_regs *regs = cage_regs(cage);
    size_t bytes;
    uint8_t *image = cage_xsave(cage, &bytes);
    copy_bytes(regs->gpr, c->s.gpr, sizeof regs->gpr);
    regs->rip = c->s.rip;
    regs->rflags = (c->s.rflags & FLAGS_USER) | FLAG_FIXED | FLAG_IF;
    regs->cs = HOST_CODE;
    regs->ss = HOST_STACK;
    fill_bytes(regs->data, 0, sizeof regs->data);
    regs->fs_base = c->s.seg[SEG_FS].base;
    regs->gs_base = c->s.seg[SEG_GS].base;
    copy_bytes(image, c->s.xsave, bytes < CPU_XSAVE_BYTES ? bytes : CPU_XSAVE_BYTES);
}

static void take_base(struct cpu_segment *seg, uint64_t base)
{
    if (is_canonical(base))
        seg->base = base;
}

// The host's selectors are those of the guest's kernel, too, where it loads any; what is behind
// them is in the guest's tables.
static void take_selectors(struct tcpu *c, const struct cage_regs *regs)
{
    static const uint8_t data[] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < ARRAY_LEN(data); i++) {
        if (regs->data[i] != c->s.seg[data[i]].selector)
            seg_load(c, data[i], regs->data[i]);
    }
    if (regs->ss != HOST_STACK)
        seg_load(c, SEG_SS, regs->ss);
    if (regs->cs == HOST_CODE)
        return;
    struct descriptor d;
    if (!descriptor_read(c, regs->cs, false, &d) || !DESC_CODE(descriptor_type(&d)) ||
        !descriptor_present(&d) || descriptor_dpl(&d) != 3)
        cpu_raise(c, VEC_GP, regs->cs & ~3u);
    c->s.seg[SEG_CS] = descriptor_segment(regs->cs, &d);
    tcpu_update_mode(c);
}

// What comes out of a cage is whatever the guest likes.
void direct_take(struct tcpu *c, struct cage *cage)
{
    const struct cage_regs *regs = cage_regs(cage);
    size_t bytes;
    const uint8_t *image = cage_xsave(cage, &bytes);
    copy_bytes(c->s.gpr, regs->gpr, sizeof regs->gpr);
    c->s.rip = c->insn_rip = regs->rip;
    c->s.rflags = (c->s.rflags & ~(uint64_t)FLAGS_USER) | (regs->rflags & FLAGS_USER);
    simd_take(c, image, bytes);
    take_selectors(c, regs);
    take_base(&c->s.seg[SEG_FS], regs->fs_base);
    take_base(&c->s.seg[SEG_GS], regs->gs_base);
    if (c->s.rflags & (FLAG_TF | FLAG_AC))
        tcpu_update_mode(c);
}

// --- running -------------------------------------------------------------------------------------

void direct_kick(struct cage *cage)
{
    cage_kick(cage);
}

// Requests that came before `caged` was set are seen in pending, later ones kick.
static bool enter(struct tcpu *c, struct direct_space *s, struct cage_stop *stop)
{
    __atomic_store_n(&c->caged, s->cage, __ATOMIC_SEQ_CST);
    bool ran = !__atomic_load_n(&c->pending, __ATOMIC_SEQ_CST) && cage_run(s->cage, stop);
    __atomic_store_n(&c->caged, NULL, __ATOMIC_SEQ_CST);
    return ran;
}

static enum access access_of(uint32_t error)
{
    return error & PF_FETCH ? ACCESS_EXEC : error & PF_WRITE ? ACCESS_WRITE : ACCESS_READ;
}

static bool code_is(struct tcpu *c, gva_t at, uint8_t byte)
{
    return is_canonical(at) && mem_allows(c, at, ACCESS_READ) && mem_read(c, at, 1) == byte;
}

// There are hosts under which INT1 stops before itself.
static bool is_behind_int1(struct tcpu *c)
{
    return code_is(c, c->s.rip - 1, 0xf1) && !code_is(c, c->s.rip, 0xf1);
}

// A trap after an instruction: its own doing (INT3, INT 4, INT1), which it is to do again, or a
// step's.
static void undo_trap(struct tcpu *c, const struct cage_stop *stop)
{
    if (stop->trap == VEC_BP)
        c->s.rip -= code_is(c, c->s.rip - 1, 3) ? 2 : 1; // CD 03, or CC
    else if (stop->trap == VEC_OF)
        c->s.rip -= 2;
    else if (stop->trap == VEC_DB && stop->error)
        c->s.pending_dbg |= DR6_BS;
    else if (stop->trap == VEC_DB && is_behind_int1(c))
        c->s.rip--;
}

// What stopped it is the interpreter's; then it may go on here.
static void leave_to_interpreter(struct tcpu *c, const struct cage_stop *stop)
{
    if (stop->kind == CAGE_SYSCALL)
        c->s.rip -= 2;
    else if (stop->kind == CAGE_TRAP)
        undo_trap(c, stop);
    bool refused = stop->kind == CAGE_FAULT && stop->error & PF_FETCH;
    if (c->s.pending_dbg)
        tcpu_pend(c, PENDING_EVENT);
    else if (stop->kind != CAGE_KICKED)
        c->direct->step = refused ? STEPS : 1;
}

// What the program had done since it came in cannot be done again.
static _Noreturn void failed(struct tcpu *c)
{
    snprintf(c->error, sizeof c->error,
             "a process in which programs of the guest ran was killed; see the host's kernel log, "
             "or use --engine translate,direct=off");
    cpu_exit(c, ENGINE_FAILED);
}

// What its code did to it was not meant to compute anything; to go on as if it had not run would do
// the rest of it twice.
static void lost(struct tcpu *c, struct direct_space *s)
{
    s->cage = NULL;
    s->cr3 = 0;
    c->direct->wanted = false;
    c->insn_rip = c->s.rip;
    cpu_raise(c, VEC_GP, 0);
}

// Where the code is in a page that must not run there, a function of it, mostly, until it is out.
static void step(struct tcpu *c)
{
    gva_t page = c->s.rip >> PAGE_SHIFT;
    unsigned left = c->direct->step;
    c->direct->step = 0;
    do
        interp_step(c);
    while (--left && c->s.rip >> PAGE_SHIFT == page && c->user &&
           !__atomic_load_n(&c->pending, __ATOMIC_RELAXED));
}

// An instruction or a page that the cage may not have, though the guest may.
static bool is_in_vain(struct tcpu *c, const struct cage_stop *stop)
{
    return stop->kind == CAGE_TRAP ||
           (stop->kind == CAGE_FAULT && mem_allows(c, stop->address, access_of(stop->error)));
}

// Where code is written while it runs, this is not the last such stop: stores come in numbers, and
// a page that is open is for blocks that verify themselves.
static bool left_to_translator(struct tcpu *c, const struct cage_stop *stop)
{
    uint8_t *page;
    if (stop->error & PF_WRITE)
        return true;
    return stop->error & PF_FETCH && unrest_is_open(c->vm, mem_code_gpa(c, stop->address, &page));
}

void direct_run(struct tcpu *c)
{
    static const uint8_t reason[] = {[CAGE_FAULT] = COUNTER_DIRECT_FAULTS,
                                     [CAGE_SYSCALL] = COUNTER_DIRECT_SYSCALLS,
                                     [CAGE_TRAP] = COUNTER_DIRECT_TRAPS,
                                     [CAGE_KICKED] = COUNTER_DIRECT_KICKS};
    struct direct *d = c->direct;
    if (d->step) {
        step(c);
        return;
    }
    struct cage_stop stop;
    struct direct_visit visit = {.came = host_tsc()};
    fpu_to_memory(c);
    struct direct_space *s = direct_space_ready(c);
    if (!s) {
        direct_learn_refusal(c);
        return;
    }
    c->s.rflags &= ~FLAG_RF;
    put_state(c, s->cage);
    c->counter[COUNTER_DIRECT]++;
    visit.entered = host_tsc();
    if (!d->since)
        d->since = visit.entered;
    if (!enter(c, s, &stop))
        return;
    visit.left = host_tsc();
    c->counter[COUNTER_DIRECT_TICKS] += visit.left - visit.entered;
    if (stop.kind == CAGE_FAILED)
        failed(c);
    if (stop.kind == CAGE_LOST) {
        lost(c, s);
        return;
    }
    direct_take(c, s->cage);
    if (stop.kind == CAGE_FAULT && direct_space_fault(c, s, stop.address, access_of(stop.error))) {
        c->counter[COUNTER_DIRECT_MISSES]++;
        direct_learn_visit(c, &visit, DIRECT_GOES_ON);
        return;
    }
    c->counter[reason[stop.kind]]++;
    bool vain = is_in_vain(c, &stop);
    direct_learn_visit(c, &visit, vain ? DIRECT_VAIN : DIRECT_ENDED);
    if (vain && stop.kind == CAGE_FAULT && left_to_translator(c, &stop))
        d->wanted = false;
    leave_to_interpreter(c, &stop);
}
