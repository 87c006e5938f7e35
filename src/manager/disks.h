// The disks that the manager makes for VMs: vms/ID/diskN.qcow2, each standing on something that is
// never written again, so that making and cloning copy nothing. What it stands on, its base, is a
// path below the state's directory: an image (images/HASH.FORMAT), or a layer
// (layers/ID/disk.qcow2), which was a VM's disk until that was cloned. Layers that nothing stands
// on are cleared away.
#pragma once

#include "manager/manager.h"

#define DISK_BASE_MAX 128
#define DISKS_MADE_MAX 16

// The name of a VM's disk in its folder.
void disk_name(unsigned number, char name[24]);

// A disk for the VM, whose folder is there, on that base.
err_t disk_make(const struct managed *m, unsigned number, const char *base, struct error *e);
// Disks for a new VM like those of another one, which does not run.
err_t disks_clone(const struct managed *from, const struct managed *to, struct error *e);
// After a killed manager: finishes what it had begun; and clears away layers without use.
err_t disks_reconcile(struct manager *manager, struct error *e);
err_t layers_clear(struct manager *manager, struct error *e);

// --- images

// ERR_NOT_FOUND: there is none of that name. base may be NULL: only whether it is there.
err_t image_find(struct manager *manager, const char *name, char base[DISK_BASE_MAX],
                 struct error *e);
// A row for each image, into a new list.
err_t image_list(struct manager *manager, json_t **list, struct error *e);
// file lies in images/, where the one who asks has put it, and is moved to its place. hash: its
// SHA-256. ERR_EXISTS, ERR_INVALID.
err_t image_import(struct manager *manager, const char *name, const char *file, const char *hash,
                   struct error *e);
// Clears away what imports that were killed have left.
err_t images_reconcile(struct manager *manager, struct error *e);
// ERR_BUSY: VMs, named in the text, stand on it.
err_t image_remove(struct manager *manager, const char *name, struct error *e);
