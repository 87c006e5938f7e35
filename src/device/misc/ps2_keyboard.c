// A PS/2 keyboard (IBM enhanced, 101/102 keys).
//
// Source: IBM PS/2 hardware interface technical reference, "Keyboards". Scan sets 1 and 2; set 3 is
// refused, and with it the commands about single keys' repetition. Keys do not repeat by
// themselves: whoever presses them sends repeated presses.
#include "device/misc/ps2.h"

#include "base/bits.h"
#include "device/misc/i8042.h"

#define ACK 0xfa
#define RESEND 0xfe
#define SELF_TEST_OK 0xaa
#define EXTENDED 0xe0
#define RELEASED 0xf0

enum {
    CMD_LEDS = 0xed,
    CMD_ECHO = 0xee,
    CMD_SCAN_SET = 0xf0,
    CMD_ID = 0xf2,
    CMD_RATE = 0xf3,
    CMD_ENABLE = 0xf4,
    CMD_DISABLE = 0xf5,
    CMD_DEFAULTS = 0xf6,
    CMD_ALL_KEYS_FIRST = 0xf7, // 0xf7..0xfa: all keys' behaviour in set 3
    CMD_ALL_KEYS_LAST = 0xfa,
    CMD_RESEND = 0xfe,
    CMD_RESET = 0xff,
};

// Scan set 2 by scan set 1.
static const uint8_t set2[128] = {
    0x00, 0x76, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e, 0x55, 0x66, 0x0d,
    0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d, 0x54, 0x5b, 0x5a, 0x14, 0x1c, 0x1b,
    0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e, 0x12, 0x5d, 0x1a, 0x22, 0x21, 0x2a,
    0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a, 0x59, 0x7c, 0x11, 0x29, 0x58, 0x05, 0x06, 0x04, 0x0c, 0x03,
    0x0b, 0x02, 0x0a, 0x01, 0x09, 0x77, 0x7e, 0x6c, 0x75, 0x7d, 0x7b, 0x6b, 0x73, 0x74, 0x79, 0x69,
    0x72, 0x7a, 0x70, 0x71, 0x7f, 0x60, 0x61, 0x78, 0x07, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x3f,
    0x47, 0x4f, 0x56, 0x5e, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x40, 0x48, 0x50, 0x57, 0x6f,
    0x13, 0x19, 0x39, 0x51, 0x53, 0x5c, 0x5f, 0x62, 0x63, 0x64, 0x65, 0x67, 0x68, 0x6a, 0x6d, 0x6e,
};

static const struct state_field fields[] = {
    SUB(struct ps2_keyboard, queue, ps2_queue_state),
    FIELD(struct ps2_keyboard, command),
    FIELD(struct ps2_keyboard, scan_set),
    FIELD(struct ps2_keyboard, scanning),
    FIELD(struct ps2_keyboard, leds),
    FIELD(struct ps2_keyboard, rate),
    FIELD(struct ps2_keyboard, last),
    FIELDS_END,
};
const struct state_desc ps2_keyboard_state =
    STATE_DESC("ps2-keyboard", struct ps2_keyboard, 1, fields);

uint8_t ps2_translate(uint8_t code)
{
    for (unsigned i = 0; i < ARRAY_LEN(set2); i++)
        if (set2[i] == code)
            return (uint8_t)i;
    return code;
}

static void defaults(struct ps2_keyboard *k)
{
    k->scan_set = 2;
    k->rate = 0x2b;
    k->command = 0;
    k->queue.count = 0;
}

void ps2_keyboard_reset(struct ps2_keyboard *k)
{
    defaults(k);
    k->leds = 0;
    k->scanning = 1;
}

static void send(struct ps2_keyboard *k, uint8_t byte)
{
    ps2_queue_push(&k->queue, byte);
}

int ps2_keyboard_take(struct ps2_keyboard *k)
{
    int byte = ps2_queue_pop(&k->queue);
    if (byte >= 0)
        k->last = (uint8_t)byte;
    return byte;
}

static void write_parameter(struct ps2_keyboard *k, uint8_t command, uint8_t value)
{
    if (command == CMD_SCAN_SET && value > 2) {
        send(k, RESEND);
        return;
    }
    send(k, ACK);
    if (command == CMD_LEDS)
        k->leds = value & 7;
    else if (command == CMD_RATE)
        k->rate = value & 0x7f;
    else if (value)
        k->scan_set = value;
    else
        send(k, k->scan_set);
}

static void write_command(struct ps2_keyboard *k, uint8_t command)
{
    switch (command) {
    case CMD_LEDS:
    case CMD_SCAN_SET:
    case CMD_RATE:
        k->command = command;
        send(k, ACK);
        break;
    case CMD_ECHO: send(k, CMD_ECHO); break;
    case CMD_ID:
        send(k, ACK);
        send(k, 0xab);
        send(k, 0x83);
        break;
    case CMD_ENABLE:
        k->queue.count = 0;
        k->scanning = 1;
        send(k, ACK);
        break;
    case CMD_DISABLE:
    case CMD_DEFAULTS:
        defaults(k);
        k->scanning = command == CMD_DEFAULTS;
        send(k, ACK);
        break;
    case CMD_ALL_KEYS_FIRST ... CMD_ALL_KEYS_LAST: send(k, ACK); break;
    case CMD_RESEND: send(k, k->last); break;
    case CMD_RESET:
        ps2_keyboard_reset(k);
        send(k, ACK);
        send(k, SELF_TEST_OK);
        break;
    default: send(k, RESEND);
    }
}

void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t byte)
{
    uint8_t command = k->command;
    k->command = 0;
    if (command && byte < CMD_LEDS) // a command in the place of a parameter replaces it
        write_parameter(k, command, byte);
    else
        write_command(k, byte);
}

bool ps2_keyboard_key(struct ps2_keyboard *k, unsigned key, bool down)
{
    uint8_t code = key & 0x7f;
    if (!k->scanning || !code || (key & ~(I8042_KEY_EXTENDED | 0x7fu)))
        return true;
    // A sequence is put in whole or not at all, with room left for answers.
    if (ps2_queue_room(&k->queue) < 8)
        return false;
    if (key & I8042_KEY_EXTENDED)
        send(k, EXTENDED);
    if (k->scan_set == 1) {
        send(k, code | (down ? 0 : 0x80));
        return true;
    }
    if (!down)
        send(k, RELEASED);
    // F7 is the one key whose code (0x83) lies outside the table's range.
    send(k, set2[code] == 0x02 ? 0x83 : set2[code]);
    return true;
}

bool ps2_keyboard_possible(const struct ps2_keyboard *k)
{
    return ps2_queue_possible(&k->queue) && (k->scan_set == 1 || k->scan_set == 2) &&
           k->scanning <= 1 && k->leds <= 7 && k->rate <= 0x7f &&
           (!k->command || k->command == CMD_LEDS || k->command == CMD_SCAN_SET ||
            k->command == CMD_RATE);
}
