// The decoder's driver: prefixes, opcode, row selection, ModRM memory operands, immediates and the
// rules on what may be combined. What the opcodes are is in opcodes.tab; operands are
// insn_operand.c.
//
// Sources: Intel SDM volume 2, chapters 2 (format, REX, VEX, EVEX) and 3.
// Not modelled: AMD's rule that 66 truncates near branches in 64-bit code (Intel's is followed),
// XOP.
#include "cpu/insn_impl.h"

#include <string.h>

#include "base/copy.h"

#define REX_B 1
#define REX_X 2
#define REX_R 4
#define REX_W 8

// No instruction makes the parser look further than this, whatever its prefixes.
#define REACH 48

// What lies between the prefixes and the finished insn. Code near its end is copied to where
// reading on yields zeros, so that parsing needs no bounds checks; the length is judged afterwards.
struct parse {
    const uint8_t *code;
    unsigned at;   // next byte
    unsigned seen; // bytes that had to be looked at, even if not consumed
    unsigned mode; // 2, 4, 8
    bool opsize_prefix;
    uint8_t rep_byte; // last of f2, f3
    uint8_t segment;  // override that has effect, or SEG_COUNT
    uint8_t pp;       // 0 none, 1 66, 2 f3, 3 f2
    uint8_t veclen;   // 0 128, 1 256, 2 512, 3 reserved
    uint8_t evex_r2;  // fifth bit of ModRM.reg
    uint8_t evex_v2;  // fifth bit of vvvv or of a vector index
    bool vvvv_set;    // vvvv as encoded names a register, which forms without it must not do
    bool bad;         // an illegal combination: #UD once the length is known
    const struct insn_row *row;
};

static uint64_t read_le(const uint8_t *p, unsigned size)
{
    uint64_t value = 0;
    switch (size) {
    case 1: return *p;
    case 2: memcpy(&value, p, 2); return value;
    case 4: memcpy(&value, p, 4); return value;
    case 8: memcpy(&value, p, 8); return value;
    default: return 0;
    }
}

static void parse_segment(struct parse *p, unsigned segment)
{
    // In 64-bit code the other four are null prefixes.
    if (p->mode != 8 || segment >= SEG_FS)
        p->segment = (uint8_t)segment;
}

static void parse_prefixes(struct parse *p, struct insn *out)
{
    for (; p->at < INSN_MAX; p->at++) {
        uint8_t byte = p->code[p->at];
        switch (byte) {
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e: parse_segment(p, byte >> 3 & 3); break;
        case 0x64:
        case 0x65: parse_segment(p, byte - 0x64 + SEG_FS); break;
        case 0x66:
            p->opsize_prefix = true;
            out->prefix |= PREFIX_OPSIZE;
            break;
        case 0x67: out->prefix |= PREFIX_ADDRSIZE; break;
        case 0xf0: out->prefix |= PREFIX_LOCK; break;
        case 0xf2:
        case 0xf3:
            p->rep_byte = byte;
            out->prefix |= byte == 0xf2 ? PREFIX_REPNE : PREFIX_REP;
            break;
        default:
            if (p->mode != 8 || (byte & 0xf0) != 0x40)
                return;
            out->rex = byte; // counts only directly before the opcode
            continue;
        }
        out->rex = 0;
    }
}

// VEX and EVEX carry REX's bits inverted; 16- and 32-bit code has no registers above 7.
static void set_rex(struct parse *p, struct insn *out, unsigned inverted_rxb, unsigned w)
{
    unsigned rxb = p->mode == 8 ? ~inverted_rxb & 7 : 0;
    out->rex = (uint8_t)(0x40 | (w ? REX_W : 0) | rxb);
}

static void vex_common(struct parse *p, struct insn *out, uint8_t wvvvvlpp)
{
    // Prefixes that VEX replaces must not be given as well.
    if (p->opsize_prefix || p->rep_byte || out->rex || out->prefix & PREFIX_LOCK)
        p->bad = true;
    static const uint8_t pp_of[4] = {0, 1, 2, 3};
    p->pp = pp_of[wvvvvlpp & 3];
    out->vvvv = ~wvvvvlpp >> 3 & (p->mode == 8 ? 15 : 7);
    p->vvvv_set = (wvvvvlpp & 0x78) != 0x78;
    p->opsize_prefix = false;
    p->rep_byte = 0;
}

static void parse_vex2(struct parse *p, struct insn *out)
{
    uint8_t b = p->code[p->at + 1];
    vex_common(p, out, b);
    set_rex(p, out, (b >> 7) << 2 | 3, 0);
    p->veclen = b >> 2 & 1;
    out->encoding = ENC_VEX;
    out->map = MAP_0F;
    p->at += 2;
}

static void parse_vex3(struct parse *p, struct insn *out)
{
    uint8_t a = p->code[p->at + 1], b = p->code[p->at + 2];
    vex_common(p, out, b);
    set_rex(p, out, a >> 5, b >> 7);
    p->veclen = b >> 2 & 1;
    out->encoding = ENC_VEX;
    out->map = a & 31;
    p->at += 3;
}

static void parse_evex(struct parse *p, struct insn *out)
{
    uint8_t a = p->code[p->at + 1], b = p->code[p->at + 2], c = p->code[p->at + 3];
    vex_common(p, out, b);
    set_rex(p, out, a >> 5, b >> 7);
    p->evex_r2 = p->mode == 8 && !(a & 0x10);
    p->evex_v2 = p->mode == 8 && !(c & 8);
    p->veclen = c >> 5 & 3;
    out->evex_aaa = c & 7;
    out->evex_zb = (uint8_t)((c >> 4 & 1) | (c >> 7) << 1 | (c >> 5 & 3) << 2);
    out->vvvv |= (uint8_t)(p->evex_v2 << 4);
    if (a & 8 || !(b & 4) || (p->mode != 8 && !(c & 8)))
        p->bad = true;
    out->encoding = ENC_EVEX;
    out->map = a & 7;
    p->at += 4;
}

// C4, C5 and 62 are LES, LDS and BOUND in 16- and 32-bit code unless ModRM would name a register.
static bool is_vex(const struct parse *p, uint8_t byte)
{
    return (byte == 0xc4 || byte == 0xc5 || byte == 0x62) &&
           (p->mode == 8 || p->code[p->at + 1] >= 0xc0);
}

static void parse_opcode(struct parse *p, struct insn *out)
{
    uint8_t byte = p->code[p->at];
    p->pp = p->rep_byte ? (p->rep_byte == 0xf3 ? 2 : 3) : p->opsize_prefix;
    if (byte == 0x0f) {
        byte = p->code[++p->at];
        out->map = MAP_0F;
        if (byte == 0x38 || byte == 0x3a) {
            out->map = byte == 0x38 ? MAP_0F38 : MAP_0F3A;
            p->at++;
        }
    } else if (is_vex(p, byte)) {
        if (byte == 0xc5)
            parse_vex2(p, out);
        else if (byte == 0xc4)
            parse_vex3(p, out);
        else
            parse_evex(p, out);
    }
    out->opcode = p->code[p->at++];
    p->seen = p->at;
}

static unsigned select_child(struct parse *p, const struct insn *out, unsigned select)
{
    uint8_t modrm = p->code[p->at];
    switch (select) {
    case SELECT_MODE: return p->mode == 8;
    case SELECT_PP: return p->pp;
    case SELECT_OPSIZE: return (out->rex & REX_W) != 0;
    case SELECT_W: return (out->rex & REX_W) != 0;
    case SELECT_L:
        // With registers EVEX.b turns the length bits into a rounding mode; 512 bits are implied.
        if (out->evex_zb & 1 && modrm >= 0xc0)
            return 2;
        return p->veclen < 3 ? p->veclen : 2;
    case SELECT_REXB: return out->rex & REX_B;
    default: break;
    }
    p->seen = p->at + 1;
    if (select == SELECT_MOD)
        return modrm >= 0xc0;
    return select == SELECT_REG ? modrm >> 3 & 7 : modrm & 7;
}

static bool find_row(struct parse *p, struct insn *out)
{
    const uint16_t *root = out->map < 4 ? tree_roots[out->encoding][out->map] : NULL;
    if (!root)
        return false;
    unsigned entry = root[out->opcode];
    while (entry & TREE_NODE) {
        const struct tree_node *node = &tree_nodes[entry & ~TREE_NODE];
        entry = tree_children[node->first + select_child(p, out, node->select)];
    }
    if (entry == 0)
        return false;
    out->form = (uint16_t)(entry - 1);
    out->op = insn_forms[out->form].op;
    p->row = &insn_rows[out->form];
    return true;
}

static uint8_t operand_size(const struct parse *p, const struct insn *out)
{
    uint32_t bits = p->row->bits;
    bool prefix = p->opsize_prefix && !(bits & ROW_66_MANDATORY);
    unsigned size;
    if (bits & ROW_BYTE)
        return 1;
    if (out->encoding != ENC_LEGACY)
        size = p->mode == 8 && out->rex & REX_W ? 8 : 4;
    else if (p->mode != 8)
        size = (p->mode == 4) != prefix ? 4 : 2;
    else if (bits & ROW_F64 || out->rex & REX_W)
        size = 8;
    else
        size = prefix ? 2 : bits & ROW_D64 ? 8 : 4;
    return (uint8_t)(bits & ROW_MAX4 && size == 8 ? 4 : size);
}

static void set_sizes(struct parse *p, struct insn *out)
{
    static const uint8_t mandatory_of[4] = {0, 0x66, 0xf3, 0xf2};
    const struct insn_form *form = &insn_forms[out->form];
    uint32_t bits = p->row->bits;
    out->opsize = operand_size(p, out);
    if (out->encoding != ENC_LEGACY || bits & (ROW_PP | ROW_66_MANDATORY))
        out->mandatory = mandatory_of[p->pp];
    if (form->flags & FORM_SSE)
        out->veclen = 16;
    if (out->encoding == ENC_LEGACY || !(form->flags & (FORM_AVX | FORM_AVX512)))
        return;
    bool rounding = out->evex_zb & 1 && out->modrm >= 0xc0 && bits & ROW_ROUNDING;
    if (bits & ROW_LIG)
        out->veclen = 16;
    else
        out->veclen = (uint8_t)(rounding ? 64 : 16 << (p->veclen & 3));
    if (p->veclen == 3 && !rounding)
        p->bad = true;
}

static uint8_t default_segment(const struct parse *p, uint8_t segment)
{
    return p->segment < SEG_COUNT ? p->segment : segment;
}

// Tables 2-1 of the SDM: 16-bit addressing.
static void parse_memory16(struct parse *p, struct insn *out)
{
    static const uint8_t base[8] = {RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX};
    static const uint8_t index[8] = {RSI, RDI, RSI, RDI, REG_NONE, REG_NONE, REG_NONE, REG_NONE};
    unsigned mod = out->modrm >> 6, rm = out->modrm & 7;
    out->base = base[rm];
    out->index = index[rm];
    out->disp_bytes = (uint8_t)mod;
    if (mod == 0 && rm == 6) {
        out->base = REG_NONE;
        out->disp_bytes = 2;
    }
    out->seg = default_segment(p, out->base == RBP ? SEG_SS : SEG_DS);
}

static void parse_sib(struct parse *p, struct insn *out)
{
    uint8_t sib = p->code[p->at++];
    bool vsib = insn_forms[out->form].flags & FORM_VSIB;
    unsigned index = (sib >> 3 & 7) | (out->rex & REX_X ? 8 : 0);
    out->has_sib = true;
    out->sib = sib;
    out->scale = (uint8_t)(1 << (sib >> 6));
    if (vsib)
        index |= p->evex_v2 << 4;
    out->index = (uint8_t)(index == 4 && !vsib ? REG_NONE : index);
    out->base = (uint8_t)((sib & 7) | (out->rex & REX_B ? 8 : 0));
    if ((sib & 7) == 5 && out->modrm < 0x40) {
        out->base = REG_NONE;
        out->disp_bytes = 4;
    }
}

static void parse_memory32(struct parse *p, struct insn *out)
{
    unsigned mod = out->modrm >> 6, rm = out->modrm & 7;
    out->disp_bytes = mod == 1 ? 1 : mod == 2 ? 4 : 0;
    if (rm == 4) {
        parse_sib(p, out);
    } else if (mod == 0 && rm == 5) {
        out->base = p->mode == 8 ? REG_RIP : REG_NONE;
        out->disp_bytes = 4;
    } else {
        out->base = (uint8_t)(rm | (out->rex & REX_B ? 8 : 0));
    }
    bool stack = out->base == RSP || out->base == RBP;
    out->seg = default_segment(p, stack ? SEG_SS : SEG_DS);
}

// EVEX scales an 8-bit displacement by the size of what is accessed.
static unsigned disp8_scale(const struct insn *out, const struct insn_row *row)
{
    if (out->encoding != ENC_EVEX)
        return 1;
    if (out->evex_zb & 1 && row->bits & (ROW_BCST4 | ROW_BCST8))
        return row->bits & ROW_BCST4 ? 4 : 8;
    return row->disp_n ? row->disp_n : 1; // the operand's size is multiplied in with the operands
}

static void parse_disp(struct parse *p, struct insn *out)
{
    if (out->disp_bytes == 0)
        return;
    out->disp = (int64_t)sign_extend(read_le(&p->code[p->at], out->disp_bytes), out->disp_bytes);
    p->at += out->disp_bytes;
    if (out->disp_bytes == 1)
        out->disp *= (int64_t)disp8_scale(out, p->row);
}

static void parse_modrm(struct parse *p, struct insn *out)
{
    if (!(p->row->bits & ROW_MODRM))
        return;
    out->has_modrm = true;
    out->modrm = p->code[p->at++];
    if (p->row->bits & ROW_NOMEM)
        out->modrm |= 0xc0;
    if (out->modrm >= 0xc0)
        return;
    if (out->addrsize == 2)
        parse_memory16(p, out);
    else
        parse_memory32(p, out);
    parse_disp(p, out);
}

static unsigned immediate_bytes(const struct insn *out, uint8_t size)
{
    switch (size) {
    case SIZE_V: return out->opsize;
    case SIZE_Z: return out->opsize == 2 ? 2 : 4;
    case SIZE_A: return out->addrsize;
    default: return size;
    }
}

static void parse_immediates(struct parse *p, struct insn *out)
{
    const struct insn_row *row = p->row;
    if (row->imm) {
        unsigned size = immediate_bytes(out, row->imm);
        out->imm = read_le(&p->code[p->at], size);
        out->imm_bytes = (uint8_t)size;
        p->at += size;
    }
    if (row->imm2) {
        out->imm2 = read_le(&p->code[p->at], row->imm2);
        out->imm_bytes += row->imm2;
        p->at += row->imm2;
    }
    if (row->imm != SIZE_A)
        return;
    out->disp = (int64_t)out->imm; // moffs
    out->disp_bytes = out->imm_bytes;
    out->imm = 0;
    out->imm_bytes = 0;
}

// Rules of VEX and EVEX beyond the tree's conditions.
static bool vector_legal(const struct parse *p, const struct insn *out)
{
    uint32_t bits = p->row->bits;
    bool memory = out->has_modrm && out->modrm < 0xc0;
    bool vsib = insn_forms[out->form].flags & FORM_VSIB;
    if (!(bits & ROW_VVVV) && (p->vvvv_set || (p->evex_v2 && !vsib)))
        return false;
    if (vsib && (!memory || !out->has_sib))
        return false;
    if (out->encoding == ENC_VEX)
        return true;
    bool b = out->evex_zb & 1, z = out->evex_zb & 2;
    if (b && !(bits & (memory ? ROW_BCST4 | ROW_BCST8 : ROW_ROUNDING)))
        return false;
    if (out->evex_aaa ? !(bits & ROW_MASKABLE) : (bits & ROW_MASK_MUST) != 0)
        return false;
    return !z || (bits & ROW_ZEROING && out->evex_aaa && out->operand[0].kind != OPND_MEM);
}

// A gather whose registers overlap is undefined.
static bool gather_legal(const struct insn *out)
{
    if (!(insn_forms[out->form].flags & FORM_VSIB) || out->operand[0].kind != OPND_VEC)
        return true;
    unsigned dest = out->operand[0].reg;
    if (out->encoding == ENC_EVEX)
        return dest != out->index;
    return dest != out->index && dest != out->vvvv && out->index != out->vvvv;
}

static bool combination_legal(const struct parse *p, const struct insn *out)
{
    const struct insn_form *form = &insn_forms[out->form];
    if (p->bad)
        return false;
    if (out->prefix & PREFIX_LOCK &&
        !(form->flags & FORM_LOCKABLE && out->operand[0].kind == OPND_MEM))
        return false;
    if (out->encoding != ENC_LEGACY && !vector_legal(p, out))
        return false;
    return gather_legal(out);
}

static enum insn_status finish(const struct parse *p, struct insn *out, size_t len, bool legal)
{
    unsigned need = p->at > p->seen ? p->at : p->seen;
    if (need > INSN_MAX)
        return INSN_TOO_LONG;
    if (need > len)
        return INSN_TRUNCATED;
    out->len = (uint8_t)need;
    return legal ? INSN_OK : INSN_INVALID;
}

static void set_address(struct parse *p, struct insn *out)
{
    bool prefix = out->prefix & PREFIX_ADDRSIZE;
    out->addrsize = (uint8_t)(p->mode == 8 ? (prefix ? 4 : 8) : (p->mode == 4) != prefix ? 4 : 2);
    out->base = REG_NONE;
    out->index = REG_NONE;
    out->scale = 1;
    out->seg = p->segment < SEG_COUNT ? p->segment : SEG_DS;
    if (p->segment < SEG_COUNT)
        out->prefix |= PREFIX_SEGMENT;
}

static void copy_start(uint8_t *to, const uint8_t *code, size_t len)
{
    if (len >= INSN_MAX) { // in two overlapping pieces: cheaper than a copy of any length
        memcpy(to, code, 8);
        memcpy(to + INSN_MAX - 8, code + INSN_MAX - 8, 8);
    } else {
        copy_bytes(to, code, len);
    }
}

enum insn_status insn_decode(const uint8_t *code, size_t len, unsigned mode, struct insn *out)
{
    _Static_assert(sizeof *out % 8 == 0 && sizeof(struct parse) % 8 == 0, "cleared in words");
    struct parse p;
    uint8_t padded[REACH];
    clear_words(&p, sizeof p);
    p.mode = mode;
    p.segment = SEG_COUNT;
    if (len >= REACH) {
        p.code = code;
    } else {
        clear_words(padded, sizeof padded);
        copy_start(padded, code, len);
        p.code = padded;
    }
    clear_words(out, sizeof *out);
    out->mode = (uint8_t)mode;
    parse_prefixes(&p, out);
    parse_opcode(&p, out);
    set_address(&p, out);
    if (!find_row(&p, out))
        return finish(&p, out, len, false);
    out->modrm = p.row->bits & ROW_MODRM ? p.code[p.at] : 0;
    set_sizes(&p, out);
    parse_modrm(&p, out);
    parse_immediates(&p, out);
    unsigned evex_x = out->encoding == ENC_EVEX && out->rex & REX_X;
    bool legal = insn_operands(out, p.row, p.evex_r2, evex_x);
    return finish(&p, out, len, legal && combination_legal(&p, out));
}

const char *insn_name(unsigned op)
{
    return insn_names[op < OP_COUNT ? op : OP_NONE];
}
