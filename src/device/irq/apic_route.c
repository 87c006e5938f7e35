// Finds the local APICs that a message is for and hands it to them.
//
// Source: Intel SDM vol. 3 sections 11.6.2 and 11.11 (MSI). Lowest-priority arbitration compares
// processor priorities and takes turns among equals; focus processors are not modelled, as on
// everything since the Pentium 4.
#include "device/irq/apic_route.h"

#include "base/bits.h"
#include "device/irq/ioapic.h"
#include "device/irq/lapic.h"
#include "device/irq/pic.h"

#define MSI_ADDRESS 0xfee00000ull

struct apic_message apic_message_from_msi(uint64_t address, uint32_t data)
{
    struct apic_message m = {
        .dest = (uint32_t)bits_get(address, 19, 12),
        .logical = (uint8_t)bits_get(address, 2, 2),
        .delivery = (uint8_t)bits_get(data, 10, 8),
        .vector = (uint8_t)data,
        .trigger = (uint8_t)bits_get(data, 15, 15),
        .level = 1,
    };
    // Redirection hint with a logical destination: one processor of the set.
    if (bits_get(address, 3, 3) && m.logical && m.delivery == APIC_FIXED)
        m.delivery = APIC_LOWEST;
    return m;
}

void apic_message_to_msi(const struct apic_message *m, uint64_t *address, uint32_t *data)
{
    *address = MSI_ADDRESS | (m->dest & 0xff) << 12 | (m->logical ? BIT(2) : 0);
    *data = (uint32_t)(m->vector | m->delivery << 8 | (m->level ? BIT(14) : 0) |
                       (m->trigger ? BIT(15) : 0));
}

void apic_send_msi(struct apic_router *router, uint64_t address, uint32_t data)
{
    struct apic_message m = apic_message_from_msi(address, data);
    (void)apic_send(router, &m, 0);
}

static bool is_for(const struct apic_router *r, unsigned i, const struct apic_message *m,
                   unsigned from)
{
    switch (m->shorthand) {
    case APIC_DEST_SELF: return i == from;
    case APIC_DEST_ALL: return true;
    case APIC_DEST_OTHERS: return i != from;
    default: return lapic_matches(r->lapic[i], m);
    }
}

static bool send_lowest(struct apic_router *r, const struct apic_message *m, unsigned from)
{
    unsigned best = r->lapics;
    uint8_t best_priority = 0;
    for (unsigned k = 0; k < r->lapics; k++) {
        unsigned i = (r->turn + k) % r->lapics;
        if (!lapic_enabled(r->lapic[i]) || !is_for(r, i, m, from))
            continue;
        uint8_t priority = lapic_priority(r->lapic[i]);
        if (best == r->lapics || priority < best_priority) {
            best = i;
            best_priority = priority;
        }
    }
    if (best == r->lapics)
        return false;
    r->turn = best + 1;
    return lapic_accept(r->lapic[best], m);
}

bool apic_send(struct apic_router *router, const struct apic_message *m, unsigned from)
{
    if (m->delivery == APIC_LOWEST)
        return send_lowest(router, m, from);
    bool taken = false;
    for (unsigned i = 0; i < router->lapics; i++)
        if (is_for(router, i, m, from))
            taken |= lapic_accept(router->lapic[i], m);
    return taken;
}

void apic_eoi(struct apic_router *router, uint8_t vector)
{
    if (router->ioapic)
        ioapic_eoi(router->ioapic, vector);
}

void apic_extint(struct apic_router *router, bool level)
{
    for (unsigned i = 0; i < router->lapics; i++)
        if (router->lapic[i])
            lapic_set_lint(router->lapic[i], 0, level);
}

bool apic_intr(struct apic_router *router, unsigned vcpu)
{
    const struct device *lapic = router->lapic[vcpu];
    return lapic_pending(lapic) >= 0 || lapic_extint(lapic);
}

int apic_intr_ack(struct apic_router *router, unsigned vcpu)
{
    struct device *lapic = router->lapic[vcpu];
    if (lapic_extint(lapic) && router->pic) {
        lapic_ack_extint(lapic);
        return pic_ack(router->pic);
    }
    return lapic_ack(lapic);
}
