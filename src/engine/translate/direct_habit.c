// Whether a program is worth the way into a cage.
//
// A visit costs some microseconds, about as much as ten thousand instructions, and the pages of a
// program that is new to a cage cost more. So two things are kept for each address space: how long
// its code runs between two things that it wants (system calls, faults, interrupts), lately and on
// average, wherever it ran; and what direct execution has brought it, as credit in ticks. Time in a
// cage earns what translated code, twice as slow at least, would have taken more; ways and mappings
// are paid. A new address space is in debt, which a sixteenth of its time in translated code pays
// off: programs that live for some milliseconds never go.
#include "engine/translate/direct_impl.h"
#include "host/clock.h"

#define WORTH_NS 20000    // a run that is worth the way
#define VAIN 8            // times that: what a run needs that ends in vain
#define RUN_MAX 16        // times that: longer runs count as that long
#define SHARE 4           // of the newest run in the average: 1 / this
#define CROSSING_NS 10000 // into a cage and back
#define DEBT_NS 500000    // of a new address space
#define PATIENCE 16       // so many ticks of translated code pay off one of debt
#define READY_NS 500000   // more credit than this is earned in cages only
#define CREDIT_NS 5000000 // and debt: no more than that is remembered
#define GAIN_NS NS_PER_MS // of one visit: what the host did meanwhile is not known

static int64_t ticks(const struct tcpu *c, uint64_t ns)
{
    return (int64_t)(ns * c->vm->config.tsc_khz / NS_PER_MS);
}

void direct_habits_init(struct tcpu *c)
{
    c->direct->always = c->vm->config.debug & ENGINE_DEBUG_ALL_DIRECT;
    c->direct->worth = (uint64_t)ticks(c, WORTH_NS);
}

static struct direct_habit *habit(struct tcpu *c)
{
    uint64_t table = c->s.cr3 >> PAGE_SHIFT;
    struct direct_habit *h = &c->direct->habit[table * 0x9e3779b97f4a7c15ull >> 58];
    if (h->table != table)
        *h = (struct direct_habit){.table = table, .credit = -ticks(c, DEBT_NS)};
    return h;
}

// A run has ended. vain: with something that translated code would not have ended with.
static void learn_run(struct tcpu *c, struct direct_habit *h, uint64_t run, bool vain)
{
    const struct direct *d = c->direct;
    run = min_u64(run, d->worth * RUN_MAX);
    if (vain && run < d->worth * VAIN)
        run = 0; // the way back and forth, and what else the host did on it, took much of it
    h->run = h->run - h->run / SHARE + run / SHARE;
}

// A run in translated code.
static void save(struct tcpu *c, struct direct_habit *h, uint64_t run)
{
    int64_t saved = (int64_t)min_u64(run, (uint64_t)ticks(c, 4 * NS_PER_MS)) / PATIENCE;
    int64_t ready = ticks(c, READY_NS);
    if (h->credit < ready)
        h->credit = h->credit + saved < ready ? h->credit + saved : ready;
}

static void earn(struct tcpu *c, struct direct_habit *h, int64_t gain)
{
    int64_t most = ticks(c, CREDIT_NS), sum = h->credit + gain;
    h->credit = sum > most ? most : sum < -most ? -most : sum;
}

void direct_level_changed(struct tcpu *c, bool user)
{
    struct direct *d = c->direct;
    struct direct_habit *h = habit(c);
    uint64_t now = host_tsc();
    if (user) {
        d->since = now;
        d->wanted = d->always || (h->run >= d->worth && h->credit >= 0);
        if (d->wanted)
            tcpu_pend(c, PENDING_EVENT);
        return;
    }
    if (d->since) {
        c->counter[COUNTER_DIRECT_UNFIT] += d->wanted;
        learn_run(c, h, now - d->since, false);
        save(c, h, now - d->since);
    }
    d->wanted = false;
    d->step = 0;
}

void direct_learn_visit(struct tcpu *c, const struct direct_visit *v, enum direct_end end)
{
    struct direct *d = c->direct;
    struct direct_habit *h = habit(c);
    int64_t ran = (int64_t)min_u64(v->left - v->entered, (uint64_t)ticks(c, GAIN_NS));
    earn(c, h,
         ran - 2 * ticks(c, CROSSING_NS) - (int64_t)(v->entered - v->came) -
             (int64_t)(host_tsc() - v->left));
    if (end == DIRECT_GOES_ON)
        return;
    learn_run(c, h, v->left - d->since, end == DIRECT_VAIN);
    d->since = 0;
    // Shorter, since it is faster here.
    d->wanted = d->always || h->run >= d->worth * 2 / 5;
}

void direct_learn_refusal(struct tcpu *c)
{
    struct direct_habit *h = habit(c);
    c->counter[COUNTER_DIRECT_REFUSED]++;
    h->run = 0;
    h->credit = -ticks(c, CREDIT_NS);
    c->direct->wanted = false;
}
