// Between function.c and msi.c.
#pragma once

#include "device/pci/pci.h"

// Sends what is pending and no longer masked.
void pci_flush_messages(struct pci_function *f);
void pci_reset_messages(struct pci_function *f);
err_t pci_check_messages(const struct pci_function *f, struct error *e);
