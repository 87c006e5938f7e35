// The pc board's disks: each of the definition's is opened, gets its limits, and is put on its bus.
// SATA drives share one adapter, at 00:1f.2 as the ICH9 has it; virtio and NVMe disks have a slot
// each.
#include <stdio.h>

#include "base/bits.h"
#include "device/storage/ahci.h"
#include "device/storage/nvme.h"
#include "device/storage/virtio_blk.h"
#include "machine/board/pc_impl.h"

#define AHCI_FUNCTION 2 // in the ICH9's slot

static void enter(struct device *dev, void (*fn)(struct device *dev, void *argument),
                  void *argument)
{
    device_lock(dev);
    fn(dev, argument);
    device_unlock(dev);
}

static err_t open_disk(const struct vm_disk *disk, struct block **out, struct error *e)
{
    const struct block_options options = {.format = disk->cdrom ? "raw" : disk->format,
                                          .read_only = disk->read_only,
                                          .direct = disk->direct,
                                          .snapshot = disk->snapshot};
    struct block *block;
    err_t err = block_open(disk->path, &options, &block, e);
    return err ? err : block_throttle_new(block, &disk->limits, out, e);
}

// Disks whose sectors are larger than 512 bytes are for buses that can say so.
static err_t check_sectors(const struct vm_disk *disk, const struct block *block, struct error *e)
{
    if (disk->bus != VM_BUS_AHCI || disk->cdrom || block->limits.logical_block == 512)
        return OK;
    return error_set(e, ERR_UNSUPPORTED,
                     "%s: its sectors have %u bytes, and SATA disks have 512; put it on virtio",
                     disk->path, block->limits.logical_block);
}

static void serial_of(const struct vm_disk *disk, const char *id, char *out, size_t size)
{
    snprintf(out, size, "%s", disk->serial ? disk->serial : id);
}

// Where firmware finds the disk that was added last: the order of the definition is the order in
// which it tries to boot. Paths: IEEE 1275, with the node names that EDK II's QemuBootOrderLib
// knows; SeaBIOS takes any name.
static void boot_from(struct vm *vm, enum vm_disk_bus bus, unsigned port)
{
    unsigned slot = vm->board->next_slot - 1;
    switch (bus) {
    case VM_BUS_AHCI:
        board_add_boot_device(vm, "/pci@i0cf8/pci8086,2922@%x,%x/drive@%x/disk@0", PC_SLOT_LPC,
                              AHCI_FUNCTION, port);
        break;
    case VM_BUS_NVME:
        board_add_boot_device(vm, "/pci@i0cf8/pci8086,5845@%x/namespace@1,0", slot);
        break;
    default: board_add_boot_device(vm, "/pci@i0cf8/scsi@%x/disk@0,0", slot); break;
    }
}

static err_t add_virtio(struct vm *vm, unsigned i, const char *id, struct error *e)
{
    struct virtio_blk_config config = {.block = vm->board->disk[i],
                                       .enter = enter,
                                       .queues = (uint16_t)min_u64(vm->vcpus, VIRTIO_BLK_QUEUES)};
    serial_of(&vm->config->disk[i], id, config.serial, sizeof config.serial);
    return board_plug(vm, &virtio_blk_type, id, &config, NULL, e);
}

static err_t add_nvme(struct vm *vm, unsigned i, const char *id, struct error *e)
{
    struct nvme_config config = {.block = vm->board->disk[i], .enter = enter};
    serial_of(&vm->config->disk[i], id, config.serial, sizeof config.serial);
    return board_plug(vm, &nvme_type, id, &config, NULL, e);
}

static err_t add_disk(struct vm *vm, unsigned i, struct ahci_config *ahci, struct error *e)
{
    const struct vm_disk *disk = &vm->config->disk[i];
    char id[16];
    snprintf(id, sizeof id, "disk%u", i);
    err_t err = OK;
    if (disk->bus == VM_BUS_VIRTIO) {
        err = add_virtio(vm, i, id, e);
    } else if (disk->bus == VM_BUS_NVME) {
        err = add_nvme(vm, i, id, e);
    } else {
        struct ahci_drive_config *drive = &ahci->drive[ahci->drives++];
        *drive = (struct ahci_drive_config){.block = vm->board->disk[i], .cdrom = disk->cdrom};
        serial_of(disk, id, drive->serial, sizeof drive->serial);
    }
    if (!err)
        boot_from(vm, disk->bus, ahci->drives - 1);
    return err;
}

err_t board_open_disks(struct vm *vm, struct error *e)
{
    for (unsigned i = 0; i < vm->config->disks; i++) {
        const struct vm_disk *disk = &vm->config->disk[i];
        struct block **block = &vm->board->disk[i];
        err_t err = disk->path ? open_disk(disk, block, e) : OK;
        if (!err && *block)
            err = check_sectors(disk, *block, e);
        if (err)
            return error_in(e, "disk%u", i);
    }
    return OK;
}

err_t board_add_disks(struct vm *vm, struct error *e)
{
    struct ahci_config ahci = {.enter = enter};
    err_t err = OK;
    for (unsigned i = 0; !err && i < vm->config->disks; i++)
        err = add_disk(vm, i, &ahci, e);
    if (!err && ahci.drives)
        err = board_plug_at(vm, &ahci_type, "ahci", &ahci, PC_SLOT_LPC, AHCI_FUNCTION, NULL, e);
    return err;
}

void board_drain_disks(struct vm *vm)
{
    for (unsigned i = 0; i < ARRAY_LEN(vm->board->disk); i++)
        if (vm->board->disk[i])
            vm->board->disk[i]->type->drain(vm->board->disk[i]);
}

void board_close_disks(struct vm *vm)
{
    board_drain_disks(vm);
    for (unsigned i = 0; i < ARRAY_LEN(vm->board->disk); i++)
        block_close(vm->board->disk[i]);
}

static struct block *disk_of(struct vm *vm, unsigned disk)
{
    return disk < ARRAY_LEN(vm->board->disk) ? vm->board->disk[disk] : NULL;
}

bool vm_disk_set_limits(struct vm *vm, unsigned disk, const struct throttle_limits *limits)
{
    struct block *block = disk_of(vm, disk);
    if (block)
        block_throttle_set(block, limits);
    return block;
}

bool vm_disk_limits(struct vm *vm, unsigned disk, struct throttle_limits *out)
{
    struct block *block = disk_of(vm, disk);
    if (block)
        block_throttle_get(block, out);
    return block;
}

bool vm_disk_counters(struct vm *vm, unsigned disk, struct block_counters *out)
{
    struct block *block = disk_of(vm, disk);
    if (block)
        block_throttle_counters(block, out);
    return block;
}

const char *vm_disk_io(struct vm *vm, unsigned disk)
{
    const struct block *block = disk_of(vm, disk);
    return block ? block->io : "";
}
