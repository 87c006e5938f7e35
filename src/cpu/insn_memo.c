// A memory for insn_decode(): code is made of few instructions that differ in displacements and
// immediates only. What is kept of one is found by its head, the bytes up to ModRM and SIB, from
// which all else follows. 64-bit code, one- and two-byte opcodes without VEX; the rest is decoded.
#include "base/bytes.h"
#include "base/copy.h"
#include "cpu/insn_impl.h"

#define HEAD_MAX 7 // bytes; the eighth of a key is their number

enum head { HEAD_OTHER, HEAD_PLAIN, HEAD_MODRM, HEAD_PREFIX, HEAD_REX, HEAD_ESCAPE };

static bool row_fits(unsigned row, enum head *head)
{
    enum head this = insn_rows[row].bits & ROW_MODRM ? HEAD_MODRM : HEAD_PLAIN;
    bool same = *head == HEAD_OTHER || *head == this;
    *head = this;
    return same && insn_rows[row].imm != SIZE_A && !insn_rows[row].imm2;
}

static unsigned children_of(unsigned select)
{
    switch (select) {
    case SELECT_PP: return 4;
    case SELECT_REG:
    case SELECT_RM: return 8;
    case SELECT_L: return 3;
    default: return 2;
    }
}

// All rows that an opcode may lead to must agree. Trees are as deep as there are selections.
static bool entry_fits(unsigned entry, enum head *head)
{
    if (!(entry & TREE_NODE))
        return !entry || row_fits(entry - 1, head);
    const struct tree_node *node = &tree_nodes[entry & ~TREE_NODE];
    for (unsigned i = 0; i < children_of(node->select); i++)
        if (!entry_fits(tree_children[node->first + i], head))
            return false;
    return true;
}

static enum head head_of(unsigned map, unsigned opcode)
{
    enum head head = HEAD_OTHER;
    return entry_fits(tree_roots[ENC_LEGACY][map][opcode], &head) ? head : HEAD_OTHER;
}

void insn_memo_init(struct insn_memo *m)
{
    static const uint8_t prefixes[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65,
                                       0x66, 0x67, 0xf0, 0xf2, 0xf3};
    for (unsigned i = 0; i < 256; i++) {
        m->head[MAP_ONE][i] = (uint8_t)((i & 0xf0) == 0x40 ? HEAD_REX : head_of(MAP_ONE, i));
        m->head[MAP_0F][i] = (uint8_t)head_of(MAP_0F, i);
    }
    for (unsigned i = 0; i < sizeof prefixes; i++)
        m->head[MAP_ONE][prefixes[i]] = HEAD_PREFIX;
    m->head[MAP_ONE][0x0f] = HEAD_ESCAPE;
    m->head[MAP_0F][0x38] = m->head[MAP_0F][0x3a] = HEAD_OTHER;
    m->head[MAP_ONE][0xc4] = m->head[MAP_ONE][0xc5] = m->head[MAP_ONE][0x62] = HEAD_OTHER;
}

// How long the head is; 0 where there is no use for it.
static unsigned head_bytes(const struct insn_memo *m, const uint8_t *code)
{
    unsigned n = 0;
    const uint8_t *heads = m->head[MAP_ONE];
    while (heads[code[n]] == HEAD_PREFIX)
        if (++n == 4)
            return 0;
    if (heads[code[n]] == HEAD_REX)
        n++;
    if (heads[code[n]] == HEAD_ESCAPE) {
        heads = m->head[MAP_0F];
        n++;
    }
    enum head head = heads[code[n++]];
    if (head != HEAD_MODRM)
        return head == HEAD_PLAIN ? n : 0;
    uint8_t modrm = code[n++];
    n += modrm < 0xc0 && (modrm & 7) == 4;
    return n <= HEAD_MAX ? n : 0;
}

static uint64_t immediate(const uint8_t *code, unsigned bytes)
{
    switch (bytes) {
    case 1: return *code;
    case 2: return load_le16(code);
    case 4: return load_le32(code);
    default: return load_le64(code);
    }
}

static void copy_insn(struct insn *to, const struct insn *from)
{
    copy_words(to, from, sizeof *to);
}

static bool extends_immediate(const struct insn *in)
{
    const struct insn_row *row = &insn_rows[in->form];
    for (unsigned i = 0; i < row->operands; i++)
        if (row->operand[i].place == PLACE_IS || row->operand[i].place == PLACE_J)
            return true;
    return false;
}

static enum insn_status learn(struct insn_memo_entry *e, uint64_t key, const uint8_t *code,
                              size_t len, struct insn *out)
{
    enum insn_status status = insn_decode(code, len, 8, out);
    unsigned head = (unsigned)(key >> 56);
    if (status != INSN_OK || head + out->disp_bytes + out->imm_bytes != out->len)
        return status;
    e->key = key;
    e->extends = extends_immediate(out);
    copy_insn(&e->insn, out);
    return status;
}

enum insn_status insn_decode_memo(struct insn_memo *m, const uint8_t *code, size_t len,
                                  struct insn *out)
{
    unsigned head = len >= INSN_MAX ? head_bytes(m, code) : 0;
    if (!head)
        return insn_decode(code, len, 8, out);
    uint64_t key = (load_le64(code) & (BIT(8 * head) - 1)) | (uint64_t)head << 56;
    struct insn_memo_entry *e = &m->entry[key * 0x9e3779b97f4a7c15ull >> (64 - INSN_MEMO_BITS)];
    if (e->key != key)
        return learn(e, key, code, len, out);
    copy_insn(out, &e->insn);
    code += head;
    if (out->disp_bytes)
        out->disp = out->disp_bytes == 1 ? (int8_t)*code : (int32_t)load_le32(code);
    code += out->disp_bytes;
    if (!out->imm_bytes)
        return INSN_OK;
    out->imm = immediate(code, out->imm_bytes);
    if (e->extends)
        out->imm = sign_extend(out->imm, out->imm_bytes);
    return INSN_OK;
}
