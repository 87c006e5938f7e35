// The block translator's life: its memory, and the way in from the run loop.
#include "base/bytes.h"
#include "engine/translate/interp.h"
#include "engine/translate/jit_impl.h"
#include "engine/translate/lockstep.h"

#include <cpuid.h>
#include <sys/mman.h>

#define DEFAULT_CACHE (256 * MIB) // of all vCPUs
#define LEAST_CACHE (32 * MIB)    // of one
#define TINY_CACHE (64 * KIB)

static bool reserve_records(struct jit *jit)
{
    jit->max_blocks = (uint32_t)(jit->buf.len / 64);
    jit->max_marks = (uint32_t)(jit->buf.len / 8);
    jit->max_sites = (uint32_t)(jit->buf.len / 16);
    jit->max_links = (uint32_t)(jit->buf.len / 16);
    jit->page = codebuf_reserve(JIT_PAGES * sizeof *jit->page);
    jit->block = codebuf_reserve(jit->max_blocks * sizeof *jit->block);
    jit->mark = codebuf_reserve(jit->max_marks * sizeof *jit->mark);
    jit->site = codebuf_reserve(jit->max_sites * sizeof *jit->site);
    jit->link = codebuf_reserve(jit->max_links * sizeof *jit->link);
    return jit->page && jit->block && jit->mark && jit->site && jit->link;
}

static bool host_has_bmi2(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_BMI2);
}

// Hot code gets two thirds of the buffer, stubs the rest.
static void split_buffer(struct jit *jit, bool notes)
{
    uint8_t *start = jit->buf.write, *middle = start + align_down(jit->buf.len / 3 * 2, PAGE_SIZE);
    ptrdiff_t to_exec = codebuf_to_exec(&jit->buf);
    jit->hot = (struct emit){.at = start, .end = middle, .to_exec = to_exec};
    jit->cold = (struct emit){.at = middle, .end = start + jit->buf.len, .to_exec = to_exec};
    jit_emit_gates(jit);
    jit->hot.note = jit->note[0];
    jit->cold.note = jit->note[1];
    jit->hot.max_notes = jit->cold.max_notes = notes ? JIT_NOTES : 0;
    jit->hot_start = jit->hot.at;
    jit->cold_start = jit->cold.at;
    jit->cold_chunk = jit_offset(jit, &jit->cold) / CODEBUF_CHUNK;
}

// The guards catch both ends.
static bool make_shadow(struct tcpu *c, struct jit *jit)
{
    jit->shadow = codebuf_reserve(SHADOW_ALL);
    if (!jit->shadow)
        return false;
    for (unsigned i = 0; i < 3; i++)
        if (mprotect(jit->shadow + i * SHADOW_STEP, PAGE_SIZE, PROT_NONE))
            return false;
    for (unsigned user = 0; user < 2; user++) {
        uint8_t *last = jit->shadow + (user + 1) * SHADOW_STEP - 8;
        store_le64(last, (uint64_t)(uintptr_t)jit->astray[user]);
        jit->shadow_base[user] = jit->shadow_rsp[user] = (uint64_t)(uintptr_t)last;
    }
    c->hot.shadow_base = c->hot.shadow_rsp = jit->shadow_base[0];
    return true;
}

// Several vCPUs have the store, from which what a small cache has lost comes back as a copy.
static uint64_t default_cache(const struct engine_vm_config *config)
{
    return max_u64(DEFAULT_CACHE / config->vcpus, LEAST_CACHE);
}

struct jit *jit_new(struct tcpu *c)
{
    const struct engine_vm_config *config = &c->vm->config;
    size_t len = config->code_cache_bytes ? config->code_cache_bytes : default_cache(config);
    if (config->debug & ENGINE_DEBUG_TINY_CACHE)
        len = TINY_CACHE;
    struct jit *jit = codebuf_reserve(sizeof *jit);
    if (!jit)
        return NULL;
    if (codebuf_init(&jit->buf, max_u64(min_u64(len, GIB), TINY_CACHE), NULL) != OK ||
        !reserve_records(jit)) {
        jit_free(jit);
        return NULL;
    }
    insn_memo_init(&jit->memo);
    jit->bmi2 = host_has_bmi2();
    jit->full_tlb = c->tlb_mask;
    jit->all_hot = config->debug & ENGINE_DEBUG_ALL_HOT;
    jit->slots_miss = config->debug & ENGINE_DEBUG_SLOTS_MISS;
    jit->copy_own = config->debug & ENGINE_DEBUG_COPY_BLOCKS;
    jit->poll_all = config->debug & (ENGINE_DEBUG_POLL_EVERY_BLOCK | ENGINE_DEBUG_LOCKSTEP);
    split_buffer(jit, c->vm->store);
    if (!make_shadow(c, jit)) {
        jit_free(jit);
        return NULL;
    }
    c->jit = jit;
    jit_start_empty(c);
    return jit;
}

void jit_free(struct jit *jit)
{
    if (!jit)
        return;
    codebuf_unreserve(jit->page, JIT_PAGES * sizeof *jit->page);
    codebuf_unreserve(jit->block, jit->max_blocks * sizeof *jit->block);
    codebuf_unreserve(jit->mark, jit->max_marks * sizeof *jit->mark);
    codebuf_unreserve(jit->site, jit->max_sites * sizeof *jit->site);
    codebuf_unreserve(jit->link, jit->max_links * sizeof *jit->link);
    codebuf_unreserve(jit->shadow, SHADOW_ALL);
    codebuf_release(&jit->buf);
    codebuf_unreserve(jit, sizeof *jit);
}

unsigned jit_block_insns(struct tcpu *c, uint64_t rip)
{
    if (jit_continue(c) == c->jit->leave)
        return 0;
    uint32_t block = jit_known_block(c->jit, jit_find_page(c, rip), rip);
    return block ? c->jit->block[block].insns : 0;
}

void jit_run(struct tcpu *c)
{
    struct jit *jit = c->jit;
    if (!jit->attached)
        jit_attach(c);
    if (jit->open_pages)
        jit_close_pages(c);
    do {
        if (c->lockstep && c->lockstep->expecting)
            lockstep_unexpected(c);
        bool check = c->lockstep && lockstep_try(c);
        const void *host = jit_continue(c);
        if (host == jit->leave) {
            if (check)
                c->lockstep->expecting = false;
            if (!jit_eligible(c) || __atomic_load_n(&c->pending, __ATOMIC_RELAXED))
                return;
            if (!jit->unsettled)
                interp_step(c);
            else
                interp_once(c);
            jit->unsettled = false;
            return;
        }
        c->counter[COUNTER_ENTRIES]++;
        jit->polled = false;
        jit->enter(c, host);
        if (check)
            lockstep_compare(c);
    } while (jit->polled);
}
