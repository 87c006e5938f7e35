// Stubs: a few host instructions around one re-encoded guest instruction. They load general
// registers and flags from a frame, run it on the frame's memory operand, and store what may have
// changed. A stub depends on the instruction's bytes alone and is found by them.
#include "engine/translate/simd_impl.h"

#include "engine/translate/emit.h"

static const uint8_t frame_registers[] = {RAX, RCX, RDX, R8, R9};

unsigned stub_slot(unsigned host_reg)
{
    unsigned i = 0;
    while (i + 1 < sizeof frame_registers && frame_registers[i] != host_reg)
        i++;
    return i;
}

static struct emit_mem frame_gpr(unsigned i)
{
    return emit_at(RDI, (int32_t)(offsetof(struct simd_frame, gpr) + 8 * i));
}

static struct emit_mem frame_flags(void)
{
    return emit_at(RDI, offsetof(struct simd_frame, flags));
}

static void write_stub(struct emit *e, const struct stub_key *key)
{
    static const uint8_t flags_in[] = {0x04, 0x7f, 0x9e};        // add al, 127; sahf
    static const uint8_t flags_out[] = {0x9f, 0x0f, 0x90, 0xc0}; // lahf; seto al
    emit_load(e, 8, RAX, frame_flags());
    emit_bytes(e, flags_in, sizeof flags_in);
    for (unsigned i = 0; i < sizeof frame_registers; i++)
        emit_load(e, 8, frame_registers[i], frame_gpr(i));
    emit_bytes(e, key->bytes, key->len);
    for (unsigned i = 0; i < sizeof frame_registers; i++)
        emit_store(e, 8, frame_gpr(i), frame_registers[i]);
    emit_bytes(e, flags_out, sizeof flags_out);
    emit_store(e, 8, frame_flags(), RAX);
    emit_ret(e);
}

static bool same_key(const struct stub_key *a, const struct stub_key *b)
{
    uint64_t difference = 0;
    for (unsigned i = 0; i < sizeof *a; i += 8) {
        uint64_t x, y;
        __builtin_memcpy(&x, (const char *)a + i, 8);
        __builtin_memcpy(&y, (const char *)b + i, 8);
        difference |= x ^ y;
    }
    return difference == 0;
}

static unsigned hash_key(const struct stub_key *key)
{
    uint64_t low, high;
    __builtin_memcpy(&low, key, 8);
    __builtin_memcpy(&high, (const char *)key + 8, 8);
    return (unsigned)(((low ^ high >> 3) * 0x9e3779b97f4a7c15ull ^ high * 0xc2b2ae3d27d4eb4full) >>
                      40);
}

// All slots are given anew. Code that has run is about to be overwritten through another view,
// hence the serializing instruction.
static void drop_stubs(struct simd *simd)
{
    uint32_t eax = 0, ecx = 0;
    fill_bytes(simd->stub, 0, sizeof simd->stub);
    simd->stubs = 0;
    asm volatile("cpuid" : "+a"(eax), "+c"(ecx) : : "ebx", "edx", "memory");
}

static simd_stub *slot_code(const struct simd *simd, unsigned slot)
{
    return (simd_stub *)(uintptr_t)(simd->code.exec + slot * STUB_BYTES);
}

bool simd_refused(struct tcpu *c, uint64_t pc)
{
    struct simd *simd = c->simd;
    simd->refused = pc - (uint64_t)(uintptr_t)simd->code.exec < simd->code.len;
    return simd->refused;
}

static simd_stub *find_or_make(struct simd *simd, const struct stub_key *key)
{
    unsigned slot = hash_key(key) % STUB_SLOTS;
    for (; simd->stub[slot].len; slot = (slot + 1) % STUB_SLOTS)
        if (same_key(&simd->stub[slot], key))
            return slot_code(simd, slot);
    if (simd->stubs >= STUB_SLOTS / 2) {
        drop_stubs(simd);
        slot = hash_key(key) % STUB_SLOTS;
    }
    uint8_t *at = simd->code.write + slot * STUB_BYTES;
    struct emit e = {at, at + STUB_BYTES, codebuf_to_exec(&simd->code), false};
    write_stub(&e, key);
    if (e.overflow)
        return NULL;
    simd->stub[slot] = *key;
    simd->stubs++;
    return slot_code(simd, slot);
}

simd_stub *stub_for(struct simd *simd, const struct insn *insn, const uint8_t gpr_map[16])
{
    struct stub_key key = {0};
    uint8_t bytes[EMIT_ROOM];
    struct emit e = {bytes, bytes + sizeof bytes, 0, false};
    struct emit_operands operands = {emit_at(RDI, offsetof(struct simd_frame, mem)), gpr_map};
    if (!emit_insn(&e, insn, &operands) || (size_t)(e.at - bytes) > sizeof key.bytes)
        return NULL;
    key.len = (uint8_t)(e.at - bytes);
    copy_bytes(key.bytes, bytes, key.len);
    return find_or_make(simd, &key);
}
