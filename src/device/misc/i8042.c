// The keyboard controller of the PC/AT and PS/2: ports 0x60 and 0x64, a keyboard and a mouse behind
// it.
//
// Source: IBM PS/2 hardware interface technical reference, "Keyboard and auxiliary device
// controller". Not modelled: the time a byte takes, time-outs and parity errors, the controller's
// own RAM beyond the command byte, the four-port multiplexer, the A20 gate (its bit is kept, the
// line is never masked).
#include "device/misc/i8042.h"

#include "base/bits.h"
#include "device/misc/ps2.h"
#include "device/platform.h"

#define PORT_COMMAND (PC_PORT_8042 + 4)
#define LINE_KEYBOARD 0
#define LINE_MOUSE 1

#define STATUS_OUTPUT BIT(0)
#define STATUS_SYSTEM BIT(2)
#define STATUS_COMMAND BIT(3)
#define STATUS_UNLOCKED BIT(4)
#define STATUS_MOUSE BIT(5)

#define MODE_KEYBOARD_IRQ BIT(0)
#define MODE_MOUSE_IRQ BIT(1)
#define MODE_SYSTEM BIT(2)
#define MODE_NO_KEYBOARD BIT(4)
#define MODE_NO_MOUSE BIT(5)
#define MODE_TRANSLATE BIT(6)

#define OUTPUT_NO_RESET BIT(0)
#define OUTPUT_A20 BIT(1)

enum {
    CMD_READ_MODE = 0x20,
    CMD_READ_RAM_LAST = 0x3f,
    CMD_WRITE_MODE = 0x60,
    CMD_WRITE_RAM_LAST = 0x7f,
    CMD_TEST_PASSWORD = 0xa4,
    CMD_DISABLE_MOUSE = 0xa7,
    CMD_ENABLE_MOUSE = 0xa8,
    CMD_TEST_MOUSE = 0xa9,
    CMD_SELF_TEST = 0xaa,
    CMD_TEST_KEYBOARD = 0xab,
    CMD_DISABLE_KEYBOARD = 0xad,
    CMD_ENABLE_KEYBOARD = 0xae,
    CMD_READ_INPUT = 0xc0,
    CMD_READ_OUTPUT = 0xd0,
    CMD_WRITE_OUTPUT = 0xd1,
    CMD_LOOP_KEYBOARD = 0xd2,
    CMD_LOOP_MOUSE = 0xd3,
    CMD_WRITE_MOUSE = 0xd4,
    CMD_A20_OFF = 0xdd,
    CMD_A20_ON = 0xdf,
    CMD_PULSE = 0xf0, // 0xf0..0xff
};

enum source { FROM_NOBODY, FROM_KEYBOARD, FROM_MOUSE };

struct i8042 {
    struct device dev;
    struct ps2_mouse mouse;
    struct ps2_keyboard keyboard;
    uint8_t mode;        // the command byte
    uint8_t output_port; // OUTPUT_*
    uint8_t out;         // the output buffer, full unless `from` is FROM_NOBODY
    uint8_t from;        // enum source
    uint8_t answer;      // of the controller, waits for the output buffer
    uint8_t answer_from; // enum source; FROM_NOBODY: none
    uint8_t command;     // waits for its parameter at port 0x60; 0: none
    uint8_t last_was_command;
    uint8_t released; // translation: the release prefix has been seen
    uint8_t pad[7];
};

static const struct state_field i8042_fields[] = {
    SKIP(struct i8042, dev, "wiring, rebuilt from configuration"),
    SUB(struct i8042, mouse, ps2_mouse_state),
    SUB(struct i8042, keyboard, ps2_keyboard_state),
    FIELD(struct i8042, mode),
    FIELD(struct i8042, output_port),
    FIELD(struct i8042, out),
    FIELD(struct i8042, from),
    FIELD(struct i8042, answer),
    FIELD(struct i8042, answer_from),
    FIELD(struct i8042, command),
    FIELD(struct i8042, last_was_command),
    FIELD(struct i8042, released),
    SKIP(struct i8042, pad, "alignment"),
    FIELDS_END,
};
static const struct state_desc i8042_state = STATE_DESC("i8042", struct i8042, 1, i8042_fields);

static struct i8042 *i8042_of(struct device *dev)
{
    return (struct i8042 *)dev;
}

// --- the output buffer ---

// The keyboard's next byte, in scan set 1 when translation is on; -1: none. The release prefix
// turns into the high bit of the next code.
static int keyboard_byte(struct i8042 *c)
{
    for (;;) {
        int byte = ps2_keyboard_take(&c->keyboard);
        if (byte < 0 || !(c->mode & MODE_TRANSLATE))
            return byte;
        if (byte == 0xf0) {
            c->released = 1;
            continue;
        }
        if (byte >= 0x80 && byte != 0x83 && byte != 0x84) // prefixes and answers
            return byte;
        int code = byte == 0x83 ? 0x41 : byte == 0x84 ? 0x54 : ps2_translate((uint8_t)byte);
        code |= c->released ? 0x80 : 0;
        c->released = 0;
        return code;
    }
}

static void drive(struct i8042 *c)
{
    bool keyboard = c->from == FROM_KEYBOARD && (c->mode & MODE_KEYBOARD_IRQ);
    bool mouse = c->from == FROM_MOUSE && (c->mode & MODE_MOUSE_IRQ);
    c->dev.env->set_irq(&c->dev, LINE_KEYBOARD, keyboard);
    c->dev.env->set_irq(&c->dev, LINE_MOUSE, mouse);
}

static void put(struct i8042 *c, int byte, enum source from)
{
    if (byte < 0)
        return;
    c->out = (uint8_t)byte;
    c->from = (uint8_t)from;
}

// Fills the output buffer when it is empty. The controller's own answers come first.
static void refill(struct i8042 *c)
{
    if (c->from == FROM_NOBODY && c->answer_from != FROM_NOBODY) {
        put(c, c->answer, c->answer_from);
        c->answer_from = FROM_NOBODY;
    }
    if (c->from == FROM_NOBODY && !(c->mode & MODE_NO_KEYBOARD))
        put(c, keyboard_byte(c), FROM_KEYBOARD);
    if (c->from == FROM_NOBODY && !(c->mode & MODE_NO_MOUSE))
        put(c, ps2_mouse_take(&c->mouse), FROM_MOUSE);
    drive(c);
}

static void answer(struct i8042 *c, uint8_t byte, enum source from)
{
    c->answer = byte;
    c->answer_from = (uint8_t)from;
}

// --- commands ---

static void set_output_port(struct i8042 *c, uint8_t value)
{
    c->output_port = (value & OUTPUT_A20) | OUTPUT_NO_RESET;
    if (!(value & OUTPUT_NO_RESET))
        c->dev.env->request(&c->dev, MACHINE_RESET, 0);
}

static void run_command(struct i8042 *c, uint8_t command)
{
    switch (command) {
    case CMD_READ_MODE: answer(c, c->mode, FROM_KEYBOARD); break;
    case CMD_READ_MODE + 1 ... CMD_READ_RAM_LAST: answer(c, 0, FROM_KEYBOARD); break;
    case CMD_WRITE_MODE ... CMD_WRITE_RAM_LAST:
    case CMD_WRITE_OUTPUT ... CMD_WRITE_MOUSE: c->command = command; break;
    case CMD_TEST_PASSWORD: answer(c, 0xf1, FROM_KEYBOARD); break; // none is set
    case CMD_DISABLE_MOUSE: c->mode |= MODE_NO_MOUSE; break;
    case CMD_ENABLE_MOUSE: c->mode &= (uint8_t)~MODE_NO_MOUSE; break;
    case CMD_SELF_TEST:
        c->mode |= MODE_SYSTEM;
        answer(c, 0x55, FROM_KEYBOARD);
        break;
    case CMD_TEST_MOUSE:
    case CMD_TEST_KEYBOARD: answer(c, 0, FROM_KEYBOARD); break;
    case CMD_DISABLE_KEYBOARD: c->mode |= MODE_NO_KEYBOARD; break;
    case CMD_ENABLE_KEYBOARD: c->mode &= (uint8_t)~MODE_NO_KEYBOARD; break;
    case CMD_READ_INPUT: answer(c, 0x80, FROM_KEYBOARD); break; // keyboard not inhibited
    case CMD_READ_OUTPUT: answer(c, c->output_port, FROM_KEYBOARD); break;
    case CMD_A20_OFF: c->output_port &= (uint8_t)~OUTPUT_A20; break;
    case CMD_A20_ON: c->output_port |= OUTPUT_A20; break;
    case CMD_PULSE ... 0xff:
        if (!(command & OUTPUT_NO_RESET))
            c->dev.env->request(&c->dev, MACHINE_RESET, 0);
        break;
    default: break;
    }
}

static void write_parameter(struct i8042 *c, uint8_t command, uint8_t value)
{
    switch (command) {
    case CMD_WRITE_MODE: c->mode = value & 0x7f; break;
    case CMD_WRITE_OUTPUT: set_output_port(c, value); break;
    case CMD_LOOP_KEYBOARD: answer(c, value, FROM_KEYBOARD); break;
    case CMD_LOOP_MOUSE: answer(c, value, FROM_MOUSE); break;
    case CMD_WRITE_MOUSE:
        c->mode &= (uint8_t)~MODE_NO_MOUSE;
        ps2_mouse_write(&c->mouse, value);
        break;
    default: break; // the rest of the controller's RAM
    }
}

// --- ports ---

static uint64_t data_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct i8042 *c = i8042_of(dev);
    uint8_t value = c->out;
    if (c->from != FROM_NOBODY) {
        c->from = FROM_NOBODY;
        drive(c); // falls between two bytes
        refill(c);
    }
    return value;
}

static void data_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct i8042 *c = i8042_of(dev);
    uint8_t command = c->command;
    c->command = 0;
    c->last_was_command = 0;
    if (command) {
        write_parameter(c, command, (uint8_t)value);
    } else {
        c->mode &= (uint8_t)~MODE_NO_KEYBOARD; // talking to it enables it
        ps2_keyboard_write(&c->keyboard, (uint8_t)value);
    }
    refill(c);
}

static uint64_t status_read(struct device *dev, uint64_t offset, unsigned size)
{
    const struct i8042 *c = i8042_of(dev);
    uint64_t status = STATUS_UNLOCKED;
    if (c->from != FROM_NOBODY)
        status |= STATUS_OUTPUT;
    if (c->from == FROM_MOUSE)
        status |= STATUS_MOUSE;
    if (c->mode & MODE_SYSTEM)
        status |= STATUS_SYSTEM;
    return status | (c->last_was_command ? STATUS_COMMAND : 0);
}

static void command_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct i8042 *c = i8042_of(dev);
    c->command = 0;
    c->last_was_command = 1;
    run_command(c, (uint8_t)value);
    refill(c);
}

static const struct io_ops data_ops = {data_read, data_write, 1, 1};
static const struct io_ops command_ops = {status_read, command_write, 1, 1};

// --- from outside ---

bool i8042_key(struct device *dev, unsigned key, bool down)
{
    struct i8042 *c = i8042_of(dev);
    bool taken = ps2_keyboard_key(&c->keyboard, key, down);
    refill(c);
    return taken;
}

void i8042_mouse(struct device *dev, int dx, int dy, int wheel, unsigned buttons)
{
    struct i8042 *c = i8042_of(dev);
    ps2_mouse_move(&c->mouse, dx, dy, wheel, buttons);
    refill(c);
}

// --- the device ---

static err_t init(struct device *dev, const void *config, struct error *e)
{
    err_t err = dev->env->map_pio(dev, PC_PORT_8042, 1, &data_ops);
    if (!err)
        err = dev->env->map_pio(dev, PORT_COMMAND, 1, &command_ops);
    return err ? error_set(e, err, "keyboard controller ports are taken") : OK;
}

static void reset(struct device *dev)
{
    struct i8042 *c = i8042_of(dev);
    *c = (struct i8042){
        .dev = c->dev,
        .mode = MODE_KEYBOARD_IRQ | MODE_MOUSE_IRQ | MODE_TRANSLATE,
        .output_port = OUTPUT_NO_RESET | OUTPUT_A20,
    };
    ps2_keyboard_reset(&c->keyboard);
    ps2_mouse_reset(&c->mouse);
    drive(c);
}

static err_t loaded(struct device *dev, struct error *e)
{
    struct i8042 *c = i8042_of(dev);
    if (!ps2_keyboard_possible(&c->keyboard) || !ps2_mouse_possible(&c->mouse) ||
        c->from > FROM_MOUSE || c->answer_from > FROM_MOUSE || c->last_was_command > 1 ||
        c->released > 1 || c->mode > 0x7f)
        return error_set(e, ERR_CORRUPT, "i8042: impossible register values");
    drive(c);
    return OK;
}

const struct device_type i8042_type = {
    .name = "i8042",
    .size = sizeof(struct i8042),
    .lines = 2,
    .state = &i8042_state,
    .init = init,
    .reset = reset,
    .loaded = loaded,
};
