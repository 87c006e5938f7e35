// The CPU's state into KVM and back: registers, segments, control and debug registers, extended
// state. Source: Linux Documentation/virt/kvm/api.rst; XSAVE layout: Intel SDM vol. 1 section 13.4.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm_impl.h"

#define APIC_BASE 0xfee00800u // so that CPUID shows the APIC; where it is, the machine knows
#define APIC_BASE_BSP BIT(8)
#define XSAVE_SOFTWARE \
    464 // 48 bytes that belong to nobody: what the host's kernel leaves there is noise
#define XSAVE_SOFTWARE_BYTES 48

// A failure of reading is a bug of ours: every request was allowed when the VM was made.
static bool fetch(struct engine_vcpu *v, unsigned long request, void *out, const char *what)
{
    if (ioctl(v->fd, request, out) >= 0)
        return true;
    struct error e = {0};
    (void)!kvm_failed(&e, errno, what);
    log_line(LOG_ERROR, "vCPU %u: %s", v->index, e.text);
    return false;
}

static err_t hand(struct engine_vcpu *v, unsigned long request, const void *in, const char *what,
                  struct error *e)
{
    return ioctl(v->fd, request, in) < 0 ? kvm_failed(e, errno, what) : OK;
}

// --- general registers

static size_t register_place(enum gpr which)
{
    static const size_t places[] = {
        [RAX] = offsetof(struct kvm_regs, rax), [RCX] = offsetof(struct kvm_regs, rcx),
        [RDX] = offsetof(struct kvm_regs, rdx), [RBX] = offsetof(struct kvm_regs, rbx),
        [RSP] = offsetof(struct kvm_regs, rsp), [RBP] = offsetof(struct kvm_regs, rbp),
        [RSI] = offsetof(struct kvm_regs, rsi), [RDI] = offsetof(struct kvm_regs, rdi),
        [R8] = offsetof(struct kvm_regs, r8),   [R9] = offsetof(struct kvm_regs, r9),
        [R10] = offsetof(struct kvm_regs, r10), [R11] = offsetof(struct kvm_regs, r11),
        [R12] = offsetof(struct kvm_regs, r12), [R13] = offsetof(struct kvm_regs, r13),
        [R14] = offsetof(struct kvm_regs, r14), [R15] = offsetof(struct kvm_regs, r15)};
    return places[which];
}

static void get_regs(struct engine_vcpu *v, struct cpu_state *out)
{
    struct kvm_regs regs = {0};
    fetch(v, KVM_GET_REGS, &regs, "read registers");
    for (unsigned i = 0; i < 16; i++)
        memcpy(&out->gpr[i], (char *)&regs + register_place(i), 8);
    out->rip = regs.rip;
    out->rflags = regs.rflags | FLAG_FIXED;
}

static err_t set_regs(struct engine_vcpu *v, const struct cpu_state *in, struct error *e)
{
    struct kvm_regs regs = {.rip = in->rip, .rflags = in->rflags | FLAG_FIXED};
    for (unsigned i = 0; i < 16; i++)
        memcpy((char *)&regs + register_place(i), &in->gpr[i], 8);
    v->open = in->rflags & FLAG_IF;
    return hand(v, KVM_SET_REGS, &regs, "set registers", e);
}

// --- segments, tables, control registers

static void from_segment(const struct kvm_segment *in, struct cpu_segment *out)
{
    uint16_t attr = (uint16_t)(in->type | in->s << 4 | in->dpl << 5 | in->avl << 12 | in->l << 13 |
                               in->db << 14 | in->g << 15);
    if (in->present && !in->unusable)
        attr |= SEGA_P;
    *out = (struct cpu_segment){
        .base = in->base, .limit = in->limit, .selector = in->selector, .attr = attr};
}

static void to_segment(const struct cpu_segment *in, struct kvm_segment *out)
{
    *out = (struct kvm_segment){.base = in->base,
                                .limit = in->limit,
                                .selector = in->selector,
                                .type = in->attr & SEGA_TYPE,
                                .s = in->attr >> 4 & 1,
                                .dpl = in->attr >> 5 & 3,
                                .present = in->attr >> 7 & 1,
                                .avl = in->attr >> 12 & 1,
                                .l = in->attr >> 13 & 1,
                                .db = in->attr >> 14 & 1,
                                .g = in->attr >> 15 & 1,
                                .unusable = !(in->attr & SEGA_P)};
}

static void get_debug(struct engine_vcpu *v, struct cpu_state *out)
{
    struct kvm_debugregs debug = {0};
    fetch(v, KVM_GET_DEBUGREGS, &debug, "read debug registers");
    for (unsigned i = 0; i < 4; i++)
        out->dr[i] = debug.db[i];
    out->dr6 = debug.dr6;
    out->dr7 = debug.dr7;
}

static err_t set_debug(struct engine_vcpu *v, const struct cpu_state *in, struct error *e)
{
    struct kvm_debugregs debug = {.dr6 = in->dr6, .dr7 = in->dr7};
    for (unsigned i = 0; i < 4; i++)
        debug.db[i] = in->dr[i];
    return hand(v, KVM_SET_DEBUGREGS, &debug, "set debug registers", e);
}

static struct kvm_segment *segment_place(struct kvm_sregs2 *s, unsigned which)
{
    struct kvm_segment *const places[] = {[SEG_ES] = &s->es, [SEG_CS] = &s->cs, [SEG_SS] = &s->ss,
                                          [SEG_DS] = &s->ds, [SEG_FS] = &s->fs, [SEG_GS] = &s->gs};
    return places[which];
}

static void get_system(struct engine_vcpu *v, struct cpu_state *out)
{
    struct kvm_sregs2 s = {0};
    fetch(v, KVM_GET_SREGS2, &s, "read system registers");
    for (unsigned i = 0; i < SEG_COUNT; i++)
        from_segment(segment_place(&s, i), &out->seg[i]);
    from_segment(&s.ldt, &out->ldtr);
    from_segment(&s.tr, &out->tr);
    out->gdtr = (struct cpu_table){.base = s.gdt.base, .limit = s.gdt.limit};
    out->idtr = (struct cpu_table){.base = s.idt.base, .limit = s.idt.limit};
    out->cr0 = s.cr0;
    out->cr2 = s.cr2;
    out->cr3 = s.cr3;
    out->cr4 = s.cr4;
    out->efer = s.efer;
    for (unsigned i = 0; i < 4; i++)
        out->pdpte[i] = s.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID ? s.pdptrs[i] : 0;
    get_debug(v, out);
}

static bool pae_paging(const struct cpu_state *in)
{
    return in->cr0 & CR0_PG && in->cr4 & CR4_PAE && !(in->efer & EFER_LMA);
}

// CR8 and the APIC base are the local APIC's: where KVM keeps it, they stay as they are.
static err_t keep_apic(struct engine_vcpu *v, struct kvm_sregs2 *s, struct error *e)
{
    struct kvm_sregs2 now = {0};
    s->cr8 = v->cr8;
    s->apic_base = APIC_BASE | (v->index == 0 ? APIC_BASE_BSP : 0);
    if (v->vm->chips == ENGINE_CHIPS_NONE)
        return OK;
    if (ioctl(v->fd, KVM_GET_SREGS2, &now) < 0)
        return kvm_failed(e, errno, "read system registers");
    s->cr8 = now.cr8;
    s->apic_base = now.apic_base;
    return OK;
}

// EFER goes with the control registers, since KVM checks them together. Automatic IBRS stays behind
// where the processor has none.
static err_t set_system(struct engine_vcpu *v, const struct cpu_state *in, struct error *e)
{
    struct kvm_sregs2 s = {.gdt = {.base = in->gdtr.base, .limit = (uint16_t)in->gdtr.limit},
                           .idt = {.base = in->idtr.base, .limit = (uint16_t)in->idtr.limit},
                           .cr0 = in->cr0,
                           .cr2 = in->cr2,
                           .cr3 = in->cr3,
                           .cr4 = in->cr4,
                           .efer = in->efer & ~(v->auto_ibrs ? 0 : EFER_AUTOIBRS)};
    for (unsigned i = 0; i < SEG_COUNT; i++)
        to_segment(&in->seg[i], segment_place(&s, i));
    to_segment(&in->ldtr, &s.ldt);
    to_segment(&in->tr, &s.tr);
    if (pae_paging(in)) {
        s.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
        for (unsigned i = 0; i < 4; i++)
            s.pdptrs[i] = in->pdpte[i];
    }
    err_t err = keep_apic(v, &s, e);
    if (!err)
        err = hand(v, KVM_SET_SREGS2, &s, "set system registers", e);
    return err ? err : set_debug(v, in, e);
}

// --- extended state

static void get_fpu(struct engine_vcpu *v, struct cpu_state *out)
{
    struct kvm_xcrs xcrs = {0};
    unsigned long request = v->vm->xsave_bytes > sizeof *v->xsave ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
    fetch(v, request, v->xsave, "read extended state");
    memcpy(out->xsave, v->xsave, sizeof out->xsave);
    xsave_move(out->xsave, &v->vm->layout, &xsave_layout_state);
    memset(out->xsave + XSAVE_SOFTWARE, 0, XSAVE_SOFTWARE_BYTES);
    if (fetch(v, KVM_GET_XCRS, &xcrs, "read XCR0"))
        out->xcr0 = xcrs.xcrs[0].value;
}

static err_t set_fpu(struct engine_vcpu *v, const struct cpu_state *in, struct error *e)
{
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = in->xcr0}}};
    memset(v->xsave, 0, v->vm->xsave_bytes);
    memcpy(v->xsave, in->xsave, sizeof in->xsave);
    xsave_move((uint8_t *)v->xsave, &xsave_layout_state, &v->vm->layout);
    err_t err = hand(v, KVM_SET_XCRS, &xcrs, "set XCR0", e);
    return err ? err : hand(v, KVM_SET_XSAVE, v->xsave, "set extended state", e);
}

// --- all of it

void kvm_get(struct engine_vcpu *v, unsigned groups, struct cpu_state *out)
{
    if (groups & ENGINE_REGS)
        get_regs(v, out);
    if (groups & (ENGINE_SYSTEM | ENGINE_MSRS))
        get_system(v, out);
    if (groups & ENGINE_MSRS)
        kvm_get_msrs(v, out);
    if (groups & ENGINE_FPU)
        get_fpu(v, out);
    if (groups & ENGINE_EVENTS)
        kvm_get_events(v, out);
}

// What is not being set is read back first, so that all of it is checked together.
static err_t check(struct engine_vcpu *v, unsigned groups, const struct cpu_state *in,
                   struct error *e)
{
    if (groups == ENGINE_ALL)
        return cpu_state_check(in, UINT64_MAX, e);
    return OK;
}

err_t kvm_set(struct engine_vcpu *v, unsigned groups, const struct cpu_state *in, struct error *e)
{
    err_t err = check(v, groups, in, e);
    if (!err && groups & ENGINE_SYSTEM)
        err = set_system(v, in, e);
    if (!err && groups & ENGINE_FPU)
        err = set_fpu(v, in, e);
    if (!err && groups & ENGINE_MSRS)
        err = kvm_set_msrs(v, in, e);
    if (!err && groups & ENGINE_REGS)
        err = set_regs(v, in, e);
    if (!err && groups & ENGINE_EVENTS)
        err = kvm_set_events(v, in, e);
    v->ready = false;
    v->stale = true;
    v->incomplete = false;
    return err;
}
