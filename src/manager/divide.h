// Dividing an amount (CPU time, memory, bandwidth) among the nodes of a tree, by shares, between
// reservation and limit: weighted max-min fairness at each level. What one does not want goes to
// the others; nobody gets more than it wants or its limit; nobody gets less than its reservation
// while it wants as much, unless more was promised than there is.
#pragma once

#include "base/types.h"

#define SLICE_NO_LIMIT UINT64_MAX

struct slice {
    struct slice *parent, *next, *children; // next: of the same parent
    uint64_t shares;                        // at least 1
    uint64_t reservation, limit;
    uint64_t demand; // of a leaf: what it would use; of others: found here
    uint64_t got;    // the answer
    uint64_t floor;  // the division's own: promised to it, as far as it wants it
};

void slice_add(struct slice *parent, struct slice *child);
// root gets at most amount.
void divide(struct slice *root, uint64_t amount);
