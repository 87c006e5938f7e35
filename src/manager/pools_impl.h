// Between the tree of pools and the requests about it.
#pragma once

#include "base/bits.h"
#include "manager/pools.h"

extern const char *const resource_names[RESOURCES];

// The member that a name means: "cpu_shares", "memory_limit"; NULL: none.
uint64_t *allotment_member(struct allotment *a, const char *name);
void allotment_take(struct allotment *a, const json_t *object); // those members that it has
json_t *allotment_to_json(const struct allotment *a);           // those that are not 0
// By itself; vm: what a VM can use, NULL for a pool.
err_t allotment_check(const char *name, const struct allotment *a, const struct managed *vm,
                      struct error *e);

// Nothing is promised twice. ERR_BUSY with the numbers.
err_t pools_admit(const struct pools *pools, struct error *e);

struct pool *pools_find(struct pools *pools, const char *name); // "": the root; NULL: none
unsigned pool_depth(const struct pool *pool);                   // of the root: 0
bool pool_within(const struct pool *pool, const struct pool *ancestor);
void pools_insert(struct pools *pools, struct pool *pool);
void pools_take_out(struct pools *pools, struct pool *pool);
err_t pool_save(struct pools *pools, const struct pool *pool, struct error *e);
err_t tenant_save(struct pools *pools, const struct tenant *t, struct error *e);
