// The pc board's network cards. What they send and receive is the VM's owner's, by vm_hooks.
#include <stdio.h>

#include "device/virtio/net.h"
#include "machine/board/pc_impl.h"

static bool send(void *opaque, uint8_t *packet, size_t len)
{
    const struct board_nic *nic = opaque;
    const struct vm_hooks *hooks = &nic->vm->hooks;
    return !hooks->nic_send || hooks->nic_send(hooks->opaque, nic->number, packet, len);
}

static void resume(void *opaque)
{
    const struct board_nic *nic = opaque;
    const struct vm_hooks *hooks = &nic->vm->hooks;
    if (hooks->nic_resume)
        hooks->nic_resume(hooks->opaque, nic->number);
}

err_t board_add_nics(struct vm *vm, struct error *e)
{
    err_t err = OK;
    for (unsigned i = 0; !err && i < vm->config->nics; i++) {
        struct board_nic *nic = &vm->board->nic[i];
        *nic = (struct board_nic){.vm = vm, .number = i};
        struct virtio_net_config config = {.pairs = (uint16_t)vm->config->nic[i].queues,
                                           .send = send,
                                           .resume = resume,
                                           .opaque = nic};
        char id[16];
        snprintf(id, sizeof id, "nic%u", i);
        vm_nic_mac(vm->config, i, config.mac);
        err = board_plug(vm, &virtio_net_type, id, &config, &nic->dev, e);
        if (!err)
            virtio_net_set_link(nic->dev, false);
    }
    return err;
}

struct device *board_nic(struct vm *vm, unsigned nic)
{
    return nic < ARRAY_LEN(vm->board->nic) ? vm->board->nic[nic].dev : NULL;
}
