// The ATA commands of a SATA disk.
//
// Specification: ATA8-ACS / ACS-3. Implemented: reads, writes and verifies in all their 28 and 48
// bit, PIO, DMA and queued forms, FLUSH CACHE, DATA SET MANAGEMENT (TRIM), IDENTIFY, SET FEATURES,
// SMART as far as drivers and monitors look, the log of queued errors, power commands (which change
// nothing). Not modelled: security, host protected area, queued TRIM, streaming, device
// configuration.
#include "base/checked.h"
#include "device/storage/ahci_impl.h"

#include <string.h>

enum {
    CMD_DATA_SET_MANAGEMENT = 0x06,
    CMD_RECALIBRATE = 0x10,
    CMD_READ_LOG = 0x2f,
    CMD_READ_LOG_DMA = 0x47,
    CMD_DIAGNOSTIC = 0x90,
    CMD_SET_PARAMETERS = 0x91,
    CMD_SMART = 0xb0,
    CMD_STANDBY_NOW = 0xe0,
    CMD_IDLE_NOW = 0xe1,
    CMD_STANDBY = 0xe2,
    CMD_IDLE = 0xe3,
    CMD_CHECK_POWER = 0xe5,
    CMD_SLEEP = 0xe6,
    CMD_FLUSH = 0xe7,
    CMD_FLUSH_EXT = 0xea,
    CMD_IDENTIFY = 0xec,
    CMD_SET_FEATURES = 0xef,
    CMD_SET_MULTIPLE = 0xc6,

    DEVICE_LBA = 0x40,
    DEVICE_FUA = 0x80, // of queued commands
    HEADS = 16,        // the geometry that old software sees
    SECTORS = 63,

    TRIM_ENTRY = 8,
    MULTIPLE_MAX = 128,
};

// --- Reads and writes: one table for all forms ---

enum how { READ, WRITE, VERIFY };

struct form {
    uint8_t command;
    uint8_t how;
    uint8_t protocol; // enum ata_protocol
    bool wide;        // 48-bit address, 16-bit count
    bool fua;
};

static const struct form forms[] = {
    {0x20, READ, ATA_PIO_IN, false, false},    {0x21, READ, ATA_PIO_IN, false, false},
    {0x24, READ, ATA_PIO_IN, true, false},     {0x25, READ, ATA_DMA, true, false},
    {0x29, READ, ATA_PIO_IN, true, false},     {0x30, WRITE, ATA_PIO_OUT, false, false},
    {0x31, WRITE, ATA_PIO_OUT, false, false},  {0x34, WRITE, ATA_PIO_OUT, true, false},
    {0x35, WRITE, ATA_DMA, true, false},       {0x39, WRITE, ATA_PIO_OUT, true, false},
    {0x3d, WRITE, ATA_DMA, true, true},        {0x40, VERIFY, ATA_NO_DATA, false, false},
    {0x41, VERIFY, ATA_NO_DATA, false, false}, {0x42, VERIFY, ATA_NO_DATA, true, false},
    {0x60, READ, ATA_QUEUED, true, false},     {0x61, WRITE, ATA_QUEUED, true, false},
    {0xc4, READ, ATA_PIO_IN, false, false},    {0xc5, WRITE, ATA_PIO_OUT, false, false},
    {0xc8, READ, ATA_DMA, false, false},       {0xc9, READ, ATA_DMA, false, false},
    {0xca, WRITE, ATA_DMA, false, false},      {0xcb, WRITE, ATA_DMA, false, false},
    {0xce, WRITE, ATA_PIO_OUT, true, true},
};

static const struct form *form_of(uint8_t command)
{
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++)
        if (forms[i].command == command)
            return &forms[i];
    return NULL;
}

// Cylinder, head and sector count from the same registers. Sector 0 does not exist.
static bool chs_to_lba(const struct ata_task *t, uint64_t *lba)
{
    unsigned sector = t->lba & 0xff, cylinder = t->lba >> 8 & 0xffff, head = t->device & 0xf;

    if (sector == 0 || sector > SECTORS)
        return false;
    *lba = ((uint64_t)cylinder * HEADS + head) * SECTORS + sector - 1;
    return true;
}

static bool address_of(const struct ata_task *t, const struct form *f, uint64_t *lba)
{
    if (f->wide) {
        *lba = t->lba;
        return true;
    }
    if (!(t->device & DEVICE_LBA))
        return chs_to_lba(t, lba);
    *lba = (t->lba & 0xffffff) | (uint64_t)(t->device & 0xf) << 24;
    return true;
}

static uint32_t sectors_of(const struct ata_task *t, const struct form *f)
{
    uint32_t count = f->protocol == ATA_QUEUED ? t->features : t->count;

    if (!f->wide)
        return count & 0xff ? count & 0xff : 256;
    return count ? count : 65536;
}

static void transfer(struct ahci_slot *s, const struct form *f)
{
    const struct block_limits *limits = &s->port->block->limits;
    uint64_t lba, len = (uint64_t)sectors_of(&s->task, f) * ATA_SECTOR;

    s->protocol = f->protocol;
    if (!address_of(&s->task, f, &lba) || lba >= 1ull << 48 ||
        !range_within(lba * ATA_SECTOR, len, limits->size_bytes)) {
        port_finish(s, ATA_READY | ATA_ERR, ATA_IDNF);
        return;
    }
    if (lba * ATA_SECTOR % limits->logical_block || len % limits->logical_block ||
        (f->how == WRITE && limits->read_only)) {
        port_abort(s);
        return;
    }
    if (f->how == VERIFY) {
        port_finish(s, ATA_READY, 0);
        return;
    }
    if (!port_map(s, len, f->how == READ))
        return;
    s->sync = f->how == WRITE && (f->fua || !s->port->drive.write_cache ||
                                  (f->protocol == ATA_QUEUED && s->task.device & DEVICE_FUA));
    port_submit(s, f->how == READ ? BLOCK_READ : BLOCK_WRITE, lba * ATA_SECTOR, len);
}

// --- TRIM ---

// Starts the next of the command's ranges; false when there is none left. Ranges that end outside
// the disk are an error, as ACS-3 7.5.3 wants; those of length 0 are fillers.
static bool next_trim(struct ahci_slot *s, bool *bad)
{
    const struct block_limits *limits = &s->port->block->limits;

    while (s->trim_next < TRIM_BYTES / TRIM_ENTRY) {
        uint64_t entry = load_le64(s->trim + TRIM_ENTRY * (size_t)s->trim_next++);
        uint64_t at = (entry & 0xffffffffffffull) * ATA_SECTOR, len = (entry >> 48) * ATA_SECTOR;
        if (len == 0)
            continue;
        *bad = !range_within(at, len, limits->size_bytes);
        if (*bad)
            return false;
        if (at % limits->logical_block || len % limits->logical_block)
            continue; // advice that cannot be taken
        port_submit(s, BLOCK_DISCARD, at, len);
        return true;
    }
    return false;
}

static void continue_trim(struct ahci_slot *s)
{
    bool bad = false;

    if (next_trim(s, &bad))
        return;
    if (bad)
        port_finish(s, ATA_READY | ATA_ERR, ATA_IDNF);
    else
        port_finish(s, ATA_READY, 0);
}

static void data_set_management(struct ahci_slot *s)
{
    const struct block_limits *limits = &s->port->block->limits;

    s->protocol = ATA_DMA;
    if (!(s->task.features & 1) || s->task.count != 1 || !limits->discard || limits->read_only) {
        port_abort(s);
        return;
    }
    if (!port_map(s, TRIM_BYTES, false))
        return;
    s->moved = scatter_read(&s->data, 0, s->trim, TRIM_BYTES);
    s->trim_next = 0;
    continue_trim(s);
}

// --- Small commands ---

static void send_page(struct ahci_slot *s, const uint8_t *page, enum ata_protocol protocol)
{
    s->protocol = protocol;
    if (port_reply(s, page, ATA_SECTOR))
        port_finish(s, ATA_READY, 0);
}

static void identify(struct ahci_slot *s)
{
    uint8_t page[ATA_SECTOR];

    ata_identify(s->port, page);
    send_page(s, page, ATA_PIO_IN);
}

// Page 0 is the list of pages, page 0x10 says which queued command failed.
static void read_log(struct ahci_slot *s, enum ata_protocol protocol)
{
    uint8_t page[ATA_SECTOR] = {1};
    unsigned log = s->task.lba & 0xff;

    s->protocol = protocol;
    if (s->task.count != 1 || (log != 0 && log != 0x10)) {
        port_abort(s);
        return;
    }
    if (log == 0)
        page[2 * 0x10] = 1;
    else
        ata_queue_log(s->port, page);
    send_page(s, page, protocol);
}

static void set_features(struct ahci_slot *s)
{
    struct ata_drive *drive = &s->port->drive;

    switch (s->task.features & 0xff) {
    case 0x02: drive->write_cache = 1; break;
    case 0x82: drive->write_cache = 0; break;
    case 0xaa: drive->look_ahead = 1; break;
    case 0x55: drive->look_ahead = 0; break;
    case 0x66: // keep settings over a soft reset, or not: all alike here
    case 0xcc: break;
    case 0x03: {
        uint8_t mode = s->task.count & 0xff;
        bool known = mode <= 1 || (mode >= 8 && mode <= 12) || (mode >= 0x20 && mode <= 0x22) ||
                     (mode >= 0x40 && mode <= 0x46);
        if (!known) {
            port_abort(s);
            return;
        }
        drive->transfer_mode = mode;
        break;
    }
    default: port_abort(s); return;
    }
    port_finish(s, ATA_READY, 0);
}

static void set_multiple(struct ahci_slot *s)
{
    unsigned n = s->task.count & 0xff;

    if (n > MULTIPLE_MAX || (n & (n - 1))) {
        port_abort(s);
        return;
    }
    s->port->drive.multiple = (uint8_t)n;
    port_finish(s, ATA_READY, 0);
}

static void smart(struct ahci_slot *s)
{
    struct ata_drive *drive = &s->port->drive;
    uint8_t page[ATA_SECTOR] = {0};
    unsigned what = s->task.features & 0xff;
    bool key = (s->task.lba >> 8 & 0xffff) == 0xc24f;

    if (!key || (!drive->smart && what != 0xd8)) {
        port_abort(s);
        return;
    }
    switch (what) {
    case 0xd0:
        ata_smart_data(page);
        send_page(s, page, ATA_PIO_IN);
        return;
    case 0xd1: // thresholds: none of the attributes has one
        page[0] = 1;
        page[511] = 0xff;
        send_page(s, page, ATA_PIO_IN);
        return;
    case 0xd8: drive->smart = 1; break;
    case 0xd9: drive->smart = 0; break;
    case 0xd2: // attribute autosave
    case 0xd4: // off-line tests: over at once
    case 0xda: // status: the key comes back unchanged while all is well
        break;
    default: port_abort(s); return;
    }
    port_finish(s, ATA_READY, 0);
}

static void diagnostic(struct ahci_slot *s)
{
    s->task.count = 1;
    s->task.lba = 1;
    s->task.device = 0;
    port_finish(s, ATA_READY, 1); // error register: passed
}

static void flush(struct ahci_slot *s)
{
    if (s->port->block->limits.read_only)
        port_finish(s, ATA_READY, 0);
    else
        port_submit(s, BLOCK_FLUSH, 0, 0);
}

// --- Entry points ---

void ata_execute(struct ahci_slot *s)
{
    const struct form *f = form_of(s->task.command);

    if (f) {
        transfer(s, f);
        return;
    }
    switch (s->task.command) {
    case CMD_IDENTIFY: identify(s); break;
    case CMD_FLUSH:
    case CMD_FLUSH_EXT: flush(s); break;
    case CMD_DATA_SET_MANAGEMENT: data_set_management(s); break;
    case CMD_READ_LOG: read_log(s, ATA_PIO_IN); break;
    case CMD_READ_LOG_DMA: read_log(s, ATA_DMA); break;
    case CMD_SET_FEATURES: set_features(s); break;
    case CMD_SET_MULTIPLE: set_multiple(s); break;
    case CMD_SMART: smart(s); break;
    case CMD_DIAGNOSTIC: diagnostic(s); break;
    case CMD_CHECK_POWER:
        s->task.count = 0xff; // active
        port_finish(s, ATA_READY, 0);
        break;
    case CMD_RECALIBRATE:
    case CMD_SET_PARAMETERS:
    case CMD_STANDBY_NOW:
    case CMD_IDLE_NOW:
    case CMD_STANDBY:
    case CMD_IDLE:
    case CMD_SLEEP: port_finish(s, ATA_READY, 0); break;
    default: port_abort(s); break; // IDENTIFY PACKET DEVICE too: this is a disk
    }
}

// In the order of one command's requests: transfer, then the flush that makes it last.
void ata_io_ended(struct ahci_slot *s)
{
    bool bad = s->result != OK;

    if (bad) {
        port_finish(s, ATA_READY | ATA_ERR, s->io.op == BLOCK_READ ? ATA_UNC : ATA_ABRT);
        return;
    }
    if (s->io.op == BLOCK_DISCARD) {
        continue_trim(s);
        return;
    }
    if (s->io.op == BLOCK_READ || s->io.op == BLOCK_WRITE)
        s->moved = s->io.len;
    if (s->sync) {
        s->sync = false;
        port_submit(s, BLOCK_FLUSH, 0, 0);
        return;
    }
    port_finish(s, ATA_READY, 0);
}

void ata_reset(struct ahci_port *port)
{
    port->drive = (struct ata_drive){
        .multiple = 16, .write_cache = 1, .look_ahead = 1, .smart = 1, .transfer_mode = 0x45};
}

err_t ata_loaded(const struct ahci_port *port, struct error *e)
{
    const struct ata_drive *d = &port->drive;

    if (d->multiple > MULTIPLE_MAX || d->write_cache > 1 || d->look_ahead > 1 || d->smart > 1 ||
        d->failed_valid > 1 || d->failed_tag >= AHCI_SLOTS)
        return error_set(e, ERR_CORRUPT, "a SATA disk has impossible settings");
    return OK;
}
