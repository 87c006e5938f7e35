// A PS/2 mouse with three buttons, which becomes a wheel mouse when asked by the customary sequence
// of sample rates.
//
// Source: IBM PS/2 hardware interface technical reference, "Mouse"; Microsoft IntelliMouse
// extension. Movement is not scaled: 2:1 scaling and the resolution are remembered and reported
// only.
#include "device/misc/ps2.h"

#define ACK 0xfa
#define ERROR 0xfc
#define SELF_TEST_OK 0xaa
#define REPORT_ROOM 16 // room that must be left for answers before a movement is reported
#define MOVEMENT_MAX 100000

enum {
    CMD_SCALE_1 = 0xe6,
    CMD_SCALE_2 = 0xe7,
    CMD_RESOLUTION = 0xe8,
    CMD_STATUS = 0xe9,
    CMD_STREAM = 0xea,
    CMD_READ = 0xeb,
    CMD_WRAP_OFF = 0xec,
    CMD_WRAP = 0xee,
    CMD_REMOTE = 0xf0,
    CMD_ID = 0xf2,
    CMD_RATE = 0xf3,
    CMD_ENABLE = 0xf4,
    CMD_DISABLE = 0xf5,
    CMD_DEFAULTS = 0xf6,
    CMD_RESET = 0xff,
};

static const struct state_field fields[] = {
    SUB(struct ps2_mouse, queue, ps2_queue_state),
    SKIP(struct ps2_mouse, pad, "alignment"),
    FIELD(struct ps2_mouse, dx),
    FIELD(struct ps2_mouse, dy),
    FIELD(struct ps2_mouse, dz),
    FIELD(struct ps2_mouse, buttons),
    FIELD(struct ps2_mouse, sent),
    FIELD(struct ps2_mouse, command),
    FIELD(struct ps2_mouse, id),
    ARRAY(struct ps2_mouse, knock),
    FIELD(struct ps2_mouse, rate),
    FIELD(struct ps2_mouse, resolution),
    FIELD(struct ps2_mouse, scaling),
    FIELD(struct ps2_mouse, remote),
    FIELD(struct ps2_mouse, wrap),
    FIELD(struct ps2_mouse, reporting),
    FIELDS_END,
};
const struct state_desc ps2_mouse_state = STATE_DESC("ps2-mouse", struct ps2_mouse, 1, fields);

static void send(struct ps2_mouse *m, uint8_t byte)
{
    ps2_queue_push(&m->queue, byte);
}

static int32_t clamp(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}

static void defaults(struct ps2_mouse *m)
{
    m->rate = 100;
    m->resolution = 2;
    m->scaling = 0;
    m->remote = 0;
    m->wrap = 0;
    m->reporting = 0;
    m->command = 0;
    m->dx = m->dy = m->dz = 0;
    m->queue.count = 0;
}

void ps2_mouse_reset(struct ps2_mouse *m)
{
    defaults(m);
    m->id = 0;
    m->knock[0] = m->knock[1] = 0;
    m->sent = m->buttons;
}

// One packet of the movement so far; what does not fit stays for the next.
static void report(struct ps2_mouse *m)
{
    int32_t dx = clamp(m->dx, -256, 255), dy = clamp(m->dy, -256, 255);
    m->dx -= dx;
    m->dy -= dy;
    m->sent = m->buttons;
    send(m, (uint8_t)((m->buttons & 7) | 8 | (dx < 0) << 4 | (dy < 0) << 5));
    send(m, (uint8_t)dx);
    send(m, (uint8_t)dy);
    if (!m->id)
        return;
    int32_t dz = clamp(m->dz, -8, 7);
    m->dz -= dz;
    send(m, m->id == 4 ? (uint8_t)((dz & 15) | (m->buttons & 0x18) << 1) : (uint8_t)dz);
}

static bool has_news(const struct ps2_mouse *m)
{
    return m->dx || m->dy || (m->dz && m->id) || m->buttons != m->sent;
}

static void report_news(struct ps2_mouse *m)
{
    while (m->reporting && !m->remote && !m->wrap && has_news(m) &&
           ps2_queue_room(&m->queue) >= REPORT_ROOM)
        report(m);
}

int ps2_mouse_take(struct ps2_mouse *m)
{
    if (!m->queue.count)
        report_news(m);
    return ps2_queue_pop(&m->queue);
}

void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int wheel, unsigned buttons)
{
    m->buttons = buttons & 0x1f;
    if (!m->reporting && !m->remote)
        return;
    m->dx = clamp(m->dx + clamp(dx, -MOVEMENT_MAX, MOVEMENT_MAX), -MOVEMENT_MAX, MOVEMENT_MAX);
    m->dy = clamp(m->dy + clamp(dy, -MOVEMENT_MAX, MOVEMENT_MAX), -MOVEMENT_MAX, MOVEMENT_MAX);
    m->dz = clamp(m->dz + clamp(wheel, -MOVEMENT_MAX, MOVEMENT_MAX), -MOVEMENT_MAX, MOVEMENT_MAX);
    report_news(m);
}

static void set_rate(struct ps2_mouse *m, uint8_t rate)
{
    if (m->knock[0] == 200 && m->knock[1] == 100 && rate == 80)
        m->id = 3;
    else if (m->knock[0] == 200 && m->knock[1] == 200 && rate == 80 && m->id == 3)
        m->id = 4;
    m->knock[0] = m->knock[1];
    m->knock[1] = rate;
    m->rate = rate;
}

static void write_parameter(struct ps2_mouse *m, uint8_t command, uint8_t value)
{
    if (command == CMD_RESOLUTION && value > 3) {
        send(m, ERROR);
        return;
    }
    send(m, ACK);
    if (command == CMD_RATE)
        set_rate(m, value);
    else
        m->resolution = value;
}

static void send_status(struct ps2_mouse *m)
{
    // Left, middle and right button in bits 2, 1 and 0.
    unsigned b = m->buttons;
    unsigned buttons = (b & 1) << 2 | (b >> 2 & 1) << 1 | (b >> 1 & 1);
    send(m, (uint8_t)(buttons | m->scaling << 4 | m->reporting << 5 | m->remote << 6));
    send(m, m->resolution);
    send(m, m->rate);
}

static void write_command(struct ps2_mouse *m, uint8_t command)
{
    if (command != CMD_RESET && command < CMD_SCALE_1) {
        send(m, ERROR);
        return;
    }
    if (command == CMD_RESET)
        ps2_mouse_reset(m);
    if (command == CMD_DISABLE || command == CMD_READ)
        m->queue.count = 0; // a packet not yet taken must not be mistaken for the answer
    send(m, ACK);
    switch (command) {
    case CMD_SCALE_1: m->scaling = 0; break;
    case CMD_SCALE_2: m->scaling = 1; break;
    case CMD_RESOLUTION:
    case CMD_RATE: m->command = command; break;
    case CMD_STATUS: send_status(m); break;
    case CMD_STREAM: m->remote = 0; break;
    case CMD_READ: report(m); break;
    case CMD_WRAP: m->wrap = 1; break;
    case CMD_REMOTE: m->remote = 1; break;
    case CMD_ID: send(m, m->id); break;
    case CMD_ENABLE: m->reporting = 1; break;
    case CMD_DISABLE: m->reporting = 0; break;
    case CMD_DEFAULTS:
        defaults(m);
        send(m, ACK);
        break;
    case CMD_RESET:
        send(m, SELF_TEST_OK);
        send(m, 0);
        break;
    default: break; // CMD_WRAP_OFF outside of wrap mode; reserved codes
    }
}

void ps2_mouse_write(struct ps2_mouse *m, uint8_t byte)
{
    if (m->wrap && byte != CMD_RESET && byte != CMD_WRAP_OFF) {
        send(m, byte);
        return;
    }
    m->wrap = 0;
    uint8_t command = m->command;
    m->command = 0;
    if (command)
        write_parameter(m, command, byte);
    else
        write_command(m, byte);
}

bool ps2_mouse_possible(const struct ps2_mouse *m)
{
    return ps2_queue_possible(&m->queue) && m->dx == clamp(m->dx, -MOVEMENT_MAX, MOVEMENT_MAX) &&
           m->dy == clamp(m->dy, -MOVEMENT_MAX, MOVEMENT_MAX) &&
           m->dz == clamp(m->dz, -MOVEMENT_MAX, MOVEMENT_MAX) && m->buttons <= 0x1f &&
           m->sent <= 0x1f && (m->id == 0 || m->id == 3 || m->id == 4) && m->resolution <= 3 &&
           m->scaling <= 1 && m->remote <= 1 && m->wrap <= 1 && m->reporting <= 1 &&
           (!m->command || m->command == CMD_RESOLUTION || m->command == CMD_RATE);
}
