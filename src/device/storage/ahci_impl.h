// Inside the AHCI model: ahci.c has the HBA's registers, ahci_port.c a port with its command list
// and FISes, ata.c the commands of a disk, ata_identify.c its data pages, atapi.c and atapi_info.c
// those of a CD-ROM drive.
#pragma once

#include "base/bytes.h"
#include "device/pci/pci.h"
#include "device/storage/ahci.h"
#include "device/storage/scatter.h"

#define AHCI_SLOTS 32
#define ATA_SECTOR 512
#define CD_SECTOR 2048
#define TRIM_BYTES 512 // of ranges in one DATA SET MANAGEMENT

enum {
    // ATA status and error registers.
    ATA_ERR = 0x01,
    ATA_DRQ = 0x08,
    ATA_DSC = 0x10,
    ATA_DF = 0x20,
    ATA_DRDY = 0x40,
    ATA_BSY = 0x80,
    ATA_READY = ATA_DRDY | ATA_DSC,
    ATA_ABRT = 0x04,
    ATA_IDNF = 0x10,
    ATA_UNC = 0x40,

    // PxIS, AHCI 1.3.1, 3.3.5.
    PORT_IS_DHRS = 1 << 0,
    PORT_IS_PSS = 1 << 1,
    PORT_IS_SDBS = 1 << 3,
    PORT_IS_PCS = 1 << 6,
    PORT_IS_PRCS = 1 << 22,
    PORT_IS_OFS = 1 << 24,
    PORT_IS_IFS = 1 << 27,
    PORT_IS_HBFS = 1 << 29,
    PORT_IS_TFES = 1 << 30,
};

// How a command moves its data, and so by which FISes it ends.
enum ata_protocol { ATA_NO_DATA, ATA_PIO_IN, ATA_PIO_OUT, ATA_DMA, ATA_QUEUED, ATA_PACKET };

// The registers that a command FIS carries.
struct ata_task {
    uint64_t lba; // 48 bits
    uint16_t features;
    uint16_t count;
    uint8_t command;
    uint8_t device;
};

struct ahci_port;

// One of a port's commands, while it is carried out.
struct ahci_slot {
    struct block_request io;
    struct ahci_port *port;
    struct scatter data; // as far as it is mapped
    struct ata_task task;
    enum ata_protocol protocol;
    uint64_t table; // guest address of the command table
    uint64_t moved; // bytes of data that went through
    uint32_t prdtl;
    err_t result; // of io
    bool busy;    // from the fetch to the end
    bool dropped; // the guest has given the command up; its result goes nowhere
    bool sync;    // flush after the write
    bool to_guest;
    uint8_t packet[16];
    uint8_t trim[TRIM_BYTES];
    unsigned trim_next; // of its ranges
};

// What a drive remembers from command to command.
struct ata_drive {
    uint64_t failed_lba;   // of the last failed queued command, for its log page
    uint32_t failed_count; // sectors
    uint8_t failed_tag;
    uint8_t failed_status;
    uint8_t failed_error;
    uint8_t failed_valid;
    uint8_t multiple; // sectors of READ/WRITE MULTIPLE
    uint8_t write_cache;
    uint8_t look_ahead;
    uint8_t smart;
    uint8_t transfer_mode; // SET FEATURES' code
    uint8_t sense_key;     // of a CD-ROM drive
    uint8_t asc;
    uint8_t ascq;
    uint8_t attention;   // unit attention waits: enum cd_attention
    uint8_t media_event; // for GET EVENT STATUS NOTIFICATION
    uint8_t tray_open;
    uint8_t tray_locked;
    uint8_t pad[4];
};

struct ahci_port {
    struct ahci *hba;
    struct block *block;     // or NULL
    struct ahci_slot *slots; // AHCI_SLOTS of them, owned
    char *serial;
    uint64_t list; // PxCLB
    uint64_t fis;  // PxFB
    uint32_t is;
    uint32_t ie;
    uint32_t cmd;
    uint32_t tfd;
    uint32_t sig;
    uint32_t sctl;
    uint32_t serr;
    uint32_t sact;
    uint32_t ci;
    uint32_t taken;     // bit per slot: fetched and not ended
    uint32_t in_flight; // requests at the back end
    uint8_t cdrom;
    uint8_t halted;     // by an error, until the guest clears ST
    uint8_t soft_reset; // SRST is set
    uint8_t resetting;  // a reset waits for what is in flight
    uint8_t running;    // inside port_run()
    uint8_t pad[7];
    struct ata_drive drive;
};

struct ahci {
    struct pci_function pci;
    storage_enter_fn enter;
    struct ahci_port ports[AHCI_DRIVES_MAX];
    char serials[AHCI_DRIVES_MAX][AHCI_SERIAL + 4];
    uint32_t drives;
    uint32_t ghc;
    uint32_t is;
    uint32_t pad;
};

// --- ahci.c

void ahci_update(struct ahci *hba); // interrupts, after anything changed in a port

// --- ahci_port.c

extern const struct state_desc ahci_port_state;

uint32_t port_read(struct ahci_port *port, unsigned offset);
void port_write(struct ahci_port *port, unsigned offset, uint32_t value);
void port_power_on(struct ahci_port *port);   // all registers
void port_reset_link(struct ahci_port *port); // COMRESET, once nothing is in flight
err_t port_loaded(struct ahci_port *port, struct error *e);

// Maps the command's next data buffers: exactly `bytes` of them. False: the PRDT is too short or
// wrong, and the port has stopped with that error.
bool port_map(struct ahci_slot *s, uint64_t bytes, bool to_guest);
// The same for data that the drive has ready: maps, copies as much as there is room for.
bool port_reply(struct ahci_slot *s, const void *data, size_t len);
void port_submit(struct ahci_slot *s, enum block_op op, uint64_t offset, uint64_t len);
// Ends a command: status and error register, FISes and interrupt as its protocol has them.
void port_finish(struct ahci_slot *s, uint8_t status, uint8_t error);
// What ERR and ABRT mean to both kinds of drive.
void port_abort(struct ahci_slot *s);
void port_signature(struct ahci_port *port); // the drive's first FIS after a reset

// --- ata.c

void ata_reset(struct ahci_port *port);
void ata_execute(struct ahci_slot *s);
void ata_io_ended(struct ahci_slot *s); // s->result
err_t ata_loaded(const struct ahci_port *port, struct error *e);

// --- ata_identify.c

void ata_identify(const struct ahci_port *port, uint8_t page[ATA_SECTOR]);
void ata_identify_packet(const struct ahci_port *port, uint8_t page[ATA_SECTOR]);
void ata_smart_data(uint8_t page[ATA_SECTOR]);
void ata_queue_log(struct ahci_port *port, uint8_t page[ATA_SECTOR]);
// "text", padded with blanks, its bytes swapped in pairs.
void ata_string(uint8_t *at, const char *text, size_t len);

// --- atapi.c

enum cd_attention { CD_NOTHING, CD_POWER_ON, CD_CHANGED };

void atapi_reset(struct ahci_port *port);
void atapi_execute(struct ahci_slot *s);
void atapi_io_ended(struct ahci_slot *s);
err_t atapi_loaded(const struct ahci_port *port, struct error *e);
uint32_t atapi_sectors(const struct ahci_port *port); // of the disc; 0: none
bool atapi_disc(const struct ahci_port *port);

// --- atapi_info.c: replies of fixed shape. Each returns its length; 0: the request is wrong.

#define CD_REPLY_MAX 2052

size_t atapi_inquiry(const struct ahci_port *port, const uint8_t *cdb, uint8_t *out);
size_t atapi_mode_sense(const struct ahci_port *port, unsigned page, unsigned control, bool ten,
                        uint8_t *out);
size_t atapi_toc(const struct ahci_port *port, const uint8_t *cdb, uint8_t *out);
size_t atapi_configuration(const struct ahci_port *port, const uint8_t *cdb, uint8_t *out);
size_t atapi_disc_information(const struct ahci_port *port, uint8_t *out);
size_t atapi_track_information(const struct ahci_port *port, const uint8_t *cdb, uint8_t *out);
size_t atapi_dvd_structure(const struct ahci_port *port, const uint8_t *cdb, uint8_t *out);
