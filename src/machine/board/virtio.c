// The pc board's virtio devices that are no disks: a console where one is asked for, and always an
// entropy source.
#include "device/virtio/console.h"
#include "device/virtio/rng.h"
#include "host/random.h"
#include "machine/board/pc_impl.h"

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
    if (vm->config->console && vm->config->console[0]) {
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
