// Makes a CPU state from outside fit to run: a snapshot may have been damaged or forged, and
// engines rely on what no processor can be brought to hold. Refuses; repairs nothing.
//
// Sources: Intel SDM volume 3 sections 2.5 (control registers), 12.11 (MTRRs), 12.12 (PAT), 28.3.1;
// volume 1 section 13.8 (XSAVE header). Not checked: descriptors against their tables in memory.
#include "cpu/cpu_state.h"

#include <inttypes.h>
#include <string.h>

#define CR0_KNOWN                                                                              \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
     CR0_PG)
// Without what no guest is ever shown: LA57, VMX, SMAP, protection keys.
#define CR4_KNOWN (BITS(11, 0) | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | CR4_SMEP)
#define EFER_KNOWN (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_FFXSR | EFER_AUTOIBRS)
#define RFLAGS_KNOWN (BITS(21, 0) & ~(BIT(3) | BIT(5) | BIT(15)))
#define SEGA_KNOWN 0xf0ff
#define XSAVE_MXCSR 24
#define XSAVE_HEADER 512

static bool canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static err_t check_control(const struct cpu_state *s, struct error *e)
{
    if (s->cr0 & ~CR0_KNOWN || (s->cr0 & CR0_PG && !(s->cr0 & CR0_PE)) ||
        (s->cr0 & CR0_NW && !(s->cr0 & CR0_CD)))
        return error_set(e, ERR_CORRUPT, "CR0 cannot be %#" PRIx64, s->cr0);
    if (s->cr4 & ~CR4_KNOWN)
        return error_set(e, ERR_CORRUPT, "CR4 cannot be %#" PRIx64, s->cr4);
    if (s->cr3 >> 52)
        return error_set(e, ERR_CORRUPT, "CR3 cannot be %#" PRIx64, s->cr3);
    if (s->efer & ~EFER_KNOWN)
        return error_set(e, ERR_CORRUPT, "EFER cannot be %#" PRIx64, s->efer);
    bool active = s->efer & EFER_LME && s->cr0 & CR0_PG;
    if (active != (bool)(s->efer & EFER_LMA) || (active && !(s->cr4 & CR4_PAE)))
        return error_set(e, ERR_CORRUPT, "EFER, CR0 and CR4 disagree about long mode");
    if (s->cr4 & CR4_PCIDE && !active)
        return error_set(e, ERR_CORRUPT, "CR4.PCIDE is set outside long mode");
    if (s->dr6 >> 32 || s->dr7 >> 32)
        return error_set(e, ERR_CORRUPT, "DR6 or DR7 has high bits");
    return OK;
}

static err_t check_flags(const struct cpu_state *s, struct error *e)
{
    if (s->rflags & ~RFLAGS_KNOWN || !(s->rflags & FLAG_FIXED))
        return error_set(e, ERR_CORRUPT, "RFLAGS cannot be %#" PRIx64, s->rflags);
    bool virtual_8086 = s->rflags & FLAG_VM;
    if (virtual_8086 && (s->efer & EFER_LMA || !(s->cr0 & CR0_PE)))
        return error_set(e, ERR_CORRUPT, "RFLAGS.VM is set outside 32-bit protected mode");
    bool code64 = s->efer & EFER_LMA && s->seg[SEG_CS].attr & SEGA_L;
    if (code64 ? !canonical(s->rip) : s->rip >> 32 != 0)
        return error_set(e, ERR_CORRUPT, "RIP cannot be %#" PRIx64, s->rip);
    return OK;
}

static err_t check_segments(const struct cpu_state *s, struct error *e)
{
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        const struct cpu_segment *seg = &s->seg[i];
        bool wide = i == SEG_FS || i == SEG_GS;
        if (seg->attr & ~SEGA_KNOWN || (wide ? !canonical(seg->base) : seg->base >> 32 != 0))
            return error_set(e, ERR_CORRUPT, "segment register %u is impossible", i);
    }
    uint16_t cs = s->seg[SEG_CS].attr;
    if (cs & SEGA_L && cs & SEGA_DB && s->efer & EFER_LMA)
        return error_set(e, ERR_CORRUPT, "CS is both 64-bit and 32-bit");
    if ((s->ldtr.attr | s->tr.attr) & ~SEGA_KNOWN || !canonical(s->ldtr.base) ||
        !canonical(s->tr.base))
        return error_set(e, ERR_CORRUPT, "LDTR or TR is impossible");
    if (!canonical(s->gdtr.base) || !canonical(s->idtr.base) || s->gdtr.limit > 0xffff ||
        s->idtr.limit > 0xffff)
        return error_set(e, ERR_CORRUPT, "GDTR or IDTR is impossible");
    return OK;
}

static bool memory_type_valid(unsigned type, bool in_pat)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6) || (in_pat && type == 7);
}

static err_t check_memory_types(const struct cpu_state *s, struct error *e)
{
    for (unsigned i = 0; i < 64; i += 8) {
        if (!memory_type_valid(s->pat >> i & 0xff, true))
            return error_set(e, ERR_CORRUPT, "PAT cannot be %#" PRIx64, s->pat);
        for (unsigned n = 0; n < CPU_MTRR_FIXED; n++) {
            if (!memory_type_valid(s->mtrr_fixed[n] >> i & 0xff, false))
                return error_set(e, ERR_CORRUPT, "a fixed MTRR holds no memory type");
        }
    }
    if (s->mtrr_def_type & ~0xcffull || !memory_type_valid(s->mtrr_def_type & 0xff, false))
        return error_set(e, ERR_CORRUPT, "the default memory type is impossible");
    for (unsigned n = 0; n < CPU_MTRR_VARIABLE; n++) {
        if (s->mtrr_base[n] & 0xf00 || s->mtrr_mask[n] & 0x7ff ||
            !memory_type_valid(s->mtrr_base[n] & 0xff, false))
            return error_set(e, ERR_CORRUPT, "variable MTRR %u is impossible", n);
    }
    return OK;
}

static err_t check_msrs(const struct cpu_state *s, struct error *e)
{
    const uint64_t addresses[] = {s->lstar, s->cstar, s->kernel_gs_base, s->sysenter_esp,
                                  s->sysenter_eip};
    for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
        if (!canonical(addresses[i]))
            return error_set(e, ERR_CORRUPT, "an MSR holds the address %#" PRIx64, addresses[i]);
    }
    return check_memory_types(s, e);
}

static err_t check_xsave(const struct cpu_state *s, uint64_t host_xcr0, struct error *e)
{
    const uint64_t known = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512;
    uint64_t x = s->xcr0, header[8];
    uint32_t mxcsr;
    if (!(x & XCR0_X87) || x & ~known || (x & XCR0_AVX && !(x & XCR0_SSE)) ||
        (x & XCR0_AVX512 && ((x & XCR0_AVX512) != XCR0_AVX512 || !(x & XCR0_AVX))))
        return error_set(e, ERR_CORRUPT, "XCR0 cannot be %#" PRIx64, x);
    if (x & ~(host_xcr0 | XCR0_X87))
        return error_set(e, ERR_UNSUPPORTED,
                         "the guest uses vector state (XCR0 %#" PRIx64 ") that this host lacks", x);
    memcpy(header, s->xsave + XSAVE_HEADER, sizeof header);
    if (header[0] & ~(known & (host_xcr0 | XCR0_X87 | XCR0_SSE)))
        return error_set(e, ERR_CORRUPT, "XSTATE_BV cannot be %#" PRIx64, header[0]);
    for (unsigned i = 1; i < 8; i++) {
        if (header[i])
            return error_set(e, ERR_CORRUPT, "the XSAVE header has reserved bits");
    }
    memcpy(&mxcsr, s->xsave + XSAVE_MXCSR, sizeof mxcsr);
    if (mxcsr >> 16)
        return error_set(e, ERR_CORRUPT, "MXCSR cannot be %#x", mxcsr);
    return OK;
}

static err_t check_events(const struct cpu_state *s, struct error *e)
{
    if (s->activity > CPU_SHUTDOWN || s->interrupt_shadow > 2 || s->nmi_blocked > 1 ||
        s->nmi_pending > 1 || s->event_pending > 1 || s->event_has_error > 1 ||
        s->smi_pending > 1 || s->smm > 7 || (s->smm && !(s->smm & CPU_SMM)) || s->smbase >> 32)
        return error_set(e, ERR_CORRUPT, "the CPU's activity is impossible");
    if (!s->event_pending)
        return OK;
    if (s->event_type > CPU_EVENT_SOFT_INT ||
        (s->event_type == CPU_EVENT_EXCEPTION && s->event_vector > 31) ||
        (s->event_type == CPU_EVENT_NMI && s->event_vector != VEC_NMI))
        return error_set(e, ERR_CORRUPT, "the pending event is impossible");
    return OK;
}

err_t cpu_state_check(const struct cpu_state *s, uint64_t host_xcr0, struct error *e)
{
    err_t err = check_control(s, e);
    if (err == OK)
        err = check_flags(s, e);
    if (err == OK)
        err = check_segments(s, e);
    if (err == OK)
        err = check_msrs(s, e);
    if (err == OK)
        err = check_xsave(s, host_xcr0, e);
    return err == OK ? check_events(s, e) : err;
}
