// The pc board's virtio devices: a disk for each of the definition's, a console where one is asked
// for, and always an entropy source.
#include <stdio.h>

#include "device/storage/virtio_blk.h"
#include "device/virtio/console.h"
#include "device/virtio/rng.h"
#include "host/random.h"
#include "machine/board/pc_impl.h"

static void enter(struct device *dev, void (*fn)(struct device *dev, void *argument),
                  void *argument)
{
    device_lock(dev);
    fn(dev, argument);
    device_unlock(dev);
}

static err_t add_disk(struct vm *vm, unsigned i, struct error *e)
{
    const struct vm_disk *disk = &vm->config->disk[i];
    struct block_options options = {.read_only = disk->read_only};
    char id[16];
    snprintf(id, sizeof id, "disk%u", i);
    err_t err = block_open(disk->path, &options, &vm->board->disk[i], e);
    if (err)
        return error_in(e, "%s", id);
    struct virtio_blk_config config = {.block = vm->board->disk[i], .enter = enter};
    snprintf(config.serial, sizeof config.serial, "%s", id);
    return board_plug(vm, &virtio_blk_type, id, &config, NULL, e);
}

static size_t console_write(void *opaque, unsigned port, const uint8_t *data, size_t len)
{
    struct vm *vm = opaque;
    return vm->hooks.console_out ? vm->hooks.console_out(vm->hooks.opaque, data, len) : len;
}

static void console_resume(void *opaque, unsigned port)
{
    struct vm *vm = opaque;
    if (vm->hooks.console_room)
        vm->hooks.console_room(vm->hooks.opaque);
}

static void entropy(void *opaque, void *data, size_t len)
{
    host_random(data, len);
}

err_t board_add_virtio(struct vm *vm, struct error *e)
{
    err_t err = OK;
    for (unsigned i = 0; !err && i < vm->config->disks; i++)
        err = add_disk(vm, i, e);
    if (!err && vm->config->console && vm->config->console[0]) {
        struct virtio_console_config console = {
            .write = console_write, .resume = console_resume, .opaque = vm};
        err = board_plug(vm, &virtio_console_type, "console", &console, &vm->board->console, e);
    }
    if (!err) {
        struct virtio_rng_config rng = {.fill = entropy};
        err = board_plug(vm, &virtio_rng_type, "rng", &rng, NULL, e);
    }
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
        if (vm->board->disk[i])
            vm->board->disk[i]->type->close(vm->board->disk[i]);
}
