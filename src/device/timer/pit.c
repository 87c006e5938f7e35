// The 8254 programmable interval timer, and the bits of port 0x61 that gate and read its channel 2.
//
// Source: Intel 8254 datasheet (231164); ICH9 datasheet section 13.7.1 for port 0x61. Counts are
// not stepped: what a counter holds follows from the tick at which it was loaded. Host timers run
// for channel 0 only (the others are seen by reading), and periodic ones not more often than
// PERIOD_MIN, whatever the guest programs. Not modelled: the sound, parity and channel check
// errors.
#include "device/timer/pit.h"

#include "base/bits.h"
#include "device/platform.h"
#include "device/timer/ticks.h"

#define HZ 1193182u
#define CHANNELS 3
#define SPEAKER 2 // the channel with a gate
#define PERIOD_MIN (50 * NS_PER_US)
#define REFRESH_NS 15085 // half period of the refresh toggle

#define PORT61_GATE BIT(0)
#define PORT61_WRITABLE 0x0f
#define PORT61_REFRESH BIT(4)
#define PORT61_OUT BIT(5)

enum { ACCESS_LATCH, ACCESS_LOW, ACCESS_HIGH, ACCESS_WORD };

struct pit_channel {
    uint64_t start;   // tick at which the present counting began
    uint64_t held;    // ticks counted, while the gate holds it
    uint64_t next_at; // tick at which `reload` becomes the count (modes 2 and 3); 0: nothing waits
    uint64_t seen;    // tick of the last rising edge that was signalled (channel 0)
    uint32_t count;   // in the counting element: 1..65536
    uint32_t reload;  // last written; 0: none yet
    uint16_t latch;
    uint8_t latched; // bytes of latch that are still to be read
    uint8_t status;  // latched status
    uint8_t status_latched;
    uint8_t control;    // bits 5..0 of the control word
    uint8_t low;        // first byte of a two-byte write
    uint8_t write_high; // the second one is next
    uint8_t read_high;
    uint8_t gate;
    uint8_t counting; // has been loaded (modes 0, 2, 3, 4) or triggered (1, 5)
    uint8_t pad[5];
};

struct pit {
    struct device dev;
    struct pit_channel channel[CHANNELS];
    uint8_t port61;
    uint8_t pad[7];
};

static const struct state_field channel_fields[] = {
    FIELD(struct pit_channel, start),
    FIELD(struct pit_channel, held),
    FIELD(struct pit_channel, next_at),
    FIELD(struct pit_channel, seen),
    FIELD(struct pit_channel, count),
    FIELD(struct pit_channel, reload),
    FIELD(struct pit_channel, latch),
    FIELD(struct pit_channel, latched),
    FIELD(struct pit_channel, status),
    FIELD(struct pit_channel, status_latched),
    FIELD(struct pit_channel, control),
    FIELD(struct pit_channel, low),
    FIELD(struct pit_channel, write_high),
    FIELD(struct pit_channel, read_high),
    FIELD(struct pit_channel, gate),
    FIELD(struct pit_channel, counting),
    SKIP(struct pit_channel, pad, "alignment"),
    FIELDS_END,
};
static const struct state_desc channel_state =
    STATE_DESC("pit-channel", struct pit_channel, 1, channel_fields);

static const struct state_field pit_fields[] = {
    SKIP(struct pit, dev, "wiring, rebuilt from configuration"),
    SUB_ARRAY(struct pit, channel, channel_state),
    FIELD(struct pit, port61),
    SKIP(struct pit, pad, "alignment"),
    FIELDS_END,
};
static const struct state_desc pit_state = STATE_DESC("pit", struct pit, 1, pit_fields);

static struct pit *pit_of(struct device *dev)
{
    return (struct pit *)dev;
}

static uint64_t tick(struct pit *p)
{
    return ticks_at(p->dev.env->now(&p->dev), HZ);
}

// --- one counter ---

static unsigned mode(const struct pit_channel *c)
{
    unsigned m = (unsigned)bits_get(c->control, 3, 1);
    return m > 5 ? m - 4 : m; // 6 and 7 are 2 and 3
}

static bool is_periodic(const struct pit_channel *c)
{
    return mode(c) == 2 || mode(c) == 3;
}

static bool is_triggered(const struct pit_channel *c) // by the gate's rising edge
{
    return mode(c) == 1 || mode(c) == 5;
}

static unsigned access(const struct pit_channel *c)
{
    return (unsigned)bits_get(c->control, 5, 4);
}

static bool is_bcd(const struct pit_channel *c)
{
    return c->control & 1;
}

// A gate that is low stops all modes but those that it triggers.
static bool is_held(const struct pit_channel *c)
{
    return !c->gate && !is_triggered(c);
}

static uint64_t elapsed(const struct pit_channel *c, uint64_t at)
{
    if (is_held(c))
        return c->held;
    return at > c->start ? at - c->start : 0;
}

// Modes 2 and 3 take a new count when the present period (in mode 3: half of it) ends.
static void settle(struct pit_channel *c, uint64_t at)
{
    if (!c->next_at || at < c->next_at)
        return;
    uint64_t into = (c->next_at - c->start) % c->count;
    c->count = c->reload;
    uint64_t first_half = into ? (c->count + 1) / 2 : 0;
    c->start = c->next_at > first_half ? c->next_at - first_half : 0;
    c->next_at = 0;
}

static bool out(struct pit_channel *c, uint64_t at)
{
    settle(c, at);
    uint64_t n = elapsed(c, at);
    switch (mode(c)) {
    case 0: return c->counting && n >= c->count;
    case 1: return !c->counting || n >= c->count;
    case 2: return !c->counting || !c->gate || n % c->count != c->count - 1;
    case 3: return !c->counting || !c->gate || n % c->count < (c->count + 1) / 2;
    default: return !c->counting || n != c->count;
    }
}

// The counting element as the guest reads it.
static uint16_t current(struct pit_channel *c, uint64_t at)
{
    settle(c, at);
    if (!c->counting)
        return 0;
    uint32_t modulus = is_bcd(c) ? 10000 : 0x10000;
    uint64_t n = elapsed(c, at);
    uint32_t value;
    if (mode(c) == 2) {
        value = c->count - (uint32_t)(n % c->count);
    } else if (mode(c) == 3) {
        uint32_t into = (uint32_t)(n % c->count), half = (c->count + 1) / 2;
        value = (c->count & ~1u) - 2 * (into < half ? into : into - half);
    } else {
        value = c->count + modulus - (uint32_t)(n % modulus);
    }
    value %= modulus;
    if (!is_bcd(c))
        return (uint16_t)value;
    return (uint16_t)(value % 10 | value / 10 % 10 << 4 | value / 100 % 10 << 8 |
                      value / 1000 << 12);
}

static uint32_t decode_count(const struct pit_channel *c, uint16_t written)
{
    if (!is_bcd(c))
        return written ? written : 0x10000;
    uint32_t value = 0;
    for (int shift = 12; shift >= 0; shift -= 4)
        value = value * 10 + (written >> shift & 0xf);
    return value ? value : 10000; // digits above 9 count as what they are worth
}

static void restart(struct pit_channel *c, uint64_t at)
{
    c->count = c->reload;
    c->start = at + 1; // the next clock loads it
    c->held = 0;
    c->next_at = 0;
    c->counting = 1;
    c->seen = at;
}

static void write_count(struct pit_channel *c, uint16_t written, uint64_t at)
{
    settle(c, at);
    c->reload = decode_count(c, written);
    if (is_triggered(c))
        return; // the next trigger loads it
    if (!is_periodic(c) || !c->counting || is_held(c)) {
        restart(c, at);
        return;
    }
    uint64_t n = elapsed(c, at), into = n % c->count, half = (c->count + 1) / 2;
    bool first_half = mode(c) == 3 && into < half;
    c->next_at = (at > c->start ? at : c->start) + (first_half ? half : c->count) - into;
}

static void write_control(struct pit_channel *c, uint8_t value, uint64_t at)
{
    *c = (struct pit_channel){.control = value & 0x3f, .gate = c->gate, .count = 1, .seen = at};
}

static void set_gate(struct pit_channel *c, bool level, uint64_t at)
{
    if (level == c->gate)
        return;
    settle(c, at);
    if (!level) {
        if (!is_triggered(c))
            c->held = elapsed(c, at);
        c->gate = 0;
        return;
    }
    c->gate = 1;
    if (!c->reload)
        return;
    if (is_triggered(c) || is_periodic(c))
        restart(c, at);
    else
        c->start = at - (at < c->held ? at : c->held); // modes 0 and 4 go on
}

static void latch_count(struct pit_channel *c, uint64_t at)
{
    if (c->latched) // an unread latch stays
        return;
    c->latch = current(c, at);
    c->latched = access(c) == ACCESS_WORD ? 2 : 1;
}

static void latch_status(struct pit_channel *c, uint64_t at)
{
    if (c->status_latched)
        return;
    bool level = out(c, at);
    bool null_count = !c->counting || c->next_at || c->count != c->reload || at < c->start;
    c->status = (uint8_t)(c->control | null_count << 6 | level << 7);
    c->status_latched = 1;
}

static uint8_t pick_byte(struct pit_channel *c, uint16_t value)
{
    if (access(c) == ACCESS_LOW)
        return (uint8_t)value;
    if (access(c) == ACCESS_HIGH)
        return (uint8_t)(value >> 8);
    c->read_high ^= 1;
    return (uint8_t)(c->read_high ? value : value >> 8);
}

static uint8_t read_byte(struct pit_channel *c, uint64_t at)
{
    if (c->status_latched) {
        c->status_latched = 0;
        return c->status;
    }
    if (!c->latched)
        return pick_byte(c, current(c, at));
    c->latched--;
    return pick_byte(c, c->latch);
}

static void write_byte(struct pit_channel *c, uint8_t value, uint64_t at)
{
    switch (access(c)) {
    case ACCESS_LOW: write_count(c, value, at); break;
    case ACCESS_HIGH: write_count(c, (uint16_t)(value << 8), at); break;
    case ACCESS_WORD:
        if (c->write_high) {
            write_count(c, (uint16_t)(c->low | value << 8), at);
        } else {
            c->low = value;
            if (mode(c) == 0) // the first byte stops the count
                c->counting = 0;
        }
        c->write_high ^= 1;
        break;
    default: break; // never programmed
    }
}

// --- channel 0's interrupt ---

static uint64_t next_period(const struct pit_channel *c, uint64_t after)
{
    uint64_t n = after > c->start ? after - c->start : 0;
    return c->start + (n / c->count + 1) * c->count;
}

// The first rising edge of OUT after tick `after`; UINT64_MAX when there will be none.
static uint64_t next_edge(const struct pit_channel *channel, uint64_t after)
{
    struct pit_channel c = *channel;
    if (!c.counting || is_held(&c))
        return UINT64_MAX;
    if (!is_periodic(&c)) {
        uint64_t edge = c.start + c.count + (mode(&c) >= 4);
        return edge > after ? edge : UINT64_MAX;
    }
    uint64_t edge = next_period(&c, after);
    if (!c.next_at || edge <= c.next_at)
        return edge;
    settle(&c, c.next_at);
    return next_period(&c, after);
}

// Signals edges up to now (several count as one) and waits for the next.
static void update_irq(struct pit *p)
{
    struct pit_channel *c = &p->channel[0];
    ns_t now = p->dev.env->now(&p->dev);
    uint64_t at = ticks_at(now, HZ);
    uint64_t edge = next_edge(c, c->seen);
    settle(c, at);
    if (edge <= at) {
        c->seen = at;
        p->dev.env->set_irq(&p->dev, 0, false);
        p->dev.env->set_irq(&p->dev, 0, true);
    } else if (mode(c) == 0) {
        p->dev.env->set_irq(&p->dev, 0, out(c, at));
    }
    ns_t when = ticks_to_ns(next_edge(c, c->seen), HZ);
    if (is_periodic(c) && when < now + PERIOD_MIN)
        when = now + PERIOD_MIN;
    p->dev.env->set_timer(&p->dev, 0, when);
}

// --- ports ---

static void read_back(struct pit *p, uint8_t command, uint64_t at)
{
    for (unsigned n = 0; n < CHANNELS; n++) {
        if (!(command & (2u << n)))
            continue;
        if (!(command & 0x20))
            latch_count(&p->channel[n], at);
        if (!(command & 0x10))
            latch_status(&p->channel[n], at);
    }
}

static void write_command(struct pit *p, uint8_t value, uint64_t at)
{
    unsigned n = value >> 6;
    if (n == 3)
        read_back(p, value, at);
    else if (bits_get(value, 5, 4) == ACCESS_LATCH)
        latch_count(&p->channel[n], at);
    else
        write_control(&p->channel[n], value, at);
}

static void pit_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pit *p = pit_of(dev);
    uint64_t at = tick(p);
    update_irq(p); // what has happened until now, under the old programming
    if (offset == 3)
        write_command(p, (uint8_t)value, at);
    else
        write_byte(&p->channel[offset % CHANNELS], (uint8_t)value, at);
    update_irq(p);
}

static uint64_t pit_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct pit *p = pit_of(dev);
    if (offset == 3)
        return 0xff; // write-only
    return read_byte(&p->channel[offset % CHANNELS], tick(p));
}

static uint64_t port61_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct pit *p = pit_of(dev);
    uint64_t value = p->port61;
    if (dev->env->now(dev) / REFRESH_NS & 1)
        value |= PORT61_REFRESH;
    if (out(&p->channel[SPEAKER], tick(p)))
        value |= PORT61_OUT;
    return value;
}

static void port61_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pit *p = pit_of(dev);
    p->port61 = value & PORT61_WRITABLE;
    set_gate(&p->channel[SPEAKER], value & PORT61_GATE, tick(p));
}

static const struct io_ops pit_ops = {pit_read, pit_write, 1, 1};
static const struct io_ops port61_ops = {port61_read, port61_write, 1, 1};

// --- the device ---

static err_t init(struct device *dev, const void *config, struct error *e)
{
    err_t err = dev->env->map_pio(dev, PC_PORT_PIT, 4, &pit_ops);
    if (!err)
        err = dev->env->map_pio(dev, PC_PORT_SPEAKER, 1, &port61_ops);
    return err ? error_set(e, err, "interval timer ports are taken") : OK;
}

static void reset(struct device *dev)
{
    struct pit *p = pit_of(dev);
    p->port61 = 0;
    for (unsigned n = 0; n < CHANNELS; n++)
        p->channel[n] = (struct pit_channel){.gate = n != SPEAKER, .count = 1};
    dev->env->set_irq(dev, 0, false);
    dev->env->set_timer(dev, 0, NS_NEVER);
}

static bool channel_possible(const struct pit_channel *c, unsigned n, uint64_t at)
{
    uint32_t most = is_bcd(c) ? 16665 : 0x10000; // BCD with digits up to 15
    return c->count >= 1 && c->count <= most && c->reload <= most && (!c->counting || c->reload) &&
           c->latched <= 2 && c->control <= 0x3f && c->write_high <= 1 && c->read_high <= 1 &&
           c->gate <= 1 && c->counting <= 1 && c->status_latched <= 1 && c->start <= at + 1 &&
           c->seen <= at && c->held <= at &&
           (!c->next_at || (c->next_at > c->start && c->counting && is_periodic(c))) &&
           c->next_at <= at + 2 * most && (n == SPEAKER || c->gate);
}

static err_t loaded(struct device *dev, struct error *e)
{
    struct pit *p = pit_of(dev);
    uint64_t at = tick(p);
    bool possible = !(p->port61 & ~PORT61_WRITABLE);
    for (unsigned n = 0; n < CHANNELS; n++)
        possible &= channel_possible(&p->channel[n], n, at);
    if (!possible || p->channel[SPEAKER].gate != (p->port61 & PORT61_GATE))
        return error_set(e, ERR_CORRUPT, "pit: impossible register values");
    update_irq(p);
    return OK;
}

void pit_export(struct device *dev, struct chip_pit *out)
{
    struct pit *p = pit_of(dev);
    *out = (struct chip_pit){.port61 = p->port61};
    for (unsigned n = 0; n < CHANNELS; n++) {
        const struct pit_channel *c = &p->channel[n];
        out->channel[n] = (struct chip_pit_channel){.reload = c->reload,
                                                    .latch = c->latch,
                                                    .latched = c->latched,
                                                    .status = c->status,
                                                    .status_latched = c->status_latched,
                                                    .control = c->control,
                                                    .low = c->low,
                                                    .write_high = c->write_high,
                                                    .read_high = c->read_high,
                                                    .gate = c->gate};
    }
    dev->env->set_irq(dev, 0, false);
}

static void import_channel(struct pit_channel *c, const struct chip_pit_channel *in, bool gate,
                           uint64_t at)
{
    *c = (struct pit_channel){.count = 1,
                              .reload = in->reload,
                              .latch = in->latch,
                              .latched = in->latched,
                              .status = in->status,
                              .status_latched = in->status_latched,
                              .control = in->control & 0x3f,
                              .low = in->low,
                              .write_high = in->write_high,
                              .read_high = in->read_high,
                              .gate = gate,
                              .seen = at};
    if (c->reload && !is_triggered(c))
        restart(c, at);
}

void pit_import(struct device *dev, const struct chip_pit *in)
{
    struct pit *p = pit_of(dev);
    uint64_t at = tick(p);
    p->port61 = in->port61 & PORT61_WRITABLE;
    for (unsigned n = 0; n < CHANNELS; n++)
        import_channel(&p->channel[n], &in->channel[n], n != SPEAKER || (p->port61 & PORT61_GATE),
                       at);
}

static void timer(struct device *dev, unsigned which)
{
    update_irq(pit_of(dev));
}

const struct device_type pit_type = {
    .name = "pit",
    .size = sizeof(struct pit),
    .timers = 1,
    .lines = 1,
    .state = &pit_state,
    .init = init,
    .reset = reset,
    .loaded = loaded,
    .timer = timer,
};
