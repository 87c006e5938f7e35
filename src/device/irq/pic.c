// Two 8259A interrupt controllers, cascaded through input 2 of the master as in the PC/AT, with the
// ELCR ports that make single inputs level-triggered (ICH9 datasheet section 13.4).
//
// Source: Intel 8259A datasheet (231468). Not modelled: MCS-80/85 mode, buffered mode and ICW3's
// addresses (the cascade is wired), and the edge that is withdrawn before its acknowledgement: it
// stays latched, as guests that pulse a line expect.
#include "device/irq/pic.h"

#include "device/platform.h"

#define CASCADE 2
#define MASTER_ELCR 0xf8 // inputs 0, 1 and 2 are always edge-triggered
#define SLAVE_ELCR 0xde  // inputs 8 and 13 too
#define SPURIOUS 7

#define ICW1_IC4 0x01
#define ICW1_SINGLE 0x02
#define ICW1_LEVEL 0x08
#define ICW4_AUTO_EOI 0x02
#define ICW4_SPECIAL_NESTED 0x10

struct pic {
    struct device dev;
    struct pic_config config;
    struct chip_pic chip[2]; // master, slave
    uint8_t intr;            // the output
};

static const struct state_field chip_fields[] = {
    FIELD(struct chip_pic, lines),
    FIELD(struct chip_pic, latch),
    FIELD(struct chip_pic, isr),
    FIELD(struct chip_pic, imr),
    FIELD(struct chip_pic, elcr),
    FIELD(struct chip_pic, all_level),
    FIELD(struct chip_pic, base),
    FIELD(struct chip_pic, lowest),
    FIELD(struct chip_pic, step),
    FIELD(struct chip_pic, icw1),
    FIELD(struct chip_pic, auto_eoi),
    FIELD(struct chip_pic, rotate_auto),
    FIELD(struct chip_pic, special_mask),
    FIELD(struct chip_pic, special_nested),
    FIELD(struct chip_pic, read_isr),
    FIELD(struct chip_pic, poll),
    FIELDS_END,
};
static const struct state_desc chip_state = STATE_DESC("pic-chip", struct chip_pic, 1, chip_fields);

static const struct state_field pic_fields[] = {
    SKIP(struct pic, dev, "wiring, rebuilt from configuration"),
    SKIP(struct pic, config, "wiring, rebuilt from configuration"),
    SUB_ARRAY(struct pic, chip, chip_state),
    FIELD(struct pic, intr),
    FIELDS_END,
};
static const struct state_desc pic_state = STATE_DESC("pic", struct pic, 1, pic_fields);

static struct pic *pic_of(struct device *dev)
{
    return (struct pic *)dev;
}

static uint8_t requests(const struct chip_pic *c)
{
    uint8_t level = c->all_level ? 0xff : c->elcr;
    return (uint8_t)((c->latch & ~level) | (c->lines & level));
}

// The input of highest priority among the set bits, or -1.
static int highest(const struct chip_pic *c, uint8_t set)
{
    for (unsigned i = 1; i <= 8; i++) {
        unsigned n = (c->lowest + i) & 7;
        if (set & (1u << n))
            return (int)n;
    }
    return -1;
}

// 0 is the highest priority; 8 stands for no input.
static unsigned rank(const struct chip_pic *c, int input)
{
    return input < 0 ? 8 : ((unsigned)input - c->lowest - 1) & 7;
}

// The input that the chip asks to be served, or -1.
static int pick(const struct chip_pic *c)
{
    if (c->step != PIC_READY)
        return -1;
    uint8_t in_service = c->isr;
    if (c->special_mask)
        in_service &= (uint8_t)~c->imr;
    if (c->special_nested) // further requests of the slave are let through
        in_service &= (uint8_t) ~(1u << CASCADE);
    int request = highest(c, requests(c) & (uint8_t)~c->imr);
    return rank(c, request) < rank(c, highest(c, in_service)) ? request : -1;
}

static void update(struct pic *p)
{
    struct chip_pic *master = &p->chip[0];
    uint8_t bit = 1u << CASCADE;
    // The cascade behaves like a level: the slave's output is high exactly while it has a request.
    if (pick(&p->chip[1]) >= 0)
        master->lines |= bit, master->latch |= bit;
    else
        master->lines &= (uint8_t)~bit, master->latch &= (uint8_t)~bit;
    bool intr = pick(master) >= 0;
    if (intr == p->intr)
        return;
    p->intr = intr;
    p->config.output(p->config.opaque, intr);
}

static void set_input(struct chip_pic *c, unsigned input, bool level)
{
    uint8_t bit = (uint8_t)(1u << input);
    if (!level) {
        c->lines &= (uint8_t)~bit;
    } else if (!(c->lines & bit)) {
        c->lines |= bit;
        c->latch |= bit;
    }
}

void pic_set_line(struct device *dev, unsigned irq, bool level)
{
    struct pic *p = pic_of(dev);
    if (irq >= 16 || irq == CASCADE)
        return;
    set_input(&p->chip[irq >> 3], irq & 7, level);
    update(p);
}

bool pic_intr(const struct device *dev)
{
    return ((const struct pic *)dev)->intr;
}

static void acknowledge(struct chip_pic *c, unsigned input)
{
    uint8_t bit = (uint8_t)(1u << input);
    c->latch &= (uint8_t)~bit;
    if (!c->auto_eoi)
        c->isr |= bit;
    else if (c->rotate_auto)
        c->lowest = (uint8_t)input;
}

// An acknowledge cycle of one chip: the input served, SPURIOUS when the request has gone.
static unsigned serve(struct chip_pic *c)
{
    int input = pick(c);
    if (input < 0)
        return SPURIOUS;
    acknowledge(c, (unsigned)input);
    return (unsigned)input;
}

uint8_t pic_ack(struct device *dev)
{
    struct pic *p = pic_of(dev);
    struct chip_pic *c = &p->chip[0];
    bool cascaded = pick(c) == CASCADE;
    unsigned input = serve(c);
    if (cascaded) {
        c = &p->chip[1];
        input = serve(c);
    }
    update(p);
    return (uint8_t)(c->base + input);
}

// Operation command word 2: ends of interrupt and rotation.
static void write_ocw2(struct chip_pic *c, uint8_t value)
{
    bool rotate = value & 0x80, specific = value & 0x40, eoi = value & 0x20;
    if (!eoi) {
        if (rotate && specific)
            c->lowest = value & 7;
        else if (!specific)
            c->rotate_auto = rotate;
        return;
    }
    // In special mask mode a non-specific EOI does not end a masked input.
    uint8_t ends = c->special_mask ? (uint8_t)(c->isr & ~c->imr) : c->isr;
    int input = specific ? value & 7 : highest(c, ends);
    if (input < 0)
        return;
    c->isr &= (uint8_t) ~(1u << input);
    if (rotate)
        c->lowest = (uint8_t)input;
}

static void write_ocw3(struct chip_pic *c, uint8_t value)
{
    if (value & 0x40)
        c->special_mask = (value >> 5) & 1;
    if (value & 0x04)
        c->poll = 1;
    if (value & 0x02)
        c->read_isr = value & 1;
}

static void write_icw1(struct chip_pic *c, uint8_t value)
{
    *c = (struct chip_pic){
        .lines = c->lines,
        .elcr = c->elcr,
        .all_level = (value & ICW1_LEVEL) != 0,
        .base = c->base,
        .lowest = 7,
        .step = PIC_ICW2,
        .icw1 = value,
    };
}

// The command words that follow ICW1 at the odd port.
static void write_icw(struct chip_pic *c, uint8_t value)
{
    uint8_t after_icw3 = c->icw1 & ICW1_IC4 ? PIC_ICW4 : PIC_READY;
    switch (c->step) {
    case PIC_ICW2:
        c->base = value & 0xf8;
        c->step = c->icw1 & ICW1_SINGLE ? after_icw3 : PIC_ICW3;
        break;
    case PIC_ICW3: c->step = after_icw3; break;
    case PIC_ICW4:
        c->auto_eoi = (value & ICW4_AUTO_EOI) != 0;
        c->special_nested = (value & ICW4_SPECIAL_NESTED) != 0;
        c->step = PIC_READY;
        break;
    default: c->imr = value;
    }
}

static void chip_write(struct pic *p, unsigned n, uint64_t offset, uint8_t value)
{
    struct chip_pic *c = &p->chip[n];
    if (offset)
        write_icw(c, value);
    else if (value & 0x10)
        write_icw1(c, value);
    else if (value & 0x08)
        write_ocw3(c, value);
    else
        write_ocw2(c, value);
    update(p);
}

static uint8_t chip_read(struct pic *p, unsigned n, uint64_t offset)
{
    struct chip_pic *c = &p->chip[n];
    if (c->poll) { // an acknowledge cycle in disguise
        c->poll = 0;
        bool any = pick(c) >= 0;
        uint8_t value = any ? (uint8_t)(0x80 | serve(c)) : SPURIOUS;
        update(p);
        return value;
    }
    if (offset)
        return c->imr;
    return c->read_isr ? c->isr : requests(c);
}

static uint64_t master_read(struct device *dev, uint64_t offset, unsigned size)
{
    return chip_read(pic_of(dev), 0, offset);
}

static void master_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    chip_write(pic_of(dev), 0, offset, (uint8_t)value);
}

static uint64_t slave_read(struct device *dev, uint64_t offset, unsigned size)
{
    return chip_read(pic_of(dev), 1, offset);
}

static void slave_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    chip_write(pic_of(dev), 1, offset, (uint8_t)value);
}

static uint64_t elcr_read(struct device *dev, uint64_t offset, unsigned size)
{
    return pic_of(dev)->chip[offset & 1].elcr;
}

static void elcr_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pic *p = pic_of(dev);
    p->chip[offset & 1].elcr = (uint8_t)(value & (offset ? SLAVE_ELCR : MASTER_ELCR));
    update(p);
}

static const struct io_ops master_ops = {master_read, master_write, 1, 1};
static const struct io_ops slave_ops = {slave_read, slave_write, 1, 1};
static const struct io_ops elcr_ops = {elcr_read, elcr_write, 1, 1};

static err_t init(struct device *dev, const void *config, struct error *e)
{
    pic_of(dev)->config = *(const struct pic_config *)config;
    err_t err = dev->env->map_pio(dev, PC_PORT_PIC_MASTER, 2, &master_ops);
    if (!err)
        err = dev->env->map_pio(dev, PC_PORT_PIC_SLAVE, 2, &slave_ops);
    if (!err)
        err = dev->env->map_pio(dev, PC_PORT_ELCR, 2, &elcr_ops);
    return err ? error_set(e, err, "interrupt controller ports are taken") : OK;
}

static void reset(struct device *dev)
{
    struct pic *p = pic_of(dev);
    for (unsigned n = 0; n < 2; n++)
        p->chip[n] = (struct chip_pic){.lines = p->chip[n].lines, .lowest = 7, .step = PIC_DEAD};
    update(p);
}

void pic_export(const struct device *dev, struct chip_pic out[2])
{
    const struct pic *p = (const struct pic *)dev;
    out[0] = p->chip[0];
    out[1] = p->chip[1];
}

void pic_import(struct device *dev, const struct chip_pic in[2])
{
    struct pic *p = pic_of(dev);
    p->chip[0] = in[0];
    p->chip[1] = in[1];
    update(p);
}

static err_t loaded(struct device *dev, struct error *e)
{
    struct pic *p = pic_of(dev);
    for (unsigned n = 0; n < 2; n++) {
        const struct chip_pic *c = &p->chip[n];
        if (c->step > PIC_DEAD || c->lowest > 7 || (c->base & 7) ||
            (c->elcr & ~(n ? SLAVE_ELCR : MASTER_ELCR)))
            return error_set(e, ERR_CORRUPT, "pic: impossible register values");
    }
    p->intr = pick(&p->chip[0]) >= 0;
    p->config.output(p->config.opaque, p->intr);
    return OK;
}

const struct device_type pic_type = {
    .name = "pic",
    .size = sizeof(struct pic),
    .state = &pic_state,
    .init = init,
    .reset = reset,
    .loaded = loaded,
};
