// The store of translations that vCPUs share (jit_store.h): blocks one after another in one piece
// of memory, and a hash table with open addressing that leads to them. Both only grow, by
// atomic operations, until one is full; then they are emptied by whoever finds nobody else inside.
#include "engine/translate/jit_store.h"

#include <sys/mman.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "base/copy.h"
#include "engine/translate/tvm.h"

#define UNIT 16              // blocks begin at multiples of it
#define BYTES_FOR_SLOT 256   // fewer than any block has
#define PROBES 32            // of one key; more blocks that begin alike are not kept
#define BLOCK_MAX (64 * KIB) // what a block may at most take

// One line of the host's cache for each vCPU.
struct presence {
    uint32_t inside; // [any]
    uint32_t pad[15];
};

struct jit_store {
    uint8_t *block;
    uint64_t size;
    uint64_t used;    // [any] of block
    uint64_t *slot;   // [any] key in the upper half, place in units in the lower; 0: free
    uint32_t slots;   // a power of two
    uint32_t taken;   // [any] of slots
    uint32_t closing; // [any] somebody is about to empty it
    uint32_t pad;
    struct presence vcpu[TVM_VCPUS];
};

static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void unreserve(void *p, size_t bytes)
{
    if (p)
        munmap(p, bytes);
}

struct jit_store *jit_store_new(uint64_t bytes)
{
    struct jit_store *s = reserve(sizeof *s);
    if (!s)
        return NULL;
    s->size = align_up(bytes, PAGE_SIZE);
    s->slots = 1024;
    while (s->slots < s->size / BYTES_FOR_SLOT)
        s->slots *= 2;
    s->used = UNIT; // place 0 is none
    s->block = reserve(s->size);
    s->slot = reserve(s->slots * sizeof *s->slot);
    if (s->block)
        madvise(s->block, s->size, MADV_HUGEPAGE);
    if (!s->block || !s->slot) {
        jit_store_free(s);
        return NULL;
    }
    return s;
}

void jit_store_free(struct jit_store *s)
{
    if (!s)
        return;
    unreserve(s->block, s->size);
    unreserve(s->slot, s->slots * sizeof *s->slot);
    unreserve(s, sizeof *s);
}

// Of a vCPU that enters and one that closes, one sees the other: each stores, then looks, with a
// full barrier in between.
bool jit_store_enter(struct jit_store *s, unsigned vcpu)
{
    __atomic_store_n(&s->vcpu[vcpu].inside, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&s->closing, __ATOMIC_SEQ_CST))
        return true;
    jit_store_leave(s, vcpu);
    return false;
}

void jit_store_leave(struct jit_store *s, unsigned vcpu)
{
    __atomic_store_n(&s->vcpu[vcpu].inside, 0, __ATOMIC_RELEASE);
}

static bool alone(const struct jit_store *s, unsigned vcpu)
{
    for (unsigned i = 0; i < TVM_VCPUS; i++)
        if (i != vcpu && __atomic_load_n(&s->vcpu[i].inside, __ATOMIC_SEQ_CST))
            return false;
    return true;
}

// What is in use will soon be back.
static void begin_anew(struct jit_store *s, unsigned vcpu)
{
    if (__atomic_exchange_n(&s->closing, 1, __ATOMIC_SEQ_CST))
        return;
    if (alone(s, vcpu)) {
        madvise(s->block, s->size, MADV_DONTNEED);
        madvise(s->slot, s->slots * sizeof *s->slot, MADV_DONTNEED);
        s->taken = 0;
        s->used = UNIT;
    }
    __atomic_store_n(&s->closing, 0, __ATOMIC_SEQ_CST);
}

uint32_t jit_store_key(uint32_t mode, unsigned at, const uint8_t *code, unsigned len)
{
    uint64_t start = load_sized(code, len < 8 ? len : 8);
    uint64_t x = (start ^ (uint64_t)mode << 32 ^ at) * 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9ull;
    return (uint32_t)(x >> 32) | 1;
}

static uint32_t slot_of(const struct jit_store *s, uint32_t key, uint32_t probe)
{
    return (key * 0x9e3779b1u + probe) & (s->slots - 1);
}

const struct stored *jit_store_next(struct jit_store *s, uint32_t key, uint32_t *state)
{
    while (*state < PROBES) {
        uint64_t slot = __atomic_load_n(&s->slot[slot_of(s, key, (*state)++)], __ATOMIC_ACQUIRE);
        if (!slot)
            break;
        if (slot >> 32 == key)
            return (const struct stored *)(s->block + (slot & UINT32_MAX) * UNIT);
    }
    return NULL;
}

struct stored *jit_store_room(struct jit_store *s, uint32_t bytes, unsigned vcpu)
{
    uint64_t need = align_up(bytes, UNIT);
    if (need > BLOCK_MAX)
        return NULL;
    if (__atomic_load_n(&s->used, __ATOMIC_RELAXED) + need > s->size ||
        __atomic_load_n(&s->taken, __ATOMIC_RELAXED) > s->slots / 2)
        begin_anew(s, vcpu);
    uint64_t at = __atomic_load_n(&s->used, __ATOMIC_RELAXED);
    do {
        if (at + need > s->size)
            return NULL;
    } while (!__atomic_compare_exchange_n(&s->used, &at, at + need, true, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return (struct stored *)(s->block + at);
}

static bool same_block(const struct stored *a, const struct stored *b)
{
    const uint64_t *x = (const uint64_t *)a, *y = (const uint64_t *)b;
    uint64_t n = align_up(a->bytes, UNIT) / sizeof *x;
    if (a->bytes != b->bytes)
        return false;
    while (n && *x == *y)
        x++, y++, n--;
    return n == 0;
}

void jit_store_add(struct jit_store *s, uint32_t key, const struct stored *block)
{
    uint64_t place = (uint64_t)((const uint8_t *)block - s->block) / UNIT;
    for (uint32_t probe = 0; probe < PROBES; probe++) {
        uint64_t *slot = &s->slot[slot_of(s, key, probe)], found = 0;
        if (__atomic_compare_exchange_n(slot, &found, (uint64_t)key << 32 | place, false,
                                        __ATOMIC_RELEASE, __ATOMIC_ACQUIRE)) {
            __atomic_fetch_add(&s->taken, 1, __ATOMIC_RELAXED);
            return;
        }
        if (found >> 32 == key &&
            same_block((const struct stored *)(s->block + (found & UINT32_MAX) * UNIT), block))
            return; // another vCPU was faster
    }
}

uint64_t jit_store_used(const struct jit_store *s)
{
    return __atomic_load_n(&s->used, __ATOMIC_RELAXED);
}
