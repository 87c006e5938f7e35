// The local APIC's state, shared by its register, delivery and timer parts.
#pragma once

#include "base/bits.h"
#include "device/irq/lapic.h"

#define APIC_BASE_BSP (1ull << 8)
#define APIC_BASE_X2 (1ull << 10)
#define APIC_BASE_ENABLE (1ull << 11)
#define APIC_BASE_ADDRESS 0xffffffffff000ull

// Register numbers: offset in the page / 16, MSR number - 0x800.
enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR_LOW = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT = 0x32,
    REG_INITIAL = 0x38,
    REG_CURRENT = 0x39,
    REG_DIVIDE = 0x3e,
    REG_SELF_IPI = 0x3f,
};

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

#define LVT_MASKED (1u << 16)
#define LVT_REMOTE_IRR (1u << 14)
#define LVT_LEVEL (1u << 15)
#define LVT_TIMER_MODE (3u << 17)
#define LVT_TIMER_PERIODIC (1u << 17)
#define LVT_TIMER_DEADLINE (2u << 17)

#define LVT_READ_ONLY 0x5000u

#define SVR_ENABLED (1u << 8)
#define SVR_WRITABLE 0x3ffu
#define ICR_WRITABLE (BITS(63, 32) | BITS(19, 18) | BITS(15, 14) | BITS(11, 0))

#define ESR_SEND_VECTOR (1u << 5)
#define ESR_RECEIVE_VECTOR (1u << 6)
#define ESR_REGISTER (1u << 7)

struct lapic {
    struct device dev;
    struct lapic_config config;
    uint64_t base; // IA32_APIC_BASE
    uint64_t icr;
    uint64_t deadline; // IA32_TSC_DEADLINE; 0: not armed
    uint64_t due;      // virtual time of the count's next expiry; NS_NEVER: stopped
    uint32_t irr[8];
    uint32_t isr[8];
    uint32_t tmr[8];
    uint32_t lvt[LVT_COUNT];
    uint32_t tpr;
    uint32_t ldr; // xAPIC mode only; follows from the ID in x2APIC mode
    uint32_t dfr;
    uint32_t svr;
    uint32_t esr;        // as the guest reads it
    uint32_t esr_latest; // errors since it was last written
    uint32_t initial_count;
    uint32_t divide;
    uint8_t lint[2]; // pin levels
    uint8_t extint;  // an ExtINT message waits
    uint8_t intr;    // what attention was last told
    uint8_t pad[4];
};

static inline struct lapic *lapic_of(struct device *dev)
{
    return (struct lapic *)dev;
}

static inline bool lapic_x2(const struct lapic *l)
{
    return (l->base & APIC_BASE_X2) != 0;
}

static inline bool lapic_on(const struct lapic *l)
{
    return (l->base & APIC_BASE_ENABLE) != 0;
}

// lapic.c
extern const uint32_t lapic_lvt_writable[LVT_COUNT];
void lapic_init_reset(struct lapic *l); // what INIT does

// lapic_deliver.c
int lapic_highest(const uint32_t set[8]); // highest vector in a 256-bit set, or -1
uint8_t lapic_ppr(const struct lapic *l);
void lapic_update(struct lapic *l);   // tells the machine when INTR has changed
void lapic_announce(struct lapic *l); // tells it in any case
void lapic_error(struct lapic *l, uint32_t esr_bit);
bool lapic_interrupt(struct lapic *l, uint8_t vector, bool level); // a fixed interrupt
void lapic_end(struct lapic *l);                                   // EOI
void lapic_fire(struct lapic *l, enum lapic_lvt which);            // a local source without a pin
void lapic_lint_changed(struct lapic *l, unsigned pin);            // its LVT entry was written

// lapic_timer.c
void lapic_timer_reset(struct lapic *l);
uint32_t lapic_timer_count(struct lapic *l);
void lapic_timer_set_count(struct lapic *l, uint32_t count);
void lapic_timer_set_divide(struct lapic *l, uint32_t divide);
void lapic_timer_set_mode(struct lapic *l, uint32_t lvt);
uint64_t lapic_timer_deadline(struct lapic *l);
void lapic_timer_set_deadline(struct lapic *l, uint64_t tsc);
void lapic_timer_arm(struct lapic *l); // sets the host timer for what can be noticed
void lapic_timer_expired(struct lapic *l);
void lapic_timer_resume(struct lapic *l, uint32_t count); // goes on counting from here
