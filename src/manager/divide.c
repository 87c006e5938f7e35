// Weighted max-min fairness on a tree. Not modelled: amounts that come in pieces.
#include "manager/divide.h"

#include "base/bits.h"

#define STEPS 64

void slice_add(struct slice *parent, struct slice *child)
{
    child->parent = parent;
    child->next = parent->children;
    parent->children = child;
}

static uint64_t sum(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

// From the leaves up: what each wants, and what of it was promised.
static void settle(struct slice *s)
{
    uint64_t demand = 0, floor = 0;
    for (struct slice *c = s->children; c; c = c->next) {
        settle(c);
        demand = sum(demand, c->demand);
        floor = sum(floor, c->floor);
    }
    if (s->children)
        s->demand = demand;
    s->demand = min_u64(s->demand, s->limit);
    s->floor = min_u64(max_u64(s->reservation, floor), s->demand);
}

static uint64_t at_level(const struct slice *c, double level)
{
    double got = level * (double)c->shares;
    if (got <= (double)c->floor)
        return c->floor;
    return got >= (double)c->demand ? c->demand : (uint64_t)got;
}

static uint64_t total_at(const struct slice *s, double level)
{
    uint64_t total = 0;
    for (const struct slice *c = s->children; c; c = c->next)
        total = sum(total, at_level(c, level));
    return total;
}

// The highest level at which all children's parts fit.
static double find_level(const struct slice *s)
{
    double low = 0, high = (double)s->got;
    for (int i = 0; i < STEPS; i++) {
        double middle = (low + high) / 2;
        if (total_at(s, middle) <= s->got)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void hand_down(struct slice *s)
{
    uint64_t promised = 0, wanted = 0;
    for (const struct slice *c = s->children; c; c = c->next) {
        promised = sum(promised, c->floor);
        wanted = sum(wanted, c->demand);
    }
    bool oversold = promised > s->got;
    double level = oversold ? 0 : wanted <= s->got ? (double)s->got : find_level(s);
    for (struct slice *c = s->children; c; c = c->next) {
        c->got = oversold ? (uint64_t)((double)c->floor * (double)s->got / (double)promised)
                          : at_level(c, level);
        hand_down(c);
    }
}

void divide(struct slice *root, uint64_t amount)
{
    settle(root);
    root->got = min_u64(amount, root->demand);
    hand_down(root);
}
