// Interrupt controllers and the PIT change hands: while the VM runs an engine may keep them, while
// it is paused the models have them, so that reset, save, load and pauses are the same for all
// engines. Not handed over: where the PIT's counts stand (they begin anew).
#include "device/irq/ioapic.h"
#include "device/irq/lapic.h"
#include "device/irq/pic.h"
#include "device/timer/pit.h"
#include "machine/vm_impl.h"

static err_t give_lapics(struct vm *vm, struct error *e)
{
    for (unsigned i = 0; i < vm->vcpus; i++) {
        struct chip_lapic lapic;
        lapic_export(vm->vcpu[i].lapic, &lapic);
        if (vm->irq.chips->set_lapic(vm->vcpu[i].engine, &lapic, e) != OK)
            return error_in(e, "vCPU %u", i);
    }
    return OK;
}

static err_t give_board(struct irq *irq, struct chip_board *board, struct error *e)
{
    pic_export(irq->router.pic, board->pic);
    ioapic_export(irq->router.ioapic, &board->ioapic);
    board->pit_muted = irq->legacy >> IRQ_LEGACY_ON & 1;
    return irq->chips->set_board(irq->engine_vm, board, e);
}

err_t chips_give(struct vm *vm, struct error *e)
{
    struct irq *irq = &vm->irq;
    struct chip_board board = {0};
    if (irq->kept == ENGINE_CHIPS_NONE || irq->live)
        return OK;
    if (irq->kept == ENGINE_CHIPS_ALL) {
        device_lock(vm->pit);
        pit_export(vm->pit, &board.pit);
        device_unlock(vm->pit);
    }
    irq_lock(irq);
    err_t err = give_lapics(vm, e);
    if (!err && irq->kept == ENGINE_CHIPS_ALL)
        err = give_board(irq, &board, e);
    irq->live = !err;
    if (!err && irq->kept == ENGINE_CHIPS_LAPIC) {
        ioapic_announce(irq->router.ioapic);
        irq->intr(irq->opaque, 0, pic_intr(irq->router.pic));
    }
    irq_unlock(irq);
    return err;
}

static err_t take_lapics(struct vm *vm, struct error *e)
{
    for (unsigned i = 0; i < vm->vcpus; i++) {
        struct chip_lapic lapic;
        if (vm->irq.chips->get_lapic(vm->vcpu[i].engine, &lapic, e) != OK)
            return error_in(e, "vCPU %u", i);
        lapic_import(vm->vcpu[i].lapic, &lapic);
    }
    return OK;
}

static void take_board(struct irq *irq, struct chip_board *board)
{
    uint16_t lines = irq_pic_lines(irq);
    board->pic[0].lines = (uint8_t)lines;
    board->pic[1].lines = (uint8_t)(lines >> 8);
    board->ioapic.lines = irq_ioapic_pins(irq);
    pic_import(irq->router.pic, board->pic);
    ioapic_import(irq->router.ioapic, &board->ioapic);
}

err_t chips_take(struct vm *vm, struct error *e)
{
    struct irq *irq = &vm->irq;
    struct chip_board board;
    err_t err = OK;
    bool all = irq->kept == ENGINE_CHIPS_ALL;
    if (!irq->live)
        return OK;
    irq_lock(irq);
    if (all)
        err = irq->chips->get_board(irq->engine_vm, &board, e);
    if (!err)
        err = take_lapics(vm, e);
    irq->live = false;
    if (!err && all)
        take_board(irq, &board);
    irq_unlock(irq);
    if (err || !all)
        return err;
    device_lock(vm->pit);
    pit_import(vm->pit, &board.pit);
    device_unlock(vm->pit);
    return OK;
}
