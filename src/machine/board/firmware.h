// Firmware on the pc board: its ROM and flash memory, and what it is told through fw_cfg.
#pragma once

#include "machine/vm_impl.h"

enum firmware_kind { FIRMWARE_NONE, FIRMWARE_BIOS, FIRMWARE_UEFI };

#define FIRMWARE_RUNS_MAX 17 // one for each legacy range, and the ROM

// What the engine has mapped below 1 MiB.
struct legacy_run {
    gpa_t at;
    uint64_t len;
};

struct firmware {
    enum firmware_kind kind;
    uint8_t *rom; // page-aligned copy of the image, ends at 4 GiB
    uint64_t rom_len;
    uint8_t *vars; // the flash content: a file's pages, or memory that is lost
    uint64_t vars_len;
    int vars_fd; // -1: not kept
    unsigned runs;
    struct legacy_run run[FIRMWARE_RUNS_MAX];
    uint8_t mapped[16]; // attributes that runs were made from
    bool mapped_once;
    char line[160]; // of the debug output
    unsigned line_len;
};

// Opens what the definition names and puts the ROM into the guest's memory. Before devices.
err_t firmware_open(struct vm *vm, struct error *e);
// The flash chip and the debug port. With the other devices.
err_t firmware_add_devices(struct vm *vm, struct error *e);
// Once all devices are there.
err_t firmware_fill_fw_cfg(struct vm *vm, struct error *e);
void firmware_close(struct vm *vm);

// legacy.c: carries out what the host bridge's PAM registers say. No vCPU runs.
err_t legacy_apply(struct vm *vm, struct error *e);
