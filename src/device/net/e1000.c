// The 82540EM's registers, EEPROM, PHY and interrupt.
//
// Specification: Intel, PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's
// Manual (317453); the PHY is Marvell's 88E1011. Not modelled: writing the EEPROM, flash, wake-up,
// flow control, diagnostic access to the packet buffer, delays of descriptor write-back, IPv6
// filters, most statistics, MSI, speeds below 1000 Mb/s.
#include <string.h>

#include "base/bytes.h"
#include "device/net/e1000_impl.h"

enum {
    BAR_MEMORY = 0,
    BAR_IO = 1,
    MEMORY_BYTES = 128 * 1024,
    IO_BYTES = 64,

    EECD_SK = 1,
    EECD_CS = 2,
    EECD_DI = 4,
    EECD_DO = 8,
    EECD_FWE = 0x30,
    EECD_REQ = 0x40,
    EECD_GNT = 0x80,
    EECD_PRES = 0x100,
    EEPROM_READ = 6, // start bit and operation
    EEPROM_COMMAND_BITS = 9,
    EEPROM_SUM = 0xbaba, // of all words

    EERD_START = 1,
    EERD_DONE = 1 << 4,

    MDIC_WRITE = 1,
    MDIC_READ = 2,
    MDIC_READY = 1 << 28,
    MDIC_INTERRUPT = 1 << 29,
    MDIC_ERROR = 1 << 30,
    PHY_ADDRESS = 1,
    PHY_CONTROL = 0,
    PHY_STATUS = 1,
    PHY_SPECIFIC_STATUS = 17,
    PHY_STATUS_LINK = 1 << 2 | 1 << 5, // link, and negotiation is complete
    PHY_SPECIFIC_LINK = 1 << 10 | 1 << 11,
    PHY_RESET = 1 << 15,
    PHY_RESTART = 1 << 9,

    ITR_UNIT_NS = 256,
};

static const struct state_field offload_fields[] = {
    FIELD(struct e1000_offload, ip_start), FIELD(struct e1000_offload, ip_at),
    FIELD(struct e1000_offload, ip_end),   FIELD(struct e1000_offload, start),
    FIELD(struct e1000_offload, at),       FIELD(struct e1000_offload, end),
    FIELD(struct e1000_offload, mss),      FIELD(struct e1000_offload, header),
    FIELD(struct e1000_offload, command),  FIELDS_END,
};
static const struct state_desc offload_state =
    STATE_DESC("e1000-offload", struct e1000_offload, 1, offload_fields);

static const struct state_field e1000_fields[] = {
    SUB(struct e1000, pci, pci_function_state),
    SKIP(struct e1000, config, "wiring, rebuilt from configuration"),
    SKIP(struct e1000, packet, "scratch of one callback"),
    SKIP(struct e1000, part, "scratch of one callback"),
    FIELD(struct e1000, starved),
    FIELD(struct e1000, stalled),
    FIELD(struct e1000, link),
    FIELD(struct e1000, raised),
    FIELD(struct e1000, clock),
    SKIP(struct e1000, pad, "padding"),
    SKIP(struct e1000, taken, "the packet that waits is not kept either"),
    ARRAY(struct e1000, registers),
    ARRAY(struct e1000, phy),
    SKIP(struct e1000, eeprom, "follows from the configuration"),
    FIELD(struct e1000, io_address),
    FIELD(struct e1000, shift),
    FIELD(struct e1000, shifted_in),
    FIELD(struct e1000, shift_out),
    FIELD(struct e1000, quiet_until),
    SUB(struct e1000, offload, offload_state),
    FIELDS_END,
};
static const struct state_desc e1000_state = STATE_DESC("e1000", struct e1000, 1, e1000_fields);

// --- The interrupt ---

// ITR is the least time between two interrupts.
static void update_interrupt(struct e1000 *n)
{
    struct device *dev = &n->pci.dev;
    bool wanted = *e1000_reg(n, REG_ICR) & *e1000_reg(n, REG_IMS);

    if (wanted && !n->raised && dev->env->now(dev) < n->quiet_until) {
        dev->env->set_timer(dev, TIMER_THROTTLE, n->quiet_until);
        return;
    }
    if (wanted && !n->raised)
        n->quiet_until = dev->env->now(dev) + (*e1000_reg(n, REG_ITR) & 0xffff) * (ns_t)ITR_UNIT_NS;
    n->raised = wanted;
    pci_set_intx(&n->pci, wanted);
}

void e1000_cause(struct e1000 *n, uint32_t causes)
{
    *e1000_reg(n, REG_ICR) |= causes & ICR_ALL;
    update_interrupt(n);
}

static uint32_t read_causes(struct e1000 *n)
{
    uint32_t causes = *e1000_reg(n, REG_ICR);

    *e1000_reg(n, REG_ICR) = 0;
    update_interrupt(n);
    return causes;
}

// --- Statistics: they stick at their highest value, and reading clears them ---

static void add(uint32_t *counter, uint32_t n)
{
    *counter = *counter + n < *counter ? UINT32_MAX : *counter + n;
}

void e1000_count(struct e1000 *n, unsigned packets, unsigned total, unsigned octets, size_t len)
{
    uint64_t bytes = load_le64((uint8_t *)e1000_reg(n, octets));

    add(e1000_reg(n, packets), 1);
    add(e1000_reg(n, total), 1);
    store_le64((uint8_t *)e1000_reg(n, octets), bytes + len);
}

static uint32_t read_counter(struct e1000 *n, unsigned offset)
{
    uint32_t value = *e1000_reg(n, offset);

    *e1000_reg(n, offset) = 0;
    return value;
}

// --- The EEPROM: a microwire device that is clocked by hand, or read by EERD ---

static void fill_eeprom(struct e1000 *n)
{
    uint16_t sum = 0;

    memset(n->eeprom, 0xff, sizeof n->eeprom);
    for (unsigned i = 0; i < 3; i++)
        n->eeprom[i] = load_le16(n->config.mac + 2 * i);
    n->eeprom[0x03] = 0;      // compatibility
    n->eeprom[0x0a] = 0x4408; // initialization control 1: the PCI identity below counts
    n->eeprom[0x0b] = 0x1100; // subsystem
    n->eeprom[0x0c] = 0x1af4;
    n->eeprom[0x0d] = 0x100e; // device
    n->eeprom[0x0e] = 0x8086;
    n->eeprom[0x0f] = 0x0000; // initialization control 2: no pauses
    n->eeprom[0x24] = 0x0000; // initialization control 3: no wake-up
    for (unsigned i = 0; i < EEPROM_WORDS - 1; i++)
        sum = (uint16_t)(sum + n->eeprom[i]);
    n->eeprom[EEPROM_WORDS - 1] = (uint16_t)(EEPROM_SUM - sum);
}

// A rising edge of the clock: a bit of the command goes in, or one of the answer comes out.
static void clock_eeprom(struct e1000 *n, bool in)
{
    if (n->shift_out) {
        n->shift_out--;
        return;
    }
    if (n->shifted_in == EEPROM_COMMAND_BITS || (!n->shifted_in && !in))
        return; // leading zeros
    n->shift = (uint16_t)(n->shift << 1 | in);
    if (++n->shifted_in < EEPROM_COMMAND_BITS)
        return;
    if (n->shift >> 6 == EEPROM_READ) {
        n->shift = n->eeprom[n->shift % EEPROM_WORDS];
        n->shift_out = 16 + 1; // a zero comes first
    }
}

static void write_eecd(struct e1000 *n, uint32_t value)
{
    bool clock = value & EECD_SK;

    if (!(value & EECD_CS)) {
        n->shift = 0;
        n->shifted_in = n->shift_out = 0;
    } else if (clock && !n->clock) {
        clock_eeprom(n, value & EECD_DI);
    }
    n->clock = clock;
    *e1000_reg(n, REG_EECD) = value & (EECD_SK | EECD_CS | EECD_DI | EECD_FWE | EECD_REQ);
}

static uint32_t read_eecd(struct e1000 *n)
{
    uint32_t value = *e1000_reg(n, REG_EECD) | EECD_PRES;
    bool out =
        n->shift_out && n->shift_out <= 16 ? n->shift >> (n->shift_out - 1) & 1 : !n->shift_out;

    return value | (value & EECD_REQ ? EECD_GNT : 0) | (out ? EECD_DO : 0);
}

static void write_eerd(struct e1000 *n, uint32_t value)
{
    unsigned word = (unsigned)bits_get(value, 15, 8);

    if (value & EERD_START)
        *e1000_reg(n, REG_EERD) =
            (value & 0xff00) | EERD_DONE | (uint32_t)n->eeprom[word % EEPROM_WORDS] << 16;
}

// --- The PHY ---

static void reset_phy(struct e1000 *n)
{
    static const struct {
        uint8_t at;
        uint16_t value;
    } values[] = {
        {0, 0x1140},  {1, 0x7949},  {2, 0x0141},  {3, 0x0c20},  {4, 0x01e1},
        {5, 0x45e1},  {6, 0x0001},  {9, 0x0e00},  {10, 0x3c00}, {15, 0x3000},
        {16, 0x0360}, {17, 0xa000}, {20, 0x0d60},
    };

    memset(n->phy, 0, sizeof n->phy);
    for (unsigned i = 0; i < ARRAY_LEN(values); i++)
        n->phy[values[i].at] = values[i].value;
}

static uint16_t read_phy(const struct e1000 *n, unsigned at)
{
    uint16_t link = at == PHY_STATUS            ? PHY_STATUS_LINK
                    : at == PHY_SPECIFIC_STATUS ? PHY_SPECIFIC_LINK
                                                : 0;

    return n->link ? n->phy[at] | link : n->phy[at];
}

static void show_link(struct e1000 *n)
{
    uint32_t *status = e1000_reg(n, REG_STATUS);
    bool up = n->link && e1000_has(n, REG_CTRL, CTRL_SLU);

    if (up == !!(*status & STATUS_LU))
        return;
    *status ^= STATUS_LU;
    e1000_cause(n, ICR_LSC);
}

static void write_phy(struct e1000 *n, unsigned at, uint16_t value)
{
    static const uint32_t writable = 1 << 0 | 1 << 4 | 1 << 7 | 1 << 9 | 1 << 16 | 1 << 18 |
                                     1 << 20 | 1 << 24 | 1 << 29 | 1 << 30;

    if (at == PHY_CONTROL && value & PHY_RESET) {
        reset_phy(n);
        return;
    }
    if (at == PHY_CONTROL && value & PHY_RESTART && n->link)
        e1000_cause(n, ICR_LSC); // negotiated at once
    if (writable >> at & 1)
        n->phy[at] = at == PHY_CONTROL ? value & ~PHY_RESTART : value;
}

static void write_mdic(struct e1000 *n, uint32_t value)
{
    unsigned at = (unsigned)bits_get(value, 20, 16), operation = (unsigned)bits_get(value, 27, 26);
    uint32_t result = value & 0x0fffffff;

    if (bits_get(value, 25, 21) != PHY_ADDRESS)
        result |= MDIC_ERROR;
    else if (operation == MDIC_READ)
        result = (result & ~0xffffu) | read_phy(n, at);
    else if (operation == MDIC_WRITE)
        write_phy(n, at, (uint16_t)value);
    else
        result |= MDIC_ERROR;
    *e1000_reg(n, REG_MDIC) = result | MDIC_READY;
    if (value & MDIC_INTERRUPT)
        e1000_cause(n, ICR_MDAC);
}

// --- Registers ---

static void reset_registers(struct e1000 *n)
{
    struct device *dev = &n->pci.dev;

    memset(n->registers, 0, sizeof n->registers);
    *e1000_reg(n, REG_CTRL) = 0x00000a09;   // full duplex, 1000 Mb/s
    *e1000_reg(n, REG_STATUS) = 0x00000381; // the same
    *e1000_reg(n, REG_PBA) = 0x00100030;
    *e1000_reg(n, REG_VET) = 0x8100;
    *e1000_reg(n, REG_RAL) = load_le32(n->config.mac);
    *e1000_reg(n, REG_RAH) = load_le16(n->config.mac + 4) | RAH_AV;
    n->offload = (struct e1000_offload){0};
    n->shift = 0;
    n->shifted_in = n->shift_out = n->clock = 0;
    n->stalled = 0;
    n->taken = 0;
    n->quiet_until = 0;
    dev->env->set_timer(dev, TIMER_THROTTLE, NS_NEVER);
    dev->env->set_timer(dev, TIMER_TRANSMIT, NS_NEVER);
    reset_phy(n);
    update_interrupt(n);
    e1000_buffers_added(n); // what waits for them goes nowhere now
}

static void write_ctrl(struct e1000 *n, uint32_t value)
{
    if (value & CTRL_RST) {
        reset_registers(n);
        return;
    }
    if (value & CTRL_PHY_RST)
        reset_phy(n);
    *e1000_reg(n, REG_CTRL) = value & ~CTRL_PHY_RST;
    show_link(n);
}

static bool is_statistic(unsigned offset)
{
    return offset >= REG_STATISTICS && offset < REG_STATISTICS_END;
}

static uint32_t read_register(struct e1000 *n, unsigned offset)
{
    if (is_statistic(offset))
        return read_counter(n, offset);
    switch (offset) {
    case REG_ICR: return read_causes(n);
    case REG_EECD: return read_eecd(n);
    case REG_ICS:
    case REG_IMC: return 0;
    default: return offset < REG_END ? *e1000_reg(n, offset) : 0;
    }
}

static void write_plain(struct e1000 *n, unsigned offset, uint32_t value)
{
    switch (offset) {
    case REG_RDBAL:
    case REG_TDBAL: value &= ~0xfu; break;
    case REG_RDLEN:
    case REG_TDLEN: value &= 0xfff80; break;
    case REG_RDH:
    case REG_RDT:
    case REG_TDH:
    case REG_TDT: value &= 0xffff; break;
    case REG_ITR: value &= 0xffff; break;
    default: break;
    }
    *e1000_reg(n, offset) = value;
}

static void write_register(struct e1000 *n, unsigned offset, uint32_t value)
{
    if (is_statistic(offset) || offset >= REG_END)
        return;
    switch (offset) {
    case REG_CTRL: write_ctrl(n, value); return;
    case REG_STATUS: return;
    case REG_EECD: write_eecd(n, value); return;
    case REG_EERD: write_eerd(n, value); return;
    case REG_MDIC: write_mdic(n, value); return;
    case REG_ICR: *e1000_reg(n, REG_ICR) &= ~value; break;
    case REG_ICS: e1000_cause(n, value); return;
    case REG_IMS: *e1000_reg(n, REG_IMS) |= value & ICR_ALL; break;
    case REG_IMC: *e1000_reg(n, REG_IMS) &= ~value; break;
    default: write_plain(n, offset, value); break;
    }
    if (offset == REG_TDT || offset == REG_TCTL)
        e1000_transmit(n);
    if (offset == REG_RDT || offset == REG_RCTL)
        e1000_buffers_added(n);
    update_interrupt(n);
}

// Narrow accesses go to the whole register; drivers make none.
static uint64_t memory_read(struct device *dev, uint64_t offset, unsigned size)
{
    uint32_t value = read_register(e1000_of(dev), (unsigned)offset & ~3u);

    return value >> (offset & 3) * 8;
}

static void memory_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    if (size == 4 && !(offset & 3))
        write_register(e1000_of(dev), (unsigned)offset, (uint32_t)value);
}

// An address and the register there.
static uint64_t io_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct e1000 *n = e1000_of(dev);

    if (offset == 0)
        return n->io_address;
    return offset == 4 ? read_register(n, n->io_address & (MEMORY_BYTES - 4)) : 0;
}

static void io_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct e1000 *n = e1000_of(dev);

    if (offset == 0)
        n->io_address = (uint32_t)value;
    else if (offset == 4)
        write_register(n, n->io_address & (MEMORY_BYTES - 4), (uint32_t)value);
}

static const struct io_ops memory_ops = {memory_read, memory_write, .min_size = 1, .max_size = 4};
static const struct io_ops io_ops = {io_read, io_write, .min_size = 4, .max_size = 4};

// --- Life ---

static void set_link(struct device *dev, bool up)
{
    struct e1000 *n = e1000_of(dev);

    n->link = up;
    n->taken = 0; // the host may have dropped what waited
    show_link(n);
}

static void go_on(struct device *dev)
{
    struct e1000 *n = e1000_of(dev);

    if (n->stalled)
        e1000_transmit(n);
}

static err_t e1000_init(struct device *dev, const void *config, struct error *e)
{
    static const struct pci_id id = {.vendor = 0x8086,
                                     .device = 0x100e,
                                     .subsystem_vendor = 0x1af4,
                                     .subsystem = 0x1100,
                                     .class_code = 0x020000,
                                     .revision = 2,
                                     .pin = 1};
    struct e1000 *n = e1000_of(dev);

    n->config = *(const struct nic_config *)config;
    if (n->config.mac[0] & 1)
        return error_set(e, ERR_INVALID, "%s: its MAC address is a multicast address", dev->id);
    pci_init(&n->pci, &id, NULL);
    pci_add_bar(&n->pci, BAR_MEMORY, PCI_BAR_MEM32, MEMORY_BYTES, &memory_ops);
    pci_add_bar(&n->pci, BAR_IO, PCI_BAR_IO, IO_BYTES, &io_ops);
    pci_add_rom(&n->pci, n->config.rom, n->config.rom_len, NIC_ROM_MAX);
    fill_eeprom(n);
    n->link = 1;
    return OK;
}

static void e1000_reset(struct device *dev)
{
    struct e1000 *n = e1000_of(dev);

    reset_registers(n);
    n->io_address = 0;
    pci_reset(&n->pci);
}

static err_t e1000_loaded(struct device *dev, struct error *e)
{
    struct e1000 *n = e1000_of(dev);

    if (n->starved > 1 || n->stalled > 1 || n->link > 1 || n->raised > 1 || n->clock > 1 ||
        n->shifted_in > EEPROM_COMMAND_BITS || n->shift_out > 16 + 1)
        return error_set(e, ERR_CORRUPT, "the network card has impossible values");
    if (pci_loaded(&n->pci, e) != OK)
        return e->code;
    dev->env->set_timer(dev, TIMER_TRANSMIT, dev->env->now(dev)); // harmless where nothing waits
    update_interrupt(n);
    return OK;
}

static void e1000_timer(struct device *dev, unsigned timer)
{
    struct e1000 *n = e1000_of(dev);

    if (timer == TIMER_TRANSMIT)
        e1000_transmit(n);
    else
        update_interrupt(n);
}

static void e1000_fini(struct device *dev)
{
    pci_fini(&e1000_of(dev)->pci);
}

const struct device_type e1000_type = {
    .name = "e1000",
    .size = sizeof(struct e1000),
    .timers = TIMERS,
    .lines = 1,
    .state = &e1000_state,
    .init = e1000_init,
    .reset = e1000_reset,
    .loaded = e1000_loaded,
    .timer = e1000_timer,
    .fini = e1000_fini,
};

const struct nic_model e1000_nic = {
    .type = &e1000_type, .receive = e1000_receive, .go_on = go_on, .set_link = set_link};
