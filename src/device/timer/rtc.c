// The real-time clock with 128 bytes of battery-backed memory.
//
// Source: Motorola MC146818A datasheet; ICH9 datasheet section 13.6. The time is kept as an offset
// to the machine's wall clock and registers are made from it when they are read. Flags are brought
// up to date when somebody looks; a host timer runs only while an enabled flag is still to be set.
// Not modelled: daylight saving, the square wave output, a day of week that disagrees with the
// date.
#include "device/timer/rtc.h"

#include "base/bits.h"
#include "device/platform.h"
#include "device/timer/rtc_time.h"
#include "device/timer/ticks.h"

#define RAM_SIZE 128
#define CRYSTAL_HZ 32768u
#define UIP_NS (244 * NS_PER_US) // warning before an update (datasheet, figure 18)
#define DAY_SECONDS 86400
#define OFFSET_MAX (1ll << 40) // seconds; far beyond the year 9999

enum {
    REG_SECOND,
    REG_SECOND_ALARM,
    REG_MINUTE,
    REG_MINUTE_ALARM,
    REG_HOUR,
    REG_HOUR_ALARM,
    REG_WEEKDAY,
    REG_DAY,
    REG_MONTH,
    REG_YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    REG_CENTURY = 0x32,
};

#define A_UIP 0x80
#define B_SET 0x80
#define B_BINARY 0x04
#define B_24H 0x02
#define FLAG_IRQ 0x80
#define FLAG_PERIODIC 0x40 // the same bit enables it in B and reports it in C
#define FLAG_ALARM 0x20
#define FLAG_UPDATE 0x10
#define FLAGS (FLAG_PERIODIC | FLAG_ALARM | FLAG_UPDATE)
#define D_VALID 0x80
#define ALARM_ANY 0xc0 // from here up: matches every value
#define HOUR_PM 0x80

struct rtc {
    struct device dev;
    struct rtc_config config;
    int64_t offset;        // seconds that the guest's time is ahead of the machine's wall clock
    uint64_t phase;        // ns below a second that are added to it
    ns_t checked;          // flags include everything up to this moment
    uint8_t ram[RAM_SIZE]; // time registers are valid only while the clock stands
    uint8_t index;
    uint8_t nmi_masked;
    uint8_t pad[6];
};

static const struct state_field rtc_fields[] = {
    SKIP(struct rtc, dev, "wiring, rebuilt from configuration"),
    SKIP(struct rtc, config, "wiring, rebuilt from configuration"),
    FIELD(struct rtc, offset),
    FIELD(struct rtc, phase),
    FIELD(struct rtc, checked),
    ARRAY(struct rtc, ram),
    FIELD(struct rtc, index),
    FIELD(struct rtc, nmi_masked),
    SKIP(struct rtc, pad, "alignment"),
    FIELDS_END,
};
static const struct state_desc rtc_state = STATE_DESC("rtc", struct rtc, 1, rtc_fields);

static struct rtc *rtc_of(struct device *dev)
{
    return (struct rtc *)dev;
}

// --- the running clock ---

static bool divider_held(const struct rtc *r)
{
    return (r->ram[REG_A] & 0x60) == 0x60;
}

static bool stands(const struct rtc *r)
{
    return (r->ram[REG_B] & B_SET) || divider_held(r);
}

// ns of the machine's wall clock with our phase, at virtual time `at`.
static uint64_t chain(struct rtc *r, ns_t at)
{
    return (uint64_t)r->dev.env->wall_base(&r->dev) + at + r->phase;
}

static int64_t seconds_at(struct rtc *r, ns_t at)
{
    return (int64_t)(chain(r, at) / NS_PER_SEC) + r->offset;
}

static uint8_t encode(const struct rtc *r, unsigned value)
{
    return (uint8_t)(r->ram[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static unsigned decode(const struct rtc *r, uint8_t value)
{
    return r->ram[REG_B] & B_BINARY ? value : (value >> 4) * 10u + (value & 15);
}

static uint8_t encode_hour(const struct rtc *r, unsigned hour)
{
    if (r->ram[REG_B] & B_24H)
        return encode(r, hour);
    return encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(const struct rtc *r, uint8_t value)
{
    if (r->ram[REG_B] & B_24H)
        return decode(r, value);
    return decode(r, value & 0x7f) % 12 + (value & HOUR_PM ? 12 : 0);
}

// Fills the time registers from the running clock.
static void show(struct rtc *r, ns_t at)
{
    struct rtc_date d;
    rtc_date_from_seconds(seconds_at(r, at), &d);
    unsigned year = (unsigned)d.year % 10000;
    r->ram[REG_SECOND] = encode(r, d.second);
    r->ram[REG_MINUTE] = encode(r, d.minute);
    r->ram[REG_HOUR] = encode_hour(r, d.hour);
    r->ram[REG_WEEKDAY] = encode(r, d.weekday);
    r->ram[REG_DAY] = encode(r, d.day);
    r->ram[REG_MONTH] = encode(r, d.month);
    r->ram[REG_YEAR] = encode(r, year % 100);
    r->ram[REG_CENTURY] = (uint8_t)(year / 1000 << 4 | year / 100 % 10); // BCD in either mode
}

// The clock goes on from what the time registers say.
static void take(struct rtc *r, ns_t at)
{
    uint8_t century = r->ram[REG_CENTURY];
    struct rtc_date d = {
        .year =
            (int32_t)(((century >> 4) * 10u + (century & 15)) * 100 + decode(r, r->ram[REG_YEAR])),
        .month = (uint8_t)decode(r, r->ram[REG_MONTH]),
        .day = (uint8_t)decode(r, r->ram[REG_DAY]),
        .hour = (uint8_t)decode_hour(r, r->ram[REG_HOUR]),
        .minute = (uint8_t)decode(r, r->ram[REG_MINUTE]),
        .second = (uint8_t)decode(r, r->ram[REG_SECOND]),
    };
    r->offset = rtc_date_to_seconds(&d) - (int64_t)(chain(r, at) / NS_PER_SEC);
}

// --- flags ---

// Crystal ticks between periodic interrupts; 0: none.
static uint32_t period_ticks(const struct rtc *r)
{
    unsigned rate = r->ram[REG_A] & 15;
    if (!rate || divider_held(r))
        return 0;
    return rate <= 2 ? 1u << (rate + 6) : 1u << (rate - 1);
}

static ns_t next_periodic(const struct rtc *r, ns_t after)
{
    uint32_t period = period_ticks(r);
    if (!period)
        return NS_NEVER;
    return ticks_to_ns((ticks_at(after, CRYSTAL_HZ) / period + 1) * period, CRYSTAL_HZ);
}

static ns_t next_update(struct rtc *r, ns_t after)
{
    return stands(r) ? NS_NEVER : after + NS_PER_SEC - chain(r, after) % NS_PER_SEC;
}

static bool alarm_field(uint8_t alarm, unsigned wanted, unsigned value)
{
    return alarm >= ALARM_ANY || wanted == value;
}

// Seconds from `second` of the day until the alarm next matches (1..DAY_SECONDS), or 0: never.
static unsigned until_alarm(const struct rtc *r, unsigned second)
{
    const uint8_t *ram = r->ram;
    unsigned h = decode_hour(r, ram[REG_HOUR_ALARM]), m = decode(r, ram[REG_MINUTE_ALARM]),
             s = decode(r, ram[REG_SECOND_ALARM]);
    if (!alarm_field(ram[REG_HOUR_ALARM], h < 24, true) ||
        !alarm_field(ram[REG_MINUTE_ALARM], m < 60, true) ||
        !alarm_field(ram[REG_SECOND_ALARM], s < 60, true))
        return 0;
    for (unsigned wait = 1; wait <= DAY_SECONDS;) {
        unsigned t = (second + wait) % DAY_SECONDS;
        if (!alarm_field(ram[REG_HOUR_ALARM], h, t / 3600))
            wait += 3600 - t % 3600;
        else if (!alarm_field(ram[REG_MINUTE_ALARM], m, t / 60 % 60))
            wait += 60 - t % 60;
        else if (!alarm_field(ram[REG_SECOND_ALARM], s, t % 60))
            wait++;
        else
            return wait;
    }
    return 0;
}

static ns_t next_alarm(struct rtc *r, ns_t after)
{
    if (stands(r))
        return NS_NEVER;
    int64_t in_day = seconds_at(r, after) % DAY_SECONDS;
    unsigned wait = until_alarm(r, (unsigned)(in_day < 0 ? in_day + DAY_SECONDS : in_day));
    return wait ? next_update(r, after) + (wait - 1) * NS_PER_SEC : NS_NEVER;
}

static ns_t next_of(struct rtc *r, uint8_t flag, ns_t after)
{
    switch (flag) {
    case FLAG_PERIODIC: return next_periodic(r, after);
    case FLAG_ALARM: return next_alarm(r, after);
    default: return next_update(r, after);
    }
}

static const uint8_t all_flags[] = {FLAG_PERIODIC, FLAG_ALARM, FLAG_UPDATE};

// Brings the flags up to date.
static void settle(struct rtc *r)
{
    ns_t now = r->dev.env->now(&r->dev);
    for (unsigned i = 0; i < ARRAY_LEN(all_flags); i++)
        if (!(r->ram[REG_C] & all_flags[i]) && next_of(r, all_flags[i], r->checked) <= now)
            r->ram[REG_C] |= all_flags[i];
    r->checked = now;
}

// Drives the interrupt and waits for what could raise it. While it is up there is nothing to wait
// for.
static void update_irq(struct rtc *r)
{
    uint8_t enabled = r->ram[REG_B] & FLAGS;
    bool irq = r->ram[REG_C] & enabled;
    r->ram[REG_C] = (r->ram[REG_C] & FLAGS) | (irq ? FLAG_IRQ : 0);
    r->dev.env->set_irq(&r->dev, 0, irq);
    ns_t when = NS_NEVER;
    for (unsigned i = 0; !irq && i < ARRAY_LEN(all_flags); i++)
        if (enabled & all_flags[i])
            when = min_u64(when, next_of(r, all_flags[i], r->checked));
    r->dev.env->set_timer(&r->dev, 0, when);
}

// --- registers ---

static bool is_time(unsigned reg)
{
    return reg == REG_CENTURY || (reg <= REG_YEAR && reg != REG_SECOND_ALARM &&
                                  reg != REG_MINUTE_ALARM && reg != REG_HOUR_ALARM);
}

static uint8_t read_register(struct rtc *r, unsigned reg)
{
    uint8_t value;
    settle(r);
    if (is_time(reg) && !stands(r))
        show(r, r->checked);
    switch (reg) {
    case REG_A:
        if (stands(r) || chain(r, r->checked) % NS_PER_SEC < NS_PER_SEC - UIP_NS)
            return r->ram[REG_A];
        return r->ram[REG_A] | A_UIP;
    case REG_C:
        update_irq(r);
        value = r->ram[REG_C];
        r->ram[REG_C] = 0;
        update_irq(r);
        return value;
    case REG_D: return D_VALID;
    default: return r->ram[reg];
    }
}

// A or B changes: the clock may stop, or go on with what was written meanwhile.
static void write_control(struct rtc *r, unsigned reg, uint8_t value)
{
    bool stood = stands(r), was_held = divider_held(r);
    if (!stood)
        show(r, r->checked);
    if (reg == REG_A)
        r->ram[REG_A] = value & ~A_UIP;
    else // SET clears the update interrupt's enable
        r->ram[REG_B] = value & B_SET ? value & ~FLAG_UPDATE : value;
    if (was_held && !divider_held(r)) { // the first update comes half a second later
        r->phase = 0;
        uint64_t into = chain(r, r->checked) % NS_PER_SEC;
        r->phase = (NS_PER_SEC + NS_PER_SEC / 2 - into) % NS_PER_SEC;
    }
    if (stood && !stands(r))
        take(r, r->checked);
}

static void write_register(struct rtc *r, unsigned reg, uint8_t value)
{
    settle(r);
    if (reg == REG_A || reg == REG_B) {
        write_control(r, reg, value);
    } else if (is_time(reg) && !stands(r)) {
        show(r, r->checked);
        r->ram[reg] = value;
        take(r, r->checked);
    } else if (reg != REG_C && reg != REG_D) {
        r->ram[reg] = value;
    }
    update_irq(r);
}

static uint64_t rtc_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct rtc *r = rtc_of(dev);
    return offset ? read_register(r, r->index) : 0xff; // the index is write-only
}

static void rtc_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct rtc *r = rtc_of(dev);
    if (offset) {
        write_register(r, r->index, (uint8_t)value);
    } else {
        r->index = value & 0x7f;
        r->nmi_masked = (value >> 7) & 1;
    }
}

static const struct io_ops rtc_ops = {rtc_read, rtc_write, 1, 1};

// --- the device ---

static void put16(struct rtc *r, unsigned cell, uint64_t value)
{
    uint64_t v = min_u64(value, 0xffff);
    r->ram[cell] = (uint8_t)v;
    r->ram[cell + 1] = (uint8_t)(v >> 8);
}

// The cells by which PC firmware learns its memory, processors and boot order.
static void fill_cells(struct rtc *r)
{
    const struct rtc_config *c = &r->config;
    uint64_t extended = c->ram_below_4g > MIB ? (c->ram_below_4g - MIB) / KIB : 0;
    uint64_t above_16m = c->ram_below_4g > 16 * MIB ? (c->ram_below_4g - 16 * MIB) >> 16 : 0;
    uint64_t above_4g = c->ram_above_4g >> 16;
    r->ram[0x14] = 0x06; // equipment: coprocessor, PS/2 mouse
    put16(r, 0x15, 640);
    put16(r, 0x17, extended);
    put16(r, 0x30, extended);
    put16(r, 0x34, above_16m);
    put16(r, 0x5b, above_4g & 0xffff);
    r->ram[0x5d] = (uint8_t)(above_4g >> 16);
    r->ram[0x3d] = (uint8_t)((c->boot_order[0] & 15) | c->boot_order[1] << 4);
    r->ram[0x38] = (uint8_t)(c->boot_order[2] << 4);
    r->ram[0x5f] = (uint8_t)(c->cpus ? c->cpus - 1 : 0);
}

static err_t init(struct device *dev, const void *config, struct error *e)
{
    struct rtc *r = rtc_of(dev);
    r->config = *(const struct rtc_config *)config;
    fill_cells(r);
    r->ram[REG_A] = 0x26; // 32 kHz crystal, 1024 Hz
    r->ram[REG_B] = B_24H;
    err_t err = dev->env->map_pio(dev, PC_PORT_RTC, 2, &rtc_ops);
    return err ? error_set(e, err, "real-time clock ports are taken") : OK;
}

// The battery keeps time and memory.
static void reset(struct device *dev)
{
    struct rtc *r = rtc_of(dev);
    r->checked = dev->env->now(dev);
    r->ram[REG_B] &= (uint8_t) ~(FLAGS | 0x08);
    r->ram[REG_C] = 0;
    r->index = 0;
    r->nmi_masked = 0;
    update_irq(r);
}

static err_t loaded(struct device *dev, struct error *e)
{
    struct rtc *r = rtc_of(dev);
    if (r->offset > OFFSET_MAX || r->offset < -OFFSET_MAX || r->phase >= NS_PER_SEC ||
        r->checked > dev->env->now(dev) || r->index >= RAM_SIZE || r->nmi_masked > 1 ||
        (r->ram[REG_A] & A_UIP) || (r->ram[REG_C] & ~(FLAGS | FLAG_IRQ)))
        return error_set(e, ERR_CORRUPT, "rtc: impossible register values");
    update_irq(r);
    return OK;
}

static void timer(struct device *dev, unsigned which)
{
    settle(rtc_of(dev));
    update_irq(rtc_of(dev));
}

const struct device_type rtc_type = {
    .name = "rtc",
    .size = sizeof(struct rtc),
    .timers = 1,
    .lines = 1,
    .state = &rtc_state,
    .init = init,
    .reset = reset,
    .loaded = loaded,
    .timer = timer,
};
