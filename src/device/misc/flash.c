// NOR flash with one 8-bit chip and the Intel command set, as UEFI's variable driver uses it.
//
// Source: Intel 28F256J3 datasheet (commands, status register); JEDEC JESD68.01 and JEP137 (CFI).
// After "clear status" the ready bit reads as 0 until the next operation has ended, by which OVMF
// tells flash from RAM and ROM. Not modelled: buffered programming (CFI says so), block locks that
// lock, the time that operations take. The content is the board's, like that of a disk.
#include "device/misc/flash.h"

#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"

enum command {
    CMD_NONE = 0x00,
    CMD_PROGRAM = 0x10,
    CMD_ERASE = 0x20,
    CMD_PROGRAM_TOO = 0x40,
    CMD_CLEAR_STATUS = 0x50,
    CMD_LOCKS = 0x60,
    CMD_READ_STATUS = 0x70,
    CMD_READ_ID = 0x90,
    CMD_QUERY = 0x98,
    CMD_CONFIRM = 0xd0,
    CMD_READ_ARRAY = 0xff,
};

#define STATUS_READY BIT(7)
#define STATUS_ERASE_ERROR BIT(5)
#define STATUS_PROGRAM_ERROR BIT(4)
#define STATUS_BITS (STATUS_READY | STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR)
#define MAKER_INTEL 0x89
#define CHIP_28F256J3 0x18

struct flash {
    struct device dev;
    struct flash_config config;
    uint8_t mode;    // what reads give: READ_ARRAY, READ_STATUS, READ_ID or QUERY
    uint8_t command; // waits for its second write: PROGRAM, ERASE, LOCKS or NONE
    uint8_t status;
    uint8_t pad[5];
};

static const struct state_field flash_fields[] = {
    SKIP(struct flash, dev, "wiring, rebuilt from configuration"),
    SKIP(struct flash, config, "the content is a file of its own"),
    FIELD(struct flash, mode),
    FIELD(struct flash, command),
    FIELD(struct flash, status),
    SKIP(struct flash, pad, "alignment"),
    FIELDS_END,
};
static const struct state_desc flash_state = STATE_DESC("flash", struct flash, 1, flash_fields);

// --- reading ---

// The query structure from offset 0x10 on: Intel command set, no extended table, one region.
static uint8_t query(const struct flash *f, uint64_t offset)
{
    uint8_t cfi[0x31 - 0x10] = {'Q',  'R',  'Y', 0x01, 0, 0, 0, 0, 0, 0, 0, // 0x10: primary set
                                0x27, 0x36, 0,   0,                         // 0x1b: supply voltage
                                4,    0,    10,  0,    3, 0, 3, 0,          // 0x1f: durations
                                0,    0,    0,   0,    0, 1};               // 0x27: geometry
    uint64_t blocks = f->config.len / FLASH_BLOCK;
    cfi[0x27 - 0x10] = (uint8_t)(63 - __builtin_clzll(f->config.len));
    store_le16(cfi + (0x2d - 0x10), (uint16_t)(blocks - 1));
    store_le16(cfi + (0x2f - 0x10), FLASH_BLOCK / 256);
    return offset >= 0x10 && offset < 0x10 + sizeof cfi ? cfi[offset - 0x10] : 0;
}

static uint8_t identity(uint64_t offset)
{
    switch (offset & 0xff) {
    case 0: return MAKER_INTEL;
    case 1: return CHIP_28F256J3;
    default: return 0; // not locked
    }
}

static uint8_t special_byte(const struct flash *f, uint64_t offset)
{
    switch (f->mode) {
    case CMD_READ_STATUS: return f->status;
    case CMD_READ_ID: return identity(offset);
    default: return query(f, offset);
    }
}

static uint64_t flash_read(struct device *dev, uint64_t offset, unsigned size)
{
    const struct flash *f = (const struct flash *)dev;
    if (f->mode == CMD_READ_ARRAY)
        return load_le(f->config.data + offset, size);
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)special_byte(f, offset + i) << (8 * i);
    return value;
}

// --- writing ---

static void start(struct flash *f, uint8_t command)
{
    f->command = CMD_NONE;
    switch (command) {
    case CMD_PROGRAM:
    case CMD_PROGRAM_TOO:
    case CMD_ERASE:
    case CMD_LOCKS:
        f->command = command == CMD_PROGRAM_TOO ? CMD_PROGRAM : command;
        f->mode = CMD_READ_STATUS;
        break;
    case CMD_READ_STATUS:
    case CMD_READ_ID:
    case CMD_QUERY: f->mode = command; break;
    case CMD_CLEAR_STATUS:
        f->status = 0;
        f->mode = CMD_READ_ARRAY;
        break;
    default: f->mode = CMD_READ_ARRAY; break;
    }
}

// The second write of a command. Programming can only turn ones into zeros.
static void finish(struct flash *f, uint64_t offset, uint8_t value)
{
    uint8_t command = f->command;
    f->command = CMD_NONE;
    f->status |= STATUS_READY;
    if (command == CMD_PROGRAM)
        f->config.data[offset] &= value;
    else if (command == CMD_ERASE && value == CMD_CONFIRM)
        memset(f->config.data + align_down(offset, FLASH_BLOCK), 0xff, FLASH_BLOCK);
    else if (command == CMD_ERASE)
        f->status |= STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR; // "command sequence"
}

static void flash_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct flash *f = (struct flash *)dev;
    if (f->command != CMD_NONE)
        finish(f, offset, (uint8_t)value);
    else
        start(f, (uint8_t)value);
}

// A wide read is several bytes; a wide write is one command, as on an 8-bit bus its first byte.
static const struct io_ops flash_ops = {flash_read, flash_write, 1, 8};

// --- the device ---

static err_t init(struct device *dev, const void *config, struct error *e)
{
    struct flash *f = (struct flash *)dev;
    f->config = *(const struct flash_config *)config;
    err_t err = dev->env->map_mmio(dev, f->config.at, f->config.len, &flash_ops);
    return err ? error_set(e, err, "the place of the flash memory is taken") : OK;
}

static void reset(struct device *dev)
{
    struct flash *f = (struct flash *)dev;
    f->mode = CMD_READ_ARRAY;
    f->command = CMD_NONE;
    f->status = STATUS_READY;
}

static err_t loaded(struct device *dev, struct error *e)
{
    const struct flash *f = (const struct flash *)dev;
    bool mode = f->mode == CMD_READ_ARRAY || f->mode == CMD_READ_STATUS || f->mode == CMD_READ_ID ||
                f->mode == CMD_QUERY;
    bool command = f->command == CMD_NONE || f->command == CMD_PROGRAM || f->command == CMD_ERASE ||
                   f->command == CMD_LOCKS;
    if (!mode || !command || (f->status & ~STATUS_BITS))
        return error_set(e, ERR_CORRUPT, "flash: impossible register values");
    return OK;
}

const struct device_type flash_type = {
    .name = "flash",
    .size = sizeof(struct flash),
    .state = &flash_state,
    .init = init,
    .reset = reset,
    .loaded = loaded,
};
