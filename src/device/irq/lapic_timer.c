// The local APIC's timer: one-shot and periodic counting of the bus clock, and TSC deadlines.
//
// Source: Intel SDM vol. 3 section 11.5.4. The count is not stored: it follows from when it is due.
// The host timer is armed only while the entry is unmasked, and not more often than PERIOD_MIN for
// a periodic count, whatever period the guest asks for.
#include "device/irq/lapic_impl.h"

#define PERIOD_MIN (50 * NS_PER_US)

static unsigned divisor(const struct lapic *l)
{
    unsigned code = (l->divide & 3) | (l->divide & 8) >> 1;
    return code == 7 ? 1 : 2u << code;
}

// At most 2^32 * 128 * 10^6 / bus_khz: no overflow.
static ns_t ticks_to_ns(const struct lapic *l, uint64_t ticks)
{
    return ticks * divisor(l) * 1000000 / l->config.bus_khz;
}

static uint32_t mode(const struct lapic *l)
{
    return l->lvt[LVT_TIMER] & LVT_TIMER_MODE;
}

static ns_t now(const struct lapic *l)
{
    return l->dev.env->now((struct device *)&l->dev);
}

static uint64_t tsc_now(const struct lapic *l)
{
    return l->config.tsc_now(l->config.opaque, l->config.index);
}

static ns_t period(const struct lapic *l)
{
    ns_t ns = ticks_to_ns(l, l->initial_count);
    return ns ? ns : 1;
}

// Brings due up to the present: true when the count has expired since the last call.
static bool count_expired(struct lapic *l, ns_t at)
{
    if (l->due > at)
        return false;
    if (mode(l) == LVT_TIMER_PERIODIC && l->initial_count)
        l->due += ((at - l->due) / period(l) + 1) * period(l);
    else
        l->due = NS_NEVER;
    return true;
}

static bool deadline_expired(struct lapic *l)
{
    if (!l->deadline || tsc_now(l) < l->deadline)
        return false;
    l->deadline = 0;
    return true;
}

// Delivers what has expired before something that matters to it changes; the host timer may be
// late. What expires while the entry is masked is gone.
static void settle(struct lapic *l)
{
    if (mode(l) == LVT_TIMER_DEADLINE ? deadline_expired(l) : count_expired(l, now(l)))
        lapic_fire(l, LVT_TIMER);
}

// When virtual time reaches this TSC value, rounded up.
static ns_t deadline_to_ns(const struct lapic *l, ns_t at)
{
    uint64_t tsc = tsc_now(l), khz = l->config.tsc_khz;
    if (tsc >= l->deadline)
        return at;
    uint64_t left = l->deadline - tsc, ms = left / khz;
    if (ms >= (NS_NEVER - at) / NS_PER_MS - 1)
        return NS_NEVER;
    return at + ms * NS_PER_MS + (left % khz * NS_PER_MS + khz - 1) / khz;
}

void lapic_timer_arm(struct lapic *l)
{
    ns_t when = NS_NEVER;
    if (!(l->lvt[LVT_TIMER] & LVT_MASKED)) {
        if (mode(l) != LVT_TIMER_DEADLINE)
            when = l->due;
        else if (l->deadline)
            when = deadline_to_ns(l, now(l));
    }
    l->dev.env->set_timer(&l->dev, 0, when);
}

void lapic_timer_expired(struct lapic *l)
{
    ns_t at = now(l);
    settle(l);
    if (mode(l) == LVT_TIMER_PERIODIC && l->due != NS_NEVER && !(l->lvt[LVT_TIMER] & LVT_MASKED))
        l->dev.env->set_timer(&l->dev, 0, l->due > at + PERIOD_MIN ? l->due : at + PERIOD_MIN);
    else
        lapic_timer_arm(l);
}

void lapic_timer_reset(struct lapic *l)
{
    l->initial_count = 0;
    l->divide = 0;
    l->deadline = 0;
    l->due = NS_NEVER;
    lapic_timer_arm(l);
}

uint32_t lapic_timer_count(struct lapic *l)
{
    ns_t at = now(l);
    if (l->due == NS_NEVER)
        return 0;
    ns_t due = l->due;
    if (due <= at) {
        if (mode(l) != LVT_TIMER_PERIODIC)
            return 0;
        due += ((at - due) / period(l) + 1) * period(l);
    }
    // due - at < 2^60 / bus_khz ticks of at most 128 units; split to stay inside 64 bits.
    uint64_t left = due - at, khz = l->config.bus_khz;
    uint64_t clocks = left / 1000000 * khz + left % 1000000 * khz / 1000000;
    uint64_t count = (clocks + divisor(l) - 1) / divisor(l);
    return count > l->initial_count ? l->initial_count : (uint32_t)count;
}

// A one-shot count that has run out fires once more: better than an interrupt that was on its way
// and got lost.
void lapic_timer_resume(struct lapic *l, uint32_t count)
{
    bool counts = l->initial_count && mode(l) != LVT_TIMER_DEADLINE;
    if (!count && mode(l) == LVT_TIMER_PERIODIC)
        count = l->initial_count;
    l->due = counts ? now(l) + ticks_to_ns(l, count) : NS_NEVER;
    lapic_timer_arm(l);
}

void lapic_timer_set_count(struct lapic *l, uint32_t count)
{
    if (mode(l) == LVT_TIMER_DEADLINE)
        return;
    settle(l);
    l->initial_count = count;
    l->due = count ? now(l) + ticks_to_ns(l, count) : NS_NEVER;
    lapic_timer_arm(l);
}

void lapic_timer_set_divide(struct lapic *l, uint32_t divide)
{
    settle(l);
    uint32_t count = lapic_timer_count(l);
    l->divide = divide & 0xb;
    l->due = count ? now(l) + ticks_to_ns(l, count) : NS_NEVER;
    lapic_timer_arm(l);
}

void lapic_timer_set_mode(struct lapic *l, uint32_t lvt)
{
    settle(l);
    uint32_t old = mode(l);
    l->lvt[LVT_TIMER] = lvt;
    if (old != mode(l) && (old == LVT_TIMER_DEADLINE || mode(l) == LVT_TIMER_DEADLINE)) {
        l->initial_count = 0;
        l->due = NS_NEVER;
        l->deadline = 0;
    }
    lapic_timer_arm(l);
}

uint64_t lapic_timer_deadline(struct lapic *l)
{
    if (mode(l) != LVT_TIMER_DEADLINE)
        return 0;
    settle(l);
    return l->deadline;
}

void lapic_timer_set_deadline(struct lapic *l, uint64_t tsc)
{
    if (mode(l) != LVT_TIMER_DEADLINE)
        return;
    settle(l);
    l->deadline = tsc;
    settle(l);
    lapic_timer_arm(l);
}

void lapic_tsc_changed(struct device *dev)
{
    lapic_timer_arm(lapic_of(dev));
}
