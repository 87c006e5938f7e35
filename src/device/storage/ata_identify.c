// What SATA drives say of themselves: IDENTIFY data, SMART data, the log of queued errors.
//
// Specification: ACS-3, 7.12 (IDENTIFY DEVICE), A.14 (NCQ command error log); ATA8-ACS 7.17
// (IDENTIFY PACKET DEVICE), 7.53 (SMART).
#include "device/storage/ahci_impl.h"

#include <string.h>

#include "base/bits.h"

static void word(uint8_t *page, unsigned at, unsigned value)
{
    store_le16(page + 2 * (size_t)at, (uint16_t)value);
}

void ata_string(uint8_t *at, const char *text, size_t len)
{
    size_t used = strnlen(text, len);

    for (size_t i = 0; i < len; i++)
        at[i ^ 1] = i < used ? (uint8_t)text[i] : ' ';
}

// All 512 bytes add up to zero.
static void checksum(uint8_t *page)
{
    uint8_t sum = 0;

    for (unsigned i = 0; i < ATA_SECTOR - 1; i++)
        sum = (uint8_t)(sum + page[i]);
    page[511] = (uint8_t)-sum;
}

static unsigned selected(unsigned mode, uint8_t first, uint8_t transfer_mode)
{
    bool chosen = transfer_mode >= first && transfer_mode < first + 8;

    return mode | (chosen ? 1u << (8 + (transfer_mode & 7)) : 0);
}

// Words that disks and CD-ROM drives have in common: transfer modes, SATA, versions.
static void common_words(const struct ahci_port *port, uint8_t *page)
{
    const struct ata_drive *d = &port->drive;

    ata_string(page + 20, port->serial, 20);
    ata_string(page + 46, "1.0", 8);
    word(page, 53, 6);                                   // words 64 to 70 and 88 are valid
    word(page, 63, selected(7, 0x20, d->transfer_mode)); // multiword DMA 0 to 2
    word(page, 64, 3);                                   // PIO 3 and 4
    for (unsigned i = 65; i <= 68; i++)
        word(page, i, 120);
    word(page, 80, 0x1f0);                                  // ATA/ATAPI-4 to ATA8-ACS
    word(page, 88, selected(0x7f, 0x40, d->transfer_mode)); // Ultra DMA 0 to 6
    word(page, 93, 0);                                      // no parallel cable
}

static void geometry(uint64_t sectors, uint8_t *page)
{
    uint64_t cylinders = min_u64(sectors / (16 * 63), 16383);
    uint32_t small = (uint32_t)min_u64(sectors, 0xfffffff);

    word(page, 1, (unsigned)cylinders);
    word(page, 3, 16);
    word(page, 6, 63);
    word(page, 54, (unsigned)cylinders);
    word(page, 55, 16);
    word(page, 56, 63);
    store_le32(page + 114, (uint32_t)(cylinders * 16 * 63)); // words 57 and 58
    store_le32(page + 120, small);                           // 60 and 61
    store_le64(page + 200, sectors);                         // 100 to 103
}

static void sector_size(const struct block_limits *limits, uint8_t *page)
{
    unsigned ratio = limits->physical_block / ATA_SECTOR, shift = 0;

    while (ratio >> (shift + 1))
        shift++;
    if (shift)
        word(page, 106, 0x6000 | shift);
}

void ata_identify(const struct ahci_port *port, uint8_t page[ATA_SECTOR])
{
    const struct block_limits *limits = &port->block->limits;
    const struct ata_drive *d = &port->drive;

    memset(page, 0, ATA_SECTOR);
    common_words(port, page);
    geometry(limits->size_bytes / ATA_SECTOR, page);
    ata_string(page + 54, "Berth SATA disk", 40);
    word(page, 0, 0x0040);
    word(page, 47, 0x8080); // READ MULTIPLE: up to 128 sectors
    word(page, 49, 0x2f00); // DMA, LBA, IORDY, standard standby timers
    word(page, 50, 0x4000);
    word(page, 59, d->multiple ? 0x100u | d->multiple : 0); // the setting of READ MULTIPLE
    word(page, 75, AHCI_SLOTS - 1);
    word(page, 76, 0x010e); // queued commands; 1.5, 3 and 6 Gbit/s
    word(page, 82, 0x4061); // NOP, look-ahead, write cache, SMART
    word(page, 83, 0x7400); // FLUSH CACHE (EXT), 48-bit addresses
    word(page, 84, 0x4060); // FUA, logs
    word(page, 85, 0x4000u | d->look_ahead << 6 | d->write_cache << 5 | d->smart);
    word(page, 86, 0x3400);
    word(page, 87, 0x4060);
    sector_size(limits, page);
    if (limits->discard && !limits->read_only) {
        word(page, 105, TRIM_BYTES / ATA_SECTOR);
        word(page, 169, 1);
    }
    word(page, 217, 1); // does not rotate
    word(page, 222, 0x101f);
    page[510] = 0xa5;
    checksum(page);
}

void ata_identify_packet(const struct ahci_port *port, uint8_t page[ATA_SECTOR])
{
    memset(page, 0, ATA_SECTOR);
    common_words(port, page);
    ata_string(page + 54, "Berth CD-ROM", 40);
    word(page, 0, 0x85c0);  // ATAPI, CD-ROM, removable, 12-byte packets
    word(page, 49, 0x0f00); // DMA, LBA, IORDY
    word(page, 76, 0x000e);
    word(page, 82, 0x4210); // NOP, DEVICE RESET, PACKET
    word(page, 83, 0x4000);
    word(page, 84, 0x4000);
    word(page, 85, 0x4210);
    word(page, 87, 0x4000);
    page[510] = 0xa5;
    checksum(page);
}

// A drive that is well: four attributes that monitors read, none with a threshold.
void ata_smart_data(uint8_t page[ATA_SECTOR])
{
    static const struct {
        uint8_t id;
        uint8_t flags;
        uint8_t raw;
    } attributes[] = {{1, 0x2f, 0}, {5, 0x33, 0}, {194, 0x22, 30}, {199, 0x32, 0}};

    memset(page, 0, ATA_SECTOR);
    page[0] = 16;
    for (unsigned i = 0; i < ARRAY_LEN(attributes); i++) {
        uint8_t *a = page + 2 + 12 * (size_t)i;
        a[0] = attributes[i].id;
        a[1] = attributes[i].flags;
        a[3] = a[4] = 100; // value, worst
        a[5] = attributes[i].raw;
    }
    page[363] = 0; // the last self-test passed
    page[367] = 0x01;
    checksum(page);
}

void ata_queue_log(struct ahci_port *port, uint8_t page[ATA_SECTOR])
{
    struct ata_drive *d = &port->drive;

    memset(page, 0, ATA_SECTOR);
    page[0] = d->failed_valid ? d->failed_tag : 0x80; // no queued command failed
    if (d->failed_valid) {
        page[2] = d->failed_status;
        page[3] = d->failed_error;
        for (unsigned i = 0; i < 3; i++) {
            page[4 + i] = (uint8_t)(d->failed_lba >> (8 * i));
            page[8 + i] = (uint8_t)(d->failed_lba >> (24 + 8 * i));
        }
        store_le16(page + 12, (uint16_t)d->failed_count);
    }
    d->failed_valid = 0;
    checksum(page);
}
