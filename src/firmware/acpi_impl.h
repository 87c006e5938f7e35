// Inside the ACPI tables: the DSDT's contents, without the table header.
#pragma once

#include "firmware/acpi.h"

void dsdt_build(const struct acpi_config *config, struct buffer *out);
