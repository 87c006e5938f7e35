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

static err_t add_nic(struct vm *vm, unsigned number, unsigned slot, struct error *e)
{
    const struct vm_nic *wanted = &vm->config->nic[number];
    struct board_nic *nic = &vm->board->nic[number];
    *nic = (struct board_nic){.vm = vm, .model = models[wanted->model], .number = number};
    struct nic_config config = {
        .pairs = (uint16_t)wanted->queues, .send = send, .resume = resume, .opaque = nic};
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
        if (!vm->config->nic[i].absent)
            err = add_nic(vm, i, 0, e);
        else if (!vm->config->nic[i].slot)
            vm->board->next_slot++;
    }
    return err;
}

struct vm_nic_counters *board_nic_counters(struct vm *vm, unsigned nic)
{
    return &vm->board->nic[nic].counters;
}

err_t board_add_nic(struct vm *vm, unsigned number, unsigned slot, struct error *e)
{
    struct board_nic *nic = &vm->board->nic[number];
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
