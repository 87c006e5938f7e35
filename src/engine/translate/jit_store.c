// The store of translations that vCPUs share (jit_store.h): blocks one after another in one piece
// of memory, and a hash table with open addressing that leads to them. Both only grow, by
// atomic operations, until one is full; then they are emptied by whoever finds nobody else inside.
#include "engine/translate/jit_store.h"

#include <sys/mman.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "base/copy.h"
#include "engine/translate/codebuf.h"
#include "engine/translate/jit_file.h"

#define BYTES_FOR_SLOT 256   // fewer than any block has
#define PROBES 32            // of one key; more blocks that begin alike are not kept
#define BLOCK_MAX (64 * KIB) // what a block may at most take

// What a vCPU has here: one line of the host's cache each.
struct presence {
    uint32_t inside; // [any]
    uint32_t pad;
    uint64_t next; // after the block that it found last
    uint64_t unused[6];
};

struct jit_store {
    uint8_t *block;
    uint64_t size;
    uint64_t used;    // [any] of block
    uint64_t *slot;   // [any] key in the upper half, place in units in the lower; 0: free
    uint32_t slots;   // a power of two
    uint32_t taken;   // [any] of slots
    uint32_t closing; // [any] somebody is about to empty it
    uint32_t refused; // [any]
    uint64_t loaded;  // the end of what came from a file
    uint64_t key[2];  // of its checksums
    bool anew;
    uint8_t pad[7];
    struct presence vcpu[TVM_VCPUS];
};

struct jit_store *jit_store_new(uint64_t bytes)
{
    struct jit_store *s = codebuf_reserve(sizeof *s);
    if (!s)
        return NULL;
    s->size = align_up(bytes, PAGE_SIZE);
    s->slots = 1024;
    while (s->slots < s->size / BYTES_FOR_SLOT)
        s->slots *= 2;
    s->used = STORED_UNIT; // place 0 is none
    s->block = codebuf_reserve(s->size);
    s->slot = codebuf_reserve(s->slots * sizeof *s->slot);
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
    codebuf_unreserve(s->block, s->size);
    codebuf_unreserve(s->slot, s->slots * sizeof *s->slot);
    codebuf_unreserve(s, sizeof *s);
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
        s->loaded = 0;
        s->anew = true;
        s->used = STORED_UNIT;
    }
    __atomic_store_n(&s->closing, 0, __ATOMIC_SEQ_CST);
}

uint32_t jit_store_key(uint32_t mode, unsigned at, uint64_t first)
{
    uint64_t x = (first ^ (uint64_t)mode << 32 ^ at) * 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9ull;
    return (uint32_t)(x >> 32) | 1;
}

static uint32_t slot_of(const struct jit_store *s, uint32_t key, uint32_t probe)
{
    return (key * 0x9e3779b1u + probe) & (s->slots - 1);
}

// Blocks from a file are checked when they are met first.
static bool is_good(struct jit_store *s, struct stored *b)
{
    uint32_t state = __atomic_load_n(&b->state, __ATOMIC_ACQUIRE);
    if (state == STORED_UNCHECKED) {
        bool good = jit_file_vouches(s->key, b, s->loaded - (uint64_t)((uint8_t *)b - s->block));
        state = good ? STORED_CHECKED : STORED_REFUSED;
        if (!good)
            __atomic_fetch_add(&s->refused, 1, __ATOMIC_RELAXED);
        __atomic_store_n(&b->state, state, __ATOMIC_RELEASE);
    }
    return state != STORED_REFUSED;
}

// A boot meets blocks much in the order in which the one before kept them, so the next one in the
// file is looked at before the table, which is not in the host's caches.
static struct stored *next_in_file(struct jit_store *s, unsigned vcpu, uint32_t key)
{
    uint64_t at = s->vcpu[vcpu].next;
    struct stored *b = (struct stored *)(s->block + at);
    bool there = at && at + sizeof *b <= s->loaded;
    return there && b->key == key && is_good(s, b) ? b : NULL;
}

static struct stored *next_in_table(struct jit_store *s, uint32_t key, uint32_t *probe)
{
    while (*probe < PROBES) {
        uint64_t slot = __atomic_load_n(&s->slot[slot_of(s, key, (*probe)++)], __ATOMIC_ACQUIRE);
        if (!slot)
            break;
        struct stored *b = (struct stored *)(s->block + (slot & UINT32_MAX) * STORED_UNIT);
        if (slot >> 32 == key && is_good(s, b))
            return b;
    }
    return NULL;
}

const struct stored *jit_store_next(struct jit_store *s, unsigned vcpu, uint32_t key,
                                    struct jit_search *search)
{
    struct stored *b = NULL;
    if (!search->begun)
        b = next_in_file(s, vcpu, key);
    search->begun = true;
    if (!b)
        b = next_in_table(s, key, &search->probe);
    if (b)
        s->vcpu[vcpu].next = (uint64_t)((uint8_t *)b - s->block) + align_up(b->bytes, STORED_UNIT);
    return b;
}

struct stored *jit_store_room(struct jit_store *s, uint32_t bytes, unsigned vcpu)
{
    uint64_t need = align_up(bytes, STORED_UNIT);
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
    struct stored *room = (struct stored *)(s->block + at);
    room->bytes = bytes;
    return room;
}

static bool same_block(const struct stored *a, const struct stored *b)
{
    const uint64_t *x = (const uint64_t *)&a->mode, *y = (const uint64_t *)&b->mode;
    uint64_t n = (align_up(a->bytes, STORED_UNIT) - offsetof(struct stored, mode)) / sizeof *x;
    if (a->bytes != b->bytes)
        return false;
    while (n && *x == *y)
        x++, y++, n--;
    return n == 0;
}

// The key's next free slot leads to the block. False when it is there already.
static bool link_block(struct jit_store *s, const struct stored *block)
{
    uint64_t place = (uint64_t)((const uint8_t *)block - s->block) / STORED_UNIT;
    for (uint32_t probe = 0; probe < PROBES; probe++) {
        uint64_t *slot = &s->slot[slot_of(s, block->key, probe)], found = 0;
        if (__atomic_compare_exchange_n(slot, &found, (uint64_t)block->key << 32 | place, false,
                                        __ATOMIC_RELEASE, __ATOMIC_ACQUIRE)) {
            __atomic_fetch_add(&s->taken, 1, __ATOMIC_RELAXED);
            return true;
        }
        const struct stored *other =
            (const struct stored *)(s->block + (found & UINT32_MAX) * STORED_UNIT);
        if (found >> 32 == block->key && block->state == STORED_MADE && same_block(other, block))
            return false; // another vCPU was faster
    }
    return true;
}

void jit_store_add(struct jit_store *s, struct stored *block)
{
    block->state = STORED_MADE;
    if (!link_block(s, block))
        block->state = STORED_ROOM;
}

uint8_t *jit_store_load(struct jit_store *s, uint64_t len, const uint64_t key[2])
{
    if (len > s->size - STORED_UNIT)
        return NULL;
    s->key[0] = key[0];
    s->key[1] = key[1];
    s->loaded = STORED_UNIT + len;
    return s->block + STORED_UNIT;
}

uint64_t jit_store_loaded(struct jit_store *s)
{
    uint64_t at = STORED_UNIT;
    while (s->loaded - at >= sizeof(struct stored) && s->taken <= s->slots / 2) {
        struct stored *b = (struct stored *)(s->block + at);
        uint64_t bytes = align_up(b->bytes, STORED_UNIT);
        if (b->bytes < sizeof *b || bytes > s->loaded - at || !b->key)
            break;
        b->state = STORED_UNCHECKED;
        link_block(s, b);
        at += bytes;
    }
    s->used = s->loaded = at;
    madvise(s->block + align_up(at, PAGE_SIZE), s->size - align_up(at, PAGE_SIZE), MADV_DONTNEED);
    fill_bytes(s->block + at, 0, align_up(at, PAGE_SIZE) - at);
    return at - STORED_UNIT;
}

void jit_store_each(struct jit_store *s, bool loaded, void (*see)(struct stored *b, void *opaque),
                    void *opaque)
{
    for (uint64_t at = loaded || !s->loaded ? STORED_UNIT : s->loaded; at < s->used;) {
        struct stored *b = (struct stored *)(s->block + at);
        at += align_up(b->bytes, STORED_UNIT);
        see(b, opaque);
    }
}

uint64_t jit_store_used(const struct jit_store *s)
{
    return __atomic_load_n(&s->used, __ATOMIC_RELAXED);
}

uint64_t jit_store_size(const struct jit_store *s)
{
    return s->size;
}

bool jit_store_began_anew(const struct jit_store *s)
{
    return s->anew;
}

uint32_t jit_store_refused(const struct jit_store *s)
{
    return __atomic_load_n(&s->refused, __ATOMIC_RELAXED);
}
