// Cards that come and go while the machine runs. The guest is told through ACPI and lets go of a
// card before it is taken out; one that it does not let go of goes at the next reset.
#include "device/pci/hotplug.h"

#include "device/timer/pm.h"
#include "machine/board/pc_impl.h"

static bool can_change(const struct vm *vm, unsigned slot)
{
    const struct pci_function *f = vm->board->pci.functions[PCI_DEVFN(slot, 0)];
    for (unsigned i = 0; f && i < VM_NICS_MAX; i++) {
        if (vm->board->nic[i].dev == &f->dev)
            return true;
    }
    return !f;
}

err_t board_add_hotplug(struct vm *vm, struct error *e)
{
    struct board *board = vm->board;
    for (unsigned slot = PC_SLOT_HOST + 1; slot < PC_SLOT_LPC; slot++)
        board->hotplug_slots |= can_change(vm, slot) ? 1u << slot : 0;
    return devices_add(vm, &pci_hotplug_type, "pci-hotplug", NULL, NULL, &board->hotplug, e);
}

// From the top, so that the slots of cards that a definition numbers by their order stay free.
unsigned board_free_slot(const struct vm *vm)
{
    const struct board *board = vm->board;
    for (unsigned slot = PC_SLOT_LPC - 1; slot > PC_SLOT_HOST; slot--) {
        if (board->hotplug_slots >> slot & 1 && !board->pci.functions[PCI_DEVFN(slot, 0)])
            return slot;
    }
    return 0;
}

bool board_tell_hotplug(struct vm *vm, unsigned slot, bool arrived)
{
    struct board *board = vm->board;
    if (!arrived)
        board->leaving |= 1u << slot;
    device_lock(board->hotplug);
    pci_hotplug_tell(board->hotplug, slot, arrived);
    device_unlock(board->hotplug);
    device_lock(board->pm);
    bool heard = pm_gpe(board->pm, PC_GPE_HOTPLUG);
    device_unlock(board->pm);
    return heard;
}

// A guest may eject without being asked.
static void eject(struct vm *vm, uint32_t slots)
{
    struct board *board = vm->board;
    board->leaving &= ~slots;
    for (unsigned i = 0; i < VM_NICS_MAX; i++) {
        struct board_nic *nic = &board->nic[i];
        if (!nic->dev || !(slots >> pci_function_of(nic->dev)->devfn / 8 & 1))
            continue;
        if (vm->hooks.nic_removed)
            vm->hooks.nic_removed(vm->hooks.opaque, i);
        pci_bus_unplug(&board->pci, pci_function_of(nic->dev));
        devices_remove(vm, nic->dev);
        nic->dev = NULL;
    }
}

void board_eject(struct vm *vm, bool all)
{
    device_lock(vm->board->hotplug);
    uint32_t slots = pci_hotplug_take(vm->board->hotplug);
    device_unlock(vm->board->hotplug);
    eject(vm, (slots & vm->board->hotplug_slots) | (all ? vm->board->leaving : 0));
}
