// SMBIOS 3.0 tables (DMTF DSP0134): what the guest's inventory tools show.
#pragma once

#include "base/buffer.h"

#define SMBIOS_ENTRY_BYTES 24

struct smbios_config {
    const char *product; // the VM's name as "Product Name"; NULL: "pc"
    const char *serial;  // NULL: none
    uint8_t uuid[16];    // in the order it is written (RFC 4122)
    uint64_t ram_bytes;
    unsigned cpus;
    uint32_t cpu_mhz;
};

// Appends the structure table to out and fills the entry point for a table that will lie at `at`.
err_t smbios_build(const struct smbios_config *config, gpa_t at, struct buffer *out,
                   uint8_t entry[SMBIOS_ENTRY_BYTES], struct error *e);
