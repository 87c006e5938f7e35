// The pc board's virtio devices that are no disks: a console where one is asked for, and always an
// entropy source and a memory balloon, and sockets unless they are declined.
#include "device/virtio/balloon.h"
#include "device/virtio/console.h"
#include "device/virtio/rng.h"
#include "device/virtio/vsock.h"
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

// What the guest gave up goes back to the host, and what was translated of it goes, too. A range
// outside RAM, or over the end of it, is nobody's.
static void give_back(void *opaque, gpa_t at, uint64_t len)
{
    struct vm *vm = opaque;
    memory_discard(&vm->memory, at, len);
}

// Where nobody has ends of connections for the guest.
static bool refuse_request(void *opaque, unsigned connection, enum vsock_type type,
                           uint32_t guest_port, uint32_t host_port)
{
    return false;
}

static const struct vsock_host no_host = {.request = refuse_request};

static err_t add_vsock(struct vm *vm, struct error *e)
{
    const struct virtio_vsock_config vsock = {.host = vm->hooks.vsock ? vm->hooks.vsock : &no_host,
                                              .opaque = vm->hooks.opaque};
    return vm->config->no_vsock
               ? OK
               : board_plug(vm, &virtio_vsock_type, "vsock", &vsock, &vm->board->vsock, e);
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
    if (!err) {
        struct virtio_balloon_config balloon = {
            .pages = vm->config->memory_bytes >> PAGE_SHIFT, .discard = give_back, .opaque = vm};
        err = board_plug(vm, &virtio_balloon_type, "balloon", &balloon, &vm->board->balloon, e);
    }
    return err ? err : add_vsock(vm, e);
}
