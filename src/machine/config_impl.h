// Between config.c, config_disk.c, which has the disks, and config_nic.c, which has the network
// cards.
#pragma once

#include <jansson.h>

#include "machine/config.h"

err_t vm_disks_check(const struct vm_config *config, struct error *e);
json_t *vm_disks_to_json(const struct vm_config *config);
err_t vm_disks_from_json(struct vm_config *config, const json_t *value, struct error *e);

void vm_nic_release(struct vm_nic *nic);
err_t vm_nics_check(const struct vm_config *config, struct error *e);
json_t *vm_nics_to_json(const struct vm_config *config);
err_t vm_nics_from_json(struct vm_config *config, const json_t *value, struct error *e);
