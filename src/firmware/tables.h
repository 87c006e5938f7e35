// Direct boot's tables: ACPI and SMBIOS written into guest memory, where layout.h says.
#pragma once

#include "firmware/acpi.h"
#include "firmware/e820.h"
#include "firmware/guest_memory.h"
#include "firmware/smbios.h"

// Builds and writes all tables; *rsdp is the ACPI root pointer's address, for the loader.
// ERR_INVALID: memory size or CPU count that does not fit the board.
err_t tables_install(const struct acpi_config *acpi, const struct smbios_config *smbios,
                     const struct guest_memory *memory, gpa_t *rsdp, struct error *e);
