// The high precision event timer: a 100 MHz 64-bit counter and three comparators, each one-shot or
// periodic, routed to IOAPIC pins 20..23, to a message, or in place of PIT and RTC.
//
// Source: IA-PC HPET specification 1.0a. The counter follows from virtual time; a comparator is
// kept as the moment at which it next matches. Host timers run only for comparators with their
// interrupt enabled, and not more often than PERIOD_MIN.
#include "device/timer/hpet.h"

#include "base/bits.h"

#define TIMERS 3
#define TICK_NS 10u
#define PERIOD_FS 10000000ull
#define CAPABILITIES (PERIOD_FS << 32 | 0x8086ull << 16 | BIT(15) | BIT(13) | (TIMERS - 1) << 8 | 1)
#define ROUTES 0x00f00000ull // pins 20..23
#define LINES 27
#define PERIOD_MIN (50 * NS_PER_US)
#define WINDOW_SIZE 0x400

#define CONFIG_ENABLE BIT(0)
#define CONFIG_LEGACY BIT(1)

#define TN_LEVEL BIT(1)
#define TN_INT_ENABLE BIT(2)
#define TN_PERIODIC BIT(3)
#define TN_VALUE_SET BIT(6)
#define TN_32BIT BIT(8)
#define TN_FSB_ENABLE BIT(14)
#define TN_CAPABLE (ROUTES << 32 | BIT(15) | BIT(5) | BIT(4)) // FSB, 64 bits, periodic
#define TN_WRITABLE \
    (TN_LEVEL | TN_INT_ENABLE | TN_PERIODIC | TN_VALUE_SET | TN_32BIT | BITS(13, 9) | TN_FSB_ENABLE)

enum {
    AT_CAPABILITIES = 0x00,
    AT_CONFIG = 0x10,
    AT_STATUS = 0x20,
    AT_COUNTER = 0xf0,
    AT_TIMERS = 0x100
};
enum { TN_CONFIG = 0x00, TN_COMPARATOR = 0x08, TN_FSB = 0x10, TN_SIZE = 0x20 };

struct hpet_timer {
    uint64_t config;
    uint64_t comparator;
    uint64_t period;
    uint64_t fsb; // value in the low, address in the high half
    ns_t due;     // when the counter next matches; NS_NEVER: not while nothing changes
};

struct hpet {
    struct device dev;
    struct hpet_config where;
    uint64_t config;
    uint64_t counter; // at virtual time `since`, or while it stands
    ns_t since;
    struct hpet_timer timer[TIMERS];
    uint32_t status; // level-triggered interrupts not yet cleared
    uint32_t lines;  // outputs that are up
};

static const struct state_field timer_fields[] = {
    FIELD(struct hpet_timer, config), FIELD(struct hpet_timer, comparator),
    FIELD(struct hpet_timer, period), FIELD(struct hpet_timer, fsb),
    FIELD(struct hpet_timer, due),    FIELDS_END,
};
static const struct state_desc timer_state =
    STATE_DESC("hpet-timer", struct hpet_timer, 1, timer_fields);

static const struct state_field hpet_fields[] = {
    SKIP(struct hpet, dev, "wiring, rebuilt from configuration"),
    SKIP(struct hpet, where, "wiring, rebuilt from configuration"),
    FIELD(struct hpet, config),
    FIELD(struct hpet, counter),
    FIELD(struct hpet, since),
    SUB_ARRAY(struct hpet, timer, timer_state),
    FIELD(struct hpet, status),
    SKIP(struct hpet, lines, "follows from the rest"),
    FIELDS_END,
};
static const struct state_desc hpet_state = STATE_DESC("hpet", struct hpet, 1, hpet_fields);

static struct hpet *hpet_of(struct device *dev)
{
    return (struct hpet *)dev;
}

static bool runs(const struct hpet *h)
{
    return h->config & CONFIG_ENABLE;
}

static bool is_periodic(const struct hpet_timer *t)
{
    return t->config & TN_PERIODIC;
}

// The counter's bits that this comparator compares.
static uint64_t mask(const struct hpet_timer *t)
{
    return t->config & TN_32BIT ? 0xffffffff : ~0ull;
}

// Time passes in whole ticks since virtual time 0.
static uint64_t counter_at(const struct hpet *h, ns_t at)
{
    return runs(h) ? h->counter + (at / TICK_NS - h->since / TICK_NS) : h->counter;
}

// --- interrupts ---

static unsigned line_of(const struct hpet *h, unsigned n)
{
    if ((h->config & CONFIG_LEGACY) && n < 2)
        return n ? HPET_LINE_IRQ8 : HPET_LINE_IRQ0;
    return (unsigned)bits_get(h->timer[n].config, 13, 9);
}

static bool line_offered(unsigned line)
{
    return line >= 24 || (ROUTES >> line & 1);
}

// Brings all outputs to what the registers say.
static void drive(struct hpet *h)
{
    uint32_t lines = h->config & CONFIG_LEGACY ? 1u << HPET_LINE_LEGACY : 0;
    for (unsigned n = 0; n < TIMERS; n++) {
        uint64_t config = h->timer[n].config;
        bool up = runs(h) && (config & TN_INT_ENABLE) && !(config & TN_FSB_ENABLE) &&
                  (h->status >> n & 1);
        if (up && line_offered(line_of(h, n)))
            lines |= 1u << line_of(h, n);
    }
    uint32_t changed = lines ^ h->lines;
    h->lines = lines;
    for (; changed; changed &= changed - 1) {
        unsigned line = (unsigned)__builtin_ctz(changed);
        h->dev.env->set_irq(&h->dev, line, lines >> line & 1);
    }
}

static void fire(struct hpet *h, unsigned n)
{
    struct hpet_timer *t = &h->timer[n];
    if (t->config & TN_LEVEL)
        h->status |= 1u << n;
    if (!(t->config & TN_INT_ENABLE))
        return;
    unsigned line = line_of(h, n);
    if (t->config & TN_FSB_ENABLE) {
        h->dev.env->send_msi(&h->dev, t->fsb >> 32, (uint32_t)t->fsb);
    } else if (!(t->config & TN_LEVEL) && line_offered(line) && !(h->lines >> line & 1)) {
        h->dev.env->set_irq(&h->dev, line, true);
        h->dev.env->set_irq(&h->dev, line, false);
    }
}

// --- comparators ---

// After a match at t->due: finds the next one after `now`.
static void advance(struct hpet_timer *t, ns_t now)
{
    uint64_t step = is_periodic(t) ? t->period & mask(t) : 0;
    if (!step && (t->config & TN_32BIT) && !is_periodic(t))
        step = BIT(32); // a one-shot comparator matches again when the counter has wrapped
    if (!step || step > (NS_NEVER - now) / TICK_NS - 1) {
        t->due = NS_NEVER;
        return;
    }
    uint64_t matches = (now - t->due) / (step * TICK_NS) + 1;
    t->due += matches * step * TICK_NS;
    if (is_periodic(t))
        t->comparator = (t->comparator + matches * step) & mask(t);
}

// From counter and comparator, when either has been set.
static void plan(struct hpet *h, unsigned n, ns_t now)
{
    struct hpet_timer *t = &h->timer[n];
    t->due = NS_NEVER;
    if (!runs(h))
        return;
    uint64_t left = (t->comparator - counter_at(h, now)) & mask(t);
    if (!left) // equality already was, or is at this very tick: the next is a wrap away
        left = mask(t);
    if (left < (NS_NEVER - now) / TICK_NS - 1)
        t->due = (now / TICK_NS + left) * TICK_NS;
}

static void settle(struct hpet *h, ns_t now)
{
    for (unsigned n = 0; n < TIMERS; n++) {
        if (h->timer[n].due > now)
            continue;
        fire(h, n);
        advance(&h->timer[n], now);
    }
}

static void arm(struct hpet *h, ns_t now)
{
    for (unsigned n = 0; n < TIMERS; n++) {
        const struct hpet_timer *t = &h->timer[n];
        // A level that is up already says all that a further match could say.
        bool noticed = (t->config & TN_INT_ENABLE) && !(h->status >> n & 1);
        ns_t when = noticed ? t->due : NS_NEVER;
        if (is_periodic(t) && when < now + PERIOD_MIN)
            when = now + PERIOD_MIN;
        h->dev.env->set_timer(&h->dev, n, when);
    }
}

// --- registers ---

static void set_config(struct hpet *h, uint64_t value, ns_t now)
{
    bool ran = runs(h);
    if (ran)
        h->counter = counter_at(h, now);
    h->since = now;
    h->config = value & (CONFIG_ENABLE | CONFIG_LEGACY);
    for (unsigned n = 0; n < TIMERS && ran != runs(h); n++)
        plan(h, n, now);
}

static void set_counter(struct hpet *h, uint64_t value, ns_t now)
{
    h->counter = value;
    h->since = now;
    for (unsigned n = 0; n < TIMERS; n++)
        plan(h, n, now);
}

static void set_timer_config(struct hpet *h, unsigned n, uint64_t value, ns_t now)
{
    struct hpet_timer *t = &h->timer[n];
    uint64_t old = t->config;
    t->config = (value & TN_WRITABLE) | TN_CAPABLE;
    if ((old ^ t->config) & TN_32BIT) {
        t->comparator &= mask(t);
        t->period &= mask(t);
    }
    if (!(t->config & TN_LEVEL))
        h->status &= ~(1u << n);
    if ((old ^ t->config) & (TN_32BIT | TN_PERIODIC))
        plan(h, n, now);
}

// In periodic mode a write sets the period, and with VALUE_SET the comparator too
// (section 2.3.9.2.2). part: the bits that are written.
static void set_comparator(struct hpet *h, unsigned n, uint64_t value, uint64_t part, ns_t now)
{
    struct hpet_timer *t = &h->timer[n];
    if (is_periodic(t))
        t->period = ((t->period & ~part) | value) & mask(t);
    if (!is_periodic(t) || (t->config & TN_VALUE_SET)) {
        t->comparator = ((t->comparator & ~part) | value) & mask(t);
        plan(h, n, now);
    } else if (t->due == NS_NEVER) {
        plan(h, n, now); // had no period to go on with
    }
    t->config &= ~TN_VALUE_SET;
}

static uint64_t read_register(struct hpet *h, uint64_t at, ns_t now)
{
    if (at >= AT_TIMERS && at < AT_TIMERS + TIMERS * TN_SIZE) {
        const struct hpet_timer *t = &h->timer[(at - AT_TIMERS) / TN_SIZE];
        switch (at % TN_SIZE) {
        case TN_CONFIG: return t->config & ~TN_VALUE_SET;
        case TN_COMPARATOR: return t->comparator;
        case TN_FSB: return t->fsb;
        default: return 0;
        }
    }
    switch (at) {
    case AT_CAPABILITIES: return CAPABILITIES;
    case AT_CONFIG: return h->config;
    case AT_STATUS: return h->status;
    case AT_COUNTER: return counter_at(h, now);
    default: return 0;
    }
}

// value holds the written bits in place; part says which they are.
static void write_timer(struct hpet *h, unsigned n, uint64_t at, uint64_t value, uint64_t part,
                        ns_t now)
{
    struct hpet_timer *t = &h->timer[n];
    switch (at) {
    case TN_CONFIG: set_timer_config(h, n, (t->config & ~part) | value, now); break;
    case TN_COMPARATOR: set_comparator(h, n, value, part, now); break;
    case TN_FSB: t->fsb = (t->fsb & ~part) | value; break;
    default: break;
    }
}

static void write_register(struct hpet *h, uint64_t at, uint64_t value, uint64_t part, ns_t now)
{
    if (at >= AT_TIMERS && at < AT_TIMERS + TIMERS * TN_SIZE) {
        write_timer(h, (unsigned)((at - AT_TIMERS) / TN_SIZE), at % TN_SIZE, value, part, now);
        return;
    }
    switch (at) {
    case AT_CONFIG: set_config(h, (h->config & ~part) | value, now); break;
    case AT_STATUS: h->status &= (uint32_t)~value; break; // write one to clear
    case AT_COUNTER: set_counter(h, (counter_at(h, now) & ~part) | value, now); break;
    default: break;
    }
}

static uint64_t hpet_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct hpet *h = hpet_of(dev);
    ns_t now = dev->env->now(dev);
    if (offset % size)
        return 0;
    if ((offset & ~7ull) != AT_COUNTER) { // the counter is read too often to look at anything else
        settle(h, now);
        drive(h);
        arm(h, now);
    }
    uint64_t value = read_register(h, offset & ~7ull, now);
    return (value >> (8 * (offset & 7))) & size_mask(size);
}

static void hpet_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct hpet *h = hpet_of(dev);
    ns_t now = dev->env->now(dev);
    if (offset % size || size < 4) // the specification asks for 32 or 64 bits
        return;
    unsigned shift = 8 * (offset & 7);
    settle(h, now);
    write_register(h, offset & ~7ull, (value & size_mask(size)) << shift, size_mask(size) << shift,
                   now);
    drive(h);
    arm(h, now);
}

static const struct io_ops hpet_ops = {hpet_read, hpet_write, 1, 8};

// --- the device ---

static err_t init(struct device *dev, const void *config, struct error *e)
{
    struct hpet *h = hpet_of(dev);
    h->where = *(const struct hpet_config *)config;
    err_t err = dev->env->map_mmio(dev, h->where.base, WINDOW_SIZE, &hpet_ops);
    return err ? error_set(e, err, "the HPET's address is taken") : OK;
}

static void reset(struct device *dev)
{
    struct hpet *h = hpet_of(dev);
    h->config = 0;
    h->counter = 0;
    h->since = 0;
    h->status = 0;
    for (unsigned n = 0; n < TIMERS; n++)
        h->timer[n] =
            (struct hpet_timer){.config = TN_CAPABLE, .comparator = ~0ull, .due = NS_NEVER};
    drive(h);
    arm(h, 0);
}

static err_t loaded(struct device *dev, struct error *e)
{
    struct hpet *h = hpet_of(dev);
    ns_t now = dev->env->now(dev);
    bool possible = !(h->config & ~(CONFIG_ENABLE | CONFIG_LEGACY)) && h->since <= now &&
                    !(h->status >> TIMERS);
    for (unsigned n = 0; n < TIMERS; n++) {
        const struct hpet_timer *t = &h->timer[n];
        possible &= (t->config & ~TN_WRITABLE) == TN_CAPABLE && (t->comparator & ~mask(t)) == 0 &&
                    (t->period & ~mask(t)) == 0 && (runs(h) || t->due == NS_NEVER);
    }
    if (!possible)
        return error_set(e, ERR_CORRUPT, "hpet: impossible register values");
    drive(h);
    arm(h, now);
    return OK;
}

static void timer(struct device *dev, unsigned which)
{
    struct hpet *h = hpet_of(dev);
    ns_t now = dev->env->now(dev);
    settle(h, now);
    drive(h);
    arm(h, now);
}

const struct device_type hpet_type = {
    .name = "hpet",
    .size = sizeof(struct hpet),
    .timers = TIMERS,
    .lines = LINES,
    .state = &hpet_state,
    .init = init,
    .reset = reset,
    .loaded = loaded,
    .timer = timer,
};
