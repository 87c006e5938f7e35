// The pc board's network cards. What they send and receive is the VM's owner's, by vm_hooks.
#include <stdio.h>

#include "device/net/e1000.h"
#include "device/virtio/net.h"
#include "machine/board/pc_impl.h"
#include "net/net.h"

static bool send(void *opaque, uint8_t *packet, size_t len)
{
    struct board_nic *nic = opaque;
    const struct vm_hooks *hooks = &nic->vm->hooks;
    if (hooks->nic_send && !hooks->nic_send(hooks->opaque, nic->number, packet, len))
        return false;
    nic->counters.sent_packets++;
    nic->counters.sent_bytes += len - NET_HEADER_BYTES;
    return true;
}

static void resume(void *opaque)
{
    const struct board_nic *nic = opaque;
    const struct vm_hooks *hooks = &nic->vm->hooks;
    if (hooks->nic_resume)
        hooks->nic_resume(hooks->opaque, nic->number);
}

static const struct nic_model *const models[VM_NIC_MODELS] = {
    [VM_NIC_VIRTIO] = &virtio_nic, [VM_NIC_E1000] = &e1000_nic};

// In the slot that the definition says, or in the next one.
static err_t plug(struct vm *vm, const struct vm_nic *wanted, struct board_nic *nic, const char *id,
                  const struct nic_config *config, unsigned slot, struct error *e)
{
    const struct device_type *type = nic->model->type;
    slot = slot ? slot : wanted->slot;
    return slot ? board_plug_at(vm, type, id, config, slot, 0, &nic->dev, e)
                : board_plug(vm, type, id, config, &nic->dev, e);
}

// Debian's iPXE, as a program of the BIOS and a driver of UEFI's. OVMF has one for virtio cards; a
// BIOS would offer to start from the network, which is left to those who ask for it.
static const char *usual_rom(const struct vm *vm, const struct vm_nic *wanted)
{
    bool wants = wanted->model == VM_NIC_E1000 && vm->board->firmware.kind == FIRMWARE_UEFI;
    return wants ? "/usr/lib/ipxe/qemu/efi-e1000.rom" : NULL;
}

static err_t check_rom(const char *path, const struct host_file *rom, struct error *e)
{
    if (rom->len >= 3 && rom->data[0] == 0x55 && rom->data[1] == 0xaa)
        return OK;
    return error_set(e, ERR_CORRUPT,
                     "'%s' is no expansion ROM: it does not begin with 55 aa; ipxe-qemu has some, "
                     "/usr/lib/ipxe/qemu/efi-*.rom",
                     path);
}

static err_t load_rom(struct vm *vm, const struct vm_nic *wanted, struct board_nic *nic,
                      struct error *e)
{
    const char *path = wanted->rom ? wanted->rom : usual_rom(vm, wanted);
    if (!path || (wanted->rom && !vm_nic_rom_file(wanted)))
        return OK;
    err_t err = host_file_read(path, NIC_ROM_MAX, &nic->rom, e);
    if (err == ERR_NOT_FOUND && !wanted->rom)
        return OK; // the guest can still drive the card
    return err ? err : check_rom(path, &nic->rom, e);
}

static err_t add_nic(struct vm *vm, unsigned number, unsigned slot, struct error *e)
{
    const struct vm_nic *wanted = &vm->config->nic[number];
    struct board_nic *nic = &vm->board->nic[number];
    nic->vm = vm;
    nic->model = models[wanted->model];
    nic->number = number;
    nic->counters = (struct vm_nic_counters){0};
    struct nic_config config = {.mtu = (uint16_t)wanted->mtu,
                                .pairs = (uint16_t)wanted->queues,
                                .rom = nic->rom.data,
                                .rom_len = (uint32_t)nic->rom.len,
                                .send = send,
                                .resume = resume,
                                .opaque = nic};
    char id[16];
    snprintf(id, sizeof id, "nic%u", number);
    vm_nic_mac(vm->config, number, config.mac);
    err_t err = plug(vm, wanted, nic, id, &config, slot, e);
    if (!err)
        nic->model->set_link(nic->dev, false);
    return err;
}

// The place of one that was removed stays empty, so that those behind it keep theirs.
err_t board_add_nics(struct vm *vm, struct error *e)
{
    err_t err = OK;
    for (unsigned i = 0; !err && i < vm->config->nics; i++) {
        const struct vm_nic *wanted = &vm->config->nic[i];
        if (wanted->absent) {
            vm->board->next_slot += !wanted->slot;
            continue;
        }
        err = load_rom(vm, wanted, &vm->board->nic[i], e);
        if (!err)
            err = add_nic(vm, i, 0, e);
    }
    return err;
}

void board_free_nics(struct vm *vm)
{
    for (unsigned i = 0; i < VM_NICS_MAX; i++)
        host_file_release(&vm->board->nic[i].rom);
}

struct vm_nic_counters *board_nic_counters(struct vm *vm, unsigned nic)
{
    return &vm->board->nic[nic].counters;
}

err_t board_add_nic(struct vm *vm, unsigned number, unsigned slot, struct error *e)
{
    struct board_nic *nic = &vm->board->nic[number];
    if (vm_nic_rom_file(&vm->config->nic[number]))
        return error_set(e, ERR_UNSUPPORTED,
                         "rom: firmware looks for ROMs at the start only; leave it out");
    host_file_release(&nic->rom); // of a card that was here before
    err_t err = add_nic(vm, number, slot, e);
    if (err) {
        if (nic->dev)
            devices_remove(vm, nic->dev);
        nic->dev = NULL;
        return err;
    }
    device_lock(nic->dev);
    nic->dev->type->reset(nic->dev);
    device_unlock(nic->dev);
    return OK;
}

struct device *board_nic(struct vm *vm, unsigned nic, const struct nic_model **model)
{
    *model = vm->board->nic[nic].model;
    return vm->board->nic[nic].dev;
}
