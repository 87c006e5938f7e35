// An AHCI host bus adapter with SATA disks and CD-ROM drives, as the ICH9 has it (8086:2922).
//
// Threads: as for virtio disks (virtio_blk.h): block requests end on the back end's threads and
// come in through `enter`; before reset and save the machine drains the back ends.
#pragma once

#include "device/storage/backend.h"

#define AHCI_DRIVES_MAX 6
#define AHCI_SERIAL 20 // bytes

struct ahci_drive_config {
    struct block *block; // not owned; outlives the device. NULL: a CD-ROM drive without a disc
    bool cdrom;
    char serial[AHCI_SERIAL + 1]; // what the guest sees; may be ""
};

struct ahci_config {
    struct ahci_drive_config drive[AHCI_DRIVES_MAX];
    unsigned drives; // 1..AHCI_DRIVES_MAX; one port each
    storage_enter_fn enter;
};

extern const struct device_type ahci_type; // config: struct ahci_config

// Puts a disc into a CD-ROM drive, or takes it out (NULL), with the device's lock held and nothing
// in flight on the old one. The guest hears of it with its next command. False: no such drive, or
// the guest has locked the tray.
bool ahci_set_disc(struct device *dev, unsigned drive, struct block *block);
