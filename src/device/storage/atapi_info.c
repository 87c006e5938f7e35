// What a CD-ROM drive says of itself and of its disc: replies of fixed shape.
//
// Specification: SPC-3, 6.4 (INQUIRY); MMC-5, 6.5 (READ TOC), 6.6 (GET CONFIGURATION), 6.22 (READ
// DISC INFORMATION), 6.23 (READ DISC STRUCTURE), 6.27 (READ TRACK INFORMATION), 7 (mode pages).
#include "device/storage/ahci_impl.h"

#include <string.h>

enum {
    PROFILE_CD_ROM = 0x08,
    PROFILE_DVD_ROM = 0x10,
    CD_SECTORS_MAX = 80 * 60 * 75, // an 80 minute disc
    LEAD_OUT = 0xaa,
};

static uint16_t profile(const struct ahci_port *port)
{
    if (!atapi_sectors(port))
        return 0;
    return atapi_sectors(port) <= CD_SECTORS_MAX ? PROFILE_CD_ROM : PROFILE_DVD_ROM;
}

static size_t text(uint8_t *at, const char *words, size_t len)
{
    size_t used = strnlen(words, len);

    memset(at, ' ', len);
    memcpy(at, words, used);
    return len;
}

// --- INQUIRY ---

static size_t vital_page(const struct ahci_port *port, unsigned page, uint8_t *out)
{
    static const uint8_t pages[] = {0x00, 0x80, 0x83};

    out[0] = 5;
    out[1] = (uint8_t)page;
    switch (page) {
    case 0x00:
        memcpy(out + 4, pages, sizeof pages);
        out[3] = sizeof pages;
        break;
    case 0x80: out[3] = (uint8_t)text(out + 4, port->serial, AHCI_SERIAL); break;
    case 0x83: // one designator: vendor, and the serial number
        out[4] = 2;
        out[5] = 1;
        out[7] = (uint8_t)(text(out + 8, "BERTH", 8) + text(out + 16, port->serial, AHCI_SERIAL));
        out[3] = (uint8_t)(4 + out[7]);
        break;
    default: return 0;
    }
    return 4u + out[3];
}

size_t atapi_inquiry(const struct ahci_port *port, const uint8_t *cdb, uint8_t *out)
{
    if (cdb[1] & 1)
        return vital_page(port, cdb[2], out);
    if (cdb[2])
        return 0;
    out[0] = 5;    // CD/DVD
    out[1] = 0x80; // removable
    out[2] = 5;    // SPC-3
    out[3] = 2;
    out[4] = 31;
    text(out + 8, "BERTH", 8);
    text(out + 16, "CD-ROM", 16);
    text(out + 32, "1.0", 4);
    return 36;
}

// --- MODE SENSE ---

static size_t page_error_recovery(uint8_t *out)
{
    out[0] = 0x01;
    out[1] = 10;
    out[3] = 5; // retries
    return 12;
}

static size_t page_capabilities(const struct ahci_port *port, uint8_t *out)
{
    out[0] = 0x2a;
    out[1] = 18;
    out[2] = 0x3b; // reads CD-R, CD-RW, DVD-ROM and its kin
    out[4] = 0x70; // mode 2, multisession
    out[5] = 0;
    out[6] = (uint8_t)(0x29 | (port->drive.tray_locked ? 2 : 0)); // tray, ejects, locks
    store_be16(out + 8, 706 * 4);                                 // kB/s
    store_be16(out + 12, 512);                                    // kB of buffer
    store_be16(out + 14, 706 * 4);
    return 20;
}

// control: 0 current, 1 changeable, 2 default, 3 saved values.
size_t atapi_mode_sense(const struct ahci_port *port, unsigned page, unsigned control, bool ten,
                        uint8_t *out)
{
    size_t header = ten ? 8 : 4, at = header;

    if (control == 3)
        return 0;
    if (page == 0x01 || page == 0x3f)
        at += page_error_recovery(out + at);
    if (page == 0x2a || page == 0x3f)
        at += page_capabilities(port, out + at);
    if (at == header)
        return 0;
    if (control == 1) { // nothing can be changed
        for (size_t i = header; i < at; i += 2u + out[i + 1])
            memset(out + i + 2, 0, out[i + 1]);
    }
    if (ten)
        store_be16(out, (uint16_t)(at - 2));
    else
        out[0] = (uint8_t)(at - 1);
    out[ten ? 2 : 1] = port->drive.tray_open ? 0x71 : atapi_disc(port) ? 0x01 : 0x70;
    return at;
}

// --- READ TOC: one data track ---

static void put_address(uint8_t *at, uint32_t lba, bool msf)
{
    uint32_t frame = lba + 150;

    if (!msf) {
        store_be32(at, lba);
        return;
    }
    at[0] = 0;
    at[1] = (uint8_t)(frame / (60 * 75));
    at[2] = (uint8_t)(frame / 75 % 60);
    at[3] = (uint8_t)(frame % 75);
}

static size_t toc_tracks(const struct ahci_port *port, unsigned first, bool msf, uint8_t *out)
{
    size_t at = 4;

    if (first > 1 && first != LEAD_OUT)
        return 0;
    out[2] = out[3] = 1;
    if (first <= 1) {
        out[at + 1] = 0x14; // data track
        out[at + 2] = 1;
        put_address(out + at + 4, 0, msf);
        at += 8;
    }
    out[at + 1] = 0x16;
    out[at + 2] = LEAD_OUT;
    put_address(out + at + 4, atapi_sectors(port), msf);
    return at + 8;
}

// Points A0, A1 and A2, then the track.
static size_t toc_full(const struct ahci_port *port, uint8_t *out)
{
    static const uint8_t points[] = {0xa0, 0xa1, 0xa2, 1};
    size_t at = 4;

    out[2] = out[3] = 1;
    for (unsigned i = 0; i < ARRAY_LEN(points); i++, at += 11) {
        uint8_t address[4] = {0};
        out[at] = 1;
        out[at + 1] = 0x14;
        out[at + 3] = points[i];
        if (points[i] == 0xa0 || points[i] == 0xa1)
            address[1] = 1; // the first and the last track
        else
            put_address(address, points[i] == 1 ? 0 : atapi_sectors(port), true);
        memcpy(out + at + 8, address + 1, 3);
    }
    return at;
}

size_t atapi_toc(const struct ahci_port *port, const uint8_t *cdb, uint8_t *out)
{
    unsigned format = cdb[2] & 0xf ? cdb[2] & 0xfu : cdb[9] >> 6u;
    bool msf = cdb[1] & 2;
    size_t len;

    switch (format) {
    case 0: len = toc_tracks(port, cdb[6], msf, out); break;
    case 1: // the last complete session begins at track 1
        out[2] = out[3] = 1;
        out[5] = 0x14;
        out[6] = 1;
        put_address(out + 8, 0, msf);
        len = 12;
        break;
    case 2: len = toc_full(port, out); break;
    default: return 0;
    }
    if (len)
        store_be16(out, (uint16_t)(len - 2));
    return len;
}

// --- GET CONFIGURATION ---

struct feature {
    uint16_t code;
    uint8_t flags; // bit 0: current; bit 1: persistent
    uint8_t len;
    uint8_t data[8];
};

static size_t put_feature(uint8_t *out, const struct feature *f, bool current)
{
    store_be16(out, f->code);
    out[2] = (uint8_t)((f->flags & 2) | (current ? 1 : 0));
    out[3] = f->len;
    memcpy(out + 4, f->data, f->len);
    return 4u + f->len;
}

size_t atapi_configuration(const struct ahci_port *port, const uint8_t *cdb, uint8_t *out)
{
    uint16_t now = profile(port), first = load_be16(cdb + 2);
    unsigned kind = cdb[1] & 3;
    const struct feature features[] = {
        {0x0000,
         3,
         8,
         {0, PROFILE_DVD_ROM, now == PROFILE_DVD_ROM, 0, 0, PROFILE_CD_ROM, now == PROFILE_CD_ROM,
          0}},
        {0x0001, 3, 8, {0, 0, 0, 7, 1, 0, 0, 0}}, // core: SATA
        {0x0002, 3, 4, {2, 0, 0, 0}},             // morphing
        {0x0003, 3, 4, {0x29, 0, 0, 0}},          // removable medium: tray, ejects, locks
        {0x0010, 0, 8, {0, 0, CD_SECTOR >> 8, 0, 0, 16, 0, 0}}, // random readable
        {0x001e, 0, 4, {0, 0, 0, 0}},                           // reads CDs
        {0x001f, 0, 4, {0, 0, 0, 0}},                           // reads DVDs
    };
    size_t at = 8;

    if (kind == 3)
        return 0;
    for (unsigned i = 0; i < ARRAY_LEN(features); i++) {
        const struct feature *f = &features[i];
        bool current = f->flags & 1 || (f->code == 0x10 && now) ||
                       (f->code == 0x1e && now == PROFILE_CD_ROM) ||
                       (f->code == 0x1f && now == PROFILE_DVD_ROM);
        if (kind == 2 ? f->code != first : f->code < first || (kind == 1 && !current))
            continue;
        at += put_feature(out + at, f, current);
    }
    store_be32(out, (uint32_t)(at - 4));
    store_be16(out + 6, now);
    return at;
}

// --- The disc ---

size_t atapi_disc_information(const struct ahci_port *port, uint8_t *out)
{
    store_be16(out, 32);
    out[2] = 0x0e; // complete, the last session too
    out[3] = out[4] = out[5] = out[6] = 1;
    out[7] = 0x20; // unrestricted use
    memset(out + 16, 0xff, 8);
    return 34;
}

size_t atapi_track_information(const struct ahci_port *port, const uint8_t *cdb, uint8_t *out)
{
    uint32_t asked = load_be32(cdb + 2), sectors = atapi_sectors(port);
    bool known = (cdb[1] & 3) == 0 ? asked < sectors : asked == 1;

    if (!known)
        return 0;
    store_be16(out, 34);
    out[2] = out[3] = 1; // track, session
    out[5] = 4;          // data
    out[6] = 1;
    store_be32(out + 24, sectors);
    return 36;
}

// Physical format (0) and copyright (1) of a DVD.
size_t atapi_dvd_structure(const struct ahci_port *port, const uint8_t *cdb, uint8_t *out)
{
    uint32_t sectors = atapi_sectors(port);

    if (profile(port) != PROFILE_DVD_ROM || cdb[6])
        return 0;
    if (cdb[7] == 1) {
        store_be16(out, 6);
        return 8;
    }
    if (cdb[7] != 0)
        return 0;
    store_be16(out, CD_REPLY_MAX - 2);
    out[4] = 0x01; // DVD-ROM, version 1
    out[5] = 0x0f; // 120 mm, no maximum rate
    out[6] = 0x01; // one layer
    store_be32(out + 8, 0x30000);
    store_be32(out + 12, 0x30000 + sectors - 1);
    return CD_REPLY_MAX;
}
