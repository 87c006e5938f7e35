// The packet commands of a CD-ROM drive (a DVD-ROM drive when the disc is larger than a CD).
//
// Specification: ATA8-ACS for the registers; MMC-5 and SPC-3 for the packets. Implemented: what
// firmware, boot loaders, installers and operating systems send to read data discs, lock and eject
// them, and notice that one was changed. Not modelled: audio, writing, several sessions, raw
// sectors (READ CD gives user data only).
#include "base/checked.h"
#include "device/storage/ahci_impl.h"

#include <string.h>

enum {
    CMD_DEVICE_RESET = 0x08,
    CMD_DIAGNOSTIC = 0x90,
    CMD_PACKET = 0xa0,
    CMD_IDENTIFY_PACKET = 0xa1,
    CMD_CHECK_POWER = 0xe5,
    CMD_SET_FEATURES = 0xef,

    REASON_DONE = 3, // interrupt reason: status phase

    NO_SENSE = 0,
    NOT_READY = 2,
    MEDIUM_ERROR = 3,
    ILLEGAL_REQUEST = 5,
    UNIT_ATTENTION = 6,

    ASC_UNRECOVERED_READ = 0x11,
    ASC_INVALID_COMMAND = 0x20,
    ASC_OUT_OF_RANGE = 0x21,
    ASC_INVALID_FIELD = 0x24,
    ASC_MEDIUM_CHANGED = 0x28,
    ASC_POWER_ON = 0x29,
    ASC_NO_MEDIUM = 0x3a,
    ASC_REMOVAL_PREVENTED = 0x53,
};

// --- Ending a packet ---

static void good(struct ahci_slot *s)
{
    s->task.count = REASON_DONE;
    port_finish(s, ATA_READY, 0);
}

static void check(struct ahci_slot *s, uint8_t key, uint8_t asc, uint8_t ascq)
{
    struct ata_drive *d = &s->port->drive;

    d->sense_key = key;
    d->asc = asc;
    d->ascq = ascq;
    s->task.count = REASON_DONE;
    port_finish(s, ATA_READY | ATA_ERR, (uint8_t)(key << 4 | ATA_ABRT));
}

static void illegal(struct ahci_slot *s, uint8_t asc)
{
    check(s, ILLEGAL_REQUEST, asc, 0);
}

static void no_disc(struct ahci_slot *s)
{
    check(s, NOT_READY, ASC_NO_MEDIUM, s->port->drive.tray_open ? 2 : 1); // tray open, closed
}

// len 0: there is no such reply.
static void reply(struct ahci_slot *s, const uint8_t *data, size_t len, uint32_t allocated)
{
    if (len == 0)
        illegal(s, ASC_INVALID_FIELD);
    else if (port_reply(s, data, len < allocated ? len : allocated))
        good(s);
}

// --- The disc ---

bool atapi_disc(const struct ahci_port *port)
{
    return port->block && !port->drive.tray_open;
}

uint32_t atapi_sectors(const struct ahci_port *port)
{
    uint64_t n = atapi_disc(port) ? port->block->limits.size_bytes / CD_SECTOR : 0;

    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

static void read_sectors(struct ahci_slot *s, uint32_t lba, uint32_t count)
{
    uint64_t len = (uint64_t)count * CD_SECTOR;

    if (!range_within(lba, count, atapi_sectors(s->port))) {
        illegal(s, ASC_OUT_OF_RANGE);
        return;
    }
    if (count == 0) {
        good(s);
        return;
    }
    if (port_map(s, len, true))
        port_submit(s, BLOCK_READ, (uint64_t)lba * CD_SECTOR, len);
}

// READ CD: any sector type, and of each sector the user data.
static void read_cd(struct ahci_slot *s)
{
    const uint8_t *c = s->packet;
    uint32_t count = load_be32(c + 5) & 0xffffff; // bytes 6 to 8

    if ((c[9] & 0xf8) == 0 || count == 0)
        good(s);
    else if ((c[9] & 0xf8) != 0x10 || (c[10] & 7))
        illegal(s, ASC_INVALID_FIELD);
    else
        read_sectors(s, load_be32(c + 2), count);
}

static void read_capacity(struct ahci_slot *s)
{
    uint8_t out[8];

    store_be32(out, atapi_sectors(s->port) - 1);
    store_be32(out + 4, CD_SECTOR);
    reply(s, out, sizeof out, sizeof out);
}

// --- Sense and events ---

static void request_sense(struct ahci_slot *s)
{
    struct ata_drive *d = &s->port->drive;
    uint8_t out[18] = {0x70, 0, d->sense_key, [7] = 10, [12] = d->asc, [13] = d->ascq};

    d->sense_key = d->asc = d->ascq = 0;
    reply(s, out, sizeof out, s->packet[4]);
}

// Only the media class, and polled only.
static void event_status(struct ahci_slot *s)
{
    struct ata_drive *d = &s->port->drive;
    uint8_t out[8] = {0, 2, 0x80, 0x10}; // no event available; media events are known
    size_t len = 4;

    if (!(s->packet[1] & 1)) {
        illegal(s, ASC_INVALID_FIELD);
        return;
    }
    if (s->packet[4] & 0x10) {
        out[1] = 6;
        out[2] = 4;
        out[4] = d->media_event;
        out[5] = (uint8_t)((atapi_disc(s->port) ? 2 : 0) | (d->tray_open ? 1 : 0));
        d->media_event = 0;
        len = 8;
    }
    reply(s, out, len, load_be16(s->packet + 7));
}

// --- The tray ---

static void start_stop(struct ahci_slot *s)
{
    struct ata_drive *d = &s->port->drive;
    unsigned what = s->packet[4] & 3;

    if (what == 2 && d->tray_locked) {
        check(s, ILLEGAL_REQUEST, ASC_REMOVAL_PREVENTED, 2);
        return;
    }
    if (what == 2 && !d->tray_open) {
        d->tray_open = 1;
        d->media_event = 3;
    } else if (what == 3 && d->tray_open) {
        d->tray_open = 0;
        d->attention = s->port->block ? CD_CHANGED : CD_NOTHING;
        d->media_event = 2;
    }
    good(s);
}

static void prevent_removal(struct ahci_slot *s)
{
    s->port->drive.tray_locked = s->packet[4] & 1;
    good(s);
}

static void mechanism_status(struct ahci_slot *s)
{
    uint8_t out[8] = {0, (uint8_t)(s->port->drive.tray_open ? 0x10 : 0)};

    reply(s, out, sizeof out, load_be16(s->packet + 8));
}

// --- Replies from tables ---

static void inquiry(struct ahci_slot *s)
{
    uint8_t out[CD_REPLY_MAX] = {0};

    reply(s, out, atapi_inquiry(s->port, s->packet, out), load_be16(s->packet + 3));
}

static void mode_sense(struct ahci_slot *s)
{
    uint8_t out[CD_REPLY_MAX] = {0};
    bool ten = s->packet[0] == 0x5a;
    uint32_t allocated = ten ? load_be16(s->packet + 7) : s->packet[4];

    reply(s, out, atapi_mode_sense(s->port, s->packet[2] & 0x3f, s->packet[2] >> 6, ten, out),
          allocated);
}

static void toc(struct ahci_slot *s)
{
    uint8_t out[CD_REPLY_MAX] = {0};

    reply(s, out, atapi_toc(s->port, s->packet, out), load_be16(s->packet + 7));
}

static void configuration(struct ahci_slot *s)
{
    uint8_t out[CD_REPLY_MAX] = {0};

    reply(s, out, atapi_configuration(s->port, s->packet, out), load_be16(s->packet + 7));
}

static void disc_information(struct ahci_slot *s)
{
    uint8_t out[CD_REPLY_MAX] = {0};

    reply(s, out, s->packet[1] & 7 ? 0 : atapi_disc_information(s->port, out),
          load_be16(s->packet + 7));
}

static void track_information(struct ahci_slot *s)
{
    uint8_t out[CD_REPLY_MAX] = {0};

    reply(s, out, atapi_track_information(s->port, s->packet, out), load_be16(s->packet + 7));
}

static void dvd_structure(struct ahci_slot *s)
{
    uint8_t out[CD_REPLY_MAX] = {0};

    reply(s, out, atapi_dvd_structure(s->port, s->packet, out), load_be16(s->packet + 8));
}

static void read_10(struct ahci_slot *s)
{
    read_sectors(s, load_be32(s->packet + 2), load_be16(s->packet + 7));
}

static void read_12(struct ahci_slot *s)
{
    read_sectors(s, load_be32(s->packet + 2), load_be32(s->packet + 6));
}

static void seek(struct ahci_slot *s)
{
    if (load_be32(s->packet + 2) >= atapi_sectors(s->port))
        illegal(s, ASC_OUT_OF_RANGE);
    else
        good(s);
}

// --- The table of packets ---

enum {
    NEEDS_DISC = 1,
    ANY_TIME = 2, // does not report unit attention (SPC-3, 5.8.2: INQUIRY and its like)
};

static const struct packet {
    uint8_t code;
    uint8_t flags;
    void (*run)(struct ahci_slot *s);
} packets[] = {
    {0x00, NEEDS_DISC, good}, // TEST UNIT READY
    {0x03, ANY_TIME, request_sense},
    {0x12, ANY_TIME, inquiry},
    {0x1a, 0, mode_sense},
    {0x1b, 0, start_stop},
    {0x1e, 0, prevent_removal},
    {0x25, NEEDS_DISC, read_capacity},
    {0x28, NEEDS_DISC, read_10},
    {0x2b, NEEDS_DISC, seek},
    {0x35, 0, good}, // SYNCHRONIZE CACHE
    {0x43, NEEDS_DISC, toc},
    {0x46, ANY_TIME, configuration},
    {0x4a, ANY_TIME, event_status},
    {0x51, NEEDS_DISC, disc_information},
    {0x52, NEEDS_DISC, track_information},
    {0x55, 0, good}, // MODE SELECT: there is nothing to set
    {0x5a, 0, mode_sense},
    {0xa8, NEEDS_DISC, read_12},
    {0xad, NEEDS_DISC, dvd_structure},
    {0xbb, 0, good}, // SET CD SPEED
    {0xbd, 0, mechanism_status},
    {0xbe, NEEDS_DISC, read_cd},
};

static void packet(struct ahci_slot *s)
{
    struct ata_drive *d = &s->port->drive;
    const struct packet *p = packets, *end = packets + ARRAY_LEN(packets);

    s->protocol = ATA_PACKET;
    while (p < end && p->code != s->packet[0])
        p++;
    if (p == end) {
        illegal(s, ASC_INVALID_COMMAND);
    } else if (d->attention && !(p->flags & ANY_TIME)) {
        uint8_t asc = d->attention == CD_CHANGED ? ASC_MEDIUM_CHANGED : ASC_POWER_ON;
        d->attention = CD_NOTHING;
        check(s, UNIT_ATTENTION, asc, 0);
    } else if (p->flags & NEEDS_DISC && !atapi_sectors(s->port)) {
        no_disc(s);
    } else {
        p->run(s);
    }
}

// --- Register commands ---

static void identify(struct ahci_slot *s)
{
    uint8_t page[ATA_SECTOR];

    ata_identify_packet(s->port, page);
    s->protocol = ATA_PIO_IN;
    if (port_reply(s, page, sizeof page))
        port_finish(s, ATA_READY, 0);
}

static void set_features(struct ahci_slot *s)
{
    if ((s->task.features & 0xff) == 0x03)
        s->port->drive.transfer_mode = s->task.count & 0xff;
    port_finish(s, ATA_READY, 0);
}

// The signature in the registers tells a driver that asked for a disk what this is.
static void signature(struct ahci_slot *s, uint8_t status, uint8_t error)
{
    s->task.count = 1;
    s->task.lba = 0xeb1401;
    s->task.device = 0;
    port_finish(s, status, error);
}

void atapi_execute(struct ahci_slot *s)
{
    switch (s->task.command) {
    case CMD_PACKET: packet(s); break;
    case CMD_IDENTIFY_PACKET: identify(s); break;
    case CMD_SET_FEATURES: set_features(s); break;
    case CMD_DEVICE_RESET:
        atapi_reset(s->port);
        signature(s, 0, 1);
        break;
    case CMD_DIAGNOSTIC: signature(s, 0, 1); break;
    case CMD_CHECK_POWER:
        s->task.count = 0xff;
        port_finish(s, ATA_READY, 0);
        break;
    default: signature(s, ATA_READY | ATA_ERR, ATA_ABRT); break;
    }
}

void atapi_io_ended(struct ahci_slot *s)
{
    if (s->result != OK) {
        check(s, MEDIUM_ERROR, ASC_UNRECOVERED_READ, 0);
        return;
    }
    s->moved = s->io.len;
    good(s);
}

// What a reset of the link leaves: the disc, the tray and what was to be said of them.
void atapi_reset(struct ahci_port *port)
{
    struct ata_drive *d = &port->drive;

    d->sense_key = d->asc = d->ascq = 0;
    d->tray_locked = 0;
    d->transfer_mode = 0x45;
}

err_t atapi_loaded(const struct ahci_port *port, struct error *e)
{
    const struct ata_drive *d = &port->drive;

    if (d->attention > CD_CHANGED || d->media_event > 3 || d->tray_open > 1 || d->tray_locked > 1 ||
        d->sense_key > 15)
        return error_set(e, ERR_CORRUPT, "a CD-ROM drive has impossible settings");
    return OK;
}
