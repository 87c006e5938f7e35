// A 16550A serial port on a line without speed: a byte written is out as soon as the other side
// takes it.
//
// Source: National Semiconductor PC16550D datasheet; PC/AT convention that OUT2 gates the
// interrupt. Not modelled: parity and framing errors, DMA signalling, the break that the guest
// sends. Input waits in the back end while the receiver is full, so it never overruns (but
// looped-back output can).
#include "device/serial/uart.h"

#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"

#define FIFO_SIZE 16
#define CLOCK_HZ 1843200ull
#define RESUME_BELOW 8 // ask for more input when so much has been read

enum { REG_DATA, REG_IER, REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCRATCH, REGS };

#define IER_RECEIVE 0x01
#define IER_TRANSMIT 0x02
#define IER_LINE 0x04
#define IER_MODEM 0x08
#define IIR_NONE 0x01
#define IIR_MODEM 0x00
#define IIR_TRANSMIT 0x02
#define IIR_RECEIVE 0x04
#define IIR_LINE 0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO 0xc0
#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04
#define FCR_KEPT 0xc9
#define LCR_DLAB 0x80
#define MCR_WRITABLE 0x1f
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define LSR_READY 0x01
#define LSR_OVERRUN 0x02
#define LSR_BREAK 0x10
#define LSR_THRE 0x20
#define LSR_EMPTY 0x40
#define LSR_FIFO_ERROR 0x80
#define MSR_INPUTS 0xf0
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80
#define MSR_RI_FELL 0x04

struct fifo {
    uint8_t byte[FIFO_SIZE];
    uint8_t flags[FIFO_SIZE]; // LSR bits that come with the byte
    uint8_t head;
    uint8_t count;
};

struct uart {
    struct device dev;
    struct uart_config config;
    struct fifo rx;
    struct fifo tx; // what the other side has not taken yet
    uint16_t divisor;
    uint8_t ier;
    uint8_t fcr;
    uint8_t lcr;
    uint8_t mcr;
    uint8_t msr;
    uint8_t scratch;
    uint8_t overrun;
    uint8_t tx_pending;      // the transmitter's interrupt waits
    uint8_t timeout_pending; // the receiver's time-out interrupt waits
    uint8_t starved;         // input was refused
};

static const struct state_field fifo_fields[] = {
    ARRAY(struct fifo, byte),
    ARRAY(struct fifo, flags),
    FIELD(struct fifo, head),
    FIELD(struct fifo, count),
    FIELDS_END,
};
static const struct state_desc fifo_state = STATE_DESC("uart-fifo", struct fifo, 1, fifo_fields);

static const struct state_field uart_fields[] = {
    SKIP(struct uart, dev, "wiring, rebuilt from configuration"),
    SKIP(struct uart, config, "wiring, rebuilt from configuration"),
    SUB(struct uart, rx, fifo_state),
    SUB(struct uart, tx, fifo_state),
    FIELD(struct uart, divisor),
    FIELD(struct uart, ier),
    FIELD(struct uart, fcr),
    FIELD(struct uart, lcr),
    FIELD(struct uart, mcr),
    FIELD(struct uart, msr),
    FIELD(struct uart, scratch),
    FIELD(struct uart, overrun),
    FIELD(struct uart, tx_pending),
    FIELD(struct uart, timeout_pending),
    SKIP(struct uart, starved, "the back end offers its input again"),
    FIELDS_END,
};
static const struct state_desc uart_state = STATE_DESC("uart", struct uart, 1, uart_fields);

static struct uart *uart_of(struct device *dev)
{
    return (struct uart *)dev;
}

// --- FIFOs ---

static unsigned depth(const struct uart *u)
{
    return u->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static void push(struct fifo *f, uint8_t byte, uint8_t flags)
{
    unsigned at = (f->head + f->count) % FIFO_SIZE;
    f->byte[at] = byte;
    f->flags[at] = flags;
    f->count++;
}

static uint8_t pop(struct fifo *f)
{
    uint8_t byte = f->byte[f->head];
    f->flags[f->head] = 0;
    f->head = (f->head + 1) % FIFO_SIZE;
    f->count--;
    return byte;
}

static void clear(struct fifo *f)
{
    memset(f, 0, sizeof *f);
}

// --- interrupts ---

static unsigned trigger_level(const struct uart *u)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};
    return u->fcr & FCR_ENABLE ? levels[u->fcr >> 6] : 1;
}

static uint8_t line_errors(const struct uart *u)
{
    return (uint8_t)((u->overrun ? LSR_OVERRUN : 0) | (u->rx.count ? u->rx.flags[u->rx.head] : 0));
}

static uint8_t interrupt_id(const struct uart *u)
{
    if ((u->ier & IER_LINE) && line_errors(u))
        return IIR_LINE;
    if ((u->ier & IER_RECEIVE) && u->rx.count >= trigger_level(u))
        return IIR_RECEIVE;
    if ((u->ier & IER_RECEIVE) && u->timeout_pending)
        return IIR_TIMEOUT;
    if ((u->ier & IER_TRANSMIT) && u->tx_pending)
        return IIR_TRANSMIT;
    if ((u->ier & IER_MODEM) && (u->msr & ~MSR_INPUTS))
        return IIR_MODEM;
    return IIR_NONE;
}

// OUT2 gates the interrupt onto the bus; in loop mode that output is inactive.
static void update(struct uart *u)
{
    bool gate = (u->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    u->dev.env->set_irq(&u->dev, 0, gate && interrupt_id(u) != IIR_NONE);
}

// Bytes below the trigger level are announced when four characters' time has passed.
static void arm_timeout(struct uart *u)
{
    ns_t when = NS_NEVER;
    if ((u->ier & IER_RECEIVE) && u->rx.count && u->rx.count < trigger_level(u)) {
        unsigned bits = 2 + 5 + (u->lcr & 3) + ((u->lcr >> 2) & 1) + ((u->lcr >> 3) & 1);
        uint64_t divisor = u->divisor ? u->divisor : 1;
        when = u->dev.env->now(&u->dev) + 4 * bits * 16 * divisor * NS_PER_SEC / CLOCK_HZ;
    }
    u->dev.env->set_timer(&u->dev, 0, when);
}

static void received(struct uart *u)
{
    arm_timeout(u);
    update(u);
}

// --- the line ---

static void send(struct uart *u, uint8_t byte)
{
    u->tx_pending = 0;
    if (u->ier & IER_TRANSMIT)
        update(u); // falls now, so that the next one is an edge
    if (u->mcr & MCR_LOOP) {
        if (u->rx.count < depth(u))
            push(&u->rx, byte, 0);
        else
            u->overrun = 1;
        u->tx_pending = 1;
        received(u);
        return;
    }
    if (!u->tx.count && (!u->config.write || u->config.write(u->config.opaque, &byte, 1) == 1))
        u->tx_pending = 1;
    else if (u->tx.count < depth(u)) // a byte more than fits is lost, as on the chip
        push(&u->tx, byte, 0);
    update(u);
}

void uart_writable(struct device *dev)
{
    struct uart *u = uart_of(dev);
    if (!u->tx.count)
        return;
    while (u->tx.count &&
           (!u->config.write || u->config.write(u->config.opaque, &u->tx.byte[u->tx.head], 1) == 1))
        pop(&u->tx);
    if (!u->tx.count)
        u->tx_pending = 1;
    update(u);
}

size_t uart_input(struct device *dev, const uint8_t *data, size_t len)
{
    struct uart *u = uart_of(dev);
    size_t taken = 0;
    while (taken < len && !(u->mcr & MCR_LOOP) && u->rx.count < depth(u))
        push(&u->rx, data[taken++], 0);
    if (taken < len)
        u->starved = 1;
    if (taken)
        received(u);
    return taken;
}

void uart_break(struct device *dev)
{
    struct uart *u = uart_of(dev);
    if ((u->mcr & MCR_LOOP) || u->rx.count >= depth(u))
        return;
    push(&u->rx, 0, LSR_BREAK);
    received(u);
}

static void ask_for_input(struct uart *u)
{
    bool room = u->rx.count < depth(u) && u->rx.count <= RESUME_BELOW;
    if (!u->starved || !room || (u->mcr & MCR_LOOP))
        return;
    u->starved = 0;
    if (u->config.resume)
        u->config.resume(u->config.opaque);
}

// --- registers ---

static uint8_t receive(struct uart *u)
{
    if (!u->rx.count)
        return 0;
    uint8_t byte = pop(&u->rx);
    u->timeout_pending = 0;
    received(u);
    ask_for_input(u);
    return byte;
}

static uint8_t read_iir(struct uart *u)
{
    uint8_t id = interrupt_id(u);
    if (id == IIR_TRANSMIT) {
        u->tx_pending = 0;
        update(u);
    }
    return id | (u->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static bool any_error(const struct fifo *f)
{
    return (load_le64(f->flags) | load_le64(f->flags + 8)) != 0;
}

static uint8_t read_lsr(struct uart *u)
{
    uint8_t value = line_errors(u);
    if (u->rx.count)
        value |= LSR_READY;
    if (!u->tx.count)
        value |= LSR_THRE | LSR_EMPTY;
    if (!(value & (LSR_OVERRUN | LSR_BREAK)) && !any_error(&u->rx))
        return value; // the common case of a guest that polls
    if ((u->fcr & FCR_ENABLE) && any_error(&u->rx))
        value |= LSR_FIFO_ERROR;
    u->overrun = 0;
    u->rx.flags[u->rx.head] = 0;
    update(u);
    return value;
}

static uint8_t read_msr(struct uart *u)
{
    uint8_t value = u->msr;
    u->msr &= MSR_INPUTS;
    update(u);
    return value;
}

// The modem inputs: our own outputs in loop mode, else those of a partner that is always ready.
static void update_modem(struct uart *u)
{
    uint8_t in = MSR_CTS | MSR_DSR | MSR_DCD;
    if (u->mcr & MCR_LOOP)
        in = (uint8_t)((u->mcr & 2) << 3 | (u->mcr & 1) << 5 | (u->mcr & 4) << 4 |
                       (u->mcr & 8) << 4);
    uint8_t changed = (in ^ u->msr) & MSR_INPUTS;
    uint8_t deltas = (changed >> 4) & ~MSR_RI_FELL;
    if ((changed & MSR_RI) && !(in & MSR_RI))
        deltas |= MSR_RI_FELL;
    u->msr = (uint8_t)(in | (u->msr & ~MSR_INPUTS) | deltas);
}

static void write_ier(struct uart *u, uint8_t value)
{
    uint8_t old = u->ier;
    u->ier = value & 0x0f;
    if (!(old & IER_TRANSMIT) && (u->ier & IER_TRANSMIT) && !u->tx.count)
        u->tx_pending = 1; // enabling it with an empty transmitter interrupts at once
    received(u);
}

static void write_fcr(struct uart *u, uint8_t value)
{
    bool switched = (value ^ u->fcr) & FCR_ENABLE;
    if (switched || (value & FCR_CLEAR_RX)) {
        clear(&u->rx);
        u->timeout_pending = 0;
    }
    if ((switched || (value & FCR_CLEAR_TX)) && u->tx.count) {
        clear(&u->tx);
        u->tx_pending = 1;
    }
    u->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
    received(u);
    ask_for_input(u);
}

static void write_mcr(struct uart *u, uint8_t value)
{
    u->mcr = value & MCR_WRITABLE;
    update_modem(u);
    update(u);
    ask_for_input(u);
}

static uint64_t uart_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct uart *u = uart_of(dev);
    bool dlab = u->lcr & LCR_DLAB;
    switch (offset) {
    case REG_DATA: return dlab ? u->divisor & 0xff : receive(u);
    case REG_IER: return dlab ? u->divisor >> 8 : u->ier;
    case REG_IIR: return read_iir(u);
    case REG_LCR: return u->lcr;
    case REG_MCR: return u->mcr;
    case REG_LSR: return read_lsr(u);
    case REG_MSR: return read_msr(u);
    default: return u->scratch;
    }
}

static void uart_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct uart *u = uart_of(dev);
    uint8_t byte = (uint8_t)value;
    bool dlab = u->lcr & LCR_DLAB;
    switch (offset) {
    case REG_DATA:
        if (dlab)
            u->divisor = (uint16_t)bits_set(u->divisor, 7, 0, byte);
        else
            send(u, byte);
        break;
    case REG_IER:
        if (dlab)
            u->divisor = (uint16_t)bits_set(u->divisor, 15, 8, byte);
        else
            write_ier(u, byte);
        break;
    case REG_IIR: write_fcr(u, byte); break;
    case REG_LCR: u->lcr = byte; break;
    case REG_MCR: write_mcr(u, byte); break;
    case REG_SCRATCH: u->scratch = byte; break;
    default: break; // LSR and MSR are read-only
    }
}

static const struct io_ops uart_ops = {uart_read, uart_write, 1, 1};

// --- the device ---

static err_t init(struct device *dev, const void *config, struct error *e)
{
    struct uart *u = uart_of(dev);
    u->config = *(const struct uart_config *)config;
    err_t err = dev->env->map_pio(dev, u->config.port, REGS, &uart_ops);
    return err ? error_set(e, err, "serial port at %#x: the ports are taken", u->config.port) : OK;
}

static void reset(struct device *dev)
{
    struct uart *u = uart_of(dev);
    *u = (struct uart){.dev = u->dev, .config = u->config, .starved = u->starved, .divisor = 12};
    update_modem(u);
    u->msr &= MSR_INPUTS;
    received(u);
    ask_for_input(u);
}

static bool fifo_possible(const struct fifo *f, unsigned most)
{
    bool possible = f->head < FIFO_SIZE && f->count <= most;
    for (unsigned i = 0; i < FIFO_SIZE; i++)
        possible &= (f->flags[i] & ~LSR_BREAK) == 0;
    return possible;
}

static err_t loaded(struct device *dev, struct error *e)
{
    struct uart *u = uart_of(dev);
    if (!fifo_possible(&u->rx, depth(u)) || !fifo_possible(&u->tx, depth(u)) || u->ier > 0x0f ||
        (u->fcr & ~FCR_KEPT) || (u->mcr & ~MCR_WRITABLE) || u->overrun > 1 || u->tx_pending > 1 ||
        u->timeout_pending > 1)
        return error_set(e, ERR_CORRUPT, "uart: impossible register values");
    uart_writable(dev);
    received(u);
    u->starved = 1; // whatever the back end holds may come
    ask_for_input(u);
    return OK;
}

static void timer(struct device *dev, unsigned which)
{
    struct uart *u = uart_of(dev);
    u->timeout_pending = u->rx.count != 0;
    update(u);
}

const struct device_type uart_type = {
    .name = "uart",
    .size = sizeof(struct uart),
    .timers = 1,
    .lines = 1,
    .state = &uart_state,
    .init = init,
    .reset = reset,
    .loaded = loaded,
    .timer = timer,
};
