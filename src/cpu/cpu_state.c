// The CPU's state: its table for save and load, its values after RESET and INIT, and the check that
// makes a state from outside fit to run.
//
// Sources: Intel SDM volume 3, table 10-1 (state after RESET, INIT) and chapter 28.3.1 (what a
// guest's state must obey); volume 1 section 13.8 (what XRSTOR refuses).
#include "cpu/cpu_state.h"

#include <string.h>

#define XSAVE_MXCSR 24
#define XSAVE_HEADER 512
#define RESET_CR0 (CR0_CD | CR0_NW | CR0_ET)
#define RESET_PAT 0x0007040600070406ull
#define MISC_ENABLE_RESET 0x1801 // fast strings; no branch trace, no precise events
#define SMBASE_RESET 0x30000
#define CODE_SEGMENT (SEGA_P | SEGA_S | SEGA_CODE | SEGA_WRITABLE | SEGA_ACCESSED)
#define DATA_SEGMENT (SEGA_P | SEGA_S | SEGA_WRITABLE | SEGA_ACCESSED)

static const struct state_field segment_fields[] = {
    FIELD(struct cpu_segment, base), FIELD(struct cpu_segment, limit),
    FIELD(struct cpu_segment, selector), FIELD(struct cpu_segment, attr), FIELDS_END};
static const struct state_desc segment_desc =
    STATE_DESC("segment", struct cpu_segment, 1, segment_fields);

static const struct state_field table_fields[] = {
    FIELD(struct cpu_table, base), FIELD(struct cpu_table, limit),
    SKIP(struct cpu_table, pad, "alignment"), FIELDS_END};
static const struct state_desc table_desc = STATE_DESC("table", struct cpu_table, 1, table_fields);

#define F(m) FIELD(struct cpu_state, m)
#define A(m) ARRAY(struct cpu_state, m)
static const struct state_field cpu_fields[] = {
    A(gpr),
    F(rip),
    F(rflags),
    SUB_ARRAY(struct cpu_state, seg, segment_desc),
    SUB(struct cpu_state, ldtr, segment_desc),
    SUB(struct cpu_state, tr, segment_desc),
    SUB(struct cpu_state, gdtr, table_desc),
    SUB(struct cpu_state, idtr, table_desc),
    F(cr0),
    F(cr2),
    F(cr3),
    F(cr4),
    F(xcr0),
    A(pdpte),
    A(dr),
    F(dr6),
    F(dr7),
    F(efer),
    F(star),
    F(lstar),
    F(cstar),
    F(sfmask),
    F(kernel_gs_base),
    F(sysenter_cs),
    F(sysenter_esp),
    F(sysenter_eip),
    F(pat),
    F(tsc),
    F(tsc_adjust),
    F(tsc_aux),
    F(misc_enable),
    F(spec_ctrl),
    F(mcg_status),
    F(mtrr_def_type),
    A(mtrr_fixed),
    A(mtrr_base),
    A(mtrr_mask),
    F(activity),
    F(interrupt_shadow),
    F(nmi_blocked),
    F(nmi_pending),
    F(event_pending),
    F(event_vector),
    F(event_type),
    F(event_has_error),
    F(event_error),
    FIELD_SINCE(struct cpu_state, smm, 2),
    FIELD_SINCE(struct cpu_state, smi_pending, 2),
    SKIP(struct cpu_state, pad0, "alignment"),
    F(pending_dbg),
    FIELD_SINCE(struct cpu_state, smbase, 2),
    SKIP(struct cpu_state, pad1, "alignment"),
    A(xsave),
    FIELDS_END,
};
#undef F
#undef A
const struct state_desc cpu_state_desc = STATE_DESC("cpu", struct cpu_state, 2, cpu_fields);

static void put_u16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, sizeof v);
}

static void reset_segments(struct cpu_state *s)
{
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = (struct cpu_segment){.limit = 0xffff, .attr = DATA_SEGMENT};
    s->seg[SEG_CS] = (struct cpu_segment){
        .base = 0xffff0000, .limit = 0xffff, .selector = 0xf000, .attr = CODE_SEGMENT};
    s->ldtr = (struct cpu_segment){.limit = 0xffff, .attr = SEGA_P | SYS_LDT};
    s->tr = (struct cpu_segment){.limit = 0xffff, .attr = SEGA_P | SYS_TSS_BUSY};
    s->gdtr.limit = 0xffff;
    s->idtr.limit = 0xffff;
}

// After RESET, unlike FNINIT, all exceptions are unmasked and the registers hold +0.
static void reset_fpu(struct cpu_state *s)
{
    put_u16(s->xsave, 0x0040); // FCW
    s->xsave[4] = 0xff;        // abridged FTW: nothing empty
    put_u16(s->xsave + XSAVE_MXCSR, 0x1f80);
    s->xsave[XSAVE_HEADER] = XCR0_X87 | XCR0_SSE;
    s->xcr0 = XCR0_X87;
}

void cpu_state_reset(struct cpu_state *s, bool bsp, uint32_t model_id)
{
    memset(s, 0, sizeof *s);
    s->gpr[RDX] = model_id;
    s->rip = 0xfff0;
    s->rflags = FLAG_FIXED;
    s->cr0 = RESET_CR0;
    s->dr6 = DR6_FIXED;
    s->dr7 = DR7_FIXED;
    s->pat = RESET_PAT;
    s->misc_enable = MISC_ENABLE_RESET;
    s->smbase = SMBASE_RESET;
    s->activity = bsp ? CPU_RUNNING : CPU_WAIT_FOR_SIPI;
    reset_segments(s);
    reset_fpu(s);
}

void cpu_state_init(struct cpu_state *s, bool bsp, uint32_t model_id)
{
    struct cpu_state old = *s;
    cpu_state_reset(s, bsp, model_id);
    s->cr0 = (old.cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
    memcpy(s->xsave, old.xsave, sizeof s->xsave);
    s->xcr0 = old.xcr0;
    s->star = old.star;
    s->lstar = old.lstar;
    s->cstar = old.cstar;
    s->sfmask = old.sfmask;
    s->kernel_gs_base = old.kernel_gs_base;
    s->sysenter_cs = old.sysenter_cs;
    s->sysenter_esp = old.sysenter_esp;
    s->sysenter_eip = old.sysenter_eip;
    s->pat = old.pat;
    s->tsc = old.tsc;
    s->tsc_adjust = old.tsc_adjust;
    s->tsc_aux = old.tsc_aux;
    s->misc_enable = old.misc_enable;
    s->spec_ctrl = old.spec_ctrl;
    s->mcg_status = old.mcg_status;
    s->smbase = old.smbase;
    s->mtrr_def_type = old.mtrr_def_type;
    memcpy(s->mtrr_fixed, old.mtrr_fixed, sizeof s->mtrr_fixed);
    memcpy(s->mtrr_base, old.mtrr_base, sizeof s->mtrr_base);
    memcpy(s->mtrr_mask, old.mtrr_mask, sizeof s->mtrr_mask);
}
